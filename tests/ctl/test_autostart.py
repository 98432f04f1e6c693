"""Starting a supervisor: one that answers, one that dies, one that loses the race."""

from __future__ import annotations

import os
import signal
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.control import Control

from modelproxy.ctl import autostart
from modelproxy.ctl.faults import Fault
from modelproxy.ctl.processes import is_alive
from modelproxy.supervisor.paths import Paths

TESTS = Path(__file__).parents[1]
PRETEND = """
import os, signal
from fakes.control import Control
from modelproxy.supervisor.paths import find
with Control(find()):
    print("cwd", os.getcwd(), "session", os.getsid(0) == os.getpid(), "stdin", os.read(0, 1), flush=True)
    signal.pause()
"""


@pytest.fixture
def pretended(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """`start` starts the fake supervisor; its pid belongs into the list, to be killed."""
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    monkeypatch.setattr(autostart, "COMMAND", (sys.executable, "-c", PRETEND))
    pids: list[int] = []
    yield pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.mark.slow
def test_start_detaches_it_and_waits_for_its_answer(paths: Paths, pretended: list[int]) -> None:
    version, started = autostart.ensure(paths)
    pretended.append(version["pid"])

    assert started
    assert version["pid"] != os.getpid()
    assert is_alive(version["pid"])
    assert stat.S_IMODE(paths.daemon_log.stat().st_mode) == 0o600
    assert autostart.ensure(paths) == (version, False)
    said = paths.daemon_log.read_text()
    assert said in ("", "cwd / session True stdin b''\n")


def test_one_that_runs_is_left_alone(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autostart, "COMMAND", ("/not/there",))

    assert autostart.ensure(control.paths) == (control.version(), False)


@pytest.mark.parametrize(
    ("program", "says"),
    [
        (
            "import sys; sys.exit('no more sockets')",
            "it ended with exit code 1; its last words: no more sockets",
        ),
        ("import os; os.kill(os.getpid(), 9)", "it ended with signal 9"),
        (
            "import sys; sys.exit('  | OSError: no more sockets\\n  +-----')",
            "it ended with exit code 1; its last words: OSError: no more sockets",
        ),
    ],
)
def test_one_that_dies_is_quoted(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, program: str, says: str
) -> None:
    monkeypatch.setattr(autostart, "COMMAND", (sys.executable, "-S", "-c", program))

    with pytest.raises(Fault) as refused:
        autostart.start(paths)

    assert (refused.value.code, refused.value.exit_code) == ("daemon_start_failed", 3)
    assert refused.value.message.endswith(says)
    assert str(paths.daemon_log) in refused.value.hint


def test_the_loser_of_a_race_takes_the_winner(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves with 0 because somebody else holds the lock."""
    monkeypatch.setattr(autostart, "COMMAND", (sys.executable, "-S", "-c", "pass"))

    assert autostart.start(control.paths) == control.version()


def test_one_that_never_answers(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autostart, "COMMAND", (sys.executable, "-S", "-c", "pass"))
    monkeypatch.setattr(autostart, "START_S", 0.05)

    with pytest.raises(Fault, match="does not answer after"):
        autostart.start(paths)


def test_a_directory_that_others_can_reach_is_refused(paths: Paths) -> None:
    paths.runtime.chmod(0o755)

    with pytest.raises(Fault, match="open to other users") as refused:
        autostart.start(paths)

    assert refused.value.code == "unsafe_directory"
