"""An answer, event by event. What is made of it is `test_chat_said`'s."""

from __future__ import annotations

import itertools
import json
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelproxy.worker.failures import Kind, Refused
from modelproxy.worker.forms.reading import Reader
from modelproxy.worker.wire import sse


@attrs.define
class Told:
    """Remembers what it was told."""

    calls: list[tuple[Any, ...]] = attrs.Factory(list)

    def start(self, message: dict[str, Any]) -> None:
        self.calls.append(("start", message.get("id")))

    def ping(self) -> None:
        self.calls.append(("ping",))

    def open(self, block: dict[str, Any]) -> None:
        self.calls.append(("open", block.get("type")))

    def text(self, text: str) -> None:
        self.calls.append(("text", text))

    def thinking(self, text: str) -> None:
        self.calls.append(("thinking", text))

    def signature(self, signature: str) -> None:
        self.calls.append(("signature", signature))

    def arguments(self, text: str) -> None:
        self.calls.append(("arguments", text))

    def close(self) -> None:
        self.calls.append(("close",))

    def end(self, stop_reason: str, usage: dict[str, Any]) -> None:
        self.calls.append(("end", stop_reason, usage))

    def fail(self, data: bytes) -> None:
        self.calls.append(("fail", json.loads(data)["error"]["message"]))


def event(**data: Any) -> bytes:
    return f"event: {data['type']}\ndata: {json.dumps(data)}\n\n".encode()


START = event(type="message_start", message={"id": "msg_1", "usage": {"input_tokens": 3, "output_tokens": 0}})
TEXT = event(type="content_block_start", index=0, content_block={"type": "text", "text": ""})
WORD = event(type="content_block_delta", index=0, delta={"type": "text_delta", "text": "hé"})
STOP = event(type="content_block_stop", index=0)
DELTA = event(type="message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 2})
END = event(type="message_stop")
WHOLE = START + TEXT + WORD + STOP + DELTA + END


def told(*pieces: bytes, ends: bool = True) -> list[tuple[Any, ...]]:
    found = Told()
    reader = Reader(found)
    for piece in pieces:
        reader.feed(piece)
    if ends:
        reader.end()
    return found.calls


def test_an_answer_from_its_start_to_its_end() -> None:
    assert told(WHOLE) == [
        ("start", "msg_1"),
        ("open", "text"),
        ("text", "hé"),
        ("close",),
        ("end", "end_turn", {"input_tokens": 3, "output_tokens": 2}),
    ]


@given(st.lists(st.integers(0, len(WHOLE)), max_size=8))
def test_any_cut_of_the_bytes_tells_the_same(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(WHOLE)]
    pieces = [WHOLE[start:end] for start, end in itertools.pairwise(edges)]

    assert told(*pieces) == told(WHOLE)


def test_a_whole_answer_tells_what_its_stream_would() -> None:
    message = {
        "id": "msg_1",
        "content": [{"type": "text", "text": "hé"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 3, "output_tokens": 2},
    }
    found = Told()
    Reader(found).whole(json.dumps(message).encode())

    assert found.calls == told(WHOLE)


def test_a_call_and_its_reasoning_in_a_whole_answer() -> None:
    content = [
        {"type": "thinking", "thinking": "t", "signature": "s"},
        {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}},
        {"type": "tool_use", "id": "b", "name": "g", "input": {}},
        3,
    ]
    found = Told()
    Reader(found).whole(json.dumps({"content": content, "stop_reason": "tool_use"}).encode())

    assert [call for call in found.calls if call[0] in ("thinking", "signature", "arguments", "end")] == [
        ("thinking", "t"),
        ("signature", "s"),
        ("arguments", '{"x":1}'),
        ("end", "tool_use", {}),
    ]


@pytest.mark.parametrize("body", [b"", b"no", b"[1]", b'{"content":"text"}'])
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(Refused) as raised:
        Reader(Told()).whole(body)

    assert raised.value.failure.kind is Kind.PROVIDER


def test_a_stream_that_stops_without_an_end_fails() -> None:
    assert told(START + TEXT + WORD)[-1] == ("fail", "the answer ended before it was complete")
    assert told()[-1][0] == "fail"


def test_a_stream_that_lacks_only_the_last_word_is_complete() -> None:
    assert told(START + TEXT + WORD + STOP + DELTA)[-1][:2] == ("end", "end_turn")


def test_a_call_whose_shell_says_its_input_is_not_told_without() -> None:
    """Anthropic's is empty. What a server says there at once is not lost, and what it says twice is not doubled."""
    shell = {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}}
    begun = event(type="content_block_start", index=0, content_block=shell)
    nothing, piece = (
        event(type="content_block_delta", index=0, delta={"type": "input_json_delta", "partial_json": said})
        for said in ("", '{"b":2}')
    )

    once = [("open", "tool_use"), ("arguments", '{"a":1}'), ("close",)]
    assert told(begun + STOP, ends=False) == told(begun + nothing + STOP, ends=False) == once
    assert told(begun + piece + STOP, ends=False)[1:] == [("arguments", '{"b":2}'), ("close",)]


def test_an_error_is_the_last_thing_that_is_told() -> None:
    error = event(type="error", error={"type": "overloaded_error", "message": "busy"})

    assert told(START + TEXT + error + WORD + END)[2:] == [("fail", "busy")]


def test_what_is_not_understood_is_left_out() -> None:
    odd = (
        b": a comment\n\ndata: nonsense\n\n"
        + event(type="ping")
        + event(type="a_new_event", x=1)
        + WORD  # of no block
        + event(type="content_block_start", content_block=3)
        + event(type="content_block_delta", delta={"type": "citations_delta", "citation": {}})
        + event(type="content_block_delta", delta={"type": "text_delta", "text": 3})
    )

    assert told(odd, ends=False) == [("ping",), ("open", None)]


def test_a_block_that_is_not_closed_is_closed_by_what_follows() -> None:
    names = [call[0] for call in told(START + TEXT + WORD + TEXT + DELTA + END)]

    assert names == ["start", "open", "text", "close", "open", "close", "end"]


def test_an_event_without_end_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Told()
    reader = Reader(found)
    monkeypatch.setattr(reader, "_decoder", sse.Decoder(longest=10))
    reader.feed(b"data: " + b"x" * 20)

    assert found.calls == [("fail", "the provider sent an event without end")]
