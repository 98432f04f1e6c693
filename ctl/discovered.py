"""A bare name that nobody has configured, in the lists of the providers: `codellama` for `ollama/codellama`.

Below everything that is configured, and no guess: it counts where exactly one provider lists exactly this name
now. Ollama's own `:latest` may be left out, as with Ollama itself. What a model is called behind a vendor
(`qwen/qwen3-coder`) is a suggestion only: several vendors may have one that is called so.

Only for what a person types, and only in the command that it is typed for: what is written down or sent on is
the full model id, so nothing that runs changes its meaning with what a provider lists tomorrow.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

import attrs

from .faults import Fault

if TYPE_CHECKING:
    from modelproxy.supervisor.paths import Paths

    from .settings import Settings

PATIENCE_S = 3.0
"""For all providers, which are asked at the same time."""
_LONGEST = 200
_LATEST = ":latest"


@attrs.frozen
class Seen:
    """What the providers have said of a name."""

    matches: list[str]
    """Model ids; it is found when there is one."""
    known: list[str]
    """All that they list, as model ids."""
    silent: list[str]
    """A sentence for each that could not be asked."""


def seek(paths: Paths, found: Settings, word: str) -> Seen | None:
    """Ask the providers; None: this is no name of a model, and nobody was asked."""
    from . import listing
    from .config_view import provider_table

    table = provider_table(found)
    if not is_name(word, table):
        return None
    rows, silent = listing.offered(paths, found, PATIENCE_S)
    tagged = {name for name, one in table.items() if one.kind == "ollama"}
    return Seen(matches(word, rows, tagged), [str(row["id"]) for row in rows], silent)


def is_name(word: str, providers: Collection[str]) -> bool:
    """Whether a provider could list it: no model id, no glob, and not a provider without its model."""
    if not word or len(word) > _LONGEST or word in providers:
        return False
    return all(char.isprintable() and not char.isspace() and char not in "/*?" for char in word)


def matches(word: str, rows: Iterable[dict[str, Any]], tagged: Collection[str]) -> list[str]:
    """The ids of the models that are called so; `tagged` are the providers whose tag goes without saying."""
    return sorted(
        {
            f"{row['provider']}/{word}"
            for row in rows
            if row["name"] == word or (row["provider"] in tagged and row["name"] == word + _LATEST)
        }
    )


def ambiguous(word: str, model_ids: list[str]) -> Fault:
    """For a name that several have."""
    from modelproxy.supervisor.aliases import either

    hint = f"say which one, for example {model_ids[0]}"
    return Fault("ambiguous_name", f'"{word}" may be {either(model_ids)}', hint)
