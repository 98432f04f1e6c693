"""Server-sent events."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelproxy.worker.wire import sse
from modelproxy.worker.wire.sse import Decoder, Event, EventTooLong


def test_an_event_and_the_ping() -> None:
    assert sse.event(b"a", b"{}") == b"event: a\ndata: {}\n\n"
    assert sse.PING == b'event: ping\ndata: {"type":"ping"}\n\n'


@pytest.mark.parametrize(
    ("data", "events"),
    [
        (b"event: a\ndata: 1\n\n", [Event("a", b"1")]),
        (b"data:1\r\n\r\ndata: 2\r\rdata: 3\n\n", [Event("message", text) for text in (b"1", b"2", b"3")]),
        (b": comment\n\nevent: a\n\ndata: x\n\n", [Event("message", b"x")]),
        (b"data: a\ndata: b\n\n", [Event("message", b"a\nb")]),
        (b"\xef\xbb\xbfdata: x\n\n", [Event("message", b"x")]),
        (b"data: unfinished", []),
        (b"data\n\n", [Event("message", b"")]),
        (b"id: 1\nretry: 2\nodd: 3\ndata:  two blanks\n\n", [Event("message", b" two blanks")]),
        ("data: a\u2028b\x85\n\n".encode(), [Event("message", "a\u2028b\x85".encode())]),
    ],
)
def test_decoding(data: bytes, events: list[Event]) -> None:
    assert list(Decoder().feed(data)) == events


@pytest.mark.parametrize(
    ("data", "events"),
    [
        (b'error: {"a":1}\n\n', [Event("error", b'{"a":1}')]),
        (b'data: x\n\n{"a":1}\n\n', [Event("message", b"x"), Event("stray", b'{"a":1}')]),
        (b'event: a\n{"a":1}\n\n', [Event("a", b'{"a":1}')]),
        (b"odd: 1\n\n[1]\n\n", []),
    ],
)
def test_what_servers_write_when_they_break(data: bytes, events: list[Event]) -> None:
    assert list(Decoder(strays=True).feed(data)) == events
    assert [event for event in Decoder().feed(data) if event.data != b"x"] == []


@given(
    st.lists(
        st.tuples(st.sampled_from(["\n", "\r\n", "\r"]), st.text(st.characters(exclude_characters="\r\n")))
    ),
    st.lists(st.integers(0, 400)),
)
def test_any_cut_of_the_bytes_gives_the_same_events(parts: list[tuple[str, str]], cuts: list[int]) -> None:
    data = "".join(f"event: e{end}data: {text}{end}{end}" for end, text in parts).encode("utf-8", "replace")
    whole = list(Decoder().feed(data))
    places = [0, *sorted(cuts), len(data)]
    decoder = Decoder()
    pieces = [data[start:end] for start, end in itertools.pairwise(places)]

    assert [event for piece in pieces for event in decoder.feed(piece)] == whole


def test_every_byte_alone() -> None:
    decoder = Decoder()
    data = "data: é\r\n\r\n".encode()

    assert [event for byte in data for event in decoder.feed(bytes([byte]))] == [
        Event("message", "é".encode())
    ]


@pytest.mark.parametrize("chunk", [b"x" * 60, b"data: " + b"x" * 54 + b"\n"])
def test_an_event_without_end_is_refused(chunk: bytes) -> None:
    decoder = Decoder(longest=100)
    list(decoder.feed(chunk))

    with pytest.raises(EventTooLong):
        list(decoder.feed(chunk))
