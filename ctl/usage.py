"""`proxyctl usage`: the ledger's rows, from the supervisor or, without one, from the file itself."""

from __future__ import annotations

import time
from typing import Any

from modelproxy.supervisor.paths import Paths

from . import names, render
from .client import Client, quote
from .faults import EXIT_OK, Fault, say, say_json, talk


def usage(paths: Paths, proxy: str | None, *, age_s: float | None, limit: int, as_json: bool) -> int:
    """Print the newest rows, at most `limit` of them and none older than `age_s`."""
    since = 0.0 if age_s is None else max(0.0, time.time() - age_s)
    rows = _rows(paths, None if proxy is None else names.target(paths, proxy), since, limit)
    if as_json:
        say_json(rows)
    else:
        say(render.usage([(_clock(row["ts"]), row) for row in rows]))
    return EXIT_OK


def _rows(paths: Paths, proxy: str | None, since: float, limit: int) -> list[dict[str, Any]]:
    only = "" if proxy is None else f"&proxy={quote(proxy)}"
    try:
        return list(Client(paths).get(f"/v1/usage?since={since:.3f}&limit={limit}{only}"))
    except Fault as fault:
        if fault.code not in ("daemon_not_running", "daemon_timeout", "unknown_route"):
            raise
        talk(f"{fault.message}; reading the ledger itself")
    return _from_file(paths, proxy, since, limit)


def _from_file(paths: Paths, proxy: str | None, since: float, limit: int) -> list[dict[str, Any]]:
    from modelproxy.worker import ledger  # only here: the supervisor reads it nearly always

    try:
        found = ledger.read(str(paths.ledger), since=since, limit=limit, proxy=proxy)
    except ledger.UnreadableError as error:
        raise Fault("ledger_unreadable", str(error)) from None
    return [ledger.to_document(row) for row in found]


def _clock(ts: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ts))
