"""Heads and bodies as bytes: what is refused, and that nothing depends on how bytes were cut."""

from __future__ import annotations

import itertools

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelproxy.worker.httpd_parse import (
    BodyMalformed,
    BodyTooLarge,
    Chunked,
    Refused,
    check_unfinished,
    head_end,
    parse_head,
    render_head,
    wants_close,
)

STARTS = b"GET / HTTP/1.1\r\nHost: x\r\n"

REFUSED = {
    "HTTP/0.9 has no version": (b"GET /\r\n\r\n", 400),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\n", 505),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\nHost: x\r\n\r\n", 505),
    "lower-case protocol": (b"GET / http/1.1\r\nHost: x\r\n\r\n", 400),
    "two blanks in the request line": (b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "blank at the end of the request line": (b"GET / HTTP/1.1 \r\nHost: x\r\n\r\n", 400),
    "high byte in the target": (b"GET /\xc3\xa4 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "unknown method": (b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", 501),
    "CONNECT": (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 501),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (STARTS + b"Host: x\r\n\r\n", 400),
    "two Hosts in HTTP/1.0": (b"GET / HTTP/1.0\r\nHost: x\r\nHost: x\r\n\r\n", 400),
    "bare line feed in the request line": (b"GET / HTTP/1.1\nHost: x\r\n\r\n", 400),
    "bare line feed after a header": (STARTS + b"A: b\nC: d\r\n\r\n", 400),
    "folded header": (STARTS + b"A: b\r\n c\r\n\r\n", 400),
    "blank before the first header": (b"GET / HTTP/1.1\r\n Host: x\r\nHost: x\r\n\r\n", 400),
    "blank before the colon": (STARTS + b"A : b\r\n\r\n", 400),
    "no colon": (STARTS + b"A\r\n\r\n", 400),
    "empty name": (STARTS + b": b\r\n\r\n", 400),
    "NUL in a value": (STARTS + b"A: b\0c\r\n\r\n", 400),
    "carriage return in a value": (STARTS + b"A: b\rc\r\n\r\n", 400),
    "negative length": (STARTS + b"Content-Length: -1\r\n\r\n", 400),
    "signed length": (STARTS + b"Content-Length: +1\r\n\r\n", 400),
    "hexadecimal length": (STARTS + b"Content-Length: 0x1\r\n\r\n", 400),
    "empty length": (STARTS + b"Content-Length:\r\n\r\n", 400),
    "endless length": (STARTS + b"Content-Length: 99999999999999999999\r\n\r\n", 400),
    "length list": (STARTS + b"Content-Length: 1, 1\r\n\r\n", 400),
    "two different lengths": (STARTS + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
    "two equal lengths": (STARTS + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\n", 400),
    "length and chunked": (STARTS + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "chunked and length": (STARTS + b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", 400),
    "length and an empty coding": (STARTS + b"Content-Length: 1\r\nTransfer-Encoding:\r\n\r\n", 400),
    "empty coding": (STARTS + b"Transfer-Encoding:\r\n\r\n", (400, 501)),
    "unknown coding": (STARTS + b"Transfer-Encoding: gzip\r\n\r\n", 501),
    "unknown coding ahead of chunked": (STARTS + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
    "chunked twice": (STARTS + b"Transfer-Encoding: chunked, chunked\r\n\r\n", 400),
    "chunked with a control character": (STARTS + b"Transfer-Encoding: \x0bchunked\r\n\r\n", (400, 501)),
    "chunked in HTTP/1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "unknown expectation": (STARTS + b"Content-Length: 1\r\nExpect: tea\r\n\r\n", 417),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    """What a proxy and the server behind it could read differently is not served."""
    raw, expected = REFUSED[name]
    with pytest.raises(Refused) as refused:
        parse_head(raw)

    assert refused.value.status in (expected if isinstance(expected, tuple) else (expected,))


def test_a_head_is_read_as_sent() -> None:
    """Order and repetitions stay, names become lower case, blanks around values go."""
    head = parse_head(b"POST /a%2Fb?x=1?y HTTP/1.1\r\nHost: h\r\nX-A:  1 \r\nX-Empty:\r\nx-a: 2\r\n\r\n")
    request = head.request

    assert (request.method, request.target) == ("POST", "/a%2Fb?x=1?y")
    assert (request.path, request.query) == ("/a%2Fb", "x=1?y")
    assert request.headers == ((b"host", b"h"), (b"x-a", b"1"), (b"x-empty", b""), (b"x-a", b"2"))
    assert request.header(b"x-a") == b"1"
    assert request.header_all(b"x-a") == [b"1", b"2"]
    assert request.header(b"x-b") is None


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("http://h:1/v1?q", "/v1", "q"),
        ("HTTPS://h", "/", ""),
        ("*", "*", ""),
        ("/http://h/", "/http://h/", ""),
    ],
)
def test_the_origin_of_an_absolute_target_is_no_path(target: str, path: str, query: str) -> None:
    """A client that believes us to be its forward proxy sends its target in full."""
    request = parse_head(b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % target.encode()).request

    assert (request.target, request.path, request.query) == (target, path, query)


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: x, Close\r\n", False),
        (b"1.1", b"Connection: keep-alive\r\nConnection: close\r\n", False),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: Keep-Alive\r\n", True),
        (b"1.0", b"Connection: keep-alive, close\r\n", False),
        (b"1.1", b"Connection: Upgrade\r\nUpgrade: h2c\r\n", True),
    ],
)
def test_keep_alive(version: bytes, connection: bytes, kept: bool) -> None:
    """1.1 stays unless told otherwise, 1.0 the other way round; an offer to upgrade changes nothing."""
    head = parse_head(b"GET / HTTP/%b\r\nHost: x\r\n%b\r\n" % (version, connection))

    assert kept == head.keep_alive


def test_100_continue_is_for_bodies_of_http_1_1() -> None:
    """Nobody waits for leave to send nothing, and HTTP/1.0 knows no interim answer."""
    expecting = b"Host: x\r\nExpect: 100-Continue\r\n"

    assert parse_head(b"POST / HTTP/1.1\r\n%bContent-Length: 1\r\n\r\n" % expecting).expects_continue
    assert parse_head(b"POST / HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n" % expecting).expects_continue
    assert not parse_head(b"POST / HTTP/1.1\r\n%b\r\n" % expecting).expects_continue
    assert not parse_head(b"POST / HTTP/1.0\r\n%bContent-Length: 1\r\n\r\n" % expecting).expects_continue


@pytest.mark.parametrize(
    "raw", [b"\x16\x03\x01\x02", b"GET /\nHost: x\n\n", b"\n", b" GET", b"{}", b"A" * 33]
)
def test_what_can_become_no_request_is_refused_early(raw: bytes) -> None:
    """A TLS greeting need not wait for a timeout."""
    with pytest.raises(Refused) as refused:
        check_unfinished(bytearray(raw))

    assert refused.value.status == 400


def test_no_beginning_of_a_good_head_is_refused() -> None:
    """The early check never knows better than the parser."""
    raw = b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nA: b\r\n\r\n"
    for cut in range(len(raw)):
        check_unfinished(bytearray(raw[:cut]))
        assert head_end(bytearray(raw[:cut]), 0) == -1

    assert head_end(bytearray(raw + b"more"), 0) == len(raw)


# --- against h11 ---

_token = st.text("abcXYZ019-_!#", min_size=1, max_size=8).map(str.encode)
_value = st.binary(max_size=12)
_plain_value = st.text('abc XYZ,;=\t"é', max_size=12).map(lambda text: text.encode("latin-1"))
_method = st.sampled_from([b"GET", b"POST", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"get", b"G(T"])
_target = st.text("/ab?%&=:.é ~", min_size=1, max_size=12).map(lambda text: text.encode("latin-1"))
_special = st.sampled_from(
    [
        (b"Content-Length", b"0"),
        (b"Content-Length", b"3"),
        (b"content-length", b"3 "),
        (b"Content-Length", b"x"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Transfer-Encoding", b"Chunked "),
        (b"Host", b"y"),
        (b"Connection", b"close"),
        (b"Expect", b"100-continue"),
    ]
)
_header = st.one_of(
    st.tuples(_token, _plain_value), st.tuples(_token, _value), st.tuples(_value, _plain_value), _special
)


@given(
    _method | _token,
    _target,
    st.sampled_from([b"1.1", b"1.1", b"1.1", b"1.0", b"0.9", b"2.0", b"1.11"]),
    st.lists(_header, max_size=5),
    st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n"]),
)
def test_what_we_accept_h11_accepts_and_reads_alike(
    method: bytes, target: bytes, version: bytes, headers: list[tuple[bytes, bytes]], newline: bytes
) -> None:
    """llhttp and our additions are never more lenient than the reference."""
    lines = [b"%b %b HTTP/%b" % (method, target, version), b"Host: x"]
    raw = newline.join(lines + [name + b":" + value for name, value in headers]) + newline * 2
    if head_end(bytearray(raw), 0) != len(raw):
        return  # another head than the one meant
    try:
        head = parse_head(raw)
    except Refused:
        return
    reference = h11.Connection(h11.SERVER)
    reference.receive_data(raw)
    event = reference.next_event()

    assert isinstance(event, h11.Request)
    assert event.method == head.request.method.encode()
    assert event.target == head.request.target.encode()
    assert tuple(event.headers) == _comparable(head.request.headers)


def _comparable(headers: tuple[tuple[bytes, bytes], ...]) -> tuple[tuple[bytes, bytes], ...]:
    # h11 normalizes these two values; we leave them as they came.
    lowered = (b"transfer-encoding", b"expect")
    return tuple((name, value.lower() if name in lowered else value) for name, value in headers)


STRICTER = {
    "folded header": STARTS + b"A: b\r\n c\r\n\r\n",
    "bare line feeds": b"GET / HTTP/1.1\nHost: x\n\n",
    "length and chunked": STARTS + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "two equal lengths": STARTS + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\n",
    "length list": STARTS + b"Content-Length: 1, 1\r\n\r\n",
    "unknown method": b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\nHost: x\r\n\r\n",
    "CONNECT": b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    "chunked in HTTP/1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "unknown expectation": STARTS + b"Content-Length: 1\r\nExpect: tea\r\n\r\n",
}


@pytest.mark.parametrize("name", STRICTER)
def test_where_we_are_stricter_than_h11(name: str) -> None:
    """The whole list of differences that are meant."""
    reference = h11.Connection(h11.SERVER)
    reference.receive_data(STRICTER[name])

    assert isinstance(reference.next_event(), h11.Request)
    with pytest.raises(Refused):
        parse_head(STRICTER[name])


# --- chunked bodies ---


def _decode(pieces: list[bytes], limit: int = 10_000) -> tuple[bytes, bool, bytes]:
    decoder, buffer = Chunked(limit), bytearray()
    for piece in pieces:
        buffer += piece
        decoder.feed(buffer)
    return b"".join(decoder.parts), decoder.done, bytes(buffer)


CHUNKED = b"3;a=b\r\nabc\r\n0A\r\n0123456789\r\n0\r\nX: y\r\n\r\nNEXT"


@given(st.lists(st.integers(0, len(CHUNKED)), max_size=8))
def test_any_cut_of_a_chunked_body_gives_the_same(cuts: list[int]) -> None:
    """Extensions and trailers are dropped, and what follows is left alone."""
    edges = [0, *sorted(cuts), len(CHUNKED)]
    pieces = [CHUNKED[a:b] for a, b in itertools.pairwise(edges)]

    assert _decode(pieces) == (b"abc0123456789", True, b"NEXT")


@pytest.mark.parametrize(
    "raw",
    [
        b"x\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b"0x1\r\n",
        b" 1\r\n",
        b"1 \r\n",
        b"\r\n",
        b"1\n",
        b"1;a\0\r\n",
        b"1\r\nab",
        b"1\r\na\n",
        b"1" * 16 + b"\r\n",
        b"1;" + b"a" * 5000,
        b"0\r\nno colon\r\n",
        b"0\r\nA : b\r\n",
        b"0\r\n\n",
        b"0\r\n" + b"A: b\r\n" * 5000,
    ],
)
@pytest.mark.parametrize("dripped", [False, True])
def test_broken_chunks_are_refused(raw: bytes, dripped: bool) -> None:
    """A chunk whose end is in doubt ends the body, however it was cut."""
    pieces = [raw[i : i + 1] for i in range(len(raw))] if dripped else [raw]
    with pytest.raises(BodyMalformed):
        _decode(pieces)


def test_a_chunk_over_the_limit_is_refused_when_it_is_announced() -> None:
    """Nothing of it is read first."""
    with pytest.raises(BodyTooLarge) as too_large:
        _decode([b"5\r\n01234\r\nFFFF\r\n"], limit=100)

    assert (too_large.value.declared, too_large.value.received) == (None, 5 + 0xFFFF)


@given(st.binary(max_size=60) | st.text("0123abcAF;\r\n: X", max_size=30).map(str.encode))
def test_chunks_that_we_accept_h11_reads_alike(body: bytes) -> None:
    """The decoder is never more lenient than the reference."""
    raw = body + b"0\r\n\r\n"
    try:
        data, done, rest = _decode([raw])
    except (BodyMalformed, BodyTooLarge):
        return
    if not done:
        return
    reference = h11.Connection(h11.SERVER)
    reference.receive_data(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + raw)
    assert isinstance(reference.next_event(), h11.Request)
    read = b""
    while isinstance(event := reference.next_event(), h11.Data):
        read += event.data

    assert isinstance(event, h11.EndOfMessage)
    assert (read, reference.trailing_data[0]) == (data, rest)


# --- answers ---


@pytest.mark.parametrize(
    "header",
    [
        (b"a", b"b\r\nc: d"),
        (b"a", b"b\n"),
        (b"a", b"b\r"),
        (b"a", b"\0"),
        (b"a b", b""),
        (b"a:", b""),
        (b"", b""),
    ],
)
def test_no_header_of_an_answer_can_smuggle_another(header: tuple[bytes, bytes]) -> None:
    """Values come from providers."""
    with pytest.raises(ValueError, match="header that would break the answer"):
        render_head(200, [header], b"")


def test_framing_headers_of_a_handler_are_left_out() -> None:
    """A relayed answer brings its own; the connection writes its own."""
    headers = [(b"X-A", b"1"), (b"Content-Length", b"9"), (b"Transfer-Encoding", b"chunked"), (b"x-b", b"2")]

    assert render_head(200, headers, b"content-length: 0\r\n") == (
        b"HTTP/1.1 200 OK\r\nX-A: 1\r\nx-b: 2\r\ncontent-length: 0\r\n\r\n"
    )
    assert render_head(529, [], b"") == b"HTTP/1.1 529 \r\n\r\n"
    assert wants_close([(b"Connection", b"x, Close")])


def test_an_interim_status_is_no_answer() -> None:
    """It would leave the client waiting."""
    with pytest.raises(ValueError, match="not a final status"):
        render_head(100, [], b"")
