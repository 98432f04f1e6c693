"""How a provider is, in `ps` (S121): the worker looks by itself, and nothing is restarted for it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from fakes.house import House, get

from .providers import Estate, Ollama, estate, msg, post

pytestmark = pytest.mark.slow

MODEL = "ollama/bad-nervous"
"""Its interval is 0.3 s instead of 30."""


@pytest.fixture
def home() -> Iterator[Estate]:
    """Its Ollama is looked at all the time, its OpenRouter is the fake one."""
    config = '[providers.ollama]\nbase_url = "{fo}"\n[providers.openrouter]\nbase_url = "{fr}"\napi_key = "sk-or-x"\n'
    with estate(config, bad_workers=True) as found:
        found.fo.models = ["bad-nervous"]
        yield found


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
    assert re.match(r"degraded( \d+\.\ds)?: Ollama is not reachable", ill["detail"])
    assert ill["since"] >= row["started_at"]
    assert re.search(r"degraded( \d+\.\ds)?: Ollama is not reachable .* ill ", table)
    assert re.search(r"^  \S+  ill  Ollama is not reachable", page, re.MULTILINE)
    assert vital.status == 503
    assert (well["health"], well["detail"]) == ("ok", "")
    assert (ill["pid"], well["pid"]) == (row["pid"], row["pid"])
    assert (well["restarts"], well["deaths"]) == (0, [])
    assert told.index("up") < told.index("ill") < len(told) - 1 - told[::-1].index("well")


def test_a_proxy_whose_fallback_works_is_degraded_and_healthy(home: Estate) -> None:
    """`/health` says which target serves and how each is; `ps` says it in words; 503 only when none works."""
    port, house = home.up(MODEL, "--fallback", "openrouter/a/b"), home.house
    well = get(port, "/health")
    home.fo.stop()
    assert post(port, msg()).headers["x-proxy-fallback"] == "openrouter/a/b"
    row = house.wait_row(lambda row: "refused, served by" in row["health"], MODEL)
    helped, up = get(port, "/health"), house.command("up", MODEL)
    home.fr.stop()
    ill = house.wait_row(lambda row: "no fallback works either" in row["health"], MODEL)
    none = get(port, "/health")
    home.fo.start()
    house.wait_row(lambda row: row["state"] == "ready", MODEL)
    again = get(port, "/health")

    assert [(one.status, one.json["healthy"], one.json["status"]) for one in (well, helped, none, again)] == [
        (200, True, "ok"),
        (200, True, "degraded"),
        (503, False, "degraded"),
        (200, True, "ok"),
    ]
    assert row["health"] == "ollama refused, served by openrouter/a/b"
    assert re.match(r"degraded( \S+)?: ollama refused, served by openrouter/a/b$", row["detail"])
    first, second = helped.json["targets"]
    assert (first["ok"], first["serves"], first["cause"]) == (False, False, "refused")
    assert "`ollama serve`" in first["detail"]
    assert (second["ok"], second["serves"], helped.json["served_by"]) == (True, True, "openrouter/a/b")
    assert "openrouter/a/b serves in its place" in up.stderr
    assert "`ollama serve`; no fallback works either" in ill["health"]
