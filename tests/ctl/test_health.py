"""What `up` says of the provider behind a proxy."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from modelproxy.ctl.health import warnings


class _Worker(BaseHTTPRequestHandler):
    body = b""

    def do_GET(self) -> None:
        self.send_response(503)
        self.end_headers()
        self.wfile.write(type(self).body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def worker() -> Iterator[tuple[int, type[_Worker]]]:
    server = HTTPServer(("127.0.0.1", 0), _Worker)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server.server_port, _Worker
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_sick_provider_is_told_in_the_workers_words(worker: tuple[int, type[_Worker]]) -> None:
    port, handler = worker
    handler.body = json.dumps(
        {
            "healthy": False,
            "upstream": {"detail": "Ollama is not running: ollama serve"},
            "warnings": ["window"],
        }
    ).encode()

    assert warnings({"provider": "ollama", "port": port}) == ["Ollama is not running: ollama serve", "window"]


@pytest.mark.parametrize("body", [b"", b"[]", b"not json", b'{"healthy":true,"upstream":{"detail":"fine"}}'])
def test_nothing_is_said_when_all_is_well_or_nobody_can_say(
    worker: tuple[int, type[_Worker]], body: bytes
) -> None:
    port, handler = worker
    handler.body = body

    assert warnings({"provider": "ollama", "port": port}) == []


def test_the_built_in_provider_is_not_asked() -> None:
    assert warnings({"provider": "echo", "port": 1}) == []


def test_a_port_that_answers_nothing_is_no_warning() -> None:
    assert warnings({"provider": "ollama", "port": 1}) == []
