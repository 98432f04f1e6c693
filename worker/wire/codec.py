"""JSON as it crosses the wire.

msgspec is fast and keeps integers of any size, but it refuses lone surrogates, which real clients send
(a JavaScript string cut in the middle of an emoji). The standard library takes over for those.

What others write may have any shape: `as_dict` and its like take it for what it should be, and otherwise for nothing.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

import msgspec

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder()

# Legal inside JSON strings, but some clients cut lines the way `str.splitlines` does.
_LINE_ENDS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))


def loads(data: bytes | bytearray) -> Any:
    """Parse one document. Raises ValueError; the message says where, not what.

    NaN and infinities are refused: nobody downstream could be sent them.
    """
    try:
        return _decoder.decode(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError:
        return _loads_slowly(data)


def _loads_slowly(data: bytes | bytearray) -> Any:
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError("number out of range")
    return value


def dumps(value: Any) -> bytes:
    """Compact JSON without line ends of any kind."""
    try:
        data = _encoder.encode(value)
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")
    if not data.isascii():
        for raw, escaped in _LINE_ENDS:
            data = data.replace(raw, escaped)
    return data


def as_dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def as_dicts(value: Any) -> list[dict[str, Any]]:
    """The objects of a list."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def as_count(value: Any) -> int | None:
    """A positive number; who says 0 mostly means that he does not know."""
    return value if type(value) is int and value > 0 else None
