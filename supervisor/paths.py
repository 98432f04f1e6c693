"""Where everything lies on disk, and that only its owner can look.

On Linux the XDG variables are read here directly: platformdirs would do it too, but importing it costs
20 ms of every `proxyctl` command (10 ms is a bare interpreter). Elsewhere platformdirs knows better.
"""

from __future__ import annotations

import os
import pwd
import stat
import sys
from pathlib import Path

APP = "modelproxy"

# sockaddr_un.sun_path holds 108 bytes on Linux and 104 on macOS, the closing NUL included.
MAX_SOCKET_PATH = 107 if sys.platform == "linux" else 103
_LONGEST_LOG_NAME = 200  # bytes; a file name may have 255, and `.log.1` is to fit


class UnsafeDirectoryError(Exception):
    """A directory of ours belongs to somebody else, or others may write to it."""


class Paths:
    """All the files of one user's modelproxy. A plain class: attrs would double the cost of `proxyctl ps`."""

    __slots__ = ("config", "runtime", "state")

    def __init__(self, runtime: Path, state: Path, config: Path) -> None:
        self.runtime = runtime
        self.state = state
        self.config = config

    def __repr__(self) -> str:
        return f"<Paths runtime={self.runtime} state={self.state} config={self.config}>"

    @property
    def control_socket(self) -> Path:
        return self.runtime / "control.sock"

    @property
    def workers_socket(self) -> Path:
        return self.runtime / "workers.sock"

    @property
    def holder_socket(self) -> Path:
        return self.runtime / "holder.sock"

    @property
    def lock(self) -> Path:
        return self.runtime / "lock"

    @property
    def pid_files(self) -> Path:
        return self.runtime / "proxies"

    @property
    def state_file(self) -> Path:
        return self.state / "state.json"

    @property
    def config_file(self) -> Path:
        return self.config / "config.toml"

    @property
    def applied_file(self) -> Path:
        """What the configuration said when it was last applied."""
        return self.state / "applied.json"

    @property
    def trust_file(self) -> Path:
        return self.state / "trust.json"

    @property
    def ledger(self) -> Path:
        return self.state / "ledger.db"

    @property
    def keys_file(self) -> Path:
        return self.config / "keys.toml"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def daemon_log(self) -> Path:
        return self.logs / "daemon.log"

    def pid_file(self, port: int) -> Path:
        return self.pid_files / f"{port}.pid"

    def log_file(self, name: str) -> Path:
        """The log of the proxy called `name`; two names never share a file."""
        return self.logs / f"{log_name(name)}.log"


def log_name(name: str) -> str:
    """A proxy's name as a file name that a person still recognises: `echo/demo` is `echo~demo`."""
    found = "".join(
        "~" if char == "/" else char if char.isalnum() or char in "._@+-" else _percent(char) for char in name
    )
    if len(os.fsencode(found)) <= _LONGEST_LOG_NAME:
        return found
    import hashlib  # only here: few names are so long, and every command pays for imports

    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:32]
    return f"{found[:40]}%%{digest}"


def _percent(char: str) -> str:
    """Byte by byte, so that each escape has two digits: `%2190` would be `!90` as well as `←`."""
    return "".join(f"%{byte:02X}" for byte in char.encode(errors="surrogatepass"))


def find() -> Paths:
    """Where this user's files are, from the environment; touches nothing."""
    return _on_linux() if sys.platform == "linux" else _elsewhere()


def _on_linux() -> Paths:
    home = Path(os.environ.get("HOME") or _account_home())
    state = _xdg("XDG_STATE_HOME", home / ".local" / "state") / APP
    config = _xdg("XDG_CONFIG_HOME", home / ".config") / APP
    return Paths(_linux_runtime(home, state), state, config)


def _elsewhere() -> Paths:
    import platformdirs  # only here: see the module's first paragraph

    dirs = platformdirs.PlatformDirs(APP, appauthor=False)
    return Paths(
        runtime=_xdg("XDG_RUNTIME_DIR", dirs.user_runtime_path.parent) / APP,
        state=_xdg("XDG_STATE_HOME", dirs.user_state_path.parent) / APP,
        config=_xdg("XDG_CONFIG_HOME", dirs.user_config_path.parent) / APP,
    )


def _xdg(variable: str, default: Path) -> Path:
    """The XDG rule: a relative path is to be ignored."""
    value = os.environ.get(variable, "")
    return Path(value) if value.startswith("/") else default


def _linux_runtime(home: Path, state: Path) -> Path:
    """XDG_RUNTIME_DIR; without it the login's own directory, or one below the state folder.

    The login's directory is taken only for the account's own HOME: a program under another HOME (a
    sandbox, a test) must not find the daemon of the person who runs it.
    """
    if os.environ.get("XDG_RUNTIME_DIR", "").startswith("/"):
        return Path(os.environ["XDG_RUNTIME_DIR"]) / APP
    login = Path(f"/run/user/{os.getuid()}")
    if home == _account_home() and _is_private(login):
        return login / APP
    return state / "run"


def _account_home() -> Path:
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:  # a container's uid without an account
        return Path("/")


def _is_private(path: Path) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


def prepare(paths: Paths) -> None:
    """Make the directories that the supervisor writes to, 0700, and refuse those that others can reach."""
    for directory in (paths.state, paths.logs, paths.runtime, paths.pid_files):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise UnsafeDirectoryError(f"{directory} is not a directory; move it away")
        if found.st_uid != os.getuid():
            raise UnsafeDirectoryError(f"{directory} belongs to uid {found.st_uid}, not to you")
        if found.st_mode & 0o077:
            raise UnsafeDirectoryError(f"{directory} is open to other users; chmod 700 {directory}")


class SocketAddress:
    """`with SocketAddress(path) as address`: a name for bind or connect, however long the path is.

    A path over the kernel's limit is reached through an open descriptor of its directory.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._directory: int | None = None

    def __enter__(self) -> str:
        if len(os.fsencode(self._path)) <= MAX_SOCKET_PATH:
            return str(self._path)
        if sys.platform != "linux":
            raise OSError(f"the path {self._path} is too long for a socket; shorten XDG_RUNTIME_DIR")
        self._directory = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._directory}/{self._path.name}"

    def __exit__(self, *_: object) -> None:
        if self._directory is not None:
            os.close(self._directory)


def open_to_write(path: Path, how: int) -> int:
    """A descriptor of a private file; its folder is made again where somebody has tidied up underneath us."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | how
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(path, flags, 0o600)


def replace(path: Path, data: bytes) -> None:
    """Write a private file anew, as a whole: a crash leaves the old one or the new one.

    One writer at a time: of one that was killed in the middle the next takes the place.
    """
    fresh = path.with_name(f".{path.name}.new")
    try:
        fd = open_to_write(fresh, os.O_TRUNC)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        fresh.rename(path)
    except OSError:
        _forget(fresh)
        raise


def _forget(path: Path) -> None:
    try:
        path.unlink()
    except OSError:
        pass  # it was never made, or its folder is none
