"""Writing the ledger while requests run: at once when that is possible, never at a request's expense."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from modelproxy.worker import books as books_module
from modelproxy.worker import ledger
from modelproxy.worker.books import Books, Entry
from modelproxy.worker.ledger import Row

ROW = Row(
    ts=1.0,
    request_id="r",
    proxy="p",
    port=1,
    provider="x",
    model="m",
    route="x/m",
    status=200,
    duration_ms=1.0,
)


def numbered(number: int) -> Row:
    return attrs.evolve(ROW, ts=float(number), request_id=f"req_{number}")


@attrs.define
class Desk:
    """Books at work, and what they said."""

    books: Books
    said: list[dict[str, Any]]

    async def record(self, row: Row) -> Entry:
        entry = self.books.note(row)
        await self.books.settle(entry)
        return entry

    @property
    def ids(self) -> list[str]:
        return [row.request_id for row in ledger.read(self.books.path)]

    async def wait_opened(self) -> None:
        await self.wait(lambda: self.books._quick is not None)

    async def wait(self, condition: Any) -> None:
        with trio.fail_after(10):
            while not condition():  # noqa: ASYNC110  # another thread's work announces itself nowhere
                await trio.sleep(0.005)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "ledger.db")


@asynccontextmanager
async def desk(path: str) -> AsyncIterator[Desk]:
    said: list[dict[str, Any]] = []
    books = Books(path, log=lambda level, event, **fields: said.append({"level": level, **fields}))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(books.run)
        yield Desk(books, said)
        await books.close()
        nursery.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with less patience."""
    monkeypatch.setattr(books_module, "BUSY_S", 0.05)
    monkeypatch.setattr(books_module, "RETRY_S", 0.02)


async def test_the_first_row_waits_until_the_file_is_open(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in the file when its answer ends."""
    monkeypatch.setattr(books_module, "PATIENCE_S", 10.0)  # a busy disk is no trouble
    async with desk(path) as at:
        entry = await at.record(numbered(1))

        assert entry.number == 1
        assert at.ids == ["req_1"]


async def test_a_row_is_written_without_letting_others_run(path: str) -> None:
    """In the loop itself: no thread, no wait."""
    async with desk(path) as at:
        await at.wait_opened()
        entry = at.books.note(numbered(1))

        assert entry.number == 1
        assert at.ids == ["req_1"]


async def test_a_locked_file_costs_the_first_request_a_moment_and_the_next_ones_nothing(path: str) -> None:
    """And when the lock is gone, every row is there, in order."""
    async with desk(path) as at:
        await at.wait_opened()
        stranger = sqlite3.connect(path, isolation_level=None)
        stranger.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        for number in range(100):
            await at.record(numbered(number))
        took = time.monotonic() - began
        said = list(at.said)
        stranger.execute("ROLLBACK")
        await at.wait(lambda: len(at.ids) == 100)
        await at.wait(lambda: at.said[-1]["detail"] == "well again")

        assert (
            took < 50 * books_module.PATIENCE_S
        )  # did each wait for its patience, it would be 100 times that
        assert [entry["level"] for entry in said] == ["warning"]
        assert "in memory" in said[0]["detail"]
        assert at.ids == [f"req_{number}" for number in range(100)]
        stranger.close()


async def test_a_lock_of_a_moment_is_waited_for(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers that end an answer at the same instant: both rows are in the file in time."""
    monkeypatch.setattr(
        books_module, "PATIENCE_S", 10.0
    )  # how long a moment is on a busy disk is not the question
    async with desk(path) as at:
        await at.wait_opened()
        stranger = sqlite3.connect(path, isolation_level=None)
        stranger.execute("BEGIN IMMEDIATE")

        async def let_go() -> None:
            await trio.sleep(0.01)
            stranger.execute("ROLLBACK")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(let_go)
            entry = await at.record(numbered(1))

        assert entry.number == 1
        assert at.said == []
        stranger.close()


async def test_two_workers_write_one_file(path: str) -> None:
    """Nothing is lost, nothing twice. (One may say that it had to wait: how long is the machine's affair.)"""
    async with desk(path) as one, desk(path) as two:

        async def write(at: Desk, first: int) -> None:
            for number in range(first, first + 300):
                await at.record(numbered(number))
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, one, 0)
            nursery.start_soon(write, two, 1000)

        expected = {f"req_{number}" for first in (0, 1000) for number in range(first, first + 300)}
        await one.wait(lambda: expected <= set(one.ids))  # those behind one that waited in vain come later
        assert expected == set(one.ids)
        assert len(one.ids) == 600
        assert one.books.drops == two.books.drops == 0


async def test_a_file_that_cannot_be_made_loses_nothing_until_it_can(tmp_path: Path) -> None:
    """The folder comes late."""
    path = tmp_path / "late" / "ledger.db"
    async with desk(str(path)) as at:
        await at.record(numbered(1))
        await at.record(numbered(2))
        path.parent.mkdir()
        await at.wait(lambda: at.ids == ["req_1", "req_2"])

        assert at.books.drops == 0


async def test_a_full_disk_is_survived(path: str) -> None:
    """Rows are kept, and written when there is room again."""
    async with desk(path) as at:
        await at.wait_opened()
        for db in (at.books._quick, at.books._patient):
            assert db is not None
            pages = db.execute("PRAGMA page_count").fetchone()[0]
            db.execute(f"PRAGMA max_page_count={pages}")
        number = 0
        while at.books._trouble is None:
            await at.record(numbered(number))
            number += 1
            assert number < 1000
        detail = at.said[0]["detail"]
        written = len(at.ids)
        assert at.books._patient is not None
        at.books._patient.execute("PRAGMA max_page_count=100000")
        await at.wait(lambda: len(at.ids) == number)

        assert "full" in detail or "in time" in detail
        assert written < number
        assert at.books.drops == 0


async def test_rows_over_the_bound_are_counted(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old ones stay."""
    monkeypatch.setattr(books_module, "MOST_WAITING", 3)
    async with desk(path) as at:
        await at.wait_opened()
        stranger = sqlite3.connect(path, isolation_level=None)
        stranger.execute("BEGIN IMMEDIATE")
        for number in range(5):
            await at.record(numbered(number))
        dropped = at.books.drops
        stranger.execute("ROLLBACK")
        await at.wait(lambda: len(at.ids) == 3)

        assert dropped == 2
        assert at.ids == ["req_0", "req_1", "req_2"]
        stranger.close()


async def test_s107_a_newer_file_is_left_alone(path: str) -> None:
    """Rows stay in memory, the log says why."""

    def m900_later(db: sqlite3.Connection) -> None:
        db.execute("ALTER TABLE requests ADD COLUMN colour TEXT")

    db = ledger.connect(path, busy_s=1.0)
    ledger.migrate(db, (*ledger.MIGRATIONS, m900_later))
    db.close()
    async with desk(path) as at:
        await at.record(numbered(1))
        await at.wait(lambda: at.said)

        assert "newer version" in at.said[0]["detail"] or "newer version" in str(at.books._trouble)
        assert at.ids == []
    assert at.books.drops == 1
    assert at.said[-1]["rows_lost"] == 1


@pytest.mark.parametrize("how", ["removed", "replaced"])
async def test_a_file_that_its_owner_takes_away_is_made_anew(path: str, how: str) -> None:
    """Rows do not go on into a file without a name."""
    async with desk(path) as at:
        await at.record(numbered(1))
        await at.wait(lambda: at.ids == ["req_1"])  # a busy disk takes longer than a request waits
        for end in ("", "-wal", "-shm"):
            os.unlink(path + end)
        if how == "replaced":
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
        await at.record(numbered(2))
        await at.wait(lambda: at.ids == ["req_2"])


async def test_what_was_recorded_can_be_corrected(path: str) -> None:
    """The client left in the middle of the last bytes."""
    async with desk(path) as at:
        entry = await at.record(numbered(1))
        at.books.amend(entry, attrs.evolve(numbered(1), status=499))

        await at.wait(lambda: [row.status for row in ledger.read(path)] == [499])


@pytest.mark.parametrize("before", [True, False])
async def test_a_row_that_waits_can_be_corrected(path: str, before: bool) -> None:
    """It goes into the file as it is then; one that is there already is changed later."""
    async with desk(path) as at:
        await at.wait_opened()
        entry = at.books.note(numbered(1)) if before else None
        stranger = sqlite3.connect(path, isolation_level=None)
        stranger.execute("BEGIN IMMEDIATE")
        entry = entry or at.books.note(numbered(1))
        at.books.amend(entry, attrs.evolve(numbered(1), status=499))
        stranger.execute("ROLLBACK")
        await at.wait(lambda: [row.status for row in ledger.read(path)] == [499])
        stranger.close()


async def test_a_correction_while_the_thread_writes_is_not_lost(path: str) -> None:
    """It is written once more."""
    async with desk(path) as at:
        await at.wait_opened()
        stranger = sqlite3.connect(path, isolation_level=None)
        stranger.execute("BEGIN IMMEDIATE")
        entry = at.books.note(numbered(1))
        await trio.sleep(0.02)  # the thread waits for the lock with the first version in its hands
        at.books.amend(entry, attrs.evolve(numbered(1), status=499))
        stranger.execute("ROLLBACK")
        await at.wait(lambda: [row.status for row in ledger.read(path)] == [499])
        stranger.close()


async def test_a_row_that_goes_on_while_the_file_is_in_trouble_waits_once(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the rows of one long answer would fill the memory."""
    monkeypatch.setattr(books_module, "MOST_WAITING", 2)
    async with desk(path) as at:
        await at.wait_opened()
        known = await at.record(numbered(1))
        await at.wait(lambda: known.number is not None)
        stranger = sqlite3.connect(path, isolation_level=None)
        stranger.execute("BEGIN IMMEDIATE")
        fresh = at.books.note(numbered(2))
        for status in range(400, 420):
            at.books.amend(known, attrs.evolve(numbered(1), status=status))
            at.books.amend(fresh, attrs.evolve(numbered(2), status=status))
        dropped = at.books.drops
        stranger.execute("ROLLBACK")
        await at.wait(lambda: [row.status for row in ledger.read(path)] == [419, 419])

        assert dropped == 0
        stranger.close()


async def test_a_row_that_found_no_room_may_find_some_at_its_end(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it was not lost, and is not counted."""
    monkeypatch.setattr(books_module, "MOST_WAITING", 0)
    async with desk(path) as at:
        await at.wait_opened()
        stranger = sqlite3.connect(path, isolation_level=None)
        stranger.execute("BEGIN IMMEDIATE")
        entry = at.books.note(numbered(1))
        at.books.amend(entry, numbered(1))
        assert (entry.dropped, at.books.drops) == (True, 1)
        stranger.execute("ROLLBACK")
        at.books.amend(entry, attrs.evolve(numbered(1), status=499))
        monkeypatch.undo()

        await at.wait(lambda: [row.status for row in ledger.read(path)] == [499])
        assert at.books.drops == 0
        stranger.close()


async def test_the_end_of_a_row_that_is_there_is_waited_for(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file must say how it ended before the client knows that it has."""
    monkeypatch.setattr(books_module, "PATIENCE_S", 10.0)
    monkeypatch.setattr(books_module, "BUSY_S", 10.0)
    async with desk(path) as at:
        await at.wait_opened()
        entry = await at.record(numbered(1))
        stranger = sqlite3.connect(path, isolation_level=None)
        stranger.execute("BEGIN IMMEDIATE")
        at.books.amend(entry, attrs.evolve(numbered(1), status=400))
        await trio.sleep(0.02)  # the thread waits for the lock with this version in its hands
        at.books.amend(entry, attrs.evolve(numbered(1), status=499))
        stranger.execute("ROLLBACK")
        await at.books.settle(entry)

        assert not at.books._waiting
        assert [row.status for row in ledger.read(path)] == [499]
        stranger.close()


async def test_after_a_slow_write_the_thread_writes(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that makes the loop wait does it once."""
    monkeypatch.setattr(books_module, "SLOW_S", -1.0)
    async with desk(path) as at:
        await at.wait_opened()
        at.books.note(numbered(1))
        entry = at.books.note(numbered(2))
        written_at_once = entry.number
        await at.books.settle(entry)

        assert written_at_once is None
        assert at.ids == ["req_1", "req_2"]


async def test_the_log_of_writes_does_not_grow_without_end(path: str) -> None:
    """Checkpoints happen, in the thread."""
    async with desk(path) as at:
        await at.wait_opened()
        for number in range(6000):
            at.books.note(numbered(number))
            if number % 100 == 0:
                await at.wait(lambda: at.books._unsettled < books_module.CHECKPOINT_ROWS)

        assert os.stat(path + "-wal").st_size < 20_000_000  # without checkpoints it would be 50


async def test_closing_writes_what_waits_and_leaves_one_file(path: str) -> None:
    """The last of all workers tidies up."""
    async with desk(path) as at:
        at.books.note(numbered(1))

    assert os.listdir(os.path.dirname(path)) == ["ledger.db"]
    assert at.ids == ["req_1"]


async def test_a_worker_does_not_wait_for_a_file_in_trouble_when_it_ends(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what is lost."""
    monkeypatch.setattr(books_module, "LAST_WORDS_S", 0.1)
    stranger = None
    async with desk(path) as at:
        await at.wait_opened()
        stranger = sqlite3.connect(path, isolation_level=None)
        stranger.execute("BEGIN IMMEDIATE")
        at.books.note(numbered(1))

    assert at.books.drops == 1
    assert [said["rows_lost"] for said in at.said if "rows_lost" in said] == [1]
    stranger.close()


async def test_repr_tells_the_state(path: str) -> None:
    """For logs and debuggers."""
    assert "well waiting=0 drops=0" in repr(Books(path, log=print))
