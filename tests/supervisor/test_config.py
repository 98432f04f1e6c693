"""The configuration file: everything that can be said, and every mistake at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from modelproxy.supervisor.config import _FIELDS, BUILT_IN, SERVERS, ConfigError, Key, parse
from modelproxy.worker.contract import Options, Timeouts
from modelproxy.worker.dialects import quirks

FULL = """
[providers.work]
kind = "echo"
base_url = "https://llm.example.net/v1/"
api_key_env = "WORK_API_KEY"
connect_timeout = "500ms"
first_byte_timeout = 120
idle_timeout = "2m"
total_timeout = "1h"
headers = { "x-team" = "blue" }
num_ctx = "auto"
keep_alive = "10m"
think = { "qwen3:8b" = false, "gpt-oss" = "low" }
context_window = 65536
max_output_tokens = 8192
capabilities = ["tools", "vision"]
api = "anthropic"
server = "vllm"
picker_alias = { "qwen3:8b" = "claude-qwen" }
retries = 2
hold = "5s"
ping = "20s"
"""


def problems_of(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return caught.value.problems


def test_an_empty_file_leaves_the_built_in_providers() -> None:
    assert parse("").providers == BUILT_IN


def test_everything_that_can_be_said_of_a_provider() -> None:
    work = parse(FULL).providers["work"]

    assert work.kind == "echo"
    assert work.base_url == "https://llm.example.net/v1"
    assert work.key == Key(env="WORK_API_KEY")
    assert work.timeouts == Timeouts(connect_s=0.5, first_byte_s=120.0, idle_s=120.0, total_s=3600.0)
    assert work.options == Options(
        headers={"x-team": "blue"},
        keep_alive="10m",
        context_window=65536,
        max_output_tokens=8192,
        capabilities=["tools", "vision"],
        api="anthropic",
        server="vllm",
        retries=2,
        hold_s=5.0,
        ping_s=20.0,
    )
    assert work.options_for("qwen3:8b").think is False
    assert work.options_for("gpt-oss").think == "low"
    assert work.options_for("other").think is None
    assert work.options_for("qwen3:8b").picker_alias == "claude-qwen"
    assert work.options_for("other").picker_alias is None


def test_a_table_named_like_a_kind_changes_only_what_it_says() -> None:
    echo = parse('[providers.echo]\nhold = "1s"').providers["echo"]

    assert echo.kind == "echo"
    assert echo.options.hold_s == 1.0


def test_how_workers_are_started_is_said_at_the_top() -> None:
    assert parse("").spawn is None
    assert [parse(f'spawn = "{way}"').spawn for way in ("fork", "exec")] == ["fork", "exec"]
    assert problems_of('spawn = "thread"') == ['spawn: must be "fork" or "exec"']
    assert problems_of("spawn = []") == ['spawn: must be "fork" or "exec"']


def test_every_problem_at_once_with_its_path() -> None:
    found = problems_of(
        """
        colour = "red"
        [providers.a]
        base_url = "ftp://x"
        knd = "echo"
        [providers.b]
        kind = "echo"
        api_key = "k"
        api_key_env = "E"
        retries = 99
        hold = "soon"
        [providers."c d"]
        kind = "echo"
        [providers.e]
        kind = "nothing"
        """
    )

    paths = [problem.partition(":")[0] for problem in found]
    assert paths == [
        "colour",
        "providers.c d",
        "providers.a.knd",
        "providers.a",
        "providers.b.retries",
        "providers.b.hold",
        "providers.b",
        "providers.e.kind",
    ]
    assert any('did you mean "kind"?' in problem for problem in found)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("retries = true", "must be a whole number from 0 to 10"),
        ("retries = 1.5", "must be a whole number from 0 to 10"),
        ("hold = 0", "must be more than 0 and at most a day"),
        ("hold = true", 'must be seconds or a text like "10s", "5m"'),
        ("hold = inf", "must be more than 0 and at most a day"),
        ('base_url = "no url"', '"no url" is not a URL like http://127.0.0.1:11434'),
        ("api_key = 5", "must be a text that is not empty"),
        ('headers = { "a" = "b\\nc" }', "has a line break in it"),
        ("headers = 5", "must be a table of texts"),
        ("think = 5", 'must be a table of model = true, false or "low", "medium", "high"'),
        ("capabilities = 5", "must be a list of texts"),
        ('server = "vlm"', f"must be one of {', '.join(SERVERS)}"),
        ('picker_alias = { "m" = "mine" }', 'must be a table of model = "claude-…" or "anthropic-…"'),
        ('api = "openai"', 'must be "anthropic" or left out'),
        ("keep_alive = []", 'must be a text like "10m" or a number of seconds'),
        ("num_ctx = 5", "must be a whole number from 512 to 100000000"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(line: str, problem: str) -> None:
    key = line.partition(" ")[0]

    assert problems_of(f'[providers.x]\nkind = "echo"\n{line}') == [f"providers.x.{key}: {problem}"]


def test_every_server_of_the_workers_table_can_be_named() -> None:
    assert set(SERVERS) == set(quirks.SERVERS)


def test_what_is_not_toml_or_not_a_table() -> None:
    assert problems_of("a = = b")[0].startswith("not TOML:")
    assert problems_of("providers = 5") == ["providers: must be a table"]
    assert problems_of("[providers]\na = 5") == ["providers.a: must be a table"]


def test_a_provider_of_no_known_kind_must_say_one() -> None:
    assert problems_of('[providers.mine]\nbase_url = "http://h"')[0].startswith(
        "providers.mine: kind is missing"
    )


def test_a_key_is_never_in_a_repr() -> None:
    config = parse('[providers.x]\nkind = "echo"\napi_key = "sk-secret"')

    assert config.providers["x"].key.value == "sk-secret"
    assert "sk-secret" not in repr(config)


# --- the example file that comes with the documents -----------------------------------------------------

EXAMPLE = (Path(__file__).parent.parent.parent / "docs" / "config.example.toml").read_text(encoding="utf-8")
SETTINGS = re.findall(r"^#?([a-z_]+) = (.+)$", EXAMPLE, re.MULTILINE)


def test_the_example_file_loads() -> None:
    """As it stands: somebody will copy it whole."""
    providers = parse(EXAMPLE).providers

    assert set(providers) == {*BUILT_IN, "work"}
    assert providers["work"].key == Key(env="WORK_API_KEY")


def test_the_example_file_shows_every_key_there_is() -> None:
    """And none that there is not."""
    assert {key for key, _ in SETTINGS} == {*_FIELDS, "spawn"}


@pytest.mark.parametrize(("key", "value"), SETTINGS, ids=[key for key, _ in SETTINGS])
def test_what_the_example_file_shows_can_be_said(key: str, value: str) -> None:
    """Also where it is commented out."""
    parse(f"{key} = {value}" if key == "spawn" else f"[providers.openai]\n{key} = {value}")


def test_the_example_file_tells_the_defaults_of_the_code() -> None:
    """Those that are one value for everybody."""
    shown = dict(SETTINGS)
    said = "\n".join(
        f"{key} = {shown[key]}" for key in ("first_byte_timeout", "hold", "ping", "num_ctx", "retries")
    )
    ollama = parse(f"[providers.ollama]\n{said}").providers["ollama"]

    assert ollama == BUILT_IN["ollama"]
