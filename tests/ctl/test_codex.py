"""What codex is told on its command line and in its file."""

from __future__ import annotations

import tomllib
from typing import Any

import attrs
import pytest

from modelproxy.ctl import codex, environment
from modelproxy.ctl.environment import Goal

URL = "http://127.0.0.1:3456"
OLLAMA = Goal(URL, "ollama/codellama", "ollama/codellama", window=65536)
FRONT = Goal(URL, "front", "front", passes_on=True, is_front=True)
TOKEN = {environment.OWN_TOKEN: "mp-secret"}
KEY = {"ANTHROPIC_API_KEY": "sk-ant-real"}


def provider(goal: Goal, present: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = codex.config(goal, present)["model_providers"]["modelproxy"]
    return found


def test_one_model_is_its_model() -> None:
    """With its window, or it would compact too late."""
    assert codex.config(OLLAMA, {}) == {
        "model": "ollama/codellama",
        "model_provider": "modelproxy",
        "model_context_window": 65536,
        "model_providers": {
            "modelproxy": {"name": "modelproxy", "base_url": f"{URL}/v1", "wire_api": "responses"}
        },
    }
    assert "model_context_window" not in codex.config(attrs.evolve(OLLAMA, window=None), {})


def test_an_agent_stands_in_the_address() -> None:
    assert provider(attrs.evolve(OLLAMA, agent="a b"), {})["base_url"] == f"{URL}/a/a%20b/v1"


@pytest.mark.parametrize(
    ("goal", "present", "key", "beside"),
    [
        (OLLAMA, KEY, None, None),
        (OLLAMA, TOKEN, "MODELPROXY_TOKEN", None),
        (attrs.evolve(OLLAMA, token_required=True), {}, "MODELPROXY_TOKEN", None),
        (FRONT, {}, None, None),
        (FRONT, KEY, "ANTHROPIC_API_KEY", None),
        (FRONT, KEY | {"ANTHROPIC_AUTH_TOKEN": "real"}, "ANTHROPIC_AUTH_TOKEN", None),
        (FRONT, {"ANTHROPIC_API_KEY": environment.TOKEN}, None, None),
        (FRONT, KEY | TOKEN, "ANTHROPIC_API_KEY", {"x-proxy-token": "MODELPROXY_TOKEN"}),
        (FRONT, TOKEN, "MODELPROXY_TOKEN", None),
    ],
)
def test_credentials_are_named_and_never_said(
    goal: Goal, present: dict[str, str], key: str | None, beside: dict[str, str] | None
) -> None:
    """It looks the variables up itself. Anthropic's goes along only where the request may go there."""
    found = provider(goal, present)

    assert (found.get("env_key"), found.get("env_http_headers")) == (key, beside)
    assert not any(value in str(codex.config(goal, present)) for value in present.values())


def test_behind_a_front_it_asks_for_what_it_likes() -> None:
    assert "model" not in codex.config(FRONT, {})


@pytest.mark.parametrize("model", ["ollama/codellama", 'a"b\\c', "模型/😀"])
def test_file_and_flags_say_the_same(model: str) -> None:
    """Both are TOML."""
    found = codex.config(attrs.evolve(OLLAMA, model=model), KEY | TOKEN)
    words = codex.flags(found)

    assert tomllib.loads(codex.toml(found)) == found
    assert words[::2] == ["-c"] * (len(words) // 2)
    assert tomllib.loads("\n".join(words[1::2])) == found


@pytest.mark.parametrize(
    ("goal", "words", "served"),
    [
        (OLLAMA, [], True),
        (FRONT, ["exec", "hello"], False),
        (FRONT, ["exec", "-m", "ollama/codellama"], True),
        (FRONT, ["--model=x"], True),
        (FRONT, ["-c", 'model="x"'], True),
        (FRONT, ["-c", "model_reasoning_effort=high"], False),
        (attrs.evolve(FRONT, stays_here=True), [], True),
    ],
)
def test_its_own_model_is_nowhere_behind_a_front_that_leads_to_anthropic(
    goal: Goal, words: list[str], served: bool
) -> None:
    assert codex.is_served(goal, ["codex", *words]) is served
