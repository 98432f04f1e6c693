"""Which port a proxy gets, who may reach it, and what is said when somebody else is there."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path

import pytest
from fakes.house import House, free_port, get, is_refused, listens, message, post

from .strangers import listening

pytestmark = pytest.mark.slow

START_PROXY = "modelproxy.ctl.start_proxy"


def try_up(house: House, how: str, model: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Bring a model up by one of the three commands that can."""
    if how == "up":
        return house.command("up", model, *words)
    more = ["--background"] if how == "start-proxy --background" else []
    return house.command("--model", model, *words, *more, module=START_PROXY)


ways = pytest.mark.parametrize("how", ["up", "start-proxy", "start-proxy --background"])


def words_of(how: str, done: subprocess.CompletedProcess[str]) -> str:
    """The error as its reader gets it: text of `up`, one JSON line of `start-proxy`."""
    assert done.stdout == ""
    if how == "up":
        return done.stderr
    [line] = done.stderr.splitlines()
    return str(json.loads(line)["error"])


def listening_addresses(port: int) -> set[str]:
    """Every address on which anything listens on this port."""
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            address, _, number = local.partition(":")
            if state == "0A" and int(number, 16) == port:
                raw = bytes.fromhex(address)
                # The kernel prints whole words, each in the machine's own byte order.
                ordered = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
                found.add(socket.inet_ntop(family, ordered))
    return found


def own_address() -> str | None:
    """An address of this machine that others can reach; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))
        except OSError:
            return None
        address = str(probe.getsockname()[0])
        return None if address.startswith("127.") else address


def names(house: House) -> set[str]:
    """Of every proxy that is known, stopped ones of other tests included."""
    return {row["name"] for row in house.ps(stopped=True)}


def leftovers(house: House) -> list[str]:
    return [path.name for path in (house.runtime / "modelproxy" / "proxies").iterdir()]


# --- the usual port -------------------------------------------------------------------------------


def test_s03_s33_the_usual_port_is_3456(usual_port: int, shared: House) -> None:
    view = shared.tell("up", "echo/demo", "--json")

    assert view["port"] == usual_port
    assert view["notes"] == []
    assert post(usual_port, message()).status == 200
    assert listening_addresses(usual_port) <= {"127.0.0.1", "::1"}


def test_s49_start_proxy_has_the_same_usual_port(usual_port: int, shared: House) -> None:
    assert shared.tell("--model", "echo/demo", "--background", module=START_PROXY)["port"] == usual_port


def test_section4_the_usual_port_gives_way_to_one_of_ours_and_says_so(usual_port: int, shared: House) -> None:
    shared.tell("up", "echo/first", "--json")
    done = shared.command("up", "echo/second")
    third = shared.tell("up", "echo/third", "--json")
    second = shared.row("echo/second")

    assert done.returncode == 0
    assert second["port"] > usual_port
    assert f"port {usual_port} is used by echo/first; took {second['port']}" in done.stderr
    assert f"http://127.0.0.1:{second['port']}" in done.stdout
    assert third["port"] > second["port"]
    assert third["notes"] == [f"port {usual_port} is used by echo/first; took {third['port']}"]


@ways
def test_section4_the_usual_port_never_gives_way_to_a_stranger(
    usual_port: int, shared: House, how: str
) -> None:
    with listening(port=usual_port) as (_, pid):
        done = try_up(shared, how, "echo/refused")

    assert done.returncode == 1
    said = words_of(how, done)
    assert f"Port {usual_port} is already in use by" in said
    assert f"pid {pid}" in said
    assert "echo/refused" not in names(shared)


# --- taken ports ----------------------------------------------------------------------------------


@ways
def test_s55_a_port_of_ours_names_the_proxy(shared: House, how: str) -> None:
    row = shared.up("echo/first")
    done = try_up(shared, how, "echo/refused", "--port", str(row["port"]))

    assert done.returncode == 1
    assert f"Port {row['port']} is already in use by proxy echo/first" in words_of(how, done)
    assert "echo/refused" not in names(shared)
    assert leftovers(shared) == [f"{row['port']}.pid"]
    assert get(row["port"], "/health").json["model_id"] == "echo/first"


@ways
def test_s55_a_strangers_port_names_pid_and_command(shared: House, how: str) -> None:
    with listening() as (port, pid):
        done = try_up(shared, how, "echo/refused", "--port", str(port))

    assert done.returncode == 1
    said = words_of(how, done)
    assert f"Port {port} is already in use by" in said
    assert f"pid {pid}" in said
    assert "python" in said
    assert "echo/refused" not in names(shared)
    assert leftovers(shared) == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::1", "::"])
def test_s55_a_stranger_on_another_address_is_in_the_way_as_well(shared: House, host: str) -> None:
    with listening(host) as (port, pid):
        error = shared.tell("up", "echo/refused", "--port", str(port), "--json", code=1)["error"]

    assert error["code"] == "port_in_use"
    assert f"Port {port} is already in use by" in error["message"]
    assert f"pid {pid}" in error["message"]
    assert "echo/refused" not in names(shared)


def test_s140_a_port_with_another_model_is_never_reused(shared: House) -> None:
    row = shared.up("echo/a")
    error = shared.tell("up", "echo/b", "--port", str(row["port"]), "--json", code=1)["error"]

    assert error["code"] == "port_in_use"
    assert f"by proxy echo/a (ready, pid {row['pid']})" in error["message"]
    assert shared.row("echo/a")["pid"] == row["pid"]


def test_s140_a_port_with_another_program_is_never_reused(shared: House) -> None:
    """Also when that program is a proxy of another user's supervisor that serves the same model."""
    with House() as other:
        other.start()
        theirs = other.up("echo/refused")
        error = shared.tell("up", "echo/refused", "--port", str(theirs["port"]), "--json", code=1)["error"]

    assert error["code"] == "port_in_use"
    assert "echo/refused" not in names(shared)


def test_s55_the_port_can_be_had_once_the_stranger_has_left(shared: House) -> None:
    with listening() as (port, _):
        assert shared.command("up", "echo/demo", "--port", str(port)).returncode == 1
    assert shared.tell("up", "echo/demo", "--port", str(port), "--json")["port"] == port


# --- loopback only --------------------------------------------------------------------------------


def test_s94_only_loopback_is_listened_on(shared: House) -> None:
    row = shared.up()

    assert listening_addresses(row["port"]) <= {"127.0.0.1", "::1"}
    assert listens(row["pid"], row["port"])
    address = own_address()
    if address is not None:
        assert is_refused(row["port"], address)


def test_s94_localhost_may_mean_either_loopback_address(shared: House) -> None:
    """Node asks ::1 first."""
    row = shared.up()
    addresses = listening_addresses(row["port"])
    if "::1" not in addresses:
        pytest.skip("this machine has no IPv6")
    with socket.create_connection(("::1", row["port"]), timeout=30) as client:
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert client.makefile("rb").readline() == b"HTTP/1.1 200 OK\r\n"


# --- after down -----------------------------------------------------------------------------------


def test_s96_the_port_can_be_bound_at_once_after_down(shared: House) -> None:
    """By a stranger too, without SO_REUSEADDR: nothing of ours listens there any more."""
    port = free_port()
    shared.tell("up", "echo/demo", "--port", str(port), "--json")
    shared.tell("down", "echo/demo", "--json")
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", port))


def test_s96_the_port_can_be_given_to_the_next_proxy_at_once(shared: House) -> None:
    port = str(free_port())
    shared.tell("up", "echo/one", "--port", port, "--json")
    shared.tell("down", "echo/one", "--json")

    assert shared.tell("up", "echo/two", "--port", port, "--json")["port"] == int(port)
    assert get(int(port), "/health").json["model_id"] == "echo/two"
