"""Who may go on and who waits: a bucket for the rate, a fair line for the places. Pure.

Theory of operation
-------------------
A `Bucket` holds as many requests as may come in a minute, and fills again at that rate: after a minute of rest
all of them may come at once. Who finds it empty is refused, for clients know what to do with a 429.

A `Line` holds those who wait for a place with the provider. It is fair between *sessions*, not between requests:
every session in turn sends the first of its own. A swarm of twenty therefore costs a session that asks for one
thing a single turn, and within a session the order is the one of arrival.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from typing import Any, Generic, TypeVar

Ticket = TypeVar("Ticket", bound=Hashable)

MINUTE_S = 60.0


class Bucket:
    """Tokens that come back with time."""

    def __init__(self, rpm: int | None, now: float) -> None:
        self._rpm = rpm
        self._tokens = float(rpm or 0)
        self._at = now

    def resize(self, rpm: int | None, now: float) -> None:
        """Another rate from now on. What was spent stays spent."""
        if rpm == self._rpm:
            return
        self._fill(now)
        spent = (self._rpm or 0) - self._tokens
        self._rpm, self._at = rpm, now
        self._tokens = max(0.0, (rpm or 0) - spent)

    def take(self, now: float) -> float:
        """0: go on. Else so many seconds until there is something to take, and nothing is taken."""
        if self._rpm is None:
            return 0.0
        self._fill(now)
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) * MINUTE_S / self._rpm

    def _fill(self, now: float) -> None:
        if self._rpm is not None:
            self._tokens = min(self._rpm, self._tokens + (now - self._at) * self._rpm / MINUTE_S)
        self._at = now


class Line(Generic[Ticket]):
    """Round robin over keys, first come first served within each."""

    def __init__(self) -> None:
        self._waiting: dict[Any, deque[Ticket]] = {}
        """In the order in which the keys have their turns."""
        self._keys: dict[Ticket, Any] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def join(self, ticket: Ticket, key: Hashable) -> None:
        """At the end of its key's own line; a key that had none waits for everybody's turn."""
        self._waiting.setdefault(key, deque()).append(ticket)
        self._keys[ticket] = key

    def leave(self, ticket: Ticket) -> None:
        """It does not wait any more; one that never did is no error."""
        if ticket not in self._keys:
            return
        key = self._keys.pop(ticket)
        self._waiting[key].remove(ticket)
        if not self._waiting[key]:
            del self._waiting[key]

    def pop(self) -> Ticket | None:
        """Whose turn it is; its key then waits for everybody else's."""
        if not self._waiting:
            return None
        key = next(iter(self._waiting))
        own = self._waiting.pop(key)
        ticket = own.popleft()
        del self._keys[ticket]
        if own:
            self._waiting[key] = own
        return ticket

    def __iter__(self) -> Iterator[Ticket]:
        """In the order in which they would go if nobody came or left."""
        lines = deque(deque(own) for own in self._waiting.values())
        while lines:
            own = lines.popleft()
            yield own.popleft()
            if own:
                lines.append(own)


__all__ = ["Bucket", "Line"]
