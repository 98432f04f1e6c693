"""What the ledger's rows add up to, by model, agent, day, session or route.

SQLite adds: a hundred thousand rows come out as a few groups, and none of them is ever an object here. Like
`ledger` it needs no event loop, and is used by the supervisor and by the command line.

A sum says what it is worth. An unknown cost adds nothing to it and is counted beside it, so that a sum of nothing but
unknown ones is unknown, never 0. An answer that goes on has not failed, and its cost is not due yet.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from . import ledger

if TYPE_CHECKING:
    import sqlite3

_ANSWERED_BY = "CASE WHEN model = '' THEN provider ELSE provider || '/' || model END"

KEYS: dict[str, dict[str, str]] = {
    "model": {"model": _ANSWERED_BY},
    "agent": {"agent": "agent"},
    "day": {"day": "date(ts, 'unixepoch', 'localtime')"},
    "session": {"session": "session_id"},
    # A route is where a request was sent. Who answered says whether it came to that.
    "route": {"route": "route", "model": _ANSWERED_BY},
}
"""What can be asked for: what a group is known by, and where that stands in a row."""

MOST_GROUPS = 10_000
"""At most so many are told, the dearest: only of sessions there may be more."""

MIXED = "mixed"
"""The source of a sum whose parts have several."""

_READ = "coalesce(input_tokens, output_tokens) IS NOT NULL"
_COUNTED = f"(NOT at_it AND (cost_usd IS NOT NULL OR status = 200 OR {_READ}))"
"""Has a cost, known or not. What failed before any model read it has none to know."""
_SOURCE = f"CASE WHEN {_COUNTED} THEN cost_source END"

_SUMS = {
    "requests": "count(*)",
    "failed": f"total(NOT at_it AND error_type IS NOT NULL AND status != {ledger.CANCELLED})",
    "in_progress": "total(at_it)",
    "fallbacks": "total(fallback)",
    "input_tokens": "sum(input_tokens)",
    "output_tokens": "sum(output_tokens)",
    "cache_read_tokens": "sum(cache_read_tokens)",
    "cache_write_tokens": "sum(cache_write_tokens)",
    "tokens_estimated": "max(tokens_estimated)",
    "cost_usd": "round(sum(cost_usd), 10)",  # many small numbers end in digits that nobody has paid
    "unpriced_requests": f"total({_COUNTED} AND cost_usd IS NULL)",
    "cost_source": (
        f"CASE WHEN min({_SOURCE}) != max({_SOURCE}) THEN '{MIXED}'"
        f" ELSE coalesce(min({_SOURCE}), min(cost_source)) END"
    ),
}
_COUNTS = (
    "failed",
    "in_progress",
    "fallbacks",
    "unpriced_requests",
)  # `total` gives floats, `sum` nothing for nothing

FIELDS = tuple(_SUMS)
"""What is told of a group, besides what it is known by."""


def read(path: str, *, by: str, since: float = 0.0) -> list[dict[str, Any]]:
    """The groups, the dearest first, days in their order; none when there is no file.

    Raises UnreadableError.
    """
    with ledger.reading(path) as db:
        if db is None or not (names := ledger.columns(db)):
            return []
        now = time.time()  # noqa: TID251  # rows have the time of day
        return _groups(db, names, by, since, now)


def _groups(
    db: sqlite3.Connection, names: list[str], by: str, since: float, now: float
) -> list[dict[str, Any]]:
    fresh = f"pid IS NOT NULL AND ts + duration_ms / 1000 >= {now - ledger.SILENCE_S!r}"
    pids: Iterable[tuple[int]] = ()
    if "pid" in names:
        pids = db.execute(f"SELECT DISTINCT pid FROM requests WHERE {fresh}").fetchall()
    living = ", ".join(str(int(pid)) for (pid,) in pids if ledger.is_alive(pid))
    at_it = f"({fresh} AND pid IN ({living}))" if living else "0"
    # A file from before there was a column has nothing in its place.
    lacking = "".join(f", NULL AS {name}" for name in ledger.FIELDS if name not in names)
    keys, order = KEYS[by], "1" if by == "day" else "cost_usd IS NULL, cost_usd DESC, requests DESC, 1, 2"
    told = {**keys, **_SUMS}
    found = db.execute(
        f"SELECT {', '.join(f'{sql} AS {name}' for name, sql in told.items())}"
        f" FROM (SELECT *{lacking}, {at_it} AS at_it FROM requests WHERE ts >= ?)"
        f" GROUP BY {', '.join(str(number + 1) for number in range(len(keys)))}"
        f" ORDER BY {order} LIMIT {MOST_GROUPS}",
        (since,),
    )
    return [_document(dict(zip(told, one, strict=True))) for one in found]


def _document(found: dict[str, Any]) -> dict[str, Any]:
    return found | {
        **{name: int(found[name]) for name in _COUNTS},
        "tokens_estimated": bool(found["tokens_estimated"]),
    }


def nothing(**keys: str) -> dict[str, Any]:
    """The group of what was not asked: it has cost nothing, and that is known."""
    return {
        **keys,
        **dict.fromkeys(FIELDS, 0),
        "tokens_estimated": False,
        "cost_usd": 0.0,
        "cost_source": None,
    }


def total(groups: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Of all of them, as one group."""
    every = [group for group in groups if group["requests"]]
    sources = {
        group["cost_source"] for group in every if group["cost_usd"] is not None or group["unpriced_requests"]
    }
    sums = {name: _sum(group[name] for group in every) for name in FIELDS if name != "cost_source"}
    return {
        **sums,
        "tokens_estimated": any(group["tokens_estimated"] for group in every),
        "cost_usd": None if sums["cost_usd"] is None else round(sums["cost_usd"], 10),
        "cost_source": None if not sources else MIXED if len(sources) > 1 else sources.pop(),
    }


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
