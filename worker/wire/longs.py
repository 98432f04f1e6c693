"""Long texts inside JSON, without ever decoding one whole.

Theory of operation
-------------------
One emoji makes Python keep a text as four bytes per character, so ten megabytes of answer would cost forty
for as long as they are looked at. `parted` therefore decodes everything of a document but the one text that is
known to be long, which stays as the bytes it came in, and `pieces` decodes those a stretch at a time.

A stretch ends where nothing is cut: not inside a character of UTF-8, not inside an escape, and not between the
two escapes of a surrogate pair. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from . import codec

LONG = 256 * 1024
"""Shorter documents are decoded as they are."""
STRETCH = 64 * 1024
"""Bytes of a text that are decoded together."""

Path = tuple[str | int, ...]
"""Keys and indexes from the top of a document to a text."""

_QUOTE = ord('"')

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_items = msgspec.json.Decoder(list[msgspec.Raw])


def parted(data: bytes | bytearray, path: Path) -> tuple[Any, Iterator[str]] | None:
    """A long document with an empty text in the place of a long one at `path`, and the pieces of that.

    None: there is no such text, or another long value, or something is wrong with the document; who reads it
    whole finds out what.
    """
    if len(data) < LONG:
        return None
    try:
        document, text = _without(msgspec.Raw(data), path)
    except (ValueError, RecursionError):
        return None
    return document, pieces(text)


def fields(data: bytes) -> dict[str, msgspec.Raw] | None:
    """The top of a document, each value as it came. None: it is no object."""
    try:
        return _fields.decode(data)
    except (ValueError, RecursionError):
        return None


def _without(raw: msgspec.Raw, path: Path) -> tuple[Any, memoryview]:
    """Raises ValueError as soon as something long is not where it should be, before it is decoded."""
    view = memoryview(raw)
    if not path:
        if view[0] != _QUOTE or len(view) < LONG:
            raise ValueError("no long text")
        return "", _inside(view)
    parts = _fields.decode(raw) if isinstance(path[0], str) else dict(enumerate(_items.decode(raw)))
    found: memoryview | None = None
    inner: dict[Any, Any] = {}
    for key, value in parts.items():
        if key == path[0]:
            inner[key], found = _without(value, path[1:])
        else:
            inner[key] = _short(memoryview(value))
    if found is None:
        raise ValueError("nothing there")
    return (inner if isinstance(path[0], str) else list(inner.values())), found


def _short(view: memoryview) -> Any:
    if len(view) >= LONG:
        raise ValueError("a long value elsewhere")
    return codec.loads(bytes(view))


def _inside(text: memoryview) -> memoryview:
    """Without its quotes; raises ValueError for what is not UTF-8, so that no piece fails later."""
    inside = text[1:-1]
    for start, end in _stretches(inside):
        str(inside[start:end], "utf-8")
    return inside


def pieces(inside: memoryview) -> Iterator[str]:
    """The text between a string's quotes, decoded a stretch at a time."""
    held = ""
    for start, end in _stretches(inside):
        text = held + codec.loads(b'"' + bytes(inside[start:end]) + b'"')
        # Half a pair of surrogates waits for its other half.
        held = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
        text = text[: len(text) - len(held)]
        if text:
            yield paired(text)
    if held:
        yield held


def paired(text: str) -> str:
    """Two escapes at the beginning that came in different stretches are one character."""
    if len(text) > 1 and "\ud800" <= text[0] <= "\udbff" and "\udc00" <= text[1] <= "\udfff":
        pair = text[:2].encode("utf-16-le", "surrogatepass").decode("utf-16-le")
        return pair + text[2:]
    return text


def _stretches(inside: memoryview) -> Iterator[tuple[int, int]]:
    start, size = 0, len(inside)
    while start < size:
        end = min(start + STRETCH, size)
        if end < size:
            end = start + _safe_end(bytes(inside[start : end + 1]))
        yield start, end
        start = end


def _safe_end(stretch: bytes) -> int:
    """How much of it is whole; its last byte is only there to be looked at."""
    end = len(stretch) - 1
    escape = stretch.rfind(b"\\", end - 5, end)
    if escape >= 0:
        run = escape + 1 - len(stretch[: escape + 1].rstrip(b"\\"))
        if run % 2:  # else it is the second half of an escaped backslash
            return escape
    while stretch[end] & 0xC0 == 0x80:
        end -= 1
    return end
