"""Arguments made from schemas."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelproxy.worker.dialects.samples import sample
from modelproxy.worker.wire import codec


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "string"}, "text"),
        ({"type": "integer", "minimum": 5}, 5),
        ({"type": "number"}, 1),
        ({"type": "boolean"}, True),
        ({"type": "null"}, None),
        ({"type": ["integer", "null"]}, 1),
        ({"type": []}, "text"),
        ({"type": "array", "items": {"type": "integer"}}, []),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 2}, [1, 1]),
        ({"enum": ["b", "a"]}, "b"),
        ({"const": 5}, 5),
        ({"type": "string", "default": "d"}, "d"),
        ({"type": "string", "examples": ["Oslo"]}, "Oslo"),
        ({"anyOf": [{"type": "boolean"}, {"type": "string"}]}, True),
        ({"type": "object"}, {}),
        ({"properties": {"a": {"type": "integer"}, "b": {}}, "required": ["a", "gone"]}, {"a": 1}),
        (
            {
                "type": "object",
                "properties": {"a": {"$ref": "#/$defs/x"}},
                "required": ["a"],
                "$defs": {"x": {"const": 2}},
            },
            {"a": 2},
        ),
        ({"$ref": "#/nowhere"}, "text"),
        (None, "text"),
    ],
)
def test_sample(schema: Any, value: Any) -> None:
    assert sample(schema) == value


def test_a_schema_that_refers_to_itself_ends() -> None:
    node: dict[str, Any] = {"properties": {"next": {"$ref": "#"}}, "required": ["next"]}

    assert len(codec.dumps(sample(node))) < 200


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda leaf: (
            st.lists(leaf)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "type",
                        "properties",
                        "required",
                        "items",
                        "enum",
                        "anyOf",
                        "$ref",
                        "minItems",
                        "minimum",
                    ]
                ),
                leaf,
            )
        ),
    )
)
def test_no_schema_breaks_it(schema: Any) -> None:
    codec.dumps(sample(schema))
