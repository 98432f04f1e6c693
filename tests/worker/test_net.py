"""Sockets over trio's loop, and noticing that a peer has hung up."""

from __future__ import annotations

import resource
import select
import socket
from collections.abc import Callable

import pytest
import trio
import trio.testing

from modelproxy.worker.net import HangUps, PeekingHangUps, RawSocket, Spare, Stalled, hang_ups


def _pair() -> tuple[socket.socket, socket.socket]:
    listener = socket.create_server(("127.0.0.1", 0))
    near = socket.create_connection(listener.getsockname())
    far, _ = listener.accept()
    listener.close()
    return near, far


async def test_received_is_what_was_sent() -> None:
    """In order, and then the end."""
    near, far = _pair()
    with far:
        stream = RawSocket(near)
        assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert stream.recv_now() is None
        far.sendall(b"hello")

        assert await stream.recv() == b"hello"
        far.shutdown(socket.SHUT_WR)
        assert await stream.recv() == b""
        await stream.send_all(b"bye")
        stream.end()
        assert (far.recv(9), far.recv(9)) == (b"bye", b"")
        stream.close()
        stream.close()


async def test_recv_is_always_a_checkpoint() -> None:
    """Every loop of the server leans on this."""
    near, far = _pair()
    with far:
        stream = RawSocket(near)
        far.sendall(b"hello")
        with trio.CancelScope() as scope:
            scope.cancel()
            await stream.recv()

        assert scope.cancelled_caught
        stream.close()


async def test_a_send_waits_for_a_slow_reader() -> None:
    """And loses nothing."""
    near, far = _pair()
    stream, reader = RawSocket(near), RawSocket(far)
    data = bytes(range(256)) * 100_000
    got = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, data)
        while len(got) < len(data):
            got += await reader.recv()

    assert bytes(got) == data
    stream.close()
    reader.close()


async def test_a_cancelled_send_goes_out_ahead_of_the_next() -> None:
    """A stream can be ended properly after a cancellation in the middle of a chunk."""
    near, far = _pair()
    stream, reader = RawSocket(near), RawSocket(far)
    first = b"a" * 20_000_000
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, first)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    got = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, b"end")
        while not got.endswith(b"end"):
            got += await reader.recv()

    assert bytes(got) == first + b"end"
    stream.close()
    reader.close()


async def test_a_reader_that_takes_nothing_is_given_up() -> None:
    """Its memory is wanted by others."""
    near, far = _pair()
    stream = RawSocket(near)
    with far, pytest.raises(Stalled):
        await stream.send_all(b"a" * 20_000_000, stall_s=0.01)
    stream.close()


async def test_closing_wakes_who_waits() -> None:
    """Or it would wait for ever, or for the next socket of that number."""
    near, far = _pair()
    stream = RawSocket(near)

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await stream.recv()

    with far:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            stream.close()


async def test_reset_is_seen_as_an_error() -> None:
    """A plain close is an end."""
    near, far = _pair()
    RawSocket(near).reset()
    with far, pytest.raises(ConnectionResetError):
        far.recv(1)


WATCHERS: list[Callable[[], HangUps]] = [PeekingHangUps]
if hasattr(select, "epoll"):
    WATCHERS.append(hang_ups)


@pytest.mark.parametrize("make", WATCHERS)
@pytest.mark.parametrize("how", ["close", "half-close", "reset", "close behind data"])
async def test_a_hang_up_is_told_once(make: Callable[[], HangUps], how: str) -> None:
    """Data alone tells nothing; each way of leaving does."""
    watcher = make()
    near, far = _pair()
    told: list[None] = []
    gone = trio.Event()

    def tell() -> None:
        told.append(None)
        gone.set()

    watcher.watch(near, tell)
    far.sendall(b"data")
    assert near.recv(4) == b"data"
    await trio.testing.wait_all_tasks_blocked()
    assert told == []
    if how == "close behind data":
        far.sendall(b"unread")
    if how == "half-close":
        far.shutdown(socket.SHUT_WR)
    elif how == "reset":
        RawSocket(far).reset()
    else:
        far.close()
    if make is PeekingHangUps and how == "close behind data":
        near.recv(6)  # unread bytes hide the end from a peek
    with trio.fail_after(5):
        await gone.wait()

    await trio.testing.wait_all_tasks_blocked()
    assert told == [None]
    watcher.forget(near)
    near.close()
    far.close()


@pytest.mark.parametrize("make", WATCHERS)
async def test_what_is_forgotten_tells_nothing(make: Callable[[], HangUps]) -> None:
    """A number that comes back as another socket must not call the old one's owner."""
    watcher = make()
    near, far = _pair()
    watcher.watch(near, lambda: pytest.fail("told of a forgotten socket"))
    watcher.forget(near)
    watcher.forget(near)
    far.close()
    await trio.testing.wait_all_tasks_blocked()
    await trio.testing.wait_all_tasks_blocked()
    near.close()


async def test_there_is_one_watcher_per_loop() -> None:
    """Connections of all servers share it."""
    assert hang_ups() is hang_ups()


# --- the spare descriptor ---------------------------------------------------------------------------


def test_a_spare_descriptor_is_there_when_there_is_no_other() -> None:
    """Its place is free when it is given up; whether there is more room is told without using it up."""
    spare = Spare()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert spare.take()
    assert spare.take()  # one is held, not two
    assert spare.is_enough()
    with socket.socket() as highest:
        taken = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest.fileno() + 1, limits[1]))
        try:
            while True:
                taken.append(socket.socket())
        except OSError:
            assert not spare.is_enough()
            assert spare.give_up()
            taken.append(socket.socket())
            assert (spare.take(), spare.give_up(), spare.is_enough()) == (False, False, False)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for one in taken:
                one.close()
    assert spare.is_enough()
    assert spare.give_up()
