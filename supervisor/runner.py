"""Worker processes: made, recognised, signalled, waited for.

They are made by the fork server where there is one, else by exec, which is right everywhere. What a worker
is born with is the same on both ways, and so is its entry.

Spawned and adopted workers are the same `Handle`; neither is tied to the life of this process.
Never PR_SET_PDEATHSIG: it follows the *thread* that forked, and trio's threads end after ten seconds.
"""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs
import trio

from . import forks, kernel, paths
from .channel import Link
from .tally import Tally

# What a worker may know of our environment. An allow-list, because the shell that started the daemon may
# hold the keys of every provider, and a worker is to hold those of its own only.
_ENVIRONMENT = ("HOME", "LANG", "LOGNAME", "PATH", "TMPDIR", "TZ", "USER", "VIRTUAL_ENV")
_ENVIRONMENT_PREFIXES = ("COVERAGE_", "LC_", "PYTHON", "SSL_CERT_", "XDG_")
_ENVIRONMENT_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")

# The system could not make a process just now; another try may work.
_PASSING = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT}


class SpawnError(Exception):
    def __init__(self, reason: str, *, permanent: bool) -> None:
        super().__init__(reason)
        self.permanent = permanent


@attrs.define(eq=False)
class Handle:
    """One worker process, spawned or adopted."""

    generation: int
    pid: int
    pidfd: int | None
    start_time: int | None
    token: str = attrs.field(repr=False)
    child: subprocess.Popen[bytes] | None = attrs.field(default=None, repr=False)
    """Kept so that the standard library neither warns nor reaps behind our back."""
    link: Link | None = None
    settled: trio.Event = attrs.field(factory=trio.Event, repr=False)
    """It is ready, or it never will be: the next start may begin."""
    tally: Tally = attrs.Factory(Tally)
    last_words: str = ""
    """Why it was about to end with a code that means failure."""
    measured_at: float = -math.inf
    """When its memory was last looked at, by the monotonic clock."""
    oom_counter: Path | None = None
    """Where the kernel counts what it kills for want of memory among this process's neighbours."""
    killed: bool = False
    """By us."""
    closed: bool = False

    def signal(self, signum: int) -> None:
        if not self.closed:  # afterwards the pid may be anybody's
            kernel.send_signal(self.pid, self.pidfd, signum)

    def signal_main_thread(self, signum: int) -> None:
        if not self.closed:
            kernel.send_signal_to_main_thread(self.pid, self.pidfd, signum)

    def close(self) -> None:
        self.closed = True
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None


@attrs.frozen
class Birth:
    """What a new process is told before it can ask."""

    name: str
    generation: int
    token: str = attrs.field(repr=False)
    socket_path: str
    listeners: Sequence[socket.socket]
    log_file: Path
    ledger: Path


class Runner:
    """Makes worker processes."""

    def __init__(
        self, module: str = "modelproxy.worker", fork_server: forks.ForkServer | None = None
    ) -> None:
        self._module = module
        self._fork_server = fork_server

    @property
    def way(self) -> str:
        """How a worker that is wanted now is made: `fork` or `exec`."""
        return "fork" if self._fork_server is not None and self._fork_server.available else "exec"

    async def spawn(self, birth: Birth) -> Handle:
        """Start a worker; SpawnError says why not. Cancelled, it has started none."""
        if self._fork_server is not None:
            try:
                return await self._fork(birth, self._fork_server)
            except forks.UnavailableError:
                pass  # said there, and mended there
            except OSError:
                pass  # the log, or a lack of descriptors: exec meets the same and words it
        await trio.lowlevel.checkpoint_if_cancelled()
        return self._execute(birth)

    async def _fork(self, birth: Birth, server: forks.ForkServer) -> Handle:
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        try:
            with _log_descriptor(birth.log_file) as log:
                inherited = [read_end, log, *(listener.fileno() for listener in birth.listeners)]
                pid = await server.fork(birth.name, birth.generation, inherited)
            handle = _handle_of_newborn(birth, pid)
            try:
                await trio.lowlevel.checkpoint_if_cancelled()
                numbers = range(forks.FIRST_LISTENER, forks.FIRST_LISTENER + len(birth.listeners))
                os.write(write_end, _certificate(birth, list(numbers)))
            except BaseException:
                handle.close()
                _take_back(pid)
                raise
            return handle
        finally:
            os.close(read_end)
            os.close(write_end)

    def _execute(self, birth: Birth) -> Handle:
        try:
            child = self._popen(birth)
        except OSError as error:
            what = sys.executable if error.filename in (None, os.devnull) else error.filename
            raise SpawnError(
                f"cannot start {what}: {error.strerror}", permanent=error.errno not in _PASSING
            ) from None
        try:
            pidfd = kernel.open_pidfd(child.pid)
        except ProcessLookupError:
            pidfd = None  # cannot happen before we reap; waitpid will tell
        except OSError as error:
            child.kill()
            child.wait()  # killed a moment ago: no wait worth the name
            raise SpawnError(f"cannot watch a worker: {error.strerror}", permanent=False) from None
        return Handle(birth.generation, child.pid, pidfd, kernel.start_time(child.pid), birth.token, child)

    def _popen(self, birth: Birth) -> subprocess.Popen[bytes]:
        fds = [listener.fileno() for listener in birth.listeners]
        read_end, write_end = os.pipe2(os.O_CLOEXEC) if hasattr(os, "pipe2") else os.pipe()
        try:
            # The token goes through a pipe: a command line is everybody's to read.
            os.write(write_end, _certificate(birth, fds))
            os.close(write_end)
            write_end = -1
            with _log_descriptor(birth.log_file) as log:
                return subprocess.Popen(
                    self._command(birth, read_end),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[*fds, read_end],
                    start_new_session=True,
                    cwd="/",
                    env=worker_environment(os.environ),
                )
        finally:
            os.close(read_end)
            if write_end >= 0:
                os.close(write_end)

    def _command(self, birth: Birth, read_end: int) -> list[str]:
        # -P: an agent's project may hold a file called trio.py. Who it is, is for `ps aux` and for `seek`.
        who = _who(birth.name, birth.generation)
        return [sys.executable, "-P", "-m", self._module, "--birth-fd", str(read_end), *who]


def _who(name: str, generation: int) -> tuple[str, str]:
    """How a worker's command line ends, whichever way it is made."""
    return name, f"g{generation}"


def _handle_of_newborn(birth: Birth, pid: int) -> Handle:
    try:
        pidfd = kernel.open_pidfd(pid)
    except OSError:
        _take_back(pid)
        raise
    return Handle(birth.generation, pid, pidfd, kernel.start_time(pid), birth.token)


def _take_back(pid: int) -> None:
    """A child of ours that is nobody yet."""
    os.kill(pid, signal.SIGKILL)  # not reaped: the number is still its own
    os.waitpid(pid, 0)


def _certificate(birth: Birth, fds: list[int]) -> bytes:
    return json.dumps(
        {
            "name": birth.name,
            "generation": birth.generation,
            "token": birth.token,
            "socket": birth.socket_path,
            "listeners": fds,
            "log": str(birth.log_file),
            "ledger": str(birth.ledger),
        }
    ).encode()


@contextmanager
def _log_descriptor(path: Path) -> Iterator[int]:
    """The log opened for appending, 0600; /dev/null when the disk is full: a proxy serves without it."""
    try:
        fd = paths.open_to_write(path, os.O_APPEND)
    except OSError as error:
        if error.errno not in _PASSING:
            raise SpawnError(f"cannot open its log {path}: {error.strerror}", permanent=True) from None
        fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def worker_environment(source: os._Environ[str] | dict[str, str]) -> dict[str, str]:
    """The part of our environment that a worker gets."""
    return {
        name: value
        for name, value in source.items()
        if name in _ENVIRONMENT
        or name.startswith(_ENVIRONMENT_PREFIXES)
        or name.upper() in _ENVIRONMENT_PROXIES
    }


def adopt(link: Link) -> Handle:
    """A handle for a worker that has dialled; ProcessLookupError when it has just died."""
    pid = link.hello.pid
    # The descriptor first, the start time after it: the other way round a successor of the same number
    # could slip in between.
    pidfd = kernel.open_pidfd(pid)
    return Handle(
        link.hello.generation,
        pid,
        pidfd,
        kernel.start_time(pid),
        link.hello.token,
        link=link,
        tally=Tally(ready_at=link.hello.started_at or None),
    )


def recognise(generation: int, pid: int, started: int | None, boot: str, token: str) -> Handle | None:
    """The recorded process if it still lives and is the very same one; None means: touch nothing."""
    try:
        pidfd = kernel.open_pidfd(pid)
    except OSError:
        return None
    handle = Handle(generation, pid, pidfd, started, token)
    same = started is not None and kernel.start_time(pid) == started and kernel.boot_id() == boot
    if same and kernel.run_state(pid) not in (None, "Z", "X"):
        return handle
    handle.close()
    return None


def seek(name: str, generation: int, log_file: Path, token: str) -> Handle | None:
    """The worker that was ordered by this name and number and whose pid was never noted, if it was ever born.

    Its command line may be that of a worker in another home, but not its log, whose name begins alike when
    it has been rotated since. None is the truth: who forks holds our lock until it has executed a program.
    """
    ours = os.path.realpath(log_file)
    for pid in kernel.pids_called(*_who(name, generation)):
        try:
            pidfd = kernel.open_pidfd(pid)
        except OSError:
            continue
        if (kernel.writes_to(pid) or "").startswith(ours):
            return Handle(generation, pid, pidfd, kernel.start_time(pid), token)
        if pidfd is not None:
            os.close(pidfd)
    return None


async def wait_exit(handle: Handle) -> kernel.Exit:
    """How the process ended. Its last words on the channel are read before this returns."""
    ended = await kernel.wait_exit(handle.pid, handle.pidfd)
    if handle.child is not None:
        # Tell the standard library that it has been reaped, or it would try itself.
        handle.child.returncode = ended.code if ended.code is not None else -(ended.signal or 1)
    if handle.link is not None:
        with trio.move_on_after(1.0):
            await handle.link.closed.wait()
    return ended


def abort(handle: Handle) -> None:
    """SIGABRT: a worker's fault handler writes every stack into its log.

    To the thread of its event loop. Were it another one that takes it, the loop of a worker that was stopped
    would go on while the stacks are written, take those who wait in the queue and the requests they sent, and
    die with them.
    """
    handle.signal_main_thread(signal.SIGABRT)
    handle.signal(signal.SIGCONT)


def kill(handle: Handle) -> None:
    handle.killed = True
    handle.signal(signal.SIGKILL)
    handle.signal(signal.SIGCONT)
