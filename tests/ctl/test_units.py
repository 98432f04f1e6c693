"""The systemd units: what stands in them, and that systemd takes them."""

from __future__ import annotations

import itertools
import plistlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from modelproxy.ctl import units
from modelproxy.supervisor.paths import Paths

OLD, NEW = 252, 257


def directives(text: str) -> dict[str, str]:
    """`Section.Key` -> value; of several of a kind the last."""
    found, section = {}, ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found[f"{section}.{key}"] = value
    return found


def rendered(paths: Paths, *, version: int = NEW, **environment: str) -> dict[str, dict[str, str]]:
    texts = units.render(paths, "/opt/my tools/100%/bin/python3", environment, version)
    return {name: directives(text) for name, text in texts.items()}


def test_every_directive_has_its_reason_above_it() -> None:
    """Whoever reads the file need not look elsewhere."""
    for name in (units.SERVICE, units.SOCKET):
        lines = (units.TEMPLATES / name).read_text().splitlines()
        for above, line in itertools.pairwise(lines):
            if re.match(r"[A-Z]\w+=", line) and not re.match(
                r"(Description|RestartSteps|RestartMaxDelay|StartLimit|After)", line
            ):
                assert above.startswith("#") or re.match(r"[A-Z]\w+=", above), f"{name}: {line}"


def test_what_the_service_promises(paths: Paths) -> None:
    service = rendered(paths)[units.SERVICE]

    assert service["Service.Type"] == "notify"
    assert service["Service.KillMode"] == "process"
    assert service["Service.Restart"] == "always"
    assert service["Service.OOMPolicy"] == "continue"
    assert service["Service.TimeoutStopSec"] == "60s"
    assert f"FDSTORE={service['Service.FileDescriptorStoreMax']}" == service["Service.Environment"]


def test_the_interpreter_of_this_installation_is_put_in(paths: Paths) -> None:
    """As one word, whatever its path holds."""
    service = rendered(paths)[units.SERVICE]
    python = '"/opt/my tools/100%%/bin/python3" -P -m'

    assert service["Service.ExecStart"] == f"{python} modelproxy.supervisor --unit %n"
    assert service["Service.ExecStopPost"] == f"-{python} modelproxy.supervisor.reap --unit %n"


def test_an_interpreter_that_systemd_could_not_start_is_refused(paths: Paths) -> None:
    for python in ("python3", "/opt/$HOME/python3", "/opt/a\nb/python3"):
        with pytest.raises(ValueError, match="cannot start"):
            units.render(paths, python, {}, NEW)


def test_folders_that_the_shell_has_moved_are_said(paths: Paths) -> None:
    texts = units.render(
        paths, sys.executable, {"XDG_STATE_HOME": "/data/a b", "XDG_CONFIG_HOME": "here"}, NEW
    )

    assert 'Environment="XDG_STATE_HOME=/data/a b"\n' in texts[units.SERVICE]
    assert "XDG_CONFIG_HOME" not in texts[units.SERVICE]


def test_an_older_systemd_is_spared_what_it_does_not_know(paths: Paths) -> None:
    """It would complain at every start."""
    assert "Service.RestartSteps" in rendered(paths)[units.SERVICE]
    assert "Service.RestartSteps" not in rendered(paths, version=OLD)[units.SERVICE]
    assert "Service.RestartSec" in rendered(paths, version=OLD)[units.SERVICE]


def test_the_socket_is_where_clients_look_and_nobody_else(paths: Paths) -> None:
    socket = rendered(paths)[units.SOCKET]

    assert socket["Socket.ListenStream"] == f"%t/modelproxy/{paths.control_socket.name}"
    assert (socket["Socket.SocketMode"], socket["Socket.DirectoryMode"]) == ("0600", "0700")
    assert socket["Socket.FileDescriptorName"] == "control"


def test_only_what_we_wrote_for_this_user_is_ours(paths: Paths, tmp_path: Path) -> None:
    """Another runtime directory is another supervisor; a file without the first line is somebody's own."""
    folder = units.folder(paths)
    folder.mkdir(parents=True)
    file = folder / units.SERVICE
    assert not units.is_installed(paths)
    file.write_text((units.TEMPLATES / units.SERVICE).read_text())
    assert not units.is_installed(paths)
    file.write_text(units.render(paths, sys.executable, {}, NEW)[units.SERVICE])
    assert units.is_installed(paths)

    assert not units.is_installed(Paths(tmp_path / "other", paths.state, paths.config))


def test_the_agent_for_launchd_is_one() -> None:
    """Nobody can load it here; that it is a property list with a command of ours can be seen."""
    agent = plistlib.loads((units.TEMPLATES / "modelproxy.plist").read_bytes())

    assert Path(agent["ProgramArguments"][0]).name == "proxyctl"
    assert agent["ProgramArguments"][1:] == ["daemon", "run"]
    assert agent["AbandonProcessGroup"]
    assert agent["KeepAlive"] == {"SuccessfulExit": False}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
@pytest.mark.parametrize("installed", [False, True])
def test_systemd_accepts_them(paths: Paths, tmp_path: Path, installed: bool) -> None:
    """Both as they are in the repository and as they are installed."""
    texts = {name: (units.TEMPLATES / name).read_text() for name in (units.SERVICE, units.SOCKET)}
    if installed:
        texts = units.render(paths, sys.executable, {"XDG_STATE_HOME": "/data"}, OLD)
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", *(str(tmp_path / name) for name in texts)],
        capture_output=True,
        text=True,
        check=False,
    )
    complaints = [
        line for line in done.stderr.splitlines() if "modelproxy" in line and "Unknown key" not in line
    ]

    assert (done.returncode, complaints) == (0, [])
