"""After a stop of the service: end the workers of a supervisor that could not do it itself.

`ExecStopPost=` of the systemd unit. A supervisor that stops in order leaves nobody behind. One that was killed
because it did not stop in time does, and systemd leaves its workers alone (`KillMode=process`). So they are ended
here, but only when the manager really has a stop in hand: after a crash and at a restart they are to serve on.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from .jobs import LISTING, STOP, job_of, systemctl

_ANSWER_LIMIT_S = 5.0
_GRACE_S = 5.0
"""What a worker gets: its streams have had the whole time of the supervisor already."""


def main(argv: list[str] | None = None) -> int:
    """Always 0: there is nothing that systemd could do about it."""
    parser = argparse.ArgumentParser(prog="python -m modelproxy.supervisor.reap", description=__doc__)
    parser.add_argument("--unit", required=True)
    unit = parser.parse_args(argv).unit
    # Decided before anything is imported that takes time: after a crash the next supervisor waits for this to end.
    if os.environ.get("SERVICE_RESULT") == "success" or not _is_stopping(unit):
        return 0
    import trio

    trio.run(_reap)
    return 0


def _is_stopping(unit: str) -> bool:
    """Whether the manager has a stop in hand, for certain."""
    try:
        done = subprocess.run(
            systemctl(dict(os.environ), *LISTING),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_ANSWER_LIMIT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return job_of(unit, done.stdout) == STOP


async def _reap() -> None:
    import signal

    import trio

    from . import paths, runner, state

    records = state.peek(paths.find().state_file)
    workers = [worker for record in records for worker in record.workers if worker.pid is not None]
    handles = [
        handle
        for one in workers
        if (handle := runner.recognise(one.generation, one.pid or 0, one.start_time, one.boot_id, one.token))
    ]
    for handle in handles:
        handle.signal(signal.SIGTERM)
        handle.signal(signal.SIGCONT)
    with trio.move_on_after(_GRACE_S):
        for handle in handles:
            await runner.wait_exit(handle)
    for handle in handles:
        runner.kill(handle)
        handle.close()
    if handles:
        sys.stderr.write(f"workers that the supervisor had left behind, ended: {len(handles)}\n")


if __name__ == "__main__":
    sys.exit(main())
