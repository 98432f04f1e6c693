"""The HTTP/1.1 server on real sockets: every connection to its end."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelproxy.worker.httpd import (
    TURNED_AWAY_MAX,
    BodyIncomplete,
    BodyTooLarge,
    ClientGone,
    Exchange,
    Handler,
    Headers,
    HttpLimits,
    Server,
)

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
OPEN_FILES = Path("/proc/self/fd")
LONG = 5.0
"""Only reached by broken code."""


def refuse(status: int, message: str) -> tuple[Headers, bytes]:
    return [(b"x-refused", b"1")], message.encode()


async def echo(exchange: Exchange) -> None:
    body = await exchange.read_body()
    request = exchange.request
    await exchange.respond(200, [(b"x-path", request.path.encode())], request.method.encode() + b" " + body)


@attrs.frozen
class Answer:
    status: int
    headers: dict[bytes, bytes]
    body: bytes


class Cut(Exception):
    """The connection ended in the middle of an answer."""


class Client:
    """Speaks HTTP by hand, so that it can misbehave."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.buffer = bytearray()

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def _more(self) -> None:
        data = await self.stream.receive_some()
        if not data:
            raise Cut(bytes(self.buffer))
        self.buffer += data

    async def line(self) -> bytes:
        while b"\r\n" not in self.buffer:
            await self._more()
        return (await self.exactly(self.buffer.index(b"\r\n") + 2))[:-2]

    async def exactly(self, count: int) -> bytes:
        while len(self.buffer) < count:
            await self._more()
        data = bytes(self.buffer[:count])
        del self.buffer[:count]
        return data

    async def head(self) -> Answer:
        status = int((await self.line()).split()[1])
        headers = {}
        while line := await self.line():
            name, _, value = line.partition(b": ")
            headers[name.lower()] = value
        return Answer(status, headers, b"")

    async def chunk(self) -> bytes:
        size = int(await self.line(), 16)
        data = await self.exactly(size)
        assert await self.line() == b""
        return data

    async def answer(self, *, mute: bool = False) -> Answer:
        head = await self.head()
        body = bytearray()
        if mute:
            pass
        elif b"transfer-encoding" in head.headers:
            while data := await self.chunk():
                body += data
        elif b"content-length" in head.headers:
            body += await self.exactly(int(head.headers[b"content-length"]))
        return attrs.evolve(head, body=bytes(body))

    async def rest(self) -> bytes:
        """Everything up to the server's end of the connection."""
        while data := await self.stream.receive_some():
            self.buffer += data
        return bytes(self.buffer)


class Service:
    """A server, its address, and what it logged."""

    def __init__(self, server: Server, listener: socket.socket, logged: list[str]) -> None:
        self.server = server
        self.listener = listener
        self.address = listener.getsockname()
        self.logged = logged
        self.ended = trio.Event()

    @asynccontextmanager
    async def client(self, first: bytes = b"") -> AsyncIterator[Client]:
        with trio.socket.socket(self.listener.family, socket.SOCK_STREAM) as sock:
            await sock.connect(self.address)
            client = Client(trio.SocketStream(sock))
            if first:
                await client.send(first)
            yield client


def _open_files() -> int:
    return len(list(OPEN_FILES.iterdir()))


def listen() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0), backlog=128)


@asynccontextmanager
async def serving(
    handler: Handler = echo, *, listener: socket.socket | None = None, **limits: float
) -> AsyncIterator[Service]:
    logged: list[str] = []
    server = Server(handler, refuse=refuse, limits=HttpLimits(**limits), log=logged.append)  # type: ignore[arg-type]  # ints are floats too
    listener = listener or listen()
    service = Service(server, listener, logged)

    async def run(task_status: trio.TaskStatus[None]) -> None:
        await server.run([listener], task_status=task_status)
        service.ended.set()

    with trio.fail_after(4 * LONG):
        async with trio.open_nursery() as nursery:
            await nursery.start(run)
            try:
                yield service
            finally:
                server.abort()


class Gate:
    """A handler that says when it was reached and goes on when told to."""

    def __init__(self, then: Handler = echo) -> None:
        self.reached = trio.Event()
        self.go = trio.Event()
        self.cancelled = trio.Event()
        self._then = then

    async def __call__(self, exchange: Exchange) -> None:
        self.reached.set()
        try:
            await self.go.wait()
        except trio.Cancelled:
            if exchange.client_gone:
                self.cancelled.set()
            raise
        await self._then(exchange)


# --- plain exchanges ------------------------------------------------------------------------------


async def test_an_exchange_and_another_on_the_same_connection() -> None:
    """Keep-alive is the rule of HTTP/1.1."""
    async with serving() as service, service.client() as client:
        for n in range(3):
            await client.send(b"POST /p?q HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n%02d" % n)
            answer = await client.answer()

            assert answer == Answer(200, {b"x-path": b"/p", b"content-length": b"7"}, b"POST %02d" % n)
        assert (service.server.requests, service.server.connections) == (3, 1)
        assert service.server.in_flight == 0


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
async def test_all_families_are_served(family: socket.AddressFamily) -> None:
    """TCP for agents, Unix for the command line."""
    with tempfile.TemporaryDirectory() as folder:
        listener = socket.socket(family)
        try:
            listener.bind(folder + "/s" if family == socket.AF_UNIX else ("localhost", 0))
        except OSError:
            listener.close()
            pytest.skip("not on this machine")
        listener.listen()
        async with serving(listener=listener) as service, service.client(GET) as client:
            assert (await client.answer()).status == 200


async def test_pipelined_requests_are_answered_in_order_and_one_at_a_time() -> None:
    """What is sent ahead waits its turn."""
    busy = 0

    async def handler(exchange: Exchange) -> None:
        nonlocal busy
        busy += 1
        assert busy == 1
        await trio.lowlevel.checkpoint()
        await exchange.respond(200, [], exchange.request.path.encode() + await exchange.read_body())
        busy -= 1

    async with serving(handler) as service, service.client() as client:
        await client.send(
            b"".join(b"POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nb\r\n" % n for n in range(50))
        )
        bodies = [(await client.answer()).body for _ in range(50)]

        assert bodies == [b"/%db" % n for n in range(50)]
        assert service.logged == []


@pytest.mark.parametrize(
    ("version", "connection", "kept", "said"),
    [
        (b"1.1", b"", True, None),
        (b"1.1", b"Connection: close\r\n", False, b"close"),
        (b"1.0", b"", False, b"close"),
        (b"1.0", b"Connection: keep-alive\r\n", True, b"keep-alive"),
    ],
)
async def test_keep_alive(version: bytes, connection: bytes, kept: bool, said: bytes | None) -> None:
    """Both sides agree on whether another request may follow."""
    request = b"GET / HTTP/%b\r\nHost: x\r\n%b\r\n" % (version, connection)
    async with serving() as service, service.client(request) as client:
        assert said == (await client.answer()).headers.get(b"connection")
        if kept:
            await client.send(request)
            assert (await client.answer()).status == 200
        else:
            assert await client.rest() == b""


async def test_the_handler_may_end_the_connection() -> None:
    """By the header that says so."""

    async def handler(exchange: Exchange) -> None:
        await exchange.respond(200, [(b"Connection", b"close")], b"bye")

    async with serving(handler) as service, service.client(GET) as client:
        assert (await client.answer()).headers[b"connection"] == b"close"
        assert await client.rest() == b""


async def _stream(exchange: Exchange) -> None:
    await exchange.start(200, [])
    for part in (b"one", b"", b"two"):
        await exchange.send(part)
    await exchange.finish()


async def test_a_stream_is_chunked() -> None:
    """And the connection lives on."""
    async with serving(_stream) as service, service.client() as client:
        for _ in range(2):
            await client.send(GET)
            answer = await client.answer()

            assert answer == Answer(200, {b"transfer-encoding": b"chunked"}, b"onetwo")


async def test_a_stream_to_http_1_0_ends_with_the_connection() -> None:
    """It knows no chunks."""
    raw = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    async with serving(_stream) as service, service.client(raw) as client:
        answer = await client.answer()

        assert answer.headers == {b"connection": b"close"}
        assert await client.rest() == b"onetwo"


@pytest.mark.parametrize("handler", [echo, _stream])
async def test_head_has_no_body(handler: Handler) -> None:
    """But the headers that GET would have."""
    async with serving(handler) as service, service.client() as client:
        for _ in range(2):
            await client.send(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
            head = await client.answer(mute=True)

            assert head.status == 200
            assert (head.headers.get(b"content-length") == b"5") == (handler is echo)
            assert client.buffer == b""


async def test_no_content_has_no_body() -> None:
    """Nor a length."""

    async def handler(exchange: Exchange) -> None:
        if exchange.request.path == "/":
            await exchange.respond(204, [], b"ignored")
        else:
            await exchange.start(304, [])
            await exchange.send(b"ignored")
            await exchange.finish()

    async with serving(handler) as service, service.client(GET + GET.replace(b"/ ", b"/x ", 1)) as client:
        assert await client.answer() == Answer(204, {}, b"")
        assert await client.answer() == Answer(304, {}, b"")
        assert client.buffer == b""


async def test_large_bodies_both_ways() -> None:
    """Byte for byte."""
    body = os.urandom(5_000_000)
    async with serving() as service, service.client() as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                client.send, b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )
            answer = await client.answer()

        assert answer.body == b"PUT " + body


async def test_a_chunked_body() -> None:
    """Is given to the handler whole."""
    raw = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    async with serving() as service, service.client(raw + raw) as client:
        assert (await client.answer()).body == b"POST abcde"
        assert (await client.answer()).body == b"POST abcde"


async def test_100_continue_is_sent_when_the_body_is_wanted() -> None:
    """And not before."""
    gate = Gate()
    async with serving(gate) as service, service.client() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        await gate.reached.wait()
        assert client.buffer == b""
        gate.go.set()
        assert (await client.head()).status == 100
        await client.send(b"ab")
        assert (await client.answer()).body == b"POST ab"


async def test_no_100_when_the_body_is_there_already() -> None:
    """RFC 9110, 10.1.1."""
    async with serving() as service, service.client() as client:
        await client.send(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nab"
        )
        assert (await client.answer()).body == b"POST ab"


async def test_misuse_by_a_handler_is_told() -> None:
    """Two answers to one request would be taken for the answer to the next."""
    told: list[type[Exception]] = []

    async def attempt(call: Callable[[], Awaitable[object]]) -> None:
        try:
            await call()
        except (RuntimeError, ValueError) as error:
            told.append(type(error))

    async def handler(exchange: Exchange) -> None:
        await attempt(lambda: exchange.send(b"early"))
        await attempt(exchange.finish)
        await attempt(lambda: exchange.respond(200, [(b"a", b"\r\nb: c")]))
        assert not exchange.started
        await exchange.read_body()
        await attempt(exchange.read_body)
        await exchange.respond(200, [], b"ok")
        await attempt(lambda: exchange.respond(200, []))
        await attempt(lambda: exchange.start(200, []))
        await attempt(lambda: exchange.send(b"late"))

    raw = b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx"
    async with serving(handler) as service, service.client(raw) as client:
        assert (await client.answer()).body == b"ok"

    assert told == [RuntimeError, RuntimeError, ValueError, *[RuntimeError] * 4]


async def test_an_error_of_the_body_keeps_its_meaning_in_a_nursery() -> None:
    """Groups of one are opened."""

    async def handler(exchange: Exchange) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange.read_body)

    raw = b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\n"
    async with serving(handler, max_body=10) as service, service.client(raw) as client:
        assert (await client.answer()).status == 400
        assert service.logged == []


# --- cuts -----------------------------------------------------------------------------------------

TWO = (
    b"\r\nPOST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    b"PUT /b HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\nde"
)


async def _both_answered(service: Service, pieces: list[bytes]) -> None:
    async with service.client() as client:
        for piece in pieces:
            await client.send(piece)
            await trio.lowlevel.checkpoint()
        first, second = await client.answer(), await client.answer()

        assert (first.headers[b"x-path"], first.body) == (b"/a", b"POST abc")
        assert (second.headers[b"x-path"], second.body) == (b"/b", b"PUT de")
        assert await client.rest() == b""


async def test_a_byte_at_a_time() -> None:
    """The network owes nobody whole requests."""
    async with serving() as service:
        await _both_answered(service, [TWO[i : i + 1] for i in range(len(TWO))])


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.integers(0, len(TWO)), max_size=6))
def test_any_cut_gives_the_same_answers(cuts: list[int]) -> None:
    """Hypothesis draws the cuts."""
    edges = [0, *sorted(cuts), len(TWO)]
    pieces = [TWO[a:b] for a, b in itertools.pairwise(edges) if a < b]

    async def check() -> None:
        async with serving() as service:
            await _both_answered(service, pieces)

    trio.run(check)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.binary(max_size=40)
        | st.sampled_from(
            [GET, TWO, b"\r\n\r\n", b"POST / HTTP/1.1\r\nHost: x\r\n", b"Content-Length: 9\r\n"]
        ),
        max_size=6,
    )
)
def test_garbage_never_ends_the_server(pieces: list[bytes]) -> None:
    """One client's nonsense is its own affair, and not worth a traceback."""

    async def check() -> None:
        async with serving(head_timeout_s=0.05, body_idle_timeout_s=0.05, keep_alive_s=0.05) as service:
            async with service.client() as client:
                try:
                    for piece in pieces:
                        await client.send(piece)
                    await client.stream.send_eof()
                    await client.rest()
                except trio.BrokenResourceError:
                    pass  # refused while it was still sending
            async with service.client(GET) as other:
                assert (await other.answer()).status == 200
            assert not any("Traceback" in text for text in service.logged)

    trio.run(check)


# --- refusals and limits --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01", 400),
        (b"GET / HTTP/3.0\r\n\r\n", 505),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nExpect: tea\r\n\r\n", 417),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 400 + b"\r\n\r\n", 431),
        (b"GET /" + b"a" * 400, 431),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n", 400),
    ],
)
async def test_a_refusal_is_worded_by_the_owner_and_ends_the_connection(raw: bytes, status: int) -> None:
    """What follows a request that was not understood would be misunderstood."""
    async with serving(max_head=300, max_body=500) as service, service.client(raw) as client:
        answer = await client.answer()

        assert (answer.status, answer.headers[b"x-refused"]) == (status, b"1")
        assert answer.headers[b"connection"] == b"close"
        assert await client.rest() == b""
        assert service.logged == []


async def test_a_head_of_the_greatest_size_passes() -> None:
    """The limit itself is allowed."""
    raw = b"GET / HTTP/1.1\r\nHost: x\r\nA: %b\r\n\r\n"
    raw = raw % (b"a" * (300 - len(raw) + 2))
    async with serving(max_head=300) as service, service.client(raw) as client:
        assert len(raw) == 300
        assert (await client.answer()).status == 200


async def test_a_slow_head_is_told_408() -> None:
    """Only a client that has said something gets an answer."""
    async with serving(head_timeout_s=0.05) as service, service.client(b"GET / HT") as client:
        assert (await client.answer()).status == 408
        assert await client.rest() == b""


async def test_a_slow_head_on_a_kept_connection_is_told_408() -> None:
    """The patience for a pause between requests is not the patience for half a head."""
    async with serving(head_timeout_s=0.05) as service, service.client(GET) as client:
        assert (await client.answer()).status == 200
        await client.send(b"GET / HT")
        assert (await client.answer()).status == 408


async def test_silence_is_closed_in_silence() -> None:
    """Before the first request and after it."""
    async with serving(head_timeout_s=0.05, keep_alive_s=0.05) as service:
        async with service.client() as client:
            assert await client.rest() == b""
        async with service.client(GET) as client:
            assert (await client.answer()).status == 200
            assert await client.rest() == b""


async def test_a_body_that_stops_is_incomplete() -> None:
    """The handler words the answer; by default it is 408."""
    raw = b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab"
    async with serving(body_idle_timeout_s=0.05) as service, service.client(raw) as client:
        answer = await client.answer()
        assert (answer.status, answer.headers[b"connection"]) == (408, b"close")
        assert service.logged == []


async def test_a_client_that_leaves_in_its_body() -> None:
    """The handler hears of it by name, not by a cancellation."""
    reached, heard = trio.Event(), trio.Event()

    async def handler(exchange: Exchange) -> None:
        reached.set()
        with pytest.raises(BodyIncomplete):
            await exchange.read_body()
        assert exchange.client_gone
        heard.set()

    async with serving(handler) as service:
        async with service.client(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab"):
            await reached.wait()
        await heard.wait()


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_client_sees_the_refusal_of_its_large_body_while_it_still_sends(chunked: bool) -> None:
    """A reset would eat the answer."""

    async def handler(exchange: Exchange) -> None:
        with pytest.raises(BodyTooLarge) as too_large:
            await exchange.read_body()
        assert too_large.value.limit == 1000
        assert too_large.value.declared == (None if chunked else 20_000_000)
        await exchange.respond(400, [], b"too large")

    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 20000000"
    size = b"%x\r\n" % 20_000_000 if chunked else b""
    async with serving(handler, max_body=1000) as service, service.client() as client:
        await client.send(b"PUT / HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n\r\n" + size)
        for _ in range(200):
            await client.send(b"x" * 100_000)
        answer = await client.answer()

        assert (answer.status, answer.body) == (400, b"too large")
        assert answer.headers[b"connection"] == b"close"
        assert await client.rest() == b""


async def test_no_100_for_a_body_that_is_too_large() -> None:
    """The client is spared sending it."""
    async with serving(max_body=10) as service:
        raw = b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\nExpect: 100-continue\r\n\r\n"
        async with service.client(raw) as client:
            answer = await client.answer()
            assert (answer.status, answer.headers[b"connection"]) == (400, b"close")


async def test_a_small_body_that_nobody_read_is_skipped() -> None:
    """A large or endless one ends the connection instead."""

    async def handler(exchange: Exchange) -> None:
        await exchange.respond(200, [], b"whatever")

    async with serving(handler) as service:
        async with service.client(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab") as client:
            assert b"connection" not in (await client.answer()).headers
            await client.send(b"cde" + GET)
            assert (await client.answer()).status == 200
        for framing in (b"Content-Length: 70000", b"Transfer-Encoding: chunked"):
            async with service.client(b"PUT / HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n\r\n") as client:
                assert (await client.answer()).headers[b"connection"] == b"close"
                assert await client.rest() == b""


async def test_a_surplus_connection_is_told_503() -> None:
    """The others do not notice, and room that is freed is used."""
    async with serving(max_connections=1) as service:
        async with service.client(GET) as client:
            assert (await client.answer()).status == 200
            for _ in range(TURNED_AWAY_MAX + 1):
                async with service.client(GET) as surplus:
                    assert (await surplus.answer()).status == 503
                    assert await surplus.rest() == b""
            await client.send(GET)
            assert (await client.answer()).status == 200
        while service.server.connections:
            await trio.lowlevel.checkpoint()
        async with service.client(GET) as client:
            assert (await client.answer()).status == 200


class _FailingListener(socket.socket):
    """A real listener whose first accepts fail."""

    failures: list[int]

    def accept(self) -> tuple[socket.socket, object]:
        if self.failures:
            raise OSError(self.failures.pop(0), "as arranged")
        return super().accept()


async def test_accepting_survives_want_of_descriptors() -> None:
    """And says so once; the heartbeat can tell of it while it lasts."""
    plain = listen()
    listener = _FailingListener(fileno=plain.detach())
    listener.failures = [errno.EMFILE, errno.ENFILE, errno.ECONNABORTED, errno.EAGAIN]
    async with serving(listener=listener) as service, service.client(GET) as client:
        server: Any = service.server
        while server.starved is None:
            await trio.lowlevel.checkpoint()
        assert (server.starved, server.accepted) == ("as arranged", 0)
        assert (await client.answer()).status == 200
        assert (server.starved, server.accepted) == (None, 1)
        assert len(service.logged) == 1
        assert listener.failures == []


@pytest.mark.parametrize("first", [GET, b""], ids=["asks", "is silent"])
async def test_without_descriptors_a_newcomer_is_told_in_the_spare_ones_place(first: bytes) -> None:
    """What is open goes on; nothing leaks; and it is well again though nobody comes to see it."""
    plain = listen()
    listener = _FailingListener(fileno=plain.detach())
    listener.failures = []
    gate = Gate()
    async with serving(gate, listener=listener) as service, service.client(GET) as client:
        server: Any = service.server
        await gate.reached.wait()
        before = _open_files()
        listener.failures = [errno.EMFILE]
        async with service.client(first) as newcomer:
            answer = await newcomer.answer()
            assert (answer.status, answer.headers[b"connection"]) == (503, b"close")
            assert b"no room for another connection: as arranged" in answer.body
            assert await newcomer.rest() == b""
        assert (server.accepted, server.connections) == (2, 1)
        while server.starved is not None:
            await trio.lowlevel.checkpoint()
        assert _open_files() == before
        gate.go.set()
        assert (await client.answer()).status == 200
        async with service.client(GET) as later:
            assert (await later.answer()).status == 200
        assert len(service.logged) == 1


# --- clients that leave, and slow ones ------------------------------------------------------------


@pytest.mark.parametrize("half", [False, True])
async def test_a_client_that_leaves_cancels_its_silent_handler(half: bool) -> None:
    """Tokens are not paid for nobody. A half-close counts."""
    gate = Gate()
    async with serving(gate) as service, service.client(GET) as client:
        await gate.reached.wait()
        if half:
            await client.stream.send_eof()
        else:
            await client.stream.aclose()
        with trio.fail_after(LONG):
            await gate.cancelled.wait()
        while service.server.connections:
            await trio.lowlevel.checkpoint()
        assert service.server.in_flight == 0
        assert service.logged == []


class _Watcher:
    """Hang-ups at the moment the test wants them: with real ones, the order of two wake-ups is anyone's guess."""

    def __init__(self, *, at_once: bool = False) -> None:
        self.told: list[Callable[[], None]] = []
        self.forgotten = 0
        self._at_once = at_once

    def watch(self, sock: socket.socket, tell: Callable[[], None]) -> None:
        self.told.append(tell)
        if self._at_once:
            tell()

    def forget(self, sock: socket.socket) -> None:
        assert sock.fileno() >= 0
        self.forgotten += 1


async def test_a_client_that_hangs_up_behind_its_body_cancels_the_handler() -> None:
    """The end that was met while reading counts when the reading is over."""
    reached, ended = trio.Event(), trio.Event()

    async def handler(exchange: Exchange) -> None:
        reached.set()
        assert await exchange.read_body() == b"abcde"
        try:
            await trio.sleep_forever()
        finally:
            with pytest.raises(ClientGone), trio.CancelScope(shield=True):
                await exchange.respond(200, [])
            ended.set()

    raw = b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab"
    watcher = _Watcher()
    async with serving(handler) as service:
        service.server.hang_ups = watcher
        async with service.client(raw) as client:
            await reached.wait()
            await trio.testing.wait_all_tasks_blocked()
            watcher.told[0]()
            await client.send(b"cde")
            with trio.fail_after(LONG):
                await ended.wait()
                while service.server.connections:
                    await trio.lowlevel.checkpoint()
    assert watcher.forgotten == 1


async def test_a_request_whose_client_has_left_reaches_no_handler() -> None:
    """Nothing would cancel it: the hang-up has been told already."""
    async with serving() as service:
        service.server.hang_ups = _Watcher(at_once=True)
        async with service.client(GET) as client:
            assert await client.rest() == b""
        assert service.server.requests == 0


async def test_requests_that_are_sent_ahead_do_not_keep_the_loop_to_themselves() -> None:
    """Each of them lets others have their turn."""
    first = trio.Event()
    seen = -1

    async def handler(exchange: Exchange) -> None:
        first.set()
        await exchange.respond(200, [])

    async def other(service: Service) -> None:
        nonlocal seen
        await first.wait()
        seen = service.server.requests

    async with serving(handler) as service, trio.open_nursery() as nursery:
        nursery.start_soon(other, service)
        async with service.client(GET * 100) as client:
            for _ in range(100):
                await client.answer()

    assert 1 <= seen < 10


async def test_sending_notices_a_cancellation() -> None:
    """Although it need not wait while the kernel takes the bytes."""
    caught: list[bool] = []

    async def handler(exchange: Exchange) -> None:
        await exchange.start(200, [])
        for data in (b"x", b""):
            with trio.CancelScope() as scope:
                scope.cancel()
                await exchange.send(data)
            caught.append(scope.cancelled_caught)
        await exchange.finish()

    async with serving(handler) as service, service.client(GET) as client:
        assert (await client.answer()).body == b""

    assert caught == [True, True]


async def test_a_client_that_leaves_a_stream_cancels_it() -> None:
    """Also when the handler writes without ever waiting for anything else."""
    ended = trio.Event()

    async def handler(exchange: Exchange) -> None:
        await exchange.start(200, [])
        try:
            while True:
                await exchange.send(b"x" * 1000)
        except (trio.Cancelled, ClientGone):
            with pytest.raises(ClientGone), trio.CancelScope(shield=True):
                await exchange.send(b"last words")
            ended.set()
            raise

    async with serving(handler) as service:
        async with service.client(GET) as client:
            await client.head()
            await client.chunk()
        with trio.fail_after(LONG):
            await ended.wait()
        while service.server.connections:
            await trio.lowlevel.checkpoint()
        assert service.logged == []


async def test_what_follows_a_complete_answer_is_not_cancelled() -> None:
    """A client that has got all it wanted leaves; the accounts must still be written."""
    gone, written = trio.Event(), trio.Event()

    async def handler(exchange: Exchange) -> None:
        await exchange.respond(200, [], b"all")
        while not exchange.client_gone:
            await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        written.set()

    async with serving(handler) as service:
        async with service.client(GET) as client:
            await client.answer()
        gone.set()
        with trio.fail_after(LONG):
            await written.wait()


async def test_a_slow_reader_slows_only_itself() -> None:
    """And is held at the pace it reads."""
    sent = 0
    blocked = trio.Event()

    async def handler(exchange: Exchange) -> None:
        nonlocal sent
        if exchange.request.path == "/fast":
            await exchange.respond(200, [], b"")
            return
        await exchange.start(200, [])
        for _ in range(200):
            with trio.move_on_after(0.05) as scope:
                await exchange.send(b"x" * 100_000)
            if scope.cancelled_caught:
                blocked.set()
                await exchange.send(b"!")
            sent += 1
        await exchange.finish()

    async with serving(handler) as service, service.client(GET) as slow:
        await blocked.wait()
        assert sent < 200
        async with service.client(b"GET /fast HTTP/1.1\r\nHost: x\r\n\r\n") as fast:
            assert (await fast.answer()).status == 200
        body = (await slow.answer()).body

        # A send that was cancelled counts as sent: nothing is missing and nothing is torn.
        assert body.replace(b"!", b"") == b"x" * 20_000_000


async def test_a_reader_that_stops_is_given_up() -> None:
    """Its connection is reset, its handler ends."""
    gone = trio.Event()

    async def handler(exchange: Exchange) -> None:
        await exchange.start(200, [])
        try:
            while True:
                await exchange.send(b"x" * 100_000)
        except ClientGone:
            gone.set()

    async with serving(handler, write_stall_timeout_s=0.05) as service, service.client(GET) as client:
        await gone.wait()
        with pytest.raises(trio.BrokenResourceError):
            await client.rest()
        assert service.logged == []


# --- handlers that fail ---------------------------------------------------------------------------


async def _boom(exchange: Exchange) -> None:
    raise KeyError("secret")


async def _boom_in_nursery(exchange: Exchange) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_boom, exchange)
        await trio.sleep_forever()


async def _nothing(exchange: Exchange) -> None:
    pass


@pytest.mark.parametrize("handler", [_boom, _boom_in_nursery, _nothing])
async def test_a_handler_that_fails_before_its_answer_is_answered_500(handler: Handler) -> None:
    """The traceback is for the log."""
    async with serving(handler) as service, service.client(GET) as client:
        answer = await client.answer()

        assert (answer.status, answer.body) == (500, b"internal error")
        assert len(service.logged) == 1
        assert ("KeyError" in service.logged[0]) == (handler is not _nothing)
        assert service.server.in_flight == 0
        async with service.client(GET) as other:
            assert (await other.answer()).status == 500


async def _boom_in_stream(exchange: Exchange) -> None:
    await exchange.start(200, [])
    await exchange.send(b"part")
    raise KeyError


async def _return_in_stream(exchange: Exchange) -> None:
    await exchange.start(200, [])
    await exchange.send(b"part")


@pytest.mark.parametrize("handler", [_boom_in_stream, _return_in_stream])
async def test_a_cut_looks_cut(handler: Handler) -> None:
    """An answer without its end must not pass for a whole one."""
    async with serving(handler) as service:
        async with service.client(GET) as client:
            await client.head()
            assert await client.chunk() == b"part"
            assert await client.rest() == b""
        assert len(service.logged) == 1
        async with service.client(b"GET / HTTP/1.0\r\n\r\n") as client:
            with pytest.raises(trio.BrokenResourceError):
                await client.rest()


async def test_errors_beside_a_cancellation_do_not_end_the_server() -> None:
    """A nursery of a handler may raise both at once."""
    reached = trio.Event()

    async def stubborn() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("on the way out")

    async def handler(exchange: Exchange) -> None:
        if exchange.request.path == "/":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stubborn)
                nursery.start_soon(trio.sleep_forever)
                reached.set()
        await echo(exchange)

    async with serving(handler) as service:
        async with service.client(GET):
            await reached.wait()
        async with service.client(b"GET /ok HTTP/1.1\r\nHost: x\r\n\r\n") as client:
            assert (await client.answer()).status == 200
        while service.server.connections > 1:
            await trio.lowlevel.checkpoint()
        assert len(service.logged) == 1
        reached = trio.Event()
        async with service.client(GET):
            await reached.wait()
            service.server.abort()
            with trio.fail_after(LONG):
                await service.ended.wait()


# --- draining -------------------------------------------------------------------------------------


async def test_drain_closes_idle_connections_at_once() -> None:
    """Nothing is owed to them."""
    async with serving() as service, service.client(GET) as client:
        await client.answer()
        service.server.drain()
        service.server.drain()
        assert await client.rest() == b""
        await client.stream.aclose()
        await service.ended.wait()


async def test_drain_lets_an_exchange_finish_and_then_closes() -> None:
    """The client is told that no other request may follow."""
    gate = Gate()
    async with serving(gate) as service, service.client(GET) as client:
        await gate.reached.wait()
        service.server.drain()
        await trio.testing.wait_all_tasks_blocked()
        assert not service.ended.is_set()
        gate.go.set()
        answer = await client.answer()

        assert (answer.status, answer.headers[b"connection"]) == (200, b"close")
        assert await client.rest() == b""


async def test_drain_in_a_stream_completes_it() -> None:
    """Its head is out already; the end of the connection says the rest."""
    going, go = trio.Event(), trio.Event()

    async def handler(exchange: Exchange) -> None:
        await exchange.start(200, [])
        going.set()
        await go.wait()
        await exchange.send(b"end")
        await exchange.finish()

    async with serving(handler) as service, service.client(GET) as client:
        await going.wait()
        service.server.drain()
        go.set()
        assert (await client.answer()).body == b"end"
        assert await client.rest() == b""


async def test_a_request_that_has_arrived_when_the_drain_begins_is_served() -> None:
    """It sits in the kernel's queue of a connection that the server holds to be idle."""
    async with serving() as service, service.client(GET) as client:
        await client.answer()
        await trio.testing.wait_all_tasks_blocked()
        raw = client.stream.socket
        sock = socket.socket(fileno=os.dup(raw.fileno()))
        with sock:
            sock.setblocking(False)
            assert sock.send(GET) == len(GET)  # no checkpoint, so the server cannot have seen it
            service.server.drain()
        answer = await client.answer()

        assert (answer.status, answer.headers[b"connection"]) == (200, b"close")
        assert await client.rest() == b""


async def test_a_connection_that_is_new_when_the_drain_begins_is_served() -> None:
    """Its request is on its way, maybe in pieces."""
    async with serving() as service, service.client() as client:
        while not service.server.connections:
            await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked()
        service.server.drain()
        await client.send(GET[:9])
        await trio.testing.wait_all_tasks_blocked()
        await client.send(GET[9:])
        answer = await client.answer()

        assert (answer.status, answer.headers[b"connection"]) == (200, b"close")
        await client.stream.aclose()
        await service.ended.wait()


@pytest.mark.slow
@pytest.mark.parametrize("said", [b"", b"GET / HT"])
async def test_drain_does_not_wait_long_for_what_does_not_come(said: bytes) -> None:
    """Silence, or half a head."""
    async with serving() as service, service.client(said) as client:
        while not service.server.connections:
            await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked()
        service.server.drain()
        assert (b"408" in await client.rest()) == bool(said)
        await client.stream.aclose()
        with trio.fail_after(LONG):
            await service.ended.wait()


async def test_drain_leaves_the_listener_to_its_other_holders() -> None:
    """A connection in the queue is the next process's; when nobody holds the listener, it is refused."""
    first = listen()
    second = first.dup()
    async with serving(listener=first) as service:
        service.server.drain()
        assert first.fileno() == -1
        async with serving(listener=second) as successor:
            async with successor.client(GET) as client:
                assert (await client.answer()).status == 200
            assert (service.server.requests, successor.server.requests) == (0, 1)
            successor.server.drain()
            with pytest.raises(ConnectionRefusedError):
                async with successor.client():
                    pass


async def test_a_server_that_was_drained_before_it_ran_ends() -> None:
    """SIGTERM may come first."""
    server = Server(echo, refuse=refuse)
    server.drain()
    listener = listen()
    with trio.fail_after(LONG):
        await server.run([listener])
    assert listener.fileno() == -1


@pytest.mark.slow
async def test_a_rolling_restart_fails_no_request() -> None:
    """Clients that keep their connections, while one server after the other takes the listener over."""
    listener = listen()
    done = trio.Event()
    served = 0

    async def client(service: Service) -> None:
        nonlocal served
        while not done.is_set():
            async with service.client() as client:
                kept = True
                while kept and not done.is_set():
                    await client.send(GET)
                    try:
                        answer = await client.answer()
                    except (Cut, trio.BrokenResourceError):
                        # Crossed with the end of an idle connection, the one race HTTP/1.1 leaves to the client:
                        # not a byte of an answer came, and the request may be repeated.
                        assert client.buffer == b""
                        break
                    assert answer.status == 200
                    kept = answer.headers.get(b"connection") != b"close"
                    served += 1

    with trio.fail_after(4 * LONG):
        async with serving(listener=listener.dup()) as keeper, trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(client, keeper)
            for _ in range(5):
                old = served
                async with serving(listener=listener.dup()) as service:
                    while served < old + 200:
                        await trio.lowlevel.checkpoint()
                    service.server.drain()
                    await service.ended.wait()
            done.set()
    listener.close()
    assert served >= 1000


# --- the whole ------------------------------------------------------------------------------------


@pytest.mark.skipif(not OPEN_FILES.exists(), reason="counts descriptors by way of /proc")
async def test_no_descriptor_is_left() -> None:
    """After all the ways in which a connection can end."""
    gate = Gate()
    async with serving(max_body=10) as warm, warm.client(GET) as client:
        await client.answer()
        before = _open_files() - 3  # listener, and the connection from both sides
    async with serving(gate, max_body=10, max_connections=3) as service:
        for raw in (GET, b"nonsense\r\n\r\n", GET[:9], b""):
            async with service.client(raw) as client:
                if raw == GET:
                    await gate.reached.wait()
                elif raw:
                    await trio.testing.wait_all_tasks_blocked()
        while service.server.connections:
            await trio.lowlevel.checkpoint()
        service.server.drain()
        await service.ended.wait()
        assert before >= _open_files()


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_curl() -> None:
    """A client that nobody here wrote, with all it does on its own: Expect, HTTP/1.0, upgrade, HEAD."""

    async def curl(*arguments: str) -> bytes:
        done = await trio.run_process(
            ["curl", "-sS", "--noproxy", "*", "--max-time", "5", *arguments], capture_stdout=True
        )
        return done.stdout

    async with serving() as service:
        url = f"http://127.0.0.1:{service.address[1]}/p"
        big = "x" * 100_000
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(big)
            file.flush()
            sent = ["--data-binary", "@" + file.name]
            assert await curl(url) == b"GET "
            assert await curl(url, "-d", "abc") == b"POST abc"
            assert await curl(url, *sent) == b"POST " + big.encode()
            assert await curl(url, *sent, "-H", "Expect: 100-continue") == b"POST " + big.encode()
            assert await curl(url, *sent, "-H", "Transfer-Encoding: chunked") == b"POST " + big.encode()
        assert await curl(url, "-0", "-d", "abc") == b"POST abc"
        assert await curl(url, "--http2", "-d", "abc") == b"POST abc"
        assert b"content-length: 5" in await curl(url, "-I")
        assert await curl(url, url, url) == b"GET GET GET "
        assert service.server.requests == 11
