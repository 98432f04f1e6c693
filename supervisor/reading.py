"""From the text of a configuration file to values, and all that is wrong with it. Pure.

Three steps, and none hides what the next would find: `tomllib` reads the text, `schema` every value, and
`consistency` looks whether they fit together. Classes are made of the values in `config`, which costs more to
import: the command line often needs none.
"""

from __future__ import annotations

import ast
import json
import re
import tomllib
from typing import Any

import attrs

from . import astray, consistency, schema
from .toml_lines import Path
from .values import UNSHOWN, unseen


@attrs.frozen
class Problem:
    """One thing that is wrong with the file."""

    path: str
    """`providers.work.retries`; empty when the file is no TOML at all."""
    text: str
    line: int | None = None
    value: str | None = None
    """As it stands in the file; None for what is secret or says nothing."""
    at: Path = ()
    """The path in its parts."""

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line is not None else ""
        path = in_words(self.at) or self.path
        what = f"{path} = {self.value}" if self.value is not None else path
        return f"{where}{what}: {self.text}" if what else f"{where}{self.text}"


def in_words(at: Path) -> str:
    """`front.default.rules (1st).to`: people count from one."""
    text = ""
    for part in at:
        if isinstance(part, int):
            text += f" ({ordinal(part + 1)})"
        else:
            text += f"{text and '.'}{schema.dotted((part,))}"
    return text


def ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


class ConfigError(Exception):
    """All that is wrong with the file, in the order of its lines."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems

    def told(self, file: object) -> str:
        """A line for each, for whoever knows which file it is."""
        return "\n".join(placed(file, problem) for problem in self.problems)


def first_of(told: str) -> str:
    """The first of such lines, and where the others are, for a sentence that has room for one."""
    first, *others = told.split("\n")
    return first + (f"; and {len(others)} more: proxyctl config validate" if others else "")


def placed(file: object, problem: Problem) -> str:
    """With its place as editors and terminals open it: `config.toml:4: …`."""
    line = f":{problem.line}" if problem.line is not None else ""
    return f"{file}{line}: {attrs.evolve(problem, line=None)}"


_QUOTES = 'what has other signs than letters, digits, _ and - stands in quotes: "claude-haiku-*" = '
_BACKSLASH = "a backslash is written twice, or the text stands in '…'"
_MEANT = {
    "Cannot overwrite": "this key stands here a second time",
    "Cannot declare": "this table stands here a second time; its keys belong under the first [header]",
    "Cannot mutate": "it stands here already, in another form: either as key = … or below [key] and [[key]], not both",
    "Expected '='": _QUOTES + "…",
    "Expected ']'": "a table begins with its name in brackets, and what has other signs than letters, digits, _ "
    'and - stands in quotes: [proxies."ollama/x"]',
    "Invalid initial character for a key": _QUOTES + "…",
    "Invalid value": 'texts stand in quotes: "…"',
    "Expected newline": 'one key on each line, and texts stand in quotes: "…"',
    "Illegal character": 'a text ends on its own line, with a quote like the one that it begins with: "…"',
    "Unescaped": _BACKSLASH,
    "Invalid hex": _BACKSLASH,
    "Invalid statement": "a line is a [table], a key = value, or a comment that begins with #",
}
"""What mostly lies behind the words of `tomllib`, for those who do not know TOML by heart."""


_SIGNS = (
    ("Invalid statement", r"//|;|--|/\*", "a comment begins with #"),
    (
        "Invalid statement",
        r"\{",
        "this looks like JSON; proxyctl config import takes over its models and apiKeys",
    ),
    ("Expected '='", r":(\s|$)", "behind a key stands = and no colon"),
    ("Expected '='", r"[\w\"'{\[][^=]*$", "there is no = between the key and its value"),
    ("Expected newline", r"[,;]\s*(#|$)", "no comma or semicolon stands at the end of a line"),
    ("Expected newline", r",\d", "a number has no comma in it"),
    ("Expected newline", r"\d", "a number does not begin with 0"),
)
"""What tells more than the words: how the text goes on there."""
_CURLY = "“”„‟‘’‚«»"
_STRAIGHT = 'quotes are straight ones: "…"'
_NO_VALUE = "there is no value behind the ="
_STATEMENT = re.compile(r"""\s*(?:\[|[\w."'-]+\s*=)""")
_OPENED = re.compile(r"""\s*([\w."'-]+)\s*=\s*\{""")
_TUPLE = re.compile(r"\((?:'[^']*'|\"[^\"]*\")(?:, (?:'[^']*'|\"[^\"]*\"))*,?\)")
"""As `tomllib` shows a table that it names."""
_HEADER = re.compile(r"^[ \t]*(\[+)([^\[\]\n]+)\]", re.MULTILINE)


def _in_words(error: tomllib.TOMLDecodeError, text: str) -> str:
    what, _, place = str(error).partition(" (at ")
    what = _TUPLE.sub(lambda path: f"[{schema.dotted(ast.literal_eval(path[0]))}]", what)
    at = re.match(r"line (\d+), column (\d+)", place)
    meant = _meant_there(what, text, int(at[1]), int(at[2]) - 1) if at else _meant_at_the_end(what, text)
    meant = meant or next((words for start, words in _MEANT.items() if what.startswith(start)), None)
    return f"not TOML: {what}" if meant is None else f"not TOML: {what}; {meant}"


def _meant_there(what: str, text: str, number: int, column: int) -> str | None:
    """What the place tells more of than the words; None: nothing."""
    above, line = text.split("\n")[: number - 1], text.split("\n")[number - 1]
    before, rest = line[:column], line[column:]
    if rest[:1] in _CURLY if rest else _is_curly(line):
        return _STRAIGHT
    if what.startswith("Invalid value"):
        return _no_value(line, rest)
    if (hidden := unseen(rest[:1])) is not None:
        return f"a character that cannot be seen stands there, {hidden}"
    for start, sign, words in _SIGNS:
        if what.startswith(start) and re.match(sign, rest):
            return words
    nothing = rest.strip()[:1] in ("", "#", "}")
    if nothing and (
        what.startswith("Unclosed inline")
        or (what.startswith("Invalid initial") and before.rstrip()[-1:] in ("{", ","))
    ):
        return _on_one_line(above, line)
    if _STATEMENT.match(rest) and what.startswith("Unclosed array") and not before.strip():
        return "a ] is missing above this line"
    if what.startswith("Unclosed"):
        where = "between two elements" if before.strip() else "before this line"
        return f"a comma is missing {where}, or a {'}' if 'inline' in what else ']'}"
    return None


def _no_value(line: str, rest: str) -> str | None:
    if re.match(r"(?i:true|false)\b", rest):
        return "true and false are written small"
    if re.match(r"(?i:yes|no|on|off)\b", rest):
        return "what holds or not is said by true or false, and texts stand in quotes"
    if rest.startswith("("):
        return "a list stands in square brackets: [ … ]"
    if re.fullmatch(r"\s*\[[^\s\[\],]+\]\s*", line):  # read as an element of a list
        return "a ] is missing above this line"
    return None if rest.strip() else _NO_VALUE


def _meant_at_the_end(what: str, text: str) -> str | None:
    if what.startswith("Unterminated") and _is_curly(text.rpartition("\n")[2]):
        return _STRAIGHT
    if text.rstrip().endswith("="):
        return _NO_VALUE
    return "a ] is missing" if what.startswith("Unclosed array") or text.rstrip().endswith(",") else None


def _is_curly(line: str) -> bool:
    return any(sign in line for sign in _CURLY)


def _on_one_line(above: list[str], line: str) -> str:
    words = "an inline table { … } stands on one line, without a comma at its end"
    key, headers = _OPENED.match(line), _HEADER.findall("\n".join(above))
    if key is None:
        return words
    brackets, table = headers[-1] if headers else ("", "")
    return words if len(brackets) > 1 else f"{words}; or use [{table and f'{table.strip()}.'}{key[1]}]"


def not_utf8(error: UnicodeDecodeError) -> Problem:
    """Of a file's whole content."""
    return Problem("", "not UTF-8; save it as UTF-8", error.object.count(b"\n", 0, error.start) + 1)


def load(text: str) -> dict[str, Any]:
    """The TOML document in `text`, whatever its keys."""
    if text.startswith("\ufeff"):
        raise ConfigError([Problem("", "begins with a byte order mark; save it as UTF-8 without one", 1)])
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        number = re.match(r"line (\d+)", str(error).partition(" (at ")[2])
        line = int(number[1]) if number else len(text.splitlines())  # "end of document"
        raise ConfigError([Problem("", _in_words(error, text), line)]) from None
    except RecursionError:
        raise ConfigError([Problem("", "not TOML: nested too deeply")]) from None


def checked(
    document: dict[str, Any], lines: dict[Path, int] | None = None
) -> tuple[dict[str, Any], list[Problem]]:
    """The document's values as the program wants them, and all that is wrong, in the order of `lines`."""
    collected: list[tuple[Path, Any, str]] = []

    def report(path: Path, value: Any, what: str) -> None:
        collected.append((path, value, astray.in_words(path, document, what)))

    values = schema.read(document, report)
    consistency.check(values, report)
    problems = [
        Problem(
            schema.dotted(path),
            what,
            line_of(path, lines or {}),
            None if value is UNSHOWN else shown(value),
            path,
        )
        for path, value, what in collected
    ]
    return values, sorted(problems, key=lambda problem: problem.line or 0)


def line_of(path: Path, lines: dict[Path, int]) -> int | None:
    """Where it stands, or else what it stands in; a table that only longer headers name is where they begin."""
    for length in range(len(path), 0, -1):
        if path[:length] in lines:
            return lines[path[:length]]
    below = [line for other, line in lines.items() if other[: len(path)] == path]
    return min(below, default=None)


_MOST_SHOWN = 60


def shown(value: Any) -> str | None:
    """As in the file, but no credential in a URL, and not endlessly."""
    if isinstance(value, dict | list):
        return None
    try:
        text = json.dumps(value, ensure_ascii=False)
    except TypeError:  # a date
        text = str(value)
    text = re.sub(r"//[^/@]*@", "//***@", text)
    return text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "…"
