"""The worker's end of the channel, on real Unix sockets."""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from modelproxy.supervisor.sockets import bind_unix
from modelproxy.worker import link as link_module
from modelproxy.worker.contract import (
    Beat,
    Bye,
    Drain,
    FromSupervisor,
    FromWorker,
    Hello,
    Lines,
    Ready,
    Reopen,
    Welcome,
    WorkerSpec,
    decode_worker,
    encode,
)
from modelproxy.worker.link import Ears, Link

SPEC = WorkerSpec("echo/demo", "echo/demo", "echo", "echo", "demo", 3457)


class Boss:
    """A supervisor's socket, played by the test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listener = bind_unix(path)

    async def accept(self) -> Call:
        with trio.fail_after(20), self.listener.dup() as copy:
            connection, _ = await trio.socket.from_stdlib_socket(copy).accept()
        return Call(connection)

    def close(self) -> None:
        self.listener.close()
        self.path.unlink(missing_ok=True)


class Call:
    """One worker's connection."""

    def __init__(self, connection: trio.socket.SocketType) -> None:
        self.connection = connection
        self.descriptors: list[int] = []
        self._lines = Lines()
        self._heard: list[FromWorker] = []

    async def hear(self) -> FromWorker:
        """The next message."""
        while not self._heard:
            with trio.fail_after(20):
                data, ancillary, _, _ = await self.connection.recvmsg(65536, socket.CMSG_SPACE(64))
            assert data, "the worker hung up"
            for _, _, rights in ancillary:
                self.descriptors += array.array("i", rights)
            self._heard += [decode_worker(line) for line in self._lines.feed(data)]
        return self._heard.pop(0)

    async def say(self, *messages: FromSupervisor) -> None:
        await self.connection.send(b"".join(encode(message, FromSupervisor) for message in messages))

    async def ended(self) -> bool:
        """Waits for the worker to hang up."""
        with trio.fail_after(20):
            return await self.connection.recv(1) == b""

    def close(self) -> None:
        self.connection.close()
        for fd in self.descriptors:
            os.close(fd)


@attrs.define
class Told:
    specs: list[WorkerSpec] = attrs.Factory(list)
    drains: list[Drain] = attrs.Factory(list)
    reopened: int = 0
    log: list[str] = attrs.Factory(list)
    news: trio.Event = attrs.Factory(trio.Event)

    def ears(self) -> Ears:
        return Ears(self.specs.append, self.drains.append, self._reopen)

    def _reopen(self) -> None:
        self.reopened += 1
        self.news.set()

    def note(self, level: str, event: str, **_: Any) -> None:
        self.log.append(event)
        self.news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Looked at whenever something is noted."""
        with trio.fail_after(20):
            while not condition():
                self.news = trio.Event()
                await self.news.wait()


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def boss(tmp_path: Path) -> Iterator[Boss]:
    made = Boss(tmp_path / "workers.sock")
    yield made
    made.close()


@pytest.fixture
def listeners() -> Iterator[list[socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as one:
        yield [one]


@pytest.fixture
async def link(
    boss: Boss,
    told: Told,
    listeners: list[socket.socket],
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
) -> Link:
    """Running; it dials again almost at once."""
    monkeypatch.setattr(link_module, "REDIAL_S", 0.001)
    made = Link(
        str(boss.path),
        hello=lambda: Hello("echo/demo", 1, os.getpid(), "token"),
        listeners=lambda: listeners,
        ears=told.ears(),
        log=told.note,
    )
    nursery.start_soon(made.run)
    return made


async def settle() -> None:
    """Until what was sent has been taken in."""
    for _ in range(5):
        await trio.testing.wait_all_tasks_blocked(0.001)


async def test_it_says_hello_with_its_sockets(boss: Boss, link: Link, listeners: list[socket.socket]) -> None:
    call = await boss.accept()

    assert await call.hear() == Hello("echo/demo", 1, os.getpid(), "token")
    [fd] = call.descriptors
    with socket.socket(fileno=os.dup(fd)) as received:
        assert received.getsockname() == listeners[0].getsockname()
    call.close()


async def test_what_the_supervisor_says_is_heard(boss: Boss, link: Link, told: Told) -> None:
    """In order, also in one piece; a greeting without a spec changes none."""
    call = await boss.accept()
    await call.hear()
    await call.say(Welcome(SPEC), Welcome(), Drain(5.0), Reopen())
    await told.until(lambda: told.reopened > 0)

    assert (told.specs, told.drains, told.reopened) == ([SPEC], [Drain(5.0)], 1)
    assert link.alone_since is None
    call.close()


async def test_what_the_worker_says_is_heard(boss: Boss, link: Link) -> None:
    call = await boss.accept()
    await call.hear()
    await settle()
    await link.say(Ready())
    await link.say(Beat(0.0, 1, 1))
    await link.say_last(Bye("SIGTERM"))

    assert [await call.hear() for _ in range(3)] == [Ready(), Beat(0.0, 1, 1), Bye("SIGTERM")]
    call.close()


async def test_it_dials_the_next_supervisor(boss: Boss, link: Link, told: Told) -> None:
    """The one before was killed; nobody had to tell the worker."""
    first = await boss.accept()
    await first.hear()
    await first.say(Welcome())
    await told.until(lambda: told.log == ["supervisor-found"])
    assert link.alone_since is None
    boss.close()
    first.close()
    await told.until(lambda: told.log[-1] == "supervisor-gone")
    await link.say(Ready())  # nobody listens: lost, and no trouble
    successor = Boss(boss.path)
    second = await successor.accept()

    assert isinstance(await second.hear(), Hello)
    await second.say(Welcome())
    await told.until(lambda: told.log == ["supervisor-found", "supervisor-gone", "supervisor-found"])
    second.close()
    successor.close()


@pytest.mark.parametrize(
    "garbage", [b"garbage\n", b'{"type":[]}\n', b"[" * 100_000 + b"\n", b'{"type":"ready"}\n']
)
async def test_a_supervisor_that_talks_nonsense_is_hung_up_on(
    boss: Boss, link: Link, told: Told, garbage: bytes
) -> None:
    """And dialled again: the worker serves on whatever happens here."""
    call = await boss.accept()
    await call.hear()
    await call.connection.send(garbage)

    assert await call.ended()
    assert "channel" in told.log
    again = await boss.accept()
    assert isinstance(await again.hear(), Hello)
    call.close()
    again.close()


async def test_patience_grows(link: Link, boss: Boss) -> None:
    """Ten tries a second for a minute, then one."""
    call = await boss.accept()
    await call.hear()
    now = trio.current_time()
    link.alone_since = now
    assert link._pause() == link_module.REDIAL_S
    link.alone_since = now - link_module.PATIENT_AFTER_S - 1.0

    assert link._pause() == link_module.PATIENT_REDIAL_S
    call.close()


async def test_one_that_never_listens_does_not_hold_up_the_end(
    boss: Boss, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hangs with its buffer full: the last word has a limit."""
    monkeypatch.setattr(link_module, "_LAST_WORD_S", 0.01)
    call = await boss.accept()
    await call.hear()
    await settle()
    with trio.move_on_after(0.05) as scope:
        while True:
            await link.say(Bye("x" * 65536))
    assert scope.cancelled_caught
    with trio.fail_after(20):
        await link.say_last(Bye("SIGTERM"))

    call.close()


@pytest.mark.parametrize("length", [100, 104, 108, 240])
async def test_the_socket_s_path_may_be_long(
    tmp_path: Path, told: Told, nursery: trio.Nursery, length: int
) -> None:
    """Over the kernel's limit by way of its directory."""
    folder = tmp_path
    while len(str(folder)) < length - 60:
        folder = folder / ("d" * 40)
    folder.mkdir(parents=True, exist_ok=True)
    boss = Boss(folder / ("s" * max(1, length - len(str(folder)) - 1)))
    made = Link(
        str(boss.path),
        hello=lambda: Hello("echo/demo", 1, os.getpid(), "token"),
        listeners=list,
        ears=told.ears(),
        log=told.note,
    )
    nursery.start_soon(made.run)
    call = await boss.accept()

    assert isinstance(await call.hear(), Hello)
    assert call.descriptors == []
    call.close()
    boss.close()
    nursery.cancel_scope.cancel()
