"""The control socket: HTTP in, commands to the fleet, JSON out."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import BinaryIO
from urllib.parse import parse_qs, unquote

import attrs
import trio

from modelproxy.worker import __version__, costs, httpd, ledger

from . import check, kernel, logs
from .commands import Commands, check_grace
from .events import Events
from .paths import Paths
from .protocol import (
    DaemonRequest,
    DownRequest,
    Event,
    Fault,
    Reloaded,
    RestartRequest,
    SetRequest,
    UpRequest,
    Version,
    parse,
    to_json,
)

LIMITS = httpd.HttpLimits(
    max_head=16 * 1024,
    max_body=1024 * 1024,
    max_connections=256,
    head_timeout_s=10.0,
    body_idle_timeout_s=10.0,
    keep_alive_s=30.0,
    write_stall_timeout_s=60.0,
)
MAX_LOG_LINES = 10_000
_ANSWERS = ("ready", "degraded", "rolling", "idle")
"""States in which a request is answered, by an idle proxy after a start."""
MAX_LEASES = 128
MAX_FOLLOWERS = 64
"""Streams that stay open; fewer than connections, so that `ps` always finds one."""
_FOLLOW_PAUSE_S = 0.1
_JSON = [(b"content-type", b"application/json")]
_NDJSON = [(b"content-type", b"application/x-ndjson")]
_MUTATING = {"PUT", "POST", "DELETE"}


class Control:
    """Answers one request at a time per connection; none waits for another's."""

    def __init__(
        self,
        commands: Commands,
        events: Events,
        paths: Paths,
        *,
        started_at: float,
        warnings: Callable[[], list[str]],
        spawn: Callable[[], str],
        leave: Callable[[str, float | None], None],
        reload: Callable[[bool], Awaitable[Reloaded]],
        log: Callable[[str], None],
        unit: str = "",
    ) -> None:
        self._commands = commands
        self._events = events
        self._paths = paths
        self._started_at = started_at
        self._warnings = warnings
        self._spawn = spawn
        self._leave = leave
        self._reload = reload
        self._unit = unit
        self._log = log
        self._followers = 0
        self._leases = 0

    def server(self) -> httpd.Server:
        return httpd.Server(self.handle, refuse=refuse, limits=LIMITS, log=self._log)

    async def handle(self, exchange: httpd.Exchange) -> None:
        try:
            self._admit(exchange)
            await self._route(exchange)
        except Fault as fault:
            await _answer(exchange, fault.status, to_json(fault))
        except httpd.BodyTooLarge as error:
            await _answer(
                exchange, 413, to_json(Fault("bad_request", f"the body is over {error.limit} bytes"))
            )
        except (httpd.BodyIncomplete, httpd.ClientGone):
            pass  # nobody is there to read an answer
        except Exception:  # the last wall: a bug answers 500 and is in the log, the daemon goes on
            self._log(
                f"internal error in {exchange.request.method} {exchange.request.path}\n{traceback.format_exc()}"
            )
            if exchange.started:
                raise
            bug = Fault("internal", "internal error in the supervisor", "see its log: proxyctl daemon status")
            await _answer(exchange, 500, to_json(bug))

    def _admit(self, exchange: httpd.Exchange) -> None:
        """The second wall behind the socket's mode: the kernel's word on who is calling."""
        peer = kernel.peer_of(exchange.socket)
        if peer.uid not in (os.getuid(), None):
            raise Fault("forbidden", f"uid {peer.uid} may not control the proxies of uid {os.getuid()}")
        request = exchange.request
        if request.method in _MUTATING:
            self._log(f"{request.method} {request.target} by pid {peer.pid}")

    async def _route(self, exchange: httpd.Exchange) -> None:
        request = exchange.request
        parts = tuple(unquote(part) for part in request.path.strip("/").split("/"))
        query = {name: values[-1] for name, values in parse_qs(request.query).items()}
        for pattern, methods in self._routes().items():
            target = _match(pattern, parts)
            if target is None:
                continue
            handler = methods.get(request.method)
            if handler is None:
                allowed = ", ".join(sorted(methods))
                raise Fault(
                    "method_not_allowed", f"{request.method} is not for {request.path}", f"allowed: {allowed}"
                )
            await handler(exchange, target, query)
            return
        raise Fault(
            "unknown_route", f"there is nothing at {request.path}", "the API is described in docs/design.md"
        )

    def _routes(self) -> dict[tuple[str, ...], dict[str, Handler]]:
        return {
            ("v1", "version"): {"GET": self._version},
            ("v1", "proxies"): {"GET": self._list},
            ("v1", "proxies", "*"): {"GET": self._show, "PUT": self._up, "DELETE": self._down},
            ("v1", "proxies", "*", "restart"): {"POST": self._restart},
            ("v1", "proxies", "*", "set"): {"POST": self._set},
            ("v1", "proxies", "*", "lease"): {"POST": self._lease},
            ("v1", "leases", "*"): {"DELETE": self._end_lease},
            ("v1", "proxies", "*", "logs"): {"GET": self._logs},
            ("v1", "events"): {"GET": self._follow_events},
            ("v1", "usage"): {"GET": self._usage},
            ("v1", "costs"): {"GET": self._costs},
            ("v1", "metrics"): {"GET": self._metrics},
            ("v1", "variables"): {"GET": self._variables},
            ("v1", "daemon", "*"): {"POST": self._daemon},
        }

    # --- proxies ---------------------------------------------------------------------------------

    async def _list(self, exchange: httpd.Exchange, target: str, query: dict[str, str]) -> None:
        rows = self._commands.rows(stopped=query.get("all") in ("1", "true"))
        await _answer(exchange, 200, to_json(rows))

    async def _show(self, exchange: httpd.Exchange, target: str, query: dict[str, str]) -> None:
        await _answer(exchange, 200, to_json(await self._commands.about(target)))

    async def _up(self, exchange: httpd.Exchange, target: str, query: dict[str, str]) -> None:
        await _answer(
            exchange, 200, to_json(await self._commands.up(await _up_request(exchange, target, query)))
        )

    async def _lease(self, exchange: httpd.Exchange, target: str, query: dict[str, str]) -> None:
        request = await _up_request(exchange, target, query)
        if self._leases >= MAX_LEASES:
            raise Fault("no_resources", f"{MAX_LEASES} leases are held already", "let one of them end")
        self._leases += 1
        try:
            again = query.get("again") in ("1", "true")
            async with self._commands.lease(request, again=again) as leased:
                await exchange.start(200, _NDJSON)
                await exchange.send(to_json(leased) + b"\n")
                await trio.sleep_forever()  # until who holds it hangs up, which cancels this
        finally:
            self._leases -= 1

    async def _end_lease(self, exchange: httpd.Exchange, target: str, query: dict[str, str]) -> None:
        await exchange.read_body()
        await _answer(exchange, 200, to_json(await self._commands.end_lease(target)))

    async def _down(self, exchange: httpd.Exchange, target: str, query: dict[str, str]) -> None:
        request = parse(await exchange.read_body(), DownRequest)
        await _answer(exchange, 200, to_json(await self._commands.down(target, request)))

    async def _restart(self, exchange: httpd.Exchange, target: str, query: dict[str, str]) -> None:
        request = parse(await exchange.read_body(), RestartRequest)
        await _answer(exchange, 200, to_json(await self._commands.restart(target, request)))

    async def _set(self, exchange: httpd.Exchange, target: str, query: dict[str, str]) -> None:
        request = parse(await exchange.read_body(), SetRequest)
        await _answer(exchange, 200, to_json(await self._commands.set(target, request)))

    async def _logs(self, exchange: httpd.Exchange, target: str, query: dict[str, str]) -> None:
        unit = await self._commands.meant(target)
        path = self._paths.log_file(unit.proxy.name)
        lines = min(_number(query, "lines", 100), MAX_LOG_LINES)
        ended = b"".join(_line(line) for line in logs.tail(path, lines))
        await self._stream(exchange, ended, _follow(path) if _wants_more(query) else None)

    async def _stream(
        self, exchange: httpd.Exchange, begun: bytes, news: AsyncGenerator[bytes, None] | None
    ) -> None:
        """What there is, and then what comes until the reader leaves. A slow one slows only itself."""
        if news is None:
            await exchange.start(200, _NDJSON)
            await exchange.send(begun)
            await exchange.finish()
            return
        if self._followers >= MAX_FOLLOWERS:
            raise Fault("no_resources", f"{MAX_FOLLOWERS} streams are open already", "close one of them")
        self._followers += 1
        try:
            async with aclosing(news):
                await exchange.start(200, _NDJSON)
                await exchange.send(begun)
                async for data in news:
                    await exchange.send(data)
        finally:
            self._followers -= 1

    # --- the daemon itself -----------------------------------------------------------------------

    async def _version(self, exchange: httpd.Exchange, target: str, query: dict[str, str]) -> None:
        await _answer(exchange, 200, to_json(self._about()))

    def _about(self) -> Version:
        return Version(
            pid=os.getpid(),
            version=__version__,
            started_at=self._started_at,
            socket=str(self._paths.control_socket),
            state_dir=str(self._paths.state),
            spawn=self._spawn(),
            unit=self._unit or None,
            warnings=self._warnings(),
        )

    async def _daemon(self, exchange: httpd.Exchange, target: str, query: dict[str, str]) -> None:
        if target == "reload":
            await exchange.read_body()
            await _answer(exchange, 200, to_json(await self._reload(query.get("soon") in ("1", "true"))))
            return
        if target not in ("stop", "restart", "leave"):
            raise Fault(
                "unknown_route", f"the daemon cannot {target}", "it can reload, stop, restart and leave"
            )
        request = parse(await exchange.read_body(), DaemonRequest)
        check_grace(request.grace_s)
        if target == "restart":
            await self._try_what_is_installed()
        await _answer(exchange, 200, to_json(self._about()))
        self._leave(target, request.grace_s)

    async def _try_what_is_installed(self) -> None:
        """Once we have gone nobody is left to say that the next one cannot start."""
        try:
            version = await check.of_installed()
        except ValueError as error:
            raise Fault(
                "upgrade_refused",
                f"the installed version cannot take over: {error}",
                f"nothing was changed, {__version__} goes on; mend it and say it again",
            ) from None
        if version != __version__:
            self._log(f"{version} takes over from {__version__}")

    async def _follow_events(self, exchange: httpd.Exchange, target: str, query: dict[str, str]) -> None:
        since = _number(query, "since", 0)
        if _wants_more(query):
            await self._stream(exchange, b"", self._lines_of_events(since))
        else:
            await self._stream(exchange, _event_lines(self._events.since(since)), None)

    async def _lines_of_events(self, since: int) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._events.follow(since)) as batches:
            async for batch in batches:
                yield _event_lines(batch)

    async def _usage(self, exchange: httpd.Exchange, target: str, query: dict[str, str]) -> None:
        path, since = str(self._paths.ledger), _seconds(query, "since")
        limit, proxy = _number(query, "limit", 100), query.get("proxy")

        def rows() -> bytes:
            found = ledger.read(path, since=since, limit=limit, proxy=proxy)
            return json.dumps([ledger.to_document(row) for row in found]).encode()

        await self._answer_from_ledger(exchange, rows)

    async def _costs(self, exchange: httpd.Exchange, target: str, query: dict[str, str]) -> None:
        path, since, by = str(self._paths.ledger), _seconds(query, "since"), query.get("by", "model")
        if by not in costs.KEYS:
            raise Fault("bad_request", f'by must be one of {", ".join(costs.KEYS)}, not "{by[:40]}"')
        await self._answer_from_ledger(
            exchange, lambda: json.dumps(costs.read(path, by=by, since=since)).encode()
        )

    async def _answer_from_ledger(self, exchange: httpd.Exchange, read: Callable[[], bytes]) -> None:
        try:
            # In a thread, the rendering too: thousands of rows would keep every heartbeat waiting.
            body = await trio.to_thread.run_sync(read)
        except ledger.UnreadableError as error:
            raise Fault(
                "ledger_unreadable", str(error), "proxyctl logs tells whether workers can write it"
            ) from None
        await _answer(exchange, 200, body)

    async def _metrics(self, exchange: httpd.Exchange, target: str, query: dict[str, str]) -> None:
        lines = []
        for row in self._commands.rows():
            label = '{proxy="' + row.name.replace("\\", "\\\\").replace('"', '\\"') + '"}'
            lines += [
                f"modelproxy_up{label} {int(row.state in _ANSWERS)}",
                f"modelproxy_requests_total{label} {row.requests}",
                f"modelproxy_in_flight{label} {row.in_flight}",
                f"modelproxy_restarts_total{label} {row.restarts}",
                f"modelproxy_fallbacks_total{label} {row.fallbacks}",
            ]
            if row.rss is not None:
                lines.append(f"modelproxy_resident_memory_bytes{label} {row.rss}")
            if row.queue is not None:
                lines.append(f"modelproxy_accept_queue{label} {row.queue}")
        headers = [(b"content-type", b"text/plain; version=0.0.4")]
        await exchange.respond(200, headers, "".join(f"{line}\n" for line in lines).encode())

    async def _variables(self, exchange: httpd.Exchange, target: str, query: dict[str, str]) -> None:
        """Which of the variables that may give keys are set here. Their values are nobody's business."""
        names = query.get("names", "").split(",")
        found = {name: bool(os.environ.get(name)) for name in names if name}
        await _answer(exchange, 200, json.dumps(found).encode())


Handler = Callable[[httpd.Exchange, str, dict[str, str]], Awaitable[None]]


def refuse(status: int, message: str) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The HTTP layer's own refusals, in the control API's words."""
    error = {
        "error": {"code": "bad_request" if status < 500 else "no_resources", "message": message, "hint": ""}
    }
    return _JSON, json.dumps(error).encode()


def _match(pattern: tuple[str, ...], parts: tuple[str, ...]) -> str | None:
    """What stands at the `*`, or "" when there is none; None when the path does not fit."""
    if len(pattern) != len(parts):
        return None
    found = ""
    for expected, part in zip(pattern, parts, strict=True):
        if expected == "*":
            found = part
        elif expected != part:
            return None
    return found


def _number(query: dict[str, str], name: str, default: int) -> int:
    text = query.get(name, "")
    if not text:
        return default
    if not text.isdecimal() or len(text) > 18:  # int() refuses "²", which is a digit, and endless ones
        raise Fault("bad_request", f'{name} must be a number, not "{text[:40]}"')
    return int(text)


def _seconds(query: dict[str, str], name: str) -> float:
    text = query.get(name) or "0"
    if not text.isascii() or not text.replace(".", "", 1).isdigit() or len(text) > 30:
        raise Fault("bad_request", f'{name} must be seconds since the epoch, not "{text[:40]}"')
    return float(text)


async def _up_request(exchange: httpd.Exchange, target: str, query: dict[str, str]) -> UpRequest:
    request = parse(await exchange.read_body(), UpRequest)
    if target != request.model:
        raise Fault("bad_request", f'the path says "{target}", the body says "{request.model}"')
    if request.lease is not None:
        raise Fault("bad_request", "a lease is held by POST …/lease, and named in its answer")
    # In the query, and not in the body: a supervisor that knows nothing of it is to pass it over.
    asked = query.get("shell") in ("1", "true")
    return attrs.evolve(request, lacks=query.get("lacks", "").split(",") if asked else None)


async def _answer(exchange: httpd.Exchange, status: int, body: bytes) -> None:
    await exchange.respond(status, _JSON, body + b"\n")


def _wants_more(query: dict[str, str]) -> bool:
    return query.get("follow") in ("1", "true")


def _line(text: str) -> bytes:
    return json.dumps({"line": text}).encode() + b"\n"


def _event_lines(events: list[Event]) -> bytes:
    return b"".join(to_json(event) + b"\n" for event in events)


async def _follow(path: Path) -> AsyncGenerator[bytes, None]:
    """New lines of a file, over its rotations. The command line follows files itself; this is for others."""
    file = _opened(path)
    try:
        if file is not None:
            file.seek(0, os.SEEK_END)
        rest = b""
        while True:
            data = rest + (file.read(65536) if file is not None else b"")
            *lines, rest = data.split(b"\n")
            if lines:
                yield b"".join(_line(line.decode(errors="replace")) for line in lines)
                continue
            if (fresh := _successor(file, path)) is not None:
                if file is not None:
                    file.close()
                file = fresh
            await trio.sleep(_FOLLOW_PAUSE_S)
    finally:
        if file is not None:
            file.close()


def _opened(path: Path) -> BinaryIO | None:
    """None while there is no such file: a disk without room for it, or somebody tidied up."""
    try:
        return path.open("rb")
    except OSError:
        return None


def _successor(file: BinaryIO | None, path: Path) -> BinaryIO | None:
    """The file that stands at `path` now, opened; None when it is the one that is being read."""
    try:
        if file is not None and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
            return None
    except OSError:
        return None
    return _opened(path)
