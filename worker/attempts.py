"""What follows from a failure: once more, somewhere else, or the client is told. Pure.

Theory of operation
-------------------
`after` is the one place that decides. Nothing is tried again once the client has been sent something, nor what
is the request's own fault: it would fail everywhere. The provider's side of the worker asks it before its
first item (`Retry`); the handler asks it when a target has given up (`FallBack`).

A target that failed so that the next request would fail too *cools*: it is passed over until its time has
come. Then one request is let through (the target is *half open*), and how it ends decides whether the target is
well again or cools for longer. A request that ends without a verdict, because its client left, decides nothing.
A `Rota` holds this for all targets of a worker; it is told the time and has no clock.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from typing import Any

import attrs

from .failures import Failure, Kind

MOST_RETRIES = 2
"""Clients repeat as well; more of it here would multiply."""
LONGEST_WAIT_S = 10.0
"""As long as a status is held back. Of a provider that asks to wait longer the client is told."""
SHORT_WAIT_S = 3.0
"""With another target at hand a wait is worth no more."""
BACKOFF_S = 0.25

# --- one failure ----------------------------------------------------------------------------------


class Cause(enum.Enum):
    """Why another target is asked, in the words of the ledger."""

    REFUSED = "refused"
    TIMEOUT = "timeout"
    SERVER = "server error"
    RATE = "rate limit"
    CREDIT = "no credit"
    KEY = "key rejected"
    MISSING = "model missing"


CAUSES = {
    Kind.UNREACHABLE: Cause.REFUSED,
    Kind.TIMEOUT: Cause.TIMEOUT,
    Kind.PROVIDER: Cause.SERVER,
    Kind.CUT: Cause.SERVER,
    Kind.OVERLOADED: Cause.SERVER,
    Kind.RATE_LIMITED: Cause.RATE,
    Kind.NO_CREDIT: Cause.CREDIT,
    Kind.KEY_REJECTED: Cause.KEY,
    Kind.NOT_FOUND: Cause.MISSING,
}
"""All others are the request's own fault, or ours."""


@attrs.frozen
class Plan:
    """What may still be done for one request."""

    retries: int = 0
    """As configured for the target that failed."""
    tried: int = 0
    """How often it has been tried again."""
    others: bool = False
    """Another target could be asked."""


@attrs.frozen
class Retry:
    """Ask the same again, after `wait_s` (which jitter may stretch)."""

    wait_s: float
    spread_s: float
    """Up to so much is added at random, so that not all come back at once."""


@attrs.frozen
class FallBack:
    """Ask the next target."""

    cause: Cause


@attrs.frozen
class GiveUp:
    """Tell the client."""


def after(plan: Plan, failure: Failure, sent: bool) -> Retry | FallBack | GiveUp:
    """What to do next. `sent`: the client has been sent something."""
    if sent:
        return GiveUp()
    retry = _retry(plan, failure)
    if retry is not None:
        return retry
    cause = CAUSES.get(failure.kind)
    return FallBack(cause) if plan.others and cause is not None else GiveUp()


def _retry(plan: Plan, failure: Failure) -> Retry | None:
    allowed = min(plan.retries, MOST_RETRIES)
    asked = failure.retry_after_s
    if failure.kind is Kind.UNREACHABLE and plan.tried < allowed:
        backoff = BACKOFF_S * 2.0**plan.tried
        return Retry(backoff / 2, backoff)
    if (
        failure.kind not in (Kind.RATE_LIMITED, Kind.OVERLOADED)
        or asked is None
        or failure.instead is not None
    ):
        return None
    if plan.others and failure.kind is Kind.RATE_LIMITED:
        allowed = max(allowed, 1)  # a short wait is cheaper than another provider's answer
    longest = SHORT_WAIT_S if plan.others else LONGEST_WAIT_S
    return Retry(asked, BACKOFF_S) if plan.tried < allowed and asked <= longest else None


# --- the targets ----------------------------------------------------------------------------------


@attrs.frozen
class Pause:
    """How long a target rests after a failure, and at most after many in a row."""

    first_s: float
    most_s: float


PAUSES = {
    # A connection that is refused costs the next request a millisecond to find out.
    Cause.REFUSED: Pause(2.0, 30.0),
    # Finding this out costs a request the whole time limit.
    Cause.TIMEOUT: Pause(30.0, 300.0),
    Cause.SERVER: Pause(5.0, 120.0),
    # The last two only where the provider does not say when it will be well again.
    Cause.RATE: Pause(15.0, 300.0),
    Cause.CREDIT: Pause(300.0, 3600.0),
    Cause.KEY: Pause(60.0, 600.0),
    Cause.MISSING: Pause(30.0, 300.0),
}
LONGEST_QUOTA_S = 24 * 3600.0
"""A reset that is further away is looked at again before."""


@attrs.define
class Target:
    """What is known of one target."""

    name: str
    failures: int = 0
    """In a row."""
    cause: Cause | None = None
    """Of the last one; None while it is well."""
    last: Failure | None = None
    until: float = 0.0
    """It cools until then."""
    failed_at: float = -float("inf")
    probing: bool = False
    """One request finds out whether it is well again."""

    def is_open(self, now: float) -> bool:
        """Whether a request may go there."""
        return self.cause is None or (not self.probing and now >= self.until)

    def shown(self, now: float) -> dict[str, Any]:
        """For `/health`."""
        if self.cause is None:
            return {"model_id": self.name, "state": "ok"}
        state = "probing" if self.probing else "cooling" if now < self.until else "half-open"
        left = round(max(0.0, self.until - now), 1)
        return {"model_id": self.name, "state": state, "cause": self.cause.value, "cooling_s": left}


@attrs.frozen
class Told:
    """No target can be asked: what the client is told."""

    failure: Failure


class Rota:
    """The targets of a worker in their order, each with what is known of it."""

    def __init__(self, names: Sequence[str]) -> None:
        self.targets = [Target(name) for name in names]

    def choose(self, now: float) -> int | Told:
        """The first target that may be asked; if all cool, the one that is due first, or its last words.

        Those are for a provider that said itself until when it will refuse: asking earlier helps nobody.
        """
        following = self.next(now, ())
        if following is not None:
            return following
        soonest = min(range(len(self.targets)), key=lambda index: self.targets[index].until)
        target = self.targets[soonest]
        left = target.until - now
        if target.last is not None and target.last.retry_after_s is not None and left > 0:
            return Told(attrs.evolve(target.last, retry_after_s=left, instead=None))
        return soonest

    def next(self, now: float, tried: Collection[int]) -> int | None:
        """The next target that has not been tried and does not cool."""
        for index, target in enumerate(self.targets):
            if index not in tried and target.is_open(now):
                return index
        return None

    def take(self, index: int) -> None:
        """A request goes there."""
        target = self.targets[index]
        target.probing = target.cause is not None

    def worked(self, index: int, since: float) -> None:
        """It answered what it was asked at `since`. An answer to what came before a failure is old news."""
        target = self.targets[index]
        if since < target.failed_at:
            return
        target.failures, target.cause, target.last, target.probing = 0, None, None, False

    def failed(self, index: int, failure: Failure, now: float) -> None:
        """It failed. What is not its fault is no verdict on it."""
        target = self.targets[index]
        target.probing = False
        cause = CAUSES.get(failure.kind)
        if cause is None:
            return
        target.failures += 1
        target.cause, target.last, target.failed_at = cause, failure, now
        pause = PAUSES[cause]
        rest_s = min(pause.most_s, pause.first_s * 2.0 ** min(target.failures - 1, 20))
        if cause in (Cause.RATE, Cause.CREDIT, Cause.SERVER) and failure.retry_after_s is not None:
            rest_s = min(failure.retry_after_s, LONGEST_QUOTA_S)
        target.until = now + rest_s

    def let_go(self, index: int) -> None:
        """The request ended without a verdict."""
        self.targets[index].probing = False

    def skipped(self, index: int) -> list[str]:
        """Which targets before this one cool, and why, for the ledger."""
        return _resting(self.targets[:index])

    def resting(self, after: int = -1) -> list[str]:
        """Which targets, or which `after` one, cool or are being tried, and why."""
        return _resting(self.targets[after + 1 :])


def _resting(targets: Sequence[Target]) -> list[str]:
    return [f"{one.name}: {one.cause.value}" for one in targets if one.cause is not None]


__all__ = [
    "BACKOFF_S",
    "CAUSES",
    "LONGEST_WAIT_S",
    "MOST_RETRIES",
    "Cause",
    "FallBack",
    "GiveUp",
    "Plan",
    "Retry",
    "Rota",
    "Target",
    "Told",
    "after",
]
