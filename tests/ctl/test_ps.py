"""`ps` on both roads, and what the fast one may not import."""

from __future__ import annotations

import fcntl
import json
import os
import struct
import sys
import termios

import pytest
from fakes.control import Control, view
from fakes.terminal import Run, Spawn

from modelproxy.ctl import __main__ as entry
from modelproxy.ctl import ps
from modelproxy.supervisor.paths import Paths

HEADER = "NAME  MODEL  PORT  PID  STATE  HEALTH  UPTIME  REQS  IN-FLIGHT  COST  RESTARTS\n"
HEAVY = (
    "typer",
    "click",
    "cattrs",
    "attrs",
    "attr",
    "trio",
    "platformdirs",
    "http",
    "argparse",
    "dataclasses",
)


@pytest.mark.parametrize("argv", [["ps"], ["ps", "--json"]])
@pytest.mark.parametrize("alive", [True, False])
def test_both_roads_print_the_same(
    run: Run, paths: Paths, monkeypatch: pytest.MonkeyPatch, argv: list[str], alive: bool
) -> None:
    """The slow one is taken when nothing is declared fast."""
    with Control(paths) as control:
        control.proxies = {name: view(name) for name in ("a/b", "echo/demo")}
        if not alive:
            control.raw = b"?\r\n\r\n"
        fast = run(*argv)
        monkeypatch.setattr(entry, "_FAST", ())
        slow = run(*argv)

    assert (fast.code, fast.out, fast.err) == (slow.code, slow.out, slow.err)
    assert fast.out or fast.err


@pytest.mark.slow
@pytest.mark.parametrize("alive", [True, False])
def test_the_fast_road_imports_nothing_heavy(spawn: Spawn, paths: Paths, alive: bool) -> None:
    with Control(paths):
        pass  # leaves the directories behind
    program = (
        "import sys; sys.argv = ['proxyctl', 'ps']; from modelproxy.ctl.__main__ import main; code = main();"
        "sys.stderr.write('\\n' + ' '.join(sorted(sys.modules)))"
    )

    def modules() -> set[str]:
        import subprocess

        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout.startswith("NAME")
        return set(done.stderr.splitlines()[-1].split())

    if alive:
        with Control(paths):
            imported = modules()
    else:
        imported = modules()

    assert "modelproxy.ctl.ps" in imported
    assert not imported & set(HEAVY)


def test_no_proxies_is_a_header(run: Run, control: Control) -> None:
    ran = run("ps")

    assert (ran.code, ran.out, ran.err) == (0, HEADER, "")
    assert run("ps", "--json").json == []


def test_all_asks_for_the_stopped_ones(run: Run, control: Control) -> None:
    run("ps")
    run("ps", "-a")

    asked = [path for _, path, _ in control.asked if path.startswith("/v1/proxies")]
    assert asked == ["/v1/proxies", "/v1/proxies?all=1"]


def test_what_the_supervisor_warns_of_is_said(run: Run, control: Control) -> None:
    """On stderr: the list is for programs too."""
    control.replies["GET /v1/version"] = (200, control.version() | {"warnings": ["state.json was bad"]})
    ran = run("ps")

    assert (ran.code, ran.out, ran.err) == (0, HEADER, "warning: state.json was bad\n")


def test_verbose_shows_the_last_lines_of_the_log(run: Run, control: Control) -> None:
    log = control.paths.log_file("echo/demo")
    log.write_text("".join(f"line {number}\n" for number in range(9)))
    control.proxies["echo/demo"] = view(log=str(log), state="failed", detail="failed: x")

    assert run("ps", "-v").out.splitlines()[-5:] == [f"  | line {number}" for number in range(4, 9)]
    assert run("ps", "-v", "--json").json[0]["last_lines"][-1] == "line 8"


def test_without_a_supervisor(run: Run, paths: Paths) -> None:
    ran = run("ps")

    assert (ran.code, ran.out, ran.err) == (3, HEADER, "supervisor not running; 0 workers serving\n")
    assert run("ps", "--json").json == []


def test_without_a_supervisor_and_with_a_garbled_file(run: Run, paths: Paths) -> None:
    paths.state_file.write_text("{")
    ran = run("ps")

    assert (ran.code, ran.out) == (3, HEADER)
    assert ran.err.splitlines()[1].startswith("warning: ")


def test_a_refusal_is_an_error_in_the_wanted_form(run: Run, control: Control) -> None:
    control.replies["GET"] = (503, {"error": {"code": "stopping", "message": "bye", "hint": ""}})

    assert run("ps").err == "error: bye\n"
    ran = run("ps", "--json")
    assert (ran.code, json.loads(ran.out)["error"]["code"]) == (1, "stopping")


def test_a_terminal_has_a_width_and_a_pipe_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ps.width() is None
    leader, follower = os.openpty()
    with os.fdopen(leader), os.fdopen(follower, "w") as terminal:
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("4H", 24, 93, 0, 0))
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.delenv("COLUMNS", raising=False)
        assert ps.width() == 93
        monkeypatch.setenv("COLUMNS", "70")
        assert ps.width() == 70
        monkeypatch.setattr(terminal, "fileno", lambda: -1)
        monkeypatch.setenv("COLUMNS", "wide")
        assert ps.width() is None
    monkeypatch.setattr(sys, "stdout", None)
    assert ps.width() is None
