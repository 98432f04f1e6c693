"""What is said to a client, and what is remembered of it. How answers are made is `test_handler`'s."""

from __future__ import annotations

import math
import re

import pytest
import trio
from fakes.exchange import FakeExchange

from modelproxy.worker.accounts import Account
from modelproxy.worker.call import Call, new_id
from modelproxy.worker.contract import Target, WorkerSpec
from modelproxy.worker.failures import Failure, Kind
from modelproxy.worker.targets import Far, fars
from modelproxy.worker.wire import sse

SPEC = WorkerSpec(
    "demo", "echo/demo", "echo", "echo", "demo", 3457, fallback=[Target("echo", "echo/öther", "echo", "o")]
)


@pytest.fixture
async def call() -> Call:
    return Call(FakeExchange(), trio.current_time)


@pytest.fixture
async def far() -> list[Far]:
    return fars(SPEC, new_id, lambda *_, **__: None)


def headers(call: Call) -> dict[bytes, bytes]:
    assert isinstance(call.exchange, FakeExchange)
    return call.exchange.headers


def test_p37_p38_ids_are_never_repeated_and_everybody_takes_them() -> None:
    ids = {new_id("toolu_") for _ in range(1000)}

    assert len(ids) == 1000
    assert all(re.fullmatch(r"toolu_[a-zA-Z0-9]{24}", one, re.ASCII) for one in ids)


async def test_every_answer_has_an_id_and_names_another_target(call: Call, far: list[Far]) -> None:
    call.turn_to(far[0], [])
    call.turn_to(far[1], ["echo/demo: refused"])
    await call.respond(200, [], b"")

    assert headers(call)[b"request-id"] == call.id.encode()
    assert headers(call)[b"x-proxy-fallback"] == b"echo/?ther"


async def test_the_first_target_is_no_fallback(call: Call, far: list[Far]) -> None:
    call.turn_to(far[0], [])
    await call.begin(200, [])

    assert b"x-proxy-fallback" not in headers(call)


async def test_what_one_target_said_is_not_anothers(call: Call, far: list[Far]) -> None:
    """Only the count of tries goes on."""
    account = call.account = Account(ts=0.0, request_id=call.id)
    call.turn_to(far[0], [])
    call.know(model="m", stream=False, subscription=True)
    call.mark_first()
    call.refused(529, "overloaded_error", "busy")
    call.asked_again()
    call.turn_to(far[1], ["echo/demo: server error"])

    assert (account.retries, account.ttft_s, account.refusal) == (2, None, None)
    assert (account.subscription, call.complaint) == (False, None)


async def test_the_first_piece_is_told_once(call: Call) -> None:
    told: list[int] = []
    call.on_first = lambda: told.append(1)
    call.mark_first()
    call.mark_first()

    assert told == [1]


async def test_an_error_is_remembered_whoever_is_asked_next(call: Call) -> None:
    failure = Failure(Kind.OVERLOADED, "busy")
    assert not call.elsewhere(failure)
    assert call.verdict is failure
    call.may_fall_back = lambda failure: True
    assert call.elsewhere(failure)


async def test_what_waiting_does_not_help_is_told_as_what_helps(call: Call) -> None:
    overflow = Failure(Kind.OVERFLOW, "prompt is too long: 2 tokens > 1 maximum")
    await call.fail(Failure(Kind.RATE_LIMITED, "too large", instead=overflow))

    assert call.status == 400
    assert call.failure == overflow


async def test_no_time_limit_takes_away_what_is_whole(call: Call) -> None:
    call.scope.deadline = trio.current_time() + 1
    await call.respond(200, [], b"whole")

    assert call.scope.deadline == math.inf
    call.cut()
    assert not call.was_cut


async def test_pings_alone_may_begin_a_stream(call: Call) -> None:
    """Its events will be somebody else's; until then a failure has last words of its own."""
    call.open_stream(None, [(b"content-type", b"text/event-stream")])
    call.last_words = lambda failure: b"event: error\n\n"
    await call.say(sse.PING)
    assert call.begun
    await call.fail(Failure(Kind.TIMEOUT, "too late"))

    assert isinstance(call.exchange, FakeExchange)
    assert bytes(call.exchange.sent) == sse.PING + b"event: error\n\n"
    assert call.exchange.finished
