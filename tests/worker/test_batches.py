"""Items by the handful."""

from __future__ import annotations

from collections.abc import Iterator

from modelproxy.worker.dialects import batches
from modelproxy.worker.dialects.batches import Batches
from modelproxy.worker.wire.items import Finish, Item, Text


def test_short_ones_come_at_once() -> None:
    items: list[Item] = [Text("a"), Text("b"), Finish()]
    held = Batches()

    assert held.rest() == []
    assert held.take(items) == items
    assert held.rest() == []


def test_long_ones_are_made_when_they_are_asked_for() -> None:
    made = 0

    def items() -> Iterator[Item]:
        nonlocal made
        for _ in range(8):
            made += 1
            yield Text("x" * (batches.MOST // 2))
        yield Finish()

    held = Batches()
    sizes = [len(held.take(items()))]
    assert made == 2
    while found := held.rest():
        sizes.append(len(found))

    assert sizes == [2, 2, 2, 2, 1]
