"""What `run` brings up, and when it does not."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.control import Control, fault, view
from fakes.terminal import Run

from modelproxy.ctl import health, leases, probe, settings
from modelproxy.ctl import run as run_module
from modelproxy.ctl.faults import Fault
from modelproxy.supervisor.paths import Paths

REAL = {"ANTHROPIC_API_KEY": "sk-ant-real", "ANTHROPIC_MODEL": "claude-opus-5-5"}


@pytest.fixture(autouse=True)
def became(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that took our place, which these tests keep; nothing is asked of a proxy that only pretends."""
    found: list[list[str]] = []

    def become(command: list[str]) -> int:
        found.append(list(command))
        return 42

    monkeypatch.setattr(run_module, "become", become)
    monkeypatch.setattr(health, "warnings", lambda view: ["mind the window"])
    monkeypatch.setattr(probe, "sizes", lambda view: (65536, None))
    for name, value in REAL.items():
        monkeypatch.setenv(name, value)
    for name in ("MODELPROXY_RUN", "OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_BASE"):
        monkeypatch.delenv(name, raising=False)
    return found


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., list[str]]:
    """A program that writes its environment down and says whether its proxy is up."""

    def make(name: str = "client", then: str = "exit 7") -> list[str]:
        path = tmp_path / name
        path.write_text(f'#!/bin/sh\nenv > "{tmp_path}/env"\n{then}\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return ["--", str(path)]

    return make


def environment(tmp_path: Path) -> dict[str, str]:
    lines = (tmp_path / "env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def configure(paths: Paths, text: str) -> None:
    paths.config_file.parent.mkdir(parents=True, exist_ok=True)
    paths.config_file.write_text(text)


def test_a_model_is_up_while_the_command_runs(
    run: Run, control: Control, script: Callable[..., list[str]], tmp_path: Path
) -> None:
    """S139: and the caller's own credential stays here."""
    done = run("run", "ollama/codellama", "--port", "3999", *script())
    found = environment(tmp_path)

    assert (done.code, control.proxies, control.stopped) == (7, {}, {"ollama/codellama"})
    assert done.err == "warning: mind the window\n"
    assert found["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:3999"
    assert (found["MODELPROXY_RUN"], found["CLAUDE_CODE_MAX_CONTEXT_TOKENS"]) == ("ollama/codellama", "65536")
    assert found["ANTHROPIC_API_KEY"] == "unused"
    assert "ANTHROPIC_MODEL" not in found


def test_keep_leaves_it_up(run: Run, control: Control, script: Callable[..., list[str]]) -> None:
    assert run("run", "echo/demo", "--keep", *script()).code == 7
    assert list(control.proxies) == ["echo/demo"]


@pytest.mark.parametrize("words", [[], ["--keep"]])
def test_where_another_has_the_port_any_will_do(
    run: Run,
    control: Control,
    script: Callable[..., list[str]],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Quietly; and what is to be said of the project's file is said once."""
    monkeypatch.chdir(tmp_path)
    Path(".modelproxy.toml").write_text('[providers.work]\nkind = "openai"\nbase_url = "http://b"\n')
    control.once["PUT" if words else "POST"] = fault(409, "port_in_use", "Port 3456 is already in use")
    done = run("run", "echo/demo", *words, *script())
    asked = [body.get("port") for method, _, body in control.asked if method in ("PUT", "POST")]

    assert (done.code, asked) == (7, [None, 0])
    assert [line.partition(" is")[0] for line in done.err.splitlines()][1:] == ["warning: mind the window"]
    assert done.err.count("config trust") == 1
    assert environment(tmp_path)["MODELPROXY_RUN"] == "echo/demo"


def test_where_even_that_fails_it_is_loud(
    run: Run, control: Control, became: list[list[str]], script: Callable[..., list[str]]
) -> None:
    """And at once where the port was said, or the trouble is another."""
    for words, code, times in (
        ([], "port_in_use", 2),
        (["--port", "9"], "port_in_use", 1),
        ([], "internal", 1),
    ):
        control.asked.clear()
        control.replies["POST"] = fault(409, code, "it cannot be had")
        done = run("run", "echo/demo", *words, *script())

        assert done.err.startswith("warning: NO PROXY: it cannot be had")
        assert len([one for one in control.asked if one[0] == "POST"]) == times
    assert len(became) == 3


def test_an_agent_has_its_model(
    run: Run, control: Control, paths: Paths, script: Callable[..., list[str]], tmp_path: Path
) -> None:
    """S9, S86: its own entry before the default one; its name goes along."""
    configure(paths, '[models]\ndefault = "echo/other"\n[models.agents]\ncode-reviewer = "echo/demo"\n')
    for agent, model in (("code-reviewer", "echo/demo"), ("somebody", "echo/other")):
        run("run", "--agent", agent, *script())

        assert environment(tmp_path)["MODELPROXY_RUN"] == model
        assert environment(tmp_path)["ANTHROPIC_BASE_URL"].endswith(f"/a/{agent}")


def test_an_agent_is_found_by_a_glob_too(
    run: Run, control: Control, paths: Paths, script: Callable[..., list[str]], tmp_path: Path
) -> None:
    """And nothing is said of a name that is nearly the glob's."""
    configure(paths, '[models.agents]\n"code-*" = "echo/demo"\n')

    assert "note:" not in run("run", "--agent", "code-z", *script()).err
    assert environment(tmp_path)["MODELPROXY_RUN"] == "echo/demo"
    assert environment(tmp_path)["ANTHROPIC_BASE_URL"].endswith("/a/code-z")


def test_an_agent_that_is_nearly_called_like_another_is_told(
    run: Run, control: Control, paths: Paths, became: list[list[str]], script: Callable[..., list[str]]
) -> None:
    """It runs as it is, for an agent without an entry is nothing wrong."""
    configure(paths, '[models.agents]\ncode-reviewer = "echo/demo"\n')

    assert run("run", "--agent", "code-reviwer", *script()).err == (
        'note: the agent "code-reviwer" has no entry; did you mean "code-reviewer"?\n'
    )
    assert run("run", "--agent", "writer", *script()).err == ""
    assert len(became) == 2


def test_a_command_without_dashes_is_told_where_it_stands(run: Run) -> None:
    assert run("run", "ollama/codellama", "claude").err.endswith(
        "hint: the command stands behind --, like proxyctl run ollama/codellama -- claude\n"
    )


@pytest.mark.parametrize("words", [[], ["--agent", "nobody"]])
def test_who_has_no_model_sees_no_change(
    run: Run, paths: Paths, became: list[list[str]], words: list[str], script: Callable[..., list[str]]
) -> None:
    """S138. A file that only has other things in it changes nothing either."""
    configure(paths, '[models]\ndefault = "claude"\n[models.agents]\na = "default"\n')
    command = script()

    assert run("run", *words, *command).code == 42
    assert became == [command[1:]]
    assert not paths.control_socket.exists()


@pytest.mark.parametrize(
    "text",
    [
        '[models]\ndefault = "echo/demo"\n',
        '[models.agents]\na = "claude"\nb = "echo/demo"\n',
        '[front.default]\nrules = [{ agent = "x", to = "echo/demo" }]\n',
    ],
)
def test_mappings_ask_for_the_front_door(paths: Paths, text: str) -> None:
    configure(paths, text)

    assert run_module.meant(paths, run_module.Wish()) == "front"


def test_no_mappings_are_none(paths: Paths) -> None:
    configure(paths, '[models]\nfallback = true\n[aliases]\nlocal = "ollama/x"\n')

    assert not run_module.has_mappings(settings.read(paths))


def test_the_front_door_keeps_the_credential(
    run: Run, control: Control, paths: Paths, script: Callable[..., list[str]], tmp_path: Path
) -> None:
    """What no rule takes is the caller's own request."""
    configure(paths, '[models.agents]\na = "echo/demo"\n')
    assert run("run", "--agent", "claude", "front", *script()).code == 7
    found = environment(tmp_path)

    assert {name: found[name] for name in REAL} == REAL
    assert found["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:3456/a/claude"


def test_the_window_behind_a_front_is_that_of_what_no_rule_takes(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which nobody is asked for while requests may go to Anthropic."""
    asked = []

    def sizes(row: dict[str, Any]) -> tuple[int, None]:
        asked.append(row["port"])
        return 65536, None

    monkeypatch.setattr(probe, "sizes", sizes)
    places = [
        {"name": name, "model": "ollama/x", "port": port} for name, port in (("a", 1), ("b", 2), ("c", None))
    ]
    rows = {said: view("front", targets=places, otherwise=said) for said in ("b", "c", None)}
    windows = {said: run_module.goal_of(paths, row).window for said, row in rows.items()}

    assert (windows, asked) == ({"b": 65536, "c": None, None: None}, [2])


def test_without_a_proxy_it_runs_as_it_is_after_a_loud_line(
    run: Run, control: Control, became: list[list[str]], script: Callable[..., list[str]]
) -> None:
    """S11 (c)."""
    control.replies["POST"] = fault(500, "start_failed", "it did not start", "see its log")
    done = run("run", "echo/demo", *script())

    assert (done.code, len(became)) == (42, 1)
    assert done.err.count("\n") == 1
    assert "NO PROXY: it did not start (see its log)" in done.err
    assert os.environ["ANTHROPIC_API_KEY"] == REAL["ANTHROPIC_API_KEY"]


@pytest.mark.parametrize("by_file", [False, True])
def test_who_wants_no_fallback_gets_none(
    run: Run,
    control: Control,
    paths: Paths,
    became: list[list[str]],
    script: Callable[..., list[str]],
    by_file: bool,
) -> None:
    """Exit code 1, whatever the reason; by flag or in the file."""
    control.replies["POST"] = fault(500, "start_failed", "it did not start")
    configure(paths, "[models]\nfallback = false\n" if by_file else "")
    done = run("run", "echo/demo", *([] if by_file else ["--no-fallback"]), *script())

    assert (done.code, became) == (1, [])
    assert "client was not run" in done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ollama/x"], "stands behind --"),
        (["ollama/x", "--"], "stands behind --"),
        (["nonsense", "--", "sh"], "Invalid model"),
        (["--port", "x", "--", "sh"], "Invalid port"),
        (["--agent", " ", "--", "sh"], "is not the name of an agent"),
        (["--agent", "é", "--", "sh"], "is not the name of an agent"),
        (["a", "b", "--", "sh"], "unexpected extra argument"),
    ],
)
def test_what_makes_no_sense_is_refused(
    run: Run, became: list[list[str]], words: list[str], message: str, paths: Paths
) -> None:
    done = run("run", *words)

    assert (done.code, became) == (2, [])
    assert message in done.err


def test_a_provider_that_is_not_there_is_a_typing_error(
    run: Run, control: Control, became: list[list[str]]
) -> None:
    """The supervisor says it; nobody asked for the agent's own model."""
    control.replies["POST"] = fault(400, "unsupported_provider", 'Unsupported provider "nope"')

    assert (run("run", "nope/x", "--", "sh").code, became) == (2, [])


def test_a_broken_file_is_no_reason_not_to_work(
    run: Run, paths: Paths, became: list[list[str]], script: Callable[..., list[str]]
) -> None:
    configure(paths, "[models\n")
    done = run("run", *script())

    assert (done.code, len(became)) == (42, 1)
    assert "NO PROXY: " in done.err
    assert "config.toml:1" in done.err


def test_inside_another_run_there_is_no_second_layer(
    run: Run,
    control: Control,
    became: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    script: Callable[..., list[str]],
) -> None:
    """S139. Who asks for something else is told."""
    monkeypatch.setenv("MODELPROXY_RUN", "echo/demo")
    done = run("run", "ollama/x", *script())

    assert (done.code, control.asked, len(became)) == (42, [], 1)
    assert "inside proxyctl run already" in done.err
    assert "echo/demo" in done.err


def test_codex_is_told_on_its_command_line(
    run: Run, control: Control, script: Callable[..., list[str]], tmp_path: Path
) -> None:
    """In front of what its user typed, which goes before it."""
    words = script("codex", f'printf "%s\\n" "$@" > "{tmp_path}/words"')
    done = run("run", "echo/demo", "--port", "3999", *words, "exec", "-m", "mine", "hello")
    said = (tmp_path / "words").read_text().splitlines()

    assert (done.code, said[-4:]) == (0, ["exec", "-m", "mine", "hello"])
    assert said[:2] == ["-c", 'model="echo/demo"']
    assert any('base_url = "http://127.0.0.1:3999/v1"' in word for word in said)
    assert environment(tmp_path)["ANTHROPIC_API_KEY"] == REAL["ANTHROPIC_API_KEY"]


def test_codex_without_a_model_runs_as_it_is(
    run: Run, control: Control, paths: Paths, became: list[list[str]], script: Callable[..., list[str]]
) -> None:
    """What it asks for of its own is nowhere behind this front; it sees no change, and is told so."""
    configure(paths, '[models.agents]\na = "echo/demo"\n')
    words = script("codex")
    done = run("run", *words)

    assert (done.code, became) == (42, [words[1:]])
    assert "codex asks for a model of OpenAI's" in done.err
    assert (control.leases, control.proxies) == ({}, {})


def test_codex_on_a_front_by_wish_is_not_run(
    run: Run, control: Control, became: list[list[str]], script: Callable[..., list[str]]
) -> None:
    done = run("run", "front", *script("codex"))

    assert (done.code, became) == (1, [])
    assert "was not run" in done.err


def test_who_goes_to_openai_already_is_told(
    run: Run,
    control: Control,
    monkeypatch: pytest.MonkeyPatch,
    script: Callable[..., list[str]],
    tmp_path: Path,
) -> None:
    """Else a program would go past the model that was asked for, and nobody would notice."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-real")
    done = run("run", "echo/demo", *script("client"))

    assert "note: OPENAI_API_KEY is set" in done.err
    assert environment(tmp_path)["OPENAI_API_KEY"] == "sk-real"
    assert "OPENAI_BASE_URL" not in environment(tmp_path)


def test_a_client_that_would_go_past_behind_a_script_is_told(
    run: Run, control: Control, script: Callable[..., list[str]]
) -> None:
    done = run("run", "echo/demo", *script("client"), "codex")

    assert "starts codex" in done.err
    assert "proxyctl run MODEL -- codex" in done.err


def test_opencode_gets_its_configuration(
    run: Run, control: Control, script: Callable[..., list[str]], tmp_path: Path
) -> None:
    assert run("run", "echo/demo", "--port", "3999", *script("opencode")).err == "warning: mind the window\n"
    found = json.loads(environment(tmp_path)["OPENCODE_CONFIG_CONTENT"])

    assert found["provider"]["modelproxy"]["options"]["baseURL"] == "http://127.0.0.1:3999/v1"


def test_a_way_past_the_front_is_named(
    run: Run, control: Control, monkeypatch: pytest.MonkeyPatch, script: Callable[..., list[str]]
) -> None:
    monkeypatch.setenv("CLAUDE_CODE_USE_VERTEX", "1")

    assert "CLAUDE_CODE_USE_VERTEX is set" in run("run", "anthropic/claude-x", *script()).err


def test_a_command_that_is_not_there_brings_nothing_up(run: Run, control: Control) -> None:
    assert run("run", "echo/demo", "--", "no-such-program").code == 127
    assert control.asked == []


def test_a_provider_of_ones_own_has_its_kind(paths: Paths) -> None:
    configure(paths, '[providers.team]\nkind = "anthropic"\nbase_url = "http://127.0.0.1:9"\n')
    row = {"url": "http://x", "name": "team/claude-x", "model": "team/claude-x", "provider": "team"}

    assert run_module.goal_of(paths, row).passes_on


def test_who_is_impatient_stops_the_waiting_and_keeps_the_exit_code(
    run: Run, control: Control, monkeypatch: pytest.MonkeyPatch, script: Callable[..., list[str]]
) -> None:
    def interrupted(lease: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(leases.Lease, "end", interrupted)
    done = run("run", "echo/demo", *script())

    assert done.code == 7
    assert "still finishes" in done.err


def test_a_refusal_has_one_exit_code() -> None:
    assert run_module.Refusal("daemon_start_failed", "no").exit_code == 1
    assert Fault("daemon_start_failed", "no").exit_code == 3
