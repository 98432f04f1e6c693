"""How long a provider asks to wait: in a header, in the body, or only in a sentence."""

from __future__ import annotations

import email.utils
import re
from typing import Any

from .seam import Headers


def in_headers(headers: Headers, now: float | None = None) -> float | None:
    """How many seconds the provider asks to wait, or None."""
    values = {name.decode("latin-1").lower(): value.decode("latin-1").strip() for name, value in headers}
    if now is None:
        now = _date(values.get("date", ""))
    milliseconds = _number(values.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    asked = values.get("retry-after")
    if asked is not None:
        seconds = _number(asked)
        if seconds is None:
            seconds = _duration(asked)
        return _until(_date(asked), now) if seconds is None else seconds
    return _reset(values, now)


def _reset(values: dict[str, str], now: float | None) -> float | None:
    """`X-RateLimit-Reset` is a time at OpenRouter (ms) and GitHub (s), a wait elsewhere."""
    for name in ("x-ratelimit-reset", "x-ratelimit-reset-requests", "x-ratelimit-reset-tokens"):
        number = _number(values.get(name))
        if number is None:
            wait = _duration(values.get(name, ""))
        elif number > 1e11:
            wait = _until(number / 1000, now)
        elif number > 1e9:
            wait = _until(number, now)
        else:
            wait = number
        if wait is not None:
            return wait
    return None


def _until(then: float | None, now: float | None) -> float | None:
    return None if then is None or now is None else max(then - now, 0.0)


def _number(text: str | None) -> float | None:
    return float(text) if text is not None and re.fullmatch(r"\d{1,15}(\.\d{1,9})?", text) else None


def _date(text: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")


def _duration(text: str) -> float | None:
    """`6m0s`, `7.66s`, `120ms`."""
    found = _DURATION.fullmatch(text.strip())
    if found is None or not any(found.groups()):
        return None
    hours, minutes, seconds, milliseconds = (float(part or 0) for part in found.groups())
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000


def in_body(error: dict[str, Any]) -> float | None:
    """The wait that stands only inside an error object."""
    metadata = _dict(error.get("metadata"))
    ways = (
        _field(error),
        _field(metadata),
        _detail(error.get("details")),
        in_headers([_pair(one) for one in _dict(metadata.get("headers")).items()]),
        _sentence(error.get("message")),
    )
    return next((wait for wait in ways if wait is not None), None)


def _field(holder: dict[str, Any]) -> float | None:
    for key in ("retry_after", "retry_after_seconds"):
        value = holder.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
            return float(value)
    return None


def _detail(details: Any) -> float | None:
    """Google's `RetryInfo`."""
    for detail in details if isinstance(details, list) else ():
        wait = _duration(str(_dict(detail).get("retryDelay", "")))
        if wait is not None:
            return wait
    return None


def _pair(header: tuple[Any, Any]) -> tuple[bytes, bytes]:
    return str(header[0]).encode("utf-8", "replace"), str(header[1]).encode("utf-8", "replace")


def _sentence(message: Any) -> float | None:
    found = _TRY_AGAIN.search(message) if isinstance(message, str) else None
    if found is None:
        return None
    return _number(found[1]) if found[2] else _duration(found[1])


_TRY_AGAIN = re.compile(
    r"(?:try again|retry)(?: again)? (?:in|after) (\d+(?:[.hms\d]*[hms\d])?)(?: ?(s|sec|seconds?)\b)?",
    re.IGNORECASE,
)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
