"""An answer in Chat Completions: as chunks, and whole."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from fakes import chat_grammar, golden, grammar
from hypothesis import given
from hypothesis import strategies as st

from modelproxy.worker.failures import Refused
from modelproxy.worker.forms.asking import Terms
from modelproxy.worker.forms.chat_said import ChatAnswer, Wanted
from modelproxy.worker.wire import codec, sse
from modelproxy.worker.wire.anthropic import Head, Stream, Whole
from modelproxy.worker.wire.items import (
    Block,
    CallPart,
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
FORMAT = {"format": "anthropic-claude-v1"}
USAGE = Usage(input_tokens=10, output_tokens=7, cache_read_input_tokens=200, cache_creation_input_tokens=30)


def answer(*, usage: bool = False, custom: tuple[str, ...] = ()) -> ChatAnswer:
    return ChatAnswer(Wanted("asked-for", usage, frozenset(custom)), TERMS)


def events(*items: Item) -> bytes:
    stream = Stream(HEAD)
    return stream.start() + stream.feed(items) + stream.end()


def streamed(
    data: bytes, cuts: list[int] | None = None, *, usage: bool = False, custom: tuple[str, ...] = ()
) -> bytes:
    found = answer(usage=usage, custom=custom)
    edges = [0, *sorted(cuts or []), len(data)]
    return b"".join(found.feed(data[start:end]) for start, end in itertools.pairwise(edges)) + found.end()


def whole(*items: Item, custom: tuple[str, ...] = ()) -> dict[str, Any]:
    writer = Whole(HEAD)
    writer.feed(items)
    body = writer.end()
    assert body is not None
    found: dict[str, Any] = json.loads(answer(custom=custom).whole(body))
    return found


ALL = (
    Thinking("I "),
    Thinking("think", "sig"),
    Block({"type": "redacted_thinking", "data": "dark"}),
    Text("so "),
    Text("é\u2028"),
    ToolCall("toolu_1", "f", b'{"x":1}'),
    CallStart("toolu_2", "g"),
    CallPart('{"y":'),
    CallPart("2}"),
    CallStop(),
    ToolCall("toolu_3", "h"),
    USAGE,
    Finish("tool_use"),
)


def test_a_stream_to_the_letter() -> None:
    shell = '{"id":"chatcmpl-abc","object":"chat.completion.chunk","created":1700000000,"model":"asked-for","choices":'
    rest = '"logprobs":null,"finish_reason":'
    usage = (
        '{"prompt_tokens":240,"completion_tokens":7,"total_tokens":247,'
        '"prompt_tokens_details":{"cached_tokens":200,"cache_write_tokens":30},'
        '"completion_tokens_details":{"reasoning_tokens":0}}'
    )
    expected = [
        f'{shell}[{{"index":0,"delta":{{"role":"assistant","content":""}},{rest}null}}],"usage":null}}',
        f'{shell}[{{"index":0,"delta":{{"content":"hi"}},{rest}null}}],"usage":null}}',
        f'{shell}[{{"index":0,"delta":{{}},{rest}"stop"}}],"usage":null}}',
        f'{shell}[],"usage":{usage}}}',
        "[DONE]",
    ]

    assert (
        streamed(events(Text("hi"), USAGE, Finish()), usage=True)
        == "".join(f"data: {line}\n\n" for line in expected).encode()
    )


def test_a_stream_with_everything() -> None:
    said = chat_grammar.check(streamed(events(*ALL)))

    assert (said.model, said.text, said.reasoning) == ("asked-for", "so é\u2028", "I think")
    assert [(call["id"], call["function"]["name"]) for call in said.calls] == [
        ("toolu_1", "f"),
        ("toolu_2", "g"),
        ("toolu_3", "h"),
    ]
    assert said.arguments == [{"x": 1}, {"y": 2}, {}]
    assert said.finish == "tool_calls"
    assert [one.get("signature") or one.get("data") for one in said.details] == [None, None, "sig", "dark"]


def test_a_whole_answer_says_what_its_stream_says() -> None:
    said = chat_grammar.check(streamed(events(*ALL), usage=True), usage=True)
    found = whole(*ALL)
    [choice] = found["choices"]

    assert (found["id"], found["object"], found["created"]) == ("chatcmpl-abc", "chat.completion", 1700000000)
    assert (found["model"], found["usage"]) == ("asked-for", said.usage)
    assert choice == {
        "index": 0,
        "message": {
            "role": "assistant",
            "content": said.text,
            "refusal": None,
            "reasoning_content": said.reasoning,
            "reasoning": said.reasoning,
            "reasoning_details": [
                {
                    "type": "reasoning.text",
                    "text": "I think",
                    "signature": "sig",
                    "format": "anthropic-claude-v1",
                    "index": 0,
                },
                {"type": "reasoning.encrypted", "data": "dark", "format": "anthropic-claude-v1", "index": 1},
            ],
            "tool_calls": [{key: one[key] for key in one if key != "index"} for one in said.calls],
        },
        "logprobs": None,
        "finish_reason": "tool_calls",
    }


def test_content_is_null_with_calls_alone_and_empty_without_anything() -> None:
    assert whole(ToolCall("toolu_1", "f"), Finish())["choices"][0]["message"]["content"] is None
    assert whole(Finish())["choices"][0]["message"]["content"] == ""


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("pause_turn", "stop"),
        ("something_new", "stop"),
    ],
)
def test_why_it_ended(reason: str, finish: str) -> None:
    assert chat_grammar.check(streamed(events(Text("x"), Finish(reason)))).finish == finish
    assert whole(Text("x"), Finish(reason))["choices"][0]["finish_reason"] == finish


def test_a_call_without_a_piece_of_arguments_is_one_with_none() -> None:
    """Of an empty input some servers send no piece at all; clients want an object."""
    items = (CallStart("toolu_1", "f"), CallStop(), Finish())

    assert chat_grammar.check(streamed(events(*items))).arguments == [{}]


def test_a_custom_tool_is_called_with_its_text() -> None:
    items = (ToolCall("toolu_1", "patch", b'{"input":"*** Begin"}'), ToolCall("toolu_2", "f"), Finish())
    said = chat_grammar.check(streamed(events(*items), custom=("patch",)))
    calls = whole(*items, custom=("patch",))["choices"][0]["message"]["tool_calls"]

    assert calls[0] == {"id": "toolu_1", "type": "custom", "custom": {"name": "patch", "input": "*** Begin"}}
    assert [{key: one[key] for key in one if key != "index"} for one in said.calls] == calls


def test_pings_are_comments() -> None:
    data = sse.PING + events(Text("x"), Finish()).replace(
        b"event: content_block_stop", sse.PING + b"event: content_block_stop"
    )

    assert chat_grammar.check(streamed(data)).comments == 2


def test_an_error_in_the_middle_is_the_end_and_nothing_says_done() -> None:
    stream = Stream(HEAD)
    data = stream.start() + stream.feed([Text("one ")])
    error = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"busy"}}\n\n'
    said = chat_grammar.check(streamed(data + error))

    assert (said.text, said.done) == ("one ", False)
    assert said.error == {"message": "busy", "type": "server_error", "param": None, "code": "overloaded"}


@pytest.mark.parametrize("at", range(1, 12))
def test_a_stream_that_breaks_off_anywhere_never_looks_complete(at: int) -> None:
    pieces = events(*ALL).split(b"\n\n")
    data = b"\n\n".join(pieces[:at]) + b"\n\n"

    assert chat_grammar.check(streamed(data)).error is not None


def test_searches_of_the_provider_are_no_calls_of_the_clients() -> None:
    """Their results are in the text; nobody has to answer them."""
    message = {
        "content": [
            {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "q"}},
            {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []},
            {"type": "text", "text": "found"},
        ],
        "stop_reason": "end_turn",
    }
    found = json.loads(answer().whole(codec.dumps(message)))["choices"][0]["message"]

    assert (found["content"], found.get("tool_calls")) == ("found", None)


def test_what_is_no_message_is_refused() -> None:
    with pytest.raises(Refused):
        answer().whole(b'{"type":"ping"}')


@given(st.lists(st.integers(0, len(events(*ALL))), max_size=10))
def test_any_cut_of_the_bytes_gives_the_same_chunks(cuts: list[int]) -> None:
    assert streamed(events(*ALL), cuts) == streamed(events(*ALL))


START = Stream(HEAD).start()


@pytest.mark.parametrize("written", [pytest.param(written, id=name) for name, written in golden.answers()])
def test_every_golden_stream_says_the_same_in_chunks(written: dict[str, Any]) -> None:
    """Text, calls, reasoning and counts; whole or in single bytes."""
    data = START + b"".join(sse.event(name.encode(), codec.dumps(said)) for name, said in written["events"])
    read = grammar.check(data)
    said = chat_grammar.check(streamed(data, usage=True), usage=True)
    assert read.message is not None
    content = read.message["content"]

    assert streamed(data, list(range(len(data))), usage=True) == streamed(data, usage=True)
    assert said.text == read.text
    assert said.arguments == [block["input"] for block in content if block["type"] == "tool_use"]
    assert said.reasoning == "".join(block["thinking"] for block in content if block["type"] == "thinking")
    assert (said.error is None) == read.complete
    if said.usage is not None:
        usage = read.message["usage"]
        prompt = (
            usage["input_tokens"] + usage["cache_read_input_tokens"] + usage["cache_creation_input_tokens"]
        )
        assert (said.usage["prompt_tokens"], said.usage["completion_tokens"]) == (
            prompt,
            usage["output_tokens"],
        )
