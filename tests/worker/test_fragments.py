"""Tool calls out of fragments; how servers really send them stands in the golden cases too."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelproxy.worker.dialects.fragments import Calls, Extent
from modelproxy.worker.wire.openai import Fragment


def put_together(*fragments: Fragment, offered: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    calls = Calls(offered)
    for fragment in fragments:
        calls.add(fragment)
    return [(call.name, call.arguments) for call in calls.all()]


F = Fragment


@pytest.mark.parametrize(
    ("fragments", "calls"),
    [
        ([], []),
        ([F()], []),
        ([F(0, "", "", "")], []),
        ([F(0, "a", "x", "{}")], [("x", "{}")]),
        ([F(0, "a", "x"), F(0, "a", "x", '{"a'), F(0, "a", "x", '":1}')], [("x", '{"a":1}')]),
        # An id per call at one index, and pieces that take turns.
        (
            [F(0, "a", "x", "{"), F(0, "b", "y", "{"), F(0, "a", "", "}"), F(0, "b", "", "}")],
            [("x", "{}"), ("y", "{}")],
        ),
        # The same id for all: the index tells them apart.
        (
            [F(0, "c", "x", "{}"), F(1, "c", "y", "{"), F(0, "c", "", " "), F(1, "c", "", "}")],
            [("x", "{} "), ("y", "{}")],
        ),
        # Also where the name comes late.
        (
            [F(0, "c", "x", '{"a":1}'), F(1, "c", "", '{"b'), F(1, "", "y", '":2}')],
            [("x", '{"a":1}'), ("y", '{"b":2}')],
        ),
        ([F(0, "c", "x", "{}"), F(1, "c"), F(1, "", "y", '{"b":2}')], [("x", "{}"), ("y", '{"b":2}')]),
        # Or where the one before takes no arguments, or is not whole: under another name it cannot drift.
        ([F(0, "c", "x"), F(1, "c", "y", '{"b":2}')], [("x", ""), ("y", '{"b":2}')]),
        (
            [F(0, "c", "x", '{"a"'), F(1, "c", "y", '{"b"'), F(0, "", "", ":1}"), F(1, "", "", ":2}")],
            [("x", '{"a":1}'), ("y", '{"b":2}')],
        ),
        # Another id on every fragment, also on those that say nothing.
        (
            [F(0, "a", "x"), F(0, "b"), F(0, "c", "", '{"a"'), F(0, "d"), F(0, "e", "", ":1}")],
            [("x", '{"a":1}')],
        ),
        ([F(0, "a", "x"), F(0, "b"), F(0, "", "y", "{}")], [("x", ""), ("y", "{}")]),
        # The same id under rising indices: one call that drifts.
        ([F(0, "c", "x", '{"a"'), F(1, "c", "", ":1"), F(2, "c", "", "}")], [("x", '{"a":1}')]),
        ([F(0, "c", "x", '{"a":1}'), F(1, "c", "", "\n")], [("x", '{"a":1}\n')]),
        # No index.
        ([F(None, "a", "x", "{}"), F(None, "b", "y", "{}")], [("x", "{}"), ("y", "{}")]),
        ([F(None, "", "x", "{}"), F(None, "", "y", "{}")], [("x", "{}"), ("y", "{}")]),
        ([F(None, "", "x", '{"a":1}'), F(None, "", "x", '{"a":2}')], [("x", '{"a":1}'), ("x", '{"a":2}')]),
        ([F(None, "", "x"), F(None, "a", "", "{}")], [("x", "{}")]),
        # An index that comes late, or not again.
        ([F(None, "a", "x"), F(0, "", "", '{"a"'), F(0, "", "", ":1}")], [("x", '{"a":1}')]),
        ([F(None, "a", "x", "{}"), F(0, "b", "y", "{}")], [("x", "{}"), ("y", "{}")]),
        ([F(0, "a", "x"), F(None, "", "", "{}")], [("x", "{}")]),
        (
            [F(None, "a", "x", "{"), F(None, "b", "y", "{}"), F(None, "a", "", "}")],
            [("x", "{}"), ("y", "{}")],
        ),
        # No ids, one index: another name behind a whole call, also where calls take no arguments.
        ([F(0, "", "x", "{}"), F(0, "", "y", "{}")], [("x", "{}"), ("y", "{}")]),
        ([F(0, "", "x"), F(0, "", "y")], [("x", ""), ("y", "")]),
        ([F(0, "", "x", '{"a":'), F(0, "", "y", "1}")], [("x", '{"a":1}')]),
        # Run together.
        ([F(0, "", "x", '{"a":1} {"a":2}{"a":3}')], [("x", f'{{"a":{n}}}') for n in (1, 2, 3)]),
        (
            [F(0, "", "x", '{"a":1}'), F(0, "", "", ' {"a"'), F(0, "", "", ":2}")],
            [("x", '{"a":1}'), ("x", '{"a":2}')],
        ),
        # The whole call once more, as a summary.
        ([F(0, "a", "x", '{"a"'), F(0, "", "", ":1}"), F(0, "a", "x", '{"a":1}')], [("x", '{"a":1}')]),
        ([F(0, "a", "x", '{"a":1}'), F(0, "a", "x", '{"a'), F(0, "a", "x", '":1}')], [("x", '{"a":1}')]),
        # But two equal calls that say so are two.
        ([F(0, "a", "x", "{}"), F(1, "b", "x", "{}")], [("x", "{}"), ("x", "{}")]),
        # An empty object in front.
        ([F(0, "a", "x", "{}"), F(0, "", "", '{"a"'), F(0, "", "", ":1}")], [("x", '{"a":1}')]),
        # An id of its own for each fragment: what cannot begin a call goes on with the last.
        ([F(0, "a", "x", '{"a"'), F(0, "b", "", ":{"), F(0, "c", "", "}}")], [("x", '{"a":{}}')]),
        ([F(0, "a", "x", '{"a"'), F(0, "b", "x", ":1}")], [("x", '{"a":1}')]),
        ([F(0, "a", "x", '{"a":"if '), F(0, "b", "x", '{b"}')], [("x", '{"a":"if {b"}')]),
        ([F(0, "a", "x"), F(0, "b", "", '{"a"'), F(0, "c", "", ":1}")], [("x", '{"a":1}')]),
        (
            [F(None, "a", "x", "{"), F(None, "b", "", "}"), F(None, "c", "y", "{}")],
            [("x", "{}"), ("y", "{}")],
        ),
        ([F(0, "a", "x", '{"a":1}'), F(0, "b", "x", '{"a":1}')], [("x", '{"a":1}')] * 2),
        # What is no second object stays where it came.
        ([F(0, "a", "x", '```{"a":1}'), F(0, "", "", "\n```")], [("x", '```{"a":1}\n```')]),
        ([F(0, "a", "x", r'"{\"a\":1}"')], [("x", r'"{\"a\":1}"')]),
    ],
)
def test_fragments_become_calls(fragments: list[Fragment], calls: list[tuple[str, str]]) -> None:
    """P39 to P41."""
    assert calls == put_together(*fragments)


@pytest.mark.parametrize(
    ("offered", "fragments", "calls"),
    [
        (("get_it",), [F(0, "a", "get"), F(0, "", "_it"), F(0, "", "", "{}")], [("get_it", "{}")]),
        (("get_it",), [F(0, "a", "g"), F(0, "a", "et"), F(0, "a", "_it", "{}")], [("get_it", "{}")]),
        (("get_it",), [F(None, "", "get_"), F(None, "", "it", "{}")], [("get_it", "{}")]),
        # All of it so far, each time.
        (("get_it",), [F(0, "a", "get"), F(0, "", "get_i"), F(0, "", "get_it", "{}")], [("get_it", "{}")]),
        # The beginning is a tool as well.
        (("get", "get_it"), [F(0, "a", "get"), F(0, "", "_it"), F(0, "", "", "{}")], [("get_it", "{}")]),
        # Two that are on offer are two.
        (("get", "it", "getit"), [F(0, "", "get"), F(0, "", "it")], [("get", ""), ("it", "")]),
        (("get_it",), [F(0, "a", "get"), F(0, "b", "_it")], [("get", ""), ("_it", "")]),
        (("get_it",), [F(0, "", "get"), F(0, "", "other")], [("get", ""), ("other", "")]),
        (("get_it",), [F(0, "", "get", "{}"), F(0, "", "_it", "{}")], [("get", "{}"), ("_it", "{}")]),
    ],
)
def test_a_name_in_pieces_is_one_name(
    offered: tuple[str, ...], fragments: list[Fragment], calls: list[tuple[str, str]]
) -> None:
    """P40: half a name with no arguments would be a call that nobody made."""
    assert calls == put_together(*fragments, offered=offered)


def test_nothing_is_no_call() -> None:
    assert not Calls()
    assert put_together(F(0, "a", "", "{}")) == [("", "{}")]


_objects = st.dictionaries(st.text(max_size=4), st.recursive(st.none() | st.text(), st.lists), max_size=3)


@given(_objects, st.text(), st.data())
def test_the_extent_of_an_object_is_found_in_any_pieces(
    value: dict[str, Any], tail: str, data: st.DataObject
) -> None:
    text = json.dumps(value, ensure_ascii=False)
    said = text + tail
    cuts = data.draw(st.lists(st.integers(0, len(said)), max_size=6))
    places = [0, *sorted(cuts), len(said)]
    extent, end = Extent(), None
    for start, stop in itertools.pairwise(places):
        found = extent.feed(said[start:stop])
        if found is not None:
            end = start + found
            break

    assert end == len(text)
    assert extent.over
