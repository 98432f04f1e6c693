"""What follows from the facts: pid files, and the watch at an idle proxy's door.

Safe keeping is in test_keeper, the stand-in in test_stand_in.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from typing import Any

import pytest
import trio
from fakes import clock
from fakes.spawner import World
from fakes.worlds import up

from modelproxy.supervisor import fleet, kernel, sockets
from modelproxy.supervisor.facts import State
from modelproxy.supervisor.protocol import DownRequest
from modelproxy.supervisor.upkeep import Unit

MakeWorld = Callable[[], World]
pytestmark = clock.jumping


async def test_pid_files_follow_the_worker(world: World, paths: Any) -> None:
    """In the usual place, and in one more by the user's wish."""
    mine = paths.state / "mine.pid"
    row = await up(world, pid_file=str(mine))
    usual = paths.pid_file(row.port)

    assert usual.read_text() == mine.read_text() == f"{row.pid}\n"
    world.worker().die()
    await world.until(lambda: world.proxy().generation == 2 and world.proxy().state is State.READY)
    assert usual.read_text() == mine.read_text() == f"{world.proxy().pid}\n" != f"{row.pid}\n"
    await world.commands.down("all", DownRequest())
    assert not usual.exists()
    assert not mine.exists()


async def test_a_pid_file_belongs_to_the_port_s_present_owner(world: World, paths: Any) -> None:
    """A leaving proxy must not take its successor's away."""
    world.conduct = lambda birth: "stubborn"
    row = await up(world)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.commands.down, "echo/demo", DownRequest(30.0))
        await trio.sleep(1.0)
        world.conduct = lambda birth: "good"
        other = await up(world, "echo/other", port=row.port)
        assert world.proxy().state is State.DRAINING
    assert world.proxy().state is State.STOPPED

    assert paths.pid_file(row.port).read_text() == f"{other.pid}\n"


async def test_a_pid_file_that_cannot_be_written_is_only_logged(world: World) -> None:
    row = await up(world, pid_file="/nowhere/at/all.pid")

    assert row.state == "ready"
    assert any("cannot keep the pid file" in line for line in world.log)


async def test_pid_files_of_an_earlier_supervisor_are_taken_away(make_world: Callable[[], World]) -> None:
    """Also the one that it was killed in the middle of writing: nobody may ever write that port's again."""
    world = make_world()
    for name in ("1234.pid", "1234.pid.new"):
        (world.paths.pid_files / name).write_text("77\n")
    await world.start()

    assert list(world.paths.pid_files.iterdir()) == []


async def test_a_stale_pid_file_that_cannot_be_removed_is_no_obstacle(
    make_world: Callable[[], World],
) -> None:
    world = make_world()
    (world.paths.pid_files / "1234.pid").mkdir()
    await world.start()

    assert (await up(world)).state == "ready"
    assert "1234.pid" in repr(world.log)


# --- an idle proxy's door -------------------------------------------------------------------------


def knock(port: int, host: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection((host, port))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_the_first_connection_starts_a_lazy_one(world: World, host: str) -> None:
    """It is not taken by the supervisor: it waits in the queue for the worker."""
    row = await up(world, lazy=True)
    assert (row.state, row.pid, row.queue, world.births) == ("idle", None, 0, [])
    await trio.sleep(3600.0)
    assert world.births == []
    with knock(row.port, host):
        await world.until(lambda: world.proxy().state is State.READY)

        assert len(world.births) == 1
        assert world.commands.rows()[0].queue == 1


async def test_an_idle_one_that_is_taken_down_frees_its_port(world: World) -> None:
    """Nobody watches any more, and the next who wants the port has it."""
    row = await up(world, lazy=True)
    await world.commands.down("all", DownRequest())
    for one in sockets.bind_loopback(row.port):
        one.close()
    again = await up(world, port=row.port, lazy=True)
    with knock(again.port):
        await world.until(lambda: world.proxy().state is State.READY)


async def test_nobody_comes_and_the_worker_goes_until_somebody_does(world: World) -> None:
    """Over and over."""
    row = await up(world, idle_stop_s=60.0)
    for generation in (1, 2, 3):
        began = trio.current_time()
        await world.until(lambda: world.proxy().state is State.IDLE, 120.0)
        assert trio.current_time() - began >= 58.0
        assert world.worker(generation=generation).handle.outcome == kernel.Exit(code=0)
        with knock(row.port):
            await world.until(lambda: world.proxy().state is State.READY)
        for one in world.keeper.units["echo/demo"].listeners:  # the fake worker takes nobody in
            while kernel.accept_queue(one):
                one.accept()[0].close()

    assert (world.proxy().restarts, world.proxy().deaths) == (0, ())


def retire(unit: Unit) -> None:
    """Its supervisor is dead, and watches nothing any more."""
    assert unit.watch is not None  # it is idle
    unit.watch.cancel()


async def test_a_port_that_was_lost_meanwhile_is_trouble_and_not_idleness(make_world: MakeWorld) -> None:
    """Supervisor and holder died, and somebody else has the port: the start that finds out goes on trying."""
    first = await make_world().start()
    row = await up(first, lazy=True)
    unit = first.keeper.units["echo/demo"]
    retire(unit)
    while unit.listeners:
        unit.listeners.pop().close()
    stranger = sockets.bind_loopback(row.port)
    second = await make_world().start()
    await second.until(lambda: second.proxy().state is State.BACKOFF)
    assert f"Port {row.port} is already in use" in (second.proxy().trouble or "")
    for one in stranger:
        one.close()
    await second.until(lambda: second.proxy().state is State.IDLE)


async def test_an_idle_one_is_idle_for_the_next_supervisor(make_world: MakeWorld) -> None:
    """On the sockets that were kept for it."""
    first = await make_world().start()
    row = await up(first, lazy=True, idle_stop_s=60.0, max_rss=2**30)
    care = first.proxy().care
    kept = first.keeper.units["echo/demo"].listeners
    second = make_world()
    second.custody.left = {row.port: [one.dup() for one in kept]}
    retire(first.keeper.units["echo/demo"])
    await second.start()

    assert (second.proxy().state, second.proxy().care, second.births) == (State.IDLE, care, [])
    with knock(row.port):
        await second.until(lambda: second.proxy().state is State.READY)


async def test_a_listener_is_open_while_its_proxy_is_up_and_never_else(world: World) -> None:
    """Whatever is asked for, and whatever dies, in whatever order."""
    chance = random.Random(4)
    names = ["echo/a", "echo/b"]
    for _ in range(150):
        name = chance.choice(names)
        deed = chance.choice(["up", "up", "lazy", "down", "restart", "die", "knock", "wait"])
        unit = world.keeper.units.get(name)
        if deed in ("up", "lazy"):
            await up(world, name, wait=False, lazy=deed == "lazy", idle_stop_s=chance.choice([0.0, 5.0]))
        elif unit is None or not unit.proxy.wanted:
            continue
        elif deed == "down":
            await world.commands.down(name, DownRequest(chance.choice([0.0, 3.0])))
        elif deed == "restart":
            world.keeper.post(name, fleet.Restart(1.0))
        elif deed == "die" and unit.proxy.current is not None:
            world.worker(name, unit.proxy.current.generation).die()
        elif deed == "knock":
            world.keeper.post(name, fleet.Knocked())
        await trio.sleep(chance.choice([0.0, 0.0, 0.3, 7.0]))
        for other in world.keeper.units.values():
            await world.keeper.wait_until(lambda: True, 1.0)
            assert bool(other.listeners) == other.proxy.is_up
            assert all(one.fileno() >= 0 for one in other.listeners)
            assert (other.watch is not None) == other.proxy.awaits_visitors
            alive = {
                g
                for (n, g), one in world.workers.items()
                if n == other.proxy.name and not one.handle.ended.is_set()
            }
            assert len(alive - {worker.generation for worker in other.proxy.draining}) <= 2
            assert other.proxy.state is not State.IDLE or not alive
