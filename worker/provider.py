"""The seam to the far side: where the items of an answer come from.

A `Provider` belongs to the worker, a `Source` to one request. Everything that can go wrong over there
arrives as a `Failure` item; foreign exceptions end here. A source is read by one task. Its `receive` is
always a checkpoint, and it is cancelled when the client leaves: `aclose` then lets go of the far side at
once, without waiting for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import trio

from .contract import WorkerSpec
from .dialects import echo
from .dialects.seam import Condition, Headers, NewId, Sizes
from .failures import Failure
from .wire.asks import Ask
from .wire.items import Item

Log = Callable[..., None]
"""`log(level, event, **fields)`."""


class Source(Protocol):
    """One answer, arriving."""

    @property
    def retries(self) -> int:
        """How often the far side was asked again for it."""

    @property
    def remarks(self) -> Headers:
        """What the head of the client's answer says of how it was asked, as far as that is known by now."""

    @property
    def prompt_tokens(self) -> int | None:
        """An estimate of what the far side was sent; None: it was sent the request itself, or nothing yet."""

    async def receive(self) -> Sequence[Item] | None:
        """What came in together, at least one item; None: nothing more will come."""

    async def aclose(self) -> None:
        """Let go, also in the middle of the answer."""


class Provider(Protocol):
    """The far side of one worker."""

    def answer(self, ask: Ask) -> Source:
        """Begin an answer. Raises Refused for what can be refused without asking."""

    async def condition(self) -> Condition:
        """How the far side is now, or was a moment ago. Answers within three seconds."""

    async def doubted(self) -> None:
        """Wait until something happened after which the condition may be another."""

    def sizes(self) -> Sizes:
        """What is known of the model's sizes by now."""

    async def weigh(self, ask: Ask) -> int:
        """An estimate of the prompt as the model would be shown it, by what is known now. Asks nobody."""


class Echo:
    """The built-in provider: needs nothing, so nothing about it can be down."""

    def __init__(self, spec: WorkerSpec, new_id: NewId, _: Log | None = None) -> None:
        self._spec = spec
        self._new_id = new_id

    def answer(self, ask: Ask) -> Source:
        """See `docs/echo.md`."""
        return Paced(echo.answer(ask, self._spec.model, self._new_id))

    async def condition(self) -> Condition:
        """Always well."""
        await trio.lowlevel.checkpoint()
        return Condition(ok=True, detail="built in", latency_ms=0.0)

    async def doubted(self) -> None:
        """Never."""
        await trio.sleep_forever()

    def sizes(self) -> Sizes:
        """What is configured."""
        return Sizes(self._spec.options.context_window, self._spec.options.max_output_tokens)

    async def weigh(self, ask: Ask) -> int:
        """All of it is shown."""
        return ask.input_tokens


class Paced:
    """Plays a script of items and pauses, in batches as a socket would bring them."""

    MOST = 64
    """Items of a batch: with pieces of a kilobyte some 64 KiB of memory."""

    def __init__(self, script: Iterator[Item | echo.Pause]) -> None:
        self._script = script
        self._pause = 0.0
        self._failure: Failure | None = None
        self._over = False
        self.retries = 0
        self.remarks: Headers = []
        self.prompt_tokens: int | None = None

    async def receive(self) -> list[Item] | None:
        """Wait as the script says, then return what comes before its next pause."""
        while True:
            await trio.sleep(self._pause)  # a checkpoint even when there is no pause
            self._pause = 0.0
            if self._failure is not None:
                failure, self._failure = self._failure, None
                return [failure]
            self._over = True
            if batch := self._batch():
                return batch
            if self._over:
                return None

    def _batch(self) -> list[Item]:
        batch: list[Item] = []
        for item in self._script:
            if isinstance(item, echo.Pause):
                self._pause, self._over = item.seconds, False
                break
            if isinstance(item, Failure) and batch:
                # By itself, so that what came before has been sent when the failure is known.
                self._failure = item
                break
            batch.append(item)
            if len(batch) == self.MOST:
                break
        return batch

    async def aclose(self) -> None:
        """Nothing to let go of."""


# The imports stand inside, so that a worker loads the dialect it speaks and no other; `echo` needs no HTTP client.


def _ollama(spec: WorkerSpec, new_id: NewId, log: Log) -> Provider:
    from . import upstream

    return upstream.ollama(spec, new_id, log)


def _openai(spec: WorkerSpec, new_id: NewId, log: Log) -> Provider:
    from . import upstream

    return upstream.openai(spec, new_id, log)


KINDS: dict[str, Callable[[WorkerSpec, NewId, Log], Provider]] = {
    "echo": Echo,
    "ollama": _ollama,
    "openai": _openai,
    "openrouter": _openai,
}


def _silent(*_: Any, **__: Any) -> None:
    pass


def provider(spec: WorkerSpec, new_id: NewId, log: Log = _silent) -> Provider:
    """The provider that a spec names. Raises ValueError for a kind that nobody speaks, or a spec that is wrong."""
    make = KINDS.get(spec.kind)
    if make is None:
        raise ValueError(f"provider {spec.provider}: unknown kind {spec.kind!r}, known: {', '.join(KINDS)}")
    return make(spec, new_id, log)


__all__ = ["KINDS", "Condition", "Echo", "Log", "NewId", "Paced", "Provider", "Sizes", "Source", "provider"]
