"""docs/cli.md is what --help prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_page_is_what_the_commands_say() -> None:
    """Make it anew with `python scripts/gen-cli-docs > docs/cli.md`."""
    made = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "gen-cli-docs")], capture_output=True, text=True, check=True
    )

    assert (ROOT / "docs" / "cli.md").read_text() == made.stdout
