"""`python -m modelproxy.worker.forkserver FD MODULE`: has everything loaded, and forks a worker at each order.

Theory of operation
-------------------
An interpreter that starts and imports is nearly all that a young worker costs, in time and in memory, and it
is the same for each. This process does it once and then waits, blocking, on a socket pair (SOCK_SEQPACKET)
that only the supervisor holds the other end of. One order is one message, `{"name", "generation"}`, with
descriptors attached: the pipe of the birth certificate, the log, the listening sockets. The answer is
`{"pid"}` or `{"error"}`, after a `{"ready"}` at the start. End of file means that the supervisor is gone, and
this process with it: its successor starts one of its own.

*It forks safely* because it was made by exec (no lock, no descriptor of anybody else), never runs trio and
has no threads; it refuses to serve with one. *It forks twice*: the one between ends at once, so that the
worker becomes the child of the nearest subreaper, which is the supervisor for that moment. So the supervisor
sees how its workers end, also when this process is killed.

*A worker waits to be wanted*: it reads its birth certificate from a pipe that the supervisor fills only when
it knows the pid. A supervisor that died or gave up in between closes it empty, and the newborn leaves without
having been anybody. Until then it stays in this process group, by which the supervisor finds what to reap.

*What it inherits* is what exec would have given it: /dev/null and the log as 0, 1 and 2, its listeners from 3
on, the certificate after them, and nothing else; a session of its own; environment, folder, limits and
signals as they are here, where exec put them and nobody changed them. Its command line is written over ours,
in the room that the padding of our last argument keeps.

*Which code it runs.* That which was loaded when this process started, whole: every module of the package, and
the libraries they would load later, are here before the first fork, so that an installation that is replaced
underneath (`pip install -U`) cannot mix two versions in one worker, nor give an old supervisor a worker that
speaks of newer things. The other way, to start anew whenever files change, would do just that, and in the
middle of an installation it would load half of each. A new version comes with `proxyctl daemon restart`: the
supervisor is executed anew, and a supervisor always starts its own fork server. (One that replaces another that
was lost loads what is there then, as exec does at each start; what differs is the channel's to bridge.)

What workers share by this: the layout of their address space and the seed of their hashes. What comes from
the system's random source is each one's own; `random` seeds itself anew after each fork.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import os
import pkgutil
import select
import socket
import struct
import sys
import termios
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

FIRST_LISTENER = 3
_CLOSE_TO = 1024
"""Above whatever this process may have open."""
_MAX_FDS = 64
_MAX_ORDER = 65536

# Loaded by name, because the modules that use them do so when they first need them.
_LATER = ("sqlite3", "urllib.parse")


def main(words: list[str]) -> int:
    connection = socket.socket(fileno=int(words[0]))
    connection.set_inheritable(False)
    title = _Title()
    title.write([*_interpreter(), "modelproxy.worker.forkserver"])
    entry = load(words[1])
    if threading.active_count() != 1:
        raise SystemExit("the fork server has threads: no fork of it would be sound")
    gc.collect()
    gc.freeze()
    order = serve(connection)
    return 0 if order is None else entry(become(order, words[1], title))


def load(name: str) -> Callable[[list[str]], int]:
    """Import all that a worker may ever import, build what all of them build; the entry of module `name`."""
    package = importlib.import_module("modelproxy.worker")
    for found in pkgutil.walk_packages(package.__path__, "modelproxy.worker."):
        if found.name != "modelproxy.worker.forkserver":  # this one, which runs as __main__
            importlib.import_module(found.name)
    for library in _LATER:
        importlib.import_module(library)
    importlib.import_module("modelproxy.worker.contract").warm()
    module = importlib.import_module(name)
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{name}.__main__")
    entry: Callable[[list[str]], int] = module.main
    return entry


class Order:
    """What a worker is to be made of."""

    def __init__(self, message: bytes, fds: list[int]) -> None:
        document: dict[str, Any] = json.loads(message)
        self.name = str(document["name"])
        self.generation = int(document["generation"])
        self.certificate, self.log, *self.listeners = fds


def serve(connection: socket.socket) -> Order | None:
    """Fork at each order. Returns in a worker, with its order; and with None when the supervisor is gone."""
    reading, writing = os.pipe()
    try:
        connection.send(b'{"ready": true}')
        while True:
            message, fds, _, _ = socket.recv_fds(connection, _MAX_ORDER, _MAX_FDS)
            if not message:
                return None
            answer = _fork(reading, writing)
            if answer is None:
                connection.detach()  # its number is going to be somebody else's
                return Order(message, fds)
            for fd in fds:
                os.close(fd)
            connection.send(json.dumps(answer).encode())
    except (BrokenPipeError, ConnectionResetError):
        return None


def _fork(reading: int, writing: int) -> dict[str, Any] | None:
    """The answer to the supervisor; None in the worker."""
    try:
        between = os.fork()
    except OSError as error:
        return {"error": error.strerror}
    if between == 0:
        try:
            worker = os.fork()
        except OSError:
            os._exit(1)
        if worker == 0:
            return None
        os.write(writing, b"%d" % worker)
        os._exit(0)
    _, status = os.waitpid(between, 0)
    if status != 0:
        return {"error": "no second process could be made"}
    return {"pid": int(os.read(reading, 20))}


def become(order: Order, module: str, title: _Title) -> list[str]:
    """Turn this fork into the worker that exec would have made; its words of the command line."""
    os.dup2(order.log, 1)
    os.dup2(order.log, 2)
    certificate = FIRST_LISTENER + len(order.listeners)
    # Out of the way first: what is to be 4 may be 3 at present.
    moved = [
        fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, certificate + 1)
        for fd in (*order.listeners, order.certificate)
    ]
    for number, fd in enumerate(moved, FIRST_LISTENER):
        os.dup2(fd, number, inheritable=False)
    os.closerange(certificate + 1, _CLOSE_TO)
    words = ["--birth-fd", str(certificate), order.name, f"g{order.generation}"]
    title.write([*_interpreter(), module, *words])
    sys.argv[1:] = words
    _wait_to_be_wanted(certificate)
    os.setsid()
    return words


def _wait_to_be_wanted(certificate: int) -> None:
    select.select([certificate], [], [])
    (length,) = struct.unpack("i", fcntl.ioctl(certificate, termios.FIONREAD, bytes(4)))
    if length == 0:  # closed without a word
        os._exit(0)


class _Title:
    """The command line as `ps` shows it, in the memory where the kernel has put it."""

    def __init__(self) -> None:
        fields = Path("/proc/self/stat").read_text(errors="replace").rpartition(")")[2].split()
        self._start, end = int(fields[45]), int(fields[46])
        self._room = end - self._start

    def write(self, words: list[str]) -> None:
        """As much of it as there is room for."""
        text = b"\0".join(os.fsencode(word) for word in words)[: self._room - 1]
        with contextlib.suppress(OSError):  # it is for people only
            memory = os.open("/proc/self/mem", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.pwrite(memory, text.ljust(self._room, b"\0"), self._start)
            finally:
                os.close(memory)


def _interpreter() -> list[str]:
    return sys.orig_argv[: sys.orig_argv.index("-m") + 1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
