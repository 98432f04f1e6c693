"""Bringing a proxy up and down for `proxyctl` and `start-proxy`."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from modelproxy.supervisor.paths import Paths

from . import autostart, names, render
from .client import Client, quote
from .faults import DEFAULT_WAIT_S, EXIT_NO_DAEMON, Fault, talk
from .processes import daemon_pid, is_alive

Ask = Callable[[dict[str, Any], str, float], dict[str, Any]]
"""Ask a supervisor that runs for what an UpRequest says, with this query, within so many seconds; the proxy's view."""


def bring_up(
    paths: Paths,
    request: dict[str, Any],
    *,
    trust_project: bool = False,
    anywhere: bool = False,
    ask: Ask | None = None,
) -> dict[str, Any]:
    """The proxy's view once it is as `request` (an UpRequest) wants it; starts the supervisor if none runs.

    `anywhere`: where the usual port is a stranger's, on any other.
    """

    def put(wanted: dict[str, Any], query: str, limit_s: float) -> dict[str, Any]:
        path = f"/v1/proxies/{quote(wanted['model'])}?{query}"
        return dict(Client(paths).ask("PUT", path, wanted, limit_s=limit_s))

    ask = ask or put
    limit = float(request.get("wait_s", DEFAULT_WAIT_S))
    deadline = time.monotonic() + limit
    wanted = (request["model"], *request.get("fallback", ()))
    over = names.overlay(paths, wanted, trust_project=trust_project)
    if over:
        request = {**request, "overlay": over}
    lacks: list[str] = []
    while True:
        autostart.ensure(paths)
        try:
            return ask(request, _shell(lacks), limit)
        except Fault as fault:
            if fault.code == "missing_api_key" and (richer := _with_key(request, fault)) is not None:
                request = richer
                continue
            if fault.code == "missing_api_key" and _is_news(fault.env, lacks):
                lacks = [*lacks, fault.env]
                continue
            if fault.code == "port_in_use" and anywhere and "port" not in request:
                request = {**request, "port": 0}
                continue
            if fault.code not in ("stopping", "daemon_not_running") or time.monotonic() > deadline:
                raise
            _wait_until_left(paths, deadline)


def _shell(lacks: list[str]) -> str:
    """That we can be asked for a variable's key, and which we were asked for and have not."""
    return "shell=1" + (f"&lacks={quote(','.join(lacks))}" if lacks else "")


def _is_news(variable: str, lacks: list[str]) -> bool:
    return bool(variable) and variable not in lacks and not os.environ.get(variable)


def _with_key(request: dict[str, Any], fault: Fault) -> dict[str, Any] | None:
    """The same with the key that is asked for: the daemon may run under another environment than the shell."""
    key = os.environ.get(fault.env)
    given = request.get("fallback_keys", {})
    if not key or fault.provider in given:
        return None
    return {**request, "fallback_keys": {**given, fault.provider: key}}


def request(
    *,
    model: str,
    port: int | None = None,
    base_url: str | None = None,
    api_key: str | None = None,
    grace_s: float | None = None,
    pid_file: str | None = None,
    replace: bool = False,
    wait: bool = True,
    wait_s: float | None = None,
    lazy: bool | None = None,
    idle_stop_s: float | None = None,
    max_rss: int | None = None,
    fallback: list[str] | None = None,
    limits: dict[str, float] | None = None,
) -> dict[str, Any]:
    """An UpRequest that holds only what the user said; the rest is the supervisor's to choose."""
    body: dict[str, Any] = {
        "model": model,
        "port": port,
        "base_url": base_url,
        "api_key": api_key,
        "grace_s": grace_s,
        "wait_s": wait_s,
        # The supervisor's folder is another one.
        "pid_file": None if pid_file is None else os.path.abspath(os.path.expanduser(pid_file)),
        "replace": replace or None,
        "wait": None if wait else False,
        "lazy": lazy,
        "idle_stop_s": idle_stop_s,
        "max_rss": max_rss,
        "fallback": fallback,
        **(limits or {}),
    }
    return {key: value for key, value in body.items() if value is not None}


def _wait_until_left(paths: Paths, deadline: float) -> None:
    """A supervisor that is being stopped takes no orders; the next one will."""
    while is_alive(daemon_pid(paths)) and time.monotonic() < deadline:
        time.sleep(autostart.POLL_S)


def take_down(paths: Paths, targets: list[str], grace_s: float | None) -> list[dict[str, Any] | Refused]:
    """The answers for all targets, drained at the same time; some may be refused and the others not.

    Raises when there is but one target, or nobody who could take any of them down.
    """
    answers: list[list[dict[str, Any] | Refused]] = [[] for _ in targets]
    broken: list[Exception] = []

    def down(index: int) -> None:
        try:
            answers[index].extend(_down(paths, targets[index], grace_s))
        except Fault as fault:
            answers[index].append(Refused(targets[index], fault))
        except Exception as error:  # a thread's end is silent: the caller must hear of it
            broken.append(error)

    threads = [threading.Thread(target=down, args=(index,), daemon=True) for index in range(len(targets))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if broken:
        raise broken[0]
    flat = [document for answer in answers for document in answer]
    for document in flat:
        if isinstance(document, Refused) and (
            len(targets) == 1 or document.fault.exit_code == EXIT_NO_DAEMON
        ):
            raise document.fault
    return flat


class Refused:
    """One of several targets that could not be taken down."""

    def __init__(self, target: str, fault: Fault) -> None:
        self.fault = fault
        self.document = {"target": target, **fault.document()}


def _down(paths: Paths, target: str, grace_s: float | None) -> list[dict[str, Any]]:
    client = Client(paths)
    body = {} if grace_s is None else {"grace_s": grace_s}
    answer = client.ask("DELETE", f"/v1/proxies/{quote(target)}", body, waiting=Waiting(client, target))
    return [dict(stopped) for stopped in answer]


class Waiting:
    """Says on a terminal whom a drain waits for, whenever that changed."""

    def __init__(self, client: Client, target: str) -> None:
        self._client = client
        self._target = target
        self._said = ""

    def __call__(self, _: float) -> None:
        if sys.stderr is None or not sys.stderr.isatty():
            return
        text = render.waiting([view for view in self._views() if self._is_meant(view)])
        if text != self._said:
            talk(text + " …")
            self._said = text

    def _views(self) -> list[dict[str, Any]]:
        views = self._client.get("/v1/proxies?all=1")
        return views if isinstance(views, list) else []

    def _is_meant(self, view: dict[str, Any]) -> bool:
        return self._target == "all" or self._target in {
            str(view.get(key)) for key in ("name", "model", "port", "pid")
        }
