"""Pictures fetched by their addresses: what comes, what does not and why. Against a real server."""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from fakes.upstream import Reply, Upstream

from modelproxy.worker.dial import Origin
from modelproxy.worker.dialects.blocks import Image
from modelproxy.worker.dialects.material import Lacking
from modelproxy.worker.images import Images, parsed, type_of

PNG = b"\x89PNG\r\n\x1a\n and what follows"
LIMIT_S = 30.0


@pytest.fixture
def far() -> Iterator[Upstream]:
    with Upstream() as found:
        yield found


class Log:
    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def __call__(self, level: str, event: str, **fields: Any) -> None:
        self.lines.append({"level": level, "event": event, **fields})


def image(body: bytes | tuple[bytes, ...] = PNG, kind: str = "image/png", **more: Any) -> Reply:
    return Reply(body=body, headers=(("content-type", kind),), **more)


def moved(place: str, status: int = 302) -> Reply:
    return Reply(status=status, headers=(("location", place), ("set-cookie", "who=you")))


async def fetched(address: str, log: Log | None = None, **settings: Any) -> Image | Lacking:
    """With the one exception that tests need: this machine may be asked."""
    settings = {"allowed": lambda _: True} | settings
    with trio.fail_after(LIMIT_S):
        return await Images(log or Log(), **settings).image(address)


async def test_a_picture_comes_with_the_type_that_it_has(far: Upstream) -> None:
    far.on("/a", image(kind="IMAGE/jpg; charset=binary"))

    assert await fetched(f"{far.url}/a?size=1#top") == Image("image/png", base64.b64encode(PNG).decode())
    [seen] = far.requests
    assert (seen.method, seen.target) == ("GET", "/a?size=1")
    assert seen.headers["user-agent"].startswith("modelproxy/")
    assert "authorization" not in seen.headers


@pytest.mark.parametrize("kind", ["application/octet-stream", "Binary/Octet-Stream"])
async def test_so_does_one_that_its_server_has_no_name_for(far: Upstream, kind: str) -> None:
    """A store of files names few of them."""
    far.on("/a", image(kind=kind)).on("/b", image(b"<html>", kind=kind))

    assert await fetched(f"{far.url}/a") == Image("image/png", base64.b64encode(PNG).decode())
    assert await fetched(f"{far.url}/b") == Lacking("it is no JPEG, PNG, GIF or WebP")


async def test_redirects_are_followed_without_cookies(far: Upstream) -> None:
    far.on("/a", moved("/b"))
    far.on("/b", moved(f"{far.url}/c", 307))
    far.on("/c", image())

    assert isinstance(await fetched(f"{far.url}/a"), Image)
    assert [seen.path for seen in far.requests] == ["/a", "/b", "/c"]
    assert all("cookie" not in seen.headers for seen in far.requests)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(404, b"gone"), "its server answers 404"),
        (image(status=206), "its server answers 206"),
        (moved(""), "its server answers 302"),
        (image(kind="text/html"), "its server calls it text/html"),
        (Reply(headers=(), body=PNG), "its server does not call it an image"),
        (image(b"<svg/>", "image/svg+xml"), "it is no JPEG, PNG, GIF or WebP"),
        (image(b"<html>"), "it is no JPEG, PNG, GIF or WebP"),
        (image(PNG * 50), "it is larger than 1000 bytes"),
        (image((PNG,) * 50, framing="chunked"), "it is larger than 1000 bytes"),
        (image(PNG, cut_after=9), "the connection ended: it closed the connection"),
        (
            Reply(body=PNG, headers=(("content-type", "image/png"), ("content-encoding", "gzip"))),
            "its server compresses it",
        ),
        (moved("file:///etc/passwd"), "its address is not http:// or https://"),
        (moved("http://[nowhere"), "its address is malformed"),
    ],
)
async def test_what_is_no_picture_is_a_reason_and_a_line_in_the_log(
    far: Upstream, reply: Reply, reason: str
) -> None:
    far.on("/a", reply)
    log = Log()

    assert await fetched(f"{far.url}/a?token=secret", log, most=1000) == Lacking(reason)
    assert log.lines == [
        {"level": "warning", "event": "image_unfetched", "host": f"127.0.0.1:{far.port}", "reason": reason}
    ]


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("file:///etc/passwd", "its address is not http:// or https://"),
        ("ftp://example.net/a.png", "its address is not http:// or https://"),
        ("a.png", "its address is not http:// or https://"),
        ("http://", "its address is malformed"),
        ("https://user:password@example.net/a.png", "its address holds a password"),
        ("http://exa mple/a.png", "its address is malformed"),
        ("http://exa\rmple\r\nx-evil: 1/a.png", "its address is malformed"),
        ("http://[fe80::1%25eth0]/a.png", "its address is malformed"),
        ("http://[::1/a.png", "its address is malformed"),
        ("http://example.net:99999/a.png", "its address is malformed"),
        ("http://a\ud800b/", "its address is malformed"),
        (f"http://{'a' * 300}.invalid/", "the host name was not found"),
        ("http://a\x00b/", "its address is malformed"),
    ],
)
async def test_what_is_no_address(address: str, reason: str) -> None:
    log = Log()

    assert await fetched(address, log) == Lacking(reason)
    assert "password@" not in str(log.lines)


async def test_time_is_bounded(far: Upstream) -> None:
    far.on("/a", image(hang=True))

    assert await fetched(f"{far.url}/a", limit_s=0.2) == Lacking("it did not come within 0.2 s")


async def test_so_is_a_body_that_drips(far: Upstream) -> None:
    far.on("/a", image(PNG * 100, drip=1, drip_pause=0.02))

    assert await fetched(f"{far.url}/a", limit_s=0.3) == Lacking("it did not come within 0.3 s")


async def test_this_machine_is_not_asked(far: Upstream) -> None:
    found = await Images(Log()).image(f"{far.url}/a")

    assert found == Lacking("it is in this machine's own network, which is not asked")
    assert far.connections == 0


async def test_neither_when_something_outside_leads_there(far: Upstream) -> None:
    """Each address of a way is judged."""
    with Upstream(host="127.0.0.2") as inner:
        far.on("/a", moved(f"{inner.url}/secrets"))
        found = await fetched(f"{far.url}/a", allowed=lambda address: address == "127.0.0.1")

        assert found == Lacking("it is in this machine's own network, which is not asked")
        assert (far.connections, inner.connections) == (1, 0)


class Loopback(trio.abc.HostnameResolver):
    """Every name means this machine."""

    async def getaddrinfo(self, host: Any, port: Any, *_: int, **__: int) -> Any:
        await trio.lowlevel.checkpoint()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        raise NotImplementedError


async def test_proxies_are_not_used(far: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would look the name up themselves, and come to where we must not."""
    trio.socket.set_custom_hostname_resolver(Loopback())
    far.on("/a", image())
    with Upstream() as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)

        assert isinstance(await fetched(f"http://pictures.example:{far.port}/a"), Image)
        assert proxy.connections == 0


async def test_a_circle_is_left_soon(far: Upstream) -> None:
    far.on("/a", moved("/a"))

    assert await fetched(f"{far.url}/a") == Lacking("it redirects more than 3 times")
    assert len(far.requests) == 4


async def test_who_does_not_wait_any_more_leaves_no_connection(far: Upstream) -> None:
    far.on("/a", image(hang=True))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetched, f"{far.url}/a")
        await trio.to_thread.run_sync(far.wait_for_requests, 1)
        nursery.cancel_scope.cancel()

    await trio.to_thread.run_sync(far.wait_for_close)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF87a", "image/gif"),
        (b"GIF89a", "image/gif"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        (b"RIFF\0\0\0\0WAVE", None),
        (b"", None),
    ],
)
def test_a_type_by_its_first_bytes(data: bytes, kind: str | None) -> None:
    assert type_of(data) == kind


@pytest.mark.parametrize(
    ("address", "origin", "target"),
    [
        ("https://example.net/a.png", Origin("example.net", 443, True), "/a.png"),
        ("HTTP://Example.NET:8080", Origin("example.net", 8080), "/"),
        ("http://example.net?a=1#b", Origin("example.net", 80), "/?a=1"),
        (
            "http://b\u00fccher.de/\u00fc b.png?q=\u00e9%20",
            Origin("xn--bcher-kva.de", 80),
            "/%C3%BC%20b.png?q=%C3%A9%20",
        ),
        ("http://[2001:db8::1]:81/a", Origin("2001:db8::1", 81), "/a"),
        ("http://a/b\r\nx: y", Origin("a", 80), "/bx:%20y"),
        ('http://a/\x00\x7f"<>', Origin("a", 80), "/%00%7F%22%3C%3E"),
    ],
)
def test_an_address_taken_apart(address: str, origin: Origin, target: str) -> None:
    assert parsed(address) == (origin, target)
