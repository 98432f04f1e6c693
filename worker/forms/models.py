"""The list of models for who has not said which client it is: in both shapes at once, neither minds the other's."""

from __future__ import annotations

import datetime
from typing import Any

from modelproxy.worker.wire import codec


def listed(body: bytes) -> bytes:
    """The answer to `GET /v1/models` or to one of them, from Anthropic's."""
    try:
        said = codec.loads(body)
    except ValueError:
        return body  # of a HEAD
    if not isinstance(said, dict):
        return body
    if isinstance(said.get("data"), list):
        return codec.dumps({"object": "list", **said, "data": [_entry(one) for one in said["data"]]})
    return codec.dumps(_entry(said))


def _entry(said: Any) -> Any:
    if not isinstance(said, dict):
        return said
    return {**said, "object": "model", "created": _created(said.get("created_at")), "owned_by": _owner(said)}


def _created(said: Any) -> int:
    try:
        return int(datetime.datetime.fromisoformat(str(said)).timestamp())
    except (ValueError, OverflowError):
        return 0


def _owner(said: dict[str, Any]) -> str:
    """The provider, which our own names begin with; an alias shows whose it is."""
    provider, slash, _ = str(said.get("display_name") or said.get("id")).partition("/")
    return provider if slash else "anthropic"
