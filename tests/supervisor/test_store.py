"""Safe keeping with the service manager: what outlives a supervisor, and what is let go."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import trio
from fakes.clock import until
from fakes.systemd import ServiceManager

from modelproxy.supervisor import custody, sockets, store
from modelproxy.supervisor.custody import HolderCustody
from modelproxy.supervisor.notify import Inheritance, Notifier, port_name
from modelproxy.supervisor.paths import Paths
from modelproxy.supervisor.store import StoreCustody

LIMIT_S = 30.0


class Keeping:
    """One supervisor's custody after another's."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.log: list[str] = []

    def begin(self, address: str, inheritance: Inheritance | None = None, size: int = 512) -> StoreCustody:
        holder = HolderCustody(self.paths.holder_socket, self.log.append, dict(os.environ))
        return StoreCustody(Notifier(address), inheritance or Inheritance(), size, holder, self.log.append)


@pytest.fixture
def keeping(paths: Paths) -> Keeping:
    return Keeping(paths)


def port_of(listeners: list[socket.socket]) -> int:
    port: int = listeners[0].getsockname()[1]
    return port


async def test_what_is_held_is_in_the_store_by_its_port(
    keeping: Keeping, manager: ServiceManager, listeners: list[socket.socket]
) -> None:
    """Both addresses under one name, and nobody polls them."""
    port = port_of(listeners)
    made = keeping.begin(manager.address)
    made.hold(port, listeners)
    await made.settled()

    assert {one.getsockname()[1] for one in manager.store[port_name(port)]} == {port}
    assert len(manager.store[port_name(port)]) == len(listeners)
    assert manager.wait_for(FDSTORE="1")["FDPOLL"] == "0"


async def test_what_is_let_go_leaves_the_store(
    keeping: Keeping, manager: ServiceManager, listeners: list[socket.socket]
) -> None:
    """When `settled` returns the port is free: a `down` may say so."""
    port = port_of(listeners)
    made = keeping.begin(manager.address)
    made.hold(port, listeners)
    for one in listeners:
        one.close()
    made.hold(port, [])
    await made.settled()

    assert manager.store == {}
    for one in sockets.bind_loopback(port):
        one.close()


async def test_what_was_handed_back_is_not_sent_again(
    keeping: Keeping, manager: ServiceManager, listeners: list[socket.socket]
) -> None:
    """It is in the store already; taking it out and putting it in again would leave a gap."""
    port = port_of(listeners)
    made = keeping.begin(manager.address, Inheritance(ports={port: listeners}))
    found = await made.take()
    assert found == {port: listeners}
    made.hold(port, found[port])
    await made.settled()

    assert [one for one in manager.said if "FDNAME" in one] == []


async def test_what_nobody_claims_is_dropped(
    keeping: Keeping, manager: ServiceManager, listeners: list[socket.socket]
) -> None:
    """The keeper lets go of a port that no wish is for; and strange names are not ours to keep either."""
    made = keeping.begin(manager.address, Inheritance(ports={9: listeners}, strange=["odd", ""]))
    await made.take()
    made.hold(9, [])
    await made.settled()

    assert [one["FDNAME"] for one in manager.said if "FDSTOREREMOVE" in one] == ["odd", "port-9"]
    assert len(keeping.log) == 2


async def test_another_socket_for_the_port_takes_the_first_one_s_place(
    keeping: Keeping, manager: ServiceManager, listeners: list[socket.socket]
) -> None:
    port = port_of(listeners)
    made = keeping.begin(manager.address)
    made.hold(port, listeners)
    made.hold(port, listeners[:1])
    await made.settled()

    assert len(manager.store[port_name(port)]) == 1


async def test_a_manager_that_is_away_gets_it_later(
    keeping: Keeping, tmp_path: Path, listeners: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it could not be told is told again; our own sockets may be closed by then."""
    monkeypatch.setattr(store, "_RETRY_S", 0.01)
    port = port_of(listeners)
    made = keeping.begin(str(tmp_path / "notify"))
    made.hold(port, listeners)
    for one in listeners:
        one.close()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.run)
        with ServiceManager(tmp_path) as manager:
            with trio.fail_after(LIMIT_S):
                await trio.to_thread.run_sync(lambda: manager.wait_for(FDSTORE="1"))
            await made.settled()
            assert manager.store[port_name(port)][0].getsockname()[1] == port
        nursery.cancel_scope.cancel()


async def test_leaving_for_good_empties_the_store(
    keeping: Keeping, manager: ServiceManager, listeners: list[socket.socket]
) -> None:
    made = keeping.begin(manager.address)
    made.hold(port_of(listeners), listeners)
    await made.quit()
    await made.settled()

    assert manager.store == {}


async def test_a_store_that_is_too_small_is_told_once(
    keeping: Keeping, manager: ServiceManager, listeners: list[socket.socket]
) -> None:
    made = keeping.begin(manager.address, size=1)
    made.hold(1, [listeners[0], listeners[0]])
    made.hold(2, [listeners[0], listeners[0]])

    assert keeping.log == ["the service manager keeps 1 sockets, not 2: FileDescriptorStoreMax="]


async def test_a_holder_from_before_gives_away_what_it_has_and_ends(
    keeping: Keeping,
    paths: Paths,
    manager: ServiceManager,
    listeners: list[socket.socket],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The supervisor that ran by hand had one; the service needs none."""
    monkeypatch.setattr(custody, "_RETRY_S", 0.01)
    port = port_of(listeners)
    by_hand = HolderCustody(paths.holder_socket, keeping.log.append, dict(os.environ))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(by_hand.run)
        by_hand.hold(port, listeners)
        await by_hand.settled()
        nursery.cancel_scope.cancel()
    by_hand._hang_up()  # as the kernel does for a killed one
    for wish in by_hand._wishes.values():
        wish.close()
    child = by_hand._child
    assert child is not None
    found = await keeping.begin(manager.address).take()
    await until(lambda: child.poll() is not None)

    assert list(found) == [port]
    assert found[port][0].getsockname()[1] == port
    assert not paths.holder_socket.exists()
    for one in found[port]:
        one.close()
