"""A small non-blocking socket over trio's event loop, and the watcher that notices a peer hanging up.

Theory of operation
-------------------
`trio.SocketStream` costs some 18 µs per send and receive; two system calls cost 3. `RawSocket` makes the
calls itself and asks the loop only when the kernel has nothing or takes nothing. That bends trio's rule
that every operation is a checkpoint, so the bend is kept inside this class and has two halves:

- `recv` *always* waits for readability first: it is the checkpoint and the cancellation point of every loop;
- `send_all` is no checkpoint while the kernel takes the bytes at once. A loop around it must also receive,
  or yield now and then by itself.

A task that is busy elsewhere (waiting for a provider) does not read from its client, so it would notice a
client that left only at its next write. The watcher of `hang_ups()` notices for all connections of the
process: a nested epoll that asks for `EPOLLRDHUP` alone, edge-triggered, with each socket registered once
in its life. Ordinary data does not wake it. A half-close counts as hanging up: no client of ours has a reason
to half-close, and the kernel cannot tell it from a process that went away.

A process without descriptors cannot take a connection, not even to say so. `Spare` is one that is held back
for that: it is given up, its place is taken by a connection that is told and closed, and it is taken again.
"""

from __future__ import annotations

import os
import resource
import select
import socket
from collections.abc import Callable
from typing import Protocol

import trio

RECV_SIZE = 64 * 1024

_PEEK_AGAIN_S = 0.05


class Stalled(Exception):
    """The peer took no byte for longer than the caller allows."""


class RawSocket:
    """One connected stream socket. Owned by one task; closed by whoever made it."""

    __slots__ = ("_unsent", "socket")

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            # Nagle would hold back the second small event of a stream until the first is acknowledged.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = sock
        self._unsent: memoryview | None = None

    async def recv(self, size: int = RECV_SIZE) -> bytes:
        """Wait for bytes and return some; `b""` is the end. Always a checkpoint."""
        while True:
            await trio.lowlevel.wait_readable(self.socket)
            try:
                return self.socket.recv(size)
            except BlockingIOError:
                continue  # readiness is a hint: another holder of the socket may have been quicker

    def recv_now(self) -> bytes | None:
        """Return what is there already, None when nothing is, `b""` at the end."""
        try:
            return self.socket.recv(RECV_SIZE)
        except BlockingIOError:
            return None

    async def send_all(self, data: bytes, stall_s: float = float("inf")) -> None:
        """Hand everything to the kernel, waiting while it is full.

        `Stalled` is raised after `stall_s` without progress.

        A send that is cancelled counts as sent: its rest goes out ahead of the next one, so that a stream
        can still be ended properly after a cancellation in the middle of a chunk.
        """
        if self._unsent is not None:
            data = bytes(self._unsent) + data
            self._unsent = None
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            await self._send_slowly(memoryview(data)[sent:], stall_s)

    async def _send_slowly(self, rest: memoryview, stall_s: float) -> None:
        self._unsent = rest
        with trio.CancelScope() as stall:
            while self._unsent:
                stall.deadline = trio.current_time() + stall_s
                await trio.lowlevel.wait_writable(self.socket)
                try:
                    self._unsent = self._unsent[self.socket.send(self._unsent) :]
                except BlockingIOError:
                    continue  # as in `recv`
            self._unsent = None
        if stall.cancelled_caught:
            raise Stalled(f"no byte taken for {stall_s:g} s")

    def end(self) -> None:
        """Say that nothing more will be sent; the other direction stays open."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the peer is gone already, which is all the more an end

    def close(self) -> None:
        """Close; tasks that still wait on the socket are woken with ClosedResourceError."""
        if self.socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self.socket)
            self.socket.close()

    def reset(self) -> None:
        """Close so that the peer sees an error and not an end (TCP only; elsewhere a plain close)."""
        if self.socket.fileno() >= 0 and self.socket.family in (socket.AF_INET, socket.AF_INET6):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.close()


def raise_file_limit() -> None:
    """As far as this process may: each connection costs a descriptor, and the soft limit of a login is often 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # macOS names an "unlimited" that it does not take
        pass


class Spare:
    """One descriptor held back for the time when there is no other. Used by one event loop."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: int | None = None

    def take(self) -> bool:
        """Hold one, if there is one to be had."""
        if self._held is None:
            try:
                self._held = os.open(os.devnull, os.O_RDONLY)
            except OSError:
                return False
        return True

    def give_up(self) -> bool:
        """Leave its place to the next one that opens something; False: there is none to leave."""
        if self._held is None:
            return False
        os.close(self._held)
        self._held = None
        return True

    def is_enough(self) -> bool:
        """Whether there is room for another one beside it."""
        beside = Spare()
        return self.take() and beside.take() and beside.give_up()


# --- hanging up -----------------------------------------------------------------------------------


class HangUps(Protocol):
    """Tells when the peer of a watched socket hangs up."""

    def watch(self, sock: socket.socket, tell: Callable[[], None]) -> None:
        """Call `tell` once when the peer of `sock` hangs up. `tell` must neither wait nor raise."""

    def forget(self, sock: socket.socket) -> None:
        """Stop watching; must come before the socket is closed."""


class EpollHangUps:
    """One task for all sockets, over a nested epoll (Linux)."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._tell: dict[int, Callable[[], None]] = {}

    def watch(self, sock: socket.socket, tell: Callable[[], None]) -> None:
        self._epoll.register(sock.fileno(), select.EPOLLRDHUP | select.EPOLLET)
        self._tell[sock.fileno()] = tell

    def forget(self, sock: socket.socket) -> None:
        if self._tell.pop(sock.fileno(), None) is not None and not self._epoll.closed:
            self._epoll.unregister(sock.fileno())

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                for fd, _ in self._epoll.poll(0):
                    # `tell` closes nothing, so no descriptor of this batch can have changed its meaning.
                    if (tell := self._tell.get(fd)) is not None:
                        tell()
        finally:
            self._epoll.close()


class PeekingHangUps:
    """One task per socket that peeks at it (systems without epoll).

    Unread bytes hide the end behind them; while there are any, the task looks again every 50 ms.
    """

    def __init__(self) -> None:
        self._scopes: dict[int, trio.CancelScope] = {}

    def watch(self, sock: socket.socket, tell: Callable[[], None]) -> None:
        scope = self._scopes[sock.fileno()] = trio.CancelScope()
        # A copy, because the loop lets one task at a time wait for a descriptor, and the owner waits too.
        trio.lowlevel.spawn_system_task(self._peek, sock.dup(), tell, scope)

    def forget(self, sock: socket.socket) -> None:
        if (scope := self._scopes.pop(sock.fileno(), None)) is not None:
            scope.cancel()

    async def _peek(self, sock: socket.socket, tell: Callable[[], None], scope: trio.CancelScope) -> None:
        try:
            with scope:
                await self._wait_for_end(sock)
                tell()
        finally:
            trio.lowlevel.notify_closing(sock)
            sock.close()

    async def _wait_for_end(self, sock: socket.socket) -> None:
        while True:
            await trio.lowlevel.wait_readable(sock)
            try:
                if sock.recv(1, socket.MSG_PEEK) == b"":
                    return
            except BlockingIOError:
                continue  # the owner has read it meanwhile
            except OSError:
                return  # a reset is a hang-up too
            await trio.sleep(_PEEK_AGAIN_S)


_current: trio.lowlevel.RunVar[HangUps] = trio.lowlevel.RunVar("hang_ups")


def hang_ups() -> HangUps:
    """The one watcher of this event loop, made at first use; it ends with the loop."""
    try:
        return _current.get()
    except LookupError:
        watcher: HangUps
        if hasattr(select, "epoll"):
            watcher = epoll = EpollHangUps()
            trio.lowlevel.spawn_system_task(epoll.run)
        else:
            watcher = PeekingHangUps()
        _current.set(watcher)
        return watcher


__all__ = [
    "RECV_SIZE",
    "EpollHangUps",
    "HangUps",
    "PeekingHangUps",
    "RawSocket",
    "Spare",
    "Stalled",
    "hang_ups",
    "raise_file_limit",
]
