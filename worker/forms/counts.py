"""Token counts as OpenAI counts: what came from a cache or went into one is part of the prompt."""

from __future__ import annotations

from typing import Any

import attrs


@attrs.frozen
class Counts:
    """Of one answer."""

    prompt: int
    cached: int
    written: int
    output: int
    reasoned: int

    @classmethod
    def of(cls, usage: dict[str, Any]) -> Counts:
        """From the counts of the Messages API."""
        cached, written = (
            _count(usage, "cache_read_input_tokens"),
            _count(usage, "cache_creation_input_tokens"),
        )
        details = usage.get("output_tokens_details")
        return cls(
            prompt=_count(usage, "input_tokens") + cached + written,
            cached=cached,
            written=written,
            output=_count(usage, "output_tokens"),
            reasoned=_count(details, "thinking_tokens") if isinstance(details, dict) else 0,
        )


def _count(said: dict[str, Any], name: str) -> int:
    value = said.get(name)
    return value if type(value) is int and value > 0 else 0
