"""Holding a proxy for as long as a command runs.

A lease is a connection: whatever ends this process ends it, and the supervisor notices. A supervisor that is
replaced meanwhile is asked again by a thread; one that is away is looked for until the command ends, because
the next one, whenever it comes, finds the worker and waits but a few seconds for whoever holds it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from modelproxy.supervisor.paths import Paths

from .client import Client, Held, quote
from .faults import DEFAULT_WAIT_S, Fault
from .up import Waiting, bring_up

LOOK_AGAIN_S = 0.25
"""How often a supervisor that went away is looked for."""


class Lease:
    """A proxy that is up for us. `view` is its row."""

    def __init__(self, paths: Paths, held: Held) -> None:
        self.view: dict[str, Any] = dict(held.document["proxy"])
        self._paths = paths
        self._held = held
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._tender = threading.Thread(target=self._tend, daemon=True)
        self._tender.start()

    def __repr__(self) -> str:
        return f"<Lease {self._held.document['lease']} of {self.view['name']}>"

    def end(self) -> list[dict[str, Any]]:
        """Give it back, and wait for what goes with it: what was stopped."""
        self._over.set()
        with self._lock:
            held = self._held
        try:
            client = Client(self._paths)
            waiting = Waiting(client, str(self.view["name"]))
            answer = client.ask("DELETE", f"/v1/leases/{held.document['lease']}", waiting=waiting)
            return [dict(stopped) for stopped in answer]
        except Fault:
            return []  # no supervisor, or one that knows nothing of it: nothing of ours is left there
        finally:
            held.close()

    def _tend(self) -> None:
        while True:
            self._held.wait()
            self._held.close()
            if not self._take_again():
                return

    def _take_again(self) -> bool:
        name = self.view["name"]
        while not self._over.wait(LOOK_AGAIN_S):
            try:
                held = Client(self._paths).hold(
                    f"/v1/proxies/{quote(name)}/lease?again=1", {"model": name}, limit_s=DEFAULT_WAIT_S
                )
            except Fault as fault:
                if fault.code == "unknown_proxy":
                    return False  # taken down by somebody, who is right
                continue
            with self._lock:
                self._held = held
            if self._over.is_set():
                held.close()
            return True
        return False


@contextlib.contextmanager
def leased(paths: Paths, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The row of a proxy that is up, and that goes with this block unless somebody else wants it."""
    lease = take(paths, request)
    try:
        yield lease.view
    finally:
        lease.end()


def take(paths: Paths, request: dict[str, Any], *, anywhere: bool = False) -> Lease:
    """A lease of the proxy that `request` (an UpRequest) means, as `bring_up` does it."""
    taken: list[Held] = []

    def hold(wanted: dict[str, Any], query: str, limit_s: float) -> dict[str, Any]:
        path = f"/v1/proxies/{quote(wanted['model'])}/lease?{query}"
        held = Client(paths).hold(path, wanted, limit_s=limit_s)
        taken.append(held)
        return dict(held.document["proxy"])

    bring_up(paths, request, anywhere=anywhere, ask=hold)
    return Lease(paths, taken[-1])
