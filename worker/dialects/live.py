"""Calls on their way to the client while they are being written: `tool_stream = "live"`.

Theory of operation
-------------------
Blocks must not interleave, so one call at a time is open: the first that began and has not been passed on. The
others wait as they always do, and so does text that comes while one is open. A call goes live when nothing about it
can change any more: it has a name and an id, and its arguments begin as an object with a member. What begins
otherwise (a text, a fence, an empty shell) stays back for the repair at the end.

What has been said cannot be repaired. So a call that is no JSON object when its brackets close, or that never
comes to its end, is a failure, never a block that ends as if it were whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from modelproxy.worker.failures import Failure, Kind
from modelproxy.worker.wire import longs
from modelproxy.worker.wire.items import CallPart, CallStart, CallStop, Finish, Item

from . import arguments
from .fragments import Call, Calls

_BEGINS = re.compile(r'\s*\{\s*"')


class Live:
    """The calls of one answer, as far as they can be passed on at once."""

    def __init__(self, calls: Calls, begin: Callable[[Call], list[Item]], who: str) -> None:
        """`begin`: what is said in front of a call and its `CallStart`; nothing when it has to wait."""
        self._calls = calls
        self._begin = begin
        self._who = who
        self._open: Call | None = None
        self._said: list[str] = []
        """Of its arguments."""
        self._half = ""
        """The first half of a character, whose second may come in the next fragment."""
        self._waiting: list[Item] = []
        self.passed: dict[Call, str] = {}
        """Those that went this way, under their ids."""

    def between(self, items: list[Item]) -> list[Item]:
        """What is no call: now, or when the open call has ended."""
        if self._open is None:
            return items
        failure = next((item for item in items if isinstance(item, Failure)), None)
        if failure is not None or any(isinstance(item, Finish) for item in items):
            return [failure or self._broken()]
        self._waiting += items
        return []

    def step(self) -> list[Item]:
        """New fragments are there."""
        found: list[Item] = []
        while self._open is not None or self._started(found):
            assert self._open is not None
            found += self._parts(self._open)
            if not self._open.is_complete:
                break
            if not arguments.is_complete("".join(self._said)):
                return [*found, self._broken()]
            self._open = None
            found += [CallStop(), *self._waiting]
            self._waiting = []
        return found

    def trouble(self) -> Failure | None:
        """At the end of the answer: why it cannot end well."""
        muddled = any(call.is_muddled for call in self.passed)
        return self._broken() if self._open is not None or muddled else None

    def _started(self, found: list[Item]) -> bool:
        if len(self.passed) == len(self._calls.begun):
            return False
        call = self._calls.begun[len(self.passed)]  # those that were passed on are the first ones
        if not (call.name and call.id) or call.is_split or not _BEGINS.match(call.head):
            return False
        items = self._begin(call)
        start = next((item for item in items if isinstance(item, CallStart)), None)
        if start is None:
            return False
        found += items
        self._open, self._said = call, []
        self.passed[call] = start.id
        return True

    def _parts(self, call: Call) -> list[Item]:
        text = longs.paired(self._half + call.news()) if self._half else call.news()
        self._half = ""
        if "\ud800" <= text[-1:] <= "\udbff":
            text, self._half = text[:-1], text[-1:]
        if not text:
            return []
        self._said.append(text)
        return [CallPart(text)]

    def _broken(self) -> Failure:
        return Failure(
            Kind.PROVIDER,
            f"{self._who}: wrote a tool call that is no JSON object or has no end, and what was passed on live "
            "cannot be repaired (tool_stream)",
        )
