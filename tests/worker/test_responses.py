"""A request of the Responses API, as one of messages."""

from __future__ import annotations

import json
from typing import Any

import pytest

from modelproxy.worker.failures import Refused
from modelproxy.worker.forms import seals
from modelproxy.worker.forms.asking import Terms
from modelproxy.worker.forms.responses import Responses
from modelproxy.worker.wire import asks, codec

SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}}
FUNCTION = {"type": "function", "name": "f", "description": "does", "parameters": SCHEMA, "strict": True}
NAMESPACE = {
    "type": "namespace",
    "name": "ns",
    "description": "some",
    "tools": [{"type": "function", "name": "t", "parameters": SCHEMA}, {"type": "local", "name": "u"}],
}
CUSTOM = {
    "type": "custom",
    "name": "patch",
    "description": "edits",
    "format": {"type": "grammar", "syntax": "lark", "definition": "start: x"},
}
TOOL = {"name": "f", "description": "does", "input_schema": SCHEMA}
INNER = {"name": "ns__t", "input_schema": SCHEMA}
PATCH = {
    "name": "patch",
    "description": "edits\n\nThe input follows this lark grammar:\nstart: x",
    "input_schema": {
        "type": "object",
        "properties": {"input": {"type": "string"}},
        "required": ["input"],
    },
}
THOUGHT = {"type": "thinking", "thinking": "I think", "signature": "sig"}


def asked(said: dict[str, Any], terms: Terms | None = None) -> bytes:
    return (
        Responses().asked(json.dumps({"model": "m", "input": "hi", **said}).encode(), terms or Terms()).body
    )


def sent(said: dict[str, Any], terms: Terms | None = None) -> dict[str, Any]:
    """The body of the Messages API; whatever comes out is one that the worker takes."""
    body = asked(said, terms)
    asks.ask(body)
    found: dict[str, Any] = json.loads(body)
    return found


def turns(*items: dict[str, Any], **said: Any) -> list[tuple[str, list[Any]]]:
    """The messages of a conversation."""
    return [(one["role"], one["content"]) for one in sent({"input": list(items), **said})["messages"]]


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def says(role: str, said: str) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": said}]}


def test_the_least() -> None:
    assert sent({}) == {
        "model": "m",
        "max_tokens": 32000,
        "messages": [{"role": "user", "content": [text("hi")]}],
    }


OFF = {"thinking": {"type": "disabled"}}
ADAPTIVE = {"type": "adaptive"}


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"stream": True}, {"stream": True}),
        ({"max_output_tokens": 5}, {"max_tokens": 5}),
        ({"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}),
        ({"instructions": "be brief"}, {"system": [text("be brief")]}),
        ({"user": "u"}, {"metadata": {"user_id": "u"}}),
        ({"reasoning": {"effort": "none"}}, OFF),
        ({"reasoning": {"effort": "minimal"}}, {"thinking": ADAPTIVE, "output_config": {"effort": "low"}}),
        ({"reasoning": {"effort": "xhigh"}}, {"thinking": ADAPTIVE, "output_config": {"effort": "xhigh"}}),
        ({"reasoning": {"summary": "auto"}}, {}),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "strict": True, "schema": SCHEMA}}},
            {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        ),
        ({"text": {"format": {"type": "text"}, "verbosity": "low"}}, {}),
        ({"tools": [{"type": "web_search"}, {"type": "tool_search"}], "tool_choice": "auto"}, {}),
        ({"tools": [FUNCTION, NAMESPACE, CUSTOM]}, {"tools": [TOOL, INNER, PATCH]}),
        ({"tools": [{**NAMESPACE, "name": "ns__"}]}, {"tools": [INNER]}),
        ({"tools": [FUNCTION], "tool_choice": "none"}, {"tools": [TOOL], "tool_choice": {"type": "none"}}),
        ({"tools": [FUNCTION], "tool_choice": "required"}, {"tools": [TOOL], "tool_choice": {"type": "any"}}),
        (
            {"tools": [FUNCTION], "parallel_tool_calls": False},
            {"tools": [TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
        ),
        (
            {"tools": [NAMESPACE], "tool_choice": {"type": "function", "name": "t", "namespace": "ns"}},
            {"tools": [INNER], "tool_choice": {"type": "tool", "name": "ns__t"}},
        ),
        ({"tools": [FUNCTION], "tool_choice": {"type": "web_search"}}, {"tools": [TOOL]}),
        (
            {
                "tools": [FUNCTION, CUSTOM],
                "tool_choice": {
                    "type": "allowed_tools",
                    "mode": "required",
                    "tools": [{"type": "custom", "name": "patch"}],
                },
            },
            {"tools": [PATCH], "tool_choice": {"type": "any"}},
        ),
        ({"store": True, "include": [], "truncation": "auto", "prompt_cache_key": "k", "unknown": 1}, {}),
    ],
)
def test_each_field(said: dict[str, Any], found: dict[str, Any]) -> None:
    least = sent({})

    assert sent(said) == least | found


def test_a_wish_for_json_without_a_schema_is_told() -> None:
    [told] = sent({"text": {"format": {"type": "json_object"}}})["system"]

    assert "JSON object" in told["text"]


def test_the_longest_answer_is_the_models_where_it_is_known() -> None:
    assert sent({}, Terms(most_output=500))["max_tokens"] == 500


def test_tools_of_one_name_are_kept_apart() -> None:
    """Which of them was meant is known from what they were shown as."""
    other = {"type": "function", "name": "ns__t", "parameters": SCHEMA}
    call = {"type": "function_call", "call_id": "c", "name": "t", "namespace": "ns", "arguments": "{}"}
    found = sent({"tools": [other, NAMESPACE], "input": [call, says("user", "x")]})

    assert [tool["name"] for tool in found["tools"]] == ["ns__t", "ns__t_"]
    assert found["messages"][0]["content"][0]["name"] == "ns__t_"


def test_texts_in_front_are_the_system_prompt_and_later_ones_reminders() -> None:
    """Also between a call and its result, which stays the first of its turn."""
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"x":1}'}
    result = {"type": "function_call_output", "call_id": "c1", "output": "one"}
    items = [says("developer", "a"), {"role": "system", "content": "b"}, says("user", "q"), call]
    items += [says("developer", "mind"), result]
    found = sent({"instructions": "i", "input": items})

    assert found["system"] == [text("i"), text("a"), text("b")]
    assert [(one["role"], one["content"]) for one in found["messages"]] == [
        ("user", [text("q")]),
        ("assistant", [{"type": "tool_use", "id": "c1", "name": "f", "input": {"x": 1}}]),
        (
            "user",
            [
                {"type": "tool_result", "tool_use_id": "c1", "content": [text("one")]},
                text("<system-reminder>\nmind\n</system-reminder>"),
            ],
        ),
    ]


def test_items_of_one_side_are_one_turn() -> None:
    """Reasoning that we gave leads it; anybody else's is left out, as are items of OpenAI's own."""
    found = turns(
        says("user", "q"),
        {"type": "reasoning", "summary": [], "encrypted_content": seals.sealed(THOUGHT)},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "secret"}]},
        says("assistant", "so"),
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
        {"type": "function_call", "call_id": "c1", "name": "t", "namespace": "ns", "arguments": ""},
        {"type": "custom_tool_call", "call_id": "c2", "name": "patch", "input": "*** Begin"},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "r1"}]},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": "r2"},
        says("user", "next"),
    )

    assert found == [
        ("user", [text("q")]),
        (
            "assistant",
            [
                THOUGHT,
                text("so"),
                {"type": "tool_use", "id": "c1", "name": "ns__t", "input": {}},
                {"type": "tool_use", "id": "c2", "name": "patch", "input": {"input": "*** Begin"}},
            ],
        ),
        (
            "user",
            [
                {"type": "tool_result", "tool_use_id": "c1", "content": [text("r1")]},
                {"type": "tool_result", "tool_use_id": "c2", "content": [text("r2")]},
                text("next"),
            ],
        ),
    ]


def test_pictures_and_files_also_in_results() -> None:
    picture = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
    block = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    result = {"type": "function_call_output", "call_id": "c", "output": [picture]}
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    [(_, shown), _, (_, results)] = turns({"role": "user", "content": [picture]}, call, result)

    assert shown == [block]
    assert results == [{"type": "tool_result", "tool_use_id": "c", "content": [block]}]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id: responses are not stored here; send"),
        ({"conversation": {"id": "c"}}, "conversation: conversations are not stored here; send"),
        ({"prompt": {"id": "p"}}, "prompt: prompts are not stored here; send"),
        ({"background": True}, "background: nothing is answered later here; ask without it"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]: items are not stored here; send"),
        ({"input": None}, "input: must be a string or a list"),
        ({"input": ["x"]}, "input[0]: must be an object"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role: must be one of"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id: must be"),
        ({"input": [{"type": "function_call", "call_id": "c"}]}, "input[0].name: must be"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id: must be"),
        ({"tools": {}}, "tools: must be a list"),
        ({"tools": [1]}, "tools[0]: must be an object"),
        ({"tools": [{"type": "function"}]}, "tools[0].name: must be"),
        ({"tools": [{**NAMESPACE, "tools": [{"type": "custom"}]}]}, "tools[0].tools[0].name: must be"),
        ({"tools": [FUNCTION], "tool_choice": "maybe"}, "tool_choice: must be"),
        (
            {"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "g"}},
            "'g' is not among the tools",
        ),
        ({"max_output_tokens": 0}, "max_output_tokens: must be a positive integer"),
    ],
)
def test_what_cannot_be_served_is_refused_in_words_that_help(said: dict[str, Any], words: str) -> None:
    with pytest.raises(Refused) as refused:
        asked(said)

    assert words in refused.value.failure.message


def test_a_longer_conversation_begins_as_the_shorter_one_did() -> None:
    """Providers keep the work that they did for a prompt by its exact beginning."""
    items = [says("developer", "d"), says("user", "q"), says("assistant", "a"), says("user", "r")]
    short = asked({"input": items[:2], "tools": [FUNCTION]})
    long = asked({"input": items, "tools": [FUNCTION]})
    turn = codec.dumps({"role": "user", "content": [text("q")]})

    assert short[: short.index(turn) + len(turn)] == long[: long.index(turn) + len(turn)]
