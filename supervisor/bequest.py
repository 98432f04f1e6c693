"""Keys that live in memory only, from a supervisor to the program that it executes in its own place.

A pipe is all of it. Nobody but this process has an end of it, so no file, no command line and no environment ever
holds a key; what has been read is gone, and what nobody reads goes with the process. The variable says where
it is and for which process: one that another program has left, or somebody has set, means nothing, and a
version that knows of none of this loses what a crash would lose.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, MutableMapping, Sequence

import attrs

from modelproxy.worker.contract import WorkerSpec

Keys = Mapping[str, Sequence[str | None]]
"""By proxy: its own, and those of the targets that it falls back to, in their order."""

_VARIABLE = "MODELPROXY_BEQUEST"
_ROOM = 1024 * 1024


def of(spec: WorkerSpec) -> list[str | None]:
    """Its keys, as `Keys` has them."""
    return [spec.api_key, *(target.api_key for target in spec.fallback)]


def restored(spec: WorkerSpec, keys: Sequence[str | None]) -> WorkerSpec:
    """The spec with these keys; without any when they cannot be its own."""
    if len(keys) != 1 + len(spec.fallback):
        return spec
    fallback = [attrs.evolve(one, api_key=key) for one, key in zip(spec.fallback, keys[1:], strict=True)]
    return attrs.evolve(spec, api_key=keys[0], fallback=fallback)


def leave(keys: Keys, environment: MutableMapping[str, str]) -> None:
    """Right before the next program is executed. What does not fit is not left: its proxies say what to repeat."""
    data = json.dumps(keys).encode()
    try:
        reading, writing = os.pipe()
    except OSError:
        return
    try:
        os.set_blocking(writing, False)
        if hasattr(fcntl, "F_SETPIPE_SZ") and len(data) > 4096:
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _ROOM)
        if os.write(writing, data) == len(data):
            os.set_inheritable(reading, True)
            environment[_VARIABLE] = f"{os.getpid()}:{reading}"
    except OSError:
        pass  # as with what does not fit
    finally:
        os.close(writing)
        if _VARIABLE not in environment:
            os.close(reading)


def take(environment: MutableMapping[str, str]) -> Keys:
    """What this process has left to itself, once."""
    pid, _, number = environment.pop(_VARIABLE, "").partition(":")
    if pid != str(os.getpid()):
        return {}
    try:
        with open(int(number), "rb") as pipe:
            found = json.loads(pipe.read())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
