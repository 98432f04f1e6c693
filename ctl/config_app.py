"""`proxyctl config …`: what can be typed. What is done stands in `config_file`, `config_view` and `settings`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from . import complete, typed
from .apps import Json, group, tell_who_goes_before
from .faults import EXIT_FAILED, EXIT_OK, Fault, say, say_json, talk, usage

app = group()


def _of_ours(key: str) -> str:
    """Looked at before what is missing behind it: who types KEY=VALUE has forgotten no value."""
    from . import config_file

    config_file.key_of(key)
    return key


KeyName = Annotated[
    str,
    typer.Argument(
        metavar="KEY",
        help='As in models.agents.reviewer or aliases."gpt-4.1".',
        autocompletion=complete.config_keys,
        callback=_of_ours,
    ),
]


@app.callback()
def config() -> None:
    """Look at the configuration and change it, comments kept

    \b
    Examples:
      proxyctl config set models.agents.code-reviewer ollama/codellama
      proxyctl config show --origin
      proxyctl config validate
    """


@app.command()
def validate(json: Json = False) -> int:
    """Check every file that holds here

    All that is wrong is told at once: your own file and the project's (.modelproxy.toml in this folder).
    Exit code 1 when something is wrong. A supervisor that runs is asked which keys it has in its environment.

    \b
    Examples:
      proxyctl config validate
      proxyctl config validate --json
    """
    from modelproxy.supervisor.paths import find

    from .config_view import validate as check

    found = check(find())
    if json:
        say_json(found)
    for problem in found["problems"] if not json else ():
        talk(problem["text"])
    for warning in found["warnings"] if not json else ():
        talk(f"warning: {warning}")
    if found["valid"] and not json:
        say(f"valid  {'  '.join(found['files']) or '(no file; what is built in holds)'}")
    return EXIT_OK if found["valid"] else EXIT_FAILED


@app.command()
def show(
    origin: Annotated[
        bool, typer.Option("--origin", help="Who said it: which file and line, or what.")
    ] = False,
    json: Json = False,
) -> int:
    """Print every value that holds here

    A flag goes before the environment, that before the project's file, that before your own, that before what
    is built in. Keys are masked.

    \b
    Examples:
      proxyctl config show
      proxyctl config show --origin --json
    """
    from modelproxy.supervisor.paths import find

    from . import config_view

    found, warnings = config_view.effective(find())
    for warning in warnings:
        talk(f"warning: {warning}")
    if json:
        say_json(config_view.rows(found) if origin else config_view.nested(found))
    for line in config_view.lines(found, origin=origin) if not json else ():
        say(line)
    return EXIT_OK


@app.command()
def get(key: KeyName, json: Json = False) -> int:
    """Print one value or table that holds here

    \b
    Examples:
      proxyctl config get default_port
      proxyctl config get models --json
    """
    from modelproxy.supervisor.paths import find

    from . import config_file, config_view

    found = config_view.get(find(), config_file.key_of(key))
    if json:
        say_json(found)
    else:
        value = found["value"]
        say(value if isinstance(value, str) else config_view.literal(value))
    return EXIT_OK


@app.command("set")
def set_(
    key: KeyName,
    value: Annotated[
        str,
        typer.Argument(
            metavar="VALUE", help="A word, a number, a TOML value; -: read it from standard input."
        ),
    ],
    more: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY VALUE]...", help="Others that are set with it, all or none."),
    ] = None,
    json: Json = False,
) -> int:
    """Set values in your own file

    Everything else in it stays as it is. What `config validate` would refuse is refused. A list may be
    written with commas.

    \b
    Examples:
      proxyctl config set default_port 4000
      proxyctl config set proxies.coder.fallback openrouter/qwen/qwen3-coder,anthropic
      proxyctl config set aliases.claude-haiku-* ollama/qwen3:8b
      proxyctl config set providers.work.kind openai providers.work.base_url https://llm.example.net/v1
    """
    from modelproxy.supervisor import schema
    from modelproxy.supervisor.paths import find

    from . import config_file
    from .applying import apply_or_warn
    from .config_view import literal

    words = [key, value, *(more or ())]
    if len(words) % 2:
        raise usage(f"{words[-1]} has no value", "proxyctl config set KEY VALUE KEY VALUE …")
    said = [_typed_value(*pair) for pair in zip(words[::2], words[1::2], strict=True)]
    values = config_file.set_values(find(), said)
    apply_or_warn(find())
    shown = [
        {"key": schema.dotted(path), "value": "***" if schema.is_secret(path) else found}
        for (path, _), found in zip(said, values, strict=True)
    ]
    for path in dict.fromkeys(path[:1] for path, _ in said):
        _tell_what_is_unused(path)
    for path, _ in said:
        tell_who_goes_before(path)
    if json:
        say_json(shown[0] if len(shown) == 1 else shown)
    for one in shown if not json else ():
        say(f"{one['key']} = {literal(one['value'])}")
    return EXIT_OK


def _typed_value(key: str, value: str) -> tuple[tuple[str | int, ...], str]:
    """A key and what was said for it; a secret comes by standard input only."""
    from modelproxy.supervisor import editing, layers, schema

    from . import config_file

    path = config_file.key_of(key)
    if value == "-":
        return path, typed.api_key("-", None, None) or ""
    for leaf, _ in layers.leaves(editing.value_of(path, value), path):
        if leaf[-1] == "api_key" and schema.is_secret(leaf):
            raise usage(
                "a key on the command line is seen by everybody on this machine",
                f"proxyctl keys set {leaf[1]}, or proxyctl config set {schema.dotted(leaf)} - reads it from "
                "standard input",
            )
    return path, value


def _tell_what_is_unused(path: tuple[str | int, ...]) -> None:
    from modelproxy.supervisor import schema

    if not all(field.wired for field in schema.fields_on(path)):
        talk(f"warning: {schema.dotted(path[:1])} is checked, and not used by this version")


@app.command()
def unset(key: KeyName, json: Json = False) -> int:
    """Take one value or table out of your own file

    \b
    Examples:
      proxyctl config unset models.agents.code-reviewer
      proxyctl config unset proxies.coder
    """
    from modelproxy.supervisor import schema
    from modelproxy.supervisor.paths import find

    from . import config_file
    from .applying import apply_or_warn
    from .config_view import nearest, overruled

    path = config_file.key_of(key)
    name = schema.dotted(path)
    if not config_file.unset(find(), path):
        hint = overruled(find(), path) or nearest(find(), path, own=True)
        raise Fault("not_set", f"{name} is not set in {find().config_file}", hint)
    apply_or_warn(find())
    tell_who_goes_before(path)
    if json:
        say_json({"key": name, "set": False})
    else:
        say(f"{name} is not set any more")
    return EXIT_OK


@app.command()
def schema(
    key: Annotated[
        str | None,
        typer.Argument(
            metavar="[KEY]",
            help="A key or table to read about, in words.",
            autocompletion=complete.config_keys,
        ),
    ] = None,
    json: Json = False,
) -> int:
    """Explain a key; without one, print the JSON schema

    \b
    Examples:
      proxyctl config schema proxies.coder
      proxyctl config schema providers.ollama.num_ctx
      proxyctl config schema > modelproxy.schema.json   # for editors
    """
    from modelproxy.supervisor import example
    from modelproxy.supervisor import schema as keys

    from . import config_file

    if key is None:
        say_json(keys.json_schema())
        return EXIT_OK
    path = config_file.key_of(key)
    found = keys.at(path)
    if json and found is not None:
        say_json(found.schema())
    else:
        say(example.about(path).rstrip("\n"))
    return EXIT_OK


@app.command()
def init(json: Json = False) -> int:
    """Write a config.toml with every key explained

    All are commented out: it says nothing yet.

    \b
    Examples:
      proxyctl config init
    """
    from modelproxy.supervisor.paths import find

    from . import config_file

    file = find().config_file
    config_file.init(file)
    if json:
        say_json({"path": str(file)})
    else:
        say(f"wrote {file}")
    return EXIT_OK


@app.command()
def edit(json: Json = False) -> int:
    """Open your own file in $VISUAL or $EDITOR

    It is replaced once what you wrote is valid.

    \b
    Examples:
      EDITOR=nano proxyctl config edit
    """
    from modelproxy.supervisor.paths import find

    from . import config_file

    changed = config_file.edit(find().config_file)
    if json:
        say_json({"changed": changed})
    else:
        say("changed" if changed else "nothing was changed")
    return EXIT_OK


@app.command()
def path(json: Json = False) -> int:
    """Print where the files are

    \b
    Examples:
      proxyctl config path
      $EDITOR "$(proxyctl config path --json | jq -r .user)"
    """
    from modelproxy.supervisor.paths import find

    from . import settings

    where, project = find(), settings.project_file()
    found = {
        "user": str(where.config_file),
        "keys": str(where.keys_file),
        "project": str(project) if project.exists() else None,
        "project_trusted": settings.is_trusted(where, project),
    }
    if json:
        say_json(found)
        return EXIT_OK
    say(f"user     {found['user']}{'' if where.config_file.exists() else '  (not there)'}")
    say(f"keys     {found['keys']}{'' if where.keys_file.exists() else '  (not there)'}")
    say(f"project  {project}{_standing(found)}")
    return EXIT_OK


def _standing(found: Mapping[str, object]) -> str:
    if found["project"] is None:
        return "  (not there)"
    return "  (trusted)" if found["project_trusted"] else ""


@app.command("import")
def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A JSON file with models and apiKeys.")],
    json: Json = False,
) -> int:
    """Take over a JSON configuration

    Its models.default, models.fallbackEnabled, models.agents and apiKeys. Keys go to keys.toml,
    everything else to config.toml. What it says goes before what is there; all the rest stays.

    \b
    Examples:
      proxyctl config import ~/.config/agents/config.json
    """
    from modelproxy.supervisor.paths import find

    from . import config_file
    from .config_view import literal, stranger

    paths = find()
    before = config_file.said(paths)
    found = config_file.import_json(paths, Path(file).expanduser())
    now = config_file.said(paths)
    for provider in found["keys"]:
        note = stranger(paths, provider)
        if note is not None:
            talk(f"note: {note}")
    if json:
        say_json(found)
        return EXIT_OK
    for key in found["set"]:
        old = f"  (it was {literal(before[key])})" if before.get(key, now[key]) != now[key] else ""
        say(f"{key} = {literal(now[key])}{old}")
    for provider in found["keys"]:
        say(f"the key for {provider} is set")
    for key in found["ignored"]:
        why = "is empty" if key.startswith("apiKeys.") else "is nothing that this program knows"
        talk(f"note: {key} {why}; left out")
    return EXIT_OK


@app.command()
def trust(
    target: Annotated[
        str, typer.Argument(metavar="[PATH]", help="A folder or its .modelproxy.toml. Default: this folder.")
    ] = ".",
    revoke: Annotated[bool, typer.Option("--revoke", help="Trust it no more.")] = False,
    json: Json = False,
) -> int:
    """Let a project's file say where keys and prompts go

    As it stands now. Without trust it may say aliases, proxies and models of agents only. Trust ends when
    the file changes.

    \b
    Examples:
      proxyctl config trust
      proxyctl config trust ~/work/project --revoke
    """
    from modelproxy.supervisor.paths import find

    from . import settings

    file = Path(target).expanduser()
    file = (file / settings.PROJECT_FILE if file.is_dir() else file).absolute()
    settings.trust(find(), file, wanted=not revoke)
    if json:
        say_json({"path": str(file), "trusted": not revoke})
    else:
        say(f"{file} is {'not trusted any more' if revoke else 'trusted as it stands'}")
    return EXIT_OK
