"""Which listening sockets are in safe keeping, and the supervisor's side of the holder that keeps them.

`Custody` is the seam: a holder process of our own keeps the sockets here, systemd's descriptor store does it
where systemd runs us (`store`). What follows is the holder's.

The keeper says what it wants held; a task of its own makes that true, starts a holder when there is none,
and starts over when it is lost. Losing it costs nothing but the safety for the double fault, so no failure
here may disturb anything else.
"""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import attrs
import trio

from . import holder, kernel, sockets
from .paths import SocketAddress

_ANSWER_LIMIT_S = 2.0
_RETRY_S = 1.0
_SETTLE_LIMIT_S = 1.0


class Custody(Protocol):
    """Who keeps a second copy of every listening socket. No trouble of it may disturb anything else."""

    def hold(self, port: int, listeners: list[socket.socket]) -> None:
        """From now on these are to be held; an empty list lets go of the port."""

    async def take(self) -> dict[int, list[socket.socket]]:
        """What an earlier supervisor has left, by port. Asked once, before anything is held."""

    async def run(self) -> None:
        """Keep what is held as it is wished, until cancelled."""

    async def settled(self) -> None:
        """Until everything wished is so, or a moment has passed in vain."""

    async def confirm(self, limit_s: float) -> None:
        """Until the keeper has said just now that it has everything."""

    async def quit(self) -> None:
        """The supervisor stops for good: nothing is to be held any more."""


@attrs.define(eq=False)
class _Wish:
    """What is to be held for one port: our own duplicates, or nothing any more."""

    copies: list[socket.socket]
    done: bool = False

    def close(self) -> None:
        for one in self.copies:
            one.close()
        self.copies = []


class HolderCustody:
    """By means of a process of our own."""

    def __init__(self, path: Path, log: Callable[[str], None], environment: dict[str, str]) -> None:
        self._path = path
        self._log = log
        self._environment = environment
        self._wishes: dict[int, _Wish] = {}
        self._news = trio.Event()
        self._settled = trio.Event()
        self._leaving = False
        self._left = trio.Event()
        self._connection: socket.socket | None = None
        self._complained = ""
        self._child: subprocess.Popen[bytes] | None = None
        self._found: int | None = None
        """The pidfd of the one that is connected, also where an earlier supervisor had started it."""

    def hold(self, port: int, listeners: list[socket.socket]) -> None:
        """From now on these are to be held; an empty list lets go of the port."""
        old = self._wishes.pop(port, None)
        if old is not None:
            old.close()
        elif not listeners:
            return
        try:
            copies = [one.dup() for one in listeners]
        except OSError as error:
            self._log(f"port {port} is not in safe keeping: {error.strerror}")
            return
        self._wishes[port] = _Wish(copies)
        self._news.set()

    async def confirm(self, limit_s: float) -> None:
        """Until a holder has said just now that it has everything: it may be dead without our knowing it yet.

        Where its socket was removed nobody could fetch anything from it, and it ends instead.
        """
        if sockets.inode_of(self._path) is None:
            await self.quit()
            return
        self._doubt()
        self._news.set()
        await self.settled(limit_s)

    async def settled(self, limit_s: float = _SETTLE_LIMIT_S) -> None:
        """Until the holder has heard everything, or a moment has passed without one."""
        with trio.move_on_after(limit_s):
            while not all(wish.done for wish in self._wishes.values()):
                await self._settled.wait()

    async def take(self) -> dict[int, list[socket.socket]]:
        """What an earlier supervisor has left with a holder that still runs."""
        try:
            await self._connect()
            ports = (await self._ask({"op": "list"}))[0]["ports"]
            found = {port: (await self._ask({"op": "get", "port": port}))[1] for port in ports}
        except (FileNotFoundError, ConnectionRefusedError):
            return {}  # there is none
        except Exception as error:  # the start of the supervisor does not hang on it
            self._log(f"what the socket holder has could not be taken over ({_in_words(error)})")
            self._hang_up()
            return {}
        for port in found:
            # On record, so that what nobody claims is dropped again.
            self._wishes[port] = _Wish([], done=True)
        return found

    async def retire(self) -> dict[int, list[socket.socket]]:
        """What a holder that is not needed any more has: it gives it away and ends."""
        if sockets.inode_of(self._path) is None:
            return {}
        found = await self.take()
        self._wishes = {}
        try:
            if self._connection is not None:
                await self._ask({"op": "quit"})
                self._path.unlink(missing_ok=True)
        except Exception as error:  # it ends by itself when it has been alone for long enough
            self._log(f"the socket holder could not be told to end ({_in_words(error)})")
        self._hang_up()
        return found

    async def run(self) -> None:
        """Keep the holder's store as it is wished, until `quit`."""
        rested_until = -math.inf
        while True:
            try:
                if self._connection is None:
                    await self._find_or_start()
                await self._reconcile()
                if self._leaving:
                    await self._leave()
                    return
                await self._idle()
            except Exception as error:  # whatever it is, it costs the safe keeping and nothing else
                self._complain(f"the socket holder was lost ({_in_words(error)}); starting another")
                await self._start_over()
                if self._leaving:
                    self._left.set()
                    return
                # The first loss is made good at once: until then the sockets have one pair of hands less.
                await trio.sleep_until(rested_until)
                rested_until = trio.current_time() + _RETRY_S

    def _complain(self, text: str) -> None:
        """Once: a trouble that stays would fill the log with a line per try."""
        if text != self._complained:
            self._log(text)
        self._complained = text

    async def _idle(self) -> None:
        """Until there is news, or the holder is gone."""
        connection, news = self._connection, self._news
        assert connection is not None  # reconciled just before
        async with trio.open_nursery() as nursery:

            async def hear() -> None:
                await trio.lowlevel.wait_readable(connection)
                nursery.cancel_scope.cancel()

            nursery.start_soon(hear)
            await news.wait()
            nursery.cancel_scope.cancel()
        if not news.is_set():
            raise ConnectionResetError("it hung up")

    async def _reconcile(self) -> None:
        self._news = trio.Event()
        for port, wish in list(self._wishes.items()):
            if wish.done:
                continue
            order = {"op": "put" if wish.copies else "drop", "port": port}
            await self._ask(order, wish.copies)
            wish.done = True
            if not wish.copies and self._wishes.get(port) is wish:
                del self._wishes[port]
        self._complained = ""
        self._settled.set()
        self._settled = trio.Event()

    async def quit(self) -> None:
        """The supervisor stops for good: nothing is to be held any more."""
        self._leaving = True
        self._news.set()
        with trio.move_on_after(2 * _ANSWER_LIMIT_S):  # to hear that it does not answer, and to end it then
            await self._left.wait()
        self._hang_up()
        self._path.unlink(missing_ok=True)

    async def _leave(self) -> None:
        await self._ask({"op": "quit"})
        if self._child is not None:
            await trio.to_thread.run_sync(self._child.wait, abandon_on_cancel=True)
        self._left.set()

    # --- the connection --------------------------------------------------------------------------

    async def _find_or_start(self) -> None:
        try:
            await self._connect()
        except OSError:
            self._start()
            await self._connect()
        self._doubt()

    def _doubt(self) -> None:
        """Nothing is known of what the holder has."""
        for wish in self._wishes.values():
            wish.done = False

    def _start(self) -> None:
        """The listening socket is made here and inherited, so that there is no moment to wait for."""
        self._reap()
        listener = sockets.bind_unix(self._path)
        try:
            self._child = subprocess.Popen(
                # By its file and isolated: it needs the standard library only, and starts in 15 ms.
                [sys.executable, "-I", "-S", holder.__file__, str(listener.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[listener.fileno()],
                start_new_session=True,
                cwd="/",
                env=self._environment,
            )
        finally:
            listener.close()

    async def _start_over(self) -> None:
        """A holder that does not answer is not worth keeping: the next one gets everything anew."""
        self._doubt()
        await self._strike_down()
        self._hang_up()
        self._reap()

    async def _strike_down(self) -> None:
        """End it, also where an earlier supervisor has started it: stopped, it would keep its socket and every port."""
        if self._child is not None:
            self._child.kill()
            await trio.to_thread.run_sync(self._child.wait, abandon_on_cancel=True)
        if self._found is None:
            return
        kernel.send_signal(0, self._found, signal.SIGKILL)
        try:
            with trio.move_on_after(_ANSWER_LIMIT_S):
                await trio.lowlevel.wait_readable(self._found)
            os.waitid(os.P_PIDFD, self._found, os.WEXITED | os.WNOHANG)  # noqa: ASYNC222  # WNOHANG
        except ChildProcessError:
            pass  # not of this process, before it was executed anew
        except trio.ClosedResourceError:
            pass  # who leaves has lost patience

    def _reap(self) -> None:
        if self._child is not None and self._child.poll() is not None:
            self._child = None

    async def _connect(self) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            with SocketAddress(self._path) as address:
                connection.connect(address)  # never blocks on a Unix socket: a full queue is an error
        except OSError:
            connection.close()
            raise
        self._connection = connection
        # Of a child as well, though it has a handle already: then a found one costs no more than one of ours.
        self._found = (
            _process_behind(connection) if self._child is None else kernel.open_pidfd(self._child.pid)
        )

    def _hang_up(self) -> None:
        if self._found is not None:
            trio.lowlevel.notify_closing(self._found)
            os.close(self._found)
            self._found = None
        if self._connection is not None:
            trio.lowlevel.notify_closing(self._connection)
            self._connection.close()
            self._connection = None

    async def _ask(
        self, order: dict[str, Any], attached: list[socket.socket] | None = None
    ) -> tuple[dict[str, Any], list[socket.socket]]:
        connection = self._connection
        if connection is None:
            raise ConnectionResetError("not connected")
        holder.send(connection, order, attached or [])
        with trio.fail_after(_ANSWER_LIMIT_S):
            await trio.lowlevel.wait_readable(connection)
        line, found = holder.receive(connection)
        answer: dict[str, Any] = json.loads(line)
        return answer, found


def _process_behind(connection: socket.socket) -> int | None:
    """The pidfd of the holder at the other end: whoever was the last to say `listen`. None when in doubt."""
    pid = kernel.peer_of(connection).pid
    if pid is None:
        return None
    try:
        pidfd = kernel.open_pidfd(pid)
        if pidfd is None:
            return None
        if holder.__file__.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
            return pidfd
        os.close(pidfd)
    except OSError:
        pass
    return None


def _in_words(error: Exception) -> str:
    return "it does not answer" if isinstance(error, trio.TooSlowError) else str(error)
