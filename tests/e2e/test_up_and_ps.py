"""`up`, `ps`, `down`, `restart`, `logs`, `events` as their users type them."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from fakes.house import (
    House,
    Stream,
    free_port,
    get,
    is_alive,
    is_refused,
    listens,
    message,
    post,
    wait_gone,
    workers_of,
)
from fakes.upstream import Reply, Upstream

from .conftest import Served
from .providers import Ollama

pytestmark = pytest.mark.slow

START_PROXY = "modelproxy.ctl.start_proxy"


# --- up -------------------------------------------------------------------------------------------


def test_s02_a_second_up_reuses_the_proxy(house: House) -> None:
    house.start()
    first = house.tell("up", "echo/demo", "--port", "0", "--json")
    before = set(house.processes())
    second = house.tell("up", "echo/demo", "--json")

    assert (first["model"], first["reused"], second["reused"]) == ("echo/demo", False, True)
    assert (second["port"], second["pid"]) == (first["port"], first["pid"])
    assert set(house.processes()) == before
    assert listens(first["pid"], first["port"])


def test_s02_ten_at_once_share_one_worker_and_one_supervisor(house: House) -> None:
    """No supervisor runs yet: the ten also agree on who starts it."""
    port = str(free_port())
    done = house.at_once(*[("up", "echo/demo", "--port", port, "--json")] * 10)

    assert [code for code, _, _ in done] == [0] * 10, done
    views = [json.loads(out) for _, out, _ in done]
    assert len({view["pid"] for view in views}) == 1
    assert sorted(view["reused"] for view in views) == [False] + [True] * 9
    rows = house.tell("ps", "--json")
    assert [(row["pid"], row["port"]) for row in rows] == [(views[0]["pid"], int(port))]
    assert len(workers_of(house)) == 1


def test_s60_twenty_models_at_once_are_twenty_workers_on_their_ports(house: House) -> None:
    house.start()
    done = house.at_once(
        *[("up", f"echo/m{number}", "--port", "0", "--wait", "60", "--json") for number in range(20)]
    )

    assert [code for code, _, _ in done] == [0] * 20, done
    views = [json.loads(out) for _, out, _ in done]
    assert len({view["pid"] for view in views}) == len({view["port"] for view in views}) == 20
    rows = {row["name"]: row for row in house.tell("ps", "--json")}
    assert {row["state"] for row in rows.values()} == {"ready"}
    for view in views:
        assert rows[view["name"]]["pid"] == view["pid"]
        health = get(view["port"], "/health").json
        assert (health["model_id"], health["pid"], health["port"]) == (
            view["model"],
            view["pid"],
            view["port"],
        )


@pytest.mark.parametrize("name", ["anthropic/claude-3-haiku", "qwen2.5-coder:7b", "hf.co/u/m:Q4"])
def test_s31_the_first_slash_parts_provider_and_model(served: Served, name: str) -> None:
    view = served.house.tell("up", f"echo/{name}", "--port", "0", "--json")
    health = get(view["port"], "/health").json

    assert (view["model"], view["provider"]) == (f"echo/{name}", "echo")
    assert (health["provider"], health["model"], health["model_id"]) == ("echo", name, f"echo/{name}")
    assert served.house.command("down", f"echo/{name}").returncode == 0


def test_s33_a_port_is_taken_as_given_and_0_is_any_free_one(house: House) -> None:
    house.start()
    port = free_port()

    assert house.tell("up", "echo/given", "--port", str(port), "--json")["port"] == port
    free = house.tell("up", "echo/free", "--port", "0", "--json")["port"]
    assert free not in (0, port)
    assert get(free, "/livez").status == get(port, "/livez").status == 200


NO_PORTS = ["70000", "abc", "-1", "1.5", ""]


def test_s33_what_is_no_port_is_bad_usage(house: House) -> None:
    for port, (code, out, err) in zip(
        NO_PORTS, house.at_once(*[("up", "echo/demo", f"--port={port}") for port in NO_PORTS]), strict=True
    ):
        assert (code, out) == (2, "")
        assert f'Invalid port "{port}"' in err
    scripted = [("--model", "echo/demo", f"--port={port}") for port in NO_PORTS]
    for port, (code, out, err) in zip(NO_PORTS, house.at_once(*scripted, module=START_PROXY), strict=True):
        assert (code, out) == (2, "")
        assert f'Invalid port "{port}"' in json.loads(err)["error"]
    assert house.tell("up", "echo/demo", "--port=abc", "--json", code=2)["error"]["code"] == "bad_port"
    assert house.processes() == []


NO_MODELS = [
    "invalid",
    "/x",
    "echo/",
    "echo",
    "",
    "echo/two words",
    "echo/a\tb",
    "echo/a\nb",
    "echo/\x1b[31m",
]


def test_s56_a_malformed_model_is_refused_by_both_commands(house: House) -> None:
    for code, out, err in house.at_once(*[("up", "--", model) for model in NO_MODELS]):
        assert (code, out) == (2, "")
        assert "Expected: provider/model-name" in err
        assert "\x1b" not in err
    for code, out, err in house.at_once(*[("--model", model) for model in NO_MODELS], module=START_PROXY):
        assert (code, out) == (2, "")
        assert "Expected: provider/model-name" in json.loads(err)["error"]
    error = house.tell("up", "--json", "invalid", code=2)["error"]
    assert error["code"] == "bad_model_id"
    assert house.processes() == []


def test_a_bare_name_is_sought_where_models_are_listed(house: House) -> None:
    """From the list of a provider to a proxy that is known by the model's own name."""
    house.start()
    with Upstream() as far:
        far.on("/api/tags", Reply(body=b'{"models":[{"name":"codellama:latest"}]}'))
        house.tell("config", "set", "providers.ollama.base_url", far.url, "--json")
        row = house.tell("up", "codellama", "--port", "0", "--json")
    lost = house.tell("up", "codelama", "--json", code=2)["error"]
    stopped = house.tell("down", "codellama", "--json")

    assert row["name"] == stopped["name"] == "ollama/codellama"
    assert f"ollama ({far.url}) did not answer: Connection refused" in lost["hint"]
    assert [one["name"] for one in house.tell("ps", "-a", "--json")] == ["ollama/codellama"]


def test_s56_s19_an_unsupported_provider_is_refused_with_the_nearest_one(house: House) -> None:
    house.start()
    error = house.tell("up", "ecko/x", "--json", code=2)["error"]
    done = house.command("up", "gemini/x")
    script = house.command("--model", "gemini/x", module=START_PROXY)

    assert error["code"] == "unsupported_provider"
    assert 'Unsupported provider "ecko"' in error["message"]
    assert '"echo"' in error["message"]
    assert done.returncode == script.returncode == 2
    assert 'Unsupported provider "gemini"' in done.stderr
    assert re.search(r"supported: .*\becho\b", done.stderr)
    assert 'Unsupported provider "gemini"' in json.loads(script.stderr)["error"]
    assert house.tell("ps", "-a", "--json") == []
    assert workers_of(house) == []


def test_s116_up_says_one_line_of_facts_and_one_to_copy(house: House) -> None:
    house.start()
    port = free_port()
    done = house.command("up", "echo/demo", "--port", str(port))
    pid = house.row()["pid"]

    assert done.returncode == 0
    assert re.fullmatch(
        rf"echo/demo  ready  http://127\.0\.0\.1:{port}  pid {pid}  \d+\.\d+s\n"
        rf"export ANTHROPIC_BASE_URL=http://127\.0\.0\.1:{port}\n",
        done.stdout,
    )
    assert done.stderr == ""
    assert get(port, "/health").status == 200


def test_section4_another_port_is_a_second_proxy_of_the_model(house: House) -> None:
    house.start()
    first = house.tell("up", "echo/demo", "--port", "0", "--json")
    second = house.tell("up", "echo/demo", "--port", str(free_port()), "--json")

    assert first["pid"] != second["pid"]
    assert first["name"] != second["name"]
    assert first["model"] == second["model"] == "echo/demo"
    assert get(first["port"], "/health").json["pid"] == first["pid"]
    assert get(second["port"], "/health").json["pid"] == second["pid"]
    # Each goes by its own name, and the other one stays.
    assert house.tell("down", second["name"], "--json")["port"] == second["port"]
    assert is_refused(second["port"])
    assert get(first["port"], "/livez").status == 200


def test_section4_other_options_are_refused_unless_replace_rolls_the_proxy(house: House) -> None:
    house.start()
    first = house.tell("up", "echo/demo", "--port", "0", "--json")
    error = house.tell("up", "echo/demo", "--grace", "5s", "--json", code=1)["error"]

    assert error["code"] == "options_differ"
    assert "--replace" in error["hint"]
    assert house.row()["pid"] == first["pid"]

    rolled = house.tell("up", "echo/demo", "--grace", "5s", "--replace", "--json")
    assert (rolled["port"], rolled["name"]) == (first["port"], first["name"])
    assert rolled["pid"] != first["pid"]
    assert wait_gone(first["pid"])
    assert get(first["port"], "/health").json["pid"] == rolled["pid"]
    assert house.tell("up", "echo/demo", "--grace", "5s", "--json")["reused"] is True


def test_section4_no_wait_returns_at_once_and_the_proxy_comes(house: House) -> None:
    house.start()
    view = house.tell("up", "echo/demo", "--port", "0", "--no-wait", "--json")

    # The socket listens already: who comes too early is answered a little later.
    assert post(view["port"], message()).status == 200
    house.wait_row(lambda row: row["state"] == "ready")


def test_section4_a_proxy_that_is_not_ready_in_time_is_said_so(house: House) -> None:
    house.start(bad_workers=True)
    error = house.tell("up", "echo/bad-mute", "--port", "0", "--wait", "200ms", "--json", code=1)["error"]

    assert error["code"] == "not_ready_in_time"
    assert "proxyctl logs echo/bad-mute" in error["hint"]


# --- ps -------------------------------------------------------------------------------------------


def test_s117_ps_has_the_columns_and_the_json_the_fields(served: Served) -> None:
    post(served.port, message())
    served.house.wait_tally(lambda row: row["requests"] > 0 and not row["in_flight"])
    done = served.house.command("ps")
    [row] = served.house.tell("ps", "--json")
    header, line = done.stdout.splitlines()

    assert done.returncode == 0
    columns = "NAME MODEL PORT PID STATE HEALTH UPTIME REQS IN-FLIGHT COST RESTARTS"
    assert header.split() == columns.split()
    cells = dict(zip(header.split(), line.split(), strict=True))
    assert (cells["NAME"], cells["PORT"], cells["PID"]) == ("echo/demo", str(served.port), str(served.pid))
    assert (cells["STATE"], cells["HEALTH"], cells["IN-FLIGHT"]) == ("ready", "ok", "0")
    assert (cells["COST"], row["cost_usd"]) == ("$0.00", 0.0)
    wanted = "name model port pid state health uptime_s requests in_flight restarts fallbacks last_error"
    assert set(row) >= {*wanted.split(), "base_url", "started_at", "cost_usd"}
    assert (row["model"], row["pid"], row["restarts"]) == ("echo/demo", served.pid, 0)


def test_s117_no_proxies_is_the_header_alone(house: House) -> None:
    house.start()
    done = house.command("ps")

    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1)
    assert done.stdout.startswith("NAME")
    assert house.tell("ps", "--json") == []


def test_s117_no_daemon_ever_is_said_and_starts_none(house: House) -> None:
    done = house.command("ps")

    assert done.returncode == 3
    assert "supervisor not running; 0 workers serving" in done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert house.tell("ps", "--json", code=3) == []
    assert house.processes() == []


def test_s117_a_dead_daemon_is_said_and_what_still_serves_is_listed(house: House) -> None:
    house.start()
    lives, dies = house.up("echo/lives"), house.up("echo/dies")
    house.up("echo/stopped")
    house.down("echo/stopped")
    house.kill_supervisor()
    os.kill(dies["pid"], signal.SIGKILL)
    wait_gone(dies["pid"])
    done = house.command("ps")
    rows = {row["name"]: row for row in house.tell("ps", "--json", code=3)}

    assert done.returncode == 3
    assert "supervisor not running; 1 worker serving" in done.stderr
    assert set(rows) == {"echo/lives", "echo/dies"}
    assert (rows["echo/lives"]["pid"], rows["echo/lives"]["port"]) == (lives["pid"], lives["port"])
    assert rows["echo/dies"]["pid"] is None
    assert str(lives["pid"]) in done.stdout
    assert post(lives["port"], message()).status == 200


def test_s117_s120_ps_shows_the_pid_that_listens(served: Served) -> None:
    [row] = served.house.tell("ps", "--json")

    assert listens(row["pid"], row["port"])
    assert get(row["port"], "/health").json["pid"] == row["pid"]


# --- down -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["name", "model", "port", "pid"])
def test_s79_down_takes_every_form_of_target_twice(house: House, by: str) -> None:
    house.start()
    row = house.up()
    other = house.up("echo/other")
    target = str(row[by])
    first = house.tell("down", target, "--json")
    second = house.tell("down", target, "--json")
    words = house.command("down", target)

    assert first == {"name": "echo/demo", "port": row["port"], "state": "stopped"}
    assert second == {**first, "already": "stopped"}
    assert (words.returncode, words.stdout) == (0, "echo/demo  already stopped\n")
    assert is_refused(row["port"])
    assert not is_alive(row["pid"])
    assert not (house.runtime / "modelproxy" / "proxies" / f"{row['port']}.pid").exists()
    assert get(other["port"], "/livez").status == 200


def test_s79_down_all_and_down_all_again(house: House) -> None:
    house.start()
    rows = [house.up(f"echo/m{number}") for number in range(3)]
    stopped = house.tell("down", "all", "--json")
    again = house.command("down", "all")

    assert sorted(one["port"] for one in stopped) == sorted(row["port"] for row in rows)
    assert all(is_refused(row["port"]) for row in rows)
    assert house.tell("ps", "--json") == []
    assert again.returncode == 0


def test_s79_an_unknown_target_fails_and_names_what_runs(served: Served) -> None:
    error = served.house.tell("down", "echo/nobody", "--json", code=1)["error"]
    done = served.house.command("down", "1")

    assert error["code"] == "unknown_proxy"
    assert '"echo/nobody"' in error["message"]
    assert "echo/demo" in error["hint"]
    assert (done.returncode, done.stdout) == (1, "")
    assert 'there is no proxy "1"' in done.stderr
    assert get(served.port, "/livez").status == 200


def test_s79_several_targets_each_get_their_answer(house: House) -> None:
    house.start()
    house.up("echo/one")
    house.up("echo/two")
    answers = house.tell("down", "echo/one", "echo/nobody", "echo/two", "--json", code=1)

    assert [answer.get("state") for answer in answers] == ["stopped", None, "stopped"]
    assert answers[1]["error"]["code"] == "unknown_proxy"


def test_restart_rolls_to_another_worker_on_the_same_port(house: House) -> None:
    house.start()
    row = house.up()
    after = house.tell("restart", "echo/demo", "--json")

    assert (after["port"], after["state"]) == (row["port"], "ready")
    assert after["pid"] != row["pid"]
    assert wait_gone(row["pid"])
    assert get(row["port"], "/health").json["pid"] == after["pid"]
    assert house.tell("restart", "echo/nobody", "--json", code=1)["error"]["code"] == "unknown_proxy"


def test_restart_finishes_the_streams_of_the_old_worker(house: House, ollama: Ollama) -> None:
    house.start()
    row = house.up("ollama/demo", base_url=ollama.base)
    gate = ollama.hold()
    stream = Stream(row["port"], "hello")
    stream.read_until(b"content_block_delta")
    after = house.restart("ollama/demo").json[0]
    verbose = house.command("ps", "-v").stdout

    # The new one serves while the old one is still talking.
    assert get(row["port"], "/health").json["pid"] == after["pid"] != row["pid"]
    assert [old["pid"] for old in after["draining"]] == [row["pid"]]
    assert re.search(
        rf"worker: g1, pid {row['pid']}, draining for [\d.]+s, 1 in flight \(oldest [\d.]+s\), kill in",
        verbose,
    )
    assert re.search(r"g1 drains 1 \(oldest \d+\.\ds\), kill in 15m", house.row("ollama/demo")["detail"])
    gate.release(10)
    assert b"event: message_stop" in stream.rest()
    assert wait_gone(row["pid"])


@pytest.mark.parametrize("command", ["down", "restart"])
def test_an_empty_target_is_bad_usage(house: House, command: str) -> None:
    """What a shell makes of an unset variable."""
    assert house.tell(command, "", "--json", code=2)["error"]["code"] == "usage"


@pytest.mark.parametrize(
    "model", ["echo/é漢", "echo/a?b#c%2F", "echo/../../x", "echo/a\"b'c$(id)", "echo/all", "echo/-x"]
)
def test_s31_odd_names_work_in_every_command(served: Served, model: str) -> None:
    house = served.house
    view = house.tell("up", model, "--port", "0", "--json")
    health = get(view["port"], "/health").json

    assert (view["model"], health["model_id"], health["model"]) == (model, model, model[5:])
    assert post(view["port"], message()).status == 200
    logs, ps = house.at_once(("logs", model), ("ps",))
    assert "info ready" in logs[1]
    assert model in ps[1]
    log = Path(view["log"])
    assert log.parent == house.state / "logs"
    assert log.is_file()
    assert house.tell("restart", model, "--json")["port"] == view["port"]
    assert house.tell("down", model, "--json")["name"] == model
    assert get(served.port, "/livez").status == 200


# --- logs and events ------------------------------------------------------------------------------


@pytest.mark.parametrize("dead", [False, True])
def test_logs_and_logs_f_read_the_file_with_and_without_a_daemon(house: House, dead: bool) -> None:
    house.start()
    row = house.up()
    post(row["port"], message())
    if dead:
        house.kill_supervisor()
    for target in ("echo/demo", str(row["port"]), str(row["pid"])):
        done = house.command("logs", target)
        assert done.returncode == 0
        assert "info ready" in done.stdout
        assert ("not running" in done.stderr) is dead
    lines = [
        json.loads(line)["line"]
        for line in house.command("logs", "echo/demo", "--json").stdout.split("\n")
        if line
    ]
    assert any("info ready" in line for line in lines)
    last = house.command("logs", "echo/demo", "-n", "1").stdout
    assert len(last.splitlines()) == 1

    with house.running("logs", "echo/demo", "-f", "-n", "0") as following:
        assert following.stdout is not None
        # What is written before it has opened the file is not its to show: write until it shows something.
        line = _first_line(following, lambda: post(row["port"], message()))
        assert "request" in line
        following.send_signal(signal.SIGINT)
        assert following.wait(timeout=30) == 130


def _first_line(process: Any, poke: Any) -> str:
    import select

    for _ in range(200):
        poke()
        if select.select([process.stdout], [], [], 0.1)[0]:
            return str(process.stdout.readline())
    raise AssertionError("nothing was shown")


def test_logs_of_nobody_fails_with_and_without_a_daemon(house: House) -> None:
    house.start()
    alive = house.tell("logs", "echo/nobody", "--json", code=1)["error"]
    house.kill_supervisor()
    dead = house.tell("logs", "echo/nobody", "--json", code=1)["error"]

    assert alive["code"] == dead["code"] == "unknown_proxy"


def test_events_tell_what_happened_and_follow(house: House) -> None:
    house.start()
    with house.running("events", "-f", "--json") as following:
        assert following.stdout is not None
        row = house.up()
        kinds = []
        while "ready" not in kinds:
            line = json.loads(following.stdout.readline())
            kinds.append(line["kind"])
            assert set(line) >= {"seq", "at", "kind", "proxy", "text"}
        house.down("echo/demo")
        following.send_signal(signal.SIGINT)
        following.wait(timeout=30)
    past = [json.loads(line) for line in house.command("events", "--json").stdout.splitlines()]

    assert [event["seq"] for event in past] == sorted({event["seq"] for event in past})
    assert {event["proxy"] for event in past if event["proxy"]} == {"echo/demo"}
    later = [
        json.loads(line)
        for line in house.command("events", "--json", "--since", str(past[-2]["seq"])).stdout.splitlines()
    ]
    assert later == past[-1:]
    assert str(row["pid"]) in house.command("events").stdout


def test_events_f_goes_on_with_the_next_supervisor(house: House) -> None:
    """The numbers begin anew with it; nothing is said twice, and nothing but events is on stdout."""
    house.start()
    house.up()
    with house.running("events", "-f", "--json") as following:
        assert following.stdout is not None
        seen = [json.loads(following.stdout.readline()) for _ in range(2)]
        house.kill_supervisor()
        house.start()
        while seen[-1]["kind"] != "adopted":
            seen.append(json.loads(following.stdout.readline()))
        house.down("echo/demo")
        while seen[-1]["kind"] != "stopped":
            seen.append(json.loads(following.stdout.readline()))
        following.send_signal(signal.SIGINT)
        assert following.wait(timeout=30) == 130

    kinds = [event["kind"] for event in seen]
    assert kinds[:2] == ["up", "ready"]
    assert kinds.count("adopted") == kinds.count("down") == kinds.count("stopped") == 1
    after = [event["seq"] for event in seen[kinds.index("adopted") :]]
    assert after == sorted(set(after))


# --- every command --------------------------------------------------------------------------------

COMMANDS = [
    ("up", "echo/demo"),
    ("down", "echo/demo"),
    ("ps",),
    ("restart", "echo/demo"),
    ("logs", "echo/demo"),
    ("events",),
    ("daemon", "start"),
    ("daemon", "stop"),
    ("daemon", "restart"),
    ("daemon", "status"),
]


def test_exit_2_for_an_unknown_option_in_words_and_json(house: House) -> None:
    for code, out, err in house.at_once(*[(*words, "--nonsense") for words in COMMANDS]):
        assert (code, out) == (2, "")
        assert "--nonsense" in err
        assert "Traceback" not in err
    for code, out, _ in house.at_once(*[(*words, "--nonsense", "--json") for words in COMMANDS]):
        error = json.loads(out)["error"]
        assert (code, error["code"]) == (2, "usage")
        assert "--nonsense" in error["message"]
        assert set(error) == {"code", "message", "hint"}
    assert house.processes() == []


def test_exit_3_without_a_daemon_in_words_and_json(house: House) -> None:
    """Of those that have nothing to say without one; `up` and `daemon start` start it."""
    helpless = [words for words in COMMANDS if words[0] not in ("up", "ps", "logs") and words[-1] != "start"]
    for code, out, err in house.at_once(*helpless):
        assert (code, out) == (3, "")
        assert "not running" in err
        assert "proxyctl daemon start" in err
    for code, out, _ in house.at_once(*[(*words, "--json") for words in helpless]):
        assert (code, json.loads(out)["error"]["code"]) == (3, "daemon_not_running")
    assert house.processes() == []


@pytest.mark.parametrize(
    "words", [("ps",), ("ps", "--json"), ("events",), ("logs", "echo/demo")], ids=" ".join
)
def test_exit_0_when_the_reader_of_a_pipe_has_had_enough(served: Served, words: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with served.house.running(*words, stdout=writing) as process:
        os.close(writing)
        _, said = process.communicate(timeout=30)

    assert (process.returncode, said) == (0, "")


def test_exit_130_for_ctrl_c_while_up_waits(house: House) -> None:
    house.start(bad_workers=True)
    with house.running("up", "echo/bad-mute", "--port", "0") as waiting:
        house.wait_event("up", "echo/bad-mute")
        waiting.send_signal(signal.SIGINT)
        out, said = waiting.communicate(timeout=30)

    assert (waiting.returncode, out) == (130, "")
    assert "Traceback" not in said


def test_s48_up_without_a_model_is_usage(house: House) -> None:
    done = house.command("up")

    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: proxyctl up [OPTIONS] {MODEL}" in done.stderr
    assert house.tell("up", "--json", code=2)["error"]["code"] == "usage"
