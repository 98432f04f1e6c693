"""httpx in front of our own pool, for every call that is not a model request.

Discovery, health, keys and the like are written against httpx, which everybody knows; the bytes take the same
way as those of model requests, over the same connections. httpx's own pool is never used: it dead-locks when
requests are cancelled while they connect (encode/httpcore#1093).

Import this module only where it is needed: httpx costs 75 ms and 8 MiB, and a worker has to start in 120 ms.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator

import httpx
import trio

from .dial import Origin, Unreachable
from .pool import Answer, Cut, NotHttp, Outgoing, Pool, PoolError

MOST_BODY = 32 * 1024 * 1024
"""No list or description is longer; what is would only fill our memory."""


class PoolTransport(httpx.AsyncBaseTransport):
    """Our pool as httpx sees it. Closing it leaves the pool alone: others use it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request. Its timeouts are httpx's: connect, and read for the head and every piece."""
        outgoing = await _outgoing(request)
        limits = request.extensions.get("timeout", {})
        read = _seconds(limits.get("read"))
        connecting = True

        def connected() -> None:
            nonlocal connecting
            connecting = False
            scope.deadline = trio.current_time() + read

        with trio.CancelScope(deadline=trio.current_time() + _seconds(limits.get("connect"))) as scope:
            try:
                answer = await self._pool.send(outgoing, connected)
            except (Unreachable, PoolError) as error:
                raise _translated(error, request) from error
        if scope.cancelled_caught:
            raise (
                httpx.ConnectTimeout("no connection in time", request=request)
                if connecting
                else httpx.ReadTimeout("no answer in time", request=request)
            )
        return httpx.Response(answer.status, headers=answer.headers, stream=_Body(answer, request, read))


class _Body(httpx.AsyncByteStream):
    """The body as it comes."""

    def __init__(self, answer: Answer, request: httpx.Request, read_s: float) -> None:
        self._answer = answer
        self._request = request
        self._read_s = read_s

    async def __aiter__(self) -> AsyncIterator[bytes]:
        received = 0
        while data := await self._piece():
            received += len(data)
            if received > MOST_BODY:
                raise httpx.ReadError(f"the body is longer than {MOST_BODY} bytes", request=self._request)
            yield data

    async def _piece(self) -> bytes:
        with trio.move_on_after(self._read_s):
            try:
                return await self._answer.read()
            except PoolError as error:
                raise _translated(error, self._request) from error
        raise httpx.ReadTimeout("the body did not come in time", request=self._request)

    async def aclose(self) -> None:
        self._answer.close()


async def _outgoing(request: httpx.Request) -> Outgoing:
    url = request.url
    tls = url.scheme == "https"
    return Outgoing(
        request.method,
        Origin(url.raw_host.decode("ascii"), url.port or (443 if tls else 80), tls),
        url.raw_path.decode("ascii"),
        request.headers.raw,
        await request.aread(),
    )


def _seconds(limit: float | None) -> float:
    return math.inf if limit is None else limit


def _translated(error: Exception, request: httpx.Request) -> httpx.TransportError:
    if isinstance(error, Unreachable):
        return httpx.ConnectError(str(error), request=request)
    if isinstance(error, NotHttp):
        return httpx.RemoteProtocolError(str(error), request=request)
    kind = httpx.ReadError if isinstance(error, Cut) else httpx.RemoteProtocolError
    return kind(f"the connection ended: {error}", request=request)


def client(
    pool: Pool,
    *,
    base_url: str = "",
    headers: list[tuple[bytes, bytes]] | None = None,
    timeout: float | None = 10.0,
) -> httpx.AsyncClient:
    """A client over the pool. It follows no redirects: an address that moved is the user's to know."""
    # trust_env: the pool knows the proxies; httpx would build a transport of its own for each, and with it
    # a TLS context.
    return httpx.AsyncClient(
        transport=PoolTransport(pool), base_url=base_url, headers=headers, timeout=timeout, trust_env=False
    )


__all__ = ["MOST_BODY", "PoolTransport", "client"]
