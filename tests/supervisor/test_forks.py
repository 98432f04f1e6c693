"""The supervisor's side of the fork server, with real ones: what comes of it, and every way to lose it."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from fakes.clock import until
from fakes.house import TESTS

from modelproxy.supervisor import forks, kernel
from modelproxy.supervisor.forks import ForkServer, UnavailableError

pytestmark = pytest.mark.skipif(not forks.CAN_FORK, reason="only Linux has a fork server")

LIMIT_S = 30.0


@attrs.define
class Nest:
    """A fork server under test and what belongs to an order."""

    server: ForkServer
    log: list[str]
    folder: Path

    async def fork(self, name: str = "echo/demo", *, certified: bool = True) -> int:
        """A worker without listeners; its pid."""
        reading, writing = os.pipe()
        said = os.open(self.folder / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            pid = await self.server.fork(name, 3, [reading, said])
            if certified:
                os.write(writing, b'{"listeners": []}')
            return pid
        finally:
            for fd in (reading, writing, said):
                os.close(fd)

    async def said(self, pid: int) -> Any:
        """What the telltale has found, once it has stopped itself."""
        await trio.to_thread.run_sync(os.waitid, os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        return json.loads((self.folder / "said").read_text())

    @property
    def pid(self) -> int:
        child = self.server._child
        assert child is not None
        return child.pid

    async def wait_ready(self) -> None:
        await until(lambda: self.server._ready)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Any]:
    @asynccontextmanager
    async def run(module: str = "fakes.telltale", **environment: str) -> AsyncIterator[Nest]:
        log: list[str] = []
        server = ForkServer(module, log.append, {**os.environ, "PYTHONPATH": str(TESTS), **environment})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            yield Nest(server, log, tmp_path)
            nursery.cancel_scope.cancel()

    return run  # type: ignore[return-value]  # a factory


@pytest.fixture(autouse=True)
def no_child_is_left() -> Iterator[None]:
    """Nobody is left behind, dead or alive, and orphans of others go to init again."""
    before = children()
    yield
    assert children() - before == set()


def children() -> set[int]:
    text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return {int(word) for word in text.split()}


def bury(pid: int, signum: int = signal.SIGKILL) -> int:
    """End a worker; how it ended, by wait(2)."""
    os.kill(pid, signum)
    os.kill(pid, signal.SIGCONT)
    return os.waitpid(pid, 0)[1]


async def test_a_worker_is_our_own_child(running: Any) -> None:
    """So its exit code is ours to see, however it ends."""
    async with running() as nest:
        pid = await nest.fork()
        found = await nest.said(pid)
        assert found["parent"] == os.getpid()
        assert bury(pid, signal.SIGCONT) == 7 << 8
        second = await nest.fork()
        await nest.said(second)
        assert bury(second) == signal.SIGKILL
        assert not is_subreaper()

    assert nest.log == []


def is_subreaper() -> bool:
    import ctypes

    answer = ctypes.c_int()
    ctypes.CDLL(None).prctl(37, ctypes.byref(answer), 0, 0, 0)  # PR_GET_CHILD_SUBREAPER
    return bool(answer.value)


async def test_workers_know_nothing_of_one_another(running: Any) -> None:
    """Neither descriptors nor the state of their random numbers."""
    async with running() as nest:
        first = await nest.fork("echo/a")
        a = await nest.said(first)
        second = await nest.fork("echo/b")
        b = await nest.said(second)
        assert (bury(first), bury(second)) == (9, 9)

    assert a["luck"] != b["luck"]
    assert [sorted(found["fds"]) for found in (a, b)] == [["0", "1", "2", "3"]] * 2
    assert b["words"] == ["echo/b", "g3"]


async def test_an_order_that_is_not_certified_comes_to_nothing(running: Any) -> None:
    """The newborn leaves by itself, still in the fork server's group, where it would be found."""
    async with running() as nest:
        pid = await nest.fork(certified=False)
        status = await trio.to_thread.run_sync(lambda: os.waitpid(pid, 0)[1])

        assert status == 0
        assert (nest.folder / "said").read_text() == ""


async def test_killed_it_is_missed(running: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has made lives on, and how that ends is seen; it is said once that there is none now."""
    monkeypatch.setattr(forks, "RETRY_S", LIMIT_S)
    async with running() as nest:
        pid = await nest.fork()
        await nest.said(pid)
        os.kill(nest.pid, signal.SIGKILL)
        await until(lambda: not nest.server.available)
        for _ in range(3):
            with pytest.raises(UnavailableError, match="SIGKILL"):
                await nest.fork()
        assert bury(pid) == signal.SIGKILL

    assert sorted(nest.log) == [
        "no worker comes of the fork server (SIGKILL): it is started by exec",
        "the fork server was lost (SIGKILL); workers are started by exec",
    ]


async def test_killed_it_is_replaced(running: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "RETRY_S", 0.01)
    async with running() as nest:
        await nest.wait_ready()
        lost = nest.pid
        os.kill(lost, signal.SIGKILL)
        await nest.server._lost.wait()
        await nest.wait_ready()
        pid = await nest.fork()
        await nest.said(pid)
        bury(pid)
        assert nest.pid != lost


async def test_one_that_hangs_is_given_up(running: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order is not waited for longer than the limit, and whoever is born of it is nobody."""
    monkeypatch.setattr(forks, "ANSWER_LIMIT_S", 0.2)
    async with running() as nest:
        await nest.wait_ready()
        lost = nest.pid
        os.kill(lost, signal.SIGSTOP)
        with pytest.raises(UnavailableError, match="does not answer"):
            await nest.fork()
        await until(lambda: kernel.run_state(lost) is None)
        assert not is_subreaper()


async def test_killed_in_the_middle_of_an_order_it_leaves_nobody(
    running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker was born, the answer never came: it gets no certificate, and is reaped."""
    heard = forks._receive
    monkeypatch.setattr(forks, "RETRY_S", 0.01)
    before = children()

    async def kill_and_hear(connection: Any) -> Any:
        if connection is nest.server._connection:
            with trio.fail_after(LIMIT_S):
                await trio.lowlevel.wait_readable(connection)  # so it has forked
            os.kill(nest.pid, signal.SIGKILL)
            raise ConnectionResetError("the answer was lost")
        return await heard(connection)

    async with running() as nest:
        await nest.wait_ready()
        monkeypatch.setattr(forks, "_receive", kill_and_hear)
        with pytest.raises(UnavailableError, match="the answer was lost"):
            await nest.fork(certified=False)
        monkeypatch.setattr(forks, "_receive", heard)
        await nest.wait_ready()
        assert children() - before == {nest.pid}


@pytest.mark.parametrize(
    "source",
    [
        "raise RuntimeError('broken at import')",
        "# and no entry",
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "def main(words):\n    return 0\n",
    ],
    ids=["broken", "no entry", "threads"],
)
async def test_one_that_cannot_start_is_said_once(
    running: Any, monkeypatch: pytest.MonkeyPatch, source: str, tmp_path: Path
) -> None:
    """However often it is tried; workers are started by exec."""
    monkeypatch.setattr(forks, "RETRY_S", 0.01)
    starts: list[int] = []
    start = ForkServer._start

    def counting(server: ForkServer) -> None:
        starts.append(1)
        start(server)

    monkeypatch.setattr(ForkServer, "_start", counting)
    (tmp_path / "misshapen.py").write_text(source)
    async with running("misshapen", PYTHONPATH=str(tmp_path)) as nest:
        with pytest.raises(UnavailableError, match=r"exit 1|hung up"):
            await nest.fork()
        first = nest.log[:]
        await until(lambda: len(starts) >= 3)

    assert first
    assert len(set(nest.log)) == len(nest.log)


async def test_without_an_interpreter_it_is_said_why(running: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/gone/python")
    async with running() as nest:
        with pytest.raises(UnavailableError, match="it cannot be started: No such file"):
            await nest.fork()
        assert not nest.server.available


async def test_one_that_takes_long_is_not_waited_for(
    running: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """While it loads a worker waits for it, up to a limit; it is not lost by that."""
    monkeypatch.setattr(forks, "PATIENCE_S", 0.05)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    (tmp_path / "sluggish.py").write_text(f"open({str(gate)!r}).read()\nfrom fakes.telltale import main\n")
    async with running("sluggish", PYTHONPATH=f"{tmp_path}:{TESTS}") as nest:
        assert nest.server.available
        with pytest.raises(UnavailableError, match="not ready yet"):
            await nest.fork()
        await trio.to_thread.run_sync(gate.write_text, "")
        await nest.wait_ready()
        pid = await nest.fork()
        await nest.said(pid)
        bury(pid)


async def test_without_leave_to_adopt_orphans_there_are_no_forks(
    running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sandbox may forbid it; then nobody would see how a worker ends."""

    def forbid(on: bool) -> None:
        if on:
            raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(kernel, "be_subreaper", forbid)
    async with running() as nest:
        await nest.wait_ready()
        with pytest.raises(UnavailableError, match="Operation not permitted"):
            await nest.fork()


async def test_it_ends_with_us(running: Any) -> None:
    """By the end of its line, without a signal: as when the supervisor is killed."""
    async with running() as nest:
        await nest.wait_ready()
        pid = nest.pid
        nest.server._connection.close()
        nest.server._connection = None
        with trio.fail_after(LIMIT_S):
            await nest.server._lost.wait()

    assert kernel.run_state(pid) is None
