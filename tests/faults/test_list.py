"""The table in README.md and the tests beside it say the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FAULTS = range(1, 46)


def proven() -> dict[int, set[str]]:
    """Fault -> the files in which there are tests of it."""
    found: dict[int, set[str]] = {}
    for file in HERE.glob("test_*.py"):
        for number in re.findall(r"^(?:async )?def test_fault_(\d\d)_", file.read_text(), re.MULTILINE):
            found.setdefault(int(number), set()).add(file.name)
    return found


def listed() -> dict[int, set[str]]:
    """Fault -> the files that the table names."""
    rows = re.findall(r"^\| (\d+) \|(?:[^|]*\|){2}([^|]*)\|", (HERE / "README.md").read_text(), re.MULTILINE)
    return {int(number): set(re.findall(r"`(\w+\.py)`", files)) for number, files in rows}


@pytest.mark.parametrize("number", FAULTS)
def test_each_fault_has_its_tests_and_its_row(number: int) -> None:
    assert proven().get(number, set()) != set()
    assert proven()[number] == listed().get(number)


def test_there_are_no_others() -> None:
    assert proven().keys() == listed().keys() == set(FAULTS)


def test_what_the_table_points_to_is_there() -> None:
    """Files from the root, and tests by their name."""
    text = (HERE / "README.md").read_text()
    files = re.findall(r"`(tests/[\w/]+\.py)`", text)
    names = re.findall(r"`(test_s\d+\w+)`", text)

    assert [file for file in files if not (HERE.parent.parent / file).exists()] == []
    sources = "\n".join(file.read_text() for file in HERE.glob("test_*.py"))
    assert [name for name in names if f"def {name}(" not in sources] == []
