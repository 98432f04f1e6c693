"""Fronts among the proxies: what they lead to exists, and they hear where it is."""

from __future__ import annotations

import socket

import attrs
import pytest
from fakes import clock
from fakes.house import free_port
from fakes.spawner import World
from fakes.worlds import configure

from modelproxy.supervisor.facts import State
from modelproxy.supervisor.following import Following
from modelproxy.supervisor.protocol import DownRequest, Fault, ProxyView, UpRequest
from modelproxy.worker.contract import Adjust, Front

pytestmark = clock.jumping

FILE = """
[providers.far]
kind = "openai"
base_url = "http://127.0.0.1:1"
api_key_env = "A_VARIABLE_THAT_NOBODY_SETS"
[aliases]
local = "echo/small"
[proxies.coder]
model = "local"
idle_stop = "5m"
[models.agents]
reviewer = "echo/big"
[front.work]
rules = [{ model = "m", to = "far/x" }]
"""


async def up(world: World, name: str = "front", **said: object) -> None:
    await world.commands.up(UpRequest(name, port=0, **said))  # type: ignore[arg-type]


def front(world: World, name: str = "front") -> Front:
    found = world.proxy(name).spec.front
    assert found is not None
    return found


def view(world: World, name: str) -> ProxyView:
    return world.commands.row(world.keeper.units[name])


def urls(world: World) -> dict[str, str | None]:
    return {place.name: place.url for place in front(world).places}


def url(world: World, name: str) -> str:
    return f"http://127.0.0.1:{world.proxy(name).spec.port}"


async def test_each_place_becomes_a_proxy_without_a_process(world: World) -> None:
    configure(world, FILE)
    await up(world)

    assert world.proxy("front").state is State.READY
    for name in ("echo/big", "echo/small", "coder"):
        assert (world.proxy(name).state, urls(world)[name]) == (State.IDLE, url(world, name))
        # The usual ports are for what is asked for by hand.
        assert world.proxy(name).spec.port not in range(3456, 4456)
    assert world.proxy("coder").care.idle_stop_s == 300.0


async def test_a_proxy_that_runs_is_used_as_it_is(world: World) -> None:
    configure(world, FILE)
    await up(world, "echo/big")
    before = world.proxy("echo/big")
    await up(world)

    assert world.proxy("echo/big") == before
    assert not before.care.lazy
    assert urls(world)["echo/big"] == url(world, "echo/big")


async def test_a_place_that_goes_and_comes_is_told_to_the_front_without_another_worker(world: World) -> None:
    configure(world, FILE)
    await up(world)
    await world.commands.down("echo/big", DownRequest())

    assert urls(world)["echo/big"] is None
    await up(world, "echo/big")

    assert urls(world)["echo/big"] == url(world, "echo/big")
    assert world.proxy("front").generation == 1
    link = world.worker("front").link
    assert link is not None
    assert [one.front for one in link.heard if isinstance(one, Adjust)][-1] == front(world)


async def test_a_second_proxy_of_a_model_stands_in_for_the_first(world: World) -> None:
    configure(world, FILE)
    await up(world, "echo/big")
    await world.commands.up(UpRequest("echo/big", port=free_port()))
    await up(world)
    [second] = [name for name in world.keeper.units if name.startswith("echo/big@")]
    await world.commands.down("echo/big", DownRequest())

    assert urls(world)["echo/big"] == url(world, second)


async def test_a_key_that_is_missing_stops_it_only_where_a_rule_leads_there(world: World) -> None:
    configure(world, FILE)
    with pytest.raises(Fault) as caught:
        await up(world, "front/work")

    assert (caught.value.code, caught.value.provider) == ("missing_api_key", "far")
    assert caught.value.message == "far needs an API key: the front leads to far/x"
    configure(world, '[aliases]\nlocal = "openrouter/x"')
    view = await world.commands.up(UpRequest("front", port=0))
    [place] = front(world).places

    assert place.url is None
    assert place.trouble.startswith("openrouter needs an API key")
    assert view.notes[0].startswith("openrouter/x cannot be reached through the front: openrouter needs")


async def test_a_front_that_cannot_be_had_leaves_nothing_behind(world: World) -> None:
    """But what somebody else has brought up, before or meanwhile."""
    configure(world, FILE)
    await up(world, "echo/small")
    with socket.create_server(("127.0.0.1", 0)) as stranger, pytest.raises(Fault) as caught:
        await world.commands.up(UpRequest("front", port=stranger.getsockname()[1]))

    assert caught.value.code == "port_in_use"
    wanted = {name for name, unit in world.keeper.units.items() if unit.proxy.wanted}
    assert wanted == {"echo/small"}
    configure(world, FILE.replace("[proxies.coder]", '[proxies.a]\nmodel = "far/y"\n[proxies.coder]'))
    with pytest.raises(Fault) as caught:
        await up(world, "front/work")
    assert caught.value.code == "missing_api_key"
    assert {name for name, unit in world.keeper.units.items() if unit.proxy.wanted} == wanted


async def test_what_a_front_leads_to_stays_with_it(world: World) -> None:
    """Also a place that was there for a while only."""
    configure(world, FILE)
    async with world.commands.lease(UpRequest("echo/big", port=0), again=False):
        await up(world)
    units = {name: unit for name, unit in world.keeper.units.items() if unit.proxy.wanted}

    assert set(units) == {"front", "echo/big", "echo/small", "coder"}
    assert [name for name, unit in units.items() if unit.kept] == ["front"]
    assert not any(unit.leases for unit in units.values())


async def test_keys_that_are_given_reach_the_places(world: World) -> None:
    configure(world, FILE)
    await up(world, "front/work", fallback_keys={"far": "sk-given"})

    assert world.proxy("far/x").spec.api_key == "sk-given"
    assert world.proxy("front/work").spec.api_key is None
    given = {name for name, unit in world.keeper.units.items() if unit.key_given}
    assert given & {"far/x", "coder", "echo/big"} == {"far/x"}


async def test_s57_the_variable_of_the_callers_shell_goes_before_the_configuration(world: World) -> None:
    """Also where the front only might lead; a place that is up keeps its key, and a shell without one says so."""
    configure(world, FILE.partition("[proxies.coder]")[0].replace("echo/small", "far/x"))
    world.paths.keys_file.write_text('far = "sk-kept"')
    with pytest.raises(Fault) as caught:
        await up(world, lacks=[])
    assert (caught.value.provider, caught.value.env) == ("far", "A_VARIABLE_THAT_NOBODY_SETS")
    await up(world, lacks=["A_VARIABLE_THAT_NOBODY_SETS"])
    await up(world, lacks=[])
    assert world.proxy("far/x").spec.api_key == "sk-kept"
    await world.commands.down("all", DownRequest())
    await up(world, lacks=[], fallback_keys={"far": "sk-given"})

    assert world.proxy("far/x").spec.api_key == "sk-given"


async def test_up_again_mends_a_place_that_had_failed(world: World) -> None:
    """Its key was lost with an earlier supervisor, say."""
    configure(world, FILE)
    keys = {"far": "sk-given"}
    await up(world, "front/work", fallback_keys=keys)
    unit = world.keeper.units["far/x"]
    spec = unit.proxy.spec.without_secrets()
    unit.proxy = attrs.evolve(unit.proxy, spec=spec, key_lost=True, given_up="its key is lost")
    await up(world, "front/work", fallback_keys=keys)
    found = world.proxy("far/x")

    assert (found.spec.api_key, found.key_lost, found.given_up) == ("sk-given", False, None)


@pytest.mark.parametrize("said", [{"api_key": "k"}, {"fallback": ["echo/x"]}])
async def test_a_front_has_no_key_and_no_fallback(world: World, said: dict[str, object]) -> None:
    with pytest.raises(Fault) as caught:
        await up(world, "front", **said)

    assert caught.value.code == "bad_request"
    assert "front" not in world.keeper.units


async def test_up_again_takes_the_rules_as_they_are_now(world: World) -> None:
    configure(world, FILE)
    await up(world)
    configure(world, FILE.replace("reviewer", "writer"))
    await up(world)

    assert [rule.agent for rule in front(world).rules if rule.agent] == ["writer"]
    assert world.proxy("front").generation == 1
    with pytest.raises(Fault) as caught:
        await up(world, base_url="http://127.0.0.1:9")
    assert caught.value.code == "options_differ"


async def test_a_changed_configuration_is_followed(world: World) -> None:
    """The new place is a proxy by then; what does not concern it changes nothing."""
    configure(world, FILE)
    following = Following(world.commands, world.keeper, world.paths, world.log.append)
    await following.reload()
    await up(world)
    configure(world, FILE.replace("echo/big", "echo/huge"))

    assert (await following.reload()).changed == ["front"]
    assert urls(world)["echo/huge"] == url(world, "echo/huge")
    assert world.proxy("front").generation == 1
    configure(world, FILE.replace("echo/big", "echo/huge") + "# a comment\n[models]\nfallback = false")
    assert (await following.reload()).changed == []


async def test_another_way_to_anthropic_is_followed_by_a_roll(world: World) -> None:
    """Whoever sets base_url to a gateway would otherwise go on past it, and be told that nothing has changed."""
    configure(world, FILE)
    following = Following(world.commands, world.keeper, world.paths, world.log.append)
    await following.reload()
    await up(world)
    places = front(world)
    configure(world, FILE + '[providers.anthropic]\nbase_url = "http://127.0.0.1:9"\nidle_timeout = "7s"\n')
    answer = await following.reload()

    assert answer.changed == ["front"]
    spec = world.proxy("front").spec
    assert (spec.base_url, spec.timeouts.idle_s, world.proxy("front").generation) == (
        "http://127.0.0.1:9",
        7.0,
        2,
    )
    assert front(world) == places
    assert (await following.reload()).changed == []


async def test_rules_of_a_project_are_not_taken_back_by_the_users_file(world: World) -> None:
    configure(world, FILE)
    following = Following(world.commands, world.keeper, world.paths, world.log.append)
    await following.reload()
    await up(world, overlay={"models": {"agents": {"tester": "echo/test"}}})
    configure(world, FILE.replace("echo/big", "echo/huge"))

    assert (await following.reload()).changed == []
    assert "echo/test" in urls(world)


async def test_a_table_that_is_gone_leaves_the_front_as_it_was(world: World) -> None:
    configure(world, FILE.replace("far/x", "echo/x"))
    following = Following(world.commands, world.keeper, world.paths, world.log.append)
    await following.reload()
    await up(world, "front/work")
    configure(world, FILE.partition("[front")[0])

    assert (await following.reload()).changed == []
    assert "front/work goes on as it was" in following.warnings[0]


async def test_ps_shows_where_it_leads_and_how_that_is(world: World) -> None:
    configure(world, FILE)
    await up(world)
    await up(world, "echo/big")
    await world.commands.down("coder", DownRequest())
    shown = {one["name"]: (one["model"], one["port"], one["state"]) for one in view(world, "front").targets}

    assert shown == {
        "echo/big": ("echo/big", world.proxy("echo/big").spec.port, "idle"),
        "echo/small": ("echo/small", world.proxy("echo/small").spec.port, "idle"),
        "coder": ("echo/small", None, "stopped"),
    }
    assert view(world, "echo/big").targets == []


@pytest.mark.parametrize(
    ("more", "otherwise"),
    [
        ("", "echo/big"),
        ('[models]\ndefault = "claude"', None),
        ('[aliases]\nopus = "anthropic/claude-opus-4-1"', None),
        ('[proxies."echo/big"]\nfallback = ["anthropic"]', None),
        ('[proxies."echo/big"]\nfallback = ["echo/small"]', "echo/big"),
    ],
)
async def test_a_front_of_which_nothing_goes_to_anthropic_says_so(
    world: World, more: str, otherwise: str | None
) -> None:
    """Not only its rules count: a proxy behind it may fall back to the caller's own request."""
    configure(world, f'{more}\n[front.default]\notherwise = "echo/big"\n')
    await up(world)

    assert view(world, "front").otherwise == otherwise
    assert view(world, "echo/big").otherwise is None


async def test_a_port_that_was_lost_is_nobodys_address(world: World) -> None:
    """Anybody may have it by now, and would get what is meant for the proxy."""
    configure(world, FILE)
    await up(world)
    unit = world.keeper.units["echo/big"]
    for one in unit.listeners:
        one.close()
    unit.listeners = []
    unit.proxy = attrs.evolve(unit.proxy, given_up="its port is taken")
    found = world.commands.doors.addressed(world.proxy("front").spec)

    assert found.front is not None
    assert {place.name: place.url for place in found.front.places}["echo/big"] is None
