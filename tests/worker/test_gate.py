"""Waiting for a place, on a clock that jumps."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from modelproxy.worker.contract import Access, AccessToken, Quota
from modelproxy.worker.failures import Failure, Kind, Refused, headers
from modelproxy.worker.gate import MOST_SHOWN, Gate, Gates


@attrs.define
class Traffic:
    """Requests before one gate, and what became of each."""

    gate: Gate
    nursery: trio.Nursery
    inside: list[str] = attrs.Factory(list)
    went: list[str] = attrs.Factory(list)
    """In the order in which they got a place."""
    refused: dict[str, Failure] = attrs.Factory(dict)
    scopes: dict[str, trio.CancelScope] = attrs.Factory(dict)
    done: dict[str, trio.Event] = attrs.Factory(dict)

    async def come(self, *names: str) -> None:
        """`a1` is the first request of session `a`."""
        for name in names:
            self.scopes[name], self.done[name] = trio.CancelScope(), trio.Event()
            self.nursery.start_soon(self._one, name)
            await trio.testing.wait_all_tasks_blocked()

    async def end(self, *names: str) -> None:
        for name in names:
            self.done[name].set()
            await trio.testing.wait_all_tasks_blocked()

    async def hang_up(self, name: str) -> None:
        self.scopes[name].cancel()
        await trio.testing.wait_all_tasks_blocked()

    async def _one(self, name: str) -> None:
        with self.scopes[name]:
            if not self.gate.enter_now():
                failure = await self.gate.enter(f"req_{name}", name[0])
                if failure is not None:
                    self.refused[name] = failure
                    return
            try:
                self.inside.append(name)
                self.went.append(name)
                await self.done[name].wait()
            finally:
                self.inside.remove(name)
                self.gate.leave()

    @property
    def line(self) -> list[str]:
        shown: Any = self.gate.shown()
        return [] if shown is None else [one["request_id"].removeprefix("req_") for one in shown["line"]]


@asynccontextmanager
async def before(**quota: Any) -> AsyncIterator[Traffic]:
    async with trio.open_nursery() as nursery:
        yield Traffic(Gate(Quota(**quota)), nursery)
        nursery.cancel_scope.cancel()


async def test_without_a_limit_nobody_waits_and_nothing_is_shown() -> None:
    async with before() as traffic:
        await traffic.come(*(f"a{number}" for number in range(50)))

        assert len(traffic.inside) == 50
        assert traffic.gate.shown() is None


async def test_places_are_handed_on_in_turn() -> None:
    """Fair between sessions, in order within one; never more inside than there is room."""
    async with before(max_concurrent=2) as traffic:
        await traffic.come("a1", "a2", "a3", "a4", "b1", "a5")
        assert (traffic.inside, traffic.line) == (["a1", "a2"], ["a3", "b1", "a4", "a5"])
        for name in ("a1", "a2", "a3", "b1", "a4", "a5"):
            await traffic.end(name)
            assert len(traffic.inside) <= 2
        assert traffic.went == ["a1", "a2", "a3", "b1", "a4", "a5"]


async def test_nobody_slips_in_between() -> None:
    """A place that falls free belongs to the next in line, also before that one has noticed."""
    async with before(max_concurrent=1) as traffic:
        await traffic.come("a1", "a2")
        traffic.gate.leave()

        assert not traffic.gate.enter_now()
        assert traffic.gate.shown() == {"max_concurrent": 1, "inside": 1, "waiting": 0, "line": []}
        traffic.gate._inside += 1  # a1 leaves once more at its end


async def test_who_hangs_up_leaves_the_line_at_once() -> None:
    async with before(max_concurrent=1) as traffic:
        await traffic.come("a1", "a2", "a3")
        await traffic.hang_up("a2")
        assert traffic.line == ["a3"]
        await traffic.end("a1")
        assert traffic.inside == ["a3"]


async def test_a_place_given_to_one_that_leaves_is_given_on() -> None:
    """Cancelled in the very moment: the place must not be lost."""
    async with before(max_concurrent=1) as traffic:
        await traffic.come("a1", "a2", "a3")
        traffic.scopes["a2"].cancel()
        traffic.gate.leave()  # before a2 has run again
        await trio.testing.wait_all_tasks_blocked()
        assert traffic.inside == ["a1", "a3"]
        traffic.gate._inside += 1  # a1 leaves once more at its end
        await traffic.end("a1", "a3")
        assert traffic.gate.enter_now()
        assert not traffic.gate.enter_now()


async def test_the_line_has_an_end() -> None:
    async with before(max_concurrent=1, queue_size=2) as traffic:
        await traffic.come("a1", "a2", "a3", "a4")
        failure = traffic.refused["a4"]

        assert (failure.kind, failure.limit) == (Kind.OVERLOADED, "concurrency")
        assert failure.message == "2 requests in line for this proxy already (queue_size)"
        assert dict(headers(failure))[b"retry-after"] == b"5"
        assert dict(headers(failure))[b"x-limit-type"] == b"concurrency"


async def test_nobody_waits_for_longer_than_is_allowed(autojump_clock: trio.testing.MockClock) -> None:
    async with before(max_concurrent=1, queue_timeout_s=60.0) as traffic:
        await traffic.come("a1", "a2")
        await trio.sleep(59.9)
        assert (traffic.refused, traffic.line) == ({}, ["a2"])
        await trio.sleep(0.2)
        failure = traffic.refused["a2"]

        assert (failure.kind, failure.limit) == (Kind.RATE_LIMITED, "concurrency")
        assert failure.message == (
            "waited 60 s (queue_timeout) in line for this proxy, which takes 1 at a time (max_concurrent)"
        )
        assert traffic.line == []


async def test_more_places_let_more_in_and_fewer_send_nobody_away() -> None:
    async with before(max_concurrent=1) as traffic:
        await traffic.come("a1", "a2", "a3", "a4")
        traffic.gate.adjust(Quota(max_concurrent=3))
        await trio.testing.wait_all_tasks_blocked()
        assert (sorted(traffic.inside), traffic.line) == (["a1", "a2", "a3"], ["a4"])
        traffic.gate.adjust(Quota(max_concurrent=1))
        await traffic.end("a1", "a2")
        assert (traffic.inside, traffic.line) == (["a3"], ["a4"])
        traffic.gate.adjust(Quota())
        await trio.testing.wait_all_tasks_blocked()
        assert (traffic.inside, traffic.gate.shown()) == (["a3", "a4"], None)


async def test_too_many_in_a_minute_are_told_when_to_come_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    gate = Gate(Quota(rpm=2))
    gate.count()
    gate.count()
    with pytest.raises(Refused) as refused:
        gate.count()
    failure = refused.value.failure

    assert (failure.kind, failure.limit, failure.retry_after_s) == (Kind.RATE_LIMITED, "rpm", 30.0)
    assert failure.message == "this proxy takes 2 requests per minute (rpm); the next may come in 30 s"
    await trio.sleep(30)
    gate.count()
    gate.adjust(Quota(rpm=3))
    gate.count()
    gate.adjust(Quota())
    for _ in range(100):
        gate.count()


async def test_health_names_who_waits_within_reason(autojump_clock: trio.testing.MockClock) -> None:
    async with before(max_concurrent=1) as traffic:
        await traffic.come("a1", "b2")
        await trio.sleep(3)
        waiting = {"position": 1, "request_id": "req_b2", "session_id": "b", "waiting_s": 3.0}
        assert traffic.gate.shown() == {"max_concurrent": 1, "inside": 1, "waiting": 1, "line": [waiting]}
        await traffic.come(*(f"c{number}" for number in range(MOST_SHOWN + 10)))
        assert len(traffic.line) == MOST_SHOWN


# --- tokens ---------------------------------------------------------------------------------------


def with_tokens(*tokens: AccessToken, **quota: Any) -> Quota:
    return Quota(access=Access(tokens=list(tokens)), **quota)


def refusal(gate: Gate) -> Failure | None:
    try:
        gate.count()
    except Refused as refused:
        return refused.failure
    return None


async def test_each_token_has_a_gate_before_the_one_that_all_share() -> None:
    gates = Gates(with_tokens(AccessToken("ci", "0", rpm=1), AccessToken("me", "1"), rpm=9), proxy="coder")
    [ci, shared], [me, _] = gates.before("ci"), gates.before("me")
    assert gates.before(None) == gates.before("gone") == [shared]
    assert refusal(ci) is None
    told = refusal(ci)

    assert told is not None
    assert told.message == "coder takes 1 request per minute (rpm of the token ci); the next may come in 60 s"
    assert (told.kind, told.limit) == (Kind.RATE_LIMITED, "token")
    assert (refusal(me), refusal(shared)) == (None, None)


async def test_a_token_keeps_what_it_has_used_up_when_its_limits_change() -> None:
    gates = Gates(with_tokens(AccessToken("ci", "0", rpm=2)))
    [ci, _] = gates.before("ci")
    assert (refusal(ci), refusal(ci)) == (None, None)
    gates.adjust(with_tokens(AccessToken("ci", "other", rpm=3), max_concurrent=4))

    assert gates.before("ci") == [ci, gates.shared]
    assert refusal(ci) is None
    assert refusal(ci) is not None
    assert (gates.quota.max_concurrent, gates.shared.quota.max_concurrent) == (4, 4)
    gates.adjust(Quota())
    assert gates.before("ci") == [gates.shared]


@pytest.mark.parametrize("quota", [{"queue_size": 1}, {"queue_timeout_s": 2.0}])
async def test_whose_token_has_no_place_left_is_told_so(
    quota: dict[str, Any], autojump_clock: trio.testing.MockClock
) -> None:
    """With a 429: others are served. How many may wait and how long is the proxy's to say."""
    gates = Gates(with_tokens(AccessToken("ci", "0", max_concurrent=1), **quota))
    [ci, _] = gates.before("ci")
    async with trio.open_nursery() as nursery:
        traffic = Traffic(ci, nursery)
        await traffic.come("a1", "a2", "a3")
        await trio.sleep(3)
        nursery.cancel_scope.cancel()
    failure = traffic.refused["a3"]

    assert "of the token ci" in failure.message
    assert failure.kind is Kind.RATE_LIMITED
    assert (b"x-limit-type", b"token") in headers(failure)
    assert b"retry-after" in dict(headers(failure))
