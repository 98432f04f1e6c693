"""The supervisor as a process: stop, restart, status."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from fakes.control import Control, fault

from modelproxy.ctl import daemon
from modelproxy.ctl.faults import Fault
from modelproxy.supervisor.paths import Paths


def test_stop_waits_until_the_process_is_gone(control: Control) -> None:
    """The answer comes at once; the process lives until its stdin is closed, and only then `stop` returns."""
    child = subprocess.Popen(
        [sys.executable, "-S", "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
    )
    control.pid = child.pid
    done = threading.Event()

    def stop() -> None:
        daemon.stop(control.paths, 1.5)
        done.set()

    stopping = threading.Thread(target=stop)
    stopping.start()
    assert not done.wait(0.1)
    child.communicate()
    stopping.join(5)

    assert done.is_set()
    assert control.asked[-1] == ("POST", "/v1/daemon/stop", {"grace_s": 1.5})


def test_a_refused_stop_is_reported(control: Control) -> None:
    control.replies["POST"] = fault(403, "forbidden", "not yours")

    with pytest.raises(Fault, match="not yours"):
        daemon.stop(control.paths, None)


def test_restart_waits_for_the_next_one(control: Control) -> None:
    """The pid stays the same; the time of its start tells."""
    after = daemon.restart(control.paths, None)

    assert after["started_at"] == 1001.0
    assert after["pid"] == control.pid


def test_restart_that_changes_nothing_is_reported(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "RESTARTED_S", 0.05)
    control.replies["POST"] = (202, control.version())

    with pytest.raises(Fault) as refused:
        daemon.restart(control.paths, None)

    assert (refused.value.code, refused.value.exit_code) == ("daemon_start_failed", 3)


def test_status_without_a_supervisor(paths: Paths) -> None:
    with pytest.raises(Fault) as refused:
        daemon.status(paths)

    assert (refused.value.code, refused.value.hint) == ("daemon_not_running", "proxyctl daemon start")


@pytest.mark.slow
def test_status_of_one_that_lives_and_does_not_listen(control: Control) -> None:
    control.paths.control_socket.unlink()

    with pytest.raises(Fault) as refused:
        daemon.status(control.paths)

    assert refused.value.code == "daemon_not_running"
    assert str(control.pid) in refused.value.hint
