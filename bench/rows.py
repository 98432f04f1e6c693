"""The rows of the behaviours that name a time, from outside: the real command, a real worker, fake providers.

    python bench/rows.py [--rounds 10]

Prints what each row allows beside the worst and the median of several rounds, and ends with 1 when a row is
missed. No test asserts these times, because a busy machine would decide; the tests assert what makes them.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from e2e.providers import HEADERS, Estate, Ollama, estate, msg  # found by the line above
from fakes.house import free_port  # the same
from fakes.upstream import Reply

PIECES = 20
PAUSE_S = 0.1


@contextmanager
def asked(port: int, method: str, path: str, body: object = None) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, None if body is None else json.dumps(body), HEADERS)
    response = connection.getresponse()
    yield response
    response.close()
    connection.close()


def nobody_there(here: Estate) -> Iterator[float]:
    """S70: from the request to the whole answer, with nothing listening at the provider's port."""
    port = here.up("ollama/absent", "--base-url", f"http://127.0.0.1:{free_port()}")
    while True:
        for streamed in (False, True):
            began = time.monotonic()
            with asked(port, "POST", "/v1/messages", msg(stream=streamed)) as response:
                response.read()
                assert response.status == 503
            yield time.monotonic() - began


def silent_health(here: Estate) -> Iterator[float]:
    """S47b: a provider that accepts and says nothing. Each worker's first look, because later ones are known."""
    with Ollama() as far:
        far.on("*", Reply(hang=True)).on("/api/tags", Reply(hang=True))
        for number in itertools.count():
            port = here.up(f"ollama/silent{number}", "--base-url", far.base, "--no-wait")
            began = time.monotonic()
            with asked(port, "GET", "/health") as response:
                assert response.status == 503
            yield time.monotonic() - began


def deltas(here: Estate) -> Iterator[list[float]]:
    """When each delta came, counted from when the provider was asked: it speaks first at that moment."""
    port = here.ollama
    here.fo.say(*[f"word{number} " for number in range(PIECES)], pause=PAUSE_S)
    while True:
        began, found = time.monotonic(), []
        with asked(port, "POST", "/v1/messages", msg(stream=True)) as response:
            while line := response.readline():
                if line.startswith(b"event: content_block_delta"):
                    found.append(time.monotonic() - began)
        yield found


def models(here: Estate) -> Iterator[float]:
    """S143: the list for the picker."""
    port = here.ollama
    while True:
        began = time.monotonic()
        with asked(port, "GET", "/v1/models?limit=1000") as response:
            assert json.loads(response.read())["data"]
        yield time.monotonic() - began


def told(row: str, what: str, limit_ms: float, spans: list[float]) -> bool:
    worst, median = max(spans) * 1000, statistics.median(spans) * 1000
    good = worst < limit_ms
    verdict = "ok" if good else "MISSED"
    print(f"{row:5} {what:34} < {limit_ms:5.0f} ms   worst {worst:7.1f}   median {median:7.1f}   {verdict}")
    return good


def main(rounds: int) -> int:
    with estate() as here:

        def taken(measure: Callable[[Estate], Iterator[float]]) -> list[float]:
            return [span for span, _ in zip(measure(here), range(rounds), strict=False)]

        good = told("S70", "nobody listens: the whole 503", 1000, taken(nobody_there))
        good &= told(
            "S47b", "/health of a silent provider", 3000, list(itertools.islice(silent_health(here), 3))
        )
        streams = [one for one, _ in zip(deltas(here), range(rounds), strict=False)]
        good &= told("S129", "the first delta, since the request", 300, [one[0] for one in streams])
        fewest = min(map(len, streams))
        apart = min(sum(b - a > PAUSE_S / 2 for a, b in itertools.pairwise(one)) for one in streams)
        good &= fewest >= 15
        print(
            f"      fewest deltas of {PIECES} pieces: {fewest} (>= 15); at least {apart + 1} at times of their own"
        )
        good &= told("S143", "GET /v1/models?limit=1000", 100, taken(models))
    return 0 if good else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure the rows that name a time.")
    parser.add_argument("--rounds", type=int, default=10)
    sys.exit(main(parser.parse_args().rounds))
