"""The real supervisor with other numbers in its policy, so that an hour of patience takes a second.

python -m fakes.quick_supervisor '{"START_LIMIT_S": 1}' [arguments of the supervisor]

`interpreter` among the numbers is the program that it makes workers with. Executed anew, it keeps its numbers.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

from modelproxy.supervisor import daemon, policy

if __name__ == "__main__":
    changes = json.loads(sys.argv[1])
    sys.executable = changes.pop("interpreter", sys.executable)
    for name, value in changes.items():
        if not hasattr(policy, name):
            raise SystemExit(f"the policy has no {name}")
        setattr(policy, name, value)
    _execute = os.execv

    def _execute_anew(program: str, words: Sequence[str]) -> None:
        ours = words.index("modelproxy.supervisor")
        _execute(program, [*words[:ours], "fakes.quick_supervisor", sys.argv[1], *words[ours + 1 :]])

    os.execv = _execute_anew  # type: ignore[assignment]  # it does not return, either
    sys.exit(daemon.main(sys.argv[2:]))
