"""What the groups of commands have in common."""

from __future__ import annotations

import pytest
from fakes.house import House
from typer.testing import CliRunner

from modelproxy.ctl import apps


def test_a_group_alone_says_what_it_has() -> None:
    app = apps.group()

    @app.command()
    def one(json: apps.Json = False) -> None:
        """The first."""

    @app.command()
    def two() -> None:
        """The second."""

    said = CliRunner().invoke(app, [])
    assert "The first." in said.output
    assert "The second." in said.output
    assert "--json" in CliRunner().invoke(app, ["one", "--help"]).output


def test_who_sets_what_another_says_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with House() as house:
        for name, value in house.env.items():
            monkeypatch.setenv(name, value)
        apps.tell_who_goes_before(("default_port",))
        assert capsys.readouterr().err == ""
        monkeypatch.setenv("MODELPROXY_DEFAULT_PORT", "4000")
        apps.tell_who_goes_before(("default_port",))

    assert "MODELPROXY_DEFAULT_PORT" in capsys.readouterr().err
