"""What may be typed where a model is wanted, and what travels with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes.control import Control
from fakes.terminal import Run

from modelproxy.ctl import names, settings
from modelproxy.ctl.faults import Fault
from modelproxy.supervisor import layers, schema
from modelproxy.supervisor.paths import Paths

NOBODY = 'providers.ollama.base_url = "http://127.0.0.1:1"\n'
"""No Ollama of the machine that the tests run on has a say."""


@pytest.fixture(autouse=True)
def folder(paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "here"
    found.mkdir()
    monkeypatch.chdir(found)
    for variable in names._VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    paths.config.mkdir(parents=True)
    paths.config_file.write_text(
        'aliases = { local = "ollama/x", "gpt-*" = "ollama/y" }\nproxies.coder.model = "local"\n' + NOBODY
    )
    return found


def test_the_names_said_twice_are_the_same() -> None:
    variables = {field.env for _, field in layers._with_variables(schema.ROOT, ())}

    assert set(names._VARIABLES) == variables
    assert names._PROJECT_FILE == settings.PROJECT_FILE


@pytest.mark.parametrize("name", ["local", "gpt-5", "coder", "echo/demo"])
def test_a_name_of_the_configuration_is_for_the_supervisor_to_resolve(
    run: Run, control: Control, name: str
) -> None:
    assert run("up", name, "--no-wait").code == 0
    [(_, _, body)] = [one for one in control.asked if one[0] == "PUT"]
    assert body == {"model": name, "wait": False}


@pytest.mark.parametrize("name", ["lokal", "invalid", "ollama", "nope*"])
def test_s105_a_word_that_nothing_has_starts_no_supervisor(run: Run, paths: Paths, name: str) -> None:
    ran = run("up", name, "--json")

    assert ran.code == 2
    assert ran.json["error"]["code"] == "bad_model_id"
    assert "Expected: provider/model-name" in ran.json["error"]["message"]
    assert ran.json["error"]["hint"].startswith(f"Model '{name}' not available. Available models: ")
    assert not paths.control_socket.exists()


@pytest.mark.parametrize(
    ("model", "hint"),
    [
        ("local", "rev is the name of an agent: name its model, local, or say proxyctl agents ensure rev"),
        ("claude", "rev is the name of an agent, which uses its own model, without a proxy"),
    ],
)
@pytest.mark.parametrize("words", [("models", "test"), ("up",)])
def test_an_agents_name_is_no_models(
    run: Run, paths: Paths, words: tuple[str, ...], model: str, hint: str
) -> None:
    """It was taken for a model that Ollama might have."""
    with paths.config_file.open("a") as file:
        file.write(f'[models.agents]\nrev = "{model}"\n')
    error = run(*words, "rev", "--json").json["error"]

    assert (error["code"], error["hint"]) == ("bad_model_id", hint)


def test_a_fallback_may_be_whatever_up_takes(run: Run, control: Control) -> None:
    said = ["local", "gpt-5", "coder", "anthropic", "ollama/z"]
    words = [word for one in said for word in ("--fallback", one)]
    assert run("up", "echo/demo", "--no-wait", *words).code == 0
    [body] = [body for method, _, body in control.asked if method == "PUT"]
    assert body["fallback"] == said


def test_the_front_door_is_what_may_have_been_meant(run: Run, paths: Paths) -> None:
    assert "Available models: front" in run("up", "fronts", "--json").json["error"]["hint"]
    assert "front" not in run("up", "coder2", "--json").json["error"]["hint"]


@pytest.mark.parametrize(
    ("name", "nearest"), [("lokal", "local"), ("antropic", "anthropic"), ("codr", "coder")]
)
def test_a_fallback_that_is_none_is_answered_with_the_nearest(
    run: Run, paths: Paths, name: str, nearest: str
) -> None:
    ran = run("up", "echo/demo", "--fallback", name, "--json")

    assert (ran.code, ran.json["error"]["code"]) == (2, "bad_model_id")
    assert f"Available models: {nearest}," in ran.json["error"]["hint"]
    assert not paths.control_socket.exists()


@pytest.mark.parametrize("word", ["front", "coder"])
def test_a_glob_takes_no_word_and_no_proxy_away(paths: Paths, word: str) -> None:
    """`down front` takes down what `up front` has brought up."""
    paths.config_file.write_text('aliases = { "*" = "ollama/x" }\nproxies.coder.model = "ollama/y"\n')

    assert names.model(paths, word) == names.target(paths, word) == word


def test_the_front_door_needs_no_table(run: Run, control: Control) -> None:
    for said in ("front", "front/work"):
        assert run("up", said, "--no-wait").code == 0
    bodies = [body["model"] for method, _, body in control.asked if method == "PUT"]
    assert bodies == ["front", "front/work"]


def test_a_name_in_a_file_that_cannot_be_read(run: Run, paths: Paths) -> None:
    """It may well stand there: the file is what is wrong, and not the name."""
    paths.config_file.write_text("a = = 1")
    ran = run("up", "coder", "--json")

    assert (ran.code, ran.json["error"]["code"]) == (1, "bad_config")
    assert f"{paths.config_file}:1: " in ran.json["error"]["message"]


def test_what_the_folder_says_travels_with_up(run: Run, control: Control, folder: Path) -> None:
    (folder / ".modelproxy.toml").write_text(
        'proxies.mine.model = "local"\nproviders.ollama.base_url = "http://evil"'
    )
    ran = run("up", "mine", "--no-wait")

    trusting = run("up", "mine", "--no-wait", "--trust-project")

    assert "[providers.ollama] does not count until: proxyctl config trust" in ran.err
    assert trusting.err == ""
    first, second = [body["overlay"] for method, _, body in control.asked if method == "PUT"]
    assert first == {"proxies": {"mine": {"model": "local"}}}
    assert second["providers"] == {"ollama": {"base_url": "http://evil"}}  # this once (S134)


TEAM = """\
[providers.team]
kind = "openai"
base_url = "http://127.0.0.1:1/v1"
[aliases]
ours = "team/m"
"""


@pytest.mark.parametrize("said", [["ours"], ["team/m"], ["echo/demo", "--fallback", "team/m"]])
def test_s134_who_wants_what_does_not_count_is_told_of_the_trust(
    run: Run, control: Control, folder: Path, said: list[str]
) -> None:
    (folder / ".modelproxy.toml").write_text(TEAM)
    ran = run("up", *said, "--no-wait", "--json")
    trusting = run("up", *said, "--no-wait", "--trust-project")

    assert ran.code == 1
    assert "do not count until: proxyctl config trust" in ran.json["error"]["message"]
    assert (trusting.code, trusting.err) == (0, "")
    assert run("up", "echo/demo", "--no-wait").code == 0


def test_a_proxy_is_found_by_the_alias_that_no_longer_counts(paths: Paths, folder: Path) -> None:
    """It came up while the project was trusted."""
    (folder / ".modelproxy.toml").write_text(TEAM)

    assert names.target(paths, "ours") == "team/m"


@pytest.mark.parametrize(
    ("text", "meant"), [("local", "ollama/x"), ("ollama/y", "ollama/y"), ("3457", "3457"), ("who", "who")]
)
def test_what_a_command_about_a_proxy_means(paths: Paths, text: str, meant: str) -> None:
    """A port is no name, whatever glob it fits."""
    paths.config_file.write_text('aliases = { local = "ollama/x", "3*" = "ollama/z" }')

    assert names.target(paths, text) == meant


def test_who_does_not_know_the_form_is_told_how_to_find_a_model(
    run: Run, control: Control, paths: Paths
) -> None:
    """And which provider could not be asked."""
    paths.config_file.write_text(NOBODY)
    ran = run("up", "qwen3-coder:30b")

    assert ran.code == 2
    assert ran.err.endswith(
        "hint: for example ollama/qwen3-coder:30b; ollama (http://127.0.0.1:1) did not answer: "
        "Connection refused\n"
    )
    assert control.asked == []


def test_the_one_proxy_of_a_model_is_meant_by_its_bare_name(paths: Paths) -> None:
    """What is wanted goes before what has been there; of two of the same rank none is chosen."""

    def known(*records: tuple[str, str, bool]) -> None:
        proxies = [
            {"name": name, "wanted": wanted, "spec": {"model_id": model}} for name, model, wanted in records
        ]
        paths.state_file.write_text(json.dumps({"proxies": proxies}))

    known(("ollama/m", "ollama/m", True), ("work/m", "work/m", False), ("z", "work/z", True))
    assert names.target(paths, "m") == "ollama/m"
    assert names.target(paths, "z") == "z"  # a proxy's own name
    assert names.target(paths, "ollama") == "ollama"
    known(("ollama/m", "ollama/m", True), ("work/m", "work/m", True))
    with pytest.raises(Fault) as refused:
        names.target(paths, "m")
    assert (refused.value.code, refused.value.message) == (
        "ambiguous_name",
        '"m" may be ollama/m or work/m',
    )
