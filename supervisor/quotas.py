"""The limits of a proxy, as a person may set them. Pure. Who may ask it is the configuration's to say: `access`.

Every wish has the same shape, in `up` as in `set`: None leaves a limit as it is, 0 takes it away.
"""

from __future__ import annotations

from typing import Any

import attrs

from modelproxy.worker.contract import Bounds, Quota

from .protocol import Fault

NAMES = tuple(field.name for field in attrs.fields(Bounds))

_MIB = 1024 * 1024
RANGES: dict[str, tuple[float, float]] = {
    "max_concurrent": (1, 10_000),
    "rpm": (1, 1_000_000),
    "queue_size": (1, 100_000),
    "queue_timeout_s": (0.1, 24 * 3600.0),
    "max_body": (1024, 1024 * _MIB),
    "max_context": (100, 100_000_000),
    "request_timeout_s": (0.1, 24 * 3600.0),
}
"""Least and most of each; 0 is allowed besides."""


def check(wish: Bounds) -> None:
    """A Fault for the first limit that nobody can mean."""
    for name, (least, most) in RANGES.items():
        value = getattr(wish, name)
        if value is not None and value != 0 and not least <= value <= most:  # `not`: nan is no number either
            raise Fault("bad_request", f"{name} must be from {least:g} to {most:.0f}, or 0 for no limit")


def granted(wish: Bounds, known: Quota) -> Quota:
    """The limits after a wish."""
    changes: dict[str, Any] = {name: value or None for name, value in wish.limits().items()}
    return attrs.evolve(known, **changes)
