"""The commands of `proxyctl models` explain themselves. What they do: test_models.py."""

from __future__ import annotations

import pytest
from fakes.terminal import Run


@pytest.mark.parametrize("command", ["list", "search", "resolve", "refresh", "test", "providers"])
def test_help_with_examples(run: Run, command: str) -> None:
    ran = run("models", command, "--help")

    assert ran.code == 0
    assert not ran.out.splitlines()[2].endswith(".")
    assert f"proxyctl models {command}" in ran.out
