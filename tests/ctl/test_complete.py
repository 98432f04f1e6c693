"""Completion never disturbs the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.control import Control, view

from modelproxy.ctl.complete import agents, config_keys, models, providers, targets
from modelproxy.supervisor.paths import Paths


def test_names_of_the_supervisor(control: Control) -> None:
    control.proxies = {name: view(name) for name in ("echo/demo", "echo/a", "x/y")}

    assert targets("echo/") == ["echo/a", "echo/demo"]


@pytest.mark.parametrize("raw", [b"?\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n5"])
def test_names_of_the_file_when_the_supervisor_is_strange(control: Control, raw: bytes) -> None:
    control.raw = raw
    control.paths.state_file.write_text(json.dumps({"proxies": [{"name": "a/b"}]}))

    assert targets("") == ["a/b"]


def test_nothing_to_tell(paths: Paths) -> None:
    paths.state_file.write_text("{")

    assert targets("") == []


def test_names_of_the_configuration_for_up(
    control: Control, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No globs; and nothing when the file is broken."""
    monkeypatch.chdir(tmp_path)
    control.proxies = {"echo/demo": view()}
    control.paths.config.mkdir(parents=True)
    control.paths.config_file.write_text(
        'aliases = { local = "echo/a", "gpt-*" = "echo/b" }\nproxies.coder.model = "local"\n'
        "[front.default]\n[front.work]"
    )

    assert models("") == ["coder", "echo/demo", "front", "front/work", "local"]
    assert models("lo") == ["local"]
    control.paths.config_file.write_bytes(b"\xff")
    assert models("") == ["echo/demo", "front"]


def test_providers_for_keys(control: Control, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    control.paths.config.mkdir(parents=True)
    control.paths.config_file.write_text('[providers.office]\nkind = "ollama"')

    assert providers("o") == ["office", "ollama", "openai", "openrouter"]


def test_keys_agents_and_models_of_the_configuration(
    control: Control, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Below names that are there; none that would have to be quoted twice."""
    monkeypatch.chdir(tmp_path)
    control.paths.config.mkdir(parents=True)
    control.paths.config_file.write_text(
        'models.agents = { reviewer = "echo/a" }\n[proxies.coder]\nmodel = "echo/a"\n[proxies."echo/a"]\n'
    )

    assert {"default_port", "models.default", "models.agents.reviewer", "proxies.coder.rpm"} <= set(
        config_keys("")
    )
    assert config_keys("proxies.coder.p") == ["proxies.coder.port", "proxies.coder.ping"]
    assert not any("echo" in key for key in config_keys("proxies"))
    assert agents("rev") == ["reviewer"]


@pytest.mark.slow
def test_the_shell_gets_them(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    """As bash asks; with two words typed, so that the fast road of `ps` must keep out of it."""
    control.proxies["echo/demo"] = view()
    monkeypatch.setenv("_PROXYCTL_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "proxyctl down ec")
    monkeypatch.setenv("COMP_CWORD", "2")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "modelproxy.ctl", "ps"], capture_output=True, text=True, check=False
    )

    assert (done.stdout.split(), done.stderr) == (["echo/demo"], "")
