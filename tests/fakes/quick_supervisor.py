"""The real supervisor with other numbers in its policy, so that an hour of patience takes a second.

python -m fakes.quick_supervisor '{"START_LIMIT_S": 1}' [arguments of the supervisor]

`interpreter` among the numbers is the program that it makes workers with.
"""

from __future__ import annotations

import json
import sys

from modelproxy.supervisor import daemon, policy

if __name__ == "__main__":
    changes = json.loads(sys.argv[1])
    sys.executable = changes.pop("interpreter", sys.executable)
    for name, value in changes.items():
        if not hasattr(policy, name):
            raise SystemExit(f"the policy has no {name}")
        setattr(policy, name, value)
    sys.exit(daemon.main(sys.argv[2:]))
