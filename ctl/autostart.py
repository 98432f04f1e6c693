"""Starting the supervisor in the background.

Nothing here decides whether one runs already: the lock decides that in the supervisor, and the loser of
ten started at once leaves quietly. Here is only waited until somebody answers. Where `proxyctl daemon
install` has made it a service of systemd, systemd starts it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

from modelproxy.supervisor.paths import Paths, UnsafeDirectoryError, prepare

from . import units
from .client import Client, supervisor_of
from .faults import Fault
from .follow import tail
from .systemd import JOURNAL, Manager

START_S = 10.0
POLL_S = 0.01
PYTHON = (sys.executable, "-P", "-m")
"""`-P`: nothing in the user's present folder may shadow our modules."""
COMMAND = (*PYTHON, "modelproxy.supervisor")


def ensure(paths: Paths) -> tuple[dict[str, Any], bool]:
    """A supervisor's version, and whether it had to be started."""
    try:
        return dict(Client(paths).get("/v1/version")), False
    except Fault as fault:
        if fault.code != "daemon_not_running":
            raise
    return start(paths), True


def start(paths: Paths) -> dict[str, Any]:
    """Start a supervisor that outlives this command, and wait until it (or another one) answers."""
    _prepare(paths)
    if units.is_installed(paths):
        try:
            return _start_service(paths)
        except Fault as fault:
            # No login, no service manager: until there is one, it is started by hand. Then the service takes over.
            if fault.code != "no_systemd":
                raise
    try:
        child = _spawn(paths)
    except OSError as error:
        raise Fault(
            "daemon_start_failed",
            f"the supervisor did not start: cannot open {error.filename or paths.daemon_log}: {error.strerror}",
        ) from None
    deadline = time.monotonic() + START_S
    while True:
        answer = supervisor_of(paths)
        if answer is not None:
            _let_go(child)
            return answer
        # 0: another one holds the lock, and it will answer.
        if child.poll():
            raise _failed(paths, f"it ended with {_ending(child.returncode)}")
        if time.monotonic() > deadline:
            _let_go(child)
            raise _failed(paths, f"it does not answer after {START_S:g}s")
        time.sleep(POLL_S)


def _start_service(paths: Paths) -> dict[str, Any]:
    """Where the supervisor is installed as a service, a second one beside it would only be in its way."""
    Manager(paths).start(units.SOCKET, units.SERVICE)
    answer = supervisor_of(paths)
    if answer is None:
        raise Fault("daemon_start_failed", "the service was started and does not answer", JOURNAL)
    return answer


def _prepare(paths: Paths) -> None:
    try:
        prepare(paths)
    except UnsafeDirectoryError as error:
        raise Fault("unsafe_directory", str(error)) from None
    except OSError as error:
        hint = "XDG_STATE_HOME and XDG_RUNTIME_DIR say where else its files may lie"
        raise Fault("unsafe_directory", f"cannot make {error.filename}: {error.strerror}", hint) from None


def _spawn(paths: Paths) -> subprocess.Popen[bytes]:
    """The log is opened for appending and stays the daemon's stdout: a traceback at start lands there too."""
    log = os.open(paths.daemon_log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        return subprocess.Popen(
            COMMAND,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=_environment(),
            cwd="/",  # a daemon in the user's folder would keep it from being unmounted
            start_new_session=True,
        )
    finally:
        os.close(log)


def _environment() -> dict[str, str]:
    """Ours, without what a service manager has said to the service that this shell belongs to."""
    theirs = ("NOTIFY_SOCKET", "FDSTORE", "JOURNAL_STREAM", "MANAGERPID")
    return {
        name: value
        for name, value in os.environ.items()
        if name not in theirs and not name.startswith(("LISTEN_", "WATCHDOG_"))
    }


def _let_go(child: subprocess.Popen[bytes]) -> None:
    """It is to outlive us: say so, or Popen would warn of a child that nobody waited for."""
    if child.poll() is None:
        child.returncode = 0


def _failed(paths: Paths, why: str) -> Fault:
    # Letters, because a traceback of several errors ends with a frame of dashes.
    last = next((line for line in reversed(tail(paths.daemon_log, 5)) if any(map(str.isalpha, line))), "")
    last = last.strip(" |")
    return Fault(
        "daemon_start_failed",
        f"the supervisor did not start: {why}" + (f"; its last words: {last}" if last else ""),
        f"see {paths.daemon_log}",
    )


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
