"""The commands of `proxyctl keys` explain themselves. What they do: test_keys.py."""

from __future__ import annotations

import pytest
from fakes.terminal import Run


@pytest.mark.parametrize("command", ["set", "unset", "list"])
def test_help_with_examples(run: Run, command: str) -> None:
    ran = run("keys", command, "--help")

    assert ran.code == 0
    assert not ran.out.splitlines()[2].endswith(".")
    assert f"proxyctl keys {command}" in ran.out


def test_a_key_is_no_argument_that_is_offered(run: Run) -> None:
    """One that is given all the same is refused: test_keys.py."""
    assert "KEY" not in run("keys", "set", "--help").out.splitlines()[0]
