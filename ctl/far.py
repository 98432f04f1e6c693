"""One question to a provider, as `models list` asks it: with little patience, and by the way that workers go.

That is: through the HTTP proxy of the environment, by CONNECT for TLS, and never for this machine.
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

PATIENCE_S = 5.0
MOST_BYTES = 32 * 1024 * 1024


class Refused(ValueError):
    """It answered with another status than 200."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


def get(
    base_url: str, path: str, headers: Mapping[str, str], patience_s: float = PATIENCE_S
) -> dict[str, Any]:
    """The JSON object at `path`. OSError, HTTPException: nobody answered; ValueError: something else came."""
    parts = urlsplit(base_url)
    proxy = _proxy(parts.scheme, parts.hostname or "", parts.port)
    place = f"{parts.path.rstrip('/')}{path}"
    sent = dict(headers)
    if proxy is not None and parts.scheme == "http":
        place = f"http://{parts.netloc.rpartition('@')[2]}{place}"
        sent |= proxy.headers
    connection = _connection(parts.scheme, parts.hostname or "", parts.port, proxy, patience_s)
    try:
        connection.request("GET", place, headers=sent)
        answer = connection.getresponse()
        body = answer.read(MOST_BYTES)
    finally:
        connection.close()
    if answer.status != 200:
        raise Refused(answer.status)
    document = json.loads(body)
    if not isinstance(document, dict):
        raise ValueError("its answer is no JSON object")
    return document


class _Proxy:
    def __init__(self, url: str) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError("the proxy in the environment is not an http:// URL")
        self.host, self.port = parts.hostname, parts.port or 80
        said = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        basic = base64.b64encode(said.encode()).decode()
        self.headers = {"Proxy-Authorization": f"Basic {basic}"} if parts.username else {}


def _proxy(scheme: str, host: str, port: int | None) -> _Proxy | None:
    from urllib.request import getproxies_environment, proxy_bypass

    if is_here(host):
        return None
    said = getproxies_environment()
    url = said.get(scheme) or said.get("all")
    place = host if port is None else f"{host}:{port}"
    return None if not url or proxy_bypass(place) else _Proxy(url)


def is_here(host: str) -> bool:
    """Whether it means this machine."""
    return host == "localhost" or host == "::1" or host.startswith("127.")


def _connection(
    scheme: str, host: str, port: int | None, proxy: _Proxy | None, patience_s: float
) -> http.client.HTTPConnection:
    where = (proxy.host, proxy.port) if proxy else (host, port)
    if scheme != "https":
        return http.client.HTTPConnection(*where, timeout=patience_s)
    context = ssl.create_default_context()
    connection = http.client.HTTPSConnection(*where, timeout=patience_s, context=context)
    if proxy is not None:
        connection.set_tunnel(host, port or 443, proxy.headers)
    return connection
