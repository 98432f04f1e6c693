"""A command that reads PDFs: what it says, how it fails, and that it goes when nobody waits for it."""

from __future__ import annotations

import base64
import os
import select
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from modelproxy.worker.dialects.material import Lacking
from modelproxy.worker.extractor import CUT, Extractor, environment, pieces

PDF = base64.b64encode(b"%PDF-1.4 sales").decode()
LIMIT_S = 30.0


class Log:
    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def __call__(self, level: str, event: str, **fields: Any) -> None:
        self.lines.append({"level": level, "event": event, **fields})


async def said(command: str, data: str = PDF, **settings: Any) -> tuple[str | Lacking, list[dict[str, Any]]]:
    log = Log()
    with trio.fail_after(LIMIT_S):
        return await Extractor(command, log, **settings).text(data), log.lines


async def test_what_the_command_says_is_the_text() -> None:
    assert await said("tr a-z A-Z") == ("%PDF-1.4 SALES", [])


async def test_pages_and_what_no_text_holds() -> None:
    text, _ = await said(r"printf 'one\fd\351j\303\240\000 two\f\n'")

    assert text == "one\ndj\u00e0 two"


@pytest.mark.parametrize(
    ("command", "data", "reason", "detail"),
    [
        ("echo Syntax   Error >&2; exit 3", PDF, "pdf_to_text ended with 3", "Syntax Error"),
        ("/nowhere/pdftotext", PDF, "pdf_to_text ended with 127", None),
        ("kill -9 $$", PDF, "pdf_to_text ended with -9", ""),
        ("cat >/dev/null", PDF, "pdf_to_text found no text in it", ""),
        ("cat", "QUJ", "its base64 is broken", ""),
        ("cat", "é", "its base64 is broken", ""),
    ],
)
async def test_a_failure_is_a_reason_and_a_line_in_the_log(
    command: str, data: str, reason: str, detail: str | None
) -> None:
    found, lines = await said(command, data)

    assert found == Lacking(reason)
    [line] = lines
    assert (line["level"], line["event"], line["reason"]) == ("warning", "pdf_unread", reason)
    assert detail is None or line.get("detail", "") == detail


async def test_a_command_need_not_read_all(monkeypatch: pytest.MonkeyPatch) -> None:
    large = base64.b64encode(bytes(4_000_000)).decode()

    assert await said("echo enough", large) == ("enough", [])


async def test_time_is_bounded() -> None:
    found, [line] = await said("sleep 1000", limit_s=0.05)

    assert found == Lacking("pdf_to_text took longer than 0.05 s")
    assert line["event"] == "pdf_unread"


async def test_so_is_the_text() -> None:
    """Cut in the middle of a character, which is then left out."""
    assert await said("yes é", most=7) == ("é\né" + CUT, [])


async def test_so_are_its_processor_and_its_memory() -> None:
    """Also when nobody is left who would end it."""
    assert await said("ulimit -t; ulimit -d") == ("120\n4194304", [])


async def test_complaints_without_end_hold_nothing_up() -> None:
    found, [line] = await said("head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 1")

    assert found == Lacking("pdf_to_text ended with 1")
    assert line["detail"] == "x" * 300


async def test_it_goes_with_all_that_it_started_when_nobody_waits_for_it(tmp_path: Path) -> None:
    fifo = tmp_path / "alive"
    os.mkfifo(fifo)
    # The end of the pipe is there when the last process that holds it is gone.
    extractor = Extractor(f"exec 3>{fifo}; (echo >&3; exec sleep 1000)& sleep 1000", Log())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(extractor.text, PDF)
        alive = await trio.to_thread.run_sync(fifo.open, "rb", 0)
        assert await trio.to_thread.run_sync(alive.read, 1) == b"\n"
        nursery.cancel_scope.cancel()
    with alive:
        assert select.select([alive], [], [], LIMIT_S)[0] == [alive]
        assert alive.read() == b""


async def test_no_key_of_ours_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("HTTPS_PROXY", "http://user:password@proxy:1")
    found, _ = await said("env")

    assert isinstance(found, str)
    assert "PATH=" in found
    assert "sk-secret" not in found
    assert "password" not in found


@given(st.binary(max_size=200), st.integers(1, 80), st.integers(1, 3))
def test_what_was_encoded_comes_back_whatever_its_lines(raw: bytes, width: int, times: int) -> None:
    data = base64.b64encode(raw * 1000 * times).decode()
    lines = "\r\n".join(data[start : start + width * 100] for start in range(0, len(data), width * 100))

    assert b"".join(pieces(lines)) == raw * 1000 * times


async def test_what_breaks_in_the_middle_is_broken() -> None:
    found, _ = await said("cat", base64.b64encode(bytes(99_999)).decode() + "A")

    assert found == Lacking("its base64 is broken")


def test_the_environment_is_an_allow_list() -> None:
    ours = {"PATH": "/bin", "HOME": "/root", "LC_ALL": "C.UTF-8", "SECRET": "x", "PYTHONPATH": "y"}

    assert environment(ours) == {"PATH": "/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}
