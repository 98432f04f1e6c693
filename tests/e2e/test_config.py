"""The configuration through real processes: names, autostart, reload, projects, agents, keys."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.house import House, attempts, free_port, post

from .providers import Estate, estate, msg
from .test_secrets import command_lines, environments

pytestmark = pytest.mark.slow

KEY = "sk-or-key-of-the-file-123456"
ENV_KEY = "sk-or-key-of-the-shell-654321"


@pytest.fixture(scope="module")
def whole() -> Iterator[Estate]:
    with estate() as found:
        found.fo.models = ["codellama", "small"]
        yield found


@pytest.fixture
def here(whole: Estate) -> Iterator[Estate]:
    whole.reset()
    yield whole
    whole.house.command("down", "all", "--grace", "0")


def write(here: Estate, text: str) -> Path:
    file = here.house.home / "config" / "modelproxy" / "config.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    # The usual port may belong to whoever runs the tests.
    port = f"default_port = {free_port()}\n"
    file.write_text(port + text.replace("FO", here.fo.base).replace("FR", here.fr.base))
    return file


def proxyctl(
    here: Estate, *words: str, cwd: Path | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """As a user types it, in a folder and with an environment of one's own."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "modelproxy.ctl", *words],
        env={**here.house.env, **env},
        cwd=cwd or here.house.home,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_named_proxy_rolls_when_the_file_changes(here: Estate) -> None:
    """By itself; then a file with mistakes changes nothing and is told; the other proxy keeps its worker."""
    text = '[providers.ollama]\nbase_url = "FO"\n[proxies.coder]\nmodel = "ollama/codellama"\nmax_output_tokens = 50\n'
    file = write(here, text)
    row = here.house.tell("up", "coder", "--port", "0", "--json")
    other = here.house.tell("up", "echo/demo", "--port", "0", "--json")
    post(row["port"], msg(max_tokens=90))
    before = here.fo.sent["options"]["num_predict"]
    assert here.house.tell("reload", "--json")["warnings"] == []
    write(here, text.replace("50", "60"))
    changed = here.house.tell("reload", "--json")["changed"]
    post(row["port"], msg(max_tokens=90))

    assert (row["name"], row["model"], before) == ("coder", "ollama/codellama", 50)
    # The file is watched as well, so who asks may find it done.
    assert changed in (["coder"], [])
    assert here.house.wait_rolled(2, "coder")["port"] == row["port"]
    post(row["port"], msg(max_tokens=90))
    assert here.fo.sent["options"]["num_predict"] == 60
    write(here, "= =")
    refused = proxyctl(here, "reload")
    told = proxyctl(here, "ps")
    assert (refused.returncode, told.returncode) == (1, 0)
    assert f"{file}:2: not TOML" in refused.stderr
    assert "the last good one holds" in told.stderr
    assert [one["pid"] for one in here.house.ps() if one["name"] == "echo/demo"] == [other["pid"]]


def test_an_edit_that_no_supervisor_saw_is_applied_by_the_next_one(here: Estate) -> None:
    """To a worker that lived through it, which is rolled and keeps the key that came by flag; a port is told."""
    house = here.house
    text = '[providers.openrouter]\nbase_url = "FR"\n[proxies.coder]\nmodel = "openrouter/a/b"\n'
    write(here, text)
    house.tell("reload", "--json")
    row = house.tell("up", "coder", "--port", "0", "--api-key", "sk-or-by-flag", "--json")
    house.kill_supervisor()
    write(here, f"{text}max_output_tokens = 60\nport = 1\n")
    house.start()
    rolled = house.wait_rolled(row["generation"] + 1, "coder")
    answer = post(row["port"], msg(max_tokens=90))
    warning = f"coder keeps port {row['port']} until it is taken down, and the configuration says 1; "

    assert (rolled["port"], answer.status) == (row["port"], 200)
    assert here.fr.sent["max_tokens"] == 60
    assert here.fr.asked[-1].headers["authorization"] == "Bearer sk-or-by-flag"
    assert warning in proxyctl(here, "ps").stderr
    assert "coder is up on port" in proxyctl(here, "config", "validate").stderr
    assert "sk-or-by-flag" not in (house.state / "applied.json").read_text()


def test_a_daemon_with_a_broken_file_starts_and_heeds_sighup() -> None:
    """And autostart brings up what is wanted once the file is mended."""
    with House() as house:
        file = house.home / "config" / "modelproxy" / "config.toml"
        file.parent.mkdir(parents=True)
        file.write_text("= =")
        supervisor = house.start()
        assert "nothing was started by it" in house.tell("daemon", "status", "--json")["warnings"][0]
        file.write_text(f'[proxies.early]\nmodel = "echo/demo"\nport = {free_port()}\nautostart = true\n')
        os.kill(supervisor.pid, signal.SIGHUP)
        for _ in attempts():
            started = any(row["name"] == "early" and row["state"] == "ready" for row in house.ps())
            if started and not house.tell("daemon", "status", "--json").get("warnings"):
                break
        else:
            pytest.fail(f"never so: {house.ps()}")


def test_s9_s77_an_agent_finds_its_proxy(here: Estate) -> None:
    write(here, '[providers.ollama]\nbase_url = "FO"\n')
    assert proxyctl(here, "agents", "set", "code-reviewer", "ollama/codellama").returncode == 0
    found = json.loads(proxyctl(here, "agents", "ensure", "code-reviewer", "--json").stdout)
    again = json.loads(proxyctl(here, "agents", "ensure", "code-reviewer", "--json").stdout)
    answer = post(found["port"], msg())

    assert (found["useProxy"], found["reused"], again["reused"]) == (True, False, True)
    assert (again["pid"], again["proxyUrl"]) == (found["pid"], f"http://127.0.0.1:{found['port']}")
    assert answer.status == 200
    assert here.fo.sent["model"] == "codellama"


def test_s134_a_project_counts_for_what_it_may_say(here: Estate, tmp_path: Path) -> None:
    """Its aliases at once, its providers once trusted."""
    write(here, '[providers.ollama]\nbase_url = "FO"\n')
    project = tmp_path / ".modelproxy.toml"
    project.write_text(
        'aliases.mine = "ollama/small"\nproviders.ollama.base_url = "http://127.0.0.1:1"\n'
        'providers.team = { kind = "openai", base_url = "http://127.0.0.1:1/v1" }\nmodels.agents.rev = "team/m"\n'
    )
    first = proxyctl(here, "up", "mine", "--port", "0", "--json", cwd=tmp_path)
    proxyctl(here, "config", "trust", cwd=tmp_path)
    second = proxyctl(
        here, "up", "mine", "--replace", "--base-url", "http://127.0.0.1:1", "--json", cwd=tmp_path
    )

    assert "[providers.team] and what hangs on it (models.agents.rev) do not count until" in first.stderr
    row = json.loads(first.stdout)
    assert (row["model"], row["base_url"]) == ("ollama/small", here.fo.base)
    assert second.stderr == ""
    assert json.loads(second.stdout)["base_url"] == "http://127.0.0.1:1"


def sent_key(here: Estate, port: int) -> Any:
    post(port, msg())
    return here.fr.asked[-1].headers.get("authorization")


def test_s57_the_order_of_the_keys(here: Estate) -> None:
    """Flag, then variable, then the file; and none is ever written where it was not."""
    write(here, f'[providers.openrouter]\nbase_url = "FR"\napi_key = "{KEY}"\n')
    by_file = here.house.tell("up", "openrouter/a/file", "--port", "0", "--json")
    by_flag = proxyctl(
        here, "up", "openrouter/a/flag", "--port", "0", "--json", "--api-key-env", "MINE", MINE=ENV_KEY
    )

    assert sent_key(here, by_file["port"]) == f"Bearer {KEY}"
    assert sent_key(here, json.loads(by_flag.stdout)["port"]) == f"Bearer {ENV_KEY}"
    written = [path for path in here.house.home.rglob("*") if path.is_file() and path.name != "config.toml"]
    assert [path for path in written if KEY.encode() in path.read_bytes()] == []
    assert [path for path in written if ENV_KEY.encode() in path.read_bytes()] == []


def test_s57_the_shells_variable_goes_before_the_file_where_the_supervisor_has_none(here: Estate) -> None:
    """In whatever shell it runs. The key stays until it is replaced, and is in memory only."""
    write(here, f'[providers.openrouter]\nbase_url = "FR"\napi_key = "{KEY}"\n')
    up = ("up", "openrouter/a/shell", "--port", "0", "--json")
    port = json.loads(proxyctl(here, *up, OPENROUTER_API_KEY=ENV_KEY).stdout)["port"]
    assert sent_key(here, port) == f"Bearer {ENV_KEY}"
    for words in (up, ("restart", "openrouter/a/shell"), ("daemon", "restart")):
        assert proxyctl(here, *words).returncode == 0
        assert sent_key(here, port) == f"Bearer {ENV_KEY}"
    held = [
        path for path in here.house.home.rglob("*") if path.is_file() and ENV_KEY in path.read_text("latin-1")
    ]
    assert held == []
    assert ENV_KEY not in environments(here.house) + command_lines()
    proxyctl(here, *up, "--replace")

    assert sent_key(here, port) == f"Bearer {KEY}"
    proxyctl(here, *up, "--replace", OPENROUTER_API_KEY=ENV_KEY)
    assert sent_key(here, port) == f"Bearer {ENV_KEY}"


def test_the_keys_of_targets_are_nowhere_either(here: Estate) -> None:
    """What a table falls back to has its key in its worker's memory, and only there; the request gets through."""
    write(
        here,
        f'''
aliases = {{ far = "openrouter/a/b" }}
[providers.ollama]
base_url = "http://127.0.0.1:1"
[providers.openrouter]
base_url = "FR"
api_key = "{KEY}"
[proxies.coder]
model = "ollama/codellama"
fallback = ["far"]
''',
    )
    row = here.house.tell("up", "coder", "--port", "0", "--json")
    answer = post(row["port"], msg())

    assert answer.status == 200
    assert here.fr.asked[-1].headers["authorization"] == f"Bearer {KEY}"
    seen = environments(here.house) + command_lines() + json.dumps(here.house.ps())
    seen += proxyctl(here, "config", "show", "--origin").stdout + proxyctl(here, "ps", "-v").stdout
    assert KEY not in seen
    written = [path for path in here.house.home.rglob("*") if path.is_file() and path.name != "config.toml"]
    assert [path for path in written if KEY.encode() in path.read_bytes()] == []


def test_models_are_listed_by_their_providers(here: Estate) -> None:
    write(here, '[providers.ollama]\nbase_url = "FO"\n')
    listed = json.loads(proxyctl(here, "models", "list", "--provider", "ollama", "--json").stdout)
    tried = json.loads(proxyctl(here, "models", "test", "ollama/codellama", "--json").stdout)

    assert {"ollama/codellama", "ollama/small"} <= {row["id"] for row in listed}
    assert tried["ok"]
    assert "ollama/codellama" not in [row["name"] for row in here.house.ps()]


def test_a_key_that_keys_set_replaces_is_sent_from_then_on(here: Estate) -> None:
    """Whoever was refused says keys set, and nothing else."""
    write(here, '[providers.openrouter]\nbase_url = "FR"\n')

    for key, generation in ((KEY, 1), ("sk-or-a-newer-one-987654", 2)):
        done = subprocess.run(
            [sys.executable, "-P", "-m", "modelproxy.ctl", "keys", "set", "openrouter"],
            env=here.house.env,
            input=f"{key}\n",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, key in done.stdout + done.stderr) == (0, False)
        row = here.house.tell("up", "openrouter/some/model", "--port", "0", "--json")
        here.house.tell("reload", "--json")  # it is seen without, too; this does not wait for that
        here.house.wait_rolled(generation, "openrouter/some/model")
        post(row["port"], msg())
        assert here.fr.asked[-1].headers["authorization"] == f"Bearer {key}"
    (here.house.home / "config" / "modelproxy" / "keys.toml").unlink()
