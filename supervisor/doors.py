"""Front doors among the proxies: each place of one is a proxy of its own, and the front hears where that is.

A place that is not a proxy yet becomes one without a process: its port is known at once, and its first connection
starts it. Whatever is brought up or taken down later is told to the fronts in the same turn of the loop.

Who a place is up for follows from what is up: whoever has said `up`, who holds a lease, and every front that leads
there. When the last of them goes, so does the place.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Any

import attrs

from modelproxy.worker.contract import Front, Place, WorkerSpec

from . import changes, fleet, fronts, routes
from .config import Config
from .facts import Proxy, State
from .keeper import Keeper
from .protocol import Fault, UpRequest
from .upkeep import Unit

_Serving = Mapping[str, Unit]
"""The proxies that are wanted, by the name that a place has for them."""


class Doors:
    """`wish` puts an `up` on record, without waiting for a worker."""

    def __init__(self, keeper: Keeper, wish: Callable[[UpRequest], Awaitable[object]]) -> None:
        self._keeper = keeper
        self._wish = wish
        self.awaits_holders = True
        """Who held a lease of an earlier supervisor's may yet say so."""

    async def resolve(
        self, request: UpRequest, table: str, config: Config
    ) -> tuple[WorkerSpec, routes.Route, list[str]]:
        """A front's spec and route, its places made; with what its user should know of them."""
        if request.api_key is not None or request.fallback:
            words = "a front has no key and no fallback of its own: the proxies that it leads to have them"
            hint = "say it of them, like proxyctl up ollama/codellama --fallback …"
            raise Fault("bad_request", words, hint)
        route = fronts.route(table, config)
        front, notes = await self._made(request, fronts.compiled(table, config), config)
        base_url = (request.base_url or route.base_url or "").rstrip("/") or None
        return attrs.evolve(routes.spec(route), base_url=base_url, front=front), route, notes

    async def follow(self, unit: Unit, old: Config, new: Config) -> int | None:
        """Apply what a changed configuration changes in a front; the order of that, None when nothing does."""
        running = unit.proxy.spec
        table = fronts.table_of(running.model_id, new)
        if running.front is None or table is None:
            return None
        was, now = fronts.compiled(table, old).front, fronts.compiled(table, new)
        as_said = (was.rules, was.otherwise) == (running.front.rules, running.front.otherwise)
        # Else a project's file said otherwise, or the user's says the same.
        leads_elsewhere = as_said and was != now.front
        making = secrets.token_hex(8)
        before, after = (routes.spec(fronts.route(table, one)) for one in (old, new))
        request = UpRequest(running.model_id, lease=making)

        def apply(front: Front | None) -> int | None:
            seen = unit.proxy.spec
            spec = changes.followed(seen, before, after)  # the way to Anthropic is that provider's
            spec = spec if front is None else self.addressed(attrs.evolve(spec, front=front))
            if not unit.proxy.wanted or spec == seen:
                return None
            same = attrs.evolve(spec, front=seen.front) == seen
            self._keeper.apply(unit, fleet.Led(spec.front) if same else fleet.Up(spec, unit.proxy.care))
            return unit.proxy.order

        try:
            front = (await self._made(request, now, new))[0] if leads_elsewhere else None
            return await self._keeper.ask(lambda: apply(front))
        finally:
            await self._keeper.ask(lambda: self.let_go(making), refusable=False)

    async def _made(
        self, request: UpRequest, found: fronts.Compiled, config: Config
    ) -> tuple[Front, list[str]]:
        """Make sure that each place is a proxy; one that cannot be says why, to whoever is sent there."""
        places, notes = [], []
        for place in found.front.places:
            try:
                if not place.trouble:
                    await self._ensure(request, place, config)
            except Fault as fault:
                missing = fault.code == "missing_api_key"
                if missing and (place.name in found.required or _may_ask(request, fault)):
                    # Whoever asked may have the key.
                    raise attrs.evolve(
                        fault, message=f"{fault.message}: the front leads to {place.name}"
                    ) from None
                place = attrs.evolve(place, trouble=f"{fault.message}. {fault.hint}")
            if place.trouble:
                notes.append(f"{place.name} cannot be reached through the front: {place.trouble}")
            places.append(place)
        return attrs.evolve(found.front, places=places), notes

    async def _ensure(self, request: UpRequest, place: Place, config: Config) -> None:
        is_new = place.name not in self._serving()
        if await self._keeper.ask(lambda: self._claim(self._serving().get(place.name), request.lease)):
            return  # it is as its user wants it
        said = routes.resolve(place.name, config).options
        wish = UpRequest(
            place.name,
            port=None if said.port is not None else 0,
            lazy=True if said.lazy is None and is_new else None,
            overlay=request.overlay,
            lease=request.lease,
            lacks=request.lacks,
        )
        given: dict[str, str] = {}
        while True:
            try:
                await self._wish(attrs.evolve(wish, fallback_keys=given))
            except Fault as fault:
                # Only what is missing: a key that the configuration has is found again after our end.
                name = fault.provider if fault.code == "missing_api_key" else None
                if name is None or name in given or name not in request.fallback_keys:
                    raise
                given = {**given, name: request.fallback_keys[name]}
            else:
                return

    def _claim(self, unit: Unit | None, lease: str | None) -> bool:
        """Have a place that is there stay until the front leads to it; False: there is none, or it needs help."""
        if unit is None:
            return False
        if lease is not None:
            unit.leases.add(lease)
        return unit.proxy.given_up is None and not unit.proxy.key_lost

    # --- for whom they are up -----------------------------------------------------------------------

    def led_to(self, *, but: Collection[Unit] = ()) -> dict[str, list[str]]:
        """The fronts that are up, by the names of the proxies that they lead to; also one that still finishes its
        requests, unless it is among `but`.
        """
        leading = [
            unit
            for unit in self._keeper.units.values()
            if unit.proxy.spec.front is not None
            and (unit.proxy.wanted or (unit.proxy.workers and unit not in but))
        ]
        serving = self._serving() if leading else {}
        found: dict[str, list[str]] = {}
        for unit in leading:
            for place in _behind([unit], serving):
                found.setdefault(place.proxy.name, []).append(unit.proxy.name)
        return found

    def behind(self, doors: Iterable[Unit]) -> list[Unit]:
        """The proxies that these lead to, as far as they are up; none but a front leads to any."""
        leading = [unit for unit in doors if unit.proxy.spec.front is not None]
        return _behind(leading, self._serving()) if leading else []

    def _freed(self, doors: Iterable[Unit]) -> list[Unit]:
        """Who may be up for nobody when these fronts have gone: also where they do not lead any more."""
        leading = [unit for unit in doors if unit.proxy.spec.front is not None]
        if not leading or self.awaits_holders:
            return self.behind(leading)
        return list(self._keeper.units.values())

    def let_go(self, lease: str) -> list[Unit]:
        """Inside the loop; what goes with this lease."""
        held = [unit for unit in self._keeper.units.values() if lease in unit.leases]
        for unit in held:
            unit.leases.discard(lease)
        return self.release(held)

    def release_behind(self, doors: Collection[Unit], grace_s: float | None) -> list[Unit]:
        """Inside the loop, when these fronts are not wanted any more: what was up for them only goes."""
        return self.release(self._freed(doors), grace_s, but=doors)

    def release(
        self, units: Iterable[Unit], grace_s: float | None = None, *, but: Collection[Unit] = ()
    ) -> list[Unit]:
        """Inside the loop: those of them go that are up for nobody any more, and what only these led to."""
        idle = [unit for unit in units if _is_for_nobody(unit)]
        doors = [unit for unit in idle if unit.proxy.spec.front is not None]
        for unit in doors:
            self._end(unit, grace_s)
        led = self.led_to(but=[*but, *doors])
        rest = [unit for unit in (*idle, *self._freed(doors)) if unit.proxy.name not in led]
        gone = [unit for unit in dict.fromkeys(rest) if _is_for_nobody(unit)]
        for unit in gone:
            self._end(unit, grace_s)
        if doors or gone:
            self.tell()
        return [*doors, *gone]

    def _end(self, unit: Unit, grace_s: float | None) -> None:
        self._keeper.apply(unit, fleet.Down(unit.proxy.spec.grace_s if grace_s is None else grace_s))

    def _serving(self) -> _Serving:
        """Whom each place's name means now: one walk for all places of all fronts."""
        found: dict[str, Unit] = {}
        for unit in self._keeper.units.values():
            if unit.proxy.wanted and unit.proxy.spec.front is None:
                found.setdefault(unit.proxy.said, unit)
        return found

    # --- where they are ---------------------------------------------------------------------------

    def addressed(self, spec: WorkerSpec) -> WorkerSpec:
        """A front's spec with its places as they are now; any other as it is."""
        return spec if spec.front is None else _addressed(spec, self._serving())

    def tell(self) -> None:
        """Inside the loop, after a change of what is up."""
        fronts_up = [
            unit for unit in self._keeper.units.values() if unit.proxy.wanted and unit.proxy.spec.front
        ]
        serving = self._serving() if fronts_up else {}
        for unit in fronts_up:
            if (spec := _addressed(unit.proxy.spec, serving)) != unit.proxy.spec:
                self._keeper.apply(unit, fleet.Led(spec.front))

    def shown(self, proxy: Proxy) -> list[dict[str, Any]]:
        """For `ps`: the proxies that a front leads to."""
        if proxy.spec.front is None:
            return []
        serving = self._serving()
        return [_shown(place, serving.get(place.name)) for place in proxy.spec.front.places]

    def otherwise(self, proxy: Proxy) -> str | None:
        """Where a front leads what no rule takes, if neither it nor a proxy behind it leads to Anthropic."""
        front = proxy.spec.front
        if front is None:
            return None
        serving = self._serving()
        specs = [serving[place.name].proxy.spec for place in front.places if place.name in serving]
        falls_back = any(target.provider == routes.OWN for spec in specs for target in spec.fallback)
        leads_home = fronts.leads_home(front) or falls_back
        return None if leads_home else front.otherwise


def _behind(doors: Iterable[Unit], serving: _Serving) -> list[Unit]:
    fronts_of = [unit.proxy.spec.front for unit in doors]
    names = dict.fromkeys(place.name for front in fronts_of if front is not None for place in front.places)
    return [serving[name] for name in names if name in serving]


def _may_ask(request: UpRequest, fault: Fault) -> bool:
    return request.lacks is not None and fault.env is not None and fault.env not in request.lacks


def _is_for_nobody(unit: Unit) -> bool:
    """But perhaps for a front."""
    return unit.proxy.wanted and not unit.kept and not unit.leases


def _addressed(spec: WorkerSpec, serving: _Serving) -> WorkerSpec:
    assert spec.front is not None  # only a front has places
    places = [attrs.evolve(place, url=_address(serving.get(place.name))) for place in spec.front.places]
    return attrs.evolve(spec, front=attrs.evolve(spec.front, places=places))


def _address(unit: Unit | None) -> str | None:
    # Without a socket of ours anybody may have the port by now, and would get what is meant for the proxy.
    if unit is None or (not unit.listeners and unit.proxy.given_up is not None):
        return None
    return f"http://127.0.0.1:{unit.proxy.spec.port}"


def _shown(place: Place, unit: Unit | None) -> dict[str, Any]:
    state = State.STOPPED if unit is None else unit.proxy.state
    port = None if unit is None else unit.proxy.spec.port
    return {"name": place.name, "model": place.model_id, "port": port, "state": str(state)}


__all__ = ["Doors"]
