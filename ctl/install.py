"""`proxyctl daemon install` and `uninstall`: the supervisor as a service of systemd.

Nothing that serves is cut by an installation: a supervisor that runs by itself is asked to leave without its
workers, and the one that systemd starts adopts them.
"""

from __future__ import annotations

import os
import pwd
import sys
import time
from pathlib import Path
from typing import Any

from modelproxy.supervisor.paths import Paths, prepare

from . import systemd, units
from .client import Client, supervisor_of
from .daemon import wait_until_gone
from .faults import Fault
from .processes import start_time
from .systemd import Manager

ANSWER_S = 10.0
_POLL_S = 0.05
_BOTH = (units.SOCKET, units.SERVICE)


def install(paths: Paths, *, start: bool) -> dict[str, Any]:
    """Write the units, enable them and have systemd take over; what was done."""
    manager = Manager(paths)
    _check_folders(paths, manager.environment())
    folder = units.folder(paths)
    _check_files(folder, paths)
    try:
        texts = units.render(paths, sys.executable, dict(os.environ), manager.version())
    except ValueError as error:
        raise Fault("bad_installation", str(error), "install modelproxy in another folder") from None
    _write(folder, texts)
    manager.tell("daemon-reload")
    _check_found(manager, folder)
    manager.tell("enable", *_BOTH)
    version = _hand_over(paths, manager) if start else None
    user = pwd.getpwuid(os.getuid()).pw_name
    return {
        "units": [str(folder / name) for name in _BOTH],
        "state": "started" if version else "installed",
        "pid": version["pid"] if version else None,
        "adopted": version["proxies"] if version else 0,
        "user": user,
        "linger": systemd.lingers(user),
    }


def _check_folders(paths: Paths, theirs: dict[str, str]) -> None:
    """A service finds its files by the manager's environment; a shell of another home would not find it."""
    runtime = theirs.get("XDG_RUNTIME_DIR", "")
    if str(paths.runtime.parent) != runtime:
        raise Fault(
            "systemd_failed",
            f"this shell's runtime directory is {paths.runtime.parent}, that of your services is {runtime}",
            "install from a login of your own, with XDG_RUNTIME_DIR and HOME as they are there",
        )


def _check_files(folder: Path, paths: Paths) -> None:
    for name in _BOTH:
        file = folder / name
        if file.exists() and not units.is_ours(file, paths):
            raise Fault(
                "unit_exists", f"{file} was not written by proxyctl; nothing was changed", "move it away"
            )


def _write(folder: Path, texts: dict[str, str]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            fresh = folder / f".{name}.new"
            fresh.write_text(text, encoding="utf-8")
            fresh.rename(folder / name)
    except OSError as error:
        raise Fault("systemd_failed", f"cannot write {error.filename}: {error.strerror}") from None


def _check_found(manager: Manager, folder: Path) -> None:
    """The manager may have another home than this shell."""
    found = manager.tell("show", "--property=FragmentPath", "--value", units.SERVICE).strip()
    if found and os.path.samefile(found, folder / units.SERVICE):
        return
    for name in _BOTH:
        (folder / name).unlink(missing_ok=True)
    manager.tell("daemon-reload")
    raise Fault(
        "systemd_failed",
        f"your service manager does not read {folder} (it has {found or 'no such unit'})",
        "install from a login of your own, with HOME and XDG_CONFIG_HOME as they are there",
    )


def _hand_over(paths: Paths, manager: Manager) -> dict[str, Any]:
    """From whatever runs now to the service, without a worker noticing."""
    running = supervisor_of(paths)
    if running is not None and running.get("unit") == units.SERVICE:
        # The unit may have changed. A restart leaves the workers alone.
        manager.tell("restart", units.SERVICE, limit_s=120.0)
    else:
        if running is not None:
            _ask_to_leave(paths, running)
        prepare(paths)
        manager.start(*_BOTH)
    deadline = time.monotonic() + ANSWER_S
    while time.monotonic() < deadline:
        version = supervisor_of(paths)
        if version is not None and version.get("unit") == units.SERVICE:
            return {**version, "proxies": len(Client(paths).get("/v1/proxies"))}
        time.sleep(_POLL_S)
    raise Fault("daemon_start_failed", "the service does not answer", systemd.JOURNAL)


def _ask_to_leave(paths: Paths, running: dict[str, Any]) -> None:
    pid = int(running["pid"])
    started = start_time(pid)
    try:
        Client(paths).ask("POST", "/v1/daemon/leave", {})
    except Fault as fault:
        if fault.code == "unknown_route":
            hint = "proxyctl daemon restart makes it the present version; then install again"
            raise Fault(
                fault.code, "the supervisor that runs is too old to leave its workers", hint
            ) from None
        if fault.code not in ("daemon_not_running", "daemon_gone"):
            raise
    wait_until_gone(pid, started)


def uninstall(paths: Paths) -> dict[str, Any]:
    """Stop the service (every proxy drains), disable it, and remove the units that we have written."""
    folder = units.folder(paths)
    _check_files(folder, paths)
    ours = [folder / name for name in _BOTH if units.is_ours(folder / name, paths)]
    if not ours:
        return {"units": [], "state": "not installed"}
    manager = Manager(paths)
    names = [file.name for file in ours]
    manager.tell("disable", *names)
    # In one transaction, or the socket would start the service again. A drain may take its time.
    manager.tell("stop", *names, limit_s=24 * 3600.0)
    for file in ours:
        file.unlink(missing_ok=True)
    manager.tell("daemon-reload")
    try:
        manager.tell("reset-failed", *names)
    except Fault:
        pass  # nothing had failed
    return {"units": [str(file) for file in ours], "state": "uninstalled"}
