"""Where nothing is to be done, nothing is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelproxy.ctl import quick
from modelproxy.supervisor.paths import Paths

# The C library's own two, above these, are ignored in whatever it starts by posix_spawn.
_SIGNALS = 0x7FFFFFFF
PLAIN = ["run", "--", "claude", "-p", "hello", "--", "x"]


def test_without_any_file_the_command_is_known(paths: Paths) -> None:
    assert quick.command(PLAIN) == ["claude", "-p", "hello", "--", "x"]
    assert quick.command(["run", "--keep", "--no-fallback", "--", "claude"]) == ["claude"]


@pytest.mark.parametrize(
    "argv",
    [
        ["ps"],
        ["run"],
        ["run", "--"],
        ["run", "claude"],
        ["run", "ollama/x", "--", "claude"],
        ["run", "--agent", "a", "--", "claude"],
        ["run", "--help", "--", "claude"],
    ],
)
def test_anything_else_is_parsed(paths: Paths, argv: list[str]) -> None:
    assert quick.command(argv) is None


@pytest.mark.parametrize("text", ['[models]\ndefault = "ollama/x"\n', "[front.default]\n", "# models\n"])
def test_a_file_that_may_say_something_is_read_by_those_who_can(
    paths: Paths, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths.config_file.parent.mkdir(parents=True)
    paths.config_file.write_text("default_port = 3500\n")
    assert quick.command(PLAIN) is not None

    paths.config_file.write_text(text)
    assert quick.command(PLAIN) is None

    paths.config_file.unlink()
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".modelproxy.toml").write_text(text)
    assert quick.command(PLAIN) is None


def test_a_file_that_cannot_be_read_is_not_ignored(paths: Paths) -> None:
    paths.config_file.mkdir(parents=True)

    assert quick.command(PLAIN) is None


def test_the_variable_is_a_mapping_as_well(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELPROXY_MODEL", "ollama/x")

    assert quick.command(PLAIN) is None


def test_the_command_takes_our_place(paths: Paths) -> None:
    """Same process, same environment, and the signals that Python ignores are as they were."""
    line = [
        sys.executable,
        "-P",
        "-m",
        "modelproxy.ctl",
        "run",
        "--",
        "sh",
        "-c",
        "env; echo; exec cat /proc/self/status",
    ]
    with subprocess.Popen(line, env={**os.environ, "X": "é"}, stdout=subprocess.PIPE, text=True) as process:
        out, _ = process.communicate(timeout=30)
    said, _, status = out.partition("\n\n")
    fields = dict(field.split(":\t", 1) for field in status.splitlines() if ":\t" in field)
    shells_own = {"PWD", "OLDPWD", "SHLVL", "_"}

    assert fields["Pid"] == str(process.pid)
    assert int(fields["SigIgn"], 16) & _SIGNALS == 0
    there = dict(line.split("=", 1) for line in said.splitlines())
    expected = {**os.environ, "X": "é"}
    assert {k: v for k, v in there.items() if k not in shells_own} == {
        k: v for k, v in expected.items() if k not in shells_own
    }
    assert not paths.control_socket.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody knows who said it")
@pytest.mark.parametrize("model", [[], ["echo/demo", "--port", "1"]], ids=["quick", "parsed"])
@pytest.mark.parametrize("said", [{}, {"LC_CTYPE": "C.UTF-8"}], ids=["unsaid", "said"])
def test_the_locale_that_python_makes_of_c_is_not_handed_on(
    said: dict[str, str], model: list[str], paths: Paths
) -> None:
    """A container has no LANG; the command is to see no LC_CTYPE there unless somebody said one."""
    theirs = ("LANG", "LC_ALL", "LC_CTYPE", "PYTHONCOERCECLOCALE", "PYTHONUTF8")
    bare = {name: value for name, value in os.environ.items() if name not in theirs}
    line = [sys.executable, "-P", "-m", "modelproxy.ctl", "run", *model, "--", "sh", "-c"]
    look = 'echo "${LC_CTYPE-none}"'
    nested = bare | said | ({"MODELPROXY_RUN": "other"} if model else {})
    done = subprocess.run([*line, look], env=nested, capture_output=True, text=True, check=True, timeout=30)

    assert done.stdout == said.get("LC_CTYPE", "none") + "\n", done
    assert not paths.control_socket.exists()


def test_what_cannot_be_run_is_said(paths: Paths, capfd: pytest.CaptureFixture[str]) -> None:
    assert quick.become(["no-such-program-here"], os.environ) == 127
    assert quick.become(["sh\0"]) == 126
    assert 'cannot run "no-such-program-here": there is no such program' in capfd.readouterr().err
