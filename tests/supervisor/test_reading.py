"""Text to values: where a problem is said to stand, and what of a value is shown. See also test_config.py."""

from __future__ import annotations

import tomllib
from datetime import date

import pytest

from modelproxy.supervisor.reading import (
    ConfigError,
    Problem,
    checked,
    first_of,
    line_of,
    load,
    not_utf8,
    shown,
)
from modelproxy.supervisor.toml_lines import Path, lines_of


def test_what_is_no_toml_has_its_line() -> None:
    with pytest.raises(ConfigError) as caught:
        load("a = 1\nb = [1,\n")

    [problem] = caught.value.problems
    assert (problem.path, problem.line) == ("", 2)
    assert str(problem).startswith("line 2: not TOML: ")


@pytest.mark.parametrize(
    ("text", "help_"),
    [
        ("a = 1\na = 2", "this key stands here a second time"),
        ("[aliases]\n[aliases]", "[aliases] twice; this table stands here a second time"),
        ('claude-* = "x"', "stands in quotes"),
        ("[proxies.ollama/x]", 'stands in quotes: [proxies."ollama/x"]'),
        ("a = word", "texts stand in quotes"),
        ("a = 'x' b = 1", "one key on each line"),
        ('a = "x\n"', "with a quote like the one that it begins with"),
        ('a = "C:\\d"', "a backslash is written twice"),
        ("\ufeffa = 1", "byte order mark"),
        ("a = yes", "; what holds or not is said by true or false, and texts stand in quotes"),
        ("a = nothing", '; texts stand in quotes: "…"'),
        ("a = (1, 2)", "; a list stands in square brackets: [ … ]"),
        ("[front.default]\nrules = []\n[[front.default.rules]]", "in another form"),
        ("a = True", "; true and false are written small"),
        ("a = { b = FALSE }", "; true and false are written small"),
        ("a = “x”", '; quotes are straight ones: "…"'),
        ("“a” = 1", '; quotes are straight ones: "…"'),
        ('a = "x” # so', '; quotes are straight ones: "…"'),
        ("a = [\n  1\n  2\n]", "; a comma is missing before this line, or a ]"),
        ("a = [1 2]", "; a comma is missing between two elements, or a ]"),
        ("a = [1,\n[b]", "; a ] is missing above this line"),
        ("a = [1\nb = 2", "; a ] is missing above this line"),
        ("a = [1,\n", "; a ] is missing"),
        ("a = { b = 1 c = 2 }", "; a comma is missing between two elements, or a }"),
        ("a = { * = 1 }", "stands in quotes"),
        ("a = 1 true", "one key on each line"),
        ("a =", "; there is no value behind the ="),
        ("// so", "; a comment begins with #"),
        (
            '{"models": {}}',
            "; this looks like JSON; proxyctl config import takes over its models and apiKeys",
        ),
        ('= "x"', "; a line is a [table], a key = value, or a comment that begins with #"),
        ("a: 1", "; behind a key stands = and no colon"),
        ("a:", "; behind a key stands = and no colon"),
        ('qwen3:8b = "x"', "stands in quotes"),
        ('a b = "x"', "stands in quotes"),
        ('a "x"', "; there is no = between the key and its value"),
        ("a = 1,", "; no comma or semicolon stands at the end of a line"),
        ("a = 1; # so", "; no comma or semicolon stands at the end of a line"),
        ("a = 4,457", "; a number has no comma in it"),
        ("a = 0600", "; a number does not begin with 0"),
        ("a\u00a0= 1", "; a character that cannot be seen stands there, U+00A0"),
        ('a = "C:\\Users"', "; a backslash is written twice"),
        ("a = \nb = 1", "; there is no value behind the ="),
    ],
)
def test_what_is_no_toml_is_said_in_words_that_help(text: str, help_: str) -> None:
    """The words come from a library: a change of them there is seen here."""
    with pytest.raises(ConfigError) as caught:
        load(text)

    assert help_ in caught.value.problems[0].text


@pytest.mark.parametrize(
    "table",
    [
        "{\n a = 1 }",
        "{ a = 1,\n b = 2 }",
        "{ a = 1, }",
        "{ a = 1\n}",
        "{ # here\n a = 1 }",
        "{ a = { b = 1, } }",
    ],
)
def test_an_inline_table_stands_on_one_line(table: str) -> None:
    """And there is a way to write it over several."""
    if is_toml(f"a = {table}"):
        pytest.skip("this Python reads TOML 1.1, which takes it over several lines")
    words = "; an inline table { … } stands on one line, without a comma at its end"

    assert toml_problem(f"[models]\nagents = {table}").endswith(f"{words}; or use [models.agents]")
    assert toml_problem(f"models.agents = {table}").endswith(f"{words}; or use [models.agents]")
    assert toml_problem(f"[[a.b]]\nrules = [\n {table}\n]").endswith(words)


def is_toml(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True


def toml_problem(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(text)
    return caught.value.problems[0].text


def test_what_is_no_utf8_has_its_line() -> None:
    with pytest.raises(UnicodeDecodeError) as caught:
        b"a = 1\nb = '\xe4'\n".decode()

    assert str(not_utf8(caught.value)) == "line 2: not UTF-8; save it as UTF-8"


def test_nested_without_end_is_a_problem_and_no_crash() -> None:
    with pytest.raises(ConfigError, match="not TOML"):
        load("a = " + "[" * 100_000)


def test_what_is_missing_stands_where_its_table_stands() -> None:
    lines = lines_of("[a.b]\nc = 1\n")

    assert line_of(("a", "b", "d"), lines) == 1
    assert line_of(("a",), lines) == 1  # no line of its own: the first that names it
    assert line_of(("x",), lines) is None


def test_how_a_problem_reads() -> None:
    assert str(Problem("a.b", "must be more", 3, "1")) == "line 3: a.b = 1: must be more"
    assert str(Problem("a.b", "is missing")) == "a.b: is missing"


@pytest.mark.parametrize(
    ("at", "words"),
    [
        (("front", "a", "rules", 0), "front.a.rules (1st): x"),
        (("front", "a", "rules", 1, "agnt"), "front.a.rules (2nd).agnt: x"),
        (("proxies", "ollama/a", "fallback", 2), 'proxies."ollama/a".fallback (3rd): x'),
        (("a", 3), "a (4th): x"),
        (("a", 10), "a (11th): x"),
        (("a", 20), "a (21st): x"),
    ],
)
def test_people_count_from_one(at: Path, words: str) -> None:
    """Programs have `path`, which counts as TOML's lists do."""
    assert str(Problem("a", "x", at=at)) == words


def test_values_and_problems_come_together() -> None:
    values, problems = checked({"default_port": 4000, "spawn": "x"})

    assert values["default_port"] == 4000
    assert [problem.at for problem in problems] == [("spawn",)]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", '"a"'),
        (5, "5"),
        (True, "true"),
        ([1], None),
        ({}, None),
        (date(2026, 1, 2), "2026-01-02"),
        ("http://me:sk-1@h", '"http://***@h"'),
        ("x" * 99, '"' + "x" * 59 + "…"),
    ],
)
def test_how_a_value_is_shown(value: object, text: str | None) -> None:
    assert shown(value) == text


def test_a_sentence_has_room_for_the_first() -> None:
    assert first_of("a") == "a"
    assert first_of("a\nb\nc") == "a; and 2 more: proxyctl config validate"
