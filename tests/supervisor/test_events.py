"""The ring of what happened."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from modelproxy.supervisor import events
from modelproxy.supervisor.events import Events
from modelproxy.supervisor.protocol import Event


def filled(count: int) -> Events:
    ring = Events()
    for number in range(1, count + 1):
        ring.add(float(number), "ready", "echo/demo", f"no. {number}")
    return ring


def test_they_are_numbered_from_one() -> None:
    ring = filled(3)

    assert [event.seq for event in ring.since(0)] == [1, 2, 3]
    assert ring.since(2) == [Event(3, 3.0, "ready", "echo/demo", "no. 3")]
    assert (ring.since(3), Events().since(0), Events().since(99)) == ([], [], [])


def test_a_number_of_an_earlier_supervisor_misses_nothing() -> None:
    """Numbers begin anew with each supervisor; who follows over its restart would otherwise hear nothing."""
    assert [event.seq for event in filled(3).since(99)] == [1, 2, 3]


def test_who_was_too_slow_meets_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """And sees how many are missing. Who asks for all that there is does not."""
    monkeypatch.setattr(events, "CAPACITY", 3)
    ring = filled(10)

    assert [(event.seq, event.kind) for event in ring.since(4)] == [
        (7, "gap"),
        (8, "ready"),
        (9, "ready"),
        (10, "ready"),
    ]
    assert ring.since(4)[0].text == "3 events were dropped"
    assert [event.seq for event in ring.since(7)] == [8, 9, 10]
    assert [event.seq for event in ring.since(0)] == [8, 9, 10]


def test_a_gap_can_be_followed_on_from() -> None:
    """Its number is that of the last event lost, so that nothing comes twice."""
    ring = filled(events.CAPACITY + 5)
    gap, *_ = ring.since(2)

    assert (gap.seq, ring.since(gap.seq)[0].seq) == (5, 6)


async def test_a_follower_gets_everything_once(autojump_clock: trio.testing.MockClock) -> None:
    """What was there first, then each as it comes, then silence."""
    ring = filled(2)
    seen: list[int] = []

    async def follow() -> None:
        async for batch in ring.follow(1):
            seen.extend(event.seq for event in batch)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        await trio.testing.wait_all_tasks_blocked()
        assert seen == [2]
        ring.add(9.0, "died", "echo/demo", "SIGKILL")
        ring.add(9.0, "ready", "echo/demo", "again")
        await trio.testing.wait_all_tasks_blocked()
        assert seen == [2, 3, 4]
        nursery.cancel_scope.cancel()


async def test_a_slow_follower_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds a gap when it comes back."""
    monkeypatch.setattr(events, "CAPACITY", 2)
    ring = filled(1)
    batches = ring.follow(0)
    assert [event.seq for event in await anext(batches)] == [1]
    for _ in range(5):
        ring.add(0.0, "ready", None, "")

    assert [(event.seq, event.kind) for event in await anext(batches)] == [
        (4, "gap"),
        (5, "ready"),
        (6, "ready"),
    ]
    await batches.aclose()
