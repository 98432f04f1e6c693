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
    fallbacks: int = 0
    """Requests that another target answered, or was to."""
    last_error: str | None = None
    cost_usd: float = 0.0
    """What is known of the costs of all of them."""
    unpriced: int = 0
    """Answers whose cost nobody knows."""
    begun: dict[str, float] = attrs.Factory(dict)
    """When each of those in flight came in, the oldest first."""

    def charge(self, cost_usd: float | None, *, answered: bool) -> None:
        """Add one request's cost; one that failed without a known cost is no open question."""
        if cost_usd is not None:
            self.cost_usd += cost_usd
        elif answered:
            self.unpriced += 1

    def oldest_s(self, now: float) -> float | None:
        """For how long the oldest request in flight has been running."""
        return now - next(iter(self.begun.values())) if self.begun else None
