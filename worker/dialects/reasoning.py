"""Reasoning on its way to the client, with all that its maker wants to see again.

OpenRouter sends, beside the text, `reasoning_details`: signed or encrypted entries in pieces, which the
next request must bring back unchanged and in order. They travel in the signature of the thinking block;
without any text to show, in a redacted block. Where the client wants neither, the worker remembers them by the
answer's first call: some models reason unasked, and refuse a call of their own without its reasoning.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from modelproxy.worker.wire.items import Block, Item, Thinking

from . import thinking
from .memory import Memory

Details = list[dict[str, Any]]


class Reasoning:
    """The reasoning of one answer: its text at once, a signature when a block of it is over."""

    def __init__(self, provider: str, model: str, *, display: str, memory: Memory | None = None) -> None:
        """`display`: see `Ask.thinking`. `memory`: for what is too long to travel."""
        self._memory = memory
        self._provider = provider
        self._model = model
        self._display = display
        self._text: list[str] = []
        self._fresh: Details = []
        self._before: Details = []
        self._speaks = False
        self._hidden: Details = []
        """Entries that no block may carry."""

    def add(self, text: str, details: Details) -> list[Item]:
        """Take a piece."""
        self._fresh += details
        shown = text or "".join(_readable(entry) for entry in details)
        if not shown:
            return []
        self._text.append(shown)
        return [Thinking(shown)]

    def close(self, *, final: bool = False) -> list[Item]:
        """Text begins or goes on, or all is over: what ends the block, if there is one."""
        if not self._text and not self._fresh:
            self._speaks = True
            return []
        if self._speaks and not self._text and not final:
            return []  # entries that come late must not cut the visible text in two
        self._speaks = True
        text, self._text = "".join(self._text), []
        fresh, self._fresh = self._fresh, []
        if self._display == "none":
            self._hidden = merged(fresh, self._hidden)
            return []  # the client wants no such blocks, so nothing can travel in one
        signature = thinking.sign(self._provider, self._model, self._envelope(text, fresh), self._memory)
        if text:
            return [Thinking("", signature)]
        return [Block({"type": "redacted_thinking", "data": signature})]

    def keep(self, call_id: str) -> None:
        """All is over, and this was the first call: what nothing carries is remembered by it."""
        if self._hidden and self._memory is not None:
            self._memory.keep(self._hidden, _by_call(call_id, self._model))

    def _envelope(self, text: str, fresh: Details) -> dict[str, Any] | None:
        if not fresh:
            # A shown block brings its text back by itself.
            return {"text": text} if self._display == "omitted" else None
        late = any(_place(self._before, entry) is not None for entry in fresh)
        entries = merged(fresh)
        self._before += entries
        return {"details": entries, "late": True} if late else {"details": entries}


def _readable(entry: dict[str, Any]) -> str:
    value = entry.get("text") or entry.get("summary")
    return value if isinstance(value, str) else ""


def merged(pieces: Iterable[dict[str, Any]], entries: Details | None = None) -> Details:
    """Pieces of entries put together, behind `entries` or into them."""
    found = [dict(entry) for entry in entries or ()]
    for piece in pieces:
        place = _place(found, piece)
        if place is None:
            found.append(dict(piece))
        else:
            found[place] = _joined(found[place], piece)
    return found


def _place(entries: Details, piece: dict[str, Any]) -> int | None:
    """Which entry a piece continues: of its type and index, its id, and not yet signed."""
    for place in range(len(entries) - 1, -1, -1):
        entry = entries[place]
        if (entry.get("type"), entry.get("index")) != (piece.get("type"), piece.get("index")):
            continue
        same = all(not entry.get(key) or not piece.get(key) or entry[key] == piece[key] for key in _WHOLE)
        return place if same and not (entry.get("signature") and _readable(piece)) else None
    return None


_WHOLE = ("id", "format", "signature", "data", "tool_call_id", "arguments")
"""Never in pieces: two different ones are of two entries."""
_GROWING = ("text", "summary")


def _joined(entry: dict[str, Any], piece: dict[str, Any]) -> dict[str, Any]:
    for key, value in piece.items():
        known = entry.get(key)
        if key in _GROWING and isinstance(known, str) and isinstance(value, str):
            entry[key] = known + value
        elif not known and value is not None:
            entry[key] = value
    return entry


# --- and back --------------------------------------------------------------------------------------------


def _by_call(call_id: str, model: str) -> str:
    return f"{call_id} {model}"


def remembered(blocks: Iterable[dict[str, Any]], model: str, memory: Memory) -> Details:
    """The entries of a turn with calls of which no block came back."""
    calls = (
        block["id"] for block in blocks if block["type"] == "tool_use" and isinstance(block.get("id"), str)
    )
    found = (memory.recall(_by_call(call_id, model)) for call_id in calls)
    return next((entries for entries in found if entries), [])


def replayed(
    blocks: Iterable[dict[str, Any]], provider: str, model: str, memory: Memory | None = None
) -> tuple[str, Details]:
    """The text and the entries that this model may see again of a turn's blocks."""
    texts: list[str] = []
    entries: Details = []
    for block in blocks:
        if not thinking.is_thinking(block):
            continue
        found = thinking.replay(block, provider, model, memory)
        if found is None:
            continue
        inside = found.details if isinstance(found.details, dict) else {}
        details = inside.get("details")
        details = [one for one in details if isinstance(one, dict)] if isinstance(details, list) else []
        entries = merged(details, entries) if inside.get("late") else entries + details
        hidden = inside.get("text")
        texts.append(found.text or (hidden if isinstance(hidden, str) else ""))
    return "".join(texts), entries
