"""The supervisor as a process: one of it, its sockets, its commands, and what it lets loose."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fakes.house import LIMIT_S, Answer, House, Stream, attempts, get, message, post, wait_gone

pytestmark = pytest.mark.slow


def raw(house: House, data: bytes) -> Answer:
    """These bytes on the control socket, and the answer to them."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(LIMIT_S)
        client.connect(str(house.control))
        client.sendall(data)
        response = http.client.HTTPResponse(client)
        response.begin()
        answer = Answer(response)
        response.close()
        return answer


def lock_pid(house: House) -> int:
    return int((house.runtime / "modelproxy" / "lock").read_text())


# --- its commands ---------------------------------------------------------------------------------


def test_daemon_start_status_stop_and_each_again(house: House) -> None:
    assert house.tell("daemon", "status", "--json", code=3)["error"]["code"] == "daemon_not_running"
    started = house.tell("daemon", "start", "--json")
    again = house.tell("daemon", "start", "--json")
    words = house.command("daemon", "start")

    assert (started["already"], again["already"]) == (False, True)
    assert started["pid"] == again["pid"] == lock_pid(house)
    assert words.stdout == f"already running  pid {started['pid']}\n"
    status = house.tell("daemon", "status", "--json")
    assert (status["pid"], status["proxies"], status["warnings"]) == (started["pid"], 0, [])
    assert f"running  pid {started['pid']}" in house.command("daemon", "status").stdout

    done = house.command("daemon", "stop")
    assert (done.returncode, done.stdout) == (0, f"stopped  pid {started['pid']}\n")
    assert wait_gone(started["pid"])
    assert house.tell("daemon", "stop", "--json", code=3)["error"]["code"] == "daemon_not_running"
    assert house.processes() == []


def test_daemon_run_in_the_foreground_and_a_second_one(house: House) -> None:
    with house.running("daemon", "run") as first:
        house.wait_ready()
        second = house.command("daemon", "run")
        assert second.returncode == 0
        assert f"is already running (pid {first.pid})" in second.stderr
        assert first.poll() is None
        first.terminate()
        assert first.wait(timeout=30) == 0


def test_s123_the_next_up_after_kill_9_starts_a_supervisor_that_adopts(house: House) -> None:
    house.start()
    row = house.up()
    house.kill_supervisor()
    view = house.tell("up", "echo/demo", "--json")

    assert (view["reused"], view["pid"], view["port"]) == (True, row["pid"], row["port"])
    assert lock_pid(house) != house.supervisors[-1].pid
    assert house.tell("ps", "--json")[0]["state"] == "ready"


def test_two_homes_do_not_meet(house: House) -> None:
    house.start()
    mine = house.up()
    with House() as other:
        other.start()
        theirs = other.up()
        assert other.command("down", "all").returncode == 0
        assert house.tell("down", str(theirs["port"]), "--json", code=1)["error"]["code"] == "unknown_proxy"
    assert get(mine["port"], "/health").json["pid"] == mine["pid"]


# --- one of it ------------------------------------------------------------------------------------


def test_s119_of_twenty_supervisors_exactly_one_lives(house: House) -> None:
    command = [sys.executable, "-P", "-m", "modelproxy.ctl", "daemon", "run"]
    # Not a pipe: the winner's socket holder has it open for a while after the winner.
    said = house.home / "said"
    with said.open("ab") as file:
        many = [
            subprocess.Popen(command, env=house.env, stdin=subprocess.DEVNULL, stderr=file) for _ in range(20)
        ]
    try:
        house.wait_ready()
        winner = lock_pid(house)
        assert winner in [process.pid for process in many]
        assert [process.wait(timeout=60) for process in many if process.pid != winner] == [0] * 19
        assert house.api("GET", "/v1/version").json["pid"] == winner
        assert said.read_text().count("is already running") == 19
    finally:
        for process in many:
            process.kill()
            process.wait()


def test_s119_a_dead_ones_socket_is_replaced(house: House) -> None:
    house.start()
    before = house.control.stat().st_ino
    house.kill_supervisor()
    assert house.control.exists()
    house.start()

    assert house.control.stat().st_ino != before
    assert house.command("ps").returncode == 0


def test_s119_what_is_no_socket_is_never_deleted(house: House) -> None:
    house.control.parent.mkdir(mode=0o700)
    house.control.write_text("mine")
    error = house.tell("daemon", "start", "--json", code=3)["error"]

    assert error["code"] == "daemon_start_failed"
    assert "is not a socket" in error["message"]
    assert house.control.read_text() == "mine"


def test_s119_socket_modes(house: House) -> None:
    house.start()
    house.up()
    folder = house.control.parent
    modes = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in folder.iterdir()}

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {name: oct(mode) for name, mode in modes.items() if name.endswith(".sock")} == {
        "control.sock": "0o600",
        "workers.sock": "0o600",
        "holder.sock": "0o600",
    }
    assert stat.S_IMODE(house.state.stat().st_mode) == 0o700
    assert stat.S_IMODE((house.state / "state.json").stat().st_mode) == 0o600
    for log in (house.state / "logs").iterdir():
        assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_s119_a_directory_that_others_can_enter_is_refused(house: House) -> None:
    house.control.parent.mkdir(mode=0o755)
    house.control.parent.chmod(0o755)
    done = house.command("daemon", "start")

    assert done.returncode != 0
    assert f"{house.control.parent} is open to other users; chmod 700" in done.stderr
    assert house.processes() == []


# --- garbage on its socket ------------------------------------------------------------------------


def test_s119_malformed_input_gets_an_error_and_the_daemon_goes_on(house: House) -> None:
    supervisor = house.start()
    row = house.up()
    put = b"PUT /v1/proxies/echo%2Fx HTTP/1.1\r\nHost: x\r\nContent-Length: "
    cases: list[tuple[bytes, int]] = [
        (b"\x00\x01\x02 garbage\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 505),
        (put + b"8\r\n\r\nnot json", 400),
        (put + b"2\r\n\r\n[]", 400),
        (put + b"-1\r\n\r\n", 400),
        (b"GET /v1/nothing HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"DELETE /v1/version HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    ]
    for data, status in cases:
        answer = raw(house, data)
        assert answer.status in ({status, 400} if status == 505 else {status}), data
        assert set(answer.json["error"]) == {"code", "message", "hint"}
    bodies: list[Any] = [
        {"model": "echo/x", "port": "3457"},
        {"model": "echo/x", "nonsense": 1},
        {"model": "echo/x", "port": -1},
        {"model": "echo/x", "grace_s": -1},
        {"model": "echo/x", "pid_file": "relative"},
        {"model": "echo/y"},
        {},
    ]
    for body in bodies:
        refused = house.api("PUT", "/v1/proxies/echo%2Fx", body)
        assert refused.status == 400, body
        assert refused.json["error"]["message"]

    assert supervisor.poll() is None
    assert [one["pid"] for one in house.tell("ps", "-a", "--json")] == [row["pid"]]
    assert post(row["port"], message()).status == 200


def test_s119_a_body_over_1_mib_and_a_head_over_16_kib_are_refused(house: House) -> None:
    house.start()
    put = b"PUT /v1/proxies/echo%%2Fx HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    body = raw(house, put % (1024 * 1024 + 1))
    # The last bytes are never looked at: the refusal comes before them.
    head = raw(house, b"GET /v1/version HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * (16 * 1024))

    assert body.status == 413
    assert head.status == 431
    for answer in (body, head):
        assert answer.json["error"]["code"] == "bad_request"
    assert house.tell("ps", "--json") == []


def test_s119_who_says_nothing_or_half_of_it_disturbs_nobody(house: House) -> None:
    house.start()
    silent = [socket.socket(socket.AF_UNIX) for _ in range(20)]
    try:
        for number, client in enumerate(silent):
            client.connect(str(house.control))
            if number % 2:
                client.sendall(b"PUT /v1/proxies/echo%2Fx HTTP/1.1\r\nContent-Le")
        assert house.tell("up", "echo/demo", "--port", "0", "--json")["state"] == "ready"
    finally:
        for client in silent:
            client.close()
    assert house.command("ps").returncode == 0


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_s119_curl_speaks_to_the_control_socket(house: House) -> None:
    house.start()
    row = house.up()

    def curl(*words: str) -> Any:
        line = ["curl", "-sS", "--max-time", "30", "--unix-socket", str(house.control), *words]
        done = subprocess.run(line, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    assert [one["pid"] for one in curl("http://localhost/v1/proxies")] == [row["pid"]]
    assert curl("http://localhost/v1/proxies/echo%2Fdemo")["port"] == row["port"]
    made = curl("-X", "PUT", "-d", '{"model":"echo/b","port":0}', "http://localhost/v1/proxies/echo%2Fb")
    assert made["state"] == "ready"
    gone = curl("-X", "DELETE", "http://localhost/v1/proxies/all")
    assert {one["name"] for one in gone} == {"echo/demo", "echo/b"}


# --- what it lets loose ---------------------------------------------------------------------------


def test_s58_a_worker_is_a_daemon_of_its_own(house: House) -> None:
    supervisor = house.start()
    view = house.tell(
        "--model", "echo/demo", "--port", "0", "--background", module="modelproxy.ctl.start_proxy"
    )
    pid = view["pid"]
    log = str(house.state / "logs" / "echo~demo.log")

    assert os.getsid(pid) == os.getpgid(pid) == pid
    assert parent_of(pid) == supervisor.pid
    assert [os.readlink(f"/proc/{pid}/fd/{number}") for number in range(3)] == ["/dev/null", log, log]
    assert view["log"] == log
    house.kill_supervisor()
    for _ in attempts():
        if parent_of(pid) != supervisor.pid:
            break
    # Whoever reaps orphans here: pid 1, or a subreaper.
    assert parent_of(pid) != supervisor.pid
    assert get(view["port"], "/health").json["pid"] == pid


_TERMINAL = """
import os, pty, sys
pid, master = pty.fork()
if pid == 0:
    os.execvp(sys.executable, [sys.executable, "-c", sys.argv[1]])
seen = b""
while b"all up" not in seen:
    seen += os.read(master, 4096)
print(pid, flush=True)
os.close(master)  # the window is closed: SIGHUP to everything in it
os.waitpid(pid, 0)
"""
_SHELL = """
import subprocess, sys, time
ctl = [sys.executable, "-P", "-m"]
subprocess.run([*ctl, "modelproxy.ctl", "up", "echo/up", "--port", "0"], check=True)
subprocess.run([*ctl, "modelproxy.ctl.start_proxy", "--model", "echo/bg", "--port", "0", "--background"], check=True)
print("all up", flush=True)
time.sleep(600)
"""


def test_s51_s58_closing_the_terminal_ends_neither_proxies_nor_supervisor(house: House) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _TERMINAL, _SHELL],
        env=house.env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert wait_gone(int(done.stdout))
    rows = {row["name"]: row for row in house.tell("ps", "--json")}
    assert set(rows) == {"echo/up", "echo/bg"}
    for row in rows.values():
        assert post(row["port"], message()).status == 200
    assert house.supervisors == []  # it was the first `up` that started one


def test_s123_the_supervisors_own_state_survives_everything_at_once(house: House) -> None:
    """kill -9 of the supervisor and of one of two workers: the next one keeps one and replaces the other."""
    house.start()
    lives, dies = house.up("echo/lives"), house.up("echo/dies")
    stream = Stream(lives["port"], "echo:slow 20ms\n" + "word " * 60)
    stream.read_until(b"content_block_delta")
    house.kill_supervisor()
    os.kill(dies["pid"], signal.SIGKILL)
    wait_gone(dies["pid"])
    house.start()
    after = house.wait_row(lambda row: row["state"] == "ready", "echo/dies")

    assert after["port"] == dies["port"]
    assert after["pid"] != dies["pid"]
    assert house.wait_row(lambda row: row["state"] == "ready", "echo/lives")["pid"] == lives["pid"]
    assert b"event: message_stop" in stream.rest()


def parent_of(pid: int) -> int:
    found = re.search(r"^PPid:\s+(\d+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])
