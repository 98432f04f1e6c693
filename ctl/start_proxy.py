"""`start-proxy`: one proxy as one command, for scripts that want a JSON line and a process to wait for.

Everything is said as one JSON line: success on stdout, errors on stderr. In the foreground it stays until
the proxy is down, and takes it down when it is told to leave; the worker itself is the supervisor's child
either way.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from types import FrameType
from typing import Annotated, Any

import typer

from modelproxy.supervisor.paths import Paths, find

from . import autostart, names, typed
from .client import Client, quote
from .faults import EXIT_FAILED, EXIT_OK, EXIT_USAGE, REPORT, Fault, guard, say_json
from .hide import hide_key
from .main import ApiKey, ApiKeyEnv, ApiKeyFile, BaseUrl, PidFile
from .processes import is_alive
from .up import bring_up, request, take_down

POLL_S = 1.0
"""How often the foreground looks whether the proxy is still wanted."""

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def main() -> int:
    """Run `start-proxy` with the arguments of this process; the exit code."""
    argv = sys.argv[1:]
    hide_key("modelproxy.ctl.start_proxy", argv)
    return guard(lambda: _run(argv), as_json=False)


def _run(argv: list[str]) -> int:
    try:
        return _parsed(argv)
    except Fault as fault:
        return _refuse(fault.message, fault.exit_code, fault.code, fault.hint)
    except (OSError, ValueError) as error:
        return _refuse(f"unexpected {type(error).__name__}: {error}", EXIT_FAILED, "internal", REPORT)


def _parsed(argv: list[str]) -> int:
    command: Any = typer.main.get_command(app)
    try:
        with command.make_context("start-proxy", list(argv)) as context:
            return int(command.invoke(context))
    except typer.Exit as done:
        return done.exit_code
    except Exception as error:
        if not hasattr(error, "format_message"):  # not a usage error; see main.parsed
            raise
        return _refuse(error.format_message(), EXIT_USAGE, "usage", "start-proxy --help")


def _refuse(message: str, code: int, name: str = "", hint: str = "") -> int:
    extra = {"code": name, "hint": hint} if name else {}
    sys.stderr.write(json.dumps({"error": message, **extra}) + "\n")
    return code


@app.command()
def start_proxy(
    model: Annotated[str | None, typer.Option("--model", metavar="MODEL", help="provider/model-name")] = None,
    port: Annotated[
        str | None,
        typer.Option(
            "--port", metavar="PORT", help="Port on 127.0.0.1; 0: any free one. Default: 3456 or the next."
        ),
    ] = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    api_key_env: ApiKeyEnv = None,
    api_key_file: ApiKeyFile = None,
    background: Annotated[
        bool, typer.Option("--background", help="Return once the proxy is ready and leave it running.")
    ] = False,
    pid_file: PidFile = None,
) -> int:
    """Start one proxy and print its port and pid as JSON

    Stays until the proxy is down; Ctrl-C or SIGTERM takes it down.

    \b
    Examples:
      start-proxy --model ollama/codellama
      start-proxy --model ollama/codellama --port 3457 --background

    \b
    Exit codes:
      0  done
      1  the proxy did not start
      2  something did not validate
      3  the supervisor cannot be reached
    """
    if model is None:
        return _refuse("--model is required", EXIT_FAILED)
    paths = find()
    wanted = request(
        model=names.model(paths, model, base_url=base_url),
        port=None if port is None else typed.port(port),
        base_url=base_url,
        pid_file=None if pid_file is None else typed.pid_file(pid_file),
        api_key=typed.api_key(api_key, api_key_env, api_key_file),
    )
    if background:
        say_json({**bring_up(paths, wanted), "background": True})
        return EXIT_OK
    return _foreground(paths, wanted)


def _foreground(paths: Paths, wanted: dict[str, Any]) -> int:
    stay = _Stay()
    view = bring_up(paths, wanted)
    say_json({**view, "background": False})
    while not stay.told_to_leave(POLL_S):
        if not _is_up(paths, view):
            return EXIT_OK
    autostart.ensure(paths)  # a dead one's worker is taken over first, and then taken down
    take_down(paths, [view["name"]], None)
    return EXIT_OK


class _Stay:
    """Turns the two polite signals into an answer; a second one while draining does nothing new."""

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._told)

    def _told(self, _: int, __: FrameType | None) -> None:
        try:
            os.write(self._writing, b"!")
        except BlockingIOError:
            pass  # somebody leans on Ctrl-C: once is enough

    def told_to_leave(self, seconds: float) -> bool:
        import select

        return bool(select.select([self._reading], [], [], seconds)[0])


def _is_up(paths: Paths, view: dict[str, Any]) -> bool:
    """Whether the proxy is still wanted. A supervisor that is away changes nothing while the worker lives."""
    try:
        now = Client(paths).get(f"/v1/proxies/{quote(view['name'])}")
    except Fault as fault:
        return fault.code != "unknown_proxy" and is_alive(view.get("pid"))
    view["pid"] = now.get("pid")
    return bool(now.get("wanted"))


if __name__ == "__main__":
    sys.exit(main())
