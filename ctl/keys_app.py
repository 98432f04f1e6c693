"""`proxyctl keys …`: what can be typed. What is done stands in `keys`."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from . import complete, typed
from .apps import Json, group
from .faults import EXIT_OK, say, say_json, talk, usage
from .render import aligned

app = group()

_ASSIGNMENT = re.compile(r"(export )?[A-Z][A-Z0-9_]*=")


Provider = Annotated[
    str,
    typer.Argument(
        metavar="PROVIDER",
        help="As it stands before the slash of a model id.",
        autocompletion=complete.providers,
    ),
]


@app.callback()
def keys() -> None:
    """Keep the providers' keys in a file that only you can read

    \b
    Examples:
      proxyctl keys set openrouter
      proxyctl keys list
    """


@app.command("set")
def set_(
    provider: Provider,
    key: Annotated[str | None, typer.Argument(hidden=True)] = None,
    json: Json = False,
) -> int:
    """Remember a provider's key, from a prompt or a pipe

    A variable, a flag or the configuration goes before it. Proxies that run with a key from here take the
    new one within 2 s, by a roll.

    \b
    Examples:
      proxyctl keys set openrouter
      pass show openrouter | proxyctl keys set openrouter
    """
    from modelproxy.supervisor.paths import find

    from .config_view import before_stored, stranger
    from .keys import set_key

    if key is not None:
        raise usage(
            "a key on the command line is seen by everybody on this machine",
            f"proxyctl keys set {provider} asks for it, or reads it from a pipe",
        )
    text = typed.api_key("-", None, None) or ""
    if _ASSIGNMENT.match(text):
        raise usage("that is a line of a shell script, and no key", "give only what is behind the =")
    paths = find()
    set_key(paths.keys_file, provider, text)
    note = stranger(paths, provider) or before_stored(paths, provider)
    if note is not None:
        talk(f"note: {note}")
    if json:
        say_json({"provider": provider, "set": True})
    else:
        say(f"the key for {provider} is set")
    return EXIT_OK


@app.command()
def unset(provider: Provider, json: Json = False) -> int:
    """Forget a provider's key

    Proxies that run keep it until they are taken down, or are given another.

    \b
    Examples:
      proxyctl keys unset openrouter
    """
    from modelproxy.supervisor.paths import find

    from .keys import unset_key

    unset_key(find().keys_file, provider)
    if json:
        say_json({"provider": provider, "set": False})
    else:
        say(f"the key for {provider} is forgotten")
    return EXIT_OK


@app.command("list")
def list_(json: Json = False) -> int:
    """List the keys, masked

    Those of this file only; proxyctl models providers tells where else keys come from.

    \b
    Examples:
      proxyctl keys list
    """
    from modelproxy.supervisor.paths import find

    from .keys import masked

    rows = masked(find().keys_file)
    if json:
        say_json(rows)
        return EXIT_OK
    if not rows:
        talk("no key is kept; proxyctl keys set PROVIDER")
    for line in aligned([(row["provider"], row["key"]) for row in rows]):
        say(line)
    return EXIT_OK
