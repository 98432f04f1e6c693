"""A supervisor that runs is told of a changed file at once; without one there is nobody to tell."""

from __future__ import annotations

import pytest
from fakes.control import Control, fault
from fakes.terminal import Run

from modelproxy.ctl.applying import apply
from modelproxy.supervisor.paths import Paths

RELOAD = "POST /v1/daemon/reload"
COMMANDS = [
    ["agents", "set", "a", "echo/x"],
    ["agents", "unset", "a"],
    ["config", "set", "default_port", "4000"],
    ["config", "unset", "default_port"],
]


def test_without_a_supervisor_nobody_is_told(paths: Paths) -> None:
    assert apply(paths) == ""


def test_every_command_that_changes_the_file_tells_it(run: Run, control: Control) -> None:
    control.replies[RELOAD] = (200, {"changed": [], "warnings": []})
    told = [run(*words).err for words in COMMANDS]

    assert told == [""] * len(COMMANDS)
    assert control.paths_asked == [f"{RELOAD}?soon=1"] * len(COMMANDS)


@pytest.mark.parametrize("words", [COMMANDS[0], COMMANDS[2]])
def test_a_supervisor_that_does_not_take_it_is_told_of(run: Run, control: Control, words: list[str]) -> None:
    """The file is changed all the same."""
    control.replies[RELOAD] = fault(400, "bad_config", "line 3: rubbish")
    ran = run(*words)

    assert (ran.code, ran.err) == (0, "warning: what runs does not know it yet: line 3: rubbish\n")
