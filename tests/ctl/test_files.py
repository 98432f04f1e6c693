"""A file is replaced as a whole, and read by nobody else."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from modelproxy.ctl.faults import Fault
from modelproxy.ctl.files import alone, replace


def test_it_is_private_whatever_it_was(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "config.toml"
    replace(file, "one")
    file.chmod(0o644)
    replace(file, "two")

    assert file.read_text() == "two"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert os.listdir(file.parent) == ["config.toml"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    """Many keep their settings in a repository and link to them."""
    real = tmp_path / "dotfiles.toml"
    real.write_text("old")
    link = tmp_path / "config.toml"
    link.symlink_to(real)
    replace(link, "new")

    assert link.is_symlink()
    assert real.read_text() == "new"


def test_what_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")

    with pytest.raises(Fault, match="cannot write") as caught:
        replace(tmp_path / "file" / "config.toml", "y")
    assert caught.value.hint == "nothing was changed"


def test_many_at_once_lose_nothing(tmp_path: Path) -> None:
    """Each reads, adds a line and writes: without the lock the last one would win."""
    file = tmp_path / "config.toml"

    def add(number: int) -> None:
        with alone(file):
            old = file.read_text() if file.exists() else ""
            replace(file, f"{old}{number}\n")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(40)))

    assert sorted(file.read_text().split(), key=int) == [str(number) for number in range(40)]
