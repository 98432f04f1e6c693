"""The worker's own log: one line, one write, straight to standard error.

Standard error *is* the log file (opened for appending), so tracebacks, faulthandler and this share it, and
nothing here can block or raise: a full disk costs lines, which are counted, never a request.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

_ESCAPES = {"\\": "\\\\", '"': '\\"'}


class Journal:
    def __init__(self, path: str | None = None) -> None:
        self._path = path
        self.drops = 0
        """Lines that could not be written."""

    def __call__(self, level: str, event: str, **fields: Any) -> None:
        """`2026-11-21T10:00:00.000Z info request status=200 …`"""
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        words = [stamp, level, event, *(f"{name}={_word(value)}" for name, value in fields.items())]
        self._write(" ".join(words))

    def line(self, text: str) -> None:
        """A line from elsewhere, as it is."""
        self("error", "http", text=text)

    def reopen(self) -> None:
        """The file was renamed: go on in a new one of the old name."""
        if self._path is None:
            return
        try:
            fresh = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return  # the renamed one is still open: nothing is lost
        os.dup2(fresh, 1)
        os.dup2(fresh, 2)
        os.close(fresh)

    def _write(self, text: str) -> None:
        try:
            os.write(2, (text + "\n").encode(errors="replace"))
        except OSError:
            self.drops += 1


def _word(value: Any) -> str:
    """A value that stays one word for those who split, and readable for those who read."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    text = str(value)
    if text and not any(char.isspace() or char in '"=' or not char.isprintable() for char in text):
        return text
    return '"' + "".join(_ESCAPES.get(char) or _printable(char) for char in text) + '"'


def _printable(char: str) -> str:
    """Neither a line's end nor a terminal's command gets through, whatever a client sends."""
    return char if char.isprintable() else char.encode("unicode_escape").decode()
