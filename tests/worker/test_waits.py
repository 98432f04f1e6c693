"""How long a provider asks to wait."""

from __future__ import annotations

from typing import Any

import pytest

from modelproxy.worker.dialects import waits

NOW = 1_800_000_000.0
HTTP_NOW = b"Fri, 15 Jan 2027 08:00:00 GMT"
HTTP_LATER = b"Fri, 15 Jan 2027 08:00:30 GMT"


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({}, None),
        ({b"Retry-After": b"7"}, 7),
        ({b"retry-after": b"1.5"}, 1.5),
        ({b"retry-after": b" 20s "}, 20),
        ({b"retry-after-ms": b"250", b"retry-after": b"1"}, 0.25),
        ({b"retry-after": HTTP_LATER}, 30),
        ({b"retry-after": b"Fri, 15 Jan 2027 07:00:00 GMT"}, 0),
        ({b"retry-after": b"soon"}, None),
        ({b"retry-after": b"-3"}, None),
        ({b"x-ratelimit-reset-requests": b"6m0s"}, None),
    ],
)
def test_headers(headers: dict[bytes, bytes], wait: float | None) -> None:
    assert wait == waits.in_headers(list(headers.items()), NOW)


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({}, None),
        ({b"x-ratelimit-reset": b"1800000042000"}, 42),
        ({b"x-ratelimit-reset": b"1800000042"}, 42),
        ({b"x-ratelimit-reset": b"42"}, 42),
        ({b"x-ratelimit-reset-requests": b"6m0s"}, 360),
        ({b"x-ratelimit-reset-tokens": b"1h2m3.5s"}, 3723.5),
        ({b"x-ratelimit-reset-tokens": b"120ms"}, 0.12),
        ({b"x-ratelimit-reset-requests": b"1s", b"x-ratelimit-reset-tokens": b"9s"}, 1),
        # What is used up counts.
        (
            {
                b"x-ratelimit-reset-requests": b"1s",
                b"x-ratelimit-remaining-requests": b"59",
                b"x-ratelimit-reset-tokens": b"9s",
                b"x-ratelimit-remaining-tokens": b"0",
            },
            9,
        ),
    ],
)
def test_limits_that_reset_themselves(headers: dict[bytes, bytes], wait: float | None) -> None:
    assert wait == waits.until_reset(list(headers.items()), NOW)


def test_without_a_clock_the_answers_own_date_counts() -> None:
    assert waits.in_headers([(b"date", HTTP_NOW), (b"retry-after", HTTP_LATER)]) == 30
    assert waits.in_headers([(b"retry-after", HTTP_LATER)]) is None


@pytest.mark.parametrize(
    ("error", "wait"),
    [
        ({}, None),
        ({"retry_after": 3}, 3),
        ({"metadata": {"retry_after_seconds": 2.5}}, 2.5),
        ({"retry_after": True}, None),
        ({"retry_after": "3"}, None),
        ({"details": [None, {"@type": "x"}, {"retryDelay": "37s"}]}, 37),
        ({"metadata": {"headers": {"Retry-After": 4}}}, 4),
        ({"metadata": {"headers": {"X-RateLimit-Reset": "42"}}}, 42),
        ({"message": "Rate limit reached. Please try again in 7.66s. Visit"}, 7.66),
        ({"message": "Please try again in 1m2.5s."}, 62.5),
        ({"message": "Please retry after 20 seconds"}, 20),
        ({"message": "try again in 120ms"}, 0.12),
        ({"message": "try again in 5 minutes"}, None),
        ({"message": ["x"]}, None),
    ],
)
def test_bodies(error: dict[str, Any], wait: float | None) -> None:
    assert wait == waits.in_body(error)
