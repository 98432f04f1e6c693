"""Writing a small file of the user's as a whole, for nobody else to read.

Whoever changes one holds `alone` from before it is read until it is written: what two of our commands change at the
same time is there twice.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modelproxy.supervisor import paths

from .faults import Fault


def replace(file: Path, text: str) -> None:
    """As `paths.replace`, with `alone` held; a link stays a link."""
    try:
        paths.replace(file.resolve() if file.is_symlink() else file, text.encode())
    except OSError as error:
        raise Fault("bad_config", f"cannot write {file}: {error.strerror}", "nothing was changed") from None


@contextmanager
def alone(file: Path) -> Iterator[None]:
    """Nobody else of us changes a file in this folder meanwhile: ten commands at once lose nothing."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Fault("bad_config", f"cannot write {file}: {error.strerror}", "nothing was changed") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
