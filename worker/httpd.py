"""An HTTP/1.1 server: connections on listening sockets in, exchanges to a handler.

Theory of operation
-------------------
One task per connection. It waits for a head, parses it (`httpd_parse`), runs the handler *in the same task*,
and goes on with the next head. It reads only when it needs bytes, so a client that sends ahead or reads
slowly slows itself and nobody else, and pipelined requests are answered in order.

The wait for a head has a deadline; the handler has none, and is cancelled when its client hangs up.

- *Hanging up* is what `net` says it is: a half-close counts. A client that sends a request and then shuts
  down its sending side gets no answer unless that was on its way already.
- *Draining* closes the server's copies of the listeners and never reads their queue: another process
  shares them. An idle connection is closed at once, unless its next request has arrived already; one that is
  new or in the middle of a head gets a moment, because its request is on its way.
- *Closing* is graceful: our end first, then whatever the client still sends is read and dropped for a bounded
  time. Without that, the kernel answers unread bytes with a reset, which can destroy an answer (to a body
  that is too large, say) before the client has read it.
- *A cut looks cut*: an answer that cannot be finished ends without its last chunk.
- *Without descriptors* newcomers are told so one after the other, in the place of one that is held back for
  that (`net.Spare`); what is open goes on.

Nothing here knows what is served: workers and the supervisor's control socket use the same code.
"""

from __future__ import annotations

import enum
import errno
import socket
import sys
import traceback
from collections.abc import Awaitable, Callable, Sequence

import attrs
import trio

from .httpd_parse import (
    CONTINUE,
    LAST_CHUNK,
    BodyIncomplete,
    BodyMalformed,
    BodyTooLarge,
    Chunked,
    Head,
    Headers,
    Refused,
    Request,
    Sized,
    check_unfinished,
    head_end,
    parse_head,
    render_head,
    wants_close,
)
from .net import RECV_SIZE, HangUps, RawSocket, Spare, Stalled, hang_ups, raise_file_limit

CHANCE_S = 1.0
"""How long a draining server waits for a request that is probably on its way."""
LINGER_S = 2.0
"""How long bytes are dropped after an answer that the client may not have read yet."""
IDLE_LINGER_S = 0.2
"""The same for a connection that owes no answer."""
REFUSAL_S = 5.0
"""How long a client may take for the few bytes of a refusal."""
LEFTOVER_MAX = 64 * 1024
"""A body that nobody read is skipped up to this size; beyond it the connection closes."""
JOIN_MAX = 64 * 1024
"""Up to this size head and body leave in one piece; beyond it the copy costs more than the system call."""
TURNED_AWAY_MAX = 64
"""So many surplus connections are told why at a time; more are just closed."""
BUSY_S = 0.1
"""Rest after an accept that failed for want of descriptors or memory, and between two looks for room."""
REQUEST_S = 0.1
"""How long one who is turned away may take to ask: some clients take an answer that comes first for an error."""
COMPLAINT_S = 10.0
"""A want that comes and goes is logged this often at most."""

_NEVER = float("inf")
_NEXT_PLEASE = frozenset(
    # accept() reports what happened to the connection meanwhile; the listener is fine (accept(2)).
    # EBADF: it was closed by `drain` between wake-up and accept, which ends the loop.
    getattr(errno, name)
    for name in (
        "EAGAIN",
        "EBADF",
        "ECONNABORTED",
        "EPROTO",
        "ENETDOWN",
        "ENOPROTOOPT",
        "EHOSTDOWN",
        "EHOSTUNREACH",
    )
)
_NO_DESCRIPTOR = frozenset({errno.EMFILE, errno.ENFILE})


@attrs.frozen
class HttpLimits:
    """How much one client may take. The defaults are a worker's."""

    max_head: int = 64 * 1024
    max_body: int = 32 * 1024 * 1024
    max_connections: int = 1024
    head_timeout_s: float = 30.0
    """First byte of a head to its last; also for a connection that never says anything."""
    body_idle_timeout_s: float = 60.0
    keep_alive_s: float = 300.0
    write_stall_timeout_s: float = 300.0


class ClientGone(Exception):
    """The client left; there is nobody to write to. A handler may let it pass: nothing is logged."""


class Exchange:
    """One request and its answer. Used by the handler's task, and by one task at a time."""

    __slots__ = ("_chunked", "_connection", "_mute", "finished", "request", "started")

    def __init__(self, connection: _Connection, request: Request) -> None:
        self.request = request
        self.started = False
        """The head of an answer has gone out."""
        self.finished = False
        """The answer is complete."""
        self._connection = connection
        self._chunked = False
        self._mute = False

    def __repr__(self) -> str:
        state = "finished" if self.finished else "started" if self.started else "open"
        return f"<Exchange {self.request.method} {self.request.path} {state}>"

    @property
    def socket(self) -> socket.socket:
        """For the credentials of a Unix socket's peer; to be looked at, never read or written."""
        return self._connection.stream.socket

    @property
    def client_gone(self) -> bool:
        """The client has hung up; what it asked for is wanted by nobody."""
        return self._connection.hung_up

    async def read_body(self) -> bytes:
        """The whole body. Raises BodyTooLarge once that is known, BodyIncomplete when it will not come."""
        return await self._connection.read_body(self)

    async def respond(self, status: int, headers: Headers, body: bytes = b"") -> None:
        """Send a complete answer."""
        mute = self.request.method == "HEAD" or status in (204, 304)
        length = b"" if status == 204 else b"content-length: %d\r\n" % len(body)
        head = self._head(status, headers, length)
        if mute:
            await self._write(head)
        elif len(body) <= JOIN_MAX:
            await self._write(head + body)
        else:
            await self._write(head)
            await self._write(body)
        self.finished = True

    async def start(self, status: int, headers: Headers) -> None:
        """Send the head of an answer whose length is not known yet."""
        connection = self._connection
        self._mute = self.request.method == "HEAD" or status in (204, 304)
        framing = b""
        if connection.head.http_1_0:
            connection.keep_alive = connection.keep_alive and self._mute
        elif status not in (204, 304):
            self._chunked = not self._mute
            framing = b"transfer-encoding: chunked\r\n"
        await self._write(self._head(status, headers, framing))

    async def send(self, data: bytes) -> None:
        """Send some of the body; waits while the client is slow. A send that is cancelled counts as sent."""
        if not self.started or self.finished:
            raise RuntimeError(f"send() on {self!r}")
        if not data or self._mute:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await self._write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    async def finish(self) -> None:
        """Complete a streamed answer."""
        if not self.started or self.finished:
            raise RuntimeError(f"finish() on {self!r}")
        if self._chunked:
            await self._write(LAST_CHUNK)
        self.finished = True

    def _head(self, status: int, headers: Headers, framing: bytes) -> bytes:
        if self.started:
            raise RuntimeError(f"second answer on {self!r}")
        connection = self._connection
        head = render_head(status, headers, framing + connection.settle(headers))
        self.started = True
        return head

    async def _write(self, data: bytes) -> None:
        # `send_all` is no checkpoint; without this, a stream of ready data could not be cancelled.
        await trio.lowlevel.checkpoint_if_cancelled()
        await self._connection.write(data)


Handler = Callable[[Exchange], Awaitable[None]]
Refuse = Callable[[int, str], tuple[Headers, bytes]]


class _State(enum.Enum):
    FRESH = enum.auto()  # accepted, nothing read yet
    IDLE = enum.auto()  # between two requests
    HEAD = enum.auto()  # a head has begun
    BUSY = enum.auto()  # the handler works, or the connection is being closed


class _Body(enum.Enum):
    UNREAD = enum.auto()
    PARTLY = enum.auto()  # being read, or given up in the middle: what follows has no meaning
    READ = enum.auto()


class _Connection:
    """One client's connection to its end."""

    __slots__ = (
        "_accepted_at",
        "_body",
        "_buffer",
        "_deadline",
        "_exchange",
        "_reading",
        "_scope",
        "_server",
        "_state",
        "head",
        "hung_up",
        "keep_alive",
        "stream",
    )

    head: Head

    def __init__(self, server: Server, sock: socket.socket) -> None:
        self.stream = RawSocket(sock)
        self.hung_up = False
        self.keep_alive = True
        self._server = server
        self._accepted_at = trio.current_time()
        self._buffer = bytearray()
        self._state = _State.FRESH
        self._deadline = self._accepted_at + server.limits.head_timeout_s
        self._scope = trio.CancelScope()
        self._exchange: Exchange | None = None
        self._reading = False
        self._body = _Body.READ

    # --- life ---

    async def run(self) -> None:
        """Serve until either side has had enough."""
        watcher = self._server.hang_ups
        try:
            watcher.watch(self.stream.socket, self._on_hang_up)
            await self._serve()
        except* (OSError, ClientGone):
            pass  # the client reset the connection, at whatever point
        except* Exception as crash:  # one connection must not take the others with it
            self._server.log("".join(traceback.format_exception(crash)))
        finally:
            watcher.forget(self.stream.socket)
            if self._unfinished() and (self.hung_up or self.head.http_1_0):
                # An answer that ends with the connection would look complete, and one that its reader
                # does not take would stay in the kernel.
                self.stream.reset()
            else:
                self.stream.close()

    async def _serve(self) -> None:
        try:
            while await self._read_head():
                await self._run_handler()
                if not (self.keep_alive and await self._skip_body()):
                    break
                self._rest()
        except Refused as refused:
            await self._refuse(refused)
        if not (self.hung_up or self._unfinished()):
            await _close_gracefully(self.stream, LINGER_S if self._state is _State.BUSY else IDLE_LINGER_S)

    def _unfinished(self) -> bool:
        return self._exchange is not None and self._exchange.started and not self._exchange.finished

    def _rest(self) -> None:
        self._exchange = None
        self._state = _State.IDLE
        self._deadline = trio.current_time() + self._server.limits.keep_alive_s

    async def _refuse(self, refused: Refused) -> None:
        self._state = _State.BUSY
        mute = self._exchange is not None and self._exchange.request.method == "HEAD"
        answer = self._server.refusal(refused.status, refused.message, mute=mute)
        with trio.move_on_after(REFUSAL_S):
            await self.stream.send_all(answer)

    def drain(self) -> None:
        """End soon. Called by the server, from any task."""
        if self._state is _State.IDLE:
            self._scope.cancel()  # for a last look at what has arrived
        elif self._state is _State.FRESH:
            self._wait_until(self._accepted_at + CHANCE_S)
        elif self._state is _State.HEAD:
            self._wait_until(trio.current_time() + CHANCE_S)

    def _wait_until(self, deadline: float) -> None:
        self._deadline = self._scope.deadline = min(self._deadline, deadline)

    def _on_hang_up(self) -> None:
        self.hung_up = True
        exchange = self._exchange
        # While bytes are read, the end shows up behind the last of them. When the answer is complete, what
        # the handler still does (accounts, logs) is no longer done for the client.
        if exchange is not None and not exchange.finished and not self._reading:
            self._scope.cancel()

    # --- heads ---

    async def _read_head(self) -> bool:
        """Wait for a complete head; False when none will come."""
        searched = 0
        if self._buffer:  # sent ahead by the client, which must not keep the loop to itself
            await trio.lowlevel.checkpoint()
            self._begin_head()
        while (end := head_end(self._buffer, searched)) < 0:
            searched = len(self._buffer)
            if searched > self._server.limits.max_head:
                raise Refused(431, "request head too large")
            check_unfinished(self._buffer)
            if not await self._receive_head():
                return False
        if end > self._server.limits.max_head:
            raise Refused(431, "request head too large")
        self.head = parse_head(bytes(self._buffer[:end]))
        del self._buffer[:end]
        return not self.hung_up

    async def _receive_head(self) -> bool:
        """Add bytes to the buffer; False when the connection has nothing more to say."""
        if self._state is _State.IDLE and self._server.draining:
            data = self.stream.recv_now()
        else:
            data = await self._recv_in_time()
            if data is None and self._state is _State.IDLE and self._server.draining:
                data = self.stream.recv_now()
        if data is None and self._buffer:
            raise Refused(408, "the request did not arrive in time")
        if not data:
            return False
        self._buffer += data
        self._begin_head()
        return True

    async def _recv_in_time(self) -> bytes | None:
        with trio.CancelScope(deadline=self._deadline) as self._scope:
            return await self.stream.recv()
        return None

    def _begin_head(self) -> None:
        while self._buffer.startswith(
            b"\r\n"
        ):  # an empty line ahead of a request is to be ignored (RFC 9112, 2.2)
            del self._buffer[:2]
        if self._buffer and self._state is not _State.HEAD:
            self._state = _State.HEAD
            allowed = CHANCE_S if self._server.draining else self._server.limits.head_timeout_s
            self._deadline = trio.current_time() + allowed

    # --- the handler ---

    async def _run_handler(self) -> None:
        self._state = _State.BUSY
        self._body = _Body.READ if self.head.length == 0 else _Body.UNREAD
        self.keep_alive = self.head.keep_alive
        exchange = self._exchange = Exchange(self, self.head.request)
        self._server.requests += 1
        self._server.in_flight += 1
        error: Exception | None = None
        try:
            with trio.CancelScope() as self._scope:
                await self._server.handler(exchange)
        except Exception as crash:  # the boundary between one handler and the server
            error = _unwrap(crash)
        finally:
            self._server.in_flight -= 1
        self._conclude(exchange, error)

    def _conclude(self, exchange: Exchange, error: Exception | None) -> None:
        """Make the best of what the handler left behind."""
        if isinstance(error, ClientGone) or (self.hung_up and error is None):
            self.keep_alive = False
            return
        if not exchange.started and (refused := _refusal_of(error)) is not None:
            raise refused
        if error is not None:
            self._server.log("".join(traceback.format_exception(error)))
        elif not exchange.finished:
            self._server.log(f"the handler returned and left {exchange!r}")
        if not exchange.started:
            raise Refused(500, "internal error")
        if not exchange.finished:
            self.keep_alive = False

    def settle(self, headers: Headers) -> bytes:
        """Decide, as an answer's head goes out, whether a request may follow; return the header for that."""
        if self._server.draining or wants_close(headers) or not self._can_skip_body():
            self.keep_alive = False
        if not self.keep_alive:
            return b"connection: close\r\n"
        return b"connection: keep-alive\r\n" if self.head.http_1_0 else b""

    async def write(self, data: bytes) -> None:
        """Send on behalf of the exchange."""
        if self.hung_up:
            raise ClientGone
        try:
            await self.stream.send_all(data, self._server.limits.write_stall_timeout_s)
        except (OSError, Stalled):
            self.hung_up = True
            self._scope.cancel()
            raise ClientGone from None

    # --- bodies ---

    async def read_body(self, exchange: Exchange) -> bytes:
        """The current request's body."""
        length, limit = self.head.length, self._server.limits.max_body
        if length is not None and length > limit:
            raise BodyTooLarge(declared=length, received=0, limit=limit)
        if length == 0:
            return b""
        if self._body is not _Body.UNREAD:
            raise RuntimeError(f"second read_body() on {exchange!r}")
        self._body = _Body.PARTLY
        decoder = Chunked(limit) if length is None else Sized(length)
        if self._buffer:
            decoder.feed(self._buffer)
        elif self.head.expects_continue and not exchange.started:
            await self.write(CONTINUE)
        if not decoder.done:
            await self._receive_body(decoder)
        self._body = _Body.READ
        return b"".join(decoder.parts)

    async def _receive_body(self, decoder: Chunked | Sized) -> None:
        self._reading = True
        try:
            with trio.CancelScope() as idle:
                while not decoder.done:
                    idle.deadline = trio.current_time() + self._server.limits.body_idle_timeout_s
                    if not (data := await self._recv_body()):
                        self.hung_up = True  # this task may notice before the watcher does
                        raise BodyIncomplete("the client left before the end of its body")
                    self._buffer += data
                    decoder.feed(self._buffer)
        finally:
            self._reading = False
        if not decoder.done:
            raise BodyIncomplete("the body did not arrive in time")
        if self.hung_up:
            self._scope.cancel()

    async def _recv_body(self) -> bytes:
        try:
            return await self.stream.recv(4 * RECV_SIZE)
        except OSError:
            return b""

    def _can_skip_body(self) -> bool:
        length = self.head.length
        if self._body is _Body.READ:
            return True
        # Whether a client that waits for "100 Continue" will send the body at all is its own choice.
        skippable = self._body is _Body.UNREAD and not self.head.expects_continue
        return skippable and length is not None and length <= LEFTOVER_MAX

    async def _skip_body(self) -> bool:
        """Drop a small body that the handler did not want; False when the connection cannot go on."""
        if self._body is _Body.READ:
            return True
        if not self._can_skip_body():
            return False
        decoder = Sized(self.head.length or 0)
        with trio.move_on_after(CHANCE_S):
            decoder.feed(self._buffer)
            while not decoder.done and (data := await self._recv_body()):
                self._buffer += data
                decoder.feed(self._buffer)
        return decoder.done


def _unwrap(error: Exception) -> Exception:
    """The one error in a group of one: a handler with a nursery raises what a handler without would."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _refusal_of(error: Exception | None) -> Refused | None:
    """The answer to an error of the body that the handler did not word itself."""
    if isinstance(error, (BodyTooLarge, BodyMalformed)):
        return Refused(400, str(error))  # never 413, which clients of the day repeat without end
    if isinstance(error, BodyIncomplete):
        return Refused(408, str(error))
    return None


async def _close_gracefully(stream: RawSocket, linger_s: float) -> None:
    """End our side, then drop what the client still sends, so that no reset destroys what it has not read."""
    stream.end()
    with trio.move_on_after(linger_s):
        while await stream.recv():
            pass


def _to_stderr(text: str) -> None:
    sys.stderr.write(text.rstrip("\n") + "\n")


class Server:
    """Serves any number of listeners until it is drained."""

    def __init__(
        self,
        handler: Handler,
        *,
        refuse: Refuse,
        limits: HttpLimits = HttpLimits(),
        full: int = 503,
        log: Callable[[str], None] = _to_stderr,
    ) -> None:
        """`full`: the status for those that there is no room for."""
        self.handler = handler
        self.limits = limits
        self.log = log
        self.draining = False
        self.in_flight = 0
        """Exchanges in the handler now."""
        self.requests = 0
        """Heads handed to the handler so far."""
        self.accepted = 0
        """Connections taken so far."""
        self.starved: str | None = None
        """What is missing to take one, in the system's words; None as soon as it can be had again."""
        self.hang_ups: HangUps
        self._refuse = refuse
        self._full = full
        self._spare = Spare()
        self._complained_at = -_NEVER
        self._listeners: list[socket.socket] = []
        self._connections: set[_Connection] = set()
        self._turned_away = 0
        self._nursery: trio.Nursery | None = None

    def __repr__(self) -> str:
        state = " draining" if self.draining else ""
        counts = f"connections={self.connections} in_flight={self.in_flight} requests={self.requests}"
        return f"<Server{state} {counts}>"

    @property
    def connections(self) -> int:
        """Open connections, whatever they do."""
        return len(self._connections)

    async def run(
        self,
        listeners: Sequence[socket.socket],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept and serve until `drain` or `abort`, and return when the last connection has ended."""
        self._listeners = list(listeners)
        self.hang_ups = hang_ups()
        self._spare.take()
        try:
            async with trio.open_nursery() as self._nursery:
                for listener in [] if self.draining else listeners:
                    listener.setblocking(False)
                    await self._nursery.start(self._accept, listener)
                task_status.started()
        finally:
            self._close_listeners()
            self._spare.give_up()
            self._nursery = None

    def drain(self) -> None:
        """Accept nothing more, close what is idle, let the rest finish. May be called again."""
        self.draining = True
        self._close_listeners()
        for connection in list(self._connections):
            connection.drain()

    def abort(self) -> None:
        """Cancel everything that is left."""
        self.draining = True
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    def refusal(self, status: int, message: str, *, mute: bool = False) -> bytes:
        """A complete answer that ends its connection."""
        headers, body = self._refuse(status, message)
        head = render_head(status, headers, b"content-length: %d\r\nconnection: close\r\n" % len(body))
        return head if mute else head + body

    def _close_listeners(self) -> None:
        # Never shutdown(): that would stop the listener for every process that shares it.
        while self._listeners:
            listener = self._listeners.pop()
            if listener.fileno() >= 0:
                trio.lowlevel.notify_closing(listener)
                listener.close()

    async def _accept(self, listener: socket.socket, task_status: trio.TaskStatus[None]) -> None:
        """Take one connection per wake-up, so that processes which share the listener take turns."""
        task_status.started()  # the wait below is reached before anyone else runs
        while listener.fileno() >= 0:
            try:
                await self._wait_for_one(listener)
                sock, _ = listener.accept()
            except trio.ClosedResourceError:
                return
            except OSError as error:
                if error.errno not in _NEXT_PLEASE:
                    self._starve(error)
                    if error.errno not in _NO_DESCRIPTOR or not await self._tell_one(listener):
                        await trio.sleep(BUSY_S)
            else:
                self.starved = None
                self._spare.take()
                self.accepted += 1
                self._take(sock)

    async def _wait_for_one(self, listener: socket.socket) -> None:
        """Wait for a connection; notice meanwhile when there is room again, though nobody comes to take it."""
        while self.starved is not None:
            with trio.move_on_after(BUSY_S):
                await trio.lowlevel.wait_readable(listener)
                return
            if self._spare.is_enough():
                self.starved = None
        await trio.lowlevel.wait_readable(listener)

    def _starve(self, error: OSError) -> None:
        now = trio.current_time()
        if now - self._complained_at >= COMPLAINT_S:
            self._complained_at = now
            self.log(f"accept: {error}; new connections are refused or wait until there is room again")
        self.starved = error.strerror or str(error)

    async def _tell_one(self, listener: socket.socket) -> bool:
        """Take one connection in the spare descriptor's place, to say why it cannot stay.

        False when not even that can be: the place is somebody else's, or nobody waits any more.
        """
        if not self._spare.give_up():
            self._spare.take()  # for the next time, if there is one again
            return False
        try:
            sock, _ = listener.accept()
        except OSError:
            self._spare.take()
            return False
        try:
            self.accepted += 1
            await self._turn_away(sock, f"no room for another connection: {self.starved}", IDLE_LINGER_S)
        finally:
            self._spare.take()
        return True

    def _take(self, sock: socket.socket) -> None:
        nursery = self._nursery
        assert nursery is not None  # the accept loops run inside it
        try:
            if len(self._connections) < self.limits.max_connections:
                connection = _Connection(self, sock)
                self._connections.add(connection)
                nursery.start_soon(self._attend, connection)
            elif self._turned_away < TURNED_AWAY_MAX:
                self._turned_away += 1
                nursery.start_soon(self._turn_away_surplus, sock)
            else:
                sock.close()
        except OSError:
            sock.close()  # reset before its options could be set

    async def _attend(self, connection: _Connection) -> None:
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)

    async def _turn_away_surplus(self, sock: socket.socket) -> None:
        try:
            await self._turn_away(sock, "too many connections", CHANCE_S)
        finally:
            self._turned_away -= 1

    async def _turn_away(self, sock: socket.socket, why: str, linger_s: float) -> None:
        try:
            stream = RawSocket(sock)
        except OSError:
            sock.close()  # reset before its options could be set
            return
        try:
            with trio.move_on_after(REQUEST_S):
                await stream.recv()
            with trio.move_on_after(CHANCE_S):
                await stream.send_all(self.refusal(self._full, why))
                await _close_gracefully(stream, linger_s)
        except OSError:
            pass  # it did not wait for the answer
        finally:
            stream.close()


__all__ = [
    "BodyIncomplete",
    "BodyMalformed",
    "BodyTooLarge",
    "ClientGone",
    "Exchange",
    "Handler",
    "Headers",
    "HttpLimits",
    "Refuse",
    "Request",
    "Server",
    "raise_file_limit",
]
