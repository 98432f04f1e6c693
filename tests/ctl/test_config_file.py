"""Changing the file by command: only to what would be accepted, and never over what somebody meant (S8, S108)."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from fakes.terminal import Run

from modelproxy.supervisor import example
from modelproxy.supervisor.paths import Paths

TEXT = '# mine\ndefault_port = 4000 # why\n\n[models.agents]\none = "ollama/x"\n'


@pytest.fixture
def file(paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    paths.config.mkdir(parents=True)
    paths.config_file.write_text(TEXT)
    return paths.config_file


def test_set_and_unset(run: Run, file: Path) -> None:
    file.chmod(0o644)

    assert run("config", "set", "models.agents.two", "ollama/y").out == 'models.agents.two = "ollama/y"\n'
    assert file.read_text() == TEXT + 'two = "ollama/y"\n'
    assert file.stat().st_mode & 0o777 == 0o600
    assert run("config", "unset", "models.agents.two", "--json").json == {
        "key": "models.agents.two",
        "set": False,
    }
    assert file.read_text() == TEXT
    assert run("config", "unset", "models.agents.two").code == 1


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("default_port", "99999", "default_port = 99999: must be a whole number from 1 to 65535"),
        (
            "remotes.office.timeout_seconds",
            "301",
            "remotes.office.timeout_seconds = 301: must be a whole number",
        ),
        ("proxies.coder.model", "lokal", 'proxies.coder.model = "lokal": is not a model id'),
        ("providers.ollama.base_url", "ftp://h", 'providers.ollama.base_url = "ftp://h": must be a URL'),
        ("default_prt", "1", 'default_prt: unknown key; did you mean "default_port"?'),
        (
            "providers.ollama.api_key",
            "sk-on-the-command-line",
            "a key on the command line is seen by everybody",
        ),
        ("models.agents.one.deeper", "x", "there is no key"),
    ],
)
def test_s108_what_validation_would_refuse_is_refused(
    run: Run, file: Path, key: str, value: str, said: str
) -> None:
    ran = run("config", "set", key, value)

    assert ran.code == 2
    assert said in ran.err
    assert "sk-on-the-command-line" not in ran.err
    assert file.read_text() == TEXT


def test_a_key_comes_in_by_standard_input(run: Run, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("sk-secret-1234\n"))
    ran = run("config", "set", "providers.openrouter.api_key", "-", "--json")

    assert ran.json == {"key": "providers.openrouter.api_key", "value": "***"}
    assert 'api_key = "sk-secret-1234"' in file.read_text()
    assert run("config", "get", "providers.openrouter.api_key").out == "***1234\n"
    for shown in (run("config", "show"), run("config", "show", "--json"), run("config", "show", "--origin")):
        assert "sk-secret" not in shown.out


def test_a_second_source_of_a_key_is_refused_with_the_command_that_helps(run: Run, file: Path) -> None:
    run("config", "set", "providers.openrouter.api_key_file", "/a")
    ran = run("config", "set", "providers.openrouter.api_key_command", "pass show b")

    assert ran.code == 2
    assert ran.err == (
        "error: providers.openrouter has api_key_file already, and a key comes from one place\n"
        "hint: proxyctl config unset providers.openrouter.api_key_file, then say it again\n"
    )
    assert run("config", "set", "providers.openrouter.api_key_file", "/b").code == 0


def test_what_belongs_together_is_set_together_or_not_at_all(run: Run, file: Path) -> None:
    """Neither half of a provider would be accepted alone, and who tries is told."""
    pair = ["providers.work.kind", "openai", "providers.work.base_url", "http://h/v1"]
    alone = run("config", "set", *pair[:2])
    wrong = run("config", "set", *pair[:3], "nonsense")

    assert (alone.code, wrong.code) == (2, 2)
    assert "providers.work: base_url is missing" in alone.err
    assert "proxyctl config set KEY VALUE KEY VALUE" in alone.err
    assert file.read_text() == TEXT
    assert run("config", "set", *pair, "--json").json == [
        {"key": "providers.work.kind", "value": "openai"},
        {"key": "providers.work.base_url", "value": "http://h/v1"},
    ]
    assert run("config", "validate").code == 0
    assert run("config", "set", *pair[:3]).err.startswith("error: providers.work.base_url has no value")


def test_a_table_with_something_in_it_is_not_replaced(run: Run, file: Path) -> None:
    ran = run("config", "set", "models.agents", "{}")

    assert ran.code == 2
    assert "models.agents is a table that has one in it" in ran.err
    assert file.read_text() == TEXT
    assert run("config", "set", "aliases", '{ a = "ollama/x" }').code == 0


def test_a_key_inside_a_table_is_on_the_command_line_as_well(run: Run, file: Path) -> None:
    ran = run("config", "set", "providers.openrouter", '{ api_key = "sk-seen" }')

    assert ran.code == 2
    assert "seen by everybody" in ran.err
    assert "sk-seen" not in ran.err + file.read_text()


def test_what_this_version_does_not_use_is_said_as_it_is_set(run: Run, file: Path) -> None:
    """And at every later look: whoever set it must not believe in it."""
    ran = run("config", "set", "prices.work/*.input", "0.5")

    assert (ran.code, ran.err) == (0, "warning: prices is checked, and not used by this version\n")
    assert run("config", "show").err == ran.err


def test_a_key_that_is_not_set_is_not_offered_on_the_command_line(run: Run, file: Path) -> None:
    assert "hint: proxyctl keys set work; " in run("config", "get", "providers.work.api_key").err


@pytest.mark.parametrize("content", [b"a = = 1", b"\xff\xfe"])
@pytest.mark.parametrize("words", [["set", "default_port", "1"], ["unset", "default_port"], ["init"]])
def test_what_is_no_toml_is_left_alone(run: Run, file: Path, content: bytes, words: list[str]) -> None:
    file.write_bytes(content)
    ran = run("config", *words)

    assert ran.code == 1
    assert str(file) in ran.err
    assert file.read_bytes() == content


def test_a_file_with_a_mistake_can_still_be_mended(run: Run, file: Path) -> None:
    file.write_text(TEXT + "\n[proxies.coder]\nport = 1\n")

    assert run("config", "set", "default_port", "4001").code == 0
    assert run("config", "set", "proxies.coder.model", "ollama/x").code == 0
    assert run("config", "validate").code == 0


def test_init_writes_what_says_nothing(run: Run, paths: Paths) -> None:
    assert run("config", "init", "--json").json == {"path": str(paths.config_file)}
    assert paths.config_file.read_text() == example.text()
    assert run("config", "validate").code == 0


def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = tmp_path / "editor"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("VISUAL", str(program))


def test_edit_replaces_the_file_once_it_is_valid(
    run: Run, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was typed is never lost: the next edit goes on with it."""
    editor(tmp_path, monkeypatch, 'echo "spwn = 1" > "$1"')
    ran = run("config", "edit")

    assert ran.code == 2
    assert f'{file}.edit:1: spwn: unknown key; did you mean "spawn"?' in ran.err
    assert file.read_text() == TEXT
    editor(tmp_path, monkeypatch, 'sed -i "s/spwn = 1/spawn = \\"exec\\"/" "$1"')
    assert run("config", "edit", "--json").json == {"changed": True}
    assert file.read_text() == 'spawn = "exec"\n'
    assert [one.name for one in file.parent.iterdir()] == ["config.toml"]


def test_edit_overwrites_nothing_that_came_meanwhile(
    run: Run, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`agents set` in another terminal, while the editor is open for an hour."""
    editor(tmp_path, monkeypatch, f'echo "default_port = 1" > "$1"; echo "# other" >> {file}')
    ran = run("config", "edit")

    assert ran.code == 1
    assert "was changed while you edited it" in ran.err
    assert file.read_text() == TEXT + "# other\n"
    editor(tmp_path, monkeypatch, "true")
    again = run("config", "edit")
    assert again.err.startswith("note: this goes on with your text of last time; remove ")
    assert file.read_text() == "default_port = 1\n"


def test_a_text_of_last_time_takes_nothing_back_unasked(
    run: Run, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a mistake in the editor and its mending, something else was set."""
    editor(tmp_path, monkeypatch, 'echo "spwn = 1" >> "$1"')
    assert run("config", "edit").code == 2
    assert run("config", "set", "aliases.added", "echo/x").code == 0
    set_since = file.read_text()
    editor(tmp_path, monkeypatch, 'sed -i "/spwn/d" "$1"')
    ran = run("config", "edit")

    assert (ran.code, "has changed since your text of last time" in ran.err) == (1, True)
    assert file.read_text() == set_since
    assert run("config", "edit").code == 0  # who was told may say it again
    assert file.read_text() == TEXT
    assert [one.name for one in file.parent.iterdir()] == ["config.toml"]


def test_every_mistake_of_an_edit_has_a_line_of_its_own(
    run: Run, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor(tmp_path, monkeypatch, 'printf "a = 1\\nb = 2\\n" > "$1"')

    assert [line.partition(": unk")[0] for line in run("config", "edit").err.splitlines()[:2]] == [
        f"error: {file}.edit:1: a",
        f"{file}.edit:2: b",
    ]


@pytest.mark.parametrize("script", ["exit 3", 'rm "$1"', None])
def test_an_editor_that_fails_changes_nothing(
    run: Run, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None
) -> None:
    editor(tmp_path, monkeypatch, script or "")
    if script is None:
        monkeypatch.setenv("VISUAL", "/nowhere/editor")

    ran = run("config", "edit")
    assert (ran.code, "your text" in ran.err) == (1, False)
    assert file.read_text() == TEXT
    assert [one.name for one in file.parent.iterdir()] == ["config.toml"]


@pytest.mark.parametrize("fails", ["exit 3", "kill -9 $$"])
def test_what_was_typed_before_an_editor_failed_is_kept(
    run: Run, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    editor(tmp_path, monkeypatch, f'echo "default_port = 1" > "$1"; {fails}')
    copy = file.with_name("config.toml.edit")

    assert f"your text is in {copy}" in run("config", "edit").err
    editor(tmp_path, monkeypatch, "exit 3")  # nothing new, and the text of last time is still there
    assert f"your text is in {copy}" in run("config", "edit").err
    assert copy.read_text() == "default_port = 1\n"


def test_mistakes_that_were_there_are_told_without_a_word_of_a_text(
    run: Run, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The editor was closed as it was opened."""
    file.write_text("spwn = 1\n")
    editor(tmp_path, monkeypatch, "true")
    ran = run("config", "edit")

    assert (ran.code, ran.err.splitlines()[1:]) == (2, ["hint: nothing was changed"])
    assert 'did you mean "spawn"' in ran.err
    assert [one.name for one in file.parent.iterdir()] == ["config.toml"]


JSON = {
    "models": {"default": "claude", "fallbackEnabled": True, "agents": {"two": "ollama/y"}, "more": 1},
    "apiKeys": {"openrouter": "sk-or-v1-123456789012"},
    "theme": "dark",
}


def test_import_takes_over_the_common_json(run: Run, file: Path, paths: Paths, tmp_path: Path) -> None:
    """Comments stay, keys go where keys are."""
    source = tmp_path / "agents.json"
    source.write_text(json.dumps(JSON))
    ran = run("config", "import", str(source), "--json")

    assert ran.json == {
        "set": ["models.default", "models.fallback", "models.agents.two"],
        "keys": ["openrouter"],
        "ignored": ["theme", "models.more"],
    }
    text = file.read_text()
    assert "# mine" in text
    assert "sk-or" not in text + ran.out + ran.err
    assert run("keys", "list").out == "openrouter  ***9012\n"
    assert run("config", "get", "models.agents", "--json").json["value"] == {
        "one": "ollama/x",
        "two": "ollama/y",
    }


def test_import_tells_what_it_replaced_and_leaves_empty_keys_out(
    run: Run, file: Path, paths: Paths, tmp_path: Path
) -> None:
    """A key for a provider that nobody has is kept, and told."""
    source = tmp_path / "agents.json"
    document = {"models": {"agents": {"one": "ollama/z"}}, "apiKeys": {"openai": "", "groq": "gsk-12345"}}
    source.write_text(json.dumps(document))
    ran = run("config", "import", str(source))

    assert ran.out == 'models.agents.one = "ollama/z"  (it was "ollama/x")\nthe key for groq is set\n'
    assert ran.err.splitlines() == [
        'note: there is no provider "groq" yet; [providers.groq] makes one',
        "note: apiKeys.openai is empty; left out",
    ]
    assert run("config", "import", str(source)).out.splitlines()[0] == 'models.agents.one = "ollama/z"'


def test_a_file_that_is_no_json_has_its_line(run: Run, file: Path, tmp_path: Path) -> None:
    source = tmp_path / "agents.json"
    source.write_text('{\n"models" 5\n}')

    assert run("config", "import", str(source)).err.startswith(f"error: {source}:2: not JSON: ")


@pytest.mark.parametrize(
    "document",
    ["5", "nonsense", '{"models": 5}', '{"apiKeys": {"a": 5}}', '{"models": {"agents": {"a": "badmodel"}}}'],
)
def test_what_cannot_be_imported_changes_nothing(
    run: Run, file: Path, paths: Paths, tmp_path: Path, document: str
) -> None:
    source = tmp_path / "agents.json"
    source.write_text(document)

    assert run("config", "import", str(source)).code == 2
    assert file.read_text() == TEXT
    assert not paths.keys_file.exists()
