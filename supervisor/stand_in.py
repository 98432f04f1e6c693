"""What a proxy without a worker says: 503 in the client's own error shape.

That is Anthropic's and OpenAI's at once, for neither's clients mind the other's fields.

The supervisor owns the socket, so without this a client of a failed proxy would hang for its whole
timeout, which is worse than a refusal.
"""

from __future__ import annotations

import json
import math
import secrets
import socket
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import trio

from modelproxy.worker import httpd

from . import views
from .facts import Proxy

Answer = tuple[list[tuple[bytes, bytes]], bytes]

_LEAVE_S = 5.0
_LIMITS = httpd.HttpLimits(max_connections=256, head_timeout_s=10.0, keep_alive_s=1.0)


def answer(proxy: Proxy, now: float, path: str = "/v1/messages") -> Answer:
    """Headers and body: the reason, the command that helps, and whether trying again makes sense."""
    if proxy.given_up is not None:
        return _error(_failed(proxy), [(b"x-should-retry", b"false")], _about(proxy, path))
    pause = max(1, math.ceil((proxy.retry_at or now) - now))
    headers = [(b"x-should-retry", b"true"), (b"retry-after", str(pause).encode())]
    return _error(_down(proxy, pause), headers, _about(proxy, path))


def _failed(proxy: Proxy) -> str:
    # Some reasons name the command themselves.
    help_ = "" if "proxyctl" in (proxy.given_up or "") else f"; fix it, then {views.again(proxy)}"
    return f"modelproxy: {proxy.name} has failed: {proxy.given_up}{help_}. {_more(proxy)}"


def _down(proxy: Proxy, pause: int) -> str:
    lately = f" ({len(proxy.losses)} exits)" if len(proxy.losses) > 1 else ""
    cause = proxy.trouble or "no worker"
    return f"modelproxy: {proxy.name} is down: {cause}{lately}; it starts again in {pause} s. {_more(proxy)}"


def _more(proxy: Proxy) -> str:
    return f"See proxyctl why {proxy.name} and proxyctl logs {proxy.name}"


def _about(proxy: Proxy, path: str) -> dict[str, Any]:
    """What whoever asks for `/health` looks for, worded as a worker's own answer is."""
    if path != "/health":
        return {}
    spec = proxy.spec
    return {
        "healthy": False,
        "status": str(proxy.state),
        "provider": spec.provider,
        "model": spec.model,
        "model_id": spec.model_id,
        "pid": None,
        "port": spec.port,
    }


def _error(message: str, headers: list[tuple[bytes, bytes]], more: dict[str, Any] | None = None) -> Answer:
    request_id = f"req_{secrets.token_hex(12)}"
    error = {"type": "api_error", "message": message, "param": None, "code": None}
    body = {"type": "error", "error": error, "request_id": request_id}
    ids = [(name, request_id.encode()) for name in (b"request-id", b"x-request-id")]
    return (
        [(b"content-type", b"application/json"), *ids, *headers],
        json.dumps({**body, **(more or {})}).encode(),
    )


@attrs.frozen(eq=False)
class Shift:
    """One time of standing in: it is relieved from outside, and over when the last answer has been given."""

    relieved: trio.Event = attrs.field(factory=trio.Event)
    over: trio.Event = attrs.field(factory=trio.Event)


async def serve(
    listeners: Sequence[socket.socket],
    words: Callable[[str], Answer],
    log: Callable[[str], None],
    relieved: trio.Event,
) -> None:
    """Answer everything with 503, in `words` for the path that was asked, until relieved.

    Whoever has been let in by then still gets an answer. The listeners given are closed, their copies live on.
    """

    async def handle(exchange: httpd.Exchange) -> None:
        headers, body = words(exchange.request.path)
        await exchange.respond(503, headers, body)

    def refuse(status: int, message: str) -> Answer:
        return _error(message, [])

    server = httpd.Server(handle, refuse=refuse, limits=_LIMITS, log=log)
    try:
        async with trio.open_nursery() as nursery:

            async def serve_until_drained() -> None:
                await server.run(listeners)
                nursery.cancel_scope.cancel()

            nursery.start_soon(serve_until_drained)
            await relieved.wait()
            server.drain()
            await trio.sleep(_LEAVE_S)
            nursery.cancel_scope.cancel()  # slower than anybody may be with two lines
    finally:
        for one in listeners:
            one.close()
