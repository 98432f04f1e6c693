"""The saved wanted set: written before acting, never holding a secret.

A file that cannot be read is moved to `state.json.bad` and the supervisor goes on with nothing: workers
that still serve dial in and bring their own spec, so nobody is killed for a broken file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs

from modelproxy.worker.contract import WorkerSpec, problems, strict_converter

from . import paths
from .facts import Care, Death
from .tally import Tally

VERSION = 1


@attrs.frozen
class WorkerRecord:
    """Enough to recognise a process: pid, start time and boot; enough for it to be believed: the token."""

    generation: int
    pid: int | None
    start_time: int | None
    boot_id: str
    token: str = attrs.field(repr=False)
    started_at: float | None = None


@attrs.frozen
class ProxyRecord:
    name: str
    wanted: bool
    state: str
    port: int
    spec: WorkerSpec
    """Without its secrets. (One that an earlier version wrote may have values of headers.)"""
    generation: int
    restarts: int
    needs_key: bool
    """It ran with a key."""
    workers: list[WorkerRecord]
    pid_file: str | None = None
    last_pid: int | None = None
    care: Care = attrs.Factory(Care)
    key_given: bool = True
    """A key of it came with `up` and lived in memory only; else the configuration has it."""
    key_of_shell: bool = False
    """By no flag, but as a variable of the shell that said `up`."""
    address_given: bool = True
    """Its provider's address came with `up`; earlier versions did not say."""
    kept: bool = True
    """It was not only for those who held a lease of it."""
    idle: bool = False
    """Up, and without a worker until somebody comes."""
    deaths: list[Death] = attrs.Factory(list)
    """The last of them, `at` in seconds since the epoch: another supervisor has another clock."""
    past: Tally = attrs.Factory(Tally)
    """What its workers that have ended counted; those that live say so themselves."""


@attrs.frozen
class DaemonRecord:
    """The supervisor that wrote it, and by what to recognise its process."""

    pid: int
    started_at: float
    start_time: int | None = None
    boot_id: str = ""


@attrs.frozen
class Saved:
    daemon: DaemonRecord
    proxies: list[ProxyRecord]
    written_at: float = 0.0
    version: int = VERSION


Words = dict[str, tuple[ProxyRecord, str]]
"""What stands in the file for each proxy: a record that is the same object still says the same."""

# Unknown fields are those of a newer version: going back to an older one must not cost the wishes.
_converter = strict_converter(forbid_extra_keys=False)


def save(path: Path, saved: Saved, words: Words | None = None) -> None:
    """Replace the file as a whole. With the `words` of the last time only what is new since is encoded."""
    known = {} if words is None else words
    told = [_told(record, known.get(record.name)) for record in saved.proxies]
    known.clear()
    known.update((record.name, (record, text)) for record, text in told)
    rest = _json(attrs.evolve(saved, proxies=[]))  # a text in it has its quotes escaped
    lines = ",\n".join(text for _, text in told)
    paths.replace(path, rest.replace('"proxies": []', f'"proxies": [\n{lines}\n]', 1).encode())


def _told(record: ProxyRecord, known: tuple[ProxyRecord, str] | None) -> tuple[ProxyRecord, str]:
    return known if known is not None and known[0] is record else (record, _json(record))


def _json(value: Saved | ProxyRecord) -> str:
    # Not indented: for that the standard library has an encoder in Python only, six times as slow.
    return json.dumps(_converter.unstructure(value))


def load(path: Path) -> tuple[list[ProxyRecord], str | None]:
    """What was saved, and a warning when it could not be used."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return [], None
    except OSError as error:
        return [], f"{path} cannot be read ({error.strerror}): starting with no proxies"
    try:
        return _parse(data).proxies, None
    except ValueError as error:
        spoilt = path.with_name(path.name + ".bad")
        try:
            path.rename(spoilt)
            fate = f"moved to {spoilt}"
        except OSError as trouble:
            fate = f"it will be written over, for it cannot be moved to {spoilt} ({trouble.strerror})"
        return [], f"{path.name} was not usable ({error}); {fate}, live workers are kept as they dial"


def peek(path: Path) -> list[ProxyRecord]:
    """What is saved, for one who only looks; nothing where it cannot be used."""
    try:
        return read(path)
    except (OSError, ValueError):
        return []


def author(path: Path) -> DaemonRecord | None:
    """Who has written it; None where that cannot be read."""
    try:
        return _parse(path.read_bytes()).daemon
    except (OSError, ValueError):
        return None


def read(path: Path) -> list[ProxyRecord]:
    """What is saved, and nothing is moved. OSError or ValueError when it cannot be used."""
    try:
        return _parse(path.read_bytes()).proxies
    except FileNotFoundError:
        return []


def _parse(data: bytes) -> Saved:
    try:
        document: Any = json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(document, dict):
        raise ValueError("not an object")
    if document.get("version") != VERSION:
        raise ValueError(f"version {document.get('version')!r}, this program writes {VERSION}")
    try:
        return _converter.structure(document, Saved)
    except Exception as error:  # cattrs raises groups of many types; all of them mean a bad file
        raise ValueError("; ".join(problems(error)[:3])) from None
