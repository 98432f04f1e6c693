"""`proxyctl costs`: what the ledger adds up to, from the supervisor or, without one, from the file itself.

By route, what could have been asked and was not is a row too. A session that is thought to use a local model and
does not is seen by nothing else: no request fails, and what is missing leaves no row in any ledger.
"""

from __future__ import annotations

from typing import Any

import attrs

from modelproxy.supervisor.paths import Paths
from modelproxy.worker import costs as sums

from . import offline, render, usage
from .faults import EXIT_OK, say, say_json, talk
from .ps import width


def costs(paths: Paths, by: str, *, age_s: float | None, as_json: bool) -> int:
    """Print the sums of what is no older than `age_s`."""
    since = usage.oldest(age_s)
    groups = usage.answered(
        paths, f"/v1/costs?since={since:.3f}&by={by}", lambda: _from_file(paths, by, since)
    )
    if len(groups) >= sums.MOST_GROUPS:
        talk(f"only the {sums.MOST_GROUPS} dearest are shown; --since asks for less")
    if by == "route":
        groups += idle(groups, _ways(paths))
    if as_json:
        say_json(groups)
    else:
        say(render.costs(list(sums.KEYS[by]), groups, sums.total(groups), width()))
    return EXIT_OK


def _from_file(paths: Paths, by: str, since: float) -> list[dict[str, Any]]:
    with usage.readable():
        return sums.read(str(paths.ledger), by=by, since=since)


@attrs.frozen
class Way:
    """Where a request can go, in the ledger's words."""

    route: str
    model: str
    """Who answers there, unless it falls back."""
    front: str | None
    """None: straight to the proxy."""
    up: bool


def _ways(paths: Paths) -> list[Way]:
    """From the supervisor's file, which says it whether one runs or not. A garbled one hides no costs."""
    views, _ = offline.views(paths, everything=True)
    doors, found = offline.places(paths), []
    for view in views:
        name, up = view["name"], bool(view["wanted"] or view["pid"])
        led = doors.get(name, {}).items()
        found += [Way(f"{name}>{place}", model, name, up) for place, model in led]
        if name not in doors:
            found.append(Way(str(view["model"]), str(view["model"]), None, up))
    return found


def idle(groups: list[dict[str, Any]], ways: list[Way]) -> list[dict[str, Any]]:
    """What is up, or a front that was used leads to, and nobody has reached: as groups of nothing. Pure.

    A proxy that a front leads to, or that was reached otherwise, is not named once more for its own port.
    """
    reached = {(group["route"], group["model"]) for group in groups}
    used = {route.partition(">")[0] for route, _ in reached if ">" in route}
    leading = [way for way in ways if way.front is not None and (way.up or way.front in used)]
    known = {way.model for way in leading} | {model for _, model in reached}
    straight = [way for way in ways if way.front is None and way.up and way.model not in known]
    missing = dict.fromkeys((way.route, way.model) for way in (*leading, *straight))
    return [
        sums.nothing(route=route, model=model) for route, model in missing if (route, model) not in reached
    ]
