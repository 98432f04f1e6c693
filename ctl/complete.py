"""Names for the shell's completion."""

from __future__ import annotations

from modelproxy.supervisor.paths import find

from . import offline
from .client import Client
from .names import FRONT


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


def _configured(incomplete: str) -> list[str]:
    from . import settings

    try:
        found = settings.read(find())
        fronts = [f"{FRONT}/{name}" for name in found.table("front") if name != "default"]
        names = [*found.table("aliases"), *found.table("proxies"), *fronts, FRONT]
    except Exception:  # as above
        names = [FRONT]
    return [name for name in names if name.startswith(incomplete) and not {"*", "?"} & set(name)]


def providers(incomplete: str) -> list[str]:
    """The same for providers, of the configuration and built in."""
    from . import settings
    from .config_view import provider_table

    try:
        return sorted(name for name in provider_table(settings.read(find())) if name.startswith(incomplete))
    except Exception:  # as above
        return []


def _names() -> list[str]:
    paths = find()
    try:
        return [str(view["name"]) for view in Client(paths, answer_s=0.5).get("/v1/proxies?all=1")]
    except Exception:  # a stuck or strange supervisor: its file will do
        return offline.names(paths)
