"""The estimate learns from what the provider counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelproxy.worker.gauge import LEAST, MOST, Gauge
from modelproxy.worker.wire.items import Usage


def test_the_first_count_is_believed_and_later_ones_are_weighed() -> None:
    gauge = Gauge()
    gauge.learn(1000, Usage(800))
    assert gauge.tuned(2500) == 2000
    gauge.learn(1000, Usage(900))

    assert gauge.tuned(1000) == 830


def test_all_kinds_of_input_make_the_prompt() -> None:
    gauge = Gauge()
    gauge.learn(1000, Usage(100, cache_read_input_tokens=500, cache_creation_input_tokens=300))

    assert gauge.tuned(1000) == 900


@pytest.mark.parametrize(
    ("estimate", "said"),
    [
        (1000, Usage(None)),
        (199, Usage(150)),
        (1000, Usage(10)),
        (1000, Usage(0)),
        (1000, Usage(2001)),
        (1000, Usage(1900, web_searches=1)),
    ],
    ids=["nothing said", "too small", "only what was not cached", "nothing", "implausible", "what was found"],
)
def test_what_teaches_nothing(estimate: int, said: Usage) -> None:
    gauge = Gauge()
    gauge.learn(estimate, said)

    assert gauge.tuned(1000) == 1000


@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**7))), st.integers(0, 10**7))
def test_it_stays_within_its_bounds_and_above_nothing(lessons: list[tuple[int, int]], estimate: int) -> None:
    gauge = Gauge()
    for guess, counted in lessons:
        gauge.learn(guess, Usage(counted))

    assert LEAST <= gauge.factor <= MOST
    assert gauge.tuned(estimate) >= 1
