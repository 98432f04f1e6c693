"""A proxy's life told event by event, on a clock that the test moves. No process, no loop, no waiting."""

from __future__ import annotations

from typing import Any

import attrs

from modelproxy.supervisor import fleet
from modelproxy.supervisor.facts import Phase, Proxy, State
from modelproxy.worker.contract import WorkerSpec

SPEC = WorkerSpec(
    name="echo/demo",
    model_id="echo/demo",
    provider="echo",
    kind="echo",
    model="demo",
    port=3457,
    grace_s=30.0,
)


def spec(**changes: Any) -> WorkerSpec:
    return attrs.evolve(SPEC, **changes)


@attrs.define
class Story:
    """`story(event)` steps the proxy and answers what was ordered, `Tell` aside (see `told`)."""

    proxy: Proxy = attrs.Factory(lambda: Proxy(SPEC.name, SPEC))
    now: float = 100.0
    told: list[str] = attrs.Factory(list)
    """Kinds of everything told so far."""
    texts: list[str] = attrs.Factory(list)

    def __call__(self, event: fleet.Event) -> list[fleet.Action]:
        self.proxy, actions = fleet.step(self.proxy, event, self.now)
        for action in actions:
            if isinstance(action, fleet.Tell):
                self.told.append(action.kind)
                self.texts.append(action.text)
        return [action for action in actions if not isinstance(action, fleet.Tell)]

    def state(self) -> State:
        return self.proxy.state

    def wait(self, seconds: float) -> list[fleet.Action]:
        """Let time pass, with `Clock` at every deadline on the way, as the daemon does it."""
        end = self.now + seconds
        found: list[fleet.Action] = []
        for _ in range(10_000):
            due = fleet.next_deadline(self.proxy)
            if due is None or due > end:
                self.now = end
                return found
            self.now = max(self.now, due)
            found += self(fleet.Clock())
        raise AssertionError(f"the clock never rests: {self}")

    def born(self, generation: int, pid: int | None = None) -> list[fleet.Action]:
        return self(fleet.Spawned(generation, pid if pid is not None else 4000 + generation))

    def ready(self, generation: int) -> list[fleet.Action]:
        return self(fleet.BecameReady(generation))

    def up(self) -> list[fleet.Action]:
        return self(fleet.Up(self.proxy.spec))

    def serve(self) -> Story:
        """From whatever it is to `ready`, by a newcomer that does everything right."""
        self.up()
        newcomer = self.proxy.successor
        assert newcomer is not None  # the tests that call this have ordered one
        self.born(newcomer.generation)
        self.ready(newcomer.generation)
        return self

    def die(self, generation: int, cause: str = "SIGKILL", code: int | None = None) -> list[fleet.Action]:
        return self(fleet.Exited(generation, cause, code))

    def beat_for(self, seconds: float) -> list[fleet.Action]:
        """Let time pass with a heartbeat every two seconds from whoever is ready, or leaves."""
        found: list[fleet.Action] = []
        end = self.now + seconds
        while self.now < end:
            for worker in self.proxy.workers:
                if worker.phase in (Phase.READY, Phase.DRAINING):
                    found += self(fleet.Beaten(worker.generation))
            found += self.wait(min(2.0, end - self.now))
        return found

    def __str__(self) -> str:
        return f"{self.proxy!r} {' '.join(map(repr, self.proxy.workers))}".rstrip()
