"""What a form is, and a request of one as the rest of the worker is shown it.

Theory of operation
-------------------
A client that speaks another API gets all that a client of the Messages API gets (routes, fallback, limits, pings,
the ledger), because the worker never learns of it: `guest` shows the handler a request for `/v1/messages`, and what
the handler says goes back through the form. A form is pure: bytes in, bytes out. It has one row in `table`.

Nothing here knows who will answer. What a body asks for is put so that Anthropic itself takes it, because a front
or a fallback may send it there as it stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import attrs

from modelproxy.worker import __version__
from modelproxy.worker.app import Request
from modelproxy.worker.failures import Failure, Headers, Kind, Refused

PATH = "/v1/messages"


@attrs.frozen
class Terms:
    """What a form may want to know beside the request."""

    most_output: int | None = None
    """Tokens of an answer, where that is known of the model."""
    literal: tuple[str, ...] = ()
    """Models of those who may get the body and take it to the letter: no dialect makes it fit. Of who is asked for
    the request's own model the name is empty."""
    created: int = 0
    """The time of the answer."""
    id: str = ""
    """A fresh one, without the prefix that the form gives it."""


class Answer(Protocol):
    """An answer of the Messages API in the client's form."""

    def feed(self, data: bytes) -> bytes:
        """Some bytes of an event stream, however they were cut."""

    def ping(self) -> bytes:
        """What says in a silence that somebody is alive."""

    def end(self) -> bytes:
        """The stream is over; where it has not said so, this does."""

    def whole(self, body: bytes) -> bytes:
        """The body of a good answer that is no stream. Raises Refused for what is none."""


@attrs.frozen
class Asked:
    """A request, translated."""

    body: bytes = attrs.field(repr=False)
    """Of the Messages API."""
    answer: Answer


class Form(Protocol):
    """One API that clients speak."""

    def asked(self, body: bytes, terms: Terms) -> Asked:
        """Translate a request's body. Raises Refused."""


def refused(message: str, param: str | None = None, code: str | None = None) -> Refused:
    """A request that cannot be served, with the words that these clients read beside the sentence."""
    said = {"param": param, "code": code}
    return Refused(
        Failure(Kind.INVALID, message, details={key: value for key, value in said.items() if value})
    )


def unsupported(param: str, why: str) -> Refused:
    """Ignored, the answer would not be what its client believes it to be."""
    return refused(f"{param}: {why}", param, "unsupported_value")


# --- the head -----------------------------------------------------------------------------------------


@attrs.frozen
class Shown:
    """A request's head as the handler sees it."""

    method: str
    path: str
    headers: Sequence[tuple[bytes, bytes]]
    query: str = ""

    def header(self, name: bytes) -> bytes | None:
        """The first of this name; names are in lower case."""
        return next((value for key, value in self.headers if key == name), None)

    def header_all(self, name: bytes) -> list[bytes]:
        """All of this name."""
        return [value for key, value in self.headers if key == name]


def shown(request: Request, path: str) -> Shown:
    """The head of a request of another API, as of one for messages. `path`: its own without who asks."""
    before = request.path[: len(request.path) - len(path)]
    return Shown(request.method, before + PATH, _headers(request))


def known(request: Request) -> Shown:
    """The head of a request for models, which both APIs have; OpenAI's knows no pages."""
    all_of_them = "limit=1000" if request.path.endswith("/models") else ""
    return Shown(request.method, request.path, _headers(request), request.query or all_of_them)


def _headers(request: Request) -> Headers:
    """What tells of the client's own API and library stays behind, for it may go to Anthropic."""
    return [_renamed(name, value) for name, value in request.headers if _stays(name)] + _OURS


_OURS: Headers = [
    (b"anthropic-version", b"2023-06-01"),
    (b"user-agent", b"modelproxy/" + __version__.encode()),
]
_KEPT = frozenset(
    {
        # Whether it may come in at all.
        b"host",
        b"origin",
        b"content-type",
        b"content-encoding",
        # Who asks.
        b"authorization",
        b"x-api-key",
        b"x-session-id",
        b"session-id",
    }
)
_KEPT_FAMILIES = (b"sec-fetch-", b"x-proxy-", b"x-claude-code-")


def _stays(name: bytes) -> bool:
    return name in _KEPT or name.startswith(_KEPT_FAMILIES)


_ANTHROPICS = b"sk-ant-"
_OAUTH = b"sk-ant-oat"


def _renamed(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """Under the name by which it is known here."""
    return (b"x-session-id", value) if name == b"session-id" else _credential(name, value)  # codex's


def _credential(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """These clients have one place for a key; Anthropic's own belongs into another, but for a login's."""
    if name == b"authorization" and value[:7].lower() == b"bearer ":
        key = value[7:].strip()
        if key.startswith(_ANTHROPICS) and not key.startswith(_OAUTH):
            return b"x-api-key", key
    return name, value
