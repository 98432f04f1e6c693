"""The control socket, spoken to byte by byte; behind it a keeper among fake workers."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import trio
import trio.lowlevel
import trio.testing
from fakes.spawner import World
from fakes.worlds import configure

from modelproxy.supervisor import control, kernel
from modelproxy.supervisor.control import Control
from modelproxy.supervisor.protocol import Reloaded, UpRequest
from modelproxy.worker.httpd import Server


@attrs.define
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """Of an error."""
        error = self.json()["error"]
        assert set(error) >= {"code", "message", "hint"}
        code: str = error["code"]
        return code


class Playbook:
    """A control socket in memory terms: `await book.ask("GET", "/v1/version")`."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.left: list[tuple[str, float | None]] = []
        self.control = Control(
            world.commands,
            world.events,
            world.paths,
            started_at=1000.0,
            spawn=lambda: "exec",
            warnings=lambda: ["beware"],
            leave=lambda how, grace_s: self.left.append((how, grace_s)),
            reload=self.reload,
            log=world.log.append,
        )
        self.server: Server = self.control.server()

    async def reload(self, soon: bool) -> Reloaded:
        return Reloaded(["coder"], ["soon"] if soon else ["mind"])

    async def dial(self) -> trio.SocketStream:
        return await trio.open_unix_socket(str(self.world.paths.control_socket))

    async def ask(self, method: str, target: str, body: object = None) -> Reply:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        head = f"{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(data)}\r\n\r\n"
        return await self.say(head.encode() + data)

    async def say(self, data: bytes) -> Reply:
        """These very bytes; what comes back until the other side hangs up."""
        async with await self.dial() as stream:
            await stream.send_all(data)
            return await reply_of(stream)


async def reply_of(stream: trio.SocketStream) -> Reply:
    found = b""
    with trio.fail_after(20):
        async for data in stream:
            found += data
    head, _, rest = found.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        rest = unchunk(rest)
    return Reply(int(first.split()[1]), headers, rest)


def unchunk(data: bytes) -> bytes:
    found = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        found, data = found + data[: int(size, 16)], data[int(size, 16) + 2 :]
    return found


@pytest.fixture
async def book(world: World, nursery: trio.Nursery) -> AsyncIterator[Playbook]:
    from modelproxy.supervisor.sockets import (
        bind_unix,  # beside its use: tests of the socket itself are elsewhere
    )

    made = Playbook(world)
    await nursery.start(made.server.run, [bind_unix(world.paths.control_socket)])
    yield made
    made.server.abort()


async def up(book: Playbook, model: str = "echo/demo", **options: Any) -> Reply:
    target = "/v1/proxies/" + model.replace("/", "%2F")
    return await book.ask("PUT", target, {"model": model, "port": 0} | options)


# --- what may be asked ----------------------------------------------------------------------------


async def test_a_life_over_the_socket(book: Playbook) -> None:
    """Up, looked at, rolled, taken down."""
    made = await up(book)
    assert (made.status, made.headers["content-type"]) == (200, "application/json")
    row = made.json()
    assert (row["name"], row["state"], row["reused"]) == ("echo/demo", "ready", False)
    assert (await book.ask("GET", "/v1/proxies")).json()[0]["pid"] == row["pid"]
    assert (await book.ask("GET", "/v1/proxies/echo%2Fdemo")).json()["port"] == row["port"]
    assert (await book.ask("GET", f"/v1/proxies/{row['port']}")).json()["name"] == "echo/demo"
    rolled = await book.ask("POST", "/v1/proxies/echo%2Fdemo/restart")
    assert [one["generation"] for one in rolled.json()] == [2]
    stopped = await book.ask("DELETE", "/v1/proxies/all", {"grace_s": 1})
    assert stopped.json() == [{"name": "echo/demo", "port": row["port"], "state": "stopped"}]

    assert (await book.ask("GET", "/v1/proxies")).json() == []
    assert [one["state"] for one in (await book.ask("GET", "/v1/proxies?all=1")).json()] == ["stopped"]


async def test_the_version(book: Playbook) -> None:
    about = (await book.ask("GET", "/v1/version")).json()

    assert about["pid"] == os.getpid()
    assert (about["api"], about["warnings"], about["started_at"]) == (1, ["beware"], 1000.0)


async def test_reload_tells_what_it_touched(book: Playbook) -> None:
    reply = await book.ask("POST", "/v1/daemon/reload")

    assert (reply.status, reply.json()) == (200, {"changed": ["coder"], "warnings": ["mind"]})
    assert (await book.ask("POST", "/v1/daemon/reload?soon=1")).json()["warnings"] == ["soon"]
    assert book.left == []


@pytest.mark.parametrize("how", ["stop", "restart"])
async def test_the_daemon_is_told_to_leave_after_its_answer(book: Playbook, how: str) -> None:
    reply = await book.ask("POST", f"/v1/daemon/{how}", {"grace_s": 2})

    assert (reply.status, reply.json()["pid"]) == (200, os.getpid())
    assert book.left == [(how, 2.0)]


async def test_keep_alive_answers_one_after_the_other(book: Playbook) -> None:
    """Also when both questions come in one piece."""
    one = b"GET /v1/version HTTP/1.1\r\nhost: x\r\n\r\n"
    reply = await book.say(one + one.replace(b"host: x", b"host: x\r\nconnection: close"))

    assert reply.body.count(b"HTTP/1.1 200") == 1  # the second head stands in the first one's rest


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "target", "status", "code"),
    [
        ("GET", "/", 404, "unknown_route"),
        ("GET", "/v2/version", 404, "unknown_route"),
        ("GET", "/v1/proxies/a/b/c", 404, "unknown_route"),
        ("GET", "/v1/proxies/echo/demo", 404, "unknown_route"),  # a slash in a name is to be encoded
        ("POST", "/v1/daemon/explode", 404, "unknown_route"),
        ("GET", "/v1/proxies/echo%2Fnone", 404, "unknown_proxy"),
        ("GET", "/v1/proxies/%ff", 404, "unknown_proxy"),
        ("GET", "/v1/proxies/%C2%B2", 404, "unknown_proxy"),
        ("GET", "/v1/proxies/" + "9" * 5000, 404, "unknown_proxy"),
        ("GET", "/v1/proxies/echo%2Fnone/logs", 404, "unknown_proxy"),
        ("DELETE", "/v1/proxies/echo%2Fnone", 404, "unknown_proxy"),
        ("POST", "/v1/proxies/echo%2Fnone/restart", 404, "unknown_proxy"),
        ("DELETE", "/v1/version", 405, "method_not_allowed"),
        ("POST", "/v1/proxies", 405, "method_not_allowed"),
        ("PATCH", "/v1/proxies/x", 405, "method_not_allowed"),
        ("GET", "/v1/daemon/stop", 405, "method_not_allowed"),
        ("GET", "/v1/events?since=x", 400, "bad_request"),
        ("GET", "/v1/events?since=-1", 400, "bad_request"),
        ("GET", "/v1/events?since=%C2%B2", 400, "bad_request"),
        ("GET", "/v1/events?since=" + "9" * 5000, 400, "bad_request"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_is_not_there(book: Playbook, method: str, target: str, status: int, code: str) -> None:
    """One sentence each, as JSON."""
    reply = await book.ask(method, target)

    assert (reply.status, reply.code) == (status, code)
    assert len(reply.body) < 1000


@pytest.mark.parametrize(
    ("method", "target", "body", "words"),
    [
        ("PUT", "/v1/proxies/echo%2Fdemo", b"{", "not JSON"),
        ("PUT", "/v1/proxies/echo%2Fdemo", b"[" * 100_000, "not JSON"),
        ("PUT", "/v1/proxies/echo%2Fdemo", [], "must be a JSON object"),
        ("PUT", "/v1/proxies/echo%2Fdemo", {}, "required field missing @ $.model"),
        ("PUT", "/v1/proxies/echo%2Fdemo", {"model": "echo/demo", "prot": 1}, "extra fields found (prot)"),
        ("PUT", "/v1/proxies/echo%2Fdemo", {"model": "echo/demo", "port": "1"}, "$.port"),
        ("PUT", "/v1/proxies/echo%2Fdemo", {"model": "echo/other"}, 'the path says "echo/demo"'),
        ("PUT", "/v1/proxies/echo%2Fdemo", {"model": "echo/demo", "pid_file": "/a\0b"}, "absolute path"),
        ("DELETE", "/v1/proxies/all", {"grace": 1}, "extra fields found (grace)"),
        ("DELETE", "/v1/proxies/all", b'{"grace_s": NaN}', "grace must be between"),
        ("POST", "/v1/proxies/all/restart", b'{"wait_s": 1e999}', "wait_s must be between"),
        ("POST", "/v1/daemon/stop", b'{"grace_s": NaN}', "grace must be between"),
        ("POST", "/v1/daemon/stop", b'{"grace_s": -1}', "grace must be between"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_is_not_understood(
    book: Playbook, method: str, target: str, body: object, words: str
) -> None:
    """400 with what is wrong, and nothing has happened."""
    reply = await book.ask(method, target, body)

    assert (reply.status, reply.code) == (400, "bad_request")
    assert words in reply.json()["error"]["message"]
    assert (book.world.keeper.units, book.left) == ({}, [])


async def test_faults_have_their_status(book: Playbook) -> None:
    port = (await up(book)).json()["port"]
    taken = await up(book, "echo/other", port=port)

    assert (taken.status, taken.code) == (409, "port_in_use")
    assert (await up(book, "nonsense")).code == "bad_model_id"
    assert (await up(book, port=port, base_url="http://b")).code == "options_differ"


async def test_a_body_too_large_is_413(book: Playbook) -> None:
    """Known from its head: nobody waits for the rest."""
    head = b"PUT /v1/proxies/x HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (
        control.LIMITS.max_body + 1
    )
    reply = await book.say(head)

    assert (reply.status, reply.code) == (413, "bad_request")


async def test_a_head_too_large_is_431(book: Playbook) -> None:
    reply = await book.say(b"GET / HTTP/1.1\r\nx: " + b"y" * control.LIMITS.max_head + b"\r\n\r\n")

    assert (reply.status, reply.code) == (431, "bad_request")


@pytest.mark.parametrize("data", [b"garbage\r\n\r\n", b"\x00\x01\x02\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"])
async def test_garbage_is_400_and_others_go_on(book: Playbook, data: bytes) -> None:
    reply = await book.say(data)

    assert reply.status in (400, 505)
    assert (await book.ask("GET", "/v1/version")).status == 200


async def test_another_user_is_refused(book: Playbook, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the kernel's word: the second wall behind the socket's mode."""
    monkeypatch.setattr(kernel, "peer_of", lambda connection: kernel.Peer(1, os.getuid() + 1))
    reply = await up(book)

    assert (reply.status, reply.code) == (403, "forbidden")
    assert book.world.keeper.units == {}


async def test_a_bug_is_500_and_in_the_log(book: Playbook, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its details for the caller."""

    def broken(**_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(book.world.commands, "rows", broken)
    reply = await book.ask("GET", "/v1/proxies")

    assert (reply.status, reply.code) == (500, "internal")
    assert b"secret detail" not in reply.body
    assert any("RuntimeError: secret detail" in line for line in book.world.log)


async def test_who_changes_something_is_in_the_log_and_no_key_is(book: Playbook) -> None:
    await up(book, api_key="sk-secret")
    await book.ask("GET", "/v1/version")

    assert [line for line in book.world.log if "by pid" in line] == [
        f"PUT /v1/proxies/echo%2Fdemo by pid {os.getpid()}"
    ]
    assert "sk-secret" not in "\n".join(book.world.log)


# --- streams --------------------------------------------------------------------------------------


def lines(reply: Reply) -> list[Any]:
    return [json.loads(line) for line in reply.body.splitlines()]


async def test_events_are_one_json_object_per_line(book: Playbook) -> None:
    await up(book)
    reply = await book.ask("GET", "/v1/events")

    assert reply.headers["content-type"] == "application/x-ndjson"
    assert [(event["seq"], event["kind"]) for event in lines(reply)] == [(1, "up"), (2, "ready")]
    assert [event["seq"] for event in lines(await book.ask("GET", "/v1/events?since=1"))] == [2]
    assert (await book.ask("GET", "/v1/events?since=2")).body == b""


async def test_who_was_too_slow_meets_a_gap(book: Playbook) -> None:
    for number in range(5000):
        book.world.events.add(0.0, "ready", None, str(number))
    first, second, *_ = lines(await book.ask("GET", "/v1/events?since=10"))

    assert (first["kind"], first["text"]) == ("gap", "894 events were dropped")
    assert second["seq"] == first["seq"] + 1 == 905


async def read_line(stream: trio.SocketStream, words: bytes) -> bytes:
    found = b""
    with trio.fail_after(20):
        while words not in found:
            found += await stream.receive_some()
    return found


async def test_events_are_followed_as_they_come(book: Playbook) -> None:
    """Until the reader leaves; its place is free then."""
    async with await book.dial() as stream:
        await stream.send_all(b"GET /v1/events?follow=1 HTTP/1.1\r\nhost: x\r\n\r\n")
        book.world.events.add(0.0, "ready", None, "first")
        await read_line(stream, b"first")
        book.world.events.add(0.0, "ready", None, "second")
        await read_line(stream, b"second")
        assert book.server.in_flight == 1
    with trio.fail_after(20):
        while book.server.in_flight:
            await trio.lowlevel.checkpoint()


async def test_who_has_left_before_the_answer_is_no_error_of_ours(book: Playbook) -> None:
    """A client loses its patience with a supervisor that stood still; that is not to look like a bug."""
    async with await book.dial() as stream:
        await stream.send_all(b"GET /v1/version HTTP/1.1\r\nhost: x\r\n\r\n")
    # One that leaves so early may not even be counted as a request; but it was let in before the next one.
    assert (await book.ask("GET", "/v1/version")).status == 200
    with trio.fail_after(20):
        while book.server.in_flight:
            await trio.lowlevel.checkpoint()

    assert book.world.log == []


async def test_a_log_is_read_and_followed_over_its_rotation(book: Playbook) -> None:
    await up(book)
    log = book.world.paths.log_file("echo/demo")
    log.write_text("one\ntwo\nthree\n")
    reply = await book.ask("GET", "/v1/proxies/echo%2Fdemo/logs?lines=2")
    assert lines(reply) == [{"line": "two"}, {"line": "three"}]
    async with await book.dial() as stream:
        await stream.send_all(
            b"GET /v1/proxies/echo%2Fdemo/logs?lines=1&follow=1 HTTP/1.1\r\nhost: x\r\n\r\n"
        )
        await read_line(stream, b'{"line": "three"}')
        with log.open("a") as file:
            file.write("fo")
            file.flush()
            file.write("ur\n")
        await read_line(stream, b'{"line": "four"}')
        log.rename(log.with_name("old"))
        log.write_text("five\n")
        await read_line(stream, b'{"line": "five"}')


async def test_a_log_that_is_not_there_is_followed_from_its_first_line(book: Playbook) -> None:
    await up(book)
    log = book.world.paths.log_file("echo/demo")
    log.unlink(missing_ok=True)
    async with await book.dial() as stream:
        await stream.send_all(b"GET /v1/proxies/echo%2Fdemo/logs?follow=1 HTTP/1.1\r\nhost: x\r\n\r\n")
        await read_line(stream, b"200 OK")
        log.write_text("one\n")
        await read_line(stream, b'{"line": "one"}')


async def test_there_is_room_for_others_beside_the_followers(
    book: Playbook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One too many is told so."""
    monkeypatch.setattr(control, "MAX_FOLLOWERS", 1)
    async with await book.dial() as stream:
        await stream.send_all(b"GET /v1/events?follow=1 HTTP/1.1\r\nhost: x\r\n\r\n")
        await read_line(stream, b"200")
        reply = await book.ask("GET", "/v1/events?follow=1")
        assert (reply.status, reply.code) == (503, "no_resources")
        assert (await book.ask("GET", "/v1/version")).status == 200
    with trio.fail_after(20):
        while book.server.in_flight:
            await trio.lowlevel.checkpoint()
    async with await book.dial() as stream:
        await stream.send_all(b"GET /v1/events?follow=1 HTTP/1.1\r\nhost: x\r\n\r\n")
        await read_line(stream, b"200")


async def test_metrics(book: Playbook, monkeypatch: pytest.MonkeyPatch) -> None:
    """For Prometheus; a quote in a name does not break a line."""
    book.world.conduct = lambda birth: "silent" if '"' in birth.name else "good"
    await up(book)
    await book.world.commands.up(UpRequest('echo/"x"', port=0, wait=False))
    await book.world.commands.up(UpRequest("echo/idle", port=0, lazy=True))
    monkeypatch.setattr(kernel, "rss", lambda pid: 4096)
    text = (await book.ask("GET", "/v1/metrics")).body.decode()

    assert 'modelproxy_up{proxy="echo/demo"} 1\n' in text
    assert 'modelproxy_up{proxy="echo/\\"x\\""} 0\n' in text
    assert 'modelproxy_up{proxy="echo/idle"} 1\n' in text
    assert 'modelproxy_resident_memory_bytes{proxy="echo/demo"} 4096\n' in text
    assert 'modelproxy_resident_memory_bytes{proxy="echo/idle"}' not in text
    assert 'modelproxy_accept_queue{proxy="echo/demo"} 0\n' in text


async def test_which_variables_are_set_here(book: Playbook, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty one gives no key. What is in them is not told."""
    monkeypatch.setenv("A_KEY", "sk-secret")
    monkeypatch.setenv("B_KEY", "")
    monkeypatch.delenv("C_KEY", raising=False)
    answer = await book.ask("GET", "/v1/variables?names=A_KEY,B_KEY,C_KEY")

    assert json.loads(answer.body) == {"A_KEY": True, "B_KEY": False, "C_KEY": False}
    assert json.loads((await book.ask("GET", "/v1/variables")).body) == {}


async def test_a_lease_lasts_as_long_as_its_connection(book: Playbook) -> None:
    """What came up for it goes with it; `again` finds only what is up."""
    path = "/v1/proxies/echo%2Fdemo/lease"
    body = b'{"model":"echo/demo","port":0}'
    async with await book.dial() as stream:
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        await stream.send_all(head + body)
        line = await read_line(stream, b"}\n")
        assert b'"lease":"' in line
        assert (await book.ask("GET", "/v1/proxies/echo%2Fdemo")).json()["leases"] == 1
    await book.world.until(lambda: book.world.proxy().state == "stopped")

    reply = await book.ask("POST", f"{path}?again=1", {"model": "echo/demo"})
    assert (reply.status, reply.code) == (404, "unknown_proxy")


async def test_a_lease_is_ended_by_its_name(book: Playbook) -> None:
    async with await book.dial() as stream:
        body = b'{"model":"echo/demo","port":0}'
        head = (
            f"POST /v1/proxies/echo%2Fdemo/lease HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        await stream.send_all(head.encode() + body)
        line = await read_line(stream, b"}\n")
        lease = line.partition(b'"lease":"')[2].partition(b'"')[0].decode()
        reply = await book.ask("DELETE", f"/v1/leases/{lease}")

        assert [row["state"] for row in reply.json()] == ["stopped"]
        assert (await book.ask("DELETE", f"/v1/leases/{lease}")).status == 404


async def test_what_a_lease_cannot_have(book: Playbook, monkeypatch: pytest.MonkeyPatch) -> None:
    path = "/v1/proxies/echo%2Fdemo/lease"
    replies = [
        await book.ask("POST", path, {"model": "echo/other"}),
        await book.ask("POST", path, {"model": "echo/demo", "lease": "mine"}),
        await book.ask("PUT", "/v1/proxies/echo%2Fdemo", {"model": "echo/demo", "lease": "mine"}),
        await book.ask("POST", path, {"model": "echo/demo", "replace": True}),
    ]
    assert [reply.code for reply in replies] == ["bad_request"] * 4

    monkeypatch.setattr(control, "MAX_LEASES", 0)
    assert (await book.ask("POST", path, {"model": "echo/demo"})).code == "no_resources"


async def test_a_caller_who_can_be_asked_for_a_key_is(
    book: Playbook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The query says so, and not the body: who knows nothing of it passes it over."""
    monkeypatch.delenv("OPENROUTER_API_KEY", raising=False)
    configure(book.world, '[providers.openrouter]\napi_key = "sk-file"')
    body, path = {"model": "openrouter/a", "port": 0, "lacks": []}, "/v1/proxies/openrouter%2Fa"
    asked = await book.ask("PUT", f"{path}?shell=1", body)
    assert (asked.code, asked.json()["error"]["env"]) == ("missing_api_key", "OPENROUTER_API_KEY")
    told = await book.ask("PUT", f"{path}?shell=1&lacks=A,OPENROUTER_API_KEY", body)

    assert told.status == 200
    await book.ask("DELETE", path)
    assert (await book.ask("PUT", path, body)).status == 200
