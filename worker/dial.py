"""From a URL to a connected stream: names, addresses, proxies, TLS.

Theory of operation
-------------------
`Dialer.dial` gives back a stream that belongs to its caller, or raises `Unreachable`; cancelled at any point,
it leaves no socket behind. Addresses are tried as RFC 8305 says (trio does it), so that a broken IPv6 costs a
quarter of a second and not the whole limit.

Proxies come from the environment, as every command-line tool reads it. Plain HTTP goes through one with the
absolute form of its URL; TLS goes through a tunnel, so the proxy sees a host name and nothing else. This
machine is never reached through a proxy.

A stream sends without waiting (`send_now`) and waits separately, because whoever sends a large body must
listen at the same time: a server may refuse it before it has read it.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import socket
import ssl
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import attrs
import trio

from .net import RECV_SIZE, RawSocket

_MAX_TUNNEL_HEAD = 16 * 1024
_PORTS = {"http": 80, "https": 443}


class Unreachable(Exception):
    """There is no connection; the text says why, in a few words and without credentials."""


# --- addresses ------------------------------------------------------------------------------------


@attrs.frozen
class Origin:
    """Whom to talk to."""

    host: str
    port: int
    tls: bool = False

    @property
    def host_in_url(self) -> str:
        """An IPv6 address wears brackets."""
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def authority(self) -> str:
        """For `Host`: the port only where it says something."""
        usual = _PORTS["https" if self.tls else "http"]
        return self.host_in_url if self.port == usual else f"{self.host_in_url}:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.authority}"

    @property
    def local(self) -> bool:
        """On this machine."""
        return is_loopback(self.host)


@attrs.frozen
class Base:
    """A provider's base URL, taken apart."""

    origin: Origin
    path: str = ""
    """Without a slash at its end."""
    credentials: str | None = attrs.field(default=None, repr=False)
    """`user:password` of the URL."""

    @property
    def url(self) -> str:
        """For people: without credentials."""
        return self.origin.url + self.path


def parse_base(url: str) -> Base:
    """Take a base URL apart. Raises ValueError, without quoting what may be a password."""
    parts = urllib.parse.urlsplit(url.strip())
    if parts.scheme not in _PORTS:
        raise ValueError("a base URL begins with http:// or https://")
    if not parts.hostname:
        raise ValueError("a base URL names a host")
    if parts.query or parts.fragment:
        raise ValueError("a base URL has neither a query nor a fragment")
    if not all("!" <= char <= "~" for char in parts.path):
        raise ValueError("the path of a base URL is plain ASCII without blanks")
    try:
        host = parts.hostname.encode("ascii" if parts.hostname.isascii() else "idna").decode("ascii")
        port = parts.port or _PORTS[parts.scheme]
    except (UnicodeError, ValueError):
        raise ValueError("the host or port of the base URL is malformed") from None
    return Base(Origin(host, port, parts.scheme == "https"), parts.path.rstrip("/"), _credentials(parts))


def _credentials(parts: urllib.parse.SplitResult) -> str | None:
    if parts.username is None:
        return None
    return f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = _address(name)
    return address is not None and address.is_loopback


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def basic(credentials: str) -> bytes:
    """The value of an authorization header."""
    return b"Basic " + base64.b64encode(credentials.encode())


# --- proxies --------------------------------------------------------------------------------------


@attrs.frozen
class Proxy:
    """An HTTP proxy on the way."""

    origin: Origin
    authorization: bytes | None = attrs.field(default=None, repr=False)


@attrs.frozen
class Proxies:
    """What the environment says about proxies. Lower-case names win, as in curl."""

    http: str | None = attrs.field(default=None, repr=False)
    https: str | None = attrs.field(default=None, repr=False)
    exceptions: tuple[str, ...] = ()

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Proxies:
        """Read `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`."""

        def value(name: str) -> str | None:
            return environ.get(name) or environ.get(name.upper()) or None

        every = value("all_proxy")
        exceptions = (value("no_proxy") or "").replace(",", " ").split()
        return cls(
            value("http_proxy") or every, value("https_proxy") or every, tuple(map(str.lower, exceptions))
        )

    def to(self, origin: Origin) -> Proxy | None:
        """The proxy on the way to `origin`. Raises Unreachable for one that cannot be used."""
        url = self.https if origin.tls else self.http
        if url is None or origin.local or self._excepted(origin):
            return None
        try:
            base = parse_base(url if "://" in url else f"http://{url}")
        except ValueError:
            raise Unreachable("the proxy in the environment is not an http:// URL") from None
        if base.origin.tls:
            raise Unreachable("the proxy in the environment is an https:// URL; only http:// is supported")
        return Proxy(base.origin, basic(base.credentials) if base.credentials else None)

    def _excepted(self, origin: Origin) -> bool:
        return any(_matches(exception, origin) for exception in self.exceptions)


def _matches(exception: str, origin: Origin) -> bool:
    host = origin.host.lower().rstrip(".")
    address = _address(host)
    if exception == "*":
        return True
    if address is not None:
        return _covers(exception.strip("[]"), address) or exception == f"{origin.host_in_url}:{origin.port}"
    name, colon, port = exception.partition(":")
    if colon and port != str(origin.port):
        return False
    name = name.removeprefix("*").removeprefix(".").rstrip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _covers(network: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    try:
        return address in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


# --- streams --------------------------------------------------------------------------------------


class Stream(Protocol):
    """A connection, plain or encrypted."""

    async def recv(self) -> bytes:
        """Some bytes, `b""` at the end. Always a checkpoint. Raises OSError."""

    def send_now(self, data: memoryview) -> int:
        """How much was taken; 0 when the kernel is full. Raises OSError."""

    async def wait_writable(self) -> None:
        """Wait until `send_now` has a chance."""

    def is_quiet(self) -> bool:
        """Whether the peer has neither closed nor said anything since the last answer."""

    def close(self) -> None:
        """Close at once."""


class Plain(RawSocket):
    """Bytes as they are."""

    __slots__ = ()

    def send_now(self, data: memoryview) -> int:
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0

    async def wait_writable(self) -> None:
        await trio.lowlevel.wait_writable(self.socket)

    def is_quiet(self) -> bool:
        try:
            # Bytes that nobody asked for (a server's "408 timed out", say) are as bad as an end.
            self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False


class Tls:
    """TLS in the kernel's socket buffers: half the price of trio's stream, which copies everything twice."""

    __slots__ = ("_socket",)

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._socket = sock

    async def handshake(self) -> None:
        """Agree on keys and check the certificate. Raises OSError (ssl.SSLError is one)."""
        while True:
            try:
                self._socket.do_handshake()
                return
            except ssl.SSLWantReadError:
                await trio.lowlevel.wait_readable(self._socket)
            except ssl.SSLWantWriteError:
                await trio.lowlevel.wait_writable(self._socket)

    async def recv(self) -> bytes:
        while True:
            if self._socket.pending():  # decrypted already: the kernel knows nothing of these
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(self._socket)
            try:
                return self._socket.recv(RECV_SIZE)
            except ssl.SSLWantReadError:
                continue  # half a record, or one without data

    def send_now(self, data: memoryview) -> int:
        try:
            return self._socket.send(data)
        except ssl.SSLWantWriteError:
            return 0

    async def wait_writable(self) -> None:
        await trio.lowlevel.wait_writable(self._socket)

    def is_quiet(self) -> bool:
        try:
            # Peeking would show session tickets, which may come at any time and mean nothing.
            self._socket.recv(1)
        except ssl.SSLWantReadError:
            return True
        except OSError:
            pass
        return False

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


# --- dialling -------------------------------------------------------------------------------------


def system_tls() -> ssl.SSLContext:
    """Trusts what the system trusts, and `SSL_CERT_FILE`. Costs some 40 ms."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    # With renegotiation a write could have to wait for a read, and no server of today wants it.
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context


Connect = Callable[[Origin], Awaitable[socket.socket]]


class Dialer:
    """Makes connections. `make_tls` is called once, when the first is to be encrypted.

    `connect` decides where they may lead; without one, to whatever the name means.
    """

    def __init__(
        self,
        proxies: Proxies | None = None,
        *,
        make_tls: Callable[[], ssl.SSLContext] = system_tls,
        connect: Connect | None = None,
    ) -> None:
        self.proxies = proxies or Proxies()
        self._connect = connect or reach
        self._make_tls = make_tls
        self._tls: ssl.SSLContext | None = None

    async def dial(self, origin: Origin, proxy: Proxy | None) -> Stream:
        """A connection to `origin`. Raises Unreachable."""
        sock = await self._connect(proxy.origin if proxy else origin)
        try:
            stream = Plain(sock)
            if not origin.tls:
                return stream
            if proxy is not None:
                await _tunnel(stream, origin, proxy)
            return await self._encrypt(sock, origin)
        except BaseException:
            _close(sock)
            raise

    async def _encrypt(self, sock: socket.socket, origin: Origin) -> Tls:
        if self._tls is None:
            self._tls = await trio.to_thread.run_sync(self._make_tls)
        try:
            wrapped = self._tls.wrap_socket(sock, server_hostname=origin.host, do_handshake_on_connect=False)
        except (OSError, ValueError) as error:  # gone already, or a name that no certificate can have
            raise Unreachable(f"TLS: {reason(error) if isinstance(error, OSError) else error}") from None
        stream = Tls(wrapped)
        try:
            await stream.handshake()
        except BaseException as error:
            stream.close()
            if isinstance(error, ssl.SSLCertVerificationError):
                raise Unreachable(f"TLS: {error.verify_message}") from None
            if isinstance(error, OSError):
                raise Unreachable(f"TLS: {reason(error)}") from None
            raise
        return stream


async def reach(origin: Origin) -> socket.socket:
    """A socket to the first of its addresses that accepts. Raises Unreachable."""
    try:
        stream = await trio.open_tcp_stream(origin.host, origin.port)
    except OSError as error:
        raise Unreachable(reason(_first(error))) from None
    sock = socket.socket(fileno=stream.socket.detach())
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        # trio lets the kernel keep 16 KiB unsent; a request of a megabyte would leave in sixty pieces.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 0)
    return sock


def _close(sock: socket.socket) -> None:
    if sock.fileno() >= 0:  # else it has become a TLS socket, which closes itself
        trio.lowlevel.notify_closing(sock)
        sock.close()


def _first(error: OSError) -> OSError:
    """trio hides the reason behind a summary: one error as its cause, or a group of them."""
    cause = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    return cause if isinstance(cause, OSError) else error


def reason(error: OSError) -> str:
    """Why, in a few words."""
    if isinstance(error, socket.gaierror):
        return "the host name was not found"
    if isinstance(error, ssl.SSLError):
        return (error.reason or "failed").replace("_", " ").lower()
    # Not its own text: trio puts the address in front of that.
    return (os.strerror(error.errno) if error.errno else type(error).__name__).lower()


async def _tunnel(stream: Plain, origin: Origin, proxy: Proxy) -> None:
    target = f"{origin.host_in_url}:{origin.port}".encode("ascii")
    lines = [b"CONNECT %b HTTP/1.1" % target, b"host: %b" % target]
    if proxy.authorization is not None:
        lines.append(b"proxy-authorization: %b" % proxy.authorization)
    try:
        await stream.send_all(b"\r\n".join(lines) + b"\r\n\r\n")
        status = await _tunnel_status(stream)
    except OSError as error:
        raise Unreachable(f"the proxy {proxy.origin.url}: {reason(error)}") from None
    if status is None:
        raise Unreachable(f"the proxy {proxy.origin.url} does not answer as a proxy")
    if not 200 <= status < 300:
        raise Unreachable(f"the proxy {proxy.origin.url} refused the tunnel with status {status}")


async def _tunnel_status(stream: Plain) -> int | None:
    head = b""
    # Byte by byte would be exact; but a server behind the tunnel waits for our hello before it speaks.
    while b"\r\n\r\n" not in head:
        data = await stream.recv()
        head += data
        if not data or len(head) > _MAX_TUNNEL_HEAD:
            return None
    protocol, _, rest = head.partition(b" ")
    return int(rest[:3]) if protocol.startswith(b"HTTP/1.") and rest[:3].isdigit() else None


__all__ = [
    "Base",
    "Dialer",
    "Origin",
    "Plain",
    "Proxies",
    "Proxy",
    "Stream",
    "Tls",
    "Unreachable",
    "basic",
    "is_loopback",
    "parse_base",
    "reach",
    "reason",
    "system_tls",
]
