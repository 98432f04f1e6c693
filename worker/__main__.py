"""`python -m modelproxy.worker`: born of a supervisor (--birth-fd) or alone (--spec FILE)."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from . import serve
from .contract import EXIT_USAGE, WorkerSpec, problems, strict_converter
from .net import raise_file_limit

_BIRTH = "--birth-fd"


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == [_BIRTH]:
        # Ours to say and nobody's to mistype: argparse alone would take a worker a megabyte and a tenth of its start.
        birth, listeners = _read_birth(int(words[1]))
        return serve.run(listeners, birth=birth)
    arguments = _parse(words)
    try:
        spec = _read_spec(arguments.spec)
        listeners = _bind(spec.port)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"modelproxy worker: {error}\n")
        return EXIT_USAGE
    raise_file_limit()  # with a supervisor it is the supervisor's
    return serve.run(listeners, spec=spec, ledger=arguments.ledger)


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m modelproxy.worker",
        description="Serve one proxy without a supervisor. (One that has one is started with "
        f"{_BIRTH} FD NAME GENERATION, for FD to tell it where it comes from.)",
    )
    parser.add_argument(
        "--spec",
        metavar="FILE",
        required=True,
        help="serve this spec: a JSON file with the fields of WorkerSpec; - reads stdin",
    )
    parser.add_argument("--ledger", metavar="FILE", help="write a row per model request here")
    return parser.parse_args(words)


def _read_birth(fd: int) -> tuple[serve.Birth, list[socket.socket]]:
    with os.fdopen(fd, "rb") as file:
        document = json.load(file)
    listeners = []
    for number in document["listeners"]:
        listener = socket.socket(fileno=number)
        listener.set_inheritable(False)
        listener.setblocking(False)
        listeners.append(listener)
    birth = serve.Birth(
        name=document["name"],
        generation=document["generation"],
        token=document["token"],
        socket_path=document["socket"],
        log_path=document["log"],
        ledger=document["ledger"],
    )
    return birth, listeners


def _read_spec(path: str) -> WorkerSpec:
    try:
        document = json.loads(sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(f"{path} is not JSON") from None
    try:
        return strict_converter().structure(document, WorkerSpec)
    except Exception as error:  # cattrs raises groups of many types; all of them mean a bad file
        raise ValueError(f"{path}: {'; '.join(problems(error))}") from None


def _bind(port: int) -> list[socket.socket]:
    """Both loopback addresses; the supervisor does this itself for its own workers."""
    listeners = [socket.create_server(("127.0.0.1", port), backlog=4096)]
    try:
        listeners.append(socket.create_server(("::1", port), family=socket.AF_INET6, backlog=4096))
    except OSError:
        pass  # a machine without IPv6
    for listener in listeners:
        listener.setblocking(False)
    return listeners


if __name__ == "__main__":
    sys.exit(main())
