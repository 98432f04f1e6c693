"""What went wrong, in the user's words, and which exit code follows.

Part of the fast path: imports nothing that costs time (`proxyctl ps` is started by status lines, again and
again). That is also why the defaults below are said twice, here and in `supervisor.protocol`, whose import
costs more than a whole `ps`; a test holds them equal.
"""

from __future__ import annotations

import errno
import os
import sys

TYPE_CHECKING = False  # as in typing, whose import would cost 4 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

DEFAULT_PORT = 3456
DEFAULT_WAIT_S = 15.0
MAX_GRACE_S = 24 * 3600.0
MAX_IDLE_STOP_S = 7 * 24 * 3600.0
MIN_MAX_RSS = 16 * 1024**2

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NO_DAEMON = 3
EXIT_INTERRUPTED = 130

# What the caller got wrong, and what says that nobody answers; every other code is a plain failure.
_USAGE = frozenset(
    {"usage", "bad_request", "bad_model_id", "ambiguous_name", "unsupported_provider", "bad_port"}
)
_NO_DAEMON = frozenset({"daemon_not_running", "daemon_timeout", "daemon_gone", "daemon_start_failed"})

REPORT = "please report it: run again with MODELPROXY_DEBUG=1 and send what it prints"


class Fault(Exception):
    """A refusal: what and why (`message`), and what to do next (`hint`). Scripts key on `code`."""

    def __init__(self, code: str, message: str, hint: str = "", *, env: str = "", provider: str = "") -> None:
        super().__init__(message)
        self.env = env
        """The variable whose value the supervisor lacks; ours may have it."""
        self.provider = provider
        """Whose key it would be."""
        self.code = code
        self.message = message
        self.hint = hint

    def __repr__(self) -> str:
        return f"<Fault {self.code}: {self.message}>"

    @property
    def exit_code(self) -> int:
        if self.code in _USAGE:
            return EXIT_USAGE
        return EXIT_NO_DAEMON if self.code in _NO_DAEMON else EXIT_FAILED

    def document(self) -> dict[str, Any]:
        return {"error": {"code": self.code, "message": self.message, "hint": self.hint}}


def usage(message: str, hint: str = "") -> Fault:
    """A fault in what the user typed."""
    return Fault("usage", message, hint)


def talk(text: str) -> None:
    """Say something to the person at the terminal; never part of the data on stdout."""
    if sys.stderr is not None:
        sys.stderr.write(printable(text) + "\n")
        sys.stderr.flush()


def say(text: str) -> None:
    """Print one line of data. Flushed at once: a reader of a stream waits for it, and a closed pipe shows."""
    if sys.stdout is not None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def say_part(text: str) -> None:
    """Print a piece of text as it comes."""
    if sys.stdout is not None:
        sys.stdout.write(text)
        sys.stdout.flush()


def say_json(value: object) -> None:
    """Print one JSON document on one line."""
    import json

    say(json.dumps(value))


def printable(text: str) -> str:
    """`text` without what could steer a terminal: it may hold a provider's or a stranger's words."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else "�" for char in text)


def show(fault: Fault, *, as_json: bool) -> int:
    """Print `fault` where this command's users look for it; the exit code."""
    if as_json:
        say_json(fault.document())
    else:
        talk(f"error: {fault.message}")
        if fault.hint:
            talk(f"hint: {fault.hint}")
    return fault.exit_code


def guard(command: Callable[[], int], *, as_json: bool) -> int:
    """Run a whole command: whatever happens, the user reads a sentence and never a traceback."""
    try:
        _tolerate_any_text()
        return _answer(command, as_json=as_json)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `| head` has read enough: not a failure
        _forget_stdout()
        return EXIT_OK
    except OSError as error:
        if error.errno != errno.ENOSPC:
            return _unexpected(error, as_json=as_json)
        _forget_stdout()
        return _full()
    except Exception as error:  # the last resort, see the docstring
        return _unexpected(error, as_json=as_json)


def _answer(command: Callable[[], int], *, as_json: bool) -> int:
    try:
        code = command()
    except Fault as fault:
        code = show(fault, as_json=as_json)
    if sys.stdout is not None:
        sys.stdout.flush()  # here, where a full disk can still be said, and not at the interpreter's end
    return code


def _unexpected(error: Exception, *, as_json: bool) -> int:
    if os.environ.get("MODELPROXY_DEBUG"):
        raise error
    what = f"unexpected {type(error).__name__}: {error}"
    try:
        return show(Fault("internal", what, REPORT), as_json=as_json)
    except OSError:  # not even that can be written: a full disk behind stdout
        return EXIT_FAILED


def _full() -> int:
    try:
        talk("error: no space left where the output was to go; what was asked for may have been done")
    except OSError:
        pass  # standard error goes there as well
    return EXIT_FAILED


def _tolerate_any_text() -> None:
    """A terminal without UTF-8 shows `\\u2026` rather than ending the command with an error."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _forget_stdout() -> None:
    """Let the interpreter's last flush go nowhere, or it would complain about the closed pipe as well."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
