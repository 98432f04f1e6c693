"""Programs that speak OpenAI's Chat Completions, with the real SDK: real commands and workers, fake providers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from fakes.upstream import Reply

from .providers import KEY, SDK_LIMIT_S, Estate, estate, held, lines

pytestmark = pytest.mark.slow

CONFIG = """
[providers.anthropic]
base_url = "{fa}"
[providers.ollama]
base_url = "{fo}"
[proxies.helped]
model = "ollama/gone"
fallback = ["anthropic"]
[models.agents]
reviewer = "ollama/codellama"
"""
KINDS = ["ollama", "router", "anthropic", "front"]
CALLERS = "sk-ant-api03-of-the-caller"
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SAID: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def the_home() -> Iterator[Estate]:
    with estate(CONFIG) as found:
        found.up("front")
        found.up("helped")
        yield found


_OPEN: list[openai.OpenAI] = []


@pytest.fixture
def home(the_home: Estate) -> Iterator[Estate]:
    """For one test: nobody was asked yet, and nobody asks any more behind it."""
    the_home.reset()
    yield the_home
    while _OPEN:
        _OPEN.pop().close()


def client(home: Estate, kind: str, *, path: str = "/v1") -> openai.OpenAI:
    port = home.ports[kind] if kind in home.ports else home.port(kind)
    url = f"http://127.0.0.1:{port}{path}"
    found = openai.OpenAI(base_url=url, api_key=CALLERS, max_retries=0, timeout=SDK_LIMIT_S)
    _OPEN.append(found)
    return found


def create(client: openai.OpenAI, **said: Any) -> Any:
    return client.chat.completions.create(**{"model": "gpt-x", "messages": SAID, **said})


def far_of(home: Estate, kind: str) -> Any:
    return {"ollama": home.fo, "router": home.fr}.get(kind, home.fa)


@pytest.mark.parametrize("kind", KINDS)
def test_plain(home: Estate, kind: str) -> None:
    answer = create(client(home, kind))

    assert (answer.object, answer.model) == ("chat.completion", "gpt-x")
    assert answer.id.startswith("chatcmpl-")
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("Hello", "stop")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (21, 7)
    assert answer._request_id is not None


@pytest.mark.parametrize("kind", KINDS)
def test_streamed(home: Estate, kind: str) -> None:
    with create(client(home, kind), stream=True, stream_options={"include_usage": True}) as stream:
        chunks = list(stream)
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]

    assert "".join(filter(None, pieces)) == "Hello"
    assert [chunk.choices[0].finish_reason for chunk in chunks[-2:-1]] == ["stop"]
    assert chunks[-1].usage.total_tokens == 28


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_tools_go_round(home: Estate, kind: str, streamed: bool) -> None:
    """Two calls at once, their results, an answer: the SDK's own objects are sent back."""
    calls = (("get_weather", {"city": "Oslo"}), ("get_weather", {"city": "Röm"}))
    far_of(home, kind).say("", calls=calls)
    asked = [*SAID, {"role": "user", "content": "Weather?"}]
    sdk = client(home, kind)
    if streamed:
        with sdk.chat.completions.stream(model="gpt-x", messages=asked, tools=[WEATHER]) as stream:
            message = stream.get_final_completion().choices[0].message
    else:
        message = create(sdk, messages=asked, tools=[WEATHER]).choices[0].message
    found = message.tool_calls or []
    assert [(call.function.name, json.loads(call.function.arguments)) for call in found] == list(calls)
    assert len({call.id for call in found}) == 2

    far_of(home, kind).say("12 ", "degrees")
    results = [{"role": "tool", "tool_call_id": call.id, "content": "12"} for call in found]
    said = [{"role": "assistant", "content": message.content, "tool_calls": [one.to_dict() for one in found]}]
    answer = create(sdk, messages=[*asked, *said, *results], tools=[WEATHER])

    assert answer.choices[0].message.content == "12 degrees"


def test_anthropic_is_asked_as_by_one_of_its_own_clients(home: Estate) -> None:
    """With its version, the caller's key in its place, and nothing of the other library."""
    create(client(home, "front"), temperature=1.7, max_tokens=9)
    [seen] = home.fa.asked

    assert seen.json() == {
        "model": "gpt-x",
        "max_tokens": 9,
        "system": [{"type": "text", "text": "Be brief."}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
        "temperature": 1,
    }
    assert (seen.headers["x-api-key"], seen.headers["anthropic-version"]) == (CALLERS, "2023-06-01")
    assert "authorization" not in seen.headers
    assert seen.headers["user-agent"].startswith("modelproxy/")
    assert not [name for name in seen.headers if name.startswith(("x-stainless", "openai"))]


@pytest.mark.parametrize("model", ["claude-opus-5-5", "claude-haiku-4-5"])
def test_a_model_that_refuses_to_be_told_how_to_sample_is_not(home: Estate, model: str) -> None:
    create(client(home, "front"), model=model, temperature=0)

    assert home.fa.sent.get("temperature") == (None if "opus" in model else 0)


@pytest.mark.parametrize(
    ("model", "thinking", "effort"),
    [
        ("claude-opus-5-5", {"type": "adaptive"}, "low"),
        ("claude-haiku-4-5", {"type": "enabled", "budget_tokens": 4000}, None),
    ],
)
def test_effort_reaches_each_model_of_anthropics_as_it_takes_it(
    home: Estate, model: str, thinking: dict[str, Any], effort: str | None
) -> None:
    create(client(home, "front"), model=model, reasoning_effort="low", max_tokens=20_000)

    assert home.fa.sent["thinking"] == thinking
    assert home.fa.sent.get("output_config", {}).get("effort") == effort


def test_the_callers_key_goes_to_nobody_else(home: Estate) -> None:
    create(client(home, "router"))
    create(client(home, "ollama"))

    assert home.fr.asked[0].headers["authorization"] == f"Bearer {KEY}"
    assert CALLERS not in str([seen.headers for far in (home.fo, home.fr) for seen in far.requests])


def test_an_agent_goes_where_its_rule_says_and_the_ledger_tells_it(home: Estate) -> None:
    home.up("ollama/codellama")
    answer = client(home, "front", path="/a/reviewer/v1").chat.completions.with_raw_response.create(
        model="gpt-x", messages=SAID
    )
    rows = [one for one in home.usage() if one["request_id"] == answer.headers["x-request-id"]]

    assert answer.headers["x-proxy-route"].startswith("front>")
    assert [(row["agent"], row["provider"], row["model"]) for row in rows] == [
        ("reviewer", "ollama", "codellama")
    ]
    assert home.fa.asked == []


def test_a_fallback_answers_in_its_place(home: Estate) -> None:
    """From one provider's dialect to another's bytes, and to the client in its own form."""
    home.fo.instead(Reply(404, b'{"error":"model \'gone\' not found"}'))
    answer = client(home, "helped").chat.completions.with_raw_response.create(model="claude-x", messages=SAID)

    assert answer.headers["x-proxy-fallback"] == "anthropic"
    assert answer.parse().choices[0].message.content == "Hello"
    assert home.fa.asked[0].headers["x-api-key"] == CALLERS


BUSY = b'{"error":{"message":"Slow down","code":429}}'
OVERFLOW = (
    b'{"type":"error","error":{"type":"invalid_request_error",'
    b'"message":"prompt is too long: 9 tokens > 8 maximum"}}'
)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("kind", "reply", "error", "code"),
    [
        ("router", Reply(429, BUSY, (("retry-after", "7"),)), openai.RateLimitError, "rate_limit_exceeded"),
        (
            "router",
            Reply(401, b'{"error":{"message":"no"}}'),
            openai.PermissionDeniedError,
            "invalid_api_key",
        ),
        ("router", Reply(402, b'{"error":{"message":"no"}}'), openai.APIStatusError, "insufficient_quota"),
        ("ollama", Reply(404, b'{"error":"model not found"}'), openai.NotFoundError, "model_not_found"),
        ("anthropic", Reply(400, OVERFLOW), openai.BadRequestError, "context_length_exceeded"),
        ("front", Reply(400, OVERFLOW), openai.BadRequestError, "context_length_exceeded"),
        ("ollama", Reply(500, b'{"error":"broken"}'), openai.InternalServerError, None),
    ],
)
def test_errors_are_the_sdks_own(
    home: Estate, kind: str, reply: Reply, error: type[openai.APIStatusError], code: str | None, stream: bool
) -> None:
    far_of(home, kind).instead(reply)
    with pytest.raises(error) as raised:
        create(client(home, kind), stream=stream)

    assert raised.value.code == code
    assert raised.value.request_id is not None
    if reply.status == 429:
        assert raised.value.response.headers["retry-after"] == "7"


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_that_breaks_off_is_raised_and_not_a_short_answer(home: Estate, kind: str) -> None:
    far = far_of(home, kind)
    whole = far.spoken(far.said) if kind == "ollama" else far.streamed(far.said)
    kinds = {"ollama": "application/x-ndjson"}
    headers = (("content-type", kinds.get(kind, "text/event-stream")),)
    far.instead(Reply(body=whole[: 1 if kind == "ollama" else 4], headers=headers, framing="chunked"))
    seen: list[str | None] = []
    with create(client(home, kind), stream=True) as stream, pytest.raises(openai.APIError) as raised:
        seen.extend(chunk.choices[0].delta.content for chunk in stream)

    assert "".join(filter(None, seen)) in ("Hel", "Hello")
    assert not isinstance(raised.value, openai.APIConnectionError), (
        "the sentence arrives, not a broken connection"
    )


def test_a_client_that_leaves_cancels_what_it_asked_for(home: Estate) -> None:
    word = lines({"message": {"role": "assistant", "content": "Hel"}, "done": False})
    kind = (("content-type", "application/x-ndjson"),)
    home.fo.instead(Reply(body=word, headers=kind, framing="chunked", hang_after=held(word)))
    sdk = client(home, "ollama")
    with create(sdk, stream=True) as stream:
        for chunk in stream:
            if chunk.choices[0].delta.content:
                break
    sdk.close()
    home.fo.wait_for_close(home.fo.asked[0].connection)


def test_models(home: Estate) -> None:
    sdk = client(home, "ollama")

    assert [model.id for model in sdk.models.list()] == ["ollama/codellama", "claude-ollama-codellama"]
    assert sdk.models.retrieve("ollama/codellama").object == "model"
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("nix")


def test_models_of_anthropic_are_asked_for_as_anthropic_wants_it(home: Estate) -> None:
    listed = {
        "data": [
            {"type": "model", "id": "claude-x", "display_name": "X", "created_at": "2025-09-29T00:00:00Z"}
        ]
    }
    home.fa.on("/v1/models", Reply(body=json.dumps(listed).encode()))
    [model] = client(home, "anthropic").models.list()
    home.fa.on("/v1/models")
    [seen] = [one for one in home.fa.to("/v1/models") if one.headers.get("x-api-key") == CALLERS]

    assert (model.id, model.created, model.owned_by) == ("claude-x", 1759104000, "anthropic")
    assert seen.headers["anthropic-version"] == "2023-06-01"


def test_a_base_url_without_its_end_is_told_so(home: Estate) -> None:
    with pytest.raises(openai.NotFoundError, match="must end in /v1"):
        create(client(home, "ollama", path=""))
