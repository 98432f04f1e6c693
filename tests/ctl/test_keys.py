"""The file of keys: written whole, read by nobody else, never shown in full."""

from __future__ import annotations

import io
import stat
import sys
import tomllib

import pytest
from fakes.terminal import Run

from modelproxy.ctl.keys import read, set_key
from modelproxy.supervisor.keys import stored
from modelproxy.supervisor.paths import Paths


def typed_in(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def test_set_list_unset(run: Run, paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    typed_in(monkeypatch, "sk-or-1234567890abcd\n")
    ran = run("keys", "set", "openrouter")

    assert (ran.code, ran.out) == (0, "the key for openrouter is set\n")
    assert stat.S_IMODE(paths.keys_file.stat().st_mode) == 0o600
    assert tomllib.loads(paths.keys_file.read_text()) == {"openrouter": "sk-or-1234567890abcd"}
    assert run("keys", "list").out == "openrouter  ***abcd\n"
    assert run("keys", "list", "--json").json == [{"provider": "openrouter", "key": "***abcd"}]
    assert run("keys", "unset", "openrouter", "--json").json == {"provider": "openrouter", "set": False}
    assert read(paths.keys_file) == {}
    assert run("keys", "unset", "openrouter").code == 1


@pytest.mark.parametrize(
    ("provider", "note"),
    [
        ("openrouter", ""),
        ("opnrouter", 'note: there is no provider "opnrouter"; did you mean "openrouter"?\n'),
        ("echo", "note: echo asks nobody, and uses no key\n"),
        (
            "ollama",
            "note: Ollama itself needs no key; this one is sent with every request, for a server in front of it "
            "that asks for one\n",
        ),
        ("remote/office", "note: there is no table [remotes.office]\n"),
        ("groq", 'note: there is no provider "groq" yet; [providers.groq] makes one\n'),
    ],
)
def test_a_key_that_nobody_would_use_is_kept_and_told(
    run: Run, monkeypatch: pytest.MonkeyPatch, provider: str, note: str
) -> None:
    monkeypatch.delenv("OPENROUTER_API_KEY", raising=False)
    typed_in(monkeypatch, "sk-1\n")
    ran = run("keys", "set", provider)

    assert (ran.code, ran.err) == (0, note)


def test_a_key_that_another_goes_before_is_kept_and_told(
    run: Run, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever replaces a refused key wonders why it is still refused."""
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-0")
    typed_in(monkeypatch, "sk-1\n")
    assert run("keys", "set", "openrouter").err == (
        "note: the variable OPENROUTER_API_KEY is set in this shell, and goes before it\n"
    )
    monkeypatch.delenv("OPENROUTER_API_KEY")
    paths.config_file.write_text('[providers.openrouter]\napi_key_command = "false"')
    typed_in(monkeypatch, "sk-1\n")
    assert run("keys", "set", "openrouter").err == (
        "note: api_key_command under [providers.openrouter] goes before it\n"
    )


def test_a_key_on_the_command_line_is_refused_and_not_repeated(run: Run, paths: Paths) -> None:
    ran = run("keys", "set", "openrouter", "sk-typed-by-mistake")

    assert ran.code == 2
    assert "proxyctl keys set openrouter asks for it" in ran.err
    assert "sk-typed" not in ran.err
    assert not paths.keys_file.exists()


@pytest.mark.parametrize("line", ["OPENROUTER_API_KEY=sk-1", "export WORK_KEY=sk-1"])
def test_a_line_of_a_shell_script_is_no_key(
    run: Run, paths: Paths, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    typed_in(monkeypatch, f"{line}\n")
    ran = run("keys", "set", "openrouter")

    assert (ran.code, paths.keys_file.exists()) == (2, False)
    assert "sk-1" not in ran.err


def test_an_empty_list_says_so_on_the_side(run: Run) -> None:
    ran = run("keys", "list")

    assert (ran.out, ran.err) == ("", "no key is kept; proxyctl keys set PROVIDER\n")


def test_the_supervisor_reads_what_was_set(paths: Paths) -> None:
    set_key(paths.keys_file, "work.one", 'odd "key" \\ with signs')

    assert stored(paths.keys_file, "work.one") == 'odd "key" \\ with signs'
    assert stored(paths.keys_file, "other") is None


def test_other_keys_stay_and_a_loose_mode_is_tightened(paths: Paths) -> None:
    set_key(paths.keys_file, "a", "key-of-a")
    paths.keys_file.chmod(0o644)
    set_key(paths.keys_file, "b", "key-of-b")

    assert read(paths.keys_file) == {"a": "key-of-a", "b": "key-of-b"}
    assert stat.S_IMODE(paths.keys_file.stat().st_mode) == 0o600


@pytest.mark.parametrize(("text", "code"), [("\n", 2), ("", 2)])
def test_an_empty_key_is_refused(
    run: Run, paths: Paths, monkeypatch: pytest.MonkeyPatch, text: str, code: int
) -> None:
    typed_in(monkeypatch, text)

    ran = run("keys", "set", "openrouter")

    assert ran.code == code
    assert ran.err == "error: The API key from standard input is empty\n"
    assert not paths.keys_file.exists()


def test_a_spoilt_file_is_named_and_left_alone(run: Run, paths: Paths) -> None:
    paths.keys_file.parent.mkdir(parents=True)
    paths.keys_file.write_text("= = sk-secret")
    ran = run("keys", "list")

    assert ran.code == 1
    assert "keys.toml:1: not TOML" in ran.err
    assert "sk-secret" not in ran.err


def test_a_short_key_shows_nothing_of_itself(run: Run, paths: Paths) -> None:
    set_key(paths.keys_file, "a", "short")

    assert run("keys", "list").out == "a  ***\n"


def test_a_name_that_no_provider_has(run: Run, paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    typed_in(monkeypatch, "key\n")

    assert run("keys", "set", "a/b").code == 2
