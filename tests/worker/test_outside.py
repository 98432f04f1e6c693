"""Connections that lead out of this machine and its network, and nowhere else."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from fakes.upstream import Upstream

from modelproxy.worker.dial import Origin, Unreachable
from modelproxy.worker.outside import connect_outside, is_public

PUBLIC = [
    "8.8.8.8",
    "93.184.215.14",
    "2606:2800:21f:cb07:6820:80da:af6b:8b2c",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
]
OURS = [
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "100.100.100.200",
    "169.254.169.254",
    "168.63.129.16",
    "192.0.0.192",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "2002:7f00:1::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "fd00:ec2::254",
    "ff02::1",
    "2001:db8::1",
    "localhost",
    "",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_internet(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", OURS)
def test_an_address_of_ours(address: str) -> None:
    assert not is_public(address)


@pytest.fixture
def far() -> Iterator[Upstream]:
    with Upstream() as found:
        yield found


class Names(trio.abc.HostnameResolver):
    """What each name means: its addresses, and the next time other ones."""

    def __init__(self, names: dict[str, list[list[str]]]) -> None:
        self._names = names
        self.asked: list[Any] = []

    async def getaddrinfo(self, host: Any, port: Any, *_: int, **__: int) -> Any:
        await trio.lowlevel.checkpoint()
        name = host.decode()
        self.asked.append(name)
        answers = self._names[name]
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in found]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        raise NotImplementedError


@pytest.fixture
async def names() -> Names:
    """For the event loop of this test; addresses in figures are not looked up."""
    found = Names(
        {
            "inner": [["127.0.0.1", "10.0.0.1"]],
            "rebound": [["127.0.0.1"], ["127.0.0.2"]],
            "two": [["10.0.0.1", "127.0.0.1"]],
        }
    )
    trio.socket.set_custom_hostname_resolver(found)
    return found


def only_loopback(address: str) -> bool:
    return address == "127.0.0.1"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001"])
async def test_however_this_machine_is_written_it_is_not_asked(far: Upstream, host: str) -> None:
    with pytest.raises(Unreachable, match=r"it is in this machine's own network, which is not asked"):
        await connect_outside(Origin(host, far.port))

    assert far.connections == 0


async def test_a_name_that_means_this_machine_is_not_asked(names: Names, far: Upstream) -> None:
    with pytest.raises(Unreachable, match="own network"):
        await connect_outside(Origin("inner", far.port))

    assert far.connections == 0


async def test_a_name_is_looked_up_once_and_what_was_judged_is_connected_to(
    names: Names, far: Upstream
) -> None:
    """Looked up again, it would mean another address."""
    with await connect_outside(Origin("rebound", far.port), only_loopback) as sock:
        assert sock.getpeername()[0] == "127.0.0.1"

    assert names.asked.count("rebound") == 1


async def test_of_several_only_those_that_may_be_are_asked(names: Names, far: Upstream) -> None:
    with await connect_outside(Origin("two", far.port), only_loopback) as sock:
        assert sock.getpeername()[0] == "127.0.0.1"


async def test_one_that_does_not_accept() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(Unreachable, match="refused"):
            await connect_outside(Origin("127.0.0.1", closed.getsockname()[1]), only_loopback)


async def test_a_name_that_nobody_knows() -> None:
    with pytest.raises(Unreachable, match="not found"):
        await connect_outside(Origin("nobody\u00e9.invalid", 80))
