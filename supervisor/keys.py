"""Where a provider's key is fetched from, at the moment a worker needs it. It is never written anywhere."""

from __future__ import annotations

import os
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path

from .config import Key

COMMAND_LIMIT_S = 20.0


class KeyUnavailableError(Exception):
    """The source that the configuration names does not give a key; the text never quotes one."""


def fetch(key: Key, environment: Mapping[str, str] | None = None) -> str | None:
    """The key; None when the configured variable is not set here and nothing else is configured.

    A variable goes before what the file says: it is how one shell or one service differs from the rest.
    """
    if key.env is not None:
        found = (os.environ if environment is None else environment).get(key.env)
        if found:
            return found
    if key.value is not None:
        return key.value
    if key.file is not None:
        return _from_file(key.file)
    if key.command is not None:
        return _from_command(key.command)
    return None


def stored(file: Path, provider: str) -> str | None:
    """What `proxyctl keys set` has left."""
    try:
        keys = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KeyUnavailableError(f"{file} cannot be read: {error.strerror}") from None
    except ValueError:
        raise KeyUnavailableError(f"{file} is not TOML") from None
    key = keys.get(provider)
    if key is not None and not isinstance(key, str):
        raise KeyUnavailableError(f"{file}: {provider} is not a text")
    return key or None


def _from_file(name: str) -> str:
    path = Path(name).expanduser()
    try:
        return _one_line(path.read_text(encoding="utf-8"), f"the key file {path}")
    except OSError as error:
        raise KeyUnavailableError(f"the key file {path} cannot be read: {error.strerror}") from None


def _from_command(command: str) -> str:
    try:
        done = subprocess.run(
            command, shell=True, capture_output=True, text=True, timeout=COMMAND_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise KeyUnavailableError(f"the key command took longer than {COMMAND_LIMIT_S:.0f} s") from None
    if done.returncode:
        raise KeyUnavailableError(f"the key command ended with {done.returncode}")
    return _one_line(done.stdout, "the key command's output")


def _one_line(text: str, what: str) -> str:
    key = text.strip()
    if not key or "\n" in key:
        raise KeyUnavailableError(f"{what} must be one line that is not empty")
    return key
