"""The front door's far side: each request goes to another proxy of ours, or to Anthropic as it is.

Theory of operation
-------------------
`front` decides, this carries out. What goes to Anthropic is an ordinary `Relay` without a model or a key of its
own: the caller's bytes and the caller's credential. What goes to another proxy crosses to its port by a `Hop`:
no byte is changed, nothing is read twice, and the connection is kept. A proxy that is idle has its socket open,
so the connection alone brings it back.

Of an answer in a session of Claude Code a listener learns whom it sends out (`lineage`).

A hop has no time limits of its own, no retries and no pings: the proxy behind it has them all, and errors of it
pass as they are. Ours is only what it cannot say: that it is not there, or that it broke off.

Each request has one row in the ledger. Who asks a provider writes it, because only that one knows what was
counted and paid: behind a hop that is the other proxy, which is told agent and route by headers, and says by one
in its answer that the row is its own. Only where nobody has said that (the proxy is down, or its worker died
before it answered) the front writes the row.
"""

from __future__ import annotations

import math
from typing import Any, NoReturn, Protocol

import attrs
import trio

from . import access, app, failures, front, pool, relay, upstream
from .app import Request
from .contract import Front, Options, Place, WorkerSpec
from .dial import Dialer, Unreachable, parse_base
from .dialects import anthropic
from .dialects.anthropic import Sniffer
from .dialects.seam import Condition, Headers, Sizes
from .failures import Failure, Kind, Refused
from .lineage import Lineage, Listener
from .model_ids import parted
from .pool import Answer, Outgoing, Pool
from .relay import MOST_COLLECTED, Relay
from .wire import sse
from .wire.asks import Ask

CONNECT_S = 5.0
"""To a socket on this machine."""
LOOK_S = 2.0
"""How long a place that could not be had may take to say that it can."""


class Client(relay.Client, Protocol):
    """The client's side of one request, as far as a front uses it."""

    entrusted: bool
    listener: Listener | None

    @property
    def said_agent(self) -> str | None: ...
    @property
    def via(self) -> str | None: ...
    def goes(self, route: str, spec: WorkerSpec, agent: str | None) -> None: ...


class Crossing:
    """All that lies behind a front; also a `provider.Provider` that never translates."""

    forwards_all = True
    counts = True

    def __init__(
        self, spec: WorkerSpec, ways: Front, *, far: Pool | None = None, near: Pool | None = None
    ) -> None:
        self._spec = spec
        self._home = attrs.evolve(
            spec,
            provider=front.OWN,
            kind=anthropic.KIND,
            model="",
            model_id=front.OWN,
            api_key=None,
            front=None,
        )
        self._relay = Relay(self._home, app.truth(front.OWN), connections=far or upstream.connections())
        self._near = near or Pool(Dialer())
        self._hops: dict[str, Hop] = {}
        self._lineage = Lineage()
        self.lead(ways)

    def lead(self, ways: Front) -> None:
        """By these rules from now on; what is under way goes on as it began."""
        self.plan = front.Plan(ways)
        known = self._hops
        self._hops = {
            place.name: old
            if (old := known.get(place.name)) is not None and old.url == place.url
            else Hop(place, self._near)
            for place in ways.places
            if place.url is not None
        }
        self._specs = {place.name: _spec_of(self._spec, place) for place in ways.places}

    def __repr__(self) -> str:
        return f"<Crossing {len(self._hops)} hops, else {self.plan.front.otherwise}>"

    # --- as a provider ---

    def answer(self, ask: Ask) -> NoReturn:
        """Not a way for bytes."""
        raise Refused(Failure(Kind.BUG, f"{ask.model} is not translated"))

    async def condition(self) -> Condition:
        """How Anthropic is, if anything goes there. No place is asked: a look would bring an idle one back."""
        seen = await self._relay.condition() if self.plan.leads_home else Condition(ok=True)
        closed = [place.name for place in self.plan.front.places if place.url is None]
        if closed and not seen.warning:
            return attrs.evolve(seen, warning=f"not up: {', '.join(closed)}")
        return seen

    async def doubted(self) -> None:
        """Wait until another look may show something else."""
        await self._relay.doubted()

    def sizes(self) -> Sizes:
        """Nobody's in particular."""
        return Sizes()

    async def weigh(self, ask: Ask) -> int:
        """All of it is passed on."""
        return ask.input_tokens

    async def look(self) -> None:
        """See whether places that could not be had can be by now. Others are not asked, as in `condition`."""
        async with trio.open_nursery() as nursery:
            for hop in self._hops.values():
                if hop.is_down:
                    nursery.start_soon(hop.look)

    @property
    def has_places(self) -> bool:
        """Whether any place is there of which nothing is known that keeps it from answering."""
        return any(hop.trouble is None for hop in self._hops.values())

    def shown(self) -> list[dict[str, Any]]:
        """For `/health`: what requests have lately shown of each place."""
        return [self._shown(place) for place in self.plan.front.places]

    def _shown(self, place: Place) -> dict[str, Any]:
        found: dict[str, Any] = {"name": place.name, "model_id": place.model_id, "url": place.url}
        hop = self._hops.get(place.name)
        if hop is None:
            return {**found, "state": "down", "detail": front.down(place)}
        if hop.trouble is not None:
            return {**found, "state": "failing", "detail": hop.trouble}
        return {**found, "state": "works" if hop.used else "not asked yet", "detail": ""}

    # --- requests ---

    async def messages(self, client: Client, request: Request, body: bytes) -> None:
        """A model request, or the count of one."""
        asked = self._named(client, front.read(_Headed(request), body, client.said_agent), body)
        client.know(model=asked.model, stream=asked.stream, subscription=False)
        way = self._decided(client, asked)
        hop = self._turned(client, way)
        if hop is None:
            await self._relay.messages(client, request, body)
        else:
            await hop.carry(client, request, body, self._said(way), is_message=request.path == "/v1/messages")

    async def forward(self, client: Client, request: Request, body: bytes) -> None:
        """Anything else."""
        way = self._decided(client, front.read(_Headed(request), None, client.said_agent))
        hop = self._turned(client, way)
        if hop is None:
            await self._relay.forward(client, request, body)
        else:
            await hop.carry(client, request, body, self._said(way), is_message=False)

    def _named(self, client: Client, asked: front.Asked, body: bytes) -> front.Asked:
        """With the name of a sub-agent that was sent out here; whoever is sent out now will be known."""
        if asked.session_id is None:
            return asked
        client.listener = self._lineage.listener(asked.session_id)
        if asked.agent is not None or asked.agent_id is None:
            return asked
        return attrs.evolve(asked, agent=self._lineage.name(asked.session_id, asked.agent_id, body))

    def _decided(self, client: Client, asked: front.Asked) -> front.Way:
        if client.via is not None:
            words = f"the request came through {client.via} already; a front leads to no other front"
            raise Refused(Failure(Kind.INVALID, words))
        if client.said_agent is not None and not self.plan.knows(client.said_agent):
            raise Refused(Failure(Kind.NOT_FOUND, self.plan.unknown(client.said_agent)))
        return self.plan.decide(asked)

    def _turned(self, client: Client, way: front.Way) -> Hop | None:
        """Where it goes; None: to Anthropic. Raises Refused for a place that is not up."""
        name = self._spec.name
        if way.to == front.OWN:
            client.goes(f"{name}>{front.OWN}", self._home, way.agent)
            return None
        place = self.plan.places[way.to]
        client.goes(f"{name}>{place.name}", self._specs[way.to], way.agent)
        hop = self._hops.get(way.to)
        if hop is None:
            raise Refused(Failure(Kind.UNREACHABLE, front.down(place)))
        return hop

    def _said(self, way: front.Way) -> Headers:
        found = [(app.VIA_HEADER, app.header_safe(self._spec.name))]
        if way.agent is not None:
            found.append((app.AGENT_HEADER, app.header_safe(way.agent)))
        return found


@attrs.frozen
class _Headed:
    """A request's head, of which one header at a time is asked for."""

    request: Request

    @property
    def path(self) -> str:
        return self.request.path

    def header(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.request.headers if key == name), None)


def _spec_of(spec: WorkerSpec, place: Place) -> WorkerSpec:
    """What the ledger says of a place that has not answered."""
    provider, model = parted(place.model_id)
    kind = provider.partition("/")[0]
    return attrs.evolve(spec, provider=provider, kind=kind, model=model, model_id=place.model_id, front=None)


class Hop:
    """The way to one other proxy on this machine."""

    def __init__(self, place: Place, connections: Pool) -> None:
        assert place.url is not None
        self.url = place.url
        self._place = place
        self._base = parse_base(place.url)
        self._pool = connections
        self.used = False
        """It has answered."""
        self.trouble: str | None = None
        """What was wrong with its last answer, when that was not the request's fault."""
        self.is_down = False
        """It, or its provider, was not there: that it is again can be seen without a request."""

    async def look(self) -> None:
        """Ask it how it is."""
        with trio.move_on_after(LOOK_S):
            outgoing = Outgoing("GET", self._base.origin, "/health", [], b"")
            try:
                answer = await self._pool.send(outgoing)
            except (Unreachable, pool.PoolError):
                return
            answer.close()
            if answer.status == 200:
                self._showed(None)

    async def carry(
        self, client: Client, request: Request, body: bytes, said: Headers, *, is_message: bool
    ) -> None:
        """One request there, its answer back. Raises Refused."""
        target = request.path + (f"?{request.query}" if request.query else "")
        headers = anthropic.headers_up(list(request.headers), _ANYBODY) + said + _kept(request)
        outgoing = Outgoing(request.method, self._base.origin, target, headers, body)
        # From here on its row is written by whoever gets it, also when our client leaves before the answer.
        client.entrusted = is_message
        try:
            answer = await self._send(outgoing)
        except Refused as refused:
            client.entrusted = False
            self.trouble, self.is_down = refused.failure.message, True
            raise
        try:
            await self._back(client, answer)
        finally:
            answer.close()

    async def _send(self, outgoing: Outgoing) -> Answer:
        with trio.CancelScope(deadline=trio.current_time() + CONNECT_S) as scope:

            def connected() -> None:
                scope.deadline = math.inf

            try:
                return await self._pool.send(outgoing, connected)
            except Unreachable as error:
                raise Refused(self._unreachable(str(error))) from None
            except pool.PoolError as error:
                words = f"{self._place.name} ended the connection before it answered: {error}"
                raise Refused(Failure(Kind.OVERLOADED, words)) from None
        raise Refused(self._unreachable(f"no connection within {CONNECT_S:g} s"))

    def _unreachable(self, why: str) -> Failure:
        name = self._place.name
        words = f"{name} is not reachable at {self._place.url}: {why}; see proxyctl why {name}"
        return Failure(Kind.UNREACHABLE, words)

    async def _back(self, client: Client, answer: Answer) -> None:
        found = dict(answer.headers)
        if app.RECORDED_HEADER not in found:
            client.entrusted = False
        if not client.begun and (request_id := found.get(b"request-id")):
            client.rename(request_id.decode("latin-1"))
        headers = [one for one in anthropic.headers_down(answer.headers) if one[0] != app.RECORDED_HEADER]
        if answer.status == 200 and found.get(b"content-type", b"").startswith(b"text/event-stream"):
            await self._stream(client, answer, headers)
        else:
            await self._whole(client, answer, headers)

    # --- a stream ---

    async def _stream(self, client: Client, answer: Answer, headers: Headers) -> None:
        ending = Ending()
        client.last_words = lambda failure: ending.words(failure, client.id)
        if not client.begun:
            await client.begin(answer.status, headers)
        client.mark_first()
        while data := await self._next(answer, ending):
            if (error := ending.feed(data)) is not None:
                client.refused(anthropic.STATUS.get(error[0], 500), *error)
            await client.pass_on(data, last=ending.over)
        self._showed(None if ending.error is None else ending.error[1])
        await client.finish()

    async def _next(self, answer: Answer, ending: Ending) -> bytes:
        try:
            return await answer.read()
        except pool.PoolError as error:
            if ending.over:
                return b""
            raise Refused(self._cut(error)) from None

    def _cut(self, error: pool.PoolError) -> Failure:
        self._showed(f"{self._place.name} broke off in the middle of its answer: {error}")
        return Failure(Kind.CUT, self.trouble or "")

    def _showed(self, trouble: str | None, *, is_down: bool = False) -> None:
        self.used, self.trouble, self.is_down = True, trouble, is_down

    # --- anything else ---

    async def _whole(self, client: Client, answer: Answer, headers: Headers) -> None:
        body = await self._collected(answer)
        kind, message = _error_in(answer.status, body)
        self._showed(message if answer.status >= 500 else None, is_down=answer.status == 503)
        if client.begun:
            raise Refused(self._too_late(answer.status, message))
        if answer.status >= 400:
            client.refused(answer.status, kind, message)
        if len(body) > MOST_COLLECTED:
            await self._piece_by_piece(client, answer, headers, body)
        else:
            await client.respond(answer.status, headers, body)

    def _too_late(self, status: int, message: str) -> Failure:
        """What is left to say of an answer that is no stream, to a client that has been told of one."""
        if status >= 400:
            return failures.from_status(status, message)
        words = f"{self._place.name} answered a request for a stream with something else"
        return Failure(Kind.PROVIDER, words)

    async def _collected(self, answer: Answer) -> bytes:
        parts, size = [], 0
        while size <= MOST_COLLECTED and (data := await self._read(answer)):
            parts.append(data)
            size += len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _read(self, answer: Answer) -> bytes:
        try:
            return await answer.read()
        except pool.PoolError as error:
            raise Refused(self._cut(error)) from None

    async def _piece_by_piece(self, client: Client, answer: Answer, headers: Headers, data: bytes) -> None:
        client.last_words = _none
        await client.begin(answer.status, headers)
        while data:
            await client.pass_on(data)
            data = await self._read(answer)
        await client.finish()


def _error_in(status: int, body: bytes) -> tuple[str, str]:
    """Type and message of an error, in the proxy's own words where there are any."""
    if status < 400:
        return "", ""
    sniffer = Sniffer()
    sniffer.whole(body)
    usual = failures.RULES[failures.from_status(status, "").kind].type
    kind, message = sniffer.error or ("", "")
    return kind or usual, (message or f"status {status}")[:300]


def _none(_: Failure) -> None:
    """Nothing can be added to a file."""


def _kept(request: Request) -> Headers:
    """Another proxy of ours must know who asks: it has limits for that, may demand it, and writes the row.

    And how many modelproxies the request has come through, if it came through any.
    """
    token = access.presented(request)
    said = [] if token is None else [(access.HEADER, token)]
    return said + [one for one in request.headers if one[0] == anthropic.HOPS_HEADER]


_ANYBODY = WorkerSpec(
    name="", model_id="", provider=anthropic.KIND, kind=anthropic.KIND, model="", port=0, options=Options()
)
"""Headers go to a proxy as they came: it takes off what its provider must not see, credentials first."""


class Ending:
    """Whether a stream has said that it is over, and whether something may be added. Decodes nothing but an error.

    Text is escaped inside an event, so a line that begins with `event: error` is one.
    """

    _LONGEST = 64

    def __init__(self) -> None:
        self.error: tuple[str, str] | None = None
        """Type and message."""
        self._is_last = False
        """The event that is its last has begun."""
        self._tail = b"\n"

    @property
    def over(self) -> bool:
        return self._is_last and self.at_boundary

    @property
    def at_boundary(self) -> bool:
        return self._tail in (b"", b"\n") or self._tail.endswith((b"\n\n", b"\r\n\r\n", b"\r\r"))

    def feed(self, data: bytes) -> tuple[str, str] | None:
        """Some bytes, however they were cut; an error that begins in them."""
        seen = self._tail + data
        if b"\nevent: message_stop" in seen:
            self._is_last = True
        self._tail = seen[-self._LONGEST :]
        if self.error is not None or (at := seen.find(b"\nevent: error")) < 0:
            return None
        self._is_last = True
        sniffer = Sniffer()
        sniffer.feed(seen[at + 1 :])
        self.error = sniffer.error or ("api_error", "")
        return self.error

    def words(self, failure: Failure, request_id: str) -> bytes | None:
        """How to end it early; None: that cannot be said any more."""
        if self.over:
            return b""
        return sse.event(b"error", failures.envelope(failure, request_id)) if self.at_boundary else None


__all__ = ["Crossing", "Ending", "Hop"]
