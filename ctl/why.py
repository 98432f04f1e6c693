"""`proxyctl why NAME`: why a proxy is as it is, what happened to it, and what comes next, on one page.

The supervisor is asked for the proxy's row and for its events; those that it does not remember, from before its
start, come from its log. The proxy's log is read from its file, as `logs` does.
Without a supervisor all of it comes from files: the state file, the log, and the supervisor's own log, which
holds the same events.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from . import names, offline, render
from .client import Client, quote
from .excerpt import excerpt, masked
from .faults import EXIT_NO_DAEMON, EXIT_OK, Fault, printable, say, say_json, talk
from .follow import tail
from .ps import READ_LINES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from modelproxy.supervisor.paths import Paths

EVENTS = 10
LINES = 10
_READ_OF_DAEMON = 2000
_STAMP_S = 0.01
"""A line's stamp is cut to milliseconds: the same event may look a little older there."""
_UNANSWERED = frozenset({"daemon_not_running", "daemon_timeout", "daemon_gone"})


def why(paths: Paths, target: str, *, as_json: bool) -> int:
    """Print the page; the exit code tells whether a supervisor looks after the proxy, as that of `ps` does."""
    try:
        document, code = _asked(paths, target), EXIT_OK
    except Fault as fault:
        if fault.code not in _UNANSWERED:
            raise
        document, code = _found(paths, target), EXIT_NO_DAEMON
        talk(f"{fault.message}; what follows is from its files")
    document["last_lines"] = excerpt(tail(document["log"], READ_LINES), LINES)
    if as_json:
        say_json(document)
    else:
        say(page(document, time.time(), _clock))
    return code


def _asked(paths: Paths, target: str) -> dict[str, Any]:
    client = Client(paths)
    try:
        view = client.get(f"/v1/proxies/{quote(target)}")
    except Fault as fault:
        if fault.code != "unknown_proxy" or fault.hint.startswith("proxyctl up "):
            raise  # the latter is known, and has not been up yet
        known = [str(one["name"]) for one in client.get("/v1/proxies?all=1")]
        raise _unknown(target, known) from None
    known_of = list(client.stream("/v1/events?since=0"))
    happened = [event for event in known_of if event.get("proxy") == view["name"]]
    if len(happened) < EVENTS:
        began = known_of[0]["at"] if known_of else time.time()
        happened = [*_before(paths, view["name"], began), *happened]
    return {**view, "supervised": True, "events": happened[-EVENTS:]}


def _before(paths: Paths, name: str, began: float) -> list[dict[str, Any]]:
    """What happened to it under earlier supervisors, or longer ago than the present one remembers."""
    logged = _from_daemon_log(tail(paths.daemon_log, _READ_OF_DAEMON), name)
    return [event for event in logged if event["at"] is not None and event["at"] < began - _STAMP_S]


def _found(paths: Paths, target: str) -> dict[str, Any]:
    rows, problem = offline.views(paths, everything=True)
    if problem:
        talk(f"warning: {problem}")
    name = offline.name_of(paths, target) or offline.name_of(paths, names.target(paths, target))
    view = next((row for row in rows if row["name"] == name), None)
    if view is None:
        raise _unknown(target, [str(row["name"]) for row in rows])
    happened = _from_daemon_log(tail(paths.daemon_log, _READ_OF_DAEMON), view["name"])
    return {**view, "supervised": False, "events": happened[-EVENTS:]}


def _unknown(target: str, known: Sequence[str]) -> Fault:
    meant = names.nearest(target, known)
    if target == "all":
        meant = "why tells of one; proxyctl ps -v tells of all, "
    return Fault(
        "unknown_proxy", f'There is no proxy "{target}"', f"{meant}proxyctl ps -a lists what there is"
    )


def _from_daemon_log(lines: Sequence[str], name: str) -> list[dict[str, Any]]:
    """`2026-11-21T13:57:53.553Z echo/demo: ready: pid 4121, generation 1`"""
    found = []
    for line in lines:
        stamp, _, text = line.partition(" ")
        kind, colon, words = text.removeprefix(f"{name}: ").partition(": ")
        if text.startswith(f"{name}: ") and colon and kind.replace("-", "").isalpha():
            found.append({"at": _epoch(stamp), "kind": kind, "proxy": name, "text": words})
    return found


def _epoch(stamp: str) -> float | None:
    from datetime import datetime

    try:
        return datetime.fromisoformat(stamp).timestamp()
    except ValueError:
        return None


def _clock(at: float) -> str:
    form = "%H:%M:%S" if abs(time.time() - at) < 86400 / 2 else "%Y-%m-%d %H:%M:%S"
    return time.strftime(form, time.localtime(at))


# --- the page -------------------------------------------------------------------------------------


def page(document: dict[str, Any], now: float, clock: Callable[[float], str]) -> str:
    """All of it for a person: what is, what comes, what happened."""
    return "\n".join(_page(document, now, clock))


def _page(document: dict[str, Any], now: float, clock: Callable[[float], str]) -> Iterator[str]:
    yield f"{render.cell(document.get('name'))}: {masked(render.state(document))}"
    yield ""
    facts = list(render.facts(document, now))
    width = max(len(label) for label, _ in facts)
    for label, text in facts:
        yield f"  {label.ljust(width)}  {masked(text)}"
    deaths = document.get("deaths") or ()
    yield from _section("deaths", [render.dead(death, now) for death in deaths])
    yield from _section("events", [_event(event, clock) for event in document["events"]])
    yield from _section("the end of its log", [printable(line) for line in document["last_lines"]])


def _section(title: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield ""
        yield f"{title}:"
        for line in lines:
            yield f"  {masked(line)}"


def _event(event: dict[str, Any], clock: Callable[[float], str]) -> str:
    at = event.get("at")
    return render.event({**event, "proxy": None}, clock(at) if at is not None else "-")
