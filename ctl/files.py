"""Writing a small file of the user's as a whole, for nobody else to read."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .faults import Fault


def replace(file: Path, text: str) -> None:
    """By rename: a crash leaves the old file or the new one. A link stays a link. 0600, its folder 0700."""
    target = file.resolve() if file.is_symlink() else file
    fresh = target.with_name(f"{target.name}.{os.getpid()}.new")
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as out:
            os.fchmod(out.fileno(), 0o600)
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        fresh.rename(target)
    except OSError as error:
        _forget(fresh)
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


def _forget(file: Path) -> None:
    try:
        file.unlink()
    except OSError:
        pass  # it was never made, or its folder is none
