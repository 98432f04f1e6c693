"""Where a key comes from, and what is said when it does not come."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelproxy.supervisor.config import Key
from modelproxy.supervisor.keys import KeyUnavailableError, SpoiltError, fetch, stored


def test_the_value_itself() -> None:
    assert fetch(Key(value="k")) == "k"


def test_a_variable_that_may_be_unset_or_empty() -> None:
    assert fetch(Key(env="A"), {"A": "k"}) == "k"
    assert fetch(Key(env="A"), {}) is None
    assert fetch(Key(env="A"), {"A": ""}) is None


def test_s57_a_variable_goes_before_what_the_file_says(tmp_path: Path) -> None:
    """And then nothing else is touched."""
    key = Key(value="of the file", env="A", file=str(tmp_path / "none"))

    assert fetch(key, {"A": "of the shell"}) == "of the shell"
    assert fetch(key, {}) == "of the file"


def test_nothing_configured() -> None:
    assert fetch(Key()) is None


def test_the_first_line_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("k\n")

    assert fetch(Key(file=str(file))) == "k"


@pytest.mark.parametrize("content", ["", "\n", "sk-one\nsk-two\n"])
def test_a_file_that_is_no_key(tmp_path: Path, content: str) -> None:
    file = tmp_path / "key"
    file.write_text(content)

    with pytest.raises(KeyUnavailableError, match="one line that is not empty") as caught:
        fetch(Key(file=str(file)))
    assert "sk-two" not in str(caught.value).partition(" must ")[2]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyUnavailableError, match="No such file"):
        fetch(Key(file=str(tmp_path / "absent")))


def test_a_command() -> None:
    assert fetch(Key(command="printf k")) == "k"


def test_a_command_that_fails_says_so_without_its_output() -> None:
    with pytest.raises(KeyUnavailableError, match="ended with 3") as caught:
        fetch(Key(command="echo sk-secret; exit 3"))
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("echo sk-secret; exit 3", "ended with 3"),
        ("echo sk-secret >&2; exit 4", "ended with 4"),
        ("no-such-program-anywhere get sk-secret", "ended with 127: a program was not found"),
    ],
)
def test_a_command_that_fails_is_told_with_its_place_and_nothing_it_wrote(command: str, told: str) -> None:
    with pytest.raises(KeyUnavailableError) as caught:
        fetch(Key(command=command))

    key = "providers.work.api_key_command"
    assert str(caught.value) == f"the key command {told}"
    assert caught.value.told("work") == (
        f"the key command ({key}) {told}",
        f"run it in a shell to see why, mend it, or proxyctl config unset {key}",
    )


def test_a_key_file_is_told_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(b"\xff")
    with pytest.raises(KeyUnavailableError) as caught:
        fetch(Key(file=str(file)))

    key = "providers.work.api_key_file"
    assert caught.value.told("work") == (
        f"the key file {file} ({key}) is not UTF-8",
        f"mend it, or proxyctl config unset {key}",
    )
    with pytest.raises(KeyUnavailableError, match="the key command's output is not UTF-8"):
        fetch(Key(command="printf '\\377'"))


def test_the_file_of_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    assert stored(file, "a") is None
    file.write_text('a = "k"\nb = ""\nc = 5\n')

    assert stored(file, "a") == "k"
    assert stored(file, "b") is None
    with pytest.raises(KeyUnavailableError, match="c is not a text"):
        stored(file, "c")
    file.write_text("b = 1\nsk-secret")
    with pytest.raises(KeyUnavailableError) as caught:
        stored(file, "a", needed=True)
    assert caught.value.told("a") == (f"{file}:2: not TOML", SpoiltError.helps)


SPOILT = '# of local\n"box.a" = "k"\nopenrouter = "sk-other-1\nwork = "k"\n'


def test_a_spoilt_file_of_keys_is_in_the_way_of_those_in_it_and_of_no_other(tmp_path: Path) -> None:
    """A key that was kept is never left out unnoticed; a comment, or a part of another word, is no key."""
    file = tmp_path / "keys.toml"
    file.write_text(SPOILT)

    for name in ("box.a", "openrouter", "work"):
        with pytest.raises(SpoiltError, match=":3: not TOML"):
            stored(file, name)
    assert [stored(file, name) for name in ("local", "box", "open", "a", "other")] == [None] * 5


@pytest.mark.parametrize(
    "content", [b'"\\u0061" = 1\n=', "a = 1\n=".encode("utf-16-le"), b"a = 1 # \xe4", None]
)
def test_whose_keys_are_in_a_file_that_cannot_be_read_nobody_knows(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "keys.toml"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)

    with pytest.raises(SpoiltError):
        stored(file, "a")
