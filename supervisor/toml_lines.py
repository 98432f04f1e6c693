"""On which line each value of a TOML file stands. Pure.

`tomllib` tells values and no places. This reads a text that `tomllib` has already taken, so it looks only for
what separates things (headers, keys, brackets, strings, comments) and never judges.
"""

from __future__ import annotations

import re
import tomllib

Path = tuple[str | int, ...]
"""`("front", "default", "rules", 0, "to")`."""

_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\r\n]+")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}' r"|'''.*?'{3,5}" r'|"(?:[^"\\\n]|\\.)*"' r"|'[^'\n]*'",
    re.DOTALL,
)


def lines_of(text: str) -> dict[Path, int]:
    """The line of every table, list and value in `text`, counted from 1."""
    scanner = _Scanner(text)
    scanner.document()
    return scanner.found


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._counts: dict[Path, int] = {}
        """How many tables an array of tables has so far."""
        self.found: dict[Path, int] = {}

    def document(self) -> None:
        table: Path = ()
        while self._skip(_BLANK):
            if self._peek() == "[":
                table = self._header()
            else:
                self._pair(table)

    def _skip(self, pattern: re.Pattern[str]) -> bool:
        """Go over what fits; False at the end of the text."""
        match = pattern.match(self._text, self._at)
        self._at = match.end() if match else self._at
        return self._at < len(self._text)

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _note(self, path: Path, at: int) -> None:
        self.found.setdefault(path, self._text.count("\n", 0, at) + 1)

    def _header(self) -> Path:
        start = self._at
        many = self._text.startswith("[[", start)
        self._at += 2 if many else 1
        path = self._under_arrays(self._key(), last=not many)
        self._at += 2 if many else 1
        if many:
            number = self._counts.get(path, 0)
            self._counts[path] = number + 1
            self._note(path, start)
            path = (*path, number)
        self._note(path, start)
        return path

    def _under_arrays(self, key: Path, *, last: bool) -> Path:
        """`[[rules]]` and then `[rules.more]`: the newest of the rules is meant."""
        path: Path = ()
        for index, part in enumerate(key):
            path = (*path, part)
            if path in self._counts and (last or index < len(key) - 1):
                path = (*path, self._counts[path] - 1)
        return path

    def _pair(self, table: Path) -> None:
        start = self._at
        key = self._key()
        for length in range(1, len(key)):
            self._note((*table, *key[:length]), start)
        path = (*table, *key)
        self._note(path, start)
        self._at += 1  # =
        self._skip(_SPACE)
        self._value(path)

    def _key(self) -> Path:
        """Dotted; stops before what follows it."""
        parts: list[str | int] = []
        while True:
            self._skip(_SPACE)
            parts.append(self._string() if self._peek() in "\"'" else self._bare())
            self._skip(_SPACE)
            if self._peek() != ".":
                return tuple(parts)
            self._at += 1

    def _bare(self) -> str:
        match = _BARE.match(self._text, self._at)
        assert match is not None  # tomllib has taken it
        self._at = match.end()
        return match[0]

    def _string(self) -> str:
        match = _STRING.match(self._text, self._at)
        assert match is not None  # the same
        self._at = match.end()
        return str(tomllib.loads(f"text = {match[0]}")["text"])

    def _value(self, path: Path) -> None:
        opening = self._peek()
        if opening == "[":
            self._array(path)
        elif opening == "{":
            self._inline(path)
        elif opening in ("'", '"'):
            self._skip(_STRING)
        else:
            self._skip(_SCALAR)

    def _array(self, path: Path) -> None:
        self._at += 1
        number = 0
        while self._skip(_BLANK) and self._peek() != "]":
            self._note((*path, number), self._at)
            self._value((*path, number))
            number += 1
            self._skip(_BLANK)
            self._at += self._peek() == ","
        self._at += 1

    def _inline(self, path: Path) -> None:
        self._at += 1
        while self._skip(_BLANK) and self._peek() != "}":
            self._pair(path)
            self._skip(_BLANK)
            self._at += self._peek() == ","
        self._at += 1
