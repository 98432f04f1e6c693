"""The worker's process: its nursery tree, its readiness, its three ways to end.

*Drain* (the supervisor asks) and *leave* (SIGTERM or SIGINT by hand) finish what is in flight up to the
grace and then end the rest in-band; a second signal ends the rest at once. The third way is to be killed.
"""

from __future__ import annotations

import faulthandler
import gc
import math
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import attrs
import trio

from . import handler, httpd
from .books import Books
from .contract import EXIT_CONFIG, EXIT_OK, Adjust, Beat, Bye, Drain, Health, Hello, Ready, WorkerSpec
from .journal import Journal
from .link import Ears, Link
from .stats import Stats
from .watch import Watch, first_of

BEAT_S = 2.0
STIR_S = 0.1
"""Under load news travel this often; without news there is a beat every BEAT_S."""
STIR_BURST = 20
"""So many news at once travel at once, so that `ps` is right for somebody who sends a request and looks."""
SPEC_LIMIT_S = 60.0
"""How long a newborn waits for a supervisor that tells it what to be."""
ORPHAN_LIMIT_S = 24 * 3600.0
ORPHAN_IDLE_S = 600.0
_ORPHAN_LOOK_S = 60.0
_CUT_TO_ABORT_S = 1.0
NEAR_LOOK_S = 30.0
"""How often a provider on this machine is looked at when nobody asks it for anything."""
FAR_LOOK_S = 300.0
"""The same for one elsewhere, which counts what it is asked."""
_REST_S = 1.0
"""At least so long between two looks: a provider that fails many requests is not to be asked after each."""

FULL = 529
"""What clients take for a full queue: they come again, and at last turn to a model of their own choice."""

EXIT_FAILED = 1


@attrs.frozen
class Birth:
    """What the supervisor told this process when it made it."""

    name: str
    generation: int
    token: str = attrs.field(repr=False)
    socket_path: str
    log_path: str | None = None
    ledger: str | None = None


class Worker:
    """One worker process from birth to exit code."""

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        *,
        birth: Birth | None = None,
        spec: WorkerSpec | None = None,
        ledger: str | None = None,
    ) -> None:
        self._listeners = list(listeners)
        self._birth = birth
        self._spec = spec
        self._journal = Journal(birth.log_path if birth else None)
        self._books = Books(ledger, log=self._journal) if ledger else None
        self._stats = Stats()
        self._told = trio.Event()
        self._ending = trio.Event()
        self._reason = ""
        self._grace_s: float | None = None
        self._turn = trio.Event()
        self._gone = trio.Event()
        self._stirred = trio.Event()
        self._handler: handler.Handler | None = None
        self._announced = trio.Event()
        self._ready_at = 0.0
        self._active_at = 0.0
        self._by_hand = False
        self._health_told: Health | None = None
        self._server: httpd.Server | None = None
        self._look = trio.Event()
        self._adjusted: Callable[[Adjust], None] = lambda _: None
        self._link = self._make_link(birth) if birth else None

    def _make_link(self, birth: Birth) -> Link:
        return Link(
            birth.socket_path,
            hello=self._hello,
            listeners=lambda: self._listeners,
            ears=Ears(self._on_spec, self._on_drain, self._journal.reopen, self._on_found, self._on_adjust),
            log=self._journal,
        )

    # --- what the supervisor says ----------------------------------------------------------------

    def _hello(self) -> Hello:
        assert self._birth is not None  # only a worker with a birth has a link
        return Hello(
            name=self._birth.name,
            generation=self._birth.generation,
            pid=os.getpid(),
            token=self._birth.token,
            spec=self._spec,
            serving=self._ready_at > 0,
            draining=self._ending.is_set(),
            started_at=self._ready_at,
            requests=self._stats.requests,
            in_flight=self._stats.in_flight,
            fallbacks=self._stats.fallbacks,
            beat=self._beat_now() if self._ready_at else None,
        )

    def _on_spec(self, spec: WorkerSpec) -> None:
        if self._spec is None:
            self._spec = spec
            self._told.set()

    def _on_drain(self, order: Drain) -> None:
        self._end(order.reason, order.grace_s)

    def _on_adjust(self, news: Adjust) -> None:
        known = self._spec
        if known is None or (news.quota, news.front) == (known.quota, known.front):
            return
        # The next supervisor learns it from our hello.
        self._spec = attrs.evolve(known, quota=news.quota, front=news.front)
        self._adjusted(news)
        if news.quota != known.quota:
            tokens = [token.name for token in news.quota.access.tokens]
            more = {"tokens": tokens, "token_required": news.quota.access.required}
            self._journal("info", "limits", **news.quota.limits(), **more)
        if news.front is not None and news.front != known.front:
            places = {place.name: place.url for place in news.front.places}
            self._journal("info", "leads", places=places, otherwise=news.front.otherwise)

    def _on_found(self) -> None:
        if self._health_told is not None:
            self._health_told = None  # by a hello nobody learns of it
            self._look.set()

    def _end(self, reason: str, grace_s: float | None) -> None:
        """Begin to end; asking again may only shorten the time."""
        shorter = grace_s is not None and (self._grace_s is None or grace_s < self._grace_s)
        if not self._ending.is_set():
            self._reason, self._grace_s = reason, grace_s
            self._ending.set()
        elif shorter:
            self._grace_s = grace_s
            self._turn.set()

    # --- life ------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Serve until told to end; the exit code."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._heed_signals)
            if self._link is not None:
                nursery.start_soon(self._link.run)
            code = await self._live()
            if self._link is not None:
                await self._link.say_last(self._beat_now(), Bye(self._reason, code))
            nursery.cancel_scope.cancel()
        return code

    async def _live(self) -> int:
        if self._spec is None and not await self._learn_spec():
            return EXIT_OK if self._ending.is_set() else EXIT_FAILED
        assert self._spec is not None  # learned above
        try:
            serving = handler.Handler(
                self._spec,
                stats=self._stats,
                log=self._journal,
                started_at=trio.current_time(),
                generation=self._birth.generation if self._birth else None,
                books=self._books,
            )
        except ValueError as error:
            self._journal("error", "configuration", detail=str(error))
            self._reason = str(error)
            return EXIT_CONFIG
        await self._serve(self._spec, serving)
        return EXIT_OK

    async def _learn_spec(self) -> bool:
        """Wait for the spec, or for the order not to live after all."""
        with trio.move_on_after(SPEC_LIMIT_S):
            await first_of(self._told.wait, self._ending.wait)
        return self._spec is not None and not self._ending.is_set()

    async def _serve(self, spec: WorkerSpec, serving: handler.Handler) -> None:
        server = httpd.Server(
            self._pulsing(serving),
            refuse=handler.refuse,
            limits=_limits(spec),
            full=FULL,
            log=self._journal.line,
        )
        self._server, self._handler = server, serving

        def adjusted(news: Adjust) -> None:
            serving.adjust(news.quota)
            serving.lead(news.front)
            server.limits = _limits(attrs.evolve(spec, quota=news.quota))

        self._adjusted = adjusted
        async with trio.open_nursery() as nursery:
            await nursery.start(self._run_server, server)
            self._ready_at = _wall_clock()
            self._journal("info", "ready", name=spec.name, port=spec.port, pid=os.getpid())
            if self._books is not None:
                nursery.start_soon(self._keep, self._books)
                nursery.start_soon(serving.keep_wills)
            nursery.start_soon(self._beat)
            nursery.start_soon(self._report_health, spec, serving.watch)
            nursery.start_soon(self._watch_for_orphanhood)
            await self._ending.wait()
            await self._drain(spec, server, serving)
            if self._books is not None:
                await self._books.close()
            nursery.cancel_scope.cancel()
        drops = {"drops": self._journal.drops, "ledger_drops": self._books.drops if self._books else 0}
        self._journal("info", "leaving", reason=self._reason, **drops)

    async def _keep(self, books: Books) -> None:
        """Its thread opens a database: `ready` does not wait for that."""
        await self._announced.wait()
        await books.run()

    async def _run_server(
        self, server: httpd.Server, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        await server.run(self._listeners, task_status=task_status)
        self._gone.set()
        self._turn.set()

    async def _drain(self, spec: WorkerSpec, server: httpd.Server, serving: handler.Handler) -> None:
        """Accept nothing more; at the deadline tell the rest; a moment later let go of those who don't listen."""
        began = trio.current_time()
        if self._grace_s is None:
            self._grace_s = spec.grace_s
        self._journal(
            "info", "draining", reason=self._reason, grace=self._grace_s, in_flight=server.in_flight
        )
        serving.draining = True
        server.drain()
        self._listeners = []
        if self._by_hand and self._link is not None:
            # At once, not at the end: the supervisor's copy of the listener is to be closed as well.
            await self._link.say_last(Bye(self._reason))
        self._stirred.set()
        while not self._gone.is_set() and (left := began + self._grace_s - trio.current_time()) > 0:
            self._turn = trio.Event()
            with trio.move_on_after(left):
                await self._turn.wait()
        serving.cut()
        with trio.move_on_after(_CUT_TO_ABORT_S):
            await self._gone.wait()
        server.abort()

    def _pulsing(self, serving: handler.Handler) -> httpd.Handler:
        """The handler, with a sign to the heartbeat around each request."""

        async def handle(exchange: httpd.Exchange) -> None:
            self._active_at = trio.current_time()
            self._stirred.set()
            try:
                await serving(exchange)
            finally:
                self._stirred.set()

        return handle

    async def _beat(self) -> None:
        """From the event loop itself, so that it proves the loop is alive."""
        if self._link is None:
            self._announced.set()
            return
        await self._link.say(Ready())
        self._announced.set()
        credit, last = float(STIR_BURST), trio.current_time()
        while True:
            planned = trio.current_time()
            with trio.move_on_after(BEAT_S):
                await self._stirred.wait()
            self._stirred = trio.Event()
            await self._link.say(self._beat_now(max(0.0, trio.current_time() - planned - BEAT_S)))
            now = trio.current_time()
            credit, last = min(STIR_BURST, credit + (now - last) / STIR_S) - 1, now
            if credit < 1:
                await trio.sleep(STIR_S)

    def _beat_now(self, lag_s: float = 0.0) -> Beat:
        return Beat(
            lag_s,
            requests=self._stats.requests,
            in_flight=self._stats.in_flight,
            failures=self._stats.failures,
            log_drops=self._journal.drops,
            ledger_drops=self._books.drops if self._books else 0,
            last_error=self._stats.last_error,
            oldest_s=self._stats.oldest_s(trio.current_time()),
            cost_usd=self._stats.cost_usd,
            unpriced=self._stats.unpriced,
            fallbacks=self._stats.fallbacks,
            accepted=self._server.accepted if self._server else None,
            starved=self._server.starved if self._server else None,
            waiting=self._handler.waiting if self._handler else 0,
            resting=self._handler.resting if self._handler else [],
        )

    async def _report_health(self, spec: WorkerSpec, watch: Watch) -> None:
        """Tell the supervisor how the far side is: when there is a reason to look, and every now and then.

        Not at the start: bringing a proxy up troubles no provider, and needs none.
        """
        interval = NEAR_LOOK_S if _is_near(spec.base_url) else FAR_LOOK_S
        again_s = math.inf
        while self._link is not None:
            with trio.move_on_after(min(interval, again_s)):
                await first_of(watch.doubted, self._look.wait)
            self._look = trio.Event()
            standing = await watch.look()
            again_s = standing.again_s
            health = Health(standing.is_well, standing.words)
            if health != self._health_told:
                self._health_told = health
                await self._link.say(health)
            await trio.sleep(_REST_S)

    async def _watch_for_orphanhood(self) -> None:
        """Nobody wants a worker that has been alone for a day and idle at its end."""
        while self._link is not None:
            await trio.sleep(_ORPHAN_LOOK_S)
            now = trio.current_time()
            alone_since = self._link.alone_since
            alone = alone_since is not None and now - alone_since > ORPHAN_LIMIT_S
            if alone and not self._stats.in_flight and now - self._active_at > ORPHAN_IDLE_S:
                self._end("no supervisor for a day", 0.0)

    async def _heed_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for signum in signals:
                if signum == signal.SIGHUP:  # a terminal that closes is not ours
                    continue
                again = self._ending.is_set()
                self._by_hand = self._by_hand or not again
                self._end(signal.Signals(signum).name, 0.0 if again else None)


def _is_near(base_url: str | None) -> bool:
    """On this machine, as far as the name tells."""
    host = urlsplit(base_url or "").hostname or "localhost"
    return host == "localhost" or host.endswith(".localhost") or host == "::1" or host.startswith("127.")


def _limits(spec: WorkerSpec) -> httpd.HttpLimits:
    limits = spec.limits
    return httpd.HttpLimits(
        max_body=spec.quota.max_body or limits.max_body,
        max_connections=limits.max_connections,
        head_timeout_s=limits.head_timeout_s,
        body_idle_timeout_s=limits.body_idle_timeout_s,
        keep_alive_s=limits.keep_alive_s,
        write_stall_timeout_s=limits.write_stall_timeout_s,
    )


def _wall_clock() -> float:
    return time.time()  # noqa: TID251  # for people and records only


def run(
    listeners: Sequence[socket.socket],
    *,
    birth: Birth | None = None,
    spec: WorkerSpec | None = None,
    ledger: str | None = None,
) -> int:
    """The whole life of the process."""
    faulthandler.enable()  # SIGABRT from the supervisor leaves every stack in the log
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)

    async def live() -> int:
        return await Worker(listeners, birth=birth, spec=spec, ledger=birth.ledger if birth else ledger).run()

    return trio.run(live)
