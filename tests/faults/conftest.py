"""A home for each test, and for those of a whole hour a world of fake workers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fakes import clock
from fakes.house import House
from fakes.worlds import make_world, paths, world

__all__ = ["make_world", "paths", "world"]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    clock.prefer(items)


@pytest.fixture
def house() -> Iterator[House]:
    with House() as house:
        yield house
