"""The supervisor under a service manager, from outside: with a manager that only pretends.

`systemd/prove` does the same in a booted systemd.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.house import House, Stream, attempts, is_alive, is_refused, message, post, processes_of
from fakes.systemd import ServiceManager, Systemctl

UNIT = "modelproxy.service"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="where systemd is")]


class Unit:
    """A house whose supervisor is a service."""

    def __init__(self, house: House, manager: ServiceManager, systemctl: Systemctl) -> None:
        self.house = house
        self.manager = manager
        self.systemctl = systemctl
        house.runtime.joinpath("modelproxy").mkdir(mode=0o700)
        self.control = socket.socket(socket.AF_UNIX)
        self.bind()
        house.env |= {"PATH": systemctl.path, "NOTIFY_SOCKET": manager.address, "FDSTORE": "512"}

    def bind(self) -> None:
        """As systemd does, whatever stands there."""
        self.control.close()
        self.house.control.unlink(missing_ok=True)
        self.control = socket.socket(socket.AF_UNIX)
        self.control.bind(str(self.house.control))
        self.control.listen()

    def start(self, **environment: str) -> subprocess.Popen[bytes]:
        """As systemd does: the control socket and what is in the store, from number 3 on."""
        given = {"control": [self.control], **self.manager.store}
        names = [name for name, kept in given.items() for _ in kept]
        numbers = [one.fileno() for kept in given.values() for one in kept]
        places = " ".join(f"{3 + index}<&{number}" for index, number in enumerate(numbers))
        self.manager.said.clear()
        self.house.env |= environment | {"LISTEN_FDS": str(len(numbers)), "LISTEN_FDNAMES": ":".join(names)}
        process = self.house.start(
            prefix=["bash", "-c", f'export LISTEN_PID=$$; exec "$@" {places}', "bash"],
            arguments=["--unit", UNIT],
            pass_fds=numbers,
            wait=False,
        )
        self.manager.wait_for(READY="1")
        return process

    def stop_by(self, job: str) -> None:
        """From now on this is what the manager says it is doing."""
        self.systemctl.answers("list-jobs", f"1 {UNIT} {job} running\n" if job else "")


@pytest.fixture
def unit(house: House, tmp_path: Path) -> Iterator[Unit]:
    with ServiceManager(house.home) as manager:
        made = Unit(house, manager, Systemctl(tmp_path))
        yield made
        made.control.close()


def test_ready_is_said_when_the_control_socket_answers(unit: Unit) -> None:
    """On the very socket that was handed over; the service keeps no holder of its own."""
    inode = unit.house.control.stat().st_ino
    process = unit.start()
    version = unit.house.api("GET", "/v1/version").json

    assert (version["pid"], version["unit"]) == (process.pid, UNIT)
    assert unit.house.control.stat().st_ino == inode
    row = unit.house.up()
    unit.manager.wait_for(STATUS="1 proxy: 1 ready")
    unit.manager.wait_for(FDSTORE="1", FDNAME=f"port-{row['port']}")
    assert processes_of(unit.house, b"supervisor/holder.py") == []
    assert unit.house.down("echo/demo").status == 200
    assert unit.manager.store == {}  # by the time of the answer
    assert is_refused(row["port"])


def test_a_stop_drains_and_leaves_the_socket_to_its_unit(unit: Unit) -> None:
    process = unit.start()
    row = unit.house.up()
    stream = Stream(row["port"], "echo:slow 20ms\n" + "word " * 20)
    stream.read_until(b"content_block_delta")
    unit.stop_by("stop")
    process.terminate()

    assert b"message_stop" in stream.rest()
    assert process.wait(timeout=30) == 0
    assert not is_alive(row["pid"])
    unit.manager.wait_for(STOPPING="1")
    extended = next(one for one in unit.manager.said if "EXTEND_TIMEOUT_USEC" in one)
    assert int(extended["EXTEND_TIMEOUT_USEC"]) >= 30_000_000
    assert unit.house.control.exists()


@pytest.mark.parametrize("job", ["restart", ""])
def test_a_restart_leaves_the_workers_to_the_next_supervisor(unit: Unit, job: str) -> None:
    """So does a SIGTERM that the manager knows nothing of: it will start the service again."""
    first = unit.start()
    row = unit.house.up()
    stream = Stream(row["port"], "echo:slow 20ms\n" + "word " * 100)
    stream.read_until(b"content_block_delta")
    unit.stop_by(job)
    first.terminate()
    assert first.wait(timeout=30) == 0
    assert post(row["port"], message()).status == 200
    unit.start()
    unit.house.wait_event("adopted")

    assert unit.house.row()["pid"] == row["pid"]
    assert b"message_stop" in stream.rest()


def test_supervisor_and_worker_killed_together_refuse_nobody(unit: Unit) -> None:
    """The store has the sockets: who connects meanwhile is served by the next worker."""
    process = unit.start()
    row = unit.house.up()
    process.kill()
    unit.house.kill_worker(row["pid"])
    process.wait()
    assert not is_refused(row["port"])
    waiting = socket.create_connection(("127.0.0.1", row["port"]), timeout=30)
    unit.start()

    with waiting:
        waiting.sendall(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert waiting.recv(100).startswith(b"HTTP/1.1 200")
    assert unit.house.row()["pid"] != row["pid"]


def test_a_stop_over_the_control_socket_is_passed_on(unit: Unit) -> None:
    """The manager would start it again otherwise; its SIGTERM then ends it, within the grace that was said."""
    process = unit.start()
    row = unit.house.up()
    unit.stop_by("stop")
    unit.systemctl.answers("stop", hook=f"kill {process.pid}")
    answer = unit.house.api("POST", "/v1/daemon/stop", {"grace_s": 0.0})

    assert answer.status == 200
    assert process.wait(timeout=30) == 0
    assert not is_alive(row["pid"])
    assert f"stop --no-block {UNIT} modelproxy.socket" in unit.systemctl.asked


def test_a_restart_over_the_control_socket_is_the_manager_s(unit: Unit) -> None:
    """And where that fails the supervisor leaves by itself: it is started again in any case."""
    process = unit.start()
    row = unit.house.up()
    unit.systemctl.answers("restart", stderr="no", code=1)
    assert unit.house.api("POST", "/v1/daemon/restart").status == 200

    assert process.wait(timeout=30) == 0
    assert is_alive(row["pid"])
    assert "was asked to restart" in unit.house.daemon_log()


def test_a_watchdog_is_fed_and_its_abort_leaves_the_stacks(unit: Unit) -> None:
    process = unit.start(WATCHDOG_USEC="400000")
    unit.manager.wait_for(WATCHDOG="1")
    process.send_signal(signal.SIGABRT)

    assert process.wait(timeout=30) == -signal.SIGABRT
    assert "most recent call first" in unit.house.daemon_log()


def test_a_supervisor_by_hand_leaves_for_the_service(house: House) -> None:
    """`leave`: its workers serve on, its socket files are gone."""
    process = house.start()
    row: dict[str, Any] = house.up()
    assert house.api("POST", "/v1/daemon/leave").status == 200

    assert process.wait(timeout=30) == 0
    assert not house.control.exists()
    assert post(row["port"], message()).status == 200
    house.start()
    house.wait_event("adopted")
    assert house.row()["pid"] == row["pid"]


def test_a_service_takes_over_from_one_by_hand(unit: Unit) -> None:
    """Also when nobody has asked that one to leave: its control socket has been replaced by systemd's."""
    named = {"NOTIFY_SOCKET": unit.house.env.pop("NOTIFY_SOCKET"), "FDSTORE": unit.house.env.pop("FDSTORE")}
    unit.control.close()
    unit.house.control.unlink()
    by_hand = unit.house.start()
    row = unit.house.up()
    unit.bind()
    process = unit.start(**named)

    assert by_hand.wait(timeout=30) == 0
    assert unit.house.api("GET", "/v1/version").json["pid"] == process.pid
    unit.house.wait_event("adopted")
    assert unit.house.row()["pid"] == row["pid"]
    assert processes_of(unit.house, b"supervisor/holder.py") == []
    unit.manager.wait_for(FDSTORE="1", FDNAME=f"port-{row['port']}")


def test_the_journal_has_its_own_clock(house: House) -> None:
    """Lines carry no time where standard error is the journal's socket."""
    ours, journal = socket.socketpair()
    with ours, journal:
        found = Path(f"/proc/self/fd/{ours.fileno()}").stat()
        house.env["JOURNAL_STREAM"] = f"{found.st_dev}:{found.st_ino}"
        house.start(wait=False, stderr=ours)
        journal.settimeout(30)
        said = journal.recv(4096)
    for _ in attempts():
        if house.control.exists():
            break

    assert said.startswith(b"supervisor ready")
