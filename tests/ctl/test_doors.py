"""Which front door a name means, and which model it is asked for."""

from __future__ import annotations

import pytest

from modelproxy.ctl import doors, settings
from modelproxy.ctl.faults import Fault
from modelproxy.supervisor.paths import Paths

CONFIG = """
aliases = { local = "echo/x" }
[front.work]
otherwise = "local"
[front.plain]
"""


def configured(paths: Paths, text: str) -> settings.Settings:
    paths.config.mkdir(parents=True)
    paths.config_file.write_text(text)
    return settings.read(paths)


def test_the_table_that_a_name_means(paths: Paths) -> None:
    found = configured(paths, CONFIG)
    names = ("front", "front/default", "front/work", "front/nosuch", "local", "echo/front")

    assert [doors.table_of(found, name) for name in names] == ["default", "default", "work", None, None, None]


@pytest.mark.parametrize("config", ['aliases.front = "echo/x"', 'proxies.front.model = "echo/x"'])
def test_what_the_user_calls_front_is_no_door(paths: Paths, config: str) -> None:
    found = configured(paths, config)

    assert doors.table_of(found, "front") is None
    assert doors.model_for(found, "front", None) is None


def test_the_model_that_is_asked_for(paths: Paths) -> None:
    """What is said, else where the door leads to a model of ours; other proxies have their own."""
    found = configured(paths, CONFIG)

    assert doors.model_for(found, "front", "claude-sonnet-4-5") == "claude-sonnet-4-5"
    assert doors.model_for(found, "front/work", None) == "local"
    assert doors.model_for(found, "echo/x", None) is None
    assert doors.otherwise(found, "plain") == doors.otherwise(found, "default") == "anthropic"
    for door in ("front", "front/plain"):
        with pytest.raises(Fault, match="goes by the model"):
            doors.model_for(found, door, None)


def test_a_default_that_names_no_model_is_not_called_missing(paths: Paths) -> None:
    found = configured(paths, 'models.default = "claude"')

    with pytest.raises(Fault, match='= "claude" leaves that to whoever asks'):
        doors.model_for(found, "front", None)


def test_a_default_may_stand_in_what_cannot_be_read(paths: Paths) -> None:
    found = configured(paths, 'models.default = "nosuch"')

    with pytest.raises(Fault) as caught:
        doors.model_for(found, "front", None)
    assert caught.value.code == "bad_config"
