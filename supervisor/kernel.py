"""The operating system's own questions and answers, with a fallback for each where Linux is alone.

Everything here is a fact about a process or a socket; nothing decides. An answer that this system cannot
give is None, and the callers' rule for None is always the harmless one.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import select
import signal
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

import attrs
import trio

_LINUX = sys.platform == "linux"
_PIDFD_GET_INFO = 0xC040FF0B
_PIDFD_INFO_EXIT = 1 << 3
_PIDFD_SIGNAL_THREAD = 1 << 0
_PR_SET_CHILD_SUBREAPER = 36
_TCP_INFO_SIZE = 104
_EXIT_CODE = 49  # of /proc/PID/stat, counted from the third field


@attrs.frozen
class Exit:
    """How a process ended. `code` and `signal` are both None when nobody could see it."""

    code: int | None = None
    signal: int | None = None

    def __str__(self) -> str:
        if self.signal is not None:
            known = self.signal in set(signal.Signals)
            return signal.Signals(self.signal).name if known else f"signal {self.signal}"
        return "exit unobserved" if self.code is None else f"exit {self.code}"


def exit_from_status(status: int) -> Exit:
    """From the word that wait(2) gives."""
    if os.WIFSIGNALED(status):
        return Exit(signal=os.WTERMSIG(status))
    return Exit(code=os.waitstatus_to_exitcode(status))


def wall_clock() -> float:
    """Seconds since the epoch: for people and records only, never for a deadline."""
    return time.time()  # noqa: TID251  # see above


# --- processes ------------------------------------------------------------------------------------


def open_pidfd(pid: int) -> int | None:
    """A handle that no later process with the same number can inherit; None where there is none.

    ProcessLookupError means that the process is gone.
    """
    if not hasattr(os, "pidfd_open"):
        os.kill(pid, 0)
        return None
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno in (errno.ESRCH, errno.EINVAL):
            raise ProcessLookupError(errno.ESRCH, "no such process") from None
        if error.errno in (errno.ENOSYS, errno.EPERM):  # an older kernel than this Python, or a sandbox
            os.kill(pid, 0)
            return None
        raise


def start_time(pid: int) -> int | None:
    """When the process started, in clock ticks since boot: with the boot id, its identity."""
    fields = _stat_fields(pid)
    return int(fields[19]) if fields else None


CAN_IDENTIFY = Path("/proc/self/stat").exists()
"""Whether a recorded process can be told from a later one of the same number."""


def is_there(pid: int) -> bool:
    """Some process has this number; which one is another question."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def pids_called(*last_words: str) -> list[int]:
    """The processes whose command line ends with these words."""
    tail = [os.fsencode(word) for word in last_words]
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        except OSError:
            continue
        if words[-len(tail) :] == tail:
            found.append(int(entry.name))
    return found


def writes_to(pid: int) -> str | None:
    """The file behind its standard output, by the name that it has now."""
    try:
        return os.readlink(f"/proc/{pid}/fd/1")
    except OSError:
        return None


def run_state(pid: int) -> str | None:
    """One letter: R, S, D, T (stopped), Z …"""
    fields = _stat_fields(pid)
    return fields[0] if fields else None


def cpu_ticks(pid: int) -> int | None:
    """CPU time used so far, in clock ticks."""
    fields = _stat_fields(pid)
    return int(fields[11]) + int(fields[12]) if fields else None


_PAGE = os.sysconf("SC_PAGE_SIZE")


def rss(pid: int) -> int | None:
    """Memory in bytes that the process has in RAM, what it shares with others included."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * _PAGE
    except (OSError, IndexError):
        return None


def _stat_fields(pid: int) -> list[str] | None:
    """/proc/PID/stat from its third field on; the second may hold spaces and brackets."""
    try:
        # A process may call itself anything, and the kernel cuts a long name in the middle of a letter.
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()


@functools.cache
def boot_id() -> str:
    """Which boot this is; a process record of another one is void.

    Read once: it cannot change, every save asks for it, and a supervisor out of descriptors must not write
    an empty one beside a worker that lives.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def is_traced(pid: int) -> bool:
    """Whether a debugger holds the process."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return False
    return any(line.startswith("TracerPid:") and line.split()[1] != "0" for line in status.splitlines())


def send_signal(pid: int, pidfd: int | None, signum: int) -> None:
    """Signal exactly this process; one that is gone is no error."""
    try:
        if pidfd is not None:
            signal.pidfd_send_signal(pidfd, signum)
        else:
            os.kill(pid, signum)
    except ProcessLookupError:
        pass


def send_signal_to_main_thread(pid: int, pidfd: int | None, signum: int) -> None:
    """Signal the first thread of exactly this process; one that is gone is no error.

    What is sent to a process as a whole is taken by any of its threads; of one that was stopped, by whichever
    wakes first. Where neither Linux 6.9 nor tgkill(2) helps, it is the process that is signalled.
    """
    if pidfd is not None:
        try:
            signal.pidfd_send_signal(pidfd, signum, None, _PIDFD_SIGNAL_THREAD)
            return
        except ProcessLookupError:
            return
        except OSError:
            if _has_ended(pidfd):  # while it lives, its number is nobody else's
                return
    if _LINUX and hasattr(_libc(), "tgkill"):
        _libc().tgkill(pid, pid, signum)
    else:
        send_signal(pid, pidfd, signum)


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def be_subreaper(on: bool) -> None:
    """Whether orphans among our descendants become our own children, instead of init's."""
    import ctypes  # only where it is needed

    arguments = [ctypes.c_ulong(number) for number in (int(on), 0, 0, 0)]
    if _libc().prctl(_PR_SET_CHILD_SUBREAPER, *arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@functools.cache
def _libc() -> Any:
    import ctypes  # as above

    return ctypes.CDLL(None, use_errno=True)


async def wait_exit(pid: int, pidfd: int | None) -> Exit:
    """Wait until the process has ended; a child of ours is reaped."""
    if pidfd is not None:
        await trio.lowlevel.wait_readable(pidfd)
        return await _exit_behind(pid, pidfd)
    try:
        # A limiter of its own: a thread per worker for its whole life would use up everybody's.
        _, status = await trio.to_thread.run_sync(
            os.waitpid, pid, 0, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1)
        )
    except ChildProcessError:
        await _wait_exit_without_pidfd(pid)
        return Exit()
    return exit_from_status(status)


async def _exit_behind(pid: int, pidfd: int) -> Exit:
    try:
        found = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)  # noqa: ASYNC222  # WNOHANG
    except ChildProcessError:  # an adopted one: its parent was the supervisor before us
        return await _exit_of_stranger(pid, pidfd)
    if found is None:
        return Exit()
    if found.si_code == os.CLD_EXITED:
        return Exit(code=found.si_status)
    return Exit(signal=found.si_status)


async def _exit_of_stranger(pid: int, pidfd: int) -> Exit:
    """How somebody else's child ended: /proc tells while it waits to be reaped, Linux 6.15 afterwards."""
    for _ in range(10):
        fields = _stat_fields(pid)
        if fields and fields[0] == "Z":  # the number cannot have a new owner before it is reaped
            return exit_from_status(int(fields[_EXIT_CODE]))
        request = bytearray(struct.pack("=Q", _PIDFD_INFO_EXIT) + bytes(56))
        try:
            fcntl.ioctl(pidfd, _PIDFD_GET_INFO, request)
        except OSError:
            return Exit()
        (mask,) = struct.unpack_from("=Q", request, 0)
        if mask & _PIDFD_INFO_EXIT:
            (status,) = struct.unpack_from("=i", request, 60)
            return exit_from_status(status)
        await trio.sleep(0.02)
    return Exit()


async def _wait_exit_without_pidfd(pid: int) -> None:
    if sys.platform == "darwin":
        try:
            await trio.lowlevel.wait_kevent(pid, select.KQ_FILTER_PROC, _never_abort)
        except OSError:
            return
        return
    while True:
        try:
            os.kill(pid, 0)
        except OSError:
            return
        await trio.sleep(0.5)


def _never_abort(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.SUCCEEDED


# --- memory that runs out -------------------------------------------------------------------------

_OOM_STEP = 50
"""Thousandths of the machine's memory by which a worker looks larger to the OOM killer than it is."""


def offer_to_oom_killer(pid: int) -> None:
    """Rather this process than us: whoever is left can start it again."""
    try:
        own = int(Path("/proc/self/oom_score_adj").read_text())
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(min(1000, own + _OOM_STEP)))
    except (OSError, ValueError):
        pass  # not on this system, not permitted, or it has just died


def oom_counter(pid: int) -> Path | None:
    """The file in which the kernel counts what it kills for want of memory where this process lives."""
    try:
        found = oom_counter_in(Path(f"/proc/{pid}/cgroup").read_text())
    except OSError:
        return None
    return next((path for path in found if path.exists()), None)


def oom_counter_in(cgroups: str, mount: Path = Path("/sys/fs/cgroup")) -> list[Path]:
    """Where that file may be, from the text of /proc/PID/cgroup: version 1's controller first, if it is used."""
    first, second = [], []
    for line in cgroups.splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if "memory" in controllers.split(","):
            first.append(mount / "memory" / path.lstrip("/") / "memory.oom_control")
        elif not controllers:
            second += [mount / part / path.lstrip("/") / "memory.events" for part in ("", "unified")]
    return first + second


def oom_kills(counter: Path) -> int | None:
    """How many processes have been killed there so far."""
    try:
        return oom_kills_in(counter.read_text())
    except OSError:
        return None


def oom_kills_in(text: str) -> int | None:
    """The count in a `memory.events` or `memory.oom_control`."""
    for line in text.splitlines():
        name, _, number = line.partition(" ")
        if name == "oom_kill" and number.strip().isdecimal():
            return int(number)
    return None


# --- sockets --------------------------------------------------------------------------------------


@attrs.frozen
class Peer:
    pid: int | None
    uid: int | None


def peer_of(connection: socket.socket) -> Peer:
    """Who is at the other end of a Unix socket, by the kernel's word."""
    if hasattr(socket, "SO_PEERCRED"):
        pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return Peer(pid, uid)
    # macOS: struct xucred { u_int version; uid_t uid; short ngroups; … }, option LOCAL_PEERCRED at level 0.
    _, uid = struct.unpack_from("=Ii", connection.getsockopt(0, 1, 76))
    pid = struct.unpack("=i", connection.getsockopt(0, 2, 4))[0]  # LOCAL_PEERPID
    return Peer(pid, uid)


def accept_queue(listener: socket.socket) -> int | None:
    """Connections that wait to be accepted, seen from any copy of the listening socket."""
    if not _LINUX:
        return None
    try:
        info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
    except OSError:
        return None
    return int(struct.unpack("8B24I", info)[8 + 4])


@attrs.frozen
class Holder:
    """The process behind a listening port, as far as this user may see it."""

    pid: int
    command: str


def port_holder(port: int) -> Holder | None:
    """Who listens on `port` of a loopback or wildcard address."""
    inodes = _listening_inodes(port)
    if not inodes:
        return None
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and _holds(process, inodes):
            return Holder(int(process.name), _command(process))
    return None


def _listening_inodes(port: int) -> set[str]:
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            fields = row.split()
            if fields[3] == "0A" and int(fields[1].rsplit(":", 1)[1], 16) == port:
                found.add(f"socket:[{fields[9]}]")
    return found


def _holds(process: Path, inodes: set[str]) -> bool:
    try:
        with os.scandir(process / "fd") as entries:
            return any(os.readlink(entry.path) in inodes for entry in entries)
    except OSError:  # another user's, or gone in the meantime
        return False


def _command(process: Path) -> str:
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
        # Split once more: a program given with `-c` has lines, and this is a word in somebody's sentence.
        text = " ".join(b" ".join(words).decode(errors="replace").split())
        return text[:80] or (process / "comm").read_text(errors="replace").strip()
    except OSError:
        return "?"
