"""A home with fake providers, and the real programs in it.

They come from the packages of their makers, by PATH; `scripts/test-clients` installs them into a folder and runs
these tests. Nothing here reaches beyond loopback.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
from e2e.providers import KEY, Estate, estate

from .dialogue import obedient

CONFIG = f"""
[providers.ollama]
base_url = "{{fo}}"
[providers.anthropic]
base_url = "{{fa}}"
[providers.openrouter]
base_url = "{{fr}}"
api_key = "{KEY}"
[providers.searching]
kind = "openrouter"
base_url = "{{fr}}"
api_key = "{KEY}"
web_search = true
[models.agents]
code-reviewer = "ollama/codellama"
Explore = "openrouter/x/y"
"""
REAL_KEY = "sk-ant-api03-the-caller's-own"
QUIET = {
    "ANTHROPIC_API_KEY": REAL_KEY,
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_TELEMETRY": "1",
    "OPENCODE_DISABLE_AUTOUPDATE": "1",
    "OPENCODE_DISABLE_MODELS_FETCH": "1",
}
_FOREIGN = ("ANTHROPIC_", "CLAUDE", "OPENCODE", "AIDER", "OPENAI_", "CODEX_")
PACKAGES = {
    "claude": ("Claude Code", "npm install @anthropic-ai/claude-code"),
    "opencode": ("opencode", "npm install opencode-ai"),
    "codex": ("codex", "npm install @openai/codex"),
    "aider": ("aider", "pip install aider-chat, in a virtual environment of its own"),
}
LIMIT_S = 90
MODEL = "ollama/codellama"
ROUTED = "openrouter/x/y"
REVIEWER = """---
name: code-reviewer
description: Reviews code
tools: Read, Bash
---
You review code.
"""


@attrs.frozen
class Desk:
    """Somebody at a shell in a folder of his own, with `proxyctl` and the clients on his PATH."""

    estate: Estate
    folder: Path

    def run(self, *words: str, said: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        with self.running(*words, stdin=subprocess.PIPE, **more) as process:
            out, err = process.communicate(said, timeout=LIMIT_S)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    @contextmanager
    def running(
        self, *words: str, stdin: int = subprocess.DEVNULL, **more: str
    ) -> Iterator[subprocess.Popen[str]]:
        """Until the end of the block. Of a pipe Claude Code would wait three seconds for what it might say."""
        with subprocess.Popen(
            words,
            cwd=self.folder,
            env=self.environment | more,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    @property
    def environment(self) -> dict[str, str]:
        found = {
            name: value for name, value in self.estate.house.env.items() if not name.startswith(_FOREIGN)
        }
        tools = Path(sys.executable).parent
        paths = f"{tools}{os.pathsep}{os.environ['PATH']}"
        # opencode goes by the second.
        return found | QUIET | {"PATH": paths, "PWD": str(self.folder)}

    def employ(self, *agents: str) -> None:
        """Sub-agents of Claude Code's, of whom only their files say who they are."""
        folder = self.folder / ".claude" / "agents"
        folder.mkdir(parents=True)
        for name in agents:
            (folder / f"{name}.md").write_text(REVIEWER.replace("code-reviewer", name))

    def routes(self, count: int) -> list[tuple[str, str | None]]:
        """Of the last requests: where they went and who asked."""
        return [(row["route"], row["agent"]) for row in self.estate.usage()[-count:]]


def through(*words: str) -> tuple[str, ...]:
    """The command line of `proxyctl run`, at a port that nobody else has."""
    return ("proxyctl", "run", "--port", "0", *words)


def document(text: str) -> dict[str, Any]:
    """What `--output-format json` printed."""
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.fixture(scope="module")
def furnished() -> Iterator[Estate]:
    with estate(CONFIG) as found:
        yield found


@pytest.fixture
def desk(furnished: Estate, tmp_path: Path) -> Iterator[Desk]:
    """Nothing is up at the beginning; every provider does what it is told (`dialogue`)."""
    furnished.reset()
    for name, far in (("fo", furnished.fo), ("fr", furnished.fr), ("fa", furnished.fa)):
        far.script = obedient(name)
    yield Desk(furnished, tmp_path)
    furnished.house.down("all", grace_s=0.0)
    furnished.ports.clear()


def installed(program: str) -> str:
    """Skips where it is not."""
    if shutil.which(program) is None:
        title, how = PACKAGES[program]
        pytest.skip(f"{title} is not on the PATH: {how}, or scripts/test-clients")
    return program


@pytest.fixture
def claude() -> str:
    return installed("claude")


@pytest.fixture
def opencode() -> str:
    return installed("opencode")


@pytest.fixture
def codex() -> str:
    return installed("codex")


@pytest.fixture
def aider() -> str:
    return installed("aider")
