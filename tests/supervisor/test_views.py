"""The words of `ps`."""

from __future__ import annotations

import pytest
from fakes.story import SPEC, Story

from modelproxy.supervisor import fleet, views
from modelproxy.supervisor.facts import Proxy, State
from modelproxy.supervisor.views import Tally
from modelproxy.worker.contract import EXIT_CONFIG

BUSY = {1: Tally(in_flight=2), 2: Tally(in_flight=7)}


def words(story: Story) -> str:
    return views.describe(story.proxy, story.now, BUSY)


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


def test_starting_says_for_how_long_and_what_was_before() -> None:
    story = Story()
    story.up()
    story.wait(0.3)
    assert (words(story), views.health(story.proxy)) == ("starting 0.3s", "-")
    story.die(1, "exit 1")
    story.wait(4.0)

    assert words(story) == "starting 3.8s; last: exit 1 4.0s ago"


def test_a_roll_names_both_generations_and_who_drains() -> None:
    story = Story().serve()
    story(fleet.Restart(900.0))

    assert words(story) == "rolling g1->g2"
    story.born(2)
    story.ready(2)
    assert words(story) == "draining g1: 2 in flight, kill in 15m01s"


def test_a_failed_roll_is_said() -> None:
    story = Story().serve()
    story(fleet.Restart(900.0))
    story.die(2, "exit 1", 1)

    assert words(story) == "the roll failed, generation 1 goes on: exit 1"


def test_draining() -> None:
    story = Story().serve()
    story(fleet.Down(23.5))

    assert words(story) == "draining g1: 2 in flight, kill in 25s"
    story.wait(60.0)
    assert words(story).startswith("draining g1: 2 in flight, kill in 1.")


def test_degraded_says_why() -> None:
    story = Story().serve()
    story(fleet.FellIll(1, "cannot connect to Ollama"))

    assert words(story) == "degraded: cannot connect to Ollama"
    assert views.health(story.proxy) == "cannot connect to Ollama"


def test_hung_says_for_how_long() -> None:
    story = Story().serve()
    story.wait(11.0)
    story(fleet.Examined(1, traced=False, busy=False, detail="state T, idle"))

    assert (words(story), views.health(story.proxy)) == ("hung 11s (state T, idle)", "hung")


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


def test_a_crash_loop_is_called_one() -> None:
    story = Story().serve()
    for generation in range(1, 6):
        story.die(generation)
        story.wait(20.0)
        story.born(generation + 1)
        story.ready(generation + 1)

    assert words(story) == "crash-loop"


def test_failed_says_what_helps() -> None:
    story = Story()
    story.up()
    story.die(1, "exit 78", EXIT_CONFIG)

    assert words(story) == (
        "failed: exit 78: the configuration cannot work; fix it, then proxyctl up echo/demo"
    )


def test_adopting_names_who_is_awaited() -> None:
    story = Story(Proxy(SPEC.name, SPEC, wanted=True, generation=2))
    story(fleet.Recall(1, None))
    assert words(story) == "adopting"
    story(fleet.Recall(2, 4242))

    assert words(story) == "adopting: waiting for pid 4242 to dial"
    story(fleet.Down(1.0))
    story.die(2)
    assert (story.state(), words(story)) == (State.DRAINING, "waiting for what may still dial")


def test_every_state_has_words() -> None:
    assert set(views._WORDS) == set(State)


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (0.0, "0.0s"),
        (0.34, "0.3s"),
        (9.96, "10.0s"),
        (12.9, "12s"),
        (59.9, "59s"),
        (250.0, "4m10s"),
        (3599.9, "59m59s"),
        (7500.0, "2h05m"),
        (360000.0, "100h00m"),
    ],
)
def test_spans_as_a_person_says_them(span: float, text: str) -> None:
    assert views.seconds(span) == text
