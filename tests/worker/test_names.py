"""Names and ids that every provider takes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelproxy.worker.dialects import names
from modelproxy.worker.dialects.names import Names

LONG = "mcp__a_very_long_server_name_that_goes_on__and_a_tool_whose_name_does_too"


@pytest.mark.parametrize("name", ["Bash", "get_weather", "a-b", "x" * 64])
def test_a_name_that_fits_stays(name: str) -> None:
    assert names.short(name) == name


def test_p20_two_long_names_with_the_same_beginning_stay_two() -> None:
    offered = [f"{LONG}_one", f"{LONG}_two"]
    assert offered[0][:64] == offered[1][:64]
    found = Names(offered)

    seen = [found.out(name) for name in offered]
    assert len(set(seen)) == 2
    assert all(len(name) == 64 and name.startswith(LONG[:55]) for name in seen)
    assert [found.back(name) for name in seen] == offered


@given(st.lists(st.text(min_size=1, max_size=130), unique=True))
def test_any_names_go_there_and_back(offered: list[str]) -> None:
    found = Names(offered)

    for name in offered:
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", found.out(name))
        assert found.back(found.out(name)) == name


def test_a_name_of_the_history_is_shortened_without_being_offered() -> None:
    assert Names([]).out(LONG * 2) == names.short(LONG * 2)


def test_a_name_that_looks_like_anothers_short_form_keeps_its_own() -> None:
    taken = names.short("tool one")
    found = Names(["tool one", taken])

    assert found.out(taken) == taken
    assert found.back(found.out("tool one")) == "tool one"
    assert found.out("tool one") != taken


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("Bash", "Bash"),
        ("bash", "Bash"),
        ("functions.Bash", "Bash"),
        ("create_issue", "mcp__github__create_issue"),
        ("default_api:Read", "Read"),
        ("Rea", "Rea"),
        ("", ""),
        ("list", "list"),
    ],
)
def test_a_near_miss_is_corrected_and_a_guess_is_not(said: str, meant: str) -> None:
    offered = ["Bash", "Read", "mcp__github__create_issue", "mcp__a__list", "mcp__b__list"]

    assert names.closest(said, offered) == meant


def test_what_is_no_tool_has_no_endless_name() -> None:
    """A small model may write its whole call in the place of the name; Anthropic takes 200 characters of a history."""
    assert names.closest("x" * 1000, ["Bash"]) == "x" * 200
    assert names.closest("x" * 1000, ["x" * 1000]) == "x" * 1000


@pytest.mark.parametrize("id_", ["toolu_01A09q90qw90lq917835lq9", "call-1"])
def test_an_id_that_every_provider_takes_stays(id_: str) -> None:
    assert names.upstream_id(id_) == id_


@pytest.mark.parametrize("id_", ["functions.Bash:0", "x" * 41, "", "ü", "\ud800"])
def test_p38_other_ids_become_one_that_follows_from_them(id_: str) -> None:
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,40}", names.upstream_id(id_))
    assert names.upstream_id(id_) == names.upstream_id(id_)
    assert re.fullmatch(r"[a-z0-9]{9}", names.mistral_id(id_))


@pytest.mark.parametrize(
    ("id_", "fit"),
    [("toolu_1-a", True), ("x" * 200, True), ("functions.Bash:0", False), ("", False), ("ü", False)],
)
def test_p38_anthropic_minds_the_letters_of_an_id_and_not_their_number(id_: str, *, fit: bool) -> None:
    assert names.is_fit_for_anthropic(id_) is fit


@given(st.lists(st.text(max_size=60), unique=True))
def test_different_ids_stay_different(ids: list[str]) -> None:
    assert len({names.upstream_id(one) for one in ids}) == len(ids)
