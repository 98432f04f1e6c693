"""What is remembered of a configuration."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from modelproxy.supervisor import applied, example
from modelproxy.supervisor.config import parse
from modelproxy.worker.contract import WITHHELD

SECRETS = ("sk-inline", "blue-header", "sk-remote")
TEXT = f"""
[providers.work]
kind = "openai"
base_url = "https://llm.example.net/v1"
api_key = "{SECRETS[0]}"
headers = {{ "x-team" = "{SECRETS[1]}" }}
idle_timeout = "1m"
[providers.ollama]
think = {{ "qwen3:8b" = false, "gpt-oss" = "low" }}
keep_alive = 60
[aliases]
local = "ollama/x"
[proxies.coder]
model = "local"
port = 3457
max_concurrent = 2
fallback = ["anthropic"]
[front.default]
rules = [{{ agent = "a", to = "coder" }}]
port = 3456
[front.work]
port = 3460
[remotes.office]
url = "https://box.example.net"
api_key = "{SECRETS[2]}"
"""


def test_it_is_what_was_said_without_secrets(tmp_path: Path) -> None:
    config = parse(TEXT)
    applied.save(tmp_path / "applied.json", applied.bare(config, {}))
    found = applied.load(tmp_path / "applied.json")

    assert not any(secret in (tmp_path / "applied.json").read_text() for secret in SECRETS)
    assert found is not None
    assert found == applied.bare(config, {})
    assert (found.proxies, found.front, found.aliases) == (config.proxies, config.front, config.aliases)
    assert found.providers["ollama"] == config.providers["ollama"]
    assert found.providers["work"].options.headers == {"x-team": WITHHELD}
    assert found.providers["work"].timeouts == config.providers["work"].timeouts


def test_what_was_left_out_of_it_is_taken_to_be_as_it_is_now() -> None:
    """But what the file says no more it has said; a provider that is gone takes nothing along."""
    before = applied.bare(parse(TEXT), {})
    for now, headers in [
        ('{ "x-team" = "green", "x-new" = "1" }', {"x-team": "green"}),
        ('{ "x-new" = "1" }', {"x-team": WITHHELD}),
    ]:
        config = parse(TEXT.replace(f'{{ "x-team" = "{SECRETS[1]}" }}', now))
        assert applied.completed(before, config).providers["work"].options.headers == headers
    other = parse(TEXT.replace("[providers.work]", "[providers.works]"))
    assert applied.completed(before, other) == before


def test_every_key_that_there_is_comes_back() -> None:
    config = applied.bare(parse(example.IN_FORCE), {})

    assert applied._converter.structure(applied._converter.unstructure(config), type(config)) == config


def test_a_port_that_is_not_applied_yet_is_the_one_that_is() -> None:
    config = parse(TEXT)
    bare = applied.bare(config, {"coder": 4000, "front": 4001, "front/work": 4002, "gone": 1})

    assert bare.proxies["coder"] == attrs.evolve(config.proxies["coder"], port=4000)
    assert {name: table.port for name, table in bare.front.items()} == {"default": 4001, "work": 4002}


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"default_port": "x"}', '{"proxies": {"a": 1}}'])
def test_what_cannot_be_read_is_not_known(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "applied.json"
    if text is not None:
        file.write_text(text)

    assert applied.load(file) is None
