"""What follows from the facts of a proxy."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from fakes.story import SPEC

from modelproxy.supervisor.facts import Death, Phase, Proxy, State, Worker


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
