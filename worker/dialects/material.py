"""What a request holds that has to be made ready before it can be translated. Pure.

A server that takes no files can be told what stands in one, if somebody reads it out. A dialect cannot: it
has neither a process nor a socket. So this says what is wanted, `materials` goes and gets it, and `filled`
puts it in: the same request, in blocks that every dialect knows. A history that is filled with the same
things gives the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs

from modelproxy.worker.wire.asks import Ask

from .blocks import Block, Document, Media, Sight, media_of

PDF = "application/pdf"


@attrs.frozen
class Lacking:
    """It could not be had; in a few words, why."""

    reason: str


@attrs.frozen
class Wishes:
    """What is to be made ready, of that which the model cannot be shown as it is."""

    pdfs: bool = False


def key_of(media: Media) -> str:
    """What is the same has the same."""
    assert isinstance(media, Document)  # nothing else is wanted
    return f"pdf:{hashlib.sha256(media.data.encode('utf-8', 'replace')).hexdigest()}"


def wanted(ask: Ask, sight: Sight, wishes: Wishes) -> list[Media]:
    """In the order of the history; what stands there twice is here twice."""
    return [media for block in _blocks(ask) if (media := _wish(block, sight, wishes)) is not None]


def filled(ask: Ask, sight: Sight, wishes: Wishes, found: Mapping[Media, str | Lacking]) -> Ask:
    """The request with what was found in the place of what was wanted. What nobody looked for stays as it is."""

    def fill(block: Block) -> Block:
        media = _wish(block, sight, wishes)
        got = None if media is None else found.get(media)
        return block if media is None or got is None else _with(block, media, got, sight)

    messages = [message | {"content": _each(message["content"], fill)} for message in ask.messages]
    return attrs.evolve(ask, body=ask.body | {"messages": messages})


def _wish(block: Block, sight: Sight, wishes: Wishes) -> Media | None:
    media = media_of(block) if block["type"] in ("image", "document") else None
    if isinstance(media, Document) and media.media_type == PDF:
        return media if wishes.pdfs and not sight.documents else None
    return None


def _with(block: Block, media: Media, got: str | Lacking, sight: Sight) -> Block:
    assert isinstance(media, Document)  # nothing else is wanted
    if isinstance(got, str):
        # The form of a document that a client sends as text; its title tells where one begins.
        source = {"type": "text", "media_type": "text/plain", "data": got}
        return block | {"title": media.name, "source": source}
    words = sight.omission(media) or ""
    mark = {"cache_control": block["cache_control"]} if "cache_control" in block else {}
    return {"type": "text", "text": f"{words.removesuffix(']')}: {got.reason}]", **mark}


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


__all__ = ["Lacking", "Wishes", "filled", "key_of", "wanted"]
