"""The supervisor's end of the workers' channel: who dials, what they bring, what they say.

A connection counts only after the kernel has named its peer (same user), the first message was `Hello`
in time, and the worker's pid is the kernel's. Everything else is closed with one line in the log.
"""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Awaitable, Callable

import trio

from modelproxy.worker.contract import (
    ContractError,
    FromSupervisor,
    FromWorker,
    Hello,
    Lines,
    decode_worker,
    encode,
)

from . import kernel
from .holder import received_sockets

HELLO_LIMIT_S = 5.0
_MAX_SOCKETS = 8
_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)

Log = Callable[[str], None]


class Link:
    """One worker's connection."""

    def __init__(
        self, connection: trio.socket.SocketType, hello: Hello, listeners: list[socket.socket]
    ) -> None:
        self.hello = hello
        self.listeners = listeners
        """What it brought; the new owner empties the list, what is left is closed with the link."""
        self.closed = trio.Event()
        self._connection = connection
        self._sending = trio.Lock()

    def __repr__(self) -> str:
        return f"<Link {self.hello.name} g{self.hello.generation} pid={self.hello.pid}>"

    async def send(self, message: FromSupervisor) -> bool:
        """Say it; False when the worker can't hear us any more."""
        data = encode(message, FromSupervisor)
        async with self._sending:
            try:
                while data:
                    sent = await self._connection.send(data)
                    data = data[sent:]
            except (OSError, trio.ClosedResourceError):
                return False
        return True


OnLink = Callable[[Link], Awaitable[None]]
OnMessage = Callable[[Link, FromWorker], None]


async def serve(listener: socket.socket, on_link: OnLink, on_message: OnMessage, log: Log) -> None:
    """Accept workers for ever. One that misbehaves costs only its own connection."""
    accepting = trio.socket.from_stdlib_socket(listener)
    async with trio.open_nursery() as nursery:
        while True:
            try:
                connection, _ = await accepting.accept()
            except OSError as error:  # out of descriptors: the next try may find one
                log(f"cannot accept a worker: {error.strerror}")
                await trio.sleep(0.1)
                continue
            nursery.start_soon(_converse, connection, on_link, on_message, log)


async def _converse(
    connection: trio.socket.SocketType, on_link: OnLink, on_message: OnMessage, log: Log
) -> None:
    with connection:
        link: Link | None = None
        try:
            lines = Lines()
            with trio.fail_after(HELLO_LIMIT_S):
                link, rest = await _meet(connection, lines)
            await on_link(link)
            _close_the_rest(link)  # at once: a forgotten copy would keep the port open after `down`
            for line in rest:
                on_message(link, decode_worker(line))
            while data := await connection.recv(65536):
                for line in lines.feed(data):
                    on_message(link, decode_worker(line))
        except (ContractError, trio.TooSlowError) as error:
            log(f"a worker's connection was closed: {error or 'no hello in time'}")
        except OSError:
            pass  # it is gone; its exit tells the rest
        except Exception:  # a bug of ours met by one worker's words must not end the others' connections
            log(f"internal error in the conversation with {link}\n{traceback.format_exc()}")
        finally:
            if link is not None:
                link.closed.set()
                _close_the_rest(link)


def _close_the_rest(link: Link) -> None:
    while link.listeners:
        link.listeners.pop().close()


async def _meet(connection: trio.socket.SocketType, lines: Lines) -> tuple[Link, list[bytes]]:
    """The first message, the sockets that came with it, and whatever followed in the same bytes."""
    peer = kernel.peer_of(connection._sock)  # type: ignore[attr-defined]  # trio has no other way to it
    listeners: list[socket.socket] = []
    complete: list[bytes] = []
    try:
        while not complete:
            data, ancillary, _, _ = await connection.recvmsg(
                65536, socket.CMSG_SPACE(4 * _MAX_SOCKETS), _CLOEXEC
            )
            listeners += received_sockets(ancillary)
            if not data:
                raise ContractError("it hung up without a word")
            complete = list(lines.feed(data))
        hello = decode_worker(complete[0])
        if not isinstance(hello, Hello):
            raise ContractError("the first message was not hello")
        _check_identity(hello, peer)
    except BaseException:
        for one in listeners:
            one.close()
        raise
    return Link(connection, hello, listeners), complete[1:]


def _check_identity(hello: Hello, peer: kernel.Peer) -> None:
    if peer.uid != os.getuid():
        raise ContractError(f"uid {peer.uid} is not ours")
    if peer.pid is not None and peer.pid != hello.pid:
        raise ContractError(f"it says pid {hello.pid}, the kernel says {peer.pid}")
