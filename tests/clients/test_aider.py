"""The real aider, which speaks Anthropic's API to models whose names begin with `anthropic/`."""

from __future__ import annotations

import pytest

from .conftest import REAL_KEY, Desk

pytestmark = [pytest.mark.slow, pytest.mark.clients]

ONCE = (
    "--no-git",
    "--yes-always",
    "--no-check-update",
    "--no-show-release-notes",
    "--no-pretty",
    "--message",
    "hello",
)


def test_it_talks_to_a_model(desk: Desk, aider: str) -> None:
    done = desk.run("proxyctl", "run", "--port", "0", "ollama/codellama", "--", aider, *ONCE)
    [asked] = desk.estate.fo.asked

    assert done.returncode == 0, done
    assert "fo said: " in done.stdout
    assert REAL_KEY not in str(asked.headers)
