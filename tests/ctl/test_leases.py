"""Holding a proxy, and what happens when the supervisor changes meanwhile."""

from __future__ import annotations

import pytest
from fakes.control import Control, fault, view
from fakes.house import attempts

from modelproxy.ctl import leases
from modelproxy.ctl.faults import Fault

MODEL = "echo/demo"


def until(control: Control, count: int) -> None:
    for _ in attempts():
        if len(control.leases) == count:
            return
    raise AssertionError(control.leases)


def test_a_lease_brings_a_proxy_up_and_its_end_takes_it_down(control: Control) -> None:
    lease = leases.take(control.paths, {"model": MODEL})
    assert (lease.view["name"], list(control.proxies)) == (MODEL, [MODEL])

    assert [stopped["name"] for stopped in lease.end()] == [MODEL]
    assert control.proxies == {}


def test_a_block_holds_it(control: Control) -> None:
    with leases.leased(control.paths, {"model": MODEL}) as view:
        assert view["state"] == "ready"
        until(control, 1)
    assert control.proxies == {}


def test_a_fault_is_the_supervisors_own(control: Control) -> None:
    control.replies["POST"] = fault(500, "start_failed", "it did not start")

    with pytest.raises(Fault) as refused:
        leases.take(control.paths, {"model": MODEL})

    assert refused.value.code == "start_failed"


def test_a_supervisor_that_stops_is_waited_for(control: Control) -> None:
    control.paths.lock.write_text("0\n")
    control.once["POST"] = fault(503, "stopping", "bye")

    assert leases.take(control.paths, {"model": MODEL}).end()


def test_a_supervisor_that_left_in_the_middle_is_asked_again(control: Control) -> None:
    """Twice is enough: the second time it is said."""
    leases.take(control.paths, {"model": MODEL}).end()
    control.raw = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"

    with pytest.raises(Fault) as refused:
        control_hold(control)

    assert refused.value.code == "daemon_gone"
    assert control.paths_asked.count("POST /v1/proxies/echo%2Fdemo/lease") == 2


def control_hold(control: Control) -> None:
    from modelproxy.ctl.client import Client

    Client(control.paths).hold("/v1/proxies/echo%2Fdemo/lease", {"model": MODEL}, limit_s=1.0)


def test_the_next_supervisor_is_told(control: Control) -> None:
    """Its answer is as good as the first one's."""
    lease = leases.take(control.paths, {"model": MODEL})
    control.lose_leases()
    for _ in attempts():
        if "POST /v1/proxies/echo%2Fdemo/lease?again=1" in control.paths_asked:
            break
    until(control, 1)

    assert "lease2" in repr(lease) or list(control.leases) == ["lease2"]
    assert lease.end() == []  # the fake one has not brought it up
    assert control.leases == {}


def test_what_was_taken_down_is_not_asked_for_again(control: Control) -> None:
    lease = leases.take(control.paths, {"model": MODEL})
    control.proxies.clear()
    control.lose_leases()
    for _ in attempts():
        if "POST /v1/proxies/echo%2Fdemo/lease?again=1" in control.paths_asked:
            break

    assert lease.end() == []


def test_the_end_of_a_lease_survives_a_supervisor_that_is_gone(control: Control) -> None:
    lease = leases.take(control.paths, {"model": MODEL})
    control.replies["DELETE"] = fault(404, "unknown_lease", "there is none")

    assert lease.end() == []


def test_what_was_given_back_is_not_taken_again(control: Control) -> None:
    """Of a proxy that stays up that would even succeed."""
    control.proxies[MODEL] = view(MODEL)
    lease = leases.take(control.paths, {"model": MODEL})
    assert lease.end() == []
    lease._tender.join(10)

    assert not lease._tender.is_alive()
    assert control.leases == {}
