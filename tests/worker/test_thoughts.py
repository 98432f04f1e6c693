"""Reasoning on its way out and back."""

from __future__ import annotations

from typing import Any

import pytest

from modelproxy.worker.forms import thoughts

OUT = [
    thoughts.text("I ", 0),
    thoughts.text("think", 0),
    thoughts.signature("sig0", 0),
    thoughts.redacted("dark", 1),
    thoughts.text("again", 2),
    thoughts.signature("sig2", 2),
]
BACK = [
    {"type": "thinking", "thinking": "I think", "signature": "sig0"},
    {"type": "redacted_thinking", "data": "dark"},
    {"type": "thinking", "thinking": "again", "signature": "sig2"},
]


@pytest.mark.parametrize("entries", [OUT, thoughts.merged(OUT)])
def test_what_goes_out_in_pieces_comes_back_in_blocks(entries: list[dict[str, Any]]) -> None:
    """Some clients keep each piece, others put them together."""
    assert thoughts.blocks({"reasoning_details": entries}) == BACK


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_text_that_a_client_keeps_only_beside_is_found(field: str) -> None:
    message = {"reasoning_details": [thoughts.signature("sig0", 0)], field: "I think"}

    assert thoughts.blocks(message) == BACK[:1]


def test_the_signature_of_two_blocks_is_not_guessed_upon() -> None:
    """Their texts cannot be told apart: without text Anthropic takes them as they are."""
    both = [thoughts.signature("a", 0), thoughts.signature("b", 1)]

    assert [
        block["thinking"] for block in thoughts.blocks({"reasoning_details": both, "reasoning": "t"})
    ] == ["", ""]


@pytest.mark.parametrize(
    "message",
    [
        {"reasoning_content": "nobody has signed it"},
        {"reasoning_details": [thoughts.text("nor this", 0)]},
        {
            "reasoning_details": [
                3,
                {"type": "reasoning.encrypted"},
                {"type": "reasoning.summary", "summary": "s"},
            ]
        },
        {"reasoning_details": "odd"},
    ],
)
def test_what_nobody_has_signed_is_of_no_use(message: dict[str, Any]) -> None:
    assert thoughts.blocks(message) == []
