"""What clients see of a proxy without a worker: the supervisor answers in its place (issue 4, item 3)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from fakes.house import LIMIT_S, House, get, message, post, wait_gone

pytestmark = pytest.mark.slow

MODEL = "echo/bad-import"
WORDS: dict[str, Any] = {
    "model": "claude-x",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "one two three"}],
}
LARGE: dict[str, Any] = {**WORDS, "messages": [{"role": "user", "content": "x" * 3_000_000}]}


@pytest.fixture(scope="module")
def failed() -> Iterator[tuple[House, int]]:
    """A home with a proxy that has been given up; nobody changes it."""
    with House(FIRST_DELAY_S=0.02) as house:
        house.start(bad_workers=True)
        house.command("up", MODEL, "--port", "0")
        row = house.row(MODEL)
        assert row["state"] == "failed"
        yield house, row["port"]


def assert_failed(text: str) -> None:
    assert text.startswith(f"modelproxy: {MODEL} has failed: 5 starts were never ready; last: exit 1")
    assert f"fix it, then proxyctl up {MODEL}. See proxyctl why {MODEL} and proxyctl logs {MODEL}" in text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/health"),
        ("HEAD", "/"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/claude-sonnet-4-5"),
        ("POST", "/v1/messages/count_tokens"),
        ("POST", "/v1/messages"),
    ],
)
def test_curl_gets_503_with_the_reason_on_every_path(
    failed: tuple[House, int], method: str, path: str
) -> None:
    """At once, whole, and in the shape of Anthropic's API."""
    _, port = failed
    body = ["-d", '{"model":"m","stream":true}'] if method == "POST" else []
    how = ["-I"] if method == "HEAD" else ["-i", "-X", method]
    done = subprocess.run(
        ["curl", "-sS", "--max-time", "30", *how, *body, f"http://127.0.0.1:{port}{path}"],
        capture_output=True,
        text=True,
        check=True,
    )
    head, _, text = done.stdout.replace("\r\n", "\n").partition("\n\n")

    assert head.startswith("HTTP/1.1 503 ")
    assert "x-should-retry: false" in head
    assert "retry-after" not in head
    assert "content-type: application/json" in head
    if method == "HEAD":
        assert text == ""
        return
    error = json.loads(text)
    assert (error["type"], error["error"]["type"]) == ("error", "api_error")
    assert f"request-id: {error['request_id']}" in head
    assert_failed(error["error"]["message"])
    assert error.get("status") == ("failed" if path == "/health" else None)


def ask(client: anthropic.Anthropic, how: str) -> None:
    if how == "stream":
        with client.messages.stream(**WORDS) as stream:
            stream.get_final_message()
    elif how == "count":
        client.messages.count_tokens(model="claude-x", messages=WORDS["messages"])
    elif how == "models":
        client.models.list()
    else:
        client.messages.create(**(LARGE if how == "large" else WORDS))


@pytest.mark.parametrize("how", ["plain", "stream", "count", "models", "large"])
def test_the_sdk_raises_the_reason_and_does_not_try_again(failed: tuple[House, int], how: str) -> None:
    _, port = failed
    asked: list[str] = []

    http = anthropic.DefaultHttpxClient(
        event_hooks={"request": [lambda request: asked.append(request.url.path)]}
    )
    url = f"http://127.0.0.1:{port}"
    with (
        anthropic.Anthropic(
            base_url=url, api_key="x", max_retries=3, timeout=LIMIT_S, http_client=http
        ) as client,
        pytest.raises(anthropic.InternalServerError) as raised,
    ):
        ask(client, how)

    assert raised.value.status_code == 503
    assert len(asked) == 1
    body: Any = raised.value.body
    assert_failed(body["error"]["message"])
    assert raised.value.request_id == body["request_id"]


def killed(house: House) -> int:
    """The port of a proxy whose worker has just been killed."""
    house.start()
    row = house.up()
    os.kill(row["pid"], signal.SIGKILL)
    wait_gone(row["pid"])
    port: int = row["port"]
    return port


def test_in_a_long_pause_clients_are_told_when_to_come_back() -> None:
    with House(FIRST_DELAY_S=30.0) as house:
        port = killed(house)
        house.wait_row(lambda row: row["state"] == "backoff")
        told, health = post(port, message()), get(port, "/health")

    assert (told.status, told.headers["x-should-retry"]) == (503, "true")
    assert 1 <= int(told.headers["retry-after"]) <= 38  # 30 s, a quarter more or less
    assert told.json["error"]["message"].startswith(
        "modelproxy: echo/demo is down: SIGKILL; it starts again in "
    )
    assert (health.status, health.json["healthy"], health.json["status"]) == (503, False, "backoff")


def test_the_sdk_comes_through_a_long_pause_by_itself() -> None:
    """It waits as long as it is told to; its next try is answered by the next worker."""
    with House(FIRST_DELAY_S=2.8) as house:
        port = killed(house)
        with anthropic.Anthropic(
            base_url=f"http://127.0.0.1:{port}", api_key="dummy", max_retries=3, timeout=LIMIT_S
        ) as client:
            answer = client.messages.create(**WORDS)
        after = house.row()

    assert answer.content[0].to_dict()["text"] == "one two three"
    assert after["restarts"] == 1


def test_in_a_short_pause_a_request_waits_for_the_next_worker() -> None:
    """Less than two seconds: the socket's queue holds it, and no client learns of the death."""
    with House(FIRST_DELAY_S=0.6) as house:
        port = killed(house)
        answer = post(port, message("still there"))
        died = house.wait_event("died")

    assert answer.status == 200
    assert answer.json["content"][0]["text"] == "still there"
    assert float(died["text"].split()[-2]) > 0.4
