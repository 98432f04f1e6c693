"""One request to its end.

Theory of operation
-------------------
`Handler` is called once per request, in the task of its connection. Each call has a `Call`: the only
thing that writes to the client, and the memory of what has been said, because every way of ending needs
to know: a failure before the status line is a real status, after it an `error` event.

A streamed answer has a second task for as long as it lasts. It opens the stream when the provider has shown
nothing until the hold's end, and then says `ping` whenever nothing else was said for a while. Both tasks
write under one lock, which is free nearly always.

Whatever lasts longer than a moment gets its row in the ledger early, in case this process is killed: one task
for all requests (`keep_wills`) looks now and then which are due, and says in each what it has cost so far.

Three things end a request from outside. A client that leaves: the server cancels us, we just let go. The
drain's deadline: `cut` cancels the call's own scope, and the client is told. An exception in our code: the
client gets its request's id, the log the traceback.
"""

from __future__ import annotations

import math
import os
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import attrs
import trio

from . import access, app, attempts, failures, guest
from .accounts import Account, name_in, wall_clock
from .app import Endpoint, Route
from .attempts import MOST_RETRIES, FallBack, GiveUp, Plan, Retry, Rota, Told
from .books import Books, Entry
from .call import Call, Exchange, Request, new_id
from .contract import Front, Quota, WorkerSpec
from .dialects.anthropic import peek
from .failures import Failure, Headers, Kind, Refused
from .forms.asking import Terms
from .gate import Gate, Gates
from .httpd import ClientGone
from .httpd_parse import BodyIncomplete, BodyTooLarge
from .ledger import Row
from .provider import Source
from .stats import Stats
from .targets import Far, fars
from .watch import Standing, Watch
from .wire import asks, codec, sse
from .wire.anthropic import Head, Stream, Turn, Whole
from .wire.asks import Ask
from .wire.items import Finish, Item, Usage

WILL_AFTER_S = 0.25
"""An answer that lasts so long has a row before its end."""
WILL_EVERY_S = 5.0
"""So often it is brought up to date."""
WILL_LOOK_S = 0.25

LAST_WORDS_S = 1.0
"""How long a client may take for the error that ends its request at the drain's deadline."""

_JSON = (b"content-type", b"application/json")
_SSE: Headers = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


_CLOSING = Failure(Kind.OVERLOADED, "proxy is shutting down")
_OPEN = frozenset({Endpoint.HEALTH, Endpoint.ALIVE, Endpoint.ROOT, Endpoint.HELLO})
"""Watchers need no token."""

Log = Callable[..., None]
"""`log(level, event, **fields)`."""


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


@attrs.frozen
class _Asked:
    """A model request, as far as it was read."""

    body: bytes = attrs.field(repr=False)
    """Empty where nobody passes it on."""
    ask: Ask | None = None
    """None: it is read when somebody must translate it."""

    @property
    def wants_nothing(self) -> bool:
        """No output at all: no provider is troubled."""
        return self.ask is not None and self.ask.max_tokens == 0

    @property
    def stream(self) -> bool:
        """Raises Refused where that cannot be told."""
        return peek(self.body).stream if self.ask is None else self.ask.stream


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
        self._fars = fars(spec, new_id, log)
        self._first = self._fars[0]
        self._rota = Rota([far.name for far in self._fars])
        self.watch = Watch(self._fars, self._rota, now)
        """How the far side is; the supervisor is told as well."""
        self._crossing = self._first.crossing
        self._keeps_bytes = any(far.relay is not None for far in self._fars)
        self._gates = Gates(spec.quota, now, proxy=spec.name)
        self._calls: set[Call] = set()
        self._wills: dict[Call, float] = {}
        """When each that will have a row is to say in it how it stands."""
        self._has_wills = trio.Event()
        self._closing = False

    @property
    def waiting(self) -> int:
        """Requests in line for a place."""
        return self._gates.waiting

    @property
    def resting(self) -> list[str]:
        """Targets that are left alone for now, each with its cause."""
        return self._rota.resting()

    def adjust(self, quota: Quota) -> None:
        """Other limits from now on."""
        self._gates.adjust(quota)

    def lead(self, front: Front | None) -> None:
        """Of a front: go by these rules from now on."""
        if self._crossing is not None and front is not None:
            self._crossing.lead(front)

    def cut(self) -> None:
        """End every request in progress now and tell its client; later ones are refused likewise."""
        self._closing = True
        for call in self._calls:
            call.cut()

    async def __call__(self, exchange: Exchange) -> None:
        """Serve one request. Only what the server understands leaves: cancellation and a client that is gone."""
        shown = guest.interpreted(exchange, self._terms, self._spec.options.ping_s)
        call = Call(shown, self._now, exchange.request.path)
        self._calls.add(call)
        try:
            await self._to_its_end(call)
        except BaseException:
            call.gone = True
            raise
        finally:
            self._calls.discard(call)
            self._account(call)

    def _terms(self) -> Terms:
        """For a request that has to be translated first."""
        sizes = self._first.provider.sizes()
        takers = [far for far in self._fars if far.relay is not None]
        literal = tuple("" if far.crossing is not None else far.spec.model for far in takers)
        return Terms(sizes.output, literal, created=int(wall_clock()), id=new_id(""))

    async def _to_its_end(self, call: Call) -> None:
        with call.scope:
            await self._caught(call)
        if call.scope.cancelled_caught:
            with trio.move_on_after(LAST_WORDS_S):
                await call.fail(_CLOSING if call.was_cut else self._overdue())

    def _overdue(self) -> Failure:
        limit_s = self._gates.quota.request_timeout_s
        return Failure(Kind.TIMEOUT, f"the request took longer than {limit_s:g}s (request_timeout)")

    async def _caught(self, call: Call) -> None:
        try:
            await self._serve(call)
        except Refused as refused:
            await call.fail(refused.failure)
        except Exception as error:
            if _is_departure(error):
                raise
            self._log("error", "crash", id=call.id, traceback="".join(traceback.format_exception(error)))
            await call.fail(Failure(Kind.BUG, f"internal error; the proxy's log has more under {call.id}"))

    async def _serve(self, call: Call) -> None:
        found = self._found(call.request)
        if not isinstance(found, Failure):
            self._begin(call, found.endpoint)
        if self._closing:
            raise Refused(_CLOSING)
        if isinstance(found, Failure):
            raise Refused(found)
        if found.endpoint not in _OPEN:
            call.identify(access.caller(self._gates.quota.access, call.exchange.request))
        await self._ENDPOINTS[found.endpoint](self, call, found)

    def _found(self, request: Request) -> Route | Failure:
        if self._crossing is not None:
            return app.cross(request, self._crossing.plan.ids)
        relay = self._first.relay
        return app.route(request, forwards=relay is not None and relay.forwards_all)

    # --- small endpoints ---

    async def _small(self, call: Call, body: dict[str, Any] | Failure) -> None:
        if isinstance(body, Failure):
            raise Refused(body)
        await call.respond(200, [_JSON], codec.dumps(body))

    async def _health(self, call: Call, _: Route) -> None:
        if self._crossing is not None:
            await self._crossing.look()
        standing = await self.watch.look()
        seen = standing.first
        works = standing.works or (self._crossing is not None and self._crossing.has_places)
        vital = app.Vital(
            pid=os.getpid(),
            uptime_s=self._now() - self._started_at,
            in_flight=self._stats.in_flight,
            draining=self.draining,
            upstream_ok=seen.ok,
            latency_ms=seen.latency_ms,
            checked_at=seen.checked_at,
            detail=seen.detail,
            works=works,
            instead=standing.instead,
            warnings=standing.warnings(),
            generation=self._generation,
            targets=self._targets_shown(standing),
            queue=self._gates.shown(),
        )
        # The status is for watchers that look at nothing else; the worker itself is well either way.
        await call.respond(200 if works else 503, [_JSON], codec.dumps(app.health(self._spec, vital)))

    def _targets_shown(self, standing: Standing) -> list[dict[str, Any]] | None:
        if self._crossing is not None:
            return self._crossing.shown()
        if len(self._fars) == 1:
            return None
        now = self._now()
        return [one.shown(now) | standing.shown(index) for index, one in enumerate(self._rota.targets)]

    async def _alive(self, call: Call, _: Route) -> None:
        await self._small(call, {"status": "alive"})

    async def _root(self, call: Call, _: Route) -> None:
        await self._small(call, app.root(self._spec))

    def _named(self) -> list[str] | None:
        """What a front leads to; None: this is none."""
        return None if self._crossing is None else self._crossing.plan.ids

    async def _models(self, call: Call, _: Route) -> None:
        sizes = self._first.provider.sizes()
        await self._small(call, app.models(self._spec, call.request.query, sizes, self._named()))

    async def _model(self, call: Call, route: Route) -> None:
        sizes = self._first.provider.sizes()
        await self._small(call, app.model(self._spec, route.model, sizes, self._named()))

    # --- model requests ---

    async def _forward(self, call: Call, _: Route) -> None:
        assert self._first.relay is not None  # without one nothing is routed here
        await self._first.relay.forward(call, call.request, await _body(call))

    async def _count_tokens(self, call: Call, _: Route) -> None:
        relay = self._first.relay
        if relay is not None and relay.counts:
            await relay.messages(call, call.request, await _body(call))
            return
        ask = asks.count(await _body(call))
        call.model = ask.model
        call.input_tokens = await self._weighed(ask)
        await call.respond(200, [_JSON, self._first.truth], codec.dumps({"input_tokens": call.input_tokens}))

    async def _messages(self, call: Call, _: Route) -> None:
        body = await _body(call)
        call.asked_at = trio.current_time()
        asked = await self._read(call, body)
        del body  # of a picture book it is large, and what translates has read it
        if asked.wants_nothing:
            await self._say_or_fail(call, await self._attempt(call, asked, self._first))
            return
        gates = self._gates.before(call.token)
        for gate in gates:
            gate.count()
        try:
            failure = await self._let_in(call, asked, gates)
            if failure is not None:
                await call.fail(failure)
                return
            await self._answer(call, asked)
        finally:
            while call.inside:
                call.inside.pop().leave()

    async def _weighed(self, ask: Ask) -> int:
        """The prompt in tokens, as the first target would be shown it and count it."""
        return self._first.gauge.tuned(await self._first.provider.weigh(ask))

    async def _read(self, call: Call, body: bytes) -> _Asked:
        """What must be known of a request before anybody is asked. Raises Refused."""
        most = self._gates.quota.max_context
        if self._first.relay is None:
            ask = asks.ask(body)
            call.know(model=ask.model, stream=ask.stream, subscription=False)
            asked = _Asked(body if self._keeps_bytes else b"", ask)
            estimate = await self._weighed(ask) if most is not None else 0
        else:
            asked = _Asked(body)  # the relay says itself what it is
            estimate = self._counted(call, body) if most is not None else 0
        if most is not None and estimate > most:
            raise Refused(failures.overflow(estimate, most))
        return asked

    def _counted(self, call: Call, body: bytes) -> int:
        ask = asks.count(body)
        call.know(model=ask.model, stream=peek(body).stream, subscription=False)
        return ask.input_tokens

    # --- waiting for a place ---

    async def _let_in(self, call: Call, asked: _Asked, gates: list[Gate]) -> Failure | None:
        """None: it has a place at each gate. A stream is begun and kept alive while it waits for one."""
        for number, gate in enumerate(gates):
            if not gate.enter_now():
                return await self._wait_in_line(call, asked, gates[number:])
            call.inside.append(gate)
        return None

    async def _wait_in_line(self, call: Call, asked: _Asked, gates: list[Gate]) -> Failure | None:
        if not asked.stream:
            return await self._pass(call, gates)
        self._open(call, asked)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_alive, call)
            failure = await self._pass(call, gates)
            nursery.cancel_scope.cancel()
        return failure

    async def _pass(self, call: Call, gates: list[Gate]) -> Failure | None:
        session = name_in(app.session(call.exchange.request.header))
        for gate in gates:
            if not gate.enter_now():
                failure = await gate.enter(call.id, session, call.token)
                if failure is not None:
                    return failure
            call.inside.append(gate)
        return None

    def _open(self, call: Call, asked: _Asked) -> None:
        """A stream that may have to begin before its answer does."""
        headers = [*_SSE, self._first.truth]
        if asked.ask is None:
            call.last_words = lambda failure: sse.event(b"error", failures.envelope(failure, call.id))
            call.open_stream(None, headers)
        else:
            call.open_stream(Stream(self._head(call, asked.ask, self._first)), headers)

    # --- one target after the other ---

    async def _answer(self, call: Call, asked: _Asked) -> None:
        # What has begun has said who answers; it stays there.
        if len(self._fars) == 1 or call.begun:
            call.turn_to(self._first, [])
            await self._say_or_fail(call, await self._attempt(call, asked, self._first))
            return
        chosen = self._rota.choose(self._now())
        if isinstance(chosen, Told):
            raise Refused(_with(chosen.failure, {"all are left alone for now": self._rota.resting()}))
        tried: list[int] = []
        reasons = [f"{reason}, cooling" for reason in self._rota.skipped(chosen)]
        while True:
            tried.append(chosen)
            failure = await self._one_of_many(call, asked, chosen, tried, reasons)
            if failure is None:
                return
            step, following = self._step(failure, tried, sent=call.begun)
            if not isinstance(step, FallBack) or following is None:
                others = {"asked in place of": reasons, "left alone for now": self._rota.resting(chosen)}
                await call.fail(_with(failure, others) if failure.kind in attempts.CAUSES else failure)
                return
            far = self._fars[chosen]
            reasons.append(f"{far.name}: {step.cause.value}")
            there = self._fars[following].name
            said = {"cause": step.cause.value, "detail": failure.message[:300]}
            self._log("warning", "fallback", id=call.id, failed=far.name, to=there, **said)
            chosen = following

    def _step(
        self, failure: Failure, tried: list[int], *, sent: bool
    ) -> tuple[Retry | FallBack | GiveUp, int | None]:
        following = self._rota.next(self._now(), tried)
        # What could be tried again has been, by whoever asks the provider.
        plan = Plan(tried=MOST_RETRIES, others=following is not None)
        return attempts.after(plan, failure, sent), following

    async def _one_of_many(
        self, call: Call, asked: _Asked, chosen: int, tried: list[int], reasons: list[str]
    ) -> Failure | None:
        """Ask one target, and remember what that shows of it."""
        rota, since = self._rota, self._now()
        if reasons and not call.fallbacks:
            self._stats.fallbacks += 1
        call.turn_to(self._fars[chosen], list(reasons))
        call.on_first = lambda: self._judge(chosen, None, since)
        call.may_fall_back = lambda failure: isinstance(
            self._step(failure, tried, sent=call.begun)[0], FallBack
        )
        rota.take(chosen)
        try:
            failure = await self._attempt(call, asked, self._fars[chosen])
        except BaseException:
            rota.let_go(chosen)
            raise
        self._judge(chosen, failure or call.verdict, since)
        return failure

    def _judge(self, chosen: int, verdict: Failure | None, since: float) -> None:
        """What a request has shown of a target; None: it works."""
        before = self._rota.targets[chosen].cause
        if verdict is None:
            self._rota.worked(chosen, since)
        else:
            self._rota.failed(chosen, verdict, self._now())
        if before is not None or self._rota.targets[chosen].cause is not None:
            self.watch.moved()

    async def _say_or_fail(self, call: Call, failure: Failure | None) -> None:
        if failure is not None:
            await call.fail(failure)

    async def _attempt(self, call: Call, asked: _Asked, far: Far) -> Failure | None:
        """Ask one target; what is left to say when it fails."""
        try:
            if far.relay is not None:
                await far.relay.messages(call, call.request, asked.body)
                return None
            ask = asked.ask or asks.ask(asked.body)
            call.know(model=ask.model, stream=ask.stream, subscription=False)
            return await self._translated(call, ask, far)
        except Refused as refused:
            return refused.failure

    async def _translated(self, call: Call, ask: Ask, far: Far) -> Failure | None:
        estimate = ask.input_tokens
        ask = attrs.evolve(ask, input_tokens=far.gauge.tuned(estimate))
        source = call.source = _Nothing() if ask.max_tokens == 0 else far.provider.answer(ask)
        try:
            if ask.stream:
                failure = await self._streamed(call, self._head(call, ask, far), source, far)
            else:
                failure = await self._plain(call, self._head(call, ask, far), source, far)
        finally:
            await source.aclose()
        if call.told is not None:
            far.gauge.learn(
                estimate if source.prompt_tokens is None else source.prompt_tokens, call.told.said
            )
        return failure

    def _head(self, call: Call, ask: Ask, far: Far) -> Head:
        return Head.of(ask, message_id=new_id("msg_"), request_id=call.id)

    def _begin(self, call: Call, endpoint: Endpoint) -> None:
        if endpoint in (Endpoint.MESSAGES, Endpoint.COUNT_TOKENS):
            self._stats.requests += 1
            self._stats.in_flight += 1
            call.counted = call.id
            self._stats.begun[call.id] = call.began
        if endpoint is Endpoint.MESSAGES and (limit_s := self._gates.quota.request_timeout_s) is not None:
            call.scope.deadline = trio.current_time() + limit_s
        if endpoint is Endpoint.MESSAGES and self._books is not None:
            header = call.exchange.request.header
            call.account = Account(
                ts=wall_clock(),
                request_id=call.id,
                session_id=name_in(app.session(header)),
                agent=call.said_agent or name_in(header(app.AGENT_HEADER)),
                agent_id=name_in(header(b"x-claude-code-agent-id")),
                route=None if call.via is None else f"{call.via}>{self._spec.said}",
            )
            call.before_last = self._record
            self._wills[call] = self._now() + WILL_AFTER_S
            self._has_wills.set()

    async def _plain(self, call: Call, head: Head, source: Source, far: Far) -> Failure | None:
        whole = Whole(head)
        call.tell(whole.turn)
        while whole.failure is None and (items := await _received(source, whole.turn, far)) is not None:
            whole.feed(items)
            if whole.turn.blocks:
                call.mark_first()
        body = whole.end()
        if body is None:
            return whole.failure or Failure(Kind.BUG, "no answer")
        await call.respond(200, [_JSON, far.truth], body)
        return None

    async def _streamed(self, call: Call, head: Head, source: Source, far: Far) -> Failure | None:
        stream = Stream(head)
        call.open_stream(stream, [*_SSE, far.truth])
        call.tell(stream.turn)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_alive, call)
            failure = await _pump(call, stream, source, far)
            nursery.cancel_scope.cancel()
        return failure

    async def _keep_alive(self, call: Call) -> None:
        """Open the stream at the end of the hold; from then on break every long silence."""
        hold_s, ping_s = self._spec.options.hold_s, self._spec.options.ping_s
        await trio.sleep_until(call.asked_at + hold_s)
        while True:
            due = call.last_said + ping_s
            if call.talking:
                await trio.sleep(ping_s)
            elif trio.current_time() < due:
                await trio.sleep_until(due)
            else:
                await call.say(sse.PING)

    # --- the books ---

    async def _record(self, call: Call) -> None:
        """The row is in the ledger before the client can know that its answer is complete."""
        if call.entrusted:
            return
        if self._books is not None and call.account is not None and not call.recorded:
            call.recorded = True
            await self._books.settle(self._write(self._books, call, self._row(call, call.account)))

    def _record_end(self, call: Call) -> None:
        """What ended without last words gets its row here, what ended otherwise than recorded another one."""
        if self._books is None or call.account is None or call.entrusted:
            return
        row = self._row(call, call.account)
        self._stats.charge(row.cost_usd, answered=row.status == 200)
        if not call.recorded or call.entry is None or row.status != call.entry.row.status:
            self._write(self._books, call, row)

    def _write(self, books: Books, call: Call, row: Row) -> Entry:
        """The one row of a request, however often it is written."""
        if call.entry is None:
            call.entry = books.note(row)
        else:
            books.amend(call.entry, row)
        return call.entry

    async def keep_wills(self) -> None:
        """Write in advance what would be true if this process were killed. Until cancelled."""
        while True:
            await self._has_wills.wait()
            while self._wills:
                await trio.sleep(WILL_LOOK_S)
                for call in [call for call, due in self._wills.items() if due <= self._now()]:
                    if call in self._wills and self._leaves_something(call):
                        self._write_will(call)
                        await trio.lowlevel.checkpoint()  # one costs little, a thousand do not
            self._has_wills = trio.Event()

    def _leaves_something(self, call: Call) -> bool:
        """Somebody was asked, it is not over, and nobody else keeps its row."""
        return call.told is not None and not call.recorded and not call.entrusted

    def _write_will(self, call: Call) -> None:
        assert self._books is not None and call.account is not None  # noqa: PT018  # else it is not due
        self._wills[call] = self._now() + WILL_EVERY_S
        try:
            row = self._so_far(call, call.account).last_will(
                self._spec,
                pid=os.getpid(),
                now=wall_clock(),
                far=_asked_last(call),
                fallbacks=call.fallbacks,
            )
        except Exception as error:  # one request's numbers must not take the others with them
            self._log("error", "crash", id=call.id, traceback="".join(traceback.format_exception(error)))
            self._wills[call] = math.inf
        else:
            self._write(self._books, call, row)

    def _so_far(self, call: Call, account: Account) -> Account:
        if call.source is None:
            return account
        return attrs.evolve(account, retries=account.retries + call.source.retries)

    def _row(self, call: Call, account: Account) -> Row:
        return self._so_far(call, account).row(
            self._spec,
            duration_s=self._now() - call.began,
            failure=call.failure,
            gone=call.gone and not call.exchange.finished,
            far=_asked_last(call),
            fallbacks=call.fallbacks,
        )

    def _account(self, call: Call) -> None:
        self._wills.pop(call, None)
        self._record_end(call)
        if call.counted is not None:
            self._stats.in_flight -= 1
            del self._stats.begun[call.counted]
            if (message := call.complaint) is not None:
                self._stats.failures += 1
                self._stats.last_error = message
        request = call.exchange.request
        fields: dict[str, Any] = {
            "id": call.id,
            "method": request.method,
            "path": call.path[:200],
            "status": call.status,
            "ms": round((self._now() - call.began) * 1000, 1),
        }
        if call.counted is not None:
            usage = call.usage()
            fields["model"] = call.model[:200]
            fields["stream"] = call.stream
            if not call.entrusted:  # else the other proxy's line has them
                fields["input_tokens"] = usage.get("input_tokens", call.input_tokens)
                fields["output_tokens"] = usage.get("output_tokens", 0)
        if call.token is not None:
            fields["token"] = call.token
        if call.fallbacks and call.far is not None:
            fields["fallback"] = call.far.name
        if call.route is not None:
            fields["route"] = call.route
        if call.complaint is not None:
            fields["error"] = call.complaint
        elif call.gone:
            fields["error"] = "client left"
        # Probes come every second from some watchers; they are not worth a line at the usual level.
        level = "warning" if call.complaint is not None else "info" if call.counted is not None else "debug"
        self._log(level, "request", **fields)

    _ENDPOINTS: dict[Endpoint, Callable[[Handler, Call, Route], Awaitable[None]]] = {  # noqa: RUF012  # never changed
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


async def _pump(call: Call, stream: Stream, source: Source, far: Far) -> Failure | None:
    """From the provider to the client, until either has had enough. Returns what is left to say."""
    while (items := await _received(source, stream.turn, far)) is not None:
        shown = stream.feed(items)
        # A real status is worth more than half an answer; once that is too late, all of it is said.
        if shown and (stream.failure is None or call.begun):
            call.mark_first()
            await call.say(shown)
        if stream.failure is not None:
            return stream.failure
    last = stream.end()
    if stream.failure is None:
        await call.end(last)
    return stream.failure


async def _received(source: Source, turn: Turn, far: Far) -> Sequence[Item] | None:
    """What came in together. What was sent for it may be less than the client's own request."""
    items = await source.receive()
    if source.prompt_tokens is not None:
        turn.expected = far.gauge.tuned(source.prompt_tokens)
    return items


class _Nothing:
    """Answers `max_tokens: 0`, which asks for no output: no provider is troubled."""

    def __init__(self) -> None:
        self._items: list[Item] | None = [Usage(output_tokens=0, cost_usd=0.0), Finish("max_tokens")]
        self.retries = 0
        self.remarks: Headers = []
        self.prompt_tokens: int | None = None

    async def receive(self) -> list[Item] | None:
        await trio.lowlevel.checkpoint()
        items, self._items = self._items, None
        return items

    async def aclose(self) -> None:
        pass


def _with(failure: Failure, others: Mapping[str, Sequence[str]]) -> Failure:
    """The last word of several targets; without the others' its reader wonders why it is this one's."""
    said = "; ".join(f"{what}: {', '.join(reasons)}" for what, reasons in others.items() if reasons)
    return attrs.evolve(failure, message=f"{failure.message} ({said})") if said else failure


def _asked_last(call: Call) -> WorkerSpec | None:
    return call.way or (None if call.far is None else call.far.spec)


async def _body(call: Call) -> bytes:
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
