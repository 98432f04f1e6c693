"""What can go wrong with a request, and what its client is told.

A failure is a value: whoever meets one returns it, and only the handler turns it into bytes. `RULES` is
the one place that knows status, type and headers. Clients act on all three (they wait, repeat, compact,
give up or fall back), so a kind says what the client should *do*, not which line of code was unhappy.
"""

from __future__ import annotations

import enum
import math
from typing import Any

import attrs

from .wire import codec

Headers = list[tuple[bytes, bytes]]

LONGEST_RETRY_AFTER_S = 60
"""Claude Code gives up at once when it is told to wait longer."""


class Kind(enum.Enum):
    """Who is at fault, in the words of the error table."""

    INVALID = "invalid"
    OVERFLOW = "overflow"
    TOO_LARGE = "too large"
    UNAUTHENTICATED = "unauthenticated"
    KEY_REJECTED = "key rejected"
    NO_CREDIT = "no credit"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not found"
    METHOD = "method"
    RATE_LIMITED = "rate limited"
    PROVIDER = "provider error"
    CUT = "cut"
    BUG = "bug"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    OVERLOADED = "overloaded"


@attrs.frozen
class Failure:
    """One thing that went wrong. `message` is read by people and by programs: see `overflow`."""

    kind: Kind
    message: str
    retry_after_s: float | None = None
    allow: str | None = None
    """The methods that a path does take."""
    details: dict[str, Any] | None = None
    """Goes out as `error.details`; some SDKs read a code from it."""
    limit: str | None = None
    """Which limit of our own said no: `rpm`, `concurrency` or `token`."""
    instead: Failure | None = None
    """What the client is told where nobody else can be asked: of this it would only try again."""


class Refused(Exception):
    """Leaves a nested check of a client's request; the handler answers with `failure`."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@attrs.frozen
class Rule:
    """What a kind of failure becomes on the wire."""

    status: int
    type: str
    retry: bool | None = None
    """`x-should-retry`, where the status alone would make a client do the wrong thing."""
    retry_after_s: float | None = None
    """Said when the failure does not know better."""


RULES = {
    Kind.INVALID: Rule(400, "invalid_request_error"),
    Kind.OVERFLOW: Rule(400, "invalid_request_error"),
    # Never 413: clients of today compact and repeat a 413 without end.
    Kind.TOO_LARGE: Rule(400, "invalid_request_error"),
    Kind.UNAUTHENTICATED: Rule(401, "authentication_error", retry=False),
    # Never 401: it would make the client ask its user to log in again.
    Kind.KEY_REJECTED: Rule(403, "permission_error", retry=False),
    Kind.NO_CREDIT: Rule(402, "billing_error"),
    Kind.FORBIDDEN: Rule(403, "permission_error"),
    Kind.NOT_FOUND: Rule(404, "not_found_error"),
    Kind.METHOD: Rule(405, "invalid_request_error"),
    # Without a retry-after some clients give up at once.
    Kind.RATE_LIMITED: Rule(429, "rate_limit_error", retry_after_s=5),
    Kind.PROVIDER: Rule(500, "api_error"),
    Kind.CUT: Rule(500, "api_error"),
    Kind.BUG: Rule(500, "api_error"),
    # A server that is not running does not start by being asked again.
    Kind.UNREACHABLE: Rule(503, "api_error", retry=False),
    Kind.TIMEOUT: Rule(504, "timeout_error"),
    Kind.OVERLOADED: Rule(529, "overloaded_error", retry_after_s=1),
}


def from_status(status: int, message: str, retry_after_s: float | None = None) -> Failure:
    """The failure that an error status of the provider means."""
    if status in (408, 524):
        kind = Kind.TIMEOUT
    elif status in (502, 503, 504) or 520 <= status <= 530:
        kind = Kind.OVERLOADED
    elif status >= 500:
        kind = Kind.PROVIDER
    else:
        kind = _CLIENT_STATUSES.get(status, Kind.INVALID)
    return Failure(kind, message, retry_after_s=retry_after_s)


_CLIENT_STATUSES = {
    401: Kind.KEY_REJECTED,
    402: Kind.NO_CREDIT,
    403: Kind.KEY_REJECTED,
    404: Kind.NOT_FOUND,
    429: Kind.RATE_LIMITED,
}


def overflow(tokens: int, maximum: int) -> Failure:
    """The prompt does not fit. Clients compact on exactly these words."""
    return Failure(
        Kind.OVERFLOW, f"prompt is too long: {max(tokens, maximum + 1)} tokens > {maximum} maximum"
    )


def too_large(received: int | None, limit: int) -> Failure:
    """The body is over the limit; both sizes are named where both are known."""
    size = f"{received} bytes" if received is not None else f"more than {limit} bytes"
    return Failure(Kind.TOO_LARGE, f"request body is too large: {size}, the limit is {limit} bytes")


def headers(failure: Failure) -> Headers:
    """Everything but the length and the request's id."""
    rule = RULES[failure.kind]
    found: Headers = [(b"content-type", b"application/json")]
    if rule.retry is not None:
        found.append((b"x-should-retry", b"true" if rule.retry else b"false"))
    wait = _wait(failure)
    if wait is not None:
        found.append((b"retry-after", b"%d" % math.ceil(wait)))
        found.append((b"retry-after-ms", b"%d" % math.ceil(wait * 1000)))
    if failure.limit is not None:
        found.append((b"x-limit-type", failure.limit.encode("ascii")))
    if failure.allow is not None:
        found.append((b"allow", failure.allow.encode("ascii")))
    return found


def _wait(failure: Failure) -> float | None:
    rule = RULES[failure.kind]
    if rule.retry_after_s is None:
        return None
    asked = rule.retry_after_s if failure.retry_after_s is None else failure.retry_after_s
    return min(max(asked, 0.0), LONGEST_RETRY_AFTER_S)


def envelope(failure: Failure, request_id: str) -> bytes:
    """The JSON object that is both the body of an error answer and the data of an `error` event."""
    error: dict[str, Any] = {"type": RULES[failure.kind].type, "message": _words(failure)}
    if failure.details is not None:
        error["details"] = failure.details
    return codec.dumps({"type": "error", "error": error, "request_id": request_id})


def _words(failure: Failure) -> str:
    asked = failure.retry_after_s
    if asked is not None and asked > LONGEST_RETRY_AFTER_S and _wait(failure) is not None:
        return f"{failure.message} (the provider asks to wait {math.ceil(asked)} s)"
    return failure.message
