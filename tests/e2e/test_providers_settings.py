"""Providers from the configuration, their keys, and what `up` says of them (issue 3)."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import grammar
from fakes.house import Stream, ask, free_port, get, post, workers_of
from fakes.upstream import Reply

from .providers import Estate, error_of, estate, message_of, msg
from .test_secrets import command_lines, environments

pytestmark = pytest.mark.slow

CONFIG_KEY = "sk-work-key-of-the-configuration-42"
CONFIG = """
[providers.ollama]
base_url = "{fo}"
keep_alive = "20m"

[providers.ollama.think]
"qwen3.6:35b-a3b" = false

[providers.small]
kind = "ollama"
base_url = "{fo}"
num_ctx = 4096

[providers.seeing]
kind = "ollama"
base_url = "{fo}"
tool_images = "inline"

[providers.described]
kind = "ollama"
base_url = "{fo}"
capabilities = ["vision"]
tools_unsupported = "prompt"

[providers.bare]
kind = "openai"
base_url = "{fr}"
tools_unsupported = "strip"

[providers.lively]
kind = "openai"
base_url = "{fr}"
tool_stream = "live"

[providers.work]
kind = "openai"
base_url = "{fr}"
api_key = "sk-work-key-of-the-configuration-42"
headers = { "x-team" = "blue" }

[providers.mybox]
kind = "openai"
base_url = "{fr}"

[providers.picked]
kind = "ollama"
base_url = "{fo}"
picker_alias = { "model" = "claude-of-mine" }

[providers.quiet]
kind = "openrouter"
base_url = "{fr}"
api_key = "sk-work-key-of-the-configuration-42"
headers = { "HTTP-Referer" = "", "X-Title" = "my own app" }

[providers.native]
kind = "openai"
api = "anthropic"
base_url = "{fa}"
api_key = "sk-work-key-of-the-configuration-42"
"""


@pytest.fixture(scope="module")
def whole() -> Iterator[Estate]:
    with estate(CONFIG) as found:
        found.fo.models = ["codellama", "qwen3.6:35b-a3b", "model"]
        yield found


# --- providers of the configuration ---------------------------------------------------------------


def test_s24_a_provider_of_the_configuration(here: Estate) -> None:
    answer = post(here.up("work/some-model"), msg())
    [seen] = here.fr.asked

    assert answer.status == 200
    assert answer.json["content"][0]["text"] == "Hello"
    assert answer.headers["x-proxy-model"] == "work/some-model"
    assert seen.json()["model"] == "some-model"
    assert seen.headers["authorization"] == f"Bearer {CONFIG_KEY}"
    assert seen.headers["x-team"] == "blue"
    assert here.house.row("work/some-model")["provider"] == "work"


def test_s24_a_box_of_ones_own_needs_no_key(here: Estate) -> None:
    assert post(here.up("mybox/foo"), msg()).status == 200
    assert "authorization" not in here.fr.asked[-1].headers


@pytest.mark.parametrize("streamed", [False, True])
def test_s24_a_server_that_speaks_messages_is_passed_through(here: Estate, streamed: bool) -> None:
    answer = post(here.up("native/model"), msg(stream=streamed))

    assert answer.status == 200
    assert answer.body == (b"".join(here.fa.streamed()) if streamed else here.fa.whole())
    assert here.fa.asked[-1].json() == msg(model="model", stream=streamed)
    assert here.fr.asked == []


def test_s133_s134_thinking_by_model_and_the_address_of_the_configuration(here: Estate) -> None:
    wish = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 4000}
    assert post(here.up("ollama/qwen3.6:35b-a3b"), msg(**wish)).status == 200
    named = here.fo.sent
    assert post(here.up("ollama/codellama"), msg()).status == 200
    other = here.fo.sent

    assert (named["model"], named["think"], named["keep_alive"]) == ("qwen3.6:35b-a3b", False, "20m")
    assert other["model"] == "codellama"
    assert "think" not in other


def test_p14_pictures_of_a_result_where_the_configuration_wants_them(here: Estate) -> None:
    png = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0K"}}
    call = {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {}}
    messages = [
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": [png]}]},
    ]
    assert post(here.up("seeing/model"), msg(messages=messages)).status == 200
    kept = here.fo.sent["messages"][2:]
    assert post(here.up("ollama/codellama"), msg(messages=messages)).status == 200
    lifted = here.fo.sent["messages"][2:]

    assert [(one["role"], one.get("images")) for one in kept] == [("tool", ["iVBORw0K"])]
    assert [(one["role"], one.get("images")) for one in lifted] == [("tool", None), ("user", ["iVBORw0K"])]


BASH = {"name": "Bash", "input_schema": {"type": "object"}}


@pytest.mark.parametrize("streamed", [False, True])
def test_section15_tools_in_words_for_a_model_that_has_none(here: Estate, streamed: bool) -> None:
    """The call is cut in the middle of its tags, and a client is sent a real one all the same."""
    call = '<tool_call>\n{"name": "Bash", "arguments": {"command": "ls"}}\n</tool_call>'
    here.fo.say("Let me ", "look.\n", *(call[at : at + 7] for at in range(0, len(call), 7)))
    port = here.up("described/model")
    answer = post(port, msg(tools=[BASH], stream=streamed))
    message = message_of(port, msg(tools=[BASH]), streamed=streamed)
    [text, used] = message["content"]
    result = {"type": "tool_result", "tool_use_id": used["id"], "content": "a.txt"}
    turns = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": message["content"]},
        {"role": "user", "content": [result]},
    ]
    here.fo.say("One file.")
    last = message_of(port, msg(tools=[BASH], messages=turns), streamed=streamed)

    assert answer.headers["x-proxy-tools"] == "prompt"
    assert text == {"type": "text", "text": "Let me look."}
    assert (used["name"], used["input"], message["stop_reason"]) == ("Bash", {"command": "ls"}, "tool_use")
    assert "tools" not in here.fo.sent
    assert "# Tools" in here.fo.sent["messages"][0]["content"]
    assert here.fo.sent["messages"][-1]["content"] == '<tool_result name="Bash">\na.txt\n</tool_result>'
    assert last["content"] == [{"type": "text", "text": "One file."}]
    assert "tools described in the system text" in here.house.command("logs", "described/model").stdout


def test_section15_tools_that_a_server_refuses_are_left_out_where_that_is_wanted(here: Estate) -> None:
    """It is found out once; whoever has chosen nothing is told."""
    error = {"error": {"message": "tools param requires --jinja flag", "code": 500}}
    refusal = Reply(500, json.dumps(error).encode())
    here.fr.instead(refusal)
    refused = post(here.up("mybox/foo"), msg(tools=[BASH]))
    here.fr.instead(refusal, Reply(body=json.dumps(here.fr.whole(here.fr.said)).encode()))
    first = post(here.up("bare/foo"), msg(tools=[BASH]))
    asked = [seen.json() for seen in here.fr.asked[1:]]
    here.fr.instead()
    second = post(here.up("bare/foo"), msg(tools=[BASH], stream=True))

    assert refused.status >= 400
    assert ["tools" in body for body in asked] == [True, False]
    assert (first.status, first.headers["x-proxy-tools"]) == (200, "strip")
    assert (second.status, second.headers["x-proxy-tools"]) == (200, "strip")
    assert "tools" not in here.fr.sent
    assert "tools left out: 1" in here.house.command("logs", "bare/foo").stdout
    assert counted(here.up("bare/foo"), []) == counted(here.up("bare/foo"), [BASH] * 9)


def counted(port: int, tools: list[Any]) -> int:
    answer = post(port, msg(tools=tools), path="/v1/messages/count_tokens")
    tokens: int = answer.json["input_tokens"]
    return tokens


def test_section12_arguments_reach_the_client_while_the_provider_still_writes_them(here: Estate) -> None:
    here.fr.say("Look.", calls=(("Bash", {"command": "ls", "path": "/tmp"}), ("Bash", {"command": "pwd"})))
    pieces = here.fr.streamed(here.fr.said)
    gate = threading.Semaphore(0)
    sse = (("content-type", "text/event-stream"),)
    here.fr.instead(Reply(body=pieces, headers=sse, framing="chunked", gate=gate))
    gate.release(next(at for at, one in enumerate(pieces) if b"arguments" in one))
    reading = Stream(here.up("lively/model"), "hi")
    reading.read_until(b"input_json_delta")
    early = grammar.check(reading.seen.rpartition(b"event: ")[0], may_be_unfinished=True)
    gate.release(len(pieces))
    said = grammar.check(reading.rest())

    assert early.names[-1] == "content_block_start"
    assert said.message is not None
    assert [block.get("input") for block in said.message["content"]] == [
        None,
        {"command": "ls", "path": "/tmp"},
        {"command": "pwd"},
    ]
    assert said.message["stop_reason"] == "tool_use"


def test_section12_what_went_live_and_is_no_object_is_an_error(here: Estate) -> None:
    """The same answer to a request that wants no stream is repaired as ever."""
    here.fr.say("Look.", calls=(("Bash", '{"command": "ls",}'),))
    port = here.up("lively/model")
    error = error_of(port, msg(), streamed=True)["error"]
    repaired = message_of(port, msg(), streamed=False)

    assert error["type"] == "api_error"
    assert "cannot be repaired (tool_stream)" in error["message"]
    assert repaired["content"][1]["input"] == {"command": "ls"}


def test_s134_a_project_cannot_redirect_traffic(here: Estate, tmp_path: Path) -> None:
    (tmp_path / ".modelproxy.toml").write_text('[providers.ollama]\nbase_url = "http://127.0.0.1:9"\n')
    words = ("up", "ollama/codellama", "--port", "0", "--json")
    with here.house.running(*words, cwd=tmp_path) as process:
        said, _ = process.communicate(timeout=60)
    view = json.loads(said)

    assert process.returncode == 0
    assert post(view["port"], msg()).status == 200
    assert len(here.fo.asked) == 1


def test_s26_a_provider_that_is_no_more(here: Estate) -> None:
    error = here.house.tell("up", "removed/x", "--json", code=2)["error"]

    assert 'Unsupported provider "removed"' in error["message"]


def test_s73_our_name_can_be_changed_and_left_out(here: Estate) -> None:
    assert post(here.up("quiet/model"), msg()).status == 200
    [seen] = here.fr.asked

    assert seen.headers["x-title"] == "my own app"
    assert not seen.headers.get("http-referer")


def test_s143_the_pickers_id_can_be_chosen(here: Estate) -> None:
    listed = get(here.up("picked/model"), "/v1/models?limit=1000").json
    answer = post(here.up("picked/model"), msg(model="claude-of-mine"))

    assert "claude-of-mine" in [one["id"] for one in listed["data"]]
    assert (answer.status, answer.json["model"]) == (200, "claude-of-mine")
    assert here.fo.sent["model"] == "model"


# --- what `up` says -------------------------------------------------------------------------------


def test_s19_s37_an_unknown_provider(here: Estate) -> None:
    before, workers = here.house.ps(), sorted(workers_of(here.house))
    error = here.house.tell("up", "olama/x", "--json", code=2)["error"]
    done = here.house.command("up", "nope/x")

    assert 'Unsupported provider "olama"' in error["message"]
    assert '"ollama"' in error["message"]
    for name in ("ollama", "openrouter", "openai", "anthropic", "work"):
        assert name in error["hint"]
    assert done.returncode == 2
    assert 'Unsupported provider "nope"' in done.stderr
    assert [row["name"] for row in here.house.ps()] == [row["name"] for row in before]
    assert sorted(workers_of(here.house)) == workers


@pytest.mark.parametrize(
    ("provider", "variable"), [("openrouter", "OPENROUTER_API_KEY"), ("openai", "OPENAI_API_KEY")]
)
def test_s23_a_missing_key_is_refused(here: Estate, provider: str, variable: str) -> None:
    workers = sorted(workers_of(here.house))
    error = here.house.tell("up", f"{provider}/x", "--port", "0", "--json", code=1)["error"]

    assert error["code"] == "missing_api_key"
    said = error["message"] + error["hint"]
    assert provider in said
    for way in (variable, "--api-key", f"[providers.{provider}]"):
        assert way in said
    assert sorted(workers_of(here.house)) == workers


def test_s22_ollama_needs_no_key(here: Estate) -> None:
    assert here.up("ollama/codellama") > 0


def test_s21_the_flag_wins_over_the_configuration(here: Estate) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = here.house.command("up", "ollama/elsewhere", "--base-url", url, "--port", "0")

    assert done.returncode == 0
    assert "ollama/elsewhere" in done.stdout
    [warning] = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert url in warning
    assert "ollama serve" in warning


def test_section4_up_warns_of_a_model_that_is_not_pulled(here: Estate) -> None:
    done = here.house.command("up", "ollama/not-there", "--port", "0")

    assert done.returncode == 0
    assert "warning: " in done.stderr
    assert "ollama pull not-there" in done.stderr


def test_section4_up_and_health_warn_of_a_hopeless_window(here: Estate) -> None:
    done = here.house.command("up", "small/model", "--port", "0")
    seen = get(here.house.row("small/model")["port"], "/health")

    assert done.returncode == 0
    assert "warning: the context window of 4096 tokens is too small" in done.stderr
    assert seen.status == 200
    assert "4096" in seen.json["warnings"][0]


def test_section4_up_of_a_healthy_provider_warns_of_nothing(here: Estate) -> None:
    done = here.house.command("up", "ollama/model", "--port", "0")

    assert done.returncode == 0
    assert "warning" not in done.stderr


def test_p29_up_says_the_window_which_claude_code_would_take_for_a_million(here: Estate) -> None:
    done = here.house.command("up", "small/model", "--port", "0")
    url = here.house.row("small/model")["url"]

    assert done.stdout.splitlines()[1:] == [
        f"export ANTHROPIC_BASE_URL={url}",
        "export CLAUDE_CODE_MAX_CONTEXT_TOKENS=4096 CLAUDE_CODE_DISABLE_1M_CONTEXT=1",
    ]


def test_s21_tls_is_not_given_up(here: Estate) -> None:
    """The first byte that an https address gets is a TLS handshake's."""
    first: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)

        def accept() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client:
                    client.settimeout(20)
                    first.append(client.recv(3))

        thread = threading.Thread(target=accept)
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        answer = post(here.up("ollama/secure", "--base-url", url, "--no-wait"), msg())
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(20)

    assert first
    assert {one[:2] for one in first} == {b"\x16\x03"}
    assert answer.status >= 500


# --- keys -----------------------------------------------------------------------------------------


def test_s20_s32_the_key_is_nowhere_after_all_kinds_of_answers(here: Estate) -> None:
    """Also when the provider quotes it, in a refusal or in the middle of a stream."""
    key = "sk-or-v1-" + os.urandom(16).hex()
    done = here.house.command(
        "up", "openrouter/x", "--base-url", here.fr.base, "--api-key", key, "--port", "0", "--json"
    )
    port = json.loads(done.stdout)["port"]
    said = [done.stdout.encode(), done.stderr.encode()]
    said.append(post(port, msg()).body)
    assert here.fr.asked[-1].headers["authorization"] == f"Bearer {key}"
    error = {"error": {"code": 401, "message": f"bad key {key}", "metadata": {"raw": f"Bearer {key}"}}}
    here.fr.instead(Reply(401, json.dumps(error).encode()))
    said.append(post(port, msg()).body)
    here.fr.instead(Reply(500, f"<p>{key}</p>".encode(), headers=(("content-type", "text/html"),)))
    said.append(post(port, msg(stream=True)).body)
    in_stream = b"data: " + json.dumps(error | {"choices": []}).encode() + b"\n\n"
    here.fr.instead(Reply(body=in_stream, headers=(("content-type", "text/event-stream"),)))
    said.append(post(port, msg(stream=True)).body)
    here.fr.on("/api/v1/key", Reply(401, json.dumps(error).encode()))
    said.append(get(port, "/health").body)
    said.append(get(port, "/v1/models").body)
    here.fr.on("/api/v1/key")
    for words in (["ps", "--json"], ["ps", "-a", "-v"], ["events", "--json"], ["usage", "--json"]):
        done = here.house.command(*words)
        said += [done.stdout.encode(), done.stderr.encode()]
    done = here.house.command("logs", "openrouter/x", "-n", "1000")
    said += [done.stdout.encode(), done.stderr.encode()]
    files = [path.read_bytes() for path in here.house.home.rglob("*") if path.is_file()]

    assert any(b"openrouter/x" in file for file in files)
    for text in (*said, *files):
        assert key.encode() not in text
    assert key not in command_lines()
    assert key not in environments(here.house)


def test_s24_a_key_of_the_configuration_stays_there(here: Estate) -> None:
    post(here.up("work/some-model"), msg())
    config = here.house.home / "config"
    files = [p for p in here.house.home.rglob("*") if p.is_file() and config not in p.parents]

    assert files
    for path in files:
        assert CONFIG_KEY.encode() not in path.read_bytes(), path
    assert CONFIG_KEY not in command_lines()
    assert CONFIG_KEY not in environments(here.house)


def test_s73_nobody_but_anthropic_gets_the_callers_credential(here: Estate) -> None:
    own = {
        "content-type": "application/json",
        "authorization": "Bearer sk-ant-own-1",
        "x-api-key": "sk-ant-own-2",
    }
    for model in ("ollama/codellama", "work/some-model", "mybox/foo", "native/model"):
        assert ask(here.up(model), "POST", "/v1/messages", msg(), own).status == 200
    everything = [*here.fo.requests, *here.fr.requests, *here.fa.requests]

    assert len(everything) >= 4
    for seen in everything:
        assert "sk-ant-own" not in json.dumps(seen.headers) + seen.body.decode()
    files = [path.read_bytes() for path in here.house.home.rglob("*") if path.is_file()]
    assert not any(b"sk-ant-own" in file for file in files)


def test_s13_s16_echo_comes_from_the_same_factory(here: Estate) -> None:
    answer = post(here.up("echo/demo"), msg("one two"))

    assert answer.json["content"] == [{"type": "text", "text": "one two"}]


def test_s10_s107_the_table_of_usage_shows_zero(here: Estate) -> None:
    post(here.up("ollama/codellama"), msg())

    assert "$0.00" in here.house.command("usage", "ollama/codellama").stdout
