"""The limits of a proxy, as they are wished for."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from modelproxy.supervisor import quotas
from modelproxy.supervisor.protocol import Fault, SetRequest, UpRequest
from modelproxy.worker.contract import Quota


def test_every_limit_can_be_wished_for_in_both_ways() -> None:
    """A limit of the contract that no request names could never be set."""
    for cls in (SetRequest, UpRequest):
        assert set(quotas.NAMES) <= {field.name for field in attrs.fields(cls)}
    assert set(quotas.RANGES) == set(quotas.NAMES)


@pytest.mark.parametrize("name", quotas.NAMES)
def test_what_was_not_said_stays_and_0_takes_away(name: str) -> None:
    most: Any = {each: int(quotas.RANGES[each][1]) for each in quotas.NAMES}
    known = Quota(**most)

    assert quotas.granted(SetRequest(), known) == known
    for value, expected in (*((one, one) for one in quotas.RANGES[name]), (0, None)):
        said: Any = {name: value}
        becomes: Any = {name: expected}
        quotas.check(SetRequest(**said))
        assert quotas.granted(SetRequest(**said), known) == attrs.evolve(known, **becomes)


@pytest.mark.parametrize("name", quotas.NAMES)
@pytest.mark.parametrize("wrong", [-1, 2**62, float("nan"), float("inf")])
def test_what_nobody_can_mean_is_refused_by_name(name: str, wrong: float) -> None:
    said: Any = {name: wrong}
    with pytest.raises(Fault, match=f"{name} must be from .* to .*, or 0 for no limit"):
        quotas.check(SetRequest(**said))
