"""What a request needs before it can be translated, and the request with it. Pure."""

from __future__ import annotations

from typing import Any

import pytest

from modelproxy.worker.dialects import material
from modelproxy.worker.dialects.blocks import Document, Image, ImageUrl, Sight, document_of, part_of
from modelproxy.worker.dialects.material import Lacking, Wishes, filled, wanted
from modelproxy.worker.wire import asks, codec
from modelproxy.worker.wire.asks import Ask

PDFS = Wishes(pdfs=True)
IMAGES = Wishes(images=True)
NOTHING = Wishes()
ADDRESS = ImageUrl("https://example.net/a.png")
MEDIA = Document("report.pdf", "application/pdf", "QUJD")


def pdf(**more: Any) -> dict[str, Any]:
    source = {"type": "base64", "media_type": "application/pdf", "data": "QUJD"}
    return {"type": "document", "source": source, "title": "report.pdf", **more}


def picture(**source: Any) -> dict[str, Any]:
    return {"type": "image", "source": source or {"type": "url", "url": "https://example.net/a.png"}}


def result(*blocks: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "t", "content": list(blocks)}


def asking(*contents: Any) -> Ask:
    messages = [{"role": "user", "content": content} for content in contents]
    return asks.ask(codec.dumps({"model": "m", "max_tokens": 9, "messages": messages}))


def shown(ask: Ask) -> Any:
    return part_of(ask.messages[0]["content"][0], Sight())


def test_files_are_wanted_wherever_they_stand() -> None:
    ask = asking(
        "Hello", [pdf(), {"type": "text", "text": "?"}], [result({"type": "text", "text": "a"}, pdf())]
    )

    assert wanted(ask, Sight(), PDFS) == [MEDIA, MEDIA]


@pytest.mark.parametrize(
    ("block", "sight", "wishes"),
    [
        (pdf(), Sight(documents=True), PDFS),
        (pdf(), Sight(), NOTHING),
        (pdf(source={"type": "base64", "media_type": "application/zip", "data": "QUJD"}), Sight(), PDFS),
        (pdf(source={"type": "text", "media_type": "text/plain", "data": "abc"}), Sight(), PDFS),
        (pdf(source={"type": "url", "url": "https://example.net/a.pdf"}), Sight(), PDFS),
        (result(result(pdf())), Sight(), PDFS),
        (picture(), Sight(), PDFS),
        (picture(), Sight(images=False), IMAGES),
        (picture(type="base64", media_type="image/png", data="QUJD"), Sight(), IMAGES),
        (picture(type="url", url="data:image/png;base64,QUJD"), Sight(), IMAGES),
        (picture(type="file", file_id="file_1"), Sight(), IMAGES),
        (pdf(), Sight(), IMAGES),
        ({"type": "tool_result", "tool_use_id": "t"}, Sight(), PDFS),
        ({"type": "tool_result", "tool_use_id": "t", "content": "words"}, Sight(), PDFS),
    ],
)
def test_what_can_be_shown_or_nobody_reads_is_left_alone(
    block: dict[str, Any], sight: Sight, wishes: Wishes
) -> None:
    ask = asking([block])

    assert wanted(ask, sight, wishes) == []
    assert filled(ask, sight, wishes, {}).body == ask.body


def test_a_file_becomes_a_text_document_under_its_title() -> None:
    ask = asking([pdf(context="Of last year.", cache_control={"type": "ephemeral"})])
    found = filled(ask, Sight(), PDFS, {MEDIA: "Sales went up."})
    [block] = found.messages[0]["content"]

    assert shown(found) == "report.pdf\nOf last year.\nSales went up."
    assert block["cache_control"] == {"type": "ephemeral"}
    assert shown(ask) == "[PDF omitted: report.pdf, 3 bytes]"


def test_a_file_without_a_title_gets_one() -> None:
    ask = asking([pdf(title=None)])
    media = document_of(ask.messages[0]["content"][0])
    assert media is not None

    assert shown(filled(ask, Sight(), PDFS, {media: "Sales went up."})) == "document.pdf\nSales went up."


def test_in_a_result_the_frame_stays() -> None:
    said = {"type": "text", "text": "read"}
    found = filled(asking([result(said, pdf())]), Sight(), PDFS, {MEDIA: "Sales"})
    [block] = found.messages[0]["content"]

    assert (block["type"], block["tool_use_id"]) == ("tool_result", "t")
    assert block["content"][0] == said
    assert part_of(block["content"][1], Sight()) == "report.pdf\nSales"


def test_what_could_not_be_had_is_said_with_the_reason() -> None:
    ask = asking([pdf(cache_control={"type": "ephemeral"})])
    found = filled(ask, Sight(), PDFS, {MEDIA: Lacking("no text in it")})
    [block] = found.messages[0]["content"]

    assert shown(found) == "[PDF omitted: report.pdf, 3 bytes: no text in it]"
    assert block["cache_control"] == {"type": "ephemeral"}


def test_the_name_of_a_file_is_no_part_of_what_it_is() -> None:
    other = Document("b.pdf", "application/pdf", "QUJD")

    assert material.key_of(MEDIA) == material.key_of(other)
    assert material.key_of(MEDIA) != material.key_of(Document("report.pdf", "application/pdf", "QUJE"))


@pytest.mark.parametrize("sight", [Sight(), Sight(image_urls=False)])
def test_a_picture_comes_into_its_own_place(sight: Sight) -> None:
    ask = asking([picture() | {"cache_control": {"type": "ephemeral"}}], [result(picture())])
    found = filled(ask, sight, IMAGES, {ADDRESS: Image("image/webp", "QUJD")})
    [block] = found.messages[0]["content"]
    [inner] = found.messages[1]["content"][0]["content"]

    assert wanted(ask, sight, IMAGES) == [ADDRESS, ADDRESS]
    assert part_of(block, sight) == part_of(inner, sight) == Image("image/webp", "QUJD")
    assert block["cache_control"] == {"type": "ephemeral"}


def test_a_picture_that_could_not_be_fetched_is_said_with_its_address() -> None:
    ask = asking([picture(type="url", url="https://example.net/" + "a" * 300)])
    [media] = wanted(ask, Sight(), IMAGES)

    assert shown(filled(ask, Sight(), IMAGES, {media: Lacking("it is gone")})) == (
        f"[image omitted: https://example.net/{'a' * 180}: it is gone]"
    )


def test_an_address_is_what_a_picture_is_known_by() -> None:
    assert material.key_of(ADDRESS) == material.key_of(ImageUrl(ADDRESS.url))
    assert material.key_of(ADDRESS) != material.key_of(ImageUrl(ADDRESS.url + "?"))
