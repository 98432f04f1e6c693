"""Asking this user's service manager."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.systemd import Systemctl

from modelproxy.ctl.faults import Fault
from modelproxy.ctl.systemd import Manager, lingers
from modelproxy.supervisor.paths import Paths


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Systemctl:
    made = Systemctl(tmp_path)
    monkeypatch.setenv("PATH", made.path)
    return made


def test_its_environment(systemctl: Systemctl, paths: Paths) -> None:
    """Plain and quoted values."""
    systemctl.answers("show-environment", "HOME=/home/me\nNAME=$'a b'\n")

    assert Manager(paths).environment() == {"HOME": "/home/me", "NAME": "a b"}


def test_without_systemctl_there_is_one_sentence(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(Fault, match="there is no systemctl") as refused:
        Manager(paths).environment()

    assert (refused.value.code, refused.value.exit_code) == ("no_systemd", 1)


def test_without_a_manager_there_is_one_sentence(systemctl: Systemctl, paths: Paths) -> None:
    """systemctl is there in many containers that systemd does not run."""
    systemctl.answers(
        "show-environment", stderr="Failed to connect to bus: No such file or directory\n", code=1
    )

    with pytest.raises(Fault, match="Failed to connect to bus") as refused:
        Manager(paths).environment()

    assert (refused.value.code, refused.value.exit_code) == ("no_systemd", 1)


def test_what_fails_is_quoted(systemctl: Systemctl, paths: Paths) -> None:
    systemctl.answers("start", stderr="Job failed.\nSee the journal.\n", code=1)

    with pytest.raises(Fault, match=r"systemctl start a b failed: Job failed\. See the journal\.") as refused:
        Manager(paths).start("a", "b")

    assert "journalctl" in refused.value.hint


def test_one_that_hangs_is_not_waited_for(systemctl: Systemctl, paths: Paths) -> None:
    systemctl.answers("stop", hook="exec sleep 60")

    with pytest.raises(Fault, match="does not return after"):
        Manager(paths).tell("stop", limit_s=0.2)


@pytest.mark.parametrize(
    ("said", "version"), [("systemd 252 (252.39-1)\n+PAM\n", 252), ("", 0), ("systemd x", 0)]
)
def test_its_version(systemctl: Systemctl, paths: Paths, said: str, version: int) -> None:
    systemctl.answers("version", said)

    assert version == Manager(paths).version()


def test_nobody_s_services_linger() -> None:
    assert not lingers("no such user")
