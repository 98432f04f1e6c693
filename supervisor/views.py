"""What `ps` and `why` say: the facts of a proxy in words. Pure.

`describe` is what is, with its cause; `forecast` what happens next if nobody does anything; `remedy` the
command that helps, where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from . import policy
from .facts import Death, Phase, Proxy, State, Worker
from .tally import Tally
from .words import ago, lasting, span

_QUIET_S = policy.SILENCE_LIMIT_S / 2
"""A heart that has missed some beats is worth a word before it is worth a look."""
_TURN_S = 0.2
"""Making a process takes a moment too; longer than this it waits behind others."""


def health(proxy: Proxy) -> str:
    current = proxy.current
    if current is None:
        return "-"
    if current.ill or current.hung:
        return current.ill or "hung"
    return f"ok; {current.note}" if current.note else "ok"


def since(proxy: Proxy) -> float | None:
    """When it came to be as it is, on the supervisor's own clock; None when no supervisor of this life saw it."""
    current = proxy.current
    if current is not None and proxy.state is State.READY:
        return current.since
    if current is not None and proxy.state is State.DEGRADED and current.ill_since is not None:
        return current.ill_since
    if proxy.idle_since is not None and proxy.state is State.IDLE:
        return proxy.idle_since
    return proxy.state_since or None


# --- what is --------------------------------------------------------------------------------------


def describe(proxy: Proxy, now: float, tallies: dict[int, Tally]) -> str:
    """The state with its cause, for a person. Empty when there is nothing to add to `ready`."""
    words = _WORDS[proxy.state](proxy, now, tallies)
    if proxy.is_up and proxy.given_up is None and proxy.is_crash_loop(now):
        words += "; crash-loop" if words else "crash-loop"
    return words


def _idle(proxy: Proxy, now: float, _: dict[int, Tally]) -> str:
    why = "lazy" if proxy.care.idle_stop_s is None else f"{span(proxy.care.idle_stop_s)} without a request"
    return f"{lasting('idle for', now - (proxy.idle_since or now))} ({why})"


def _starting(proxy: Proxy, now: float, _: dict[int, Tally]) -> str:
    newcomer = proxy.successor
    return _progress("starting", newcomer, now) + _last(proxy, now) if newcomer else "starting"


def _progress(words: str, newcomer: Worker, now: float) -> str:
    age = now - newcomer.since
    waits = " (waits for its turn)" if newcomer.pid is None and age > _TURN_S else ""
    held = ", traced by a debugger" if newcomer.traced else ""
    return lasting(words, age) + waits + held


def _ready(proxy: Proxy, now: float, tallies: dict[int, Tally]) -> str:
    fat = proxy.current.fat if proxy.current else None
    queue = _queue(proxy.current, now) if proxy.current else ""
    parts = [
        _silence(proxy.current, now) if proxy.current else "",
        queue,
        *_service(proxy, tallies),
        proxy.trouble or "",
        fat or "",
        _age(proxy),
        _leavers(proxy, now, tallies),
    ]
    return "; ".join(part for part in parts if part)


def _service(proxy: Proxy, tallies: dict[int, Tally]) -> Iterator[str]:
    """Who waits for a place, and who is passed over for others."""
    tally = tallies.get(proxy.current.generation) if proxy.current else None
    if tally is not None and tally.waiting:
        yield f"{tally.waiting} in line"
    if tally is not None and tally.resting:
        yield f"left alone for now: {', '.join(tally.resting)}"


def _silence(worker: Worker, now: float) -> str:
    silent = _silent_for(worker, now)
    if worker.traced:
        return f"traced by a debugger, silent {span(silent)}"
    return f"silent {span(silent)}" if silent > _QUIET_S else ""


def _age(proxy: Proxy) -> str:
    current = proxy.current
    if current is None or current.outdated is None:
        return ""
    return f"runs {current.outdated}" + ("" if current.kept else ", replaced when its turn comes")


def _queue(worker: Worker, now: float) -> str:
    """A loop that beats may yet take nobody in."""
    if worker.stuck_since is None or now - worker.stuck_since <= _QUIET_S:
        return ""
    return f"{worker.waiting} waiting, none taken for {span(now - worker.stuck_since)}"


def _silent_for(worker: Worker, now: float) -> float:
    return now - (worker.heard_at if worker.heard_at is not None else worker.since)


def _degraded(proxy: Proxy, now: float, tallies: dict[int, Tally]) -> str:
    current = proxy.current
    if current is None:
        return "degraded"
    leavers = _leavers(proxy, now, tallies)
    after = f"; {leavers}" if leavers else ""
    reason = f"it can take no connection: {current.starved}" if current.starved else current.ill
    return f"{lasting('degraded', now - (since(proxy) or now))}: {reason}{after}"


def _rolling(proxy: Proxy, now: float, tallies: dict[int, Tally]) -> str:
    old, new = proxy.current, proxy.successor
    words = f"rolling g{old.generation if old else '?'}->g{new.generation if new else '?'}"
    if new is not None:
        words += _progress(f", g{new.generation} starting", new, now)
    leavers = _leavers(proxy, now, tallies)
    return words + (f"; {leavers}" if leavers else "")


def _leavers(proxy: Proxy, now: float, tallies: dict[int, Tally]) -> str:
    """Older generations that finish their requests behind one that serves: `g3 drains 2 (oldest 4m10s)`."""
    return "; ".join(
        _leaver(worker, tallies.get(worker.generation, Tally()), now) for worker in proxy.draining
    )


def _leaver(worker: Worker, tally: Tally, now: float) -> str:
    silence = _silence(worker, now)
    doing = f"drains {_load(tally, now)}" + (f", {silence}" if silence else "")
    doing = f"is hung ({worker.hung})" if worker.hung else doing
    return f"g{worker.generation} {doing}{_limit(worker, now)}"


def _load(tally: Tally, now: float) -> str:
    oldest = f" (oldest {span(now - tally.oldest_since)})" if tally.oldest_since is not None else ""
    return f"{tally.in_flight}{oldest if tally.in_flight else ''}"


def _limit(worker: Worker, now: float) -> str:
    return "" if worker.kill_by is None else f", kill in {span(worker.kill_by - now)}"


def _draining(proxy: Proxy, now: float, tallies: dict[int, Tally]) -> str:
    workers = proxy.draining
    if not workers:
        return "draining: waiting for what may still dial"
    told = [tallies.get(worker.generation, Tally()) for worker in workers]
    begun = [tally.oldest_since for tally in told if tally.oldest_since is not None and tally.in_flight]
    oldest = f" (oldest {span(now - min(begun))})" if begun else ""
    last = max(workers, key=lambda worker: worker.kill_by or 0.0)
    silent = "".join(_trouble(worker, now) for worker in workers)
    return f"draining {sum(tally.in_flight for tally in told)} in flight{oldest}{_limit(last, now)}{silent}"


def _trouble(worker: Worker, now: float) -> str:
    """Of one that leaves: why it may not do so by itself."""
    words = f"is hung ({worker.hung})" if worker.hung else _silence(worker, now)
    return f"; g{worker.generation} {words}" if words else ""


def _hung(proxy: Proxy, now: float, _: dict[int, Tally]) -> str:
    current = proxy.current
    if current is None:
        return "hung"
    stuck_for = 0.0 if current.stuck_since is None else now - current.stuck_since
    age = span(max(_silent_for(current, now), stuck_for))
    return f"hung {age} ({current.hung}){_limit(current, now)}"


def _backoff(proxy: Proxy, now: float, _: dict[int, Tally]) -> str:
    count = proxy.failures or proxy.spawn_failures
    repeated = bool(proxy.losses) and proxy.losses[-1].cause == proxy.trouble
    cause = f"; {proxy.trouble}" if proxy.trouble and not repeated else ""
    return f"backoff {count}, next in {_pause(proxy, now)}" + cause + _last(proxy, now)


def _pause(proxy: Proxy, now: float) -> str:
    return span((proxy.retry_at or now) - now)


def _failed(proxy: Proxy, now: float, _: dict[int, Tally]) -> str:
    reason = proxy.given_up or ""
    # Some reasons name the command themselves.
    return f"failed: {reason}" + ("" if "proxyctl" in reason else f"; fix it, then {again(proxy)}")


def _adopting(proxy: Proxy, now: float, _: dict[int, Tally]) -> str:
    pids = _awaited(proxy)
    if not pids and proxy.key_sought:
        return "adopting: its key is being fetched"
    return f"adopting: waiting for pid {pids} to dial" if pids else "adopting"


def _awaited(proxy: Proxy) -> str:
    absent = [worker for worker in proxy.workers if worker.phase is Phase.ABSENT]
    return ", ".join(str(worker.pid) for worker in absent if worker.pid)


def _stopped(proxy: Proxy, now: float, _: dict[int, Tally]) -> str:
    return ""


_WORDS: dict[State, Callable[[Proxy, float, dict[int, Tally]], str]] = {
    State.IDLE: _idle,
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
    if not proxy.losses:
        return ""
    death = proxy.losses[-1]
    return f"; last: {death.cause} {ago(now - death.at)}"


# --- what comes -----------------------------------------------------------------------------------


def forecast(proxy: Proxy, now: float) -> str:
    """What happens next if nobody does anything. Empty when nothing is due."""
    return _NEXT[proxy.state](proxy, now)


def _next_ready(proxy: Proxy, now: float) -> str:
    current = proxy.current
    if current is not None and current.traced:
        return "nothing while a debugger holds it"
    if current is not None and _silent_for(current, now) > _QUIET_S:
        return f"silent for {policy.SILENCE_LIMIT_S:.0f} s, its process is looked at"
    if current is not None and _queue(current, now):
        return f"if it takes none for {policy.SILENCE_LIMIT_S:.0f} s it is taken for hung"
    if proxy.draining:
        return _next_leaver(proxy, now, "the older worker leaves when its requests are finished")
    if proxy.idle_at is not None:
        return f"without a request it goes in {span(proxy.idle_at - now)}, until the next connection"
    if proxy.settled_at is not None and proxy.failures:
        return f"its deaths are forgotten in {span(proxy.settled_at - now)} if it stays ready"
    return ""


def _next_idle(proxy: Proxy, now: float) -> str:
    return "the next connection starts a worker and waits for it"


def _next_starting(proxy: Proxy, now: float) -> str:
    newcomer = proxy.successor
    if newcomer is None or newcomer.start_by is None:
        return "it starts as soon as other starts have made room; connections wait"
    return f"if it is not ready in {span(newcomer.start_by - now)} it is killed; connections wait"


def _next_rolling(proxy: Proxy, now: float) -> str:
    newcomer = proxy.successor
    limit = f"within {span(newcomer.start_by - now)}" if newcomer and newcomer.start_by else "in time"
    return f"if the new worker is ready {limit}, the old one drains; if not, the old one stays"


def _next_degraded(proxy: Proxy, now: float) -> str:
    if proxy.current is not None and proxy.current.starved:
        return "new connections get 529 until it has room again; a raised limit (ulimit -n) holds for new workers only"
    return "the worker goes on looking at its provider; it is not restarted, for that would not help"


def _next_hung(proxy: Proxy, now: float) -> str:
    return "the stacks of its threads go to the log, then SIGKILL and a new worker; connections wait"


def _next_backoff(proxy: Proxy, now: float) -> str:
    clients = "clients get 503 with retry-after" if proxy.answers_down(now) else "connections wait"
    return f"the next start is in {_pause(proxy, now)}; until then {clients}"


def _next_failed(proxy: Proxy, now: float) -> str:
    itself = "when the configuration changes it is asked again" if proxy.key_unfound else "nothing by itself"
    return f"{itself}; clients get 503 with x-should-retry: false and this reason"


def _next_adopting(proxy: Proxy, now: float) -> str:
    if proxy.key_sought and not proxy.workers:
        return "it starts when its key is there; connections wait"
    due = min((worker.kill_by for worker in proxy.workers if worker.kill_by is not None), default=now)
    return f"if it has not dialled in {span(due - now)} it is replaced"


def _next_draining(proxy: Proxy, now: float) -> str:
    newcomers = "the next connection starts a worker" if proxy.is_up else "new connections are refused"
    return f"{_next_leaver(proxy, now, 'when its requests are finished it leaves')}; {newcomers}"


def _next_leaver(proxy: Proxy, now: float, usually: str) -> str:
    """What becomes of those who only finish their requests; who is silent may never do so."""
    if any(worker.hung for worker in proxy.draining):
        return "the stacks of the threads of the one that hangs go to the log, then SIGKILL"
    if any(_silent_for(worker, now) > _QUIET_S and not worker.traced for worker in proxy.draining):
        return f"silent for {policy.SILENCE_LIMIT_S:.0f} s, the process of the one that leaves is looked at"
    return usually


def _next_stopped(proxy: Proxy, now: float) -> str:
    return "nothing: it is not wanted; connections are refused"


_NEXT: dict[State, Callable[[Proxy, float], str]] = {
    State.IDLE: _next_idle,
    State.STARTING: _next_starting,
    State.READY: _next_ready,
    State.DEGRADED: _next_degraded,
    State.ROLLING: _next_rolling,
    State.DRAINING: _next_draining,
    State.HUNG: _next_hung,
    State.BACKOFF: _next_backoff,
    State.FAILED: _next_failed,
    State.ADOPTING: _next_adopting,
    State.STOPPED: _next_stopped,
}


# --- what helps -----------------------------------------------------------------------------------


def remedy(proxy: Proxy, now: float) -> str:
    """The command for somebody who wants it otherwise. Empty when there is nothing to mend."""
    state, name = proxy.state, proxy.name
    if state is State.FAILED and proxy.key_lost and proxy.key_unfound is None:
        return f"{again(proxy)} --api-key -"
    if state in (State.FAILED, State.STOPPED):
        return again(proxy)
    if state is State.BACKOFF:
        return f"proxyctl restart {name}"
    if state is State.DRAINING:
        return f"proxyctl down {name} --grace 0"
    if proxy.is_up and (proxy.is_crash_loop(now) or state is State.HUNG):
        return f"proxyctl logs {name} -n 200"
    return ""


def again(proxy: Proxy) -> str:
    """The `up` that means this very proxy, one of the configuration by its name there. A model's second proxy is
    told from its first by the port.
    """
    spec, name = proxy.spec, proxy.name
    said = proxy.said
    port = f" --port {spec.port}" if name != said or not proxy.wanted else ""
    return f"proxyctl up {said}{port}"


# --- for programs ---------------------------------------------------------------------------------

Epoch = Callable[[float], float]
"""From the supervisor's own clock to seconds since the epoch."""


def deaths(proxy: Proxy, epoch: Epoch) -> list[dict[str, Any]]:
    """The last unasked exits, newest last."""
    return [_death(death, epoch) for death in proxy.deaths]


def _death(death: Death, epoch: Epoch) -> dict[str, Any]:
    return {
        "at": epoch(death.at),
        "cause": death.cause,
        "generation": death.generation,
        "pid": death.pid,
        "was_ready": death.was_ready,
        "was_leaving": death.was_leaving,
        "lived_s": None if death.lived_s is None else round(death.lived_s, 3),
    }


def workers(proxy: Proxy, now: float, tallies: dict[int, Tally], epoch: Epoch) -> list[dict[str, Any]]:
    """Every process of it, oldest first."""
    found = []
    for worker in proxy.workers:
        tally = tallies.get(worker.generation, Tally())
        found.append(
            {
                "generation": worker.generation,
                "pid": worker.pid,
                "phase": str(worker.phase),
                "since": epoch(worker.since),
                "requests": tally.requests,
                "in_flight": tally.in_flight,
                "oldest_s": None if tally.oldest_since is None else round(now - tally.oldest_since, 1),
                "silent_s": None if worker.heard_at is None else round(now - worker.heard_at, 1),
                "kill_in_s": None if worker.kill_by is None else round(worker.kill_by - now, 1),
            }
        )
    return found
