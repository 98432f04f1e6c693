"""A supervisor's control socket without a supervisor: for tests of the command line.

It speaks HTTP as the real one does (Content-Length, chunked streams, `Connection: close`), keeps proxies in
a dict, and can be told to misbehave. It runs in a thread; `with Control(paths) as control:` ends it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from modelproxy.supervisor.paths import Paths, SocketAddress, prepare

Reply = tuple[int, Any]


def view(name: str = "echo/demo", **changes: Any) -> dict[str, Any]:
    """A ProxyView as JSON."""
    return {
        "name": name,
        "model": name,
        "provider": name.partition("/")[0],
        "port": 3457,
        "pid": os.getpid(),
        "url": "http://127.0.0.1:3457",
        "state": "ready",
        "reused": False,
        "health": "ok",
        "uptime_s": 42.0,
        "requests": 3,
        "in_flight": 0,
        "restarts": 0,
        "fallbacks": 0,
        "last_error": None,
        "base_url": None,
        "started_at": 1000.0,
        "generation": 1,
        "wanted": True,
        "detail": "",
        "draining": [],
        "deaths": [],
        "queue": None,
        "rss": None,
        "lazy": False,
        "idle_stop_s": None,
        "max_rss": None,
        "fallback": [],
        "limits": {},
        "tokens": [],
        "token_required": False,
        "log": "/nowhere/echo~demo.log",
        "notes": [],
        "since": 1000.0,
        "next": "",
        "command": "",
        "failures": 0,
        "cost_usd": 0.0,
        "unpriced_requests": 0,
        "log_drops": 0,
        "ledger_drops": 0,
        "workers": [],
        "leases": 0,
        "fronts": [],
        "kept": True,
        "port_holder": None,
        "otherwise": None,
    } | changes


def fault(status: int, code: str, message: str, hint: str = "") -> Reply:
    """An error as the supervisor words it."""
    return status, {"error": {"code": code, "message": message, "hint": hint}}


class Control:
    """Answers on the control socket below `paths`."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.proxies: dict[str, dict[str, Any]] = {}
        self.stopped: set[str] = set()
        self.events: list[dict[str, Any]] = []
        self.leases: dict[str, tuple[str, socket.socket]] = {}
        """By id: the proxy, and the connection that holds it."""
        self.leased: set[str] = set()
        """Proxies that are up for a lease only."""
        self._numbers = 0
        self.started_at = 1000.0
        self.pid = os.getpid()
        self.asked: list[tuple[str, str, Any]] = []
        """Method, path and body of each request, in order."""
        self.replies: dict[str, Reply] = {}
        """`"PUT"` or `"GET /v1/version"` -> what to answer instead."""
        self.once: dict[str, Reply] = {}
        """The same, for the next such request only."""
        self.hang: set[str] = set()
        """Methods (or `"METHOD /path"`) that never get an answer, until the end of the test."""
        self.hold: dict[str, threading.Event] = {}
        """Methods that get their answer once the event is set."""
        self.drop = 0
        """How many of the next requests to hang up on."""
        self.raw: bytes | None = None
        """Sent instead of any answer."""
        self.chunk_size = 7
        """Streams are cut here, so that no reader can lean on whole lines."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        prepare(self.paths)
        with SocketAddress(self.paths.control_socket) as address:
            self._socket.bind(address)
        self._socket.listen(64)
        self.paths.lock.write_text(f"{self.pid}\n")
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._socket.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._socket.close()
        self.lose_leases()
        for thread in self._threads:
            thread.join(5)
        self.paths.control_socket.unlink(missing_ok=True)

    @property
    def paths_asked(self) -> list[str]:
        """`METHOD /path` of each request."""
        return [f"{method} {path}" for method, path, _ in self.asked]

    def _start(self, target: Any, *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as reader:
            try:
                method, path, body = _read(reader)
                self.asked.append((method, path, body))
                self._answer(connection, method, path, body)
            except (OSError, ValueError):
                return  # the client left

    def _answer(self, connection: socket.socket, method: str, path: str, body: Any) -> None:
        keys = {method, f"{method} {urlsplit(path).path}"}
        if self.drop:
            self.drop -= 1
            return
        if keys & self.hang:
            self._over.wait()
            return
        for key in keys & self.hold.keys():
            self.hold[key].wait(10)
        if self.raw is not None:
            connection.sendall(self.raw)
            return
        if path.startswith("/v1/events"):
            self._stream(connection, path)
            return
        if method == "POST" and urlsplit(path).path.endswith("/lease") and not keys & self._changed():
            self._lease(connection, unquote(path.split("/")[3]), body, again="again=1" in path)
            return
        status, document = self._reply(keys, method, urlsplit(path).path, body)
        data = json.dumps(document).encode()
        head = f"HTTP/1.1 {status} Whatever\r\ncontent-type: application/json\r\ncontent-length: {len(data)}"
        connection.sendall(f"{head}\r\nconnection: close\r\n\r\n".encode() + data)

    def _changed(self) -> set[str]:
        return self.once.keys() | self.replies.keys()

    def _lease(self, connection: socket.socket, name: str, body: dict[str, Any], *, again: bool) -> None:
        if again and name not in self.proxies:
            status, document = self._unknown(name)
            data = json.dumps(document).encode()
            head = f"HTTP/1.1 {status} Whatever\r\ncontent-length: {len(data)}\r\n\r\n"
            connection.sendall(head.encode() + data)
            return
        known = name in self.proxies
        self._numbers += 1
        lease = f"lease{self._numbers}"
        line = json.dumps({"lease": lease, "proxy": self._up(name, body)}).encode() + b"\n"
        connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        connection.sendall(b"%x\r\n%b\r\n" % (len(line), line))
        self.leases[lease] = (name, connection)
        if not known:
            self.leased.add(name)
        with contextlib.suppress(OSError):  # until somebody closes it, on either side
            connection.recv(1)
        self._let_go(lease)

    def _let_go(self, lease: str) -> list[dict[str, Any]]:
        name, _ = self.leases.pop(lease, ("", None))
        if name not in self.leased or any(name == other for other, _ in self.leases.values()):
            return []
        self.leased.discard(name)
        self.stopped.add(name)
        return [{"name": name, "port": self.proxies.pop(name)["port"], "state": "stopped"}]

    def lose_leases(self) -> None:
        """As a supervisor that is replaced: the proxies stay up."""
        for name, connection in list(self.leases.values()):
            self.leased.discard(name)
            with contextlib.suppress(OSError):  # it was let go of just now
                connection.shutdown(socket.SHUT_RDWR)

    def _reply(self, keys: set[str], method: str, path: str, body: Any) -> Reply:
        for key in keys & self.once.keys():
            return self.once.pop(key)
        for key in keys & self.replies.keys():
            return self.replies[key]
        words = [unquote(word) for word in path.split("/")[2:]]
        match method, words:
            case "GET", ["version"]:
                return 200, self.version()
            case "GET", ["proxies"]:
                return 200, list(self.proxies.values())
            case "GET", ["proxies", name]:
                return (200, self.proxies[name]) if name in self.proxies else self._unknown(name)
            case "PUT", ["proxies", name]:
                return 200, self._up(name, body)
            case "DELETE", ["proxies", target]:
                return self._down(target)
            case "POST", ["proxies", target, "restart"]:
                return self._restart(target)
            case "DELETE", ["leases", lease]:
                known = lease in self.leases
                return (200, self._let_go(lease)) if known else fault(404, "unknown_lease", "there is none")
            case "POST", ["daemon", "restart"]:
                version = self.version()
                self.started_at += 1
                return 202, version
            case "POST", ["daemon", "stop"]:
                return 202, self.version()
        return fault(404, "unknown_route", f"no such route: {method} {path}")

    def version(self) -> dict[str, Any]:
        return {
            "pid": self.pid,
            "version": "0.1.0",
            "started_at": self.started_at,
            "socket": str(self.paths.control_socket),
            "state_dir": str(self.paths.state),
            "api": 1,
            "warnings": [],
        }

    def _up(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        known = name in self.proxies
        port = body.get("port") or 3456
        if not known:
            self.proxies[name] = view(name, port=port, url=f"http://127.0.0.1:{port}")
        return self.proxies[name] | {"reused": known}

    def _meant(self, target: str) -> list[str]:
        return [
            name
            for name, known in self.proxies.items()
            if target in ("all", name, known["model"], str(known["port"]), str(known["pid"]))
        ]

    def _unknown(self, target: str) -> Reply:
        return fault(404, "unknown_proxy", f'there is no proxy "{target}"', "proxyctl ps -a")

    def _down(self, target: str) -> Reply:
        names = self._meant(target)
        if not names and target in self.stopped:
            return 200, [{"name": target, "port": 3457, "state": "stopped", "already": "stopped"}]
        if not names and target != "all":
            return self._unknown(target)
        self.stopped.update(names)
        return 200, [
            {"name": name, "port": self.proxies.pop(name)["port"], "state": "stopped"} for name in names
        ]

    def _restart(self, target: str) -> Reply:
        names = self._meant(target)
        if not names and target != "all":
            return self._unknown(target)
        for name in names:
            self.proxies[name]["generation"] += 1
        return 200, [self.proxies[name] for name in names]

    def _stream(self, connection: socket.socket, path: str) -> None:
        query = dict(part.split("=") for part in urlsplit(path).query.split("&"))
        since = int(query.get("since", "0"))
        connection.sendall(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        lines = "".join(json.dumps(event) + "\n" for event in self.events if event["seq"] > since).encode()
        for start in range(0, len(lines), self.chunk_size):
            piece = lines[start : start + self.chunk_size]
            connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        if query.get("follow"):
            self._over.wait()
        connection.sendall(b"0\r\n\r\n")


def _read(reader: Any) -> tuple[str, str, Any]:
    method, path, _ = reader.readline().decode().split()
    length = 0
    while line := reader.readline().strip():
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    body = reader.read(length)
    return method, path, json.loads(body) if body else None
