"""Time that jumps, for tests without real IO in flight, where an hour is to cost nothing; and waiting that is real."""

from __future__ import annotations

from collections.abc import Callable
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


async def until(condition: Callable[[], bool], limit_s: float = 30.0) -> None:
    """For what announces itself to nobody: another process, say. By the real clock."""
    with trio.fail_after(limit_s):
        while not condition():  # noqa: ASYNC110  # see above
            await trio.sleep(0.01)
