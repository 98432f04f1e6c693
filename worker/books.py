"""A worker's hand that writes the ledger, and never lets a request wait for it.

Theory of operation
-------------------
A row is to be in the file before its client can know that the answer is complete: then nobody ever sees an
answer without a row, also when the worker is killed the moment after. Insert and commit take some 25 µs
(99 of 100 less than 0.1 ms; a thread's hop and back alone takes 100 µs), so a row is written right in the
event loop, by a connection that never waits: it has no busy timeout and makes no checkpoints. Everything
that may take time is done in a thread, by a second connection: opening, migrating, checkpoints, and all
rows that the quick one could not write because somebody else held the lock, the disk was full, the last
write was slow, or the file is gone.

Such rows wait in memory, and their request waits for them a moment (`PATIENCE_S`). The first that waits in
vain is the last one: while the file is in trouble, rows are kept and nobody waits. They are written when it
is well again; what goes over the bound is counted in `drops`.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import attrs
import trio

from . import ledger
from .ledger import Row

if TYPE_CHECKING:
    import sqlite3

PATIENCE_S = 0.05
"""How long an answer's last bytes may wait for the ledger."""
SLOW_S = 0.02
"""A write in the event loop that takes so long is the last one for a while."""
SLOW_REST_S = 30.0
BUSY_S = 1.0
"""How long the thread waits for another writer before that counts as trouble."""
RETRY_S = 0.25
LONGEST_RETRY_S = 5.0
MOST_WAITING = 10_000
"""Rows in memory: some 10 MB."""
BATCH = 500
CHECKPOINT_ROWS = 250
"""So many rows take about 3 MB of the write-ahead log."""
MOST_LOG = 8 * 1024 * 1024
"""A write-ahead log over this is emptied, though writers are kept out for a moment."""
LAST_WORDS_S = 1.0

Log = Callable[..., None]
_T = TypeVar("_T")


@attrs.define(eq=False)
class Entry:
    """A row on its way."""

    row: Row
    number: int | None = None
    """Its number in the file, once it is there."""
    queued: bool = False
    """It waits for the thread, once."""
    dropped: bool = False
    written: trio.Event | None = None


class Books:
    """All rows of one worker. `run` is its task; without it rows are only collected."""

    def __init__(self, path: str, *, log: Log) -> None:
        self.path = path
        self.drops = 0
        """Rows that were lost because the file was in trouble for too long."""
        self._log = log
        self._quick: sqlite3.Connection | None = None
        self._patient: sqlite3.Connection | None = None
        self._waiting: deque[Entry] = deque()
        self._stirred = trio.Event()
        self._closing = trio.Event()
        self._closed = trio.Event()
        self._file = 0
        self._lost = False
        self._trouble: str | None = None
        self._slow_until = 0.0
        self._unsettled = 0
        self._limiter = trio.CapacityLimiter(1)

    def __repr__(self) -> str:
        state = f"in trouble: {self._trouble}" if self._trouble else "well"
        return f"<Books {self.path} {state} waiting={len(self._waiting)} drops={self.drops}>"

    # --- for the handler ---

    def note(self, row: Row) -> Entry:
        """Write a row now if that costs nothing, else soon."""
        entry = Entry(row)
        if not self._write_now(entry):
            self._keep(entry)
        return entry

    async def settle(self, entry: Entry) -> None:
        """Wait until the row is in the file as it is now, but not for long."""
        if entry.queued and self._trouble is None:
            entry.written = trio.Event()
            with trio.move_on_after(PATIENCE_S) as scope:
                await entry.written.wait()
            if scope.cancelled_caught:
                self._suffer("it does not take rows in time")

    def amend(self, entry: Entry, row: Row) -> None:
        """What was recorded has gone on, or came out otherwise."""
        entry.row = row
        if entry.queued:
            return  # it goes into the file as it is now
        if entry.dropped:  # counted too early
            entry.dropped = False
            self.drops -= 1
        if not self._write_now(entry):
            self._keep(entry)

    def _write_now(self, entry: Entry) -> bool:
        began = time.monotonic()
        if self._quick is None or self._lost or self._waiting or began < self._slow_until:
            return False
        if _inode(self.path) != self._file:  # removed or replaced by its owner: rows would go nowhere
            self._lost = True
            return False
        if not _tried(self._quick, entry):
            return False
        if time.monotonic() - began > SLOW_S:
            self._slow_until = began + SLOW_REST_S
        self._unsettled += 1
        if self._unsettled >= CHECKPOINT_ROWS:
            self._stirred.set()
        return True

    def _keep(self, entry: Entry) -> None:
        if len(self._waiting) >= MOST_WAITING:
            self.drops += 1
            entry.dropped = True
        else:
            entry.queued = True
            self._waiting.append(entry)
            self._stirred.set()

    # --- the task ---

    async def run(self) -> None:
        """Write what could not be written at once, until `close`."""
        pause = RETRY_S
        while True:
            well = await self._work()
            if self._closing.is_set():
                break
            if well:
                pause = RETRY_S
                await self._stirred.wait()
            else:
                with trio.move_on_after(pause):
                    await self._closing.wait()
                pause = min(pause * 2, LONGEST_RETRY_S)
        await self._in_thread(self._disconnect)
        self._closed.set()

    async def close(self) -> None:
        """Let `run` write the last rows and let go of the file; gives up after LAST_WORDS_S."""
        self._closing.set()
        self._stirred.set()
        with trio.move_on_after(LAST_WORDS_S):
            await self._closed.wait()
        if self._waiting:
            self.drops += len(self._waiting)
            self._log("error", "ledger", file=self.path, rows_lost=len(self._waiting), detail=self._trouble)

    async def _work(self) -> bool:
        """One round; False when it is to be tried again."""
        import sqlite3

        try:
            while True:
                # Before each batch: the file may have been taken away while the last one was written.
                if self._quick is None or self._lost or (self._waiting and _inode(self.path) != self._file):
                    self._quick, self._patient, self._file = await self._in_thread(self._connect)
                    self._lost = False
                self._stirred = trio.Event()
                if self._waiting:
                    await self._write_batch()
                elif self._unsettled >= CHECKPOINT_ROWS:
                    self._unsettled = 0
                    await self._in_thread(self._checkpoint)
                else:
                    break
        except (sqlite3.Error, OSError, ledger.NewerSchemaError) as error:
            self._suffer(str(error) or type(error).__name__)
            return False
        self._recover()
        return True

    async def _write_batch(self) -> None:
        batch = [self._waiting[index] for index in range(min(BATCH, len(self._waiting)))]
        rows = [(entry.number, entry.row) for entry in batch]
        numbers = await self._in_thread(lambda: self._write_rows(rows))
        for entry, number, (_, row) in zip(batch, numbers, rows, strict=True):
            self._waiting.popleft()
            entry.number = number
            if entry.row is not row:  # amended while the thread wrote
                self._waiting.append(entry)
                continue
            entry.queued = False
            if entry.written is not None:
                entry.written.set()
        self._unsettled += len(batch)

    def _suffer(self, reason: str) -> None:
        if self._trouble is None:
            self._log("warning", "ledger", file=self.path, detail=f"rows are kept in memory: {reason}")
        self._trouble = reason

    def _recover(self) -> None:
        if self._trouble is not None:
            self._log("info", "ledger", file=self.path, detail="well again", drops=self.drops)
            self._trouble = None

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        # Abandoned when the worker ends: a disk that hangs must not keep it.
        return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._limiter)

    # --- in the thread ---

    def _connect(self) -> tuple[sqlite3.Connection, sqlite3.Connection, int]:
        self._disconnect()
        patient = ledger.connect(self.path, busy_s=BUSY_S)
        try:
            ledger.migrate(patient)
            return ledger.connect(self.path, busy_s=0.0), patient, _inode(self.path)
        except BaseException:
            patient.close()
            raise

    def _write_rows(self, rows: list[tuple[int | None, Row]]) -> list[int]:
        assert self._patient is not None  # `_work` connects first
        db = self._patient
        db.execute("BEGIN IMMEDIATE")
        try:
            numbers = [_put(db, number, row) for number, row in rows]
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:  # a full disk may have rolled it back already
                db.execute("ROLLBACK")
            raise
        return numbers

    def _checkpoint(self) -> None:
        assert self._patient is not None  # `_work` connects first
        ledger.checkpoint(self._patient, most_log=MOST_LOG)

    def _disconnect(self) -> None:
        """The last one of all workers to do this settles the file and removes its companions."""
        for db in (self._quick, self._patient):
            if db is not None:
                db.close()
        self._quick = self._patient = None


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


def _put(db: sqlite3.Connection, number: int | None, row: Row) -> int:
    if number is None:
        return ledger.insert(db, row)
    ledger.replace(db, number, row)
    return number


def _tried(db: sqlite3.Connection, entry: Entry) -> bool:
    import sqlite3

    try:
        entry.number = _put(db, entry.number, entry.row)
    except sqlite3.Error:
        return False  # locked, or full, or gone: the thread finds out
    return True
