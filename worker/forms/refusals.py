"""Errors of the Messages API in OpenAI's words. What clients act on is the status, the type and the code."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from modelproxy.worker.failures import Headers
from modelproxy.worker.wire import codec

_TYPES = {
    "authentication_error": ("authentication_error", "invalid_api_key"),
    "billing_error": ("insufficient_quota", "insufficient_quota"),
    "permission_error": ("permission_error", None),
    "not_found_error": ("not_found_error", None),
    "rate_limit_error": ("rate_limit_error", "rate_limit_exceeded"),
    "api_error": ("server_error", None),
    "timeout_error": ("server_error", None),
    "overloaded_error": ("server_error", "overloaded"),
}
"""Anything else is an invalid request."""
_STATUSES = {529: 503}
"""Those that only clients of the Messages API know."""
_OVERFLOW = re.compile(r"prompt is too long|exceed context limit|Input is too long")
_NO_MODEL = ("no such endpoint", "agent: ")
_KEY = re.compile(r"\bAPI key\b", re.IGNORECASE)


def error(body: bytes) -> dict[str, Any]:
    """The `error` object for an error's body, or for the data of an `error` event."""
    said = _said(body)
    kind, message = str(said.get("type") or "api_error"), str(said.get("message") or "")
    details = said.get("details") if isinstance(said.get("details"), dict) else {}
    assert isinstance(details, dict)
    type_, code = _TYPES.get(kind, ("invalid_request_error", None))
    return {
        "message": message or "the provider said no more than that it failed",
        "type": type_,
        "param": details.get("param"),
        "code": details.get("code") or _code(kind, message) or code,
    }


def _code(kind: str, message: str) -> str | None:
    if kind == "invalid_request_error" and _OVERFLOW.search(message):
        return "context_length_exceeded"
    if kind == "not_found_error" and not message.startswith(_NO_MODEL):
        return "model_not_found"
    if kind == "permission_error" and _KEY.search(message):
        return "invalid_api_key"
    return None


def _said(body: bytes) -> dict[str, Any]:
    document = _document(body)
    if document is None:
        return {"message": body[:300].decode("utf-8", "replace").strip()}
    found = document.get("error")
    return found if isinstance(found, dict) else {}


def _document(body: bytes) -> dict[str, Any] | None:
    try:
        document = codec.loads(body)
    except ValueError:
        return None
    return document if isinstance(document, dict) else {}


def body(data: bytes) -> bytes:
    """The body of an error answer."""
    return codec.dumps({"error": error(data)})


def both(data: bytes) -> bytes:
    """The same for who has not said which client it is: in both shapes at once, neither minds the other's fields."""
    return codec.dumps({**(_document(data) or {}), "error": error(data)})


def status(said: int) -> int:
    """The status that OpenAI's clients know for it."""
    return _STATUSES.get(said, said)


def headers(said: Sequence[tuple[bytes, bytes]]) -> Headers:
    """An answer's headers; these clients look for the request's id under another name."""
    ids = [(b"x-request-id", value) for name, value in said if name == b"request-id"]
    return [*said, *ids]
