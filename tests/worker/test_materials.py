"""What a target's settings get for a request: once for all turns, and nothing where nothing is wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trio

from modelproxy.worker import materials
from modelproxy.worker.contract import Options
from modelproxy.worker.dialects.blocks import Sight, part_of
from modelproxy.worker.materials import Materials
from modelproxy.worker.wire import asks, codec
from modelproxy.worker.wire.asks import Ask

LIMIT_S = 30.0


def silent(*_: Any, **__: Any) -> None:
    pass


def pdf(data: str, title: str = "a.pdf") -> dict[str, Any]:
    source = {"type": "base64", "media_type": "application/pdf", "data": data}
    return {"type": "document", "source": source, "title": title}


def asking(*blocks: Any) -> Ask:
    messages = [{"role": "user", "content": list(blocks)}]
    return asks.ask(codec.dumps({"model": "m", "max_tokens": 9, "messages": messages}))


def shown(ask: Ask) -> list[Any]:
    return [part_of(block, Sight()) for block in ask.messages[0]["content"]]


def test_without_a_setting_there_is_nothing_to_do() -> None:
    assert materials.of(Options(), silent) is None


async def test_a_request_that_wants_nothing_is_the_same() -> None:
    ask = asking({"type": "text", "text": "Hello"})
    made = materials.of(Options(pdf_to_text="exit 1"), silent)
    assert made is not None

    assert await made.fill(ask, Sight()) is ask


async def test_each_file_is_read_once(tmp_path: Path) -> None:
    made = Materials(Options(pdf_to_text=f"echo x >>{tmp_path}/runs; tr a-z A-Z"), silent)
    ask = asking(pdf("YWJj"), pdf("ZGVm", "b.pdf"), pdf("YWJj", "again.pdf"))
    with trio.fail_after(LIMIT_S):
        turns = [shown(await made.fill(ask, Sight())) for _ in range(3)]

    assert turns == [["a.pdf\nABC", "b.pdf\nDEF", "again.pdf\nABC"]] * 3
    assert (tmp_path / "runs").read_text() == "x\n" * 2


async def test_one_that_cannot_be_read_spoils_no_other() -> None:
    made = Materials(Options(pdf_to_text="read line; test $line = abc && echo $line"), silent)
    with trio.fail_after(LIMIT_S):
        found = await made.fill(asking(pdf("YWJjCg=="), pdf("ZGVm", "b.pdf")), Sight())

    assert shown(found) == ["a.pdf\nabc", "[PDF omitted: b.pdf, 3 bytes: pdf_to_text ended with 1]"]
