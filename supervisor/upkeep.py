"""What belongs to a proxy in the world, kept as its facts want it.

Open listeners, their copies in safe keeping, the stand-in that answers 503, the watch at an idle proxy's door
and the pid files follow from the facts rather than from events: after every step they are compared and put
right, whatever happened.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import attrs
import trio

from . import fleet, runner, sockets, stand_in
from .custody import Custody
from .facts import Death, Proxy
from .paths import Paths
from .stand_in import Shift
from .tally import Tally


@attrs.define(eq=False)
class Unit:
    """One proxy and what belongs to it in the world."""

    proxy: Proxy
    listeners: list[socket.socket] = attrs.Factory(list)
    handles: dict[int, runner.Handle] = attrs.Factory(dict)
    waiting: dict[int, trio.CancelScope] = attrs.Factory(dict)
    """Starts that wait for their turn."""
    tokens: dict[int, str] = attrs.Factory(dict)
    past: Tally = attrs.Factory(Tally)
    """What the workers that have ended counted."""
    dated: dict[Death, Death] = attrs.Factory(dict)
    """Its deaths as they are on record, by the wall clock."""
    stand_in: Shift | None = None
    watch: trio.CancelScope | None = None
    """Over the task that waits for an idle proxy's next connection."""
    key_given: bool = False
    """A key of it came with `up`: the configuration does not know it."""
    key_of_shell: bool = False
    """By no flag, but as a variable of the shell: once it is lost, the configured one will do."""
    address_given: bool = True
    """So did its provider's address, or nobody knows."""
    pid_file: str | None = None
    """One more place for the pid, by the user's wish."""
    kept: bool = True
    """Somebody has said `up`; else it goes with the last lease, and the last front that leads to it."""
    leases: set[str] = attrs.Factory(set)
    """Who uses it and has said so."""
    held: tuple[int, list[socket.socket]] | None = None
    """Port and sockets as they are in the holder's safe keeping."""
    written: tuple[int, int, str | None] | None = None
    """Port, pid and extra place of the pid files that exist now."""

    def tallies(self) -> dict[int, Tally]:
        """What each of its workers has counted."""
        return {generation: handle.tally for generation, handle in self.handles.items()}


class Start(Protocol):
    """Begin work for a unit in a task of its own."""

    def __call__(self, unit: Unit, work: Callable[..., Awaitable[None]], *args: object) -> None: ...


class Upkeep:
    def __init__(
        self,
        paths: Paths,
        custody: Custody,
        *,
        start: Start,
        post: Callable[[str, fleet.Event], None],
        now: Callable[[], float],
        log: Callable[[str], None],
    ) -> None:
        self._paths = paths
        self._custody = custody
        self._start = start
        self._post = post
        self._now = now
        self._log = log
        self._shifts: set[Shift] = set()

    def sweep(self) -> None:
        """Take away the pid files of an earlier supervisor, and one that it was killed in the middle of writing."""
        for stale in self._paths.pid_files.glob("*.pid*"):
            try:
                stale.unlink(missing_ok=True)
            except OSError as error:  # somebody's directory, say: no reason to have no supervisor
                self._log(f"cannot remove {stale}: {error.strerror}")

    def put_right(self, unit: Unit) -> None:
        self._watch_or_not(unit)
        if not unit.proxy.is_up:
            for one in unit.listeners:
                one.close()
            unit.listeners = []
        self._keep_safe(unit)
        self._stand_in_or_not(unit)
        self._keep_pid_files(unit)

    def _keep_safe(self, unit: Unit) -> None:
        due = (unit.proxy.spec.port, unit.listeners) if unit.listeners else None
        if unit.held is not None and (due is None or due[0] != unit.held[0]):
            self._custody.hold(unit.held[0], [])
        if due is not None and (unit.held is None or unit.held[1] is not due[1]):
            self._custody.hold(*due)
        unit.held = due

    def _watch_or_not(self, unit: Unit) -> None:
        """An idle proxy has nobody behind its port: who knocks is heard here, and answered by a worker."""
        needed = unit.proxy.awaits_visitors
        if needed and not unit.listeners:
            try:
                unit.listeners = sockets.bind_loopback(unit.proxy.spec.port)
            except (OSError, sockets.PortInUseError):
                # Lost with an earlier supervisor. A start meets the same trouble, says it, and tries again.
                self._post(unit.proxy.name, fleet.Knocked())
                return
        if needed and unit.watch is None:
            unit.watch = trio.CancelScope()
            self._start(unit, self._watch, unit, unit.watch)
        elif not needed and unit.watch is not None:
            unit.watch.cancel()
            unit.watch = None

    async def _watch(self, unit: Unit, scope: trio.CancelScope) -> None:
        async def at(door: socket.socket) -> None:
            await trio.lowlevel.wait_readable(door)
            self._post(unit.proxy.name, fleet.Knocked())

        try:
            if scope.cancel_called:
                return
            with scope:
                async with trio.open_nursery() as nursery:
                    for one in unit.listeners:
                        nursery.start_soon(at, one)
        finally:
            if unit.watch is scope:
                unit.watch = None  # whoever looks next finds out whether another one is needed

    def _stand_in_or_not(self, unit: Unit) -> None:
        needed = bool(unit.listeners) and unit.proxy.answers_down(self._now())
        if needed and unit.stand_in is None:
            unit.stand_in = Shift()
            self._start(unit, self._stand_in, unit, unit.stand_in)
        elif not needed and unit.stand_in is not None:
            unit.stand_in.relieved.set()
            unit.stand_in = None

    async def _stand_in(self, unit: Unit, shift: Shift) -> None:
        if shift.relieved.is_set():
            return  # not needed after all; the listeners may be closed by now
        copies = [one.dup() for one in unit.listeners]
        self._shifts.add(shift)
        try:
            await stand_in.serve(
                copies, lambda path: stand_in.answer(unit.proxy, self._now(), path), self._log, shift.relieved
            )
        finally:
            self._shifts.remove(shift)
            shift.over.set()

    async def relieve_all(self) -> None:
        """Let nobody in any more, and answer who is in: this supervisor is about to be executed anew."""
        for shift in list(self._shifts):
            shift.relieved.set()
        for shift in list(self._shifts):
            await shift.over.wait()

    def _keep_pid_files(self, unit: Unit) -> None:
        proxy = unit.proxy
        pid = proxy.pid
        due = (proxy.spec.port, pid, unit.pid_file) if pid is not None else None
        if not proxy.is_up and due != unit.written:
            due = None  # a second drainer is nobody's pid, and the port may have a new owner
        if due == unit.written:
            return
        try:
            if unit.written is not None:
                for path in self._pid_paths(unit.written[0], unit.written[2]):
                    _remove(path, f"{unit.written[1]}\n")
            if due is not None:
                for path in self._pid_paths(due[0], due[2]):
                    _write(path, f"{due[1]}\n")
        except OSError as error:
            self._log(f"{proxy.name}: cannot keep the pid file: {error}")
        unit.written = due

    def _pid_paths(self, port: int, extra: str | None) -> list[str]:
        return [str(self._paths.pid_file(port)), *([extra] if extra else [])]


def _write(path: str, text: str) -> None:
    fresh = f"{path}.new"
    try:
        with open(fresh, "w", encoding="ascii") as file:
            file.write(text)
        os.rename(fresh, path)
    except OSError:
        Path(fresh).unlink(missing_ok=True)
        raise


def _remove(path: str, text: str) -> None:
    """Only while it still says what we wrote: the port's next owner may have written its own."""
    try:
        with open(path, "rb") as file:
            ours = file.read() == text.encode()
        if ours:
            os.unlink(path)
    except FileNotFoundError:
        pass
