"""What a worker keeps of its answers because their clients cannot carry it.

Everything that has to come back travels with the client where it can: then it survives restarts and does not
care which worker answers. This is for the rest, and whoever reads it must have something to do without it.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any

from modelproxy.worker.wire import codec

MOST_BYTES = 32 * 1024 * 1024
"""Of all that is kept; what was not used for longest goes first."""


class Memory:
    """Values under names, of bounded size."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most = most_bytes
        self._size = 0
        self._kept: OrderedDict[str, bytes] = OrderedDict()

    def keep(self, value: Any, name: str | None = None) -> str:
        """Remember a JSON value, under the hash of it unless it has a name. Returns the name."""
        data = codec.dumps(value)
        name = name or hashlib.sha256(data).hexdigest()[:32]
        self._forget(name)
        self._kept[name] = data
        self._size += len(data)
        while self._size > self._most:
            self._forget(next(iter(self._kept)))
        return name

    def recall(self, name: str) -> Any:
        """What was kept under the name, or None."""
        data = self._kept.get(name)
        if data is None:
            return None
        self._kept.move_to_end(name)
        return codec.loads(data)

    def _forget(self, name: str) -> None:
        self._size -= len(self._kept.pop(name, b""))
