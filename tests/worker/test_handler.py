"""One request to its end: on an exchange in memory with a clock that jumps, and on the real server."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from fakes import grammar
from fakes.exchange import JSON_HEADERS, FakeExchange, request
from fakes.provider import FakeProvider
from fakes.serving import serving

from modelproxy.worker import handler as handler_module
from modelproxy.worker import ledger
from modelproxy.worker.accounts import Account
from modelproxy.worker.books import Books, Entry
from modelproxy.worker.contract import Access, AccessToken, Options, Quota, Target, WorkerSpec
from modelproxy.worker.failures import Failure, Kind
from modelproxy.worker.handler import Handler, refuse
from modelproxy.worker.httpd import ClientGone, Exchange
from modelproxy.worker.httpd_parse import BodyIncomplete, BodyTooLarge
from modelproxy.worker.provider import Condition
from modelproxy.worker.stats import Stats
from modelproxy.worker.wire import codec
from modelproxy.worker.wire.asks import Ask
from modelproxy.worker.wire.items import Finish, Item, Text, Usage

NO_LIMITS = Quota()
SPEC = WorkerSpec(name="demo", model_id="echo/demo", provider="echo", kind="echo", model="demo", port=3457)


@attrs.define
class Bench:
    """A handler with everything it reports to."""

    stats: Stats = attrs.Factory(Stats)
    logged: list[tuple[str, str, dict[str, Any]]] = attrs.Factory(list)
    spec: WorkerSpec = SPEC
    handler: Handler = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.handler = Handler(
            self.spec, stats=self.stats, log=self.log, started_at=trio.current_time(), generation=3
        )

    def log(self, level: str, event: str, **fields: Any) -> None:
        self.logged.append((level, event, fields))

    @property
    def line(self) -> dict[str, Any]:
        """The one line about the one request."""
        [(_, _, fields)] = [entry for entry in self.logged if entry[1] == "request"]
        return fields


@pytest.fixture
async def bench() -> Bench:
    return Bench()


def asking(content: Any = "hello world", **fields: Any) -> bytes:
    messages = [{"role": "user", "content": content}]
    return codec.dumps({"model": "claude-x", "max_tokens": 100, "messages": messages, **fields})


def get(target: str, method: str = "GET", *headers: tuple[bytes, bytes]) -> FakeExchange:
    return FakeExchange(request(method, target, (*JSON_HEADERS, *headers)))


async def post(bench: Bench, content: Any = "hello world", **fields: Any) -> FakeExchange:
    exchange = FakeExchange(body=asking(content, **fields))
    await bench.handler(exchange)
    return exchange


def error(exchange: FakeExchange) -> tuple[int | None, str, str]:
    """Status, type and message of an error answer; its ids must agree."""
    body = json.loads(exchange.sent)
    assert body["type"] == "error"
    assert exchange.headers[b"request-id"].decode() == body["request_id"]
    assert exchange.headers[b"content-type"] == b"application/json"
    return exchange.status, body["error"]["type"], body["error"]["message"]


Step = Sequence[Item] | float | Exception | Callable[[], None]


class Script:
    """A provider and source in one: gives batches, waits, raises, calls; remembers that it was let go."""

    def __init__(self, *steps: Step) -> None:
        self.steps = list(steps)
        self.asked: list[Ask] = []
        self.closed = 0
        self.retries = 0
        self.remarks: list[tuple[bytes, bytes]] = []
        self.prompt_tokens: int | None = None

    def answer(self, ask: Ask) -> Script:
        self.asked.append(ask)
        return self

    async def receive(self) -> Sequence[Item] | None:
        await trio.lowlevel.checkpoint()
        while self.steps:
            step = self.steps.pop(0)
            if isinstance(step, Exception):
                raise step
            if callable(step):
                step()
            elif isinstance(step, float | int):
                await trio.sleep(step)
            else:
                return step
        return None

    async def aclose(self) -> None:
        self.closed += 1

    async def weigh(self, ask: Ask) -> int:
        return ask.input_tokens


def play(bench: Bench, *steps: Step) -> Script:
    script = Script(*steps)
    bench.handler._first.provider = script  # type: ignore[assignment]  # the parts that are used
    return script


# --- plain and streamed ---------------------------------------------------------------------------


async def test_a_plain_answer(bench: Bench) -> None:
    exchange = await post(bench)
    body = json.loads(exchange.sent)

    assert exchange.status == 200
    assert exchange.headers[b"content-type"] == b"application/json"
    assert exchange.headers[b"x-proxy-model"] == b"echo/demo"
    assert exchange.headers[b"request-id"].startswith(b"req_")
    assert body.pop("id").startswith("msg_")
    assert body == {
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": [{"type": "text", "text": "hello world"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 7,
            "output_tokens": 2,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
        },
    }


async def test_a_streamed_answer_says_the_same(bench: Bench) -> None:
    plain = json.loads((await post(bench)).sent)
    exchange = await post(bench, stream=True)
    said = grammar.check(bytes(exchange.sent))

    assert exchange.headers[b"content-type"] == b"text/event-stream"
    assert exchange.headers[b"cache-control"] == b"no-cache"
    assert exchange.headers[b"x-accel-buffering"] == b"no"
    assert exchange.headers[b"x-proxy-model"] == b"echo/demo"
    assert exchange.headers[b"request-id"].startswith(b"req_")
    assert exchange.finished
    assert said.message is not None
    assert said.message["id"] != plain["id"]
    assert {**said.message, "id": ""} == {**plain, "id": ""}


async def test_each_batch_is_one_send(bench: Bench, autojump_clock: trio.testing.MockClock) -> None:
    exchange = await post(bench, "echo:slow 100ms\n" + "word " * 20, stream=True)

    assert grammar.check(bytes(exchange.sent)).text == "word " * 20
    assert len(exchange.sends) == 21
    gaps = [
        later[0] - earlier[0] for earlier, later in zip(exchange.sends, exchange.sends[1:20], strict=False)
    ]
    assert gaps == pytest.approx([0.1] * len(gaps))


async def test_two_megabytes_stream_in_bounded_pieces(bench: Bench) -> None:
    exchange = await post(bench, "echo:bytes 2000000", stream=True)

    assert len(grammar.check(bytes(exchange.sent)).text) == 2_000_000
    assert max(len(data) for _, data in exchange.sends) < 100_000


async def test_max_tokens_of_zero_troubles_no_provider(bench: Bench) -> None:
    script = play(bench)
    plain = await post(bench, max_tokens=0)
    streamed = await post(bench, max_tokens=0, stream=True)
    body = json.loads(plain.sent)

    assert script.asked == []
    assert (body["content"], body["stop_reason"]) == ([], "max_tokens")
    assert body["usage"]["input_tokens"] > 0
    assert grammar.check(bytes(streamed.sent)).complete


# --- hold and pings -------------------------------------------------------------------------------


async def test_a_failure_within_the_hold_is_a_real_status(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    exchange = await post(bench, "echo:delay 9s\necho:fail 429 retry 7s", stream=True)

    assert error(exchange) == (429, "rate_limit_error", "echo: the provider answered 429")
    assert exchange.headers[b"retry-after"] == b"7"


async def test_the_hold_ends_with_the_stream_begun_and_a_ping(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    exchange = await post(bench, "echo:delay 35s\nhi", stream=True)
    start = exchange.sends[0][0]
    first = grammar.check(exchange.sends[0][1], may_be_unfinished=True)

    assert first.names == ["message_start", "ping"]
    assert [round(when - start) for when, _ in exchange.sends] == [0, 10, 20, 25, 25]
    assert grammar.check(bytes(exchange.sent)).pings == 3


async def test_s128_hold_and_ping_are_settings(autojump_clock: trio.testing.MockClock) -> None:
    bench = Bench(spec=attrs.evolve(SPEC, options=Options(hold_s=4.0, ping_s=15.0)))
    began = trio.current_time()
    exchange = await post(bench, "echo:delay 40s\nhi", stream=True)

    assert [round(when - began) for when, _ in exchange.sends] == [4, 19, 34, 40, 40]


async def test_the_hold_begins_with_the_request(bench: Bench, autojump_clock: trio.testing.MockClock) -> None:
    began = trio.current_time()
    exchange = await post(bench, "echo:delay 35s\nhi", stream=True)

    assert exchange.sends[0][0] - began == pytest.approx(10)


async def test_pings_fill_silences_only(bench: Bench, autojump_clock: trio.testing.MockClock) -> None:
    exchange = await post(bench, "echo:slow 6s\na b c d e", stream=True)
    assert grammar.check(bytes(exchange.sent)).pings == 0

    exchange = await post(bench, "echo:slow 25s\na b", stream=True)
    assert grammar.check(bytes(exchange.sent)).names == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "ping",
        "ping",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


async def test_what_shows_nothing_does_not_end_the_hold(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    play(bench, [Usage(1, 0), Text("")], 5, [Failure(Kind.OVERLOADED, "busy")])

    assert error(await post(bench, stream=True))[0] == 529


async def test_a_failure_after_the_hold_is_an_error_event(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    exchange = await post(bench, "echo:delay 15s\necho:fail 429", stream=True)
    said = grammar.check(bytes(exchange.sent))

    assert exchange.status == 200
    assert said.names == ["message_start", "ping", "error"]
    assert said.error is not None
    assert said.error["request_id"] == exchange.headers[b"request-id"].decode()


async def test_a_slow_reader_gets_no_heap_of_pings(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    exchange = FakeExchange(body=asking("echo:slow 1s\na b c", stream=True), stall=trio.Event())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.handler, exchange)
        await trio.sleep(100)
        assert exchange.stall is not None
        exchange.stall.set()

    said = grammar.check(bytes(exchange.sent))
    assert (said.complete, said.pings) == (True, 0)


# --- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("order", "status", "type_"),
    [
        ("echo:fail 400", 400, "invalid_request_error"),
        ("echo:fail overflow", 400, "invalid_request_error"),
        ("echo:fail 401", 403, "permission_error"),
        ("echo:fail 402", 402, "billing_error"),
        ("echo:fail 404", 404, "not_found_error"),
        ("echo:fail 429", 429, "rate_limit_error"),
        ("echo:fail 500", 500, "api_error"),
        ("echo:fail 503", 529, "overloaded_error"),
        ("echo:fail refused", 503, "api_error"),
        ("echo:fail timeout", 504, "timeout_error"),
        ("echo:cut after 0", 500, "api_error"),
        ("echo:nonsense", 400, "invalid_request_error"),
    ],
)
async def test_failures_before_the_first_word(
    bench: Bench, stream: bool, order: str, status: int, type_: str
) -> None:
    assert error(await post(bench, order, stream=stream))[:2] == (status, type_)


@pytest.mark.parametrize("order", ["echo:fail 500 after 2 boom", "echo:cut after 2"])
async def test_failures_in_the_middle(bench: Bench, order: str) -> None:
    streamed = await post(bench, f"{order}\na b c", stream=True)
    plain = await post(bench, f"{order}\na b c")
    said = grammar.check(bytes(streamed.sent))

    assert streamed.status == 200
    assert said.text == "a b "
    assert said.error is not None
    assert said.error["error"]["type"] == "api_error"
    assert error(plain)[:2] == (500, "api_error")


async def test_a_failure_in_the_same_breath_as_the_first_words_is_a_status(bench: Bench) -> None:
    play(bench, [Text("a"), Failure(Kind.OVERLOADED, "busy")])

    assert error(await post(bench, stream=True)) == (529, "overloaded_error", "busy")


@pytest.mark.parametrize("steps", [[RuntimeError("secret")], [[Text("a")], RuntimeError("secret")]])
@pytest.mark.parametrize("stream", [True, False])
async def test_our_bug_is_told_without_its_traceback(bench: Bench, steps: list[Any], stream: bool) -> None:
    script = play(bench, *steps)
    exchange = await post(bench, stream=stream)
    crash = next(fields for _, event, fields in bench.logged if event == "crash")

    assert b"secret" not in exchange.sent
    assert exchange.headers[b"request-id"] in bytes(exchange.sent)
    assert "RuntimeError: secret" in crash["traceback"]
    assert crash["id"] == exchange.headers[b"request-id"].decode()
    assert script.closed == 1
    if stream and len(steps) == 2:
        assert grammar.check(bytes(exchange.sent)).names[-1] == "error"
    else:
        assert error(exchange)[:2] == (500, "api_error")


async def test_a_body_that_is_too_large_is_400_with_both_sizes(bench: Bench) -> None:
    exchange = FakeExchange(raises=BodyTooLarge(declared=50, received=0, limit=32))
    await bench.handler(exchange)
    status, type_, message = error(exchange)

    assert (status, type_) == (400, "invalid_request_error")
    assert "50 bytes" in message
    assert "32 bytes" in message


async def test_a_body_that_breaks_off(bench: Bench) -> None:
    exchange = FakeExchange(raises=BodyIncomplete())
    await bench.handler(exchange)

    assert error(exchange)[0] == 400


# --- the client leaves ----------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_frees_the_provider(
    bench: Bench, autojump_clock: trio.testing.MockClock, stream: bool
) -> None:
    script = play(bench, [Text("a")], 1000)
    exchange = FakeExchange(body=asking(stream=stream))
    with trio.move_on_after(5) as left:
        await bench.handler(exchange)

    assert left.cancelled_caught
    assert script.closed == 1
    assert bench.stats == Stats(requests=1)
    assert bench.line["error"] == "client left"


async def test_a_broken_connection_is_the_servers_business(bench: Bench) -> None:
    exchange = FakeExchange(body=asking(stream=True), gone=True)
    with pytest.RaisesGroup(ClientGone, flatten_subgroups=True, allow_unwrapped=True):
        await bench.handler(exchange)

    assert bench.stats == Stats(requests=1)
    assert not [event for _, event, _ in bench.logged if event == "crash"]


# --- the drain's deadline -------------------------------------------------------------------------


async def cut_after(bench: Bench, exchange: FakeExchange, seconds: float) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.handler, exchange)
        await trio.sleep(seconds)
        bench.handler.cut()


async def test_cut_ends_a_stream_in_band(bench: Bench, autojump_clock: trio.testing.MockClock) -> None:
    script = play(bench, [Text("a")], 1000)
    exchange = FakeExchange(body=asking(stream=True))
    await cut_after(bench, exchange, 5)
    said = grammar.check(bytes(exchange.sent))

    assert said.error is not None
    assert said.error["error"] == {"type": "overloaded_error", "message": "proxy is shutting down"}
    assert exchange.finished
    assert script.closed == 1


@pytest.mark.parametrize(
    "exchange",
    [
        FakeExchange(body=asking("echo:hang after 0", stream=True)),
        FakeExchange(body=asking("echo:hang")),
        FakeExchange(half_read=True),
    ],
    ids=["held", "plain", "half-read body"],
)
async def test_cut_before_the_head_is_a_529(
    bench: Bench, autojump_clock: trio.testing.MockClock, exchange: FakeExchange
) -> None:
    await cut_after(bench, exchange, 5)

    assert error(exchange) == (529, "overloaded_error", "proxy is shutting down")
    assert b"retry-after" in exchange.headers


async def test_cut_in_the_middle_of_a_write_keeps_the_grammar(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    exchange = FakeExchange(body=asking("echo:slow 1s\na b c", stream=True), stall=trio.Event())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.handler, exchange)
        await trio.sleep(5)
        stall, exchange.stall = exchange.stall, None
        bench.handler.cut()
    assert stall is not None

    said = grammar.check(bytes(exchange.sent))
    assert said.names[0] == "message_start"
    assert said.error is not None


async def test_cut_gives_a_reader_that_stands_still_only_a_moment(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    exchange = FakeExchange(body=asking(stream=True), stall=trio.Event())
    began = trio.current_time()
    await cut_after(bench, exchange, 5)

    assert trio.current_time() - began == pytest.approx(5 + handler_module.LAST_WORDS_S)
    assert bench.stats.in_flight == 0


async def test_cut_leaves_an_answer_that_is_on_its_way(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    exchange = FakeExchange(body=asking(), stall=trio.Event())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.handler, exchange)
        await trio.sleep(5)
        bench.handler.cut()
        await trio.sleep(5)
        assert exchange.stall is not None
        exchange.stall.set()

    assert exchange.status == 200
    assert json.loads(exchange.sent)["stop_reason"] == "end_turn"


@pytest.mark.parametrize("steps", range(1, 40))
async def test_cut_at_any_moment_ends_grammatically(bench: Bench, steps: int) -> None:
    """The loop is stepped, so every checkpoint of the request is one of the moments."""
    exchange = FakeExchange(body=asking("a b c d e f g h", stream=True))

    async def yielding() -> None:
        await trio.lowlevel.checkpoint()

    exchange.on_send = yielding
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.handler, exchange)
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        bench.handler.cut()

    assert exchange.finished
    if exchange.status == 200:
        grammar.check(bytes(exchange.sent))
    else:
        assert error(exchange)[0] == 529


async def test_cut_in_the_tick_in_which_the_provider_speaks(bench: Bench) -> None:
    """The task is on its way already, so it is the first write that notices: nothing may be half begun then."""
    play(bench, bench.handler.cut, [Text("a")])

    assert error(await post(bench, stream=True)) == (529, "overloaded_error", "proxy is shutting down")


async def test_cut_between_the_head_and_the_first_event(bench: Bench) -> None:
    exchange = FakeExchange(body=asking("a b", stream=True))

    async def cutting() -> None:
        bench.handler.cut()

    exchange.on_send = cutting
    await bench.handler(exchange)

    assert grammar.check(bytes(exchange.sent)).names == ["message_start", "error"]


async def test_requests_after_the_cut_are_refused(bench: Bench) -> None:
    bench.handler.cut()

    assert error(await post(bench)) == (529, "overloaded_error", "proxy is shutting down")


# --- the other endpoints --------------------------------------------------------------------------


async def test_health(bench: Bench, autojump_clock: trio.testing.MockClock) -> None:
    await trio.sleep(5)
    exchange = get("/health")
    await bench.handler(exchange)
    body = json.loads(exchange.sent)

    assert exchange.status == 200
    assert set(body) == {
        "healthy", "status", "provider", "model", "model_id", "upstream", "pid", "port", "version", "uptime_s",
        "in_flight", "generation",
    }  # fmt: skip
    assert (body["healthy"], body["status"], body["provider"], body["model"]) == (True, "ok", "echo", "demo")
    assert (body["uptime_s"], body["in_flight"], body["generation"]) == (5.0, 0, 3)

    bench.handler.draining = True
    exchange = get("/health")
    await bench.handler(exchange)
    assert json.loads(exchange.sent)["status"] == "draining"


async def test_health_counts_what_is_in_flight(bench: Bench, autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(bench.handler, FakeExchange(body=asking("echo:delay 5s")))
        await trio.sleep(1)
        exchange = get("/health")
        await bench.handler(exchange)

    assert json.loads(exchange.sent)["in_flight"] == 3
    assert bench.stats == Stats(requests=3)


async def test_count_tokens_is_what_the_answer_says(bench: Bench) -> None:
    exchange = FakeExchange(request("POST", "/v1/messages/count_tokens?beta=true"), body=asking())
    await bench.handler(exchange)

    assert exchange.status == 200
    assert json.loads(exchange.sent) == {"input_tokens": 7}
    assert json.loads((await post(bench)).sent)["usage"]["input_tokens"] == 7


async def test_the_estimate_learns_from_what_was_sent_not_from_what_was_asked(bench: Bench) -> None:
    """A file that was only named counts thousands of tokens, and the provider has never seen it."""
    script = play(bench, [Text("ok"), Usage(800, 1), Finish()])
    script.prompt_tokens = 1000
    await post(bench, "words " * 1500)

    assert script.asked[0].input_tokens > 1300
    assert bench.handler._first.gauge.tuned(1000) == 800


async def test_where_the_provider_counts_nothing_the_estimate_is_of_what_was_sent(bench: Bench) -> None:
    answers = []
    for stream in (False, True):
        play(bench, [Text("ok"), Finish()]).prompt_tokens = 1000
        answers.append(bytes((await post(bench, "words " * 1500, stream=stream)).sent))
    events = [document for _, document in grammar.events(answers[1])]
    counts = [json.loads(answers[0])["usage"], events[0]["message"]["usage"], events[-2]["usage"]]

    assert [one["input_tokens"] for one in counts] == [1000] * 3


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/livez", 200),
        ("HEAD", "/livez", 200),
        ("HEAD", "/health", 200),
        ("GET", "/", 200),
        ("HEAD", "/", 200),
        ("HEAD", "/api/hello", 200),
        ("GET", "/v1/models?limit=1000", 200),
        ("GET", "/v1/models/echo%2Fdemo", 200),
        ("GET", "/v1/models/nope", 404),
        ("GET", "/v1/models?limit=0", 400),
        ("GET", "/nope", 404),
        ("GET", "/v1/messages", 405),
        ("OPTIONS", "/v1/messages", 405),
    ],
)
async def test_small_endpoints(bench: Bench, method: str, target: str, status: int) -> None:
    exchange = get(target, method)
    await bench.handler(exchange)

    assert exchange.status == status
    assert exchange.headers[b"request-id"].startswith(b"req_")
    assert not any(name.startswith(b"access-control-") for name in exchange.headers)
    assert bench.stats.requests == 0
    if status >= 400:
        error(exchange)
    assert exchange.headers.get(b"allow") == (b"POST" if status == 405 else None)


async def test_a_page_is_refused_before_its_body_is_read(bench: Bench) -> None:
    exchange = get("/v1/messages", "POST", (b"origin", b"http://localhost:3000"))
    exchange.half_read = True
    await bench.handler(exchange)

    assert error(exchange)[:2] == (403, "permission_error")


# --- the books ------------------------------------------------------------------------------------


async def test_the_log_line_says_what_happened_and_not_what_was_said(bench: Bench) -> None:
    await post(bench, "a secret prompt", stream=True)
    level, _, line = bench.logged[0]

    assert level == "info"
    assert line.pop("id").startswith("req_")
    assert line.pop("ms") >= 0
    assert line == {
        "method": "POST",
        "path": "/v1/messages",
        "status": 200,
        "model": "claude-x",
        "stream": True,
        "input_tokens": 8,
        "output_tokens": 3,
    }


async def test_probes_are_logged_quietly_and_errors_loudly(bench: Bench) -> None:
    await bench.handler(get("/health"))
    await bench.handler(get("/nope"))

    assert [level for level, _, _ in bench.logged] == ["debug", "warning"]


async def test_the_counters(bench: Bench) -> None:
    await post(bench)
    await post(bench, "echo:fail 500 boom")
    await post(bench, "echo:fail 500 after 1 later\na b", stream=True)
    await bench.handler(get("/health"))

    assert bench.stats == Stats(requests=3, in_flight=0, failures=2, last_error="later")


async def test_an_odd_model_id_breaks_no_header(bench: Bench) -> None:
    handler = Handler(
        attrs.evolve(SPEC, model_id="echo/d\u00e9\r\nx: y"), stats=Stats(), log=bench.log, started_at=0.0
    )
    exchange = FakeExchange(body=asking())
    await handler(exchange)

    assert exchange.headers[b"x-proxy-model"] == b"echo/d???x: y"


class Pages(Books):
    """Books without a file that remember every writing."""

    def __init__(self) -> None:
        super().__init__("nowhere", log=lambda *_, **__: None)
        self._suffer("never written in these tests")
        self.written: list[ledger.Row] = []

    def note(self, row: ledger.Row) -> Entry:
        self.written.append(row)
        return super().note(row)

    def amend(self, entry: Entry, row: ledger.Row) -> None:
        self.written.append(row)
        super().amend(entry, row)

    @property
    def row(self) -> ledger.Row:
        """The only one."""
        [entry] = self._waiting
        return entry.row


@pytest.fixture
def pages(bench: Bench) -> Pages:
    pages = Pages()
    bench.handler = Handler(
        bench.spec, stats=bench.stats, log=bench.log, started_at=trio.current_time(), books=pages
    )
    return pages


async def test_what_no_provider_is_asked_costs_nothing(bench: Bench) -> None:
    """An unknown price would be counted among those, whoever would have been asked."""
    pages = Pages()
    spec = attrs.evolve(bench.spec, kind="openai", provider="work", base_url="http://127.0.0.1:9/v1")
    bench.handler = Handler(
        spec, stats=bench.stats, log=bench.log, started_at=trio.current_time(), books=pages
    )
    await post(bench, max_tokens=0)

    assert (pages.row.status, pages.row.output_tokens, pages.row.cost_usd) == (200, 0, 0.0)
    assert bench.stats.unpriced == 0


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_that_lasts_has_a_row_before_its_end(
    bench: Bench, pages: Pages, stream: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """A last will, brought up to date now and then; at the end the one row says the truth."""
    seen: list[tuple[int, str | None, int | None]] = []

    def look() -> None:
        seen.append((len(pages.written), pages.row.error_type, pages.row.output_tokens))
        assert (pages.row.status, pages.row.pid) == (500, os.getpid())

    usage = Usage(output_tokens=40)
    words = [Text("some words " * 20)]
    play(bench, words, 0.6, look, words, 6.0, look, 6.0, look, [usage, Finish("end_turn")])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.handler.keep_wills)
        await post(bench, stream=stream)
        nursery.cancel_scope.cancel()

    assert [(count, error) for count, error, _ in seen] == [(1, "cut"), (2, "cut"), (3, "cut")]
    first, second, third = [tokens for _, _, tokens in seen]
    assert first is not None
    assert second is not None
    assert 0 < first < second == third
    assert len(pages.written) == 4
    assert (pages.row.status, pages.row.error_type, pages.row.pid) == (200, None, None)
    assert (pages.row.stop_reason, pages.row.output_tokens) == ("end_turn", 40)


async def test_a_short_answer_is_written_once(
    bench: Bench, pages: Pages, autojump_clock: trio.testing.MockClock
) -> None:
    """Nor is anything looked at while there is nothing in progress."""
    play(bench, [Text("a")], 0.2, [Finish("end_turn")])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.handler.keep_wills)
        await post(bench)
        await trio.sleep(100)
        nursery.cancel_scope.cancel()

    assert [row.status for row in pages.written] == [200]
    assert not bench.handler._wills


@pytest.mark.parametrize("why", ["entrusted", "in line"])
async def test_what_leaves_nothing_has_no_last_will(
    bench: Bench, pages: Pages, why: str, autojump_clock: trio.testing.MockClock
) -> None:
    """Another proxy keeps the row, or nobody was asked yet: a row of ours would be one too many."""
    seen: list[int] = []

    def entrust() -> None:
        for call in bench.handler._calls:
            call.entrusted = True

    if why == "entrusted":
        play(bench, entrust, [Text("a")], 9.0, lambda: seen.append(len(pages.written)), [Finish("end_turn")])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.handler.keep_wills)
        if why == "entrusted":
            await post(bench)
        else:
            nursery.start_soon(bench.handler, FakeExchange(half_read=True))
            await trio.sleep(9)
            seen.append(len(pages.written))
        nursery.cancel_scope.cancel()

    assert seen == [0]


async def test_a_client_that_leaves_a_long_answer_has_one_row(
    bench: Bench, pages: Pages, autojump_clock: trio.testing.MockClock
) -> None:
    play(bench, [Text("a")], 100.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.handler.keep_wills)
        with trio.move_on_after(3):
            await post(bench, stream=True)
        nursery.cancel_scope.cancel()

    assert [row.error_type for row in pages.written] == ["cut", "cancelled"]
    assert (pages.row.status, pages.row.pid) == (499, None)


async def test_a_bug_in_one_requests_numbers_is_its_own(
    bench: Bench, pages: Pages, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged once, and the request goes on."""

    def broken(*_: Any, **__: Any) -> None:
        raise KeyError("no such number")

    monkeypatch.setattr(Account, "last_will", broken)
    play(bench, [Text("a")], 20.0, [Finish("end_turn")])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.handler.keep_wills)
        await post(bench, stream=True)
        nursery.cancel_scope.cancel()

    assert [row.status for row in pages.written] == [200]
    assert [event for _, event, _ in bench.logged].count("crash") == 1


def test_an_unknown_kind_is_refused_at_birth() -> None:
    with pytest.raises(ValueError, match="unknown kind 'telepathy', known: echo"):
        Handler(
            attrs.evolve(SPEC, kind="telepathy"), stats=Stats(), log=print, now=lambda: 0.0, started_at=0.0
        )


@pytest.mark.parametrize(
    ("status", "type_"),
    [
        (400, "invalid_request_error"),
        (408, "timeout_error"),
        (431, "invalid_request_error"),
        (503, "overloaded_error"),
    ],
)
def test_the_servers_own_refusals_speak_the_same_language(status: int, type_: str) -> None:
    headers, body = refuse(status, "why")
    said = json.loads(body)

    assert said["error"] == {"type": type_, "message": "why"}
    assert dict(headers)[b"request-id"].decode() == said["request_id"]


# --- the same on the real server ------------------------------------------------------------------


def test_the_fake_has_what_the_real_exchange_has() -> None:
    for name in ("read_body", "respond", "start", "send", "finish", "started", "finished", "request"):
        assert hasattr(FakeExchange, name) or name in attrs.fields_dict(FakeExchange)
        assert hasattr(Exchange, name)


CONTRACT = [
    ("POST", "/v1/messages", asking()),
    ("POST", "/v1/messages", asking("echo:slow 1ms\na b c", stream=True)),
    ("POST", "/v1/messages", asking("echo:fail 429")),
    ("POST", "/v1/messages", asking("echo:fail 500 after 1\na b", stream=True)),
    ("POST", "/v1/messages", b"{"),
    ("POST", "/v1/messages/count_tokens", asking()),
    ("GET", "/v1/messages", b""),
    ("GET", "/health", b""),
    ("HEAD", "/", b""),
    ("GET", "/v1/models", b""),
]


def settled(data: bytes) -> bytes:
    """Without what differs from answer to answer."""
    for pattern in (rb"(req|msg)_[A-Za-z0-9_-]{24}", rb'"(pid|uptime_s|in_flight)":[0-9.]+'):
        data = re.sub(pattern, b"", data)
    return data


@pytest.mark.parametrize(("method", "target", "body"), CONTRACT)
async def test_fake_and_real_exchange_give_the_client_the_same(
    bench: Bench, method: str, target: str, body: bytes
) -> None:
    fake = FakeExchange(request(method, target), body=body)
    await bench.handler(fake)
    async with serving(bench.handler) as server:
        status, got, data = await server.fetch(method, target, body)

    assert status == fake.status
    assert settled(data) == settled(bytes(fake.sent))
    assert {name: settled(value) for name, value in fake.headers.items()}.items() <= {
        name: settled(value) for name, value in got.items()
    }.items()


async def test_a_client_that_hangs_up_frees_the_provider_on_the_real_server(bench: Bench) -> None:
    script = play(bench, [Text("a")], 1000)
    closed = trio.Event()

    async def aclose() -> None:
        closed.set()

    script.aclose = aclose  # type: ignore[method-assign]  # to wait for it instead of polling
    async with serving(bench.handler) as server:
        await server.begin("POST", "/v1/messages", asking(stream=True), until=b"text_delta")
        with trio.fail_after(5):
            await closed.wait()


async def test_thirty_two_streams_at_once(bench: Bench) -> None:
    results: list[grammar.Streamed] = []

    async def one(fetch: Callable[..., Any]) -> None:
        _, _, data = await fetch(
            "POST", "/v1/messages", asking("echo:slow 5ms\n" + "word " * 20, stream=True)
        )
        results.append(grammar.check(data))

    async with serving(bench.handler) as server, trio.open_nursery() as nursery:
        for _ in range(32):
            nursery.start_soon(one, server.fetch)

    assert [said.text for said in results] == ["word " * 20] * 32
    assert bench.stats == Stats(requests=32)


# --- other targets --------------------------------------------------------------------------------

BUSY = Failure(Kind.OVERLOADED, "busy")


def saying(text: str) -> list[Sequence[Item] | float]:
    """The script of a short answer."""
    return [[Text(text), Finish()]]


def targets(bench: Bench, *far: FakeProvider, quota: Quota = NO_LIMITS) -> None:
    """A worker with these targets."""
    others = [Target("echo", f"echo/{number}", "echo", str(number)) for number in range(1, len(far))]
    spec = attrs.evolve(SPEC, fallback=others, quota=quota)
    bench.handler = Handler(spec, stats=bench.stats, log=bench.log, started_at=trio.current_time())
    for target, provider in zip(bench.handler._fars, far, strict=True):
        target.provider = provider


@pytest.mark.parametrize("stream", [False, True])
async def test_the_next_target_answers_when_the_first_fails(bench: Bench, stream: bool) -> None:
    first, second = FakeProvider([[BUSY]]), FakeProvider(saying("hi"))
    targets(bench, first, second)
    exchange = await post(bench, stream=stream)

    assert exchange.status == 200
    assert exchange.headers[b"x-proxy-fallback"] == exchange.headers[b"x-proxy-model"] == b"echo/1"
    assert b"hi" in exchange.sent
    assert [source.closed for source in (*first.sources, *second.sources)] == [True, True]
    assert (bench.stats.fallbacks, bench.stats.failures, bench.line["fallback"]) == (1, 0, "echo/1")
    [told] = [fields for _, event, fields in bench.logged if event == "fallback"]
    assert (told["failed"], told["to"], told["cause"], told["detail"]) == (
        "echo/demo",
        "echo/1",
        "server error",
        "busy",
    )


async def test_a_plain_answer_that_breaks_off_is_begun_anew_elsewhere(bench: Bench) -> None:
    """Its client has seen nothing of the first half."""
    targets(bench, FakeProvider([[Text("half")]]), FakeProvider(saying("whole")))
    exchange = await post(bench)

    assert json.loads(exchange.sent)["content"] == [{"type": "text", "text": "whole"}]


async def test_what_came_with_a_failure_is_said_before_it_once_the_stream_has_begun(bench: Bench) -> None:
    """Before that a real status is worth more than half an answer."""
    play(bench, [Text("half ")], [Text("more"), BUSY])
    begun = grammar.check(bytes((await post(bench, stream=True)).sent))
    play(bench, [Text("half "), BUSY])

    assert (begun.text, begun.complete) == ("half more", False)
    assert (await post(bench, stream=True)).status == 529


async def test_a_stream_that_has_begun_stays_where_it_is(bench: Bench) -> None:
    second = FakeProvider(saying("hi"))
    targets(bench, FakeProvider([[Text("half")], [BUSY]]), second)
    said = grammar.check(bytes((await post(bench, stream=True)).sent))

    assert (said.text, said.complete) == ("half", False)
    assert (second.asked, bench.stats.fallbacks) == ([], 0)


async def test_all_targets_together_have_one_hold(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    """A client that has heard nothing for ten seconds is told something, whoever was asked meanwhile."""
    targets(bench, FakeProvider([8, [BUSY]]), FakeProvider([5, *saying("hi")]))
    began = trio.current_time()
    exchange = await post(bench, stream=True)

    assert exchange.sends[0][0] - began == pytest.approx(10)
    assert exchange.headers[b"x-proxy-model"] == b"echo/1"
    assert grammar.check(bytes(exchange.sent)).text == "hi"


async def test_what_fails_after_the_hold_is_told_and_remembered(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    """The headers have said who answers; the client's next try goes elsewhere at once."""
    second = FakeProvider(saying("hi"))
    targets(bench, FakeProvider([12, [BUSY]]), second)
    late = grammar.check(bytes((await post(bench, stream=True)).sent))
    assert (late.complete, second.asked) == (False, [])

    assert (await post(bench)).headers[b"x-proxy-fallback"] == b"echo/1"


async def test_a_first_word_ends_the_probe(bench: Bench, autojump_clock: trio.testing.MockClock) -> None:
    """Half open until then: a stream may go on for minutes."""
    first = FakeProvider([[BUSY]], [[Text("a")], 100.0, [Finish()]])
    targets(bench, first, FakeProvider(saying("b")))
    await post(bench)
    states = bench.handler._rota.targets
    await trio.sleep(5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(post, bench)
        await trio.sleep(0.1)
        assert (states[0].cause, states[0].probing) == (None, False)
        nursery.cancel_scope.cancel()


async def test_a_client_that_leaves_is_no_verdict(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    targets(bench, FakeProvider([[BUSY]], [1000.0]), FakeProvider(saying("b")))
    await post(bench)
    await trio.sleep(5)
    state = bench.handler._rota.targets[0]
    with trio.move_on_after(1):
        await post(bench)

    assert (state.failures, state.probing, state.is_open(trio.current_time())) == (1, False, True)


async def test_the_last_word_names_those_before_it(bench: Bench) -> None:
    """Who asked for one model wonders at another provider's error. What is the request's own fault is plain."""
    empty = Failure(Kind.NO_CREDIT, "no credit")
    targets(bench, FakeProvider([[BUSY]]), FakeProvider([[empty]]))
    said = error(await post(bench))
    alone = error(await post(bench))
    targets(bench, FakeProvider([[BUSY]]), FakeProvider([[Failure(Kind.INVALID, "too odd")]]))

    assert said == (402, "billing_error", "no credit (asked in place of: echo/demo: server error)")
    assert alone == (529, "overloaded_error", "busy (left alone for now: echo/1: no credit)")
    assert error(await post(bench)) == (400, "invalid_request_error", "too odd")


async def test_when_all_say_when_they_will_be_well_nobody_is_asked(bench: Bench) -> None:
    limited = Failure(Kind.RATE_LIMITED, "slow down", retry_after_s=50.0)
    asked = [FakeProvider([[limited]]), FakeProvider([[limited]])]
    targets(bench, *asked)
    await post(bench)
    exchange = await post(bench)

    both = "(all are left alone for now: echo/demo: rate limit, echo/1: rate limit)"
    assert error(exchange) == (429, "rate_limit_error", f"slow down {both}")
    assert 45 <= int(exchange.headers[b"retry-after"]) <= 50
    assert [len(one.asked) for one in asked] == [1, 1]


async def test_health_shows_the_targets(bench: Bench) -> None:
    targets(bench, FakeProvider([[BUSY]]), FakeProvider(saying("b")))
    await post(bench)
    exchange = FakeExchange(request("GET", "/health"))
    await bench.handler(exchange)
    body = json.loads(exchange.sent)
    [first, second] = body["targets"]

    assert (first["model_id"], first["state"], first["cause"]) == ("echo/demo", "cooling", "server error")
    assert second == {"model_id": "echo/1", "state": "ok", "serves": True, "ok": True}
    assert (exchange.status, body["healthy"], body["status"]) == (200, True, "degraded")
    assert (body["served_by"], body["warnings"]) == (
        "echo/1",
        ["echo server error; echo/1 serves in its place"],
    )


async def test_health_fails_only_where_no_target_works(bench: Bench) -> None:
    """And what the first one's trouble is stands where it stands for a proxy with one."""
    down = Condition(ok=False, detail="gone; start it with `it serve`")
    targets(bench, FakeProvider(saying("a"), well=down), FakeProvider(saying("b"), well=down))
    exchange = get("/health")
    await bench.handler(exchange)
    body = json.loads(exchange.sent)

    assert (exchange.status, body["healthy"], body["status"]) == (503, False, "degraded")
    assert body["upstream"]["detail"] == "gone; start it with `it serve`"
    assert [one["serves"] for one in body["targets"]] == [False, False]
    assert body["warnings"] == ["echo/1: gone; start it with `it serve`"]
    assert "served_by" not in body


# --- limits ---------------------------------------------------------------------------------------


async def test_who_waits_in_line_is_pinged_and_then_answered_in_the_same_stream(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    """The start is said at the hold, before anybody was asked; it is not said again."""
    targets(bench, FakeProvider([25, *saying("one")], saying("two")), quota=Quota(max_concurrent=1))
    exchange = FakeExchange(body=asking("later", stream=True))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(post, bench, "first")
        await trio.testing.wait_all_tasks_blocked(1)
        began = trio.current_time()
        nursery.start_soon(bench.handler, exchange)
    said = grammar.check(bytes(exchange.sent))

    assert said.names[:3] == ["message_start", "ping", "ping"]
    assert (said.text, said.complete) == ("two", True)
    assert exchange.sends[0][0] - began == pytest.approx(10)


async def test_a_failure_after_the_wait_is_an_event_of_the_same_stream(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    """And no other target is asked: the headers have named one."""
    second = FakeProvider(saying("hi"))
    targets(bench, FakeProvider([15, *saying("one")], [[BUSY]]), second, quota=Quota(max_concurrent=1))
    exchange = FakeExchange(body=asking("later", stream=True))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(post, bench, "first")
        await trio.testing.wait_all_tasks_blocked(1)
        nursery.start_soon(bench.handler, exchange)
    said = grammar.check(bytes(exchange.sent))

    assert said.names == ["message_start", "ping", "error"]
    assert second.asked == []


async def test_what_has_begun_in_line_stays_with_whom_it_has_named(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    """Also when that one has begun to cool meanwhile."""
    first = FakeProvider([15, [BUSY]], saying("mine"))
    targets(bench, first, FakeProvider(saying("other")), quota=Quota(max_concurrent=1))
    exchange = FakeExchange(body=asking("later", stream=True))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(post, bench, "first")
        await trio.testing.wait_all_tasks_blocked(1)
        nursery.start_soon(bench.handler, exchange)

    assert grammar.check(bytes(exchange.sent)).text == "mine"
    assert exchange.headers[b"x-proxy-model"] == b"echo/demo"
    assert b"x-proxy-fallback" not in exchange.headers
    assert bench.stats.fallbacks == 1


async def test_the_end_of_the_wait_is_told_in_the_way_that_is_possible(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    quota = Quota(max_concurrent=1, queue_timeout_s=12.0)
    targets(bench, FakeProvider([60, *saying("one")]), quota=quota)
    streamed = FakeExchange(body=asking("later", stream=True))
    plain = FakeExchange(body=asking("later"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(post, bench, "first")
        await trio.testing.wait_all_tasks_blocked(1)
        nursery.start_soon(bench.handler, streamed)
        nursery.start_soon(bench.handler, plain)

    assert grammar.check(bytes(streamed.sent)).names == ["message_start", "ping", "error"]
    assert error(plain)[:2] == (429, "rate_limit_error")
    assert plain.headers[b"x-limit-type"] == b"concurrency"
    assert bench.handler._gates.shared.enter_now()


# --- tokens ---------------------------------------------------------------------------------------

CI = AccessToken("ci", hashlib.sha256(b"mp-ci").hexdigest(), max_concurrent=1)


def bringing(token: bytes, content: str = "hello", **fields: Any) -> FakeExchange:
    head = request(headers=(*JSON_HEADERS, (b"x-proxy-token", token)))
    return FakeExchange(head, asking(content, **fields))


@pytest.mark.parametrize(
    "path", ["/v1/messages", "/v1/messages/count_tokens", "/v1/models", "/v1/models/demo"]
)
async def test_what_costs_or_tells_something_needs_a_token_where_one_is_demanded(
    bench: Bench, path: str
) -> None:
    targets(bench, FakeProvider(saying("no")), quota=Quota(access=Access(required=True, tokens=[CI])))
    head = request("GET" if "models" in path else "POST", path)
    exchange = FakeExchange(head, asking())
    await bench.handler(exchange)

    assert error(exchange)[:2] == (401, "authentication_error")
    assert exchange.headers[b"x-should-retry"] == b"false"


@pytest.mark.parametrize("path", ["/health", "/livez", "/", "/api/hello"])
async def test_watchers_need_no_token(bench: Bench, path: str) -> None:
    targets(bench, FakeProvider(), quota=Quota(access=Access(required=True)))
    exchange = get(path)
    await bench.handler(exchange)

    assert exchange.status == 200


async def test_a_caller_waits_for_its_own_place_and_is_named_in_the_log(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    """Its second stream is kept alive meanwhile; somebody else's request goes on."""
    quota = Quota(access=Access(tokens=[CI]))
    targets(bench, FakeProvider([15, *saying("one")], saying("other"), saying("two")), quota=quota)
    first, second, other = bringing(b"mp-ci"), bringing(b"mp-ci", stream=True), FakeExchange(body=asking())
    async with trio.open_nursery() as nursery:
        for exchange in (first, second, other):
            nursery.start_soon(bench.handler, exchange)
            await trio.testing.wait_all_tasks_blocked(1)
    said = grammar.check(bytes(second.sent))

    assert (b'"other"' in other.sent, b'"one"' in first.sent) == (True, True)
    assert (said.names[:2], said.text) == (["message_start", "ping"], "two")
    tokens = [fields.get("token") for _, event, fields in bench.logged if event == "request"]
    assert tokens == [None, "ci", "ci"]
    [ci, shared] = bench.handler._gates.before("ci")
    assert (ci._inside, shared._inside) == (0, 0)


async def test_who_may_ask_changes_while_it_serves(bench: Bench) -> None:
    targets(bench, FakeProvider(saying("yes")))
    assert error(await _served(bench, bringing(b"mp-ci")))[0] == 401
    bench.handler.adjust(Quota(access=Access(required=True, tokens=[CI])))

    assert (await _served(bench, bringing(b"mp-ci"))).status == 200
    assert error(await post(bench))[0] == 401


async def _served(bench: Bench, exchange: FakeExchange) -> FakeExchange:
    await bench.handler(exchange)
    return exchange


async def test_a_drain_finds_those_in_line_as_well(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    targets(bench, FakeProvider([60, *saying("one")]), quota=Quota(max_concurrent=1))
    waiting = FakeExchange(body=asking("later"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(post, bench, "first")
        await trio.testing.wait_all_tasks_blocked(1)
        nursery.start_soon(bench.handler, waiting)
        await trio.testing.wait_all_tasks_blocked(1)
        bench.handler.cut()

    assert error(waiting)[:2] == (529, "overloaded_error")
    assert bench.handler._gates.shared.shown() == {"max_concurrent": 1, "inside": 0, "waiting": 0, "line": []}


async def test_what_asks_nobody_waits_for_nobody(bench: Bench) -> None:
    targets(bench, FakeProvider(saying("no")), quota=Quota(max_concurrent=1, rpm=1))
    assert bench.handler._gates.shared.enter_now()
    bench.handler._gates.shared.count()

    assert (await post(bench, max_tokens=0)).status == 200
    counted = FakeExchange(
        request(target="/v1/messages/count_tokens"),
        body=codec.dumps({"model": "x", "messages": [{"role": "user", "content": "hi"}]}),
    )
    await bench.handler(counted)
    assert counted.status == 200


async def test_a_request_has_its_time_and_no_more(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    """Before the first byte a status, afterwards an event; waiting counts."""
    slow = [60, *saying("late")]
    far = FakeProvider(slow, slow, [[Text("half")], *slow])
    targets(bench, far, quota=Quota(request_timeout_s=15.0))
    began = trio.current_time()
    plain = await post(bench)

    assert error(plain) == (504, "timeout_error", "the request took longer than 15s (request_timeout)")
    assert trio.current_time() - began == pytest.approx(15)
    pinged = grammar.check(bytes((await post(bench, stream=True)).sent))
    assert pinged.names == ["message_start", "ping", "error"]
    begun = grammar.check(bytes((await post(bench, stream=True)).sent))
    assert (begun.text, begun.complete) == ("half", False)
    assert bench.stats.in_flight == 0


async def test_what_is_whole_is_not_late(bench: Bench, autojump_clock: trio.testing.MockClock) -> None:
    """A client that takes its time to read has it."""
    targets(bench, FakeProvider(saying("whole")), quota=Quota(request_timeout_s=1.0))
    exchange = FakeExchange(body=asking(), stall=trio.Event())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.handler, exchange)
        await trio.sleep(100)
        assert exchange.stall is not None
        exchange.stall.set()

    assert (exchange.status, exchange.finished) == (200, True)


async def test_a_prompt_over_the_limit_is_refused_in_the_words_that_make_clients_compact(
    bench: Bench,
) -> None:
    far = FakeProvider(saying("no"))
    targets(bench, far, quota=Quota(max_context=100))

    status, type_, message = error(await post(bench, "word " * 500))
    assert (status, type_) == (400, "invalid_request_error")
    assert re.fullmatch(r"prompt is too long: \d{3} tokens > 100 maximum", message)
    assert far.asked == []
    assert bench.line["model"] == "claude-x"


async def test_what_the_model_is_not_shown_does_not_count_against_the_limit(bench: Bench) -> None:
    far = FakeProvider(saying("yes"))
    far.weight = 99
    targets(bench, far, quota=Quota(max_context=100))
    counted = FakeExchange(request("POST", "/v1/messages/count_tokens"), body=asking("word " * 500))
    await bench.handler(counted)

    assert (await post(bench, "word " * 500)).status == 200
    assert json.loads(counted.sent) == {"input_tokens": 99}


async def test_the_rate_is_counted_once_per_request_that_can_be_read(bench: Bench) -> None:
    targets(bench, FakeProvider(saying("a")), quota=Quota(rpm=1))
    await bench.handler(FakeExchange(body=b"not JSON"))
    assert (await post(bench)).status == 200
    exchange = await post(bench)

    assert error(exchange)[:2] == (429, "rate_limit_error")
    assert exchange.headers[b"x-limit-type"] == b"rpm"
    bench.handler.adjust(Quota())
    assert (await post(bench)).status == 200


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happens_no_place_and_no_probe_is_lost(
    bench: Bench, autojump_clock: trio.testing.MockClock, seed: int
) -> None:
    """Clients that come and leave when they like, providers that fail or hang, limits that change."""
    dice = random.Random(seed)
    failures = [Failure(kind, "no") for kind in (Kind.OVERLOADED, Kind.INVALID, Kind.UNREACHABLE)]
    failures.append(Failure(Kind.RATE_LIMITED, "slow", retry_after_s=20.0))

    def script() -> list[Sequence[Item] | float]:
        ends: list[list[Sequence[Item] | float]] = [
            saying("hi"),
            [[Text("half")], dice.random() * 30, [dice.choice(failures)]],
            [[dice.choice(failures)]],
            [[Text("cut")]],
            [1000.0],
        ]
        return [dice.random() * 20, *dice.choice(ends)]

    async def client() -> None:
        await trio.sleep(dice.random() * 300)
        exchange = FakeExchange(body=asking(stream=dice.random() < 0.5))
        with trio.move_on_after(dice.choice([0, 5, 30, 90])):
            await bench.handler(exchange)

    far = [FakeProvider(*(script() for _ in range(300))) for _ in range(3)]
    quota = Quota(max_concurrent=3, queue_size=30, queue_timeout_s=40.0, request_timeout_s=60.0)
    targets(bench, *far, quota=quota)
    async with trio.open_nursery() as nursery:
        for _ in range(200):
            nursery.start_soon(client)
        for most in (1, 5, 2, 3):
            await trio.sleep(60)
            bench.handler.adjust(attrs.evolve(quota, max_concurrent=most))

    assert bench.handler._gates.shared.shown() == {"max_concurrent": 3, "inside": 0, "waiting": 0, "line": []}
    assert [target.probing for target in bench.handler._rota.targets] == [False] * 3
    assert (bench.stats.in_flight, bench.stats.begun) == (0, {})
    assert all(source.closed for provider in far for source in provider.sources)
    assert bench.stats.fallbacks > 0
