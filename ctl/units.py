"""The systemd units of this installation: where they belong, what stands in them, whether they are ours.

The files in `systemd/` are both what a person reads and what is installed; only what depends on the
installation is put in: the interpreter, and folders that this shell's XDG variables have moved. A file of
ours begins with a line that says so and names the runtime directory it serves: nothing else is ever
replaced, removed, or used to start a supervisor.
"""

from __future__ import annotations

from pathlib import Path

from modelproxy.supervisor.paths import Paths

SERVICE = "modelproxy.service"
SOCKET = "modelproxy.socket"
TEMPLATES = Path(__file__).resolve().parents[1] / "systemd"
_SEARCHED = "/usr/bin/env PATH=%h/.local/bin:/usr/local/bin:/usr/bin:/bin proxyctl daemon "
_MODULES = {"run": "modelproxy.supervisor", "reap": "modelproxy.supervisor.reap"}
_MOVED = ("XDG_STATE_HOME", "XDG_CONFIG_HOME")
_KNOWN_FROM = {"RestartSteps": 254, "RestartMaxDelaySec": 254}
"""An older systemd would complain about these at every start, so there they are left out."""


def folder(paths: Paths) -> Path:
    """Where this user's service manager looks for units."""
    return paths.config.parent / "systemd" / "user"


def is_installed(paths: Paths) -> bool:
    """Whether this user's supervisor is a service, by units that we have written."""
    return is_ours(folder(paths) / SERVICE, paths)


def is_ours(file: Path, paths: Paths) -> bool:
    try:
        with file.open(encoding="utf-8", errors="replace") as lines:
            return lines.readline() == _marker(paths)
    except OSError:
        return False


def _marker(paths: Paths) -> str:
    return f'# Written by "proxyctl daemon install" for {paths.runtime}; "proxyctl daemon uninstall" removes it.\n'


def render(paths: Paths, python: str, environment: dict[str, str], version: int) -> dict[str, str]:
    """The text of each unit, for that version of systemd. ValueError for an interpreter that it cannot start."""
    if any(char in python for char in "$\n\\") or not python.startswith("/"):
        raise ValueError(f"systemd cannot start {python!r}")
    texts = {name: (TEMPLATES / name).read_text(encoding="utf-8") for name in (SERVICE, SOCKET)}
    service = texts[SERVICE]
    for command, module in _MODULES.items():
        service = service.replace(f"{_SEARCHED}{command}", f"{quoted(python)} -P -m {module}")
    too_new = tuple(f"{name}=" for name, since in _KNOWN_FROM.items() if version < since)
    service = "".join(line for line in service.splitlines(keepends=True) if not line.startswith(too_new))
    moved = [f"{name}={environment[name]}" for name in _MOVED if environment.get(name, "").startswith("/")]
    if moved:
        lines = "".join(f"Environment={quoted(one)}\n" for one in moved)
        why = "# As in the shell that installed this.\n"
        service = service.replace("\n[Install]", f"{why}{lines}\n[Install]")
    texts[SERVICE] = service
    return {name: _marker(paths) + text for name, text in texts.items()}


def quoted(text: str) -> str:
    """As one word of a unit file."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'
