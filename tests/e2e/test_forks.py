"""How workers come into being, through the whole program: by the fork server and by exec, and without it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fakes.house import (
    House,
    attempts,
    fork_servers_of,
    is_alive,
    listens,
    message,
    post,
    wait_gone,
    workers_of,
)

from .providers import Ollama, Router

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a fork server"),
]

WAYS = ("fork", "exec")


def spawning(house: House, way: str) -> House:
    """Say it in the configuration, as its owner would."""
    folder = house.home / "config" / "modelproxy"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(f'spawn = "{way}"\n')
    return house


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def forking() -> Iterator[House]:
    """A home with a supervisor, its fork server ready."""
    with House() as house:
        house.start()
        wait_way(house, "fork")
        yield house


def wait_way(house: House, way: str) -> dict[str, Any]:
    for _ in attempts():
        about: dict[str, Any] = house.api("GET", "/v1/version").json
        if about["spawn"] == way:
            return about
    raise AssertionError(f"never by {way}\n{house.daemon_log()}")


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def test_a_proxy_lives_alike_on_both_ways(house: House, way: str) -> None:
    """Served, died and started again with its cause, restarted, seen in `ps aux`, and told by `daemon status`."""
    spawning(house, way).start()
    row = house.tell("up", "echo/demo", "--port", "0", "--json")

    assert house.tell("daemon", "status", "--json")["spawn"] == way
    assert len(fork_servers_of(house)) == (way == "fork")
    words = Path(f"/proc/{row['pid']}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    assert words[1:4] == [b"-P", b"-m", b"modelproxy.worker"]
    assert words[-2:] == [b"echo/demo", b"g1"]
    assert status_of(row["pid"])["PPid"] == str(house.supervisors[-1].pid)
    assert post(row["port"], message()).status == 200
    os.kill(row["pid"], signal.SIGTERM + 1)  # one that nobody handles: its number is seen
    after = house.wait_row(lambda row: row["state"] == "ready" and row["generation"] == 2)
    assert "signal 16" in house.wait_event("died")["text"] or "SIGSTKFLT" in house.wait_event("died")["text"]
    assert post(after["port"], message()).status == 200
    assert house.restart("echo/demo").status == 200
    assert house.down("echo/demo").status == 200
    assert workers_of(house) == []


def test_what_a_fresh_worker_holds(house: House, way: str) -> None:
    """Its own listeners, its log, its line to us; no lock, no control socket, nothing of another proxy, no key."""
    house.env["OPENROUTER_API_KEY"] = "sk-not-for-echo"
    spawning(house, way).start()
    first, second = house.up("echo/a"), house.up("echo/b")
    post(second["port"], message())
    links = descriptors(second["pid"])
    files = {link for link in links if link.startswith("/")}
    supervisor = descriptors(house.supervisors[-1].pid)
    allowed = {"/dev/null", str(house.state / "logs" / "echo~b.log")}

    assert {name for name in files if not name.startswith(str(house.state / "ledger.db"))} == allowed
    assert listens(second["pid"], second["port"])
    assert not listens(second["pid"], first["port"])
    sockets = {link for link in links if link.startswith("socket:")}
    # Of the supervisor's sockets it has its two listeners (IPv4 and IPv6), and no other.
    assert len(sockets & set(supervisor)) == 2
    assert not any(link.startswith("pipe:") for link in links)
    assert int(status_of(second["pid"])["SigBlk"], 16) == 0
    environment = Path(f"/proc/{second['pid']}/environ").read_bytes()
    assert b"sk-not-for-echo" not in environment
    assert f"HOME={house.home}\0".encode() in environment


def descriptors(pid: int) -> list[str]:
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed in the meantime
            found.append(os.readlink(entry))
    return found


def test_without_its_fork_server_a_proxy_is_started_by_exec(forking: House) -> None:
    """Killed or stopped: what runs goes on, what is wanted comes, the log says it once, and another one comes."""
    house = forking
    row = house.up("echo/a")
    (lost,) = fork_servers_of(house)
    os.kill(lost, signal.SIGKILL)
    wait_gone(lost)
    rows = [house.up(f"echo/b{number}") for number in range(3)]

    assert all(post(one["port"], message()).status == 200 for one in [row, *rows])
    assert house.daemon_log().count("the fork server was lost (SIGKILL)") == 1
    wait_way(house, "fork")
    (found,) = fork_servers_of(house)
    assert found != lost
    os.kill(row["pid"], signal.SIGKILL)
    assert house.wait_row(lambda row: row["restarts"] == 1 and row["state"] == "ready", "echo/a")
    assert "SIGKILL" in house.wait_event("died", "echo/a")["text"]


def test_a_restarted_supervisor_has_a_fork_server_of_its_own(forking: House) -> None:
    """Its code is never older than the supervisor's; workers are adopted, and their ends are still seen."""
    house = forking
    row = house.up()
    (old,) = fork_servers_of(house)
    house.tell("daemon", "restart", "--json")

    assert not os.path.exists(f"/proc/{old}")  # reaped as well
    wait_way(house, "fork")
    assert old not in fork_servers_of(house)
    assert house.wait_row(lambda row: row["state"] == "ready")["pid"] == row["pid"]
    os.kill(row["pid"], signal.SIGKILL)
    assert "SIGKILL" in house.wait_event("died")["text"]
    assert house.wait_row(lambda row: row["state"] == "ready" and row["generation"] == 2)


def test_the_fork_server_of_a_killed_supervisor_leaves(forking: House) -> None:
    """By the end of its line; its workers serve on and the next supervisor adopts them."""
    house = forking
    row = house.up()
    (old,) = fork_servers_of(house)
    house.kill_supervisor()

    assert wait_gone(old)
    assert post(row["port"], message()).status == 200
    house.start()
    house.wait_event("adopted")
    assert house.row()["pid"] == row["pid"]
    os.kill(row["pid"], signal.SIGKILL)
    house.wait_row(lambda row: row["state"] == "ready" and row["generation"] == 2)


def test_a_hung_worker_leaves_its_stack_in_its_own_log(forking: House) -> None:
    """SIGABRT, as the supervisor sends it, in a worker that was forked."""
    house = forking
    row = house.up()
    os.kill(row["pid"], signal.SIGABRT)
    house.wait_row(lambda row: row["state"] == "ready" and row["generation"] == 2)

    log = (house.state / "logs" / "echo~demo.log").read_text()
    assert "Fatal Python error: Aborted" in log
    assert "trio/_core/_run.py" in log
    assert "SIGABRT" in house.wait_event("died")["text"]


def test_a_forked_worker_imports_nothing_more(house: House) -> None:
    """An installation that is replaced underneath cannot mix two versions in one worker, whatever its kind."""
    with Ollama() as ollama, Router() as router:
        house.start(arguments=["--worker-module", "fakes.confiding_worker"])
        wait_way(house, "fork")
        rows = [
            house.up("echo/demo"),
            house.up("ollama/codellama", base_url=ollama.base),
            house.up("openai/codellama", base_url=router.base, api_key="sk-any"),
            house.up("anthropic/m", base_url=router.base, api_key="sk-any"),
        ]
        for row in rows:
            post(row["port"], {**message(), "stream": True})
            post(row["port"], message())
        for row in rows:
            house.api("GET", "/v1/version")
            assert house.down(row["name"]).status == 200
            assert not is_alive(row["pid"])
    late = {
        name
        for log in (house.state / "logs").glob("*.log")
        for line in log.read_text().splitlines()
        if line.startswith("imported after the fork:")
        for name in line.split(": ", 1)[1].split()
    }

    assert [name for name in late if name.partition(".")[0] not in sys.stdlib_module_names] == []
