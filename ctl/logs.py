"""`proxyctl logs` (from files, so that it works without a supervisor) and `proxyctl events`."""

from __future__ import annotations

import select
import sys
import time
from typing import Any

from modelproxy.supervisor.paths import Paths

from . import names, offline, render
from .client import Client, not_running
from .faults import EXIT_OK, Fault, say, say_json, talk
from .follow import POLL_S, follow, tail

ASK_S = 1.0
"""How long `logs` waits for a supervisor that it hardly needs."""
RETURN_S = 10.0
"""How long a follower of events waits for the next supervisor."""


def logs(paths: Paths, target: str, lines: int, *, following: bool, as_json: bool) -> int:
    """Print the end of a proxy's log; with `following` go on until interrupted."""
    path = paths.log_file(_name(paths, target))
    for line in follow(path, lines, _pause) if following else tail(path, lines):
        if as_json:
            say_json({"line": line})
        else:
            say(line)
    return EXIT_OK


def _pause() -> None:
    """Wait for the log to grow, unless nobody reads us any more: a quiet log would keep us for ever."""
    if sys.stdout is not None:
        reader = select.poll()
        reader.register(sys.stdout.fileno(), 0)
        if any(happened & select.POLLERR for _, happened in reader.poll(0)):
            raise BrokenPipeError
    time.sleep(POLL_S)


def _name(paths: Paths, target: str) -> str:
    """The name of the proxy that is meant; says so when no supervisor could tell."""
    try:
        views = Client(paths, answer_s=ASK_S).get("/v1/proxies?all=1")
    except Fault as fault:
        if fault.code not in ("daemon_not_running", "daemon_timeout"):
            raise
        meant = names.target(paths, target)
        name = offline.name_of(paths, target) or offline.name_of(paths, meant) or _with_a_log(paths, target)
        talk(f"{fault.message}; reading the log file")
        return name
    found = _among(views, target) or _among(views, names.target(paths, target))
    return found or _with_a_log(paths, target)


def _among(views: list[dict[str, Any]], target: str) -> str | None:
    for key in ("name", "model", "port", "pid"):
        for view in views:
            if str(view.get(key)) == target:
                return str(view["name"])
    return None


def _with_a_log(paths: Paths, target: str) -> str:
    """A proxy that nobody knows any more may have left its log."""
    if paths.log_file(target).exists():
        return target
    raise Fault("unknown_proxy", f'There is no proxy "{target}"', "proxyctl ps -a lists what there is")


def events(paths: Paths, since: int, lines: int | None, *, following: bool, as_json: bool) -> int:
    """Print what happened, all of it or the last `lines`; with `following` go on, over restarts of the
    supervisor too.
    """
    client = Client(paths)
    version = client.get("/v1/version")
    if lines is not None:
        past = list(client.stream(f"/v1/events?since={since}"))
        for event in past[len(past) - min(lines, len(past)) :]:
            _show(event, as_json=as_json)
        if not following:
            return EXIT_OK
        since = max([since, *(int(event.get("seq", 0)) for event in past)])
    while True:
        for event in client.stream(f"/v1/events?since={since}" + ("&follow=1" if following else "")):
            since = max(since, int(event.get("seq", 0)))
            _show(event, as_json=as_json)
        if not following:
            return EXIT_OK
        before, version = version, _next_version(client)
        if version["started_at"] != before["started_at"]:
            since = 0  # the next one counts anew


def _next_version(client: Client) -> dict[str, Any]:
    deadline = time.monotonic() + RETURN_S
    while time.monotonic() < deadline:
        try:
            return dict(client.get("/v1/version"))
        except Fault as fault:
            if fault.code not in ("daemon_not_running", "daemon_gone"):
                raise
        time.sleep(0.05)
    raise not_running()


def _show(event: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        say_json(event)
    else:
        say(render.event(event, time.strftime("%H:%M:%S", time.localtime(event.get("at")))))
