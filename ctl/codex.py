"""What codex must be told so that it speaks to a proxy. Pure.

It reads no base URL, but its configuration, of which every part may be said on its command line (`-c KEY=VALUE`) on
top of its user's file. `run` says it there, `env` prints it for that file. A `-m` of the user's own goes before it.
It takes a model that it does not know for one of 272000 tokens: without the window it compacts too late.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .environment import NAME, OWN_TOKEN, Goal, credential_of

Config = dict[str, Any]


def config(goal: Goal, present: Mapping[str, str]) -> Config:
    """The part of its configuration that leads it to a proxy. No secret stands in it: variables are named."""
    provider: Config = {"name": NAME, "base_url": f"{goal.base_url}/v1", "wire_api": "responses"}
    token = OWN_TOKEN if present.get(OWN_TOKEN) or goal.token_required else None
    own = credential_of(present) if goal.passes_on else None
    if own is not None:  # it has the usual place, and the token one beside it
        provider["env_key"] = own
        provider |= {} if token is None else {"env_http_headers": {"x-proxy-token": token}}
    elif token is not None:
        provider["env_key"] = token
    found: Config = {} if goal.is_front else {"model": goal.model}
    found["model_provider"] = NAME
    if goal.window is not None:
        found["model_context_window"] = goal.window
    return found | {"model_providers": {NAME: provider}}


def flags(found: Config) -> list[str]:
    """The same as its command line takes it."""
    plain = {name: value for name, value in found.items() if not isinstance(value, dict)}
    nested = {
        f"{table}.{name}": value
        for table, entries in found.items()
        if isinstance(entries, dict)
        for name, value in entries.items()
    }
    return [word for name, value in (plain | nested).items() for word in ("-c", f"{name}={_toml(value)}")]


def toml(found: Config) -> str:
    """The same as lines of config.toml."""
    lines = [f"{name} = {_toml(value)}" for name, value in found.items() if not isinstance(value, dict)]
    for table, entries in found.items():
        for name, entry in entries.items() if isinstance(entries, dict) else ():
            lines += ["", f"[{table}.{name}]", *(f"{key} = {_toml(value)}" for key, value in entry.items())]
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_toml(one)}" for name, one in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)  # of strings and numbers both say the same


def is_served(goal: Goal, command: Sequence[str]) -> bool:
    """Not behind a front that leads to Anthropic what no rule takes: what it asks for of its own is OpenAI's.

    Unless its user has said which model it is to ask for.
    """
    return not goal.is_front or goal.stays_here or any(map(_says_model, command))


def _says_model(word: str) -> bool:
    return word.startswith(("-m", "--model", "model="))
