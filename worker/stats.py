"""The few counters that a worker's heartbeat carries."""

from __future__ import annotations

import attrs


@attrs.define
class Stats:
    """One writer: the handler. Readers take what they find."""

    requests: int = 0
    """Model requests that came in, whatever became of them. Probes and lists are not counted."""
    in_flight: int = 0
    """Those of them that are not answered yet."""
    failures: int = 0
    """Those that ended in an error; a client that leaves is none."""
    last_error: str | None = None
