"""What follows from the facts of a proxy."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from fakes.story import SPEC

from modelproxy.supervisor.facts import Care, Death, Phase, Proxy, State, Worker


def worker(generation: int, phase: Phase, **facts: Any) -> Worker:
    return attrs.evolve(Worker(generation, 1, phase, 0.0, pid=4000 + generation), **facts)


def proxy(*workers: Worker, **facts: Any) -> Proxy:
    return attrs.evolve(Proxy(SPEC.name, SPEC, wanted=True, workers=workers), **facts)


ABSENT, STARTING, READY, DRAINING = (
    worker(generation, phase)
    for generation, phase in enumerate((Phase.ABSENT, Phase.STARTING, Phase.READY, Phase.DRAINING), start=1)
)


@pytest.mark.parametrize(
    ("subject", "state"),
    [
        (proxy(wanted=False), State.STOPPED),
        (proxy(halted=True), State.STOPPED),
        (proxy(READY, wanted=False), State.DRAINING),
        (proxy(ABSENT, wanted=False), State.DRAINING),
        (proxy(READY, halted=True), State.DRAINING),
        (proxy(), State.BACKOFF),
        (proxy(DRAINING), State.BACKOFF),
        (proxy(given_up="exit 78"), State.FAILED),
        (proxy(STARTING, given_up="exit 78"), State.STARTING),
        (proxy(ABSENT), State.ADOPTING),
        (proxy(ABSENT, STARTING), State.ADOPTING),
        (proxy(STARTING), State.STARTING),
        (proxy(STARTING, DRAINING), State.STARTING),
        (proxy(READY), State.READY),
        (proxy(READY, DRAINING), State.READY),
        (proxy(ABSENT, READY), State.READY),
        (proxy(STARTING, READY), State.ROLLING),
        (proxy(worker(1, Phase.READY, hung="idle")), State.HUNG),
        (proxy(worker(1, Phase.READY, ill="down")), State.DEGRADED),
        (proxy(worker(1, Phase.READY, ill="down", hung="idle")), State.HUNG),
        (proxy(STARTING, worker(4, Phase.READY, hung="idle")), State.ROLLING),
        (proxy(worker(1, Phase.READY, starved="Too many open files")), State.DEGRADED),
        (proxy(idle_since=1.0), State.IDLE),
        (proxy(idle_since=1.0, wanted=False), State.STOPPED),
        (proxy(idle_since=1.0, halted=True), State.STOPPED),
        (proxy(idle_since=1.0, given_up="exit 78"), State.FAILED),
        (proxy(DRAINING, idle_since=1.0), State.DRAINING),
        (proxy(ABSENT, idle_since=1.0), State.ADOPTING),
    ],
)
def test_the_state_follows_from_the_facts(subject: Proxy, state: State) -> None:
    assert subject.state is state


def test_the_newest_ready_worker_is_the_current_one() -> None:
    """Two are ready for the moment between a newcomer's readiness and its elder's drain."""
    older, newer = worker(1, Phase.READY), worker(2, Phase.READY)

    assert proxy(older, newer).current is newer
    assert proxy(older, newer).pid == 4002
    assert proxy(older, STARTING).pid == 4001
    assert proxy(DRAINING, wanted=False).pid == 4004
    assert proxy(DRAINING).pid is None  # it only finishes its streams; its successor is the one meant
    assert proxy(ABSENT, DRAINING).pid == 4001
    assert proxy().pid is None


def test_who_is_found_by_generation() -> None:
    subject = proxy(STARTING, READY, DRAINING)

    assert (subject.worker(3), subject.worker(9)) == (READY, None)
    assert subject.successor is STARTING
    assert subject.draining == (DRAINING,)


@pytest.mark.parametrize(
    ("subject", "awaits"),
    [
        (proxy(idle_since=1.0), True),
        (proxy(DRAINING, idle_since=1.0), True),
        (proxy(), False),
        (proxy(ABSENT, idle_since=1.0), False),
        (proxy(idle_since=1.0, given_up="exit 78"), False),
        (proxy(idle_since=1.0, wanted=False), False),
        (proxy(idle_since=1.0, halted=True), False),
    ],
)
def test_whose_next_connection_starts_a_worker(subject: Proxy, awaits: bool) -> None:
    assert subject.awaits_visitors is awaits


@pytest.mark.parametrize(
    ("subject", "idle_at"),
    [
        (proxy(READY), 60.0),
        (proxy(worker(1, Phase.READY, active_at=7.0)), 67.0),
        (proxy(READY, wanted=False), None),
        (proxy(STARTING), None),
        (proxy(READY, DRAINING), None),
        (proxy(worker(1, Phase.READY, in_flight=1)), None),
        (proxy(worker(1, Phase.READY, waiting=1)), None),
        (proxy(worker(1, Phase.READY, hung="idle")), None),
    ],
)
def test_when_a_worker_that_nobody_needs_is_to_go(subject: Proxy, idle_at: float | None) -> None:
    """A minute after it was ready, or after the last request."""
    assert attrs.evolve(subject, care=Care(idle_stop_s=60.0)).idle_at == idle_at
    assert subject.idle_at is None


@pytest.mark.parametrize(
    ("subject", "answers"),
    [
        (proxy(given_up="exit 78"), True),
        (proxy(retry_at=12.1), True),
        (proxy(retry_at=12.0), False),
        (proxy(), False),
        (proxy(DRAINING, given_up="exit 78"), False),
        (proxy(given_up="exit 78", wanted=False), False),
        (proxy(given_up="exit 78", halted=True), False),
    ],
)
def test_when_the_supervisor_answers_itself(subject: Proxy, answers: bool) -> None:
    """At ten o'clock, so to speak."""
    assert subject.answers_down(10.0) is answers


def test_the_repr_is_the_story_and_keeps_secrets() -> None:
    subject = proxy(READY, spec=attrs.evolve(SPEC, api_key="sk-1"), deaths=(Death(1.0, "SIGKILL", 1),))

    assert repr(subject) == "<Proxy echo/demo ready pid=4003 port=3457 wanted deaths=1>"
    assert repr(READY) == "<g3 ready pid=4003>"
    assert "sk-1" not in repr(subject.spec)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("coder", "coder"),
        ("coder@3458", "coder"),
        ("echo/demo", "echo/demo"),
        ("echo/demo@3458", "echo/demo"),
    ],
)
def test_what_up_calls_it(name: str, said: str) -> None:
    assert Proxy(name, attrs.evolve(SPEC, name=name, model_id="echo/demo")).said == said
