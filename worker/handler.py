"""One request to its end.

Theory of operation
-------------------
`Handler` is called once per request, in the task of its connection. Each call has a `_Call`: the only
thing that writes to the client, and the memory of what has been said, because every way of ending needs
to know: a failure before the status line is a real status, after it an `error` event.

A streamed answer has a second task for as long as it lasts. It opens the stream when the provider has shown
nothing until the hold's end, and then says `ping` whenever nothing else was said for a while. Both tasks
write under one lock, which is free nearly always.

Three things end a request from outside. A client that leaves: the server cancels us, we just let go. The
drain's deadline: `cut` cancels the call's own scope, and the client is told. An exception in our code: the
client gets its request's id, the log the traceback.
"""

from __future__ import annotations

import os
import secrets
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import attrs
import trio

from . import app, failures
from .accounts import Account, Told, name_in, wall_clock
from .app import Endpoint, Route
from .books import Books, Entry
from .contract import WorkerSpec
from .dialects.anthropic import passes_through
from .failures import Failure, Headers, Kind, Refused
from .gauge import Gauge
from .httpd import ClientGone
from .httpd_parse import BodyIncomplete, BodyTooLarge
from .httpd_parse import Headers as AnyHeaders
from .ledger import Row
from .provider import Provider, Source, provider
from .stats import Stats
from .wire import asks, codec, sse
from .wire.anthropic import Head, Stream, Whole
from .wire.asks import Ask
from .wire.items import Finish

if TYPE_CHECKING:
    from .relay import Relay

LAST_WORDS_S = 1.0
"""How long a client may take for the error that ends its request at the drain's deadline."""

_JSON = (b"content-type", b"application/json")
_SSE: Headers = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Request(app.Head, Protocol):
    """The head of a request, as `httpd` read it."""

    @property
    def query(self) -> str: ...
    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]: ...


class Exchange(Protocol):
    """One request and its answer: `httpd.Exchange`, as far as it is used here."""

    started: bool
    finished: bool

    @property
    def request(self) -> Request: ...
    async def read_body(self) -> bytes: ...
    async def respond(self, status: int, headers: AnyHeaders, body: bytes = b"") -> None: ...
    async def start(self, status: int, headers: AnyHeaders) -> None: ...
    async def send(self, data: bytes) -> None: ...
    async def finish(self) -> None: ...


Log = Callable[..., None]
"""`log(level, event, **fields)`."""


def new_id(prefix: str) -> str:
    """A fresh id. Clients merge turns and drop calls whose ids repeat, so it is long and random."""
    return prefix + secrets.token_urlsafe(18)


def refuse(status: int, message: str) -> tuple[Headers, bytes]:
    """What the server answers in our name to what is not HTTP."""
    request_id = new_id("req_")
    kind = _REFUSALS.get(status, Kind.INVALID)
    failure = Failure(kind, message)
    return [*failures.headers(failure), (b"request-id", request_id.encode())], failures.envelope(
        failure, request_id
    )


_REFUSALS = {
    404: Kind.NOT_FOUND,
    408: Kind.TIMEOUT,
    429: Kind.RATE_LIMITED,
    500: Kind.BUG,
    503: Kind.OVERLOADED,
    529: Kind.OVERLOADED,
}


class Handler:
    """Answers every request of one worker.

    `started_at` is read from the same clock as `now`. `draining` is set by the worker and only shown.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        *,
        stats: Stats,
        log: Log,
        now: Callable[[], float] = trio.current_time,
        started_at: float,
        generation: int | None = None,
        books: Books | None = None,
    ) -> None:
        self.draining = False
        self._spec = spec
        self._stats = stats
        self._log = log
        self._now = now
        self._started_at = started_at
        self._generation = generation
        self._books = books
        self._truth = (b"x-proxy-model", _header_safe(spec.model_id))
        self._relay = _relay(spec, self._truth)
        self._provider: Provider = self._relay or provider(spec, new_id, log)
        self._calls: set[_Call] = set()
        self._gauge = Gauge()
        self._closing: str | None = None

    @property
    def provider(self) -> Provider:
        """Where the answers come from."""
        return self._provider

    def cut(self, message: str = "proxy is shutting down") -> None:
        """End every request in progress now and tell its client; later ones are refused likewise."""
        self._closing = message
        for call in self._calls:
            call.cut()

    async def __call__(self, exchange: Exchange) -> None:
        """Serve one request. Only what the server understands leaves: cancellation and a client that is gone."""
        call = _Call(exchange, self._now)
        self._calls.add(call)
        try:
            await self._to_its_end(call)
        except BaseException:
            call.gone = True
            raise
        finally:
            self._calls.discard(call)
            self._account(call)

    async def _to_its_end(self, call: _Call) -> None:
        with call.scope:
            await self._caught(call)
        if call.scope.cancelled_caught:
            with trio.move_on_after(LAST_WORDS_S):
                await call.fail(self._closing_failure())

    def _closing_failure(self) -> Failure:
        return Failure(Kind.OVERLOADED, self._closing or "proxy is shutting down")

    async def _caught(self, call: _Call) -> None:
        try:
            await self._serve(call)
        except Refused as refused:
            await call.fail(refused.failure)
        except Exception as error:
            if _is_departure(error):
                raise
            self._log("error", "crash", id=call.id, traceback="".join(traceback.format_exception(error)))
            await call.fail(Failure(Kind.BUG, f"internal error; the proxy's log has more under {call.id}"))

    async def _serve(self, call: _Call) -> None:
        found = app.route(
            call.exchange.request, forwards=self._relay is not None and self._relay.forwards_all
        )
        if not isinstance(found, Failure):
            self._begin(call, found.endpoint)
        if self._closing is not None:
            raise Refused(self._closing_failure())
        if isinstance(found, Failure):
            raise Refused(found)
        await self._ENDPOINTS[found.endpoint](self, call, found)

    # --- small endpoints ---

    async def _small(self, call: _Call, body: dict[str, Any] | Failure) -> None:
        if isinstance(body, Failure):
            raise Refused(body)
        await call.respond(200, [_JSON], codec.dumps(body))

    async def _health(self, call: _Call, _: Route) -> None:
        seen = await self._provider.condition()
        vital = app.Vital(
            pid=os.getpid(),
            uptime_s=self._now() - self._started_at,
            in_flight=self._stats.in_flight,
            draining=self.draining,
            upstream_ok=seen.ok,
            latency_ms=seen.latency_ms,
            checked_at=seen.checked_at,
            detail=seen.detail,
            warning=seen.warning or "",
            generation=self._generation,
        )
        # The status is for watchers that look at nothing else; the worker itself is well either way.
        await call.respond(200 if seen.ok else 503, [_JSON], codec.dumps(app.health(self._spec, vital)))

    async def _alive(self, call: _Call, _: Route) -> None:
        await self._small(call, {"status": "alive"})

    async def _root(self, call: _Call, _: Route) -> None:
        await self._small(call, app.root(self._spec))

    async def _models(self, call: _Call, _: Route) -> None:
        request = call.exchange.request
        await self._small(call, app.models(self._spec, request, request.query, self._provider.sizes()))

    async def _model(self, call: _Call, route: Route) -> None:
        sizes = self._provider.sizes()
        await self._small(call, app.model(self._spec, call.exchange.request, route.model, sizes))

    # --- model requests ---

    async def _forward(self, call: _Call, _: Route) -> None:
        assert self._relay is not None  # without one nothing is routed here
        await self._relay.forward(call, call.exchange.request, await _body(call))

    async def _count_tokens(self, call: _Call, _: Route) -> None:
        if self._relay is not None and self._relay.forwards_all:
            await self._relay.messages(call, call.exchange.request, await _body(call))
            return
        call.model, estimate = asks.count(await _body(call))
        call.input_tokens = self._gauge.tuned(estimate)
        await call.respond(200, [_JSON, self._truth], codec.dumps({"input_tokens": call.input_tokens}))

    async def _messages(self, call: _Call, _: Route) -> None:
        if self._relay is not None:
            await self._relay.messages(call, call.exchange.request, await _body(call))
            return
        ask = asks.ask(await _body(call))
        estimate = ask.input_tokens
        ask = attrs.evolve(ask, input_tokens=self._gauge.tuned(estimate))
        call.model, call.stream = ask.model, ask.stream
        if call.account is not None:
            call.account.model, call.account.stream = ask.model, ask.stream
        head = Head.of(ask, message_id=new_id("msg_"), request_id=call.id)
        source = call.source = self._source(ask)
        try:
            if ask.stream:
                await self._streamed(call, head, source)
            else:
                await self._plain(call, head, source)
        finally:
            await source.aclose()
        if call.told is not None:
            self._gauge.learn(estimate, call.told.said)

    def _begin(self, call: _Call, endpoint: Endpoint) -> None:
        if endpoint in (Endpoint.MESSAGES, Endpoint.COUNT_TOKENS):
            call.counted = True
            self._stats.requests += 1
            self._stats.in_flight += 1
            self._stats.begun[call.id] = call.began
        if endpoint is Endpoint.MESSAGES and self._books is not None:
            header = call.exchange.request.header
            call.account = Account(
                ts=wall_clock(),
                request_id=call.id,
                session_id=name_in(header(b"x-claude-code-session-id")),
                agent_id=name_in(header(b"x-claude-code-agent-id")),
            )
            call.before_last = self._record

    def _source(self, ask: Ask) -> Source:
        return _Nothing() if ask.max_tokens == 0 else self._provider.answer(ask)

    async def _plain(self, call: _Call, head: Head, source: Source) -> None:
        whole = Whole(head)
        call.tell(whole.turn)
        while whole.failure is None and (items := await source.receive()) is not None:
            whole.feed(items)
            if whole.turn.blocks:
                call.mark_first()
        body = whole.end()
        if body is None:
            await call.fail(whole.failure or Failure(Kind.BUG, "no answer"))
        else:
            await call.respond(200, [_JSON, self._truth], body)

    async def _streamed(self, call: _Call, head: Head, source: Source) -> None:
        stream = Stream(head)
        call.tell(stream.turn)
        call.open_stream(stream, [*_SSE, self._truth])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_alive, call)
            failure = await _pump(call, stream, source)
            nursery.cancel_scope.cancel()
        if failure is not None:
            await call.fail(failure)

    async def _keep_alive(self, call: _Call) -> None:
        """Open the stream at the end of the hold; from then on break every long silence."""
        hold_s, ping_s = self._spec.options.hold_s, self._spec.options.ping_s
        await trio.sleep(hold_s)
        while True:
            silence = trio.current_time() - call.last_said
            if call.talking or silence < ping_s:
                await trio.sleep(ping_s - (0.0 if call.talking else silence))
            else:
                await call.say(sse.PING)

    # --- the books ---

    async def _record(self, call: _Call) -> None:
        """The row is in the ledger before the client can know that its answer is complete."""
        if self._books is not None and call.account is not None and call.entry is None:
            call.entry = self._books.note(self._row(call, call.account))
            await self._books.settle(call.entry)

    def _record_end(self, call: _Call) -> None:
        """What ended without last words gets its row here, what ended otherwise than recorded another one."""
        if self._books is None or call.account is None:
            return
        row = self._row(call, call.account)
        self._stats.charge(row.cost_usd, answered=row.status == 200)
        if call.entry is None:
            self._books.note(row)
        elif row.status != call.entry.row.status:
            self._books.amend(call.entry, row)

    def _row(self, call: _Call, account: Account) -> Row:
        if call.source is not None:
            account.retries = call.source.retries
        gone = call.gone and not call.exchange.finished
        return account.row(self._spec, duration_s=self._now() - call.began, failure=call.failure, gone=gone)

    def _account(self, call: _Call) -> None:
        self._record_end(call)
        if call.counted:
            self._stats.in_flight -= 1
            del self._stats.begun[call.id]
            if (message := call.complaint) is not None:
                self._stats.failures += 1
                self._stats.last_error = message
        request = call.exchange.request
        fields: dict[str, Any] = {
            "id": call.id,
            "method": request.method,
            "path": request.path[:200],
            "status": call.status,
            "ms": round((self._now() - call.began) * 1000, 1),
        }
        if call.counted:
            usage = call.usage()
            fields["model"] = call.model[:200]
            fields["stream"] = call.stream
            fields["input_tokens"] = usage.get("input_tokens", call.input_tokens)
            fields["output_tokens"] = usage.get("output_tokens", 0)
        if call.complaint is not None:
            fields["error"] = call.complaint
        elif call.gone:
            fields["error"] = "client left"
        # Probes come every second from some watchers; they are not worth a line at the usual level.
        level = "warning" if call.complaint is not None else "info" if call.counted else "debug"
        self._log(level, "request", **fields)

    _ENDPOINTS: dict[Endpoint, Callable[[Handler, _Call, Route], Awaitable[None]]] = {  # noqa: RUF012  # never changed
        Endpoint.MESSAGES: _messages,
        Endpoint.COUNT_TOKENS: _count_tokens,
        Endpoint.MODELS: _models,
        Endpoint.MODEL: _model,
        Endpoint.HEALTH: _health,
        Endpoint.ALIVE: _alive,
        Endpoint.ROOT: _root,
        Endpoint.HELLO: _root,
        Endpoint.FORWARD: _forward,
    }


class _Call:
    """One request in progress: all that is said to its client is said here."""

    def __init__(self, exchange: Exchange, now: Callable[[], float]) -> None:
        self.exchange = exchange
        self.id = new_id("req_")
        self.began = now()
        self._now = now
        self.scope = trio.CancelScope()
        self.counted = False
        self.model = ""
        self.stream = False
        self.input_tokens = 0
        self.told: Told | None = None
        self.usage: Callable[[], dict[str, int]] = dict
        self.source: Source | None = None
        self.account: Account | None = None
        self.entry: Entry | None = None
        self.before_last: Callable[[_Call], Awaitable[None]] | None = None
        """Called when all is known and the client does not know it yet."""
        self.last_words: Callable[[Failure], bytes | None] | None = None
        """See `relay.Client`."""
        self._said_no: str | None = None
        self.status: int | None = None
        self.failure: Failure | None = None
        self.gone = False
        self.last_said = -float("inf")
        self._answering = False
        self._events: Stream | None = None
        self._headers: Headers = []
        self._said_start = False
        self._lock = trio.Lock()

    def cut(self) -> None:
        """End it now, unless a whole answer is on its way: then there is nothing better to say."""
        if not self._answering:
            self.scope.cancel()

    def tell(self, told: Told) -> None:
        """From now on this knows what the answer says of itself."""
        self.usage = told.usage
        self.told = told
        if self.account is not None:
            self.account.told = told

    def mark_first(self) -> None:
        """Something of the answer itself has come."""
        if self.account is not None and self.account.ttft_s is None:
            self.account.ttft_s = self._now() - self.began

    @property
    def complaint(self) -> str | None:
        """Why it failed, for people; None: it did not."""
        return self._said_no if self.failure is None else self.failure.message[:300]

    @property
    def talking(self) -> bool:
        """Somebody writes at this very moment."""
        return self._lock.locked()

    async def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole answer."""
        # Where `respond` would notice a cancellation, it would count as begun without a byte sent.
        await trio.lowlevel.checkpoint_if_cancelled()
        self._answering = True
        self.status = status
        if self.before_last is not None:
            await self.before_last(self)
        await self.exchange.respond(status, [*headers, (b"request-id", self.id.encode())], body)

    def open_stream(self, events: Stream, headers: Headers) -> None:
        """From now on `say` may begin a streamed answer; nothing is sent yet."""
        self._events = events
        self._headers = [*headers, (b"request-id", self.id.encode())]

    async def say(self, data: bytes) -> None:
        """Some bytes of a streamed answer; the first ones bring the status line with them."""
        await self._take_lock()
        try:
            await self._say(data)
        finally:
            self._lock.release()

    async def end(self, data: bytes) -> None:
        """The last bytes of a streamed answer."""
        await self._take_lock()
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            self._answering = True
            if self.before_last is not None:
                await self.before_last(self)
            await self._say(data)
            await self.exchange.finish()
        finally:
            self._lock.release()

    async def fail(self, failure: Failure) -> None:
        """End with a failure, in the way that is still possible."""
        self.failure = failure
        if not self.exchange.started:
            rule = failures.RULES[failure.kind]
            body = failures.envelope(failure, self.id)
            await self.respond(rule.status, failures.headers(failure), body)
        elif self._events is not None and not self.exchange.finished:
            await self.end(self._events.fail(failure))
        elif self.last_words is not None and not self.exchange.finished:
            await self._cut_short(self.last_words(failure))
        # Else a whole answer broke off: its length tells the client.

    # --- answers that are passed through: `relay.Client` ---

    def know(self, *, model: str, stream: bool, subscription: bool) -> None:
        self.model, self.stream = model, stream
        if self.account is not None:
            self.account.model, self.account.stream = model, stream
            self.account.subscription = subscription

    def asked_again(self) -> None:
        """The provider, for the same answer."""
        if self.account is not None:
            self.account.retries += 1

    def rename(self, request_id: str) -> None:
        """The provider's id for it is the one that its support can find."""
        self.id = request_id
        if self.account is not None:
            self.account.request_id = request_id

    def refused(self, status: int, error_type: str, message: str) -> None:
        """The provider says no, in its own words, which the client gets."""
        self._said_no = f"{status} {error_type}: {message}"[:300]
        if self.account is not None:
            self.account.refusal = status, error_type

    async def begin(self, status: int, headers: Headers) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()  # as in `respond`
        self.status = status
        await self.exchange.start(status, [*headers, (b"request-id", self.id.encode())])

    async def pass_on(self, data: bytes, *, last: bool = False) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        if last:
            self._answering = True
            if self.before_last is not None:
                await self.before_last(self)
        await self.exchange.send(data)

    async def finish(self) -> None:
        self._answering = True
        if self.before_last is not None:
            await self.before_last(self)
        await self.exchange.finish()

    async def _cut_short(self, words: bytes | None) -> None:
        if words is None:
            raise ClientGone  # no last chunk: it looks as cut as it is
        await self.pass_on(words, last=True)
        await self.exchange.finish()

    async def _take_lock(self) -> None:
        try:
            self._lock.acquire_nowait()  # a third of the price of `async with`, and nearly always enough
        except trio.WouldBlock:
            await self._lock.acquire()

    async def _say(self, data: bytes) -> None:
        assert self._events is not None
        if not self.exchange.started:
            await trio.lowlevel.checkpoint_if_cancelled()  # as in `respond`
            self.status = 200
            await self.exchange.start(200, self._headers)
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._said_start:
            self._said_start = True
            data = self._events.start() + data
        await self.exchange.send(data)
        self.last_said = trio.current_time()


async def _pump(call: _Call, stream: Stream, source: Source) -> Failure | None:
    """From the provider to the client, until either has had enough. Returns what is left to say."""
    while (items := await source.receive()) is not None:
        shown = stream.feed(items)
        if stream.failure is not None:
            return stream.failure
        if shown:
            call.mark_first()
            await call.say(shown)
    last = stream.end()
    if stream.failure is None:
        await call.end(last)
    return stream.failure


class _Nothing:
    """Answers `max_tokens: 0`, which asks for no output: no provider is troubled."""

    def __init__(self) -> None:
        self._items: list[Finish] | None = [Finish("max_tokens")]
        self.retries = 0

    async def receive(self) -> list[Finish] | None:
        await trio.lowlevel.checkpoint()
        items, self._items = self._items, None
        return items

    async def aclose(self) -> None:
        pass


def _relay(spec: WorkerSpec, truth: tuple[bytes, bytes]) -> Relay | None:
    """For a provider whose bytes are passed through. Raises ValueError, as `provider` does."""
    if not passes_through(spec):
        return None
    from .relay import Relay  # only here: most workers translate

    return Relay(spec, truth)


async def _body(call: _Call) -> bytes:
    try:
        return await call.exchange.read_body()
    except BodyTooLarge as error:
        raise Refused(failures.too_large(error.declared or error.received, error.limit)) from None
    except OSError:
        raise ClientGone from None
    except BodyIncomplete:
        raise Refused(Failure(Kind.INVALID, "the request's body did not arrive whole")) from None


def _is_departure(error: BaseException) -> bool:
    """Did the client's connection break under us? The server deals with that."""
    if isinstance(error, BaseExceptionGroup):
        return all(_is_departure(inner) for inner in error.exceptions)
    return isinstance(error, ClientGone)


def _header_safe(text: str) -> bytes:
    return "".join(char if " " <= char <= "~" else "?" for char in text).encode("ascii")
