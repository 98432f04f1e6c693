"""Changes to a TOML text that leave the rest of it as its author wrote it, comments included. Pure.

tomlkit is imported when something is edited, and only then.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any

from . import astray, schema
from .toml_lines import Path
from .values import ListOf, Section, TableOf, Text

_SHORT = {"default_model": "models.default"}
"""Other spellings of keys, for fingers that know them from elsewhere."""


_PART = re.compile(r"""("(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[^\s.="']+)(?:\.(?=.)|$)""")
"""One part of a key. Looser than TOML: a shell eats quotes, and only a dot needs them."""


def path_of(key: str) -> Path:
    """`aliases."claude-*"` in its parts; `aliases.claude-*` is as good. ValueError: that is no key of ours."""
    spelt = _SHORT.get(key, key)
    path: list[str | int] = []
    at = 0
    while match := _PART.match(spelt, at):
        path.append(_text_of(match[1]))
        at = match.end()
    if not path or at < len(spelt):
        before, equals, _ = key.partition("=")
        if equals:  # what is behind it may be a secret
            before = before.rstrip()
            raise ValueError(f'"{before}=…" is not a key; a space stands before a value: {before} VALUE')
        example = 'for example models.agents.reviewer, or proxies."gpt-4.1".port where a name has a dot in it'
        raise ValueError(f'"{key}" is not a key; {example}')
    if schema.at(tuple(path)) is None:
        raise ValueError(_unknown(tuple(path)))
    return tuple(path)


def _text_of(part: str) -> str:
    if part[0] not in "\"'":
        return part
    try:
        return str(tomllib.loads(f"text = {part}")["text"])
    except tomllib.TOMLDecodeError:
        return part[1:-1]


def _unknown(path: Path) -> str:
    """Said as validation would say it."""
    for length in range(1, len(path) - 1):
        kind = schema.value_at(path[:length])
        if isinstance(kind, ListOf):
            return f"{schema.dotted(path[:length])} is a list, and is set as a whole"
        if isinstance(kind, TableOf) and not isinstance(kind.kind, Section):
            # `aliases.gpt-4.1`: nothing comes below a name of the user's own, so this is the rest of it.
            whole = schema.dotted((*path[:length], ".".join(map(str, path[length:]))))
            return f"there is no key {schema.dotted(path)}; a name with a dot in it is quoted: '{whole}'"
    said: list[str] = []
    document: Any = None
    for part in reversed(path):
        document = {part: document}

    def report(at: Path, value: Any, text: str) -> None:
        said.append(f"{schema.dotted(at)}: {astray.in_words(at, document, text)}")

    schema.read(document, report)
    return next((text for text in said if "unknown key" in text), f"there is no key {schema.dotted(path)}")


def value_of(path: Path, text: str) -> Any:
    """What was typed, as a TOML value that the key takes; else as a text, which validation will judge."""
    kind = schema.value_at(path)
    for candidate in (*_read(text), text, *([_split(text)] if isinstance(kind, ListOf) else [])):
        if _fits(path, candidate):
            return candidate
    found = _read(text)
    return found[0] if found and not isinstance(kind, Text) else text


def _read(text: str) -> list[Any]:
    try:
        document = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return []
    return [document["value"]] if len(document) == 1 else []


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _fits(path: Path, value: Any) -> bool:
    kind = schema.value_at(path)
    said: list[str] = []
    if kind is not None:
        kind.read(value, path, lambda at, raw, text: said.append(text))
    return not said


def with_value(text: str, path: Path, value: Any) -> str:
    """`text` with one value set; tables that are missing are made."""
    import tomlkit
    from tomlkit.container import Container
    from tomlkit.items import InlineTable, Table

    document = tomlkit.parse(text)
    if path[0] not in document and text.strip() and not text.endswith("\n\n") and len(path) > 1:
        document.add(tomlkit.nl())  # a table of its own stands apart
    here: Any = document
    for index, part in enumerate(path[:-1]):
        if part not in here:
            below: Any = tomlkit.inline_table() if isinstance(here, InlineTable) else tomlkit.table()
            if isinstance(below, Table) and index < len(path) - 2:
                below = tomlkit.table(is_super_table=True)
            here[str(part)] = below
        here = here[part]
        if not isinstance(here, Table | InlineTable | Container | dict):
            raise ValueError(f"{schema.dotted(path[: index + 1])} is not a table")
    here[str(path[-1])] = value
    return tomlkit.dumps(document)


def without(text: str, path: Path) -> str | None:
    """`text` without one value or table, and without the tables that are empty then; None: it is not there."""
    import tomlkit

    document = tomlkit.parse(text)
    trail: list[Any] = [document]
    for part in path:
        if not isinstance(trail[-1], dict) or part not in trail[-1]:
            return None
        trail.append(trail[-1][part])
    for index in range(len(path) - 1, -1, -1):
        if index < len(path) - 1 and len(trail[index + 1]):
            break
        del trail[index][path[index]]
    left = tomlkit.dumps(document).rstrip("\n")
    return f"{left}\n" if left.strip() else ""
