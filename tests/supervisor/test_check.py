"""Whether the installed code could take over: looked at in a process of its own, which changes nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from modelproxy.supervisor import check, paths
from modelproxy.worker import __version__


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> paths.Paths:
    for variable, folder in (("RUNTIME_DIR", "run"), ("STATE_HOME", "state"), ("CONFIG_HOME", "config")):
        monkeypatch.setenv(f"XDG_{variable}", str(tmp_path / folder))
    found = paths.find()
    paths.prepare(found)
    found.config.mkdir(parents=True)
    return found


def test_what_is_well_says_its_version(home: paths.Paths, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main() == 0
    assert capsys.readouterr() == (f"{__version__}\n", "")


@pytest.mark.parametrize("text", ['{"version": 999}', "not json"])
def test_a_state_file_that_it_cannot_use(
    home: paths.Paths, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    """The wishes would be lost; and looking moves nothing."""
    home.state_file.write_text(text)

    assert check.main() == 1
    assert capsys.readouterr().err.startswith(f"it cannot use {home.state_file}: ")
    assert home.state_file.read_text() == text


def test_a_configuration_that_it_cannot_use(home: paths.Paths, capsys: pytest.CaptureFixture[str]) -> None:
    home.config_file.write_text("defautl_port = 1\nspawn = 2\n")

    assert check.main() == 1
    said = capsys.readouterr().err
    assert said.startswith(f"it cannot use {home.config_file}:1: ")
    assert said.endswith("; and 1 more: proxyctl config validate\n")
    assert said.count("\n") == 1  # the last line is what is told


def test_a_module_that_cannot_be_imported(
    home: paths.Paths, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Any module: what is imported only later would fail then."""
    package = tmp_path / "broken"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "late.py").write_text("import nothing_like_this\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(check, "_PACKAGES", ("broken",))

    assert check.main() == 1
    assert (
        "ModuleNotFoundError at import of broken: No module named 'nothing_like_this'"
        in capsys.readouterr().err
    )


@pytest.mark.slow
async def test_the_installed_version_is_asked_in_its_own_process(home: paths.Paths) -> None:
    assert await check.of_installed() == __version__


@pytest.mark.slow
async def test_the_last_line_of_a_failure_is_the_reason(home: paths.Paths) -> None:
    home.state_file.write_text("not json")

    with pytest.raises(ValueError, match="it cannot use"):
        await check.of_installed()


async def test_an_interpreter_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/not/there")

    with pytest.raises(ValueError, match="/not/there cannot be started"):
        await check.of_installed()


async def test_one_that_never_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(check, "LIMIT_S", 0.2)
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))

    with pytest.raises(ValueError, match="does not start within"):
        await check.of_installed()
