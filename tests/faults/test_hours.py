"""Faults that take minutes or hours: the real keeper and the real numbers, fake workers and a clock that jumps."""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import trio
from fakes import clock
from fakes.spawner import FakeWorker, World

from modelproxy.supervisor import kernel, policy, runner
from modelproxy.supervisor.facts import State
from modelproxy.supervisor.protocol import DownRequest, Fault, RestartRequest, UpRequest
from modelproxy.supervisor.upkeep import Unit
from modelproxy.worker.contract import Health

pytestmark = [pytest.mark.fault, clock.jumping]


async def die_after(world: World, ready_for_s: float) -> float:
    """One more life: ready for so long, then dead; the pause until the next one is ready."""
    generation = world.proxy().generation
    await trio.sleep(ready_for_s)
    world.worker(generation=generation).die()
    began = trio.current_time()
    await world.until(lambda: world.proxy().state is State.READY and world.proxy().generation > generation)
    return trio.current_time() - began


async def test_fault_06_ready_then_dead_again_and_again(world: World) -> None:
    """6: never `failed`; the pauses grow to 30 s; `crash-loop` is shown; `restart` by hand begins anew."""
    await world.commands.up(UpRequest("echo/demo", port=0))
    pauses = [await die_after(world, 2.0) for _ in range(15)]

    assert all(before <= after for before, after in itertools.pairwise(pauses))
    assert pauses[0] == pytest.approx(policy.FIRST_DELAY_S)
    assert pauses[-1] == pytest.approx(policy.MAX_DELAY_S)
    assert "failed" not in world.kinds()
    row = world.commands.row(world.keeper.units["echo/demo"])
    assert "crash-loop" in row.detail
    assert row.restarts == 15
    await world.commands.restart("echo/demo", RestartRequest())
    assert "crash-loop" not in world.commands.row(world.keeper.units["echo/demo"]).detail
    assert await die_after(world, 2.0) == pytest.approx(policy.FIRST_DELAY_S)


async def test_fault_07_an_hour_of_flapping_is_forgotten_after_a_good_minute(world: World) -> None:
    """7: ready for 60 s without a break, and the next death is a first one again."""
    await world.commands.up(UpRequest("echo/demo", port=0))
    began = trio.current_time()
    while trio.current_time() - began < 3600.0:
        await die_after(world, 2.0)
    assert world.proxy().failures > 50
    await trio.sleep(policy.RESET_AFTER_S + 1.0)

    assert world.proxy().failures == 0
    assert await die_after(world, 0.0) == pytest.approx(0.0)  # proven: at once


def current(world: World) -> FakeWorker:
    """The one that answers."""
    found = world.proxy().current
    assert found is not None
    return world.worker(generation=found.generation)


class Tampered:
    """Awaits what it is given, and raises where the nth wait of all of them has come back."""

    def __init__(self, nth: int) -> None:
        self._left = nth

    @property
    def hit(self) -> bool:
        return self._left <= 0

    @types.coroutine
    def awaiting(self, work: Coroutine[Any, Any, None]) -> Generator[Any, Any, None]:
        waited = work.__await__()
        wake: Callable[[], Any] = partial(next, waited)
        while True:
            try:
                trap = wake()
            except StopIteration:
                return
            try:
                back = yield trap
            except BaseException as error:
                wake = partial(waited.throw, error)
                continue
            self._left -= 1
            wake = (
                partial(waited.throw, RuntimeError("injected"))
                if not self._left
                else partial(waited.send, back)
            )


@pytest.mark.parametrize("nth", range(1, 17))
async def test_fault_27_a_bug_at_any_wait_of_one_proxy_s_tasks(world: World, nth: int) -> None:
    """27: that proxy is in trouble and heals; the other one and the supervisor go on."""
    contain = world.keeper._contain
    tampered = Tampered(nth)

    async def contain_and_tamper(unit: Unit, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if unit.proxy.name != "echo/demo":
            await contain(unit, work, args)
            return

        async def sabotaged(*words: Any) -> None:
            await tampered.awaiting(work(*words))

        await contain(unit, sabotaged, args)

    world.keeper._contain = contain_and_tamper  # type: ignore[method-assign]  # each task of a proxy begins there
    await world.commands.up(UpRequest("echo/other", port=0))
    await world.commands.up(UpRequest("echo/demo", port=0, wait=False))
    for _ in range(2):
        await world.until(lambda: world.proxy().state is State.READY)
        current(world).die()
        await trio.sleep(1.0)
    await world.until(lambda: world.proxy().state is State.READY)
    with suppress(Fault):  # whoever asked for it is told when it was this roll that met the bug
        await world.commands.restart("echo/demo", RestartRequest())
    silent = current(world)
    silent.beating, silent.handle.deaf = False, True
    await world.until(lambda: silent.handle.ended.is_set())
    await world.until(lambda: world.proxy().state is State.READY)
    await world.commands.down("echo/demo", DownRequest(1.0))

    assert tampered.hit
    assert any("internal error" in line for line in world.log)
    assert world.proxy().state is State.STOPPED
    other = world.proxy("echo/other")
    assert (other.state, other.generation, other.deaths) == (State.READY, 1, ())


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0])
async def test_fault_28_the_wall_clock_jumps(
    world: World, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    """28: nothing is decided by it: no restart, no kill, and the pauses are what they are."""
    await world.commands.up(UpRequest("echo/demo", port=0))
    before = kernel.wall_clock
    monkeypatch.setattr(kernel, "wall_clock", lambda: before() + jump_s)
    await trio.sleep(60.0)

    assert (world.proxy().generation, world.proxy().deaths) == (1, ())
    assert world.worker().handle.signals == []
    assert world.commands.row(world.keeper.units["echo/demo"]).uptime_s == pytest.approx(60.0)
    assert await die_after(world, 0.0) == pytest.approx(0.0)
    assert await die_after(world, 2.0) == pytest.approx(policy.restart_delay(2, 2.0, 1.0))


async def test_fault_28_the_machine_sleeps_for_an_hour(world: World) -> None:
    """28: the clock has gone on and nobody was heard; that was nobody's fault. Pauses begun before go on."""
    await world.commands.up(UpRequest("echo/demo", port=0))
    world.conduct = lambda birth: "mute"
    await world.commands.up(UpRequest("echo/starting", port=0, wait=False))
    await trio.sleep(5.0)
    world.slept_s = 3600.0
    await trio.sleep(policy.SILENCE_LIMIT_S * 3)

    assert (world.proxy().generation, world.proxy().deaths) == (1, ())
    assert world.worker().handle.signals == []
    assert any("stood still for" in line for line in world.log)
    starting = world.proxy("echo/starting")
    assert len(starting.deaths) == 1  # it was mute before and after; between the two it was nobody's fault
    assert starting.deaths[0].at - 3600.0 - 5.0 >= policy.WAKE_GRACE_S


async def test_fault_33_a_process_that_cannot_be_made_now(world: World) -> None:
    """33: EAGAIN, ENOMEM: tried again every 1 to 30 s, and not counted against the proxy."""
    reason = "cannot start python: Resource temporarily unavailable"
    world.trouble["echo/demo"] = runner.SpawnError(reason, permanent=False)
    began = trio.current_time()
    await world.commands.up(UpRequest("echo/demo", port=0, wait=False))
    await trio.sleep(600.0)

    proxy = world.proxy()
    assert proxy.state is State.BACKOFF
    assert (proxy.failures, proxy.never_ready, proxy.restarts, proxy.deaths) == (0, 0, 0, ())
    assert reason in world.commands.row(world.keeper.units["echo/demo"]).detail
    tries = len(world.births)
    assert 600.0 / policy.MAX_DELAY_S < tries < 600.0 / policy.MAX_DELAY_S + 6
    assert trio.current_time() - began == pytest.approx(600.0)
    world.trouble.clear()
    await world.until(lambda: world.proxy().state is State.READY)
    assert await die_after(world, 2.0) == pytest.approx(policy.FIRST_DELAY_S)  # a first death


async def test_fault_43_a_provider_that_is_down_for_an_hour(world: World) -> None:
    """43: `degraded` for as long as it takes; nothing is restarted."""
    await world.commands.up(UpRequest("echo/demo", port=0))
    world.worker().say(Health(False, "ollama is not reachable"))
    await trio.sleep(3600.0)

    row = world.commands.row(world.keeper.units["echo/demo"])
    assert (row.state, row.restarts, row.generation) == ("degraded", 0, 1)
    assert "ollama is not reachable" in row.detail
    world.worker().say(Health(True))
    await world.until(lambda: world.proxy().state is State.READY)
    assert len(world.births) == 1
