"""What holds and who said it, and all that is wrong (S14, S91, S92, S108)."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from fakes.control import Control, fault, view
from fakes.terminal import Run

from modelproxy.ctl.keys import set_key
from modelproxy.supervisor.paths import Paths


@pytest.fixture
def file(paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for variable in ("OPENROUTER_API_KEY", "OPENAI_API_KEY", "MODELPROXY_MODEL"):
        monkeypatch.delenv(variable, raising=False)
    paths.config.mkdir(parents=True)
    return paths.config_file


def test_s14_s108_every_problem_at_once(run: Run, file: Path) -> None:
    file.write_text(
        '[providers.ollama]\nnonsense = 1\nretries = 11\n[remotes.a]\nurl = "x"\ntimeout_seconds = 0\n'
    )
    found = run("config", "validate", "--json")
    told = run("config", "validate")

    assert (found.code, told.code) == (1, 1)
    problems = found.json["problems"]
    assert [(one["key"], one["line"], one["value"]) for one in problems] == [
        ("providers.ollama.nonsense", 2, None),
        ("providers.ollama.retries", 3, "11"),
        ("remotes.a.url", 5, '"x"'),
        ("remotes.a.timeout_seconds", 6, "0"),
    ]
    assert told.err.splitlines()[:4] == [one["text"] for one in problems]
    assert "must be a whole number from 1 to 300" in problems[3]["message"]


@pytest.mark.parametrize(
    "look", [("validate",), ("validate", "--json"), ("show",), ("show", "--json"), ("show", "--origin")]
)
def test_a_secret_where_none_belongs_is_not_shown(run: Run, file: Path, look: tuple[str, ...]) -> None:
    file.write_text(
        '[providers.x]\nkind = "openai"\nbase_url = "http://me:sesame@h/v1"\napi_key_file = "sk-sesame"\n'
        '[providers.y]\nkind = "openai"\nbase_url = "http://me:ses/ame@h/v1"\napi_key_env = "sk-sesame"\n'
        '[remotes.o]\nurl = "http://me:sesame@h"\n[tokens.ci]\nsha256 = "mp-sesame"\n'
    )
    ran = run("config", *look)

    assert "tokens.ci.sha256" in ran.out + ran.err
    assert "ame@" not in ran.out + ran.err
    assert "sesame" not in ran.out + ran.err


def test_a_port_that_counts_only_at_the_next_up_is_told(run: Run, file: Path, control: Control) -> None:
    """Of what is up, and without anybody that is up nothing is."""
    tables = '[proxies.coder]\nmodel = "echo/x"\nport = 3460\n[proxies."echo/y"]\nport = 3461\n'
    file.write_text(f"{tables}[front.default]\nport = 3462\n[front.work]\nport = 3463\n")
    assert run("config", "validate").err == ""
    ports = {"coder": 3457, "echo/y": 3461, "front": 4000}
    control.proxies = {name: view(name, port=port) for name, port in ports.items()}
    ran = run("config", "validate")

    assert (ran.code, ran.err.splitlines()) == (
        0,
        [
            "warning: proxies.coder.port = 3460: coder is up on port 3457 and keeps it; "
            "proxyctl down coder, then proxyctl up coder, moves it",
            "warning: front.default.port = 3462: front is up on port 4000 and keeps it; "
            "proxyctl down front, then proxyctl up front, moves it",
        ],
    )


@pytest.mark.parametrize("target", ["codellama", "nope/x", "near"])
def test_an_alias_to_nowhere_is_a_problem_and_no_crash(run: Run, file: Path, target: str) -> None:
    file.write_text(f'[aliases]\nnear = "ollama/x"\nlocal = "{target}"\n[models]\ndefault = "local"\n')
    ran = run("config", "validate")

    assert ran.code == 1
    assert ran.err.startswith(f'{file}:3: aliases.local = "{target}": ')
    assert len(ran.err.splitlines()) == 1


def test_of_the_environment_the_variable_is_named(
    run: Run, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELPROXY_DEFAULT_PORT", "99999")

    assert run("config", "validate").err == (
        "environment variable MODELPROXY_DEFAULT_PORT: default_port = 99999: "
        "must be a whole number from 1 to 65535\n"
    )


def test_who_sets_what_does_not_hold_here_is_told(
    run: Run, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The project's file and the shell go before one's own."""
    project = tmp_path / ".modelproxy.toml"
    project.write_text('[models.agents]\nreviewer = "claude"\n')
    monkeypatch.setenv("MODELPROXY_DEFAULT_PORT", "5000")
    words = f"{project}:2 says models.agents.reviewer too, and goes before your own file here\n"

    assert run("agents", "unset", "reviewer").err.endswith(f"hint: {words}")
    ran = run("agents", "set", "reviewer", "ollama/x")
    assert (ran.code, ran.err) == (0, f"warning: {words}")
    assert run("config", "unset", "models.agents.reviewer").err == f"warning: {words}"
    assert run("config", "set", "default_port", "4000").err == (
        "warning: environment variable MODELPROXY_DEFAULT_PORT says default_port too, "
        "and goes before your own file here\n"
    )
    assert run("agents", "set", "other", "ollama/x").err == ""


def test_a_valid_file_says_so(run: Run, file: Path) -> None:
    assert run("config", "validate").out == "valid  (no file; what is built in holds)\n"
    file.write_text("default_port = 4000")
    assert run("config", "validate").out == f"valid  {file}\n"


def test_what_this_version_does_not_use_is_said(run: Run, file: Path) -> None:
    file.write_text('[prices."work/*"]\ninput = 1')

    assert run("config", "validate", "--json").json["warnings"] == [
        "prices is checked, and not used by this version"
    ]


def test_a_token_for_a_proxy_that_is_not_there_is_warned_of(run: Run, file: Path) -> None:
    """A typing error there keeps everybody out, and nothing else would say so."""
    file.write_text(
        '[proxies.coder]\nmodel = "echo/x"\n[tokens.ci]\nproxies = ["codr", "co*", "ollama/*", "front"]\n'
        f'sha256 = "{"0" * 64}"\n'
    )

    assert run("config", "validate").err == (
        'warning: tokens.ci.proxies: no proxy of the configuration is called "codr"; did you mean "coder"?\n'
    )


def test_patterns_of_another_kind_are_warned_of(run: Run, file: Path) -> None:
    """They are taken as they stand, and fit nothing; a dot is a part of many names."""
    file.write_text(
        '[aliases]\n"gpt-4.1*" = "ollama/a"\n"claude-.*" = "ollama/b"\n[models.agents]\n"re[v]" = "claude"\n'
        '[[front.default.rules]]\nmodel = "^gpt"\nto = "ollama/c"\n'
    )
    said = {
        'aliases."claude-.*"': "claude-.*",
        'models.agents."re[v]"': "re[v]",
        "front.default.rules (1st).model": "^gpt",
    }

    assert run("config", "validate").err.splitlines() == [
        f'warning: {key}: only * and ? are special in "{text}": any text, any one character'
        for key, text in said.items()
    ]


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ('agent = "*"', 'agent = "rev"', True),
        ('agent = "re*"', 'agent = "rev*", model = "a"', True),
        ('model = "a"', 'model = "a", agent = "b"', True),
        ('agent = "re?"', 'agent = "rev"', True),
        ('agent = "re?"', 'agent = "re*"', False),  # `review`
        ('agent = "*"', 'model = "a"', False),  # who asks is not always known
        ('agent = "b", model = "a"', 'model = "a"', False),
        ('marker = "*"', 'marker = "b"', False),
    ],
)
def test_a_rule_that_is_never_asked_is_warned_of(
    run: Run, file: Path, first: str, second: str, *, told: bool
) -> None:
    rules = ", ".join(f'{{ {one}, to = "ollama/x" }}' for one in ('session = "z"', first, second))
    file.write_text(f"front.default.rules = [{rules}]")
    words = "warning: front.default.rules (3rd) is never asked: the 2nd takes all of its requests\n"

    assert run("config", "validate").err == (words if told else "")


def test_nothing_follows_from_a_rule_with_a_misspelt_key(run: Run, file: Path) -> None:
    file.write_text(
        'front.default.rules = [{ modl = "a", to = "ollama/x" }, { model = "b", to = "ollama/y" }]'
    )
    told = run("config", "validate").err

    assert 'front.default.rules (1st).modl: unknown key; did you mean "model"?' in told
    assert "never asked" not in told


def test_a_key_that_others_can_read_is_warned_of(run: Run, file: Path) -> None:
    file.write_text('providers.openai.api_key = "sk-secret"')
    file.chmod(0o644)
    told = run("config", "validate").err
    file.chmod(0o600)

    assert told == f"warning: {file} holds a key and others can read it: chmod 600 {file}\n"
    assert run("config", "validate").err == ""


def test_a_loose_file_of_keys_is_warned_of(run: Run, file: Path, paths: Paths) -> None:
    """As the configuration is."""
    file.write_text("")
    set_key(paths.keys_file, "openrouter", "sk-secret")
    assert run("config", "validate").err == ""
    paths.keys_file.chmod(0o644)
    loose = paths.keys_file

    assert run("config", "validate").err == (
        f"warning: {loose} holds a key and others can read it: chmod 600 {loose}\n"
    )


MAPPED = """
aliases = { far = "openrouter/x", near = "ollama/x" }
models.default = "claude"
models.agents = { a = "far", b = "ollama/y" }
"""


def test_s92_a_mapping_needs_its_key(
    run: Run, file: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line for each provider; Ollama and Claude need none."""
    file.write_text(MAPPED)
    ran = run("config", "validate")

    assert ran.code == 1
    assert ran.err == (
        "openrouter has no API key, and is used by aliases.far, models.agents.a: "
        "set OPENROUTER_API_KEY, or say proxyctl keys set openrouter\n"
    )
    set_key(paths.keys_file, "openrouter", "sk-1")
    assert run("config", "validate").code == 0
    paths.keys_file.unlink()
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-2")
    assert run("config", "validate").code == 0


def test_s92_where_a_front_leads_needs_its_key_as_well(run: Run, file: Path) -> None:
    """Else the first request would be who tells of it."""
    targets = {"a": "openrouter/x", "b": "openrouter/y", "c": "anthropic"}
    rules = ", ".join(f'{{ agent = "{agent}", to = "{to}" }}' for agent, to in targets.items())
    file.write_text(f'[front.default]\nrules = [{rules}]\notherwise = "openai/z"\n')
    ran = run("config", "validate")

    assert ran.code == 1
    assert ran.err == (
        "openai has no API key, and is used by front.default.otherwise: "
        "set OPENAI_API_KEY, or say proxyctl keys set openai\n"
        "openrouter has no API key, and is used by front.default.rules: "
        "set OPENROUTER_API_KEY, or say proxyctl keys set openrouter\n"
    )


@pytest.mark.parametrize(
    ("here", "there", "words"),
    [
        (False, True, "is set where the supervisor runs, and not in this shell"),
        (True, False, "is set in this shell, and not where the supervisor runs"),
        (True, True, None),
    ],
)
def test_s92_the_supervisor_is_asked_for_the_variable_too(
    run: Run,
    file: Path,
    control: Control,
    monkeypatch: pytest.MonkeyPatch,
    *,
    here: bool,
    there: bool,
    words: str | None,
) -> None:
    """A key that proxies have is not missing; and what they lack is not seen from a shell that has it."""
    if here:
        monkeypatch.setenv("OPENROUTER_API_KEY", "sk-secret")
    control.replies["GET /v1/variables"] = (200, {"OPENROUTER_API_KEY": there})
    file.write_text(MAPPED)
    ran = run("config", "validate")

    assert (ran.code, ran.err == "") == (0, words is None)
    assert ran.err.startswith(f"warning: openrouter: OPENROUTER_API_KEY {words or ''}") or words is None
    assert control.paths_asked == ["GET /v1/variables?names=OPENROUTER_API_KEY"]
    assert "sk-secret" not in ran.err


def test_s92_a_key_that_nobody_has_is_missing_whoever_runs(
    run: Run, file: Path, paths: Paths, control: Control
) -> None:
    """One that cannot say it, being older, is no help; one in a file is the same everywhere, and nobody is asked."""
    control.replies["GET /v1/variables"] = (200, {"OPENROUTER_API_KEY": False})
    file.write_text(MAPPED)
    assert run("config", "validate").code == 1
    control.replies["GET /v1/variables"] = fault(404, "unknown_route", "there is nothing")
    assert run("config", "validate").code == 1
    control.asked.clear()
    set_key(paths.keys_file, "openrouter", "sk-1")

    assert (run("config", "validate").code, control.asked) == (0, [])


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize(
    ("content", "trouble"),
    [
        (b"= = sk-secret", ':1: not TOML; mend it (a line is like openrouter = "…") or move it away'),
        (b"\xff", ':1: not UTF-8; mend it (a line is like openrouter = "…") or move it away'),
        (
            b"openrouter = 5",
            ' has something else in it than lines like openrouter = "…"; mend it or move it away',
        ),
    ],
)
def test_a_spoilt_file_of_keys_is_told_and_not_that_a_key_is_missing(
    run: Run, file: Path, paths: Paths, content: bytes, trouble: str, *, mapped: bool
) -> None:
    """`keys set` refuses to touch it; and every `up` reads it."""
    file.write_text(MAPPED if mapped else "")
    paths.keys_file.write_bytes(content)
    paths.keys_file.chmod(0o600)
    ran = run("config", "validate")
    [problem] = run("config", "validate", "--json").json["problems"]

    assert (ran.code, ran.err) == (1, f"{paths.keys_file}{trouble}\n")
    assert (problem["file"], problem["message"]) == (str(paths.keys_file), f"{paths.keys_file}{trouble}")


@pytest.mark.parametrize(("said", "code"), [('api_key_file = "KEY"', 1), ('api_key_command = "false"', 0)])
def test_s92_other_sources_of_a_key(run: Run, file: Path, said: str, code: int) -> None:
    """A file must be there; a command is not run just to look."""
    file.write_text(f"{MAPPED}\n[providers.openrouter]\n{said}")

    assert run("config", "validate").code == code


def test_a_key_file_that_is_not_there_is_named(run: Run, file: Path) -> None:
    """`keys set` would not help: the file is what was asked for."""
    file.write_text(f'{MAPPED}\n[providers.openrouter]\napi_key_file = "/no/key"')

    assert run("config", "validate").err == (
        "openrouter is used by aliases.far, models.agents.a, and its key file /no/key is not there\n"
    )


def test_show_and_get(run: Run, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('default_port = 4000\n[models.agents]\na = "ollama/x"')
    monkeypatch.setenv("MODELPROXY_MODEL", "ollama/y")

    assert run("config", "show", "--json").json == {
        "default_port": 4000,
        "models": {"agents": {"a": "ollama/x"}, "default": "ollama/y", "fallback": True},
        "require_token": False,
    }
    rows = {row["key"]: row for row in run("config", "show", "--origin", "--json").json}
    assert (rows["default_port"]["origin"], rows["default_port"]["line"]) == (str(file), 1)
    assert rows["models.default"]["origin"] == "environment variable MODELPROXY_MODEL"
    assert rows["models.fallback"]["origin"] == "built-in"
    assert "default_port = 4000 " in run("config", "show", "--origin").out
    assert run("config", "get", "default_port").out == "4000\n"
    assert run("config", "get", "models.agents").out == '{ a = "ollama/x" }\n'
    assert run("config", "get", "proxies.coder.port").code == 1
    assert run("config", "get", "nonsense").code == 2


@pytest.mark.parametrize(
    "mistake",
    [
        '[providers.lit]\nkind = "opnai"\nbase_url = "http://h"\n',
        '[providers.ollama]\nbase_url = "h"\n',
        '[providers.ollama]\napi_key = "a"\napi_key_env = "B"\n',
        '[providers.ollama]\ncapabilities = ["sight"]\n',
    ],
)
def test_a_mistake_in_one_providers_table_says_nothing_of_another(run: Run, file: Path, mistake: str) -> None:
    good = '[providers.openrouter]\napi_key = "k"\n[proxies.c]\nmodel = "openrouter/a/b"\n'
    file.write_text(f"{good}{mistake}")
    file.chmod(0o600)
    [problem] = run("config", "validate", "--json").json["problems"]

    table = mistake.partition("]")[0].removeprefix("[")
    assert problem["key"].startswith(table)


def test_of_a_table_that_could_not_be_read_no_key_is_missed(
    run: Run, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(f'{MAPPED}\n[providers.openrouter]\napi_key = "k"\nbase_url = "h"\n')

    assert [one["key"] for one in run("config", "validate", "--json").json["problems"]] == [
        "providers.openrouter.base_url"
    ]
    file.write_text('[providers.groq]\nkind = "opnai"\n')
    monkeypatch.setattr("sys.stdin", io.StringIO("sk-1\n"))
    assert run("keys", "set", "groq").err == ""  # there is such a table


def test_what_is_no_utf8_is_told_with_its_line(run: Run, file: Path) -> None:
    file.write_bytes(b"default_port = 4000\n# \xe4\n")
    words = f"{file}:2: not UTF-8; save it as UTF-8\n"

    assert run("config", "validate").err == words
    assert run("config", "set", "default_port", "1").err.startswith(f"error: {words}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[providers.openrouter]\nnum_ctx = 8192", "num_ctx does nothing for openrouter; only ollama has it"),
        ('[providers.openai]\nkeep_alive = "10m"', "keep_alive does nothing for openai; only ollama has it"),
        ('[providers.openai]\nthink = { "m" = true }', "think does nothing for openai; only ollama has it"),
        (
            '[providers.openai]\ntool_images = "lift"',
            "tool_images does nothing for openai; only ollama has it",
        ),
        (
            "[providers.ollama]\nweb_search = true",
            "web_search does nothing for ollama; only openrouter has it",
        ),
        (
            '[providers.openai]\nserver = "vllm"\nbase_url = "http://openrouter.ai.b"\nweb_search = true',
            "web_search does nothing for openai; only openrouter has it",
        ),
        (
            '[providers.ollama]\ntool_stream = "live"',
            "tool_stream does nothing for ollama; only openrouter and openai have it",
        ),
        (
            '[providers.ollama]\napi = "anthropic"\nnum_ctx = 8192',
            'num_ctx does nothing where api = "anthropic"; only ollama has it',
        ),
    ],
)
def test_a_setting_that_does_nothing_for_its_kind_is_warned_of(
    run: Run, file: Path, text: str, words: str
) -> None:
    """It is no mistake: the request is answered, and somebody waits for an effect."""
    file.write_text(text)
    table = text.partition("]")[0].removeprefix("[")
    ran = run("config", "validate")

    assert (ran.code, ran.err) == (0, f"warning: {table}.{words}\n")


def test_settings_that_do_something_are_not_warned_of(run: Run, file: Path) -> None:
    file.write_text(
        "[providers.ollama]\nnum_ctx = 8192\nretries = 1\n[providers.openrouter]\nweb_search = true\n"
        '[providers.b]\nkind = "openai"\nbase_url = "https://openrouter.ai/api/v1"\nweb_search = true\n'
        '[providers.c]\nkind = "openai"\nbase_url = "http://b"\nserver = "openrouter"\nweb_search = true\n'
        '[providers.a]\nkind = "opnai"\nnum_ctx = 8192\n'  # of what is wrong nothing follows
    )

    assert "does nothing" not in run("config", "validate").err


@pytest.mark.parametrize(
    ("key", "name"),
    [("$WORK_KEY", "WORK_KEY"), ("${work}", "work"), ("$2b$sk", None), ("$secret", None), ("sk-1", None)],
)
def test_the_name_of_a_variable_is_no_key(run: Run, file: Path, key: str, name: str | None) -> None:
    """As a shell would write it; only what cannot well be a key is shown."""
    file.write_text(f'[providers.openrouter]\napi_key = "{key}"')
    file.chmod(0o600)

    assert run("config", "validate").err == (
        f'warning: providers.openrouter.api_key: the text "{key}" itself is taken as the key; '
        f'for what is in the variable write api_key_env = "{name}"\n'
        if name
        else ""
    )


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("config", "get", "proxies.codr.model"), "did you mean proxies.coder.model?"),
        (("config", "unset", "proxies.codr"), "did you mean proxies.coder?"),
        (("config", "unset", "aliases.x"), ""),
        (("config", "unset", "remotes.a"), ""),  # that is no table
        (("config", "unset", "proxies.codr.model"), "did you mean proxies.coder.model?"),
        (("config", "unset", "proxies.codr.port"), ""),  # it has none
        (("config", "unset", "aliases.their"), ""),  # another file's
        (("config", "get", "aliases.their"), "did you mean aliases.theirs?"),
        (("agents", "unset", "reviewr"), "did you mean models.agents.reviewer?"),
        (("agents", "unset", "x"), "proxyctl agents list"),
    ],
)
def test_what_is_not_set_is_answered_with_the_nearest_that_is(
    run: Run, file: Path, words: tuple[str, ...], hint: str
) -> None:
    (Path.cwd() / ".modelproxy.toml").write_text('aliases.theirs = "echo/z"')
    file.write_text(
        'proxies.coder.model = "echo/x"\nmodels.agents.reviewer = "coder"\naliases.b = "echo/y"\nremotes = 5\n'
    )
    error = run(*words, "--json").json["error"]

    assert (error["code"], error["hint"]) == ("not_set", hint)


def test_s102_only_plain_http_to_another_machine_is_warned_of(run: Run, file: Path) -> None:
    file.write_text(
        '[remotes.far]\nurl = "http://box.example.net:1"\n[remotes.meant]\nurl = "http://box.example.net"\n'
        'insecure = true\n[remotes.here]\nurl = "http://127.0.0.1:1"\n[remotes.tls]\nurl = "https://h"\n'
    )

    assert run("config", "validate").err == (
        "warning: remotes.far.url = http://box.example.net:1: prompts and the token go there without encryption; "
        "use https or a tunnel (ssh -L), or say remotes.far.insecure = true\n"
    )


def test_a_remote_that_needs_a_key_and_has_none_is_told_by_its_table(run: Run, file: Path) -> None:
    file.write_text(
        '[remotes.office]\nurl = "https://h"\napi_key_env = "NO_SUCH_KEY"\n'
        '[models.agents]\na = "remote/office/x/y"\n'
    )
    ran = run("config", "validate", "--json")

    assert [one["key"] for one in ran.json["problems"]] == ["remotes.office"]
    assert "proxyctl keys set remote/office" in ran.json["problems"][0]["message"]
