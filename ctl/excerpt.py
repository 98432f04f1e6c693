"""The end of a log for a person: a traceback is one line, and what looks like a key is not shown. Pure.

A traceback says two things that help: what was raised, and where. `proxyctl logs` has the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby

_TRACEBACK = re.compile(r"(Exception Group )?Traceback \(most recent call last\)")
_FRAME = re.compile(r'\s+File "(?P<file>[^"]+)", line (?P<line>\d+),? in (?P<name>.+)')
_GROUP = re.compile(r"\s*\| ?(?P<rest>.*)")
"""How a line within an exception group is set off."""
_RULE = re.compile(r"\s*\+[-+ \d.]*$")
_BETWEEN = re.compile(r"(During handling of the above|The above exception was the direct cause)")
_FATAL = re.compile(r"Fatal Python error: ")
_DUMP = re.compile(r"(Current thread |Thread |Extension modules: |  |$)")
"""What the fault handler writes below its first line."""
_KEY = re.compile(r"(?P<head>\b(?:sk|pk|rk|gsk|hf|xai)[-_]|\bAIza|\b[Bb]earer +)[\w.~+/-]{8,}")


def excerpt(lines: Sequence[str], most: int) -> list[str]:
    """The last `most` of these lines, shortened."""
    return list(_counted([masked(line) for line in _shortened(lines)]))[-most:] if most > 0 else []


def masked(text: str) -> str:
    """`text` without what looks like a key: it is going to be pasted somewhere."""
    return _KEY.sub(r"\g<head>***", text)


def _counted(lines: Sequence[str]) -> Iterator[str]:
    """What is said again and again is said once, with how often."""
    for line, same in groupby(lines):
        times = len(list(same))
        yield f"{line}  ({times} times)" if times > 1 else line


def _shortened(lines: Sequence[str]) -> Iterator[str]:
    rest = iter(lines)
    for line in rest:
        if _FATAL.match(line):
            yield from _dump(line, rest)
        elif _TRACEBACK.search(line):
            yield from _traceback(rest)
        elif line.strip() and not _BETWEEN.match(line):
            yield line


def _traceback(rest: Iterator[str]) -> Iterator[str]:
    """The errors at its end; of a group every one, each with its own place."""
    where, within_group = "", False
    for line in rest:
        group = _GROUP.match(line)
        within_group = within_group or group is not None
        text = group["rest"] if group else line
        if (frame := _FRAME.match(text)) is not None:
            where = _place(frame)
        elif _RULE.match(line):
            continue
        elif group is None and within_group and not line.startswith(" "):
            yield line  # the group is over
            return
        elif text[:1].strip() and not _TRACEBACK.search(text):
            yield text + where
            where = ""
            if group is None:
                return


def _dump(first: str, rest: Iterator[str]) -> Iterator[str]:
    """What the fault handler left; the current thread is the one that got the signal."""
    where, current = "", False
    for line in rest:
        if not _DUMP.match(line):
            yield first + where
            yield from _shortened([line])
            return
        current = current or line.startswith("Current thread ")
        if current and not where and (frame := _FRAME.match(line)) is not None:
            where = _place(frame)
    yield first + where


def _place(frame: re.Match[str]) -> str:
    short = "/".join(frame["file"].split("/")[-2:])
    return f"  (in {frame['name']}, {short}:{frame['line']})"
