"""Searches that the provider runs: what it is told, and what of them the client is shown."""

from __future__ import annotations

import json
from typing import Any

import pytest

from modelproxy.worker.dialects import searches
from modelproxy.worker.dialects.searches import Held, parameters
from modelproxy.worker.failures import Failure, Kind, Refused
from modelproxy.worker.wire.items import Block, Finish, Item, ServerCall, Text, Thinking, ToolCall, Usage

TOOL = "openrouter:web_search"
CALL = ToolCall("toolu_1", "a")
ID = "srvtoolu_px_1"


def cite(url: Any, title: Any = None) -> dict[str, Any]:
    return {"type": "url_citation", "url_citation": {"url": url, "title": title}}


def record(query: str, result: Any = None, **more: Any) -> dict[str, Any]:
    said = {
        "type": "reasoning.server_tool_call",
        "tool_name": TOOL,
        "arguments": json.dumps({"query": query}),
    }
    return {**said, "result": json.dumps(result or {}), **more}


def held() -> Held:
    return Held(TOOL, lambda prefix: f"{prefix}1")


def taken(one: Held, *items: Item) -> list[Item]:
    return [found for item in items for found in one.take(item)]


def result_of(items: list[Item]) -> Any:
    [block] = [item.content for item in items if isinstance(item, Block)]
    assert block["tool_use_id"] == ID
    return block["content"]


def input_of(items: list[Item]) -> Any:
    [call] = [item for item in items if isinstance(item, ServerCall)]
    assert (call.id, call.name) == (ID, "web_search")
    return json.loads(call.arguments)


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        ({}, {}),
        ({"max_uses": 8, "cache_control": {"type": "ephemeral"}}, {"max_uses": 8}),
        (
            {"allowed_domains": ["a.example"], "blocked_domains": []},
            {"allowed_domains": ["a.example"]},
        ),
        ({"allowed_domains": None, "blocked_domains": ["b.example"]}, {"excluded_domains": ["b.example"]}),
        (
            {"user_location": {"type": "approximate", "city": "Bern", "region": None, "street": "x"}},
            {"user_location": {"type": "approximate", "city": "Bern"}},
        ),
        ({"user_location": {"type": "approximate"}}, {}),
        ({"user_location": "Bern"}, {}),
    ],
)
def test_limits_in_the_providers_words(said: dict[str, Any], sent: dict[str, Any]) -> None:
    assert parameters({"type": "web_search_20250305", "name": "web_search", **said}) == sent


@pytest.mark.parametrize(
    "said",
    [
        {"max_uses": 0},
        {"max_uses": True},
        {"max_uses": "8"},
        {"allowed_domains": "a"},
        {"blocked_domains": [1]},
    ],
)
def test_a_limit_that_cannot_be_passed_on_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(Refused) as refused:
        parameters(said)
    assert refused.value.failure.kind is Kind.INVALID
    assert next(iter(said)) in refused.value.failure.message


def test_what_was_found_goes_before_the_text_whenever_it_was_said() -> None:
    one = held()
    before = taken(one, Thinking("hm"), Text("a"), Thinking("again"), Text("b"))
    one.note([cite("https://a.example/", "A"), cite("https://b.example/")], [])
    one.note([cite("https://a.example/", "other"), cite("https://b.example/", "B")], [])
    after = taken(one, Usage(1, 2, web_searches=3), CALL, Finish("tool_use"))

    assert before == [Thinking("hm")]
    assert [type(item) for item in after] == [
        Usage,
        ServerCall,
        Block,
        Text,
        Thinking,
        Text,
        ToolCall,
        Finish,
    ]
    assert [(found["url"], found["title"]) for found in result_of(after)] == [
        ("https://a.example/", "A"),
        ("https://b.example/", "B"),
    ]
    assert input_of(after) == {}


def test_where_nothing_was_searched_nothing_is_claimed() -> None:
    assert taken(held(), Text("a"), Usage(web_searches=0), Finish()) == [
        Usage(),
        Text("a"),
        Finish(),
    ]


def test_sources_that_nobody_has_counted_are_one_search_at_least() -> None:
    one = held()
    one.note([cite("https://a.example/")], [])
    found = taken(one, Usage(1, 2, cost_usd=0.5), Finish(), Usage(1, 3, cost_usd=0.6))

    assert found[3] == Usage(1, 2, cost_usd=0.5, web_searches=1)
    assert found[-1] == Usage(1, 3, cost_usd=0.6, web_searches=1)


def test_queries_are_those_of_the_records() -> None:
    one = held()
    one.note([], [record("a"), record("a"), record("b"), record("c", tool_name="openrouter:fusion")])
    two = held()
    two.note([], [record("a"), {"type": "reasoning.text", "text": "x"}])

    assert input_of(taken(one, Finish())) == {"queries": ["a", "b"]}
    assert input_of(taken(two, Finish())) == {"query": "a"}


@pytest.mark.parametrize(
    ("result", "code"),
    [
        ({"error": "engine is down"}, "unavailable"),
        ({"status": "failed"}, "unavailable"),
        ({"error": "max_uses of 3 reached"}, "max_uses_exceeded"),
        ({"status": "error", "message": "Search limit reached"}, "max_uses_exceeded"),
        ({"error": {"code": 429}}, "too_many_requests"),
    ],
)
def test_a_search_that_failed_is_an_error_and_costs_nothing(result: Any, code: str) -> None:
    one = held()
    one.note([], [record("a", result)])
    found = taken(one, Text("sorry"), Finish())

    assert result_of(found) == {"type": "web_search_tool_result_error", "error_code": code}
    assert not [item for item in found if isinstance(item, Usage)]


def test_one_search_that_worked_is_a_result() -> None:
    one = held()
    one.note([], [record("a", {"error": "x"}), record("b", {"status": "ok"})])
    two = held()
    two.note([cite("https://a.example/")], [record("a", {"error": "x"})])

    assert result_of(taken(one, Finish())) == []
    assert len(result_of(taken(two, Finish()))) == 1


@pytest.mark.parametrize(
    "annotation",
    [
        {},
        {"type": "file", "file": {}},
        {"type": "url_citation"},
        {"type": "url_citation", "url_citation": [1]},
        cite(None),
        cite(""),
        cite(5),
    ],
)
def test_annotations_of_other_kinds_are_no_sources(annotation: dict[str, Any]) -> None:
    one = held()
    one.note([annotation], [record("a", arguments="[1", result="[2"), record("", arguments=None, result=7)])

    assert result_of(taken(one, Finish())) == []
    assert taken(held(), Finish()) == [Finish()]


def test_before_a_failure_goes_what_was_held() -> None:
    one, boom = held(), Failure(Kind.CUT, "cut")
    one.note([cite("https://a.example/")], [])

    assert taken(one, Text("a"), Text("b"), boom) == [Text("ab"), boom]
    assert one.release() == []


def test_words_are_held_together() -> None:
    one = held()
    taken(one, *(Text("word ") for _ in range(10_000)))
    found = one.release()

    assert "".join(item.text for item in found if isinstance(item, Text)) == "word " * 10_000
    assert len(found) < 50_000 / searches.PIECE + 2


def test_a_block_of_a_history_is_known_as_ours() -> None:
    assert searches.is_ours({"type": "server_tool_use", "id": ID})
    assert searches.is_ours({"type": "web_search_tool_result", "tool_use_id": ID})
    assert not searches.is_ours({"type": "server_tool_use", "id": "srvtoolu_01abc"})
    assert not searches.is_ours({"type": "text", "text": ID})
