"""A service manager without systemd: its notification socket with a descriptor store, and a `systemctl`.

What the real one does with all this is proven by `systemd/prove`, in a booted systemd.
"""

from __future__ import annotations

import array
import os
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Self

LIMIT_S = 30.0


class ServiceManager:
    """Reads what a service says; keeps what it is given."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "notify")
        self.said: list[dict[str, str]] = []
        self.store: dict[str, list[socket.socket]] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RD)
        self._thread.join(LIMIT_S)
        self._socket.close()
        for name in list(self.store):
            self._drop(name)

    def _read(self) -> None:
        while True:
            data, ancillary, _, _ = self._socket.recvmsg(65536, socket.CMSG_SPACE(64))
            if not data:
                return
            message = dict(line.split("=", 1) for line in data.decode().splitlines())
            numbers = array.array("i")
            for _, _, rights in ancillary:
                numbers.frombytes(rights)
            with self._news:
                self._obey(message, numbers)
                self.said.append(message)
                self._news.notify_all()

    def _obey(self, message: dict[str, str], numbers: Sequence[int]) -> None:
        name = message.get("FDNAME", "")
        if "FDSTORE" in message:
            self.store.setdefault(name, []).extend(socket.socket(fileno=number) for number in numbers)
            return
        for number in numbers:  # a barrier: all before it has been read
            os.close(number)
        if "FDSTOREREMOVE" in message:
            self._drop(name)

    def _drop(self, name: str) -> None:
        for one in self.store.pop(name, []):
            one.close()

    def wait_for(self, **lines: str) -> dict[str, str]:
        """Until a message with these lines has come."""

        def found() -> dict[str, str] | None:
            return next((one for one in self.said if lines.items() <= one.items()), None)

        with self._news:
            if not self._news.wait_for(found, LIMIT_S):
                raise AssertionError(f"never said: {lines}; only {self.said}")
            message = found()
            assert message is not None  # just found
            return message


class Systemctl:
    """A `systemctl` for a PATH: notes how it is called, answers what it is told to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.path = f"{folder}:{os.environ['PATH']}"
        program = folder / "systemctl"
        # The answers lie in files named like the first word that is no option.
        program.write_text(
            f"""#!/bin/sh
cd '{folder}'
echo "$*" >>asked
for word; do
    case $word in --version) word=version ;; -*) continue ;; esac
    [ -f "$word.stderr" ] && cat "$word.stderr" >&2
    [ -f "$word.stdout" ] && cat "$word.stdout"
    [ -f "$word.hook" ] && . "./$word.hook"
    [ -f "$word.code" ] && exit "$(cat "$word.code")"
    exit 0
done
"""
        )
        program.chmod(0o755)

    def answers(
        self, verb: str, stdout: str = "", *, stderr: str = "", code: int = 0, hook: str = ""
    ) -> None:
        """From now on; `hook` is shell that is run as well."""
        for kind, text in (("stdout", stdout), ("stderr", stderr), ("code", str(code)), ("hook", hook)):
            (self._folder / f"{verb}.{kind}").write_text(text)

    @property
    def asked(self) -> list[str]:
        """The words of each call, without the options that are always the same."""
        try:
            lines = (self._folder / "asked").read_text().splitlines()
        except FileNotFoundError:
            return []
        always = ("--user", "--no-pager", "--no-ask-password")
        return [" ".join(word for word in line.split() if word not in always) for line in lines]
