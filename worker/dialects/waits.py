"""How long a provider asks to wait: in a header, in the body, or only in a sentence."""

from __future__ import annotations

import email.utils
import re
from typing import Any

from modelproxy.worker.wire import codec

from .seam import Headers


def in_headers(headers: Headers, now: float | None = None) -> float | None:
    """How many seconds the provider asks to wait, or None."""
    values, now = _read(headers, now)
    milliseconds = _number(values.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    asked = values.get("retry-after")
    if asked is None:
        return None
    seconds = _number(asked)
    if seconds is None:
        seconds = _duration(asked)
    return _until(_date(asked), now) if seconds is None else seconds


def _read(headers: Headers, now: float | None) -> tuple[dict[str, str], float | None]:
    values = {name.decode("latin-1").lower(): value.decode("latin-1").strip() for name, value in headers}
    return values, _date(values.get("date", "")) if now is None else now


_LIMITS = ("", "-requests", "-tokens")


def until_reset(headers: Headers, now: float | None = None) -> float | None:
    """When a limit will be as it was: a guess at the wait that a 429 leaves unsaid.

    Many say it in every answer, so anywhere else it asks for nothing.
    """
    values, now = _read(headers, now)
    used_up = [one for one in _LIMITS if values.get(f"x-ratelimit-remaining{one}") == "0"]
    waits = (_reset(values.get(f"x-ratelimit-reset{one}", ""), now) for one in (*used_up, *_LIMITS))
    return next((wait for wait in waits if wait is not None), None)


def _reset(text: str, now: float | None) -> float | None:
    """`X-RateLimit-Reset` is a time at OpenRouter (ms) and GitHub (s), a wait elsewhere."""
    number = _number(text)
    if number is None:
        return _duration(text)
    if number > 1e11:
        return _until(number / 1000, now)
    return _until(number, now) if number > 1e9 else number


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
    metadata = codec.as_dict(error.get("metadata"))
    headers = [_pair(one) for one in codec.as_dict(metadata.get("headers")).items()]
    ways = (
        _field(error),
        _field(metadata),
        _detail(error.get("details")),
        in_headers(headers),
        _sentence(error.get("message")),
        until_reset(headers),
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
        wait = _duration(str(codec.as_dict(detail).get("retryDelay", "")))
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
