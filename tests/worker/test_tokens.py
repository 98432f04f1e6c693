"""The estimate of tokens."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelproxy.worker import tokens


def user(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


def block(**fields: Any) -> int:
    return tokens.of_prompt(user([fields])) - tokens.PER_MESSAGE


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("a", 1),
        ("a b c", 2),
        ("x" * 50, 8),
        ("漢" * 12, 10),
        ("\ud800", 1),
        (" " * 50, 1),
        ("-" * 50, 4),
    ],
)
def test_of_text(text: str, count: int) -> None:
    assert tokens.of_text(text) == count


CASES = Path(__file__).resolve().parents[1] / "cases"
COUNTS = json.loads((CASES / "tokens" / "counts.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", COUNTS["texts"])
def test_s142_texts_come_out_within_15_percent_of_a_tokenizer(name: str) -> None:
    """Prose in six languages, code, and a bit of everything; `how` in the file says how it was counted."""
    text = (CASES / "tokens" / f"{name}.txt").read_text(encoding="utf-8")

    assert tokens.of_text(text) == pytest.approx(COUNTS["texts"][name]["o200k_base"], rel=0.15)


@pytest.mark.parametrize("name", COUNTS["tools"])
def test_s142_tools_come_out_within_15_percent_of_a_tokenizer(name: str) -> None:
    tools = json.loads((CASES / "samples" / f"{name}.json").read_text(encoding="utf-8"))["tools"]
    estimate = tokens.of_prompt({"tools": tools}) - tokens.PER_TOOL * len(tools)

    assert estimate == pytest.approx(COUNTS["tools"][name]["o200k_base"], rel=0.15)


def test_every_text_that_was_counted_is_there() -> None:
    assert {path.stem for path in (CASES / "tokens").glob("*.txt")} == set(COUNTS["texts"])


@given(st.text(), st.text())
def test_more_text_is_never_fewer_tokens(first: str, second: str) -> None:
    assert tokens.of_text(first + second) >= tokens.of_text(first)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda leaf: st.lists(leaf) | st.dictionaries(st.text(), leaf),
    )
)
def test_any_prompt_has_a_positive_estimate(value: Any) -> None:
    body = {"messages": [{"role": "user", "content": value}, value], "system": value, "tools": [value]}

    assert tokens.of_prompt(body) > 0
    assert tokens.of_prompt({"messages": value, "tools": value}) > 0


def test_string_and_block_content_count_alike() -> None:
    assert tokens.of_prompt(user("hello world")) == tokens.of_prompt(
        user([{"type": "text", "text": "hello world"}])
    )


def test_each_part_of_a_prompt_counts() -> None:
    bare = tokens.of_prompt(user("hi"))
    tool = {"name": "get_weather", "description": "Weather of a city", "input_schema": {"type": "object"}}

    assert tokens.of_prompt({**user("hi"), "system": "x" * 50}) == bare + 8
    described = tokens.of_text(json.dumps(list(tool.values()), separators=(",", ":")))
    assert tokens.of_prompt({**user("hi"), "tools": [tool]}) == bare + 8 + described
    assert tokens.of_prompt({"messages": user("hi")["messages"] * 3}) == bare * 3


def png(width: int, height: int) -> str:
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return base64.b64encode(head + bytes(100_000)).decode()


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ({"type": "base64", "media_type": "image/png", "data": png(750, 100)}, 100),
        ({"type": "base64", "media_type": "image/png", "data": png(9000, 9000)}, 1600),
        ({"type": "base64", "media_type": "image/png", "data": png(0, 0)}, 1),
        ({"type": "base64", "media_type": "image/jpeg", "data": "/9j/" + "A" * 100_000}, 1500),
        ({"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo\u00e9"}, 1500),
        ({"type": "url", "url": "https://example.net/a.png"}, 1500),
        (None, 1500),
    ],
)
def test_a_picture_counts_by_its_size_not_its_bytes(source: Any, count: int) -> None:
    assert block(type="image", source=source) == count


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ({"type": "base64", "data": base64.b64encode(b"/Type /Pages /Type /Page /Type/Page").decode()}, 4000),
        ({"type": "base64", "data": "not base64"}, 2000),
        ({"type": "url", "url": "https://example.net/a.pdf"}, 2000),
        ({"type": "text", "data": "x" * 50}, 8),
        ({"type": "content", "content": "x" * 50}, 8),
        (None, 0),
    ],
)
def test_documents(source: Any, count: int) -> None:
    assert block(type="document", source=source) == count


def test_blocks_of_a_history() -> None:
    assert block(type="tool_result", content="x" * 50) == 8
    assert block(type="tool_result", content=[{"type": "text", "text": "x" * 50}]) == 8
    assert block(type="tool_use", name="n", input={"a": "x" * 60}) > 9
    assert block(type="thinking", thinking="x" * 50) == 8
    assert block(type="redacted_thinking", data="x" * 1000) == 0
    assert block(type="of tomorrow", stuff="x" * 60) > 9
