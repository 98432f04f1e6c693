"""Tables and lines."""

from __future__ import annotations

import pytest
from fakes.control import view

from modelproxy.ctl import render

HEADER = "NAME       MODEL      PORT  PID   STATE  HEALTH  UPTIME  REQS  IN-FLIGHT  RESTARTS"


def test_table_with_one_proxy() -> None:
    assert render.ps([view(pid=4121)]).splitlines() == [
        HEADER,
        "echo/demo  echo/demo  3457  4121  ready  ok      42s     3     0          0",
    ]


def test_table_without_proxies_is_its_header() -> None:
    assert render.ps([]) == "NAME  MODEL  PORT  PID  STATE  HEALTH  UPTIME  REQS  IN-FLIGHT  RESTARTS"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"state": "ready", "detail": "ready since long"}, "ready"),
        ({"state": "failed", "detail": ""}, "failed"),
        ({"state": "backoff", "detail": "backoff 3, next in 1.8s"}, "backoff 3, next in 1.8s"),
        ({"state": "failed", "detail": "5 deaths in 60s"}, "failed: 5 deaths in 60s"),
    ],
)
def test_state_comes_with_its_cause(changes: dict[str, str], expected: str) -> None:
    assert render.state(view(**changes)) == expected


def test_long_causes_are_cut_in_the_table_only() -> None:
    sick = view(state="failed", detail="x" * 200)

    assert "x" * 100 not in render.ps([sick])
    assert "x" * 200 in render.ps([sick], verbose=True)


def test_foreign_words_stay_on_their_line_and_steer_nothing() -> None:
    text = render.ps([view(health="bad\nthing \x1b[2J")])

    assert "bad thing �[2J" in text
    assert len(text.splitlines()) == 2


def test_verbose_tells_what_is_behind_a_row() -> None:
    text = render.ps(
        [
            view(
                base_url="http://far",
                last_error="timeout",
                queue=2,
                draining=[{"generation": 1, "pid": 7, "in_flight": 2}],
                deaths=[{"at": 0, "cause": "SIGKILL", "generation": 1}],
            )
            | {"last_lines": ["hello"]}
        ],
        verbose=True,
    )

    assert text.splitlines()[2:] == [
        "",
        "echo/demo  ready",
        "  url: http://127.0.0.1:3457",
        "  base url: http://far",
        "  last error: timeout",
        "  log: /nowhere/echo~demo.log",
        "  waiting to be accepted: 2 connections",
        "  draining: generation 1, pid 7, 2 in flight",
        "  death: SIGKILL (generation 1)",
        "  | hello",
    ]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (None, "-"),
        (-3, "0s"),
        (0.4, "0s"),
        (59.9, "59s"),
        (60, "1m00s"),
        (184, "3m04s"),
        (7500, "2h05m"),
        (273600, "3d04h"),
    ],
)
def test_uptime(seconds: float | None, expected: str) -> None:
    assert render.uptime(seconds) == expected


@pytest.mark.parametrize(("seconds", "expected"), [(0.021, "0.02s"), (0.2, "0.2s"), (12.46, "12.5s")])
def test_took(seconds: float, expected: str) -> None:
    assert render.took(seconds) == expected


def test_up_says_all_in_one_line() -> None:
    assert render.up(view(pid=4121), 0.2) == "echo/demo  ready  http://127.0.0.1:3457  pid 4121  0.2s"
    assert render.up(view(pid=None, state="starting"), 0.2) == (
        "echo/demo  starting  http://127.0.0.1:3457  pid -  0.2s"
    )
    assert render.export(view()) == "export ANTHROPIC_BASE_URL=http://127.0.0.1:3457"


@pytest.mark.parametrize("health", ["ok", "unknown", "", None])
def test_no_warning_without_a_cause(health: str | None) -> None:
    assert render.unwell(view(health=health)) is None


def test_warning_names_the_cause() -> None:
    assert render.unwell(view(health="refused")) == (
        "warning: echo/demo is up, but its provider is not well: refused"
    )


def test_waiting_names_who_is_busy() -> None:
    assert render.waiting([]) == "waiting for the worker to leave"
    assert render.waiting([view("a/b", in_flight=1), view("c/d"), view("e/f", in_flight=2)]) == (
        "waiting for 1 request of a/b, 2 requests of e/f"
    )


def test_events_stand_on_one_line() -> None:
    happened = {"seq": 1, "at": 0.0, "kind": "death", "proxy": "a/b", "text": "SIGKILL"}

    assert render.event(happened, "12:00:00") == "12:00:00  a/b  death  SIGKILL"
    assert render.event(happened | {"proxy": None}, "12:00:00") == "12:00:00  death  SIGKILL"


def test_daemon_and_stopped_lines() -> None:
    version = {"pid": 1, "version": "0.1.0", "started_at": 40.0, "socket": "/s"}

    assert render.daemon(version, 1, 100.0) == "running  pid 1  version 0.1.0  up 1m00s  1 proxy  /s"
    assert render.serving(1) == "supervisor not running; 1 worker serving"
    assert render.stopped({"name": "a/b", "state": "stopped"}) == "a/b  stopped"
    assert render.stopped({"name": "a/b", "already": "stopped"}) == "a/b  already stopped"
