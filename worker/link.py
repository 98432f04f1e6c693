"""The worker's end of the channel: dial, say hello, listen, beat; and dial again for as long as it takes.

The worker never depends on being heard. A supervisor that is gone costs a connection attempt every now and
then, one that hangs costs nothing, and neither is noticed by a client.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Callable, Sequence

import attrs
import trio

from .contract import (
    Adjust,
    ContractError,
    Drain,
    FromSupervisor,
    FromWorker,
    Hello,
    Lines,
    Reopen,
    Welcome,
    WorkerSpec,
    decode_supervisor,
    encode,
)

REDIAL_S = 0.1
PATIENT_AFTER_S = 60.0
PATIENT_REDIAL_S = 1.0
"""After a minute alone: still well within the window that a new supervisor gives."""
_LAST_WORD_S = 0.5


@attrs.frozen
class Ears:
    """Who is told what the supervisor says."""

    on_spec: Callable[[WorkerSpec], None]
    on_drain: Callable[[Drain], None]
    on_reopen: Callable[[], None]
    on_found: Callable[[], None] = lambda: None
    """Somebody listens who has heard nothing of us but the hello."""
    on_adjust: Callable[[Adjust], None] = lambda _: None


class Link:
    def __init__(
        self,
        path: str,
        *,
        hello: Callable[[], Hello],
        listeners: Callable[[], Sequence[socket.socket]],
        ears: Ears,
        log: Callable[..., None],
    ) -> None:
        self._path = path
        self._hello = hello
        self._listeners = listeners
        self._ears = ears
        self._log = log
        self._connection: trio.socket.SocketType | None = None
        self._speaking = trio.Lock()
        self.alone_since: float | None = trio.current_time()
        """Since when there has been no supervisor; None while there is one."""

    async def run(self) -> None:
        """Keep a connection to whichever supervisor there is."""
        try:
            while True:
                try:
                    await self._converse()
                except (OSError, ContractError) as error:
                    if isinstance(error, ContractError):
                        self._log("error", "channel", detail=str(error))
                self._hang_up()
                await trio.sleep(self._pause())
        finally:
            if self._connection is not None:
                self._connection.close()

    def _hang_up(self) -> None:
        if self._connection is None:
            return
        self._connection.close()
        self._connection = None
        if self.alone_since is None:
            self.alone_since = trio.current_time()
            self._log("warning", "supervisor-gone", detail="serving on, dialling again")

    def _pause(self) -> float:
        alone_for = trio.current_time() - (self.alone_since or trio.current_time())
        return REDIAL_S if alone_for < PATIENT_AFTER_S else PATIENT_REDIAL_S

    async def _converse(self) -> None:
        connection = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
        try:
            await _connect(connection, self._path)
            await self._introduce(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        lines = Lines()
        while data := await connection.recv(65536):
            for line in lines.feed(data):
                self._hear(decode_supervisor(line))

    async def _introduce(self, connection: trio.socket.SocketType) -> None:
        """Hello, with the listening sockets attached to its first byte."""
        data = encode(self._hello(), FromWorker)
        numbers = array.array("i", [one.fileno() for one in self._listeners()])
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)] if numbers else []
        sent = await connection.sendmsg([data], rights)
        await _send_all(connection, data[sent:])

    def _hear(self, message: FromSupervisor) -> None:
        if self.alone_since is not None:
            self.alone_since = None
            self._log("info", "supervisor-found")
            self._ears.on_found()
        if isinstance(message, Welcome):
            if message.spec is not None:
                self._ears.on_spec(message.spec)
        elif isinstance(message, Drain):
            self._ears.on_drain(message)
        elif isinstance(message, Adjust):
            self._ears.on_adjust(message)
        elif isinstance(message, Reopen):
            self._ears.on_reopen()

    async def say(self, message: FromWorker) -> None:
        """Say it if somebody listens; what is not heard is made good by the next hello."""
        async with self._speaking:
            connection = self._connection
            if connection is None:
                return
            try:
                await _send_all(connection, encode(message, FromWorker))
            except (OSError, trio.ClosedResourceError):
                pass  # the reading side notices and dials again

    async def say_last(self, *messages: FromWorker) -> None:
        """The same before leaving: not even a supervisor that hangs may hold us up."""
        with trio.move_on_after(_LAST_WORD_S):
            for message in messages:
                await self.say(message)


async def _connect(connection: trio.socket.SocketType, path: str) -> None:
    if len(os.fsencode(path)) <= 103:
        await connection.connect(path)
        return
    # Too long for a socket address: reached through an open descriptor of its directory.
    directory = os.open(os.path.dirname(path), getattr(os, "O_PATH", 0) | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        await connection.connect(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
    finally:
        os.close(directory)


async def _send_all(connection: trio.socket.SocketType, data: bytes) -> None:
    while data:
        data = data[await connection.send(data) :]
