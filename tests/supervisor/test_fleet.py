"""The life of a proxy, told as stories; the whole table; a machine that tries everything else."""

from __future__ import annotations

import itertools
from typing import Any, cast

import attrs
import pytest
from fakes.story import SPEC, Story, spec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from modelproxy.supervisor import fleet, policy, renewal
from modelproxy.supervisor.facts import Care, Phase, Proxy, State, Worker
from modelproxy.worker.contract import EXIT_CONFIG, Access, AccessToken, Front, Options, Place, Quota, Target

# --- starting, serving, stopping ------------------------------------------------------------------


def test_a_life_from_up_to_down() -> None:
    """The common case, in the words that a log would use."""
    story = Story()

    assert str(story) == "<Proxy echo/demo stopped pid=- port=3457 unwanted deaths=0>"
    assert story.up() == [fleet.Spawn(1)]
    assert str(story) == "<Proxy echo/demo starting pid=- port=3457 wanted deaths=0> <g1 starting pid=->"
    assert story.born(1) == []
    assert story.ready(1) == []
    assert str(story) == "<Proxy echo/demo ready pid=4001 port=3457 wanted deaths=0> <g1 ready pid=4001>"
    assert story(fleet.Down(30.0)) == [fleet.Drain(1, 30.0)]
    assert (
        str(story) == "<Proxy echo/demo draining pid=4001 port=3457 unwanted deaths=0> <g1 draining pid=4001>"
    )
    assert story.die(1, "exit 0", 0) == []
    assert str(story) == "<Proxy echo/demo stopped pid=- port=3457 unwanted deaths=0>"
    assert story.told == ["up", "ready", "down", "stopped"]
    assert story.proxy.last_pid == 4001


def test_up_is_idempotent() -> None:
    """Saying it again orders nothing, at whatever point."""
    story = Story()
    story.up()

    assert story.up() == []
    story.born(1)
    assert story.up() == []
    story.ready(1)
    assert story.up() == []


def test_down_during_starting_stops_it_when_it_appears() -> None:
    """The order to make a process cannot be taken back once it is made; its birth is met with a drain."""
    story = Story()
    story.up()

    assert story(fleet.Down(30.0)) == [fleet.Drain(1, 0.0)]
    assert story.born(1) == [fleet.Drain(1, 0.0)]
    assert story.ready(1) == []  # it did not hear us yet
    assert story.die(1, "exit 0", 0) == []
    assert story.state() is State.STOPPED


def test_down_before_the_start_had_its_turn() -> None:
    """The keeper answers that the start was taken back."""
    story = Story()
    story.up()
    story(fleet.Down(0.0))
    story.die(1, "taken back before it started")

    assert story.state() is State.STOPPED
    assert (story.proxy.deaths, story.proxy.failures) == ((), 0)


def test_down_during_backoff_stops_at_once() -> None:
    """There is nothing to wait for."""
    story = Story().serve()
    story.die(1)

    assert story.state() is State.BACKOFF
    assert story(fleet.Down(30.0)) == []
    assert story.state() is State.STOPPED
    assert story.wait(3600) == []


def test_down_during_a_roll_drains_both() -> None:
    """The newcomer has nothing to finish."""
    story = Story().serve()
    story(fleet.Restart(60.0))
    story.born(2)

    assert story.state() is State.ROLLING
    assert story(fleet.Down(30.0)) == [fleet.Drain(1, 30.0), fleet.Drain(2, 0.0)]
    story.die(2)
    assert story.state() is State.DRAINING
    story.die(1, "exit 0", 0)
    assert str(story) == "<Proxy echo/demo stopped pid=- port=3457 unwanted deaths=0>"


def test_down_again_may_only_shorten_the_time() -> None:
    """A second, more patient `down` does not prolong what a first one promised."""
    story = Story().serve()
    story(fleet.Down(10.0))

    assert story(fleet.Down(60.0)) == []
    assert story(fleet.Down(0.0)) == [fleet.Drain(1, 0.0)]
    assert fleet.next_deadline(story.proxy) == story.now + policy.DRAIN_TO_KILL_S


def test_what_ignores_the_drain_is_killed_at_the_deadline() -> None:
    """And asked again each second, should the signal not have reached it."""
    story = Story().serve()
    story(fleet.Down(10.0))

    assert story.beat_for(11.4) == []
    assert story.wait(0.2) == [fleet.Kill(1)]
    assert story.texts[-1] == "pid 4001, generation 1 did not leave in time: killed"
    assert story.wait(2.0) == [fleet.Kill(1), fleet.Kill(1)]
    assert story.told.count("overdue") == 1
    story.die(1)
    assert story.state() is State.STOPPED


def test_up_during_draining_starts_a_new_one_beside_the_old() -> None:
    """The old one may finish its streams."""
    story = Story().serve()
    story(fleet.Down(30.0))

    assert story.up() == [fleet.Spawn(2)]
    assert story.state() is State.STARTING
    story.born(2)
    story.ready(2)
    assert story.state() is State.READY
    story.die(1, "exit 0", 0)
    assert str(story) == "<Proxy echo/demo ready pid=4002 port=3457 wanted deaths=0> <g2 ready pid=4002>"


def test_the_last_wish_wins_however_often_it_changes() -> None:
    """Up, down, up, down within one breath."""
    story = Story()
    for _ in range(5):
        story.up()
        story(fleet.Down(1.0))
    for generation in range(1, 6):
        story.born(generation)
        story.die(generation)

    assert story.state() is State.STOPPED
    assert story.wait(3600) == []


# --- deaths ---------------------------------------------------------------------------------------


def test_the_first_death_of_a_proven_worker_costs_no_pause() -> None:
    """Ten seconds of being ready are the proof."""
    story = Story().serve()
    story.beat_for(10.0)

    assert story.die(1) == [fleet.Spawn(2)]
    assert str(story) == "<Proxy echo/demo starting pid=- port=3457 wanted deaths=1> <g2 starting pid=->"
    assert story.proxy.restarts == 1


def test_exit_zero_without_goodbye_is_a_death() -> None:
    """Unless stopped, it is wanted."""
    story = Story().serve()

    assert story.die(1, "exit 0", 0) == []
    assert story.state() is State.BACKOFF
    assert story.wait(0.25) == [fleet.Spawn(2)]


def test_delays_grow_and_are_capped() -> None:
    """It worked once, so it is never given up; a crash loop is said, and `restart` forgets it."""
    story = Story().serve()
    pauses = []
    for generation in range(1, 12):
        story.wait(2.0)
        story.die(generation, "exit 1", 1)
        retry_at = story.proxy.retry_at
        assert retry_at is not None
        pauses.append(retry_at - story.now)
        assert story.wait(pauses[-1]) == [fleet.Spawn(generation + 1)]
        story.born(generation + 1)
        story.ready(generation + 1)

    assert pauses == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 30.0]
    assert story.proxy.is_crash_loop(story.now)
    assert "failed" not in story.told
    story(fleet.Restart(1.0))
    assert (story.proxy.failures, story.proxy.deaths) == (0, ())


def test_jitter_scales_the_pause() -> None:
    """So that a hundred proxies that died together do not come back together."""
    proxy = Story().serve().proxy
    early, _ = fleet.step(proxy, fleet.Exited(1, "SIGKILL"), 101.0, jitter=0.75)
    late, _ = fleet.step(proxy, fleet.Exited(1, "SIGKILL"), 101.0, jitter=1.25)

    assert (early.retry_at, late.retry_at) == (101.1875, 101.3125)


def test_a_minute_of_being_ready_forgives() -> None:
    """Time being ready, not having started, is what counts."""
    story = Story().serve()
    story.die(1)
    story.wait(1.0)
    story.born(2)
    story.ready(2)

    assert story.beat_for(59.0) == []
    assert (story.proxy.failures, story.proxy.trouble) == (1, None)
    story.beat_for(2.0)
    assert story.proxy.failures == 0
    assert story.die(2) == [fleet.Spawn(3)]


def test_a_minute_that_is_interrupted_does_not_forgive() -> None:
    """The clock of the first newcomer does not run on for the second."""
    story = Story().serve()
    for generation in (1, 2):
        story.die(generation)
        story.wait(1.0)
        story.born(generation + 1)
        story.ready(generation + 1)
        story.beat_for(31.0)

    assert story.proxy.failures == 2
    story.die(3)
    story.wait(120.0)  # nobody is ready meanwhile
    assert story.proxy.failures == 3


def test_five_starts_that_are_never_ready_give_up() -> None:
    """With growing pauses; the reason of the last is kept; `up` tries again."""
    story = Story()
    story.up()
    for generation in range(1, 6):
        assert story.state() is State.STARTING
        story.born(generation)
        story.die(generation, "exit 1", 1)
        if generation < 5:
            story.wait(30.0)

    assert story.state() is State.FAILED
    assert story.proxy.given_up == "5 starts were never ready; last: exit 1"
    assert (story.wait(3600), fleet.next_deadline(story.proxy)) == ([], None)
    assert story.up() == [fleet.Spawn(6)]


def test_what_has_worked_is_never_given_up() -> None:
    """However often its successors are not ready."""
    story = Story().serve()
    story.die(1)
    for generation in range(2, 20):
        story.wait(31.0)
        story.born(generation)
        story.die(generation, "exit 1", 1)

    assert story.state() is State.BACKOFF


def test_a_new_spec_has_to_prove_itself() -> None:
    """That another spec worked says nothing of this one."""
    story = Story().serve()
    story.die(1)
    assert story(fleet.Up(spec(base_url="http://nowhere"))) == [fleet.Spawn(2)]
    for generation in range(2, 7):
        story.born(generation)
        story.die(generation, "exit 1", 1)
        story.wait(30.0)

    assert story.state() is State.FAILED


def test_exit_78_is_not_tried_again() -> None:
    """The configuration cannot work; a restart by hand is a new try."""
    story = Story()
    story.up()
    story.born(1)
    story.die(1, "exit 78", EXIT_CONFIG)

    assert str(story) == "<Proxy echo/demo failed pid=- port=3457 wanted deaths=1>"
    assert story.proxy.given_up == "exit 78: the configuration cannot work"
    assert story.wait(3600) == []
    assert story(fleet.Restart(1.0)) == [fleet.Spawn(2)]


def test_down_of_a_failed_one_forgets_why() -> None:
    """So that `ps` does not call it failed any more."""
    story = Story()
    story.up()
    story.die(1, "exit 78", EXIT_CONFIG)
    story(fleet.Down(1.0))

    assert (story.state(), story.proxy.given_up) == (State.STOPPED, None)


def test_a_newcomer_that_is_ready_ends_the_failure_of_its_elder() -> None:
    """The elder's exit 78 came while its successor was already starting."""
    story = Story().serve()
    story(fleet.Restart(1.0))
    story.born(2)
    story.die(1, "exit 78", EXIT_CONFIG)
    story.ready(2)

    assert (story.state(), story.proxy.given_up) == (State.READY, None)
    assert story.die(2) == []
    assert story.wait(31.0) == [fleet.Spawn(3)]


def test_not_ready_in_time_is_killed_and_counted() -> None:
    """Twenty seconds from its birth."""
    story = Story()
    story.up()
    story.born(1)

    assert story.wait(19.9) == []
    assert story.wait(0.2) == [fleet.Examine(1, briefly=True)]
    assert story(examined()) == [fleet.Kill(1)]
    story.die(1)
    assert story.proxy.trouble == "not ready within 20 s; SIGKILL"
    assert story.proxy.never_ready == 1


def test_waiting_for_its_turn_is_not_counted_against_a_start() -> None:
    """Others may hold the turns for as long as they like."""
    story = Story()
    story.up()

    assert story.wait(300.0) == []
    story.born(1)
    assert story.wait(19.0) == []
    assert story.state() is State.STARTING


def test_a_process_that_cannot_be_made_is_tried_again_and_counted_apart() -> None:
    """1, 2, 4 … 30 seconds; the proxy's own counters stay."""
    story = Story()
    story.up()
    pauses = []
    for generation in range(1, 8):
        story(fleet.SpawnFailed(generation, "cannot start python: Cannot allocate memory"))
        retry_at = story.proxy.retry_at
        assert retry_at is not None
        pauses.append(retry_at - story.now)
        assert story.wait(pauses[-1]) == [fleet.Spawn(generation + 1)]

    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert (story.proxy.failures, story.proxy.never_ready, story.proxy.deaths) == (0, 0, ())
    story.born(8)
    story.ready(8)
    assert (story.proxy.spawn_failures, story.proxy.trouble) == (0, None)


def test_no_such_interpreter_is_permanent() -> None:
    """Another try cannot help."""
    story = Story()
    story.up()
    story(fleet.SpawnFailed(1, "cannot start /gone/python: No such file or directory", permanent=True))

    assert story.state() is State.FAILED
    assert story.proxy.given_up == "cannot start /gone/python: No such file or directory"
    assert story.wait(3600) == []


def test_our_own_bug_starts_a_missing_worker_after_a_pause() -> None:
    """And leaves alone what serves."""
    story = Story()
    story.up()
    story(fleet.SpawnFailed(1, "internal error"))
    story(fleet.Broke("KeyError: 3"))

    assert story.state() is State.BACKOFF
    assert story.wait(2.0) == [fleet.Spawn(2)]
    story.born(2)
    story.ready(2)
    assert story(fleet.Broke("KeyError: 3")) == []
    assert story.state() is State.READY


# --- rolls ----------------------------------------------------------------------------------------


def test_a_roll_starts_the_new_one_before_the_old_one_drains() -> None:
    """There is always somebody who answers."""
    story = Story().serve()

    assert story(fleet.Restart(900.0)) == [fleet.Spawn(2)]
    assert str(story).startswith("<Proxy echo/demo rolling pid=4001 ")
    assert story.born(2) == []
    assert story.ready(2) == [fleet.Drain(1, 900.0)]
    assert str(story) == (
        "<Proxy echo/demo ready pid=4002 port=3457 wanted deaths=0> <g1 draining pid=4001> <g2 ready pid=4002>"
    )
    story.die(1, "exit 0", 0)
    assert (story.proxy.restarts, story.proxy.deaths) == (0, ())


@pytest.mark.parametrize("end", ["dies", "never ready", "cannot be made", "exit 78"])
def test_a_roll_whose_newcomer_is_lost_keeps_the_old_one(end: str) -> None:
    """It is reported, and not tried again by itself."""
    story = Story().serve()
    story(fleet.Restart(900.0))
    if end == "cannot be made":
        story(fleet.SpawnFailed(2, "no memory", permanent=True))
    else:
        story.born(2)
        if end == "never ready":
            assert story.beat_for(20.5) == [fleet.Examine(2, briefly=True)]
            assert story(attrs.evolve(examined(), generation=2)) == [fleet.Kill(2)]
        story.die(2, "exit 78" if end == "exit 78" else "exit 1", EXIT_CONFIG if end == "exit 78" else 1)

    assert story.state() is State.READY
    assert story.proxy.pid == 4001
    assert story.told[-1] == "roll-failed"
    assert story.proxy.trouble is not None
    assert story.proxy.trouble.startswith("the roll failed, generation 1 goes on: ")
    assert story.beat_for(100.0) == []
    assert story(fleet.Restart(900.0)) == [fleet.Spawn(3)]


def test_the_old_one_dies_while_its_successor_starts() -> None:
    """No third one is started."""
    story = Story().serve()
    story(fleet.Restart(900.0))
    story.born(2)

    assert story.die(1) == []
    assert story.state() is State.STARTING
    assert story.ready(2) == []
    assert story.state() is State.READY
    assert story.wait(1.0) == []


def test_restart_during_starting_gives_one_that_knows_the_wish() -> None:
    """The one on its way was started before; it is rolled when it is ready."""
    story = Story()
    story.up()
    story.born(1)

    assert story(fleet.Restart(5.0)) == []
    assert story.ready(1) == [fleet.Spawn(2)]
    story.born(2)
    assert story.ready(2) == [fleet.Drain(1, 5.0)]


def test_restart_during_a_roll_rolls_once_more() -> None:
    """However often it is said: once."""
    story = Story().serve()
    story(fleet.Restart(5.0))
    story.born(2)

    assert [story(fleet.Restart(5.0)) for _ in range(3)] == [[], [], []]
    assert story.ready(2) == [fleet.Drain(1, 5.0), fleet.Spawn(3)]
    story.born(3)
    assert story.ready(3) == [fleet.Drain(2, 5.0)]
    assert story.state() is State.READY


def test_restart_during_backoff_starts_at_once() -> None:
    """A person has looked: no more waiting."""
    story = Story().serve()
    story.die(1)

    assert story(fleet.Restart(5.0)) == [fleet.Spawn(2)]


def test_restart_of_what_is_not_wanted_does_nothing() -> None:
    """It is not an `up`."""
    story = Story()

    assert story(fleet.Restart(5.0)) == []
    assert story.state() is State.STOPPED


def test_a_third_roll_cuts_the_oldest_of_three_drainers() -> None:
    """Streams that last for hours do not gather processes without end."""
    story = Story().serve()
    orders: list[fleet.Action] = []
    for generation in (2, 3, 4):
        story(fleet.Restart(900.0))
        story.born(generation)
        orders = story.ready(generation)

    assert orders == [fleet.Drain(3, 900.0), fleet.Drain(1, 0.0)]
    assert story.wait(2.0) == [fleet.Kill(1)]


def test_a_changed_spec_rolls_the_worker() -> None:
    """The fleet compares specs; that the user said so is the commands' business."""
    story = Story().serve()

    assert story(fleet.Up(spec(base_url="http://elsewhere"))) == [fleet.Spawn(2)]
    assert story.told[-1] == "changed"


# --- goodbyes and the supervisor's end ------------------------------------------------------------


def test_bye_after_a_signal_by_hand_is_a_stop() -> None:
    """`kill PID` means: I do not want it any more."""
    story = Story().serve()

    assert story(fleet.SaidBye(1, "SIGTERM")) == [fleet.Drain(1, 30.0)]
    assert (
        str(story) == "<Proxy echo/demo draining pid=4001 port=3457 unwanted deaths=0> <g1 draining pid=4001>"
    )
    assert story.die(1, "exit 0", 0) == []
    assert story.state() is State.STOPPED
    assert story.told[-2:] == ["bye", "stopped"]


def test_bye_of_a_newcomer_while_the_old_one_answers_stops_nothing() -> None:
    """The old one serves on, and the roll is tried with another."""
    story = Story().serve()
    story(fleet.Restart(5.0))
    story.born(2)

    assert story(fleet.SaidBye(2, "SIGTERM")) == [fleet.Spawn(3)]
    assert story.proxy.wanted


def test_bye_of_one_that_was_asked_to_leave_is_only_noted() -> None:
    """It drains, as it should."""
    story = Story().serve()
    story(fleet.Restart(5.0))
    story.born(2)
    story.ready(2)

    assert story(fleet.SaidBye(1, "stopping")) == []
    assert story.state() is State.READY


def test_halt_keeps_the_wish() -> None:
    """The supervisor goes down in an orderly way: all drain, nothing is started, all are wanted again."""
    story = Story().serve()
    story(fleet.Restart(5.0))

    assert story(fleet.Halt(7.0)) == [fleet.Drain(1, 7.0), fleet.Drain(2, 0.0)]
    assert story.die(1) == []
    assert story(fleet.SpawnFailed(2, "no memory")) == []
    assert (story.state(), story.proxy.wanted) == (State.STOPPED, True)
    assert story.wait(3600) == []


def test_halt_in_backoff_starts_nothing_any_more() -> None:
    story = Story().serve()
    story.die(1)
    story(fleet.Halt(1.0))

    assert (story.wait(3600), story.state()) == ([], State.STOPPED)


# --- after a supervisor's death -------------------------------------------------------------------


def recalled(*, pid: int | None = 4003, wanted: bool = True, **facts: Any) -> Story:
    """What a new supervisor knows of a worker of generation 3 before it has dialled."""
    story = Story(Proxy(SPEC.name, SPEC, wanted=wanted, generation=3))
    story.proxy = attrs.evolve(story.proxy, **facts)
    story(fleet.Recall(3, pid))
    return story


def test_one_that_died_unseen_counts_and_its_successor_does_not_wait() -> None:
    """20: nobody knows how long ago it was. The next death waits like a second one."""
    story = Story(Proxy(SPEC.name, SPEC, wanted=True, generation=3))
    orders = story(fleet.Unseen(3, 4003))

    assert [type(order) for order in orders] == [fleet.Spawn]
    assert (story.proxy.failures, story.proxy.restarts) == (1, 1)
    assert [(death.cause, death.generation, death.pid) for death in story.proxy.deaths] == [
        ("unobserved, while no supervisor ran", 3, 4003)
    ]


def test_one_that_died_unseen_and_is_not_wanted_is_no_death() -> None:
    """A `down` whose supervisor ended with it."""
    story = Story(Proxy(SPEC.name, SPEC, wanted=False, generation=3))

    assert story(fleet.Unseen(3, 4003)) == []
    assert story.proxy.deaths == ()


def dialled(**changes: Any) -> fleet.Dialled:
    event = fleet.Dialled(3, 4003, serving=True, draining=False, ready_for_s=50.0, spec=SPEC)
    return attrs.evolve(event, **changes)


def test_a_worker_that_dials_is_adopted() -> None:
    """Same pid, same generation, its time being ready included."""
    story = recalled()

    assert story(fleet.Begin()) == []
    assert str(story) == "<Proxy echo/demo adopting pid=4003 port=3457 wanted deaths=0> <g3 absent pid=4003>"
    assert story(dialled()) == []
    assert str(story) == "<Proxy echo/demo ready pid=4003 port=3457 wanted deaths=0> <g3 ready pid=4003>"
    assert story.die(3) == [fleet.Spawn(4)]  # it had been ready for fifty seconds
    assert story.proxy.worked


def test_nothing_on_record_is_started() -> None:
    """It died while there was no supervisor."""
    story = Story(Proxy(SPEC.name, SPEC, wanted=True, generation=3))

    assert story(fleet.Begin()) == [fleet.Spawn(4)]


def test_one_that_lives_but_does_not_dial_is_replaced() -> None:
    """Three seconds, then its stacks, then its end."""
    story = recalled()
    story(fleet.Begin())

    assert story.wait(2.9) == []
    assert story.wait(0.2) == [fleet.Examine(3, briefly=True)]
    assert story(attrs.evolve(examined(), generation=3)) == [fleet.Abort(3)]
    assert story.wait(0.2) == [fleet.Kill(3)]
    assert story.die(3, "SIGKILL") == []
    assert story.wait(0.3) == [fleet.Spawn(4)]
    assert story.proxy.deaths[0].cause == "hung (did not dial); SIGKILL"


def test_one_that_was_ordered_but_perhaps_never_born() -> None:
    """No pid on record: after the window there was no process."""
    story = recalled(pid=None)
    story(fleet.Begin())

    assert story.wait(2.9) == []
    assert story.wait(0.2) == [fleet.Spawn(4)]


def test_one_that_was_born_but_not_noted_is_adopted_by_its_token() -> None:
    """A newborn has not been told what to be; it is told now and becomes ready."""
    story = recalled(pid=None)
    story(fleet.Begin())
    story(dialled(serving=False, ready_for_s=0.0, spec=None))

    assert (
        str(story) == "<Proxy echo/demo starting pid=4003 port=3457 wanted deaths=0> <g3 starting pid=4003>"
    )
    assert story.ready(3) == []
    assert story.state() is State.READY


def test_a_newborn_that_dials_after_its_replacement_leaves() -> None:
    """Two at once are one too many."""
    story = recalled(pid=None)
    assert story.wait(3.1) == [fleet.Spawn(4)]
    story.born(4)

    assert story(dialled(serving=False, ready_for_s=0.0, spec=None)) == [fleet.Drain(3, 0.0)]
    assert [repr(worker) for worker in story.proxy.workers] == [
        "<g3 draining pid=4003>",
        "<g4 starting pid=4004>",
    ]


def test_in_the_middle_of_a_roll_the_newer_one_stays() -> None:
    """Both dial; both were serving."""
    story = recalled(generation=4)
    story(fleet.Recall(4, 4004))
    story(fleet.Begin())

    assert story(dialled()) == []
    assert story.state() is State.READY  # g4 is still awaited, and nothing is started meanwhile
    assert story(dialled(generation=4, pid=4004)) == [fleet.Drain(3, policy.ROLL_GRACE_S)]
    assert story.proxy.pid == 4004


def test_one_that_dials_draining_is_left_to_finish() -> None:
    """And another is started for the wish."""
    story = recalled()
    story(fleet.Begin())

    assert story(dialled(draining=True)) == [fleet.Spawn(4)]
    assert repr(story.proxy.workers[0]) == "<g3 draining pid=4003>"


@pytest.mark.parametrize("draining", [False, True])
def test_one_that_is_not_wanted_any_more_is_drained_when_it_dials(draining: bool) -> None:
    """The wish was written down before its worker could be told; one that knows is told nothing again."""
    story = recalled(wanted=False)

    assert story(fleet.Begin()) == []
    assert story(dialled(draining=draining)) == ([] if draining else [fleet.Drain(3, 30.0)])
    story.die(3)
    assert story.state() is State.STOPPED


def test_one_that_is_not_wanted_any_more_and_does_not_dial_is_ended() -> None:
    story = recalled(wanted=False)
    story(fleet.Begin())
    story.wait(policy.ADOPT_WINDOW_S)

    assert story(fleet.Examined(3, traced=False, busy=False, detail="state T, idle")) == [fleet.Abort(3)]


@pytest.mark.parametrize("pid", [4003, None])
def test_down_during_adopting_ends(pid: int | None) -> None:
    """Also when nobody knows whether there is a process at all: then after the window."""
    story = recalled(pid=pid)
    story(fleet.Begin())
    orders = story(fleet.Down(1.0))

    assert orders == ([fleet.Drain(3, 1.0)] if pid else [])
    story.wait(3.1)
    if pid:
        story.die(3)
    assert story.state() is State.STOPPED
    assert story.told[-1] == "stopped"
    assert fleet.next_deadline(story.proxy) is None


def test_one_that_dials_after_down_is_drained_then() -> None:
    story = recalled(pid=None)
    story(fleet.Down(1.0))

    assert story(dialled()) == [fleet.Drain(3, 30.0)]


def test_restart_during_adopting_rolls_the_one_that_dials() -> None:
    """It was running before the restart was asked for."""
    story = recalled()
    story(fleet.Begin())

    assert story(fleet.Restart(5.0)) == []
    assert story(dialled()) == [fleet.Spawn(4)]
    story.born(4)
    assert story.ready(4) == [fleet.Drain(3, 5.0)]


def test_one_with_another_spec_is_kept_and_rolled() -> None:
    """It answers until its successor does."""
    story = recalled()
    story(fleet.Begin())

    assert story(dialled(spec=spec(base_url="http://old"))) == [fleet.Spawn(4)]
    assert story.state() is State.ROLLING
    assert story.proxy.spec == SPEC
    story.born(4)
    assert story.ready(4) == [fleet.Drain(3, policy.ROLL_GRACE_S)]
    assert story.state() is State.READY


def test_a_roll_for_another_spec_that_fails_does_not_loop() -> None:
    story = recalled()
    story(dialled(spec=spec(base_url="http://old")))
    story.born(4)
    story.die(4, "exit 1", 1)

    assert story.state() is State.READY
    assert story.beat_for(60.0) == []


@pytest.mark.parametrize("outdated", [None, "0.0.9"])
def test_a_roll_for_which_there_is_no_key_is_given_up_and_said_once(outdated: str | None) -> None:
    """The supervisor died in the middle of a change; the new key died with it, the old worker has its own."""
    story = recalled(key_lost=True)
    story(dialled(spec=spec(base_url="http://old"), outdated=outdated))

    assert story.state() is State.READY
    assert story.proxy.given_up is None
    assert story.beat_for(60.0) == []
    assert story.told.count("roll-failed") == 1
    assert "its key was given by flag" in (story.proxy.trouble or "")
    assert renewal.next_one([story.proxy]) is None


def test_one_of_another_version_serves_until_its_turn_comes() -> None:
    """Then it is rolled; the newcomer is of ours."""
    story = recalled()
    story(fleet.Begin())
    assert story(dialled(outdated="0.0.9")) == []
    assert story.state() is State.READY

    assert story(fleet.Renew()) == [fleet.Spawn(4)]
    assert story(fleet.Renew()) == []
    story.born(4)
    assert story.ready(4) == [fleet.Drain(3, policy.ROLL_GRACE_S)]
    current = story.proxy.current
    assert current is not None
    assert current.outdated is None
    assert story(fleet.Renew()) == []


def test_a_replacement_that_fails_leaves_the_outdated_one_and_says_so() -> None:
    """It does not loop, and whoever goes round does not come back to it."""
    story = recalled()
    story(dialled(outdated="0.0.9"))
    story(fleet.Renew())
    story.born(4)
    story.die(4, "exit 1", 1)
    current = story.proxy.current

    assert current is not None
    assert (current.generation, current.outdated, current.kept) == (3, "0.0.9", True)
    assert story.beat_for(60.0) == []


def test_an_outdated_one_that_dies_is_followed_by_one_of_ours() -> None:
    story = recalled()
    story(dialled(outdated="0.0.9", ready_for_s=60.0))

    assert story.die(3) == [fleet.Spawn(4)]
    assert story.state() is State.STARTING


def test_the_key_comes_home_from_the_worker() -> None:
    """It lived in two memories; one of them died."""
    story = recalled(key_lost=True)
    story(fleet.Begin())
    story(dialled(spec=spec(api_key="sk-1")))

    assert story.proxy.spec.api_key == "sk-1"
    assert not story.proxy.key_lost
    assert story.die(3) == [fleet.Spawn(4)]


def test_a_lost_key_fails_with_the_command_to_repeat() -> None:
    """Nobody who knew it is left."""
    story = Story(Proxy(SPEC.name, SPEC, wanted=True, generation=3, key_lost=True))

    assert story(fleet.Begin()) == []
    assert story.state() is State.FAILED
    assert story.proxy.given_up is not None
    assert "repeat proxyctl up echo/demo --api-key" in story.proxy.given_up
    assert story(fleet.Up(spec(api_key="sk-1"))) == [fleet.Spawn(4)]
    assert story.proxy.given_up is None


def test_the_command_to_repeat_is_for_this_proxy_and_not_for_its_model() -> None:
    story = Story(Proxy("coder", spec(name="coder"), wanted=True, generation=3, key_lost=True))
    story(fleet.Begin())

    assert story.proxy.given_up is not None
    assert "repeat proxyctl up coder --api-key" in story.proxy.given_up


def test_a_lost_key_of_a_target_names_the_target() -> None:
    """The command that brings it back is the whole one."""
    wanted = spec(fallback=[Target("far", "far/model", "openai", "model")])
    story = Story(Proxy(SPEC.name, wanted, wanted=True, generation=3, key_lost=True))
    story(fleet.Begin())

    assert story.proxy.given_up is not None
    assert "repeat proxyctl up echo/demo --fallback far/model" in story.proxy.given_up


def test_the_key_of_a_target_comes_home_from_the_worker() -> None:
    target = Target("far", "far/model", "openai", "model", api_key="sk-far")
    story = recalled(key_lost=True, spec=spec(fallback=[target.without_secrets()]))
    story(fleet.Begin())
    story(dialled(spec=spec(fallback=[target])))

    assert story.proxy.spec.fallback == [target]
    assert not story.proxy.key_lost


BLUE, GREEN = (spec(options=Options(headers={"x-team": value})) for value in ("blue", "green"))


def test_the_headers_come_home_with_the_worker() -> None:
    """And with the key, if there is one."""
    story = recalled(key_lost=True, key_sought=True, spec=BLUE.without_secrets())
    story(fleet.Begin())
    story(dialled(spec=attrs.evolve(BLUE, api_key="sk-1")))

    assert story.proxy.spec == attrs.evolve(BLUE, api_key="sk-1")
    assert (story.proxy.key_lost, story.proxy.key_sought) == (False, False)
    assert story.state() is State.READY


def test_a_worker_that_serves_with_another_header_than_is_known_is_rolled() -> None:
    """The supervisor was executed anew in the middle of a roll to it."""
    for ours in (BLUE, BLUE.without_secrets()):
        lost = ours is not BLUE
        story = recalled(spec=ours, key_lost=lost, key_sought=lost)
        story(fleet.Begin())
        assert story(dialled(spec=GREEN)) == ([] if lost else [fleet.Spawn(4)])
        assert story.proxy.spec == (GREEN if lost else BLUE)


def test_a_newborn_that_nobody_can_tell_what_to_be_is_sent_away() -> None:
    """Its successor has to wait for the key; it would have served without."""
    story = recalled(key_lost=True, key_sought=True)
    story(fleet.Begin())
    assert story(dialled(spec=None, serving=False)) == [fleet.Drain(3, 0.0)]
    assert story.die(3, "exit 0", 0) == []
    assert story.state() is State.ADOPTING

    assert story(fleet.KeySought(spec(api_key="sk-1"))) == [fleet.Spawn(4)]
    assert story.proxy.deaths == ()


# --- limits ---------------------------------------------------------------------------------------


def test_other_limits_are_told_to_every_worker_and_replace_none() -> None:
    """A roll would be a heavy answer to a number."""
    story = Story().serve()
    story(fleet.Restart(50.0))
    story.born(2)
    quota = Quota(max_concurrent=2, queue_timeout_s=1.5)

    assert story(fleet.Limited(quota)) == [fleet.Adjust(1, quota), fleet.Adjust(2, quota)]
    assert story.proxy.spec.quota == quota
    assert story.texts[-1] == "max_concurrent=2, queue_timeout_s=1.5"
    assert story(fleet.Limited(quota)) == []
    story(fleet.Limited(Quota()))
    assert story.texts[-1] == "none any more"


def test_a_front_that_is_to_lead_elsewhere_is_told_and_not_replaced() -> None:
    front = Front([], [Place("a", "echo/a", "http://127.0.0.1:1"), Place("b", "echo/b", None)])
    story = Story().serve()

    assert story(fleet.Led(front)) == [fleet.Adjust(1, Quota(), front)]
    assert story.proxy.spec.front == front
    assert story.texts[-1] == "to a, b (down), else to anthropic"
    assert story(fleet.Led(front)) == []
    assert story(fleet.Up(spec(front=Front(otherwise="a")))) == [
        fleet.Adjust(1, Quota(), Front(otherwise="a"))
    ]
    assert story.texts[-1] == "to nobody, else to a"
    story(fleet.Led(None))
    assert story.texts[-1] == "to nobody, else to nobody"


def test_who_may_ask_is_told_like_a_limit() -> None:
    """By names; hashes are nobody's business."""
    story = Story().serve()
    tokens = [AccessToken("ci", "0" * 64), AccessToken("me", "1" * 64)]
    quota = Quota(rpm=60, access=Access(required=True, tokens=tokens))

    assert story(fleet.Limited(quota)) == [fleet.Adjust(1, quota)]
    assert story.texts[-1] == "rpm=60, tokens ci me, a token is demanded"


def test_up_with_nothing_new_but_limits_replaces_none_either() -> None:
    story = Story().serve()
    quota = Quota(rpm=60)

    assert story(fleet.Up(spec(quota=quota))) == [fleet.Adjust(1, quota)]
    assert story.proxy.spec.quota == quota


def test_a_worker_that_comes_back_with_other_limits_stays() -> None:
    """It is told; see the keeper's greeting."""
    story = recalled(spec=spec(quota=Quota(rpm=60)))
    story(fleet.Begin())

    assert story(dialled(spec=SPEC)) == []
    assert story.proxy.spec.quota == Quota(rpm=60)


def test_a_front_that_comes_back_with_other_ways_stays() -> None:
    story = recalled(spec=spec(front=Front(otherwise="a")))
    story(fleet.Begin())
    order = story.proxy.order
    story(dialled(spec=spec(front=Front())))

    assert [worker.order for worker in story.proxy.workers] == [order]
    assert story.proxy.spec.front == Front(otherwise="a")


def test_a_worker_that_dials_late_ends_the_failure() -> None:
    """Its key had been taken for lost."""
    story = recalled(pid=None, key_lost=True)
    story.wait(3.1)
    assert story.state() is State.FAILED

    assert story(dialled(spec=spec(api_key="sk-1"))) == []
    assert (story.state(), story.proxy.given_up) == (State.READY, None)


def test_a_moment_without_a_line_is_no_second_adoption() -> None:
    story = Story().serve()
    before = story.proxy

    assert story(fleet.Dialled(1, 4001, serving=True, draining=False, spec=SPEC)) == []
    assert story.proxy == before


# --- silence --------------------------------------------------------------------------------------


def silent() -> Story:
    """Ready, and then not a word for ten seconds."""
    story = Story().serve()
    assert story.wait(9.9) == []
    assert story.wait(0.2) == [fleet.Examine(1)]
    return story


def examined(**changes: Any) -> fleet.Examined:
    return attrs.evolve(fleet.Examined(1, traced=False, busy=False, detail="state T, idle"), **changes)


def test_a_silent_idle_worker_is_hung() -> None:
    """Its stacks, a second, its end, a successor on the same socket."""
    story = silent()

    assert story(examined()) == [fleet.Abort(1)]
    assert str(story).startswith("<Proxy echo/demo hung pid=4001 ")
    assert story.wait(1.1) == [fleet.Kill(1)]
    assert story.die(1) == [fleet.Spawn(2)]
    assert story.proxy.deaths[-1].cause == "hung (state T, idle); SIGKILL"


def test_a_silent_busy_worker_has_thirty_seconds() -> None:
    """It computes; it will beat when it is done."""
    story = silent()
    while story.now < 129.0:
        assert story(examined(busy=True, detail="state R, busy")) == []
        assert story.state() is State.READY
        assert story.wait(2.0) == [fleet.Examine(1)]

    story.wait(1.1)
    assert story(examined(busy=True, detail="state R, busy")) == [fleet.Abort(1)]


def test_a_traced_worker_is_left_alone() -> None:
    """Somebody is looking at it with a debugger."""
    story = silent()
    for _ in range(10):
        assert story(examined(traced=True)) == []
        assert (current_of(story).traced, current_of(story).hung) == (True, None)
        assert story.wait(10.0) == [fleet.Examine(1)]

    assert story.state() is State.READY
    story(fleet.Beaten(1))
    assert not current_of(story).traced


def test_a_traced_start_is_left_alone() -> None:
    """A breakpoint on the way to readiness is no slow start."""
    story = Story()
    story.up()
    story.born(1)
    for _ in range(3):
        assert story.wait(20.0) == [fleet.Examine(1, briefly=True)]
        assert story(examined(traced=True)) == []

    assert story.state() is State.STARTING
    story.ready(1)
    assert (story.state(), story.proxy.never_ready) == (State.READY, 0)


def test_a_traced_survivor_is_left_alone() -> None:
    """It cannot dial while a debugger holds it; `down` ends it all the same."""
    story = recalled()
    story(fleet.Begin())
    for _ in range(3):
        assert story.wait(3.0) == [fleet.Examine(3, briefly=True)]
        assert story(attrs.evolve(examined(traced=True), generation=3)) == []

    assert story.state() is State.ADOPTING
    story(fleet.Down(1.0))
    assert story.wait(2.6) == [fleet.Kill(3)]


def test_who_comes_late_hears_first_and_judges_then() -> None:
    """This process stood still while survivors were awaited: they may have dialled long ago."""
    story = recalled()
    story(fleet.Begin())
    story.now += policy.ADOPT_WINDOW_S * 1.6

    assert story(fleet.Clock()) == []
    assert story.wait(policy.WAKE_GRACE_S - 0.1) == []
    assert story.wait(0.2) == [fleet.Examine(3, briefly=True)]


# --- silence of one that leaves -------------------------------------------------------------------


def rolled(*, silent_before: float = 0.0) -> Story:
    """Generation 1 finishes its requests and has a quarter of an hour for that; generation 2 serves."""
    story = Story().serve()
    story.wait(silent_before)
    story(fleet.Restart(900.0))
    story.born(2)
    assert story.ready(2) == [fleet.Drain(1, 900.0)]
    return story


def test_one_that_leaves_and_falls_silent_is_hung() -> None:
    """Who waits for it does not wait for the grace. It is on record, and its successor has nothing to do with it."""
    story = rolled()
    before = story.proxy
    story(fleet.Beaten(2))

    assert story.wait(9.9) == []
    assert story.wait(0.2) == [fleet.Examine(1), fleet.Examine(2)]
    story(fleet.Beaten(2))
    assert story(examined()) == [fleet.Abort(1)]
    assert story.texts[-1] == "generation 1 (draining): silent for 10 s, state T, idle"
    assert story.state() is State.READY
    assert story.wait(1.1) == [fleet.Kill(1)]
    assert story.die(1, "SIGABRT") == []
    assert story.texts[-1] == "pid 4001, generation 1, which was leaving: hung (state T, idle); SIGABRT"
    (death,) = story.proxy.deaths
    assert (death.cause, death.was_leaving, death.was_ready) == ("hung (state T, idle); SIGABRT", True, False)
    assert attrs.evolve(story.proxy, deaths=(), workers=(), last_pid=None) == attrs.evolve(before, workers=())
    assert story.proxy.trouble is None
    assert not story.proxy.losses


def test_deaths_of_those_that_leave_are_no_crash_loop() -> None:
    story = Story().serve()
    for generation in range(1, 7):
        story(fleet.Up(spec(base_url=f"http://{generation}")))
        story.born(generation + 1)
        story.ready(generation + 1)
        story.wait(10.1)
        story(fleet.Beaten(generation + 1))
        assert story(examined(generation=generation)) == [fleet.Abort(generation)]
        story.die(generation, "SIGABRT")

    assert len(story.proxy.deaths) == 6
    assert not story.proxy.is_crash_loop(story.now)
    assert (story.state(), story.proxy.failures, story.proxy.restarts) == (State.READY, 0, 0)


def test_a_silence_is_not_forgiven_by_a_roll() -> None:
    """It had stood still for six seconds when it was told to leave."""
    story = rolled(silent_before=6.0)

    assert story.wait(3.9) == []
    assert story.wait(0.2) == [fleet.Examine(1)]


def test_a_look_goes_on_through_a_roll() -> None:
    """It was ordered for one that served; what it shows counts for one that leaves."""
    story = silent()
    story(fleet.Restart(900.0))
    story.born(2)
    story.ready(2)

    assert story(examined()) == [fleet.Abort(1)]


def test_one_that_leaves_and_beats_is_left_alone() -> None:
    """A long stream is in flight. Who waits in the queue waits for its successor."""
    story = rolled()
    for taken in range(400):
        assert story(fleet.Beaten(1, accepted=5, waiting=3, in_flight=1)) == []
        assert story(fleet.Beaten(2, accepted=taken, waiting=3)) == []
        assert story.wait(2.0) == []


def test_a_queue_is_no_reason_against_one_that_leaves() -> None:
    """Nor when it was one, and the look for it was under way."""
    story = Story().serve()
    assert beats(story, 14.0, accepted=5, waiting=3) == [fleet.Examine(1)]
    story(fleet.Restart(900.0))
    story.born(2)
    story.ready(2)

    assert story(examined(detail="state S, idle")) == []
    assert story.wait(7.9) == []
    assert story.wait(0.2) == [fleet.Examine(1)]


def test_one_that_leaves_and_calculates_has_thirty_seconds() -> None:
    story = rolled()
    story.wait(10.1)
    for _ in range(9):
        assert story(examined(busy=True)) == []
        story(fleet.Beaten(2))
        assert story.wait(2.0) == [fleet.Examine(1)]

    assert story.now == pytest.approx(128.1)
    story.wait(2.0)
    assert story(examined(busy=True)) == [fleet.Abort(1)]


def test_one_that_leaves_in_a_debugger_has_its_grace() -> None:
    story = rolled()
    story.wait(10.1)
    for _ in range(5):
        assert story(examined(traced=True)) == []
        story(fleet.Beaten(2))
        assert story.wait(10.0) == [fleet.Examine(1), fleet.Examine(2)]


@pytest.mark.parametrize("end", [fleet.Down(600.0), fleet.Halt(600.0)])
def test_one_that_is_to_stop_and_falls_silent_is_hung(end: fleet.Event) -> None:
    """`down` does not wait for the grace, either."""
    story = Story().serve()
    story(end)

    assert story.wait(10.1) == [fleet.Examine(1)]
    assert story(examined()) == [fleet.Abort(1)]
    story.die(1, "SIGABRT")
    assert story.told[-2:] == ["died", "stopped"]
    assert story.state() is State.STOPPED
    assert story.proxy.deaths[-1].was_leaving


def test_one_that_leaves_by_hand_and_falls_silent_is_hung() -> None:
    """It has no deadline but its own."""
    story = Story().serve()
    story(fleet.SaidBye(1, "SIGTERM"))

    assert story.wait(10.1) == [fleet.Examine(1)]
    assert story(examined()) == [fleet.Abort(1)]
    assert story.wait(1.1) == [fleet.Kill(1)]


def test_one_that_dials_draining_and_falls_silent_is_hung() -> None:
    """It leaves by the order of an earlier supervisor."""
    story = recalled()
    story(dialled(draining=True))

    assert Phase.DRAINING is story.proxy.workers[0].phase
    assert fleet.Examine(3) in story.wait(10.1)
    assert fleet.Abort(3) in story(examined(generation=3))


def test_one_that_was_never_ready_and_dials_draining_has_nothing_to_finish() -> None:
    story = recalled()
    story(dialled(serving=False, draining=True))

    assert fleet.Kill(3) in story.wait(1.6)


def test_one_that_is_to_stop_and_does_not_dial_is_hung() -> None:
    """Told by a signal that it does not take, for it is stopped."""
    story = recalled()
    story(fleet.Begin())
    story(fleet.Down(600.0))

    assert story.wait(10.1) == [fleet.Examine(3)]
    assert story(examined(generation=3)) == [fleet.Abort(3)]


def test_an_older_one_that_does_not_dial_is_nobody_s_failure() -> None:
    """It was leaving when its supervisor died, and it was stopped: its successor is well."""
    story = recalled()
    story.proxy = attrs.evolve(story.proxy, generation=4)
    story(fleet.Recall(4, 4004))
    story(fleet.Begin())
    story(dialled(generation=4, pid=4004))
    assert story.wait(3.1) == [fleet.Examine(3, briefly=True)]
    assert story(examined(generation=3)) == [fleet.Abort(3)]

    assert story.die(3, "SIGABRT") == []
    assert "roll-failed" not in story.told
    assert (story.state(), story.proxy.trouble, story.proxy.failures) == (State.READY, None, 0)
    assert [(one.cause, one.was_leaving) for one in story.proxy.deaths] == [
        ("hung (did not dial); SIGABRT", True)
    ]


@pytest.mark.parametrize("end", [fleet.Down(600.0), fleet.SaidBye(1, "SIGTERM")])
def test_a_hung_one_that_leaves_gets_no_more_time(end: fleet.Event) -> None:
    """Its end has begun; the grace is for those who answer."""
    story = silent()
    story(examined())
    story(end)

    assert story.wait(1.1) == [fleet.Kill(1)]


def test_one_that_leaves_and_was_aborted_is_not_forgiven() -> None:
    """The beat had been on its way. Its deadline has been replaced by a nearer one."""
    story = rolled()
    story.wait(10.1)
    story(examined())
    story(fleet.Beaten(1))
    story(fleet.Beaten(2))

    assert "recovered" not in story.told
    assert story.wait(1.1) == [fleet.Kill(1)]


def test_who_leaves_by_itself_is_no_death() -> None:
    """With its requests finished, or killed at the end of its grace; the log says which."""
    for cause, code, said in (("exit 0", 0, "has finished"), ("SIGKILL", None, "SIGKILL")):
        story = rolled()
        story.die(1, cause, code)

        assert story.told[-1] == "left"
        assert story.texts[-1] == f"pid 4001, generation 1: {said}"
        assert story.proxy.deaths == ()


# --- a loop that beats and takes nobody in --------------------------------------------------------


def beats(story: Story, seconds: float, **said: Any) -> list[fleet.Action]:
    """A beat every two seconds, all of the same content."""
    found: list[fleet.Action] = []
    for _ in range(round(seconds / 2)):
        found += story(fleet.Beaten(1, **said)) + story.wait(2.0)
    return found


def test_one_that_beats_and_takes_no_connection_is_hung() -> None:
    """After the silence limit it is looked at once, then it goes the way of every hung one."""
    story = Story().serve()

    assert beats(story, 12.0, accepted=5, waiting=3) == []
    assert beats(story, 4.0, accepted=5, waiting=3) == [fleet.Examine(1)]
    assert story(examined(busy=True, detail="state S, busy")) == [fleet.Abort(1)]
    assert story.state() is State.HUNG
    assert beats(story, 2.0, accepted=5, waiting=3) == [fleet.Kill(1), fleet.Kill(1)]
    assert story.die(1) == [fleet.Spawn(2)]
    assert story.proxy.deaths[-1].cause == "hung (took no connection for 14 s, 3 waiting); SIGKILL"


@pytest.mark.parametrize(
    "said",
    [
        {"accepted": 5},
        {"accepted": None, "waiting": 3},
        {"accepted": 5, "waiting": 3, "starved": "Too many open files"},
    ],
)
def test_who_is_not_to_blame_for_a_queue(said: dict[str, Any]) -> None:
    """Nobody waits; it is too old to say what it takes; it lacks descriptors and would lose its streams."""
    story = Story().serve()

    assert beats(story, 60.0, **said) == []
    assert story.state() is (State.DEGRADED if said.get("starved") else State.READY)
    beats(story, 2.0, accepted=6)
    assert story.state() is State.READY


def test_a_queue_that_moves_is_no_hang() -> None:
    """However long it is: somebody was taken between two beats."""
    story = Story().serve()

    for taken in range(60):
        assert beats(story, 8.0, accepted=taken, waiting=100) == []
    assert current_of(story).stuck_since is not None
    story(fleet.Overslept(60.0))
    assert current_of(story).stuck_since is None


def test_one_that_takes_them_during_the_look_is_not_killed() -> None:
    story = Story().serve()
    assert beats(story, 14.0, accepted=5, waiting=3) == [fleet.Examine(1)]
    beats(story, 2.0, accepted=8)

    assert story(examined()) == []
    assert story.state() is State.READY


# --- idle -----------------------------------------------------------------------------------------

LAZY = Care(lazy=True)
IDLE_STOP = Care(idle_stop_s=60.0)


def current_of(story: Story) -> Worker:
    current = story.proxy.current
    assert current is not None  # the tests that ask have one
    return current


def lazy() -> Story:
    story = Story()
    assert story(fleet.Up(SPEC, LAZY)) == []
    return story


def idle_stopped() -> Story:
    """Served, and then nobody came for a minute."""
    story = Story()
    story(fleet.Up(SPEC, IDLE_STOP))
    story.born(1)
    story.ready(1)
    assert story.beat_for(61.0) == [fleet.Drain(1, policy.ROLL_GRACE_S)]
    return story


def test_a_lazy_one_waits_for_the_first_who_comes() -> None:
    story = lazy()

    assert str(story) == "<Proxy echo/demo idle pid=- port=3457 wanted deaths=0>"
    assert (story.proxy.awaits_visitors, fleet.next_deadline(story.proxy)) == (True, None)
    assert story(fleet.Up(SPEC, LAZY)) == []
    assert story(fleet.Restart(1.0)) == []
    assert story.state() is State.IDLE
    assert story(fleet.Knocked()) == [fleet.Spawn(1)]
    assert story(fleet.Knocked()) == []
    assert story.state() is State.STARTING
    assert story.told == ["up", "idle", "restart", "woken"]


def test_an_up_that_is_not_lazy_wakes_an_idle_one() -> None:
    """Somebody waits for it to be ready."""
    assert lazy()(fleet.Up(SPEC)) == [fleet.Spawn(1)]
    story = idle_stopped()
    story.die(1, "exit 0", 0)
    assert story(fleet.Up(SPEC, IDLE_STOP)) == [fleet.Spawn(2)]


def test_lazy_said_of_one_that_serves_changes_nothing_now() -> None:
    story = Story().serve()

    assert story(fleet.Up(SPEC, LAZY)) == []
    assert story.state() is State.READY


def test_a_lazy_one_that_dies_rests_until_somebody_comes() -> None:
    """After its pause, in which nobody is to start it."""
    story = lazy()
    story(fleet.Knocked())
    story.die(1)

    assert story.state() is State.BACKOFF
    assert story(fleet.Knocked()) == []
    assert story.wait(0.3) == []
    assert story.state() is State.IDLE
    assert story(fleet.Knocked()) == [fleet.Spawn(2)]
    assert story.proxy.never_ready == 1  # nothing is forgiven by resting


def test_down_wins_over_idle() -> None:
    story = lazy()

    assert story(fleet.Down(1.0)) == []
    assert story.state() is State.STOPPED
    assert story(fleet.Knocked()) == []
    assert story(fleet.Up(SPEC)) == [fleet.Spawn(1)]  # the next wish is another one


def test_nobody_comes_and_the_worker_goes() -> None:
    """That is no death; who comes next gets a new one."""
    story = idle_stopped()

    assert story.state() is State.DRAINING
    assert story.die(1, "exit 0", 0) == []
    assert str(story) == "<Proxy echo/demo idle pid=- port=3457 wanted deaths=0>"
    assert (story.proxy.restarts, story.proxy.failures) == (0, 0)
    assert story.wait(3600.0) == []
    assert story(fleet.Knocked()) == [fleet.Spawn(2)]
    assert story.told[-4:] == ["ready", "idle", "left", "woken"]


def test_who_comes_while_it_goes_gets_a_new_one_beside_it() -> None:
    story = idle_stopped()

    assert story(fleet.Knocked()) == [fleet.Spawn(2)]
    story.born(2)
    story.ready(2)
    assert story.state() is State.READY
    story.die(1, "exit 0", 0)
    assert story.told[-1] == "left"


@pytest.mark.parametrize(
    "said", [{"in_flight": 1}, {"waiting": 1, "accepted": 1}], ids=["in flight", "in the queue"]
)
def test_what_keeps_it_awake(said: dict[str, Any]) -> None:
    """An answer that takes an hour, and somebody who has not been taken yet."""
    story = Story()
    story(fleet.Up(SPEC, IDLE_STOP))
    story.born(1)
    story.ready(1)

    for number in range(60):
        more = {"accepted": number} if "accepted" in said else {}
        assert beats(story, 10.0, **{**said, **more}) == []
    assert beats(story, 70.0) == [fleet.Drain(1, policy.ROLL_GRACE_S)]


def test_each_request_begins_the_time_anew() -> None:
    story = Story()
    story(fleet.Up(SPEC, IDLE_STOP))
    story.born(1)
    story.ready(1)
    for number in range(10):
        assert beats(story, 50.0, requests=number) == []

    story(fleet.Overslept(600.0))  # what was said meanwhile is still to be heard
    assert beats(story, 50.0, requests=9) == []
    assert story(fleet.Up(SPEC, Care())) == []  # it may stay after all
    assert beats(story, 600.0, requests=9) == []


def test_a_silence_of_our_own_sends_nobody_to_rest() -> None:
    """Requests may have come while we stood still, also to one that had none before: they are heard first."""
    story = Story()
    story(fleet.Up(SPEC, IDLE_STOP))
    story.born(1)
    story.ready(1)
    story.now += 600.0
    story(fleet.Overslept(590.0))

    assert story(fleet.Clock()) == []
    assert beats(story, 10.0, requests=7) == []
    assert story.state() is State.READY


def test_an_older_one_that_drains_keeps_the_newer_one() -> None:
    """Somebody still uses the proxy."""
    story = Story()
    story(fleet.Up(SPEC, IDLE_STOP))
    story.born(1)
    story.ready(1)
    story(fleet.Restart(900.0))
    story.born(2)
    story.ready(2)

    assert story.beat_for(300.0) == []
    story.die(1, "exit 0", 0)
    assert story.beat_for(2.0) == [fleet.Drain(2, 900.0)]


def test_halt_keeps_it_idle_for_the_next_supervisor() -> None:
    story = lazy()
    story(fleet.Halt(1.0))

    assert story.state() is State.STOPPED
    assert story.proxy.idle_since is not None
    assert story(fleet.Knocked()) == []


def test_an_idle_one_of_an_earlier_supervisor_stays_idle() -> None:
    """And so does a lazy one that has lost its worker with it."""
    for made in (
        Story(Proxy(SPEC.name, SPEC, wanted=True, idle_since=0.0)),
        Story(Proxy(SPEC.name, SPEC, wanted=True, care=LAZY)),
    ):
        assert made(fleet.Begin()) == []
        assert made.state() is State.IDLE


def test_an_idle_one_whose_worker_was_leaving() -> None:
    """That one dials still draining, or does not dial and is no loss."""
    for answer in ("dials", "dies"):
        story = recalled(idle_since=0.0)
        assert story(fleet.Begin()) == []
        assert story.state() is State.ADOPTING
        assert not story.proxy.awaits_visitors
        if answer == "dials":
            assert story(dialled(draining=True)) == []
            assert story.state() is State.DRAINING
        assert story.die(3, "exit 0", 0) == []
        assert (story.state(), story.proxy.deaths) == (State.IDLE, ())


def test_one_that_serves_although_it_was_noted_as_idle_is_adopted() -> None:
    """The supervisor died between the note and the order."""
    story = recalled(idle_since=0.0)
    story(fleet.Begin())
    story(dialled())

    assert (story.state(), story.proxy.idle_since) == (State.READY, None)


def test_an_idle_one_whose_key_is_lost_says_so_at_once() -> None:
    """Not to the first who comes."""
    story = Story(Proxy(SPEC.name, SPEC, wanted=True, care=LAZY, idle_since=0.0, key_lost=True))
    story(fleet.Begin())

    assert story.state() is State.FAILED


def keyless(**facts: Any) -> Story:
    """Of an earlier supervisor, whose key the configuration had."""
    story = Story(Proxy(SPEC.name, SPEC, wanted=True, key_lost=True, key_sought=True, **facts))
    assert story(fleet.Begin()) == []
    return story


def test_limits_that_change_while_a_key_is_sought_stay() -> None:
    story = keyless()
    story(fleet.Limited(Quota(rpm=5)))
    story(fleet.KeySought(spec(api_key="sk-1")))

    assert story.proxy.spec == spec(api_key="sk-1", quota=Quota(rpm=5))


@pytest.mark.parametrize("facts", [{}, {"idle_since": 0.0}, {"care": LAZY}], ids=["plain", "idle", "lazy"])
def test_a_key_of_the_configuration_is_asked_for_again(facts: dict[str, Any]) -> None:
    """Until it is there nothing starts and nobody is let in; then it is as it was."""
    story = keyless(**facts)
    assert story.state() is (State.IDLE if "idle_since" in facts else State.ADOPTING)
    assert not story.proxy.awaits_visitors
    assert story(fleet.Knocked()) == []

    found = story(fleet.KeySought(spec(api_key="sk-1")))
    assert (found == [fleet.Spawn(1)]) == (not facts)
    assert story.state() is (State.IDLE if facts else State.STARTING)
    assert (story.proxy.spec.api_key, story.proxy.key_lost) == ("sk-1", False)
    assert story(fleet.KeySought(None, "too late")) == []
    assert story.proxy.given_up is None


@pytest.mark.parametrize("facts", [{}, {"idle_since": 0.0}, {"care": LAZY}], ids=["plain", "idle", "lazy"])
def test_a_key_that_the_configuration_has_no_more(facts: dict[str, Any]) -> None:
    """Said at once, and `up` with a key mends it."""
    story = keyless(**facts)
    assert story(fleet.KeySought(None, "openai needs an API key")) == []

    assert (story.state(), story.proxy.given_up) == (State.FAILED, "openai needs an API key")
    assert story(fleet.Up(spec(api_key="sk-1"))) == [fleet.Spawn(1)]


def test_a_key_that_is_not_found_is_no_trouble_of_one_that_was_taken_down_meanwhile() -> None:
    story = keyless()
    story(fleet.Down(0.0))
    story(fleet.KeySought(None, "openai needs an API key"))

    assert "no-key" not in story.told


@pytest.mark.parametrize("facts", [{}, {"idle_since": 0.0}, {"care": LAZY}], ids=["plain", "idle", "lazy"])
def test_what_was_sought_in_vain_is_taken_when_it_is_there(facts: dict[str, Any]) -> None:
    """The file is mended. The same answer again is not told twice; another one is."""
    story = keyless(**facts)
    for reason in ("line 3", "line 3", "line 5"):
        story(fleet.KeySought(None, reason))
        assert (story.state(), story.proxy.given_up) == (State.FAILED, reason)
    assert story.texts.count("line 3") == 2  # why there is no key, and why it failed

    found = story(fleet.KeySought(BLUE))
    assert found == ([] if "care" in facts else [fleet.Spawn(1)])
    assert (story.proxy.spec, story.proxy.given_up, story.proxy.key_unfound) == (BLUE, None, None)
    assert not story.proxy.key_lost


def test_a_roll_that_lacks_what_was_sought_in_vain_says_why() -> None:
    """Nobody has given a key by flag."""
    story = recalled(key_lost=True, key_sought=True, spec=BLUE.without_secrets())
    story(fleet.KeySought(None, "line 3"))
    story(dialled(spec=spec(base_url="http://old")))

    assert story.state() is State.READY
    assert story.proxy.trouble == "the roll failed, generation 3 goes on: line 3"
    assert story(fleet.KeySought(BLUE)) == []
    assert story(fleet.Restart(50.0)) == [fleet.Spawn(4)]


def test_a_worker_that_brings_its_key_is_quicker() -> None:
    """And one that is awaited keeps the proxy from being given up."""
    story = recalled(key_lost=True, key_sought=True)
    story(fleet.Begin())
    assert story(fleet.KeySought(None, "openai needs an API key")) == []
    assert (story.state(), story.proxy.given_up) == (State.ADOPTING, None)
    story(dialled(spec=spec(api_key="sk-1")))

    assert (story.state(), story.proxy.spec.api_key, story.proxy.key_lost) == (State.READY, "sk-1", False)


def test_an_up_that_brings_a_key_does_not_wait_for_the_search() -> None:
    story = keyless()

    assert story(fleet.Up(spec(api_key="sk-2"))) == [fleet.Spawn(1)]
    assert story(fleet.KeySought(spec(api_key="sk-1"))) == []
    assert story.proxy.spec.api_key == "sk-2"


def test_a_watch_that_breaks_is_made_good_by_a_pause() -> None:
    """Perhaps nobody stands at the door any more; after the pause somebody does, or a worker answers."""
    story = lazy()
    story(fleet.Broke("bug"))
    assert story.state() is State.BACKOFF
    assert story.wait(2.0) == []
    assert story.state() is State.IDLE


# --- memory ---------------------------------------------------------------------------------------

MIB = 1024**2


def limited() -> Story:
    story = Story()
    story(fleet.Up(SPEC, Care(max_rss=500 * MIB)))
    story.born(1)
    story.ready(1)
    return story


def test_too_much_memory_is_a_roll() -> None:
    story = limited()

    assert story(fleet.Measured(1, 500 * MIB)) == []
    assert story(fleet.Measured(1, 512 * MIB)) == [fleet.Spawn(2)]
    assert story.state() is State.ROLLING
    assert (story.told[-1], story.texts[-1]) == ("recycled", "512 MiB > 500 MiB")
    assert story(fleet.Measured(1, 512 * MIB)) == []
    story.born(2)
    assert story.ready(2) == [fleet.Drain(1, policy.ROLL_GRACE_S)]
    assert story(fleet.Measured(1, 512 * MIB)) == []  # it is leaving
    assert story.proxy.deaths == ()


def test_what_a_roll_did_not_mend_is_not_rolled_for_ever() -> None:
    """It is said once, and tried again after ten minutes."""
    story = limited()
    story(fleet.Measured(1, 512 * MIB))
    story.born(2)
    story.ready(2)
    story.die(1, "exit 0", 0)
    for _ in range(3):
        assert story(fleet.Measured(2, 510 * MIB)) == []

    assert story.told.count("too-large") == 1
    assert current_of(story).fat == (
        "510 MiB > 500 MiB again, replaced at most every 10 min: is --max-rss too small?"
    )
    story(fleet.Measured(2, 100 * MIB))
    assert current_of(story).fat is None
    story.beat_for(601.0)
    assert story(fleet.Measured(2, 510 * MIB)) == [fleet.Spawn(3)]


def test_another_limit_counts_at_once() -> None:
    """Also against one that has just been rolled, and for one that is within it now."""
    story = limited()
    story(fleet.Measured(1, 512 * MIB))
    story.born(2)
    story.ready(2)
    story(fleet.Measured(2, 510 * MIB))

    assert story(fleet.Up(SPEC, Care(max_rss=600 * MIB))) == []
    assert current_of(story).fat is None
    assert story(fleet.Up(SPEC, Care(max_rss=400 * MIB))) == []
    assert story(fleet.Measured(2, 510 * MIB)) == [fleet.Spawn(3)]


def test_without_a_limit_memory_is_no_matter() -> None:
    story = Story().serve()

    assert story(fleet.Measured(1, 2**40)) == []


def test_a_beat_during_the_look_clears_it() -> None:
    """What the look shows is stale by then."""
    story = silent()
    story(fleet.Beaten(1))

    assert story(examined()) == []
    assert story.state() is State.READY


def test_one_that_beats_after_all_is_not_killed() -> None:
    story = silent()
    story(examined())
    story(fleet.Beaten(1))

    assert story.state() is State.READY
    assert story.told[-1] == "recovered"
    assert story.wait(9.0) == []


def test_a_look_that_breaks_is_taken_again() -> None:
    """Else a bug of ours would leave a hung worker for ever."""
    story = silent()
    story(fleet.Broke("ZeroDivisionError: look"))

    assert story.wait(10.1) == [fleet.Examine(1)]


def test_there_is_no_liveness_before_ready() -> None:
    story = Story()
    story.up()
    story.born(1)

    assert story.wait(19.0) == []


def test_a_silence_of_our_own_blames_nobody() -> None:
    """This process stood still for a minute: the workers' words are waiting in the sockets."""
    story = Story().serve()
    story(fleet.Restart(5.0))
    story.born(2)
    story.now += 60.0
    story(fleet.Overslept(50.0))  # the earliest deadline was ten seconds away

    assert story(fleet.Clock()) == []
    assert story.wait(2.9) == []
    assert story.wait(0.2) == [fleet.Examine(1)]


def test_a_silence_of_our_own_blames_nobody_who_leaves() -> None:
    """Its silence is ours, the grace is not."""
    story = rolled()
    story.now += 60.0
    story(fleet.Overslept(50.0))

    assert story(fleet.Clock()) == []
    (leaver, _) = story.proxy.workers
    assert leaver.kill_by == 100.0 + 900.0 + policy.DRAIN_TO_KILL_S
    assert story.wait(2.9) == []
    assert story.wait(0.2) == [fleet.Examine(1), fleet.Examine(2)]


def test_a_silence_of_our_own_during_a_look_blames_nobody() -> None:
    """What the look shows is from before, and words are waiting in the socket."""
    story = silent()
    story.now += 60.0
    story(fleet.Overslept(60.0))

    assert story(examined()) == []
    assert story.state() is State.READY
    assert story.wait(2.9) == []
    assert story.wait(0.2) == [fleet.Examine(1)]


def test_a_silence_of_our_own_costs_no_start() -> None:
    """Its readiness waits to be read."""
    story = Story()
    story.up()
    story.born(1)
    story.now += 60.0
    story(fleet.Overslept(40.0))

    assert story(fleet.Clock()) == []
    story.ready(1)
    assert story.state() is State.READY


def test_a_silence_of_our_own_costs_no_adoption() -> None:
    """The worker's call waits in the backlog of the socket."""
    story = recalled()
    story(fleet.Begin())
    story.now += 60.0
    story(fleet.Overslept(57.0))

    assert story(fleet.Clock()) == []
    story(dialled())
    assert story.state() is State.READY


def test_ill_is_shown_and_never_a_reason_to_restart() -> None:
    """The provider is down for an hour."""
    story = Story().serve()

    assert story(fleet.FellIll(1, "cannot connect to Ollama")) == []
    assert story.state() is State.DEGRADED
    assert story.beat_for(3600.0) == []
    assert story(fleet.FeltWell(1)) == []
    assert story.state() is State.READY


# --- the whole table ------------------------------------------------------------------------------


def _stories() -> dict[str, Story]:
    """One proxy in each state, and some in a corner of it. Generation 1 exists wherever one does."""
    made = {"stopped": Story(), "starting": Story(), "unborn": Story(), "failed": Story()}
    made["starting"].up()
    made["starting"].born(1)
    made["unborn"].up()
    made["failed"].up()
    made["failed"].die(1, "exit 78", EXIT_CONFIG)
    for name in ("ready", "degraded", "rolling", "draining", "backoff", "halted", "two draining", "bye"):
        made[name] = Story().serve()
    made["degraded"](fleet.FellIll(1, "ill"))
    made["rolling"](fleet.Restart(5.0))
    made["rolling"].born(2)
    made["draining"](fleet.Down(5.0))
    made["backoff"].die(1)
    made["halted"](fleet.Halt(5.0))
    for generation in (2, 3):
        made["two draining"](fleet.Restart(50.0))
        made["two draining"].born(generation)
        made["two draining"].ready(generation)
    made["bye"](fleet.SaidBye(1, "SIGTERM"))
    made["hung"] = silent()
    made["hung"](examined())
    made["silent draining"] = silent()
    made["silent draining"](fleet.Down(50.0))
    made["hung draining"] = rolled()
    made["hung draining"].wait(10.1)
    made["hung draining"](examined())
    made["idle"] = lazy()
    made["idle stopped"] = idle_stopped()
    made["stuck"] = Story().serve()
    beats(made["stuck"], 14.0, accepted=5, waiting=3)
    made["limited"] = limited()
    made["outdated"] = recalled()
    made["outdated"](dialled(outdated="0.0.9"))
    made["keyless"] = keyless()
    made["keyless idle"] = keyless(idle_since=0.0)
    for name, pid in (("adopting", 4001), ("adopting unborn", None)):
        made[name] = Story(Proxy(SPEC.name, SPEC, wanted=True, generation=1))
        made[name](fleet.Recall(1, pid))
    return made


_EVENTS: list[fleet.Event] = [
    fleet.Up(SPEC),
    fleet.Up(spec(base_url="http://elsewhere")),
    fleet.Up(spec(quota=Quota(rpm=1))),
    fleet.Limited(Quota(max_concurrent=2)),
    fleet.Led(Front()),
    fleet.Down(1.0),
    fleet.Restart(1.0),
    fleet.Halt(1.0),
    fleet.Recall(1, 4001),
    fleet.Unseen(1, 4001),
    fleet.Dialled(1, 4001, serving=True, draining=False, spec=SPEC),
    fleet.Dialled(1, 4001, serving=False, draining=False),
    fleet.Dialled(1, 4001, serving=True, draining=True, spec=SPEC),
    fleet.Begin(),
    fleet.Renew(),
    fleet.Knocked(),
    fleet.KeySought(spec(api_key="sk-1")),
    fleet.KeySought(None, "none"),
    fleet.Up(SPEC, Care(lazy=True, idle_stop_s=1.0, max_rss=100)),
    fleet.Spawned(1, 4001),
    fleet.SpawnFailed(1, "no"),
    fleet.SpawnFailed(1, "no", permanent=True),
    fleet.BecameReady(1),
    fleet.Beaten(1),
    fleet.Beaten(1, requests=3, in_flight=1, accepted=5, waiting=3),
    fleet.Measured(1, 2**40),
    fleet.FeltWell(1),
    fleet.FellIll(1, "ill"),
    fleet.SaidBye(1, "SIGTERM"),
    fleet.Exited(1, "exit 1", 1),
    fleet.Exited(1, "exit 78", EXIT_CONFIG),
    fleet.Examined(1, traced=False, busy=False, detail="idle"),
    fleet.Clock(),
    fleet.Overslept(60.0),
    fleet.Broke("bug"),
]
# A record is read before anything else happens, so these meet no worker of their own generation.
_IMPOSSIBLE = {fleet.Recall, fleet.Unseen}


def check(proxy: Proxy, now: float) -> None:
    """What holds for every proxy, whatever has happened."""
    generations = [worker.generation for worker in proxy.workers]
    assert generations == sorted(set(generations)), "one worker per generation, oldest first"
    assert proxy.generation >= max(generations, default=0)
    if proxy.is_up:
        assert sum(worker.phase is Phase.STARTING for worker in proxy.workers) <= 1, "at most one successor"
        assert sum(worker.phase is Phase.READY for worker in proxy.workers) <= 1, "at most one current"
        resting = proxy.idle_since is not None
        has_plan = proxy.workers or proxy.given_up or proxy.retry_at is not None or resting
        has_plan = has_plan or proxy.key_sought
        serving = [w for w in proxy.workers if w.phase in (Phase.READY, Phase.STARTING)]
        assert not (resting and serving), "who rests has no worker but one that leaves"
        assert proxy.state is not State.IDLE or not proxy.workers
        assert has_plan, "what is wanted is there, coming, or known to be hopeless"
    else:
        assert proxy.retry_at is None
        assert not [w for w in proxy.workers if w.phase in (Phase.READY, Phase.STARTING)], (
            "all were told to leave"
        )
    patient = [
        w for w in proxy.draining if w.kill_by is not None and w.kill_by - now > policy.DRAIN_TO_KILL_S
    ]
    assert len(patient) <= policy.MAX_DRAINING or not proxy.is_up
    assert repr(proxy)


def test_every_state_has_its_story() -> None:
    assert {story.state() for story in _stories().values()} == set(State)


def test_every_event_is_in_the_table() -> None:
    assert {type(event) for event in _EVENTS} == set(fleet._HANDLERS)


@pytest.mark.parametrize("name", sorted(_stories()))
def test_the_whole_table(name: str) -> None:
    """No cell raises, none makes a second worker, none starts what is not wanted, none keeps the clock busy."""
    for event in _EVENTS:
        if type(event) in _IMPOSSIBLE and name != "stopped":
            continue
        story = _stories()[name]
        orders = story(event)
        check(story.proxy, story.now)
        if not story.proxy.is_up:
            assert not [order for order in orders if isinstance(order, fleet.Spawn)]
        story(fleet.Clock())
        due = fleet.next_deadline(story.proxy)
        assert due is None or due > story.now, f"{event} keeps the clock busy"


@pytest.mark.parametrize("name", sorted(_stories()))
def test_events_about_nobody_change_nothing(name: str) -> None:
    """News of a worker that is already gone are old news."""
    about = [event for event in _EVENTS if hasattr(event, "generation")]
    for event in about:
        if isinstance(event, fleet.Recall | fleet.Unseen | fleet.Dialled):
            continue
        story = _stories()[name]
        before = story.proxy

        assert story(attrs.evolve(cast(Any, event), generation=99)) == []
        assert story.proxy == before


@pytest.mark.parametrize("name", sorted(_stories()))
@pytest.mark.parametrize("wish", ["down", "halt"])
def test_an_end_can_be_reached_from_everywhere(name: str, wish: str) -> None:
    """Nothing is started after it, and when the last process is gone it is stopped."""
    story = _stories()[name]
    orders = story(fleet.Down(1.0) if wish == "down" else fleet.Halt(1.0))
    orders += story.wait(10.0)
    for worker in story.proxy.workers:
        orders += story.die(worker.generation)
    orders += story.wait(3600.0)

    assert story.state() is State.STOPPED
    assert not [order for order in orders if isinstance(order, fleet.Spawn)]


# --- a world in which anything may happen ---------------------------------------------------------


MOSTLY_NOT = st.sampled_from([False, False, False, True])


class World(RuleBasedStateMachine):
    """A proxy among processes that are born, get ready, fall silent and die when they like.

    The world keeps its own books: which processes exist, what they were told, what the last wish was.
    """

    @initialize(recalled=st.lists(st.sampled_from(["lives", "unborn", "phantom"]), max_size=2))
    def begin(self, recalled: list[str]) -> None:
        self.now = 100.0
        self.proxy = Proxy(SPEC.name, SPEC, wanted=bool(recalled), generation=len(recalled))
        self.wish = bool(recalled)
        self.halted = False
        self.ordered: set[int] = set()
        """Spawns that wait for an answer."""
        self.answered: set[int] = set()
        self.alive: dict[int, bool] = {}
        """Generation -> whether it is ready."""
        self.told: dict[int, float] = {}
        """Generation -> when it is to leave."""
        self.unlinked: set[int] = set()
        self.looks: set[int] = set()
        """Ordered, and not answered yet."""
        self.paused: tuple[int, float] | None = None
        """The count of deaths and the pause after the last one."""
        for generation, kind in enumerate(recalled, start=1):
            if kind != "phantom":
                self.alive[generation] = kind == "lives"
                self.unlinked.add(generation)
            self.send(fleet.Recall(generation, 4000 + generation if kind == "lives" else None))
        self.send(fleet.Begin())

    def send(self, event: fleet.Event) -> None:
        before = self.proxy
        self.proxy, actions = fleet.step(self.proxy, event, self.now)
        self.note_the_pause(before, event)
        self.nobody_misses_a_leaver(before, event)
        for action in actions:
            if isinstance(action, fleet.Spawn):
                assert self.wish, "nothing is started that is not wanted"
                assert not self.halted, "nothing is started any more"
                assert action.generation not in self.ordered | self.answered, "generations never repeat"
                self.ordered.add(action.generation)
            elif isinstance(action, fleet.Examine):
                self.looks.add(action.generation)
            elif isinstance(action, fleet.Drain):
                self.told[action.generation] = self.now + action.grace_s
            elif isinstance(action, fleet.Kill) and action.generation in self.alive:
                self.gone(action.generation)

    def note_the_pause(self, before: Proxy, event: fleet.Event) -> None:
        """Each death in a row costs at least as long a pause as the one before, up to the longest."""
        if not isinstance(event, fleet.Exited) or self.proxy.failures <= before.failures:
            return
        pause = 0.0 if self.proxy.retry_at is None else self.proxy.retry_at - self.now
        assert pause <= policy.MAX_DELAY_S, "the pause is capped"
        if self.proxy.failures > 2 and self.proxy.retry_at is not None and self.paused is not None:
            assert pause >= self.paused[1] or self.proxy.failures != self.paused[0] + 1, "it never shrinks"
        self.paused = (self.proxy.failures, pause)

    def nobody_misses_a_leaver(self, before: Proxy, event: fleet.Event) -> None:
        """However it ended, and whatever it was taken for: the proxy fares as it did."""
        lost = before.worker(event.generation) if isinstance(event, fleet.Exited) else None
        if lost is not None and lost.phase is Phase.DRAINING:
            counts = [(one.failures, one.restarts, one.retry_at, one.trouble) for one in (before, self.proxy)]
            assert counts[0] == counts[1]
            assert self.proxy.losses == before.losses

    def gone(self, generation: int) -> None:
        del self.alive[generation]
        self.unlinked.discard(generation)
        self.send(fleet.Exited(generation, "SIGKILL"))

    # wishes

    @rule(other=st.booleans(), care=st.sampled_from([Care(), LAZY, IDLE_STOP, Care(True, 5.0, 100)]))
    def up(self, other: bool, care: Care) -> None:
        if not self.halted:
            self.wish = True
            self.send(fleet.Up(spec(base_url="http://b") if other else SPEC, care))

    @rule()
    @precondition(lambda self: self.proxy.awaits_visitors)
    def knock(self) -> None:
        self.send(fleet.Knocked())
        assert self.proxy.successor is not None or self.proxy.given_up is not None, "who knocks is let in"

    @rule(grace=st.sampled_from([0.0, 1.0, 60.0]))
    def down(self, grace: float) -> None:
        self.wish = False
        self.send(fleet.Down(grace))

    @rule(grace=st.sampled_from([0.0, 900.0]))
    def restart(self, grace: float) -> None:
        self.send(fleet.Restart(grace))

    @rule()
    @precondition(lambda self: len(self.answered) > 3)
    def halt(self) -> None:
        self.halted = True
        self.send(fleet.Halt(1.0))

    # the world

    @rule(data=st.data(), outcome=st.sampled_from(["born", "born", "born", "failed", "permanent"]))
    @precondition(lambda self: self.ordered)
    def answer_a_spawn(self, data: st.DataObject, outcome: str) -> None:
        generation = data.draw(st.sampled_from(sorted(self.ordered)))
        self.ordered.remove(generation)
        self.answered.add(generation)
        if outcome == "born":
            self.alive[generation] = False
            self.send(fleet.Spawned(generation, 4000 + generation))
        else:
            self.send(fleet.SpawnFailed(generation, "no", permanent=outcome == "permanent"))

    @rule(data=st.data())
    @precondition(lambda self: any(not ready for ready in self.alive.values()))
    def get_ready(self, data: st.DataObject) -> None:
        waiting = [generation for generation, ready in self.alive.items() if not ready]
        generation = data.draw(st.sampled_from(waiting))
        if generation not in self.unlinked:
            self.alive[generation] = True
            self.send(fleet.BecameReady(generation))

    @rule(data=st.data())
    @precondition(lambda self: self.unlinked)
    def dial(self, data: st.DataObject) -> None:
        generation = data.draw(st.sampled_from(sorted(self.unlinked)))
        self.unlinked.remove(generation)
        serving = self.alive[generation]
        known = self.proxy.worker(generation)
        if known is not None and known.phase is not Phase.ABSENT:
            return  # the keeper greets it with the order to drain
        self.send(
            fleet.Dialled(
                generation, 4000 + generation, serving=serving, draining=False, spec=SPEC if serving else None
            )
        )

    @rule(data=st.data(), code=st.sampled_from([None, 0, 1, EXIT_CONFIG]))
    @precondition(lambda self: self.alive)
    def die(self, data: st.DataObject, code: int | None) -> None:
        generation = data.draw(st.sampled_from(sorted(self.alive)))
        del self.alive[generation]
        self.unlinked.discard(generation)
        self.send(fleet.Exited(generation, "exit", code))

    @rule(data=st.data())
    @precondition(lambda self: self.alive)
    def say(self, data: st.DataObject) -> None:
        generation = data.draw(st.sampled_from(sorted(self.alive)))
        if generation in self.unlinked:
            return
        events: list[fleet.Event] = [
            fleet.Beaten(generation),
            fleet.Beaten(generation, requests=data.draw(st.integers(0, 2)), in_flight=1),
            fleet.Beaten(generation, accepted=1, waiting=1),
            fleet.Measured(generation, 200),
            fleet.FellIll(generation, "ill"),
        ]
        event = data.draw(st.sampled_from(events))
        self.send(event)

    @rule(data=st.data())
    @precondition(lambda self: any(self.alive.values()))
    def leave_by_hand(self, data: st.DataObject) -> None:
        generation = data.draw(st.sampled_from(sorted(g for g, ready in self.alive.items() if ready)))
        if generation in self.unlinked:
            return
        was_wanted = self.proxy.wanted
        self.send(fleet.SaidBye(generation, "SIGTERM"))
        if was_wanted and not self.proxy.wanted:
            self.wish = False

    @rule(data=st.data(), busy=MOSTLY_NOT, traced=MOSTLY_NOT)
    @precondition(lambda self: self.looks)
    def look(self, data: st.DataObject, busy: bool, traced: bool) -> None:
        generation = data.draw(st.sampled_from(sorted(self.looks)))
        self.looks.remove(generation)
        self.send(fleet.Examined(generation, traced=traced, busy=busy, detail="?"))

    @rule(seconds=st.sampled_from([0.1, 1.0, 3.0, 11.0, 11.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        end = self.now + seconds
        for _ in range(1000):
            due = fleet.next_deadline(self.proxy)
            if due is None or due > end:
                break
            self.now = max(self.now, due)
            self.send(fleet.Clock())
            after = fleet.next_deadline(self.proxy)
            assert after is None or after > self.now, "the clock does not ring twice for one thing"
        else:
            raise AssertionError("a thousand deadlines")
        self.now = end

    @rule(seconds=st.sampled_from([6.0, 600.0]))
    def oversleep(self, seconds: float) -> None:
        self.now += seconds
        self.send(fleet.Overslept(seconds))
        self.send(fleet.Clock())

    @rule()
    def break_something(self) -> None:
        self.send(fleet.Broke("bug"))

    # what always holds

    @invariant()
    def facts_are_consistent(self) -> None:
        check(self.proxy, self.now)

    @invariant()
    def the_last_wish_wins(self) -> None:
        assert self.proxy.wanted == self.wish

    @invariant()
    def who_is_idle_has_nobody(self) -> None:
        if self.proxy.state is State.IDLE:
            assert set(self.alive) <= self.unlinked, "idle, and somebody lives"
            assert not self.ordered - self.answered, "idle, and somebody is being born"

    @invariant()
    def at_most_one_serves(self) -> None:
        """Whoever lives beside the current one and its successor has been told to leave."""
        if self.proxy.is_up:
            kept = set(self.alive) - set(self.told) - self.unlinked
            assert len(kept) <= 2
            assert len([generation for generation in kept if self.alive[generation]]) <= 1

    @invariant()
    def whoever_has_a_heart_is_listened_to(self) -> None:
        """Whether it serves or leaves: its silence has a deadline, is being looked at, or is its end."""
        for worker in self.proxy.workers:
            if worker.phase in (Phase.READY, Phase.DRAINING):
                assert worker.silent_by or worker.generation in self.looks or worker.hung, worker
                assert worker.kill_by or not worker.hung, worker

    @invariant()
    def no_process_is_forgotten(self) -> None:
        known = {worker.generation for worker in self.proxy.workers}
        assert set(self.alive) - self.unlinked <= known
        assert self.ordered <= known | self.answered

    def teardown(self) -> None:
        """However it got here: from now on all cooperate, and the wish comes true."""
        if not hasattr(self, "proxy"):
            return
        for _ in range(60):
            rested = self.proxy.state in (State.READY, State.DEGRADED, State.IDLE, State.STOPPED)
            if rested and not self.ordered:
                break
            self._cooperate()
        fine = (
            (State.READY, State.DEGRADED, State.IDLE) if self.wish and not self.halted else (State.STOPPED,)
        )
        given_up = self.proxy.given_up is not None and self.wish
        assert self.proxy.state in fine or given_up, f"{self.proxy!r} {self.proxy.workers}"

    def _cooperate(self) -> None:
        for generation in sorted(self.unlinked):
            self.unlinked.discard(generation)
            known = self.proxy.worker(generation)
            if known is None or known.phase is Phase.ABSENT:
                serving = self.alive[generation]
                self.send(fleet.Dialled(generation, 4000 + generation, serving, False, spec=SPEC))
        for generation in sorted(self.ordered):
            self.ordered.remove(generation)
            self.answered.add(generation)
            self.alive[generation] = False
            self.send(fleet.Spawned(generation, 4000 + generation))
        for generation in sorted(self.alive):
            worker = self.proxy.worker(generation)
            if worker is not None and worker.phase is Phase.DRAINING:
                self.gone(generation)
            elif not self.alive[generation]:
                self.alive[generation] = True
                self.send(fleet.BecameReady(generation))
            else:
                self.send(fleet.Beaten(generation))
        due = fleet.next_deadline(self.proxy)
        if due is not None:
            self.now = max(self.now, min(due, self.now + 40.0))
            self.send(fleet.Clock())


World.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestWorld = World.TestCase


# --- deadlines ------------------------------------------------------------------------------------


def test_a_proxy_at_rest_wakes_nobody() -> None:
    """Stopped and failed ones cost nothing; a ready one only has its worker's next beat."""
    stories = _stories()

    assert fleet.next_deadline(stories["stopped"].proxy) is None
    assert fleet.next_deadline(stories["failed"].proxy) is None
    ready = stories["ready"]
    assert fleet.next_deadline(ready.proxy) == ready.now + policy.SILENCE_LIMIT_S


def test_who_answers_while_nobody_does() -> None:
    """A short pause is sat out in the queue; in a long one, and for good, the supervisor says why."""
    story = Story().serve()
    answers = []
    for generation in range(1, 6):
        story.die(generation)
        answers.append(story.proxy.answers_down(story.now))
        story.wait(31.0)
        story.born(generation + 1)
        story.ready(generation + 1)

    assert answers == [False, False, False, False, True]
    assert _stories()["failed"].proxy.answers_down(0.0)
    assert not _stories()["draining"].proxy.answers_down(0.0)
    assert list(itertools.chain(_stories()["stopped"].proxy.workers)) == []


def test_up_during_backoff_starts_at_once_and_forgives_nothing() -> None:
    """A person waits; a script that says `up` in a loop must not reset the count."""
    story = Story().serve()
    story.die(1, "SIGKILL")
    story.wait(0.5)
    story.die(2, "SIGKILL")
    assert story.proxy.retry_at is not None
    failures = story.proxy.failures
    story.up()

    assert story.proxy.successor is not None
    assert story.proxy.failures == failures


# --- since when -----------------------------------------------------------------------------------


def test_the_time_of_the_last_change_of_state_is_kept() -> None:
    """A step that leaves the state as it is leaves the time as well."""
    story = Story()
    story.up()
    assert story.proxy.state_since == 100.0
    story.wait(1.0)
    story.born(1)
    assert story.proxy.state_since == 100.0
    story.ready(1)
    assert story.proxy.state_since == 101.0
    story.beat_for(4.0)

    assert story.proxy.state_since == 101.0


def test_a_trouble_that_changes_its_words_goes_on() -> None:
    story = Story().serve()
    story(fleet.FellIll(1, "slow"))
    story.wait(1.0)
    story(fleet.FellIll(1, "refused"))
    assert (story.proxy.workers[0].ill, story.proxy.workers[0].ill_since) == ("refused", 100.0)
    story(fleet.FeltWell(1))

    assert (story.proxy.workers[0].ill, story.proxy.workers[0].ill_since) == (None, None)
    assert story.told[-3:] == ["ill", "ill", "well"]
    assert story.texts[-3:] == ["slow", "refused", "its provider answers again after 1.0s"]


def test_news_of_a_provider_are_told_once_and_by_who_serves() -> None:
    """A heartbeat of the same news is none, and who only finishes its requests speaks for nobody."""
    story = Story().serve()
    story(fleet.FellIll(1, "refused"))
    story(fleet.FellIll(1, "refused"))
    story(fleet.FellIll(9, "nobody's"))
    story(fleet.FeltWell(9))
    assert story.told.count("ill") == 1
    story(fleet.Down(30.0))
    story(fleet.FeltWell(1))
    story(fleet.FellIll(1, "refused"))

    assert (story.told.count("ill"), story.told.count("well")) == (1, 0)


def test_a_death_is_noted_with_how_far_it_had_come() -> None:
    story = Story().serve()
    story.wait(3.0)
    story.die(1)
    story.wait(1.0)
    story.die(2, "exit 1")
    alone = Story(Proxy(SPEC.name, SPEC, wanted=True, generation=1))
    alone(fleet.Recall(1, 4242))
    alone.die(1, "exit unobserved")

    assert [(death.pid, death.was_ready, death.lived_s) for death in story.proxy.deaths] == [
        (4001, True, 3.0),
        (None, False, 0.75),
    ]
    assert [(death.pid, death.was_ready, death.lived_s) for death in alone.proxy.deaths] == [
        (4242, False, None)
    ]
