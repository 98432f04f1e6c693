"""A keeper among fake workers: fixtures, for a conftest to import, and what tests say to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from modelproxy.supervisor.paths import Paths, prepare
from modelproxy.supervisor.protocol import ProxyView, UpRequest

from .spawner import World, files_of


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """The files of a user whose home is empty."""
    found = files_of(tmp_path)
    prepare(found)
    return found


@pytest.fixture
async def make_world(
    paths: Paths, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[[], World]]:
    """Worlds that share their files, as one supervisor after another does; not started yet."""
    made: list[World] = []

    def make() -> World:
        world = World(paths, nursery)
        world.patch(monkeypatch)
        made.append(world)
        return world

    yield make
    for unit in (unit for world in made for unit in world.keeper.units.values()):
        for one in unit.listeners:
            one.close()


@pytest.fixture
async def world(make_world: Callable[[], World]) -> World:
    """A keeper that has begun with nothing."""
    return await make_world().start()


async def up(world: World, model: str = "echo/demo", **options: Any) -> ProxyView:
    """On any free port, unless told otherwise."""
    return await world.commands.up(UpRequest(model, **({"port": 0} | options)))


def configure(world: World, text: str) -> None:
    """What the user's file says from now on."""
    world.paths.config.mkdir(exist_ok=True)
    world.paths.config_file.write_text(text)


def give_back(world: World) -> None:
    """Its supervisor is dead: the ports are nobody's."""
    for unit in world.keeper.units.values():
        if unit.watch is not None:
            unit.watch.cancel()
        while unit.listeners:
            unit.listeners.pop().close()
