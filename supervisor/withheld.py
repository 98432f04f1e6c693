"""What a project's file says and nobody can use, because its providers need a trust that they do not have. Pure.

A table [providers.NAME] of a project counts once its user trusts the file. Until then its aliases, proxies and
agents that lead there would be names of nothing, and one of them would make every command in the folder fail
with a wrong reason. So they are left out with it; who asks for one by name is told of the trust.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import attrs

from modelproxy.worker.model_ids import parted

from . import aliases
from .schema import KINDS, NATIVE, dotted
from .toml_lines import Path


@attrs.frozen
class Entry:
    """One that is left out."""

    path: Path
    target: str
    """As it was said."""
    provider: str


@attrs.frozen
class Withheld:
    """The providers that wait for trust, and what hangs on them."""

    providers: tuple[str, ...] = ()
    entries: tuple[Entry, ...] = ()

    def entry(self, *path: str) -> Entry | None:
        return next((one for one in self.entries if one.path == path), None)

    def named(self, text: str) -> Entry | None:
        """What would be meant by a model id, an alias or a proxy's name; None: nothing of these."""
        provider, model = parted(text)
        if model and provider in self.providers:
            return Entry(("providers", provider), text, provider)
        alias = aliases.find(text, {str(one.path[1]): str(one.path[1]) for one in self._of("aliases")})
        return self.entry("proxies", text) or (None if alias is None else self.entry("aliases", alias))

    def _of(self, table: str) -> Iterator[Entry]:
        return (one for one in self.entries if one.path[0] == table)

    def sentence(self, provider: str) -> str:
        """What to say of a table and of all that is left out with it: its user misses that, not the table."""
        hanging = [dotted(one.path) for one in self.entries if one.provider == provider]
        table = f"[{dotted(('providers', provider))}]"
        if provider not in self.providers:
            return f"{table} does not count {_UNTIL}"
        listed = f" ({', '.join(hanging)})" if hanging else ""
        return f"{table} and what hangs on it{listed} do not count {_UNTIL}"


_UNTIL = "until: proxyctl config trust"


def lacking(project: Mapping[str, Any], below: Mapping[str, Any]) -> tuple[str, ...]:
    """The project's providers that nothing else knows, for whom its own table does not count."""
    return tuple(
        name for name in _table(project, "providers") if name not in {*KINDS, *_table(below, "providers")}
    )


def without(
    document: Mapping[str, Any], known: Mapping[str, Any], providers: Collection[str]
) -> tuple[dict[str, Any], list[Entry]]:
    """`document` without what leads to one of `providers`, and what that is; `known` has every name of here."""
    entries = list(_entries(document, known, providers))
    kept = dict(document)
    for entry in entries:
        kept = _dropped(kept, entry.path)
    return kept, entries


def _entries(
    document: Mapping[str, Any], known: Mapping[str, Any], providers: Collection[str]
) -> Iterator[Entry]:
    for path, target in _targets(document):
        provider = _leads_to(target, known, providers)
        if provider is not None:
            yield Entry(path, target, provider)


def _targets(document: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """Everything that names a model, and may stand in a project's file without trust."""
    found: list[tuple[Path, Any]] = [
        (("aliases", name), to) for name, to in _table(document, "aliases").items()
    ]
    for name, table in _table(document, "proxies").items():
        model = table.get("model") if isinstance(table, dict) else None
        found.append((("proxies", name), name if "/" in name and model is None else model))
    models = _table(document, "models")
    found.append((("models", "default"), models.get("default")))
    found += [(("models", "agents", name), to) for name, to in _table(models, "agents").items()]
    return ((path, target) for path, target in found if isinstance(target, str))


def _leads_to(target: str, known: Mapping[str, Any], providers: Collection[str]) -> str | None:
    names = {name: to for name, to in _table(known, "aliases").items() if isinstance(to, str)}
    seen: set[str] = set()
    while target not in seen and target not in NATIVE:
        seen.add(target)
        provider, model = parted(target)
        if model and provider in providers:
            return provider
        if aliases.is_model_id(target, {*KINDS, *_table(known, "providers")}):
            return None
        table = _table(known, "proxies").get(target)
        said = table.get("model") if isinstance(table, dict) else None
        after = aliases.find(target, names) or said
        if not isinstance(after, str):
            return None
        target = after
    return None


def _dropped(document: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Without what stands at `path`, and without the tables that it leaves empty."""
    key, rest = path[0], path[1:]
    below = _dropped(document[str(key)], rest) if rest else {}
    return {name: below if name == key else value for name, value in document.items() if name != key or below}


def _table(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = document.get(name)
    return found if isinstance(found, dict) else {}
