"""A model's tool arguments, made into the one JSON object that clients accept.

Theory of operation
-------------------
What parses is taken. What does not is read a second time by a lenient reader that forgives only what can
be read in one way: raw control characters, wrong escapes, trailing commas, Python's literals and quotes,
fences and prose around the object, brackets missing at the very end. Whatever else is wrong travels as
`{"_raw_arguments": "…"}`: the client's own validation then tells the model, and nothing is executed.

An open string is never closed, and a number at the very end never believed: the rest of a command may be
what made it harmless. For the same reason nothing is mended in a call that was cut by the token limit.
"""

from __future__ import annotations

import re
from typing import Any

from modelproxy.worker.wire import codec

RAW = "_raw_arguments"
"""Key of the form that no tool executes."""

_DEEPEST = 100
_DOUBLE_ENCODED = 3
"""Some servers encode arguments as a string, and some relays encode that once more."""


def repair(text: Any, *, truncated: bool = False) -> bytes:
    """One JSON object. `truncated`: the answer hit its limit while this call was being written."""
    return codec.dumps(_object(text, truncated=truncated))


def of_history(value: Any) -> dict[str, Any]:
    """The arguments of an earlier call: always an object, whatever the client kept."""
    return _object(value, truncated=False)


def split(text: str) -> list[str]:
    """The objects of `{…}{…}`, two calls that a server ran together; otherwise the text as it is."""
    found = _Reader(text).all_objects()
    return [text] if found is None or len(found) < 2 else [codec.dumps(one).decode() for one in found]


def is_complete(text: str) -> bool:
    """True when nothing is missing at the end, however odd the rest is."""
    return isinstance(_strict(text), dict)


def _object(value: Any, *, truncated: bool) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    if value is None and not truncated:
        return {}
    if isinstance(value, str):
        found = _of_text(value, truncated=truncated)
        return {RAW: value} if found is None else found
    if _is_wrapped(value) and not truncated:
        return value[0]  # type: ignore[no-any-return]  # _is_wrapped says that it is a dict
    return {RAW: "" if value is None else codec.dumps(value).decode("utf-8")}


def _is_wrapped(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict)


def _of_text(text: str, *, truncated: bool) -> dict[str, Any] | None:
    for _ in range(_DOUBLE_ENCODED):
        value = _strict(text)
        if isinstance(value, dict):
            return value
        if not isinstance(value, str):
            break
        text = value
    if truncated:
        return None  # whole or nothing: what is missing cannot be known
    if not text.strip() or text.strip() == "null":
        return {}
    return _lenient(text)


def _strict(text: str) -> Any:
    try:
        return codec.loads(text.encode("utf-8", "surrogatepass"))
    except ValueError:
        return None


def _lenient(text: str) -> dict[str, Any] | None:
    found = _Reader(text).all_objects()
    if found is None:
        return None
    # `{}{"a":1}`: an empty shell in front of the real thing, or the same thing said twice.
    real = [one for one in found if one]
    if any(one != real[0] for one in real):
        return None
    return real[0] if real else {}


class _Unreadable(Exception):
    """Not what one would write who means JSON; or it may be read in two ways."""


class _Reader:
    """Reads something that is nearly JSON."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def all_objects(self) -> list[dict[str, Any]] | None:
        """The outermost objects, prose around them left out; None when any of them makes no sense."""
        start = _OPENING.search(self._text)
        if start is None:
            return None
        self._at = start.start()
        found: list[dict[str, Any]] = []
        try:
            while self._peek() in ("{", "["):
                found += self._objects_of(self._value(0))
        except _Unreadable:
            return None
        if _OPENING.search(self._text, self._at):
            return None  # more behind some prose: which one was meant?
        return found

    def _objects_of(self, value: Any) -> list[dict[str, Any]]:
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(one, dict) for one in values):
            raise _Unreadable
        return values

    def _peek(self) -> str:
        """The next character that is no blank; empty at the end."""
        self._at = _BLANKS.match(self._text, self._at).end()  # type: ignore[union-attr]  # matches anything
        return self._text[self._at : self._at + 1]

    def _value(self, depth: int) -> Any:
        if depth > _DEEPEST:
            raise _Unreadable
        first = self._peek()
        if first == "{":
            return self._members(depth)
        if first == "[":
            return self._elements(depth)
        if first in ('"', "'"):
            return self._string(first)
        return self._scalar()

    def _members(self, depth: int) -> dict[str, Any]:
        self._at += 1
        found: dict[str, Any] = {}
        while self._peek() != "}":
            key = self._key()
            if self._peek() != ":":
                raise _Unreadable
            self._at += 1
            found[key] = self._value(depth + 1)
            if self._ends("}"):
                return found
        self._at += 1
        return found

    def _elements(self, depth: int) -> list[Any]:
        self._at += 1
        found: list[Any] = []
        while self._peek() != "]":
            found.append(self._value(depth + 1))
            if self._ends("]"):
                return found
        self._at += 1
        return found

    def _ends(self, bracket: str) -> bool:
        """After a value: True when the container ended with it, because the whole text did."""
        following = self._peek()
        if following == ",":
            self._at += 1
            return False
        if following == "":
            return True  # the value before is whole, only brackets are missing
        if following != bracket:
            raise _Unreadable
        return False

    def _key(self) -> str:
        first = self._peek()
        if first and first in "\"'":
            return self._string(first)
        bare = _BARE_KEY.match(self._text, self._at)
        if bare is None:
            raise _Unreadable
        self._at = bare.end()
        return bare.group()

    def _scalar(self) -> Any:
        word = _WORD.match(self._text, self._at)
        if word is None:
            raise _Unreadable
        text = word.group()
        self._at = word.end()
        if text in _LITERALS:
            return _LITERALS[text]
        if self._at == len(self._text):
            raise _Unreadable  # 12 may be the beginning of 120
        number = _strict(text)
        if type(number) not in (int, float):
            raise _Unreadable
        return number

    def _string(self, quote: str) -> str:
        self._at += 1
        pieces: list[str] = []
        plain = _PLAIN[quote]
        while True:
            run = plain.match(self._text, self._at)
            assert run is not None  # it matches nothing as well
            pieces.append(run.group())
            self._at = run.end()
            stop = self._text[self._at : self._at + 1]
            if stop == "":
                raise _Unreadable  # never close an open string
            self._at += 1
            if stop == quote:
                return "".join(pieces)
            pieces.append(self._escape())

    def _escape(self) -> str:
        letter = self._text[self._at : self._at + 1]
        if letter == "u":
            return self._unicode()
        self._at += 1
        # `C:\dir`: a backslash that escapes nothing is a backslash.
        return _ESCAPES.get(letter, "\\" + letter)

    def _unicode(self) -> str:
        found = _UNICODE.match(self._text, self._at)
        if found is None:
            self._at += 1
            return "\\u"
        self._at = found.end()
        raw = b'"' + b"".join(b"\\" + part.encode() for part in found.group().split("\\")) + b'"'
        decoded = codec.loads(raw)
        assert isinstance(decoded, str)
        return decoded


_OPENING = re.compile(r"[{\[]")
_BLANKS = re.compile(r"\s*")
_BARE_KEY = re.compile(r"[A-Za-z_$][\w$-]*", re.ASCII)
_WORD = re.compile(r"[-+.\w]+", re.ASCII)
_PLAIN = {'"': re.compile(r'[^"\\]*'), "'": re.compile(r"[^'\\]*")}
_UNICODE = re.compile(r"u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}")
_LITERALS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}
_ESCAPES = {
    "n": "\n",
    "t": "\t",
    "r": "\r",
    "b": "\b",
    "f": "\f",
    '"': '"',
    "'": "'",
    "\\": "\\",
    "/": "/",
    "\n": "\\\n",
}


def coerced(arguments: dict[str, Any], schema: Any) -> dict[str, Any]:
    """The arguments with the types that the schema asks for, where a text can mean only one thing.

    Small models write `"5"` for 5 and `"true"` for true; nothing is guessed beyond that.
    """
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict):
        return arguments
    return {key: _coerced(value, properties.get(key)) for key, value in arguments.items()}


def _coerced(value: Any, schema: Any) -> Any:
    if not isinstance(value, str) or not isinstance(schema, dict) or not isinstance(schema.get("type"), str):
        return value
    wanted = _PYTHON_TYPES.get(schema["type"])
    meant = _strict(value) if wanted else None
    return meant if wanted and type(meant) in wanted else value


_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
}
