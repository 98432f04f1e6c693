"""Whose turn it is after an upgrade, and what is said about it."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from modelproxy.supervisor import renewal
from modelproxy.supervisor.facts import Phase, Proxy, Worker
from modelproxy.worker.contract import WorkerSpec


def proxy(name: str, *workers: Worker, **facts: Any) -> Proxy:
    return Proxy(
        name, WorkerSpec(name, name, "echo", "echo", name, 3457), wanted=True, workers=workers, **facts
    )


def worker(phase: Phase = Phase.READY, **facts: Any) -> Worker:
    return Worker(1, 1, phase, 0.0, pid=7, **facts)


OLD = worker(outdated="0.0.9")
NEW = worker()
COMING = attrs.evolve(worker(Phase.STARTING), generation=2)
KEPT = attrs.evolve(OLD, kept=True)


@pytest.mark.parametrize(
    ("proxies", "due"),
    [
        ([], None),
        ([proxy("a", NEW)], None),
        ([proxy("a", NEW), proxy("b", OLD), proxy("c", OLD)], "b"),
        ([proxy("a", OLD, COMING), proxy("b", OLD)], None),
        ([proxy("a", NEW, COMING), proxy("b", OLD)], "b"),
        ([proxy("a", worker(Phase.ABSENT)), proxy("b", OLD)], None),
        ([proxy("a", KEPT), proxy("b", OLD)], None),
        ([proxy("a", attrs.evolve(OLD, phase=Phase.DRAINING)), proxy("b", OLD)], "b"),
        ([proxy("a", OLD, halted=True)], None),
        ([proxy("a", OLD, key_sought=True), proxy("b", OLD)], None),
        ([attrs.evolve(proxy("a", OLD), wanted=False)], None),
    ],
    ids=[
        "nobody",
        "all are of this version",
        "the first",
        "one is on its way",
        "a roll for another reason",
        "one has yet to dial",
        "one replacement has failed",
        "one only drains",
        "the supervisor ends",
        "its key is being fetched",
        "not wanted",
    ],
)
def test_whose_turn_it_is(proxies: list[Proxy], due: str | None) -> None:
    assert due == renewal.next_one(proxies)


@pytest.mark.parametrize(
    ("proxies", "under_way"),
    [
        ([], False),
        ([proxy("a", NEW), proxy("b", NEW)], False),
        ([proxy("a", NEW), proxy("b", KEPT)], True),
        ([proxy("a", attrs.evolve(OLD, phase=Phase.DRAINING), COMING)], True),
    ],
    ids=["nobody", "all are of this version", "one stays", "one leaves"],
)
def test_whether_there_is_more_to_come(proxies: list[Proxy], under_way: bool) -> None:
    assert under_way == renewal.is_under_way(proxies)


@pytest.mark.parametrize(
    ("proxies", "said"),
    [
        ([proxy("a", NEW)], []),
        ([proxy("a", OLD)], ["1 worker still runs another version (0.0.9); they are replaced one by one"]),
        (
            [proxy("a", KEPT, trouble="exit code 1"), proxy("b", OLD)],
            [
                "2 workers still run another version (0.0.9) and serve on, for that of a failed: exit code 1. "
                "Mend it, then proxyctl restart a"
            ],
        ),
    ],
)
def test_what_is_said(proxies: list[Proxy], said: list[str]) -> None:
    assert said == renewal.words(proxies)
