"""httpx over our pool, against a real server."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import trio
from fakes.upstream import Reply, Upstream

from modelproxy.worker import facade
from modelproxy.worker.pool import Pool


def client(far: Upstream, pool: Pool | None = None, **fields: Any) -> httpx.AsyncClient:
    return facade.client(pool or Pool(), base_url=far.url + "/api", **fields)


async def test_a_call_and_its_answer(far: Upstream) -> None:
    far.on("/api/show", Reply(201, b'{"a":1}'))
    async with client(far, headers=[(b"authorization", b"Bearer k")]) as http:
        answer = await http.post("/show", params={"b": "c d"}, json={"model": "x"})

    assert (answer.status_code, answer.json()) == (201, {"a": 1})
    [seen] = far.requests
    assert (seen.target, seen.json()) == ("/api/show?b=c+d", {"model": "x"})
    assert seen.headers["authorization"] == "Bearer k"
    assert seen.headers["accept-encoding"] == "identity"
    assert seen.headers["host"] == f"127.0.0.1:{far.port}"


async def test_connections_are_those_of_the_pool(far: Upstream) -> None:
    far.on("*", Reply(body=(b"a", b"b"), framing="chunked"))
    pool = Pool()
    for _ in range(3):
        async with client(far, pool) as http:
            assert (await http.get("/tags")).text == "ab"

    assert (far.connections, pool.idle) == (1, 1)


async def test_a_stream_that_is_left_is_closed(far: Upstream) -> None:
    far.on("*", Reply(body=(b"a", b"b"), framing="chunked", hang_after=6))
    async with client(far) as http, http.stream("GET", "/") as answer:
        assert answer.status_code == 200
    await trio.to_thread.run_sync(far.wait_for_close)


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(hang=True), httpx.ReadTimeout),
        (Reply(body=b"abc", hang_after=1), httpx.ReadTimeout),
        (Reply(body=b"abc", cut_after=1), httpx.ReadError),
        (Reply(raw=b""), httpx.RemoteProtocolError),
        (Reply(raw=b"nonsense\r\n\r\n"), httpx.RemoteProtocolError),
        (Reply(body=b"x" * (facade.MOST_BODY + 1)), httpx.ReadError),
    ],
)
async def test_what_goes_wrong_has_httpx_names(
    far: Upstream, reply: Reply, error: type[httpx.TransportError]
) -> None:
    far.on("*", reply)
    async with client(far, timeout=0.2) as http:
        with pytest.raises(error):
            await http.get("/")


async def test_nobody_listens(far: Upstream) -> None:
    far.stop()
    async with client(far, timeout=None) as http:
        with pytest.raises(httpx.ConnectError, match="refused"):
            await http.get("/")


async def test_no_connection_in_time() -> None:
    listener = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener[0]:
        port = listener[0].socket.getsockname()[1]
        async with facade.client(Pool(), timeout=0.1) as http:
            with pytest.raises(httpx.ConnectTimeout):  # a TLS handshake that is never answered
                await http.get(f"https://127.0.0.1:{port}/")
