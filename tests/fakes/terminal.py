"""What a test sees of a command."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import attrs


@attrs.frozen
class Ran:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, which must be one line."""
        assert self.out.count("\n") == 1
        return json.loads(self.out)


Run = Callable[..., Ran]
"""`run("ps", "--json")`: inside this process."""

Spawn = Callable[..., "subprocess.Popen[str]"]
"""`spawn("", "ps")`, `spawn(".start_proxy", "--model", …)`: a process of its own."""
