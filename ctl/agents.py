"""Which model an agent uses, and through which proxy: `proxyctl agents`.

Resolving asks and starts nothing, and says something useful whatever is wrong: an agent's launcher stands
behind it, and an agent without a proxy is better than none.
"""

from __future__ import annotations

from typing import Any

import attrs

from modelproxy.supervisor import aliases, layers
from modelproxy.supervisor.paths import Paths
from modelproxy.supervisor.schema import NATIVE
from modelproxy.supervisor.withheld import Entry
from modelproxy.worker.model_ids import parted

from . import offline, settings
from .client import Client
from .faults import DEFAULT_PORT, Fault

PORTS = 1000
"""As far as the supervisor looks for a free one."""


@attrs.frozen
class Meant:
    """What an agent's entry means."""

    agent: str
    target: str
    """As it was said: a model id, an alias, a proxy's name; or one of NATIVE."""
    model_id: str | None = None
    """None: its own model, without a proxy."""
    proxy: str | None = None
    """The name of the proxy that serves it."""
    entry: str | None = None
    """Which entry says so, where that is a glob that the agent's name fits."""


def resolve(paths: Paths, agent: str) -> tuple[dict[str, Any], list[str]]:
    """The answer of `agents resolve`, and warnings."""
    found = settings.read(paths)
    if found.wrong or not found.layers:
        return {"useProxy": False}, [*map(str, found.wrong), *found.warnings]
    if needs_trust(found, agent) is not None:
        return {"useProxy": False}, found.warnings
    meant = mean(found, agent)
    if meant.model_id is None or meant.proxy is None:
        return native(meant), found.warnings
    rows = proxies(paths)
    running = next((row for row in rows if row["name"] == meant.proxy), None)
    url = running["url"] if running else f"http://127.0.0.1:{_port(found, meant.proxy, rows)}"
    return {**routed(meant, url), "running": bool(running and running["pid"])}, found.warnings


def mean(found: settings.Settings, agent: str) -> Meant:
    """By its entry, as a front finds it; else by the default."""
    models = found.table("models")
    entry = entry_of(found, agent)
    said_of_it = None if entry is None else models["agents"][entry]
    target = said_of_it or models.get("default") or NATIVE[0]
    meant = Meant(agent, target, entry=entry if entry != agent else None)
    if target in NATIVE:
        return meant
    named, names = found.table("proxies"), found.table("aliases")
    providers = aliases.providers_of(found.table("providers"), found.table("remotes"))
    said = named[target]["model"] if "/" not in target and target in named else target
    resolved = aliases.resolve(said, names, providers)
    if resolved is None:  # nothing that validation lets pass
        return meant
    proxy = target if said != target else resolved.model_id
    return attrs.evolve(meant, model_id=resolved.model_id, proxy=proxy)


def entry_of(found: settings.Settings, agent: str) -> str | None:
    """The name in [models.agents] that holds for it: its own, else the longest glob that fits."""
    return aliases.entry(agent, found.table("models").get("agents") or {})


def needs_trust(found: settings.Settings, agent: str) -> Entry | None:
    """The entry that would count if the project were trusted; None: another one does, or there is none."""
    models = found.table("models")
    if (models.get("agents") or {}).get(agent):
        return None
    own = found.withheld.entry("models", "agents", agent)
    return own or (None if models.get("default") else found.withheld.entry("models", "default"))


def native(meant: Meant) -> dict[str, Any]:
    return {
        "useProxy": False,
        "agent": meant.agent,
        "model": NATIVE[0],
        "provider": "anthropic",
        "banner": f"{meant.agent} uses {NATIVE[0]} of anthropic, its own model, without a proxy{_by(meant)}",
        **_source(meant),
    }


def routed(meant: Meant, url: str) -> dict[str, Any]:
    assert meant.model_id is not None
    provider, name = parted(meant.model_id)
    return {
        "useProxy": True,
        "agent": meant.agent,
        "model": meant.model_id,
        "provider": provider,
        "proxyUrl": url,
        "proxy": meant.proxy,
        "banner": f"{meant.agent} uses {name} of {provider}, through {url}{_by(meant)}",
        **_source(meant),
    }


def _by(meant: Meant) -> str:
    return "" if meant.entry is None else f', as "{meant.entry}" says'


def _source(meant: Meant) -> dict[str, str]:
    return {} if meant.entry is None else {"entry": meant.entry}


def ensure(paths: Paths, agent: str) -> tuple[dict[str, Any], list[str]]:
    """The same with a proxy that is up, brought up if it was not."""
    from .up import bring_up, request

    answer, warnings = resolve(paths, agent)
    if not answer["useProxy"]:
        return answer, warnings
    meant = mean(settings.read(paths), agent)
    view = bring_up(paths, request(model=meant.target))
    more = {key: view[key] for key in ("pid", "port", "state", "reused")}
    return {**routed(meant, view["url"]), "running": True, **more}, []  # told by who brought it up


def proxies(paths: Paths) -> list[dict[str, Any]]:
    """What is up, or will be once a supervisor runs."""
    try:
        rows = Client(paths).get("/v1/proxies")
        return [row for row in rows if row.get("wanted")]
    except Fault:
        return [row for row in offline.views(paths)[0] if row["wanted"]]


def _port(found: settings.Settings, proxy: str, rows: list[dict[str, Any]]) -> int:
    """The port that `up` would take: its own, or the usual one, or the next that none of ours has."""
    options = (found.values.get("proxies") or {}).get(proxy) or {}
    if options.get("port"):
        return int(options["port"])
    usual, taken = int(found.values.get("default_port") or DEFAULT_PORT), {row["port"] for row in rows}
    return next((port for port in range(usual, usual + PORTS) if port not in taken), usual)


def listed(paths: Paths) -> tuple[list[dict[str, Any]], list[str]]:
    """Every agent with an entry, and who made it."""
    found = settings.read(paths)
    rows = []
    for setting in layers.settings(found.layers):
        if setting.path[:2] != ("models", "agents") or len(setting.path) != 3:
            continue
        agent = str(setting.path[2])
        resolvable = isinstance(setting.value, str) and found.table("models", "agents").get(agent) is not None
        meant = mean(found, agent) if resolvable and not found.wrong else Meant(agent, str(setting.value))
        rows.append(
            {
                "agent": agent,
                "model": meant.target,
                "resolved": meant.model_id,
                "useProxy": meant.model_id is not None,
                "origin": setting.origin,
                "line": setting.line,
            }
        )
    return rows, [*map(str, found.wrong), *found.warnings]


GUIDE = """\
An agent speaks to a proxy as it speaks to Anthropic; it needs an address and any token.

Which model does this agent use? Answers at once and starts nothing:

  proxyctl agents resolve code-reviewer --json

  {"useProxy": true, "model": "ollama/codellama", "provider": "ollama", "proxyUrl": "http://127.0.0.1:3456", ...}
  {"useProxy": false, ...}     its own model: leave everything as it is

Bring its proxy up, or find the one that runs:

  proxyctl agents ensure code-reviewer --json

Send it a message (any HTTP client that can POST; the model's name is up to the proxy):

  curl -s "$(proxyctl agents ensure code-reviewer --json | jq -r .proxyUrl)/v1/messages" \\
    -H 'content-type: application/json' -H 'anthropic-version: 2023-06-01' -H 'x-api-key: any' \\
    -d '{"model": "any", "max_tokens": 200, "messages": [{"role": "user", "content": "Hello"}]}'

Or point a whole agent at it:

  export ANTHROPIC_BASE_URL=$(proxyctl agents ensure code-reviewer --json | jq -r .proxyUrl)
  export ANTHROPIC_AUTH_TOKEN=any

Or let one port serve a whole session, each agent with its model and the rest with Anthropic's. Claude Code's
sub-agents are known by their names; who else asks is said by the address, by <!-- agent: code-reviewer --> in a
prompt, or by the name of the agent as the model:

  proxyctl up front
  export ANTHROPIC_BASE_URL=http://127.0.0.1:3456                    # the session
  export ANTHROPIC_BASE_URL=http://127.0.0.1:3456/a/code-reviewer    # one agent

Or run one program on it; its proxy is there for as long as the program runs:

  proxyctl run --agent code-reviewer -- ./review.sh

Say who uses what; a name with * or ? holds for all agents that fit and have no entry of their own, the longest
first:

  proxyctl agents set code-reviewer ollama/codellama
  proxyctl agents set 'code-*' ollama/qwen3-coder
  proxyctl agents list
  proxyctl agents unset code-reviewer"""
