"""The contents and the history of other APIs, in the blocks and turns of the Messages API.

The same history always gives the same turns, and a longer one begins with what the shorter one gave: providers keep
the work they did for a prompt by its exact beginning.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import Any

from modelproxy.worker.dialects.turns import NO_CONTENT, reminder

from .asking import refused, unsupported

Block = dict[str, Any]


# --- one part -----------------------------------------------------------------------------------------


def blocks(content: Any, where: str) -> list[Block]:
    """A message's content: a string, a list of parts, or nothing. Raises Refused."""
    if content is None:
        return []
    if isinstance(content, str):
        return _text(content)
    if not isinstance(content, list):
        raise refused(f"{where}: must be a string or a list of parts", where)
    found: list[Block] = []
    for number, part in enumerate(content):
        found += _part(part, f"{where}[{number}]")
    return found


def _part(part: Any, where: str) -> list[Block]:
    if isinstance(part, str):
        return _text(part)
    if not isinstance(part, dict):
        raise refused(f"{where}: must be an object with a type", where)
    kind = part.get("type")
    read = _PARTS.get(kind) if isinstance(kind, str) else None
    found = _text(f"[{str(kind)[:40]} omitted]") if read is None else read(part, where)
    if found and isinstance(part.get("cache_control"), dict):
        found[-1] = {**found[-1], "cache_control": part["cache_control"]}
    return found


def _text(text: str) -> list[Block]:
    """Blanks alone say nothing, and Anthropic refuses them."""
    return [{"type": "text", "text": text}] if text.strip() else []


def _of_text(part: Block, where: str) -> list[Block]:
    if not isinstance(part.get("text"), str):
        raise refused(f"{where}.text: must be a string", f"{where}.text")
    return _text(part["text"])


def _of_refusal(part: Block, where: str) -> list[Block]:
    return _text(part["refusal"]) if isinstance(part.get("refusal"), str) else []


def _of_image(part: Block, where: str) -> list[Block]:
    """`image_url` is an object in one API and a string in the other."""
    said = part.get("image_url")
    url = said.get("url") if isinstance(said, dict) else said
    if url is None and isinstance(part.get("file_id"), str):
        return _text(f"[image omitted: {part['file_id'][:100]} is a file of another service]")
    inline = _DATA_URL.match(url) if isinstance(url, str) else None
    if isinstance(url, str) and inline is not None:
        return [_of_data("image", inline["type"] or "image/png", url[inline.end() :])]
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        raise refused(f"{where}.image_url: must be a data: or an http(s) address", f"{where}.image_url")
    return [{"type": "image", "source": {"type": "url", "url": url}}]


def _of_file(part: Block, where: str) -> list[Block]:
    """The object that tells of a file is the part itself in one API and inside it in the other."""
    inside = part.get("file")
    said = inside if isinstance(inside, dict) else part
    name = said.get("filename")
    name = name if isinstance(name, str) else None
    data, url = said.get("file_data"), said.get("file_url")
    if isinstance(data, str) and data:
        return [_document(data, name, where)]
    if isinstance(url, str) and url.startswith(("http://", "https://")):
        return [_titled({"type": "document", "source": {"type": "url", "url": url}}, name)]
    if isinstance(said.get("file_id"), str):
        return _text(f"[file omitted: {said['file_id'][:100]} is a file of another service]")
    raise refused(f"{where}: a file needs file_data", where)


def _document(data: str, name: str | None, where: str) -> Block:
    inline = _DATA_URL.match(data)
    media_type = (inline["type"] if inline else None) or "application/pdf"
    data = data[inline.end() :] if inline else data
    if media_type.startswith("image/"):
        return _of_data("image", media_type, data)
    if not (media_type.startswith("text/") or media_type in _TEXTS):
        return _titled(_of_data("document", media_type, data), name)
    try:
        text = base64.b64decode(data, validate=True).decode("utf-8")
    except (ValueError, binascii.Error):
        raise refused(f"{where}.file_data: is not text in base64", where) from None
    return _titled(
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": text}}, name
    )


def _of_data(kind: str, media_type: str, data: str) -> Block:
    return {"type": kind, "source": {"type": "base64", "media_type": media_type, "data": data}}


def _titled(block: Block, name: str | None) -> Block:
    return {**block, "title": name} if name else block


def _of_audio(part: Block, where: str) -> list[Block]:
    raise unsupported(where, "audio is not supported")


_DATA_URL = re.compile(r"data:(?P<type>[\w.+-]+/[\w.+-]+)?(?:;(?!base64)[^,;]*)*;base64,", re.ASCII)
_TEXTS = ("application/json", "application/xml")
_PARTS: dict[str, Callable[[Block, str], list[Block]]] = {
    "text": _of_text,
    "input_text": _of_text,
    "output_text": _of_text,
    "refusal": _of_refusal,
    "image_url": _of_image,
    "input_image": _of_image,
    "file": _of_file,
    "input_file": _of_file,
    "input_audio": _of_audio,
}
"""Of both APIs. What is none of these is named in its place, so that the model can say so."""


# --- the history --------------------------------------------------------------------------------------


class History:
    """Turns of the Messages API, from messages one after the other."""

    def __init__(self) -> None:
        self.system: list[Block] = []
        self.messages: list[dict[str, Any]] = []

    def instruct(self, content: list[Block]) -> None:
        """What stands before the conversation is the system prompt; later it goes with the user's turn.

        Not every model takes a system message there, and nobody here knows which one will answer.
        """
        if not self.messages:
            self.system += content
        elif (found := reminder(content)) is not None:
            self._add("user", [found])

    def user(self, content: list[Block]) -> None:
        """What the user says. It may be nothing."""
        self._add("user", content)

    def assistant(self, content: list[Block]) -> None:
        """What the model has said and called."""
        self._add("assistant", content)

    def result(self, call_id: str, content: list[Block]) -> None:
        """What came of a call. Results stand first in their turn."""
        block = {"type": "tool_result", "tool_use_id": call_id, "content": content}
        self._add("user", [])
        turn = self._turn("user")
        count = sum(one["type"] == "tool_result" for one in turn)
        turn.insert(count, block)

    def done(self) -> tuple[list[Block], list[dict[str, Any]]]:
        """System prompt and messages. There is always one to answer, be it what stood before the conversation."""
        if not any(one["content"] for one in self.messages):
            last = self.system[-1:] or [{"type": "text", "text": NO_CONTENT}]
            return self.system[:-1], [{"role": "user", "content": last}]
        if not self.messages[-1]["content"]:  # without it the model would go on for itself
            self.messages[-1]["content"] += [{"type": "text", "text": NO_CONTENT}]
        return self.system, [one for one in self.messages if one["content"]]

    def _add(self, role: str, content: list[Block]) -> None:
        self._turn(role).extend(content)

    def _turn(self, role: str) -> list[Block]:
        if not self.messages or self.messages[-1]["role"] != role:
            self.messages.append({"role": role, "content": []})
        found: list[Block] = self.messages[-1]["content"]
        return found
