"""The text of a PDF, by a command of the user's.

The command gets the file on its standard input and writes the text to its standard output. It belongs to the
one who waits for it: when time is up, too much is said or the client leaves, it is killed with all that it
started; processor time and memory of each process are bounded besides. It knows where programs and fonts are
and nothing else of our environment: keys are none of its business, and neither is the way to a provider.
"""

from __future__ import annotations

import binascii
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

import trio

from .dialects.material import Lacking

LIMIT_S = 20.0
MOST_TEXT = 4 * 1024 * 1024
"""Bytes; no model reads more of one file."""
MOST_AT_ONCE = 2
MOST_CPU_S = 120
"""Ends one that goes on for ever when whoever should end it has been killed."""
MOST_MEMORY_KIB = 4 * 1024 * 1024
"""A file of a few bytes may ask for all that there is, and the system would end whatever is largest."""
_BOUNDED = f"{{ ulimit -t {MOST_CPU_S}; ulimit -d {MOST_MEMORY_KIB}; }} 2>/dev/null\n"
"""In front of the command; where less is allowed already, that stays."""
CUT = "\n[the rest is left out: the text is longer than 4 MiB]"
_COMPLAINT = 300
_LAST_COMPLAINT_S = 0.5
_ENVIRONMENT = ("HOME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "TMPDIR", "TZ", "USER")

Log = Callable[..., None]


class Extractor:
    """Runs the command."""

    def __init__(self, command: str, log: Log, *, limit_s: float = LIMIT_S, most: int = MOST_TEXT) -> None:
        self._command = command
        self._log = log
        self._limit_s = limit_s
        self._most = most
        self._places = trio.CapacityLimiter(MOST_AT_ONCE)

    async def text(self, data: str) -> str | Lacking:
        """The text of a PDF in base64. What goes wrong is said in the log as well."""
        async with self._places:
            return await self._run(data)

    async def _run(self, data: str) -> str | Lacking:
        said: _Said | None = None
        with trio.move_on_after(self._limit_s):
            try:
                said = await _run(self._command, data, self._most)
            except OSError as error:
                return self._lacking("pdf_to_text could not be started", detail=error.strerror or str(error))
        if said is None:
            return self._lacking(f"pdf_to_text took longer than {self._limit_s:g} s")
        if said.fed_garbage:
            return self._lacking("its base64 is broken")
        if said.code != 0 and not said.cut:
            return self._lacking(f"pdf_to_text ended with {said.code}", detail=said.complaint)
        text = _decoded(said.text)
        if not text:
            return self._lacking("pdf_to_text found no text in it", detail=said.complaint)
        return text + CUT if said.cut else text

    def _lacking(self, reason: str, detail: str = "") -> Lacking:
        self._log("warning", "pdf_unread", reason=reason, **({"detail": detail} if detail else {}))
        return Lacking(reason)


def _decoded(text: bytes) -> str:
    """Pages end with a form feed, which means nothing to a model."""
    return text.decode("utf-8", "ignore").replace("\0", "").replace("\f", "\n").strip()


def environment(source: Mapping[str, str]) -> dict[str, str]:
    """What the command may know of ours: an allow-list, since anything else may be a key."""
    return {name: value for name, value in source.items() if name in _ENVIRONMENT or name.startswith("LC_")}


class _Said:
    """What a run has brought so far."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.code: int | None = None
        self.text = b""
        self.cut = False
        self.fed_garbage = False
        self._complaint = b""
        self._heard = trio.Event()

    @property
    def complaint(self) -> str:
        """The beginning of what it wrote to standard error, in one line."""
        return " ".join(self._complaint.decode("utf-8", "replace").split())

    async def feed(self, stream: trio.abc.SendStream, data: str) -> None:
        """Piece by piece: a file may have many megabytes, and they are here once already."""
        with suppress(trio.BrokenResourceError):  # it has read what it wanted
            try:
                for piece in pieces(data):
                    await stream.send_all(piece)
            except ValueError:
                self.fed_garbage = True
        await stream.aclose()

    async def read(self, output: trio.abc.ReceiveStream) -> None:
        found = bytearray()
        while len(found) <= self._most and (data := await output.receive_some()):
            found += data
        self.cut = len(found) > self._most
        self.text = bytes(found[: self._most])

    async def hear(self, complaints: trio.abc.ReceiveStream) -> None:
        while data := await complaints.receive_some():
            self._complaint = (self._complaint + data)[:_COMPLAINT]
        self._heard.set()

    async def heard(self) -> None:
        """Wait for the last complaint, but not for what was left running and may complain one day."""
        with trio.move_on_after(_LAST_COMPLAINT_S):
            await self._heard.wait()


async def _run(command: str, data: str, most: int) -> _Said:
    said = _Said(most)
    process = await trio.lowlevel.open_process(
        _BOUNDED + command,
        shell=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(os.environ),
        start_new_session=True,
    )
    assert process.stdin is not None  # all three were asked for
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(said.feed, process.stdin, data)
            nursery.start_soon(said.hear, process.stderr)
            await said.read(process.stdout)
            if not said.cut:
                said.code = await process.wait()
                await said.heard()
            nursery.cancel_scope.cancel()  # nobody reads what is still being written
    finally:
        await _end(process, is_over=said.code is not None)
    return said


def pieces(data: str) -> Iterator[bytes]:
    """What stands in a base64, which may have lines. Raises ValueError in the middle of one that is broken."""
    rest = ""
    for start in range(0, len(data), _PIECE):
        text = rest + "".join(data[start : start + _PIECE].split())
        whole = len(text) - len(text) % 4
        yield binascii.a2b_base64(text[:whole])
        rest = text[whole:]
    yield binascii.a2b_base64(rest)


_PIECE = 65536


async def _end(process: trio.Process, *, is_over: bool) -> None:
    """With all that it started: until somebody has waited for it, its number is its group's."""
    with trio.CancelScope(shield=True):
        if not is_over:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            assert pipe is not None
            await pipe.aclose()


__all__ = ["CUT", "LIMIT_S", "MOST_TEXT", "Extractor", "environment", "pieces"]
