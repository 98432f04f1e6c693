"""Log files: rotated by rename, read from their end.

The workers append to their file themselves, so that logging goes on without a supervisor. Rotation renames
it and asks the worker to open the new one; a worker that cannot hear goes on writing to the old file.
"""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path

MAX_BYTES = 10 * 1024 * 1024
KEPT = 3
_BLOCK = 64 * 1024


def is_full(path: Path, limit: int = MAX_BYTES) -> bool:
    try:
        return path.stat().st_size >= limit
    except OSError:
        return False


def rotate(path: Path, kept: int = KEPT) -> None:
    """`log` becomes `log.1`, that `log.2` …; the oldest goes."""
    for number in range(kept - 1, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        if older.exists():
            older.rename(path.with_name(f"{path.name}.{number + 1}"))
    path.rename(path.with_name(f"{path.name}.1"))


_STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ")


def fresh(lines: list[str], since: float) -> list[str]:
    """What was written since then (seconds since the epoch); what has no time of its own goes with the line before."""
    then = datetime.fromtimestamp(since, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z ")
    for number in range(len(lines) - 1, -1, -1):
        if _STAMP.match(lines[number]) and lines[number] < then:
            following = (at for at in range(number + 1, len(lines)) if _STAMP.match(lines[at]))
            return lines[next(following, len(lines)) :]
    return lines


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a file, however large it is; nothing when there is none."""
    if lines <= 0:
        return []
    try:
        with path.open("rb") as file:
            position = file.seek(0, os.SEEK_END)
            data = b""
            while position and data.count(b"\n") <= lines:
                step = min(_BLOCK, position)
                position -= step
                file.seek(position)
                data = file.read(step) + data
    except OSError:
        return []
    return [line.decode(errors="replace") for line in data.splitlines()[-lines:]]
