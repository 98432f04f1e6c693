"""The end of a log, and what comes after it, across rotations."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from modelproxy.ctl import follow as follow_module
from modelproxy.ctl.follow import follow, tail


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "x.log"


class Script:
    """Instead of waiting: the next thing that happens to the log. Ends the follower after the last."""

    def __init__(self, *steps: Callable[[], object], endless: bool = False) -> None:
        self._steps = list(steps)
        self._endless = endless

    def __call__(self) -> None:
        if self._steps:
            self._steps.pop(0)()
        elif not self._endless:
            raise EOFError


def heard(lines: Generator[str, None, None]) -> list[str]:
    """Everything until the script is over."""
    found = []
    try:
        for line in lines:
            found.append(line)  # noqa: PERF402  # what came before the end must be kept
    except EOFError:
        pass
    return found


def append(log: Path, text: str) -> None:
    with log.open("a") as file:
        file.write(text)


@pytest.mark.parametrize(
    ("text", "lines", "expected"),
    [
        ("", 5, []),
        ("a\nb\nc\n", 2, ["b", "c"]),
        ("a\nb\nc", 2, ["b", "c"]),
        ("a\nb\n", 0, []),
        ("a\n\nb\n", 3, ["a", "", "b"]),
        ("a\r\nb\n", 9, ["a", "b"]),
    ],
)
def test_tail(log: Path, text: str, lines: int, expected: list[str]) -> None:
    log.write_text(text, newline="")

    assert tail(log, lines) == expected


def test_tail_of_a_large_file_is_its_end(log: Path) -> None:
    log.write_text("".join(f"line {number} {'x' * 100}\n" for number in range(5000)))

    assert [line.split()[1] for line in tail(log, 2000)] == [str(number) for number in range(3000, 5000)]


def test_tail_reaches_back_over_a_rotation(log: Path) -> None:
    log.with_name("x.log.1").write_text("a\nb\n")
    log.write_text("c\n")

    assert tail(log, 2) == ["b", "c"]
    assert tail(log, 1) == ["c"]


def test_tail_without_a_file(log: Path) -> None:
    assert tail(log, 5) == []


def test_bytes_that_are_no_text_are_shown(log: Path) -> None:
    log.write_bytes(b"\xff\n")

    assert tail(log, 1) == ["\\xff"]


def test_follow_goes_on_where_the_tail_ended(log: Path) -> None:
    log.write_text("a\nb\nhal")
    script = Script(lambda: append(log, "f\n"), lambda: append(log, "c\nd\n"))

    assert heard(follow(log, 1, script)) == ["b", "half", "c", "d"]


def test_follow_waits_for_the_file(log: Path) -> None:
    assert heard(follow(log, 5, Script(lambda: append(log, "a\n")))) == ["a"]


def test_rotation_loses_and_repeats_nothing(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer goes on in the renamed file until it reopens; the new file has its first line by then."""
    monkeypatch.setattr(follow_module, "SETTLE_S", 0.0)
    old = log.with_name("x.log.1")
    log.write_text("a\n")

    def rotate() -> None:
        append(log, "b\n")
        log.rename(old)
        append(old, "c\n")
        append(log, "e\n")
        append(old, "d")

    assert heard(follow(log, 5, Script(rotate, lambda: append(log, "f\n")))) == ["a", "b", "c", "d", "e", "f"]


@pytest.mark.slow
def test_late_lines_in_the_renamed_file_are_read(log: Path) -> None:
    old = log.with_name("x.log.1")
    log.write_text("a\n")

    def rotate() -> None:
        log.rename(old)
        log.write_text("new\n")

    lines = follow(log, 5, Script(rotate, lambda: append(old, "late\n"), endless=True))
    found = [next(lines), next(lines), next(lines)]
    lines.close()

    assert found == ["a", "late", "new"]


def test_between_rename_and_the_new_file(log: Path) -> None:
    old = log.with_name("x.log.1")
    log.write_text("a\n")
    script = Script(lambda: log.rename(old), lambda: append(old, "b\n"))

    assert heard(follow(log, 5, script)) == ["a", "b"]


def test_an_emptied_file_is_read_from_its_start(log: Path) -> None:
    log.write_text("a\nb\n")

    assert heard(follow(log, 1, Script(lambda: log.write_text("c\n")))) == ["b", "c"]
