"""This user's service manager, by way of `systemctl --user`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from modelproxy.supervisor.paths import Paths

from .faults import Fault

TIMEOUT_S = 30.0
_START_LIMIT_S = 120.0


class Manager:
    """systemd's manager of this user's services; Fault "no_systemd" when there is none."""

    def __init__(self, paths: Paths) -> None:
        self._environment = dict(os.environ)
        if not os.environ.get("XDG_RUNTIME_DIR"):  # su, cron: it is where our own files are as well
            self._environment["XDG_RUNTIME_DIR"] = str(paths.runtime.parent)

    def environment(self) -> dict[str, str]:
        """What every service of this user finds in its environment."""
        lines = (line.partition("=") for line in self.tell("show-environment").splitlines())
        return {name: _unquoted(value) for name, _, value in lines}

    def version(self) -> int:
        """252 and the like; 0 when it does not say."""
        words = self.tell("--version").split()
        return int(words[1]) if len(words) > 1 and words[1].isdecimal() else 0

    def tell(self, *words: str, limit_s: float = TIMEOUT_S) -> str:
        """`systemctl --user WORDS`; what it prints."""
        command = ["systemctl", "--user", "--no-pager", "--no-ask-password", *words]
        try:
            done = subprocess.run(
                command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=limit_s,
                check=False,
            )
        except FileNotFoundError:
            raise no_systemd("there is no systemctl") from None
        except subprocess.TimeoutExpired:
            raise Fault(
                "systemd_failed", f"systemctl {words[0]} does not return after {limit_s:g}s"
            ) from None
        if done.returncode == 0:
            return done.stdout
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        if "connect to bus" in said:
            raise no_systemd(said)
        raise Fault("systemd_failed", f"systemctl {' '.join(words)} failed: {said}", JOURNAL)

    def start(self, *units: str) -> None:
        """Start them and wait until they are ready."""
        self.tell("start", *units, limit_s=_START_LIMIT_S)


JOURNAL = "journalctl --user -u modelproxy tells why"


def no_systemd(why: str) -> Fault:
    return Fault(
        "no_systemd",
        f"systemd does not manage services for this user here: {why}",
        "proxyctl daemon start works without it; for launchd see docs/service.md",
    )


def lingers(user: str) -> bool:
    """Whether this user's services run without a login."""
    return Path("/var/lib/systemd/linger", user).exists()


def _unquoted(value: str) -> str:
    """`show-environment` quotes for a shell: $'…' around what is not plain."""
    return value[2:-1] if value.startswith("$'") and value.endswith("'") else value
