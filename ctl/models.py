"""Names of models and the providers behind them: `proxyctl models`.

Lists come from the providers themselves, asked at the same time and with little patience: who does not answer
costs a warning, not the list.
"""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
from typing import Any

import attrs

from modelproxy.supervisor import aliases
from modelproxy.supervisor.config import Provider
from modelproxy.supervisor.keys import KeyUnavailableError, fetch, stored
from modelproxy.supervisor.paths import Paths
from modelproxy.supervisor.schema import NATIVE
from modelproxy.supervisor.values import close

from . import far, health, settings
from .agents import proxies
from .config_view import provider_table
from .environment import sent_along
from .faults import Fault
from .keys import mask

TEST_PATIENCE_S = 300.0


# --- names ------------------------------------------------------------------------------------------------


def resolve(paths: Paths, name: str) -> tuple[dict[str, Any], Fault | None]:
    """What a name means here, and who says so; the fault of one that means nothing."""
    found = settings.read(paths)
    if found.wrong:
        raise settings.bad_config(found.wrong)
    names, named = found.table("aliases"), found.table("proxies")
    resolved = aliases.resolve(name, names, provider_table(found))
    proxy = named.get(name) if "/" not in name else None
    if proxy is not None:
        resolved = aliases.resolve(proxy["model"], names, provider_table(found))
        assert resolved is not None  # validation let it pass
        return {"requested": name, "resolved": resolved.model_id, "source": "config", "proxy": name}, None
    if resolved is not None:
        return {"requested": name, "resolved": resolved.model_id, "source": resolved.source}, None
    return {"requested": name, "resolved": None, "source": None}, _unresolved(paths, name, found)


def _unresolved(paths: Paths, name: str, found: settings.Settings) -> Fault:
    """Why a name means nothing, and what its user may have meant."""
    if name in NATIVE:
        words = f'"{name}" is an agent\'s own model, without a proxy'
        return Fault(
            "unknown_model", words, "for a proxy before Anthropic: anthropic/MODEL, or proxyctl up front"
        )
    provider, slash, model = name.partition("/")
    if slash and provider and model:
        return _unsupported(paths, provider, list(provider_table(found)))
    known = [*found.table("aliases"), *found.table("proxies"), *(row["model"] for row in _running(paths))]
    hint = "Expected: provider/model-name, an alias, or a proxy"
    if name in found.table("models", "agents"):
        hint = f"it is the name of an agent: proxyctl agents resolve {name}"
    elif not slash and name.isprintable() and 0 < len(name) <= 60 and " " not in name:
        hint += f"; proxyctl models search {name.split(':')[0]} asks the providers"
    return Fault("unknown_model", aliases.unknown(name, known), hint)


def _running(paths: Paths) -> list[dict[str, Any]]:
    return [row for row in proxies(paths) if row.get("model")]


# --- providers --------------------------------------------------------------------------------------------


def providers(paths: Paths) -> list[dict[str, Any]]:
    """Every provider with the settings that hold; keys masked."""
    found = settings.read(paths)
    if found.wrong:
        raise settings.bad_config(found.wrong)
    said = found.table("providers")
    return [_provider(name, one, name in said, paths) for name, one in sorted(provider_table(found).items())]


def provider(paths: Paths, name: str) -> dict[str, Any]:
    rows = providers(paths)
    for row in rows:
        if row["name"] == name:
            return row
    raise _unsupported(paths, name, [row["name"] for row in rows])


def _unsupported(paths: Paths, name: str, known: list[str]) -> Fault:
    near = close(name, known)
    meant = f'; did you mean "{near}"? Supported' if near else "; supported"
    return Fault(
        "unsupported_provider",
        f'Unsupported provider "{name[:200]}"{meant}: {", ".join(sorted(known))}',
        f"others come from a table [providers.{name[:200]}] in {paths.config_file}",
    )


def _provider(name: str, one: Provider, configured: bool, paths: Paths) -> dict[str, Any]:
    source, key = _key(name, one, paths)
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
        "key": None if key is None else mask(key),
        "key_source": source,
        "headers": sorted(one.options.headers),
        "options": options,
        "timeouts": {
            field: value for field, value in attrs.asdict(one.timeouts).items() if value is not None
        },
        "think": one.think,
        "picker_alias": one.picker_alias,
    }


def _key(name: str, one: Provider, paths: Paths) -> tuple[str | None, str | None]:
    """Where the key comes from, and the key; a command is named and not run."""
    key = attrs.evolve(one.key, command=None)
    sources = (
        (attrs.evolve(key, value=None, file=None), f"variable {key.env}"),
        (attrs.evolve(key, env=None, file=None), "config.toml"),
        (attrs.evolve(key, env=None, value=None), f"file {key.file}"),
    )
    try:
        for source, words in sources:
            if (found := fetch(source)) is not None:
                return words, found
        if one.key.command is not None:
            return f"command {one.key.command.split()[0]}", None
        found = stored(paths.keys_file, name)
    except KeyUnavailableError as error:
        return str(error), None
    return (None if found is None else "keys.toml"), found


# --- lists ------------------------------------------------------------------------------------------------


def listed(paths: Paths, only: str | None, *, free: bool) -> tuple[list[dict[str, Any]], list[str]]:
    """The models that the providers offer, by id, and a sentence for each provider that did not answer."""
    found = settings.read(paths)
    if found.wrong:
        raise settings.bad_config(found.wrong)
    table = provider_table(found)
    if only is not None and only not in table:
        raise _unsupported(paths, only, list(table))
    asked = [only] if only is not None else _worth_asking(found, table, paths)
    rows: list[dict[str, Any]] = []
    silent: list[str] = []

    def ask(name: str) -> None:
        try:
            rows.extend(_offers(name, table[name], paths))
        except (OSError, ValueError, http.client.HTTPException, KeyUnavailableError) as error:
            silent.append(_silence(name, table[name], error, paths))

    threads = [threading.Thread(target=ask, args=(name,), daemon=True) for name in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if only is not None and silent:
        raise Fault("provider_unreachable", silent[0], f"proxyctl models providers {only}")
    chosen = [row for row in rows if not free or row["free"]]
    return sorted(chosen, key=lambda row: str(row["id"])), sorted(silent)


def _worth_asking(found: settings.Settings, table: dict[str, Provider], paths: Paths) -> list[str]:
    """Those that are configured or have a key, and the local one."""
    said = found.table("providers")
    return [
        name
        for name, one in table.items()
        if one.base_url and (name in said or name == "ollama" or _key(name, one, paths)[0] is not None)
    ]


def _silence(name: str, one: Provider, error: Exception, paths: Paths) -> str:
    """Why there is no list, and what helps."""
    if isinstance(error, KeyUnavailableError):
        return f"{name} was not asked: {error}"
    if not isinstance(error, far.Refused):
        return f"{name} ({one.base_url}) did not answer: {_words(error)}"
    helps = ""
    if error.status in (401, 403):
        held = _key(name, one, paths)[0] is not None
        helps = f"; {'it does not take the key' if held else 'it wants a key'}: proxyctl keys set {name}"
    return f"{name} ({one.base_url}) has no list for us: {error}{helps}"


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing within {far.PATIENCE_S:g} s"
    return (
        error.strerror
        if isinstance(error, OSError) and error.strerror
        else str(error) or type(error).__name__
    )


def _offers(name: str, one: Provider, paths: Paths) -> list[dict[str, Any]]:
    if one.base_url is None:
        return []
    key = fetch(one.key) or stored(paths.keys_file, name)
    path, listing, headers = _QUESTIONS.get(one.kind, _QUESTIONS["openai"])
    sent = {**headers, **({"Authorization": f"Bearer {key}"} if key else {}), **one.options.headers}
    if one.kind == "anthropic" and key:
        sent = {**headers, "x-api-key": key, **one.options.headers}
    document = far.get(one.base_url, path, {field: text for field, text in sent.items() if text})
    entries = document.get(listing)
    if not isinstance(entries, list):
        raise ValueError("its list of models is none")
    return [_row(name, one, entry) for entry in entries if isinstance(entry, dict) and _id(entry)]


_QUESTIONS: dict[str, tuple[str, str, dict[str, str]]] = {
    "ollama": ("/api/tags", "models", {}),
    "openai": ("/models", "data", {}),
    "openrouter": ("/models", "data", {}),
    "anthropic": ("/v1/models?limit=1000", "data", {"anthropic-version": "2023-06-01"}),
}


def _id(entry: dict[str, Any]) -> str:
    found = entry.get("id") or entry.get("model") or entry.get("name")
    return found if isinstance(found, str) else ""


def _row(name: str, one: Provider, entry: dict[str, Any]) -> dict[str, Any]:
    pricing = entry.get("pricing")
    window = entry.get("context_length") or entry.get("max_model_len") or entry.get("context_window")
    return {
        "id": f"{name}/{_id(entry)}",
        "provider": name,
        "name": _id(entry),
        "display_name": entry.get("display_name")
        or (entry.get("name") if "id" in entry else None)
        or _id(entry),
        "context_window": window if isinstance(window, int) else None,
        # Local models cost nothing; elsewhere only a price of nothing says so.
        "free": one.kind == "ollama" or (isinstance(pricing, dict) and _is_nothing(pricing)),
    }


def _is_nothing(pricing: dict[str, Any]) -> bool:
    try:
        return all(float(pricing.get(key, 1)) == 0 for key in ("prompt", "completion"))
    except (TypeError, ValueError):
        return False


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

    before = {row["name"] for row in _running(paths)}
    # Any port will do for one message: the usual one may be somebody else's.
    view = bring_up(paths, request(model=name, port=0))
    try:
        return {"model": view["model"], "proxy": view["name"], **_ask(int(view["port"]))}
    finally:
        if view["name"] not in before and not view["reused"]:
            try:
                take_down(paths, [view["name"]], 0.0)
            except Fault:
                pass  # somebody else was faster


def _ask(port: int) -> dict[str, Any]:
    headers = {"content-type": "application/json"} | sent_along(os.environ)
    body = {"model": "test", "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TEST_PATIENCE_S)
    began = time.monotonic()
    try:
        connection.request("POST", "/v1/messages", json.dumps(body), headers)
        answer = connection.getresponse()
        document = json.loads(answer.read())
    except (OSError, ValueError, http.client.HTTPException) as error:
        return {"ok": False, "status": None, "error": {"type": "api_error", "message": _words(error)}}
    finally:
        connection.close()
    took = round((time.monotonic() - began) * 1000, 1)
    said = document.get("error") if isinstance(document, dict) else None
    return {
        "ok": answer.status == 200,
        "status": answer.status,
        "latency_ms": took,
        **({"error": said} if answer.status != 200 else {}),
    }
