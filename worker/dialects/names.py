"""Names and ids of tools, so that both sides accept them.

Nothing is remembered between requests: what a name or an id becomes follows from itself (and from the
other names of the same request), so a history renders the same in every worker and after every restart.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

_PREFIX, _HASH = 55, 8

_SAFE_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}", re.ASCII)
"""What OpenAI takes; Anthropic takes names of 128."""
_SAFE_ID = re.compile(r"[a-zA-Z0-9_-]{1,40}", re.ASCII)
_LONGEST_SAID = 200
"""Of a tool that does not exist; Anthropic refuses more in a history."""
_ANTHROPIC_ID = re.compile(r"[a-zA-Z0-9_-]+", re.ASCII)


def is_fit_for_anthropic(client_id: str) -> bool:
    """Whether Anthropic takes this as the id of a call; it does not mind how long it is."""
    return _ANTHROPIC_ID.fullmatch(client_id) is not None


def upstream_id(client_id: str) -> str:
    """The id of a call as the provider is shown it; the client's own wherever that is harmless."""
    return client_id if _SAFE_ID.fullmatch(client_id) else "call_" + _digest(client_id)[:24]


def mistral_id(client_id: str) -> str:
    """Nine letters and digits, which is all that Mistral takes."""
    return _digest(client_id)[:9]


def short(name: str, hash_length: int = _HASH) -> str:
    """A name that every provider takes: itself, or its beginning and a hash of all of it."""
    if _SAFE_NAME.fullmatch(name):
        return name
    begin = re.sub(r"[^a-zA-Z0-9_-]", "_", name)[: _PREFIX + _HASH - hash_length]
    return f"{begin}_{_digest(name)[:hash_length]}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Names:
    """The tools of one request under the names that the provider sees, and back."""

    def __init__(self, offered: Iterable[str]) -> None:
        """`offered`: the client's names, those of the history behind those of the tools."""
        self._out: dict[str, str] = {}
        self._back: dict[str, str] = {}
        names = list(dict.fromkeys(offered))
        # What needs no change keeps its name, whatever a longer one would like to be called.
        for name in sorted(names, key=lambda name: short(name) != name):
            self._add(name)

    def _add(self, name: str) -> None:
        seen = next(
            (seen for seen in (short(name), short(name, 16), short(name, 32)) if seen not in self._back),
            short(name, 32),
        )
        self._out[name] = seen
        self._back[seen] = name

    @property
    def seen(self) -> frozenset[str]:
        """All of them as the provider sees them."""
        return frozenset(self._back)

    def out(self, name: str) -> str:
        """As the provider sees it: in definitions, in the history and in `tool_choice` alike."""
        return self._out.get(name) or short(name)

    def back(self, name: str) -> str:
        """The client's name for what the provider called; a near miss is corrected."""
        return self._back.get(name) or closest(name, self._out)


def closest(name: str, offered: Iterable[str]) -> str:
    """The one offered tool that a model meant, or the name as it is: the client then says "no such tool"."""
    names = list(offered)
    if name in names:
        return name
    for alike in (_same_letters, _same_end):
        found = [other for other in names if alike(other, name)]
        if len(found) == 1:
            return found[0]
    return name[:_LONGEST_SAID]


def _same_letters(offered: str, said: str) -> bool:
    return offered.casefold() == said.casefold()


def _same_end(offered: str, said: str) -> bool:
    """`functions.Bash` for `Bash`, or `create_issue` for `mcp__github__create_issue`."""
    one, other = offered.casefold(), said.casefold()
    return bool(other) and (_ends_with(other, one) or _ends_with(one, other))


def _ends_with(longer: str, shorter: str) -> bool:
    rest = longer.removesuffix(shorter)
    return rest != longer and rest.endswith((".", ":", "/", "__"))
