"""Is that process still alive, and is it still the same one?

A pid alone says little: it is used again. On Linux the start time in /proc and the boot's id make it sure.
Nothing here signals anybody.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # see faults
if TYPE_CHECKING:
    from modelproxy.supervisor.paths import Paths


def daemon_pid(paths: Paths) -> int | None:
    """The supervisor's pid as its lock file says; it may be the pid of a dead one.

    The lock itself is not tried: taking it for a moment, even shared, would tell a supervisor that starts
    in that moment that another one lives.
    """
    try:
        with open(paths.lock, "rb") as file:
            words = file.read(64).split()
        return int(words[0])
    except (OSError, ValueError, IndexError):
        return None


def is_alive(pid: int | None) -> bool:
    """Whether a process with this pid runs (a zombie does not)."""
    if pid is None or pid <= 0:
        return False
    if sys.platform != "linux":
        return _answers_to_signal_0(pid)
    return start_time(pid) is not None


def is_same(pid: int, started: int | None, boot: str | None) -> bool:
    """Whether the process that started then, in that boot, still runs."""
    if sys.platform != "linux":
        return is_alive(pid)
    if started is None:
        return False
    return (boot is None or boot == boot_id()) and start_time(pid) == started


def start_time(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat, in ticks since boot; None for a dead process or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except OSError:
        return None
    # The command's name stands in parentheses and may hold any character: the fields begin after the last.
    fields = stat[stat.rfind(b")") + 2 :].split()
    if len(fields) < 20 or fields[0] in (b"Z", b"X"):
        return None
    return int(fields[19])


def boot_id() -> str | None:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return None


def _answers_to_signal_0(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
