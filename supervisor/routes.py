"""From what the user wrote to a resolved route: provider, kind, the provider's own model name. Pure.

What can be written: a model id, the name of a proxy that has a table of its own, or an alias; in this order.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

from modelproxy.worker.contract import Quota, Target, WorkerSpec
from modelproxy.worker.model_ids import REMOTE, parted

from . import aliases, quotas
from .config import Config, Provider, ProxyOptions
from .protocol import DEFAULT_GRACE_S, Fault

EXPECTED = "Expected: provider/model-name"
MAX_MODEL_ID = 200
OWN = "anthropic"


@attrs.frozen
class Route:
    """Where a proxy's requests go. The key is fetched later, when a worker needs it."""

    model_id: str
    name: str
    """The provider's name, as the user knows it."""
    provider: Provider
    model: str
    """The provider's own name of the model."""
    proxy: str | None = None
    """The proxy's name when it has one of its own, and is not called like its model."""
    options: ProxyOptions = attrs.Factory(ProxyOptions)

    @property
    def base_url(self) -> str | None:
        return self.provider.base_url


def split_model_id(text: str) -> tuple[str, str]:
    """`openrouter/anthropic/claude-3-haiku` → `openrouter`, `anthropic/claude-3-haiku`; see `parted`."""
    provider, model = parted(text)
    if provider.startswith(f"{REMOTE}/") and not model:
        form = f"Expected: {REMOTE}/NAME/provider/model-name"
        raise Fault(
            "bad_model_id", f'"{text}" names no model. {form}', f"for example {REMOTE}/office/echo/demo"
        )
    if not provider or not model:
        raise Fault("bad_model_id", f'"{text}" is not a model id. {EXPECTED}', "for example echo/demo")
    if len(text) > MAX_MODEL_ID:
        raise Fault("bad_model_id", f"the model id is longer than {MAX_MODEL_ID} characters. {EXPECTED}")
    if any(char.isspace() or not char.isprintable() for char in text):
        raise Fault("bad_model_id", f"{text!r} has white space or control characters in it. {EXPECTED}")
    return provider, model


def resolve(requested: str, config: Config) -> Route:
    """Where requests for `requested` go; `Fault` when nowhere."""
    found = aliases.resolve(requested, config.aliases, config.providers)
    if found is not None and found.source == "exact":
        return _of_model(requested, config)
    named = config.proxies.get(requested)
    if named is not None and named.model is not None:
        target = aliases.resolve(named.model, config.aliases, config.providers)
        route = _of_model(named.model if target is None else target.model_id, config)
        return attrs.evolve(route, proxy=requested, options=named)
    if found is not None:
        return _of_model(found.model_id, config)
    if "/" not in requested and requested.isprintable() and requested:
        raise _unknown(requested, config)
    return _of_model(requested, config)


def _of_model(model_id: str, config: Config) -> Route:
    name, model = split_model_id(model_id)
    provider = config.providers.get(name)
    if provider is None:
        raise Fault("unsupported_provider", *aliases.unsupported(name, config.providers))
    options = config.proxies.get(model_id, ProxyOptions())
    return Route(model_id, name, provider, model, options=options)


def spec(route: Route) -> WorkerSpec:
    """What the configuration says of it, the proxy's own table over its provider's; not port, key and limits."""
    found = target(route)
    fields = {field.name: getattr(found, field.name) for field in attrs.fields(Target)}
    return WorkerSpec(name=route.proxy or route.model_id, port=0, **fields)


def order(route: Route, config: Config) -> WorkerSpec:
    """All that the configuration says of it, targets and limits too; only keys are missing."""
    said = route.options
    return attrs.evolve(
        spec(route),
        grace_s=DEFAULT_GRACE_S if said.grace_s is None else said.grace_s,
        fallback=[target(one) for one in targets(route, said.fallback or (), config)],
        quota=quotas.granted(said, Quota()),
    )


def target(route: Route) -> Target:
    """The same of where a request may go."""
    provider, said = route.provider, route.options
    options: dict[str, Any] = {
        "context_window": said.context_window,
        "max_output_tokens": said.max_output_tokens,
        "capabilities": said.capabilities,
        "retries": said.retries,
        "hold_s": said.hold_s,
        "ping_s": said.ping_s,
    }
    return Target(
        provider=route.name,
        model_id=route.model_id,
        kind=provider.kind,
        model=route.model,
        base_url=(provider.base_url or "").rstrip("/") or None,
        timeouts=provider.timeouts,
        options=attrs.evolve(provider.options_for(route.model), **_said(options)),
    )


def _said(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _unknown(word: str, config: Config) -> Fault:
    known = [*config.aliases, *config.proxies]
    return Fault(
        "bad_model_id",
        f'"{word[:MAX_MODEL_ID]}" is not a model id, an alias or a proxy of the configuration. {EXPECTED}',
        aliases.unknown(word, known) if known else "for example ollama/codellama",
    )


def resolve_target(text: str, config: Config) -> Route:
    """Where a request falls back to; `anthropic` alone means the caller's own request, whatever its model."""
    if text == OWN:
        return Route(OWN, OWN, config.providers[OWN], "")
    return resolve(text, config)


def targets(route: Route, texts: Iterable[str], config: Config, *, is_elsewhere: bool = False) -> list[Route]:
    """Where requests of `route` fall back to, in this order. `Fault` for one that has been asked before.

    `is_elsewhere`: its own model is asked at another address than the configuration's.
    """
    asked = set() if is_elsewhere else {route.model_id}
    found = [resolve_target(text, config) for text in texts]
    for one in found:
        if one.model_id in asked:
            own = one.model_id == route.model_id
            why = "is the proxy's own model" if own else "is said twice"
            raise Fault("bad_request", f"fallback {one.model_id} {why}", "name another one")
        asked.add(one.model_id)
    return found
