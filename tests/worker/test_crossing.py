"""A front's handler between a real client, a proxy of ours and Anthropic: bytes, credentials, rows, endings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from fakes import grammar
from fakes.exchange import FakeExchange
from fakes.serving import serving
from fakes.upstream import Reply, Upstream

from modelproxy.worker import crossing
from modelproxy.worker.contract import (
    Access,
    AccessToken,
    Front,
    FrontRule,
    Options,
    Place,
    Quota,
    WorkerSpec,
)
from modelproxy.worker.crossing import Ending
from modelproxy.worker.failures import Failure, Kind
from modelproxy.worker.handler import Handler
from modelproxy.worker.ledger import Row
from modelproxy.worker.stats import Stats

from .test_anthropic_relay import MODEL, STREAM
from .test_relay import ASK, JSON, PLAIN_STREAM, SSE, WHOLE, Far, Rows

RECORDED = ("x-proxy-recorded", "1")
OURS = (("x-proxy-model", "ollama/small"), RECORDED)
SMALL = {**ASK, "model": "small"}
ERROR = b'{"type":"error","error":{"type":"overloaded_error","message":"busy"},"request_id":"req_theirs"}'
RULES = [
    FrontRule("small", agent="reviewer"),
    FrontRule("small", model="small"),
    FrontRule("gone", model="gone"),
]


@attrs.define
class Door(Far):
    """A front: `upstream` is Anthropic, `near` a proxy of ours."""

    near: Upstream
    logged: list[dict[str, Any]]

    @property
    def rows(self) -> list[Row]:
        return [entry.row for entry in self.books._waiting]

    async def health(self) -> dict[str, Any]:
        got = await self.fetch(None, method="GET", path="/health")
        found: dict[str, Any] = json.loads(got.body)
        return found


@asynccontextmanager
async def door(*replies: Reply, home: Reply | None = None, **changes: Any) -> AsyncIterator[Door]:
    """`replies` are those of the proxy."""
    with Upstream() as far, Upstream() as near:
        for path in ("/v1/messages", "/v1/messages/count_tokens", "/v1/files"):
            far.on(path, home or Reply(body=WHOLE, headers=JSON))
            near.on(path, *(replies or (Reply(body=WHOLE, headers=(*JSON, *OURS)),)))
        places = [Place("small", "ollama/small", near.url), Place("gone", "ollama/gone", None)]
        fields: dict[str, Any] = {
            "name": "front",
            "model_id": "front",
            "provider": "front",
            "kind": "front",
            "model": "default",
            "port": 3457,
            "base_url": far.url,
            "front": Front(RULES, places),
        }
        stats, books, logged = Stats(), Rows(), list[dict[str, Any]]()
        handler = Handler(
            WorkerSpec(**fields | changes),
            stats=stats,
            log=lambda *_, **fields: logged.append(fields),
            started_at=trio.current_time(),
            books=books,
        )
        async with serving(handler) as server:
            yield Door(far, server.port, books, stats, handler, near, logged)


# --- to Anthropic -------------------------------------------------------------------------------------


async def test_what_no_rule_takes_is_anthropics_byte_by_byte() -> None:
    """Query, credential and betas up, its own headers down; the row names the route."""
    body = json.dumps(ASK, indent=3).encode()
    headers = {"authorization": "Bearer sk-ant-oat01-mine", "anthropic-beta": "zzz-2099-01-01"}
    async with door(home=Reply(body=WHOLE, headers=(*JSON, ("anthropic-ratelimit-x", "3")))) as it:
        got = await it.fetch(body, path="/v1/messages?beta=true", headers=headers)
    [seen] = it.upstream.requests

    assert (seen.method, seen.target, seen.body) == ("POST", "/v1/messages?beta=true", body)
    assert headers.items() <= seen.headers.items()
    assert (got.status, got.body) == (200, WHOLE)
    assert (got.headers["anthropic-ratelimit-x"], got.headers["x-proxy-route"]) == ("3", "front>anthropic")
    assert got.headers["x-proxy-model"] == f"anthropic/{MODEL}"
    assert not it.near.requests
    row = it.row
    assert (row.proxy, row.route, row.provider, row.model) == ("front", "front>anthropic", "anthropic", MODEL)
    assert (row.input_tokens, row.cost_source, row.agent) == (25, "subscription", None)


async def test_a_stream_of_anthropics_arrives_byte_by_byte() -> None:
    async with door(home=Reply(body=(STREAM[:90], STREAM[90:]), headers=SSE, framing="chunked")) as it:
        got = await it.fetch({**ASK, "stream": True})

    assert (got.status, got.body) == (200, STREAM)
    assert (it.row.status, it.row.stream, it.row.output_tokens) == (200, True, 15)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/files"),
        ("GET", "/v1/files?limit=3"),
        ("DELETE", "/v1/files"),
        ("POST", "/v1/messages/count_tokens?beta=true"),
    ],
)
async def test_any_path_and_method_goes_there(method: str, path: str) -> None:
    body = json.dumps(ASK).encode() if method == "POST" else None
    async with door() as it:
        got = await it.fetch(body, method=method, path=path, headers={"x-api-key": "sk-ant-mine"})
    [seen] = it.upstream.requests

    assert (got.status, got.body) == (200, WHOLE)
    assert (seen.method, seen.target, seen.body) == (method, path, body or b"")
    assert seen.headers["x-api-key"] == "sk-ant-mine"
    assert it.rows == []


async def test_unknown_paths_outside_the_api_are_its_affair_too() -> None:
    async with door() as it:
        it.upstream.on("/api/oauth/usage", Reply(body=b'{"x":1}'))
        got = await it.fetch(None, method="GET", path="/api/oauth/usage")

    assert (got.status, got.body) == (200, b'{"x":1}')


async def test_nothing_of_ours_is_told_to_anthropic() -> None:
    async with door() as it:
        await it.fetch(headers={"x-proxy-agent": "nobody"})
    [seen] = it.upstream.requests

    assert not [name for name in seen.headers if name.startswith("x-proxy-")]
    assert it.row.agent == "nobody"


async def sent_out(name: str, *, streamed: bool, by: str) -> tuple[int, int, list[str | None]]:
    """Requests at home and at the proxy, and the rows' agents: a model sends somebody out, who then asks twice."""
    call = {"subagent_type": name, "prompt": "Look at it"}
    block = {"type": "tool_use", "id": "toolu_1", "name": "Agent", "input": call}
    whole = Reply(body=json.dumps(json.loads(WHOLE) | {"content": [block]}).encode(), headers=JSON)
    events: list[dict[str, Any]] = [
        {"type": "content_block_start", "index": 0, "content_block": block | {"input": {}}},
        {"type": "content_block_delta", "index": 0, "delta": {"partial_json": json.dumps(call)}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_stop"},
    ]
    text = b"".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode() for one in events)
    answer = Reply(body=(text[:150], text[150:]), headers=SSE, framing="chunked") if streamed else whole
    session = {"x-claude-code-session-id": "s1"}
    agent = session | {"x-claude-code-agent-id": "a1", "x-claude-code-agent-type": "custom"}
    prompt = {"role": "user", "content": [{"type": "text", "text": "Look at it"}]}
    later = [{"role": "assistant", "content": "Hm"}, {"role": "user", "content": "Go on"}]
    async with door(answer, home=answer) as it:
        await it.fetch({**(ASK if by == "home" else SMALL), "stream": streamed}, headers=session)
        it.upstream.requests.clear()
        it.near.requests.clear()
        for messages in ([prompt], [prompt, *later]):
            await it.fetch({**ASK, "messages": messages}, headers=agent)
        said = [seen.headers.get("x-proxy-agent") for seen in it.near.requests]
        return len(it.upstream.requests), len(it.near.requests), said


@pytest.mark.parametrize("by", ["home", "small"])
@pytest.mark.parametrize("streamed", [True, False])
async def test_a_sub_agent_is_known_by_the_answer_that_sends_it_out(by: str, streamed: bool) -> None:
    """Claude Code says only its id; whoever answers the one that sends it."""
    assert await sent_out("reviewer", streamed=streamed, by=by) == (0, 2, ["reviewer", "reviewer"])


async def test_a_sub_agent_without_a_rule_goes_where_the_rest_goes() -> None:
    assert await sent_out("somebody", streamed=True, by="home") == (2, 0, [])


# --- to another proxy ---------------------------------------------------------------------------------


async def test_a_rule_takes_a_request_to_its_proxy_byte_by_byte() -> None:
    """Who asks and which front it came through are said in headers; the row is the proxy's."""
    body = json.dumps(SMALL, indent=3).encode()
    async with door() as it:
        got = await it.fetch(
            body, path="/v1/messages?beta=true", headers={"anthropic-beta": "b", "x-proxy-hops": "2"}
        )
    [seen] = it.near.requests

    assert (seen.method, seen.target, seen.body) == ("POST", "/v1/messages?beta=true", body)
    assert (seen.headers["anthropic-beta"], seen.headers["x-proxy-via"]) == ("b", "front")
    assert seen.headers["x-proxy-hops"] == "2"
    assert (got.status, got.body, got.headers["request-id"]) == (200, WHOLE, "req_theirs")
    assert (got.headers["x-proxy-route"], got.headers["x-proxy-model"]) == (
        "front>small",
        "ollama/small",
    )
    assert "x-proxy-recorded" not in got.headers
    assert not it.upstream.requests
    assert it.rows == []
    assert (it.stats.requests, it.stats.failures, it.stats.in_flight) == (1, 0, 0)


@pytest.mark.parametrize(
    "headers", [{"x-proxy-token": "mp-secret"}, {"authorization": "Bearer mp-secret"}], ids=["own", "bearer"]
)
async def test_a_proxy_is_told_whose_request_it_is_and_anthropic_is_not(headers: dict[str, str]) -> None:
    """By the token: it has limits for that caller, and may demand one."""
    token = AccessToken("ci", hashlib.sha256(b"mp-secret").hexdigest())
    async with door(quota=Quota(access=Access(required=True, tokens=[token]))) as it:
        got = await it.fetch(SMALL, headers=headers)
        home = await it.fetch(headers=headers)
    [near], [far] = it.near.requests, it.upstream.requests

    assert (got.status, home.status, it.row.token) == (200, 200, "ci")
    assert (near.headers["x-proxy-token"], "authorization" in near.headers) == ("mp-secret", False)
    assert "mp-secret" not in str(far.headers)


async def test_the_path_names_the_agent_and_the_proxy_hears_of_it() -> None:
    async with door() as it:
        got = await it.fetch(path="/a/reviewer/v1/messages?beta=true")
    [seen] = it.near.requests

    assert got.headers["x-proxy-route"] == "front>small"
    assert (seen.target, seen.headers["x-proxy-agent"]) == ("/v1/messages?beta=true", "reviewer")


@pytest.mark.parametrize("path", ["/a/reviewer/v1/messages/count_tokens", "/a/reviewer/v1/files"])
async def test_all_that_an_agent_asks_goes_the_same_way(path: str) -> None:
    async with door() as it:
        got = await it.fetch(path=path)
    [seen] = it.near.requests

    assert got.status == 200
    assert seen.target == path.removeprefix("/a/reviewer")
    assert it.rows == []


async def test_an_unknown_agent_is_answered_with_the_nearest() -> None:
    async with door() as it:
        for path in ("/a/reviwer/v1/messages", "/a/reviwer/v1/files"):
            got = await it.fetch(path=path)

            assert (got.status, got.error["type"]) == (404, "not_found_error")
            assert got.error["message"].endswith("Agents: reviewer; proxyctl agents set NAME MODEL adds one")
    assert not it.upstream.requests


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
async def test_a_proxys_stream_arrives_byte_by_byte(size: int) -> None:
    pieces = tuple(STREAM[at : at + size] for at in range(0, len(STREAM), size))
    async with door(Reply(body=pieces, headers=(*SSE, *OURS), framing="chunked")) as it:
        got = await it.fetch({**SMALL, "stream": True})

    assert (got.status, got.body, got.whole) == (200, STREAM, True)
    assert it.rows == []
    assert it.stats.failures == 0


async def test_connections_to_a_proxy_are_kept() -> None:
    async with door() as it:
        for _ in range(3):
            await it.fetch(SMALL)

    assert {seen.connection for seen in it.near.requests} == {1}


async def test_a_large_body_goes_through_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crossing, "MOST_COLLECTED", 1000)
    body = bytes(range(256)) * 40
    pieces = tuple(body[at : at + 512] for at in range(0, len(body), 512))
    async with door(Reply(body=pieces, framing="chunked")) as it:
        got = await it.fetch(path="/a/reviewer/v1/files")

    assert (got.status, got.body) == (200, body)


async def test_the_sdk_through_an_agents_address() -> None:
    reply = Reply(body=PLAIN_STREAM, headers=(*SSE, *OURS), framing="chunked")
    async with door(reply) as it:

        def use(client: Any) -> str:
            there = client.with_options(base_url=f"http://127.0.0.1:{it.port}/a/reviewer")
            with there.messages.stream(**{**ASK, "model": "claude-x"}) as stream:
                return str(stream.get_final_text())

        assert await it.sdk(use) == "Héllo"
    assert [seen.path for seen in it.near.requests] == ["/v1/messages"]


# --- what goes wrong ----------------------------------------------------------------------------------


async def test_a_proxys_error_passes_as_it_is() -> None:
    headers = (*JSON, RECORDED, ("retry-after", "7"), ("x-should-retry", "true"))
    async with door(Reply(529, ERROR, headers=headers)) as it:
        got = await it.fetch(SMALL)
        health = await it.health()

    assert (got.status, got.body) == (529, ERROR)
    assert (got.headers["retry-after"], got.headers["x-should-retry"]) == ("7", "true")
    assert it.rows == []
    assert (it.stats.failures, it.stats.last_error) == (1, "529 overloaded_error: busy")
    assert health["targets"][0]["state"] == "failing"
    assert health["targets"][0]["detail"] == "busy"


async def test_an_error_without_words_is_known_by_its_status() -> None:
    async with door(
        Reply(404, b"<html>"), Reply(503, ERROR.replace(b"overloaded_error", b"api_error"))
    ) as it:
        first, said = await it.fetch(SMALL), it.stats.last_error
        await it.fetch(SMALL)

    assert (first.status, first.body, said) == (404, b"<html>", "404 not_found_error: status 404")
    assert it.stats.last_error == "503 api_error: busy"


async def test_whoever_stands_in_for_a_proxy_writes_no_row_so_the_front_does() -> None:
    async with door(Reply(503, ERROR, headers=JSON)) as it:
        got = await it.fetch(SMALL, headers={"x-claude-code-session-id": "s"})

    assert (got.status, got.body) == (503, ERROR)
    row = it.row
    assert (row.status, row.route, row.session_id) == (503, "front>small", "s")
    assert (row.provider, row.model, row.input_tokens) == ("ollama", "small", None)


async def test_a_proxy_that_is_not_up_is_named() -> None:
    async with door() as it:
        got = await it.fetch({**ASK, "model": "gone"})
        health = await it.health()

    assert (got.status, got.headers["x-should-retry"]) == (503, "false")
    assert got.error["message"] == "gone is not up: it was taken down - proxyctl up gone"
    assert (it.row.status, it.row.route) == (503, "front>gone")
    assert health["targets"][1]["state"] == "down"
    assert health["warnings"] == ["not up: gone"]


async def test_a_proxy_that_is_not_reached_is_named() -> None:
    async with door() as it:
        it.near.stop()
        got = await it.fetch(SMALL)

    assert got.status == 503
    assert got.error["message"].startswith(f"small is not reachable at {it.near.url}: ")
    assert got.error["message"].endswith("; see proxyctl why small")
    assert it.row.status == 503


async def test_a_proxy_that_ends_the_connection_has_written_no_row() -> None:
    async with door(Reply(raw=b"")) as it:
        got = await it.fetch(SMALL)

    assert (got.status, it.row.status) == (529, 529)
    assert "small ended the connection before it answered" in got.error["message"]


async def test_a_stream_that_breaks_off_between_events_ends_with_an_error() -> None:
    cut = PLAIN_STREAM.index(b"event: message_delta")
    reply = Reply(body=PLAIN_STREAM[:cut], headers=(*SSE, *OURS), framing="length", cut_after=cut)
    reply = attrs.evolve(reply, body=PLAIN_STREAM)
    async with door(reply) as it:
        got = await it.fetch({**SMALL, "stream": True})
    said = grammar.check(got.body)

    assert not said.complete
    assert said.error is not None
    assert "small broke off" in said.error["error"]["message"]
    assert it.rows == []
    assert it.stats.failures == 1


async def test_a_stream_that_breaks_off_within_an_event_looks_as_cut_as_it_is() -> None:
    cut = PLAIN_STREAM.index(b"event: message_delta") + 9
    async with door(Reply(body=PLAIN_STREAM, headers=(*SSE, *OURS), cut_after=cut)) as it:
        got = await it.fetch({**SMALL, "stream": True})

    assert (got.body, got.whole) == (PLAIN_STREAM[:cut], False)


async def test_a_stream_that_was_over_is_whole_however_the_connection_ends() -> None:
    chunks = b"%x\r\n%b\r\n" % (len(PLAIN_STREAM), PLAIN_STREAM)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    async with door(Reply(raw=head + chunks)) as it:
        got = await it.fetch({**SMALL, "stream": True})

    assert (got.body, got.whole, it.stats.failures) == (PLAIN_STREAM, True, 0)


async def test_an_answer_that_breaks_off_is_a_real_status() -> None:
    async with door(Reply(body=WHOLE, headers=(*JSON, *OURS), cut_after=20)) as it:
        got = await it.fetch(SMALL)

    assert got.status == 500
    assert "small broke off in the middle of its answer" in got.error["message"]
    assert it.rows == []


async def test_an_error_in_a_stream_counts_as_a_failure() -> None:
    error = b"event: error\ndata: " + ERROR + b"\n\n"
    async with door(Reply(body=error, headers=(*SSE, *OURS))) as it:
        got = await it.fetch({**SMALL, "stream": True})

    assert got.body == error
    assert (it.stats.failures, it.stats.last_error) == (1, "529 overloaded_error: busy")


async def test_a_client_that_leaves_ends_the_request_and_leaves_the_row_to_the_proxy() -> None:
    with Upstream() as near:
        near.on("/v1/messages", Reply(body=PLAIN_STREAM, headers=(*SSE, *OURS), hang_after=200))
        front = Front(RULES, [Place("small", "ollama/small", near.url)])
        async with door(front=front) as it:
            async with await trio.open_tcp_stream("127.0.0.1", it.port) as client:
                body = json.dumps({**SMALL, "stream": True}).encode()
                head = b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                await client.send_all(head + b"content-length: %d\r\n\r\n" % len(body) + body)
                seen = b""
                while b"message_start" not in seen:
                    seen += await client.receive_some()
            await trio.to_thread.run_sync(near.wait_for_close)

    assert it.rows == []


async def test_a_client_that_takes_nothing_and_leaves_ends_the_request_too() -> None:
    """Nobody reads from the proxy at that moment."""
    async with door(Reply(body=PLAIN_STREAM, headers=(*SSE, *OURS), hang_after=200)) as it:
        body = json.dumps({**SMALL, "stream": True}).encode()
        exchange = FakeExchange(body=body, stall=trio.Event())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(it.handler, exchange)
            await trio.to_thread.run_sync(it.near.wait_for_requests, 1)
            while not exchange.started:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        await trio.to_thread.run_sync(it.near.wait_for_close)

    assert it.rows == []


async def test_a_stream_that_began_in_line_ends_with_what_the_proxy_said() -> None:
    """Its client has waited for a place and had pings meanwhile: a status can not be told any more."""
    with Upstream() as near:
        near.on("/v1/messages", Reply(body=WHOLE, headers=(*JSON, *OURS), delay=0.5), Reply(529, ERROR))
        front = Front(RULES, [Place("small", "ollama/small", near.url)])
        patient = Options(hold_s=0.01, ping_s=0.05)
        waiting = door(front=front, options=patient, quota=Quota(max_concurrent=1))
        async with waiting as it, trio.open_nursery() as nursery:
            nursery.start_soon(it.fetch, SMALL)
            await trio.to_thread.run_sync(near.wait_for_requests, 1)
            got = await it.fetch({**SMALL, "stream": True})

    assert (got.status, got.whole) == (200, True)
    assert got.body.startswith(b"event: ping")
    assert b'"overloaded_error","message":"busy"' in got.body


async def test_a_front_does_not_lead_to_a_front() -> None:
    async with door() as it:
        got = await it.fetch(headers={"x-proxy-via": "front/other"})

    assert (got.status, it.upstream.requests, it.near.requests) == (400, [], [])
    assert "came through front/other already" in got.error["message"]


async def test_it_leads_elsewhere_from_now_on_and_forgets_nothing_of_what_stays() -> None:
    async with door() as it, trio.open_nursery() as nursery:
        await it.fetch(SMALL)
        places = [Place("small", "ollama/small", it.near.url), Place("gone", "ollama/gone", it.near.url)]
        it.handler.lead(Front(RULES, places))
        nursery.start_soon(it.fetch, SMALL)
        got = await it.fetch({**ASK, "model": "gone"})
        health = await it.health()
        it.handler.lead(Front([], [attrs.evolve(places[0], url=it.upstream.url)], "small"))
        other = await it.fetch({**ASK, "model": "gone"})
        [seen] = it.upstream.to("/v1/messages")

    assert (got.status, got.headers["x-proxy-route"]) == (200, "front>gone")
    assert [one["state"] for one in health["targets"]] == ["works", "works"]
    assert (other.headers["x-proxy-route"], seen.headers["x-proxy-via"]) == ("front>small", "front")


# --- what it says of itself ---------------------------------------------------------------------------


async def test_the_list_of_models_is_its_own() -> None:
    async with door() as it:
        got = await it.fetch(
            None, method="GET", path="/v1/models?limit=1000", headers={"anthropic-version": "1"}
        )
        one = await it.fetch(None, method="GET", path="/v1/models/claude-reviewer")
        other = await it.fetch(None, method="GET", path="/v1/models/claude-opus-5-5")
    listed = json.loads(got.body)
    ids = ["small", "claude-small", "gone", "claude-gone", "reviewer", "claude-reviewer"]

    assert [entry["id"] for entry in listed["data"]] == ids
    assert [entry["display_name"] for entry in listed["data"]] == ids
    assert (listed["has_more"], json.loads(one.body)["id"]) == (False, "claude-reviewer")
    assert other.status == 404
    assert [seen.target for seen in it.upstream.requests] == ["/v1/models/claude-opus-5-5"]


@pytest.mark.parametrize("path", ["/", "/livez", "/api/hello"])
async def test_small_answers_are_its_own(path: str) -> None:
    async with door() as it:
        got = await it.fetch(None, method="GET", path=path)

    assert (got.status, it.upstream.requests) == (200, [])


async def test_health_asks_no_place() -> None:
    """A look would bring an idle proxy back."""
    async with door() as it:
        before = await it.health()
        await it.fetch(SMALL)
        after = await it.health()

    assert [seen.path for seen in it.near.requests] == ["/v1/messages"]
    assert before["targets"][0] == {
        "name": "small",
        "model_id": "ollama/small",
        "url": it.near.url,
        "state": "not asked yet",
        "detail": "",
    }
    assert after["targets"][0]["state"] == "works"


async def test_a_place_that_could_not_be_had_is_looked_at_for_health() -> None:
    """Else it would be called failing until the next request, however long it has been well."""
    async with door(Reply(503, ERROR, headers=(*JSON, RECORDED))) as it:
        it.near.on("/health", Reply(503, b"{}"), Reply(200, b"{}"))
        await it.fetch(SMALL)
        states = [(await it.health())["targets"][0]["state"] for _ in range(3)]

    assert states == ["failing", "works", "works"]
    assert [seen.path for seen in it.near.requests] == ["/v1/messages", "/health", "/health"]


async def test_without_anthropic_it_is_degraded_while_any_place_may_answer() -> None:
    """And unhealthy when nothing that it leads to does."""
    async with door() as it:
        it.upstream.stop()
        fresh = await it.fetch(None, method="GET", path="/health")
        await it.fetch(SMALL)
        works = await it.fetch(None, method="GET", path="/health")
        it.near.stop()
        await it.fetch(SMALL)
        none = await it.fetch(None, method="GET", path="/health")

    said = [(got.status, json.loads(got.body)) for got in (fresh, works, none)]
    assert [(status, body["healthy"], body["status"]) for status, body in said] == [
        (200, True, "degraded"),
        (200, True, "degraded"),
        (503, False, "degraded"),
    ]
    assert [body["upstream"]["ok"] for _, body in said] == [False] * 3


async def test_a_place_that_does_not_answer_is_still_failing() -> None:
    async with door() as it:
        it.near.stop()
        await it.fetch(SMALL)
        shown = (await it.health())["targets"][0]

    assert (shown["state"], "is not reachable" in shown["detail"]) == ("failing", True)


async def test_its_log_counts_no_tokens_where_another_proxy_does() -> None:
    """Zeros would be wrong; the other one's line has them, under the same id."""
    async with door() as it:
        await it.fetch(SMALL)
        await it.fetch(ASK)
    near, home = (line for line in it.logged if "route" in line)

    assert "input_tokens" not in near
    assert home["input_tokens"] > 0


async def test_an_error_without_words_ends_with_its_name() -> None:
    async with door(home=Reply(418, b"no json", headers=(("content-type", "text/plain"),))) as it:
        await it.fetch(None, method="GET", path="/v1/files")

    assert it.logged[-1]["error"] == "418 invalid_request_error"


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"model": 5}', b'{"model": "x", "top_p": 1e999}'])
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_what_cannot_be_read_is_anthropics_to_refuse(path: str, body: bytes) -> None:
    """Byte by byte, like everything that no rule takes."""
    said = b'{"type":"error","error":{"type":"invalid_request_error","message":"no signature in it"}}'
    async with door(home=Reply(400, said, headers=JSON)) as it:
        got = await it.fetch(body, path=path)
    [seen] = it.upstream.requests

    assert (seen.path, seen.body) == (path, body)
    assert (got.status, got.body) == (400, said)
    assert it.stats.last_error == "400 invalid_request_error: no signature in it"


async def test_nothing_of_anthropic_is_looked_at_where_nothing_goes_there() -> None:
    with Upstream() as near:
        front = Front([], [Place("small", "ollama/small", near.url)], "small")
        async with door(front=front) as it:
            health = await it.health()

    assert (health["healthy"], it.upstream.requests) == (True, [])


@pytest.mark.parametrize(
    "headers", [{"origin": "https://evil.example"}, {"host": "evil.example"}, {"sec-fetch-mode": "no-cors"}]
)
async def test_web_pages_stay_outside(headers: dict[str, str]) -> None:
    async with door() as it:
        for path in ("/v1/files", "/a/reviewer/v1/messages", "/whatever"):
            got = await it.fetch(path=path, headers=headers)

            assert got.status == 403
    assert (it.upstream.requests, it.near.requests) == ([], [])


# --- the end of a stream ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 50, 1000])
def test_the_end_is_seen_however_it_is_cut(size: int) -> None:
    ending = Ending()
    for at in range(0, len(STREAM), size):
        assert not ending.over
        ending.feed(STREAM[at : at + size])

    assert (ending.over, ending.error) == (True, None)
    assert ending.words(Failure(Kind.CUT, "x"), "req") == b""


def test_words_in_a_text_are_no_end() -> None:
    ending = Ending()
    ending.feed(b'event: content_block_delta\ndata: {"text":"\\nevent: error\\nevent: message_stop"}\n')

    assert not ending.over
    assert ending.words(Failure(Kind.CUT, "x"), "req") is None
    ending.feed(b"\n")
    assert b"event: error" in (ending.words(Failure(Kind.CUT, "x"), "req") or b"")


def test_an_error_whose_words_come_later_is_one() -> None:
    ending = Ending()

    assert ending.feed(b"event: error\n") == ("api_error", "")
    assert not ending.over
    assert ending.feed(b"data: {}\n\n") is None
    assert ending.over
