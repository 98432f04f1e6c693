"""Which server a provider is taken for, and what its models change."""

from __future__ import annotations

import json
from typing import Any

import pytest

from modelproxy.worker.contract import Options
from modelproxy.worker.dialects import openai, quirks, thinking
from modelproxy.worker.dialects.quirks import HABITS, PLAIN, SERVERS, habit
from modelproxy.worker.dialects.seam import Terms
from modelproxy.worker.wire import asks


@pytest.mark.parametrize(
    ("kind", "provider", "base_url", "server", "row"),
    [
        ("openrouter", "mine", None, None, "openrouter"),
        ("openrouter", "mine", "http://127.0.0.1:9999/api/v1", None, "openrouter"),
        ("openrouter", "openrouter", "http://127.0.0.1:9999/api/v1", None, "openrouter"),
        ("openai", "openrouter", "http://127.0.0.1:9999/api/v1", None, None),
        ("openai", "work", "https://openrouter.ai/api/v1", None, "openrouter"),
        ("openai", "work", "https://eu.openrouter.ai/api/v1", None, "openrouter"),
        ("openai", "work", "https://notopenrouter.ai/api/v1", None, None),
        ("openai", "openai", None, None, "openai"),
        ("openai", "openai", "https://api.openai.com/v1", None, "openai"),
        ("openai", "openai", "http://127.0.0.1:8000/v1", None, None),
        ("openai", "groq", "https://api.groq.com/openai/v1", None, "groq"),
        ("openai", "vllm", "http://127.0.0.1:8000/v1", None, "vllm"),
        ("openai", "Kimi", "https://api.moonshot.ai/v1", None, "moonshot"),
        ("openai", "llamacpp", "http://127.0.0.1:8080/v1", None, "llama.cpp"),
        ("openai", "work", "http://llm.example.net/v1", "deepseek", "deepseek"),
        ("openai", "work", "http://llm.example.net/v1", "nonsense", None),
        ("openai", "work", "not an address", None, None),
        ("openai", "work", None, None, None),
        ("openai", "work", "https://api.deepseek.com", None, "deepseek"),
        ("openai", "work", "https://api.moonshot.cn/v1", None, "moonshot"),
        ("openai", "work", "https://api.mistral.ai/v1", None, "mistral"),
        ("openai", "work", "https://generativelanguage.googleapis.com/v1beta/openai", None, "gemini"),
        ("openai", "work", "https://api.x.ai/v1", None, "xai"),
        ("openai", "work", "https://api.together.xyz/v1", None, "together"),
        ("openai", "work", "https://api.fireworks.ai/inference/v1", None, "fireworks"),
        ("openai", "work", "https://api.cerebras.ai/v1", None, "cerebras"),
    ],
)
def test_a_provider_gets_its_row(
    kind: str, provider: str, base_url: str | None, server: str | None, row: str | None
) -> None:
    expected = PLAIN if row is None else SERVERS[row]

    assert expected is quirks.of(kind, provider, base_url, server=server)


@pytest.mark.parametrize("name", SERVERS)
def test_every_row_names_ways_that_exist(name: str) -> None:
    row = SERVERS[name]

    assert row.title
    assert row.control in openai.CONTROLS
    assert row.tool_ids in openai._IDS
    for pattern, _ in row.models:
        assert row.with_model(pattern.strip("^~?"), {}) is not None


def test_a_model_changes_single_fields() -> None:
    row = SERVERS["openai"]

    assert row.with_model("gpt-4o", {}) == row
    assert row.with_model("o3-mini", {}).max_tokens == "max_completion_tokens"
    assert row.with_model("gpt-5.1", {}).efforts == quirks._ALL_EFFORTS
    assert row.with_model("gpt-oss-120b", {}).system_role == "developer"
    assert SERVERS["openrouter"].with_model("~anthropic/claude-sonnet-latest", {}).cache_control
    assert SERVERS["groq"].with_model("qwen/qwen3-32b", {}).think_tags
    assert not SERVERS["groq"].with_model("llama-4", {}).think_tags


def test_a_list_of_models_tells_who_made_the_server() -> None:
    assert PLAIN.with_model("m", {"owned_by": "vllm"}) == SERVERS["vllm"]
    assert PLAIN.with_model("m", {"owned_by": "llamacpp"}) == SERVERS["llama.cpp"]
    assert PLAIN.with_model("m", {"owned_by": "somebody"}) == PLAIN
    assert SERVERS["groq"].with_model("m", {"owned_by": "vllm"}) == SERVERS["groq"]
    assert PLAIN.with_model("o3", {"owned_by": "openai"}) == SERVERS["openai"].with_model("o3", {})


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        ("conversation roles must alternate user/assistant/user/assistant/...", {"user_after_tool": False}),
        ("Unexpected role 'user' after role 'tool'", {"user_after_tool": False}),
        ("Tool call IDs should be alphanumeric strings with length 9!", {"tool_ids": "mistral"}),
        ("Tool call id was toolu_01 but must be a-z, A-Z, 0-9, with a length of 9.", {"tool_ids": "mistral"}),
        ("no", None),
    ],
)
def test_words_that_tell_of_a_servers_ways(words: str, fields: dict[str, Any] | None) -> None:
    assert habit(words) == fields
    if fields is not None:
        learned = PLAIN.with_model("m", {HABITS: fields})
        assert {key: getattr(learned, key) for key in fields} == fields


# --- what each row makes of a request ----------------------------------------------------------------


def sent(server: str, model: str, **fields: Any) -> dict[str, Any]:
    """What a server is sent when a client says this to a model that reasons."""
    body = {"model": "c", "max_tokens": 100, "messages": [{"role": "user", "content": "a"}]} | fields
    known = Terms("p", model, Options(), capabilities=frozenset(["tools", "thinking"]))
    dialect = openai.OpenAI.of("openai", "p", None, server=server)
    found: dict[str, Any] = json.loads(dialect.call(asks.ask(json.dumps(body).encode()), known).body)
    return found


SCHEMA = {
    "type": "object",
    "$defs": {"n": {"type": "integer", "minimum": 1}},
    "properties": {"x": {"$ref": "#/$defs/n"}, "y": {"type": "integer", "minimum": 1}},
    "additionalProperties": False,
}
EFFORT = {"reasoning_effort": "high"}
TEMPLATE = {"chat_template_kwargs": {"enable_thinking": True}}
SWITCH = {"thinking": {"type": "enabled"}}
TWO, THREE = {"temperature", "top_p"}, {"temperature", "top_p", "top_k"}
ALL = {"$ref", "minimum", "additionalProperties"}
STRICT = {"$ref", "additionalProperties"}


@pytest.mark.parametrize(
    ("server", "sampling", "control", "choice", "one_call", "form", "keywords"),
    [
        ("openai", TWO, EFFORT, "required", True, "json_schema", ALL),
        ("vllm", THREE, TEMPLATE, "required", True, "json_schema", ALL),
        ("llama.cpp", THREE, TEMPLATE, "required", True, "json_schema", ALL),
        ("lmstudio", THREE, {}, "required", True, "json_schema", ALL),
        ("groq", TWO, EFFORT, "required", True, "json_schema", STRICT),
        ("deepseek", TWO, SWITCH, "required", True, "json_object", ALL),
        ("moonshot", TWO, SWITCH, "required", True, "json_schema", {"minimum", "additionalProperties"}),
        ("mistral", TWO, {}, "any", True, "json_schema", ALL),
        ("gemini", TWO, EFFORT, "required", False, "json_schema", set()),
        ("xai", TWO, EFFORT, "required", True, "json_schema", ALL),
        ("together", THREE, EFFORT, "required", True, "json_schema", ALL),
        ("fireworks", THREE, EFFORT, "required", True, "json_schema", ALL),
        ("cerebras", TWO, EFFORT, "required", True, "json_schema", STRICT),
    ],
)
def test_what_each_server_is_asked(
    server: str,
    sampling: set[str],
    control: dict[str, Any],
    choice: str,
    one_call: bool,
    form: str,
    keywords: set[str],
) -> None:
    body = sent(
        server,
        "m",
        temperature=1,
        top_p=0.5,
        top_k=3,
        thinking={"type": "adaptive"},
        output_config={"effort": "high", "format": {"type": "json_schema", "schema": SCHEMA}},
        tools=[{"name": "a", "input_schema": SCHEMA, "strict": True}],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
    )
    [tool] = body["tools"]
    controls = ("reasoning_effort", "chat_template_kwargs", "thinking", "reasoning")

    assert sampling == body.keys() & THREE
    assert control == {key: body[key] for key in controls if key in body}
    assert choice == body["tool_choice"]
    assert one_call is ("parallel_tool_calls" in body)
    assert form == body["response_format"]["type"]
    assert keywords == {key for key in ALL if f'"{key}":' in json.dumps(tool["function"]["parameters"])}
    assert tool["function"].keys() == {"name", "description", "parameters"}


@pytest.mark.parametrize(
    ("server", "field"),
    [
        ("openai", None),
        ("openrouter", "reasoning"),
        ("vllm", "reasoning"),
        ("llama.cpp", "reasoning_content"),
        ("deepseek", "reasoning_content"),
        ("moonshot", "reasoning_content"),
        ("groq", None),
    ],
)
def test_p55_what_each_server_gets_back_of_its_reasoning(server: str, field: str | None) -> None:
    signed = {"type": "thinking", "thinking": "hm", "signature": thinking.sign("p", "m")}
    call = {"type": "tool_use", "id": "toolu_1", "name": "a", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "x"}
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": [signed, call]},
        {"role": "user", "content": [result]},
    ]
    said = sent(server, "m", messages=messages, thinking={"type": "adaptive"})["messages"][1]

    assert {"reasoning", "reasoning_content"} & said.keys() == ({field} if field else set())
    assert field is None or said[field] == "hm"
