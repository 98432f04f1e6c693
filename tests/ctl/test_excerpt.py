"""The end of a log, shortened: real tracebacks, groups of them, and what the fault handler writes."""

from __future__ import annotations

import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from modelproxy.ctl.excerpt import excerpt, masked


def traced(call: Callable[[], object]) -> list[str]:
    """What Python prints of the error that `call` raises."""
    try:
        call()
    except Exception as error:  # whatever the test raises is what it wants to see printed
        return "".join(traceback.format_exception(error)).splitlines()
    raise AssertionError("nothing was raised")


def fails() -> None:
    raise RuntimeError("told to")


def fails_again() -> None:
    try:
        fails()
    except RuntimeError as error:
        raise ValueError("what it was told") from error


def fails_twice() -> None:
    raise ExceptionGroup("both", [RuntimeError("one"), OSError("two")])


def place(name: str, word: str) -> str:
    """Where `word` stands in this file, as the excerpt says it."""
    lines = Path(__file__).read_text().splitlines()
    number = next(number for number, line in enumerate(lines, 1) if line.strip().startswith(word))
    return f"  (in {name}, ctl/test_excerpt.py:{number})"


def test_a_traceback_is_its_last_line_and_its_place() -> None:
    assert excerpt(["before", *traced(fails), "after"], 10) == [
        "before",
        "RuntimeError: told to" + place("fails", 'raise RuntimeError("told'),
        "after",
    ]


def test_of_a_chain_every_error_is_kept_and_the_talk_between_is_not() -> None:
    assert excerpt(["", *traced(fails_again)], 10) == [
        "RuntimeError: told to" + place("fails", 'raise RuntimeError("told'),
        "ValueError: what it was told" + place("fails_again", 'raise ValueError("what'),
    ]


def test_of_a_group_every_error_is_kept() -> None:
    found = excerpt([*traced(fails_twice), "after"], 10)

    assert found == [
        "ExceptionGroup: both (2 sub-exceptions)" + place("fails_twice", 'raise ExceptionGroup("both"'),
        "RuntimeError: one",
        "OSError: two",
        "after",
    ]


def test_what_the_fault_handler_leaves_is_one_line() -> None:
    """The real one, from a process that is aborted with two threads."""
    program = (
        "import faulthandler, os, threading; faulthandler.enable(); "
        "threading.Thread(target=threading.Event().wait, daemon=True).start(); os.abort()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    first, last = excerpt([*done.stderr.splitlines(), "2026-11-21T14:00:00.000Z info ready"], 10)

    assert first.startswith("Fatal Python error: Aborted  (in <module>, <string>:1)")
    assert last == "2026-11-21T14:00:00.000Z info ready"


def test_a_dump_that_breaks_off_is_said_all_the_same() -> None:
    assert excerpt(["Fatal Python error: Aborted"], 10) == ["Fatal Python error: Aborted"]
    assert excerpt(["Fatal Python error: Aborted", "", "Fatal Python error: Aborted"], 10) == [
        "Fatal Python error: Aborted  (2 times)"
    ]


def test_a_traceback_that_breaks_off_is_nothing() -> None:
    """Its end is still being written, or its beginning was cut away: then its frames are lines like others."""
    assert excerpt(["Traceback (most recent call last):", '  File "a.py", line 1, in x'], 10) == []
    assert excerpt(['  File "a.py", line 1, in x', "ValueError"], 10) == [
        '  File "a.py", line 1, in x',
        "ValueError",
    ]


def test_what_is_said_again_and_again_is_counted() -> None:
    assert excerpt(["a", "b", "b", "b", "a"], 10) == ["a", "b  (3 times)", "a"]


def test_only_the_last_lines_are_kept() -> None:
    assert excerpt(["a", "b", "c"], 2) == ["b", "c"]
    assert excerpt(["a"], 0) == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("key sk-ant-api03-abcdefghij refused", "key sk-*** refused"),
        ("Authorization: Bearer abcdefgh.ijkl/mn", "Authorization: Bearer ***"),
        ("gsk_abcdefghijkl, hf_abcdefghijk", "gsk_***, hf_***"),
        ("AIzaSyAbcdefghijk", "AIza***"),
        ("the task-force of sk-1", "the task-force of sk-1"),
        ("model=ollama/qwen3-coder", "model=ollama/qwen3-coder"),
    ],
)
def test_what_looks_like_a_key_is_not_shown(text: str, shown: str) -> None:
    assert masked(text) == shown
    assert excerpt([text], 1) == [shown]
