"""What a proxy without a worker says: 503 in the client's own error shape.

The supervisor owns the socket, so without this a client of a failed proxy would hang for its whole
timeout, which is worse than a refusal.
"""

from __future__ import annotations

import json
import math
import secrets
import socket
from collections.abc import Callable, Sequence

from modelproxy.worker import httpd

from .facts import Proxy

Answer = tuple[list[tuple[bytes, bytes]], bytes]

_LIMITS = httpd.HttpLimits(max_connections=256, head_timeout_s=10.0, keep_alive_s=1.0)


def answer(proxy: Proxy, now: float) -> Answer:
    """Headers and body: the reason, the command that helps, and whether trying again makes sense."""
    deaths = len(proxy.deaths)
    if proxy.given_up is not None:
        text = f"modelproxy: {proxy.name} has failed: {proxy.given_up}. See proxyctl logs {proxy.name}"
        return _error(text, [(b"x-should-retry", b"false")])
    pause = max(1, math.ceil((proxy.retry_at or now) - now))
    text = (
        f"modelproxy: the worker of {proxy.name} is down ({proxy.trouble}, {deaths} exits), "
        f"next start in {pause} s. See proxyctl logs {proxy.name}"
    )
    return _error(text, [(b"x-should-retry", b"true"), (b"retry-after", str(pause).encode())])


def _error(message: str, headers: list[tuple[bytes, bytes]]) -> Answer:
    request_id = f"req_{secrets.token_hex(12)}"
    body = {"type": "error", "error": {"type": "api_error", "message": message}, "request_id": request_id}
    return (
        [(b"content-type", b"application/json"), (b"request-id", request_id.encode()), *headers],
        json.dumps(body).encode(),
    )


async def serve(
    listeners: Sequence[socket.socket], words: Callable[[], Answer], log: Callable[[str], None]
) -> None:
    """Answer everything with 503 until cancelled; the listeners given are closed, their copies live on."""

    async def handle(exchange: httpd.Exchange) -> None:
        headers, body = words()
        await exchange.respond(503, headers, body)

    def refuse(status: int, message: str) -> Answer:
        return _error(message, [])

    server = httpd.Server(handle, refuse=refuse, limits=_LIMITS, log=log)
    try:
        await server.run(listeners)
    finally:
        for one in listeners:
            one.close()
