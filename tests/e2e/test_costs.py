"""What requests add up to, and that each one's row proves its way: real commands, a front, workers, fakes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fakes.house import Stream, ask, attempts
from fakes.upstream import Reply

from .providers import PROVIDERS, Estate, estate, msg

pytestmark = pytest.mark.slow

CONFIG = f"""{PROVIDERS}[proxies.coder]
model = "ollama/codellama"
fallback = ["openrouter/a/b"]
[models.agents]
code-reviewer = "coder"
writer = "ollama/unused"
"""
CALLER = {
    "content-type": "application/json",
    "anthropic-version": "2023-06-01",
    "x-claude-code-session-id": "session-1",
    "x-api-key": "sk-ant-api03-of-the-caller",
}
REVIEWER = "/a/code-reviewer/v1/messages"
TOLD = ("requests", "failed", "fallbacks", "input_tokens", "cost_usd", "cost_source", "unpriced_requests")
PROOF = {
    *("ts", "request_id", "session_id", "agent", "requested_model"),
    *("provider", "model", "route", "fallback", "fallback_reason"),
}
BILL = {"cost": 0.0125, "prompt_tokens_details": {"cached_tokens": 5}}


@pytest.fixture
def home() -> Iterator[Estate]:
    with estate(CONFIG) as home:
        home.up("front")
        yield home


def call(home: Estate, path: str, body: Any = None) -> Any:
    return ask(home.ports["front"], "POST", path, body or msg(), CALLER)


def sums(home: Estate, by: str, *keys: str) -> dict[Any, dict[str, Any]]:
    """The groups of `proxyctl costs`, by what they are known by."""
    found = home.house.tell("costs", "--by", by, "--json")
    return {tuple(group[key] for key in keys): group for group in found}


def waited(home: Estate, of: tuple[str, str], count: str) -> dict[str, Any]:
    """That route's group, once it has one of these."""
    for _ in attempts():
        group = sums(home, "route", "route", "model")[of]
        if group[count]:
            return group
    raise AssertionError(f"never {count}: {group}")


def test_s135_s10_what_requests_add_up_to_and_each_row_proves_its_way(home: Estate) -> None:
    """Local, fallen back, refused by the front, failed at Anthropic, in progress, and cut by a kill."""
    coder, unused = ("front>coder", "ollama/codellama"), ("front>ollama/unused", "ollama/unused")
    before = sums(home, "route", "route", "model")

    assert {key: group["requests"] for key, group in before.items()} == {coder: 0, unused: 0}

    home.fr.say("Hello", usage=BILL)
    answers = [call(home, REVIEWER)]
    home.fo.instead(Reply(503, b'{"error":"busy"}'))
    answers.append(call(home, REVIEWER))
    home.fo.instead()
    answers += [call(home, "/v1/messages"), call(home, "/a/nobody/v1/messages")]
    home.fa.instead(Reply(500, b'{"type":"error","error":{"type":"api_error","message":"broken"}}'))
    answers.append(call(home, "/v1/messages"))

    assert [answer.status for answer in answers] == [200, 200, 200, 404, 500]

    routes = sums(home, "route", "route", "model")

    assert [routes[coder][name] for name in TOLD] == [1, 0, 0, 21, 0.0, "local", 0]
    assert [routes["front>coder", "openrouter/a/b"][name] for name in TOLD] == [
        1,
        0,
        1,
        16,
        0.0125,
        "provider",
        0,
    ]
    assert [routes["front>anthropic", "anthropic/claude-sonnet-4-5"][name] for name in TOLD] == [
        *(2, 1, 0, 21, None, "unknown", 1)
    ]
    assert [routes["front", "front/default"][name] for name in TOLD] == [1, 1, 0, None, None, "unknown", 0]
    assert routes[unused]["requests"] == 0
    assert sums(home, "model", "model")["ollama/codellama",]["cost_source"] == "local"
    assert sums(home, "agent", "agent")["code-reviewer",]["requests"] == 2
    assert sums(home, "session", "session")["session-1",]["cost_usd"] == 0.0125
    assert "$0.00" in home.house.command("costs").stdout

    home.fo.say(*["word "] * 600, pause=0.05)
    stream = Stream(home.ports["front"], "hello", CALLER | {"x-proxy-agent": "writer"})
    stream.read_until(b"content_block_delta")

    assert waited(home, unused, "in_progress")["failed"] == 0

    [pid] = [view["pid"] for view in home.house.tell("ps", "--json") if view["name"] == "ollama/unused"]
    home.house.kill_worker(pid)
    stream.close()

    assert waited(home, unused, "failed")["requests"] == 1

    told = sums(home, "route", "route", "model")
    home.house.kill_supervisor()

    assert sums(home, "route", "route", "model") == told  # from the file

    rows = home.usage()
    for row in rows:
        assert row.keys() >= PROOF
        assert all(row[name] for name in ("ts", "request_id", "session_id", "requested_model")), row
        assert all(row[name] for name in ("provider", "model", "route")), row
        assert row["fallback"] is bool(row["fallback_reason"])
    assert [(row["agent"], row["route"], row["status"], row["fallback_reason"]) for row in rows] == [
        ("code-reviewer", "front>coder", 200, None),
        ("code-reviewer", "front>coder", 200, "ollama/codellama: server error"),
        (None, "front>anthropic", 200, None),
        ("nobody", "front", 404, None),
        (None, "front>anthropic", 500, None),
        ("writer", "front>ollama/unused", 500, None),
    ]
