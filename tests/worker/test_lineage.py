"""Who a sub-agent is, told by the answer that has sent it out."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelproxy.worker import lineage
from modelproxy.worker.lineage import Lineage

PROMPT = 'Look at "läßt.py"\nand say what is wrong.'
REMINDER = "<system-reminder>\nof something\n</system-reminder>\n"


def sending(
    name: str = "code-reviewer", prompt: str = PROMPT, tool: str = "Agent", index: int = 1
) -> list[Any]:
    """The events of a call that sends somebody out."""
    block = {"type": "tool_use", "id": "toolu_1", "name": tool, "input": {}}
    arguments = json.dumps({"description": "review", "subagent_type": name, "prompt": prompt})
    deltas = [arguments[:9], arguments[9:40], arguments[40:]]
    return [
        {"type": "content_block_start", "index": index, "content_block": block},
        *(
            {
                "type": "content_block_delta",
                "index": index,
                "delta": {"type": "input_json_delta", "partial_json": one},
            }
            for one in deltas
        ),
        {"type": "content_block_stop", "index": index},
    ]


TEXT = [
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "text_delta", "text": '"tool_use" "Agent"'},
    },
    {"type": "content_block_stop", "index": 0},
]


def stream(*events: Any) -> bytes:
    return b"".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode() for one in events)


def first(*texts: str, role: str = "user") -> bytes:
    """What a sub-agent sends, with the prompt among these texts."""
    blocks = [{"type": "text", "text": text} for text in texts]
    system = {"role": "system", "content": "# Environment"}
    return json.dumps({"model": "m", "messages": [{"role": role, "content": blocks}, system]}).encode()


ASKS = first(REMINDER, PROMPT)


def heard(*answers: bytes, known: Lineage | None = None) -> Lineage:
    known = known or Lineage()
    for answer in answers:
        known.listener("s").feed(answer)
    return known


@given(st.lists(st.integers(min_value=0, max_value=700), max_size=6))
def test_a_sub_agent_has_the_name_that_it_was_sent_out_by(cuts: list[int]) -> None:
    """However the answer was cut."""
    answer, known = stream(*TEXT, *sending()), Lineage()
    listener = known.listener("s")
    edges = [0, *sorted(cuts), len(answer)]
    for start, end in itertools.pairwise(edges):
        listener.feed(answer[start:end])

    assert known.name("s", "a1", ASKS) == "code-reviewer"


@pytest.mark.parametrize("tool", ["Agent", "Task"])
def test_an_answer_that_is_no_stream_tells_it_as_well(tool: str) -> None:
    call = {"type": "tool_use", "name": tool, "input": {"subagent_type": "x", "prompt": PROMPT}}
    known = Lineage()
    known.listener("s").whole(json.dumps({"content": [{"type": "text", "text": "Hm"}, call]}).encode())

    assert known.name("s", "a1", ASKS) == "x"


def test_the_name_stays_with_the_id() -> None:
    """A later request has the same first message, but nobody is awaited any more."""
    known = heard(stream(*sending()))

    assert [known.name("s", "a1", ASKS) for _ in range(3)] == ["code-reviewer"] * 3
    assert known.name("s", "a1", b"{") == "code-reviewer"
    assert known.name("s", "a2", ASKS) is None


def test_several_of_one_answer_are_told_apart() -> None:
    known = heard(stream(*sending("one", "first", index=0), *sending("two", "second")))

    assert known.name("s", "b", first("second")) == "two"
    assert known.name("s", "a", first(" first\n")) == "one"


def test_two_of_a_kind_may_have_one_prompt() -> None:
    known = heard(stream(*sending(index=0), *sending()))

    assert [known.name("s", one, ASKS) for one in ("a", "b", "c")] == ["code-reviewer", "code-reviewer", None]


def test_two_kinds_with_one_prompt_are_nobody() -> None:
    """A guess would show one's work to the other's provider."""
    known = heard(stream(*sending("one", index=0), *sending("two")))

    assert (known.name("s", "a", ASKS), known.name("s", "b", ASKS)) == (None, None)


def test_sessions_know_nothing_of_each_other() -> None:
    known = heard(stream(*sending()))

    assert known.name("other", "a1", ASKS) is None
    assert known.name("s", "a1", ASKS) == "code-reviewer"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"messages":[7]}',
        b'{"messages":"x"}',
        b'{"messages":[]}',
        first(PROMPT, role="assistant"),
        first(REMINDER),
        first(f"{PROMPT} And more."),
    ],
)
def test_who_brings_no_prompt_is_not_known(body: bytes) -> None:
    assert heard(stream(*sending())).name("s", "a1", body) is None


def test_a_plain_text_is_a_message_too() -> None:
    body = json.dumps({"messages": [{"role": "user", "content": PROMPT}]}).encode()

    assert heard(stream(*sending())).name("s", "a1", body) == "code-reviewer"


@pytest.mark.parametrize(
    "answer",
    [
        stream(*TEXT),
        stream(*sending(tool="Bash")),
        stream(*sending()[:-1]),
        stream(*sending(name="")),
        stream(*sending(prompt="")),
        stream(sending()[0], *sending()[2:]),
        b'data: {"type":"content_block_start","index":"x","content_block":{"type":"tool_use"}}\n\n',
        b'data: "tool_use"\n\n\xff\xfe',
    ],
)
def test_what_sends_nobody_out_is_not_understood_so(answer: bytes) -> None:
    known = heard(answer)
    known.listener("s").whole(answer)

    assert not known._awaited


def test_an_event_without_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineage, "_LONGEST_EVENT", 1000)
    known = Lineage()
    listener = known.listener("s")
    for _ in range(3):
        listener.feed(b"x" * 999)
    listener.feed(stream(*sending()))

    assert not known._awaited


def test_no_more_is_remembered_than_a_bound() -> None:
    """And no prompt at all."""
    known = Lineage(most=3)
    for number in range(9):
        known.sent_out("s", "x", f"prompt {number}")
        known.name("s", f"a{number}", b"{}")

    assert (len(known._awaited), len(known._known)) == (3, 3)
    assert known.name("s", "late", first("prompt 8")) == "x"
    assert "prompt" not in str(known._awaited)
