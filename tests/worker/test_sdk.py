"""The real `anthropic` SDK against a worker's handler on a real socket: what it cannot parse, no agent can."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import anthropic
import pytest
import trio
from fakes.serving import serving

from modelproxy.worker.contract import WorkerSpec
from modelproxy.worker.handler import Handler
from modelproxy.worker.stats import Stats

SPEC = WorkerSpec(name="demo", model_id="echo/demo", provider="echo", kind="echo", model="demo", port=3457)
WEATHER: Any = {
    "name": "get_weather",
    "description": "Weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}

T = TypeVar("T")


async def ask(use: Callable[[anthropic.Anthropic], T], *, api_key: str = "none") -> T:
    """Run `use` with a client in a thread: the SDK's synchronous half, as scripts use it."""
    handler = Handler(SPEC, stats=Stats(), log=lambda *_, **__: None, started_at=trio.current_time())

    def run(url: str) -> T:
        with anthropic.Anthropic(base_url=url, api_key=api_key, max_retries=0, timeout=20) as client:
            return use(client)

    async with serving(handler) as server:
        return await trio.to_thread.run_sync(run, server.url)


def say(content: Any) -> Any:
    return {"model": "claude-x", "max_tokens": 1000, "messages": [{"role": "user", "content": content}]}


async def test_plain() -> None:
    message = await ask(lambda client: client.messages.create(**say("hello there")))

    assert message.id.startswith("msg_")
    assert (message.type, message.role, message.model) == ("message", "assistant", "claude-x")
    assert [block.type for block in message.content] == ["text"]
    assert message.content[0].to_dict()["text"] == "hello there"
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert (message.usage.input_tokens, message.usage.output_tokens) == (7, 2)
    assert message._request_id is not None
    assert message._request_id.startswith("req_")


async def test_streamed() -> None:
    def use(client: anthropic.Anthropic) -> tuple[list[str], Any]:
        with client.messages.stream(**say("echo:slow 1ms\none two three é\u2028漢")) as stream:
            return list(stream.text_stream), stream.get_final_message()

    pieces, message = await ask(use)

    assert pieces == ["one ", "two ", "three ", "é\u2028", "漢"]
    assert message.content[0].text == "one two three é\u2028漢"
    assert message.stop_reason == "end_turn"
    assert message.usage.output_tokens == 5


async def test_raw_events_come_in_order() -> None:
    def use(client: anthropic.Anthropic) -> list[str]:
        return [event.type for event in client.messages.create(**say("hi"), stream=True)]

    assert await ask(use) == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


@pytest.mark.parametrize("streamed", [True, False])
async def test_parallel_tools_and_their_results(streamed: bool) -> None:
    orders = 'echo:tool get_weather {"city":"Oslo"}\necho:tool get_weather {"city":"Röm"}\nlooking'

    def create(client: anthropic.Anthropic, **request: Any) -> anthropic.types.Message:
        if not streamed:
            message: anthropic.types.Message = client.messages.create(**request, tools=[WEATHER])
            return message
        with client.messages.stream(**request, tools=[WEATHER]) as stream:
            return stream.get_final_message()

    def use(client: anthropic.Anthropic) -> tuple[Any, Any]:
        first = create(client, **say(orders))
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": "12 degrees"}
            for block in first.content
            if block.type == "tool_use"
        ]
        turns = [
            {"role": "user", "content": orders},
            {"role": "assistant", "content": [block.to_dict() for block in first.content]},
            {"role": "user", "content": results},
        ]
        return first, create(client, **{**say(""), "messages": turns})

    first, second = await ask(use)

    assert [block.type for block in first.content] == ["text", "tool_use", "tool_use"]
    assert [block.input for block in first.content[1:]] == [{"city": "Oslo"}, {"city": "Röm"}]
    assert first.content[1].id != first.content[2].id
    assert first.stop_reason == "tool_use"
    assert second.content[0].text == "\n".join(["get_weather returned: 12 degrees"] * 2)
    assert second.stop_reason == "end_turn"


async def test_the_tool_runner_goes_round() -> None:
    """It begins with a message thread, and must find its way when that is refused."""
    asked: list[str] = []

    def use(client: anthropic.Anthropic) -> Any:
        @anthropic.beta_tool
        def get_weather(city: str) -> str:
            """Weather of a city.

            Args:
                city: its name
            """
            asked.append(city)
            return "12 degrees"

        runner = client.beta.messages.tool_runner(
            **say('echo:tool get_weather {"city":"Oslo"}'), tools=[get_weather]
        )
        return runner.until_done()

    message = await ask(use)

    assert asked == ["Oslo"]
    assert message.content[0].text == "get_weather returned: 12 degrees"


async def test_thinking() -> None:
    def use(client: anthropic.Anthropic) -> Any:
        request = say("echo:think because I can\nyes")
        with client.messages.stream(**request, thinking={"type": "adaptive"}) as stream:
            return stream.get_final_message()

    message = await ask(use)

    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.content[0].thinking == "because I can"
    assert message.content[0].signature.startswith("px1.")


async def test_stops() -> None:
    limited = await ask(lambda client: client.messages.create(**{**say("one two three"), "max_tokens": 2}))
    stopped = await ask(lambda client: client.messages.create(**say("one two three"), stop_sequences=["two"]))

    assert limited.stop_reason == "max_tokens"
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "two")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("order", "error", "status", "words"),
    [
        ("echo:fail 429 retry 7s", anthropic.RateLimitError, 429, "answered 429"),
        (
            "echo:fail overflow",
            anthropic.BadRequestError,
            400,
            "prompt is too long: 200000 tokens > 100000 maximum",
        ),
        ("echo:fail 401", anthropic.PermissionDeniedError, 403, "answered 401"),
        ("echo:fail 404", anthropic.NotFoundError, 404, "answered 404"),
        ("echo:fail 500", anthropic.InternalServerError, 500, "answered 500"),
        ("echo:fail 529", anthropic.APIStatusError, 529, "answered 529"),
        ("echo:cut after 0", anthropic.InternalServerError, 500, "upstream closed the stream early"),
    ],
)
async def test_errors_are_the_sdks_own(
    order: str, error: type[anthropic.APIStatusError], status: int, words: str, stream: bool
) -> None:
    def use(client: anthropic.Anthropic) -> anthropic.APIStatusError:
        with pytest.raises(error) as raised:
            client.messages.create(**say(order), stream=stream)
        return raised.value

    raised = await ask(use)

    assert raised.status_code == status
    assert words in raised.message
    assert raised.request_id is not None
    assert raised.request_id.startswith("req_")
    if status == 429:
        assert raised.response.headers["retry-after"] == "7"


@pytest.mark.parametrize("order", ["echo:fail 529 after 2", "echo:cut after 2"])
async def test_an_error_in_the_middle_is_raised_and_not_a_short_answer(order: str) -> None:
    def use(client: anthropic.Anthropic) -> list[str]:
        seen: list[str] = []
        with (
            pytest.raises(anthropic.APIStatusError),
            client.messages.stream(**say(f"{order}\none two three four")) as stream,
        ):
            seen.extend(stream.text_stream)
        return seen

    await ask(use)


async def test_count_tokens() -> None:
    request = say("hello there")
    del request["max_tokens"]
    counted = await ask(lambda client: client.messages.count_tokens(**request, tools=[WEATHER]))
    used = await ask(lambda client: client.messages.create(**say("hello there"), tools=[WEATHER]))

    assert counted.input_tokens == used.usage.input_tokens > 7


async def test_models() -> None:
    def use(client: anthropic.Anthropic) -> tuple[list[str], list[str], str]:
        paged = [model.id for model in client.models.list(limit=1)]
        whole = [model.id for model in client.models.list(limit=1000)]
        return paged, whole, client.models.retrieve("echo/demo").display_name

    both = ["echo/demo", "claude-echo-demo"]
    assert await ask(use) == (both, both, "echo/demo")


@pytest.mark.slow
async def test_large_answers_and_prompts_arrive_whole() -> None:
    def use(client: anthropic.Anthropic) -> tuple[str, str, str]:
        plain: Any = client.messages.create(**say("echo:bytes 10000000"))
        with client.messages.stream(**say("echo:bytes 10000000")) as stream:
            streamed = stream.get_final_text()
        picture = {"type": "base64", "media_type": "image/png", "data": "A" * 20_000_000}
        seen: Any = client.messages.create(**say([{"type": "image", "source": picture}]))
        return plain.content[0].text, streamed, seen.content[0].text

    plain, streamed, seen = await ask(use)

    assert len(plain) == 10_000_000
    assert plain == streamed
    assert seen == "[image]"
