"""Who may ask a proxy, as the configuration says. Pure."""

from __future__ import annotations

from modelproxy.worker.contract import Access, AccessToken

from .aliases import fits
from .config import Config


def to(name: str, model_id: str, config: Config) -> Access:
    """What holds for the proxy of this name and model."""
    names = (_own(name), model_id)
    return Access(
        required=_is_required(names, config),
        tokens=[
            AccessToken(called, token.sha256, token.rpm, token.max_concurrent)
            for called, token in config.tokens.items()
            if any(fits(one, glob) for glob in token.proxies for one in names)
        ],
    )


def _own(name: str) -> str:
    """Without the port that a second proxy of a model carries."""
    first, _, port = name.rpartition("@")
    return first if first and port.isdecimal() else name


def _is_required(names: tuple[str, str], config: Config) -> bool:
    tables = [config.proxies[name] for name in names if name in config.proxies]
    said = [table.require_token for table in tables if table.require_token is not None]
    return said[0] if said else config.require_token
