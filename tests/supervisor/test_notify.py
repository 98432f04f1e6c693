"""systemd's notification protocol, against a socket that reads it."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from fakes.systemd import ServiceManager

from modelproxy.supervisor import notify
from modelproxy.supervisor.facts import State
from modelproxy.supervisor.notify import Notifier


def test_a_message_is_its_lines(manager: ServiceManager) -> None:
    assert Notifier(manager.address).tell("READY=1", "STATUS=no proxies")

    assert manager.wait_for(READY="1") == {"READY": "1", "STATUS": "no proxies"}


@pytest.mark.skipif(sys.platform != "linux", reason="abstract names are Linux's")
def test_an_abstract_address() -> None:
    """`@name` stands for a name that begins with a NUL byte."""
    name = f"mp-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        listening.settimeout(10)
        assert Notifier(f"@{name}").tell("READY=1")

        assert listening.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", ["", "relative", "vsock:2:1234"])
def test_without_a_manager_nothing_is_said(address: str) -> None:
    notifier = Notifier(address)

    assert (notifier.is_heard, notifier.tell("READY=1")) == (False, False)


def test_a_manager_that_is_gone_costs_nothing(tmp_path: Path) -> None:
    assert not Notifier(str(tmp_path / "nobody")).tell("READY=1")


def test_a_manager_that_does_not_read_holds_nobody_up(tmp_path: Path) -> None:
    """Its queue fills, and then messages are lost instead of waited for."""
    address = str(tmp_path / "deaf")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(address)
        told = [Notifier(address).tell("WATCHDOG=1") for _ in range(1000)]

    assert told[0]
    assert not told[-1]


async def test_the_barrier_waits_until_all_is_taken_in(manager: ServiceManager) -> None:
    notifier = Notifier(manager.address)
    notifier.tell("STATUS=before")
    with trio.fail_after(30):
        await notifier.barrier()

    assert [one for one in manager.said if "STATUS" in one] == [{"STATUS": "before"}]


async def test_no_barrier_without_a_manager() -> None:
    with trio.fail_after(30):
        await Notifier().barrier()


# --- what is handed over ------------------------------------------------------------------------------

HANDED = """
import os, sys
from modelproxy.supervisor import notify
os.environ["LISTEN_PID"] = str(os.getpid())
found = notify.inherit(os.environ)
print(len(found.control), {port: len(them) for port, them in found.ports.items()}, found.strange)
print(sorted(name for name in os.environ if name.startswith("LISTEN_")))
print([os.get_inheritable(one.fileno()) for one in found.control])
"""


def handed(names: str, *descriptors: int) -> list[str]:
    """What `inherit` makes of these descriptors, which begin at number 3 as systemd's do."""
    places = " ".join(f"{3 + index}<&{number}" for index, number in enumerate(descriptors))
    done = subprocess.run(
        ["bash", "-c", f'exec "$@" {places}', "bash", sys.executable, "-P", "-c", HANDED],
        env={**os.environ, "LISTEN_FDS": str(len(descriptors)), "LISTEN_FDNAMES": names},
        pass_fds=descriptors,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_what_systemd_hands_over_is_told_apart_by_name() -> None:
    """The control socket, the listeners of a port, and what nobody here has put there."""
    with (
        socket.socket(socket.AF_UNIX) as control,
        socket.create_server(("127.0.0.1", 0)) as listener,
        open(os.devnull) as file,  # a descriptor that is no socket
    ):
        # High numbers, so that putting one into its place does not overwrite another.
        given = (control.fileno(), listener.fileno(), listener.fileno(), file.fileno())
        numbers = [os.dup2(number, 50 + index) for index, number in enumerate(given)]
        port = listener.getsockname()[1]
        try:
            said = handed(f"control:port-{port}:port-1:log", *numbers)
        finally:
            for number in numbers:
                os.close(number)

    assert said == [f"1 {{{port}: 1}} ['port-1', 'log']", "[]", "[False]"]


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"LISTEN_FDS": "2", "LISTEN_PID": "1"},
        {"LISTEN_FDS": "many", "LISTEN_PID": str(os.getpid())},
        {"LISTEN_FDS": "0", "LISTEN_PID": str(os.getpid())},
    ],
)
def test_what_is_meant_for_another_process_is_not_touched(environment: dict[str, str]) -> None:
    """And the variables are gone in any case: they are true for one process only."""
    found = notify.inherit(environment)

    assert (found.control, found.ports, found.strange) == ([], {}, [])
    assert environment == {}


# --- what the environment says ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_s_limit(environment: dict[str, str], seconds: float | None) -> None:
    assert seconds == notify.watchdog_s(environment)


@pytest.mark.parametrize(("text", "size"), [(None, 0), ("512", 512), ("yes", 0)])
def test_the_size_of_the_store(text: str | None, size: int) -> None:
    assert size == notify.store_size({} if text is None else {"FDSTORE": text})


@pytest.mark.parametrize(
    ("states", "words"),
    [
        ([], "no proxies"),
        ([State.STOPPED], "no proxies"),
        ([State.READY], "1 proxy: 1 ready"),
        ([State.FAILED, State.READY, State.STOPPED, State.READY], "3 proxies: 2 ready, 1 failed"),
    ],
)
def test_the_fleet_in_one_line(states: list[State], words: str) -> None:
    assert words == notify.status(states)
