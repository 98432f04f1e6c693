"""Names for the shell's completion."""

from __future__ import annotations

from modelproxy.supervisor.paths import find

from . import offline
from .client import Client


def targets(incomplete: str) -> list[str]:
    """The names of the known proxies that begin with `incomplete`.

    Never raises and never prints: it would land in the middle of the user's command line.
    """
    try:
        return sorted({name for name in _names() if name.startswith(incomplete)})
    except Exception:  # see the docstring
        return []


def _names() -> list[str]:
    paths = find()
    try:
        return [str(view["name"]) for view in Client(paths, answer_s=0.5).get("/v1/proxies?all=1")]
    except Exception:  # a stuck or strange supervisor: its file will do
        return offline.names(paths)
