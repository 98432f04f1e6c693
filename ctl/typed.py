"""What the user typed, checked before anybody is asked. Mostly pure; keys are read here too.

Checked on this side as well as in the supervisor, so that a typing error costs no daemon.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from .faults import MAX_GRACE_S, MAX_IDLE_STOP_S, MIN_MAX_RSS, Fault, usage

MODEL_FORM = "Expected: provider/model-name"

LONGEST_AGE_S = 100 * 366 * 86400.0

_SIZES = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}
_MOST_MEMORY = 2**60
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def model_id(text: str) -> str:
    """`provider/model-name`; the first slash parts them."""
    provider, _, model = text.partition("/")
    if not provider or not model or not all(char.isprintable() and not char.isspace() for char in text):
        raise Fault("bad_model_id", f'Invalid model "{text}". {MODEL_FORM}', "for example ollama/codellama")
    return text


def port(text: str) -> int:
    """A TCP port; 0 lets the system choose a free one."""
    if not (text.isascii() and text.isdigit()) or len(text) > 5 or int(text) > 65535:
        raise Fault("bad_port", f'Invalid port "{text}": expected a number from 0 to 65535')
    return int(text)


def target(text: str) -> str:
    """What to act on. Empty is what a shell makes of an unset variable, and no proxy's name."""
    if not text:
        raise usage("The target is empty", "proxyctl ps lists what there is")
    return text


def agent(text: str | None) -> str | None:
    """Its name goes into addresses and the ledger."""
    if text is not None and not (text.strip() and text.isascii() and text.isprintable() and len(text) <= 200):
        raise usage(f'"{text}" is not the name of an agent', "for example code-reviewer")
    return text


def pid_file(text: str) -> str:
    """An absolute path where a file can be made: a supervisor that cannot would only log it."""
    try:
        path = os.path.abspath(os.path.expanduser(text))
    except OSError as error:  # the present folder has been removed
        raise usage(f"Cannot tell where {text} is: {error.strerror}") from None
    folder = os.path.dirname(path)
    if not text or "\0" in path or os.path.isdir(path):
        raise usage(f'Cannot write a pid file at "{text}": it must be the name of a file')
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
        raise usage(f"Cannot write a pid file at {path}: {folder} is not a folder that you can write to")
    return path


def duration(text: str, most: float = MAX_GRACE_S) -> float:
    """Seconds: `30`, `30s`, `2m`, `500ms`, `1.5h`."""
    number = text.strip().rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = text.strip()[len(number) :]
    try:
        seconds = _digits(number.strip()) * (_UNITS[unit] if unit else 1.0)
    except (ValueError, KeyError):
        raise usage(f'Invalid duration "{text}"', "for example 30, 30s, 2m or 500ms") from None
    if seconds > most:
        raise usage(f'The duration "{text}" is too long: at most {most / 3600:g}h')
    return seconds


def idle_stop(text: str) -> float:
    """Seconds without a request; 0: never."""
    seconds = duration(text, MAX_IDLE_STOP_S)
    if 0 < seconds < 1:
        raise usage(f'The duration "{text}" is too short: at least 1s, or 0 for never')
    return seconds


def size(text: str) -> int:
    """Bytes of memory: `500M`, `1.5G`, `512MiB`; 0: no limit. All units are powers of 1024."""
    found = _bytes(text)
    if found and not MIN_MAX_RSS <= found <= _MOST_MEMORY:
        raise usage(
            f'The size "{text}" is no limit for a worker: at least {MIN_MAX_RSS >> 20}M, or 0 for none'
        )
    return found


def _bytes(text: str) -> int:
    number = text.strip().rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    unit = text.strip()[len(number) :].upper().removesuffix("B").removesuffix("I")
    try:
        return int(_digits(number.strip()) * _SIZES[unit])
    except (ValueError, KeyError):
        raise usage(f'Invalid size "{text}"', "for example 500M or 2G") from None


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise usage(f'"{text}" is not a whole number from 0 on')
    return int(text)


def fallback(texts: list[str] | None, check: Callable[[str], str]) -> list[str] | None:
    """What passes `check`, in its order; `none` alone is an empty list, nothing said is None."""
    if not texts:
        return None
    if texts == ["none"]:
        return []
    if "none" in texts:
        raise usage("--fallback none stands alone: it takes all of them away")
    return [text if text == OWN else check(text) for text in texts]


OWN = "anthropic"
"""As a fallback: the caller's own request."""

LIMITS: dict[str, tuple[str, Callable[[str], float], float, float]] = {
    "max_concurrent": ("max_concurrent", _whole, 1, 10_000),
    "rpm": ("rpm", _whole, 1, 1_000_000),
    "queue_size": ("queue_size", _whole, 1, 100_000),
    "queue_timeout": ("queue_timeout_s", duration, 0.1, 86400),
    "max_body": ("max_body", _bytes, 1024, 1024**3),
    "max_context": ("max_context", _whole, 100, 100_000_000),
    "request_timeout": ("request_timeout_s", duration, 0.1, 86400),
}
"""Its name in the API, how it is read, the least and the most of it; 0 is no limit. As `supervisor.quotas` says."""


def limits(said: dict[str, str | None]) -> dict[str, float]:
    """Limits of a proxy by their names in the API; those that were not said are left out."""
    return {LIMITS[name][0]: limit(name, text) for name, text in said.items() if text is not None}


def limit(name: str, text: str) -> float:
    """One limit; `none` and 0 take it away."""
    _, read, least, most = LIMITS[name]
    try:
        value = 0 if text == "none" else read(text)
    except Fault as fault:
        hint = fault.hint or f"{least:g} to {most:.0f}, or none for no limit"
        raise usage(f"{name}: {fault.message}", hint) from None
    if value and not least <= value <= most:
        raise usage(f"{name} must be from {least:g} to {most:.0f}, or 0 for no limit, not {text}")
    return value


def settings(words: list[str]) -> dict[str, float]:
    """`max_concurrent=2 rpm=60 queue_timeout=1m` as limits."""
    said: dict[str, str | None] = {}
    for word in words:
        name, equals, text = word.partition("=")
        name = name.replace("-", "_")
        if not equals or not text:
            raise usage(f'Cannot read "{word}": expected name=value', "for example max_concurrent=2")
        if name not in LIMITS:
            raise usage(f'There is no limit "{name}"', f"known are {', '.join(LIMITS)}")
        if name in said:
            raise usage(f"{name} is given twice")
        said[name] = text
    return limits(said)


def _digits(text: str) -> float:
    # float() also takes `nan`, `1e9` and `١`.
    if not text.isascii() or not text.replace(".", "", 1).isdigit():
        raise ValueError
    return float(text)


def api_key(key: str | None, variable: str | None, file: str | None) -> str | None:
    """The provider's key from wherever the user says it is; None when nothing was said."""
    if sum(source is not None for source in (key, variable, file)) > 1:
        raise usage("Give only one of --api-key, --api-key-env and --api-key-file")
    if key is not None:
        return _key(_from_stdin(), "standard input") if key == "-" else _key(key, "--api-key")
    if variable is not None:
        if variable not in os.environ:
            raise usage(f"The environment variable {variable} is not set")
        return _key(os.environ[variable], variable)
    return None if file is None else _key(_from_file(file), file)


def _key(text: str, source: str) -> str:
    key = text.strip()
    if not key:
        raise usage(f"The API key from {source} is empty")
    if not key.isascii() or not key.isprintable():
        # It travels in an HTTP header. The key itself is never repeated.
        raise usage(f"The API key from {source} holds characters that no key has")
    return key


def _from_stdin() -> str:
    if sys.stdin is None:
        raise usage("There is no standard input to read the API key from")
    if not sys.stdin.isatty():
        return sys.stdin.readline()
    import getpass

    try:
        return getpass.getpass("API key: ")
    except EOFError:  # Ctrl-D: nothing was typed
        return ""


def _from_file(name: str) -> str:
    try:
        with open(os.path.expanduser(name), encoding="utf-8") as file:
            return file.read(64 * 1024)
    except OSError as error:
        raise usage(f"Cannot read the API key from {name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise usage(f"Cannot read the API key from {name}: it is not text") from None


def without_key(argv: list[str]) -> tuple[list[str], str] | None:
    """`argv` with `--api-key -` instead of a key that stands in it, and that key; None without one."""
    for index, word in enumerate(argv):
        if word == "--":
            break
        flag, equals, value = word.partition("=")
        if flag != "--api-key" or value == "-":
            continue
        if equals:
            return [*argv[:index], "--api-key=-", *argv[index + 1 :]], value
        if index + 1 < len(argv) and argv[index + 1] != "-":
            return [*argv[:index], "--api-key", "-", *argv[index + 2 :]], argv[index + 1]
    return None
