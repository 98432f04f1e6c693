"""The configuration as it is followed: at the start, at reload, as the file changes."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
import trio
from fakes import clock
from fakes.house import free_port
from fakes.spawner import World
from fakes.worlds import configure, give_back

from modelproxy.supervisor.facts import Phase, State
from modelproxy.supervisor.following import QUIET_S, WATCH_S, Following, Keys
from modelproxy.supervisor.protocol import DownRequest, Fault, UpRequest
from modelproxy.worker.contract import Access

pytestmark = clock.jumping

FILE = """
aliases = { local = "echo/model" }
[proxies.coder]
model = "local"
context_window = 4096
[proxies."echo/other"]
max_concurrent = 2
"""


@pytest.fixture
async def following(world: World) -> Following:
    """That has read the file, with three proxies of which two are its."""
    configure(world, FILE)
    found = Following(world.commands, world.keeper, world.paths, world.log.append)
    await found.reload()
    for name in ("coder", "echo/other", "echo/third"):
        await world.commands.up(UpRequest(name, port=0))
    return found


async def test_a_change_touches_only_what_it_concerns(world: World, following: Following) -> None:
    """By a roll; the others have the worker that they had."""
    configure(world, FILE.replace("4096", "8192"))
    answer = await following.reload()

    assert (answer.changed, answer.warnings) == (["coder"], [])
    assert world.proxy("coder").spec.options.context_window == 8192
    assert world.worker("coder", generation=2).spec == world.proxy("coder").spec
    assert [world.proxy(name).generation for name in ("coder", "echo/other", "echo/third")] == [2, 1, 1]
    assert (await following.reload()).changed == []


async def test_limits_change_without_another_worker(world: World, following: Following) -> None:
    configure(world, FILE.replace("max_concurrent = 2", "max_concurrent = 5"))

    assert (await following.reload()).changed == ["echo/other"]
    assert world.proxy("echo/other").spec.quota.max_concurrent == 5
    assert world.proxy("echo/other").generation == 1


TOKEN = f"""
[tokens.ci]
sha256 = "{"a" * 64}"
rpm = 5
proxies = ["coder"]
"""


async def test_tokens_come_and_go_without_another_worker(world: World, following: Following) -> None:
    """At the proxies where they are good; `up` by hand takes none of them away."""
    configure(world, FILE + TOKEN)
    assert (await following.reload()).changed == ["coder"]
    await world.commands.up(UpRequest("coder", port=0, rpm=9, replace=True))
    allowed = world.proxy("coder").spec.quota.access
    assert [(token.name, token.sha256, token.rpm) for token in allowed.tokens] == [("ci", "a" * 64, 5)]
    assert world.proxy("echo/other").spec.quota.access.tokens == []
    configure(world, "require_token = true\n" + FILE)
    await following.reload()

    assert world.proxy("coder").spec.quota.access == Access(required=True)
    assert [world.proxy(name).generation for name in ("coder", "echo/other", "echo/third")] == [1, 1, 1]


async def test_a_token_that_went_while_no_supervisor_looked_is_good_no_more(
    world: World, following: Following
) -> None:
    configure(world, FILE + TOKEN)
    await following.reload()
    configure(world, FILE)
    await Following(world.commands, world.keeper, world.paths, world.log.append).reload()

    assert world.proxy("coder").spec.quota.access == Access()


async def test_an_alias_that_means_another_model_moves_its_proxy(world: World, following: Following) -> None:
    configure(world, FILE.replace("echo/model", "echo/better"))

    assert (await following.reload()).changed == ["coder"]
    assert world.proxy("coder").spec.model_id == "echo/better"


async def test_a_new_target_gets_its_key_and_an_old_one_keeps_its(
    world: World, following: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable that is set since is nothing that the file has changed; an order to reload fetches all anew."""
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-1")
    configure(world, FILE.replace("context_window", 'fallback = ["openrouter/x"]\ncontext_window'))
    await following.reload()
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-2")
    configure(world, FILE.replace("context_window = 4096", 'fallback = ["openrouter/x"]\nretries = 2'))
    await following.reload(keys=Keys.NONE)

    assert [target.api_key for target in world.proxy("coder").spec.fallback] == ["sk-1"]
    assert world.proxy("coder").spec.options.retries == 2
    assert (await following.reload()).changed == ["coder"]
    assert [target.api_key for target in world.proxy("coder").spec.fallback] == ["sk-2"]


# --- keys -----------------------------------------------------------------------------------------------


ROUTED = """
[providers.openrouter]
base_url = "http://127.0.0.1:9"
"""


def keep(world: World, key: str) -> None:
    """As `proxyctl keys set openrouter` does."""
    world.paths.config.mkdir(exist_ok=True)
    world.paths.keys_file.write_text(f'openrouter = "{key}"')


@pytest.fixture
async def routed(world: World, following: Following, monkeypatch: pytest.MonkeyPatch) -> Following:
    """With one more, whose key is kept by `proxyctl keys set`."""
    monkeypatch.delenv("OPENROUTER_API_KEY", raising=False)
    configure(world, FILE + ROUTED)
    keep(world, "sk-1")
    await following.reload()
    await world.commands.up(UpRequest("openrouter/x", port=0))
    return following


async def test_a_key_that_was_replaced_reaches_those_who_have_it_from_there(
    world: World, routed: Following, nursery: trio.Nursery
) -> None:
    """By a roll; one that was given by flag is its user's, and one that was forgotten is kept for want of another."""
    await world.commands.up(UpRequest("openrouter/y", port=0, api_key="sk-flag"))
    await world.commands.up(UpRequest("openrouter/z", port=0, base_url="http://127.0.0.1:8"))
    nursery.start_soon(routed.run)
    await trio.testing.wait_all_tasks_blocked()
    keep(world, "sk-22")
    await world.until(lambda: world.proxy("openrouter/x").generation == 2)

    held = {name: world.proxy(f"openrouter/{name}").spec.api_key for name in "xyz"}
    assert held == {"x": "sk-22", "y": "sk-flag", "z": "sk-1"}
    assert [world.proxy(name).generation for name in ("coder", "openrouter/y", "openrouter/z")] == [1, 1, 1]
    world.paths.keys_file.unlink()
    await trio.sleep(2 * WATCH_S)
    assert (world.proxy("openrouter/x").spec.api_key, routed.warnings) == ("sk-22", [])


async def test_a_key_that_was_replaced_while_no_supervisor_ran(
    world: World, routed: Following, nursery: trio.Nursery
) -> None:
    keep(world, "sk-22")
    nursery.start_soon(Following(world.commands, world.keeper, world.paths, world.log.append).run)
    await world.until(lambda: world.proxy("openrouter/x").generation == 2)

    assert world.proxy("openrouter/x").spec.api_key == "sk-22"
    assert world.proxy("coder").generation == 1


async def test_commands_are_run_at_an_order_only(
    world: World, following: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A password store asks its user, who wants to know why. One that fails takes no key away."""
    monkeypatch.delenv("OPENROUTER_API_KEY", raising=False)
    counted = world.paths.config / "count"
    command = f"api_key_command = \"echo x >> {counted}; cat {counted} | tr -d '\\n'\""
    configure(world, FILE + ROUTED + command)
    await following.reload()
    await world.commands.up(UpRequest("openrouter/x", port=0))
    keep(world, "sk-1")
    await following.look_again(Keys.STORED)
    assert world.proxy("openrouter/x").spec.api_key == "x"
    assert (await following.reload()).changed == ["openrouter/x"]
    assert world.proxy("openrouter/x").spec.api_key == "xx"
    counted.unlink()
    counted.mkdir()
    [warning] = (await following.reload()).warnings

    assert warning.startswith("openrouter/x goes on with the key that it has: openrouter: the key command")
    assert world.proxy("openrouter/x").spec.api_key == "xx"


async def test_a_spoilt_file_of_keys_is_told_once_for_those_in_it(
    world: World, following: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who needs no key and is not in it is none of them; who has no key goes on without one."""
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-1")
    configure(world, FILE + ROUTED)
    await following.reload()
    for name in ("openrouter/x", "openrouter/y", "ollama/x", "anthropic/x"):
        await world.commands.up(UpRequest(name, port=0))
    monkeypatch.delenv("OPENROUTER_API_KEY")
    world.paths.keys_file.write_text('openrouter = "sk-2\nollama = "k"')
    spoilt = f"{world.paths.keys_file}:1: not TOML"

    assert (await following.reload()).warnings == [
        f"openrouter/x, openrouter/y go on with the keys that they have: openrouter: {spoilt}",
        f"ollama/x goes on without a key: ollama: {spoilt}",
    ]


async def test_what_a_spoilt_file_of_keys_held_up_is_applied_when_it_is_mended(
    world: World, routed: Following
) -> None:
    """It stayed as it was for ever, with the old complaint; and there was one of its key besides."""
    world.paths.keys_file.write_text("openrouter =")
    configure(world, FILE + ROUTED + 'api_key_env = "OTHER"\nretries = 1')
    [warning] = (await routed.reload()).warnings
    assert warning == f"openrouter/x goes on as it was: openrouter: {world.paths.keys_file}:1: not TOML"
    keep(world, "sk-2")
    await routed.look_again(Keys.STORED)
    spec = world.proxy("openrouter/x").spec

    assert (spec.options.retries, spec.api_key, routed.warnings) == (1, "sk-2", [])


async def test_a_file_with_mistakes_changes_nothing_and_is_told(world: World, following: Following) -> None:
    """Until it is mended."""
    before = world.proxy("coder").spec
    configure(world, FILE.replace("4096", "1"))
    with pytest.raises(Fault, match=r"config\.toml:5: proxies\.coder\.context_window = 1"):
        await following.reload()

    [warning] = following.warnings
    assert warning.startswith("the configuration is not used, the last good one holds: ")
    assert world.proxy("coder").spec == before
    configure(world, FILE)
    await following.reload()
    assert following.warnings == []


async def test_of_many_mistakes_the_first_is_told_everywhere(world: World, following: Following) -> None:
    """`ps` shows it in one line at every call; reload itself tells them all."""
    configure(world, "a = 1\nb = 2\nc = 3\n")
    with pytest.raises(Fault, match=r":1: a: .*\n.*:2: b: .*\n.*:3: c: "):
        await following.reload()

    [warning] = following.warnings
    assert warning.endswith("; and 2 more: proxyctl config validate")
    assert ":2: " not in warning


async def test_what_counts_from_the_next_start_is_told_until_then(world: World, following: Following) -> None:
    """Nothing happens, and "nothing has changed" alone would be taken for all is done."""
    configure(world, 'spawn = "exec"\n' + FILE)
    words = ["spawn is read when the supervisor starts: proxyctl daemon restart"]

    assert (await following.reload()).warnings == words
    configure(world, 'spawn = "exec"\n' + FILE.replace("4096", "8192"))
    assert (await following.reload()).warnings == words
    for said in ("", 'spawn = "fork"\n'):
        configure(world, said + FILE)
        assert (await following.reload()).warnings == []


async def test_what_cannot_follow_goes_on_as_it_was(world: World, following: Following) -> None:
    """A table that is gone, a key that is missing: a reload is no reason to end a proxy."""
    configure(world, "")
    answer = await following.reload()

    assert [text.partition(": ")[0] for text in answer.warnings] == ["coder goes on as it was"]
    assert world.proxy("coder").state is State.READY
    assert world.proxy("coder").generation == 1


async def test_a_new_port_is_for_the_next_time(world: World, following: Following) -> None:
    """And is told until then, whatever else changes meanwhile."""
    port = world.proxy("coder").spec.port
    moved = FILE.replace("context_window", "port = 1\ncontext_window")
    configure(world, moved)
    answer = await following.reload()

    assert (answer.changed, world.proxy("coder").spec.port) == ([], port)
    [warning] = answer.warnings
    assert warning.startswith(
        f"coder keeps port {port} until it is taken down, and the configuration says 1; "
    )
    assert "proxyctl down coder, then proxyctl up coder" in warning
    configure(world, moved.replace("max_concurrent = 2", "max_concurrent = 3"))
    assert (await following.reload()).warnings == [warning]
    configure(world, FILE)
    assert (await following.reload()).warnings == []


async def test_a_front_keeps_its_port_as_well_and_a_port_by_flag_was_never_the_files(
    world: World, following: Following
) -> None:
    port = free_port()
    await world.commands.up(UpRequest("front", port=0))
    front = world.proxy("front").spec.port
    coder = FILE.replace("context_window", "port = 1\ncontext_window")
    configure(world, f"{coder}\n[front.default]\nport = 2")
    await following.reload()
    await world.commands.down("coder", DownRequest())
    await world.commands.up(UpRequest("coder", port=port))
    configure(world, f"{coder.replace('port = 1', 'port = 3')}\n[front.default]\nport = 2")
    [warning] = (await following.reload()).warnings

    assert warning.startswith(
        f"front keeps port {front} until it is taken down, and the configuration says 2; "
    )


async def test_the_file_is_followed_as_it_changes(
    world: World, following: Following, nursery: trio.Nursery
) -> None:
    nursery.start_soon(following.run)
    await trio.testing.wait_all_tasks_blocked()
    configure(world, FILE.replace("4096", "16384"))
    await world.until(lambda: world.proxy("coder").generation == 2)
    configure(world, "= =")
    await trio.sleep(2 * WATCH_S)
    assert len(following.warnings) == 1
    world.paths.config_file.unlink()
    await trio.sleep(2 * WATCH_S)
    assert following.warnings[0].startswith("coder goes on as it was")


async def test_a_save_that_empties_the_file_first_is_waited_for(
    world: World, following: Following, nursery: trio.Nursery
) -> None:
    """An empty file holds as it stands: for a moment every agent would be led elsewhere."""
    nursery.start_soon(following.run)
    await trio.testing.wait_all_tasks_blocked()
    configure(world, "")
    await trio.sleep(WATCH_S + QUIET_S / 2)  # it has been looked at
    configure(world, FILE.replace("4096", "16384"))
    await world.until(lambda: world.proxy("coder").generation == 2)

    assert world.proxy("coder").spec.options.context_window == 16384
    assert [line for line in world.log if "goes on as it was" in line] == []


async def follow(world: World, following: Following) -> None:
    """One supervisor's time, until it has written down what is applied."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(following.run)
        await world.until(lambda: following._caught_up and not following._one_at_a_time.locked())
        nursery.cancel_scope.cancel()


def successor(world: World) -> Following:
    return Following(world.commands, world.keeper, world.paths, world.log.append)


async def test_an_edit_while_no_supervisor_ran_is_applied(world: World, following: Following) -> None:
    """As by a reload: what flags have said stays, what the file did not change too, and a new port is told."""
    await world.commands.up(UpRequest("echo/third", port=0, grace_s=3.0, max_concurrent=7, replace=True))
    await follow(world, following)
    edited = FILE.replace("4096", "8192\nport = 1\nidle_stop = 60").replace("max_concurrent = 2", "rpm = 9")
    configure(world, edited)
    port = world.proxy("coder").spec.port
    for later in (successor(world), successor(world)):
        await follow(world, later)
        [warning] = later.warnings
        assert warning.startswith(f"coder keeps port {port} until it is taken down")

    assert world.proxy("coder").spec.options.context_window == 8192
    assert world.proxy("coder").care.idle_stop_s == 60
    assert (world.proxy("coder").generation, world.proxy("echo/third").generation) == (2, 2)
    assert world.proxy("echo/other").spec.quota.limits() == {"rpm": 9}
    assert world.proxy("echo/third").spec.quota.limits() == {"max_concurrent": 7}
    assert "the configuration was changed while no supervisor ran: coder, echo/other" in world.log


async def test_a_restored_proxy_is_left_alone_until_its_key_is_here(
    world: World, following: Following
) -> None:
    """A changed spec without its key would be started without it. One whose key is lost is for its user."""
    await follow(world, following)
    configure(world, FILE.replace("4096", "8192").replace("max_concurrent = 2", "rpm = 9"))
    sought, lost = world.keeper.units["coder"], world.keeper.units["echo/other"]
    known = sought.proxy
    absent = attrs.evolve(known.workers[0], phase=Phase.ABSENT)
    sought.proxy = attrs.evolve(known, key_lost=True, key_sought=True, workers=(absent,))
    lost.proxy = attrs.evolve(lost.proxy, key_lost=True)
    later = successor(world)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(later.run)
        await world.until(lambda: later._good.is_set())
        await trio.testing.wait_all_tasks_blocked()
        assert not later._caught_up
        assert sought.proxy.spec.options.context_window == 4096
        sought.proxy = known  # its worker has dialled
        await world.keeper.ask(lambda: None)
        await world.until(lambda: later._caught_up)
        nursery.cancel_scope.cancel()

    assert sought.proxy.spec.options.context_window == 8192
    assert lost.proxy.spec.quota.limits() == {"max_concurrent": 2}


async def test_where_it_is_not_known_what_changed_it_is_told_what_differs(
    world: World, following: Following
) -> None:
    """Until it is applied; what flags have said is no difference."""
    await world.commands.up(UpRequest("echo/third", port=0, grace_s=3.0, replace=True))
    configure(world, FILE.replace("4096", "8192"))
    later = successor(world)
    await follow(world, later)

    [warning] = later.warnings
    assert warning.startswith("coder is as it was before the supervisor started")
    assert "proxyctl up coder --replace" in warning
    await world.commands.up(UpRequest("coder", port=0, replace=True))
    assert later.warnings == []


# --- headers --------------------------------------------------------------------------------------------

TEAM = """
[providers.work]
kind = "openai"
base_url = "http://127.0.0.1:9"
headers = { "x-team" = "blue" }
[proxies.team]
model = "work/a"
fallback = ["work/b"]
"""


async def test_the_value_of_a_header_is_followed_and_one_that_stays_rolls_nobody(
    world: World, following: Following
) -> None:
    """Neither at a reload nor when the next supervisor compares, which knows the names only."""
    configure(world, FILE + TEAM)
    await following.reload()
    await world.commands.up(UpRequest("team", port=0))
    configure(world, FILE + TEAM.replace("blue", "green"))
    assert (await following.reload()).changed == ["team"]
    await world.until(lambda: world.proxy("team").state is State.READY)
    spec = world.worker("team", generation=2).spec
    assert spec is not None
    assert [place.options.headers for place in spec.places] == [{"x-team": "green"}] * 2
    for later in (following, successor(world), successor(world)):
        await follow(world, later)
        assert later.warnings == []

    assert world.proxy("team").generation == 2
    assert not any(value in world.paths.applied_file.read_text() for value in ("blue", "green"))


async def test_targets_that_were_edited_while_no_supervisor_ran_are_followed_whatever_their_headers(
    world: World, following: Following
) -> None:
    configure(world, FILE + TEAM)
    await following.reload()
    await world.commands.up(UpRequest("team", port=0))
    await follow(world, following)
    configure(world, FILE + TEAM.replace('["work/b"]', '["work/b", "echo/x"]'))
    await follow(world, successor(world))

    fallback = world.proxy("team").spec.fallback
    assert [(one.model_id, one.options.headers) for one in fallback] == [
        ("work/b", {"x-team": "blue"}),
        ("echo/x", {}),
    ]


async def test_what_a_spoilt_file_could_not_say_is_had_when_it_is_mended(
    make_world: Callable[[], World],
) -> None:
    """With what was edited in the same go. Until then it is told."""
    first = await make_world().start()
    configure(first, TEAM)
    await follow(first, following := successor(first))
    await first.commands.up(UpRequest("team", port=0))
    assert following.warnings == []
    give_back(first)
    world = await make_world().start()
    configure(world, TEAM + "nonsense")
    async with trio.open_nursery() as nursery:
        nursery.start_soon((later := successor(world)).run)
        await world.until(lambda: world.proxy("team").state is State.FAILED)
        assert "what it needs stands in the configuration" in (world.proxy("team").given_up or "")
        configure(world, TEAM + "hold = 3")
        await world.until(lambda: world.proxy("team").state is State.READY and later._caught_up)
        nursery.cancel_scope.cancel()

    spec = world.worker("team", world.proxy("team").generation).spec
    assert spec is not None
    assert [place.options.headers for place in spec.places] == [{"x-team": "blue"}] * 2
    assert (spec.options.hold_s, later.warnings) == (3.0, [])


async def test_a_key_that_comes_later_is_had_then_with_the_edits_before_it(
    make_world: Callable[[], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody had set the variables for the supervisor before. Until all are there nothing of it is started."""
    monkeypatch.setenv("TEAM_KEY", "sk-1")
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-or-1")
    keyed = TEAM.replace("headers", 'api_key_env = "TEAM_KEY"\nheaders').replace("work/b", "openrouter/x")
    first = await make_world().start()
    configure(first, keyed)
    await follow(first, successor(first))
    await first.commands.up(UpRequest("team", port=0))
    monkeypatch.delenv("TEAM_KEY")
    monkeypatch.delenv("OPENROUTER_API_KEY")
    give_back(first)
    world = await make_world().start()
    await follow(world, later := successor(world))
    assert (world.proxy("team").state, later.warnings) == (State.FAILED, [])
    configure(world, keyed + "hold = 3")
    assert (await later.reload()).changed == []
    world.paths.keys_file.write_text('work = "sk-2"')
    await later.look_again(Keys.STORED)
    assert world.proxy("team").state is State.FAILED
    world.paths.keys_file.write_text('work = "sk-2"\nopenrouter = "sk-or-2"')
    await later.look_again(Keys.STORED)
    await world.until(lambda: world.proxy("team").state is State.READY)
    spec = world.proxy("team").spec

    assert (spec.keys, spec.options.headers, spec.options.hold_s) == (
        ["sk-2", "sk-or-2"],
        {"x-team": "blue"},
        3.0,
    )


# --- autostart --------------------------------------------------------------------------------------------


@pytest.fixture
def fresh(world: World) -> Callable[[str], Following]:
    def make(text: str) -> Following:
        configure(world, text)
        return Following(world.commands, world.keeper, world.paths, world.log.append)

    return make


def wanted(port: int) -> str:
    return f'[proxies.coder]\nmodel = "echo/x"\nautostart = true\nport = {port}'


async def test_autostart_brings_up_what_is_not_known_yet(
    world: World, fresh: Callable[[str], Following]
) -> None:
    """Who took it down by hand does not see it again."""
    port = free_port()
    await fresh(wanted(port)).reload()
    await world.until(lambda: world.proxy("coder").state is State.READY)
    await world.commands.down("coder", DownRequest())
    again = fresh(wanted(port))
    await again.reload()

    assert world.proxy("coder").state is State.STOPPED
    assert again.warnings == []


async def test_a_front_is_brought_up_at_its_port_as_a_proxy_is(
    world: World, fresh: Callable[[str], Following]
) -> None:
    """Each by the name that `up` has for it; who took one down does not see it again."""
    port = free_port()
    text = f"[front.default]\nautostart = true\nport = {port}\n[front.work]\n[front.x]\nautostart = true"
    await fresh(f"default_port = {port}\n{text}").reload()
    await world.until(lambda: {"front", "front/x"} == set(world.keeper.units))
    await world.until(lambda: world.proxy("front").state is State.READY)
    assert world.proxy("front").spec.port == port
    await world.commands.down("front/x", DownRequest())
    again = fresh(text)
    await again.reload()

    assert (world.proxy("front/x").state, again.warnings) == (State.STOPPED, [])


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("= =", "the configuration is not used, nothing was started by it: "),
        ('[proxies.a]\nmodel = "openrouter/x"\nautostart = true', "a was not started by the configuration: "),
    ],
)
async def test_autostart_that_cannot_is_a_warning(
    world: World,
    fresh: Callable[[str], Following],
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    warning: str,
) -> None:
    """The supervisor starts all the same."""
    monkeypatch.delenv("OPENROUTER_API_KEY", raising=False)
    following = fresh(text)
    await following.look_again()

    assert [line.startswith(warning) for line in following.warnings] == [True]
    assert world.log[-1].startswith(warning)


async def test_a_supervisor_that_stops_reloads_nothing(world: World, following: Following) -> None:
    world.commands.closing = True

    with pytest.raises(Fault, match="stopping"):
        await following.reload()
