"""Connections that lead out of this machine and its network, and nowhere else.

An address that stands in a prompt was written by anybody: by a web page that an agent has read, say. If we
asked whatever it names, a prompt could read the user's router, the services of this machine or the keys that
a cloud hands to its machines. So a name is looked up here, each address that it has is judged, and exactly
the one that was found good is connected to: a name that leads elsewhere a moment later leads nowhere. HTTP
proxies are not used, since they would look names up themselves.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable

import trio

from .dial import Origin, Unreachable, reach, reason

ATTEMPT_S = 4.0
MOST_ATTEMPTS = 3

Allowed = Callable[[str], bool]
"""Whether an address may be asked."""

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_OTHERS = tuple(
    ipaddress.ip_network(text)
    for text in (
        "168.63.129.16/32",  # public by its number, and yet what Azure's machines ask for their own settings
        "192.0.0.0/24",  # protocols' own; Oracle's machines ask for their settings here
        "192.88.99.0/24",
        "64:ff9b:1::/48",
        "3fff::/20",
        "5f00::/16",
    )
)
"""Beyond those that every version of Python knows as private."""
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def is_public(text: str) -> bool:
    """Whether an address is one of the internet: not of this machine, its network or its cloud."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return _is_public(address)


def _is_public(address: _Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(address.packed[-4:])
        if inner is not None:  # another way to write it
            return _is_public(inner)
        if address.sixtofour is not None or address.teredo is not None or address.is_site_local:
            return False
    if any(address in network for network in _OTHERS):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved)


async def connect_outside(origin: Origin, allowed: Allowed = is_public) -> socket.socket:
    """A connection to an address that is `allowed`. Raises Unreachable."""
    good = await _addresses(origin, allowed)
    failure = Unreachable("it accepted no connection in time")
    for address in good[:MOST_ATTEMPTS]:
        with trio.move_on_after(ATTEMPT_S):
            try:
                return _checked(await reach(Origin(address, origin.port)))
            except Unreachable as error:
                failure = error
    raise failure


async def _addresses(origin: Origin, allowed: Allowed) -> list[str]:
    try:
        found = await trio.socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    except UnicodeError:  # no name can be so long
        raise Unreachable("the host name was not found") from None
    except OSError as error:
        raise Unreachable(reason(error)) from None
    addresses = dict.fromkeys(str(place[0]) for *_, place in found)
    good = [address for address in addresses if allowed(address)]
    if not good:
        raise Unreachable("it is in this machine's own network, which is not asked")
    return good


def _checked(sock: socket.socket) -> socket.socket:
    """A public address may be this machine's own; then both ends have the same."""
    here, there = sock.getsockname()[0], sock.getpeername()[0]
    if here == there and is_public(there):
        sock.close()
        raise Unreachable("it is this machine, which is not asked")
    return sock


__all__ = ["Allowed", "connect_outside", "is_public"]
