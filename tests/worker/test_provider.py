"""The seam: scripts played in batches, kinds found by name."""

from __future__ import annotations

import itertools
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from modelproxy.worker.contract import WorkerSpec
from modelproxy.worker.dialects.echo import Pause
from modelproxy.worker.failures import Failure, Kind
from modelproxy.worker.provider import Condition, Paced, provider
from modelproxy.worker.wire import asks, codec
from modelproxy.worker.wire.items import Finish, Text

SPEC = WorkerSpec(name="demo", model_id="echo/demo", provider="echo", kind="echo", model="demo", port=3457)
BOOM = Failure(Kind.PROVIDER, "boom")
A, B = Text("a"), Text("b")


async def batches(*script: Any) -> list[tuple[float, list[Any]]]:
    """What comes, and how long after the beginning."""
    source, began = Paced(iter(script)), trio.current_time()
    found: list[tuple[float, list[Any]]] = []
    while (items := await source.receive()) is not None:
        found.append((trio.current_time() - began, items))
    await source.aclose()
    return found


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ([], []),
        ([A, B, Finish()], [(0, [A, B, Finish()])]),
        ([Pause(5), A, Pause(2), B], [(5, [A]), (7, [B])]),
        ([Pause(5), Pause(2), A, Pause(1)], [(7, [A])]),
        ([Pause(0), A], [(0, [A])]),
        ([BOOM], [(0, [BOOM])]),
        ([A, BOOM], [(0, [A]), (0, [BOOM])]),
        ([A, Pause(0), B], [(0, [A]), (0, [B])]),
    ],
)
async def test_a_script_is_played_in_batches(
    script: list[Any], expected: list[Any], autojump_clock: trio.testing.MockClock
) -> None:
    assert await batches(*script) == expected


async def test_batches_are_bounded_and_nothing_is_lost() -> None:
    many = [Text(str(number)) for number in range(1000)]
    found = [items for _, items in await batches(*many)]

    assert max(map(len, found)) == Paced.MOST
    assert list(itertools.chain(*found)) == many


async def test_every_receive_is_a_checkpoint() -> None:
    source = Paced(iter([A]))
    with trio.testing.assert_checkpoints():
        await source.receive()
    with trio.testing.assert_checkpoints():
        assert await source.receive() is None


async def test_echo_is_known_and_always_well() -> None:
    echo = provider(SPEC, lambda prefix: prefix)
    ask = asks.ask(
        codec.dumps({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "a"}]})
    )

    assert await echo.condition() == Condition(ok=True, detail="built in", latency_ms=0.0)
    assert await echo.answer(ask).receive() is not None


def test_unknown_kinds_are_named() -> None:
    with pytest.raises(ValueError, match="provider echo: unknown kind 'x', known: echo"):
        provider(attrs.evolve(SPEC, kind="x"), lambda prefix: prefix)
