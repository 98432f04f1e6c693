"""What follows from the facts: the pid files. Safe keeping is in test_keeper, the stand-in in test_stand_in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio
from fakes import clock
from fakes.spawner import World

from modelproxy.supervisor.facts import State
from modelproxy.supervisor.protocol import DownRequest, ProxyView, UpRequest

pytestmark = clock.jumping


async def up(world: World, model: str = "echo/demo", **options: Any) -> ProxyView:
    """On any free port, unless told otherwise."""
    return await world.commands.up(UpRequest(model, **({"port": 0} | options)))


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


async def test_a_stale_pid_file_that_cannot_be_removed_is_no_obstacle(
    make_world: Callable[[], World],
) -> None:
    world = make_world()
    (world.paths.pid_files / "1234.pid").mkdir()
    await world.start()

    assert (await up(world)).state == "ready"
    assert "1234.pid" in repr(world.log)
