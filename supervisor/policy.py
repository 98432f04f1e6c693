"""When to try again and when to give up: the numbers, and nothing but the numbers.

Lessons built in: the counter is reset by *time being ready*, not by "it started"; what worked once is
never given up; what cannot be helped by another try (exit 78) is given up at once.
"""

from __future__ import annotations

FIRST_DELAY_S = 0.25
MAX_DELAY_S = 30.0
FREE_RESTART_AFTER_S = 10.0
"""A first death after this long being ready is answered at once."""
RESET_AFTER_S = 60.0
MAX_NEVER_READY = 5
CRASH_LOOP_DEATHS = 5
CRASH_LOOP_WINDOW_S = 600.0
KEPT_DEATHS = 20

START_LIMIT_S = 20.0
START_TURN_S = 5.0
"""So long a start that is not ready keeps others waiting: one that is mute needs no processor."""
STARTS_PER_WINDOW = 100
"""At most, over all proxies, …"""
START_WINDOW_S = 60.0
"""… within this time."""
ADOPT_WINDOW_S = 3.0
SILENCE_LIMIT_S = 10.0
"""Heartbeats come every 2 s; this long without one and the worker is looked at."""
BUSY_SILENCE_LIMIT_S = 30.0
"""The same while its CPU time still advances."""
WAKE_GRACE_S = 3.0
"""After standing still ourselves: what waits in the sockets is heard before anybody is judged."""
ABORT_TO_KILL_S = 1.0
DRAIN_TO_KILL_S = 1.5
"""What a worker gets beyond its grace to say its last words before SIGKILL."""
ROLL_GRACE_S = 900.0
MAX_DRAINING = 2
MEMORY_LOOK_S = 10.0
"""How often a worker's memory is looked at, where there is a limit to it."""
RECYCLE_PAUSE_S = 600.0
"""From one roll for the sake of memory to the next: a worker that is too large at once is not rolled for ever."""
QUEUE_THROUGH_S = 2.0
"""A pause up to this long is sat out in the accept queue; in a longer one the supervisor answers 503."""

LEASE_PATIENCE_S = 10.0
"""After a supervisor's end: so long a proxy waits for those who held a lease of it to say so again."""


def restart_delay(failures: int, ready_for_s: float, jitter: float) -> float:
    """Seconds until the next start after death number `failures`; `jitter` is in 0.75 … 1.25."""
    if failures <= 1 and ready_for_s >= FREE_RESTART_AFTER_S:
        return 0.0
    return min(MAX_DELAY_S, FIRST_DELAY_S * 2.0 ** min(failures - 1, 20)) * jitter


def spawn_retry_delay(failures: int, jitter: float) -> float:
    """Seconds until the next try when the system could not make a process: not the proxy's fault."""
    return min(MAX_DELAY_S, 1.0 * 2.0 ** min(failures - 1, 10)) * jitter


def is_crash_loop(deaths_at: list[float], now: float) -> bool:
    """Whether these deaths are so many, so close, that a person should look."""
    return sum(now - at <= CRASH_LOOP_WINDOW_S for at in deaths_at) >= CRASH_LOOP_DEATHS
