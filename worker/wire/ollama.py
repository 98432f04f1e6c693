"""What Ollama's `/api/chat` answers, line by line.

Tolerant of what is new and of what is missing; a known field of the wrong shape is an error, because
guessing what it meant would put words into the model's mouth.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from . import codec, longs


@attrs.frozen
class Call:
    """One tool call. Arguments are an object, from some models and relays a text."""

    name: str
    arguments: Any


@attrs.frozen
class Chunk:
    """One line of an answer."""

    content: str = ""
    thinking: str = ""
    calls: tuple[Call, ...] = ()
    done: bool = False
    reason: str = ""
    """`stop`, `length`, `load` or `unload`; empty from old servers."""
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    error: Any = None


def read(line: bytes | bytearray) -> Iterator[Chunk]:
    """Parse a line: one chunk, of a long text several. Raises ValueError that says what is wrong with its shape."""
    long = longs.parted(line, ("message", "content"))
    document, texts = long or (codec.loads(line), ())
    whole = _chunk(document)
    if not texts or whole.error is not None:
        yield whole
        return
    yield Chunk(thinking=whole.thinking)
    for text in texts:
        yield Chunk(content=text)
    yield attrs.evolve(whole, thinking="")


def _chunk(document: Any) -> Chunk:
    if not isinstance(document, dict):
        raise ValueError("a line that is no object")
    if document.get("error") is not None:
        return Chunk(error=document["error"])
    message = _typed(document, "message", dict) or {}
    return Chunk(
        content=_typed(message, "content", str) or "",
        thinking=_typed(message, "thinking", str) or "",
        calls=tuple(_call(one) for one in _typed(message, "tool_calls", list) or []),
        done=document.get("done") is True,
        reason=_typed(document, "done_reason", str) or "",
        # Old servers leave it out, or say 0, when the prompt was still in their cache.
        prompt_tokens=codec.as_count(document.get("prompt_eval_count")),
        output_tokens=codec.as_count(document.get("eval_count")),
    )


def _typed(document: dict[str, Any], key: str, kind: type) -> Any:
    value = document.get(key)
    if value is not None and not isinstance(value, kind):
        raise ValueError(f"{key} is no {kind.__name__}")
    return value


def _call(value: Any) -> Call:
    if not isinstance(value, dict):
        raise ValueError("a tool call that is no object")
    function = _typed(value, "function", dict) or {}
    return Call(_typed(function, "name", str) or "", function.get("arguments"))
