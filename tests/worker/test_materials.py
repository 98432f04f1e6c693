"""What a target's settings get for a request: once for all turns, and nothing where nothing is wanted."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from fakes.upstream import Reply, Upstream

from modelproxy.worker import materials
from modelproxy.worker.contract import Options
from modelproxy.worker.dialects.blocks import Image, Sight, part_of
from modelproxy.worker.dialects.material import Lacking
from modelproxy.worker.images import Images
from modelproxy.worker.materials import Materials
from modelproxy.worker.wire import asks, codec
from modelproxy.worker.wire.asks import Ask

LIMIT_S = 30.0


def silent(*_: Any, **__: Any) -> None:
    pass


def pdf(data: str, title: str = "a.pdf") -> dict[str, Any]:
    source = {"type": "base64", "media_type": "application/pdf", "data": data}
    return {"type": "document", "source": source, "title": title}


def picture(url: str) -> dict[str, Any]:
    return {"type": "image", "source": {"type": "url", "url": url}}


def fetching(**settings: Any) -> Materials:
    images = Images(silent, allowed=lambda _: True)
    return Materials(Options(fetch_images=True), silent, images=images, **settings)


GIF = b"GIF89a and what follows"
SHOWN = Image("image/gif", base64.b64encode(GIF).decode())


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


async def test_what_is_here_already_can_be_had_without_getting_anything(tmp_path: Path) -> None:
    made = Materials(Options(pdf_to_text=f"echo x >>{tmp_path}/runs; tr a-z A-Z"), silent)
    first, both = asking(pdf("YWJj")), asking(pdf("YWJj"), pdf("ZGVm", "b.pdf"))
    with trio.fail_after(LIMIT_S):
        nothing = await made.filled(first, Sight())
        await made.fill(first, Sight())
        found = await made.filled(both, Sight())

    assert nothing is first
    assert shown(found) == ["a.pdf\nABC", "[PDF omitted: b.pdf, 3 bytes]"]
    assert (tmp_path / "runs").read_text() == "x\n"


def test_what_will_be_shown_in_another_form_is_shown() -> None:
    blind = Sight(images=False, image_urls=False)
    made = Materials(Options(pdf_to_text="cat"), silent)

    assert made.wider(blind) == Sight(images=False, image_urls=False, documents=True)
    assert fetching().wider(blind) == Sight(images=False, image_urls=True)


async def test_one_that_cannot_be_read_spoils_no_other() -> None:
    made = Materials(Options(pdf_to_text="read line; test $line = abc && echo $line"), silent)
    with trio.fail_after(LIMIT_S):
        found = await made.fill(asking(pdf("YWJjCg=="), pdf("ZGVm", "b.pdf")), Sight())

    assert shown(found) == ["a.pdf\nabc", "[PDF omitted: b.pdf, 3 bytes: pdf_to_text ended with 1]"]


async def test_each_picture_is_fetched_once() -> None:
    made = fetching()
    with Upstream() as far, trio.fail_after(LIMIT_S):
        far.on("*", Reply(body=GIF, headers=(("content-type", "image/gif"),)))
        ask = asking(*(picture(f"{far.url}/{name}") for name in "aba"))
        turns = [shown(await made.fill(ask, Sight())) for _ in range(3)]

        assert turns == [[SHOWN] * 3] * 3
        assert sorted(seen.path for seen in far.requests) == ["/a", "/b"]


async def test_a_setting_brings_only_what_it_says() -> None:
    ask = asking(picture("http://127.0.0.1:9/a.png"), pdf("YWJj"))
    images = materials.of(Options(fetch_images=True), silent)
    texts = materials.of(Options(pdf_to_text="tr a-z A-Z"), silent)
    assert images is not None
    assert texts is not None

    assert shown(await images.fill(ask, Sight()))[1] == "[PDF omitted: a.pdf, 3 bytes]"
    address, text = shown(await texts.fill(ask, Sight()))
    assert (address.url, text) == ("http://127.0.0.1:9/a.png", "a.pdf\nABC")


@pytest.mark.parametrize("more", [0, 9])
async def test_a_request_is_filled_up_to_a_bound_from_its_beginning(more: int) -> None:
    """A longer history begins with what the shorter one gave."""
    words = "[image omitted: {}: what this request is filled with is longer than 0 MiB]"
    made = fetching(most=2 * len(SHOWN.data))
    with Upstream() as far, trio.fail_after(LIMIT_S):
        far.on("*", Reply(body=GIF, headers=(("content-type", "image/gif"),)))
        urls = [f"{far.url}/{number}" for number in range(3 + more)]
        found = shown(await made.fill(asking(*map(picture, urls)), Sight()))

        assert found == [SHOWN, SHOWN, *(words.format(url) for url in urls[2:])]
        assert len(far.requests) <= materials.AT_ONCE


class Slow(Images):
    """The first to be asked for something dead finds that all the time has gone."""

    def __init__(self, clock: trio.testing.MockClock) -> None:
        super().__init__(silent)
        self._clock = clock
        self.asked: list[str] = []

    async def image(self, address: str) -> Image | Lacking:
        await trio.lowlevel.checkpoint()
        self.asked.append(address)
        if address == "dead" and self.asked.count("dead") == 1:
            self._clock.jump(materials.MOST_S)
            await trio.sleep_forever()
        return SHOWN


async def test_a_request_waits_for_so_long_and_goes_with_what_has_come(
    mock_clock: trio.testing.MockClock,
) -> None:
    """Many dead addresses are ten seconds each; the next turn asks for what this one had no time for."""
    images = Slow(mock_clock)
    made = Materials(Options(fetch_images=True), silent, images=images)
    ask = asking(*map(picture, "abcd"), picture("dead"), picture("e"))
    turns = [shown(await made.fill(ask, Sight())) for _ in range(2)]

    late = "[image omitted: {}: it did not come within the 60 s that one request waits]"
    assert turns == [[SHOWN] * 4 + [late.format("dead"), late.format("e")], [SHOWN] * 6]
    assert images.asked.count("a") == 1


async def test_what_stands_there_twice_counts_twice() -> None:
    made = fetching(most=2 * len(SHOWN.data))
    with Upstream() as far, trio.fail_after(LIMIT_S):
        far.on("*", Reply(body=GIF, headers=(("content-type", "image/gif"),)))
        found = shown(await made.fill(asking(*[picture(f"{far.url}/a")] * 3), Sight()))

    assert [isinstance(one, str) for one in found] == [True] * 3
