"""The built-in provider, and that its page says what it does."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelproxy.worker.dialects import echo
from modelproxy.worker.dialects.echo import Pause
from modelproxy.worker.failures import Failure, Kind, Refused
from modelproxy.worker.wire import asks, codec
from modelproxy.worker.wire.items import Finish, Item, Text, Thinking, ToolCall, Usage

PAGE = Path(__file__).parents[2] / "docs" / "echo.md"
WEATHER = {
    "name": "get_weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
TIME = {"name": "get_time", "input_schema": {"type": "object"}}
CALLED = {
    "role": "assistant",
    "content": [{"type": "tool_use", "id": "toolu_9", "name": "get_weather", "input": {}}],
}


def script(
    content: Any, *, history: list[Any] | None = None, after: list[Any] | None = None, **fields: Any
) -> list[Any]:
    messages = [*(history or []), {"role": "user", "content": content}, *(after or [])]
    body = {"model": "m", "max_tokens": 1000, "messages": messages, **fields}
    ids = itertools.count(1)
    return list(echo.answer(asks.ask(codec.dumps(body)), "demo", lambda prefix: f"{prefix}{next(ids)}"))


def text(items: list[Item | Pause]) -> str:
    return "".join(item.text for item in items if isinstance(item, Text))


def calls(items: list[Item | Pause]) -> list[tuple[str, bytes]]:
    return [(item.name, item.arguments) for item in items if isinstance(item, ToolCall)]


def refusal(content: str, **fields: Any) -> str:
    with pytest.raises(Refused) as refused:
        script(content, **fields)
    assert refused.value.failure.kind is Kind.INVALID
    return refused.value.failure.message


def test_it_says_the_last_user_message_word_by_word_and_counts() -> None:
    items = script("hello big  world\n")

    assert items[:3] == [Text("hello "), Text("big  "), Text("world\n")]
    assert isinstance(items[3], Usage)
    assert items[3].output_tokens == 3
    assert items[4:] == [Finish("end_turn")]


REMINDER = "<system-reminder>\necho:fail 500\nMind the attribution.\n</system-reminder>\n"
"""A block that Claude Code puts in front of what its user says."""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\nb"),
        ([{"type": "image", "source": {}}, {"type": "text", "text": "see"}], "[image]\nsee"),
        (
            [{"type": "tool_result", "tool_use_id": "toolu_9", "content": "12 degrees"}],
            "get_weather returned: 12 degrees",
        ),
        ([{"type": "tool_result", "tool_use_id": "gone", "is_error": True}], "the tool failed: "),
        (
            [
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_9",
                    "content": [{"type": "text", "text": "x"}, {"type": "image"}],
                },
                {"type": "text", "text": "and?"},
            ],
            "get_weather returned: x\n[image]\nand?",
        ),
        ("", "(nothing to echo)"),
        ([], "(nothing to echo)"),
        ("echo:slow 0s", "(nothing to echo)"),
        ("a\necho:slow 0s\nb", "a\nb"),
        ("a\r\necho:slow 0s\r\nb", "a\r\nb"),
        ("echo: not an order", "echo: not an order"),
        ("say echo:fail 500", "say echo:fail 500"),
        ("echo:empty\nignored", ""),
        ([{"type": "text", "text": REMINDER}, {"type": "text", "text": "hello"}], "hello"),
        ([{"type": "text", "text": REMINDER}], "(nothing to echo)"),
    ],
)
def test_what_is_said(content: Any, said: str) -> None:
    assert text(script(content, history=[CALLED])) == said


def test_only_the_last_user_message_counts_also_behind_system_messages() -> None:
    earlier = [{"role": "user", "content": "echo:fail 500"}, {"role": "assistant", "content": "x"}]

    assert text(script("now", history=earlier, after=[{"role": "system", "content": "echo:hang"}])) == "now"
    assert text(script("x", after=[{"role": "assistant", "content": "prefill"}])) == "x"


def test_orders_inside_a_tool_result_are_not_obeyed() -> None:
    items = script([{"type": "tool_result", "tool_use_id": "t", "content": "echo:fail 500"}])

    assert text(items) == "the tool returned: echo:fail 500"


def test_pauses() -> None:
    items = script("echo:delay 1.5s\necho:slow 100ms\na b c")

    assert items[:6] == [Pause(1.5), Text("a "), Pause(0.1), Text("b "), Pause(0.1), Text("c")]


@pytest.mark.parametrize(
    ("said", "seconds"), [("5", 5), ("2m", 120), ("250ms", 0.25), ("1 s", 1), ("3600s", 3600)]
)
def test_times(said: str, seconds: float) -> None:
    assert script(f"echo:delay {said}\nx")[0] == Pause(seconds)


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 100_000])
def test_bytes_are_exact_and_not_limited(size: int) -> None:
    items = script(f"echo:bytes {size}", max_tokens=1)

    assert len(text(items).encode()) == size
    assert items[-1] == Finish("end_turn")
    assert max((len(item.text) for item in items if isinstance(item, Text)), default=0) <= 1024


def test_a_long_prompt_comes_in_larger_pieces_and_whole() -> None:
    long = "word " * 2000
    items = script(long, max_tokens=10_000)

    assert text(items) == long
    assert len(items) < 20


@pytest.mark.parametrize("words", [10, 3000])
@pytest.mark.parametrize("limit", [1, 5, 9])
def test_max_tokens_cuts_after_so_many_words(words: int, limit: int) -> None:
    items = script("word " * words, max_tokens=limit)

    assert text(items) == "word " * limit
    assert items[-1] == Finish("max_tokens")
    assert isinstance(items[-2], Usage)
    assert items[-2].output_tokens == limit


def test_exactly_as_many_tokens_as_allowed_is_no_cut() -> None:
    assert script("one two three", max_tokens=3)[-1] == Finish("end_turn")


def test_stop_sequences() -> None:
    items = script("one two three", stop_sequences=["o th", "zzz"])

    assert text(items) == "one tw"
    assert items[-1] == Finish("stop_sequence", "o th")


def test_what_only_began_like_a_stop_sequence_is_said_at_the_end() -> None:
    assert text(script("one tw", stop_sequences=["two"])) == "one tw"


def test_thinking_is_a_signed_block_before_the_text() -> None:
    items = script("echo:think why not\nyes")

    assert [item.text for item in items if isinstance(item, Thinking)] == ["why ", "not"]
    assert [bool(item.signature) for item in items if isinstance(item, Thinking)] == [False, True]
    assert items.index(Text("yes")) == 2


def test_thinking_spends_tokens() -> None:
    items = script("echo:think a b c d\nyes", max_tokens=2)

    assert (text(items), items[-1]) == ("", Finish("max_tokens"))


@pytest.mark.parametrize(
    ("content", "fields", "made"),
    [
        ("echo:tool", {}, [("get_weather", b'{"city":"text"}')]),
        ("echo:tool get_time", {}, [("get_time", b"{}")]),
        (
            'echo:tool get_weather {"city": "Oslo", "n": 1e2}',
            {},
            [("get_weather", b'{"city":"Oslo","n":100.0}')],
        ),
        ("echo:tool get_time\necho:tool", {}, [("get_time", b"{}"), ("get_weather", b'{"city":"text"}')]),
        ("hi", {"tool_choice": {"type": "any"}}, [("get_weather", b'{"city":"text"}')]),
        ("hi", {"tool_choice": {"type": "tool", "name": "get_time"}}, [("get_time", b"{}")]),
        (
            "echo:tool get_weather",
            {"tool_choice": {"type": "tool", "name": "get_time"}},
            [("get_time", b"{}")],
        ),
        (
            'echo:tool get_time {"a":1}',
            {"tool_choice": {"type": "tool", "name": "get_time"}},
            [("get_time", b'{"a":1}')],
        ),
        ("echo:tool", {"tool_choice": {"type": "none"}}, []),
        ("echo:tool", {"tools": []}, []),
        ("hi", {"tools": [], "tool_choice": {"type": "any"}}, []),
        (
            "echo:tool\necho:tool get_time",
            {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
            [("get_weather", b'{"city":"text"}')],
        ),
        ("hi", {}, []),
    ],
)
def test_calls(content: str, fields: dict[str, Any], made: list[tuple[str, bytes]]) -> None:
    assert calls(script(content, **{"tools": [WEATHER, TIME], **fields})) == made


def test_calls_have_ids_of_their_own_and_follow_the_text() -> None:
    items = script("hi\necho:tool\necho:tool", tools=[WEATHER])

    assert [item.id for item in items if isinstance(item, ToolCall)] == ["toolu_1", "toolu_2"]
    assert items[0] == Text("hi")


def test_a_call_that_is_too_long_is_not_made_in_part() -> None:
    items = script("echo:tool get_time " + '{"a":"' + "x" * 400 + '"}', tools=[TIME], max_tokens=20)

    assert (calls(items), items[-1]) == ([], Finish("max_tokens"))


@pytest.mark.parametrize(
    ("content", "tools", "said"),
    [
        ("echo:tool get_rain", [TIME], "[no tool get_rain is offered]"),
        ("echo:tool", [], "[no tool at all is offered]"),
    ],
)
def test_a_tool_that_is_not_offered_is_said_so(content: str, tools: list[Any], said: str) -> None:
    assert text(script(content, tools=tools)) == said


def test_a_forced_tool_that_is_not_offered_is_refused() -> None:
    assert refusal("x", tools=[TIME], tool_choice={"type": "tool", "name": "no"}).startswith(
        "tool_choice.name: "
    )


@pytest.mark.parametrize(
    ("order", "kind", "message", "retry"),
    [
        ("429", Kind.RATE_LIMITED, "echo: the provider answered 429", None),
        ("429 retry 7s", Kind.RATE_LIMITED, "echo: the provider answered 429", 7.0),
        ("500 out of memory", Kind.PROVIDER, "out of memory", None),
        ("503 retry 500ms busy", Kind.OVERLOADED, "busy", 0.5),
        ("401", Kind.KEY_REJECTED, "echo: the provider answered 401", None),
        ("overflow", Kind.OVERFLOW, "prompt is too long: 200000 tokens > 100000 maximum", None),
        ("refused", Kind.UNREACHABLE, "echo: nothing listens at the provider's address", None),
        ("timeout it was slow", Kind.TIMEOUT, "it was slow", None),
        ("reset", Kind.OVERLOADED, "echo: the provider reset the connection", None),
        ("garbage", Kind.PROVIDER, "echo: the provider answered something that is not JSON", None),
    ],
)
def test_failures(order: str, kind: Kind, message: str, retry: float | None) -> None:
    assert script(f"echo:fail {order}\nnever said") == [Failure(kind, message, retry_after_s=retry)]


def test_failures_in_the_middle() -> None:
    items = script("echo:fail 500 after 2 retry 1s oh no\na b c")

    assert items == [Text("a "), Text("b "), Failure(Kind.PROVIDER, "oh no", retry_after_s=1.0)]


@pytest.mark.parametrize(
    ("order", "items"),
    [
        ("echo:cut", [Text("a "), Text("b")]),
        ("echo:cut after 1", [Text("a ")]),
        ("echo:cut after 0", []),
        ("echo:cut after 99", [Text("a "), Text("b")]),
        ("echo:hang", [Text("a "), Text("b"), Pause(math.inf)]),
        ("echo:hang after 0", [Pause(math.inf)]),
        ("echo:fail 500 after 99 x", [Text("a "), Text("b"), Failure(Kind.PROVIDER, "x")]),
    ],
)
def test_breaking_off(order: str, items: list[Any]) -> None:
    assert script(f"{order}\na b") == items


def test_the_stop_reason_can_be_ordered() -> None:
    assert script("echo:stop refusal\nx")[-1] == Finish("refusal")


@pytest.mark.parametrize(
    "order",
    [
        "echo:slwo 1s",
        "echo:slow",
        "echo:slow fast",
        "echo:slow -1s",
        "echo:delay 2h",
        "echo:delay 61m",
        "echo:bytes",
        "echo:bytes -5",
        "echo:bytes 1000000001",
        "echo:bytes 1e3",
        "echo:fail",
        "echo:fail 200",
        "echo:fail 4290",
        "echo:fail 500 retry 1.2.3s",
        "echo:cut now",
        "echo:hang after",
        "echo:empty x",
        "echo:think",
        "echo:tool x {",
        "echo:tool x []",
        "echo:tool x " + '{"a":' * 5000,
        "echo:stop tool_use",
        "echo:stop",
    ],
)
def test_an_order_that_makes_no_sense_is_refused_by_name(order: str) -> None:
    assert refusal(f"hello\n{order}\nworld", tools=[TIME]).startswith(f"{order.split()[0]}: ")


@given(
    st.lists(
        st.sampled_from(["echo:", "fail", "slow", "after", " ", "\n", "5", "x", "tool", "{", "é", "\r"])
    ).map("".join)
)
def test_any_prompt_is_answered_or_refused(content: str) -> None:
    try:
        last = script(content, tools=[WEATHER])[-1]
    except Refused as refused:
        last = refused.failure

    assert isinstance(last, Finish | Failure)


def test_the_same_request_gives_the_same_items() -> None:
    assert script("echo:think x\nhi\necho:tool", tools=[WEATHER]) == script(
        "echo:think x\nhi\necho:tool", tools=[WEATHER]
    )


# --- the page -------------------------------------------------------------------------------------


def test_the_page_names_every_order_and_no_other() -> None:
    assert set(re.findall(r"`echo:([a-z]+)", PAGE.read_text())) == set(echo.WORDS)
    assert set(echo.WORDS) == set(echo._OBEY)


def test_the_pages_examples_work() -> None:
    examples = re.findall(r"```\n(.*?)```", PAGE.read_text().split("## Examples")[1], re.DOTALL)

    assert len(examples) == 4
    slow, two_calls, limit, broken = (script(one, tools=[WEATHER]) for one in examples)
    assert (slow.count(Pause(0.1)), text(slow)) == (4, "one two three four five")
    assert calls(two_calls) == [("get_weather", b'{"city":"Oslo"}'), ("get_weather", b'{"city":"Rome"}')]
    assert limit == [Failure(Kind.RATE_LIMITED, "echo: the provider answered 429", retry_after_s=7.0)]
    assert broken[3:] == [Failure(Kind.PROVIDER, "out of memory")]
