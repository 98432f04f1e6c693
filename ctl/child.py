"""Running somebody's command as if it had been typed without us in front.

Theory of operation
-------------------
Where nothing is to be done afterwards we become the command (`quick`). Else it is our child, in our own process group:
then the terminal is its terminal, what the keyboard signals reaches it from the kernel, and a shell that it
is may have a group of its own. Of signals we keep nothing to ourselves: what was sent to us alone goes on to
it, what the keyboard sent has reached it already. When it stops we stop, so that the shell in front of us sees
a stopped job, and continue it when we are continued. Who dies of signal n is told as 128+n, as a shell does.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from types import FrameType

EXIT_CANNOT = 126
EXIT_NOT_FOUND = 127
_KEYBOARD = (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP)
_FORWARDED = (*_KEYBOARD, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class NotRunnableError(Exception):
    """The command cannot be started; `code` as shells have it."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def check(command: Sequence[str]) -> None:
    """Raise NotRunnableError before anything is brought up for a command that cannot run."""
    if shutil.which(command[0]) is None:
        raise not_runnable(command[0], _reason(command[0]))


def run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run it to its end; its exit code, 128+n when signal n ended it."""
    return _Job(command, environment).wait()


class _Job:
    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._pid: int | None = None
        self._waiting: list[int] = []
        """Signals that came before there was a child."""
        # What was ignored when we were started (nohup) is to be ignored by it, too.
        heeded = [signum for signum in _FORWARDED if signal.getsignal(signum) is not signal.SIG_IGN]
        self._old = {signum: signal.signal(signum, self._on_signal) for signum in heeded}
        try:
            # Its other descriptors are its own affair, as they were ours; ours close at exec.
            child = subprocess.Popen(list(command), env=dict(environment), close_fds=False)
        except (OSError, ValueError) as error:
            self._restore()
            raise not_runnable(command[0], error) from None
        child.returncode = 0  # waited for below, not by the library
        self._pid = child.pid
        for signum in self._waiting:
            self._send(signum)

    def wait(self) -> int:
        assert self._pid is not None
        pid = self._pid
        try:
            while True:
                _, status = os.waitpid(pid, os.WUNTRACED)
                if not os.WIFSTOPPED(status):
                    return _exit_code(status)
                self._stop_as_well(pid)
        finally:
            self._pid = None
            self._restore()

    def _stop_as_well(self, pid: int) -> None:
        """Until somebody continues us; only where there is a shell that can."""
        if _has_terminal():
            os.kill(os.getpid(), signal.SIGSTOP)
            self._send(signal.SIGCONT)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if signum in _KEYBOARD and _in_foreground():
            return
        if self._pid is None:
            self._waiting.append(signum)
        else:
            self._send(signum)

    def _send(self, signum: int) -> None:
        if self._pid is not None:
            try:
                os.kill(self._pid, signum)
            except OSError:  # it has just ended, or has become somebody else (sudo)
                pass

    def _restore(self) -> None:
        for signum, handler in self._old.items():
            signal.signal(signum, handler)


def _exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def _in_foreground() -> bool:
    """Whether the keyboard's signals reach our group."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def _has_terminal() -> bool:
    """Whether a shell with job control may stand behind us: not when we lead the session ourselves."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return os.getsid(0) != os.getpid()


def _reason(program: str) -> OSError:
    there = "/" in program and os.path.exists(program)
    return PermissionError(errno.EACCES, "not an executable file") if there else FileNotFoundError()


def not_runnable(program: str, error: OSError | ValueError) -> NotRunnableError:
    """`error` as its user reads it."""
    if isinstance(error, FileNotFoundError):
        return NotRunnableError(f'cannot run "{program}": there is no such program', EXIT_NOT_FOUND)
    if os.path.isdir(program):
        return NotRunnableError(f'cannot run "{program}": it is a folder', EXIT_CANNOT)
    why = error.strerror if isinstance(error, OSError) else None
    return NotRunnableError(f'cannot run "{program}": {(why or str(error)).lower()}', EXIT_CANNOT)
