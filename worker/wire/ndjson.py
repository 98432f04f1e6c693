"""Newline-delimited JSON: a read may end anywhere, in the middle of a character too."""

from __future__ import annotations

from collections.abc import Iterator

LONG = 256 * 1024
"""Bytes of a line that is worth not being copied."""


class LineTooLong(Exception):
    """The peer sends a line without end."""


class Lines:
    """Bytes in, whole lines out, however the bytes were cut. Bytes first: decoding comes later."""

    def __init__(self, longest: int = 32 * 1024 * 1024) -> None:
        self._longest = longest
        self._rest = bytearray()
        self._scanned = 0

    def feed(self, data: bytes) -> Iterator[bytes | bytearray]:
        """Yield each line that `data` completes, empty ones left out."""
        self._rest += data
        start = 0
        while (end := self._rest.find(b"\n", max(start, self._scanned))) >= 0:
            if end > LONG and start == 0:
                yield self._first(end)
                continue
            line = bytes(self._rest[start:end]).strip()
            start = end + 1
            if line:
                yield line
        del self._rest[:start]
        self._scanned = len(self._rest)
        if self._scanned > self._longest:
            raise LineTooLong

    def _first(self, end: int) -> bytearray:
        """What has been collected is one long line: it is handed on without a copy."""
        line, self._rest, self._scanned = self._rest, self._rest[end + 1 :], 0
        del line[end:]
        return line

    def end(self) -> bytes:
        """What came behind the last line end: a last line without one, or the beginning of a lost one."""
        line = bytes(self._rest).strip()
        self._rest.clear()
        return line
