"""A home for each test, and one that the tests of a module share when they change nothing in it."""

from __future__ import annotations

import fcntl
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from fakes.house import House

from .providers import Estate, Ollama, estate

USUAL_PORT = 3456


@pytest.fixture
def house() -> Iterator[House]:
    with House() as house:
        yield house


@attrs.frozen
class Served:
    """A home where `echo/demo` serves."""

    house: House
    port: int
    pid: int


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with House() as house:
        house.start()
        row = house.tell("up", "echo/demo", "--port", "0", "--json")
        yield Served(house, row["port"], row["pid"])


@pytest.fixture(scope="module")
def started() -> Iterator[House]:
    with House() as house:
        house.start()
        yield house


@pytest.fixture
def shared(started: House) -> Iterator[House]:
    """A supervisor that the tests of a module share; nothing runs at the beginning of each."""
    yield started
    assert started.down("all", grace_s=0.0).status == 200


@pytest.fixture(scope="module")
def whole(request: pytest.FixtureRequest) -> Iterator[Estate]:
    """A home with providers that a module's tests share, and the module's CONFIG, if it has one."""
    with estate(getattr(request.module, "CONFIG", "")) as found:
        yield found


@pytest.fixture
def here(whole: Estate) -> Estate:
    """For one test: nobody was asked yet."""
    whole.reset()
    return whole


@pytest.fixture
def ollama() -> Iterator[Ollama]:
    """A provider for one test, with a home of its own."""
    with Ollama() as far:
        yield far


@pytest.fixture
def usual_port() -> Iterator[int]:
    """The default port, which is one for the whole machine: another run of these tests is waited for.

    To be asked for before the home, so that the home gives the port back first.
    """
    lock = Path(tempfile.gettempdir()) / f"modelproxy-tests-{USUAL_PORT}.lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((host, USUAL_PORT))
                except OSError:
                    pytest.skip(f"port {USUAL_PORT} of this machine is not free on {host}")
        yield USUAL_PORT
