"""Where requests wait for their turn: the limits of a worker in time.

Whoever is let in has a place until it leaves, and the next in line gets it at once: a place that falls free is
handed over, so nobody who comes just then can slip in between. A request that is cancelled leaves the line, or
the place that it was just given.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs
import trio

from .contract import Quota
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
    """All that holds a request back before it goes to a provider."""

    def __init__(self, quota: Quota, now: Callable[[], float] = trio.current_time) -> None:
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
            words = (
                f"more than {self._quota.rpm} requests per minute (rpm); the next may come in {_said(wait_s)}"
            )
            raise Refused(Failure(Kind.RATE_LIMITED, words, retry_after_s=wait_s, limit="rpm"))

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

    async def enter(self, request_id: str, session_id: str | None) -> Failure | None:
        """Wait for a place; None: it is there, and must be left again."""
        quota = self._quota
        if quota.queue_size is not None and len(self._line) >= quota.queue_size:
            words = f"{len(self._line)} requests wait already (queue_size)"
            return Failure(Kind.OVERLOADED, words, retry_after_s=_A_WHILE_S, limit="concurrency")
        timeout_s = math.inf if quota.queue_timeout_s is None else quota.queue_timeout_s
        one = Waiting(request_id, session_id, self._now())
        self._line.join(one, session_id)
        try:
            with trio.move_on_after(timeout_s):
                await one.let_in.wait()
        except BaseException:
            self._withdraw(one)
            raise
        if one.let_in.is_set():
            return None
        self._withdraw(one)
        places = f"{quota.max_concurrent} places (max_concurrent)"
        words = f"waited {_said(timeout_s)} (queue_timeout) in line for one of {places}"
        return Failure(Kind.RATE_LIMITED, words, retry_after_s=_A_WHILE_S, limit="concurrency")

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


def _said(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else f"{math.ceil(seconds)} s"


__all__ = ["Gate", "Waiting"]
