"""What a proxy's clients meet when it goes: `down`, a signal to the worker, a signal to the supervisor."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import threading
import time

import pytest
from fakes.house import (
    House,
    Stream,
    attempts,
    free_port,
    get,
    is_alive,
    is_refused,
    message,
    post,
    wait_gone,
)

from .providers import Ollama

pytestmark = pytest.mark.slow

SHORT = "echo:slow 20ms\n" + "word " * 40
ENDLESS = "echo:slow 50ms\n" + "word " * 20_000
PROMPTLY_S = 10.0
"""The rows say two seconds behind the grace, which a busy machine takes for a command alone; whoever waits for what he
should not wait for does so for longer than this: until the client leaves, or until a long grace is over."""


def wait_refused(port: int) -> None:
    """Until nobody listens: that announces itself nowhere."""
    for _ in attempts():
        if is_refused(port):
            return
    raise AssertionError("somebody still listens")


# --- a signal to the worker -----------------------------------------------------------------------


@pytest.mark.parametrize(("number", "signum"), [("s62", signal.SIGTERM), ("s63", signal.SIGINT)])
def test_s62_s63_a_signal_by_hand_stops_the_proxy(house: House, number: str, signum: signal.Signals) -> None:
    house.start()
    view = house.tell("up", "echo/demo", "--port", "0", "--json")
    began = time.monotonic()
    os.kill(view["pid"], signum)
    assert wait_gone(view["pid"])
    assert time.monotonic() - began < PROMPTLY_S

    row = house.wait_row(lambda row: row["state"] == "stopped")
    assert row["wanted"] is False
    assert row["deaths"] == []
    assert row["restarts"] == 0
    assert house.tell("ps", "--json") == []
    assert re.search(r"^echo/demo .* stopped ", house.command("ps", "-a").stdout, re.MULTILINE)
    assert is_refused(view["port"])
    told = [json.loads(line)["kind"] for line in house.command("events", "--json").stdout.splitlines()]
    assert told[-2:] == ["bye", "stopped"]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_s62_s63_a_worker_leaves_with_exit_0(house: House, signum: signal.Signals) -> None:
    """Only its parent sees the code, so here the worker is this test's own child."""
    spec = {"name": "d", "model_id": "echo/d", "provider": "echo", "kind": "echo", "model": "d", "port": 0}
    path = house.home / "spec.json"
    path.write_text(json.dumps(spec))
    with house.running("--spec", str(path), module="modelproxy.worker") as worker:
        assert worker.stderr is not None
        while "info ready" not in (line := worker.stderr.readline()):
            assert line, "it ended"
        began = time.monotonic()
        worker.send_signal(signum)
        assert worker.wait(timeout=30) == 0
        assert time.monotonic() - began < PROMPTLY_S


def test_s62_exit_0_without_goodbye_is_a_death(house: House) -> None:
    house.start(bad_workers=True)
    row = house.up("echo/bad-quitter")
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        post(row["port"], message())
    after = house.wait_row(lambda row: row["restarts"] == 1 and row["state"] == "ready", "echo/bad-quitter")

    assert after["pid"] != row["pid"]
    [shown] = house.tell("ps", "--json")
    assert (shown["state"], shown["restarts"]) == ("ready", 1)


def test_s63_ctrl_c_in_the_terminal_does_not_reach_supervised_workers(house: House) -> None:
    """The whole group gets SIGINT, as from a terminal; the supervisor drains, and streams are not cut twice."""
    house.start(process_group=0)
    row = house.up()
    stream = Stream(row["port"], SHORT)
    stream.read_until(b"content_block_delta")
    supervisor = house.supervisors[-1]
    os.killpg(supervisor.pid, signal.SIGINT)

    assert b"event: message_stop" in stream.rest()
    assert supervisor.wait(timeout=30) == 0
    assert wait_gone(row["pid"])


def test_s65_sigterm_to_the_worker_finishes_the_stream(house: House, ollama: Ollama) -> None:
    house.start()
    row = house.up("ollama/demo", base_url=ollama.base)
    gate = ollama.hold()
    stream = Stream(row["port"], "hello")
    stream.read_until(b"content_block_delta")
    os.kill(row["pid"], signal.SIGTERM)
    wait_refused(row["port"])

    assert is_alive(row["pid"])
    gate.release(10)
    assert b"event: message_stop" in stream.rest()
    assert wait_gone(row["pid"])
    assert house.wait_row(lambda row: row["state"] == "stopped", "ollama/demo")["deaths"] == []
    [kept] = house.tell("usage", "--json")
    assert (kept["status"], kept["stop_reason"]) == (200, "end_turn")


def test_s62_a_worker_without_a_supervisor_obeys_as_well(house: House) -> None:
    house.start()
    row = house.up()
    house.kill_supervisor()
    os.kill(row["pid"], signal.SIGTERM)

    assert wait_gone(row["pid"])


def test_s58_sighup_ends_neither_worker_nor_supervisor(house: House) -> None:
    house.start()
    row = house.up()
    for pid in (row["pid"], house.supervisors[-1].pid):
        os.kill(pid, signal.SIGHUP)
    # Both have been asked something since, so both have had the signal.
    assert post(row["port"], message()).status == 200
    assert house.row()["pid"] == row["pid"]
    assert house.supervisors[-1].poll() is None


# --- down while something is going on -------------------------------------------------------------


def test_s65_down_refuses_at_once_and_finishes_the_stream(house: House, ollama: Ollama) -> None:
    house.start()
    row = house.up("ollama/demo", base_url=ollama.base)
    gate = ollama.hold()
    stream = Stream(row["port"], "hello")
    stream.read_until(b"content_block_delta")
    with house.running("down", "ollama/demo", "--json") as down:
        wait_refused(row["port"])
        assert is_alive(row["pid"])
        gate.release(10)
        assert b"event: message_stop" in stream.rest()
        out, _ = down.communicate(timeout=30)

    assert down.returncode == 0
    assert json.loads(out)["state"] == "stopped"
    assert not is_alive(row["pid"])
    # The books hold the request that was finished while draining.
    assert "status=200" in house.command("logs", "ollama/demo").stdout
    [kept] = house.tell("usage", "--json")
    assert (kept["status"], kept["stop_reason"], kept["stream"]) == (200, "end_turn", True)


@pytest.mark.parametrize("how", ["down", "SIGTERM"])
def test_s65_a_stream_longer_than_the_grace_is_told_so_in_time(house: House, how: str) -> None:
    house.start()
    view = house.tell("up", "echo/demo", "--port", "0", "--grace", "500ms", "--json")
    stream = Stream(view["port"], ENDLESS)
    stream.read_until(b"content_block_delta")
    began = time.monotonic()
    if how == "down":
        done = house.command("down", "echo/demo")
        assert done.returncode == 0
    else:
        os.kill(view["pid"], signal.SIGTERM)
        assert wait_gone(view["pid"])
    assert time.monotonic() - began < PROMPTLY_S

    seen = stream.rest().decode()
    last = seen.strip().split("\n\n")[-1]
    assert last.startswith("event: error\n")
    error = json.loads(last.partition("data: ")[2])
    assert error["type"] == "error"
    assert error["error"]["type"] == "overloaded_error"
    assert "proxy is shutting down" in error["error"]["message"]
    assert "message_stop" not in seen
    [kept] = house.tell("usage", "--json")
    assert kept["error_type"] == "overloaded_error"


def test_s65_down_with_a_grace_of_its_own(house: House) -> None:
    house.start()
    row = house.up(grace_s=3600.0)
    stream = Stream(row["port"], ENDLESS)
    stream.read_until(b"content_block_delta")
    done = house.command("down", "echo/demo", "--grace", "0")

    assert done.returncode == 0
    assert b"overloaded_error" in stream.rest()


def test_s65_a_second_down_may_shorten_the_first(house: House) -> None:
    house.start()
    row = house.up(grace_s=3600.0)
    stream = Stream(row["port"], ENDLESS)
    stream.read_until(b"content_block_delta")
    with house.running("down", "echo/demo") as first:
        wait_refused(row["port"])
        assert house.command("down", "echo/demo", "--grace", "100ms").returncode == 0
        assert first.wait(timeout=30) == 0
    assert b"overloaded_error" in stream.rest()


def test_s65_a_plain_request_beyond_the_grace_gets_a_status(house: House) -> None:
    house.start()
    row = house.up(grace_s=0.2)
    answers = []
    asking = threading.Thread(
        target=lambda: answers.append(post(row["port"], message("echo:delay 1m\nlate")))
    )
    asking.start()
    house.wait_tally(lambda row: row["in_flight"] == 1)
    assert house.command("down", "echo/demo").returncode == 0
    asking.join()

    assert answers[0].status == 529
    assert answers[0].json["error"]["type"] == "overloaded_error"
    assert "retry-after" in answers[0].headers


def test_s65_an_idle_keep_alive_connection_is_closed_at_once(house: House) -> None:
    """At once: while a stream keeps the worker draining."""
    house.start()
    row = house.up()
    idle = http.client.HTTPConnection("127.0.0.1", row["port"], timeout=30)
    idle.request("GET", "/livez")
    idle.getresponse().read()
    stream = Stream(row["port"], ENDLESS)
    stream.read_until(b"content_block_delta")
    with house.running("down", "echo/demo"):
        assert idle.sock.recv(1) == b""
        assert is_alive(row["pid"])
        stream.read_until(b"word")
    stream.close()
    idle.close()


def test_s97_a_half_sent_body_does_not_keep_it(house: House) -> None:
    house.start()
    row = house.up(grace_s=0.5)
    with socket.create_connection(("127.0.0.1", row["port"]), timeout=30) as client:
        client.sendall(
            b"POST /v1/messages HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b'Content-Length: 1000\r\n\r\n{"model":'
        )
        house.wait_tally(lambda row: row["in_flight"] == 1)
        began = time.monotonic()
        assert house.command("down", "echo/demo").returncode == 0
        assert time.monotonic() - began < PROMPTLY_S
        answer = client.makefile("rb").read()

    assert not is_alive(row["pid"])
    assert answer == b"" or b" 529 " in answer.split(b"\r\n")[0]


def test_s97_a_half_sent_head_does_not_keep_it(house: House) -> None:
    house.start()
    row = house.up()
    with socket.create_connection(("127.0.0.1", row["port"]), timeout=30) as client:
        client.sendall(b"POST /v1/messages HTTP/1.1\r\nHost: 127")
        assert house.command("down", "echo/demo", "--grace", "1").returncode == 0
    assert not is_alive(row["pid"])


def test_s96_stopping_what_does_not_run_is_safe(house: House) -> None:
    house.start()
    house.up()
    assert house.tell("down", "echo/demo", "--json").get("already") is None
    for _ in range(2):
        assert house.tell("down", "echo/demo", "--json")["already"] == "stopped"


@pytest.mark.parametrize("model", ["ollama/demo", "ollama/other"])
def test_s96_the_port_is_free_while_the_last_stream_still_drains(
    house: House, ollama: Ollama, model: str
) -> None:
    """For the same model and for another one; the old stream is not disturbed."""
    house.start()
    row = house.up("ollama/demo", base_url=ollama.base)
    gate = ollama.hold()
    stream = Stream(row["port"], "hello")
    stream.read_until(b"content_block_delta")
    with house.running("down", "ollama/demo") as down:
        wait_refused(row["port"])
        view = house.up(model, port=row["port"], base_url=ollama.base)
        assert view["pid"] != row["pid"]
        assert get(row["port"], "/health").json["model_id"] == model
        assert is_alive(row["pid"])
        gate.release(10)
        assert b"event: message_stop" in stream.rest()
        assert down.wait(timeout=30) == 0
    assert wait_gone(row["pid"])
    assert get(row["port"], "/health").json["pid"] == view["pid"]
    path = house.runtime / "modelproxy" / "proxies" / f"{row['port']}.pid"
    assert path.read_text() == f"{view['pid']}\n"


# --- the supervisor goes --------------------------------------------------------------------------


def test_s123_daemon_stop_drains_all_and_the_next_one_restores_them(house: House, ollama: Ollama) -> None:
    supervisor = house.start()
    talking = ("ollama/one", "ollama/two")
    # At ports that nobody is given while no supervisor has them.
    rows = {name: house.up(name, port=free_port(), base_url=ollama.base) for name in talking}
    rows["echo/idle"] = house.up("echo/idle", port=free_port())
    house.up("echo/gone")
    house.down("echo/gone")
    gate = ollama.hold()
    streams = [Stream(rows[name]["port"], "hello") for name in talking]
    for stream in streams:
        stream.read_until(b"content_block_delta")
    with house.running("daemon", "stop", "--json") as stop:
        # All at the same time: every port is closed while both streams still run.
        for row in rows.values():
            wait_refused(row["port"])
        # Not just slow: it will not take anything new.
        refused = house.tell("ps", "--json")
        assert {row["name"] for row in refused} <= set(rows)
        gate.release(20)
        for stream in streams:
            assert b"event: message_stop" in stream.rest()
        out, err = stop.communicate(timeout=30)

    assert (stop.returncode, err) == (0, "")
    assert json.loads(out)["state"] == "stopped"
    assert supervisor.wait(timeout=30) == 0
    assert house.processes() == []
    folder = house.runtime / "modelproxy"
    assert {path.name for path in folder.iterdir()} <= {"lock", "proxies"}
    assert list((folder / "proxies").iterdir()) == []

    ollama.reset()
    house.start()
    for name, row in rows.items():
        again = house.wait_row(lambda row: row["state"] == "ready", name)
        assert again["port"] == row["port"]
        assert post(row["port"], message()).status == 200
    assert {row["name"] for row in house.tell("ps", "--json")} == set(rows)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_s123_a_signal_to_the_supervisor_is_daemon_stop(house: House, signum: signal.Signals) -> None:
    supervisor = house.start()
    row = house.up()
    stream = Stream(row["port"], SHORT)
    stream.read_until(b"content_block_delta")
    supervisor.send_signal(signum)

    assert b"event: message_stop" in stream.rest()
    assert supervisor.wait(timeout=30) == 0
    assert house.processes() == []
    assert not house.control.exists()


def test_s123_a_stopping_supervisor_refuses_up(house: House) -> None:
    supervisor = house.start()
    row = house.up(grace_s=3600.0)
    stream = Stream(row["port"], ENDLESS)
    stream.read_until(b"content_block_delta")
    supervisor.terminate()
    wait_refused(row["port"])
    answer = house.api("PUT", "/v1/proxies/echo%2Fnew", {"model": "echo/new", "port": 0})

    assert (answer.status, answer.json["error"]["code"]) == (503, "stopping")
    stream.close()
    assert supervisor.wait(timeout=30) == 0


def test_s123_the_second_sigterm_ends_it_at_once(house: House) -> None:
    supervisor = house.start()
    row = house.up(grace_s=3600.0)
    stream = Stream(row["port"], ENDLESS)
    stream.read_until(b"content_block_delta")
    supervisor.terminate()
    wait_refused(row["port"])
    assert supervisor.poll() is None
    supervisor.terminate()

    assert b"overloaded_error" in stream.rest()
    assert supervisor.wait(timeout=30) == 0
    assert house.processes() == []


def test_s123_daemon_stop_with_a_grace_of_its_own(house: House) -> None:
    house.start()
    row = house.up(grace_s=3600.0)
    stream = Stream(row["port"], ENDLESS)
    stream.read_until(b"content_block_delta")
    done = house.command("daemon", "stop", "--grace", "0")

    assert done.returncode == 0
    assert b"overloaded_error" in stream.rest()
    assert house.supervisors[-1].wait(timeout=30) == 0


def test_s123_kill_9_of_the_supervisor_leaves_streams_whole_and_the_next_adopts(house: House) -> None:
    house.start()
    row = house.up()
    stream = Stream(row["port"], "echo:slow 20ms\n" + "word " * 100)
    stream.read_until(b"content_block_delta")
    house.kill_supervisor()
    assert post(row["port"], message()).status == 200
    house.start()
    after = house.wait_row(lambda row: row["state"] == "ready")

    assert (after["pid"], after["port"], after["restarts"]) == (row["pid"], row["port"], 0)
    assert b"event: message_stop" in stream.rest()


def test_s123_daemon_restart_keeps_the_workers_and_their_streams(house: House) -> None:
    house.start()
    rows = [house.up(f"echo/m{number}") for number in range(2)]
    stream = Stream(rows[0]["port"], "echo:slow 20ms\n" + "word " * 100)
    stream.read_until(b"content_block_delta")
    before = house.api("GET", "/v1/version").json
    after = house.tell("daemon", "restart", "--json")

    assert after["started_at"] > before["started_at"]
    for row in rows:
        now = house.wait_row(lambda row: row["state"] == "ready", row["name"])
        assert (now["pid"], now["port"]) == (row["pid"], row["port"])
    assert b"event: message_stop" in stream.rest()
    words = house.command("daemon", "restart")
    assert (words.returncode, words.stdout.split()[0]) == (0, "restarted")


def test_s122_a_killed_worker_comes_back_and_refuses_nobody(house: House) -> None:
    house.start()
    row = house.up()
    os.kill(row["pid"], signal.SIGKILL)

    assert post(row["port"], message()).status == 200
    house.wait_row(lambda row: row["state"] == "ready" and row["restarts"] == 1)
    [after] = house.tell("ps", "--json")
    assert (after["port"], after["restarts"], after["state"]) == (row["port"], 1, "ready")
    verbose = house.command("ps", "-v").stdout
    assert re.search(rf"death: SIGKILL \S+ ago \(g1, pid {row['pid']}, had been ready for ", verbose)


def test_s122_a_proxy_that_cannot_start_is_failed_with_its_last_words() -> None:
    with House(FIRST_DELAY_S=0.02) as house:
        house.start(bad_workers=True)
        done = house.command("up", "echo/bad-import", "--port", "0")
        shown = house.command("ps", "-v").stdout

        assert (done.returncode, done.stdout) == (1, "")
        assert "crashed at import, as told" in done.stderr
        assert house.row("echo/bad-import")["state"] == "failed"
        assert (
            "failed: 5 starts were never ready; last: exit 1; fix it, then proxyctl up echo/bad-import"
            in shown
        )
        assert "  | RuntimeError: crashed at import, as told  (in misbehave, fakes/bad_worker.py:" in shown
        page = house.command("why", "echo/bad-import")
        assert (page.returncode, page.stderr) == (0, "")
        assert re.search(
            r"^  next +nothing by itself; clients get 503 with x-should-retry: false",
            page.stdout,
            re.MULTILINE,
        )
        assert re.search(r"^  run +proxyctl up echo/bad-import$", page.stdout, re.MULTILINE)
        assert (
            len(re.findall(r"^  exit 1 .* ago \(g\d, pid \d+, never ready in ", page.stdout, re.MULTILINE))
            == 5
        )
        assert re.search(r"^  \S+  failed  5 starts were never ready", page.stdout, re.MULTILINE)
        assert re.search(
            r"^  RuntimeError: crashed at import, as told .*\(5 times\)$", page.stdout, re.MULTILINE
        )
