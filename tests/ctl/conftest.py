"""A user of one's own, and the commands as that user types them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.control import Control
from fakes.terminal import Ran, Run, Spawn

from modelproxy.ctl.__main__ import main
from modelproxy.supervisor.paths import Paths, find, prepare


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """The files of a user whose home is empty."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable, folder in (("RUNTIME_DIR", "run"), ("STATE_HOME", "state"), ("CONFIG_HOME", "config")):
        monkeypatch.setenv(f"XDG_{variable}", str(tmp_path / folder))
    found = find()
    prepare(found)
    return found


@pytest.fixture
def control(paths: Paths) -> Iterator[Control]:
    """A supervisor that only pretends."""
    with Control(paths) as running:
        yield running


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], paths: Paths) -> Run:
    """Run `proxyctl` inside this process."""

    def run(*argv: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["proxyctl", *argv])
        capsys.readouterr()
        code = main()
        return Ran(code, *capsys.readouterr())

    return run


@pytest.fixture
def spawn(paths: Paths) -> Iterator[Spawn]:
    """Start a real command (a module of ctl) as a process; whatever still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def spawn(module: str, *argv: str, **env: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", f"modelproxy.ctl{module}", *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **env},
        )
        started.append(process)
        return process

    yield spawn
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
