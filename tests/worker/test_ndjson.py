"""Lines, however they were cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelproxy.worker.wire.ndjson import Lines, LineTooLong


@given(
    st.lists(st.binary(min_size=1).filter(lambda line: b"\n" not in line and line.strip() == line)), st.data()
)
def test_p48_any_cut_gives_the_same_lines(lines: list[bytes], data: st.DataObject) -> None:
    whole = b"\n".join(lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    reader = Lines()

    found = []
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        found += list(reader.feed(whole[start:end]))
    rest = reader.end()
    assert [*found, *([rest] if rest else [])] == lines
    assert reader.end() == b""


def test_blank_lines_and_carriage_returns_mean_nothing() -> None:
    assert list(Lines().feed(b'{"a":1}\r\n\r\n\n{"b":2}\n')) == [b'{"a":1}', b'{"b":2}']


def test_a_line_without_end_is_refused() -> None:
    reader = Lines(longest=10)
    assert list(reader.feed(b"x" * 10)) == []

    with pytest.raises(LineTooLong):
        list(reader.feed(b"x"))
