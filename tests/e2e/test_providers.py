"""Translation from outside: the real command, a real worker, fake Ollama and OpenRouter (issue 3)."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import anthropic
import attrs
import pytest
from fakes import grammar
from fakes.house import Stream, ask, assert_error, is_alive
from fakes.upstream import Reply, Seen

from .providers import (
    KEY,
    ROUTED,
    SDK_LIMIT_S,
    Estate,
    Ollama,
    Said,
    error_of,
    message_of,
    msg,
    post,
    stream,
)

pytestmark = pytest.mark.slow

SAMPLES = Path(__file__).resolve().parents[1] / "cases" / "samples"
TOKENS = SAMPLES.parent / "tokens"
BOTH = pytest.mark.parametrize("kind", ["ollama", "router"])
MODES = pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "Weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


# --- a request there and back ---------------------------------------------------------------------


@BOTH
@MODES
def test_s04_s07_s40_an_answer_comes_back(here: Estate, kind: str, streamed: bool) -> None:
    here.far(kind).say("an ", "answer ", "é漢")
    found = message_of(here.port(kind), msg(), streamed=streamed)

    assert found["id"].startswith("msg_")
    assert (found["type"], found["role"], found["model"]) == ("message", "assistant", "claude-sonnet-4-5")
    assert found["content"] == [{"type": "text", "text": "an answer é漢"}]
    assert (found["stop_reason"], found["stop_sequence"]) == ("end_turn", None)
    assert (found["usage"]["input_tokens"], found["usage"]["output_tokens"]) == (21, 7)


def test_s05_s27_s39_each_proxy_asks_its_own_provider(here: Estate) -> None:
    post(here.ollama, msg())
    post(here.router, msg())

    assert (len(here.fo.asked), len(here.fr.asked)) == (1, 1)
    assert {seen.path for seen in here.fo.requests} <= {"/api/chat", "/api/tags", "/api/show", "/api/ps"}
    assert all(seen.path.startswith("/api/v1/") for seen in here.fr.requests)


def test_s17_s18_s34_s35_s36_s132_providers_and_bare_model_names(here: Estate) -> None:
    post(here.ollama, msg())
    post(here.router, msg())
    rows = {row["name"]: row["provider"] for row in here.house.ps()}

    assert rows["ollama/codellama"] == "ollama"
    assert rows[ROUTED] == "openrouter"
    assert here.fo.sent["model"] == "codellama"
    assert here.fr.sent["model"] == "anthropic/claude-3-haiku"


@BOTH
def test_s126_the_workers_own_model_wins(here: Estate, kind: str) -> None:
    answer = post(here.port(kind), msg(model="claude-opus-4-1"))

    assert here.far(kind).sent["model"] in ("codellama", "anthropic/claude-3-haiku")
    assert answer.json["model"] == "claude-opus-4-1"
    assert answer.headers["x-proxy-model"] in ("ollama/codellama", ROUTED)


@BOTH
def test_s38_s131_every_form_of_a_request_is_taken(here: Estate, kind: str) -> None:
    text = {"type": "text", "text": "Hello"}
    forms: list[dict[str, Any]] = [
        msg(),
        msg([text]),
        msg(system="be short"),
        msg(system=[text, {"type": "text", "text": "two", "cache_control": {"type": "ephemeral"}}]),
        msg(tools=[WEATHER], tool_choice={"type": "auto"}),
        msg(tools=[WEATHER], tool_choice={"type": "tool", "name": "get_weather"}),
        msg(stop_sequences=["STOP"], temperature=0.5, top_p=0.9, metadata={"user_id": "u"}),
        msg(a_field_of_tomorrow={"x": 1}, context_management={"edits": []}),
    ]

    for body in forms:
        assert post(here.port(kind), body).status == 200, body


@BOTH
def test_s38_what_is_wrong_is_named(here: Estate, kind: str) -> None:
    port = here.port(kind)
    without = msg()
    del without["messages"]

    assert_error(post(port, without), 400, "invalid_request_error", "messages")
    assert_error(post(port, msg(max_tokens="many")), 400, "invalid_request_error", "max_tokens")
    assert_error(post(port, "{not json"), 400, "invalid_request_error", "JSON")
    assert here.far(kind).asked == []


@BOTH
def test_s42_content_types(here: Estate, kind: str) -> None:
    port = here.port(kind)
    plain, streamed = post(port, msg()), post(port, msg(stream=True))
    refused = post(port, "{")

    assert plain.headers["content-type"] == "application/json"
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert streamed.headers["cache-control"] == "no-cache"
    assert refused.headers["content-type"] == "application/json"


@BOTH
def test_s127_events_in_their_order(here: Estate, kind: str) -> None:
    said = stream(here.port(kind), msg())

    assert [name for name in said.names if name != "ping"] == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 2,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert said.events[-2][1]["usage"]["output_tokens"] == 7


@BOTH
@MODES
def test_s130_content_is_never_empty(here: Estate, kind: str, streamed: bool) -> None:
    here.far(kind).said = Said(())
    found = message_of(here.port(kind), msg(), streamed=streamed)

    assert found["content"] == [{"type": "text", "text": ""}]
    assert found["stop_reason"] == "end_turn"


@pytest.mark.parametrize(("method", "path"), [("HEAD", "/"), ("GET", "/"), ("HEAD", "/api/hello")])
def test_s124_the_startup_probe_is_answered(here: Estate, method: str, path: str) -> None:
    assert ask(here.ollama, method, path).status == 200


def test_s125_the_query_does_not_matter(here: Estate) -> None:
    assert post(here.ollama, msg(), "/v1/messages?beta=true").status == 200
    assert here.fo.asked[-1].target == "/api/chat"


@BOTH
def test_s29_one_connection_for_many_requests(here: Estate, kind: str) -> None:
    for _ in range(20):
        assert post(here.port(kind), msg()).status == 200

    assert len(here.far(kind).asked) == 20
    assert len({seen.connection for seen in here.far(kind).asked}) == 1


def test_s28_nothing_is_asked_before_somebody_asks(here: Estate) -> None:
    with Ollama() as silent:
        row = here.house.up("ollama/lazy", base_url=silent.base)
        ready = here.house.wait_row(lambda row: row["state"] == "ready", "ollama/lazy")
        assert silent.connections == 0
        assert ready["pid"] == row["pid"]
    here.house.down("ollama/lazy", grace_s=0.0)


@BOTH
def test_s129_each_token_arrives_before_the_next_is_spoken(here: Estate, kind: str) -> None:
    """The provider says its next word when the client has the one before."""
    far = here.far(kind)
    words = [f"word{number} " for number in range(20)]
    far.say(*words)
    pieces = far.spoken(far.said) if isinstance(far, Ollama) else far.streamed(far.said)
    ahead = 1 if kind == "ollama" else 3  # a comment and the role come first
    gate = threading.Semaphore(0)
    usual = far.answer(Seen("POST", far.chat, {}, b'{"stream":true}', 0))
    far.instead(attrs.evolve(usual, body=(b"".join(pieces[:ahead]), *pieces[ahead:]), gate=gate))
    reading = Stream(here.port(kind), "Hello")
    for word in words:
        reading.read_until(json.dumps(word).encode())
        gate.release()
    gate.release(len(pieces))

    assert grammar.check(reading.rest()).names.count("content_block_delta") == 20


# --- what is sent ---------------------------------------------------------------------------------


@MODES
def test_s66_what_ollama_is_asked(here: Estate, streamed: bool) -> None:
    system = [{"type": "text", "text": "be short"}, {"type": "text", "text": "be kind"}]
    blocks = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    body = msg(
        blocks,
        system=system,
        tools=[WEATHER],
        stop_sequences=["STOP"],
        temperature=0.5,
        top_p=0.9,
        stream=streamed,
    )
    assert post(here.ollama, body).status == 200
    sent = here.fo.sent

    assert sent["model"] == "codellama"
    assert [message["role"] for message in sent["messages"]] == ["system", "user"]
    assert isinstance(sent["messages"][0]["content"], str)
    assert "be short" in sent["messages"][0]["content"]
    assert "be kind" in sent["messages"][0]["content"]
    assert isinstance(sent["messages"][1]["content"], str)
    assert "one" in sent["messages"][1]["content"]
    options = sent["options"]
    assert (options["num_predict"], options["temperature"], options["top_p"]) == (100, 0.5, 0.9)
    assert options["stop"] == ["STOP"]
    assert type(sent["stream"]) is bool
    assert sent["truncate"] is False
    assert "null" not in here.fo.asked[-1].body.decode()
    assert sent["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "Weather of a city",
                "parameters": WEATHER["input_schema"],
            },
        }
    ]


@MODES
def test_s72_what_openrouter_is_asked(here: Estate, streamed: bool) -> None:
    body = msg(system="be short", tools=[WEATHER], stop_sequences=["STOP"], stream=streamed)
    assert post(here.router, body).status == 200
    sent = here.fr.sent

    assert here.fr.asked[-1].target == "/api/v1/chat/completions"
    assert sent["model"] == "anthropic/claude-3-haiku"
    assert [message["role"] for message in sent["messages"]] == ["system", "user"]
    assert 100 in (sent.get("max_tokens"), sent.get("max_completion_tokens"))
    assert sent["stream"] is streamed
    assert sent["tools"][0]["type"] == "function"
    assert sent["tools"][0]["function"]["name"] == "get_weather"
    assert sent["stop"] == ["STOP"]


def test_s20_s73_the_headers_that_openrouter_gets(here: Estate) -> None:
    own = {"authorization": "Bearer sk-ant-of-the-caller", "x-api-key": "sk-ant-of-the-caller"}
    ask(here.router, "POST", "/v1/messages", msg(), {"content-type": "application/json", **own})
    [seen] = here.fr.asked

    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert seen.headers["content-type"] == "application/json"
    assert seen.headers["http-referer"]
    assert seen.headers["x-title"]
    assert "sk-ant-of-the-caller" not in json.dumps(seen.headers) + seen.body.decode()


def test_s73_ollama_does_not_see_the_callers_credential(here: Estate) -> None:
    own = {"authorization": "Bearer sk-ant-of-the-caller", "x-api-key": "sk-ant-of-the-caller"}
    ask(here.ollama, "POST", "/v1/messages", msg(), {"content-type": "application/json", **own})
    [seen] = here.fo.asked

    assert "authorization" not in seen.headers
    assert "sk-ant-of-the-caller" not in json.dumps(seen.headers) + seen.body.decode()


# --- tools ----------------------------------------------------------------------------------------


@BOTH
@MODES
def test_s68_text_and_two_parallel_calls(here: Estate, kind: str, streamed: bool) -> None:
    here.far(kind).say(
        "Let me look.", calls=(("get_weather", {"city": "Paris"}), ("get_weather", {"city": "Oslo"}))
    )
    found = message_of(here.port(kind), msg(tools=[WEATHER]), streamed=streamed)
    text, first, second = found["content"]

    assert found["stop_reason"] == "tool_use"
    assert text == {"type": "text", "text": "Let me look."}
    assert (first["type"], first["name"], first["input"]) == ("tool_use", "get_weather", {"city": "Paris"})
    assert (second["type"], second["name"], second["input"]) == ("tool_use", "get_weather", {"city": "Oslo"})
    assert first["id"].startswith("toolu_")
    assert second["id"].startswith("toolu_")
    assert first["id"] != second["id"]


@BOTH
def test_s68_a_streamed_call_is_shell_deltas_and_stop(here: Estate, kind: str) -> None:
    here.far(kind).said = Said((), calls=(("get_weather", {"city": "Paris"}),))
    said = stream(here.port(kind), msg(tools=[WEATHER]))
    [start] = [event for name, event in said.events if name == "content_block_start"]
    deltas = [event["delta"] for name, event in said.events if name == "content_block_delta"]

    assert start["content_block"]["input"] == {}
    assert {delta["type"] for delta in deltas} == {"input_json_delta"}
    assert json.loads("".join(delta["partial_json"] for delta in deltas)) == {"city": "Paris"}


@BOTH
@MODES
@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ('{"city":"Paris"}', {"city": "Paris"}),
        ("", {}),
        ('{"city":"Paris"', {"city": "Paris"}),
        ("]] nonsense", {}),
    ],
)
def test_s68_arguments_of_every_kind(
    here: Estate, kind: str, streamed: bool, given: str, wanted: Any
) -> None:
    here.far(kind).said = Said((), calls=(("get_weather", given),))
    found = message_of(here.port(kind), msg(tools=[WEATHER]), streamed=streamed)

    [block] = [block for block in found["content"] if block["type"] == "tool_use"]
    assert block["name"] == "get_weather"
    assert isinstance(block["input"], dict)
    if "nonsense" not in given:
        assert block["input"] == wanted


def history() -> dict[str, Any]:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    results = [
        {
            "type": "tool_result",
            "tool_use_id": "toolu_a",
            "content": [{"type": "text", "text": "sunny"}, image],
        },
        {"type": "tool_result", "tool_use_id": "toolu_b", "content": "no such city", "is_error": True},
        {"type": "text", "text": "and now?"},
    ]
    calls = [
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "toolu_a", "name": "get_weather", "input": {"city": "Paris"}},
        {"type": "tool_use", "id": "toolu_b", "name": "get_weather", "input": {"city": "X"}},
    ]
    turns = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": calls},
        {"role": "user", "content": results},
    ]
    return msg(tools=[WEATHER]) | {"messages": turns}


@BOTH
@MODES
def test_s68_history_with_calls_and_results(here: Estate, kind: str, streamed: bool) -> None:
    assert post(here.port(kind), history() | {"stream": streamed}).status == 200
    messages = here.far(kind).sent["messages"]
    user, assistant, one, two, after = messages

    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "tool", "user"]
    assert user["content"] == "Weather?"
    assert assistant["content"] == "I look."
    assert [call["function"]["name"] for call in assistant["tool_calls"]] == ["get_weather"] * 2
    arguments = assistant["tool_calls"][0]["function"]["arguments"]
    assert (arguments if kind == "ollama" else json.loads(arguments)) == {"city": "Paris"}
    ids = [call["id"] for call in assistant["tool_calls"]]
    assert [one["tool_call_id"], two["tool_call_id"]] == ids
    assert "sunny" in one["content"]
    assert "no such city" in two["content"]
    assert two["content"] != "no such city"  # marked as an error
    assert "and now?" in json.dumps(after)
    assert PNG in json.dumps(after)


# --- ends -----------------------------------------------------------------------------------------


@MODES
@pytest.mark.parametrize(
    ("finish", "reason"),
    [("stop", "end_turn"), ("length", "max_tokens"), ("content_filter", "refusal")],
)
def test_s76_finish_reasons(here: Estate, streamed: bool, finish: str, reason: str) -> None:
    here.fr.say("some text", finish=finish)

    assert message_of(here.router, msg(), streamed=streamed)["stop_reason"] == reason


def test_s76_a_plain_answer_without_a_finish_reason_is_an_end(here: Estate) -> None:
    here.fr.say("some text", finish="")

    assert message_of(here.router, msg(), streamed=False)["stop_reason"] == "end_turn"


@MODES
def test_s66_ollamas_limit_is_max_tokens(here: Estate, streamed: bool) -> None:
    here.fo.say("some text", finish="length")

    assert message_of(here.ollama, msg(), streamed=streamed)["stop_reason"] == "max_tokens"


@MODES
def test_s76_s106_cached_tokens_and_cost(here: Estate, streamed: bool) -> None:
    here.fr.say("x", usage={"prompt_tokens_details": {"cached_tokens": 5}, "cost": 0.0123})
    found = message_of(here.router, msg(), streamed=streamed)
    row = here.usage(ROUTED)[-1]

    assert found["usage"]["cache_read_input_tokens"] == 5
    assert found["usage"]["input_tokens"] + 5 == 21
    assert (row["cost_usd"], row["cost_source"]) == (0.0123, "provider")
    assert (row["input_tokens"], row["cache_read_tokens"], row["output_tokens"]) == (16, 5, 7)


def test_s117_ps_adds_up_what_a_proxy_has_cost(here: Estate) -> None:
    """A `+` in the table stands for the answers that nobody has priced."""
    here.up(ROUTED)
    before = here.house.row(ROUTED)
    here.fr.say("x", usage={"cost": 0.25})
    message_of(here.router, msg(), streamed=False)
    message_of(here.router, msg(), streamed=True)
    here.fr.say("x")
    message_of(here.router, msg(), streamed=False)
    asked = before["requests"] + 3
    row = here.house.wait_tally(lambda row: row["requests"] == asked and not row["in_flight"], ROUTED)

    assert row["unpriced_requests"] == before["unpriced_requests"] + 1
    assert round(row["cost_usd"] - (before["cost_usd"] or 0.0), 6) == 0.5
    assert re.search(rf"^{ROUTED} .* \$\d+\.\d+\+ ", here.house.command("ps").stdout, re.MULTILINE)


def test_s106_no_price_known_is_null(here: Estate) -> None:
    message_of(here.router, msg(), streamed=False)
    row = here.usage(ROUTED)[-1]

    assert (row["cost_usd"], row["cost_source"]) == (None, "unknown")


def test_s106_ollama_is_free(here: Estate) -> None:
    message_of(here.ollama, msg(), streamed=True)
    row = here.usage("ollama/codellama")[-1]

    assert (row["cost_usd"], row["cost_source"]) == (0, "local")
    assert (row["input_tokens"], row["output_tokens"], row["tokens_estimated"]) == (21, 7, False)


@BOTH
@MODES
def test_s66_s72_thinking_is_shown_to_who_asks(here: Estate, kind: str, streamed: bool) -> None:
    here.far(kind).say("42", thinking="let me see")
    wish = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 4000}
    found = message_of(here.port(kind), msg(**wish), streamed=streamed)

    assert [block["type"] for block in found["content"]] == ["thinking", "text"]
    assert found["content"][0]["thinking"] == "let me see"
    assert found["content"][0]["signature"]


# --- small endpoints ------------------------------------------------------------------------------


TEXT = "The quick brown fox jumps over the lazy dog. " * 200


@BOTH
def test_s142_counting_asks_no_model_and_says_the_same_again(here: Estate, kind: str) -> None:
    answers = [post(here.port(kind), msg(TEXT), "/v1/messages/count_tokens") for _ in "ab"]
    [count] = {answer.json["input_tokens"] for answer in answers}

    assert 1500 <= count <= 3000
    assert set(answers[0].json) == {"input_tokens"}
    assert here.far(kind).asked == []


@pytest.mark.parametrize("name", ["english", "german", "chinese", "python", "mixed"])
def test_s142_the_estimate_is_near_to_what_a_tokenizer_counts(here: Estate, name: str) -> None:
    """By a worker that has seen no answer yet."""
    counts = json.loads((TOKENS / "counts.json").read_text())["texts"]
    text = (TOKENS / f"{name}.txt").read_text(encoding="utf-8")
    counted = post(here.up("ollama/cold"), msg(text), "/v1/messages/count_tokens")

    assert counted.json["input_tokens"] == pytest.approx(counts[name]["o200k_base"], rel=0.15)
    assert here.fo.asked == []


def test_s142_the_estimate_follows_what_the_provider_counts(here: Estate) -> None:
    """Also where its tokenizer is an odd one."""
    here.fo.say("x", usage={"prompt_eval_count": 3010})
    for _ in range(5):
        assert post(here.ollama, msg(TEXT)).status == 200
    count = post(here.ollama, msg(TEXT), "/v1/messages/count_tokens").json["input_tokens"]

    assert count == pytest.approx(3010, rel=0.15)


@BOTH
def test_s143_models_for_the_picker(here: Estate, kind: str) -> None:
    """At once, because nobody is asked for it; `bench/rows.py` measures the 100 ms."""
    answer = ask(here.port(kind), "GET", "/v1/models?limit=1000", None, {"anthropic-version": "2023-06-01"})
    listed = answer.json

    assert answer.status == 200
    assert here.far(kind).requests == []
    assert listed["has_more"] is False
    assert all({"type", "id", "display_name", "created_at"} <= set(one) for one in listed["data"])
    assert any(one["id"].startswith(("claude", "anthropic")) for one in listed["data"])


# --- the real SDK ---------------------------------------------------------------------------------


def sdk(port: int) -> anthropic.Anthropic:
    return anthropic.Anthropic(
        base_url=f"http://127.0.0.1:{port}", api_key="dummy", max_retries=0, timeout=SDK_LIMIT_S
    )


@BOTH
def test_s04_the_sdk_plain_and_streamed(here: Estate, kind: str) -> None:
    here.far(kind).say("hello ", "there")
    request: Any = msg(model="claude-x")
    with sdk(here.port(kind)) as client:
        plain = client.messages.create(**request)
        with client.messages.stream(**request) as streaming:
            pieces = list(streaming.text_stream)
            final = streaming.get_final_message()

    assert [block.type for block in plain.content] == ["text"]
    assert plain.usage.output_tokens == 7
    assert pieces == ["hello ", "there"]
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens == 7


@BOTH
@MODES
def test_s68_the_sdks_tool_runner(here: Estate, kind: str, streamed: bool) -> None:
    far, asked = here.far(kind), []

    @anthropic.beta_tool
    def get_weather(city: str) -> str:
        """Weather of a city."""
        asked.append(city)
        far.said = Said(("It rains.",))
        return f"rain in {city}"

    far.said = Said(("I look.",), calls=(("get_weather", {"city": "Oslo"}),))
    with sdk(here.port(kind)) as client:
        if streamed:
            running = client.beta.messages.tool_runner(
                model="claude-x",
                max_tokens=500,
                tools=[get_weather],
                messages=[{"role": "user", "content": "Weather in Oslo?"}],
                stream=True,
            )
            last: Any = None
            for one in running:
                last = one.get_final_message()
        else:
            last = client.beta.messages.tool_runner(
                model="claude-x",
                max_tokens=500,
                tools=[get_weather],
                messages=[{"role": "user", "content": "Weather in Oslo?"}],
            ).until_done()

    assert asked == ["Oslo"]
    assert last.content[0].text == "It rains."
    assert [message["role"] for message in far.sent["messages"]] == ["user", "assistant", "tool"]
    assert "rain in Oslo" in far.sent["messages"][-1]["content"]


def test_s74_the_sdk_reads_a_refusal(here: Estate) -> None:
    here.fr.instead(Reply(401, b'{"error":{"code":401,"message":"No auth"}}'))
    request: Any = msg(model="claude-x")
    with sdk(here.router) as client, pytest.raises(anthropic.PermissionDeniedError) as caught:
        client.messages.create(**request)

    assert "OpenRouter" in str(caught.value)


# --- real agents' requests ------------------------------------------------------------------------


@BOTH
@MODES
@pytest.mark.parametrize("name", sorted(path.name for path in SAMPLES.glob("*.json")))
def test_s06_requests_of_real_agents_pass(here: Estate, kind: str, streamed: bool, name: str) -> None:
    found = json.loads((SAMPLES / name).read_text())
    body = found.get("body", found)
    message = message_of(here.port(kind), body | {"stream": streamed}, streamed=streamed)

    assert message["content"][0]["text"] == "Hello"
    assert message["model"] == body["model"]
    assert len(here.far(kind).asked) == 1


# --- failures of a provider that speaks nonsense --------------------------------------------------


@BOTH
@MODES
def test_s41_nonsense_is_an_error_and_the_worker_lives(here: Estate, kind: str, streamed: bool) -> None:
    port, far = here.port(kind), here.far(kind)
    pid = next(row["pid"] for row in here.house.ps() if row["port"] == port)
    far.instead(Reply(raw=b"\x00\xffnothing that anybody understands\r\n\r\n"))
    first = error_of(port, msg(), streamed=streamed)
    far.instead(Reply(body=b"<html>hello</html>"))
    second = error_of(port, msg(), streamed=streamed)
    far.instead()

    assert first["error"]["type"] in ("api_error", "overloaded_error")
    assert second["error"]["type"] == "api_error"
    assert first["status"] >= 500
    assert second["status"] >= 500
    assert is_alive(pid)
    assert post(port, msg()).status == 200
    assert next(row["pid"] for row in here.house.ps() if row["port"] == port) == pid


def test_s90_both_directions_in_one_conversation(here: Estate) -> None:
    """The answer of one turn is the history of the next, as an agent sends it."""
    here.fr.said = Said(("I look.",), calls=(("get_weather", {"city": "Paris"}),), thinking="hm")
    wish = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 4000, "tools": [WEATHER]}
    first = message_of(here.router, msg(**wish), streamed=True)
    call = first["content"][-1]
    body = msg(**wish)
    body["messages"] += [
        {"role": "assistant", "content": first["content"]},
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": call["id"], "content": "rain"}],
        },
    ]
    here.fr.said = Said(("It rains.",))
    second = message_of(here.router, body, streamed=False)
    sent = here.fr.sent["messages"]

    assert second["content"] == [{"type": "text", "text": "It rains."}]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool"]
    assert sent[1]["tool_calls"][0]["id"] == sent[2]["tool_call_id"]
