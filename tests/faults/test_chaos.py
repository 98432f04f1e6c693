"""Faults without a plan: random ones, one after the other, under load. `pytest -m chaos --seed N`."""

from __future__ import annotations

import faulthandler

import pytest
from fakes.chaos import EXTRA, LAZY, SUPERVISOR, Diary, Ended, Storm, storm
from fakes.house import fork_servers_of, is_refused

pytestmark = [pytest.mark.slow, pytest.mark.fault]


def weather(storm: Storm, seconds: float, calm_within_s: float) -> None:
    """The storm, the calm after it, and everything that has to hold then."""
    storm.rage(seconds)
    took = storm.converge(calm_within_s)
    storm.end()
    print(f"calm after {took:.1f} s, at last for {storm.awaited}; {storm.summary()}")  # noqa: T201  # with -s, and with a failure

    assert storm.supervisor_failures == []
    assert "\n".join(map(str, storm.unexplained())) == ""
    assert "Traceback" not in storm.house.daemon_log()
    wishes_hold(storm)
    nothing_leaked(storm)


def wishes_hold(storm: Storm) -> None:
    """The last wish of the extra proxy won, and every other one is as it was wished at first."""
    rows = {row["name"]: row for row in storm.house.ps(stopped=True)}

    assert {name: rows[name]["port"] for name in storm.ports} == storm.ports
    if EXTRA in rows and storm.wish is not None:
        assert rows[EXTRA]["wanted"] == storm.wish


def nothing_leaked(storm: Storm) -> None:
    """One worker per proxy, one holder, the files of those and no other, no descriptor of anybody more than before."""
    house = storm.house
    house.down(EXTRA, grace_s=0.1)
    house.wait_row(lambda row: row["state"] == "idle" and not row["draining"], LAZY)
    rows = house.ps()
    supervisor = house.api("GET", "/v1/version").json["pid"]
    working = [row for row in rows if row["name"] != LAZY]
    workers = {row["pid"] for row in working}
    holders, makers = house.processes_named(b"supervisor/holder.py"), fork_servers_of(house)

    assert len(workers) == len(working) == len(storm.ports) - 1
    assert set(house.processes()) == {supervisor, *workers, *holders, *makers}
    assert house.processes_named(b"quick_supervisor") == [supervisor]  # however often it was executed anew
    assert (len(holders), len(makers)) == (1, 1)
    pid_files = {
        file.name: int(file.read_text()) for file in (house.runtime / "modelproxy" / "proxies").iterdir()
    }
    assert pid_files == {f"{row['port']}.pid": row["pid"] for row in working}
    files = {file.name for file in (house.runtime / "modelproxy").iterdir()}
    assert files == {"control.sock", "workers.sock", "holder.sock", "lock", "proxies"}
    fds = storm.descriptors(at_most=storm.fds)
    assert {who: count for who, count in fds.items() if count > storm.fds[who]} == {}
    state = {str(file.relative_to(house.state)) for file in house.state.rglob("*") if file.is_file()}
    logs = {f"logs/{name.replace('/', '~')}.log" for name in (*storm.ports, EXTRA)}
    assert state <= {"state.json", "applied.json", "ledger.db", "ledger.db-shm", "ledger.db-wal", *logs}
    ports = [row["port"] for row in rows]
    assert house.down("all", grace_s=1).status == 200
    assert all(is_refused(port) for port in ports)


@pytest.mark.parametrize(
    ("deaths", "detail", "is_excused"),
    [
        ([("echo/a", 10.2)], "after 7 bytes", True),
        ([("echo/b", 10.2)], "after 7 bytes", False),
        ([("echo/a", 9.0), (SUPERVISOR, 10.2)], "ConnectionResetError()", True),
        ([("echo/a", 9.0), (SUPERVISOR, 10.2)], "after 7 bytes", False),
        ([(SUPERVISOR, 10.2)], "ConnectionResetError()", False),
        ([("echo/a", 9.0), (SUPERVISOR, 9.5)], "ConnectionResetError()", False),
    ],
)
def test_what_excuses_a_cut(deaths: list[tuple[str, float]], detail: str, is_excused: bool) -> None:
    """Its worker's death; without a worker, that of the supervisor that had not answered yet."""
    diary = Diary()
    diary.deaths += deaths

    assert diary.excuses(Ended("echo/a", 10.0, 10.3, "cut", detail)) is is_excused
    assert not diary.excuses(Ended("echo/a", 10.0, 10.3, "refused"))


@pytest.mark.chaos
def test_chaos(seed: int, request: pytest.FixtureRequest) -> None:
    """A fault every 0.2 s for a minute; ten seconds later everything is as wished and nobody was refused."""
    seconds = request.config.getoption("--seconds")
    print(f"seed {seed}")  # noqa: T201  # so that a failure can be had again
    faulthandler.dump_traceback_later(
        seconds + 300, exit=True
    )  # in place of pytest's own, which is for a minute
    with storm(seed) as one:
        weather(one, seconds, calm_within_s=10.0)


def test_a_gust_of_chaos() -> None:
    """The same for a few seconds with a fixed seed, so that each run of the tests has seen some of it."""
    with storm(1) as one:
        weather(one, 6.0, calm_within_s=60.0)
