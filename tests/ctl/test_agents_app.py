"""The commands of `proxyctl agents` explain themselves. What they do: test_agents.py."""

from __future__ import annotations

import pytest
from fakes.terminal import Run


@pytest.mark.parametrize("command", ["set", "unset", "list", "resolve", "ensure", "guide"])
def test_help_with_examples(run: Run, command: str) -> None:
    ran = run("agents", command, "--help")

    assert ran.code == 0
    assert not ran.out.splitlines()[2].endswith(".")
    assert f"proxyctl agents {command}" in ran.out
