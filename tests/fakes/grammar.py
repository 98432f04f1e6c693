"""The grammar of the stream that a client of the Messages API reads, as a checker.

Independent of the code that writes streams: its own decoder, its own tables. Every test of a stream runs it.
"""

from __future__ import annotations

import json
from typing import Any

import attrs

_DELTAS = {
    "text": {"text_delta": "text", "citations_delta": "citation"},
    "thinking": {"thinking_delta": "thinking", "signature_delta": "signature"},
    "tool_use": {"input_json_delta": "partial_json"},
    "server_tool_use": {"input_json_delta": "partial_json"},
}
_SHELLS: dict[str, dict[str, Any]] = {
    "text": {"text": ""},
    "thinking": {"thinking": "", "signature": ""},
    "tool_use": {"input": {}},
    "server_tool_use": {"input": {}},
}
_STOP_REASONS = {
    "end_turn",
    "max_tokens",
    "stop_sequence",
    "tool_use",
    "refusal",
    "model_context_window_exceeded",
    "pause_turn",
    "compaction",
}


class Ungrammatical(AssertionError):
    """The stream breaks a rule; the message says which and where."""


@attrs.define
class Streamed:
    """What a grammatical stream said."""

    events: list[tuple[str, dict[str, Any]]]
    message: dict[str, Any] | None = None
    """As a client assembles it; complete only when `complete`."""
    error: dict[str, Any] | None = None
    """The whole data of the `error` event that ended it."""
    complete: bool = False
    pings: int = 0

    @property
    def names(self) -> list[str]:
        """The events' names, in order."""
        return [name for name, _ in self.events]

    @property
    def text(self) -> str:
        """All visible text."""
        content = self.message["content"] if self.message else []
        return "".join(block["text"] for block in content if block["type"] == "text")


def events(data: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Split a stream; each event must be exactly one `event:` line and one `data:` line."""
    found: list[tuple[str, dict[str, Any]]] = []
    if not data:
        return found
    _must(data.endswith(b"\n\n"), "the stream ends inside an event")
    for number, raw in enumerate(data[:-2].split(b"\n\n")):
        lines = raw.split(b"\n")
        _must(len(lines) == 2, f"event {number}: {len(lines)} lines instead of two: {raw[:80]!r}")
        _must(lines[0].startswith(b"event: "), f"event {number}: no name")
        _must(lines[1].startswith(b"data: "), f"event {number}: no data")
        text = lines[1][6:].decode("utf-8")
        _must(len(text.splitlines()) == 1, f"event {number}: a line end that some clients split at")
        name, document = lines[0][7:].decode("ascii"), json.loads(text)
        _must(document.get("type") == name, f"event {number}: named {name}, typed {document.get('type')}")
        found.append((name, document))
    return found


def check(data: bytes, *, may_be_unfinished: bool = False) -> Streamed:
    """Check a whole stream, or with `may_be_unfinished` any beginning of one."""
    reader = _Reader(Streamed(events(data)))
    for number, (name, document) in enumerate(reader.said.events):
        try:
            reader.read(name, document)
        except Ungrammatical as error:
            raise Ungrammatical(f"event {number} ({name}): {error}; all: {reader.said.names}") from None
    reader.collect()
    if not may_be_unfinished:
        _must(reader.ended, f"no terminal event: {reader.said.names}")
    return reader.said


def _must(fact: bool, otherwise: str) -> None:
    if not fact:
        raise Ungrammatical(otherwise)


class _Reader:
    def __init__(self, said: Streamed) -> None:
        self.said = said
        self.ended = False
        self._open: dict[str, Any] | None = None
        self._json = ""
        self._pieces: list[str] = []
        self._signed = False
        self._delta_seen = False

    def read(self, name: str, document: dict[str, Any]) -> None:
        _must(not self.ended, "after the end")
        if name == "ping":
            _must(document == {"type": "ping"}, "a ping with contents")
            _must(self.said.message is not None, "before message_start")
            self.said.pings += 1
            return
        read = getattr(self, f"_{name}", None)
        if read is None:
            raise Ungrammatical("unknown event")
        _must(name in ("message_start", "error") or self.said.message is not None, "before message_start")
        read(document)

    def _message_start(self, document: dict[str, Any]) -> None:
        _must(self.said.message is None, "a second message_start")
        message = document["message"]
        _must(message["type"] == "message" and message["role"] == "assistant", "not an assistant's message")
        _must(isinstance(message["id"], str) and message["id"].startswith("msg_"), "bad id")
        _must(isinstance(message["model"], str), "no model")
        _must(message["content"] == [] and message["stop_reason"] is None, "not at its beginning")
        _must(message["stop_sequence"] is None, "not at its beginning")
        _check_usage(message["usage"])
        _must(message["usage"]["input_tokens"] > 0, "input_tokens is not positive")
        self.said.message = dict(message, content=[])

    def _content_block_start(self, document: dict[str, Any]) -> None:
        assert self.said.message is not None
        content = self.said.message["content"]
        _must(self._open is None, "interleaved blocks")
        _must(not self._delta_seen, "a block after message_delta")
        _must(document["index"] == len(content), f"index {document['index']}, expected {len(content)}")
        block = dict(document["content_block"])
        for field, empty in _SHELLS.get(block["type"], {}).items():
            _must(field in block and block[field] == empty, f"{field} of the shell is not {empty!r}")
        if block["type"] in ("tool_use", "server_tool_use"):
            _must(isinstance(block["id"], str) and bool(block["id"]), "a tool call without id")
            _must(isinstance(block["name"], str), "a tool call without name")
        if block["type"] == "web_search_tool_result":
            _check_search(block, content)
        ids = [other["id"] for other in content if "id" in other]
        _must(block.get("id") not in ids, "a repeated tool id")
        self._open, self._json, self._signed = block, "", False
        content.append(block)

    def _content_block_delta(self, document: dict[str, Any]) -> None:
        block = self._at(document)
        delta = document["delta"]
        kinds = _DELTAS.get(block["type"], {})
        _must(delta["type"] in kinds, f"{delta['type']} in a {block['type']} block")
        _must(not self._signed, "a delta after the signature")
        field = kinds[delta["type"]]
        if field == "partial_json":
            self._json += delta[field]
        elif field == "signature":
            self._signed = True
            block[field] = delta[field]
        elif field != "citation":
            _must(isinstance(delta[field], str) and bool(delta[field]), "an empty delta")
            self._pieces.append(delta[field])

    def _content_block_stop(self, document: dict[str, Any]) -> None:
        block = self._at(document)
        if block["type"] in ("tool_use", "server_tool_use"):
            block["input"] = json.loads(self._json or "{}")
            _must(isinstance(block["input"], dict), "tool input is not an object")
        self.collect()
        self._open = None

    def collect(self) -> None:
        """The text of the open block; adding to a text per piece would take quadratic time."""
        if self._open is not None and self._pieces:
            self._open[self._open["type"]] += "".join(self._pieces)
            self._pieces.clear()

    def _at(self, document: dict[str, Any]) -> dict[str, Any]:
        assert self.said.message is not None
        _must(self._open is not None, "no open block")
        assert self._open is not None
        _must(document["index"] == len(self.said.message["content"]) - 1, "index of another block")
        return self._open

    def _message_delta(self, document: dict[str, Any]) -> None:
        assert self.said.message is not None
        _must(self._open is None, "an open block")
        _must(not self._delta_seen, "a second message_delta")
        delta = document["delta"]
        _must(delta["stop_reason"] in _STOP_REASONS, f"stop_reason {delta['stop_reason']!r}")
        _must((delta["stop_sequence"] is None) == (delta["stop_reason"] != "stop_sequence"), "stop_sequence")
        calls = [block for block in self.said.message["content"] if block["type"] == "tool_use"]
        _must(bool(calls) or delta["stop_reason"] != "tool_use", "tool_use without a call")
        _must(not calls or delta["stop_reason"] != "end_turn", "end_turn beside a call")
        blocks = self.said.message["content"]
        asked = [block["id"] for block in blocks if block["type"] == "server_tool_use"]
        answered = [block["tool_use_id"] for block in blocks if block["type"] == "web_search_tool_result"]
        _must(asked == answered, f"searches {asked}, results {answered}")
        _check_usage(document["usage"])
        self.said.message.update(delta, usage=document["usage"])
        self._delta_seen = True

    def _message_stop(self, document: dict[str, Any]) -> None:
        _must(document == {"type": "message_stop"}, "contents")
        _must(self._delta_seen, "before message_delta")
        self.said.complete = self.ended = True

    def _error(self, document: dict[str, Any]) -> None:
        _must(not self._delta_seen, "after message_delta")
        error = document["error"]
        _must(isinstance(error["type"], str) and bool(error["message"]), "no type or no message")
        _must(document["request_id"].startswith("req_"), "no request_id")
        self.said.error = document
        self.ended = True


def _check_search(block: dict[str, Any], before: list[dict[str, Any]]) -> None:
    """A result comes whole, right behind the search it belongs to."""
    call = before[-1] if before else {}
    _must(call.get("type") == "server_tool_use" and call["name"] == "web_search", "a result without a search")
    _must(call["id"].startswith("srvtoolu_"), f"a search's id {call['id']!r}")
    _must(block["tool_use_id"] == call["id"], "the result of another search")
    content = block["content"]
    if isinstance(content, dict):
        _must(content["type"] == "web_search_tool_result_error" and bool(content["error_code"]), "no error")
        return
    for found in content:
        _must(found["type"] == "web_search_result", f"{found['type']} in a result")
        for field in ("url", "title", "encrypted_content"):
            _must(isinstance(found[field], str), f"{field} of a source is no text")
        _must(found["page_age"] is None or isinstance(found["page_age"], str), "page_age of a source")


def _check_usage(usage: dict[str, Any]) -> None:
    for field in ("input_tokens", "output_tokens"):
        _must(type(usage.get(field)) is int and usage[field] >= 0, f"usage.{field}: {usage.get(field)!r}")
