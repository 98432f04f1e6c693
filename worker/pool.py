"""HTTP/1.1 towards providers: requests out, answers in, connections kept for the next request.

Theory of operation
-------------------
`Pool.send` returns an `Answer` when the head of one has come; its body is read piece by piece, and nothing is
read ahead: a client that reads slowly slows its own provider, and memory stays at one piece. There is no limit
to connections and no queue, so nothing can wait for ever for a place, which is how httpx's own pool dies when
requests are cancelled while they connect (encode/httpcore#1093).

A connection belongs to one request at a time. It goes back to the pool only at the very end of an answer
that allows it; in every other case (a failure, a cancellation, an answer that is not wanted any more) it is
closed at once, which tells the provider to stop.

A connection that rested may have been closed by the far side meanwhile. It is looked at before it is used;
if it dies all the same before a byte of the answer has come, the request is sent once more on a new one.
A request on a *new* connection is never repeated here: whoever closed it may have begun to work.

llhttp is told nothing of the end of the connection and of `HEAD`, so bodies that end with the connection
and answers that have none are recognised here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import httptools
import trio

from .dial import Dialer, Origin, Proxy, Stream, reason
from .wire import hops

Headers = list[tuple[bytes, bytes]]

MAX_HEAD = 64 * 1024
"""Bytes that may pass without any of them being body: heads, interim answers, trailers, chunk sizes."""
JOIN_MAX = 64 * 1024
"""Up to this size head and body leave in one piece; beyond it the copy costs more than the system call."""
IDLE_MOST = 128
IDLE_S = 60.0

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


class PoolError(Exception):
    """What can go wrong after the connection was made; the text says why, in a few words."""


class Reset(PoolError):
    """The connection ended before a byte of the answer had come."""


class Cut(PoolError):
    """The connection ended in the middle of the answer."""


class NotHttp(PoolError):
    """What came is no HTTP/1.1 answer."""


@attrs.frozen
class Outgoing:
    """One request."""

    method: str
    origin: Origin
    target: str
    """Path and query."""
    headers: Sequence[tuple[bytes, bytes]] = ()
    body: bytes = attrs.field(default=b"", repr=False)


@attrs.frozen
class _Way:
    """Connections that lead the same way can stand in for each other."""

    origin: Origin
    proxy: Proxy | None


# --- one answer, as bytes -------------------------------------------------------------------------


class _Reading:
    """What httptools calls back while it reads one answer. Never raises: `broken` says what is wrong."""

    __slots__ = (
        "_bodiless",
        "_interim",
        "_parser",
        "_quiet",
        "begun",
        "broken",
        "complete",
        "headers",
        "keep",
        "parts",
        "status",
        "until_close",
    )

    def __init__(self, *, bodiless: bool) -> None:
        self.status = 0
        """0: the head is not complete yet."""
        self.headers: Headers = []
        self.parts: list[bytes] = []
        self.begun = False
        """A byte has come."""
        self.complete = False
        self.keep = False
        self.until_close = False
        self.broken: str | None = None
        self._bodiless = bodiless
        self._interim = False
        self._quiet = 0
        self._parser: Any = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        self.begun = True
        self._quiet += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.broken = "it switched to a protocol that nobody asked for"
        except httptools.HttpParserError:
            # Behind the end of the answer, it only means that nothing more is to come over this connection.
            self.keep = False
            if not self.complete:
                self.broken = "its answer is malformed HTTP"
        if self._quiet > MAX_HEAD and not self.complete:
            self.broken = f"its answer has a head or trailer of more than {MAX_HEAD} bytes"

    def end(self) -> None:
        """The connection has ended."""
        if self.status and self.until_close:
            self.complete = True

    def drop(self) -> None:
        """Parser and callbacks hold each other; without this, each answer would wait for the collector."""
        self._parser = None

    # --- called by the parser ---

    def on_message_begin(self) -> None:
        if self.complete:  # bytes behind the end: whatever they are, they answer nothing
            self.keep = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.status:  # else a trailer: nothing here has a use for it
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self.complete:
            return
        status = self._parser.get_status_code()
        if status < 100:
            self.broken = f"its answer has the status {status}"
        if 100 <= status < 200:
            self._interim = True
            self.headers.clear()
            return
        self.status = status
        if self._bodiless:
            self.complete = True
        elif status not in (204, 304):
            self.until_close = not _is_framed(self.headers)

    def on_body(self, data: bytes) -> None:
        self._quiet = 0
        if not self.complete:
            self.parts.append(data)

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
        elif not self.complete:
            self.complete = True
            # Only here: afterwards llhttp has forgotten it and says no.
            self.keep = self._parser.should_keep_alive() and not self.until_close


def _is_framed(headers: Headers) -> bool:
    """Whether the answer says itself where its body ends."""
    codings = b",".join(value for name, value in headers if name == b"transfer-encoding")
    if codings:
        return codings.lower().rpartition(b",")[2].strip() == b"chunked"
    return any(name == b"content-length" for name, _ in headers)


# --- one connection -------------------------------------------------------------------------------


class _Connection:
    """One stream, and the request that it carries now."""

    __slots__ = ("_stream", "reading", "rests_since", "way", "whole")

    def __init__(self, stream: Stream, way: _Way) -> None:
        self._stream = stream
        self.way = way
        self.reading = _Reading(bodiless=False)
        self.whole = True
        """The last request has gone out to its end."""
        self.rests_since = 0.0

    @property
    def is_alive(self) -> bool:
        return self._stream.is_quiet()

    async def ask(self, head: bytes, body: bytes, *, bodiless: bool) -> None:
        """Send a request and wait for the head of its answer."""
        self.reading = _Reading(bodiless=bodiless)
        self.whole = False
        if len(body) <= JOIN_MAX:
            await self._transmit(head + body)
        else:
            await self._transmit(head)
            await self._transmit(body)
        while not self.reading.status:
            await self.receive()

    async def _transmit(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            sent = self._stream.send_now(view)
            self.whole = sent == len(view) or await self._transmit_slowly(view[sent:])
        except OSError:
            # It may have refused the request in the middle and hung up: its answer is there to be read.
            self.whole = False

    async def _transmit_slowly(self, view: memoryview) -> bool:
        """Send and listen at once, until everything is sent or an answer has come."""
        async with trio.open_nursery() as nursery:

            async def listen() -> None:
                try:
                    while not self.reading.status:
                        await self.receive()
                except PoolError:
                    pass  # the next `receive` meets it again
                nursery.cancel_scope.cancel()

            nursery.start_soon(listen)
            try:
                while view:
                    await self._stream.wait_writable()
                    view = view[self._stream.send_now(view) :]
            except OSError:
                pass  # as in `_transmit`
            nursery.cancel_scope.cancel()
        return not view

    async def receive(self) -> None:
        """Take in what comes next. Raises PoolError when that is nothing good."""
        reading = self.reading
        if reading.broken is None:
            try:
                data = await self._stream.recv()
            except OSError as error:
                raise self._lost(reason(error)) from None
            if data:
                reading.feed(data)
            else:
                reading.end()
                if not reading.complete:
                    raise self._lost("it closed the connection")
        if reading.broken is not None:
            raise NotHttp(reading.broken)

    def _lost(self, why: str) -> PoolError:
        return Cut(why) if self.reading.begun else Reset(why)

    def close(self) -> None:
        self.reading.drop()
        self._stream.close()


class Answer:
    """The head of an answer, and its body as it comes. Used by one task."""

    __slots__ = ("_connection", "_done", "_over", "_reading", "headers", "status")

    def __init__(self, connection: _Connection, done: Callable[[_Connection], None]) -> None:
        self._connection = connection
        self._reading = connection.reading
        self._done = done
        self._over = False
        self.status = self._reading.status
        self.headers = self._reading.headers
        """Names in lower case."""
        self._settle()

    def __repr__(self) -> str:
        return f"<Answer {self.status} {'over' if self._over else 'open'}>"

    async def read(self) -> bytes:
        """What came in together; `b""` at the end. Raises PoolError. A checkpoint unless something was there."""
        parts = self._reading.parts
        while not parts:
            if self._reading.complete:
                return b""
            if self._over:
                raise Cut("it was let go of")
            try:
                await self._connection.receive()
            except BaseException:
                self.close()
                raise
            self._settle()
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        return data

    async def read_all(self, most: int) -> tuple[bytes, bool]:
        """Up to `most` bytes of body, and whether that is all of it; the rest is not waited for."""
        found = bytearray()
        while len(found) <= most:
            data = await self.read()
            if not data:
                return bytes(found), True
            found += data
        self.close()
        return bytes(found[:most]), False

    def close(self) -> None:
        """Let go. Before the end of the answer this closes the connection, so that the provider stops."""
        if not self._over:
            self._over = True
            self._connection.close()

    def _settle(self) -> None:
        if self._reading.complete and not self._over:
            self._over = True
            self._done(self._connection)


# --- all connections ------------------------------------------------------------------------------


class Pool:
    """All connections of this event loop to providers."""

    def __init__(
        self, dialer: Dialer | None = None, *, idle_most: int = IDLE_MOST, idle_s: float = IDLE_S
    ) -> None:
        self._dialer = dialer or Dialer()
        self._idle: list[_Connection] = []
        """The longest at rest first."""
        self._idle_most = idle_most
        self._idle_s = idle_s
        self._reaping = False

    @property
    def idle(self) -> int:
        """Connections at rest."""
        return len(self._idle)

    async def send(
        self,
        request: Outgoing,
        connected: Callable[[], None] = lambda: None,
    ) -> Answer:
        """The head of the answer. `connected` is called when the request is about to go out.

        Raises Unreachable or PoolError. Sets no limit of time: the caller's scope does.
        """
        way, head = self._plan(request)
        rested = self._take(way)
        if rested is not None:
            connected()
            try:
                return await self._carry(rested, head, request)
            except Reset:
                pass  # it ended while it rested; nobody has seen the request
        connection = _Connection(await self._dialer.dial(way.origin, way.proxy), way)
        connected()
        return await self._carry(connection, head, request)

    async def _carry(self, connection: _Connection, head: bytes, request: Outgoing) -> Answer:
        try:
            await connection.ask(head, request.body, bodiless=request.method == "HEAD")
        except BaseException:
            connection.close()
            raise
        return Answer(connection, self._done)

    def _plan(self, request: Outgoing) -> tuple[_Way, bytes]:
        origin, target = request.origin, request.target
        proxy = self._dialer.proxies.to(origin)
        if proxy is None or origin.tls:
            return _Way(origin, proxy), _render(request, target)
        extra = [] if proxy.authorization is None else [(b"proxy-authorization", proxy.authorization)]
        # A proxy reads the host from each request, so one connection serves them all.
        return _Way(proxy.origin, None), _render(request, origin.url + target, extra)

    def _take(self, way: _Way) -> _Connection | None:
        """The youngest that leads this way and is alive: it has the best chance to stay so."""
        for index in range(len(self._idle) - 1, -1, -1):
            if self._idle[index].way == way:
                connection = self._idle.pop(index)
                if self._is_young(connection) and connection.is_alive:
                    return connection
                connection.close()
        return None

    def _is_young(self, connection: _Connection) -> bool:
        return trio.current_time() < connection.rests_since + self._idle_s

    def _done(self, connection: _Connection) -> None:
        """An answer has come to its end."""
        if not (connection.reading.keep and connection.whole):
            connection.close()
            return
        connection.reading.drop()
        connection.rests_since = trio.current_time()
        self._idle.append(connection)
        if len(self._idle) > self._idle_most:
            self._idle.pop(0).close()
        if not self._reaping:
            self._reaping = True
            trio.lowlevel.spawn_system_task(self._reap)

    async def _reap(self) -> None:
        """Close what has rested too long, and all of it when the event loop ends."""
        try:
            while self._idle:
                await trio.sleep_until(self._idle[0].rests_since + self._idle_s)
                while self._idle and not self._is_young(self._idle[0]):
                    self._idle.pop(0).close()
            self._reaping = False
        finally:
            if self._reaping:
                self.close()

    def close(self) -> None:
        """Close what is at rest. Answers that are being read are not touched."""
        while self._idle:
            self._idle.pop().close()


def is_sendable(name: bytes, value: bytes) -> bool:
    """Whether a header can stand in a request without breaking it."""
    return _NAME.fullmatch(name) is not None and _VALUE.fullmatch(value) is not None


def _render(request: Outgoing, target: str, extra: Sequence[tuple[bytes, bytes]] = ()) -> bytes:
    lines = [
        b"%b %b HTTP/1.1\r\nhost: %b\r\n"
        # Decompressing would cost us what it saves on the wire, and delay what a server collects for it.
        b"accept-encoding: identity\r\n"
        % (request.method.encode(), target.encode("ascii"), request.origin.authority.encode())
    ]
    for name, value in request.headers:
        if not is_sendable(name, value):
            raise ValueError(f"header that would break the request: {name!r}")
        if name.lower() not in hops.OF_REQUEST:
            lines.append(b"%b: %b\r\n" % (name, value))
    lines += [b"%b: %b\r\n" % one for one in extra]
    if request.body or request.method not in ("GET", "HEAD"):
        lines.append(b"content-length: %d\r\n" % len(request.body))
    lines.append(b"\r\n")
    return b"".join(lines)


__all__ = ["Answer", "Cut", "Headers", "NotHttp", "Outgoing", "Pool", "PoolError", "Reset", "is_sendable"]
