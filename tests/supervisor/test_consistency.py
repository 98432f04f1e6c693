"""What one table names must exist in another. The sentences are in test_config.py; here the cases."""

from __future__ import annotations

from typing import Any

import pytest

from modelproxy.supervisor import consistency


def complaints(found: dict[str, Any]) -> list[tuple[Any, ...]]:
    said: list[tuple[Any, ...]] = []
    consistency.check(found, lambda path, value, text: said.append(path))
    return said


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"aliases": {"local": "ollama/x", "any-*": "mine/x"}, "providers": {"mine": {"kind": "ollama"}}},
        {"proxies": {"coder": {"model": "local", "fallback": ["anthropic", "local", "openrouter/x"]}}}
        | {"aliases": {"local": "ollama/x"}},
        {"proxies": {"ollama/x": {"model": "ollama/x"}}},
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


@pytest.mark.parametrize(
    ("found", "path"),
    [
        ({"aliases": {"coder": "ollama/x"}, "proxies": {"coder": {"model": "ollama/x"}}}, ("aliases", "coder")),
        ({"aliases": {"claude": "ollama/x"}}, ("aliases", "claude")),
        ({"aliases": {"ollama/*": "openai/x"}}, ("aliases", "ollama/*")),
        ({"aliases": {"self": "self"}}, ("aliases", "self")),
        ({"aliases": {"a*": "ab"}}, ("aliases", "a*")),
        ({"proxies": {"all": {"model": "ollama/x"}}}, ("proxies", "all")),
        ({"proxies": {"nope/x": {}}}, ("proxies", "nope/x")),
        ({"proxies": {"a": {"model": "b"}, "b": {"model": "ollama/x"}}}, ("proxies", "a", "model")),
        ({"proxies": {"ollama/x": {"port": 1}, "ollama/y": {"port": 1}}}, ("proxies", "ollama/y", "port")),
        ({"remotes": {"a": {"url": "u", "api_key": "k", "api_key_env": "E"}}}, ("remotes", "a")),
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
