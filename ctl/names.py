"""What may be typed where a model is wanted: a model id, an alias, a proxy's name, or what a provider lists.

A model id is taken as it is; only a bare word costs a look into the files, and only one that stands nowhere in
them a question to the providers (`discovered`). So a typing error is answered here and starts no supervisor,
which hears of full names only, and asks nobody in its one loop.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from modelproxy.supervisor.paths import Paths

from . import typed
from .faults import Fault, talk

_VARIABLES = ("MODELPROXY_DEFAULT_PORT", "MODELPROXY_MODEL", "MODELPROXY_FALLBACK")
"""As in the schema; a test compares them. Said twice because reading the schema costs more than asking."""
FRONT = "front"
"""The front door; `front/NAME` is one of several."""
_PROJECT_FILE = ".modelproxy.toml"


def fallback(paths: Paths, texts: list[str] | None, *, trust_project: bool = False) -> list[str] | None:
    """Where requests may go besides, as `--fallback` says it: what `up` takes, or the caller's own request."""

    def one(text: str) -> str:
        return model(paths, text, words=(typed.OWN,), trust_project=trust_project)

    return typed.fallback(texts, one)


def model(
    paths: Paths,
    text: str,
    *,
    words: tuple[str, ...] = (),
    base_url: str | None = None,
    trust_project: bool = False,
) -> str:
    """`text`, if it can mean a model here; the full id of one that a provider was found to have.

    `words` are known as well, to whoever has mistyped one. With a `base_url` no list tells what is there.
    """
    if text == FRONT:
        return text
    if not text or "/" in text or not text.isprintable():
        return typed.model_id(text)
    from modelproxy.supervisor import aliases
    from modelproxy.supervisor.values import close

    from . import discovered, settings

    found = settings.read(paths, trust_project=trust_project)
    names, proxies = found.table("aliases"), found.table("proxies")
    if aliases.find(text, names) is not None or text in proxies:
        return text
    found.refuse_withheld(text)
    if found.wrong:
        raise settings.bad_config(found.wrong)  # it may well stand in what cannot be read
    seen = None if base_url is not None else discovered.seek(paths, found, text)
    if seen is not None and len(seen.matches) == 1:
        [model_id] = seen.matches
        talk(f"note: {text} is {model_id}, discovered in the list of {model_id.partition('/')[0]}")
        return model_id
    if seen is not None and seen.matches:
        raise discovered.ambiguous(text, seen.matches)
    if (uses := found.table("models", "agents").get(text)) is not None:
        raise Fault("bad_model_id", f'Invalid model "{text}". {typed.MODEL_FORM}', _agents(text, uses))
    known = [*words, *names, *proxies, *([FRONT] if close(text, [FRONT]) else [])]
    known += seen.known if seen is not None else ()
    hints = [aliases.unknown(text, known) if known else f"for example ollama/{text}"]
    hints += seen.silent if seen is not None else ()
    hints += [] if base_url is None else [f"with --base-url say the provider too, like openai/{text}"]
    raise Fault("bad_model_id", f'Invalid model "{text}". {typed.MODEL_FORM}', "; ".join(hints))


def _agents(name: str, model: str) -> str:
    from modelproxy.supervisor.schema import NATIVE

    if model in NATIVE:
        return f"{name} is the name of an agent, which uses its own model, without a proxy"
    return f"{name} is the name of an agent: name its model, {model}, or say proxyctl agents ensure {name}"


def target(paths: Paths, text: str) -> str:
    """What an alias stands for; else the one model known here that is called so behind its provider's name.

    For what names a proxy that is or was there; everything else is taken as it is.
    """
    if "/" in text or text.isdigit():
        return text
    from modelproxy.supervisor import aliases

    from . import discovered, offline, settings

    found = settings.read(paths)
    if text in found.table("proxies") or aliases.is_reserved(text):
        return text  # as `up` means it, whatever glob it fits
    alias = aliases.find(text, found.table("aliases"))
    if alias is not None:
        return alias
    rows, _ = offline.views(paths, everything=True)
    if any(row["name"] == text for row in rows):
        return text
    if (held := found.withheld.named(text)) is not None:
        return held.target  # what it came up as while it counted
    meant = aliases.called(text, {str(row["model"]): bool(row["wanted"]) for row in rows})
    if len(meant) > 1:
        raise discovered.ambiguous(text, meant)
    return meant[0] if meant else text


def nearest(target: str, known: Sequence[str]) -> str:
    """`did you mean …? `, in front of another hint; empty when nothing is near."""
    from difflib import get_close_matches

    within = [name for name in known if target.lower() in name.lower()][:3]
    close = within or get_close_matches(target, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}? " if close else ""


def overlay(paths: Paths, wanted: Iterable[str] = (), *, trust_project: bool = False) -> dict[str, Any]:
    """What this folder and this shell say over the user's file; nearly always nothing, and then it costs nothing.

    `wanted` are the names that the command needs: a Fault for one that does not count here for want of trust.
    """
    if not os.path.exists(_PROJECT_FILE) and not any(os.environ.get(name) for name in _VARIABLES):
        return {}
    from . import settings

    return settings.overlay(paths, wanted, trust_project=trust_project)
