"""A request of Chat Completions, as one of messages."""

from __future__ import annotations

import json
from typing import Any

import pytest

from modelproxy.worker.failures import Refused
from modelproxy.worker.forms.asking import Terms
from modelproxy.worker.forms.chat import Chat
from modelproxy.worker.forms.wishes import JSON_ONLY
from modelproxy.worker.wire import asks

HI = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}}
FUNCTION = {
    "type": "function",
    "function": {"name": "f", "description": "does", "parameters": SCHEMA, "strict": True},
}
TOOL = {"name": "f", "description": "does", "input_schema": SCHEMA}
OTHER = {"type": "function", "function": {"name": "g"}}
LITERAL = Terms(literal=("",))


def sent(said: dict[str, Any], terms: Terms | None = None) -> dict[str, Any]:
    """The body of the Messages API; whatever comes out is one that the worker takes."""
    body = Chat().asked(json.dumps({"model": "m", "messages": HI, **said}).encode(), terms or Terms()).body
    asks.ask(body)
    found: dict[str, Any] = json.loads(body)
    return found


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def test_the_least() -> None:
    assert sent({}) == {
        "model": "m",
        "max_tokens": 8192,
        "messages": [{"role": "user", "content": [text("hi")]}],
    }


THINKS = {"thinking": {"type": "adaptive"}}
OFF = {"thinking": {"type": "disabled"}}


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"stream": True}, {"stream": True}),
        ({"stream": False}, {}),
        ({"max_tokens": 5}, {"max_tokens": 5}),
        ({"max_tokens": 5, "max_completion_tokens": 6}, {"max_tokens": 6}),
        ({"temperature": 1.5, "top_p": 0.5}, {"temperature": 1.5, "top_p": 0.5}),
        ({"temperature": "hot", "top_p": True}, {}),
        ({"stop": "END"}, {"stop_sequences": ["END"]}),
        ({"stop": ["a", " ", "b", "c", "d", "e"]}, {"stop_sequences": ["a", "b", "c", "d", "e"]}),
        ({"stop": None}, {}),
        ({"user": "u"}, {"metadata": {"user_id": "u"}}),
        ({"user": "u", "safety_identifier": "s"}, {"metadata": {"user_id": "s"}}),
        ({"reasoning_effort": "none"}, OFF),
        ({"reasoning_effort": "minimal"}, {**THINKS, "output_config": {"effort": "low"}}),
        ({"reasoning_effort": "high"}, {**THINKS, "output_config": {"effort": "high"}}),
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": {"type": "json_object"}}, {"system": [JSON_ONLY]}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"strict": True, "schema": SCHEMA}}},
            {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        ),
        (
            {
                "reasoning_effort": "low",
                "response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}},
            },
            {**THINKS, "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}}},
        ),
        ({"tools": [FUNCTION]}, {"tools": [TOOL]}),
        ({"tools": []}, {}),
        ({"tools": None, "tool_choice": "required"}, {}),
        ({"tools": [FUNCTION], "tool_choice": "auto"}, {"tools": [TOOL]}),
        ({"tools": [FUNCTION], "tool_choice": "none"}, {"tools": [TOOL], "tool_choice": {"type": "none"}}),
        ({"tools": [FUNCTION], "tool_choice": "required"}, {"tools": [TOOL], "tool_choice": {"type": "any"}}),
        (
            {"tools": [FUNCTION], "tool_choice": {"type": "function", "function": {"name": "f"}}},
            {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "f"}},
        ),
        (
            {"tools": [FUNCTION], "parallel_tool_calls": False},
            {"tools": [TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
        ),
        (
            {"tools": [FUNCTION], "tool_choice": "required", "reasoning_effort": "high"},
            {"tools": [TOOL], "tool_choice": {"type": "any"}, **OFF},
        ),
        (
            {
                "tools": [OTHER, FUNCTION],
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {
                        "mode": "required",
                        "tools": [{"type": "function", "function": {"name": "f"}}],
                    },
                },
            },
            {"tools": [TOOL], "tool_choice": {"type": "any"}},
        ),
        ({"functions": [FUNCTION["function"]], "function_call": "auto"}, {"tools": [TOOL]}),
        (
            {"functions": [FUNCTION["function"]], "function_call": {"name": "f"}},
            {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "f"}},
        ),
        (
            {
                "n": 1, "logprobs": False, "top_logprobs": 0, "modalities": ["text"], "audio": None, "seed": 1,
                "frequency_penalty": 0.5, "presence_penalty": 0.5, "logit_bias": {}, "store": True, "metadata": {},
                "prediction": {}, "verbosity": "low", "service_tier": "auto", "prompt_cache_key": "k",
                "web_search_options": {}, "something_new": 1,
            },
            {},
        ),
    ],
)  # fmt: skip
def test_fields(said: dict[str, Any], found: dict[str, Any]) -> None:
    assert sent(said) == {**sent({}), **found}


def test_how_long_an_answer_may_be_is_the_models_own_limit_where_it_is_known() -> None:
    assert sent({}, Terms(most_output=32000))["max_tokens"] == 32000
    assert sent({"max_tokens": 7}, Terms(most_output=32000))["max_tokens"] == 7


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"temperature": 1.5, "top_p": 0.5}, {"temperature": 1}),
        ({"temperature": 0}, {"temperature": 0}),
        ({"top_p": 0.5}, {"top_p": 0.5}),
        ({"temperature": 0.5, "reasoning_effort": "high"}, {**THINKS, "output_config": {"effort": "high"}}),
        ({"temperature": 0.5, "reasoning_effort": "none"}, {"temperature": 0.5, **OFF}),
    ],
)
def test_what_goes_to_anthropic_as_it_stands_is_what_anthropic_takes(
    said: dict[str, Any], found: dict[str, Any]
) -> None:
    """Its scale ends at 1, it takes one of the two, and none while it thinks."""
    assert sent(said, LITERAL) == {**sent({}), **found}


def call(call_id: str, arguments: Any, name: str = "f") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def use(call_id: str, given: dict[str, Any], name: str = "f") -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": given}


def result(call_id: str, *said: str) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, "content": [text(one) for one in said]}


def test_a_conversation_with_tools() -> None:
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "go"}]},
        {"role": "assistant", "content": None, "tool_calls": [call("a", '{"x":1}'), call("b", "{'x': 2,}")]},
        {"role": "tool", "tool_call_id": "a", "content": "one"},
        {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "two"}]},
        {"role": "user", "content": "and?"},
        {"role": "assistant", "content": "so", "tool_calls": [call("c", '{"x": open')]},
        {"role": "tool", "tool_call_id": "c", "content": ""},
    ]

    assert sent({"messages": messages}) == {
        "model": "m",
        "max_tokens": 8192,
        "system": [text("be brief")],
        "messages": [
            {"role": "user", "content": [text("go")]},
            {"role": "assistant", "content": [use("a", {"x": 1}), use("b", {"x": 2})]},
            {"role": "user", "content": [result("a", "one"), result("b", "two"), text("and?")]},
            {"role": "assistant", "content": [text("so"), use("c", {"_raw_arguments": '{"x": open'})]},
            {"role": "user", "content": [result("c")]},
        ],
    }


def test_the_format_of_one_function() -> None:
    messages = [
        *HI,
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "one"},
    ]

    assert sent({"messages": messages})["messages"][1:] == [
        {"role": "assistant", "content": [use("call_f", {})]},
        {"role": "user", "content": [result("call_f", "one")]},
    ]


def test_two_calls_of_one_function_in_that_format_are_two() -> None:
    """Anthropic refuses an id that it has seen in the conversation."""
    call = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    answers = [{"role": "function", "name": "f", "content": said} for said in ("one", "two")]

    assert sent({"messages": [*HI, call, answers[0], call, answers[1]]})["messages"][3:] == [
        {"role": "assistant", "content": [use("call_f_1", {})]},
        {"role": "user", "content": [result("call_f_1", "two")]},
    ]


def test_reasoning_comes_back_in_front() -> None:
    details = [{"type": "reasoning.text", "text": "hm", "signature": "s", "index": 0}]
    said = {"role": "assistant", "content": "ok", "refusal": "no", "reasoning_details": details}

    assert sent({"messages": [*HI, said, *HI]})["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        text("ok"),
        text("no"),
    ]


def test_custom_tools_take_a_text() -> None:
    tool = {"type": "custom", "custom": {"name": "patch", "description": "d", "format": {"type": "text"}}}
    old = {"id": "a", "type": "custom", "custom": {"name": "patch", "input": "*** Begin"}}
    history = [
        *HI,
        {"role": "assistant", "tool_calls": [old]},
        {"role": "tool", "tool_call_id": "a", "content": "ok"},
    ]
    choice = {"type": "custom", "custom": {"name": "patch"}}
    found = sent({"tools": [tool], "messages": history, "tool_choice": choice})

    assert found["tools"][0]["input_schema"]["required"] == ["input"]
    assert found["messages"][1]["content"] == [use("a", {"input": "*** Begin"}, "patch")]
    assert found["tool_choice"] == {"type": "tool", "name": "patch"}


def test_a_longer_history_begins_with_the_shorter_one() -> None:
    """Whatever is asked beside it: providers keep the work they did for a prompt by its exact beginning."""
    history: list[dict[str, Any]] = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": "x", "tool_calls": [call("a", '{"z":1,"a":2}')]},
        {"role": "tool", "tool_call_id": "a", "content": "one"},
        {"role": "assistant", "content": "done"},
        {"role": "user", "content": "more"},
    ]
    shorter = json.dumps(sent({"messages": history[:4]})["messages"])
    longer = json.dumps(sent({"messages": history, "user": "u", "temperature": 1})["messages"])

    assert longer.startswith(shorter[:-1])


@pytest.mark.parametrize(
    ("said", "param", "code"),
    [
        ({"n": 2}, "n", "unsupported_value"),
        ({"logprobs": True}, "logprobs", "unsupported_value"),
        ({"top_logprobs": 3}, "top_logprobs", "unsupported_value"),
        ({"modalities": ["text", "audio"]}, "modalities", "unsupported_value"),
        ({"audio": {"voice": "x"}}, "audio", "unsupported_value"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_value"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "messages[0].content[0]",
            "unsupported_value",
        ),
        ({"model": ""}, "model", None),
        ({"model": None}, "model", None),
        ({"messages": []}, "messages", None),
        ({"messages": "hi"}, "messages", None),
        ({"messages": ["hi"]}, "messages[0]", None),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "messages[0].role", None),
        ({"messages": [{"role": "tool", "content": "hi"}]}, "messages[0].tool_call_id", None),
        ({"messages": [{"role": "assistant", "tool_calls": [3]}]}, "messages[0].tool_calls[0].id", None),
        ({"messages": [{"role": "assistant", "tool_calls": 3}]}, "messages[0].tool_calls", None),
        ({"stream": "yes"}, "stream", None),
        ({"max_tokens": 0}, "max_tokens", None),
        ({"max_completion_tokens": "9"}, "max_completion_tokens", None),
        ({"stop": [3]}, "stop", None),
        ({"stop": 3}, "stop", None),
        ({"tools": {}}, "tools", None),
        ({"tools": [{"type": "function"}]}, "tools[0].function.name", None),
        ({"tools": [{"type": "custom"}]}, "tools[0].custom.name", None),
        ({"tools": [FUNCTION], "tool_choice": "sometimes"}, "tool_choice", None),
        ({"tools": [FUNCTION], "tool_choice": {"function": {"name": "nix"}}}, "tool_choice", None),
    ],
)
def test_what_is_refused_names_its_field(said: dict[str, Any], param: str, code: str | None) -> None:
    with pytest.raises(Refused) as raised:
        sent(said)
    failure = raised.value.failure

    assert failure.message.startswith(param)
    assert failure.details == {"param": param, **({"code": code} if code else {})}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"hi"', b"\xff"])
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(Refused):
        Chat().asked(body, Terms())
