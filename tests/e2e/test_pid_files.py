"""Pid files: for scripts only; nothing of ours reads them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from fakes.house import House, attempts, free_port, get, is_alive, wait_gone

pytestmark = pytest.mark.slow


def pid_file(house: House, port: int) -> Path:
    return house.runtime / "modelproxy" / "proxies" / f"{port}.pid"


def test_s59_a_pid_file_stands_while_the_proxy_runs_and_no_longer(house: House) -> None:
    house.start()
    view = house.tell("up", "echo/demo", "--port", "0", "--json")
    path = pid_file(house, view["port"])

    assert path.read_text() == f"{view['pid']}\n"
    assert get(view["port"], "/health").json["pid"] == view["pid"]
    house.tell("down", "echo/demo", "--json")
    assert not path.exists()


@pytest.mark.parametrize("module", ["modelproxy.ctl", "modelproxy.ctl.start_proxy"])
def test_s59_one_more_place_by_wish(house: House, module: str) -> None:
    house.start()
    extra = house.home / "my.pid"
    words = ["up", "echo/demo"] if module == "modelproxy.ctl" else ["--model", "echo/demo", "--background"]
    done = house.command(*words, "--port", "0", "--pid-file", str(extra), module=module)
    row = house.row()

    assert done.returncode == 0
    assert extra.read_text() == pid_file(house, row["port"]).read_text() == f"{row['pid']}\n"
    after = house.tell("restart", "echo/demo", "--json")
    assert extra.read_text() == f"{after['pid']}\n"
    house.tell("down", "echo/demo", "--json")
    assert not extra.exists()


@pytest.mark.parametrize("path", ["missing/x.pid", "", ".", "state"])
@pytest.mark.parametrize("module", ["modelproxy.ctl", "modelproxy.ctl.start_proxy"])
def test_s59_a_place_where_no_file_can_be_is_refused(house: House, module: str, path: str) -> None:
    """Before anything is started: a script that waits for its file would wait for ever."""
    (house.home / "state").mkdir()
    words = ["up", "echo/demo"] if module == "modelproxy.ctl" else ["--model", "echo/demo", "--background"]
    where = str(house.home / path) if path else ""
    done = house.command(*words, "--port", "0", "--pid-file", where, module=module)

    assert (done.returncode, done.stdout) == (2, "")
    assert "Cannot write a pid file at" in done.stderr
    assert house.processes() == []


def test_s59_a_stale_file_never_blocks_a_start_and_nobody_is_signalled_by_it(house: House) -> None:
    """It names a living process that is none of ours: this one."""
    house.start()
    port = free_port()
    path = pid_file(house, port)
    path.write_text(f"{os.getpid()}\n")
    view = house.tell("up", "echo/demo", "--port", str(port), "--json")

    assert path.read_text() == f"{view['pid']}\n"
    path.write_text(f"{os.getpid()}\n")
    house.tell("down", "echo/demo", "--json")
    # Ours is gone, and what somebody else wrote is not ours to remove.
    assert not is_alive(view["pid"])
    assert path.read_text() == f"{os.getpid()}\n"


def test_s60_s98_three_proxies_have_three_pid_files(house: House) -> None:
    house.start()
    views = [house.tell("up", f"echo/m{number}", "--port", "0", "--json") for number in range(3)]
    folder = house.runtime / "modelproxy" / "proxies"

    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        f"{view['port']}.pid": f"{view['pid']}\n" for view in views
    }
    assert len({view["pid"] for view in views}) == 3
    assert {row["pid"] for row in house.tell("ps", "--json")} == {view["pid"] for view in views}

    house.tell("down", "echo/m1", "--json")
    assert {path.name for path in folder.iterdir()} == {f"{views[at]['port']}.pid" for at in (0, 2)}
    assert [get(views[at]["port"], "/livez").status for at in (0, 2)] == [200, 200]


def test_s64_a_killed_workers_pid_does_not_stay_in_the_file(house: House) -> None:
    house.start()
    row = house.up()
    path = pid_file(house, row["port"])
    os.kill(row["pid"], signal.SIGKILL)
    wait_gone(row["pid"])
    gone_at = time.monotonic()
    for _ in attempts():
        try:
            if path.read_text() != f"{row['pid']}\n":
                break
        except FileNotFoundError:
            break
    assert time.monotonic() - gone_at < 10  # the row says 2, which are few on a busy machine

    after = house.wait_row(lambda row: row["restarts"] == 1 and row["state"] == "ready")
    assert path.read_text() == f"{after['pid']}\n"


def test_s64_after_kill_9_of_the_supervisor_the_next_start_cleans_up(house: House) -> None:
    house.start()
    lives = house.up("echo/lives")
    extra = house.home / "extra.pid"
    house.tell("up", "echo/leaves", "--port", "0", "--pid-file", str(extra), "--json")
    leaves = house.row("echo/leaves")
    house.kill_supervisor()
    assert pid_file(house, leaves["port"]).exists()
    # By hand, with nobody there to see it: the documented way to stop one.
    os.kill(leaves["pid"], signal.SIGTERM)
    wait_gone(leaves["pid"])
    abandoned = pid_file(house, free_port())
    abandoned.write_text("1\n")

    house.start()
    after = house.wait_row(lambda row: row["state"] == "ready", "echo/lives")
    assert not abandoned.exists()
    assert pid_file(house, lives["port"]).read_text() == f"{after['pid']}\n" == f"{lives['pid']}\n"
    for path in (pid_file(house, leaves["port"]), extra):
        assert not path.exists() or path.read_text() != f"{leaves['pid']}\n"
