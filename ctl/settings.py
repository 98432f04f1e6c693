"""The settings that hold for whoever types a command: the user's file, the project's, and the environment.

The project's file is `.modelproxy.toml` in the folder where one is. Whoever wrote the project wrote it, so
what decides where keys and prompts go is left out of it, with a warning, unless its user has trusted it as it
stands (`proxyctl config trust`): trust is kept by path and content, and ends when either changes.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import attrs

from modelproxy.supervisor import layers
from modelproxy.supervisor.paths import Paths
from modelproxy.supervisor.reading import ConfigError, Problem, checked, line_of, load, not_utf8
from modelproxy.supervisor.schema import dotted
from modelproxy.supervisor.toml_lines import lines_of

from .faults import Fault, talk
from .files import replace

PROJECT_FILE = ".modelproxy.toml"


@attrs.frozen
class Wrong:
    """A problem and the file that it is in."""

    file: str
    problem: Problem

    def __str__(self) -> str:
        line = f":{self.problem.line}" if self.problem.line is not None else ""
        return f"{self.file}{line}: {attrs.evolve(self.problem, line=None)}"


@attrs.frozen
class Settings:
    """What holds, and all that is wrong with it."""

    layers: list[layers.Layer]
    """From the weakest to the strongest; only files that are there."""
    wrong: list[Wrong]
    warnings: list[str]
    values: dict[str, Any]
    """As the program wants them; what is wrong is missing."""

    @property
    def document(self) -> dict[str, Any]:
        """As it stands in the files."""
        found: dict[str, Any] = {}
        for layer in self.layers:
            found = layers.merged(found, layer.document)
        return found

    def table(self, *path: str) -> dict[str, Any]:
        """A table of `values`, without what is wrong in it."""
        here: Any = self.values
        for part in path:
            here = (here or {}).get(part)
        return {key: value for key, value in (here or {}).items() if value is not None}


def read(paths: Paths, *, trust_project: bool = False) -> Settings:
    """Everything that says something here, in this folder and this shell."""
    wrong: list[Wrong] = []
    warnings: list[str] = []
    found = [_file(paths.config_file, wrong)]
    project = project_file()
    if project.exists():
        trusted = trust_project or is_trusted(paths, project)
        found.append(_project(project, wrong, warnings, trusted=trusted))
    environment = layers.environment(os.environ)
    if environment:
        found.append(layers.Layer("environment", environment))
    present = [layer for layer in found if layer is not None]
    document: dict[str, Any] = {}
    for layer in present:
        document = layers.merged(document, layer.document)
    values, problems = checked(document)
    wrong += [_located(problem, present) for problem in problems]
    wrong.sort(key=lambda one: (one.file, one.problem.line or 0))
    return Settings(present, wrong, warnings, values)


def overlay(paths: Paths, *, trust_project: bool = False) -> dict[str, Any]:
    """What this folder and this shell say over the user's file, which the supervisor reads itself.

    A project's file with mistakes is refused here, where its lines are known.
    """
    if not project_file().exists():
        return layers.environment(os.environ)
    settings = read(paths, trust_project=trust_project)
    own = str(paths.config_file)
    ours = [wrong for wrong in settings.wrong if wrong.file != own]
    if ours:
        raise bad_config(ours)
    for warning in settings.warnings:
        talk(f"warning: {warning}")
    found: dict[str, Any] = {}
    for layer in settings.layers:
        if layer.origin != own:
            found = layers.merged(found, layer.document)
    return found


def bad_config(wrong: list[Wrong]) -> Fault:
    """For a command that needs good settings: the first problem, and where the others are told."""
    more = f"; and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return Fault("bad_config", f"{wrong[0]}{more}", "mend it; proxyctl config validate checks all of it")


def project_file() -> Path:
    try:
        return Path.cwd() / PROJECT_FILE
    except OSError:  # the present folder has been removed
        return Path("/") / PROJECT_FILE


def _project(file: Path, wrong: list[Wrong], warnings: list[str], *, trusted: bool) -> layers.Layer | None:
    layer = _file(file, wrong)
    if layer is None:
        return None
    document, refused = layers.admitted(layer.document, trusted=trusted)
    for path in refused:
        line = line_of(path, layer.lines)
        hint = "belongs in your own file" if trusted else f"needs your trust: proxyctl config trust {file}"
        warnings.append(f"{file}:{line}: {dotted(path)} is left out: it {hint}")
    return layers.Layer(layer.origin, document, layer.lines)


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
    known = {path: digest for path, digest in trusted(paths).items() if path != str(file.resolve())}
    if wanted:
        try:
            known[str(file.resolve())] = _digest(file)
        except OSError as error:
            hint = f"a project says its own in {PROJECT_FILE}, in the folder where you are"
            raise Fault("usage", f"{file} cannot be read: {error.strerror}", hint) from None
    replace(paths.trust_file, json.dumps(known, indent=1) + "\n")


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
