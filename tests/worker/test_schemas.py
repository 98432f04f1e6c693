"""Schemas as each kind of server can read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelproxy.worker.dialects.schemas import Profile, sanitise

SAMPLES = Path(__file__).parents[1] / "cases" / "samples"

DEFAULT, STRICT, GEMINI, OLLAMA = Profile.DEFAULT, Profile.STRICT, Profile.GEMINI, Profile.OLLAMA


def inner(schema: Any, profile: Profile, **root: Any) -> Any:
    """What becomes of a property's schema."""
    return sanitise({"type": "object", "properties": {"x": schema}, **root}, profile)["properties"]["x"]


@pytest.mark.parametrize("profile", list(Profile))
@pytest.mark.parametrize(
    "schema", [None, {}, {"type": "object"}, [], "object", True, {"type": ["object", "null"]}]
)
def test_the_top_is_always_an_object(schema: Any, profile: Profile) -> None:
    assert sanitise(schema, profile) == {"type": "object", "properties": {}}


@pytest.mark.parametrize(
    ("schema", "required"),
    [
        ({"properties": {"a": {}}, "required": ["a", "gone", 5]}, ["a"]),
        ({"properties": {"a": {}}, "required": []}, None),
        ({"properties": {"a": {}}, "required": True}, None),
        ({"required": ["a"]}, None),
    ],
)
def test_p21_required_names_only_what_there_is(schema: Any, required: Any) -> None:
    assert sanitise(schema).get("required") == required


def test_the_default_keeps_every_standard_keyword() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string", "format": "uri", "minLength": 1, "default": "x"}},
        "additionalProperties": False,
        "$defs": {"x": {"const": 1}},
    }

    assert sanitise({"$schema": "http://x", "$id": "y", "$comment": "z", **schema}) == schema


def test_p21_a_property_called_like_a_keyword_stays_where_the_keyword_goes() -> None:
    names = ["format", "default", "title", "pattern", "$schema", "additionalProperties", "required"]
    schema = {
        "type": "object",
        "title": "T",
        "properties": {name: {"type": "string", "title": "T"} for name in names},
        "required": names,
    }
    for profile in (STRICT, GEMINI):
        found = sanitise(schema, profile)

        assert list(found["properties"]) == names
        assert found["required"] == names
        assert "title" not in found
        assert all("title" not in one for one in found["properties"].values())


def test_values_that_look_like_keywords_are_data() -> None:
    schema = {"enum": [{"format": "x"}], "type": "object"}

    assert inner(schema, STRICT) == schema


def test_p21_what_a_strict_server_refuses_is_said_in_words() -> None:
    found = inner(
        {"type": "array", "description": "Some.", "minItems": 1, "items": {"type": "integer", "maximum": 9}},
        STRICT,
    )

    assert found == {
        "type": "array",
        "description": "Some. (minItems: 1)",
        "items": {"type": "integer", "description": "(maximum: 9)"},
    }
    assert inner({"type": "string", "format": "uri", "default": None}, STRICT) == {
        "type": "string",
        "description": "(format: uri; default: null)",
    }


def test_gemini_knows_one_type_no_references_and_only_any_of() -> None:
    schema = {
        "type": ["string", "null"],
        "readOnly": True,
        "deprecated": True,
    }
    assert inner(schema, GEMINI) == {"type": "string", "nullable": True}
    assert inner({"const": 5}, GEMINI) == {"enum": [5]}
    assert inner({"oneOf": [{"type": "string"}, {"type": "integer"}]}, GEMINI) == {
        "anyOf": [{"type": "string"}, {"type": "integer"}]
    }
    assert inner({"type": "object", "additionalProperties": {"type": "string"}}, GEMINI) == {"type": "object"}


def test_p21_gemini_knows_no_other_keywords_and_every_list_says_of_what() -> None:
    """A tool that one server of the client's brings would have every request refused."""
    schema = {
        "type": "object",
        "properties": {"not": {"type": "string"}},
        "patternProperties": {"^x": {"type": "string"}},
        "if": {"required": ["a"]},
        "then": {"required": ["b"]},
        "dependentRequired": {"a": ["b"]},
    }

    assert inner(schema, GEMINI) == {
        "type": "object",
        "properties": {"not": {"type": "string"}},
        "description": '(patternProperties: {"^x":{"type":"string"}}; if: {"required":["a"]}; '
        'then: {"required":["b"]}; dependentRequired: {"a":["b"]})',
    }
    assert inner({"type": "array", "uniqueItems": True}, GEMINI) == {
        "type": "array",
        "items": {"type": "string"},
        "description": "(uniqueItems: true)",
    }
    assert inner({"type": "array", "prefixItems": [{"type": "integer"}]}, OLLAMA) == {
        "type": "array",
        "prefixItems": [{"type": "integer"}],
    }


def test_p22_what_ollama_decodes() -> None:
    schema = {
        "type": "object",
        "properties": {
            "x": True,
            "y": {"oneOf": [{"type": "string"}, True]},
            "z": {"type": ["string", "null"], "enum": "a", "description": 5, "properties": []},
            "c": {"const": "on"},
        },
        "required": "x",
    }

    assert sanitise(schema, OLLAMA) == {
        "type": "object",
        "properties": {
            "x": {},
            "y": {"anyOf": [{"type": "string"}, {}]},
            "z": {"type": ["string", "null"]},
            "c": {"enum": ["on"]},
        },
    }


def test_all_of_is_merged_and_the_first_wins() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "required": ["a"],
        "allOf": [
            {"properties": {"a": {"type": "integer", "description": "A."}, "b": {}}, "required": ["b"]},
            {"description": "More.", "type": "array"},
            True,
        ],
    }

    assert inner(schema, OLLAMA) == {
        "type": "object",
        "properties": {"a": {"type": "string", "description": "A."}, "b": {}},
        "required": ["a", "b"],
        "description": "More.",
    }


@pytest.mark.parametrize("profile", [GEMINI, OLLAMA])
@pytest.mark.parametrize(
    ("schema", "reduced"),
    [
        ({"anyOf": None}, {}),
        ({"anyOf": "ab", "oneOf": [{"type": "string"}]}, {"anyOf": [{"type": "string"}]}),
        ({"oneOf": [{"const": 1}], "anyOf": [{"const": 2}]}, {"anyOf": [{"enum": [1]}, {"enum": [2]}]}),
        ({"enum": [1, 2], "allOf": [{"enum": [2, 3]}]}, {"enum": [2]}),
        ({"enum": [1], "allOf": [{"enum": [2]}]}, {"enum": [1]}),
    ],
)
def test_choices_of_any_shape(schema: Any, reduced: Any, profile: Profile) -> None:
    assert inner(schema, profile) == reduced


@pytest.mark.parametrize("profile", [Profile.GEMINI, Profile.OLLAMA, Profile.INLINED])
@pytest.mark.parametrize("branch", [{"required": ["q", "nope"]}, {"$ref": "#/$defs/needs"}])
def test_a_branch_may_require_what_the_whole_has(branch: Any, profile: Profile) -> None:
    """Parted from its properties a `required` looks as if it named nothing."""
    schema = {
        "type": "object",
        "$defs": {"needs": {"required": ["q"]}},
        "properties": {"q": {"type": "string"}},
        "allOf": [branch],
    }

    assert sanitise(schema, profile)["required"] == ["q"]
    del schema["type"]
    inner = sanitise({"properties": {"a": schema}, "$defs": schema["$defs"]}, profile)["properties"]["a"]
    assert (inner["required"], inner.get("type", "object")) == (["q"], "object")


def test_references_are_put_in_and_circles_end() -> None:
    defs = {
        "leaf": {"type": "string", "description": "A leaf."},
        "node": {
            "type": "object",
            "properties": {"next": {"$ref": "#/$defs/node"}, "v": {"$ref": "#/$defs/leaf"}},
        },
    }

    found = sanitise(
        {"properties": {"n": {"$ref": "#/$defs/node", "description": "N."}}, "$defs": defs}, OLLAMA
    )
    assert found == {
        "type": "object",
        "properties": {
            "n": {
                "type": "object",
                "properties": {"next": {}, "v": {"type": "string", "description": "A leaf."}},
                "description": "N.",
            }
        },
    }


@pytest.mark.parametrize("reference", ["http://elsewhere/x", "#/$defs/gone", "#", "#/$defs/a~1b"])
def test_a_reference_that_leads_nowhere_is_anything(reference: str) -> None:
    found = inner({"$ref": reference, "description": "D."}, OLLAMA, **{"$defs": {"a/b": {"type": "string"}}})

    assert found["description"] == "D."
    assert "$ref" not in found


def test_a_choice_at_the_root_becomes_one_object() -> None:
    schema = {
        "oneOf": [
            {"properties": {"a": {"type": "string"}, "k": {}}, "required": ["k", "a"]},
            {"properties": {"b": {"type": "integer"}, "k": {}}, "required": ["k"]},
        ]
    }

    assert sanitise(schema, OLLAMA) == {
        "type": "object",
        "properties": {"a": {"type": "string"}, "k": {}, "b": {"type": "integer"}},
        "required": ["k"],
    }


def test_p23_keys_keep_their_order() -> None:
    schema = {"required": ["z"], "properties": {"z": {}, "a": {}, "m": {}}, "type": "object"}

    for profile in Profile:
        assert list(sanitise(schema, profile)) == ["required", "properties", "type"]
        assert list(sanitise(schema, profile)["properties"]) == ["z", "a", "m"]


def test_a_schema_that_would_grow_without_end_does_not() -> None:
    defs: dict[str, Any] = {"0": {"type": "string"}}
    for number in range(1, 40):
        two = {"$ref": f"#/$defs/{number - 1}"}
        defs[str(number)] = {"type": "object", "properties": {"a": two, "b": two}}

    found = sanitise({"properties": {"x": {"$ref": "#/$defs/39"}}, "$defs": defs}, OLLAMA)
    assert len(json.dumps(found)) < 5_000_000


def test_a_schema_nested_without_end_does_not_break_us() -> None:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(5000):
        schema = {"type": "object", "properties": {"a": schema}}

    for profile in Profile:
        assert sanitise(schema, profile)["type"] == "object"


KEYS = st.sampled_from(
    ["type", "properties", "items", "anyOf", "oneOf", "allOf", "required", "enum", "const", "$ref", "$defs", "not",
     "description", "format", "default", "additionalProperties", "x"]
)  # fmt: skip
VALUES = st.recursive(
    st.sampled_from([None, True, False, 1, "string", "object", "#/$defs/x", "#"]),
    lambda leaf: st.lists(leaf, max_size=3) | st.dictionaries(KEYS, leaf, max_size=4),
    max_leaves=20,
)


@given(VALUES, st.sampled_from(list(Profile)))
def test_anything_becomes_an_object_schema(value: Any, profile: Profile) -> None:
    before = json.dumps(value)
    found = sanitise(value, profile)

    assert found["type"] == "object"
    assert sanitise(found, profile) == sanitise(json.loads(json.dumps(found)), profile)
    assert json.dumps(value) == before
    if profile in (GEMINI, OLLAMA):
        _assert_decodable(found)


def _assert_decodable(schema: Any) -> None:
    """As Ollama's own decoder sees it: one wrong shape, and the whole request is refused."""
    assert isinstance(schema, dict)
    assert isinstance(schema.get("type", ""), str | list)
    assert isinstance(schema.get("description", ""), str)
    assert isinstance(schema.get("enum", []), list)
    assert all(isinstance(name, str) for name in schema.get("required", []))
    for one in schema.get("anyOf", []):
        _assert_decodable(one)
    for one in schema.get("properties", {}).values():
        _assert_decodable(one)


@pytest.mark.parametrize("profile", list(Profile))
@pytest.mark.parametrize("sample", sorted(path.name for path in SAMPLES.glob("*.json")))
def test_the_tools_of_real_clients_keep_all_their_properties(sample: str, profile: Profile) -> None:
    for tool in json.loads((SAMPLES / sample).read_text())["tools"]:
        schema = tool["input_schema"]
        found = sanitise(schema, profile)

        assert list(found["properties"]) == list(schema.get("properties", {}))
        assert found.get("required", []) == schema.get("required", [])
        assert "$schema" not in json.dumps(found)
