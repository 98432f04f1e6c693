"""Serve a tiny answer on the worker's own HTTP server.

`python bench/httpd.py [PORT]`, then `wrk -c64 -t1 URL`.
"""

import socket
import sys

import trio

from modelproxy.worker.httpd import Exchange, Server


async def handler(exchange: Exchange) -> None:
    body = await exchange.read_body()
    await exchange.respond(200, [(b"content-type", b"application/json")], b'{"n":%d}' % len(body))


async def main(port: int) -> None:
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    server = Server(handler, refuse=lambda status, message: ([], message.encode()))
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run, [listener])
        print(f"http://127.0.0.1:{listener.getsockname()[1]}/", flush=True)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 0)
