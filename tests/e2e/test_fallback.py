"""A request whose provider fails goes elsewhere: real commands, a real worker, fakes in place of providers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import grammar
from fakes.house import ask, attempts, get
from fakes.upstream import Reply

from .providers import PROVIDERS, Estate, msg, post

pytestmark = pytest.mark.slow

CONFIG = PROVIDERS
# As no library would write it: what was parsed on the way would come out differently.
RAW = (
    b'{ "max_tokens":100,"model" : "claude-sonnet-4-5",  "a_new_field":[1.0e2,"\\u00e9"],\n'
    b'"messages":[{"content":"Hello","role":"user"}]}'
)
CALLER = {
    "content-type": "application/json",
    "anthropic-version": "2023-06-01",
    "anthropic-beta": "some-beta-2026-01-01,other",
    "authorization": "Bearer sk-ant-oat01-of-the-caller",
    "x-api-key": "sk-ant-api03-of-the-caller",
}
BUSY = Reply(503, b'{"error":"busy"}')


@pytest.fixture
def home(whole: Estate) -> Iterator[Estate]:
    """For one test: nobody was asked yet, no row is written, everybody is well."""
    whole.reset()
    yield whole
    whole.house.command("down", "all")
    whole.ports.clear()
    if whole.fo.is_stopped:
        whole.fo.start()


def the_row(home: Estate) -> dict[str, Any]:
    row: dict[str, Any] = home.usage()[-1]
    return row


def counted(home: Estate, *, more_than: int = -1) -> tuple[int, int]:
    """Requests and fallbacks as `ps` counts them, once it knows of so many requests and all are answered."""
    for _ in attempts():
        [view] = home.house.tell("ps", "--json")
        if view["requests"] > more_than and view["in_flight"] == 0:
            return view["requests"], view["fallbacks"]
    raise AssertionError(f"ps never knew of more than {more_than} requests")


def logged(home: Estate, event: str) -> list[str]:
    [view] = home.house.tell("ps", "--json")
    return [line for line in Path(view["log"]).read_text().splitlines() if f" {event} " in line]


@pytest.mark.parametrize("streamed", [False, True])
def test_s11a_the_callers_own_request_reaches_anthropic(home: Estate, streamed: bool) -> None:
    """S11 (a), S80: byte for byte, with the caller's credentials; header, ledger, log and `ps` say so."""
    port = home.up("ollama/codellama", "--fallback", "anthropic")
    requests, fallbacks = counted(home)
    home.fo.stop()
    raw = RAW.replace(b"{", b'{"stream":true,', 1) if streamed else RAW
    answer = ask(port, "POST", "/v1/messages?beta=true", raw, CALLER)
    [seen] = home.fa.asked
    row = the_row(home)

    assert (answer.status, answer.body) == (
        200,
        b"".join(home.fa.streamed()) if streamed else home.fa.whole(),
    )
    assert answer.headers["x-proxy-fallback"] == "anthropic"
    assert answer.headers["x-proxy-model"] == "anthropic/claude-sonnet-4-5"
    assert (seen.body, seen.target) == (raw, "/v1/messages?beta=true")
    assert {name: seen.headers.get(name) for name in CALLER} == CALLER
    assert (row["fallback"], row["fallback_reason"]) == (True, "ollama/codellama: refused")
    assert (row["provider"], row["model"], row["route"]) == (
        "anthropic",
        "claude-sonnet-4-5",
        "ollama/codellama",
    )
    assert (row["status"], row["retry_count"], row["cost_source"]) == (200, 1, "subscription")
    assert counted(home, more_than=requests) == (requests + 1, fallbacks + 1)
    line = logged(home, "fallback")[-1]
    assert "failed=ollama/codellama to=anthropic cause=refused" in line


def test_s11b_without_a_target_nobody_else_is_asked(home: Estate) -> None:
    """S11 (b), S70: the error of the provider, and not a byte to anybody else."""
    port = home.up("ollama/codellama")
    requests, fallbacks = counted(home)
    home.fo.stop()
    answer = post(port, msg())

    assert answer.status == 503
    assert "ollama serve" in answer.json["error"]["message"]
    assert "x-proxy-fallback" not in answer.headers
    assert home.fa.asked == []
    assert not the_row(home)["fallback"]
    assert counted(home, more_than=requests) == (requests + 1, fallbacks)
    assert "targets" not in get(port, "/health").json


@pytest.mark.parametrize("streamed", [False, True])
def test_a_chain_over_dialects_and_what_it_leaves_behind(home: Estate, streamed: bool) -> None:
    """Each target in its own words and with its own key; the caller's credential stays here."""
    port = home.up(
        "ollama/codellama", "--fallback", "openrouter/a/b", "--fallback", "anthropic/claude-opus-4"
    )
    home.fo.instead(BUSY)
    home.fr.instead(Reply(402, b'{"error":{"message":"no credit","code":402}}'))
    answer = ask(port, "POST", "/v1/messages", msg(stream=streamed), CALLER)
    [router], [opus] = home.fr.asked, home.fa.asked

    assert (answer.status, answer.headers["x-proxy-fallback"]) == (200, "anthropic/claude-opus-4")
    assert answer.headers["x-proxy-model"] == "anthropic/claude-opus-4"
    assert router.headers["authorization"] == "Bearer sk-or-v1-configured"
    assert "of-the-caller" not in json.dumps([router.headers, home.fo.asked[0].headers])
    assert (opus.json()["model"], opus.headers["x-api-key"]) == ("claude-opus-4", CALLER["x-api-key"])
    assert the_row(home)["fallback_reason"] == "ollama/codellama: server error; openrouter/a/b: no credit"
    assert the_row(home)["retry_count"] == 2
    if streamed:
        assert grammar.check(answer.body).text == "Hello"
    for file in home.house.state.rglob("*"):
        if file.is_file():
            found = file.read_bytes()
            assert b"sk-or-v1-configured" not in found, file
            assert b"of-the-caller" not in found, file


def test_a_translated_target_gets_no_credential_of_the_caller(home: Estate) -> None:
    """From Anthropic to a local model: the other way round."""
    port = home.up("anthropic/claude-sonnet-4-5", "--fallback", "ollama/codellama")
    home.fa.instead(
        Reply(529, b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}')
    )
    answer = ask(port, "POST", "/v1/messages", msg(stream=True), CALLER)
    [seen] = home.fo.asked
    row = the_row(home)

    assert answer.headers["x-proxy-fallback"] == answer.headers["x-proxy-model"] == "ollama/codellama"
    assert grammar.check(answer.body).text == "Hello"
    assert seen.json()["model"] == "codellama"
    assert "of-the-caller" not in json.dumps(seen.headers)
    assert (row["cost_source"], row["cost_usd"]) == ("local", 0.0)
    assert row["fallback_reason"] == "anthropic/claude-sonnet-4-5: server error"


def test_the_last_target_speaks_in_its_own_words(home: Estate) -> None:
    """When nobody is left to ask, the client gets what Anthropic said, and how long to wait."""
    port = home.up("ollama/codellama", "--fallback", "anthropic")
    home.fo.instead(BUSY)
    said = b'{"type":"error","error":{"type":"rate_limit_error","message":"their very words"}}'
    home.fa.instead(Reply(429, said, headers=(("content-type", "application/json"), ("retry-after", "17"))))
    first, second = post(port, msg()), post(port, msg())

    assert (first.status, first.body, first.headers["retry-after"]) == (429, said, "17")
    assert first.headers["x-proxy-fallback"] == "anthropic"
    # Both cool now; the first one, whose end is not known, is tried again.
    assert second.status == 529
    assert len(home.fo.asked) == 2
    assert len(home.fa.asked) == 1


def test_a_bad_request_falls_back_nowhere(home: Estate) -> None:
    """It would be as bad there."""
    port = home.up("ollama/codellama", "--fallback", "anthropic")
    home.fo.instead(Reply(400, b'{"error":"invalid option"}'))
    answers = [post(port, msg()), post(port, {"model": "x"})]

    assert [answer.status for answer in answers] == [400, 400]
    assert home.fa.asked == []
    assert get(port, "/health").json["targets"][0]["state"] == "ok"


def test_s137_what_fails_after_the_first_content_stays_where_it_is(home: Estate) -> None:
    """S137: no switch in mid-answer; the row says that it failed."""
    port = home.up("ollama/codellama", "--fallback", "anthropic")
    whole = home.fo.spoken(home.fo.said)
    home.fo.instead(
        Reply(
            body=whole[:1],
            headers=(("content-type", "application/x-ndjson"),),
            framing="chunked",
            hang_after=None,
            cut_after=len(whole[0]) + 4,
        )
    )
    answer = post(port, msg(stream=True))
    said = grammar.check(answer.body)
    row = the_row(home)

    assert (answer.status, said.text, said.complete) == (200, "Hel", False)
    assert home.fa.asked == []
    assert (row["status"], row["fallback"]) == (500, False)


def test_a_target_that_failed_is_left_alone_until_its_probe(home: Estate) -> None:
    """Cooling, passed over, half open, well: `/health` shows each; the provider sees one request of many."""
    port = home.up("ollama/codellama", "--fallback", "openrouter/a/b")
    home.fo.instead(
        Reply(429, b'{"error":"slow down"}', headers=(("retry-after", "3.2"), ("content-type", "text/plain")))
    )
    for _ in range(5):
        assert post(port, msg()).headers["x-proxy-fallback"] == "openrouter/a/b"
    [first, second] = get(port, "/health").json["targets"]

    assert len(home.fo.asked) == 1
    assert (first["state"], first["cause"]) == ("cooling", "rate limit")
    assert 0 < first["cooling_s"] <= 3.2
    assert second == {"model_id": "openrouter/a/b", "state": "ok", "serves": True, "ok": True}
    assert home.usage()[-1]["fallback_reason"] == "ollama/codellama: rate limit, cooling"
    resting = ["ollama/codellama: rate limit"]
    home.house.wait_tally(lambda row: row["resting"] == resting, "ollama/codellama")
    assert [row["retry_count"] for row in home.usage()[-5:]] == [1, 0, 0, 0, 0]
    home.fo.instead()
    for _ in attempts():  # the cool-down ends by itself
        if "x-proxy-fallback" not in post(port, msg()).headers:
            break
    else:
        pytest.fail("the provider that is well again was never asked")
    assert [one["state"] for one in get(port, "/health").json["targets"]] == ["ok", "ok"]


def test_a_short_wait_is_sat_out_first(home: Estate) -> None:
    """A rate limit of a moment is no reason to go to another provider."""
    port = home.up("ollama/codellama", "--fallback", "anthropic")
    slow = Reply(429, b'{"error":"slow down"}', headers=(("retry-after", "0.1"), ("content-type", "x/y")))
    good = Reply(body=home.fo.spoken(home.fo.said), headers=(("content-type", "application/x-ndjson"),))
    home.fo.instead(slow, good)
    answer = post(port, msg())

    assert answer.status == 200
    assert "x-proxy-fallback" not in answer.headers
    assert (the_row(home)["retry_count"], the_row(home)["fallback"]) == (1, False)


def test_thinking_and_calls_of_one_provider_are_safe_at_the_next(home: Estate) -> None:
    """A turn that a local model made is understood by Anthropic: no foreign signature, ids of its form."""
    home.fo.say("Let me look", thinking="Hmm", calls=(("get_weather", {"city": "Rome"}),))
    port = home.up("ollama/codellama", "--fallback", "anthropic")
    tool = {"name": "get_weather", "description": "d", "input_schema": {"type": "object"}}
    thinking = {"type": "enabled", "budget_tokens": 1024}
    turn = post(port, msg(tools=[tool], thinking=thinking)).json["content"]
    [call] = [block for block in turn if block["type"] == "tool_use"]
    assert [block["type"] for block in turn] == ["thinking", "text", "tool_use"]
    home.fo.stop()
    result = {"type": "tool_result", "tool_use_id": call["id"], "content": "sunny"}
    history = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": turn},
        {"role": "user", "content": [result]},
    ]
    answer = post(port, msg(tools=[tool], thinking=thinking) | {"messages": history})
    sent = home.fa.sent

    assert answer.status == 200
    assert [block["type"] for block in sent["messages"][1]["content"]] == ["text", "tool_use"]
    assert sent["messages"][1]["content"][1] == call
    assert sent["messages"][2]["content"] == [result]
    assert sent["thinking"] == {
        "type": "disabled"
    }  # Anthropic wants its own reasoning before a call, or none
    assert set(call["id"]) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
