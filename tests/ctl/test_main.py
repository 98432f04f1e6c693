"""The commands against a pretended supervisor: what they print, and their exit codes."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from fakes.control import Control, fault, view
from fakes.terminal import Run

from modelproxy.ctl.main import app
from modelproxy.supervisor.paths import Paths
from modelproxy.supervisor.protocol import DownRequest, RestartRequest, UpRequest, parse


def bodies(control: Control, method: str) -> list[Any]:
    return [body for asked, _, body in control.asked if asked == method]


def test_up_prints_two_lines(run: Run, control: Control) -> None:
    control.proxies["echo/demo"] = view(pid=4121)
    ran = run("up", "echo/demo")
    first, second = ran.out.splitlines()

    assert ran.code == 0
    assert first.startswith("echo/demo  ready  http://127.0.0.1:3457  pid 4121  0.")
    assert second == "export ANTHROPIC_BASE_URL=http://127.0.0.1:3457"
    assert ran.err == ""


def test_up_as_json(run: Run, control: Control) -> None:
    first, second = run("up", "echo/demo", "--port", "4567", "--json"), run("up", "echo/demo", "--json")

    assert (first.json["port"], first.json["reused"]) == (4567, False)
    assert (second.json["port"], second.json["reused"]) == (4567, True)


def test_up_asks_for_what_was_said_and_nothing_else(
    run: Run, control: Control, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MY_KEY", "K")
    run("up", "echo/demo")
    run(
        *(
            "up",
            "echo/demo",
            "--port",
            "0",
            "--base-url",
            "http://x",
            "--grace",
            "2m",
            "--replace",
            "--no-wait",
        ),
        *("--wait", "500ms", "--pid-file", "my.pid", "--api-key-env", "MY_KEY"),
        *("--no-lazy", "--idle-stop", "15m", "--max-rss", "500M"),
    )
    plain, full = bodies(control, "PUT")

    assert plain == {"model": "echo/demo"}
    assert full == {
        "model": "echo/demo",
        "port": 0,
        "base_url": "http://x",
        "api_key": "K",
        "grace_s": 120.0,
        "replace": True,
        "wait": False,
        "wait_s": 0.5,
        "pid_file": str(tmp_path / "my.pid"),
        "lazy": False,
        "idle_stop_s": 900.0,
        "max_rss": 500 * 1024**2,
    }
    assert control.asked[-1][1] == "/v1/proxies/echo%2Fdemo?shell=1"


def test_bodies_are_those_of_the_protocol(run: Run, control: Control) -> None:
    """The supervisor refuses unknown fields."""
    import json

    run("up", "echo/demo", "--port", "1", "--grace", "2m", "--replace", "--no-wait", "--pid-file", "x")
    run("up", "echo/demo", "--lazy", "--idle-stop", "0", "--max-rss", "0")
    run("restart", "echo/demo", "--grace", "1", "--wait", "2")
    run("down", "echo/demo", "--grace", "1s")

    for method, kind in (("PUT", UpRequest), ("POST", RestartRequest), ("DELETE", DownRequest)):
        for body in bodies(control, method):
            assert parse(json.dumps(body).encode(), kind)


def test_up_says_what_the_user_should_know_on_stderr(run: Run, control: Control) -> None:
    control.proxies["echo/demo"] = view(notes=["port 3456 is taken"], health="connection refused")
    ran = run("up", "echo/demo")

    assert ran.err.splitlines() == [
        "note: port 3456 is taken",
        "warning: echo/demo is up, but its provider is not well: connection refused",
    ]
    assert len(ran.out.splitlines()) == 2


def test_up_asks_an_idle_one_nothing(run: Run, control: Control) -> None:
    """A look at its health would be the first connection, and start it."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
        control.proxies["ollama/m"] = view("ollama/m", state="idle", health="-", pid=None, port=port)
        ran = run("up", "ollama/m", "--lazy")
        door.setblocking(False)

        assert (ran.code, ran.err) == (0, "")
        with pytest.raises(BlockingIOError):
            door.accept()


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["up", "invalid"], "bad_model_id"),
        (["up", ""], "bad_model_id"),
        (["up", "a/b", "--port", "70000"], "bad_port"),
        (["up", "a/b", "--port", "abc"], "bad_port"),
        (["up", "a/b", "--grace", "soon"], "usage"),
        (["up", "a/b", "--api-key", "-", "--api-key-env", "V"], "usage"),
        (["up"], "usage"),
        (["up", "a/b", "--nope"], "usage"),
        (["up", "a/b", "c/d"], "usage"),
        (["down"], "usage"),
        (["ps", "--nope"], "usage"),
        (["ps", "x"], "usage"),
        (["logs", "x", "-n", "-1"], "usage"),
        (["events", "--since", "x"], "usage"),
        (["restart"], "usage"),
        (["daemon", "nope"], "usage"),
        (["nope"], "usage"),
    ],
)
def test_bad_usage_is_refused_before_anybody_is_asked(
    run: Run, control: Control, argv: list[str], code: str
) -> None:
    text, as_json = run(*argv), run(*argv, "--json")

    assert (text.code, text.out) == (2, "")
    assert "error: " in text.err
    assert (as_json.code, as_json.json["error"]["code"], as_json.err) == (2, code, "")
    assert control.asked == []


def test_a_bad_model_starts_no_supervisor(run: Run, paths: Paths) -> None:
    assert run("up", "invalid").code == 2
    assert not paths.daemon_log.exists()


def test_no_command_explains_itself(run: Run) -> None:
    ran = run()

    assert (ran.code, ran.out) == (2, "")
    assert "proxyctl up ollama/codellama --port 3457" in ran.err


def test_version(run: Run) -> None:
    ran = run("--version")

    assert (ran.code, ran.out.split()[0]) == (0, "proxyctl")


def test_refusals_of_the_supervisor_keep_their_code(run: Run, control: Control) -> None:
    control.replies["PUT"] = fault(400, "unsupported_provider", 'Unsupported provider "nope"', "one of: echo")
    ran = run("up", "nope/x")

    assert (ran.code, ran.out) == (2, "")
    assert ran.err == 'error: Unsupported provider "nope"\nhint: one of: echo\n'

    control.replies["PUT"] = fault(409, "port_in_use", "Port 1 is already in use")
    assert run("up", "a/b", "--json").json["error"]["code"] == "port_in_use"
    assert run("up", "a/b").code == 1


def test_down_forms(run: Run, control: Control) -> None:
    control.proxies = {name: view(name, port=port) for name, port in (("a/b", 1), ("c/d", 2), ("e/f", 3))}

    assert run("down", "1", "--json").json == {"name": "a/b", "port": 1, "state": "stopped"}
    assert run("down", "a/b", "--json").json["already"] == "stopped"
    assert run("down", "a/b").out == "a/b  already stopped\n"
    assert run("down", "all", "--grace", "5s", "--json").json == [
        {"name": "c/d", "port": 2, "state": "stopped"},
        {"name": "e/f", "port": 3, "state": "stopped"},
    ]
    assert bodies(control, "DELETE")[-1] == {"grace_s": 5.0}


def test_down_of_several_tells_of_each(run: Run, control: Control) -> None:
    control.proxies["a/b"] = view("a/b", port=1)
    ran = run("down", "nobody", "a/b", "--json")

    assert ran.code == 1
    assert ran.json[0]["target"] == "nobody"
    assert ran.json[0]["error"]["code"] == "unknown_proxy"
    assert ran.json[1] == {"name": "a/b", "port": 1, "state": "stopped"}


def test_down_of_nobody(run: Run, control: Control) -> None:
    text, as_json = run("down", "nobody"), run("down", "nobody", "--json")

    assert (text.code, text.out) == (1, "")
    assert text.err.startswith('error: there is no proxy "nobody"\n')
    assert (as_json.code, list(as_json.json)) == (1, ["error"])


@pytest.mark.parametrize("argv", [["down", "all"], ["restart", "all"], ["set", "all", "rpm=2"]])
def test_all_of_nothing_is_said(run: Run, control: Control, argv: list[str]) -> None:
    """To the person; a script reads an empty list, and nothing is wrong."""
    control.replies["POST /v1/proxies/all/set"] = 200, []
    text, as_json = run(*argv), run(*argv, "--json")

    assert (text.code, text.out, text.err) == (0, "", "nothing is up\n")
    assert (as_json.code, as_json.json, as_json.err) == (0, [], "")


def test_restart(run: Run, control: Control) -> None:
    control.proxies = {name: view(name) for name in ("a/b", "c/d")}

    assert run("restart", "a/b", "--json").json["generation"] == 2
    assert [proxy["name"] for proxy in run("restart", "all", "--json").json] == ["a/b", "c/d"]
    assert run("restart", "a/b").out.startswith("a/b  ready  http://127.0.0.1:3457  pid ")
    assert run("restart", "nobody").code == 1


@pytest.mark.parametrize(
    "argv", [["down", "all"], ["restart", "x"], ["events"], ["daemon", "status"], ["daemon", "stop"]]
)
def test_nobody_there_is_exit_3(run: Run, paths: Paths, argv: list[str]) -> None:
    text, as_json = run(*argv), run(*argv, "--json")

    assert (text.code, text.err) == (3, "error: the supervisor is not running\nhint: proxyctl daemon start\n")
    assert as_json.code == 3
    assert as_json.json["error"]["code"] == "daemon_not_running"


def test_only_up_starts_a_supervisor(run: Run, paths: Paths) -> None:
    for argv in (["ps"], ["down", "all"], ["restart", "x"], ["logs", "x"], ["events"], ["daemon", "status"]):
        run(*argv)

    assert not paths.daemon_log.exists()


def test_daemon_commands_speak_json(run: Run, control: Control) -> None:
    control.proxies["a/b"] = view("a/b")

    assert run("daemon", "status", "--json").json == control.version() | {"proxies": 1}
    assert run("daemon", "start", "--json").json == control.version() | {"already": True}
    assert run("daemon", "start").out == f"already running  pid {control.pid}\n"
    assert run("daemon", "restart", "--json").json["started_at"] == 1001.0


COMMANDS = [
    ["up"],
    ["run"],
    ["env"],
    ["ask"],
    ["down"],
    ["ps"],
    ["why"],
    ["restart"],
    ["set"],
    ["reload"],
    ["logs"],
    ["events"],
    ["usage"],
    ["costs"],
    ["keys"],
    ["daemon"],
    *(["daemon", name] for name in ("run", "start", "stop", "restart", "status")),
    *(["keys", name] for name in ("set", "unset", "list")),
    ["config"],
    ["agents"],
    ["models"],
]

GROUPS = (["daemon"], ["keys"], ["config"], ["agents"], ["models"])
"""What is in the last three: test_config_app.py and its like."""


@pytest.mark.parametrize("command", [[], *COMMANDS], ids=" ".join)
def test_help_is_a_verb_phrase_examples_and_options(run: Run, command: list[str]) -> None:
    ran = run(*command, "--help")
    usage, _, first = ran.out.splitlines()[:3]

    assert ran.code == 0
    assert usage.startswith(" ".join(["Usage: proxyctl", *command]))
    assert not first.endswith(".")
    examples = "Examples:" if command else "Common workflows:"
    assert ran.out.index(examples) < ran.out.index("Options:")
    # Nothing in a list of commands is cut off.
    assert "..." not in ran.out.partition("\nCommands:")[2]


def test_help_of_up_names_what_newcomers_need(run: Run) -> None:
    text = run("up", "--help").out

    assert "ollama/codellama" in text
    assert "--port 3457" in text


def test_every_command_is_tested_here() -> None:
    names = {
        command.name or command.callback.__name__ for command in app.registered_commands if command.callback
    }

    assert names == {command[0] for command in COMMANDS if command not in GROUPS and len(command) == 1}


def test_set_says_the_limits_that_hold_now(run: Run, control: Control) -> None:
    control.replies["POST"] = (200, [view(limits={"rpm": 60})])
    ran = run("set", "echo/demo", "rpm=60", "max_concurrent=none")

    assert (ran.code, ran.out) == (0, "echo/demo  rpm=60\n")
    assert control.paths_asked[-1] == "POST /v1/proxies/echo%2Fdemo/set"
    assert run("set", "echo/demo", "rpm=60", "--json").json["limits"] == {"rpm": 60}


def test_set_refuses_what_is_no_limit_before_anybody_is_asked(run: Run, control: Control) -> None:
    ran = run("set", "echo/demo", "speed=9")

    assert (ran.code, ran.out) == (2, "")
    assert 'There is no limit "speed"' in ran.err
    assert control.paths_asked == []


def test_reload_says_whom_it_concerned(run: Run, control: Control) -> None:
    control.replies["POST"] = 200, {"changed": ["coder", "echo/demo"], "warnings": ["mind the port"]}
    ran = run("reload")

    assert (ran.code, ran.out, ran.err) == (0, "changed  coder  echo/demo\n", "warning: mind the port\n")
    assert control.paths_asked[-1] == "POST /v1/daemon/reload"
    assert run("reload", "--json").json["changed"] == ["coder", "echo/demo"]
    control.replies["POST"] = 200, {"changed": [], "warnings": []}
    assert run("reload").out == "nothing has changed since the files were last read\n"
    assert run("daemon", "reload").out == run("reload").out
    control.replies["POST"] = fault(409, "bad_config", "line 3: no")
    assert run("reload").code == 1
