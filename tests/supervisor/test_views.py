"""The words of `ps`."""

from __future__ import annotations

import attrs
import pytest
from fakes.story import SPEC, Story, spec

from modelproxy.supervisor import fleet, views
from modelproxy.supervisor.facts import Care, Proxy, State
from modelproxy.supervisor.tally import Tally
from modelproxy.worker.contract import EXIT_CONFIG

# A request of generation 1 had been running for 4m10s when the story began.
BUSY = {1: Tally(in_flight=2, oldest_since=-150.0), 2: Tally(in_flight=7)}


def words(story: Story) -> str:
    return views.describe(story.proxy, story.now, BUSY)


def crash_loop() -> Story:
    story = Story().serve()
    for generation in range(1, 6):
        story.die(generation)
        story.wait(20.0)
        story.born(generation + 1)
        story.ready(generation + 1)
    return story


def failed() -> Story:
    story = Story()
    story.up()
    story.die(1, "exit 78", EXIT_CONFIG)
    return story


def test_a_quiet_proxy_needs_no_words() -> None:
    story = Story()

    assert words(story) == ""
    story.serve()
    assert (words(story), views.health(story.proxy)) == ("", "ok")


def test_a_note_about_a_well_provider_stands_beside_ok() -> None:
    story = Story().serve()
    story(fleet.FeltWell(1, "window 4096 is too small for an agent"))
    assert views.health(story.proxy) == "ok; window 4096 is too small for an agent"
    story(fleet.FellIll(1, "refused"))
    assert views.health(story.proxy) == "refused"
    story(fleet.FeltWell(1))

    assert views.health(story.proxy) == "ok"


def test_idle_says_since_when_and_what_ends_it() -> None:
    story = Story()
    story(fleet.Up(SPEC, Care(lazy=True)))
    story.wait(250.0)

    assert words(story) == "idle for 4m10s (lazy)"
    assert views.forecast(story.proxy, story.now) == "the next connection starts a worker and waits for it"
    assert views.since(story.proxy) == 100.0
    stops = Story()
    stops(fleet.Up(SPEC, Care(idle_stop_s=900.0)))
    stops.born(1)
    stops.ready(1)
    stops.beat_for(60.0)
    assert (
        views.forecast(stops.proxy, stops.now)
        == "without a request it goes in 14m00s, until the next connection"
    )
    stops.beat_for(840.0)
    stops.die(1, "exit 0", 0)
    stops.wait(5.0)
    assert words(stops) == "idle for 5.0s (15m00s without a request)"


def test_a_debugger_is_named() -> None:
    """While it starts as well as afterwards."""
    story = Story()
    story.up()
    story.born(1)
    story.wait(20.0)
    story(fleet.Examined(1, traced=True, busy=False, detail="state t, idle"))
    assert words(story) == "starting 20s, traced by a debugger"
    story.ready(1)
    story.wait(11.0)
    story(fleet.Examined(1, traced=True, busy=False, detail="state t, idle"))

    assert words(story) == "traced by a debugger, silent 11s"


def test_what_a_worker_lacks_and_what_it_has_too_much_of() -> None:
    story = Story()
    story(fleet.Up(SPEC, Care(max_rss=2**20)))
    story.born(1)
    story.ready(1)
    story(fleet.Beaten(1, accepted=1, waiting=2, starved="Too many open files"))
    story.wait(3.0)
    assert words(story) == "degraded 3.0s: it can take no connection: Too many open files"
    assert views.forecast(story.proxy, story.now).startswith("new connections get 529 until it has room")
    story(fleet.Beaten(1, accepted=1, starved="Too many open files"))
    assert "Too many open files" in words(story)  # who came was sent away, so nobody waits
    story(fleet.Beaten(1, accepted=1))
    assert words(story) == ""
    story(fleet.Measured(1, 2**21))
    story.born(2)
    story.ready(2)
    story.die(1, "exit 0", 0)
    story(fleet.Measured(2, 2**21))

    assert words(story) == "2 MiB > 1 MiB again, replaced at most every 10 min: is --max-rss too small?"


def test_a_loop_that_beats_and_takes_nobody_in_is_said_before_it_is_judged() -> None:
    story = Story().serve()
    for _ in range(7):
        story(fleet.Beaten(1, accepted=1, waiting=3))
        story.wait(1.0)

    assert words(story) == "3 waiting, none taken for 6.0s"
    assert views.forecast(story.proxy, story.now) == "if it takes none for 10 s it is taken for hung"
    for _ in range(5):
        story(fleet.Beaten(1, accepted=1, waiting=3))
        story.wait(1.0)
    story(fleet.Examined(1, traced=False, busy=True, detail="state S, busy"))

    assert words(story) == "hung 11s (took no connection for 11 s, 3 waiting), kill in 1.0s"


def test_starting_says_for_how_long_and_what_was_before() -> None:
    story = Story()
    story.up()
    story.wait(0.3)
    assert (words(story), views.health(story.proxy)) == ("starting 0.3s (waits for its turn)", "-")
    story.born(1)
    assert words(story) == "starting 0.3s"
    story.die(1, "exit 1")
    story.wait(4.0)

    assert words(story) == "starting 3.8s (waits for its turn); last: exit 1 4.0s ago"


def test_a_roll_names_both_generations_and_who_drains() -> None:
    story = Story().serve()
    story(fleet.Restart(900.0))

    assert words(story) == "rolling g1->g2, g2 starting"
    story.born(2)
    story.ready(2)
    assert words(story) == "g1 drains 2 (oldest 4m10s), kill in 15m01s"
    story(fleet.Restart(900.0))
    story.born(3)
    assert words(story) == ("rolling g2->g3, g3 starting; g1 drains 2 (oldest 4m10s), kill in 15m01s")


def test_one_that_drains_and_is_silent_is_named() -> None:
    """Before it is looked at, and when it has been."""
    story = Story().serve()
    story(fleet.Restart(900.0))
    story.born(2)
    story.ready(2)
    story.wait(6.0)
    story(fleet.Beaten(2))

    assert words(story) == "g1 drains 2 (oldest 4m16s), silent 6.0s, kill in 14m55s"
    story.wait(4.0)
    story(fleet.Examined(1, traced=False, busy=False, detail="state T, idle"))
    story(fleet.Beaten(2))
    assert words(story) == "g1 is hung (state T, idle), kill in 1.0s"
    story(fleet.Down(900.0))
    assert words(story) == "draining 9 in flight (oldest 4m20s), kill in 15m01s; g1 is hung (state T, idle)"


def test_what_a_silent_one_that_drains_will_do_is_said() -> None:
    """It will not leave by itself, whether another one serves or none is wanted."""
    for goes, newcomers in ((fleet.Down(900.0), "; new connections are refused"), (fleet.Restart(900.0), "")):
        story = Story().serve()
        story(goes)
        if not newcomers:
            story.born(2)
            story.ready(2)
        story.wait(6.0)
        if not newcomers:
            story(fleet.Beaten(2))
        assert "g1 silent 6.0s" in words(story).replace("g1 drains 2 (oldest 4m16s), silent", "g1 silent")
        expected = "silent for 10 s, the process of the one that leaves is looked at"
        assert views.forecast(story.proxy, story.now) == expected + newcomers
        story.wait(4.0)
        story(fleet.Examined(1, traced=False, busy=False, detail="state T, idle"))
        if not newcomers:
            story(fleet.Beaten(2))
        expected = "the stacks of the threads of the one that hangs go to the log, then SIGKILL"
        assert views.forecast(story.proxy, story.now) == expected + newcomers


def test_what_hung_while_it_drained_is_not_the_proxy_s_last_death() -> None:
    story = Story().serve()
    story(fleet.Restart(900.0))
    story.born(2)
    story.ready(2)
    story.wait(10.1)
    story(fleet.Examined(1, traced=False, busy=False, detail="state T, idle"))
    story.die(2, "exit 1")
    story.die(1, "SIGABRT")

    assert [death.was_leaving for death in story.proxy.deaths] == [False, True]
    assert words(story).endswith("; last: exit 1 just now")


def test_a_failed_roll_is_said() -> None:
    story = Story().serve()
    story(fleet.Restart(900.0))
    story.die(2, "exit 1", 1)

    assert words(story) == "the roll failed, generation 1 goes on: exit 1"


def test_draining() -> None:
    story = Story().serve()
    story(fleet.Down(23.5))

    assert words(story) == "draining 2 in flight (oldest 4m10s), kill in 25s"
    story.wait(60.0)
    assert words(story).startswith("draining 2 in flight (oldest 5m10s), kill in 1.")


def test_two_that_drain_are_counted_together_and_have_until_the_later_end() -> None:
    story = Story().serve()
    story(fleet.Restart(900.0))
    story.born(2)
    story.ready(2)
    story(fleet.Down(10.0))

    assert words(story) == "draining 9 in flight (oldest 4m10s), kill in 11s"


def test_degraded_says_why_and_for_how_long() -> None:
    """The words may change, the trouble goes on."""
    story = Story().serve()
    story(fleet.FellIll(1, "no answer within 2.5s"))
    story.beat_for(9.0)
    story(fleet.FellIll(1, "cannot connect to Ollama"))
    story.beat_for(3.0)

    assert words(story) == "degraded 12s: cannot connect to Ollama"
    assert views.health(story.proxy) == "cannot connect to Ollama"
    story(fleet.FeltWell(1))
    assert (words(story), views.health(story.proxy)) == ("", "ok")
    story(fleet.FellIll(1, "again"))
    assert words(story) == "degraded: again"


def test_a_heart_that_misses_beats_is_said_before_it_is_judged() -> None:
    story = Story().serve()
    story.wait(6.0)

    assert words(story) == "silent 6.0s"
    assert views.forecast(story.proxy, story.now) == "silent for 10 s, its process is looked at"


def test_hung_says_for_how_long_and_what_comes() -> None:
    story = Story().serve()
    story.wait(11.0)
    story(fleet.Examined(1, traced=False, busy=False, detail="state T, idle"))

    assert (words(story), views.health(story.proxy)) == ("hung 11s (state T, idle), kill in 1.0s", "hung")


def test_backoff_says_what_comes_next() -> None:
    story = Story().serve()
    story.die(1)
    story.wait(0.125)

    assert words(story) == "backoff 1, next in 0.1s; last: SIGKILL 0.1s ago"


def test_backoff_for_want_of_a_process_names_the_system() -> None:
    story = Story()
    story.up()
    story(fleet.SpawnFailed(1, "cannot start python: Cannot allocate memory"))

    assert words(story) == "backoff 1, next in 1.0s; cannot start python: Cannot allocate memory"


def test_a_worker_of_another_version_says_so_until_it_is_replaced() -> None:
    story = Story(Proxy(SPEC.name, SPEC, wanted=True, generation=1))
    story(fleet.Recall(1, 4001))
    story(fleet.Dialled(1, 4001, serving=True, draining=False, spec=SPEC, outdated="0.0.9"))
    assert words(story) == "runs 0.0.9, replaced when its turn comes"

    story(fleet.Renew())
    story.born(2)
    story.die(2, "exit 7", 7)
    assert words(story) == "the roll failed, generation 1 goes on: exit 7; runs 0.0.9"


def test_a_crash_loop_is_called_one() -> None:
    story = crash_loop()

    assert words(story) == "crash-loop"
    assert views.remedy(story.proxy, story.now) == "proxyctl logs echo/demo -n 200"


def test_failed_says_what_helps() -> None:
    story = failed()

    assert words(story) == (
        "failed: exit 78: the configuration cannot work; fix it, then proxyctl up echo/demo"
    )


def test_a_lost_key_is_asked_for_once() -> None:
    story = Story(Proxy(SPEC.name, SPEC, wanted=True, generation=2, key_lost=True))
    story(fleet.Begin())

    assert words(story) == (
        "failed: its key was given by flag and died with it; repeat proxyctl up echo/demo --api-key …"
    )
    assert views.remedy(story.proxy, story.now) == "proxyctl up echo/demo --api-key -"


def test_what_was_sought_in_vain_is_sought_again() -> None:
    """No key has to be typed."""
    story = Story(Proxy(SPEC.name, SPEC, wanted=True, generation=2, key_lost=True, key_sought=True))
    story(fleet.Begin())
    story(fleet.KeySought(None, "config.toml:3: no"))

    assert words(story) == "failed: config.toml:3: no; fix it, then proxyctl up echo/demo"
    assert views.forecast(story.proxy, story.now).startswith(
        "when the configuration changes it is asked again; "
    )
    assert views.remedy(story.proxy, story.now) == "proxyctl up echo/demo"


def test_the_command_means_this_very_proxy() -> None:
    """A model's second proxy is told from its first by the port; a stopped one would get another port."""
    second = Story(Proxy("echo/demo@3458", spec(name="echo/demo@3458", port=3458)))
    second.up()
    assert views.again(second.proxy) == "proxyctl up echo/demo --port 3458"

    assert views.again(Story().proxy) == "proxyctl up echo/demo --port 3457"


def test_adopting_names_who_is_awaited() -> None:
    story = Story(Proxy(SPEC.name, SPEC, wanted=True, generation=2))
    story(fleet.Recall(1, None))
    assert words(story) == "adopting"
    story(fleet.Recall(2, 4242))

    assert words(story) == "adopting: waiting for pid 4242 to dial"
    assert views.forecast(story.proxy, story.now) == "if it has not dialled in 3.0s it is replaced"
    story(fleet.Down(1.0))
    story.die(2)
    assert (story.state(), words(story)) == (State.DRAINING, "draining: waiting for what may still dial")


# --- what comes, and what helps --------------------------------------------------------------------


def test_what_comes_after_each_state() -> None:
    """In the order of a life."""
    story = Story()
    told = []

    def tell() -> None:
        told.append((str(story.state()), views.forecast(story.proxy, story.now)))

    tell()
    story.up()
    tell()
    story.born(1)
    tell()
    story.ready(1)
    tell()
    story(fleet.FellIll(1, "refused"))
    tell()
    story(fleet.FeltWell(1))
    story(fleet.Restart(900.0))
    story.born(2)
    tell()
    story.ready(2)
    tell()
    story.die(1)
    story.wait(11.0)
    story(fleet.Examined(2, traced=False, busy=False, detail="state T, idle"))
    tell()
    story.die(2)
    tell()
    story.born(3)
    story.ready(3)
    tell()
    story(fleet.Down(30.0))
    tell()

    assert told == [
        ("stopped", "nothing: it is not wanted; connections are refused"),
        ("starting", "it starts as soon as other starts have made room; connections wait"),
        ("starting", "if it is not ready in 20s it is killed; connections wait"),
        ("ready", ""),
        (
            "degraded",
            "the worker goes on looking at its provider; it is not restarted, for that would not help",
        ),
        ("rolling", "if the new worker is ready within 20s, the old one drains; if not, the old one stays"),
        ("ready", "the older worker leaves when its requests are finished"),
        ("hung", "the stacks of its threads go to the log, then SIGKILL and a new worker; connections wait"),
        ("starting", "it starts as soon as other starts have made room; connections wait"),
        ("ready", "its deaths are forgotten in 1m00s if it stays ready"),
        ("draining", "when its requests are finished it leaves; new connections are refused"),
    ]


def test_in_a_short_pause_clients_wait() -> None:
    story = Story().serve()
    story.die(1)

    assert views.forecast(story.proxy, story.now) == "the next start is in 0.2s; until then connections wait"


def test_in_a_long_pause_clients_are_told() -> None:
    story = crash_loop()
    story.die(6)

    assert views.forecast(story.proxy, story.now) == (
        "the next start is in 8.0s; until then clients get 503 with retry-after"
    )
    assert views.remedy(story.proxy, story.now) == "proxyctl restart echo/demo"


def test_a_failed_one_waits_for_a_person() -> None:
    story = failed()

    assert views.forecast(story.proxy, story.now) == (
        "nothing by itself; clients get 503 with x-should-retry: false and this reason"
    )
    assert views.remedy(story.proxy, story.now) == "proxyctl up echo/demo"


def test_a_drain_can_be_cut_short_and_a_well_proxy_needs_nothing() -> None:
    story = Story().serve()
    assert views.remedy(story.proxy, story.now) == ""
    story(fleet.Down(30.0))

    assert views.remedy(story.proxy, story.now) == "proxyctl down echo/demo --grace 0"


# --- for programs ----------------------------------------------------------------------------------


def test_since_is_when_it_became_so() -> None:
    story = Story()
    assert views.since(story.proxy) is None
    story.wait(7.0)
    story.serve()
    began = story.now
    story.beat_for(4.0)
    assert views.since(story.proxy) == began
    story(fleet.FellIll(1, "refused"))
    ill = story.now
    story.beat_for(4.0)
    assert views.since(story.proxy) == ill
    story.die(1)
    died = story.now
    story.wait(0.1)

    assert (story.state(), views.since(story.proxy)) == (State.BACKOFF, died)


def test_deaths_say_how_long_each_had_lived() -> None:
    story = Story().serve()
    story.beat_for(8.0)
    story.die(1)
    story.wait(0.5)
    story.born(2)
    story.wait(0.2)
    story.die(2, "exit 1")

    stayed = {"was_leaving": False}
    assert views.deaths(story.proxy, lambda at: round(at - 100.0, 3)) == [
        {"at": 8.0, "cause": "SIGKILL", "generation": 1, "pid": 4001, "was_ready": True, "lived_s": 8.0}
        | stayed,
        {"at": 8.7, "cause": "exit 1", "generation": 2, "pid": 4002, "was_ready": False, "lived_s": 0.45}
        | stayed,
    ]


def test_every_process_is_listed_with_what_it_does() -> None:
    story = Story().serve()
    story(fleet.Restart(900.0))
    story.born(2)
    story.ready(2)
    story.wait(1.0)
    found = views.workers(story.proxy, story.now, BUSY, lambda at: at)

    assert [(one["generation"], one["pid"], one["phase"]) for one in found] == [
        (1, 4001, "draining"),
        (2, 4002, "ready"),
    ]
    assert found[0] == {
        "generation": 1,
        "pid": 4001,
        "phase": "draining",
        "since": 100.0,
        "requests": 0,
        "in_flight": 2,
        "oldest_s": 251.0,
        "silent_s": 1.0,
        "kill_in_s": 900.5,
    }


def test_every_state_has_words() -> None:
    assert set(views._WORDS) == set(views._NEXT) == set(State)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("coder", "proxyctl up coder"),
        ("coder@3458", "proxyctl up coder --port 3457"),
        ("echo/demo", "proxyctl up echo/demo"),
        ("echo/demo@3458", "proxyctl up echo/demo --port 3457"),
    ],
)
def test_the_command_that_means_this_very_proxy(name: str, command: str) -> None:
    """`up` of the model would make another one beside a proxy that has a name of its own."""
    proxy = Story().serve().proxy

    named = attrs.evolve(proxy, name=name, spec=attrs.evolve(proxy.spec, name=name))

    assert views.again(named) == command
