"""Clients of other APIs at the edge. What is translated is `test_chat`'s and `test_chat_said`'s."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import attrs
import pytest
import trio
from fakes import chat_grammar, responses_grammar
from fakes.exchange import JSON_HEADERS, FakeExchange, Headers, request

from modelproxy.worker.contract import Access, AccessToken, Quota, WorkerSpec
from modelproxy.worker.failures import Kind, Refused
from modelproxy.worker.forms.asking import Terms
from modelproxy.worker.guest import Interpreted, Listed, Reworded, interpreted
from modelproxy.worker.handler import Handler
from modelproxy.worker.httpd import ClientGone
from modelproxy.worker.stats import Stats
from modelproxy.worker.wire import sse

SPEC = WorkerSpec(name="demo", model_id="echo/demo", provider="echo", kind="echo", model="demo", port=3457)
HOST = JSON_HEADERS[0]
CHAT = "/v1/chat/completions"


def exchange(
    target: str = CHAT, method: str = "POST", headers: Headers = JSON_HEADERS, **said: Any
) -> FakeExchange:
    body = {"model": "m", "messages": [{"role": "user", "content": "hello there"}], **said}
    return FakeExchange(request(method, target, headers), json.dumps(body).encode())


def guest(found: FakeExchange) -> Any:
    return interpreted(found, Terms, 10.0)


async def served(found: FakeExchange, spec: WorkerSpec = SPEC) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    handler = Handler(
        spec,
        stats=Stats(),
        log=lambda level, event, **fields: lines.append({"level": level, "event": event, **fields}),
        started_at=trio.current_time(),
    )
    await handler(found)
    return lines


def event(**said: Any) -> bytes:
    return sse.event(str(said["type"]).encode(), json.dumps(said).encode())


def error(found: FakeExchange) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(found.sent)["error"]
    return said


@pytest.mark.parametrize(
    ("target", "method", "headers", "kind"),
    [
        ("/v1/messages", "POST", (), FakeExchange),
        ("/a/x/v1/messages", "POST", (), FakeExchange),
        ("/health", "GET", (), FakeExchange),
        (CHAT, "POST", (), Interpreted),
        ("/a/x" + CHAT, "POST", (), Interpreted),
        (CHAT, "GET", (), Reworded),
        ("/chat/completions", "POST", (), Reworded),
        ("/v1/models", "GET", (), Listed),
        ("/v1/models/x", "GET", (), Listed),
        ("/v1/models", "GET", ((b"x-api-key", b"k"),), FakeExchange),
        ("/v1/models", "GET", ((b"anthropic-version", b"2023-06-01"),), FakeExchange),
    ],
)
def test_who_is_a_guest(target: str, method: str, headers: Headers, kind: type) -> None:
    assert type(guest(exchange(target, method, headers))) is kind


async def test_a_plain_answer() -> None:
    found = exchange("/a/me" + CHAT)
    [line] = await served(found)
    said = json.loads(found.sent)

    assert said["choices"][0]["message"]["content"] == "hello there"
    assert found.headers[b"x-request-id"] == found.headers[b"request-id"]
    assert found.headers[b"x-proxy-model"] == b"echo/demo"
    assert line["path"] == "/a/me" + CHAT, "the log names what the client asked for"


async def test_a_stream() -> None:
    found = exchange(stream=True, stream_options={"include_usage": True})
    await served(found)

    assert found.finished
    assert found.headers[b"content-type"] == b"text/event-stream"
    assert chat_grammar.check(bytes(found.sent), usage=True).text == "hello there"


@pytest.mark.parametrize(
    ("made", "status", "code"),
    [
        (exchange(n=2), 400, "unsupported_value"),
        (exchange(method="GET"), 405, None),
        (exchange(method="DELETE"), 405, None),
        (exchange("/chat/completions"), 404, None),
        (exchange("/a/x/models", "GET"), 404, None),
        (exchange("/v1/models/nix", "GET"), 404, "model_not_found"),
        (exchange(headers=((b"host", b"evil.example"),)), 403, None),
        (exchange(headers=(*JSON_HEADERS, (b"origin", b"http://x"))), 403, None),
        (exchange(headers=((b"host", b"localhost"), (b"content-type", b"text/plain"))), 400, None),
        (
            exchange(messages=[{"role": "user", "content": "echo:fail 429 retry 7s"}]),
            429,
            "rate_limit_exceeded",
        ),
        (
            exchange(messages=[{"role": "user", "content": "echo:fail overflow"}]),
            400,
            "context_length_exceeded",
        ),
        (exchange(messages=[{"role": "user", "content": "echo:fail 529"}]), 503, "overloaded"),
        (exchange(messages=[{"role": "user", "content": "echo:cut after 0"}], stream=True), 500, None),
    ],
)
async def test_errors_are_said_in_openais_way(made: FakeExchange, status: int, code: str | None) -> None:
    found = FakeExchange(made.request, made.body)
    await served(found)

    assert (found.status, error(found)["code"]) == (status, code)
    assert found.headers[b"content-type"] == b"application/json"


async def test_models_come_in_both_shapes_for_who_has_not_said_which_client_it_is() -> None:
    plain, anthropic = (
        exchange("/v1/models", "GET"),
        exchange("/v1/models", "GET", (HOST, (b"x-api-key", b"k"))),
    )
    await served(plain)
    await served(anthropic)
    entry = json.loads(plain.sent)["data"][0]

    assert (entry["type"], entry["object"], entry["owned_by"]) == ("model", "model", "echo")
    assert "object" not in json.loads(anthropic.sent)


async def test_the_wait_that_an_error_asks_for_is_kept() -> None:
    found = exchange(messages=[{"role": "user", "content": "echo:fail 429 retry 7s"}])
    await served(found)

    assert found.headers[b"retry-after"] == b"7"


@pytest.mark.parametrize("target", ["/chat/completions", "/models", "/a/x/chat/completions"])
async def test_a_base_url_without_v1_is_told_so(target: str) -> None:
    found = exchange(target)
    await served(found)

    assert "must end in /v1" in error(found)["message"]


async def test_who_must_bring_a_token_is_told_so_in_openais_way() -> None:
    found = exchange()
    await served(found, attrs.evolve(SPEC, quota=Quota(access=Access(required=True))))

    assert (found.status, error(found)["code"]) == (401, "invalid_api_key")
    assert found.headers[b"x-should-retry"] == b"false"


async def test_pings_become_comments(autojump_clock: Any) -> None:
    found = exchange(stream=True, messages=[{"role": "user", "content": "echo:slow 60s\none two"}])
    await served(found)
    said = chat_grammar.check(bytes(found.sent))

    assert (said.text, said.done) == ("one two", True)
    assert said.comments >= 4


async def test_who_waits_in_line_is_kept_alive_and_served(autojump_clock: Any) -> None:
    """Behind the one place that there is."""
    handler = Handler(
        attrs.evolve(SPEC, quota=Quota(max_concurrent=1)),
        stats=Stats(),
        log=lambda *_, **__: None,
        started_at=trio.current_time(),
    )
    both = [
        exchange(stream=True, messages=[{"role": "user", "content": "echo:slow 40s\none two"}]) for _ in "ab"
    ]
    async with trio.open_nursery() as nursery:
        for one in both:
            nursery.start_soon(handler, one)
    said = [chat_grammar.check(bytes(one.sent)) for one in both]

    assert [one.text for one in said] == ["one two", "one two"]
    assert max(one.comments for one in said) > min(one.comments for one in said)


async def test_a_token_of_ours_may_stand_where_openais_key_does() -> None:
    secret = b"mp-the-secret"
    token = AccessToken("me", hashlib.sha256(secret).hexdigest())
    found = exchange(headers=(*JSON_HEADERS, (b"authorization", b"Bearer " + secret)))
    [line] = await served(
        found, attrs.evolve(SPEC, quota=Quota(access=Access(required=True, tokens=[token])))
    )

    assert (found.status, line["token"]) == (200, "me")


async def test_a_stream_that_breaks_says_so_and_not_done() -> None:
    found = exchange(stream=True, messages=[{"role": "user", "content": "echo:cut after 2\none two three"}])
    await served(found)
    said = chat_grammar.check(bytes(found.sent))

    assert (said.text, said.done, found.finished) == ("one two ", False, True)
    assert said.error is not None


async def test_a_client_that_is_gone_ends_the_handler() -> None:
    found = exchange()
    found.gone = True

    with pytest.raises(ClientGone):
        await served(found)


async def test_what_is_no_stream_is_not_passed_on_in_pieces() -> None:
    """So large an answer is a file, not something that a model says."""
    found = guest(exchange())
    with pytest.raises(Refused) as raised:
        await found.start(200, [(b"content-type", b"application/json")])

    assert (raised.value.failure.kind, found.started) == (Kind.PROVIDER, False)


async def test_a_providers_comments_keep_the_connection_alive() -> None:
    made = exchange(stream=True)
    found = guest(made)
    await found.read_body()
    await found.start(200, [(b"content-type", b"text/event-stream; charset=utf-8")])
    await found.send(b": PROCESSING\n\n")
    await found.send(b"event: pi")

    assert bytes(made.sent) == b": keep-alive\n\n"


async def test_a_silence_is_said_in_the_clients_own_way() -> None:
    """codex waits for events, and comments are none to it."""
    made = exchange("/v1/responses", input="hi", stream=True)
    found = guest(made)
    await found.read_body()
    await found.start(200, [(b"content-type", b"text/event-stream")])
    await found.send(b": PROCESSING\n\n")
    await found.finish()
    said = responses_grammar.check(bytes(made.sent))

    assert said.events == ["response.created", "response.in_progress", "response.failed"]


PATCH = {"type": "custom", "name": "patch"}


@pytest.mark.parametrize(
    ("path", "tool", "heard"),
    [
        (CHAT, {"type": "custom", "custom": PATCH}, b": keep-alive"),
        ("/v1/responses", PATCH, b"event: response.in_progress"),
    ],
)
async def test_what_is_told_only_as_a_whole_is_no_long_silence(
    autojump_clock: Any, path: str, tool: dict[str, Any], heard: bytes
) -> None:
    """The text of a custom tool stands inside JSON, and of a large one a slow model writes for minutes."""
    made = exchange(path, input="hi", stream=True, tools=[tool])
    found = guest(made)
    await found.read_body()
    await found.start(200, [(b"content-type", b"text/event-stream")])
    block = {"type": "tool_use", "id": "c", "name": "patch", "input": {}}
    await found.send(event(type="content_block_start", index=0, content_block=block))
    before = len(made.sent)
    for _ in range(20):
        await trio.sleep(4)
        delta = {"type": "input_json_delta", "partial_json": "x"}
        await found.send(event(type="content_block_delta", index=0, delta=delta))

    assert bytes(made.sent[before:]).count(heard) == 6


async def test_a_stream_that_simply_stops_is_ended_by_an_error() -> None:
    made = exchange(stream=True)
    found = guest(made)
    await found.read_body()
    await found.start(200, [(b"content-type", b"text/event-stream")])
    await found.finish()

    assert chat_grammar.check(bytes(made.sent)).error is not None
