"""Faults of one worker process: killed, crashing, silent, deaf."""

from __future__ import annotations

import http.client
import os
import re
import select
import signal
import subprocess
import threading

import pytest
from fakes.house import House, Stream, cpu_s, get, is_alive, is_refused, message, post, wait_gone

pytestmark = [pytest.mark.slow, pytest.mark.fault]


def test_fault_01_killed_worker_is_replaced_and_nobody_is_refused(house: House) -> None:
    """1: requests sent while the worker is dead wait in the queue and are answered by the next one."""
    house.start()
    row = house.up()
    os.kill(row["pid"], signal.SIGKILL)
    wait_gone(row["pid"])

    assert post(row["port"], message()).status == 200

    after = house.wait_row(lambda row: row["state"] == "ready" and row["restarts"] == 1)
    assert after["port"] == row["port"]
    assert after["pid"] != row["pid"]
    assert "SIGKILL" in after["deaths"][-1]["cause"]


def test_fault_02_killed_in_a_stream_looks_cut_not_finished(house: House) -> None:
    """2: the client of a killed worker sees a cut, never a false end; the others see nothing.

    What the answer has cost so far is in the ledger, in one row, which says what became of it.
    """
    house.start()
    row, other = house.up(), house.up("echo/other")
    undisturbed = Stream(other["port"], "echo:slow 300ms\n" + "word " * 2000)
    undisturbed.read_until(b"content_block_delta")
    stream = Stream(row["port"], "echo:slow 300ms\n" + "word " * 50_000)
    stream.read_until(b"content_block_delta")
    [before] = house.wait_usage("echo/demo", lambda rows: bool(rows))
    assert (before["status"], before["error_type"], before["pid"]) == (None, "in_progress", row["pid"])
    os.kill(row["pid"], signal.SIGKILL)

    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        stream.rest()

    assert b"message_stop" not in stream.seen
    assert b"message_stop" in undisturbed.rest()
    [after] = house.wait_usage("echo/demo", lambda rows: rows[0]["error_type"] != "in_progress")
    assert (after["status"], after["error_type"], after["stop_reason"]) == (500, "cut", None)
    assert (after["request_id"], after["stream"]) == (before["request_id"], True)
    assert after["input_tokens"] > 0
    assert 0 < after["output_tokens"] < 50_000
    assert (after["cost_usd"], after["cost_source"]) == (0.0, "local")
    [whole] = house.wait_usage("echo/other", lambda rows: rows[0]["error_type"] != "in_progress")
    assert (whole["status"], whole["error_type"], whole["pid"]) == (200, None, None)
    assert " cut " in house.command("usage", "echo/demo").stdout
    assert post(row["port"], message()).status == 200
    assert house.row("echo/other")["pid"] == other["pid"]


def test_fault_03_exit_0_without_goodbye_is_a_death(house: House) -> None:
    """3: a worker that exits 0 unasked is started again, and the reason is shown."""
    house.start(bad_workers=True)
    row = house.up("echo/bad-quitter")
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        post(row["port"], message())

    after = house.wait_row(lambda row: row["restarts"] == 1 and row["state"] == "ready", "echo/bad-quitter")
    assert after["deaths"][-1]["cause"] == "exit 0"


def test_fault_04_exit_78_is_not_tried_again(house: House) -> None:
    """4 (S122): a configuration that cannot work fails at once, and the socket says so with 503."""
    house.start(bad_workers=True)
    answer = house.api("PUT", "/v1/proxies/echo%2Fbad-config", {"model": "echo/bad-config", "port": 0})

    assert answer.status == 500
    assert answer.json["error"]["code"] == "start_failed"
    row = house.row("echo/bad-config")
    assert row["state"] == "failed"
    assert [death["cause"] for death in row["deaths"]] == ["exit 78"]  # and no second try
    down = post(row["port"], message())
    assert down.status == 503
    assert down.headers["x-should-retry"] == "false"
    assert down.headers["content-type"] == "application/json"
    assert (down.json["type"], down.json["error"]["type"]) == ("error", "api_error")
    assert "echo/bad-config has failed: exit 78" in down.json["error"]["message"]
    assert down.json["request_id"] == down.headers["request-id"]


def test_fault_05_crash_at_import_fails_after_five_tries() -> None:
    """5: five starts that were never ready, with growing pauses; then 503 and the last words of the log."""
    with House(FIRST_DELAY_S=0.02) as house:
        house.start(bad_workers=True)
        answer = house.api("PUT", "/v1/proxies/echo%2Fbad-import", {"model": "echo/bad-import", "port": 0})

        assert answer.status == 500
        assert "crashed at import, as told" in answer.json["error"]["hint"]
        row = house.row("echo/bad-import")
        assert row["state"] == "failed"
        assert len(row["deaths"]) == 5
        said = " ".join(event["text"] for event in house.past_events() if event["kind"] == "died")
        pauses = [float(pause) for pause in re.findall(r"starting again in ([\d.]+) s", said)]
        assert len(pauses) == 4
        assert pauses == sorted(set(pauses))  # each twice the one before, give or take a quarter
        down = post(row["port"], message())
        assert down.status == 503
        assert down.json["error"]["type"] == "api_error"
        assert "proxyctl logs echo/bad-import" in down.json["error"]["message"]


def test_fault_05_waiting_costs_no_processor() -> None:
    """5: neither the pause nor what answers in it does anything by itself: below 5 % of a processor."""
    with House(FIRST_DELAY_S=600.0, MAX_DELAY_S=600.0, QUEUE_THROUGH_S=0.5) as house:
        supervisor = house.start(bad_workers=True)
        house.up("echo/bad-import", wait=False)
        row = house.wait_row(lambda row: row["state"] == "backoff", "echo/bad-import")
        assert post(row["port"], message()).status == 503
        before = cpu_s(supervisor.pid)
        subprocess.run(["sleep", "2"], check=True)  # what is measured is what happens in two seconds of rest

        assert cpu_s(supervisor.pid) - before < 0.1


def test_fault_12_never_ready_is_killed_and_counts_as_a_failed_start() -> None:
    """12: a start has a limit."""
    with House(START_LIMIT_S=0.5, MAX_NEVER_READY=2, FIRST_DELAY_S=0.02) as house:
        house.start(bad_workers=True)
        answer = house.api("PUT", "/v1/proxies/echo%2Fbad-mute", {"model": "echo/bad-mute", "port": 0})

        assert answer.status == 500
        assert "not ready within" in answer.json["error"]["message"]
        assert house.row("echo/bad-mute")["state"] == "failed"


def test_fault_14_deaf_worker_is_killed_at_the_deadline() -> None:
    """14: `down` returns when the worker that ignores drain and SIGTERM has been killed."""
    with House(DRAIN_TO_KILL_S=0.3) as house:
        house.start(bad_workers=True)
        row = house.up("echo/bad-deaf")
        answer = house.down("echo/bad-deaf", grace_s=0.2)

        assert answer.json == [{"name": "echo/bad-deaf", "port": row["port"], "state": "stopped"}]
        assert not is_alive(row["pid"])
        assert is_refused(row["port"])


def test_fault_42_worker_outlives_the_thread_that_started_it(house: House) -> None:
    """42: no PR_SET_PDEATHSIG: it would kill the worker when trio's idle thread ends, after 10 s."""
    house.start()
    row = house.up()
    pidfd = os.pidfd_open(row["pid"])
    # The event waited for is its death; that it does not come is the point.
    died = select.select([pidfd], [], [], 11.5)[0]
    os.close(pidfd)

    assert not died
    assert get(row["port"], "/livez").status == 200


def test_s122_killed_under_load_refuses_nobody(house: House) -> None:
    """S122: three kills under load: every request is answered or was inside the killed worker."""
    house.start()
    row = house.up()
    outcomes: list[str] = []
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set():
            try:
                outcomes.append(str(post(row["port"], message()).status))
            except ConnectionRefusedError:
                outcomes.append("refused")
            except (http.client.HTTPException, OSError):
                outcomes.append("cut")

    clients = [threading.Thread(target=client) for _ in range(4)]
    for one in clients:
        one.start()
    for count in range(1, 4):
        os.kill(house.row()["pid"], signal.SIGKILL)
        house.wait_row(lambda row, count=count: row["restarts"] == count and row["state"] == "ready")  # type: ignore[misc]
    stop.set()
    for one in clients:
        one.join()

    assert set(outcomes) <= {"200", "cut"}
    assert outcomes.count("cut") <= 3 * len(clients)
    assert outcomes.count("200") > 3
