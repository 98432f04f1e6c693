"""Stop sequences on our side."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelproxy.worker.dialects.stops import Stops


def run(pieces: list[str], sequences: list[str]) -> tuple[str, str | None]:
    stops = Stops(sequences)
    shown = "".join([stops.feed(piece) for piece in pieces])
    return shown + stops.end(), stops.matched


@pytest.mark.parametrize(
    ("pieces", "sequences", "expected"),
    [
        (["abc"], [], ("abc", None)),
        (["a", "END", "b"], ["END"], ("a", "END")),
        (["aE", "N", "D b"], ["END"], ("a", "END")),
        (["aEN"], ["END"], ("aEN", None)),
        (["aab"], ["ab", "aab"], ("", "aab")),
        (["a.b"], ["."], ("a", ".")),
        (["x", "y"], ["zzz", "y"], ("x", "y")),
    ],
)
def test_stops(pieces: list[str], sequences: list[str], expected: tuple[str, str | None]) -> None:
    assert run(pieces, sequences) == expected


def test_only_what_may_become_a_sequence_is_held_back() -> None:
    stops = Stops(["END"])

    assert [stops.feed("abE"), stops.feed("x"), stops.end()] == ["ab", "Ex", ""]


def test_nothing_is_shown_after_the_sequence() -> None:
    stops = Stops(["END"])

    assert [stops.feed("aENDb"), stops.feed("c"), stops.end()] == ["a", "", ""]


@given(
    st.text("abc"), st.lists(st.text("abc", min_size=1), max_size=3), st.lists(st.integers(0, 20), max_size=4)
)
def test_the_shown_text_never_holds_a_sequence_and_loses_nothing(
    text: str, sequences: list[str], cuts: list[int]
) -> None:
    places = [0, *sorted(cuts), len(text)]
    shown, matched = run([text[a:b] for a, b in itertools.pairwise(places)], sequences)

    assert not any(one in shown for one in sequences)
    assert text.startswith(shown + (matched or ""))
    assert matched is not None or shown == text
