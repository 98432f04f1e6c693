"""Keys and doors for the next program of the same process.

What becomes of them in a real one: tests/e2e/test_secrets.py, tests/faults/test_supervisor_ends.py.
"""

from __future__ import annotations

import os
import signal
import socket
from typing import Any

import attrs
import pytest
from fakes import descriptors
from fakes.story import SPEC

from modelproxy.supervisor import bequest
from modelproxy.worker.contract import Options, Target

HEADED = Options(headers={"x-team": "h1"})
TARGETS = [
    Target("work", "work/a", "openai", "a", options=HEADED),
    Target("work", "work/b", "openai", "b", api_key="k2"),
]
WITH_SECRETS = attrs.evolve(SPEC, api_key="k1", fallback=TARGETS)
LEFT: list[dict[str, Any]] = [
    {"api_key": "k1", "headers": {}},
    {"api_key": None, "headers": {"x-team": "h1"}},
    {"api_key": "k2", "headers": {}},
]


def test_what_is_left_is_taken_once() -> None:
    before, environment = descriptors.count(), {"HOME": "/"}
    bequest.leave({"echo/demo": bequest.of(WITH_SECRETS)}, environment)
    assert "k1" not in str(environment)

    assert bequest.take(environment) == {"echo/demo": LEFT}
    assert environment == {"HOME": "/"}
    assert bequest.take(environment) == {}
    assert descriptors.back_to(before)


def test_only_the_program_that_is_executed_inherits_it() -> None:
    environment: dict[str, str] = {}
    bequest.leave({"echo/demo": LEFT}, environment)
    number = int(environment["MODELPROXY_BEQUEST"].partition(":")[2])

    assert os.get_inheritable(number)
    bequest.take(environment)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_many_keys_fit_and_too_many_are_not_left() -> None:
    """Half of them would be none. Nobody waits for a reader."""
    before, environment = descriptors.count(), dict[str, str]()
    many = {f"echo/{number}": [{"api_key": "k" * 100}] for number in range(1000)}
    bequest.leave(many, environment)
    assert bequest.take(environment) == many
    bequest.leave({"echo/demo": [{"api_key": "k" * 2**21}]}, environment)

    assert environment == {}
    assert descriptors.back_to(before)


def without_pid(value: str) -> str:
    """The name of a case, which is the same in every process that collects it."""
    return value.replace(str(os.getpid()), "pid")


@pytest.mark.parametrize(
    "value", ["", "7", "1:0", "x:y", f"{os.getpid()}:", f"{os.getpid()}:9999"], ids=without_pid
)
def test_what_is_nobody_s_means_nothing(value: str) -> None:
    environment = {"MODELPROXY_BEQUEST": value}

    assert bequest.take(environment) == {}
    assert environment == {}


@pytest.mark.parametrize("data", [b"", b"not json", b"[1]"])
def test_garbage_means_nothing(data: bytes) -> None:
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)

    assert bequest.take({"MODELPROXY_BEQUEST": f"{os.getpid()}:{reading}"}) == {}


def test_a_spec_gets_its_secrets_again() -> None:
    assert bequest.restored(WITH_SECRETS.without_secrets(), LEFT) == WITH_SECRETS


@pytest.mark.parametrize("left", [[], LEFT, ["k1"], [{"api_key": "k1", "headers": {"x-other": "h"}}]])
def test_what_was_another_one_s_or_another_version_s_is_nobody_s(left: list[Any]) -> None:
    assert bequest.restored(SPEC, left) == SPEC


def test_doors_stay_open_for_the_next_program() -> None:
    environment = {"HOME": "/"}
    door = socket.create_server(("127.0.0.1", 0))
    port = door.getsockname()[1]
    bequest.leave_doors({port: [door]}, environment)
    assert door.get_inheritable()
    number = door.detach()  # as when the program that had it is no more

    ((found,),) = bequest.take_doors(environment).values()
    with found:
        assert (found.fileno(), found.getsockname()[1], found.getblocking()) == (number, port, False)
        assert not os.get_inheritable(number)
    assert environment == {"HOME": "/"}
    assert bequest.take_doors(environment) == {}


@pytest.mark.parametrize(
    "value",
    ["", "7", '1:{"80":[0]}', *(f"{os.getpid()}:{text}" for text in ("", "[1]", '{"80":[9999]}', "{"))],
    ids=without_pid,
)
def test_doors_that_are_nobody_s_mean_nothing(value: str) -> None:
    environment = {"MODELPROXY_DOORS": value}

    assert bequest.take_doors(environment) == {}
    assert environment == {}


def test_signals_that_come_to_the_very_end_are_not_lost() -> None:
    """Those that were missed before, and what any thread takes until the program is gone."""
    environment: dict[str, str] = {}
    before = signal.signal(signal.SIGUSR2, lambda *_: None)
    try:
        bequest.leave_signals({signal.SIGHUP}, environment)
        signal.raise_signal(signal.SIGUSR2)
        os.close(signal.set_wakeup_fd(-1))  # as when the program that had it is no more
    finally:
        signal.signal(signal.SIGUSR2, before)

    assert bequest.take_signals(environment) == {signal.SIGHUP, signal.SIGUSR2}
    assert bequest.take_signals(environment) == set()
    assert environment == {}
