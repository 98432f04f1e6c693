"""What is learnt of one model request on its way, and the ledger's row that this makes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

import attrs

from . import failures
from .contract import WorkerSpec
from .failures import Failure, Kind
from .ledger import CANCELLED, CUT, Row
from .wire.items import Usage

LOCAL_KINDS = frozenset({"echo", "ollama"})
"""They cost nothing but electricity."""

_LONGEST_NAME = 200
_KILLED = Failure(Kind.CUT, "the worker was killed")


class Told(Protocol):
    """What an answer has told of itself so far."""

    @property
    def said(self) -> Usage:
        """The provider's own numbers."""

    @property
    def stop_reason(self) -> str | None:
        """None: it has not stopped by itself."""

    def usage(self) -> dict[str, int]:
        """The provider's own numbers, estimates where it said nothing."""


@attrs.define
class Account:
    """One model request. Who serves it fills in what becomes known."""

    ts: float
    request_id: str
    session_id: str | None = None
    agent: str | None = None
    agent_id: str | None = None
    route: str | None = None
    """None: straight to this proxy."""
    token: str | None = None
    """The name of the access token that came with it."""
    model: str | None = None
    """As the client calls it; None: its body could not be read."""
    stream: bool = False
    told: Told | None = None
    """None: no provider was asked."""
    ttft_s: float | None = None
    retries: int = 0
    refusal: tuple[int, str] | None = None
    """Status and type of an error in the provider's own words."""
    subscription: bool = False
    """The caller pays by the month."""

    def row(
        self,
        spec: WorkerSpec,
        *,
        duration_s: float,
        failure: Failure | None,
        gone: bool,
        far: WorkerSpec | None = None,
        fallbacks: Sequence[str] = (),
    ) -> Row:
        """How it stands now. `gone`: the client left before the answer was whole.

        `far`: who answered, or was to. `fallbacks`: who should have, and why that came to nothing.
        """
        far = far or spec
        status, error_type = _end(failure, self.refusal, gone=gone)
        said = self.told.said if self.told else Usage()
        cost, source = self._cost(far.kind, said)
        usage, estimated = self._tokens(said, failed=bool(failure or self.refusal))
        return Row(
            ts=self.ts,
            request_id=self.request_id,
            session_id=self.session_id,
            agent=self.agent,
            agent_id=self.agent_id,
            token=self.token,
            proxy=spec.name,
            port=spec.port,
            provider=far.provider,
            requested_model=self.model,
            model=far.model or self.model or "",
            route=self.route or spec.model_id,
            stream=self.stream,
            status=status,
            error_type=error_type,
            stop_reason=self.told.stop_reason if self.told and error_type is None else None,
            input_tokens=usage.get("input_tokens"),
            output_tokens=usage.get("output_tokens"),
            cache_read_tokens=usage.get("cache_read_input_tokens"),
            cache_write_tokens=usage.get("cache_creation_input_tokens"),
            tokens_estimated=estimated,
            cost_usd=cost,
            cost_source=source,
            duration_ms=_ms(duration_s),
            ttft_ms=None if self.ttft_s is None else _ms(self.ttft_s),
            retry_count=self.retries,
            fallback=bool(fallbacks),
            fallback_reason="; ".join(fallbacks) or None,
        )

    def last_will(
        self,
        spec: WorkerSpec,
        *,
        pid: int,
        now: float,
        far: WorkerSpec | None = None,
        fallbacks: Sequence[str] = (),
    ) -> Row:
        """What is true of it if process `pid` ends before it writes again. `now`: the time of day."""
        took_s = max(0.0, now - self.ts)
        row = self.row(spec, duration_s=took_s, failure=_KILLED, gone=False, far=far, fallbacks=fallbacks)
        return attrs.evolve(row, error_type=CUT, pid=pid)

    def _cost(self, kind: str, said: Usage) -> tuple[float | None, str]:
        if kind in LOCAL_KINDS:
            return 0.0, "local"
        if said.cost_usd is not None:
            return said.cost_usd, "provider"
        return None, "subscription" if self.subscription else "unknown"

    def _tokens(self, said: Usage, *, failed: bool) -> tuple[dict[str, int], bool]:
        if self.told is None:
            return {}, False
        usage = self.told.usage()
        silent = said.input_tokens is None and said.output_tokens is None
        if failed and silent and self.ttft_s is None and not usage.get("output_tokens"):
            return {}, False  # an estimate of what no model has read would be added to what was paid for
        return usage, bool(usage) and (said.input_tokens is None or said.output_tokens is None)


def _end(failure: Failure | None, refusal: tuple[int, str] | None, *, gone: bool) -> tuple[int, str | None]:
    if failure is not None:
        rule = failures.RULES[failure.kind]
        return rule.status, rule.type
    if refusal is not None:
        return refusal
    return (CANCELLED, "cancelled") if gone else (200, None)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


def name_in(value: bytes | None) -> str | None:
    """A client's name for something, as it may be kept."""
    if not value:
        return None
    return "".join(char if " " <= char <= "~" else "?" for char in value.decode("latin-1"))[:_LONGEST_NAME]


def wall_clock() -> float:
    """Seconds since the epoch."""
    return time.time()  # noqa: TID251  # for people and records only
