"""`anthropic` and `api = "anthropic"` from outside: bytes pass as they are (issue 3)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anthropic
import pytest
from fakes import grammar
from fakes.house import Stream, ask, assert_error, free_port
from fakes.upstream import Reply

from .providers import SDK_LIMIT_S, Estate, held, msg, post

pytestmark = pytest.mark.slow

SAMPLES = Path(__file__).resolve().parents[1] / "cases" / "samples"
MODES = pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
OWN = "sk-ant-oat01-of-the-caller"
CONFIG = """
[providers.native]
kind = "openrouter"
api = "anthropic"
base_url = "{fa}"
api_key = "sk-native-key-of-the-house"

[providers.hasty]
kind = "anthropic"
base_url = "{fa}"
first_byte_timeout = "500ms"
"""


@MODES
def test_s38_s40_body_headers_query_and_answer_are_untouched(here: Estate, streamed: bool) -> None:
    here.fa.say("an ", "answer ", "é漢")
    body = msg(stream=streamed, a_field_of_tomorrow={"z": 1, "a": 1.0})
    sent = json.dumps(body, indent=1, ensure_ascii=False).encode()
    headers = {
        "content-type": "application/json",
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "context-1m-2025-08-07,interleaved-thinking-2025-05-14",
        "authorization": f"Bearer {OWN}",
        "x-app": "cli",
    }
    answer = ask(here.anthropic, "POST", "/v1/messages?beta=true", sent, headers)
    [seen] = here.fa.asked

    assert seen.body == sent
    assert seen.target == "/v1/messages?beta=true"
    assert {name: seen.headers[name] for name in headers} == headers
    assert answer.status == 200
    assert answer.body == (b"".join(here.fa.streamed()) if streamed else here.fa.whole())
    assert answer.headers["request-id"] == "req_far_away"
    if streamed:
        assert answer.headers["anthropic-ratelimit-requests-remaining"] == "7"


@pytest.mark.parametrize("header", ["x-api-key", "authorization"])
def test_section4_the_callers_own_credential_passes(here: Estate, header: str) -> None:
    value = OWN if header == "x-api-key" else f"Bearer {OWN}"
    ask(here.anthropic, "POST", "/v1/messages", msg(), {"content-type": "application/json", header: value})

    assert here.fa.asked[-1].headers[header] == value
    assert len({"x-api-key", "authorization"} & set(here.fa.asked[-1].headers)) == 1


def test_section4_another_provider_never_sees_it(here: Estate) -> None:
    own = {"content-type": "application/json", "authorization": f"Bearer {OWN}", "x-api-key": OWN}
    assert ask(here.up("native/model"), "POST", "/v1/messages", msg(), own).status == 200
    [seen] = here.fa.asked

    assert OWN not in json.dumps(seen.headers)
    assert "sk-native-key-of-the-house" in json.dumps(seen.headers)
    assert seen.json() == msg(model="model")


def test_s126_only_the_models_name_is_changed(here: Estate) -> None:
    body = json.dumps(msg(model="claude-opus-4-1"), indent=3).encode()
    answer = post(here.anthropic, body.decode())

    assert here.fa.asked[-1].body == body.replace(b"claude-opus-4-1", b"claude-sonnet-4-5")
    assert answer.headers["x-proxy-model"] == "anthropic/claude-sonnet-4-5"


@MODES
@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 529])
def test_section2_its_own_errors_pass(here: Estate, streamed: bool, status: int) -> None:
    error = {"type": "error", "error": {"type": "some_error", "message": "its own words"}, "request_id": "r"}
    body = json.dumps(error, indent=1).encode()
    headers = (("content-type", "application/json"), ("retry-after", "7"), ("request-id", "req_far"))
    here.fa.instead(Reply(status, body, headers=headers))
    answer = post(here.anthropic, msg(stream=streamed))

    assert (answer.status, answer.body) == (status, body)
    assert (answer.headers["retry-after"], answer.headers["request-id"]) == ("7", "req_far")
    assert here.usage("--limit", "1")[-1]["status"] == status


SSE = (("content-type", "text/event-stream"),)


@pytest.mark.parametrize("how", ["no end", "cut", "empty"])
def test_section2_a_cut_stream_is_an_error(here: Estate, how: str) -> None:
    pieces = here.fa.streamed()[:4]
    replies = {
        "no end": Reply(body=pieces, headers=SSE, framing="chunked"),
        "cut": Reply(body=(*pieces, b"x" * 99), headers=SSE, framing="chunked", cut_after=held(pieces)),
        "empty": Reply(headers=SSE, framing="chunked"),
    }
    here.fa.instead(replies[how])
    answer = post(here.anthropic, msg(stream=True))
    row = here.usage("--limit", "1")[-1]

    if how == "empty":
        assert_error(answer, 500, "api_error", "Anthropic")
    else:
        said = grammar.check(answer.body)
        assert answer.body.startswith(b"".join(pieces))
        assert said.error is not None
        assert said.error["error"]["type"] == "api_error"
    assert (row["status"], row["error_type"], row["stop_reason"]) == (500, "api_error", None)


def test_section2_a_plain_answer_that_breaks_off_is_an_error(here: Estate) -> None:
    here.fa.instead(Reply(body=here.fa.whole(), cut_after=20))

    assert_error(post(here.anthropic, msg()), 500, "api_error", "Anthropic")


@MODES
def test_s69_nothing_comes(here: Estate, streamed: bool) -> None:
    here.fa.instead(Reply(hang=True))
    answer = post(here.up("hasty/x"), msg(stream=streamed))
    here.fa.wait_for_close(here.fa.asked[-1].connection)

    assert_error(answer, 504, "timeout_error", "within 0.5s", "first_byte_timeout")


def test_s70_nobody_is_there(here: Estate) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    answer = post(here.up("anthropic/gone", "--base-url", url), msg())

    assert_error(answer, 503, "api_error", "Anthropic", url)
    assert answer.headers["x-should-retry"] == "false"


def test_section2_the_houses_key_is_refused(here: Estate) -> None:
    """Not the caller's: as a 401 it would send a person to log in."""
    here.fa.instead(Reply(401, b'{"type":"error","error":{"type":"authentication_error","message":"no"}}'))
    answer = post(here.up("native/model"), msg())

    assert_error(answer, 403, "permission_error", "native")
    assert answer.headers["x-should-retry"] == "false"
    assert b"sk-native" not in answer.body


def test_s69_a_client_that_leaves_frees_the_provider(here: Estate) -> None:
    here.fa.say(*["word "] * 1000, pause=0.05)
    reading = Stream(here.anthropic, "Hello")
    reading.read_until(b"content_block_delta")
    reading.close()

    here.fa.wait_for_close(here.fa.asked[-1].connection, 3.0)


@MODES
def test_s81_s106_the_ledgers_row(here: Estate, streamed: bool) -> None:
    headers = {"content-type": "application/json", "authorization": f"Bearer {OWN}"}
    ask(here.anthropic, "POST", "/v1/messages", msg(stream=streamed), headers)
    row = here.usage("--limit", "1")[-1]

    assert (row["provider"], row["model"], row["stream"]) == ("anthropic", "claude-sonnet-4-5", streamed)
    assert (row["status"], row["stop_reason"], row["request_id"]) == (200, "end_turn", "req_far_away")
    assert (row["input_tokens"], row["output_tokens"], row["tokens_estimated"]) == (21, 7, False)
    assert (row["cost_usd"], row["cost_source"]) == (None, "subscription")


def test_s142_s143_counting_and_models_are_the_providers(here: Estate) -> None:
    here.fa.on("/v1/messages/count_tokens", Reply(body=b'{"input_tokens": 4711}'))
    here.fa.on("/v1/models", Reply(body=b'{"data":[], "has_more":false}'))
    counted = post(here.anthropic, msg(), "/v1/messages/count_tokens")
    listed = ask(here.anthropic, "GET", "/v1/models?limit=1000", None, {"anthropic-version": "2023-06-01"})
    here.fa.on("/v1/models")

    assert counted.body == b'{"input_tokens": 4711}'
    assert listed.body == b'{"data":[], "has_more":false}'
    assert here.fa.to("/v1/models")[-1].target == "/v1/models?limit=1000"


def test_s04_the_sdk_plain_and_streamed(here: Estate) -> None:
    request: Any = msg(model="claude-x")
    with anthropic.Anthropic(
        base_url=f"http://127.0.0.1:{here.anthropic}",
        api_key="sk-ant-api03-mine",
        max_retries=0,
        timeout=SDK_LIMIT_S,
    ) as client:
        plain = client.messages.create(**request)
        with client.messages.stream(**request) as streaming:
            pieces = list(streaming.text_stream)

    assert plain.content[0].to_dict()["text"] == "Hello"
    assert pieces == ["Hel", "lo"]
    assert "sk-ant-api03-mine" in json.dumps(here.fa.asked[-1].headers)


@MODES
@pytest.mark.parametrize("name", sorted(path.name for path in SAMPLES.glob("*.json")))
def test_s06_requests_of_real_agents_pass(here: Estate, streamed: bool, name: str) -> None:
    found = json.loads((SAMPLES / name).read_text())
    body = found.get("body", found) | {"stream": streamed}
    answer = post(here.anthropic, body)
    sent = here.fa.asked[-1].json()

    assert answer.status == 200
    assert sent["model"] == "claude-sonnet-4-5"
    assert {key: sent[key] for key in sent if key not in ("model", "messages")} == {
        key: body[key] for key in body if key not in ("model", "messages")
    }
    assert len(sent["messages"]) == len(body["messages"])
