"""The client's side: requests read, answers written."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fakes import grammar
from hypothesis import given
from hypothesis import strategies as st

from modelproxy.worker.failures import Failure, Kind, Refused
from modelproxy.worker.wire import asks, codec, sse
from modelproxy.worker.wire.anthropic import Head, Stream, Whole
from modelproxy.worker.wire.items import (
    Block,
    CallPart,
    CallStart,
    CallStop,
    Finish,
    Item,
    ServerCall,
    Text,
    Thinking,
    ToolCall,
    Usage,
)

GOOD: dict[str, Any] = {"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}
BOOM = Failure(Kind.PROVIDER, "boom")


def ask(**changes: Any) -> asks.Ask:
    return asks.ask(codec.dumps({**GOOD, **changes}))


def refusal(data: bytes) -> Failure:
    with pytest.raises(Refused) as refused:
        asks.ask(data)
    return refused.value.failure


# --- requests -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"system": "be kind"},
        {"system": [{"type": "text", "text": "be kind", "cache_control": {"type": "ephemeral"}}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]},
        {
            "messages": [
                *GOOD["messages"],
                {"role": "system", "content": "x", "output_config": {"effort": "low"}},
            ]
        },
        {"messages": [{"role": "assistant", "content": []}]},
        {"messages": [{"role": "user", "content": [{"type": "of tomorrow", "x": [1]}]}]},
        {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}]}]},
        {"tools": [{"name": "a", "input_schema": {"type": "object"}}], "tool_choice": {"type": "auto"}},
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}], "tool_choice": None},
        {"tools": [{"type": "mcp_toolset", "mcp_server_name": "x"}]},
        {"tools": None, "stop_sequences": None, "stream": None, "system": None},
        {"stop_sequences": ["END"], "temperature": 0.5, "top_p": 1, "top_k": 5, "metadata": {"user_id": "u"}},
        {"thinking": {"type": "adaptive", "display": "updates"}, "of_tomorrow": {"a": 2**70}},
        {"max_tokens": 0},
        {"max_tokens": 128000},
    ],
)
def test_requests_that_pass(changes: dict[str, Any]) -> None:
    read = ask(**changes)

    assert read.body == {**GOOD, **changes}
    assert read.input_tokens > 0


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"max_tokens": "10"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": ["hi"]}, "messages.0"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": [], "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"messages": [*GOOD["messages"], {"role": "user", "content": ["x"]}]}, "messages.1.content.0"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": [1]}]}]},
            "messages.0.content.0.content.0",
        ),
        ({"model": 5}, "model"),
        ({"model": ""}, "model"),
        ({"stream": "yes"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"system": 5}, "system"),
        ({"system": [5]}, "system.0"),
        ({"tools": {}}, "tools"),
        ({"tools": ["x"]}, "tools.0"),
        ({"tools": [{}]}, "tools.0.name"),
        ({"tools": [{"name": ""}]}, "tools.0.name"),
        ({"tools": [{"type": "custom", "input_schema": {}}]}, "tools.0.name"),
        ({"tools": [{"type": "bash_20250124", "name": ["bash"]}]}, "tools.0.name"),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": ["t"]}]}]},
            "messages.0.content.0.tool_use_id",
        ),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"stop_sequences": "END"}, "stop_sequences"),
        ({"stop_sequences": [1]}, "stop_sequences"),
        ({"thread": {"id": "x"}}, "thread"),
    ],
)
def test_requests_that_are_refused_name_the_field(changes: dict[str, Any], field: str) -> None:
    failure = refusal(codec.dumps({**GOOD, **changes}))

    assert failure.kind is Kind.INVALID
    assert failure.message.startswith(f"{field}: ")


@pytest.mark.parametrize("field", ["max_tokens", "messages", "model"])
def test_missing_fields_are_named(field: str) -> None:
    assert (
        refusal(codec.dumps({k: v for k, v in GOOD.items() if k != field})).message
        == f"{field}: field required"
    )


@pytest.mark.parametrize(
    "data", [b"", b"{", b"hello", b'{"a":NaN}', b"\xff", b"[" * 50_000, b'{"a":' * 50_000]
)
def test_what_is_not_json_is_told_so(data: bytes) -> None:
    assert "JSON" in refusal(data).message


@pytest.mark.parametrize("data", [b"[]", b"null", b'"x"', b"5"])
def test_a_body_must_be_an_object(data: bytes) -> None:
    assert refusal(data).message == "the body must be a JSON object"


@pytest.mark.parametrize("depth", [300, 600, 900, 2000, 20_000])
def test_absurd_nesting_is_refused_or_read_but_never_a_crash(depth: int) -> None:
    inner = b'{"type":"tool_result","content":[' * depth + b"]}" * depth
    data = b'{"model":"m","max_tokens":1,"messages":[{"role":"user","content":[' + inner + b"]}]}"

    try:
        words = asks.ask(data).model
    except Refused as refused:
        words = refused.failure.message

    assert words == "m" or "nested too deeply" in words


def test_a_thread_is_refused_in_the_words_that_sdks_know() -> None:
    assert refusal(codec.dumps({**GOOD, "thread": None})).details == {
        "error_code": "thread_unsupported_request",
        "unsupported": ["thread"],
    }


def test_lone_surrogates_pass_through_to_the_answer() -> None:
    read = asks.ask(b'{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"\\ud83d"}]}')
    said = grammar.check(streamed([Text(read.messages[0]["content"]), Finish()]))

    assert said.text == "\ud83d"


def test_counting_needs_no_max_tokens() -> None:
    body = {k: v for k, v in GOOD.items() if k != "max_tokens"}

    assert asks.count(codec.dumps(body)).input_tokens == ask().input_tokens


@pytest.mark.parametrize(
    ("thinking", "mode"),
    [
        (None, "none"),
        ({"type": "disabled"}, "none"),
        ("odd", "none"),
        ({"type": "enabled", "budget_tokens": 1024}, "shown"),
        ({"type": "adaptive"}, "shown"),
        ({"type": "adaptive", "display": "omitted"}, "omitted"),
    ],
)
def test_how_thinking_may_be_shown(thinking: Any, mode: str) -> None:
    assert ask(thinking=thinking).thinking == mode


def test_defaults_of_what_is_used() -> None:
    read = ask()

    assert (read.tools, read.tool_choice, read.stop_sequences, read.stream) == (
        [],
        {"type": "auto"},
        [],
        False,
    )
    assert ask(stop_sequences=["", "a"]).stop_sequences == ["a"]


# --- answers --------------------------------------------------------------------------------------


def head(thinking: str = "shown", *, may_be_empty: bool = False) -> Head:
    return Head("msg_1", "req_1", "claude-x", 7, thinking=thinking, may_be_empty=may_be_empty)


def streamed(items: list[Item], of: Head | None = None) -> bytes:
    """All bytes of a stream, as a caller writes them."""
    stream = Stream(of or head())
    data = stream.start() + stream.feed(items) + stream.end()
    return data + stream.fail(stream.failure) if stream.failure is not None else data


def whole(items: list[Item], of: Head | None = None) -> tuple[dict[str, Any] | None, Failure | None]:
    answer = Whole(of or head())
    answer.feed(items)
    body = answer.end()
    return (None if body is None else json.loads(body)), answer.failure


def test_the_exact_bytes_of_a_small_stream() -> None:
    assert streamed([Text("hi"), Usage(3, 1), Finish()]) == (
        b"event: message_start\n"
        b'data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant",'
        b'"model":"claude-x","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":7,'
        b'"output_tokens":0,"cache_creation_input_tokens":0,"cache_read_input_tokens":0}}}\n\n'
        b"event: content_block_start\n"
        b'data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}\n\n'
        b"event: content_block_delta\n"
        b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"hi"}}\n\n'
        b"event: content_block_stop\n"
        b'data: {"type":"content_block_stop","index":0}\n\n'
        b"event: message_delta\n"
        b'data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},'
        b'"usage":{"input_tokens":3,"output_tokens":1,"cache_creation_input_tokens":0,'
        b'"cache_read_input_tokens":0}}\n\n'
        b"event: message_stop\n"
        b'data: {"type":"message_stop"}\n\n'
    )


def block_types(items: list[Item], thinking: str = "shown") -> list[str]:
    said = grammar.check(streamed(items, head(thinking)))
    assert said.message is not None
    return [block["type"] for block in said.message["content"]]


CALL = ToolCall("toolu_1", "get", b'{"a":1}')


@pytest.mark.parametrize(
    ("items", "types"),
    [
        ([Text("a"), Text("b"), Finish()], ["text"]),
        ([Thinking("a"), Text("b"), Thinking("c"), Finish()], ["thinking", "text", "thinking"]),
        ([Thinking("a", "sig"), Thinking("b"), Finish()], ["thinking", "thinking"]),
        ([Text("a"), CALL, Text("b"), Finish()], ["text", "tool_use", "text"]),
        ([CALL, ToolCall("toolu_2", "get"), Finish()], ["tool_use", "tool_use"]),
        (
            [Block({"type": "redacted_thinking", "data": "x"}), Text("a"), Finish()],
            ["redacted_thinking", "text"],
        ),
        ([Text(""), Thinking(""), Finish()], ["text"]),
        ([Finish(), Text("too late")], ["text"]),
    ],
)
def test_blocks_open_in_order_and_never_interleave(items: list[Item], types: list[str]) -> None:
    assert block_types(items) == types


def test_an_answer_of_nothing_is_one_empty_text_block() -> None:
    said, _ = whole([Text(""), Finish()])

    assert said is not None
    assert said["content"] == [{"type": "text", "text": ""}]
    assert said["stop_reason"] == "end_turn"


def test_a_request_for_nothing_gets_no_block() -> None:
    said, _ = whole([Finish("max_tokens")], head(may_be_empty=True))

    assert said is not None
    assert (said["content"], said["stop_reason"]) == ([], "max_tokens")


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ([CALL, Finish("end_turn")], "tool_use"),
        ([CALL, Finish("tool_use")], "tool_use"),
        ([CALL, Finish("stop_sequence", "END")], "tool_use"),
        ([CALL, Finish("max_tokens")], "max_tokens"),
        ([Text("a"), Finish("tool_use")], "end_turn"),
        ([Text("a"), Finish("stop_sequence", "END")], "stop_sequence"),
        ([Text("a"), Finish("refusal")], "refusal"),
    ],
)
def test_the_stop_reason_fits_what_was_said(items: list[Item], reason: str) -> None:
    said, _ = whole(items)

    assert said is not None
    assert said["stop_reason"] == reason


@pytest.mark.parametrize("items", [[], [Text("a")], [CALL], [Thinking("a")], [Usage(1, 1)]])
def test_a_source_that_stops_without_a_finish_was_cut(items: list[Item]) -> None:
    said = grammar.check(streamed(items))
    body, failure = whole(items)

    assert said.error is not None
    assert said.error["error"] == {"type": "api_error", "message": "upstream closed the stream early"}
    assert body is None
    assert failure is not None
    assert failure.kind is Kind.CUT


def test_nothing_is_said_after_a_failure() -> None:
    said = grammar.check(streamed([Text("a"), BOOM, Text("b"), Finish()]))

    assert said.names[-2:] == ["content_block_delta", "error"]
    assert said.text == "a"
    assert whole([Text("a"), BOOM, Finish()]) == (None, BOOM)


def test_a_failure_behind_the_finish_loses_nothing() -> None:
    assert grammar.check(streamed([Text("a"), Finish(), BOOM])).complete


def test_what_comes_behind_the_finish_is_not_said() -> None:
    said = grammar.check(streamed([Text("a"), Finish("max_tokens"), Text("late"), CALL, Finish("refusal")]))

    assert said.message is not None
    assert said.message["content"] == [{"type": "text", "text": "a"}]
    assert said.message["stop_reason"] == "max_tokens"


def test_bytes_appear_only_with_something_to_show() -> None:
    stream = Stream(head("none"))

    assert stream.feed([Usage(1, 1), Text(""), Thinking("hidden"), Finish()]) == b""


@pytest.mark.parametrize(
    ("mode", "block"),
    [
        ("shown", {"type": "thinking", "thinking": "because", "signature": "sig"}),
        ("omitted", {"type": "thinking", "thinking": "", "signature": "sig"}),
        ("none", None),
    ],
)
def test_thinking_is_shown_as_asked(mode: str, block: dict[str, Any] | None) -> None:
    items: list[Item] = [Thinking("be"), Thinking("cause"), Thinking("", "sig"), Text("a"), Finish()]
    said, _ = whole(items, head(mode))

    assert said is not None
    assert said["content"] == [*([block] if block else []), {"type": "text", "text": "a"}]


def test_usage_is_the_providers_word_else_an_estimate() -> None:
    told, _ = whole([Text("a"), Usage(100, 5, 1, 2), Finish(), Usage(100, 50, 1, 2)])
    silent, _ = whole([Text("x" * 36), Finish()])

    assert told is not None
    assert told["usage"] == {
        "input_tokens": 100,
        "output_tokens": 50,
        "cache_creation_input_tokens": 1,
        "cache_read_input_tokens": 2,
    }
    assert silent is not None
    assert (silent["usage"]["input_tokens"], silent["usage"]["output_tokens"]) == (7, 10)


def test_long_arguments_travel_in_several_deltas_and_arrive_whole() -> None:
    arguments = {"text": "ü\u2028" * 30_000}
    said = grammar.check(streamed([ToolCall("toolu_1", "write", codec.dumps(arguments)), Finish()]))

    assert said.message is not None
    assert said.message["content"][0]["input"] == arguments
    assert said.names.count("content_block_delta") > 1


_finishes = st.builds(Finish, st.sampled_from(["end_turn", "max_tokens", "tool_use", "refusal"])) | st.builds(
    Finish, st.just("stop_sequence"), st.text(min_size=1)
)
_items = st.one_of(
    st.builds(Text, st.text()),
    st.builds(Thinking, st.text(), st.sampled_from(["", "", "px1.x"])),
    st.builds(
        ToolCall, st.uuids().map(lambda one: f"toolu_{one.hex}"), st.text(min_size=1), st.just(b'{"a":"b"}')
    ),
    st.just(Block({"type": "redacted_thinking", "data": "x"})),
    st.builds(
        Usage,
        st.none() | st.integers(0, 9),
        st.none() | st.integers(0, 9),
        web_searches=st.none() | st.integers(0, 9),
    ),
    _finishes,
    st.just(BOOM),
)
_live = st.builds(
    lambda one, rest: [CallStart(f"toolu_{one.hex}", "Bash"), *rest],
    st.uuids(),
    st.sampled_from(
        [
            [CallPart('{"a":'), Usage(1, 1), CallPart('"b"}'), CallStop()],
            [CallStop()],
            [CallPart('{"a"')],
            [CallPart('{"a"'), BOOM],
        ]
    ),
)
_several: st.SearchStrategy[list[Item]] = st.lists(_items.map(lambda one: [one]) | _live, max_size=12).map(
    lambda groups: [item for group in groups for item in group]
)
_heads = st.builds(head, st.sampled_from(["none", "omitted", "shown"]), may_be_empty=st.booleans())


@given(_several, _heads, st.integers(0, 12))
def test_any_items_give_a_grammatical_stream_that_says_what_the_plain_answer_says(
    items: list[Item], of: Head, split: int
) -> None:
    said = grammar.check(streamed(items, of))
    body, failure = whole(items, of)

    assert said.complete == (failure is None)
    if body is not None:
        assert said.message == body
    # However the items were grouped, the bytes are the same; pings fit between any two batches.
    stream = Stream(of)
    parts = [stream.start(), stream.feed(items[:split]), stream.feed(items[split:]), stream.end()]
    if stream.failure is not None:
        parts.append(stream.fail(stream.failure))
    assert b"".join(parts) == streamed(items, of)
    pinged = sse.PING.join(part for part in parts[:2]) + b"".join(parts[2:])
    assert grammar.check(pinged).pings == 1


SOURCE = {"type": "web_search_result", "url": "u", "title": "t", "encrypted_content": "", "page_age": None}
SEARCHED: list[Item] = [
    ServerCall("srvtoolu_1", "web_search", b'{"query":"q"}'),
    Block({"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [SOURCE]}),
    Usage(3, 4, web_searches=2),
    Text("found"),
    Finish("end_turn"),
]


def test_a_search_of_the_server_says_the_same_streamed_and_plain() -> None:
    """Nobody has to answer it, so the turn ends as any other."""
    said = grammar.check(streamed(SEARCHED))
    body, failure = whole(SEARCHED, head())

    assert failure is None
    assert said.message == body
    assert body is not None
    assert [block["type"] for block in body["content"]] == [
        "server_tool_use",
        "web_search_tool_result",
        "text",
    ]
    assert body["content"][0]["input"] == {"query": "q"}
    assert body["content"][1]["content"] == [SOURCE]
    assert (body["stop_reason"], body["usage"]["server_tool_use"]) == ("end_turn", {"web_search_requests": 2})


def test_a_call_that_is_open_ends_only_as_its_source_says() -> None:
    begun: list[Item] = [CallStart("toolu_1", "Bash"), CallPart('{"a":')]

    for item in (Text("x"), Finish("tool_use"), CALL, None):
        data = streamed([*begun, *([] if item is None else [item]), Finish()])
        said = grammar.check(data)
        assert not said.complete
        assert said.names[-1] == "error"
        assert "content_block_stop" not in said.names


# --- the checker itself: it must be able to fail --------------------------------------------------

SMALL = streamed([Text("hi"), CALL, Finish()])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"event: message_stop\n", b""),
        (b"event: message_start\n", b"event: message_begin\n"),
        (b'"index":1', b'"index":2'),
        (b'"text":""}', b'"text":"x"}'),
        (b'"stop_reason":"tool_use"', b'"stop_reason":"end_turn"'),
        (b'"output_tokens":0', b'"output":0'),
        (b"text_delta", b"input_json_delta"),
        (b'"text_delta","text":"hi"', b'"text_delta","text":""'),
        (b'event: message_stop\ndata: {"type":"message_stop"}\n\n', b""),
        (b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n', b""),
        (b'"input":{}', b'"input":{"a":1}'),
        (b'{\\"a\\":1}', b'{\\"a\\":1'),
        (b"hi", "\u2028".encode()),
        (b'"id":"toolu_1"', b'"id":""'),
    ],
)
def test_the_grammar_checker_notices(old: bytes, new: bytes) -> None:
    assert grammar.check(SMALL).complete
    assert old in SMALL

    with pytest.raises((grammar.Ungrammatical, ValueError)):
        grammar.check(SMALL.replace(old, new))


@pytest.mark.parametrize(
    "items",
    [
        [SEARCHED[0], *SEARCHED[2:]],
        SEARCHED[1:],
        [SEARCHED[0], SEARCHED[3], *SEARCHED[1:]],
        [ServerCall("srvtoolu_2", "web_search"), *SEARCHED[1:]],
        [ServerCall("toolu_1", "web_search"), *SEARCHED[1:]],
        [
            SEARCHED[0],
            Block(
                {
                    "type": "web_search_tool_result",
                    "tool_use_id": "srvtoolu_1",
                    "content": [{**SOURCE, "url": 1}],
                }
            ),
            Finish(),
        ],
    ],
)
def test_the_grammar_checker_notices_a_search_that_is_none(items: list[Item]) -> None:
    with pytest.raises(grammar.Ungrammatical):
        grammar.check(streamed(items))


@pytest.mark.parametrize("extra", [sse.PING, SMALL, Stream(head()).fail(BOOM)])
def test_the_grammar_checker_allows_nothing_after_the_end(extra: bytes) -> None:
    with pytest.raises(grammar.Ungrammatical):
        grammar.check(SMALL + extra)
