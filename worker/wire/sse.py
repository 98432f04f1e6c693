"""Server-sent events: writing ours, reading a provider's.

Reading: a line ends with LF, CR LF or CR, an empty line ends an event, and a read may end anywhere, in
the middle of a character too. Bytes are therefore split first and decoded when a line is whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import attrs


def event(name: bytes, data: bytes) -> bytes:
    """One event. `data` must not hold a line end; JSON from `codec.dumps` never does."""
    return b"event: %b\ndata: %b\n\n" % (name, data)


PING = event(b"ping", b'{"type":"ping"}')
"""A real event: comments keep a connection open but do not reset every client's idle timer."""
KEEP_ALIVE = b": keep-alive\n\n"
"""A comment, for clients of other APIs, which know no ping."""


@attrs.frozen
class Event:
    """One event as a reader sees it."""

    name: str
    data: bytes


STRAY = "stray"
"""Name of an event that is a bare line of JSON. A field `error` is an event of that name: llama.cpp writes so."""


class EventTooLong(Exception):
    """The peer sends an event without end."""


class Decoder:
    """Bytes in, events out, however the bytes were cut."""

    def __init__(self, longest: int = 32 * 1024 * 1024, *, strays: bool = False) -> None:
        """`strays`: with what servers write into a stream when they break, see `STRAY`."""
        self._longest = longest
        self._strays = strays
        self._rest = bytearray()
        self._scanned = 0
        self._after_cr = False
        self._first = True
        self._name = ""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Yield each event that `chunk` completes."""
        for line in self._lines(chunk):
            found = self._line(line)
            if found is not None:
                yield found
        if self._size + len(self._rest) > self._longest:
            raise EventTooLong

    def _lines(self, chunk: bytes) -> Iterator[bytes]:
        if self._after_cr and chunk:
            # The CR already ended its line: a LF that follows belongs to it, even in the next read.
            chunk = chunk[1:] if chunk[:1] == b"\n" else chunk
            self._after_cr = False
        self._rest += chunk
        start = 0
        for end in _LINE_END.finditer(self._rest, self._scanned):
            with memoryview(self._rest) as view:  # a slice would be one copy more
                line = bytes(view[start : end.start()])
            yield line
            start = end.end()
            self._after_cr = start == len(self._rest) and self._rest[-1:] == b"\r"
        del self._rest[:start]
        self._scanned = len(self._rest)

    def _line(self, line: bytes) -> Event | None:
        if self._first:
            line = line.removeprefix(b"\xef\xbb\xbf")
            self._first = False
        if not line:
            return self._dispatch()
        colon = line.find(b":")
        name = line if colon < 0 else line[:colon]
        # Once: the value may be megabytes.
        value = b"" if colon < 0 else line[colon + (2 if line[colon + 1 : colon + 2] == b" " else 1) :]
        if name == b"event":
            self._name = value.decode("utf-8", "replace")
        elif name == b"data":
            self._data.append(value)
            self._size += len(value)
        elif self._strays:
            self._stray(name, line, value)
        return None  # comments, id and retry mean nothing here

    def _stray(self, name: bytes, line: bytes, value: bytes) -> None:
        if name == b"error":
            self._name, data = "error", value
        elif line[:1] == b"{":
            self._name, data = self._name or STRAY, line
        else:
            return
        self._data.append(data)
        self._size += len(data)

    def _dispatch(self) -> Event | None:
        found = Event(self._name or "message", b"\n".join(self._data)) if self._data else None
        self._name, self._data, self._size = "", [], 0
        return found


_LINE_END = re.compile(rb"\r\n|\n|\r")
