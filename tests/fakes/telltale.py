"""A worker that says what it was told and what it finds, and then stops (SIGSTOP) until it is killed or let go.

Let go, it ends with 7. Whether by exec or by the fork server, `main` is where it begins.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any


def main(words: list[str]) -> int:
    fds = _descriptors()
    certificate = int(words[words.index("--birth-fd") + 1])
    with os.fdopen(certificate) as file:
        birth = json.load(file)
    os.write(1, json.dumps({"birth": birth, "fds": fds, **_found(birth, words)}).encode() + b"\n")
    os.kill(os.getpid(), signal.SIGSTOP)
    return 7


def _descriptors() -> dict[str, str]:
    """What is open, before anything else is opened."""
    with os.scandir("/proc/self/fd") as entries:
        names = [entry.name for entry in entries]
    found = {}
    for name in names:
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the one that was scanned with
            continue
    return found


def _found(birth: dict[str, Any], words: list[str]) -> dict[str, Any]:
    listeners = [socket.socket(fileno=number) for number in birth["listeners"]]
    status = Path("/proc/self/status").read_text().splitlines()
    return {
        "names": [one.getsockname() for one in listeners],
        "words": words[2:],
        "argv": sys.argv[3:],
        "title": Path("/proc/self/cmdline").read_bytes().rstrip(b"\0").decode().split("\0"),
        "env": {name: value for name, value in os.environ.items() if name != "LC_CTYPE"},
        "kernel_env": sorted(Path("/proc/self/environ").read_text().split("\0")),
        "signals": [line for line in status if line.startswith(("SigBlk", "SigIgn", "SigCgt"))],
        "cwd": os.getcwd(),
        "session": os.getsid(0) == os.getpid() == os.getpgid(0),
        "parent": os.getppid(),
        "limits": [resource.getrlimit(one) for one in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE)],
        "umask": next(line for line in status if line.startswith("Umask")),
        "threads": threading.active_count(),
        "luck": random.random(),
        "modules": sorted(sys.modules),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
