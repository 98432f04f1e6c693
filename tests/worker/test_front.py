"""The front's rules: what is seen of a request, and which rule takes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
from fakes.exchange import JSON_HEADERS, request

from modelproxy.worker import front
from modelproxy.worker.contract import Front, FrontRule, Place
from modelproxy.worker.front import OWN, Asked, Plan, Way, picker, read

SAMPLES = sorted((Path(__file__).parent.parent / "cases" / "samples").glob("*.json"))
BILLING = "x-anthropic-billing-header: cc_version=2.1.329.a00; cc_entrypoint=cli;"
FORMAT = {"format": {"type": "json_schema", "schema": {}}}


def seen(
    body: Any = None,
    *,
    agent: str | None = None,
    path: str = "/v1/messages",
    headers: dict[str, str] | None = None,
) -> Asked:
    """`body`: of a model request, as JSON or as bytes."""
    pairs = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    head = request("POST", path, (*JSON_HEADERS, *pairs))
    return read(head, body if isinstance(body, bytes | None) else json.dumps(body).encode(), agent)


def system(*texts: str) -> dict[str, Any]:
    return {"model": "m", "system": [{"type": "text", "text": text} for text in texts]}


# --- what is seen of a request ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        ({"model": "m"}, {}, None),
        (system("You review. <!-- agent: code-reviewer -->"), {}, "code-reviewer"),
        (system(BILLING, "a", "<!--agent:x-->"), {}, "x"),
        ({"model": "m", "system": "<!-- agent: plain -->"}, {}, "plain"),
        ({"model": "m", "messages": [{"role": "user", "content": "<!-- agent: x -->"}]}, {}, None),
        (system("<!-- agent: marked -->"), {"x-proxy-agent": "said"}, "said"),
        (None, {"x-proxy-agent": "said"}, "said"),
        ({"model": "m"}, {"x-claude-code-agent-type": "Explore"}, "Explore"),
        ({"model": "m"}, {"x-claude-code-agent-type": "custom"}, None),
        ({"model": "m"}, {"x-claude-code-agent-type": "teammate"}, None),
        (system("<!-- agent: marked -->"), {"x-claude-code-agent-type": "Explore"}, "marked"),
    ],
)
def test_who_asks(body: Any, headers: dict[str, str], expected: str | None) -> None:
    assert seen(body, headers=headers).agent == expected


def test_the_path_says_it_before_the_header_and_the_prompt() -> None:
    body = system("<!-- agent: marked -->")

    assert seen(body, agent="path", headers={"x-proxy-agent": "said"}).agent == "path"
    assert seen(None, agent="path").agent == "path"


def test_ids_are_those_of_the_headers() -> None:
    headers = {"x-claude-code-agent-id": "a1", "x-claude-code-session-id": "s1"}
    for body in ({"model": "m"}, None):
        asked = seen(body, headers=headers)

        assert (asked.agent_id, asked.session_id) == ("a1", "s1")
        assert seen(body, headers={"x-session-id": "ses_1"}).session_id == "ses_1"


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"tools": [{"name": "Bash"}]}, "main"),
        ({}, "main"),
        ({"tools": []}, "main"),
        ({"model": "claude-haiku-5-5"}, "background"),
        ({"model": "claude-haiku-5-5", "tools": [{"name": "Bash"}]}, "main"),
        ({"output_config": FORMAT}, "background"),
        ({"output_config": {"effort": "high"}}, "main"),
        ({"output_config": FORMAT, "tools": [{"name": "Bash"}]}, "main"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search"),
        ({"tools": [{"type": "web_search_20250305"}, {"name": "Bash"}]}, "main"),
        ({"tools": [{"type": 7}]}, "main"),
        ({"tools": "none", "output_config": [1]}, "main"),
        (system(BILLING + " cc_is_subagent=true;", "You explore."), "subagent"),
        (system("You explain cc_is_subagent=true."), "main"),
        (system(BILLING, "cc_is_subagent=true") | {"stream": True}, "main"),
        (system(BILLING, "You are a security monitor.") | {"stop_sequences": ["</block>"]}, "background"),
        (system(BILLING) | {"tools": [{"name": "Bash"}]}, "main"),
    ],
)
def test_the_class_of_a_request(more: dict[str, Any], expected: str) -> None:
    assert seen({"model": "m"} | more).request == expected


@pytest.mark.parametrize(
    ("hint", "more", "expected"),
    [
        ("main", {"model": "claude-haiku-5-5"}, "main"),
        ("compaction", {}, "main"),
        ("side_reply", {}, "main"),
        ("auxiliary", {"tools": [{"name": "Bash"}]}, "background"),
        ("auxiliary", {"tools": [{"type": "web_search_20250305"}]}, "web_search"),
        ("subagent", {"tools": [{"type": "web_search_20250305"}]}, "subagent"),
        ("workflow", {}, "subagent"),
        ("of tomorrow", {"output_config": FORMAT}, "background"),
    ],
)
def test_what_claude_code_says_of_the_class(hint: str, more: dict[str, Any], expected: str) -> None:
    """With CLAUDE_CODE_GATEWAY_HINT_HEADERS."""
    asked = seen({"model": "m"} | more, headers={"x-claude-code-request-class": hint})

    assert asked.request == expected


def test_the_header_makes_a_subagent_and_the_path_a_count() -> None:
    headers = {"x-claude-code-agent-id": "a1"}

    assert seen({"model": "claude-haiku-5-5"}, headers=headers).request == "subagent"
    assert seen({"model": "m"}, path="/v1/messages/count_tokens", headers=headers).request == "count_tokens"
    assert seen(None, headers=headers).request == "other"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"model": 7, "system": 7}', b'{"system": [1, {"text": 2}, {}]}', b"\xff" * 9],
    ids=repr,
)
def test_what_is_not_understood_is_not_there(body: bytes) -> None:
    asked = seen(body)

    assert (asked.model, asked.agent, asked.system, asked.stream) == ("", None, "", False)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_real_requests_of_agents_are_the_main_conversation(path: Path) -> None:
    body = path.read_bytes()
    asked = seen(body)

    assert (asked.model, asked.stream) == (json.loads(body)["model"], True)
    assert asked.request == "main"


# --- rules --------------------------------------------------------------------------------------------

PLACES = [Place("a", "ollama/a", "http://127.0.0.1:1"), Place("b", "ollama/b", None)]


def to(asked: Asked, *rules: FrontRule, otherwise: str = OWN) -> str:
    return Plan(Front(list(rules), PLACES, otherwise)).decide(asked).to


@pytest.mark.parametrize(
    ("rule", "asked", "takes"),
    [
        (FrontRule("a", agent="rev-*"), Asked(agent="rev-1"), True),
        (FrontRule("a", agent="rev-*"), Asked(agent_id="rev-7f"), True),
        (FrontRule("a", agent="rev-*"), Asked(agent="xrev-1"), False),
        (FrontRule("a", agent="rev-*"), Asked(), False),
        (FrontRule("a", agent="*"), Asked(agent="any"), True),
        (FrontRule("a", agent="*"), Asked(model="m"), False),
        (FrontRule("a", model="claude-haiku-?"), Asked(model="claude-haiku-5"), True),
        (FrontRule("a", model="claude-haiku-?"), Asked(model="claude-haiku-55"), False),
        (FrontRule("a", model="claude.x"), Asked(model="claude-x"), False),
        (FrontRule("a", model="*"), Asked(), False),
        (FrontRule("a", model="*"), Asked(model="x\ny"), True),
        (FrontRule("a", request="subagent"), Asked(request="subagent"), True),
        (FrontRule("a", request="subagent"), Asked(request="main"), False),
        (FrontRule("a", marker="<review>"), Asked(system="You <review> code"), True),
        (FrontRule("a", marker="<review>"), Asked(system="You review code"), False),
        (FrontRule("a", session="4f*"), Asked(session_id="4f0c"), True),
        (FrontRule("a", session="4f*"), Asked(session_id="5f0c"), False),
        (FrontRule("a", agent="x", model="m"), Asked(agent="x", model="m"), True),
        (FrontRule("a", agent="x", model="m"), Asked(agent="x", model="n"), False),
        (FrontRule("a"), Asked(agent="x", model="m"), False),
    ],
)
def test_a_rule_takes_what_fulfils_all_of_it(rule: FrontRule, asked: Asked, takes: bool) -> None:
    assert to(asked, rule) == ("a" if takes else OWN)


def test_the_first_rule_that_fits_decides_and_the_rest_goes_otherwise() -> None:
    rules = FrontRule("b", model="claude-haiku-5"), FrontRule("a", model="claude-*")

    assert [to(Asked(model=name), *rules) for name in ("claude-haiku-5", "claude-x", "x")] == ["b", "a", OWN]
    assert to(Asked(model="x"), *rules, otherwise="b") == "b"


def test_an_agent_can_be_asked_for_as_a_model() -> None:
    rules = FrontRule("a", agent="code-reviewer"), FrontRule("b", agent="glob-*")
    plan = Plan(Front(list(rules), PLACES))

    assert plan.decide(Asked(model="code-reviewer")) == Way("a", "code-reviewer")
    assert plan.decide(Asked(model="claude-code-reviewer")) == Way("a", "code-reviewer")
    assert plan.decide(Asked(model="glob-x")) == Way(OWN)
    # Who says who he is is not somebody else for the model that he asks for.
    assert plan.decide(Asked(model="code-reviewer", agent="other")) == Way(OWN, "other")


def test_names_for_the_picker_mean_what_they_stand_for() -> None:
    rules = FrontRule("b", model="claude-*"), FrontRule("a", model="ollama/a")
    plan = Plan(Front(list(rules), PLACES))

    assert plan.ids == ["ollama/a", "claude-ollama-a"]
    # Before the glob: it was made of a name that is no claude's.
    assert plan.decide(Asked(model="claude-ollama-a")).to == "a"
    assert plan.decide(Asked(model="claude-opus")).to == "b"


def test_what_can_be_asked_for_is_listed_once_and_globs_are_not() -> None:
    rules = [FrontRule("a", agent="x"), FrontRule("a", agent="y*"), FrontRule("b", model="claude-x")]
    rules += [
        FrontRule("b", model="local"),
        FrontRule("b", model="local", agent="x"),
        FrontRule("b", marker="m"),
        FrontRule(OWN, agent="z"),  # Anthropic has no model of that name
    ]
    plan = Plan(Front(rules, PLACES))

    assert plan.names() == ["claude-x", "local", "x"]
    assert plan.ids == ["claude-x", "local", "claude-local", "x", "claude-x"][:4]


def test_agents_are_known_by_name_or_by_glob_and_the_nearest_are_told() -> None:
    plan = Plan(Front([FrontRule("a", agent="code-reviewer"), FrontRule("a", agent="test-*")], PLACES))

    assert [plan.knows(name) for name in ("code-reviewer", "test-1", "code-reviewr")] == [True, True, False]
    adding = "proxyctl agents set NAME MODEL adds one"
    assert plan.unknown("code-reviewr") == (
        f"agent: 'code-reviewr' has no rule here. Agents: code-reviewer; {adding}"
    )
    assert Plan(Front()).unknown("x") == f"agent: 'x' has no rule here. Agents: none; {adding}"


def test_whether_anything_goes_home() -> None:
    assert Plan(Front()).leads_home
    assert Plan(Front([FrontRule(OWN, agent="x")], PLACES, "a")).leads_home
    assert not Plan(Front([FrontRule("b", agent="x")], PLACES, "a")).leads_home


@pytest.mark.parametrize(
    ("name", "expected"),
    [("ollama/qwen3:8b", "claude-ollama-qwen3-8b"), ("claude-x", "claude-x"), ("anthropic/y", "anthropic/y")],
)
def test_picker(name: str, expected: str) -> None:
    assert picker(name) == expected


def test_a_place_that_is_down_says_what_helps() -> None:
    down = PLACES[1]

    assert front.down(down) == "b is not up: it was taken down - proxyctl up b"
    assert front.down(attrs.evolve(down, trouble="no key")) == "b is not up: no key"
