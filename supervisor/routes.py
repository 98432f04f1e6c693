"""From what the user wrote to a resolved route: provider, kind, the provider's own model name. Pure."""

from __future__ import annotations

import difflib

import attrs

from .config import Config, Provider
from .protocol import Fault

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

    @property
    def base_url(self) -> str | None:
        return self.provider.base_url


def split_model_id(text: str) -> tuple[str, str]:
    """`openrouter/anthropic/claude-3-haiku` → `openrouter`, `anthropic/claude-3-haiku`."""
    provider, slash, model = text.partition("/")
    if not slash or not provider or not model:
        raise Fault("bad_model_id", f'"{text}" is not a model id. {EXPECTED}', "for example echo/demo")
    if len(text) > MAX_MODEL_ID:
        raise Fault("bad_model_id", f"the model id is longer than {MAX_MODEL_ID} characters. {EXPECTED}")
    if any(char.isspace() or not char.isprintable() for char in text):
        raise Fault("bad_model_id", f"{text!r} has white space or control characters in it. {EXPECTED}")
    return provider, model


def resolve(model_id: str, config: Config) -> Route:
    """Where requests for `model_id` go; `Fault` when nowhere."""
    name, model = split_model_id(model_id)
    provider = config.providers.get(name)
    if provider is None:
        raise _unsupported(name, config)
    return Route(model_id, name, provider, model)


def resolve_target(text: str, config: Config) -> Route:
    """Where a request falls back to; `anthropic` alone means the caller's own request, whatever its model."""
    if text == OWN:
        return Route(OWN, OWN, config.providers[OWN], "")
    return resolve(text, config)


def _unsupported(name: str, config: Config) -> Fault:
    near = difflib.get_close_matches(name, config.providers, n=1)
    supported = ", ".join(sorted(config.providers))
    guess = f'; did you mean "{near[0]}"?' if near else ""
    return Fault("unsupported_provider", f'Unsupported provider "{name}"{guess}', f"supported: {supported}")
