"""The fork server itself, as a process that is asked by hand. What the supervisor makes of it: test_forks.py."""

from __future__ import annotations

import errno
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from fakes.house import TESTS

import modelproxy.worker
from modelproxy.worker import __main__, forkserver

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a fork server")

LIMIT_S = 30.0


@attrs.define
class Process:
    """A fork server and our end of its line."""

    child: subprocess.Popen[bytes]
    line: socket.socket
    said: Path

    def order(self, name: str, *sockets: socket.socket) -> tuple[dict[str, Any], int]:
        """The answer, and the pipe for the certificate."""
        reading, writing = os.pipe()
        log = os.open(self.said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        fds = [reading, log, *(one.fileno() for one in sockets)]
        socket.send_fds(self.line, [json.dumps({"name": name, "generation": 7}).encode()], fds)
        os.close(reading)
        os.close(log)
        return self.answer(), writing

    def answer(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.line.recv(4096))
        return answer


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(LIMIT_S)
    words = [str(theirs.fileno()), "fakes.telltale", "-" * 200]
    with (
        ours,
        subprocess.Popen(
            [sys.executable, "-P", "-m", "modelproxy.worker.forkserver", *words],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": str(TESTS)},
            start_new_session=True,
        ) as child,
    ):
        theirs.close()
        yield Process(child, ours, tmp_path / "said")
        ours.close()
        assert child.wait(LIMIT_S) == 0  # the end of the line is the end of the process


def stopped(pid: int) -> None:
    """Until the telltale has spoken. It is init's child here: nobody told us when it stops."""
    for _ in range(3000):
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
            return
        threading.Event().wait(0.01)
    raise AssertionError("it never came to its end")


def test_an_order_makes_a_worker(process: Process) -> None:
    """With its own command line, its listeners from 3 on, and what the certificate says."""
    assert process.answer() == {"ready": True}
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        answer, certificate = process.order("echo/demo", one, two)
        os.write(certificate, b'{"listeners": [3, 4]}')
        os.close(certificate)
        stopped(answer["pid"])
        found = json.loads(process.said.read_text())
        os.kill(answer["pid"], signal.SIGKILL)

        assert [tuple(name) for name in found["names"]] == [one.getsockname(), two.getsockname()]
    assert found["title"][-7:] == ["-P", "-m", "fakes.telltale", "--birth-fd", "5", "echo/demo", "g7"]
    assert found["argv"] == ["echo/demo", "g7"]
    assert sorted(found["fds"]) == ["0", "1", "2", "3", "4", "5"]
    assert (found["session"], found["threads"]) == (True, 1)


def test_a_name_that_is_too_long_for_ps_is_cut_there(process: Process) -> None:
    """And nothing behind the command line is touched: the environment comes next in memory."""
    assert process.answer() == {"ready": True}
    answer, certificate = process.order("echo/" + "long" * 200)
    os.write(certificate, b'{"listeners": []}')
    os.close(certificate)
    stopped(answer["pid"])
    found = json.loads(process.said.read_text())
    os.kill(answer["pid"], signal.SIGKILL)

    assert found["words"] == ["echo/" + "long" * 200, "g7"]
    assert found["title"][-1].startswith("echo/longlong")
    assert f"PYTHONPATH={TESTS}" in found["kernel_env"]


def test_everything_a_worker_may_import_is_loaded() -> None:
    """Every module of the package; the entry is that of `python -m`."""
    assert forkserver.load("modelproxy.worker") is __main__.main
    names = {found.name for found in pkgutil.walk_packages(modelproxy.worker.__path__, "modelproxy.worker.")}
    assert names - sys.modules.keys() == set()
    assert {"httpx", "sqlite3"} <= sys.modules.keys()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_no_room_for_a_process_is_an_answer(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fail)

    assert forkserver._fork(*pipe) == {"error": "Resource temporarily unavailable"}


def test_no_room_for_the_second_process_is_one_as_well(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one between has nobody to be between."""
    fork, calls = os.fork, [0]

    def once() -> int:
        calls[0] += 1
        if calls[0] > 1:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return fork()

    monkeypatch.setattr(os, "fork", once)

    assert forkserver._fork(*pipe) == {"error": "no second process could be made"}
