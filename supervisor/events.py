"""What happened, in order: a ring that `proxyctl events` and `proxyctl logs` read."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator

import trio

from .protocol import Event
from .words import count

CAPACITY = 4096


class Events:
    """The last few thousand events. One writer; any number of readers, each at its own pace."""

    def __init__(self) -> None:
        self._ring: deque[Event] = deque(maxlen=CAPACITY)
        self._next = 1
        self._news = trio.Event()

    def add(self, at: float, kind: str, proxy: str | None, text: str) -> Event:
        event = Event(self._next, at, kind, proxy, text)
        self._next += 1
        self._ring.append(event)
        self._news.set()
        self._news = trio.Event()
        return event

    def since(self, seq: int) -> list[Event]:
        """Every event after `seq`, with a `gap` in front when some of them are gone already."""
        if self._ring and seq > self._ring[-1].seq:
            seq = 0  # a number that an earlier supervisor gave: all of ours is news
        if not self._ring or seq == self._ring[-1].seq:
            return []
        oldest = self._ring[0]
        found = [event for event in self._ring if event.seq > seq]
        lost = oldest.seq - seq - 1
        if lost > 0 and seq > 0:
            text = f"{count(lost, 'event was', 'events were')} dropped"
            found.insert(0, Event(oldest.seq - 1, oldest.at, "gap", None, text))
        return found

    async def follow(self, seq: int) -> AsyncGenerator[list[Event], None]:
        """Batches of news, for ever. A slow reader holds nobody up: it meets a gap."""
        while True:
            news = self._news
            batch = self.since(seq)
            if batch:
                seq = batch[-1].seq
                yield batch
            else:
                await news.wait()
