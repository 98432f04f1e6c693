"""What becomes of the arguments that models write."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelproxy.worker.dialects import arguments
from modelproxy.worker.dialects.arguments import RAW

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda leaf: st.lists(leaf, max_size=4) | st.dictionaries(st.text(), leaf, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(), JSON, max_size=5)


def repaired(text: Any, *, truncated: bool = False) -> Any:
    return json.loads(arguments.repair(text, truncated=truncated))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # what parses is taken, in its own order
        ('{"z":1,"a":2}', {"z": 1, "a": 2}),
        ({"z": 1}, {"z": 1}),
        ('{"n": 123456789012345678901234567890}', {"n": 123456789012345678901234567890}),
        # nothing means no arguments
        (None, {}),
        ("", {}),
        ("  \n", {}),
        ("null", {}),
        ("{}", {}),
        # S68: encoded twice
        ('"{\\"a\\": 1}"', {"a": 1}),
        (json.dumps(json.dumps('{"a": 1}')), {"a": 1}),
        # P42: raw control characters, wrong escapes
        ('{"content":"a\nb\tc","path":"C:\\dir"}', {"content": "a\nb\tc", "path": "C:\\dir"}),
        ('{"re":"\\d+\\.","it":"it\\\'s"}', {"re": "\\d+\\.", "it": "it's"}),
        ('{"u":"\\u12 \\u00e9 \\ud83d\\ude00\n"}', {"u": "\\u12 é 😀\n"}),
        # commas, quotes and literals of other languages
        ('{"a": [1, 2,], "b": 3,}', {"a": [1, 2], "b": 3}),
        ("{'a': True, 'b': None, 'c': False}", {"a": True, "b": None, "c": False}),
        ("{a: 1.5}", {"a": 1.5}),
        # fences and prose
        ('```json\n{"a": 1}\n```', {"a": 1}),
        ('Sure! Here it is: {"a": 1,} Enjoy.', {"a": 1}),
        # wrapped, doubled, behind an empty shell
        ('[{"a": 1}]', {"a": 1}),
        ([{"a": 1}], {"a": 1}),
        ('{}{"a": 1}', {"a": 1}),
        ('{"a": 1}\n{"a": 1}', {"a": 1}),
        # brackets missing behind a value that is whole
        ('{"a": "x"', {"a": "x"}),
        ('{"a": [true', {"a": [True]}),
        ('{"a": {"b": [{"c": "x"}', {"a": {"b": [{"c": "x"}]}}),
    ],
)
def test_p19_p42_what_can_be_read_in_one_way_is_read(text: Any, value: Any) -> None:
    assert repaired(text) == value
    assert list(repaired(text)) == list(value)


@pytest.mark.parametrize(
    "text",
    [
        '{"command": "rm -rf ./bui',  # an open string is never closed
        "{'command': 'rm -rf ./bui",
        '{"command": "rm", "lines": 12',  # of 120?
        '{"command": "rm", "dry": tru',
        '{"command": "rm",',
        '{"command": "rm", "dry_run"',
        '{"command": "rm", "dry_run":',
        '{"command": "rm" "x": 1}',
        '{"command": "echo "hi" there"}',
        '{"command": "a"} {"command": "b"}',
        '{"command": "a"} and then {"command": "b"}',
        '[{"command": "a"}, {"command": "b"}]',
        "[1]",
        "{",
        "rm -rf /",
        '"a text"',
        "12",
        "{" * 500,
        '{"a":' * 500,
        '{"n": 1e999}',
        '{"n": NaN}',
        "{\x00}",
    ],
)
def test_p43_what_cannot_is_handed_over_unexecutable(text: str) -> None:
    assert repaired(text) == {RAW: text}


@pytest.mark.parametrize("value", [[1], [], 5, True, [{"a": 1}, {"b": 2}]])
def test_values_that_are_no_object(value: Any) -> None:
    assert repaired(value) == {RAW: json.dumps(value, separators=(",", ":"))}


@pytest.mark.parametrize("text", ["", None, '{"command": "ls"', '{"command": "ls",}', "```{}```", "null"])
def test_p43_a_call_that_was_cut_is_whole_or_not_at_all(text: str | None) -> None:
    assert list(repaired(text, truncated=True)) == [RAW]
    assert repaired('{"command": "ls"}', truncated=True) == {"command": "ls"}
    assert repaired({"command": "ls"}, truncated=True) == {"command": "ls"}


@given(OBJECTS)
def test_any_object_survives_as_it_is(value: dict[str, Any]) -> None:
    assert repaired(json.dumps(value)) == value
    assert repaired(value) == value
    assert arguments.is_complete(json.dumps(value))


@given(OBJECTS.filter(bool), st.data())
def test_p43_no_beginning_of_an_object_gives_a_text_that_was_not_whole(
    value: dict[str, Any], data: st.DataObject
) -> None:
    """Cut anywhere: every text and number that comes out stands whole in the original."""
    whole = json.dumps(value)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]

    found = repaired(cut)
    if RAW not in found:
        assert _is_part(found, value)
    assert repaired(cut, truncated=True) == {RAW: cut}


def _is_part(found: Any, whole: Any) -> bool:
    if isinstance(found, dict) and isinstance(whole, dict):
        return all(key in whole and _is_part(inner, whole[key]) for key, inner in found.items())
    if isinstance(found, list) and isinstance(whole, list):
        return len(found) <= len(whole) and all(map(_is_part, found, whole))
    return bool(found == whole)


@given(st.text(alphabet="{}[]\"'\\,:u0aTn1 \n", max_size=40), st.booleans())
def test_whatever_comes_in_one_object_comes_out(text: str, truncated: bool) -> None:
    assert isinstance(repaired(text, truncated=truncated), dict)


@given(st.text(max_size=60))
def test_any_text_gives_an_object_that_every_client_parses(text: str) -> None:
    made = arguments.repair(text)

    assert isinstance(json.loads(made), dict)
    assert len(made.decode().splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('{"a":1}{"b":2}', ['{"a":1}', '{"b":2}']),
        ('{"a":1}', ['{"a":1}']),
        ("nothing", ["nothing"]),
        ('{"a":1}{"b', ['{"a":1}{"b']),
    ],
)
def test_p39_calls_that_ran_together_are_parted(text: str, parts: list[str]) -> None:
    assert arguments.split(text) == parts


@pytest.mark.parametrize(
    ("value", "kept"),
    [({"a": 1}, {"a": 1}), (None, {}), ('{"a": 1}', {"a": 1}), ("bad {", {RAW: "bad {"}), (5, {RAW: "5"})],
)
def test_p19_the_history_only_holds_objects(value: Any, kept: dict[str, Any]) -> None:
    assert arguments.of_history(value) == kept


def test_texts_become_the_types_of_the_schema_where_they_can_mean_only_that() -> None:
    kinds = ("integer", "number", "boolean", "object", "array", "string")
    schema = {"properties": {kind: {"type": kind} for kind in kinds} | {"free": {}, "odd": True}}
    said = {
        "integer": "5",
        "number": "1.5",
        "boolean": "true",
        "object": '{"a":1}',
        "array": "[1]",
        "string": "5",
        "free": "5",
        "odd": "5",
        "unknown": "5",
    }

    assert arguments.coerced(said, schema) == {
        **said,
        "integer": 5,
        "number": 1.5,
        "boolean": True,
        "object": {"a": 1},
        "array": [1],
    }


@pytest.mark.parametrize(
    ("kind", "text"), [("integer", "five"), ("integer", "1.5"), ("boolean", "yes"), ("object", "[1]")]
)
def test_what_may_mean_something_else_stays_a_text(kind: str, text: str) -> None:
    assert arguments.coerced({"a": text}, {"properties": {"a": {"type": kind}}}) == {"a": text}


@pytest.mark.parametrize("schema", [None, True, {}, {"properties": []}])
def test_without_a_schema_nothing_is_changed(schema: Any) -> None:
    assert arguments.coerced({"a": "5"}, schema) == {"a": "5"}
