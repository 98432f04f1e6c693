"""One port for a whole session: real commands, a real front and real workers, fakes in place of providers."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from fakes.house import House, ask
from fakes.upstream import Reply, Seen

from .providers import Anthropic, Estate, estate, msg, post

pytestmark = pytest.mark.slow

CONFIG = """
[providers.anthropic]
base_url = "{fa}"
api_key = "sk-ant-api03-configured"
[providers.ollama]
base_url = "{fo}"
[providers.openrouter]
base_url = "{fr}"
[providers.other]
kind = "openai"
api = "anthropic"
base_url = "{fr}"
api_key = "the-key-of-the-other"
[aliases]
local = "ollama/codellama"
[proxies.helped]
model = "ollama/helped"
fallback = ["anthropic"]
[models.agents]
code-reviewer = "ollama/codellama"
stranger = "other/claude-x"
[front.default]
rules = [
  { model = "claude-haiku-*", to = "local" },
  { request = "subagent", to = "openrouter/some/model" },
  { marker = "be helped", to = "helped" },
]
"""
# As no library would write it: what was parsed on the way would come out differently.
RAW = (
    b'{ "max_tokens":100,"model" : "claude-sonnet-4-5",  "a_new_field":[1.0e2,"\\u00e9"],\n'
    b'"messages":[{"content":"Hello","role":"user"}]}'
)
SECRETS = ("sk-ant-oat01-of-the-caller", "sk-ant-api03-of-the-caller")
CALLER = {
    "content-type": "application/json",
    "anthropic-version": "2023-06-01",
    "anthropic-beta": "some-beta-2026-01-01,other",
    "x-claude-code-session-id": "session-1",
    "authorization": f"Bearer {SECRETS[0]}",
    "x-api-key": SECRETS[1],
}
KEY = {"OPENROUTER_API_KEY": "sk-or-v1-of-the-shell"}


@pytest.fixture(scope="module")
def the_home() -> Iterator[Estate]:
    with estate(CONFIG) as found:
        found.house.env |= KEY
        found.ports["front"] = found.house.tell("up", "front", "--port", "0", "--json")["port"]
        yield found


@pytest.fixture
def home(the_home: Estate) -> Estate:
    """For one test: nobody was asked yet, everybody is well."""
    the_home.reset()
    if the_home.fo.is_stopped:
        the_home.fo.start()
    return the_home


def call(home: Estate, body: Any = RAW, path: str = "/v1/messages", **headers: str) -> Any:
    return ask(home.ports["front"], "POST", path, body, CALLER | headers)


def row(home: Estate, answer: Any) -> dict[str, Any]:
    """The only row of an answer's request; the fake Anthropic gives all of its answers the same id."""
    headers, streamed = answer.headers, answer.headers["content-type"] == "text/event-stream"
    mine = headers["request-id"], streamed
    rows = [one for one in home.usage() if (one["request_id"], one["stream"]) == mine]
    [found] = [one for one in rows if one["route"] == headers.get("x-proxy-route", one["route"])]
    return found


def states(home: Estate) -> dict[str, str]:
    return {view["name"]: view["state"] for view in home.house.tell("ps", "--json")}


def test_what_no_rule_takes_reaches_anthropic_as_it_was_sent(home: Estate) -> None:
    """Body, query and the caller's own credential, although a key is configured: a front has none."""
    answer = call(home, path="/v1/messages?beta=true")
    [seen] = home.fa.asked

    assert (answer.status, answer.body) == (200, home.fa.whole())
    assert (seen.body, seen.target) == (RAW, "/v1/messages?beta=true")
    assert CALLER.items() <= seen.headers.items()
    assert answer.headers["x-proxy-route"] == "front>anthropic"
    found = row(home, answer)
    assert (found["proxy"], found["provider"], found["session_id"]) == ("front", "anthropic", "session-1")
    assert (found["route"], found["input_tokens"]) == ("front>anthropic", 21)


def test_unknown_paths_go_there_too(home: Estate) -> None:
    home.fa.on("/v1/whatever", Reply(418, b'{"a":1}'))
    answer = ask(home.ports["front"], "PATCH", "/v1/whatever?x=1", b"{}", CALLER)
    [seen] = home.fa.to("/v1/whatever")

    assert (answer.status, answer.body) == (418, b'{"a":1}')
    assert (seen.method, seen.target) == ("PATCH", "/v1/whatever?x=1")


def test_an_agents_requests_go_to_its_model_and_no_credential_does(home: Estate) -> None:
    """Its proxy was idle until then; one row tells the whole route."""
    answer = call(home, path="/a/code-reviewer/v1/messages?beta=true")
    streamed = call(home, msg(stream=True), path="/a/code-reviewer/v1/messages")
    [first, second] = home.fo.asked

    assert answer.json["content"] == [{"type": "text", "text": "Hello"}]
    assert (first.json()["model"], second.json()["model"]) == ("codellama", "codellama")
    assert streamed.body.endswith(b'data: {"type":"message_stop"}\n\n')
    assert not home.fa.asked
    assert not any(secret in str(seen) for seen in home.fo.requests for secret in SECRETS)
    found = row(home, answer)
    assert (found["agent"], found["session_id"], found["proxy"]) == (
        "code-reviewer",
        "session-1",
        "ollama/codellama",
    )
    assert (found["route"], found["provider"], found["model"]) == (
        "front>ollama/codellama",
        "ollama",
        "codellama",
    )
    assert (found["requested_model"], found["cost_usd"], found["output_tokens"]) == (
        "claude-sonnet-4-5",
        0.0,
        7,
    )
    assert row(home, streamed)["agent"] == "code-reviewer"
    assert states(home)["ollama/codellama"] == "ready"


@pytest.mark.parametrize("streamed", [False, True])
def test_no_credential_reaches_another_server_that_speaks_anthropics_language(
    home: Estate, streamed: bool
) -> None:
    """Its bytes are passed through, the caller's credential is not."""
    there = Anthropic()
    home.fr.on("/api/v1/messages", there.answer(_Asked(streamed)))  # type: ignore[arg-type]  # all that it looks at
    answer = call(home, msg(stream=streamed), path="/a/stranger/v1/messages")
    [seen] = home.fr.to("/api/v1/messages")

    assert answer.status == 200
    assert seen.headers["authorization"] == "Bearer the-key-of-the-other"
    assert not any(secret in str(seen) for secret in SECRETS)
    assert row(home, answer)["route"] == "front>other/claude-x"


class _Asked:
    def __init__(self, streamed: bool) -> None:
        self._streamed = streamed

    def json(self) -> dict[str, Any]:
        return {"stream": self._streamed}


def test_rules_for_a_model_a_class_and_a_marker(home: Estate) -> None:
    haiku = call(home, {**msg(), "model": "claude-haiku-4-5"})
    explored = call(home, msg(), **{"x-claude-code-agent-id": "agent-7"})
    helped = call(home, msg(system="please be helped"))

    assert [one.headers["x-proxy-route"] for one in (haiku, explored, helped)] == [
        "front>ollama/codellama",
        "front>openrouter/some/model",
        "front>helped",
    ]
    assert row(home, explored)["agent_id"] == "agent-7"
    [seen] = home.fr.asked
    assert seen.headers["authorization"] == f"Bearer {KEY['OPENROUTER_API_KEY']}"
    assert not any(secret in str(one) for one in home.fr.requests for secret in SECRETS)


def test_a_place_falls_back_to_anthropic_with_the_callers_own_request(home: Estate) -> None:
    """And what the place says of that is in its one row."""
    home.fo.stop()
    body = json.dumps(msg(system="please be helped")).encode()
    answer = call(home, body)
    [seen] = home.fa.asked

    assert (answer.status, seen.body) == (200, body)
    assert answer.headers["x-proxy-fallback"] == "anthropic"
    found = row(home, answer)
    assert (found["route"], found["fallback"], found["provider"]) == (
        "front>helped",
        True,
        "anthropic",
    )


def test_errors_of_a_place_are_its_own(home: Estate) -> None:
    home.fo.instead(Reply(404, b'{"error":"model not found"}'))
    answer = call(home, path="/a/code-reviewer/v1/messages")

    assert answer.status == 404
    assert "ollama pull codellama" in answer.json["error"]["message"]
    assert row(home, answer)["proxy"] == "ollama/codellama"


def test_an_unknown_agent_is_answered_with_the_nearest(home: Estate) -> None:
    answer = call(home, path="/a/code-reviwer/v1/messages")

    assert answer.status == 404
    assert "Agents: code-reviewer" in answer.json["error"]["message"]


def test_the_sdk_through_an_agents_address(home: Estate) -> None:
    port = home.ports["front"]
    with anthropic.Anthropic(
        base_url=f"http://127.0.0.1:{port}/a/code-reviewer", auth_token=SECRETS[0], max_retries=0
    ) as client:
        whole = client.messages.create(**{**msg(), "model": "claude-x"})
        with client.messages.stream(**{**msg(), "model": "claude-x"}) as stream:
            text = stream.get_final_text()
        counted = client.messages.count_tokens(model="claude-x", messages=msg()["messages"])

    assert (whole.model, text) == ("claude-x", "Hello")
    assert counted.input_tokens > 0
    assert not home.fa.asked
    assert not any(SECRETS[0] in str(seen) for seen in home.fo.requests)


def is_of_a_worker(seen: Seen) -> bool:
    """Whether a worker looked after its provider: it may at any time, and a front has no key to show."""
    shown = f"{seen.headers.get('authorization')} {seen.headers.get('x-api-key')}"
    return any(key in shown for key in (*KEY.values(), "the-key-of-the-other", "configured"))


def test_what_can_be_asked_for_is_listed_without_asking_anybody(home: Estate) -> None:
    got = ask(home.ports["front"], "GET", "/v1/models?limit=1000", None, CALLER)
    ids = {entry["id"] for entry in got.json["data"]}
    asked = [seen for far in (home.fa, home.fr) for seen in far.requests if not is_of_a_worker(seen)]
    answer = call(home, {**msg(), "model": "claude-code-reviewer"})

    assert {"code-reviewer", "claude-code-reviewer", "local", "claude-local", "ollama/codellama"} <= ids
    assert "claude-haiku-*" not in ids
    assert not asked
    assert answer.headers["x-proxy-route"] == "front>ollama/codellama"
    assert row(home, answer)["agent"] == "code-reviewer"


def test_health_and_ps_say_how_the_places_are_and_start_none(home: Estate) -> None:
    home.house.tell("down", "helped", "--json")
    home.house.tell("up", "helped", "--lazy", "--port", "0", "--json")
    call(home, path="/a/code-reviewer/v1/messages")
    got = ask(home.ports["front"], "GET", "/health", None, {}).json
    shown = {one["name"]: one["state"] for one in got["targets"]}
    [view] = [one for one in home.house.tell("ps", "--json") if one["name"] == "front"]

    assert (got["healthy"], shown["ollama/codellama"], shown["helped"]) == (True, "works", "not asked yet")
    assert states(home)["helped"] == "idle"
    told = {one["name"]: one["state"] for one in view["targets"]}
    assert (told["helped"], told["ollama/codellama"]) == ("idle", "ready")


def test_a_place_that_is_taken_down_is_named_and_found_again_on_another_port(home: Estate) -> None:
    home.house.tell("down", "ollama/codellama", "--json")
    answer = call(home, path="/a/code-reviewer/v1/messages")
    found = row(home, answer)
    home.house.tell("up", "ollama/codellama", "--port", "0", "--json")
    again = call(home, path="/a/code-reviewer/v1/messages")

    assert answer.status == 503
    assert "proxyctl up ollama/codellama" in answer.json["error"]["message"]
    assert (found["proxy"], found["route"]) == ("front", "front>ollama/codellama")
    assert (again.status, again.headers["x-proxy-route"]) == (200, "front>ollama/codellama")


def test_what_agents_use_is_followed_while_it_runs(home: Estate) -> None:
    """From the next request on. And `up front` again is the same front with the rules as they are now."""
    assert call(home, path="/a/newcomer/v1/messages").status == 404
    home.house.tell("agents", "set", "newcomer", "local", "--json")
    answer = call(home, path="/a/newcomer/v1/messages")
    again = home.house.tell("up", "front", "--json")

    assert (answer.status, row(home, answer)["agent"]) == (200, "newcomer")
    assert (again["port"], again["reused"]) == (home.ports["front"], True)


def test_any_proxy_takes_an_agents_address(home: Estate) -> None:
    """The name stands in its ledger; a launcher needs no front for one agent."""
    port = home.house.tell("up", "ollama/codellama", "--json")["port"]
    answer = post(port, msg(), "/a/whoever/v1/messages")

    assert (answer.status, row(home, answer)["agent"]) == (200, "whoever")
    assert row(home, answer)["route"] == "ollama/codellama"


def test_it_outlives_its_worker_and_its_supervisor(home: Estate) -> None:
    """And the next supervisor tells it what changes, as the last one did."""
    before = home.house.tell("ps", "--json")
    [pid] = [view["pid"] for view in before if view["name"] == "front"]
    os.kill(pid, signal.SIGKILL)
    assert call(home, path="/a/code-reviewer/v1/messages").status == 200
    os.kill(home.house.tell("daemon", "status", "--json")["pid"], signal.SIGKILL)
    assert call(home, path="/a/code-reviewer/v1/messages").status == 200
    home.house.tell("up", "front", "--json")
    home.house.tell("down", "ollama/codellama", "--json")
    answer = call(home, path="/a/code-reviewer/v1/messages")
    ports = {view["name"]: view["port"] for view in home.house.tell("ps", "-a", "--json")}
    home.house.tell("up", "ollama/codellama", "--port", "0", "--json")

    assert answer.status == 503
    assert "ollama/codellama is not up" in answer.json["error"]["message"]
    assert ports == {view["name"]: view["port"] for view in before}


# --- without a configuration, and what is refused -----------------------------------------------------


def test_without_a_configuration_it_is_a_plain_way_to_anthropic(house: House) -> None:
    house.start()
    with Anthropic() as far:
        view = house.tell("up", "front", "--port", "0", "--base-url", far.url, "--json")
        answer = ask(view["port"], "POST", "/v1/messages", RAW, CALLER)

        assert (view["name"], view["provider"], view["state"]) == ("front", "front", "ready")
        assert (answer.status, far.asked[0].body) == (200, RAW)
    for words in (["--api-key", "x"], ["--fallback", "ollama/x"]):
        refused = house.tell("up", "front", *words, "--json", code=2)
        assert "a front has no key and no fallback of its own" in refused["error"]["message"]
    unknown = house.tell("up", "front/wrok", "--json", code=2)
    assert "[front.wrok]" in unknown["error"]["message"]


def test_a_key_that_is_missing_is_said_before_anything_runs(house: House) -> None:
    """Of what rules lead to; a name that only might be asked for is a note."""
    file = house.home / "config" / "modelproxy" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text('[aliases]\nfar = "openrouter/a"')
    house.start()
    view = house.tell("up", "front", "--port", "0", "--json")
    answer = ask(view["port"], "POST", "/v1/messages", {**msg(), "model": "far"}, CALLER)

    assert "openrouter/a cannot be reached through the front: openrouter needs an API key" in view["notes"][0]
    assert answer.status == 503
    assert "openrouter needs an API key" in answer.json["error"]["message"]
    house.tell("down", "front", "--json")
    file.write_text('[models.agents]\nx = "openrouter/a"')
    refused = house.tell("up", "front", "--port", "0", "--json", code=1)
    assert refused["error"]["code"] == "missing_api_key"
