"""A client's history in the order that other servers want."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelproxy.worker.contract import Options
from modelproxy.worker.dialects import thinking, turns
from modelproxy.worker.dialects.blocks import Sight, text_of, user_turn
from modelproxy.worker.dialects.seam import Terms
from modelproxy.worker.dialects.turns import Prepared
from modelproxy.worker.failures import Kind, Refused
from modelproxy.worker.wire import asks, codec

SAMPLES = sorted((Path(__file__).parents[1] / "cases" / "samples").glob("*.json"))
TERMS = Terms("work", "m", Options())
SEES = Sight()
STAMP = "x-anthropic-billing-header: cc_version=2.1.329.abc; cc_entrypoint=cli"


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def call(id_: str, name: str = "Bash", **fields: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id_, "name": name, "input": {}, **fields}


def result(id_: str, content: Any = "done", **fields: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id_, "content": content, **fields}


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": blocks[0] if isinstance(blocks[0], str) else list(blocks)}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": blocks[0] if isinstance(blocks[0], str) else list(blocks)}


def system(content: Any, **fields: Any) -> dict[str, Any]:
    return {"role": "system", "content": content, **fields}


def prepare(*messages: Any, terms: Terms = TERMS, **fields: Any) -> Prepared:
    body = {"model": "m", "max_tokens": 100, "messages": list(messages), **fields}
    return turns.prepare(asks.ask(codec.dumps(body)), terms)


def size(prepared: Prepared, sight: Sight = SEES, replays_from: int = 0) -> int:
    return prepared.input_tokens(sight, replays_from)


def shape(prepared: Prepared) -> list[tuple[str, list[str]]]:
    """Roles, and each block as the word that matters."""
    return [(turn.role, [_word(block) for block in turn.blocks]) for turn in prepared.turns]


def _word(block: dict[str, Any]) -> str:
    if block["type"] == "tool_use":
        return f"call {block['id']}"
    if block["type"] == "tool_result":
        return f"result {block['tool_use_id']}"
    return block.get("text") or str(block["type"])


REMINDER = "<system-reminder>\nenv\n</system-reminder>"


@pytest.mark.parametrize(
    "content", ["env", [text("env")], [{**text("env"), "cache_control": {"type": "ephemeral"}}]]
)
def test_p01_a_system_message_in_the_middle_is_a_reminder_of_the_turn_before(content: Any) -> None:
    found = prepare(
        user("hi"), system(content, output_config={"effort": "high"}), assistant("yes"), user("go")
    )

    assert shape(found) == [("user", ["hi", REMINDER]), ("assistant", ["yes"]), ("user", ["go"])]


def test_p02_a_prompt_never_ends_in_a_system_message() -> None:
    assert shape(prepare(user("hi"), system("env"))) == [("user", ["hi", REMINDER])]
    assert shape(prepare(user("hi"), assistant("yes"), system("env"))) == [
        ("user", ["hi"]),
        ("assistant", ["yes"]),
        ("user", [REMINDER]),
    ]
    assert shape(prepare(system("env"))) == [("user", [REMINDER])]


def test_a_reminder_does_not_come_between_a_call_and_its_result() -> None:
    found = prepare(user("hi"), assistant(call("1")), system("env"), user(result("1")))

    assert shape(found)[2] == ("user", ["result 1", REMINDER])


def test_an_empty_system_message_leaves_no_trace() -> None:
    assert shape(prepare(user("hi"), system(""), system([]))) == [("user", ["hi"])]


@pytest.mark.parametrize("field", ["zzz_future", "quantum"])
def test_p03_unknown_fields_are_dropped_and_noted(field: str) -> None:
    assert prepare(user("hi"), **dict[str, Any]({field: 1})).notes == (f"dropped unknown fields: {field}",)
    assert prepare(user("hi"), context_management={}, diagnostics={}, speed="fast").notes == ()


def test_p06_safeguards_are_refused_in_their_own_word() -> None:
    with pytest.raises(Refused, match="safeguards") as refused:
        prepare(user("hi"), safeguards={"type": "auto"})
    assert refused.value.failure.kind is Kind.INVALID


@pytest.mark.parametrize(("field", "value"), [("mcp_servers", [{"url": "x"}]), ("container", "c")])
def test_features_that_only_anthropic_runs_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(Refused, match=field):
        prepare(user("hi"), **dict[str, Any]({field: value}))
    assert prepare(user("hi"), **dict[str, Any]({field: None}))
    assert prepare(user("hi"), safeguards=None)


def test_p09_the_billing_stamp_goes_and_two_stamps_give_the_same() -> None:
    one = prepare(user("hi"), system=[text(STAMP), text("You help."), text("A lot.")])
    other = prepare(user("hi"), system=[text(STAMP + "1"), text("You help."), text("A lot.")])

    assert one.system == other.system == "You help.\n\nA lot."
    assert prepare(user("hi"), system=f"{STAMP}\n\nYou help.").system == "You help."
    assert prepare(user("hi"), system=STAMP).system == ""


def test_system_blocks_keep_what_caching_needs() -> None:
    marked = {**text("You help."), "cache_control": {"type": "ephemeral"}}

    found = prepare(user("hi"), system=[text(""), marked, {"type": "container_upload", "file_id": "f"}])
    assert found.system_blocks == [marked, text("[file omitted: f]")]
    assert prepare(user("hi")).system == ""


def test_p12_empty_blocks_and_turns_go_and_neighbours_join() -> None:
    found = prepare(
        user("a"),
        assistant(text("")),
        user(text(" \n"), text("b")),
        assistant(text(""), call("1")),
        user(result("1")),
    )

    assert shape(found) == [("user", ["a", "b"]), ("assistant", ["call 1"]), ("user", ["result 1"])]


@pytest.mark.parametrize(
    "silent",
    [
        {"type": "compaction", "content": None},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": ""}},
        {"type": "search_result", "title": "", "source": "", "content": []},
        {"type": "redacted_thinking", "data": thinking.sign("work", "m")},
    ],
    ids=lambda block: str(block["type"]),
)
def test_p12_a_block_that_says_nothing_is_no_turn(silent: dict[str, Any]) -> None:
    """Ollama takes a request without messages for the wish to load the model, and answers nothing."""
    alone, between = prepare(user(silent)), prepare(user("a"), assistant("b"), user(silent), assistant("c"))

    assert shape(alone) == [("user", ["(no content)"])]
    assert shape(between) == [("user", ["a"]), ("assistant", ["b", "c"])]


def test_p12_a_user_who_says_nothing_at_the_end_still_has_a_turn() -> None:
    assert shape(prepare(user("a"), assistant("b"), user(""))) == [
        ("user", ["a"]),
        ("assistant", ["b"]),
        ("user", ["(no content)"]),
    ]
    assert shape(prepare(user(text("")))) == [("user", ["(no content)"])]
    assert shape(prepare(assistant(""))) == [("user", ["(no content)"])]


def test_p13_a_call_without_a_result_gets_one() -> None:
    found = prepare(user("a"), assistant(call("1"), call("2")), user(text("never mind"), result("2")))

    assert shape(found)[2] == ("user", ["result 1", "result 2", "never mind"])
    assert found.turns[2].blocks[0]["content"] == "[no result: interrupted]"
    assert found.notes == ("calls without a result: 1",)
    last = prepare(user("a"), assistant(call("1")))
    assert shape(last)[2] == ("user", ["result 1"])
    assert last.prefill is False


def test_p13_a_result_without_its_call_is_something_that_was_said() -> None:
    found = prepare(
        user(result("9", [text("old"), {"type": "image", "source": {}}], is_error=True), text("go"))
    )

    assert shape(found) == [("user", ["[result of an earlier tool call] (it failed)", "old", "image", "go"])]
    assert found.notes == ("results without a call: 1",)
    twice = prepare(user("a"), assistant(call("1")), user(result("1"), result("1", "again")))
    assert shape(twice)[2] == ("user", ["result 1", "[result of an earlier tool call]", "again"])


def test_p13_a_result_inside_a_result_without_a_call_is_words() -> None:
    found = prepare(user(result("9", [result("1", "old"), text("")]), text("go")))

    said = "[result of an earlier tool call]\nold"
    assert shape(found) == [("user", ["[result of an earlier tool call]", said, "go"])]


def test_p17_results_come_first_in_the_order_of_the_calls() -> None:
    found = prepare(
        user("a"),
        assistant(call("1", "Read"), call("2", "Bash")),
        user(text("and"), result("2"), result("1")),
    )

    assert shape(found)[2] == ("user", ["result 1", "result 2", "and"])
    assert found.turns[2].names == {"1": "Read", "2": "Bash"}


def test_p38_the_same_id_twice_in_a_turn_is_told_apart() -> None:
    found = prepare(
        user("a"), assistant(call("1", "A"), call("1", "B")), user(result("1", "x"), result("1", "y"))
    )

    assert shape(found)[1:] == [("assistant", ["call 1", "call 1-2"]), ("user", ["result 1", "result 1-2"])]
    assert [block["content"] for block in found.turns[2].blocks] == ["x", "y"]
    assert all("_said_as" not in block for turn in found.turns for block in turn.blocks)


def test_p19_the_arguments_of_the_past_are_objects() -> None:
    found = prepare(user("a"), assistant(call("1", input='{"cmd": bad'), call("2", input=None)), user("b"))

    assert [block["input"] for block in found.turns[1].blocks] == [{"_raw_arguments": '{"cmd": bad'}, {}]


def test_calls_without_a_name_or_an_id() -> None:
    found = prepare(
        user("a"), assistant({"type": "tool_use", "input": {}}, {"type": "tool_use", "name": "A"}), user("b")
    )

    assert [turn.role for turn in found.turns] == ["user", "assistant", "user"]
    assert found.turns[2].names == {"toolu_unknown": "A"}


def test_a_history_that_begins_with_the_assistant_gets_a_user() -> None:
    assert shape(prepare(assistant("a"), user("b")))[0] == ("user", ["(conversation continues)"])


def test_a_prefill_stays_the_last_turn_without_blanks_at_its_end() -> None:
    found = prepare(user("a"), assistant("The answer is \n"))

    assert found.prefill is True
    assert shape(found)[-1] == ("assistant", ["The answer is"])


OWN = {"type": "thinking", "thinking": "so", "signature": thinking.sign("work", "m")}
FOREIGN = {"type": "thinking", "thinking": "so", "signature": "ErUB"}


def test_reasoning_stays_with_its_maker() -> None:
    found = prepare(user("a"), assistant(OWN, FOREIGN, text("b")), assistant(FOREIGN), user("c"))

    assert shape(found)[1] == ("assistant", ["thinking", "b"])
    assert found.notes == ("thinking blocks left out: 2",)
    blind = Terms("work", "m", Options(), capabilities=frozenset({"tools"}))
    assert shape(prepare(user("a"), assistant(OWN), user("c"), terms=blind)) == [("user", ["a", "c"])]


def test_the_other_fields() -> None:
    schema = {"type": "object"}
    found = prepare(
        user("a"),
        stop_sequences=["x", ""],
        output_config={"effort": "high", "format": {"type": "json_schema", "schema": schema}},
    )

    assert (found.stop, found.effort, found.format, found.parallel) == (["x"], "high", schema, True)
    assert prepare(user("a"), output_format={"type": "json_schema", "schema": schema}).format == schema
    assert prepare(user("a"), output_config={"effort": 5, "format": "json"}).format is None
    assert prepare(user("a"), output_config=[]).effort is None


def test_the_estimate_is_of_what_is_sent() -> None:
    deferred = {"name": "a", "input_schema": {}, "description": "x" * 3600, "defer_loading": True}

    assert size(prepare(user("a"), tools=[deferred], system=STAMP)) == size(prepare(user("a")))


PAGES = base64.b64encode(b"%PDF" + b"/Type /Page " * 100).decode()
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PAGES}}
FOUND = {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"encrypted_content": "x" * 9000}]}
FAR = {"type": "image", "source": {"type": "url", "url": "http://x/y.png"}}


@pytest.mark.parametrize("block", [PDF, FAR, FOUND], ids=lambda block: str(block["type"]))
def test_the_estimate_counts_what_a_model_is_only_told_of_by_its_words(block: dict[str, Any]) -> None:
    """By its pages, a document that is only named would fill a local model's window for the rest of the session."""
    blind = Sight(images=False)
    direct = prepare(user(block, text("go")))
    inside = prepare(user("a"), assistant(call("1")), user(result("1", [block])))

    assert size(direct, blind) < 200
    assert size(inside, blind) < 200
    if block is PDF:
        assert size(direct, Sight(documents=True)) > 100_000


def test_the_estimate_counts_reasoning_only_where_it_is_replayed() -> None:
    thought = {**OWN, "thinking": "hm " * 1000}
    found = prepare(user("a"), assistant(thought, text("b")), user("c"), assistant(thought, text("d")))

    assert size(found, replays_from=3) < size(found) - 500
    assert size(found, replays_from=4) < size(found, replays_from=3) - 500


# --- laws -----------------------------------------------------------------------------------------

BLOCKS = st.one_of(
    st.sampled_from(["", " ", "a", "b"]).map(text),
    st.sampled_from(["1", "2", "3"]).map(call),
    st.sampled_from(["1", "2", "3"]).map(result),
    st.sampled_from([OWN, FOREIGN, {"type": "tool_use"}, {"type": "tool_removal"}, {"type": "odd"}]),
    st.sampled_from(
        [{"type": "compaction", "content": None}, {"type": "document"}, result("1", [result("2")])]
    ),
)
MESSAGES = st.builds(
    lambda role, content: {"role": role, "content": content},
    st.sampled_from(["user", "assistant", "system"]),
    st.lists(BLOCKS, max_size=4) | st.sampled_from(["", "hi"]),
)


@given(st.lists(MESSAGES, min_size=1, max_size=8))
def test_whatever_comes_in_alternates_and_pairs(messages: list[Any]) -> None:
    found = prepare(*messages)
    roles = [turn.role for turn in found.turns]

    assert roles == [("user", "assistant")[number % 2] for number in range(len(roles))]
    assert all(turn.blocks for turn in found.turns)
    assert found.prefill is (roles[-1] == "assistant")
    for turn, following in zip(found.turns, [*found.turns[1:], None], strict=True):
        calls = (
            [block["id"] for block in turn.blocks if turns.is_call(block)] if turn.role == "assistant" else []
        )
        assert len(set(calls)) == len(calls)
        if calls:
            assert following is not None
            assert [block["tool_use_id"] for block in following.blocks[: len(calls)]] == calls
            assert list(following.names) == calls
    for turn in found.turns:
        said = user_turn(turn.blocks, turn.names, SEES)
        assert turn.role == "assistant" or said.results or said.parts
        results = [block for block in turn.blocks if turn.role == "user" and block["type"] == "tool_result"]
        assert len(results) == len(turn.names)


@given(st.lists(MESSAGES, min_size=1, max_size=8))
def test_p23_the_same_history_is_prepared_the_same_and_left_alone(messages: list[Any]) -> None:
    before = codec.dumps(messages)

    assert prepare(*messages) == prepare(*messages)
    assert codec.dumps(messages) == before


@given(st.lists(st.tuples(st.sampled_from(["x", "y"]), st.integers(0, 2)), min_size=1, max_size=6))
def test_p23_a_longer_history_begins_with_the_shorter(rounds: list[tuple[str, int]]) -> None:
    messages: list[Any] = []
    earlier: list[Any] = []
    for number, (said, calls) in enumerate(rounds):
        messages += [user(said), system("env")]
        now = prepare(*messages).turns
        assert now[: len(earlier)] == earlier
        earlier = now
        ids = [f"{number}-{one}" for one in range(calls)]
        messages += [assistant(text("ok"), *map(call, ids))]
        if ids:
            messages += [user(*map(result, ids)), assistant("done")]


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: str(path.stem))
def test_every_block_of_a_real_history_is_accounted_for(sample: Path) -> None:
    ask = asks.ask(sample.read_bytes())
    found = turns.prepare(ask, TERMS)

    said = list(_said(found))
    missing = [words for words in _words(ask.messages) if not any(words in one for one in said)]
    assert missing == []
    thoughts = sum(thinking.is_thinking(block) for message in ask.messages for block in _blocks(message))
    assert found.notes == ((f"thinking blocks left out: {thoughts}",) if thoughts else ())
    assert ask.body["system"][-1]["text"] in found.system
    assert turns.BILLING not in found.system


def _blocks(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    return [text(content)] if isinstance(content, str) else content


def _words(messages: list[dict[str, Any]]) -> Iterator[str]:
    """What must be found again: texts, calls, results, pictures, references."""
    for block in (block for message in messages for block in _blocks(message)):
        if block["type"] == "text":
            yield block["text"]
        elif block["type"] == "tool_use":
            yield f"{block['id']} {block['name']} {codec.dumps(block['input']).decode()}"
        elif block["type"] == "tool_result":
            yield f"{block['tool_use_id']} "
            for inner in [text(block["content"])] if isinstance(block["content"], str) else block["content"]:
                yield inner["source"]["data"] if inner["type"] == "image" else text_of(inner)


def _said(found: Prepared) -> Iterator[str]:
    for turn in found.turns:
        if turn.role == "assistant":
            for block in turn.blocks:
                is_call = turns.is_call(block)
                arguments = codec.dumps(block.get("input")).decode()
                yield f"{block['id']} {block['name']} {arguments}" if is_call else text_of(block)
            continue
        split = user_turn(turn.blocks, turn.names, Sight())
        yield from (f"{one.id} {one.text}" for one in split.results)
        yield from (part if isinstance(part, str) else getattr(part, "data", "") for part in split.parts)
