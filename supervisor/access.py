"""Who may ask a proxy, as the configuration says. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from modelproxy.worker.contract import Access, AccessToken

from . import fronts
from .aliases import fits
from .config import Config, Front, ProxyOptions, Token


def to(name: str, model_id: str, config: Config) -> Access:
    """What holds for the proxy of this name and model."""
    names = [_own(name), model_id]
    required = _is_required(names, config)
    if not all(_is_good(token, names) for token in config.tokens.values()):
        # Whoever may use a front is known to what it leads to: that proxy counts, and may demand a token too.
        names += fronts.doors_to(names[0], config)
    return Access(
        required=required,
        tokens=[
            AccessToken(called, token.sha256, token.rpm, token.max_concurrent)
            for called, token in config.tokens.items()
            if _is_good(token, names)
        ],
    )


def _is_good(token: Token, names: Iterable[str]) -> bool:
    return any(fits(one, glob) for glob in token.proxies for one in names)


def _own(name: str) -> str:
    """Without the port that a second proxy of a model carries."""
    first, _, port = name.rpartition("@")
    return first if first and port.isdecimal() else name


def _is_required(names: Sequence[str], config: Config) -> bool:
    tables: list[ProxyOptions | Front] = [config.proxies[name] for name in names if name in config.proxies]
    tables += [table for name, table in fronts.tables(config).items() if name in names]
    said = [table.require_token for table in tables if table.require_token is not None]
    return said[0] if said else config.require_token
