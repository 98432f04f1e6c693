"""Names of models: exact before alias before glob, and nothing is guessed (S112, S114)."""

from __future__ import annotations

import pytest

from modelproxy.supervisor import aliases

TABLE = {
    "local": "ollama/qwen3",
    "claude-*": "ollama/long",
    "claude-haiku-*": "ollama/small",
    "claude-haiku-4": "ollama/exact",
    "gpt-?": "openai/x",
    "q*": "ollama/first",
    "*q": "ollama/second",
}
PROVIDERS = ("ollama", "openai")


@pytest.mark.parametrize(
    ("name", "model_id", "source"),
    [
        ("ollama/local", "ollama/local", "exact"),
        ("local", "ollama/qwen3", "config"),
        ("claude-haiku-4", "ollama/exact", "config"),
        ("claude-haiku-4-5", "ollama/small", "config"),
        ("claude-opus-4", "ollama/long", "config"),
        ("gpt-5", "openai/x", "config"),
        ("qq", "ollama/first", "config"),
    ],
)
def test_s114_the_most_exact_name_wins(name: str, model_id: str, source: str) -> None:
    """Of two globs of the same length the first."""
    assert aliases.resolve(name, TABLE, PROVIDERS) == aliases.Resolved(name, model_id, source)


@pytest.mark.parametrize(
    "name", ["Local", "locale", "loca", "my-claude-x", "gpt-55", "ollama", "nope/x", "ollama/", ""]
)
def test_s114_what_is_only_similar_is_not_it(name: str) -> None:
    """No substring, no other case, no other provider."""
    assert aliases.resolve(name, TABLE, PROVIDERS) is None


def test_sorted_by_nearness_the_first_that_fits_is_the_one_that_is_found() -> None:
    """A front, which tries rules one after the other, takes the one that a look into the table finds."""
    ordered = sorted(TABLE, key=aliases.distance)

    assert ordered[0] == "local"
    for name in ("local", "claude-haiku-4", "claude-haiku-4-5", "claude-opus-4", "gpt-5", "qq", "nobody"):
        fitting = [entry for entry in ordered if name == entry or aliases.fits(name, entry)]
        assert aliases.entry(name, TABLE) == (fitting[0] if fitting else None)


def test_s112_without_aliases_nothing_is_known() -> None:
    assert aliases.resolve("claude-4-sonnet", {}, PROVIDERS) is None


@pytest.mark.parametrize("word", ["front", "front/work", "all", "none", "claude", "default", "anthropic"])
def test_a_reserved_word_is_no_alias_whatever_glob_it_fits(word: str) -> None:
    assert aliases.find(word, {"*": "ollama/x"}) is None
    assert aliases.find(f"{word}s", {"*": "ollama/x"}) == ("ollama/x" if "/" not in word else None)


def test_brackets_and_dots_mean_themselves() -> None:
    assert aliases.fits("a.b[1]", "a.b[1]*")
    assert not aliases.fits("axb1", "a.b[1]*")


def test_s105_the_nearest_come_first_and_the_list_has_an_end() -> None:
    names = ["zeta", "alpha", "coder-big", "coder", *(f"m{number}" for number in range(20))]
    said = aliases.unknown("codr", names)

    assert said.startswith("Model 'codr' not available. Available models: coder, coder-big, ")
    assert said.endswith("and 14 more")
    known = ["openrouter/qwen/qwen3-coder", "ollama/aaa", "echo/demo"]
    assert aliases.nearest("Qwen3", known)[0] == "openrouter/qwen/qwen3-coder"
    assert aliases.nearest("zzz", known) == sorted(known)
    assert aliases.unknown("x", []) == "Model 'x' not available. Available models: none is configured"


def test_a_model_is_called_as_behind_its_provider() -> None:
    """The vendor is part of a name; what goes before hides the rest."""
    known = {"ollama/m": False, "work/m": False, "openrouter/a/m": True, "front": True, "ollama/n": True}

    assert aliases.called("m", known) == ["ollama/m", "work/m"]
    assert aliases.called("m", known | {"work/m": True}) == ["work/m"]
    assert aliases.called("a/m", known) == ["openrouter/a/m"]
    assert aliases.called("", known) == aliases.called("nn", known) == []
    assert [aliases.either(list(names)) for names in ("a", "ab", "abc")] == ["a", "a or b", "a, b or c"]


def test_a_remote_that_is_not_there_is_told_and_nothing_else() -> None:
    known = aliases.providers_of({"work"}, {"office"})

    assert {"work", "ollama", "remote/office"} <= known
    assert aliases.is_model_id("remote/office/x/y", known)
    assert not aliases.is_model_id("remote/office", known)
    assert aliases.no_profile("remote/office", known) is None
    assert aliases.no_profile("wrk", known) is None
    assert aliases.no_profile("remote", known) is not None
    assert aliases.no_profile("remote/a", PROVIDERS) == "there is no table [remotes.a]"


def test_of_a_provider_that_is_none_it_is_told_what_there_is() -> None:
    """Other modelproxies too: as they are called, else how they would be."""
    assert aliases.unsupported("nope", {"echo", "ollama"}) == (
        'Unsupported provider "nope"',
        "supported: echo, ollama, remote/NAME",
    )
    assert aliases.unsupported("ecko", {"echo", "remote/office"}) == (
        'Unsupported provider "ecko"; did you mean "echo"?',
        "supported: echo, remote/office",
    )
    assert aliases.unsupported("remote/a", {"echo"}) == ("There is no table [remotes.a]", aliases.NEW_PROFILE)
