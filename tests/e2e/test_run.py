"""`run`, `env` and `ask` as their user types them: real processes, fake providers, real clients."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.house import House, free_port, is_refused
from fakes.upstream import Reply

from .providers import Estate, estate, msg, post
from .strangers import listening

pytestmark = pytest.mark.slow

CONFIG = """
default_port = {port}
[providers.ollama]
base_url = "{fo}"
[providers.anthropic]
base_url = "{fa}"
[models.agents]
code-reviewer = "ollama/codellama"
"""
MODEL = "ollama/codellama"
REAL = {"ANTHROPIC_API_KEY": "sk-ant-real", "ANTHROPIC_MODEL": "claude-opus-5-5"}
README = Path(__file__).resolve().parents[2] / "README.md"

SDK = """
import sys, anthropic
client = anthropic.Anthropic(max_retries=0)
said = client.messages.create(model=sys.argv[1], max_tokens=50, messages=[{"role": "user", "content": "Hello"}])
print(said.content[0].text)
sys.exit(3)
"""
PLAIN = """
import json, os, sys, urllib.request
body = {"model": sys.argv[1], "max_tokens": 50, "messages": [{"role": "user", "content": "Hello"}]}
headers = {"content-type": "application/json", "x-api-key": os.environ["ANTHROPIC_API_KEY"]}
request = urllib.request.Request(os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages", json.dumps(body).encode(), headers)
print(json.load(urllib.request.urlopen(request))["content"][0]["text"])
"""
OTHER_SDK = """
import openai
said = openai.OpenAI(max_retries=0).responses.create(model="any", input="Hello")
print(said.output_text)
"""
WAITS = "import sys, os; print(os.environ['ANTHROPIC_BASE_URL'], flush=True); sys.stdin.readline()"


@pytest.fixture(scope="module")
def whole() -> Iterator[Estate]:
    with estate(CONFIG.replace("{port}", str(free_port()))) as found:
        yield found


@pytest.fixture
def here(whole: Estate) -> Iterator[Estate]:
    """Nothing runs, before and behind each."""
    whole.reset()
    yield whole
    assert whole.house.down("all", grace_s=0.0).status == 200


def told(house: House, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """`proxyctl` in an environment with more in it."""
    line = [sys.executable, "-P", "-m", "modelproxy.ctl", *words]
    environment = house.env | more
    return subprocess.run(
        line,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def program(text: str, *words: str) -> list[str]:
    return ["--", sys.executable, "-c", text, *words]


def up_now(house: House) -> list[str]:
    return [row["name"] for row in house.ps() if row["wanted"]]


def pid_files(house: House) -> list[str]:
    return [path.name for path in (house.runtime / "modelproxy" / "proxies").glob("*.pid")]


def test_s09_s87_an_agent_runs_on_its_model_and_nothing_stays(here: Estate) -> None:
    """One command; the client is Anthropic's own SDK, which finds everything in its environment."""
    before = len(here.usage())
    done = told(here.house, "run", "--agent", "code-reviewer", *program(SDK, "any"), **REAL)
    rows = here.usage()[before:]
    port = here.house.row(MODEL)["port"]

    assert (done.returncode, done.stdout) == (3, "Hello\n"), done
    assert len(here.fo.asked) == 1
    assert [(row["agent"], row["route"], row["status"]) for row in rows] == [("code-reviewer", MODEL, 200)]
    assert up_now(here.house) == []
    assert is_refused(port)
    assert f"{port}.pid" not in pid_files(here.house)


def test_s79_the_last_of_two_takes_the_proxy_with_it(here: Estate) -> None:
    """The first exit leaves it to the other."""
    pipes: Any = {"stdin": subprocess.PIPE}
    with (
        here.house.running("run", MODEL, *program(WAITS), **pipes) as first,
        here.house.running("run", MODEL, *program(WAITS), **pipes) as second,
    ):
        urls = {one.stdout.readline().strip() for one in (first, second) if one.stdout}
        assert here.house.row(MODEL)["leases"] == 2
        first.communicate("\n", timeout=60)
        assert (len(urls), up_now(here.house)) == (1, [MODEL])
        port = int(urls.pop().rpartition(":")[2])
        assert post(port, msg()).status == 200

        second.communicate("\n", timeout=60)
        assert (up_now(here.house), is_refused(port)) == ([], True)


def test_s79_what_was_up_before_stays_and_keep_keeps(here: Estate) -> None:
    port = here.ollama
    assert told(here.house, "run", MODEL, "--", "true").returncode == 0
    assert told(here.house, "run", "echo/demo", "--port", "0", "--keep", "--", "true").returncode == 0

    assert sorted(up_now(here.house)) == ["echo/demo", MODEL]
    assert post(port, msg()).status == 200
    here.ports.clear()


def test_a_run_that_is_killed_holds_nothing(here: Estate) -> None:
    """Not even its child counts: nobody is left who would give anything back."""
    with here.house.running("run", MODEL, *program(WAITS), stdin=subprocess.PIPE) as running:
        assert running.stdout is not None
        running.stdout.readline()
        running.send_signal(signal.SIGKILL)
        here.house.wait_row(lambda row: row["state"] == "stopped", MODEL)


def test_a_lease_outlives_the_supervisor(here: Estate) -> None:
    """The next one adopts the worker, is told by whoever holds it, and stops it at the end."""
    house = here.house
    with house.running("run", MODEL, *program(WAITS), stdin=subprocess.PIPE) as running:
        assert running.stdout is not None
        running.stdout.readline()
        pid = house.row(MODEL)["pid"]
        house.kill_supervisor()
        house.start()
        row = house.wait_tally(lambda row: bool(row["leases"] and row["state"] == "ready"), MODEL)
        assert (row["pid"], row["kept"]) == (pid, False)

        running.communicate("\n", timeout=60)
        assert (running.returncode, up_now(house)) == (0, [])


def test_a_restart_of_the_supervisor_ends_no_lease(here: Estate) -> None:
    """Everybody is hung up on, and nothing is given back."""
    house = here.house
    with house.running("run", MODEL, *program(WAITS), stdin=subprocess.PIPE) as running:
        assert running.stdout is not None
        running.stdout.readline()
        pid = house.row(MODEL)["pid"]
        assert told(house, "daemon", "restart").returncode == 0
        row = house.wait_tally(lambda row: bool(row["leases"] and row["state"] == "ready"), MODEL)
        assert row["pid"] == pid

        running.communicate("\n", timeout=60)
        assert up_now(house) == []


def test_s138_without_mappings_nothing_is_started_and_nothing_loaded() -> None:
    """The command sees the environment that it would have seen, and waits for no library."""
    with House() as house:
        line = [sys.executable, "-P", "-X", "importtime", "-m", "modelproxy.ctl", "run", "--"]
        look = [sys.executable, "-c", "import os, json; print(json.dumps(dict(os.environ)))"]
        plain = subprocess.run(look, env=house.env, capture_output=True, text=True, check=True)
        done = subprocess.run([*line, *look], env=house.env, capture_output=True, text=True, check=True)
        loaded = set(re.findall(r"\|\s+([\w.]+)$", done.stderr, re.MULTILINE))

        assert json.loads(done.stdout) == json.loads(plain.stdout)
        assert loaded & {"typer", "attr", "attrs", "tomllib", "subprocess", "json"} == set()
        assert not (house.runtime / "modelproxy").exists()
        assert not house.state.exists()


def test_s139_no_credential_goes_along_and_no_second_layer_is_made(here: Estate) -> None:
    inner = [sys.executable, "-P", "-m", "modelproxy.ctl", "run", "echo/demo", "--", "env"]
    done = told(here.house, "run", MODEL, "--", *inner, **REAL)
    found = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)

    assert done.returncode == 0, done
    assert (found["MODELPROXY_RUN"], found["ANTHROPIC_AUTH_TOKEN"]) == (MODEL, "unused")
    assert found["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "65536"
    assert "ANTHROPIC_MODEL" not in found
    assert "sk-ant-real" not in done.stdout
    assert "inside proxyctl run already" in done.stderr


def test_the_front_door_for_a_whole_session(here: Estate) -> None:
    """S138, S139: the reviewer on Ollama, the rest on Anthropic with the caller's own key; then nothing is left."""
    for model in ("code-reviewer", "claude-sonnet-4-5"):
        done = told(here.house, "run", *program(PLAIN, model), **REAL)
        assert (done.returncode, done.stdout) == (0, "Hello\n"), done

    assert (len(here.fo.asked), len(here.fa.asked)) == (1, 1)
    assert "sk-ant-real" in str(here.fa.asked[0].headers)
    assert "sk-ant-real" not in str(here.fo.asked[0].headers)
    assert up_now(here.house) == []


def test_where_a_stranger_has_the_usual_port_two_at_once_share_one_front_on_another(here: Estate) -> None:
    """Quietly: nobody but the commands needs to know it."""
    with listening() as (stranger, _):
        here.house.env["MODELPROXY_DEFAULT_PORT"] = str(stranger)
        pipes: Any = {"stdin": subprocess.PIPE}
        with (
            here.house.running("run", *program(WAITS), **pipes) as first,
            here.house.running("run", *program(WAITS), **pipes) as second,
        ):
            urls = {one.stdout.readline().strip() for one in (first, second) if one.stdout}
            [url] = urls
            leases = here.house.row("front")["leases"]
            ends = [one.communicate("\n", timeout=60) for one in (first, second)]
        kept = told(here.house, "run", MODEL, "--keep", *program(WAITS))
        del here.house.env["MODELPROXY_DEFAULT_PORT"]

    assert (leases, url.rpartition(":")[2] != str(stranger)) == (2, True)
    assert [error for _, error in ends] == ["", ""]
    assert (kept.returncode, kept.stderr, up_now(here.house)) == (0, "", [MODEL])


@pytest.mark.parametrize("words", [[], ["--no-fallback"]])
def test_s11_without_a_proxy_it_runs_loudly_or_not_at_all(here: Estate, words: list[str]) -> None:
    """Its port is a stranger's."""
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = str(stranger.getsockname()[1])
        script = "import os; print(os.environ.get('ANTHROPIC_BASE_URL'), os.environ['ANTHROPIC_API_KEY'])"
        done = told(here.house, "run", MODEL, "--port", port, *words, *program(script), **REAL)

    if words:
        assert (done.returncode, done.stdout) == (1, "")
        assert "was not run (--no-fallback)" in done.stderr
    else:
        assert (done.returncode, done.stdout) == (0, "None sk-ant-real\n")
        assert done.stderr.count("\n") == 1
        assert "NO PROXY" in done.stderr


def test_a_program_that_uses_openais_library_runs_on_the_model(here: Estate) -> None:
    """It finds everything in its environment. With a key of its own it goes where that is good, and that is said."""
    done = told(here.house, "run", MODEL, *program(OTHER_SDK), OPENAI_API_KEY="", OPENAI_BASE_URL="")
    own = "import os; print(os.environ.get('OPENAI_BASE_URL'), os.environ['OPENAI_API_KEY'])"
    kept = told(here.house, "run", MODEL, *program(own), OPENAI_API_KEY="sk-own", OPENAI_BASE_URL="")

    assert (done.returncode, done.stdout) == (0, "Hello\n"), done
    assert len(here.fo.asked) == 1
    assert kept.stdout == " sk-own\n"
    assert "note: OPENAI_API_KEY is set" in kept.stderr


def test_a_shell_leads_openais_library_to_a_model(here: Estate) -> None:
    ours = shlex.join([sys.executable, "-P", "-m", "modelproxy.ctl"])
    script = f'eval "$({ours} env {MODEL} --port 0 --for openai)"; {shlex.join(program(OTHER_SDK)[1:])}'
    own = {"OPENAI_API_KEY": "sk-own", "OPENAI_ORG_ID": "org-own"}
    done = subprocess.run(
        ["sh", "-c", script],
        env=here.house.env | own,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout) == (0, "Hello\n"), done


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is what the row names")
def test_s83_a_shell_reaches_the_proxy(here: Estate) -> None:
    """As one types it."""
    ours = shlex.join([sys.executable, "-P", "-m", "modelproxy.ctl"])
    body = json.dumps(msg())
    script = f"""
        set -e
        eval "$({ours} env {MODEL} --port 0)"
        test -z "$ANTHROPIC_MODEL"
        curl -sS "$ANTHROPIC_BASE_URL/v1/messages" -H "authorization: Bearer $ANTHROPIC_AUTH_TOKEN" \\
            -H 'content-type: application/json' -d {shlex.quote(body)}
    """
    done = subprocess.run(
        ["sh", "-c", script],
        env=here.house.env | REAL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done
    assert json.loads(done.stdout)["content"][0]["text"] == "Hello"
    assert up_now(here.house) == [MODEL]


def test_s84_s85_one_message_and_its_answer(here: Estate) -> None:
    here.fo.say("an ", "answer")
    assert told(here.house, "ask", MODEL, "Hello").stdout == "an answer\n"
    assert told(here.house, "ask", MODEL, "Hello", "--stream").stdout == "an answer\n"
    message = here.house.tell("ask", MODEL, "Hello", "--json")
    assert (message["content"][0]["text"], message["usage"]["output_tokens"]) == ("an answer", 7)
    assert up_now(here.house) == []

    here.fo.instead(Reply(400, b'{"error":"the model is out\\nof order"}'))
    failed = told(here.house, "ask", MODEL, "Hello")
    assert (failed.returncode, failed.stdout, failed.stderr.count("\n")) == (1, "", 1)
    assert "the model is out of order" in failed.stderr


def test_the_lines_of_the_readme_work(here: Estate) -> None:
    """Those that use a model, as they stand there; what they start is a program that says where it would ask."""
    bin_ = here.house.home / "bin"
    bin_.mkdir(exist_ok=True)
    for name, line in (
        ("proxyctl", f'exec {shlex.quote(sys.executable)} -P -m modelproxy.ctl "$@"'),
        ("claude", "echo $ANTHROPIC_BASE_URL"),
        ("review.sh", "echo $ANTHROPIC_BASE_URL"),
        ("codex", 'echo "$@"'),
        ("git", "echo a diff"),
    ):
        (bin_ / name).write_text(f"#!/bin/sh\n{line}\n")
        (bin_ / name).chmod(0o755)
    config = here.house.home / "config" / "modelproxy" / "config.toml"
    text = config.read_text()
    here.fo.models.append("qwen3-coder")
    block = README.read_text().partition("A whole agent with the proxy that it needs")[2]
    lines = [line[2:] for line in block.partition("```console\n")[2].partition("```")[0].splitlines()]
    said = []
    try:
        config.write_text(f'{text}\n[proxies.coder]\nmodel = "{MODEL}"\n')
        for line in lines:
            done = subprocess.run(
                ["bash", "-c", line],
                env=here.house.env | {"PATH": f"{bin_}:{here.house.env['PATH']}"},
                cwd=bin_,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, (line, done)
            said.append(done.stdout)
    finally:
        config.write_text(text)
        here.fo.models.remove("qwen3-coder")

    assert len(lines) == 8
    assert said[0].startswith("http://127.0.0.1:")
    assert said[1].endswith("/a/code-reviewer\n")
    assert 'base_url = "http://127.0.0.1:' in said[4]
    assert said[5:] == ["Hello\n", "Hello\n", "Hello\n"]


def test_the_signals_of_others_reach_the_command(here: Estate) -> None:
    """And the proxy is given back behind it."""
    script = "import signal, sys, time; print('on', flush=True); signal.pause()"
    with here.house.running("run", MODEL, *program(script), start_new_session=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "on\n"
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=60)

    assert (running.returncode, up_now(here.house)) == (128 + signal.SIGTERM, [])
