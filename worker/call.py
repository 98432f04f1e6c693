"""One request in progress: all that is said to its client is said here.

It remembers what has been said, because every way of ending needs to know: a failure before the status line is
a real status, after it an `error` event. Several tasks may write (an answer, and the pings that fill its
silences): they do so under one lock, which is free nearly always.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from . import app, failures
from .accounts import Account, Told, name_in
from .books import Entry
from .contract import WorkerSpec
from .failures import Failure, Headers
from .gate import Gate
from .httpd import ClientGone
from .httpd_parse import Headers as AnyHeaders
from .lineage import Listener
from .provider import Source
from .targets import Far
from .wire.anthropic import Stream

Request = app.Request


class Exchange(Protocol):
    """One request and its answer: `httpd.Exchange`, as far as it is used here."""

    @property
    def started(self) -> bool: ...
    @property
    def finished(self) -> bool: ...
    @property
    def request(self) -> Request: ...
    async def read_body(self) -> bytes: ...
    async def respond(self, status: int, headers: AnyHeaders, body: bytes = b"") -> None: ...
    async def start(self, status: int, headers: AnyHeaders) -> None: ...
    async def send(self, data: bytes) -> None: ...
    async def finish(self) -> None: ...


def new_id(prefix: str) -> str:
    """A fresh id. Clients merge turns and drop calls whose ids repeat, so it is long and random.

    Letters and digits, as Anthropic's own: they go where only these are taken.
    """
    return prefix + secrets.token_urlsafe(18).replace("-", "0").replace("_", "1")


class Call:
    """One request in progress: all that is said to its client is said here."""

    def __init__(self, exchange: Exchange, now: Callable[[], float], path: str | None = None) -> None:
        """`path`: as the client said it, where the exchange shows another one."""
        self.exchange = exchange
        self.path = path or exchange.request.path
        self.said_agent, path = app.addressed(exchange.request.path)
        """Who asks, where the path begins with it."""
        self.request: Request = (
            exchange.request if self.said_agent is None else app.Addressed(exchange.request, path)
        )
        """Without that beginning."""
        self.via = name_in(exchange.request.header(app.VIA_HEADER))
        self.route: str | None = None
        """Where a front sends it."""
        self.way: WorkerSpec | None = None
        self.entrusted = False
        """The ledger's row of it is somebody else's."""
        self.id = new_id("req_")
        self.began = now()
        self._now = now
        self.scope = trio.CancelScope()
        self.counted: str | None = None
        """Under which id it is in the counters; its own may change later."""
        self.model = ""
        self.stream = False
        self.input_tokens = 0
        self.told: Told | None = None
        self.usage: Callable[[], dict[str, int]] = dict
        self.source: Source | None = None
        self.account: Account | None = None
        self.entry: Entry | None = None
        self.recorded = False
        """Its row says how it ended; until then it is a last will, or there is none."""
        self.far: Far | None = None
        """Who answers, or is to; None: nobody is asked."""
        self.fallbacks: list[str] = []
        """Who should have answered and why that came to nothing, in their order."""
        self.token: str | None = None
        """The name of the access token that came with it."""
        self.inside: list[Gate] = []
        """Where it has a place that it must leave."""
        self.asked_at = trio.current_time()
        """When all of the request was there; the hold counts from here."""
        self.verdict: Failure | None = None
        """What an error that goes out in the provider's own words means."""
        self.may_fall_back: Callable[[Failure], bool] | None = None
        self.on_first: Callable[[], None] | None = None
        self.was_cut = False
        self.before_last: Callable[[Call], Awaitable[None]] | None = None
        """Called when all is known and the client does not know it yet."""
        self.last_words: Callable[[Failure], bytes | None] | None = None
        """See `relay.Client`."""
        self.listener: Listener | None = None
        """Hears an answer that is passed through, before the client does."""
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
            self.was_cut = True
            self.scope.cancel()

    def identify(self, token: str | None) -> None:
        """Who asks, by the name of an access token."""
        self.token = token
        if self.account is not None:
            self.account.token = token

    def tell(self, told: Told) -> None:
        """From now on this knows what the answer says of itself."""
        self.usage = told.usage
        self.told = told
        if self.account is not None:
            self.account.told = told

    def mark_first(self) -> None:
        """Something of the answer itself has come."""
        if self.on_first is not None:
            self.on_first()
            self.on_first = None
        if self.account is not None and self.account.ttft_s is None:
            self.account.ttft_s = self._now() - self.began

    @property
    def begun(self) -> bool:
        """The client has been sent something."""
        return self.exchange.started

    def turn_to(self, far: Far, fallbacks: list[str]) -> None:
        """From now on this target is asked, and nothing that another one said counts."""
        if self.far is not None and self.account is not None:
            self.account.retries += 1 + (0 if self.source is None else self.source.retries)
            self.account.told = self.account.ttft_s = self.account.refusal = None
            self.account.subscription = False
        self.far, self.fallbacks = far, fallbacks
        self.source = self.told = self.verdict = self._said_no = None
        self.usage = dict

    def elsewhere(self, failure: Failure) -> bool:
        """Whether another target is to be asked instead of telling the client; see `relay.Client`."""
        self.verdict = failure
        return self.may_fall_back is not None and self.may_fall_back(failure)

    @property
    def complaint(self) -> str | None:
        """Why it failed, for people; None: it did not."""
        return self._said_no if self.failure is None else self.failure.message[:300]

    @property
    def talking(self) -> bool:
        """Somebody writes at this very moment."""
        return self._lock.locked()

    def _end_is_near(self) -> None:
        """The whole answer is there: no time limit and no drain may take it away any more."""
        self._answering = True
        self.scope.deadline = math.inf

    async def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole answer."""
        # Where `respond` would notice a cancellation, it would count as begun without a byte sent.
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.listener is not None:
            self.listener.whole(body)
        self._end_is_near()
        self.status = status
        if self.before_last is not None:
            await self.before_last(self)
        await self.exchange.respond(status, [*headers, *self._marks()], body)

    def _marks(self) -> Headers:
        """What every answer carries."""
        found = [(b"request-id", self.id.encode())]
        if self.fallbacks and self.far is not None:
            found.append((b"x-proxy-fallback", app.header_safe(self.far.name)))
        if self.source is not None:
            found += self.source.remarks
        if self.via is not None and self.account is not None:
            found.append((app.RECORDED_HEADER, b"1"))
        if self.route is not None:
            found.append((app.ROUTE_HEADER, app.header_safe(self.route)))
        return found

    def open_stream(self, events: Stream | None, headers: Headers) -> None:
        """From now on `say` may begin a streamed answer; nothing is sent yet.

        Without `events` only pings may be said: the answer's own events will be somebody else's.
        One that has begun while it waited for its turn may be opened again: what was said is not said twice.
        """
        self._events = events
        self._headers = headers

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
            self._end_is_near()
            if self.before_last is not None:
                await self.before_last(self)
            await self._say(data)
            await self.exchange.finish()
        finally:
            self._lock.release()

    async def fail(self, failure: Failure) -> None:
        """End with a failure, in the way that is still possible."""
        failure = self.failure = failure.instead or failure
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

    def goes(self, route: str, spec: WorkerSpec, agent: str | None) -> None:
        """A front has decided: by this route, to what this spec describes."""
        self.route, self.way = route, spec
        if self.account is not None:
            self.account.route, self.account.agent = route, agent

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
        self._said_no = f"{status} {error_type}{': ' if message else ''}{message}"[:300]
        if self.account is not None:
            self.account.refusal = status, error_type

    async def begin(self, status: int, headers: Headers) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()  # as in `respond`
        self.status = status
        await self.exchange.start(status, [*headers, *self._marks()])

    async def pass_on(self, data: bytes, *, last: bool = False) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.listener is not None:
            self.listener.feed(data)
        if last:
            self._end_is_near()
            if self.before_last is not None:
                await self.before_last(self)
        await self.exchange.send(data)

    async def finish(self) -> None:
        self._end_is_near()
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
        if not self.exchange.started:
            await trio.lowlevel.checkpoint_if_cancelled()  # as in `respond`
            self.status = 200
            await self.exchange.start(200, [*self._headers, *self._marks()])
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._said_start and self._events is not None:
            self._said_start = True
            data = self._events.start() + data
        await self.exchange.send(data)
        self.last_said = trio.current_time()
