"""JSON out of code fences."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelproxy.worker.dialects.fences import Fences


def unfenced(*pieces: str) -> str:
    fences = Fences()
    return "".join([*(fences.feed(piece) for piece in pieces), fences.end()])


@pytest.mark.parametrize(
    ("said", "bare"),
    [
        ("", ""),
        ('{"a":1}', '{"a":1}'),
        ('```json\n{"a":1}\n```', '{"a":1}'),
        ('\n```\n{"a":1}\n```\n', '{"a":1}'),
        ('```json\n{"a":"``` x"}\n```', '{"a":"``` x"}'),
        ('```json\n{"a":1}', '{"a":1}'),
        ('Here: ```json\n{"a":1}\n```', 'Here: ```json\n{"a":1}\n```'),
        ("`", "`"),
        ("``x", "``x"),
        ('```json\n{"a":1}\n``', '{"a":1}\n``'),
        (
            "```a language with a name that is too long\nx\n```",
            "```a language with a name that is too long\nx\n```",
        ),
    ],
)
def test_a_fence_around_everything_goes(said: str, bare: str) -> None:
    assert bare == unfenced(said)
    assert bare == unfenced(*said)


@given(st.lists(st.sampled_from(["```", "`", "json", "\n", '{"a":', "1}", " "]), max_size=8), st.data())
def test_any_cut_gives_the_same_text(parts: list[str], data: st.DataObject) -> None:
    said = "".join(parts)
    cuts = data.draw(st.lists(st.integers(0, len(said)), max_size=5))
    places = [0, *sorted(cuts), len(said)]

    assert unfenced(*(said[start:end] for start, end in itertools.pairwise(places))) == unfenced(said)
