"""`start-proxy`: one JSON line, and a foreground that means it."""

from __future__ import annotations

import json
import signal
import sys
from typing import Any

import pytest
from fakes.control import Control, fault
from fakes.terminal import Ran, Run, Spawn

from modelproxy.ctl import start_proxy


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], control: Control) -> Run:
    """Run `start-proxy` inside this process."""

    def start(*argv: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["start-proxy", *argv])
        code = start_proxy.main()
        return Ran(code, *capsys.readouterr())

    return start


def error(ran: Ran) -> Any:
    assert ran.out == ""
    assert ran.err.count("\n") == 1
    return json.loads(ran.err)["error"]


def test_model_is_required(start: Run) -> None:
    ran = start()

    assert (ran.code, ran.err) == (1, '{"error": "--model is required"}\n')


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (["--model", "invalid"], 2, "Expected: provider/model-name"),
        (["--model", ""], 2, "Expected: provider/model-name"),
        (["--model", "a/b", "--port", "abc"], 2, "Invalid port"),
        (["--model", "a/b", "--port", "70000"], 2, "Invalid port"),
        (["--model", "a/b", "--nope"], 2, "No such option"),
        (["--model", "a/b", "--api-key-env", "NOT_SET_ANYWHERE"], 2, "not set"),
    ],
)
def test_errors_are_one_json_line(
    start: Run, control: Control, argv: list[str], code: int, says: str
) -> None:
    ran = start(*argv)

    assert ran.code == code
    assert says in error(ran)
    assert control.asked == []


def test_a_taken_port(start: Run, control: Control) -> None:
    control.replies["PUT"] = fault(409, "port_in_use", "Port 3457 is already in use by nc (pid 7)")
    ran = start("--model", "a/b", "--port", "3457", "--background")

    assert ran.code == 1
    assert "Port 3457 is already in use by nc" in error(ran)


def test_background_returns_with_one_line(start: Run, control: Control) -> None:
    ran = start("--model", "a/b", "--port", "3457", "--background")

    assert (ran.code, ran.err) == (0, "")
    assert ran.json["background"] is True
    assert {key: ran.json[key] for key in ("port", "pid", "model")} == {
        "port": 3457,
        "pid": control.pid,
        "model": "a/b",
    }
    assert "a/b" in control.proxies


def test_help(start: Run) -> None:
    ran = start("--help")

    assert ran.code == 0
    for flag in ("--model", "--port", "--api-key", "--base-url", "--background", "--pid-file", "--help"):
        assert flag in ran.out
    examples = ran.out[ran.out.index("Examples:") : ran.out.index("Options:")]
    assert "ollama/codellama" in examples
    assert "--port 3457" in examples


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_foreground_takes_its_proxy_along(spawn: Spawn, control: Control, number: signal.Signals) -> None:
    command = spawn(".start_proxy", "--model", "a/b")
    assert command.stdout is not None
    first = json.loads(command.stdout.readline())
    assert (first["background"], "a/b" in control.proxies) == (False, True)
    command.send_signal(number)
    out, err = command.communicate(timeout=10)

    assert (command.returncode, out, err) == (0, "", "")
    assert control.proxies == {}


@pytest.mark.slow
def test_the_foreground_ends_with_its_proxy(spawn: Spawn, control: Control) -> None:
    command = spawn(".start_proxy", "--model", "a/b")
    assert command.stdout is not None
    command.stdout.readline()
    del control.proxies["a/b"]

    assert command.wait(10) == 0
    assert "DELETE" not in {method for method, _, _ in control.asked}


@pytest.mark.slow
def test_the_foreground_stays_while_the_supervisor_is_away(spawn: Spawn, control: Control) -> None:
    """The worker's pid is alive: nothing has changed for the user."""
    command = spawn(".start_proxy", "--model", "a/b")
    assert command.stdout is not None
    command.stdout.readline()
    before = len(control.asked)
    control.replies["GET"] = fault(503, "stopping", "bye")
    while len(control.asked) < before + 2:
        assert command.poll() is None
    control.replies.clear()
    command.send_signal(signal.SIGTERM)

    assert command.wait(10) == 0
    assert control.proxies == {}
