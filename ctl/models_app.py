"""`proxyctl models …`: what can be typed. What is done stands in `models`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from . import complete
from .apps import Json, group
from .faults import EXIT_FAILED, EXIT_OK, say, say_json, show, talk
from .render import aligned

app = group()


Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="A model id, an alias, a proxy of the configuration, or a name that one provider lists.",
        autocompletion=complete.models,
    ),
]


@app.callback()
def models() -> None:
    """Look for models, see what a name means and whether it answers

    \b
    Examples:
      proxyctl models list --provider ollama
      proxyctl models test ollama/codellama
    """


@app.command("list")
def list_(
    provider: Annotated[
        str | None,
        typer.Option(
            "--provider",
            metavar="NAME",
            help="Of this provider only.",
            autocompletion=complete.providers,
        ),
    ] = None,
    free: Annotated[bool, typer.Option("--free", help="Only what costs nothing.")] = False,
    json: Json = False,
) -> int:
    """List the models that the providers offer now

    Asked are those of your configuration, those that have a key, and a local Ollama.

    \b
    Examples:
      proxyctl models list
      proxyctl models list --provider openrouter --free --json
    """
    from modelproxy.supervisor.paths import find

    from .models import listed

    return _print(*listed(find(), provider, free=free), json=json)


@app.command()
def search(
    words: Annotated[list[str], typer.Argument(metavar="WORD...", help="All of them are in its id or name.")],
    json: Json = False,
) -> int:
    """Search the same list

    \b
    Examples:
      proxyctl models search qwen coder
    """
    from modelproxy.supervisor.paths import find

    from .models import search as look

    return _print(*look(find(), " ".join(words)), json=json)


def _print(rows: list[dict[str, Any]], silent: list[str], *, json: bool) -> int:
    for text in silent:
        talk(f"warning: {text}")
    if json:
        say_json(rows)
        return EXIT_OK
    if not rows:
        talk("nothing was found")
    width = max((len(row["id"]) for row in rows), default=0)
    for row in rows:
        window = f"  {row['context_window']} tokens" if row["context_window"] else ""
        say(f"{row['id']:<{width}}{window}{'  free' if row['free'] else ''}".rstrip())
    return EXIT_OK


@app.command()
def resolve(name: Name, json: Json = False) -> int:
    """Tell which model a name means, and who says so

    config: an alias or a proxy of the configuration. exact: it is the model's own name. provider: nobody has
    configured it, and exactly one provider lists it now; server: another modelproxy does. Of the front door:
    where it leads, and its port.

    \b
    Examples:
      proxyctl models resolve claude-haiku-4-5 --json
    """
    from modelproxy.supervisor.paths import find

    from .models import resolve as look_up

    answer, fault = look_up(find(), name)
    if fault is not None:
        if not json:
            return show(fault, as_json=False)
        say_json({**answer, **fault.document()})
        return fault.exit_code
    if json:
        say_json(answer)
    elif "otherwise" in answer:
        say(f"{answer['requested']}  the front door  ({answer['source']}; {_of_a_door(answer)})")
    else:
        by = f": in the list of {answer['provider']}" if "provider" in answer else ""
        say(f"{answer['requested']}  {answer['resolved']}  ({answer['source']}{by})")
    return EXIT_OK


def _of_a_door(answer: dict[str, Any]) -> str:
    where = f"up on port {answer['port']}" if answer["port"] else f"not up: proxyctl up {answer['proxy']}"
    return f"what no rule takes goes to {answer['otherwise']}; {where}"


@app.command()
def refresh(json: Json = False) -> int:
    """Look at providers and running proxies anew

    Nothing has to be refreshed for a name to work: lists are asked for when they are wanted, and a worker
    notices by itself when its model changes. This is for who has just pulled a model, started a server or
    replaced a key and does not want to wait. All that a worker has learned goes with proxyctl restart NAME.

    \b
    Examples:
      proxyctl models refresh
      proxyctl models refresh --json
    """
    from modelproxy.supervisor.paths import find
    from modelproxy.supervisor.words import count

    from .models import refresh as look_anew

    found, silent = look_anew(find())
    for text in silent:
        talk(f"warning: {text}")
    if json:
        say_json(found)
        return EXIT_OK
    rows = [(one["provider"], count(one["models"], "model")) for one in found["providers"]]
    rows += [
        (one["name"], f"{'ok' if one['ok'] else 'degraded'}{': ' if one['detail'] else ''}{one['detail']}")
        for one in found["proxies"]
    ]
    for line in aligned(rows):
        say(line)
    return EXIT_OK


@app.command("test")
def try_one(name: Name, json: Json = False) -> int:
    """Send one real request for one token

    How long it took, or what is wrong. A proxy that is brought up for it goes again. Credentials are those of
    `proxyctl ask`.

    \b
    Examples:
      proxyctl models test ollama/codellama
    """
    from modelproxy.supervisor.paths import find

    from .models import try_out
    from .names import model

    paths = find()
    found = try_out(paths, model(paths, name))
    if json:
        say_json(found)
    elif found["ok"]:
        say(f"{found['model']}  ok  {found['latency_ms']:.0f} ms")
    else:
        error = found.get("error") or {}
        talk(f"error: {found['model']}: {error.get('type')}: {error.get('message')}")
        if "hint" in found:
            talk(f"hint: {found['hint']}")
    return EXIT_OK if found["ok"] else EXIT_FAILED


@app.command()
def providers(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="This one only, with all it has.", autocompletion=complete.providers
        ),
    ] = None,
    json: Json = False,
) -> int:
    """List the providers with the settings that hold, keys masked

    \b
    Examples:
      proxyctl models providers
      proxyctl models providers openrouter --json
    """
    from modelproxy.supervisor.paths import find

    from . import models
    from .config_view import literal

    if name is None:
        rows = models.providers(find())
        if json:
            say_json(rows)
            return EXIT_OK
        for line in aligned([(row["name"], row["kind"], row["base_url"] or "-", _key(row)) for row in rows]):
            say(line)
        return EXIT_OK
    row = models.provider(find(), name)
    if json:
        say_json(row)
        return EXIT_OK
    for field, value in row.items():
        if value not in (None, [], {}):
            say(f"{field} = {literal(value)}")
    return EXIT_OK


def _key(row: dict[str, Any]) -> str:
    if row["key_source"]:
        return f"key {row['key'] or '***'} from {row['key_source']}"
    if row["key_trouble"]:
        return f"no key: {row['key_trouble']}"
    return "no key, and it needs one" if row["needs_key"] else "no key"
