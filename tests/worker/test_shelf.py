"""What is got once and kept: asked for together it is got once, and memory has its bound."""

from __future__ import annotations

import trio
import trio.testing

from modelproxy.worker.dialects.material import Lacking
from modelproxy.worker.shelf import LACKING_S, Shelf


class Getting:
    """Counts; gives `values` in turn, the last one for ever."""

    def __init__(self, *values: str | Lacking) -> None:
        self.values = list(values)
        self.times = 0

    async def __call__(self) -> str | Lacking:
        self.times += 1
        await trio.sleep(1)
        return self.values.pop(0) if len(self.values) > 1 else self.values[0]


async def test_what_is_got_once_is_kept(autojump_clock: trio.testing.MockClock) -> None:
    shelf, getting = Shelf[str](100, len), Getting("a", "b")

    assert [await shelf.get("k", getting) for _ in range(3)] == ["a", "a", "a"]
    assert getting.times == 1


async def test_whoever_only_looks_gets_what_is_there(autojump_clock: trio.testing.MockClock) -> None:
    shelf = Shelf[str](100, len)
    before = shelf.kept("k")
    await shelf.get("k", Getting(Lacking("no")))

    assert (before, shelf.kept("k")) == (None, Lacking("no"))

    await trio.sleep(LACKING_S)

    assert shelf.kept("k") is None


async def test_two_who_ask_together_get_the_same(autojump_clock: trio.testing.MockClock) -> None:
    shelf, getting, found = Shelf[str](100, len), Getting("a", "b"), []

    async def ask() -> None:
        found.append(await shelf.get("k", getting))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask)

    assert (found, getting.times) == (["a"] * 5, 1)


async def test_when_the_first_one_leaves_the_second_goes_itself(
    autojump_clock: trio.testing.MockClock,
) -> None:
    shelf, getting, found = Shelf[str](100, len), Getting("a"), []

    async def ask() -> None:
        found.append(await shelf.get("k", getting))

    async with trio.open_nursery() as nursery:
        first = trio.CancelScope()

        async def hasty() -> None:
            with first:
                await shelf.get("k", getting)

        nursery.start_soon(hasty)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        first.cancel()

    assert (found, getting.times) == (["a"], 2)


async def test_a_failure_is_kept_for_a_while(autojump_clock: trio.testing.MockClock) -> None:
    shelf, getting = Shelf[str](100, len), Getting(Lacking("no"), "a")

    assert [await shelf.get("k", getting) for _ in range(2)] == [Lacking("no")] * 2
    assert getting.times == 1

    await trio.sleep(LACKING_S)

    assert await shelf.get("k", getting) == "a"


async def test_what_was_not_asked_for_the_longest_goes_first(autojump_clock: trio.testing.MockClock) -> None:
    shelf = Shelf[str](3 * 11, len)
    first, second, more = Getting("x" * 10), Getting("x" * 10), Getting("x" * 10)
    for key, getting in (("a", first), ("b", second), ("c", more), ("a", first), ("d", more), ("a", first)):
        await shelf.get(key, getting)

    assert first.times == 1

    await shelf.get("b", second)

    assert second.times == 2


async def test_what_is_too_large_to_keep_is_given_all_the_same(
    autojump_clock: trio.testing.MockClock,
) -> None:
    shelf, getting = Shelf[str](5, len), Getting("x" * 10)

    assert [await shelf.get("k", getting) for _ in range(2)] == ["x" * 10] * 2
    assert getting.times == 2
