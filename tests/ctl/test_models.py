"""Names, providers and lists of models (S15, S25, S26, S93, S104, S105, S112)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from fakes.control import Control, view
from fakes.hearing import hearing
from fakes.terminal import Run

from modelproxy.ctl.keys import set_key
from modelproxy.supervisor.paths import Paths
from modelproxy.supervisor.schema import KINDS

PAGES: dict[str, tuple[int, Any]] = {
    "/api/tags": (200, {"models": [{"name": "codellama:7b", "model": "codellama:7b"}, {"name": "qwen3:8b"}]}),
    "/v1/models": (
        200,
        {
            "data": [
                {"id": "big/one", "name": "The Big One", "context_length": 131072}
                | {"pricing": {"prompt": "0.000001", "completion": "0.000002"}},
                {"id": "small/one:free", "pricing": {"prompt": "0", "completion": "0"}},
                {"no": "id"},
                5,
            ]
        },
    ),
    "/broken/models": (200, []),
    "/v1/messages": (200, {"type": "message", "content": []}),
}


class Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.heard.append((self.path, dict(self.headers)))  # type: ignore[attr-defined]
        status, page = PAGES.get(self.path, (401, None))
        body = json.dumps(page).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Any]:
    with hearing(Pages) as found:
        yield found


@pytest.fixture
def file(paths: Paths, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for variable in ("OPENROUTER_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    paths.config.mkdir(parents=True)
    url = f"http://127.0.0.1:{server.server_port}"
    paths.config_file.write_text(f"""
aliases = {{ local = "ollama/qwen3:8b", "claude-*" = "ollama/codellama:7b" }}
proxies.coder.model = "local"
[providers.ollama]
base_url = "{url}"
[providers.openrouter]
base_url = "{url}/v1"
api_key = "sk-or-secret-1234"
headers = {{ "x-team" = "blue" }}
""")
    return paths.config_file


# --- names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "resolved", "source"),
    [
        ("ollama/any", "ollama/any", "exact"),
        ("local", "ollama/qwen3:8b", "config"),
        ("claude-4-sonnet", "ollama/codellama:7b", "config"),
        ("coder", "ollama/qwen3:8b", "config"),
    ],
)
def test_s104_what_a_name_means(run: Run, file: Path, name: str, resolved: str, source: str) -> None:
    answer = run("models", "resolve", name, "--json").json

    assert (answer["requested"], answer["resolved"], answer["source"]) == (name, resolved, source)


def test_s105_s112_a_name_that_means_nothing(
    run: Run, paths: Paths, control: Control, tmp_path: Path
) -> None:
    """Without any alias none is known; what runs is told."""
    paths.config.mkdir(parents=True)
    # Else it is asked of an Ollama that the machine may have.
    paths.config_file.write_text('[providers.ollama]\nbase_url = "http://127.0.0.1:1"\n')
    control.proxies = {"echo/demo": view("echo/demo")}
    ran = run("models", "resolve", "claude-4-sonnet", "--json")

    assert ran.code == 1
    assert (ran.json["resolved"], ran.json["source"]) == (None, None)
    assert ran.json["error"]["message"] == (
        "Model 'claude-4-sonnet' not available. Available models: echo/demo"
    )
    assert run("models", "resolve", "claude-4-sonnet").code == 1


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("claude", '"claude" is an agent\'s own model, without a proxy', "anthropic/MODEL"),
        ("olama/x", 'Unsupported provider "olama"; did you mean "ollama"?', "[providers.olama]"),
        ("lokal", "Model 'lokal' not available. Available models: local, ", "an alias, or a proxy"),
        ("qwen3", "Model 'qwen3' not available. Available models: ollama/qwen3:8b, ", "an alias, or a proxy"),
        ("reviewer", "Model 'reviewer' not available.", "proxyctl agents resolve reviewer"),
    ],
)
def test_s105_what_may_have_been_meant(run: Run, file: Path, name: str, message: str, hint: str) -> None:
    file.write_text(file.read_text() + '[models.agents]\nreviewer = "local"\n')
    error = run("models", "resolve", name, "--json").json["error"]

    assert error["message"].startswith(message)
    assert hint in error["hint"]


def test_what_is_no_word_is_not_searched_for(run: Run, file: Path, server: Any) -> None:
    for name in ("", "a b", "x" * 300, "\x1b[31m"):
        assert run("models", "resolve", name).code == 1
    assert server.heard == []


# --- providers --------------------------------------------------------------------------------------------


def test_s15_s25_providers_with_masked_keys(run: Run, file: Path, paths: Paths) -> None:
    rows = {row["name"]: row for row in run("models", "providers", "--json").json}
    one = run("models", "providers", "openrouter", "--json")

    assert {"ollama", "openrouter", "openai", "anthropic", "remote"} <= set(rows)
    assert (one.json["key"], one.json["key_source"], one.json["configured"]) == (
        "***1234",
        "config.toml",
        True,
    )
    assert one.json["headers"] == ["x-team"]
    for shown in (one, run("models", "providers"), run("models", "providers", "openrouter")):
        assert "sk-or-secret" not in shown.out
        assert "blue" not in shown.out


def test_providers_for_people(run: Run, file: Path) -> None:
    """In columns; of one only what there is to say, as it would stand in the file."""
    rows = run("models", "providers").out.splitlines()

    assert {row[:12].split()[0] for row in rows} >= {"echo", "openrouter"}
    assert {row[12:].split()[0] for row in rows} <= {*KINDS, "remote"}
    one = run("models", "providers", "ollama").out
    assert 'kind = "ollama"\n' in one
    assert "configured = true\n" in one
    assert "None" not in one
    assert "picker_alias" not in one


def test_where_a_key_comes_from(run: Run, file: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order in which it is looked for."""
    set_key(paths.keys_file, "openai", "sk-openai-12345678")
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-env-123456789")

    assert (
        run("models", "providers", "openrouter", "--json").json["key_source"] == "variable OPENROUTER_API_KEY"
    )
    assert run("models", "providers", "openai", "--json").json["key_source"] == "keys.toml"


def test_a_source_that_gives_no_key_is_not_taken_for_one(run: Run, file: Path, paths: Paths) -> None:
    """It was listed as a key, with the complaint for its source."""
    paths.keys_file.write_text("openai = sk")
    paths.keys_file.chmod(0o600)
    one = run("models", "providers", "openai", "--json").json
    [line] = [row for row in run("models", "providers").out.splitlines() if row.startswith("openai")]

    assert (one["key"], one["key_source"]) == (None, None)
    assert one["key_trouble"] == f"{paths.keys_file}:1: not TOML"
    assert line.endswith(f"no key: {paths.keys_file}:1: not TOML")


def test_s26_a_provider_that_is_not_there(run: Run, file: Path) -> None:
    ran = run("models", "providers", "olama", "--json")

    assert ran.code == 2
    assert ran.json["error"]["message"] == 'Unsupported provider "olama"; did you mean "ollama"?'
    assert ran.json["error"]["hint"] == (
        "supported: anthropic, echo, ollama, openai, openrouter, remote/NAME; "
        f"others come from a table [providers.olama] in {file}"
    )


# --- lists ------------------------------------------------------------------------------------------------


def test_s93_lists_come_from_the_providers(run: Run, file: Path, server: Any) -> None:
    rows = run("models", "list", "--json").json

    assert [row["id"] for row in rows] == [
        "ollama/codellama:7b",
        "ollama/qwen3:8b",
        "openrouter/big/one",
        "openrouter/small/one:free",
    ]
    assert (rows[2]["display_name"], rows[2]["context_window"], rows[2]["free"]) == (
        "The Big One",
        131072,
        False,
    )
    [asked] = [headers for path, headers in server.heard if path == "/v1/models"]
    assert (asked["Authorization"], asked["x-team"]) == ("Bearer sk-or-secret-1234", "blue")


def test_s93_one_provider_free_ones_and_a_search(run: Run, file: Path) -> None:
    free = run("models", "list", "--provider", "openrouter", "--free", "--json").json

    assert [row["id"] for row in free] == ["openrouter/small/one:free"]
    assert run("models", "search", "BIG", "one").out == "openrouter/big/one  131072 tokens\n"


def test_who_does_not_answer_costs_a_warning_and_not_the_list(run: Run, file: Path) -> None:
    text = file.read_text()
    file.write_text(text.replace('/v1"', '/broken"'))
    ran = run("models", "list")

    assert ran.code == 0
    assert ran.out.splitlines()[0].startswith("ollama/codellama:7b")
    assert ran.err.startswith("warning: openrouter (http://127.0.0.1:")
    file.write_text(text.replace('/v1"', '/nowhere"'))
    alone = run("models", "list", "--provider", "openrouter", "--json")
    assert (alone.code, alone.json["error"]["code"]) == (1, "provider_unreachable")
    assert "has no list for us: status 401; it does not take the key" in alone.json["error"]["message"]
    file.write_text(file.read_text().replace('api_key = "sk-or-secret-1234"', ""))
    assert "status 401; it wants a key: proxyctl keys set openrouter" in run("models", "list").err


@pytest.mark.parametrize(
    ("name", "resolved", "source"),
    [("front", "front/default", "exact"), ("front/work", "front/work", "config")],
)
def test_the_front_door_is_no_model_but_is_there(
    run: Run, file: Path, control: Control, name: str, resolved: str, source: str
) -> None:
    """Who made it, and its port once it is up."""
    file.write_text(file.read_text() + '\n[front.work]\notherwise = "local"\n')
    leads = "local" if name == "front/work" else "anthropic"
    asleep = run("models", "resolve", name, "--json").json
    control.proxies[name] = view(name, port=3460, url="http://127.0.0.1:3460")
    up = run("models", "resolve", name, "--json").json

    known = {"requested": name, "resolved": resolved, "source": source, "proxy": name, "otherwise": leads}
    assert asleep == {**known, "port": None}
    assert up == {**known, "port": 3460}
    assert run("models", "resolve", name).out == (
        f"{name}  the front door  ({source}; what no rule takes goes to {leads}; up on port 3460)\n"
    )
    control.proxies.clear()
    assert run("models", "resolve", name).out.endswith(f"not up: proxyctl up {name})\n")


# --- refresh ----------------------------------------------------------------------------------------------


def test_a_refresh_looks_at_providers_and_at_proxies_that_are_awake(
    run: Run, file: Path, control: Control, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that sleeps is not woken for it, and a front has nothing to look at."""
    seen = {"healthy": False, "upstream": {"detail": "Ollama has no model x"}}
    monkeypatch.setitem(PAGES, "/health", (503, seen))
    awake = view("ollama/x", port=server.server_port)
    control.proxies = {
        "ollama/x": awake,
        "ollama/asleep": view("ollama/asleep", port=server.server_port, pid=None),
        "front": view("front", port=server.server_port, provider="front"),
    }
    found = run("models", "refresh", "--json").json

    assert found["providers"] == [
        {"provider": "ollama", "models": 2},
        {"provider": "openrouter", "models": 2},
    ]
    assert found["proxies"] == [
        {"name": "ollama/x", "model": "ollama/x", "ok": False, "detail": "Ollama has no model x"}
    ]
    assert [path for path, _ in server.heard].count("/health") == 1
    assert "ollama/x    degraded: Ollama has no model x" in run("models", "refresh").out
    assert "ollama      2 models\n" in run("models", "refresh").out
    monkeypatch.setitem(PAGES, "/api/tags", (200, {"models": [{"name": "codellama:7b"}]}))
    assert "ollama      1 model\n" in run("models", "refresh").out


# --- test -------------------------------------------------------------------------------------------------


def test_s93_a_real_request_through_the_proxy(run: Run, file: Path, control: Control, server: Any) -> None:
    """What was brought up for it goes again."""
    row = view("ollama/x", port=server.server_port)
    control.replies["PUT"] = 200, row
    ran = run("models", "test", "ollama/x", "--json")

    assert ran.json["ok"]
    assert ran.json["latency_ms"] >= 0
    assert [path for path, _ in server.heard] == ["/v1/messages"]
    assert "DELETE /v1/proxies/ollama%2Fx" in control.paths_asked
    control.proxies = {"ollama/x": row}
    before = len(control.asked)
    assert run("models", "test", "ollama/x").out.startswith("ollama/x  ok  ")
    assert "DELETE" not in {method for method, _, _ in control.asked[before:]}


def test_s93_an_error_is_told_in_its_own_words(
    run: Run, file: Path, control: Control, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = {"type": "not_found_error", "message": "no such model: ollama pull x"}
    monkeypatch.setitem(PAGES, "/v1/messages", (404, {"type": "error", "error": error}))
    control.replies["PUT"] = 200, view("ollama/x", port=server.server_port)
    ran = run("models", "test", "ollama/x", "--json")

    assert (ran.code, ran.json["ok"], ran.json["status"], ran.json["error"]) == (1, False, 404, error)
    assert "not_found_error: no such model: ollama pull x" in run("models", "test", "ollama/x").err


def test_the_callers_own_credential_is_tried_with_anthropic_only(
    run: Run, file: Path, control: Control, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy without a key of its own lives by it."""
    for variable in ("ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-mine")
    for name in ("anthropic/x", "ollama/x"):
        control.proxies[name] = view(name, port=server.server_port)
        control.replies["PUT"] = 200, control.proxies[name] | {"reused": True}
        assert run("models", "test", name).code == 0

    assert [headers.get("x-api-key") for _, headers in server.heard] == ["sk-ant-mine", None]
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    error = {"type": "authentication_error", "message": "x-api-key header is required"}
    monkeypatch.setitem(PAGES, "/v1/messages", (401, {"type": "error", "error": error}))
    control.replies["PUT"] = 200, control.proxies["anthropic/x"] | {"reused": True}
    assert "hint: this shell has no credential" in run("models", "test", "anthropic/x").err
    assert "ANTHROPIC_API_KEY" in run("models", "test", "anthropic/x", "--json").json["hint"]


def test_a_front_door_has_no_model_to_try(run: Run, file: Path, control: Control) -> None:
    done = run("models", "test", "front")

    assert done.code == 2
    assert "proxyctl ask front --model NAME" in done.err
    assert not control.asked


def test_s15_another_modelproxy_is_a_provider_by_its_name(run: Run, file: Path) -> None:
    with file.open("a") as more:
        more.write('\n[remotes.office]\nurl = "http://127.0.0.1:9"\napi_key = "mp-secret-123456"\n')
    rows = {row["name"]: row for row in run("models", "providers", "--json").json}
    one, known = (
        rows["remote/office"],
        run("models", "resolve", "remote/office/ollama/codellama", "--json").json,
    )
    misspelt = run("models", "resolve", "remote/ofice/ollama/codellama")

    assert "remote" not in rows
    assert (one["kind"], one["base_url"], one["configured"]) == ("remote", "http://127.0.0.1:9", True)
    assert (one["key"], one["key_source"]) == ("***3456", "config.toml")
    assert (known["resolved"], known["source"]) == ("remote/office/ollama/codellama", "exact")
    assert misspelt.code == 2
    assert misspelt.err.splitlines()[0] == 'error: There is no table [remotes.ofice]; did you mean "office"?'
