"""An installation of its own, in which one version of the program is replaced by another as pip does it.

What runs goes on with the code that it has loaded; what starts, or imports something late, finds the new one.
"""

from __future__ import annotations

import shutil

from fakes.house import TESTS, House

from modelproxy.worker import __version__

ROOT = TESTS.parent
_PACKAGES = ("supervisor", "worker", "ctl")

Change = tuple[str, str, str]
"""A file, a text in it, and what stands there instead; of no text: what comes at the end."""


class Installation:
    """Everything that is started in `house` from now on comes from here."""

    def __init__(self, house: House) -> None:
        self._folder = house.home / "versions"
        self._folder.mkdir()
        self._site = house.home / "site"
        house.env["PYTHONPATH"] = f"{self._site}:{TESTS}"
        self.install(__version__)

    def install(self, version: str, *changes: Change) -> None:
        """Put this version in place."""
        umbrella = self._folder / version / "modelproxy"
        umbrella.mkdir(parents=True)
        (umbrella / "__init__.py").touch()
        being_written = shutil.ignore_patterns("*.pyc.*")  # by whoever runs from there at the same time
        for package in _PACKAGES:
            shutil.copytree(ROOT / package, umbrella / package, ignore=being_written)
        shutil.copytree(ROOT / "systemd", umbrella / "systemd")
        said = ("worker/__init__.py", f'__version__ = "{__version__}"', f'__version__ = "{version}"')
        for file, old, new in (said, *changes):
            path = umbrella / file
            text = path.read_text()
            assert old in text, f"{file} has no {old!r}"
            path.write_text(text.replace(old, new) if old else text + new)
        fresh = self._folder / "fresh"
        fresh.symlink_to(umbrella.parent)
        fresh.rename(self._site)
