"""The list of models, in both shapes at once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from modelproxy.worker.forms.models import listed

CLAUDE = {"type": "model", "id": "claude-x", "display_name": "Claude X", "created_at": "2025-09-29T00:00:00Z"}
ALIAS = {"id": "claude-ollama-q", "display_name": "ollama/q", "created_at": "1970-01-01T00:00:00Z"}


def of(said: Any) -> Any:
    return json.loads(listed(json.dumps(said).encode()))


def test_both_shapes_at_once() -> None:
    found = of({"data": [CLAUDE, ALIAS], "has_more": False, "first_id": "claude-x"})

    assert (found["object"], found["has_more"]) == ("list", False)
    assert found["data"] == [
        {**CLAUDE, "object": "model", "created": 1759104000, "owned_by": "anthropic"},
        {**ALIAS, "object": "model", "created": 0, "owned_by": "ollama"},
    ]
    assert of(CLAUDE) == found["data"][0]


@pytest.mark.parametrize("when", [None, "yesterday", 3, "9999-99-99"])
def test_a_time_that_is_none_is_unknown(when: Any) -> None:
    assert of({**CLAUDE, "created_at": when})["created"] == 0


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]"])
def test_what_is_no_list_is_left_as_it_is(body: bytes) -> None:
    assert listed(body) == body
    assert of({"data": [3]})["data"] == [3]
