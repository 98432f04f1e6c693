"""A worker that misbehaves as its proxy's name says; any other name is served by the real one.

`echo/bad-import` crashes at once, `echo/bad-config` exits 78, `echo/bad-mute` never says anything,
`echo/bad-quitter` exits 0 without goodbye on its first request, `echo/bad-deaf` ignores drain and signals.
`ollama/bad-nervous` serves well and looks at its provider several times a second.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from modelproxy.worker import __main__, handler, serve


def misbehave(how: str) -> None:
    if how == "import":
        raise RuntimeError("crashed at import, as told")
    if how == "config":
        sys.exit(78)
    if how == "mute":
        while True:
            signal.pause()
    if how == "quitter":
        setattr(handler.Handler, "__call__", _quit)  # noqa: B010  # an assignment would be a type error
    if how == "nervous":
        serve.NEAR_LOOK_S = 0.3
        serve._REST_S = 0.1
    if how == "deaf":
        setattr(serve.Worker, "_on_drain", _ignore)  # noqa: B010  # as above
        setattr(serve.Worker, "_heed_signals", _hear_nothing)  # noqa: B010  # as above


async def _quit(*_: Any) -> None:
    os._exit(0)


def _ignore(*_: Any) -> None:
    pass


async def _hear_nothing(*_: Any) -> None:
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, signal.SIG_IGN)


if __name__ == "__main__":
    _, _, name = sys.argv[-2].partition("/bad-")
    if name:
        misbehave(name)
    sys.exit(__main__.main())
