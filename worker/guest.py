"""A client that speaks another API, at the edge: the handler sees and says messages, the client its own.

The exchange that the handler is given stands between the two. It translates each thing that passes, piece by
piece and without a task or a queue of its own: what the client does not take, the handler waits for, and a client that
leaves ends the handler as any other does.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from . import app
from .call import Exchange, Request
from .failures import Failure, Headers, Kind, Refused
from .forms import refusals
from .forms.asking import Answer, Form, Terms, known, shown
from .forms.models import listed
from .httpd_parse import Headers as AnyHeaders


def interpreted(exchange: Exchange, terms: Callable[[], Terms], ping_s: float) -> Exchange:
    """The exchange as the handler is to see it: itself, unless its client speaks another API.

    `ping_s`: so long a client hears nothing, at most.
    """
    request = exchange.request
    _, path = app.addressed(request.path)
    if app.wants_models(request, path):
        return Listed(exchange)
    if not app.is_of_another(path):
        return exchange
    from .forms.table import FORMS  # only here: most workers never meet such a client

    form = FORMS.get(path)
    if form is None or request.method != "POST":
        return Reworded(exchange)
    return Interpreted(exchange, form, path, terms, ping_s)


class Reworded:
    """Only its errors are said in the client's way."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.request: Request = exchange.request

    @property
    def started(self) -> bool:
        return self._exchange.started

    @property
    def finished(self) -> bool:
        return self._exchange.finished

    async def read_body(self) -> bytes:
        return await self._exchange.read_body()

    async def respond(self, status: int, headers: AnyHeaders, body: bytes = b"") -> None:
        if status >= 400:
            status, body = refusals.status(status), self._refusal(body)
            headers = _as_json(headers)
        else:
            body = self._body(body)
        await self._exchange.respond(status, refusals.headers(headers), body)

    def _body(self, body: bytes) -> bytes:
        """Of a good answer."""
        return body

    def _refusal(self, body: bytes) -> bytes:
        return refusals.body(body)

    async def start(self, status: int, headers: AnyHeaders) -> None:
        await self._exchange.start(status, refusals.headers(headers))

    async def send(self, data: bytes) -> None:
        await self._exchange.send(data)

    async def finish(self) -> None:
        await self._exchange.finish()


class Listed(Reworded):
    """Asks for models, in a way that both APIs have."""

    def __init__(self, exchange: Exchange) -> None:
        super().__init__(exchange)
        self.request = known(exchange.request)

    def _refusal(self, body: bytes) -> bytes:
        return refusals.both(body)

    def _body(self, body: bytes) -> bytes:
        return listed(body)


class Interpreted(Reworded):
    """The handler sees a request for messages, and its answer is translated."""

    def __init__(
        self, exchange: Exchange, form: Form, path: str, terms: Callable[[], Terms], ping_s: float
    ) -> None:
        super().__init__(exchange)
        self.request = shown(exchange.request, path)
        self._form = form
        self._terms = terms
        self._ping_s = ping_s
        self._last_said = 0.0
        self._answer: Answer | None = None
        """None: the request was not understood, so only an error can follow."""

    async def read_body(self) -> bytes:
        """The body, translated. Raises Refused."""
        asked = self._form.asked(await self._exchange.read_body(), self._terms())
        self._answer = asked.answer
        return asked.body

    def _body(self, body: bytes) -> bytes:
        return self._known().whole(body)

    async def start(self, status: int, headers: AnyHeaders) -> None:
        if not dict(headers).get(b"content-type", b"").startswith(b"text/event-stream"):
            raise Refused(Failure(Kind.PROVIDER, "the provider's answer is too large to be translated"))
        await super().start(status, headers)
        self._last_said = trio.current_time()

    async def send(self, data: bytes) -> None:
        said, now = self._known().feed(data), trio.current_time()
        # A comment says that somebody is alive. Half an event says nothing yet, nor does what is told only when all
        # of it is there; but of the latter a model may write for minutes.
        if not said and (data.startswith(b":") or now - self._last_said >= self._ping_s):
            said = self._known().ping()
        if said:
            self._last_said = now
        await self._exchange.send(said)

    async def finish(self) -> None:
        if last := self._known().end():
            await self._exchange.send(last)
        await self._exchange.finish()

    def _known(self) -> Answer:
        assert self._answer is not None  # nothing but an error is said before the body was read
        return self._answer


def _as_json(headers: AnyHeaders) -> Headers:
    others = [one for one in headers if one[0] not in (b"content-type", b"content-encoding")]
    return [(b"content-type", b"application/json"), *others]
