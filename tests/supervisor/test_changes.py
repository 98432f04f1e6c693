"""What follows a changed file: what runs as the file said, and nothing that was said by flag."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from modelproxy.supervisor import routes
from modelproxy.supervisor.changes import cared, followed
from modelproxy.supervisor.config import parse
from modelproxy.supervisor.facts import Care
from modelproxy.worker.contract import WorkerSpec

OLD = """
aliases = { local = "ollama/one" }
[providers.ollama]
base_url = "http://old"
retries = 1
[proxies.coder]
model = "local"
grace = "5s"
max_concurrent = 2
fallback = ["openrouter/x"]
"""


def order(text: str) -> WorkerSpec:
    config = parse(text)
    return routes.order(routes.resolve("coder", config), config)


WAS = order(OLD)
RUNNING = attrs.evolve(
    WAS, port=4000, api_key="k", fallback=[attrs.evolve(target, api_key="fk") for target in WAS.fallback]
)


def test_no_change_changes_nothing() -> None:
    assert followed(RUNNING, WAS, WAS) == RUNNING


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("http://old", "http://new"),
        ("retries = 1", "retries = 2"),
        ('grace = "5s"', 'grace = "6s"'),
        ("max_concurrent = 2", "max_concurrent = 3"),
        ("max_concurrent = 2", ""),
        ('fallback = ["openrouter/x"]', "fallback = []"),
        ("retries = 1", 'think = { "one" = false }'),
        ('model = "local"', 'model = "local"\nhold = "3s"'),
    ],
)
def test_what_runs_as_the_file_said_follows_it(old: str, new: str) -> None:
    """And what is not the file's stays: name, port, key."""
    now = order(OLD.replace(old, new))
    found = followed(RUNNING, WAS, now)

    assert attrs.evolve(found, api_key=None, port=0).without_secrets() == now
    assert (found.port, found.api_key) == (4000, "k")


@pytest.mark.parametrize("field", ["base_url", "grace_s"])
def test_what_was_said_by_flag_stays(field: str) -> None:
    said: Any = {"base_url": "http://flag", "grace_s": 1.0}[field]
    now = order(OLD.replace("http://old", "http://new").replace("5s", "6s"))
    found = followed(attrs.evolve(RUNNING, **{field: said}), WAS, now)

    assert getattr(found, field) == said


def test_limits_of_the_moment_stay_one_by_one() -> None:
    running = attrs.evolve(RUNNING, quota=attrs.evolve(RUNNING.quota, max_concurrent=9))
    now = order(OLD.replace("max_concurrent = 2", "max_concurrent = 3\nrpm = 60"))

    assert attrs.astuple(followed(running, WAS, now).quota)[:2] == (9, 60)


def test_another_model_takes_all_of_its_own() -> None:
    """The key of the old provider goes nowhere else."""
    now = order(OLD.replace('local = "ollama/one"', 'local = "openrouter/two"'))
    found = followed(attrs.evolve(RUNNING, base_url="http://flag"), WAS, now)

    assert (found.model_id, found.base_url, found.api_key) == ("openrouter/two", now.base_url, None)
    assert found.port == 4000


@pytest.mark.parametrize("fallback", [[], ["work/b"]], ids=["its own", "its target's"])
def test_the_value_of_a_header_follows_the_file_and_one_that_a_project_said_stays(
    fallback: list[str],
) -> None:
    text = """
[providers.work]
kind = "openai"
base_url = "http://work"
headers = { "x-team" = "blue" }
[proxies.coder]
model = "%s"
fallback = %s
""" % ("echo/x" if fallback else "work/a", fallback)  # noqa: UP031  # the braces are TOML's
    was, now = order(text), order(text.replace("blue", "green"))
    spec = attrs.evolve(was, fallback=[attrs.evolve(target, api_key="fk") for target in was.fallback])
    found = followed(spec, was, now)
    assert found.places[-1].options.headers == {"x-team": "green"}
    assert found.keys == spec.keys

    red = attrs.evolve(spec.places[-1].options, headers={"x-team": "red"})
    if fallback:
        spec = attrs.evolve(spec, fallback=[attrs.evolve(spec.fallback[0], options=red)])
    else:
        spec = attrs.evolve(spec, options=red)
    assert followed(spec, was, now) == spec


def test_targets_that_stay_keep_their_keys() -> None:
    now = order(OLD.replace('["openrouter/x"]', '["openrouter/x", "ollama/y"]'))

    assert [target.api_key for target in followed(RUNNING, WAS, now).fallback] == ["fk", None]


def test_the_same_for_the_care() -> None:
    was, now = Care(idle_stop_s=60.0), Care(idle_stop_s=90.0, lazy=True)

    assert cared(was, was, now) == now
    assert cared(Care(idle_stop_s=5.0), was, now) == Care(idle_stop_s=5.0, lazy=True)
