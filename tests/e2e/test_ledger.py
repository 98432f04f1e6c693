"""One row for every model request, whatever its end; seen from outside (behaviours, section 3)."""

from __future__ import annotations

import http.client
import json
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from fakes.house import House, Stream, attempts, free_port, get, message, post, wait_gone

pytestmark = pytest.mark.slow

HEAD = b"POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
SLOW = "echo:slow 50ms\n" + "word " * 20_000


def rows(house: House, *words: str, count: int | None = None) -> list[dict[str, Any]]:
    """`proxyctl usage --json`; with `count` until there are so many."""
    for _ in attempts():
        found: list[dict[str, Any]] = house.tell("usage", "--json", *words)
        if count is None or len(found) >= count:
            return found
    raise AssertionError(f"never {count} rows: {found}")


def up(house: House, *words: str) -> int:
    house.start()
    port: int = house.tell("up", "echo/demo", "--port", "0", "--json", *words)["port"]
    return port


def test_s81_a_row_for_every_end(house: House) -> None:
    """Plain, streamed, failed before and in the middle, refused for its body; not for probes."""
    port = up(house)
    post(port, message("plain answer"))
    Stream(port, "streamed answer").rest()
    post(port, message("echo:fail 429"))
    Stream(port, "echo:fail 500 after 2\none two three").rest()
    Stream(port, "echo:cut\none two").rest()
    post(port, {"model": "x"})
    post(port, message(), path="/v1/messages/count_tokens")
    get(port, "/health")
    get(port, "/v1/models")
    post(port, message(), path="/v1/nothing")
    found = rows(house)

    assert [(row["stream"], row["status"], row["error_type"], row["stop_reason"]) for row in found] == [
        (False, 200, None, "end_turn"),
        (True, 200, None, "end_turn"),
        (False, 429, "rate_limit_error", None),
        (True, 500, "api_error", None),
        (True, 500, "api_error", None),
        (False, 400, "invalid_request_error", None),
    ]
    assert [row["requested_model"] for row in found] == ["claude-sonnet-4-5"] * 5 + [None]
    for row in found:
        assert (row["proxy"], row["port"], row["provider"], row["model"], row["route"]) == (
            "echo/demo",
            port,
            "echo",
            "demo",
            "echo/demo",
        )
        assert (row["cost_usd"], row["cost_source"], row["fallback"]) == (0, "local", False)
        assert row["duration_ms"] >= (row["ttft_ms"] or 0) >= 0
    assert found[0]["output_tokens"] == 2
    assert found[0]["input_tokens"] > 0
    assert found[0]["ttft_ms"] is not None
    assert (found[2]["input_tokens"], found[2]["output_tokens"], found[2]["ttft_ms"]) == (None, None, None)
    assert found[3]["output_tokens"] > 0


def test_s10_a_local_model_costs_nothing(house: House) -> None:
    """Zero by table, not for want of a price; the table shows it as money."""
    port = up(house)
    post(port, message())
    [row] = rows(house)
    table = house.command("usage").stdout

    assert (row["cost_usd"], row["cost_source"]) == (0, "local")
    assert "$0.00" in table


def test_s135_who_asked_is_in_the_row(house: House) -> None:
    """Session and sub-agent as Claude Code names them, and the id that the client was given."""
    port = up(house)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    headers = {
        "content-type": "application/json",
        "x-claude-code-session-id": "0b7c-session",
        "x-claude-code-agent-id": "agent-7",
    }
    connection.request("POST", "/v1/messages?beta=true", json.dumps(message()), headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    [row] = rows(house)

    assert (row["session_id"], row["agent_id"], row["agent"]) == ("0b7c-session", "agent-7", None)
    assert row["request_id"] == answer.headers["request-id"]


@pytest.mark.parametrize("streamed", [True, False])
def test_s81_a_client_that_leaves_has_its_row(house: House, streamed: bool) -> None:
    """Status 499, and what had come until then."""
    port = up(house)
    if streamed:
        stream = Stream(port, SLOW)
        stream.read_until(b"content_block_delta")
        stream.close()
    else:
        with socket.create_connection(("127.0.0.1", port)) as client:
            body = json.dumps(message(SLOW)).encode()
            client.sendall(HEAD % len(body) + body)
            house.wait_tally(lambda row: row["in_flight"] == 1)
    [row] = rows(house, count=1)

    assert (row["status"], row["error_type"], row["stop_reason"]) == (499, "cancelled", None)
    assert row["stream"] is streamed
    assert row["input_tokens"] > 0


def test_s81_a_client_that_leaves_in_its_body_has_its_row(house: House) -> None:
    """Refused for its body, as one that is too slow; nothing is known of it but that it was there."""
    port = up(house)
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(HEAD % 1000 + b'{"model":')
        house.wait_tally(lambda row: row["in_flight"] == 1)
    [row] = rows(house, count=1)

    assert (row["status"], row["requested_model"], row["input_tokens"]) == (400, None, None)


def test_s81_what_a_drain_cuts_has_its_row(house: House) -> None:
    """The client is told and the ledger too, before the worker is gone."""
    port = up(house)
    stream = Stream(port, SLOW)
    stream.read_until(b"content_block_delta")
    house.down("echo/demo", grace_s=0.1)
    said = stream.rest()
    [row] = rows(house)

    assert b"event: error" in said
    assert (row["status"], row["error_type"]) == (529, "overloaded_error")
    assert row["output_tokens"] > 0


@pytest.mark.parametrize("streamed", [True, False])
def test_no_answer_that_was_seen_is_without_a_row(house: House, streamed: bool) -> None:
    """kill -9 the moment the last byte of an answer is read, again and again."""
    house.policy = {"MAX_DELAY_S": 0.05, "RESET_AFTER_S": 0.01}
    port = up(house)
    seen = []
    pid = 0
    for turn in range(8):
        last = pid
        pid = house.wait_row(lambda row: row["state"] == "ready" and row["pid"] != last)["pid"]  # noqa: B023
        # The ledger's first row of a worker and later ones take different roads.
        seen += [post(port, message()).headers["request-id"] for _ in range(turn % 4)]
        if streamed:
            stream = Stream(port, f"turn {turn}")
            stream.read_until(b'{"type":"message_stop"}\n')
            os.kill(pid, signal.SIGKILL)
            seen.append(stream.response.headers["request-id"])
            stream.close()
        else:
            answer = post(port, message(f"turn {turn}"))
            os.kill(pid, signal.SIGKILL)
            seen.append(answer.headers["request-id"])
        assert wait_gone(pid)
    found = rows(house)

    assert [row["request_id"] for row in found] == seen
    assert all(row["status"] == 200 for row in found)


def test_kills_under_load_lose_no_row(house: House) -> None:
    """Clients side by side, kills at any moment: whoever saw the end of an answer finds its row."""
    house.policy = {"MAX_DELAY_S": 0.05, "RESET_AFTER_S": 0.01}
    port = up(house)
    seen: list[str] = []
    over = threading.Event()

    def ask(number: int) -> None:
        while not over.is_set():
            try:
                answer = post(port, message(f"client {number}"), timeout=5)
            except (OSError, http.client.HTTPException):
                continue
            if answer.status == 200:
                seen.append(answer.headers["request-id"])

    clients = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for client in clients:
        client.start()
    for _ in range(4):
        before = len(seen)
        for _ in attempts():
            if len(seen) > before + 50:
                break
        pid = house.row()["pid"]
        if pid:
            os.kill(pid, signal.SIGKILL)
    over.set()
    for client in clients:
        client.join(10)
    found = [row["request_id"] for row in rows(house, "--limit", "10000")]

    assert len(seen) > 100
    assert set(seen) <= set(found)
    assert len(found) == len(set(found))


def test_a_locked_ledger_delays_nobody(house: House) -> None:
    """Rows wait in memory and arrive when the lock is gone."""
    port = up(house)
    post(port, message())
    locker = sqlite3.connect(house.state / "ledger.db", isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    for _ in range(20):
        assert post(port, message(), timeout=2).status == 200
    locker.execute("ROLLBACK")
    locker.close()

    assert len(rows(house, count=21)) == 21


def test_the_rows_are_readable_without_a_supervisor(house: House) -> None:
    """From the file, while the worker serves on."""
    port = up(house)
    post(port, message("one"))
    house.kill_supervisor()
    post(port, message("two"))
    ran = house.command("usage", "--json")

    assert ran.returncode == 0
    assert len(json.loads(ran.stdout)) == 2
    assert "not running" in ran.stderr


def test_a_full_disk_fails_no_request(tmp_path: Path) -> None:
    """A worker alone, whose files may not grow: every answer is whole, the log says what is the matter."""
    port = free_port()
    spec = tmp_path / "spec.json"
    fields = {"name": "demo", "model_id": "echo/demo", "provider": "echo", "kind": "echo", "model": "demo"}
    spec.write_text(json.dumps({**fields, "port": port}))
    log = tmp_path / "log"
    command = [
        sys.executable,
        "-P",
        "-m",
        "modelproxy.worker",
        "--spec",
        str(spec),
        "--ledger",
        str(tmp_path / "l.db"),
    ]
    limit = 40_000

    with log.open("wb") as file:
        worker = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stderr=file,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        )
    try:
        for _ in attempts():
            if b" ready " in log.read_bytes():
                break
        for _ in range(40):
            assert post(port, message(), timeout=5).status == 200
    finally:
        worker.terminate()
        worker.wait(10)

    assert b"rows are kept in memory" in log.read_bytes()
    assert worker.returncode == 0


def test_a_worker_alone_writes_where_it_is_told(tmp_path: Path) -> None:
    """And nothing anywhere without being told. It has all the descriptors that it may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    port = free_port()
    fields = {"name": "demo", "model_id": "echo/demo", "provider": "echo", "kind": "echo", "model": "demo"}
    (tmp_path / "spec.json").write_text(json.dumps({**fields, "port": port}))
    command = [sys.executable, "-P", "-m", "modelproxy.worker", "--spec", str(tmp_path / "spec.json")]
    command += ["--ledger", str(tmp_path / "l.db")]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard)),
    ) as worker:
        assert worker.stderr is not None
        assert b" ready " in worker.stderr.readline()
        limits = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
        post(port, message())
        worker.terminate()
        worker.stderr.read()
    db = sqlite3.connect(tmp_path / "l.db")

    assert limits == (hard, hard)
    assert db.execute("SELECT status FROM requests").fetchall() == [(200,)]
    db.close()


OLD = """CREATE TABLE requests (
    id INTEGER PRIMARY KEY, ts REAL NOT NULL, request_id TEXT NOT NULL, proxy TEXT NOT NULL, provider TEXT NOT NULL,
    model TEXT NOT NULL, route TEXT NOT NULL, status INTEGER NOT NULL, input_tokens INTEGER, output_tokens INTEGER
)"""


def test_s107_a_ledger_of_an_older_schema_is_migrated_and_nothing_is_lost(house: House) -> None:
    db = ledger_of(house)
    db.execute(OLD)
    db.execute(
        "INSERT INTO requests VALUES (1, 5.0, 'req_old', 'demo', 'echo', 'demo', 'echo/demo', 200, 3, 4)"
    )
    port = up(house)
    post(port, message("new"))
    old, new = rows(house, count=2)

    assert (old["request_id"], old["input_tokens"], old["output_tokens"]) == ("req_old", 3, 4)
    assert (old["cost_usd"], old["retry_count"]) == (None, 0)
    assert (new["status"], new["proxy"], new["port"]) == (200, "echo/demo", port)
    assert set(old) == set(new)
    db.close()


def test_s107_a_ledger_of_a_newer_schema_is_left_alone_and_the_log_says_so(house: House) -> None:
    """Its rows can still be read, and requests are answered as ever."""
    port = up(house)
    post(port, message("mine"))
    rows(house, count=1)
    house.tell("down", "all", "--json")
    db = ledger_of(house)
    db.execute("ALTER TABLE requests ADD COLUMN colour TEXT")
    db.execute("INSERT INTO migrations VALUES ('m999_colour', 'tomorrow')")
    port = up(house)
    assert post(port, message("not to be written")).status == 200
    for _ in attempts():
        said = house.command("logs", "echo/demo").stdout
        if "newer version (m999_colour)" in said:
            break

    assert len(rows(house)) == 1
    assert db.execute("SELECT count(*) FROM requests").fetchone() == (1,)
    db.close()


def ledger_of(house: House) -> sqlite3.Connection:
    path = house.home / "state" / "modelproxy" / "ledger.db"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return sqlite3.connect(path, isolation_level=None)
