"""Editing a file that somebody wrote by hand: everything else stays (S8)."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from modelproxy.supervisor.editing import path_of, value_of, with_value, without

FILE = """\
# my settings
default_port = 3456 # why

[models] # of agents
default = "claude"

# who uses what
[models.agents]
one = "ollama/x" # kept

[proxies.coder]
model = "ollama/x"
"""


@pytest.mark.parametrize(
    ("key", "typed", "line"),
    [
        ("default_port", "4000", "default_port = 4000 # why"),
        ("models.default", "ollama/x", 'default = "ollama/x"'),
        ("default_model", "ollama/x", 'default = "ollama/x"'),
        ("models.agents.two", "ollama/y", 'two = "ollama/y"'),
        ('aliases."claude-*"', "ollama/x", '"claude-*" = "ollama/x"'),
        ("aliases.claude-*", "ollama/x", '"claude-*" = "ollama/x"'),
        ("aliases.'gpt-4.1'", "ollama/x", '"gpt-4.1" = "ollama/x"'),
        ("proxies.ollama/q:8b.idle_stop", "15m", 'idle_stop = "15m"'),
        ('proxies."ollama/q:8b".idle_stop', "15m", 'idle_stop = "15m"'),
        ("proxies.coder.capabilities", "tools,vision", 'capabilities = ["tools", "vision"]'),
        ("providers.ollama.think", '{ "q:8b" = false }', '"q:8b" = false'),
        ("providers.x.api_key", "12345", 'api_key = "12345"'),
    ],
)
def test_one_line_changes_and_the_rest_stays(key: str, typed: str, line: str) -> None:
    path = path_of(key)
    text = with_value(FILE, path, value_of(path, typed))
    old, new = FILE.splitlines(), text.splitlines()

    assert line in new
    assert len([one for one in old if one not in new]) <= 1
    tomllib.loads(text)


@pytest.mark.parametrize(
    "key", ["models.agents.two", 'aliases."claude-*"', "providers.work.base_url", "spawn"]
)
def test_what_was_set_and_unset_leaves_the_file_as_it_was(key: str) -> None:
    path = path_of(key)

    assert without(with_value(FILE, path, "x"), path) == FILE
    assert without(with_value("", path, "x"), path) == ""


def test_a_table_that_is_empty_then_goes_with_its_last_line() -> None:
    text = without(FILE, path_of("models.agents.one"))

    assert text is not None
    assert tomllib.loads(text)["models"] == {"default": "claude"}
    assert "# my settings" in text
    assert without(FILE, path_of("models.agents.nobody")) is None
    assert without(FILE, path_of("default_port")) == FILE.replace("default_port = 3456 # why\n", "")


@pytest.mark.parametrize(
    "key",
    [
        *("nope", "a b", "", "proxies.coder.prt", "default_port.deeper", "models\n", "a = 1"),
        *("models.", ".models", "models..default", 'aliases."x'),
    ],
)
def test_what_is_no_key(key: str) -> None:
    with pytest.raises(ValueError, match=r"key|nothing"):
        path_of(key)


@pytest.mark.parametrize("key", ["tokens.ci.sha256=mp-1234", "tokens.ci.sha256 = mp-1234"])
def test_a_value_stands_apart_from_its_key(key: str) -> None:
    """It may be a secret, and is not repeated."""
    with pytest.raises(ValueError, match=r"stands before a value: tokens\.ci\.sha256 VALUE$") as caught:
        path_of(key)

    assert "mp-1234" not in str(caught.value)


def test_a_list_is_set_as_a_whole() -> None:
    with pytest.raises(ValueError, match=r"front\.default\.rules is a list, and is set as a whole"):
        path_of("front.default.rules.0.to")


def test_a_name_with_a_dot_is_quoted_for_the_user() -> None:
    with pytest.raises(ValueError, match=r"""it is quoted: 'aliases\."gpt-4\.1"'"""):
        path_of("aliases.gpt-4.1")


@pytest.mark.parametrize(
    ("key", "typed", "value"),
    [
        ("default_port", "x", "x"),
        ("default_port", "99999", 99999),
        ("proxies.c.autostart", "true", True),
        ("proxies.c.hold", "5", 5),
        ("proxies.c.hold", "5s", "5s"),
        ("proxies.c.fallback", '["a/b"]', ["a/b"]),
        ("models.default", "true", "true"),
        ("proxies.c.rpm", '1\nx = 2', '1\nx = 2'),
    ],
)  # fmt: skip
def test_what_was_typed_becomes_what_the_key_takes(key: str, typed: str, value: Any) -> None:
    """What it does not take stays as it is, for validation to refuse."""
    assert value_of(path_of(key), typed) == value
