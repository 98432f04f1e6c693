"""The real command as a process: signals, pipes and a supervisor that is stuck."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.control import Control, view
from fakes.terminal import Spawn

pytestmark = pytest.mark.slow


def test_a_stuck_supervisor_costs_five_seconds_at_most(spawn: Spawn, control: Control) -> None:
    control.hang.add("GET")
    commands = [spawn("", *argv) for argv in (["ps"], ["daemon", "status"], ["events"])]
    for command in commands:
        out, err = command.communicate(timeout=8)

        assert (command.returncode, out) == (3, "")
        assert err.startswith(f"error: the supervisor (pid {control.pid}) does not answer\nhint: ")


def test_ctrl_c_while_waiting(spawn: Spawn, control: Control) -> None:
    control.hang.add("PUT")
    command = spawn("", "up", "a/b")
    while not any(method == "PUT" for method, _, _ in control.asked):
        assert command.poll() is None
    command.send_signal(signal.SIGINT)
    out, err = command.communicate(timeout=10)

    assert (command.returncode, out, err) == (130, "", "")


def test_a_reader_that_has_enough_is_no_failure(control: Control) -> None:
    """With pipefail, so that the exit code of `ps` counts."""
    control.proxies = {f"a/{number}": view(f"a/{number}") for number in range(5000)}
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{sys.executable} -P -m modelproxy.ctl ps | head -1"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("NAME")


def test_nothing_of_the_present_folder_is_imported(
    spawn: Spawn, control: Control, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent's project may hold a file named like a module of ours."""
    for name in ("json", "typer", "supervisor", "ctl"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    out, err = spawn("", "ps", "-a").communicate(timeout=10)

    assert (out.split()[0], err) == ("NAME", "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no device that is always full")
@pytest.mark.parametrize("argv", [["ps"], ["ps", "--json"], ["ps", "-v"], ["--help"]])
def test_a_full_disk_behind_stdout_is_one_sentence(argv: list[str], control: Control) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "modelproxy.ctl", *argv],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert done.returncode == 1
    assert done.stderr.startswith("error: no space left")
    assert done.stderr.count("\n") == 1
