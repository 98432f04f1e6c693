"""The ledger's file: what goes in comes out, schemas change without losing a row."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import attrs
import pytest
from fakes.rows import fill

from modelproxy.worker import ledger
from modelproxy.worker.ledger import MIGRATIONS, Row, UnreadableError

ROW = Row(
    ts=1000.5,
    request_id="req_1",
    session_id="s",
    agent_id="a",
    proxy="demo",
    port=3457,
    provider="echo",
    requested_model="claude-sonnet-4-5",
    model="demo-model",
    route="echo/demo-model",
    stream=True,
    status=200,
    stop_reason="end_turn",
    input_tokens=10,
    output_tokens=2**40,
    cache_read_tokens=0,
    cache_write_tokens=3,
    tokens_estimated=True,
    cost_usd=0.0123,
    cost_source="provider",
    duration_ms=12.5,
    ttft_ms=0.4,
    retry_count=2,
    fallback=True,
    fallback_reason="unreachable",
    token="ci",
)
BARE = Row(
    ts=1.0,
    request_id="r",
    proxy="p",
    port=1,
    provider="x",
    model="m",
    route="x/m",
    status=400,
    duration_ms=1.0,
)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "a ledger?.db")  # characters that a URI would misread


def m900_colour(db: sqlite3.Connection) -> None:
    db.execute("ALTER TABLE requests ADD COLUMN colour TEXT NOT NULL DEFAULT 'grey'")


LATER = (*MIGRATIONS, m900_colour)


def test_s135_the_fields_are_those_that_are_promised() -> None:
    """Names and order, word for word."""
    promised = (
        "ts request_id session_id agent agent_id proxy port provider requested_model model route stream status "
        "error_type stop_reason input_tokens output_tokens cache_read_tokens cache_write_tokens tokens_estimated "
        "cost_usd cost_source duration_ms ttft_ms retry_count fallback fallback_reason token pid"
    )

    assert tuple(promised.split()) == ledger.FIELDS


@pytest.mark.parametrize("row", [ROW, BARE])
def test_what_goes_in_comes_out(path: str, row: Row) -> None:
    """With its types: a yes is not a 1."""
    fill(path, row)

    assert [row] == ledger.read(path)


@pytest.mark.parametrize("row", [ROW, BARE])
def test_s107_a_row_survives_the_trip_to_json_and_back(row: Row) -> None:
    """Every field is there, null or not."""
    document = ledger.to_document(row)

    assert tuple(document) == ledger.FIELDS
    assert row == ledger.from_document(document)


def test_s107_an_unknown_field_is_refused() -> None:
    """The record is one typed class."""
    with pytest.raises(ExceptionGroup):
        ledger.from_document(ledger.to_document(ROW) | {"price": 1})


def test_s107_a_missing_optional_field_is_none() -> None:
    """What older rows do not have."""
    document = {name: value for name, value in ledger.to_document(ROW).items() if name != "ttft_ms"}

    assert attrs.evolve(ROW, ttft_ms=None) == ledger.from_document(document)


def test_a_wrong_type_is_refused() -> None:
    """Nothing is converted in silence."""
    with pytest.raises(ExceptionGroup):
        ledger.from_document(ledger.to_document(ROW) | {"port": "3457"})


def test_rows_from_before_there_were_tokens_are_kept(path: str) -> None:
    fill(path, migrations=MIGRATIONS[:1])
    db = sqlite3.connect(path)
    db.execute("ALTER TABLE requests DROP COLUMN token")  # this version adds what is lacking at once
    db.close()
    fill(path, ROW)

    assert [row.token for row in ledger.read(path)] == ["ci"]
    db = sqlite3.connect(path)
    assert db.execute("SELECT name FROM migrations ORDER BY name").fetchall()[1] == ("m002_token",)
    db.close()


def test_s107_an_older_schema_is_migrated_and_nothing_is_lost(path: str) -> None:
    """Rows written before the change are there after it."""
    fill(path, ROW, BARE)
    fill(path, migrations=LATER)
    db = sqlite3.connect(path)

    assert db.execute("SELECT colour FROM requests").fetchall() == [("grey",), ("grey",)]
    assert ledger.read(path) == [BARE, ROW]
    db.close()


OLD = """CREATE TABLE requests (
    id INTEGER PRIMARY KEY, ts REAL NOT NULL, request_id TEXT NOT NULL, proxy TEXT NOT NULL, model TEXT NOT NULL,
    status INTEGER NOT NULL, input_tokens INTEGER, cost_usd REAL, note TEXT
)"""


@pytest.mark.parametrize("recorded", [False, True])
def test_s107_a_table_that_lacks_columns_gets_them(path: str, recorded: bool) -> None:
    """With or without a record of migrations; its rows stay, and so does a column that nobody knows."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(OLD)
    db.execute("INSERT INTO requests VALUES (7, 500.0, 'req_0', 'demo', 'm', 200, 10, 0.5, 'kept')")
    if recorded:
        db.execute("CREATE TABLE migrations (name TEXT PRIMARY KEY, at TEXT NOT NULL)")
        db.execute("INSERT INTO migrations VALUES ('m001_requests', 'then')")
    old = Row(
        ts=500.0, request_id="req_0", proxy="demo", port=0, provider="", model="m", route="", status=200,
        input_tokens=10, cost_usd=0.5, duration_ms=0,
    )  # fmt: skip
    assert ledger.read(path) == [old]
    fill(path, ROW)

    assert ledger.read(path) == [old, ROW]
    assert db.execute("SELECT note FROM requests").fetchall() == [("kept",), (None,)]
    db.close()


def test_a_newer_schema_is_not_touched(path: str) -> None:
    """Not by as much as a byte; reading it is fine."""
    fill(path, ROW, migrations=LATER)
    before = Path(path).read_bytes()
    with pytest.raises(ledger.NewerSchemaError, match="m900_colour"):
        fill(path, BARE)

    assert before == Path(path).read_bytes()
    assert ledger.read(path) == [ROW]


def test_a_migration_that_fails_leaves_the_old_schema(path: str) -> None:
    """All or nothing."""

    def m900_broken(db: sqlite3.Connection) -> None:
        m900_colour(db)
        raise RuntimeError

    fill(path, ROW)
    with pytest.raises(RuntimeError):
        fill(path, migrations=(*MIGRATIONS, m900_broken))
    fill(path, BARE)

    assert ledger.read(path) == [BARE, ROW]


def test_columns_that_the_file_does_not_have_are_left_at_their_default(path: str) -> None:
    """A newer reader, an older file that no worker has migrated yet."""
    fill(path, ROW)
    db = sqlite3.connect(path)
    db.execute("ALTER TABLE requests DROP COLUMN ttft_ms")
    db.close()

    assert [attrs.evolve(ROW, ttft_ms=None)] == ledger.read(path)


def test_many_that_start_at_once_migrate_once(path: str) -> None:
    """All workers of a machine come up together."""
    gate = threading.Barrier(8)
    failed: list[BaseException] = []

    def start() -> None:
        gate.wait()
        try:
            fill(path, ROW)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    # Turning the write-ahead log on may meet a lock, which no timeout covers: `books` tries again.
    assert all("locked" in str(error) for error in failed)
    assert 8 - len(failed) == len(ledger.read(path))


def test_only_its_owner_can_read_it(path: str) -> None:
    """Session ids and model names are nobody else's business; the companions too."""
    old = os.umask(0)
    try:
        db = ledger.connect(path, busy_s=1.0)
        ledger.migrate(db)
    finally:
        os.umask(old)

    assert {0o600} == {os.stat(path + end).st_mode & 0o777 for end in ("", "-wal", "-shm")}
    db.close()


def test_a_row_can_be_corrected(path: str) -> None:
    """Its number stays."""
    db = ledger.connect(path, busy_s=1.0)
    ledger.migrate(db)
    number = ledger.insert(db, BARE)
    ledger.insert(db, ROW)
    ledger.replace(db, number, attrs.evolve(BARE, status=499))
    db.close()

    assert [attrs.evolve(BARE, status=499), ROW] == ledger.read(path)


def test_the_newest_rows_are_read_oldest_first(path: str) -> None:
    """As a log is."""
    fill(path, *(attrs.evolve(BARE, ts=float(number)) for number in (3, 1, 4, 2, 5)))

    assert [row.ts for row in ledger.read(path, limit=2)] == [4.0, 5.0]
    assert [row.ts for row in ledger.read(path, since=3.0)] == [3.0, 4.0, 5.0]
    assert ledger.read(path, limit=0) == []


@pytest.mark.parametrize("wanted", ["demo", "echo/demo-model", "3457"])
def test_rows_of_one_proxy(path: str, wanted: str) -> None:
    """By whatever its user calls it."""
    fill(path, ROW, BARE)

    assert ledger.read(path, proxy=wanted) == [ROW]


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        ("front", ["1", "2", "3", "5", "6"]),
        ("coder", ["2", "4", "5", "6"]),
        ("ollama/x", ["2", "4"]),
        ("openai/y", []),
        ("anthropic", ["1"]),
        ("", []),
    ],
)
def test_what_came_through_a_front_is_found_from_both_ends(path: str, wanted: str, ids: list[str]) -> None:
    """A proxy also by its model; what another target has answered is not the other's."""
    mine = attrs.evolve(ROW, port=1, provider="ollama", model="x", fallback=False)
    home = attrs.evolve(mine, proxy="front", provider="anthropic", model="claude-x")
    coder = attrs.evolve(mine, proxy="coder")
    rows = [
        attrs.evolve(home, route="front>anthropic"),
        attrs.evolve(coder, route="front>coder"),
        attrs.evolve(home, route="front"),
        attrs.evolve(coder, route="ollama/x"),
        attrs.evolve(coder, route="front>coder", provider="openai", model="y", fallback=True),
        attrs.evolve(home, route="front>coder", provider="ollama", model="z"),
    ]
    fill(path, *(attrs.evolve(row, request_id=str(number)) for number, row in enumerate(rows, 1)))

    assert [row.request_id for row in ledger.read(path, proxy=wanted)] == ids


def test_no_file_has_no_rows(tmp_path: Path) -> None:
    """And none is made by looking."""
    assert ledger.read(str(tmp_path / "none.db")) == []
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_has_no_rows(path: str) -> None:
    """A worker makes it before it fills it."""
    Path(path).touch()

    assert ledger.read(path) == []


def test_what_is_no_ledger_is_said_to_be_unreadable(path: str) -> None:
    """With its name."""
    Path(path).write_bytes(b"what is this? " * 100)
    with pytest.raises(UnreadableError, match=r"a ledger\?\.db.*not a database"):
        ledger.read(path)


def test_a_row_is_there_for_others_as_soon_as_it_is_inserted(path: str) -> None:
    """No transaction is left open, and reading does not wait for a writer."""
    db = ledger.connect(path, busy_s=1.0)
    ledger.migrate(db)
    ledger.insert(db, ROW)
    seen = ledger.read(path)
    db.execute("BEGIN IMMEDIATE")

    assert seen == [ROW]
    assert ledger.read(path) == [ROW]
    db.close()


# --- last wills -------------------------------------------------------------------------------------

WILL = attrs.evolve(ROW, status=500, error_type=ledger.CUT, stop_reason=None, duration_ms=2000.0)


def gone() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def test_a_request_whose_process_is_at_it_is_in_progress(path: str) -> None:
    """One row, with the numbers so far, and no verdict."""
    will = attrs.evolve(WILL, ts=time.time(), pid=os.getpid())
    fill(path, will)

    assert ledger.read(path) == [attrs.evolve(will, status=None, error_type=ledger.IN_PROGRESS)]


def test_a_request_whose_process_is_gone_was_cut(path: str) -> None:
    """Nobody has to tidy up: the row says so itself."""
    will = attrs.evolve(WILL, ts=time.time(), pid=gone())
    fill(path, will)

    assert ledger.read(path) == [will]


@pytest.mark.parametrize(("later_s", "at_it"), [(2.0, True), (2.0 + ledger.SILENCE_S, True), (63.0, False)])
def test_a_number_that_somebody_else_has_now_proves_nothing(later_s: float, at_it: bool) -> None:
    """A process that is at it writes now and then."""
    will = attrs.evolve(WILL, pid=os.getpid())

    seen = ledger.as_of(will.ts + later_s, will)
    assert (seen.error_type == ledger.IN_PROGRESS) == at_it
    assert ledger.as_of(will.ts + later_s, ROW) == ROW  # what has ended says what it says


def test_a_process_of_somebody_else_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refused)

    assert ledger.as_of(WILL.ts, attrs.evolve(WILL, pid=1)).status is None
