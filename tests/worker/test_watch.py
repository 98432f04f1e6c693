"""Who of several targets would answer, and what is said of that."""

from __future__ import annotations

import math

import attrs
import pytest
import trio
import trio.testing
from fakes.provider import FakeProvider

from modelproxy.worker import app
from modelproxy.worker.attempts import Rota
from modelproxy.worker.contract import WorkerSpec
from modelproxy.worker.failures import Failure, Kind
from modelproxy.worker.provider import Condition
from modelproxy.worker.targets import Far
from modelproxy.worker.watch import Watch, first_of

WELL = Condition(ok=True)
ILL = Condition(ok=False, detail="Ollama is not reachable at http://x; start it with `ollama serve`")
LIMITED = Failure(Kind.RATE_LIMITED, "slow down", retry_after_s=50.0)
BROKEN = Failure(Kind.PROVIDER, "broken")


class Slow(FakeProvider):
    """Takes its time to say how it is; counts how often it was asked and how often it could say."""

    def __init__(self, condition: Condition, takes_s: float = 0.0) -> None:
        super().__init__([], well=condition)
        self.takes_s = takes_s
        self.looks = 0
        self.said = 0

    async def condition(self) -> Condition:
        self.looks += 1
        await trio.sleep(self.takes_s)
        self.said += 1
        return self.well


@attrs.define
class Bench:
    """A watch with the targets that it is of."""

    providers: list[Slow]
    rota: Rota
    watch: Watch


def watching(*providers: Slow) -> Bench:
    names = [f"{provider}/m" for provider in ("ollama", "openrouter", "third")[: len(providers)]]
    fars = []
    for name, provider in zip(names, providers, strict=True):
        kind = name.partition("/")[0]
        spec = WorkerSpec(name=name, model_id=name, provider=kind, kind=kind, model="m", port=1)
        fars.append(Far(spec, provider, None, app.truth(name)))
    rota = Rota(names)
    return Bench(list(providers), rota, Watch(fars, rota, trio.current_time))


async def test_one_target_is_its_provider() -> None:
    standing = await watching(Slow(ILL)).watch.look()
    assert (standing.works, standing.is_well, standing.instead) == (False, False, None)
    assert (standing.words, standing.warnings()) == (ILL.detail, [])

    minded = Condition(ok=True, warning="a small window")
    standing = await watching(Slow(minded)).watch.look()
    assert (standing.works, standing.is_well) == (True, True)
    assert (standing.words, standing.warnings()) == ("a small window", ["a small window"])


async def test_while_the_first_is_well_nobody_else_is_troubled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    bench = watching(Slow(WELL), Slow(ILL))
    standing = await bench.watch.look()

    assert (standing.serving, standing.words, standing.warnings()) == (0, "", [])
    assert [one.said for one in bench.providers] == [1, 0]
    assert [standing.shown(index) for index in (0, 1)] == [
        {"serves": True, "ok": True},
        {"serves": False, "ok": None},
    ]


async def test_the_next_that_is_well_serves_in_its_place() -> None:
    bench = watching(Slow(ILL), Slow(ILL), Slow(WELL))
    standing = await bench.watch.look()

    assert (standing.works, standing.is_well, standing.instead) == (True, False, "third/m")
    assert standing.words == "Ollama is not reachable at http://x, served by third/m"
    assert standing.warnings() == [f"{ILL.detail}; third/m serves in its place"]
    assert standing.shown(0) == {"serves": False, "ok": False, "detail": ILL.detail}


async def test_a_request_says_shorter_what_is_wrong() -> None:
    bench = watching(Slow(ILL), Slow(WELL))
    bench.rota.failed(0, Failure(Kind.UNREACHABLE, "no"), trio.current_time())

    assert (await bench.watch.look()).words == "ollama refused, served by openrouter/m"


async def test_none_works() -> None:
    standing = await watching(Slow(ILL), Slow(ILL)).watch.look()

    assert (standing.works, standing.instead) == (False, None)
    assert standing.words == f"{ILL.detail}; no fallback works either"
    assert standing.warnings() == [f"openrouter/m: {ILL.detail}"]


async def test_a_first_target_that_is_slow_keeps_no_other_waiting(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """All are asked at the same time then, and what it says at last counts."""
    bench = watching(Slow(ILL, 2.5), Slow(WELL, 2.5))
    began = trio.current_time()
    assert (await bench.watch.look()).serving == 1
    assert trio.current_time() - began == pytest.approx(2.75)

    bench = watching(Slow(WELL, 1.0), Slow(WELL, 2.5))
    began = trio.current_time()
    assert (await bench.watch.look()).serving == 0
    assert trio.current_time() - began == pytest.approx(1.0)
    assert [(one.looks, one.said) for one in bench.providers] == [(1, 1), (1, 0)]


async def test_a_target_that_cools_does_not_serve_however_well_it_looks(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Until its time has come; that is when another look is worth it."""
    bench = watching(Slow(WELL), Slow(WELL))
    bench.rota.failed(0, attrs.evolve(LIMITED, retry_after_s=7.0), trio.current_time())
    standing = await bench.watch.look()
    assert (standing.instead, standing.words) == (
        "openrouter/m",
        "ollama rate limit, served by openrouter/m",
    )
    assert standing.again_s == pytest.approx(7.0)

    await trio.sleep(standing.again_s)
    standing = await bench.watch.look()
    assert (standing.is_well, standing.again_s) == (True, math.inf)


async def test_where_all_cool_the_one_that_is_due_first_serves_unless_all_said_when() -> None:
    bench = watching(Slow(WELL), Slow(WELL))
    for index in (0, 1):
        bench.rota.failed(index, BROKEN, trio.current_time() + index)
    assert (await bench.watch.look()).serving == 0
    for index in (0, 1):
        bench.rota.failed(index, LIMITED, trio.current_time())
    standing = await bench.watch.look()

    assert (standing.works, standing.words) == (False, "ollama rate limit; no fallback works either")


async def test_one_that_looks_well_and_cools_serves_nobody_while_another_is_asked() -> None:
    """A provider without credit is reached; requests go to the first, which is due before it, and fail."""
    bench = watching(Slow(ILL), Slow(WELL))
    bench.rota.failed(0, Failure(Kind.UNREACHABLE, "no"), trio.current_time())
    bench.rota.failed(1, Failure(Kind.NO_CREDIT, "no"), trio.current_time())
    both = await bench.watch.look()
    bench.rota.targets[0].until = trio.current_time()
    due = await bench.watch.look()

    assert (both.serving, due.serving) == (None, None)
    assert both.words.endswith("no fallback works either")


@pytest.mark.parametrize("whose", [0, 1, None])
async def test_news_of_any_target_are_worth_a_look(
    whose: int | None, autojump_clock: trio.testing.MockClock
) -> None:
    bench = watching(Slow(WELL), Slow(WELL))
    with trio.move_on_after(5) as waited:
        await bench.watch.doubted()
    assert waited.cancelled_caught
    if whose is None:
        bench.watch.moved()
    else:
        bench.providers[whose].doubt.set()
    with trio.fail_after(5):
        await bench.watch.doubted()
    with trio.move_on_after(5) as waited:
        await bench.watch.doubted()
    assert waited.cancelled_caught, "said once"


async def test_the_first_of_several_ends_the_waiting() -> None:
    event = trio.Event()
    event.set()
    with trio.fail_after(5):
        await first_of(trio.sleep_forever, event.wait)
