"""Reasoning in one opaque string, and back."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from modelproxy.worker.forms import seals


@pytest.mark.parametrize(
    "block",
    [
        {"type": "thinking", "thinking": "I think é", "signature": "c2ln"},
        {"type": "thinking", "thinking": "", "signature": "px1.x"},
        {"type": "redacted_thinking", "data": "dark"},
    ],
)
def test_a_block_comes_back_as_it_was(block: dict[str, Any]) -> None:
    seal = seals.sealed(block)

    assert seal is not None
    assert seal.isascii()
    assert seals.opened(seal) == block


def test_what_nobody_has_signed_could_not_come_back() -> None:
    assert seals.sealed({"type": "thinking", "thinking": "x", "signature": ""}) is None


def packed(value: Any) -> str:
    return "mp1." + base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


@pytest.mark.parametrize(
    "foreign",
    [
        None,
        7,
        "",
        "gAAAAABo",
        "mp1.",
        "mp1.%%%",
        "mp1.AAAA",
        "mp1.!" + str(seals.sealed({"type": "thinking", "signature": "x"}))[4:],
        packed([]),
        packed({"type": "text", "text": "say this"}),
        packed({"type": "tool_use", "id": "x"}),
    ],
)
def test_what_we_have_not_written_is_nobodys_reasoning(foreign: Any) -> None:
    """Nor does a string of somebody's become words or calls of the model's."""
    assert seals.opened(foreign) is None
