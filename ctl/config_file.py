"""Changing the user's config.toml: set, unset, init, edit, import. Never to something that would be refused.

A file that is no TOML is left alone: whatever was meant by it, this is not the place to guess. A file that has
mistakes already may be changed as long as no new one comes: that is how one mends it.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs

from modelproxy.supervisor import editing, example, layers, reading, schema
from modelproxy.supervisor.paths import Paths
from modelproxy.supervisor.schema import KEY_FIELDS
from modelproxy.supervisor.toml_lines import Path as Key
from modelproxy.supervisor.toml_lines import lines_of

from . import keys
from .faults import Fault, talk, usage
from .files import alone, replace


def key_of(text: str) -> Key:
    try:
        return editing.path_of(text)
    except ValueError as error:
        raise usage(
            str(error), "proxyctl config schema KEY explains a key or table, such as proxies.coder"
        ) from None


def set_values(paths: Paths, said: Sequence[tuple[Key, str]]) -> list[Any]:
    """Set values as they were typed, all of them or none; the values."""
    values = [(path, editing.value_of(path, text)) for path, text in said]
    document = reading.load(text_of(paths.config_file))
    for path, value in values:
        _refuse_a_second_source(document, path)
        _refuse_a_loss(document, path, value)

    def edit(text: str) -> str:
        for path, value in values:
            text = editing.with_value(text, path, value)
        return text

    change(paths.config_file, edit)
    return [value for _, value in values]


def _at(document: Any, path: Key) -> Any:
    for part in path:
        document = document.get(part) if isinstance(document, dict) else None
    return document


def _refuse_a_loss(document: dict[str, Any], path: Key, value: Any) -> None:
    """`set providers {}` would take out what nobody has named."""
    there = _at(document, path)
    if isinstance(there, dict) and there and isinstance(value, dict):
        name = schema.dotted(path)
        raise usage(
            f"{name} is a table that has {', '.join(map(str, there))} in it, and is not replaced as a whole",
            f"set its keys one by one, or say proxyctl config unset {name} before",
        )


def _refuse_a_second_source(document: dict[str, Any], path: Key) -> None:
    """A provider's key comes from one place; here, where it is known which of two is meant."""
    table = _at(document, path[:-1])
    if path[-1] not in KEY_FIELDS or not isinstance(table, dict):
        return
    others = [one for one in KEY_FIELDS if one != path[-1] and one in table]
    if others:
        other = schema.dotted((*path[:-1], others[0]))
        raise usage(
            f"{schema.dotted(path[:-1])} has {others[0]} already, and a key comes from one place",
            f"proxyctl config unset {other}, then say it again",
        )


def unset(paths: Paths, path: Key) -> bool:
    """Take one value or table out; False when it was not there."""
    there = True

    def edit(old: str) -> str:
        nonlocal there
        new = editing.without(old, path)
        there = new is not None
        return old if new is None else new

    change(paths.config_file, edit)
    return there


def change(file: Path, edit: Callable[[str], str]) -> None:
    """Write what `edit` makes of the file, unless that has mistakes that were not there before."""
    with alone(file):
        old = text_of(file)
        try:
            new = edit(old)
        except ValueError as error:
            raise usage(f"{file}: {error}") from None
        refuse_new_mistakes(old, new)
        if new != old:
            replace(file, new)


def text_of(file: Path) -> str:
    """The file's text; a Fault when it cannot be changed without losing something."""
    try:
        text = file.read_text(encoding="utf-8")
        reading.load(text)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise Fault("bad_config", f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise _not_utf8(file, error) from None
    except reading.ConfigError as error:
        hint = "mend it, or move it away; it was left as it is"
        raise Fault("bad_config", error.told(file), hint) from None
    return text


def _not_utf8(file: Path, error: UnicodeDecodeError) -> Fault:
    return Fault("bad_config", reading.placed(file, reading.not_utf8(error)), "it was left as it is")


def refuse_new_mistakes(old: str, new: str) -> None:
    known = {(problem.path, problem.text) for problem in _problems(old)}
    fresh = [problem for problem in _problems(new) if (problem.path, problem.text) not in known]
    if fresh:
        # Without their lines: they are those of a file that is not written.
        told = "\n".join(str(attrs.evolve(one, line=None)) for one in fresh)
        hint = "nothing was changed"
        if any(" is missing" in one.text for one in fresh):
            hint += "; what belongs together is set together: proxyctl config set KEY VALUE KEY VALUE …"
        raise usage(told, hint)


def _problems(text: str) -> list[reading.Problem]:
    try:
        return reading.checked(reading.load(text), lines_of(text))[1]
    except reading.ConfigError as error:
        return error.problems


def init(file: Path) -> None:
    """A file with every key in it, commented out."""
    with alone(file):
        if file.exists():
            raise Fault("exists", f"{file} is there already", "proxyctl config edit changes it")
        replace(file, example.text())


def edit(file: Path) -> bool:
    """Let the user's editor have a copy; the file is replaced once the copy can be used. Whether it changed."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or ""
    if not editor and not os.isatty(0):
        raise Fault("no_editor", "there is no terminal for an editor, and EDITOR is not set", f"it is {file}")
    editor = editor or "vi"
    copy = file.with_name(f"{file.name}.edit")
    with alone(file):
        old = text_or_nothing(file)
        resumed = copy.exists()
        if resumed:
            _refuse_an_older_text(file, copy, old)
            hint = f"remove {copy} to begin with the file as it is"
            talk(f"note: this goes on with your text of last time; {hint}")
        given = text_or_nothing(copy) if resumed else old or example.text()
        replace(_begun_from(copy), old)
        replace(copy, given)
    try:
        _run_editor(editor, copy)
    except Fault as fault:
        if _nothing_typed(copy, given, resumed=resumed):
            raise
        raise Fault(fault.code, fault.message, f"{fault.hint}; your text is in {copy}") from None
    new = copy.read_text(encoding="utf-8", errors="replace")
    problems = _problems(new)
    if problems:
        hint = f"{file} is as it was; proxyctl config edit goes on with your text, which is in {copy}"
        unchanged = _nothing_typed(copy, given, resumed=resumed)
        told = "\n".join(reading.placed(file if unchanged else copy, one) for one in problems)
        raise usage(told, "nothing was changed" if unchanged else hint)
    with alone(file):
        if (now := text_or_nothing(file)) != old:
            replace(_begun_from(copy), now)
            raise Fault(
                "changed_meanwhile",
                f"{file} was changed while you edited it, and is left as it is",
                f"your text is in {copy}; see what differs: diff {file} {copy}",
            )
        if new != old:
            replace(file, new)
    _forget(copy)
    return new != old


def _begun_from(copy: Path) -> Path:
    """What the file said when the user last heard of it, beside a text that has yet to replace it."""
    return copy.with_name(f"{copy.name}.base")


def _refuse_an_older_text(file: Path, copy: Path, now: str) -> None:
    """Going on would take back what was changed since, a token that was removed for one. Told once, it is a choice."""
    base = _begun_from(copy)
    if base.exists() and text_or_nothing(base) == now:
        return
    replace(base, now)
    raise Fault(
        "changed_meanwhile",
        f"{file} has changed since your text of last time, which is in {copy}, was begun",
        f"see what differs: diff {file} {copy}; then say proxyctl config edit again to go on with that text, "
        "which replaces the file as it is now, or remove it to begin with the file",
    )


def _forget(copy: Path) -> None:
    copy.unlink(missing_ok=True)
    _begun_from(copy).unlink(missing_ok=True)


def _run_editor(editor: str, copy: Path) -> None:
    try:
        code = subprocess.run([*shlex.split(editor), str(copy)], check=False).returncode
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise Fault("no_editor", f'cannot run the editor "{editor}": {why}', "set EDITOR") from None
    if code:
        raise Fault("no_editor", f'the editor "{editor}" ended with {code}', "nothing was changed")
    if not copy.exists():
        raise Fault("no_editor", f'the editor "{editor}" has removed {copy}', "nothing was changed")


def _nothing_typed(copy: Path, given: str, *, resumed: bool) -> bool:
    """Then the copy is of no use, and is taken away: the next edit begins with the file."""
    if copy.exists() and (resumed or copy.read_text(encoding="utf-8", errors="replace") != given):
        return False
    _forget(copy)
    return True


def text_or_nothing(file: Path) -> str:
    """Also what is no TOML: an editor is how that gets mended."""
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise Fault("bad_config", f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise _not_utf8(file, error) from None


# --- the JSON that others use -----------------------------------------------------------------------------

_TAKEN = {"default": "default", "fallbackEnabled": "fallback", "agents": "agents"}


def import_json(paths: Paths, file: Path) -> dict[str, Any]:
    """Take `models.{default,fallbackEnabled,agents}` and `apiKeys` over; what was taken and what was not."""
    document = _json(file)
    models, secrets = _object(document, "models", file), _object(document, "apiKeys", file)
    wanted = {"models": {_TAKEN[key]: value for key, value in models.items() if key in _TAKEN}}
    ignored = [key for key in document if key not in ("models", "apiKeys")]
    ignored += [f"models.{key}" for key in models if key not in _TAKEN]
    # Files that were made from a template have empty keys.
    ignored += [f"apiKeys.{provider}" for provider, key in secrets.items() if key in ("", None)]
    secrets = {provider: key for provider, key in secrets.items() if key not in ("", None)}
    for provider, key in secrets.items():
        if not isinstance(key, str) or not key.strip():
            raise usage(f"{file}: apiKeys.{provider} is not a key", "a key is a text; nothing was changed")
    set_here = [path for path, value in layers.leaves(wanted) if value != {}]

    def edit(old: str) -> str:
        for path, value in layers.leaves(wanted):
            old = editing.with_value(old, path, value) if value != {} else old
        return old

    change(paths.config_file, edit)
    for provider, key in secrets.items():
        keys.set_key(paths.keys_file, provider, key.strip())
    return {"set": [schema.dotted(path) for path in set_here], "keys": sorted(secrets), "ignored": ignored}


def said(paths: Paths) -> dict[str, Any]:
    """Every value of the user's file by its key, as it stands there; nothing of one that cannot be read."""
    try:
        document = reading.load(text_of(paths.config_file))
    except (Fault, reading.ConfigError):
        return {}
    return {schema.dotted(path): value for path, value in layers.leaves(document)}


def _json(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_bytes())
    except OSError as error:
        raise usage(f"{file} cannot be read: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise usage(f"{file}:{error.lineno}: not JSON: {error.msg}") from None
    except (ValueError, RecursionError):
        raise usage(f"{file} is not JSON") from None
    if not isinstance(document, dict):
        raise usage(f"{file} holds no JSON object", 'expected {"models": {…}, "apiKeys": {…}}')
    return document


def _object(document: dict[str, Any], name: str, file: Path) -> dict[str, Any]:
    found = document.get(name, {})
    if not isinstance(found, dict):
        raise usage(f"{file}: {name} is not an object")
    return found
