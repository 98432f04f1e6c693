"""Anthropic's SDK for TypeScript; the one for Python is tried in every run of the tests."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import attrs
import pytest
from e2e.providers import held

from .conftest import MODEL, ROUTED, Desk, through
from .dialogue import call, streamed, then

pytestmark = [pytest.mark.slow, pytest.mark.clients]

PROGRAM = str(Path(__file__).with_name("runner.cjs"))


@pytest.fixture
def node() -> str:
    """Skips where it does not find the SDK."""
    look = ("-e", "require('@anthropic-ai/sdk')")
    if (
        not shutil.which("node")
        or subprocess.run(["node", *look], capture_output=True, check=False).returncode
    ):
        pytest.skip(
            "Anthropic's SDK is not on NODE_PATH: npm install @anthropic-ai/sdk, or scripts/test-clients"
        )
    return "node"


@pytest.mark.parametrize("model", [MODEL, ROUTED])
def test_its_tool_runner_goes_round(desk: Desk, node: str, model: str) -> None:
    """Two calls at once and one behind them, plain and streamed."""
    order = "go" + call("add", to=1) + call("double", to=2) + then(call("add", to=3))
    done = desk.run(*through(model, "--", node, PROGRAM, "tools", order))
    rounds = [json.loads(line) for line in done.stdout.splitlines()]

    assert len(rounds) == 2, done
    for one in rounds:
        assert one["calls"] == [["add", 1], ["double", 2], ["add", 3]]
        assert one["text"].endswith(" got: 6")


@pytest.mark.parametrize("model", [MODEL, ROUTED])
def test_a_stream_that_is_cut_is_an_error(desk: Desk, node: str, model: str) -> None:
    far = desk.estate.fo if model == MODEL else desk.estate.fr
    whole = streamed(far, "hello")
    assert isinstance(whole.body, tuple)
    begun = whole.body[: len(whole.body) // 2 + 1]
    far.instead(attrs.evolve(whole, cut_after=held(begun)))
    done = desk.run(*through(model, "--", node, PROGRAM, "stream", "hello"))

    assert "broke off in the middle of its answer" in json.loads(done.stdout)["ended"], done
