"""Alive, dead, undead, and somebody else."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from modelproxy.ctl.processes import boot_id, daemon_pid, is_alive, is_same, start_time
from modelproxy.supervisor.paths import Paths

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_this_process_is_alive() -> None:
    assert is_alive(os.getpid())
    assert not is_alive(None)
    assert not is_alive(0)
    assert not is_alive(2**22 + 1)


@linux
def test_a_zombie_is_dead() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, and not reaped

    assert not is_alive(child.pid)

    child.wait()


@linux
def test_a_pid_used_again_is_not_the_same_process() -> None:
    started = start_time(os.getpid())
    assert started is not None

    assert is_same(os.getpid(), started, boot_id())
    assert is_same(os.getpid(), started, None)
    assert not is_same(os.getpid(), started + 1, boot_id())
    assert not is_same(os.getpid(), started, "another boot")
    assert not is_same(os.getpid(), None, boot_id())


@pytest.mark.parametrize(
    ("text", "expected"), [("4121\n", 4121), ("4121 1000.5\n", 4121), ("", None), ("x", None)]
)
def test_the_lock_file_names_the_daemon(paths: Paths, text: str, expected: int | None) -> None:
    paths.lock.write_text(text)

    assert daemon_pid(paths) == expected


def test_no_lock_file_no_daemon(paths: Paths) -> None:
    assert daemon_pid(paths) is None
