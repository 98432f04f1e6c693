"""`proxyctl tokens` explains itself, and tells the supervisor. What it does: test_tokens.py."""

from __future__ import annotations

import pytest
from fakes.control import Control, fault
from fakes.terminal import Run

RELOAD = "POST /v1/daemon/reload"


@pytest.mark.parametrize("command", ["add", "remove", "list"])
def test_help_with_examples(run: Run, command: str) -> None:
    ran = run("tokens", command, "--help")

    assert ran.code == 0
    assert "Examples:" in ran.out


def test_proxies_that_run_know_it_at_once(run: Run, control: Control) -> None:
    control.replies[RELOAD] = (200, {"changed": [], "warnings": []})
    assert run("tokens", "add", "ci").err.count("warning") == 0
    assert run("tokens", "remove", "ci").code == 0

    assert control.paths_asked == [f"{RELOAD}?soon=1"] * 2


def test_a_list_of_none_says_so(run: Run) -> None:
    ran = run("tokens", "list")

    assert (ran.code, ran.out, ran.err) == (0, "", "there is no token; proxyctl tokens add NAME\n")
    assert run("tokens", "list", "--json").json == []


def test_a_supervisor_that_does_not_listen_is_told_of(run: Run, control: Control) -> None:
    """The token is made all the same."""
    control.replies[RELOAD] = fault(400, "bad_config", "line 3: rubbish")
    ran = run("tokens", "add", "ci")

    assert ran.out.startswith("mp-")
    assert "warning: proxies that run do not know it yet: line 3: rubbish" in ran.err
    assert "may still take it: line 3: rubbish" in run("tokens", "remove", "ci").err
