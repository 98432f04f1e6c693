"""How many descriptors this process has open, for tests that nothing is left open.

Threads that other tests left behind (a name still being looked up) may open one for a moment; a leak stays.
"""

from __future__ import annotations

import os
import time

LIMIT_S = 10.0
"""Only reached by a leak."""


def count() -> int:
    """Those that are open now, with the one that is opened to look."""
    return len(os.listdir("/dev/fd"))


def back_to(before: int) -> bool:
    """Whether no more are open than there were."""
    end = time.monotonic() + LIMIT_S
    while count() > before:
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
