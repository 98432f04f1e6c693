"""Where requests wait for their turn: the limits of a worker, and of each of its callers, in time.

Whoever is let in has a place until it leaves, and the next in line gets it at once: a place that falls free is
handed over, so nobody who comes just then can slip in between. A request that is cancelled leaves the line, or
the place that it was just given.

A caller with an access token passes a gate of its own first, and waits there while it has used up what is its
own: so it is not in the way of others before the gate that all share.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs
import trio

from .contract import AccessToken, Quota
from .failures import Failure, Kind, Refused
from .limits import Bucket, Line

MOST_SHOWN = 100
"""Of those who wait, so many are named in `/health`."""
_A_WHILE_S = 5.0
"""What a client is told to wait that found the line full."""


@attrs.define(eq=False)
class Waiting:
    """One request in line."""

    request_id: str
    session_id: str | None
    since: float
    let_in: trio.Event = attrs.Factory(trio.Event)


class Gate:
    """All that holds a request back before it goes to a provider. `token`: the one whose gate it is."""

    def __init__(
        self,
        quota: Quota,
        now: Callable[[], float] = trio.current_time,
        token: str | None = None,
        *,
        proxy: str = "this proxy",
    ) -> None:
        self._token = token
        self._proxy = proxy
        self._quota = quota
        self._now = now
        self._bucket = Bucket(quota.rpm, now())
        self._line: Line[Waiting] = Line()
        self._inside = 0

    @property
    def quota(self) -> Quota:
        return self._quota

    def adjust(self, quota: Quota) -> None:
        """From now on. Who is inside stays, who waits stays in line."""
        self._quota = quota
        self._bucket.resize(quota.rpm, self._now())
        self._admit()

    def count(self) -> None:
        """One more request. Raises Refused when there were too many lately."""
        wait_s = self._bucket.take(self._now())
        if wait_s:
            may = f"{_count(self._quota.rpm)} per minute (rpm{self._whose})"
            words = f"{self._proxy} takes {may}; the next may come in {_said(wait_s)}"
            raise Refused(Failure(Kind.RATE_LIMITED, words, retry_after_s=wait_s, limit=self._limit("rpm")))

    def _limit(self, kind: str) -> str:
        return kind if self._token is None else "token"

    @property
    def _whose(self) -> str:
        return "" if self._token is None else f" of the token {self._token}"

    def enter_now(self) -> bool:
        """A place without a wait, if there is one. Whoever has got a place must `leave` it."""
        if not self._has_room:  # nobody waits where there is room
            return False
        self._inside += 1
        return True

    def leave(self) -> None:
        """The next in line gets the place."""
        self._inside -= 1
        self._admit()

    @property
    def _has_room(self) -> bool:
        most = self._quota.max_concurrent
        return most is None or self._inside < most

    @property
    def waiting(self) -> int:
        """How many are in line."""
        return len(self._line)

    async def enter(
        self, request_id: str, session_id: str | None, caller: str | None = None
    ) -> Failure | None:
        """Wait for a place; None: it is there, and must be left again."""
        quota = self._quota
        if quota.queue_size is not None and len(self._line) >= quota.queue_size:
            words = f"{_count(len(self._line))}{self._whose} in line for {self._proxy} already (queue_size)"
            limit = self._limit("concurrency")
            kind = Kind.OVERLOADED if self._token is None else Kind.RATE_LIMITED  # others are served
            return Failure(kind, words, retry_after_s=_A_WHILE_S, limit=limit)
        timeout_s = math.inf if quota.queue_timeout_s is None else quota.queue_timeout_s
        one = Waiting(request_id, session_id, self._now())
        self._line.join(one, session_id, caller)
        try:
            with trio.move_on_after(timeout_s):
                await one.let_in.wait()
        except BaseException:
            self._withdraw(one)
            raise
        if one.let_in.is_set():
            return None
        self._withdraw(one)
        takes = f"takes {quota.max_concurrent} at a time (max_concurrent{self._whose})"
        words = f"waited {_said(timeout_s)} (queue_timeout) in line for {self._proxy}, which {takes}"
        limit = self._limit("concurrency")
        return Failure(Kind.RATE_LIMITED, words, retry_after_s=_A_WHILE_S, limit=limit)

    def _withdraw(self, one: Waiting) -> None:
        if one.let_in.is_set():  # given a place at the very moment at which it gave up
            self._inside -= 1
            self._admit()
        else:
            self._line.leave(one)

    def _admit(self) -> None:
        while self._has_room and (one := self._line.pop()) is not None:
            self._inside += 1
            one.let_in.set()

    def shown(self) -> dict[str, Any] | None:
        """For `/health`; None when nobody ever has to wait."""
        if self._quota.max_concurrent is None and not self._line:
            return None
        now = self._now()
        waiting = [
            {
                "position": position,
                "request_id": one.request_id,
                "session_id": one.session_id,
                "waiting_s": round(now - one.since, 1),
            }
            for position, one in zip(range(1, MOST_SHOWN + 1), self._line, strict=False)
        ]
        most = self._quota.max_concurrent
        return {"max_concurrent": most, "inside": self._inside, "waiting": len(self._line), "line": waiting}


class Gates:
    """The gate that all pass, and one for each token."""

    def __init__(
        self, quota: Quota, now: Callable[[], float] = trio.current_time, *, proxy: str = "this proxy"
    ) -> None:
        self._now = now
        self._proxy = proxy
        self.shared = Gate(quota, now, proxy=proxy)
        self._own: dict[str, Gate] = {}
        self._adjust_own(quota)

    @property
    def quota(self) -> Quota:
        return self.shared.quota

    def adjust(self, quota: Quota) -> None:
        """From now on; see `Gate.adjust`. Who waits at the gate of a token that is gone goes through in turn."""
        self.shared.adjust(quota)
        self._adjust_own(quota)

    def _adjust_own(self, quota: Quota) -> None:
        before, self._own = self._own, {}
        for token in quota.access.tokens:
            own = _quota_of(token, quota)
            gate = before.pop(token.name, None) or Gate(own, self._now, token.name, proxy=self._proxy)
            gate.adjust(own)
            self._own[token.name] = gate

    def shown(self) -> dict[str, Any] | None:
        """For `/health`; None when nobody ever has to wait."""
        found, own = self.shared.shown(), {name: gate.shown() for name, gate in self._own.items()}
        limited = {name: shown for name, shown in own.items() if shown is not None}
        return {**(found or {}), "tokens": limited} if limited else found

    @property
    def waiting(self) -> int:
        """How many are in any line."""
        return sum(gate.waiting for gate in (self.shared, *self._own.values()))

    def before(self, token: str | None) -> list[Gate]:
        """All that a caller must pass, in their order."""
        own = None if token is None else self._own.get(token)
        return [self.shared] if own is None else [own, self.shared]


def _quota_of(token: AccessToken, quota: Quota) -> Quota:
    """A token's own limits; how many may wait and how long is the proxy's to say."""
    return Quota(
        max_concurrent=token.max_concurrent,
        rpm=token.rpm,
        queue_size=quota.queue_size,
        queue_timeout_s=quota.queue_timeout_s,
    )


def _count(requests: int | None) -> str:
    return "1 request" if requests == 1 else f"{requests} requests"


def _said(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else f"{math.ceil(seconds)} s"


__all__ = ["Gate", "Gates", "Waiting"]
