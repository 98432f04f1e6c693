"""What may be typed where a model is wanted: a model id, an alias, or a proxy's name of the configuration.

A model id is taken as it is; only a bare word costs a look into the files, so that a typing error is answered
here and starts no supervisor.
"""

from __future__ import annotations

import os
from typing import Any

from modelproxy.supervisor.paths import Paths

from . import typed
from .faults import Fault

_VARIABLES = ("MODELPROXY_DEFAULT_PORT", "MODELPROXY_MODEL", "MODELPROXY_FALLBACK")
"""As in the schema; a test compares them. Said twice because reading the schema costs more than asking."""
FRONT = "front"
"""The front door; `front/NAME` is one of several."""
_PROJECT_FILE = ".modelproxy.toml"


def fallback(paths: Paths, texts: list[str] | None) -> list[str] | None:
    """Where requests may go besides, as `--fallback` says it: what `up` takes, or the caller's own request."""
    return typed.fallback(texts, lambda text: model(paths, text, words=(typed.OWN,)))


def model(paths: Paths, text: str, *, words: tuple[str, ...] = ()) -> str:
    """`text`, if it can mean a model here. `words` are known as well, to whoever has mistyped one."""
    if text == FRONT:
        return text
    if not text or "/" in text or not text.isprintable():
        return typed.model_id(text)
    from modelproxy.supervisor import aliases
    from modelproxy.supervisor.values import close

    from . import settings

    found = settings.read(paths)
    names, proxies = found.table("aliases"), found.table("proxies")
    if aliases.find(text, names) is not None or text in proxies:
        return text
    if found.wrong:
        raise settings.bad_config(found.wrong)  # it may well stand in what cannot be read
    known = [*words, *names, *proxies, *([FRONT] if close(text, [FRONT]) else [])]
    hint = f"{aliases.unknown(text, known)}; " if known else f"for example ollama/{text}; "
    hint += f"proxyctl models search {text.partition(':')[0]} asks the providers"
    raise Fault("bad_model_id", f'Invalid model "{text}". {typed.MODEL_FORM}', hint)


def target(paths: Paths, text: str) -> str:
    """What an alias stands for; everything else as it is. For what names a proxy that is or was there."""
    if "/" in text or text.isdigit():
        return text
    from modelproxy.supervisor import aliases

    from . import settings

    return aliases.find(text, settings.read(paths).table("aliases")) or text


def overlay(paths: Paths, *, trust_project: bool = False) -> dict[str, Any]:
    """What this folder and this shell say over the user's file; nearly always nothing, and then it costs nothing."""
    if not os.path.exists(_PROJECT_FILE) and not any(os.environ.get(name) for name in _VARIABLES):
        return {}
    from . import settings

    return settings.overlay(paths, trust_project=trust_project)
