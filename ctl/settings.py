"""The settings that hold for whoever types a command: the user's file, the project's, and the environment.

The project's file is `.modelproxy.toml` in the folder where one is. Whoever wrote the project wrote it, so
what decides where keys and prompts go is left out of it, with a warning, unless its user has trusted it as it
stands (`proxyctl config trust`): trust is kept by path and content, and ends when either changes. What leads
to a provider that is left out so goes with it (`withheld`), and only who needs that is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs

from modelproxy.supervisor import aliases, layers
from modelproxy.supervisor.paths import Paths
from modelproxy.supervisor.reading import (
    ConfigError,
    Problem,
    checked,
    line_of,
    load,
    not_utf8,
    placed,
    shown,
)
from modelproxy.supervisor.schema import dotted
from modelproxy.supervisor.toml_lines import Path as Key
from modelproxy.supervisor.toml_lines import lines_of
from modelproxy.supervisor.withheld import Entry, Withheld, lacking, without

from .faults import Fault, talk
from .files import alone, replace

PROJECT_FILE = ".modelproxy.toml"


@attrs.frozen
class Wrong:
    """A problem and the file that it is in."""

    file: str
    problem: Problem

    def __str__(self) -> str:
        return placed(self.file, self.problem)


@attrs.frozen
class Settings:
    """What holds, and all that is wrong with it."""

    layers: list[layers.Layer]
    """From the weakest to the strongest; only files that are there."""
    wrong: list[Wrong]
    warnings: list[str]
    values: dict[str, Any]
    """As the program wants them; what is wrong is missing."""
    withheld: Withheld = attrs.Factory(Withheld)
    """What the project's file says in vain, for want of trust."""

    def refuse_withheld(self, text: str) -> None:
        """A Fault for a model's name that is known, and does not count for want of trust."""
        entry = self.withheld.named(text)
        if entry is not None and not (entry.path[0] != "providers" and self._stands(text)):
            raise self.untrusted(entry)

    def refuse_withheld_key(self, path: Key) -> None:
        """The same for a key of the configuration."""
        provider = str(path[1]) if path[:1] == ("providers",) and len(path) > 1 else ""
        entry = next((one for one in self.withheld.entries if one.path[: len(path)] == path), None)
        entry = entry or self.withheld.named(f"{provider}/…")
        if entry is not None:
            raise self.untrusted(entry)

    def _stands(self, text: str) -> bool:
        """Whether the name has another meaning here, which counts."""
        return text in self.table("proxies") or aliases.find(text, self.table("aliases")) is not None

    def untrusted(self, entry: Entry) -> Fault:
        file = project_file()
        said = "" if entry.path[0] == "providers" else f"{dotted(entry.path)} = {shown(entry.target)}: "
        where = next(
            (_at(layer, entry.path) for layer in self.layers if layer.origin == str(file)), str(file)
        )
        hint = f"look into {file} first: it says where keys and prompts go"
        return Fault("bad_config", f"{where}: {said}{self.withheld.sentence(entry.provider)}", hint)

    @property
    def document(self) -> dict[str, Any]:
        """As it stands in the files."""
        return merged(self.layers)

    def table(self, *path: str) -> dict[str, Any]:
        """A table of `values`, without what is wrong in it."""
        here: Any = self.values
        for part in path:
            here = (here or {}).get(part)
        return {key: value for key, value in (here or {}).items() if value is not None}


def read(paths: Paths, *, trust_project: bool = False, file: Path | None = None) -> Settings:
    """Everything that says something here, in this folder and this shell; `file`: another project's."""
    wrong: list[Wrong] = []
    warnings: list[str] = []
    file = file or project_file()
    own, project, shell = _file(paths.config_file, wrong), _file(file, wrong), layers.environment(os.environ)
    environment = layers.Layer("environment", shell) if shell else None
    held = Withheld()
    if project is not None:
        trusted = trust_project or is_trusted(paths, file)
        project, environment, held = _by_trust(own, project, environment, warnings, trusted=trusted)
    present = [layer for layer in (own, project, environment) if layer is not None]
    values, problems = checked(merged(present))
    wrong += [_located(problem, present) for problem in problems]
    wrong.sort(key=lambda one: (one.file, one.problem.line or 0))
    return Settings(present, wrong, warnings, values, held)


def merged(present: Iterable[layers.Layer | None]) -> dict[str, Any]:
    """As it stands in these files, from the weakest to the strongest."""
    document: dict[str, Any] = {}
    for layer in present:
        document = document if layer is None else layers.merged(document, layer.document)
    return document


def overlay(paths: Paths, wanted: Iterable[str] = (), *, trust_project: bool = False) -> dict[str, Any]:
    """What this folder and this shell say over the user's file, which the supervisor reads itself.

    A project's file with mistakes is refused here, where its lines are known; so is who wants what is withheld.
    """
    if not project_file().exists():
        return layers.environment(os.environ)
    settings = read(paths, trust_project=trust_project)
    own = str(paths.config_file)
    ours = [wrong for wrong in settings.wrong if wrong.file != own]
    if ours:
        raise bad_config(ours)
    for text in wanted:
        settings.refuse_withheld(text)
    for warning in settings.warnings:
        talk(f"warning: {warning}")
    return merged(layer for layer in settings.layers if layer.origin != own)


def bad_config(wrong: list[Wrong]) -> Fault:
    """For a command that needs good settings: the first problem, and where the others are told."""
    more = f"; and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return Fault("bad_config", f"{wrong[0]}{more}", "mend it; proxyctl config validate checks all of it")


def project_file() -> Path:
    try:
        return Path.cwd() / PROJECT_FILE
    except OSError:  # the present folder has been removed
        return Path("/") / PROJECT_FILE


def _by_trust(
    own: layers.Layer | None,
    project: layers.Layer,
    environment: layers.Layer | None,
    warnings: list[str],
    *,
    trusted: bool,
) -> tuple[layers.Layer, layers.Layer | None, Withheld]:
    """The project's layer and the shell's with what counts of them, and what does not."""
    document, refused = layers.admitted(project.document, trusted=trusted)
    admitted = attrs.evolve(project, document=document)
    said = project.document.get("providers") if ("providers",) in refused else None
    tables = list(said) if isinstance(said, dict) else []
    missing = lacking(project.document if tables else {}, merged([own]))
    known = merged([own, admitted, environment])
    document, entries = without(document, known, missing)
    admitted = attrs.evolve(project, document=document)
    if environment is not None:
        shell, more = without(environment.document, known, missing)
        environment, entries = attrs.evolve(environment, document=shell), [*entries, *more]
    held = Withheld(missing, tuple(entries))
    warnings += [f"{_at(project, ('providers', name))}: {held.sentence(name)}" for name in tables]
    for path in refused:
        hint = (
            "belongs in your own file"
            if trusted
            else f"needs your trust: proxyctl config trust {project.origin}"
        )
        if path != ("providers",) or not tables:
            warnings.append(f"{_at(project, path)}: {dotted(path)} is left out: it {hint}")
    return admitted, environment, held


def _at(layer: layers.Layer, path: Key) -> str:
    return f"{layer.origin}:{line_of(path, layer.lines)}"


def _file(file: Path, wrong: list[Wrong]) -> layers.Layer | None:
    """None when it is not there or nothing can be read from it."""
    try:
        text = file.read_text(encoding="utf-8")
        return layers.Layer(str(file), load(text), lines_of(text))
    except FileNotFoundError:
        return None
    except OSError as error:
        wrong.append(Wrong(str(file), Problem("", f"cannot be read: {error.strerror}")))
    except UnicodeDecodeError as error:
        wrong.append(Wrong(str(file), not_utf8(error)))
    except ConfigError as error:
        wrong.extend(Wrong(str(file), problem) for problem in error.problems)
    return None


def _located(problem: Problem, present: list[layers.Layer]) -> Wrong:
    """In the strongest file that says it; `present` holds at least that one."""
    saying = [layer for layer in present if layers.says(layer.document, problem.at)]
    layer = saying[-1] if saying else present[-1]
    return Wrong(
        layers.said_by(layer, problem.at), attrs.evolve(problem, line=line_of(problem.at, layer.lines))
    )


# --- trust -------------------------------------------------------------------------------------------------


def is_trusted(paths: Paths, file: Path) -> bool:
    """As it stands now, and where it stands."""
    try:
        return trusted(paths).get(str(file.resolve())) == _digest(file)
    except OSError:
        return False


def trusted(paths: Paths) -> dict[str, str]:
    """Path → digest of its content. A file that is spoilt means no trust."""
    try:
        document = json.loads(paths.trust_file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def trust(paths: Paths, file: Path, *, wanted: bool = True) -> None:
    with alone(paths.trust_file):
        known, place = trusted(paths), str(file.resolve())
        if wanted:
            try:
                known[place] = _digest(file)
            except OSError as error:
                hint = f"a project says its own in {PROJECT_FILE}, in the folder where you are"
                raise Fault("usage", f"{file} cannot be read: {error.strerror}", hint) from None
            _refuse_mistakes(paths, file)
        elif known.pop(place, None) is None:
            hint = f"trusted are {', '.join(known)}" if known else "no file is trusted"
            raise Fault("not_set", f"{file} was not trusted", hint)
        replace(paths.trust_file, json.dumps(known, indent=1) + "\n")


def _refuse_mistakes(paths: Paths, file: Path) -> None:
    wrong = read(paths, trust_project=True, file=file).wrong
    if any(one.file == str(file) for one in wrong):
        fault = bad_config(wrong)
        fault.hint = (
            "mend it first, for trust ends when the file changes; proxyctl config validate checks all of it"
        )
        raise fault


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
