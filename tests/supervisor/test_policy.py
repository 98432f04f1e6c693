"""The numbers of patience."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelproxy.supervisor import policy


@pytest.mark.parametrize(
    ("failures", "ready_for", "delay"),
    [
        (1, 10.0, 0.0),
        (1, 9.9, 0.25),
        (1, 0.0, 0.25),
        (2, 3600.0, 0.5),
        (3, 0.0, 1.0),
        (7, 0.0, 16.0),
        (8, 0.0, 30.0),
        (10_000, 0.0, 30.0),
    ],
)
def test_the_pause_before_the_next_start(failures: int, ready_for: float, delay: float) -> None:
    """Only a first death of a proven worker is free."""
    assert policy.restart_delay(failures, ready_for, 1.0) == delay


@given(st.integers(1, 10**6), st.floats(0, 10**9), st.floats(0.75, 1.25))
def test_pauses_never_shrink_and_are_capped(failures: int, ready_for: float, jitter: float) -> None:
    """Neither overflow nor a pause beyond the cap and its jitter."""
    one, next_one = (policy.restart_delay(n, ready_for, jitter) for n in (failures, failures + 1))

    assert 0.0 <= one <= next_one <= policy.MAX_DELAY_S * 1.25
    assert 0.0 < policy.spawn_retry_delay(failures, jitter) <= policy.MAX_DELAY_S * 1.25


def test_spawn_retries_are_slower() -> None:
    """The system needs a moment: one second, doubling."""
    assert [policy.spawn_retry_delay(n, 1.0) for n in (1, 2, 3, 6, 99)] == [1.0, 2.0, 4.0, 30.0, 30.0]


@pytest.mark.parametrize(
    ("ages", "expected"),
    [([], False), ([0.0] * 4, False), ([0.0] * 5, True), ([600.0] * 5, True), ([600.1] * 5, False)],
)
def test_a_crash_loop_is_five_deaths_in_ten_minutes(ages: list[float], expected: bool) -> None:
    assert policy.is_crash_loop([1000.0 - age for age in ages], 1000.0) is expected


def test_a_look_comes_before_patience_ends() -> None:
    """Relations that the fleet leans on."""
    assert policy.SILENCE_LIMIT_S < policy.BUSY_SILENCE_LIMIT_S
    assert policy.QUEUE_THROUGH_S < policy.MAX_DELAY_S
    assert policy.KEPT_DEATHS >= policy.CRASH_LOOP_DEATHS
