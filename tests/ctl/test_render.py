"""Tables and lines."""

from __future__ import annotations

from typing import Any

import pytest
from fakes.control import view

from modelproxy.ctl import render

HEADER = "NAME       MODEL      PORT  PID   STATE  HEALTH  UPTIME  REQS  IN-FLIGHT  COST   RESTARTS"
DOWN = (
    "Ollama is not reachable at http://127.0.0.1:11434: connection refused; "
    "is it running? start it with `ollama serve`"
)
SICK = {"state": "degraded", "health": DOWN, "detail": f"degraded 12s: {DOWN}"}


def test_table_with_one_proxy() -> None:
    assert render.ps([view(pid=4121)]).splitlines() == [
        HEADER,
        "echo/demo  echo/demo  3457  4121  ready  ok      42s     3     0          $0.00  0",
    ]


def test_table_without_proxies_is_its_header() -> None:
    assert render.ps([]) == "NAME  MODEL  PORT  PID  STATE  HEALTH  UPTIME  REQS  IN-FLIGHT  COST  RESTARTS"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"state": "ready", "detail": ""}, "ready"),
        ({"state": "ready", "detail": "crash-loop"}, "ready; crash-loop"),
        ({"state": "failed", "detail": ""}, "failed"),
        ({"state": "backoff", "detail": "backoff 3, next in 1.8s"}, "backoff 3, next in 1.8s"),
        ({"state": "failed", "detail": "5 deaths in 60s"}, "failed; 5 deaths in 60s"),
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


@pytest.mark.parametrize(
    ("changes", "cell"),
    [
        ({}, "ok"),
        ({"health": "ok; the window is small"}, "ok; the window is small"),
        (SICK, "ill"),
        ({"health": "refused", "state": "rolling", "detail": "rolling g1->g2"}, "refused"),
        ({"health": "hung", "state": "hung", "detail": "hung 11s (state T)"}, "-"),
        ({"health": None}, "-"),
    ],
)
def test_state_and_health_never_say_the_same_sentence(changes: dict[str, str], cell: str) -> None:
    assert render.row(view(**changes))[5] == cell


@pytest.mark.parametrize(
    ("cost_usd", "unpriced", "cell"),
    [(0.0, 0, "$0.00"), (0.0123, 0, "$0.0123"), (0.0123, 2, "$0.0123+"), (None, 2, "-")],
)
def test_a_cost_that_is_not_all_known_says_so(cost_usd: float | None, unpriced: int, cell: str) -> None:
    assert render.row(view(cost_usd=cost_usd, unpriced_requests=unpriced))[9] == cell


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"leases": 2, "kept": False}, "2 commands; it goes with the last"),
        ({"leases": 1}, "1 command"),
        ({"leases": 0, "kept": False}, "nobody; proxyctl down echo/demo"),
        ({"fronts": ["front"], "leases": 1, "kept": False}, "front, 1 command; it goes with the last"),
        ({"leases": 0, "kept": False, "wanted": False}, None),
        ({}, None),
    ],
)
def test_who_uses_it_is_told_where_that_matters(changes: dict[str, Any], text: str | None) -> None:
    assert dict(render.facts(view(**changes), 0.0)).get("used by") == text


# --- a narrow terminal ----------------------------------------------------------------------------


def test_a_terminal_that_is_wide_enough_gets_the_whole_table() -> None:
    assert render.ps([view(pid=4121)], width=90) == render.ps([view(pid=4121)])


def test_a_narrower_one_goes_without_what_is_nothing_new() -> None:
    assert render.ps([view(pid=4121)], width=80).splitlines() == [
        "NAME       PORT  PID   STATE  HEALTH  UPTIME  REQS  IN-FLIGHT  COST",
        "echo/demo  3457  4121  ready  ok      42s     3     0          $0.00",
    ]


def test_what_is_new_stays() -> None:
    text = render.ps([view("coder", pid=4121, model="echo/demo", restarts=1)], width=80)
    header = text.splitlines()[0]

    assert {"MODEL", "RESTARTS"} <= set(header.split())
    assert len(header) <= 80


def test_long_causes_stand_below_their_row() -> None:
    text = render.ps([view(pid=4121), view("ollama/qwen3", pid=4122, **SICK)], width=80)

    assert text.splitlines() == [
        "NAME          PORT  PID   STATE     HEALTH  UPTIME  REQS  IN-FLIGHT  COST",
        "echo/demo     3457  4121  ready     ok      42s     3     0          $0.00",
        "ollama/qwen3  3457  4122  degraded  ill     42s     3     0          $0.00",
        "  degraded 12s: Ollama is not reachable at http://127.0.0.1:11434: connection",
        "  refused; is it running? start it with `ollama serve`",
    ]


def test_a_note_and_a_trouble_are_both_said_below() -> None:
    noted = view(health="ok; the window of 8192 tokens is too small for an agent such as Claude Code")
    rolling = view(state="rolling", detail="rolling g1->g2, g2 starting 0.1s", health=DOWN)
    text = " ".join(render.ps([noted, rolling], width=80).split())

    assert "the window of 8192 tokens is too small for an agent such as Claude Code" in text
    assert f"rolling g1->g2, g2 starting 0.1s; {DOWN}" in text


@pytest.mark.parametrize("width", [80, 100])
def test_no_line_is_longer_than_the_terminal(width: int) -> None:
    name = "openrouter/deepseek/deepseek-r1-distill-llama-70b:free"
    views = [
        view(name, pid=412123, port=34567, uptime_s=7500, requests=118, cost_usd=0.0123, **SICK),
        view("coder", model=name, pid=412124),
        view(pid=None, state="failed", health="-", uptime_s=None, detail="failed: " + "x " * 90),
    ]
    text = render.ps(views, width=width)

    assert max(map(len, text.splitlines())) <= width
    assert "…" in text.splitlines()[1]
    assert ":free  " in text


# --- ps -v ----------------------------------------------------------------------------------------


def test_verbose_tells_what_is_behind_a_row() -> None:
    text = render.ps(
        [
            view(
                state="backoff",
                detail="backoff 3, next in 1.8s; last: SIGKILL 4s ago",
                base_url="http://far",
                last_error="timeout",
                queue=2,
                failures=2,
                rss=43 * 2**20,
                max_rss=500 * 2**20,
                in_flight=1,
                log_drops=1,
                ledger_drops=2,
                next="the next start is in 1.8s",
                command="proxyctl restart echo/demo",
                port_holder="node (pid 7)",
                workers=[
                    {"generation": 1, "pid": 7, "phase": "draining", "since": 1000.0}
                    | {"in_flight": 2, "oldest_s": 250.0, "kill_in_s": 25.0}
                ],
                deaths=[
                    {"at": 1250.0, "cause": "SIGKILL", "generation": 1}
                    | {"pid": 7, "was_ready": True, "lived_s": 250.0},
                    {"at": 1256.0, "cause": "exit 1", "generation": 2}
                    | {"pid": None, "was_ready": False, "lived_s": 0.24},
                    {"at": 1256.0, "cause": "SIGKILL", "generation": 3},
                    {"at": 1256.0, "cause": "hung (state T, idle); SIGABRT", "generation": 4}
                    | {"pid": 8, "was_ready": False, "lived_s": 9.0, "was_leaving": True},
                ],
            )
            | {"last_lines": ["hello"]}
        ],
        verbose=True,
        now=1260.0,
    )

    assert text.splitlines()[2:] == [
        "",
        "echo/demo  backoff 3, next in 1.8s; last: SIGKILL 4s ago",
        "  since: 4m20s ago",
        "  next: the next start is in 1.8s",
        "  run: proxyctl restart echo/demo",
        "  url: http://127.0.0.1:3457",
        "  provider at: http://far",
        "  health: ok",
        "  port: 3457 is held by node (pid 7)",
        "  worker: g1, pid 7, draining for 4m20s, 2 in flight (oldest 4m10s), kill in 25s",
        "  memory: 43 MiB of at most 500 MiB",
        "  served: 3 requests, 2 failed, 1 in flight; cost $0.00",
        "  restarts: 0",
        "  waiting to be accepted: 2 connections",
        "  lost: 1 log line, 2 rows of the ledger",
        "  last error: timeout",
        "  log: /nowhere/echo~demo.log",
        "  death: SIGKILL 10s ago (g1, pid 7, had been ready for 4m10s)",
        "  death: exit 1 4.0s ago (g2, never ready in 0.2s)",
        "  death: SIGKILL 4.0s ago (g3)",
        "  death: hung (state T, idle); SIGABRT 4.0s ago (g4, pid 8, had been leaving for 9.0s)",
        "  | hello",
    ]


def test_the_log_of_a_calm_proxy_explains_nothing() -> None:
    calm = view() | {"last_lines": ["hello"]}
    died = calm | {"deaths": [{"at": 1.0, "cause": "SIGKILL", "generation": 1}]}

    assert "| hello" not in render.ps([calm], verbose=True)
    assert "| hello" in render.ps([died], verbose=True)


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.021, "0.02s"), (0.2, "0.2s"), (12.46, "12.5s"), (64.2, "1m04s")]
)
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


def test_up_says_ready_and_no_more() -> None:
    assert render.up(view(pid=1, detail="g1 drains 2"), 0.2).split("  ")[1] == "ready"


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
    assert render.daemon({**version, "spawn": "fork"}, 1, 100.0).endswith("  1 proxy  workers by fork  /s")
    unit = {**version, "unit": "modelproxy.service"}
    assert render.daemon(unit, 1, 100.0).endswith("  /s  by systemd: modelproxy.service")
    assert render.serving(1) == "supervisor not running; 1 worker serving"
    assert render.stopped({"name": "a/b", "state": "stopped"}) == "a/b  stopped"
    assert render.stopped({"name": "a/b", "already": "stopped"}) == "a/b  already stopped"
    assert render.stopped({"name": "f", "also": ["a/b", "c"]}) == "f  stopped, and with it a/b, c"


def test_limits_are_said_as_they_are_set() -> None:
    limits = {"max_concurrent": 2, "queue_timeout_s": 1.5, "max_body": 33554432}

    assert render.limits(view(limits=limits)) == (
        "echo/demo  max_concurrent=2, queue_timeout=1.5s, max_body=33554432"
    )
    assert render.limits(view()) == "echo/demo  no limits"


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        ({"tokens": ["ci", "me"]}, "  tokens: not demanded; ci, me\n"),
        ({"token_required": True}, "  tokens: demanded; none is known\n"),
        ({}, ""),
    ],
)
def test_verbose_says_whether_a_token_is_demanded(facts: dict[str, Any], line: str) -> None:
    text = render.ps([view(**facts)], verbose=True)

    assert (line in text, "tokens" in text) == (True, bool(facts))


def test_verbose_names_other_targets_and_limits() -> None:
    text = render.ps([view(fallback=["a/b", "anthropic"], limits={"rpm": 60})], verbose=True)

    assert "  falls back to: a/b, anthropic\n" in text
    assert "  limits: rpm=60\n" in text
    assert "falls back to" not in render.ps([view()], verbose=True)


def test_a_stopped_one_has_no_terms() -> None:
    """Its next `up` and the configuration then say them; those of its last run would be taken for them."""
    terms: dict[str, Any] = {
        "fallback": ["a/b"],
        "limits": {"rpm": 60},
        "tokens": ["ci"],
        "resting": ["a/b: refused"],
    }
    labels = {label for label, _ in render.facts(view(state="stopped", **terms), 0.0)}

    assert {label for label, _ in render.facts(view(**terms), 0.0)} - labels == {
        "falls back to",
        "limits",
        "tokens",
        "left alone",
    }


def test_verbose_tells_who_waits_and_who_is_left_alone() -> None:
    text = render.ps([view(in_flight=5, waiting=3, resting=["a/b: refused"])], verbose=True)

    assert "5 in flight, 3 of them in line" in text
    assert "  left alone: a/b: refused\n" in text


def test_usage_shows_the_way_through_a_front() -> None:
    rows = [
        {"proxy": "coder", "route": "ollama/x"},
        {"proxy": "coder", "route": "front>coder"},
        {"proxy": "front", "route": "front>anthropic"},
        {"proxy": "front", "route": "front>coder"},
        {"proxy": "front", "route": "front"},
    ]
    lines = render.usage([("12:00", row) for row in rows]).splitlines()

    assert [line.split()[1] for line in lines[1:]] == [
        "coder",
        "front>coder",
        "front>anthropic",
        "front>coder",
        "front",
    ]


def test_usage_shows_what_is_not_over_and_what_was_cut() -> None:
    rows: list[tuple[str, dict[str, Any]]] = [
        (
            "12:00",
            {"status": None, "error_type": "in_progress", "output_tokens": 7, "tokens_estimated": True},
        ),
        ("12:01", {"status": 500, "error_type": "cut"}),
    ]
    _, running, cut = render.usage(rows).splitlines()

    assert running.split()[3:7] == ["-", "in_progress", "-", "~7"]
    assert cut.split()[3:5] == ["500", "cut"]


def test_usage_marks_what_somebody_else_answered() -> None:
    rows = [("12:00", {"status": 200, "fallback": True}), ("12:01", {"status": 200, "fallback": False})]

    assert [line.count("200, fallback") for line in render.usage(rows).splitlines()] == [0, 1, 0]


def test_usage_names_who_answered_where_that_does_not_go_without_saying() -> None:
    plain = {"proxy": "coder", "route": "ollama/x", "provider": "ollama", "model": "x", "status": 200}
    other = plain | {"provider": "openrouter", "model": "a/b", "fallback": True}

    assert "ANSWERED BY" not in render.usage(
        [("12:00", plain), ("12:01", plain | {"route": "front>ollama/x"})]
    )
    header, *lines = render.usage([("12:00", plain), ("12:01", other)]).splitlines()
    assert [line[header.index("ANSWERED BY") :].split()[0] for line in lines] == [
        "ollama/x",
        "openrouter/a/b",
    ]


LONG = "front>openrouter/deepseek/deepseek-r1-distill-llama-70b:free"
GROUP = {
    "route": LONG,
    "model": LONG.partition(">")[2],
    "requests": 118,
    "failed": 0,
    "in_progress": 0,
    "fallbacks": 0,
    "input_tokens": 1234567,
    "output_tokens": 23456,
    "cache_read_tokens": None,
    "cache_write_tokens": 0,
    "tokens_estimated": True,
    "cost_usd": 0.0123,
    "unpriced_requests": 0,
    "cost_source": "price_table",
}


def narrow_costs(width: int, **changes: Any) -> list[str]:
    return render.costs(["route", "model"], [GROUP, GROUP | changes], GROUP, width).splitlines()


def test_costs_go_without_what_says_nothing_before_what_does() -> None:
    assert narrow_costs(100)[0].split("  ")[0] == "ROUTE"
    assert [name.strip() for name in narrow_costs(100)[0].split("  ") if name] == [
        *("ROUTE", "ANSWERED BY", "REQUESTS", "IN", "OUT", "COST", "SOURCE")
    ]
    busy = narrow_costs(
        100, failed=1, fallbacks=1, unpriced_requests=1, cache_read_tokens=7, cache_write_tokens=8
    )
    assert [name.strip() for name in busy[0].split("  ") if name] == [
        *("ROUTE", "ANSWERED BY", "REQUESTS", "FAILED", "FALLBACK", "IN", "OUT", "COST", "UNPRICED")
    ]


@pytest.mark.parametrize("width", [80, 100, 120])
def test_no_line_of_costs_or_usage_is_longer_than_the_terminal(width: int) -> None:
    row = GROUP | {
        "input_tokens": 13120,
        "output_tokens": 388,
        "proxy": "front",
        "requested_model": "claude-sonnet-4-5-20250929",
        "status": 200,
    }
    row |= {"provider": "openrouter", "stop_reason": "end_turn", "ttft_ms": 900.0, "duration_ms": 65000.0}
    tables = [narrow_costs(width, failed=1), render.usage([("2026-11-21 12:35:13", row)], width).splitlines()]

    for lines in tables:
        assert max(map(len, lines)) <= width
        assert "…" in lines[1]
