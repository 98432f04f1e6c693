"""What the worker thinks of its provider, for the warning that `up` prints."""

from __future__ import annotations

import http.client
import json
from typing import Any

LIMIT_S = 4.0
"""A little longer than the worker gives its own probe."""


def warnings(row: dict[str, Any]) -> list[str]:
    """Sentences for a person; empty when all is well or nobody can say.

    The proxy is up whatever they say: it needs no healthy provider to wait for one.
    """
    if row.get("provider") == "echo":
        return []  # built in: there is nothing to be ill
    seen = ask(int(row["port"]))
    upstream = seen.get("upstream")
    detail = upstream.get("detail") if isinstance(upstream, dict) else None
    found = [str(detail or "not healthy")] if seen.get("healthy") is False else []
    return found + [str(text) for text in seen.get("warnings") or []]


def ask(port: int) -> dict[str, Any]:
    """What the worker on `port` says of itself, after a look at its provider; empty when it does not."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
    try:
        connection.request("GET", "/health")
        document = json.loads(connection.getresponse().read())
    except (OSError, ValueError, http.client.HTTPException):
        return {}
    finally:
        connection.close()
    return document if isinstance(document, dict) else {}
