"""Time that jumps: for tests without real IO in flight, where an hour is to cost nothing."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing


def run(*args: Any, **options: Any) -> Any:
    return trio.run(*args, **(options | {"clock": trio.testing.MockClock(autojump_threshold=0)}))


jumping = pytest.mark.trio(run=run)
"""For `pytestmark`, in a folder whose conftest calls `prefer`."""


def prefer(items: list[pytest.Item]) -> None:
    """Put the marker in front: pytest-trio's own, on each test, comes before that of the module."""
    for item in items:
        for mark in list(item.iter_markers("trio")):
            if mark.kwargs.get("run") is run:
                item.own_markers.insert(0, mark)
