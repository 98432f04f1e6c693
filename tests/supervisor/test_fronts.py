"""The configuration's tables as a front's rules."""

from __future__ import annotations

import pytest

from modelproxy.supervisor import config, fronts, routes
from modelproxy.supervisor.protocol import Fault
from modelproxy.worker.contract import FrontRule, Place

TEXT = """
[providers.anthropic]
base_url = "http://127.0.0.1:1/x"
api_key = "sk-not-for-the-front"
[aliases]
"claude-*" = "ollama/big"
local = "ollama/qwen3:8b"
"claude-haiku-*" = "ollama/small"
[proxies.coder]
model = "local"
[proxies."ollama/big"]
lazy = true
[models]
default = "coder"
[models.agents]
reviewer = "ollama/codellama"
writer = "claude"
[front.default]
rules = [
  { agent = "r*", model = "m", to = "local" },
  { session = "s", marker = "k", request = "main", to = "anthropic" }
]
otherwise = "coder"
[front.work]
"""


def rules(text: str, table: str = "default") -> list[FrontRule]:
    return fronts.compiled(table, config.parse(text)).front.rules


def test_the_tables_rules_then_agents_then_names() -> None:
    """Real names before exact aliases before the longest glob."""
    found = fronts.compiled("default", config.parse(TEXT))

    assert found.front.rules == [
        FrontRule("ollama/qwen3:8b", agent="r*", model="m"),
        FrontRule("anthropic", session="s", marker="k", request="main"),
        FrontRule("ollama/codellama", agent="reviewer"),
        FrontRule("anthropic", agent="writer"),
        FrontRule("coder", agent="*"),
        FrontRule("ollama/big", model="ollama/big"),
        FrontRule("ollama/codellama", model="ollama/codellama"),
        FrontRule("ollama/qwen3:8b", model="ollama/qwen3:8b"),
        FrontRule("ollama/small", model="ollama/small"),
        FrontRule("coder", model="coder"),
        FrontRule("ollama/qwen3:8b", model="local"),
        FrontRule("ollama/small", model="claude-haiku-*"),
        FrontRule("ollama/big", model="claude-*"),
    ]
    assert found.front.otherwise == "coder"
    assert found.front.places == [
        Place("ollama/qwen3:8b", "ollama/qwen3:8b", None),
        Place("ollama/codellama", "ollama/codellama", None),
        Place("coder", "ollama/qwen3:8b", None),
        Place("ollama/small", "ollama/small", None),
        Place("ollama/big", "ollama/big", None),
    ]
    assert found.required == {"ollama/qwen3:8b", "ollama/codellama", "coder"}


def test_of_agents_the_exact_name_goes_before_the_longest_glob_whatever_the_order_in_the_file() -> None:
    """As `agents resolve` looks one up."""
    text = (
        '[models.agents]\n"*" = "echo/any"\n"code-*" = "echo/c"\n"code-re*" = "claude"\ncode-red = "echo/r"'
    )

    assert [rule for rule in rules(text) if rule.agent is not None] == [
        FrontRule("echo/r", agent="code-red"),
        FrontRule("anthropic", agent="code-re*"),
        FrontRule("echo/c", agent="code-*"),
        FrontRule("echo/any", agent="*"),
    ]


def test_without_any_table_everything_goes_to_anthropic() -> None:
    found = fronts.compiled("default", config.parse(""))

    assert (found.front.rules, found.front.places, found.front.otherwise) == ([], [], "anthropic")


def test_a_table_shares_agents_and_names_with_the_others() -> None:
    assert rules(TEXT, "work") == rules(TEXT)[2:]


def test_a_proxy_of_its_own_name_answers_for_its_model_where_no_other_does() -> None:
    text = '[proxies.b]\nmodel = "ollama/x"\n[proxies.c]\nmodel = "ollama/x"'

    assert FrontRule("b", model="ollama/x") in rules(text)


def test_a_target_that_leads_nowhere_is_a_place_that_says_so() -> None:
    """Validation lets none pass; a front does not end for one all the same."""
    found = config.Config(models=config.Models(agents={"x": "nope/m"}))
    [place] = fronts.compiled("default", found).front.places

    assert (place.name, place.url) == ("nope/m", None)
    assert 'Unsupported provider "nope"' in place.trouble


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("front", "default"),
        ("front/default", "default"),
        ("front/work", "work"),
        ("frontier", None),
        ("ollama/front", None),
        ("local", None),
    ],
)
def test_which_table_is_meant(said: str, expected: str | None) -> None:
    assert fronts.table_of(said, config.parse(TEXT)) == expected


def test_a_table_that_is_not_there_is_answered_with_the_nearest() -> None:
    with pytest.raises(Fault) as caught:
        fronts.table_of("front/wrok", config.parse(TEXT))

    assert "[front.wrok]" in caught.value.message
    assert caught.value.hint.startswith("known are front/work, ")


def test_its_route_is_anthropics_without_the_key() -> None:
    found = config.parse(TEXT)
    route = fronts.route("default", found)
    spec = routes.spec(route)

    assert (spec.name, spec.model_id, spec.kind, spec.provider) == ("front", "front", "front", "front")
    assert (spec.base_url, route.provider.key, route.provider.needs_key) == (
        "http://127.0.0.1:1/x",
        config.Key(),
        False,
    )
    assert routes.spec(fronts.route("work", found)).name == "front/work"
