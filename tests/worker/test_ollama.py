"""Ollama's protocol: lines, requests, answers, refusals, discovery."""

from __future__ import annotations

import base64
import itertools
import json
from pathlib import Path
from typing import Any

import attrs
import pytest
from fakes import census, golden, grammar
from fakes.census import Census
from fakes.golden import Case
from hypothesis import given
from hypothesis import strategies as st

from modelproxy.worker.dialects import ollama, thinking
from modelproxy.worker.dialects.ollama import THINK, Ollama, again, facts_from, hopeless
from modelproxy.worker.dialects.seam import Terms
from modelproxy.worker.dialects.turns import SHORTEST_ANSWER
from modelproxy.worker.failures import Failure, Kind, Refused
from modelproxy.worker.wire import asks, codec
from modelproxy.worker.wire import ollama as wire
from modelproxy.worker.wire.asks import Ask
from modelproxy.worker.wire.items import Finish, Item, Text, Thinking, ToolCall, Usage

CASES = golden.paths("ollama")
EXPECTED = {"sent", "refused", "events", "failure"}
DIALECT = Ollama()
BASH = {"name": "Bash", "input_schema": {"type": "object", "properties": {"n": {"type": "integer"}}}}
THINKER = frozenset({"tools", "thinking", "vision"})


def ask(*messages: Any, **fields: Any) -> Ask:
    body = {
        "model": "m",
        "max_tokens": 100,
        "messages": list(messages) or [{"role": "user", "content": "hi"}],
    }
    return asks.ask(codec.dumps({**body, **fields}))


def terms(**known: Any) -> Terms:
    return golden.terms("ollama", known)


def says(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def sent(asked: Ask, known: Terms) -> dict[str, Any]:
    body = codec.loads(DIALECT.call(asked, known).body)
    assert isinstance(body, dict)
    return body


def line(message: Any = None, **fields: Any) -> bytes:
    return json.dumps({"message": message or {"role": "assistant", "content": ""}, **fields}).encode() + b"\n"


def items(*lines: bytes, asked: Ask | None = None, known: Terms | None = None) -> list[Item]:
    return golden.items(DIALECT, asked or ask(), known or terms(), b"".join(lines))


DONE = line(done=True, done_reason="stop", prompt_eval_count=3, eval_count=2)


# --- golden cases ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CASES, ids=lambda path: str(path.stem))
def test_the_case(path: Path) -> None:
    case = Case.read(path, "ollama")
    found = case.play(DIALECT)
    expected = {key: value for key, value in case.written.items() if key in EXPECTED}

    assert expected
    assert {key: found.get(key) for key in expected} == expected
    if "sent" in expected:  # P23: the order of keys counts, which is nothing to dicts
        assert json.dumps(expected["sent"]) == json.dumps(found["sent"])
    assert ("failure" in found, "refused" in found) == ("failure" in expected, "refused" in expected)
    if "sent" in found:
        _assert_sane(found["sent"])


def _assert_sane(body: dict[str, Any]) -> None:
    """What holds for every request, whatever was asked."""
    assert b"null" not in codec.dumps({**body, "messages": []})
    assert body["stream"] is True
    assert (body["truncate"], body["shift"]) == (False, False)
    assert body["options"]["num_predict"] >= 1
    assert [message["role"] for message in body["messages"]].count("system") <= 1
    assert body["messages"][-1]["role"] != "system"
    for message in body["messages"]:
        assert isinstance(message["content"], str)
        for call in message.get("tool_calls", []):
            assert isinstance(call["function"]["arguments"], dict)


STREAMED = [path for path in CASES if "events" in json.loads(path.read_text())]


@given(st.sampled_from(STREAMED), st.data())
def test_p48_any_cut_of_the_bytes_gives_the_same_stream(path: Path, data: st.DataObject) -> None:
    case = Case.read(path, "ollama")
    cuts = data.draw(st.lists(st.integers(0, len(case.upstream)), max_size=8))

    said = golden.items(DIALECT, case.ask, case.terms, case.upstream, cuts)
    assert said == golden.items(DIALECT, case.ask, case.terms, case.upstream)


@pytest.mark.parametrize("path", STREAMED, ids=lambda path: str(path.stem))
def test_p46_every_beginning_of_an_answer_is_a_cut_or_an_error(path: Path) -> None:
    """Never a false end: only the whole last line ends an answer."""
    case = Case.read(path, "ollama")
    whole = case.streamed(golden.items(DIALECT, case.ask, case.terms, case.upstream))
    for size in range(len(case.upstream)):
        said = golden.items(DIALECT, case.ask, case.terms, case.upstream[:size])
        data, failure = golden.stream(case.ask, said)
        streamed = grammar.check(data)

        assert streamed.complete is (failure is None)
        if streamed.complete:
            assert case.streamed(said) == whole


PIECES = st.one_of(
    st.builds(lambda text: {"content": text}, st.text(max_size=5)),
    st.builds(lambda text: {"content": "", "thinking": text}, st.text(max_size=5)),
    st.builds(
        lambda name, arguments: {
            "tool_calls": [{"id": "call_0", "function": {"name": name, "arguments": arguments}}]
        },
        st.sampled_from(["Bash", "bash", "", "other"]),
        st.none()
        | st.text(max_size=8)
        | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2)
        | st.just([1]),
    ),
)


@given(
    st.lists(PIECES, max_size=8),
    st.sampled_from(["stop", "length", "", "load", None]),
    st.sampled_from([None, {"type": "adaptive"}, {"type": "adaptive", "display": "omitted"}]),
    st.sampled_from([None, ["tools"]]),
)
def test_whatever_a_model_says_the_client_reads_a_grammatical_stream(
    pieces: list[Any], reason: Any, wish: Any, capabilities: Any
) -> None:
    asked = ask(tools=[BASH], **({"thinking": wish} if wish else {}))
    lines = [line({"role": "assistant", **piece}, done=False) for piece in pieces]
    end = line(done=True, done_reason=reason)

    said = items(*lines, end, asked=asked, known=terms(capabilities=capabilities))
    data, _ = golden.stream(asked, said)
    streamed = grammar.check(data)
    if streamed.complete and capabilities is None:
        assert streamed.text == "".join(piece.get("content", "") for piece in pieces)
    calls = [one for one in said if isinstance(one, ToolCall)]
    assert len({call.id for call in calls}) == len(calls)


# --- requests -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sees", [True, False], ids=["sees", "blind"])
@pytest.mark.parametrize("sample", census.SAMPLES, ids=lambda path: str(path.stem))
def test_every_block_of_a_real_request_is_accounted_for(sample: Path, sees: bool) -> None:
    """Each piece is sent once and in its place, or it is known why not and what stands there instead."""
    real = Census.of(sample)
    known = terms(window=262144, capabilities=THINKER if sees else THINKER - {"vision"})
    call = DIALECT.call(real.ask, known)
    body = codec.loads(call.body)
    calls = [one for message in body["messages"] for one in message.get("tool_calls", ())]
    pictures = 0 if sees else real.count("image")

    _assert_sane(body)
    assert real.missing(body) == real.of_kinds(*census.FOR_ANTHROPIC, *([] if sees else ["image"]))
    assert real.moved(body["messages"]) == []
    assert [(one["id"], one["function"]["name"]) for one in calls] == real.calls
    assert call.body.count(b"[image omitted: model has no vision]") == pictures
    assert call.notes == real.notes(only_named=pictures)


def test_p09_p23_the_same_history_is_sent_in_the_same_bytes_and_a_longer_one_begins_with_it() -> None:
    body = json.loads((golden.CASES / "samples" / "claude-code-late-turn.json").read_text())
    known = terms(window=262144, capabilities=["tools", "vision"])

    def messages(count: int, stamp: str) -> list[Any]:
        stamped = [{"type": "text", "text": f"x-anthropic-billing-header: {stamp}"}, *body["system"][1:]]
        shorter = {**body, "messages": body["messages"][:count], "system": stamped}
        return list(sent(asks.ask(json.dumps(shorter).encode()), known)["messages"])

    whole = messages(len(body["messages"]), "a")
    assert messages(len(body["messages"]), "b") == whole
    for count in range(2, len(body["messages"]), 2):
        shorter = messages(count, "c")
        assert whole[: len(shorter)] == shorter


def test_p14_p15_what_the_model_is_only_told_of_is_counted() -> None:
    png = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBO"}}
    result = {"type": "tool_result", "tool_use_id": "1", "content": [png, {"type": "text", "text": "a"}]}
    blocks = [result, png, {"type": "odd"}, {"type": "document", "source": {"type": "text", "data": "a"}}]
    called = {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "Bash", "input": {}}]}
    asked = ask({"role": "user", "content": "hi"}, called, {"role": "user", "content": blocks})

    assert DIALECT.call(asked, terms(capabilities=["tools"])).notes == ("blocks only named: 3",)
    assert DIALECT.call(asked, terms()).notes == ("blocks only named: 1",)


def test_the_texts_of_a_turn_are_paragraphs_of_one_message() -> None:
    call = {"type": "tool_use", "id": "1", "name": "Bash", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "1", "content": "ok"}
    said = {"role": "assistant", "content": [says("a"), says("b"), call]}
    asked = ask(
        {"role": "user", "content": [says("1"), says("2")]}, said, {"role": "user", "content": [result]}
    )

    messages = sent(asked, terms())["messages"]

    assert [(one["role"], one["content"]) for one in messages] == [
        ("user", "1\n\n2"),
        ("assistant", "a\n\nb"),
        ("tool", "ok"),
    ]


def test_a_turn_of_reasoning_alone_keeps_it_behind_its_loop() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": thinking.sign("ollama", "qwen3")}
    history = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": [thought]}]

    messages = sent(ask(*history, {"role": "user", "content": "go on"}), terms())["messages"]

    assert messages[1] == {"role": "assistant", "content": "", "thinking": "hm"}


def test_the_call_is_a_json_post_with_key_and_headers() -> None:
    known = terms(api_key="k", options={"headers": {"X-Team": "a"}})
    call = DIALECT.call(ask(), known)

    assert (call.method, call.path) == ("POST", "/api/chat")
    assert dict(call.headers) == {
        b"content-type": b"application/json",
        b"accept": b"application/x-ndjson",
        b"authorization": b"Bearer k",
        b"x-team": b"a",
    }
    assert b"authorization" not in dict(DIALECT.call(ask(), terms()).headers)


@pytest.mark.parametrize(
    ("known", "asked", "num_predict"),
    [
        ({}, 32000, 32000),
        ({"window": 8192}, 32000, 8192 - ollama.MARGIN - 5),
        ({"window": 8192}, 100, 100),
        ({"window": 300}, 32000, SHORTEST_ANSWER),
        ({"max_output": 512}, 32000, 512),
        ({"options": {"max_output_tokens": 400}}, 32000, 400),
        ({}, 0, 1),
    ],
)
def test_p25_p26_the_answer_is_limited_to_what_fits(known: Any, asked: int, num_predict: int) -> None:
    assert sent(ask(max_tokens=asked), terms(**known))["options"]["num_predict"] == num_predict


@pytest.mark.parametrize(
    ("known", "num_ctx"),
    [
        ({}, None),
        ({"window": 8192}, 8192),
        ({"window": 8192, "options": {"context_window": 4096}}, 4096),
        ({"window": 8192, "options": {"num_ctx": 2048, "context_window": 4096}}, 2048),
    ],
)
def test_p27_the_window_is_said(known: Any, num_ctx: int | None) -> None:
    assert sent(ask(), terms(**known))["options"].get("num_ctx") == num_ctx


def test_p14_p26_a_document_that_is_only_named_does_not_fill_the_window() -> None:
    pages = base64.b64encode(b"%PDF" + b"/Type /Page " * 100).decode()
    source = {"type": "base64", "media_type": "application/pdf", "data": pages}
    asked = ask({"role": "user", "content": [{"type": "document", "source": source}]}, max_tokens=4000)

    assert sent(asked, terms(window=65_536))["options"]["num_predict"] == 4000


@pytest.mark.parametrize(
    ("value", "said"), [("10m", "10m"), ("-1", -1), ("300", 300), (0, 0), (-1, -1), ("24h", "24h")]
)
def test_keep_alive_is_a_duration_or_a_number(value: str | int, said: str | int) -> None:
    assert sent(ask(), terms(options={"keep_alive": value}))["keep_alive"] == said


BEGUN = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "The answer"}]
ADAPTIVE = {"type": "adaptive"}


@pytest.mark.parametrize(
    ("fields", "known", "think"),
    [
        ({}, {"capabilities": THINKER}, None),
        ({}, {}, None),
        ({"thinking": ADAPTIVE}, {}, True),
        ({"thinking": ADAPTIVE}, {"capabilities": THINKER}, True),
        ({"thinking": ADAPTIVE}, {"capabilities": ["tools"]}, None),
        ({"thinking": {"type": "disabled"}}, {}, False),
        ({"thinking": {"type": "disabled"}}, {"capabilities": ["tools"]}, None),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, {}, True),
        ({"thinking": {"type": "between_tools"}, "output_config": {"effort": "low"}}, {}, "low"),
        *(
            ({"thinking": ADAPTIVE, "output_config": {"effort": effort}}, {}, level)
            for effort, level in [
                ("low", "low"),
                ("medium", "medium"),
                ("high", "high"),
                ("xhigh", "high"),
                ("max", "max"),
                ("strange", True),
            ]
        ),
        ({"output_config": {"effort": "high"}}, {}, None),
        ({"thinking": ADAPTIVE}, {"model": "gpt-oss:20b"}, "medium"),
        ({"thinking": ADAPTIVE, "output_config": {"effort": "max"}}, {"facts": {"family": "gptoss"}}, "high"),
        ({"thinking": ADAPTIVE}, {"options": {"think": False}}, False),
        ({"thinking": ADAPTIVE}, {"options": {"think": "false"}}, False),
        ({"thinking": {"type": "disabled"}}, {"options": {"think": "low"}}, "low"),
        ({}, {"options": {"think": True}, "capabilities": ["tools"]}, True),
        ({"thinking": ADAPTIVE, "output_config": {"effort": "high"}}, {"facts": {THINK: "plain"}}, True),
        ({"thinking": ADAPTIVE}, {"facts": {THINK: "never"}}, None),
        ({"thinking": ADAPTIVE, "max_tokens": 1}, {}, False),
        ({"thinking": "on"}, {}, None),
        ({"max_tokens": 1}, {"capabilities": ["thinking"]}, False),
        ({"max_tokens": 1}, {}, None),
        ({"messages": BEGUN}, {"capabilities": ["thinking"]}, False),
        ({"messages": BEGUN[:1]}, {"capabilities": ["thinking"]}, None),
    ],
)
def test_p08_p30_thinking(fields: Any, known: Any, think: Any) -> None:
    assert sent(ask(**fields), terms(**known)).get("think") == think


def test_p44_a_bad_call_is_worth_one_more_try() -> None:
    body = b'{"error":"error parsing tool call: raw=\'{\', err=unexpected end"}'

    assert again(ask(), terms(), 500, body) == terms()
    assert again(ask(), terms(), 500, b'{"error":"other"}') is None


def test_p31_thinking_is_given_up_step_by_step() -> None:
    asked = ask(thinking=ADAPTIVE, output_config={"effort": "high"})
    body = b'{"error":"invalid think value: \\"high\\""}'
    steps = []
    known: Terms | None = terms()
    while known is not None:
        steps.append(sent(asked, known).get("think"))
        known = again(asked, known, 400, body)

    assert steps == ["high", True, None]


def test_p31_a_model_that_cannot_think_is_not_asked_twice() -> None:
    asked = ask(thinking=ADAPTIVE, output_config={"effort": "high"})
    found = again(asked, terms(), 400, b'{"error":"\\"gemma3\\" does not support thinking"}')

    assert found is not None
    assert "think" not in sent(asked, found)


@pytest.mark.parametrize(
    ("known", "fields"),
    [
        ({"options": {"think": True}}, {"thinking": ADAPTIVE}),
        ({}, {}),
        ({"facts": {THINK: "never"}}, {"thinking": ADAPTIVE}),
    ],
)
def test_there_is_nothing_to_give_up(known: Any, fields: Any) -> None:
    assert again(ask(**fields), terms(**known), 400, b'{"error":"does not support thinking"}') is None
    assert again(ask(**fields), terms(**known), 400, b'{"error":"bad request"}') is None


# --- answers --------------------------------------------------------------------------------------


def test_an_answer_into_items() -> None:
    said = items(
        line({"role": "assistant", "thinking": "hm"}, done=False),
        line({"role": "assistant", "content": "Hi"}, done=False),
        line(
            {"role": "assistant", "tool_calls": [{"function": {"name": "bash", "arguments": {"n": "5"}}}]},
            done=False,
        ),
        DONE,
        asked=ask(tools=[BASH]),
    )

    assert said == [
        Thinking("hm"),
        Thinking("", thinking.sign("ollama", "qwen3")),
        Text("Hi"),
        ToolCall("toolu_1", "Bash", b'{"n":5}'),
        Usage(3, 2),
        Finish("end_turn"),
    ]


@pytest.mark.parametrize(
    ("known", "text"),
    [({}, "b"), ({"capabilities": ["tools"]}, "b"), ({"capabilities": ["thinking"]}, "<think>a</think>b")],
)
def test_reasoning_in_the_text_is_told_from_it_unless_the_server_does(
    known: dict[str, Any], text: str
) -> None:
    """Servers of before there were capabilities know no other way."""
    said = items(line({"content": "<think>a</think>b"}), DONE, known=terms(**known))

    assert "".join(item.text for item in said if isinstance(item, Text)) == text


def test_reasoning_in_the_text_that_never_ends_is_reasoning() -> None:
    said = items(line({"content": "<think>so</thi"}, done=False), DONE, known=terms(capabilities=["tools"]))

    assert [one.text for one in said if isinstance(one, Thinking)] == ["so", "</thi", ""]
    assert not any(isinstance(one, Text) for one in said)


@pytest.mark.parametrize(
    ("end", "failure"),
    [
        ({"done_reason": "stop"}, None),
        ({"done_reason": "length"}, None),
        ({"eval_count": 1}, None),
        ({}, Failure(Kind.CUT, "Ollama, model qwen3: ended before it said anything")),
        ({"done_reason": "zzz"}, Failure(Kind.PROVIDER, "Ollama, model qwen3: ended with 'zzz'")),
    ],
)
def test_p47_an_end_before_which_nothing_was_said(end: dict[str, Any], failure: Failure | None) -> None:
    said, spoken = items(line(done=True, **end)), items(line({"content": "a"}), line(done=True, **end))

    assert said[-1] == failure if failure else isinstance(said[-1], Finish)
    assert isinstance(spoken[-1], Finish)


@pytest.mark.parametrize("reason", ["connection closed", "error"])
def test_p46_some_words_for_the_end_are_of_a_cut(reason: str) -> None:
    """With all that it has cost by then."""
    called = line({"tool_calls": [{"function": {"name": "Bash", "arguments": {}}}]}, done=False)
    end = line(done=True, done_reason=reason, prompt_eval_count=3, eval_count=2)
    cut = Failure(Kind.CUT, f"Ollama, model qwen3: ended early: {reason}")

    said = items(line({"content": "a"}, done=False), called, end, asked=ask(tools=[BASH]))
    assert said == [Text("a"), Usage(3, 2), cut]


def test_p43_of_several_calls_only_the_last_can_have_been_cut() -> None:
    calls = [{"function": {"name": "Bash", "arguments": text}} for text in ('{"n": 1,}', '{"n": 2,}')]
    end = line(done=True, done_reason="length")

    said = items(line({"tool_calls": calls}, done=False), end, asked=ask(tools=[BASH]))
    assert [one.arguments for one in said if isinstance(one, ToolCall)] == [
        b'{"n":1}',
        b'{"_raw_arguments":"{\\"n\\": 2,}"}',
    ]
    assert said[-1] == Finish("max_tokens")


def test_p40_a_call_without_a_name_is_not_lost() -> None:
    nameless = line({"tool_calls": [{"function": {"arguments": {}}}]}, done=False)

    assert ToolCall("toolu_1", "Bash", b"{}") in items(nameless, DONE, asked=ask(tools=[BASH]))
    read = {"name": "Read", "input_schema": {}}
    assert ToolCall("toolu_1", "unknown_tool", b"{}") in items(nameless, DONE, asked=ask(tools=[BASH, read]))
    assert ToolCall("toolu_1", "unknown_tool", b"{}") in items(nameless, DONE)


@pytest.mark.parametrize(
    "bad",
    [b"[]\n", b"5\n", b"oops\n", b'{"message":5}\n', b'{"message":{"content":5}}\n', b'{"message":{"tool_calls":{}}}\n',
     b'{"message":{"tool_calls":[5]}}\n', b'{"message":{"tool_calls":[{"function":5}]}}\n', b"\xff\xfe\n"],
)  # fmt: skip
def test_p48_a_line_of_another_shape_is_a_named_failure(bad: bytes) -> None:
    said = items(line({"content": "a"}, done=False), bad, DONE)

    assert said[0] == Text("a")
    assert len(said) == 2
    assert isinstance(said[1], Failure)
    assert said[1].kind is Kind.PROVIDER
    assert "not its protocol" in said[1].message


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_p48_a_page_in_place_of_an_answer_is_quoted(end: bytes) -> None:
    """It was called a stream that was cut, and nobody saw what stands before the server."""
    (failure,) = items(b"<html><head><title>x</title></head><body>Please <b>sign in</b></body>" + end)

    words = "Ollama answered something that is not its protocol: Please sign in"
    assert failure == Failure(Kind.PROVIDER, words)


def test_a_line_without_end_is_a_failure() -> None:
    decoder = DIALECT.decoder(ask(), terms(), new_id=golden.ids())
    piece = b"x" * (8 * 1024 * 1024)
    said = list(itertools.chain.from_iterable(decoder.feed(piece) for _ in range(5)))

    assert [type(one) for one in said] == [Failure]
    assert decoder.end() == []


def test_s67_a_long_text_in_one_line_comes_in_pieces() -> None:
    text = 'words \u00e9\u6f22\U0001f600 \\ " \n' * 40_000
    long = line({"content": text, "thinking": "hm"}, done=True, done_reason="stop", eval_count=3)
    decoder = DIALECT.decoder(ask(), terms(), new_id=golden.ids())
    said = decoder.feed(long)
    while more := decoder.rest():
        said += more

    pieces = [one.text for one in said if isinstance(one, Text)]
    assert "".join(pieces) == text
    assert max(map(len, pieces)) < len(text) / 4
    assert isinstance(said[0], Thinking)
    assert said[-2:] == [Usage(None, 3), Finish("end_turn")]


def test_p50_a_window_is_full_by_our_estimate_where_nobody_counts_the_prompt() -> None:
    asked = attrs.evolve(ask(), input_tokens=60)
    end = line(done=True, done_reason="length", eval_count=40)

    assert items(end, asked=asked, known=terms(window=100))[-1] == Finish("model_context_window_exceeded")
    assert items(end, asked=asked, known=terms(window=101))[-1] == Finish("max_tokens")


def test_p50_counts_that_are_missing_or_nothing_are_unknown() -> None:
    end = line(done=True, done_reason="stop", prompt_eval_count=0)

    assert items(line({"content": "a"}, done=False), end)[1] == Usage(None, None)


def test_wire_reads_only_what_it_knows() -> None:
    [found] = wire.read(
        b'{"model":"m","message":{"content":"a","images":null,"tool_calls":null},"logprobs":[1]}'
    )

    assert found == wire.Chunk(content="a")


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (400, b'{"error":"invalid options: x"}', Kind.INVALID, "invalid options: x"),
        (401, b'{"error":"unauthorized"}', Kind.KEY_REJECTED, "ollama signin"),
        (403, b'{"error":"access denied"}', Kind.KEY_REJECTED, "access denied"),
        (
            403,
            b'{"error":"this model requires a subscription, upgrade for access: https://ollama.com/upgrade"}',
            Kind.FORBIDDEN,
            "Ollama: this model requires a subscription",
        ),
        (
            404,
            b'{"error":"model \\"qwen3\\" not found, try pulling it first"}',
            Kind.NOT_FOUND,
            "ollama pull qwen3",
        ),
        (429, b'{"error":"slow down"}', Kind.RATE_LIMITED, "slow down"),
        (499, b"", Kind.CUT, "ended"),
        (500, b"boom <b>html</b>", Kind.PROVIDER, "boom html"),
        (500, b'{"error":"no user query found in messages"}', Kind.PROVIDER, "no user query"),
        (502, b"bad gateway", Kind.OVERLOADED, "bad gateway"),
        (503, b"", Kind.OVERLOADED, "busy"),
        (
            500,
            b'{"error":"server busy, please try again.  maximum pending requests exceeded"}',
            Kind.OVERLOADED,
            "busy",
        ),
    ],
)
def test_p58_refusals(status: int, body: bytes, kind: Kind, words: str) -> None:
    failure = DIALECT.failure(ask(), terms(), status, [], body)

    assert failure.kind is kind
    assert failure.message.startswith("Ollama")
    assert words in failure.message


def test_p58_the_wait_is_passed_on() -> None:
    assert DIALECT.failure(ask(), terms(), 429, [(b"Retry-After", b"7")], b"").retry_after_s == 7


def test_another_ollama_is_told_by_the_users_own_name() -> None:
    assert ollama.title(golden.terms("den", {})) == "Ollama (den)"


def test_no_words_of_a_refusal_hold_the_key() -> None:
    known = terms(api_key="very-secret-key")
    for status in (400, 401, 403, 404, 429, 499, 500, 503):
        failure = DIALECT.failure(ask(), known, status, [], b'{"error":"very-secret-key is bad"}')
        assert "very-secret-key" not in failure.message


def test_p31_tools_without_the_capability_are_refused_but_not_when_none_may_be_called() -> None:
    blind = terms(capabilities=["completion"])
    with pytest.raises(Refused, match="does not support tools"):
        DIALECT.call(ask(tools=[BASH]), blind)
    assert "tools" not in sent(ask(tools=[BASH], tool_choice={"type": "none"}), blind)
    assert "tools" in sent(ask(tools=[BASH]), terms())


# --- discovery ------------------------------------------------------------------------------------

SHOW = {
    "capabilities": ["completion", "tools", "thinking"],
    "model_info": {"general.architecture": "qwen3", "qwen3.context_length": 40960},
    "parameters": 'stop "x"\ntemperature 0.6',
    "details": {"family": "qwen3", "parameter_size": "8B", "quantization_level": "Q4_K_M", "format": "gguf"},
}


def ps(length: Any, name: str = "qwen3:latest") -> dict[str, Any]:
    return {"models": [{"name": "other:7b", "context_length": 1}, {"name": name, "context_length": length}]}


def large(length: int, **fields: Any) -> dict[str, Any]:
    return {**SHOW, "model_info": {"qwen3moe.context_length": length}, **fields}


def test_what_show_says() -> None:
    found = facts_from(SHOW, ps(8192), "qwen3")

    assert found.capabilities == frozenset({"completion", "tools", "thinking"})
    assert found.window == 40960
    assert found.details == {
        "family": "qwen3",
        "parameter_size": "8B",
        "quantization_level": "Q4_K_M",
        "context_length": 40960,
        "loaded": 8192,
    }


@pytest.mark.parametrize(
    ("show", "loaded", "window"),
    [
        (SHOW, None, 40960),
        (large(262144), None, 65536),  # more may not fit into memory
        (large(262144), ps(131072), 131072),  # but this evidently does
        (large(262144), ps(4096), 65536),
        (large(262144), ps(131072, "qwen3:8b"), 65536),  # another model's
        (large(262144, remote_model="qwen3"), None, 262144),  # not this machine's memory
        (large(262144, parameters="num_ctx                        32768\nstop x"), None, 32768),
        ({}, ps(8192), 8192),
        ({}, None, None),
        ({"model_info": [], "parameters": 5, "details": 5}, {"models": 5}, None),
    ],
)
def test_the_window_to_ask_for(show: Any, loaded: Any, window: int | None) -> None:
    assert facts_from(show, loaded, "qwen3").window == window


def test_what_is_not_said_is_unknown() -> None:
    assert facts_from({}, None) == (None, None, {})
    assert facts_from({"capabilities": [5, "tools"]}).capabilities == frozenset({"tools"})


@pytest.mark.parametrize(
    ("window", "is_hopeless"), [(None, False), (4096, True), (63999, True), (65536, False)]
)
def test_a_window_too_small_for_an_agent_is_named(window: int | None, is_hopeless: bool) -> None:
    warning = hopeless(window)

    assert (warning is not None) is is_hopeless
    if warning is not None:
        assert str(window) in warning
        assert "num_ctx" in warning
