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
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from fakes import descriptors
from fakes.house import TESTS

from modelproxy.supervisor import kernel, runner
from modelproxy.supervisor.channel import Link
from modelproxy.supervisor.forks import CAN_FORK, ForkServer, UnavailableError
from modelproxy.supervisor.runner import Birth, Handle, Runner, SpawnError, worker_environment
from modelproxy.supervisor.tally import Tally
from modelproxy.worker.contract import Hello

forking = pytest.mark.skipif(not CAN_FORK, reason="only Linux has a fork server")


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> str:
    """A worker that says what it finds, and then stops (SIGSTOP) to be killed."""
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    return "fakes.telltale"


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
        elif handle.child is None and not handle.closed:
            runner.kill(handle)
            with suppress(ChildProcessError):
                os.waitpid(handle.pid, 0)
        handle.close()


def written(handle: Handle, birth: Birth) -> Any:
    """The telltale's line, once it has said it and waits to be stopped."""
    os.waitid(os.P_PID, handle.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    return json.loads(birth.log_file.read_text().splitlines()[-1])


@pytest.fixture
async def fork_server(module: str, nursery: trio.Nursery) -> ForkServer:
    """One of the telltale's, loading."""
    server = ForkServer(module, pytest.fail, worker_environment(os.environ))
    nursery.start_soon(server.run)
    return server


async def test_what_a_worker_is_born_with(
    module: str, birth: Birth, handles: list[Handle], listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its certificate through a pipe, its sockets, its log, its own session; no key of anybody else."""
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-secret")
    handle = await Runner(module).spawn(birth)
    handles.append(handle)
    found = written(handle, birth)

    assert found["birth"]["token"] == "secret token"
    assert found["birth"]["socket"] == "/run/w.sock"
    assert [tuple(name) for name in found["names"]] == [listener.getsockname()]
    assert found["argv"] == ["echo/demo", "g3"]  # for `ps aux`
    assert (found["cwd"], found["session"]) == ("/", True)
    assert "OPENROUTER_API_KEY" not in found["env"]
    assert "secret token" not in " ".join(found["title"])
    assert stat.S_IMODE(birth.log_file.stat().st_mode) == 0o600
    assert "secret token" not in repr(handle) + repr(birth)
    assert handle.start_time == kernel.start_time(handle.pid) is not None


async def test_how_it_ends_is_seen(module: str, birth: Birth, handles: list[Handle]) -> None:
    """Without a zombie, and without the standard library's own reaping."""
    handle = await Runner(module).spawn(birth)
    handles.append(handle)
    runner.kill(handle)

    assert await runner.wait_exit(handle) == kernel.Exit(signal=9)
    assert handle.child is not None  # it is ours
    assert handle.child.returncode == -9
    assert kernel.run_state(handle.pid) is None


@forking
async def test_both_ways_make_the_same_worker(
    module: str, birth: Birth, handles: list[Handle], fork_server: ForkServer
) -> None:
    """Descriptors, environment, signals, limits, folder, session, words: nothing more and nothing less."""
    reports = []
    for server in (None, fork_server):
        handle = await Runner(module, server).spawn(birth)
        handles.append(handle)
        report = await trio.to_thread.run_sync(written, handle, birth)
        reports.append(report)
    executed, forked = reports

    assert handles[0].child is not None
    assert handles[1].child is None
    same = (
        "names",
        "words",
        "argv",
        "env",
        "kernel_env",
        "signals",
        "cwd",
        "session",
        "parent",
        "limits",
        "umask",
    )
    assert [forked[key] for key in same] == [executed[key] for key in same]
    assert forked["title"][:4] + forked["title"][6:] == executed["title"][:4] + executed["title"][6:]
    assert sorted(map(kind_of, forked["fds"].values())) == sorted(map(kind_of, executed["fds"].values()))
    assert [forked["fds"][number] for number in "012"] == ["/dev/null", *[str(birth.log_file)] * 2]
    assert {**forked["birth"], "listeners": []} == {**executed["birth"], "listeners": []}
    assert len(forked["fds"]) == 3 + len(birth.listeners) + 1
    runner.kill(handles[1])
    assert await runner.wait_exit(handles[1]) == kernel.Exit(signal=9)


def kind_of(link: str) -> str:
    """A pipe has another number each time; a socket is to be the same."""
    return "pipe" if link.startswith("pipe:") else link


@forking
async def test_a_fork_that_is_taken_back_is_nobody(
    module: str, birth: Birth, fork_server: ForkServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled while the answer comes: no handle, no process, no descriptor."""
    made: list[int] = []
    fork = fork_server.fork

    async def fork_and_cancel(*order: Any) -> int:
        made.append(await fork(*order))
        scope.cancel()
        return made[0]

    monkeypatch.setattr(fork_server, "fork", fork_and_cancel)
    with trio.fail_after(30):
        await fork_server._settled.wait()
    before = descriptors.count()
    with trio.CancelScope() as scope:
        await Runner(module, fork_server).spawn(birth)

    assert scope.cancelled_caught
    assert kernel.run_state(made[0]) is None
    assert descriptors.back_to(before)


@forking
async def test_without_a_fork_server_it_is_made_by_exec(
    module: str, birth: Birth, handles: list[Handle], fork_server: ForkServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody who wants a proxy has to know."""

    async def fail(*_: object) -> int:
        raise UnavailableError("as told")

    monkeypatch.setattr(fork_server, "fork", fail)
    handles.append(await Runner(module, fork_server).spawn(birth))

    assert handles[0].child is not None
    assert (await trio.to_thread.run_sync(written, handles[0], birth))["words"] == ["echo/demo", "g3"]


@forking
async def test_a_newborn_that_cannot_be_watched_is_taken_back(
    module: str, birth: Birth, fork_server: ForkServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And exec says what is wrong, as it would have alone."""
    made: list[int] = []

    def fail(pid: int) -> None:
        made.append(pid)
        raise OSError(errno.EMFILE, "Too many open files")

    with trio.fail_after(30):
        await fork_server._settled.wait()
    monkeypatch.setattr(kernel, "open_pidfd", fail)
    with pytest.raises(SpawnError, match="cannot watch a worker: Too many open files"):
        await Runner(module, fork_server).spawn(birth)

    assert [kernel.run_state(pid) for pid in made] == [None, None]


def test_no_signal_goes_to_a_closed_handle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pid may be anybody's by now."""
    sent: list[int] = []
    for way in ("send_signal", "send_signal_to_main_thread"):
        monkeypatch.setattr(kernel, way, lambda pid, pidfd, signum: sent.append(signum))
    handle = Handle(1, 1, None, 1, "t")
    handle.signal(signal.SIGTERM)
    handle.signal_main_thread(signal.SIGQUIT)
    handle.close()
    handle.close()
    for strike in (runner.abort, runner.kill):
        strike(handle)

    assert sent == [signal.SIGTERM, signal.SIGQUIT]


async def test_an_interpreter_that_is_gone_is_permanent(
    birth: Birth, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path is named."""
    monkeypatch.setattr(sys, "executable", "/gone/python")
    before = descriptors.count()
    with pytest.raises(SpawnError, match="cannot start /gone/python: No such file") as caught:
        await Runner().spawn(birth)

    assert caught.value.permanent
    assert descriptors.back_to(before)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE])
async def test_want_of_resources_passes(birth: Birth, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Another try may work; nothing is left open."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(subprocess, "Popen", fail)
    before = descriptors.count()
    with pytest.raises(SpawnError, match=os.strerror(number)) as caught:
        await Runner().spawn(birth)

    assert not caught.value.permanent
    assert descriptors.back_to(before)


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
        await Runner(module).spawn(birth)

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
    handles.append(await Runner(module).spawn(birth))

    assert os.readlink(f"/proc/{handles[0].pid}/fd/2") == "/dev/null"


async def test_a_log_folder_that_was_removed_is_made_again(
    birth: Birth, tmp_path: Path, module: str, handles: list[Handle]
) -> None:
    """Somebody has tidied up; that is no reason to have no worker."""
    log = tmp_path / "gone" / "logs" / "x.log"
    handles.append(await Runner(module).spawn(attrs.evolve(birth, log_file=log)))

    assert os.readlink(f"/proc/{handles[0].pid}/fd/2") == str(log)
    assert stat.S_IMODE(os.stat(log.parent).st_mode) == 0o700


async def test_a_log_that_cannot_ever_be_written_is_permanent(birth: Birth, tmp_path: Path) -> None:
    with pytest.raises(SpawnError, match=r"cannot open its log .*: Is a directory") as caught:
        await Runner().spawn(attrs.evolve(birth, log_file=tmp_path))

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
    before = descriptors.count()
    found = runner.recognise(
        3,
        bystander.pid,
        {"start": started + 1, "no start": None, "boot": started}[wrong],
        "another boot" if wrong == "boot" else kernel.boot_id(),
        "t",
    )

    assert found is None
    assert bystander.poll() is None
    assert descriptors.back_to(before)


@pytest.fixture
def nameless(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A process that is called as a worker is and writes to a log; nobody has noted its pid."""
    log = tmp_path / "echo~unnoted.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            ["/bin/sh", "-xc", "read end", "echo/unnoted", "g3"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.PIPE,
        )
    assert process.stderr is not None
    process.stderr.readline()  # said by -x: by now the kernel has its command line
    yield process, log
    process.communicate()


def test_a_worker_that_was_never_noted_is_found(
    nameless: tuple[subprocess.Popen[bytes], Path], tmp_path: Path
) -> None:
    """Also by the name that its log had before it was rotated, and through a link."""
    process, log = nameless
    log.rename(f"{log}.1")
    (tmp_path / "link").symlink_to(tmp_path)
    handle = runner.seek("echo/unnoted", 3, tmp_path / "link" / log.name, "t")

    assert handle is not None
    assert (handle.generation, handle.pid) == (3, process.pid)
    assert handle.start_time == kernel.start_time(process.pid)
    handle.close()


@pytest.mark.parametrize("wrong", ["name", "generation", "log"])
def test_who_is_another_is_not_taken_for_it(
    nameless: tuple[subprocess.Popen[bytes], Path], tmp_path: Path, wrong: str
) -> None:
    """Another home may have a worker of this very name; no descriptor is kept."""
    _, log = nameless
    before = descriptors.count()
    found = runner.seek(
        "echo/unnot" if wrong == "name" else "echo/unnoted",
        4 if wrong == "generation" else 3,
        tmp_path / "home" / log.name if wrong == "log" else log,
        "t",
    )

    assert found is None
    assert descriptors.back_to(before)


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

    assert (handle.generation, handle.pid, handle.link) == (3, bystander.pid, link)
    assert handle.tally == Tally(ready_at=9.0)
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
