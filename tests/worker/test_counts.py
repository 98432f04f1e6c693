"""Token counts, as OpenAI counts them."""

from __future__ import annotations

from modelproxy.worker.forms.counts import Counts


def test_what_came_from_the_cache_or_went_into_it_is_part_of_the_prompt() -> None:
    said = {
        "input_tokens": 10,
        "cache_read_input_tokens": 200,
        "cache_creation_input_tokens": 30,
        "output_tokens": 7,
        "output_tokens_details": {"thinking_tokens": 4},
    }

    assert Counts.of(said) == Counts(prompt=240, cached=200, written=30, output=7, reasoned=4)


def test_what_is_not_said_is_nothing() -> None:
    odd = {
        "input_tokens": None,
        "output_tokens": "7",
        "cache_read_input_tokens": -1,
        "output_tokens_details": 3,
    }

    assert Counts.of(odd) == Counts.of({}) == Counts(0, 0, 0, 0, 0)
