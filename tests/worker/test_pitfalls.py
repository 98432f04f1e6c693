"""Pitfalls that show only through a whole worker's handler, and the list of all sixty."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from fakes import grammar
from fakes.upstream import Reply

from modelproxy.worker.contract import Options

from .test_relay import ASK, far

TESTS = Path(__file__).parents[1]
EVENTS = (("content-type", "text/event-stream"),)
OLLAMA: dict[str, Any] = {"kind": "ollama", "provider": "ollama", "model": "m", "path": "/api/chat"}
OPENAI: dict[str, Any] = {"kind": "openai", "provider": "work", "model": "m", "path": "/chat/completions"}


def line(**fields: Any) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
    document = {"id": "always-the-same", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
    return b"data: " + json.dumps(document).encode() + b"\n\n"


WORD = chunk({"role": "assistant", "content": "a"})
STOP = chunk({}, "stop") + b"data: [DONE]\n\n"


@pytest.mark.parametrize("number", range(1, 61))
def test_every_pitfall_has_a_case(number: int) -> None:
    """Its number stands in the name of a golden case or of a test."""
    name = f"p{number:02d}"
    cases = [path for path in TESTS.glob("cases/*/*.json") if name.upper() in path.stem.split("-")]
    pattern = re.compile(rf"def test_(\w+_)?{name}_")
    tests = [path for path in TESTS.glob("*/test_*.py") if pattern.search(path.read_text(encoding="utf-8"))]

    assert cases or tests


async def test_p11_only_the_path_counts_and_a_vendor_keeps_its_slash() -> None:
    kimi = {"kind": "openrouter", "provider": "openrouter", "model": "moonshotai/kimi-k2:free"}
    ask = {**ASK, "model": "openrouter/moonshotai/kimi-k2:free"}
    answer = Reply(body=WORD + STOP, headers=EVENTS)
    async with far(answer, path="/chat/completions", **kimi) as it:
        got = await it.fetch(ask, path="/v1/messages?beta=true")

    assert (got.status, json.loads(got.body)["model"]) == (200, ask["model"])
    assert it.upstream.to("/chat/completions")[0].json()["model"] == "moonshotai/kimi-k2:free"


async def test_p37_one_start_and_a_fresh_id_whatever_happened_before_it() -> None:
    """The provider says the same id each time, and is asked again once."""
    busy = Reply(503, b"busy", headers=(("retry-after", "0"),))
    answer = Reply(body=WORD + STOP, headers=EVENTS)
    async with far(busy, answer, options=Options(retries=1), **OPENAI) as it:
        got = [grammar.check((await it.fetch({**ASK, "stream": True})).body) for _ in range(2)]

    ids = [data["message"]["id"] for one in got for name, data in one.events if name == "message_start"]
    assert len(set(ids)) == 2


@pytest.mark.parametrize("way", [OLLAMA, OPENAI], ids=["ollama", "openai"])
async def test_p38_the_same_id_in_two_turns_is_two_ids(way: dict[str, Any]) -> None:
    """Claude Code deletes a call whose id it knows from an earlier turn."""
    function = {"name": "Bash", "arguments": {"command": "ls"}}
    call = {"index": 0, "id": "call_0", "type": "function", "function": function}
    said = line(message={"content": "", "tool_calls": [call]}, done=True, done_reason="stop")
    if way is OPENAI:
        said = chunk({"tool_calls": [call]}) + STOP
    turns: list[dict[str, Any]] = [{"role": "user", "content": "go"}]
    async with far(Reply(body=said, headers=EVENTS if way is OPENAI else ()), **way) as it:
        for _ in range(2):
            got = await it.fetch({**ASK, "tools": [{"name": "Bash", "input_schema": {}}], "messages": turns})
            calls = [block for block in json.loads(got.body)["content"] if block["type"] == "tool_use"]
            results = [{"type": "tool_result", "tool_use_id": one["id"], "content": "x"} for one in calls]
            turns += [{"role": "assistant", "content": calls}, {"role": "user", "content": results}]

    ids = [block["id"] for turn in turns if turn["role"] == "assistant" for block in turn["content"]]
    assert len(ids) == len(set(ids)) == 2
    assert ids[0] in it.upstream.requests[-1].body.decode()


@pytest.mark.parametrize("times", [1, 2])
async def test_p44_a_call_that_the_model_wrote_badly_is_asked_for_once_more(times: int) -> None:
    """Otherwise the client would repeat all of its prompt, ten times."""
    bad = Reply(500, b'{"error":"error parsing tool call: raw=\'{\', err=unexpected end of JSON input"}')
    good = Reply(body=line(message={"content": "a"}, done=True, done_reason="stop"))
    async with far(*[bad] * times, good, **OLLAMA) as it:
        got = await it.fetch()

    assert len(it.upstream.to("/api/chat")) == 2
    assert got.status == (200 if times == 1 else 500)
    assert times == 1 or "the model m wrote a tool call" in got.error["message"]


async def test_p52_the_prompt_is_estimated_at_the_start_and_true_at_the_end() -> None:
    """Never 0: clients take that for "unknown", and compact too late."""
    prose = "The quick brown fox jumps over the lazy dog. " * 91
    ask = {**ASK, "messages": [{"role": "user", "content": prose[:4096]}]}
    said = line(message={"role": "assistant", "content": "a"}, done=False)
    end = line(message={"content": ""}, done=True, done_reason="stop", prompt_eval_count=1000, eval_count=2)
    async with far(Reply(body=said + end), **OLLAMA) as it:
        counted = json.loads((await it.fetch(ask, path="/v1/messages/count_tokens")).body)["input_tokens"]
        got = grammar.check((await it.fetch({**ask, "stream": True})).body)

    assert 800 < counted < 2000
    assert got.events[0][1]["message"]["usage"]["input_tokens"] == counted
    assert got.events[-2][1]["usage"]["input_tokens"] == 1000


async def test_p60_silence_is_broken_by_pings_and_costs_one_request() -> None:
    """A cold model: the stream begins at the hold's end, and pings until the first word."""
    answer = Reply(body=WORD + STOP, headers=EVENTS, delay=0.5)
    async with far(answer, options=Options(hold_s=0.1, ping_s=0.1), **OPENAI) as it:
        got = grammar.check((await it.fetch({**ASK, "stream": True})).body)

    names = [name for name, _ in got.events]
    assert names.index("ping") < names.index("content_block_start")
    assert len(it.upstream.to("/chat/completions")) == 1


async def test_p14_a_picture_that_the_model_cannot_see_does_not_end_the_session() -> None:
    """The server says so only when it is sent one, and then in every turn."""
    png = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBO"}}
    ask = {**ASK, "messages": [{"role": "user", "content": [png, {"type": "text", "text": "what is it?"}]}]}
    error = {"error": {"code": 500, "message": "image input is not supported - hint: mmproj", "type": "x"}}
    blind = Reply(500, json.dumps(error).encode())
    async with far(blind, Reply(body=WORD + STOP, headers=EVENTS), **OPENAI) as it:
        got = [await it.fetch({**ask, "stream": True}) for _ in range(2)]

    assert [one.status for one in got] == [200, 200]
    bodies = [json.dumps(seen.json()) for seen in it.upstream.to("/chat/completions")]
    assert ["image_url" in body for body in bodies] == [True, False, False]
    assert all("[image omitted: model has no vision]" in body for body in bodies[1:])


async def test_the_models_list_says_what_is_known_of_the_window() -> None:
    """Nobody is asked for it: before the first request only what is configured is known."""
    show = {"capabilities": ["completion", "tools"], "model_info": {"a.context_length": 100_000}}
    said = line(message={"content": "a"}, done=True, done_reason="stop")
    async with far(Reply(body=said), **OLLAMA, options=Options(max_output_tokens=777)) as it:
        it.upstream.on("/api/tags", Reply(body=line(models=[{"name": "m:latest", "digest": "d"}])))
        it.upstream.on("/api/show", Reply(body=line(**show)))
        it.upstream.on("/api/ps", Reply(body=line(models=[])))
        entries = []
        for _ in range(2):
            got = await it.fetch(None, method="GET", path="/v1/models?limit=1000")
            entries.append(json.loads(got.body)["data"][0])
            await it.fetch()

    assert [entry["max_input_tokens"] for entry in entries] == [None, 65_536]
    assert [entry["max_tokens"] for entry in entries] == [777, 777]


async def test_the_row_counts_how_often_the_provider_was_asked_again() -> None:
    """S75."""
    busy = Reply(429, b"busy", headers=(("retry-after", "0"),))
    answer = Reply(body=WORD + STOP, headers=EVENTS)
    async with far(busy, busy, answer, options=Options(retries=2), **OPENAI) as it:
        got = await it.fetch({**ASK, "stream": True})

    assert (got.status, it.row.status, it.row.retry_count) == (200, 200, 2)
