"""Fault 40: another version is installed under running workers, and it may be a broken one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fakes.edition import Installation
from fakes.house import House, Stream, get, message, post, wait_gone

from modelproxy.worker import __version__
from modelproxy.worker.contract import PROTOCOL

NEXT = "99.0"
NEW_PROTOCOL = ("worker/contract.py", f"PROTOCOL = {PROTOCOL}\n", f"PROTOCOL = {PROTOCOL + 1}\n")
NAMES = ("echo/a", "echo/b", "echo/c")
pytestmark = [pytest.mark.slow, pytest.mark.fault]


@pytest.fixture
def installation(house: House) -> Installation:
    """What the house runs from its first process on."""
    return Installation(house)


@contextmanager
def load(port: int) -> Iterator[list[str]]:
    """Requests one after the other, each on a connection of its own; what went wrong with them."""
    errors: list[str] = []
    served = 0
    over = threading.Event()

    def client() -> None:
        nonlocal served
        while not over.is_set():
            try:
                answer = post(port, message())
                errors.extend([] if answer.status == 200 else [str(answer)])
                served += 1
            except OSError as error:
                errors.append(repr(error))

    thread = threading.Thread(target=client)
    thread.start()
    try:
        yield errors
    finally:
        over.set()
        thread.join()
    assert served > 0


def version_at(port: int) -> Any:
    return get(port, "/").json["version"]


def test_fault_40_workers_of_the_old_version_are_replaced_one_by_one(
    house: House, installation: Installation
) -> None:
    """40: under load, with streams, over another protocol as well: no error, and every stream is whole."""
    house.start()
    rows = [house.up(name) for name in NAMES]
    streams = [Stream(row["port"], "echo:slow 20ms\n" + "word " * 150) for row in rows]
    for stream in streams:
        stream.read_until(b"content_block_delta")
    installation.install(NEXT, NEW_PROTOCOL)
    with load(rows[0]["port"]) as errors:
        restarted = house.command("daemon", "restart")
        assert restarted.returncode == 0, restarted
        assert f"version {NEXT}" in restarted.stdout
        for name in NAMES:
            house.wait_row(lambda row: row["generation"] == 2 and row["state"] == "ready", name)

    assert errors == []
    assert all(b"message_stop" in stream.rest() for stream in streams)
    assert all(wait_gone(row["pid"]) for row in rows)
    assert [version_at(row["port"]) for row in rows] == [NEXT] * 3
    assert one_by_one(house) == [step for _ in NAMES for step in ("renew", "ready")]
    assert house.api("GET", "/v1/version").json["warnings"] == []


def one_by_one(house: House) -> list[str]:
    """The order in which turns came and newcomers answered."""
    kinds = []
    for event in house.events():
        if event["kind"] in ("renew", "ready"):
            kinds.append(event["kind"])
        if len(kinds) == 2 * len(NAMES):
            return kinds
    return kinds


def test_fault_40_between_installation_and_restart_both_versions_talk(
    house: House, installation: Installation
) -> None:
    """40: a worker that dies then is followed by one of the new version, under the supervisor of the old one."""
    folder = house.home / "config" / "modelproxy"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text('spawn = "exec"\n')  # a fork would still be of the old version
    house.start()
    row = house.up("echo/a")
    novelty = "    protocol: int = PROTOCOL\n"
    installation.install(
        NEXT, NEW_PROTOCOL, ("worker/contract.py", novelty, f"{novelty}    novelty: str = 'unheard of'\n")
    )
    house.kill_worker(row["pid"])
    after = house.wait_row(lambda row: row["state"] == "ready" and row["generation"] == 2, "echo/a")
    assert version_at(row["port"]) == NEXT
    assert house.command("daemon", "restart").returncode == 0
    house.wait_event("adopted", "echo/a")

    assert post(row["port"], message()).status == 200
    assert house.api("GET", "/v1/version").json["version"] == NEXT
    assert renewals(house) == []
    assert house.row("echo/a")["pid"] == after["pid"]


def test_fault_40_a_version_that_cannot_start_is_refused(house: House, installation: Installation) -> None:
    """40: before anything is given up; the supervisor that runs says why, and goes on."""
    house.start()
    row = house.up("echo/a")
    before = house.api("GET", "/v1/version").json
    installation.install(NEXT, ("supervisor/upkeep.py", "", "\nimport not_installed\n"))
    refused = house.tell("daemon", "restart", "--json", code=1)

    assert refused["error"]["code"] == "upgrade_refused"
    assert "No module named 'not_installed'" in refused["error"]["message"]
    assert house.api("GET", "/v1/version").json == before
    assert house.row("echo/a")["pid"] == row["pid"]
    assert post(row["port"], message()).status == 200


def test_fault_40_a_version_that_dies_at_its_start_leaves_the_old_workers(
    house: House, installation: Installation
) -> None:
    """40: what no check can foresee. `ps` says from files who serves, and a good version adopts them."""
    house.start()
    row = house.up("echo/a")
    installation.install(
        NEXT,
        (
            "supervisor/daemon.py",
            "",
            "\n\nasync def _serve(*_: object) -> None:\n    raise OSError('no luck')\n",
        ),
    )
    restarted = house.command("daemon", "restart")

    assert restarted.returncode == 3
    assert "workers serve on" in restarted.stderr
    assert "no luck" in house.daemon_log()
    ps = house.command("ps")
    assert ps.returncode == 3
    assert "supervisor not running; 1 worker serving" in ps.stderr
    assert post(row["port"], message()).status == 200
    installation.install("99.1")
    house.start()
    house.wait_event("renew", "echo/a")
    house.wait_row(lambda row: row["generation"] == 2 and row["state"] == "ready", "echo/a")
    assert wait_gone(row["pid"])  # until it has been told to drain, it answers as well
    assert version_at(row["port"]) == "99.1"


def test_fault_40_a_version_whose_workers_do_not_start_replaces_nobody(
    house: House, installation: Installation
) -> None:
    """40: the first try shows it; it is said, and the other workers are not touched."""
    house.start()
    rows = [house.up(name) for name in NAMES]
    # At its start and not at import, where the check would have found it.
    installation.install(
        NEXT, ("worker/serve.py", "", "\n\ndef run(*_: object, **__: object) -> int:\n    return 7\n")
    )
    assert house.command("daemon", "restart").returncode == 0
    for name in NAMES:
        house.wait_event("adopted", name)
    house.wait_event("roll-failed", NAMES[0])
    said = house.api("GET", "/v1/version").json["warnings"]

    assert len(said) == 1
    assert f"3 workers still run another version ({__version__})" in said[0]
    assert f"proxyctl restart {NAMES[0]}" in said[0]
    assert f"runs {__version__}" in house.row(NAMES[0])["detail"]
    assert [house.row(name)["pid"] for name in NAMES] == [row["pid"] for row in rows]
    assert [event["proxy"] for event in renewals(house)] == [NAMES[0]]
    assert all(post(row["port"], message()).status == 200 for row in rows)


def renewals(house: House) -> list[dict[str, Any]]:
    """Those so far."""
    events = [json.loads(line) for line in house.api("GET", "/v1/events").body.splitlines()]
    return [event for event in events if event["kind"] == "renew"]
