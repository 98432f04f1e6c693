"""How a proxy is kept: lazy, idle, recycled; and what is done about a loop that beats and serves nobody."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakes.house import House, Stream, is_refused, message, post, wait_gone

pytestmark = pytest.mark.slow

_PTRACE_SEIZE, _PTRACE_INTERRUPT, _PTRACE_DETACH = 0x4206, 0x4207, 17


@pytest.fixture
def house() -> Iterator[House]:
    """Workers beat every two seconds: more is silence here."""
    with House(SILENCE_LIMIT_S=2.5, MEMORY_LOOK_S=0.0) as house:
        yield house


def test_a_lazy_proxy_is_started_by_its_first_client(house: House) -> None:
    """`up` costs no process; whoever comes first waits in the queue; and the next supervisor knows it as idle."""
    said = house.command("up", "echo/demo", "--lazy", "--port", "0")
    assert said.returncode == 0, said
    assert "idle" in said.stdout
    assert said.stderr == ""
    row = house.row()
    assert (row["state"], row["pid"], row["wanted"]) == ("idle", None, True)
    assert (row["generation"], row["rss"]) == (0, None)
    house.tell("daemon", "restart", "--json")
    house.wait_ready()
    assert house.row()["state"] == "idle"

    assert post(row["port"], message()).status == 200
    assert house.wait_row(lambda row: row["state"] == "ready")["restarts"] == 0
    house.down("echo/demo")
    assert is_refused(row["port"])


def test_an_idle_proxy_survives_supervisor_and_holder(house: House) -> None:
    """Nobody has its socket any more: the next supervisor opens the port anew."""
    house.start()
    row = house.up(lazy=True)
    house.kill_holder()
    house.kill_supervisor()
    house.kill_holder()
    house.start()

    assert house.row()["state"] == "idle"
    assert post(row["port"], message()).status == 200


def test_idle_stop_refuses_nobody(house: House) -> None:
    """Clients come in the very moment in which the worker is told to go, and when it has gone."""
    house.start()
    row = house.up(idle_stop_s=1.0)
    answers, seen = [], 0
    for _ in range(2):
        seen = house.wait_event("idle", since=seen)["seq"]
        answers.append(post(row["port"], message()).status)  # by the leaving one, if it was quick
        house.wait_row(lambda row: row["state"] in ("idle", "ready"))
        answers.append(post(row["port"], message()).status)

    assert answers == [200] * 4
    last = house.row()
    assert (last["deaths"], last["restarts"], last["idle_stop_s"]) == ([], 0, 1.0)
    assert last["generation"] >= 3


def test_a_stream_keeps_a_worker_from_resting(house: House) -> None:
    """However long it takes: what is in flight is a use."""
    house.start()
    row = house.up(idle_stop_s=1.0)
    stream = Stream(row["port"], "echo:slow 500ms\none two three four")
    stream.read_until(b"three")
    assert house.row()["state"] == "ready"

    assert b"message_stop" in stream.rest()
    house.wait_row(lambda row: row["state"] == "idle")
    assert house.row()["generation"] == 1


def test_a_worker_with_too_much_memory_is_rolled_once(house: House) -> None:
    """Its stream goes on to its end. That the new one is too large as well is said, and not rolled again."""
    house.start()
    row = house.up()
    assert row["rss"] > 2**24
    stream = Stream(row["port"], "echo:slow 500ms\none two three four")
    stream.read_until(b"one")
    assert house.up(port=row["port"], max_rss=2**24)["pid"] == row["pid"]
    recycled = house.wait_event("recycled")
    fat = house.wait_event("too-large")

    assert recycled["text"].endswith("> 16 MiB")
    assert "again" in fat["text"]
    assert "is --max-rss too small?" in house.row()["detail"]
    assert b"message_stop" in stream.rest()
    assert wait_gone(row["pid"])
    assert (house.row()["generation"], house.row()["deaths"]) == (2, [])


def test_a_loop_that_beats_but_takes_nobody_is_replaced(house: House) -> None:
    """Found by the kernel's queue; its stacks are in the log; the client in the queue is not lost."""
    house.start(bad_workers=True)
    row = house.up("echo/bad-shut")
    with socket.create_connection(("127.0.0.1", row["port"])):
        hung = house.wait_event("hung", "echo/bad-shut")
        assert wait_gone(row["pid"])
        after = house.wait_row(
            lambda row: row["generation"] == 2 and row["state"] == "ready", "echo/bad-shut"
        )

    assert "took no connection for" in hung["text"]
    assert after["deaths"][0]["cause"].startswith("hung (took no connection for")
    log = Path(row["log"]).read_text()
    assert "Fatal Python error: Aborted" in log
    assert "most recent call first" in log


def test_a_worker_in_a_debugger_is_left_alone(house: House) -> None:
    """It is silent, and `ps` says why; when the debugger lets go it serves on."""
    house.start()
    row = house.up()
    with debugger(row["pid"]):
        house_says = house.wait_tally(lambda row: "traced by a debugger" in row["detail"])
        assert (house_says["state"], house_says["pid"]) == ("ready", row["pid"])

    assert post(row["port"], message()).status == 200
    house.wait_tally(lambda row: "traced" not in row["detail"])
    assert (house.row()["pid"], house.row()["deaths"]) == (row["pid"], [])


@contextmanager
def debugger(pid: int) -> Iterator[None]:
    """Hold a process as a debugger does at a breakpoint."""
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.argtypes = [ctypes.c_long] * 4
    ptrace.restype = ctypes.c_long
    if ptrace(_PTRACE_SEIZE, pid, 0, 0) < 0:
        pytest.skip(f"tracing is not permitted here: {os.strerror(ctypes.get_errno())}")
    assert ptrace(_PTRACE_INTERRUPT, pid, 0, 0) == 0
    os.waitpid(pid, 0x40000000)  # __WALL: until it stands still
    try:
        yield
    finally:
        assert ptrace(_PTRACE_DETACH, pid, 0, 0) == 0
        os.kill(pid, signal.SIGCONT)
