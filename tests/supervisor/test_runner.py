"""Worker processes: made, recognised, signalled, waited for. With real ones."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from modelproxy.supervisor import kernel, runner
from modelproxy.supervisor.channel import Link
from modelproxy.supervisor.runner import Birth, Handle, Runner, SpawnError, worker_environment
from modelproxy.worker.contract import Hello

# A worker that says what it was told and what it finds, and then stops (SIGSTOP) to be killed.
TELLTALE = """
import json, os, signal, socket, sys
fd = int(sys.argv[sys.argv.index("--birth-fd") + 1])
birth = json.load(os.fdopen(fd))
names = [socket.socket(fileno=number).getsockname() for number in birth["listeners"]]
print(json.dumps({"birth": birth, "names": names, "argv": sys.argv[3:], "env": sorted(os.environ), "cwd": os.getcwd(),
                  "session": os.getsid(0) == os.getpid(), "fds": len(os.listdir("/proc/self/fd"))}), flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The telltale as a module that `python -P -m` finds."""
    (tmp_path / "telltale.py").write_text(TELLTALE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "telltale"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


@pytest.fixture
def birth(tmp_path: Path, listener: socket.socket) -> Birth:
    return Birth(
        "echo/demo", 3, "secret token", "/run/w.sock", [listener], tmp_path / "echo.log", tmp_path / "ledger"
    )


@pytest.fixture
def handles() -> Iterator[list[Handle]]:
    made: list[Handle] = []
    yield made
    for handle in made:
        if handle.child is not None and handle.child.returncode is None:
            handle.signal(signal.SIGKILL)
            handle.child.wait()
        handle.close()


def written(handle: Handle, birth: Birth) -> Any:
    """The telltale's line, once it has said it and waits to be stopped."""
    os.waitid(os.P_PID, handle.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    return json.loads(birth.log_file.read_text())


def test_what_a_worker_is_born_with(
    module: str, birth: Birth, handles: list[Handle], listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its certificate through a pipe, its sockets, its log, its own session; no key of anybody else."""
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-secret")
    handle = Runner(module).spawn(birth)
    handles.append(handle)
    found = written(handle, birth)

    assert found["birth"]["token"] == "secret token"
    assert found["birth"]["socket"] == "/run/w.sock"
    assert [tuple(name) for name in found["names"]] == [listener.getsockname()]
    assert found["argv"] == ["echo/demo", "g3"]  # for `ps aux`
    assert (found["cwd"], found["session"]) == ("/", True)
    assert "OPENROUTER_API_KEY" not in found["env"]
    assert "secret token" not in Path(f"/proc/{handle.pid}/cmdline").read_text()
    assert stat.S_IMODE(birth.log_file.stat().st_mode) == 0o600
    assert "secret token" not in repr(handle) + repr(birth)
    assert handle.start_time == kernel.start_time(handle.pid) is not None


async def test_how_it_ends_is_seen(module: str, birth: Birth, handles: list[Handle]) -> None:
    """Without a zombie, and without the standard library's own reaping."""
    handle = Runner(module).spawn(birth)
    handles.append(handle)
    runner.kill(handle)

    assert await runner.wait_exit(handle) == kernel.Exit(signal=9)
    assert handle.child is not None  # it is ours
    assert handle.child.returncode == -9
    assert kernel.run_state(handle.pid) is None


def test_no_signal_goes_to_a_closed_handle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pid may be anybody's by now."""
    sent: list[int] = []
    monkeypatch.setattr(kernel, "send_signal", lambda pid, pidfd, signum: sent.append(signum))
    handle = Handle(1, 1, None, 1, "t")
    handle.signal(signal.SIGTERM)
    handle.close()
    handle.close()
    for strike in (runner.abort, runner.kill):
        strike(handle)

    assert sent == [signal.SIGTERM]


def test_an_interpreter_that_is_gone_is_permanent(birth: Birth, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path is named."""
    monkeypatch.setattr(sys, "executable", "/gone/python")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(SpawnError, match="cannot start /gone/python: No such file") as caught:
        Runner().spawn(birth)

    assert caught.value.permanent
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE])
def test_want_of_resources_passes(birth: Birth, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Another try may work; nothing is left open."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(subprocess, "Popen", fail)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(SpawnError, match=os.strerror(number)) as caught:
        Runner().spawn(birth)

    assert not caught.value.permanent
    assert len(os.listdir("/proc/self/fd")) == before


async def test_without_a_pidfd_nobody_is_left_unwatched(
    module: str, birth: Birth, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is taken back."""
    made: list[int] = []

    def fail(pid: int) -> None:
        made.append(pid)
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(kernel, "open_pidfd", fail)
    with pytest.raises(SpawnError, match="cannot watch"):
        Runner(module).spawn(birth)

    assert kernel.run_state(made[0]) is None


async def test_a_full_disk_does_not_keep_it_from_serving(
    module: str, birth: Birth, handles: list[Handle], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes without its log."""
    real = os.open

    def full(path: Any, *args: Any, **options: Any) -> int:
        if path == birth.log_file:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, *args, **options)

    monkeypatch.setattr(os, "open", full)
    handles.append(Runner(module).spawn(birth))

    assert os.readlink(f"/proc/{handles[0].pid}/fd/2") == "/dev/null"


def test_a_log_that_cannot_ever_be_written_is_permanent(birth: Birth, tmp_path: Path) -> None:
    with pytest.raises(SpawnError, match="Is a directory") as caught:
        Runner().spawn(attrs.evolve(birth, log_file=tmp_path))

    assert caught.value.permanent


def test_a_worker_s_environment_is_a_list_of_what_it_may_know() -> None:
    """The shell that started the daemon may hold every provider's key."""
    allowed = {
        "HOME": "/h",
        "PATH": "/bin",
        "LC_ALL": "C",
        "XDG_RUNTIME_DIR": "/r",
        "https_proxy": "http://p",
        "NO_PROXY": "*",
        "SSL_CERT_FILE": "/c",
        "PYTHONPATH": "/p",
    }
    forbidden = {"ANTHROPIC_API_KEY": "sk", "LD_PRELOAD": "x", "SSH_AUTH_SOCK": "/s", "AWS_SECRET": "s"}

    assert worker_environment(allowed | forbidden) == allowed


# --- after a supervisor's death -------------------------------------------------------------------


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["/bin/sh", "-c", "read end"], stdin=subprocess.PIPE)
    yield process
    process.communicate()


def test_a_recorded_process_is_recognised(bystander: subprocess.Popen[bytes]) -> None:
    started = kernel.start_time(bystander.pid)
    handle = runner.recognise(3, bystander.pid, started, kernel.boot_id(), "t")

    assert handle is not None
    assert (handle.generation, handle.pid, handle.child) == (3, bystander.pid, None)
    handle.close()


@pytest.mark.parametrize("wrong", ["start", "no start", "boot"])
def test_a_stranger_with_its_pid_is_not_touched(bystander: subprocess.Popen[bytes], wrong: str) -> None:
    """Number alone is no identity; a missing record fails closed; no descriptor is kept."""
    started = kernel.start_time(bystander.pid)
    assert started is not None
    before = len(os.listdir("/proc/self/fd"))
    found = runner.recognise(
        3,
        bystander.pid,
        {"start": started + 1, "no start": None, "boot": started}[wrong],
        "another boot" if wrong == "boot" else kernel.boot_id(),
        "t",
    )

    assert found is None
    assert bystander.poll() is None
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_zombie_is_dead(bystander: subprocess.Popen[bytes]) -> None:
    started = kernel.start_time(bystander.pid)
    bystander.kill()
    os.waitid(os.P_PID, bystander.pid, os.WEXITED | os.WNOWAIT)

    assert runner.recognise(3, bystander.pid, started, kernel.boot_id(), "t") is None


def test_a_dialler_is_adopted_with_what_it_says(bystander: subprocess.Popen[bytes]) -> None:
    hello = Hello("echo/demo", 3, bystander.pid, "t", requests=5, in_flight=1, started_at=9.0)
    connection: Any = None
    link = Link(connection, hello, [])
    handle = runner.adopt(link)

    assert (handle.generation, handle.pid, handle.requests, handle.in_flight) == (3, bystander.pid, 5, 1)
    assert (handle.link, handle.ready_at) == (link, 9.0)
    handle.close()
    bystander.kill()
    bystander.wait()
    with pytest.raises(ProcessLookupError):
        runner.adopt(link)


async def test_last_words_are_read_before_the_end_counts(
    bystander: subprocess.Popen[bytes], autojump_clock: trio.testing.MockClock
) -> None:
    """`bye` may still be in the socket when the process is gone; a line that hangs costs a second."""
    connection: Any = None
    handle = runner.recognise(1, bystander.pid, kernel.start_time(bystander.pid), kernel.boot_id(), "t")
    assert handle is not None
    handle.link = Link(connection, Hello("echo/demo", 1, bystander.pid, "t"), [])
    bystander.kill()
    await trio.to_thread.run_sync(os.waitid, os.P_PID, bystander.pid, os.WEXITED | os.WNOWAIT)
    began = trio.current_time()

    assert await runner.wait_exit(handle) == kernel.Exit(signal=9)
    assert trio.current_time() - began == 1.0
    bystander.returncode = -9  # reaped by what is tested
    handle.close()
