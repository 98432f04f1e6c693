"""Telling a supervisor that runs of a file that we have just changed, instead of leaving it to find out."""

from __future__ import annotations

from modelproxy.supervisor.paths import Paths

from .client import Client
from .faults import Fault, talk


def apply(paths: Paths) -> str:
    """Have it read the file now, and wait for nothing else; why it did not, unless there is none."""
    try:
        Client(paths).ask("POST", "/v1/daemon/reload?soon=1", {})
    except Fault as fault:
        return "" if fault.code == "daemon_not_running" else fault.message
    return ""


def apply_or_warn(paths: Paths) -> None:
    """The same for whoever has nothing better to say of it."""
    if trouble := apply(paths):
        talk(f"warning: what runs does not know it yet: {trouble}")
