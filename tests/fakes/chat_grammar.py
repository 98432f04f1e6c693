"""The grammar of the stream that a client of OpenAI's Chat Completions reads, as a checker.

Independent of the code that writes streams: its own splitting, its own tables. Every test of such a stream runs it.
"""

from __future__ import annotations

import json
from typing import Any

import attrs

_FINISHES = {"stop", "length", "tool_calls", "content_filter"}
_DELTAS = {"role", "content", "reasoning_content", "reasoning", "reasoning_details", "tool_calls"}


class Ungrammatical(AssertionError):
    """The stream breaks a rule; the message says which."""


@attrs.define
class Said:
    """What a grammatical stream said, as a client puts it together."""

    id: str = ""
    model: str = ""
    text: str = ""
    reasoning: str = ""
    details: list[dict[str, Any]] = attrs.Factory(list)
    calls: list[dict[str, Any]] = attrs.Factory(list)
    finish: str | None = None
    usage: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    done: bool = False
    comments: int = 0
    chunks: list[dict[str, Any]] = attrs.Factory(list)

    @property
    def arguments(self) -> list[Any]:
        """Of each call, read as a client reads them."""
        return [json.loads(call["function"]["arguments"]) for call in self.calls]


def check(data: bytes, *, usage: bool = False) -> Said:
    """Read a whole stream. `usage`: the client asked for it. Raises Ungrammatical."""
    said = Said()
    _must(not data or data.endswith(b"\n\n"), "the stream ends inside an event")
    for raw in data.split(b"\n\n")[:-1]:
        _must(not said.done and said.error is None, "something behind the end")
        if raw.startswith(b":"):
            said.comments += 1
            continue
        _must(raw.startswith(b"data: ") and b"\n" not in raw, f"not one line of data: {raw[:80]!r}")
        if raw == b"data: [DONE]":
            _must(said.finish is not None, "[DONE] before the finish")
            _must((said.usage is not None) == usage, f"usage said: {said.usage}")
            said.done = True
            continue
        document = json.loads(raw[6:])
        if "error" in document:
            said.error = _error(document)
        else:
            _chunk(document, said, usage=usage)
    _must(said.done or said.error is not None, "no end")
    return said


def _error(document: dict[str, Any]) -> dict[str, Any]:
    error: dict[str, Any] = document["error"]
    _must(set(document) == {"error"} and set(error) == {"message", "type", "param", "code"}, f"{document}")
    _must(bool(error["message"]) and bool(error["type"]), f"{error}")
    return error


def _chunk(chunk: dict[str, Any], said: Said, *, usage: bool) -> None:
    _must(chunk["object"] == "chat.completion.chunk", "not a chunk")
    _must(chunk["id"].startswith("chatcmpl-") and type(chunk["created"]) is int, "its shell")
    if said.chunks:
        first = said.chunks[0]
        _must(all(chunk[key] == first[key] for key in ("id", "created", "model")), "another answer's chunk")
    _must(("usage" in chunk) == usage, "usage in a chunk")
    said.chunks.append(chunk)
    said.id, said.model = chunk["id"], chunk["model"]
    if not chunk["choices"]:
        _must(said.finish is not None and said.usage is None, "usage before the finish, or twice")
        said.usage = chunk["usage"]
        return
    _must(chunk.get("usage") is None, "usage beside a choice")
    [choice] = chunk["choices"]
    _must(choice["index"] == 0 and said.finish is None, "another choice, or one behind the finish")
    delta = choice["delta"]
    if len(said.chunks) == 1:
        _must(delta == {"role": "assistant", "content": ""}, f"begins with {delta}")
        return
    _must(set(delta) <= _DELTAS - {"role"}, f"{set(delta)}")
    if choice["finish_reason"] is not None:
        _must(delta == {} and choice["finish_reason"] in _FINISHES, f"finish {choice}")
        _must((choice["finish_reason"] == "tool_calls") <= bool(said.calls), "tool_calls without a call")
        said.finish = choice["finish_reason"]
        return
    _delta(delta, said)


def _delta(delta: dict[str, Any], said: Said) -> None:
    _must(delta != {}, "nothing is said")
    _must(delta.get("reasoning") == delta.get("reasoning_content"), "two reasonings")
    said.text += delta.get("content", "")
    said.reasoning += delta.get("reasoning", "")
    said.details += delta.get("reasoning_details", [])
    for call in delta.get("tool_calls", []):
        if "id" in call:
            _must(call["index"] == len(said.calls), f"call {call['index']}")
            _must(bool(call["id"]) and call["id"] not in [one["id"] for one in said.calls], "its id")
            _must(bool(call[call["type"]]["name"]), "a call without a name")
            said.calls.append(call)
        else:
            _must(call["index"] == len(said.calls) - 1, "a piece of another call")
            _piece(said.calls[-1], call)


def _piece(begun: dict[str, Any], piece: dict[str, Any]) -> None:
    kind = begun["type"]
    field = "arguments" if kind == "function" else "input"
    _must(set(piece) == {"index", kind} and set(piece[kind]) == {field}, f"{piece}")
    begun[kind][field] += piece[kind][field]


def _must(holds: bool, rule: str) -> None:
    if not holds:
        raise Ungrammatical(rule)
