"""URLs, proxies of the environment, TLS, and connections that cannot be made."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from fakes.upstream import Certificate, Reply, Upstream

from modelproxy.worker.dial import (
    Base,
    Dialer,
    Origin,
    Proxies,
    Proxy,
    Unreachable,
    is_loopback,
    parse_base,
    system_tls,
)

# --- URLs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "base", "shown"),
    [
        ("http://127.0.0.1:11434", Base(Origin("127.0.0.1", 11434)), "http://127.0.0.1:11434"),
        ("https://a.b/api/v1/", Base(Origin("a.b", 443, tls=True), "/api/v1"), "https://a.b/api/v1"),
        ("http://A.B:80/", Base(Origin("a.b", 80)), "http://a.b"),
        ("http://[::1]:8080/x", Base(Origin("::1", 8080), "/x"), "http://[::1]:8080/x"),
        ("http://bücher.example", Base(Origin("xn--bcher-kva.example", 80)), "http://xn--bcher-kva.example"),
        ("http://me:p%40ss@h:1", Base(Origin("h", 1), credentials="me:p@ss"), "http://h:1"),
        ("http://token@h:1", Base(Origin("h", 1), credentials="token:"), "http://h:1"),
    ],
)
def test_a_base_url_is_taken_apart(url: str, base: Base, shown: str) -> None:
    assert (parse_base(url), parse_base(url).url) == (base, shown)


@pytest.mark.parametrize(
    "url",
    [
        *("", "127.0.0.1:11434", "ftp://a", "http://", "http:///x", "http://a:b", "http://a:99999"),
        *("http://a?b", "http://a#b", "http://a/ü", "http://" + "ü" * 70),
    ],
)
def test_what_is_no_base_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="base URL"):
        parse_base(url)


def test_credentials_are_not_shown() -> None:
    assert "secret" not in repr(parse_base("http://me:secret@h"))


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *(
            ("localhost", True),
            ("LOCALHOST.", True),
            ("a.localhost", True),
            ("127.8.9.1", True),
            ("::1", True),
        ),
        *(("10.0.0.1", False), ("localhost.example", False), ("127.0.0.1.example", False)),
    ],
)
def test_this_machine_is_known(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
    assert Origin(host, 1).local is expected


# --- proxies --------------------------------------------------------------------------------------


def proxies(**environ: str) -> Proxies:
    return Proxies.of(environ)


FAR, FAR_TLS = Origin("far.example", 80), Origin("far.example", 443, tls=True)


@pytest.mark.parametrize(
    ("environ", "plain", "tls"),
    [
        ({}, None, None),
        ({"HTTP_PROXY": "http://p:1"}, "p", None),
        ({"HTTPS_PROXY": "http://p:1"}, None, "p"),
        ({"ALL_PROXY": "p:1", "https_proxy": "http://q:1", "HTTPS_PROXY": "http://r:1"}, "p", "q"),
        ({"ALL_PROXY": "p:1", "NO_PROXY": "*"}, None, None),
        ({"ALL_PROXY": "p:1", "NO_PROXY": "a.b, example"}, None, None),
        ({"ALL_PROXY": "p:1", "NO_PROXY": ".far.example"}, None, None),
        ({"ALL_PROXY": "p:1", "NO_PROXY": "*.example"}, None, None),
        ({"ALL_PROXY": "p:1", "NO_PROXY": "far.example:443"}, "p", None),
        ({"ALL_PROXY": "p:1", "NO_PROXY": "r.example,10.0.0.0/8, ,."}, "p", "p"),
    ],
)
def test_the_environment_names_proxies(environ: dict[str, str], plain: str | None, tls: str | None) -> None:
    found = [Proxies.of(environ).to(origin) for origin in (FAR, FAR_TLS)]

    assert [proxy and proxy.origin.host for proxy in found] == [plain, tls]


@pytest.mark.parametrize(
    ("exceptions", "host", "proxied"),
    [
        *(("", "127.0.0.1", False), ("", "localhost", False), ("", "::1", False), ("", "10.1.2.3", True)),
        *(
            ("10.0.0.0/8", "10.1.2.3", False),
            ("10.1.2.3", "10.1.2.3", False),
            ("10.1.2.3:1", "10.1.2.3", False),
        ),
        *(("fd00::/8", "fd00::1", False), ("[fd00::1]", "fd00::1", False), ("10.0.0.0/99", "10.1.2.3", True)),
    ],
)
def test_addresses_that_need_no_proxy(exceptions: str, host: str, proxied: bool) -> None:
    assert (proxies(all_proxy="p:1", no_proxy=exceptions).to(Origin(host, 1)) is not None) is proxied


@pytest.mark.parametrize("url", ["https://me:secret@p", "socks5://me:secret@p", "http://me:secret@p:x"])
def test_a_proxy_that_cannot_be_used_is_not_gone_around(url: str) -> None:
    """Nor is its password said."""
    with pytest.raises(Unreachable, match=r"^the proxy in the environment is (not )?an http") as caught:
        proxies(all_proxy=url).to(FAR)

    assert "secret" not in f"{caught.value}{proxies(all_proxy=url)!r}"


# --- connections that cannot be made --------------------------------------------------------------


def refuse(name: str) -> Callable[[Upstream], tuple[Origin, Proxy | None]]:
    return {
        "closed port": lambda far: (Origin("127.0.0.1", far.port), None),
        "closed port of a name": lambda far: (Origin("localhost", far.port), None),
        "closed proxy": lambda far: (FAR, Proxy(Origin("127.0.0.1", far.port))),
    }[name]


@pytest.mark.parametrize("name", ["closed port", "closed port of a name", "closed proxy"])
async def test_a_closed_port_refuses(far: Upstream, name: str) -> None:
    """And is not waited for until the time to connect is up."""
    far.stop()
    with pytest.raises(Unreachable, match="connection refused"):
        await Dialer().dial(*refuse(name)(far))


class Nowhere(trio.abc.HostnameResolver):
    """A name service that knows nothing."""

    async def getaddrinfo(self, *_: object, **__: object) -> list[object]:  # type: ignore[override]  # all it does
        raise socket.gaierror(-2, "Name or service not known")

    async def getnameinfo(self, *_: object) -> tuple[str, str]:
        raise NotImplementedError


async def test_an_unknown_name() -> None:
    trio.socket.set_custom_hostname_resolver(Nowhere())
    with pytest.raises(Unreachable, match="the host name was not found"):
        await Dialer().dial(FAR, None)


# --- TLS ------------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return Certificate.make(tmp_path)


def over_tls(far: Upstream, host: str = "127.0.0.1") -> Origin:
    return Origin(host, far.port, tls=True)


async def test_a_certificate_that_nobody_vouches_for(certificate: Certificate) -> None:
    with Upstream(tls=certificate) as far, pytest.raises(Unreachable, match="TLS: self-signed certificate"):
        await Dialer().dial(over_tls(far), None)


async def test_a_certificate_for_another_name(tmp_path: Path) -> None:
    certificate = Certificate.make(tmp_path, "other.example")
    with Upstream(tls=certificate) as far, pytest.raises(Unreachable, match="TLS: Hostname mismatch"):
        await Dialer(make_tls=certificate.client).dial(over_tls(far, "localhost"), None)


async def test_a_server_without_tls_is_not_spoken_to_in_the_clear(far: Upstream) -> None:
    """S21: https is never downgraded."""
    with pytest.raises(Unreachable, match="TLS: "):
        await Dialer(make_tls=system_tls).dial(over_tls(far), None)

    assert far.requests == []


async def test_a_handshake_that_does_not_come_can_be_cancelled() -> None:
    listener = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener[0]:
        port = listener[0].socket.getsockname()[1]
        with trio.move_on_after(0.2) as scope:
            await Dialer().dial(Origin("127.0.0.1", port, tls=True), None)
        peer = await listener[0].accept()
        async with peer:
            assert (await peer.receive_some())[:1] == b"\x16"  # a TLS hello
            assert await peer.receive_some() == b""

    assert scope.cancelled_caught


# --- tunnels --------------------------------------------------------------------------------------


async def relay(source: trio.SocketStream, sink: trio.SocketStream) -> None:
    async for data in source:
        await sink.send_all(data)
    await sink.send_eof()


async def test_tls_goes_through_a_tunnel(certificate: Certificate) -> None:
    """The proxy sees the name of the host and nothing else."""
    heads = []

    async def proxy(client: trio.SocketStream) -> None:
        heads.append(await client.receive_some())
        await client.send_all(b"HTTP/1.1 200 Connection ")
        await client.send_all(b"established\r\nx: y\r\n\r\n")
        async with (
            await trio.open_tcp_stream("127.0.0.1", server_port) as server,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(relay, client, server)
            await relay(server, client)

    with Upstream(tls=certificate) as far:
        far.on("/", Reply(body=b"abc"))
        server_port = far.port
        async with trio.open_nursery() as nursery:
            [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, proxy, [listener])
            way = Proxy(Origin("127.0.0.1", listener.socket.getsockname()[1]), b"Basic abc")
            stream = await Dialer(make_tls=certificate.client).dial(over_tls(far, "localhost"), way)
            stream.send_now(memoryview(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"))
            answer = await stream.recv()
            stream.close()
            nursery.cancel_scope.cancel()

        target = f"localhost:{far.port}".encode()
        head = b"CONNECT %b HTTP/1.1\r\nhost: %b\r\nproxy-authorization: Basic abc\r\n\r\n"
        assert heads == [head % (target, target)]
        assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(407, b"no"), "refused the tunnel with status 407"),
        (Reply(raw=b"hello\r\n\r\n"), "does not answer as a proxy"),
        (Reply(raw=b"HTTP/1.1 2xx\r\n\r\n"), "does not answer as a proxy"),
        (Reply(raw=b""), "does not answer as a proxy"),
        (Reply(raw=b"x" * 100_000), "does not answer as a proxy"),
        (Reply(raw=b"", reset=True), "reset"),
    ],
)
async def test_a_tunnel_that_is_refused(far: Upstream, reply: Reply, words: str) -> None:
    far.on("*", reply)
    with pytest.raises(Unreachable, match=words):
        await Dialer().dial(FAR_TLS, Proxy(Origin("127.0.0.1", far.port)))


async def test_where_connections_lead_can_be_decided_elsewhere() -> None:
    """TLS and all else stay as they are."""
    asked: list[Origin] = []

    async def nowhere(origin: Origin) -> socket.socket:
        await trio.lowlevel.checkpoint()
        asked.append(origin)
        raise Unreachable("not there")

    with pytest.raises(Unreachable, match="not there"):
        await Dialer(connect=nowhere).dial(Origin("example.net", 443, tls=True), None)

    assert asked == [Origin("example.net", 443, tls=True)]
