"""What a proxy without a worker says."""

from __future__ import annotations

import json

import attrs
import pytest
import trio
import trio.testing
from fakes.story import SPEC, Story

from modelproxy.supervisor import fleet, sockets, stand_in
from modelproxy.supervisor.facts import Proxy
from modelproxy.worker.contract import EXIT_CONFIG


def failed() -> Proxy:
    story = Story()
    story.up()
    story.die(1, "exit 78", EXIT_CONFIG)
    return story.proxy


def down() -> tuple[Proxy, float]:
    """Five deaths, the next start in four seconds."""
    story = Story().serve()
    for generation in range(1, 5):
        story.die(generation)
        story.wait(10.0)
        story.born(generation + 1)
        story.ready(generation + 1)
    story.die(5)
    story.wait(0.5)
    return story.proxy, story.now


def said(answer: stand_in.Answer) -> tuple[dict[bytes, bytes], str]:
    headers, body = answer
    document = json.loads(body)
    assert document["type"] == "error"
    assert document["error"]["type"] == "api_error"
    assert {"param": None, "code": None}.items() <= document["error"].items()  # OpenAI's clients look there
    assert document["request_id"].encode() == dict(headers)[b"request-id"] == dict(headers)[b"x-request-id"]
    message: str = document["error"]["message"]
    return dict(headers), message


def test_a_failed_proxy_says_why_and_not_to_try_again() -> None:
    headers, message = said(stand_in.answer(failed(), 0.0))

    assert message == (
        "modelproxy: echo/demo has failed: exit 78: the configuration cannot work; "
        "fix it, then proxyctl up echo/demo. See proxyctl why echo/demo and proxyctl logs echo/demo"
    )
    assert headers[b"x-should-retry"] == b"false"
    assert b"retry-after" not in headers


def test_one_in_backoff_says_when_to_try_again() -> None:
    """In whole seconds, rounded up."""
    proxy, now = down()
    headers, message = said(stand_in.answer(proxy, now))

    assert message == (
        "modelproxy: echo/demo is down: SIGKILL (5 exits); it starts again in 4 s. "
        "See proxyctl why echo/demo and proxyctl logs echo/demo"
    )
    assert (headers[b"x-should-retry"], headers[b"retry-after"]) == (b"true", b"4")


def test_a_reason_that_names_its_command_is_not_given_another() -> None:
    story = Story(Proxy(SPEC.name, SPEC, wanted=True, key_lost=True))
    story(fleet.Begin())
    _, message = said(stand_in.answer(story.proxy, 0.0))

    assert "repeat proxyctl up echo/demo --api-key …. See" in message


def test_what_could_not_even_start_is_no_exit() -> None:
    story = Story()
    story.up()
    for generation in (1, 2):
        story(fleet.SpawnFailed(generation, "Port 3457 is already in use by node (pid 7)"))
        story.wait(1.0)
    _, message = said(stand_in.answer(story.proxy, story.now))

    assert "echo/demo is down: Port 3457 is already in use by node (pid 7); it starts again in" in message


@pytest.mark.parametrize(("path", "healthy"), [("/health", False), ("/v1/messages", None), ("/", None)])
def test_health_is_answered_in_its_own_shape_as_well(path: str, healthy: bool | None) -> None:
    _, body = stand_in.answer(failed(), 0.0, path)
    document = json.loads(body)

    assert document["type"] == "error"
    assert document.get("healthy") is healthy
    if healthy is not None:
        assert (document["status"], document["model_id"], document["port"]) == ("failed", "echo/demo", 3457)


def test_it_never_asks_to_come_back_at_once() -> None:
    proxy, now = down()
    headers, _ = said(stand_in.answer(attrs.evolve(proxy, retry_at=now - 5.0), now))

    assert headers[b"retry-after"] == b"1"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_every_request_gets_it(host: str, nursery: trio.Nursery) -> None:
    """Until it is relieved; the socket itself lives on for the worker to come."""
    listeners = sockets.bind_loopback(0)
    port = listeners[0].getsockname()[1]
    log: list[str] = []
    proxy = failed()
    copies = [one.dup() for one in listeners]
    relieved = trio.Event()
    nursery.start_soon(
        stand_in.serve, copies, lambda path: stand_in.answer(proxy, 0.0, path), log.append, relieved
    )
    found = []
    for request in (
        b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}",
        b"garbage\r\n\r\n",
    ):
        async with await trio.open_tcp_stream(host, port) as stream:
            await stream.send_all(request)
            with trio.fail_after(20):
                found.append(await stream.receive_some())
    relieved.set()
    with trio.fail_after(20):
        while nursery.child_tasks:
            await trio.testing.wait_all_tasks_blocked()

    assert found[0].startswith(b"HTTP/1.1 503 ")
    assert b"x-should-retry: false" in found[0]
    assert found[1].startswith(b"HTTP/1.1 400 ")
    assert log == []
    assert {one.fileno() for one in copies} == {-1}
    for one in listeners:
        assert one.fileno() != -1
        one.close()


async def test_who_was_let_in_is_answered_also_after_it_is_relieved(nursery: trio.Nursery) -> None:
    """A cut would look like a worker that has died. Found by chaos (seed 4)."""
    listeners = sockets.bind_loopback(0)
    proxy, relieved = failed(), trio.Event()
    copies = [one.dup() for one in listeners]
    nursery.start_soon(
        stand_in.serve, copies, lambda path: stand_in.answer(proxy, 0.0, path), lambda text: None, relieved
    )
    async with await trio.open_tcp_stream("127.0.0.1", listeners[0].getsockname()[1]) as stream:
        await stream.send_all(b"POST /v1/messages HTTP/1.1\r\nhost: x\r\n")
        await trio.testing.wait_all_tasks_blocked()
        relieved.set()
        await trio.testing.wait_all_tasks_blocked()
        await stream.send_all(b"content-length: 2\r\n\r\n{}")
        with trio.fail_after(20):
            said = await stream.receive_some()

    assert said.startswith(b"HTTP/1.1 503 ")
    for one in listeners:
        one.close()
