"""The real worker, which says at its end what it has imported since it began."""

from __future__ import annotations

import sys

from modelproxy.worker import __main__


def main(words: list[str]) -> int:
    before = set(sys.modules)
    code = __main__.main(words)
    late = " ".join(sorted(set(sys.modules) - before))
    sys.stderr.write(f"imported after the fork: {late}\n")
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
