"""`proxyctl agents …`: what can be typed. What is done stands in `agents`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from . import complete
from .apps import Json, group, tell_who_goes_before
from .faults import EXIT_OK, Fault, say, say_json, talk, usage
from .render import aligned

app = group()


Agent = Annotated[
    str,
    typer.Argument(
        metavar="AGENT", help="The agent's name, like code-reviewer.", autocompletion=complete.agents
    ),
]


@app.callback()
def agents() -> None:
    """Say which model an agent uses

    \b
    Examples:
      proxyctl agents set code-reviewer ollama/codellama
      proxyctl agents resolve code-reviewer --json
    """


@app.command("set")
def set_(
    agent: Agent,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="provider/model-name, an alias, a proxy, a name that one provider lists, or claude: its own "
            "model.",
            autocompletion=complete.models,
        ),
    ],
    json: Json = False,
) -> int:
    """Let an agent use a model

    One line of your config.toml; the rest stays as it is. A name that only a provider's list has is written
    with its provider: what an agent uses does not change with the lists. An AGENT with * or ? in it holds for
    all that fit and have no entry of their own; the longest goes first.

    \b
    Examples:
      proxyctl agents set code-reviewer ollama/codellama
      proxyctl agents set 'code-*' ollama/codellama
      proxyctl agents set architect claude
    """
    from modelproxy.supervisor import editing
    from modelproxy.supervisor.paths import find
    from modelproxy.supervisor.schema import NATIVE

    from . import names
    from .applying import apply_or_warn
    from .config_file import change

    if not agent.strip() or not agent.isprintable():
        raise usage(f'"{agent}" is not the name of an agent', "for example code-reviewer")
    path = ("models", "agents", agent)
    model = model if model in NATIVE else names.model(find(), model)
    change(find().config_file, lambda old: editing.with_value(old, path, model))
    apply_or_warn(find())
    tell_who_goes_before(path)
    if json:
        say_json({"agent": agent, "model": model})
    else:
        say(f"{agent} uses {model}")
    return EXIT_OK


@app.command()
def unset(agent: Agent, json: Json = False) -> int:
    """Take an agent's entry out of your config.toml

    It uses models.default then, or its own model.

    \b
    Examples:
      proxyctl agents unset code-reviewer
    """
    from modelproxy.supervisor.paths import find

    from .applying import apply_or_warn
    from .config_file import unset as take_out
    from .config_view import nearest, overruled

    path = ("models", "agents", agent)
    if not take_out(find(), path):
        hint = overruled(find(), path) or nearest(find(), path, own=True) or "proxyctl agents list"
        raise Fault("not_set", f'"{agent}" has no entry in {find().config_file}', hint)
    apply_or_warn(find())
    tell_who_goes_before(path)
    if json:
        say_json({"agent": agent, "set": False})
    else:
        say(f"{agent} has no entry any more")
    return EXIT_OK


@app.command("list")
def list_(json: Json = False) -> int:
    """List the agents that have an entry, and who made it

    \b
    Examples:
      proxyctl agents list
      proxyctl agents list --json
    """
    from modelproxy.supervisor.paths import find

    from .agents import listed

    rows, warnings = listed(find())
    for warning in warnings:
        talk(f"warning: {warning}")
    if json:
        say_json(rows)
        return EXIT_OK
    if not rows and not warnings:
        talk("no agent has an entry; proxyctl agents set AGENT MODEL")
    for line in aligned([(row["agent"], _meaning(row), _place(row)) for row in rows]):
        say(line)
    return EXIT_OK


def _meaning(row: dict[str, Any]) -> str:
    real = f" ({row['resolved']})" if row["resolved"] not in (None, row["model"]) else ""
    return f"{row['model']}{real}"


def _place(row: dict[str, Any]) -> str:
    return str(row["origin"]) if row["line"] is None else f"{row['origin']}:{row['line']}"


@app.command()
def resolve(agent: Agent, json: Json = False) -> int:
    """Tell which model an agent uses, and through which proxy

    Starts nothing: a proxy that is not up is named with the address that it would have. Always exit code
    0: with a configuration that cannot be read the answer is that there is no proxy.

    \b
    Examples:
      proxyctl agents resolve code-reviewer --json
    """
    from modelproxy.supervisor.paths import find

    from .agents import resolve as find_out

    return _answer(*find_out(find(), _named(agent)), json=json)


@app.command()
def ensure(agent: Agent, json: Json = False) -> int:
    """The same, with the proxy brought up if it is not

    \b
    Examples:
      proxyctl agents ensure code-reviewer --json
    """
    from modelproxy.supervisor.paths import find

    from .agents import ensure as bring_up

    return _answer(*bring_up(find(), _named(agent)), json=json)


def _named(agent: str) -> str:
    if not agent.strip():
        raise usage("The name of the agent is empty", "for example code-reviewer")
    return agent


def _answer(answer: dict[str, object], warnings: list[str], *, json: bool) -> int:
    for warning in warnings:
        talk(f"warning: {warning}")
    if json:
        say_json(answer)
    else:
        why = "what is configured cannot be used" if warnings else "nothing is configured"
        say(str(answer.get("banner") or f"no proxy: {why}"))
    return EXIT_OK


@app.command()
def guide(json: Json = False) -> int:
    """Print the exact commands that an agent needs

    \b
    Examples:
      proxyctl agents guide
    """
    from .agents import GUIDE

    if json:
        say_json({"guide": GUIDE})
    else:
        say(GUIDE)
    return EXIT_OK
