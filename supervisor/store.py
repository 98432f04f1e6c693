"""Safe keeping with the service manager: systemd's descriptor store in the place of a holder process.

What is stored is handed back to the next supervisor at its start (`notify.inherit`), however this one ended;
systemd itself empties the store when the service is stopped. Storing is one datagram without an answer; one that could
not be delivered is sent again until it is.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

import attrs
import trio

from .custody import HolderCustody
from .notify import Inheritance, Notifier, port_name

_RETRY_S = 0.5
_SETTLE_LIMIT_S = 1.0


@attrs.define(eq=False)
class _Wish:
    """What is to be in the store for one port; no sockets: nothing any more."""

    listeners: list[socket.socket]
    """The very list that was given, so that what is there already is recognised."""
    copies: list[socket.socket] = attrs.Factory(list)
    """Kept only until it is delivered."""
    done: bool = False

    def close(self) -> None:
        for one in self.copies:
            one.close()
        self.copies = []


class StoreCustody:
    """`custody.Custody` by means of systemd."""

    def __init__(
        self,
        notifier: Notifier,
        inheritance: Inheritance,
        size: int,
        holder: HolderCustody,
        log: Callable[[str], None],
    ) -> None:
        self._notifier = notifier
        self._inheritance = inheritance
        self._size = size
        self._holder = holder
        self._log = log
        self._wishes: dict[int, _Wish] = {}
        self._waiting = trio.Event()
        self._settled = trio.Event()
        self._complained = False

    async def take(self) -> dict[int, list[socket.socket]]:
        """What an earlier supervisor has left in the store, or with a holder when it was no service yet."""
        for name in self._inheritance.strange:
            self._log(f"the service manager had kept {name or 'something without a name'}, which is not ours")
            if name:
                self._notifier.tell("FDSTOREREMOVE=1", f"FDNAME={name}")
        found, self._inheritance.ports = self._inheritance.ports, {}
        for port, listeners in found.items():
            # On record, so that what nobody claims is dropped again, and what is claimed is not sent again.
            self._wishes[port] = _Wish(listeners, done=True)
        for port, listeners in (await self._holder.retire()).items():
            for one in listeners if port in found else []:
                one.close()
            found.setdefault(port, listeners)
        return found

    def hold(self, port: int, listeners: list[socket.socket]) -> None:
        """From now on these are to be held; an empty list lets go of the port."""
        old = self._wishes.pop(port, None)
        if old is not None:
            if old.done and listeners and old.listeners is listeners:
                self._wishes[port] = old
                return
            old.close()
        elif not listeners:
            return
        self._wishes[port] = wish = _Wish(listeners)
        if not self._deliver(port, wish):
            self._remember(port, wish)
        self._warn_when_full()

    def _deliver(self, port: int, wish: _Wish) -> bool:
        """Out with what was there under this name, in with the new."""
        name = f"FDNAME={port_name(port)}"
        attached = wish.copies or wish.listeners
        wish.done = self._notifier.tell("FDSTOREREMOVE=1", name) and (
            not attached
            # Without FDPOLL=0 the manager would look after every connection that comes in.
            or self._notifier.tell(
                "FDSTORE=1", name, "FDPOLL=0", descriptors=[one.fileno() for one in attached]
            )
        )
        if wish.done:
            wish.close()
            if not wish.listeners:
                del self._wishes[port]
        return wish.done

    def _remember(self, port: int, wish: _Wish) -> None:
        try:
            wish.copies = [one.dup() for one in wish.listeners]
        except OSError as error:
            self._log(f"port {port} is not in safe keeping: {error.strerror}")
            del self._wishes[port]
            return
        self._settled = trio.Event()
        self._waiting.set()

    def _warn_when_full(self) -> None:
        count = sum(len(wish.listeners) for wish in self._wishes.values())
        if count > self._size and not self._complained:
            self._log(f"the service manager keeps {self._size} sockets, not {count}: FileDescriptorStoreMax=")
        self._complained = count > self._size

    async def run(self) -> None:
        """Send again what could not be delivered."""
        while True:
            await self._waiting.wait()
            await trio.sleep(_RETRY_S)
            for port, wish in list(self._wishes.items()):
                if not wish.done:
                    self._deliver(port, wish)
            if all(wish.done for wish in self._wishes.values()):
                self._waiting = trio.Event()
                self._settled.set()

    async def confirm(self, limit_s: float) -> None:
        """The same as `settled`: the manager's answer to the barrier is always of just now."""
        await self.settled(limit_s)

    async def settled(self, limit_s: float = _SETTLE_LIMIT_S) -> None:
        """Until the manager has done it all, or a moment has passed: then the port of a `down` is free."""
        with trio.move_on_after(limit_s):
            while not all(wish.done for wish in self._wishes.values()):
                await self._settled.wait()
            await self._notifier.barrier()

    async def quit(self) -> None:
        """The supervisor stops for good: nothing is to be held any more."""
        for port in list(self._wishes):
            self.hold(port, [])
        for wish in self._wishes.values():
            wish.close()
