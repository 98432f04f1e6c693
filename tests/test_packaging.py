"""What is shipped: the wheel's content, the lock files, and that supervisord can live beside us."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

from modelproxy.worker import __version__

ROOT = Path(__file__).parent.parent
PACKAGES = ("supervisor", "worker", "ctl")
UNITS = ("systemd/modelproxy.service", "systemd/modelproxy.socket")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCKS = {level: ROOT / "requirements" / f"{level}.lock" for level in ("runtime", "dev")}


def run(*command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    quiet = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    return subprocess.run(
        command, cwd=cwd, env=quiet, capture_output=True, text=True, timeout=300, check=False
    )


# --- the wheel ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: a build folder left in the checkout would be packed as well, stale modules and all."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in (*PACKAGES, "systemd", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    built = run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        ".",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        target,
        cwd=source,
    )

    assert built.returncode == 0, built.stderr
    return next(target.glob("*.whl"))


@pytest.fixture(scope="module")
def content(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.mark.slow
def test_the_wheel_holds_our_packages_and_nothing_else(content: set[str]) -> None:
    """Every module and the units, under the umbrella; no tests, no scripts, no bare `supervisor`."""
    expected = {
        f"modelproxy/{path.relative_to(ROOT)}"
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    } | {f"modelproxy/{name}" for name in UNITS}
    about = f"modelproxy-{__version__}.dist-info/"

    assert {name for name in content if not name.startswith(about)} == expected


@pytest.mark.slow
def test_the_wheel_says_what_it_is(wheel: Path, content: set[str]) -> None:
    """Licence, both commands, and one version everywhere."""
    about = f"modelproxy-{__version__}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"{about}/METADATA").decode()
        commands = archive.read(f"{about}/entry_points.txt").decode()

    assert f"{about}/licenses/LICENSE" in content
    assert f"\nVersion: {__version__}\n" in metadata
    assert "\nLicense-Expression: MIT\n" in metadata
    assert {line.partition(" ")[0] for line in commands.splitlines() if "=" in line} == {
        "proxyctl",
        "start-proxy",
    }


@pytest.mark.slow
def test_installs_beside_supervisord(wheel: Path, tmp_path: Path) -> None:
    """The folder is called `supervisor` here, and so is the package of PyPI's supervisord: both must work."""
    downloads = tmp_path / "downloads"
    fetched = run(
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", downloads, "supervisor"
    )
    if fetched.returncode:
        pytest.skip(f"the package index cannot be reached: {fetched.stderr.strip()[-200:]}")
    home = tmp_path / "venv"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    locked = run(
        python, "-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps", "-r", LOCKS["runtime"]
    )
    both = run(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel, *downloads.iterdir())
    ours = run(home / "bin" / "proxyctl", "--version")
    theirs = run(python, "-P", "-c", "import supervisor, supervisor.options; print(supervisor.__file__)")
    neighbour = run(python, "-P", "-c", "from modelproxy.supervisor import daemon; print(daemon.__file__)")

    assert locked.returncode == 0, locked.stderr
    assert both.returncode == 0, both.stderr
    assert ours.stdout == f"proxyctl {__version__}\n"
    assert theirs.stdout.endswith("site-packages/supervisor/__init__.py\n"), theirs.stderr
    assert neighbour.stdout.endswith("site-packages/modelproxy/supervisor/daemon.py\n"), neighbour.stderr


# --- the lock files -------------------------------------------------------------------------------------


def locked(level: str) -> dict[str, list[str]]:
    """name==version -> its hashes."""
    text = LOCKS[level].read_text(encoding="utf-8").replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        if line and not line.lstrip().startswith("#"):
            requirement, *hashes = line.split()
            found[requirement] = hashes
    return found


@pytest.mark.parametrize("level", LOCKS)
def test_every_locked_package_has_hashes_and_no_address(level: str) -> None:
    """A lock file must mean the same on every machine, whichever index it asks."""
    text = LOCKS[level].read_text(encoding="utf-8")

    assert all(
        hashes and all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", one) for one in hashes)
        for hashes in locked(level).values()
    )
    assert not re.search(
        r"://|^\s*-[if]\b|--(extra-)?index-url|--find-links|--trusted-host| /", text, re.MULTILINE
    )


def test_dev_is_runtime_and_more() -> None:
    """The tests run on the very versions that users get."""
    assert locked("runtime").items() <= locked("dev").items()


@pytest.mark.parametrize("level", LOCKS)
def test_what_is_declared_is_locked(level: str) -> None:
    """A dependency added without `scripts/lock` would be missing in CI and on every checkout."""
    declared = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]]
    if level == "dev":
        declared += PROJECT["project"]["optional-dependencies"]["dev"]
    names = {re.split(r"[<>=~! ]", one, maxsplit=1)[0] for one in declared}

    assert names <= {one.partition("==")[0] for one in locked(level)}


def test_the_version_is_said_once_in_meaning() -> None:
    """pyproject.toml and the package agree."""
    assert PROJECT["project"]["version"] == __version__


def test_every_dependency_has_its_reason() -> None:
    """A line of comment above each: what it is for, or why this bound."""
    lines = [line.strip() for line in (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()]
    start, end = lines.index("dependencies = ["), lines.index("[project.scripts]")
    bare = [
        line
        for before, line in zip(lines[start:end], lines[start + 1 : end], strict=False)
        if line.startswith('"') and not before.startswith("#")
    ]

    assert bare == []


def test_every_lint_exemption_has_its_reason() -> None:
    """On the same line, as everywhere."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = text.partition("[tool.ruff.lint]")[2]
    exemptions = re.findall(
        r'^ {4}"[A-Z]+\d+",.*|^"[^"]+\*\*" = .*|^max-line-length.*', section, re.MULTILINE
    )

    assert exemptions
    assert [line for line in exemptions if "# " not in line] == []
