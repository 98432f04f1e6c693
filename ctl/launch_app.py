"""`proxyctl run`, `env` and `ask`: what can be typed. What is done stands in the modules of these names."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from . import complete, typed
from .faults import EXIT_OK, say, talk, usage

Agent = Annotated[
    str | None,
    typer.Option("--agent", metavar="NAME", help="Who asks; its entry says the model. Stands in the ledger."),
]
Port = Annotated[
    str | None,
    typer.Option("--port", "-p", metavar="PORT", help="Port on 127.0.0.1 for a proxy that is not up."),
]
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="As for up: a model, an alias, a proxy, or: front.",
        autocompletion=complete.models,
    ),
]


def run(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL] -- COMMAND...",
            help="Which model the command uses, and the command as one would type it.",
            autocompletion=complete.models,
        ),
    ] = None,
    agent: Agent = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the proxy up behind it.")] = False,
    no_fallback: Annotated[
        bool,
        typer.Option("--no-fallback", help="No proxy, no command. Else it runs without, after a warning."),
    ] = False,
    port: Port = None,
    wait: Annotated[
        str | None,
        typer.Option("--wait", metavar="DURATION", help="How long to wait until it is ready (15s)."),
    ] = None,
) -> int:
    """Run a command with the proxy that it needs

    Brings it up, waits until it is ready, sets what the command's environment must say, and takes it down
    again behind it unless it was up before or another `run` uses it. Where another program has its port it
    takes a free one, unless --port says which. Arguments, signals, terminal and exit code are the command's
    own (128+n: signal n ended it; 126, 127: it cannot be run).

    Without MODEL and --agent: the front door, when any agent has a model or there are rules; it keeps the
    command's own credential. Without any of these nothing is changed at all.

    \b
    Examples:
      proxyctl run ollama/qwen3-coder -- claude
      proxyctl run -- claude
      proxyctl run --agent code-reviewer -- ./review.sh --all
      proxyctl run ollama/qwen3-coder --no-fallback --keep -- aider
    """
    from modelproxy.supervisor.paths import find

    from .run import Wish
    from .run import run as launch

    wish = Wish(
        model=model,
        agent=typed.agent(agent),
        keep=keep,
        fallback=not no_fallback,
        port=None if port is None else typed.port(port),
        wait_s=None if wait is None else typed.duration(wait),
    )
    return launch(find(), wish, context.obj or [])


def env(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="As for up: a model, an alias, a proxy, or: front.",
            autocompletion=complete.models,
        ),
    ] = None,
    client: Annotated[
        str,
        typer.Option(
            "--for",
            metavar="CLIENT",
            help="claude, anthropic or openai (their SDKs and what uses them), aider, opencode or codex.",
        ),
    ] = "claude",
    shell: Annotated[
        str | None, typer.Option("--shell", metavar="SHELL", help="sh (if nothing is said), fish or json.")
    ] = None,
    agent: Agent = None,
    port: Port = None,
    json: Annotated[bool, typer.Option("--json", help="As --shell json; errors too.")] = False,
) -> int:
    """Print what a shell must say so that its programs use a proxy

    Brings the proxy up if it is not, and leaves it. For opencode: what belongs into opencode.json. For codex:
    what belongs at the top of its config.toml, or of a file NAME.config.toml beside it for codex --profile NAME.

    Without MODEL it is the one of --agent's entry; without both the front door, as for `run`. Who has a model
    of its own gets nothing to say.

    \b
    Examples:
      eval "$(proxyctl env ollama/qwen3-coder)"
      eval "$(proxyctl env --agent code-reviewer)"
      proxyctl env ollama/qwen3-coder --for aider
      eval "$(proxyctl env ollama/qwen3-coder --for openai)"
      proxyctl env ollama/qwen3-coder --shell fish | source
      proxyctl env ollama/qwen3-coder --for opencode > opencode.json
    """
    import os
    from json import dumps

    from modelproxy.supervisor.paths import find

    from . import codex, environment
    from .run import Wish, goal_of, meant
    from .up import bring_up, request

    if client not in environment.CLIENTS:
        raise usage(f'"{client}" is no client that is known', f"one of {', '.join(environment.CLIENTS)}")
    if json and shell not in (None, "json"):
        raise usage(f"--json and --shell {shell} say two things", "say one of them")
    shell = "json" if json else shell or "sh"
    if shell not in environment.SHELLS:
        raise usage(f'"{shell}" is no shell that is known', f"one of {', '.join(environment.SHELLS)}")
    where, asking = find(), typed.agent(agent)
    target = meant(where, Wish(model, asking))
    if target is None:
        who = "no agent has a model of ours" if asking is None else f'the agent "{asking}" uses its own model'
        talk(f"note: {who}, so nothing changes")
        if shell == "json":
            is_file = client in ("opencode", "codex")
            say("{}" if is_file else environment.script(environment.Changes({}), shell))
        return EXIT_OK
    wanted = request(model=target, port=None if port is None else typed.port(port))
    goal = goal_of(where, bring_up(where, wanted), asking)
    for warning in environment.warnings(goal, os.environ) or environment.missing(goal, client):
        talk(f"warning: {warning}")
    if client == "opencode":
        say(environment.opencode(goal, os.environ))
    elif client == "codex":
        found = codex.config(goal, os.environ)
        say(dumps(found) if shell == "json" else codex.toml(found))
    else:
        say(environment.script(environment.changes(goal, client, os.environ), shell))
    return EXIT_OK


def ask(
    model: Model,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The message; -: from standard input.")],
    named: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME",
            help="The model that the request names, by which the front door goes. Default: models.default.",
            autocompletion=complete.models,
        ),
    ] = None,
    system: Annotated[str | None, typer.Option("--system", metavar="TEXT", help="The system prompt.")] = None,
    max_tokens: Annotated[
        int,
        typer.Option(
            "--max-tokens",
            metavar="N",
            min=1,
            max=10_000_000,
            help="The longest answer (8192).",
            show_default=False,
        ),
    ] = 8192,
    stream: Annotated[bool, typer.Option("--stream", help="Print it as it comes.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the message, or with --stream each event; errors too.")
    ] = False,
) -> int:
    """Send one message and print the answer

    Through the proxy like any client; one that is not up is brought up for it and goes again. Where the caller's
    own request may be passed on, as to anthropic/…, this shell's ANTHROPIC_AUTH_TOKEN, ANTHROPIC_API_KEY or
    CLAUDE_CODE_OAUTH_TOKEN goes along. The front door is asked for the model that --model names.

    \b
    Examples:
      proxyctl ask ollama/codellama "What does EAGAIN mean?"
      git diff | proxyctl ask coder - --system "Review this." --stream
      proxyctl ask ollama/codellama Hello --json
      proxyctl ask front --model claude-sonnet-4-5 Hello
    """
    from modelproxy.supervisor.paths import find

    from . import names
    from .ask import ask as send

    said = _stdin() if text == "-" else text
    if not said.strip():
        raise usage("The message is empty", 'proxyctl ask ollama/codellama "Hello"')
    where = find()
    send(
        where,
        names.model(where, model),
        said,
        named=named,
        system=system,
        max_tokens=max_tokens,
        stream=stream,
        as_json=json,
    )
    return EXIT_OK


def _stdin() -> str:
    if sys.stdin is None:
        raise usage("There is no standard input to read the message from")
    try:
        return sys.stdin.read()
    except UnicodeDecodeError:
        raise usage("Standard input is not UTF-8 text") from None


def add_to(app: typer.Typer) -> None:
    for command in (run, env, ask):
        app.command()(command)
