"""Which model a name means. Pure; reads the tables, never guesses.

A real name (`provider/model-name` of a provider that there is) before an exact alias before the longest glob
that fits. One hop: what an alias stands for is a model id. A word that means something by itself (`front`, `all`)
is no alias, whatever glob it fits.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import attrs

from modelproxy.worker.model_ids import REMOTE, parted

from .schema import KINDS, RESERVED
from .values import close

NEW_PROFILE = "proxyctl config set remotes.NAME.url http://127.0.0.1:3456 makes one"
_LISTED = 10
_SIMILAR = 0.4


@attrs.frozen
class Resolved:
    requested: str
    model_id: str
    source: str
    """`exact`: it is the model's own name. `config`: an alias of the configuration. What the providers list is
    for `proxyctl` to find out, below both."""


def resolve(name: str, aliases: Mapping[str, str], providers: Collection[str]) -> Resolved | None:
    """None: nothing is called so."""
    if is_model_id(name, providers):
        return Resolved(name, name, "exact")
    target = find(name, aliases)
    return None if target is None else Resolved(name, target, "config")


def is_model_id(name: str, providers: Collection[str]) -> bool:
    provider, model = parted(name)
    return bool(model) and provider in providers


def providers_of(providers: Iterable[str], remotes: Iterable[str]) -> set[str]:
    """What may stand before a model's name, with these tables in the configuration."""
    return {*KINDS, *providers, *(f"{REMOTE}/{name}" for name in remotes)}


def no_profile(provider: str, providers: Collection[str]) -> str | None:
    """What to say where `provider` would be another modelproxy and is none that is configured; None: it would not."""
    kind, _, name = provider.partition("/")
    if kind != REMOTE or provider in providers:
        return None
    if not name:
        return f"{REMOTE} alone is no provider: write {REMOTE}/NAME/provider/model-name, with a table [remotes.NAME]"
    known = sorted(one.partition("/")[2] for one in providers if one.startswith(f"{REMOTE}/"))
    near = close(name, known)
    meant = f'; did you mean "{near}"?' if near else f"; known are {', '.join(known)}" if known else ""
    return f"there is no table [remotes.{name[:200]}]{meant}"


def unsupported(provider: str, providers: Collection[str]) -> tuple[str, str]:
    """What to say of a provider that is none, and what there is."""
    if (said := no_profile(provider, providers)) is not None:
        return said[:1].upper() + said[1:], NEW_PROFILE
    near = close(provider, providers)
    meant = f'; did you mean "{near}"?' if near else ""
    others = set() if any(name.startswith(f"{REMOTE}/") for name in providers) else {f"{REMOTE}/NAME"}
    return (
        f'Unsupported provider "{provider[:200]}"{meant}',
        f"supported: {', '.join(sorted({*providers, *others}))}",
    )


def find(name: str, aliases: Mapping[str, str]) -> str | None:
    """What its entry says; None where it has none, or is a word of ours."""
    found = None if is_reserved(name) else entry(name, aliases)
    return None if found is None else aliases[found]


def is_reserved(name: str) -> bool:
    """Whether it is a word of ours; `front/NAME` is one of several fronts."""
    return name in RESERVED or name.startswith("front/")


def entry(name: str, names: Collection[str]) -> str | None:
    """The exact name, else the longest glob that fits, else None. Of two equally long the first.

    Agents are looked up by it as well.
    """
    if name in names:
        return name
    return min((glob for glob in names if is_glob(glob) and fits(name, glob)), key=distance, default=None)


def distance(name: str) -> tuple[bool, int]:
    """For sorting: of names in this order the first that fits is the `entry`."""
    return (True, -len(name)) if is_glob(name) else (False, 0)


def is_glob(text: str) -> bool:
    return "*" in text or "?" in text


def fits(name: str, glob: str) -> bool:
    """`*` is any text, `?` any one character; nothing else is special."""
    pattern = "".join(".*" if char == "*" else "." if char == "?" else re.escape(char) for char in glob)
    return re.fullmatch(pattern, name, re.DOTALL) is not None


def called(word: str, model_ids: Mapping[str, bool]) -> list[str]:
    """The model ids that are `word` behind their provider's name; those marked True go before all others."""
    meant = [model_id for model_id in sorted(model_ids) if word and parted(model_id)[1] == word]
    return [model_id for model_id in meant if model_ids[model_id]] or meant


def either(names: Sequence[str]) -> str:
    """`a or b`, `a, b or c`."""
    return " or ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """What there is, the most similar first; of a model id the part behind a slash may be what is similar."""
    likeness = {other: _likeness(name, other) for other in set(known)}
    return sorted(likeness, key=lambda other: (-likeness[other], other))[:_LISTED]


def _likeness(name: str, other: str) -> float:
    """From 0 to 1; below what anybody would call similar all are alike, and the alphabet decides."""
    matcher = difflib.SequenceMatcher(None, b=name.lower())
    found = 0.0
    for part in {other, other.partition("/")[2], other.rpartition("/")[2]}:
        matcher.set_seq1(part.lower())
        found = max(found, matcher.ratio())
    return found if found >= _SIMILAR else 0.0


def unknown(name: str, known: Iterable[str]) -> str:
    """The sentence for a name that nothing has."""
    names = list(known)
    listed = ", ".join(nearest(name, names)) or "none is configured"
    more = f" and {len(set(names)) - _LISTED} more" if len(set(names)) > _LISTED else ""
    return f"Model '{name[:200]}' not available. Available models: {listed}{more}"
