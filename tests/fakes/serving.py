"""The real server on a loopback port, and a client that reads one answer with h11."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import h11
import trio

from modelproxy.worker import httpd
from modelproxy.worker.handler import refuse


@attrs.frozen
class Serving:
    """Where the server listens."""

    port: int

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self.port}"

    async def fetch(
        self, method: str, target: str, body: bytes = b""
    ) -> tuple[int, dict[bytes, bytes], bytes]:
        """One request on a connection of its own: status, headers, body."""
        client = h11.Connection(h11.CLIENT)
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            await stream.send_all(self._request(client, method, target, body))
            status, headers, data = 0, {}, bytearray()
            while True:
                event: Any = client.next_event()
                if event is h11.NEED_DATA:
                    client.receive_data(await stream.receive_some())
                elif isinstance(event, h11.Response):
                    status, headers = event.status_code, dict(event.headers)
                elif isinstance(event, h11.Data):
                    data += event.data
                else:
                    return status, headers, bytes(data)

    async def begin(self, method: str, target: str, body: bytes, *, until: bytes) -> None:
        """Hang up as soon as these bytes have come."""
        seen = b""
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            await stream.send_all(self._request(h11.Connection(h11.CLIENT), method, target, body))
            while until not in seen:
                seen += await stream.receive_some()

    def _request(self, client: h11.Connection, method: str, target: str, body: bytes) -> bytes:
        headers = [
            ("host", f"127.0.0.1:{self.port}"),
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
        ]
        head = client.send(h11.Request(method=method, target=target, headers=headers)) or b""
        return head + (client.send(h11.Data(data=body)) or b"") + (client.send(h11.EndOfMessage()) or b"")


@asynccontextmanager
async def serving(handler: Callable[[httpd.Exchange], Awaitable[None]]) -> AsyncIterator[Serving]:
    """Serve on a free port for as long as the block lasts."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    port = listener.getsockname()[1]
    server = httpd.Server(handler, refuse=refuse)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run, [listener])
        try:
            yield Serving(port)
        finally:
            server.abort()
