"""`start-proxy`: one JSON line, and in the foreground a process that stands for the proxy."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from typing import Any

import pytest
from fakes.house import House, Stream, free_port, get, is_alive, is_refused, listens, wait_gone

pytestmark = pytest.mark.slow

START_PROXY = "modelproxy.ctl.start_proxy"


def first_line(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()
    return json.loads(line)


def test_s48_without_a_model_it_says_which_flag_is_missing(house: House) -> None:
    done = house.command(module=START_PROXY)

    assert (done.returncode, done.stdout) == (1, "")
    assert json.loads(done.stderr) == {"error": "--model is required"}
    assert house.processes() == []


def test_s52_help_lists_every_flag_and_has_examples(house: House) -> None:
    done = house.command("--help", module=START_PROXY)

    assert (done.returncode, done.stderr) == (0, "")
    flags = "--model --port --base-url --api-key --api-key-env --api-key-file --background --pid-file --help"
    for flag in flags.split():
        assert f"{flag} " in done.stdout
    examples = done.stdout.partition("Examples:")[2]
    assert "ollama/codellama" in examples
    assert "--port 3457" in examples


def test_an_unknown_option_is_one_json_line_and_exit_2(house: House) -> None:
    done = house.command("--model", "echo/demo", "--nonsense", module=START_PROXY)

    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert "--nonsense" in json.loads(line)["error"]


def test_s51_s54_s61_background_returns_when_the_port_answers(house: House) -> None:
    """No supervisor runs before; the 5 s of the row include its start."""
    port = free_port()
    began = time.monotonic()
    done = house.command("--model", "echo/demo", "--port", str(port), "--background", module=START_PROXY)
    took = time.monotonic() - began

    assert (done.returncode, done.stderr) == (0, "")
    [line] = done.stdout.splitlines()
    said = json.loads(line)
    assert {**said, "port": port, "model": "echo/demo", "background": True} == said
    health = get(port, "/health")
    assert (health.status, health.json["pid"]) == (200, said["pid"])
    assert listens(said["pid"], port)
    assert took < 20  # on a machine that has other things to do
    # The command is over, the proxy is not.
    assert house.row()["state"] == "ready"


def test_s54_foreground_says_one_line_with_a_pid_that_owns_the_port(shared: House) -> None:
    with shared.running("--model", "echo/demo", "--port", "0", module=START_PROXY) as process:
        said = first_line(process)
        assert said["background"] is False
        assert said["model"] == "echo/demo"
        assert listens(said["pid"], said["port"])
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (out, err) == ("", "")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_s51_foreground_takes_the_proxy_down_when_told_to_leave(
    shared: House, signum: signal.Signals
) -> None:
    with shared.running("--model", "echo/demo", "--port", "0", module=START_PROXY) as process:
        said = first_line(process)
        stream = Stream(said["port"], "echo:slow 20ms\n" + "word " * 30)
        stream.read_until(b"content_block_delta")
        process.send_signal(signum)
        # It drains like any `down`: the stream is finished first.
        assert b"event: message_stop" in stream.rest()
        assert process.wait(timeout=30) == 0

    assert is_refused(said["port"])
    assert not is_alive(said["pid"])
    assert shared.row()["state"] == "stopped"


def test_s51_foreground_ends_when_somebody_else_takes_the_proxy_down(shared: House) -> None:
    with shared.running("--model", "echo/demo", "--port", "0", module=START_PROXY) as process:
        said = first_line(process)
        shared.tell("down", str(said["port"]), "--json")
        assert process.wait(timeout=30) == 0


def test_s51_foreground_stays_when_the_worker_is_replaced(shared: House) -> None:
    with shared.running("--model", "echo/demo", "--port", "0", module=START_PROXY) as process:
        said = first_line(process)
        shared.command("restart", "echo/demo")
        assert wait_gone(said["pid"])
        assert get(said["port"], "/livez").status == 200
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
    assert is_refused(said["port"])


def test_s02_start_proxy_reuses_what_runs(shared: House) -> None:
    row = shared.up()
    said = shared.tell("--model", "echo/demo", "--background", module=START_PROXY)

    assert (said["pid"], said["port"], said["reused"]) == (row["pid"], row["port"], True)
