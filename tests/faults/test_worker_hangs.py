"""Faults of a worker that lives and is of no use: stopped, blocked, slow, traced; and of one that only looks so."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from fakes.house import House, Stream, Waiting, get, message, post

pytestmark = [pytest.mark.slow, pytest.mark.fault]

# The workers of `bad_worker` beat five times a second, so that silence shows sooner. Where a hang is expected
# only; elsewhere the limit is as long as a machine may be busy with others.
HASTE = {"SILENCE_LIMIT_S": 1.5, "BUSY_SILENCE_LIMIT_S": 60.0}


def log_of(house: House, name: str) -> str:
    return (house.state / "logs" / f"{name.replace('/', '~')}.log").read_text()


def test_fault_08_a_stopped_worker_is_found_aborted_and_replaced() -> None:
    """8: `hung` with the cause, SIGABRT with every stack in the log, and who waits is served by the successor."""
    with House(**HASTE) as house:
        house.start(bad_workers=True)
        row = house.up()
        os.kill(row["pid"], signal.SIGSTOP)
        waiting = Waiting(row["port"], 3)
        hung = house.wait_event("hung")

        assert waiting.all() == [200] * 3
        assert "state T, idle" in hung["text"]
        after = house.wait_row(lambda row: row["state"] == "ready" and row["restarts"] == 1)
        assert after["pid"] != row["pid"]
        assert after["deaths"][-1]["cause"] == "hung (state T, idle); SIGABRT"
        said = log_of(house, "echo/demo")
        assert "Fatal Python error: Aborted" in said
        assert "most recent call first" in said


@contextmanager
def streaming(port: int) -> Iterator[Stream]:
    """An answer that takes minutes and is under way; in the end its client has seen it cut."""
    stream = Stream(port, "echo:slow 1s\n" + "word " * 200)
    stream.read_until(b"content_block_delta")
    yield stream
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        stream.rest()


def test_fault_08_a_stopped_one_that_drains_does_not_keep_its_clients() -> None:
    """8: they need not wait for the grace; its successor, who has the queue, has nothing to do with it."""
    with House(**HASTE) as house:
        house.start(bad_workers=True)
        row = house.up()
        with streaming(row["port"]):
            assert house.restart("echo/demo", grace_s=900).status == 200
            os.kill(row["pid"], signal.SIGSTOP)
            assert post(row["port"], message()).status == 200

        after = house.wait_row(lambda row: not row["draining"])
        assert (after["state"], after["restarts"], after["last_error"]) == ("ready", 0, None)
        (death,) = after["deaths"]
        assert (death["cause"], death["was_leaving"]) == ("hung (state T, idle); SIGABRT", True)
        assert "Fatal Python error: Aborted" in log_of(house, "echo/demo")

        with streaming(row["port"]):  # and the other way round: stopped, then rolled
            os.kill(after["pid"], signal.SIGSTOP)
            waiting = Waiting(row["port"], 2)
            assert house.restart("echo/demo", grace_s=900).status == 200
            assert waiting.all() == [200] * 2


def test_fault_08_down_of_a_stopped_one_does_not_wait_for_the_grace() -> None:
    """8: it is found hung as if it were wanted."""
    with House(**HASTE) as house:
        house.start(bad_workers=True)
        row = house.up()
        with streaming(row["port"]):
            os.kill(row["pid"], signal.SIGSTOP)
            assert house.down("echo/demo", grace_s=900).status == 200

        assert house.row()["deaths"][-1]["cause"] == "hung (state T, idle); SIGABRT"


def test_fault_08_one_that_does_not_heed_sigabrt_is_killed() -> None:
    """8: SIGCONT and SIGKILL, a moment later."""
    with House(**HASTE, ABORT_TO_KILL_S=0.3) as house:
        house.start(bad_workers=True)
        row = house.up("echo/bad-unabortable")
        with blocked(row["port"]):
            house.wait_event("hung", "echo/bad-unabortable")
            assert post(row["port"], message()).status == 200

        after = house.wait_row(lambda row: row["restarts"] == 1, "echo/bad-unabortable")
        assert after["deaths"][-1]["cause"] == "hung (state S, idle); SIGKILL"


@contextmanager
def blocked(port: int) -> Iterator[None]:
    """Its loop stands from now on; the client that brought it about waits."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(b"GET /block/sleep HTTP/1.1\r\nhost: localhost\r\n\r\n")
        yield


def test_fault_09_a_blocked_event_loop_shows_the_culprit() -> None:
    """9: as a stopped one, and the log says where it stands."""
    with House(**HASTE) as house:
        house.start(bad_workers=True)
        row, other = house.up("echo/bad-blocker"), house.up("echo/other")
        with blocked(row["port"]):
            hung = house.wait_event("hung", "echo/bad-blocker")
            assert post(row["port"], message()).status == 200

        assert "state S, idle" in hung["text"]
        after = house.wait_row(lambda row: row["restarts"] == 1, "echo/bad-blocker")
        assert after["deaths"][-1]["cause"] == "hung (state S, idle); SIGABRT"
        assert "in the_culprit_sleeps" in log_of(house, "echo/bad-blocker")
        assert house.row("echo/other")["pid"] == other["pid"]


def test_fault_10_a_busy_worker_is_not_killed() -> None:
    """10: silent for longer than the limit while it calculates: it is given more time, and answers in the end."""
    with House(SILENCE_LIMIT_S=1.0, BUSY_SILENCE_LIMIT_S=120.0) as house:
        house.start(bad_workers=True)
        row = house.up("echo/bad-blocker")
        assert get(row["port"], "/block/spin").status == 404  # it is no route, but it was answered

        assert post(row["port"], message()).status == 200
        after = house.row("echo/bad-blocker")
        assert (after["pid"], after["restarts"], after["deaths"]) == (row["pid"], 0, [])
        assert "hung" not in {event["kind"] for event in house.past_events()}


_TRACER = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
ATTACH, DETACH, pid = 16, 17, int(sys.argv[1])
if libc.ptrace(ATTACH, pid, None, None):
    print("refused:", os.strerror(ctypes.get_errno()), flush=True)
    sys.exit(1)
os.waitpid(pid, 0)
print("attached", flush=True)
sys.stdin.read()
libc.ptrace(DETACH, pid, None, None)
"""


@contextmanager
def traced(pid: int) -> Iterator[None]:
    """As in a debugger: held by another process, and standing still."""
    with subprocess.Popen(
        [sys.executable, "-c", _TRACER, str(pid)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as tracer:
        assert tracer.stdout is not None
        assert tracer.stdin is not None
        said = tracer.stdout.readline()
        if said != "attached\n":
            pytest.skip(f"no process may trace another one here ({said.strip()})")
        try:
            yield
        finally:
            tracer.stdin.close()
            tracer.wait(timeout=30)


def test_fault_11_a_worker_in_a_debugger_is_left_alone() -> None:
    """11: however long it stands still; `ps` says who holds it, and afterwards it serves on."""
    with House(**HASTE) as house:
        house.start(bad_workers=True)
        row = house.up()
        with traced(row["pid"]):
            waiting = Waiting(row["port"], 1)
            held = house.wait_tally(lambda row: "traced by a debugger" in row["detail"])
            assert held["state"] == "ready"
            looks = house.wait_tally(lambda row: row["workers"][0]["silent_s"] > 3 * HASTE["SILENCE_LIMIT_S"])
            assert "traced by a debugger" in looks["detail"]

        assert waiting.all() == [200]
        after = house.wait_tally(lambda row: "traced" not in row["detail"])
        assert (after["pid"], after["restarts"], after["deaths"]) == (row["pid"], 0, [])
        assert "hung" not in {event["kind"] for event in house.past_events()}


def test_fault_12_a_mute_successor_leaves_the_old_one_in_place() -> None:
    """12: in a roll: the old worker stays, and the one who asked is told that the roll failed."""
    with House(START_LIMIT_S=2.0) as house:
        house.start(bad_workers=True)
        row = house.up("echo/bad-successor")
        answer = house.restart("echo/bad-successor")

        assert answer.status == 500
        assert "the roll failed" in answer.json["error"]["message"]
        assert "not ready within" in answer.json["error"]["message"]
        after = house.row("echo/bad-successor")
        assert (after["state"], after["pid"]) == ("ready", row["pid"])
        assert "the roll failed" in after["detail"]
        assert post(row["port"], message()).status == 200


def test_fault_13_a_slow_start_is_waited_for() -> None:
    """13: `starting`, requests wait, and no liveness rule applies before it is ready."""
    with House(SILENCE_LIMIT_S=0.5, BUSY_SILENCE_LIMIT_S=0.5, START_LIMIT_S=60.0) as house:
        house.start(bad_workers=True)
        row = house.up("echo/bad-late", wait=False)
        waiting = Waiting(row["port"], 2)
        starting = house.wait_tally(lambda row: row["pid"] is not None, "echo/bad-late")

        assert starting["state"] == "starting"
        assert starting["detail"].startswith("starting")
        assert waiting.all() == [200] * 2
        started = house.wait_event("ready", "echo/bad-late")
        assert f"pid {starting['pid']}, generation 1" in started["text"]
        assert [event["kind"] for event in house.past_events()][:2] == ["up", "ready"]
