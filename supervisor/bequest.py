"""From a supervisor to the program that it executes in its own place: secrets that only memory has, and its doors.

A pipe is all of it for the secrets. Nobody but this process has an end of it, so no file, no command line and no
environment ever holds one; what has been read is gone, and what nobody reads goes with the process. The variable
says where it is and for which process: one that another program has left, or somebody has set, means nothing, and a
version that knows of none of this loses what a crash would lose.

The doors are the listening sockets. They stay open through the change, so that whatever becomes of workers and holder
in that moment, nobody is refused.

Signals are blocked while it is executed, and so wait for the next program. But only the thread that executes it can
block them: until then others may take one, and what they take goes through a pipe as well.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import attrs

from modelproxy.worker.contract import WorkerSpec

Secrets = Mapping[str, Sequence[dict[str, Any]]]
"""By proxy: its own key and headers, and those of the targets that it falls back to, in their order."""

Doors = dict[int, list[socket.socket]]
"""The listening sockets of each port."""

_VARIABLE = "MODELPROXY_BEQUEST"
_DOORS = "MODELPROXY_DOORS"
_SIGNALS = "MODELPROXY_SIGNALS"
_MOST_DOORS = 2000
"""Of so many the variable stays far below what the system lets one be long; the holder has them all."""
_ROOM = 1024 * 1024


def of(spec: WorkerSpec) -> list[dict[str, Any]]:
    """Its secrets, as `Secrets` has them."""
    return [{"api_key": place.api_key, "headers": place.options.headers} for place in spec.places]


def restored(spec: WorkerSpec, secrets: Sequence[Any]) -> WorkerSpec:
    """The spec with these; without any when they cannot be its own, or are what another version leaves."""
    if len(secrets) != len(spec.places) or not all(isinstance(one, dict) for one in secrets):
        return spec
    places: list[Any] = [
        attrs.evolve(
            place, api_key=one["api_key"], options=attrs.evolve(place.options, headers=one["headers"])
        )
        for place, one in zip(spec.places, secrets, strict=True)
    ]
    found: WorkerSpec = attrs.evolve(places[0], fallback=places[1:])
    return found if found.without_secrets() == spec.without_secrets() else spec


def leave(secrets: Secrets, environment: MutableMapping[str, str]) -> None:
    """Right before the next program is executed. What does not fit is not left: its proxies say what to repeat."""
    data = json.dumps(secrets).encode()
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


def take(environment: MutableMapping[str, str]) -> Secrets:
    """What this process has left to itself, once."""
    try:
        with open(int(_left_to_us(environment, _VARIABLE)), "rb") as pipe:
            found = json.loads(pipe.read())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def leave_doors(doors: Doors, environment: MutableMapping[str, str]) -> None:
    """Right before the next program is executed; whoever gets them has to keep them open until then."""
    doors = dict(sorted(doors.items())[:_MOST_DOORS])
    for listeners in doors.values():
        for one in listeners:
            one.set_inheritable(True)
    numbers = {port: [one.fileno() for one in listeners] for port, listeners in doors.items()}
    environment[_DOORS] = f"{os.getpid()}:{json.dumps(numbers)}"


def take_doors(environment: MutableMapping[str, str]) -> Doors:
    """The doors that this process has left open for itself, once."""
    try:
        numbers: dict[str, list[int]] = json.loads(_left_to_us(environment, _DOORS))
        return {int(port): [_door(number) for number in found] for port, found in numbers.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _door(number: int) -> socket.socket:
    one = socket.socket(fileno=number)
    one.set_inheritable(False)
    one.setblocking(False)
    return one


def leave_signals(missed: Iterable[int], environment: MutableMapping[str, str]) -> None:
    """The last thing before the next program is executed: these, and those that any thread takes from now on."""
    try:
        reading, writing = os.pipe()
    except OSError:
        return
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    os.write(writing, bytes(missed))
    os.set_inheritable(reading, True)
    environment[_SIGNALS] = f"{os.getpid()}:{reading}"


def take_signals(environment: MutableMapping[str, str]) -> set[int]:
    """Their numbers, each once."""
    try:
        with open(int(_left_to_us(environment, _SIGNALS)), "rb") as pipe:
            return set(pipe.read())
    except (OSError, ValueError):
        return set()


def _left_to_us(environment: MutableMapping[str, str], variable: str) -> str:
    """What it says, once; nothing when another process has left it, or nobody."""
    pid, _, text = environment.pop(variable, "").partition(":")
    return text if pid == str(os.getpid()) else ""
