"""Spans of time and numbers of things, in words."""

from __future__ import annotations

import pytest

from modelproxy.supervisor import words


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0s"),
        (0.4, "0s"),
        (59.9, "59s"),
        (60, "1m00s"),
        (184, "3m04s"),
        (3599.9, "59m59s"),
        (7500, "2h05m"),
        (86399, "23h59m"),
        (273600, "3d04h"),
        (8640000, "100d00h"),
    ],
)
def test_an_uptime_has_two_units(seconds: float, text: str) -> None:
    assert words.uptime(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1.0, "0s"),
        (0.0, "0s"),
        (0.04, "0s"),
        (0.34, "0.3s"),
        (9.96, "10.0s"),
        (12.9, "12s"),
        (250.0, "4m10s"),
    ],
)
def test_a_span_may_be_short(seconds: float, text: str) -> None:
    assert words.span(seconds) == text


def test_what_has_only_begun_has_no_span() -> None:
    assert words.lasting("idle for", 0.01) == "idle"
    assert words.lasting("idle for", 42.0) == "idle for 42s"
    assert words.lasting("starting", 0.01) == "starting"
    assert words.lasting("starting", 0.3) == "starting 0.3s"


def test_what_has_just_happened_has_no_number() -> None:
    assert words.ago(0.01) == "just now"
    assert words.ago(0.3) == "0.3s ago"
    assert words.ago(90000.0) == "1d01h ago"


def test_one_of_a_thing_and_more_of_it() -> None:
    assert [words.count(number, "worker") for number in (0, 1, 2)] == ["0 workers", "1 worker", "2 workers"]
    assert [words.count(number, "proxy", "proxies") for number in (1, 2)] == ["1 proxy", "2 proxies"]
