"""`proxyctl daemon install` and `uninstall`, with a systemctl that only pretends (`systemd/prove` has a real one)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes.control import Control
from fakes.systemd import Systemctl
from fakes.terminal import Run

from modelproxy.ctl import autostart, daemon, install, units
from modelproxy.supervisor.paths import Paths

BOTH = f"{units.SOCKET} {units.SERVICE}"


@pytest.fixture
def systemctl(tmp_path: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch) -> Systemctl:
    """It finds the units where they are written."""
    made = Systemctl(tmp_path)
    monkeypatch.setenv("PATH", made.path)
    made.answers("show-environment", f"XDG_RUNTIME_DIR={paths.runtime.parent}\n")
    made.answers("show", f"{units.folder(paths) / units.SERVICE}\n")
    made.answers("version", "systemd 257 (257.1)\n")
    return made


def served_by(control: Control, unit: str | None) -> None:
    control.replies["GET /v1/version"] = (200, control.version() | {"unit": unit})


def written(paths: Paths) -> list[str]:
    return sorted(path.name for path in units.folder(paths).glob("*")) if units.folder(paths).exists() else []


def test_install_writes_enables_and_starts(run: Run, systemctl: Systemctl, control: Control) -> None:
    """Nothing runs by hand: systemd starts it, and it answers."""
    served_by(control, units.SERVICE)
    ran = run("daemon", "install")

    assert ran.code == 0, ran
    assert written(control.paths) == [units.SERVICE, units.SOCKET]
    asked = [
        one for one in systemctl.asked if one.split()[0] not in ("show", "show-environment", "--version")
    ]
    assert asked == ["daemon-reload", f"enable {BOTH}", f"restart {units.SERVICE}"]
    assert f"started  pid {control.pid}, 0 proxies taken over" in ran.out
    assert "loginctl enable-linger" in ran.err


def test_a_supervisor_by_hand_is_asked_to_leave(
    run: Run, systemctl: Systemctl, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before systemd starts its own; and the one that answers then must be the service's."""
    served_by(control, None)
    control.replies["POST"] = (200, control.version())
    monkeypatch.setattr(install, "wait_until_gone", lambda pid, started: served_by(control, units.SERVICE))
    ran = run("daemon", "install", "--json")

    assert json.loads(ran.out)["state"] == "started"
    assert "POST /v1/daemon/leave" in control.paths_asked
    assert systemctl.asked[-1] == f"start {BOTH}"


def test_a_supervisor_too_old_to_leave(run: Run, systemctl: Systemctl, control: Control) -> None:
    served_by(control, None)
    ran = run("daemon", "install")

    assert ran.code == 1
    assert "too old to leave its workers" in ran.err
    assert "daemon restart" in ran.err


def test_no_start_leaves_what_runs_alone(run: Run, systemctl: Systemctl, control: Control) -> None:
    ran = run("daemon", "install", "--no-start")

    assert ran.code == 0
    assert control.asked == []
    assert not [one for one in systemctl.asked if one.startswith(("start", "restart"))]
    assert "enabled" in ran.out


def test_a_unit_of_somebody_else_s_is_not_touched(run: Run, systemctl: Systemctl, paths: Paths) -> None:
    file = units.folder(paths) / units.SERVICE
    file.parent.mkdir(parents=True)
    file.write_text("[Service]\nExecStart=/bin/true\n")

    for command in ("install", "uninstall"):
        ran = run("daemon", command)
        assert ran.code == 1
        assert "was not written by proxyctl; nothing was changed" in ran.err
    assert file.read_text() == "[Service]\nExecStart=/bin/true\n"


def test_a_manager_of_another_home_gets_nothing(run: Run, systemctl: Systemctl, paths: Paths) -> None:
    """It would never read what was written here."""
    systemctl.answers("show", "\n")
    ran = run("daemon", "install")

    assert ran.code == 1
    assert "does not read" in ran.err
    assert written(paths) == []


def test_a_manager_of_another_runtime_directory_gets_nothing(
    run: Run, systemctl: Systemctl, paths: Paths
) -> None:
    systemctl.answers("show-environment", "XDG_RUNTIME_DIR=/run/user/4711\n")
    ran = run("daemon", "install")

    assert ran.code == 1
    assert "/run/user/4711" in ran.err
    assert written(paths) == []


def test_without_systemd_one_sentence_and_exit_code_1(run: Run, systemctl: Systemctl, paths: Paths) -> None:
    systemctl.answers("show-environment", stderr="Failed to connect to bus: no medium\n", code=1)
    ran = run("daemon", "install")

    assert ran.code == 1
    assert len(ran.err.splitlines()) == 2
    assert written(paths) == []


def test_a_service_that_does_not_start_says_where_to_look(
    run: Run, systemctl: Systemctl, paths: Paths
) -> None:
    systemctl.answers("start", stderr="Job for modelproxy.service failed.\n", code=1)
    ran = run("daemon", "install")

    assert ran.code == 1
    assert "journalctl --user -u modelproxy" in ran.err


def test_uninstall_stops_both_at_once_and_removes_what_was_written(
    run: Run, systemctl: Systemctl, paths: Paths
) -> None:
    run("daemon", "install", "--no-start")
    ran = run("daemon", "uninstall")

    assert ran.code == 0
    assert written(paths) == []
    assert systemctl.asked[-4:] == [
        f"disable {BOTH}",
        f"stop {BOTH}",
        "daemon-reload",
        f"reset-failed {BOTH}",
    ]


def test_nothing_to_uninstall_is_no_failure(run: Run, paths: Paths) -> None:
    ran = run("daemon", "uninstall")

    assert (ran.code, ran.out) == (0, "not installed\n")


# --- what follows from being installed ------------------------------------------------------------------


def test_start_is_systemd_s(
    run: Run, systemctl: Systemctl, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second supervisor beside the service would only be in its way."""
    run("daemon", "install", "--no-start")
    monkeypatch.setattr(autostart, "COMMAND", ("/not/there",))
    monkeypatch.setattr(autostart, "supervisor_of", lambda paths: {"pid": 7})

    assert autostart.start(paths) == {"pid": 7}
    assert systemctl.asked[-1] == f"start {BOTH}"


def test_without_a_login_it_is_started_by_hand(
    run: Run, systemctl: Systemctl, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No service manager runs then; once one does, its service takes over."""
    run("daemon", "install", "--no-start")
    systemctl.answers("start", stderr="Failed to connect to bus: No medium found\n", code=1)
    monkeypatch.setattr(autostart, "COMMAND", ("/bin/true",))
    monkeypatch.setattr(autostart, "supervisor_of", lambda paths: {"pid": 7})

    assert autostart.start(paths) == {"pid": 7}


def test_stop_waits_for_systemd(
    systemctl: Systemctl, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control socket goes last: a command right afterwards must not find it."""
    served_by(control, units.SERVICE)
    monkeypatch.setattr(daemon, "wait_until_gone", lambda pid, started: None)
    daemon.stop(control.paths, None)

    assert systemctl.asked == [f"stop {BOTH}"]
