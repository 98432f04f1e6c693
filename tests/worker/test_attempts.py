"""Once more, somewhere else, or the client is told: the whole table, and the life of a target."""

from __future__ import annotations

import itertools

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from modelproxy.worker import attempts
from modelproxy.worker.attempts import (
    BACKOFF_S,
    CAUSES,
    LONGEST_QUOTA_S,
    LONGEST_WAIT_S,
    MOST_RETRIES,
    PAUSES,
    SHORT_WAIT_S,
    Cause,
    FallBack,
    GiveUp,
    Plan,
    Retry,
    Rota,
    Told,
    after,
)
from modelproxy.worker.failures import Failure, Kind

ALONE, OTHERS = Plan(), Plan(others=True)
OWN_FAULT = (
    Kind.INVALID,
    Kind.OVERFLOW,
    Kind.TOO_LARGE,
    Kind.UNAUTHENTICATED,
    Kind.FORBIDDEN,
    Kind.METHOD,
    Kind.BUG,
)


def failure(kind: Kind, wait_s: float | None = None) -> Failure:
    return Failure(kind, "words", retry_after_s=wait_s)


# --- one failure ----------------------------------------------------------------------------------


def test_every_kind_is_the_providers_fault_or_is_not() -> None:
    """A new kind must be given its place."""
    assert set(CAUSES) | set(OWN_FAULT) == set(Kind)
    assert set(CAUSES) & set(OWN_FAULT) == set()
    assert set(PAUSES) == set(Cause) == set(CAUSES.values())


@pytest.mark.parametrize(("kind", "retries", "others"), [*itertools.product(Kind, (0, 2), (False, True))])
def test_nothing_is_tried_again_once_something_was_sent(kind: Kind, retries: int, others: bool) -> None:
    for wait_s in (None, 0.0, 1.0):
        plan = Plan(retries, others=others)

        assert after(plan, failure(kind, wait_s), sent=True) == GiveUp()


@pytest.mark.parametrize("kind", OWN_FAULT)
def test_what_is_no_providers_fault_is_told(kind: Kind) -> None:
    """Never a 400: it would fail everywhere, and cost twice."""
    assert after(Plan(2, others=True), failure(kind, 0.1), sent=False) == GiveUp()


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        (Kind.UNREACHABLE, Cause.REFUSED),
        (Kind.TIMEOUT, Cause.TIMEOUT),
        (Kind.PROVIDER, Cause.SERVER),
        (Kind.CUT, Cause.SERVER),
        (Kind.OVERLOADED, Cause.SERVER),
        (Kind.RATE_LIMITED, Cause.RATE),
        (Kind.NO_CREDIT, Cause.CREDIT),
        (Kind.KEY_REJECTED, Cause.KEY),
        (Kind.NOT_FOUND, Cause.MISSING),
    ],
)
def test_the_others_are_asked_if_there_are_any(kind: Kind, cause: Cause) -> None:
    assert after(OTHERS, failure(kind), sent=False) == FallBack(cause)
    assert after(ALONE, failure(kind), sent=False) == GiveUp()


R, F, G = "retry", "fall back", "give up"


@pytest.mark.parametrize(
    ("kind", "wait_s", "retries", "tried", "alone", "with_others"),
    [
        # An unreachable provider is tried again as often as is configured, and no more than twice.
        (Kind.UNREACHABLE, None, 0, 0, G, F),
        (Kind.UNREACHABLE, None, 1, 0, R, R),
        (Kind.UNREACHABLE, None, 1, 1, G, F),
        (Kind.UNREACHABLE, None, 9, 1, R, R),
        (Kind.UNREACHABLE, None, 9, 2, G, F),
        # A rate limit only when it says for how long.
        (Kind.RATE_LIMITED, None, 2, 0, G, F),
        (Kind.RATE_LIMITED, 1.0, 2, 0, R, R),
        (Kind.RATE_LIMITED, 1.0, 2, 2, G, F),
        (Kind.RATE_LIMITED, SHORT_WAIT_S, 1, 0, R, R),
        (Kind.RATE_LIMITED, SHORT_WAIT_S + 0.1, 1, 0, R, F),
        (Kind.RATE_LIMITED, LONGEST_WAIT_S, 1, 0, R, F),
        (Kind.RATE_LIMITED, LONGEST_WAIT_S + 0.1, 1, 0, G, F),
        # A short one is sat out once even unasked, where the alternative is another provider.
        (Kind.RATE_LIMITED, 1.0, 0, 0, G, R),
        (Kind.RATE_LIMITED, 1.0, 0, 1, G, F),
        (Kind.OVERLOADED, 1.0, 0, 0, G, F),
        (Kind.OVERLOADED, 1.0, 1, 0, R, R),
        (Kind.OVERLOADED, None, 1, 0, G, F),
        # What would come out the same.
        (Kind.TIMEOUT, 1.0, 2, 0, G, F),
        (Kind.PROVIDER, 1.0, 2, 0, G, F),
        (Kind.CUT, 1.0, 2, 0, G, F),
        (Kind.NO_CREDIT, 1.0, 2, 0, G, F),
        (Kind.KEY_REJECTED, 1.0, 2, 0, G, F),
        (Kind.NOT_FOUND, 1.0, 2, 0, G, F),
    ],
)
def test_the_table(
    kind: Kind, wait_s: float | None, retries: int, tried: int, alone: str, with_others: str
) -> None:
    words = {Retry: R, FallBack: F, GiveUp: G}
    for others, expected in ((False, alone), (True, with_others)):
        step = after(Plan(retries, tried, others), failure(kind, wait_s), sent=False)

        assert words[type(step)] == expected, f"others={others}"


def test_waits_are_what_was_asked_and_grow_where_nothing_was() -> None:
    """The random part keeps clients from coming back all at once."""
    assert after(Plan(1), failure(Kind.RATE_LIMITED, 7.0), sent=False) == Retry(7.0, BACKOFF_S)
    assert after(Plan(2), failure(Kind.UNREACHABLE), sent=False) == Retry(BACKOFF_S / 2, BACKOFF_S)
    assert after(Plan(2, 1), failure(Kind.UNREACHABLE), sent=False) == Retry(BACKOFF_S, BACKOFF_S * 2)


def test_who_has_tried_again_already_never_does_so_twice() -> None:
    """The handler asks with all tries spent: what a provider could repeat, it has repeated."""
    for kind in Kind:
        step = after(Plan(9, tried=MOST_RETRIES, others=True), failure(kind, 0.1), sent=False)
        assert not isinstance(step, Retry)


# --- the targets ----------------------------------------------------------------------------------


def rota(count: int = 3) -> Rota:
    return Rota(["near/a", "far/b", "anthropic"][:count])


def test_the_first_that_is_well_is_chosen() -> None:
    subject = rota()
    assert subject.choose(0.0) == 0
    subject.failed(0, failure(Kind.UNREACHABLE), 0.0)
    assert subject.choose(0.0) == 1
    assert subject.skipped(1) == ["near/a: refused"]
    subject.failed(1, failure(Kind.TIMEOUT), 0.0)
    assert subject.choose(0.0) == 2
    assert subject.next(0.0, [2]) is None


@pytest.mark.parametrize("cause", Cause)
def test_each_failure_in_a_row_cools_for_longer_up_to_a_bound(cause: Cause) -> None:
    kind = next(kind for kind, found in CAUSES.items() if found is cause)
    subject, now, rests = rota(2), 0.0, []
    for _ in range(30):
        subject.take(0)
        subject.failed(0, failure(kind), now)
        rests.append(subject.targets[0].until - now)
        now = subject.targets[0].until
    pause = PAUSES[cause]

    assert rests[0] == pause.first_s
    assert rests == sorted(rests)
    assert rests[-1] == pause.most_s


@pytest.mark.parametrize(
    ("kind", "asked_s", "rest_s"),
    [
        (Kind.RATE_LIMITED, 0.0, 0.0),
        (Kind.RATE_LIMITED, 900.0, 900.0),
        (Kind.NO_CREDIT, 7200.0, 7200.0),
        (Kind.OVERLOADED, 60.0, 60.0),
        (Kind.RATE_LIMITED, 10 * LONGEST_QUOTA_S, LONGEST_QUOTA_S),
        (Kind.UNREACHABLE, 900.0, PAUSES[Cause.REFUSED].first_s),
    ],
)
def test_a_provider_that_says_when_is_believed(kind: Kind, asked_s: float, rest_s: float) -> None:
    """A quota until its reset; within a day."""
    subject = rota(2)
    subject.failed(0, failure(kind, asked_s), 100.0)

    assert subject.targets[0].until == 100.0 + rest_s


def test_one_request_finds_out_whether_it_is_well_again() -> None:
    """Half open: the others go on elsewhere meanwhile."""
    subject = rota(2)
    subject.failed(0, failure(Kind.PROVIDER), 0.0)
    due = subject.targets[0].until
    assert subject.choose(due - 0.01) == 1
    assert subject.choose(due) == 0
    subject.take(0)
    assert subject.choose(due) == 1
    assert subject.next(due, [1]) is None
    subject.worked(0, due)
    assert subject.choose(due) == 0
    assert subject.targets[0].failures == 0


def test_a_probe_that_fails_cools_again_and_one_that_is_let_go_does_not() -> None:
    subject = rota(2)
    subject.failed(0, failure(Kind.PROVIDER), 0.0)
    due = subject.targets[0].until
    subject.take(0)
    subject.let_go(0)
    assert subject.choose(due) == 0
    subject.take(0)
    subject.failed(0, failure(Kind.PROVIDER), due)
    assert subject.choose(due) == 1
    assert subject.targets[0].failures == 2


def test_a_failure_that_is_the_requests_own_is_no_verdict() -> None:
    subject = rota(2)
    subject.failed(0, failure(Kind.INVALID), 0.0)
    assert subject.choose(0.0) == 0
    subject.failed(0, failure(Kind.PROVIDER), 0.0)
    before = attrs.evolve(subject.targets[0])
    subject.take(0)
    subject.failed(0, failure(Kind.OVERFLOW), 9.0)
    assert subject.targets[0] == before


def test_an_answer_to_what_came_before_the_failure_is_old_news() -> None:
    """A stream of ten minutes that ends well says nothing of the quota that ran out meanwhile."""
    subject = rota(2)
    subject.failed(0, failure(Kind.RATE_LIMITED, 60.0), 100.0)
    subject.worked(0, since=50.0)
    assert subject.choose(101.0) == 1
    subject.worked(0, since=100.5)
    assert subject.choose(101.0) == 0


def test_when_all_cool_the_one_that_is_due_first_is_tried() -> None:
    subject = rota(2)
    subject.failed(0, failure(Kind.TIMEOUT), 0.0)
    subject.failed(1, failure(Kind.UNREACHABLE), 0.0)

    assert subject.choose(1.0) == 1


def test_when_all_cool_a_provider_that_said_when_is_not_asked_before() -> None:
    """Its last words are said again, with the time that is left."""
    subject = rota(2)
    subject.failed(0, failure(Kind.TIMEOUT), 0.0)
    last = failure(Kind.RATE_LIMITED, 20.0)
    subject.failed(1, attrs.evolve(last, instead=failure(Kind.OVERFLOW)), 0.0)

    assert subject.choose(5.0) == Told(attrs.evolve(last, retry_after_s=15.0))


def test_what_waiting_does_not_help_is_not_tried_again_but_elsewhere() -> None:
    """A prompt that is over the limit of a whole minute; another provider may take it."""
    hopeless = attrs.evolve(failure(Kind.RATE_LIMITED, 1.0), instead=failure(Kind.OVERFLOW))

    assert after(Plan(retries=2), hopeless, sent=False) == GiveUp()
    assert after(Plan(retries=2, others=True), hopeless, sent=False) == FallBack(Cause.RATE)


def test_a_target_shows_what_is_known_of_it() -> None:
    subject = rota(2)
    assert subject.targets[0].shown(0.0) == {"model_id": "near/a", "state": "ok"}
    subject.failed(0, failure(Kind.PROVIDER), 0.0)
    known = {"model_id": "near/a", "cause": "server error"}
    assert subject.targets[0].shown(1.0) == {**known, "state": "cooling", "cooling_s": 4.0}
    assert subject.targets[0].shown(9.0) == {**known, "state": "half-open", "cooling_s": 0.0}
    subject.take(0)
    assert subject.targets[0].shown(9.0) == {**known, "state": "probing", "cooling_s": 0.0}


class Traffic(RuleBasedStateMachine):
    """Requests that come, succeed, fail and leave in any order, some at the same time."""

    @initialize(count=st.integers(1, 3))
    def begin(self, count: int) -> None:
        self.rota, self.now = rota(count), 0.0
        self.open: list[tuple[int, float]] = []

    @rule(seconds=st.sampled_from([0.0, 0.5, 5.0, 100.0, 1e6]))
    def time(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def come(self) -> None:
        chosen = self.rota.choose(self.now)
        if isinstance(chosen, Told):
            assert chosen.failure.retry_after_s is not None
            assert chosen.failure.retry_after_s > 0
            assert not any(target.is_open(self.now) for target in self.rota.targets)
            return
        better = [target.is_open(self.now) for target in self.rota.targets[:chosen]]
        assert not any(better) or not self.rota.targets[chosen].is_open(self.now)
        self.rota.take(chosen)
        self.open.append((chosen, self.now))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), kind=st.sampled_from(Kind), wait_s=st.sampled_from([None, 0.0, 30.0]))
    def fail(self, data: st.DataObject, kind: Kind, wait_s: float | None) -> None:
        index, _ = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        self.rota.failed(index, failure(kind, wait_s), self.now)
        following = self.rota.next(self.now, [index])
        assert following != index
        assert following is None or self.rota.targets[following].is_open(self.now)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), well=st.booleans())
    def end(self, data: st.DataObject, well: bool) -> None:
        index, since = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        if well:
            self.rota.worked(index, since)
        else:
            self.rota.let_go(index)

    @invariant()
    def nobody_is_lost_for_ever(self) -> None:
        for index, target in enumerate(self.rota.targets):
            assert target.until - self.now <= LONGEST_QUOTA_S
            assert not target.probing or target.cause is not None
            if not any(number == index for number, _ in self.open):
                assert not target.probing, "a probe that nobody makes"
            assert target.shown(self.now)["state"] in ("ok", "cooling", "half-open", "probing")


Traffic.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestTraffic = Traffic.TestCase


def test_the_module_says_what_it_offers() -> None:
    assert set(attempts.__all__) <= set(dir(attempts))
