"""A provider in memory. `tests/worker/test_upstream.py` holds it to what the real one does."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from modelproxy.worker.failures import Failure, Refused
from modelproxy.worker.provider import Condition, Sizes
from modelproxy.worker.wire.asks import Ask
from modelproxy.worker.wire.items import Item

Step = Sequence[Item] | float
"""Items that come together, or seconds that pass."""


class FakeProvider:
    """Gives each request the next script; the last one is repeated."""

    def __init__(self, *scripts: Sequence[Step], well: Condition | None = None) -> None:
        self.asked: list[Ask] = []
        self.sources: list[FakeSource] = []
        self.well = well or Condition(ok=True)
        self.doubt = trio.Event()
        self.weight: int | None = None
        """What every prompt is said to weigh."""
        self.refusal: Failure | None = None
        """Raised for every request, before anything is asked."""
        self._scripts = list(scripts)

    def answer(self, ask: Ask) -> FakeSource:
        if self.refusal is not None:
            raise Refused(self.refusal)
        self.asked.append(ask)
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        self.sources.append(FakeSource(script))
        return self.sources[-1]

    async def condition(self) -> Condition:
        await trio.lowlevel.checkpoint()
        return self.well

    def sizes(self) -> Sizes:
        return Sizes()

    async def weigh(self, ask: Ask) -> int:
        await trio.lowlevel.checkpoint()
        return ask.input_tokens if self.weight is None else self.weight

    async def doubted(self) -> None:
        await self.doubt.wait()
        self.doubt = trio.Event()


class FakeSource:
    """Plays one script; remembers that it was let go of."""

    def __init__(self, script: Sequence[Step]) -> None:
        self.closed = False
        self.retries = 0
        self.remarks: list[tuple[bytes, bytes]] = []
        self.prompt_tokens: int | None = None
        self._steps = list(script)

    async def receive(self) -> list[Item] | None:
        await trio.lowlevel.checkpoint()
        while self._steps and not self.closed:
            step = self._steps.pop(0)
            if isinstance(step, int | float):
                await trio.sleep(step)
                continue
            if isinstance(step[-1], Failure):
                self.closed = True
            return list(step)
        return None

    async def aclose(self) -> None:
        self.closed = True
