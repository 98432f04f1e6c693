"""`proxyctl ps`: from the supervisor, or from its files when it is dead.

On the fast path: `__main__` calls it before typer is imported.
"""

from __future__ import annotations

import os
import sys
import time

from modelproxy.supervisor.paths import find

from . import offline, render
from .client import Client
from .faults import EXIT_NO_DAEMON, EXIT_OK, Fault, say, say_json, talk

TYPE_CHECKING = False  # see faults
if TYPE_CHECKING:
    from typing import Any

    from modelproxy.supervisor.paths import Paths

LAST_LINES = 5
READ_LINES = 400
"""A traceback may be long, and is one line of those."""


def ps(*, everything: bool = False, verbose: bool = False, as_json: bool = False) -> int:
    """Print the proxies; the exit code tells whether a supervisor looks after them."""
    paths = find()
    try:
        client = Client(paths)
        views = client.get("/v1/proxies?all=1" if everything else "/v1/proxies")
        for warning in client.get("/v1/version").get("warnings") or ():
            talk(f"warning: {warning}")
    except Fault as fault:
        if fault.code != "daemon_not_running":
            raise
        return _without_daemon(paths, everything=everything, verbose=verbose, as_json=as_json)
    _print(views, verbose=verbose, as_json=as_json)
    return EXIT_OK


def _without_daemon(paths: Paths, *, everything: bool, verbose: bool, as_json: bool) -> int:
    views, problem = offline.views(paths, everything=everything)
    talk(render.serving(offline.serving(views)))
    if problem:
        talk(f"warning: {problem}")
    _print(views, verbose=verbose, as_json=as_json)
    return EXIT_NO_DAEMON


def _print(views: list[dict[str, Any]], *, verbose: bool, as_json: bool) -> None:
    if verbose:
        _add_last_lines(views)
    if as_json:
        say_json(views)
    else:
        say(render.ps(views, verbose=verbose, width=width(), now=time.time()))


def width() -> int | None:
    """The columns of the terminal that standard output is; None when it is something else."""
    if sys.stdout is None or not sys.stdout.isatty():
        return None
    said = os.environ.get("COLUMNS", "")
    try:
        return int(said) if said.isdecimal() else os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):
        return None


def _add_last_lines(views: list[dict[str, Any]]) -> None:
    from .excerpt import excerpt
    from .follow import tail

    for view in views:
        if view.get("log"):
            view["last_lines"] = excerpt(tail(view["log"], READ_LINES), LAST_LINES)
