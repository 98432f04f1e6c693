"""S32: a key that the user gives is nowhere to be found, nor is the value of a header that the configuration says."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fakes.house import House, message, post
from fakes.upstream import Reply

from .providers import Estate, estate, msg

pytestmark = pytest.mark.slow

KEY = "sk-nobody-may-see-this-0123456789"
START_PROXY = "modelproxy.ctl.start_proxy"


def type_key(house: House, how: str, *words: str, module: str = "modelproxy.ctl") -> Any:
    """Give the key in one of the four ways; what the command printed."""
    env, stdin = dict(house.env), ""
    if how == "flag":
        flags = ["--api-key", KEY]
    elif how == "flag=":
        flags = [f"--api-key={KEY}"]
    elif how == "stdin":
        flags, stdin = ["--api-key", "-"], KEY + "\n"
    elif how == "env":
        flags = ["--api-key-env", "THE_VARIABLE"]
        env["THE_VARIABLE"] = KEY
    else:
        # Outside of the home, which is searched for the key.
        reading, writing = os.pipe()
        os.write(writing, KEY.encode())
        os.close(writing)
        flags = ["--api-key-file", f"/dev/fd/{reading}"]
        return _run(module, [*words, *flags], env, stdin, pass_fds=(reading,))
    return _run(module, [*words, *flags], env, stdin)


def _run(
    module: str, words: list[str], env: dict[str, str], stdin: str, pass_fds: tuple[int, ...] = ()
) -> subprocess.CompletedProcess[str]:
    import sys

    done = subprocess.run(
        [sys.executable, "-P", "-m", module, *words],
        env=env,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        pass_fds=pass_fds,
        check=False,
    )
    for number in pass_fds:
        os.close(number)
    return done


def command_lines() -> str:
    """`ps aux` of everybody's processes, and what the kernel lets us see of their arguments."""
    found = [subprocess.run(["ps", "auxww"], capture_output=True, text=True, check=True).stdout]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                found.append((entry / "cmdline").read_text(errors="replace"))
            except OSError:
                continue
    return "\n".join(found)


def environments(house: House) -> str:
    """Of every process in this home but the supervisor, who has what its starter's shell had."""
    supervisors = {process.pid for process in house.supervisors}
    found = [
        Path(f"/proc/{pid}/environ").read_text(errors="replace")
        for pid in house.processes()
        if pid not in supervisors
    ]
    assert found
    return "\n".join(found)


def files(house: House) -> str:
    """All that was written there, but by its user."""
    written = (path for path in house.home.rglob("*") if path.is_file() and path.name != "config.toml")
    return "\n".join(path.read_text(errors="replace") for path in written)


def assert_nowhere(
    house: House,
    done: subprocess.CompletedProcess[str],
    secrets: Sequence[str] = (KEY,),
    name: str = "echo/demo",
) -> None:
    lines = [["ps", "--json"], ["ps", "-a", "-v"], ["events", "--json"], ["logs", name], ["why", name]]
    told = house.at_once(*lines)
    for code, out, _ in told:
        assert code == 0
        assert name in out
    held = files(house)
    assert name in held  # the files were really read
    paths = ("/v1/proxies?all=1", f"/v1/proxies/{quote(name, safe='')}", "/v1/metrics", "/v1/version")
    answered = [house.api("GET", path).body.decode() for path in paths]
    everything = [done.stdout, done.stderr, command_lines(), environments(house), held, *answered]
    everything += [text for _, out, err in told for text in (out, err)]
    assert [secret for secret in secrets if any(secret in text for text in everything)] == []


@pytest.mark.parametrize("how", ["flag", "flag=", "stdin", "env", "file"])
def test_s32_a_key_given_to_up_is_nowhere(house: House, how: str) -> None:
    house.start()
    done = type_key(house, how, "up", "echo/demo", "--port", "0", "--json")
    assert done.returncode == 0, done
    view = json.loads(done.stdout)
    post(view["port"], message())

    assert_nowhere(house, done)
    # It did arrive: another key, or none of the kind, is another option.
    same = type_key(house, how, "up", "echo/demo", "--json")
    assert json.loads(same.stdout)["reused"] is True
    other = house.command("up", "echo/demo", "--api-key-env", "OTHER_KEY", "--json")
    assert other.returncode == 2
    house.env["OTHER_KEY"] = "another"
    differs = house.tell("up", "echo/demo", "--api-key-env", "OTHER_KEY", "--json", code=1)["error"]
    assert differs["code"] == "options_differ"
    assert "api_key" in differs["message"]
    assert KEY not in json.dumps(differs)


def test_s32_a_key_outlives_daemon_restart_also_without_a_worker(house: House) -> None:
    """The supervisor tells itself. One that is killed cannot: then the proxy says what to repeat."""
    house.start()
    done = type_key(house, "stdin", "up", "echo/demo", "--lazy", "--port", "0", "--json")
    assert json.loads(done.stdout)["state"] == "idle"
    assert house.command("daemon", "restart").returncode == 0

    assert house.row()["state"] == "idle"
    assert post(house.row()["port"], message()).status == 200
    assert_nowhere(house, done)
    assert KEY not in Path(f"/proc/{house.supervisors[0].pid}/environ").read_text()
    same = type_key(house, "stdin", "up", "echo/demo", "--json")  # with another key it would differ
    assert json.loads(same.stdout)["reused"] is True
    house.kill_supervisor()
    house.kill_worker(json.loads(same.stdout)["pid"])
    house.start()
    row = house.wait_row(lambda row: row["state"] == "failed")
    assert "its key was given by flag and died with it" in row["detail"]


@pytest.mark.parametrize("how", ["flag", "env"])
def test_s50_a_key_given_to_start_proxy_is_nowhere(house: House, how: str) -> None:
    house.start()
    done = type_key(house, how, "--model", "echo/demo", "--port", "0", "--background", module=START_PROXY)

    assert done.returncode == 0, done
    assert_nowhere(house, done)


@pytest.mark.parametrize("module", ["modelproxy.ctl", START_PROXY])
def test_s32_a_key_on_the_command_line_is_gone_from_it_while_the_command_waits(
    house: House, module: str
) -> None:
    house.start(bad_workers=True)
    words = ["up", "echo/bad-mute"] if module == "modelproxy.ctl" else ["--model", "echo/bad-mute"]
    with house.running(*words, "--port", "0", "--api-key", KEY, module=module) as waiting:
        house.wait_event("up", "echo/bad-mute")
        assert waiting.poll() is None
        lines = command_lines()
        assert "echo/bad-mute" in lines
        assert KEY not in lines


def test_s32_a_key_in_the_supervisors_environment_is_not_the_workers(house: House) -> None:
    house.env["OPENROUTER_API_KEY"] = KEY
    house.env["SOME_TOKEN"] = KEY
    house.start()
    house.up()

    assert KEY in Path(f"/proc/{house.supervisors[0].pid}/environ").read_text()
    assert KEY not in environments(house)


@pytest.mark.parametrize("bad", ["", " ", "with\x07bell", "Schlüssel"])
def test_s32_a_key_that_is_none_is_refused_and_not_repeated(house: House, bad: str) -> None:
    house.env["THE_VARIABLE"] = f"{KEY}{bad}" if bad.strip() else bad
    error = house.tell("up", "echo/demo", "--api-key-env", "THE_VARIABLE", "--json", code=2)["error"]

    assert "THE_VARIABLE" in error["message"]
    assert KEY not in json.dumps(error)
    assert house.processes() == []


def test_s32_two_keys_are_bad_usage(house: House) -> None:
    done = house.command("up", "echo/demo", "--api-key", KEY, "--api-key-env", "THE_VARIABLE")

    assert done.returncode == 2
    assert KEY not in done.stdout + done.stderr


def test_s32_a_missing_key_file_is_named(house: House) -> None:
    path = house.home / "nothing"
    error = house.tell("up", "echo/demo", "--api-key-file", str(path), "--json", code=2)["error"]

    assert str(path) in error["message"]


def test_s32_a_crash_report_does_not_show_the_key(house: House) -> None:
    """A worker that dies at its start leaves its last words in the log; none of them is the key."""
    with House(FIRST_DELAY_S=0.02) as other:
        other.start(bad_workers=True)
        done = type_key(other, "stdin", "up", "echo/bad-import", "--port", "0", "--json")
        assert done.returncode == 1
        assert KEY not in done.stdout + done.stderr
        assert KEY not in files(other)


# --- headers --------------------------------------------------------------------------------------

BLUE, GREEN = "Basic bm9ib2R5OmJsdWU=", "Basic bm9ib2R5OmdyZWVu"
HEADED = f"""
[providers.work]
kind = "openai"
base_url = "{{fr}}"
headers = {{ authorization = "{BLUE}", "x-empty" = "" }}
[providers.spare]
kind = "ollama"
base_url = "{{fo}}"
headers = {{ "x-spare" = "{GREEN}" }}
[proxies.coder]
model = "work/model"
fallback = ["spare/codellama"]
retries = 0
"""


@pytest.fixture
def headed() -> Iterator[Estate]:
    with estate(HEADED) as found:
        yield found


def assert_sent(headed: Estate, value: str = BLUE) -> None:
    assert post(headed.house.row("coder")["port"], msg()).status == 200
    assert headed.fr.asked[-1].headers["authorization"] == value


def assert_sent_to_the_next(headed: Estate) -> None:
    """When the provider fails, which is left alone for a while then."""
    headed.fr.instead(Reply(500, b"{}"))
    assert post(headed.house.row("coder")["port"], msg()).status == 200
    seen = headed.fo.asked[-1].headers
    assert (seen["x-spare"], seen.get("authorization")) == (GREEN, None)


def edit(headed: Estate, old: str, new: str) -> None:
    file = headed.house.home / "config" / "modelproxy" / "config.toml"
    file.write_text(file.read_text().replace(old, new))


def test_s32_the_value_of_a_header_is_nowhere_and_is_sent_after_each_end(headed: Estate) -> None:
    """Whoever ends, supervisor, worker or both: of the file a header is known again, of a worker the one it has."""
    house = headed.house
    done = house.command("up", "coder", "--port", "0", "--json")
    first = json.loads(done.stdout)["pid"]
    assert_sent(headed)
    house.kill_supervisor()
    house.start()
    assert house.wait_row(lambda row: row["state"] == "ready", "coder")["pid"] == first
    assert_sent(headed)
    assert house.command("daemon", "restart").returncode == 0
    assert house.row("coder")["pid"] == first
    assert_sent(headed)
    assert_nowhere(house, done, (BLUE, GREEN), "coder")
    edit(headed, BLUE, f"{BLUE}-2")
    house.tell("reload", "--json")
    second = house.wait_row(lambda row: row["state"] == "ready", "coder")["pid"]
    assert second != first
    assert_sent(headed, f"{BLUE}-2")
    house.kill_supervisor()
    house.kill_worker(second)
    house.start()
    assert house.wait_row(lambda row: row["state"] == "ready", "coder")["generation"] == 3
    assert_sent(headed, f"{BLUE}-2")
    assert_nowhere(house, done, (BLUE, GREEN), "coder")
    assert house.tell("daemon", "status", "--json")["warnings"] == []
    assert_sent_to_the_next(headed)


def test_s32_a_header_that_cannot_be_read_again_keeps_its_proxy_down_until_it_can(headed: Estate) -> None:
    """A supervisor that is executed anew tells itself. Another one says what is wrong, and waits until it is not."""
    house = headed.house
    done = house.command("up", "coder", "--port", "0", "--lazy", "--json")
    assert house.command("daemon", "restart").returncode == 0
    assert house.row("coder")["state"] == "idle"
    assert_sent(headed)
    edit(headed, 'kind = "openai"', 'kind = "opnai"')
    house.kill_supervisor()
    house.kill_worker(house.workers_on_record()[0])
    house.start()
    row = house.wait_row(lambda row: row["state"] == "failed", "coder")
    assert "what it needs stands in the configuration: " in row["detail"]
    assert "opnai" in row["detail"]
    assert row["next"].startswith("when the configuration changes it is asked again")
    assert_nowhere(house, done, (BLUE, GREEN), "coder")
    edit(headed, 'kind = "opnai"', 'kind = "openai"')
    house.wait_row(lambda row: row["state"] == "idle", "coder")
    assert_sent(headed)
