"""What one table names must exist in another. The sentences are in test_config.py; here the cases."""

from __future__ import annotations

from typing import Any

import pytest

from modelproxy.supervisor import consistency


def complaints(found: dict[str, Any]) -> list[tuple[Any, ...]]:
    said: list[tuple[Any, ...]] = []
    consistency.check(found, lambda path, value, text: said.append(path))
    return said


def test_what_a_name_may_be_is_told_with_what_it_means() -> None:
    said: list[str] = []
    found = {
        "models": {"default": "x"},
        "front": {"a": {"otherwise": "x"}},
        "proxies": {"coder": NAMED["coder"]},
    }
    consistency.check(found, lambda path, value, text: said.append(text))

    assert [text.partition("; ")[2] for text in said] == [
        "known are claude (the agent's own model), coder",
        "known are anthropic (the caller's own request), coder",
    ]


LOCAL = {"aliases": {"b": "ollama/x"}}
NAMED = {"coder": {"model": "ollama/x"}}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            {"proxies": NAMED | {"b": {"model": "coder"}}},
            'is a proxy, and a model is wanted here, like "ollama/x"',
        ),
        ({"proxies": {"b": {"model": "b"}}}, "is a proxy, and a model is wanted here"),
        ({"models": {"default": "claude/x"}}, 'there is no provider "claude"; did you mean "anthropic/x"?'),
        (
            {"proxies": {"b": {"model": "ollama/y", "fallback": ["claude"]}}},
            'is "anthropic" here: the caller\'s own request, to Anthropic',
        ),
        (
            {"front": {"default": {"otherwise": "front/b"}, "b": {}}},
            "is a front door, and nothing leads to one: name a proxy, a model or an alias",
        ),
        (
            {"front": {"default": {"rules": [{"agent": "a", "to": "front"}]}}},
            "is a front door, and nothing leads to one: name a proxy, a model or an alias",
        ),
    ],
)
def test_a_name_that_means_something_else_is_told_what(found: dict[str, Any], words: str) -> None:
    said: list[str] = []
    consistency.check(found, lambda path, value, text: said.append(text))

    assert said == [words]


@pytest.mark.parametrize("word", ["claude", "default", "anthropic", "front", "all", "none"])
def test_a_word_that_means_something_names_nothing_else(word: str) -> None:
    """Else one command takes it for the word and another for the name."""
    said: list[tuple[Any, str]] = []
    found = {"aliases": {word: "ollama/x"}, "proxies": {word: {"model": "ollama/x"}}}
    consistency.check(found, lambda path, value, text: said.append((path, text)))

    assert [path for path, _ in said] == [("aliases", word), ("proxies", word)]
    for (_, text), kind in zip(said, ("an alias", "a proxy"), strict=True):
        assert text.startswith(f'"{word}" cannot be the name of {kind}: it means ')


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"aliases": {"local": "ollama/x", "any-*": "mine/x"}, "providers": {"mine": {"kind": "ollama"}}},
        {"proxies": {"coder": {"model": "ollama/y", "fallback": ["anthropic", "local", "openrouter/x"]}}}
        | {"aliases": {"local": "ollama/x"}},
        {"proxies": {"ollama/x": {"model": "ollama/x"}}},
        # None: it was wrong, and that has been said.
        {"providers": {"a": None}, "proxies": {"a": None}, "front": {"a": None}},
        {"tokens": {"a": None}, "remotes": {"a": None}},
        {"aliases": {"local": None}, "models": {"default": "local"}},
        {"models": {"default": "claude", "agents": {"a": "default", "b": "coder", "c": "ollama/x"}}}
        | {"proxies": {"coder": {"model": "ollama/x"}}},
        {"front": {"default": {"rules": [{"agent": "a", "to": "anthropic"}], "otherwise": "coder"}}}
        | {"proxies": {"coder": {"model": "ollama/x"}}},
        # What was wrong before is not named twice.
        {"aliases": {"a": None}, "proxies": {"b": None, "c": {"model": None}}, "models": None, "front": None},
    ],
)
def test_what_fits_together(found: dict[str, Any]) -> None:
    unnamed = {("proxies", "b")}

    assert set(complaints(found)) - unnamed == set()


OFFICE = {"remotes": {"office": {"url": "https://h"}}}


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("remote/office/ollama/codellama", None),
        ("remote/ofice/echo/demo", 'there is no table [remotes.ofice]; did you mean "office"?'),
        ("remote/elsewhere/echo/demo", "there is no table [remotes.elsewhere]; known are office"),
        ("remote/office", "is not a model id. Expected: remote/office/provider/model-name"),
    ],
)
@pytest.mark.parametrize("table", ["aliases", "fallback", "front", "agents"])
def test_s108_a_remote_is_led_to_by_its_own_name(table: str, target: str, said: str | None) -> None:
    tables: dict[str, dict[str, Any]] = {
        "aliases": {"aliases": {"a": target}},
        "fallback": {"proxies": {"a": {"model": "echo/x", "fallback": [target]}}},
        "front": {"front": {"default": {"rules": [{"model": "m", "to": target}]}}},
        "agents": {"models": {"agents": {"a": target}}},
    }
    found: list[str] = []
    consistency.check(OFFICE | tables[table], lambda path, value, text: found.append(text))

    assert found == ([] if said is None else [said])


@pytest.mark.parametrize(
    ("found", "path"),
    [
        ({"aliases": {"coder": "ollama/x"}, "proxies": {"coder": {"model": "ollama/x"}}}, ("aliases", "coder")),
        ({"aliases": {"claude": "ollama/x"}}, ("aliases", "claude")),
        ({"aliases": {"front/work": "ollama/x"}}, ("aliases", "front/work")),
        ({"providers": {"front": {"kind": "ollama"}}}, ("providers", "front")),
        ({"aliases": {"ollama/*": "openai/x"}}, ("aliases", "ollama/*")),
        ({"aliases": {"self": "self"}}, ("aliases", "self")),
        ({"aliases": {"a*": "ab"}}, ("aliases", "a*")),
        ({"proxies": {"all": {"model": "ollama/x"}}}, ("proxies", "all")),
        ({"proxies": {"nope/x": {}}}, ("proxies", "nope/x")),
        ({"proxies": {"a": {"model": "b"}, "b": {"model": "ollama/x"}}}, ("proxies", "a", "model")),
        ({"proxies": {"ollama/x": {"port": 1}, "ollama/y": {"port": 1}}}, ("proxies", "ollama/y", "port")),
        (LOCAL | {"proxies": {"a": {"model": "b", "fallback": ["ollama/x"]}}}, ("proxies", "a", "fallback", 0)),
        (LOCAL | {"proxies": {"ollama/x": {"fallback": ["b"]}}}, ("proxies", "ollama/x", "fallback", 0)),
        ({"proxies": NAMED | {"b": {"model": "ollama/x", "fallback": ["coder"]}}}, ("proxies", "b", "fallback", 0)),
        ({"proxies": {"a": {"model": "echo/y", "fallback": ["echo/x", "echo/x"]}}}, ("proxies", "a", "fallback", 1)),
        ({"remotes": {"a": {"url": "u", "api_key": "k", "api_key_env": "E"}}}, ("remotes", "a")),
        ({"providers": {"remote": {"base_url": "u"}}}, ("providers", "remote")),
        (OFFICE | {"aliases": {"remote/office/*": "echo/x"}}, ("aliases", "remote/office/*")),
        (OFFICE | {"proxies": {"remote/ofice/x/y": {}}}, ("proxies", "remote/ofice/x/y")),
    ],
)  # fmt: skip
def test_what_does_not(found: dict[str, Any], path: tuple[Any, ...]) -> None:
    assert complaints(found) == [path]


def test_a_front_has_no_port_of_another() -> None:
    proxies = {"a": {"model": "echo/x", "port": 3460}}

    assert complaints({"proxies": proxies, "front": {"work": {"port": 3461}}}) == []
    assert complaints({"proxies": proxies, "front": {"work": {"port": 3460}}}) == [("front", "work", "port")]


def test_a_fallback_may_be_another_named_proxy_and_not_the_same() -> None:
    a, b = {"model": "echo/x", "fallback": ["b"]}, {"model": "echo/y", "fallback": ["anthropic", "b"]}

    assert complaints({"proxies": {"a": a, "b": b}}) == [("proxies", "b", "fallback", 1)]
