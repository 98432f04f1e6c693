"""Items by the handful: a text of many megabytes is never there as items all at once. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from modelproxy.worker.wire.items import Item, Text

MOST = 256 * 1024
"""Characters of text that are handed out together."""


class Batches:
    """Items that are made only when there is somebody to take them."""

    def __init__(self) -> None:
        self._source: Iterator[Item] | None = None

    def take(self, items: Iterable[Item]) -> list[Item]:
        """The first of these; `rest` has the others, and must have been asked for all of the last ones."""
        self._source = iter(items)
        return self.rest()

    def rest(self) -> list[Item]:
        """The next ones; none when there are no more."""
        found: list[Item] = []
        if self._source is None:
            return found
        size = 0
        for item in self._source:
            found.append(item)
            if type(item) is Text:
                size += len(item.text)
                if size >= MOST:
                    return found
        self._source = None
        return found
