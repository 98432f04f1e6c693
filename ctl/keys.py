"""`proxyctl keys`: the providers' keys in a file of their own, which only its owner can read.

The file is ours to write (the configuration is not), so it is written as a whole, and by rename: a crash
leaves the old one or the new one.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from modelproxy.supervisor.keys import SpoiltError, kept

from .faults import Fault, usage
from .files import alone, replace

_NAME = re.compile(r"(remote/)?[A-Za-z0-9][A-Za-z0-9_.-]*")
_MEND = "mend it or move it away"
_HEADING = "# Keys of providers, written by proxyctl keys set. Nobody else should read this file.\n"


def set_key(file: Path, provider: str, key: str) -> None:
    """Remember `key` for `provider`."""
    if not _NAME.fullmatch(provider):
        raise usage(
            f'"{provider}" is not the name of a provider', "for example: proxyctl keys set openrouter"
        )
    with alone(file):
        _write(file, {**read(file), provider: key})


def unset_key(file: Path, provider: str) -> None:
    """Forget it."""
    with alone(file):
        keys = read(file)
        if provider not in keys:
            raise Fault("unknown_key", f'there is no key for "{provider}" in {file}', "proxyctl keys list")
        del keys[provider]
        _write(file, keys)


def mask(key: str) -> str:
    """The last four characters, and of a short one nothing at all."""
    return f"***{key[-4:]}" if len(key) >= 12 else "***"


def masked(file: Path) -> list[dict[str, Any]]:
    """Which keys there are."""
    return [{"provider": name, "key": mask(key)} for name, key in sorted(read(file).items())]


def read(file: Path) -> dict[str, str]:
    try:
        document = kept(file)
    except SpoiltError as error:
        raise Fault("bad_config", str(error), error.helps) from None
    if not all(isinstance(key, str) for key in document.values()):
        what = f'{file} has something else in it than lines like openrouter = "…"'
        raise Fault("bad_config", what, _MEND)
    return document


def _write(file: Path, keys: dict[str, str]) -> None:
    # A JSON string is a TOML string too, as long as nothing in it needs an escape that TOML lacks.
    lines = [f"{json.dumps(name)} = {json.dumps(key)}\n" for name, key in sorted(keys.items())]
    replace(file, _HEADING + "".join(lines))
