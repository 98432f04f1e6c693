"""What a model is shown of files that its server cannot read (issue 3)."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import grammar
from fakes.house import Stream
from fakes.upstream import Reply, Upstream
from fakes.venturesome_worker import SHOWN

from .providers import KEY, Estate, estate, msg, post

pytestmark = pytest.mark.slow

CONFIG = """
[providers.reading]
kind = "ollama"
base_url = "{fo}"
pdf_to_text = "echo x >>RUNS; tr a-z A-Z"

[providers.compatible]
kind = "openai"
base_url = "{fr}"
pdf_to_text = "tr a-z A-Z"

[providers.openrouter]
base_url = "{fr}"
api_key = "KEY"
pdf_to_text = "tr a-z A-Z"

[providers.failing]
kind = "ollama"
base_url = "{fo}"
pdf_to_text = "echo no such font >&2; exit 1"

[providers.fetching]
kind = "ollama"
base_url = "{fo}"
fetch_images = true

[providers.local]
kind = "openai"
base_url = "{fr}"
fetch_images = true

[providers.plain]
kind = "openai"
base_url = "{fr}"

[providers.waiting]
kind = "ollama"
base_url = "{fo}"
hold = "50ms"
ping = "50ms"
pdf_to_text = "cat GATE >&2; tr a-z A-Z"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("media")
    os.mkfifo(found / "gate")
    return found


@pytest.fixture(scope="module")
def whole(folder: Path) -> Iterator[Estate]:
    text = CONFIG.replace("RUNS", f"{folder}/runs").replace("GATE", f"{folder}/gate").replace("KEY", KEY)
    with estate(text, arguments=["--worker-module", "fakes.venturesome_worker"]) as found:
        yield found


def pdf(words: str = "sales went up", title: str = "report.pdf") -> dict[str, Any]:
    data = base64.b64encode(words.encode()).decode()
    source = {"type": "base64", "media_type": "application/pdf", "data": data}
    return {"type": "document", "source": source, "title": title}


def read_by_a_tool(*blocks: Any) -> list[dict[str, Any]]:
    call = {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"path": "report.pdf"}}
    return [
        {"role": "user", "content": "Read it."},
        {"role": "assistant", "content": [call]},
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": [*blocks]}],
        },
    ]


@pytest.mark.parametrize("provider", ["reading", "compatible"])
def test_a_pdf_is_read_out(here: Estate, provider: str) -> None:
    port = here.up(f"{provider}/model")
    far = here.fo if provider == "reading" else here.fr
    assert post(port, msg([pdf(), {"type": "text", "text": "What does it say?"}])).status == 200
    asked = far.sent["messages"][-1]
    words = asked["content"]
    said = words if isinstance(words, str) else "\n".join(part["text"] for part in words)

    assert "report.pdf\nSALES WENT UP" in said
    assert "What does it say?" in said


def test_so_is_one_that_a_tool_brings(here: Estate) -> None:
    body = msg(messages=read_by_a_tool({"type": "text", "text": "PDF file read"}, pdf()))
    assert post(here.up("reading/model"), body).status == 200
    [result] = [one for one in here.fo.sent["messages"] if one["role"] == "tool"]

    assert result["content"] == "PDF file read\nreport.pdf\nSALES WENT UP"


def test_it_is_read_once_in_a_conversation_that_begins_with_the_same_bytes(
    here: Estate, folder: Path
) -> None:
    port, first = here.up("reading/model"), [{"role": "user", "content": [pdf("costs went down")]}]
    before = (folder / "runs").read_text() if (folder / "runs").exists() else ""
    more = [*first, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "And now?"}]
    for messages in (first, more):
        assert post(port, msg(messages=messages)).status == 200
    bodies = [seen.json()["messages"] for seen in here.fo.asked]

    assert (folder / "runs").read_text() == before + "x\n"
    assert bodies[1][: len(bodies[0])] == bodies[0]
    assert "COSTS WENT DOWN" in str(bodies[0])


def test_a_failure_is_said_in_its_place_and_in_the_log(here: Estate) -> None:
    port = here.up("failing/model")
    assert post(port, msg([pdf()])).status == 200

    assert here.fo.sent["messages"][-1]["content"] == (
        "[PDF omitted: report.pdf, 13 bytes: pdf_to_text ended with 1]"
    )
    logged = here.house.command("logs", "failing/model").stdout
    assert "pdf_unread" in logged
    assert "no such font" in logged


def test_what_a_server_never_saw_does_not_make_its_counts_wrong(here: Estate) -> None:
    """The client's own request holds a file of thousands of tokens, of which the model is told its name."""
    port, words = here.up("plain/model"), "word " * 2000
    before = post(port, msg(words), "/v1/messages/count_tokens").json["input_tokens"]
    here.fr.say("ok", usage={"prompt_tokens": before})
    assert post(port, msg([{"type": "text", "text": words}, pdf()])).status == 200
    after = post(port, msg(words), "/v1/messages/count_tokens").json["input_tokens"]

    assert after == pytest.approx(before, rel=0.05)


@pytest.mark.parametrize(("provider", "first", "then"), [("plain", 20, 20), ("reading", 2000, 4500)])
def test_a_count_is_of_what_the_model_is_shown(here: Estate, provider: str, first: int, then: int) -> None:
    """A file that is only named costs its name; one that is read out its text, once that is known."""
    port, body = here.up(f"{provider}/model"), msg([pdf("word " * 5000, title=f"{provider}.pdf")])
    counts = [post(port, body, "/v1/messages/count_tokens").json["input_tokens"]]
    assert post(port, body).status == 200
    counts.append(post(port, body, "/v1/messages/count_tokens").json["input_tokens"])

    assert counts == pytest.approx([first, then], rel=0.5)


def test_a_server_that_takes_files_gets_the_file(here: Estate) -> None:
    assert post(here.up("openrouter/model"), msg([pdf()])).status == 200
    [part] = here.fr.sent["messages"][-1]["content"]

    assert part["type"] == "file"
    assert part["file"]["filename"] == "report.pdf"


def test_a_client_gets_pings_while_a_file_is_read(here: Estate, folder: Path) -> None:
    port = here.up("waiting/model")
    stream = Stream(port, [pdf()])
    stream.read_until(b"event: ping")
    asked_meanwhile = list(here.fo.asked)
    (folder / "gate").write_bytes(b"")
    said = grammar.check(stream.rest())

    assert said.complete
    assert asked_meanwhile == []
    assert "SALES WENT UP" in here.fo.sent["messages"][-1]["content"]


# --- pictures by their addresses ------------------------------------------------------------------

PNG = b"\x89PNG\r\n\x1a\n and what follows"
INLINE = base64.b64encode(PNG).decode()


@pytest.fixture
def gallery() -> Iterator[Upstream]:
    """What stands for the internet."""
    with Upstream(host=SHOWN) as found:
        found.on("/a.png", Reply(body=PNG, headers=(("content-type", "image/png"),)))
        yield found


def picture(url: str) -> dict[str, Any]:
    return {"type": "image", "source": {"type": "url", "url": url}}


def test_a_picture_is_fetched_for_ollama_once(here: Estate, gallery: Upstream) -> None:
    port, body = here.up("fetching/model"), msg([picture(f"{gallery.url}/a.png")])
    for _ in range(2):
        assert post(port, body).status == 200
        assert here.fo.sent["messages"][-1]["images"] == [INLINE]

    assert len(gallery.requests) == 1
    assert here.fo.asked[0].body == here.fo.asked[1].body


def test_so_it_is_for_a_server_of_ones_own(here: Estate, gallery: Upstream) -> None:
    body = msg(messages=read_by_a_tool(picture(f"{gallery.url}/a.png")))
    assert post(here.up("local/model"), body).status == 200
    parts = here.fr.sent["messages"][-1]["content"]

    assert parts[-1] == {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{INLINE}"}}


def test_without_the_setting_the_address_is_passed_on_and_nobody_asked(
    here: Estate, gallery: Upstream
) -> None:
    url = f"{gallery.url}/a.png"
    assert post(here.up("plain/model"), msg([picture(url)])).status == 200
    assert post(here.up("reading/model"), msg([picture(url)])).status == 200

    assert here.fr.sent["messages"][-1]["content"] == [{"type": "image_url", "image_url": {"url": url}}]
    assert here.fo.sent["messages"][-1]["content"] == (
        f"[image omitted: the model's server takes no image addresses: {url}]"
    )
    assert gallery.connections == 0


def test_a_prompt_cannot_read_the_users_network(here: Estate, gallery: Upstream) -> None:
    """Neither by an address nor by one outside that leads there."""
    with Upstream() as inner:
        gallery.on("/moved", Reply(302, headers=(("location", f"{inner.url}/secret"),)))
        urls = [f"{inner.url}/secret", f"{gallery.url}/moved", "http://169.254.169.254/latest/meta-data"]
        assert post(here.up("fetching/model"), msg([picture(url) for url in urls])).status == 200
        said = here.fo.sent["messages"][-1]

        assert inner.connections == 0
    words = "it is in this machine's own network, which is not asked"
    assert said["content"].split("\n\n") == [f"[image omitted: {url}: {words}]" for url in urls]
    assert "images" not in said
    assert "image_unfetched" in here.house.command("logs", "fetching/model").stdout
