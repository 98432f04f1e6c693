"""An answer in the Responses API: as events, and whole."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from fakes import golden, grammar, responses_grammar
from fakes.responses_grammar import Said
from hypothesis import given
from hypothesis import strategies as st

from modelproxy.worker.failures import Refused
from modelproxy.worker.forms import seals
from modelproxy.worker.forms.asking import Terms
from modelproxy.worker.forms.responses_said import ResponsesAnswer, Tool, Wanted
from modelproxy.worker.wire import codec, sse
from modelproxy.worker.wire.anthropic import Head, Stream, Whole
from modelproxy.worker.wire.items import (
    Block,
    CallStart,
    CallStop,
    Finish,
    Item,
    Text,
    Thinking,
    ToolCall,
    Usage,
)

TERMS = Terms(created=1700000000, id="abc")
HEAD = Head("msg_1", "req_1", "m", 9, thinking="shown")
USAGE = Usage(input_tokens=10, output_tokens=7, cache_read_input_tokens=200, cache_creation_input_tokens=30)
PLAIN = Wanted("asked-for")
TOOLS = {"ns__t": Tool("t", "ns"), "patch": Tool("patch", is_custom=True), "f": Tool("f")}
WANTED = Wanted("asked-for", TOOLS, seals=True, repeated={"metadata": {"a": "b"}, "tools": [{"name": "f"}]})


def events(*items: Item) -> bytes:
    stream = Stream(HEAD)
    return stream.start() + stream.feed(items) + stream.end()


def streamed(data: bytes, wanted: Wanted = PLAIN, cuts: list[int] | None = None) -> bytes:
    found = ResponsesAnswer(wanted, TERMS)
    edges = [0, *sorted(cuts or []), len(data)]
    return b"".join(found.feed(data[start:end]) for start, end in itertools.pairwise(edges)) + found.end()


def said_of(*items: Item, wanted: Wanted = PLAIN) -> Said:
    """The stream, after the body has been found to say the same."""
    said = responses_grammar.check(streamed(events(*items), wanted))
    whole = Whole(HEAD)
    whole.feed(items)
    body = whole.end()
    assert body is not None
    assert json.loads(ResponsesAnswer(wanted, TERMS).whole(body)) == said.response
    return said


ALL = (
    Thinking("I "),
    Thinking("think", "sig"),
    Block({"type": "redacted_thinking", "data": "dark"}),
    Text("so "),
    Text("é\u2028"),
    ToolCall("toolu_1", "f", b'{"x":1}'),
    ToolCall("toolu_2", "ns__t"),
    ToolCall("toolu_3", "patch", b'{"input":"*** Begin\\n"}'),
    USAGE,
    Finish("tool_use"),
)


def test_a_stream_to_the_letter() -> None:
    lines = streamed(events(Text("hi"), USAGE, Finish())).decode().split("\n\n")
    place = '"item_id":"msg_abc0","output_index":0,"content_index":0'
    part = '{"type":"output_text","text":"%s","annotations":[],"logprobs":[]}'
    item = '{"id":"msg_abc0","status":"%s","type":"message","role":"assistant","content":[%s]}'
    expected = [
        ("output_item.added", f'"output_index":0,"item":{item % ("in_progress", "")}'),
        ("content_part.added", f'{place},"part":{part % ""}'),
        ("output_text.delta", f'{place},"delta":"hi"'),
        ("output_text.done", f'{place},"text":"hi"'),
        ("content_part.done", f'{place},"part":{part % "hi"}'),
        ("output_item.done", f'"output_index":0,"item":{item % ("completed", part % "hi")}'),
    ]

    assert lines[1:-2] == [
        f'event: response.{name}\ndata: {{"type":"response.{name}","sequence_number":{number},{rest}}}'
        for number, (name, rest) in enumerate(expected, 1)
    ]


def test_everything_in_one_answer() -> None:
    """Names go back to what the client calls them, and a text inside JSON comes out of it."""
    said = said_of(*ALL, wanted=WANTED)

    assert [item["type"] for item in said.items] == [
        "reasoning",
        "reasoning",
        "message",
        "function_call",
        "function_call",
        "custom_tool_call",
    ]
    assert said.texts() == ["so é\u2028"]
    assert said.texts("reasoning") == ["I think", ""]
    assert [(one.get("namespace"), one["name"], one["call_id"]) for one in said.items[3:]] == [
        (None, "f", "toolu_1"),
        ("ns", "t", "toolu_2"),
        (None, "patch", "toolu_3"),
    ]
    assert said.texts("function_call") == ['{"x":1}', "{}"]
    assert said.texts("custom_tool_call") == ["*** Begin\n"]


def test_what_a_response_says_of_itself() -> None:
    response = said_of(*ALL, wanted=WANTED).response
    assert response is not None

    assert (response["id"], response["created_at"], response["model"]) == (
        "resp_abc",
        1700000000,
        "asked-for",
    )
    assert (response["metadata"], response["tools"], response["store"]) == (
        {"a": "b"},
        [{"name": "f"}],
        False,
    )
    assert response["usage"] == {
        "input_tokens": 240,
        "input_tokens_details": {"cached_tokens": 200, "cache_write_tokens": 30},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 247,
    }


def test_reasoning_goes_along_as_it_came_for_whoever_keeps_it() -> None:
    said = said_of(*ALL, wanted=WANTED)

    assert [seals.opened(item["encrypted_content"]) for item in said.items[:2]] == [
        {"type": "thinking", "thinking": "I think", "signature": "sig"},
        {"type": "redacted_thinking", "data": "dark"},
    ]


def test_reasoning_that_nobody_keeps_is_only_shown() -> None:
    """And what cannot be shown is no item."""
    said = said_of(*ALL)

    assert [item["encrypted_content"] for item in said.items if item["type"] == "reasoning"] == [None]


@pytest.mark.parametrize(
    ("reason", "status", "why"),
    [
        ("end_turn", "completed", None),
        ("stop_sequence", "completed", None),
        ("something_new", "completed", None),
        ("max_tokens", "incomplete", "max_output_tokens"),
        ("model_context_window_exceeded", "incomplete", "max_output_tokens"),
        ("refusal", "incomplete", "content_filter"),
    ],
)
def test_why_it_ended(reason: str, status: str, why: str | None) -> None:
    response = said_of(Text("x"), Finish(reason)).response
    assert response is not None

    assert response["status"] == status
    assert response["incomplete_details"] == (None if why is None else {"reason": why})


def test_a_call_without_a_piece_of_arguments_is_one_with_none() -> None:
    """Of an empty input some servers send no piece at all; clients want an object, and put it together of pieces."""
    said = said_of(
        CallStart("toolu_1", "f"), CallStop(), ToolCall("toolu_2", "patch"), Finish(), wanted=WANTED
    )

    assert said.texts("function_call") == ["{}"]
    assert said.texts("custom_tool_call") == ["{}"]


def test_a_silence_is_an_event_also_before_anything_is_said() -> None:
    """Comments do not move codex's idle timer."""
    data = sse.PING + events(Text("x"), Finish()).replace(
        b"event: content_block_stop", sse.PING + b"event: content_block_stop"
    )

    assert responses_grammar.check(streamed(data)).silences == 2


@pytest.mark.parametrize(
    ("kind", "message", "code"),
    [
        ("overloaded_error", "busy", "server_error"),
        ("api_error", "boom", "server_error"),
        ("rate_limit_error", "slow", "rate_limit_exceeded"),
        ("invalid_request_error", "prompt is too long: 9 tokens > 8 maximum", "context_length_exceeded"),
        ("invalid_request_error", "no", "invalid_prompt"),
    ],
)
def test_a_failure_in_the_middle_has_the_code_that_makes_codex_do_right(
    kind: str, message: str, code: str
) -> None:
    """It asks again for the first three, says that the window is full, and shows the words of the last."""
    stream = Stream(HEAD)
    data = stream.start() + stream.feed([Text("one ")])
    error = codec.dumps({"type": "error", "error": {"type": kind, "message": message}})
    response = responses_grammar.check(streamed(data + sse.event(b"error", error))).response
    assert response is not None

    assert response["error"] == {"code": code, "message": message}
    assert response["output"] == []


@pytest.mark.parametrize("at", range(1, 12))
def test_a_stream_that_breaks_off_anywhere_never_looks_complete(at: int) -> None:
    data = b"\n\n".join(events(*ALL).split(b"\n\n")[:at]) + b"\n\n"
    response = responses_grammar.check(streamed(data, WANTED)).response
    assert response is not None

    assert response["status"] == "failed"


def test_searches_of_the_provider_are_no_items() -> None:
    search = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "q"}}
    results = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}
    message = {"content": [search, results, {"type": "text", "text": "found"}], "stop_reason": "end_turn"}
    found = json.loads(ResponsesAnswer(PLAIN, TERMS).whole(codec.dumps(message)))
    shell = sse.event(
        b"content_block_start", codec.dumps({"type": "content_block_start", "content_block": search})
    )
    piece = {"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": "{}"}}
    data = shell + sse.event(b"content_block_delta", codec.dumps(piece)) + events(Text("x"), Finish())

    assert [item["type"] for item in found["output"]] == ["message"]
    assert [item["type"] for item in responses_grammar.check(streamed(data)).items] == ["message"]


@pytest.mark.parametrize("given", ['{"other":1}', '{"input":1}', "{"])
def test_a_custom_tool_that_is_called_otherwise_is_told_to_the_letter(given: str) -> None:
    """Its client says to the model what is wrong."""
    shell = {"type": "tool_use", "id": "toolu_1", "name": "patch", "input": {}}
    said: list[dict[str, Any]] = [
        {"type": "content_block_start", "index": 0, "content_block": shell},
        {"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": given}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 1}},
        {"type": "message_stop"},
    ]
    data = b"".join(sse.event(one["type"].encode(), codec.dumps(one)) for one in said)

    assert responses_grammar.check(streamed(data, WANTED)).texts("custom_tool_call") == [given]


def test_what_is_no_message_is_refused() -> None:
    with pytest.raises(Refused):
        ResponsesAnswer(PLAIN, TERMS).whole(b'{"type":"ping"}')


@given(st.lists(st.integers(0, len(events(*ALL))), max_size=10))
def test_any_cut_of_the_bytes_gives_the_same_events(cuts: list[int]) -> None:
    assert streamed(events(*ALL), WANTED, cuts) == streamed(events(*ALL), WANTED)


START = Stream(HEAD).start()


@pytest.mark.parametrize("written", [pytest.param(written, id=name) for name, written in golden.answers()])
def test_every_golden_stream_says_the_same_in_items(written: dict[str, Any]) -> None:
    data = START + b"".join(sse.event(name.encode(), codec.dumps(said)) for name, said in written["events"])
    read = grammar.check(data)
    said = responses_grammar.check(streamed(data))
    assert read.message is not None
    assert said.response is not None
    content = read.message["content"]

    assert "".join(said.texts()) == read.text
    assert [json.loads(text) for text in said.texts("function_call")] == [
        block["input"] for block in content if block["type"] == "tool_use"
    ]
    assert "".join(said.texts("reasoning")) == "".join(
        block["thinking"] for block in content if block["type"] == "thinking"
    )
    assert (said.response["error"] is None) == read.complete


def test_behind_the_last_event_there_is_no_other() -> None:
    """The provider may go on when its client has been told that it is over."""
    found = ResponsesAnswer(PLAIN, TERMS)
    begun = found.ping()
    last = found.feed(sse.event(b"error", b'{"type":"error","error":{"type":"api_error","message":"no"}}'))

    assert found.ping() == b""
    assert responses_grammar.check(begun + last).events[-1] == "response.failed"
