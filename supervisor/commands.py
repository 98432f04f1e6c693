"""What a person may ask of the fleet: up, down, restart. Each is a wish; the loop makes it true."""

from __future__ import annotations

import errno
import os
import secrets
import socket
import traceback
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import trio

from modelproxy.worker.contract import Quota, Target, WorkerSpec
from modelproxy.worker.model_ids import parted

from . import (
    access,
    aliases,
    fleet,
    fronts,
    kernel,
    keys,
    layers,
    logs,
    policy,
    quotas,
    routes,
    schema,
    sockets,
    tally,
    views,
)
from . import config as configuration
from .config import Config, ConfigError, ProxyOptions, checked_url
from .doors import Doors
from .facts import Care, Phase, Proxy, State
from .keeper import Keeper, port_trouble
from .paths import Paths
from .protocol import (
    DEFAULT_GRACE_S,
    MAX_GRACE_S,
    MAX_IDLE_STOP_S,
    MIN_MAX_RSS,
    DownRequest,
    Fault,
    Leased,
    ProxyView,
    RestartRequest,
    SetRequest,
    Stopped,
    UpRequest,
)
from .reading import not_utf8, placed
from .tally import Tally
from .upkeep import Unit

_PORT_HANDOVER_S = 5.0
"""How long a new proxy waits for a port that one of our own leaving workers still holds."""
_MEND = "mend it and say it again; what runs goes on by the last one that was good"
_SOONER_S = 1.0
"""A worker may have written something before somebody waited for it."""
_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}


@attrs.frozen
class _Wished:
    """What `up` has found or made."""

    unit: Unit
    reused: bool
    order: int
    notes: list[str]
    before: int = 0
    """A worker up to this generation knows nothing of the wish."""


@attrs.frozen
class _Order:
    """What was asked for, resolved: the order for a worker, all but its name and port."""

    spec: WorkerSpec
    route: routes.Route
    care: Care
    """What the configuration says of it."""
    port: int | None
    """The one that was said, by flag or in the configuration."""
    default_port: int
    notes: list[str] = attrs.Factory(list)


class Commands:
    def __init__(self, keeper: Keeper, paths: Paths, log: Callable[[str], None]) -> None:
        self._keeper = keeper
        self._paths = paths
        self._log = log
        # A key command may take its time; it is not to keep others from the threads they need.
        self._key_threads = trio.CapacityLimiter(8)
        self.doors = Doors(keeper, self._wish)
        self.closing = False
        """The supervisor is going down: nothing new is taken."""
        self.leaving = False
        """The next one takes over: who hangs up now is made to, and wants nothing to end."""

    # --- reading ---------------------------------------------------------------------------------

    def rows(self, *, stopped: bool = False) -> list[ProxyView]:
        led = self.doors.led_to()
        return [
            self._row(unit, led)
            for unit in self._keeper.units.values()
            if stopped or unit.proxy.state is not State.STOPPED
        ]

    def row(self, unit: Unit, *, reused: bool = False, notes: list[str] | None = None) -> ProxyView:
        return attrs.evolve(self._row(unit, self.doors.led_to()), reused=reused, notes=notes or [])

    def _row(self, unit: Unit, led: dict[str, list[str]]) -> ProxyView:
        proxy, now, tallies = unit.proxy, self._keeper.now(), unit.tallies()
        current = proxy.current
        started_at = (
            tallies[current.generation].ready_at if current and current.generation in tallies else None
        )
        queues = [waiting for one in unit.listeners if (waiting := kernel.accept_queue(one)) is not None]
        sums = tally.total([unit.past, *tallies.values()])
        since = views.since(proxy)

        def epoch(at: float) -> float:
            return round(kernel.wall_clock() - (now - at), 3)

        return ProxyView(
            name=proxy.name,
            model=proxy.spec.model_id,
            provider=proxy.spec.provider,
            port=proxy.spec.port,
            pid=proxy.pid,
            url=f"http://127.0.0.1:{proxy.spec.port}",
            state=str(proxy.state),
            reused=False,
            health=views.health(proxy),
            uptime_s=round(now - current.since, 1) if current else None,
            requests=sums.requests,
            in_flight=sums.in_flight,
            restarts=proxy.restarts,
            fallbacks=sums.fallbacks,
            last_error=proxy.trouble or next((t.last_error for t in tallies.values() if t.last_error), None),
            base_url=proxy.spec.base_url,
            started_at=started_at,
            generation=current.generation if current else proxy.generation,
            wanted=proxy.wanted,
            detail=views.describe(proxy, now, tallies),
            draining=[
                {
                    "generation": worker.generation,
                    "pid": worker.pid,
                    "in_flight": tallies.get(worker.generation, Tally()).in_flight,
                }
                for worker in proxy.draining
            ],
            deaths=views.deaths(proxy, epoch),
            queue=sum(queues) if queues else None,
            rss=kernel.rss(proxy.pid) if proxy.pid is not None else None,
            lazy=proxy.care.lazy,
            idle_stop_s=proxy.care.idle_stop_s,
            max_rss=proxy.care.max_rss,
            fallback=[target.model_id for target in proxy.spec.fallback],
            limits=proxy.spec.quota.limits(),
            tokens=[token.name for token in proxy.spec.quota.access.tokens],
            token_required=proxy.spec.quota.access.required,
            log=str(self._paths.log_file(proxy.name)),
            notes=[],
            since=None if since is None else epoch(since),
            next=views.forecast(proxy, now),
            command=views.remedy(proxy, now),
            failures=sums.failures,
            cost_usd=sums.cost,
            unpriced_requests=sums.unpriced,
            waiting=sums.waiting,
            resting=list(sums.resting),
            log_drops=sums.log_drops,
            ledger_drops=sums.ledger_drops,
            workers=views.workers(proxy, now, tallies, epoch),
            targets=self.doors.shown(proxy),
            otherwise=self.doors.otherwise(proxy),
            leases=len(unit.leases),
            fronts=led.get(proxy.name, []),
            kept=unit.kept,
        )

    async def about(self, target: str) -> ProxyView:
        """The row of one proxy, with who has its port if it is wanted and cannot have it."""
        unit = await self.meant(target)
        holder = None
        if unit.proxy.is_up and not unit.listeners:
            found = await trio.to_thread.run_sync(kernel.port_holder, unit.proxy.spec.port)
            holder = f"{found.command} (pid {found.pid})" if found else None
        return attrs.evolve(self.row(unit), port_holder=holder)

    def find(self, target: str, *, stopped: bool) -> list[Unit]:
        """By name, model id, port or pid; `all` is every one. Empty when there is none."""
        units = [
            unit for unit in self._keeper.units.values() if stopped or unit.proxy.state is not State.STOPPED
        ]
        if target == "all":
            return units
        by_name = [unit for unit in units if unit.proxy.name == target]
        return by_name or [unit for unit in units if _means(unit.proxy, target)]

    async def meant(self, target: str) -> Unit:
        """The one proxy that a command is about."""
        return self.find_one(await self._meant(target))

    async def _meant(self, target: str) -> str:
        """Where nothing of ours is called so, an alias is as good as its model, and so is a model's own name."""
        if target == "all" or self.find(target, stopped=True):
            return target
        try:
            config = await trio.to_thread.run_sync(self.read_config)
        except Fault:
            return self._called(target)
        if target in config.proxies or target in fronts.tables(config):
            raise _not_up(target, target)  # what `up` means by it is not there, and nothing else is meant
        if aliases.is_reserved(target):
            return target
        return aliases.find(target, config.aliases) or self._called(target)

    def _called(self, target: str) -> str:
        """Behind its provider's name, and one model only: a command must not choose whom it ends."""
        models: dict[str, bool] = {}
        for unit in self._keeper.units.values():
            model_id, is_up = unit.proxy.spec.model_id, unit.proxy.state is not State.STOPPED
            models[model_id] = models.get(model_id, False) or is_up
        meant = aliases.called(target, models)
        if len(meant) > 1:
            hint = f"say which one, for example {meant[0]}"
            raise Fault("ambiguous_name", f'"{target}" may be {aliases.either(meant)}', hint)
        return meant[0] if meant else target

    def find_one(self, target: str) -> Unit:
        found = self.find(target, stopped=False) or self._last_stopped(target)
        if not found or target == "all":
            raise self._unknown(target)
        return found[0]

    def _last_stopped(self, target: str) -> list[Unit]:
        """Of several that had a port one after another, the last one is meant."""
        found = self.find(target, stopped=True)
        return [max(found, key=lambda unit: unit.proxy.state_since)] if found else []

    def _unknown(self, target: str) -> Fault:
        known_of = self._last_stopped(target) if target != "all" else []
        if known_of:
            return _not_up(known_of[0].proxy.name, known_of[0].proxy.said)
        names = sorted(unit.proxy.name for unit in self._keeper.units.values() if unit.proxy.wanted)
        known = f"running: {', '.join(names)}" if names else "no proxy is running; proxyctl up provider/model"
        return Fault("unknown_proxy", f'there is no proxy "{target[:200]}"', known)

    # --- up --------------------------------------------------------------------------------------

    async def up(self, request: UpRequest) -> ProxyView:
        _check(request)
        wished = await self._wish(request)
        unit = wished.unit
        if not request.wait:
            return self.row(unit, reused=wished.reused, notes=wished.notes)
        await self._wait_ready(unit, wished.order, request.wait_s)
        self._refuse_a_failed_roll(unit, wished.before)
        return self.row(unit, reused=wished.reused, notes=wished.notes)

    async def seek_keys(self) -> None:
        """Ask the configuration for the secrets that an earlier supervisor had from it; none is on disk."""
        await self._seek([unit for unit in self._keeper.units.values() if unit.proxy.key_sought])

    async def seek_again(self) -> list[Unit]:
        """The same for what was sought in vain, as the configuration has changed; those that have it now."""
        units = [unit for unit in self._keeper.units.values() if unit.proxy.key_unfound is not None]
        await self._seek(units)
        return [unit for unit in units if not unit.proxy.key_lost]

    async def _seek(self, units: list[Unit]) -> None:
        async with trio.open_nursery() as nursery:
            for unit in units:
                nursery.start_soon(self._seek_key, unit)

    async def _seek_key(self, unit: Unit) -> None:
        proxy = unit.proxy
        # Its worker, if that lives, brings what it serves with: no password store need be opened for that,
        # a shell's variable goes before the configuration, and what was edited meanwhile is another matter.
        await self._keeper.wait_until(lambda: not _is_awaited(unit.proxy), 2 * policy.ADOPT_WINDOW_S)
        if not unit.proxy.awaits_configuration:
            return
        try:
            found = fleet.KeySought(await self._with_secrets(proxy.spec))
        except Fault as fault:
            found = fleet.KeySought(None, _in_vain(fault, proxy))
        except Exception as error:  # whatever a user's key command leads to: one proxy's trouble
            found = fleet.KeySought(None, f"its key cannot be fetched: {type(error).__name__}")
            self._log(f"{proxy.name}: internal error\n{traceback.format_exc()}")
        await self._keeper.ask(lambda: self._take_sought(unit, found), refusable=False)

    def _take_sought(self, unit: Unit, found: fleet.KeySought) -> None:
        """Inside the loop, unless it has been forgotten meanwhile."""
        if self._keeper.units.get(unit.proxy.name) is not unit:
            return
        if unit.proxy.key_sought:  # else a worker has brought it, or a person said it anew
            unit.key_given = unit.key_of_shell = False
        self._keeper.apply(unit, found)

    async def _with_secrets(self, spec: WorkerSpec) -> WorkerSpec:
        """With the keys and headers that the configuration says now."""
        config = await trio.to_thread.run_sync(self.read_config)
        found: list[Any] = []
        for place in spec.places:
            route = _route_of(place, config)
            key = None if place.kind == fronts.KIND else await self.key_of(route)
            headers = route.provider.options.headers
            for name in place.options.headers.keys() - headers.keys():
                self._log(f"{spec.name}: {place.provider} has no header {name} any more; it is not sent")
            options = attrs.evolve(place.options, headers=headers)
            found.append(attrs.evolve(place, api_key=key, options=options))
        own: WorkerSpec = attrs.evolve(found[0], fallback=found[1:])
        return own

    async def _wish(self, request: UpRequest) -> _Wished:
        """Put the wish on record. What was made for a front that cannot be had goes again with its lease."""
        making = secrets.token_hex(8)
        try:
            return await self._placed(request, making)
        finally:
            held = any(making in unit.leases for unit in self._keeper.units.values())
            if held and not (self.closing or self.leaving):
                await self._keeper.ask(lambda: self.doors.let_go(making), refusable=False)

    async def _placed(self, request: UpRequest, making: str) -> _Wished:
        """A port that a leaving worker of ours still holds is waited for."""
        order = await self._resolve(request, making)
        deadline = trio.current_time() + _PORT_HANDOVER_S
        while True:
            self.refuse_when_closing()
            try:
                return await self._keeper.ask(lambda: self._place(request, order))
            except sockets.PortInUseError as error:
                leaving = self._leaving_on(error.port)
                if leaving is None or trio.current_time() > deadline:
                    raise await self._port_fault(error.port) from None
                await self._keeper.wait_until(lambda unit=leaving: not unit.proxy.workers, 0.02)  # type: ignore[misc]
            except OSError as error:
                if error.errno in _NO_ROOM:
                    raise _no_room(error) from None
                raise Fault(
                    "port_in_use", f"cannot listen on port {request.port}: {error.strerror}"
                ) from None

    async def _resolve(self, request: UpRequest, making: str) -> _Order:
        """The configuration is read anew each time, so that an edit needs no ceremony."""
        config = await trio.to_thread.run_sync(self.read_config, request.overlay)
        table = fronts.table_of(request.model, config)
        if table is not None:
            return await self._resolve_front(attrs.evolve(request, lease=making), table, config)
        route = self._route(request.model, config)
        options = route.options
        targets = self._targets(request, route, config)
        allowed = access.to(route.proxy or route.model_id, route.model_id, config)
        key = request.api_key or await self._key_for(request, route)
        return _Order(
            spec=attrs.evolve(
                routes.spec(route),
                base_url=(request.base_url or route.base_url or "").rstrip("/") or None,
                api_key=key,
                grace_s=_first(request.grace_s, options.grace_s, DEFAULT_GRACE_S),
                fallback=[await self._target(request, route, one) for one in targets],
                quota=quotas.granted(request, quotas.granted(options, Quota(access=allowed))),
            ),
            route=route,
            care=_care(options, Care()),
            port=options.port if request.port is None else request.port,
            default_port=config.default_port,
            notes=[] if key else await self._without_key(route),
        )

    async def _without_key(self, route: routes.Route) -> list[str]:
        """What to say where a file of keys is spoilt that has none for this one, as far as can be seen."""
        if route.base_url is None:
            return []
        try:
            await trio.to_thread.run_sync(keys.kept, self._paths.keys_file)
        except keys.SpoiltError as error:
            return [f"{error}; {route.name} does not stand there, and goes without a key"]
        return []

    def _targets(self, request: UpRequest, route: routes.Route, config: Config) -> list[routes.Route]:
        texts = self._wanted_targets(request, route) or ()
        for text in texts:
            if fronts.table_of(text, config) is not None:
                hint = "name a model id, an alias or a proxy, or anthropic: the caller's own request"
                raise Fault("bad_model_id", f'"{text}" is a front, and nothing falls back to one', hint)
        return routes.targets(route, texts, config, is_elsewhere=request.base_url is not None)

    def _wanted_targets(self, request: UpRequest, route: routes.Route) -> list[str] | None:
        """Those that were said; a proxy that has lost their keys with its own gets the same ones anew."""
        if request.fallback is not None:
            return request.fallback
        running = self._running(request, route)
        if running is not None and running.proxy.key_lost:
            return [target.model_id for target in running.proxy.spec.fallback]
        return route.options.fallback

    async def _resolve_front(self, request: UpRequest, table: str, config: Config) -> _Order:
        spec, route, notes = await self.doors.resolve(request, table, config)
        spec = attrs.evolve(
            spec,
            grace_s=_first(request.grace_s, DEFAULT_GRACE_S),
            quota=quotas.granted(request, Quota(access=access.to(spec.name, spec.model_id, config))),
        )
        said = config.front.get(table, configuration.Front())
        port = said.port if request.port is None else request.port
        return _Order(spec, route, Care(), port, config.default_port, notes)

    def _route(self, name: str, config: Config) -> routes.Route:
        try:
            return routes.resolve(name, config)
        except Fault as fault:
            if fault.code != "unsupported_provider":
                raise
            if aliases.no_profile(parted(name)[0], config.providers) is not None:
                raise  # its hint says all
            hint = f"{fault.hint}; others come from a table [providers.NAME] in {self._paths.config_file}"
            raise attrs.evolve(fault, hint=hint) from None

    async def _target(self, request: UpRequest, primary: routes.Route, route: routes.Route) -> Target:
        """Where requests may go besides. Its key is found as the primary's is."""
        given = request.api_key if primary.name == route.name else None
        known = self._running_target_key(request, primary, route.model_id)
        if given is None and (known is None or request.replace):
            given = self._callers_key(request, route)
        key = given or await self.configured_key(route)
        if key is None and known is None and route.provider.needs_key:
            raise self._missing_key(route)
        if given is None and not request.replace:
            key = known or key
        return attrs.evolve(routes.target(route), api_key=key or known)

    def read_config(self, overlay: dict[str, Any] | None = None) -> Config:
        """The user's file, with what a caller says over it. A Fault names every problem."""
        where = self._paths.config_file
        try:
            text = where.read_text(encoding="utf-8")
        except FileNotFoundError:
            text = ""
        except UnicodeDecodeError as error:
            raise Fault("bad_config", placed(where, not_utf8(error)), _MEND) from None
        except OSError as error:
            raise Fault("bad_config", f"{where} cannot be read: {error.strerror}") from None
        try:
            config = configuration.parse(text)
            if not overlay:
                return config
        except ConfigError as error:
            raise Fault("bad_config", error.told(where), _MEND) from None
        try:
            return configuration.build(layers.merged(configuration.load(text), overlay))
        except ConfigError as error:
            raise Fault(
                "bad_config", error.told("the project's file"), "proxyctl config validate tells the lines"
            ) from None

    async def _key_for(self, request: UpRequest, route: routes.Route) -> str | None:
        """The variable's or the configured key; refused before anything runs when there must be one and is none.

        A proxy that runs keeps the key it has, unless it is to be replaced: silence takes nothing back.
        """
        if not self._keeps_key(request, route) and (theirs := self._callers_key(request, route)) is not None:
            return theirs
        key = await self.configured_key(route)
        running = self._running_key(route)
        if key is None and running is None and route.provider.needs_key:
            raise self._missing_key(route)
        return key or running if request.replace else running or key

    def _keeps_key(self, request: UpRequest, route: routes.Route) -> bool:
        """Whether it runs with a key already, or will with one that was given to the same model by flag."""
        meant = self._running(request, route)
        return not request.replace and any(
            unit.proxy.wanted and _is_of(unit.proxy, route) and unit.proxy.spec.api_key is not None
            for unit in self._keeper.units.values()
            if unit is meant or (unit.key_given and not unit.key_of_shell)
        )

    def _callers_key(self, request: UpRequest, route: routes.Route) -> str | None:
        """What the caller's shell has in the variable that is not set here; a Fault asks for it.

        So it goes before what the file and `keys set` say, as it does in the shell that starts the supervisor.
        """
        variable = route.provider.key.env
        asked = route.name in request.fallback_keys or request.lacks is None or variable in request.lacks
        if variable is not None and not asked and not os.environ.get(variable):
            raise self._missing_key(route)
        return request.fallback_keys.get(route.name)

    async def key_of(self, route: routes.Route) -> str | None:
        """The configured key; a Fault when there must be one and there is none."""
        key = await self.configured_key(route)
        if key is None and route.provider.needs_key:
            raise self._missing_key(route)
        return key

    async def configured_key(self, route: routes.Route) -> str | None:
        """What the configuration and `keys set` say, fetched now; None: nothing."""
        try:
            key = await trio.to_thread.run_sync(keys.fetch, route.provider.key, limiter=self._key_threads)
            if key is None and route.base_url is not None:  # else there is nobody to send it to
                look = partial(
                    keys.stored, self._paths.keys_file, route.name, needed=route.provider.needs_key
                )
                key = await trio.to_thread.run_sync(look)
        except keys.KeyUnavailableError as error:
            what, helps = error.told(route.name)
            raise Fault("missing_api_key", f"{route.name}: {what}", helps) from None
        return key

    def _missing_key(self, route: routes.Route) -> Fault:
        words = f"{route.name} needs an API key"
        return Fault("missing_api_key", words, self._key_hint(route), route.provider.key.env, route.name)

    def _running_key(self, route: routes.Route) -> str | None:
        """A key that was given by flag stays with the proxy until it is taken down."""
        for unit in self._keeper.units.values():
            if unit.proxy.wanted and _is_of(unit.proxy, route) and unit.proxy.spec.api_key:
                return unit.proxy.spec.api_key
        return None

    def _running_target_key(self, request: UpRequest, route: routes.Route, model_id: str) -> str | None:
        running = self._running(request, route)
        targets = running.proxy.spec.fallback if running else []
        return next((target.api_key for target in targets if target.model_id == model_id), None)

    def _key_hint(self, route: routes.Route) -> str:
        variable = f"set {route.provider.key.env}, or " if route.provider.key.env else ""
        return (
            f"{variable}say proxyctl keys set {route.name}, or give --api-key, "
            f"or api_key_env under [{schema.dotted(schema.provider_path(route.name))}] in {self._paths.config_file}"
        )

    def _place(self, request: UpRequest, order: _Order) -> _Wished:
        """Inside the loop: reuse what runs, change it, or make it."""
        running = self._running(request, order.route)
        wished = self._make(request, order) if running is None else self._reuse(running, request, order)
        unit = wished.unit
        if request.lease is None:
            unit.kept = True
        else:
            unit.kept = unit.kept and running is not None
            unit.leases.add(request.lease)
        return wished

    def _make(self, request: UpRequest, order: _Order) -> _Wished:
        port, listeners, notes = self._listen(order)
        name = self._name_for(order.route, port)
        spec = self.doors.addressed(attrs.evolve(order.spec, name=name, port=port))
        unit = self._keeper.units.get(name) or self._keeper.create(Proxy(name, spec))
        unit.listeners = listeners
        unit.pid_file, unit.key_given = request.pid_file, _gives_key(request)
        unit.key_of_shell = _of_shell(request)
        unit.address_given = request.base_url is not None
        self._keeper.apply(unit, fleet.Up(spec, _care(request, order.care)))
        self.doors.tell()
        return _Wished(unit, False, unit.proxy.order, [*order.notes, *notes])

    def _running(self, request: UpRequest, route: routes.Route) -> Unit | None:
        for unit in self._keeper.units.values():
            proxy = unit.proxy
            if not proxy.wanted or not _is_of(proxy, route):
                continue
            # 0: any port will do, so this one does. A named proxy is one, whatever its port.
            if not request.port or request.port == proxy.spec.port:
                return unit
        return None

    def _reuse(self, unit: Unit, request: UpRequest, order: _Order) -> _Wished:
        """What was not said stays as it is: a flag of an earlier `up` is not taken back by silence."""
        spec = unit.proxy.spec
        said = order.route.options if request.replace else ProxyOptions()
        lost = unit.proxy.key_lost
        # An address that came with `up` is to stay as well, and any other is the configuration's.
        moves = request.base_url is not None or (request.replace and not unit.address_given)
        fallback_said = request.fallback is not None or said.fallback is not None or lost
        wanted = attrs.evolve(
            order.spec,
            name=spec.name,
            port=spec.port,
            base_url=order.spec.base_url if moves else spec.base_url,
            grace_s=_first(request.grace_s, said.grace_s, spec.grace_s),
            fallback=order.spec.fallback if fallback_said else spec.fallback,
            quota=quotas.granted(request, quotas.granted(said, spec.quota)),
        )
        wanted = self.doors.addressed(wanted)
        # A front's rules are the configuration's: who says `up` again wants them as they are now.
        asked = attrs.evolve(wanted, front=spec.front)
        runs = spec.without_secrets() if lost else spec
        asked = asked.without_secrets() if lost else asked
        if asked != runs and not request.replace:
            changed = ", ".join(
                "limits" if field.name == "quota" else field.name
                for field in attrs.fields(WorkerSpec)
                if getattr(asked, field.name) != getattr(runs, field.name)
            )
            # Of several proxies of a model only the port tells which one is meant.
            at = f" --port {spec.port}" if request.port else ""
            raise Fault(
                "options_differ",
                f"{unit.proxy.name} already runs on port {spec.port} with other options ({changed})",
                f"say it again with --replace to roll it to the new ones (proxyctl up {request.model}{at} "
                "--replace …), or choose another --port",
            )
        if request.pid_file is not None:
            unit.pid_file = request.pid_file
        unit.address_given = unit.address_given or request.base_url is not None
        self._note_source(unit, request, wanted)
        # Other limits need no other worker, nor do other rules.
        same = attrs.evolve(wanted, quota=spec.quota, front=spec.front) == spec
        before = 0 if same else unit.proxy.generation
        self._keeper.apply(unit, fleet.Up(wanted, _care(request, _care(said, unit.proxy.care))))
        return _Wished(unit, wanted == spec, unit.proxy.order, list(order.notes), before)

    def _note_source(self, unit: Unit, request: UpRequest, wanted: WorkerSpec) -> None:
        """Whether its keys are given ones, after this; what a shell has counts only where it was asked for."""
        renewed = request.replace or unit.proxy.key_lost
        if request.api_key is not None or (renewed and _gives_key(request)):
            unit.key_given, unit.key_of_shell = True, _of_shell(request)
        elif renewed:
            unit.key_given = unit.key_given and wanted.keys == unit.proxy.spec.keys

    def _listen(self, order: _Order) -> tuple[int, list[socket.socket], list[str]]:
        """The port of a new proxy, bound. The usual one gives way to ours, never to a stranger."""
        if order.port is not None:
            self._refuse_our_port(order.port)
            listeners = self._keeper.bind(order.port)
            return listeners[0].getsockname()[1], listeners, []
        usual, last = order.default_port, min(order.default_port + 999, 65535)
        ours = {
            unit.proxy.spec.port: unit.proxy.name for unit in self._keeper.units.values() if unit.proxy.wanted
        }
        if usual not in ours:
            return usual, self._keeper.bind(usual), []
        for port in range(usual + 1, last + 1):
            if port in ours:
                continue
            try:
                listeners = self._keeper.bind(port)
            except sockets.PortInUseError:
                continue
            return port, listeners, [f"port {usual} is used by {ours[usual]}; took {port}"]
        raise Fault("port_in_use", f"no free port from {usual} to {last}", "try --port 0")

    def _refuse_our_port(self, port: int) -> None:
        for unit in self._keeper.units.values():
            proxy = unit.proxy
            if port and proxy.wanted and proxy.spec.port == port:
                raise Fault(
                    "port_in_use",
                    f"Port {port} is already in use by proxy {proxy.name} "
                    f"({proxy.state}, pid {proxy.pid or '-'})",
                    f"proxyctl down {proxy.name}, or choose another --port (0 takes any free one)",
                )

    def _name_for(self, route: routes.Route, port: int) -> str:
        """A model's first proxy is called like the model; a second one carries its port."""
        name = route.proxy or route.model_id
        unit = self._keeper.units.get(name)
        return name if unit is None or not unit.proxy.wanted else f"{name}@{port}"

    def _leaving_on(self, port: int) -> Unit | None:
        return next(
            (
                unit
                for unit in self._keeper.units.values()
                if not unit.proxy.wanted and unit.proxy.workers and unit.proxy.spec.port == port
            ),
            None,
        )

    async def _port_fault(self, port: int) -> Fault:
        hint = "stop that program, or choose another --port (0 takes any free one)"
        return Fault("port_in_use", await port_trouble(port), hint)

    async def _wait_ready(self, unit: Unit, order: int, timeout: float) -> None:
        """Until a worker of at least this order answers; a Fault says why none will."""

        def decided() -> bool:
            proxy = unit.proxy
            current = proxy.current
            fresh = current is not None and current.order >= order
            idle = proxy.is_up and proxy.idle_since is not None
            return fresh or idle or proxy.given_up is not None or not proxy.is_up

        began = kernel.wall_clock()
        in_time = await self._keeper.wait_until(decided, timeout)
        proxy = unit.proxy
        if proxy.given_up is not None and proxy.is_up:
            raise Fault("start_failed", f"{proxy.name} failed: {proxy.given_up}", self._last_words(proxy))
        if not proxy.is_up:
            raise Fault("superseded", f"{proxy.name} was taken down before it was ready")
        if not in_time:
            detail = views.describe(proxy, self._keeper.now(), unit.tallies())
            still = "; it goes on trying" if unit.kept else ""
            words = f"{proxy.name} is not ready after {timeout:g} s ({detail}){still}"
            raise Fault("not_ready_in_time", words, self._last_words(proxy, began - _SOONER_S))

    def _refuse_a_failed_roll(self, unit: Unit, before: int) -> None:
        """After a roll that failed the old worker counts as good enough, for the fleet but not for its user."""
        proxy = unit.proxy
        if proxy.current is not None and proxy.current.generation <= before:
            raise Fault("start_failed", f"{proxy.name}: {proxy.trouble}", self._last_words(proxy))

    def _last_words(self, proxy: Proxy, since: float | None = None) -> str:
        """The end of its log; `since` a moment, for what an earlier worker wrote says nothing of this one."""
        lines = logs.tail(self._paths.log_file(proxy.name), 3)
        if since is not None:
            lines = logs.fresh(lines, since)
        said = f"its log ends: {' | '.join(line.strip() for line in lines)[:400]}; " if lines else ""
        return f"{said}see proxyctl logs {proxy.name}"

    # --- leases ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def lease(self, request: UpRequest, *, again: bool) -> AsyncGenerator[Leased]:
        """Hold a proxy for as long as the block lasts, and bring it up for that if it is not.

        `again`: one that somebody has taken down in the meantime stays down. Only a caller who leaves ends a
        lease: in a supervisor that leaves it is to be told to the next one, who knows what was held.
        """
        name = secrets.token_hex(8)
        try:
            if again:
                await self._keeper.ask(lambda: self._hold_again(request.model, name), refusable=False)
                yield Leased(name, self.row(self.find_one(request.model), reused=True))
            else:
                yield Leased(name, await self.up(attrs.evolve(request, lease=name)))
        finally:
            if not (self.closing or self.leaving):
                # Queued at once, whatever has been cancelled: what comes up for this lease is queued before it.
                await self._keeper.ask(lambda: self.doors.let_go(name), refusable=False)

    def _hold_again(self, target: str, lease: str) -> None:
        found = [unit for unit in self.find(target, stopped=False) if unit.proxy.wanted]
        if not found:
            raise self._unknown(target)
        for unit in found[:1]:
            unit.leases.add(lease)

    async def end_lease(self, lease: str) -> list[Stopped]:
        """The same at its holder's word, who then hears when all is over."""
        if not any(lease in unit.leases for unit in self._keeper.units.values()):
            raise Fault("unknown_lease", f'there is no lease "{lease[:100]}"', "it may have ended already")
        gone = await self._keeper.ask(lambda: self.doors.let_go(lease), refusable=False)
        return await self._ended([(unit, False) for unit in gone], None)

    async def forget_leases(self) -> None:
        """Who held a lease of an earlier supervisor's has had the time to say so again."""
        # Fronts that an earlier supervisor was told to take down, and did not see to their end.
        leaving = [
            unit for unit in self._keeper.units.values() if unit.proxy.spec.front and not _is_over(unit)
        ]
        if not all(unit.kept for unit in self._keeper.units.values()):
            await trio.sleep(policy.LEASE_PATIENCE_S)

        def forget() -> None:
            self.doors.awaits_holders = False
            for unit in self.doors.release(self._keeper.units.values()):
                self._log(f"{unit.proxy.name}: nobody holds it any more")

        await self._keeper.ask(forget, refusable=False)
        await self._keeper.wait_until(lambda: all(map(_is_over, leaving)), MAX_GRACE_S)
        await self._keeper.ask(lambda: self.doors.release_behind(leaving, None), refusable=False)

    # --- down and restart ------------------------------------------------------------------------

    async def down(self, target: str, request: DownRequest) -> list[Stopped]:
        check_grace(request.grace_s)
        target = await self._meant(target)
        stopped = await self._keeper.ask(lambda: self._unwish(target, request))
        if not stopped and target != "all":
            raise self._unknown(target)
        gone: list[Unit] = []
        try:
            ended = await self._ended(stopped, request.grace_s)
        finally:  # behind the front's own last requests; at once when nobody waits for them any more
            if not (self.closing or self.leaving):
                doors = [unit for unit, _ in stopped]
                gone = await self._keeper.ask(
                    lambda: self.doors.release_behind(doors, request.grace_s), refusable=False
                )
        also = [one.name for one in await self._ended([(unit, False) for unit in gone], request.grace_s)]
        return [attrs.evolve(one, also=also if number == 0 else []) for number, one in enumerate(ended)]

    async def _ended(self, stopped: list[tuple[Unit, bool]], grace_s: float | None) -> list[Stopped]:
        """Wait until they are."""
        longest = max((unit.proxy.spec.grace_s for unit, _ in stopped), default=0.0)
        limit = (grace_s if grace_s is not None else longest) + policy.DRAIN_TO_KILL_S + 10
        for unit, _ in stopped:
            await self._keeper.wait_until(lambda unit=unit: _is_over(unit), limit)  # type: ignore[misc]
        await self._keeper.custody.settled()  # so that the port is free when this returns
        return [
            Stopped(unit.proxy.name, unit.proxy.spec.port, already="stopped" if already else None)
            for unit, already in stopped
        ]

    def _unwish(self, target: str, request: DownRequest) -> list[tuple[Unit, bool]]:
        found = self.find(target, stopped=False)
        if not found and target != "all":
            found = self._last_stopped(target)
        answer = []
        for unit in found:
            answer.append((unit, unit.proxy.state is State.STOPPED))
            grace = request.grace_s if request.grace_s is not None else unit.proxy.spec.grace_s
            self._keeper.apply(unit, fleet.Down(grace))
        self.doors.tell()
        return answer

    async def restart(self, target: str, request: RestartRequest) -> list[ProxyView]:
        check_grace(request.grace_s)
        _check_wait(request.wait_s)
        self.refuse_when_closing()
        target = await self._meant(target)
        renewed = await self._keeper.ask(lambda: self._renew(target, request))
        if not renewed and target != "all":
            raise self._unknown(target)
        for unit, order, before in renewed:
            await self._wait_ready(unit, order, request.wait_s)
            self._refuse_a_failed_roll(unit, before)
        return [self.row(unit) for unit, _, _ in renewed]

    def _renew(self, target: str, request: RestartRequest) -> list[tuple[Unit, int, int]]:
        answer = []
        for unit in self.find(target, stopped=False):
            if not unit.proxy.wanted:
                continue
            before = unit.proxy.generation
            if any(worker.phase is Phase.STARTING for worker in unit.proxy.workers):
                before -= 1  # the one that is being started now is fresh enough if the roll after it fails
            self._keeper.apply(unit, fleet.Restart(request.grace_s))
            answer.append((unit, unit.proxy.order, before))
        return answer

    async def set(self, target: str, request: SetRequest) -> list[ProxyView]:
        """Other limits for what serves, without a new worker."""
        quotas.check(request)
        self.refuse_when_closing()
        target = await self._meant(target)
        limited = await self._keeper.ask(lambda: self._limit(target, request))
        if not limited and target != "all":
            raise self._unknown(target)
        return [self.row(unit) for unit in limited]

    def _limit(self, target: str, request: SetRequest) -> list[Unit]:
        found = [unit for unit in self.find(target, stopped=False) if unit.proxy.wanted]
        for unit in found:
            self._keeper.apply(unit, fleet.Limited(quotas.granted(request, unit.proxy.spec.quota)))
        return found

    def refuse_when_closing(self) -> None:
        if self.closing:
            raise Fault("stopping", "the supervisor is stopping", "wait for it, then proxyctl daemon start")


def _route_of(place: WorkerSpec | Target, config: Config) -> routes.Route:
    if place.kind == fronts.KIND:
        return fronts.route(fronts.table_of(place.model_id, config) or fronts.DEFAULT, config)
    return routes.resolve_target(place.model_id, config)


def _in_vain(fault: Fault, proxy: Proxy) -> str:
    """Why what it needs is not to be had, and what helps."""
    first = fault.message.partition("\n")[0]  # of a file with several mistakes
    if fault.code == "bad_config":
        why = f"what it needs stands in the configuration: {first}"
        return f"{why}; it starts when that is mended (proxyctl config validate)"
    return f"{first}: {fault.hint}; then proxyctl up {proxy.said}"


def _not_up(name: str, said: str) -> Fault:
    return Fault("unknown_proxy", f"{name} is not up", f"proxyctl up {said}")


def _first(*values: float | None) -> float:
    """The first that was said; the last one always is."""
    return next(value for value in values if value is not None)


def _is_of(proxy: Proxy, route: routes.Route) -> bool:
    """A proxy with a name of its own stands for itself, and not for every `up` of its model."""
    own_name = None if "/" in proxy.name else proxy.name.partition("@")[0]
    return own_name == route.proxy and (own_name is not None or proxy.spec.model_id == route.model_id)


def _means(proxy: Proxy, target: str) -> bool:
    if proxy.spec.model_id == target:
        return True
    if not target.isdecimal() or len(target) > 18:
        return False
    number = int(target)
    if number == proxy.spec.port:
        return True
    return number in {worker.pid for worker in proxy.workers} or (
        not proxy.workers and number == proxy.last_pid
    )


def _is_awaited(proxy: Proxy) -> bool:
    """A worker that an earlier supervisor has left may yet dial."""
    return any(worker.phase is Phase.ABSENT for worker in proxy.workers)


def _is_over(unit: Unit) -> bool:
    """Down has done its work, or a later wish has overtaken it."""
    return not unit.proxy.workers or unit.proxy.wanted


def _check(request: UpRequest) -> None:
    if request.lease is not None and request.replace:
        raise Fault("bad_request", "replace is for up: whoever holds a lease takes a proxy as it is")
    if request.port is not None and not 0 <= request.port <= 65535:
        raise Fault("bad_port", f"{request.port} is not a port", "1 to 65535, or 0 for any free one")
    check_grace(request.grace_s)
    _check_wait(request.wait_s)
    _check_care(request)
    quotas.check(request)
    if request.pid_file is not None and not _is_absolute_path(request.pid_file):
        raise Fault("bad_request", "pid_file must be an absolute path")
    for key in (request.api_key, *request.fallback_keys.values()):
        if key is not None and not (key.isascii() and key.isprintable()):
            # It travels in a header. The key itself is never repeated.
            raise Fault("bad_request", "the API key holds characters that no key has")
    if request.base_url is not None:
        try:
            checked_url(request.base_url)
        except ValueError as error:
            raise Fault("bad_request", f"the base URL {error}") from None


def _gives_key(request: UpRequest) -> bool:
    return request.api_key is not None or bool(request.fallback_keys)


def _of_shell(request: UpRequest) -> bool:
    """Every key that it gives is a variable's."""
    return request.api_key is None and bool(request.fallback_keys)


def _care(said: UpRequest | ProxyOptions, known: Care) -> Care:
    """What was not said stays as it is; 0 takes a limit back."""
    return Care(
        lazy=known.lazy if said.lazy is None else said.lazy,
        idle_stop_s=known.idle_stop_s if said.idle_stop_s is None else said.idle_stop_s or None,
        max_rss=known.max_rss if said.max_rss is None else said.max_rss or None,
    )


def _check_care(request: UpRequest) -> None:
    idle_stop, max_rss = request.idle_stop_s, request.max_rss
    if idle_stop is not None and not (idle_stop == 0 or 1 <= idle_stop <= MAX_IDLE_STOP_S):
        days = f"{MAX_IDLE_STOP_S / 86400:.0f} days"
        raise Fault("bad_request", f"idle_stop_s must be between 1 s and {days}, or 0 for never")
    if max_rss is not None and not (max_rss == 0 or MIN_MAX_RSS <= max_rss <= 2**60):
        least = f"{MIN_MAX_RSS // 1024**2} MiB"
        raise Fault("bad_request", f"max_rss must be at least {least}, which a worker at rest needs, or 0")


def _is_absolute_path(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:  # half a character, as JSON can spell it
        return False
    return text.startswith("/") and "\0" not in text


def _check_wait(wait_s: float) -> None:
    if not 0 <= wait_s <= 3600:
        raise Fault("bad_request", "wait_s must be between 0 and 3600")


def check_grace(grace_s: float | None) -> None:
    if grace_s is not None and not 0 <= grace_s <= MAX_GRACE_S:
        raise Fault("bad_request", f"the grace must be between 0 and {MAX_GRACE_S:.0f} s")


def _no_room(error: OSError) -> Fault:
    return Fault(
        "no_resources",
        f"the supervisor cannot open another socket: {error.strerror}",
        "running proxies are not affected; take one down or raise the limit (ulimit -n)",
    )
