"""The front doors as the configuration has them: what their names mean, and which model one is asked for.

`supervisor.fronts` decides when one is brought up; what is here answers before anybody runs.
"""

from __future__ import annotations

from modelproxy.supervisor.schema import NATIVE

from .faults import usage
from .names import FRONT
from .settings import Settings, bad_config

_DEFAULT = "default"


def table_of(found: Settings, name: str) -> str | None:
    """The NAME of [front.NAME] that a name means; None: it means something else, or nothing."""
    kind, slash, table = name.partition("/")
    if kind != FRONT or FRONT in found.table("providers"):
        return None
    if name in found.table("aliases") or name in found.table("proxies"):
        return None
    if not slash or table == _DEFAULT:
        return _DEFAULT
    return table if table in found.table("front") else None


def said(table: str) -> str:
    """What `up` calls the door of a table."""
    return FRONT if table == _DEFAULT else f"{FRONT}/{table}"


def otherwise(found: Settings, table: str) -> str:
    """Where a door leads what no rule takes."""
    return str(found.table("front", table).get("otherwise") or "anthropic")


def model_for(found: Settings, name: str, named: str | None) -> str | None:
    """The model that a request of ours names; None: the proxy's own, which is no door.

    A door passes names on, and Anthropic has no model that is called front.
    """
    if named is not None and not named.strip():
        raise usage("--model wants the name of a model", f'proxyctl ask {name} --model NAME "Hello"')
    table = table_of(found, name)
    if named is not None or table is None:
        return named
    if found.wrong:
        raise bad_config(found.wrong)  # it may well stand in what cannot be read
    default = found.table("models").get("default")
    for own in (default, otherwise(found, table)):
        if own is not None and own not in NATIVE:
            return str(own)
    said = "neither --model nor models.default names one"
    if default is not None:
        said = f'models.default = "{default}" leaves that to whoever asks: --model names none'
    raise usage(
        f"{name} goes by the model that a request names, and {said}",
        f'proxyctl ask {name} --model claude-sonnet-4-5 "Hello"; any alias or proxy will do as well',
    )


__all__ = ["model_for", "otherwise", "said", "table_of"]
