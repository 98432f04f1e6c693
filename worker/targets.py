"""The places where a worker's requests may go, ready to be asked.

The first is the worker's own provider. Each of the others is what a worker for it alone would have, a key of
its own included, so nothing that is said to one of them can reach another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from . import app
from .contract import WorkerSpec
from .dialects.anthropic import passes_through
from .dialects.seam import NewId
from .gauge import Gauge
from .provider import Provider, provider

if TYPE_CHECKING:
    from .crossing import Crossing
    from .relay import Relay

Log = Callable[..., None]


@attrs.define(eq=False)
class Far:
    """One target."""

    spec: WorkerSpec
    """As of a worker for this target alone; its `fallback` is what comes after it."""
    provider: Provider
    relay: Relay | Crossing | None
    """The same, where bytes are passed through."""
    truth: tuple[bytes, bytes]
    """The header that names what really answers."""
    gauge: Gauge = attrs.Factory(Gauge)
    crossing: Crossing | None = None
    """The same once more, where it is a front's."""

    @property
    def name(self) -> str:
        return self.spec.model_id


def fars(spec: WorkerSpec, new_id: NewId, log: Log) -> list[Far]:
    """All of a worker's, in their order. Raises ValueError for one that cannot work."""
    found = [_far(spec, new_id, log)]
    for number, target in enumerate(spec.fallback, 1):
        there = attrs.evolve(spec.towards(target), fallback=spec.fallback[number:])
        found.append(_far(there, new_id, log))
    return found


def _far(spec: WorkerSpec, new_id: NewId, log: Log) -> Far:
    truth = app.truth(spec.model_id)
    if spec.front is not None:
        from .crossing import Crossing  # only here, as below

        crossing = Crossing(spec, spec.front)
        return Far(spec, crossing, crossing, truth, crossing=crossing)
    if passes_through(spec):
        from .relay import Relay  # only here: most workers translate

        relay = Relay(spec, truth)
        return Far(spec, relay, relay, truth)
    return Far(spec, provider(spec, new_id, log), None, truth)


__all__ = ["Far", "fars"]
