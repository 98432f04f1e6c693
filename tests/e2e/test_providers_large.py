"""S67: answers and requests of many megabytes, and clients that take their time (issue 3)."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import grammar
from fakes.house import LIMIT_S, Answer

from .providers import HEADERS, Estate, Said, estate, message_of, msg, post
from .test_manners import assert_error

pytestmark = pytest.mark.slow

BOTH = pytest.mark.parametrize("kind", ["ollama", "router"])
MODES = pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
MB = 1024 * 1024
PIECE = ('words and more words é漢\U0001f600 \\ " \n\t' * 800)[:16_000]
PIECES = tuple(f"{number}:{PIECE}" for number in range(560))
TEXT = "".join(PIECES)
ASCII = tuple("words and more words " * 800 for _ in range(650))
LIMIT = 32 * MB


@pytest.fixture(scope="module")
def whole() -> Iterator[Estate]:
    with estate() as found:
        yield found


@pytest.fixture
def here(whole: Estate) -> Estate:
    whole.reset()
    return whole


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
@pytest.mark.parametrize("pieces", [ASCII, PIECES], ids=["ascii", "unicode"])
def test_s67_ten_megabytes_come_as_they_are(
    here: Estate, kind: str, streamed: bool, pieces: tuple[str, ...]
) -> None:
    text = "".join(pieces)
    size = len(text.encode())
    assert size > 10 * MB
    far, port = here.far(kind), here.port(kind)
    assert post(port, msg(stream=streamed)).status == 200  # warm
    pid = worker_of(here, port)
    far.said = Said(pieces)
    forget(pid)
    before = memory(pid, "VmRSS")
    found = message_of(port, msg(), streamed=streamed)
    grown = memory(pid, "VmHWM") - before

    assert "".join(block["text"] for block in found["content"]) == text
    assert found["stop_reason"] == "end_turn"
    # Python holds a text with one emoji in it as four bytes per character.
    most = 20 * MB if streamed else 3 * size if text.isascii() else 8 * size
    assert grown < most, f"{grown / MB:.0f} MB"


def test_s67_ten_megabytes_pass_through(here: Estate) -> None:
    here.fa.said = Said(PIECES)
    plain = post(here.anthropic, msg())
    streamed = post(here.anthropic, msg(stream=True))

    assert plain.body == here.fa.whole()
    assert streamed.body == b"".join(here.fa.streamed())


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
