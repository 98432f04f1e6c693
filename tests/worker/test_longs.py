"""Long texts inside JSON, a stretch at a time."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelproxy.worker.wire import longs

PATH = ("choices", 0, "message", "content")
LINE = 'words é漢\U0001f600 \\ " \n\t'


def document(content: Any, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, "tool_calls": []}
    return {"id": "x", "choices": [{"index": 0, "message": message}], "usage": {"n": 2**70}, **more}


def encoded(value: Any, *, escaped: bool) -> bytes:
    return json.dumps(value, ensure_ascii=escaped).encode()


@given(
    st.lists(
        st.sampled_from(["a", "\\", '"', "é", "漢", "\U0001f600", "\n", "\x01", "\\ud83d"]), max_size=80
    ),
    st.booleans(),
    st.integers(6, 30),
)
def test_the_pieces_are_the_text_wherever_they_are_cut(parts: list[str], escaped: bool, stretch: int) -> None:
    text = "".join(parts)
    data = encoded(text, escaped=escaped)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(longs, "STRETCH", stretch)
        pieces = list(longs.pieces(memoryview(data)[1:-1]))

    assert "".join(pieces) == text
    assert all(pieces)


def test_half_a_pair_of_surrogates_stays_what_it_is() -> None:
    for text in ("\ud83d", "a\ud83d" * 40, "\ude00\ud83d"):
        assert "".join(longs.pieces(memoryview(json.dumps(text).encode())[1:-1])) == text


@pytest.mark.parametrize("escaped", [False, True])
def test_all_but_the_long_text_is_decoded(escaped: bool) -> None:
    text = LINE * 20_000
    found = longs.parted(encoded(document(text), escaped=escaped), PATH)

    assert found is not None
    assert found[0] == document("")
    pieces = list(found[1])
    assert "".join(pieces) == text
    assert max(map(len, pieces)) <= longs.STRETCH


@pytest.mark.parametrize(
    "data",
    [
        encoded(document("short"), escaped=False),
        encoded(document([LINE * 20_000]), escaped=False),
        encoded(document("short", elsewhere=LINE * 20_000), escaped=False),
        encoded({"choices": {"0": LINE * 20_000}}, escaped=False),
        encoded([LINE * 20_000], escaped=False),
        encoded(document(LINE * 20_000), escaped=False)[:-1],
        encoded(document("x" * longs.LONG), escaped=False).replace(b"xx", b"\xff\xff", 1),
        b"[" * longs.LONG,
        b" " * longs.LONG,
    ],
    ids=["short", "a list", "elsewhere", "no list", "no object", "cut", "no UTF-8", "deep", "blank"],
)
def test_what_is_something_else_is_read_whole(data: bytes) -> None:
    assert longs.parted(data, PATH) is None


def test_a_buffer_that_grows_no_more_is_as_good_as_bytes() -> None:
    found = longs.parted(bytearray(encoded({"a": LINE * 20_000}, escaped=False)), ("a",))

    assert found is not None
    assert "".join(found[1]) == LINE * 20_000


def test_fields_are_left_as_they_came() -> None:
    found = longs.fields(b'{"type": "message", "content": [1, "\\ud83d\\ude00"]}')

    assert found is not None
    assert {key: bytes(memoryview(value)) for key, value in found.items()} == {
        "type": b'"message"',
        "content": b'[1, "\\ud83d\\ude00"]',
    }
    assert longs.fields(b"[1]") is longs.fields(b"{") is None
