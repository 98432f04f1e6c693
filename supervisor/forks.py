"""The supervisor's side of the fork server: one process that has a worker's code loaded and forks it.

Theory of operation
-------------------
`modelproxy.worker.forkserver` says what that process is and how a worker comes of it. Here it is started,
asked, and replaced when it is lost. It saves time and memory and nothing depends on it: whatever goes wrong
raises `UnavailableError`, and the caller makes that worker by exec.

The process lives as long as this supervisor and never longer: it ends with our end of the socket pair, also
when we are killed, and a supervisor that is executed anew starts another. So its code is never older than ours.

A worker is to be *our* child, so that its exit code is ours to see. It is a grandchild of the fork server
whose parent ends at once; while an order is carried out this process is therefore a subreaper. Only then:
at other times orphans of the key commands' making would collect here, where nobody waits for them.

One order at a time. It takes a few milliseconds, and its answer needs no name.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import trio

from . import kernel

CAN_FORK = sys.platform == "linux"
"""Elsewhere a fork without exec is unsafe (macOS: frameworks that proxy settings are read with) or there is none."""
FIRST_LISTENER = 3
"""In a forked worker the listeners are at 3, 4 …, the certificate's pipe behind them."""

ANSWER_LIMIT_S = 5.0
START_LIMIT_S = 30.0
PATIENCE_S = 5.0
"""So long after its start a worker waits for it: importing takes a third of a second on a quiet machine."""
RETRY_S = 1.0
RETRY_MAX_S = 60.0
_STEADY_S = 60.0
"""One that has lived so long was a good one: the next is started without a long pause."""
_REAP_TRIES, _REAP_PAUSE_S = 50, 0.02
_MAX_ANSWER = 4096
_TITLE_ROOM = "-" * 300
"""A worker's command line is written over that of the fork server and cannot be longer."""


class UnavailableError(Exception):
    """There is no fork server now, or it has failed at this order."""


class ForkServer:
    def __init__(self, module: str, log: Callable[[str], None], environment: dict[str, str]) -> None:
        self._module = module
        self._log = log
        self._environment = environment
        self._child: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._ready = False
        self._settled = trio.Event()
        """The present one is ready, or has been given up."""
        self._lost = trio.Event()
        self._patience_ends = trio.current_time() + PATIENCE_S
        self._why = ""
        self._said: set[str] = set()
        self._turn = trio.Lock()

    # --- asking it -------------------------------------------------------------------------------

    @property
    def available(self) -> bool:
        """Whether a worker that is wanted now would come of it."""
        return self._ready or not self._settled.is_set()

    async def fork(self, name: str, generation: int, fds: Sequence[int]) -> int:
        """The pid of a new child of ours that has these descriptors and waits for its certificate.

        Cancelled, it has made nobody; a caller that is cancelled while the answer comes gets the answer.
        """
        async with self._turn:
            with trio.move_on_at(self._patience_ends):
                await self._settled.wait()
            connection = self._connection
            if not self._ready or connection is None:
                raise self._unavailable(self._why or "it is not ready yet")
            with trio.CancelScope(shield=True):
                answer = await self._ask(connection, {"name": name, "generation": generation}, fds)
        if "pid" not in answer:
            raise self._unavailable(str(answer.get("error")))
        return int(answer["pid"])

    async def _ask(
        self, connection: socket.socket, order: dict[str, Any], fds: Sequence[int]
    ) -> dict[str, Any]:
        try:
            kernel.be_subreaper(True)
            socket.send_fds(connection, [json.dumps(order).encode()], list(fds))
            with trio.fail_after(ANSWER_LIMIT_S):
                answer = await _receive(connection)
        except (OSError, ValueError, trio.TooSlowError, trio.ClosedResourceError) as error:
            why = _in_words(error)
            if self._connection is connection:  # and not its successor
                self._give_up(why)
            raise self._unavailable(why) from None
        # Not after a failure: whom a lost fork server leaves behind is to come to us, to be reaped.
        kernel.be_subreaper(False)
        return answer

    def _give_up(self, why: str) -> None:
        self._ready = False
        self._why = why
        self._settled.set()
        self._lost.set()

    def _unavailable(self, why: str) -> UnavailableError:
        self._complain(f"no worker comes of the fork server ({why}): it is started by exec")
        return UnavailableError(why)

    def _complain(self, text: str) -> None:
        """Once: a trouble that stays would fill the log with a line per start."""
        if text not in self._said:
            self._log(text)
        self._said.add(text)

    # --- its life --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Have one until cancelled."""
        pause = RETRY_S
        try:
            while True:
                began = trio.current_time()
                await self._live()
                pause = RETRY_S if trio.current_time() - began > _STEADY_S else pause
                self._complain(f"the fork server was lost ({self._why}); workers are started by exec")
                await self._clear_away()
                await trio.sleep(pause)
                pause = min(2 * pause, RETRY_MAX_S)
                # Not before the first one: somebody may wait for that already.
                self._settled, self._lost = trio.Event(), trio.Event()
                self._patience_ends = trio.current_time() + PATIENCE_S
        finally:
            self._end()

    async def _live(self) -> None:
        """One fork server from its start until it is lost; `_why` says how."""
        try:
            self._start()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch)
                nursery.start_soon(self._greet)
                await self._lost.wait()
                nursery.cancel_scope.cancel()
        except OSError as error:
            self._give_up(f"it cannot be started: {_in_words(error)}")

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            ours.setblocking(False)
            self._connection = ours
            words = [str(theirs.fileno()), self._module, _TITLE_ROOM]
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", "modelproxy.worker.forkserver", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                cwd="/",
                env=self._environment,
            )

    async def _watch(self) -> None:
        child = self._child
        assert child is not None  # started just before
        try:
            pidfd = kernel.open_pidfd(child.pid)
        except OSError:
            return  # it is missed at the next order
        try:
            ended = await kernel.wait_exit(child.pid, pidfd)
        finally:
            if pidfd is not None:
                os.close(pidfd)
        child.returncode = ended.code if ended.code is not None else -(ended.signal or 1)
        self._give_up(str(ended))

    async def _greet(self) -> None:
        connection = self._connection
        assert connection is not None  # started just before
        try:
            with trio.fail_after(START_LIMIT_S):
                await _receive(connection)
        except (OSError, ValueError, trio.TooSlowError) as error:
            self._give_up(_in_words(error))
            return
        self._ready = True
        self._why = ""
        self._said.clear()
        self._settled.set()

    async def _clear_away(self) -> None:
        """The lost one, and those that it had made when nobody asked any more."""
        if self._child is None:
            return
        group = self._child.pid
        self._end()
        for _ in range(_REAP_TRIES):
            try:
                found = os.waitid(os.P_PGID, group, os.WEXITED | os.WNOHANG)  # noqa: ASYNC222  # WNOHANG
            except ChildProcessError:
                return
            if found is None:
                await trio.sleep(_REAP_PAUSE_S)

    def _end(self) -> None:
        """It has nothing to save, and nothing that it made depends on it."""
        self._ready = False
        if self._connection is not None:
            trio.lowlevel.notify_closing(self._connection)
            self._connection.close()
            self._connection = None
        if self._child is not None:
            self._child.kill()
            self._child.wait()  # killed a moment ago: no wait worth the name
            self._child = None
            kernel.be_subreaper(False)


async def _receive(connection: socket.socket) -> dict[str, Any]:
    await trio.lowlevel.wait_readable(connection)
    message = connection.recv(_MAX_ANSWER)
    if not message:
        raise ConnectionResetError("it hung up")
    answer: dict[str, Any] = json.loads(message)
    return answer


def _in_words(error: Exception) -> str:
    if isinstance(error, trio.TooSlowError):
        return "it does not answer"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
