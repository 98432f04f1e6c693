"""The vocabulary in the middle: what a provider's answer consists of, whatever its dialect.

A source yields these in the order in which they happened. `Finish` says that the provider ended its
answer on purpose; a source that stops without it was cut. A `Failure` ends the answer.
Items are complete: a dialect that receives arguments in fragments keeps them until the call is whole, unless it
was told to pass them on live.
"""

from __future__ import annotations

from typing import Any

import attrs

from modelproxy.worker.failures import Failure


@attrs.frozen
class Text:
    """A piece of visible answer."""

    text: str


@attrs.frozen
class Thinking:
    """A piece of reasoning. A signature ends the block it belongs to."""

    text: str
    signature: str = ""


@attrs.frozen
class ToolCall:
    """One whole call. `arguments` is one JSON object, already repaired."""

    id: str
    name: str
    arguments: bytes = b"{}"


@attrs.frozen
class ServerCall:
    """A call that the provider has answered itself; the `Block` behind it says what came of it."""

    id: str
    name: str
    arguments: bytes = b"{}"


@attrs.frozen
class CallStart:
    """A call that comes in parts. Until its `CallStop` there is nothing but parts, usage or a failure."""

    id: str
    name: str


@attrs.frozen
class CallPart:
    """The next piece of its arguments, to the letter."""

    text: str


@attrs.frozen
class CallStop:
    """Its arguments were one JSON object."""


@attrs.frozen
class Block:
    """A content block that travels whole inside its start event, such as `redacted_thinking`."""

    content: dict[str, Any]


@attrs.frozen
class Usage:
    """Token counts so far; each replaces the one before. None: the provider did not say."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    cost_usd: float | None = None
    """What the provider says it charges for the answer; 0 is free, None is unknown."""
    web_searches: int | None = None
    """How often the provider has searched the web; None where no search was on offer."""


@attrs.frozen
class Finish:
    """The provider said that its answer is complete."""

    stop_reason: str = "end_turn"
    stop_sequence: str | None = None


Item = (
    Text
    | Thinking
    | ToolCall
    | CallStart
    | CallPart
    | CallStop
    | ServerCall
    | Block
    | Usage
    | Finish
    | Failure
)
