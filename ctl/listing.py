"""What the providers list: asked at the same time and with little patience. Who does not answer costs a sentence."""

from __future__ import annotations

import http.client
import threading
import time
from typing import Any

import attrs

from modelproxy.supervisor.config import Provider
from modelproxy.supervisor.keys import KeyUnavailableError, fetch, stored
from modelproxy.supervisor.paths import Paths
from modelproxy.worker.model_ids import REMOTE

from . import far
from .config_view import configured, provider_table
from .settings import Settings


def offered(paths: Paths, found: Settings, patience_s: float) -> tuple[list[dict[str, Any]], list[str]]:
    """What those list that can be asked at no cost, for a name that nobody has configured.

    A key that a command gives may cost its user a password or a touch: too much for what may be a slip.
    """
    table = provider_table(found)
    asked = {name: table[name] for name in worth_asking(paths, found, table)}
    dear = [name for name, one in asked.items() if _only_by_command(one)]
    cheap = {name: one for name, one in asked.items() if name not in dear}
    rows, silent = ask(paths, cheap, patience_s, is_hurried=True)
    return rows, [*silent, *(f"{name} was not asked: its key comes from a command" for name in dear)]


def _only_by_command(one: Provider) -> bool:
    try:
        return one.key.command is not None and fetch(attrs.evolve(one.key, command=None)) is None
    except KeyUnavailableError:
        return False


def ask(
    paths: Paths, asked: dict[str, Provider], patience_s: float, *, is_hurried: bool = False
) -> tuple[list[dict[str, Any]], list[str]]:
    """All at the same time; who has no list for us is told in a sentence.

    The patience is for each silence; hurried, for all that a provider has to say.
    """
    said: dict[str, list[dict[str, Any]] | Exception] = {}

    def look(name: str) -> None:
        try:
            said[name] = _offers(name, asked[name], paths, patience_s)
        except (OSError, ValueError, http.client.HTTPException, KeyUnavailableError) as error:
            said[name] = error

    threads = {name: threading.Thread(target=look, args=(name,), daemon=True) for name in asked}
    for thread in threads.values():
        thread.start()
    deadline = time.monotonic() + patience_s
    for thread in threads.values():
        thread.join(max(0.0, deadline - time.monotonic()) if is_hurried else None)
    answers = {name: said.get(name, TimeoutError()) for name in sorted(asked)}
    rows = [row for answer in answers.values() if isinstance(answer, list) for row in answer]
    silent = [
        _silence(name, asked[name], answer, paths, patience_s)
        for name, answer in answers.items()
        if isinstance(answer, Exception)
    ]
    return rows, silent


def worth_asking(paths: Paths, found: Settings, table: dict[str, Provider]) -> list[str]:
    """Those that are configured or have a key, and the local one."""
    said = configured(found)
    return [
        name
        for name, one in table.items()
        if one.base_url and (name in said or name == "ollama" or key_of(paths, name, one).is_meant_to_be)
    ]


def _silence(name: str, one: Provider, error: Exception, paths: Paths, patience_s: float) -> str:
    """Why there is no list, and what helps."""
    if isinstance(error, KeyUnavailableError):
        what, helps = error.told(name)
        return f"{name} was not asked: {what}; {helps}"
    if not isinstance(error, far.Refused):
        return f"{name} ({one.base_url}) did not answer: {in_words(error, patience_s)}"
    helps = ""
    if error.status in (401, 403):
        held = key_of(paths, name, one).is_meant_to_be
        helps = f"; {'it does not take the key' if held else 'it wants a key'}: proxyctl keys set {name}"
    return f"{name} ({one.base_url}) has no list for us: {error}{helps}"


def in_words(error: Exception, patience_s: float) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing within {patience_s:g} s"
    return (
        error.strerror
        if isinstance(error, OSError) and error.strerror
        else str(error) or type(error).__name__
    )


def _offers(name: str, one: Provider, paths: Paths, patience_s: float) -> list[dict[str, Any]]:
    if one.base_url is None:
        return []
    key = fetch(one.key) or stored(paths.keys_file, name, needed=one.needs_key)
    path, listing, headers, spare = _QUESTIONS.get(one.kind, _QUESTIONS["openai"])
    base = one.base_url
    for suffix in spare:
        base = base.removesuffix(suffix)
    sent = {**headers, **({"Authorization": f"Bearer {key}"} if key else {}), **one.options.headers}
    if one.kind == "anthropic" and key:
        sent = {**headers, "x-api-key": key, **one.options.headers}
    document = far.get(base, path, {field: text for field, text in sent.items() if text}, patience_s)
    entries = document.get(listing)
    if not isinstance(entries, list):
        raise ValueError("its list of models is none")
    rows = [_row(name, one, entry) for entry in entries if isinstance(entry, dict) and _id(entry)]
    listed = {row["name"] for row in rows}
    # A proxy lists its model under a name for Claude Code's picker as well.
    return [row for row in rows if one.kind != REMOTE or row["display_name"] not in listed - {row["name"]}]


_QUESTIONS: dict[str, tuple[str, str, dict[str, str], tuple[str, ...]]] = {
    "ollama": ("/api/tags", "models", {}, ("/v1", "/api")),
    "openai": ("/models", "data", {}, ("/chat/completions",)),
    "openrouter": ("/models", "data", {}, ("/chat/completions",)),
    "anthropic": ("/v1/models?limit=1000", "data", {"anthropic-version": "2023-06-01"}, ("/v1",)),
    REMOTE: ("/v1/models?limit=1000", "data", {"anthropic-version": "2023-06-01"}, ("/v1",)),
}
"""What is asked, where the list stands in the answer, what is sent along, and which ends of an address are too much:
workers do without them too.
"""


def _id(entry: dict[str, Any]) -> str:
    found = entry.get("id") or entry.get("model") or entry.get("name")
    return found if isinstance(found, str) else ""


def _row(name: str, one: Provider, entry: dict[str, Any]) -> dict[str, Any]:
    pricing = entry.get("pricing")
    window = entry.get("context_length") or entry.get("max_model_len") or entry.get("context_window")
    return {
        "id": f"{name}/{_id(entry)}",
        "provider": name,
        "name": _id(entry),
        "display_name": entry.get("display_name")
        or (entry.get("name") if "id" in entry else None)
        or _id(entry),
        "context_window": window if isinstance(window, int) else None,
        # Local models cost nothing; elsewhere only a price of nothing says so.
        "free": one.kind == "ollama" or (isinstance(pricing, dict) and _is_nothing(pricing)),
    }


def _is_nothing(pricing: dict[str, Any]) -> bool:
    try:
        return all(float(pricing.get(key, 1)) == 0 for key in ("prompt", "completion"))
    except (TypeError, ValueError):
        return False


@attrs.frozen
class KeyFound:
    """What is known of a provider's key without running a command for it."""

    source: str | None = None
    key: str | None = attrs.field(default=None, repr=False)
    trouble: str | None = None
    """Why the source that was to give it does not."""

    @property
    def is_meant_to_be(self) -> bool:
        return self.source is not None or self.trouble is not None


def key_of(paths: Paths, name: str, one: Provider) -> KeyFound:
    """Where the key comes from, and the key; a command is named and not run."""
    key = attrs.evolve(one.key, command=None)
    sources = (
        (attrs.evolve(key, value=None, file=None), f"variable {key.env}"),
        (attrs.evolve(key, env=None, file=None), "config.toml"),
        (attrs.evolve(key, env=None, value=None), f"file {key.file}"),
    )
    try:
        for source, words in sources:
            if (found := fetch(source)) is not None:
                return KeyFound(words, found)
        if one.key.command is not None:
            return KeyFound(f"command {one.key.command.split()[0]}")
        found = stored(paths.keys_file, name)
    except KeyUnavailableError as error:
        return KeyFound(trouble=error.told(name)[0])
    return KeyFound() if found is None else KeyFound("keys.toml", found)
