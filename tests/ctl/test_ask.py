"""One message and its answer, whatever answers."""

from __future__ import annotations

import errno
import io
import json
import sys
from collections.abc import Iterator

import pytest
from fakes.control import Control, view
from fakes.house import free_port
from fakes.terminal import Run
from fakes.upstream import Reply, Upstream

from modelproxy.ctl import ask as ask_module
from modelproxy.ctl import faults

MESSAGE = {
    "type": "message",
    "content": [
        {"type": "thinking", "thinking": "hm"},
        {"type": "text", "text": "Hi "},
        {"type": "text", "text": "you"},
    ],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 3, "output_tokens": 2},
}
EVENTS = [
    {"type": "message_start", "message": {}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Hi "}},
    {"type": "ping"},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "you"}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
    {"type": "message_stop"},
]
ERROR = {"type": "error", "error": {"type": "overloaded_error", "message": "Ollama is\nbusy"}}


@pytest.fixture(autouse=True)
def nobodys_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN", "MODELPROXY_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def proxy(control: Control) -> Iterator[Upstream]:
    """What answers at the proxy's port."""
    with Upstream(lambda seen: Reply(body=json.dumps(MESSAGE).encode())) as upstream:
        port = int(upstream.url.rpartition(":")[2])
        control.proxies["echo/demo"] = view(port=port)
        yield upstream


def events(*documents: object) -> Reply:
    text = "".join(f"event: x\ndata: {json.dumps(one)}\n\n" for one in documents)
    return Reply(body=(text.encode(),), framing="chunked")


def test_the_text_is_printed_and_the_proxy_stays_as_it_was(
    run: Run, control: Control, proxy: Upstream
) -> None:
    """S83: only the text, and one line's end."""
    done = run("ask", "echo/demo", "Hello", "--system", "Be kind.", "--max-tokens", "50")
    sent = proxy.requests[0].json()

    assert (done.code, done.out, done.err) == (0, "Hi you\n", "")
    assert sent == {
        "model": "echo/demo",
        "max_tokens": 50,
        "stream": False,
        "messages": [{"role": "user", "content": "Hello"}],
        "system": "Be kind.",
    }
    assert list(control.proxies) == ["echo/demo"]


def test_an_access_token_of_the_shell_goes_along(
    run: Run, proxy: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELPROXY_TOKEN", "mp-secret")
    run("ask", "echo/demo", "Hello")
    monkeypatch.delenv("MODELPROXY_TOKEN")
    run("ask", "echo/demo", "Hello")

    assert [seen.headers.get("x-proxy-token") for seen in proxy.requests] == ["mp-secret", None]


@pytest.mark.parametrize("variable", ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"])
def test_the_callers_own_credential_goes_to_anthropic_and_to_nobody_else(
    run: Run, control: Control, proxy: Upstream, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """As a script in `run` would send it."""
    monkeypatch.setenv(variable, "sk-ant-mine")
    for name in ("anthropic/claude-sonnet-4-5", "ollama/x"):
        control.proxies[name] = view(name, port=proxy.port)
        assert run("ask", name, "Hello").code == 0
    own, other = (set(seen.headers.values()) for seen in proxy.requests)

    assert own & {"sk-ant-mine", "Bearer sk-ant-mine"}
    assert not any("sk-ant-mine" in value for value in other)


def test_without_a_credential_one_hears_what_to_set(run: Run, control: Control, proxy: Upstream) -> None:
    control.proxies["anthropic/x"] = view("anthropic/x", port=proxy.port)
    error = {"type": "authentication_error", "message": "x-api-key header is required"}
    proxy.on("/v1/messages", Reply(401, json.dumps({"type": "error", "error": error}).encode()))
    done = run("ask", "anthropic/x", "Hello")

    assert done.code == 1
    assert done.err.startswith("error: x-api-key header is required\nhint: this shell has no credential")
    assert "ANTHROPIC_API_KEY" in done.err
    assert not {"x-api-key", "authorization"} & proxy.requests[0].headers.keys()


def test_a_credential_that_is_none_is_named(
    run: Run, control: Control, proxy: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "schlüssel")
    control.proxies["anthropic/x"] = view("anthropic/x", port=proxy.port)
    done = run("ask", "anthropic/x", "Hello")

    assert (done.code, done.err.count("\n")) == (2, 1)
    assert done.err.startswith("error: ANTHROPIC_API_KEY ")


@pytest.mark.parametrize(
    ("config", "argv", "named"),
    [
        ("", ["front", "Hello", "--model", "claude-sonnet-4-5"], "claude-sonnet-4-5"),
        ('models.default = "echo/x"', ["front", "Hello"], "echo/x"),
        ('models.default = "echo/x"', ["front", "Hello", "--model", "local"], "local"),
        ('models.default = "claude"\nfront.default.otherwise = "echo/y"', ["front", "Hello"], "echo/y"),
        ('front.work.otherwise = "echo/z"', ["front/work", "Hello"], "echo/z"),
        ("", ["echo/demo", "Hello", "--model", "m"], "m"),
    ],
)
def test_the_front_door_goes_by_the_model_that_is_named(
    run: Run, control: Control, proxy: Upstream, config: str, argv: list[str], named: str
) -> None:
    """What is said, else the user's own default, else where this door leads."""
    control.paths.config.mkdir(parents=True)
    control.paths.config_file.write_text(config)
    for door in ("front", "front/work"):
        control.proxies[door] = view(door, port=proxy.port, provider="front")

    assert run("ask", *argv).code == 0
    assert proxy.requests[0].json()["model"] == named


@pytest.mark.parametrize(
    ("config", "argv"), [("", []), ('models.default = "claude"', []), ("", ["--model", " "])]
)
def test_a_front_door_without_a_name_to_go_by_is_not_asked(
    run: Run, control: Control, proxy: Upstream, config: str, argv: list[str]
) -> None:
    """Anthropic has no model called front. Said before anything is brought up."""
    control.paths.config.mkdir(parents=True)
    control.paths.config_file.write_text(config)
    done = run("ask", "front", "Hello", *argv)

    assert done.code == 2
    assert "proxyctl ask front --model" in done.err
    assert not control.asked


def test_json_is_the_message_itself(run: Run, proxy: Upstream) -> None:
    """S84, S88."""
    assert run("ask", "echo/demo", "Hello", "--json").json == MESSAGE


def test_a_stream_is_printed_as_it_comes(run: Run, proxy: Upstream) -> None:
    proxy.on("/v1/messages", events(*EVENTS))
    assert run("ask", "echo/demo", "Hello", "--stream").out == "Hi you\n"

    done = run("ask", "echo/demo", "Hello", "--stream", "--json")
    assert [json.loads(line) for line in done.out.splitlines()] == EVENTS


@pytest.mark.parametrize("words", [[], ["--stream"], ["--stream", "--json"]])
def test_whoever_reads_it_may_have_enough(
    run: Run, proxy: Upstream, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    """`ask … | head -1`: no failure, and none of the proxy's."""
    if words:
        proxy.on("/v1/messages", events(*EVENTS))

    def gone(_: str) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(faults, "_forget_stdout", lambda: None)  # it is the test run's own
    monkeypatch.setattr(ask_module, "say_part", gone)
    monkeypatch.setattr(ask_module, "say_json", gone)
    done = run("ask", "echo/demo", "Hello", *words)

    assert (done.code, done.err) == (0, "")


def test_the_message_may_come_from_a_pipe(run: Run, proxy: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("a diff\n"))
    assert run("ask", "echo/demo", "-").code == 0
    assert proxy.requests[0].json()["messages"][0]["content"] == "a diff\n"

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff"), encoding="utf-8"))
    assert "not UTF-8" in run("ask", "echo/demo", "-").err
    monkeypatch.setattr(sys, "stdin", None)
    assert "no standard input" in run("ask", "echo/demo", "-").err
    assert run("ask", "echo/demo", " ").code == 2


@pytest.mark.parametrize(
    ("reply", "words", "message"),
    [
        (Reply(529, json.dumps(ERROR).encode()), [], "Ollama is busy"),
        (Reply(500, b"<html>"), [], "status 500"),
        (Reply(500, b'{"error": "text"}'), [], "status 500"),
        (Reply(body=b"not json"), [], "echo/demo did not answer: what came is no answer"),
        (
            Reply(body=b'{"content": [], "stop_reason": "max_tokens"}'),
            [],
            "without any text (stop_reason max_tokens)",
        ),
        (events(*EVENTS[:3], ERROR), ["--stream"], "Ollama is busy"),
        (events(*EVENTS[:3]), ["--stream"], "broke off before its end"),
    ],
)
def test_a_failure_is_one_line(
    run: Run, proxy: Upstream, reply: Reply, words: list[str], message: str
) -> None:
    """S85: exit code 1, in the provider's words where there are any."""
    proxy.on("/v1/messages", reply)
    done = run("ask", "echo/demo", "Hello", *words)

    assert (done.code, done.err.count("\n")) == (1, 1)
    assert message in done.err


def test_a_failure_is_json_where_that_was_asked_for(run: Run, proxy: Upstream) -> None:
    proxy.on("/v1/messages", Reply(529, json.dumps(ERROR).encode()))
    done = run("ask", "echo/demo", "Hello", "--json")

    assert (done.code, done.json["error"]["code"]) == (1, "overloaded_error")


def test_nobody_at_the_port_is_a_sentence(run: Run, control: Control) -> None:
    control.proxies["echo/demo"] = view(port=free_port())
    done = run("ask", "echo/demo", "Hello")

    assert (done.code, done.err) == (1, "error: echo/demo did not answer: Connection refused\n")
