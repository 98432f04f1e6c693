"""How a worker's targets are, together: who would answer now, and what is said of it by `/health` and to `ps`.

Theory of operation
-------------------
A proxy is well while its first target serves, degraded while another serves in its place, and unhealthy when
none would. A target would serve when a look at its provider finds that well and it does not cool after a
failure (`attempts.Rota`); where all cool, only the one that is due first is asked.

The first is looked at whenever somebody wants to know. The others only when it matters: the first is not well,
cools, or is slow to say. So a provider that is there for bad days is not troubled on all the others.
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import attrs
import trio

from .attempts import Rota
from .dialects.seam import Condition
from .targets import Far

HEAD_START_S = 0.25
"""A first target that takes longer to say how it is does not keep the others waiting: `/health` has three seconds."""


@attrs.frozen
class Standing:
    """How they are at one moment."""

    names: Sequence[str]
    conditions: Sequence[Condition | None]
    """None: not looked at. Never of the first."""
    serving: int | None
    """Who would answer; None: nobody."""
    why: str = ""
    """What keeps the first from it, in a few words."""
    again_s: float = math.inf
    """When the first may serve again without anybody being heard of it: it is well, and only cools."""

    @property
    def first(self) -> Condition:
        condition = self.conditions[0]
        assert condition is not None  # it is always looked at
        return condition

    @property
    def works(self) -> bool:
        return self.serving is not None

    @property
    def is_well(self) -> bool:
        """Requests go where they should."""
        return self.serving == 0

    @property
    def instead(self) -> str | None:
        """Who serves in place of the first."""
        return self.names[self.serving] if self.serving else None

    @property
    def words(self) -> str:
        """For `ps`. Empty when all is well and there is nothing to mind."""
        if self.is_well:
            return self.first.warning or ""
        if self.instead is not None:
            return f"{self.why}, served by {self.instead}"
        said = self.first.detail or self.why
        return said if len(self.names) == 1 else f"{said}; no fallback works either"

    def warnings(self) -> list[str]:
        """What `up` says beside the first target's own trouble."""
        if self.instead is not None:
            return [f"{self.first.detail or self.why}; {self.instead} serves in its place"]
        found = [self.first.warning] if self.first.warning else []
        if not self.works:
            others = zip(self.names[1:], self.conditions[1:], strict=True)
            found += [f"{name}: {seen.detail}" for name, seen in others if seen is not None and seen.detail]
        return found

    def shown(self, index: int) -> dict[str, Any]:
        """Of one target, for `/health`."""
        seen = self.conditions[index]
        found: dict[str, Any] = {"serves": index == self.serving, "ok": None if seen is None else seen.ok}
        return found | ({"detail": seen.detail} if seen is not None and seen.detail else {})


class Watch:
    """Looks at a worker's targets."""

    def __init__(self, fars: Sequence[Far], rota: Rota, now: Callable[[], float]) -> None:
        self._fars = fars
        self._rota = rota
        self._now = now
        self._moved = trio.Event()

    async def look(self) -> Standing:
        """Within three seconds, as each provider's own look is within less."""
        if len(self._fars) == 1:
            return self._found([await self._fars[0].provider.condition()])
        seen: list[Condition | None] = [None] * len(self._fars)
        said = trio.Event()

        async def at(index: int) -> None:
            seen[index] = await self._fars[index].provider.condition()
            if index == 0:
                said.set()
                if self._is_enough(seen[0]):
                    nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(at, 0)
            with trio.move_on_after(HEAD_START_S):
                await said.wait()
            for index in range(1, len(self._fars)):
                nursery.start_soon(at, index)
        return self._found(seen)

    def _is_enough(self, first: Condition | None) -> bool:
        return first is not None and first.ok and self._rota.targets[0].is_open(self._now())

    def _found(self, seen: Sequence[Condition | None]) -> Standing:
        first, target = seen[0], self._rota.targets[0]
        assert first is not None  # every look is at it
        left_s = target.until - self._now()
        return Standing(
            names=[far.name for far in self._fars],
            conditions=seen,
            serving=self._serving([one is not None and one.ok for one in seen]),
            why=self._why(first),
            again_s=left_s if first.ok and left_s > 0 else math.inf,
        )

    def _serving(self, well: Sequence[bool]) -> int | None:
        """Whom a request would end up with: it goes round as long as somebody does not cool, else to one only."""
        now, targets = self._now(), self._rota.targets
        asked = [index for index, target in enumerate(targets) if target.is_open(now)]
        if not asked and isinstance(due := self._rota.choose(now), int):
            asked = [due]
        return next((index for index in asked if well[index]), None)

    def _why(self, first: Condition) -> str:
        """A request's failure says it in one word; before any, the look does, without what would help."""
        cause = self._rota.targets[0].cause
        if cause is not None:
            return f"{self._fars[0].spec.provider} {cause.value}"
        return "" if first.ok else re.split(r"; | - ", first.detail)[0]

    # --- when to look again ---

    def moved(self) -> None:
        """A target began to cool, or is well again."""
        self._moved.set()

    async def doubted(self) -> None:
        """Wait until another look may show something else than the last."""
        await first_of(self._moving, *(far.provider.doubted for far in self._fars))

    async def _moving(self) -> None:
        await self._moved.wait()
        self._moved = trio.Event()


async def first_of(*waits: Callable[[], Awaitable[None]]) -> None:
    """Until one of them is over; the others are given up."""
    async with trio.open_nursery() as nursery:

        async def one(wait: Callable[[], Awaitable[None]]) -> None:
            await wait()
            nursery.cancel_scope.cancel()

        for wait in waits:
            nursery.start_soon(one, wait)


__all__ = ["Standing", "Watch", "first_of"]
