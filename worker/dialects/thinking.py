"""Reasoning that must come back: how our blocks are signed, and who gets to see them again.

Clients replay the `signature` of a thinking block and the `data` of a redacted one word by word, and
Anthropic refuses any that it did not write itself. So ours carry a mark, `px1.`, and behind it who made
the block and what that provider needs to be given back: towards Anthropic a marked block is left out,
towards its own maker it is restored, everybody else never sees it.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import attrs

from modelproxy.worker.wire import codec
from modelproxy.worker.wire.items import Item, Text, Thinking

from .memory import Memory

MARK = "px1."
LEAST_BUDGET = 1024
"""Tokens of reasoning; Anthropic refuses a budget of less."""
LONGEST_DETAILS = 64 * 1024
"""More would make every later request carry it; it then stays in the worker's memory, and its hash travels."""


@attrs.frozen
class Envelope:
    """Who made a block, and what it wants back."""

    provider: str
    model: str
    details: Any = None


@attrs.frozen
class Replay:
    """Reasoning that its own maker may see again."""

    text: str
    details: Any = None


def sign(provider: str, model: str, details: Any = None, memory: Memory | None = None) -> str:
    """The signature of a thinking block that this provider's model made."""
    content: dict[str, Any] = {"u": provider, "m": model}
    if details is not None and len(codec.dumps(details)) <= LONGEST_DETAILS:
        content["d"] = details
    elif details is not None and memory is not None:
        content["h"] = memory.keep(details)
    return MARK + base64.urlsafe_b64encode(codec.dumps(content)).decode("ascii").rstrip("=")


def is_ours(signature: object) -> bool:
    """True for what `sign` made, whoever for."""
    return isinstance(signature, str) and signature.startswith(MARK)


def opened(signature: object, memory: Memory | None = None) -> Envelope | None:
    """What is inside, or what its hash stands for; None when it is not ours or did not survive the journey."""
    if not isinstance(signature, str) or not is_ours(signature):
        return None
    raw = signature.removeprefix(MARK)
    try:
        content = codec.loads(base64.b64decode(raw + "=" * (-len(raw) % 4), b"-_", validate=True))
    except (ValueError, binascii.Error):
        return None
    if not isinstance(content, dict):
        return None
    provider, model = content.get("u"), content.get("m")
    if not isinstance(provider, str) or not isinstance(model, str):
        return None
    name = content.get("h")
    if isinstance(name, str) and memory is not None:
        return Envelope(provider, model, memory.recall(name))
    return Envelope(provider, model, content.get("d"))


def is_thinking(block: dict[str, Any]) -> bool:
    """True for both kinds of reasoning block."""
    return block.get("type") in ("thinking", "redacted_thinking")


def replay(block: dict[str, Any], provider: str, model: str, memory: Memory | None = None) -> Replay | None:
    """What this provider's model may be shown again of a block; None: nothing, it is not its own."""
    redacted = block.get("type") == "redacted_thinking"
    envelope = opened(block.get("data" if redacted else "signature"), memory)
    if envelope is None or (envelope.provider, envelope.model) != (provider, model):
        return None
    shown = block.get("thinking")
    return Replay(shown if isinstance(shown, str) else "", envelope.details)


def is_foreign_to_anthropic(block: dict[str, Any]) -> bool:
    """True for a block that Anthropic would refuse: unsigned, or signed by us."""
    if block.get("type") == "thinking":
        signature = block.get("signature")
        return not isinstance(signature, str) or not signature or is_ours(signature)
    return block.get("type") == "redacted_thinking" and is_ours(block.get("data"))


class Inline:
    """Finds `<think>…</think>` at the very start of an answer, however the text was cut.

    For servers that leave a model's reasoning in its content. Only at the start, because later a
    `<think>` is something that the model writes about.
    """

    _BEGIN, _END = "<think>", "</think>"

    def __init__(self) -> None:
        self._state = "start"
        self._held = ""

    def feed(self, text: str) -> list[Item]:
        """The items that are certain now; the rest waits for more text."""
        self._held += text
        found: list[Item] = []
        if self._state == "start":
            self._begin()
        if self._state == "inside":
            found += self._inside()
        if self._state == "behind":
            self._skip_blanks()
        if self._state == "over" and self._held:
            found.append(Text(self._held))
            self._held = ""
        return found

    def end(self) -> list[Item]:
        """What was held back and became nothing else."""
        held, self._held = self._held, ""
        if not held or self._state == "behind":
            return []
        return [Thinking(held) if self._state == "inside" else Text(held)]

    def _begin(self) -> None:
        text = self._held.lstrip()
        if text.startswith(self._BEGIN):
            self._held = text.removeprefix(self._BEGIN)
            self._state = "inside"
        elif text and not self._BEGIN.startswith(text):
            self._state = "over"

    def _inside(self) -> list[Item]:
        thought, tag, rest = self._held.partition(self._END)
        if tag:
            self._held, self._state = rest, "behind"
        else:
            keep = _overlap(thought, self._END)
            self._held = thought[len(thought) - keep :]
            thought = thought[: len(thought) - keep]
        return [Thinking(thought)] if thought else []

    def _skip_blanks(self) -> None:
        """The blank lines that separate reasoning from the answer belong to neither."""
        self._held = self._held.lstrip("\n")
        if self._held:
            self._state = "over"


def _overlap(text: str, tag: str) -> int:
    """Length of the longest end of `text` that begins `tag`."""
    return next((size for size in range(len(tag) - 1, 0, -1) if text.endswith(tag[:size])), 0)
