"""A keeper among fake workers, listening sockets, and a service manager that is none."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import clock
from fakes.systemd import ServiceManager
from fakes.worlds import make_world, paths, world

from modelproxy.supervisor import sockets

__all__ = ["make_world", "paths", "world"]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    clock.prefer(items)


@pytest.fixture
def listeners() -> Iterator[list[socket.socket]]:
    made = sockets.bind_loopback(0)
    yield made
    for one in made:
        one.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    with ServiceManager(tmp_path) as running:
        yield running
