"""A provider that speaks the Messages API itself: its bytes go to the client as they come.

Theory of operation
-------------------
A request is sent on with the least that must change (see `dialects.anthropic`); status, headers and body of
the answer come back the same way, an error's too. What is ours to say is only what the provider cannot: that
it was not reached, that it took too long, that it broke off. Before the head of its answer that is a real
status; later it is an `error` event where one may follow. In the middle of an event nothing can be said,
and the connection ends without its last chunk, so that the answer looks as cut as it is.
A provider that is silent for long gets its stream begun and filled with pings, as one that is translated
does: between its own events, and under a lock, because it may speak at any moment.

An answer that is no stream is collected first: then one that breaks off is still a real status. Of a stream
this holds up to its first event; comments and pings promise nothing. Only what is
larger than anything a model writes (files) is passed on piece by piece. The ledger's row is written before
the bytes leave that tell the client that the answer is complete.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, Protocol

import attrs
import trio

from . import app, failures, pool, tokens, upstream
from .accounts import Told
from .app import Request
from .contract import WorkerSpec
from .dial import Unreachable
from .dialects import anthropic, errors, waits
from .dialects.anthropic import Sniffer
from .dialects.seam import Condition, Headers, Sizes
from .discovery import AnthropicSurvey, Discovery, Place, RemoteSurvey, Survey
from .failures import Failure, Kind, Refused
from .model_ids import REMOTE
from .pool import Answer, Outgoing, Pool
from .wire import sse
from .wire.asks import Ask

MOST_COLLECTED = 32 * 1024 * 1024
"""Larger answers that are no streams go through piece by piece."""


class Client(Protocol):
    """The client's side of one request, as far as it is used here."""

    id: str
    last_words: Callable[[Failure], bytes | None] | None
    """How to end an answer that has begun; None as its result: by cutting it off."""
    asked_at: float
    """The hold counts from here."""

    token: str | None
    """Who asks, where callers are told apart by tokens."""

    @property
    def begun(self) -> bool:
        """It has the head of a stream already, and pings perhaps."""

    def know(self, *, model: str, stream: bool, subscription: bool) -> None: ...
    def rename(self, request_id: str) -> None: ...
    def tell(self, told: Told) -> None: ...
    def mark_first(self) -> None: ...
    def asked_again(self) -> None: ...
    def elsewhere(self, failure: Failure) -> bool:
        """Told of every error that a model request meets; True: somebody else is to be asked instead."""

    def refused(self, status: int, error_type: str, message: str) -> None: ...
    async def respond(self, status: int, headers: Headers, body: bytes) -> None: ...
    async def begin(self, status: int, headers: Headers) -> None: ...
    async def pass_on(self, data: bytes, *, last: bool = False) -> None: ...
    async def finish(self) -> None: ...


class Relay:
    """The far side of a worker that passes bytes through; also a `provider.Provider` that never translates."""

    def __init__(
        self, spec: WorkerSpec, truth: tuple[bytes, bytes], *, connections: Pool | None = None
    ) -> None:
        title = _TITLES.get(spec.provider, spec.provider)
        self.place = upstream.place(
            spec, title=title, usual=upstream.USUAL.get(spec.kind, ""), strip=("/v1",)
        )
        self.manner = anthropic.manner(spec)
        self.forwards_all = self.manner.has_all
        """Every path of the API, not only messages."""
        self.counts = self.manner.counts
        """What a prompt is made of is asked there."""
        self.truth = truth
        """The header that names what really answers."""
        self.spec = spec
        self._pool = connections or upstream.connections()
        self._limits = upstream.Limits.of(spec, local=self.place.base.origin.local)
        self._discovery = Discovery(self.place, _survey(self.place), self._pool)
        self.patience = upstream.Patience(spec)

    def __repr__(self) -> str:
        return f"<Relay {self.place.base.url}>"

    def answer(self, ask: Ask) -> NoReturn:
        """Not a way for bytes."""
        raise Refused(Failure(Kind.BUG, f"{ask.model} is not translated"))

    async def condition(self) -> Condition:
        """How the provider is; it is reached when it refuses for want of a credential that callers bring."""
        return await self._discovery.condition()

    async def doubted(self) -> None:
        """Wait until another look may show something else."""
        await self._discovery.doubted()

    def sizes(self) -> Sizes:
        """What is configured; Anthropic's own list says the rest."""
        return self._discovery.sizes()

    async def weigh(self, ask: Ask) -> int:
        """All of it is passed on."""
        return ask.input_tokens

    async def messages(self, client: Client, request: Request, body: bytes) -> None:
        """A model request, or the count of one. The caller's own goes through also when it cannot be read."""
        try:
            asked = anthropic.peek(body)
        except Refused:
            if self.spec.model:
                raise
            await self.forward(client, request, body)
            return
        subscription = anthropic.is_subscription(list(request.headers), self.spec)
        client.know(model=asked.model, stream=asked.stream, subscription=subscription)
        anthropic.refuse_features(self.spec, asked)
        sniffer = Sniffer()
        client.tell(sniffer)
        course = _Course(self, client, sniffer, is_messages=request.path == "/v1/messages")
        course.waits = asked.stream and course.is_messages
        if not self.spec.model:
            course.truth = app.truth(f"{self.spec.provider}/{asked.model}")
        await self._pass(course, request, anthropic.prepared(body, self.spec.model, self.manner))

    async def forward(self, client: Client, request: Request, body: bytes) -> None:
        """Anything else below `/v1`."""
        await self._pass(_Course(self, client, Sniffer()), request, body)

    async def _pass(self, course: _Course, request: Request, body: bytes) -> None:
        try:
            await course.run(self._outgoing(request, body))
        except Refused as refused:
            self._discovery.heard(refused.failure)
            raise
        finally:
            course.close()
        self._discovery.heard(None)

    def _outgoing(self, request: Request, body: bytes) -> Outgoing:
        base = self.place.base
        target = base.path + request.path + (f"?{request.query}" if request.query else "")
        headers = anthropic.headers_up(list(request.headers), self.spec)
        return Outgoing(request.method, base.origin, target, headers, body)

    async def open(self, outgoing: Outgoing, due: float) -> Answer:
        """The head of the answer. Raises Refused."""
        now, limits, title = trio.current_time(), self._limits, self.place.title
        waiting = (
            f"accepted no connection at {self.place.base.url} within {limits.connect_s:g}s (connect_timeout)"
        )

        def connected() -> None:
            nonlocal waiting
            waiting = f"sent nothing within {limits.first_byte_s:g}s (first_byte_timeout)"
            scope.deadline = min(due, trio.current_time() + limits.first_byte_s)

        with trio.CancelScope(deadline=min(due, now + limits.connect_s)) as scope:
            try:
                return await self._pool.send(outgoing, connected)
            except (Unreachable, pool.PoolError) as error:
                raise Refused(self.place.failure(error)) from None
        raise Refused(Failure(Kind.TIMEOUT, f"{title} {waiting}"))

    async def read(self, answer: Answer, due: float) -> bytes:
        """The next bytes of the body, `b""` at its end. Raises Refused."""
        idle_s = self._limits.idle_s
        with trio.CancelScope(deadline=min(due, trio.current_time() + idle_s)):
            try:
                return await answer.read()
            except pool.PoolError as error:
                raise Refused(self.place.failure(error)) from None
        words = f"{self.place.title} sent nothing more within {idle_s:g}s (idle_timeout), or took too long"
        raise Refused(Failure(Kind.TIMEOUT, words))

    def due(self) -> float:
        """When the whole answer must be there."""
        return trio.current_time() + self._limits.total_s


def _survey(place: Place) -> Survey:
    found = _SURVEYS.get(place.spec.kind)
    return AnthropicSurvey(place) if found is None else found(place)


_SURVEYS: dict[str, Callable[[Place], Survey]] = {
    "openrouter": lambda place: AnthropicSurvey(place, "/v1/key"),
    REMOTE: RemoteSurvey,
}
"""By kind."""
_TITLES = {anthropic.KIND: "Anthropic", "openrouter": "OpenRouter"}


class _Course:
    """One request on its way there and back."""

    def __init__(
        self, relay: Relay, client: Client, sniffer: Sniffer, *, is_messages: bool | None = None
    ) -> None:
        """`is_messages`: False for a count, None for what is neither and is passed on whatever it is."""
        self._relay = relay
        self.truth = relay.truth
        self._client = client
        self._sniffer = sniffer
        self.is_messages = is_messages is True
        self._is_known = is_messages is not None
        self.waits = False
        """Its client waits for a stream, which may begin before the provider does."""
        self._due = relay.due()
        self._answer: Answer | None = None
        self._prompt_tokens = 0
        """A guess, for an overflow that is said without numbers."""
        self._lock = trio.Lock()
        self._begun = client.begun
        self._may_ping = True
        self._said_at = trio.current_time()

    def close(self) -> None:
        """Let go of the provider, at once."""
        if self._answer is not None:
            self._answer.close()

    async def run(self, outgoing: Outgoing) -> None:
        """To its end. Raises Refused."""
        if not self.waits:
            await self._run(outgoing)
            return
        refused: Refused | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_alive)
            try:
                await self._run(outgoing)
            except Refused as error:  # carried out by hand: a nursery would wrap it
                refused = error
            nursery.cancel_scope.cancel()
        if refused is not None:
            raise refused

    async def _run(self, outgoing: Outgoing) -> None:
        self._prompt_tokens = tokens.of_bytes(len(outgoing.body))
        answer, body = await self._accepted(outgoing)
        shared = self._relay.spec.api_key is not None and self._client.token is not None
        headers = anthropic.headers_down(answer.headers, shared=shared)
        if self._relay.manner.names_itself:
            headers = [one for one in headers if one[0] not in _OF_FRONTS]
        if self.is_messages and not (self._relay.manner.names_itself and _names_itself(answer)):
            headers.append(self.truth)
        if _is_stream(answer):
            await self._stream(answer, headers, must_end=self.is_messages and not _is_coded(answer))
        else:
            await self._whole(answer, headers, body)

    # --- until the provider says something worth passing on ---

    async def _accepted(self, outgoing: Outgoing) -> tuple[Answer, bytes]:
        """The answer, and of an error its body. Asked for again where that may help."""
        tries = 0
        while True:
            reply = await self._asked(outgoing)
            stripped = self._stripped(reply, outgoing)
            if stripped is not None:  # the next one has nothing to strip
                outgoing, wait_s = attrs.evolve(outgoing, body=stripped), 0.0
            elif reply.failure is None or (pause := self._relay.patience(reply.failure, tries)) is None:
                break
            else:
                tries, wait_s = tries + 1, pause
            self.close()
            self._client.asked_again()
            await trio.sleep(wait_s)
        if reply.answer is None:
            raise Refused(reply.failure or self._cut())
        if reply.status >= 400 and self._is_known:
            self._look_elsewhere(reply)
            self._rename(reply.answer)
            self._refuse(reply.answer, reply.body)
        return reply.answer, reply.body

    def _rename(self, answer: Answer) -> None:
        """The provider's own id for it; once it is certain that the client will hear of this provider."""
        request_id = dict(answer.headers).get(b"request-id")
        if request_id and not self._begun:
            self._client.rename(request_id.decode("latin-1"))

    def _give_up(self, answer: Answer, failure: Failure) -> NoReturn:
        """Raises Refused for what looked like an answer."""
        if not (self.is_messages and self._client.elsewhere(failure)):
            self._rename(answer)
        raise Refused(failure)

    def _look_elsewhere(self, reply: _Reply) -> None:
        """Raises Refused when the client need not hear of this error, because somebody else will be asked."""
        spec, failure = self._relay.spec, reply.failure
        callers_own = spec.api_key is None and anthropic.is_anthropics(spec)
        if not self.is_messages or failure is None or (callers_own and failure.kind is Kind.KEY_REJECTED):
            return  # the caller's credential is the caller's affair
        said = errors.read(reply.body).message or f"status {reply.status}"
        failure = attrs.evolve(failure, message=f"{self._relay.place.title}: {said}")
        if self._client.elsewhere(failure):
            raise Refused(failure)

    def _stripped(self, reply: _Reply, outgoing: Outgoing) -> bytes | None:
        """The body to try instead; only of messages is it known to be one that can be read."""
        if not self._is_known:
            return None
        return anthropic.without_refused_thinking(reply.status, reply.body, outgoing.body)

    async def _asked(self, outgoing: Outgoing) -> _Reply:
        try:
            answer = self._answer = await self._relay.open(outgoing, self._due)
            if 300 <= answer.status < 400 and self._is_known:
                words = f"{self._relay.place.title} {upstream.redirected(answer.headers)}"
                return _Reply(failure=Failure(Kind.PROVIDER, words))
            if answer.status < 400:
                return _Reply(answer)
            wait_s = waits.in_headers(answer.headers)
            if wait_s is None and answer.status == 429:
                wait_s = waits.until_reset(answer.headers)
            failure = failures.from_status(answer.status, "", wait_s)
            return _Reply(answer, await self._collected(answer), failure)
        except Refused as refused:
            return _Reply(failure=refused.failure)

    def _refuse(self, answer: Answer, body: bytes) -> None:
        """Raises Refused for an error that cannot go out as it is."""
        if _is_coded(answer) and not self._begun:
            return  # its words may be anything; its status is right
        failure = anthropic.refusal(
            self._relay.spec,
            answer.status,
            answer.headers,
            body,
            title=self._relay.place.title,
            prompt_tokens=self._prompt_tokens,
            own_words=not self._begun,
        )
        if failure is not None:
            raise Refused(failure)

    # --- what the client gets ---

    async def _begin(self, status: int, headers: Headers) -> None:
        """The head, unless pings have brought one already."""
        if not self._begun:
            self._begun = True
            await self._client.begin(status, headers)

    async def _pass_on(self, data: bytes, *, last: bool = False) -> None:
        async with self._lock:
            await self._client.pass_on(data, last=last)
            self._said_at = trio.current_time()

    async def _keep_alive(self) -> None:
        """Begin the stream at the end of the hold; from then on break every long silence between two events."""
        options = self._relay.spec.options
        await trio.sleep_until(self._client.asked_at + options.hold_s)
        while True:
            silence = trio.current_time() - self._said_at if self._begun else options.ping_s
            if silence < options.ping_s:
                await trio.sleep(options.ping_s - silence)
            elif self._lock.locked() or not self._is_pause():
                await trio.sleep(options.ping_s)
            else:
                await self._ping()

    def _is_pause(self) -> bool:
        return self._may_ping and self._sniffer.at_boundary and not self._sniffer.over

    async def _ping(self) -> None:
        async with self._lock:
            self._client.last_words = self._last_words
            await self._begin(200, [*_SSE, self.truth])
            await self._client.pass_on(sse.PING)
            self._said_at = trio.current_time()

    # --- a stream ---

    async def _stream(self, answer: Answer, headers: Headers, *, must_end: bool) -> None:
        sniffer, client = self._sniffer, self._client
        client.last_words = self._last_words
        self._may_ping = must_end
        data = await (self._opening(answer) if must_end else self._heard(answer))
        if must_end and not data:
            self._give_up(answer, self._cut())
        self._rename(answer)
        async with self._lock:
            await self._begin(answer.status, headers)
        while data:
            if sniffer.begun:
                client.mark_first()
            if sniffer.error is not None:
                client.refused(_status_of(sniffer.error[0]), *sniffer.error)
            await self._pass_on(data, last=sniffer.over)
            data = await self._heard(answer)
        if must_end and not sniffer.over:
            raise Refused(self._cut())
        await client.finish()

    async def _opening(self, answer: Answer) -> bytes:
        """All up to the first event, so that an error in its place is a real status, and somebody else's chance."""
        sniffer, data = self._sniffer, b""
        while piece := await self._heard(answer):
            data += piece
            if sniffer.error is not None and sniffer.refused and not self._begun:
                kind, message = sniffer.error
                error, relay = {"type": kind, "message": message}, self._relay
                failure = anthropic.in_place(
                    relay.spec, error, title=relay.place.title, prompt_tokens=self._prompt_tokens
                )
                self._give_up(answer, failure)
            if sniffer.spoke or self._begun:
                return data
        return data if self._begun else b""

    async def _heard(self, answer: Answer) -> bytes:
        data = await self._next(answer)
        self._sniffer.feed(data)
        return data

    def _cut(self) -> Failure:
        return Failure(Kind.CUT, f"{self._relay.place.title} closed the stream early")

    async def _next(self, answer: Answer) -> bytes:
        over = self._sniffer.over
        # All was said: how and when the connection ends is nobody's business.
        due = min(self._due, trio.current_time() + upstream.BILL_S) if over else self._due
        try:
            return await self._relay.read(answer, due)
        except Refused:
            if over:
                return b""
            raise

    def _last_words(self, failure: Failure) -> bytes | None:
        if self._sniffer.over:
            return b""
        if not self._sniffer.at_boundary:
            return None
        return sse.event(b"error", failures.envelope(failure, self._client.id))

    # --- anything else ---

    async def _collected(self, answer: Answer) -> bytes:
        """Its body, or more than a model writes of it."""
        parts, size = [], 0
        while size <= MOST_COLLECTED and (data := await self._relay.read(answer, self._due)):
            parts.append(data)
            size += len(data)
        return b"".join(parts)

    async def _whole(self, answer: Answer, headers: Headers, body: bytes) -> None:
        body = body or await self._collected(answer)
        self._check(answer, body)
        self._rename(answer)
        async with self._lock:  # from here on no ping may begin a stream
            if self._begun:
                words = f"{self._relay.place.title} answered a request for a stream with something else"
                raise Refused(Failure(Kind.PROVIDER, words))
            if len(body) > MOST_COLLECTED:
                await self._piece_by_piece(answer, headers, body)
                return
            self._learn(answer, body)
            await self._client.respond(answer.status, headers, body)

    def _check(self, answer: Answer, body: bytes) -> None:
        """Raises Refused for what is no answer in spite of its status."""
        readable = not _is_coded(answer) and len(body) <= MOST_COLLECTED
        if self._is_known and answer.status < 300 and readable:
            relay = self._relay
            failure = anthropic.false_success(
                relay.spec, body, title=relay.place.title, prompt_tokens=self._prompt_tokens
            )
            if failure is not None:
                self._give_up(answer, failure)

    def _learn(self, answer: Answer, body: bytes) -> None:
        if not _is_coded(answer):
            self._sniffer.whole(body)
        if answer.status >= 400:
            kind, message = self._sniffer.error or ("", "")
            self._client.refused(answer.status, kind or _type_of(answer.status), message)
        else:
            self._client.mark_first()

    async def _piece_by_piece(self, answer: Answer, headers: Headers, data: bytes) -> None:
        self._client.last_words = _none
        await self._client.begin(answer.status, headers)
        while data:
            await self._client.pass_on(data)
            data = await self._relay.read(answer, self._due)
        await self._client.finish()


def _none(_: Failure) -> None:
    """Nothing can be added to a file."""


_SSE: Headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]


@attrs.frozen
class _Reply:
    """What came of asking once."""

    answer: Answer | None = None
    body: bytes = b""
    """Of an error."""
    failure: Failure | None = None
    """What it means for another try."""

    @property
    def status(self) -> int:
        return 0 if self.answer is None else self.answer.status


def _is_stream(answer: Answer) -> bool:
    return answer.status == 200 and dict(answer.headers).get(b"content-type", b"").startswith(
        b"text/event-stream"
    )


_OF_FRONTS = (app.RECORDED_HEADER, app.ROUTE_HEADER)
"""Of the other side's: where it went there, and in whose books it is, mean nothing here."""


def _names_itself(answer: Answer) -> bool:
    return any(name == _TRUTH for name, _ in answer.headers)


_TRUTH = app.truth("")[0]


def _is_coded(answer: Answer) -> bool:
    """Compressed, which nobody asked for: the client may understand it, the sniffer does not."""
    return dict(answer.headers).get(b"content-encoding", b"identity") != b"identity"


def _type_of(status: int) -> str:
    return failures.RULES[failures.from_status(status, "").kind].type


def _status_of(error_type: str) -> int:
    return anthropic.STATUS.get(error_type, 500)


__all__ = ["Client", "Relay"]
