"""Which server a provider is taken for, and what its models change."""

from __future__ import annotations

from typing import Any

import pytest

from modelproxy.worker.dialects import openai, quirks
from modelproxy.worker.dialects.quirks import HABITS, PLAIN, SERVERS, habit


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


def test_a_list_of_models_tells_who_made_the_server() -> None:
    assert PLAIN.with_model("m", {"owned_by": "vllm"}) == SERVERS["vllm"]
    assert PLAIN.with_model("m", {"owned_by": "llamacpp"}) == SERVERS["llama.cpp"]
    assert PLAIN.with_model("m", {"owned_by": "somebody"}) == PLAIN
    assert SERVERS["groq"].with_model("m", {"owned_by": "vllm"}) == SERVERS["groq"]


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
