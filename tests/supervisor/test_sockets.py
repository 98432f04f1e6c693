"""Listening sockets."""

from __future__ import annotations

import errno
import os
import resource
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fakes import descriptors

from modelproxy.supervisor import sockets
from modelproxy.supervisor.sockets import NotASocketError, PortInUseError, bind_loopback, bind_unix, inode_of


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def bound(closing: ExitStack, port: int = 0) -> list[socket.socket]:
    return [closing.enter_context(one) for one in bind_loopback(port)]


def test_both_loopback_addresses_have_one_port(closing: ExitStack) -> None:
    """`localhost` may mean either."""
    listeners = bound(closing)
    port = listeners[0].getsockname()[1]

    assert [one.getsockname()[:2] for one in listeners] == [("127.0.0.1", port), ("::1", port)]
    for host in ("127.0.0.1", "::1"):
        socket.create_connection((host, port)).close()
    for one in listeners:
        assert not one.getblocking()
        assert not os.get_inheritable(one.fileno())


def test_a_port_is_free_again_at_once(closing: ExitStack) -> None:
    """Connections of the last owner that linger do not matter."""
    first = bind_loopback(0)
    port = first[0].getsockname()[1]
    client = closing.enter_context(socket.create_connection(("127.0.0.1", port)))
    served, _ = first[0].accept()
    served.close()
    for one in first:
        one.close()

    assert bound(closing, port)[0].getsockname()[1] == port
    assert client.recv(1) == b""


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_taken_on_one_family_is_taken(closing: ExitStack, family: socket.AddressFamily, host: str) -> None:
    """And nothing of it stays bound."""
    taken = closing.enter_context(socket.create_server((host, 0), family=family))
    port = taken.getsockname()[1]
    with pytest.raises(PortInUseError) as caught:
        bind_loopback(port)

    assert caught.value.port == port
    taken.close()
    bound(closing, port)


def test_any_free_port_is_free_on_both(closing: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first pick may be taken on the other address: then another."""
    real = sockets._bind
    refused: list[int] = []

    def picky(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
        if family == socket.AF_INET6 and len(refused) < 3:
            refused.append(port)
            raise PortInUseError(port)
        return real(family, host, port)

    monkeypatch.setattr(sockets, "_bind", picky)
    listeners = bound(closing)

    assert (len(refused), len(listeners)) == (3, 2)


def test_without_ipv6_there_is_one(closing: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    real = sockets._bind

    def old(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EADDRNOTAVAIL, "no such address")
        return real(family, host, port)

    monkeypatch.setattr(sockets, "_bind", old)

    assert [one.family for one in bound(closing)] == [socket.AF_INET]


def test_another_trouble_is_not_taken_for_a_taken_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """And does not leave the first socket behind."""
    real = sockets._bind
    made: list[socket.socket] = []

    def poor(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
        if made:
            raise OSError(errno.EMFILE, "too many open files")
        made.append(real(family, host, port))
        return made[0]

    monkeypatch.setattr(sockets, "_bind", poor)
    with pytest.raises(OSError, match="too many"):
        bind_loopback(0)

    assert made[0].fileno() == -1


# --- Unix sockets ---------------------------------------------------------------------------------


def test_room_is_looked_for_and_not_taken() -> None:
    """What was opened to find out is closed again, also where it was too much."""
    before = descriptors.count()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    sockets.check_room(16)
    with open(os.devnull) as highest:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest.fileno() + 3, hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                sockets.check_room(3 + highest.fileno())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert descriptors.back_to(before)


def test_a_unix_socket_is_private(tmp_path: Path, closing: ExitStack) -> None:
    """From the first moment on; the umask is as before."""
    path = tmp_path / "control.sock"
    before = os.umask(0o022)
    os.umask(before)
    closing.enter_context(bind_unix(path))

    assert stat.S_IMODE(path.stat().st_mode) & 0o177 == 0
    assert os.umask(before) == before
    assert [one.name for one in tmp_path.iterdir()] == ["control.sock"]


def test_a_dead_one_is_replaced_without_a_gap(tmp_path: Path, closing: ExitStack) -> None:
    """By rename; what is still connected to the old one stays so."""
    path = tmp_path / "control.sock"
    old = closing.enter_context(bind_unix(path))
    client = closing.enter_context(socket.socket(socket.AF_UNIX))
    client.connect(str(path))
    before = inode_of(path)
    new = closing.enter_context(bind_unix(path))

    assert inode_of(path) != before
    served, _ = old.accept()
    closing.enter_context(served).sendall(b"x")
    assert client.recv(1) == b"x"
    with socket.socket(socket.AF_UNIX) as other:
        other.connect(str(path))
        closing.enter_context(new.accept()[0])


def test_a_half_made_one_of_last_time_is_no_trouble(tmp_path: Path, closing: ExitStack) -> None:
    path = tmp_path / "control.sock"
    closing.enter_context(bind_unix(path.with_name("control.sock.new")))

    closing.enter_context(bind_unix(path))


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_is_no_socket_is_refused_and_stays(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "control.sock"
    other = tmp_path / "precious"
    other.write_text("data")
    if kind == "file":
        path.write_text("data")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(other)
    before = inode_of(path)
    with pytest.raises(NotASocketError, match="move it away, nothing was deleted"):
        bind_unix(path)

    assert inode_of(path) == before
    assert other.read_text() == "data"


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        bind_unix(tmp_path / "none" / "control.sock")


def test_which_file_stands_there(tmp_path: Path) -> None:
    """At exit only our own socket file is to be removed."""
    path = tmp_path / "x"

    assert inode_of(path) is None
    path.touch()
    first = inode_of(path)
    path.rename(tmp_path / "y")
    path.touch()
    assert first is not None
    assert inode_of(path) != first == inode_of(tmp_path / "y")
