"""From what the user wrote to a resolved route: provider, kind, the provider's own model name. Pure."""

from __future__ import annotations

import difflib

import attrs

from .protocol import Fault

EXPECTED = "Expected: provider/model-name"
MAX_MODEL_ID = 200


@attrs.frozen
class Provider:
    """A configured service; the built-in ones need no configuration."""

    kind: str
    base_url: str | None = None


BUILT_IN = {
    "echo": Provider("echo"),
}


@attrs.frozen
class Route:
    model_id: str
    provider: str
    kind: str
    model: str
    base_url: str | None


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


def resolve(model_id: str, base_url: str | None) -> Route:
    """Where requests for `model_id` go; `Fault` when nowhere."""
    name, model = split_model_id(model_id)
    provider = BUILT_IN.get(name)
    if provider is None:
        raise _unsupported(name)
    return Route(model_id, name, provider.kind, model, base_url or provider.base_url)


def _unsupported(name: str) -> Fault:
    near = difflib.get_close_matches(name, BUILT_IN, n=1)
    supported = ", ".join(sorted(BUILT_IN))
    guess = f'; did you mean "{near[0]}"?' if near else ""
    return Fault("unsupported_provider", f'Unsupported provider "{name}"{guess}', f"supported: {supported}")
