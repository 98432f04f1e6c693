"""A guess at how many tokens a text is, good enough for a gauge and for `count_tokens`.

From bytes, because that needs no tokenizer, no network and no time: 3.6 bytes of UTF-8 are one token of
English, code or JSON; a CJK character is three bytes and comes out near one token. Pictures count by
what they cost, not by the length of their base64. Never 0: clients take 0 for "unknown".
`gauge` then follows what the provider itself counts.
"""

from __future__ import annotations

import base64
import binascii
import math
from typing import Any

from .wire import codec

BYTES_PER_TOKEN = 3.6
PER_MESSAGE = 4
PER_TOOL = 8
IMAGE = 1500
"""When the size of the picture is unknown."""
IMAGE_MOST = 1600
PDF_PAGE = 2000


def of_text(text: str) -> int:
    """Tokens of one text; 0 only for an empty one."""
    return of_bytes(utf8_length(text))


def of_bytes(size: int) -> int:
    """Tokens of so many bytes of UTF-8."""
    return math.ceil(size / BYTES_PER_TOKEN)


def utf8_length(text: str) -> int:
    """Bytes of `text` on the wire; lone surrogates count as the three bytes they would be."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def of_prompt(body: dict[str, Any]) -> int:
    """Tokens of everything that a request shows to the model."""
    messages = body.get("messages")
    tools = body.get("tools")
    total = _of_content(body.get("system"))
    if isinstance(messages, list):
        total += sum(PER_MESSAGE + _of_content(message.get("content")) for message in _objects(messages))
    if isinstance(tools, list):
        total += sum(PER_TOOL + _of_json(_shown(tool)) for tool in _objects(tools))
    return max(total, 1)


def _objects(values: list[Any]) -> list[dict[str, Any]]:
    return [value for value in values if isinstance(value, dict)]


def _shown(tool: dict[str, Any]) -> list[Any]:
    return [tool.get("name"), tool.get("description"), tool.get("input_schema")]


def _of_content(content: Any) -> int:
    if isinstance(content, str):
        return of_text(content)
    if isinstance(content, list):
        return sum(_of_block(block) for block in _objects(content))
    return 0


def _of_block(block: dict[str, Any]) -> int:
    kind = block.get("type")
    if kind == "text":
        return _of_content(block.get("text"))
    if kind == "tool_result":
        return _of_content(block.get("content"))
    if kind == "tool_use":
        return _of_json([block.get("name"), block.get("input")])
    if kind == "thinking":
        return _of_content(block.get("thinking"))
    if kind == "redacted_thinking":
        return 0
    if kind == "image":
        return _of_image(block.get("source"))
    if kind == "document":
        return _of_document(block)
    return _of_json(block)


def _of_json(value: Any) -> int:
    return of_bytes(len(codec.dumps(value)))


def _of_image(source: Any) -> int:
    size = _png_size(source) if isinstance(source, dict) else None
    if size is None:
        return IMAGE
    return min(max(size[0] * size[1] // 750, 1), IMAGE_MOST)


def _png_size(source: dict[str, Any]) -> tuple[int, int] | None:
    """Width and height from the first bytes; only PNG has them at a fixed place."""
    data = source.get("data")
    if not isinstance(data, str) or not data.startswith("iVBORw0KGgo"):
        return None
    try:
        head = base64.b64decode(data[:32])
    except (binascii.Error, ValueError):
        return None
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


def _of_document(block: dict[str, Any]) -> int:
    source = block.get("source")
    titles = _of_content(block.get("title")) + _of_content(block.get("context"))
    if not isinstance(source, dict):
        return titles
    if source.get("type") == "text":
        return titles + _of_content(source.get("data"))
    if source.get("type") == "content":
        return titles + _of_content(source.get("content"))
    return titles + PDF_PAGE * _pdf_pages(source.get("data"))


def _pdf_pages(data: Any) -> int:
    if not isinstance(data, str):
        return 1
    try:
        raw = base64.b64decode(data)
    except (binascii.Error, ValueError):
        return 1
    pages = raw.count(b"/Type /Page") + raw.count(b"/Type/Page")
    trees = raw.count(b"/Type /Pages") + raw.count(b"/Type/Pages")
    return max(pages - trees, 1)
