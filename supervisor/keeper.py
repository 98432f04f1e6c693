"""The fleet in the real world: one loop that steps proxies, and the hands that carry out its orders.

Theory of operation
-------------------
Everything that happens becomes an event in one queue; one loop takes them in turn, asks `fleet.step`,
saves what must survive, and only then acts. Nobody else changes a proxy, so nobody looks at a state and
acts on what it was. A command (`up`, `down` …) is a function that runs inside the same loop; it is undone
as a whole when the state file cannot be written.

What the loop orders takes time (a start, a drain), so each order runs in a task of its own and reports
back with another event. Such a task that fails by a bug of ours is that proxy's trouble alone.

What follows from the facts rather than from events is put right after every step: `upkeep`.
"""

from __future__ import annotations

import errno
import os
import secrets
import signal
import socket
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import attrs
import trio

from modelproxy.worker import __version__
from modelproxy.worker.contract import (
    ADJUSTS,
    EXIT_OK,
    PROTOCOL,
    Adjust,
    Beat,
    Bye,
    Drain,
    FromSupervisor,
    FromWorker,
    Health,
    Hello,
    Ready,
    Reopen,
    Welcome,
)

from . import bequest, channel, fleet, kernel, logs, policy, renewal, runner, sockets, state, tally, words
from .custody import Custody
from .events import Events
from .facts import Death, Phase, Proxy
from .paths import Paths
from .protocol import Fault
from .tally import Tally
from .upkeep import Unit, Upkeep

KEPT_STOPPED = 100
_LATE_S = 5.0
"""A clock that rings this much too late means that this process itself was standing still."""

_LOOK_S = 0.5
"""So long the processor time of a silent worker is watched."""
_BRIEF_LOOK_S = 0.3
"""A look at nothing but its state takes a moment as well: what waits in our own sockets is heard meanwhile."""

_ROOM = 16
"""Descriptors that a new proxy has to find: ten to start with, and some to answer whoever asks about it."""

_HAND_OVER_LIMIT_S = 5.0
"""How long a restart waits for those who are being answered, and for a holder that has just been lost."""

_T = TypeVar("_T")
Monotonic = Callable[[], float]


@attrs.frozen
class _Happened:
    name: str
    event: fleet.Event


@attrs.define(eq=False)
class _Question:
    command: Callable[[], Any]
    refusable: bool
    done: trio.Event = attrs.Factory(trio.Event)
    reply: Any = None
    error: Exception | None = None


@attrs.frozen(eq=False)
class _Waiter:
    """Somebody waits for this to be so."""

    condition: Callable[[], bool]
    news: trio.Event = attrs.Factory(trio.Event)

    def look(self) -> None:
        try:
            is_so = self.condition()
        except Exception:  # whoever waits meets it again, and alone
            is_so = True
        if is_so:
            self.news.set()


@attrs.define
class _Draft:
    """What the command in progress has changed, so that it can be undone."""

    before: dict[str, Proxy | None] = attrs.Factory(dict)
    opened: list[socket.socket] = attrs.Factory(list)
    orders: list[tuple[Unit, list[fleet.Action]]] = attrs.Factory(list)


class Keeper:
    def __init__(
        self,
        paths: Paths,
        *,
        spawner: runner.Runner,
        custody: Custody,
        events: Events,
        log: Callable[[str], None],
        started_at: float,
        now: Monotonic,
        jitter: Callable[[], float],
        secrets_left: bequest.Secrets | None = None,
        doors: bequest.Doors | None = None,
    ) -> None:
        """`secrets_left`, `doors`: what this very process had in memory, and open, before it was executed anew."""
        self._paths = paths
        self._spawner = spawner
        self.custody = custody
        self._events = events
        self._log = log
        pid = os.getpid()
        self._author = state.DaemonRecord(pid, started_at, kernel.start_time(pid), kernel.boot_id())
        self._now = now
        self._jitter = jitter
        self._bequest = secrets_left or {}
        self._doors = doors or {}
        self._units: dict[str, Unit] = {}
        self._inbox_in, self._inbox = trio.open_memory_channel[_Happened | _Question](float("inf"))
        self._slots = trio.Semaphore(max(2, os.cpu_count() or 2))
        self._waiters: set[_Waiter] = set()
        self._acting = False
        self._renewing = False
        """Somebody may run another version. Else no event is worth a look at everybody."""
        self._alarm = trio.Event()
        self._due_at: float | None = None
        """What the clock sleeps for."""
        self._starts: deque[float] = deque(maxlen=policy.STARTS_PER_WINDOW)
        self._oom_kills: dict[Path, int] = {}
        """By the kernel's counter: what it said when a worker there was last made or lost."""
        self._upkeep = Upkeep(paths, custody, start=self._start, post=self.post, now=now, log=log)
        self._records: dict[str, state.ProxyRecord] = {}
        """What is to be on disk, …"""
        self._saved: dict[str, state.ProxyRecord] = {}
        """… and what is. Records that have not changed are the same objects, so comparing costs nothing."""
        self._words: state.Words = {}
        # Its own thread: the loop never waits behind slow key commands, which have all the others.
        self._save_limiter = trio.CapacityLimiter(1)
        self._draft: _Draft | None = None
        self._amnesia = False
        self._nursery: trio.Nursery | None = None
        self.warnings: list[str] = []

    # --- what others may ask ----------------------------------------------------------------------

    @property
    def units(self) -> dict[str, Unit]:
        """For reading only."""
        return self._units

    def now(self) -> float:
        return self._now()

    def post(self, name: str, event: fleet.Event) -> None:
        """Something happened."""
        self._inbox_in.send_nowait(_Happened(name, event))

    async def ask(self, command: Callable[[], _T], *, refusable: bool = True) -> _T:
        """Run `command` inside the loop, where it may call `apply`; its changes are all kept or none.

        A wish is refused while the state file cannot be written; what is a fact (not `refusable`) is kept.
        """
        question = _Question(command, refusable)
        self._inbox_in.send_nowait(question)
        await question.done.wait()
        if question.error is not None:
            raise question.error
        reply: _T = question.reply
        return reply

    async def wait_until(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Until `condition` holds, looked at after each change; False when the time is over.

        Never in the middle of a change: who reads `ready` may rely on what follows from it (saved, pid files).
        """
        with trio.move_on_after(timeout):
            while self._acting or not condition():
                await self._change(condition)
            return True
        return condition()

    async def _change(self, condition: Callable[[], bool]) -> None:
        """Until a change after which it held. Of many who wait, most are not concerned: nobody is woken to find out."""
        waiter = _Waiter(condition)
        self._waiters.add(waiter)
        try:
            await waiter.news.wait()
        finally:
            self._waiters.remove(waiter)

    async def pulse(self, patience_s: float) -> list[str]:
        """After one turn of the loop: the proxies whose deadline passed that long ago and was not served."""

        def overdue() -> list[str]:
            deadlines = {name: fleet.next_deadline(unit.proxy) for name, unit in self._units.items()}
            return [
                name for name, at in deadlines.items() if at is not None and at + patience_s < self._now()
            ]

        return await self.ask(overdue, refusable=False)

    def secrets(self) -> bequest.Secrets:
        """All that are known: what came with `up`, by flag or from a project's file, nobody else knows."""
        specs = [unit.proxy.spec for unit in self._units.values() if not unit.proxy.key_lost]
        return {spec.name: bequest.of(spec) for spec in specs if spec != spec.without_secrets()}

    def doors(self) -> bequest.Doors:
        """The listening sockets once more, for whoever comes after us in this process."""
        try:
            return {
                unit.proxy.spec.port: [one.dup() for one in unit.listeners]
                for unit in self._units.values()
                if unit.listeners
            }
        except OSError:
            return {}  # out of descriptors: the holder has them

    def renewal_words(self) -> list[str]:
        """How far the upgrade is, if one is under way."""
        return renewal.words([unit.proxy for unit in self._units.values()])

    async def hand_over(self) -> None:
        """Before the next supervisor: who is being answered is answered, and the sockets are in safe hands."""
        with trio.move_on_after(_HAND_OVER_LIMIT_S):
            await self._upkeep.relieve_all()
        await self.custody.confirm(_HAND_OVER_LIMIT_S)

    # --- what commands may do, inside the loop only ------------------------------------------------

    def apply(self, unit: Unit, event: fleet.Event) -> None:
        """Step a proxy on behalf of the command in progress."""
        draft = self._the_draft()
        draft.before.setdefault(unit.proxy.name, unit.proxy)
        draft.orders.append((unit, self._step(unit, event)))

    def create(self, proxy: Proxy) -> Unit:
        unit = Unit(proxy)
        self._the_draft().before.setdefault(proxy.name, None)
        self._units[proxy.name] = unit
        return unit

    def bind(self, port: int) -> list[socket.socket]:
        """Listening sockets that are closed again when the command is undone."""
        sockets.check_room(_ROOM)
        opened = sockets.bind_loopback(port)
        self._the_draft().opened += opened
        return opened

    def _the_draft(self) -> _Draft:
        if self._draft is None:
            raise RuntimeError("only a command inside the loop may change the fleet")
        return self._draft

    # --- life ------------------------------------------------------------------------------------

    async def run(
        self,
        workers_socket: socket.socket,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Keep the fleet until cancelled. Started once everything on record has been recalled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._loop)
            nursery.start_soon(self._clock)
            await self._recall()
            # Only now: a worker that dials is to be found on record.
            nursery.start_soon(channel.serve, workers_socket, self._on_link, self._on_message, self._log)
            nursery.start_soon(self.custody.run)
            task_status.started()

    async def _loop(self) -> None:
        async for item in self._inbox:
            self._acting = True
            if isinstance(item, _Question):
                await self._answer(item)
            else:
                await self._take(item)
            self._acting = False
            self._renew()
            self._wake()

    def _renew(self) -> None:
        """After an upgrade: have the next worker of another version replaced, when its turn has come."""
        if not self._renewing:
            return
        proxies = [unit.proxy for unit in self._units.values()]
        due = renewal.next_one(proxies)
        if due is not None:
            self.post(due, fleet.Renew())
        self._renewing = renewal.is_under_way(proxies)

    async def _take(self, happened: _Happened) -> None:
        unit = self._units.get(happened.name)
        if unit is None:
            return
        try:
            actions = self._step(unit, happened.event)
        except Exception:  # a bug in one proxy's step must not end the loop that serves all of them
            self._log(f"internal error on {happened}:\n{traceback.format_exc()}")
            return
        await self._save_or_complain([unit.proxy.name])
        self._hurry_the_clock(unit)
        self._perform(unit, actions)

    async def _answer(self, question: _Question) -> None:
        self._draft = draft = _Draft()
        try:
            question.reply = question.command()
            save = self._save_or_refuse if question.refusable else self._save_or_complain
            await save(draft.before)
        except Exception as error:  # goes to the one who asked
            self._undo(draft)
            question.error = error
        else:
            for unit, actions in draft.orders:
                self._hurry_the_clock(unit)
                self._perform(unit, actions)
        finally:
            self._draft = None
            question.done.set()

    def _undo(self, draft: _Draft) -> None:
        for name, proxy in draft.before.items():
            if proxy is None:
                del self._units[name]
            else:
                self._units[name].proxy = proxy
                self._hurry_the_clock(self._units[name])  # it may have looked meanwhile
        for one in draft.opened:
            for unit in self._units.values():
                if one in unit.listeners:
                    unit.listeners.remove(one)
            one.close()
        self._note(draft.before)

    def _step(self, unit: Unit, event: fleet.Event) -> list[fleet.Action]:
        unit.proxy, actions = fleet.step(unit.proxy, event, self._now(), self._jitter())
        for action in actions:
            if isinstance(action, fleet.Spawn):
                # Made here and not at the start, so that it is on disk before the process exists.
                unit.tokens[action.generation] = secrets.token_hex(16)
        return actions

    def _wake(self) -> None:
        for waiter in self._waiters:
            waiter.look()

    # --- saving ----------------------------------------------------------------------------------

    async def _save_or_refuse(self, touched: Iterable[str]) -> None:
        try:
            await self._save(touched)
        except OSError as error:
            full = error.errno not in (errno.EMFILE, errno.ENFILE)
            raise Fault(
                "disk_full" if full else "no_resources",
                f"cannot write {self._paths.state_file}: {error.strerror}",
                f"nothing was changed; {'make room' if full else 'raise the limit (ulimit -n)'} and say it again",
            ) from None

    async def _save_or_complain(self, touched: Iterable[str]) -> None:
        try:
            await self._save(touched)
        except OSError as error:
            # A fact is a fact; only wishes can be refused. The next save tries again.
            self._log(f"cannot write {self._paths.state_file}: {error.strerror}")

    async def _save(self, touched: Iterable[str]) -> None:
        """Write the wanted set when one of these proxies differs from what is on disk: a beat writes nothing."""
        self._note(touched)
        if self._records == self._saved:
            return
        saved = state.Saved(self._author, list(self._records.values()), kernel.wall_clock())
        await trio.to_thread.run_sync(
            state.save, self._paths.state_file, saved, self._words, limiter=self._save_limiter
        )
        self._saved = dict(self._records)

    def _note(self, touched: Iterable[str]) -> None:
        for name in touched:
            unit = self._units.get(name)
            record = None if unit is None else self._record(unit)
            if record is None:
                self._records.pop(name, None)
            elif record != self._records.get(name):
                self._records[name] = record

    def _record(self, unit: Unit) -> state.ProxyRecord:
        proxy = unit.proxy
        return state.ProxyRecord(
            name=proxy.name,
            wanted=proxy.wanted,
            state=str(proxy.state),
            port=proxy.spec.port,
            spec=proxy.spec.without_secrets(),
            generation=proxy.generation,
            restarts=proxy.restarts,
            needs_key=proxy.spec.has_key or proxy.key_lost,
            workers=[self._worker_record(unit, worker.generation, worker.pid) for worker in proxy.workers],
            pid_file=unit.pid_file,
            last_pid=proxy.last_pid,
            care=proxy.care,
            key_given=unit.key_given,
            key_of_shell=unit.key_of_shell,
            address_given=unit.address_given,
            kept=unit.kept,
            idle=proxy.idle_since is not None,
            deaths=self._dated(unit),
            past=unit.past,
        )

    def _dated(self, unit: Unit) -> list[Death]:
        """By the wall clock, read once for each: a record that differed every time would be written every time."""
        ahead = kernel.wall_clock() - self._now()
        unit.dated = {
            death: unit.dated.get(death) or attrs.evolve(death, at=death.at + ahead)
            for death in unit.proxy.deaths
        }
        return list(unit.dated.values())

    def _recall_deaths(self, record: state.ProxyRecord) -> dict[Death, Death]:
        """What `_dated` will say again; of a clock that was put back in between, nothing lies in the future."""
        ahead = kernel.wall_clock() - self._now()
        return {attrs.evolve(death, at=min(death.at - ahead, self._now())): death for death in record.deaths}

    def _worker_record(self, unit: Unit, generation: int, pid: int | None) -> state.WorkerRecord:
        handle = unit.handles.get(generation)
        return state.WorkerRecord(
            generation=generation,
            pid=pid,
            start_time=handle.start_time if handle else None,
            boot_id=kernel.boot_id(),
            token=unit.tokens.get(generation, ""),
            started_at=handle.tally.ready_at if handle else None,
        )

    # --- recalling -------------------------------------------------------------------------------

    async def _recall(self) -> None:
        """Take up what an earlier supervisor left: its wishes, and those of its workers that live."""
        records, warning = state.load(self._paths.state_file)
        if warning:
            self._amnesia = True
            self.warnings.append(warning)
            self._log(warning)
        self._upkeep.sweep()
        held = await self.custody.take()
        for port, listeners in self._doors.items():
            for one in held.get(port, []):
                one.close()
            held[port] = listeners
        await self.ask(lambda: self._recall_all(records, held), refusable=False)

    def _recall_all(self, records: list[state.ProxyRecord], held: dict[int, list[socket.socket]]) -> None:
        wanted = _still_wanted(records)
        for record in records:
            is_wanted = record.name in wanted
            self._recall_one(record, held.pop(record.port, []) if is_wanted else [], is_wanted=is_wanted)
        for port, unclaimed in held.items():
            for one in unclaimed:
                one.close()
            self.custody.hold(port, [])

    def _recall_one(
        self, record: state.ProxyRecord, listeners: list[socket.socket], *, is_wanted: bool
    ) -> None:
        dated = self._recall_deaths(record)
        spec = bequest.restored(record.spec, self._bequest.get(record.name, ()))
        key_lost = spec.lacks_headers or (record.needs_key and not spec.has_key)
        unit = self.create(
            Proxy(
                name=record.name,
                spec=spec,
                wanted=is_wanted,
                generation=record.generation,
                restarts=record.restarts,
                deaths=tuple(dated),
                key_lost=key_lost,
                key_sought=is_wanted and key_lost and (record.key_of_shell or not record.key_given),
                last_pid=record.last_pid,
                care=record.care,
                idle_since=self._now() if record.idle and is_wanted else None,
            )
        )
        unit.pid_file, unit.key_given, unit.kept = record.pid_file, record.key_given, record.kept
        unit.address_given, unit.key_of_shell = record.address_given, record.key_of_shell
        unit.listeners, unit.dated, unit.past = listeners, dated, record.past
        for worker in record.workers:
            self._recall_worker(unit, worker)
        self._mourn(unit, record.workers)
        self.apply(unit, fleet.Begin())

    def _mourn(self, unit: Unit, workers: list[state.WorkerRecord]) -> None:
        """The newest worker on record died unseen, unless the machine went down with it; older ones were leaving."""
        newest = max(workers, key=lambda worker: worker.generation, default=None)
        if newest is None or newest.pid is None or newest.boot_id != kernel.boot_id():
            return
        if unit.proxy.worker(newest.generation) is None:
            self.apply(unit, fleet.Unseen(newest.generation, newest.pid))

    def _recall_worker(self, unit: Unit, worker: state.WorkerRecord) -> None:
        unit.tokens[worker.generation] = worker.token
        if not kernel.CAN_IDENTIFY and (worker.pid is None or kernel.is_there(worker.pid)):
            # Perhaps ours, perhaps nobody: it is awaited by its token, and never touched by its number.
            if worker.boot_id == kernel.boot_id():
                self.apply(unit, fleet.Recall(worker.generation, None))
            return
        handle = self._recognise(unit, worker)
        if handle is None:
            if worker.pid is not None:
                # It is gone, and its pid files are not: they are taken away before a successor has a pid of its own.
                unit.written = (unit.proxy.spec.port, worker.pid, unit.pid_file)
            return
        handle.tally = Tally(ready_at=worker.started_at)
        self._count_oom_kills(handle)
        unit.handles[worker.generation] = handle
        self._start(unit, self._watch, unit, handle)
        self.apply(unit, fleet.Recall(worker.generation, handle.pid))

    def _recognise(self, unit: Unit, worker: state.WorkerRecord) -> runner.Handle | None:
        name, generation, token = unit.proxy.name, worker.generation, worker.token
        if worker.pid is not None:
            return runner.recognise(generation, worker.pid, worker.start_time, worker.boot_id, token)
        if worker.boot_id != kernel.boot_id():
            return None
        # Ordered, perhaps born, never noted. Nobody is waited for whom the kernel does not know.
        return runner.seek(name, generation, self._paths.log_file(name), token)

    # --- the channel -----------------------------------------------------------------------------

    async def _on_link(self, link: channel.Link) -> None:
        answers = await self.ask(lambda: self._meet(link), refusable=False)
        for answer in answers:
            await link.send(answer)

    def _meet(self, link: channel.Link) -> list[FromSupervisor]:
        """A worker has dialled: ours, an earlier supervisor's, or nobody's."""
        hello = link.hello
        unit = self._units.get(hello.name)
        if unit is None and self._amnesia and hello.spec is not None and not hello.draining:
            unit = self.create(Proxy(hello.name, hello.spec, wanted=True))
            unit.tokens[hello.generation] = hello.token
        if unit is None or not self._believes(unit, link):
            self._log(f"{link} is not on record: it is sent away")
            return [Welcome(), Drain(policy.ROLL_GRACE_S, "not on record")]
        handle = unit.handles.get(hello.generation)
        if handle is None:
            handle = runner.adopt(link)
            self._count_oom_kills(handle)
            unit.handles[hello.generation] = handle
            self._start(unit, self._watch, unit, handle)
        handle.link = link
        handle.tally = tally.greeted(handle.tally, hello, self._now())
        known = unit.proxy.worker(hello.generation)
        if known is None or known.phase is Phase.ABSENT:
            self._adopt(unit, link)
        elif hello.serving and known.phase is Phase.STARTING:
            self.apply(unit, fleet.BecameReady(hello.generation))  # said while the line was down
            handle.settled.set()
        return self._greeting(unit, link)

    def _believes(self, unit: Unit, link: channel.Link) -> bool:
        token = unit.tokens.get(link.hello.generation)
        handle = unit.handles.get(link.hello.generation)
        if token is None or not secrets.compare_digest(token, link.hello.token):
            return False
        return handle is None or handle.pid == link.hello.pid

    def _adopt(self, unit: Unit, link: channel.Link) -> None:
        hello = link.hello
        if unit.proxy.is_up and not hello.draining and not unit.listeners:
            unit.listeners, link.listeners = link.listeners, []
        ready_for = max(0.0, kernel.wall_clock() - hello.started_at) if hello.started_at else 0.0
        outdated = None if _is_present(hello) else hello.version or "an older version"
        self._renewing = self._renewing or outdated is not None
        event = fleet.Dialled(
            hello.generation,
            hello.pid,
            serving=hello.serving,
            draining=hello.draining,
            ready_for_s=ready_for,
            spec=hello.spec,
            outdated=outdated,
        )
        self.apply(unit, event)

    def _greeting(self, unit: Unit, link: channel.Link) -> list[FromSupervisor]:
        is_told = link.hello.spec is None and not unit.proxy.key_lost
        answers: list[FromSupervisor] = [Welcome(unit.proxy.spec if is_told else None)]
        ours, theirs = unit.proxy.spec, link.hello.spec
        if theirs is not None and (theirs.quota, theirs.front) != (ours.quota, ours.front):
            answers += _adjusted(link, Adjust(ours.quota, ours.front))  # said while the line was down
        worker = unit.proxy.worker(link.hello.generation)
        if worker is not None and worker.phase is Phase.DRAINING and not link.hello.draining:
            left = (worker.kill_by or self._now()) - self._now() - policy.DRAIN_TO_KILL_S
            answers.append(Drain(max(0.0, left)))
        return answers

    def _on_message(self, link: channel.Link, message: FromWorker) -> None:
        name, generation = link.hello.name, link.hello.generation
        unit = self._units.get(name)
        handle = unit.handles.get(generation) if unit else None
        if unit is None or handle is None or handle.link is not link:
            return
        if isinstance(message, Ready):
            handle.tally = attrs.evolve(handle.tally, ready_at=kernel.wall_clock())
            handle.settled.set()
            self.post(name, fleet.BecameReady(generation))
        elif isinstance(message, Beat):
            self._on_beat(unit, handle, message)
        elif isinstance(message, Health):
            felt: type[fleet.FeltWell | fleet.FellIll] = fleet.FeltWell if message.ok else fleet.FellIll
            self.post(name, felt(generation, message.detail))
        elif isinstance(message, Bye):
            if message.code == EXIT_OK:
                self.post(name, fleet.SaidBye(generation, message.reason))
            else:
                handle.last_words = message.reason  # a death, but not one without a word

    def _on_beat(self, unit: Unit, handle: runner.Handle, beat: Beat) -> None:
        handle.tally = tally.heard(handle.tally, beat, self._now())
        beaten = fleet.Beaten(
            handle.generation,
            beat.requests,
            beat.in_flight,
            beat.accepted,
            sum(kernel.accept_queue(one) or 0 for one in unit.listeners),
            beat.starved,
        )
        self.post(unit.proxy.name, beaten)
        self._measure(unit, handle)
        log_file = self._paths.log_file(unit.proxy.name)
        if logs.is_full(log_file):
            self._rotate(unit)

    def _measure(self, unit: Unit, handle: runner.Handle) -> None:
        """Every now and then, and only where the answer matters."""
        now = self._now()
        if unit.proxy.care.max_rss is None or now - handle.measured_at < policy.MEMORY_LOOK_S:
            return
        handle.measured_at = now
        if (rss := kernel.rss(handle.pid)) is not None:
            self.post(unit.proxy.name, fleet.Measured(handle.generation, rss))

    def _rotate(self, unit: Unit) -> None:
        try:
            logs.rotate(self._paths.log_file(unit.proxy.name))
        except OSError as error:
            self._log(f"cannot rotate the log of {unit.proxy.name}: {error.strerror}")
            return
        for handle in unit.handles.values():
            if handle.link is not None:
                self._start(unit, _send, handle.link, Reopen())

    # --- orders ----------------------------------------------------------------------------------

    def _perform(self, unit: Unit, actions: list[fleet.Action]) -> None:
        try:
            self._carry_out(unit, actions)
            self._upkeep.put_right(unit)
            if not unit.proxy.wanted and not unit.proxy.workers:
                self._forget_the_oldest()
        except Exception:  # as with a step: one proxy's trouble must not end the loop
            self._log(f"{unit.proxy.name}: internal error\n{traceback.format_exc()}")

    def _carry_out(self, unit: Unit, actions: list[fleet.Action]) -> None:
        for action in actions:
            if isinstance(action, fleet.Tell):
                self._events.add(kernel.wall_clock(), action.kind, unit.proxy.name, action.text)
                self._log(f"{unit.proxy.name}: {action.kind}: {action.text}")
            elif isinstance(action, fleet.Spawn):
                self._start(unit, self._give_birth, unit, action.generation)
            elif isinstance(action, fleet.Drain):
                self._start(unit, self._drain, unit, action)
            elif isinstance(action, fleet.Adjust):
                self._start(unit, self._adjust, unit, action)
            elif isinstance(action, fleet.Examine):
                self._start(unit, self._examine, unit, action)
            else:
                self._strike(unit, action)

    def _strike(self, unit: Unit, action: fleet.Abort | fleet.Kill) -> None:
        if (scope := unit.waiting.get(action.generation)) is not None:
            scope.cancel()
        if (handle := unit.handles.get(action.generation)) is not None:
            runner.abort(handle) if isinstance(action, fleet.Abort) else runner.kill(handle)

    def _start(self, unit: Unit, work: Callable[..., Awaitable[None]], *args: Any) -> None:
        assert self._nursery is not None  # nothing is ordered before run()
        self._nursery.start_soon(self._contain, unit, work, args)

    async def _contain(self, unit: Unit, work: Callable[..., Awaitable[None]], args: tuple[Any, ...]) -> None:
        try:
            await work(*args)
        except Exception as error:  # our bug, kept to the proxy it belongs to
            self._log(f"{unit.proxy.name}: internal error\n{traceback.format_exc()}")
            self.post(unit.proxy.name, fleet.Broke(f"{type(error).__name__}: {error}"))

    async def _give_birth(self, unit: Unit, generation: int) -> None:
        """Start a process when its turn has come, and hold the turn for a while, or until it is ready or lost."""
        name = unit.proxy.name
        handle = None
        async with AsyncExitStack() as turn:
            with trio.CancelScope() as scope:
                unit.waiting[generation] = scope
                try:
                    await turn.enter_async_context(self._slots)
                    await self._wait_for_the_window()
                    handle = await self._spawn_or_tell(unit, generation)
                except Exception:
                    self.post(name, fleet.SpawnFailed(generation, "internal error"))
                    raise
                finally:
                    del unit.waiting[generation]
            if handle is None:
                unit.tokens.pop(generation, None)
            if scope.cancelled_caught:
                self.post(name, fleet.Exited(generation, "taken back before it started"))
            elif handle is not None:
                unit.handles[generation] = handle
                kernel.offer_to_oom_killer(handle.pid)
                self._count_oom_kills(handle)
                self.post(name, fleet.Spawned(generation, handle.pid))
                self._start(unit, self._watch, unit, handle)
                with trio.move_on_after(policy.START_TURN_S):
                    await handle.settled.wait()

    async def _spawn_or_tell(self, unit: Unit, generation: int) -> runner.Handle | None:
        name = unit.proxy.name
        try:
            return await self._spawn(unit, generation)
        except (runner.SpawnError, sockets.PortInUseError) as error:
            permanent = isinstance(error, runner.SpawnError) and error.permanent
            reason = (
                await port_trouble(error.port) if isinstance(error, sockets.PortInUseError) else str(error)
            )
            self.post(name, fleet.SpawnFailed(generation, reason, permanent))
        return None

    async def _wait_for_the_window(self) -> None:
        """A storm of starts keeps a machine from everything else, whoever's fault it is."""
        while len(self._starts) == policy.STARTS_PER_WINDOW:
            free_at = self._starts[0] + policy.START_WINDOW_S
            if free_at <= self._now():
                break
            await trio.sleep(free_at - self._now())
        self._starts.append(self._now())

    async def _spawn(self, unit: Unit, generation: int) -> runner.Handle:
        if not unit.listeners:
            try:
                unit.listeners = sockets.bind_loopback(unit.proxy.spec.port)
            except OSError as error:
                raise runner.SpawnError(
                    f"cannot listen on port {unit.proxy.spec.port}: {error.strerror}", permanent=False
                ) from None
        return await self._spawner.spawn(
            runner.Birth(
                name=unit.proxy.name,
                generation=generation,
                token=unit.tokens[generation],
                socket_path=str(self._paths.workers_socket),
                listeners=unit.listeners,
                log_file=self._paths.log_file(unit.proxy.name),
                ledger=self._paths.ledger,
            )
        )

    async def _watch(self, unit: Unit, handle: runner.Handle) -> None:
        try:
            ended = await runner.wait_exit(handle)
        except Exception:
            runner.kill(handle)  # an end that nobody can see would leave the proxy without a successor
            self._bury(unit, handle, fleet.Exited(handle.generation, "lost from sight"))
            raise
        cause = f"{ended} (oom?)" if self._was_oom_killed(handle, ended) else str(ended)
        cause = f"{cause}: {handle.last_words}" if handle.last_words else cause
        self._bury(unit, handle, fleet.Exited(handle.generation, cause, ended.code))

    def _count_oom_kills(self, handle: runner.Handle) -> None:
        handle.oom_counter = kernel.oom_counter(handle.pid)
        if handle.oom_counter is not None:
            self._oom_kills[handle.oom_counter] = kernel.oom_kills(handle.oom_counter) or 0

    def _was_oom_killed(self, handle: runner.Handle, ended: kernel.Exit) -> bool:
        """A SIGKILL that nobody of us sent, while the kernel has killed for want of memory where it lived."""
        counter = handle.oom_counter
        if ended.signal != signal.SIGKILL or handle.killed or counter is None:
            return False
        known, count = self._oom_kills.get(counter, 0), kernel.oom_kills(counter) or 0
        # One at a time: of three that were killed together, each finds its own.
        self._oom_kills[counter] = min(known + 1, count)
        return count > known

    def _bury(self, unit: Unit, handle: runner.Handle, exited: fleet.Exited) -> None:
        handle.settled.set()
        handle.close()
        unit.past = tally.ended(unit.past, handle.tally)
        unit.handles.pop(handle.generation, None)
        unit.tokens.pop(handle.generation, None)
        self.post(unit.proxy.name, exited)

    async def _drain(self, unit: Unit, order: fleet.Drain) -> None:
        if (scope := unit.waiting.get(order.generation)) is not None:
            scope.cancel()
            return
        handle = unit.handles.get(order.generation)
        if handle is None:
            return
        handle.settled.set()  # it is not going to be ready any more
        link = handle.link
        if link is None or link.closed.is_set() or not await link.send(Drain(order.grace_s)):
            handle.signal(signal.SIGTERM)

    async def _adjust(self, unit: Unit, order: fleet.Adjust) -> None:
        """A worker without a line learns it when it dials."""
        handle = unit.handles.get(order.generation)
        if handle is not None and handle.link is not None:
            for message in _adjusted(handle.link, Adjust(order.quota, order.front)):
                await handle.link.send(message)

    async def _examine(self, unit: Unit, order: fleet.Examine) -> None:
        generation = order.generation
        handle = unit.handles.get(generation)
        if handle is None:
            return
        before = kernel.cpu_ticks(handle.pid)
        await trio.sleep(_BRIEF_LOOK_S if order.briefly else _LOOK_S)
        after = kernel.cpu_ticks(handle.pid)
        letter = kernel.run_state(handle.pid)
        # R without progress waits for a processor that others have: nothing is wrong with it.
        busy = letter == "R" or (before is not None and after is not None and after > before)
        detail = f"state {letter}, {'busy' if busy else 'idle'}" if letter else "silent"
        self.post(unit.proxy.name, fleet.Examined(generation, kernel.is_traced(handle.pid), busy, detail))

    def _forget_the_oldest(self) -> None:
        stopped = [
            name for name, unit in self._units.items() if not unit.proxy.wanted and not unit.proxy.workers
        ]
        for name in stopped[: max(0, len(stopped) - KEPT_STOPPED)]:
            del self._units[name]
        self._note(stopped[: max(0, len(stopped) - KEPT_STOPPED)])

    # --- time ------------------------------------------------------------------------------------

    def _hurry_the_clock(self, unit: Unit) -> None:
        """Only when something is due earlier than before: most beats just move a deadline away."""
        due_at = fleet.next_deadline(unit.proxy)
        if due_at is not None and (self._due_at is None or due_at < self._due_at):
            self._alarm.set()

    async def _clock(self) -> None:
        while True:
            alarm = self._alarm = trio.Event()
            deadlines = [fleet.next_deadline(unit.proxy) for unit in self._units.values()]
            self._due_at = due_at = min((at for at in deadlines if at is not None), default=None)
            if due_at is None:
                await alarm.wait()
                continue
            with trio.move_on_after(max(0.0, due_at - self._now())) as scope:
                await alarm.wait()
            late = self._now() - due_at
            if late > _LATE_S:
                self._log(
                    f"this process stood still for {words.span(late)}; nobody is blamed for that silence"
                )
                for name in self._units:
                    self.post(name, fleet.Overslept(late))
            if scope.cancelled_caught or late >= 0:
                for name, unit in self._units.items():
                    at = fleet.next_deadline(unit.proxy)
                    if at is not None and at <= self._now():
                        self.post(name, fleet.Clock())
                # Behind the events just posted: afterwards their deadlines are served.
                await self.ask(lambda: None, refusable=False)


def _still_wanted(records: list[state.ProxyRecord]) -> set[str]:
    """Those for which the wish outlives us: what a front leads to lasts as long as the front."""
    own = [record for record in records if record.wanted and _outlives(record)]
    led = {place.name for one in own if one.spec.front is not None for place in one.spec.front.places}
    behind = [record for record in records if record.wanted and record.spec.said in led]
    return {record.name for record in (*own, *behind)}


def _outlives(record: state.ProxyRecord) -> bool:
    """By itself: who held a lease is gone with the workers, or with the machine's last boot."""
    return record.kept or record.idle or any(one.boot_id == kernel.boot_id() for one in record.workers)


def _adjusted(link: channel.Link, message: Adjust) -> list[Adjust]:
    """Nothing to a worker that would not understand it."""
    return [message] if link.hello.protocol >= ADJUSTS else []


async def _send(link: channel.Link, message: FromSupervisor) -> None:
    await link.send(message)


def _is_present(hello: Hello) -> bool:
    """Whether it runs the very version that we do."""
    return hello.protocol == PROTOCOL and hello.version == __version__


async def port_trouble(port: int) -> str:
    """Who is in the way on `port`, in words."""
    holder = await trio.to_thread.run_sync(kernel.port_holder, port)
    by = f" by {holder.command} (pid {holder.pid})" if holder else ""
    return f"Port {port} is already in use{by}"
