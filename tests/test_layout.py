"""Each source module has its own test file, in the place where one would look for it."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("supervisor", "worker", "ctl")

# module -> why it has no test file of its own. This list only shrinks: a test file that comes takes its line away.
WITHOUT = {
    # Three lines that call the module beside them.
    "supervisor/__main__.py": "calls daemon.main",
    # Real processes and sockets: tests/e2e and tests/faults drive them from outside.
    "supervisor/daemon.py": "driven by tests/e2e and tests/faults",
    "supervisor/holder.py": "driven by tests/supervisor/test_custody.py",
    "worker/__main__.py": "driven by every test that starts a worker",
    # Data without decisions.
    "worker/dialects/seam.py": "the types between handler and dialects",
    "worker/wire/asks.py": "the types of a request; tests/worker/test_anthropic.py reads them",
    "worker/wire/items.py": "the types of an answer; tests/worker/test_anthropic.py writes them",
    # Being written.
}


def modules() -> set[str]:
    """`worker/wire/sse.py` and the like."""
    return {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    }


def has_test(module: str) -> bool:
    """`worker/wire/sse.py` has `tests/worker/test_sse.py`, `worker/__main__.py` has `test_main.py`."""
    path = Path(module)
    return (ROOT / "tests" / path.parts[0] / f"test_{path.stem.strip('_')}.py").exists()


def test_every_module_has_its_test_file() -> None:
    """Whoever changes `sse.py` looks into `test_sse.py`, and what is not there is not tested."""
    assert {module for module in modules() if not has_test(module)} - WITHOUT.keys() == set()


def test_the_exceptions_shrink() -> None:
    """A module that has its tests now, or is gone, leaves the list."""
    assert {module for module in WITHOUT if module not in modules() or has_test(module)} == set()
