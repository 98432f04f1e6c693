"""Who asks: access tokens in the heads of requests. Pure.

A token of ours begins `mp-`, so that it can be told from a provider's credential wherever a client is able to put
it: in a header of its own, which leaves room for a credential that is passed on, or in place of that credential.
Only its hash is known here, and it goes to nobody else (see `carries_token`), but from a front to the proxy behind.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Protocol

from .contract import Access
from .failures import Failure, Kind, Refused

HEADER = b"x-proxy-token"
PREFIX = b"mp-"
_BEARER = b"bearer "


class Head(Protocol):
    """The part of a request that is read here; names in lower case."""

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]: ...


def presented(head: Head) -> bytes | None:
    """The token that a request brings; None: none of ours."""
    own = _first(head, HEADER)
    if own is not None:
        return own
    for name in (b"authorization", b"x-api-key"):
        value = _bare(name, _first(head, name) or b"")
        if value.startswith(PREFIX):
            return value
    return None


def _first(head: Head, name: bytes) -> bytes | None:
    return next((value for key, value in head.headers if key == name), None)


def carries_token(name: bytes, value: bytes) -> bool:
    """Whether this header is for us alone, and must not be passed on; `name` in lower case."""
    if name == HEADER:
        return True
    return name in (b"authorization", b"x-api-key") and _bare(name, value).startswith(PREFIX)


def _bare(name: bytes, value: bytes) -> bytes:
    is_bearer = name == b"authorization" and value[: len(_BEARER)].lower() == _BEARER
    return value[len(_BEARER) :].strip() if is_bearer else value


def caller(access: Access, head: Head) -> str | None:
    """The name of the token that a request brings; None: it brings none and needs none. Raises Refused."""
    token = presented(head)
    if token is None:
        if access.required:
            raise Refused(Failure(Kind.UNAUTHENTICATED, _MISSING))
        return None
    name = _known(access, token)
    if name is None:
        raise Refused(Failure(Kind.UNAUTHENTICATED, _UNKNOWN))
    return name


_MISSING = (
    "this proxy demands an access token: send it as x-proxy-token, as authorization: Bearer or as x-api-key "
    "(proxyctl takes it from MODELPROXY_TOKEN); proxyctl tokens add NAME makes one"
)
_UNKNOWN = (
    "the access token is not known to this proxy; proxyctl tokens list tells which are, and for which proxies"
)


def _known(access: Access, token: bytes) -> str | None:
    """All are compared, and each in full: the time that it takes tells nothing."""
    digest = hashlib.sha256(token).hexdigest()
    found = None
    for one in access.tokens:
        if hmac.compare_digest(digest, one.sha256):
            found = one.name
    return found


__all__ = ["HEADER", "PREFIX", "caller", "carries_token", "presented"]
