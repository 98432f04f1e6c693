"""Who may go on and who waits: a bucket for the rate, a fair line for the places. Pure.

Theory of operation
-------------------
A `Bucket` holds as many requests as may come in a minute, and fills again at that rate: after a minute of rest
all of them may come at once. Who finds it empty is refused, for clients know what to do with a 429.

A `Line` holds those who wait for a place with the provider. It is fair between *callers*, and for each of them
between its *sessions*, not between requests: every caller in turn sends one, and its sessions take turns in that.
A swarm of twenty therefore costs a session that asks for one thing a single turn, and within a session the order is
the one of arrival. Callers are told apart by their access tokens; all who have none are one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from typing import Any, Generic, TypeVar

Ticket = TypeVar("Ticket", bound=Hashable)
Value = TypeVar("Value")

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
    """Round robin over callers and over each one's keys, first come first served within a key."""

    def __init__(self) -> None:
        self._waiting: dict[Any, dict[Any, deque[Ticket]]] = {}
        """By caller and key, both in the order in which they have their turns."""
        self._keys: dict[Ticket, tuple[Any, Any]] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def join(self, ticket: Ticket, key: Hashable, caller: Hashable = None) -> None:
        """At the end of its key's own line; a key that had none waits for everybody's turn."""
        self._waiting.setdefault(caller, {}).setdefault(key, deque()).append(ticket)
        self._keys[ticket] = caller, key

    def leave(self, ticket: Ticket) -> None:
        """It does not wait any more; one that never did is no error."""
        if ticket not in self._keys:
            return
        caller, key = self._keys.pop(ticket)
        own = self._waiting[caller]
        own[key].remove(ticket)
        if not own[key]:
            del own[key]
        if not own:
            del self._waiting[caller]

    def pop(self) -> Ticket | None:
        """Whose turn it is; its caller and its key then wait for all others'."""
        if not self._waiting:
            return None
        ticket = _next(self._waiting)
        del self._keys[ticket]
        return ticket

    def __iter__(self) -> Iterator[Ticket]:
        """In the order in which they would go if nobody came or left."""
        waiting = {
            caller: {key: deque(line) for key, line in own.items()} for caller, own in self._waiting.items()
        }
        while waiting:
            yield _next(waiting)


def _next(waiting: dict[Any, dict[Any, deque[Ticket]]]) -> Ticket:
    """Take the first one out, and send its caller and its key to the end."""
    caller, own = _first(waiting)
    key, line = _first(own)
    ticket = line.popleft()
    if line:
        own[key] = line
    if own:
        waiting[caller] = own
    return ticket


def _first(table: dict[Any, Value]) -> tuple[Any, Value]:
    key = next(iter(table))
    return key, table.pop(key)


__all__ = ["Bucket", "Line"]
