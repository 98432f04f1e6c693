"""Where a provider's key is fetched from, at the moment a worker needs it. It is never written anywhere."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import reading
from .config import Key
from .schema import dotted, provider_path

COMMAND_LIMIT_S = 20.0
_NO_SUCH_COMMAND = 127
"""What a shell ends with when it does not find a program."""


class KeyUnavailableError(Exception):
    """A source that was to give a key does not; the text never quotes one."""

    helps = "mend it or move it away"

    def __init__(self, source: str, trouble: str, field: str = "") -> None:
        super().__init__(f"{source} {trouble}")
        self._source = source
        self._trouble = trouble
        self._field = field
        """Of the provider's table; empty: it is the file of `proxyctl keys`."""

    def told(self, provider: str) -> tuple[str, str]:
        """What is wrong and where that stands, and what helps: no other source is asked while this one stands."""
        if not self._field:
            return str(self), self.helps
        key = dotted((*provider_path(provider), self._field))
        first = "run it in a shell to see why, " if self._field == "api_key_command" else ""
        return (
            f"{self._source} ({key}) {self._trouble}",
            f"{first}mend it, or proxyctl config unset {key}",
        )


class SpoiltError(KeyUnavailableError):
    """The file of `proxyctl keys` cannot be used."""

    helps = 'mend it (a line is like openrouter = "…") or move it away'

    def __init__(self, source: str, trouble: str, text: str | None = None) -> None:
        super().__init__(source, trouble)
        self._text = text
        """What stands there; None: nobody knows."""

    def may_name(self, provider: str) -> bool:
        """Whether a key for it may be there: its name is a word of the file, outside of comments."""
        if self._text is None or "\0" in self._text or "\\" in self._text:  # or it is written in another way
            return True
        lines = (line for line in self._text.splitlines() if not line.lstrip().startswith("#"))
        return re.search(rf"(?<![\w.-]){re.escape(provider)}(?![\w.-])", "\n".join(lines)) is not None


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


def stored(file: Path, provider: str, *, needed: bool = False) -> str | None:
    """What `proxyctl keys set` has left.

    A spoilt file is in the way of those who need a key, and of those whose names stand in it: without theirs they
    would be refused by the provider with no word of why. It keeps nobody else down.
    """
    try:
        key = kept(file).get(provider)
    except SpoiltError as error:
        if needed or error.may_name(provider):
            raise
        return None
    if key is not None and not isinstance(key, str):
        raise KeyUnavailableError(f"{file}:", f"{provider} is not a text")
    return key or None


def kept(file: Path) -> dict[str, Any]:
    """All that `proxyctl keys set` has left, whatever stands there."""
    text = ""
    try:
        text = file.read_text(encoding="utf-8")
        return reading.load(text)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SpoiltError(str(file), f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SpoiltError(f"{file}:{reading.not_utf8(error).line}:", "not UTF-8") from None
    except reading.ConfigError as error:
        # What is wrong with TOML may quote what stands there.
        trouble = error.problems[0].text if text.startswith("\ufeff") else "not TOML"
        raise SpoiltError(f"{file}:{error.problems[0].line}:", trouble, text) from None


def _from_file(name: str) -> str:
    path = Path(name).expanduser()
    source = f"the key file {path}"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise KeyUnavailableError(source, f"cannot be read: {error.strerror}", "api_key_file") from None
    return _one_line(content, source, "api_key_file")


def _from_command(command: str) -> str:
    source, field = "the key command", "api_key_command"
    try:
        done = subprocess.run(command, shell=True, capture_output=True, timeout=COMMAND_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise KeyUnavailableError(source, f"took longer than {COMMAND_LIMIT_S:.0f} s", field) from None
    if done.returncode:
        # Nothing of what it wrote is told, on stderr neither: either may hold the key.
        unfound = ": a program was not found" if done.returncode == _NO_SUCH_COMMAND else ""
        raise KeyUnavailableError(source, f"ended with {done.returncode}{unfound}", field)
    return _one_line(done.stdout, f"{source}'s output", field)


def _one_line(content: bytes, source: str, field: str) -> str:
    try:
        key = content.decode().strip()
    except UnicodeDecodeError:
        raise KeyUnavailableError(source, "is not UTF-8", field) from None
    if not key or "\n" in key:
        raise KeyUnavailableError(source, "must be one line that is not empty", field)
    return key
