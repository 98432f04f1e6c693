"""OpenRouter's own web search in place of Anthropic's, through real processes and the real SDK (issue 3)."""

from __future__ import annotations

import threading
from typing import Any

import anthropic
import pytest
from fakes import grammar
from fakes.upstream import Reply

from .providers import SDK_LIMIT_S, Estate, Said, error_of, msg, post

pytestmark = pytest.mark.slow

CONFIG = """
[providers.openrouter]
base_url = "{fr}"
api_key = "sk-or-v1-of-the-configuration"

[providers.searching]
kind = "openrouter"
base_url = "{fr}"
api_key = "sk-or-v1-of-the-configuration"
web_search = true
ping = "1s"
hold = "100ms"
"""
TOOL: Any = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}
ASKED: Any = msg(
    "Perform a web search for the query: trio", model="claude-x", tools=[TOOL], tool_choice={"type": "auto"}
)
SOURCES = (("Trio", "https://trio.example/"), ("B", "https://b.example/"))
SAID = Said(
    ("Trio is ", "a library."),
    sources=SOURCES,
    usage={"cost": 0.0123, "server_tool_use": {"web_search_requests": 2}},
)


def as_events(here: Estate, **more: Any) -> Reply:
    headers = (("content-type", "text/event-stream"),)
    return Reply(body=here.fr.streamed(SAID), headers=headers, framing="chunked", **more)


def sdk(port: int) -> anthropic.Anthropic:
    return anthropic.Anthropic(
        base_url=f"http://127.0.0.1:{port}", api_key="dummy", max_retries=0, timeout=SDK_LIMIT_S
    )


@pytest.mark.parametrize("streamed", [False, True])
def test_the_sdk_reads_a_search(here: Estate, streamed: bool) -> None:
    here.fr.said = SAID
    with sdk(here.up("searching/model")) as client:
        if streamed:
            with client.messages.stream(**ASKED) as events:
                message = events.get_final_message()
        else:
            message = client.messages.create(**ASKED)
    call, result, text = message.content
    row = here.usage()[-1]

    assert here.fr.sent["tools"] == [{"type": "openrouter:web_search", "parameters": {"max_uses": 8}}]
    assert isinstance(call, anthropic.types.ServerToolUseBlock)
    assert isinstance(result, anthropic.types.WebSearchToolResultBlock)
    assert isinstance(text, anthropic.types.TextBlock)
    assert (call.name, call.id[:9], result.tool_use_id) == ("web_search", "srvtoolu_", call.id)
    assert isinstance(result.content, list)
    assert tuple((one.title, one.url) for one in result.content) == SOURCES
    assert (text.text, message.stop_reason) == ("Trio is a library.", "end_turn")
    assert message.usage.server_tool_use is not None
    assert message.usage.server_tool_use.web_search_requests == 2
    assert (row["cost_usd"], row["cost_source"], row["output_tokens"]) == (0.0123, "provider", 7)


def test_while_an_answer_is_held_the_stream_says_ping(here: Estate) -> None:
    """Text comes long before its sources: nothing of it is shown, and the connection lives."""
    gate = threading.Semaphore(0)
    here.fr.instead(as_events(here, gate=gate))
    port = here.up("searching/model")
    with sdk(port) as client, client.messages.with_streaming_response.create(**ASKED, stream=True) as answer:
        lines = answer.iter_lines()
        seen = [next(lines)]
        while "event: ping" not in seen:
            seen.append(next(lines))
        gate.release(99)
        seen += lines
    said = grammar.check("\n".join([*seen, ""]).encode())

    assert seen.index("event: ping") < seen.index("event: content_block_start")
    assert said.complete
    assert said.text == "Trio is a library."


def test_an_answer_that_breaks_off_is_no_search(here: Estate) -> None:
    here.fr.instead(as_events(here, cut_after=400))

    assert error_of(here.up("searching/model"), ASKED, streamed=True)["error"]["type"] == "api_error"


def test_a_search_is_refused_until_the_configuration_allows_it(here: Estate) -> None:
    """And the proxy that runs is rolled."""
    here.fr.said = SAID
    port = here.up("openrouter/model")
    before = post(port, ASKED)
    asked = len(here.fr.asked)
    here.house.tell("config", "set", "providers.openrouter.web_search", "true", "--json")
    here.house.wait_rolled(2, "openrouter/model")
    after = post(port, ASKED)

    assert before.status == 400
    assert before.json["error"]["message"] == "openrouter cannot run the server tool web_search"
    assert asked == 0
    assert after.status == 200
    assert [block["type"] for block in after.json["content"]] == [
        "server_tool_use",
        "web_search_tool_result",
        "text",
    ]
