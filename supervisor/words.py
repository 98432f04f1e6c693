"""Spans of time and numbers of things, as a person says them, in the supervisor's sentences and in the tables of `ctl`.

Pure, and imports nothing: `ps` is to be quick.
"""

from __future__ import annotations

_MOMENT_S = 0.05
"""What would be `0.0s` is nothing."""


def uptime(seconds: float) -> str:
    """Two units are enough: `42s`, `3m04s`, `2h05m`, `3d04h`. One that is over is `0s`."""
    whole = max(0, int(seconds))
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // part:02d}{smaller}"
    return f"{whole}s"


def span(seconds: float) -> str:
    """The same for what may be short: `0.3s`."""
    return f"{seconds:.1f}s" if _MOMENT_S <= seconds < 10 else uptime(seconds)


def lasting(words: str, seconds: float) -> str:
    """`idle for 42s`, and `idle` when it has only begun; `words` ends with what comes before the span."""
    return f"{words} {span(seconds)}" if seconds >= _MOMENT_S else words.removesuffix(" for")


def ago(seconds: float) -> str:
    """`42s ago`, `just now`."""
    return f"{span(seconds)} ago" if seconds >= _MOMENT_S else "just now"


def count(number: int, one: str, many: str = "") -> str:
    """`1 worker`, `2 workers`; `many` where an s does not make it."""
    return f"{number} {one if number == 1 else many or one + 's'}"
