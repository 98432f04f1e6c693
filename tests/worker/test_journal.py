"""The worker's own log."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelproxy.worker import journal
from modelproxy.worker.journal import Journal


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What would have gone to standard error, write by write."""
    found: list[bytes] = []

    def write(fd: int, data: bytes) -> int:
        assert fd == 2
        found.append(data)
        return len(data)

    monkeypatch.setattr(os, "write", write)
    return found


def test_one_line_one_write(written: list[bytes]) -> None:
    """So that lines of several writers never mix."""
    Journal()("info", "request", status=200, took=0.12345, model="echo/demo", key=None)

    [line] = written
    assert re.fullmatch(
        rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info request status=200 took=0.123 model=echo/demo key=-\n",
        line,
    )


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (None, "-"),
        (True, "True"),
        (0, "0"),
        (2.0, "2"),
        (0.5, "0.5"),
        (0.0, "0"),
        ("", '""'),
        ("plain", "plain"),
        ("two words", '"two words"'),
        ('say "hi"', '"say \\"hi\\""'),
        ("a=b", '"a=b"'),
        ("back\\slash", "back\\slash"),
        ("one\ntwo", '"one\\ntwo"'),
        ("one\rtwo", '"one\\rtwo"'),
        ("\x1b[31mred", '"\\x1b[31mred"'),
        ("\u2028", '"\\u2028"'),
        ("grün", "grün"),
    ],
)
def test_a_value_stays_one_word(value: object, word: str) -> None:
    """Readable, on one line, and harmless to a terminal."""
    assert journal._word(value) == word


@given(st.text())
def test_no_text_breaks_a_line(text: str) -> None:
    """A client may put anything into a path or a header."""
    word = journal._word(text)

    assert word.isprintable() or word == ""
    assert len(word.splitlines()) == 1


def test_text_from_elsewhere_is_one_line(written: list[bytes]) -> None:
    Journal().line("Traceback:\n  boom\ud800\n")

    [line] = written
    assert line.count(b"\n") == 1
    assert b'error http text="Traceback:\\n  boom' in line


def test_a_full_disk_costs_lines_that_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never a request."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    log = Journal()
    for _ in range(3):
        log("info", "request")

    assert log.drops == 3


@contextmanager
def own_streams(path: Path) -> Iterator[None]:
    """Standard output and error are this file meanwhile."""
    kept = [os.dup(fd) for fd in (1, 2)]
    fresh = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for fd in (1, 2):
        os.dup2(fresh, fd)
    os.close(fresh)
    try:
        yield
    finally:
        for fd, old in zip((1, 2), kept, strict=True):
            os.dup2(old, fd)
            os.close(old)


def last_words(path: Path) -> list[str]:
    """Of each line."""
    return [line.split()[-1] for line in path.read_text().splitlines()]


def test_reopening_goes_on_in_a_new_file(tmp_path: Path) -> None:
    """Both streams; nothing is lost; only its owner may read it."""
    path = tmp_path / "echo.log"
    log = Journal(str(path))
    with own_streams(path):
        log("info", "before")
        path.rename(tmp_path / "old")
        log("info", "between")
        descriptors = len(os.listdir("/proc/self/fd"))
        log.reopen()
        log("info", "after")
        os.write(1, b"print\n")
        left = len(os.listdir("/proc/self/fd")) - descriptors

    assert last_words(tmp_path / "old") == ["before", "between"]
    assert last_words(path) == ["after", "print"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert left == 0


def test_reopening_that_fails_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "echo.log"
    with own_streams(path):
        log = Journal(str(path / "impossible"))
        log.reopen()
        Journal().reopen()
        log("info", "here")

    assert last_words(path) == ["here"]
