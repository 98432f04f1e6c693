"""Which form a path belongs to, and what holds of every form."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelproxy.worker import app
from modelproxy.worker.failures import Refused
from modelproxy.worker.forms.asking import Form, Terms
from modelproxy.worker.forms.table import FORMS
from modelproxy.worker.wire import asks

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.sampled_from(["", "x", "function", "text", "user", "auto"])
)
KEYS = st.sampled_from(
    [
        "role", "content", "type", "text", "tool_calls", "id", "function", "name", "arguments", "image_url", "url",
        "file", "file_data", "custom", "input", "reasoning_details", "signature", "index", "tools", "parameters",
        "output", "json_schema", "schema", "allowed_tools",
    ]
)  # fmt: skip
TREES = st.recursive(
    LEAVES,
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(KEYS, inside, max_size=4),
    max_leaves=10,
)
FIELDS = st.sampled_from(
    [
        "messages", "input", "instructions", "tools", "tool_choice", "stop", "response_format", "reasoning_effort",
        "reasoning", "text", "stream_options", "functions", "function_call", "parallel_tool_calls", "include",
    ]
)  # fmt: skip
SPOKEN = st.fixed_dictionaries(
    {
        "role": st.just("assistant"),
        "tool_calls": st.lists(TREES, max_size=2) | TREES,
        "reasoning_details": TREES,
    }
)
SAID = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "tool", "system", "function"]),
        "content": TREES,
        "tool_call_id": LEAVES,
    }
)
TURNS = st.lists(SPOKEN | SAID, max_size=2)
NAMES = [
    "message_start",
    "content_block_start",
    "content_block_delta",
    "content_block_stop",
    "message_delta",
    "error",
]
PARTS = ("message", "content_block", "delta", "usage", "error")
EVENTS = st.lists(
    st.fixed_dictionaries({"type": st.sampled_from(NAMES)}, optional=dict.fromkeys(PARTS, TREES)), max_size=5
)
EVERY = pytest.mark.parametrize("form", [pytest.param(form, id=path) for path, form in FORMS.items()])


def test_every_path_of_another_api_has_its_form_and_no_other() -> None:
    """A path that the routes know and the table does not would be answered as if it were messages."""
    assert set(FORMS) == set(app.OTHERS)


@EVERY
@settings(max_examples=100, deadline=None)
@given(fields=st.dictionaries(FIELDS, TREES, max_size=4), turns=TURNS)
def test_whatever_is_asked_is_understood_or_refused(form: Form, fields: dict[str, Any], turns: Any) -> None:
    """And what comes out is a request that the worker takes."""
    body = {"model": "m", "messages": turns, "input": turns, **fields}
    try:
        found = form.asked(json.dumps(body).encode(), Terms(literal=("",)))
    except Refused as refused:
        assert refused.failure.message  # noqa: PT017  # either is fine, and hypothesis finds both
    else:
        asks.ask(found.body)


@EVERY
@settings(max_examples=100, deadline=None)
@given(events=EVENTS)
def test_whatever_is_answered_is_told_to_its_end(form: Form, events: list[dict[str, Any]]) -> None:
    said = {"role": "user", "content": "x"}
    asked = {"model": "m", "stream": True, "messages": [said], "input": "x"}
    answer = form.asked(json.dumps(asked).encode(), Terms()).answer
    told = b"".join(answer.feed(b"data: " + json.dumps(one).encode() + b"\n\n") for one in events)

    assert (told + answer.end()).endswith(b"\n\n")
