"""What both of OpenAI's APIs let a client wish for. (`test_chat` and `test_responses` send each of them.)"""

from __future__ import annotations

from typing import Any

import pytest

from modelproxy.worker.failures import Refused
from modelproxy.worker.forms import wishes
from modelproxy.worker.forms.asking import Terms

LITERAL = Terms(literal=("",))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b"{}", "model: must be"),
        (b'{"model":""}', "model: must be"),
        (b'{"model":"m","stream":1}', "stream: must be"),
    ],
)
def test_a_body_that_is_none(body: bytes, words: str) -> None:
    with pytest.raises(Refused, match=words):
        wishes.document(body)


def test_the_first_limit_counts() -> None:
    assert wishes.most({"a": None, "b": 2, "c": 3}, ("a", "b", "c")) == 2
    assert wishes.most({}, ("a",)) is None
    for wrong in (0, -1, True, "5", 1.5):
        with pytest.raises(Refused, match="a: must be a positive integer"):
            wishes.most({"a": wrong}, ("a",))


@pytest.mark.parametrize(
    ("terms", "thinks", "found"),
    [
        (Terms(), True, {"temperature": 1.5, "top_p": 0.5}),
        (LITERAL, False, {"temperature": 1}),
        (LITERAL, True, {}),
    ],
)
def test_who_takes_it_to_the_letter_gets_what_he_takes(
    terms: Terms, thinks: bool, found: dict[str, Any]
) -> None:
    said = {"model": "claude-sonnet-4-5", "temperature": 1.5, "top_p": 0.5}

    assert wishes.sampling(said, terms, is_thinking=thinks) == found


@pytest.mark.parametrize(
    ("model", "refuses"),
    [
        ("claude-3-5-haiku-latest", False),
        ("claude-sonnet-4-20250514", False),
        ("claude-haiku-4-5-20251001", False),
        ("claude-opus-4-6", False),
        ("claude-opus-4-7", True),
        ("claude-opus-4.8", True),
        ("claude-fable-5", True),
        ("claude-fable-5-20260301", True),
        ("anthropic/claude-sonnet-5-5", True),
        ("gpt-5", False),
        ("qwen3:8b", False),
    ],
)
def test_newer_models_of_anthropics_are_not_told_how_to_sample(model: str, refuses: bool) -> None:
    """They refuse it, and many clients say it always; where a dialect translates, it goes its way."""
    own, of_proxy = {"model": model, "temperature": 0}, {"model": "m", "temperature": 0}
    kept = {} if refuses else {"temperature": 0}

    assert wishes.sampling(own, LITERAL, is_thinking=False) == kept
    assert wishes.sampling(of_proxy, Terms(literal=("x", model)), is_thinking=False) == kept
    assert wishes.sampling(own, Terms(), is_thinking=False) == {"temperature": 0}


def test_a_schema_stands_beside_what_is_to_be_thought() -> None:
    thought = {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}
    form = {"type": "json_schema"}
    found = wishes.with_schema(thought, form, {"type": "object"})

    assert found["output_config"] == {
        "effort": "low",
        "format": {"type": "json_schema", "schema": {"type": "object"}},
    }
    assert wishes.with_schema(thought, form, None) == thought
    assert wishes.with_schema(thought, {"type": "text"}, {"type": "object"}) == thought


ADAPTIVE = {"thinking": {"type": "adaptive"}, "output_config": {"effort": "medium"}}


@pytest.mark.parametrize(
    ("models", "found"),
    [
        ((), ADAPTIVE),
        (("claude-opus-4-6",), ADAPTIVE),
        (("anthropic/claude-sonnet-5-5",), ADAPTIVE),
        (("qwen3:8b",), ADAPTIVE),
        (("claude-sonnet-4-5-20250929",), {"thinking": {"type": "enabled", "budget_tokens": 5000}}),
        (("claude-haiku-4.5", "claude-opus-4-1"), {"thinking": {"type": "enabled", "budget_tokens": 5000}}),
        (("claude-sonnet-4-5", "claude-opus-4-6"), {}),
        (("claude-3-5-haiku-latest",), {}),
        (("claude-3.5-sonnet", "claude-sonnet-4-5"), {}),
    ],
)
def test_effort_is_said_as_the_models_of_anthropics_take_it(
    models: tuple[str, ...], found: dict[str, Any]
) -> None:
    asks = {"model": "m", "max_tokens": 10_000, "messages": []}

    assert wishes.thinking("medium", asks, Terms(literal=models)) == found


@pytest.mark.parametrize(
    ("effort", "most", "budget"),
    [
        ("minimal", 20_000, 2000),
        ("low", 4000, 1024),
        ("high", 10_000, 8000),
        ("max", 10_000, 8000),
        ("high", 1025, 1024),
        ("high", 1024, None),
        ("low", 1, None),
    ],
)
def test_a_budget_leaves_room_for_the_answer(effort: str, most: int, budget: int | None) -> None:
    asks = {"model": "claude-sonnet-4-5", "max_tokens": most, "messages": []}
    found = {} if budget is None else {"thinking": {"type": "enabled", "budget_tokens": budget}}

    assert wishes.thinking(effort, asks, LITERAL) == found


def test_older_models_do_not_think_on_behind_calls_whose_reasoning_did_not_come_back() -> None:
    """Anthropic refuses that, and most clients of OpenAI's APIs bring none."""
    call = {"type": "tool_use", "id": "c", "name": "f", "input": {}}
    signed = {"type": "thinking", "thinking": "", "signature": "s"}
    asks = {"model": "claude-sonnet-4-5", "max_tokens": 9999}
    bare = {**asks, "messages": [{"role": "assistant", "content": [call]}]}
    whole = {**asks, "messages": [{"role": "assistant", "content": [signed, call]}]}

    assert wishes.thinking("high", bare, LITERAL) == {}
    assert wishes.is_thinking(wishes.thinking("high", whole, LITERAL))
    assert wishes.thinking("none", bare, LITERAL) == {"thinking": {"type": "disabled"}}


@pytest.mark.parametrize(
    ("name", "goes"),
    [
        ("user-7f3a", True),
        ("4711", True),
        ("me@example.com", False),
        ("+49 (30) 123-4567", False),
        ("x" * 257, False),
    ],
)
def test_anthropic_is_not_told_who_the_user_is(name: str, goes: bool) -> None:
    """It would refuse the request; where a dialect translates, it goes its way."""
    told = {"metadata": {"user_id": name}}

    assert wishes.user({"user": name}, LITERAL) == (told if goes else {})
    assert wishes.user({"safety_identifier": name}, Terms()) == told
    assert wishes.user({"user": 3}, LITERAL) == {}


@pytest.mark.parametrize(
    ("models", "goes_on"),
    [((), True), (("claude-sonnet-4-5",), True), (("qwen3",), True), (("x", "claude-opus-4-6"), False)],
)
def test_newer_models_of_anthropics_answer_and_do_not_go_on(models: tuple[str, ...], goes_on: bool) -> None:
    """They refuse a conversation that ends with their own words, which chat windows send to have more of an answer."""
    said = [{"role": "user", "content": []}, {"role": "assistant", "content": []}]
    found = wishes.ended(said, "m", Terms(literal=models))

    assert found[:2] == said
    assert [one["role"] for one in found[2:]] == ([] if goes_on else ["user"])
    assert wishes.ended(said[:1], "claude-opus-5-5", LITERAL) == said[:1]
