"""The ledger: one row for every model request, in one SQLite file that all workers share.

What a row says, how it is stored and how it is read; no event loop here (`books` writes for a worker), so
that the supervisor and the command line can read without one.

The schema grows by migrations, plain functions that are recorded in the file by name. A file that knows a
migration which this version does not was written by a newer one: it is left alone, because a row written
by somebody who does not know the columns would be a wrong row. Reading is more lenient: it takes the columns
that both sides know. A table that lacks columns, from before there was a record of migrations say, gets
them with the rows that it has.

An answer that lasts has a row before it ends, and that row is a *last will*: it says what is true if nothing
more is ever written, that the answer was cut. So nobody has to tidy up after a worker that was killed. It names
the process that is still at it; who reads it while that process lives, and has written of late, is shown a
request in progress instead.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    # Imported where it is used: a worker is ready before it needs it, most commands never do.
    import sqlite3

CANCELLED = 499
"""The status of a request whose client left before the answer was whole."""

CUT = "cut"
"""The error of an answer whose worker was killed in the middle of it."""

IN_PROGRESS = "in_progress"
"""What stands in its place as long as the answer goes on; only who reads a row sees this."""

SILENCE_S = 60.0
"""A process that wrote so long ago is not at it any more, whoever has its number now."""

MOST_ROWS = 10_000
"""At most so many are read at once."""


@attrs.frozen(kw_only=True)
class Row:
    """One model request and what became of it."""

    ts: float
    """When it came in, in seconds since the epoch."""
    request_id: str
    session_id: str | None = None
    agent: str | None = None
    agent_id: str | None = None
    """Of a sub-agent, as the client says it."""
    proxy: str
    port: int
    provider: str
    requested_model: str | None = None
    """None: the body could not be read."""
    model: str
    """The provider's own name for what answered, or was to."""
    route: str
    """The model id of the proxy: `ollama/qwen3:8b`; through a front both their names: `front>coder`."""
    stream: bool = False
    status: int | None
    """As the client saw it; of a stream that failed after its 200 what the failure would have been.

    None: it is not over.
    """
    error_type: str | None = None
    """In the words of the Messages API, or `cancelled`, CUT, IN_PROGRESS; None: the answer arrived whole."""
    stop_reason: str | None = None
    input_tokens: int | None = None
    """Without those from the cache. None: no model has seen the request."""
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    tokens_estimated: bool = False
    """At least one of the counts is ours, because the provider did not say."""
    cost_usd: float | None = None
    """None: nobody knows. Never 0 for that."""
    cost_source: str = "unknown"
    """`provider`, `price_table`, `local`, `unknown` or `subscription`."""
    duration_ms: float
    ttft_ms: float | None = None
    """To the first piece of the answer itself."""
    retry_count: int = 0
    fallback: bool = False
    fallback_reason: str | None = None
    token: str | None = None
    """The name of the access token that came with it; None: none did."""
    pid: int | None = None
    """The process that was at it when this was written; None: it came to its end."""


FIELDS = tuple(field.name for field in attrs.fields(Row))
_BOOLEANS = frozenset({"stream", "tokens_estimated", "fallback"})
_EMPTY: dict[str, Any] = {
    field.name: "" if str(field.type) == "str" else 0
    for field in attrs.fields(Row)
    if field.default is attrs.NOTHING
}
"""What a row says where it must say something and was written before that."""


class NewerSchemaError(Exception):
    """The file was written by a newer version."""


class UnreadableError(Exception):
    """The file cannot be read now; the text says which and why."""


# --- the schema ---------------------------------------------------------------------------------------

Migration = Callable[["sqlite3.Connection"], None]


def m001_requests(db: sqlite3.Connection) -> None:
    """The first table. No unique index over ids: they are random, and each would cost a cold page."""
    db.execute(
        """CREATE TABLE IF NOT EXISTS requests (
            id INTEGER PRIMARY KEY,
            ts REAL NOT NULL,
            request_id TEXT NOT NULL,
            session_id TEXT,
            agent TEXT,
            agent_id TEXT,
            proxy TEXT NOT NULL,
            port INTEGER NOT NULL,
            provider TEXT NOT NULL,
            requested_model TEXT,
            model TEXT NOT NULL,
            route TEXT NOT NULL,
            stream INTEGER NOT NULL,
            status INTEGER NOT NULL,
            error_type TEXT,
            stop_reason TEXT,
            input_tokens INTEGER,
            output_tokens INTEGER,
            cache_read_tokens INTEGER,
            cache_write_tokens INTEGER,
            tokens_estimated INTEGER NOT NULL,
            cost_usd REAL,
            cost_source TEXT NOT NULL,
            duration_ms REAL NOT NULL,
            ttft_ms REAL,
            retry_count INTEGER NOT NULL,
            fallback INTEGER NOT NULL,
            fallback_reason TEXT
        )"""
    )
    db.execute("CREATE INDEX IF NOT EXISTS requests_by_ts ON requests (ts)")


def m002_token(db: sqlite3.Connection) -> None:
    """Who asked, by the name of an access token."""
    if "token" in _lacking(db):
        db.execute("ALTER TABLE requests ADD COLUMN token TEXT")


def m003_pid(db: sqlite3.Connection) -> None:
    """Whose last will a row is."""
    if "pid" in _lacking(db):
        db.execute("ALTER TABLE requests ADD COLUMN pid INTEGER")


MIGRATIONS: tuple[Migration, ...] = (m001_requests, m002_token, m003_pid)
"""In order, for ever: one that was released is never changed."""


def migrate(db: sqlite3.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Bring the file to this version's schema. Raises NewerSchemaError where that is not for us to do."""
    wanted = [migration.__name__ for migration in migrations]
    if _applied(db) == wanted and not _lacking(db):
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        db.execute("CREATE TABLE IF NOT EXISTS migrations (name TEXT PRIMARY KEY, at TEXT NOT NULL)")
        applied = _applied(db)  # again: another worker may have been first
        if strangers := set(applied) - set(wanted):
            raise NewerSchemaError(f"it was written by a newer version ({', '.join(sorted(strangers))})")
        for migration in migrations[len(applied) :]:
            migration(db)
            db.execute("INSERT INTO migrations VALUES (?, datetime('now'))", (migration.__name__,))
        for name in _lacking(db):
            db.execute(f"ALTER TABLE requests ADD COLUMN {name} {_added(name)}")
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _applied(db: sqlite3.Connection) -> list[str]:
    known = db.execute("SELECT count(*) FROM sqlite_master WHERE type='table' AND name='migrations'")
    if not known.fetchone()[0]:
        return []
    return [name for (name,) in db.execute("SELECT name FROM migrations ORDER BY name")]


def _lacking(db: sqlite3.Connection) -> list[str]:
    there = columns(db)
    return [name for name in FIELDS if name not in there]


def _added(name: str) -> str:
    """A column for rows that were written without it: with nothing in it, where nothing is allowed."""
    kind, _, nothing = str(getattr(attrs.fields(Row), name).type).partition(" | ")
    affinity = {"str": "TEXT", "float": "REAL"}.get(kind, "INTEGER")
    if nothing:
        return affinity
    default = _EMPTY.get(name, getattr(attrs.fields(Row), name).default)
    return f"{affinity} NOT NULL DEFAULT {default!r}" if kind != "bool" else f"{affinity} NOT NULL DEFAULT 0"


# --- writing ------------------------------------------------------------------------------------------

_INSERT = f"INSERT INTO requests ({', '.join(FIELDS)}) VALUES ({', '.join('?' * len(FIELDS))})"
_REPLACE = f"UPDATE requests SET {', '.join(f'{name}=?' for name in FIELDS)} WHERE id=?"

values = attrs.astuple
"""A row as the statement's parameters."""


def connect(path: str, *, busy_s: float) -> sqlite3.Connection:
    """Open for writing, and make the file if there is none. Used by one thread at a time.

    A commit hands the row to the operating system and waits for nothing: it outlives this process however
    that ends, though perhaps not a power cut. Checkpoints, which do wait for the disk, are the caller's.
    """
    import sqlite3

    _make(path)
    db = sqlite3.connect(path, timeout=busy_s, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA journal_mode=WAL").fetchone()
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute("PRAGMA wal_autocheckpoint=0").fetchone()
        db.execute("PRAGMA journal_size_limit=16000000").fetchone()
    except BaseException:
        db.close()
        raise
    return db


def _make(path: str) -> None:
    """An empty file that only its owner can read; SQLite gives its two companions the same mode.

    One that exists is not opened: closing it would drop every lock that SQLite holds on it for this process
    (the rule of POSIX locks), and the next stranger to leave would take the write-ahead log for abandoned.
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        pass


def insert(db: sqlite3.Connection, row: Row) -> int:
    """Add a row; its number in the file."""
    number = db.execute(_INSERT, values(row, recurse=False)).lastrowid
    assert number is not None  # an INSERT always has one
    return number


def replace(db: sqlite3.Connection, number: int, row: Row) -> None:
    """Say something else in a row that is there."""
    db.execute(_REPLACE, (*values(row, recurse=False), number))


def checkpoint(db: sqlite3.Connection, *, most_log: int) -> None:
    """Move what was committed into the file itself. Waits for the disk, never for other writers.

    Rows that come meanwhile keep the log from being begun anew, so without a pause it would grow without end:
    over `most_log` bytes it is emptied under the writers' lock, which is short, as little is left to move.
    """
    db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    if _log_size(db) > most_log:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


def _log_size(db: sqlite3.Connection) -> int:
    path = db.execute("PRAGMA database_list").fetchone()[2]
    try:
        return os.stat(f"{path}-wal").st_size
    except OSError:
        return 0


# --- reading ------------------------------------------------------------------------------------------


def read(path: str, *, since: float = 0.0, limit: int = MOST_ROWS, proxy: str | None = None) -> list[Row]:
    """The newest rows, oldest of them first; none when there is no file. `proxy`: a name, model id or port;
    of a front also what others have answered that came through it.

    One that is not over is shown as it stands.

    Raises UnreadableError.
    """
    with reading(path) as db:
        if db is None:
            return []
        now = time.time()  # noqa: TID251  # rows have the time of day
        return [as_of(now, row) for row in _select(db, since, limit, proxy)]


@contextmanager
def reading(path: str) -> Iterator[sqlite3.Connection | None]:
    """The file, open to be read only; None when there is none. What SQLite says is an UnreadableError."""
    import sqlite3
    from urllib.parse import quote

    if not os.path.exists(path):  # read-only connections to nothing fail in words that help nobody
        yield None
        return
    try:
        db = sqlite3.connect(f"file:{quote(path)}?mode=ro", timeout=1.0, uri=True, isolation_level=None)
        try:
            yield db
        finally:
            db.close()
    except sqlite3.Error as error:
        raise UnreadableError(f"cannot read the ledger {path}: {error}") from None


# Of the route `front>coder` both ends; without a front all of it is the latter. The proxy's model is what
# answered, unless it fell back.
_VIA = "substr(route, 1, instr(route, '>') - 1)"
_THERE = "substr(route, instr(route, '>') + 1)"
_ASKED = "(NOT fallback AND provider || '/' || model = ?)"


def _select(db: sqlite3.Connection, since: float, limit: int, proxy: str | None) -> list[Row]:
    names = columns(db)
    if not names:
        return []
    where = "ts >= ?"
    parameters: list[float | str] = [since]
    if proxy is not None:
        through = f"(instr(route, '>') AND ({_VIA} = ? OR {_ASKED}))"
        where += f" AND (proxy = ? OR CAST(port AS TEXT) = ? OR {_THERE} = ? OR {through})"
        parameters += [proxy] * 5
    found = db.execute(
        f"SELECT {', '.join(names)} FROM requests WHERE {where} ORDER BY ts DESC, id DESC LIMIT ?",
        (*parameters, min(limit, MOST_ROWS)),
    ).fetchall()
    return [_row(names, one) for one in reversed(found)]


def columns(db: sqlite3.Connection) -> list[str]:
    """Those that both sides know; none in a file that a worker is just about to fill."""
    there = {name for _, name, *_ in db.execute("PRAGMA table_info(requests)")}
    return [name for name in FIELDS if name in there]


def _row(names: Sequence[str], found: Sequence[Any]) -> Row:
    document = dict(zip(names, found, strict=True))
    for name in _BOOLEANS & document.keys():
        document[name] = bool(document[name])
    return Row(**(_EMPTY | document))


def as_of(now: float, row: Row) -> Row:
    """What a row says at that time: a last will is not yet true while its process is at it."""
    if row.pid is None or now - (row.ts + row.duration_ms / 1000) > SILENCE_S or not is_alive(row.pid):
        return row
    return attrs.evolve(row, status=None, error_type=IN_PROGRESS)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # somebody else's, but alive
    return True


def to_document(row: Row) -> dict[str, Any]:
    """A row as it is printed; every field is there, null or not."""
    return {name: getattr(row, name) for name in FIELDS}


def from_document(document: object) -> Row:
    """The row in a document of ours. Raises for unknown fields and wrong types."""
    from .contract import strict_converter

    return strict_converter().structure(document, Row)
