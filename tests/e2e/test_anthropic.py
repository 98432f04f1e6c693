"""`proxyctl up anthropic/…`: a real worker before a fake Anthropic."""

from __future__ import annotations

import http.client
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from fakes.house import House, message, post, wait_gone
from fakes.upstream import Reply, Upstream

pytestmark = pytest.mark.slow

MODEL = "claude-sonnet-4-5"
ANSWER = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": MODEL,
    "content": [{"type": "text", "text": "Hello"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 25, "output_tokens": 15},
}


@pytest.fixture
def far() -> Iterator[Upstream]:
    with Upstream() as far:
        far.on("/v1/models", Reply(401, b"{}"))
        far.on("/v1/messages", Reply(body=json.dumps(ANSWER).encode()))
        yield far


def ask(port: int, body: dict[str, Any], **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(
        "POST", "/v1/messages?beta=true", json.dumps(body), {"content-type": "application/json", **headers}
    )
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer


def test_the_callers_credential_and_body_pass_and_a_row_is_written(house: House, far: Upstream) -> None:
    """Nothing but the address changes; the ledger has the provider's numbers."""
    house.start()
    view = house.tell("up", f"anthropic/{MODEL}", "--port", "0", "--base-url", far.url, "--json")
    answer = ask(view["port"], message(), authorization="Bearer sk-ant-oat01-mine")
    [seen] = far.to("/v1/messages")
    [row] = house.tell("usage", "--json")

    assert answer.status == 200
    assert seen.json() == message()
    assert seen.target == "/v1/messages?beta=true"
    assert seen.headers["authorization"] == "Bearer sk-ant-oat01-mine"
    assert (row["input_tokens"], row["output_tokens"], row["tokens_estimated"]) == (25, 15, False)
    assert (row["cost_usd"], row["cost_source"]) == (None, "subscription")
    assert (row["provider"], row["model"], row["status"]) == ("anthropic", MODEL, 200)


def test_a_configured_key_replaces_the_callers(house: House, far: Upstream) -> None:
    """And shows up nowhere."""
    house.start()
    key = "sk-ant-api03-configured"
    words = ("up", f"anthropic/{MODEL}", "--port", "0", "--base-url", far.url, "--json", "--api-key", key)
    view = house.tell(*words)
    ask(view["port"], message(), authorization="Bearer mine")
    [seen] = far.to("/v1/messages")

    assert seen.headers["x-api-key"] == key
    assert "authorization" not in seen.headers
    assert key not in (house.state / "state.json").read_text()
    assert key.encode() not in (house.state / "ledger.db").read_bytes()


def test_an_answer_that_was_seen_has_its_row_after_a_kill(house: House, far: Upstream) -> None:
    """As for every other kind."""
    house.start()
    view = house.tell("up", f"anthropic/{MODEL}", "--port", "0", "--base-url", far.url, "--json")
    assert post(view["port"], message()).status == 200
    os.kill(view["pid"], signal.SIGKILL)
    assert wait_gone(view["pid"])

    assert [row["status"] for row in house.tell("usage", "--json")] == [200]
