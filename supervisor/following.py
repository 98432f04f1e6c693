"""The configuration as it is followed: when the supervisor starts, when somebody says reload, when the file changes.

A change touches the proxies that it concerns and no other, by a roll: nobody's request fails for it. A file
with mistakes changes nothing; the last good one holds, and a warning says so until the file is mended.

Keys are followed too, since a key that was replaced is mostly one that is refused by now. What `keys set` keeps is
looked at as the configuration is; commands and files only at an order, for a password store may ask its user.
A key that came by flag, and what there is no other key for, stay as they are.

What the file said when it was last applied is written down (`applied`). So an edit that no supervisor saw is applied
by the next one as a reload would have, once those have dialled whom the last one left; a flag of `up` is not taken
back by that. A port is the exception to all of it: a proxy keeps the one it has until it is taken down.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import trio

from modelproxy.worker.contract import Target, WorkerSpec

from . import access, applied, changes, fleet, fronts, reading, routes
from .commands import Commands
from .config import Config, Front, ProxyOptions
from .facts import Care, State
from .keeper import Keeper
from .paths import Paths
from .protocol import Fault, Reloaded, UpRequest
from .upkeep import Unit

WATCH_S = 2.0
"""How often the file is looked at: one stat."""
QUIET_S = 0.5
"""A file that has changed is read when it has stayed as it is for so long."""
ROLL_LIMIT_S = 15.0
SETTLE_LIMIT_S = 30.0
"""How long a restored proxy is waited for before an edit is applied that nobody saw: its key may be slow to fetch."""


class Keys(enum.Enum):
    """Which of the keys that run are fetched anew."""

    NONE = enum.auto()
    STORED = enum.auto()
    """Those that `keys set` keeps."""
    ALL = enum.auto()


class Following:
    """Keeps the last good configuration and applies what differs from it."""

    def __init__(self, commands: Commands, keeper: Keeper, paths: Paths, log: Callable[[str], None]) -> None:
        self._commands = commands
        self._keeper = keeper
        self._file = paths.config_file
        self._keys_file = paths.keys_file
        self._log = log
        self._config: Config | None = None
        self._one_at_a_time = trio.Lock()
        self._bad: list[str] = []
        self._troubles: list[str] = []
        self._behind: dict[str, Config] = {}
        """Who goes on as it was, for some trouble, and what the file said then."""
        self._key_troubles: list[str] = []
        self._spawn: str | None = None
        """As it was said when the supervisor started, which is when it counts."""
        self._outdated: dict[str, WorkerSpec] = {}
        """Restored, and not as the file says; it is not known what it said before."""
        self._ports: dict[str, int] = {}
        """The ports on which proxies stay although the file says others by now."""
        self._applied_file = paths.applied_file
        self._good = trio.Event()
        """There has been a configuration that holds."""
        self._caught_up = False
        """What was edited while no supervisor ran is applied."""

    @property
    def warnings(self) -> list[str]:
        """What of the file does not hold, and why."""
        words = [*self._spawn_words(), *self._port_words(), *self._outdated_words()]
        return [*self._bad, *self._troubles, *self._key_troubles, *words]

    def _spawn_words(self) -> Iterator[str]:
        # To fork is what is done unless something else is said.
        if self._config is not None and (self._config.spawn == "exec") != (self._spawn == "exec"):
            yield "spawn is read when the supervisor starts: proxyctl daemon restart"

    def _port_words(self) -> Iterator[str]:
        for name, port in self._ports.items():
            unit = self._keeper.units.get(name)
            said = None if unit is None or self._config is None else _port_said(unit, self._config)
            if (
                unit is not None
                and unit.proxy.wanted
                and unit.proxy.spec.port == port
                and said not in (None, port)
            ):
                yield (
                    f"{name} keeps port {port} until it is taken down, and the configuration says {said}; "
                    f"proxyctl down {name}, then proxyctl up {unit.proxy.said}, moves it"
                )

    def _outdated_words(self) -> Iterator[str]:
        for name, spec in self._outdated.items():
            unit = self._keeper.units.get(name)
            if unit is not None and unit.proxy.wanted and _same_place(unit.proxy.spec, spec):
                yield (
                    f"{name} is as it was before the supervisor started, and the configuration says otherwise; "
                    f"proxyctl up {unit.proxy.said} --replace applies it"
                )

    async def run(self) -> None:
        """Begin with what the file says, then follow it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._catch_up)
            seen = self._stamps()
            await self.look_again()
            while True:
                await trio.sleep(WATCH_S)
                if self._stamps() == seen:
                    continue
                now = await self._settled()
                which = Keys.NONE if now[1] == seen[1] else Keys.STORED
                seen = now
                await self.look_again(which)

    def _stamps(self) -> tuple[_Stamp, _Stamp]:
        return _stamp(self._file), _stamp(self._keys_file)

    async def _settled(self) -> tuple[_Stamp, _Stamp]:
        """When nobody writes any more: who saves in place has a moment of an empty file, which holds as it is."""
        now = self._stamps()
        while True:
            before = now
            await trio.sleep(QUIET_S)
            now = self._stamps()
            if now == before:
                return now

    async def _catch_up(self) -> None:
        """Have what an earlier supervisor left as it was, then apply what was edited meanwhile, keys too."""
        before = await trio.to_thread.run_sync(applied.load, self._applied_file)
        restored = [unit for unit in self._keeper.units.values() if unit.proxy.wanted]
        await self._commands.seek_keys()
        was_good = self._good.is_set()
        await self._good.wait()
        if not was_good:
            await self._commands.seek_again()
        await self._keeper.wait_until(lambda: self._are_settled(restored), SETTLE_LIMIT_S)
        async with self._one_at_a_time:
            assert self._config is not None  # it is good
            touched = []
            if before is not None:
                touched = await self._apply(applied.completed(before, self._config), self._config)
            touched += await self._renew_keys(self._config, Keys.STORED)
            self._outdated = self._compared(self._config)
            self._caught_up = True
            await self._write_down()
        if touched:
            names = ", ".join(unit.proxy.name for unit, _ in touched)
            self._log(f"the configuration was changed while no supervisor ran: {names}")

    def _are_settled(self, units: list[Unit]) -> bool:
        led = self._commands.doors.led_to()
        return all(_is_settled(unit, led) for unit in units)

    async def _write_down(self) -> None:
        if self._config is None or not self._caught_up:
            return
        for name, port in list(self._ports.items()):
            unit = self._keeper.units.get(name)
            if unit is None or not unit.proxy.wanted or unit.proxy.spec.port != port:
                del self._ports[name]
        try:
            bare = applied.bare(self._config, self._ports)
            await trio.to_thread.run_sync(applied.save, self._applied_file, bare)
        except OSError as error:
            self._log(f"cannot write {self._applied_file}: {error.strerror}")

    async def look_again(self, keys: Keys = Keys.ALL) -> None:
        """Reload for nobody in particular: what is wrong stands in the warnings."""
        try:
            await self.reload(wait=False, keys=keys)
        except Fault:
            pass

    async def asked(self, soon: bool) -> Reloaded:
        """Reload for somebody; `soon`: who has changed the file wants it in force, and waits for nothing else."""
        return await self.reload(wait=not soon, keys=Keys.NONE if soon else Keys.ALL)

    async def reload(self, *, wait: bool = True, keys: Keys = Keys.ALL) -> Reloaded:
        """Read the file and apply what changed; with `wait`, until the rolls are over."""
        async with self._one_at_a_time:
            self._commands.refuse_when_closing()
            try:
                config = await trio.to_thread.run_sync(self._commands.read_config)
            except Fault as fault:
                self._refused(fault)
                raise
            self._bad = []
            old, self._config = self._config, config
            self._spawn = config.spawn if old is None else self._spawn
            self._good.set()
            # What was in the way may be gone: a file of keys that is mended.
            again = bool(self._troubles) and keys is not Keys.NONE
            found = []
            if old is not None and (old != config or keys is not Keys.NONE):
                found = await self._commands.seek_again()
                again = again or bool(found)
            touched, others = await self._differing(old, config) if old != config or again else ([], [])
            if old is not None:
                touched += await self._renew_keys(config, keys)
            touched += [(unit, unit.proxy.order) for unit in found]
            if old != config or again:
                await self._write_down()
        names = list(dict.fromkeys([*(unit.proxy.name for unit, _ in touched), *others]))
        if names:
            self._log(f"the configuration changed: {', '.join(names)}")
        for unit, order in touched if wait else ():
            await self._settle(unit, order)
        return Reloaded(names, self.warnings)

    async def _differing(
        self, old: Config | None, config: Config
    ) -> tuple[list[tuple[Unit, int]], list[str]]:
        """Apply what the file says otherwise; who was touched, and the names of those with other tokens."""
        self._troubles = []
        touched = await self._apply(old, config) if old is not None else []
        others = await self._keeper.ask(lambda: self._give_access(config))
        await self._start(config)
        return touched, others

    def _refused(self, fault: Fault) -> None:
        held = "the last good one holds" if self._config is not None else "nothing was started by it"
        text = f"the configuration is not used, {held}: {reading.first_of(fault.message)}"
        if self._bad != [text]:
            self._log(text)
        self._bad = [text]

    def _trouble(self, text: str) -> None:
        self._troubles.append(text)
        self._log(text)

    async def _start(self, config: Config) -> None:
        """What is to run from the start. A proxy that is known has a wish of its own, and the last wish wins:
        who took it down by hand does not want to see it again.
        """
        tables: dict[str, ProxyOptions | Front] = {**config.proxies, **fronts.tables(config)}
        for name, options in tables.items():
            if not options.autostart or name in self._keeper.units:
                continue
            try:
                await self._commands.up(UpRequest(name, wait=False))
            except Fault as fault:
                self._trouble(f"{name} was not started by the configuration: {fault.message}")

    def _compared(self, config: Config) -> dict[str, WorkerSpec]:
        """What runs with other options than the file says. Only those that no flag of `up` can say."""
        found = {}
        for unit in self._keeper.units.values():
            try:
                wanted = routes.spec(routes.resolve(unit.proxy.said, config))
            except Fault:
                continue  # of a project, or gone: it has no table to differ from
            is_known = unit.proxy.wanted and not unit.proxy.key_lost
            if is_known and not _same_place(unit.proxy.spec, wanted):
                found[unit.proxy.name] = unit.proxy.spec
        return found

    def _give_access(self, config: Config) -> list[str]:
        """Inside the loop; the names of those for which it changed.

        Always as the file says: a token that was taken out while nobody looked is good no more.
        """
        changed = []
        for unit in self._keeper.units.values():
            spec = unit.proxy.spec
            allowed = access.to(spec.name, spec.model_id, config)
            if unit.proxy.wanted and allowed != spec.quota.access:
                self._keeper.apply(unit, fleet.Limited(attrs.evolve(spec.quota, access=allowed)))
                changed.append(spec.name)
        return changed

    # --- what changed -----------------------------------------------------------------------------

    async def _apply(self, old: Config, new: Config) -> list[tuple[Unit, int]]:
        touched = []
        behind, self._behind = self._behind, {}
        for unit in [unit for unit in self._keeper.units.values() if unit.proxy.wanted]:
            name = unit.proxy.name
            was = behind.get(name, old)
            if unit.proxy.awaits_configuration:
                self._behind[name] = was  # follows when its key is there
                continue
            try:
                order = await self._follow(unit, was, new)
            except Fault as fault:
                self._trouble(f"{name} goes on as it was: {fault.message}")
                self._behind[name] = was
                continue
            if order is not None:
                touched.append((unit, order))
        return touched

    async def _follow(self, unit: Unit, old: Config, new: Config) -> int | None:
        """Apply to one proxy what concerns it; the order of the change, None when nothing does."""
        running, name = unit.proxy.spec, unit.proxy.said
        self._follow_port(unit, old, new)
        if unit.proxy.key_lost:
            return None  # whoever brings its key says `up`, and that reads the file
        if running.front is not None:
            return await self._commands.doors.follow(unit, old, new)
        try:
            was = routes.resolve(name, old)
        except Fault:
            return None  # it never was the file's
        now = routes.resolve(name, new)
        spec = changes.followed(running, routes.order(was, old), routes.order(now, new))
        care = changes.cared(unit.proxy.care, care_of(was), care_of(now))
        moved = was.provider.key != now.provider.key and not unit.key_given
        if moved or spec.provider != running.provider:
            spec = attrs.evolve(spec, api_key=await self._commands.key_of(now))
        if spec.fallback != running.fallback:
            targets = [await self._with_key(target, new) for target in spec.fallback]
            spec = attrs.evolve(spec, fallback=targets)
        if (spec, care) == (running, unit.proxy.care):
            return None
        return await self._keeper.ask(lambda: self._place(unit, running, fleet.Up(spec, care)))

    def _follow_port(self, unit: Unit, old: Config, new: Config) -> None:
        """A port that came by flag was never the file's."""
        has, was, now = unit.proxy.spec.port, _port_said(unit, old), _port_said(unit, new)
        if now not in (None, was, has) and was in (None, has):
            self._ports[unit.proxy.name] = has

    async def _with_key(self, target: Target, config: Config) -> Target:
        if target.api_key is not None:
            return target
        route = routes.resolve_target(target.model_id, config)
        return attrs.evolve(target, api_key=await self._commands.key_of(route))

    # --- keys ---------------------------------------------------------------------------------------

    async def _renew_keys(self, config: Config, which: Keys) -> list[tuple[Unit, int]]:
        """Give other keys to those whose keys were fetched from where there are others now."""
        if which is Keys.NONE:
            return []
        troubles: dict[tuple[bool, str], list[str]] = {}
        touched = []
        for unit in [unit for unit in self._keeper.units.values() if unit.proxy.wanted]:
            running = unit.proxy.spec
            if unit.key_given or running.front is not None or unit.proxy.key_lost:
                continue  # who has lost a key is sought for as a whole
            try:
                spec = await self._with_keys_of_now(running, config, which)
            except Fault as fault:
                if running.name not in self._behind:  # that has been told
                    troubles.setdefault((running.has_key, fault.message), []).append(running.name)
                continue
            if spec != running:
                wish = fleet.Up(spec, unit.proxy.care)
                order = await self._keeper.ask(
                    lambda unit=unit, seen=running, wish=wish: self._place(unit, seen, wish)  # type: ignore[misc]  # bound early
                )
                touched += [(unit, order)] if order is not None else []
        self._key_troubles = [_go_on(names, *trouble) for trouble, names in troubles.items()]
        for text in self._key_troubles:
            self._log(text)
        return touched

    async def _with_keys_of_now(self, spec: WorkerSpec, config: Config, which: Keys) -> WorkerSpec:
        targets = [
            attrs.evolve(target, api_key=await self._key_of_now(target, config, which))
            for target in spec.fallback
        ]
        return attrs.evolve(spec, api_key=await self._key_of_now(spec, config, which), fallback=targets)

    async def _key_of_now(self, running: Target | WorkerSpec, config: Config, which: Keys) -> str | None:
        try:
            route = routes.resolve_target(running.model_id, config)
        except Fault:
            return running.api_key  # a project's
        key = route.provider.key
        theirs = routes.target(route).base_url != running.base_url  # a project's as well, or a flag's
        if theirs or (which is Keys.STORED and (key.value or key.file or key.command)):
            return running.api_key
        return await self._commands.configured_key(route) or running.api_key

    def _place(self, unit: Unit, seen: object, wish: fleet.Up) -> int | None:
        """Inside the loop, unless a command has overtaken the change."""
        if not unit.proxy.wanted or unit.proxy.spec != seen:
            return None
        self._keeper.apply(unit, wish)
        return unit.proxy.order

    async def _settle(self, unit: Unit, order: int) -> None:
        def decided() -> bool:
            current = unit.proxy.current
            fresh = current is not None and current.order >= order
            return fresh or unit.proxy.given_up is not None or not unit.proxy.is_up

        if unit.proxy.is_up and unit.proxy.workers:
            await self._keeper.wait_until(decided, ROLL_LIMIT_S)


def _go_on(names: list[str], has_key: bool, message: str) -> str:
    if len(names) == 1:
        goes, key = "goes", "the key that it has"
    else:
        goes, key = "go", "the keys that they have"
    return f"{', '.join(names)} {goes} on {f'with {key}' if has_key else 'without a key'}: {message}"


_Stamp = tuple[int, int, int] | None


def _stamp(file: Path) -> _Stamp:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _is_settled(unit: Unit, led: dict[str, list[str]]) -> bool:
    """Whoever an earlier supervisor has left has dialled (only it may know a key) or is given up; so is who held it."""
    proxy = unit.proxy
    is_held = unit.kept or bool(unit.leases) or proxy.name in led
    return not proxy.wanted or (is_held and proxy.state is not State.ADOPTING and not proxy.key_sought)


def _port_said(unit: Unit, config: Config) -> int | None:
    """The port that the file says of it; of a model's second proxy it says none."""
    proxy = unit.proxy
    if "@" in proxy.name:
        return None
    if proxy.spec.front is not None:
        table = fronts.tables(config).get(proxy.spec.model_id)
        return None if table is None else table.port
    try:
        return routes.resolve(unit.proxy.said, config).options.port
    except Fault:
        return None


def _same_place(one: WorkerSpec, other: WorkerSpec) -> bool:
    return all(
        getattr(one, name) == getattr(other, name) for name in ("model_id", "kind", "options", "timeouts")
    )


def care_of(route: routes.Route) -> Care:
    said = route.options
    return Care(lazy=bool(said.lazy), idle_stop_s=said.idle_stop_s or None, max_rss=said.max_rss or None)
