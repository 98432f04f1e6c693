"""The fleet in a world of fake workers: what is saved, spawned, adopted, contained and put right."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from fakes import clock
from fakes.spawner import FakeLink, FakeWorker, World
from fakes.story import SPEC
from fakes.worlds import up

from modelproxy.supervisor import fleet, kernel, keys, policy, renewal, runner, sockets, state
from modelproxy.supervisor.facts import Death, State
from modelproxy.supervisor.protocol import (
    DownRequest,
    Fault,
    RestartRequest,
    SetRequest,
    UpRequest,
)
from modelproxy.supervisor.tally import Tally
from modelproxy.worker.contract import (
    EXIT_CONFIG,
    Adjust,
    Beat,
    Bye,
    Drain,
    Front,
    Hello,
    Place,
    Quota,
    Welcome,
)

MakeWorld = Callable[[], World]
pytestmark = clock.jumping


def on_disk(world: World) -> dict[str, Any]:
    """The saved proxies by name."""
    document = json.loads(world.paths.state_file.read_bytes())
    return {record["name"]: record for record in document["proxies"]}


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


# --- lives ----------------------------------------------------------------------------------------


async def test_a_life_from_up_to_down(world: World) -> None:
    """The worker gets its spec over the channel, serves, and leaves when it is told to."""
    row = await up(world)

    assert (row.name, row.state, row.generation, row.reused) == ("echo/demo", "ready", 1, False)
    assert world.worker().spec == world.proxy().spec
    assert world.custody.held == {row.port: 2}
    stopped = await world.commands.down("echo/demo", DownRequest())
    assert [(one.name, one.state, one.already) for one in stopped] == [("echo/demo", "stopped", None)]
    assert world.worker().handle.outcome == kernel.Exit(code=0)
    assert world.kinds() == ["up", "ready", "down", "stopped"]
    assert world.custody.held == {}
    for one in sockets.bind_loopback(row.port):  # free again
        one.close()


async def test_one_that_dies_is_replaced_on_the_same_socket(world: World) -> None:
    """Clients queue in the meantime."""
    await up(world)
    world.worker().die()
    await world.until(lambda: world.proxy().state is State.READY and world.proxy().generation == 2)

    saved = on_disk(world)["echo/demo"]
    assert (saved["generation"], saved["restarts"], saved["workers"][0]["pid"]) == (2, 1, world.proxy().pid)
    first, second = world.births
    assert [one.fileno() for one in first.listeners] == [one.fileno() for one in second.listeners] != []
    assert world.commands.rows()[0].restarts == 1


async def test_a_hung_one_is_aborted_killed_and_replaced(world: World) -> None:
    """Ten seconds without a beat, a look, SIGABRT, a second, SIGKILL."""
    await up(world)
    worker = world.worker()
    worker.beating = False
    worker.handle.deaf = True
    await world.until(lambda: world.proxy().generation == 2 and world.proxy().state is State.READY)

    assert worker.handle.signals == [signal.SIGABRT, signal.SIGCONT, signal.SIGKILL, signal.SIGCONT]
    assert world.proxy().deaths[0].cause == "hung (silent); SIGKILL"


async def test_one_that_gets_no_processor_is_taken_for_busy(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would run if it could: on a machine where many want to, it has as long as one that calculates."""
    monkeypatch.setattr(kernel, "cpu_ticks", lambda pid: 7)
    monkeypatch.setattr(kernel, "run_state", lambda pid: "R")
    await up(world)
    world.worker().beating = False
    await trio.sleep(policy.BUSY_SILENCE_LIMIT_S - 5.0)
    assert world.worker().handle.signals == []
    await world.until(lambda: world.proxy().generation == 2 and world.proxy().state is State.READY)

    assert world.proxy().deaths[0].cause == "hung (state R, busy); SIGABRT"


async def test_what_ignores_the_drain_is_killed_at_the_deadline(world: World) -> None:
    """And `down` returns then."""
    world.conduct = lambda birth: "stubborn"
    await up(world)
    began = trio.current_time()
    await world.commands.down("echo/demo", DownRequest(5.0))

    assert trio.current_time() - began == pytest.approx(6.5)
    assert world.worker().handle.signals[0] == signal.SIGKILL


async def test_bye_by_hand_stops_the_proxy(world: World) -> None:
    await up(world)
    world.worker().say(Bye("SIGTERM"))
    await world.until(lambda: world.proxy().state is State.STOPPED)

    assert not world.proxy().wanted


async def test_bye_with_an_error_is_a_death(world: World) -> None:
    """A worker whose configuration cannot work says goodbye as well; nobody wanted it to leave."""
    await up(world)
    world.worker().say(Bye("", EXIT_CONFIG))
    world.worker().die(kernel.Exit(code=EXIT_CONFIG))
    await world.until(lambda: world.proxy().state is State.FAILED)

    assert world.proxy().given_up == "exit 78: the configuration cannot work"


async def test_the_last_words_of_a_worker_are_the_cause_of_its_death(world: World) -> None:
    await up(world)
    world.worker().say(Bye("no kind is called olama", EXIT_CONFIG))
    world.worker().die(kernel.Exit(code=EXIT_CONFIG))
    await world.until(lambda: world.proxy().state is State.FAILED)

    assert world.proxy().given_up == "exit 78: no kind is called olama: the configuration cannot work"


async def test_what_a_beat_says_is_in_the_row(world: World) -> None:
    """The oldest request is a point in time, so that its age is right between two beats; drops and costs stay."""
    await up(world)
    worker = world.worker()
    said = Beat(0.0, requests=3, in_flight=1, failures=2, log_drops=4, ledger_drops=5, last_error="timeout")
    said = attrs.evolve(said, waiting=2, resting=["echo/demo: refused"])
    worker.say(attrs.evolve(said, oldest_s=250.0, cost_usd=0.5, unpriced=1))
    await trio.sleep(0.5)
    row = world.commands.rows()[0]

    assert (row.failures, row.log_drops, row.ledger_drops, row.last_error) == (2, 4, 5, "timeout")
    assert (row.cost_usd, row.unpriced_requests) == (0.5, 1)
    assert (row.waiting, row.resting) == (2, ["echo/demo: refused"])
    assert row.detail == "2 in line; left alone for now: echo/demo: refused"
    assert [(one["oldest_s"], one["silent_s"]) for one in row.workers] == [(250.5, 0.5)]
    worker.die()
    await world.until(lambda: world.proxy().state is State.READY and world.proxy().generation == 2)
    row = world.commands.rows()[0]
    assert (row.requests, row.failures, row.log_drops, row.cost_usd) == (3, 2, 4, 0.5)
    assert (row.in_flight, row.workers[0]["oldest_s"]) == (0, None)
    assert (row.waiting, row.resting, row.detail) == (0, [], "")


async def test_only_so_many_start_at_a_time(world: World) -> None:
    """The others wait for their turn, without being blamed for it."""
    turns = max(2, os.cpu_count() or 2)
    world.conduct = lambda birth: "silent"
    async with trio.open_nursery() as nursery:
        for number in range(turns + 3):
            nursery.start_soon(partial(up, world, f"echo/{number}", wait=False))
    await trio.testing.wait_all_tasks_blocked()

    assert len(world.births) == turns
    world.conduct = lambda birth: "good"
    await world.until(lambda: len(world.births) >= turns + 3)
    first = {birth.name for birth in world.births[:turns]}
    late = [unit.proxy for name, unit in world.keeper.units.items() if name not in first]
    assert [proxy.deaths for proxy in late] == [()] * 3


async def test_down_takes_back_a_start_that_waits(world: World) -> None:
    """Its process is never made."""
    world.conduct = lambda birth: "silent"
    turns = max(2, os.cpu_count() or 2)
    for number in range(turns):
        await up(world, f"echo/{number}", wait=False)
    await trio.testing.wait_all_tasks_blocked()
    await up(world, "echo/late", wait=False)
    began = trio.current_time()
    await world.commands.down("echo/late", DownRequest())

    assert trio.current_time() == began
    assert world.proxy("echo/late").state is State.STOPPED
    assert "echo/late" not in [birth.name for birth in world.births]


async def test_down_takes_back_a_start_that_is_being_made(world: World) -> None:
    """A fork server that does not answer is waited for; a wish that is gone waits for nothing."""
    world.spawning_takes["echo/late"] = 60.0
    await up(world, "echo/late", wait=False)
    await trio.testing.wait_all_tasks_blocked()
    began = trio.current_time()
    await world.commands.down("echo/late", DownRequest())

    assert trio.current_time() == began
    assert world.proxy("echo/late").state is State.STOPPED
    assert world.births == []
    await up(world)  # its turn is free again
    await up(world, "echo/b")


async def test_one_that_is_to_leave_gives_its_turn_away(world: World) -> None:
    """It is not going to be ready any more, however long it takes to leave."""
    world.conduct = lambda birth: "mute"
    turns = max(2, os.cpu_count() or 2)
    for number in range(turns):
        await up(world, f"echo/{number}", wait=False)
    await trio.testing.wait_all_tasks_blocked()
    world.conduct = lambda birth: "good"
    async with trio.open_nursery() as nursery:
        began = trio.current_time()
        nursery.start_soon(world.commands.down, "echo/0", DownRequest())
        await up(world, "echo/late")
        assert trio.current_time() == began


async def test_one_that_is_mute_does_not_keep_the_others_waiting(world: World) -> None:
    """It needs no processor; after a few seconds its turn is somebody else's."""
    turns = max(2, os.cpu_count() or 2)
    world.conduct = lambda birth: "mute" if birth.name.startswith("echo/mute") else "good"
    for number in range(turns):
        await up(world, f"echo/mute{number}", wait=False)
    began = trio.current_time()
    await up(world, "echo/late")

    assert trio.current_time() - began == pytest.approx(policy.START_TURN_S)


async def test_no_storm_of_starts(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many within a minute, whoever asks; the next one waits for its turn and is not blamed for it."""
    monkeypatch.setattr(policy, "STARTS_PER_WINDOW", 4)
    small = await make_world().start()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(partial(up, small, f"echo/{number}", wait_s=100.0))
    assert trio.current_time() - began == pytest.approx(policy.START_WINDOW_S)
    assert [unit.proxy.deaths for unit in small.keeper.units.values()] == [()] * 6
    async with trio.open_nursery() as nursery:
        for number in range(6, 9):
            nursery.start_soon(partial(up, small, f"echo/{number}", wait=False))
    assert len(small.births) == 8
    await small.commands.down("all", DownRequest())  # also those that wait

    assert len(small.births) == 8


async def test_what_the_kernel_kills_for_memory_is_named(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One death for each kill that it counts; not when we sent the signal, and not for another signal."""
    counter = tmp_path / "memory.events"
    counter.write_text("oom_kill 3\n")
    monkeypatch.setattr(kernel, "oom_counter", lambda pid: counter)
    for name in ("echo/a", "echo/b", "echo/c", "echo/d"):
        await up(world, name)
    counter.write_text("oom_kill 5\n")
    world.worker("echo/a").die()
    world.worker("echo/b").die(kernel.Exit(signal=signal.SIGSEGV))
    world.worker("echo/c").die()
    world.worker("echo/d").die()
    await world.until(lambda: all(world.proxy(f"echo/{letter}").deaths for letter in "abcd"))

    causes = sorted(world.proxy(f"echo/{letter}").deaths[0].cause for letter in "abcd")
    assert causes == ["SIGKILL", "SIGKILL (oom?)", "SIGKILL (oom?)", "SIGSEGV"]


async def test_our_own_kill_is_no_want_of_memory(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    counter = tmp_path / "memory.events"
    counter.write_text("oom_kill 3\n")
    monkeypatch.setattr(kernel, "oom_counter", lambda pid: counter)
    await up(world)
    worker = world.worker()
    worker.beating, worker.handle.deaf = False, True
    counter.write_text("oom_kill 4\n")
    await world.until(lambda: bool(world.proxy().deaths))

    assert world.proxy().deaths[0].cause == "hung (silent); SIGKILL"


async def test_memory_is_looked_at_every_now_and_then_where_it_matters(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that has too much of it is rolled."""
    looks: list[float] = []
    size = 2**20

    def rss(pid: int) -> int:
        looks.append(trio.current_time())
        return size

    monkeypatch.setattr(kernel, "rss", rss)
    first = await up(world)
    looks.clear()
    await trio.sleep(100.0)
    assert looks == []
    await up(world, port=first.port, max_rss=2**25)
    looks.clear()
    await trio.sleep(100.0)
    assert 9 <= len(looks) <= 11
    size = 2**26
    await world.until(lambda: world.proxy().generation == 2 and world.proxy().state is State.READY)

    assert "recycled" in world.kinds()
    assert world.commands.rows()[0].rss == 2**26


async def test_one_that_takes_no_connection_is_replaced(world: World) -> None:
    """It beats and says that it has taken nobody, and the kernel says that somebody waits."""
    row = await up(world)
    worker = world.worker()
    worker.beat = Beat(0.0, 1, 0, accepted=7)
    worker.handle.deaf = True
    with socket.create_connection(("127.0.0.1", row.port)):
        await world.until(lambda: world.proxy().generation == 2 and world.proxy().state is State.READY)

    assert worker.handle.signals[0] == signal.SIGABRT
    assert "took no connection for" in world.proxy().deaths[0].cause


async def test_a_beat_costs_neither_a_save_nor_a_look_at_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred proxies beat a thousand times a second under load."""
    await up(world, "echo/other")
    await up(world)
    calls: list[str] = []

    def spy(call: Callable[..., Any], words: Callable[..., str]) -> Callable[..., Any]:
        def spied(*args: Any) -> Any:
            calls.append(words(*args))
            return call(*args)

        return spied

    monkeypatch.setattr(state, "save", spy(state.save, lambda *_: "save"))
    monkeypatch.setattr(world.keeper, "_record", spy(world.keeper._record, lambda unit: unit.proxy.name))
    monkeypatch.setattr(fleet, "next_deadline", spy(fleet.next_deadline, lambda proxy: f"due {proxy.name}"))
    monkeypatch.setattr(renewal, "next_one", spy(renewal.next_one, lambda _: "whose turn"))
    world.worker().say(Beat(0.0, 5, 2))
    await trio.testing.wait_all_tasks_blocked()

    assert calls == ["echo/demo", "due echo/demo"]
    assert world.commands.rows()[1].requests == 5


async def test_who_waits_is_woken_for_no_other(world: World, nursery: trio.Nursery) -> None:
    """Fifty that come up together would else wake fifty at each step of each."""
    steps: list[str] = []

    class Steps(trio.abc.Instrument):
        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            steps.append(task.name)

    async def wait(name: str) -> None:
        await world.until(lambda: name in world.keeper.units)

    nursery.start_soon(wait, "echo/later", name="waits")
    await trio.testing.wait_all_tasks_blocked()
    trio.lowlevel.add_instrument(instrument := Steps())
    await up(world)
    assert "waits" not in steps
    await up(world, "echo/later")
    trio.lowlevel.remove_instrument(instrument)

    assert steps.count("waits") == 1


async def test_a_wrong_question_is_its_asker_s_trouble(world: World, nursery: trio.Nursery) -> None:
    """Not that of the loop, which looks for the answer."""

    async def wait() -> None:
        with pytest.raises(ZeroDivisionError):
            await world.until(lambda: bool(world.keeper.units) and 1 / 0 > 0)
        asked.set()

    asked = trio.Event()
    nursery.start_soon(wait)
    await trio.testing.wait_all_tasks_blocked()
    await up(world)
    await asked.wait()

    assert (await up(world, "echo/other")).state == "ready"


# --- saving ---------------------------------------------------------------------------------------


async def test_the_wish_is_on_disk_before_the_process_exists(world: World) -> None:
    """Generation and token too, so that a worker whose supervisor dies now is believed by the next one."""
    seen: list[Any] = []
    world.on_spawn = lambda birth: seen.append((birth.token, on_disk(world)["echo/demo"]))
    await up(world, api_key="sk-secret")
    await trio.sleep(12.0)  # proven: its successor is ordered in the same step as its death is noted
    world.worker().die()
    await world.until(lambda: world.proxy().generation == 2 and world.proxy().state is State.READY)

    for generation, (token, record) in enumerate(seen, start=1):
        assert len(token) == 32
        assert record["wanted"]
        [saved] = record["workers"]
        assert (saved["generation"], saved["pid"], saved["token"]) == (generation, None, token)
    assert len({token for token, _ in seen}) == 2


async def test_no_key_is_ever_on_disk(world: World) -> None:
    """Neither in the state file nor in a log nor in an event."""
    await up(world, api_key="sk-secret")
    await world.commands.up(UpRequest("echo/demo", api_key="sk-secret-2", replace=True))
    await world.commands.down("all", DownRequest())

    assert on_disk(world)["echo/demo"]["needs_key"]
    files = [path for path in world.paths.state.parent.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if b"sk-secret" in path.read_bytes()]
    assert "sk-secret" not in repr(world.events.since(0)) + repr(world.log)


async def test_a_full_disk_refuses_wishes_and_changes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a proxy nor a socket nor a process is left of it; what runs is not touched."""
    row = await up(world, "echo/old")
    before, saved = world.proxy("echo/old"), world.paths.state_file.read_bytes()
    monkeypatch.setattr(state, "save", full_disk)
    wishes: list[Callable[[], Awaitable[object]]] = [
        lambda: up(world, "echo/new"),
        lambda: world.commands.down("echo/old", DownRequest()),
        lambda: world.commands.restart("echo/old", RestartRequest()),
        lambda: world.commands.up(UpRequest("echo/old", base_url="http://b", replace=True)),
    ]
    for wish in wishes:
        with pytest.raises(Fault) as caught:
            await wish()
        assert (caught.value.code, caught.value.status) == ("disk_full", 507)
        assert "nothing was changed" in caught.value.hint

    assert list(world.keeper.units) == ["echo/old"]
    assert world.proxy("echo/old") == before
    assert world.paths.state_file.read_bytes() == saved
    assert len(world.births) == 1
    assert world.custody.held == {row.port: 2}


async def test_no_descriptor_to_write_with_is_no_full_disk(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_descriptors(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(state, "save", out_of_descriptors)
    with pytest.raises(Fault) as caught:
        await up(world)

    assert (caught.value.code, caught.value.status) == ("no_resources", 503)
    assert "make room" not in caught.value.hint


async def test_saving_waits_for_nobody_s_thread(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Key commands that take long may have all the usual ones; the loop that serves every proxy goes on."""
    limiters = {}
    at_once = trio.to_thread.run_sync

    async def spy(call: Callable[..., Any], *args: Any, limiter: Any = None) -> Any:
        limiters[call] = limiter
        return await at_once(call, *args)

    monkeypatch.setattr(trio.to_thread, "run_sync", spy)
    await up(world)

    assert None not in (limiters[state.save], limiters[keys.fetch])
    assert limiters[state.save] is not limiters[keys.fetch]


async def test_room_again_heals_by_itself(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(state, "save", full_disk)
        with pytest.raises(Fault):
            await up(world)
    row = await up(world)

    assert row.state == "ready"
    assert on_disk(world)["echo/demo"]["wanted"]


async def test_a_full_disk_does_not_keep_a_dead_worker_dead(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What happens is a fact: the clock, the dial and the start go on, and are saved when there is room."""
    await up(world)
    with monkeypatch.context() as patch:
        patch.setattr(state, "save", full_disk)
        world.worker().die()
        await world.until(lambda: world.proxy().state is State.READY and world.proxy().generation == 2)
        await trio.sleep(120.0)
        assert world.proxy().failures == 0  # the clock has rung
    await up(world, port=None)

    assert on_disk(world)["echo/demo"]["generation"] == 2


# --- contained ------------------------------------------------------------------------------------


async def other_is_fine(world: World) -> None:
    assert world.proxy("echo/other").state is State.READY
    assert len([birth for birth in world.births if birth.name == "echo/other"]) == 1


async def test_a_bug_in_starting_hits_that_proxy_only(world: World) -> None:
    """It waits and is tried again."""
    await up(world, "echo/other")
    world.trouble["echo/demo"] = RuntimeError("bug")
    await up(world, wait=False)
    await world.until(lambda: world.proxy().trouble == "internal error: RuntimeError: bug")
    assert world.proxy().state is State.BACKOFF
    del world.trouble["echo/demo"]
    await world.until(lambda: world.proxy().state is State.READY)

    await other_is_fine(world)


async def test_a_bug_in_watching_hits_that_proxy_only(world: World) -> None:
    """What cannot be watched is ended, or its death would never be noticed."""
    await up(world, "echo/other")
    world.blind["echo/demo"] = RuntimeError("bug")
    await up(world, wait=False)
    await world.until(lambda: world.proxy().state is State.BACKOFF)
    assert world.worker().handle.signals == [signal.SIGKILL, signal.SIGCONT]
    assert world.worker().handle.closed
    world.blind.clear()
    await world.until(lambda: world.proxy().state is State.READY)

    await other_is_fine(world)


async def test_a_bug_in_draining_hits_that_proxy_only(world: World) -> None:
    """The deadline ends it."""
    await up(world, "echo/other")
    await up(world)
    link = world.worker().link
    assert link is not None  # it is ready
    link.trouble = RuntimeError("bug")
    await world.commands.down("echo/demo", DownRequest(1.0))

    assert world.proxy().state is State.STOPPED
    await other_is_fine(world)


async def test_a_bug_in_a_look_hits_that_proxy_only(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the look is taken again."""
    await up(world, "echo/other")
    await up(world)

    def broken(pid: int) -> int:
        monkeypatch.setattr(kernel, "cpu_ticks", lambda pid: None)
        raise RuntimeError("bug")

    monkeypatch.setattr(kernel, "cpu_ticks", broken)
    world.worker().beating = False
    await world.until(lambda: world.proxy().generation == 2 and world.proxy().state is State.READY)

    assert "internal" in world.kinds()
    await other_is_fine(world)


async def test_a_bug_in_a_step_hits_that_event_only(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await up(world, "echo/other")
    await up(world)
    real = fleet.step

    def broken(proxy: Any, event: fleet.Event, *args: Any) -> Any:
        if isinstance(event, fleet.FellIll):
            raise RuntimeError("bug")
        return real(proxy, event, *args)

    monkeypatch.setattr(fleet, "step", broken)
    world.keeper.post("echo/demo", fleet.FellIll(1, "x"))
    await world.commands.down("echo/demo", DownRequest())

    assert any("RuntimeError: bug" in line for line in world.log)
    await other_is_fine(world)


async def test_a_bug_in_what_follows_a_step_does_not_end_the_loop(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await up(world, "echo/other")

    def broken(*_: object) -> None:
        raise RuntimeError("bug")

    with monkeypatch.context() as patch:
        patch.setattr(world.custody, "hold", broken)
        await up(world)
    await world.commands.down("echo/demo", DownRequest())

    assert world.proxy().state is State.STOPPED
    await other_is_fine(world)


async def test_a_command_that_raises_is_undone(world: World) -> None:
    """As a whole: proxies and sockets."""
    await up(world)
    before = world.proxy()
    opened: list[socket.socket] = []

    def command() -> None:
        world.keeper.apply(world.keeper.units["echo/demo"], fleet.Down(0.0))
        unit = world.keeper.create(attrs.evolve(before, name="echo/new"))
        unit.listeners = world.keeper.bind(0)
        opened.extend(unit.listeners)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await world.keeper.ask(command)

    assert (list(world.keeper.units), world.proxy()) == (["echo/demo"], before)
    assert {one.fileno() for one in opened} == {-1}
    assert world.proxy().state is State.READY


async def test_only_commands_may_change_the_fleet(world: World) -> None:
    """One writer."""
    await up(world)
    with pytest.raises(RuntimeError, match="only a command"):
        world.keeper.apply(world.keeper.units["echo/demo"], fleet.Down(0.0))


async def test_news_of_an_unknown_proxy_are_no_trouble(world: World) -> None:
    world.keeper.post("nobody", fleet.Clock())

    assert (await up(world)).state == "ready"


# --- after a supervisor's death -------------------------------------------------------------------


def record(**changes: Any) -> state.ProxyRecord:
    """Generation 3 of `echo/demo`, pid 77, as an earlier supervisor wrote it down."""
    worker = state.WorkerRecord(3, 77, 1, kernel.boot_id(), "secret token")
    made = state.ProxyRecord(
        "echo/demo", True, "ready", SPEC.port, SPEC, 3, restarts=2, needs_key=False, workers=[worker]
    )
    return attrs.evolve(made, **changes)


def remember(world: World, *records: state.ProxyRecord) -> None:
    state.save(world.paths.state_file, state.Saved(state.DaemonRecord(1, 1.0), list(records)))


async def start_with_survivor(make_world: MakeWorld, **changes: Any) -> tuple[World, FakeWorker]:
    world = make_world()
    remember(world, record(**changes))
    survivor = world.survivor("echo/demo", 3, 77, "secret token")
    await world.start()
    return world, survivor


async def test_a_survivor_is_adopted_with_its_sockets(make_world: MakeWorld) -> None:
    """Nothing is started; when it dies later, its successor gets the very same sockets."""
    world, survivor = await start_with_survivor(make_world)
    assert world.proxy().state is State.ADOPTING
    brought = sockets.bind_loopback(0)
    link = await survivor.dial(
        brought, spec=SPEC, serving=True, requests=5, started_at=kernel.wall_clock() - 50
    )

    assert repr(world.proxy()) == "<Proxy echo/demo ready pid=77 port=3457 wanted deaths=0>"
    assert (link.heard, link.listeners, world.births) == ([Welcome()], [], [])
    row = world.commands.rows()[0]
    assert (row.requests, row.restarts) == (5, 2)
    assert row.uptime_s == pytest.approx(50.0, abs=1.0)
    survivor.die()
    await world.until(lambda: world.proxy().pid not in (None, 77))
    assert [one.fileno() for one in world.births[0].listeners] == [one.fileno() for one in brought]


async def test_one_of_another_version_is_replaced_and_then_nobody_looks_for_more(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, survivor = await start_with_survivor(make_world)
    await survivor.dial(sockets.bind_loopback(0), spec=SPEC, serving=True, version="0.0.9")
    await world.until(lambda: world.proxy().generation == 4 and len(world.proxy().workers) == 1)
    assert [event.text for event in world.events.since(0) if event.kind == "renew"] == [
        "generation 3 runs 0.0.9; it is replaced"
    ]
    looks: list[object] = []
    monkeypatch.setattr(renewal, "next_one", looks.append)
    world.worker(generation=4).say(Beat(0.0, 5, 2))
    await trio.testing.wait_all_tasks_blocked()

    assert looks == []


async def test_what_was_counted_outlives_the_supervisor(make_world: MakeWorld) -> None:
    """What workers that have ended counted is on record; one that lives says its own with its first word."""
    past = Tally(4, failures=1, cost_usd=0.5)
    world, survivor = await start_with_survivor(make_world, past=past)
    told = Beat(0.0, requests=3, in_flight=1, failures=2, cost_usd=0.25, last_error="timeout")
    await survivor.dial(sockets.bind_loopback(0), spec=SPEC, serving=True, beat=told)
    row = world.commands.rows()[0]

    assert (row.requests, row.failures, row.cost_usd, row.last_error) == (7, 3, 0.75, "timeout")
    survivor.die()
    await world.until(lambda: world.proxy().pid not in (None, 77))
    [found] = state.read(world.paths.state_file)
    assert (found.past.requests, found.past.cost_usd, found.past.in_flight) == (7, 0.75, 0)


async def test_a_survivor_that_never_dials_is_replaced(make_world: MakeWorld) -> None:
    world, survivor = await start_with_survivor(make_world, port=0, spec=attrs.evolve(SPEC, port=0))
    survivor.handle.deaf = True
    began = trio.current_time()
    await world.until(lambda: world.proxy().state is State.READY)

    assert trio.current_time() - began < 5.0
    assert survivor.handle.signals[0] == signal.SIGABRT
    assert survivor.handle.ended.is_set()


async def test_a_process_that_is_not_ours_any_more_is_not_touched(make_world: MakeWorld) -> None:
    """Its pid belongs to somebody else: not recognised, and replaced at once."""
    world = make_world()
    remember(world, record(port=0, spec=attrs.evolve(SPEC, port=0)))
    await world.start()
    await world.until(lambda: world.proxy().state is State.READY)

    assert (world.proxy().generation, world.proxy().restarts) == (4, 3), "its death, which nobody saw, counts"


@pytest.mark.parametrize(
    "wrong", [{"token": "guessed"}, {"generation": 9}, {"name": "echo/none"}, {"pid": 78}]
)
async def test_who_is_not_on_record_is_sent_away(make_world: MakeWorld, wrong: dict[str, Any]) -> None:
    """With time to finish its streams. Nothing of ours changes."""
    world, _ = await start_with_survivor(make_world)
    before = world.proxy()
    hello = attrs.evolve(Hello("echo/demo", 3, 77, "secret token", spec=SPEC, serving=True), **wrong)
    link = FakeLink(hello)
    await world.on_link(link)

    assert [type(message) for message in link.heard] == [Welcome, Drain]
    assert world.proxy() == before


async def test_one_that_was_ordered_and_never_born_is_not_waited_for(make_world: MakeWorld) -> None:
    """Supervisors that die more often than one waits would otherwise never start it."""
    world = make_world()
    unborn = state.WorkerRecord(3, None, None, kernel.boot_id(), "secret token")
    remember(world, record(port=0, spec=attrs.evolve(SPEC, port=0), workers=[unborn]))
    began = trio.current_time()
    await world.start()
    await world.until(lambda: world.proxy().state is State.READY)

    assert trio.current_time() - began < policy.ADOPT_WINDOW_S
    assert (world.proxy().generation, world.proxy().deaths) == (4, ())


async def test_one_that_was_born_and_never_noted_is_known_by_its_pid(make_world: MakeWorld) -> None:
    """It is not missed, and its end is seen though it never dials."""
    world = make_world()
    remember(world, record(workers=[state.WorkerRecord(3, None, None, kernel.boot_id(), "secret token")]))
    survivor = world.survivor("echo/demo", 3, 77, "secret token")
    await world.start()

    assert repr(world.proxy()) == "<Proxy echo/demo adopting pid=77 port=3457 wanted deaths=0>"
    survivor.die()
    await world.until(lambda: bool(world.proxy().deaths))
    assert world.proxy().deaths[0].pid == 77


@pytest.mark.parametrize("pid", [None, os.getpid()], ids=["unknown", "known"])
async def test_where_no_process_can_be_identified_it_is_awaited(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch, pid: int | None
) -> None:
    """By its token, and never touched by its number."""
    monkeypatch.setattr(kernel, "CAN_IDENTIFY", False)
    world = make_world()
    known = state.WorkerRecord(3, pid, None, kernel.boot_id(), "secret token")
    remember(world, record(port=0, spec=attrs.evolve(SPEC, port=0), workers=[known]))
    began = trio.current_time()
    await world.start()
    assert repr(world.proxy()).startswith("<Proxy echo/demo adopting pid=- ")
    await world.until(lambda: world.proxy().state is State.READY)

    assert trio.current_time() - began >= policy.ADOPT_WINDOW_S


async def test_deaths_outlive_the_supervisor(make_world: MakeWorld) -> None:
    """Each with the time when it happened, which is read once: nothing is written for a beat."""
    world = make_world()
    before = kernel.wall_clock()
    dead = Death(before - 50.0, "SIGKILL", 2, 76, was_ready=True, lived_s=7.0)
    odd = Death(before + 9000.0, "exit 1", 1)  # the clock has been put back since
    remember(world, record(deaths=[odd, dead]))
    survivor = world.survivor("echo/demo", 3, 77, "secret token")
    await world.start()
    await survivor.dial(spec=SPEC, serving=True)

    told = world.commands.rows()[0].deaths
    assert [(death["cause"], death["pid"], death["lived_s"]) for death in told] == [
        ("exit 1", None, None),
        ("SIGKILL", 76, 7.0),
    ]
    assert told[0]["at"] < kernel.wall_clock() + 5.0
    assert told[1]["at"] == pytest.approx(dead.at, abs=5.0)
    survivor.die()
    await world.until(lambda: world.proxy().generation == 4 and world.proxy().state is State.READY)
    saved = on_disk(world)["echo/demo"]["deaths"]
    assert [death["cause"] for death in saved] == ["exit 1", "SIGKILL", "SIGKILL"]
    assert [death["at"] for death in saved[:2]] == [odd.at, dead.at]
    assert before <= saved[2]["at"] <= kernel.wall_clock() + 60.0  # trio's clock has jumped a little
    written = world.paths.state_file.stat().st_mtime_ns
    await trio.sleep(20.0)  # ten beats
    assert world.paths.state_file.stat().st_mtime_ns == written


async def test_one_that_dies_while_it_dials_is_no_trouble(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel does not know it any more when we look."""
    monkeypatch.setattr(kernel, "CAN_IDENTIFY", False)
    world = make_world()
    remember(world, record(workers=[state.WorkerRecord(3, None, None, kernel.boot_id(), "secret token")]))
    await world.start()
    with pytest.raises(ProcessLookupError):
        await world.on_link(FakeLink(Hello("echo/demo", 3, 77, "secret token", spec=SPEC, serving=True)))

    assert world.proxy().state is State.ADOPTING
    assert not [line for line in world.log if "internal" in line]


async def test_a_full_disk_does_not_keep_survivors_out(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starting and adopting are facts."""
    world = make_world()
    remember(world, record())
    survivor = world.survivor("echo/demo", 3, 77, "secret token")
    monkeypatch.setattr(state, "save", full_disk)
    await world.start()
    await survivor.dial(spec=SPEC, serving=True)

    assert world.proxy().state is State.READY


async def test_a_record_of_an_earlier_boot_is_void(make_world: MakeWorld) -> None:
    """The wish is not."""
    world = make_world()
    worker = state.WorkerRecord(3, None, None, "another boot", "secret token")
    remember(world, record(port=0, spec=attrs.evolve(SPEC, port=0), workers=[worker]))
    await world.start()

    assert world.proxy().state is State.STARTING  # nobody is awaited
    await world.until(lambda: world.proxy().state is State.READY)
    assert world.proxy().generation == 4


async def test_a_spoilt_file_costs_no_worker(make_world: MakeWorld) -> None:
    """Each brings its own spec, key included; a warning stays."""
    world = make_world()
    world.paths.state_file.write_text("{")
    survivor = world.survivor("echo/demo", 3, 77, "any token")
    await world.start()
    await survivor.dial(spec=attrs.evolve(SPEC, api_key="sk-1"), serving=True)

    assert repr(world.proxy()) == "<Proxy echo/demo ready pid=77 port=3457 wanted deaths=0>"
    assert world.proxy().spec.api_key == "sk-1"
    assert len(world.keeper.warnings) == 1
    assert world.paths.state_file.with_name("state.json.bad").read_text() == "{"


async def test_without_memory_the_one_that_serves_counts(make_world: MakeWorld) -> None:
    """In the middle of a roll the old generation may dial first; it is on its way out."""
    world = make_world()
    world.paths.state_file.write_text("{")
    old, new = (world.survivor("echo/demo", number, 70 + number, "any") for number in (3, 4))
    await world.start()
    await old.dial(spec=SPEC, serving=True, draining=True)
    await new.dial(spec=SPEC, serving=True)

    assert repr(world.proxy()) == "<Proxy echo/demo ready pid=74 port=3457 wanted deaths=0>"


async def test_what_is_not_wanted_stays_down(make_world: MakeWorld) -> None:
    world = make_world()
    remember(world, record(wanted=False, workers=[]))
    await world.start()

    assert (world.proxy().state, world.births) == (State.STOPPED, [])


async def test_sockets_in_safe_keeping_go_back_to_their_proxies(make_world: MakeWorld) -> None:
    """Those of nobody are closed."""
    world = make_world()
    held, unclaimed = sockets.bind_loopback(0), sockets.bind_loopback(0)
    remember(world, record(workers=[]))
    world.custody.left = {SPEC.port: held, 9: unclaimed}
    await world.start()
    await world.until(lambda: world.proxy().state is State.READY)

    assert [one.fileno() for one in world.births[0].listeners] == [one.fileno() for one in held]
    assert {one.fileno() for one in unclaimed} == {-1}


async def test_a_line_that_breaks_is_taken_up_again(world: World) -> None:
    """What was said meanwhile is in the next hello; what the old line says is not heard any more."""
    await up(world)
    worker = world.worker()
    old = worker.link
    await worker.dial(spec=SPEC, serving=True, requests=9)
    assert old is not None  # it was ready
    world.on_message(old, Bye("SIGTERM"))
    await trio.testing.wait_all_tasks_blocked()

    assert world.proxy().state is State.READY
    assert world.commands.rows()[0].requests == 9


async def test_readiness_said_while_the_line_was_down(world: World) -> None:
    world.conduct = lambda birth: "silent"
    await up(world, wait=False)
    await trio.testing.wait_all_tasks_blocked()
    await world.worker().dial(spec=SPEC, serving=True)

    assert world.proxy().state is State.READY


async def test_a_drain_that_was_not_heard_is_in_the_greeting(world: World) -> None:
    """With the time that is left of it."""
    world.conduct = lambda birth: "stubborn"
    await up(world)
    worker = world.worker()
    assert worker.link is not None  # it is ready
    worker.link.closed.set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.commands.down, "echo/demo", DownRequest(20.0))
        await trio.sleep(5.0)
        link = await worker.dial(spec=SPEC, serving=True)
        assert [type(message) for message in link.heard] == [Welcome, Drain]
        assert link.heard[1] == Drain(15.0)
    assert worker.handle.signals[0] == signal.SIGTERM  # nobody was on the line


async def test_a_key_of_a_target_is_on_record_as_needed_and_nowhere_else(world: World) -> None:
    """The proxy alone does not need one."""
    await world.commands.up(
        UpRequest("echo/demo", port=0, fallback=["openai/x"], fallback_keys={"openai": "sk-of-the-target"})
    )
    record = on_disk(world)["echo/demo"]

    assert record["needs_key"]
    assert record["spec"]["fallback"][0]["model_id"] == "openai/x"
    assert "sk-of-the-target" not in json.dumps(record)
    worker = world.worker()
    assert worker.spec is not None
    assert worker.spec.fallback[0].api_key == "sk-of-the-target"


async def test_limits_that_were_not_heard_are_in_the_greeting(world: World) -> None:
    """But not for one that speaks a protocol without them: it is left alone, and rolled at its adoption."""
    await up(world)
    worker = world.worker()
    assert worker.link is not None  # it is ready
    worker.link.closed.set()
    await world.commands.set("echo/demo", SetRequest(rpm=60))
    old = attrs.evolve(world.proxy().spec, quota=Quota())

    assert (await worker.dial(spec=old, serving=True)).heard == [Welcome(), Adjust(Quota(rpm=60))]
    assert (await worker.dial(spec=world.proxy().spec, serving=True)).heard == [Welcome()]
    assert (await worker.dial(spec=old, serving=True, protocol=1)).heard == [Welcome()]
    await world.commands.set("echo/demo", SetRequest(rpm=30))
    await trio.testing.wait_all_tasks_blocked()
    assert Adjust(Quota(rpm=30)) not in worker.link.heard


async def test_ways_that_a_front_has_not_heard_of_are_in_the_greeting(world: World) -> None:
    await up(world)
    worker, front = world.worker(), Front(otherwise="a")
    assert worker.link is not None  # it is ready
    worker.link.closed.set()
    old, unit = world.proxy().spec, world.keeper.units["echo/demo"]
    await world.keeper.ask(lambda: world.keeper.apply(unit, fleet.Led(front)))

    assert (await worker.dial(spec=old, serving=True)).heard == [Welcome(), Adjust(Quota(), front)]


# --- what follows from the facts ------------------------------------------------------------------


async def test_old_stopped_proxies_are_forgotten(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest stay."""
    monkeypatch.setattr("modelproxy.supervisor.keeper.KEPT_STOPPED", 2)
    for number in range(4):
        await up(world, f"echo/{number}")
        await world.commands.down("all", DownRequest())

    assert list(world.keeper.units) == ["echo/2", "echo/3"]


async def test_starts_that_make_nobody_leave_nothing_behind(world: World) -> None:
    """A port that somebody else has is tried for days, every half minute."""
    world.trouble["echo/demo"] = runner.SpawnError("no room", permanent=False)
    world.spawning_takes["echo/demo"] = 1.0
    with pytest.raises(Fault):
        await up(world, wait_s=60.0)
    unit = world.keeper.units["echo/demo"]
    await world.until(lambda: unit.proxy.spawn_failures > 3 and bool(unit.proxy.workers))
    assert len(unit.tokens) == 1
    await world.commands.down("echo/demo", DownRequest())

    assert unit.tokens == {}


async def test_a_daemon_at_rest_does_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour with nothing but a stopped and a failed proxy: no wake-up."""
    await up(world)
    await world.commands.down("all", DownRequest())
    world.trouble["echo/bad"] = runner.SpawnError("no interpreter", permanent=True)
    with pytest.raises(Fault):
        await up(world, "echo/bad")
    posted: list[object] = []
    original = world.keeper.post

    def post(name: str, event: fleet.Event) -> None:
        posted.append(event)
        original(name, event)

    monkeypatch.setattr(world.keeper, "post", post)
    await trio.sleep(3600.0)

    assert posted == []


async def test_a_full_log_is_rotated_and_the_worker_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelproxy.supervisor.logs.is_full", lambda path: path.exists())
    await up(world)
    log = world.paths.log_file("echo/demo")
    log.write_text("old\n")
    await trio.sleep(3.0)

    assert not log.exists()
    assert log.with_name(log.name + ".1").read_text() == "old\n"
    link = world.worker().link
    assert link is not None  # it is ready
    assert "Reopen" in [type(message).__name__ for message in link.heard]


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("boot_id", [None, "an earlier one"])
async def test_what_was_up_for_a_lease_only_outlives_neither_its_worker_nor_the_boot(
    make_world: MakeWorld, kept: bool, boot_id: str | None
) -> None:
    """Whoever held it is gone with the machine's boot, or was stopped with the supervisor; a wish stays."""
    world = make_world()
    old = [] if boot_id is None else [state.WorkerRecord(3, 77, 1, boot_id, "secret token")]
    remember(world, record(kept=kept, workers=old))
    await world.start()

    assert (world.proxy().wanted, world.keeper.units["echo/demo"].kept) == (kept, kept)


async def test_what_a_front_leads_to_outlives_the_boot_with_it(make_world: MakeWorld) -> None:
    """And not otherwise."""
    leads = Front(places=[Place("a/b", "a/b", None)])
    spec = attrs.evolve(SPEC, port=0)
    old = [state.WorkerRecord(3, 77, 1, "an earlier one", "secret token")]
    front = record(
        name="front", spec=attrs.evolve(spec, name="front", model_id="front", front=leads), workers=old
    )
    place = record(name="a/b", spec=attrs.evolve(spec, name="a/b", model_id="a/b"), workers=old, kept=False)
    for records in ([place], [front, place]):
        world = make_world()
        remember(world, *records)
        await world.start()

        assert world.proxy("a/b").wanted is (front in records)


async def test_a_survivor_for_a_lease_is_adopted(make_world: MakeWorld) -> None:
    world, survivor = await start_with_survivor(make_world, kept=False)
    await survivor.dial(sockets.bind_loopback(0), spec=SPEC, serving=True, requests=5, started_at=0.0)

    assert (world.proxy().wanted, world.proxy().pid) == (True, 77)
