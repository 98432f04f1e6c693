"""A tool's JSON schema, in what each kind of server can read of it.

A schema is walked by *position*: what stands under `properties` are names that somebody chose, so a
property called `format` stays where the keyword `format` goes. Keys keep their order: a schema that is
rendered in another order costs the provider's prompt cache.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

from modelproxy.worker.wire import codec

Schema = dict[str, Any]


class Profile(enum.Enum):
    """How much of a schema a server takes."""

    DEFAULT = "default"
    STRICT = "strict"
    """Gateways that refuse keywords they do not know; what is dropped is said in the description."""
    GEMINI = "gemini"
    OLLAMA = "ollama"
    """What Ollama's own decoder reads; the rest it would ignore or refuse."""
    INLINED = "inlined"
    """No references, and every schema says its type."""


_DEEPEST = 64
_MOST_NODES = 20_000
"""`$ref` inlined again and again can grow a small schema without end."""

_NEVER = {"$schema", "$id", "$comment"}
_STRICT_DROPS = {
    "minItems", "maxItems", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
    "pattern", "format", "minLength", "maxLength", "propertyNames", "default", "examples", "title",
}  # fmt: skip
_GEMINI_DROPS = _STRICT_DROPS | {
    "additionalProperties", "deprecated", "readOnly", "writeOnly", "patternProperties", "not", "if", "then", "else",
    "dependentSchemas", "dependentRequired", "dependencies", "contains", "minContains", "maxContains",
    "prefixItems", "additionalItems", "uniqueItems", "unevaluatedItems", "unevaluatedProperties",
    "contentEncoding", "contentMediaType",
}  # fmt: skip
_DROPS = {
    Profile.DEFAULT: _NEVER,
    Profile.STRICT: _NEVER | _STRICT_DROPS,
    Profile.GEMINI: _NEVER | _GEMINI_DROPS,
    Profile.OLLAMA: _NEVER,
    Profile.INLINED: _NEVER,
}
_NOT_WORTH_WORDS = _NEVER | {"title", "additionalProperties", "deprecated", "readOnly", "writeOnly"}
_REDUCED = (Profile.GEMINI, Profile.OLLAMA, Profile.INLINED)
"""These know no references and only one way to say "one of"."""

# Where schemas stand inside a schema.
_ONE = {
    "items", "additionalProperties", "additionalItems", "contains", "not", "if", "then", "else",
    "propertyNames", "unevaluatedItems", "unevaluatedProperties",
}  # fmt: skip
_MANY = {"anyOf", "oneOf", "allOf", "prefixItems"}
_NAMED = {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}


def sanitise(schema: Any, profile: Profile = Profile.DEFAULT) -> Schema:
    """An object schema that the server reads. Never fails: what makes no sense is left out."""
    if not isinstance(schema, dict):
        schema = {}
    found = _Walk(schema, profile).schema(schema, 0, ())
    if profile in _REDUCED and "anyOf" in found:
        found = _without_choice(found)
    if found.get("type") != "object":
        found = {"type": "object", **{key: value for key, value in found.items() if key != "type"}}
    found.pop("nullable", None)  # a call without arguments is an empty object, never null
    found.setdefault("properties", {})
    return found


class _Walk:
    """One pass over one root."""

    def __init__(self, root: Schema, profile: Profile) -> None:
        self._root = root
        self._profile = profile
        self._drops = _DROPS[profile]
        self._reduces = profile in _REDUCED
        self._nodes = 0

    def schema(self, value: Any, depth: int, inside: tuple[str, ...], *, part: bool = False) -> Schema:
        """One schema; `inside` are the references that led here. `part`: it is merged into the one around it."""
        self._nodes += 1
        if not isinstance(value, dict) or depth > _DEEPEST or self._nodes > _MOST_NODES:
            value = {}  # a bare `true`, or what is too much
        if self._reduces and isinstance(value.get("$ref"), str):
            return self._resolved(value, depth, inside, part=part)
        kept = {
            key: self._keyword(key, inner, depth, inside)
            for key, inner in value.items()
            if key not in self._drops and not (self._reduces and key in ("$defs", "definitions"))
        }
        if self._reduces:
            kept = _reduced(kept)
        if not part:  # the properties of its `required` may be those of the whole
            _keep_required(kept)
        if self._reduces:
            _keep_decodable(kept)
            if self._profile is Profile.GEMINI:
                _say_nullable(kept)
                _say_items(kept)
            if self._profile is Profile.INLINED and not part:
                _say_type(kept)
        return self._said(value, kept)

    def _keyword(self, key: str, inner: Any, depth: int, inside: tuple[str, ...]) -> Any:
        def one(value: Any) -> Any:
            return self._inner(key, value, depth + 1, inside)

        if key in _NAMED and isinstance(inner, dict):
            return {name: one(value) for name, value in inner.items()}
        if (key in _MANY or key == "items") and isinstance(inner, list):
            return [one(value) for value in inner]
        return one(inner) if key in _ONE else inner

    def _inner(self, key: str, value: Any, depth: int, inside: tuple[str, ...]) -> Any:
        """A schema in its place; only here a bare `true` or `false` may stand for one."""
        if isinstance(value, bool) and (not self._reduces or key == "additionalProperties"):
            return value
        return self.schema(value, depth, inside, part=self._reduces and key == "allOf")

    def _resolved(self, value: Schema, depth: int, inside: tuple[str, ...], *, part: bool) -> Schema:
        """What a reference points to; words beside it win. A circle becomes "anything"."""
        reference = value["$ref"]
        beside = {key: inner for key, inner in value.items() if key != "$ref"}
        target = None if reference in inside else _target(self._root, reference)
        if not isinstance(target, dict):
            return self.schema(beside, depth + 1, inside, part=part)
        return self.schema({**target, **beside}, depth + 1, (*inside, reference), part=part)

    def _said(self, before: Schema, kept: Schema) -> Schema:
        """Dropped constraints go into the description: the model may still keep to them."""
        lost = [
            f"{key}: {_words(before[key])}"
            for key in before
            if key in self._drops and key not in _NOT_WORTH_WORDS
        ]
        if lost:
            described = kept.get("description")
            words = f"({'; '.join(lost)})"
            kept["description"] = (
                f"{described} {words}" if isinstance(described, str) and described else words
            )
        return kept


def _words(value: Any) -> str:
    return value if isinstance(value, str) else codec.dumps(value).decode("utf-8")


def _target(root: Schema, reference: str) -> Any:
    """What a local reference points to; nothing is ever fetched."""
    if not reference.startswith("#"):
        return None
    found: Any = root
    for step in reference[1:].split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _keep_required(schema: Schema) -> None:
    """`required` names only what there is: some servers refuse more, all refuse an empty list or none."""
    if "required" not in schema:
        return
    required, properties = schema["required"], schema.get("properties")
    known = properties if isinstance(properties, dict) else {}
    kept = (
        [name for name in required if isinstance(name, str) and name in known]
        if isinstance(required, list)
        else []
    )
    if kept:
        schema["required"] = kept
    else:
        del schema["required"]


def _reduced(schema: Schema) -> Schema:
    """`const`, `oneOf` and `allOf` in other words."""
    found: Schema = {}
    parts: list[Any] = []
    for key, value in schema.items():
        if key == "const":
            found.setdefault("enum", [value])
        elif key in ("oneOf", "anyOf"):
            found["anyOf"] = [*found.get("anyOf", []), *(value if isinstance(value, list) else [])]
        elif key == "allOf":
            parts = value if isinstance(value, list) else []
        else:
            found[key] = value
    for part in parts:
        found = _merged(found, part)
    return found


def _merged(first: Schema, second: Schema) -> Schema:
    """Both must hold. Where they contradict each other the first wins."""
    found = dict(first)
    for key, value in second.items():
        merge = _MERGE.get(key)
        if key not in found:
            found[key] = value
        elif merge is not None and type(found[key]) is type(value):
            found[key] = merge(found[key], value)
    return found


def _merged_properties(first: Schema, second: Schema) -> Schema:
    found = dict(first)
    for name, schema in second.items():
        both = isinstance(found.get(name), dict) and isinstance(schema, dict)
        found[name] = _merged(found[name], schema) if both else found.get(name, schema)
    return found


def _union(first: list[Any], second: list[Any]) -> list[Any]:
    return first + [one for one in second if one not in first]


def _common(first: list[Any], second: list[Any]) -> list[Any]:
    return [one for one in first if one in second] or first


_MERGE: dict[str, Callable[[Any, Any], Any]] = {
    "properties": _merged_properties,
    "required": _union,
    "enum": _common,
}


def _without_choice(root: Schema) -> Schema:
    """At the root a choice cannot be said: all its properties, required what every branch requires."""
    branches = [branch for branch in root["anyOf"] if isinstance(branch, dict)]
    found = {key: value for key, value in root.items() if key != "anyOf"}
    for branch in branches:
        found = _merged(found, {"properties": branch.get("properties") or {}})
    common = [
        name
        for name in (branches[0].get("required") or [] if branches else [])
        if all(name in (branch.get("required") or []) for branch in branches)
    ]
    if required := _union(root.get("required") or [], common):
        found["required"] = required
    return found


def _say_nullable(schema: Schema) -> None:
    """Gemini has one type, and a flag for null."""
    kind = schema.get("type")
    if not isinstance(kind, list):
        return
    others = [one for one in kind if one != "null"]
    schema["type"] = others[0] if others else "string"
    if "null" in kind:
        schema["nullable"] = True


def _say_items(schema: Schema) -> None:
    """A list of anything is refused; into a text everything can be put."""
    if schema.get("type") == "array" and not isinstance(schema.get("items"), dict):
        schema["items"] = {"type": "string"}


_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number"}


def _say_type(schema: Schema) -> None:
    """What the rest of it tells; where it tells nothing, a text, into which everything can be put."""
    if "type" in schema or "anyOf" in schema:
        return
    values = schema.get("enum") or [""]
    known = {_TYPES.get(type(value), "string") for value in values}
    kind = "object" if "properties" in schema else "array" if "items" in schema else "string"
    schema["type"] = known.pop() if kind == "string" and len(known) == 1 else kind


def _keep_decodable(schema: Schema) -> None:
    """Some servers refuse the whole request when one of these has another shape."""
    for key, is_good in _SHAPES.items():
        if key in schema and not is_good(schema[key]):
            del schema[key]


def _is_type(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)
    )


_SHAPES: dict[str, Callable[[Any], bool]] = {
    "type": _is_type,
    "description": lambda value: isinstance(value, str),
    "enum": lambda value: isinstance(value, list),
    "anyOf": lambda value: isinstance(value, list) and bool(value),
    "properties": lambda value: isinstance(value, dict),
}
