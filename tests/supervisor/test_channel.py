"""Who dials, what they bring, what they say: on a real Unix socket."""

from __future__ import annotations

import array
import json
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from modelproxy.supervisor import channel, kernel, sockets
from modelproxy.worker.contract import Drain, FromWorker, Hello, Ready, Welcome, decode_supervisor, encode

HELLO = Hello("echo/demo", 1, os.getpid(), "token")


class Supervisor:
    """Notes who dialled and what was said."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.links: list[channel.Link] = []
        self.said: list[FromWorker] = []
        self.log: list[str] = []
        self.trouble: Exception | None = None
        self.brought: list[tuple[object, bool, bool]] = []
        """Address, inheritable, blocking of each socket as it arrived."""
        self.kept: list[socket.socket] | None = None
        """A list to move them to; None: they are nobody's."""

    async def on_link(self, link: channel.Link) -> None:
        self.links.append(link)
        if self.trouble is not None:
            raise self.trouble
        for one in link.listeners:
            self.brought.append((one.getsockname(), os.get_inheritable(one.fileno()), one.getblocking()))
        if self.kept is not None:
            self.kept, link.listeners = link.listeners, []
        await link.send(Welcome())

    def on_message(self, link: channel.Link, message: FromWorker) -> None:
        self.said.append(message)

    def dial(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(self.path))
        return client


@pytest.fixture
async def supervisor(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Supervisor]:
    made = Supervisor(tmp_path / "workers.sock")
    with sockets.bind_unix(made.path) as listener:
        nursery.start_soon(channel.serve, listener, made.on_link, made.on_message, made.log.append)
        yield made


async def end_of(client: socket.socket) -> bytes:
    """Everything until the other side hangs up."""
    client.setblocking(False)
    waiting = trio.socket.from_stdlib_socket(client)
    found = b""
    with trio.fail_after(10):
        while data := await waiting.recv(65536):
            found += data
    return found


async def line_of(client: socket.socket) -> bytes:
    client.setblocking(False)
    waiting = trio.socket.from_stdlib_socket(client)
    with trio.fail_after(10):
        return await waiting.recv(65536)


def hello(**changes: object) -> bytes:
    return encode(attrs.evolve(HELLO, **changes), FromWorker)  # type: ignore[arg-type]  # a test's own words


async def test_hello_is_answered_and_words_are_heard(supervisor: Supervisor) -> None:
    with supervisor.dial() as client:
        client.sendall(hello())
        assert decode_supervisor(await line_of(client)) == Welcome()
        client.sendall(encode(Ready(), FromWorker))
        client.shutdown(socket.SHUT_WR)
        await end_of(client)

    [link] = supervisor.links
    assert (link.hello, supervisor.said, link.closed.is_set()) == (HELLO, [Ready()], True)
    assert repr(link) == f"<Link echo/demo g1 pid={os.getpid()}>"
    assert not await link.send(Drain(1.0))


@pytest.mark.parametrize("step", [1, 7, 64])
async def test_cut_anywhere(supervisor: Supervisor, step: int) -> None:
    """Also with several messages in one piece."""
    data = hello() + encode(Ready(), FromWorker) * 3
    with supervisor.dial() as client:
        for start in range(0, len(data), step):
            client.sendall(data[start : start + step])
            await trio.lowlevel.checkpoint()
        client.shutdown(socket.SHUT_WR)
        await end_of(client)

    assert (len(supervisor.links), supervisor.said) == (1, [Ready()] * 3)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"hi there\n", "not JSON"),
        (b"\xff\n", "not JSON"),
        (b'{"type":[]}\n', "unknown message"),
        (b"[" * 100_000 + b"\n", "not JSON"),
        (encode(Ready(), FromWorker), "the first message was not hello"),
        (b'{"type":"hello","token":"sk-secret"}\n', "required field missing"),
        (b"x" * (2 * 1024 * 1024), "message too long"),
        (hello(pid=1), "it says pid 1, the kernel says"),
        (hello() + b"garbage\n", "not JSON"),
        (hello() + b'{"type":{}}\n', "unknown message"),
    ],
    ids=lambda value: repr(value[:20]),
)
async def test_who_breaks_the_contract_is_hung_up_on(supervisor: Supervisor, said: bytes, words: str) -> None:
    """One line in the log, without what was said; everybody else goes on."""
    with supervisor.dial() as good, supervisor.dial() as bad:
        good.sendall(hello())
        await line_of(good)
        await trio.to_thread.run_sync(_send_and_forgive, bad, said)
        try:
            await end_of(bad)
        except ConnectionResetError:
            pass  # it did not read all of it
        good.sendall(encode(Ready(), FromWorker))
        good.shutdown(socket.SHUT_WR)
        await end_of(good)

    assert supervisor.said == [Ready()]
    assert len(supervisor.log) == 1
    assert words in supervisor.log[0]
    assert "sk-secret" not in supervisor.log[0]


def _send_and_forgive(client: socket.socket, data: bytes) -> None:
    try:
        client.sendall(data)
    except OSError:
        pass  # it hung up before the end


async def test_who_hangs_up_without_a_word(supervisor: Supervisor) -> None:
    with supervisor.dial() as client:
        client.shutdown(socket.SHUT_WR)
        await end_of(client)

    assert supervisor.log == ["a worker's connection was closed: it hung up without a word"]


async def test_silence_has_an_end(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "HELLO_LIMIT_S", 0.01)
    with supervisor.dial() as client:
        client.sendall(hello()[:-1])
        await end_of(client)

    assert supervisor.links == []
    assert "closed" in supervisor.log[0]


async def test_another_user_is_refused(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the kernel's word, whatever hello says."""
    monkeypatch.setattr(kernel, "peer_of", lambda connection: kernel.Peer(os.getpid(), os.getuid() + 1))
    with supervisor.dial() as client:
        client.sendall(hello())
        await end_of(client)

    assert (supervisor.links, "is not ours" in supervisor.log[0]) == ([], True)


@pytest.mark.parametrize("trouble", [RuntimeError("bug"), ProcessLookupError("gone")])
async def test_a_bug_of_ours_costs_one_connection(supervisor: Supervisor, trouble: Exception) -> None:
    supervisor.trouble = trouble
    with supervisor.dial() as client:
        client.sendall(hello())
        await end_of(client)
    supervisor.trouble = None
    with supervisor.dial() as client:
        client.sendall(hello())

        assert decode_supervisor(await line_of(client)) == Welcome()


# --- descriptors ----------------------------------------------------------------------------------


def send_with(client: socket.socket, data: bytes, descriptors: list[int]) -> None:
    client.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))])


def holds(fd: int) -> int:
    """How often this process has open what is behind `fd`; others in it may open what they want meanwhile."""
    wanted, found = os.fstat(fd), 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.path.samestat(os.fstat(int(name)), wanted)
        except OSError:
            continue  # the listing's own, or somebody else's: closed by now
    return found


async def test_sockets_come_with_hello(supervisor: Supervisor) -> None:
    """They are the same sockets, not to be inherited; what nobody takes is closed at once."""
    listeners = sockets.bind_loopback(0)
    with supervisor.dial() as client:
        send_with(client, hello(), [one.fileno() for one in listeners])
        await line_of(client)
        await trio.testing.wait_all_tasks_blocked()

        assert supervisor.brought == [(one.getsockname(), False, False) for one in listeners]
        assert [holds(one.fileno()) for one in listeners] == [1] * len(listeners)
    for one in listeners:
        one.close()


async def test_the_new_owner_keeps_them(supervisor: Supervisor) -> None:
    """Beyond the life of the connection."""
    supervisor.kept = []
    listeners = sockets.bind_loopback(0)
    with supervisor.dial() as client:
        send_with(client, hello(), [one.fileno() for one in listeners])
        client.shutdown(socket.SHUT_WR)
        await end_of(client)

    assert [one.getsockname() for one in supervisor.kept] == [one.getsockname() for one in listeners]
    for one in (*listeners, *supervisor.kept):
        one.close()


@pytest.mark.parametrize("said", [b"garbage\n", hello(pid=1), hello()])
async def test_stray_descriptors_do_not_pile_up(supervisor: Supervisor, said: bytes) -> None:
    """Neither files nor sockets, whether or not the rest of the message is any good."""
    read_end, write_end = os.pipe()
    listeners = sockets.bind_loopback(0)
    sent = [read_end, *(one.fileno() for one in listeners), write_end]
    before = [holds(fd) for fd in sent]
    for _ in range(3):
        with supervisor.dial() as client:
            send_with(client, said, sent)
            client.shutdown(socket.SHUT_WR)
            await end_of(client)

    assert [holds(fd) for fd in sent] == before
    for fd in (read_end, write_end):
        os.close(fd)
    for one in listeners:
        one.close()


async def test_a_supervisor_out_of_descriptors_accepts_later(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It complains and tries again."""
    made = Supervisor(tmp_path / "workers.sock")
    failures = [OSError(24, "Too many open files")]
    with sockets.bind_unix(made.path) as listener:
        kind: Any = trio._socket._SocketType  # what `from_stdlib_socket` makes
        real = kind.accept

        async def accept(self: Any) -> Any:
            if failures:
                raise failures.pop()
            return await real(self)

        monkeypatch.setattr(kind, "accept", accept)
        nursery.start_soon(channel.serve, listener, made.on_link, made.on_message, made.log.append)
        with made.dial() as client:
            client.sendall(hello())
            assert json.loads(await line_of(client))["type"] == "welcome"

    assert made.log == ["cannot accept a worker: Too many open files"]
