"""What a worker has counted, by its own word, and what all workers of a proxy have counted together. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from modelproxy.worker.contract import Beat, Hello


@attrs.frozen
class Tally:
    """What a worker last reported."""

    requests: int = 0
    in_flight: int = 0
    last_error: str | None = None
    ready_at: float | None = None
    """Seconds since the epoch."""
    failures: int = 0
    log_drops: int = 0
    ledger_drops: int = 0
    oldest_since: float | None = None
    """When the oldest request in flight began, on the supervisor's own clock."""
    cost_usd: float = 0.0
    unpriced: int = 0
    """Answers whose cost nobody knows."""
    fallbacks: int = 0
    waiting: int = 0
    """Of those in flight, how many wait in line for a place."""
    resting: tuple[str, ...] = ()
    """Targets that are left alone for now, each with its cause."""

    @property
    def cost(self) -> float | None:
        """What is known; None when nothing is. Never 0 for that."""
        # A sum of many small numbers ends in digits that nobody has paid.
        return None if self.unpriced and not self.cost_usd else round(self.cost_usd, 10)


def total(tallies: Iterable[Tally]) -> Tally:
    """What all of them counted together."""
    every = list(tallies)
    return Tally(
        requests=sum(tally.requests for tally in every),
        in_flight=sum(tally.in_flight for tally in every),
        last_error=next((tally.last_error for tally in reversed(every) if tally.last_error), None),
        failures=sum(tally.failures for tally in every),
        log_drops=sum(tally.log_drops for tally in every),
        ledger_drops=sum(tally.ledger_drops for tally in every),
        cost_usd=sum(tally.cost_usd for tally in every),
        unpriced=sum(tally.unpriced for tally in every),
        fallbacks=sum(tally.fallbacks for tally in every),
        waiting=sum(tally.waiting for tally in every),
        resting=next((tally.resting for tally in reversed(every) if tally.resting), ()),
    )


def ended(past: Tally, tally: Tally) -> Tally:
    """The past with one more worker in it: what it counted stays, what it was doing does not."""
    return attrs.evolve(total([past, tally]), in_flight=0, waiting=0, resting=())


def greeted(known: Tally, hello: Hello, now: float) -> Tally:
    """With what it says when it dials."""
    if hello.beat is not None:
        return heard(known, hello.beat, now)
    return attrs.evolve(known, requests=hello.requests, in_flight=hello.in_flight, fallbacks=hello.fallbacks)


def heard(known: Tally, beat: Beat, now: float) -> Tally:
    """With what its heart says. `now`: our own clock, which a worker does not know."""
    return Tally(
        requests=beat.requests,
        in_flight=beat.in_flight,
        last_error=beat.last_error,
        ready_at=known.ready_at,
        failures=beat.failures,
        log_drops=beat.log_drops,
        ledger_drops=beat.ledger_drops,
        oldest_since=None if beat.oldest_s is None else now - beat.oldest_s,
        cost_usd=beat.cost_usd,
        unpriced=beat.unpriced,
        fallbacks=beat.fallbacks,
        waiting=beat.waiting,
        resting=tuple(beat.resting),
    )
