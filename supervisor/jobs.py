"""What systemd is doing with a unit, as `systemctl list-jobs` tells it. Imports nothing: `reap` is to be quick."""

from __future__ import annotations

STOP, RESTART = "stop", "restart"


def systemctl(environment: dict[str, str], *words: str) -> list[str]:
    """The command line; the manager of a user says by a variable that it is one."""
    user = ["--user"] if "MANAGERPID" in environment else []
    return ["systemctl", *user, "--no-pager", "--no-ask-password", *words]


LISTING = ("list-jobs", "--no-legend", "--plain", "--full")


def job_of(unit: str, listing: str) -> str | None:
    """`stop`, `restart` … as the manager calls it; None when it has nothing in hand for this unit."""
    for line in listing.splitlines():
        words = line.split()
        if len(words) >= 4 and words[1] == unit:
            return words[2]
    return None
