"""The rate and the line."""

from __future__ import annotations

from collections import defaultdict, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelproxy.worker.limits import Bucket, Line

# --- the rate -------------------------------------------------------------------------------------


def test_a_minute_of_rest_is_worth_a_minutes_requests_at_once() -> None:
    bucket = Bucket(3, now=0.0)

    assert [bucket.take(0.0) for _ in range(5)] == [0.0, 0.0, 0.0, 20.0, 20.0]
    assert bucket.take(19.0) == pytest.approx(1.0)
    assert bucket.take(20.0) == 0.0
    assert bucket.take(20.0) == pytest.approx(20.0)
    assert [bucket.take(1000.0) for _ in range(4)] == [0.0, 0.0, 0.0, 20.0]


def test_without_a_rate_nothing_is_counted() -> None:
    bucket = Bucket(None, now=0.0)

    assert {bucket.take(0.0) for _ in range(1000)} == {0.0}


def test_another_rate_forgives_nothing() -> None:
    """Else saying it again would be a way round it."""
    bucket = Bucket(2, now=0.0)
    assert [bucket.take(0.0), bucket.take(0.0)] == [0.0, 0.0]
    bucket.resize(2, 0.0)
    assert bucket.take(0.0) > 0
    bucket.resize(5, 0.0)
    assert [bucket.take(0.0) > 0 for _ in range(4)] == [False, False, False, True]
    bucket.resize(1, 0.0)
    assert bucket.take(0.0) == 60.0
    bucket.resize(None, 0.0)
    assert bucket.take(0.0) == 0.0
    bucket.resize(4, 0.0)
    assert bucket.take(0.0) == 0.0


@given(rpm=st.integers(1, 100), gaps=st.lists(st.floats(0.0, 30.0), max_size=200))
def test_the_rate_holds_over_any_time(rpm: int, gaps: list[float]) -> None:
    """Never more than one burst and the rate; and who waits as told is let in."""
    bucket, now, taken = Bucket(rpm, now=0.0), 0.0, 0
    for gap in gaps:
        now += gap
        wait_s = bucket.take(now)
        taken += wait_s == 0.0
        assert wait_s <= 60.0 / rpm + 1e-9
        assert taken <= rpm + now * rpm / 60.0 + 1e-6
        if wait_s:
            now += wait_s + 1e-6
            assert bucket.take(now) == 0.0
            taken += 1


# --- the line -------------------------------------------------------------------------------------


def test_a_swarm_costs_another_session_one_turn() -> None:
    line: Line[str] = Line()
    for number in range(4):
        line.join(f"swarm {number}", "swarm")
    line.join("single", "other")

    assert list(line) == ["swarm 0", "single", "swarm 1", "swarm 2", "swarm 3"]
    assert [line.pop() for _ in range(6)] == ["swarm 0", "single", "swarm 1", "swarm 2", "swarm 3", None]


def test_callers_take_turns_and_the_sessions_of_each_in_that() -> None:
    """A caller with many sessions has no more turns than one with a single request."""
    line: Line[str] = Line()
    for ticket, session, caller in (
        ("a1", "s", "a"),
        ("a2", "t", "a"),
        ("a3", "s", "a"),
        ("b1", "s", "b"),
        ("b2", "s", "b"),
        ("n1", "s", None),
    ):
        line.join(ticket, session, caller)
    expected = ["a1", "b1", "n1", "a2", "b2", "a3"]

    assert list(line) == expected
    line.leave("a2")
    assert [line.pop() for _ in range(6)] == ["a1", "b1", "n1", "a3", "b2", None]


def test_who_comes_again_gets_no_second_turn_before_the_others() -> None:
    line: Line[str] = Line()
    for ticket, key in (("a1", "a"), ("b1", "b"), ("a2", "a")):
        line.join(ticket, key)
    assert line.pop() == "a1"
    line.join("a3", "a")

    assert list(line) == ["b1", "a2", "a3"]


def test_who_leaves_is_gone_and_leaving_twice_is_no_error() -> None:
    line: Line[str] = Line()
    line.join("a", None)
    line.join("b", None)
    line.leave("a")
    line.leave("a")
    assert (list(line), len(line)) == (["b"], 1)
    line.leave("b")
    assert (line.pop(), len(line)) == (None, 0)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.integers(0, 3)),
        st.tuples(st.just("pop"), st.just(0)),
        st.tuples(st.just("leave"), st.integers(0, 50)),
    ),
    max_size=80,
)


@given(STEPS)
def test_the_line_is_fair_and_loses_nobody(steps: list[tuple[str, int]]) -> None:
    """Within a key the order of arrival; between keys nobody is served twice while another waits all along."""
    line: Line[int] = Line()
    own: dict[int, deque[int]] = defaultdict(deque)
    overtaken: dict[int, dict[int, int]] = {}
    count = 0
    for what, number in steps:
        expected = list(line)
        if what == "join":
            own[number].append(count)
            line.join(count, number)
            overtaken.setdefault(number, defaultdict(int))
            count += 1
        elif what == "leave" and expected:
            ticket = expected[number % len(expected)]
            line.leave(ticket)
            key = next(key for key, mine in own.items() if ticket in mine)
            own[key].remove(ticket)
        elif what == "pop":
            ticket = line.pop()  # type: ignore[assignment]  # None only where nothing is expected
            assert ticket == (expected[0] if expected else None)
            for key, mine in own.items():
                if mine and mine[0] == ticket:
                    mine.popleft()
                    overtaken[key] = defaultdict(int)
                    for other, theirs in own.items():
                        if other != key and theirs:
                            overtaken[other][key] += 1
                            assert overtaken[other][key] <= 1, "served twice while another waited"
                    break
        for key, mine in own.items():
            if not mine:
                overtaken.pop(key, None)
        assert sorted(line) == sorted(ticket for mine in own.values() for ticket in mine)
        assert len(line) == sum(map(len, own.values()))
        for mine in own.values():
            assert [ticket for ticket in line if ticket in mine] == list(mine)
