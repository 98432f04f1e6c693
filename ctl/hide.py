"""Keeping a key that was typed on the command line out of `ps aux`.

Everybody on the machine can read the arguments of everybody's processes, and `up` may wait for seconds. So
the command starts itself again at once, with the key on a pipe. (Some milliseconds remain, and the shell's
history; `--api-key-env` and `--api-key-file` have neither.)
"""

from __future__ import annotations

import os
import sys

from .typed import without_key


def hide_key(module: str, argv: list[str]) -> None:
    """If a key stands in `argv`, become `python -m module` with `--api-key -`; else return."""
    found = without_key(argv)
    if found is None:
        return
    hidden, key = found
    reading, writing = os.pipe()
    # Fits into the pipe's buffer: the kernel takes no argument of more than 128 KiB, a key is some 100 bytes.
    os.set_blocking(writing, False)
    os.write(writing, key.encode("utf-8", "surrogateescape") + b"\n")
    os.close(writing)
    os.dup2(reading, 0)
    os.close(reading)
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *hidden])
