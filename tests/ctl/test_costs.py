"""`proxyctl costs`: the same sums from the supervisor and from the file, and what nobody has asked."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import Any

import pytest
from fakes import rows
from fakes.control import Control
from fakes.rows import fill
from fakes.terminal import Run

from modelproxy.ctl.costs import Way, idle
from modelproxy.supervisor.paths import Paths
from modelproxy.worker import costs

FRONT = {
    "name": "front",
    "wanted": True,
    "spec": {
        "model_id": "front",
        "front": {
            "places": [
                {"name": "coder", "model_id": "ollama/codellama", "url": None},
                {"name": "ollama/unused", "model_id": "ollama/unused", "url": None},
            ]
        },
    },
}
CODER = {"name": "coder", "wanted": True, "spec": {"model_id": "ollama/codellama"}}
ALONE = {"name": "echo/demo", "wanted": True, "spec": {"model_id": "echo/demo"}}
GONE = {"name": "echo/gone", "wanted": False, "spec": {"model_id": "echo/gone"}}


row = partial(rows.row, session_id="s", proxy="coder", model="codellama", route="front>coder")
PAID = row(provider="openrouter", model="a/b", cost_usd=0.0123, cost_source="provider", fallback=True)
UNKNOWN = row(
    provider="anthropic", model="claude-x", route="front>anthropic", cost_usd=None, cost_source="unknown"
)


def save(paths: Paths, *records: dict[str, Any]) -> None:
    paths.state_file.write_text(json.dumps({"proxies": records}))


@pytest.mark.parametrize("alive", [True, False])
def test_the_sums_as_json(run: Run, paths: Paths, alive: bool) -> None:
    """One list, whoever is asked."""
    fill(paths.ledger, row(), PAID)
    expected = costs.read(str(paths.ledger), by="model")
    if alive:
        with Control(paths) as control:
            control.replies["GET /v1/costs"] = 200, expected
            ran = run("costs", "--json")
    else:
        ran = run("costs", "--json")

    assert (ran.code, ran.json) == (0, expected)
    assert ran.err == ("" if alive else "the supervisor is not running; reading the ledger itself\n")


def test_what_is_asked_of_the_supervisor(run: Run, control: Control) -> None:
    """A duration becomes a time."""
    control.replies["GET /v1/costs"] = 200, []
    run("costs", "--by", "day", "--since", "2h")
    [(_, path, _)] = control.asked
    head, _, rest = path.partition("since=")
    since, _, tail = rest.partition("&")

    assert (head, tail) == ("/v1/costs?", "by=day")
    assert time.time() - float(since) == pytest.approx(7200, abs=60)


def test_s10_the_table(run: Run, paths: Paths) -> None:
    """Local is $0.00, what nobody knows a dash, and the total says how many it lacks."""
    fill(paths.ledger, row(), row(ts=time.time() - 9 * 86400), PAID, UNKNOWN)
    header, *lines = run("costs", "--since", "7d").out.splitlines()

    assert [name.strip() for name in header.split("  ") if name] == [
        *("MODEL", "REQUESTS", "FAILED", "FALLBACK", "IN", "FROM CACHE", "TO CACHE"),
        *("OUT", "COST", "UNPRICED", "SOURCE"),
    ]
    assert [line.split() for line in lines] == [
        ["openrouter/a/b", "1", "0", "1", "1234", "200", "34", "20", "$0.0123", "0", "provider"],
        ["ollama/codellama", "1", "0", "0", "1234", "200", "34", "20", "$0.00", "0", "local"],
        ["anthropic/claude-x", "1", "0", "0", "1234", "200", "34", "20", "-", "1", "unknown"],
        ["total", "3", "0", "1", "3702", "600", "102", "60", "$0.0123", "1", "mixed"],
    ]


@pytest.mark.parametrize("by", ["agent", "day", "session"])
def test_s81_by_what_else(run: Run, paths: Paths, by: str) -> None:
    """Each entry is known by a key of that name."""
    fill(paths.ledger, row(agent="writer", ts=1000.0))
    day = time.strftime("%Y-%m-%d", time.localtime(1000.0))
    [found] = run("costs", "--by", by, "--json").json

    assert found[by] == {"agent": "writer", "session": "s", "day": day}[by]
    assert run("costs", "--by", by).out.startswith(by.upper())


def test_s135_zero_local_traffic_is_seen(run: Run, paths: Paths) -> None:
    """All of a front's requests went elsewhere: the targets that got none have a row that says 0."""
    save(paths, FRONT, CODER, ALONE, GONE)
    fill(paths.ledger, PAID, UNKNOWN)
    found = run("costs", "--by", "route", "--json").json

    assert [(one["route"], one["model"], one["requests"]) for one in found] == [
        ("front>coder", "openrouter/a/b", 1),
        ("front>anthropic", "anthropic/claude-x", 1),
        ("front>coder", "ollama/codellama", 0),
        ("front>ollama/unused", "ollama/unused", 0),
        ("echo/demo", "echo/demo", 0),
    ]
    assert run("costs", "--by", "route").out.splitlines()[-1].split()[:2] == ["total", "2"]
    assert len(run("costs", "--json").json) == 2


@pytest.mark.parametrize("text", ["what is this?", '{"proxies": [{"name": "front", "spec": {"front": 7}}]}'])
def test_a_garbled_state_file_hides_no_costs(run: Run, paths: Paths, text: str) -> None:
    paths.state_file.write_text(text)
    fill(paths.ledger, row())
    ran = run("costs", "--by", "route", "--json")

    assert (ran.code, len(ran.json)) == (0, 1)


THROUGH = Way("front>coder", "ollama/x", "front", up=True)
STRAIGHT = Way("ollama/x", "ollama/x", None, up=True)


@pytest.mark.parametrize(
    ("reached", "ways", "expected"),
    [
        ([], [THROUGH, STRAIGHT], ["front>coder"]),
        ([], [STRAIGHT, STRAIGHT], ["ollama/x"]),
        ([("ollama/x", "ollama/x")], [STRAIGHT], []),
        ([("ollama/x", "openrouter/y")], [STRAIGHT], ["ollama/x"]),
        ([("front>ollama/x", "ollama/x")], [STRAIGHT], []),
        ([("ollama/x", "ollama/x")], [THROUGH, STRAIGHT], ["front>coder"]),
        ([("front>coder", "ollama/x")], [THROUGH, STRAIGHT], []),
        ([], [Way("front>coder", "ollama/x", "front", up=False)], []),
        # A session is over, and its front is gone with it.
        (
            [("front>anthropic", "anthropic/y")],
            [Way("front>coder", "ollama/x", "front", False)],
            ["front>coder"],
        ),
        ([("front/b>anthropic", "anthropic/y")], [Way("front>coder", "ollama/x", "front", False)], []),
        ([], [Way("ollama/x", "ollama/x", None, up=False)], []),
    ],
)
def test_s135_what_nobody_has_reached(
    reached: list[tuple[str, str]], ways: list[Way], expected: list[str]
) -> None:
    """Once, by the way that the user set up."""
    groups = [costs.nothing(route=route, model=model) for route, model in reached]

    assert [group["route"] for group in idle(groups, ways)] == expected


def test_there_may_be_more(run: Run, paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sum that lacks something says so."""
    monkeypatch.setattr(costs, "MOST_GROUPS", 1)
    fill(paths.ledger, row(session_id="a"), row(session_id="b"))
    ran = run("costs", "--by", "session", "--json")

    assert len(ran.json) == 1
    assert "only the 1 dearest are shown" in ran.err


@pytest.mark.parametrize("argv", [("--since", "5w"), ("--by", "proxy"), ("--by", ""), ("a",)])
def test_bad_usage(run: Run, argv: tuple[str, ...]) -> None:
    """Exit code 2 before anybody is asked."""
    ran = run("costs", "--json", *argv)

    assert (ran.code, json.loads(ran.out)["error"]["code"]) == (2, "usage")
