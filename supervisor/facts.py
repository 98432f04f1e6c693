"""What is known of one proxy: facts, and the state that follows from them.

A `Proxy` holds facts only: what is wanted, which worker processes exist and how far each has come, and
what went wrong lately. Its `state` is *derived* from those facts, so it cannot disagree with them.
Only `fleet.step` makes new ones. This module is pure.
"""

from __future__ import annotations

from enum import StrEnum

import attrs

from modelproxy.worker.contract import WorkerSpec

from . import policy


class State(StrEnum):
    """What `ps` shows; see `Proxy.state` for how each follows from the facts."""

    IDLE = "idle"
    STARTING = "starting"
    READY = "ready"
    DEGRADED = "degraded"
    ROLLING = "rolling"
    DRAINING = "draining"
    HUNG = "hung"
    BACKOFF = "backoff"
    FAILED = "failed"
    ADOPTING = "adopting"
    STOPPED = "stopped"


class Phase(StrEnum):
    """How far one worker process has come."""

    ABSENT = "absent"
    """On record from before this supervisor; it has not dialled yet."""
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


@attrs.frozen
class Worker:
    generation: int
    order: int
    phase: Phase
    since: float
    """When this phase began."""
    pid: int | None = None
    start_by: float | None = None
    silent_by: float | None = None
    kill_by: float | None = None
    heard_at: float | None = None
    active_at: float | None = None
    """When a model request was last seen in it."""
    requests: int = 0
    in_flight: int = 0
    accepted: int | None = None
    """Connections taken so far; None: it does not say."""
    waiting: int = 0
    """Connections that nobody has taken, at its last beat."""
    stuck_since: float | None = None
    """It beats, but takes none of the connections that wait."""
    hung: str | None = None
    """Why it is taken for hung; None while its heart beats."""
    traced: bool = False
    """A debugger held it when it was last looked at."""
    ill: str | None = None
    """What its provider's trouble is, in the worker's words."""
    ill_since: float | None = None
    """Since when its provider has had trouble, whatever that is called by now."""
    starved: str | None = None
    """What it lacks to take connections (descriptors, memory), in the system's words."""
    fat: str | None = None
    """Why it would be replaced for its memory, were the last such roll not so recent."""
    note: str = ""
    """What its user should know of a provider that is well: a window too small for an agent."""
    leaving: str | None = None
    """It said goodbye, and why."""
    overdue: bool = False
    """It was to leave by a certain time, did not, and is killed."""
    outdated: str | None = None
    """The version that it runs, where that is not ours: it is replaced when its turn comes."""
    kept: bool = False
    """It is outdated and stays, for its replacement has failed."""

    def __repr__(self) -> str:
        return f"<g{self.generation} {self.phase} pid={self.pid or '-'}>"


@attrs.frozen
class Death:
    """An exit nobody asked for."""

    at: float
    cause: str
    generation: int
    pid: int | None = None
    was_ready: bool = False
    lived_s: float | None = None
    """How long it had been ready; of one that never was, how long it had been starting, or leaving."""
    was_leaving: bool = False
    """It only finished its requests, hung, and says nothing of how the proxy fares."""


@attrs.frozen
class Care:
    """How its worker is kept. No worker knows it, so a change of it alone replaces none."""

    lazy: bool = False
    """Started by the first connection."""
    idle_stop_s: float | None = None
    """Without a request for so long, its worker goes until the next connection. None: it stays."""
    max_rss: int | None = None
    """A worker with more memory than this, in bytes, is replaced."""


@attrs.frozen(repr=False)
class Proxy:
    name: str
    spec: WorkerSpec
    care: Care = Care()
    wanted: bool = False
    halted: bool = False
    """The supervisor is going down: the wish stays, but nothing is started any more."""
    order: int = 1
    generation: int = 0
    """The highest given out so far."""
    workers: tuple[Worker, ...] = ()
    """Oldest first."""
    failures: int = 0
    never_ready: int = 0
    spawn_failures: int = 0
    worked: bool = False
    """Some worker of this very spec has been ready."""
    restarts: int = 0
    deaths: tuple[Death, ...] = ()
    retry_at: float | None = None
    settled_at: float | None = None
    """When the failures will be forgotten."""
    idle_since: float | None = None
    """Since then nobody has come: without a worker until somebody does."""
    recycled_at: float | None = None
    """When a worker was last replaced for its memory."""
    given_up: str | None = None
    trouble: str | None = None
    """The last thing that went wrong, in words."""
    last_pid: int | None = None
    key_lost: bool = False
    """A key or a header's value lived in memory only, and nobody who knew it is left."""
    key_sought: bool = False
    """It is lost, but came from the configuration or a variable: the configuration is being asked for it."""
    key_unfound: str | None = None
    """It was asked in vain, and why. It is asked again when it has changed."""
    roll_grace_s: float = policy.ROLL_GRACE_S
    """How long the old generation may finish its streams in a roll."""
    state_since: float = 0.0
    """When the state became what it is; `step` keeps it."""

    @property
    def said(self) -> str:
        """What `up` calls it: its model, or the name of its own, without the port of a second one."""
        return self.spec.said

    @property
    def state(self) -> State:
        if self.is_up:
            return self._state_up()
        return State.DRAINING if self.workers else State.STOPPED

    def _state_up(self) -> State:
        current = self.current
        if current is not None:
            if self.successor is not None:
                return State.ROLLING
            if current.hung:
                return State.HUNG
            return State.DEGRADED if current.ill or current.starved else State.READY
        awaited = any(worker.phase is Phase.ABSENT for worker in self.workers)
        if awaited or (self.key_sought and self.idle_since is None):
            return State.ADOPTING
        if self.successor is not None:
            return State.STARTING
        if self.given_up is not None:
            return State.FAILED
        if self.idle_since is not None:
            return State.DRAINING if self.workers else State.IDLE
        return State.BACKOFF

    @property
    def awaits_configuration(self) -> bool:
        """It is to say what was lost."""
        return self.key_sought or self.key_unfound is not None

    @property
    def is_up(self) -> bool:
        """Wanted, and not held back by the supervisor's own end."""
        return self.wanted and not self.halted

    @property
    def current(self) -> Worker | None:
        """The worker that answers."""
        return next((worker for worker in reversed(self.workers) if worker.phase is Phase.READY), None)

    @property
    def successor(self) -> Worker | None:
        """The worker that is being started, whether or not another one still answers."""
        return next((worker for worker in self.workers if worker.phase is Phase.STARTING), None)

    @property
    def draining(self) -> tuple[Worker, ...]:
        return tuple(worker for worker in self.workers if worker.phase is Phase.DRAINING)

    @property
    def pid(self) -> int | None:
        """Of the worker that a person would mean: one that only finishes its streams counts when none is wanted."""
        meant = [worker for worker in self.workers if not (self.is_up and worker.phase is Phase.DRAINING)]
        worker = self.current or self.successor or (meant[-1] if meant else None)
        return worker.pid if worker else None

    @property
    def awaits_visitors(self) -> bool:
        """Whether the next connection is to start a worker; one that only finishes its streams takes none."""
        return (
            self.is_up
            and self.idle_since is not None
            and self.given_up is None
            and not self.key_sought
            and all(worker.phase is Phase.DRAINING for worker in self.workers)
        )

    @property
    def idle_at(self) -> float | None:
        """When its worker is to go, should nobody come; None while that is not in question."""
        if not self.is_up or self.care.idle_stop_s is None or len(self.workers) != 1:
            return None
        worker = self.workers[0]
        if worker.phase is not Phase.READY or worker.hung or worker.in_flight or worker.waiting:
            return None
        return (worker.since if worker.active_at is None else worker.active_at) + self.care.idle_stop_s

    def worker(self, generation: int) -> Worker | None:
        return next((worker for worker in self.workers if worker.generation == generation), None)

    def answers_down(self, now: float) -> bool:
        """Whether the supervisor itself is to answer 503 on this proxy's socket."""
        if not self.is_up or self.workers:
            return False
        return self.given_up is not None or (
            self.retry_at is not None and self.retry_at - now > policy.QUEUE_THROUGH_S
        )

    @property
    def losses(self) -> tuple[Death, ...]:
        """The deaths of those that were to serve."""
        return tuple(death for death in self.deaths if not death.was_leaving)

    def is_crash_loop(self, now: float) -> bool:
        return policy.is_crash_loop([death.at for death in self.losses], now)

    def __repr__(self) -> str:
        wish = "wanted" if self.wanted else "unwanted"
        return (
            f"<Proxy {self.name} {self.state} pid={self.pid or '-'} port={self.spec.port} "
            f"{wish} deaths={len(self.deaths)}>"
        )
