"""Whether the code that is installed now could take over from the supervisor that runs.

`python -m modelproxy.supervisor --check` imports every module of supervisor and worker, reads the saved state and
the configuration, and changes nothing. A supervisor that is told to restart has a new process do this first: once
it has gone there is nobody left to say that the new one cannot start.
"""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator

import trio

LIMIT_S = 30.0
_OPTION = "--check"
_PACKAGES = ("modelproxy.supervisor", "modelproxy.worker")


def main() -> int:
    """In the new process: the version on stdout, or what is wrong on stderr and exit code 1."""
    found = next(_problems(), None)
    if found is not None:
        sys.stderr.write(f"{found}\n")
        return 1
    from modelproxy.worker import __version__

    sys.stdout.write(f"{__version__}\n")
    return 0


def _problems() -> Iterator[str]:
    for name in _PACKAGES:
        try:
            _import_all(name)
        except Exception as error:  # an import runs whatever stands in the module
            yield f"{type(error).__name__} at import of {name}: {error}"
            return
    from . import config, paths, reading, state

    where = paths.find()
    try:
        state.read(where.state_file)
    except (OSError, ValueError) as error:
        yield f"it cannot use {where.state_file}: {error}"
    try:
        config.parse(where.config_file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        pass
    except config.ConfigError as error:
        yield f"it cannot use {reading.first_of(error.told(where.config_file))}"
    except (OSError, ValueError) as error:
        yield f"it cannot use {where.config_file}: {error}"


def _import_all(name: str) -> None:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, f"{name}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


async def of_installed() -> str:
    """In the supervisor that runs: the version that would take over. ValueError says why it could not."""
    command = [sys.executable, "-P", "-m", "modelproxy.supervisor", _OPTION]
    try:
        with trio.fail_after(LIMIT_S):
            done = await trio.run_process(
                command, stdin=subprocess.DEVNULL, capture_stdout=True, capture_stderr=True, check=False
            )
    except trio.TooSlowError:
        raise ValueError(f"it does not start within {LIMIT_S:g} s") from None
    except OSError as error:
        raise ValueError(f"{sys.executable} cannot be started: {error.strerror}") from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise ValueError(said[-1] if said else f"it ends with {done.returncode}")
    return done.stdout.decode(errors="replace").strip()
