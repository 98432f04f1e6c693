"""What a person may ask, among fake workers."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from fakes import clock
from fakes.house import free_port
from fakes.spawner import World
from fakes.worlds import configure, give_back, up

from modelproxy.supervisor import kernel, sockets, state
from modelproxy.supervisor.facts import Care, State
from modelproxy.supervisor.protocol import (
    DownRequest,
    Fault,
    Leased,
    ProxyView,
    RestartRequest,
    SetRequest,
    UpRequest,
)
from modelproxy.worker.contract import Adjust, Bye, Health, Options, Quota, Ready, WorkerSpec

pytestmark = clock.jumping


async def refused(call: Callable[[], Any]) -> Fault:
    with pytest.raises(Fault) as caught:
        await call()
    return caught.value


@pytest.fixture
def usual_port(world: World) -> int:
    """A port that is free with its neighbours, in place of 3456."""
    port = free_port(neighbours=3)
    configure(world, f"default_port = {port}")
    return port


@pytest.fixture
def stranger() -> Iterator[Callable[[int], None]]:
    """Somebody else's program on a port."""
    opened: list[socket.socket] = []
    yield lambda port: opened.append(socket.create_server(("127.0.0.1", port)))
    for one in opened:
        one.close()


# --- up -------------------------------------------------------------------------------------------


async def test_ten_ups_at_once_give_one_worker(world: World) -> None:
    """One makes it, nine find it; all get the same row."""
    rows: list[ProxyView] = []

    async def one() -> None:
        rows.append(await up(world))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(one)

    assert len(world.births) == 1
    assert sorted(row.reused for row in rows) == [False] + [True] * 9
    assert {(row.pid, row.port, row.state) for row in rows} == {
        (world.proxy().pid, world.proxy().spec.port, "ready")
    }


async def test_twenty_models_at_once_give_twenty(world: World) -> None:
    """Each ready, each on a port of its own."""
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(partial(up, world, f"echo/{number}"))
    rows = world.commands.rows()

    assert {row.state for row in rows} == {"ready"}
    assert len({row.port for row in rows}) == len(world.births) == 20


async def test_up_again_finds_it_whatever_port_it_has(world: World) -> None:
    first = await up(world)

    assert (await up(world, port=None)).port == first.port
    assert (await up(world, port=first.port)).pid == first.pid
    assert len(world.births) == 1


async def test_a_second_port_is_a_second_proxy(world: World) -> None:
    """It carries its port in its name; the plain name means the first."""
    first = await up(world)
    port = free_port()
    second = await up(world, port=port)

    assert (first.name, second.name) == ("echo/demo", f"echo/demo@{port}")
    assert [unit.proxy.name for unit in world.commands.find("echo/demo", stopped=False)] == ["echo/demo"]
    assert [unit.proxy.name for unit in world.commands.find(str(port), stopped=False)] == [second.name]


async def test_up_without_waiting_returns_at_once(world: World) -> None:
    world.conduct = lambda birth: "silent"

    assert (await up(world, wait=False)).state == "starting"


@pytest.mark.parametrize("url", ["http://bob:sesame@b", "http://bob:ses/ame@b", "bob:sesame@b"])
async def test_an_address_with_a_password_is_refused_and_not_repeated(world: World, url: str) -> None:
    fault = await refused(partial(up, world, base_url=url))

    assert (fault.code, world.births) == ("bad_request", [])
    assert fault.message.startswith("the base URL must be ")
    assert "ame" not in fault.message + fault.hint


async def test_options_that_differ_are_named_not_changed(world: World) -> None:
    """With the command that would change them. The key's name, never its value."""
    await up(world, api_key="sk-one")
    fault = await refused(partial(up, world, base_url="http://b", api_key="sk-two", grace_s=1.0))

    assert fault.code == "options_differ"
    assert all(name in fault.message for name in ("base_url", "api_key", "grace_s"))
    assert "sk-" not in fault.message + fault.hint
    assert "(proxyctl up echo/demo --replace …)" in fault.hint
    assert len(world.births) == 1


async def test_of_several_proxies_the_one_on_that_port_is_to_be_replaced(
    world: World, usual_port: int
) -> None:
    await up(world)
    await up(world, port=usual_port)
    fault = await refused(partial(up, world, port=usual_port, base_url="http://b"))

    assert f"--port {usual_port} --replace" in fault.hint


async def test_replace_rolls_to_the_new_options(world: World) -> None:
    """What was not said stays as it is."""
    first = await up(world, base_url="http://a", grace_s=1.0)
    row = await up(world, base_url="http://b", replace=True)

    assert (row.reused, row.generation, row.port) == (False, 2, first.port)
    assert (row.base_url, world.proxy().spec.grace_s) == ("http://b", 1.0)
    assert world.worker(generation=2).spec == world.proxy().spec


async def test_replace_takes_the_configured_address_unless_one_was_said(
    make_world: Callable[[], World],
) -> None:
    """Who came up in a project, or before an edit, has an address that nobody said; the next supervisor knows."""
    first = await make_world().start()
    here = {"providers": {"mine": {"kind": "ollama", "base_url": "http://project"}}}
    await up(first, "mine/m", port=0, overlay=here)
    await up(first, "mine/said", port=0, overlay=here, base_url="http://said")
    configure(first, '[providers.mine]\nkind = "ollama"\nbase_url = "http://own"')
    give_back(first)
    second = await make_world().start()
    await second.until(lambda: second.proxy("mine/said").state is State.READY)
    moved = await up(second, "mine/m", port=None, replace=True)
    stays = await up(second, "mine/said", port=None, replace=True)
    silent = await up(second, "mine/m", port=None, overlay=here)

    assert (moved.base_url, moved.reused) == ("http://own", False)
    assert (stays.base_url, stays.reused) == ("http://said", True)
    assert (silent.base_url, silent.reused) == ("http://own", True)


async def test_replace_that_fails_says_so(world: World) -> None:
    """The old worker goes on with the old options."""
    await up(world)
    world.conduct = lambda birth: "silent"
    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            fault = await refused(partial(up, world, base_url="http://b", replace=True, wait_s=60.0))
            assert fault.code == "start_failed"
            assert "the roll failed, generation 1 goes on" in fault.message

        nursery.start_soon(ask)
        await world.until(lambda: ("echo/demo", 2) in world.workers)
        world.worker(generation=2).die(kernel.Exit(code=1))

    assert world.proxy().state is State.READY
    assert world.proxy().pid == world.worker().handle.pid


async def test_one_that_fails_says_why(world: World) -> None:
    """With the last words of its log."""
    world.conduct = lambda birth: "mute"
    world.paths.log_file("echo/demo").write_text("one\ntwo\nno such module\n")

    async def kill() -> None:
        await world.until(lambda: ("echo/demo", 1) in world.workers)
        world.worker().die(kernel.Exit(code=78))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(kill)
        fault = await refused(partial(up, world))

    assert (fault.code, fault.message) == (
        "start_failed",
        "echo/demo failed: exit 78: the configuration cannot work",
    )
    assert "no such module" in fault.hint
    assert "proxyctl logs echo/demo" in fault.hint


async def test_patience_has_an_end_but_the_wish_stays(world: World) -> None:
    world.conduct = lambda birth: "silent"
    world.paths.log_file("echo/demo").write_text("2026-01-01T00:00:00.000Z info leaving\n")
    fault = await refused(partial(up, world, wait_s=3.0))

    assert fault.code == "not_ready_in_time"
    assert "not ready after 3 s (starting 3.0s); it goes on trying" in fault.message
    assert fault.hint == "see proxyctl logs echo/demo"  # an earlier worker's last words are not its own
    assert world.proxy().wanted


async def test_down_while_up_waits_overtakes_it(world: World) -> None:
    """The last wish wins, and who waited for the other is told."""
    world.conduct = lambda birth: "silent"
    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            began = trio.current_time()
            assert (await refused(partial(up, world))).code == "superseded"
            assert trio.current_time() - began < 2.0  # at once, not when its patience ends

        nursery.start_soon(ask)
        await world.until(lambda: "echo/demo" in world.keeper.units)
        await world.commands.down("echo/demo", DownRequest())

    assert world.proxy().state is State.STOPPED


async def test_a_failed_one_is_tried_again_by_up(world: World) -> None:
    world.conduct = lambda birth: "mute"
    await up(world, wait=False)
    await world.until(lambda: ("echo/demo", 1) in world.workers)
    world.worker().die(kernel.Exit(code=78))
    await world.until(lambda: world.proxy().state is State.FAILED)
    world.conduct = lambda birth: "good"

    assert (await up(world)).state == "ready"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"model": "nonsense"}, "bad_model_id"),
        ({"model": "ecko/demo"}, "unsupported_provider"),
        ({"port": -1}, "bad_port"),
        ({"port": 65536}, "bad_port"),
        ({"grace_s": -1.0}, "bad_request"),
        ({"grace_s": float("nan")}, "bad_request"),
        ({"grace_s": float("inf")}, "bad_request"),
        ({"wait_s": -1.0}, "bad_request"),
        ({"wait_s": float("nan")}, "bad_request"),
        ({"idle_stop_s": -1.0}, "bad_request"),
        ({"idle_stop_s": 0.5}, "bad_request"),
        ({"idle_stop_s": float("nan")}, "bad_request"),
        ({"idle_stop_s": 1e9}, "bad_request"),
        ({"max_rss": -1}, "bad_request"),
        ({"max_rss": 1024}, "bad_request"),
        ({"max_rss": 2**70}, "bad_request"),
        ({"pid_file": "relative.pid"}, "bad_request"),
        ({"pid_file": "/a\0b"}, "bad_request"),
        ({"pid_file": "/a\ud800"}, "bad_request"),
        ({"api_key": "two\r\nlines"}, "bad_request"),
        ({"api_key": "schlüssel"}, "bad_request"),
    ],
)
async def test_bad_input_is_refused(world: World, options: dict[str, Any], code: str) -> None:
    """Before anything is done."""
    fields: dict[str, Any] = {"model": "echo/demo", "port": 0} | options
    fault = await refused(partial(world.commands.up, UpRequest(**fields)))

    assert fault.code == code
    assert world.keeper.units == {}


async def test_what_was_not_said_of_its_keeping_stays(world: World) -> None:
    """A changed wish is kept at once, replaces no worker and needs no --replace; 0 takes a limit back."""
    first = await up(world, idle_stop_s=900.0, max_rss=2**30)
    second = await up(world, port=first.port, max_rss=2**29)
    third = await up(world, port=first.port, idle_stop_s=0.0, max_rss=0)
    await up(world, port=first.port, replace=True, grace_s=1.0, idle_stop_s=60.0)

    assert [(row.lazy, row.idle_stop_s, row.max_rss) for row in (first, second, third)] == [
        (False, 900.0, 2**30),
        (False, 900.0, 2**29),
        (False, None, None),
    ]
    assert (second.reused, second.pid, third.pid) == (True, first.pid, first.pid)
    assert world.proxy().care == Care(idle_stop_s=60.0)
    await world.commands.down("all", DownRequest())
    assert (await up(world)).idle_stop_s is None  # a new wish begins anew


async def test_a_supervisor_that_stops_takes_nothing_new(world: World) -> None:
    world.commands.closing = True

    assert (await refused(partial(up, world))).code == "stopping"
    assert (await refused(partial(world.commands.restart, "all", RestartRequest()))).code == "stopping"


# --- what the configuration says ------------------------------------------------------------------

CODER = """
aliases = {{ local = "echo/model", other = "echo/second" }}
[proxies.coder]
model = "local"
port = {port}
autostart = true
idle_stop = "15m"
max_rss = "500M"
grace = "5s"
context_window = 4096
max_concurrent = 2
fallback = ["other"]
"""


async def test_a_named_proxy_is_as_its_table_says(world: World, usual_port: int) -> None:
    configure(world, CODER.format(port=usual_port))
    row = await up(world, "coder", port=None)
    again = await up(world, "coder", port=None)

    assert (row.name, row.model, row.port) == ("coder", "echo/model", usual_port)
    assert (row.idle_stop_s, row.max_rss) == (900.0, 500 * 1024**2)
    assert world.proxy("coder").spec.options.context_window == 4096
    assert world.proxy("coder").spec.grace_s == 5.0
    assert world.proxy("coder").spec.quota == Quota(max_concurrent=2)
    assert row.fallback == ["echo/second"]
    assert (again.reused, again.pid) == (True, row.pid)


async def test_a_flag_goes_before_the_table(world: World, usual_port: int) -> None:
    configure(world, CODER.format(port=usual_port))
    flags = {"grace_s": 1.0, "idle_stop_s": 0.0, "max_concurrent": 0, "fallback": []}
    row = await up(world, "coder", port=usual_port + 1, **flags)

    assert (world.proxy("coder").spec.quota, row.fallback) == (Quota(), [])
    assert (row.port, row.idle_stop_s, world.proxy("coder").spec.grace_s) == (usual_port + 1, None, 1.0)


async def test_a_named_proxy_and_its_model_are_two(world: World, usual_port: int) -> None:
    """`up local` and `up echo/model` mean the model, and not the proxy that serves it with its own options."""
    configure(world, CODER.format(port=usual_port))
    rows = [await up(world, name) for name in ("coder", "local", "echo/model")]

    assert [row.name for row in rows] == ["coder", "echo/model", "echo/model"]
    assert rows[2].reused
    assert len(world.births) == 2


async def test_a_table_that_changed_is_applied_by_replace(world: World, usual_port: int) -> None:
    configure(world, CODER.format(port=usual_port))
    await up(world, "coder", port=None)
    text = CODER.format(port=usual_port)
    configure(world, text.replace("4096", "8192").replace("5s", "6s").replace("15m", "20m"))
    fault = await refused(partial(up, world, "coder", port=None))
    row = await up(world, "coder", port=None, replace=True)

    assert fault.code == "options_differ"
    assert "proxyctl up coder --replace" in fault.hint
    assert (row.generation, row.idle_stop_s) == (2, 1200.0)
    assert world.proxy("coder").spec.options.context_window == 8192
    assert world.proxy("coder").spec.grace_s == 6.0


async def test_what_the_caller_says_over_the_file(world: World, usual_port: int) -> None:
    """A project's file and the caller's environment travel with the request."""
    configure(world, CODER.format(port=usual_port))
    overlay = {"aliases": {"local": "echo/other"}, "proxies": {"coder": {"port": usual_port + 1}}}
    row = await up(world, "coder", port=None, overlay=overlay)
    fault = await refused(partial(up, world, "echo/x", overlay={"proxies": {"coder": {"port": "x"}}}))

    assert (row.model, row.port, row.idle_stop_s) == ("echo/other", usual_port + 1, 900.0)
    assert fault.code == "bad_config"
    assert "proxies.coder.port" in fault.message


async def test_every_mistake_of_the_file_is_named_with_its_line(world: World) -> None:
    configure(world, 'a = 1\n[providers.x]\nknd = "echo"')
    fault = await refused(partial(up, world))

    assert fault.code == "bad_config"
    file = world.paths.config_file
    assert [line.split(": ")[:2] for line in fault.message.splitlines()] == [
        [f"{file}:1", "a"],
        [f"{file}:2", "providers.x"],
        [f"{file}:3", "providers.x.knd"],
    ]
    assert world.births == []


async def test_an_alias_is_its_model_to_every_command(world: World, usual_port: int) -> None:
    configure(world, CODER.format(port=usual_port))
    await up(world, "local")
    [row] = await world.commands.restart("local", RestartRequest())
    [limited] = await world.commands.set("local", SetRequest(rpm=5))
    about = await world.commands.about("local")
    assert limited.name == about.name == "echo/model"
    [stopped] = await world.commands.down("local", DownRequest())

    assert row.name == stopped.name == "echo/model"
    assert (await refused(partial(world.commands.down, "lokal", DownRequest()))).code == "unknown_proxy"


@pytest.mark.parametrize("name", ["coder", "front"])
async def test_a_proxy_that_is_not_there_is_no_other_one(world: World, name: str) -> None:
    """Neither what a glob leads to nor a model that is called so: `up` means something else by the name."""
    configure(world, 'aliases."*" = "echo/any"\nproxies.coder.model = "echo/c"')
    for model in ("echo/any", f"echo/{name}"):
        await up(world, model)

    for call in (
        partial(world.commands.down, name, DownRequest()),
        partial(world.commands.set, name, SetRequest(rpm=3)),
        partial(world.commands.about, name),
    ):
        fault = await refused(call)
        assert (fault.code, fault.message) == ("unknown_proxy", f"{name} is not up")
        assert fault.hint == f"proxyctl up {name}"
    assert (await refused(partial(world.commands.down, "none", DownRequest()))).hint.startswith("running: ")


async def test_a_model_may_be_named_without_its_provider_where_no_other_is_called_so(world: World) -> None:
    """What is up goes before what was; who might mean two is asked."""
    configure(world, 'providers.other.kind = "echo"\naliases.beta = "echo/alpha"')
    for name in ("echo/alpha", "echo/beta", "other/beta"):
        await up(world, name)

    assert (await world.commands.about("alpha")).name == "echo/alpha"
    assert (await world.commands.about("beta")).name == "echo/alpha"  # an alias of the configuration
    configure(world, 'providers.other.kind = "echo"')
    fault = await refused(partial(world.commands.down, "beta", DownRequest()))
    assert (fault.code, fault.message) == ("ambiguous_name", '"beta" may be echo/beta or other/beta')
    await world.commands.down("other/beta", DownRequest())
    [limited] = await world.commands.set("beta", SetRequest(rpm=5))
    [stopped] = await world.commands.down("beta", DownRequest())
    assert limited.name == stopped.name == "echo/beta"
    assert (await refused(partial(world.commands.down, "lpha", DownRequest()))).code == "unknown_proxy"


# --- ports ----------------------------------------------------------------------------------------


async def test_the_usual_port_gives_way_to_ours(world: World, usual_port: int) -> None:
    """Never silently."""
    first = await up(world, "echo/one", port=None)
    second = await up(world, "echo/two", port=None)
    third = await up(world, "echo/three", port=None)

    assert [row.port for row in (first, second, third)] == [usual_port, usual_port + 1, usual_port + 2]
    assert first.notes == []
    assert second.notes == [f"port {usual_port} is used by echo/one; took {usual_port + 1}"]


async def test_the_usual_port_never_gives_way_to_a_stranger(
    world: World, usual_port: int, stranger: Callable[[int], None]
) -> None:
    """An agent is configured for that port: it would talk to the stranger."""
    stranger(usual_port)
    fault = await refused(partial(up, world, port=None))

    assert fault.code == "port_in_use"
    assert f"Port {usual_port} is already in use" in fault.message
    assert f"(pid {os.getpid()})" in fault.message
    assert world.keeper.units == {}


async def test_a_neighbour_that_a_stranger_has_is_left_out(
    world: World, usual_port: int, stranger: Callable[[int], None]
) -> None:
    stranger(usual_port + 1)
    await up(world, "echo/one", port=None)

    assert (await up(world, "echo/two", port=None)).port == usual_port + 2


async def test_a_port_of_ours_is_named_by_its_proxy(world: World) -> None:
    row = await up(world)
    fault = await refused(partial(up, world, "echo/other", port=row.port))

    assert fault.code == "port_in_use"
    assert fault.message == f"Port {row.port} is already in use by proxy echo/demo (ready, pid {row.pid})"
    assert "proxyctl down echo/demo" in fault.hint


async def test_a_port_that_a_leaving_worker_holds_is_waited_for(world: World) -> None:
    """Down is on its way; `up` right behind it must not fail."""
    world.conduct = lambda birth: "stubborn"
    row = await up(world)
    held = [one.dup() for one in world.keeper.units["echo/demo"].listeners]  # as the worker holds them
    world.conduct = lambda birth: "good"

    async def let_go() -> None:
        await trio.sleep(2.0)
        for one in held:
            one.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.commands.down, "echo/demo", DownRequest(30.0))
        await trio.testing.wait_all_tasks_blocked(0.001)
        nursery.start_soon(let_go)
        other = await up(world, "echo/other", port=row.port)

    assert other.port == row.port


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.EMFILE, "no_resources"), (errno.ENOMEM, "no_resources"), (errno.EACCES, "port_in_use")],
)
async def test_a_socket_that_cannot_be_made(
    world: World, monkeypatch: pytest.MonkeyPatch, number: int, code: str
) -> None:
    """Neither is the disk full."""

    def fail(port: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(sockets, "bind_loopback", fail)
    fault = await refused(partial(up, world, port=80))

    assert fault.code == code
    assert os.strerror(number) in fault.message


# --- down and restart -----------------------------------------------------------------------------


async def test_down_by_whatever_one_knows_of_it(world: World) -> None:
    """Name, model, port, pid; afterwards the last pid still means it."""
    for key in ("name", "model", "port", "pid"):
        row = await up(world)
        target = str(attrs.asdict(row)[key])
        [stopped] = await world.commands.down(target, DownRequest())
        assert (stopped.name, stopped.already) == ("echo/demo", None)
    [again] = await world.commands.down(str(row.pid), DownRequest())

    assert again.already == "stopped"


async def test_of_several_that_had_a_port_in_turn_the_last_one_is_meant(world: World) -> None:
    port = str((await up(world)).port)
    for model in ("echo/other", "echo/demo"):
        await world.commands.down(port, DownRequest())
        await trio.sleep(1.0)
        await up(world, model, port=int(port))
    await world.commands.down(port, DownRequest())

    [again] = await world.commands.down(port, DownRequest())
    assert (again.name, again.already) == ("echo/demo", "stopped")
    assert (await world.commands.about(port)).name == "echo/demo"


async def test_all_is_no_proxy_where_one_is_asked_for(world: World) -> None:
    """Whichever would be shown, it would not be what was asked for."""
    await up(world)

    assert (await refused(partial(world.commands.about, "all"))).code == "unknown_proxy"
    assert (await refused(partial(world.commands.meant, "all"))).code == "unknown_proxy"


@pytest.mark.parametrize("target", ["echo/none", "99999999", "²", "9" * 5000, "", "-1"])
async def test_an_unknown_proxy_is_said_with_those_that_run(world: World, target: str) -> None:
    await up(world)
    for call in (
        partial(world.commands.down, target, DownRequest()),
        partial(world.commands.restart, target, RestartRequest()),
    ):
        fault = await refused(call)
        assert (fault.code, fault.hint) == ("unknown_proxy", "running: echo/demo")
    with pytest.raises(Fault):
        world.commands.find_one(target)


async def test_one_that_is_not_up_is_said_with_how_it_comes_back(world: World) -> None:
    """By the name that `up` takes."""
    configure(world, '[proxies.coder]\nmodel = "echo/demo"\n')
    await up(world, "coder")
    await world.commands.down("coder", DownRequest())
    for call in (
        partial(world.commands.set, "coder", SetRequest(rpm=3)),
        partial(world.commands.restart, "coder", RestartRequest()),
    ):
        fault = await refused(call)
        assert (fault.code, fault.message) == ("unknown_proxy", "coder is not up")
        assert fault.hint == "proxyctl up coder"


async def test_all_of_nothing_is_nothing(world: World) -> None:
    """Not an error: a script may say it at any time."""
    assert await world.commands.down("all", DownRequest()) == []
    assert await world.commands.restart("all", RestartRequest()) == []


async def test_down_of_all_is_side_by_side(world: World) -> None:
    """As long as the slowest, not as long as all."""
    world.conduct = lambda birth: "stubborn"
    for number in range(4):
        await up(world, f"echo/{number}")
    began = trio.current_time()
    stopped = await world.commands.down("all", DownRequest(5.0))

    assert [one.name for one in stopped] == [f"echo/{number}" for number in range(4)]
    assert trio.current_time() - began == pytest.approx(6.5)


async def test_up_overtakes_a_down_that_waits(world: World) -> None:
    """Which returns then."""
    world.conduct = lambda birth: "stubborn"
    await up(world)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.commands.down, "echo/demo", DownRequest(600.0))
        await trio.sleep(1.0)
        began = trio.current_time()
        await up(world)
    assert trio.current_time() == began

    assert world.proxy().state is State.READY


async def test_restart_gives_a_fresh_process(world: World) -> None:
    first = await up(world)
    [row] = await world.commands.restart("echo/demo", RestartRequest())

    assert (row.generation, row.port, row.restarts, row.deaths) == (2, first.port, 0, [])
    assert row.pid != first.pid


async def test_restart_that_fails_says_so_and_keeps_the_old_one(world: World) -> None:
    first = await up(world)
    world.conduct = lambda birth: "silent"
    fault = await refused(partial(world.commands.restart, "echo/demo", RestartRequest(wait_s=60.0)))

    assert fault.code == "start_failed"
    assert "not ready within 20 s" in fault.message
    assert world.commands.rows()[0].pid == first.pid


async def test_restart_while_it_starts_is_content_with_what_comes(world: World) -> None:
    """The one on its way is fresh enough when the roll after it fails."""
    world.conduct = lambda birth: "silent"
    await up(world, wait=False)
    await world.until(lambda: ("echo/demo", 1) in world.workers)
    rows: list[ProxyView] = []

    async def restart() -> None:
        rows.extend(await world.commands.restart("echo/demo", RestartRequest(wait_s=60.0)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(restart)
        await trio.testing.wait_all_tasks_blocked()
        world.worker().conduct = "good"  # from now on it beats
        world.worker().say(Ready())

    assert [row.generation for row in rows] == [1]
    assert world.kinds()[-1] == "roll-failed"


@pytest.mark.parametrize(
    "request_",
    [RestartRequest(grace_s=-1.0), RestartRequest(wait_s=-1.0), RestartRequest(wait_s=float("nan"))],
)
async def test_restart_with_bad_numbers(world: World, request_: RestartRequest) -> None:
    await up(world)

    assert (await refused(partial(world.commands.restart, "all", request_))).code == "bad_request"
    assert (
        await refused(partial(world.commands.down, "all", DownRequest(float("nan"))))
    ).code == "bad_request"


async def test_restart_of_an_idle_one_has_nothing_to_do(world: World) -> None:
    """The next worker is a fresh one anyway. And whoever says `up` for a lazy one waits for nobody."""
    await up(world, lazy=True)
    [row] = await world.commands.restart("all", RestartRequest())
    again = await up(world, port=row.port)
    awake = await up(world, port=row.port, lazy=False)

    assert [(one.state, one.reused) for one in (row, again, awake)] == [
        ("idle", False),
        ("idle", True),
        ("ready", True),
    ]


# --- rows -----------------------------------------------------------------------------------------


async def test_a_row_counts_over_generations(world: World) -> None:
    """Requests of dead workers stay counted; a death is there with its time and cause."""
    row = await up(world)
    await trio.sleep(10.5)  # beats report one request
    world.worker().die()
    await world.until(lambda: world.proxy().generation == 2 and world.proxy().state is State.READY)
    await trio.sleep(5.0)
    after = world.commands.rows()[0]

    assert (after.requests, after.restarts, after.uptime_s) == (2, 1, 5.0)
    assert [(death["cause"], death["generation"]) for death in after.deaths] == [("SIGKILL", 1)]
    assert abs(after.deaths[0]["at"] - kernel.wall_clock()) < 60.0
    assert (after.url, after.queue) == (f"http://127.0.0.1:{row.port}", 0)


async def test_a_row_says_what_the_provider_s_trouble_is(world: World) -> None:
    await up(world)
    world.worker().say(Health(False, "cannot connect"))
    await world.until(lambda: world.proxy().state is State.DEGRADED)
    row = world.commands.rows()[0]

    assert (row.state, row.health, row.detail) == (
        "degraded",
        "cannot connect",
        "degraded: cannot connect",
    )
    world.worker().say(Health(True))
    await world.until(lambda: world.proxy().state is State.READY)
    assert world.commands.rows()[0].health == "ok"


async def test_stopped_ones_are_shown_on_demand(world: World) -> None:
    await up(world)
    world.worker().say(Bye("SIGTERM"))
    await world.until(lambda: world.proxy().state is State.STOPPED)

    assert world.commands.rows() == []
    assert [row.state for row in world.commands.rows(stopped=True)] == ["stopped"]
    assert world.commands.find_one("echo/demo").proxy.state is State.STOPPED


# --- fallback and limits --------------------------------------------------------------------------


async def test_targets_are_resolved_with_their_keys(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """From where the primary's would come."""
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-env")
    row = await up(world, fallback=["openrouter/a/b", "anthropic"])
    [router, own] = world.proxy().spec.fallback

    assert row.fallback == ["openrouter/a/b", "anthropic"]
    assert (router.provider, router.kind, router.model, router.api_key) == (
        "openrouter",
        "openrouter",
        "a/b",
        "sk-env",
    )
    assert (own.model_id, own.kind, own.model, own.api_key) == ("anthropic", "anthropic", "", None)
    assert world.worker().spec == world.proxy().spec


async def test_a_key_command_that_fails_says_where_it_stands(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`keys set` would not help: the command goes before what that keeps."""
    monkeypatch.delenv("OPENROUTER_API_KEY", raising=False)
    world.paths.config.mkdir(parents=True, exist_ok=True)
    world.paths.config_file.write_text(
        "[providers.openrouter]\napi_key_command = 'echo sk-or-told >&2; exit 3'\n"
    )
    fault = await refused(lambda: up(world, "openrouter/a/b"))

    key = "providers.openrouter.api_key_command"
    assert fault.message == f"openrouter: the key command ({key}) ended with 3"
    assert fault.code == "missing_api_key"
    assert fault.hint == f"run it in a shell to see why, mend it, or proxyctl config unset {key}"


async def test_a_spoilt_file_of_keys_is_in_the_way_of_those_who_may_need_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that was kept must not be left out unnoticed; a provider on no address sends none."""
    monkeypatch.delenv("OPENROUTER_API_KEY", raising=False)
    world.paths.config.mkdir(parents=True, exist_ok=True)
    world.paths.keys_file.write_text("= =")
    await up(world)
    fault = await refused(lambda: up(world, "openrouter/a/b"))

    assert fault.message == f"openrouter: {world.paths.keys_file}:1: not TOML"
    assert fault.hint == 'mend it (a line is like openrouter = "…") or move it away'
    row = await up(world, "ollama/x")
    words = f"{world.paths.keys_file}:1: not TOML; ollama does not stand there, and goes without a key"
    assert row.notes == [words]
    world.paths.keys_file.write_text('ollama = "k')
    fault = await refused(lambda: up(world, "ollama/y"))
    assert fault.code == "missing_api_key"


async def test_a_targets_missing_key_names_its_provider(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller may have it, and says it for this provider only; it stays until it is taken down."""
    monkeypatch.delenv("OPENROUTER_API_KEY", raising=False)
    fault = await refused(lambda: up(world, fallback=["openrouter/a/b"]))

    assert (fault.code, fault.env, fault.provider) == ("missing_api_key", "OPENROUTER_API_KEY", "openrouter")
    assert len(world.births) == 0
    await up(world, fallback=["openrouter/a/b"], fallback_keys={"openrouter": "sk-caller"})
    again = await up(world, fallback=["openrouter/a/b"])
    assert again.reused
    assert world.proxy().spec.api_key is None
    assert [target.api_key for target in world.proxy().spec.fallback] == ["sk-caller"]


async def test_a_target_may_be_an_alias_or_a_named_proxy_and_no_front(world: World) -> None:
    """A proxy's name means its model and what its table says of that; its limits are of its own requests."""
    world.paths.config.mkdir(exist_ok=True)
    table = 'model = "echo/other"\ncontext_window = 4096\nmax_concurrent = 1'
    world.paths.config_file.write_text(f'aliases.local = "echo/small"\n[proxies.coder]\n{table}')
    row = await up(world, fallback=["local", "coder"])
    [_, coder] = world.proxy().spec.fallback

    assert (row.fallback, row.limits) == (["echo/small", "echo/other"], {})
    assert coder.options.context_window == 4096
    fault = await refused(lambda: up(world, fallback=["front"]))
    assert (fault.code, "is a front" in fault.message) == ("bad_model_id", True)


async def test_a_key_by_flag_serves_targets_of_the_same_provider(world: World) -> None:
    await up(world, "openrouter/a/b", api_key="sk-flag", fallback=["openrouter/c/d", "echo/x"])

    assert [target.api_key for target in world.proxy("openrouter/a/b").spec.fallback] == ["sk-flag", None]


async def test_targets_stay_when_nothing_is_said_of_them(world: World) -> None:
    await up(world, fallback=["echo/other"])

    assert (await up(world)).fallback == ["echo/other"]
    fault = await refused(lambda: up(world, fallback=[]))
    assert (fault.code, "fallback" in fault.message) == ("options_differ", True)
    assert (await up(world, fallback=[], replace=True)).fallback == []


async def test_limits_are_set_without_a_new_worker(world: World) -> None:
    """Told to the worker, kept for the next one, and not taken back by silence."""
    await up(world, max_concurrent=4)
    [row] = await world.commands.set("echo/demo", SetRequest(max_concurrent=2, rpm=60))

    assert row.limits == {"max_concurrent": 2, "rpm": 60}
    assert world.worker().link is not None
    await world.until(lambda: Adjust(Quota(max_concurrent=2, rpm=60)) in world.worker().link.heard)  # type: ignore[union-attr]
    assert (await up(world)).limits == {"max_concurrent": 2, "rpm": 60}
    [row] = await world.commands.set("all", SetRequest(rpm=0))
    assert row.limits == {"max_concurrent": 2}
    assert len(world.births) == 1


async def test_up_with_other_limits_needs_replace_but_no_worker(world: World) -> None:
    first = await up(world, rpm=60)
    fault = await refused(lambda: up(world, rpm=30))

    assert (fault.code, "(limits)" in fault.message) == ("options_differ", True)
    row = await up(world, rpm=30, replace=True)
    assert (row.pid, row.generation, row.limits) == (first.pid, 1, {"rpm": 30})


async def test_a_second_proxy_of_a_model_has_its_own_limits(world: World) -> None:
    await up(world, rpm=60, fallback=["echo/x"])
    port = free_port()
    second = await up(world, port=port)

    assert (second.limits, second.fallback) == ({}, [])


async def test_bad_limits_and_unknown_proxies_are_refused(world: World) -> None:
    await up(world)
    for request in (SetRequest(rpm=-1), SetRequest(queue_timeout_s=0.01)):
        fault = await refused(partial(world.commands.set, "all", request))
        assert fault.code == "bad_request"
    assert (await refused(lambda: up(world, rpm=-1))).code == "bad_request"
    assert (await refused(lambda: world.commands.set("echo/none", SetRequest(rpm=1)))).code == "unknown_proxy"


# --- keys after a supervisor's end ----------------------------------------------------------------


async def test_a_key_of_the_configuration_is_fetched_anew(
    make_world: Callable[[], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the proxy and those of its targets; no key was ever on disk."""
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-old")
    first = await make_world().start()
    configure(first, "")
    row = await up(first, "openrouter/a/b", fallback=["openrouter/c/d", "echo/x"])
    give_back(first)
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-new")
    second = await make_world().start()
    assert second.proxy("openrouter/a/b").state is State.ADOPTING
    await second.commands.seek_keys()
    await second.until(lambda: second.proxy("openrouter/a/b").state is State.READY)

    found = second.proxy("openrouter/a/b").spec
    assert (found.port, found.api_key) == (row.port, "sk-new")
    assert [target.api_key for target in found.fallback] == ["sk-new", None]


async def test_nobody_looks_for_the_key_of_one_that_is_stopped(
    make_world: Callable[[], World], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its provider may be gone by now, and a key command may ask its user: the next `up` will see."""
    monkeypatch.delenv("OPENROUTER_API_KEY", raising=False)
    first = make_world()
    configure(first, f'[providers.openrouter]\napi_key_command = "echo k >> {tmp_path}/asked; echo k"')
    await first.start()
    await up(first, "openrouter/a/b")
    await first.commands.down("openrouter/a/b", DownRequest())
    give_back(first)
    (tmp_path / "asked").unlink()
    second = await make_world().start()
    await second.commands.seek_keys()

    assert second.proxy("openrouter/a/b").state is State.STOPPED
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize("again", [{}, {"api_key": "sk-flag-2", "replace": True}, {"idle_stop_s": 60.0}])
async def test_a_key_that_came_with_up_is_not_replaced_by_another(
    make_world: Callable[[], World], monkeypatch: pytest.MonkeyPatch, again: dict[str, Any]
) -> None:
    """It may be somebody else's account: its user is to say it again."""
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-env")
    first = await make_world().start()
    await up(first, "openrouter/a/b", api_key="sk-flag")
    await up(first, "openrouter/a/b", **again)
    give_back(first)
    second = await make_world().start()
    await second.commands.seek_keys()

    assert second.proxy("openrouter/a/b").state is State.FAILED
    assert "given by flag" in (second.proxy("openrouter/a/b").given_up or "")


async def test_a_key_by_flag_that_was_replaced_by_the_configured_one(
    make_world: Callable[[], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await make_world().start()
    await up(first, "openrouter/a/b", api_key="sk-flag")
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-env")
    await up(first, "openrouter/a/b", replace=True)
    give_back(first)
    second = await make_world().start()
    await second.commands.seek_keys()
    await second.until(lambda: second.proxy("openrouter/a/b").state is State.READY)

    assert second.proxy("openrouter/a/b").spec.api_key == "sk-env"


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ("", r"openrouter needs an API key: .*; then proxyctl up openrouter/a/b"),
        (
            "nonsense",
            r"what it needs stands in the configuration: .*config\.toml:1: .*; "
            r"it starts when that is mended \(proxyctl config validate\)",
        ),
        (
            '[providers.openrouter]\napi_key_file = "/nowhere"',
            r"openrouter: the key file /nowhere \(providers\.openrouter\.api_key_file\) cannot be read: .*; "
            r"then proxyctl up openrouter/a/b",
        ),
    ],
)
async def test_a_key_that_is_gone_says_what_to_do(
    make_world: Callable[[], World], monkeypatch: pytest.MonkeyPatch, config: str, why: str
) -> None:
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-env")
    first = await make_world().start()
    await up(first, "openrouter/a/b", lazy=True)
    give_back(first)
    monkeypatch.delenv("OPENROUTER_API_KEY")
    second = make_world()
    configure(second, config)
    await second.start()
    assert second.proxy("openrouter/a/b").state is State.IDLE
    await second.commands.seek_keys()
    await second.until(lambda: second.proxy("openrouter/a/b").state is State.FAILED)

    assert re.fullmatch(why, second.proxy("openrouter/a/b").given_up or "")


# --- headers after a supervisor's end -------------------------------------------------------------

TEAM = """
[providers.work]
kind = "openai"
base_url = "http://127.0.0.1:9"
headers = { "x-team" = "#blue" }
[providers.anthropic]
headers = { "x-home" = "#red" }
"""


def sent(world: World, name: str) -> list[dict[str, str]]:
    """What the worker of a proxy was told, for each place where it may send."""
    spec = world.worker(name, world.proxy(name).generation).spec
    assert spec is not None
    return [place.options.headers for place in spec.places]


async def test_headers_are_asked_for_anew_of_the_configuration_only(make_world: Callable[[], World]) -> None:
    """Those of the proxy, of its targets and of a front; no value was ever on disk."""
    first = await make_world().start()
    configure(first, TEAM)
    await up(first, "work/a", fallback=["work/b", "anthropic"])
    await up(first, "front")
    assert not any(value in first.paths.state_file.read_text() for value in ("#blue", "#red"))
    assert "x-team" in first.paths.state_file.read_text()
    give_back(first)
    second = await make_world().start()
    configure(second, TEAM.replace('"#blue"', '"#green", "x-new" = "1"'))
    second.paths.keys_file.write_text('front = "sk-nobody-s"')
    assert second.proxy("work/a").state is State.ADOPTING
    await second.commands.seek_keys()
    await second.until(lambda: all(unit.proxy.state is State.READY for unit in second.keeper.units.values()))

    green = {"x-team": "#green", "x-new": "1"}
    assert sent(second, "work/a") == [green, green, {"x-home": "#red"}]
    assert sent(second, "front") == [{"x-home": "#red"}]
    assert second.proxy("front").spec.keys == [None]


async def test_a_header_that_the_configuration_has_no_more_is_not_sent(
    make_world: Callable[[], World],
) -> None:
    first = await make_world().start()
    configure(first, TEAM)
    await up(first, "work/a")
    give_back(first)
    second = await make_world().start()
    configure(second, TEAM.replace('{ "x-team" = "#blue" }', "{}"))
    await second.commands.seek_keys()
    await second.until(lambda: second.proxy("work/a").state is State.READY)

    assert sent(second, "work/a") == [{}]
    assert "work/a: work has no header x-team any more; it is not sent" in second.log


async def test_a_key_by_flag_that_is_lost_takes_its_headers_along(make_world: Callable[[], World]) -> None:
    """Without it nothing starts; the `up` that brings it reads the headers, and asks for no --replace."""
    first = await make_world().start()
    configure(first, TEAM)
    await up(first, "work/a", api_key="sk-flag")
    give_back(first)
    second = await make_world().start()
    await second.commands.seek_keys()
    assert second.proxy("work/a").state is State.FAILED
    other = await refused(lambda: up(second, "work/a", api_key="sk-flag", grace_s=1.0))
    assert "with other options (grace_s)" in other.message
    await up(second, "work/a", api_key="sk-flag")

    assert sent(second, "work/a") == [{"x-team": "#blue"}]


async def test_what_an_earlier_version_wrote_is_used_and_written_anew_without_it(
    make_world: Callable[[], World],
) -> None:
    """It knew the values of headers from its file, where they stood in clear."""
    world = make_world()
    configure(world, TEAM)
    options = Options(headers={"x-team": "#blue"})
    spec = WorkerSpec("work/a", "work/a", "work", "openai", "a", free_port(), options=options)
    record = state.ProxyRecord("work/a", True, "ready", spec.port, spec, 3, 0, needs_key=False, workers=[])
    state.save(world.paths.state_file, state.Saved(state.DaemonRecord(1, 2.0), [record]))
    assert "#blue" in world.paths.state_file.read_text()
    await world.start()
    assert "#blue" not in world.paths.state_file.read_text()
    await world.until(lambda: world.proxy("work/a").state is State.READY)

    assert sent(world, "work/a") == [{"x-team": "#blue"}]
    assert state.read(world.paths.state_file)[0].spec.lacks_headers


async def test_a_proxy_that_lost_its_keys_takes_them_anew_with_its_targets(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the failure says: no --replace, and nothing that was said before is said again but the key."""
    monkeypatch.delenv("OPENROUTER_API_KEY", raising=False)
    await up(world, "openrouter/a/b", api_key="sk-1", fallback=["openrouter/c/d", "echo/x"], rpm=60)
    unit = world.keeper.units["openrouter/a/b"]
    world.worker("openrouter/a/b").die()
    lost = unit.proxy.spec.without_secrets()
    unit.proxy = attrs.evolve(unit.proxy, spec=lost, key_lost=True, workers=(), given_up="lost")
    assert (await refused(lambda: up(world, "openrouter/a/b"))).code == "missing_api_key"
    row = await up(world, "openrouter/a/b", api_key="sk-2")
    spec = world.proxy("openrouter/a/b").spec

    assert (row.state, row.limits) == ("ready", {"rpm": 60})
    assert [spec.api_key, *(target.api_key for target in spec.fallback)] == ["sk-2", "sk-2", None]


# --- keys of the caller's shell -------------------------------------------------------------------

COMMAND = '[providers.openrouter]\napi_key_command = "echo sk-cmd"'
SHELL = {"openrouter": "sk-shell"}
MODEL = "openrouter/a/b"


@pytest.fixture
def keyed(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Its supervisor has no variable, and its configuration a key."""
    monkeypatch.delenv("OPENROUTER_API_KEY", raising=False)
    configure(world, COMMAND)
    return world


async def test_s57_the_variable_of_the_callers_shell_goes_before_the_configuration(keyed: World) -> None:
    """Who can be asked for it is; who has none, or cannot be asked, gets what the configuration has."""
    fault = await refused(lambda: up(keyed, MODEL, lacks=[]))
    assert (fault.code, fault.env, fault.provider) == ("missing_api_key", "OPENROUTER_API_KEY", "openrouter")
    assert len(keyed.births) == 0
    await up(keyed, MODEL, lacks=[], fallback_keys=SHELL)
    assert keyed.proxy(MODEL).spec.api_key == "sk-shell"
    await up(keyed, "openrouter/c", lacks=["OPENROUTER_API_KEY"])
    await up(keyed, "openrouter/d")
    found = [keyed.proxy(name).spec.api_key for name in ("openrouter/c", "openrouter/d")]

    assert found == ["sk-cmd", "sk-cmd"]


async def test_s57_the_supervisors_own_variable_and_a_flag_ask_nobody(
    keyed: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await up(keyed, MODEL, lacks=[], api_key="sk-flag")
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-env")
    await up(keyed, "openrouter/c", lacks=[])

    assert keyed.proxy(MODEL).spec.api_key == "sk-flag"
    assert keyed.proxy("openrouter/c").spec.api_key == "sk-env"


@pytest.mark.parametrize(
    "again", [{"lacks": []}, {"lacks": ["OPENROUTER_API_KEY"]}, {"fallback_keys": {"openrouter": "sk-2"}}, {}]
)
@pytest.mark.parametrize("first", [{"fallback_keys": SHELL}, {}])
async def test_s57_up_again_keeps_the_key_whatever_the_shell_has(
    keyed: World, first: dict[str, Any], again: dict[str, Any]
) -> None:
    """Silence takes nothing back, and a variable is no word; whose key it is stays known as well."""
    await up(keyed, MODEL, **first)
    row = await up(keyed, MODEL, **again)
    unit = keyed.keeper.units[MODEL]

    assert row.reused
    assert unit.proxy.spec.api_key == ("sk-shell" if first else "sk-cmd")
    assert unit.key_given == unit.key_of_shell == bool(first)


async def test_s57_replace_takes_the_key_that_goes_first_now(keyed: World) -> None:
    await up(keyed, MODEL)
    assert (await refused(lambda: up(keyed, MODEL, replace=True, lacks=[]))).code == "missing_api_key"
    await up(keyed, MODEL, replace=True, lacks=[], fallback_keys=SHELL)
    unit = keyed.keeper.units[MODEL]
    assert (unit.proxy.spec.api_key, unit.key_given) == ("sk-shell", True)
    await up(keyed, MODEL, replace=True, lacks=["OPENROUTER_API_KEY"])

    assert (unit.proxy.spec.api_key, unit.key_given) == ("sk-cmd", False)


async def test_s57_a_second_proxy_has_the_key_of_its_own_shell(keyed: World) -> None:
    """Two accounts; but a flag's key is for the model until it is taken down."""
    await up(keyed, MODEL, fallback_keys=SHELL)
    port = free_port()
    assert (await refused(lambda: up(keyed, MODEL, port=port, lacks=[]))).code == "missing_api_key"
    row = await up(keyed, MODEL, port=port, lacks=[], fallback_keys={"openrouter": "sk-other"})
    await up(keyed, "openrouter/c", api_key="sk-flag")
    third = await up(keyed, "openrouter/c", port=free_port(), lacks=[])

    assert keyed.proxy(row.name).spec.api_key == "sk-other"
    assert keyed.proxy(third.name).spec.api_key == "sk-flag"


async def test_s57_a_target_to_fall_back_to_has_the_shells_key_too(keyed: World) -> None:
    """Asked for when it is new, and neither with the proxy that has it nor for one that is not meant."""
    fault = await refused(lambda: up(keyed, fallback=[MODEL], lacks=[]))
    assert (fault.code, fault.provider) == ("missing_api_key", "openrouter")
    await up(keyed, fallback=[MODEL], lacks=[], fallback_keys=SHELL)
    again = await up(keyed, fallback=[MODEL], lacks=[])
    plain = await up(keyed, lacks=[])

    assert again.reused
    assert plain.reused
    assert [target.api_key for target in keyed.proxy().spec.fallback] == ["sk-shell"]


@pytest.mark.parametrize(("config", "found"), [(COMMAND, "sk-cmd"), ("", None)])
async def test_s57_a_shells_key_that_is_lost_with_everybody_gives_way_to_the_configured_one(
    make_world: Callable[[], World], monkeypatch: pytest.MonkeyPatch, config: str, found: str | None
) -> None:
    """No flag said that it must be this one; a reboot is not to leave down what could be up."""
    monkeypatch.delenv("OPENROUTER_API_KEY", raising=False)
    first = await make_world().start()
    configure(first, config)
    await up(first, MODEL, fallback_keys=SHELL)
    give_back(first)
    second = await make_world().start()
    configure(second, config)
    await second.commands.seek_keys()
    wanted = State.READY if found else State.FAILED
    await second.until(lambda: second.proxy(MODEL).state is wanted)
    unit = second.keeper.units[MODEL]

    assert unit.proxy.spec.api_key == found
    assert (unit.key_given, unit.key_of_shell) == (False, False)
    await up(second, MODEL, fallback_keys=SHELL)
    assert unit.proxy.spec.api_key == (found or "sk-shell")


async def test_s57_a_shells_key_comes_back_with_the_worker_that_has_it(
    make_world: Callable[[], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dials some time after its supervisor's end; what is configured does not get ahead of it."""
    monkeypatch.delenv("OPENROUTER_API_KEY", raising=False)
    world = make_world()
    configure(world, COMMAND)
    spec = WorkerSpec(MODEL, MODEL, "openrouter", "openrouter", "a/b", 3457)
    worker = state.WorkerRecord(3, 77, 1, kernel.boot_id(), "secret token")
    record = state.ProxyRecord(
        MODEL, True, "ready", 3457, spec, 3, 0, needs_key=True, workers=[worker], key_of_shell=True
    )
    state.save(world.paths.state_file, state.Saved(state.DaemonRecord(1, 2.0), [record]))
    survivor = world.survivor(MODEL, 3, 77, "secret token")
    await world.start()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.commands.seek_keys)
        await trio.sleep(1.0)
        await survivor.dial(spec=attrs.evolve(spec, api_key="sk-shell"), serving=True)
    unit = world.keeper.units[MODEL]

    assert unit.proxy.spec.api_key == "sk-shell"
    assert (unit.key_given, unit.key_of_shell) == (True, True)


# --- leases -----------------------------------------------------------------------------------------


@attrs.define
class Holder:
    """Somebody who holds a lease until he leaves."""

    world: World
    model: str = "echo/demo"
    again: bool = False
    leased: Leased | None = None
    fault: Fault | None = None
    scope: trio.CancelScope = attrs.Factory(trio.CancelScope)
    over: trio.Event = attrs.Factory(trio.Event)

    async def hold(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        try:
            with self.scope:
                request = UpRequest(self.model, port=0)
                async with self.world.commands.lease(request, again=self.again) as self.leased:
                    task_status.started()
                    await trio.sleep_forever()
        except Fault as fault:
            self.fault = fault
        finally:
            self.over.set()

    async def leave(self) -> None:
        self.scope.cancel()
        await self.over.wait()


async def holder(world: World, nursery: trio.Nursery, **options: Any) -> Holder:
    one = Holder(world, **options)
    await nursery.start(one.hold)
    return one


async def test_what_came_up_for_a_lease_goes_with_the_last_one(world: World, nursery: trio.Nursery) -> None:
    """S79: two use it; the first to leave leaves it, the second ends it."""
    first, second = await holder(world, nursery), await holder(world, nursery)
    assert second.leased is not None
    row = second.leased.proxy

    assert (len(world.births), row.reused, row.leases, row.kept) == (1, True, 2, False)

    await first.leave()
    await world.keeper.ask(lambda: None)  # whatever that led to is done
    assert world.proxy().state is State.READY

    await second.leave()
    await world.until(lambda: world.proxy().state is State.STOPPED)


async def test_what_was_up_before_stays(world: World, nursery: trio.Nursery) -> None:
    await up(world)
    one = await holder(world, nursery)
    await one.leave()
    await world.keeper.ask(lambda: None)  # whatever that led to is done

    assert world.proxy().state is State.READY


async def test_up_makes_a_leased_one_stay(world: World, nursery: trio.Nursery) -> None:
    one = await holder(world, nursery)
    await up(world)
    await one.leave()
    await world.keeper.ask(lambda: None)  # whatever that led to is done
    (row,) = world.commands.rows()

    assert (row.state, row.kept, row.leases) == ("ready", True, 0)


async def test_who_ends_a_lease_hears_when_all_is_over(world: World, nursery: trio.Nursery) -> None:
    one = await holder(world, nursery)
    assert one.leased is not None
    stopped = await world.commands.end_lease(one.leased.lease)

    assert [(row.name, row.state) for row in stopped] == [("echo/demo", "stopped")]
    assert world.proxy().state is State.STOPPED
    fault = await refused(partial(world.commands.end_lease, one.leased.lease))
    assert fault.code == "unknown_lease"


async def test_down_wins_over_a_lease(world: World, nursery: trio.Nursery) -> None:
    """Who holds it takes it no further up, not even from the next supervisor."""
    one = await holder(world, nursery)
    await world.commands.down("echo/demo", DownRequest())
    late = Holder(world, again=True)
    await late.hold()
    await one.leave()

    assert world.proxy().state is State.STOPPED
    assert late.fault is not None
    assert late.fault.code == "unknown_proxy"


async def test_who_leaves_before_it_is_ready_leaves_nothing(world: World, nursery: trio.Nursery) -> None:
    world.conduct = lambda birth: "silent"
    one = Holder(world)
    nursery.start_soon(one.hold)
    await world.until(lambda: bool(world.births))
    await one.leave()
    await world.until(lambda: not world.proxy().wanted)


async def test_a_supervisor_that_leaves_ends_no_lease(world: World, nursery: trio.Nursery) -> None:
    """The next one waits for whoever held it, and then no more."""
    one = await holder(world, nursery)
    world.commands.leaving = True
    await one.leave()
    world.commands.leaving = False
    unit = world.keeper.units["echo/demo"]
    unit.leases.clear()
    assert unit.proxy.wanted

    again = await holder(world, nursery, again=True)
    await world.commands.forget_leases()
    assert unit.proxy.wanted

    await again.leave()
    await world.until(lambda: world.proxy().state is State.STOPPED)


async def test_what_nobody_asked_for_again_goes(world: World, nursery: trio.Nursery) -> None:
    one = await holder(world, nursery)
    world.keeper.units["echo/demo"].leases.clear()
    await world.commands.forget_leases()

    await world.until(lambda: world.proxy().state is State.STOPPED)
    await one.leave()


FRONT = '[models.agents]\na = "echo/demo"\nb = "echo/other"\n'


def wanted(world: World) -> set[str]:
    return {name for name, unit in world.keeper.units.items() if unit.proxy.wanted}


async def test_a_front_takes_along_what_it_has_brought_up(world: World, nursery: trio.Nursery) -> None:
    """Not what was up before; and not while another one who came through it is there."""
    configure(world, FRONT)
    await up(world, "echo/other")
    first, second = await holder(world, nursery, model="front"), await holder(world, nursery, model="front")
    assert wanted(world) == {"front", "echo/demo", "echo/other"}

    await first.leave()
    await world.keeper.ask(lambda: None)
    assert wanted(world) == {"front", "echo/demo", "echo/other"}

    await second.leave()
    await world.until(lambda: wanted(world) == {"echo/other"})


async def test_a_front_that_stays_keeps_its_places(world: World, nursery: trio.Nursery) -> None:
    """Also those that were up for somebody else's lease only; on record, too."""
    configure(world, FRONT)
    one = await holder(world, nursery)
    await up(world, "front")
    await one.leave()
    await world.keeper.ask(lambda: None)

    assert wanted(world) == {"front", "echo/demo", "echo/other"}
    on_record = {record.name: record.kept for record in state.peek(world.paths.state_file)}
    assert on_record == {"front": True, "echo/demo": False, "echo/other": False}
    await world.commands.forget_leases()
    assert wanted(world) == set(on_record)


async def test_a_front_that_is_taken_down_takes_along_what_only_it_led_to(world: World) -> None:
    """Behind its own last requests; not what somebody has said `up` of, nor what another front leads to."""
    configure(world, FRONT + '[aliases]\nc = "echo/mine"\n[front.work]\notherwise = "echo/shared"\n')
    for name in ("front", "front/work", "echo/mine"):
        await up(world, name)
    everything = {"front", "front/work", "echo/mine", "echo/shared", "echo/demo", "echo/other"}
    assert wanted(world) == everything
    shown = {row.name: (row.fronts, row.kept) for row in world.commands.rows()}
    assert shown["echo/shared"] == (["front/work"], False)
    assert shown["echo/mine"] == (["front", "front/work"], True)

    (first,) = await world.commands.down("front/work", DownRequest())
    assert first.also == ["echo/shared"]
    (second,) = await world.commands.down("front", DownRequest())
    assert sorted(second.also) == ["echo/demo", "echo/other"]
    assert wanted(world) == {"echo/mine"}


async def test_what_a_front_leads_to_goes_behind_its_last_requests(
    world: World, nursery: trio.Nursery
) -> None:
    """Unless it is up again by then."""
    configure(world, FRONT)
    world.conduct = lambda birth: "stubborn"
    await up(world, "front")
    nursery.start_soon(world.commands.down, "front", DownRequest(600.0))
    await trio.sleep(1.0)
    everybody = world.keeper.units.values()
    await world.keeper.ask(
        lambda: world.commands.doors.release(everybody)
    )  # who looks sees that they are used
    assert wanted(world) == {"echo/demo", "echo/other"}

    await up(world, "front")
    await trio.sleep(1.0)
    assert wanted(world) == {"front", "echo/demo", "echo/other"}
    nursery.start_soon(world.commands.down, "front", DownRequest(5.0))
    await world.until(lambda: not wanted(world))
    assert world.proxy("front").state is State.STOPPED


async def test_a_front_that_the_next_supervisor_sees_to_its_end_takes_them_along(
    world: World, nursery: trio.Nursery
) -> None:
    configure(world, FRONT)
    world.conduct = lambda birth: "stubborn"
    await up(world, "front")
    world.commands.leaving = True
    with trio.move_on_after(1.0):
        await world.commands.down("front", DownRequest(60.0))
    world.commands.leaving = False
    assert wanted(world) == {"echo/demo", "echo/other"}

    nursery.start_soon(world.commands.forget_leases)
    await trio.sleep(30.0)
    assert wanted(world) == {"echo/demo", "echo/other"}
    await world.until(lambda: not wanted(world))


async def test_who_does_not_wait_for_a_front_leaves_nothing_behind(world: World) -> None:
    configure(world, FRONT)
    world.conduct = lambda birth: "stubborn"
    await up(world, "front")
    with trio.move_on_after(1.0) as scope:
        await world.commands.down("front", DownRequest(600.0))
    await world.keeper.ask(lambda: None)

    assert (scope.cancelled_caught, wanted(world)) == (True, set())


async def test_where_a_front_does_not_lead_any_more_goes_with_it_as_well(
    world: World, nursery: trio.Nursery
) -> None:
    """Not before: it may still have requests, and the front may still send it one."""
    configure(world, FRONT)
    await world.commands.forget_leases()
    await up(world, "front")
    configure(world, FRONT.replace("echo/demo", "echo/new"))
    await up(world, "front")
    assert wanted(world) == {"front", "echo/demo", "echo/new", "echo/other"}

    (stopped,) = await world.commands.down("front", DownRequest())
    assert (len(stopped.also), wanted(world)) == (3, set())

    one = await holder(world, nursery, model="front")
    configure(world, FRONT)
    await up(world, "front", lease="another")
    assert wanted(world) == {"front", "echo/demo", "echo/new", "echo/other"}
    await world.keeper.ask(lambda: world.commands.doors.let_go("another"))
    await one.leave()
    await world.until(lambda: not wanted(world))


async def test_the_places_of_a_front_are_held_again_with_it(world: World, nursery: trio.Nursery) -> None:
    configure(world, FRONT)
    await holder(world, nursery, model="front")
    for unit in world.keeper.units.values():
        unit.leases.clear()
    again = await holder(world, nursery, model="front", again=True)
    await world.commands.forget_leases()
    assert wanted(world) == {"front", "echo/demo", "echo/other"}

    await again.leave()
    await world.until(lambda: not wanted(world))
