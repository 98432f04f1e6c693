"""How a proxy that the real command brought up behaves as an HTTP server and towards Claude Code."""

from __future__ import annotations

import http.client
import json
import re
import socket
from typing import Any

import anthropic
import pytest
from fakes.house import LIMIT_S, Answer, Stream, ask, assert_error, get, message, post

from .conftest import Served

pytestmark = pytest.mark.slow

JSON = {"content-type": "application/json"}


def events_of(seen: bytes) -> list[tuple[str, Any]]:
    found = []
    for block in seen.decode().strip().split("\n\n"):
        name, data = block.split("\n", 1)
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


# --- answers --------------------------------------------------------------------------------------


def test_s04_s42_a_plain_answer(served: Served) -> None:
    answer = post(served.port, message("hello there"))

    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    body = answer.json
    assert re.match(r"msg_\w+", body["id"])
    assert (body["type"], body["role"], body["model"]) == ("message", "assistant", "claude-sonnet-4-5")
    assert body["content"] == [{"type": "text", "text": "hello there"}]
    assert (body["stop_reason"], body["stop_sequence"]) == ("end_turn", None)
    assert body["usage"]["input_tokens"] > 0
    assert body["usage"]["output_tokens"] == 2
    assert answer.headers["request-id"].startswith("req_")


def test_s42_s127_a_streamed_answer_in_order(served: Served) -> None:
    stream = Stream(served.port, "one two three")
    headers = {name.lower(): value for name, value in stream.response.getheaders()}
    events = events_of(stream.rest())

    assert stream.response.status == 200
    assert headers["content-type"].partition(";")[0] == "text/event-stream"
    assert "no-cache" in headers["cache-control"]
    kinds = [kind for kind, _ in events if kind != "ping"]
    assert all(kind == data["type"] for kind, data in events)
    squeezed = [kind for at, kind in enumerate(kinds) if at == 0 or kinds[at - 1] != kind]
    assert squeezed == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert {data["index"] for _, data in events if "index" in data} == {0}
    text = "".join(data["delta"]["text"] for kind, data in events if kind == "content_block_delta")
    assert text == "one two three"
    [last] = [data for kind, data in events if kind == "message_delta"]
    assert last["delta"]["stop_reason"] == "end_turn"
    assert last["usage"]["output_tokens"] == 3


def test_s127_blocks_are_numbered_without_a_gap(served: Served) -> None:
    tool = {"name": "get_weather", "input_schema": {"type": "object", "properties": {}}}
    body = {**message("say\necho:tool get_weather\necho:tool get_weather", stream=True), "tools": [tool]}
    events = events_of(post(served.port, body).body)
    opened = [data["index"] for kind, data in events if kind == "content_block_start"]
    closed = [data["index"] for kind, data in events if kind == "content_block_stop"]

    assert opened == closed == [0, 1, 2]
    assert [data["delta"]["stop_reason"] for kind, data in events if kind == "message_delta"] == ["tool_use"]


def test_s125_the_query_does_not_matter(served: Served) -> None:
    assert post(served.port, message(), path="/v1/messages?beta=true").status == 200


def test_section4_the_proxys_model_always_wins_and_is_shown(served: Served) -> None:
    answer = post(served.port, {**message(), "model": "some-other-model"})

    assert answer.json["model"] == "some-other-model"
    assert answer.headers["x-proxy-model"] == "echo/demo"


# --- health and probes ----------------------------------------------------------------------------


def test_s44_s45_s46_health(served: Served) -> None:
    answer = get(served.port, "/health")
    head = ask(served.port, "HEAD", "/health")
    body = answer.json

    assert (answer.status, head.status, head.body) == (200, 200, b"")
    assert answer.headers["content-type"] == head.headers["content-type"] == "application/json"
    assert int(head.headers["content-length"]) > 0
    assert (body["healthy"], body["provider"], body["model"]) == (True, "echo", "demo")
    assert (body["model_id"], body["pid"], body["port"]) == ("echo/demo", served.pid, served.port)
    assert set(body) >= {"status", "upstream", "version", "uptime_s", "in_flight"}
    assert set(body["upstream"]) >= {"ok", "latency_ms", "checked_at", "detail"}


@pytest.mark.parametrize(
    ("method", "path"), [("HEAD", "/"), ("GET", "/"), ("HEAD", "/api/hello"), ("GET", "/livez")]
)
def test_s124_a_client_that_looks_whether_anybody_is_there(served: Served, method: str, path: str) -> None:
    answer = ask(served.port, method, path)

    assert answer.status == 200
    assert (answer.body == b"") is (method == "HEAD")


def test_models_and_count_tokens_answer(served: Served) -> None:
    models = get(served.port, "/v1/models?limit=1000")
    count = post(
        served.port, {"model": "x", "messages": message()["messages"]}, path="/v1/messages/count_tokens"
    )

    assert models.status == 200
    assert models.json["data"][0]["type"] == "model"
    assert models.json["has_more"] is False
    assert (count.status, count.json["input_tokens"] > 0) == (200, True)


# --- refusals -------------------------------------------------------------------------------------


def test_s95_an_unknown_route_is_404(served: Served) -> None:
    assert_error(get(served.port, "/nope"), 404, "not_found_error", "/nope")
    assert_error(ask(served.port, "POST", "/v1/nope", {}, JSON), 404, "not_found_error", "/v1/nope")


def test_s95_a_wrong_method_is_405_and_told_the_right_one(served: Served) -> None:
    answer = get(served.port, "/v1/messages")

    assert_error(answer, 405, "invalid_request_error")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("not json", "JSON"),
        ("", "JSON"),
        ("[]", ""),
        ('{"model":"m","max_tokens":10}', "messages"),
        ('{"model":"m","max_tokens":"ten","messages":[{"role":"user","content":"x"}]}', "max_tokens"),
        ('{"model":"m","max_tokens":10,"messages":[{"role":"nobody","content":"x"}]}', "role"),
        ("[" * 100_000, "JSON"),
    ],
    ids=["garbage", "empty", "list", "no messages", "max_tokens", "role", "deep"],
)
def test_s95_s38_a_bad_body_is_400_and_names_the_field(served: Served, body: str, text: str) -> None:
    assert_error(ask(served.port, "POST", "/v1/messages", body, JSON), 400, "invalid_request_error", text)
    assert get(served.port, "/health").json["pid"] == served.pid


def test_s95_what_is_not_http_gets_an_envelope_as_well(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=LIMIT_S) as client:
        client.sendall(b"\x16\x03\x01 hello, is this TLS?\r\n\r\n")
        response = http.client.HTTPResponse(client)
        response.begin()
        assert_error(Answer(response), 400, "invalid_request_error")
        response.close()


def test_section2_a_body_over_the_limit_is_400_with_both_sizes(served: Served) -> None:
    """Never 413, and said before the body has come."""
    size = 33 * 1024 * 1024
    with socket.create_connection(("127.0.0.1", served.port), timeout=LIMIT_S) as client:
        client.sendall(
            b"POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % size
        )
        response = http.client.HTTPResponse(client)
        response.begin()
        assert_error(Answer(response), 400, "invalid_request_error", str(size), str(32 * 1024 * 1024))
        response.close()


@pytest.mark.parametrize(
    ("order", "status", "kind", "header"),
    [
        ("echo:fail 401", 403, "permission_error", ("x-should-retry", "false")),
        ("echo:fail 402", 402, "billing_error", None),
        ("echo:fail 404", 404, "not_found_error", None),
        ("echo:fail 429 retry 7s", 429, "rate_limit_error", ("retry-after", "7")),
        ("echo:fail 500 boom", 500, "api_error", None),
        ("echo:fail 503", 529, "overloaded_error", ("retry-after", "1")),
        ("echo:fail refused", 503, "api_error", ("x-should-retry", "false")),
        ("echo:fail timeout", 504, "timeout_error", None),
        ("echo:fail reset", 529, "overloaded_error", ("retry-after", "1")),
        ("echo:fail overflow", 400, "invalid_request_error", None),
    ],
    ids=lambda value: value if isinstance(value, str) and value.startswith("echo") else "",
)
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_s43_section2_the_error_table(
    served: Served, order: str, status: int, kind: str, header: tuple[str, str] | None, stream: bool
) -> None:
    """Before the first byte a stream fails with a real status as well."""
    answer = post(served.port, message(order, stream=stream))

    assert_error(answer, status, kind, "boom" if "boom" in order else "")
    if header is not None:
        assert answer.headers[header[0]] == header[1]


def test_section2_a_failure_in_the_stream_is_an_error_event_at_its_end(served: Served) -> None:
    events = events_of(post(served.port, message("echo:fail 500 after 2 boom\na b c d", stream=True)).body)

    assert events[-1][0] == "error"
    assert events[-1][1]["error"]["type"] == "api_error"
    assert "boom" in events[-1][1]["error"]["message"]
    assert "message_stop" not in [kind for kind, _ in events]


def test_section2_message_threads_are_refused_in_the_clients_own_words(served: Served) -> None:
    answer = post(served.port, {**message(), "thread": {"id": "thread_1"}})

    assert answer.status == 400
    assert answer.json["error"]["details"] == {
        "error_code": "thread_unsupported_request",
        "unsupported": ["thread"],
    }


# --- a web page must not be able to use a proxy ----------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "localhost.evil.example"},
        {"host": "127.0.0.1.evil.example"},
        {"origin": "http://evil.example"},
        {"origin": "http://localhost:3000"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
    ],
    ids=lambda headers: "=".join(next(iter(headers.items()))),
)
def test_a_web_page_is_refused(served: Served, headers: dict[str, str]) -> None:
    assert_error(ask(served.port, "POST", "/v1/messages", message(), JSON | headers), 403, "permission_error")
    # Nor may it look around.
    assert_error(ask(served.port, "GET", "/health", headers=headers), 403, "permission_error")


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", None]
)
def test_a_simple_request_of_a_web_page_is_refused(served: Served, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    answer = ask(served.port, "POST", "/v1/messages", message(), headers)

    assert_error(answer, 400, "invalid_request_error", "content-type")


def test_a_preflight_is_not_granted(served: Served) -> None:
    headers = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    answer = ask(served.port, "OPTIONS", "/v1/messages", headers=headers)

    assert answer.status >= 400
    assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize("host", ["localhost:{port}", "127.0.0.1:{port}", "[::1]:{port}", "localhost"])
def test_every_name_of_this_machine_is_welcome(served: Served, host: str) -> None:
    headers = JSON | {
        "host": host.format(port=served.port),
        "content-type": "application/json; charset=utf-8",
    }
    assert ask(served.port, "POST", "/v1/messages", message(), headers).status == 200


# --- the real client ------------------------------------------------------------------------------


def test_s04_the_sdk_plain_and_streamed(served: Served) -> None:
    words: Any = {
        "model": "claude-x",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "one two three"}],
    }
    url = f"http://127.0.0.1:{served.port}"
    with anthropic.Anthropic(base_url=url, api_key="dummy", max_retries=0, timeout=LIMIT_S) as client:
        plain = client.messages.create(**words)
        with client.messages.stream(**words) as stream:
            pieces = list(stream.text_stream)
            streamed = stream.get_final_message()
        counted = client.messages.count_tokens(model=words["model"], messages=words["messages"])
        with pytest.raises(anthropic.RateLimitError) as raised:
            client.messages.create(**words | {"messages": [{"role": "user", "content": "echo:fail 429"}]})

    assert plain.content[0].to_dict()["text"] == "".join(pieces) == "one two three"
    assert len(pieces) == 3
    assert (plain.stop_reason, streamed.stop_reason) == ("end_turn", "end_turn")
    assert plain.usage.output_tokens == streamed.usage.output_tokens == 3
    assert counted.input_tokens == plain.usage.input_tokens
    assert raised.value.request_id is not None
    assert raised.value.request_id.startswith("req_")


def test_s46_every_request_is_counted_and_nothing_is_left_over(served: Served) -> None:
    view = served.house.tell("up", "echo/counted", "--port", "0", "--json")
    for order in ("hello", "echo:fail 500", "hello"):
        post(view["port"], message(order))
    get(view["port"], "/health")
    row = served.house.wait_tally(lambda row: row["requests"] >= 3 and not row["in_flight"], "echo/counted")

    assert row["requests"] == 3
    assert row["pid"] == view["pid"]
    assert get(view["port"], "/health").json["in_flight"] == 0
