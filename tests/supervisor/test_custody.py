"""Safe keeping, with a real holder: what outlives a supervisor, and what no trouble of it may disturb."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from fakes.clock import until

from modelproxy.supervisor import custody, sockets
from modelproxy.supervisor.custody import HolderCustody
from modelproxy.supervisor.paths import Paths

LIMIT_S = 30.0
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="its holder is watched by Linux means")


class Keeping:
    """One supervisor's custody after another's, over the same holder."""

    def __init__(self, paths: Paths) -> None:
        self.path = paths.holder_socket
        self.log: list[str] = []
        self.made: list[HolderCustody] = []

    def another(self) -> HolderCustody:
        made = HolderCustody(self.path, self.log.append, dict(os.environ))
        self.made.append(made)
        return made

    @asynccontextmanager
    async def running(self) -> AsyncIterator[HolderCustody]:
        """What a supervisor does from its start until it is killed."""
        made = self.another()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.run)
            yield made
            nursery.cancel_scope.cancel()
        made._hang_up()  # as the kernel does for a killed one

    def holders(self) -> list[subprocess.Popen[bytes]]:
        return [made._child for made in self.made if made._child is not None]

    def holder(self) -> subprocess.Popen[bytes]:
        return self.holders()[-1]


@pytest.fixture
def keeping(paths: Paths) -> Iterator[Keeping]:
    made = Keeping(paths)
    yield made
    for holder in made.holders():
        if holder.poll() is None:
            holder.kill()
            holder.wait()
    for one in made.made:
        if one._connection is not None:
            one._connection.close()
        for wish in one._wishes.values():
            wish.close()


def port_of(listeners: list[socket.socket]) -> int:
    port: int = listeners[0].getsockname()[1]
    return port


async def test_sockets_outlive_their_supervisor(keeping: Keeping, listeners: list[socket.socket]) -> None:
    """The next one gets the very same: what has queued meanwhile is still there."""
    port = port_of(listeners)
    async with keeping.running() as first:
        first.hold(port, listeners)
        await first.settled()
    for one in listeners:
        one.close()
    client = socket.create_connection(("127.0.0.1", port))
    found = await keeping.another().take()

    assert list(found) == [port]
    accepted, peer = found[port][0].accept()
    assert peer == client.getsockname()
    for one in (client, accepted, *found[port]):
        one.close()


async def test_a_holder_has_room_for_more_than_select_can_count(
    keeping: Keeping, listeners: list[socket.socket]
) -> None:
    """Also when it is alone and looks at all of them. What it may have open is the system's to say."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] != resource.RLIM_INFINITY and limits[1] < 2000:
        pytest.skip("this machine lets nobody have so many descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2000, limits[1]))
    first, count = keeping.another(), 1 + 1024 // 8
    try:
        await first._find_or_start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    for number in range(count):
        await first._ask({"op": "put", "port": number}, 8 * listeners[:1])
    holder = keeping.holder()
    assert len(os.listdir(f"/proc/{holder.pid}/fd")) > 1024
    first._hang_up()
    # It is looked for by number, so that the next connection does not come before it has found itself alone.
    await until(
        lambda: len(os.listdir(f"/proc/{holder.pid}/fd")) == 8 * count + 4 or holder.poll() is not None
    )
    second = keeping.another()
    await second._connect()

    assert len((await second._ask({"op": "list"}))[0]["ports"]) == count
    assert holder.poll() is None


async def test_without_a_holder_nothing_is_taken_over(keeping: Keeping) -> None:
    assert await keeping.another().take() == {}


async def test_a_holder_that_is_stopped_keeps_no_supervisor_from_starting(
    keeping: Keeping, listeners: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is left alone with what it has, which is said; a supervisor that does not start helps nobody."""
    async with keeping.running() as first:
        first.hold(port_of(listeners), listeners)
        await first.settled(30.0)
    keeping.holder().send_signal(signal.SIGSTOP)
    monkeypatch.setattr(custody, "_ANSWER_LIMIT_S", 0.1)

    assert await keeping.another().take() == {}
    assert keeping.log == ["what the socket holder has could not be taken over (it does not answer)"]


@pytest.mark.parametrize("end", [signal.SIGSTOP, signal.SIGKILL])
async def test_a_holder_of_an_earlier_supervisor_is_replaced_as_well(
    keeping: Keeping, listeners: list[socket.socket], monkeypatch: pytest.MonkeyPatch, end: signal.Signals
) -> None:
    """Stopped, it would keep its socket and every port; dead, and ours by execution anew, it would stay a zombie."""
    monkeypatch.setattr(custody, "_ANSWER_LIMIT_S", 0.5)
    port = port_of(listeners)
    async with keeping.running() as first:
        first.hold(port, listeners)
        await first.settled()
    old = keeping.holder()
    async with keeping.running() as second:
        second.hold(port, listeners)
        await second.settled()
        assert second._child is None  # it is the same one
        old.send_signal(end)
        second.hold(port, listeners)
        await until(lambda: second._child is not None)
        await second.settled(LIMIT_S)

        with pytest.raises(ProcessLookupError):
            os.kill(old.pid, 0)  # not even a zombie
    found = await keeping.another().take()

    assert list(found) == [port], keeping.log
    for one in found[port]:
        one.close()


async def test_a_holder_that_stands_still_while_the_supervisor_leaves(
    keeping: Keeping, listeners: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the two limits is over first, leaving ends in order, and no port stays open."""
    async with keeping.running() as leaving:
        leaving.hold(port_of(listeners), listeners)
        await leaving.settled()
        stopped = keeping.holder()
        stopped.send_signal(signal.SIGSTOP)
        monkeypatch.setattr(custody, "_ANSWER_LIMIT_S", 0.5)
        with trio.fail_after(LIMIT_S):
            await leaving.quit()
        assert not keeping.path.exists()
        await until(lambda: stopped.poll() is not None)
    assert [one for one in keeping.holders() if one.poll() is None] == []


async def test_one_of_an_earlier_supervisor_that_stands_still_while_this_one_leaves(
    keeping: Keeping, listeners: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for one that is no child of this process, as far as it knows."""
    async with keeping.running() as first:
        first.hold(port_of(listeners), listeners)
        await first.settled()
    stopped = keeping.holder()
    async with keeping.running() as leaving:
        await until(lambda: leaving._found is not None)
        stopped.send_signal(signal.SIGSTOP)
        monkeypatch.setattr(custody, "_ANSWER_LIMIT_S", 0.5)
        with trio.fail_after(LIMIT_S):
            await leaving.quit()
    await until(lambda: stopped.poll() is not None)


async def test_hanging_up_on_a_waiting_task_does_not_end_the_supervisor(
    keeping: Keeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task is woken with an error that is no OSError."""
    monkeypatch.setattr(custody, "_RETRY_S", 0.01)
    async with keeping.running() as made:
        await until(lambda: made._connection is not None)
        await trio.testing.wait_all_tasks_blocked()
        made._hang_up()
        await until(lambda: made._connection is not None)


async def test_a_holder_that_dies_is_replaced(
    keeping: Keeping, listeners: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one gets everything anew."""
    monkeypatch.setattr(custody, "_RETRY_S", 0.01)
    port = port_of(listeners)
    async with keeping.running() as made:
        made.hold(port, listeners)
        await made.settled()
        first = keeping.holder()
        first.kill()
        await until(lambda: made._child not in (None, first))
        await until(lambda: made._connection is not None and all(one.done for one in made._wishes.values()))
    found = await keeping.another().take()

    assert list(found) == [port]
    for one in found[port]:
        one.close()


async def test_the_first_loss_is_made_good_at_once(
    keeping: Keeping, listeners: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No rest before it: until then the sockets have one pair of hands less, and a restart waits for them."""
    monkeypatch.setattr(custody, "_RETRY_S", 2 * LIMIT_S)
    async with keeping.running() as made:
        made.hold(port_of(listeners), listeners)
        await made.settled()
        first = keeping.holder()
        first.kill()
        await until(lambda: made._child not in (None, first))
        with trio.fail_after(LIMIT_S):
            await made.settled(LIMIT_S)
        assert keeping.holder() is not first
        assert all(one.done for one in made._wishes.values())


@pytest.mark.parametrize("kind", ["file", "directory"])
async def test_something_else_in_the_socket_s_place_costs_the_safe_keeping_only(
    keeping: Keeping, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Nothing is deleted, one line says so, and it heals when the way is free."""
    monkeypatch.setattr(custody, "_RETRY_S", 0.01)
    keeping.path.write_text("precious") if kind == "file" else keeping.path.mkdir()
    async with keeping.running() as made:
        await until(lambda: bool(keeping.log))
        await trio.sleep(0.05)  # several tries
        assert len(keeping.log) == 1
        assert "is not a socket; move it away, nothing was deleted" in keeping.log[0]
        _clear(keeping.path)
        await until(lambda: made._connection is not None)


def _clear(path: Path) -> None:
    path.rmdir() if path.is_dir() else path.unlink()


async def test_the_port_is_free_when_it_is_let_go(keeping: Keeping, listeners: list[socket.socket]) -> None:
    port = port_of(listeners)
    async with keeping.running() as made:
        made.hold(port, listeners)
        await made.settled()
        for one in listeners:
            one.close()
        made.hold(port, [])
        await made.settled()
        for one in sockets.bind_loopback(port):
            one.close()
