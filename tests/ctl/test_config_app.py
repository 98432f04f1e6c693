"""The commands of `proxyctl config` exist, explain themselves and answer in JSON. What they do: test_config_*.py."""

from __future__ import annotations

import json

import pytest
from fakes.terminal import Run

COMMANDS = ["validate", "show", "get", "set", "unset", "schema", "init", "edit", "path", "import", "trust"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_with_examples(run: Run, command: str) -> None:
    ran = run("config", command, "--help")

    assert ran.code == 0
    assert not ran.out.splitlines()[2].endswith(".")
    assert "Examples:" in ran.out


def test_the_schema_is_json(run: Run) -> None:
    document = json.loads(run("config", "schema").out)

    assert {
        "kind",
        "base_url",
        "api_key",
        "api_key_env",
        "api_key_file",
        "api_key_command",
        "headers",
    } <= set(document["properties"]["providers"]["additionalProperties"]["properties"])


def test_a_key_is_explained(run: Run) -> None:
    """Who has mistyped one needs no other page."""
    assert "(a whole number from 1 to 65535)" in run("config", "schema", "proxies.coder.port").out
    assert run("config", "schema", "default_port", "--json").json["maximum"] == 65535
    assert run("config", "schema", "proxies.coder.prot").code == 2


def test_where_the_files_are(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.chdir(str(tmp_path))
    found = run("config", "path", "--json").json

    assert found["user"].endswith("/modelproxy/config.toml")
    assert found["project"] is None
    assert run("config", "path").out.count("(not there)") == 3


def test_who_says_the_value_with_the_key_has_forgotten_none(run: Run) -> None:
    ran = run("config", "set", "default_port=4000")

    assert ran.code == 2
    assert ran.err.startswith('error: "default_port=…" is not a key; a space stands before a value: ')
