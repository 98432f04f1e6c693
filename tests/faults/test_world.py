"""Faults of the world around: no room on the disk, no descriptors, no interpreter, no provider."""

from __future__ import annotations

import http.client
import json
import os
import resource
import shlex
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fakes.chaos import far_script
from fakes.house import House, Stream, Waiting, attempts, cpu_s, get, message, post
from fakes.upstream import Upstream

pytestmark = [
    pytest.mark.slow,
    pytest.mark.fault,
    pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of another process are Linux's"),
]


@contextmanager
def limited(pid: int, kind: int, soft: int) -> Iterator[None]:
    """A limit of one running process, taken back at the end."""
    before = resource.prlimit(pid, kind)
    resource.prlimit(pid, kind, (soft, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, kind, before)


def full_disk(pid: int) -> Any:
    """No file that this process writes can grow: what a full disk is to it, whoever it runs as."""
    return limited(pid, resource.RLIMIT_FSIZE, 0)


def test_fault_29_no_room_for_the_state(house: House) -> None:
    """29: wishes are refused with 507 and change nothing; what runs is untouched; it heals by itself."""
    supervisor = house.start()
    row, other = house.up(), house.up("echo/other")
    stream = Stream(row["port"], "echo:slow 20ms\n" + "word " * 50)
    stream.read_until(b"content_block_delta")
    saved = (house.state / "state.json").read_bytes()
    with full_disk(supervisor.pid):
        for refused in (
            house.api("PUT", "/v1/proxies/echo%2Fnew", {"model": "echo/new", "port": 0}),
            house.down("echo/demo"),
            house.restart("echo/demo"),
        ):
            assert refused.status == 507
            assert refused.json["error"]["code"] == "disk_full"
            assert "nothing was changed" in refused.json["error"]["hint"]
        assert (house.state / "state.json").read_bytes() == saved
        assert {one["name"]: (one["state"], one["pid"]) for one in house.ps(stopped=True)} == {
            "echo/demo": ("ready", row["pid"]),
            "echo/other": ("ready", other["pid"]),
        }
        assert b"message_stop" in stream.rest()
        assert post(row["port"], message()).status == 200
        # A death is a fact and no wish: it is made good also now.
        os.kill(other["pid"], signal.SIGKILL)
        assert post(other["port"], message()).status == 200

    assert house.up("echo/new")["state"] == "ready"
    assert house.down("echo/demo").status == 200
    on_disk = {one["name"]: one for one in json.loads((house.state / "state.json").read_bytes())["proxies"]}
    assert {name: one["wanted"] for name, one in on_disk.items()} == {
        "echo/demo": False,
        "echo/other": True,
        "echo/new": True,
    }
    assert on_disk["echo/other"]["generation"] == 2


def test_fault_30_no_room_for_the_log(house: House) -> None:
    """30: the proxy serves; the lines that were lost are counted, and `ps` says so."""
    house.start()
    row = house.up()
    with full_disk(row["pid"]):
        assert [post(row["port"], message()).status for _ in range(3)] == [200] * 3
        after = house.wait_tally(lambda row: row["log_drops"] >= 3)

    assert (after["state"], after["pid"]) == ("ready", row["pid"])
    shown = house.command("ps", "-v").stdout
    assert "log lines" in shown
    log = house.state / "logs" / "echo~demo.log"
    before = log.stat().st_size
    assert post(row["port"], message()).status == 200
    house.wait_tally(lambda row: row["requests"] >= 4)
    house.wait_logged(before)


def test_fault_32_a_worker_without_descriptors(house: House) -> None:
    """32: streams go on, newcomers are told 529, `degraded` says why, and it recovers without a restart.

    529 and not 503: the error table's word for a full queue, after which clients come again.
    """
    house.start()
    row = house.up()
    stream = Stream(row["port"], "echo:slow 20ms\n" + "word " * 100)
    stream.read_until(b"content_block_delta")
    highest = max(int(entry.name) for entry in Path(f"/proc/{row['pid']}/fd").iterdir())
    with ExitStack() as stack:
        with limited(row["pid"], resource.RLIMIT_NOFILE, highest + 1):
            for _ in range(highest):  # more than there can be room for; none of them asks for anything
                stack.enter_context(socket.create_connection(("127.0.0.1", row["port"])))
            starved = house.wait_tally(lambda row: row["state"] == "degraded")
            assert "it can take no connection: Too many open files" in starved["detail"]
            told = post(row["port"], message())
            assert told.status == 529
            assert told.json["error"]["type"] == "overloaded_error"
            assert "no room for another connection: Too many open files" in told.json["error"]["message"]
            assert told.headers["retry-after"] == "1"
            assert told.headers["request-id"] == told.json["request_id"]
            assert Waiting(row["port"], 3).all() == [529] * 3
            before = cpu_s(row["pid"])
            assert b"message_stop" in stream.rest()
            assert cpu_s(row["pid"]) - before < 1.0  # a hundred words of a stream, and no busy loop

        # Nobody has to come for it to be well again.
        after = house.wait_tally(lambda row: row["state"] == "ready")
        assert Waiting(row["port"], 2).all() == [200] * 2
    assert (after["pid"], after["restarts"], after["deaths"]) == (row["pid"], 0, [])


def test_fault_33_the_interpreter_is_gone() -> None:
    """33: the error shows the path, nothing is tried in vain, and `up` mends it when it is back."""
    with House() as house:
        interpreter = Path(house.home / "bin" / "python")
        interpreter.parent.mkdir()
        interpreter.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
        interpreter.chmod(0o755)
        folder = house.home / "config" / "modelproxy"
        folder.mkdir(parents=True)
        (folder / "config.toml").write_text('spawn = "exec"\n')
        house.start(interpreter=interpreter)
        row = house.up()
        interpreter.rename(interpreter.with_name("away"))
        os.kill(row["pid"], signal.SIGKILL)

        failed = house.wait_row(lambda row: row["state"] == "failed")
        assert f"cannot start {interpreter}: No such file or directory" in failed["detail"]
        down = post(row["port"], message())
        assert down.status == 503
        assert str(interpreter) in down.json["error"]["message"]
        assert down.headers["x-should-retry"] == "false"
        interpreter.with_name("away").rename(interpreter)
        assert house.up()["state"] == "ready"
        assert post(row["port"], message()).status == 200


_MEMORY = "/sys/fs/cgroup/memory"
_ROOM = 256 * 1024**2


@contextmanager
def little_memory() -> Iterator[Path]:
    """A control group whose processes have a quarter of a gigabyte together."""
    lines = (line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines())
    paths = {controllers: path.lstrip("/") for _, controllers, path in lines}
    if "memory" in paths:
        group, limit = Path(_MEMORY, paths["memory"]), "memory.limit_in_bytes"
    else:
        group, limit = Path("/sys/fs/cgroup", paths.get("", "")), "memory.max"
    group /= f"modelproxy-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(
            f"no control group can be made here ({error.strerror}); the words: tests/supervisor/test_keeper.py"
        )
    try:
        (group / limit).write_text(str(_ROOM))
    except OSError as error:
        group.rmdir()
        pytest.skip(
            f"no memory can be limited here ({error.strerror}); the words: tests/supervisor/test_keeper.py"
        )
    yield group
    for _ in attempts():
        try:
            group.rmdir()  # as soon as the last process in it has been reaped
        except OSError:
            continue
        return


def test_fault_41_a_worker_that_the_kernel_kills_for_its_memory() -> None:
    """41: the worker dies and nobody else, it says `oom?`, and the next one serves."""
    with little_memory() as group, House() as house:
        supervisor = house.start(
            bad_workers=True, preexec_fn=lambda: (group / "cgroup.procs").write_text("0")
        )
        row, other = house.up("echo/bad-hungry"), house.up("echo/other")
        with pytest.raises((http.client.HTTPException, OSError)):
            get(row["port"], "/bloat")

        after = house.wait_row(
            lambda row: row["restarts"] == 1 and row["state"] == "ready", "echo/bad-hungry"
        )
        assert after["deaths"][-1]["cause"] == "SIGKILL (oom?)"
        assert post(row["port"], message()).status == 200
        assert supervisor.poll() is None
        assert house.row("echo/other")["pid"] == other["pid"]


def test_fault_43_a_provider_that_goes_and_comes_back(house: House) -> None:
    """43: `degraded` with the reason, nothing is restarted, and `ready` again when it answers."""
    with Upstream(far_script) as far:
        house.start()
        row = house.up("ollama/far", base_url=far.url)
        assert post(row["port"], message()).status == 200
        far.stop()
        assert post(row["port"], message()).status == 503
        ill = house.wait_row(lambda row: row["state"] == "degraded", "ollama/far")
        assert "not reachable" in ill["detail"]
        far.start()
        assert post(row["port"], message()).status == 200

        well = house.wait_row(lambda row: row["state"] == "ready", "ollama/far")
        assert (well["pid"], well["restarts"], well["deaths"]) == (row["pid"], 0, [])
