"""What a value of the configuration may be: how it is read, what is said of a wrong one, its JSON schema. Pure.

A `Value` reads what TOML gave and answers what the program works with (`"10s"` → 10.0). What is wrong it
reports, with its path, and answers None; so that one bad value does not hide the next.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from .toml_lines import Path

Report = Callable[[Path, Any, str], None]
"""Path, the value (UNSHOWN when it says nothing or is secret), what is wrong with it."""
UNSHOWN = object()
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_PROXY_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")


def unseen(text: str) -> str | None:
    """The first character that nobody sees, or takes for a space, as U+00A0; None: there is none."""
    hidden = next((one for one in text if not one.isprintable() and one not in "\t\r\n"), None)
    return None if hidden is None else f"U+{ord(hidden):04X}"


class Value:
    """One kind of value. `words` say what it must be."""

    words = ""

    def read(self, raw: Any, path: Path, report: Report, *, secret: bool = False) -> Any:
        """The value as the program wants it; None when it is wrong, and then it has been reported."""
        try:
            return self.check(raw)
        except ValueError as error:
            report(path, UNSHOWN if secret else raw, str(error))
            return None

    def check(self, raw: Any) -> Any:
        """The same for a value without parts. ValueError says what is wrong."""
        raise NotImplementedError

    def schema(self) -> dict[str, Any]:
        """For editors (JSON Schema 2020-12)."""
        raise NotImplementedError

    def refuse(self) -> ValueError:
        return ValueError(f"must be {self.words}")


class Text(Value):
    def __init__(self, words: str = "a text that is not empty", pattern: str | None = None) -> None:
        self.words = words
        self._pattern = pattern

    def check(self, raw: Any) -> str:
        if not isinstance(raw, str) or not raw.strip():
            raise ValueError("must be a text that is not empty")
        if self._pattern is not None and not re.fullmatch(self._pattern, raw, re.ASCII):
            raise self.refuse()
        return raw

    def schema(self) -> dict[str, Any]:
        pattern = {} if self._pattern is None else {"pattern": f"^{self._pattern}$"}
        return {"type": "string", "minLength": 1, **pattern}


class Name(Text):
    """What can name a model: a model id, an alias, a proxy. What it names is looked up later."""

    def check(self, raw: Any) -> str:
        text = super().check(raw)
        if (hidden := unseen(text)) is not None:
            raise ValueError(f"must be without {hidden}, a character that cannot be seen")
        if any(char.isspace() or not char.isprintable() for char in text) or len(text) > 200:
            raise ValueError("must be a name without white space, of at most 200 characters")
        return text


class Variable(Text):
    """The name of an environment variable. What is none may well be the key itself, so it is not shown."""

    def __init__(self) -> None:
        super().__init__("the name of a variable", r"[A-Za-z_][A-Za-z0-9_]*")

    def read(self, raw: Any, path: Path, report: Report, *, secret: bool = False) -> Any:
        return super().read(raw, path, report, secret=True)

    def refuse(self) -> ValueError:
        return ValueError(f"must be {self.words}, and not a key; keys are kept by proxyctl keys set")


class KeyFile(Text):
    """A file's name. What looks like a key is not shown, and is none: the error at reading it would say it."""

    _KEY = re.compile(r"(sk|mp|gsk|xai|pk)[-_][^/.\\]+")

    def __init__(self) -> None:
        super().__init__("the name of a file")

    def read(self, raw: Any, path: Path, report: Report, *, secret: bool = False) -> Any:
        return super().read(raw, path, report, secret=True)

    def check(self, raw: Any) -> str:
        text = super().check(raw)
        if self._KEY.fullmatch(text.strip()):
            raise self.refuse()
        return text

    def refuse(self) -> ValueError:
        return ValueError(f"must be {self.words} (./NAME), and not a key; keys are kept by proxyctl keys set")


class TokenHash(Text):
    """Of a token [tokens.NAME]. What is none may well be the token itself, so it is not shown."""

    def __init__(self) -> None:
        super().__init__("64 hexadecimal digits", r"[0-9a-f]{64}")

    def read(self, raw: Any, path: Path, report: Report, *, secret: bool = False) -> Any:
        def told(at: Path, value: Any, text: str) -> None:
            report(at, value, f"{text}; proxyctl tokens add {path[-2]} makes one")

        return super().read(raw, path, told, secret=True)


class Url(Value):
    """An address. It is shown in many places and kept in files, so it holds no password."""

    words = "a URL like http://127.0.0.1:11434"

    def __init__(
        self, instead: str = 'send them as headers.authorization = "Basic …" of the provider'
    ) -> None:
        self._instead = instead
        """Where a password belongs."""

    def read(self, raw: Any, path: Path, report: Report, *, secret: bool = False) -> Any:
        return super().read(raw, path, report, secret=secret or may_hold_password(raw))

    def check(self, raw: Any) -> str:
        text = Text().check(raw)
        try:
            parts = urlsplit(text)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
            named = "@" in parts.netloc
        except ValueError:  # a port that is no number, a bracket that is not closed
            usable = named = False
        if named:
            raise ValueError(f"must be without user and password, which would be shown; {self._instead}")
        if not usable or any(char.isspace() or not char.isprintable() for char in text):
            raise self.refuse()
        return text.rstrip("/")

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "format": "uri", "pattern": "^https?://[^/?#@]*([/?#]|$)"}


def may_hold_password(address: Any) -> bool:
    """Of one that is wrong, wherever the @ stands: a password with a slash in it parts elsewhere."""
    return isinstance(address, str) and "@" in address


class Choice(Value):
    def __init__(self, *options: str | bool) -> None:
        self._options = options
        self.words = f"one of {', '.join(_spelt(option) for option in options)}"

    def check(self, raw: Any) -> Any:
        if not any(raw == option and type(raw) is type(option) for option in self._options):
            near = close(str(raw), [_spelt(option) for option in self._options])
            raise ValueError(f"must be {self.words}" + (f'; did you mean "{near}"?' if near else ""))
        return raw

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self._options)}


def _spelt(option: str | bool) -> str:
    return str(option).lower() if isinstance(option, bool) else option


class Flag(Choice):
    def __init__(self) -> None:
        super().__init__(True, False)
        self.words = "true or false"

    def check(self, raw: Any) -> Any:
        if isinstance(raw, str) and raw.lower() in ("true", "false"):
            small = "" if raw.islower() else "in small letters and "
            raise ValueError(f"must be true or false, {small}without quotes")
        return super().check(raw)

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


class Whole(Value):
    def __init__(self, low: int, high: int) -> None:
        self._low, self._high = low, high
        self.words = f"a whole number from {low} to {high}"

    def check(self, raw: Any) -> int:
        if type(raw) is not int or not self._low <= raw <= self._high:
            raise self.refuse()
        return raw

    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self._low, "maximum": self._high}


class Amount(Value):
    """Dollars."""

    words = "a number from 0 to 1000000"

    def check(self, raw: Any) -> float:
        if type(raw) not in (int, float) or not 0 <= raw <= 1_000_000:
            raise self.refuse()
        return float(raw)

    def schema(self) -> dict[str, Any]:
        return {"type": "number", "minimum": 0, "maximum": 1_000_000}


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?"


class Seconds(Value):
    """`10`, `"10s"`, `"5m"`."""

    def __init__(
        self,
        low: float = 0.001,
        high: float = 86400.0,
        bounds: str = "more than 0 and at most a day",
        *,
        or_none: bool = False,
    ) -> None:
        self._low, self._high = low, high
        self._or_none = or_none
        """0 is good too, below `low`."""
        self._bounds = bounds
        self.words = f'seconds or a text like "500ms", "10s", "5m", "1h": {self._bounds}'

    def check(self, raw: Any) -> float:
        if type(raw) in (int, float):
            number = float(raw)
        else:
            match = re.fullmatch(_DURATION, raw, re.ASCII) if isinstance(raw, str) else None
            if match is None:
                raise self.refuse()
            number = float(match[1]) * _UNITS[match[2] or "s"]
        if number == 0 and self._or_none:
            return number
        if not math.isfinite(number) or not self._low <= number <= self._high:
            raise ValueError(f"must be {self._bounds}")
        return number

    def schema(self) -> dict[str, Any]:
        return {
            "anyOf": [
                *([{"const": 0}] if self._or_none else []),
                {"type": "number", "minimum": self._low, "maximum": self._high},
                {"type": "string", "pattern": f"^{_DURATION}$"},
            ]
        }


_SIZES = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}


class Size(Value):
    """Bytes: `"500M"`, `"2G"`, or a number."""

    def __init__(self, low: str, high: str) -> None:
        self._low, self._high = _bytes(low), _bytes(high)
        self.words = f'a size like "500M" or "2G", from {low} to {high}'

    def check(self, raw: Any) -> int:
        size = raw if type(raw) is int else _bytes(raw) if isinstance(raw, str) else -1
        if not self._low <= size <= self._high:
            raise self.refuse()
        return size

    def schema(self) -> dict[str, Any]:
        return {
            "anyOf": [
                {"type": "integer", "minimum": self._low, "maximum": self._high},
                {"type": "string", "pattern": r"^\d+(?:\.\d+)?\s*[KMG]?(?:iB|B)?$"},
            ]
        }


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)(?:iB|B)?", text.strip(), re.ASCII)
    return -1 if match is None else int(float(match[1]) * _SIZES[match[2]])


class OneOf(Value):
    """The first kind that takes the value."""

    def __init__(self, words: str, *kinds: Value) -> None:
        self.words = words
        self._kinds = kinds

    def check(self, raw: Any) -> Any:
        for kind in self._kinds:
            try:
                return kind.check(raw)
            except ValueError:
                continue
        raise self.refuse()

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [kind.schema() for kind in self._kinds]}


class ListOf(Value):
    def __init__(self, words: str, kind: Value) -> None:
        self.words = words
        self.kind = kind

    def read(self, raw: Any, path: Path, report: Report, *, secret: bool = False) -> Any:
        if not isinstance(raw, list):
            report(path, UNSHOWN if secret else raw, f"must be {self.words}")
            return None
        return [self.kind.read(item, (*path, index), report, secret=secret) for index, item in enumerate(raw)]

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": self.kind.schema()}


class TableOf(Value):
    """A table whose keys its author chooses."""

    def __init__(self, words: str, kind: Value, names: re.Pattern[str] | None = None, rule: str = "") -> None:
        self.words = words
        self.kind = kind
        self._names = names
        self._rule = rule

    def read(self, raw: Any, path: Path, report: Report, *, secret: bool = False) -> Any:
        if not isinstance(raw, dict):
            report(path, UNSHOWN if secret else raw, f"must be {self.words}")
            return None
        found = {}
        for name, value in raw.items():
            if self._names is not None and not self._names.fullmatch(name):
                report((*path, name), UNSHOWN, self._rule)
            else:
                found[name] = self.kind.read(value, (*path, name), report, secret=secret)
        return found

    def schema(self) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": self.kind.schema()}


class Named(TableOf):
    """Tables under names of their own: `[providers.NAME]`."""

    def __init__(self, kind: Value, *, model_ids: bool = False) -> None:
        names = re.compile(rf"{_PROXY_NAME.pattern}|[^\s/]+/\S+") if model_ids else _NAME
        rule = (
            "a name begins with a letter and has letters, digits and . _ - only, or is a model id"
            if model_ids
            else "a name has letters, digits and . _ - only"
        )
        super().__init__("a table", kind, names, rule)

    def read(self, raw: Any, path: Path, report: Report, *, secret: bool = False) -> Any:
        if isinstance(raw, list):
            report(
                path,
                UNSHOWN,
                f"each is a table with a name of its own, like [{'.'.join(map(str, path))}.NAME]",
            )
            return None
        return super().read(self._without_astray(raw, path, report), path, report, secret=secret)

    def _without_astray(self, raw: Any, path: Path, report: Report) -> Any:
        """`[front]` with `rules` in it: the table's own name was forgotten, and that is said once."""
        known = self.kind.fields if isinstance(self.kind, Section) else {}
        astray = [
            key
            for key, value in (raw.items() if isinstance(raw, dict) else ())
            if key in known and not isinstance(value, dict)
        ]
        if not astray:
            return raw
        header = ".".join(map(str, path))
        words = f"belongs in a table with a name of its own, like [{header}.NAME]"
        report((*path, astray[0]), UNSHOWN, words)
        return {key: value for key, value in raw.items() if key not in astray}


HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Header(Value):
    words = "a text without a line break"

    def check(self, raw: Any) -> str:
        if not isinstance(raw, str):
            raise ValueError("must be a text")
        if any(char in raw for char in "\r\n\0"):
            raise ValueError("has a line break in it")
        return raw

    def schema(self) -> dict[str, Any]:
        return {"type": "string"}


class Section(Value):
    """A table with keys of ours."""

    words = "a table"

    def __init__(self, fields: Mapping[str, Field]) -> None:
        self.fields = dict(fields)

    def read(self, raw: Any, path: Path, report: Report, *, secret: bool = False) -> Any:
        if not isinstance(raw, dict):
            report(path, raw, f"must be a table{', in single brackets' if isinstance(raw, list) else ''}")
            return None
        found = {}
        for key, value in raw.items():
            field = self.fields.get(key)
            if field is None:
                report((*path, key), UNSHOWN, f"unknown key{guess(key, self.fields)}")
            else:
                found[key] = field.value.read(value, (*path, key), report, secret=secret or field.secret)
        return found

    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "additionalProperties": False,
            "properties": {name: field.schema() for name, field in self.fields.items()},
        }


class Field:
    """A key, and what is said of it to people."""

    def __init__(
        self,
        value: Value,
        doc: str,
        *,
        example: str = "",
        default: str = "",
        secret: bool = False,
        project: str = "free",
        env: str = "",
        wired: bool = True,
        kinds: tuple[str, ...] = (),
    ) -> None:
        self.value = value
        self.doc = doc
        self.example = example
        """As it may stand in the file."""
        self.default = default
        """What holds when nothing is said: a TOML value, or words in brackets."""
        self.secret = secret
        self.project = project
        """Whether a project's file may say it: `free`, `trusted` (once its user trusts it), `never`."""
        self.env = env
        """The variable that says it too."""
        self.wired = wired
        """False: it is checked, and nothing uses it yet; the documents say so."""
        self.kinds = kinds
        """Of a provider's: only for these does it do something; empty: for all."""

    def schema(self) -> dict[str, Any]:
        return {**self.value.schema(), "description": self.sentence()}

    def sentence(self) -> str:
        """What it means, for people."""
        default = f" Default: {self.default.strip('[]')}." if self.default else ""
        return f"{self.doc[:1].upper()}{self.doc[1:]}.{default}{'' if self.wired else ' Not used yet.'}"


_TELLING = 3
"""So many letters of a name are enough to know it by, when no other begins so."""


def close(word: str, known: Iterable[str]) -> str | None:
    """The one that may have been meant; nothing far-fetched, which would only mislead."""
    names = list(known)
    begun = [name for name in names if len(word) >= _TELLING and name.startswith(word)]
    if len(begun) == 1:
        return begun[0]
    return next(iter(difflib.get_close_matches(word, names, n=1, cutoff=0.65)), None)


def guess(word: str, known: Mapping[str, Any]) -> str:
    """`; did you mean "kind"?`, or what there is."""
    near = close(word, known)
    return f'; did you mean "{near}"?' if near else f"; known are {', '.join(known)}"
