"""The page that explains a proxy, with and without a supervisor."""

from __future__ import annotations

import json
import os
from datetime import datetime
from typing import Any

import pytest
from fakes.control import Control, fault, view
from fakes.terminal import Run

from modelproxy.ctl import why
from modelproxy.supervisor.paths import Paths

from .test_offline import record, save


def happened(seq: int, kind: str, text: str, proxy: str | None = "echo/demo") -> dict[str, Any]:
    return {"seq": seq, "at": 1200.0 + seq, "kind": kind, "proxy": proxy, "text": text}


SICK = view(
    state="backoff",
    pid=None,
    health="-",
    detail="backoff 3, next in 1.8s; last: SIGKILL (oom?) 4s ago",
    next="the next start is in 1.8s; until then connections wait",
    command="proxyctl restart echo/demo",
    since=1256.0,
    restarts=3,
    deaths=[
        {"at": 1256.0, "cause": "SIGKILL (oom?)", "generation": 3}
        | {"pid": 7, "was_ready": True, "lived_s": 250.0}
    ],
)


def clock(at: float) -> str:
    return f"{at:.0f}"


def test_the_page_says_what_is_what_comes_and_what_happened() -> None:
    document = {**SICK, "events": [happened(1, "died", "SIGKILL (oom?)")], "last_lines": ["MemoryError"]}

    assert why.page(document, 1260.0, clock).splitlines() == [
        "echo/demo: backoff 3, next in 1.8s; last: SIGKILL (oom?) 4s ago",
        "",
        "  since     4.0s ago",
        "  next      the next start is in 1.8s; until then connections wait",
        "  run       proxyctl restart echo/demo",
        "  url       http://127.0.0.1:3457",
        "  served    3 requests; cost $0.00",
        "  restarts  3",
        "  log       /nowhere/echo~demo.log",
        "",
        "deaths:",
        "  SIGKILL (oom?) 4.0s ago (g3, pid 7, had been ready for 4m10s)",
        "",
        "events:",
        "  1201  died  SIGKILL (oom?)",
        "",
        "the end of its log:",
        "  MemoryError",
    ]


def test_a_quiet_proxy_has_a_short_page_and_keys_are_not_on_it() -> None:
    document = {**view(base_url="http://u?key=sk-abcdefghijkl"), "events": [], "last_lines": []}
    text = why.page(document, 1260.0, clock)

    assert text.startswith("echo/demo: ready\n")
    assert "deaths:" not in text
    assert "events:" not in text
    assert "sk-***" in text


def test_the_supervisor_is_asked_and_only_its_own_events_are_shown(run: Run, control: Control) -> None:
    log = control.paths.log_file("echo/demo")
    log.write_text("".join(f"line {number}\n" for number in range(30)))
    control.proxies["echo/demo"] = SICK | {"log": str(log)}
    control.events = [
        happened(1, "up", "another's", "echo/other"),
        happened(2, "note", "nobody's", None),
        *[happened(3 + number, "died", f"number {number}") for number in range(15)],
    ]
    ran = run("why", "echo/demo")
    document = run("why", "echo/demo", "--json").json

    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("echo/demo: backoff 3")
    assert ran.out.endswith("  line 28\n  line 29\n")
    assert "another's" not in ran.out
    assert [event["text"] for event in document["events"]] == [f"number {number}" for number in range(5, 15)]
    assert document["last_lines"] == [f"line {number}" for number in range(20, 30)]
    assert document["supervised"] is True
    assert document["command"] == "proxyctl restart echo/demo"


def test_what_happened_under_an_earlier_supervisor_comes_from_its_log(run: Run, control: Control) -> None:
    """Not what the present one tells itself; and where its log is the journal, nothing does."""
    control.proxies["echo/demo"] = SICK
    began = datetime.fromisoformat("2026-11-21T14:00:00.0009+00:00").timestamp()
    control.events = [happened(1, "adopted", "pid 7, generation 3") | {"at": began}]
    only_its_own = run("why", "echo/demo", "--json").json["events"]
    control.paths.daemon_log.write_text(
        "2026-11-21T13:57:53.037Z echo/demo: died: SIGKILL; starting again in 0.25 s\n"
        "2026-11-21T13:57:53.100Z echo/demo2: up: another's\n"
        "2026-11-21T14:00:00.000Z echo/demo: adopted: pid 7, generation 3\n"
    )
    events = run("why", "echo/demo", "--json").json["events"]

    assert [event["kind"] for event in only_its_own] == ["adopted"]
    assert [event["kind"] for event in events] == ["died", "adopted"]


@pytest.mark.parametrize(
    ("target", "meant"),
    [
        ("echo/dmeo", "did you mean echo/demo? "),
        ("coder", "did you mean ollama/qwen3-coder:30b? "),
        ("zzz", ""),
        ("all", "why tells of one; proxyctl ps -v tells of all, "),
    ],
)
def test_an_unknown_name_gets_the_nearest_ones(run: Run, control: Control, target: str, meant: str) -> None:
    control.proxies = {name: view(name) for name in ("echo/demo", "ollama/qwen3-coder:30b")}
    ran = run("why", target)

    assert (ran.code, ran.out) == (1, "")
    assert (
        ran.err == f'error: There is no proxy "{target}"\nhint: {meant}proxyctl ps -a lists what there is\n'
    )
    assert run("why", target, "--json").json["error"]["code"] == "unknown_proxy"


def test_another_refusal_is_passed_on(run: Run, control: Control) -> None:
    control.replies["GET"] = fault(503, "stopping", "bye")

    assert (run("why", "echo/demo").code, run("why", "echo/demo").err) == (1, "error: bye\n")


def test_an_empty_name_is_bad_usage(run: Run, control: Control) -> None:
    assert run("why", "").code == 2
    assert run("why").code == 2


# --- without a supervisor --------------------------------------------------------------------------


def test_without_a_supervisor_files_tell(run: Run, paths: Paths) -> None:
    save(paths, record())
    paths.log_file("echo/demo").write_text("hello\n")
    paths.daemon_log.write_text(
        "2026-11-21T13:57:53.009Z supervisor ready, pid 7, /run/control.sock\n"
        "2026-11-21T13:57:53.037Z echo/demo: up: wanted on port 3457\n"
        "2026-11-21T13:57:53.100Z echo/demo2: up: another's\n"
        "2026-11-21T13:57:54.000Z echo/demo: internal error\n"
        "then echo/demo: ready: pid 7, generation 2\n"
    )
    ran = run("why", "echo/demo")
    document = run("why", "3457", "--json").json

    assert ran.code == 3
    assert ran.err == "the supervisor is not running; what follows is from its files\n"
    lines = ran.out.splitlines()
    assert lines[0] == "echo/demo: ready"
    assert "  next      it serves on; the next supervisor adopts it" in lines
    assert "  run       proxyctl daemon start" in lines
    assert lines[-4:] == ["  -  ready  pid 7, generation 2", "", "the end of its log:", "  hello"]
    assert [(event["kind"], event["text"]) for event in document["events"]] == [
        ("up", "wanted on port 3457"),
        ("ready", "pid 7, generation 2"),
    ]
    assert document["events"][0]["at"] == pytest.approx(1795269473.037)
    assert (document["supervised"], document["pid"]) == (False, os.getpid())


def test_without_a_supervisor_what_does_not_run_is_said_so(run: Run, paths: Paths) -> None:
    save(paths, record(alive=False), record("echo/old", wanted=False, workers=[]))

    wanted, unwanted = run("why", "echo/demo").out, run("why", "echo/old").out
    assert wanted.startswith("echo/demo: stopped; no worker, and no supervisor to start one\n")
    assert "the next supervisor starts it" in wanted
    assert unwanted.startswith("echo/old: stopped\n")
    assert "nothing: it is not wanted" in unwanted
    assert "run " not in unwanted


def test_one_that_has_not_been_up_is_told_with_how_it_comes_up(run: Run, control: Control) -> None:
    """The supervisor knows its name from the configuration."""
    control.replies["GET /v1/proxies/coder"] = fault(
        404, "unknown_proxy", "coder is not up", "proxyctl up coder"
    )

    assert run("why", "coder").err == "error: coder is not up\nhint: proxyctl up coder\n"


def test_without_a_supervisor_an_unknown_name_is_a_failure(run: Run, paths: Paths) -> None:
    save(paths, record())
    ran = run("why", "echo/dem")

    assert (ran.code, ran.out) == (1, "")
    assert "did you mean echo/demo?" in ran.err


def test_a_garbled_state_file_is_warned_of(run: Run, paths: Paths) -> None:
    paths.state_file.write_text("{")
    ran = run("why", "echo/demo")

    assert ran.code == 1
    assert "is not JSON" in ran.err


def test_a_supervisor_that_is_stuck_counts_as_none(
    run: Run, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelproxy.ctl.client.ANSWER_S", 0.2)
    monkeypatch.setattr("modelproxy.ctl.client.Client.__init__.__defaults__", (0.2,))
    save(control.paths, record())
    control.hang.add("GET")
    ran = run("why", "echo/demo")

    assert ran.code == 3
    assert "does not answer; what follows is from its files" in ran.err
    assert json.loads(run("why", "echo/demo", "--json").out)["supervised"] is False


def test_an_event_of_another_day_has_its_date() -> None:
    assert len(why._clock(0.0)) == len("1970-01-01 00:00:00")
