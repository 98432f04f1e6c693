"""Where things stand in a TOML file."""

from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from modelproxy.supervisor.toml_lines import Path, lines_of

TEXT = '''# a comment with [brackets] and "quotes"
default_port = 3456 # behind it

[providers.ollama]
base_url = "http://[::1]:1" # = not a key
think = { "qwen3:8b" = false, b.c = 1 }

[providers."a.b"]
words = """
[not.a.header]
key = 1
"""
other = \'\'\'
x = 2\'\'\'
last = 1979-05-27T07:32:00Z

[front.default]
rules = [
  # the first
  { agent = "a", to = "x" },

  { model = "b", to = "y" }, [1, 2],
]

[[many]]
a = 1
[[many]]
b = 2
[many.below]
c = 3
'''


def paths_of(value: Any, path: Path = ()) -> set[Path]:
    found = {path} if path else set()
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in pairs:
        found |= paths_of(below, (*path, key))
    return found


def test_every_value_has_its_line() -> None:
    found = lines_of(TEXT)
    at = {".".join(map(str, path)): line for path, line in found.items()}

    assert at["default_port"] == 2
    assert (at["providers.ollama"], at["providers.ollama.base_url"]) == (4, 5)
    assert at["providers.ollama.think.qwen3:8b"] == at["providers.ollama.think.b.c"] == 6
    assert found["providers", "a.b", "words"] == 9
    assert found["providers", "a.b", "last"] == 15
    assert (at["front.default.rules"], at["front.default.rules.0"]) == (18, 20)
    assert (at["front.default.rules.1.to"], at["front.default.rules.2.1"]) == (22, 22)
    assert (at["many.0.a"], at["many.1"], at["many.1.b"], at["many.1.below.c"]) == (26, 27, 28, 30)


def test_no_path_is_missing_and_none_is_invented() -> None:
    """Tables that only a longer header names (`[providers.ollama]` makes `providers`) have no line."""
    implied = {("providers",), ("front",)}

    assert set(lines_of(TEXT)) == paths_of(tomllib.loads(TEXT)) - implied


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x7f", min_codepoint=32), max_size=8)


@given(st.dictionaries(TEXTS, st.one_of(TEXTS, st.lists(TEXTS, max_size=3), st.integers()), max_size=5))
def test_whatever_stands_in_strings(document: dict[str, Any]) -> None:
    """Quotes, brackets, escapes and comments inside of strings mislead nobody."""
    text = "".join(f"{quoted(key)} = {written(value)}\n" for key, value in document.items())

    assert tomllib.loads(text) == document
    found = lines_of(text)
    assert [found[(key,)] for key in document] == list(range(1, len(document) + 1))
    assert set(found) == paths_of(document)


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def written(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(written, value))}]"
    return quoted(value) if isinstance(value, str) else str(value)
