"""What hangs on a project's provider that is not trusted (S134)."""

from __future__ import annotations

from typing import Any

import pytest

from modelproxy.supervisor.withheld import Entry, Withheld, lacking, without

PROJECT: dict[str, Any] = {
    "default_port": 5000,
    "providers": {"team": {"kind": "openai"}, "ollama": {"base_url": "http://x"}, "own": {"kind": "openai"}},
    "aliases": {"local": "team/m", "big-*": "team/b", "mine": "own/m"},
    "proxies": {
        "coder": {"model": "local", "rpm": 5},
        "team/z": {"rpm": 5},
        "other": {"model": "ollama/x"},
        "limits": {"rpm": 5},
    },
    "models": {"default": "coder", "agents": {"a": "big-1", "b": "ollama/x", "c": "claude", "d": "mine"}},
}
OWN: dict[str, Any] = {
    "providers": {"own": {"kind": "openai"}},
    "aliases": {"cl*": "team/m", "ollama/*": "team/m"},
}
LEFT_OUT = [
    Entry(("aliases", "local"), "team/m", "team"),
    Entry(("aliases", "big-*"), "team/b", "team"),
    Entry(("proxies", "coder"), "local", "team"),
    Entry(("proxies", "team/z"), "team/z", "team"),
    Entry(("models", "default"), "coder", "team"),
    Entry(("models", "agents", "a"), "big-1", "team"),
]
HELD = Withheld(("team",), tuple(LEFT_OUT))


def test_only_providers_that_nobody_else_knows_are_lacking() -> None:
    assert lacking(PROJECT, OWN) == ("team",)
    assert lacking({"providers": 5}, {}) == ()


def test_what_leads_there_goes_with_it_and_nothing_else() -> None:
    """By whatever name; an agent's own model is no name, and a model id goes before a glob."""
    known = {**PROJECT, "aliases": {**PROJECT["aliases"], **OWN["aliases"]}}
    kept, entries = without(PROJECT, known, ["team"])

    assert entries == LEFT_OUT
    assert kept["aliases"] == {"mine": "own/m"}
    assert kept["proxies"] == {"other": {"model": "ollama/x"}, "limits": {"rpm": 5}}
    assert kept["models"] == {"agents": {"b": "ollama/x", "c": "claude", "d": "mine"}}


@pytest.mark.parametrize(
    "document",
    [
        {"aliases": {"a": "b", "b": "a"}, "proxies": {"c": {"model": "c"}}},
        {"aliases": 5, "proxies": {"a": 5, "b": {"model": 5}}, "models": [], "x": {}},
        {},
    ],
)
def test_what_is_wrong_is_left_to_those_who_say_so(document: dict[str, Any]) -> None:
    assert without(document, document, ["team"]) == (document, [])


def test_a_table_that_says_nothing_more_goes() -> None:
    document = {"models": {"agents": {"a": "team/m"}}}

    assert without(document, document, ["team"])[0] == {}


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("team/any", ("providers", "team")),
        ("local", ("aliases", "local")),
        ("big-9", ("aliases", "big-*")),
        ("coder", ("proxies", "coder")),
        ("other", None),
        ("team", None),
        ("ollama/x", None),
    ],
)
def test_what_a_name_would_mean(text: str, path: tuple[str, ...] | None) -> None:
    found = HELD.named(text)

    assert (found and found.path) == path


def test_the_sentence() -> None:
    named = "aliases.local, aliases.big-*, proxies.coder, proxies.team/z"
    said = HELD.sentence("team").replace('"', "")

    assert said.startswith(f"[providers.team] and what hangs on it ({named}")
    assert said.endswith(") do not count until: proxyctl config trust")
    assert HELD.sentence("ollama") == "[providers.ollama] does not count until: proxyctl config trust"
