"""`GET /v1/usage` and `GET /v1/costs`: the ledger's rows, and what they add up to, over the control API."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from fakes.exchange import FakeExchange, request
from fakes.rows import fill

from modelproxy.supervisor.control import Control
from modelproxy.supervisor.paths import Paths, prepare
from modelproxy.worker import ledger
from modelproxy.worker.ledger import Row

ROW = Row(
    ts=1.5,
    request_id="1",
    proxy="p",
    port=1,
    provider="x",
    model="m",
    route="x/m",
    status=200,
    duration_ms=1.0,
)
ROWS = [
    attrs.evolve(ROW, ts=number + 0.5, request_id=str(number), proxy=f"p{number % 2}") for number in range(5)
]


@attrs.define
class Asked(FakeExchange):
    """With the socket whose peer the supervisor looks at."""

    socket: Any = None


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    paths = Paths(tmp_path / "run", tmp_path / "state", tmp_path / "config")
    prepare(paths)
    return paths


@pytest.fixture
def peer() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours


async def ask(
    paths: Paths, peer: socket.socket, query: str = "", what: str = "usage"
) -> tuple[int | None, Any]:
    nothing: Any = None  # no other part of the supervisor is asked
    control = Control(
        nothing,
        nothing,
        paths,
        started_at=0.0,
        spawn=lambda: "exec",
        warnings=list,
        leave=nothing,
        reload=nothing,
        log=lambda text: None,
    )
    exchange: Any = Asked(request=request("GET", f"/v1/{what}{query}", ()), socket=peer)
    await control.handle(exchange)
    return exchange.status, json.loads(exchange.sent)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", "01234"),
        ("?limit=2", "34"),
        ("?since=2.5", "234"),
        ("?since=2.6", "34"),
        ("?proxy=p1", "13"),
        ("?proxy=p0&since=1&limit=1", "4"),
        ("?proxy=x%2Fm&limit=999999999", "01234"),
        ("?limit=0", ""),
    ],
)
async def test_the_rows_that_were_asked_for(
    paths: Paths, peer: socket.socket, query: str, expected: str
) -> None:
    """The newest last."""
    fill(paths.ledger, *ROWS)
    status, rows = await ask(paths, peer, query)

    assert status == 200
    assert expected == "".join(row["request_id"] for row in rows)
    assert all(tuple(row) == ledger.FIELDS for row in rows)


async def test_before_the_first_request_there_are_none(paths: Paths, peer: socket.socket) -> None:
    """Not an error."""
    assert await ask(paths, peer) == (200, [])


@pytest.mark.parametrize("query", ["?since=yesterday", "?since=-1", "?since=1e3", "?limit=x", "?since=."])
async def test_nonsense_is_refused(paths: Paths, peer: socket.socket, query: str) -> None:
    """By name."""
    status, document = await ask(paths, peer, query)

    assert status == 400
    assert query[1:].partition("=")[0] in document["error"]["message"]


async def test_a_file_that_cannot_be_read(paths: Paths, peer: socket.socket) -> None:
    """The supervisor goes on."""
    paths.ledger.write_text("what is this? " * 100)
    status, document = await ask(paths, peer)

    assert status == 500
    assert document["error"]["code"] == "ledger_unreadable"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", {("model", "x/m"): 5}),
        ("?by=model&since=2.5", {("model", "x/m"): 3}),
        ("?by=route", {("route", "x/m"): 5}),
        ("?by=session", {("session", None): 5}),
        ("?by=model&since=9", {}),
    ],
)
async def test_the_sums_that_were_asked_for(
    paths: Paths, peer: socket.socket, query: str, expected: dict[tuple[str, str | None], int]
) -> None:
    """By model, unless something else is said."""
    fill(paths.ledger, *ROWS)
    status, groups = await ask(paths, peer, query, "costs")

    assert status == 200
    assert expected == {next(iter(group.items())): group["requests"] for group in groups}


@pytest.mark.parametrize("query", ["?by=proxy", "?by=request_id", "?since=yesterday"])
async def test_sums_that_there_are_not(paths: Paths, peer: socket.socket, query: str) -> None:
    """Refused by name; what is asked for is never part of a statement."""
    status, document = await ask(paths, peer, query, "costs")

    assert (status, document["error"]["code"]) == (400, "bad_request")
    assert query[1:].partition("=")[0] in document["error"]["message"]


async def test_a_file_that_cannot_be_added_up(paths: Paths, peer: socket.socket) -> None:
    paths.ledger.write_text("what is this? " * 100)
    status, document = await ask(paths, peer, "", "costs")

    assert (status, document["error"]["code"]) == (500, "ledger_unreadable")
