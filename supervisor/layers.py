"""Several sources of the same settings: which wins, where each value comes from, who may say what. Pure.

Flag over environment over the project's file over the user's file over what is built in. A project's file is
written by whoever wrote the project: it may name models, aliases and limits, but not where keys and prompts
go (`Field.project` in `schema`), unless its user trusts it as it stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from . import schema
from .toml_lines import Path
from .values import Field, Section


@attrs.frozen
class Layer:
    """One source, the document that it says, and on which lines."""

    origin: str
    """A file's path, or `environment`."""
    document: dict[str, Any]
    lines: dict[Path, int] = attrs.Factory(dict)


@attrs.frozen
class Setting:
    """One value that holds, and who said it."""

    path: Path
    value: Any
    origin: str
    """`built-in`, a file's path, or `environment variable NAME`."""
    line: int | None = None


def admitted(document: Mapping[str, Any], *, trusted: bool) -> tuple[dict[str, Any], list[Path]]:
    """What of a project's document may be used, and the paths of what may not."""
    refused: list[Path] = []
    return _admitted(document, (), trusted=trusted, refused=refused), refused


def _admitted(table: Mapping[str, Any], path: Path, *, trusted: bool, refused: list[Path]) -> dict[str, Any]:
    found = {}
    for key, value in table.items():
        here = (*path, key)
        field = schema.at(here)
        mark = getattr(field, "project", "free")
        if mark == "never" or (mark == "trusted" and not trusted):
            refused.append(here)
        elif isinstance(value, dict):
            found[key] = _admitted(value, here, trusted=trusted, refused=refused)
        else:
            found[key] = value
    return found


def merged(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """Both documents; where both say something, `high` wins. Tables are merged, lists are replaced."""
    found = dict(low)
    for key, value in high.items():
        below = found.get(key)
        both = isinstance(below, dict) and isinstance(value, dict)
        found[key] = merged(below, value) if both else value  # type: ignore[arg-type]  # both are tables
    return found


def environment(variables: Mapping[str, str]) -> dict[str, Any]:
    """What the variables say, as a document."""
    document: dict[str, Any] = {}
    for path, field in _with_variables(schema.ROOT, ()):
        text = variables.get(field.env, "")
        if text:
            here = document
            for part in path[:-1]:
                here = here.setdefault(str(part), {})
            here[str(path[-1])] = plain_value(text)
    return document


def plain_value(text: str) -> Any:
    """`true` and numbers as such, everything else as a text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else text


def _with_variables(section: Section, path: Path) -> Iterator[tuple[Path, Field]]:
    for name, field in section.fields.items():
        if field.env:
            yield (*path, name), field
        if isinstance(field.value, Section):
            yield from _with_variables(field.value, (*path, name))


def settings(layers: list[Layer]) -> list[Setting]:
    """Every value that holds, the built-in ones included, in the order of the schema; `layers` from low to high."""
    document: dict[str, Any] = {}
    for layer in layers:
        document = merged(document, layer.document)
    said = [_setting(path, value, layers) for path, value in leaves(document)]
    known = {setting.path for setting in said}
    return sorted([*said, *(one for one in _built_in() if one.path not in known)], key=_rank)


def leaves(document: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every value that is no table, with its path; an empty table is a value."""
    if isinstance(document, dict) and (document or not path):
        for key, value in document.items():
            yield from leaves(value, (*path, key))
    else:
        yield path, document


def _setting(path: Path, value: Any, layers: list[Layer]) -> Setting:
    for layer in reversed(layers):
        if says(layer.document, path):
            return Setting(path, value, said_by(layer, path), layer.lines.get(path))
    raise AssertionError(path)  # it came from one of them


def said_by(layer: Layer, path: Path) -> str:
    """The layer in words; of the environment the variable."""
    return layer.origin if layer.origin != "environment" else f"environment variable {_variable(path)}"


def says(document: Any, path: Path) -> bool:
    """Whether something stands there, a table included."""
    for part in path:
        if isinstance(document, list):
            return True  # lists are said as a whole
        if not isinstance(document, dict) or part not in document:
            return False
        document = document[part]
    return True


def _variable(path: Path) -> str:
    field = schema.at(path)
    return field.env if isinstance(field, Field) else ""


def _built_in() -> Iterator[Setting]:
    """What holds when nobody says anything: only the keys that exist without a name chosen by the user."""
    yield from _defaults(schema.ROOT, ())


def _defaults(section: Section, path: Path) -> Iterator[Setting]:
    for name, field in section.fields.items():
        if isinstance(field.value, Section):
            yield from _defaults(field.value, (*path, name))
        elif field.default and not field.default.startswith("["):
            yield Setting((*path, name), plain_value(field.default.strip('"')), "built-in")


def _rank(setting: Setting) -> int:
    names = list(schema.ROOT.fields)
    return names.index(str(setting.path[0])) if setting.path[0] in names else len(names)
