"""A provider on this machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fakes.upstream import Upstream


@pytest.fixture
def far() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server
