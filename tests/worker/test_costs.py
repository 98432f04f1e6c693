"""The sums over the ledger's rows, and what each of them is worth."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import attrs
import pytest
from fakes.rows import fill

from modelproxy.worker import costs, ledger
from modelproxy.worker.ledger import Row

ROW = Row(
    ts=1000.0,
    request_id="r",
    session_id="s1",
    agent="writer",
    proxy="p",
    port=1,
    provider="ollama",
    requested_model="claude-x",
    model="m",
    route="front>coder",
    status=200,
    input_tokens=10,
    output_tokens=3,
    cache_read_tokens=2,
    cache_write_tokens=1,
    cost_usd=0.0,
    cost_source="local",
    duration_ms=1.0,
)
PAID = attrs.evolve(ROW, provider="openrouter", model="a/b", cost_usd=0.1, cost_source="provider")
UNKNOWN = attrs.evolve(ROW, provider="anthropic", cost_usd=None, cost_source="unknown")
REFUSED = attrs.evolve(
    UNKNOWN,
    status=429,
    error_type="rate_limit_error",
    input_tokens=None,
    output_tokens=None,
    cache_read_tokens=None,
    cache_write_tokens=None,
)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "ledger.db")


def one(path: str, **asked: Any) -> dict[str, Any]:
    [group] = costs.read(path, by="session", **asked)
    return group


def test_s81_a_group_in_full(path: str) -> None:
    """Every field; what nobody knows adds nothing and is counted."""
    failed = attrs.evolve(PAID, status=500, error_type="api_error", fallback=True, tokens_estimated=True)
    fill(path, PAID, failed, UNKNOWN, REFUSED)

    assert one(path) == {
        "session": "s1",
        "requests": 4,
        "failed": 2,
        "in_progress": 0,
        "fallbacks": 1,
        "input_tokens": 30,
        "output_tokens": 9,
        "cache_read_tokens": 6,
        "cache_write_tokens": 3,
        "tokens_estimated": True,
        "cost_usd": 0.2,
        "unpriced_requests": 1,
        "cost_source": "mixed",
    }
    assert tuple(one(path)) == ("session", *costs.FIELDS)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ((ROW, ROW), (0.0, "local", 0)),
        ((PAID,) * 3, (0.3, "provider", 0)),
        ((ROW, PAID), (0.1, "mixed", 0)),
        ((UNKNOWN, UNKNOWN), (None, "unknown", 2)),
        ((PAID, UNKNOWN), (0.1, "mixed", 1)),
        ((PAID, REFUSED), (0.1, "provider", 0)),
        ((REFUSED,), (None, "unknown", 0)),
        ((attrs.evolve(UNKNOWN, cost_source="subscription"),), (None, "subscription", 1)),
        # One that left in the middle: a model has read it, somebody pays.
        ((attrs.evolve(UNKNOWN, status=499, error_type="cancelled"),), (None, "unknown", 1)),
    ],
)
def test_s10_what_a_sum_is_worth(path: str, rows: tuple[Row, ...], expected: tuple[Any, ...]) -> None:
    """Local is 0, unknown is nothing, and many small numbers do not end in digits that nobody has paid."""
    fill(path, *rows)
    group = one(path)

    assert (group["cost_usd"], group["cost_source"], group["unpriced_requests"]) == expected


def test_a_client_that_leaves_has_not_failed(path: str) -> None:
    fill(path, attrs.evolve(ROW, status=499, error_type="cancelled"))

    assert (one(path)["requests"], one(path)["failed"]) == (1, 0)


def test_tokens_that_nobody_has_read_are_not_zero(path: str) -> None:
    fill(path, REFUSED)

    assert [one(path)[name] for name in costs.FIELDS if name.endswith("put_tokens")] == [None, None]


@pytest.mark.parametrize(
    ("pid", "age_s", "expected"),
    [
        (os.getpid(), 1, (1, 0, 0)),
        (os.getpid(), 2 * ledger.SILENCE_S, (0, 1, 1)),  # another process has its number now
        (2**22 + 1, 1, (0, 1, 1)),
    ],
    ids=["alive", "silent", "gone"],
)
def test_an_answer_that_goes_on_has_not_failed(
    path: str, pid: int, age_s: float, expected: tuple[int, ...]
) -> None:
    """And owes nothing yet. A last will whose process is gone is true."""
    will = attrs.evolve(UNKNOWN, ts=time.time() - age_s, status=529, error_type=ledger.CUT, pid=pid)
    fill(path, will)

    assert (one(path)["in_progress"], one(path)["failed"], one(path)["unpriced_requests"]) == expected


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("model", [("openrouter/a/b",), ("ollama/m",), ("front",)]),
        ("agent", [("writer",), (None,)]),
        ("session", [("s1",), ("s2",)]),
        (
            "route",
            [("front>coder", "openrouter/a/b"), ("front>coder", "ollama/m"), ("front>coder", "front")],
        ),
    ],
)
def test_s81_groups_the_dearest_first(path: str, by: str, expected: list[tuple[str, ...]]) -> None:
    """A route whose requests went elsewhere shows it: who answered stands beside it."""
    nobody = attrs.evolve(REFUSED, provider="front", model="", agent=None, session_id="s2")
    fill(path, nobody, ROW, ROW, PAID)
    found = costs.read(path, by=by)

    assert [tuple(group[key] for key in costs.KEYS[by]) for group in found] == expected
    assert sum(group["requests"] for group in found) == 4


def test_s81_days_of_the_local_time_in_their_order(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour before midnight in one place is the next day in another."""
    monkeypatch.setenv("TZ", "UTC-2")
    time.tzset()
    try:
        fill(path, *(attrs.evolve(ROW, ts=86400.0 * day + 23 * 3600) for day in (9, 1, 9)))
        found = costs.read(path, by="day")
    finally:
        monkeypatch.undo()
        time.tzset()

    assert [(group["day"], group["requests"]) for group in found] == [("1970-01-03", 1), ("1970-01-11", 2)]


def test_only_what_is_young_enough(path: str) -> None:
    fill(path, ROW, attrs.evolve(ROW, ts=2000.0))

    assert one(path, since=1000.0)["requests"] == 2
    assert one(path, since=1000.1)["requests"] == 1
    assert costs.read(path, by="model", since=2000.1) == []


def test_no_more_groups_than_can_be_read(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "MOST_GROUPS", 2)
    fill(path, *(attrs.evolve(PAID, session_id=str(cents), cost_usd=cents / 100) for cents in range(5)))

    assert [group["session"] for group in costs.read(path, by="session")] == ["4", "3"]


def test_no_file_and_no_table_are_no_groups(path: str) -> None:
    assert costs.read(path, by="model") == []

    Path(path).touch()

    assert costs.read(path, by="model") == []


def test_s107_a_ledger_of_an_older_schema_adds_up(path: str) -> None:
    """Nobody has written to it since: it has no column for what was learnt later."""
    fill(path, PAID)
    db = ledger.connect(path, busy_s=1.0)
    for name in ("pid", "agent", "fallback", "cache_read_tokens", "tokens_estimated"):
        db.execute(f"ALTER TABLE requests DROP COLUMN {name}")
    db.close()
    [group] = costs.read(path, by="agent")

    assert (group["agent"], group["requests"], group["fallbacks"]) == (None, 1, 0)
    assert (group["cache_read_tokens"], group["tokens_estimated"], group["cost_usd"]) == (None, False, 0.1)


def test_a_file_that_is_no_ledger(path: str) -> None:
    Path(path).write_text("what is this? " * 100)

    with pytest.raises(ledger.UnreadableError, match=r"cannot read the ledger .*: file is not a database"):
        costs.read(path, by="model")


def test_the_total(path: str) -> None:
    """What was not asked takes no part, what is unknown is counted."""
    fill(path, ROW, PAID, PAID, PAID, UNKNOWN, REFUSED)
    every = [*costs.read(path, by="model"), costs.nothing(model="x")]
    [same] = costs.read(path, by="session")
    del same["session"]

    assert costs.total(every) == same
    assert costs.total([costs.nothing(model="x")])["cost_usd"] is None


def test_what_was_not_asked_has_all_the_fields_of_what_was() -> None:
    """It has cost nothing, and that is known."""
    group = costs.nothing(route="front>coder", model="ollama/m")

    assert tuple(group) == ("route", "model", *costs.FIELDS)
    assert (group["requests"], group["cost_usd"], group["cost_source"]) == (0, 0.0, None)
