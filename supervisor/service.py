"""The supervisor as a service of systemd: what it tells its manager, and what it has the manager do.

Theory of operation
-------------------
*Stop or restart?* systemd ends a service in the same way for both, by SIGTERM. The difference is all that
matters here: a stop drains every worker, a restart leaves them alone, for the next supervisor. So at SIGTERM
the manager is asked which job it has for our unit. No job at all means that somebody has signalled this very
process; the manager will start it again, so the workers stay as well. When the manager does not answer, it is
a stop: nobody may come after us.

The other way round, a stop or restart that comes over the control socket is passed on to the manager, which
then ends us by SIGTERM. Otherwise it would start again what was told to stop.

*Sign of life.* The watchdog is fed only by a look at everything that has to move: one turn of the keeper's
loop, no proxy's deadline left behind, and an answer on the control socket. Whatever of it stands still keeps
the sign away; then systemd aborts this process (its stacks are in the journal) and starts another, and the
workers serve on meanwhile.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import attrs
import trio

from . import notify
from .jobs import LISTING, RESTART, STOP, job_of, systemctl
from .keeper import Keeper
from .paths import SocketAddress

_ANSWER_LIMIT_S = 5.0
_SIGNS_PER_LIMIT = 4
"""How often the watchdog is fed within its limit: one sign may be late, and one lost."""
_OVERDUE_S = 5.0


@attrs.frozen
class Service:
    """What this process is to its service manager."""

    unit: str
    """`modelproxy.service`; "" when nobody but a person has started us."""
    notifier: notify.Notifier
    watchdog_s: float | None
    has_socket_unit: bool

    @property
    def is_one(self) -> bool:
        """Whether a service manager looks after us."""
        return bool(self.unit)

    async def job(self) -> str | None:
        """What the manager is doing with our unit (`stop`, `restart` …), None for nothing.

        OSError when it does not say.
        """
        return job_of(self.unit, await self._systemctl(*LISTING))

    async def is_to_stop(self) -> bool:
        """Asked at SIGTERM: whether this is the end, and not just the end of this process."""
        if not self.is_one:
            return True
        try:
            job = await self.job()
        except OSError:
            return True
        return job is not None and not job.endswith(RESTART)

    async def pass_on(self, verb: str) -> None:
        """Have the manager stop or restart us; it does so by SIGTERM. OSError when it does not want to."""
        units = [self.unit]
        if verb == STOP and self.has_socket_unit:
            # Or the next `ps` would start what was stopped.
            units.append(self.unit.removesuffix(".service") + ".socket")
        await self._systemctl(verb, "--no-block", *units)

    async def _systemctl(self, *words: str) -> str:
        command = systemctl(dict(os.environ), *words)
        with trio.move_on_after(_ANSWER_LIMIT_S):
            done = await trio.run_process(
                command, capture_stdout=True, capture_stderr=True, stdin=subprocess.DEVNULL, check=False
            )
            if done.returncode != 0:
                raise OSError(done.stderr.decode(errors="replace").strip() or "systemctl failed")
            return done.stdout.decode(errors="replace")
        raise OSError("the service manager does not answer")

    # --- what it is told --------------------------------------------------------------------------

    async def keep_posted(self, keeper: Keeper) -> None:
        """Say how the fleet is, whenever that changes."""
        if not self.notifier.is_heard:
            return
        said = ""
        while True:
            words = _status(keeper)
            if words != said and self.notifier.tell(f"STATUS={words}"):
                said = words
            await keeper.wait_until(lambda said=said: _status(keeper) != said, float("inf"))  # type: ignore[misc]

    async def feed_watchdog(self, keeper: Keeper, control: Path, log: Callable[[str], None]) -> None:
        """A sign of life as long as everything moves."""
        if self.watchdog_s is None or not self.notifier.is_heard:
            return
        pause = self.watchdog_s / _SIGNS_PER_LIMIT
        while True:
            trouble = "the keeper's loop stands still"
            with trio.move_on_after(2 * pause):
                trouble = await signs_missing(keeper, control)
            if trouble:
                log(f"no sign of life for the service manager: {trouble}")
            else:
                self.notifier.tell("WATCHDOG=1")
            await trio.sleep(pause)


def of_environment(unit: str | None, environment: notify.Environment, *, activated: bool) -> Service:
    """As the manager has started us."""
    notifier = notify.Notifier(environment.get("NOTIFY_SOCKET", ""))
    return Service(
        unit=(unit or "") if notifier.is_heard else "",
        notifier=notifier,
        watchdog_s=notify.watchdog_s(environment),
        has_socket_unit=activated,
    )


def _status(keeper: Keeper) -> str:
    return notify.status(unit.proxy.state for unit in keeper.units.values())


async def signs_missing(keeper: Keeper, control: Path) -> str:
    """What does not move, in words; "" when all is well. Does not return while the keeper's loop hangs."""
    late = await keeper.pulse(_OVERDUE_S)
    if late:
        return f"the deadlines of {', '.join(late)} have passed unheeded"
    return "" if await answers(control) else f"no answer on {control}"


async def answers(control: Path) -> bool:
    """Whether the control socket gives an answer, whatever it is."""
    try:
        with SocketAddress(control) as address, trio.socket.socket(trio.socket.AF_UNIX) as client:
            await client.connect(address)
            await client.send(b"GET /v1/version HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            return (await client.recv(64)).startswith(b"HTTP/1.1 ")
    except OSError:
        return False
