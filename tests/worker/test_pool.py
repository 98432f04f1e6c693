"""The pool against a real server that does as it is told."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import h11
import hypothesis
import pytest
import trio
import trio.testing
from fakes.upstream import Certificate, Reply, Upstream
from hypothesis import strategies as st

from modelproxy.worker import pool as pool_module
from modelproxy.worker.dial import Dialer, Origin, Proxies, Unreachable
from modelproxy.worker.pool import MAX_HEAD, Answer, Cut, NotHttp, Outgoing, Pool, PoolError, Reset

LONG = b"x" * 200_000


def request(far: Upstream, target: str = "/", method: str = "POST", **fields: Any) -> Outgoing:
    return Outgoing(method, Origin("127.0.0.1", far.port, far.url.startswith("https")), target, **fields)


async def body(answer: Answer) -> bytes:
    return (await answer.read_all(100_000_000))[0]


async def fetch(pool: Pool, far: Upstream, target: str = "/", **fields: Any) -> tuple[int, bytes]:
    answer = await pool.send(request(far, target, **fields))
    return answer.status, await body(answer)


# --- whole answers --------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("drip", [None, 1])
async def test_a_body_arrives_however_it_is_framed_and_cut(
    far: Upstream, framing: str, drip: int | None
) -> None:
    far.on("/", Reply(body=(b"one ", b"two ", b"three"), framing=framing, drip=drip))
    pool = Pool()

    assert await fetch(pool, far, body=b"hello") == (200, b"one two three")
    assert far.requests[0].body == b"hello"
    assert pool.idle == (0 if framing == "close" else 1)


async def test_what_is_sent(far: Upstream) -> None:
    far.on("/a", Reply())
    headers = [(b"X-One", b"1"), (b"Connection", b"close"), (b"accept-encoding", b"gzip"), (b"host", b"x")]
    await fetch(Pool(), far, "/a?b=c", headers=headers, body=b"{}")
    [seen] = far.requests

    assert (seen.method, seen.target) == ("POST", "/a?b=c")
    assert seen.headers == {
        "host": f"127.0.0.1:{far.port}",
        "accept-encoding": "identity",
        "x-one": "1",
        "content-length": "2",
    }


@pytest.mark.parametrize("header", [(b"a b", b"c"), (b"a", b"b\r\nc: d"), (b"a", b"b\nc"), (b"", b"c")])
async def test_a_header_that_would_break_the_request_is_not_sent(
    far: Upstream, header: tuple[bytes, bytes]
) -> None:
    with pytest.raises(ValueError, match="would break"):
        await Pool().send(request(far, headers=[header]))


async def test_answers_without_a_body(far: Upstream) -> None:
    pool = Pool()
    far.on("/204", Reply(204)).on("/304", Reply(304)).on("/", Reply(body=b"abc"))

    assert await fetch(pool, far, "/204") == (204, b"")
    assert await fetch(pool, far, "/304") == (304, b"")
    assert await fetch(pool, far, "/", method="HEAD") == (200, b"")
    assert far.connections == 1
    assert pool.idle == 0  # the parser cannot be told of HEAD, so its connection is not trusted any more


async def test_interim_answers_are_passed_over(far: Upstream) -> None:
    interim = b"HTTP/1.1 100 Continue\r\nx: interim\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n"
    far.on("/", Reply(body=b"abc", before=interim))
    answer = await Pool().send(request(far))

    assert (answer.status, b"x" in dict(answer.headers), await body(answer)) == (200, False, b"abc")


# --- keeping connections --------------------------------------------------------------------------


async def test_20_requests_one_after_the_other_share_a_connection(far: Upstream) -> None:
    """S29."""
    pool = Pool()
    far.on("/", Reply(body=(b"a", b"b"), framing="chunked"))
    for _ in range(20):
        assert await fetch(pool, far, body=b"hello") == (200, b"ab")

    assert (far.connections, len(far.requests)) == (1, 20)


@pytest.mark.parametrize("way", ["announced", "silent"])
async def test_a_server_that_ends_connections_is_no_trouble(way: str) -> None:
    """Announced: it says `connection: close`. Silent: the client finds out when it looks."""
    with Upstream(requests_per_connection=2 if way == "announced" else None) as far:
        far.on("/", Reply(body=b"abc"))
        pool = Pool()
        for _ in range(5):
            assert await fetch(pool, far) == (200, b"abc")
            if way == "silent":
                far.stop()
                far.start()

        assert far.connections == (3 if way == "announced" else 5)


async def test_a_connection_that_dies_as_it_is_used_is_replaced_once(far: Upstream) -> None:
    pool = Pool()
    far.on("/", Reply(body=b"1"), Reply(raw=b""), Reply(body=b"2"), Reply(raw=b""))

    assert await fetch(pool, far) == (200, b"1")
    assert await fetch(pool, far) == (200, b"2")
    assert [seen.connection for seen in far.requests] == [1, 1, 2]
    with pytest.raises(Reset):  # of the old one and of the new one
        await fetch(pool, far)
    assert [seen.connection for seen in far.requests] == [1, 1, 2, 2, 3]


async def test_a_new_connection_that_dies_is_not_replaced(far: Upstream) -> None:
    """Who closed it may have begun to work."""
    far.on("/", Reply(raw=b""))
    with pytest.raises(Reset, match="closed the connection"):
        await fetch(Pool(), far)

    assert len(far.requests) == 1


async def test_a_connection_on_which_half_an_answer_came_is_not_replaced(far: Upstream) -> None:
    pool = Pool()
    far.on("/", Reply(body=b"1"), Reply(raw=b"HTTP/1.1 200 O"))
    await fetch(pool, far)
    with pytest.raises(Cut):
        await fetch(pool, far)

    assert len(far.requests) == 2


async def test_bytes_behind_an_answer_end_the_connection(far: Upstream) -> None:
    pool = Pool()
    far.on("/", Reply(before=b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na", body=b"b"))

    assert [await fetch(pool, far) for _ in range(2)] == [(200, b"a")] * 2
    assert far.connections == 2


async def test_idle_connections_are_bounded_and_end(far: Upstream) -> None:
    pool = Pool(idle_most=3, idle_s=0.15)
    far.on("/", Reply(body=b"abc", delay=0.05))
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(fetch, pool, far)

    assert (far.connections, pool.idle) == (8, 3)
    await trio.sleep(0.3)
    assert pool.idle == 0
    assert await fetch(pool, far) == (200, b"abc")
    assert pool.idle == 1


def test_nothing_is_left_open_when_the_loop_ends(far: Upstream) -> None:
    far.on("/", Reply(body=b"abc"))
    pool = Pool()
    trio.run(fetch, pool, far)

    far.wait_for_close(1)
    assert pool.idle == 0


# --- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "error", "words"),
    [
        (Reply(raw=b"\x00\xff\r\n\r\n"), NotHttp, "malformed"),
        (Reply(raw=b"SSH-2.0-OpenSSH\r\n"), NotHttp, "malformed"),
        (
            Reply(raw=b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n"),
            NotHttp,
            "malf",
        ),
        (
            Reply(raw=b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"),
            NotHttp,
            "switch",
        ),
        (Reply(raw=b"HTTP/1.1 000 OK\r\n\r\n"), NotHttp, "status 0"),
        (Reply(raw=b"HTTP/1.1 200 OK\r\na: " + b"b" * 2 * MAX_HEAD), NotHttp, "head or trailer"),
        (Reply(raw=b"HTTP/1.1 102 Wait\r\n\r\n" * 10_000), NotHttp, "head or trailer"),
        (Reply(raw=b"", reset=True), Reset, "connection"),
        (Reply(body=LONG, cut_after=100_000), Cut, "closed"),
        (Reply(body=LONG, cut_after=100_000, reset=True), Cut, "reset"),
        (Reply(body=(b"abc", b"def"), framing="chunked", cut_after=9), Cut, "closed"),
        (Reply(raw=b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"), NotHttp, "malformed"),
        (
            Reply(raw=b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 90_000),
            NotHttp,
            "trailer",
        ),
    ],
)
async def test_what_is_broken_has_a_name(
    far: Upstream, reply: Reply, error: type[PoolError], words: str
) -> None:
    pool = Pool()
    far.on("/", reply)
    with pytest.raises(error, match=words):
        await fetch(pool, far)

    assert pool.idle == 0


async def test_nobody_listens(far: Upstream) -> None:
    far.stop()
    with pytest.raises(Unreachable, match="refused"):
        await fetch(Pool(), far)


async def test_an_answer_to_half_a_request_is_read(far: Upstream) -> None:
    """A server may refuse a body that it has not read; nobody waits for the rest to be sent."""
    far.on("/", Reply(413, b"too much", hasty=True))
    pool = Pool()
    with trio.fail_after(5):
        assert await fetch(pool, far, body=b"x" * 50_000_000) == (413, b"too much")

    assert pool.idle == 0


async def test_a_large_request_arrives_whole(far: Upstream) -> None:
    far.on("/", Reply(body=b"abc"))
    data = random.Random(1).randbytes(20_000_000)

    assert await fetch(Pool(), far, body=data) == (200, b"abc")
    assert far.requests[0].body == data


# --- letting go -----------------------------------------------------------------------------------


@pytest.mark.parametrize("reply", [Reply(hang=True), Reply(body=LONG, hang_after=9), Reply(delay=60)])
async def test_cancelled_means_closed_at_once(far: Upstream, reply: Reply) -> None:
    pool = Pool()
    far.on("/", reply)
    with trio.move_on_after(0.1):
        await fetch(pool, far)
    await trio.to_thread.run_sync(far.wait_for_close)

    assert pool.idle == 0


async def test_an_answer_that_is_let_go_of_ends_its_connection(far: Upstream) -> None:
    far.on("/", Reply(body=LONG, hang_after=100_000))
    answer = await Pool().send(request(far))
    assert repr(answer) == "<Answer 200 open>"
    answer.close()
    answer.close()
    with pytest.raises(Cut):
        await body(answer)

    assert repr(answer) == "<Answer 200 over>"
    await trio.to_thread.run_sync(far.wait_for_close)


async def test_an_answer_may_be_read_in_part(far: Upstream) -> None:
    far.on("/", Reply(body=LONG))
    answer = await Pool().send(request(far))

    assert await answer.read_all(1000) == (b"x" * 1000, False)


async def test_a_slow_reader_slows_only_the_server(far: Upstream) -> None:
    far.on("/", Reply(body=b"x" * 20_000_000))
    answer = await Pool().send(request(far))
    await trio.sleep(0.2)

    assert max([len(await answer.read()) for _ in range(20)]) <= 64 * 1024
    answer.close()


async def test_200_cancellations_leave_the_pool_usable(far: Upstream) -> None:
    """The case that dead-locks httpx's own pool for ever (encode/httpcore#1093)."""
    pool = Pool()
    chance = random.Random(7)
    far.on("/", Reply(body=(b"a", b"b"), framing="chunked", delay=0.01, pause=0.01))

    async def impatient() -> None:
        with trio.move_on_after(chance.choice([0, 0.0005, 0.001, 0.005, 0.012, 0.02, 0.03])):
            await fetch(pool, far, body=b"x" * 1000)

    for _ in range(5):
        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(impatient)
    for _ in range(40):
        assert await fetch(pool, far, body=b"x") == (200, b"ab")


# --- other ways there -----------------------------------------------------------------------------


async def test_tls_and_keeping_its_connection(tmp_path: Path) -> None:
    certificate = Certificate.make(tmp_path)
    with Upstream(tls=certificate) as far:
        far.on("/", Reply(body=(LONG, b"end"), framing="chunked"))
        pool = Pool(Dialer(make_tls=certificate.client))
        for _ in range(5):
            assert await fetch(pool, far, body=LONG) == (200, LONG + b"end")

        assert far.connections == 1
        far.stop()
        far.start()
        assert await fetch(pool, far) == (200, LONG + b"end")


async def test_plain_http_through_a_proxy(far: Upstream) -> None:
    """The absolute form; one connection to the proxy serves every host behind it."""
    far.on("*", Reply(body=b"abc"))
    pool = Pool(Dialer(Proxies(http=f"http://me:secret@127.0.0.1:{far.port}")))
    for host in ("a.test", "b.test"):
        answer = await pool.send(Outgoing("POST", Origin(host, 8080), "/x"))
        await body(answer)

    assert [seen.target for seen in far.requests] == ["http://a.test:8080/x", "http://b.test:8080/x"]
    assert far.requests[0].headers["host"] == "a.test:8080"
    assert far.requests[0].headers["proxy-authorization"] == "Basic bWU6c2VjcmV0"
    assert far.connections == 1


# --- bytes ----------------------------------------------------------------------------------------

pieces = st.lists(st.binary(min_size=1, max_size=40), max_size=5)


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """One answer as a server may send it, interim ones ahead of it."""
    parts = draw(pieces)
    status = draw(st.sampled_from([200, 201, 204, 304, 400, 503]))
    lines = [b"HTTP/1.%d %d Words" % (draw(st.sampled_from([0, 1])), status)]
    lines += [b"x-%d: %d" % (number, number) for number in range(draw(st.integers(0, 3)))]
    lines += draw(st.sampled_from([[], [b"Connection: close"], [b"connection: keep-alive"]]))
    framing = draw(st.sampled_from(["length", "chunked", "close"]))
    if status in (204, 304):
        framing, parts = "none", []
    if framing == "chunked" and lines[0].startswith(b"HTTP/1.0"):
        framing = "length"
    if framing == "length":
        lines.append(b"Content-Length: %d" % len(b"".join(parts)))
    if framing == "chunked":
        lines.append(b"Transfer-Encoding: chunked")
        parts = [b"%x;a=b\r\n%b\r\n" % (len(part), part) for part in parts] + [b"0\r\nx-trailer: 1\r\n\r\n"]
    interim = b"HTTP/1.1 103 Early\r\nlink: x\r\n\r\n" * draw(st.integers(0, 2))
    return interim + b"\r\n".join([*lines, b"", b""]) + b"".join(parts)


@hypothesis.given(answers(), st.lists(st.integers(0, 400), max_size=8))
def test_any_cut_reads_as_h11_reads_it(data: bytes, cuts: list[int]) -> None:
    """The reference took the answer whole; ours may get it in any pieces."""
    reading = pool_module._Reading(bodiless=False)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        reading.feed(data[start:end])
    reading.end()

    status, body, headers, keep = reference(data)
    assert (reading.broken, reading.complete) == (None, True)
    assert (reading.status, b"".join(reading.parts), reading.headers) == (status, body, headers)
    assert keep in (None, reading.keep)


def reference(data: bytes) -> tuple[int, bytes, list[tuple[bytes, bytes]], bool | None]:
    """Status, body, headers, and whether the connection can be used again (None: h11 never keeps HTTP/1.0)."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    status, body, headers, ended, old = 0, b"", [], False, False
    while (event := client.next_event()) is not h11.PAUSED and not isinstance(event, h11.ConnectionClosed):
        if isinstance(event, h11.Response):
            status, headers, old = event.status_code, list(event.headers), event.http_version == b"1.0"
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            break
        elif event is h11.NEED_DATA:
            ended = True
            client.receive_data(b"")
    return status, body, headers, None if old else client.our_state is h11.DONE and not ended


@hypothesis.given(st.binary(max_size=300), st.integers(0, 300))
def test_garbage_never_raises(data: bytes, cut: int) -> None:
    reading = pool_module._Reading(bodiless=False)
    for part in (b"HTTP/1.1 200 OK\r\n" + data[:cut], data[cut:]):
        if reading.broken is None and not reading.complete:
            reading.feed(part)
    reading.end()
