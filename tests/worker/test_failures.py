"""Kinds of failure and what a client is told."""

from __future__ import annotations

import json

import pytest

from modelproxy.worker import failures
from modelproxy.worker.failures import RULES, Failure, Kind


def head(failure: Failure) -> dict[bytes, bytes]:
    return dict(failures.headers(failure))


def test_every_kind_has_a_rule_and_none_is_413_or_a_provider_key_401() -> None:
    assert set(RULES) == set(Kind)
    assert 413 not in {rule.status for rule in RULES.values()}
    assert RULES[Kind.KEY_REJECTED].status == 403


@pytest.mark.parametrize(
    ("kind", "status", "type_", "retry"),
    [
        (Kind.INVALID, 400, "invalid_request_error", None),
        (Kind.OVERFLOW, 400, "invalid_request_error", None),
        (Kind.TOO_LARGE, 400, "invalid_request_error", None),
        (Kind.UNAUTHENTICATED, 401, "authentication_error", b"false"),
        (Kind.KEY_REJECTED, 403, "permission_error", b"false"),
        (Kind.NO_CREDIT, 402, "billing_error", None),
        (Kind.FORBIDDEN, 403, "permission_error", None),
        (Kind.NOT_FOUND, 404, "not_found_error", None),
        (Kind.RATE_LIMITED, 429, "rate_limit_error", None),
        (Kind.PROVIDER, 500, "api_error", None),
        (Kind.UNREACHABLE, 503, "api_error", b"false"),
        (Kind.TIMEOUT, 504, "timeout_error", None),
        (Kind.OVERLOADED, 529, "overloaded_error", None),
    ],
)
def test_the_error_table(kind: Kind, status: int, type_: str, retry: bytes | None) -> None:
    failure = Failure(kind, "why")
    body = json.loads(failures.envelope(failure, "req_1"))

    assert RULES[kind].status == status
    assert body == {"type": "error", "error": {"type": type_, "message": "why"}, "request_id": "req_1"}
    assert head(failure).get(b"x-should-retry") == retry
    assert (b"retry-after" in head(failure)) == (status in (429, 529))


@pytest.mark.parametrize(
    ("asked", "seconds", "millis"),
    [
        (None, b"5", b"5000"),
        (0.25, b"1", b"250"),
        (7, b"7", b"7000"),
        (600, b"60", b"60000"),
        (-1, b"0", b"0"),
    ],
)
def test_retry_after_is_always_said_and_never_over_a_minute(
    asked: float | None, seconds: bytes, millis: bytes
) -> None:
    said = head(Failure(Kind.RATE_LIMITED, "slow down", retry_after_s=asked))

    assert (said[b"retry-after"], said[b"retry-after-ms"]) == (seconds, millis)


def test_a_longer_wait_is_said_in_words() -> None:
    long = failures.envelope(Failure(Kind.RATE_LIMITED, "daily limit", retry_after_s=600), "req_1")
    other = failures.envelope(Failure(Kind.INVALID, "daily limit", retry_after_s=600), "req_1")

    assert json.loads(long)["error"]["message"] == "daily limit (the provider asks to wait 600 s)"
    assert json.loads(other)["error"]["message"] == "daily limit"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Kind.INVALID),
        (401, Kind.KEY_REJECTED),
        (402, Kind.NO_CREDIT),
        (403, Kind.KEY_REJECTED),
        (404, Kind.NOT_FOUND),
        (408, Kind.TIMEOUT),
        (413, Kind.INVALID),
        (418, Kind.INVALID),
        (422, Kind.INVALID),
        (429, Kind.RATE_LIMITED),
        (500, Kind.PROVIDER),
        (501, Kind.PROVIDER),
        (502, Kind.OVERLOADED),
        (503, Kind.OVERLOADED),
        (504, Kind.OVERLOADED),
        (524, Kind.TIMEOUT),
        (529, Kind.OVERLOADED),
        (599, Kind.PROVIDER),
    ],
)
def test_what_a_providers_status_means(status: int, kind: Kind) -> None:
    assert failures.from_status(status, "x", 3.0) == Failure(kind, "x", retry_after_s=3.0)


def test_overflow_begins_with_the_words_that_clients_compact_on() -> None:
    assert failures.overflow(300, 200).message == "prompt is too long: 300 tokens > 200 maximum"
    assert failures.overflow(150, 200).message == "prompt is too long: 201 tokens > 200 maximum"


def test_too_large_names_both_sizes() -> None:
    assert "40 bytes" in failures.too_large(40, 32).message
    assert "32 bytes" in failures.too_large(40, 32).message
    assert "more than 32 bytes" in failures.too_large(None, 32).message


def test_allow_and_details_travel() -> None:
    failure = Failure(Kind.METHOD, "no", allow="POST", details={"error_code": "x"})

    assert head(failure)[b"allow"] == b"POST"
    assert json.loads(failures.envelope(failure, "r"))["error"]["details"] == {"error_code": "x"}
