"""What a model id is made of."""

from __future__ import annotations

import pytest

from modelproxy.worker.model_ids import parted


@pytest.mark.parametrize(
    ("model_id", "provider", "model"),
    [
        ("ollama/codellama", "ollama", "codellama"),
        ("openrouter/anthropic/claude-3-haiku", "openrouter", "anthropic/claude-3-haiku"),
        ("remote/office/ollama/codellama", "remote/office", "ollama/codellama"),
        ("remote/office/codellama", "remote/office", "codellama"),
        ("remote/office", "remote/office", ""),
        ("remote/office/", "remote/office", ""),
        ("remote//x", "remote/", "x"),
        ("remote", "remote", ""),
        ("codellama", "codellama", ""),
        ("/x", "", "x"),
    ],
)
def test_another_modelproxy_has_a_name_before_the_models(model_id: str, provider: str, model: str) -> None:
    assert parted(model_id) == (provider, model)
