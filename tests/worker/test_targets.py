"""The places where requests may go."""

from __future__ import annotations

from typing import Any

import pytest

from modelproxy.worker.contract import Options, Target, WorkerSpec
from modelproxy.worker.targets import fars

SPEC = WorkerSpec(
    name="local",
    model_id="ollama/x",
    provider="ollama",
    kind="ollama",
    model="x",
    port=3457,
    api_key="sk-primary",
    fallback=[
        Target("openrouter", "openrouter/a/b", "openrouter", "a/b", api_key="sk-router"),
        Target("anthropic", "anthropic", "anthropic", "", options=Options(retries=1)),
    ],
)


def silent(*_: Any, **__: Any) -> None:
    pass


def new_id(prefix: str) -> str:
    return prefix


async def test_each_target_is_what_a_worker_for_it_alone_would_have() -> None:
    """Its own key and options; what comes after it is known, so that it need not repeat in vain."""
    found = fars(SPEC, new_id, silent)

    assert [far.name for far in found] == ["ollama/x", "openrouter/a/b", "anthropic"]
    assert [far.spec.api_key for far in found] == ["sk-primary", "sk-router", None]
    assert [len(far.spec.fallback) for far in found] == [2, 1, 0]
    assert [far.relay is not None for far in found] == [False, False, True]
    assert found[2].relay is found[2].provider
    assert found[1].truth == (b"x-proxy-model", b"openrouter/a/b")
    assert len({id(far.gauge) for far in found}) == 3
    assert {far.spec.name for far in found} == {"local"}


async def test_a_target_that_cannot_work_is_refused_before_the_first_request() -> None:
    bad = Target("far", "far/x", "openai", "x", base_url="ftp://nowhere")
    spec = WorkerSpec("echo/demo", "echo/demo", "echo", "echo", "demo", 3457, fallback=[bad])
    with pytest.raises(ValueError, match="provider far: "):
        fars(spec, new_id, silent)
