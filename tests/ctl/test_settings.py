"""What holds in a folder: the project's file counts for as much as its user trusts it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fakes.terminal import Run

from modelproxy.ctl import settings
from modelproxy.ctl.faults import Fault
from modelproxy.supervisor.paths import Paths


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's file, in the folder where one is."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for variable in ("MODELPROXY_DEFAULT_PORT", "MODELPROXY_MODEL", "MODELPROXY_FALLBACK"):
        monkeypatch.delenv(variable, raising=False)
    return folder / settings.PROJECT_FILE


def user(paths: Paths, text: str) -> None:
    paths.config.mkdir(parents=True, exist_ok=True)
    paths.config_file.write_text(text)


def test_problems_come_in_the_order_of_their_lines(paths: Paths, project: Path) -> None:
    """Whichever step has found them. Who only needs good settings hears of the first."""
    user(paths, '[aliases]\na = "b"\n[proxies.c]\nmodel = "lokal"\nport = 0\n')
    found = settings.read(paths)

    assert [one.problem.line for one in found.wrong] == [2, 4, 5]
    fault = settings.bad_config(found.wrong)
    assert fault.message.startswith(f"{paths.config_file}:2: aliases.a")
    assert fault.message.endswith("; and 2 more")


def test_without_files_nothing_is_said(paths: Paths, project: Path) -> None:
    found = settings.read(paths)

    assert (found.layers, found.wrong, found.warnings, settings.overlay(paths)) == ([], [], [], {})


def test_the_project_goes_before_the_user_and_the_shell_before_both(
    paths: Paths, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S86, S91."""
    user(paths, 'models.default = "ollama/user"\naliases.local = "ollama/user"')
    project.write_text('models.default = "ollama/project"\ndefault_port = 4001')
    monkeypatch.setenv("MODELPROXY_DEFAULT_PORT", "4002")
    found = settings.read(paths)

    assert found.table("models") == {"default": "ollama/project"}
    assert found.values["default_port"] == 4002
    assert settings.overlay(paths) == {"models": {"default": "ollama/project"}, "default_port": 4002}


BAD = '[providers.ollama]\nbase_url = "http://evil.example"\n[proxies.a]\nmodel = "ollama/x"\nfallback = ["openai/x"]\n'


def test_s134_without_trust_a_project_redirects_nothing(
    paths: Paths, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And its user is told, with the line and what to say."""
    project.write_text(BAD)

    assert settings.overlay(paths) == {"proxies": {"a": {"model": "ollama/x"}}}
    said = capsys.readouterr().err
    assert f"warning: {project}:1: [providers.ollama] does not count until: proxyctl config trust" in said
    assert f"{project}:5: proxies.a.fallback is left out" in said


TEAM = """\
[providers.team]
kind = "openai"
base_url = "http://127.0.0.1:1/v1"
[models.agents]
rev = "team/m"
plain = "local"
[aliases]
local = "ollama/x"
"""
SENTENCE = (
    "[providers.team] and what hangs on it (models.agents.rev) do not count until: proxyctl config trust"
)


def test_s134_what_hangs_on_a_provider_without_trust_is_left_out_with_it(
    paths: Paths, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything else in the folder works; who wants just this is told of the trust."""
    project.write_text(TEAM)
    good = {"aliases": {"local": "ollama/x"}, "models": {"agents": {"plain": "local"}}}

    assert settings.read(paths).wrong == []
    assert settings.overlay(paths, ["echo/demo"]) == good
    assert f"warning: {project}:1: {SENTENCE}\n" in capsys.readouterr().err
    with pytest.raises(Fault) as caught:
        settings.overlay(paths, ["echo/demo", "team/m"])
    assert (caught.value.code, caught.value.message) == ("bad_config", f"{project}:1: {SENTENCE}")
    settings.trust(paths, project)
    assert settings.overlay(paths, ["team/m"])["models"] == {"agents": {"rev": "team/m", "plain": "local"}}


def test_s134_the_shell_may_name_what_does_not_count(
    paths: Paths, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write_text(TEAM)
    monkeypatch.setenv("MODELPROXY_MODEL", "team/m")
    found = settings.read(paths)

    assert (found.wrong, found.table("models").get("default")) == ([], None)


def test_a_name_that_means_something_without_the_project_is_taken(paths: Paths, project: Path) -> None:
    user(paths, 'aliases.local = "ollama/user"')
    project.write_text(TEAM.replace('"ollama/x"', '"team/x"'))
    found = settings.read(paths)

    found.refuse_withheld("local")
    assert found.table("aliases") == {"local": "ollama/user"}


def test_trust_ends_when_the_file_changes(paths: Paths, project: Path) -> None:
    project.write_text(BAD)
    settings.trust(paths, project)

    assert settings.overlay(paths)["providers"] == {"ollama": {"base_url": "http://evil.example"}}
    assert paths.trust_file.stat().st_mode & 0o777 == 0o600
    project.write_text(BAD + "\n")
    assert "providers" not in settings.overlay(paths)
    settings.trust(paths, project)
    settings.trust(paths, project, wanted=False)
    assert "providers" not in settings.overlay(paths)


def test_many_who_trust_at_once_lose_nothing(paths: Paths, tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.toml" for number in range(16)]
    for file in files:
        file.write_text(BAD)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda file: settings.trust(paths, file), files))

    assert sorted(settings.trusted(paths)) == sorted(map(str, files))


@pytest.mark.parametrize("text", ["= =", "[]", "5", '{"x": 5}'])
def test_a_spoilt_file_of_trust_means_no_trust(paths: Paths, project: Path, text: str) -> None:
    project.write_text(BAD)
    paths.trust_file.write_text(text)

    assert not settings.is_trusted(paths, project)


def test_a_mistake_is_named_in_the_file_that_has_it(paths: Paths, project: Path) -> None:
    user(paths, 'aliases.local = "ollama/x"\nspwn = "exec"')
    project.write_text('\nproxies.a.model = "lokal"\nproxies.b.model = "local"')
    wrong = [str(one) for one in settings.read(paths).wrong]

    assert [text.partition(": ")[0] for text in wrong] == [f"{paths.config_file}:2", f"{project}:2"]
    with pytest.raises(Fault, match=r'proxies\.a\.model = "lokal"') as caught:
        settings.overlay(paths)
    assert "spwn" not in caught.value.message  # the supervisor tells that one


@pytest.mark.parametrize("content", [b"a = = 1", b"\xff"])
def test_a_file_that_cannot_be_read_is_one_problem(paths: Paths, project: Path, content: bytes) -> None:
    project.write_bytes(content)

    assert [one.file for one in settings.read(paths).wrong] == [str(project)]
    with pytest.raises(Fault):
        settings.overlay(paths)


def test_trust_is_said_and_taken_back_by_command(run: Run, paths: Paths, project: Path) -> None:
    project.write_text(BAD)

    assert run("config", "trust", "--json").json == {"path": str(project), "trusted": True}
    assert run("config", "path", "--json").json["project_trusted"] is True
    assert run("config", "trust", str(project), "--revoke").code == 0
    assert run("config", "path", "--json").json["project_trusted"] is False
    assert run("config", "trust", "/nowhere").code == 2


def test_trust_that_was_not_there_cannot_be_taken_back(run: Run, paths: Paths, project: Path) -> None:
    """Who has mistyped the folder would go away believing it."""
    assert (
        run("config", "trust", "--revoke").err
        == f"error: {project} was not trusted\nhint: no file is trusted\n"
    )
    project.write_text("default_port = 4000")
    settings.trust(paths, project)
    ran = run("config", "trust", "/nowhere", "--revoke")

    assert (ran.code, ran.err) == (1, f"error: /nowhere was not trusted\nhint: trusted are {project}\n")
    assert settings.is_trusted(paths, project)


def test_a_file_with_mistakes_is_not_trusted(run: Run, paths: Paths, project: Path, tmp_path: Path) -> None:
    """It counts for nothing, and mending it would end the trust. It is judged in its own folder."""
    project.write_text("default_port = 4000")
    other = tmp_path / "other.toml"
    other.write_text('[providers.team]\nkind = "openai"\nbase_url = "http://b"\ndefault_port = 1\nb = 2')
    ran = run("config", "trust", str(other))

    assert (ran.code, ran.err.splitlines()) == (
        1,
        [
            f"error: {other}:4: providers.team.default_port: default_port belongs above the first [table]; and 1 more",
            "hint: mend it first, for trust ends when the file changes; proxyctl config validate checks all of it",
        ],
    )
    assert not settings.is_trusted(paths, other)
