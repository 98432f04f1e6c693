"""The life of a proxy: what happened goes in, what to do comes out.

Theory of operation
-------------------
A `Proxy` holds facts only: what is wanted, which worker processes exist and how far each has come, and
what went wrong lately. Its `state` is *derived* from those facts, so it cannot disagree with them.

`step(proxy, event, now)` is the one writer. Each event first changes the facts it is about; then
`_settle` compares facts and wish and orders what is missing. Because settling looks at the whole proxy
and not at the event, orders that cross each other (down during a roll, up during a drain) need no code
of their own: the last wish wins.

Every deadline is a fact as well (`retry_at`, a worker's `start_by`, `kill_by` …). `next_deadline` tells
the daemon when to send `Clock`; there are no timers to cancel and nothing wakes without a cause.

A proxy may be up without a worker: *idle*. A lazy one is started by a connection and by nothing else, so
wherever another would be started it rests, and somebody who waits in its queue has it started at once.

A worker's *order* says which restart request it satisfies: a proxy whose current worker is older than
`proxy.order` is to be rolled. Generations number processes and never repeat.

This module is pure: `now` is a monotonic reading, `jitter` a random factor, both from outside.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs

from modelproxy.worker.contract import EXIT_CONFIG, Front, Quota, WorkerSpec

from . import policy
from .facts import Care, Death, Phase, Proxy, Worker
from .words import span

# --- events ---------------------------------------------------------------------------------------


@attrs.frozen
class Up:
    """The user wants it, with this spec, kept like this."""

    spec: WorkerSpec
    care: Care = attrs.Factory(Care)


@attrs.frozen
class Limited:
    """The user wants other limits; whoever serves goes on."""

    quota: Quota


@attrs.frozen
class Led:
    """A front is to lead elsewhere; it goes on."""

    front: Front | None


@attrs.frozen
class Down:
    """The user does not want it any more."""

    grace_s: float


@attrs.frozen
class Restart:
    """The user wants a fresh process."""

    grace_s: float


@attrs.frozen
class Halt:
    """The supervisor is going down in an orderly way."""

    grace_s: float


@attrs.frozen
class Recall:
    """A worker of an earlier supervisor is on record and its process lives."""

    generation: int
    pid: int | None
    """None: its supervisor died before it could note the pid, so perhaps there is no process at all."""


@attrs.frozen
class Unseen:
    """A worker of an earlier supervisor is on record and its process is gone: it died while nobody looked."""

    generation: int
    pid: int


@attrs.frozen
class Dialled:
    """A worker that an earlier supervisor started has come back."""

    generation: int
    pid: int
    serving: bool
    draining: bool
    ready_for_s: float = 0.0
    spec: WorkerSpec | None = None
    """What it runs with, key included; None: it has not been told yet."""
    outdated: str | None = None
    """The version that it runs, where that is not ours: it is kept, and replaced when its turn comes."""


@attrs.frozen
class Renew:
    """The turn of this proxy's outdated worker has come."""


@attrs.frozen
class Begin:
    """All that was on record is known: start what is missing."""


@attrs.frozen
class KeySought:
    """What the configuration says of secrets that were lost with an earlier supervisor."""

    spec: WorkerSpec | None
    """With them; None: they are not to be had."""
    reason: str = ""


@attrs.frozen
class Knocked:
    """A connection waits in the queue of an idle proxy."""


@attrs.frozen
class Spawned:
    generation: int
    pid: int


@attrs.frozen
class SpawnFailed:
    """No process was made. `permanent`: another try cannot help (no such interpreter)."""

    generation: int
    reason: str
    permanent: bool = False


@attrs.frozen
class BecameReady:
    generation: int


@attrs.frozen
class Beaten:
    """The worker's heart has beaten; what it said, and what the kernel says of its queue."""

    generation: int
    requests: int = 0
    in_flight: int = 0
    accepted: int | None = None
    waiting: int = 0
    starved: str | None = None


@attrs.frozen
class Measured:
    """How much memory a worker has, in bytes."""

    generation: int
    rss: int


@attrs.frozen
class FeltWell:
    generation: int
    note: str = ""


@attrs.frozen
class FellIll:
    """The worker's provider is in trouble: shown, never a reason to restart."""

    generation: int
    detail: str


@attrs.frozen
class SaidBye:
    generation: int
    reason: str


@attrs.frozen
class Exited:
    generation: int
    cause: str
    code: int | None = None


@attrs.frozen
class Examined:
    """What a look at a silent worker's process showed."""

    generation: int
    traced: bool
    busy: bool
    detail: str


@attrs.frozen
class Clock:
    """A deadline may have passed."""


@attrs.frozen
class Overslept:
    """This process itself stood still for `by_s` seconds: nobody else is to blame for that silence."""

    by_s: float


@attrs.frozen
class Broke:
    """A task of ours that served this proxy failed: our bug, contained to this proxy."""

    reason: str


Event = (
    Up
    | Limited
    | Led
    | Down
    | Restart
    | Halt
    | Recall
    | Unseen
    | Dialled
    | Renew
    | Begin
    | KeySought
    | Knocked
    | Spawned
    | SpawnFailed
    | BecameReady
    | Beaten
    | Measured
    | FeltWell
    | FellIll
    | SaidBye
    | Exited
    | Examined
    | Clock
    | Overslept
    | Broke
)

# --- actions --------------------------------------------------------------------------------------


@attrs.frozen
class Spawn:
    """Make the process; answered by `Spawned` or `SpawnFailed`, and later by `Exited`."""

    generation: int


@attrs.frozen
class Drain:
    """Ask the worker to finish and leave: over its channel, else by SIGTERM."""

    generation: int
    grace_s: float


@attrs.frozen
class Adjust:
    """Tell the worker its new limits, and a front where it leads."""

    generation: int
    quota: Quota
    front: Front | None = None


@attrs.frozen
class Examine:
    """Look at the silent worker's process; answered by `Examined`."""

    generation: int
    briefly: bool = False
    """Whether a debugger holds it is all that matters: its processor time is not."""


@attrs.frozen
class Abort:
    """SIGABRT, so that the stacks of the hung process reach its log."""

    generation: int


@attrs.frozen
class Kill:
    """SIGKILL (and SIGCONT, in case it is stopped)."""

    generation: int


@attrs.frozen
class Tell:
    """Put a line into the event log."""

    kind: str
    text: str


Action = Spawn | Drain | Adjust | Examine | Abort | Kill | Tell


# --- the one writer -------------------------------------------------------------------------------


@attrs.define
class _Turn:
    """One step in progress: the proxy as it becomes, and what is ordered so far."""

    proxy: Proxy
    now: float
    jitter: float
    actions: list[Action] = attrs.Factory(list)

    def set(self, **facts: Any) -> None:
        self.proxy = attrs.evolve(self.proxy, **facts)

    def amend(self, generation: int, **facts: Any) -> None:
        self.set(
            workers=tuple(
                attrs.evolve(worker, **facts) if worker.generation == generation else worker
                for worker in self.proxy.workers
            )
        )

    def add(self, worker: Worker) -> None:
        workers = sorted((*self.proxy.workers, worker), key=lambda one: one.generation)
        self.set(workers=tuple(workers), generation=max(self.proxy.generation, worker.generation))

    def remove(self, worker: Worker) -> None:
        self.set(
            workers=tuple(one for one in self.proxy.workers if one is not worker),
            last_pid=worker.pid or self.proxy.last_pid,
        )

    def order(self, action: Action) -> None:
        self.actions.append(action)

    def tell(self, kind: str, text: str) -> None:
        self.order(Tell(kind, text))

    def phase(self, worker: Worker, phase: Phase, **facts: Any) -> None:
        self.amend(worker.generation, phase=phase, since=self.now, start_by=None, **facts)

    def leave(self, worker: Worker, kill_by: float | None) -> None:
        """It is leaving from now on. Its heart beats to the end, but who waits in the queue is its successor's."""
        # One that answers is listened to as before, and a look at it goes on; others have yet to be heard.
        heard = worker.phase is Phase.READY
        silent_by = worker.silent_by if heard else self.now + policy.SILENCE_LIMIT_S
        if worker.hung:
            silent_by, kill_by = None, worker.kill_by  # its end has begun
        self.phase(worker, Phase.DRAINING, kill_by=kill_by, silent_by=silent_by, stuck_since=None)

    def drain(self, worker: Worker, grace_s: float) -> None:
        """Ask a worker to leave; asking again may only shorten its time."""
        kill_by = self.now + grace_s + policy.DRAIN_TO_KILL_S
        if worker.phase is Phase.DRAINING:
            if worker.kill_by is not None and worker.kill_by <= kill_by:
                return
            self.amend(worker.generation, kill_by=kill_by)
        else:
            self.leave(worker, kill_by)
        self.order(Drain(worker.generation, grace_s))

    def drain_all(self, grace_s: float) -> None:
        for worker in self.proxy.workers:
            if worker.phase is Phase.ABSENT and worker.pid is None:
                continue  # perhaps there is no process at all; should it dial, it is told then
            # What never answered has nothing to finish.
            self.drain(worker, 0.0 if worker.phase is Phase.STARTING else grace_s)

    def rest(self, why: str) -> None:
        self.set(idle_since=self.now)
        self.tell("idle", f"{why}: the next connection starts it")

    def mourn(self, death: Death) -> None:
        self.set(deaths=(*self.proxy.deaths, death)[-policy.KEPT_DEATHS :])
        if not death.was_leaving:
            self.set(trouble=death.cause)

    def forgive(self) -> None:
        """A person said to try again: forget what went wrong."""
        self.set(failures=0, never_ready=0, spawn_failures=0, retry_at=None, given_up=None, trouble=None)


def step(proxy: Proxy, event: Event, now: float, jitter: float = 1.0) -> tuple[Proxy, list[Action]]:
    """The proxy after `event`, and what is to be done about it."""
    turn = _Turn(proxy, now, jitter)
    _HANDLERS[type(event)](turn, event)
    if turn.proxy.is_up:
        _settle(turn)
    if turn.proxy.state is not proxy.state:
        turn.set(state_since=now)
    return turn.proxy, turn.actions


def _settle(turn: _Turn) -> None:
    """Order whatever is missing between the facts and the wish to be up."""
    proxy = turn.proxy
    current, successor = proxy.current, proxy.successor
    if any(worker.phase is Phase.ABSENT for worker in proxy.workers):
        return  # an earlier worker may still dial; starting another now would make two
    if successor is not None or proxy.key_sought:
        return
    if current is None:
        if proxy.given_up is None and proxy.retry_at is None and proxy.idle_since is None:
            if proxy.care.lazy and not proxy.key_lost:
                turn.rest("lazy")
            else:
                _start(turn)
    elif current.order < proxy.order:
        _start(turn)


def _start(turn: _Turn) -> None:
    if turn.proxy.key_lost:
        reason = _of_a_lost_key(turn.proxy)
        if turn.proxy.current is not None:
            _fail_roll(turn, reason)
            return
        turn.set(given_up=reason, order=turn.proxy.order)
        turn.tell("failed", reason)
        return
    generation = turn.proxy.generation + 1
    # No `start_by` yet: the order may wait for its turn behind other starts, which is nobody's fault.
    turn.add(Worker(generation, turn.proxy.order, Phase.STARTING, turn.now))
    turn.order(Spawn(generation))


def _of_a_lost_key(proxy: Proxy) -> str:
    if proxy.key_unfound is not None:
        return proxy.key_unfound
    if not proxy.spec.fallback:
        return f"its key was given by flag and died with it; repeat proxyctl up {proxy.said} --api-key …"
    targets = " ".join(f"--fallback {target.model_id}" for target in proxy.spec.fallback)
    again = f"proxyctl up {proxy.said} {targets}"
    return f"a key of it was kept in memory only and died with it; repeat {again}, with --api-key … if it had one"


def _on_up(turn: _Turn, event: Up) -> None:
    if turn.proxy.is_up:
        _on_limited(turn, Limited(event.spec.quota))
        _on_led(turn, Led(event.spec.front))
    proxy = turn.proxy
    changed = event.spec != proxy.spec
    _take_care(turn, event.care)
    if proxy.is_up and not changed and proxy.given_up is None:
        # A person waits: the pause is over. The count stays, so that a script in a loop forgives nothing.
        turn.set(retry_at=None)
        _wake_unless_lazy(turn)
        return
    turn.forgive()
    turn.set(wanted=True, spec=event.spec, key_lost=False, key_sought=False, key_unfound=None)
    _wake_unless_lazy(turn)
    if changed:
        turn.set(order=proxy.order + 1, worked=False)
        turn.tell("changed" if proxy.wanted else "up", f"wanted on port {event.spec.port}")
    elif not proxy.wanted:
        turn.tell("up", f"wanted on port {event.spec.port}")


def _on_limited(turn: _Turn, event: Limited) -> None:
    if turn.proxy.spec.quota == event.quota:
        return
    turn.set(spec=attrs.evolve(turn.proxy.spec, quota=event.quota))
    turn.tell("limits", _said(event.quota))
    _adjust(turn)


def _on_led(turn: _Turn, event: Led) -> None:
    if turn.proxy.spec.front == event.front:
        return
    turn.set(spec=attrs.evolve(turn.proxy.spec, front=event.front))
    turn.tell("leads", _ways(event.front))
    _adjust(turn)


def _adjust(turn: _Turn) -> None:
    spec = turn.proxy.spec
    for worker in turn.proxy.workers:
        turn.order(Adjust(worker.generation, spec.quota, spec.front))


def _ways(front: Front | None) -> str:
    places = [place.name if place.url else f"{place.name} (down)" for place in front.places] if front else []
    return f"to {', '.join(places) or 'nobody'}, else to {front.otherwise if front else 'nobody'}"


def _said(quota: Quota) -> str:
    found = [f"{name}={value:g}" for name, value in quota.limits().items()]
    names = [token.name for token in quota.access.tokens]
    found += [f"tokens {' '.join(names)}"] if names else []
    found += ["a token is demanded"] if quota.access.required else []
    return ", ".join(found) or "none any more"


def _take_care(turn: _Turn, care: Care) -> None:
    if care.max_rss != turn.proxy.care.max_rss:
        turn.set(recycled_at=None)
        for worker in turn.proxy.workers:
            turn.amend(worker.generation, fat=None)
    turn.set(care=care)


def _wake_unless_lazy(turn: _Turn) -> None:
    """Whoever says `up` waits for a worker, unless it was also said that it comes with the first connection."""
    if not turn.proxy.care.lazy:
        turn.set(idle_since=None)


def _on_knocked(turn: _Turn, event: Knocked) -> None:
    if turn.proxy.awaits_visitors:
        turn.set(idle_since=None, retry_at=None)
        turn.tell("woken", "by a connection")
        _start(turn)


def _on_down(turn: _Turn, event: Down) -> None:
    if turn.proxy.wanted:
        turn.tell("down", "not wanted any more")
    turn.forgive()
    turn.set(wanted=False, settled_at=None, idle_since=None, key_sought=False, key_unfound=None)
    turn.drain_all(event.grace_s)


def _on_restart(turn: _Turn, event: Restart) -> None:
    if not turn.proxy.is_up:
        return
    turn.forgive()
    turn.set(deaths=(), roll_grace_s=event.grace_s)
    if any(worker.phase is not Phase.DRAINING for worker in turn.proxy.workers):
        turn.set(order=turn.proxy.order + 1)
    turn.tell("restart", "asked for")


def _on_halt(turn: _Turn, event: Halt) -> None:
    turn.set(halted=True, retry_at=None, settled_at=None)
    turn.drain_all(event.grace_s)


def _on_recall(turn: _Turn, event: Recall) -> None:
    turn.add(
        Worker(
            event.generation,
            turn.proxy.order,
            Phase.ABSENT,
            turn.now,
            pid=event.pid,
            kill_by=turn.now + policy.ADOPT_WINDOW_S,
        )
    )


def _on_unseen(turn: _Turn, event: Unseen) -> None:
    """It counts like any death, but its successor does not wait: nobody knows how long ago it was."""
    if not turn.proxy.is_up:
        return
    death = Death(turn.now, "unobserved, while no supervisor ran", event.generation, event.pid)
    turn.mourn(death)
    turn.set(failures=turn.proxy.failures + 1, restarts=turn.proxy.restarts + 1)
    turn.tell("died", f"pid {event.pid}: {death.cause}")


def _on_dialled(turn: _Turn, event: Dialled) -> None:
    known = turn.proxy.worker(event.generation)
    if known is not None and known.phase is not Phase.ABSENT:
        return  # it only lost its connection for a moment
    order = turn.proxy.order
    if known is not None:
        turn.remove(known)
        # A restart asked for while it was awaited concerns it, unless it has yet to be told what to be.
        order = known.order if event.spec is not None else order
    phase = Phase.READY if event.serving else Phase.STARTING
    turn.add(
        Worker(
            event.generation,
            order,
            phase,
            turn.now - event.ready_for_s,
            pid=event.pid,
            heard_at=turn.now,
            active_at=turn.now,
            start_by=None if event.serving else turn.now + policy.START_LIMIT_S,
            silent_by=turn.now + policy.SILENCE_LIMIT_S if event.serving else None,
            outdated=event.outdated,
        )
    )
    _take_spec(turn, event)
    worker = turn.proxy.worker(event.generation)
    assert worker is not None  # added above
    turn.tell("adopted", f"pid {event.pid}, generation {event.generation}")
    if event.serving:
        turn.set(worked=True, given_up=None, retry_at=None)
    if not event.draining:
        turn.set(idle_since=None)
    if event.draining:
        # Its deadline died with the supervisor that set it. What never answered has nothing to finish.
        grace_s = turn.proxy.roll_grace_s if event.serving else 0.0
        turn.leave(worker, turn.now + grace_s + policy.DRAIN_TO_KILL_S)
    elif event.spec is None and turn.proxy.key_lost:
        turn.drain(worker, 0.0)  # a newborn that nobody can tell what to be
    elif not turn.proxy.is_up:
        turn.drain(worker, turn.proxy.spec.grace_s)
    else:
        _retire_elders(turn)


def _take_spec(turn: _Turn, event: Dialled) -> None:
    """The secrets that lived only in the worker come home; a worker with another spec is to be rolled."""
    ours, theirs = turn.proxy.spec, event.spec
    if theirs is None:
        return
    # What is told is no reason to replace it.
    theirs = attrs.evolve(theirs, quota=ours.quota, front=ours.front)
    if turn.proxy.key_lost and theirs.without_secrets() == ours.without_secrets():
        turn.set(spec=theirs, key_lost=False, key_sought=False, key_unfound=None)
    elif theirs != ours:
        turn.amend(event.generation, order=turn.proxy.order - 1)


def _on_renew(turn: _Turn, event: Renew) -> None:
    """By a roll like any other. Said twice, or when nothing is outdated any more, it does nothing."""
    proxy, worker = turn.proxy, turn.proxy.current
    if worker is None or worker.outdated is None or proxy.successor is not None or not proxy.is_up:
        return
    turn.amend(worker.generation, order=proxy.order - 1)
    turn.set(roll_grace_s=policy.ROLL_GRACE_S)
    turn.tell("renew", f"generation {worker.generation} runs {worker.outdated}; it is replaced")


def _on_begin(turn: _Turn, event: Begin) -> None:
    # Those of one that is not wanted hear that when they dial: most are leaving already, and to these a signal
    # would be the second order, which cuts their streams.
    if turn.proxy.is_up and turn.proxy.key_lost and not turn.proxy.key_sought:
        turn.set(idle_since=None)  # better known now than by the first who comes


def _on_key_sought(turn: _Turn, event: KeySought) -> None:
    known = turn.proxy
    if not known.awaits_configuration or event.reason == known.key_unfound:
        return  # a worker has brought it, a person said it anew, or it is nothing new
    if event.spec is not None:
        # Its limits, and where it leads, may have changed while somebody looked for the key.
        spec = attrs.evolve(event.spec, quota=known.spec.quota, front=known.spec.front)
        turn.set(spec=spec, given_up=None, key_lost=False, key_sought=False, key_unfound=None)
        return
    turn.set(key_sought=False, key_unfound=event.reason)
    turn.tell("no-key", event.reason)
    if turn.proxy.is_up and all(worker.phase is Phase.DRAINING for worker in turn.proxy.workers):
        turn.set(given_up=event.reason, idle_since=None, order=turn.proxy.order)
        turn.tell("failed", event.reason)


def _on_spawned(turn: _Turn, event: Spawned) -> None:
    worker = turn.proxy.worker(event.generation)
    if worker is None:
        return
    turn.amend(event.generation, pid=event.pid)
    if worker.phase is Phase.STARTING:
        turn.amend(event.generation, start_by=turn.now + policy.START_LIMIT_S)
    elif worker.phase is Phase.DRAINING:
        turn.order(Drain(event.generation, 0.0))  # unwanted before it was born


def _on_spawn_failed(turn: _Turn, event: SpawnFailed) -> None:
    worker = turn.proxy.worker(event.generation)
    if worker is None:
        return
    turn.remove(worker)
    turn.set(trouble=event.reason)
    turn.tell("spawn-failed", event.reason)
    if not turn.proxy.is_up:
        return
    if turn.proxy.current is not None:
        _fail_roll(turn, event.reason)
    elif event.permanent:
        turn.set(given_up=event.reason)
    else:
        count = turn.proxy.spawn_failures + 1
        turn.set(spawn_failures=count, retry_at=turn.now + policy.spawn_retry_delay(count, turn.jitter))


def _on_ready(turn: _Turn, event: BecameReady) -> None:
    worker = turn.proxy.worker(event.generation)
    if worker is None or worker.phase is not Phase.STARTING:
        return
    turn.phase(worker, Phase.READY, heard_at=turn.now, silent_by=turn.now + policy.SILENCE_LIMIT_S)
    turn.set(
        worked=True,
        never_ready=0,
        spawn_failures=0,
        trouble=None,
        given_up=None,
        retry_at=None,
        settled_at=turn.now + policy.RESET_AFTER_S if turn.proxy.failures else None,
    )
    turn.tell("ready", f"pid {worker.pid}, generation {event.generation}")
    _retire_elders(turn)


def _retire_elders(turn: _Turn) -> None:
    """The newest of its kind stays; older ones finish their streams, the oldest of too many at once."""
    current = turn.proxy.current
    coming = [worker for worker in turn.proxy.workers if worker.phase is Phase.STARTING]
    for worker in coming:
        # Two come at once, or one after its successor, when an earlier supervisor's newborn dials late.
        if worker is not coming[-1] or (current is not None and worker.generation < current.generation):
            turn.drain(worker, 0.0)
    if current is None:
        return
    for worker in turn.proxy.workers:
        if worker.phase is Phase.READY and worker is not current:
            turn.drain(worker, turn.proxy.roll_grace_s)
    crowd = turn.proxy.draining
    for worker in crowd[: max(0, len(crowd) - policy.MAX_DRAINING)]:
        turn.drain(worker, 0.0)


def _on_beaten(turn: _Turn, event: Beaten) -> None:
    worker = turn.proxy.worker(event.generation)
    if worker is None:
        return
    active = event.in_flight or worker.in_flight or event.requests != worker.requests
    stuck_since = _stuck_since(turn, worker, event)
    turn.amend(
        event.generation,
        heard_at=turn.now,
        active_at=turn.now if active else worker.active_at,
        requests=event.requests,
        in_flight=event.in_flight,
        accepted=event.accepted,
        waiting=event.waiting,
        starved=event.starved,
        stuck_since=stuck_since,
        traced=False,
    )
    if worker.phase not in _HEARD or (worker.phase is Phase.DRAINING and worker.hung):
        return  # to one that was leaving anyway SIGABRT is the end
    if stuck_since is not None and turn.now - stuck_since >= policy.SILENCE_LIMIT_S:
        # Alive, and of no use. While `silent_by` is None a look is under way or has already decided.
        if worker.silent_by is not None:
            turn.amend(event.generation, silent_by=None)
            turn.order(Examine(event.generation))
        return
    if worker.hung:
        turn.tell("recovered", f"generation {event.generation} beats again")
    kill_by = worker.kill_by if worker.phase is Phase.DRAINING else None
    turn.amend(event.generation, hung=None, silent_by=turn.now + policy.SILENCE_LIMIT_S, kill_by=kill_by)


def _stuck_since(turn: _Turn, worker: Worker, event: Beaten) -> float | None:
    """Since when connections have waited while it took none.

    A loop that runs takes at least one between two beats, however busy it is; and one that lacks
    descriptors says so, and would only lose its streams by a restart. One that leaves takes none any more.
    """
    if worker.phase is Phase.DRAINING:
        return None
    if not event.waiting or event.starved or event.accepted is None or event.accepted != worker.accepted:
        return None
    return turn.now if worker.stuck_since is None else worker.stuck_since


def _on_measured(turn: _Turn, event: Measured) -> None:
    proxy, limit = turn.proxy, turn.proxy.care.max_rss
    worker = proxy.current
    if worker is None or worker.generation != event.generation or not proxy.is_up:
        return
    if limit is None or event.rss <= limit:
        turn.amend(event.generation, fat=None)
        return
    if proxy.successor is not None or worker.order < proxy.order:
        return
    excess = f"{_mebibytes(event.rss)} > {_mebibytes(limit)}"
    if proxy.recycled_at is not None and turn.now - proxy.recycled_at < policy.RECYCLE_PAUSE_S:
        if worker.fat is None:
            pause = f"{policy.RECYCLE_PAUSE_S / 60:.0f} min"
            fat = f"{excess} again, replaced at most every {pause}: is --max-rss too small?"
            turn.amend(event.generation, fat=fat)
            turn.tell("too-large", f"generation {event.generation}: {fat}")
        return
    turn.set(order=proxy.order + 1, recycled_at=turn.now)
    turn.tell("recycled", excess)


def _mebibytes(size: int) -> str:
    return f"{size / 1024**2:.0f} MiB"


def _on_well(turn: _Turn, event: FeltWell) -> None:
    worker = turn.proxy.worker(event.generation)
    if worker is not None and worker.ill_since is not None and worker.phase is Phase.READY:
        turn.tell("well", f"its provider answers again after {span(turn.now - worker.ill_since)}")
    turn.amend(event.generation, ill=None, ill_since=None, note=event.note)


def _on_ill(turn: _Turn, event: FellIll) -> None:
    worker = turn.proxy.worker(event.generation)
    if worker is None:
        return
    since = turn.now if worker.ill_since is None else worker.ill_since
    if worker.phase is Phase.READY and worker.ill != event.detail:
        turn.tell("ill", event.detail)
    turn.amend(event.generation, ill=event.detail, ill_since=since)


def _on_bye(turn: _Turn, event: SaidBye) -> None:
    """A worker leaves by somebody's hand: its proxy is not wanted any more, unless another one answers."""
    worker = turn.proxy.worker(event.generation)
    if worker is None:
        return
    turn.amend(event.generation, leaving=event.reason)
    if worker.phase is Phase.DRAINING or not turn.proxy.is_up:
        return
    turn.tell("bye", f"pid {worker.pid}: {event.reason}")
    was_current = turn.proxy.current is not None and turn.proxy.current.generation == event.generation
    turn.leave(worker, None)
    if was_current or turn.proxy.current is None:
        turn.forgive()
        turn.set(wanted=False, settled_at=None, idle_since=None, key_sought=False, key_unfound=None)
        turn.drain_all(turn.proxy.spec.grace_s)


def _on_exited(turn: _Turn, event: Exited) -> None:
    worker = turn.proxy.worker(event.generation)
    if worker is None:
        return
    current = turn.proxy.current
    turn.remove(worker)
    cause = _cause(worker, event)
    if not _is_missed(turn.proxy, worker):
        if worker.hung:
            turn.mourn(_death(worker, cause, turn.now, was_leaving=True))
        _gone(turn, worker, "has finished" if event.code == 0 else cause)
        return
    turn.mourn(_death(worker, cause, turn.now))
    if current is not worker and current is not None:
        _fail_roll(turn, cause)
        return
    _count_death(turn, worker, event, cause)


def _is_missed(proxy: Proxy, lost: Worker) -> bool:
    """Whether its end is the proxy's loss: nobody misses one that was to leave, or whose successor serves."""
    if lost.phase is Phase.DRAINING or not proxy.is_up:
        return False
    replaced = proxy.current is not None and proxy.current.generation > lost.generation
    resting = lost.phase is Phase.ABSENT and proxy.idle_since is not None
    return not (replaced or resting)


def _gone(turn: _Turn, worker: Worker, how: str) -> None:
    if worker.hung:
        turn.tell("died", f"pid {worker.pid}, generation {worker.generation}, which was leaving: {how}")
    elif turn.proxy.is_up or turn.proxy.workers:
        turn.tell("left", f"pid {worker.pid}, generation {worker.generation}: {how}")
    if not (turn.proxy.is_up or turn.proxy.workers):
        turn.tell("stopped", f"pid {worker.pid} has left" if worker.pid else "there was no process")


def _death(worker: Worker, cause: str, now: float, *, was_leaving: bool = False) -> Death:
    lived_s = None if worker.phase is Phase.ABSENT else now - worker.since
    was_ready = worker.phase is Phase.READY
    return Death(now, cause, worker.generation, worker.pid, was_ready, lived_s, was_leaving)


def _cause(worker: Worker, event: Exited) -> str:
    if worker.hung:
        return f"hung ({worker.hung}); {event.cause}"
    if worker.phase is Phase.STARTING and worker.kill_by is not None:
        return f"not ready within {policy.START_LIMIT_S:.0f} s; {event.cause}"
    return event.cause


def _count_death(turn: _Turn, worker: Worker, event: Exited, cause: str) -> None:
    proxy = turn.proxy
    ready_for = turn.now - worker.since if worker.phase is Phase.READY else 0.0
    never_ready = proxy.never_ready + (worker.phase is Phase.STARTING)
    turn.set(failures=proxy.failures + 1, never_ready=never_ready, settled_at=None)
    if event.code == EXIT_CONFIG:
        turn.set(given_up=f"{cause}: the configuration cannot work")
    elif never_ready >= policy.MAX_NEVER_READY and not proxy.worked:
        turn.set(given_up=f"{never_ready} starts were never ready; last: {cause}")
    if turn.proxy.given_up is not None:
        turn.tell("failed", turn.proxy.given_up)
        return
    turn.set(restarts=proxy.restarts + 1)
    if proxy.successor is not None:
        turn.tell("died", f"{cause}; its successor is already starting")
        return
    delay = policy.restart_delay(turn.proxy.failures, ready_for, turn.jitter)
    turn.set(retry_at=turn.now + delay if delay else None)
    turn.tell("died", f"{cause}; starting again in {delay:.2f} s")


def _fail_roll(turn: _Turn, reason: str) -> None:
    """The newcomer is lost, the old one still answers: keep it and do not try again by ourselves."""
    current = turn.proxy.current
    assert current is not None  # the callers checked
    turn.amend(current.generation, order=turn.proxy.order, kept=current.outdated is not None)
    turn.set(trouble=f"the roll failed, generation {current.generation} goes on: {reason}")
    turn.tell("roll-failed", reason)


def _on_examined(turn: _Turn, event: Examined) -> None:
    worker = turn.proxy.worker(event.generation)
    if worker is None or worker.hung or not _is_looked_at(worker):
        return
    turn.amend(event.generation, traced=event.traced)
    if worker.phase is Phase.STARTING:
        _judge_start(turn, worker, event)
        return
    if worker.phase is Phase.ABSENT:
        _judge_absence(turn, worker, event)
        return
    _judge_silence(turn, worker, event)


def _judge_silence(turn: _Turn, worker: Worker, event: Examined) -> None:
    """By what is known now, which may be more than what led to the look."""
    heard_at = worker.since if worker.heard_at is None else worker.heard_at
    patience = policy.BUSY_SILENCE_LIMIT_S if event.busy else policy.SILENCE_LIMIT_S
    stuck_for = 0.0 if worker.stuck_since is None else turn.now - worker.stuck_since
    stuck = stuck_for >= policy.SILENCE_LIMIT_S
    if event.traced:
        silent_by = turn.now + policy.SILENCE_LIMIT_S
        turn.amend(worker.generation, silent_by=silent_by, stuck_since=None)
    elif not stuck and turn.now < heard_at + patience:
        silent_by = max(heard_at + policy.SILENCE_LIMIT_S, turn.now + 2.0)
        turn.amend(worker.generation, silent_by=silent_by)
    else:
        taken = f"took no connection for {stuck_for:.0f} s, {worker.waiting} waiting"
        symptom = taken if stuck else f"silent for {turn.now - heard_at:.0f} s"
        turn.tell("hung", f"generation {worker.generation} ({worker.phase}): {symptom}, {event.detail}")
        kill_by = min(turn.now + policy.ABORT_TO_KILL_S, worker.kill_by or math.inf)
        turn.amend(worker.generation, hung=taken if stuck else event.detail, kill_by=kill_by)
        turn.order(Abort(worker.generation))


_HEARD = (Phase.READY, Phase.DRAINING)
"""Those whose hearts beat."""


def _is_looked_at(worker: Worker) -> bool:
    """An `Examine` is under way: the deadline that led to it has been taken off."""
    if worker.phase in _HEARD:
        return worker.silent_by is None
    if worker.phase is Phase.STARTING:
        return worker.pid is not None and worker.start_by is None and worker.kill_by is None
    return worker.phase is Phase.ABSENT and worker.kill_by is None


def _judge_start(turn: _Turn, worker: Worker, event: Examined) -> None:
    if event.traced:
        turn.amend(worker.generation, start_by=turn.now + policy.START_LIMIT_S)
        return
    turn.amend(worker.generation, kill_by=turn.now + 1.0)
    turn.tell("slow-start", f"generation {worker.generation} was not ready in {policy.START_LIMIT_S:.0f} s")
    turn.order(Kill(worker.generation))


def _judge_absence(turn: _Turn, worker: Worker, event: Examined) -> None:
    """It lives but does not dial: stopped or stuck. First its stacks, then its end."""
    if event.traced and turn.proxy.is_up:
        turn.amend(worker.generation, kill_by=turn.now + policy.ADOPT_WINDOW_S)
        return
    turn.amend(worker.generation, hung="did not dial", kill_by=turn.now + policy.DRAIN_TO_KILL_S / 10)
    turn.order(Abort(worker.generation))


def _on_clock(turn: _Turn, event: Clock) -> None:
    proxy, now = turn.proxy, turn.now
    if _is_due(proxy.retry_at, now):
        turn.set(retry_at=None)
    if _is_due(proxy.settled_at, now):
        turn.set(settled_at=None, failures=0, trouble=None)
    if _is_due(proxy.idle_at, now):
        _stop_idle(turn)
        return
    for worker in proxy.workers:
        if _is_due(worker.start_by, now):
            turn.amend(worker.generation, start_by=None)
            turn.order(Examine(worker.generation, briefly=True))
        elif _is_due(worker.kill_by, now):
            _kill(turn, worker)
        if _is_due(worker.silent_by, now):
            turn.amend(worker.generation, silent_by=None)
            turn.order(Examine(worker.generation))


def _stop_idle(turn: _Turn) -> None:
    """Who comes from now on waits in the queue. The grace is for somebody who came in this very moment."""
    (worker,) = turn.proxy.workers
    turn.rest(f"no request for {span(turn.proxy.care.idle_stop_s or 0.0)}")
    turn.drain(worker, turn.proxy.roll_grace_s)


def _kill(turn: _Turn, worker: Worker) -> None:
    if worker.phase is Phase.ABSENT and worker.pid is None:
        turn.remove(worker)  # it was never born
        _gone(turn, worker, "there was no process")
        return
    if worker.phase is Phase.ABSENT and worker.hung is None:
        if worker.kill_by is not None and turn.now - worker.kill_by > policy.ADOPT_WINDOW_S / 2:
            # It is we who come late, and it may have dialled long ago.
            turn.amend(worker.generation, kill_by=turn.now + policy.WAKE_GRACE_S)
            return
        turn.amend(worker.generation, kill_by=None)
        turn.order(Examine(worker.generation, briefly=True))
        return
    if worker.phase is Phase.DRAINING and worker.hung is None and not worker.overdue:
        # Said now: should we end before that worker does, nobody would say whose streams were cut, and why.
        turn.amend(worker.generation, overdue=True)
        turn.tell(
            "overdue", f"pid {worker.pid}, generation {worker.generation} did not leave in time: killed"
        )
    turn.amend(worker.generation, kill_by=turn.now + 1.0)  # asked again should the first not reach it
    turn.order(Kill(worker.generation))


def _on_overslept(turn: _Turn, event: Overslept) -> None:
    for worker in turn.proxy.workers:
        # The grace of one that leaves was for its streams, which went on meanwhile.
        leaving = worker.phase is Phase.DRAINING
        turn.amend(
            worker.generation,
            start_by=_later(worker.start_by, event.by_s + policy.WAKE_GRACE_S),
            silent_by=_later(worker.silent_by, event.by_s + policy.WAKE_GRACE_S),
            kill_by=worker.kill_by if leaving else _later(worker.kill_by, event.by_s + policy.WAKE_GRACE_S),
            heard_at=_later(worker.heard_at, event.by_s),
            active_at=_later(_active_at(worker), event.by_s + policy.WAKE_GRACE_S),
            stuck_since=None,
        )
        _look_again(turn, worker, policy.WAKE_GRACE_S)


def _on_broke(turn: _Turn, event: Broke) -> None:
    """Ours to answer for: what serves goes on serving, what is missing is started after a pause."""
    turn.tell("internal", event.reason)
    turn.set(trouble=f"internal error: {event.reason}")
    for worker in turn.proxy.workers:
        _look_again(turn, worker, policy.SILENCE_LIMIT_S)  # perhaps it was a look that broke
    turn.set(idle_since=None)  # perhaps nobody watches its door any more
    if not turn.proxy.is_up or turn.proxy.workers:
        return  # a missing readiness has its own deadline
    count = turn.proxy.spawn_failures + 1
    turn.set(spawn_failures=count, retry_at=turn.now + policy.spawn_retry_delay(count, turn.jitter))


def _look_again(turn: _Turn, worker: Worker, after_s: float) -> None:
    """A look that is under way counts for nothing."""
    if worker.hung is None and _is_looked_at(worker):
        turn.amend(worker.generation, **{_LOOKED_AT_BY[worker.phase]: turn.now + after_s})


_LOOKED_AT_BY = {
    Phase.READY: "silent_by",
    Phase.DRAINING: "silent_by",
    Phase.STARTING: "start_by",
    Phase.ABSENT: "kill_by",
}


def _active_at(worker: Worker) -> float:
    return worker.since if worker.active_at is None else worker.active_at


def _later(deadline: float | None, by_s: float) -> float | None:
    return None if deadline is None else deadline + by_s


def _is_due(deadline: float | None, now: float) -> bool:
    return deadline is not None and deadline <= now


_HANDLERS: dict[type, Callable[[_Turn, Any], None]] = {
    Up: _on_up,
    Limited: _on_limited,
    Led: _on_led,
    Down: _on_down,
    Restart: _on_restart,
    Halt: _on_halt,
    Recall: _on_recall,
    Unseen: _on_unseen,
    Dialled: _on_dialled,
    Renew: _on_renew,
    Begin: _on_begin,
    KeySought: _on_key_sought,
    Knocked: _on_knocked,
    Spawned: _on_spawned,
    SpawnFailed: _on_spawn_failed,
    BecameReady: _on_ready,
    Beaten: _on_beaten,
    Measured: _on_measured,
    FeltWell: _on_well,
    FellIll: _on_ill,
    SaidBye: _on_bye,
    Exited: _on_exited,
    Examined: _on_examined,
    Clock: _on_clock,
    Overslept: _on_overslept,
    Broke: _on_broke,
}


def next_deadline(proxy: Proxy) -> float | None:
    """When `Clock` is due; None when nothing is awaited."""
    deadlines = [proxy.retry_at, proxy.settled_at, proxy.idle_at]
    for worker in proxy.workers:
        deadlines += [worker.start_by, worker.silent_by, worker.kill_by]
    return min((deadline for deadline in deadlines if deadline is not None), default=None)
