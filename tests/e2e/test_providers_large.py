"""S67: answers and requests of many megabytes, and clients that take their time (issue 3)."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakes import grammar
from fakes.house import LIMIT_S, Answer, assert_error

from .providers import HEADERS, Estate, Said, message_of, msg, post

pytestmark = pytest.mark.slow

BOTH = pytest.mark.parametrize("kind", ["ollama", "router"])
MODES = pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
MB = 1024 * 1024
SIZE = 10 * MB


def written(line: str) -> tuple[str, ...]:
    """Ten megabytes of it, in pieces of some kilobytes."""
    piece = line * 400
    return tuple(f"{number}:{piece}" for number in range(SIZE // len(piece.encode()) + 1))


TEXTS = {
    "ascii": written("words and more words of an answer\n"),
    "latin": written('d\u00e9j\u00e0 vu, \u00fcber und \u00fcber, ni\u00f1o \\ " \t'),
    "cjk": written("\u8a9e\u8a00\u6a21\u578b\u306f\u9577\u3044\u6587\u7ae0\u3092\u66f8\u304f\u3002\n"),
    "emoji": written('words and more words \u00e9\u6f22\U0001f600 \\ " \n\t'),
}
PIECES = TEXTS["emoji"]
TEXT = "".join(PIECES)
LIMIT = 32 * MB


def worker_of(here: Estate, port: int) -> int:
    pid: int = next(row["pid"] for row in here.house.ps() if row["port"] == port)
    return pid


def memory(pid: int, line: str) -> int:
    """Bytes; `VmRSS` now, `VmHWM` the most since `forget`."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    [found] = [one for one in status if one.startswith(f"{line}:")]
    return int(found.split()[1]) * 1024


def forget(pid: int) -> None:
    """The most begins anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


@BOTH
@MODES
@pytest.mark.parametrize("script", TEXTS)
def test_s67_ten_megabytes_come_as_they_are(here: Estate, kind: str, streamed: bool, script: str) -> None:
    text = "".join(TEXTS[script])
    far, port = here.far(kind), here.port(kind)
    assert post(port, msg(stream=streamed)).status == 200  # warm
    far.said = Said(TEXTS[script])
    with growth_of(here, port) as grown:
        found = message_of(port, msg(), streamed=streamed)

    assert "".join(block["text"] for block in found["content"]) == text
    assert found["stop_reason"] == "end_turn"
    # Chat completions come as one document here, with escapes for all that is not ASCII.
    size = len(json.dumps(here.fr.whole(far.said)) if kind == "router" else text.encode())
    assert_small(grown, size, streamed=streamed)


@BOTH
@MODES
def test_s67_ten_megabytes_in_one_piece(here: Estate, kind: str, streamed: bool) -> None:
    """No provider speaks so, but nothing keeps one from it. One emoji is enough for four bytes per character."""
    text = "\U0001f600" + "".join(TEXTS["ascii"])
    far, port = here.far(kind), here.port(kind)
    assert post(port, msg(stream=streamed)).status == 200  # warm
    far.said = Said((text,))
    with growth_of(here, port) as grown:
        found = message_of(port, msg(), streamed=streamed)

    assert [block["text"] for block in found["content"]] == [text]
    assert_small(grown, len(text), streamed=False)


@MODES
def test_s67_ten_megabytes_pass_through(here: Estate, streamed: bool) -> None:
    assert post(here.anthropic, msg(stream=streamed)).status == 200  # warm
    here.fa.said = Said(PIECES)
    with growth_of(here, here.anthropic) as grown:
        body = post(here.anthropic, msg(stream=streamed)).body

    assert body == (b"".join(here.fa.streamed()) if streamed else here.fa.whole())
    assert_small(grown, len(body), streamed=streamed)


@contextmanager
def growth_of(here: Estate, port: int) -> Iterator[list[int]]:
    """How much larger the worker of a port became at most, behind the block."""
    pid, grown = worker_of(here, port), list[int]()
    forget(pid)
    before = memory(pid, "VmRSS")
    yield grown
    grown.append(memory(pid, "VmHWM") - before)


def assert_small(grown: list[int], size: int, *, streamed: bool) -> None:
    most = 20 * MB if streamed else 3 * size
    assert size >= SIZE
    assert grown[0] < most, f"{grown[0] / MB:.0f} MB for {size / MB:.0f}"


@BOTH
def test_s67_twenty_megabytes_of_pictures_are_taken(here: Estate, kind: str) -> None:
    data = "iVBORw0KGgo" + "A" * (5 * MB)
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
    here.far(kind).models = ["codellama"]
    answer = post(here.port(kind), msg([*[image] * 4, {"type": "text", "text": "what is it?"}]))

    assert answer.status == 200, answer
    assert here.far(kind).asked[-1].body.count(data.encode()) == 4


@pytest.mark.parametrize("kind", ["ollama", "router", "anthropic"])
def test_s67_more_than_the_limit_is_refused_with_both_sizes(here: Estate, kind: str) -> None:
    """400, never 413, also for a client that sends all of it first."""
    port = here.port(kind)
    body = json.dumps(msg("x" * (LIMIT + MB))).encode()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
    connection.putrequest("POST", "/v1/messages")
    for name, value in (HEADERS | {"content-length": str(len(body))}).items():
        connection.putheader(name, value)
    connection.endheaders()
    connection.send(body)

    answer = Answer(connection.getresponse())
    connection.close()

    assert_error(answer, 400, "invalid_request_error", str(len(body)), str(LIMIT))
    assert here.usage("--limit", "1")[-1]["status"] == 400


@BOTH
def test_s67_a_slow_reader_slows_only_itself(here: Estate, kind: str) -> None:
    """It reads nothing while others are served, and then everything."""
    far, port = here.far(kind), here.port(kind)
    far.said = Said(PIECES)
    body = json.dumps(msg(stream=True)).encode()
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S) as slow:
        slow.sendall(request(body))
        far.wait_for_requests(1)
        far.said = Said(("quick",))
        for number in range(20):
            assert message_of(port, msg(), streamed=bool(number % 2))["content"][0]["text"] == "quick"
        response = http.client.HTTPResponse(slow)
        response.begin()
        said = grammar.check(response.read())
        response.close()

    assert said.text == TEXT
    assert said.complete


def request(body: bytes) -> bytes:
    head = "POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
