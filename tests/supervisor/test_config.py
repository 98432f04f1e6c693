"""The configuration file: everything that can be said, and every mistake at once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelproxy.supervisor.config import (
    BUILT_IN,
    KINDS,
    SERVERS,
    Config,
    ConfigError,
    Front,
    Key,
    Models,
    Price,
    Provider,
    ProxyOptions,
    build,
    parse,
)
from modelproxy.supervisor.schema import FRONT, FRONT_RULE, MODELS, PROVIDER, PROXY, ROOT
from modelproxy.supervisor.values import Seconds
from modelproxy.worker.contract import FrontRule, Options, Timeouts
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
tool_images = "inline"
tool_stream = "live"
tools_unsupported = "prompt"
tool_schemas = "strict"
context_window = 65536
max_output_tokens = 8192
capabilities = ["tools", "vision"]
api = "anthropic"
server = "vllm"
pdf_to_text = "pdftotext - -"
web_search = true
fetch_images = true
picker_alias = { "qwen3:8b" = "claude-qwen" }
retries = 2
hold = "5s"
ping = "20s"
"""


def problems_of(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return [str(problem) for problem in caught.value.problems]


WORDS = [*ROOT.fields, *PROVIDER.fields, *PROXY.fields, *MODELS.fields, *FRONT.fields, *FRONT_RULE.fields]
WORDS += ["ollama", "ollama/x", "coder"]


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
        tool_images="inline",
        tool_stream="live",
        tools_unsupported="prompt",
        tool_schemas="strict",
        context_window=65536,
        max_output_tokens=8192,
        capabilities=["tools", "vision"],
        api="anthropic",
        server="vllm",
        pdf_to_text="pdftotext - -",
        web_search=True,
        fetch_images=True,
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
    assert problems_of('spawn = "thread"') == ['line 1: spawn = "thread": must be one of fork, exec']


MISTAKES = """\
colour = "red"
default_prt = 3456
[providers.a]
base_url = "ftp://x"
knd = "echo"
[providers.b]
kind = "echo"
api_key = "sk-secret-one"
api_key_env = "E"
retries = 99
hold = "soon"
[providers."c d"]
kind = "echo"
[aliases]
one = "two"
two = "one"
hop = "local"
local = "ollama/x"
"ollama/y" = "ollama/x"
away = "xyz/x"
[proxies.coder]
model = "lokal"
port = 70000
fallback = ["openrouter/x", "somewhere"]
[proxies.empty]
[proxies."ollama/x"]
model = "ollama/z"
[models]
default = "ollama"
[models.agents]
reviewer = "olama/x"
[front.default]
rules = [
  { agent = "a" },
  { to = "coder" },
]
[remotes.office]
timeout_seconds = 301
retry_attempts = -1
"""


def test_every_problem_at_once_with_path_line_and_value() -> None:
    """A configuration full of mistakes is mended in one go, without the documentation."""
    found = [problem.replace("sk-secret", "LEAKED") for problem in problems_of(MISTAKES)]

    assert found == [
        f"line 1: colour: unknown key; known are {', '.join(ROOT.fields)}",
        'line 2: default_prt: unknown key; did you mean "default_port"?',
        f"line 3: providers.a: kind is missing: one of {', '.join(KINDS)}",
        'line 4: providers.a.base_url = "ftp://x": must be a URL like http://127.0.0.1:11434',
        'line 5: providers.a.knd: unknown key; did you mean "kind"?',
        "line 6: providers.b: give only one of api_key, api_key_env",
        "line 10: providers.b.retries = 99: must be a whole number from 0 to 10",
        'line 11: providers.b.hold = "soon": must be seconds or a text like "500ms", "10s", "5m", "1h": '
        "more than 0 and at most a day",
        'line 12: providers."c d": a name has letters, digits and . _ - only',
        'line 15: aliases.one = "two": goes round in a circle: one → two → one',
        'line 16: aliases.two = "one": goes round in a circle: two → one → two',
        'line 17: aliases.hop = "local": is an alias itself, and one hop is the limit: write "ollama/x"',
        'line 19: aliases."ollama/y" = "ollama/x": would never be used: '
        "ollama/… are the names of ollama's models",
        'line 20: aliases.away = "xyz/x": there is no provider "xyz"; known are '
        "a, anthropic, b, echo, ollama, openai, openrouter, remote/office",
        'line 22: proxies.coder.model = "lokal": is not a model id or an alias. '
        'Expected: provider/model-name; did you mean "local"?',
        "line 23: proxies.coder.port = 70000: must be a whole number from 1 to 65535",
        'line 24: proxies.coder.fallback (2nd) = "somewhere": is not a model id, an alias or a proxy\'s name. '
        "Expected: provider/model-name; known are "
        "anthropic (the caller's own request), away, coder, empty, hop, local, ollama/y, one, two",
        'line 25: proxies.empty: model is missing, like model = "ollama/codellama"',
        'line 27: proxies."ollama/x".model = "ollama/z": must be left out: the table\'s name says it',
        'line 29: models.default = "ollama": is not a model id, an alias or a proxy\'s name. '
        'Expected: provider/model-name; did you mean "ollama/y"?',
        'line 31: models.agents.reviewer = "olama/x": there is no provider "olama"; did you mean "ollama"?',
        'line 34: front.default.rules (1st): to is missing, like to = "ollama/codellama"',
        "line 35: front.default.rules (2nd): says nothing of which requests it is for: "
        "agent, model, request, marker or session",
        "line 37: remotes.office: url is missing",
        "line 38: remotes.office.timeout_seconds = 301: must be a whole number from 1 to 300",
        "line 39: remotes.office.retry_attempts = -1: must be a whole number from 0 to 10",
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("retries = true", "must be a whole number from 0 to 10"),
        ("retries = 1.5", "must be a whole number from 0 to 10"),
        ("hold = 0", "must be more than 0 and at most a day"),
        ("hold = true", f"must be {Seconds().words}"),
        ("hold = inf", "must be more than 0 and at most a day"),
        ('base_url = "no url"', "must be a URL like http://127.0.0.1:11434"),
        ("api_key = 5", "must be a text that is not empty"),
        (
            'api_key_env = "sk-a-b"',
            "must be the name of a variable, and not a key; keys are kept by proxyctl keys set",
        ),
        ('think = { "m" = "maybe" }', 'must be true, false or "low", "medium", "high"'),
        ("headers = 5", "must be a table of texts"),
        ("think = 5", 'must be a table of model = true, false or "low", "medium", "high"'),
        ("capabilities = 5", "must be a list of texts"),
        ('server = "vlm"', f'must be one of {", ".join(SERVERS)}; did you mean "vllm"?'),
        ('api = "openai"', "must be one of anthropic"),
        ('tool_images = "below"', "must be one of lift, inline"),
        ('tool_stream = "lively"', 'must be one of buffered, live; did you mean "live"?'),
        ('tools_unsupported = "drop"', "must be one of error, strip, prompt"),
        ("keep_alive = []", 'must be a text like "10m" or "1h30m", or a number of seconds'),
        ('keep_alive = "10"', 'must be a text like "10m" or "1h30m", or a number of seconds'),
        ("num_ctx = 5", 'must be "auto" or a whole number from 512 to 100000000'),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(line: str, problem: str) -> None:
    [found] = problems_of(f'[providers.x]\nkind = "echo"\n{line}')

    assert found.startswith(f"line 3: providers.x.{line.partition(' ')[0]}")
    assert found.endswith(f": {problem}")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('capabilities = ["vison"]', '.capabilities (1st) = "vison": must be one of tools'),
        ('headers = { "a" = "sk-one\\nc" }', ".headers.a: has a line break in it"),
        ('headers = { "a b" = "sk-one" }', '.headers."a b": is not the name of a header'),
        ('api_key_env = "sk-one"', ".api_key_env: must be the name of a variable, and not a key"),
        ('picker_alias = { "m" = "mine" }', '.picker_alias.m = "mine": must be "claude-…" or "anthropic-…"'),
        ('base_url = "http://me:sk-one@host"', ".base_url: must be without user and password"),
        ('base_url = "http://me:sk-one/a@host"', ".base_url: must be a URL"),
        ('api_key_file = "sk-one"', ".api_key_file: must be the name of a file"),
    ],
)
def test_a_part_of_a_value_is_named_and_a_secret_is_not_shown(line: str, problem: str) -> None:
    [found] = problems_of(f'[providers.x]\nkind = "echo"\n{line}')

    assert f"line 3: providers.x{problem}" in found
    assert "sk-one" not in found


def test_every_server_of_the_workers_table_can_be_named() -> None:
    assert set(SERVERS) == set(quirks.SERVERS)


def test_what_is_not_toml_or_not_a_table() -> None:
    assert problems_of('[a]\n[a."b.c"]\n[a."b.c"]') == [
        'line 3: not TOML: Cannot declare [a."b.c"] twice; this table stands here a second time; its keys belong '
        "under the first [header]"
    ]
    assert problems_of("x = 1\na = = b") == ['line 2: not TOML: Invalid value; texts stand in quotes: "…"']
    assert problems_of("providers = 5") == ["line 1: providers = 5: must be a table"]
    assert problems_of("[providers]\na = 5") == ["line 2: providers.a = 5: must be a table"]


def test_a_table_whose_own_name_was_forgotten() -> None:
    """`must be a table` would be true, and of no help."""
    text = '[front]\notherwise = "anthropic"\nrules = []\n[providers]\nbase_url = "http://h"\n'

    assert problems_of(text) == [
        "line 2: front.otherwise: belongs in a table with a name of its own, like [front.NAME]",
        "line 5: providers.base_url: belongs in a table with a name of its own, like [providers.NAME]",
    ]


def test_a_provider_that_is_nearly_a_built_in_one() -> None:
    [problem] = problems_of('[providers.antropic]\nbase_url = "http://h"')

    assert problem.endswith("; did you mean [providers.anthropic]?")


def test_an_openai_server_with_a_name_of_its_own_must_say_where_it_is() -> None:
    assert problems_of('[providers.mine]\nkind = "openai"') == ["line 1: providers.mine: base_url is missing"]


def test_a_key_is_never_in_a_repr() -> None:
    config = parse('[providers.x]\nkind = "echo"\napi_key = "sk-secret"')

    assert config.providers["x"].key.value == "sk-secret"
    assert "sk-secret" not in repr(config)


def test_the_usual_variable_holds_beside_another_source() -> None:
    """Flag, variable, file: who sets OPENROUTER_API_KEY in one shell means it (S57)."""
    config = parse('[providers.openrouter]\napi_key = "k"\n[providers.openai]\napi_key_env = "MINE"')

    assert config.providers["openrouter"].key == Key(value="k", env="OPENROUTER_API_KEY")
    assert config.providers["openai"].key == Key(env="MINE")


WHOLE = """
default_port = 4000
aliases = { local = "ollama/qwen3-coder:30b", "claude-haiku-*" = "ollama/qwen3:8b" }
[proxies.coder]
model = "local"
port = 3457
autostart = true
lazy = true
idle_stop = "15m"
max_rss = "500M"
grace = 0
fallback = ["openrouter/qwen/qwen3-coder", "anthropic"]
max_concurrent = 2
rpm = 60
queue_timeout = "2m"
request_timeout = "1h"
context_window = 65536
max_output_tokens = 8192
capabilities = ["tools"]
retries = 2
hold = "5s"
ping = "7s"
[proxies."ollama/qwen3:8b"]
idle_stop = 0
[models]
default = "claude"
fallback = false
agents = { code-reviewer = "coder", other = "ollama/codellama" }
[front.default]
rules = [
  { agent = "code-*", request = "main", marker = "<m>", to = "coder" },
  { model = "claude-haiku-*", to = "local" },
]
otherwise = "anthropic"
[prices."work/*"]
input = 0.5
output = 2
[remotes.office]
url = "https://box.example.net:8443/"
api_key_env = "OFFICE"
timeout_seconds = 5
"""


def test_everything_else_that_can_be_said() -> None:
    config = parse(WHOLE)

    assert config.default_port == 4000
    assert config.aliases == {"local": "ollama/qwen3-coder:30b", "claude-haiku-*": "ollama/qwen3:8b"}
    assert config.proxies == {
        "coder": ProxyOptions(
            model="local",
            port=3457,
            autostart=True,
            lazy=True,
            idle_stop_s=900.0,
            max_rss=500 * 1024**2,
            grace_s=0.0,
            fallback=["openrouter/qwen/qwen3-coder", "anthropic"],
            max_concurrent=2,
            rpm=60,
            queue_timeout_s=120.0,
            request_timeout_s=3600.0,
            context_window=65536,
            max_output_tokens=8192,
            capabilities=["tools"],
            retries=2,
            hold_s=5.0,
            ping_s=7.0,
        ),
        "ollama/qwen3:8b": ProxyOptions(idle_stop_s=0.0),
    }
    assert config.models == Models("claude", False, {"code-reviewer": "coder", "other": "ollama/codellama"})
    assert config.front == {
        "default": Front(
            [
                FrontRule("coder", agent="code-*", request="main", marker="<m>"),
                FrontRule("local", model="claude-haiku-*"),
            ],
            "anthropic",
        )
    }
    assert config.prices == {"work/*": Price(0.5, 2.0)}
    assert config.providers["remote/office"] == Provider(
        "remote",
        "https://box.example.net:8443",
        Key(env="OFFICE"),
        needs_key=True,
        options=Options(retries=2),
        timeouts=Timeouts(connect_s=5.0),
    )


def test_another_modelproxy_needs_no_key() -> None:
    config = parse('[remotes.office]\nurl = "http://127.0.0.1:3456"\nretry_attempts = 0\n')
    found = config.providers["remote/office"]

    assert (found.kind, found.base_url, found.needs_key) == ("remote", "http://127.0.0.1:3456", False)
    assert (found.options.retries, found.timeouts.connect_s) == (0, 30.0)


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=20,
).filter(lambda value: isinstance(value, dict)))  # fmt: skip
def test_no_document_breaks_the_reader(document: Any) -> None:
    """Whatever its shape: a Config or a list of problems."""
    try:
        outcome: object = build(document)
    except ConfigError as error:
        outcome = "; ".join(map(str, error.problems))

    assert isinstance(outcome, Config) or outcome
