"""Against a real Ollama: set OLLAMA_TEST_URL, and OLLAMA_TEST_MODEL if not the first that it has."""

from __future__ import annotations

import json
import os
import urllib.request
from typing import Any

import pytest
import trio
from fakes import grammar

from .test_relay import far

URL = os.environ.get("OLLAMA_TEST_URL", "")
ASK = {
    "model": "claude-sonnet-4-5",
    "max_tokens": 64,
    "messages": [{"role": "user", "content": "Say: hello"}],
    "thinking": {"type": "disabled"},
}

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(not URL, reason="OLLAMA_TEST_URL is not set"),
]


def model_of(url: str) -> str:
    with urllib.request.urlopen(f"{url}/api/tags", timeout=10) as answer:
        models: list[dict[str, Any]] = json.load(answer)["models"]
    return os.environ.get("OLLAMA_TEST_MODEL") or str(models[0]["name"])


async def test_plain_streamed_and_counted() -> None:
    """The whole way: discovery, a model that may have to be loaded, an answer, its counts."""
    model = await trio.to_thread.run_sync(model_of, URL)
    async with far(kind="ollama", provider="ollama", model=model, base_url=URL) as it:
        health = await it.fetch(None, method="GET", path="/health")
        plain = await it.fetch(ASK)
    async with far(kind="ollama", provider="ollama", model=model, base_url=URL) as it:
        streamed = grammar.check((await it.fetch({**ASK, "stream": True})).body)
        row = it.row

    assert json.loads(health.body)["healthy"] is True
    assert json.loads(plain.body)["usage"]["output_tokens"] > 0
    assert streamed.complete
    assert streamed.text
    assert (row.status, row.cost_usd, row.tokens_estimated) == (200, 0.0, False)
