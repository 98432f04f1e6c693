"""A proxy's log, from its file: the supervisor may be dead, and that is when one reads logs.

The supervisor rotates by renaming (`x.log` becomes `x.log.1`), and the worker may go on writing to the
renamed file for a moment until it reopens. So a follower keeps its open file: when another file stands at
the path, the old one is read to its end first. There is no notification without a dependency, so the size
is looked at ten times per second.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False  # see faults
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

POLL_S = 0.1
SETTLE_S = 0.5
"""How long after a rotation the old file may still grow."""
_BLOCK = 64 * 1024


def tail(path: str | os.PathLike[str], lines: int) -> list[str]:
    """The last `lines` lines, from the file before the last rotation too if this one has too few."""
    name = os.fspath(path)
    file = _open(name)
    if file is None:
        return _older(name, lines)
    with file:
        found = _last_lines(file, lines, file.seek(0, os.SEEK_END))
    return _older(name, lines - len(found)) + found


def follow(
    path: str | os.PathLike[str], lines: int, pause: Callable[[], None] = lambda: time.sleep(POLL_S)
) -> Iterator[str]:
    """The last `lines` lines and then every further one, across rotations. Never ends by itself.

    `pause` is called whenever there is nothing to read.
    """
    name = os.fspath(path)
    file, buffer = _open(name), _Lines()
    if file is None:
        yield from _older(name, lines)
    else:
        # One file and one position for both halves: nothing is lost or said twice between them.
        end = _end_of_last_line(file)
        found = _last_lines(file, lines, end)
        yield from _older(name, lines - len(found)) + found
        file.seek(end)
    while True:
        if file is not None:
            yield from buffer.feed(file.read())
            if not _was_replaced(file, name):
                _start_over_if_cut(file)
                pause()
                continue
            yield from _rest(file, buffer, pause)
            file.close()
        file = _open(name)
        if file is None:
            pause()


class _Lines:
    """Whole lines only: a writer may be in the middle of one."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[str]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        yield from map(_text, lines)

    def end(self) -> Iterator[str]:
        """The last words of a file that will not grow any more."""
        if self._rest:
            yield _text(self._rest)
        self._rest = b""


def _rest(file: BinaryIO, buffer: _Lines, pause: Callable[[], None]) -> Iterator[str]:
    """What still comes into a renamed file, until its writer has had the time to reopen."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        over = time.monotonic() >= deadline
        yield from buffer.feed(file.read())
        if over:
            break
        pause()
    yield from buffer.end()


def _was_replaced(file: BinaryIO, name: str) -> bool:
    try:
        now = os.stat(name)
    except OSError:
        return False  # renamed, and not made anew yet
    mine = os.fstat(file.fileno())
    return (now.st_dev, now.st_ino) != (mine.st_dev, mine.st_ino)


def _start_over_if_cut(file: BinaryIO) -> None:
    """Somebody emptied the file (`> x.log`): what comes now is new."""
    if os.fstat(file.fileno()).st_size < file.tell():
        file.seek(0)


def _end_of_last_line(file: BinaryIO) -> int:
    """Where to go on reading: what stands behind it is still being written."""
    end = file.seek(0, os.SEEK_END)
    start = max(0, end - _BLOCK)
    file.seek(start)
    found = file.read(end - start).rfind(b"\n")
    return end if found < 0 else start + found + 1


def _open(name: str) -> BinaryIO | None:
    try:
        return open(name, "rb", buffering=0)
    except FileNotFoundError:
        return None


def _older(name: str, lines: int) -> list[str]:
    """The last lines from before the last rotation."""
    file = _open(f"{name}.1") if lines > 0 else None
    if file is None:
        return []
    with file:
        return _last_lines(file, lines, file.seek(0, os.SEEK_END))


def _last_lines(file: BinaryIO, lines: int, end: int) -> list[str]:
    """The lines before `end`, read backwards, so that a huge log costs no more than a small one."""
    data, position = b"", end
    while lines > 0 and position and data.count(b"\n") <= lines:
        start = max(0, position - _BLOCK)
        file.seek(start)
        data = file.read(position - start) + data
        position = start
    return [_text(line) for line in data.removesuffix(b"\n").split(b"\n")[-lines:]] if data else []


def _text(line: bytes) -> str:
    return line.rstrip(b"\r\n").decode("utf-8", "backslashreplace")
