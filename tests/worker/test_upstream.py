"""A provider asked over HTTP: what it answers, how it fails, how long it may take. Against a real server."""

from __future__ import annotations

import gc
import gzip
import itertools
import re
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from fakes import dialect
from fakes.provider import FakeProvider
from fakes.upstream import Certificate, Reply, Upstream

from modelproxy.worker import discovery, upstream
from modelproxy.worker.contract import Options, Timeouts, WorkerSpec
from modelproxy.worker.dial import Dialer
from modelproxy.worker.dialects.blocks import Sight
from modelproxy.worker.failures import Failure, Kind
from modelproxy.worker.materials import Materials
from modelproxy.worker.pool import Pool
from modelproxy.worker.provider import Condition, Provider, Sizes, provider
from modelproxy.worker.wire import asks, codec
from modelproxy.worker.wire.asks import Ask
from modelproxy.worker.wire.items import Finish, Item, Text, Usage

SPEC = WorkerSpec(name="demo", model_id="far/m", provider="far", kind="openai", model="m", port=3457)
A, B, END = b'"a"\n', b'"b"\n', b'{"finish":"end_turn"}\n'
COUNTS = b'{"counts":3}\n'
WHOLE = [Text("a"), Text("b"), Finish()]


class Silent:
    """A survey that asks nothing."""

    async def __call__(self, ask: discovery.Ask) -> discovery.Seen:
        return discovery.Seen(ok=True)


def real(
    far: Upstream,
    *,
    times: Timeouts | None = None,
    retries: int = 0,
    path: str = "",
    pool: Pool | None = None,
    log: upstream.Log = lambda *_, **__: None,
) -> upstream.Upstream:
    """The real thing, with a dialect that a child could speak."""
    spec = attrs.evolve(
        SPEC,
        base_url=far.url + path,
        timeouts=times or Timeouts(),
        options=Options(retries=retries),
    )
    here = upstream.place(spec, title="Far", usual="", hint="; start it with `far serve`")
    return upstream.Upstream(
        here,
        dialect.Tiny(),
        Silent(),
        plain_id,
        log,
        pool=pool or Pool(),
        again=dialect.again,
        jitter=lambda: 0.5,
    )


def plain_id(prefix: str) -> str:
    return prefix


def asking(model: str = "claude-x") -> Ask:
    return asks.ask(
        codec.dumps({"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "a"}]})
    )


async def everything(one: Provider, model: str = "claude-x") -> list[Item]:
    source = one.answer(asking(model))
    found: list[Item] = []
    while (items := await source.receive()) is not None:
        assert items
        found += items
    assert await source.receive() is None
    await source.aclose()
    return found


async def failing(one: Provider) -> tuple[Kind, str]:
    """How an answer ends that should fail."""
    *_, last = await everything(one)
    assert isinstance(last, Failure)
    return last.kind, re.sub(r"127\.0\.0\.1:\d+", "HOST", last.message)


# --- the seam, and its fake -----------------------------------------------------------------------


@asynccontextmanager
async def over_http(*steps: list[Item] | float) -> AsyncIterator[Provider]:
    """The real provider, and a server that plays the same script."""
    pieces, pause = [], 0.0
    for step in steps:
        if isinstance(step, float):
            pause = step
        else:
            pieces.append(b"".join(_line(item) for item in step))
    with Upstream() as far:
        far.on("/chat", Reply(body=tuple(pieces) or b"", framing="chunked", pause=pause))
        yield real(far)


@asynccontextmanager
async def in_memory(*steps: list[Item] | float) -> AsyncIterator[Provider]:
    yield FakeProvider(steps)


def _line(item: Item) -> bytes:
    said = {Text: "text", Finish: "stop_reason", Failure: "message"}[type(item)]
    value = getattr(item, said)
    key = {Text: None, Finish: "finish", Failure: "error"}[type(item)]
    return codec.dumps(value if key is None else {key: value}) + b"\n"


Make = Callable[..., Any]
both = pytest.mark.parametrize("make", [over_http, in_memory])


@both
async def test_items_arrive_in_batches_and_end(make: Make) -> None:
    async with make([Text("a"), Text("b")], 0.05, [Finish()]) as one:
        source = one.answer(asking())
        with trio.testing.assert_checkpoints():
            assert await source.receive() == [Text("a"), Text("b")]
        assert await source.receive() == [Finish()]
        with trio.testing.assert_checkpoints():
            assert await source.receive() is None
        assert await source.receive() is None
        await source.aclose()


@both
async def test_nothing_at_all_is_an_end_without_a_finish(make: Make) -> None:
    async with make() as one:
        assert await everything(one) == []


@both
async def test_nothing_comes_behind_a_failure(make: Make) -> None:
    boom = Failure(Kind.PROVIDER, "boom")
    async with make([Text("a"), boom], 0.01, [Text("b"), Finish()]) as one:
        assert await everything(one) == [Text("a"), boom]


async def test_nothing_comes_behind_a_failure_of_the_same_piece(far: Upstream) -> None:
    far.on("/chat", Reply(body=A + b'{"error":"boom"}\n' + B + END))

    assert await everything(real(far)) == [Text("a"), Failure(Kind.PROVIDER, "boom")]


@both
async def test_a_source_that_was_let_go_of_has_nothing_more(make: Make) -> None:
    async with make([Text("a")], 0.2, [Finish()]) as one:
        source = one.answer(asking())
        await source.receive()
        await source.aclose()
        await source.aclose()
        assert await source.receive() is None


@both
async def test_receiving_can_be_cancelled(make: Make) -> None:
    async with make([Text("a")], 30.0, [Finish()]) as one:
        source = one.answer(asking())
        await source.receive()
        with trio.move_on_after(0.05) as scope:
            await source.receive()
        await source.aclose()

    assert scope.cancelled_caught


@both
async def test_the_condition_is_told(make: Make) -> None:
    async with make([Finish()]) as one:
        assert (await one.condition()).ok


@both
async def test_what_else_is_told_beside_an_answer(make: Make) -> None:
    async with make([Finish()]) as one:
        source = one.answer(asking())
        with trio.move_on_after(0.05) as scope:  # nothing has happened
            await one.doubted()

        assert (source.retries, source.remarks, source.prompt_tokens) == (0, [], None)
        assert one.sizes() == Sizes()
        assert await one.weigh(asking()) == asking().input_tokens
        assert scope.cancelled_caught


# --- requests -------------------------------------------------------------------------------------


async def test_what_is_sent(far: Upstream) -> None:
    far.on("/base/v1/chat", Reply(body=A + B + END))
    assert await everything(real(far, path="/base/v1/")) == WHOLE

    [seen] = far.requests
    assert (seen.method, seen.target, seen.json()) == ("POST", "/base/v1/chat", {"model": "m"})
    assert seen.headers["x-tiny"] == "1"
    assert seen.headers["accept-encoding"] == "identity"
    assert seen.headers["user-agent"].startswith("modelproxy/")
    assert "authorization" not in seen.headers


async def test_credentials_of_the_base_url_are_sent_and_never_said(far: Upstream) -> None:
    far.on("*", Reply(body=END))
    spec = attrs.evolve(SPEC, base_url=f"http://me:secret@127.0.0.1:{far.port}")
    here = upstream.place(spec, title="Far", usual="")
    one = upstream.Upstream(here, dialect.Tiny(), Silent(), plain_id, lambda *_, **__: None, pool=Pool())
    await everything(one)
    assert far.requests[0].headers["authorization"] == "Basic bWU6c2VjcmV0"

    far.stop()
    _, words = await failing(one)
    assert "secret" not in words


async def test_20_requests_one_after_the_other_share_a_connection(far: Upstream) -> None:
    """S29."""
    far.on("/chat", Reply(body=(A, B, END), framing="chunked"))
    one = real(far)
    for _ in range(20):
        assert await everything(one) == WHOLE

    assert (far.connections, len(far.requests)) == (1, 20)


async def test_nothing_is_connected_before_somebody_asks(far: Upstream) -> None:
    """S28."""
    one = real(far)
    one.answer(asking())
    await trio.sleep(0.05)

    assert far.connections == 0


async def test_notes_of_the_dialect_are_logged(far: Upstream) -> None:
    far.on("/chat", Reply(body=END))
    logged: list[tuple[str, str, str]] = []
    await everything(real(far, log=lambda level, event, notes: logged.append((level, event, notes))), "noted")

    assert logged == [("info", "translated", "dropped a hat")]


async def test_what_the_dialect_refuses_is_not_sent(far: Upstream) -> None:
    assert await everything(real(far), "refused") == [Failure(Kind.INVALID, "not with me")]
    deep = Failure(Kind.INVALID, "the body is JSON nested too deeply")
    assert await everything(real(far), "deep") == [deep]
    assert far.requests == []


async def test_tls(tmp_path: Path) -> None:
    certificate = Certificate.make(tmp_path)
    with Upstream(tls=certificate) as far:
        far.on("/chat", Reply(body=(A, B, END), framing="chunked"))
        trusting = Pool(Dialer(make_tls=certificate.client))

        assert await everything(real(far, pool=trusting)) == WHOLE
        assert await failing(real(far)) == (
            Kind.UNREACHABLE,
            "Far is not reachable at https://HOST: TLS: self-signed certificate; start it with `far serve`",
        )


# --- what goes wrong ------------------------------------------------------------------------------

BROKEN: list[tuple[Reply, Kind, str]] = [
    (
        Reply(raw=b"garbage\r\n\r\n"),
        Kind.PROVIDER,
        "Far at http://HOST does not speak HTTP: its answer is mal.*",
    ),
    (
        Reply(raw=b""),
        Kind.OVERLOADED,
        "Far ended the connection before it answered: it closed the connection",
    ),
    (
        Reply(raw=b"", reset=True),
        Kind.OVERLOADED,
        "Far ended the connection before it answered: connection reset.*",
    ),
    (Reply(body=A + B, cut_after=4), Kind.CUT, "Far broke off in the middle of its answer: it closed.*"),
    (
        Reply(body=A + B, cut_after=4, reset=True),
        Kind.CUT,
        "Far broke off in the middle of its answer: conn.*",
    ),
    (Reply(raw=b"HTTP/1.1 200 OK\r\nx"), Kind.CUT, "Far broke off in the middle of its answer: it closed.*"),
    (Reply(500, b"boom"), Kind.PROVIDER, "boom"),
    (Reply(503, b"busy"), Kind.OVERLOADED, "busy"),
    (Reply(500, b"boom!", cut_after=4), Kind.PROVIDER, "boom"),
    (Reply(500, b"x" * 1_000_000), Kind.PROVIDER, "x{262144}"),
    (
        Reply(302, headers=(("location", "https://a/b?key=c"),)),
        Kind.PROVIDER,
        "Far redirects to https://a/b; set .*",
    ),
    (Reply(302, headers=(("location", "http://me:pw@a/"),)), Kind.PROVIDER, "Far redirects; set base_url .*"),
    (Reply(body=b"\x1f\x8b", headers=(("content-encoding", "gzip"),)), Kind.PROVIDER, ".*compressed.*gzip.*"),
    (Reply(body=b'{"error":"boom"}\n'), Kind.PROVIDER, "boom"),
]


@pytest.mark.parametrize(("reply", "kind", "words"), BROKEN)
async def test_every_kind_of_trouble_has_its_words(
    far: Upstream, reply: Reply, kind: Kind, words: str
) -> None:
    """S41, S43; and the provider is well again at once."""
    far.on("/chat", reply, Reply(body=A + B + END))
    one = real(far)
    found, said = await failing(one)

    assert (found, bool(re.fullmatch(words, said))) == (kind, True), said
    assert await everything(one) == WHOLE


async def test_nobody_listens(far: Upstream) -> None:
    """S70: with the URL tried and the command that helps; and it recovers by itself."""
    far.stop()
    one = real(far)
    expected = "Far is not reachable at http://HOST: connection refused; start it with `far serve`"
    assert await failing(one) == (Kind.UNREACHABLE, expected)

    far.on("/chat", Reply(body=A + B + END))
    far.start()
    assert await everything(one) == WHOLE


@pytest.mark.parametrize("kind", ["ollama", "openrouter"])
async def test_s70_nobody_there_is_said_without_waiting(
    far: Upstream, kind: str, mock_clock: trio.testing.MockClock
) -> None:
    """The clock stands still: whatever slept or had a limit would do so for ever. The look at the provider, too."""
    far.stop()
    spec = attrs.evolve(SPEC, provider=kind, kind=kind, base_url=far.url)
    make = upstream.ollama if kind == "ollama" else upstream.openai
    over = threading.Event()

    async def watch() -> None:
        if not await trio.to_thread.run_sync(over.wait, 20.0, abandon_on_cancel=True):
            raise AssertionError("something waits")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        assert (await failing(make(spec, plain_id, lambda *_, **__: None)))[0] is Kind.UNREACHABLE
        over.set()
        nursery.cancel_scope.cancel()


async def test_an_answer_that_is_whole_needs_no_tidy_end(far: Upstream) -> None:
    """With the finish here, only the bill is missing."""
    far.on("/chat", Reply(body=(A, B, END, b" " * 9), framing="chunked", pause=0.02, cut_after=60))

    assert await everything(real(far)) == WHOLE


async def test_an_answer_that_is_whole_is_not_waited_for(
    far: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "BILL_S", 0.1)
    far.on("/chat", Reply(body=A + B + END + b" " * 99, hang_after=len(A + B + END)))
    with trio.fail_after(2):
        assert await everything(real(far)) == WHOLE
    await trio.to_thread.run_sync(far.wait_for_close)


@pytest.mark.parametrize("said", [A, b""])
async def test_an_end_that_waits_for_more_does_not_wait_long(
    far: Upstream, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    """However often the provider shows that it is alive."""
    monkeypatch.setattr(upstream, "BILL_S", 0.3)
    body = (said + b'{"ending":"end_turn"}\n', *(b":\n",) * 400)
    far.on("/chat", Reply(body=body, framing="chunked", pause=0.05))
    with trio.fail_after(10):
        assert await everything(real(far)) == [Text("a"), Finish()][0 if said else 1 :]
    await trio.to_thread.run_sync(far.wait_for_close)


async def test_an_end_that_was_none_is_not_hurried(
    far: Upstream, mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P43: what comes behind it shows nothing yet, and half a call could be executed."""
    fed = [trio.Event() for _ in range(3)]
    news = iter(fed)
    feed = dialect.Decoder.feed

    def heard(decoder: dialect.Decoder, data: bytes) -> list[Item]:
        next(news).set()
        return feed(decoder, data)

    monkeypatch.setattr(dialect.Decoder, "feed", heard)
    gate = threading.Semaphore(0)
    body = (b'{"ending":"end_turn"}\n', b'{"more":1}\n', A + END)
    far.on("/chat", Reply(body=body, framing="chunked", gate=gate))
    found: list[Item] = []

    async def ask() -> None:
        found.extend(await everything(real(far)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await fed[0].wait()
        gate.release()
        await fed[1].wait()
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(upstream.BILL_S + 1)
        await trio.testing.wait_all_tasks_blocked()
        gate.release(2)

    assert found == [Text("a"), Finish()]


async def test_an_end_behind_counts_alone_is_not_waited_for(
    far: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that came with them is kept back until then. What it cost is not forgotten."""
    monkeypatch.setattr(upstream, "BILL_S", 0.1)
    body = COUNTS + b'{"ending":"tool_use"}\n'
    far.on("/chat", Reply(body=body + b" " * 99, hang_after=len(body)))
    with trio.fail_after(10):
        assert await everything(real(far)) == [Usage(3), Finish("tool_use")]


async def test_what_was_counted_is_known_when_nothing_else_comes(far: Upstream) -> None:
    far.on("/chat", Reply(body=COUNTS + b" " * 99, hang_after=len(COUNTS)))
    counted, failure = await everything(real(far, times=Timeouts(first_byte_s=0.2, idle_s=0.1)))

    assert counted == Usage(3)
    assert isinstance(failure, Failure)
    assert failure.kind is Kind.TIMEOUT


async def test_an_end_that_waits_for_more_needs_no_tidy_end(far: Upstream) -> None:
    body = (A + b'{"ending":"end_turn"}\n', b" " * 99)
    far.on("/chat", Reply(body=body, framing="chunked", pause=0.02, cut_after=60))

    assert await everything(real(far)) == [Text("a"), Finish()]


async def test_a_long_answer_in_one_document_needs_no_tidy_end(far: Upstream) -> None:
    """Its items come by the handful, also when the connection breaks behind it."""
    text = "word " * 200_000
    document = codec.dumps({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]})
    far.on(
        "/chat/completions", Reply(body=(document, b" " * 99), framing="chunked", cut_after=len(document) + 9)
    )
    spec = attrs.evolve(SPEC, base_url=far.url)
    found = await everything(upstream.openai(spec, plain_id, lambda *_, **__: None))

    assert "".join(item.text for item in found if isinstance(item, Text)) == text
    assert found[-1] == Finish()


async def test_nothing_is_waited_for_behind_the_last_word(
    far: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only long enough for the connection to be of use again."""
    monkeypatch.setattr(upstream, "BILL_S", 1000.0)
    body = A + b'{"over":"end_turn"}\n'
    far.on("/chat", Reply(body=body + b" " * 99, hang_after=len(body)))
    with trio.fail_after(10):
        assert await everything(real(far)) == [Text("a"), Finish()]


async def test_an_answer_without_end_is_ended(far: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "MOST_ANSWER", 1_000_000)
    far.on("/chat", Reply(body=b":" * 2_000_000))

    assert await failing(real(far)) == (Kind.PROVIDER, "Far does not stop answering")


async def test_an_answer_that_never_stops_talking_is_ended(
    far: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain client's answer is collected here, so text that goes on for ever is no better than silence."""
    monkeypatch.setattr(upstream, "MOST_ANSWER", 1_000_000)
    far.on("/chat", Reply(body=A * 500_000 + END))

    assert (await everything(real(far)))[-1] == Failure(Kind.PROVIDER, "Far does not stop answering")


# --- time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("times", "reply", "words"),
    [
        (Timeouts(first_byte_s=0.2), Reply(hang=True), "sent nothing within 0.2s (first_byte_timeout)"),
        (
            Timeouts(first_byte_s=0.2, idle_s=0.1),
            Reply(body=(b": wait\n\n",) * 99, framing="chunked", pause=0.02),
            "sent nothing within 0.2s (first_byte_timeout)",
        ),
        (
            Timeouts(idle_s=0.2),
            Reply(body=A + B, hang_after=4),
            "sent nothing more within 0.2s (idle_timeout)",
        ),
        (
            Timeouts(idle_s=0.2, total_s=0.4),
            Reply(body=(A,) * 99, framing="chunked", pause=0.05),
            "did not finish within 0.4s (total_timeout)",
        ),
        (Timeouts(total_s=0.2), Reply(hang=True), "did not finish within 0.2s (total_timeout)"),
    ],
)
async def test_each_limit_ends_the_answer_and_the_connection(
    far: Upstream, times: Timeouts, reply: Reply, words: str
) -> None:
    """S69."""
    far.on("/chat", reply)
    assert await failing(real(far, times=times)) == (Kind.TIMEOUT, f"Far {words}")
    await trio.to_thread.run_sync(far.wait_for_close)


async def test_no_connection_in_time() -> None:
    listener = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener[0]:
        port = listener[0].socket.getsockname()[1]
        spec = attrs.evolve(
            SPEC, base_url=f"https://127.0.0.1:{port}/v1", timeouts=Timeouts(connect_s=0.2, first_byte_s=9)
        )
        here = upstream.place(spec, title="Far", usual="")
        one = upstream.Upstream(here, dialect.Tiny(), Silent(), plain_id, lambda *_, **__: None, pool=Pool())

        expected = "Far accepted no connection at https://HOST/v1 within 0.2s (connect_timeout)"
        assert await failing(one) == (Kind.TIMEOUT, expected)


async def test_a_call_that_is_long_in_the_making_is_no_silence(far: Upstream) -> None:
    """Its pieces show nothing until it is whole; while they come, the model is at work."""
    pieces = (b'"', *(b"x" * 9,) * 12, b'"\n', END)
    far.on("/chat", Reply(body=pieces, framing="chunked", pause=0.05))
    times = Timeouts(first_byte_s=0.3, idle_s=0.3)

    assert await everything(real(far, times=times)) == [Text("x" * 108), Finish()]


async def test_a_slow_client_is_not_the_providers_fault(far: Upstream) -> None:
    far.on("/chat", Reply(body=(A, B, END), framing="chunked", pause=0.01))
    source = real(far, times=Timeouts(idle_s=0.1)).answer(asking())
    found = []
    while (items := await source.receive()) is not None:
        found += items
        await trio.sleep(0.15)

    assert found == WHOLE


def test_limits_depend_on_where_the_provider_is() -> None:
    local, away = (upstream.Limits.of(SPEC, local=here) for here in (True, False))

    assert attrs.astuple(local) == (5, 300, 300, float("inf"))
    assert attrs.astuple(away) == (10, 300, 120, float("inf"))


class Slow(Materials):
    """Gets something, and takes its time."""

    def __init__(self, clock: trio.testing.MockClock, **changes: str) -> None:
        super().__init__(Options(), lambda *_, **__: None)
        self._clock = clock
        self._changes = changes

    async def fill(self, ask: Ask, sight: Sight) -> Ask:
        await trio.lowlevel.checkpoint()
        self._clock.jump(1000)
        return attrs.evolve(ask, **self._changes)  # type: ignore[arg-type]  # of texts only


async def test_what_is_made_ready_is_what_is_asked(far: Upstream, mock_clock: trio.testing.MockClock) -> None:
    one = real(far)
    one.materials = Slow(mock_clock, model="refused")

    assert await failing(one) == (Kind.INVALID, "not with me")


async def test_the_time_for_it_is_not_the_providers(
    far: Upstream, mock_clock: trio.testing.MockClock
) -> None:
    mock_clock.rate = 1.0
    far.on("/chat", Reply(body=A + B + END))
    one = real(far, times=Timeouts(connect_s=100, first_byte_s=100))
    one.materials = Slow(mock_clock)

    assert await everything(one) == WHOLE


# --- repeating ------------------------------------------------------------------------------------


def busy(seconds: float | None = 0.0, status: int = 503) -> Reply:
    headers = () if seconds is None else (("retry-after", f"{seconds:g}"),)
    return Reply(status, b"busy", headers)


def counted(*lines: bytes) -> Reply:
    """Counts first, by themselves."""
    return Reply(body=(COUNTS, *lines), framing="chunked", pause=0.03)


@pytest.mark.parametrize(
    ("retries", "replies", "requests", "good"),
    [
        (0, [busy(), Reply(body=END)], 1, False),
        (1, [busy(), Reply(body=END)], 2, True),
        (1, [busy(status=429), Reply(body=END)], 2, True),
        (1, [busy(), busy(), Reply(body=END)], 2, False),
        (2, [busy(), busy(), Reply(body=END)], 3, True),
        (9, [busy(), busy(), busy(), Reply(body=END)], 3, False),
        (1, [busy(None), Reply(body=END)], 1, False),
        (1, [busy(11), Reply(body=END)], 1, False),
        (1, [Reply(500, b"boom", (("retry-after", "0"),)), Reply(body=END)], 1, False),
        (1, [Reply(raw=b""), Reply(body=END)], 1, False),
        (1, [Reply(body=A, cut_after=2), Reply(body=END)], 1, False),
        (0, [Reply(500, b"unlucky"), Reply(body=END)], 2, True),
        (0, [Reply(body=b'{"error":"unlucky"}\n'), Reply(body=END)], 2, True),
        (0, [Reply(body=COUNTS + b'{"error":"unlucky"}\n'), Reply(body=END)], 2, True),
        (0, [counted(b'{"error":"unlucky"}\n'), Reply(body=END)], 2, True),
        (0, [Reply(500, b"unlucky"), Reply(500, b"unlucky"), Reply(body=END)], 2, False),
        (0, [Reply(400, b"too clever")] * 3 + [Reply(body=END)], 4, True),
        (0, [Reply(400, b"too clever")] * 4 + [Reply(body=END)], 4, False),
    ],
)
async def test_what_is_worth_repeating(
    far: Upstream, retries: int, replies: list[Reply], requests: int, good: bool
) -> None:
    far.on("/chat", *replies)
    one = real(far, retries=retries)
    source = one.answer(asking())
    found: list[Item] = []
    while (items := await source.receive()) is not None:
        found += items

    assert (len(far.requests), source.retries, found == [Finish()]) == (requests, requests - 1, good)


async def test_what_a_failure_has_cost_is_told_with_it(far: Upstream) -> None:
    failure = Failure(Kind.PROVIDER, "boom")
    far.on("/chat", Reply(body=COUNTS + b'{"error":"boom"}\n'), counted(b'{"error":"boom"}\n'), counted(END))

    found = [await everything(real(far)) for _ in range(3)]
    assert found == [[Usage(3), failure], [Usage(3), failure], [Usage(3), Finish()]]


@pytest.mark.parametrize(
    ("body", "words"),
    [(gzip.compress(b"too much at once"), "too much at once"), (b"too much", ""), (b"\x1f\x8b", "")],
    ids=["whole", "not at all", "cut"],
)
async def test_an_error_that_was_compressed_is_read_or_left_unsaid(
    far: Upstream, body: bytes, words: str
) -> None:
    """Nobody asked for that, but what a client does depends on the words."""
    far.on("/chat", Reply(500, body, headers=(("content-encoding", "gzip"),)))

    assert await failing(real(far)) == (Kind.PROVIDER, words)


async def test_what_has_been_shown_is_never_repeated(far: Upstream) -> None:
    far.on("/chat", Reply(body=A + b'{"error":"unlucky"}\n'), Reply(body=END))

    assert await everything(real(far, retries=2)) == [Text("a"), Failure(Kind.PROVIDER, "unlucky")]
    assert len(far.requests) == 1


async def test_a_provider_that_is_just_starting_is_reached(far: Upstream) -> None:
    far.on("/chat", Reply(body=END))
    far.stop()
    one = real(far, retries=2)
    async with trio.open_nursery() as nursery:

        async def start() -> None:
            await trio.sleep(0.3)
            far.start()

        nursery.start_soon(start)
        assert await everything(one) == [Finish()]


async def test_what_the_dialect_gives_up_is_remembered(far: Upstream) -> None:
    far.on("/chat", Reply(400, b"too clever"), Reply(body=END))
    one = real(far)
    words = one.dialect
    assert isinstance(words, dialect.Tiny)

    assert [await everything(one) for _ in range(2)] == [[Finish()]] * 2
    assert [terms.facts for terms in words.terms] == [{}, {"left": 1}, {"left": 1}]


# --- leaving --------------------------------------------------------------------------------------


@pytest.mark.parametrize("reply", [Reply(hang=True), Reply(body=A + B, hang_after=4), busy(5)])
async def test_p59_a_client_that_leaves_ends_the_providers_work_at_once(far: Upstream, reply: Reply) -> None:
    far.on("/chat", reply)
    source = real(far, retries=1).answer(asking())
    async with trio.open_nursery() as nursery:
        shown = trio.Event()

        async def read() -> None:
            while await source.receive() is not None:
                shown.set()

        nursery.start_soon(read)
        await trio.to_thread.run_sync(far.wait_for_requests, 1, 30.0)
        if reply.body == A + B:
            await shown.wait()
        nursery.cancel_scope.cancel()
    await source.aclose()
    if reply.status == 200:
        await trio.to_thread.run_sync(far.wait_for_close, 1, 30.0)
    assert len(far.requests) == 1


async def test_200_cancellations_leave_it_usable(far: Upstream) -> None:
    far.on("/chat", Reply(body=(A, B, END), framing="chunked", delay=0.005, pause=0.005))
    one = real(far)
    moments = itertools.cycle([0, 0.0005, 0.001, 0.004, 0.006, 0.01, 0.02, 0.05])

    async def impatient() -> None:
        source = one.answer(asking())
        with trio.move_on_after(next(moments)):
            while await source.receive() is not None:
                pass
        await source.aclose()

    for _ in range(5):
        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(impatient)
    for _ in range(40):
        assert await everything(one) == WHOLE


@pytest.mark.slow
async def test_memory_does_not_grow_with_the_answer(far: Upstream) -> None:
    """10 MB to a client that takes its time: what waits, waits on the other side."""
    piece = codec.dumps("x" * 1000) + b"\n"
    far.on("/chat", Reply(body=piece * 10_000 + END))
    one = real(far)
    await everything(one)
    gc.collect()
    before, size = _resident(), 0
    source = one.answer(asking())
    while (items := await source.receive()) is not None:
        size += sum(len(item.text) for item in items if isinstance(item, Text))
        assert len(items) < 200
        await trio.lowlevel.checkpoint()

    assert size == 10_000_000
    assert _resident() - before < 5_000_000


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


# --- the kinds ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "base_url", "url", "title"),
    [
        ("ollama", "ollama", None, "http://127.0.0.1:11434", "Ollama"),
        ("ollama", "gpu", "http://gpu:11434/v1/", "http://gpu:11434", "Ollama (gpu)"),
        ("ollama", "ollama", "http://h/x/api", "http://h/x", "Ollama"),
        ("openai", "work", "http://h:8000/v1", "http://h:8000/v1", "work"),
        ("openai", "work", "http://h/v1/chat/completions", "http://h/v1", "work"),
        ("openrouter", "openrouter", None, "https://openrouter.ai/api/v1", "OpenRouter"),
    ],
)
def test_each_kind_knows_its_place(kind: str, name: str, base_url: str | None, url: str, title: str) -> None:
    spec = attrs.evolve(SPEC, kind=kind, provider=name, base_url=base_url)
    one = provider(spec, lambda prefix: prefix)
    assert isinstance(one, upstream.Upstream)

    assert (one.place.base.url, one.place.title) == (url, title)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base_url": "gpu:11434"}, "provider far: a base URL begins with http"),
        ({"api_key": "a\nb"}, "provider far: the API key holds what no header can hold"),
        ({"options": Options(headers={"a b": "c"})}, "provider far: header 'a b' holds"),
    ],
)
def test_a_spec_that_cannot_work_is_refused_at_once(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        provider(attrs.evolve(SPEC, **changes), lambda prefix: prefix)


def test_the_fake_says_how_it_is() -> None:
    async def look() -> Condition:
        return await FakeProvider([], well=Condition(ok=False, detail="down")).condition()

    assert trio.run(look) == Condition(ok=False, detail="down")
