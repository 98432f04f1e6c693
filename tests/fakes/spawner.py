"""Workers without processes: a spawner, a channel and a holder that a `Keeper` takes for the real ones.

The seams are the keeper's own: `Runner.spawn`, `runner.wait_exit`, `channel.serve`, `Custody`. A fake worker
says `Hello` as a newborn, gets its spec, says `Ready`, beats, and leaves when it is told to; `conduct` makes it
misbehave. Time is trio's, so with `autojump_clock` an hour costs nothing: no real IO is in flight here.
"""

from __future__ import annotations

import errno
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from modelproxy.supervisor import channel, kernel, runner
from modelproxy.supervisor.commands import Commands
from modelproxy.supervisor.events import Events
from modelproxy.supervisor.facts import Proxy
from modelproxy.supervisor.keeper import Keeper
from modelproxy.supervisor.paths import Paths
from modelproxy.worker.contract import (
    Beat,
    Bye,
    Drain,
    FromSupervisor,
    FromWorker,
    Hello,
    Ready,
    Welcome,
    WorkerSpec,
)

FIRST_PID = 5_000_000
"""Beyond the largest pid that Linux gives out: none of these is ever a real process."""
BEAT_S = 2.0


@attrs.define(eq=False)
class FakeHandle(runner.Handle):
    ended: trio.Event = attrs.field(factory=trio.Event, repr=False)
    outcome: kernel.Exit = attrs.Factory(kernel.Exit)
    signals: list[signal.Signals] = attrs.Factory(list)
    deaf: bool = False
    """Only SIGKILL ends it."""

    def signal(self, signum: int) -> None:
        self.signals.append(signal.Signals(signum))
        if signum == signal.SIGKILL or (signum in (signal.SIGTERM, signal.SIGABRT) and not self.deaf):
            self.end(kernel.Exit(signal=signum))

    def signal_main_thread(self, signum: int) -> None:
        self.signal(signum)

    def end(self, outcome: kernel.Exit) -> None:
        if not self.ended.is_set():
            self.outcome = outcome
            self.ended.set()


class FakeLink:
    """Stands in for `channel.Link`."""

    def __init__(self, hello: Hello, listeners: list[socket.socket] | None = None) -> None:
        self.hello = hello
        self.listeners = listeners or []
        self.closed = trio.Event()
        self.heard: list[FromSupervisor] = []
        self.news = trio.Event()
        self.trouble: Exception | None = None
        """Raised by the next `send`."""

    def __repr__(self) -> str:
        return f"<FakeLink {self.hello.name} g{self.hello.generation}>"

    async def send(self, message: FromSupervisor) -> bool:
        await trio.lowlevel.checkpoint()
        if self.trouble is not None:
            raise self.trouble
        if self.closed.is_set():
            return False
        self.heard.append(message)
        self.news.set()
        return True


class FakeWorker:
    """One life. `conduct`: good, silent (dials, never ready), mute (never dials), stubborn (ignores drain)."""

    def __init__(self, world: World, name: str, generation: int, token: str, conduct: str) -> None:
        self.world = world
        self.name = name
        self.generation = generation
        self.conduct = conduct
        self.beating = True
        self.beat = Beat(0.0, requests=1, in_flight=0)
        """What it says at each beat."""
        self.spec: WorkerSpec | None = None
        self.link: FakeLink | None = None
        self.handle = FakeHandle(
            generation, world.next_pid(), None, 1, token, deaf=conduct in ("stubborn", "mute")
        )

    async def live(self) -> None:
        async with trio.open_nursery() as nursery:
            if self.conduct != "mute":
                nursery.start_soon(self.work)
            await self.handle.ended.wait()
            nursery.cancel_scope.cancel()
        if self.link is not None:
            self.link.closed.set()

    def hello(self, **changes: Any) -> Hello:
        return attrs.evolve(Hello(self.name, self.generation, self.handle.pid, self.handle.token), **changes)

    async def work(self) -> None:
        link = await self.dial()
        for message in link.heard:
            if isinstance(message, Welcome):
                self.spec = message.spec
        if self.conduct != "silent":
            self.say(Ready())
        while True:
            if any(isinstance(message, Drain) for message in link.heard) and self.conduct != "stubborn":
                self.say(Bye("stopping"))
                self.handle.end(kernel.Exit(code=0))
                return
            link.news = trio.Event()
            with trio.move_on_after(BEAT_S):
                await link.news.wait()
            if self.beating and self.conduct != "silent":
                self.say(self.beat)

    async def dial(self, listeners: list[socket.socket] | None = None, **changes: Any) -> FakeLink:
        """Say hello; returns when the supervisor has answered."""
        self.link = link = FakeLink(self.hello(**changes), listeners)
        await self.world.on_link(link)
        return link

    def say(self, message: FromWorker) -> None:
        assert self.link is not None  # it has dialled
        self.world.on_message(self.link, message)

    def die(self, outcome: kernel.Exit | None = None) -> None:
        self.handle.end(outcome or kernel.Exit(signal=signal.SIGKILL))


class FakeCustody:
    """Notes what is to be held; hands out `left`, as if an earlier supervisor had put it there."""

    def __init__(self) -> None:
        self.held: dict[int, int] = {}
        """Port -> how many sockets."""
        self.left: dict[int, list[socket.socket]] = {}

    def hold(self, port: int, listeners: list[socket.socket]) -> None:
        if listeners:
            self.held[port] = len(listeners)
        else:
            self.held.pop(port, None)

    async def settled(self) -> None:
        await trio.lowlevel.checkpoint()

    async def take(self) -> dict[int, list[socket.socket]]:
        await trio.lowlevel.checkpoint()
        return dict(self.left)

    async def run(self) -> None:
        await trio.sleep_forever()


class World:
    """A keeper and its commands among fake workers."""

    on_link: Callable[[Any], Any]
    on_message: Callable[[Any, FromWorker], None]

    def __init__(self, paths: Paths, nursery: trio.Nursery) -> None:
        self.paths = paths
        self.events = Events()
        self.custody = FakeCustody()
        self.log: list[str] = []
        self.births: list[runner.Birth] = []
        self.workers: dict[tuple[str, int], FakeWorker] = {}
        self.conduct: Callable[[runner.Birth], str] = lambda birth: "good"
        self.trouble: dict[str, Exception] = {}
        """Proxy -> what `spawn` raises instead."""
        self.spawning_takes: dict[str, float] = {}
        """Proxy -> seconds until `spawn` has made its process."""
        self.blind: dict[str, Exception] = {}
        """Proxy -> what waiting for an exit raises."""
        self.on_spawn: Callable[[runner.Birth], None] = lambda birth: None
        self.survivors: dict[int, FakeHandle] = {}
        """pid -> process that an earlier supervisor has left."""
        self.slept_s = 0.0
        """How long the machine has slept: the clock has gone on, and nobody in this process has run."""
        self._nursery = nursery
        self._pids = 0
        self._open = trio.Event()
        self.keeper = self._make_keeper()
        self.commands = Commands(self.keeper, paths, self.log.append)

    def _make_keeper(self) -> Keeper:
        spawner: Any = self
        custody: Any = self.custody
        return Keeper(
            self.paths,
            spawner=spawner,
            custody=custody,
            events=self.events,
            log=self.log.append,
            started_at=1000.0,
            now=lambda: trio.current_time() + self.slept_s,
            jitter=lambda: 1.0,
        )

    def next_pid(self) -> int:
        self._pids += 1
        return FIRST_PID + self._pids

    def patch(self, patcher: pytest.MonkeyPatch) -> None:
        """Put the fakes where the keeper looks."""
        patcher.setattr(channel, "serve", self._serve)
        patcher.setattr(runner, "wait_exit", self._wait_exit)
        patcher.setattr(runner, "recognise", self._recognise)
        patcher.setattr(runner, "seek", self._seek)
        patcher.setattr(runner, "adopt", self._adopt)
        # A thread is invisible to the autojump clock, which would jump over the wait for it.
        patcher.setattr(trio.to_thread, "run_sync", _at_once)

    async def start(self) -> World:
        unused: Any = None
        await self._nursery.start(self.keeper.run, unused)
        await self._open.wait()
        return self

    # what the keeper calls

    async def spawn(self, birth: runner.Birth) -> FakeHandle:
        await trio.sleep(self.spawning_takes.get(birth.name, 0.0))
        self.births.append(birth)
        self.on_spawn(birth)
        if birth.name in self.trouble:
            raise self.trouble[birth.name]
        worker = FakeWorker(self, birth.name, birth.generation, birth.token, self.conduct(birth))
        self.workers[birth.name, birth.generation] = worker
        self._nursery.start_soon(worker.live)
        return worker.handle

    async def _serve(self, listener: Any, on_link: Any, on_message: Any, log: Any) -> None:
        self.on_link, self.on_message = on_link, on_message
        self._open.set()
        await trio.sleep_forever()

    async def _wait_exit(self, handle: FakeHandle) -> kernel.Exit:
        name = next((name for (name, _), one in self.workers.items() if one.handle is handle), "")
        if name in self.blind:
            raise self.blind[name]
        await handle.ended.wait()
        return handle.outcome

    def _recognise(self, generation: int, pid: int, *record: Any) -> FakeHandle | None:
        handle = self.survivors.get(pid)
        return handle if handle is not None and not handle.ended.is_set() else None

    def _seek(self, name: str, generation: int, *record: Any) -> FakeHandle | None:
        handle = self.workers[name, generation].handle if (name, generation) in self.workers else None
        return handle if handle in self.survivors.values() else None

    def _adopt(self, link: FakeLink) -> FakeHandle:
        handle = self.survivors.get(link.hello.pid)
        if handle is None:
            raise ProcessLookupError(errno.ESRCH, "no such process")
        handle.link = link  # type: ignore[assignment]  # a fake for a fake
        return handle

    # for the tests

    def proxy(self, name: str = "echo/demo") -> Proxy:
        return self.keeper.units[name].proxy

    def worker(self, name: str = "echo/demo", generation: int = 1) -> FakeWorker:
        return self.workers[name, generation]

    def survivor(self, name: str, generation: int, pid: int, token: str) -> FakeWorker:
        """A process of an earlier supervisor: it lives, and dials when the test says so."""
        worker = FakeWorker(self, name, generation, token, "good")
        worker.handle.pid = pid
        self.survivors[pid] = worker.handle
        self.workers[name, generation] = worker
        return worker

    async def until(self, condition: Callable[[], bool], timeout: float = 60.0) -> None:
        """Wait for a fact; the test fails when it does not come true."""
        assert await self.keeper.wait_until(condition, timeout), [
            repr(u.proxy) for u in self.keeper.units.values()
        ]

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events.since(0)]


async def _at_once(call: Callable[..., Any], *args: Any, **_: Any) -> Any:
    await trio.lowlevel.checkpoint()
    return call(*args)


def files_of(folder: Path) -> Paths:
    """All files of a user below one folder."""
    return Paths(folder / "run", folder / "state", folder / "config")
