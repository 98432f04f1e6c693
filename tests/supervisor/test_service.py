"""The supervisor as a service: stop or restart, the status line, and the sign of life."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from fakes.spawner import World
from fakes.systemd import ServiceManager, Systemctl

from modelproxy.supervisor import service, sockets
from modelproxy.supervisor.notify import Notifier
from modelproxy.supervisor.paths import Paths
from modelproxy.supervisor.protocol import UpRequest
from modelproxy.supervisor.service import Service

UNIT = "modelproxy.service"
AS_UNIT = Service(UNIT, Notifier(), None, has_socket_unit=True)


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Systemctl:
    made = Systemctl(tmp_path)
    monkeypatch.setenv("PATH", made.path)
    return made


# --- stop or restart ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("jobs", "stops"),
    [
        (f"41 {UNIT} stop running\n", True),
        (f"40 modelproxy.socket stop waiting\n41 {UNIT} stop running\n", True),
        (f"41 {UNIT} restart running\n", False),
        (f"41 {UNIT} try-restart running\n", False),
        ("41 other.service stop running\n", False),
        ("No jobs running.\n", False),
        ("", False),
    ],
)
async def test_the_manager_s_job_tells_a_stop_from_a_restart(
    systemctl: Systemctl, jobs: str, stops: bool
) -> None:
    """No job: somebody has signalled the process, and the manager will start the next one."""
    systemctl.answers("list-jobs", jobs)

    assert stops == await AS_UNIT.is_to_stop()


async def test_a_manager_that_does_not_answer_means_stop(systemctl: Systemctl) -> None:
    """Nobody may come after us."""
    systemctl.answers("list-jobs", stderr="Failed to connect to bus", code=1)

    assert await AS_UNIT.is_to_stop()


async def test_a_manager_that_hangs_means_stop(systemctl: Systemctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_ANSWER_LIMIT_S", 0.2)
    systemctl.answers("list-jobs", hook="exec sleep 60")

    assert await AS_UNIT.is_to_stop()


async def test_without_systemctl_it_means_stop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert await AS_UNIT.is_to_stop()


async def test_who_is_no_service_asks_nobody(systemctl: Systemctl) -> None:
    assert await attrs.evolve(AS_UNIT, unit="").is_to_stop()
    assert systemctl.asked == []


@pytest.mark.parametrize(
    ("verb", "activated", "asked"),
    [
        ("stop", True, f"stop --no-block {UNIT} modelproxy.socket"),
        ("stop", False, f"stop --no-block {UNIT}"),
        ("restart", True, f"restart --no-block {UNIT}"),
    ],
)
async def test_what_is_passed_on(systemctl: Systemctl, verb: str, activated: bool, asked: str) -> None:
    """A stop takes the socket along, or the next `ps` would start what was stopped."""
    await attrs.evolve(AS_UNIT, has_socket_unit=activated).pass_on(verb)

    assert systemctl.asked == [asked]


async def test_a_manager_that_refuses_is_quoted(systemctl: Systemctl) -> None:
    systemctl.answers("stop", stderr="Interactive authentication required.\n", code=1)

    with pytest.raises(OSError, match="Interactive authentication required"):
        await AS_UNIT.pass_on("stop")


# --- what the environment makes of us -------------------------------------------------------------------


def test_a_service_is_one_that_is_notified_and_named() -> None:
    heard = {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "3000000"}

    made = service.of_environment(UNIT, heard, activated=True)

    assert (made.unit, made.watchdog_s, made.has_socket_unit) == (UNIT, 3.0, True)
    assert made.is_one
    assert not service.of_environment(None, heard, activated=False).is_one
    assert not service.of_environment(UNIT, {}, activated=False).is_one


# --- what the manager is told ---------------------------------------------------------------------------


def a_service(manager: ServiceManager, watchdog_s: float | None = None) -> Service:
    return Service(UNIT, Notifier(manager.address), watchdog_s, has_socket_unit=True)


async def told(manager: ServiceManager, **lines: str) -> None:
    with trio.fail_after(30):
        while not any(lines.items() <= one.items() for one in manager.said):  # noqa: ASYNC110  # read by a thread
            await trio.sleep(0.01)


class FakeKeeper:
    """Of a keeper what a sign of life looks at."""

    def __init__(self) -> None:
        self.late: list[str] = []
        self.hangs = False

    async def pulse(self, patience_s: float) -> list[str]:
        if self.hangs:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        return self.late


@pytest.fixture
def control(paths: Paths) -> Iterator[socket.socket]:
    listener = sockets.bind_unix(paths.control_socket)
    yield listener
    listener.close()


async def answer_all(listener: socket.socket, status: bytes) -> None:
    accepting = trio.socket.from_stdlib_socket(listener)
    while True:
        connection, _ = await accepting.accept()
        with connection:
            await connection.recv(4096)
            await connection.send(status)


async def test_signs_of_life_are_sent_while_all_moves(
    manager: ServiceManager, paths: Paths, control: socket.socket
) -> None:
    """And one that is missing is told in the log."""
    keeper: Any = FakeKeeper()
    log: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer_all, control, b"HTTP/1.1 200 OK\r\n\r\n")
        nursery.start_soon(
            a_service(manager, watchdog_s=0.04).feed_watchdog, keeper, paths.control_socket, log.append
        )
        await told(manager, WATCHDOG="1")
        assert log == []
        keeper.late = ["echo/demo"]
        with trio.fail_after(30):
            while not log:  # noqa: ASYNC110  # a list sets no event
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()

    assert (
        log[0] == "no sign of life for the service manager: the deadlines of echo/demo have passed unheeded"
    )


async def test_a_loop_that_stands_still_sends_none(manager: ServiceManager, paths: Paths) -> None:
    keeper: Any = FakeKeeper()
    keeper.hangs = True
    log: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            a_service(manager, watchdog_s=0.04).feed_watchdog, keeper, paths.control_socket, log.append
        )
        with trio.fail_after(30):
            while not log:  # noqa: ASYNC110  # a list sets no event
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()

    assert log[0] == "no sign of life for the service manager: the keeper's loop stands still"
    assert manager.said == []


async def test_nobody_is_fed_who_does_not_ask(manager: ServiceManager, paths: Paths) -> None:
    keeper: Any = FakeKeeper()
    with trio.fail_after(30):
        await a_service(manager).feed_watchdog(keeper, paths.control_socket, print)


@pytest.mark.parametrize(
    ("status", "answers"), [(b"HTTP/1.1 503 Busy\r\n\r\n", True), (b"", False), (b"hello", False)]
)
async def test_any_answer_of_the_control_socket_is_one(
    paths: Paths, control: socket.socket, status: bytes, answers: bool
) -> None:
    """Too busy is alive; hanging up is not."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer_all, control, status)
        assert answers == await service.answers(paths.control_socket)
        nursery.cancel_scope.cancel()


async def test_nobody_on_the_control_socket(paths: Paths) -> None:
    assert not await service.answers(paths.control_socket)


async def test_the_status_follows_the_fleet(manager: ServiceManager, world: World) -> None:
    """Said once per change, from the keeper's own facts."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a_service(manager).keep_posted, world.keeper)
        await told(manager, STATUS="no proxies")
        await world.commands.up(UpRequest("echo/demo", port=0))
        await told(manager, STATUS="1 proxy: 1 ready")
        nursery.cancel_scope.cancel()


async def test_the_pulse_finds_a_deadline_that_was_passed_over(world: World) -> None:
    """With no patience at all every deadline that is due counts; with some, those ahead do not."""
    await world.commands.up(UpRequest("echo/demo", port=0))

    assert await world.keeper.pulse(5.0) == []
    assert await world.keeper.pulse(-1e9) == ["echo/demo"]
