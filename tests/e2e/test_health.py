"""How a provider is, in `ps` (S121): the worker looks by itself, and nothing is restarted for it."""

from __future__ import annotations

import re

import pytest
from fakes.house import House, get

from .providers import Ollama

pytestmark = pytest.mark.slow

MODEL = "ollama/bad-nervous"
"""Its interval is 0.3 s instead of 30."""


def test_s121_ps_follows_a_provider_that_stops_and_starts(house: House) -> None:
    """Without a request, a question or a restart. Told on its way: since when, the events, and the page."""
    house.start(bad_workers=True)
    with Ollama() as provider:
        provider.models = ["bad-nervous"]
        row = house.up(MODEL, base_url=provider.base)
        house.wait_row(lambda row: row["health"] == "ok" and row["state"] == "ready", MODEL)
        provider.stop()
        ill = house.wait_row(lambda row: row["state"] == "degraded", MODEL)
        table, page = house.command("ps").stdout, house.command("why", MODEL).stdout
        vital = get(row["port"], "/health")
        provider.start()
        well = house.wait_row(lambda row: row["state"] == "ready", MODEL)
        told = [event["kind"] for event in house.tell("why", MODEL, "--json")["events"]]

    assert f"Ollama is not reachable at {provider.base}" in ill["health"]
    assert re.match(r"degraded \d+\.\ds: Ollama is not reachable", ill["detail"])
    assert ill["since"] >= row["started_at"]
    assert re.search(r"degraded \d+\.\ds: Ollama is not reachable .* ill ", table)
    assert re.search(r"^  \S+  ill  Ollama is not reachable", page, re.MULTILINE)
    assert vital.status == 503
    assert (well["health"], well["detail"]) == ("ok", "")
    assert (ill["pid"], well["pid"]) == (row["pid"], row["pid"])
    assert (well["restarts"], well["deaths"]) == (0, [])
    assert told.index("up") < told.index("ill") < len(told) - 1 - told[::-1].index("well")
