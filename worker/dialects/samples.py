"""Arguments that fit a tool's schema, for calls that nobody thought about."""

from __future__ import annotations

from typing import Any

DEEPEST = 8
"""Schemas may refer to themselves."""


def sample(schema: Any, root: Any = None, depth: int = 0) -> Any:
    """The plainest value that a JSON schema takes. Best effort: patterns and formats are not looked at."""
    root = schema if root is None else root
    if not isinstance(schema, dict) or depth > DEEPEST:
        return "text"
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    for key in ("enum", "examples"):
        if isinstance(schema.get(key), list) and schema[key]:
            return schema[key][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(key), list) and schema[key]:
            return sample(schema[key][0], root, depth + 1)
    if isinstance(schema.get("$ref"), str):
        return sample(_target(schema["$ref"], root), root, depth + 1)
    return _of_type(schema, root, depth)


def _target(reference: str, root: Any) -> Any:
    found = root
    for step in reference.removeprefix("#").split("/")[1:]:
        found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
    return found


def _of_type(schema: dict[str, Any], root: Any, depth: int) -> Any:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0] if kind else None
    if kind == "object" or (kind is None and "properties" in schema):
        return _object(schema, root, depth)
    if kind == "array":
        count = schema.get("minItems")
        count = min(count, DEEPEST) if isinstance(count, int) else 0
        return [sample(schema.get("items"), root, depth + 1) for _ in range(count)]
    if kind in ("integer", "number"):
        lowest = schema.get("minimum")
        return lowest if isinstance(lowest, int | float) else 1
    if kind == "boolean":
        return True
    return None if kind == "null" else "text"


def _object(schema: dict[str, Any], root: Any, depth: int) -> dict[str, Any]:
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return {}
    required = schema.get("required")
    # A schema is a client's: whatever stands in it must not break the answer.
    names = [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
    return {name: sample(properties[name], root, depth + 1) for name in names if name in properties}
