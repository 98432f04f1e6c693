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
