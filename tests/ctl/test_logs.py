"""Which log is meant, and events over restarts."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest
from fakes.control import Control, view
from fakes.terminal import Run, Spawn

from modelproxy.ctl import logs as logs_module
from modelproxy.supervisor.paths import Paths


@pytest.mark.parametrize("target", ["coder", "echo/demo", "3457"])
def test_a_log_is_found_by_all_that_names_its_proxy(run: Run, control: Control, target: str) -> None:
    control.proxies["coder"] = view("coder", model="echo/demo")
    control.paths.log_file("coder").write_text("a\nb\nc\n")
    ran = run("logs", target, "-n", "2")

    assert (ran.code, ran.out, ran.err) == (0, "b\nc\n", "")


def aliased(paths: Paths) -> None:
    paths.config.mkdir(parents=True)
    paths.config_file.write_text('aliases = { local = "echo/demo" }')


def test_a_log_is_found_by_an_alias(run: Run, control: Control, paths: Paths) -> None:
    aliased(paths)
    control.proxies["coder"] = view("coder", model="echo/demo")
    control.paths.log_file("coder").write_text("a\n")

    assert run("logs", "local").out == "a\n"


def test_an_alias_without_a_supervisor(run: Run, paths: Paths) -> None:
    aliased(paths)
    record = {"name": "coder", "wanted": True, "spec": {"model_id": "echo/demo", "port": 1}, "workers": []}
    paths.state_file.write_text(json.dumps({"proxies": [record]}))
    paths.log_file("coder").write_text("a\n")

    assert run("logs", "local").out == "a\n"
    assert run("why", "local").out.startswith("coder: ")


def test_without_a_supervisor_the_file_is_read_all_the_same(run: Run, paths: Paths) -> None:
    record = {"name": "coder", "wanted": True, "spec": {"model_id": "echo/demo", "port": 1}, "workers": []}
    paths.state_file.write_text(json.dumps({"proxies": [record]}))
    paths.log_file("coder").write_text("a\n")
    ran = run("logs", "echo/demo")

    assert (ran.code, ran.out, ran.err) == (0, "a\n", "the supervisor is not running; reading the log file\n")


def test_a_forgotten_proxy_may_have_left_its_log(run: Run, control: Control) -> None:
    control.paths.log_file("old/one").write_text("a\n")

    assert run("logs", "old/one", "--json").json == {"line": "a"}


@pytest.mark.parametrize("alive", [True, False])
def test_an_unknown_name(run: Run, paths: Paths, alive: bool) -> None:
    if alive:
        with Control(paths):
            ran = run("logs", "nobody")
    else:
        ran = run("logs", "nobody")

    assert (ran.code, ran.out) == (1, "")
    assert 'There is no proxy "nobody"' in ran.err


@pytest.mark.slow
def test_follow_ends_cleanly_on_ctrl_c(spawn: Spawn, paths: Paths) -> None:
    paths.log_file("a/b").write_text("first\n")
    command = spawn("", "logs", "a/b", "-f")
    assert command.stdout is not None
    assert command.stdout.readline() == "first\n"
    with paths.log_file("a/b").open("a") as file:
        file.write("second\n")
    assert command.stdout.readline() == "second\n"
    command.send_signal(signal.SIGINT)
    out, err = command.communicate(timeout=10)

    assert (command.returncode, out, err) == (
        130,
        "",
        "the supervisor is not running; reading the log file\n",
    )


@pytest.mark.slow
@pytest.mark.parametrize("argv", [["logs", "a/b", "-n", "100000"], ["logs", "a/b", "-f", "-n", "100000"]])
def test_a_closed_pipe_ends_it_cleanly(spawn: Spawn, paths: Paths, argv: list[str]) -> None:
    paths.log_file("a/b").write_text("line\n" * 100_000)
    command = spawn("", *argv)
    assert command.stdout is not None
    assert command.stdout.readline() == "line\n"
    command.stdout.close()
    assert command.stderr is not None
    err = command.stderr.read()

    assert (command.wait(10), err) == (0, "the supervisor is not running; reading the log file\n")


@pytest.mark.slow
def test_a_quiet_log_does_not_keep_a_follower_that_nobody_reads(spawn: Spawn, paths: Paths) -> None:
    paths.log_file("a/b").write_text("line\n")
    command = spawn("", "logs", "a/b", "-f")
    assert command.stdout is not None
    assert command.stdout.readline() == "line\n"
    command.stdout.close()

    assert command.wait(10) == 0


def happened(seq: int, **changes: Any) -> dict[str, Any]:
    return {"seq": seq, "at": 0.0, "kind": "ready", "proxy": "a/b", "text": f"number {seq}"} | changes


def test_events(run: Run, control: Control) -> None:
    control.events = [happened(1), happened(2)]

    assert [line.split("  ", 1)[1] for line in run("events").out.splitlines()] == [
        "a/b  ready  number 1",
        "a/b  ready  number 2",
    ]
    assert run("events", "--since", "1", "--json").json == happened(2)


def test_the_last_events(run: Run, control: Control) -> None:
    control.events = [happened(1), happened(2), happened(3)]

    assert "number 3" in run("events", "-n", "1").out
    assert "number 2" not in run("events", "-n", "1").out
    assert (run("events", "-n", "0").out, run("events", "-n", "9").out.count("number")) == ("", 3)
    assert run("events", "-n", "2", "--since", "2", "--json").json == happened(3)


@pytest.mark.parametrize(
    ("lines", "started_again", "expected"),
    [(None, False, [1, 2, 3]), (None, True, [1, 2, 1, 2, 3]), (1, False, [2, 3])],
)
def test_followed_events_go_on_with_the_next_supervisor(
    control: Control, lines: int | None, started_again: bool, expected: list[int]
) -> None:
    """A new supervisor counts anew; the same one, after a broken connection or behind the last lines, does not."""
    control.events = [happened(1), happened(2)]
    seen: list[int] = []

    class Over(Exception):
        pass

    original = control._stream

    def stream(connection: Any, path: str) -> None:
        original(connection, path.replace("&follow=1", ""))
        control.events.append(happened(3))
        control.started_at += started_again

    control._stream = stream  # type: ignore[method-assign]  # ends by itself, as a dying supervisor does

    def until_three(event: dict[str, Any], *, as_json: bool) -> None:
        seen.append(event["seq"])
        if event["seq"] == 3:
            raise Over

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Over):  # noqa: PT012  # the patch must end with it
        patch.setattr(logs_module, "_show", until_three)
        logs_module.events(control.paths, 0, lines, following=True, as_json=False)

    assert seen == expected
