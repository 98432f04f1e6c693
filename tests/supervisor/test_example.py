"""The file with every key in it is generated, and what it shows can be said."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from modelproxy.supervisor import example, schema
from modelproxy.supervisor.config import BUILT_IN, Key, ProxyOptions, build, parse
from modelproxy.supervisor.layers import merged

from .test_schema import ALL

FILE = (Path(__file__).parent.parent.parent / "docs" / "config.example.toml").read_text(encoding="utf-8")


def test_the_documented_file_is_what_the_schema_says() -> None:
    """Say scripts/gen-config-docs > docs/config.example.toml when this fails."""
    assert example.text(in_force=True) == FILE


def test_it_loads_as_it_stands() -> None:
    """Somebody will copy it whole."""
    config = parse(FILE)

    assert set(config.providers) == {*BUILT_IN, "work"}
    assert config.providers["work"].key == Key(env="WORK_API_KEY")
    assert config.proxies == {"coder": ProxyOptions(model="local", port=3457, max_output_tokens=8192)}


@pytest.mark.parametrize(
    ("path", "begins", "holds"),
    [
        (("default_port",), "# The port of a proxy", "#default_port = 3456"),
        (("proxies", "coder"), "#[proxies.coder]", "#fallback = "),
        (("proxies",), "# `proxyctl up NAME` works.", "#[proxies.NAME]"),
        (("providers", "ollama", "num_ctx"), "# Ollama: the window", '#num_ctx = "auto"'),
        (("models",), "# Which model an agent uses", "#agents = "),
        (("aliases", "local"), "# Other names of models", "#aliases = "),
        (("front", "default", "rules"), "# The first that fits", "#rules = "),
    ],
)
def test_what_is_said_of_one_key(path: tuple[str, ...], begins: str, holds: str) -> None:
    text = example.about(path)

    assert text.startswith(begins)
    assert holds in text
    assert text.count("\n") < len(FILE.splitlines()) / 2


def test_nothing_is_said_of_what_is_not_there() -> None:
    with pytest.raises(KeyError):
        example.about(("nope",))


def test_the_one_that_init_writes_says_nothing_yet() -> None:
    assert parse(example.text()) == parse("")


def shown() -> dict[tuple[str, ...], str]:
    """Every key of the file, by path, with its example."""
    table: tuple[str, ...] = ()
    found = {}
    for line in example.text().splitlines():
        if header := re.fullmatch(r"#\[(.+)\]", line):
            table = tuple(header[1].split("."))
        elif pair := re.fullmatch(r"#([a-z0-9_]+) = (.+)", line):
            found[(*table, pair[1])] = pair[2]
    return found


SHOWN = shown()


def test_every_key_there_is_stands_in_it() -> None:
    tables = {
        path for path in ALL if any(len(other) > len(path) and other[: len(path)] == path for other in ALL)
    }
    in_lists = {path for path in ALL if path[:1] == ("front",)} - set(SHOWN)

    assert set(SHOWN) - tables == set(ALL) - tables - in_lists


FRAME = {
    "providers": {"NAME": {"kind": "ollama", "base_url": "http://h"}},
    "proxies": {"NAME": {"model": "ollama/x"}},
    "remotes": {"NAME": {"url": "https://h"}},
    "aliases": {"local": "ollama/x"},
    "tokens": {"NAME": {"sha256": "0" * 64}},
}


@pytest.mark.parametrize("path", SHOWN, ids=".".join)
def test_what_it_shows_can_be_said(path: tuple[str, ...]) -> None:
    """Each example, in a file where what it names exists."""
    said: Any = tomllib.loads(f"value = {SHOWN[path]}")["value"]
    for part in reversed(path):
        said = {part: said}
    frame = {key: table for key, table in FRAME.items() if key != path[0]} if len(path) == 1 else FRAME

    build(merged(frame, said))


@pytest.mark.parametrize(
    "path", [path for path, field in ALL.items() if field.default[:1] not in ("", "[")], ids=".".join
)
def test_a_default_that_is_told_can_be_said_too(path: tuple[str, ...]) -> None:
    value = schema.value_at(path)
    assert value is not None
    value.check(tomllib.loads(f"value = {ALL[path].default}")["value"])
