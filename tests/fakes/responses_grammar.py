"""The grammar of the stream that a client of OpenAI's Responses API reads, as a checker.

Independent of the code that writes streams: its own splitting, its own tables. Every test of such a stream runs it.
"""

from __future__ import annotations

import json
from typing import Any

import attrs

_ENDS = {"response.completed": "completed", "response.incomplete": "incomplete", "response.failed": "failed"}
# type of item -> the event of its pieces, the field that holds them all, the event of the part they are of
_PIECES = {
    "message": ("output_text", "text", "content_part"),
    "reasoning": ("reasoning_summary_text", "text", "reasoning_summary_part"),
    "function_call": ("function_call_arguments", "arguments", None),
    "custom_tool_call": ("custom_tool_call_input", "input", None),
}


class Ungrammatical(AssertionError):
    """The stream breaks a rule; the message says which."""


@attrs.define
class Said:
    """What a grammatical stream said, as a client puts it together."""

    items: list[dict[str, Any]] = attrs.Factory(list)
    response: dict[str, Any] | None = None
    """The one in its last event."""
    silences: int = 0
    events: list[str] = attrs.Factory(list)
    _open: dict[str, Any] | None = None
    _pieces: str = ""

    def texts(self, kind: str = "message") -> list[str]:
        """What the items of a type hold, the one that was cut included."""
        found = [held(item) for item in self.items if item["type"] == kind]
        return [*found, self._pieces] if self._open is not None and self._open["type"] == kind else found


def held(item: dict[str, Any]) -> str:
    """The text of an item."""
    if item["type"] == "message":
        return "".join(part["text"] for part in item["content"])
    if item["type"] == "reasoning":
        return "".join(part["text"] for part in item["summary"])
    text: str = item[_PIECES[item["type"]][1]]
    return text


def check(data: bytes) -> Said:
    """Read a whole stream. Raises Ungrammatical."""
    said = Said()
    _must(data.endswith(b"\n\n"), "the stream ends inside an event")
    for number, raw in enumerate(data.split(b"\n\n")[:-1]):
        _must(said.response is None, "something behind the end")
        name, _, rest = raw.partition(b"\ndata: ")
        event = json.loads(rest)
        _must(name == b"event: " + event["type"].encode(), f"two names: {name!r}")
        _must(event["sequence_number"] == number, f"event {number} is numbered {event['sequence_number']}")
        _must((number == 0) == (event["type"] == "response.created"), f"{event['type']} at {number}")
        said.events.append(event["type"])
        _event(event, said)
    _must(said.response is not None, "no end")
    return said


def _event(event: dict[str, Any], said: Said) -> None:
    name = event["type"]
    if "response" in event:
        _of_response(name, event["response"], said)
        return
    _must(event["output_index"] == len(said.items), f"{name} of another item")
    if name == "response.output_item.added":
        _must(said._open is None, "an item inside another")
        item = event["item"]
        _must(held(item) == "" and item.get("status", "in_progress") == "in_progress", f"begins as {item}")
        said._open, said._pieces = item, ""
    elif name == "response.output_item.done":
        _done(event["item"], said)
    else:
        _piece(name, event, said)


def _of_response(name: str, response: dict[str, Any], said: Said) -> None:
    _must(response["id"].startswith("resp_") and response["object"] == "response", "no response")
    _must(response["output"] == said.items, f"{name}: other items than were said")
    if name in _ENDS:
        _must(response["status"] == _ENDS[name], f"{name} of {response['status']}")
        _must(said._open is None or name == "response.failed", "an item without an end")
        _must((response["error"] is not None) == (name == "response.failed"), "its error")
        _must((response["usage"] is None) == (name == "response.failed"), "its usage")
        said.response = response
        return
    _must(name in ("response.created", "response.in_progress"), f"unknown event {name}")
    _must(response["status"] == "in_progress", f"{name} of {response['status']}")
    said.silences += name == "response.in_progress"


def _piece(name: str, event: dict[str, Any], said: Said) -> None:
    assert said._open is not None, f"{name} outside an item"
    _must(event["item_id"] == said._open["id"], f"{name} of another item")
    piece, field, part = _PIECES[said._open["type"]]
    if name == f"response.{piece}.delta":
        _must(event["delta"] != "", "an empty piece")
        said._pieces += event["delta"]
    elif name == f"response.{piece}.done":
        _must(event[field] == said._pieces, f"{event[field]!r} is not what came in pieces")
    else:
        _must(name in (f"response.{part}.added", f"response.{part}.done"), f"unknown event {name}")
        _must(event["part"]["text"] == (said._pieces if name.endswith("done") else ""), f"{event['part']}")


def _done(item: dict[str, Any], said: Said) -> None:
    begun = said._open
    assert begun is not None, "the end of an item that has not begun"
    fixed = ("id", "type", "call_id", "name", "namespace", "role")
    _must(all(item.get(key) == begun.get(key) for key in fixed), f"{item} began as {begun}")
    _must(held(item) == said._pieces, f"{item} is not what came in pieces")
    _must(item.get("status", "completed") == "completed", "a status")
    _must(item["id"] not in [one["id"] for one in said.items], "an id twice")
    said.items.append(item)
    said._open = None


def _must(holds: bool, rule: str) -> None:
    if not holds:
        raise Ungrammatical(rule)
