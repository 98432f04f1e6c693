"""Who may import whom. The rules stand in tables; the code is read, never imported.

Three processes, three packages. What they share is said in few modules, so that a change in one process
cannot reach another by accident, and so that `proxyctl ps` does not pay for an event loop.
"""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("supervisor", "worker", "ctl")

# package -> what it may import of the other two; a package's own bare name stands for `__version__`.
ALLOWED = {
    "ctl": {
        "supervisor.protocol",
        "supervisor.paths",
        "supervisor.words",
        "worker.costs",
        "worker.ledger",
        "worker.model_ids",
        # The configuration, which both read: pure, but for the fetching of keys.
        "supervisor.aliases",
        "supervisor.config",
        "supervisor.editing",
        "supervisor.example",
        "supervisor.keys",
        "supervisor.jobs",
        "supervisor.layers",
        "supervisor.reading",
        "supervisor.schema",
        "supervisor.toml_lines",
        "supervisor.values",
        "supervisor.withheld",
    },
    "supervisor": {
        "worker",
        "worker.contract",
        "worker.costs",
        "worker.httpd",
        "worker.httpd_parse",
        "worker.ledger",
        "worker.model_ids",
    },
    "worker": set(),
}

# package -> libraries that it is not to load, because every command or every start of a worker would wait.
TOO_HEAVY = {
    "ctl": {"trio", "httpx", "cattrs", "httptools"},
    "supervisor": {"httpx", "typer", "rich"},
    "worker": {"typer", "rich", "platformdirs"},
}

# Modules that decide and do not do: all they know comes in as arguments.
PURE = (
    "ctl.environment",
    "supervisor.access",
    "supervisor.aliases",
    "supervisor.astray",
    "supervisor.changes",
    "supervisor.config",
    "supervisor.consistency",
    "supervisor.editing",
    "supervisor.example",
    "supervisor.facts",
    "supervisor.fleet",
    "supervisor.fronts",
    "supervisor.layers",
    "supervisor.policy",
    "supervisor.protocol",
    "supervisor.quotas",
    "supervisor.reading",
    "supervisor.renewal",
    "supervisor.routes",
    "supervisor.schema",
    "supervisor.tally",
    "supervisor.toml_lines",
    "supervisor.values",
    "supervisor.views",
    "supervisor.withheld",
    "supervisor.words",
    "worker.access",
    "worker.app",
    "worker.attempts",
    "worker.contract",
    "worker.dialects",
    "worker.dialects.*",
    "worker.failures",
    "worker.forms",
    "worker.forms.*",
    "worker.front",
    "worker.limits",
    "worker.lineage",
    "worker.model_ids",
    "worker.tokens",
    "worker.wire",
    "worker.wire.*",
)
IMPURE_LIBRARIES = {"trio", "httpx", "socket", "subprocess", "os", "time", "random", "sqlite3"}

NOWHERE = {
    "asyncio": "trio is the event loop here",
    "unittest.mock": "write a fake and verify it against the real thing",
    "supervisor": "the import name is modelproxy.supervisor; the bare one belongs to supervisord",
    "worker": "the import name is modelproxy.worker",
    "ctl": "the import name is modelproxy.ctl",
}


@attrs.frozen
class Import:
    """One imported module, by its full name."""

    target: str
    line: int
    relative: bool


@attrs.frozen
class Module:
    """One source file. Ours are called `supervisor.fleet`, without the umbrella."""

    name: str
    where: str
    imports: tuple[Import, ...]
    is_package: bool = False

    @property
    def top(self) -> str:
        return self.name.partition(".")[0]

    @property
    def folder(self) -> str:
        return self.name if self.is_package else self.name.rpartition(".")[0]


def names_of_ours() -> dict[str, Path]:
    """Every module of the three packages, by name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


OURS = names_of_ours()


def read(name: str, source: str, *, where: str = "planted.py", is_package: bool = False) -> Module:
    """A module's imports, also those inside functions."""
    module = Module(name, where, (), is_package)
    return attrs.evolve(module, imports=tuple(_imports(ast.parse(source), module.folder)))


def _imports(tree: ast.Module, folder: str) -> Iterator[Import]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(_short(alias.name), node.lineno, relative=False)
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, folder)
            for alias in node.names:
                deeper = f"{base}.{alias.name}"
                known = deeper in OURS or deeper in NOWHERE
                yield Import(deeper if known else base, node.lineno, relative=bool(node.level))


def _base(node: ast.ImportFrom, folder: str) -> str:
    """What stands between `from` and `import`, in full."""
    if not node.level:
        return _short(node.module or "")
    parts = folder.split(".")
    parts = parts[: len(parts) - node.level + 1]
    return ".".join([*parts, node.module] if node.module else parts)


def _short(name: str) -> str:
    """`modelproxy.worker.httpd` as `worker.httpd`; a bare `worker` keeps a mark, for it is forbidden."""
    if name.partition(".")[0] in PACKAGES:
        return f"bare {name}"
    return name.removeprefix("modelproxy.")


Rule = Callable[[Module], Iterator[str]]


def sources() -> list[Module]:
    """The three packages."""
    return [
        read(
            name,
            path.read_text(encoding="utf-8"),
            where=str(path.relative_to(ROOT)),
            is_package=path.name == "__init__.py",
        )
        for name, path in OURS.items()
    ]


def other_code() -> list[Module]:
    """Tests and benches: free in what they import of ours, not in how."""
    return [
        read("elsewhere", path.read_text(encoding="utf-8"), where=str(path.relative_to(ROOT)))
        for folder in ("tests", "bench")
        for path in sorted((ROOT / folder).rglob("*.py"))
    ]


# --- the rules: each yields one sentence per breach ---------------------------------------------------


def crossings(module: Module) -> Iterator[str]:
    """Imports of another package that are not in the table."""
    for one in module.imports:
        other = one.target.partition(".")[0]
        if other in PACKAGES and other != module.top and one.target not in ALLOWED[module.top]:
            yield f"{module.where}:{one.line}: {module.top} may not import {one.target}"


def too_heavy(module: Module) -> Iterator[str]:
    for one in module.imports:
        if one.target.partition(".")[0] in TOO_HEAVY[module.top]:
            yield f"{module.where}:{one.line}: {module.top} is to stay light, without {one.target}"


def impurities(module: Module) -> Iterator[str]:
    """What a pure module imports that is not pure itself, the standard library's impure parts included."""
    if not is_pure(module.name):
        return
    for one in module.imports:
        top = one.target.partition(".")[0]
        if top in IMPURE_LIBRARIES:
            yield f"{module.where}:{one.line}: a pure module may not import {one.target}"
        elif one.target in OURS and one.target not in PACKAGES and not is_pure(one.target):
            yield f"{module.where}:{one.line}: a pure module imports {one.target}, which is not pure"


def is_pure(name: str) -> bool:
    return name in PURE or f"{name.rpartition('.')[0]}.*" in PURE


def detours(module: Module) -> Iterator[str]:
    """Absolute imports of what lies in the same folder or below it."""
    for one in module.imports:
        if not one.relative and one.target.startswith(f"{module.folder}."):
            yield f"{module.where}:{one.line}: {one.target} is a neighbour; import it relatively"


def banned(module: Module) -> Iterator[str]:
    for one in module.imports:
        name = one.target.removeprefix("bare ")
        top = name.partition(".")[0]
        if name in NOWHERE and top not in PACKAGES:
            yield f"{module.where}:{one.line}: no {name}: {NOWHERE[name]}"
        elif top in NOWHERE and (top not in PACKAGES or one.target.startswith("bare ")):
            yield f"{module.where}:{one.line}: no {name}: {NOWHERE[top]}"


def cycle(modules: list[Module]) -> list[str]:
    """The first circle of imports, or nothing."""
    known = {module.name for module in modules}
    graph = {
        module.name: {one.target for one in module.imports if one.target in known} - {module.name}
        for module in modules
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return [str(name) for name in error.args[1]]
    return []


# --- the code holds them --------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [crossings, too_heavy, impurities, detours, banned])
def test_the_packages_keep_to_the_rule(rule: Rule) -> None:
    """Each rule, over every module of ours."""
    breaches = [text for module in sources() for text in rule(module)]

    assert breaches == []


def test_tests_and_benches_use_the_real_import_names() -> None:
    """No bare `supervisor`, no mock, no asyncio there either."""
    breaches = [text for module in other_code() for text in banned(module)]

    assert breaches == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    """A circle means that two modules are one."""
    assert cycle(sources()) == []


def test_every_name_in_the_tables_exists() -> None:
    """A rule about a module that was renamed would hold for ever."""
    named = {name.removesuffix(".*") for name in PURE} | set().union(*ALLOWED.values())

    assert set() == named - OURS.keys()


# --- and would notice -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "source", "rule"),
    [
        ("ctl.ps", "from modelproxy.supervisor import keeper", crossings),
        ("ctl.ps", "import modelproxy.supervisor.keeper", crossings),
        ("ctl.ps", "def f():\n    from modelproxy.worker.contract import Hello", crossings),
        ("supervisor.keeper", "from modelproxy.worker import handler", crossings),
        ("supervisor.keeper", "from modelproxy.ctl.client import Client", crossings),
        ("worker.serve", "from modelproxy.supervisor.paths import find", crossings),
        ("ctl.ps", "import trio", too_heavy),
        ("worker.serve", "from rich.console import Console", too_heavy),
        ("supervisor.fleet", "import time", impurities),
        ("supervisor.fleet", "from os import path", impurities),
        ("supervisor.fleet", "from . import keeper", impurities),
        ("worker.wire.sse", "from modelproxy.worker.net import Socket", impurities),
        ("worker.serve", "from modelproxy.worker.link import Link", detours),
        ("worker.serve", "from modelproxy.worker.wire import sse", detours),
        ("worker.wire.sse", "import modelproxy.worker.wire.codec", detours),
        ("worker.serve", "import asyncio.subprocess", banned),
        ("elsewhere", "from unittest import mock", banned),
        ("elsewhere", "from unittest.mock import patch", banned),
        ("elsewhere", "import supervisor", banned),
        ("elsewhere", "from worker.contract import Hello", banned),
    ],
)
def test_a_planted_breach_is_found(name: str, source: str, rule: Rule) -> None:
    """The rules are no use if they see nothing."""
    assert len(list(rule(read(name, source)))) == 1


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("ctl.ps", "from modelproxy.supervisor.paths import find"),
        ("supervisor.control", "from modelproxy.worker import __version__, httpd"),
        ("worker.dialects.echo", "from modelproxy.worker.failures import Failure"),
        ("worker.serve", "from .wire import sse"),
        ("supervisor.fleet", "from . import policy"),
    ],
)
def test_what_is_allowed_passes(name: str, source: str) -> None:
    """The other side of the table."""
    module = read(name, source)

    assert [
        text for rule in (crossings, too_heavy, impurities, detours, banned) for text in rule(module)
    ] == []


def test_a_planted_circle_is_found() -> None:
    """Three modules round a table."""
    names = ("supervisor.fleet", "supervisor.facts", "supervisor.views")
    ring = [
        read(name, f"from . import {names[index - 1].partition('.')[2]}") for index, name in enumerate(names)
    ]

    assert set(names) == set(cycle(ring))
