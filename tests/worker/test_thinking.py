"""Reasoning that travels through the client and back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelproxy.worker.dialects import thinking
from modelproxy.worker.dialects.thinking import Envelope, Inline, Replay
from modelproxy.worker.wire.items import Item, Text, Thinking

JSON = st.recursive(
    st.none() | st.integers() | st.text(), lambda leaf: st.dictionaries(st.text(), leaf, max_size=3)
)


@given(st.text(), st.text(), JSON)
def test_an_envelope_is_opened_as_it_was_closed(provider: str, model: str, details: Any) -> None:
    signature = thinking.sign(provider, model, details)

    assert signature.startswith("px1.")
    assert signature.isascii()
    assert thinking.opened(signature) == Envelope(provider, model, details)


@pytest.mark.parametrize("signature", ["", "px1.", "px1.!!", "px1.W10", "px1.e30", "ErUB3x", None, 5])
def test_what_is_not_ours_or_is_damaged_opens_to_nothing(signature: Any) -> None:
    assert thinking.opened(signature) is None


def test_details_too_long_to_carry_stay_behind() -> None:
    opened = thinking.opened(thinking.sign("p", "m", "x" * thinking.LONGEST_DETAILS))

    assert opened == Envelope("p", "m", None)


OURS = thinking.sign("ollama", "m", {"text": "hidden"})


@pytest.mark.parametrize(
    ("block", "back"),
    [
        ({"type": "thinking", "thinking": "so", "signature": OURS}, Replay("so", {"text": "hidden"})),
        ({"type": "thinking", "signature": OURS}, Replay("", {"text": "hidden"})),
        ({"type": "redacted_thinking", "data": OURS}, Replay("", {"text": "hidden"})),
        ({"type": "thinking", "thinking": "so", "signature": thinking.sign("ollama", "other")}, None),
        ({"type": "thinking", "thinking": "so", "signature": thinking.sign("other", "m")}, None),
        ({"type": "thinking", "thinking": "so", "signature": "ErUB"}, None),
        ({"type": "thinking", "thinking": "so"}, None),
    ],
)
def test_only_its_own_maker_sees_a_block_again(block: dict[str, Any], back: Replay | None) -> None:
    assert thinking.replay(block, "ollama", "m") == back
    assert thinking.is_thinking(block)


@pytest.mark.parametrize(
    ("block", "foreign"),
    [
        ({"type": "thinking", "thinking": "a", "signature": ""}, True),
        ({"type": "thinking", "thinking": "a"}, True),
        ({"type": "thinking", "thinking": "a", "signature": OURS}, True),
        ({"type": "redacted_thinking", "data": OURS}, True),
        ({"type": "thinking", "thinking": "a", "signature": "ErUB"}, False),
        ({"type": "redacted_thinking", "data": "ErUB"}, False),
        ({"type": "text", "text": "a"}, False),
    ],
)
def test_p54_what_anthropic_would_refuse_is_known(block: dict[str, Any], foreign: bool) -> None:
    assert thinking.is_foreign_to_anthropic(block) is foreign


def inline(*pieces: str) -> list[tuple[type[Item], str]]:
    """The items, neighbours of one kind joined."""
    reader = Inline()
    found: list[tuple[type[Item], str]] = []
    items = [item for piece in pieces for item in reader.feed(piece)] + reader.end()
    for item in items:
        assert isinstance(item, Text | Thinking)
        assert item.text
        if found and found[-1][0] is type(item):
            found[-1] = (type(item), found[-1][1] + item.text)
        else:
            found.append((type(item), item.text))
    return found


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("hello", [(Text, "hello")]),
        ("  hello <think>x</think>", [(Text, "  hello <think>x</think>")]),
        ("<think>so</think>\n\nhello", [(Thinking, "so"), (Text, "hello")]),
        ("\n<think>so</think>hello</think>", [(Thinking, "so"), (Text, "hello</think>")]),
        ("<think></think>hello", [(Text, "hello")]),
        ("<think>never ends", [(Thinking, "never ends")]),
        ("<think>a<b</thi", [(Thinking, "a<b</thi")]),
        ("<thin", [(Text, "<thin")]),
        ("<thinking>", [(Text, "<thinking>")]),
        ("<think>so</think>\n", [(Thinking, "so")]),
        ("", []),
    ],
)
def test_reasoning_in_the_text_is_found_at_the_start_only(text: str, items: Any) -> None:
    assert inline(text) == items
    assert inline(*text) == items
