"""What a request holds that has to be made ready before it can be translated. Pure.

A server that takes no files can be told what stands in one, if somebody reads it out; one that takes no
addresses can be sent the picture. A dialect can do neither: it has no process and no socket. So this says what
is wanted, `materials` goes and gets it, and `filled` puts it in: the same request, in blocks that every dialect
knows. A history that is filled with the same things gives the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs

from modelproxy.worker.wire.asks import Ask

from .blocks import Block, Document, Image, ImageUrl, Media, Sight, media_of

PDF = "application/pdf"


@attrs.frozen
class Lacking:
    """It could not be had; in a few words, why."""

    reason: str


Wanted = Document | ImageUrl
Found = str | Image | Lacking
"""The text of a document; a picture."""


@attrs.frozen
class Wishes:
    """What is to be made ready, of that which the model cannot be shown as it is."""

    pdfs: bool = False
    images: bool = False
    """Those of which the request has only the address; also where the server would fetch them itself."""


def key_of(media: Wanted) -> str:
    """What is the same has the same."""
    if isinstance(media, ImageUrl):
        return f"image:{media.url}"
    found = hashlib.sha256()
    for start in range(0, len(media.data), _PIECE):
        found.update(media.data[start : start + _PIECE].encode("utf-8", "replace"))
    return f"pdf:{found.hexdigest()}"


_PIECE = 65536
"""Of a text that is hashed: a second one of its length would be there for a moment, and what it took for longer."""


def wanted(ask: Ask, sight: Sight, wishes: Wishes) -> list[Wanted]:
    """In the order of the history; what stands there twice is here twice."""
    return [media for block in _blocks(ask) if (media := _wish(block, sight, wishes)) is not None]


def filled(ask: Ask, sight: Sight, wishes: Wishes, found: Mapping[Wanted, Found]) -> Ask:
    """The request with what was found in the place of what was wanted. What nobody looked for stays as it is."""

    def fill(block: Block) -> Block:
        media = _wish(block, sight, wishes)
        got = None if media is None else found.get(media)
        return block if media is None or got is None else _with(block, media, got)

    messages = [message | {"content": _each(message["content"], fill)} for message in ask.messages]
    return attrs.evolve(ask, body=ask.body | {"messages": messages})


def _wish(block: Block, sight: Sight, wishes: Wishes) -> Wanted | None:
    media: Media | None = media_of(block) if block["type"] in ("image", "document") else None
    if isinstance(media, ImageUrl):
        return media if wishes.images and sight.images else None
    if isinstance(media, Document) and media.media_type == PDF:
        return media if wishes.pdfs and not sight.documents else None
    return None


def _with(block: Block, media: Wanted, got: Found) -> Block:
    if isinstance(got, Image):
        return block | {"source": {"type": "base64", "media_type": got.media_type, "data": got.data}}
    if isinstance(got, str):
        # The form of a document that a client sends as text; its title tells where one begins.
        source = {"type": "text", "media_type": "text/plain", "data": got}
        return block | {"title": media.name if isinstance(media, Document) else None, "source": source}
    mark = {"cache_control": block["cache_control"]} if "cache_control" in block else {}
    return {"type": "text", "text": _without(media, got), **mark}


def _without(media: Wanted, lacking: Lacking) -> str:
    if isinstance(media, ImageUrl):
        return f"[image omitted: {media.url[:200]}: {lacking.reason}]"
    words = Sight().omission(media) or ""
    return f"{words.removesuffix(']')}: {lacking.reason}]"


# --- where blocks are -----------------------------------------------------------------------------


def _blocks(ask: Ask) -> Iterator[Block]:
    for message in ask.messages:
        content = message["content"]
        for block in content if isinstance(content, list) else ():
            inner = block.get("content") if block["type"] == "tool_result" else None
            yield from inner if isinstance(inner, list) else (block,)


def _each(content: Any, fill: Callable[[Block], Block]) -> Any:
    """The content with each block replaced; a tool's result keeps its frame."""
    if not isinstance(content, list):
        return content
    return [_filled_block(block, fill) for block in content]


def _filled_block(block: Block, fill: Callable[[Block], Block]) -> Block:
    if block["type"] != "tool_result":
        return fill(block)
    inner = block.get("content")
    return block | {"content": [fill(one) for one in inner]} if isinstance(inner, list) else block


__all__ = ["Found", "Lacking", "Wanted", "Wishes", "filled", "key_of", "wanted"]
