"""What a dialect is: the translation between the vocabulary in the middle and one kind of server.

A dialect is pure. It turns an `Ask` into one HTTP call, the bytes of the answer into items, and a refusal
into a `Failure`. Who sends the call, waits, times out and hangs up is `upstream`; who tells the client is
the handler. Provider differences are data in `Terms` or in a table of the dialect's own module.
"""

from __future__ import annotations

from typing import Protocol

import attrs

from modelproxy.worker.contract import Options
from modelproxy.worker.failures import Failure
from modelproxy.worker.wire.asks import Ask
from modelproxy.worker.wire.items import Item

from .blocks import Sight
from .memory import Memory

Headers = list[tuple[bytes, bytes]]


@attrs.frozen
class Terms:
    """What is known about the far side when a request is translated."""

    provider: str
    """The user's own name for it; failures name it."""
    model: str
    """The provider's own name of the model."""
    options: Options
    api_key: str | None = attrs.field(default=None, repr=False)
    window: int | None = None
    """Tokens that prompt and answer may have together."""
    max_output: int | None = None
    capabilities: frozenset[str] | None = None
    """None: unknown, and then nothing is withheld."""
    facts: dict[str, object] = attrs.Factory(dict)
    """What else discovery found, for the dialect that knows the words."""
    memory: Memory = attrs.field(factory=Memory, repr=False, eq=False)
    """The worker's own; a dialect must do without what is no longer in it."""

    def can(self, capability: str) -> bool:
        return self.capabilities is None or capability in self.capabilities


@attrs.frozen
class Condition:
    """How the far side was when it was last looked at."""

    ok: bool
    detail: str = ""
    latency_ms: float | None = None
    checked_at: float | None = None
    """Seconds since the epoch."""
    warning: str = ""
    """It works, but not as one would wish; for `up` and `ps`."""


@attrs.frozen
class Sizes:
    """How much a model takes, as far as it is known by now."""

    window: int | None = None
    """Tokens of prompt and answer."""
    output: int | None = None


@attrs.frozen
class Call:
    """One HTTP request to the provider."""

    path: str
    """Below the provider's base URL, with its leading slash."""
    body: bytes = attrs.field(repr=False)
    headers: Headers = attrs.field(repr=False, factory=list)
    method: str = "POST"
    notes: tuple[str, ...] = ()
    """What was left out or changed on the way, for the log: `dropped 2 images: no vision`."""
    remarks: Headers = attrs.field(factory=list)
    """What of it the head of the client's answer says."""
    prompt_tokens: int | None = None
    """An estimate of what is sent; the client's own request may hold files that are only named here."""


class Decoder(Protocol):
    """The bytes of one answer, in whatever pieces they arrive, into items. Any cut gives the same items."""

    @property
    def is_ending(self) -> bool:
        """The provider has said how it finished: what may still come is not worth a long wait."""

    @property
    def is_over(self) -> bool:
        """Whatever may still come says nothing any more."""

    def feed(self, data: bytes) -> list[Item]:
        """The items that these bytes complete, or the first of them."""

    def rest(self) -> list[Item]:
        """More of them. To be asked for until there are none, before the next `feed` or `end` and behind the last."""

    def end(self) -> list[Item]:
        """The body has ended. Without a `Finish` said before or here, the answer counts as cut."""


class Dialect(Protocol):
    def call(self, ask: Ask, terms: Terms) -> Call:
        """The request in the provider's words. Raises `Refused` for what cannot be served honestly."""

    def sight(self, terms: Terms) -> Sight:
        """Which kinds of part the model can be shown."""

    def decoder(self, ask: Ask, terms: Terms, *, new_id: NewId) -> Decoder:
        """For the body of a 200."""

    def failure(self, ask: Ask, terms: Terms, status: int, headers: Headers, body: bytes) -> Failure:
        """What any other answer means to the client. Never quotes a key."""


class NewId(Protocol):
    def __call__(self, prefix: str) -> str:
        """A fresh id that begins with `prefix`."""
