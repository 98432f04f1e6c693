"""What `ps` shows: the facts of a proxy in words. Pure."""

from __future__ import annotations

import attrs

from .facts import Phase, Proxy, State


@attrs.frozen
class Tally:
    """What a worker last reported."""

    requests: int = 0
    in_flight: int = 0
    last_error: str | None = None
    ready_at: float | None = None
    """Seconds since the epoch."""


def health(proxy: Proxy) -> str:
    current = proxy.current
    if current is None:
        return "-"
    if current.ill or current.hung:
        return current.ill or "hung"
    return f"ok; {current.note}" if current.note else "ok"


def describe(proxy: Proxy, now: float, tallies: dict[int, Tally]) -> str:
    """The state with its cause, for a person. Empty when there is nothing to add to `ready`."""
    words = _WORDS[proxy.state](proxy, now, tallies)
    if proxy.is_up and proxy.is_crash_loop(now):
        words += "; crash-loop" if words else "crash-loop"
    return words


def _starting(proxy: Proxy, now: float, _: dict[int, Tally]) -> str:
    newcomer = proxy.successor
    age = now - newcomer.since if newcomer else 0.0
    return f"starting {seconds(age)}" + _last(proxy, now)


def _ready(proxy: Proxy, now: float, tallies: dict[int, Tally]) -> str:
    parts = []
    if proxy.trouble:
        parts.append(proxy.trouble)
    if proxy.draining:
        parts.append(_draining_of(proxy, now, tallies))
    return "; ".join(parts)


def _degraded(proxy: Proxy, now: float, tallies: dict[int, Tally]) -> str:
    current = proxy.current
    return f"degraded: {current.ill if current else ''}"


def _rolling(proxy: Proxy, now: float, tallies: dict[int, Tally]) -> str:
    old, new = proxy.current, proxy.successor
    return f"rolling g{old.generation if old else '?'}->g{new.generation if new else '?'}"


def _draining(proxy: Proxy, now: float, tallies: dict[int, Tally]) -> str:
    return _draining_of(proxy, now, tallies)


def _draining_of(proxy: Proxy, now: float, tallies: dict[int, Tally]) -> str:
    workers = proxy.draining
    if not workers:
        return "waiting for what may still dial"
    in_flight = sum(tallies.get(worker.generation, Tally()).in_flight for worker in workers)
    names = ", ".join(f"g{worker.generation}" for worker in workers)
    deadline = min((worker.kill_by for worker in workers if worker.kill_by is not None), default=None)
    limit = f", kill in {seconds(max(0.0, deadline - now))}" if deadline is not None else ""
    return f"draining {names}: {in_flight} in flight{limit}"


def _hung(proxy: Proxy, now: float, _: dict[int, Tally]) -> str:
    current = proxy.current
    if current is None:
        return "hung"
    silent = now - (current.heard_at if current.heard_at is not None else current.since)
    return f"hung {seconds(silent)} ({current.hung})"


def _backoff(proxy: Proxy, now: float, _: dict[int, Tally]) -> str:
    pause = max(0.0, (proxy.retry_at or now) - now)
    count = proxy.failures or proxy.spawn_failures
    cause = "" if proxy.deaths and proxy.deaths[-1].cause == proxy.trouble else f"; {proxy.trouble}"
    return f"backoff {count}, next in {seconds(pause)}" + (cause if proxy.trouble else "") + _last(proxy, now)


def _failed(proxy: Proxy, now: float, _: dict[int, Tally]) -> str:
    return f"failed: {proxy.given_up}; fix it, then proxyctl up {proxy.spec.model_id}"


def _adopting(proxy: Proxy, now: float, _: dict[int, Tally]) -> str:
    pids = ", ".join(
        str(worker.pid) for worker in proxy.workers if worker.phase is Phase.ABSENT and worker.pid
    )
    return f"adopting: waiting for pid {pids} to dial" if pids else "adopting"


def _stopped(proxy: Proxy, now: float, _: dict[int, Tally]) -> str:
    return ""


_WORDS = {
    State.STARTING: _starting,
    State.READY: _ready,
    State.DEGRADED: _degraded,
    State.ROLLING: _rolling,
    State.DRAINING: _draining,
    State.HUNG: _hung,
    State.BACKOFF: _backoff,
    State.FAILED: _failed,
    State.ADOPTING: _adopting,
    State.STOPPED: _stopped,
}


def _last(proxy: Proxy, now: float) -> str:
    if not proxy.deaths:
        return ""
    death = proxy.deaths[-1]
    return f"; last: {death.cause} {seconds(now - death.at)} ago"


def seconds(span: float) -> str:
    """A span as a person says it: 0.3s, 12s, 4m10s, 2h05m."""
    if span < 10:
        return f"{span:.1f}s"
    whole = int(span)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
