"""Reasoning out and back."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from modelproxy.worker.dialects import thinking
from modelproxy.worker.dialects.reasoning import Reasoning, merged, replayed
from modelproxy.worker.wire.items import Block, Item, Thinking

TEXT = {"type": "reasoning.text", "index": 0, "text": "a"}
SIGNED = {"type": "reasoning.text", "index": 0, "signature": "s"}
SECRET = {"type": "reasoning.encrypted", "index": 0, "id": "1", "data": "x"}
SUMMARY = {"type": "reasoning.summary", "index": 0, "summary": "b"}


def collect(display: str, *pieces: tuple[str, list[dict[str, Any]]]) -> tuple[Reasoning, list[Item]]:
    reasoning = Reasoning("p", "m", display=display)
    return reasoning, [item for text, details in pieces for item in reasoning.add(text, details)]


def blocks_of(items: list[Item]) -> list[dict[str, Any]]:
    """As the client keeps them."""
    found: list[dict[str, Any]] = [{"type": "text", "text": "x"}]
    for item in items:
        if isinstance(item, Block):
            found.append(item.content)
        elif isinstance(item, Thinking) and item.signature:
            found.append({"type": "thinking", "thinking": "", "signature": item.signature})
    return found


def test_text_passes_at_once_and_the_signature_ends_the_block() -> None:
    reasoning, items = collect("shown", ("a", []), ("b", []))
    end = reasoning.close()

    assert items == [Thinking("a"), Thinking("b")]
    assert end == [Thinking("", thinking.sign("p", "m"))]
    assert reasoning.close(final=True) == []


def test_details_that_can_be_read_are_shown_when_there_is_no_text() -> None:
    _, items = collect("shown", ("", [TEXT, SUMMARY]), ("", [SECRET]))

    assert items == [Thinking("ab")]


def test_a_client_without_thinking_gets_no_block_at_all() -> None:
    reasoning, _ = collect("none", ("a", []), ("", [SECRET]))

    assert reasoning.close(final=True) == []


def test_text_that_is_not_shown_travels_inside() -> None:
    reasoning, _ = collect("omitted", ("a", []), ("b", []))

    assert replayed(blocks_of(reasoning.close()), "p", "m") == ("ab", [])
    assert replayed(
        [{"type": "thinking", "thinking": "ab", "signature": thinking.sign("p", "m")}], "p", "m"
    ) == (
        "ab",
        [],
    )
    assert replayed([{"type": "thinking", "thinking": "ab", "signature": ""}], "p", "m") == ("", [])


def test_entries_that_come_late_wait_for_the_end_and_find_their_place() -> None:
    """P56: a signature behind the visible text must not cut that in two."""
    reasoning, _ = collect("shown", ("a", [TEXT]))
    first = reasoning.close()
    assert reasoning.add("", [SIGNED, SECRET]) == []
    assert reasoning.close() == []
    last = reasoning.close(final=True)

    assert isinstance(last[0], Block)
    assert replayed(blocks_of([*first, *last]), "p", "m")[1] == [{**TEXT, "signature": "s"}, SECRET]


def test_encrypted_reasoning_in_front_of_the_text() -> None:
    reasoning, _ = collect("shown", ("", [SECRET]))
    items = reasoning.close()

    assert isinstance(items[0], Block)
    assert replayed(blocks_of(items), "p", "m") == ("", [SECRET])


def test_pieces_of_entries() -> None:
    """P56: merged by type and index, never across a signature or another id."""
    assert merged([TEXT, {**TEXT, "text": "b"}, SIGNED]) == [{**TEXT, "text": "ab", "signature": "s"}]
    assert merged([TEXT, SIGNED, TEXT]) == [{**TEXT, "signature": "s"}, TEXT]
    assert merged([TEXT, {**TEXT, "index": 1}]) == [TEXT, {**TEXT, "index": 1}]
    assert merged([SECRET, {**SECRET, "id": "2"}]) == [SECRET, {**SECRET, "id": "2"}]
    assert merged([SECRET, {**SECRET, "data": "y"}]) == [SECRET, {**SECRET, "data": "y"}]
    assert merged([SUMMARY, TEXT, SUMMARY]) == [{**SUMMARY, "summary": "bb"}, TEXT]
    assert merged([{**TEXT, "format": None}, {**TEXT, "format": "f"}]) == [
        {**TEXT, "text": "aa", "format": "f"}
    ]


_entries = st.lists(st.sampled_from([TEXT, SIGNED, SECRET, SUMMARY, {**TEXT, "index": 1}]), max_size=8)


def test_records_of_two_searches_stay_two() -> None:
    record = {"type": "reasoning.server_tool_call", "tool_name": "openrouter:web_search", "result": "{}"}
    first, second = record | {"arguments": '{"query":"a"}'}, record | {"arguments": '{"query":"b"}'}

    assert merged([first, second]) == [first, second]


@given(_entries)
def test_entries_come_back_as_they_were_put_together(entries: list[dict[str, Any]]) -> None:
    reasoning, _ = collect("omitted", ("t", entries))

    assert replayed(blocks_of(reasoning.close(final=True)), "p", "m")[1] == merged(entries)


def test_odd_contents_of_an_envelope_are_nothing() -> None:
    for inside in (7, {"details": 7, "text": 7}, {"details": [7]}):
        block = {"type": "redacted_thinking", "data": thinking.sign("p", "m", inside)}

        assert replayed([block], "p", "m") == ("", [])
