"""Bytes through a worker's handler, from a real server to a real client: untouched, and never a lie."""

from __future__ import annotations

import hashlib
import http.client
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anthropic
import attrs
import pytest
import trio
from fakes import grammar
from fakes.serving import serving
from fakes.upstream import Reply, Upstream

from modelproxy.worker import handler as handler_module
from modelproxy.worker import relay as relay_module
from modelproxy.worker import upstream as upstream_module
from modelproxy.worker.books import Books
from modelproxy.worker.contract import Access, AccessToken, Options, Quota, Target, Timeouts, WorkerSpec
from modelproxy.worker.handler import Handler
from modelproxy.worker.ledger import Row
from modelproxy.worker.relay import Relay
from modelproxy.worker.stats import Stats
from modelproxy.worker.wire.sse import PING

from .test_anthropic_relay import MODEL, STREAM

T = TypeVar("T")

# The same without what only a proxy is to tolerate.
PLAIN_STREAM = (
    STREAM.replace(b": a comment\n\n", b"")
    .replace(b"event: zzz_future\n", b"event: ping\n")
    .replace(b'"zzz_future","delta":[1]', b'"ping"')
    .replace(
        b'"id":"msg_1",',
        b'"id":"msg_1","type":"message","role":"assistant","model":"m",'
        b'"content":[],"stop_reason":null,"stop_sequence":null,',
    )
)

SSE = (("content-type", "text/event-stream; charset=utf-8"), ("request-id", "req_theirs"))
JSON = (("content-type", "application/json"), ("request-id", "req_theirs"))
ASK = {"model": MODEL, "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": MODEL,
    "content": [{"type": "text", "text": "Hello"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 25, "output_tokens": 15, "zzz": {"new": True}},
}
WHOLE = json.dumps(MESSAGE, indent=2).encode()


@attrs.define
class Got:
    """An answer as its client saw it."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool = True

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)["error"]
        return found


class Rows(Books):
    """Keeps rows where the test sees them, and notes what the client had seen by then."""

    def __init__(self) -> None:
        super().__init__("nowhere", log=lambda *_, **__: None)
        self._suffer("never written in these tests")

    @property
    def row(self) -> Row:
        [entry] = self._waiting
        return entry.row


@attrs.define
class Far:
    """A worker before a fake provider."""

    upstream: Upstream
    port: int
    books: Rows
    stats: Stats
    handler: Handler

    @property
    def row(self) -> Row:
        return self.books.row

    async def fetch(
        self, body: Any = ASK, *, method: str = "POST", path: str = "/v1/messages", headers: Any = ()
    ) -> Got:
        return await trio.to_thread.run_sync(
            self._fetch, body, method, path, dict(headers), abandon_on_cancel=True
        )

    def _fetch(self, body: Any, method: str, path: str, headers: dict[str, str]) -> Got:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        try:
            connection.request(method, path, data, {"content-type": "application/json", **headers})
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            try:
                return Got(answer.status, found, answer.read())
            except http.client.IncompleteRead as cut:
                return Got(answer.status, found, cut.partial, whole=False)
        finally:
            connection.close()

    async def sdk(self, use: Callable[[anthropic.Anthropic], T]) -> T:
        def run() -> T:
            with anthropic.Anthropic(
                base_url=f"http://127.0.0.1:{self.port}", api_key="sk-ant-caller", max_retries=0, timeout=10
            ) as client:
                return use(client)

        return await trio.to_thread.run_sync(run)


@asynccontextmanager
async def far(*replies: Reply, path: str = "/v1/messages", **changes: Any) -> AsyncIterator[Far]:
    with Upstream() as upstream:
        upstream.on(path, *replies)
        fields: dict[str, Any] = {
            "name": "a",
            "model_id": f"anthropic/{MODEL}",
            "provider": "anthropic",
            "kind": "anthropic",
            "model": MODEL,
            "port": 3457,
            "base_url": upstream.url,
        }
        stats, books = Stats(), Rows()
        handler = Handler(
            WorkerSpec(**fields | changes),
            stats=stats,
            log=lambda *_, **__: None,
            started_at=trio.current_time(),
            books=books,
        )
        async with serving(handler) as server:
            yield Far(upstream, server.port, books, stats, handler)


# --- untouched ----------------------------------------------------------------------------------------


async def test_a_request_and_its_answer_arrive_byte_by_byte() -> None:
    """Query, betas and the caller's credential up; status, headers and body down."""
    body = json.dumps(ASK, indent=3).encode()
    headers = {
        "authorization": "Bearer sk-ant-oat01-mine",
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "zzz-2099-01-01",
        "x-claude-code-session-id": "s",
    }
    async with far(
        Reply(body=WHOLE, headers=(*JSON, ("anthropic-ratelimit-x", "3"), ("set-cookie", "a=b")))
    ) as it:
        got = await it.fetch(body, path="/v1/messages?beta=true", headers=headers)
    [seen] = it.upstream.requests

    assert (seen.method, seen.target, seen.body) == ("POST", "/v1/messages?beta=true", body)
    assert headers.items() <= seen.headers.items()
    assert seen.headers["host"] == f"127.0.0.1:{it.upstream.port}"
    assert (got.status, got.body) == (200, WHOLE)
    assert got.headers["request-id"] == "req_theirs"
    assert got.headers["anthropic-ratelimit-x"] == "3"
    assert got.headers["x-proxy-model"] == f"anthropic/{MODEL}"
    assert "set-cookie" not in got.headers
    row = it.row
    assert (row.status, row.request_id, row.session_id, row.stream) == (200, "req_theirs", "s", False)
    assert (row.input_tokens, row.output_tokens, row.tokens_estimated) == (25, 15, False)
    assert (row.stop_reason, row.requested_model, row.model) == ("end_turn", MODEL, MODEL)
    assert (row.cost_usd, row.cost_source) == (None, "subscription")
    assert row.ttft_ms is not None


async def test_a_front_is_told_that_the_row_is_here_and_nobody_else_is() -> None:
    """Who asked and through which front stands in it; the provider hears of neither."""
    headers = {"x-proxy-via": "front", "x-proxy-agent": "reviewer"}
    async with far(Reply(body=WHOLE, headers=JSON)) as it:
        told = await it.fetch(headers=headers)
        [row] = [entry.row for entry in it.books._waiting]
        plain = await it.fetch(path="/a/writer/v1/messages")
        counted = await it.fetch(path="/v1/messages/count_tokens", headers=headers)
        rows = [entry.row for entry in it.books._waiting]

    assert told.headers["x-proxy-recorded"] == "1"
    assert (row.agent, row.route) == ("reviewer", "front>a")
    assert "x-proxy-recorded" not in {**plain.headers, **counted.headers}
    assert [(one.agent, one.route) for one in rows[1:]] == [("writer", f"anthropic/{MODEL}")]
    names = {name for seen in it.upstream.requests for name in seen.headers}
    assert not {name for name in names if name.startswith("x-proxy-")}


@pytest.mark.parametrize("framing", ["chunked", "close", "length"])
@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
async def test_a_stream_arrives_byte_by_byte(framing: str, size: int) -> None:
    """Comments and events that nobody has heard of too, however it is cut."""
    pieces = tuple(STREAM[at : at + size] for at in range(0, len(STREAM), size))
    async with far(Reply(body=pieces, headers=SSE, framing=framing)) as it:
        got = await it.fetch({**ASK, "stream": True})

    assert (got.status, got.body, got.whole) == (200, STREAM, True)
    assert got.headers["content-type"] == "text/event-stream; charset=utf-8"
    row = it.row
    assert (row.status, row.stream, row.stop_reason, row.error_type) == (200, True, "end_turn", None)
    assert (row.input_tokens, row.output_tokens) == (25, 15)
    assert (row.cache_read_tokens, row.cache_write_tokens) == (7, 3)
    assert (row.cost_usd, row.cost_source) == (None, "unknown")


async def test_s126_the_workers_own_model_wins() -> None:
    """The rest of the body is as it was; the ledger knows both names."""
    async with far(Reply(body=WHOLE, headers=JSON)) as it:
        await it.fetch(b'{"max_tokens":1, "model":"ollama/other","messages":[]}')
    [seen] = it.upstream.requests

    assert seen.body == b'{"max_tokens":1, "model":"claude-sonnet-4-5","messages":[]}'
    assert (it.row.requested_model, it.row.model) == ("ollama/other", MODEL)


async def test_pieces_are_passed_on_as_they_come() -> None:
    """Nothing is held back until an event is whole, but the first."""
    at = STREAM.index(b"event: ping") + 5
    first, rest = STREAM[:at], STREAM[at:]
    async with far(Reply(body=(first, rest), pause=30, headers=SSE, framing="chunked")) as it:
        stream = await trio.open_tcp_stream("127.0.0.1", it.port)
        async with stream:
            body = json.dumps({**ASK, "stream": True}).encode()
            head = b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            await stream.send_all(head + b"content-length: %d\r\n\r\n" % len(body) + body)
            seen = b""
            with trio.fail_after(5):
                while first not in seen:
                    seen += await stream.receive_some()
        # P59: the client is gone, and with it the request at the provider.
        await trio.to_thread.run_sync(it.upstream.wait_for_close)
        with trio.fail_after(5):
            while it.stats.in_flight:  # noqa: ASYNC110  # the handler's end announces itself nowhere
                await trio.sleep(0.01)

    assert (it.row.status, it.row.error_type) == (499, "cancelled")
    assert len(it.upstream.requests) == 1


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models?limit=1000"),
        ("GET", "/v1/models/claude-x"),
        ("GET", "/v1/messages/batches"),
        ("POST", "/v1/messages/batches"),
        ("POST", "/v1/files?zzz=1"),
        ("DELETE", "/v1/files/file_1"),
        ("PATCH", "/v1/zzz_future"),
        ("HEAD", "/v1/models"),
    ],
)
async def test_every_path_and_method_below_v1_is_forwarded(method: str, path: str) -> None:
    """With its body as it is; no row, as no model was asked."""
    body = b"--x any bytes \xff" if method in ("POST", "PATCH") else None
    headers = {"x-api-key": "k", "content-type": "multipart/form-data; boundary=x"}
    async with far(Reply(202, b"answer", headers=JSON), path="*") as it:
        got = await it.fetch(body, method=method, path=path, headers=headers)
        health = await it.fetch(None, method="GET", path="/livez")
    seen = it.upstream.requests[0]

    assert (seen.method, seen.target, seen.body) == (method, path, body or b"")
    assert seen.headers["x-api-key"] == "k"
    assert seen.headers["content-type"] == headers["content-type"]
    assert (got.status, got.body) == (202, b"" if method == "HEAD" else b"answer")
    assert health.status == 200
    assert not it.books._waiting


async def test_count_tokens_is_the_providers() -> None:
    """With the worker's own model; it costs nothing and has no row."""
    async with far(Reply(body=b'{"input_tokens":7}'), path="/v1/messages/count_tokens") as it:
        got = await it.fetch({**ASK, "model": "x"}, path="/v1/messages/count_tokens?beta=true")

    assert got.body == b'{"input_tokens":7}'
    assert it.upstream.requests[0].json()["model"] == MODEL
    assert not it.books._waiting


async def test_web_pages_stay_outside() -> None:
    """What is forwarded passes the same door as everything else."""
    async with far(Reply(), path="*") as it:
        got = await it.fetch(
            None, method="GET", path="/v1/files", headers={"origin": "http://localhost:3000"}
        )

    assert got.status == 403
    assert it.upstream.requests == []


async def test_large_files_go_through_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory does not grow with them."""
    monkeypatch.setattr(relay_module, "MOST_COLLECTED", 1000)
    content = bytes(range(256)) * 100
    async with far(
        Reply(body=(content[:9000], content[9000:]), framing="chunked"), path="/v1/files/f/content"
    ) as it:
        got = await it.fetch(None, method="GET", path="/v1/files/f/content")

    assert got.body == content


# --- credentials --------------------------------------------------------------------------------------

CALLER = {"authorization": "Bearer caller-secret", "x-api-key": "caller-secret"}


async def test_a_configured_key_replaces_the_callers() -> None:
    """No trace of it goes out."""
    async with far(Reply(body=WHOLE, headers=JSON), api_key="sk-ant-api03-ours") as it:
        await it.fetch(headers=CALLER)
    [seen] = it.upstream.requests

    assert seen.headers["x-api-key"] == "sk-ant-api03-ours"
    assert "caller-secret" not in str(seen.headers)


@pytest.mark.parametrize("kind", ["openai", "openrouter", "ollama"])
async def test_others_never_see_the_callers_credential(kind: str) -> None:
    """Their base URL may end in /v1; only messages are passed through, lists and counts are ours."""
    options = Options(api="anthropic")
    async with far(Reply(body=WHOLE, headers=JSON), path="/api/v1/messages") as it:
        base = f"{it.upstream.url}/api/v1"
        async with far(kind=kind, provider=kind, base_url=base, options=options) as other:
            got = await other.fetch(headers=CALLER)
            count = await other.fetch(path="/v1/messages/count_tokens", headers=CALLER)
            files = await other.fetch(None, method="GET", path="/v1/files", headers=CALLER)
    [seen] = it.upstream.requests

    assert got.body == WHOLE
    assert "caller-secret" not in str(seen.headers)
    assert json.loads(count.body)["input_tokens"] > 0
    assert files.status == 404


async def test_our_key_rejected_is_not_the_callers_fault() -> None:
    """403 with the fix; with the caller's own credential the 401 is its to see."""
    refusal = Reply(
        401, b'{"type":"error","error":{"type":"authentication_error","message":"bad"}}', headers=JSON
    )
    async with far(refusal, api_key="sk-ant-api03-ours") as it:
        ours = await it.fetch()
    async with far(refusal) as it:
        theirs = await it.fetch()

    assert (ours.status, ours.error["type"], ours.headers["x-should-retry"]) == (
        403,
        "permission_error",
        "false",
    )
    assert "sk-ant" not in ours.error["message"]
    assert (theirs.status, theirs.error["message"]) == (401, "bad")


# --- errors -------------------------------------------------------------------------------------------


async def test_an_error_arrives_as_it_is() -> None:
    """Status, words, waits, unknown fields; the ledger and the counters know."""
    body = (
        b'{"type":"error","error":{"type":"rate_limit_error","message":"Slow down","zzz":1},"request_id":"r"}'
    )
    headers = (*JSON, ("retry-after", "7"), ("x-should-retry", "true"))
    async with far(Reply(429, body, headers=headers)) as it:
        got = await it.fetch()

    assert (got.status, got.body) == (429, body)
    assert (got.headers["retry-after"], got.headers["x-should-retry"]) == ("7", "true")
    assert (it.row.status, it.row.error_type, it.row.input_tokens) == (429, "rate_limit_error", None)
    assert it.stats.failures == 1
    assert it.stats.last_error == "429 rate_limit_error: Slow down"


@pytest.mark.parametrize(
    ("token", "kept"), [("", True), ("mp-secret", False)], ids=["anybody", "one of many"]
)
async def test_the_limits_of_a_key_that_many_share_are_nobodys_own(token: str, kept: bool) -> None:
    one = AccessToken("ci", hashlib.sha256(b"mp-secret").hexdigest())
    headers = (*JSON, ("anthropic-ratelimit-requests-remaining", "5"), ("anthropic-organization-id", "o"))
    async with far(
        Reply(body=WHOLE, headers=headers), api_key="sk-ours", quota=Quota(access=Access(tokens=[one]))
    ) as it:
        got = await it.fetch(headers={"x-proxy-token": token} if token else {})

    assert ("anthropic-ratelimit-requests-remaining" in got.headers) is kept
    assert got.headers["anthropic-organization-id"] == "o"


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (502, b"<html><h1>Bad gateway</h1></html>", (529, "overloaded_error", "Anthropic: Bad gateway")),
        (413, b"<html>Request Entity Too Large</html>", (400, "invalid_request_error", "Too Large")),
        (
            413,
            b'{"type":"error","error":{"type":"request_too_large","message":"over 32 MB"}}',
            (400, "invalid_request_error", "over 32 MB"),
        ),
        (403, b"<html>Just a moment</html>", (403, "permission_error", "Just a moment")),
        (500, b"", (500, "api_error", "Anthropic")),
    ],
)
async def test_p58_what_is_no_envelope_or_a_413_becomes_what_clients_understand(
    status: int, body: bytes, expected: tuple[int, str, str]
) -> None:
    """Clients shrink and repeat a 413 without end, and show a page as it is."""
    async with far(Reply(status, body, headers=(("content-type", "text/html"),))) as it:
        got = await it.fetch()

    assert (got.status, got.error["type"]) == expected[:2]
    assert expected[2] in got.error["message"]
    assert "<" not in got.error["message"]
    assert (it.row.status, it.row.error_type) == expected[:2]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"<html>Log in to the network</html>", (500, "no message: Log in to the network")),
        (b"", (500, "no message")),
        (b"[1]", (500, "no message")),
        (b"{}", (500, "no message: {}")),
        (b'{"object":"chat.completion","choices":[]}', (500, "no message")),
        (
            b'{"type":"error","error":{"type":"overloaded_error","message":"Busy"}}',
            (529, "Anthropic: Busy"),
        ),
        (b'{"error":{"code":429,"message":"Slow down"}}', (429, "Slow down")),
    ],
)
async def test_p47_a_200_that_is_no_answer_is_no_success(body: bytes, expected: tuple[int, str]) -> None:
    async with far(Reply(body=body, headers=JSON)) as it:
        got = await it.fetch()

    assert got.status == expected[0]
    assert expected[1] in got.error["message"]
    assert it.row.status == expected[0]


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (307, b"", "Anthropic redirects to https://else.example/v1; set base_url to where it really is"),
        (204, b"", "no message"),
        (201, b"{}x", "no message"),
    ],
)
async def test_p47_a_status_that_no_answer_has_is_no_success(status: int, body: bytes, words: str) -> None:
    """A client would follow, or read nothing; the ledger called it a 200."""
    headers = (*JSON, ("location", "https://else.example/v1?key=secret"))
    async with far(Reply(status, body, headers=headers)) as it:
        got = await it.fetch()

    assert (got.status, it.row.status, it.row.error_type) == (500, 500, "api_error")
    assert words in got.error["message"]


async def test_an_error_in_our_words_still_has_the_providers_id() -> None:
    """Its support can find no other."""
    async with far(Reply(502, b"<html>", headers=JSON)) as it:
        got = await it.fetch()

    assert got.headers["request-id"] == "req_theirs"
    assert json.loads(got.body)["request_id"] == it.row.request_id == "req_theirs"


VLLM: dict[str, Any] = {"kind": "openai", "provider": "work", "options": Options(api="anthropic")}


@pytest.mark.parametrize(
    ("status", "words", "expected"),
    [
        (
            400,
            "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens",
            (400, "prompt is too long: 5000 tokens > 4096 maximum"),
        ),
        (401, "no key", (403, "does not accept the API key")),
        (503, "starting", (529, "starting")),
    ],
)
async def test_p28_errors_of_others_who_speak_the_protocol(
    status: int, words: str, expected: tuple[int, str]
) -> None:
    """Their envelope is right; their statuses and words are not those on which clients act."""
    body = json.dumps({"type": "error", "error": {"type": "BadRequestError", "message": words}}).encode()
    async with far(Reply(status, body, headers=JSON), **VLLM) as it:
        got = await it.fetch()

    assert got.status == expected[0]
    assert expected[1] in got.error["message"]


@pytest.mark.parametrize(
    ("field", "value", "details"),
    [
        ("safeguards", {"type": "auto"}, None),
        ("mcp_servers", [{"type": "url", "url": "https://tools.example", "name": "t"}], None),
        ("container", "container_1", None),
        ("thread", None, {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}),
    ],
)
async def test_p06_what_others_would_leave_out_in_silence_is_refused(
    field: str, value: Any, details: Any
) -> None:
    """A check that nobody made, tools that nobody has, a turn without its history; Anthropic gets them as they are."""
    asks = {**ASK, field: value}
    async with far(Reply(body=WHOLE, headers=JSON), **VLLM) as it:
        odd = json.dumps({**asks, "model": "\ud83d"}).encode()  # what only the slow reader takes
        refused = [await it.fetch(body) for body in (asks, odd)]
    async with far(Reply(body=WHOLE, headers=JSON)) as home:
        passed = await home.fetch(asks)

    assert [one.status for one in refused] == [400, 400]
    assert all(field in one.error["message"] and one.error.get("details") == details for one in refused)
    assert not it.upstream.to("/v1/messages")
    assert (passed.status, home.upstream.to("/v1/messages")[0].json()[field]) == (200, value)


async def test_openrouters_own_messages_endpoint() -> None:
    """Below `/api/v1`, with our key and our name, and without the caller's credential."""
    async with far(Reply(body=WHOLE, headers=JSON), path="/api/v1/messages") as it:
        async with far(
            kind="openrouter",
            provider="openrouter",
            model="anthropic/claude-sonnet-4-5",
            base_url=f"{it.upstream.url}/api/v1",
            api_key="sk-or-ours",
            options=Options(api="anthropic"),
        ) as other:
            got = await other.fetch(headers=CALLER)
        [seen] = it.upstream.requests

    assert got.body == WHOLE
    assert seen.json()["model"] == "anthropic/claude-sonnet-4-5"
    assert seen.headers["authorization"] == "Bearer sk-or-ours"
    assert {"http-referer", "x-title"} <= seen.headers.keys()
    assert "caller-secret" not in str(seen.headers)


# --- asking again ---------------------------------------------------------------------------------------

SIGNATURE = (
    b'{"type":"error","error":{"type":"invalid_request_error",'
    b'"message":"messages.1.content.0: Invalid `signature` in `thinking` block"}}'
)
THOUGHT = {"type": "thinking", "thinking": "t", "signature": "EqNotForThisModel"}
HISTORY = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": [THOUGHT, {"type": "text", "text": "b"}]},
    {"role": "user", "content": "c"},
]


async def test_p54_a_refused_signature_is_tried_once_without_any_thinking() -> None:
    """Otherwise every later turn of the session would fail."""
    async with far(Reply(400, SIGNATURE, headers=JSON), Reply(body=WHOLE, headers=JSON)) as it:
        got = await it.fetch({**ASK, "messages": HISTORY})
    first, second = it.upstream.requests

    assert got.body == WHOLE
    assert first.json()["messages"] == HISTORY
    assert second.json()["messages"][1]["content"] == [{"type": "text", "text": "b"}]
    assert it.row.retry_count == 1


async def test_p54_once_and_no_more() -> None:
    async with far(Reply(400, SIGNATURE, headers=JSON)) as it:
        got = await it.fetch({**ASK, "messages": HISTORY})

    assert (got.status, got.body) == (400, SIGNATURE)
    assert len(it.upstream.requests) == 2


@pytest.mark.parametrize(("retries", "status", "requests"), [(0, 529, 1), (2, 200, 3)])
async def test_s75_a_busy_provider_is_asked_again_as_configured(
    retries: int, status: int, requests: int
) -> None:
    busy = Reply(
        529,
        b'{"type":"error","error":{"type":"overloaded_error","message":"Busy"}}',
        headers=(*JSON, ("retry-after", "0")),
    )
    good = Reply(body=WHOLE, headers=JSON)
    async with far(busy, busy, good, options=Options(retries=retries)) as it:
        got = await it.fetch()

    assert (got.status, len(it.upstream.requests), it.row.retry_count) == (status, requests, requests - 1)


# --- silence --------------------------------------------------------------------------------------------

HASTY: dict[str, Any] = {"options": Options(hold_s=0.1, ping_s=0.1)}


async def test_p60_pings_until_the_provider_speaks() -> None:
    """The SDK waits for them; what follows is the provider's own."""
    async with far(Reply(body=(PLAIN_STREAM,), headers=SSE, framing="chunked", delay=0.5), **HASTY) as it:
        got = await it.fetch({**ASK, "stream": True})
        ask: Any = {**ASK, "model": "claude-x"}

        def streamed(client: anthropic.Anthropic) -> Any:
            with client.messages.stream(**ask) as stream:
                return stream.get_final_message()

        whole = await it.sdk(streamed)

    pings, own = got.body.split(PLAIN_STREAM[:20])[0], PLAIN_STREAM
    assert got.body == pings + own
    assert pings.count(PING) >= 2
    assert pings.replace(PING, b"") == b""
    assert whole.content[0].text == "Héllo"


async def test_p60_pings_between_two_events_and_never_inside_one() -> None:
    at = STREAM.index(b"event: content_block_stop") + 10
    pieces = (STREAM[:at], STREAM[at : at + 5], STREAM[at + 5 :])
    async with far(Reply(body=pieces, headers=SSE, framing="chunked", pause=0.4), **HASTY) as it:
        inside = await it.fetch({**ASK, "stream": True})
    at -= 10
    async with far(
        Reply(body=(STREAM[:at], STREAM[at:]), headers=SSE, framing="chunked", pause=0.4), **HASTY
    ) as it:
        between = await it.fetch({**ASK, "stream": True})

    assert inside.body == STREAM
    assert between.body.startswith(STREAM[:at] + PING)
    assert between.body.replace(PING, b"") == STREAM


@pytest.mark.parametrize(
    ("reply", "error_type"),
    [
        (Reply(429, SIGNATURE.replace(b"invalid_request_error", b"rate_limit_error")), "rate_limit_error"),
        (Reply(body=WHOLE, headers=JSON), "api_error"),
    ],
)
async def test_p60_a_refusal_after_the_first_ping_is_said_in_the_stream(
    reply: Reply, error_type: str
) -> None:
    async with far(attrs.evolve(reply, delay=0.3), **HASTY) as it:
        got = await it.fetch({**ASK, "stream": True})

    assert (got.status, got.whole) == (200, True)
    assert json.loads(got.body.rpartition(b"data: ")[2])["error"]["type"] == error_type
    assert it.row.error_type == error_type


async def test_a_plain_answer_is_waited_for() -> None:
    """There is nothing that could be said before it."""
    async with far(Reply(body=WHOLE, headers=JSON, delay=0.3), **HASTY) as it:
        got = await it.fetch()

    assert got.body == WHOLE


@pytest.mark.parametrize(
    ("kind", "url"),
    [
        ("anthropic", "https://api.anthropic.com"),
        ("ollama", "http://127.0.0.1:11434"),
        ("openrouter", "https://openrouter.ai/api"),
    ],
)
async def test_a_provider_without_an_address_is_where_its_kind_is(kind: str, url: str) -> None:
    """A prompt for a local model never goes to Anthropic because nobody said where the model is."""
    spec = WorkerSpec("a", f"{kind}/m", kind, kind, "m", 3457, options=Options(api="anthropic"))

    assert Relay(spec, (b"x-proxy-model", b"m")).place.base.url == url


async def test_an_unreachable_provider() -> None:
    """The error table's words: where, and not again."""
    async with far() as it:
        it.upstream.stop()
        got = await it.fetch()

    assert (got.status, got.error["type"], got.headers["x-should-retry"]) == (503, "api_error", "false")
    assert it.upstream.url in got.error["message"]
    assert (it.row.status, it.row.input_tokens) == (503, None)


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (Reply(raw=b""), 529),
        (Reply(raw=b"HTTP/1.1 200 OK\r\nx"), 500),
        (Reply(raw=b"nonsense\r\n\r\n"), 500),
        (Reply(body=WHOLE, headers=JSON, cut_after=20), 500),
        (Reply(body=STREAM, headers=SSE, framing="chunked", cut_after=0), 500),
        (Reply(body=b"", headers=SSE, framing="chunked"), 500),
    ],
)
async def test_what_breaks_off_before_anything_was_sent_is_a_status(reply: Reply, status: int) -> None:
    """Which clients can act on."""
    async with far(reply) as it:
        got = await it.fetch({**ASK, "stream": True})

    assert got.status == status
    assert got.error["type"] in ("api_error", "overloaded_error")
    assert it.row.status == status


@pytest.mark.parametrize("framing", ["chunked", "close"])
@pytest.mark.parametrize("at", range(1, len(STREAM), 37))
async def test_a_stream_that_is_cut_never_ends_well(framing: str, at: int) -> None:
    """Between events it ends with an error event, in the middle of one without its last chunk.

    In the middle of the first one nothing has been sent: that is a real status.
    """
    async with far(Reply(body=(STREAM[:at],), headers=SSE, framing=framing, close=True)) as it:
        got = await it.fetch({**ASK, "stream": True})

    assert (it.row.status, it.row.error_type, it.row.stop_reason) == (500, "api_error", None)
    if at < STREAM.index(b"event: ping"):
        assert (got.status, got.error["type"]) == (500, "api_error")
        return
    assert got.body.startswith(STREAM[:at])
    added = got.body[at:]
    if STREAM[:at].endswith(b"\n\n"):
        assert got.whole
        assert added.startswith(b"event: error\ndata: ")
        assert json.loads(added.partition(b"data: ")[2])["error"]["type"] == "api_error"
    else:
        assert (got.whole, added) == (False, b"")


async def test_a_cut_between_events_is_said_in_the_grammar() -> None:
    """What went before, then the error."""
    at = PLAIN_STREAM.index(b"event: content_block_delta")
    known = PLAIN_STREAM[:at]
    async with far(Reply(body=(known,), headers=SSE, framing="close")) as it:
        got = await it.fetch({**ASK, "stream": True})
    streamed = grammar.check(got.body)

    assert streamed.error is not None
    assert not streamed.complete


async def test_an_error_event_of_the_provider_is_a_failure_in_the_books() -> None:
    """And the stream is its own."""
    body = STREAM[:400].rpartition(b"\n\n")[0] + b"\n\n"
    body += b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Busy"}}\n\n'
    async with far(Reply(body=(body,), headers=SSE, framing="chunked")) as it:
        got = await it.fetch({**ASK, "stream": True})

    assert got.body == body
    assert (it.row.status, it.row.error_type) == (529, "overloaded_error")
    assert it.stats.failures == 1


async def test_a_connection_that_stays_open_behind_message_stop_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The SDK reads to the end of the body, and the row is long written."""
    monkeypatch.setattr(upstream_module, "BILL_S", 0.1)
    reply = Reply(body=STREAM + b" " * 99, headers=SSE, hang_after=len(STREAM))
    async with far(reply) as it:
        with trio.fail_after(20):
            got = await it.fetch({**ASK, "stream": True})

    assert (got.body, it.row.status) == (STREAM, 200)


BUSY = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Busy"}}\n\n'
WAITING = b": PROCESSING\n\n" + PING


@pytest.mark.parametrize("before", [b"", WAITING], ids=["at once", "after comments"])
async def test_s137_an_error_in_place_of_the_first_event_is_a_real_status(before: bytes) -> None:
    """Inside a 200 no client would repeat it, and no other target could be asked."""
    async with far(Reply(body=(before + BUSY,), headers=SSE, framing="chunked")) as it:
        got = await it.fetch({**ASK, "stream": True})

    assert (got.status, got.error) == (529, {"type": "overloaded_error", "message": "Anthropic: Busy"})
    assert (it.row.status, it.row.error_type, it.row.input_tokens) == (529, "overloaded_error", None)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens",
            (400, "prompt is too long: 5000 tokens > 4096 maximum"),
        ),
        ("m does not support tools", (400, "choose a tool-capable model")),
    ],
)
async def test_p58_such_an_error_is_told_in_the_words_that_clients_understand(
    words: str, expected: tuple[int, str]
) -> None:
    """As it is where it comes with a status."""
    said = json.dumps({"type": "error", "error": {"type": "api_error", "message": words}}).encode()
    async with far(Reply(body=b"event: error\ndata: " + said + b"\n\n", headers=SSE), **VLLM) as it:
        got = await it.fetch({**ASK, "stream": True})

    assert (got.status, it.row.status) == (expected[0], expected[0])
    assert expected[1] in got.error["message"]


async def test_s137_comments_and_pings_promise_nothing() -> None:
    async with far(Reply(body=(WAITING,), headers=SSE, framing="chunked")) as it:
        cut = await it.fetch({**ASK, "stream": True})
    async with far(Reply(body=(WAITING, STREAM), headers=SSE, framing="chunked", pause=0.05)) as it:
        whole = await it.fetch({**ASK, "stream": True})

    assert (cut.status, cut.error["type"]) == (500, "api_error")
    assert (whole.status, whole.body) == (200, WAITING + STREAM)


@pytest.mark.parametrize(
    "reply",
    [Reply(body=BUSY, headers=SSE), Reply(529, b"{}", headers=JSON), Reply(body=b"<html>", headers=JSON)],
    ids=["in a stream", "as a status", "as a page"],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_s11_who_answers_instead_has_all_of_the_row(reply: Reply, stream: bool) -> None:
    """The id is ours then, and a target that cools leaves the request unread: what was asked is known all the same."""
    other = Target("echo", "echo/demo", "echo", "demo")
    async with far(reply, fallback=[other]) as it:
        for _ in range(2):
            got = await it.fetch({**ASK, "stream": stream})
            row = it.books._waiting.pop().row

            assert (got.status, got.headers["x-proxy-fallback"]) == (200, "echo/demo")
            assert got.headers["request-id"] == row.request_id != "req_theirs"
            assert (row.requested_model, row.stream, row.provider) == (MODEL, stream, "echo")
        assert len(it.upstream.to("/v1/messages")) == 1


async def test_the_end_of_the_connection_after_message_stop_is_nobodys_business() -> None:
    """All was said: no error is added to it."""
    async with far(
        Reply(body=STREAM, headers=SSE, framing="chunked", cut_after=len(STREAM) + 5, reset=True)
    ) as it:
        got = await it.fetch({**ASK, "stream": True})

    assert (got.body, got.whole) == (STREAM, True)
    assert it.row.status == 200


# --- time ---------------------------------------------------------------------------------------------


async def test_a_silent_provider() -> None:
    """504, and which limit it was."""
    async with far(Reply(hang=True), timeouts=Timeouts(first_byte_s=0.2)) as it:
        got = await it.fetch()

    assert (got.status, got.error["type"]) == (504, "timeout_error")
    assert "0.2s (first_byte_timeout)" in got.error["message"]
    assert it.row.status == 504


async def test_a_provider_that_falls_silent() -> None:
    """In-band, and its connection is closed."""
    at = STREAM.index(b"event: ping")
    async with far(
        Reply(body=(STREAM[:at], STREAM[at:]), pause=30, headers=SSE, framing="chunked"),
        timeouts=Timeouts(idle_s=0.2),
    ) as it:
        got = await it.fetch({**ASK, "stream": True})
        await trio.to_thread.run_sync(it.upstream.wait_for_close)

    assert b"timeout_error" in got.body[at:]
    assert (it.row.status, it.row.error_type) == (504, "timeout_error")


async def test_a_drain_cuts_in_band() -> None:
    """The client is told why."""
    at = STREAM.index(b"event: content_block_stop")
    async with far(Reply(body=(STREAM[:at], STREAM[at:]), pause=30, headers=SSE, framing="chunked")) as it:
        answer: list[Got] = []

        async def ask() -> None:
            answer.append(await it.fetch({**ASK, "stream": True}))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.to_thread.run_sync(it.upstream.wait_for_requests, 1)
            with trio.fail_after(5):
                while not any(call.exchange.started for call in it.handler._calls):  # noqa: ASYNC110  # the same
                    await trio.sleep(0.01)
            await trio.sleep(0.1)  # the first piece is on its way with the head
            it.handler.cut()
    [got] = answer

    assert got.body[:at] == STREAM[:at]
    assert b"overloaded_error" in got.body[at:]
    assert got.whole
    assert (it.row.status, it.row.error_type, it.row.output_tokens) == (529, "overloaded_error", 2)
    assert it.row.tokens_estimated


# --- the real client ----------------------------------------------------------------------------------


async def test_the_sdk_plain_and_streamed() -> None:
    """It notices nothing."""
    async with far(
        Reply(body=WHOLE, headers=JSON), Reply(body=(PLAIN_STREAM,), headers=SSE, framing="chunked")
    ) as it:
        ask: Any = {**ASK, "model": "claude-x"}  # the SDK warns of old names
        plain = await it.sdk(lambda client: client.messages.create(**ask))

        def streamed(client: anthropic.Anthropic) -> Any:
            with client.messages.stream(**ask) as stream:
                return stream.get_final_message()

        whole = await it.sdk(streamed)

    assert plain.content[0].to_dict()["text"] == "Hello"
    assert plain._request_id == "req_theirs"
    assert whole.content[0].text == "Héllo"
    assert whole.usage.output_tokens == 15
    assert "sk-ant-caller" in str(it.upstream.requests[0].headers)


async def test_one_connection_serves_many_requests() -> None:
    """Kept alive to the provider."""
    async with far(Reply(body=WHOLE, headers=JSON)) as it:
        for _ in range(20):
            await it.fetch()

    assert (it.upstream.connections, len(it.upstream.requests)) == (1, 20)


async def test_health_looks_at_the_provider() -> None:
    """A refusal for want of a credential is a sign of life: callers bring their own."""
    async with far(Reply(401, b"{}"), path="/v1/models") as it:
        well = await it.fetch(None, method="GET", path="/health")
    async with far(Reply(401, b"{}"), path="/v1/models", api_key="sk-ant-api03-wrong") as it:
        unwell = await it.fetch(None, method="GET", path="/health")

    assert json.loads(well.body)["healthy"] is True
    assert json.loads(unwell.body)["healthy"] is False


async def test_the_row_is_there_before_the_end_is_seen() -> None:
    """`message_stop` does not leave before it."""
    at = STREAM.index(b"event: message_stop")
    seen: list[bool] = []
    async with far(Reply(body=(STREAM[:at], STREAM[at:]), pause=0.2, headers=SSE, framing="chunked")) as it:
        note = it.books.note

        def spy(row: Row) -> Any:
            seen.append(row.stop_reason == "end_turn")
            return note(row)

        it.books.note = spy  # type: ignore[method-assign]  # to see when
        got = await it.fetch({**ASK, "stream": True})

    assert got.body == STREAM
    assert seen == [True]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_long_answer_has_a_row_before_its_end(stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what was counted until then; afterwards it is the same row that says how it ended."""
    monkeypatch.setattr(handler_module, "WILL_AFTER_S", 0.0)
    monkeypatch.setattr(handler_module, "WILL_LOOK_S", 0.01)
    body, headers = (STREAM, SSE) if stream else (WHOLE, JSON)
    at = body.index(b"event: message_delta") if stream else 10
    seen = threading.Semaphore(0)
    wills: list[Row] = []
    reply = Reply(body=(body[:at], body[at:]), gate=seen, headers=headers, framing="chunked")
    async with far(reply) as it, trio.open_nursery() as nursery:
        note = it.books.note

        def spy(row: Row) -> Any:
            wills.append(row)
            seen.release(9)
            return note(row)

        it.books.note = spy  # type: ignore[method-assign]  # to see the first
        nursery.start_soon(it.handler.keep_wills)
        got = await it.fetch({**ASK, "stream": stream})
        nursery.cancel_scope.cancel()

        assert got.status == 200
        assert [(will.status, will.error_type, will.stream) for will in wills] == [(500, "cut", stream)]
        assert (it.row.status, it.row.error_type, it.row.pid) == (200, None, None)
        assert it.row.output_tokens is not None


# --- another modelproxy -------------------------------------------------------------------------------

OFFICE = {
    "provider": "remote/office",
    "kind": "remote",
    "model": "front-name",
    "model_id": "remote/office/front-name",
    "api_key": "mp-of-there",
}


@pytest.mark.parametrize("streamed", [False, True])
async def test_s104_another_modelproxy_says_who_has_answered(*, streamed: bool) -> None:
    """The name that it knows goes up; what it has made of it comes down, once."""
    marks = (("x-proxy-model", "ollama/qwen3"), ("x-proxy-route", "front>a"), ("x-proxy-recorded", "1"))
    answer = Reply(body=STREAM if streamed else WHOLE, headers=(*(SSE if streamed else JSON), *marks))
    async with far(answer, **OFFICE) as it:
        got = await it.fetch({**ASK, "stream": streamed}, headers={"x-api-key": "sk-ant-own"})
    [seen] = it.upstream.requests

    assert seen.json()["model"] == "front-name"
    assert (seen.headers["authorization"], seen.headers.get("x-api-key")) == ("Bearer mp-of-there", None)
    assert (got.status, got.body) == (200, STREAM if streamed else WHOLE)
    assert got.headers["x-proxy-model"] == "ollama/qwen3"
    assert not {"x-proxy-route", "x-proxy-recorded"} & set(got.headers)
    row = it.row
    assert (row.provider, row.model, row.input_tokens) == ("remote/office", "front-name", 25)
    assert (row.cost_usd, row.cost_source) == (None, "unknown")


async def test_another_modelproxy_that_does_not_say_who_is_called_as_it_was_asked() -> None:
    async with far(Reply(body=WHOLE, headers=JSON), **OFFICE) as it:
        got = await it.fetch()

    assert got.headers["x-proxy-model"] == "remote/office/front-name"


async def test_s100_the_cost_is_what_another_modelproxy_says() -> None:
    body = json.dumps({**MESSAGE, "usage": {"input_tokens": 1, "output_tokens": 2, "cost": 0.0123}}).encode()
    async with far(Reply(body=body, headers=JSON), **OFFICE) as it:
        await it.fetch()

    assert (it.row.cost_usd, it.row.cost_source) == (0.0123, "provider")


async def test_another_modelproxy_counts_itself() -> None:
    path = "/v1/messages/count_tokens"
    async with far(Reply(body=b'{"input_tokens":7}', headers=JSON), path=path, **OFFICE) as it:
        got = await it.fetch(path=path)
        listed = await it.fetch(None, method="GET", path="/v1/models")

    assert got.body == b'{"input_tokens":7}'
    assert it.upstream.requests[0].json()["model"] == "front-name"
    assert json.loads(listed.body)["data"][0]["id"] == "remote/office/front-name"  # ours to say
