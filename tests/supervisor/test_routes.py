"""From what the user wrote to where requests go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelproxy.supervisor import config, routes
from modelproxy.supervisor.protocol import Fault


def test_only_the_first_slash_divides() -> None:
    """Provider catalogues have slashes of their own, and colons and at-signs."""
    assert routes.split_model_id("openrouter/anthropic/claude-3-haiku") == (
        "openrouter",
        "anthropic/claude-3-haiku",
    )
    assert routes.split_model_id("ollama/qwen2.5-coder:7b@x") == ("ollama", "qwen2.5-coder:7b@x")


@pytest.mark.parametrize(
    "text", ["", "/", "echo", "echo/", "/demo", "echo demo/x", "echo/a\nb", "e/\x1b[31m", "e/\ud800"]
)
def test_what_is_no_model_id(text: str) -> None:
    """One sentence that says what is expected."""
    with pytest.raises(Fault) as caught:
        routes.split_model_id(text)

    assert caught.value.code == "bad_model_id"
    assert routes.EXPECTED in caught.value.message
    assert "\n" not in caught.value.message


def test_the_longest_model_id() -> None:
    routes.split_model_id("echo/" + "x" * 195)
    with pytest.raises(Fault, match="longer than 200"):
        routes.split_model_id("echo/" + "x" * 196)


@given(st.text())
def test_any_text_is_divided_or_refused(text: str) -> None:
    try:
        outcome = "/".join(routes.split_model_id(text))
    except Fault as fault:
        outcome = fault.code

    assert outcome in (text, "bad_model_id")


CONFIG = config.parse("")


def test_echo_is_resolved() -> None:
    route = routes.resolve("echo/demo", CONFIG)

    assert route == routes.Route("echo/demo", "echo", config.BUILT_IN["echo"], "demo")


def test_a_configured_provider_is_resolved_by_its_own_name() -> None:
    route = routes.resolve(
        "mine/a/b", config.parse('[providers.mine]\nkind = "echo"\nbase_url = "http://here"')
    )

    assert (route.name, route.provider.kind, route.model, route.base_url) == (
        "mine",
        "echo",
        "a/b",
        "http://here",
    )


def test_an_unknown_provider_is_named_with_its_neighbour() -> None:
    with pytest.raises(Fault) as caught:
        routes.resolve("ecko/demo", CONFIG)

    assert caught.value.code == "unsupported_provider"
    assert caught.value.message == 'Unsupported provider "ecko"; did you mean "echo"?'
    assert "echo" in caught.value.hint
    with pytest.raises(Fault, match=r'^Unsupported provider "zzz"$'):
        routes.resolve("zzz/demo", CONFIG)


def test_a_target_is_a_model_or_the_callers_own_request() -> None:
    """`anthropic` alone has no model of its own."""
    assert routes.resolve_target("echo/demo", CONFIG) == routes.resolve("echo/demo", CONFIG)
    own = routes.Route("anthropic", "anthropic", config.BUILT_IN["anthropic"], "")
    assert routes.resolve_target("anthropic", CONFIG) == own
    with pytest.raises(Fault, match="Expected: provider/model-name"):
        routes.resolve_target("openrouter", CONFIG)


NAMES = config.parse("""
aliases = { local = "ollama/qwen3", "claude-*" = "echo/demo" }
[proxies.coder]
model = "local"
retries = 2
hold = "5s"
[proxies."ollama/qwen3"]
context_window = 4096
[providers.ollama]
retries = 1
total_timeout = "2h"
""")


def test_an_alias_is_its_model_with_what_is_said_of_the_model() -> None:
    for name in ("local", "ollama/qwen3"):
        route = routes.resolve(name, NAMES)

        assert (route.model_id, route.proxy, route.options.context_window) == ("ollama/qwen3", None, 4096)
    assert routes.resolve("claude-opus-4", NAMES).model_id == "echo/demo"


def test_a_target_may_be_an_alias() -> None:
    assert routes.resolve_target("local", NAMES).model_id == "ollama/qwen3"


def test_targets_are_asked_once_each() -> None:
    """A model falls back to itself as little as anything is asked again."""
    route = routes.resolve("coder", NAMES)

    assert [one.model_id for one in routes.targets(route, ["echo/x", "anthropic"], NAMES)] == [
        "echo/x",
        "anthropic",
    ]
    with pytest.raises(Fault, match=r"^fallback ollama/qwen3 is the proxy's own model$"):
        routes.targets(route, ["anthropic", "local"], NAMES)
    assert routes.targets(route, ["local"], NAMES, is_elsewhere=True)
    with pytest.raises(Fault, match=r"^fallback anthropic is said twice$"):
        routes.targets(route, ["anthropic", "anthropic"], NAMES)


def test_a_named_proxy_has_its_name_and_its_own_table() -> None:
    """Over its provider's; the table of its model says nothing of it."""
    route = routes.resolve("coder", NAMES)
    spec = routes.spec(route)

    assert (spec.name, spec.model_id, spec.model) == ("coder", "ollama/qwen3", "qwen3")
    assert (spec.options.retries, spec.options.hold_s, spec.options.context_window) == (2, 5.0, None)
    assert spec.timeouts.total_s == 7200.0
    assert routes.spec(routes.resolve("ollama/qwen3", NAMES)).options.retries == 1


def test_s105_a_name_that_nothing_has_is_answered_with_the_nearest() -> None:
    with pytest.raises(Fault) as caught:
        routes.resolve("codr", NAMES)

    assert caught.value.code == "bad_model_id"
    assert routes.EXPECTED in caught.value.message
    assert caught.value.hint.startswith("Model 'codr' not available. Available models: coder, ")


OFFICE = config.parse('[remotes.office]\nurl = "http://127.0.0.1:3456"\n')


def test_s100_a_remote_is_asked_for_what_it_calls_the_model() -> None:
    spec = routes.spec(routes.resolve("remote/office/ollama/codellama", OFFICE))

    assert (spec.provider, spec.kind, spec.model) == ("remote/office", "remote", "ollama/codellama")
    assert (spec.name, spec.base_url) == ("remote/office/ollama/codellama", "http://127.0.0.1:3456")


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("remote/ofice/x/y", "unsupported_provider", 'no table [remotes.ofice]; did you mean "office"?'),
        ("remote/elsewhere/x", "unsupported_provider", "no table [remotes.elsewhere]; known are office"),
        ("remote/office", "bad_model_id", "Expected: remote/NAME/provider/model-name"),
    ],
)
def test_a_remote_that_is_not_there(text: str, code: str, words: str) -> None:
    with pytest.raises(Fault) as caught:
        routes.resolve(text, OFFICE)

    assert caught.value.code == code
    assert words in caught.value.message
