"""What was got once and is kept, so that the same thing is the same in every turn of a conversation.

Bounded: what was not asked for the longest goes first. Whoever asks for what somebody else is getting waits
for it. What failed is kept for a while only: long enough that a conversation does not wait for it in every
turn, short enough that what was mended is noticed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import attrs
import trio

from .dialects.material import Lacking

LACKING_S = 300.0

_T = TypeVar("_T")


@attrs.frozen
class _Kept(Generic[_T]):
    value: _T | Lacking
    size: int
    until: float


class Shelf(Generic[_T]):
    """Holds up to `most`, by the measure of `size`."""

    def __init__(self, most: int, size: Callable[[_T], int]) -> None:
        self._most = most
        self._size = size
        self._kept: OrderedDict[str, _Kept[_T]] = OrderedDict()
        self._held = 0
        self._getting: dict[str, trio.Lock] = {}

    async def get(self, key: str, fetch: Callable[[], Awaitable[_T | Lacking]]) -> _T | Lacking:
        """What stands there, or what `fetch` brings."""
        lock = self._getting.setdefault(key, trio.Lock())
        try:
            async with lock:
                kept = self._found(key)
                if kept is not None:
                    return kept.value
                value = await fetch()
                self._keep(key, value)
                return value
        finally:
            if not lock.locked():
                self._getting.pop(key, None)

    def kept(self, key: str) -> _T | Lacking | None:
        """What stands there now; None: nothing."""
        found = self._found(key)
        return None if found is None else found.value

    def _found(self, key: str) -> _Kept[_T] | None:
        kept = self._kept.get(key)
        if kept is None:
            return None
        if trio.current_time() >= kept.until:
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return kept

    def _keep(self, key: str, value: _T | Lacking) -> None:
        if isinstance(value, Lacking):
            size, until = len(value.reason), trio.current_time() + LACKING_S
        else:
            size, until = self._size(value), float("inf")
        self._kept[key] = _Kept(value, size + len(key), until)
        self._held += size + len(key)
        while self._held > self._most and self._kept:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: str) -> None:
        self._held -= self._kept.pop(key).size


__all__ = ["LACKING_S", "Shelf"]
