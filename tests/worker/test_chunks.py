"""Forms of an answer and ends of it that no golden case shows."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelproxy.worker.contract import Options
from modelproxy.worker.dialects import chunks
from modelproxy.worker.dialects.chunks import BREAKS, FINISHES, Decoder, Frame
from modelproxy.worker.dialects.names import Names
from modelproxy.worker.dialects.quirks import PLAIN, SERVERS, Quirks
from modelproxy.worker.dialects.seam import Terms
from modelproxy.worker.failures import Failure, Kind
from modelproxy.worker.wire import asks
from modelproxy.worker.wire.items import Finish, Item, Text, Thinking, ToolCall, Usage

TERMS = Terms("p", "m", Options())


def ask(**fields: Any) -> asks.Ask:
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]} | fields
    return asks.ask(json.dumps(body).encode())


def decoder(quirks: Quirks = PLAIN, frame: Frame | None = None, **fields: Any) -> Decoder:
    ids = iter(range(99))
    frame = frame or Frame(Names([]))
    return Decoder(ask(**fields), TERMS, quirks, frame, new_id=lambda prefix: f"{prefix}{next(ids)}")


def items(*bodies: bytes, **fields: Any) -> list[Item]:
    reader = decoder(**fields)
    return [item for body in bodies for item in every(reader, reader.feed(body))] + every(
        reader, reader.end()
    )


def every(reader: Decoder, found: list[Item]) -> list[Item]:
    while more := reader.rest():
        found = [*found, *more]
    return found


def event(finish: str | None = None, **delta: Any) -> bytes:
    return b"data: %b\n\n" % json.dumps({"choices": [{"delta": delta, "finish_reason": finish}]}).encode()


def whole(finish: str | None = None, **message: Any) -> bytes:
    return json.dumps({"choices": [{"message": message, "finish_reason": finish}]}).encode()


def call(**function: Any) -> list[dict[str, Any]]:
    return [{"index": 0, "id": "c", "function": function}]


@pytest.mark.parametrize("word", FINISHES)
def test_words_for_an_end(word: str) -> None:
    """S76."""
    assert items(event(content="a"), event(word)) == [Text("a"), Finish(FINISHES[word])]


@pytest.mark.parametrize("word", BREAKS)
def test_words_for_an_end_that_is_none(word: str) -> None:
    found = items(event(content="a"), event(word.upper()))

    assert found == [Text("a"), Failure(BREAKS[word], f"p, model m: ended with {word!r}")]


def test_an_unknown_word_ends_an_answer_only_if_there_is_one() -> None:
    assert items(event(content="a"), event("odd")) == [Text("a"), Finish()]
    assert items(event("odd")) == [Failure(Kind.PROVIDER, "p, model m: ended with 'odd'")]
    assert items(event("stop")) == [Finish()]


@pytest.mark.parametrize("word", ["null", "None", ""])
def test_a_word_for_no_end_is_none(word: str) -> None:
    """Alibaba says it beside every piece."""
    assert items(event(word, content="a"), event(word, content="b"), event("stop")) == [
        Text("a"),
        Text("b"),
        Finish(),
    ]
    assert items(event(word, content="a")) == [Text("a")]
    assert items(whole(word, content="a")) == [Text("a"), Finish()]


def test_a_chunk_of_nothing_is_a_sign_of_life() -> None:
    assert items(b"data: null\n\ndata: {}\n\n", event(content="a"), event("stop")) == [Text("a"), Finish()]


def test_a_plain_answer_without_a_reason_is_an_end() -> None:
    """S76."""
    assert items(whole(content="a")) == [Text("a"), Finish()]
    assert items(b"\xef\xbb\xbf \n" + whole("length", content="a")) == [Text("a"), Finish("max_tokens")]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            b"<html><body>Bad <b>gateway</b></body></html>",
            "answered something that is no chat completion: Bad gateway",
        ),
        (b"ok", "answered something that is no chat completion: ok"),
        (b"dat", "answered something that is no chat completion: dat"),
        (b"upstream connect error", "answered something that is no chat completion: upstream connect error"),
        (b'{"choices": [{"mess', "the answer is not valid JSON, or was cut:"),
        (b'{"models": []}', " answered something that is no message"),
        (b'{"detail": "the model is loading"}', "p, model m: the model is loading"),
        (b'data: {"code": 1302, "message": "too fast"}\n\ndata: [DONE]\n\n', "p, model m: too fast"),
        (b'data: {"detail": "too fast"}\n\n', "p, model m: too fast"),
        (b"[]", "answered something that is no message"),
        (b"data: [1]\n\n", "sent a chunk that is no JSON object: [1]"),
        (b"data: nonsense\n\n", "sent a chunk that is no JSON object: nonsense"),
    ],
)
def test_what_is_no_answer(body: bytes, words: str) -> None:
    """P45: never a false end."""
    found = items(body)

    assert isinstance(found[-1], Failure)
    assert found[-1].kind is Kind.PROVIDER
    assert words in found[-1].message


@pytest.mark.parametrize("body", [b"", b" \n", b": comment\n\n", b"event: ping\ndata: hi\n\n", b"data:\n\n"])
def test_nothing_is_nothing(body: bytes) -> None:
    """The caller knows that an answer without an end was cut."""
    assert items(body) == []


def test_the_last_event_may_lack_its_empty_line() -> None:
    assert items(event(content="a"), event("stop").rstrip()) == [Text("a"), Finish()]
    assert items(event(content="a"), event("stop").rstrip()[:-1]) == [Text("a")]


def test_p40_a_call_that_is_announced_and_does_not_come_is_no_end() -> None:
    """Whatever it was sent as, nobody could read it; as an end of the turn it would be lost in silence."""
    words = "p, model m: said that it calls a tool, but no call came"
    odd = {"index": 0, "id": "a", "name": "f", "arguments": "{}"}

    assert items(event("tool_calls", tool_calls=[odd])) == [Failure(Kind.PROVIDER, words)]
    assert items(event(reasoning="hm"), event("tool_calls"))[-1] == Failure(Kind.PROVIDER, words)
    assert items(whole("tool_calls", content="")) == [Failure(Kind.PROVIDER, words)]
    assert items(event(content="a"), event("tool_calls")) == [Text("a"), Finish("tool_use")]


def test_a_document_that_is_nearly_json_is_read_like_a_chunk() -> None:
    assert items(b'{"choices":[{"message":{"content":"a\nb"},"logprobs":NaN}]}') == [Text("a\nb"), Finish()]


def test_what_a_failure_has_cost_is_known() -> None:
    """S106: OpenRouter charges for what came before an error inside a 200."""
    error = {"error": {"code": 502, "message": "gone"}, "usage": {"prompt_tokens": 3, "cost": 0.5}}
    inside = {"choices": [{"message": {"content": "a"}, **error}], "usage": error["usage"]}
    router = SERVERS["openrouter"]

    for body in (b"data: %b\n\n" % json.dumps(error).encode(), json.dumps(inside).encode()):
        usage, failure = items(body, quirks=router)
        assert isinstance(usage, Usage)
        assert usage.cost_usd == 0.5
        assert isinstance(failure, Failure)


def test_nothing_is_read_behind_the_end() -> None:
    assert items(
        event(content="a"), event("stop"), b"data: [DONE]\n\n", event(content="b"), b"data: x\n\n"
    ) == [
        Text("a"),
        Finish(),
    ]
    broken = items(b'data: {"error":"x"}\n\n' + event("stop"), event("stop"))
    assert [type(one) for one in broken] == [Failure]


def test_an_endless_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "LONGEST", 100)
    found = items(b"{" + b" " * 60, b" " * 60)
    assert found == [Failure(Kind.PROVIDER, "p: sent an answer of more than 100 bytes")]

    reader = decoder()
    assert reader.feed(b"data: " + b"x" * (33 * 1024 * 1024)) == [
        Failure(Kind.PROVIDER, "p: sent an event without end")
    ]


def test_a_page_is_not_kept_whole() -> None:
    found = items(b"<p>", *[b"word " * 1000] * 50)

    assert isinstance(found[0], Failure)
    assert len(found[0].message) < 400


@pytest.mark.parametrize("server", [None, *SERVERS])
def test_p46_done_is_no_word_for_how_it_finished(server: str | None) -> None:
    """Gateways say it as well of a stream that broke off behind them."""
    done = b"data: [DONE]\n\n"
    ways = PLAIN if server is None else SERVERS[server]
    cut = Failure(Kind.CUT, f"{ways.title or 'p'}, model m: the stream ended without a finish_reason")

    assert items(done, quirks=ways) == []
    assert items(event(content="a"), done, quirks=ways) == [Text("a"), cut]
    assert items(event(tool_calls=call(name="f", arguments='{"a":')), done, quirks=ways) == [cut]
    assert items(event(tool_calls=call(name="f", arguments="{}")), done, quirks=ways) == [cut]


@pytest.mark.parametrize("message", [{"content": ""}, {"content": None, "tool_calls": []}, {"content": []}])
def test_p47_a_plain_answer_of_nothing_needs_a_reason(message: dict[str, Any]) -> None:
    """Nothing said with a word for the end is a model's silence; without one nobody knows what it is."""
    nothing = Failure(Kind.PROVIDER, "p, model m: answered nothing, and no finish_reason")

    assert items(whole(**message)) == [nothing]
    assert items(whole("stop", **message)) == [Finish()]
    assert items(whole(content="a")) == [Text("a"), Finish()]


def test_counts_are_said_when_they_change() -> None:
    chunk = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":%d}}\n\n'

    assert items(chunk % 1, chunk % 1, chunk % 2) == [Usage(3, 1), Usage(3, 2)]


def test_p43_a_call_goes_on_behind_the_word_for_the_end() -> None:
    """Its first half alone could be executed; a second call could be lost."""
    half = event(tool_calls=call(name="f", arguments='{"a":1'))
    rest = event(tool_calls=call(arguments=',"b":2}'))
    other = event("tool_calls", tool_calls=[{"index": 1, "id": "d", "function": {"name": "g"}}])
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}\n\n'
    done = b"data: [DONE]\n\n"
    whole_call = ToolCall("toolu_0", "f", b'{"a":1,"b":2}')

    for end in (done, b"", usage + done):
        found = [item for item in items(half, event("tool_calls"), rest, end) if not isinstance(item, Usage)]
        assert found == [whole_call, Finish("tool_use")]
    assert items(half, event("stop"), rest, other, event("stop"), done) == [
        whole_call,
        ToolCall("toolu_1", "g"),
        Finish(),
    ]


def test_p43_a_call_behind_the_end_of_a_text_is_not_lost() -> None:
    """Where there are tools to call."""
    frame = Frame(Names(["f"]), offered=("f",))
    said = event("stop", content="a"), event("stop", tool_calls=call(name="f", arguments="{}"))
    done = b"data: [DONE]\n\n"

    assert items(*said, done, frame=frame) == [Text("a"), ToolCall("toolu_0", "f"), Finish()]
    assert items(said[0], b'data: {"error":{"message":"no bill"}}\n\n', frame=frame) == [Text("a"), Finish()]
    assert items(said[0], frame=frame) == [Text("a"), Finish()]


@pytest.mark.parametrize("frame", [Frame(Names([])), Frame(Names(["f"]), offered=("f",))])
def test_p53_a_text_behind_the_word_for_the_end_is_not_lost(frame: Frame) -> None:
    """Relays of Gemini have said it in every chunk: half an answer would look like the whole."""
    said = [event("stop", content=word) for word in "ab"]
    done = b"data: [DONE]\n\n"
    end = Finish("max_tokens")

    assert items(*said, event("length", content="c"), done, frame=frame) == [*map(Text, "abc"), end]
    assert items(event("length", content="a"), event("stop"), done, frame=frame) == [Text("a"), end]
    reader = decoder(frame=frame)
    found = []
    for body in (*said, done):
        reader.feed(body)
        found.append(reader.is_ending)
    assert found == [True, False, True]


def test_p53_a_word_that_comes_again_behind_what_was_late_is_one() -> None:
    """Then nothing is waited for; where it stands beside every piece it never says anything."""
    late = event("stop", content="a"), event(content="b"), event("stop")
    always = event("stop", content="a"), event("stop", content="b"), event("stop")
    found = []
    for said in (late, always):
        reader = decoder()
        for body in said:
            reader.feed(body)
        found.append(reader.is_ending)
    assert found == [True, False]


def test_p45_an_error_behind_a_word_that_was_no_end() -> None:
    """It is said beside every piece, so nobody knows that the answer was whole."""
    wrong = items(event("stop", content="a"), event("stop", content="b"), b'data: {"error":"no"}\n\n')

    assert wrong == [Text("a"), Text("b"), Failure(Kind.PROVIDER, "p, model m: no")]


def test_p43_a_call_that_breaks_off_is_worth_waiting_for() -> None:
    """The word for the end stands in front of its last fragment. Without any arguments it may be whole."""
    found = []
    for arguments in ('{"a":1', "", '{"a":1}'):
        reader = decoder()
        reader.feed(event("tool_calls", tool_calls=call(name="f", arguments=arguments)))
        found.append(reader.is_ending)

    assert found == [False, True, True]


def test_p48_several_data_lines_in_one_event() -> None:
    """A document on several lines, or several documents of a server that leaves out the empty lines."""
    spread = b'data: {"choices":\ndata: [{"delta":{"content":"a"}}]}\n\n'
    joined = b"".join(one[:-1] for one in (event(content="b"), event("stop"))) + b"data: [DONE]\n\n"

    assert items(spread, joined) == [Text("a"), Text("b"), Finish()]


def test_an_error_behind_an_end_that_waits_for_calls() -> None:
    """A whole answer is not lost to it; half a call is."""
    error = b'data: {"error":{"message":"no bill"}}\n\n'
    half, rest = (event(tool_calls=call(name="f", arguments=text)) for text in ('{"a":', "1}"))

    for wrong in (error, b"data: garbage\n\n", b"event: error\ndata: x\n\n"):
        assert items(half, rest, event("stop"), wrong) == [ToolCall("toolu_0", "f", b'{"a":1}'), Finish()]
        assert isinstance(items(half, event("stop"), wrong)[0], Failure)
    assert items(half, event("stop"), error) == [Failure(Kind.PROVIDER, "p, model m: no bill")]


def test_a_decoder_says_how_much_there_is_to_wait_for() -> None:
    reader = decoder()
    said = event(tool_calls=call(name="f", arguments="{}")), event("tool_calls"), b"data: [DONE]\n\n"
    found = []
    for body in said:
        reader.feed(body)
        found.append((reader.is_ending, reader.is_over))

    assert found == [(False, False), (True, False), (True, True)]


def test_a_call_without_a_name() -> None:
    """P40: where only one tool is on offer it can be no other."""
    nameless = event("tool_calls", tool_calls=call(arguments="{}"))
    only = Frame(Names(["f"]), offered=("f",))

    assert items(nameless) == [Failure(Kind.PROVIDER, "p, model m: called a tool without naming it")]
    assert items(nameless, frame=only) == [ToolCall("toolu_0", "f"), Finish("tool_use")]
    assert items(event("tool_calls", tool_calls=call(name="F", arguments="{}")), frame=only) == [
        ToolCall("toolu_0", "f"),
        Finish("tool_use"),
    ]


def test_a_client_that_takes_one_call_gets_one() -> None:
    two = [
        {"index": place, "id": f"c{place}", "function": {"name": "f", "arguments": "{}"}} for place in (0, 1)
    ]
    frame = Frame(Names([]), parallel=False)

    assert items(event("tool_calls", tool_calls=two), frame=frame) == [
        ToolCall("toolu_0", "f"),
        Finish("tool_use"),
    ]


def test_reasoning_in_tags_only_where_a_server_is_known_for_it() -> None:
    said = event(content="<thi"), event(content="nk>hm</think>\n\nyes"), event("stop")
    tagged = Quirks(think_tags=True)

    found = items(*said, quirks=tagged, thinking={"type": "adaptive"})

    assert [one.text for one in found if isinstance(one, Thinking)] == ["hm", ""]
    assert [one.text for one in found if isinstance(one, Text)] == ["yes"]
    assert items(*said)[:2] == [Text("<thi"), Text("nk>hm</think>\n\nyes")]
    assert items(event(content="<thi"), event("stop"), quirks=tagged) == [Text("<thi"), Finish()]


def test_stop_sequences_of_ours() -> None:
    frame = Frame(Names([]), stops=("END",))

    assert items(event(content="aEN"), event("stop"), frame=frame) == [Text("a"), Text("EN"), Finish()]
    assert items(event(content="END"), event(content="b"), event("stop"), frame=frame) == [
        Finish("stop_sequence", "END")
    ]
    refused = items(event(content="END"), event(content="b", refusal="c"), frame=frame)
    assert refused == [Finish("stop_sequence", "END")]


def test_a_call_in_front_of_a_stop_sequence_of_ours_is_not_lost() -> None:
    frame = Frame(Names([]), stops=("END",))
    said = event(tool_calls=call(name="f", arguments="{}")), event(content="aEND")

    assert items(*said, event("tool_calls"), frame=frame) == [
        Text("a"),
        ToolCall("toolu_0", "f"),
        Finish("stop_sequence", "END"),
    ]


def test_a_stop_sequence_in_what_a_fence_held_back() -> None:
    frame = Frame(Names([]), stops=("``",), json_only=True)

    assert items(event(content="``"), event("stop"), frame=frame) == [Finish("stop_sequence", "``")]


def test_the_only_stop_sequence_is_the_one_that_matched() -> None:
    one, two = (Frame(Names([]), told_stops=stops) for stops in (("A",), ("A", "B")))
    said = event(content="a"), event("stop_sequence")

    assert items(*said, frame=one)[-1] == Finish("stop_sequence", "A")
    assert items(*said, frame=two)[-1] == Finish()


def test_an_answer_longer_than_was_asked_for_is_cut_between_characters() -> None:
    """P26."""
    frame = Frame(Names([]), most_tokens=1)

    assert items(event(content="ab"), event(content="ééé"), event("stop"), frame=frame) == [
        Text("ab"),
        Text("é"),
        Finish("max_tokens"),
    ]
    assert items(event(content="ab"), event("stop"), frame=frame) == [Text("ab"), Finish()]
    held = Frame(Names([]), most_tokens=1, stops=("abcdefg",))
    assert items(event(content="abcdef"), event("stop"), frame=held) == [Text("abcd"), Finish("max_tokens")]


def test_p48_an_emoji_whose_halves_come_apart_is_one() -> None:
    """JavaScript cuts a text between them; half a one is nothing that a client could print."""
    high, low = "\ud83d", "\ude00"

    assert items(event(content=f"a{high}"), event(content=f"{low}b"), event("stop")) == [
        Text("a"),
        Text("\U0001f600b"),
        Finish(),
    ]
    assert items(event(content=high), event(content=low), event("stop")) == [Text("\U0001f600"), Finish()]
    assert items(event(content=f"a{high}"), event(content="b"), event("stop"))[1] == Text(f"{high}b")
    assert items(event(content=high), event("stop")) == [Text(high), Finish()]


def test_a_picture_in_an_answer_is_said_to_be_missing() -> None:
    said = whole("stop", content=None, images=[{"type": "image_url"}])

    assert items(said)[0] == Text("[image omitted: only text can be passed on]")


def test_what_an_answer_says_in_a_second_choice_is_part_of_it() -> None:
    """Some servers put the text into one and the calls into the other; only one answer was asked for."""
    text = {"message": {"content": "a"}, "finish_reason": "tool_calls"}
    calls = {"message": {"tool_calls": call(name="f", arguments="{}")}, "finish_reason": "tool_calls"}
    both = [Text("a"), ToolCall("toolu_0", "f"), Finish("tool_use")]

    assert items(json.dumps({"choices": [text, calls]}).encode()) == both
    assert items(json.dumps({"choices": [calls, text]}).encode()) == both
    long = {**text, "message": {"content": LONG}}
    assert ToolCall("toolu_0", "f") in items(json.dumps({"choices": [long, calls]}).encode())


def test_a_second_answer_is_not_added_to_the_first() -> None:
    """Nobody asked for two."""
    choices = [{"index": at, "message": {"content": text}} for at, text in enumerate("ab")]

    assert items(json.dumps({"choices": choices}).encode()) == [Text("a"), Finish()]


def test_a_stream_that_says_all_of_it_again_at_its_end_says_it_once() -> None:
    """MiniMax ends its streams with the whole answer, others put it beside an empty delta."""
    said = event(content="a"), event(reasoning="hm"), event(tool_calls=call(name="f", arguments="{}"))
    message = {
        "content": "a",
        "reasoning": "hm",
        "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}],
    }
    choice = {"message": message, "finish_reason": "stop"}
    once = items(*said, event("stop"), b"data: [DONE]\n\n")

    for last in (choice, {"delta": {}, **choice}):
        end = b"data: %b\n\ndata: [DONE]\n\n" % json.dumps({"choices": [last]}).encode()
        assert items(*said, end) == once
        # What it says for the first time counts, though.
        assert items(said[0], end) == once
        assert items(end) == items(json.dumps({"choices": [choice]}).encode())


def test_a_stream_of_messages_is_one_of_pieces() -> None:
    said = [
        b"data: %b\n\n" % json.dumps({"choices": [{"message": {"content": text}}]}).encode() for text in "ab"
    ]

    assert items(*said, event("stop")) == [Text("a"), Text("b"), Finish()]


def test_a_call_in_the_old_form_beside_the_new_one_is_the_same() -> None:
    old = {"name": "f", "arguments": '{"a"'}
    said = event(tool_calls=call(name="f", arguments='{"a"'), function_call=old)
    end = event("tool_calls", tool_calls=call(arguments=":1}"), function_call={"arguments": ":1}"})

    assert items(said, end) == [ToolCall("toolu_0", "f", b'{"a":1}'), Finish("tool_use")]


def test_an_error_that_is_an_end() -> None:
    limit = b'data: {"error":{"message":"x","metadata":{"error_type":"max_tokens_exceeded"}}}\n\n'
    policy = b'data: {"error":{"message":"x","metadata":{"error_type":"content_policy_violation"}}}\n\n'

    assert items(limit) == [Finish("max_tokens")]
    assert items(policy) == [Failure(Kind.INVALID, "p: x")]
    assert items(event(content="a"), policy, event("stop")) == [Text("a"), Finish("refusal")]


def test_an_event_named_error() -> None:
    assert items(b"event: error\ndata: gone\n\n") == [Failure(Kind.PROVIDER, "p, model m: gone")]
    assert items(b'event: error\ndata: {"error":{"code":429,"message":"slow"}}\n\n') == [
        Failure(Kind.RATE_LIMITED, "p: slow")
    ]


@pytest.mark.parametrize(
    "line",
    [
        # llama.cpp says its errors in a field of its own, and then that it is done.
        b'error: {"code":500,"message":"out of memory","type":"server_error"}\n\n',
        # A server that breaks while it streams writes its answer to that into the stream.
        b'{"error":{"code":500,"message":"out of memory"}}\n\n',
        b'{"detail":"out of memory"}',
    ],
)
@pytest.mark.parametrize("before", [b"", event(content="a")])
def test_p45_an_error_that_is_no_event_is_an_error(line: bytes, before: bytes) -> None:
    done = b"data: [DONE]\n\n" if line.endswith(b"\n\n") else b""
    found = items(before + line + done)

    assert found[:-1] == [Text("a")] * bool(before)
    assert isinstance(found[-1], Failure)
    assert found[-1].kind is Kind.PROVIDER
    assert "out of memory" in found[-1].message


# --- whatever a server may think of ---------------------------------------------------------------------

_KEYS = (
    *("choices", "delta", "message", "content", "tool_calls", "function", "name", "arguments", "index", "id"),
    *(
        "finish_reason",
        "usage",
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "cost",
        "error",
        "code",
    ),
    *(
        "metadata",
        "raw",
        "reasoning",
        "reasoning_details",
        "type",
        "text",
        "function_call",
        "refusal",
        "images",
    ),
)
_WORDS = ("", "f", "stop", "tool_calls", "length", "null", "{", "}", '{"a":1}', "\ud83d", "\ude00", "[DONE]")
_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(_WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=4),
    max_leaves=12,
)
_calls = st.lists(
    st.fixed_dictionaries(
        {"function": st.fixed_dictionaries({}, optional={"name": _anything, "arguments": _anything})},
        optional={"index": _anything | st.integers(0, 2), "id": _anything},
    ),
    max_size=2,
)
_said = st.fixed_dictionaries({}, optional={"content": _anything, "tool_calls": _calls | _anything})
_choices = st.fixed_dictionaries(
    {"delta": _said | _anything}, optional={"message": _said | _anything, "finish_reason": _anything}
)
_chunks = _anything | st.fixed_dictionaries(
    {"choices": st.lists(_choices, min_size=1, max_size=2)}, optional={"usage": _anything, "error": _anything}
)


@settings(deadline=None, max_examples=200)
@given(st.lists(_chunks, min_size=1, max_size=4), st.sampled_from([PLAIN, *SERVERS.values()]), st.booleans())
def test_p48_no_answer_breaks_the_reader_and_any_cut_of_it_says_the_same(
    documents: list[Any], quirks: Quirks, streamed: bool
) -> None:
    said = [json.dumps(one).encode() for one in documents]
    body = b"".join(b"data: %b\n\n" % one for one in said) if streamed else b"".join(said[:1])
    whole_body = items(body, quirks=quirks)

    assert items(*[body[at : at + 7] for at in range(0, len(body), 7)], quirks=quirks) == whole_body
    assert sum(isinstance(one, Finish | Failure) for one in whole_body) <= 1


# --- answers of megabytes ------------------------------------------------------------------------------

LONG = 'words \u00e9\u6f22\U0001f600 \\ " \n' * 40_000


@pytest.mark.parametrize("escaped", [False, True])
@pytest.mark.parametrize("said", ["message", "delta"])
def test_s67_a_long_text_in_one_document_comes_in_pieces(said: str, escaped: bool) -> None:
    """In the order of a short one: reasoning, text, calls, bill, end."""
    message = {
        "content": LONG,
        "reasoning": "hm",
        "tool_calls": call(name="t", arguments='{"a":1}'),
    }
    choice = {said: message, "finish_reason": "tool_calls"}
    document = {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 9}}
    data = json.dumps(document, ensure_ascii=escaped).encode()
    reader = decoder(tools=[{"name": "t", "input_schema": {}}])
    body = data if said == "message" else b"data: " + data + b"\n\n"
    batches = [reader.feed(body)]
    while more := reader.rest():
        batches.append(more)
    found = [item for batch in batches for item in batch] + every(reader, reader.end())

    kinds = [type(item) for item in found]
    assert "".join(item.text for item in found if isinstance(item, Text)) == LONG
    assert max(len(item.text) for item in found if isinstance(item, Text)) < len(LONG) / 4
    assert kinds[0] is Thinking
    assert kinds.index(ToolCall) > kinds.index(Text)
    assert Usage(7, 9) in found
    assert found[-1] == Finish("tool_use")
    short = items(whole("tool_calls", **(message | {"content": "text"})))
    assert [kind for kind, _ in itertools.groupby(kinds) if kind is not Usage] == [
        kind for kind, _ in itertools.groupby(map(type, short)) if kind is not Usage
    ]


def test_s67_a_long_text_beside_an_error_is_an_error() -> None:
    data = json.dumps({"error": {"message": "boom"}, "choices": [{"message": {"content": LONG}}]}).encode()
    [found] = items(data)

    assert isinstance(found, Failure)
    assert "boom" in found.message
