"""The user's configuration file as classes: every problem at once, with its path. Pure.

    spawn = "exec"                       # how the daemon starts its workers; read when it starts itself
    [providers.work]                     # `proxyctl up work/some-model`
    kind = "openai"
    base_url = "https://llm.example.net/v1"
    api_key_env = "WORK_API_KEY"

A provider named like a kind has that kind, and what it does not say is the kind's own.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import attrs

from modelproxy.worker.contract import Options, Timeouts


@attrs.frozen
class Key:
    """Where a provider's key comes from; at most one of these is set."""

    value: str | None = attrs.field(default=None, repr=False)
    env: str | None = None
    file: str | None = None
    command: str | None = None


@attrs.frozen
class Provider:
    """A service account: what speaks there, where, with which key and limits."""

    kind: str
    base_url: str | None = None
    key: Key = Key()
    needs_key: bool = False
    options: Options = attrs.Factory(Options)
    timeouts: Timeouts = attrs.Factory(Timeouts)
    think: dict[str, bool | str] = attrs.Factory(dict)
    """For Ollama: per model name."""

    picker_alias: dict[str, str] = attrs.Factory(dict)
    """Per model name."""

    def options_for(self, model: str) -> Options:
        return attrs.evolve(
            self.options,
            think=self.think.get(model, self.options.think),
            picker_alias=self.picker_alias.get(model),
        )


BUILT_IN = {
    "echo": Provider("echo"),
    "ollama": Provider("ollama", "http://127.0.0.1:11434"),
    "openrouter": Provider(
        "openrouter", "https://openrouter.ai/api/v1", Key(env="OPENROUTER_API_KEY"), needs_key=True
    ),
    "openai": Provider("openai", "https://api.openai.com/v1", Key(env="OPENAI_API_KEY"), needs_key=True),
    # Without a key of ours the caller's own credential passes through.
    "anthropic": Provider("anthropic", "https://api.anthropic.com"),
}
KINDS = tuple(BUILT_IN)


@attrs.frozen
class Config:
    providers: dict[str, Provider]
    spawn: str | None = None
    """`fork` or `exec`; None is what this system does best."""


class ConfigError(Exception):
    """All that is wrong with the file, one sentence each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def parse(text: str) -> Config:
    """The configuration in `text`, over the built-in providers. Raises ConfigError with every problem."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"not TOML: {error}"]) from None
    reader = _Reader()
    providers = dict(BUILT_IN)
    for name, table in reader.tables(document, "providers", known=("providers", "spawn")):
        provider = _provider(reader, f"providers.{name}", name, table)
        if provider is not None:
            providers[name] = provider
    spawn = reader.get(document, "", "spawn", _spawn)
    if reader.problems:
        raise ConfigError(reader.problems)
    return Config(providers, spawn)


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class _Reader:
    """Collects problems, so that one bad value does not hide the next."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def complain(self, path: str, text: str) -> None:
        self.problems.append(f"{path}: {text}")

    def tables(
        self, document: dict[str, Any], section: str, *, known: tuple[str, ...]
    ) -> list[tuple[str, dict[str, Any]]]:
        self.only(document, "", known)
        found = document.get(section, {})
        if not isinstance(found, dict):
            self.complain(section, "must be a table")
            return []
        tables = []
        for name, table in found.items():
            if not isinstance(table, dict):
                self.complain(f"{section}.{name}", "must be a table")
            elif not _NAME.fullmatch(name):
                self.complain(f"{section}.{name}", "a name has letters, digits and . _ - only")
            else:
                tables.append((name, table))
        return tables

    def only(self, table: dict[str, Any], path: str, known: tuple[str, ...]) -> None:
        for key in table:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                guess = f'; did you mean "{near[0]}"?' if near else f"; known are {', '.join(known)}"
                self.complain(f"{path}.{key}".lstrip("."), f"unknown key{guess}")

    def get(self, table: dict[str, Any], path: str, key: str, check: Callable[[Any], Any]) -> Any:
        """The checked value, None when it is absent or wrong."""
        if key not in table:
            return None
        try:
            return check(table[key])
        except ValueError as error:
            self.complain(f"{path}.{key}".lstrip("."), str(error))
            return None


_KEY_FIELDS = ("api_key", "api_key_env", "api_key_file", "api_key_command")
_TIMEOUTS = {
    "connect_timeout": "connect_s",
    "first_byte_timeout": "first_byte_s",
    "idle_timeout": "idle_s",
    "total_timeout": "total_s",
}


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a text that is not empty")
    return value


def checked_url(value: Any) -> str:
    """An http or https URL without a slash at its end. ValueError says what is wrong with it."""
    text = _text(value)
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, a bracket that is not closed
        usable = False
    if not usable or any(char.isspace() or not char.isprintable() for char in text):
        raise ValueError(f'"{text}" is not a URL like http://127.0.0.1:11434')
    return text.rstrip("/")


def _spawn(value: Any) -> str:
    if value not in ("fork", "exec"):
        raise ValueError('must be "fork" or "exec"')
    return str(value)


def _kind(value: Any) -> str:
    if value not in KINDS:
        raise ValueError(f"must be one of {', '.join(KINDS)}")
    return str(value)


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def _seconds(value: Any) -> float:
    """`10`, `"10s"`, `"5m"`."""
    if type(value) in (int, float):
        number = float(value)
    else:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)?", value) if isinstance(value, str) else None
        if match is None:
            raise ValueError('must be seconds or a text like "10s", "5m"')
        number = float(match[1]) * _UNITS[match[2] or "s"]
    if not math.isfinite(number) or not 0 < number <= 86400:
        raise ValueError("must be more than 0 and at most a day")
    return number


def _number(low: int, high: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return value

    return check


def _num_ctx(value: Any) -> int | None:
    return None if value == "auto" else _number(512, 100_000_000)(value)


def _keep_alive(value: Any) -> str | int:
    if type(value) is int or isinstance(value, str):
        return value
    raise ValueError('must be a text like "10m" or a number of seconds')


def _think(value: Any) -> dict[str, bool | str]:
    if not isinstance(value, dict) or not all(
        type(wish) is bool or isinstance(wish, str) for wish in value.values()
    ):
        raise ValueError('must be a table of model = true, false or "low", "medium", "high"')
    return dict(value)


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("must be a list of texts")
    return list(value)


def _headers(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError("must be a table of texts")
    if any(char in f"{name}{text}" for name, text in value.items() for char in "\r\n\0"):
        raise ValueError("has a line break in it")
    return dict(value)


SERVERS = (
    "openai", "openrouter", "vllm", "llama.cpp", "lmstudio", "groq", "deepseek", "moonshot", "mistral", "gemini",
    "xai", "together", "fireworks", "cerebras",
)  # fmt: skip
"""As in the worker's table of servers; a test compares the two, because the packages share no code."""


def _server(value: Any) -> str:
    if value not in SERVERS:
        raise ValueError(f"must be one of {', '.join(SERVERS)}")
    return str(value)


def _picker_alias(value: Any) -> dict[str, str]:
    """Claude Code leaves out of its picker what begins with anything else."""
    if not isinstance(value, dict) or not all(
        isinstance(name, str) and re.fullmatch(r"(claude|anthropic)[\w.:/-]*", name, re.ASCII)
        for name in value.values()
    ):
        raise ValueError('must be a table of model = "claude-…" or "anthropic-…"')
    return dict(value)


def _api(value: Any) -> str:
    if value != "anthropic":
        raise ValueError('must be "anthropic" or left out')
    return "anthropic"


_OPTIONS: dict[str, Callable[[Any], Any]] = {
    "headers": _headers,
    "num_ctx": _num_ctx,
    "keep_alive": _keep_alive,
    "context_window": _number(512, 100_000_000),
    "max_output_tokens": _number(1, 10_000_000),
    "capabilities": _texts,
    "api": _api,
    "server": _server,
    "retries": _number(0, 10),
    "hold": _seconds,
    "ping": _seconds,
}
_FIELDS = ("kind", "base_url", *_KEY_FIELDS, *_TIMEOUTS, "think", "picker_alias", *_OPTIONS)


def _provider(reader: _Reader, path: str, name: str, table: dict[str, Any]) -> Provider | None:
    reader.only(table, path, _FIELDS)
    kind = reader.get(table, path, "kind", _kind)
    if kind is None:
        if "kind" in table:
            return None
        if name not in BUILT_IN:
            reader.complain(path, f"kind is missing: one of {', '.join(KINDS)}")
            return None
        kind = name
    default = BUILT_IN[kind] if kind == name else Provider(kind)
    base_url = reader.get(table, path, "base_url", checked_url) or default.base_url
    if base_url is None and kind != "echo":
        base_url = BUILT_IN[kind].base_url if kind in ("ollama", "openrouter", "anthropic") else None
        if base_url is None:
            reader.complain(path, "base_url is missing")
    options = {key: reader.get(table, path, key, check) for key, check in _OPTIONS.items()}
    options["hold_s"], options["ping_s"] = options.pop("hold"), options.pop("ping")
    limits = {field: reader.get(table, path, key, _seconds) for key, field in _TIMEOUTS.items()}
    return Provider(
        kind=kind,
        base_url=base_url,
        key=_key(reader, path, table) or default.key,
        # Who says where a key comes from wants one.
        needs_key=default.needs_key or any(field in table for field in _KEY_FIELDS),
        options=Options(**{key: value for key, value in options.items() if value is not None}),
        timeouts=Timeouts(**{key: value for key, value in limits.items() if value is not None}),
        think=reader.get(table, path, "think", _think) or {},
        picker_alias=reader.get(table, path, "picker_alias", _picker_alias) or {},
    )


def _key(reader: _Reader, path: str, table: dict[str, Any]) -> Key | None:
    given = [field for field in _KEY_FIELDS if field in table]
    if len(given) > 1:
        reader.complain(path, f"give only one of {', '.join(given)}")
    values = {field: reader.get(table, path, field, _text) for field in given}
    if not values:
        return None
    return Key(
        value=values.get("api_key"),
        env=values.get("api_key_env"),
        file=values.get("api_key_file"),
        command=values.get("api_key_command"),
    )
