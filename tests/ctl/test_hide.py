"""A key on the command line leaves the process list at once, and still arrives."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from fakes.control import Control
from fakes.terminal import Spawn

from modelproxy.ctl.hide import hide_key

KEY = "sk-very-secret"


def test_without_a_key_nothing_happens() -> None:
    hide_key("not.a.module", ["up", "a/b", "--api-key", "-"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "argv"),
    [
        ("", ["up", "echo/demo", "--api-key", KEY, "--json"]),
        ("", ["up", "echo/demo", f"--api-key={KEY}", "--json"]),
        (".start_proxy", ["--model", "echo/demo", "--api-key", KEY, "--background"]),
    ],
)
def test_the_key_arrives_and_is_not_to_be_seen(
    spawn: Spawn, control: Control, module: str, argv: list[str]
) -> None:
    """The command is looked at while it waits for its answer."""
    control.hold["PUT"] = asked = threading.Event()
    command = spawn(module, *argv)
    while not any(method == "PUT" for method, _, _ in control.asked):
        assert command.poll() is None
    process = Path(f"/proc/{command.pid}")
    seen = process.joinpath("cmdline").read_bytes() + process.joinpath("environ").read_bytes()
    asked.set()
    out, err = command.communicate(timeout=10)

    assert KEY.encode() not in seen
    assert KEY not in out + err
    assert command.returncode == 0
    assert control.asked[-1][2]["api_key"] == KEY
