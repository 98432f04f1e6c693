"""The supervisor's process: one instance by lock, its sockets, its nursery tree, its two ways to end.

*Stop* (SIGTERM, SIGINT, `proxyctl daemon stop`) drains and stops every worker and keeps the wishes for the
next start. *Restart* leaves the workers alone and executes the program anew under the same pid: the same
path as after a crash, so that it is exercised at every upgrade. *Leave* is a restart without the second half:
somebody else (systemd, `proxyctl daemon install`) starts the next one.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import attrs
import trio

from modelproxy.worker.httpd import raise_file_limit

from . import bequest, check, config, fleet, kernel, lock, logs, notify, paths, service, sockets, state
from .commands import Commands
from .control import Control
from .custody import Custody, HolderCustody
from .events import Events
from .facts import State
from .following import Following
from .forks import CAN_FORK, ForkServer
from .jobs import RESTART, STOP
from .keeper import Keeper
from .lock import LEAVE_SIGNAL, Lock
from .runner import Runner, worker_environment
from .service import Service
from .store import StoreCustody

EXIT_OK = 0
EXIT_FAILED = 1
LEAVE = "leave"
_HEEDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, LEAVE_SIGNAL)
_LOG_CHECK_EVERY = 256
_DRAIN_SPARE_S = 15.0
"""What a stop may take beyond the longest grace, until the service manager loses patience."""


@attrs.define
class _Ending:
    """How this process is to end; set once, except that stop may become urgent."""

    asked: trio.Event = attrs.Factory(trio.Event)
    how: str = STOP
    grace_s: float | None = None
    urgent: trio.Event = attrs.Factory(trio.Event)
    missed: set[int] = attrs.Factory(set)
    """Signals that nobody heeds any more, or not yet."""
    secrets: bequest.Secrets = attrs.field(factory=dict, repr=False)
    """Of a restart: what the next program cannot read anywhere."""
    doors: bequest.Doors = attrs.field(factory=dict, repr=False)
    """Of a restart: the listening sockets, which nobody else need have then."""

    def ask(self, how: str, grace_s: float | None = None) -> None:
        if self.asked.is_set():
            if how == STOP and self.how == RESTART:
                self.missed.add(signal.SIGTERM)  # the last wish wins: the next one stops
            elif how == STOP:
                self.urgent.set()  # the second SIGTERM: at once
            return
        self.how = how
        self.grace_s = self.grace_s if grace_s is None else grace_s
        self.asked.set()


def main(argv: list[str] | None = None) -> int:
    """Run the supervisor until it is told to end; the return value is the exit code."""
    arguments = _parse(argv)
    if arguments.check:
        return check.main()
    if sys.stderr is not None:
        faulthandler.enable()  # SIGABRT from a watchdog leaves every stack in the log
    where = paths.find()
    try:
        paths.prepare(where)
    except (paths.UnsafeDirectoryError, OSError) as error:
        return _refuse(f"cannot use its directories: {error}")
    ours = Lock(where.lock)
    try:
        holder = ours.take()
    except OSError as error:
        return _refuse(f"cannot use its lock {where.lock}: {error.strerror}")
    if holder and arguments.unit:
        _say(f"takes over from pid {holder}, which was started by hand; the workers serve on")
        holder = ours.take_from(holder)
    if holder is not None:
        _say(f"is already running (pid {holder or 'unknown'})")
        return EXIT_OK
    _send_away_the_lost(where)
    raise_file_limit()  # every proxy costs a few, and whoever is started has it from here
    ending = _Ending()
    log = _Log(where.daemon_log)
    _note_signals(ending)
    ending.missed |= bequest.take_signals(os.environ) & set(_HEEDED)
    try:
        trio.run(_serve, where, arguments, ending, log.write)
    except (sockets.NotASocketError, OSError) as error:
        return _refuse(f"cannot start: {error}")
    if ending.how == RESTART:
        log.write("executing anew; the workers go on")
        words = sys.argv[1:] if argv is None else argv
        bequest.leave(ending.secrets, os.environ)
        bequest.leave_doors(ending.doors, os.environ)
        _hand_signals_on(ending)
        os.execv(sys.executable, [sys.executable, "-P", "-m", "modelproxy.supervisor", *words])
    ours.release()
    return EXIT_OK


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m modelproxy.supervisor", description=__doc__)
    parser.add_argument(
        "--worker-module",
        default="modelproxy.worker",
        help="the program that is started as a worker (tests put a misbehaving one here)",
    )
    parser.add_argument(
        "--check", action="store_true", help="only say whether this version could take over, and which it is"
    )
    parser.add_argument("--unit", help="the systemd unit that runs this; written there as --unit %%n")
    return parser.parse_args(argv)


def _refuse(text: str) -> int:
    _say(text)
    return EXIT_FAILED


def _say(text: str) -> None:
    sys.stderr.write(f"modelproxy: the supervisor {text}\n")


def _send_away_the_lost(where: paths.Paths) -> None:
    """A logout removes the runtime folder and leaves processes: the lock is free, and its supervisor lives on."""
    before = state.author(where.state_file)
    if before is not None and lock.send_away(before.pid, before.start_time, before.boot_id):
        _say(f"takes over from pid {before.pid}, whose folder was removed; the workers serve on")


class _Log:
    """Lines on stderr; when that is our own log file, it is rotated here; the journal has its own clock."""

    def __init__(self, own_file: Path) -> None:
        self._file = own_file
        self._written = 0
        self._stamped = not _is_journal()

    def write(self, text: str) -> None:
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = f"{stamp} {text}\n" if self._stamped else f"{text}\n"
        try:
            os.write(2, line.encode(errors="replace"))
        except OSError:
            return  # disk full or nobody there: the daemon's work is not its log
        self._written += 1
        if self._written % _LOG_CHECK_EVERY == 0:
            self._rotate_when_full()

    def _rotate_when_full(self) -> None:
        if not logs.is_full(self._file) or not self._is_stderr():
            return
        try:
            logs.rotate(self._file)
            fresh = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return
        os.dup2(fresh, 1)
        os.dup2(fresh, 2)
        os.close(fresh)

    def _is_stderr(self) -> bool:
        try:
            return os.path.samestat(self._file.stat(), os.fstat(2))
        except OSError:
            return False


def _is_journal() -> bool:
    """Whether stderr leads to systemd's journal: its variable names the socket."""
    try:
        found = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def _note_signals(ending: _Ending) -> None:
    """Until the event loop hears them, and after it: those that came while we were executed anew, too."""
    for signum in _HEEDED:
        signal.signal(signum, lambda number, _: ending.missed.add(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEEDED)


def _hand_signals_on(ending: _Ending) -> None:
    """To the program that is executed next. What is blocked stays so and waits; nobody dies of it half-way."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _HEEDED)
    bequest.leave_signals(ending.missed, os.environ)


async def _serve(
    where: paths.Paths, arguments: argparse.Namespace, ending: _Ending, log: Callable[[str], None]
) -> None:
    started_at = kernel.wall_clock()
    secrets, doors = bequest.take(os.environ), bequest.take_doors(os.environ)
    inherited = notify.inherit(os.environ)
    unit = service.of_environment(arguments.unit, os.environ, activated=bool(inherited.control))
    workers_socket = sockets.bind_unix(where.workers_socket)
    own, control_sockets = _control_sockets(where, inherited, log)
    inodes = {path: sockets.inode_of(path) for path in (where.workers_socket, *own)}
    events = Events()
    custody = _custody(where, unit, inherited, log)
    fork_server = _fork_server(where, arguments.worker_module, log)
    spawner = Runner(arguments.worker_module, fork_server)
    keeper = Keeper(
        where,
        spawner=spawner,
        custody=custody,
        events=events,
        log=log,
        started_at=started_at,
        now=time.monotonic,
        jitter=lambda: random.uniform(0.75, 1.25),
        secrets_left=secrets,
        doors=doors,
    )
    commands = Commands(keeper, where, log)
    following = Following(commands, keeper, where, log)
    gc.collect()
    gc.freeze()  # what is imported stays; the collector need not look at it again
    async with trio.open_nursery() as nursery:

        def leave(how: str, grace_s: float | None) -> None:
            nursery.start_soon(_end, unit, ending, how, grace_s, log)

        control = Control(
            commands,
            events,
            where,
            started_at=started_at,
            warnings=lambda: [*keeper.warnings, *following.warnings, *keeper.renewal_words()],
            spawn=lambda: spawner.way,
            leave=leave,
            reload=following.asked,
            log=log,
            unit=unit.unit,
        )
        nursery.start_soon(_heed_signals, unit, ending, lambda: nursery.start_soon(following.look_again))
        if fork_server is not None:
            nursery.start_soon(fork_server.run)
        await nursery.start(keeper.run, workers_socket)
        await nursery.start(control.server().run, control_sockets)
        nursery.start_soon(unit.keep_posted, keeper)
        nursery.start_soon(unit.feed_watchdog, keeper, where.control_socket, log)
        await _report_ready(unit, where, log)
        nursery.start_soon(following.run)
        nursery.start_soon(commands.forget_leases)
        await ending.asked.wait()
        unit.notifier.tell("STOPPING=1")
        if ending.how == STOP:
            commands.closing = True
            await _halt(keeper, unit, ending, log)
            await custody.quit()
        else:
            # The sockets outlive the change in other hands. A worker that stands still could not bring its own.
            await keeper.hand_over()
            ending.secrets, ending.doors = keeper.secrets(), keeper.doors() if ending.how == RESTART else {}
            commands.leaving = True
        nursery.cancel_scope.cancel()
    workers_socket.close()
    for one in control_sockets:
        one.close()
    if ending.how != RESTART:
        _take_away(inodes)


def _control_sockets(
    where: paths.Paths, inherited: notify.Inheritance, log: Callable[[str], None]
) -> tuple[list[Path], list[socket.socket]]:
    """The control sockets, and the files that are ours to remove: systemd's socket unit looks after its own."""
    given = [one for one in inherited.control if one.getsockname() == str(where.control_socket)]
    for one in inherited.control:
        if one not in given:
            log(f"the socket unit listens on {one.getsockname()}; clients look for {where.control_socket}")
    if given:
        return [], inherited.control
    return [where.control_socket], [sockets.bind_unix(where.control_socket), *inherited.control]


def _custody(
    where: paths.Paths, unit: Service, inherited: notify.Inheritance, log: Callable[[str], None]
) -> Custody:
    """Who keeps the listeners besides us: the service manager where it can, else a process of our own."""
    holder = HolderCustody(where.holder_socket, log, worker_environment(os.environ))
    size = notify.store_size(os.environ)
    if not size or not unit.notifier.is_heard:
        return holder
    return StoreCustody(unit.notifier, inherited, size, holder, log)


async def _report_ready(unit: Service, where: paths.Paths, log: Callable[[str], None]) -> None:
    """Only now, and only when the control socket really answers."""
    if unit.notifier.is_heard:
        await service.answers(where.control_socket)
        unit.notifier.tell("READY=1")
    log(f"supervisor ready, pid {os.getpid()}, {where.control_socket}")


def _fork_server(where: paths.Paths, module: str, log: Callable[[str], None]) -> ForkServer | None:
    """What workers are to come of: on Linux, unless the configuration says otherwise."""
    try:
        wish = config.parse(where.config_file.read_text(encoding="utf-8")).spawn
    except (config.ConfigError, ValueError, OSError):
        wish = None  # absent, or wrong as whoever says `up` is told: no reason not to run
    if wish == "fork" and not CAN_FORK:
        log('spawn = "fork" is for Linux; workers are started by exec')
    if wish == "exec" or not CAN_FORK:
        return None
    return ForkServer(module, log, worker_environment(os.environ))


async def _heed_signals(unit: Service, ending: _Ending, reload: Callable[[], None]) -> None:
    with trio.open_signal_receiver(*_HEEDED) as signals:
        for missed in ending.missed:
            signal.raise_signal(missed)
        ending.missed.clear()
        async for signum in signals:
            if signum == LEAVE_SIGNAL:
                ending.ask(LEAVE)
            elif signum == signal.SIGHUP:  # a closed terminal is no reason to end, either
                reload()
            else:
                ending.ask(STOP if await unit.is_to_stop() else LEAVE)


async def _end(
    unit: Service, ending: _Ending, how: str, grace_s: float | None, log: Callable[[str], None]
) -> None:
    """What was asked for over the control socket. A service has its manager do it, and obeys that."""
    if not unit.is_one or how == LEAVE or ending.asked.is_set():
        ending.ask(how, grace_s)
        return
    ending.grace_s = grace_s
    try:
        await unit.pass_on(how)
    except OSError as error:
        log(f"the service manager was asked to {how} {unit.unit} and did not: {error}")
        # Not by executing anew: what the manager keeps for us, it hands to a process that it has started.
        ending.ask(LEAVE if how == RESTART else STOP, grace_s)


async def _halt(keeper: Keeper, unit: Service, ending: _Ending, log: Callable[[str], None]) -> None:
    """Drain every worker at the same time; the second request to stop cuts it short."""
    log("stopping: every worker drains")
    unit.notifier.tell(f"EXTEND_TIMEOUT_USEC={int((_longest(keeper, ending) + _DRAIN_SPARE_S) * 1e6)}")
    await keeper.ask(lambda: _halt_all(keeper, ending.grace_s), refusable=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_hurry, keeper, ending)
        await keeper.wait_until(
            lambda: all(unit.proxy.state is State.STOPPED for unit in keeper.units.values()), float("inf")
        )
        nursery.cancel_scope.cancel()
    log("stopped")


def _longest(keeper: Keeper, ending: _Ending) -> float:
    graces = (unit.proxy.spec.grace_s for unit in keeper.units.values() if unit.proxy.workers)
    return ending.grace_s if ending.grace_s is not None else max(graces, default=0.0)


def _halt_all(keeper: Keeper, grace_s: float | None) -> None:
    for unit in keeper.units.values():
        keeper.apply(unit, fleet.Halt(unit.proxy.spec.grace_s if grace_s is None else grace_s))


async def _hurry(keeper: Keeper, ending: _Ending) -> None:
    await ending.urgent.wait()
    await keeper.ask(lambda: _halt_all(keeper, 0.0), refusable=False)


def _take_away(inodes: dict[Path, tuple[int, int] | None]) -> None:
    """Remove our socket files, unless a successor has already put its own there."""
    for path, inode in inodes.items():
        if inode is not None and sockets.inode_of(path) == inode:
            path.unlink(missing_ok=True)
