"""HTTP/1.1 over the supervisor's Unix socket, with nothing but a socket.

`http.client` would cost more than the rest of `proxyctl ps` together (it imports ssl and email). What is
left out needs no replacement: one request per connection, one server, which is ours.

Three ways in which a supervisor does not answer are kept apart, because the user must do different things:
nobody listens (`daemon_not_running`), somebody listens and is stuck (`daemon_timeout`), and somebody left in
the middle (`daemon_gone`). A supervisor that replaces itself is away for a moment; who asks is kept waiting
for it.
"""

from __future__ import annotations

import errno
import json
import time
from _socket import (
    AF_UNIX,
    SHUT_RDWR,
    SOCK_STREAM,
    socket,
)  # what the module socket wraps, without its 2 ms of enums

from .faults import Fault
from .processes import daemon_pid, is_alive

TYPE_CHECKING = False  # see faults
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from modelproxy.supervisor.paths import Paths

ANSWER_S = 5.0
"""A supervisor that says nothing for so long is stuck: it only ever makes small answers."""
RESTART_S = 1.0
"""How long a supervisor that replaces itself may be away."""
MAX_HEAD = 64 * 1024

_SAFE = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~")
# EAGAIN: the socket's queue is full (Unix sockets do not wait in connect when they have a timeout).
_AWAY = frozenset({errno.ENOENT, errno.ECONNREFUSED, errno.EAGAIN})
_LEFT = (ConnectionResetError, BrokenPipeError)


def quote(text: str) -> str:
    """Percent-encode a path's segment. (urllib.parse costs 8 ms to import.)"""
    return "".join(chr(byte) if byte in _SAFE else f"%{byte:02X}" for byte in text.encode())


class Client:
    """Asks the supervisor whose files lie at `paths`."""

    def __init__(self, paths: Paths, answer_s: float = ANSWER_S) -> None:
        self._paths = paths
        self._answer_s = answer_s

    def get(self, path: str) -> Any:
        """Ask for something that the supervisor knows at once."""
        return self._parsed(self._exchange("GET", path, None))

    def ask(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        limit_s: float | None = None,
        waiting: Callable[[float], None] | None = None,
    ) -> Any:
        """Ask for something that takes its time.

        There is no one limit that would fit: a drain may last an hour. So while the answer is awaited the
        supervisor is asked once per second whether it is still there, and `waiting` is called.
        """
        tick = _Patience(self, limit_s, waiting)
        return self._parsed(self._exchange(method, path, body, tick))

    def stream(self, path: str) -> Iterator[dict[str, Any]]:
        """The objects of an NDJSON answer as they come; ends when the supervisor ends it or goes."""
        connection = self._connect(time.monotonic() + self._answer_s)
        try:
            answer = self._send(connection, "GET", path, None, None)
            if answer.status >= 400:
                self._parsed(answer)
            connection.settimeout(None)
            yield from _objects(answer)
        except (_Gone, *_LEFT):
            return
        finally:
            connection.close()

    def hold(self, path: str, body: dict[str, Any], *, limit_s: float) -> Held:
        """POST what is answered by one object, and by silence for as long as the connection is open."""
        tick = _Patience(self, limit_s, None)
        try:
            return self._hold_once(path, body, tick)
        except _Gone:
            try:
                return self._hold_once(path, body, tick)
            except _Gone:
                raise _went() from None

    def _hold_once(self, path: str, body: dict[str, Any], tick: _Patience) -> Held:
        connection = self._connect(time.monotonic() + self._answer_s)
        try:
            answer = self._send(connection, "POST", path, body, tick)
            if answer.status >= 400:
                self._parsed(answer)
            first = next(_objects(answer), None)
            if first is None:
                raise _Gone
        except _LEFT:
            connection.close()
            raise _Gone from None
        except BaseException:
            connection.close()
            raise
        return Held(first, connection)

    def _exchange(
        self, method: str, path: str, body: dict[str, Any] | None, tick: _Patience | None = None
    ) -> _Answer:
        """One request and its whole answer; once more if the supervisor replaced itself meanwhile.

        Every request of ours may be repeated: up, down and stop are wishes, not steps, and a second
        roll harms nobody.
        """
        try:
            return self._exchange_once(method, path, body, tick)
        except _Gone:
            try:
                return self._exchange_once(method, path, body, tick)
            except _Gone:
                raise _went() from None

    def _exchange_once(
        self, method: str, path: str, body: dict[str, Any] | None, tick: _Patience | None
    ) -> _Answer:
        connection = self._connect(time.monotonic() + self._answer_s)
        try:
            answer = self._send(connection, method, path, body, tick)
            answer.read_all()
        except _LEFT:
            raise _Gone from None
        finally:
            connection.close()
        return answer

    def _connect(self, deadline: float) -> socket:
        patience = time.monotonic() + RESTART_S
        while True:
            try:
                return self._connect_once()
            except OSError as error:
                if error.errno not in _AWAY:
                    raise self._unreachable(error) from None
                full = error.errno == errno.EAGAIN
            now = time.monotonic()
            if full and now > deadline:
                raise self.stuck()
            # The socket outlives a supervisor that is killed; the pid in the lock file tells the two apart.
            if not full and (now > patience or not is_alive(daemon_pid(self._paths))):
                raise not_running()
            time.sleep(0.01)

    def _connect_once(self) -> socket:
        from modelproxy.supervisor.paths import SocketAddress

        connection = socket(AF_UNIX, SOCK_STREAM)
        try:
            connection.settimeout(self._answer_s)
            with SocketAddress(self._paths.control_socket) as address:
                connection.connect(address)
        except BaseException:
            connection.close()
            raise
        return connection

    def _send(
        self,
        connection: socket,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        tick: _Patience | None,
    ) -> _Answer:
        content = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: modelproxy\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
        )
        try:
            connection.sendall(head.encode() + content)
        except TimeoutError:
            raise self.stuck() from None
        answer = _Answer(_Reader(connection, tick or self._give_up))
        answer.read_head()
        return answer

    def _give_up(self, _: socket) -> None:
        raise self.stuck()

    def _parsed(self, answer: _Answer) -> Any:
        try:
            document = json.loads(answer.read_all() or b"null")
        except ValueError:
            raise _strange("its answer is not JSON") from None
        if answer.status < 400:
            return document
        error = document.get("error") if isinstance(document, dict) else None
        if not isinstance(error, dict):
            raise _strange(f"it answered with status {answer.status} and no reason")
        words = {key: str(error.get(key) or "") for key in ("code", "message", "hint", "env", "provider")}
        raise Fault(**words)

    def stuck(self) -> Fault:
        pid = daemon_pid(self._paths)
        who = f" (pid {pid})" if pid else ""
        hint = f"workers serve on; kill -9 {pid} and proxyctl daemon start replaces it" if pid else ""
        return Fault("daemon_timeout", f"the supervisor{who} does not answer", hint)

    def _unreachable(self, error: OSError) -> Fault:
        if isinstance(error, TimeoutError):
            return self.stuck()
        text = f"cannot reach the supervisor at {self._paths.control_socket}: {error.strerror or error}"
        return Fault("daemon_not_running", text)


class Held:
    """An answer that goes on for as long as the connection does."""

    def __init__(self, document: dict[str, Any], connection: socket) -> None:
        self.document = document
        self._connection = connection
        connection.settimeout(None)

    def wait(self) -> None:
        """Until the supervisor is gone."""
        try:
            while self._connection.recv(4096):
                pass
        except OSError:
            pass

    def close(self) -> None:
        try:
            self._connection.shutdown(SHUT_RDWR)  # or a thread that waits in `recv` would keep it open
        except OSError:
            pass
        self._connection.close()


class _Gone(Exception):
    """The supervisor left before its answer was whole."""


class _Patience:
    """Decides, each time a second passed without a byte, whether to wait on."""

    def __init__(
        self, client: Client, limit_s: float | None, waiting: Callable[[float], None] | None
    ) -> None:
        self._client = client
        self._waiting = waiting
        self._begun = time.monotonic()
        self._limit = None if limit_s is None else self._begun + limit_s + ANSWER_S

    def __call__(self, connection: socket) -> None:
        now = time.monotonic()
        if self._limit is not None and now > self._limit:
            raise self._client.stuck()
        self._client.get("/v1/version")
        if self._waiting is not None:
            self._waiting(now - self._begun)


class _Reader:
    """The connection's bytes, by line or by number."""

    def __init__(self, connection: socket, on_silence: Callable[[socket], None]) -> None:
        self._connection = connection
        self._on_silence = on_silence
        self._buffer = bytearray()
        if isinstance(on_silence, _Patience):
            connection.settimeout(1.0)

    def more(self) -> bool:
        """Read what there is; False at the end."""
        while True:
            try:
                data = self._connection.recv(65536)
            except TimeoutError:
                self._on_silence(self._connection)
                continue
            self._buffer += data
            return bool(data)

    def line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > MAX_HEAD:
                raise _strange("its answer has no end")
            if not self.more():
                raise _Gone
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def some(self, at_most: int) -> bytes:
        """At least one byte; none only at the end."""
        if not self._buffer:
            self.more()
        data = bytes(self._buffer[:at_most])
        del self._buffer[:at_most]
        return data


class _Answer:
    """Status and body, however the body's end is told."""

    def __init__(self, reader: _Reader) -> None:
        self._reader = reader
        self._body = b""
        self._length: int | None = None
        self._chunked = False
        self._done = False
        self.status = 0

    def read_head(self) -> None:
        words = self._reader.line().split(b" ", 2)
        if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
            raise _strange("its answer is not HTTP")
        self.status = int(words[1])
        while line := self._reader.line():
            name, _, value = line.partition(b":")
            self._header(name.lower(), value.strip().lower())

    def _header(self, name: bytes, value: bytes) -> None:
        if name == b"content-length" and value.isdigit():
            self._length = int(value)
        elif name == b"transfer-encoding" and value == b"chunked":
            self._chunked = True

    def read_all(self) -> bytes:
        if not self._done:
            self._body = b"".join(self.pieces())
            self._done = True
        return self._body

    def pieces(self) -> Iterator[bytes]:
        """The body as it comes."""
        if self._chunked:
            return self._chunks()
        return self._until_end() if self._length is None else self._exactly(self._length)

    def _chunks(self) -> Iterator[bytes]:
        while size := self._chunk_size():
            yield from self._exactly(size)
            self._reader.line()
        while self._reader.line():
            pass

    def _chunk_size(self) -> int:
        try:
            return int(self._reader.line().partition(b";")[0], 16)
        except ValueError:
            raise _strange("its answer is garbled") from None

    def _exactly(self, length: int) -> Iterator[bytes]:
        while length:
            data = self._reader.some(length)
            if not data:
                raise _Gone
            length -= len(data)
            yield data

    def _until_end(self) -> Iterator[bytes]:
        while data := self._reader.some(65536):
            yield data


def _objects(answer: _Answer) -> Iterator[dict[str, Any]]:
    """Whole lines only: a half one means that the supervisor went while it wrote."""
    rest = b""
    try:
        for piece in answer.pieces():
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                document = _line(line)
                if document is not None:
                    yield document
    except _Gone:
        return


def _line(line: bytes) -> dict[str, Any] | None:
    if not line.strip():
        return None
    try:
        document = json.loads(line)
    except ValueError:
        raise _strange("a line of its answer is not JSON") from None
    return document if isinstance(document, dict) else None


def supervisor_of(paths: Paths) -> dict[str, Any] | None:
    """What the running supervisor says of itself; None when none runs."""
    try:
        return dict(Client(paths).get("/v1/version"))
    except Fault as fault:
        if fault.code not in ("daemon_not_running", "daemon_gone"):
            raise
        return None


def _went() -> Fault:
    return Fault(
        "daemon_gone",
        "the supervisor went away while it was asked",
        "proxyctl daemon status tells whether it is back",
    )


def not_running() -> Fault:
    return Fault("daemon_not_running", "the supervisor is not running", "proxyctl daemon start")


def _strange(what: str) -> Fault:
    return Fault(
        "bad_answer",
        f"the supervisor answered strangely: {what}",
        "proxyctl and the supervisor may be of different versions: proxyctl daemon restart",
    )
