"""Where everything lies, and that only its owner can look."""

from __future__ import annotations

import os
import pwd
import socket
import stat
from pathlib import Path

import pytest
from fakes import descriptors
from fakes.spawner import files_of
from hypothesis import example, given
from hypothesis import strategies as st

from modelproxy.supervisor import paths
from modelproxy.supervisor.paths import SocketAddress, UnsafeDirectoryError, find, log_name, prepare

XDG = ("XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A HOME that is not the account's, and no XDG variable."""
    for variable in XDG:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def login(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A login directory as systemd makes it, in place of /run/user/UID."""
    directory = home / "login"
    directory.mkdir(mode=0o700)
    monkeypatch.setattr(
        paths, "Path", lambda text: directory if str(text).startswith("/run/user/") else Path(text)
    )
    return directory


def account(monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    entry = pwd.struct_passwd(("me", "x", os.getuid(), os.getgid(), "", home, "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: entry)


def test_xdg_variables_decide(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in XDG:
        monkeypatch.setenv(variable, f"/xdg/{variable[4:]}")
    found = find()

    assert found.runtime == Path("/xdg/RUNTIME_DIR/modelproxy")
    assert found.state == Path("/xdg/STATE_HOME/modelproxy")
    assert found.config == Path("/xdg/CONFIG_HOME/modelproxy")


@pytest.mark.parametrize("value", ["", "relative/dir", "~/x"])
def test_a_relative_xdg_path_is_ignored(home: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """That is the XDG rule."""
    for variable in XDG:
        monkeypatch.setenv(variable, value)
    found = find()

    assert found.state == home / ".local/state/modelproxy"
    assert found.config == home / ".config/modelproxy"
    assert found.runtime == home / ".local/state/modelproxy/run"


def test_the_login_directory_is_for_the_account_s_own_home(
    home: Path, login: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program under another HOME must not find this person's daemon."""
    account(monkeypatch, str(home))
    assert find().runtime == login / "modelproxy"
    account(monkeypatch, "/home/somebody")
    assert find().runtime == home / ".local/state/modelproxy/run"


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_an_open_login_directory_is_not_used(
    home: Path, login: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    account(monkeypatch, str(home))
    login.chmod(mode)

    assert find().runtime == home / ".local/state/modelproxy/run"


@pytest.mark.parametrize("value", [None, ""])
def test_without_home_the_account_s_is_taken(
    home: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("HOME") if value is None else monkeypatch.setenv("HOME", value)
    account(monkeypatch, "/home/me")

    assert find().config == Path("/home/me/.config/modelproxy")


def test_a_uid_without_an_account(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container."""

    def nobody(uid: int) -> pwd.struct_passwd:
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)

    assert find().config == Path("/.config/modelproxy")


def test_finding_touches_nothing(home: Path) -> None:
    find()

    assert list(home.iterdir()) == []


# --- directories ----------------------------------------------------------------------------------


def test_directories_are_made_private(tmp_path: Path) -> None:
    """Whatever the umask; making them again is fine."""
    files = files_of(tmp_path / "deep" / "down")
    prepare(files)
    prepare(files)

    for directory in (files.state, files.logs, files.runtime, files.pid_files):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o702, 0o710])
@pytest.mark.parametrize("which", ["state", "runtime", "logs", "pid_files"])
def test_a_directory_that_others_can_reach_is_refused(tmp_path: Path, which: str, mode: int) -> None:
    """With the command that helps."""
    files = files_of(tmp_path)
    prepare(files)
    directory: Path = getattr(files, which)
    directory.chmod(mode)
    with pytest.raises(UnsafeDirectoryError, match=f"chmod 700 {directory}"):
        prepare(files)


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_directory_is_refused(tmp_path: Path, kind: str) -> None:
    """A link could be turned round later."""
    files = files_of(tmp_path)
    prepare(files)
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    files.pid_files.rmdir()
    if kind == "link":
        files.pid_files.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(UnsafeDirectoryError, match="is not a directory"):
            prepare(files)
    else:
        files.pid_files.touch()
        with pytest.raises(FileExistsError):
            prepare(files)


def test_somebody_else_s_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = files_of(tmp_path)
    prepare(files)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(UnsafeDirectoryError, match="belongs to uid"):
        prepare(files)


# --- log names ------------------------------------------------------------------------------------


def test_log_names_are_recognisable() -> None:
    assert log_name("echo/demo") == "echo~demo"
    assert log_name("ollama/qwen2.5-coder:7b@3457") == "ollama~qwen2.5-coder%3A7b@3457"
    assert files_of(Path("/x")).log_file("echo/demo") == Path("/x/state/logs/echo~demo.log")


@given(st.text(max_size=40), st.text(max_size=40))
@example("echo/!90", "echo/\u2190")
@example("a~b", "a/b")
@example("%2F", "/")
def test_two_names_never_share_a_log(one: str, other: str) -> None:
    """Different names, different files."""
    assert (log_name(one) == log_name(other)) == (one == other)


@given(st.text(max_size=300))
@example(":" * 200)
@example("\U0001f600" * 200)
@example("ä" * 200)
@example("../" * 80)
@example("\ud800")
def test_every_name_is_one_file_s_name(name: str) -> None:
    """Neither a path nor too long, with room for `.log.1`."""
    file = log_name(name) + ".log.3"

    assert "/" not in file
    assert "\0" not in file
    assert len(os.fsencode(file)) <= 255


def test_long_names_that_begin_alike_differ() -> None:
    assert log_name("x" * 250 + "a") != log_name("x" * 250 + "b")


# --- socket addresses -----------------------------------------------------------------------------


@pytest.mark.parametrize("length", [40, 107, 108, 109, 250])
def test_a_path_of_any_length_is_bound_and_connected(tmp_path: Path, length: int) -> None:
    """Over the kernel's limit by way of its directory; no descriptor is left open."""
    folder = tmp_path
    while len(str(folder)) < length - 120:
        folder = folder / ("d" * 50)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ("s" * max(1, length - len(str(folder)) - 1))
    before_all = descriptors.count()
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        with SocketAddress(path) as address:
            listener.bind(address)
        listener.listen()
        with SocketAddress(path) as address:
            client.connect(address)

    assert stat.S_ISSOCK(path.stat().st_mode)
    assert descriptors.back_to(before_all)


def test_a_file_is_private_and_its_folder_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "gone" / "x.log"
    os.close(paths.open_to_write(path, os.O_APPEND))

    assert [path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777] == [0o600, 0o700]


class Killed(BaseException):
    """Nothing of ours runs any more, as after SIGKILL."""


def test_what_a_writer_leaves_that_is_killed_goes_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.toml"
    paths.replace(path, b"old")
    with monkeypatch.context() as patch:

        def kill(fd: int) -> None:
            raise Killed

        patch.setattr(os, "fsync", kill)
        with pytest.raises(Killed):
            paths.replace(path, b"longer than what comes after it")

    assert path.read_bytes() == b"old"
    assert len(os.listdir(tmp_path)) == 2
    paths.replace(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["config.toml"]
