"""A keeper among fake workers."""

from __future__ import annotations

import pytest
from fakes import clock
from fakes.worlds import make_world, paths, world

__all__ = ["make_world", "paths", "world"]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    clock.prefer(items)
