"""One question to a provider: by which way it goes, and what of an answer is one."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from fakes.hearing import hearing

from modelproxy.ctl import far


class Server(BaseHTTPRequestHandler):
    """A provider, or an HTTP proxy that answers in a provider's place; tunnels it refuses."""

    def do_GET(self) -> None:
        self.server.heard.append((self.requestline.rpartition(" ")[0], dict(self.headers)))  # type: ignore[attr-defined]
        body = b"[]" if self.path.endswith("/list") else json.dumps({"data": []}).encode()
        self.send_response(401 if self.path.endswith("/secret") else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_CONNECT(self) -> None:
        self.server.heard.append((self.requestline.rpartition(" ")[0], dict(self.headers)))  # type: ignore[attr-defined]
        self.send_error(502)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with hearing(Server) as found:
        yield found


def test_this_machine_is_asked_directly(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    url = f"http://127.0.0.1:{server.server_port}/v1/"

    assert far.get(url, "/models?limit=5", {"x-team": "blue"}) == {"data": []}
    [(line, headers)] = server.heard
    assert (line, headers["x-team"]) == ("GET /v1/models?limit=5", "blue")


def test_others_are_asked_through_the_proxy(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://me:p%40ss@127.0.0.1:{server.server_port}")

    assert far.get("http://provider.test:81/v1", "/models", {}) == {"data": []}
    [(line, headers)] = server.heard
    assert line == "GET http://provider.test:81/v1/models"
    assert headers["Proxy-Authorization"] == "Basic bWU6cEBzcw=="
    assert headers["Host"] == "provider.test:81"


def test_tls_goes_through_a_tunnel_and_the_key_does_not_stop_at_the_proxy(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", f"127.0.0.1:{server.server_port}")
    with pytest.raises(OSError, match="502"):
        far.get("https://provider.test/v1", "/models", {"Authorization": "Bearer sk-secret"})

    [(line, headers)] = server.heard
    assert line == "CONNECT provider.test:443"
    assert "sk-secret" not in str(headers)


def test_whom_no_proxy_names_is_asked_directly(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("no_proxy", ".invalid")

    with pytest.raises(OSError, match=r"Name|name|known|resolution"):
        far.get("http://provider.invalid", "/models", {})
    assert server.heard == []


@pytest.mark.parametrize("url", ["https://h:1", "socks5://h:1"])
def test_a_proxy_that_cannot_be_used_is_named_as_such(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("http_proxy", url)

    with pytest.raises(ValueError, match="the proxy in the environment is not an http:// URL"):
        far.get("http://provider.test", "/models", {})


def test_what_is_no_list(server: Any) -> None:
    url = f"http://127.0.0.1:{server.server_port}"
    with pytest.raises(far.Refused, match="status 401") as caught:
        far.get(url, "/secret", {})
    assert caught.value.status == 401
    with pytest.raises(ValueError, match="no JSON object"):
        far.get(url, "/list", {})
    server.shutdown()
    server.server_close()
    with pytest.raises((OSError, http.client.HTTPException)):
        far.get(url, "/x", {})
