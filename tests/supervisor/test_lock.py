"""The lock: who has it, and how a service gets it from a supervisor that was started by hand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelproxy.supervisor import kernel, lock
from modelproxy.supervisor.lock import Lock

HOLDS = """
import signal, sys
from pathlib import Path
from modelproxy.supervisor.lock import LEAVE_SIGNAL, Lock
if sys.argv[2] == "deaf":
    signal.signal(LEAVE_SIGNAL, signal.SIG_IGN)
print(Lock(Path(sys.argv[1])).take(), flush=True)
signal.pause()
"""


def holder(path: Path, *, manner: str = "heeds") -> subprocess.Popen[str]:
    """A process that has taken it."""
    command = [sys.executable, "-P", "-c", HOLDS, str(path), manner]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "None\n"
    return process


@pytest.fixture
def held(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    with holder(tmp_path / "lock") as process:
        yield process
        process.kill()


def test_the_first_one_has_it_and_says_who_it_is(tmp_path: Path) -> None:
    first = Lock(tmp_path / "lock")

    assert first.take() is None
    assert Lock(tmp_path / "lock").take() == os.getpid()
    first.release()
    assert (tmp_path / "lock").read_text() == ""


def test_a_holder_that_has_not_said_who_it_is(tmp_path: Path) -> None:
    first = Lock(tmp_path / "lock")
    first.take()
    (tmp_path / "lock").write_text("")

    assert Lock(tmp_path / "lock").take() == 0


def test_a_killed_holder_holds_nothing(tmp_path: Path, held: subprocess.Popen[str]) -> None:
    held.kill()
    held.wait()

    assert Lock(tmp_path / "lock").take() is None


@pytest.mark.skipif(sys.platform != "linux", reason="where systemd is")
def test_a_service_has_the_holder_leave(tmp_path: Path, held: subprocess.Popen[str]) -> None:
    """By a signal, for it cannot be reached otherwise."""
    ours = Lock(tmp_path / "lock")
    pid = ours.take()
    assert pid == held.pid

    assert ours.take_from(pid) is None
    assert held.wait(10) == -lock.LEAVE_SIGNAL


@pytest.mark.skipif(sys.platform != "linux", reason="where systemd is")
def test_one_that_does_not_leave_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_LEAVE_LIMIT_S", 0.05)
    with holder(tmp_path / "lock", manner="deaf") as process:
        ours = Lock(tmp_path / "lock")
        ours.take()

        assert ours.take_from(process.pid) == process.pid
        assert process.poll() is None
        process.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="where systemd is")
def test_a_stranger_whose_number_stands_there_is_not_signalled(
    tmp_path: Path, held: subprocess.Popen[str]
) -> None:
    """The number may be that of a holder long dead, and somebody else's by now."""
    with subprocess.Popen(["sleep", "600"]) as stranger:
        (tmp_path / "lock").write_text(f"{stranger.pid}\n")
        ours = Lock(tmp_path / "lock")
        assert ours.take() == stranger.pid

        assert ours.take_from(stranger.pid) == stranger.pid
        assert stranger.poll() is None
        stranger.send_signal(signal.SIGKILL)


def test_a_holder_that_has_gone_meanwhile(tmp_path: Path) -> None:
    with holder(tmp_path / "lock") as process:
        ours = Lock(tmp_path / "lock")
        ours.take()
        process.kill()
        process.wait()

        assert ours.take_from(process.pid) is None


@pytest.mark.parametrize("manner", ["heeds", "deaf"])
def test_one_that_has_lost_its_place_goes_one_way_or_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manner: str
) -> None:
    monkeypatch.setattr(lock, "_LEAVE_LIMIT_S", 1.0)
    monkeypatch.setattr(lock, "_ENDING_S", 0.01)
    with holder(tmp_path / "lock", manner=manner) as lost:
        (tmp_path / "lock").unlink()

        assert lock.send_away(lost.pid, kernel.start_time(lost.pid), kernel.boot_id())
        assert lost.wait() == -(signal.SIGKILL if manner == "deaf" else lock.LEAVE_SIGNAL)


def test_whoever_is_not_for_certain_that_one_is_left_alone(
    held: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process with its number, one of an earlier boot, an old record, ourselves, and one that has ended."""
    monkeypatch.setattr(lock, "_ENDING_S", 0.01)
    began, boot, us = kernel.start_time(held.pid) or 0, kernel.boot_id(), os.getpid()

    assert not lock.send_away(held.pid, began + 1, boot)
    assert not lock.send_away(held.pid, began, "another")
    assert not lock.send_away(held.pid, None, boot)
    assert not lock.send_away(us, kernel.start_time(us), boot)
    assert held.poll() is None
    os.kill(held.pid, signal.SIGKILL)
    os.waitid(os.P_PID, held.pid, os.WEXITED | os.WNOWAIT)  # and nobody has reaped it
    assert not lock.send_away(held.pid, began, boot)
    held.wait()
    assert not lock.send_away(held.pid, began, boot)
