"""The state file: whole, garbled, missing; workers alive and dead."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from modelproxy.ctl import offline
from modelproxy.ctl.processes import boot_id, start_time
from modelproxy.supervisor.paths import Paths


def record(name: str = "echo/demo", *, alive: bool = True, **changes: Any) -> dict[str, Any]:
    """One proxy as the supervisor saves it; its worker is this process or nobody."""
    started = start_time(os.getpid())
    assert started is not None
    worker = {
        "generation": 2,
        "pid": os.getpid(),
        "start_time": started if alive else started + 1,
        "boot_id": boot_id(),
        "token": "t",
        "started_at": 1000.0,
    }
    spec = {"name": name, "model_id": name, "provider": "echo", "port": 3457, "base_url": None}
    return {
        "name": name,
        "wanted": True,
        "state": "ready",
        "port": 3457,
        "spec": spec,
        "generation": 2,
        "restarts": 1,
        "workers": [worker],
    } | changes


def save(paths: Paths, *records: Any) -> None:
    document = {"version": 1, "written_at": 1.0, "daemon": {"pid": 1, "started_at": 1.0}, "proxies": records}
    paths.state_file.write_text(json.dumps(document))


def test_a_living_worker_serves(paths: Paths) -> None:
    save(paths, record())
    rows, problem = offline.views(paths)

    assert problem is None
    assert offline.serving(rows) == 1
    (row,) = rows
    assert (row["name"], row["model"], row["port"], row["pid"]) == (
        "echo/demo",
        "echo/demo",
        3457,
        os.getpid(),
    )
    assert (row["state"], row["restarts"], row["generation"]) == ("ready", 1, 2)
    assert row["uptime_s"] > 0


def test_deaths_stand_in_the_file(paths: Paths) -> None:
    """One that is garbled is left out."""
    dead = {"at": 1000.0, "cause": "SIGKILL", "generation": 1, "pid": 9, "was_ready": True, "lived_s": None}
    save(paths, record(deaths=[dead, {"at": "yesterday"}, dead | {"lived_s": "long"}, 7]))
    (row,) = offline.views(paths)[0]

    assert row["deaths"] == [dead]


def test_limits_and_tokens_stand_in_the_file(paths: Paths) -> None:
    """Of a token no more than its name is shown."""
    access = {"required": True, "tokens": [{"name": "ci", "sha256": "0" * 64, "rpm": 5}, 7]}
    save(paths, record(spec={"quota": {"rpm": 60, "max_concurrent": None, "access": access}}))
    (row,), _ = offline.views(paths)

    assert (row["limits"], row["token_required"], row["tokens"][0]) == ({"rpm": 60}, True, "ci")
    assert "0000" not in str(row)


def test_a_dead_worker_does_not(paths: Paths) -> None:
    save(paths, record(alive=False))
    (row,), _ = offline.views(paths)

    assert offline.serving([row]) == 0
    assert (row["pid"], row["state"]) == (None, "stopped")
    assert row["detail"]


def test_the_newest_living_generation_counts(paths: Paths) -> None:
    old, new, dead = (record()["workers"][0] | {"generation": number} for number in (1, 2, 3))
    dead["start_time"] = 1
    save(paths, record(workers=[new, old, dead]))

    (row,), _ = offline.views(paths)

    assert row["generation"] == 2


def test_what_is_stopped_is_listed_only_when_asked_for(paths: Paths) -> None:
    save(paths, record(wanted=False, workers=[]), record("a/b"))

    assert [row["name"] for row in offline.views(paths)[0]] == ["a/b"]
    assert [row["name"] for row in offline.views(paths, everything=True)[0]] == ["echo/demo", "a/b"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"proxies": 5}', '"x"', "[" * 100_000, "\x00", '{"proxies": {}}']
)
def test_garbage_is_one_sentence_and_no_row(paths: Paths, text: str) -> None:
    paths.state_file.write_text(text)
    rows, problem = offline.views(paths)

    assert rows == []
    assert problem
    assert "\n" not in problem


def test_a_garbled_record_leaves_the_others_alone(paths: Paths) -> None:
    strange = record(
        "a/b", workers=[5, None, {"pid": "x"}, {"pid": 1, "start_time": "?"}], spec=7, state=None
    )
    save(paths, record(), 5, {"name": 3}, strange)
    rows, problem = offline.views(paths)

    assert [row["name"] for row in rows] == ["echo/demo", "a/b"]
    assert problem is not None
    assert "garbled" in problem


def test_no_file_is_no_problem(paths: Paths) -> None:
    assert offline.views(paths) == ([], None)
    assert offline.names(paths) == []


@pytest.mark.parametrize(
    "target", ["coder", "echo/demo", "3457", str(os.getpid())], ids=["name", "model", "port", "pid"]
)
def test_a_proxy_is_found_by_all_that_names_it(paths: Paths, target: str) -> None:
    save(paths, record(name="coder", spec={"model_id": "echo/demo", "port": 3457}))

    assert offline.name_of(paths, target) == "coder"
    assert offline.name_of(paths, "nobody") is None
    assert offline.names(paths) == ["coder"]


def test_where_a_front_leads_stands_in_the_file(paths: Paths) -> None:
    """A place that is garbled is left out, and so is who is no front."""
    places = [{"name": "coder", "model_id": "ollama/x"}, {"model_id": "y"}, 7]
    save(paths, record(spec={"front": {"places": places}}), record("a/b"))

    assert offline.places(paths) == {"echo/demo": {"coder": "ollama/x"}}
