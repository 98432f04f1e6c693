"""Faults that others bring: garbage, greed, strangers, crowds, and a world without room."""

from __future__ import annotations

import os
import random
import resource
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from fakes.house import House, cpu_s, free_port, get, is_refused, message, post, wait_gone, workers_of

pytestmark = [pytest.mark.slow, pytest.mark.fault]


def connect(house: House) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(20)
    sock.connect(str(house.control))
    return sock


def rss_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


def open_fds(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_fault_31_out_of_descriptors_refuses_up_and_nothing_else(house: House) -> None:
    """31: `up` is refused with the reason; what runs goes on; there is no busy loop."""
    supervisor = house.start(
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
    )
    refusal = None
    for number in range(40):
        answer = house.api(
            "PUT", f"/v1/proxies/echo%2Fm{number}", {"model": f"echo/m{number}", "port": 0, "wait_s": 2}
        )
        if answer.status != 200:
            refusal = answer
            break

    assert refusal is not None
    assert (refusal.status, refusal.json["error"]["code"]) == (503, "no_resources")
    assert "Too many open files" in refusal.json["error"]["message"]
    ready = house.ps()
    assert len(ready) >= 3
    # What cannot have a worker is not taken on, and some descriptors are left to answer with.
    assert {row["state"] for row in ready} == {"ready"}
    assert all(post(row["port"], message()).status == 200 for row in ready)
    before = cpu_s(supervisor.pid)
    house.api("GET", "/v1/proxies")
    subprocess.run(["sleep", "1"], check=True)  # the thing measured is what happens in a second of rest
    assert cpu_s(supervisor.pid) - before < 0.5


def test_fault_34_port_taken_by_a_stranger_is_named(house: House) -> None:
    """34: the refusal names the process; nothing is left behind."""
    house.start()
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        answer = house.api("PUT", "/v1/proxies/echo%2Fdemo", {"model": "echo/demo", "port": port})

    assert answer.status == 409
    error = answer.json["error"]
    assert error["code"] == "port_in_use"
    assert f"Port {port} is already in use by" in error["message"]
    assert f"(pid {os.getpid()})" in error["message"]
    assert "another --port" in error["hint"]
    assert house.ps(stopped=True) == []


def test_fault_34_port_stolen_while_we_were_dead(house: House) -> None:
    """34: the proxy waits, says who is in the way, and comes back when the port is free again."""
    house.start()
    row = house.up(port=free_port())
    house.kill_supervisor()
    house.kill_holder()
    os.kill(row["pid"], signal.SIGKILL)
    wait_gone(row["pid"])
    with socket.create_server(("127.0.0.1", row["port"])):
        house.start()
        held = house.wait_row(lambda row: row["state"] == "backoff")
        assert f"Port {row['port']} is already in use by" in held["detail"]
        assert f"(pid {os.getpid()})" in held["detail"]
        why = house.tell("why", "echo/demo", "--json")
        assert why["port_holder"].endswith(f"(pid {os.getpid()})")
        assert why["next"].startswith("the next start is in ")

    house.wait_row(lambda row: row["state"] == "ready")
    assert post(row["port"], message()).status == 200


def test_fault_35_garbage_on_the_control_socket(house: House) -> None:
    """35: each kind is refused with its status; memory does not grow; others are answered meanwhile."""
    supervisor = house.start()
    house.up()
    house.ps()
    before = rss_kib(supervisor.pid)

    with connect(house) as half, connect(house) as silent, connect(house) as deaf:
        half.sendall(b"GET /v1/proxies HTTP/1.1\r\nhost: x\r\nx-half")
        deaf.sendall(b"GET /v1/events?follow=1 HTTP/1.1\r\nhost: x\r\n\r\n")  # and never reads
        for sent, status in (
            (b"\x00\x01\x02 garbage\r\n\r\n", b"400"),
            (b"GET /v1/proxies HTTP/1.1\r\nhost: x\r\nx-long: " + b"a" * 20_000, b"431"),
            (b"PUT /v1/proxies/x HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000\r\n\r\n", b"413"),
        ):
            with connect(house) as sock:
                sock.sendall(sent)
                assert sock.recv(100).split()[1] == status
        assert endless_line(house).split()[1] in (b"400", b"431")
        assert len(house.ps()) == 1
        silent.close()

    assert rss_kib(supervisor.pid) - before < 4 * 1024
    assert supervisor.poll() is None


def endless_line(house: House) -> bytes:
    """A line that would be a gigabyte long if somebody let it."""
    with connect(house) as sock:
        try:
            for _ in range(1024):
                sock.sendall(b"a" * 1024 * 1024)
        except OSError:
            pass
        try:
            return sock.recv(100) or b"HTTP/1.1 431"
        except OSError:
            return b"HTTP/1.1 431"  # it hung up on us, which is as good


def test_fault_35_garbage_on_the_workers_socket(house: House) -> None:
    """35: who does not say hello is sent away with a line in the log; workers are not disturbed."""
    supervisor = house.start()
    row = house.up()
    path = str(house.runtime / "modelproxy" / "workers.sock")
    for garbage in (
        b"garbage\n",
        b'{"type":"ready"}\n',
        b'{"type":"hello","name":"echo/demo"}\n',
        b"\xff" * 100 + b"\n",
    ):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(10)
            sock.connect(path)
            sock.sendall(garbage)
            assert sock.recv(100) == b""

    assert house.daemon_log().count("a worker's connection was closed") == 4
    assert house.row()["pid"] == row["pid"]
    assert supervisor.poll() is None


def test_fault_36_a_thousand_connections_and_64_followers(house: House) -> None:
    """36: over the limit is refused with 503; `ps` is answered beside 64 followers."""
    house.start()
    house.up()
    followers = [connect(house) for _ in range(64)]
    for one in followers:
        one.sendall(b"GET /v1/events?follow=1 HTTP/1.1\r\nhost: x\r\n\r\n")
        assert one.recv(12) == b"HTTP/1.1 200"
    with connect(house) as one_more:
        one_more.sendall(b"GET /v1/events?follow=1 HTTP/1.1\r\nhost: x\r\n\r\n")
        assert one_more.recv(12) == b"HTTP/1.1 503"
    assert len(house.ps()) == 1

    crowd = [connect(house) for _ in range(1000)]
    answers = [first_word(one) for one in crowd[200:300]]
    assert b"HTTP/1.1 503" in answers
    for one in [*followers, *crowd]:
        one.close()
    for _ in range(200):
        answer = house.api("GET", "/v1/proxies")
        if answer.status == 200:
            break
    assert answer.status == 200
    assert answer.json[0]["state"] == "ready"


def first_word(sock: socket.socket) -> bytes:
    try:
        sock.sendall(b"GET /v1/version HTTP/1.1\r\nhost: x\r\n\r\n")
        return sock.recv(12)
    except OSError:
        return b"HTTP/1.1 503"


def test_fault_37_modes_of_what_is_on_disk(house: House) -> None:
    """37: sockets 0600 in a 0700 directory; state and logs are the owner's alone."""
    house.start()
    house.up()
    for path in (house.control, house.state / "state.json", house.state / "logs" / "echo~demo.log"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700, path.parent


def test_fault_37_open_directory_is_refused(house: House) -> None:
    """37: a runtime directory that others can reach is no place for a control socket."""
    directory = house.runtime / "modelproxy"
    directory.mkdir(mode=0o755)
    directory.chmod(0o755)
    process = house.start(wait=False)

    assert process.wait(timeout=30) == 1
    assert f"chmod 700 {directory}" in house.daemon_log()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_fault_37_another_user_is_refused_by_the_kernels_word(house: House) -> None:
    """37: even with all modes open, another uid is refused on both sockets."""
    house.start()
    for path in (house.home, house.runtime, house.runtime / "modelproxy"):
        path.chmod(0o755)
    for name in ("control.sock", "workers.sock"):
        (house.runtime / "modelproxy" / name).chmod(0o666)
    script = (
        "import os, socket, sys; os.setuid(65534); s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
        "s.sendall(bytes.fromhex(sys.argv[2])); print(s.recv(4096))"
    )
    for name, sent, expected in (
        ("control.sock", b"GET /v1/proxies HTTP/1.1\r\nhost: x\r\n\r\n", "403"),
        ("workers.sock", b'{"type":"hello","name":"a","generation":1,"pid":1,"token":"t"}\n', "b''"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", script, str(house.runtime / "modelproxy" / name), sent.hex()],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert expected in done.stdout, done.stderr


def test_fault_38_twenty_at_once_and_twenty_dead_at_once(house: House) -> None:
    """38: at most as many starts as processors; all ready in the end; `ps` is answered meanwhile."""
    house.start()
    rows: list[dict[str, object]] = []
    threads = [
        threading.Thread(target=lambda number=number: rows.append(house.up(f"echo/m{number}", wait_s=60)))
        for number in range(20)
    ]
    for one in threads:
        one.start()
    most = 0
    while any(one.is_alive() for one in threads):
        most = max(most, sum(row["state"] == "starting" and row["pid"] is not None for row in house.ps()))
    for one in threads:
        one.join()

    assert len({row["pid"] for row in rows}) == len({row["port"] for row in rows}) == 20
    assert most <= max(2, os.cpu_count() or 2)
    assert all(get(int(str(row["port"])), "/livez").status == 200 for row in rows)
    for row in rows:
        os.kill(int(str(row["pid"])), signal.SIGKILL)
    for row in rows:
        house.wait_row(lambda row: row["state"] == "ready" and row["restarts"] == 1, str(row["name"]))
        assert post(int(str(row["port"])), message()).status == 200


def test_up_ten_times_at_once_is_one_worker(house: House) -> None:
    """Ten cold `up` of one model at the same moment: one worker, nine of them reused."""
    house.start()
    port = free_port()
    rows: list[dict[str, object]] = []
    threads = [threading.Thread(target=lambda: rows.append(house.up(port=port))) for _ in range(10)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()

    assert len(rows) == 10
    assert len({row["pid"] for row in rows}) == 1
    assert sum(bool(row["reused"]) for row in rows) == 9
    assert len(workers_of(house)) == 1


@pytest.mark.parametrize("seed", [1, 2])
def test_fault_39_the_last_wish_wins(house: House, seed: int) -> None:
    """39: after random up, down, restart from several hands each proxy is as last wished, and nothing leaked."""
    supervisor = house.start()
    names = [f"echo/m{number}" for number in range(3)]
    for name in names:
        house.up(name)
    house.down("all")
    settled_fds = open_fds(supervisor.pid)

    def wish_at_random(hand: int) -> None:
        dice = random.Random(seed * 100 + hand)
        for _ in range(25):
            name = dice.choice(names)
            act = dice.choice(["up", "up", "down", "restart", "kill"])
            if act == "up":
                house.api(
                    "PUT",
                    f"/v1/proxies/{name.replace('/', '%2F')}",
                    {"model": name, "port": 0, "wait": False},
                )
            elif act == "down":
                house.down(name, grace_s=1)
            elif act == "restart":
                house.restart(name, wait_s=0.1)
            else:
                for row in house.ps():
                    if row["name"] == name and row["pid"] and house.is_ours(row["pid"]):
                        os.kill(row["pid"], signal.SIGKILL)

    hands = [threading.Thread(target=wish_at_random, args=(hand,)) for hand in range(3)]
    for one in hands:
        one.start()
    for one in hands:
        one.join()
    ports = {name: house.up(name, wait_s=60)["port"] for name in names[:2]}
    house.down(names[2])

    for name in names[:2]:
        row = house.wait_row(lambda row: row["state"] == "ready" and not row["draining"], name)
        assert post(ports[name], message()).status == 200
        assert (
            house.runtime / "modelproxy" / "proxies" / f"{row['port']}.pid"
        ).read_text() == f"{row['pid']}\n"
    assert len(workers_of(house)) == 2
    assert len(list((house.runtime / "modelproxy" / "proxies").iterdir())) == 2
    house.down("all")
    assert all(is_refused(port) for port in ports.values())
    assert workers_of(house) == []
    end = time.monotonic() + 10  # connections of the tests themselves may take a moment to be closed
    while open_fds(supervisor.pid) > settled_fds and time.monotonic() < end:
        house.ps()
    assert open_fds(supervisor.pid) <= settled_fds
