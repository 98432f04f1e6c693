"""The real opencode, which reads no base URL but a configuration."""

from __future__ import annotations

import json

import pytest

from .conftest import REAL_KEY, Desk
from .dialogue import call

pytestmark = [pytest.mark.slow, pytest.mark.clients]

MODEL = "ollama/codellama"


def test_it_uses_tools_on_a_model(desk: Desk, opencode: str) -> None:
    order = "do" + call("bash", command="echo from-the-tool > made.txt; cat made.txt", description="x")
    done = desk.run("proxyctl", "run", "--port", "0", MODEL, "--", opencode, "run", said=order)

    assert "fo got: from-the-tool" in done.stdout, done
    assert (desk.folder / "made.txt").read_text() == "from-the-tool\n"
    [session] = {row["session_id"] for row in desk.estate.usage()[-2:]}
    assert session.startswith("ses_")


def test_by_a_file_and_an_access_token(desk: Desk, opencode: str) -> None:
    """The file names the variable of the token; whoever has it is served, and nobody else."""
    house = desk.estate.house
    token = house.tell("tokens", "add", "me", "--json")["token"]
    assert house.command("config", "set", "require_token", "true").returncode == 0
    try:
        printed = desk.run("proxyctl", "env", MODEL, "--port", "0", "--for", "opencode")
        (desk.folder / "opencode.json").write_text(printed.stdout)
        done = desk.run(opencode, "run", "hello", MODELPROXY_TOKEN=token)
    finally:
        house.command("config", "unset", "require_token")

    assert "MODELPROXY_TOKEN is not set" in printed.stderr
    assert token not in printed.stdout
    assert "fo said" in done.stdout, done


def test_through_the_front_it_is_itself(desk: Desk, opencode: str) -> None:
    """Its own credential and its own model, and what it asks for is seen to come through."""
    words = ("--", opencode, "run", "-m", "anthropic/claude-sonnet-4-5", "hello")
    done = desk.run("proxyctl", "run", "--port", "0", *words)
    [asked] = [seen for seen in desk.estate.fa.asked if json.loads(seen.body).get("tools")]

    assert "fa said" in done.stdout, done
    assert asked.headers["x-api-key"] == REAL_KEY
    assert ("front>anthropic", None) in desk.routes(2)
