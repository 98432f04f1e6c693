"""Each kind of value: what it takes, what it says, and that its JSON schema agrees."""

from __future__ import annotations

import re
from typing import Any

import pytest

from modelproxy.supervisor import values


def test_what_was_meant_begins_so_or_is_written_nearly_so() -> None:
    names = ["max_concurrent", "max_context", "max_body", "rpm"]

    assert values.close("max_conc", names) == "max_concurrent"
    assert values.close("max_cont", names) == "max_context"
    assert values.close("queue", names) is None
    assert values.close("rp", names) == "rpm"


KINDS: list[tuple[values.Value, list[Any], list[Any]]] = [
    (values.Text(), ["a"], ["", " ", 5, None]),
    (values.Name(), ["ollama/a:7b", "local"], ["a b", "a\x1b", "x" * 201, ""]),
    (values.Url(), ["http://h", "https://[::1]:8/x"], ["h", "ftp://h", "http://", "http://h:0", "http://h:x"]),
    (values.Url(), ["http://h/a@b"], ["http://a b", "", 5, "http://me:pw@h", "http://me@h/x", "ftp://me:pw@h"]),
    (values.KeyFile(), ["~/.keys/work", "./sk-work", "sk-work.txt"], ["sk-or-v1-abc", "", 5]),
    (values.Choice("fork", "exec"), ["fork"], ["Fork", 1, True]),
    (values.Flag(), [True, False], [0, 1, "true"]),
    (values.Whole(1, 5), [1, 5], [0, 6, 1.0, True, "1"]),
    (values.Amount(), [0, 0.5], [-1, True, "1", float("nan"), 1e9]),
    (values.Seconds(), [1, 0.5, "500ms", "2 m", "1h", "1d"], [0, -1, "soon", "2d", float("inf"), 86401, True, "١s"]),
    (values.Seconds(1.0, 60.0, or_none=True), [0, 1, "0s", "1m"], [0.5, "500ms", -1, 61]),
    (values.Variable(), ["MY_KEY"], ["sk-1", "", 5]),
    (values.Size("16M", "2G"), ["500M", "1.5G", "64 MiB", 2**30], ["1M", "3G", "M", "x", True, -1]),
]  # fmt: skip
CASES = [
    (kind, value, good)
    for kind, yes, no in KINDS
    for good, many in ((True, yes), (False, no))
    for value in many
]


@pytest.mark.parametrize(("kind", "value", "good"), CASES)
def test_what_is_taken_and_what_is_not(kind: values.Value, value: Any, good: bool) -> None:
    found: list[str] = []
    kind.read(value, ("key",), lambda path, raw, text: found.append(f"{path} {text}"))

    assert (found == []) == good
    assert all(text.startswith("('key',) must be ") for text in found)


def test_what_comes_out() -> None:
    assert values.Seconds().check("2m") == 120.0
    assert values.Size("1M", "9G").check("1.5G") == 3 * 2**29
    assert values.Url().check("http://h/v1/") == "http://h/v1"
    assert values.OneOf("x", values.Choice("auto"), values.Whole(1, 9)).check(7) == 7


def test_a_word_that_is_nearly_right() -> None:
    with pytest.raises(ValueError, match=r'must be one of fork, exec; did you mean "exec"\?'):
        values.Choice("fork", "exec").check("exce")


@pytest.mark.parametrize(
    ("kind", "raw", "words"),
    [
        (values.Flag(), "true", "must be true or false, without quotes"),
        (values.Flag(), "TRUE", "must be true or false, in small letters and without quotes"),
        (values.Flag(), "ture", 'must be true or false; did you mean "true"?'),
        (values.Name(), "a\u200bb", "must be without U+200B, a character that cannot be seen"),
        (values.Section({}), [{}], "must be a table, in single brackets"),
        (values.Named(values.Section({})), [{}], "each is a table with a name of its own, like [key.NAME]"),
    ],
)
def test_slips_are_told_by_what_they_are(kind: values.Value, raw: Any, words: str) -> None:
    found: list[str] = []
    kind.read(raw, ("key",), lambda path, raw, text: found.append(text))

    assert found == [words]


@pytest.mark.parametrize(
    ("kind", "raw", "words"),
    [
        (
            values.Url(),
            "http://bob:p@h",
            "must be without user and password, which would be shown; send them as ",
        ),
        (values.Url("x"), "http://p@h", "must be without user and password, which would be shown; x"),
        (values.Url(), "http://bob:p/w@h", "must be a URL like http://127.0.0.1:11434"),
        (values.Url(), "bob:p@h", "must be a URL like http://127.0.0.1:11434"),
        (values.TokenHash(), "mp-abc", "must be 64 hexadecimal digits; proxyctl tokens add ci makes one"),
        (values.KeyFile(), "sk-abc", "must be the name of a file (./NAME), and not a key; keys are kept by "),
    ],
)
def test_what_may_be_a_secret_in_a_wrong_place_is_not_shown(kind: values.Value, raw: str, words: str) -> None:
    found: list[tuple[Any, str]] = []
    kind.read(raw, ("tokens", "ci", "key"), lambda path, shown, text: found.append((shown, text)))

    [(shown, text)] = found
    assert shown is values.UNSHOWN
    assert text.startswith(words)
    assert raw not in text


def test_nothing_far_fetched_is_suggested() -> None:
    """`nope` for `openai` would send the user off in a wrong direction."""
    assert values.close("olama", ["ollama", "openai"]) == "ollama"
    assert values.close("nope", ["openai", "openrouter"]) is None


@pytest.mark.parametrize(("kind", "value", "good"), CASES)
def test_the_json_schema_takes_what_the_reader_takes(kind: values.Value, value: Any, good: bool) -> None:
    """It may take a little more; it must not refuse in an editor what is right."""
    assert fits(kind.schema(), value) or not good


def fits(schema: dict[str, Any], value: Any) -> bool:
    """As much of JSON Schema as is used."""
    if "anyOf" in schema:
        return any(fits(one, value) for one in schema["anyOf"])
    if "const" in schema:
        return bool(value == schema["const"])
    if "enum" in schema:
        return value in schema["enum"]
    types: dict[str, Any] = {"string": str, "integer": int, "boolean": bool, "number": (int, float)}
    if not isinstance(value, types[schema["type"]]):
        return False
    if isinstance(value, str):
        return re.search(schema.get("pattern", ""), value) is not None
    return bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))
