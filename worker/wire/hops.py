"""Headers that speak of one connection and go no further, in lower case."""

from __future__ import annotations

OF_CONNECTION = frozenset(
    {
        b"connection",
        b"content-length",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""In both directions."""

OF_REQUEST = OF_CONNECTION | {b"accept-encoding", b"expect", b"host", b"proxy-authorization"}
"""Whoever asks on a connection says them itself, whatever somebody else said on another."""
