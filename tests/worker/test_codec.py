"""JSON on the wire."""

from __future__ import annotations

import json

import pytest

from modelproxy.worker.wire import codec


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"a":[1,2.5,null,true]}', {"a": [1, 2.5, None, True]}),
        (b"123456789012345678901234567890", 123456789012345678901234567890),
        (b'"\\ud83d"', "\ud83d"),  # a JavaScript string cut inside an emoji
        (b'"\xc3\xa9"', "é"),
    ],
)
def test_loads(data: bytes, value: object) -> None:
    assert codec.loads(data) == value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"NaN",
        b"[Infinity]",
        b"[-Infinity]",
        b"1e999",
        b'["\\ud83d",1e999]',
        b'"\xff"',
        b"[" * 100_000,
    ],
)
def test_loads_refuses(data: bytes) -> None:
    with pytest.raises(ValueError):
        codec.loads(data)


def test_keys_keep_their_order() -> None:
    assert codec.dumps(codec.loads(b'{"b":1,"a":2,"0":3}')) == b'{"b":1,"a":2,"0":3}'


@pytest.mark.parametrize(
    "text", ["é", "\u2028", "\u2029", "\x85", "\r\n", "\x0b\x1c", "\ud800", "a\u2028\ud800"]
)
def test_dumps_is_one_line_for_every_reader(text: str) -> None:
    data = codec.dumps({"a": text})

    assert json.loads(data) == {"a": text}
    assert len(data.decode().splitlines()) == 1


@pytest.mark.parametrize("value", [None, True, 0, -1, 1.0, "", "x", [], [{}], {}, {"a": 1}, 7])
def test_what_has_another_shape_is_nothing(value: object) -> None:
    assert codec.as_dict(value) == (value if value == {"a": 1} else {})
    assert codec.as_dicts(value) == ([{}] if value == [{}] else [])
    assert codec.as_text(value) == ("x" if value == "x" else "")
    assert codec.as_count(value) == (7 if value == 7 else None)
    assert codec.as_dicts([1, {"a": 1}, None]) == [{"a": 1}]
