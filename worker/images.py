"""Fetches pictures that a request has only the addresses of.

Bounded in every direction, because anybody may have written the address: where it leads (`outside`, at each
redirect anew), how often it leads on, how long it takes, how much comes, and what comes. Nothing of ours goes
along: no key, no cookie, no password.
"""

from __future__ import annotations

import base64
import functools
import ipaddress
import re
import urllib.parse
from collections.abc import Callable

import trio

from . import __version__
from .dial import Dialer, Origin, Unreachable
from .dialects.blocks import Image
from .dialects.material import Lacking
from .outside import Allowed, connect_outside, is_public
from .pool import Answer, Outgoing, Pool, PoolError

LIMIT_S = 10.0
MOST_BYTES = 10 * 1024 * 1024
MOST_REDIRECTS = 3
MOST_AT_ONCE = 4
_HEADERS = [(b"accept", b"image/*"), (b"user-agent", b"modelproxy/" + __version__.encode())]
_UNNAMED = ("application/octet-stream", "binary/octet-stream")
"""What stores of files call anything; its first bytes tell."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})

Log = Callable[..., None]


class _Refused(Exception):
    """It is not to be had; the text says why."""


class Images:
    """Fetches; keeps nothing but connections. `allowed`: see `outside`."""

    def __init__(
        self,
        log: Log,
        *,
        allowed: Allowed = is_public,
        limit_s: float = LIMIT_S,
        most: int = MOST_BYTES,
    ) -> None:
        self._log = log
        self._limit_s = limit_s
        self._most = most
        self._pool = Pool(Dialer(connect=functools.partial(connect_outside, allowed=allowed)))
        self._places = trio.CapacityLimiter(MOST_AT_ONCE)

    async def image(self, address: str) -> Image | Lacking:
        """The picture at this address. What goes wrong is said in the log as well."""
        async with self._places:
            with trio.move_on_after(self._limit_s):
                try:
                    return await self._fetched(address)
                except _Refused as refused:
                    return self._lacking(address, str(refused))
        return self._lacking(address, f"it did not come within {self._limit_s:g} s")

    def _lacking(self, address: str, reason: str) -> Lacking:
        # An address may hold what lets one in; its host does not.
        self._log("warning", "image_unfetched", host=_host(address), reason=reason)
        return Lacking(reason)

    async def _fetched(self, address: str) -> Image:
        try:
            data = await self._followed(address)
        except Unreachable as error:
            raise _Refused(str(error)) from None
        except PoolError as error:
            raise _Refused(f"the connection ended: {error}") from None
        media_type = type_of(data)
        if media_type is None:
            raise _Refused("it is no JPEG, PNG, GIF or WebP")
        encoded = await trio.to_thread.run_sync(base64.b64encode, data)
        return Image(media_type, encoded.decode("ascii"))

    async def _followed(self, address: str) -> bytes:
        for _ in range(MOST_REDIRECTS + 1):
            origin, target = parsed(address)
            answer = await self._pool.send(Outgoing("GET", origin, target, _HEADERS))
            try:
                place = dict(answer.headers).get(b"location", b"").decode("utf-8", "replace")
                if answer.status not in _REDIRECTS or not place:
                    return await self._body(answer)
            finally:
                answer.close()
            address = _joined(address, place)
        raise _Refused(f"it redirects more than {MOST_REDIRECTS} times")

    async def _body(self, answer: Answer) -> bytes:
        headers = {name: value.decode("latin-1").strip().lower() for name, value in answer.headers}
        kind = headers.get(b"content-type", "").partition(";")[0]
        if answer.status != 200:
            raise _Refused(f"its server answers {answer.status}")
        if not kind.startswith("image/") and kind not in _UNNAMED:
            raise _Refused(
                f"its server calls it {kind[:40]}" if kind else "its server does not call it an image"
            )
        if headers.get(b"content-encoding", "identity") != "identity":
            raise _Refused("its server compresses it")
        data, whole = await answer.read_all(self._most)
        if not whole:
            raise _Refused(f"it is larger than {self._most} bytes")
        return data


# --- addresses ------------------------------------------------------------------------------------


def parsed(address: str) -> tuple[Origin, str]:
    """Whom to ask, and for what. Raises _Refused."""
    try:
        parts = urllib.parse.urlsplit(address)
        tls = parts.scheme == "https"
        host, port = parts.hostname or "", parts.port or (443 if tls else 80)
        host = host if host.isascii() else host.encode("idna").decode("ascii")
    except ValueError:  # UnicodeError is one
        raise _Refused("its address is malformed") from None
    if parts.scheme not in ("http", "https"):
        raise _Refused("its address is not http:// or https://")
    if "@" in parts.netloc:
        raise _Refused("its address holds a password")
    if not _is_host(host):
        raise _Refused("its address is malformed")
    query = f"?{parts.query}" if parts.query else ""
    return Origin(host, port, tls), urllib.parse.quote(
        (parts.path or "/") + query, safe=_AS_IT_IS, errors="replace"
    )


_AS_IT_IS = "%/?:@!$&'()*+,;=-._~[]|"
"""What needs no escape in a path or a query, or is part of one."""
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*)")


def _is_host(host: str) -> bool:
    """A name or an address; it is going to stand in a header."""
    if ":" not in host:
        return _NAME.fullmatch(host) is not None
    try:
        return ipaddress.IPv6Address(host).scope_id is None
    except ValueError:
        return False


def _joined(address: str, place: str) -> str:
    try:
        return urllib.parse.urljoin(address, place)
    except ValueError:
        raise _Refused("its address is malformed") from None


def _host(address: str) -> str:
    host = address.partition("://")[2].partition("/")[0].partition("?")[0].rpartition("@")[2][:100]
    return host.encode("ascii", "replace").decode("ascii")


def type_of(data: bytes) -> str | None:
    """What a picture is, by its first bytes; None: none that models take."""
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for mark, kind in _MARKS if data.startswith(mark)), None)


_MARKS = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)


__all__ = ["LIMIT_S", "MOST_BYTES", "Images", "type_of"]
