"""Which model an agent uses: the answers that launchers rely on (S1, S77, S86, S141)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes.control import Control, fault, view
from fakes.terminal import Run

from modelproxy.supervisor.paths import Paths

FILE = """\
# mine
default_port = 34990
aliases = { local = "ollama/qwen3" }
[proxies.coder]
model = "local"
port = 34999
[models.agents]
code-reviewer = "ollama/codellama" # the good one
own = "claude"
also-own = "default"
by-alias = "local"
by-proxy = "coder"
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for variable in ("MODELPROXY_DEFAULT_PORT", "MODELPROXY_MODEL", "MODELPROXY_FALLBACK"):
        monkeypatch.delenv(variable, raising=False)
    return folder


@pytest.fixture
def file(paths: Paths) -> Path:
    paths.config.mkdir(parents=True)
    paths.config_file.write_text(FILE)
    return paths.config_file


# --- resolve: starts nothing ------------------------------------------------------------------------------


def test_s1_s141_a_mapped_agent(run: Run, file: Path, paths: Paths) -> None:
    """Also without a supervisor: then with the port that `up` would take."""
    ran = run("agents", "resolve", "code-reviewer", "--json")

    assert (ran.code, ran.err) == (0, "")
    assert ran.json == {
        "useProxy": True,
        "agent": "code-reviewer",
        "model": "ollama/codellama",
        "provider": "ollama",
        "proxyUrl": "http://127.0.0.1:34990",
        "proxy": "ollama/codellama",
        "banner": "code-reviewer uses codellama of ollama, through http://127.0.0.1:34990",
        "running": False,
    }
    assert not paths.control_socket.exists()


@pytest.mark.parametrize("agent", ["own", "also-own", "nobody"])
def test_s1_s141_an_agent_with_its_own_model(run: Run, file: Path, agent: str) -> None:
    assert run("agents", "resolve", agent, "--json").json == {
        "useProxy": False,
        "agent": agent,
        "model": "claude",
        "provider": "anthropic",
        "banner": f"{agent} uses claude of anthropic, its own model, without a proxy",
    }


def test_s1_without_a_file(run: Run, paths: Paths) -> None:
    ran = run("agents", "resolve", "code-reviewer", "--json")

    assert (ran.code, ran.json, ran.err) == (0, {"useProxy": False}, "")


@pytest.mark.parametrize(("text", "line"), [("a = 1\n= =", 2), (f"{FILE}x = 5", 13), ("\nspawn = 1", 2)])
def test_s1_a_file_that_cannot_be_used(run: Run, file: Path, text: str, line: int) -> None:
    """A launcher reads the answer, its user the warning with file and line."""
    file.write_text(text)
    ran = run("agents", "resolve", "code-reviewer", "--json")

    assert (ran.code, ran.json) == (0, {"useProxy": False})
    assert f"warning: {file}:{line}: " in ran.err


@pytest.mark.parametrize("name", ["resolve", "ensure"])
def test_a_file_that_cannot_be_used_is_not_taken_for_none(
    run: Run, file: Path, here: Path, name: str
) -> None:
    """Nor is a project's, beside a good one; and nobody is told to make entries in it."""
    (here / ".modelproxy.toml").write_text("a = 1\n")
    ran = run("agents", name, "code-reviewer")

    assert (ran.code, ran.out) == (0, "no proxy: what is configured cannot be used\n")
    assert ran.err.startswith(f"warning: {here}/.modelproxy.toml:1: a: ")
    file.write_text("= =")
    assert "has an entry" not in run("agents", "list").err


def test_s1_no_agent(run: Run) -> None:
    ran = run("agents", "resolve", "--json")

    assert ran.code == 2
    assert "error" in ran.json
    assert run("agents", "resolve", "", "--json").code == 2


def test_s86_the_default_and_the_projects_word(run: Run, file: Path, here: Path) -> None:
    file.write_text(FILE.replace("[models.agents]", '[models]\ndefault = "coder"\n[models.agents]'))
    (here / ".modelproxy.toml").write_text('models.agents.code-reviewer = "local"')

    assert run("agents", "resolve", "nobody", "--json").json["proxyUrl"] == "http://127.0.0.1:34999"
    assert run("agents", "resolve", "code-reviewer", "--json").json["model"] == "ollama/qwen3"
    assert run("agents", "resolve", "own", "--json").json["useProxy"] is False


def test_the_address_of_what_runs_and_of_what_would(run: Run, file: Path, control: Control) -> None:
    control.proxies = {
        "ollama/codellama": view("ollama/codellama", port=34990, url="http://127.0.0.1:34990"),
        "coder": view("coder", model="ollama/qwen3", port=5, url="http://127.0.0.1:5"),
    }
    found = {
        name: run("agents", "resolve", name, "--json").json
        for name in ("code-reviewer", "by-alias", "by-proxy")
    }

    assert [(one["proxyUrl"], one["running"]) for one in found.values()] == [
        ("http://127.0.0.1:34990", True),
        ("http://127.0.0.1:34991", False),
        ("http://127.0.0.1:5", True),
    ]
    assert [one["proxy"] for one in found.values()] == ["ollama/codellama", "ollama/qwen3", "coder"]
    assert {method for method, _, _ in control.asked} == {"GET"}


GLOBS = """\
[models]
default = "echo/rest"
[models.agents]
"code-*" = "ollama/codellama"
"code-own-*" = "claude"
code-reviewer = "echo/demo"
"""


@pytest.mark.parametrize(
    ("agent", "model", "entry"),
    [
        ("code-reviewer", "echo/demo", None),
        ("code-zz", "ollama/codellama", "code-*"),
        ("code-own-z", "claude", "code-own-*"),
        ("code-*", "ollama/codellama", None),
        ("recode-zz", "echo/rest", None),
    ],
)
def test_an_entry_may_be_a_glob(run: Run, file: Path, agent: str, model: str, entry: str | None) -> None:
    """The exact name, else the longest glob, as at a front; which one it was is told."""
    file.write_text(GLOBS)
    answer = run("agents", "resolve", agent, "--json").json

    assert (answer["model"], answer.get("entry")) == (model, entry)
    assert answer["useProxy"] is (model != "claude")
    assert answer["banner"].endswith(f', as "{entry}" says') is (entry is not None)
    assert run("agents", "resolve", agent).out == f"{answer['banner']}\n"


# --- ensure -----------------------------------------------------------------------------------------------


def test_s77_ensure_brings_it_up(run: Run, file: Path, control: Control) -> None:
    control.replies["PUT"] = (
        200,
        view("coder", model="ollama/qwen3", port=7, url="http://127.0.0.1:7", pid=42),
    )
    answer = run("agents", "ensure", "by-proxy", "--json").json

    assert answer["proxyUrl"] == "http://127.0.0.1:7"
    assert (answer["useProxy"], answer["pid"], answer["port"], answer["reused"]) == (True, 42, 7, False)
    assert [body["model"] for method, _, body in control.asked if method == "PUT"] == ["coder"]


def test_ensure_goes_by_a_glob_too(run: Run, file: Path, control: Control) -> None:
    file.write_text(GLOBS)
    control.replies["PUT"] = (200, view("ollama/codellama", port=7, url="http://127.0.0.1:7", pid=42))
    answer = run("agents", "ensure", "code-zz", "--json").json

    assert (answer["proxyUrl"], answer["entry"]) == ("http://127.0.0.1:7", "code-*")
    assert [body["model"] for method, _, body in control.asked if method == "PUT"] == ["ollama/codellama"]


def test_s85_ensure_of_an_agent_without_a_proxy_starts_nothing(run: Run, file: Path, paths: Paths) -> None:
    ran = run("agents", "ensure", "nobody", "--json")

    assert (ran.code, ran.json["useProxy"]) == (0, False)
    assert not paths.control_socket.exists()


def test_ensure_that_fails_is_an_error(run: Run, file: Path, control: Control) -> None:
    control.replies["PUT"] = fault(500, "start_failed", "it broke")

    assert run("agents", "ensure", "by-alias", "--json").json["error"]["code"] == "start_failed"


# --- who uses what ----------------------------------------------------------------------------------------


def test_s8_set_and_unset_leave_the_rest(run: Run, file: Path) -> None:
    assert run("agents", "set", "new one", "ollama/x").out == "new one uses ollama/x\n"
    assert file.read_text() == FILE + '"new one" = "ollama/x"\n'
    assert file.stat().st_mode & 0o777 == 0o600
    assert run("agents", "unset", "new one", "--json").json == {"agent": "new one", "set": False}
    assert file.read_text() == FILE
    assert run("agents", "unset", "new one").code == 1


@pytest.mark.parametrize("model", ["badmodel", "ollama/", "nope/x", "", "a b"])
def test_s8_a_bad_model_changes_nothing(run: Run, file: Path, model: str) -> None:
    ran = run("agents", "set", "x", model)

    assert ran.code == 2
    assert file.read_text() == FILE
    if model == "badmodel":
        assert "Expected: provider/model-name" in ran.err


def test_s8_the_list(run: Run, file: Path) -> None:
    rows = {row["agent"]: row for row in run("agents", "list", "--json").json}

    assert rows["code-reviewer"] == {
        "agent": "code-reviewer",
        "model": "ollama/codellama",
        "resolved": "ollama/codellama",
        "useProxy": True,
        "origin": str(file),
        "line": rows["code-reviewer"]["line"],
    }
    assert (rows["by-proxy"]["resolved"], rows["own"]["useProxy"]) == ("ollama/qwen3", False)
    assert "by-alias       local (ollama/qwen3)" in run("agents", "list").out
    told = run("agents", "list").out.splitlines()
    assert len({line.index("/", 40) for line in told}) == 1  # the files stand below each other
    assert rows["by-alias"]["line"] is not None
    assert told[-1].endswith(f":{rows[told[-1].split()[0]]['line']}")


def test_the_list_has_globs_as_they_were_said(run: Run, file: Path) -> None:
    file.write_text(GLOBS)

    assert [(row["agent"], row["resolved"]) for row in run("agents", "list", "--json").json] == [
        ("code-*", "ollama/codellama"),
        ("code-own-*", None),
        ("code-reviewer", "echo/demo"),
    ]


def test_s82_the_guide_names_commands_that_exist(run: Run, file: Path) -> None:
    guide = run("agents", "guide").out
    assert run("agents", "guide", "--json").json == {"guide": guide.rstrip("\n")}

    for words in ("resolve code-reviewer --json", "set code-reviewer ollama/codellama", "list"):
        assert f"proxyctl agents {words}" in guide
        assert run("agents", *words.split()).code == 0


def test_s134_an_agent_whose_entry_waits_for_trust_is_told_so(run: Run, file: Path, here: Path) -> None:
    """It is not given another's model, and nothing else in the folder is in its way."""
    (here / ".modelproxy.toml").write_text(
        '[providers.team]\nkind = "openai"\nbase_url = "http://127.0.0.1:1/v1"\n'
        '[models]\ndefault = "team/d"\n[models.agents]\nrev = "team/m"\nown = "team/m"\n'
    )
    for agent in ("rev", "nobody"):
        ran = run("agents", "resolve", agent, "--json")
        assert (ran.code, ran.json) == (0, {"useProxy": False})
        assert "[providers.team] and what hangs on it (models.default, models.agents.rev" in ran.err
        assert "until: proxyctl config trust" in ran.err
    assert run("agents", "resolve", "own", "--json").json["model"] == "claude"  # of the user's own file
    assert run("agents", "resolve", "by-alias", "--json").json["model"] == "ollama/qwen3"
    meant = run("models", "resolve", "team/m", "--json")
    assert "until: proxyctl config trust" in meant.err + json.dumps(meant.json)
    assert "until: proxyctl config trust" in run("models", "providers", "team").err
    for key in ("models.agents.rev", "providers.team.kind"):
        assert "until: proxyctl config trust" in run("config", "get", key).err
    ran = run("run", "--agent", "rev", "--no-fallback", "--", "true")
    assert ran.code == 1
    assert '.modelproxy.toml:7: models.agents.rev = "team/m": [providers.team] and' in ran.err
