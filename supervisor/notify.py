"""systemd's notification protocol: what the service manager is told, and what it hands over at the start.

Theory of operation
-------------------
Telling is one datagram of `NAME=value` lines to the socket that `$NOTIFY_SOCKET` names, sockets attached
where they are to be kept (`FDSTORE=1`). What the manager hands over are descriptors from number 3 on, counted
by `$LISTEN_FDS`, named by `$LISTEN_FDNAMES`, and meant for the process `$LISTEN_PID` only: the control socket
of the `.socket` unit, and everything that an earlier supervisor had left in the store.

No message may hold the supervisor up, so a manager that does not read costs the message: whoever needs it
heard sends it again.
"""

from __future__ import annotations

import array
import os
import socket
from collections import Counter
from collections.abc import Iterable, MutableMapping, Sequence

import attrs
import trio

from .facts import State

CONTROL = "control"
"""The name of the control socket, by `FileDescriptorName=` in the `.socket` unit."""
_PORT = "port-"
_FIRST_FD = 3

Environment = MutableMapping[str, str]


class Notifier:
    """Tells the service manager; without one every message is lost on purpose."""

    def __init__(self, address: str = "") -> None:
        # "@" stands for the NUL byte of an abstract name; anything else that is no path is not for us.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        if self._address[:1] not in ("/", "\0"):
            self._address = ""

    @property
    def is_heard(self) -> bool:
        """Whether there is a manager at all."""
        return bool(self._address)

    def tell(self, *lines: str, descriptors: Sequence[int] = ()) -> bool:
        """Send one message; False when it was not delivered."""
        if not self._address:
            return False
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as messenger:
                messenger.setblocking(False)
                data = "\n".join(lines).encode()
                messenger.sendmsg([data], rights if descriptors else [], 0, self._address)
        except OSError:
            return False
        return True

    async def barrier(self) -> None:
        """Until the manager has taken in all that it was told before."""
        reading, writing = os.pipe2(os.O_CLOEXEC) if hasattr(os, "pipe2") else os.pipe()
        try:
            told = self.tell("BARRIER=1", descriptors=[writing])
            os.close(writing)
            writing = -1
            if told:
                await trio.lowlevel.wait_readable(reading)  # it closes its copy when it comes to that message
        finally:
            os.close(reading)
            if writing >= 0:
                os.close(writing)


@attrs.define
class Inheritance:
    """What the manager has handed over."""

    control: list[socket.socket] = attrs.Factory(list)
    ports: dict[int, list[socket.socket]] = attrs.Factory(dict)
    """Listening sockets that an earlier supervisor has left in the store."""
    strange: list[str] = attrs.Factory(list)
    """Names that nobody here has given: the store is to forget them."""


def port_name(port: int) -> str:
    """What the listeners of a port are called in the store."""
    return f"{_PORT}{port}"


def inherit(environment: Environment) -> Inheritance:
    """Take what was handed over, and forget the variables: no child is to believe them."""
    count = environment.pop("LISTEN_FDS", "")
    names = environment.pop("LISTEN_FDNAMES", "").split(":")
    meant_for = environment.pop("LISTEN_PID", "")
    found = Inheritance()
    if meant_for != str(os.getpid()) or not count.isdecimal():
        return found
    for index in range(min(int(count), os.sysconf("SC_OPEN_MAX"))):
        _take_in(found, _FIRST_FD + index, names[index] if index < len(names) else "")
    return found


def _take_in(found: Inheritance, number: int, name: str) -> None:
    try:
        one = socket.socket(fileno=number)
    except OSError:  # closed, or not a socket: nothing that we could have left
        found.strange.append(name)
        _close(number)
        return
    one.set_inheritable(False)
    one.setblocking(False)
    port = name.removeprefix(_PORT)
    if one.family == socket.AF_UNIX and name == CONTROL:
        found.control.append(one)
    elif name.startswith(_PORT) and port.isdecimal() and _listens_on(one, int(port)):
        found.ports.setdefault(int(port), []).append(one)
    else:
        found.strange.append(name)
        one.close()


def _listens_on(one: socket.socket, port: int) -> bool:
    try:
        return bool(one.family in (socket.AF_INET, socket.AF_INET6) and one.getsockname()[1] == port)
    except OSError:
        return False


def _close(number: int) -> None:
    try:
        os.close(number)
    except OSError:
        pass


def store_size(environment: Environment) -> int:
    """How many descriptors the manager keeps for us: 0 for none. (From version 254 on it says so itself.)"""
    text = environment.get("FDSTORE", "")
    return int(text) if text.isdecimal() else 0


def watchdog_s(environment: Environment) -> float | None:
    """Within how many seconds the manager wants a sign of life; None: it does not."""
    text, meant_for = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not text.isdecimal() or int(text) == 0 or meant_for not in ("", str(os.getpid())):
        return None
    return int(text) / 1e6


def status(states: Iterable[State]) -> str:
    """`3 proxies: 2 ready, 1 failed`: what `systemctl status` shows of the fleet."""
    counted: Counter[State] = Counter(state for state in states if state is not State.STOPPED)
    number = sum(counted.values())
    if number == 0:
        return "no proxies"
    parts = ", ".join(f"{counted[state]} {state}" for state in State if counted[state])
    return f"{number} {'proxy' if number == 1 else 'proxies'}: {parts}"
