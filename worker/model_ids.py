"""What a model id is made of. Pure, and light: clients load it as well."""

from __future__ import annotations

REMOTE = "remote"
"""The kind of another modelproxy. There may be many, so the provider is `remote/NAME`."""


def parted(model_id: str) -> tuple[str, str]:
    """Provider and model; what is not there is empty.

    `ollama/codellama` → `ollama`, `codellama`; `remote/office/ollama/codellama` → `remote/office`,
    `ollama/codellama`.
    """
    provider, _, model = model_id.partition("/")
    if provider == REMOTE and model:
        name, _, model = model.partition("/")
        provider = f"{REMOTE}/{name}"
    return provider, model


__all__ = ["REMOTE", "parted"]
