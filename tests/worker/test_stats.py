"""The counters of a heartbeat."""

from __future__ import annotations

from modelproxy.worker.stats import Stats


def test_known_costs_add_up_and_unknown_ones_are_counted() -> None:
    stats = Stats()
    stats.charge(0.25, answered=True)
    stats.charge(0.5, answered=False)
    stats.charge(None, answered=True)

    assert (stats.cost_usd, stats.unpriced) == (0.75, 1)


def test_a_failure_without_a_cost_is_no_open_question() -> None:
    stats = Stats()
    stats.charge(None, answered=False)

    assert (stats.cost_usd, stats.unpriced) == (0.0, 0)


def test_the_oldest_in_flight_is_the_one_that_came_first() -> None:
    stats = Stats()
    assert stats.oldest_s(10.0) is None
    stats.begun |= {"first": 3.0, "second": 5.0}
    assert stats.oldest_s(10.0) == 7.0
    del stats.begun["first"]

    assert stats.oldest_s(10.0) == 5.0
