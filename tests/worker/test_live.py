"""Arguments that reach the client while they are being written (wire-formats 12.5)."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from fakes import golden, grammar
from fakes.golden import Case
from hypothesis import given, settings
from hypothesis import strategies as st

from modelproxy.worker.contract import Options
from modelproxy.worker.dialects.openai import OpenAI
from modelproxy.worker.dialects.seam import Terms
from modelproxy.worker.failures import Failure, Kind
from modelproxy.worker.wire import asks
from modelproxy.worker.wire.items import CallPart, CallStart, CallStop, Finish, Item, Text, Thinking, ToolCall

TOOLS = [{"name": name, "input_schema": {"type": "object"}} for name in ("Bash", "Read")]
BROKEN = Failure(
    Kind.PROVIDER,
    "p, model m: wrote a tool call that is no JSON object or has no end, and what was passed on live cannot be "
    "repaired (tool_stream)",
)


def ask(**fields: Any) -> asks.Ask:
    body = {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}], "tools": TOOLS}
    return asks.ask(json.dumps(body | {"stream": True} | fields).encode())


def terms(way: str | None = "live") -> Terms:
    return Terms("p", "m", Options(tool_stream=way))


def event(finish: str | None = None, **delta: Any) -> bytes:
    return b"data: %b\n\n" % json.dumps({"choices": [{"delta": delta, "finish_reason": finish}]}).encode()


def piece(index: int, arguments: str, *, ref: str = "", name: str = "") -> bytes:
    head = {"id": ref} if ref else {}
    function = {"arguments": arguments} | ({"name": name} if name else {})
    return event(tool_calls=[{"index": index, **head, "function": function}])


def one_by_one(*events: bytes, asked: asks.Ask | None = None) -> list[list[Item]]:
    """What each event brings, and the end."""
    decoder = OpenAI().decoder(asked or ask(), terms(), new_id=golden.ids())
    return [*(decoder.feed(one) for one in events), decoder.end()]


def said(*events: bytes, asked: asks.Ask | None = None) -> list[Item]:
    return [item for items in one_by_one(*events, asked=asked) for item in items]


START, OTHER = CallStart("toolu_1", "Bash"), CallStart("toolu_2", "Read")


def test_the_first_call_is_passed_on_as_it_comes_and_the_others_wait_for_it() -> None:
    found = one_by_one(
        event(reasoning="hm", content="Look."),
        piece(0, "", ref="a", name="Bash"),
        piece(0, '{"command"'),
        piece(1, '{"path":', ref="b", name="Read"),
        event(content="While it is open."),
        piece(0, ':"ls"}'),
        piece(1, '"x"'),
        piece(1, "}"),
        event("tool_calls"),
    )

    assert found == [
        [Thinking("hm"), Text("Look.")],
        [],
        [START, CallPart('{"command"')],
        [],
        [],
        [CallPart(':"ls"}'), CallStop(), Text("While it is open."), OTHER, CallPart('{"path":')],
        [CallPart('"x"')],
        [CallPart("}"), CallStop()],
        [],
        [Finish("tool_use")],
    ]


@pytest.mark.parametrize(
    ("events", "arguments"),
    [
        # Who has no id or no name yet may still become another; an empty shell may be filled.
        ([piece(0, '{"a":1}', name="Bash")], b'{"a":1}'),
        ([piece(0, "{}", ref="a", name="Bash")], b"{}"),
        # What does not begin as an object needs the repair.
        ([piece(0, '"{\\"a\\":1}"', ref="a", name="Bash")], b'{"a":1}'),
        ([piece(0, "```json\n", ref="a", name="Bash"), piece(0, '{"a":1}\n```')], b'{"a":1}'),
        ([piece(0, "{'a':1}", ref="a", name="Bash")], b'{"a":1}'),
    ],
)
def test_a_call_that_can_still_change_waits_for_the_end(events: list[bytes], arguments: bytes) -> None:
    found = said(*events, event("tool_calls"))

    assert found == [ToolCall("toolu_1", "Bash", arguments), Finish("tool_use")]


def test_an_empty_shell_is_not_passed_on_but_what_fills_it_is() -> None:
    found = said(piece(0, "{}", ref="a", name="Bash"), piece(0, '{"a":1}'), event("tool_calls"))

    assert found == [START, CallPart('{"a":1}'), CallStop(), Finish("tool_use")]


@pytest.mark.parametrize(
    ("events", "passed"),
    [
        # A comma too many, a raw line break, no end, the limit, another object behind some words.
        ([piece(0, ',"b":1,}'), event("tool_calls")], ',"b":1,}'),
        ([piece(0, ',"b":"x\ny"}'), event("tool_calls")], ',"b":"x\ny"}'),
        ([piece(0, ',"b":"rm -rf ./bui'), event("tool_calls")], ',"b":"rm -rf ./bui'),
        ([piece(0, ',"b":"rm -rf ./bui'), event("length")], ',"b":"rm -rf ./bui'),
        ([piece(0, ',"b":"rm -rf ./bui'), b"data: [DONE]\n\n"], ',"b":"rm -rf ./bui'),
    ],
)
def test_what_cannot_be_repaired_is_an_error_and_no_block_that_ends(events: list[bytes], passed: str) -> None:
    asked = ask()
    found = said(piece(0, '{"a":1', ref="a", name="Bash"), *events, asked=asked)
    streamed = grammar.check(golden.stream(asked, found)[0])

    assert found[:3] == [START, CallPart('{"a":1'), CallPart(passed)]
    assert [one for one in found[3:] if not isinstance(one, Failure)] == []
    assert not streamed.complete
    assert "content_block_stop" not in streamed.names


def test_what_stands_behind_a_whole_call_is_let_be_unless_it_could_be_meant() -> None:
    whole = piece(0, '{"a":1}', ref="a", name="Bash")
    passed = [START, CallPart('{"a":1}'), CallStop()]

    assert said(whole, piece(0, " }\n"), event("tool_calls")) == [*passed, Finish("tool_use")]
    assert said(whole, piece(0, 'no: {"b":2}'), event("tool_calls")) == [*passed, BROKEN]
    # Said again whole, as some servers do, it is the same call.
    assert said(whole, piece(0, '{"a":1}'), event("tool_calls")) == [*passed, Finish("tool_use")]


def test_text_that_ends_an_answer_does_not_end_an_open_call() -> None:
    """A stop sequence that is kept on our side."""
    asked = ask(stop_sequences=["1", "2", "3", "4", "END"])
    found = said(piece(0, '{"a":', ref="a", name="Bash"), event(content="x END y"), asked=asked)

    assert found == [START, CallPart('{"a":'), BROKEN]


def test_one_call_where_one_is_wanted() -> None:
    asked = ask(tool_choice={"type": "auto", "disable_parallel_tool_use": True})
    calls = [piece(at, '{"a":1}', ref=f"c{at}", name="Bash") for at in range(2)]

    assert said(*calls, event("tool_calls"), asked=asked) == [
        START,
        CallPart('{"a":1}'),
        CallStop(),
        Finish("tool_use"),
    ]


def test_a_character_in_two_fragments_is_one() -> None:
    found = said(piece(0, '{"a":"\ud83d', ref="a", name="Bash"), piece(0, '\ude00"}'), event("tool_calls"))

    assert found[:3] == [START, CallPart('{"a":"'), CallPart('😀"}')]


@pytest.mark.parametrize("way", [None, "buffered", "live"])
def test_only_a_stream_is_live_and_only_where_that_is_chosen(way: str | None) -> None:
    body = piece(0, '{"a":1}', ref="a", name="Bash") + event("tool_calls")
    for stream in (False, True):
        found = golden.items(OpenAI(), ask(stream=stream), terms(way), body)
        assert isinstance(found[0], CallStart) is (stream and way == "live")


# --- every golden case, live ----------------------------------------------------------------------


def cases() -> list[Case]:
    found = []
    for kind in ("openai", "openrouter"):
        for path in golden.paths(kind):
            case = Case.read(path, kind)
            if case.upstream and "status" not in case.written:
                found.append(lively(path, kind, case))
    return found


def lively(path: Path, kind: str, case: Case) -> Case:
    written = json.loads(path.read_text(encoding="utf-8"))
    known = golden.terms(
        kind,
        {
            **written.get("terms", {}),
            "options": {**written.get("terms", {}).get("options", {}), "tool_stream": "live"},
        },
    )
    return Case(path, written, asks.ask(json.dumps(written["ask"] | {"stream": True}).encode()), known)


def streamed(
    case: Case, body: bytes, cuts: list[int], known: Terms | None = None
) -> tuple[bytes, Failure | None]:
    kind = case.terms.provider
    dialect = OpenAI.of(kind, kind, None, server=case.written.get("terms", {}).get("server"))
    return golden.stream(case.ask, golden.items(dialect, case.ask, known or case.terms, body, cuts))


CASES = cases()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.terms.provider}/{case.path.stem}")
def test_every_case_says_live_what_it_says_buffered_or_fails(case: Case) -> None:
    buffered, _ = streamed(case, case.upstream, [], terms_of(case))
    live, failure = streamed(case, case.upstream, [])
    one, other = grammar.check(live), grammar.check(buffered)

    assert streamed(case, case.upstream, list(range(len(case.upstream)))) == (live, failure)
    if one.complete:
        assert one.message is not None
        assert other.message is not None
        assert sorted(map(shown, one.message["content"])) == sorted(map(shown, other.message["content"]))
        assert one.message["stop_reason"] == other.message["stop_reason"]


def terms_of(case: Case) -> Terms:
    return Case.read(case.path, case.terms.provider).terms


def shown(block: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in block.items() if key != "id"}, sort_keys=True)


@settings(deadline=None)
@given(st.sampled_from(CASES), st.data())
def test_a_stream_that_ends_anywhere_has_no_false_end_and_no_block_that_lies(
    case: Case, data: st.DataObject
) -> None:
    end = data.draw(st.integers(0, len(case.upstream)))
    raw, failure = streamed(case, case.upstream[:end], data.draw(st.lists(st.integers(0, end), max_size=6)))
    said = grammar.check(raw)  # parses the arguments of every block that has ended

    assert said.complete is (failure is None)
    assert streamed(case, case.upstream[:end], []) == (raw, failure)


_arguments = st.dictionaries(
    st.text(max_size=5), st.text(max_size=12) | st.integers() | st.none(), max_size=3
)


@settings(deadline=None)
@given(st.lists(_arguments, min_size=1, max_size=4), st.data())
def test_calls_arrive_whole_however_they_take_turns(calls: list[dict[str, Any]], data: st.DataObject) -> None:
    """Also with text and reasoning between their pieces."""
    queues = [cut(json.dumps(one), data.draw(st.lists(st.integers(0, 40), max_size=5))) for one in calls]
    events: list[bytes] = []
    begun: set[int] = set()
    while any(queues):
        index = data.draw(st.sampled_from([place for place, queue in enumerate(queues) if queue]))
        named = {} if index in begun else {"ref": f"c{index}", "name": "Bash"}
        begun.add(index)
        events.append(piece(index, queues[index].pop(0), **named))
        events += data.draw(st.sampled_from([[], [], [event(content="a")], [event(reasoning="b")]]))
    asked = ask(thinking={"type": "adaptive"})
    found = said(*events, event("tool_calls"), asked=asked)
    streamed = grammar.check(golden.stream(asked, found)[0])

    assert streamed.message is not None
    given = [block["input"] for block in streamed.message["content"] if block["type"] == "tool_use"]
    assert sorted(map(json.dumps, calls)) == sorted(map(json.dumps, given))
    assert streamed.text == "a" * events.count(event(content="a"))
    if calls[0] and next(iter(begun), 0) == 0 and len(calls) == 1:
        assert any(isinstance(item, CallStart) for item in found)


def cut(text: str, cuts: list[int]) -> list[str]:
    places = [0, *sorted(place for place in set(cuts) if 0 < place < len(text)), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(places)]
