"""A key that stands where it is unknown, and is known elsewhere: where it belongs. Pure.

In TOML every key below a [table] is that table's, so one that was added at the end of the file is not what it
looks like; and whoever knows another program's file looks for its keys in the same places here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from . import schema
from .toml_lines import Path
from .values import Field, Section, TableOf, Value, guess

_CALLED = {
    "fallbackEnabled": "did you mean models.fallback?",
    "default_model": "did you mean models.default?",
    "apiKeys": "keys are kept by proxyctl keys set PROVIDER",
}
"""What other programs, and the command line, call them."""
_SYNONYMS = {"target": "to", "type": "kind", "url": "base_url", "key": "api_key"}
"""What comes to mind for a key of the same table."""
_FEW = 2


def in_words(path: Path, document: Any, what: str) -> str:
    """`what` is wrong at `path`, or better: where that belongs."""
    key, table = path[-1], schema.value_at(path[:-1]) if len(path) > 1 else schema.ROOT
    if isinstance(key, int) or (isinstance(table, Section) and key in table.fields):
        return what
    raw = _found(document, path)
    place = None if _is_misnamed(table, key) else _above(path, raw)
    if place is not None:
        return place
    return f"unknown key{_elsewhere(key, raw, table)}" if isinstance(table, Section) else what


def _is_misnamed(table: Value | None, key: str) -> bool:
    """`[front]` with `rules` in it: what is missing is the table's own name."""
    return isinstance(table, TableOf) and isinstance(table.kind, Section) and key in table.kind.fields


def _above(path: Path, raw: Any) -> str | None:
    for length in range(len(path) - 2, -1, -1):
        field = schema.at((*path[:length], path[-1]))
        if isinstance(field, Field) and not isinstance(field.value, TableOf | Section) and _fits(field, raw):
            where = f"in [{schema.dotted(path[:length])}]" if length else "above the first [table]"
            return f"{path[-1]} belongs {where}"
    return None


def _fits(field: Field, raw: Any) -> bool:
    said: list[str] = []
    field.value.read(raw, (), lambda path, value, what: said.append(what))
    return not said


def _elsewhere(key: str, raw: Any, table: Section) -> str:
    if key in _CALLED:
        return f"; {_CALLED[key]}"
    if (meant := _SYNONYMS.get(key)) in table.fields:
        return f'; did you mean "{meant}"?'
    same = [
        schema.dotted(path)
        for path, field in _fields(schema.ROOT)
        if path[-1] == key
        and (raw is None or isinstance(raw, dict) == isinstance(field.value, TableOf | Section))
    ]
    return f"; did you mean {' or '.join(same)}?" if 0 < len(same) <= _FEW else guess(key, table.fields)


def _fields(value: Value, path: Path = ()) -> Iterator[tuple[Path, Field]]:
    """Every key that is of use; NAME stands for what an author chooses."""
    if isinstance(value, Section):
        for name, field in value.fields.items():
            if field.wired:
                yield (*path, name), field
                yield from _fields(field.value, (*path, name))
    elif isinstance(value, TableOf):
        yield from _fields(value.kind, (*path, "NAME"))


def _found(document: Any, path: Path) -> Any:
    """The value there; None: there is none."""
    for part in path:
        if isinstance(document, dict):
            document = document.get(part)
        elif isinstance(document, list) and isinstance(part, int) and part < len(document):
            document = document[part]
        else:
            return None
    return document
