"""The worker as a whole, in this process, between a supervisor and a provider that the test plays."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
from fakes.serving import Serving
from fakes.upstream import Reply, Upstream

from modelproxy.worker import serve
from modelproxy.worker.contract import (
    Bye,
    Drain,
    FromSupervisor,
    FromWorker,
    Health,
    Hello,
    Lines,
    Ready,
    Welcome,
    WorkerSpec,
    decode_worker,
    encode,
)
from modelproxy.worker.wire import codec

MESSAGE = codec.dumps({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]})
DONE = b'{"message":{"content":"hi"},"done":true,"done_reason":"stop"}\n'


@pytest.fixture
def far() -> Iterator[Upstream]:
    with Upstream() as server:
        server.on("/api/tags", Reply(body=b'{"models":[{"name":"m:latest","digest":"d"}]}'))
        server.on("/api/chat", Reply(body=DONE))
        yield server


class Boss:
    """The supervisor's end of one worker's channel."""

    def __init__(self, listener: trio.SocketListener) -> None:
        self._listener = listener
        self._heard: list[FromWorker] = []

    async def meet(self, welcome: Welcome) -> Hello:
        """Wait for a worker and answer its hello."""
        self._lines = Lines()
        self._heard.clear()
        self.stream = await self._listener.accept()
        hello = await self.hear(Hello)
        assert isinstance(hello, Hello)
        await self.say(welcome)
        return hello

    async def say(self, message: FromSupervisor) -> None:
        await self.stream.send_all(encode(message, FromSupervisor))

    async def hear(self, kind: type[FromWorker]) -> FromWorker:
        """The next message of a kind; others are passed over."""
        with trio.fail_after(10):
            while True:
                while not self._heard:
                    data = await self.stream.receive_some()
                    self._heard += [decode_worker(line) for line in self._lines.feed(data)]
                message = self._heard.pop(0)
                if isinstance(message, kind):
                    return message


@asynccontextmanager
async def working(spec: WorkerSpec, folder: Path) -> AsyncIterator[tuple[Boss, Serving]]:
    """A worker that has said it is ready; it is drained at the end."""
    path = folder / "s"
    own = trio.socket.socket(trio.socket.AF_UNIX)
    await own.bind(str(path))
    own.listen()
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    boss = Boss(trio.SocketListener(own))
    worker = serve.Worker([listener], birth=serve.Birth("demo", 1, "token", str(path), str(folder / "log")))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        await boss.meet(Welcome(attrs.evolve(spec, port=port)))
        await boss.hear(Ready)
        yield boss, Serving(port)
        await boss.say(Drain(0.0))
        await boss.hear(Bye)
        await boss.stream.aclose()
        own.close()


def ollama(far: Upstream) -> WorkerSpec:
    return WorkerSpec("demo", "ollama/m", "ollama", "ollama", "m", 1, base_url=far.url)


async def test_the_supervisor_hears_how_the_provider_is(far: Upstream, tmp_path: Path) -> None:
    """Once somebody has looked, and again when a request contradicts it."""
    async with working(ollama(far), tmp_path) as (boss, here):
        assert far.requests == []
        assert (await here.fetch("GET", "/health"))[0] == 200
        assert await boss.hear(Health) == Health(ok=True)
        far.stop()
        assert (await here.fetch("POST", "/v1/messages", MESSAGE))[0] == 503
        ill = await boss.hear(Health)
        assert isinstance(ill, Health)
        assert not ill.ok
        assert "`ollama serve`" in ill.detail

        far.start()
        assert (await here.fetch("POST", "/v1/messages", MESSAGE))[0] == 200
        assert await boss.hear(Health) == Health(ok=True)


async def test_a_worker_is_ready_while_its_provider_is_down(far: Upstream, tmp_path: Path) -> None:
    """S28, S47b."""
    far.stop()
    async with working(ollama(far), tmp_path) as (boss, here):
        assert (await here.fetch("GET", "/health"))[0] == 503
        ill = await boss.hear(Health)
        assert isinstance(ill, Health)
        assert not ill.ok
        assert (await here.fetch("GET", "/livez"))[0] == 200

        far.start()
        await trio.sleep(0.3)
        assert (await here.fetch("GET", "/health"))[0] == 200


async def test_a_new_supervisor_is_told_anew(far: Upstream, tmp_path: Path) -> None:
    """Its hello does not say how the provider is."""
    far.on("/api/tags", Reply(body=b'{"models":[]}'))
    async with working(ollama(far), tmp_path) as (boss, here):
        await here.fetch("GET", "/health")
        first = await boss.hear(Health)
        await boss.stream.aclose()
        hello = await boss.meet(Welcome())
        assert hello.serving
        assert (
            await boss.hear(Health)
            == first
            == Health(False, "Ollama has no model m; get it with `ollama pull m`")
        )
