"""`proxyctl tokens`: access tokens in the user's config.toml, each by its hash.

The token itself is random and long, is shown once, and is kept by nobody. Its hash stands beside its limits, so
that both come and go in one change of one file.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Any

from modelproxy.supervisor import editing
from modelproxy.supervisor.config import Token, parse
from modelproxy.supervisor.paths import Paths
from modelproxy.supervisor.reading import ConfigError

from . import config_file
from .faults import Fault, usage

_PREFIX = "mp-"
_RANDOM_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_SHOWN = 8
"""Digits of the hash by which a person can tell two tokens apart."""


def add(
    paths: Paths, name: str, *, rpm: int | None, max_concurrent: int | None, proxies: list[str]
) -> tuple[str, dict[str, Any]]:
    """Make a token; the token, which nobody can ever show again, and its row."""
    if not _NAME.fullmatch(name):
        raise usage(
            f'"{name}" is not a name for a token',
            "letters, digits and . _ - only, at most 64, for example ci",
        )
    token = _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    said = {
        "sha256": hashlib.sha256(token.encode()).hexdigest(),
        "rpm": rpm,
        "max_concurrent": max_concurrent,
        "proxies": proxies or None,
    }
    values: dict[str, Any] = {key: value for key, value in said.items() if value is not None}

    def edit(old: str) -> str:
        if editing.without(old, ("tokens", name)) is not None:
            hint = f"proxyctl tokens remove {name}, or choose another name"
            raise Fault("exists", f'there is a token "{name}" already', hint)
        for key, value in values.items():
            old = editing.with_value(old, ("tokens", name, key), value)
        return old

    config_file.change(paths.config_file, edit)
    return token, _row(name, Token(**values))


def remove(paths: Paths, name: str) -> None:
    """Take it out; it is good nowhere any more."""
    if not config_file.unset(paths, ("tokens", name)):
        raise Fault("unknown_token", f'there is no token "{name}"', "proxyctl tokens list")


def listed(paths: Paths) -> list[dict[str, Any]]:
    """Which there are, with their limits. None of them can be shown."""
    try:
        config = parse(config_file.text_of(paths.config_file))
    except ConfigError as error:
        raise Fault("bad_config", error.told(paths.config_file), "mend it and say it again") from None
    return [_row(name, token) for name, token in sorted(config.tokens.items())]


def _row(name: str, token: Token) -> dict[str, Any]:
    return {
        "name": name,
        "sha256": f"{token.sha256[:_SHOWN]}…",
        "rpm": token.rpm,
        "max_concurrent": token.max_concurrent,
        "proxies": list(token.proxies),
    }


def told(row: dict[str, Any]) -> str:
    """Its limits in words."""
    limits = [f"{key}={row[key]}" for key in ("rpm", "max_concurrent") if row[key] is not None]
    words = f"{', '.join(limits)} in each proxy" if limits else "no limits"
    return f"{words}  {' '.join(row['proxies'])}"
