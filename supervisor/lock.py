"""One supervisor per runtime directory: a lock that the kernel frees however its holder ends.

Its file says who holds it, for people and for the command line. That number may be out of date (the holder before
was killed, the present one has not written yet), so nobody is signalled by it who does not have the file open.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
from pathlib import Path

from . import kernel

LEAVE_SIGNAL = signal.SIGUSR2
"""From the service to a supervisor that was started by hand: systemd's control socket has taken its place."""
_LEAVE_LIMIT_S = 20.0
_ENDING_S = 0.5


class Lock:
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

    def take_from(self, holder: int) -> int | None:
        """As `take`, after its holder was asked to leave. One that knows no such signal just dies of it."""
        try:
            leaving = kernel.open_pidfd(holder)
        except OSError:
            leaving = None  # it has gone by itself
        if leaving is not None:
            if self._is_open_in(holder):
                _has_left(holder, leaving)
            os.close(leaving)
        os.close(self._fd)
        return self.take()

    def _is_open_in(self, pid: int) -> bool:
        ours = os.fstat(self._fd)
        try:
            descriptors = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            return False
        return any(_is_at(f"/proc/{pid}/fd/{number}", ours) for number in descriptors)

    def release(self) -> None:
        os.ftruncate(self._fd, 0)
        os.close(self._fd)


def send_away(pid: int, start_time: int | None, boot_id: str) -> bool:
    """Whether this very process was there: a supervisor that lives without its runtime folder, and so without lock.

    It leaves its workers to us. One that does not is killed: two would fight for every port.
    """
    if pid == os.getpid() or start_time is None or boot_id != kernel.boot_id():
        return False
    try:
        leaving = kernel.open_pidfd(pid)
    except OSError:
        return False
    if leaving is None:
        return False
    try:
        # One that has just given its lock back is about to end anyway.
        if kernel.start_time(pid) != start_time or select.select([leaving], [], [], _ENDING_S)[0]:
            return False
        if not _has_left(pid, leaving):
            kernel.send_signal(pid, leaving, signal.SIGKILL)
            select.select([leaving], [], [], _LEAVE_LIMIT_S)
        return True
    finally:
        os.close(leaving)


def _has_left(pid: int, pidfd: int) -> bool:
    """Asked to, and in time."""
    kernel.send_signal(pid, pidfd, LEAVE_SIGNAL)
    return bool(select.select([pidfd], [], [], _LEAVE_LIMIT_S)[0])


def _is_at(path: str, file: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), file)
    except OSError:  # a socket, or closed meanwhile
        return False
