"""A provider that does as it is told: a real HTTP server on a loopback port, in threads of its own.

In a test:

    with Upstream() as far:
        far.on("/api/chat", Reply(body=b'{"done":true}\n'), Reply(status=500, hang=True))
        ...
        assert far.requests[0].json()["model"] == "x"

The last reply of a path is repeated; a path without replies is answered 404. As a process:
`python tests/fakes/upstream.py --port 11434 --body '{"done":true}' --cut-after 5` answers every path alike and
prints one line of JSON per request.

It keeps to blocking sockets and threads, so that it shares no code with what it tests.
"""

from __future__ import annotations

import argparse
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import attrs

from .house import listener

_RST = b"\x01\0\0\0\0\0\0\0"


@attrs.frozen
class Seen:
    """One request as it arrived."""

    method: str
    target: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes
    connection: int
    """Connections are counted from 1."""

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def json(self) -> Any:
        return json.loads(self.body)


@attrs.frozen
class Reply:
    """What is answered, and how badly."""

    status: int = 200
    body: bytes | tuple[bytes, ...] = b""
    """Several pieces are several chunks."""
    headers: tuple[tuple[str, str], ...] = (("content-type", "application/json"),)
    framing: str = "length"
    """`length`, `chunked`, or `close`: the body ends with the connection."""
    before: bytes = b""
    """Raw bytes ahead of the answer, an interim one say."""
    raw: bytes | None = None
    """Sent in place of an answer."""
    delay: float = 0.0
    """Seconds before the head."""
    pause: float = 0.0
    """Seconds between pieces of the body."""
    gate: threading.Semaphore | None = None
    """Every piece of the body but the first waits for one release of it."""
    hang: bool = False
    """The head never comes."""
    hang_after: int | None = None
    """So many bytes of the body come (sizes of chunks included), then nothing more."""
    cut_after: int | None = None
    """So many bytes of the body come, then the connection ends."""
    reset: bool = False
    """Every end of the connection is a hard one."""
    drip: int | None = None
    """Bytes per write."""
    drip_pause: float = 0.0
    close: bool = False
    """The connection ends behind the answer, and says so."""
    hasty: bool = False
    """Answered without having read the request's body."""


Script = Callable[[Seen], Reply]


class Upstream:
    """Listens from `with` on; can be stopped and started again on the same port."""

    def __init__(
        self,
        script: Script | None = None,
        *,
        port: int = 0,
        tls: Certificate | None = None,
        requests_per_connection: int | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.host = host
        self.port = port
        self.requests: list[Seen] = []
        self.connections = 0
        self.closed: list[int] = []
        """Connections that the client has closed, in this order."""
        self._script = script
        self._replies: dict[str, list[Reply]] = {}
        self._tls = tls.server() if tls else None
        self._most = requests_per_connection
        self._changed = threading.Condition()
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The base URL."""
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}"

    def on(self, path: str, *replies: Reply) -> Upstream:
        """From now on answer `path` so; the last reply is repeated. `*` stands for every other path."""
        with self._changed:
            self._replies[path] = list(replies)
        return self

    # --- what was seen ---

    def to(self, path: str) -> list[Seen]:
        """The requests to one path."""
        return [seen for seen in self.requests if seen.path == path]

    def wait_for_requests(self, count: int, limit: float = 5.0, *, path: str | None = None) -> None:
        """Return when so many have come, to one path if there is one."""
        self._wait(lambda: len(self.requests if path is None else self.to(path)) >= count, limit)

    def wait_for_close(self, connection: int = 1, limit: float = 5.0) -> None:
        """Return when the client has closed that connection."""
        self._wait(lambda: connection in self.closed, limit)

    def _wait(self, fact: Callable[[], bool], limit: float) -> None:
        with self._changed:
            if not self._changed.wait_for(fact, limit):
                raise AssertionError(f"not within {limit} s: {self.requests}, closed {self.closed}")

    # --- life ---

    @property
    def is_stopped(self) -> bool:
        return self._listener is None

    def start(self) -> None:
        """Listen."""
        self._stopping.clear()
        self._listener = listener(self.host, self.port)
        self.port = self._listener.getsockname()[1]
        self._spawn(self._accept, self._listener)

    def stop(self) -> None:
        """End every connection and listen no more."""
        self._stopping.set()
        listener, self._listener = self._listener, None
        if listener is not None:
            # Closing alone would not wake the thread that accepts.
            with_nobody(lambda: listener.shutdown(socket.SHUT_RDWR))
            listener.close()
        with self._changed:
            still_open = list(self._open)
        for sock in still_open:
            with_nobody(lambda sock=sock: sock.shutdown(socket.SHUT_RDWR))  # type: ignore[misc]  # bound early
        for thread in self._threads:
            thread.join(5)
        self._threads.clear()

    def _spawn(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads = [one for one in self._threads if one.is_alive()] + [thread]
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with self._changed:
                self.connections += 1
                number = self.connections
            self._spawn(self._serve, sock, number)

    def _serve(self, sock: socket.socket, number: int) -> None:
        try:
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
            with self._changed:
                self._open.add(sock)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _Conversation(self, sock, number).run()
        except OSError:
            self._gone(number)
        finally:
            with self._changed:
                self._open.discard(sock)
            sock.close()

    def _gone(self, number: int) -> None:
        with self._changed:
            if number not in self.closed and not self._stopping.is_set():
                self.closed.append(number)
            self._changed.notify_all()

    def _note(self, seen: Seen) -> Reply:
        with self._changed:
            self.requests.append(seen)
            replies = self._replies.get(seen.path) or self._replies.get("*")
            self._changed.notify_all()
            if replies:
                return replies.pop(0) if len(replies) > 1 else replies[0]
        if self._script is not None:
            return self._script(seen)
        return Reply(404, b'{"error":"no reply for this path"}')


def with_nobody(act: Callable[[], None]) -> None:
    """Do it, though the peer may be gone."""
    try:
        act()
    except OSError:
        pass


class _Conversation:
    """One connection, one request after the other."""

    def __init__(self, far: Upstream, sock: socket.socket, number: int) -> None:
        self._far = far
        self._sock = sock
        self._number = number
        self._file = sock.makefile("rb")

    def run(self) -> None:
        served = 0
        try:
            while (head := self._head()) is not None:
                served += 1
                if not self._answer(*head, last=served == self._far._most):
                    return
            self._far._gone(self._number)
        finally:
            self._file.close()

    def _head(self) -> tuple[str, str, dict[str, str]] | None:
        first = self._file.readline().decode("latin-1").split()
        # A TLS hello is random bytes, and three words of them are no request.
        if len(first) != 3 or not first[2].startswith("HTTP/"):
            return None
        headers = {}
        while (line := self._file.readline().decode("latin-1").strip()) != "":
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        return first[0], first[1], headers

    def _answer(self, method: str, target: str, headers: dict[str, str], *, last: bool) -> bool:
        length = int(headers.get("content-length", "0"))
        peek = self._far._replies.get(target, [])
        hasty = bool(peek) and peek[0].hasty
        body = b"" if hasty else self._file.read(length)
        if not hasty and len(body) < length:
            self._far._gone(self._number)
            return False
        reply = self._far._note(Seen(method, target, headers, body, self._number))
        return self._play(reply, mute=method == "HEAD", last=last or reply.close)

    def _play(self, reply: Reply, *, mute: bool, last: bool) -> bool:
        if reply.hang or not self._sleep(reply.delay):
            return self._hang()
        if reply.raw is not None:
            self._send(reply.before + reply.raw, reply)
            return self._cut(reply)
        self._send(reply.before + _head(reply, last=last), reply)
        if not mute and not self._body(reply):
            return False
        if reply.reset:
            return self._cut(reply)
        return not (last or reply.framing == "close" or reply.hasty)

    def _body(self, reply: Reply) -> bool:
        """False when the connection is not to be used any more."""
        pieces = (reply.body,) if isinstance(reply.body, bytes) else reply.body
        left = reply.hang_after if reply.cut_after is None else reply.cut_after
        for number, part in enumerate(_framed(pieces, reply.framing)):
            if number and not (self._sleep(reply.pause) and self._passes(reply.gate)):
                return False
            self._send(part[:left], reply)
            if left is not None:
                left = max(0, left - len(part))
            if left == 0:
                return self._hang() if reply.cut_after is None else self._cut(reply)
        return True

    def _send(self, part: bytes, reply: Reply) -> None:
        step = reply.drip or len(part) or 1
        for start in range(0, len(part), step):
            self._sock.sendall(part[start : start + step])
            if reply.drip_pause:
                self._sleep(reply.drip_pause)

    def _cut(self, reply: Reply) -> bool:
        if reply.reset:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
        return False

    def _sleep(self, seconds: float) -> bool:
        """False when the client leaves meanwhile, or the server is to stop."""
        if not seconds:
            return True
        return not self._until_gone(seconds)

    def _passes(self, gate: threading.Semaphore | None) -> bool:
        """False when the server is to stop meanwhile."""
        while gate is not None and not gate.acquire(timeout=0.1):
            if self._far._stopping.is_set():
                return False
        return True

    def _hang(self) -> bool:
        self._until_gone(None)
        return False

    def _until_gone(self, seconds: float | None) -> bool:
        self._sock.settimeout(seconds)
        try:
            gone = self._sock.recv(1) == b""
        except TimeoutError:
            gone = False
        except OSError:
            gone = True
        self._sock.settimeout(None)
        if gone:
            self._far._gone(self._number)
        return gone


def _head(reply: Reply, *, last: bool) -> bytes:
    lines = [f"HTTP/1.1 {reply.status} Something", *(f"{name}: {value}" for name, value in reply.headers)]
    if reply.framing == "chunked":
        lines.append("transfer-encoding: chunked")
    elif reply.framing == "length" and reply.status not in (204, 304):
        pieces = (reply.body,) if isinstance(reply.body, bytes) else reply.body
        lines.append(f"content-length: {sum(map(len, pieces))}")
    if last:
        lines.append("connection: close")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _framed(pieces: tuple[bytes, ...], framing: str) -> list[bytes]:
    if framing != "chunked":
        return [piece for piece in pieces if piece]
    return [*(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece), b"0\r\n\r\n"]


# --- TLS ------------------------------------------------------------------------------------------


@attrs.frozen
class Certificate:
    """A certificate for this machine that nobody trusts unless told to."""

    path: Path
    key: Path

    @classmethod
    def make(cls, folder: Path, name: str = "localhost") -> Certificate:
        """For a name, 127.0.0.1 and a day, signed by itself."""
        made = cls(folder / "certificate.pem", folder / "key.pem")
        names = f"subjectAltName=DNS:{name},IP:127.0.0.1"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
                *("-nodes", "-days", "1", "-subj", f"/CN={name}", "-addext", names),
                *("-keyout", str(made.key), "-out", str(made.path)),
            ],
            check=True,
            capture_output=True,
        )
        return made

    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path, self.key)
        return context

    def client(self) -> ssl.SSLContext:
        """Trusts this certificate and no other."""
        return ssl.create_default_context(cafile=str(self.path))


# --- as a process ---------------------------------------------------------------------------------


def main(arguments: list[str]) -> None:
    """Answer every path alike until stdin ends."""
    parser = argparse.ArgumentParser(description="A provider that does as it is told.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--status", type=int, default=200)
    parser.add_argument("--body", default="")
    parser.add_argument("--framing", choices=("length", "chunked", "close"), default="length")
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--cut-after", type=int)
    parser.add_argument("--hang", action="store_true")
    parser.add_argument("--hang-after", type=int)
    parser.add_argument("--drip", type=int)
    parser.add_argument("--drip-pause", type=float, default=0.0)
    parser.add_argument("--garble", action="store_true")
    chosen = parser.parse_args(arguments)
    reply = Reply(
        status=chosen.status,
        body=chosen.body.encode(),
        framing=chosen.framing,
        delay=chosen.delay,
        cut_after=chosen.cut_after,
        hang=chosen.hang,
        hang_after=chosen.hang_after,
        drip=chosen.drip,
        drip_pause=chosen.drip_pause,
        raw=b"\x00\xffnothing that anybody understands\r\n\r\n" if chosen.garble else None,
    )

    def script(seen: Seen) -> Reply:
        document = attrs.asdict(seen) | {"body": seen.body.decode("utf-8", "replace"), "at": time.monotonic()}
        print(json.dumps(document), flush=True)  # noqa: T201  # what a script reads
        return reply

    with Upstream(script, port=chosen.port) as far:
        print(json.dumps({"url": far.url}), flush=True)  # noqa: T201  # the same
        sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1:])
