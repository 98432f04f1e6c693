"""Listening sockets: the proxies' TCP ports and our own two Unix sockets."""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from pathlib import Path

from .paths import SocketAddress

BACKLOG = 4096  # the kernel clips it to somaxconn; a crash must find room for a second of connections
_NO_IPV6 = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT}
_FREE_PORT_TRIES = 20


class PortInUseError(Exception):
    def __init__(self, port: int) -> None:
        super().__init__(f"port {port} is in use")
        self.port = port


class NotASocketError(Exception):
    """Something that is not a socket stands where ours belongs."""


def check_room(descriptors: int) -> None:
    """OSError when not so many descriptors can be opened besides."""
    opened: list[int] = []
    try:
        for _ in range(descriptors):
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))  # noqa: PERF401  # on record one by one
    finally:
        for one in opened:
            os.close(one)


def bind_loopback(port: int) -> list[socket.socket]:
    """Listen on 127.0.0.1 and ::1 (since Node 17 `localhost` may mean either); port 0: any free one."""
    if port:
        return _bind_both(port)
    for _ in range(_FREE_PORT_TRIES):
        try:
            return _bind_both(0)
        except PortInUseError:
            continue  # free on one address, taken on the other
    raise PortInUseError(0)


def _bind_both(port: int) -> list[socket.socket]:
    first = _bind(socket.AF_INET, "127.0.0.1", port)
    port = first.getsockname()[1]
    try:
        return [first, _bind(socket.AF_INET6, "::1", port)]
    except OSError as error:
        if error.errno in _NO_IPV6:
            return [first]
        first.close()
        raise
    except PortInUseError:
        first.close()
        raise


def _bind(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    if sys.platform == "darwin" and port and _answers(family, host, port):
        raise PortInUseError(port)  # macOS lets a loopback port be bound while *:port is taken
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(port) from None
        raise
    return listener


def _answers(family: socket.AddressFamily, host: str, port: int) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.2)
        return probe.connect_ex((host, port)) == 0


def bind_unix(path: Path) -> socket.socket:
    """Listen at `path`, replacing a dead predecessor by rename so that no client meets a gap.

    The caller holds the lock: whatever socket is there belongs to nobody any more.
    """
    _refuse_other_kinds(path)
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old_mask = os.umask(0o177)
    try:
        with SocketAddress(fresh) as address:
            listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
        fresh.rename(path)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(old_mask)
    return listener


def _refuse_other_kinds(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise NotASocketError(f"{path} is not a socket; move it away, nothing was deleted")


def inode_of(path: Path) -> tuple[int, int] | None:
    """Which file stands at `path`: at exit only our own is to be removed."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
