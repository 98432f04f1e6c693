"""The entry point of `proxyctl`, and its fast path.

Importing typer and running an app costs several times what the question itself costs, and `ps` is what
people put into prompts and status lines. So its plain forms are answered before typer is imported; a test
holds both roads equal. `run` stands in front of everything that its user starts: where there is nothing to do,
nothing is imported.
"""

from __future__ import annotations

import os
import sys

from .faults import guard

_FAST = (["ps"], ["ps", "--json"])


def main() -> int:
    """Run `proxyctl` with the arguments of this process; the exit code."""
    argv = sys.argv[1:]
    as_json = "--json" in argv and argv[:1] != ["run"]  # there it would be the command's
    if argv in _FAST and "_PROXYCTL_COMPLETE" not in os.environ:
        from .ps import ps

        return guard(lambda: ps(as_json=as_json), as_json=as_json)
    if argv[:1] == ["run"] and "_PROXYCTL_COMPLETE" not in os.environ:
        from . import quick

        quick.forget_locale()
        command = quick.command(argv)
        if command is not None:
            return guard(lambda: quick.become(command), as_json=False)
    if argv[:1] == ["up"]:
        from .hide import hide_key

        hide_key("modelproxy.ctl", argv)
    from .main import run

    return guard(lambda: run(argv), as_json=as_json)


if __name__ == "__main__":
    sys.exit(main())
