"""HTTP/1.1 as bytes: one request's head and chunked body in, one answer's head out.

Theory of operation
-------------------
llhttp (httptools) reads on into the next request when it is given more than one, so it gets exactly one
complete head and never a body. The head's end is an empty line, which needs no parser to find; a body of
known length needs none either; the chunked coding is decoded here, because its end must be known to the byte.
A head is parsed whole, so that no cut of the bytes can change the result.

llhttp is lenient where a proxy must not be (HTTP/0.9, missing or repeated Host, blanks in the request line);
the rest of the strictness is in `parse_head`. Anything a proxy and the server behind it could understand
differently is refused. This module is pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus

import attrs
import httptools

Headers = Sequence[tuple[bytes, bytes]]

_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) ([!-~]+) HTTP/([0-9])\.([0-9])\r\n")
_START_OF_REQUEST = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}(?: |\Z)")
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*)?")
_ORIGIN = re.compile(r"https?://[^/?#]*", re.IGNORECASE)

_MAX_CHUNK_LINE = 4 * 1024
_MAX_TRAILERS = 16 * 1024


class Refused(Exception):
    """The request breaks the protocol; the server answers `status` and closes."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class BodyTooLarge(Exception):
    """The body is longer than `limit`.

    `declared` is the Content-Length, or None when the client gave none; `received` is what came until it was
    clear, with the chunk that was announced last.
    """

    def __init__(self, *, declared: int | None, received: int, limit: int) -> None:
        super().__init__(f"request body of {declared or received} bytes, the limit is {limit}")
        self.declared = declared
        self.received = received
        self.limit = limit


class BodyIncomplete(Exception):
    """The client left or fell silent in the middle of its body."""


class BodyMalformed(BodyIncomplete):
    """The chunked coding of the body is broken, so its end cannot be known."""


@attrs.frozen
class Request:
    """One head as the client sent it."""

    method: str
    target: str
    path: str
    """The target up to "?", percent-encoding untouched, without the origin that a proxy's client sends."""
    query: str
    headers: tuple[tuple[bytes, bytes], ...]
    """Names in lower case; order and repetitions as sent."""

    def header(self, name: bytes) -> bytes | None:
        """First value of `name` (lower case)."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    def header_all(self, name: bytes) -> list[bytes]:
        """Every value of `name` (lower case)."""
        return [value for key, value in self.headers if key == name]


@attrs.frozen
class Head:
    """A request with what its connection must know about it."""

    request: Request
    http_1_0: bool
    keep_alive: bool
    length: int | None
    """Of the body; None when it is chunked."""
    expects_continue: bool


class _Fields:
    """What llhttp reports of a head."""

    __slots__ = ("complete", "headers")

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self.complete = True


def head_end(buffer: bytearray, searched: int) -> int:
    """Index after the empty line that ends a head, or -1. `searched` bytes were looked at before."""
    at = buffer.find(b"\r\n\r\n", max(0, searched - 3))
    return at if at < 0 else at + 4


def check_unfinished(buffer: bytearray) -> None:
    """Refuse early what no further byte can mend, such as a TLS greeting or bare line feeds."""
    line = buffer.find(b"\n")
    if line > 0 and buffer[line - 1] != 0x0D:
        raise Refused(400, "line ends without carriage return")
    if buffer and buffer != b"\r" and _START_OF_REQUEST.match(buffer) is None:
        raise Refused(400, "not an HTTP request")


def parse_head(raw: bytes) -> Head:
    """Parse one complete head, empty line included, or raise `Refused`."""
    line = _REQUEST_LINE.match(raw)
    if line is None:
        raise Refused(400, "malformed request line")
    method, target = line[1].decode("ascii"), line[2].decode("ascii")
    if line[3] != b"1" or line[4] not in (b"0", b"1"):
        raise Refused(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
    headers = _parse_fields(raw)
    if method == "CONNECT":
        raise Refused(501, "CONNECT is not supported")
    origin = _ORIGIN.match(target)
    path, _, query = (target[origin.end() :] if origin else target).partition("?")
    request = Request(method, target, path or "/", query, tuple(headers))
    return _frame(request, http_1_0=line[4] == b"0")


def _parse_fields(raw: bytes) -> list[tuple[bytes, bytes]]:
    fields = _Fields()
    try:
        httptools.HttpRequestParser(fields).feed_data(raw)
    except httptools.HttpParserUpgrade:
        # The offer of another protocol is declined by answering in this one (RFC 9110, 7.8).
        pass
    except httptools.HttpParserInvalidMethodError:
        raise Refused(501, "unknown method") from None
    except httptools.HttpParserError:
        # llhttp finds a transfer coding it does not know only after the head; `_frame` has the better answer.
        if not fields.complete:
            raise Refused(400, "malformed request head") from None
    if not fields.complete:
        raise Refused(400, "malformed request head")
    return fields.headers


def _frame(request: Request, *, http_1_0: bool) -> Head:
    """Decide where the body ends and whether another request may follow."""
    hosts = lengths = transfer_encodings = 0
    length: int | None = 0
    codings: list[bytes] = []
    connection: list[bytes] = []
    expects_continue = False
    for name, value in request.headers:
        if name == b"host":
            hosts += 1
        elif name == b"content-length":
            lengths += 1
            length = _content_length(value)
        elif name == b"transfer-encoding":
            transfer_encodings += 1
            codings += _tokens(value)
        elif name == b"connection":
            connection += _tokens(value)
        elif name == b"expect" and not http_1_0:  # an HTTP/1.0 client cannot mean it (RFC 9110, 10.1.1)
            if value.lower() != b"100-continue":
                raise Refused(417, "the only expectation met is 100-continue")
            expects_continue = True
    if hosts > 1 or (hosts == 0 and not http_1_0):
        raise Refused(400, "exactly one Host header is required")
    if lengths > 1 or (lengths and transfer_encodings):
        raise Refused(400, "ambiguous body length")
    if transfer_encodings:
        _check_codings(codings, http_1_0=http_1_0)
        length = None
    keep_alive = b"close" not in connection and (not http_1_0 or b"keep-alive" in connection)
    return Head(request, http_1_0, keep_alive, length, expects_continue and length != 0)


def _tokens(value: bytes) -> list[bytes]:
    return [token for part in value.split(b",") if (token := part.strip(b" \t").lower())]


def _content_length(value: bytes) -> int:
    if not value.isdigit() or len(value) > 18:
        raise Refused(400, "malformed Content-Length")
    return int(value)


def _check_codings(codings: list[bytes], *, http_1_0: bool) -> None:
    if http_1_0:
        raise Refused(400, "HTTP/1.0 has no Transfer-Encoding")
    if codings.count(b"chunked") > 1:
        raise Refused(400, "chunked twice")
    if codings != [b"chunked"]:
        raise Refused(501, "the only transfer coding known is chunked")


class Sized:
    """Taker of one body of known length from the front of a buffer."""

    __slots__ = ("_left", "done", "parts")

    def __init__(self, length: int) -> None:
        self.parts: list[bytes] = []
        self.done = length == 0
        self._left = length

    def feed(self, buffer: bytearray) -> None:
        """Consume from `buffer`; bytes after the body stay in it."""
        part = bytes(buffer[: self._left])
        del buffer[: len(part)]
        self.parts.append(part)
        self._left -= len(part)
        self.done = self._left == 0


class Chunked:
    """Decoder of one chunked body. Takes what it understands from the front of a buffer."""

    __slots__ = ("_left", "_limit", "_step", "_trailers", "done", "parts", "received")

    def __init__(self, limit: int) -> None:
        self.parts: list[bytes] = []
        self.received = 0
        self.done = False
        self._limit = limit
        self._left = 0
        self._trailers = 0
        self._step = self._size

    def feed(self, buffer: bytearray) -> None:
        """Consume from `buffer`; bytes after the body stay in it."""
        while not self.done and self._step(buffer):
            pass

    def _size(self, buffer: bytearray) -> bool:
        line = _take_line(buffer, _MAX_CHUNK_LINE)
        if line is None:
            return False
        match = _CHUNK_SIZE.fullmatch(line)
        if match is None:
            raise BodyMalformed("malformed chunk size")
        self._left = int(match[1], 16)
        self.received += self._left
        if self.received > self._limit:
            raise BodyTooLarge(declared=None, received=self.received, limit=self._limit)
        self._step = self._data if self._left else self._trailer
        return True

    def _data(self, buffer: bytearray) -> bool:
        if not buffer:
            return False
        part = bytes(buffer[: self._left])
        del buffer[: len(part)]
        self.parts.append(part)
        self._left -= len(part)
        if self._left == 0:
            self._step = self._data_end
        return True

    def _data_end(self, buffer: bytearray) -> bool:
        if not b"\r\n".startswith(buffer[:2]):
            raise BodyMalformed("chunk longer than its size")
        if len(buffer) < 2:
            return False
        del buffer[:2]
        self._step = self._size
        return True

    def _trailer(self, buffer: bytearray) -> bool:
        """Trailers are checked and dropped: nothing here has a use for them."""
        line = _take_line(buffer, _MAX_TRAILERS)
        if line is None:
            return False
        self._trailers += len(line)
        if not line:
            self.done = True
        elif _TRAILER.fullmatch(line) is None or self._trailers > _MAX_TRAILERS:
            raise BodyMalformed("malformed trailer")
        return True


def _take_line(buffer: bytearray, limit: int) -> bytes | None:
    end = buffer.find(b"\n", 0, limit)
    if end < 0:
        if len(buffer) >= limit:
            raise BodyMalformed("line too long in a chunked body")
        return None
    if end == 0 or buffer[end - 1] != 0x0D:
        raise BodyMalformed("line ends without carriage return")
    line = bytes(buffer[: end - 1])
    del buffer[: end + 1]
    return line


# --- answers --------------------------------------------------------------------------------------

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"

_STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus
}
_FRAMING = frozenset(
    [b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"trailer", b"upgrade"]
)


def render_head(status: int, headers: Headers, framing: bytes) -> bytes:
    """The head of an answer. Framing headers are the connection's own affair: the handler's are left out."""
    if not 200 <= status <= 999:
        raise ValueError(f"not a final status: {status}")
    lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
    for name, value in headers:
        if _NAME.fullmatch(name) is None or _VALUE.fullmatch(value) is None:
            raise ValueError(f"header that would break the answer: {name!r}")
        if name.lower() not in _FRAMING:
            lines.append(b"%b: %b\r\n" % (name, value))
    lines.append(framing)
    lines.append(b"\r\n")
    return b"".join(lines)


def wants_close(headers: Headers) -> bool:
    """Whether the handler asks for the end of the connection."""
    return any(name.lower() == b"connection" and b"close" in _tokens(value) for name, value in headers)


__all__ = [
    "CONTINUE",
    "LAST_CHUNK",
    "BodyIncomplete",
    "BodyMalformed",
    "BodyTooLarge",
    "Chunked",
    "Head",
    "Headers",
    "Refused",
    "Request",
    "Sized",
    "check_unfinished",
    "head_end",
    "parse_head",
    "render_head",
    "wants_close",
]
