"""Which tools a model is offered."""

from __future__ import annotations

from typing import Any

import pytest

from modelproxy.worker.dialects import offers
from modelproxy.worker.dialects.offers import Choice, Offer
from modelproxy.worker.failures import Kind, Refused
from modelproxy.worker.wire import asks, codec

SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}
PLACEHOLDER = {"name": "DeferredToolPlaceholder", "input_schema": {}, "defer_loading": True}


def tool(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "description": f"Does {name}.", "input_schema": {"type": "object"}, **fields}


def deferred(name: str) -> dict[str, Any]:
    return tool(name, defer_loading=True)


def offer(tools: list[Any], *content: Any, choice: Any = None, searches_web: bool = False) -> Offer:
    """Of a request with these tools, whose history holds these blocks."""
    messages: list[Any] = [{"role": "user", "content": "hi"}]
    if content:
        messages.append(
            {"role": "system" if content[0]["type"].startswith("tool_a") else "user", "content": content}
        )
    body = {"model": "m", "max_tokens": 9, "messages": messages, "tools": tools, "tool_choice": choice}
    return offers.offer(asks.ask(codec.dumps(body)), "work", searches_web=searches_web)


def names(tools: list[Any], *content: Any, choice: Any = None) -> list[str]:
    return [one.name for one in offer(tools, *content, choice=choice).tools]


def refusal(tools: list[Any], choice: Any = None) -> str:
    with pytest.raises(Refused) as refused:
        offer(tools, choice=choice)
    assert refused.value.failure.kind is Kind.INVALID
    return refused.value.failure.message


def test_p04_a_tool_is_name_description_and_schema() -> None:
    extras = {"input_examples": [{}], "eager_input_streaming": True, "allowed_callers": ["direct"]}
    found = offer([tool("a", cache_control={"type": "ephemeral"}, strict=True, type="custom", **extras)])

    assert found.tools == [offers.Tool("a", "Does a.", {"type": "object"}, strict=True)]


def test_p05_a_deferred_tool_is_on_offer_once_something_loaded_it() -> None:
    tools = [tool("ToolSearch"), deferred("WebFetch"), deferred("WebSearch"), PLACEHOLDER]
    reference = {
        "type": "tool_result",
        "tool_use_id": "1",
        "content": [{"type": "tool_reference", "tool_name": "WebFetch"}],
    }

    assert names(tools) == ["ToolSearch"]
    assert names(tools, reference) == ["ToolSearch", "WebFetch"]


@pytest.mark.parametrize(
    "block",
    [
        {"type": "tool_use", "id": "1", "name": "a", "input": {}},
        {"type": "tool_addition", "tool_name": "a"},
        {"type": "tool_addition", "tools": [{"name": "a"}]},
        {"type": "tool_addition", "tool": {"name": "a"}},
        {"type": "tool_search_tool_result", "tool_use_id": "1", "content": {"tool_references": [
            {"type": "tool_reference", "tool_name": "a"}]}},
    ],
)  # fmt: skip
def test_p05_what_loads_a_deferred_tool(block: dict[str, Any]) -> None:
    assert names([deferred("a"), deferred("b")], block) == ["a"]


def test_a_tool_that_was_taken_away_is_gone_until_it_is_given_back() -> None:
    removal = {"type": "tool_removal", "tool_name": "a"}
    addition = {"type": "tool_addition", "tool_name": "a"}

    assert names([tool("a"), tool("b")], removal) == ["b"]
    assert names([tool("a")], addition, removal) == []
    assert names([tool("a")], removal, addition) == ["a"]


def test_with_a_tool_search_of_the_server_all_are_on_offer() -> None:
    search = {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"}

    assert names([search, deferred("a"), tool("b")]) == ["a", "b"]
    assert names([search, PLACEHOLDER]) == []


def test_p07_nothing_but_server_tools_is_refused_by_name() -> None:
    message = refusal([SEARCH], {"type": "auto"})

    assert "web_search" in message
    assert "work" in message


@pytest.mark.parametrize("kind", ["web_fetch_1", "code_execution_1", "advisor_1", "mcp_toolset", "quantum_1"])
def test_p07_whoever_would_run_it_is_not_here(kind: str) -> None:
    assert "cannot run" in refusal([{"type": kind, "name": "x"}])


def test_p07_beside_other_tools_a_server_tool_is_left_out_and_noted() -> None:
    found = offer([SEARCH, tool("a")], choice={"type": "tool", "name": "web_search"})

    assert [one.name for one in found.tools] == ["a"]
    assert found.choice == Choice("auto")
    assert found.notes == ("left out server tools: web_search",)


def test_a_search_that_the_provider_runs_is_on_offer_alone_and_beside_others() -> None:
    alone = offer([SEARCH], searches_web=True)
    beside = offer([tool("a"), SEARCH, {"type": "web_fetch_1", "name": "web_fetch"}], searches_web=True)

    assert (alone.tools, alone.search, alone.notes) == ([], SEARCH, ())
    assert ([one.name for one in beside.tools], beside.search) == (["a"], SEARCH)
    assert beside.notes == ("left out server tools: web_fetch",)
    assert offer([tool("a")], searches_web=True).search is None


@pytest.mark.parametrize(
    "choice", [Choice("any"), Choice("tool", "web_search"), Choice("auto"), Choice("none")]
)
def test_a_search_can_be_chosen(choice: Choice) -> None:
    asked = {"type": choice.type} | ({"name": choice.name} if choice.name else {})

    assert offer([SEARCH], choice=asked, searches_web=True).choice == choice


def test_what_the_provider_does_not_run_stays_refused_beside_a_search() -> None:
    with pytest.raises(Refused, match="needs Anthropic"):
        offer([SEARCH, {"type": "computer_1", "name": "computer"}], searches_web=True)
    with pytest.raises(Refused, match="cannot run the server tool web_fetch"):
        offer([{"type": "web_fetch_1", "name": "web_fetch"}], searches_web=True)


@pytest.mark.parametrize("kind", ["computer_20251124", "browser_toolset_1"])
def test_tools_that_see_a_screen_need_anthropic(kind: str) -> None:
    assert "needs Anthropic" in refusal([{"type": kind, "name": "computer"}, tool("a")])


_EDITS = {"command", "path", "file_text", "old_str", "new_str", "insert_line", "insert_text", "view_range"}


@pytest.mark.parametrize(
    ("kind", "name", "properties"),
    [
        ("bash_20250124", "bash", {"command", "restart"}),
        ("text_editor_20250728", "str_replace_based_edit_tool", _EDITS),
        ("memory_20250818", "memory", _EDITS | {"old_path", "new_path"}),
    ],
)
def test_tools_that_anthropic_defines_and_the_client_runs_get_a_schema(
    kind: str, name: str, properties: set[str]
) -> None:
    found = offer([{"type": kind, "name": name}]).tools[0]

    assert found.name == name
    assert found.description
    assert set(found.schema["properties"]) == properties


def test_a_tool_that_anthropic_defines_knows_all_its_commands() -> None:
    editor, memory = (
        offer([{"type": kind, "name": "a"}]).tools[0].schema["properties"]["command"]["enum"]
        for kind in ("text_editor_20250728", "memory_20250818")
    )

    assert editor == ["view", "create", "str_replace", "insert"]
    assert memory == [*editor, "delete", "rename"]


def test_an_unknown_type_with_a_schema_is_called_like_any_other() -> None:
    assert names([tool("a", type="function_2027")]) == ["a"]


def test_of_two_tools_with_one_name_the_first_stays() -> None:
    assert offer([tool("a"), tool("a", description="other")]).tools[0].description == "Does a."


@pytest.mark.parametrize("kind", ["auto", "any", "none"])
def test_a_choice_stays_while_there_are_tools(kind: str) -> None:
    assert offer([tool("a")], choice={"type": kind}).choice == Choice(kind)
    assert offer([], choice={"type": kind}).choice == Choice("auto")


def test_a_chosen_tool_is_on_offer_or_the_choice_is_refused() -> None:
    assert offer([tool("a")], choice={"type": "tool", "name": "a"}).choice == Choice("tool", "a")
    assert names([deferred("a")], choice={"type": "tool", "name": "a"}) == ["a"]
    assert "no tool 'b'" in refusal([tool("a")], {"type": "tool", "name": "b"})


def test_parallel_calls_can_be_switched_off() -> None:
    assert offer([tool("a")]).parallel is True
    assert offer([tool("a")], choice={"type": "auto", "disable_parallel_tool_use": True}).parallel is False


def test_p23_tools_keep_their_order() -> None:
    assert names([tool("z"), tool("a"), tool("m")]) == ["z", "a", "m"]
