"""Tools of other APIs."""

from __future__ import annotations

from typing import Any

import pytest

from modelproxy.worker.forms import tooling

EMPTY = {"type": "object", "properties": {}}


@pytest.mark.parametrize("parameters", [None, {}, "odd"])
def test_a_function_has_always_a_schema(parameters: Any) -> None:
    assert tooling.function("f", None, parameters) == {"name": "f", "input_schema": EMPTY}


def test_a_custom_tool_takes_one_text_and_is_told_its_grammar() -> None:
    grammar = {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: WORD"}}
    found = tooling.custom("patch", "Applies a patch.", grammar)

    assert found["input_schema"]["required"] == ["input"]
    assert found["description"] == "Applies a patch.\n\nThe input follows this lark grammar:\nstart: WORD"
    assert tooling.custom("patch", None, {"type": "text"}) == {
        "name": "patch",
        "input_schema": found["input_schema"],
    }


def test_a_grammar_may_stand_flat_as_in_the_other_api() -> None:
    flat = {"type": "grammar", "syntax": "regex", "definition": "a+"}

    assert tooling.custom("p", None, flat)["description"] == "The input follows this regex grammar:\na+"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"input":"*** Begin"}', "*** Begin"),
        ('{"input":3}', '{"input":3}'),
        ("*** raw", "*** raw"),
        ("[1]", "[1]"),
        ("", ""),
    ],
)
def test_the_text_of_a_custom_call(arguments: str, text: str) -> None:
    assert tooling.custom_input(arguments) == text


def test_choices() -> None:
    assert tooling.chosen("auto") is None
    assert tooling.chosen("auto", parallel=False) == {"type": "auto", "disable_parallel_tool_use": True}
    assert tooling.chosen("none", parallel=False) == {"type": "none"}
    assert tooling.chosen("tool", "f") == {"type": "tool", "name": "f"}
    assert [tooling.is_forced(tooling.chosen(kind)) for kind in ("auto", "none", "any", "tool")] == [
        False,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("effort", "known"),
    [
        ("minimal", "low"),
        ("low", "low"),
        ("medium", "medium"),
        ("xhigh", "xhigh"),
        ("max", "max"),
        ("new", "new"),
    ],
)
def test_efforts(effort: str, known: str) -> None:
    assert tooling.efforts(effort, forced=False) == {
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": known},
    }


def test_no_effort_is_no_thinking_and_a_forced_call_leaves_no_room_for_it() -> None:
    off = {"thinking": {"type": "disabled"}}

    assert tooling.efforts("none", forced=False) == tooling.efforts("high", forced=True) == off
    assert tooling.efforts(None, forced=False) == tooling.efforts(3, forced=False) == {}
