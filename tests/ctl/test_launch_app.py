"""`env`, and what stands behind `--`. (`run` and `ask` have files of their own.)"""

from __future__ import annotations

import json
import tomllib

import pytest
from fakes.control import Control, view
from fakes.terminal import Run

from modelproxy.ctl import probe
from modelproxy.supervisor.paths import Paths


@pytest.fixture(autouse=True)
def sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "sizes", lambda view: (65536, 8192))


def test_env_brings_the_proxy_up_and_says_how_it_is_reached(run: Run, control: Control) -> None:
    """S83."""
    done = run("env", "ollama/codellama", "--port", "3999")

    assert list(control.proxies) == ["ollama/codellama"]
    assert "export ANTHROPIC_BASE_URL=http://127.0.0.1:3999\n" in done.out
    assert "export ANTHROPIC_AUTH_TOKEN=unused" in done.out
    assert done.out.startswith("unset ANTHROPIC_API_KEY ")


def test_env_knows_an_agents_model_and_the_front(run: Run, control: Control, paths: Paths) -> None:
    """As `run` does; who has only its own model is told to change nothing."""
    paths.config_file.parent.mkdir(parents=True, exist_ok=True)
    nothing = run("env")
    paths.config_file.write_text('[models.agents]\na = "echo/demo"\n')

    assert (nothing.code, nothing.out) == (0, "")
    assert nothing.err == "note: no agent has a model of ours, so nothing changes\n"
    assert "ANTHROPIC_BASE_URL=http://127.0.0.1:3456/a/a\n" in run("env", "--agent", "a").out
    assert list(control.proxies) == ["echo/demo"]
    run("env")
    assert list(control.proxies) == ["echo/demo", "front"]
    assert run("env", "--agent", "b").err == 'note: the agent "b" uses its own model, so nothing changes\n'


def test_env_says_a_word_for_a_login_that_nobody_needs(
    run: Run, control: Control, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    control.replies["PUT"] = 200, view("front", otherwise="echo/demo")

    assert "export ANTHROPIC_AUTH_TOKEN=unused" in run("env", "front").out


def test_a_question_may_come_on_standard_input(run: Run) -> None:
    assert "or - for what comes on standard input" in run("ask", "echo/demo").err


def test_env_for_others(run: Run, control: Control) -> None:
    found = run("env", "ollama/x", "--for", "aider", "--shell", "json", "--agent", "a").json
    assert found["set"]["ANTHROPIC_API_BASE"] == "http://127.0.0.1:3456/a/a"

    document = json.loads(run("env", "ollama/x", "--for", "opencode").out)
    assert document["model"] == "modelproxy/ollama/x"

    said = run("env", "ollama/x", "--for", "openai", "--agent", "a").out
    assert "export OPENAI_BASE_URL=http://127.0.0.1:3456/a/a/v1" in said


def test_env_for_codex_is_a_part_of_its_configuration(run: Run, control: Control) -> None:
    found = tomllib.loads(run("env", "ollama/x", "--for", "codex").out)

    assert found["model_providers"][found["model_provider"]]["base_url"] == "http://127.0.0.1:3456/v1"
    assert run("env", "ollama/x", "--for", "codex", "--json").json == found


@pytest.mark.parametrize("words", [["--for", "emacs"], ["--shell", "tcsh"], ["--port", "x"], ["--agent", ""]])
def test_env_refuses_what_it_does_not_know(run: Run, control: Control, words: list[str]) -> None:
    assert run("env", "ollama/x", *words).code == 2
    assert control.proxies == {}


def test_json_of_the_command_is_not_ours(run: Run, control: Control) -> None:
    """Errors of ours are for a person."""
    done = run("run", "nonsense", "--", "jq", "--json")

    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")


def test_env_in_json(run: Run, control: Control) -> None:
    """Also where nothing changes, and when it fails."""
    told = run("env", "ollama/x", "--json", "--port", "4000")

    assert told.json["set"]["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:4000"
    assert told.out == run("env", "ollama/x", "--shell", "json").out
    assert run("env", "--json").json == {"set": {}, "unset": []}
    assert run("env", "--json", "--for", "opencode").json == {}
    assert run("env", "--json", "--shell", "fish").json["error"]["code"] == "usage"
    assert run("env", "--json", "x/").json["error"]["code"] == "bad_model_id"
