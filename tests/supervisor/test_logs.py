"""Log files: rotated by rename, read from their end."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelproxy.supervisor import logs


def test_full_is_a_matter_of_size(tmp_path: Path) -> None:
    log = tmp_path / "a.log"

    assert not logs.is_full(log, 0)
    log.write_bytes(b"x" * 10)
    assert (logs.is_full(log, 10), logs.is_full(log, 11)) == (True, False)


def test_what_an_earlier_worker_wrote_is_left_out() -> None:
    """Also what it wrote without a time: the lines of a traceback go with the line before them."""
    old, new = "2026-11-21T17:32:16.790Z info leaving", "2026-11-21T17:33:16.790Z info ready"
    then = 1795282390.0  # 17:33:10

    assert logs.fresh([old, "  old traceback", new, "  new traceback"], then) == [new, "  new traceback"]
    assert logs.fresh([old, "  old traceback"], then) == []
    assert logs.fresh(["no time", new], then) == ["no time", new]
    assert logs.fresh([], then) == []


def test_rotation_keeps_three(tmp_path: Path) -> None:
    """Five generations written, three old ones kept, the newest is .1."""
    log = tmp_path / "a.log"
    for number in range(1, 6):
        log.write_text(f"{number}")
        logs.rotate(log)

    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "a.log.1": "5",
        "a.log.2": "4",
        "a.log.3": "3",
    }


def test_a_writer_that_does_not_hear_writes_on(tmp_path: Path) -> None:
    """Renaming takes nothing away from it."""
    log = tmp_path / "a.log"
    with log.open("a") as writer:
        writer.write("before\n")
        writer.flush()
        logs.rotate(log)
        writer.write("after\n")

    assert (tmp_path / "a.log.1").read_text() == "before\nafter\n"


def test_rotating_what_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        logs.rotate(tmp_path / "none.log")


def test_nothing_to_read(tmp_path: Path) -> None:
    empty = tmp_path / "a.log"
    empty.touch()

    assert logs.tail(tmp_path / "none.log", 5) == []
    assert logs.tail(empty, 5) == []
    empty.write_text("one\n")
    assert logs.tail(empty, 0) == []


@pytest.mark.parametrize("ending", ["", "\n"])
def test_the_last_lines(tmp_path: Path, ending: str) -> None:
    """Complete or not."""
    log = tmp_path / "a.log"
    log.write_text("one\ntwo\nthree" + ending)

    assert logs.tail(log, 2) == ["two", "three"]
    assert logs.tail(log, 9) == ["one", "two", "three"]


def test_bytes_that_are_no_text_are_shown_as_well_as_possible(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"caf\xe9\n")

    assert logs.tail(log, 1) == ["caf\ufffd"]


@given(st.lists(st.text("ab ü", max_size=9), max_size=12), st.integers(0, 14), st.integers(1, 7))
def test_blocks_of_any_size_give_the_same_lines(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], count: int, block: int
) -> None:
    """Read backwards block by block; letters of two bytes lie across the cuts."""
    log = tmp_path_factory.mktemp("log") / "a.log"
    log.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "_BLOCK", block)

        assert logs.tail(log, count) == lines[max(0, len(lines) - count) :]
