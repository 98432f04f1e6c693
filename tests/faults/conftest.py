"""A home for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fakes.house import House


@pytest.fixture
def house() -> Iterator[House]:
    with House() as house:
        yield house
