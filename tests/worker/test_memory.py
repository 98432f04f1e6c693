"""What a worker remembers for its clients."""

from __future__ import annotations

from typing import Any

import pytest

from modelproxy.worker.contract import Options
from modelproxy.worker.dialects import thinking
from modelproxy.worker.dialects.memory import Memory
from modelproxy.worker.dialects.openai import UNSIGNED, OpenAI
from modelproxy.worker.dialects.seam import Terms
from modelproxy.worker.wire import asks, codec
from modelproxy.worker.wire.items import ToolCall


def test_what_was_used_longest_ago_goes_first() -> None:
    memory = Memory(most_bytes=9)
    first, second = memory.keep("a"), memory.keep("b")
    assert memory.recall(first) == "a"
    memory.keep("cc", "third")

    assert [memory.recall(name) for name in (first, second, "third")] == ["a", None, "cc"]

    memory.keep("x" * 100, "large")
    assert memory.recall("large") is None
    assert memory.recall("never") is None


def test_the_same_name_is_kept_once() -> None:
    memory = Memory(most_bytes=10)
    for _ in range(20):
        memory.keep("abc", "n")

    assert memory.recall("n") == "abc"


def test_p56_details_too_long_to_travel_come_back_by_their_hash() -> None:
    """Only in the worker that made them; elsewhere the block is an empty one of the same maker."""
    details = {"details": [{"type": "reasoning.encrypted", "data": "x" * 70_000}]}
    memory = Memory()
    signature = thinking.sign("p", "m", details, memory)
    block: dict[str, Any] = {"type": "redacted_thinking", "data": signature}

    assert len(signature) < 200
    assert thinking.replay(block, "p", "m", memory) == thinking.Replay("", details)
    assert thinking.replay(block, "p", "m", Memory()) == thinking.Replay("", None)
    assert thinking.replay(block, "p", "other", memory) is None


# --- Gemini's calls -------------------------------------------------------------------------------------

GEMINI = OpenAI.of("openai", "gemini", None, server="gemini")
SIGNED = {"google": {"thought_signature": "c2ln"}}


def ask(*messages: Any) -> asks.Ask:
    tools = [{"name": "Bash", "input_schema": {"type": "object"}}]
    body = {"model": "claude-x", "max_tokens": 100, "messages": [*messages], "tools": tools}
    return asks.ask(codec.dumps(body))


def test_p56_the_signature_of_a_call_comes_back_with_it() -> None:
    """In a block there is no room for it, and without one Gemini refuses the turn."""
    terms = Terms("gemini", "gemini-3-pro", Options())
    function = {"name": "Bash", "arguments": "{}"}
    call = {"index": 0, "id": "c", "type": "function", "function": function, "extra_content": SIGNED}
    answer = {"choices": [{"delta": {"tool_calls": [call]}, "finish_reason": "tool_calls"}]}
    decoder = GEMINI.decoder(ask({"role": "user", "content": "a"}), terms, new_id=lambda prefix: f"{prefix}1")
    items = decoder.feed(b"data: " + codec.dumps(answer) + b"\n\n") + decoder.end()
    [made] = [item for item in items if isinstance(item, ToolCall)]

    def sent(terms: Terms) -> Any:
        use = {"type": "tool_use", "id": made.id, "name": "Bash", "input": {}}
        second = {**use, "id": "toolu_2"}
        results = [{"type": "tool_result", "tool_use_id": one["id"], "content": "r"} for one in (use, second)]
        history = ask(
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": [use, second]},
            {"role": "user", "content": results},
        )
        message = codec.loads(GEMINI.call(history, terms).body)["messages"][1]
        return [one.get("extra_content") for one in message["tool_calls"]]

    assert sent(terms) == [SIGNED, None]
    assert sent(Terms("gemini", "gemini-3-pro", Options())) == [UNSIGNED, None]


# --- reasoning of which the client wants no block ---------------------------------------------------------

ROUTER = OpenAI.of("openrouter", "openrouter", None)
DETAILS = [
    {"type": "reasoning.encrypted", "data": "xyz", "id": "r1", "index": 0, "format": "google-gemini-v1"}
]


@pytest.mark.parametrize("thinking", [None, {"type": "disabled"}])
def test_p56_reasoning_that_no_block_may_carry_comes_back_with_its_calls(thinking: Any) -> None:
    """Some models reason whether they are asked to or not, and refuse their own calls without it."""
    terms = Terms("openrouter", "google/gemini-3-pro", Options())
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "Bash", "arguments": "{}"}}
    said = {"reasoning": "hm", "reasoning_details": DETAILS, "tool_calls": [call]}
    answer = {"choices": [{"delta": said, "finish_reason": "tool_calls"}]}
    first = ask({"role": "user", "content": "a"})
    if thinking is not None:
        first.body["thinking"] = thinking
    decoder = ROUTER.decoder(first, terms, new_id=lambda prefix: f"{prefix}1")
    items = decoder.feed(b"data: " + codec.dumps(answer) + b"\n\n") + decoder.end()
    [made] = [item for item in items if isinstance(item, ToolCall)]

    def sent(terms: Terms, call_id: str = made.id) -> Any:
        use = {"type": "tool_use", "id": call_id, "name": "Bash", "input": {}}
        history = ask(
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": [use]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call_id, "content": "r"}]},
        )
        return codec.loads(ROUTER.call(history, terms).body)["messages"][1].get("reasoning_details")

    assert sent(terms) == DETAILS
    assert sent(terms, "toolu_other") is None
    assert sent(Terms("openrouter", "google/gemini-3-pro", Options())) is None
    assert sent(Terms("openrouter", "other/model", Options(), memory=terms.memory)) is None


def test_p56_reasoning_that_a_block_carries_is_not_kept() -> None:
    terms = Terms("openrouter", "google/gemini-3-pro", Options())
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "Bash", "arguments": "{}"}}
    answer = {
        "choices": [{"delta": {"reasoning_details": DETAILS, "tool_calls": [call]}, "finish_reason": "stop"}]
    }
    first = ask({"role": "user", "content": "a"})
    first.body["thinking"] = {"type": "adaptive"}
    decoder = ROUTER.decoder(first, terms, new_id=lambda prefix: f"{prefix}1")
    decoder.feed(b"data: " + codec.dumps(answer) + b"\n\n")
    decoder.end()

    assert terms.memory.recall("toolu_1 google/gemini-3-pro") is None
