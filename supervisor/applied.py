"""What the configuration said when it was last applied: with that an edit is found that no supervisor saw.

Without its secrets, and without what else is compared in another way (see `bare`). A file that cannot be read is
as good as none: then it is not known what has changed, and only told what differs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import attrs

from modelproxy.worker.contract import WITHHELD, strict_converter

from . import fronts, paths
from .config import Config, Key, Provider

# Fields that are missing or too many are those of another version.
_converter = strict_converter(forbid_extra_keys=False)


def bare(config: Config, ports: Mapping[str, int]) -> Config:
    """What may be written down. `ports`: those on which proxies of the configuration stay, whatever it says now."""
    return attrs.evolve(
        config,
        providers={name: _without_secrets(one) for name, one in config.providers.items()},
        proxies={
            name: attrs.evolve(one, port=ports.get(name, one.port)) for name, one in config.proxies.items()
        },
        front={
            table: attrs.evolve(one, port=ports.get(fronts.said(table), one.port))
            for table, one in config.front.items()
        },
        tokens={},  # always as the file says
        prices={},
    )


def _without_secrets(provider: Provider) -> Provider:
    key: Key = attrs.evolve(provider.key, value=None)
    return attrs.evolve(provider, key=key, options=provider.options.without_secrets())


def completed(saved: Config, now: Config) -> Config:
    """With the headers that it says now where their values were left out: nobody can know that one was another."""
    return attrs.evolve(
        saved,
        providers={
            name: _completed(one, now.providers[name].options.headers if name in now.providers else {})
            for name, one in saved.providers.items()
        },
    )


def _completed(provider: Provider, now: Mapping[str, str]) -> Provider:
    was = provider.options.headers
    headers = {name: now.get(name, value) if value == WITHHELD else value for name, value in was.items()}
    return attrs.evolve(provider, options=attrs.evolve(provider.options, headers=headers))


def save(path: Path, config: Config) -> None:
    """Replace the file as a whole. `config` is a bare one."""
    paths.replace(path, json.dumps(_converter.unstructure(config)).encode())


def load(path: Path) -> Config | None:
    """What was saved; None where that is not known."""
    try:
        found: Config = _converter.structure(json.loads(path.read_bytes()), Config)
    except Exception:  # cattrs raises groups of many types; whatever is wrong with it, nothing can be learnt
        return None
    return found


__all__ = ["bare", "completed", "load", "save"]
