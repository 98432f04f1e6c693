"""An exchange in memory: what the handler sees of a request, and what the client would have received.

Verified: `tests/worker/test_handler.py` runs its contract on this and on the real server.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import attrs
import trio

from modelproxy.worker.httpd import ClientGone
from modelproxy.worker.httpd_parse import Request

JSON_HEADERS = ((b"host", b"127.0.0.1:3457"), (b"content-type", b"application/json"))

Headers = Sequence[tuple[bytes, bytes]]


def request(method: str = "POST", target: str = "/v1/messages", headers: Headers = JSON_HEADERS) -> Request:
    """A request's head."""
    path, _, query = target.partition("?")
    return Request(method=method, target=target, path=path, query=query, headers=tuple(headers))


@attrs.define
class FakeExchange:
    """Records the answer. `stall` keeps every write waiting until the event is set."""

    request: Request = attrs.Factory(request)
    body: bytes = b""
    started: bool = False
    finished: bool = False
    status: int | None = None
    headers: dict[bytes, bytes] = attrs.Factory(dict)
    sent: bytearray = attrs.Factory(bytearray)
    sends: list[tuple[float, bytes]] = attrs.Factory(list)
    """When what was sent."""
    raises: Exception | None = None
    """Instead of a body."""
    half_read: bool = False
    """The rest of the body never comes."""
    gone: bool = False
    stall: trio.Event | None = None
    on_send: Callable[[], Awaitable[None]] | None = None

    async def read_body(self) -> bytes:
        await trio.lowlevel.checkpoint()
        if self.half_read:
            await trio.sleep_forever()
        if self.raises is not None:
            raise self.raises
        return self.body

    async def respond(self, status: int, headers: Headers, body: bytes = b"") -> None:
        self._head(status, headers)
        await self._write(b"" if self.request.method == "HEAD" else body)
        self.finished = True

    async def start(self, status: int, headers: Headers) -> None:
        self._head(status, headers)
        await self._write(b"")

    async def send(self, data: bytes) -> None:
        if not self.started or self.finished:
            raise RuntimeError("send() without a begun answer")
        await self._write(data)

    async def finish(self) -> None:
        if not self.started or self.finished:
            raise RuntimeError("finish() without a begun answer")
        await self._write(b"")
        self.finished = True

    def _head(self, status: int, headers: Headers) -> None:
        if self.started:
            raise RuntimeError("a second answer")
        self.started = True
        self.status = status
        self.headers = dict(headers)

    async def _write(self, data: bytes) -> None:
        # As the real one: a cancellation is noticed before the bytes, or after all of them count as sent.
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.gone:
            raise ClientGone
        self.sent += data
        if data:
            self.sends.append((trio.current_time(), data))
        if self.stall is not None:
            await self.stall.wait()
        if self.on_send is not None:
            await self.on_send()
