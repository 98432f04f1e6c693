"""What it costs to ask a provider: CPU of one request and of one piece of a stream.

`python bench/upstream.py`: the provider is a process of its own, so that only our side is counted.
"""

import multiprocessing
import resource
import socket
import threading
import time

import trio

from modelproxy.worker.contract import WorkerSpec
from modelproxy.worker.provider import provider
from modelproxy.worker.upstream import Upstream
from modelproxy.worker.wire import asks, codec

LINE = (
    codec.dumps({"model": "m", "message": {"role": "assistant", "content": "hello"}, "done": False}) + b"\n"
)
LAST = codec.dumps({"model": "m", "message": {"content": ""}, "done": True, "done_reason": "stop"}) + b"\n"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def serve(listener: socket.socket) -> None:
    """Answers with as many lines as `top_k` of the request says, one each `top_p` seconds."""
    while True:
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=converse, args=(sock,), daemon=True).start()


def converse(sock: socket.socket) -> None:
    file = sock.makefile("rb")
    while line := file.readline():
        length = 0
        while header := file.readline().strip():
            if header.lower().startswith(b"content-length:"):
                length = int(header[15:])
        body = codec.loads(file.read(length) or b"{}")
        if not line.startswith(b"POST /api/chat"):
            sock.sendall(b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n")
            continue
        options = body["options"]
        if not options["top_p"]:
            sock.sendall(HEAD + chunk(LINE) * options["top_k"] + chunk(LAST) + b"0\r\n\r\n")
            continue
        sock.sendall(HEAD)
        for _ in range(options["top_k"]):
            time.sleep(options["top_p"])
            sock.sendall(chunk(LINE))
        sock.sendall(chunk(LAST) + b"0\r\n\r\n")


def asking(lines: int, pause: float) -> asks.Ask:
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}
    return asks.ask(codec.dumps({**body, "top_k": lines, "top_p": pause}))


async def answers(far: Upstream, count: int, ask: asks.Ask) -> None:
    for _ in range(count):
        source = far.answer(ask)
        while await source.receive() is not None:
            pass
        await source.aclose()


async def measure(name: str, far: Upstream, at_once: int, each: int, ask: asks.Ask, per: int) -> None:
    await answers(far, 3, asking(1, 0))
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(answers, far, each, ask)
    after = resource.getrusage(resource.RUSAGE_SELF)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    took = time.perf_counter() - began
    print(f"{name:28} {spent / per * 1e6:8.1f} us CPU each, {per / took:8.0f}/s")


async def main(port: int) -> None:
    spec = WorkerSpec("b", "ollama/m", "ollama", "ollama", "m", 1, base_url=f"http://127.0.0.1:{port}")
    far = provider(spec, lambda prefix: prefix)
    assert isinstance(far, Upstream)
    await measure("request, 1 at a time", far, 1, 2000, asking(1, 0), 2000)
    await measure("request, 64 at a time", far, 64, 60, asking(1, 0), 64 * 60)
    await measure("burst of 200, per line", far, 1, 100, asking(200, 0), 100 * 200)
    await measure("64 paced streams, per line", far, 64, 1, asking(150, 0.02), 64 * 150)


if __name__ == "__main__":
    listening = socket.create_server(("127.0.0.1", 0), backlog=256)
    child = multiprocessing.get_context("fork").Process(target=serve, args=(listening,), daemon=True)
    child.start()
    trio.run(main, listening.getsockname()[1])
    child.terminate()
