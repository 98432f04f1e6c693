"""The commands of `proxyctl`. Typer parses and explains; what is done stands in the other modules.

Those are imported inside the commands: a command pays for what it uses.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import typer

from . import agents_app, complete, config_app, keys_app, launch_app, models_app, render, tokens_app, typed
from .apps import Json, group
from .faults import EXIT_FAILED, EXIT_OK, EXIT_USAGE, Fault, say, say_json, show, talk

app = typer.Typer(
    help="""Run local proxies that let Anthropic-format agents use any model

\b
Common workflows:
  A local model for an agent
    proxyctl up ollama/codellama --port 3457
    export ANTHROPIC_BASE_URL=http://127.0.0.1:3457 ANTHROPIC_AUTH_TOKEN=unused
    claude --model ollama/codellama
  The same in one go, with nothing left behind
    proxyctl run ollama/codellama -- claude
  Other models for some agents of a session, its own for the rest
    proxyctl agents set code-reviewer ollama/codellama
    proxyctl run -- claude
  A provider that wants a key
    proxyctl keys set openrouter
    proxyctl up openrouter/anthropic/claude-3-haiku --port 3458
  What runs, why it is as it is, what it costs
    proxyctl ps
    proxyctl why ollama/codellama
    proxyctl logs ollama/codellama -n 20
    proxyctl usage --since 2h
    proxyctl costs --by route
  The end of the day
    proxyctl down all
    proxyctl daemon stop

\b
Exit codes:
  0  done
  1  what was asked for failed
  2  bad usage, or something did not validate
  3  the supervisor cannot be reached
  130  interrupted""",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
daemon_app = group()
app.add_typer(daemon_app, name="daemon")
app.add_typer(keys_app.app, name="keys")
app.add_typer(tokens_app.app, name="tokens")
app.add_typer(config_app.app, name="config")
app.add_typer(agents_app.app, name="agents")
app.add_typer(models_app.app, name="models")


def run(argv: Sequence[str]) -> int:
    """Run one command; the exit code."""
    command = typer.main.get_command(app)
    if "_PROXYCTL_COMPLETE" in os.environ:
        command(list(argv), prog_name="proxyctl")  # prints completions and exits
    ours, theirs = list(argv), None
    if argv[:1] == ["run"] and "--" in argv:
        end = argv.index("--")
        ours, theirs = list(argv[:end]), list(argv[end + 1 :])  # the parser would take it for MODEL
    return parsed(command, "proxyctl", ours, theirs)


def parsed(command: Any, name: str, argv: Sequence[str], behind: list[str] | None = None) -> int:
    """Parse `argv` and run what it says, without the library's own ideas about errors and exit codes.

    `behind`: a command that stands behind `--` and is nobody's to parse.
    """
    try:
        with command.make_context(name, list(argv), obj=behind) as context:
            code = command.invoke(context)
    except typer.Exit as done:  # --help, --version
        return done.exit_code
    except Exception as error:
        # The base class of usage errors has moved between the versions that we allow; its method has not.
        if not hasattr(error, "format_message"):
            raise
        return _misused(error, as_json="--json" in argv)
    return code if isinstance(code, int) else EXIT_OK


def _misused(error: Any, *, as_json: bool) -> int:
    context = error.ctx
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stderr.write(context.get_help() + "\n")
        return EXIT_USAGE
    path = context.command_path if context is not None else "proxyctl"
    if not as_json and context is not None:
        talk(context.get_usage())
    hint = f"{path} --help"
    if path == "proxyctl run" and "extra argument" in error.format_message():
        hint = "the command stands behind --, like proxyctl run ollama/codellama -- claude"
    if path == "proxyctl ask" and "'TEXT'" in error.format_message():
        hint = 'proxyctl ask MODEL "Hello", or - for what comes on standard input'
    return show(Fault("usage", error.format_message(), hint), as_json=as_json)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        say(f"proxyctl {version('modelproxy')}")
        raise typer.Exit


Grace = Annotated[
    str | None,
    typer.Option("--grace", metavar="DURATION", help="How long requests in flight may go on: 30, 30s, 2m."),
]
Wait = Annotated[
    str | None, typer.Option("--wait", metavar="DURATION", help="How long to wait until it is ready (15s).")
]
BaseUrl = Annotated[str | None, typer.Option("--base-url", metavar="URL", help="Where the provider is.")]
ApiKey = Annotated[
    str | None,
    typer.Option("--api-key", metavar="KEY", help="The provider's key; -: read it from standard input."),
]
ApiKeyEnv = Annotated[
    str | None,
    typer.Option("--api-key-env", metavar="VAR", help="Take the key from this environment variable."),
]
ApiKeyFile = Annotated[
    str | None, typer.Option("--api-key-file", metavar="FILE", help="Read the key from this file.")
]
PidFile = Annotated[
    str | None, typer.Option("--pid-file", metavar="PATH", help="Write the worker's pid here as well.")
]
Lazy = Annotated[
    bool | None,
    typer.Option(
        "--lazy/--no-lazy", show_default=False, help="Open the port; the first connection starts the process."
    ),
]
IdleStop = Annotated[
    str | None,
    typer.Option(
        "--idle-stop",
        metavar="DURATION",
        help="Without a request for so long the process goes, until the next connection. 0: it stays.",
    ),
]
MaxRss = Annotated[
    str | None,
    typer.Option(
        "--max-rss",
        metavar="SIZE",
        help="A worker with more memory than this (500M, 2G) is replaced. 0: no limit.",
    ),
]
Fallback = Annotated[
    list[str] | None,
    typer.Option(
        "--fallback",
        metavar="MODEL",
        help="Where a request goes when this provider fails before it has said anything; in this order if "
        "said again: a model id, an alias or a proxy's name. anthropic: the caller's own request, as it is. "
        "none: nowhere any more.",
        autocompletion=complete.targets,
    ),
]
MaxConcurrent = Annotated[
    str | None,
    typer.Option(
        "--max-concurrent", metavar="N", help="So many requests at a time; others wait in line. 0: no limit."
    ),
]
Rpm = Annotated[str | None, typer.Option("--rpm", metavar="N", help="Requests per minute. 0: no limit.")]
QueueTimeout = Annotated[
    str | None,
    typer.Option("--queue-timeout", metavar="DURATION", help="How long one may wait in line. 0: no limit."),
]
RequestTimeout = Annotated[
    str | None,
    typer.Option("--request-timeout", metavar="DURATION", help="How long one may take in all. 0: no limit."),
]
Target = Annotated[
    str,
    typer.Argument(
        metavar="TARGET", help="A name, a model id, a port or a pid.", autocompletion=complete.targets
    ),
]


@app.callback()
def proxyctl(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    pass


@app.command()
def up(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="provider/model-name, an alias, a proxy of the configuration, or a name that one provider "
            "lists.",
            autocompletion=complete.models,
        ),
    ],
    port: Annotated[
        str | None,
        typer.Option(
            "--port",
            "-p",
            metavar="PORT",
            help="Port on 127.0.0.1; 0: any free one. Default: 3456 or the next.",
        ),
    ] = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    api_key_env: ApiKeyEnv = None,
    api_key_file: ApiKeyFile = None,
    grace: Grace = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Roll a running proxy whose options differ.")
    ] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return before it is ready.")] = False,
    wait: Wait = None,
    pid_file: PidFile = None,
    lazy: Lazy = None,
    idle_stop: IdleStop = None,
    max_rss: MaxRss = None,
    fallback: Fallback = None,
    max_concurrent: MaxConcurrent = None,
    rpm: Rpm = None,
    queue_timeout: QueueTimeout = None,
    request_timeout: RequestTimeout = None,
    trust_project: Annotated[
        bool,
        typer.Option("--trust-project", help="Let this folder's .modelproxy.toml say all, this once."),
    ] = False,
    json: Json = False,
) -> int:
    """Bring a proxy up and wait until it is ready

    Starts the supervisor if none runs. A proxy that is up already is left as it is.

    \b
    Examples:
      proxyctl up ollama/codellama --port 3457
      proxyctl up openrouter/moonshotai/kimi-k2
      proxyctl up coder
      proxyctl up front
      proxyctl up ollama/codellama --lazy --idle-stop 15m --max-rss 500M
      proxyctl up ollama/codellama --max-concurrent 2 --fallback openrouter/qwen/qwen3-coder
      proxyctl up openai/some-model --base-url http://127.0.0.1:8000/v1 --api-key -
      eval "$(proxyctl up ollama/qwen3-coder | tail -n +2)" && claude --model ollama/qwen3-coder
    """
    from modelproxy.supervisor.paths import find

    from . import names
    from .up import bring_up, request

    began, where = time.monotonic(), find()
    wanted = request(
        model=names.model(where, model, base_url=base_url, trust_project=trust_project),
        port=None if port is None else typed.port(port),
        base_url=base_url,
        grace_s=_seconds(grace),
        wait_s=_seconds(wait),
        replace=replace,
        wait=not no_wait,
        pid_file=None if pid_file is None else typed.pid_file(pid_file),
        api_key=typed.api_key(api_key, api_key_env, api_key_file),
        lazy=lazy,
        idle_stop_s=None if idle_stop is None else typed.idle_stop(idle_stop),
        max_rss=None if max_rss is None else typed.size(max_rss),
        fallback=names.fallback(where, fallback, trust_project=trust_project),
        limits=typed.limits(
            {
                "max_concurrent": max_concurrent,
                "rpm": rpm,
                "queue_timeout": queue_timeout,
                "request_timeout": request_timeout,
            }
        ),
    )
    view = bring_up(where, wanted, trust_project=trust_project)
    if json:
        say_json(view)
        return EXIT_OK
    _remark(view)
    say(render.up(view, time.monotonic() - began))
    say(render.export(view))
    if not no_wait and view.get("state") != "idle":  # whoever asks an idle one starts it
        _tell(view)
    return EXIT_OK


def _tell(view: dict[str, Any]) -> None:
    """Behind what was asked for: the probe may take a moment, and for scripts (--json) it is not made at all."""
    if view.get("provider") == "echo":
        return  # built in: there is nothing to be ill, and no window
    from modelproxy.supervisor.paths import find

    from .environment import line_of_sizes
    from .health import warnings
    from .run import goal_of

    found = warnings(view)
    if line := line_of_sizes(goal_of(find(), view)):
        say(line)
    for warning in found:
        talk(f"warning: {warning}")


def _remark(view: dict[str, Any]) -> None:
    for note in view.get("notes") or ():
        talk(f"note: {note}")
    warning = render.unwell(view)
    if warning:
        talk(warning)


@app.command()
def down(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="TARGET...",
            help="Names, model ids, ports or pids, or: all.",
            autocompletion=complete.targets,
        ),
    ],
    grace: Grace = None,
    json: Json = False,
) -> int:
    """Take proxies down and wait until their requests are finished

    \b
    Examples:
      proxyctl down ollama/codellama
      proxyctl down 3457 3458
      proxyctl down all --grace 5s
    """
    from modelproxy.supervisor.paths import find

    from .up import Refused, take_down

    answers = take_down(find(), [typed.target(target) for target in targets], _seconds(grace))
    faults = [answer.fault for answer in answers if isinstance(answer, Refused)]
    if json:
        documents = [answer.document if isinstance(answer, Refused) else answer for answer in answers]
        alone = len(targets) == 1 and targets != ["all"] and len(documents) == 1
        say_json(documents[0] if alone else documents)
    else:
        _say_when_nothing_is_up(answers)
        for answer in answers:
            if not isinstance(answer, Refused):
                say(render.stopped(answer))
        for fault in faults:
            show(fault, as_json=False)
    return max((fault.exit_code for fault in faults), default=EXIT_OK)


def _say_when_nothing_is_up(answers: Sequence[object]) -> None:
    """`all` of nothing is no failure, but silence would look like one that was done."""
    if not answers:
        talk("nothing is up")


launch_app.add_to(app)


@app.command()
def ps(
    everything: Annotated[bool, typer.Option("--all", "-a", help="Stopped proxies too.")] = False,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", help="Causes, every process, last deaths, last log lines."),
    ] = False,
    json: Json = False,
) -> int:
    """List the proxies

    In a terminal that is too narrow the causes stand below the rows. Without a supervisor the list is read
    from its files: the exit code is then 3.

    \b
    Examples:
      proxyctl ps
      proxyctl ps -a -v
      proxyctl ps --json
    """
    from .ps import ps as list_proxies

    return list_proxies(everything=everything, verbose=verbose, as_json=json)


@app.command(name="set")
def set_limits(
    target: Target,
    settings: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=VALUE…",
            help="max_concurrent, rpm, queue_size, queue_timeout, max_body, max_context, request_timeout; "
            "0 or none: no limit.",
        ),
    ],
    json: Json = False,
) -> int:
    """Change the limits of a proxy that goes on serving

    Holds from now on and for later workers too, whatever the configuration says; no request is cut, and those
    that wait in line stay there. `down` and `up` begin anew with the configuration's.

    \b
    Examples:
      proxyctl set ollama/codellama max_concurrent=2
      proxyctl set 3457 rpm=60 queue_timeout=2m
      proxyctl set all rpm=none
    """
    from modelproxy.supervisor.paths import find

    from .client import Client, quote

    body = typed.settings(settings)
    views = Client(find()).ask("POST", f"/v1/proxies/{quote(typed.target(target))}/set", body)
    if json:
        say_json(views[0] if target != "all" and len(views) == 1 else views)
        return EXIT_OK
    _say_when_nothing_is_up(views)
    for view in views:
        say(render.limits(view))
    return EXIT_OK


@app.command()
def why(target: Target, json: Json = False) -> int:
    """Tell why a proxy is in its state, and what comes next

    One page: the state with its cause and since when, the provider's health, the workers, the last deaths,
    the last events, the end of the log, and the command that helps. Without a supervisor it is read from
    files: the exit code is then 3.

    \b
    Examples:
      proxyctl why ollama/codellama
      proxyctl why 3457 --json
    """
    from modelproxy.supervisor.paths import find

    from .why import why as explain

    return explain(find(), typed.target(target), as_json=json)


@app.command()
def restart(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="A name, a model id, a port, a pid, or: all.",
            autocompletion=complete.targets,
        ),
    ],
    grace: Grace = None,
    wait: Wait = None,
    json: Json = False,
) -> int:
    """Replace a proxy's worker by a new one without refusing a request

    The old worker finishes its requests while the new one serves.

    \b
    Examples:
      proxyctl restart ollama/codellama
      proxyctl restart all --grace 1m
    """
    from modelproxy.supervisor.paths import find

    from .client import Client, quote
    from .faults import DEFAULT_WAIT_S

    began = time.monotonic()
    said = {"grace_s": _seconds(grace), "wait_s": _seconds(wait)}
    body = {key: value for key, value in said.items() if value is not None}
    limit = body.get("wait_s", DEFAULT_WAIT_S)
    views = Client(find()).ask(
        "POST", f"/v1/proxies/{quote(typed.target(target))}/restart", body, limit_s=limit
    )
    if json:
        say_json(views[0] if target != "all" and len(views) == 1 else views)
        return EXIT_OK
    _say_when_nothing_is_up(views)
    for view in views:
        _remark(view)
        say(render.up(view, time.monotonic() - began))
    return EXIT_OK


@app.command("reload")
def reload_(json: Json = False) -> int:
    """Apply a changed configuration

    To the proxies that it concerns, by a roll, so that no request fails. The supervisor also looks at the
    files by itself every 2 s, and at SIGHUP. What was said by flag stays. A file with mistakes changes
    nothing. Keys are fetched anew, those of commands and files too, which a change of a file alone does not.

    \b
    Examples:
      proxyctl reload
      proxyctl reload --json
    """
    from modelproxy.supervisor.paths import find

    from .client import Client

    answer = Client(find()).ask("POST", "/v1/daemon/reload", {})
    if json:
        say_json(answer)
        return EXIT_OK
    from . import settings
    from .config_view import unused

    for warning in (*answer["warnings"], *unused(settings.read(find()))):
        talk(f"warning: {warning}")
    say(
        f"changed  {'  '.join(answer['changed'])}"
        if answer["changed"]
        else "nothing has changed since the files were last read"
    )
    return EXIT_OK


@daemon_app.command("reload", hidden=True)
def daemon_reload(json: Json = False) -> int:
    """Apply a changed configuration; the same as proxyctl reload"""
    return reload_(json=json)


@app.command()
def logs(
    target: Target,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, metavar="N", help="How many lines.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as the log grows.")] = False,
    json: Json = False,
) -> int:
    """Print the end of a proxy's log

    Reads the file itself, so it works when the supervisor is dead. Ctrl-C ends it (exit code 130).

    \b
    Examples:
      proxyctl logs ollama/codellama
      proxyctl logs 3457 -n 200 -f
    """
    from modelproxy.supervisor.paths import find

    from .logs import logs as print_logs

    return print_logs(find(), target, lines, following=follow, as_json=json)


@app.command()
def usage(
    proxy: Annotated[
        str | None,
        typer.Argument(
            metavar="[PROXY]", help="A name, a model id or a port.", autocompletion=complete.targets
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="DURATION", help="Only those of the last 30m, 2h, 7d.")
    ] = None,
    limit: Annotated[
        int,
        typer.Option("--limit", "-n", min=0, max=10_000, metavar="N", help="At most so many, the newest."),
    ] = 100,
    json: Json = False,
) -> int:
    """Print the last model requests, their tokens and costs

    One row each, the newest last. Read from the supervisor, or without one from the ledger itself. A cost
    that nobody knows is a dash (null with --json), never 0.

    \b
    Examples:
      proxyctl usage
      proxyctl usage ollama/codellama --since 2h
      proxyctl usage --json --limit 1000
    """
    from modelproxy.supervisor.paths import find

    from .usage import usage as print_usage

    age = None if since is None else typed.duration(since, most=typed.LONGEST_AGE_S)
    return print_usage(find(), proxy, age_s=age, limit=limit, as_json=json)


@app.command()
def costs(
    by: Annotated[
        Literal["model", "agent", "day", "session", "route"],
        typer.Option("--by", help="What is added up together."),
    ] = "model",
    since: Annotated[
        str | None, typer.Option("--since", metavar="DURATION", help="Only the last 30m, 2h, 7d.")
    ] = None,
    json: Json = False,
) -> int:
    """Print what the model requests have used and cost, summed up

    From the same ledger as proxyctl usage, the dearest first. A sum of costs that nobody knows is a dash (null
    with --json), never 0; UNPRICED says how many requests it lacks. IN has with it what came from a cache and
    went to one.

    With --by route a front's name stands before its target (front>coder), and who answered behind it: after a
    fallback that is somebody else. What is up and nobody has reached is there too, with 0 requests.

    \b
    Examples:
      proxyctl costs
      proxyctl costs --by day --since 7d
      proxyctl costs --by route --since 2h --json
    """
    from modelproxy.supervisor.paths import find

    from .costs import costs as print_costs

    age = None if since is None else typed.duration(since, most=typed.LONGEST_AGE_S)
    return print_costs(find(), by, age_s=age, as_json=json)


@app.command()
def events(
    lines: Annotated[
        int | None, typer.Option("--lines", "-n", min=0, metavar="N", help="Only the last N of the past.")
    ] = None,
    since: Annotated[int, typer.Option("--since", min=0, metavar="SEQ", help="Only later ones.")] = 0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as things happen.")] = False,
    json: Json = False,
) -> int:
    """Print what happened to the proxies

    The supervisor remembers the last few thousand events. With --follow it goes on, over restarts of the
    supervisor too; each has a number, and --since asks for those after it.

    \b
    Examples:
      proxyctl events
      proxyctl events -n 20 -f
      proxyctl events -f --json
    """
    from modelproxy.supervisor.paths import find

    from .logs import events as print_events

    return print_events(find(), since, lines, following=follow, as_json=json)


@daemon_app.callback()
def daemon() -> None:
    """Start, stop and inspect the supervisor

    \b
    Examples:
      proxyctl daemon status
      proxyctl daemon restart
    """


Unit = Annotated[
    str | None, typer.Option("--unit", metavar="NAME", help="The systemd unit that runs it (there: %n).")
]


@daemon_app.command("run")
def daemon_run(unit: Unit = None) -> int:
    """Run the supervisor in the foreground

    For systemd and other process managers; its log goes to stderr.

    \b
    Examples:
      proxyctl daemon run
    """
    from .daemon import run

    run(unit)
    return EXIT_FAILED  # not reached: exec does not return


@daemon_app.command("reap", hidden=True)
def daemon_reap(unit: Annotated[str, typer.Option("--unit")]) -> int:
    """End the workers of a supervisor that was killed at its stop; for ExecStopPost= of the systemd unit"""
    from .daemon import reap

    reap(unit)
    return EXIT_FAILED  # not reached: exec does not return


@daemon_app.command("install")
def daemon_install(
    now: Annotated[
        bool, typer.Option("--now/--no-start", help="Start it as well; a running supervisor hands over.")
    ] = True,
    json: Json = False,
) -> int:
    """Make the supervisor a service of systemd for this user

    It starts at login, is watched by systemd, and is started again whatever ends it. Running proxies are
    taken over and serve on meanwhile. Keys of this shell are not in a service: proxyctl keys set, or the
    file modelproxy/env in the configuration folder.

    \b
    Examples:
      proxyctl daemon install
      proxyctl daemon install --no-start
    """
    from modelproxy.supervisor.paths import find
    from modelproxy.supervisor.words import count

    from .install import install

    done = install(find(), start=now)
    if json:
        say_json(done)
        return EXIT_OK
    for unit in done["units"]:
        say(f"wrote  {unit}")
    if done["state"] == "started":
        say(f"started  pid {done['pid']}, {count(done['adopted'], 'proxy', 'proxies')} taken over")
    else:
        say("enabled  it starts at the next login, or by systemctl --user start modelproxy")
    if not done["linger"]:
        talk(
            "your services end with your last login and start with the first: "
            f"loginctl enable-linger {done['user']} has them run from boot on"
        )
    return EXIT_OK


@daemon_app.command("uninstall")
def daemon_uninstall(json: Json = False) -> int:
    """Stop the service that `install` has made, and remove its units

    Every proxy drains as with daemon stop. Configuration, logs and the wishes for the next start stay.

    \b
    Examples:
      proxyctl daemon uninstall
    """
    from modelproxy.supervisor.paths import find

    from .install import uninstall

    done = uninstall(find())
    if json:
        say_json(done)
        return EXIT_OK
    for unit in done["units"]:
        say(f"removed  {unit}")
    say(done["state"])
    return EXIT_OK


@daemon_app.command("start")
def daemon_start(json: Json = False) -> int:
    """Start the supervisor in the background

    \b
    Examples:
      proxyctl daemon start
    """
    from modelproxy.supervisor.paths import find

    from .autostart import ensure

    version, started = ensure(find())
    if json:
        say_json({**version, "already": not started})
    else:
        say(f"{'started' if started else 'already running'}  pid {version['pid']}")
    return EXIT_OK


@daemon_app.command("stop")
def daemon_stop(grace: Grace = None, json: Json = False) -> int:
    """Stop the supervisor and its proxies once their requests end

    \b
    Examples:
      proxyctl daemon stop
      proxyctl daemon stop --grace 5s
    """
    from modelproxy.supervisor.paths import find

    from .daemon import stop

    version = stop(find(), _seconds(grace))
    if json:
        say_json({**version, "state": "stopped"})
    else:
        say(f"stopped  pid {version['pid']}")
    return EXIT_OK


@daemon_app.command("restart")
def daemon_restart(json: Json = False) -> int:
    """Replace the supervisor by a new one while the proxies serve on

    \b
    Examples:
      proxyctl daemon restart
    """
    from modelproxy.supervisor.paths import find

    from .daemon import restart as restart_it

    version = restart_it(find(), None)
    if json:
        say_json(version)
    else:
        say(f"restarted  pid {version['pid']}, version {version['version']}")
    return EXIT_OK


@daemon_app.command("status")
def daemon_status(json: Json = False) -> int:
    """Tell whether the supervisor runs

    \b
    Examples:
      proxyctl daemon status
      proxyctl daemon status --json
    """
    from modelproxy.supervisor.paths import find

    from .daemon import status

    version = status(find())
    for warning in version.get("warnings") or ():
        talk(f"warning: {warning}")
    if json:
        say_json(version)
    else:
        say(render.daemon(version, version["proxies"], time.time()))
    return EXIT_OK


def _seconds(text: str | None) -> float | None:
    return None if text is None else typed.duration(text)
