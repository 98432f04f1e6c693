"""`proxyctl tokens …`: what can be typed. What is done stands in `tokens`."""

from __future__ import annotations

from typing import Annotated

import typer

from .apps import Json, group
from .faults import EXIT_OK, say, say_json, talk
from .render import aligned

app = group()

Name = Annotated[str, typer.Argument(metavar="NAME", help="Who uses it, like ci.")]


@app.callback()
def tokens() -> None:
    """Tell callers apart, limit each of them, and keep others out

    \b
    Examples:
      proxyctl tokens add ci --rpm 60 --max-concurrent 2
      proxyctl config set require_token true
      proxyctl tokens list
    """


@app.command()
def add(
    name: Name,
    rpm: Annotated[
        int | None, typer.Option("--rpm", metavar="N", min=1, help="Requests per minute, in each proxy.")
    ] = None,
    max_concurrent: Annotated[
        int | None,
        typer.Option(
            "--max-concurrent",
            metavar="N",
            min=1,
            help="So many requests at a time in each proxy; others wait in line.",
        ),
    ] = None,
    proxies: Annotated[
        list[str] | None,
        typer.Option(
            "--proxies",
            metavar="GLOB",
            help="Where it is good: names of proxies or model ids, globs; may be said again. `front`: there, and "
            "at all that it leads to. Default: everywhere.",
        ),
    ] = None,
    json: Json = False,
) -> int:
    """Make an access token, and print it this once

    Your config.toml keeps its hash and its limits. Clients send it as ANTHROPIC_AUTH_TOKEN, as an API key, or
    in the header x-proxy-token, where another provider's credential has room beside it. Proxies that run know
    it at once. Its limits hold in each proxy by itself, and at a front for all that comes through.
    `proxyctl run`, `env` and `ask` take it from MODELPROXY_TOKEN. Without `require_token` those
    who send no token are taken as well.

    \b
    Examples:
      proxyctl tokens add ci --rpm 60
      proxyctl tokens add laptop --max-concurrent 2 --proxies 'ollama/*' --proxies coder
    """
    from modelproxy.supervisor.paths import find

    from .applying import apply
    from .tokens import add as make
    from .tokens import told

    token, row = make(find(), name, rpm=rpm, max_concurrent=max_concurrent, proxies=proxies or [])
    trouble = apply(find())
    if json:
        say_json({**row, "token": token})
    else:
        say(token)
        talk(f"{name}: {told(row)}. It is shown this once; config.toml keeps its hash.")
    if trouble:
        talk(f"warning: proxies that run do not know it yet: {trouble}")
    return EXIT_OK


@app.command()
def remove(name: Name, json: Json = False) -> int:
    """Take an access token back

    Proxies that run refuse it at once; what is in flight is finished.

    \b
    Examples:
      proxyctl tokens remove ci
    """
    from modelproxy.supervisor.paths import find

    from .applying import apply
    from .tokens import remove as take_out

    take_out(find(), name)
    trouble = apply(find())
    if json:
        say_json({"name": name, "removed": True})
    else:
        say(f"the token {name} is removed")
    if trouble:
        talk(f"warning: proxies that run may still take it: {trouble}")
    return EXIT_OK


@app.command("list")
def list_(json: Json = False) -> int:
    """List the access tokens and their limits

    \b
    Examples:
      proxyctl tokens list
      proxyctl tokens list --json
    """
    from modelproxy.supervisor.paths import find

    from .tokens import listed, told

    rows = listed(find())
    if json:
        say_json(rows)
        return EXIT_OK
    if not rows:
        talk("there is no token; proxyctl tokens add NAME")
    for line in aligned([(row["name"], "mp-***", row["sha256"], told(row)) for row in rows]):
        say(line)
    return EXIT_OK
