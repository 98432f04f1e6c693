"""`proxyctl daemon …`: the supervisor as a process."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from modelproxy.supervisor.paths import Paths

from . import autostart, systemd, units
from .client import Client, not_running
from .faults import Fault, talk
from .processes import daemon_pid, is_alive, start_time

POLL_S = 0.01
PATIENCE_S = 1.0
"""After so long somebody at a terminal is told why nothing happens."""
RESTARTED_S = 20.0


def run(unit: str | None) -> None:
    """Become the supervisor: it carries neither typer nor a parent of ours."""
    _become("modelproxy.supervisor", unit)


def reap(unit: str) -> None:
    """Become the program that ends the workers of a supervisor that could not do it itself."""
    _become("modelproxy.supervisor.reap", unit)


def _become(module: str, unit: str | None) -> None:
    command = [*autostart.PYTHON, module, *(["--unit", unit] if unit else [])]
    os.execv(command[0], command)


def stop(paths: Paths, grace_s: float | None) -> dict[str, Any]:
    """Stop it and wait until its process is gone; the version it had."""
    client = Client(paths)
    version = dict(client.get("/v1/version"))
    pid = int(version["pid"])
    started = start_time(pid)
    try:
        client.ask("POST", "/v1/daemon/stop", {} if grace_s is None else {"grace_s": grace_s})
    except Fault as fault:
        # It may leave before its answer is whole; that is what was asked for. And it may be stopping already.
        if fault.code not in ("daemon_not_running", "daemon_gone", "stopping"):
            raise
    wait_until_gone(pid, started)
    if version.get("unit") == units.SERVICE:
        # systemd has it in hand already; here is waited until it is through, the control socket included.
        systemd.Manager(paths).tell("stop", units.SOCKET, units.SERVICE)
    return version


def wait_until_gone(pid: int, started: int | None) -> None:
    """Until that very process has ended; a person at a terminal is told why it takes so long."""
    began, said = time.monotonic(), False
    while is_alive(pid) and start_time(pid) == started:
        time.sleep(POLL_S)
        if (
            not said
            and time.monotonic() - began > PATIENCE_S
            and sys.stderr is not None
            and sys.stderr.isatty()
        ):
            talk("waiting for requests in flight …")
            said = True


def restart(paths: Paths, grace_s: float | None) -> dict[str, Any]:
    """Have it replace itself, workers serving on; the new one's version."""
    client = Client(paths)
    before = client.get("/v1/version")
    try:
        client.ask("POST", "/v1/daemon/restart", {} if grace_s is None else {"grace_s": grace_s})
    except Fault as fault:
        if fault.code not in ("daemon_not_running", "daemon_gone"):
            raise
    deadline = time.monotonic() + RESTARTED_S + (grace_s or 0.0)
    while time.monotonic() < deadline:
        now = _version(client)
        # Not the pid: a supervisor replaces itself by exec and keeps it.
        if now is not None and now["started_at"] != before["started_at"]:
            return now
        if before.get("unit") is None and not is_alive(before["pid"]):
            break  # nobody will start it again
        time.sleep(POLL_S)
    raise Fault(
        "daemon_start_failed",
        "the supervisor did not come back as a new one",
        f"see {paths.daemon_log}; workers serve on, and proxyctl daemon start takes them over",
    )


def status(paths: Paths) -> dict[str, Any]:
    """Its version and how many proxies it looks after."""
    client = Client(paths)
    try:
        version = client.get("/v1/version")
        return {**version, "proxies": len(client.get("/v1/proxies"))}
    except Fault as fault:
        if fault.code != "daemon_not_running":
            raise
    pid = daemon_pid(paths)
    if is_alive(pid):
        raise Fault(
            "daemon_not_running",
            f"the supervisor does not listen on {paths.control_socket}",
            f"pid {pid} may be starting or stopping; see {paths.daemon_log}",
        )
    raise not_running()


def _version(client: Client) -> dict[str, Any] | None:
    try:
        return dict(client.get("/v1/version"))
    except Fault as fault:
        if fault.code not in ("daemon_not_running", "daemon_gone"):
            raise
        return None
