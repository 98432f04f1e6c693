"""A provider that is asked over HTTP: sends what a dialect says, waits, times out, hangs up.

Theory of operation
-------------------
`Upstream` belongs to the worker, `_Answering` to one request. The dialect is pure, so everything that can go
wrong on the way is met here and nowhere else: `Place.failure` says what the pool's exceptions mean, the
scope in `receive` turns time into failures, and no other exception than cancellation leaves.

Time has four limits, of which one is due at any moment; each `receive` has one scope, whose deadline moves:

- *connect*: until the request can be sent;
- *first byte*: from the beginning until something meaningful comes. Comments of an event stream are no sign
  of a model at work, only of a router that is alive;
- *idle*: between pieces of the answer. A client that takes its time is not the provider's fault, so it counts
  from when somebody waits;
- *total*: over everything.

A request is repeated before its first item only, as often as is configured, and only when the provider asks
for little patience or was never reached; one that failed by the model's own fault (a call it wrote badly), or
by a wish that the dialect can give up, is repeated at once. Once a provider has said how its answer ends it gets a
moment for what belongs to it still (a bill, the last of a call), and hardly one behind its very last word.
"""

from __future__ import annotations

import itertools
import random
import zlib
from collections.abc import Callable
from typing import Any

import attrs
import trio

from . import __version__, attempts, discovery, materials, pool
from .contract import WorkerSpec
from .dial import Base, Dialer, Proxies, Unreachable, basic, parse_base
from .dialects import toolless
from .dialects.blocks import prompt_tokens
from .dialects.seam import Call, Condition, Decoder, Dialect, Headers, NewId, Sizes, Terms
from .discovery import Discovery, Place
from .failures import Failure, Kind, Refused
from .pool import Answer, Outgoing, Pool
from .wire.asks import Ask
from .wire.items import Finish, Item, Usage

CONNECT_LOCAL_S, CONNECT_S = 5.0, 10.0
IDLE_LOCAL_S, IDLE_S = 300.0, 120.0
MOST_OFFERS = 3
"""A server may name the things that it does not take one at a time."""
MOST_ERROR = 256 * 1024
ERROR_S = 5.0
"""How long the body of an error may take; its status says enough."""
BILL_S = 2.0
"""How long a provider may take to end an answer that it has called finished."""
TIDY_S = 0.25
"""The same where nothing can come any more, for the sake of the connection."""
MOST_ANSWER = 256 * 1024 * 1024
"""No model writes so much; a server that does would go on until the disk or somebody's patience ends."""

Again = Callable[[Ask, Terms, int, bytes], "Terms | None"]
"""A dialect's offer to repeat a refused request under other terms, or under the same ones."""
Log = Callable[..., None]
_NEVER = float("inf")


@attrs.frozen
class Limits:
    """`Timeouts`, with what depends on where the provider is filled in."""

    connect_s: float
    first_byte_s: float
    idle_s: float
    total_s: float

    @classmethod
    def of(cls, spec: WorkerSpec, *, local: bool) -> Limits:
        times = spec.timeouts
        connect_s, idle_s = (CONNECT_LOCAL_S, IDLE_LOCAL_S) if local else (CONNECT_S, IDLE_S)
        return cls(
            connect_s=connect_s if times.connect_s is None else times.connect_s,
            first_byte_s=times.first_byte_s,
            idle_s=idle_s if times.idle_s is None else times.idle_s,
            total_s=_NEVER if times.total_s is None else times.total_s,
        )


class Patience:
    """When the same is tried again: `attempts.after`, with its time drawn."""

    def __init__(self, spec: WorkerSpec, jitter: Callable[[], float] = random.random) -> None:
        self._retries = spec.options.retries
        self._others = bool(spec.fallback)
        self._jitter = jitter

    def __call__(self, failure: Failure, tried: int) -> float | None:
        """How long to wait first, after so many tries; None: it is not tried again."""
        step = attempts.after(attempts.Plan(self._retries, tried, self._others), failure, sent=False)
        return step.wait_s + step.spread_s * self._jitter() if isinstance(step, attempts.Retry) else None


class Upstream:
    """See `provider.Provider`."""

    def __init__(
        self,
        place: Place,
        dialect: Dialect,
        survey: discovery.Survey,
        new_id: NewId,
        log: Log,
        *,
        pool: Pool,
        again: Again | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.place = place
        self.dialect = dialect
        self.pool = pool
        self.new_id = new_id
        self.log = log
        self.again = again
        self.limits = Limits.of(place.spec, local=place.base.origin.local)
        self.discovery = Discovery(place, survey, pool)
        self.patience = Patience(place.spec, jitter)
        self.materials = materials.of(place.spec.options, log)

    def answer(self, ask: Ask) -> _Answering:
        """Nothing is sent before the first `receive`."""
        return _Answering(self, ask)

    async def condition(self) -> Condition:
        return await self.discovery.condition()

    async def doubted(self) -> None:
        await self.discovery.doubted()

    def sizes(self) -> Sizes:
        return self.discovery.sizes()

    async def weigh(self, ask: Ask) -> int:
        terms = self.discovery.known()
        ask, sight = toolless.shown(ask, terms), self.dialect.sight(terms)
        if self.materials is not None:
            # What is not here yet will be: until then a file counts by its pages.
            ask, sight = await self.materials.filled(ask, sight), self.materials.wider(sight)
        return prompt_tokens(ask, sight)

    def outgoing(self, call: Call) -> Outgoing:
        """The call as a request to our base URL."""
        base = self.place.base
        names = {name.lower() for name, _ in call.headers}
        headers = list(call.headers)
        if b"user-agent" not in names:
            headers.append((b"user-agent", b"modelproxy/" + __version__.encode()))
        if base.credentials and b"authorization" not in names:
            headers.append((b"authorization", basic(base.credentials)))
        return Outgoing(call.method, base.origin, base.path + call.path, headers, call.body)


# --- time -----------------------------------------------------------------------------------------


@attrs.frozen
class _Limit:
    """One limit, and what is said when it is passed."""

    words: str
    setting: str
    seconds: float
    due: float


class _Clock:
    """Which limit is due next. `scope` is the one of the `receive` that is waiting now."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._since = trio.current_time()
        """The beginning of this attempt."""
        self._total = self._limit("did not finish", "total_timeout", limits.total_s, self._since)
        self._first = self._limit("sent nothing", "first_byte_timeout", limits.first_byte_s, self._since)
        self.limit = self._total
        self.scope: trio.CancelScope | None = None

    def _limit(self, words: str, setting: str, seconds: float, since: float) -> _Limit:
        return _Limit(words, setting, seconds, since + seconds)

    def _set(self, limit: _Limit) -> None:
        self.limit = limit if limit.due < self._total.due else self._total
        if self.scope is not None:
            self.scope.deadline = self.limit.due

    def connecting(self) -> None:
        """From the beginning of the attempt: whoever waited for a look at the provider waited for it."""
        limit = self._limits.connect_s
        self._set(self._limit("accepted no connection", "connect_timeout", limit, self._since))

    def waiting(self) -> None:
        """For the first byte. Later attempts have the same time as the first one."""
        self._set(self._first)

    def again(self) -> None:
        """A new attempt; only the total goes on."""
        since = self._since = trio.current_time()
        self._first = self._limit("sent nothing", "first_byte_timeout", self._limits.first_byte_s, since)
        self._set(self._total)

    def heard(self) -> None:
        """Something came, or somebody waits again."""
        idle_s, now = self._limits.idle_s, trio.current_time()
        self._set(self._limit("sent nothing more", "idle_timeout", idle_s, now))

    def heard_early(self) -> None:
        """Something came that shows nothing yet: the time for the first byte may become longer, never shorter."""
        if trio.current_time() + self._limits.idle_s > self._first.due:
            self.heard()

    def unfinished(self, *, shown: bool) -> None:
        """It was not finished after all: the limits are those of before."""
        if shown:
            self.heard()
        else:
            self.waiting()
            self.heard_early()

    def finishing(self, seconds: float) -> None:
        self._set(self._limit("", "", seconds, trio.current_time()))


# --- one request ----------------------------------------------------------------------------------


class _Answering:
    """See `provider.Source`."""

    def __init__(self, far: Upstream, ask: Ask) -> None:
        self._far = far
        self._ask = ask
        self._clock: _Clock | None = None
        self._answer: Answer | None = None
        self._decoder: Decoder | None = None
        self._received = 0
        self._shown = False
        """An item has come: from now on nothing is repeated."""
        self._finished = False
        self._counts: list[Item] = []
        """All that has come so far, while somebody waits for what says something."""
        self._rest_s: float | None = None
        """How long what belongs to a finished answer may take, once somebody waits for nothing else."""
        self._ended = False
        """All of the provider's bytes are here; its last items may not be."""
        self._over = False
        self.retries = 0
        """How often it was asked again, for whatever reason."""
        self.remarks: Headers = []
        self.prompt_tokens: int | None = None

    async def receive(self) -> list[Item] | None:
        """What came in together; None when nothing more will."""
        if self._over:
            await trio.lowlevel.checkpoint()
            return None
        clock = self._clock = self._clock or _Clock(self._far.limits)
        self._rest_s = None
        if self._shown:
            clock.heard()
            self._hurry(clock)
        with trio.CancelScope(deadline=clock.limit.due) as clock.scope:
            return self._noted(await self._items())
        self._let_go()
        if self._finished:
            return None
        return self._noted([*self._counts, *(self._held() or [self._late(clock.limit)])])

    async def aclose(self) -> None:
        """Never waits."""
        self._let_go()

    def _let_go(self) -> None:
        self._over = True
        if self._answer is not None:
            self._answer.close()

    def _hurry(self, clock: _Clock) -> None:
        """Once only the rest of a finished answer may come, it has a deadline that nothing moves."""
        decoder = self._decoder
        if decoder is None:
            return
        if not (self._finished or decoder.is_ending):
            if self._rest_s is not None:  # more came behind the word for the end
                self._rest_s = None
                clock.unfinished(shown=self._shown)
            return
        rest_s = TIDY_S if decoder.is_over else BILL_S
        if rest_s != self._rest_s:
            self._rest_s = rest_s
            clock.finishing(rest_s)

    def _held(self) -> list[Item]:
        """What waited for the end of an answer that has been called finished."""
        return [] if self._rest_s is None or self._decoder is None else self._decoder.end()

    def _noted(self, items: list[Item]) -> list[Item] | None:
        """Remember what these items mean for the rest of the answer."""
        if not items:
            return None
        failed = next((item for item in items if isinstance(item, Failure)), None)
        if failed is not None:
            items = items[: items.index(failed) + 1]  # a dialect may have read on
            self._let_go()
            self._far.discovery.heard(failed)
        elif not self._shown:
            self._far.discovery.heard(None)
        self._shown = True
        self._finished = self._finished or _has_finish(items)
        return items

    async def _items(self) -> list[Item]:
        """At least one, or none at the end."""
        return await self._more() if self._shown else await self._begin()

    # --- until the first item ---

    async def _begin(self) -> list[Item]:
        """The first items of the first attempt that has any worth showing."""
        assert self._clock is not None  # made by `receive`
        await trio.lowlevel.checkpoint()  # a refusal of the dialect needs no wait
        limits = self._far.limits
        patience_s = min(discovery.PROBE_S, limits.first_byte_s / 2, limits.connect_s / 2)
        terms = await self._far.discovery.terms(patience_s)
        await self._make_ready(terms)
        offers, tries = itertools.count(1), itertools.count()
        while True:
            attempt = await self._attempt(terms)
            if not isinstance(attempt, _Miss):
                return attempt
            new = attempt.terms
            if new is not None and next(offers) <= (1 if new is terms else MOST_OFFERS):
                self._learn(terms, new)
                terms = new
            elif (wait_s := self._far.patience(attempt.failure, next(tries))) is not None:
                self._clock.again()
                await trio.sleep(wait_s)
            else:
                return [*attempt.counts, attempt.failure]
            self.retries += 1
            self._clock.again()

    async def _make_ready(self, terms: Terms) -> None:
        """What the request needs and does not hold. It is not the provider who lets us wait for that."""
        assert self._clock is not None  # made by `receive`
        if self._far.materials is not None:
            self._ask = await self._far.materials.fill(self._ask, self._far.dialect.sight(terms))
            self._clock.again()

    def _learn(self, old: Terms, new: Terms) -> None:
        changed = {key: value for key, value in new.facts.items() if old.facts.get(key) != value}
        if changed:
            self._far.discovery.learn(changed)

    async def _attempt(self, terms: Terms) -> list[Item] | _Miss:
        self._rest_s = None
        try:
            call = self._call(terms)
            self._tell(call)
            self.remarks, self.prompt_tokens = call.remarks, call.prompt_tokens
            answer = self._answer = await self._send(call)
        except Refused as refused:
            return [refused.failure]
        except (Unreachable, pool.PoolError) as error:
            return _Miss(self._far.place.failure(error))
        if not 200 <= answer.status < 300:
            return await self._refusal(answer, terms)
        compressed = _coding(answer.headers)
        if compressed:
            answer.close()
            return [self._bad(f"answered compressed ({compressed}), which was not asked for")]
        self._decoder = self._far.dialect.decoder(self._ask, terms, new_id=self._far.new_id)
        items = await self._first_items()
        if items and isinstance(last := items[-1], Failure) and _only_counts(items[:-1]):
            answer.close()
            return _Miss(last, self._of_fault(last, terms), items[:-1])
        return items

    async def _first_items(self) -> list[Item]:
        """Up to the first that says something: some servers begin with the counts."""
        assert self._clock is not None
        items = more = await self._more()
        while more and _only_counts(items):
            self._counts = items
            self._hurry(self._clock)
            more = await self._more()
            items = [*items, *more]
        self._counts = []
        return items

    def _of_fault(self, failure: Failure, terms: Terms) -> Terms | None:
        """The model may also fail inside a 200, before it has shown anything."""
        return None if self._far.again is None else self._far.again(self._ask, terms, 500, _as_body(failure))

    def _call(self, terms: Terms) -> Call:
        try:
            return self._far.dialect.call(self._ask, terms)
        except RecursionError:  # what could just be read is a level deeper in the provider's words
            raise Refused(Failure(Kind.INVALID, "the body is JSON nested too deeply")) from None

    def _tell(self, call: Call) -> None:
        if call.notes:
            self._far.log("info", "translated", notes="; ".join(call.notes)[:1000])

    async def _send(self, call: Call) -> Answer:
        clock = self._clock
        assert clock is not None
        clock.connecting()
        return await self._far.pool.send(self._far.outgoing(call), clock.waiting)

    async def _refusal(self, answer: Answer, terms: Terms) -> _Miss:
        if 300 <= answer.status < 400:
            answer.close()
            return _Miss(self._bad(redirected(answer.headers)))
        body = _readable(await _body_of_error(answer), _coding(answer.headers))
        failure = self._far.dialect.failure(self._ask, terms, answer.status, answer.headers, body)
        again = self._far.again
        return _Miss(failure, None if again is None else again(self._ask, terms, answer.status, body))

    # --- from the first item on ---

    async def _more(self) -> list[Item]:
        """The next items, whatever number of pieces they take; none at the end."""
        assert self._answer is not None
        assert self._decoder is not None
        if (items := self._decoder.rest()) or self._ended:
            self._over = not items
            await trio.lowlevel.checkpoint()
            return items
        assert self._clock is not None
        try:
            while data := await self._answer.read():
                self._hear(data)
                if self._received > MOST_ANSWER:
                    return [self._bad("does not stop answering")]
                if items := self._decoder.feed(data):
                    return items
                self._hurry(self._clock)
                # Pieces that are there already must not keep the loop from everybody else.
                await trio.lowlevel.checkpoint()
        except pool.PoolError as error:
            self._over = True
            if self._finished:
                return []
            items = self._decoder.end()
            while not _has_finish(items) and (more := self._decoder.rest()):
                items = [*items, *more]
            return items if _has_finish(items) else [*items, self._far.place.failure(error)]
        self._ended = True
        await trio.lowlevel.checkpoint()  # the end may have been there already
        items = self._decoder.end()
        self._over = not items
        return items

    def _hear(self, data: bytes) -> None:
        assert self._clock is not None
        self._received += len(data)
        if self._rest_s is not None:
            return
        if self._shown:
            self._clock.heard()
        elif not _is_comment(data):
            self._clock.heard_early()

    # --- words ---

    def _late(self, limit: _Limit) -> Failure:
        place = self._far.place
        where = f" at {place.base.url}" if limit.setting == "connect_timeout" else ""
        return Failure(
            Kind.TIMEOUT, f"{place.title} {limit.words}{where} within {limit.seconds:g}s ({limit.setting})"
        )

    def _bad(self, words: str) -> Failure:
        return Failure(Kind.PROVIDER, f"{self._far.place.title} {words}")


@attrs.frozen
class _Miss:
    """An attempt that came to nothing."""

    failure: Failure
    terms: Terms | None = None
    """The dialect's offer: under these it may come to something."""
    counts: list[Item] = attrs.Factory(list)
    """What it has cost all the same."""


def _has_finish(items: list[Item]) -> bool:
    return any(isinstance(item, Finish) for item in items)


def _only_counts(items: list[Item]) -> bool:
    return all(isinstance(item, Usage) for item in items)


async def _body_of_error(answer: Answer) -> bytes:
    """As much of it as comes soon: a status with half a reason is better than none."""
    found = bytearray()
    with trio.move_on_after(ERROR_S):
        try:
            while len(found) <= MOST_ERROR and (data := await answer.read()):
                found += data
        except pool.PoolError:
            pass
    answer.close()
    return bytes(found[:MOST_ERROR])


def _coding(headers: Headers) -> str:
    found = [value.strip().lower() for name, value in headers if name == b"content-encoding"]
    return b", ".join(one for one in found if one not in (b"", b"identity")).decode("latin-1")


def _readable(body: bytes, coding: str) -> bytes:
    """An error's body without its compression; nothing where that is unknown or broken: it says no words."""
    if not coding:
        return body
    try:
        return zlib.decompressobj(_GZIP_OR_ZLIB).decompress(body, MOST_ERROR)
    except zlib.error:
        return b""


_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS


def _is_comment(data: bytes) -> bool:
    """Whether a piece of an event stream is nothing but comments and ends of lines."""
    return all(line.startswith(b":") or not line.strip() for line in data.splitlines())


def _as_body(failure: Failure) -> bytes:
    return failure.message.encode("utf-8", "replace")


def redirected(headers: Headers) -> str:
    """What to say of a redirect, which is never followed: without its query, which may hold a key."""
    place = dict(headers).get(b"location", b"").decode("latin-1").partition("?")[0][:200]
    shown = f" to {place}" if place.startswith(("/", "http")) and "@" not in place else ""
    return f"redirects{shown}; set base_url to where it really is"


# --- one of each kind -----------------------------------------------------------------------------


def place(spec: WorkerSpec, *, title: str, usual: str, hint: str = "", strip: tuple[str, ...] = ()) -> Place:
    """Where the provider of a spec is. Raises ValueError."""
    try:
        base = parse_base(spec.base_url or usual)
    except ValueError as error:
        raise ValueError(f"provider {spec.provider}: {error}") from None
    for suffix in strip:
        base = attrs.evolve(base, path=base.path.removesuffix(suffix))
    _check(spec)
    return Place(spec, base, title, hint)


def _check(spec: WorkerSpec) -> None:
    """What would break every request is refused before the first."""
    pairs = [("the API key", "x-key", spec.api_key or "")]
    pairs += [(f"header {name!r}", name, value) for name, value in spec.options.headers.items()]
    for what, name, value in pairs:
        if not pool.is_sendable(name.encode("utf-8"), value.encode("utf-8")):
            raise ValueError(f"provider {spec.provider}: {what} holds what no header can hold")


def connections() -> Pool:
    """A pool that knows the proxies of this process's environment."""
    import os

    return Pool(Dialer(Proxies.of(os.environ)))


USUAL = {
    "anthropic": "https://api.anthropic.com",
    "ollama": "http://127.0.0.1:11434",
    "openai": "https://api.openai.com/v1",
    "openrouter": "https://openrouter.ai/api/v1",
}
"""Where a provider of a kind is, unless somebody says."""


def ollama(spec: WorkerSpec, new_id: NewId, log: Log) -> Upstream:
    """Ollama's own protocol. Its base URL is often given with the path of one of its other protocols."""
    from .dialects import ollama as words

    def interpret(show: Any, ps: Any) -> discovery.Facts:
        found = words.facts_from(show, ps, spec.model)
        return discovery.Facts(found.window, None, found.capabilities, found.details)

    here = place(
        spec,
        title="Ollama" if spec.provider == "ollama" else f"Ollama ({spec.provider})",
        usual=USUAL["ollama"],
        hint=f"; {words.SERVE_HINT}",
        strip=("/v1", "/api"),
    )
    survey = discovery.OllamaSurvey(here, interpret, words.hopeless)
    return Upstream(here, words.Ollama(), survey, new_id, log, pool=connections(), again=words.again)


def openai(spec: WorkerSpec, new_id: NewId, log: Log) -> Upstream:
    """Every server that speaks chat completions; OpenRouter's key can be looked at."""
    from .dialects import openai as words

    router = spec.kind == "openrouter"
    dialect = words.OpenAI.of(spec.kind, spec.provider, spec.base_url, server=spec.options.server)
    here = place(
        spec,
        title=dialect.server.title or spec.provider,
        usual=USUAL["openrouter" if router else "openai"],
        strip=(words.PATH,),
    )
    survey = discovery.ListSurvey(here, "/key" if router else None)
    return Upstream(here, dialect, survey, new_id, log, pool=connections(), again=words.again)


__all__ = ["Base", "Limits", "Upstream", "connections", "ollama", "openai", "place"]
