"""`remote/NAME/…` from outside: two homes, of which one asks the other (S99, S100, S104)."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import attrs
import pytest
from fakes import grammar
from fakes.house import LIMIT_S, House, ask, assert_error, attempts, get, message

pytestmark = pytest.mark.slow

REMOTE = "remote/office/echo/demo"
OWN = "sk-ant-oat01-of-the-caller"
HEADERS = {"content-type": "application/json", "authorization": f"Bearer {OWN}"}


@attrs.frozen
class Two:
    far: House
    near: House
    far_port: int
    port: int
    """Of the near proxy."""


@pytest.fixture
def two() -> Iterator[Two]:
    with House() as far, House() as near:
        far.start()
        near.start()
        far_port = far.tell("up", "echo/demo", "--port", "0", "--json")["port"]
        near.tell("config", "set", "remotes.office.url", f"http://127.0.0.1:{far_port}", "--json")
        port = near.tell("up", REMOTE, "--port", "0", "--json")["port"]
        yield Two(far, near, far_port, port)


def test_s100_it_serves_here_what_is_answered_there(two: Two) -> None:
    whole = ask(two.port, "POST", "/v1/messages", message("hello"), HEADERS)
    streamed = ask(two.port, "POST", "/v1/messages", message("hello", stream=True), HEADERS)
    [first, second] = two.near.wait_usage(REMOTE, lambda rows: len(rows) == 2)
    [there, _] = two.far.wait_usage("echo/demo", lambda rows: len(rows) == 2)

    assert (whole.status, whole.json["content"][0]["text"]) == (200, "hello")
    assert grammar.check(streamed.body)
    assert whole.headers["x-proxy-model"] == streamed.headers["x-proxy-model"] == "echo/demo"
    assert there["requested_model"] == "echo/demo"
    assert first["request_id"] == there["request_id"]
    for row in (first, second):
        assert (row["provider"], row["model"]) == ("remote/office", "echo/demo")
        assert (row["cost_usd"], row["cost_source"]) == (None, "unknown")
        assert (row["input_tokens"], row["output_tokens"]) == (there["input_tokens"], there["output_tokens"])
    assert REMOTE in [row["id"] for row in two.near.tell("models", "list", "--json")]

    two.far.command("down", "all", "--grace", "0")
    assert_error(ask(two.port, "POST", "/v1/messages", message(), HEADERS), 503, "api_error", "remote/office")
    row = two.near.wait_row(lambda row: row["state"] == "degraded", REMOTE)
    assert row["restarts"] == 0


def test_s100_a_token_of_there_is_kept_as_a_key_here(two: Two) -> None:
    token = two.far.tell("tokens", "add", "near", "--json")["token"]
    two.far.tell("config", "set", "require_token", "true", "--json")
    for _ in attempts():
        if get(two.far_port, "/v1/models").status == 401:
            break
    refused = ask(two.port, "POST", "/v1/messages", message(), HEADERS)
    assert_error(refused, 403, "permission_error", "access token", "proxyctl keys set remote/office")

    with two.near.running("keys", "set", "remote/office", stdin=subprocess.PIPE) as keeping:
        keeping.communicate(token, timeout=LIMIT_S)
    for _ in attempts():
        answer = ask(two.port, "POST", "/v1/messages", message(), HEADERS)
        if answer.status == 200:
            break
    assert answer.status == 200
    [row] = [
        row
        for row in two.far.wait_usage("echo/demo", lambda rows: any(one["token"] for one in rows))
        if row["token"]
    ]
    assert row["token"] == "near"
