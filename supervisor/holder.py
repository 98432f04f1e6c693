"""A small process that does nothing but hold the listening sockets: they outlive supervisor *and* worker.

Theory of operation
-------------------
A listening socket lives as long as some process has it open. The supervisor has every one, each worker its
own; when both die within the same second, nobody is left, the port closes and clients are refused. This
process is the third pair of hands (systemd's descriptor store does the same where systemd runs us). It is
plain Python with a blocking loop, imports next to nothing, and never reads or writes a byte of a client.

The supervisor talks to it over a Unix socket, one JSON line per request, sockets attached:
`{"op":"put","port":N}` with sockets, `{"op":"drop","port":N}`, `{"op":"list"}`, `{"op":"get","port":N}`,
`{"op":"quit"}`. Each is answered by one line.

A held port without anybody behind it must not swallow connections for ever: while no supervisor is
connected, a listener on which connections have been waiting for ABANDONED_S is let go.
"""

from __future__ import annotations

import array
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from typing import Any

ABANDONED_S = 10.0
IDLE_LIMIT_S = 60.0
"""Without supervisor and without anything to hold."""
ALONE_LIMIT_S = 25 * 3600.0
"""A little longer than a worker stays without a supervisor."""
_LOOK_S = 1.0
_MAX_SOCKETS = 8
_BACKLOG = 16


class Holder:
    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._held: dict[int, list[socket.socket]] = {}
        self._supervisor: socket.socket | None = None
        self._alone_since = time.monotonic()
        self._waiting_since: dict[int, float] = {}
        self._done = False

    def run(self) -> None:
        while not self._done:
            watched = [self._listener, *([self._supervisor] if self._supervisor else [])]
            # With a supervisor there is nothing to look after: no wake-up without a cause.
            readable = _readable(watched, None if self._supervisor else _LOOK_S)
            if self._listener in readable:
                self._accept()
            elif self._supervisor in readable:
                self._serve()
            if self._supervisor is None:
                self._look_around(time.monotonic())

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        if not _is_same_user(connection):
            connection.close()
            return
        self._let_supervisor_go()  # a new one has come: the old one can only be dead
        connection.settimeout(2.0)
        self._supervisor = connection
        self._waiting_since.clear()

    def _let_supervisor_go(self) -> None:
        if self._supervisor is not None:
            self._supervisor.close()
            self._supervisor = None
            self._alone_since = time.monotonic()

    def _serve(self) -> None:
        connection = self._supervisor
        assert connection is not None  # it was readable
        try:
            line, sockets = receive(connection)
            reply, attached = self._obey(json.loads(line), sockets)
            send(connection, reply, attached)
        except (OSError, ValueError, KeyError, TypeError):
            self._let_supervisor_go()  # gone, or not our supervisor at all

    def _obey(
        self, order: dict[str, Any], sockets: list[socket.socket]
    ) -> tuple[dict[str, Any], list[socket.socket]]:
        op = order["op"]
        if op == "put":
            self._drop(int(order["port"]))
            self._held[int(order["port"])] = sockets
        elif op == "drop":
            self._drop(int(order["port"]))
        elif op == "list":
            return {"ports": sorted(self._held)}, []
        elif op == "get":
            return {"ok": True}, self._held.get(int(order["port"]), [])
        elif op == "quit":
            self._done = True
        else:
            return {"ok": False}, []
        return {"ok": True}, []

    def _drop(self, port: int) -> None:
        for one in self._held.pop(port, []):
            one.close()

    def _look_around(self, now: float) -> None:
        """Alone: let go of ports that nobody serves, and leave when there is nothing left to do."""
        alone_for = now - self._alone_since
        if alone_for > ALONE_LIMIT_S or (not self._held and alone_for > IDLE_LIMIT_S):
            self._done = True
            return
        by_socket = {one: port for port, sockets in self._held.items() for one in sockets}
        waiting = {by_socket[one] for one in _readable(list(by_socket), 0.0)}
        self._waiting_since = {port: self._waiting_since.get(port, now) for port in waiting}
        for port, since in list(self._waiting_since.items()):
            if now - since > ABANDONED_S:
                self._drop(port)


def _readable(watched: list[socket.socket], pause: float | None) -> list[socket.socket]:
    """By poll(2): select(2) knows no descriptor above 1023, and this process may have many."""
    poll = select.poll()
    by_number = {one.fileno(): one for one in watched}
    for number in by_number:
        poll.register(number, select.POLLIN)
    return [by_number[number] for number, _ in poll.poll(None if pause is None else pause * 1000.0)]


def receive(connection: socket.socket) -> tuple[bytes, list[socket.socket]]:
    """One line and the sockets that came with it."""
    line, found = b"", []
    while not line.endswith(b"\n"):
        data, ancillary, _, _ = connection.recvmsg(
            65536, socket.CMSG_SPACE(4 * _MAX_SOCKETS), getattr(socket, "MSG_CMSG_CLOEXEC", 0)
        )
        found += received_sockets(ancillary)
        if not data:
            raise ConnectionResetError("hung up")
        line += data
    return line, found


def received_sockets(ancillary: list[tuple[int, int, bytes]]) -> list[socket.socket]:
    """The sockets in a message's ancillary data, ours from now on."""
    found = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers = array.array("i")
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
            for number in numbers:
                try:
                    one = socket.socket(fileno=number)
                except OSError:  # not a socket: nobody's to keep, and not to leak either
                    os.close(number)
                    continue
                one.set_inheritable(False)
                one.setblocking(False)
                found.append(one)
    return found


def send(connection: socket.socket, message: dict[str, Any], sockets: list[socket.socket]) -> None:
    """One line with sockets attached to its first byte."""
    data = json.dumps(message).encode() + b"\n"
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [one.fileno() for one in sockets]))]
    sent = connection.sendmsg([data], rights if sockets else [])
    if sent < len(data):
        connection.sendall(data[sent:])


def _is_same_user(connection: socket.socket) -> bool:
    if not hasattr(socket, "SO_PEERCRED"):
        return True  # the socket's mode is the wall there
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return bool(uid == os.getuid())


def main() -> int:
    """`python -I -S holder.py FD`: FD is the bound and listening Unix socket."""
    for signum in (signal.SIGHUP, signal.SIGINT):
        signal.signal(signum, signal.SIG_IGN)
    listener = socket.socket(fileno=int(sys.argv[1]))
    listener.set_inheritable(False)
    listener.setblocking(True)
    listener.listen(
        _BACKLOG
    )  # again: from now on the kernel names us, not who made it, as the peer of who connects
    Holder(listener).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
