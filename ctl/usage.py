"""`proxyctl usage`: the ledger's rows, from the supervisor or, without one, from the file itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from modelproxy.supervisor.paths import Paths

from . import names, offline, render
from .client import Client, quote
from .faults import EXIT_OK, Fault, say, say_json, talk
from .ps import width

_LOOKED_THROUGH = 1000
"""Rows, for the names of proxies that a mistyped one may have meant."""


def usage(paths: Paths, proxy: str | None, *, age_s: float | None, limit: int, as_json: bool) -> int:
    """Print the newest rows, at most `limit` of them and none older than `age_s`."""
    since = oldest(age_s)
    meant = None if proxy is None else names.target(paths, proxy)
    rows = _rows(paths, meant, since, limit)
    if not rows and meant is not None:
        _refuse_a_stranger(paths, meant)
    if as_json:
        say_json(rows)
    else:
        say(render.usage([(_clock(row["ts"]), row) for row in rows], width()))
    return EXIT_OK


def oldest(age_s: float | None) -> float:
    """The time, in seconds since the epoch, from which rows are asked for: all of them without an age."""
    return 0.0 if age_s is None else max(0.0, time.time() - age_s)


def _refuse_a_stranger(paths: Paths, target: str) -> None:
    """Raise for a name that no proxy has and none has had: an empty table would say that it was not used.

    The ledger remembers those that are long gone. Both files are read as they are, whoever runs.
    """
    from . import settings  # only here: nearly every name is known

    views, _ = offline.views(paths, everything=True)
    known = {str(view[key]) for view in views for key in ("name", "model", "port")}
    configured = settings.read(paths).table("proxies")
    if target in known or target in configured or _from_file(paths, target, 0.0, 1):
        return
    recent = {row["proxy"] for row in _from_file(paths, None, 0.0, _LOOKED_THROUGH)}
    every = sorted({*configured, *recent, *(str(view["name"]) for view in views)})
    hint = f"{names.nearest(target, every)}proxyctl ps -a lists what there is, proxyctl usage what was used"
    raise Fault("unknown_proxy", f'There is no proxy "{target}", and the ledger knows none', hint)


def _rows(paths: Paths, proxy: str | None, since: float, limit: int) -> list[dict[str, Any]]:
    only = "" if proxy is None else f"&proxy={quote(proxy)}"
    asked = f"/v1/usage?since={since:.3f}&limit={limit}{only}"
    return answered(paths, asked, lambda: _from_file(paths, proxy, since, limit))


def answered(paths: Paths, asked: str, read: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What the supervisor answers to `asked`; without one, or with one that does not know it yet, `read`."""
    try:
        return list(Client(paths).get(asked))
    except Fault as fault:
        if fault.code not in ("daemon_not_running", "daemon_timeout", "unknown_route"):
            raise
        talk(f"{fault.message}; reading the ledger itself")
    return read()


def _from_file(paths: Paths, proxy: str | None, since: float, limit: int) -> list[dict[str, Any]]:
    from modelproxy.worker import ledger  # only here: the supervisor reads it nearly always

    with readable():
        found = ledger.read(str(paths.ledger), since=since, limit=limit, proxy=proxy)
    return [ledger.to_document(row) for row in found]


@contextmanager
def readable() -> Iterator[None]:
    """A ledger that is none is a Fault."""
    from modelproxy.worker import ledger

    try:
        yield
    except ledger.UnreadableError as error:
        raise Fault("ledger_unreadable", str(error)) from None


def _clock(ts: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ts))
