"""What a changed configuration changes in a proxy that runs, and nothing else. Pure.

Three sides: what the file said, what it says now, and what runs. Where the file did not change nothing
changes; where it did, only what runs as the file said follows it: a flag of `up` goes before the file, and
nobody has taken it back.
"""

from __future__ import annotations

from typing import Any

import attrs

from modelproxy.worker.contract import Target, WorkerSpec

from .facts import Care

_OURS = ("name", "port", "api_key", "limits")
"""Not the file's to say."""


def followed(running: WorkerSpec, was: WorkerSpec, now: WorkerSpec) -> WorkerSpec:
    """The spec that should run. Targets that are new have no key yet."""
    if was.model_id != now.model_id or was.provider != now.provider or was.kind != now.kind:
        # Another model: what was said for the old one says nothing of it.
        place = {
            field.name: getattr(now, field.name) for field in attrs.fields(Target) if field.name != "api_key"
        }
        running = attrs.evolve(running, api_key=None, **place)
    found = _three_way(running, was, now, _OURS)
    if was.fallback != now.fallback and _keyless(running.fallback) == was.fallback:
        keys = {target.model_id: target.api_key for target in running.fallback}
        fresh = [attrs.evolve(target, api_key=keys.get(target.model_id)) for target in now.fallback]
        found = attrs.evolve(found, fallback=fresh)
    else:
        found = attrs.evolve(found, fallback=running.fallback)
    assert isinstance(found, WorkerSpec)
    return found


def cared(running: Care, was: Care, now: Care) -> Care:
    """The same for how its worker is kept."""
    found: Care = _three_way(running, was, now, ())
    return found


def _three_way(running: Any, was: Any, now: Any, skip: tuple[str, ...]) -> Any:
    changes = {}
    for field in attrs.fields(type(running)):
        has, old, new = (getattr(side, field.name) for side in (running, was, now))
        if field.name in skip or old == new:
            continue
        if attrs.has(type(new)) and attrs.has(type(has)):
            changes[field.name] = _three_way(has, old, new, ())
        elif has == old:
            changes[field.name] = new
    return attrs.evolve(running, **changes)


def _keyless(targets: list[Target]) -> list[Target]:
    return [attrs.evolve(target, api_key=None) for target in targets]
