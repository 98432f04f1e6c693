"""A worker that misbehaves as its proxy's name says; any other name is served by the real one.

`echo/bad-import` crashes at once, `echo/bad-config` exits 78, `echo/bad-mute` never says anything,
`echo/bad-quitter` exits 0 without goodbye on its first request, `echo/bad-deaf` ignores drain and signals,
`echo/bad-shut` is ready and beats, but takes no connection, `echo/bad-late` is ready after three seconds.

Others serve well at first: `echo/bad-successor` is mute from its second generation on, `echo/bad-blocker` blocks
its event loop when `GET /block/sleep` or `GET /block/spin` asks for it, `echo/bad-unabortable` does so and does
not die of SIGABRT, `echo/bad-hungry` takes a gigabyte for `GET /bloat`, `echo/bad-impatient` leaves when it has
been alone and idle for half a second, `ollama/bad-nervous` looks at its provider several times a second.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import time
from typing import Any

import trio

from modelproxy.worker import __main__, handler, httpd, serve

SPIN_S = 4.0
"""How long a loop that spins does so."""
LATE_S = 3.0


def misbehave(how: str, label: str) -> None:
    if how == "import":
        raise RuntimeError("crashed at import, as told")
    if how == "config":
        sys.exit(78)
    if how == "mute" or (how == "successor" and label != "g1"):
        while True:
            signal.pause()
    if how == "unabortable":
        setattr(faulthandler, "enable", _ignore)  # noqa: B010  # as above
        signal.signal(signal.SIGABRT, signal.SIG_IGN)
    if how == "late":
        time.sleep(LATE_S)
    if how in ("blocker", "unabortable", "hungry"):
        setattr(handler.Handler, "__call__", _serve_or_block)  # noqa: B010  # an assignment would be a type error
    if how == "quitter":
        setattr(handler.Handler, "__call__", _quit)  # noqa: B010  # an assignment would be a type error
    if how == "nervous":
        serve.NEAR_LOOK_S = 0.3
        serve._REST_S = 0.1
    if how == "shut":
        setattr(httpd.Server, "_accept", _take_nobody)  # noqa: B010  # as above
    if how == "impatient":
        serve.ORPHAN_LIMIT_S = serve.ORPHAN_IDLE_S = 0.5
        serve._ORPHAN_LOOK_S = 0.1
    if how == "deaf":
        setattr(serve.Worker, "_on_drain", _ignore)  # noqa: B010  # as above
        setattr(serve.Worker, "_heed_signals", _hear_nothing)  # noqa: B010  # as above


_serve = handler.Handler.__call__


async def _serve_or_block(self: handler.Handler, exchange: httpd.Exchange) -> None:
    if exchange.request.path == "/block/sleep":
        the_culprit_sleeps()
    if exchange.request.path == "/block/spin":
        the_culprit_spins()
    if exchange.request.path == "/bloat":
        _hoard()
    await _serve(self, exchange)


def the_culprit_sleeps() -> None:
    time.sleep(600)


def the_culprit_spins() -> None:
    """As a program does that has much to calculate: the loop stands, the processor does not."""
    end = time.thread_time() + SPIN_S
    while time.thread_time() < end:
        pass


def _hoard() -> None:
    """Up to a gigabyte, every page of it touched."""
    hoard = [b"\1" * 16 * 1024**2 for _ in range(64)]
    hoard.clear()


async def _quit(*_: Any) -> None:
    os._exit(0)


async def _take_nobody(*_: Any, task_status: trio.TaskStatus[None]) -> None:
    task_status.started()
    await trio.sleep_forever()


def _ignore(*_: Any) -> None:
    pass


async def _hear_nothing(*_: Any) -> None:
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, signal.SIG_IGN)


def main(words: list[str]) -> int:
    serve.BEAT_S = 0.2
    _, _, name = words[-2].partition("/bad-")
    if name:
        misbehave(name, words[-1])
    return __main__.main(words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
