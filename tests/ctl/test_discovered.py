"""A bare name in the lists of the providers: once, several times, nowhere, and when nobody may be asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.control import Control
from fakes.terminal import Run
from fakes.upstream import Reply, Upstream

from modelproxy.ctl import discovered
from modelproxy.supervisor.paths import Paths

ROWS = [
    {"provider": provider, "name": name}
    for provider, name in (
        ("ollama", "codellama:latest"),
        ("ollama", "qwen3:8b"),
        ("ollama", "twin:latest"),
        ("work", "twin"),
        ("work", "tagged:latest"),
        ("openrouter", "acme/solo"),
    )
]


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("codellama", ["ollama/codellama"]),
        ("codellama:latest", ["ollama/codellama:latest"]),
        ("qwen3:8b", ["ollama/qwen3:8b"]),
        ("twin", ["ollama/twin", "work/twin"]),
        ("tagged", []),
        ("solo", []),
        ("qwen3", []),
        ("Codellama", []),
    ],
)
def test_only_the_very_name_is_it(word: str, found: list[str]) -> None:
    """Ollama's latest goes without saying, nobody else's; a vendor's model has its vendor in its name."""
    assert discovered.matches(word, ROWS, {"ollama"}) == found


@pytest.mark.parametrize("word", ["", "a/b", "gpt-*", "q?", "two words", "a\x1bb", "ollama", "x" * 201])
def test_what_no_provider_could_list_is_not_asked_for(word: str) -> None:
    assert not discovered.is_name(word, {"ollama"})
    assert discovered.is_name("qwen3-coder:30b", {"ollama"})


# --- the commands -----------------------------------------------------------------------------------------


@pytest.fixture
def ollama() -> Iterator[Upstream]:
    with Upstream() as far:
        listed = [{"name": row["name"]} for row in ROWS if row["provider"] == "ollama"]
        far.on("/api/tags", Reply(body=json.dumps({"models": listed}).encode()))
        yield far


@pytest.fixture
def work() -> Iterator[Upstream]:
    with Upstream() as far:
        far.on("/v1/models", Reply(body=b'{"data":[{"id":"twin"},{"id":"big-one"},{"id":"acme/solo"}]}'))
        yield far


@pytest.fixture(autouse=True)
def file(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ollama: Upstream, work: Upstream
) -> Path:
    monkeypatch.chdir(tmp_path)
    for variable in ("OPENROUTER_API_KEY", "OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    paths.config.mkdir(parents=True)
    paths.config_file.write_text(f"""
aliases = {{ local = "ollama/x", twin2 = "work/twin", "gpt-*" = "work/big-one", "big-one" = "ollama/y" }}
proxies.coder.model = "local"
models.agents.reviewer = "local"
[providers.ollama]
base_url = "{ollama.url}"
[providers.work]
kind = "openai"
base_url = "{work.url}/v1"
""")
    return paths.config_file


def test_a_name_that_one_provider_lists_is_its_model(run: Run) -> None:
    assert run("models", "resolve", "codellama", "--json").json == {
        "requested": "codellama",
        "resolved": "ollama/codellama",
        "source": "provider",
        "provider": "ollama",
    }
    assert run("models", "resolve", "qwen3:8b").out == (
        "qwen3:8b  ollama/qwen3:8b  (provider: in the list of ollama)\n"
    )


def test_a_name_that_another_modelproxy_lists_comes_from_a_server(
    run: Run, file: Path, work: Upstream
) -> None:
    file.write_text(f'remotes.office.url = "{work.url}"\n')
    assert run("models", "resolve", "big-one", "--json").json == {
        "requested": "big-one",
        "resolved": "remote/office/big-one",
        "source": "server",
        "provider": "remote/office",
    }


def test_the_supervisor_hears_the_full_name_only(run: Run, control: Control) -> None:
    ran = run("up", "codellama", "--no-wait", "--json", "--fallback", "qwen3:8b")

    assert ran.err.splitlines() == [
        "note: codellama is ollama/codellama, discovered in the list of ollama",
        "note: qwen3:8b is ollama/qwen3:8b, discovered in the list of ollama",
    ]
    [(_, path, body)] = [one for one in control.asked if one[0] == "PUT"]
    assert path == "/v1/proxies/ollama%2Fcodellama?shell=1"
    assert body == {"model": "ollama/codellama", "wait": False, "fallback": ["ollama/qwen3:8b"]}


def test_an_agents_entry_says_who_has_the_model(run: Run, file: Path) -> None:
    assert run("agents", "set", "writer", "codellama").out == "writer uses ollama/codellama\n"
    assert 'writer = "ollama/codellama"' in file.read_text()
    before = file.read_text()
    assert run("agents", "set", "writer", "codelama", "--json").json["error"]["code"] == "bad_model_id"
    assert file.read_text() == before


def test_of_several_none_is_chosen(run: Run, control: Control) -> None:
    for words in (("models", "resolve", "twin"), ("up", "twin"), ("agents", "set", "writer", "twin")):
        ran = run(*words)

        assert (ran.code, ran.out) == (2, "")
        assert ran.err == (
            'error: "twin" may be ollama/twin or work/twin\nhint: say which one, for example ollama/twin\n'
        )
    assert control.asked == []


def test_a_name_that_nobody_has_is_answered_with_the_nearest_of_all(run: Run, work: Upstream) -> None:
    assert "Available models: work/acme/solo, " in run("up", "solo").err
    assert "Available models: ollama/codellama:latest, " in run("models", "resolve", "codelama").err
    assert "Available models: local, " in run("up", "lokal").err
    work.on("/v1/models", Reply(status=503))
    told = f"; work ({work.url}/v1) has no list for us: status 503\n"
    assert run("up", "solo").err.endswith(told)
    assert run("models", "resolve", "solo").err.endswith(told)


def test_who_does_not_answer_keeps_nothing_of_the_others_back(run: Run, work: Upstream) -> None:
    work.on("/v1/models", Reply(hang=True))
    ran = run("up", "codelama")

    assert "Available models: ollama/codellama:latest, " in ran.err
    assert ran.err.endswith(f"; work ({work.url}/v1) did not answer: nothing within 3 s\n")


def test_who_is_not_there_makes_a_name_no_less_certain(run: Run, work: Upstream) -> None:
    work.on("/v1/models", Reply(status=503))

    assert run("models", "resolve", "twin").out == "twin  ollama/twin  (provider: in the list of ollama)\n"


@pytest.mark.parametrize(
    "words",
    [
        *(("up", name, "--no-wait") for name in ("local", "gpt-5", "big-one", "coder", "front", "work/any")),
        ("up", "codellama", "--base-url", "http://127.0.0.1:1"),
        *(("models", "resolve", name) for name in ("big-one", "claude", "reviewer", "front", "nope/x")),
        ("agents", "set", "writer", "claude"),
        *((command, "codellama") for command in ("down", "restart", "why", "logs")),
    ],
)
def test_no_provider_is_asked_for_what_is_configured_or_there(
    run: Run, control: Control, ollama: Upstream, work: Upstream, words: tuple[str, ...]
) -> None:
    """Nor with an address of one's own, whose list is another."""
    ran = run(*words)

    assert ollama.requests == work.requests == []
    assert "internal" not in ran.err
    if "--base-url" in words:
        assert ran.err.endswith("; with --base-url say the provider too, like openai/codellama\n")
