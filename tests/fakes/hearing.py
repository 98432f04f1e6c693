"""A small HTTP server in a thread, for commands that ask one: its handler notes in `heard` what came."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@contextmanager
def hearing(handler: type[BaseHTTPRequestHandler]) -> Iterator[Any]:
    """It listens on a free port of 127.0.0.1."""
    found: Any = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    found.heard = []
    thread = threading.Thread(target=found.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield found
    finally:
        found.shutdown()
        found.server_close()
        thread.join()
