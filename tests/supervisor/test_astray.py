"""Keys in the wrong place are told the right one."""

from __future__ import annotations

import tomllib

import pytest

from modelproxy.supervisor.reading import checked


def told(text: str) -> dict[str, str]:
    return {problem.path: problem.text for problem in checked(tomllib.loads(text))[1]}


@pytest.mark.parametrize(
    ("text", "path", "words"),
    [
        ("[aliases]\ndefault_port = 4000", "aliases.default_port", "belongs above the first [table]"),
        ('[aliases]\nspawn = "exec"', "aliases.spawn", "belongs above the first [table]"),
        ("[proxies.c]\ndefault_port = 4000", "proxies.c.default_port", "belongs above the first [table]"),
        ("[providers]\ndefault_port = 4000", "providers.default_port", "belongs above the first [table]"),
        ("[models.agents]\nfallback = true", "models.agents.fallback", "belongs in [models]"),
        (
            "[providers.ollama.headers]\nretries = 1",
            "providers.ollama.headers.retries",
            "in [providers.ollama]",
        ),
        ("[front]\nrequire_token = true", "front.require_token", "like [front.NAME]"),
        ("[[front.a.rules]]\nport = 1", "front.a.rules.0.port", "belongs in [front.a]"),
        ("[aliases]\ndefault_port = []", "aliases.default_port", "must be a text"),
    ],
)
def test_a_key_in_the_wrong_table_is_told_its_own(text: str, path: str, words: str) -> None:
    assert words in told(text)[path]


@pytest.mark.parametrize(
    ("text", "path", "words"),
    [
        ('[agents]\na = "ollama/x"', "agents", "unknown key; did you mean models.agents?"),
        ('default = "claude"', "default", "unknown key; did you mean models.default?"),
        ("fallbackEnabled = true", "fallbackEnabled", "unknown key; did you mean models.fallback?"),
        ("[models]\nfallbackEnabled = true", "models.fallbackEnabled", "did you mean models.fallback?"),
        ('default_model = "x"', "default_model", "unknown key; did you mean models.default?"),
        (
            '[apiKeys]\nopenrouter = "k"',
            "apiKeys",
            "unknown key; keys are kept by proxyctl keys set PROVIDER",
        ),
        ("port = 1", "port", "did you mean proxies.NAME.port or front.NAME.port?"),
        ('[providers.ollama]\nmodel = "x"', "providers.ollama.model", "did you mean proxies.NAME.model?"),
        ('[model]\ndefault = "x"', "model", 'did you mean "models"?'),
        ("colour = 1", "colour", "unknown key; known are default_port"),
        ('[[front.a.rules]]\ntarget = "x"', "front.a.rules.0.target", 'unknown key; did you mean "to"?'),
        ('[providers.a]\ntype = "x"', "providers.a.type", 'unknown key; did you mean "kind"?'),
        ('[providers.a]\nurl = "x"', "providers.a.url", 'unknown key; did you mean "base_url"?'),
        ("[[front.a.rules]]\ncolour = 1", "front.a.rules.0.colour", "unknown key; known are agent"),
    ],
)
def test_a_key_that_is_there_elsewhere_is_found(text: str, path: str, words: str) -> None:
    assert words in told(text)[path]


def test_what_is_secret_is_not_in_the_words() -> None:
    assert "sk-1" not in str(told('[apiKeys]\nopenrouter = "sk-1"\n[proxies.c]\napi_key = "sk-1"'))
