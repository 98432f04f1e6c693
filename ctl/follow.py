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
    from collections.abc import Callable, Generator, Iterator
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


def follow(path: str | os.PathLike[str], lines: int, pause: Callable[[], None]) -> Generator[str, None, None]:
    """The last `lines` lines and then every further one, across rotations. Never ends by itself.

    `pause` is called whenever there is nothing to read; it should take about POLL_S.
    """
    reader = _Follower(os.fspath(path), pause)
    try:
        yield from reader.begin(lines)
        while True:
            yield from reader.go_on()
    finally:
        reader.close()


class _Follower:
    """One open file at a time, whatever stands at the path."""

    def __init__(self, name: str, pause: Callable[[], None]) -> None:
        self._name = name
        self._pause = pause
        self._file = _open(name)
        self._buffer = _Lines()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def begin(self, lines: int) -> Iterator[str]:
        if self._file is None:
            yield from _older(self._name, lines)
            return
        # One file and one position for both halves: nothing is lost or said twice between them.
        end = _end_of_last_line(self._file)
        found = _last_lines(self._file, lines, end)
        self._file.seek(end)
        yield from _older(self._name, lines - len(found)) + found

    def go_on(self) -> Iterator[str]:
        """What there is now; then wait, or go over to the next file."""
        if self._file is None:
            self._file = _open(self._name)
            if self._file is None:
                self._pause()
            return
        _start_over_if_cut(self._file)
        yield from self._buffer.feed(self._file.read())
        if not _was_replaced(self._file, self._name):
            self._pause()
            return
        yield from self._rest(self._file)
        self.close()
        self._file = None

    def _rest(self, file: BinaryIO) -> Iterator[str]:
        """What still comes into a renamed file, until its writer has had the time to reopen."""
        deadline = time.monotonic() + SETTLE_S
        while True:
            over = time.monotonic() >= deadline
            yield from self._buffer.feed(file.read())
            if over:
                break
            self._pause()
        yield from self._buffer.end()


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
