"""A guess at how many tokens a text is, good enough for a gauge and for `count_tokens`.

Theory of operation
-------------------
No tokenizer, no network and nearly no time: some milliseconds per megabyte. Tokenizers differ, but all of them
begin a token where a word begins, need more than one for a long word, and read signs, digits and the scripts
of the world in pieces of their own. So the bytes are turned into classes by one table, and how often the
patterns of `_COSTS` occur is weighed. The weights were fitted to what OpenAI's o200k counts in prose, code, JSON and
conversations of agents (`tests/cases/tokens`), and most texts come out within a tenth of it.

Pictures count by what they cost, not by the length of their base64. Never 0: clients take 0 for "unknown".
`gauge` then follows what the provider itself counts.
"""

from __future__ import annotations

import base64
import binascii
import math
from typing import Any

from .wire import codec

BYTES_PER_TOKEN = 3.6
"""Where only a size is known, or a text comes word by word."""
PER_MESSAGE = 4
PER_TOOL = 8
IMAGE = 1500
"""When the size of the picture is unknown."""
IMAGE_MOST = 1600
PDF_PAGE = 2000

# Classes of bytes: letters L, digits 0, signs p, line ends n, blanks, and of other scripts the first byte of a
# character; ~ is a byte that counts for nothing.
_SCRIPTS = {
    "g": range(0xC4, 0xCE),  # Latin letters of central Europe
    "t": (0xCE, 0xCF, 0xE0, 0xE1),  # Greek, scripts of India and South-East Asia, Vietnamese
    "c": range(0xD0, 0xE0),  # Cyrillic, Hebrew, Arabic
    "x": (0xE2,),  # dashes, quotes, arrows
    "k": (*range(0xE3, 0xEA), 0xEE, 0xEF),  # Chinese, Japanese
    "h": range(0xEA, 0xEE),  # Korean
    "e": range(0xF0, 0xF8),  # emoji
}


def _class_of(byte: int) -> str:
    char = chr(byte)
    if byte >= 0x80:
        latin = "L" if byte in (0xC2, 0xC3) else "~"  # é is a letter like any other
        return next((name for name, firsts in _SCRIPTS.items() if byte in firsts), latin)
    if char.isalpha():
        return "L"
    if char.isdigit():
        return "0"
    if char == "\n":
        return "n"
    return " " if char.isspace() or not char.isprintable() else "p"


_CLASSES = "".join(map(_class_of, range(256))).encode()
_COSTS = (
    (b" L", 0.896),  # a blank and a word
    (b"pL", 1.246),  # a sign and a word
    (b"LLLLL", 0.777),
    (b" p", 1.226),
    (b"p", 0.08),  # one of many: `);` and `----` are one token
    (b"0", 0.9),
    (b"n", 0.843),
)
_COSTS_OF_SCRIPTS = (
    (b"g", 1.0), (b"t", 0.48), (b"c", 0.37), (b"x", 0.9), (b"k", 0.806), (b"h", 0.9), (b"e", 2.5),
)  # fmt: skip


def of_text(text: str) -> int:
    """Tokens of one text; 0 only for an empty one. More text is never fewer."""
    return _of_utf8(text.encode("utf-8", "surrogatepass"))


def _of_utf8(data: bytes) -> int:
    classes = data.translate(_CLASSES)
    cost = sum(classes.count(pattern) * each for pattern, each in _COSTS)
    if not data.isascii():
        cost += sum(classes.count(pattern) * each for pattern, each in _COSTS_OF_SCRIPTS)
    return max(math.ceil(cost), 1 if data else 0)


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
        total += sum(
            PER_MESSAGE + _of_content(message.get("content")) for message in codec.as_dicts(messages)
        )
    if isinstance(tools, list):
        total += sum(PER_TOOL + _of_json(_shown(tool)) for tool in codec.as_dicts(tools))
    return max(total, 1)


def _shown(tool: dict[str, Any]) -> list[Any]:
    return [tool.get("name"), tool.get("description"), tool.get("input_schema")]


def _of_content(content: Any) -> int:
    if isinstance(content, str):
        return of_text(content)
    if isinstance(content, list):
        return sum(_of_block(block) for block in codec.as_dicts(content))
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
    return _of_utf8(codec.dumps(value))


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
