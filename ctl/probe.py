"""Plain HTTP to a proxy's own port, for commands that are its clients."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Mapping
from typing import Any

from .client import quote
from .environment import credential, sent_along
from .faults import usage

LIMIT_S = 4.0
_HEADERS = {"anthropic-version": "2023-06-01"}


def headers(view: Mapping[str, Any]) -> dict[str, str]:
    """Those of a model request of our own: who asks, and the caller's credential where it may be passed on."""
    try:
        own = credential(view, os.environ)
    except ValueError as error:
        raise usage(str(error)) from None
    return {"content-type": "application/json", **_HEADERS, **own, **sent_along(os.environ)}


def sizes(view: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Window and longest answer of the model in tokens, as far as its provider tells; asked as clients do."""
    asking = _HEADERS | sent_along(os.environ)
    connection = http.client.HTTPConnection("127.0.0.1", int(view["port"]), timeout=LIMIT_S)
    try:
        # What the provider says is asked for by this, and kept by the worker.
        connection.request("GET", "/health")
        connection.getresponse().read()
        connection.request("GET", f"/v1/models/{quote(str(view['model']))}", headers=asking)
        document = json.loads(connection.getresponse().read())
    except (OSError, ValueError, http.client.HTTPException):
        return None, None
    finally:
        connection.close()
    if not isinstance(document, dict):
        return None, None
    window, output = document.get("max_input_tokens"), document.get("max_tokens")
    return window if isinstance(window, int) else None, output if isinstance(output, int) else None


def refuses(view: Mapping[str, Any]) -> bool:
    """Whether the access token of whoever runs us is none that the proxy knows."""
    connection = http.client.HTTPConnection("127.0.0.1", int(view["port"]), timeout=LIMIT_S)
    try:
        connection.request("GET", "/v1/models", headers=_HEADERS | sent_along(os.environ))
        return connection.getresponse().status == 401
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
