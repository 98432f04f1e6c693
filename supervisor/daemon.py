"""The supervisor's process: one instance by lock, its sockets, its nursery tree, its two ways to end.

*Stop* (SIGTERM, SIGINT, `proxyctl daemon stop`) drains and stops every worker and keeps the wishes for the
next start. *Restart* leaves the workers alone and executes the program anew under the same pid: the same
path as after a crash, so that it is exercised at every upgrade.
"""

from __future__ import annotations

import argparse
import fcntl
import gc
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import attrs
import trio

from . import fleet, kernel, logs, paths, sockets
from .commands import Commands
from .control import Control
from .custody import Custody
from .events import Events
from .facts import State
from .keeper import Keeper
from .runner import Runner, worker_environment

EXIT_OK = 0
EXIT_FAILED = 1
_LOG_CHECK_EVERY = 256
_HAND_OVER_LIMIT_S = 5.0
"""How long a restart waits for a holder that has just been lost."""


@attrs.define
class _Ending:
    """How this process is to end; set once, except that stop may become urgent."""

    asked: trio.Event = attrs.Factory(trio.Event)
    restart: bool = False
    grace_s: float | None = None
    urgent: trio.Event = attrs.Factory(trio.Event)

    def ask(self, how: str, grace_s: float | None) -> None:
        if self.asked.is_set():
            if how == "stop":
                self.urgent.set()  # the second SIGTERM: at once
            return
        self.restart = how == "restart"
        self.grace_s = grace_s
        self.asked.set()


def main(argv: list[str] | None = None) -> int:
    """Run the supervisor until it is told to end; the return value is the exit code."""
    arguments = _parse(argv)
    where = paths.find()
    try:
        paths.prepare(where)
    except (paths.UnsafeDirectoryError, OSError) as error:
        return _refuse(f"cannot use its directories: {error}")
    lock = _Lock(where.lock)
    try:
        holder = lock.take()
    except OSError as error:
        return _refuse(f"cannot use its lock {where.lock}: {error.strerror}")
    if holder is not None:
        _say(f"is already running (pid {holder or 'unknown'})")
        return EXIT_OK
    _raise_file_limit()
    ending = _Ending()
    log = _Log(where.daemon_log)
    try:
        trio.run(_serve, where, arguments.worker_module, ending, log.write)
    except (sockets.NotASocketError, OSError) as error:
        return _refuse(f"cannot start: {error}")
    if ending.restart:
        log.write("executing anew; the workers go on")
        words = sys.argv[1:] if argv is None else argv
        os.execv(sys.executable, [sys.executable, "-P", "-m", "modelproxy.supervisor", *words])
    lock.release()
    return EXIT_OK


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m modelproxy.supervisor", description=__doc__)
    parser.add_argument(
        "--worker-module",
        default="modelproxy.worker",
        help="the program that is started as a worker (tests put a misbehaving one here)",
    )
    return parser.parse_args(argv)


def _refuse(text: str) -> int:
    _say(text)
    return EXIT_FAILED


def _say(text: str) -> None:
    sys.stderr.write(f"modelproxy: the supervisor {text}\n")


class _Lock:
    """One supervisor per runtime directory. The kernel frees the lock however its holder ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def take(self) -> int | None:
        """None: it is ours. Else the pid of the holder, 0 when it has not said."""
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.pread(self._fd, 20, 0).decode(errors="replace").strip()
            return int(text) if text.isdigit() else 0
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        return None

    def release(self) -> None:
        os.ftruncate(self._fd, 0)
        os.close(self._fd)


class _Log:
    """Lines on stderr; when that is our own log file, it is rotated here."""

    def __init__(self, own_file: Path) -> None:
        self._file = own_file
        self._written = 0

    def write(self, text: str) -> None:
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        try:
            os.write(2, f"{stamp} {text}\n".encode(errors="replace"))
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


def _raise_file_limit() -> None:
    """Each proxy costs a few descriptors; the soft limit of a login is often 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # macOS names an "unlimited" that it does not take
        pass


async def _serve(where: paths.Paths, worker_module: str, ending: _Ending, log: Callable[[str], None]) -> None:
    started_at = kernel.wall_clock()
    workers_socket = sockets.bind_unix(where.workers_socket)
    control_socket = sockets.bind_unix(where.control_socket)
    inodes = {path: sockets.inode_of(path) for path in (where.workers_socket, where.control_socket)}
    events = Events()
    custody = Custody(where.holder_socket, log, worker_environment(os.environ))
    keeper = Keeper(
        where,
        spawner=Runner(worker_module),
        custody=custody,
        events=events,
        log=log,
        started_at=started_at,
        now=time.monotonic,
        jitter=lambda: random.uniform(0.75, 1.25),
    )
    commands = Commands(keeper, where, log)
    control = Control(
        commands,
        events,
        where,
        started_at=started_at,
        warnings=lambda: [*keeper.warnings, *commands.warnings],
        leave=ending.ask,
        log=log,
    )
    gc.collect()
    gc.freeze()  # what is imported stays; the collector need not look at it again
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_heed_signals, ending)
        await nursery.start(keeper.run, workers_socket)
        await nursery.start(control.server().run, [control_socket])
        log(f"supervisor ready, pid {os.getpid()}, {where.control_socket}")
        nursery.start_soon(commands.autostart)
        await ending.asked.wait()
        if not ending.restart:
            commands.closing = True
            await _halt(keeper, ending, log)
            await custody.quit()
        else:
            # The sockets outlive the change in other hands. A worker that stands still could not bring its own.
            await custody.confirm(_HAND_OVER_LIMIT_S)
        nursery.cancel_scope.cancel()
    workers_socket.close()
    control_socket.close()
    if not ending.restart:
        _take_away(inodes)


async def _heed_signals(ending: _Ending) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for signum in signals:
            if signum != signal.SIGHUP:  # a closed terminal is no reason to end
                ending.ask("stop", None)


async def _halt(keeper: Keeper, ending: _Ending, log: Callable[[str], None]) -> None:
    """Drain every worker at the same time; the second request to stop cuts it short."""
    log("stopping: every worker drains")
    await keeper.ask(lambda: _halt_all(keeper, ending.grace_s), refusable=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_hurry, keeper, ending)
        await keeper.wait_until(
            lambda: all(unit.proxy.state is State.STOPPED for unit in keeper.units.values()), float("inf")
        )
        nursery.cancel_scope.cancel()
    log("stopped")


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
