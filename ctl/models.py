"""Names of models and the providers behind them: `proxyctl models`."""

from __future__ import annotations

import http.client
import json
import os
import time
from typing import Any

import attrs

from modelproxy.supervisor import aliases
from modelproxy.supervisor.config import Provider
from modelproxy.supervisor.paths import Paths
from modelproxy.supervisor.schema import NATIVE
from modelproxy.worker.model_ids import REMOTE, parted

from . import discovered, doors, far, health, settings
from .agents import proxies
from .config_view import configured, provider_table
from .environment import to_set
from .faults import Fault, usage
from .keys import mask
from .listing import ask, in_words, key_of, worth_asking
from .names import FRONT
from .probe import headers

TEST_PATIENCE_S = 300.0


# --- names ------------------------------------------------------------------------------------------------


def resolve(paths: Paths, name: str) -> tuple[dict[str, Any], Fault | None]:
    """What a name means here, and who says so; the fault of one that means nothing."""
    found = settings.read(paths)
    if found.wrong:
        raise settings.bad_config(found.wrong)
    door = doors.table_of(found, name)
    if door is not None:
        return _door(paths, found, name, door), None
    names, named = found.table("aliases"), found.table("proxies")
    resolved = aliases.resolve(name, names, provider_table(found))
    proxy = named.get(name) if "/" not in name else None
    if proxy is not None:
        resolved = aliases.resolve(proxy["model"], names, provider_table(found))
        assert resolved is not None  # validation let it pass
        return {"requested": name, "resolved": resolved.model_id, "source": "config", "proxy": name}, None
    if resolved is not None:
        return {"requested": name, "resolved": resolved.model_id, "source": resolved.source}, None
    found.refuse_withheld(name)
    unknown: dict[str, Any] = {"requested": name, "resolved": None, "source": None}
    if name in NATIVE or name in found.table("models", "agents"):
        return unknown, _unresolved(paths, name, found, None)
    seen = discovered.seek(paths, found, name)
    if seen is None or not seen.matches:
        return unknown, _unresolved(paths, name, found, seen)
    if len(seen.matches) > 1:
        return unknown, discovered.ambiguous(name, seen.matches)
    [model_id] = seen.matches
    by = parted(model_id)[0]
    source = "server" if by.partition("/")[0] == REMOTE else "provider"
    return {"requested": name, "resolved": model_id, "source": source, "provider": by}, None


def _door(paths: Paths, found: settings.Settings, name: str, table: str) -> dict[str, Any]:
    """What a front is instead of a model."""
    called = doors.said(table)
    return {
        "requested": name,
        "resolved": f"{FRONT}/{table}",
        "source": "config" if table in found.table("front") else "exact",
        "proxy": called,
        "otherwise": doors.otherwise(found, table),
        "port": next((row["port"] for row in _running(paths) if row["name"] == called), None),
    }


def _unresolved(paths: Paths, name: str, found: settings.Settings, seen: discovered.Seen | None) -> Fault:
    """Why a name means nothing, and what its user may have meant."""
    if name in NATIVE:
        words = f'"{name}" is an agent\'s own model, without a proxy'
        return Fault(
            "unknown_model", words, "for a proxy before Anthropic: anthropic/MODEL, or proxyctl up front"
        )
    provider, model = parted(name)
    if provider and model:
        return _unsupported(paths, provider, list(provider_table(found)))
    known = [*found.table("aliases"), *found.table("proxies"), *(row["model"] for row in _running(paths))]
    known += seen.known if seen is not None else ()
    hint = "Expected: provider/model-name, an alias, or a proxy"
    if name in found.table("models", "agents"):
        hint = f"it is the name of an agent: proxyctl agents resolve {name}"
    elif seen is not None:
        hint = "; ".join((hint, *seen.silent))
    return Fault("unknown_model", aliases.unknown(name, known), hint)


def _running(paths: Paths) -> list[dict[str, Any]]:
    return [row for row in proxies(paths) if row.get("model")]


# --- providers --------------------------------------------------------------------------------------------


def providers(paths: Paths) -> list[dict[str, Any]]:
    """Every provider with the settings that hold; keys masked."""
    found = settings.read(paths)
    if found.wrong:
        raise settings.bad_config(found.wrong)
    said, table = configured(found), provider_table(found)
    if not any(one.kind == REMOTE for one in table.values()):
        table[REMOTE] = Provider(REMOTE)  # so that it is seen what there can be
    return [_provider(name, one, name in said, paths) for name, one in sorted(table.items())]


def provider(paths: Paths, name: str) -> dict[str, Any]:
    rows = providers(paths)
    for row in rows:
        if row["name"] == name:
            return row
    settings.read(paths).refuse_withheld(f"{name}/…")
    raise _unsupported(paths, name, [row["name"] for row in rows if row["name"] != REMOTE])


def _unsupported(paths: Paths, name: str, known: list[str]) -> Fault:
    message, hint = aliases.unsupported(name, known)
    if aliases.no_profile(name, known) is None:
        hint += f"; others come from a table [providers.{name[:200]}] in {paths.config_file}"
    return Fault("unsupported_provider", message, hint)


def _provider(name: str, one: Provider, configured: bool, paths: Paths) -> dict[str, Any]:
    found = key_of(paths, name, one)
    options = {
        field: value
        for field, value in attrs.asdict(one.options).items()
        if value not in (None, {}) and field != "headers"
    }
    return {
        "name": name,
        "kind": one.kind,
        "base_url": one.base_url,
        "configured": configured,
        "needs_key": one.needs_key,
        "key": None if found.key is None else mask(found.key),
        "key_source": found.source,
        "key_trouble": found.trouble,
        "headers": sorted(one.options.headers),
        "options": options,
        "timeouts": {
            field: value for field, value in attrs.asdict(one.timeouts).items() if value is not None
        },
        "think": one.think,
        "picker_alias": one.picker_alias,
    }


# --- lists ------------------------------------------------------------------------------------------------


def listed(paths: Paths, only: str | None, *, free: bool) -> tuple[list[dict[str, Any]], list[str]]:
    """The models that the providers offer, by id, and a sentence for each provider that did not answer."""
    found = settings.read(paths)
    if found.wrong:
        raise settings.bad_config(found.wrong)
    table = provider_table(found)
    if only is not None and only not in table:
        found.refuse_withheld(f"{only}/…")
        raise _unsupported(paths, only, list(table))
    asked = [only] if only is not None else worth_asking(paths, found, table)
    rows, silent = ask(paths, {name: table[name] for name in asked}, far.PATIENCE_S)
    if only is not None and silent:
        raise Fault("provider_unreachable", silent[0], f"proxyctl models providers {only}")
    chosen = [row for row in rows if not free or row["free"]]
    return sorted(chosen, key=lambda row: str(row["id"])), silent


def search(paths: Paths, words: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Those whose id or name has every word in it."""
    rows, silent = listed(paths, None, free=False)
    wanted = words.lower().split()
    return [
        row for row in rows if all(word in f"{row['id']} {row['display_name']}".lower() for word in wanted)
    ], silent


# --- refresh ----------------------------------------------------------------------------------------------


def refresh(paths: Paths) -> tuple[dict[str, Any], list[str]]:
    """Every provider and every worker looks anew; what they found, and a sentence for each that did not answer.

    A worker looks when its /health is asked. Proxies without one are left asleep: they look when they start.
    """
    rows, silent = listed(paths, None, free=False)
    offered: dict[str, int] = {}
    for row in rows:
        offered[row["provider"]] = offered.get(row["provider"], 0) + 1
    awake = [row for row in _running(paths) if row["pid"] and row["provider"] != "front"]
    found = [_looked(row) for row in awake]
    return {
        "providers": [{"provider": name, "models": count} for name, count in sorted(offered.items())],
        "proxies": found,
    }, silent


def _looked(row: dict[str, Any]) -> dict[str, Any]:
    seen = health.ask(int(row["port"]))
    upstream = seen.get("upstream")
    detail = upstream.get("detail") if isinstance(upstream, dict) else None
    return {
        "name": row["name"],
        "model": row["model"],
        "ok": bool(seen.get("healthy")),
        "detail": str(detail or "") if seen else "the worker did not answer",
    }


# --- test -------------------------------------------------------------------------------------------------


def try_out(paths: Paths, name: str) -> dict[str, Any]:
    """One real request for one token, through a proxy; one that was brought up for it goes again."""
    from .up import bring_up, request, take_down

    if name.partition("/")[0] == FRONT and doors.table_of(settings.read(paths), name) is not None:
        raise usage(
            f"{name} is the front door, which has no model of its own to try",
            f"what it leads to by name: proxyctl ask {name} --model NAME Hello",
        )
    before = {row["name"] for row in _running(paths)}
    # Any port will do for one message: the usual one may be somebody else's.
    view = bring_up(paths, request(model=name, port=0))
    try:
        return {"model": view["model"], "proxy": view["name"], **_ask(view)}
    finally:
        if view["name"] not in before and not view["reused"]:
            try:
                take_down(paths, [view["name"]], 0.0)
            except Fault:
                pass  # somebody else was faster


def _ask(view: dict[str, Any]) -> dict[str, Any]:
    body = {"model": "test", "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}
    connection = http.client.HTTPConnection("127.0.0.1", int(view["port"]), timeout=TEST_PATIENCE_S)
    asking = headers(view)
    began = time.monotonic()
    try:
        connection.request("POST", "/v1/messages", json.dumps(body), asking)
        answer = connection.getresponse()
        document = json.loads(answer.read())
    except (OSError, ValueError, http.client.HTTPException) as error:
        return {
            "ok": False,
            "status": None,
            "error": {"type": "api_error", "message": in_words(error, TEST_PATIENCE_S)},
        }
    finally:
        connection.close()
    took = round((time.monotonic() - began) * 1000, 1)
    said = document.get("error") if isinstance(document, dict) else None
    found = {"ok": answer.status == 200, "status": answer.status, "latency_ms": took}
    if answer.status == 200:
        return found
    hint = to_set(view, answer.status, str(said), os.environ)
    return {**found, "error": said, **({"hint": hint} if hint else {})}
