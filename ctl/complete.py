"""Names for the shell's completion.

Every app loads this to say what completes its words, and nearly no command runs it: so it loads the rest when it does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelproxy.supervisor.values import Value

    from .settings import Settings


def targets(incomplete: str) -> list[str]:
    """The names of the known proxies that begin with `incomplete`.

    Never raises and never prints: it would land in the middle of the user's command line.
    """
    try:
        return sorted({name for name in _names() if name.startswith(incomplete)})
    except Exception:  # see the docstring
        return []


def models(incomplete: str) -> list[str]:
    """The same for what `up` takes: also the aliases, proxies and fronts of the configuration."""
    return sorted({*targets(incomplete), *_configured(incomplete)})


def _settings() -> Settings:
    from modelproxy.supervisor.paths import find

    from . import settings

    return settings.read(find())


def _configured(incomplete: str) -> list[str]:
    from .names import FRONT

    try:
        found = _settings()
        fronts = [f"{FRONT}/{name}" for name in found.table("front") if name != "default"]
        names = [*found.table("aliases"), *found.table("proxies"), *fronts, FRONT]
    except Exception:  # as above
        names = [FRONT]
    return [name for name in names if name.startswith(incomplete) and not {"*", "?"} & set(name)]


def providers(incomplete: str) -> list[str]:
    """The same for providers, of the configuration and built in."""
    from .config_view import provider_table

    try:
        return sorted(name for name in provider_table(_settings()) if name.startswith(incomplete))
    except Exception:  # as above
        return []


def agents(incomplete: str) -> list[str]:
    """The agents that have an entry."""
    try:
        names = _settings().table("models", "agents")
    except Exception:  # as above
        return []
    return sorted(name for name in names if name.startswith(incomplete))


def config_keys(incomplete: str) -> list[str]:
    """Keys of the configuration, below the names that are in it; no name that a shell would take apart."""
    try:
        found = list(_keys(_root(), _settings().document, ()))
    except Exception:  # as above
        return []
    return [key for key in found if key.startswith(incomplete) and '"' not in key]


def _root() -> Value:
    from modelproxy.supervisor import schema

    return schema.ROOT


def _keys(kind: Value, said: Any, path: tuple[str, ...]) -> Iterator[str]:
    from modelproxy.supervisor.schema import dotted
    from modelproxy.supervisor.values import Section, TableOf

    table = said if isinstance(said, dict) else {}
    if isinstance(kind, Section):
        for name, field in kind.fields.items():
            yield from _keys(field.value, table.get(name), (*path, name))
    elif isinstance(kind, TableOf):
        for name, value in table.items():
            yield from _keys(kind.kind, value, (*path, name))
    else:
        yield dotted(path)


def _names() -> list[str]:
    from modelproxy.supervisor.paths import find

    from . import offline
    from .client import Client

    paths = find()
    try:
        return [str(view["name"]) for view in Client(paths, answer_s=0.5).get("/v1/proxies?all=1")]
    except Exception:  # a stuck or strange supervisor: its file will do
        return offline.names(paths)
