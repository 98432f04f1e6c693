"""What a client's environment must say so that it speaks to a proxy. Pure.

Theory of operation
-------------------
One model behind one port: every name that the client may ask for is that model, its own credential would
only be told to somebody whom it does not concern, and so it is taken away; what could lead the client past
its base URL goes as well. Where the caller's own request may be passed on (the front door, `anthropic` as
provider or as fallback) the credential and the models' names are what is passed on, and stay as they are.
Where nothing of a front goes to Anthropic no login is needed: who has no credential gets a word in its place.

Claude Code takes a name that it does not know for a model with a window of a million tokens: without
CLAUDE_CODE_MAX_CONTEXT_TOKENS it compacts too late. It has a name for each tier, and without them asks for
its own models by their own names. Its default is its best tier with `[1m]` behind the name, and with that the
window which we say counts for nothing: CLAUDE_CODE_DISABLE_1M_CONTEXT takes it away. An HTTP proxy of the
environment would be asked for 127.0.0.1 as well.

Through the front door it says who asks: with CLAUDE_CODE_GATEWAY_HINT_HEADERS each request carries its class and
the names of built-in sub-agents. opencode reads no base URL, but a whole configuration from one variable, and codex
one from its command line (`codex`).

A program that is none of these may use either company's library. Those of OpenAI's are led to the proxy as well,
unless the environment says where they go already: who has a key of OpenAI's may use it for something else than the
model that is meant, and would not notice that somebody else answers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

TOKEN = "unused"
"""Some clients want one; a proxy looks at it only where it is one of `proxyctl tokens`."""
OWN_TOKEN = "MODELPROXY_TOKEN"
"""Holds the access token of whoever runs our commands."""
GUARD = "MODELPROXY_RUN"
"""Says inside `proxyctl run` which proxy is used: a second layer would undo the first."""
CLIENTS = ("claude", "anthropic", "aider", "opencode", "codex", "openai")
SHELLS = ("sh", "fish", "json")

TIERS = ("FABLE", "OPUS", "SONNET", "HAIKU")
_CREDENTIALS = (
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "ANTHROPIC_CUSTOM_HEADERS",
)
_OWN = ("ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN")
"""Those of them that can be sent by who is not Claude Code, in its order."""
_OF_PROXIES = "mp-"
"""How an access token begins; it is of no use to Anthropic."""
_LOGIN_BETA = "oauth-2025-04-20"
"""Without it a login's token is no credential for messages."""
_NAMES = ("ANTHROPIC_MODEL", "ANTHROPIC_DEFAULT_MODEL", "ANTHROPIC_SMALL_FAST_MODEL")
_WAYS_PAST = (
    "ANTHROPIC_UNIX_SOCKET",
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_CODE_USE_VERTEX",
    "CLAUDE_CODE_USE_FOUNDRY",
    "CLAUDE_CODE_USE_ANTHROPIC_AWS",
    "CLAUDE_CODE_USE_ANTHROPIC_GOOGLE_CLOUD",
    "CLAUDE_CODE_USE_MANTLE",
)
"""With one of these a client does not go to its base URL."""
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_GUESSES = {"claude": "Claude Code takes it for a million", "codex": "codex takes it for 272000"}
_USUAL_OUTPUT = 32_000
"""What Claude Code asks for when it does not know the model."""
_LARGE_WINDOW = 1_000_000
"""What it takes for the window of a model that it does not know."""
_AIDER_WARNS = "AIDER_SHOW_MODEL_WARNINGS"
"""Of a model that is not in its list it would ask, at each start, whether to open a page in the browser."""
_OPENCODE = "OPENCODE_CONFIG_CONTENT"
"""Configuration that opencode puts before that of its files."""
NAME = "modelproxy"
"""Under which clients with a configuration know us."""
_OPENAI_KEY = "OPENAI_API_KEY"
_OPENAI_OWN = (_OPENAI_KEY, "OPENAI_BASE_URL", "OPENAI_API_BASE")
_ANTHROPICS = "sk-ant-"
"""Begins a key that no library of OpenAI's is to show to OpenAI."""
_UNLED = ("codex", "opencode")
"""Clients that read no base URL; `opencode-ai` and `@openai/codex` are packages of them."""
_OPENAI_WAYS_PAST = (
    "OPENAI_ADMIN_KEY",
    "OPENAI_API_TYPE",
    "OPENAI_API_VERSION",
    "OPENAI_CUSTOM_HEADERS",
    "OPENAI_ORGANIZATION",
    "OPENAI_ORG_ID",
    "OPENAI_PROJECT_ID",
)
"""What belongs to an account of OpenAI's, or leads a library elsewhere."""


@attrs.frozen
class Goal:
    """A proxy that is up, as a client needs to know it."""

    url: str
    name: str
    model: str
    """What it serves, as a client may call it."""
    passes_on: bool = False
    """The caller's own request may go to Anthropic: names and credentials are needed for that."""
    is_front: bool = False
    stays_here: bool = False
    """A front of which nothing goes to Anthropic: nobody needs a login for it."""
    window: int | None = None
    output: int | None = None
    agent: str | None = None
    token_required: bool = False
    token_refused: bool = False
    """The one that stands in OWN_TOKEN."""

    @property
    def base_url(self) -> str:
        return self.url if self.agent is None else f"{self.url}/a/{_segment(self.agent)}"


@attrs.frozen
class Changes:
    set: dict[str, str]
    unset: tuple[str, ...] = ()

    def applied(self, environment: Mapping[str, str]) -> dict[str, str]:
        kept = {name: value for name, value in environment.items() if name not in self.unset}
        return kept | self.set


def changes(goal: Goal, client: str, present: Mapping[str, str]) -> Changes:
    """What is to be different in the environment `present`."""
    if client == "codex":
        return Changes(_around_proxies(present))
    if client == "openai":
        return Changes({**_of_openai(goal, present), **_around_proxies(present)}, _OPENAI_WAYS_PAST)
    found = {"ANTHROPIC_BASE_URL": goal.base_url, **_around_proxies(present)}
    if client == "aider":
        found |= {"ANTHROPIC_API_BASE": goal.base_url, "AIDER_MODEL": f"anthropic/{goal.model}"}
        if _AIDER_WARNS not in present:
            found[_AIDER_WARNS] = "false"
    if client == "opencode":
        found[_OPENCODE] = _merged(present.get(_OPENCODE), _for_opencode(goal, present))
    if client == "anthropic" and not goes_to_openai(present):
        found |= _of_openai(goal, present)
    found |= _of_claude(goal)
    token = present.get(OWN_TOKEN)
    if goal.passes_on:
        if goal.stays_here and not any(present.get(name) for name in _OWN):
            found |= _said(TOKEN, client)
        return Changes(found | _beside(token, present))
    found |= _said(token or TOKEN, client)
    gone = (*_CREDENTIALS, *_NAMES, *_WAYS_PAST)
    return Changes(found, tuple(name for name in gone if name not in found))


def _said(token: str, client: str) -> dict[str, str]:
    # Claude Code complains when it finds both; other programs want the one or the other.
    return {"ANTHROPIC_AUTH_TOKEN": token} | ({} if client == "claude" else {"ANTHROPIC_API_KEY": token})


def _of_openai(goal: Goal, present: Mapping[str, str]) -> dict[str, str]:
    base = f"{goal.base_url}/v1"
    own = present.get(_OPENAI_KEY, "") if goal.passes_on else ""
    key = present.get(OWN_TOKEN) or (own if own.startswith(_ANTHROPICS) else TOKEN)
    return {"OPENAI_BASE_URL": base, "OPENAI_API_BASE": base, _OPENAI_KEY: key}


def goes_to_openai(present: Mapping[str, str]) -> str | None:
    """The variable that says where a library of OpenAI's goes already."""
    said = ((name, present.get(name, "")) for name in _OPENAI_OWN)
    return next((name for name, value in said if value and not value.startswith(_ANTHROPICS)), None)


def sent_along(present: Mapping[str, str]) -> dict[str, str]:
    """The header by which a proxy knows who runs one of our own commands."""
    token = present.get(OWN_TOKEN)
    return {"x-proxy-token": token} if token else {}


def _beside(token: str | None, present: Mapping[str, str]) -> dict[str, str]:
    """The access token as a header of its own: the caller's credential has the usual place."""
    said = present.get("ANTHROPIC_CUSTOM_HEADERS", "")
    if not token or "x-proxy-token:" in said.lower():
        return {}
    return {"ANTHROPIC_CUSTOM_HEADERS": f"{said}\nx-proxy-token: {token}".strip()}


def _of_claude(goal: Goal) -> dict[str, str]:
    found = _sizes(goal)
    if goal.is_front:
        hints = ("CLAUDE_CODE_ENABLE_GATEWAY_MODEL_DISCOVERY", "CLAUDE_CODE_GATEWAY_HINT_HEADERS")
        return found | dict.fromkeys(hints, "1")
    found["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"] = "1"
    if not goal.passes_on or goal.model.startswith("claude"):
        found |= {f"ANTHROPIC_DEFAULT_{tier}_MODEL": goal.model for tier in TIERS}
        # Without the second the first does not reach every built-in agent.
        found |= {"CLAUDE_CODE_SUBAGENT_MODEL": goal.model, "CLAUDE_CODE_SUBAGENT_MODEL_FORCE": "1"}
    return found


def _sizes(goal: Goal) -> dict[str, str]:
    found = {}
    if goal.window is not None:
        found["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] = str(goal.window)
        if goal.window < _LARGE_WINDOW:
            found["CLAUDE_CODE_DISABLE_1M_CONTEXT"] = "1"
    if goal.output is not None and goal.output < _USUAL_OUTPUT:
        found["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] = str(goal.output)
    return found


def _around_proxies(present: Mapping[str, str]) -> dict[str, str]:
    if not any(present.get(name) or present.get(name.lower()) for name in _PROXIES):
        return {}
    found = {}
    for name in ("NO_PROXY", "no_proxy"):  # which of the two is read depends on the library
        said = [one.strip() for one in present.get(name, "").split(",") if one.strip()]
        if "*" not in said:
            found[name] = ",".join([*said, *(one for one in ("127.0.0.1", "localhost") if one not in said)])
    return found


def warnings(goal: Goal, present: Mapping[str, str]) -> list[str]:
    """What of `present` makes a difference that the caller may not expect."""
    found = []
    if goal.token_required and not present.get(OWN_TOKEN):
        found.append(f"{goal.name} serves nobody without an access token, and {OWN_TOKEN} is not set")
    elif goal.token_refused:
        found.append(
            f"{goal.name} does not know the access token in {OWN_TOKEN}, and serves nobody without one"
        )
    if not goal.passes_on:
        return found
    found += [
        f"{name} is set, which leads Claude Code past the proxy" for name in _WAYS_PAST if present.get(name)
    ]
    before = present.get("ANTHROPIC_BASE_URL")
    if before and not before.startswith(goal.url):
        found.append(
            f"ANTHROPIC_BASE_URL was {before}; what is meant for Anthropic goes where providers.anthropic.base_url "
            "of the configuration says"
        )
    return found


def line_of_sizes(goal: Goal) -> str:
    """What `up` prints beside the address, for Claude Code; empty where nobody knows the model's window."""
    said = [f"{name}={value}" for name, value in _sizes(goal).items()]
    return " ".join(("export", *said)) if said else ""


def missing(goal: Goal, client: str) -> list[str]:
    """What nobody has told about a provider that is well, and a client would guess."""
    guess = _GUESSES.get(client)
    if guess is None or goal.window is not None or goal.passes_on or goal.model.startswith("echo/"):
        return []
    return [
        f"the window of {goal.model} is not known, and {guess} tokens: "
        f"proxyctl config set 'proxies.\"{goal.name}\".context_window' TOKENS"
    ]


def client_of(program: str) -> str:
    """Whom a command starts, by the name of its file."""
    name = program.rpartition("/")[2]
    return name if name in ("claude", "aider", "opencode", "codex") else "anthropic"


def behind(command: Sequence[str]) -> str | None:
    """A client that variables cannot lead, where a script, a shell or `npx` seems to start it."""
    words = " ".join(command[1:]).split()
    names = [word.rpartition("/")[2].partition("@")[0].removesuffix("-ai") for word in words]
    return next((name for name in _UNLED if name in names), None)


def goal_of(
    view: Mapping[str, Any], kind: str, sizes: tuple[int | None, int | None], agent: str | None
) -> Goal:
    """A row of `ps` as a goal. `kind`: of its provider."""
    is_front, is_anthropic = kind == "front", kind == "anthropic"
    model = str(view["model"])
    return Goal(
        url=str(view["url"]),
        name=str(view["name"]),
        model=model.partition("/")[2] if is_anthropic else model,
        passes_on=is_front or is_anthropic or "anthropic" in view.get("fallback", ()),
        is_front=is_front,
        stays_here=is_front and bool(view.get("otherwise")),
        window=sizes[0],
        output=sizes[1],
        agent=agent,
        token_required=bool(view.get("token_required")),
    )


# --- for a request of our own -------------------------------------------------------------------------


def credential(view: Mapping[str, Any], present: Mapping[str, str]) -> dict[str, str]:
    """The caller's own as headers, to a proxy that may pass the request on to Anthropic; to any other: none.

    Raises ValueError for one that no header can hold.
    """
    if not _leads_home(view) and "anthropic" not in view.get("fallback", ()):
        return {}
    for name in _OWN:
        value = present.get(name, "").strip()
        if not _is_credential(value):
            continue
        if not value.isascii() or not value.isprintable() or " " in value:
            raise ValueError(f"{name} holds what cannot be a credential: a space or another such character")
        return _header(name, value)
    return {}


def credential_of(present: Mapping[str, str]) -> str | None:
    """The variable with a credential of the caller's that Anthropic takes without more being said."""
    return next((name for name in _OWN[:2] if _is_credential(present.get(name, ""))), None)


def _is_credential(value: str) -> bool:
    value = value.strip()
    return bool(value) and value != TOKEN and not value.startswith(_OF_PROXIES)


def _leads_home(view: Mapping[str, Any]) -> bool:
    """By its name: another server that speaks Anthropic's language gets nobody's credential."""
    return view["provider"] in ("anthropic", "front")


def _header(name: str, value: str) -> dict[str, str]:
    if name == "ANTHROPIC_API_KEY":
        return {"x-api-key": value}
    login = {"anthropic-beta": _LOGIN_BETA} if name == "CLAUDE_CODE_OAUTH_TOKEN" else {}
    return {"authorization": f"Bearer {value}", **login}


def to_set(view: Mapping[str, Any], status: int, words: str, present: Mapping[str, str]) -> str:
    """The hint for a request of ours that was refused because nobody could know whose it was.

    Empty for any other refusal: one by the proxy itself names a command already.
    """
    if status != 401 or "proxyctl " in words or not _leads_home(view) or credential(view, present):
        return ""
    said = f"this shell has no credential to pass on: set {_OWN[1]}, {_OWN[0]} or {_OWN[2]}"
    # A front never uses a key of ours.
    return said if view["provider"] == "front" else f"{said}, or say proxyctl keys set anthropic"


# --- as a shell reads it ------------------------------------------------------------------------------


def script(found: Changes, shell: str) -> str:
    if shell == "json":
        return json.dumps({"set": found.set, "unset": list(found.unset)})
    if shell == "fish":
        gone = [f"set -e {name}" for name in found.unset]
        return "\n".join([*gone, *(f"set -gx {name} {_fish(value)}" for name, value in found.set.items())])
    gone = [f"unset {' '.join(found.unset)}"] if found.unset else []
    return "\n".join([*gone, *(f"export {name}={_sh(value)}" for name, value in found.set.items())])


def opencode(goal: Goal, present: Mapping[str, str]) -> str:
    """What goes into opencode.json. No secret does: such files are shared."""
    return json.dumps(_for_opencode(goal, present), indent=2)


def _for_opencode(goal: Goal, present: Mapping[str, str]) -> dict[str, Any]:
    base = f"{goal.base_url}/v1"
    token = f"{{env:{OWN_TOKEN}}}" if present.get(OWN_TOKEN) or goal.token_required else None
    if goal.passes_on:  # its own provider with its own credential and its own models, by another way
        headers = {} if token is None else {"headers": {"x-proxy-token": token}}
        return {"provider": {"anthropic": {"options": {"baseURL": base, **headers}}}}
    limit = {"limit": {"context": goal.window, "output": goal.output or 8192}} if goal.window else {}
    provider = {
        "npm": "@ai-sdk/anthropic",
        "options": {"baseURL": base, "apiKey": token or TOKEN},
        "models": {goal.model: {"name": goal.model, **limit}},
    }
    model = f"{NAME}/{goal.model}"
    return {"provider": {NAME: provider}, "model": model, "small_model": model}


def _merged(said: str | None, ours: dict[str, Any]) -> str:
    """The same on top of what the caller has said there already."""
    try:
        theirs = json.loads(said or "{}")
    except ValueError:
        theirs = {}
    return json.dumps(_over(theirs, ours) if isinstance(theirs, dict) else ours)


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    found = dict(below)
    for key, value in above.items():
        old = found.get(key)
        found[key] = _over(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return found


_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~:/,@%+=")


def _sh(value: str) -> str:
    return value if value and set(value) <= _PLAIN else "'" + value.replace("'", "'\\''") + "'"


def _fish(value: str) -> str:
    if value and set(value) <= _PLAIN:
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _segment(text: str) -> str:
    safe = _PLAIN - set("/:,@%+=")
    return "".join(chr(byte) if chr(byte) in safe else f"%{byte:02X}" for byte in text.encode())


__all__ = [
    "CLIENTS",
    "GUARD",
    "OWN_TOKEN",
    "SHELLS",
    "TOKEN",
    "Changes",
    "Goal",
    "behind",
    "changes",
    "client_of",
    "credential",
    "goal_of",
    "missing",
    "opencode",
    "script",
    "sent_along",
    "to_set",
    "warnings",
]
