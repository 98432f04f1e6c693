"""Reasoning that a client keeps for its model: a block of thinking inside one opaque string.

The Messages API takes its reasoning back only as it gave it, with its signature. So the whole block travels, and
what comes back is a block again. What we have not written is nobody's reasoning here.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from modelproxy.worker.dialects.thinking import is_thinking
from modelproxy.worker.wire import codec

_MARK = "mp1."


def sealed(block: dict[str, Any]) -> str | None:
    """The string for a block; None: unsigned, it could not come back."""
    if not block.get("signature") and not block.get("data"):
        return None
    return _MARK + base64.urlsafe_b64encode(codec.dumps(block)).decode("ascii")


def opened(seal: Any) -> dict[str, Any] | None:
    """The block again; None: it is none of ours."""
    if not isinstance(seal, str) or not seal.startswith(_MARK):
        return None
    try:
        block = codec.loads(base64.b64decode(seal.removeprefix(_MARK), b"-_", validate=True))
    except (ValueError, binascii.Error):
        return None
    return block if isinstance(block, dict) and is_thinking(block) else None
