"""Programs that speak OpenAI's Responses API, with the real SDK: real commands and workers, fake providers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from fakes.upstream import Reply

from .providers import SDK_LIMIT_S, Estate, estate

pytestmark = pytest.mark.slow

CONFIG = """
[providers.anthropic]
base_url = "{fa}"
[providers.ollama]
base_url = "{fo}"
"""
KINDS = ["ollama", "router", "anthropic", "front"]
CALLERS = "sk-ant-api03-of-the-caller"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: Any = [
    {"type": "function", "name": "get_weather", "parameters": SCHEMA, "strict": False},
    {
        "type": "namespace",
        "name": "ns",
        "description": "some",
        "tools": [{"type": "function", "name": "look", "parameters": SCHEMA}],
    },
    {"type": "custom", "name": "patch", "description": "edits"},
    {"type": "web_search"},
]


@pytest.fixture(scope="module")
def the_home() -> Iterator[Estate]:
    with estate(CONFIG) as found:
        found.up("front")
        yield found


@pytest.fixture
def home(the_home: Estate) -> Estate:
    """For one test: nobody was asked yet."""
    the_home.reset()
    return the_home


def client(home: Estate, kind: str) -> openai.OpenAI:
    port = home.ports[kind] if kind in home.ports else home.port(kind)
    url = f"http://127.0.0.1:{port}/v1"
    return openai.OpenAI(base_url=url, api_key=CALLERS, max_retries=0, timeout=SDK_LIMIT_S)


def far_of(home: Estate, kind: str) -> Any:
    return {"ollama": home.fo, "router": home.fr}.get(kind, home.fa)


@pytest.mark.parametrize("kind", KINDS)
def test_plain_and_streamed_say_the_same(home: Estate, kind: str) -> None:
    with client(home, kind) as sdk:
        plain = sdk.responses.create(model="gpt-x", input="Hello", instructions="Be brief.")
        with sdk.responses.stream(model="gpt-x", input="Hello") as stream:
            names = [event.type for event in stream]
            streamed = stream.get_final_response()

    assert (plain.output_text, plain.status, plain.model) == ("Hello", "completed", "gpt-x")
    assert plain.usage is not None
    assert plain.usage.total_tokens == 28
    assert (streamed.output_text, streamed.usage) == (plain.output_text, plain.usage)
    assert (names[0], names[-1]) == ("response.created", "response.completed")


@pytest.mark.parametrize("kind", KINDS)
def test_calls_of_every_form_go_round(home: Estate, kind: str) -> None:
    """And reasoning: the SDK's own items are sent back, and the provider gets what it said."""
    calls = (
        ("get_weather", {"city": "Oslo"}),
        ("ns__look", {"city": "Röm"}),
        ("patch", {"input": "*** Begin"}),
    )
    far_of(home, kind).say("", calls=calls)
    wishes: Any = {"model": "gpt-x", "tools": TOOLS, "include": ["reasoning.encrypted_content"]}
    asked: Any = [{"role": "user", "content": "Weather?"}]
    with client(home, kind) as sdk:
        with sdk.responses.stream(input=asked, **wishes) as stream:
            for _ in stream:
                pass
            items: Any = [item for item in stream.get_final_response().output if item.type != "message"]
        function, inner, custom = items
        assert (function.name, json.loads(function.arguments)) == calls[0]
        assert (inner.namespace, inner.name, json.loads(inner.arguments)) == ("ns", "look", {"city": "Röm"})
        assert (custom.type, custom.name, custom.input) == ("custom_tool_call", "patch", "*** Begin")

        far_of(home, kind).say("12 ", "degrees")
        results = [
            {"type": "function_call_output", "call_id": function.call_id, "output": "12"},
            {"type": "function_call_output", "call_id": inner.call_id, "output": "13"},
            {"type": "custom_tool_call_output", "call_id": custom.call_id, "output": "done"},
        ]
        said: Any = [*asked, *(one.to_dict() for one in items), *results]
        answer = sdk.responses.create(input=said, **wishes)

    assert answer.output_text == "12 degrees"


def test_reasoning_comes_back_to_who_had_it(home: Estate) -> None:
    """As it was, and only by what we have sealed."""
    home.fo.say("so", thinking="I think")
    wishes: Any = {
        "model": "gpt-x",
        "reasoning": {"effort": "high", "summary": "auto"},
        "include": ["reasoning.encrypted_content"],
        "tools": TOOLS,
    }
    with client(home, "ollama") as sdk:
        first = sdk.responses.create(input="Why?", **wishes)
        [reasoning] = [one for one in first.output if one.type == "reasoning"]
        call: Any = {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": "{}"}
        result: Any = {"type": "function_call_output", "call_id": "c1", "output": "12"}
        foreign: Any = {"type": "reasoning", "id": "rs_x", "summary": [], "encrypted_content": "gAAAA"}
        said: Any = [{"role": "user", "content": "Why?"}, foreign, reasoning.to_dict(), call, result]
        sdk.responses.create(input=said, **wishes)
    turns = home.fo.asked[-1].json()["messages"]

    assert reasoning.summary[0].text == "I think"
    assert [turn.get("thinking") for turn in turns if turn["role"] == "assistant"] == ["I think"]


OVERFLOW = (
    b'{"type":"error","error":{"type":"invalid_request_error",'
    b'"message":"prompt is too long: 9 tokens > 8 maximum"}}'
)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", ["anthropic", "front"])
def test_an_error_before_the_answer_is_a_status(home: Estate, kind: str, stream: bool) -> None:
    home.fa.instead(Reply(400, OVERFLOW))
    with client(home, kind) as sdk, pytest.raises(openai.BadRequestError) as raised:
        sdk.responses.create(model="gpt-x", input="Hello", stream=stream)

    assert raised.value.code == "context_length_exceeded"


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_that_breaks_off_has_failed(home: Estate, kind: str) -> None:
    far = far_of(home, kind)
    whole = far.spoken(far.said) if kind == "ollama" else far.streamed(far.said)
    form = "application/x-ndjson" if kind == "ollama" else "text/event-stream"
    cut = whole[: 1 if kind == "ollama" else 4]
    far.instead(Reply(body=cut, headers=(("content-type", form),), framing="chunked"))
    with client(home, kind) as sdk, sdk.responses.create(model="gpt-x", input="x", stream=True) as stream:
        events: Any = list(stream)

    assert events[-1].type == "response.failed"
    assert events[-1].response.error.code == "server_error"


def test_what_is_not_stored_is_told(home: Estate) -> None:
    with (
        client(home, "ollama") as sdk,
        pytest.raises(openai.BadRequestError, match="send the whole conversation") as raised,
    ):
        sdk.responses.create(model="gpt-x", input="Hello", previous_response_id="resp_1")

    assert raised.value.param == "previous_response_id"
