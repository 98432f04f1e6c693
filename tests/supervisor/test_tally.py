"""What workers have counted."""

from __future__ import annotations

import attrs

from modelproxy.supervisor import tally
from modelproxy.supervisor.tally import Tally
from modelproxy.worker.contract import Beat, Hello


def test_sums_over_workers_keep_what_ended_ones_counted() -> None:
    past = tally.ended(
        Tally(requests=1, log_drops=2), Tally(3, 1, "no", cost_usd=0.5, unpriced=1, failures=2)
    )
    assert tally.ended(Tally(), Tally(waiting=3, resting=("a",))) == Tally()
    every = tally.total([past, Tally(requests=2, in_flight=4, ledger_drops=1, waiting=3)])

    assert (every.requests, every.in_flight, every.failures) == (6, 4, 2)
    assert (every.log_drops, every.ledger_drops) == (2, 1)
    assert (every.cost, every.unpriced, every.waiting) == (0.5, 1, 3)


def test_a_cost_that_nobody_knows_is_not_0() -> None:
    assert Tally().cost == 0.0
    assert Tally(requests=1, unpriced=1).cost is None


def test_a_sum_of_small_costs_has_no_digits_of_its_own() -> None:
    assert Tally(cost_usd=0.0012 + 0.0012 + 0.0012 + 0.0012 + 0.0012).cost == 0.006


def test_a_greeting_tells_what_a_beat_does() -> None:
    """An older worker's tells some of it only. When it became ready, neither does."""
    hello = Hello("echo/demo", 3, 77, "t", requests=5, in_flight=2, fallbacks=1)
    met = tally.greeted(Tally(ready_at=9.0, cost_usd=0.5), hello, 100.0)
    beat = Beat(
        0.0, requests=6, in_flight=1, failures=3, last_error="no", oldest_s=4.0, resting=["a"], waiting=1
    )

    assert met == Tally(5, 2, ready_at=9.0, cost_usd=0.5, fallbacks=1)
    assert tally.greeted(met, attrs.evolve(hello, beat=beat), 100.0) == tally.heard(met, beat, 100.0)
    assert tally.heard(met, beat, 100.0) == Tally(
        6, 1, "no", ready_at=9.0, failures=3, oldest_since=96.0, waiting=1, resting=("a",)
    )
    assert tally.heard(met, Beat(0.0, requests=6, in_flight=0), 100.0).oldest_since is None
