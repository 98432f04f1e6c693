"""Which model a name means. Pure; reads the tables, never guesses.

A real name (`provider/model-name` of a provider that there is) before an exact alias before the longest glob
that fits. One hop: what an alias stands for is a model id.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping

import attrs

_LISTED = 10


@attrs.frozen
class Resolved:
    requested: str
    model_id: str
    source: str
    """`exact`: it is the model's own name. `config`: an alias of the configuration."""


def resolve(name: str, aliases: Mapping[str, str], providers: Collection[str]) -> Resolved | None:
    """None: nothing is called so."""
    if is_model_id(name, providers):
        return Resolved(name, name, "exact")
    target = find(name, aliases)
    return None if target is None else Resolved(name, target, "config")


def is_model_id(name: str, providers: Collection[str]) -> bool:
    provider, _, model = name.partition("/")
    return bool(model) and provider in providers


def find(name: str, aliases: Mapping[str, str]) -> str | None:
    """The exact alias, else the longest glob that fits, else None. Of two equally long the first."""
    if name in aliases:
        return aliases[name]
    fitting = [glob for glob in aliases if is_glob(glob) and fits(name, glob)]
    return aliases[max(fitting, key=len)] if fitting else None


def is_glob(text: str) -> bool:
    return "*" in text or "?" in text


def fits(name: str, glob: str) -> bool:
    """`*` is any text, `?` any one character; nothing else is special."""
    pattern = "".join(".*" if char == "*" else "." if char == "?" else re.escape(char) for char in glob)
    return re.fullmatch(pattern, name, re.DOTALL) is not None


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """What there is, the most similar first."""
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    return [*close, *(other for other in names if other not in close)][:_LISTED]


def unknown(name: str, known: Iterable[str]) -> str:
    """The sentence for a name that nothing has."""
    names = list(known)
    listed = ", ".join(nearest(name, names)) or "none is configured"
    more = f" and {len(set(names)) - _LISTED} more" if len(set(names)) > _LISTED else ""
    return f"Model '{name[:200]}' not available. Available models: {listed}{more}"
