"""What the help tells newcomers to type is typed here, line by line (S111)."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest
from fakes.house import free_port

from .providers import KEY, estate

pytestmark = pytest.mark.slow

CONFIG = """
default_port = {free}
[providers.ollama]
base_url = "{fo}"
[providers.openrouter]
base_url = "{fr}"
"""


def test_s111_the_common_workflows_of_the_help_work() -> None:
    """In their order, in one home; only the ports are others, and the agent is one that says where it would ask."""
    with estate(CONFIG.replace("{free}", str(free_port()))) as here:
        claude = here.house.home / "claude"
        claude.write_text("#!/bin/sh\necho asks $ANTHROPIC_BASE_URL\n")
        claude.chmod(0o755)
        environment = here.house.env | {"PATH": f"{here.house.home}:{here.house.env['PATH']}"}
        text = here.house.command("--help").stdout
        section = text.partition("Common workflows:\n")[2].partition("\n\n")[0]
        lines = [line.strip() for line in section.splitlines() if line.startswith("    ")]
        typed = [line for line in lines if line.strip().startswith("proxyctl ")]
        ports = {"3457": str(free_port()), "3458": str(free_port())}
        said = {}
        for line in typed:
            words = [ports.get(word, word) for word in shlex.split(line)[1:]]
            done = subprocess.run(
                [sys.executable, "-P", "-m", "modelproxy.ctl", *words],
                env=environment,
                input=KEY + "\n",
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, (line, done)
            said[line] = done.stdout

    assert len(typed) >= 8
    assert "export ANTHROPIC_BASE_URL=http://127.0.0.1:3457 ANTHROPIC_AUTH_TOKEN=unused" in lines
    assert f"export ANTHROPIC_BASE_URL=http://127.0.0.1:{ports['3457']}" in said[typed[0]]
    for line in ("proxyctl run ollama/codellama -- claude", "proxyctl run -- claude"):
        assert said[line].startswith("asks http://127.0.0.1:")
    assert said["proxyctl ps"].count(" ready ") == 2
    assert said["proxyctl why ollama/codellama"].startswith("ollama/codellama: ready\n")
    assert said["proxyctl down all"].count("  stopped") == 2
