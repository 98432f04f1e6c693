"""Reasoning in chat clients' words: `reasoning_details`, which they keep and send back as OpenRouter taught them.

The Messages API signs its reasoning, and only with the signature it may come back. So each piece goes out as an
entry, the signature as one more of the same index, and what comes back is put together by index again.
"""

from __future__ import annotations

from typing import Any

Block = dict[str, Any]

_FORMAT = "anthropic-claude-v1"


def text(piece: str, index: int) -> Block:
    """A piece of readable reasoning."""
    return {"type": "reasoning.text", "text": piece, "format": _FORMAT, "index": index}


def signature(signed: str, index: int) -> Block:
    """What ends a block of it."""
    return {"type": "reasoning.text", "signature": signed, "format": _FORMAT, "index": index}


def redacted(data: str, index: int) -> Block:
    """Reasoning that nobody may read."""
    return {"type": "reasoning.encrypted", "data": data, "format": _FORMAT, "index": index}


def merged(entries: list[Block]) -> list[Block]:
    """Entries with the pieces of each block put together."""
    found: list[Block] = []
    for entry in entries:
        last = found[-1] if found else {}
        both = entry.get("type") == last.get("type") == "reasoning.text"
        if both and entry.get("index") == last.get("index") and not last.get("signature"):
            joined = f"{last.get('text') or ''}{entry.get('text') or ''}"
            found[-1] = {**last, **entry, "text": joined}
        else:
            found.append(entry)
    return found


def blocks(message: Block) -> list[Block]:
    """The thinking blocks that an assistant's message brings back; what nobody has signed is of no use."""
    details = message.get("reasoning_details")
    entries = merged([one for one in details if isinstance(one, dict)]) if isinstance(details, list) else []
    if not any(isinstance(one.get("text"), str) and one["text"] for one in entries):
        entries = _with_text(entries, message)
    return [block for entry in entries if (block := _block(entry)) is not None]


def _with_text(entries: list[Block], message: Block) -> list[Block]:
    """Some clients keep the text only in the field beside it."""
    told = message.get("reasoning_content") or message.get("reasoning")
    signed = [one for one in entries if one.get("signature")]
    if len(signed) != 1 or not isinstance(told, str):
        return entries
    return [{**one, "text": told} if one is signed[0] else one for one in entries]


def _block(entry: Block) -> Block | None:
    signed, data = entry.get("signature"), entry.get("data")
    if entry.get("type") == "reasoning.text" and isinstance(signed, str) and signed:
        told = entry.get("text")
        return {"type": "thinking", "thinking": told if isinstance(told, str) else "", "signature": signed}
    if entry.get("type") == "reasoning.encrypted" and isinstance(data, str) and data:
        return {"type": "redacted_thinking", "data": data}
    return None
