"""A ledger with rows in it, as workers leave one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from modelproxy.worker import ledger
from modelproxy.worker.ledger import MIGRATIONS, Migration, Row


def row(**changes: Any) -> Row:
    """A request of a minute ago that a local model has answered."""
    facts: dict[str, Any] = {
        "ts": time.time() - 60,
        "request_id": "req_1",
        "proxy": "ollama/qwen3:8b",
        "port": 3457,
        "provider": "ollama",
        "requested_model": "claude-sonnet-4-5",
        "model": "qwen3:8b",
        "route": "ollama/qwen3:8b",
        "status": 200,
        "stop_reason": "end_turn",
        "input_tokens": 1000,
        "output_tokens": 20,
        "cache_read_tokens": 200,
        "cache_write_tokens": 34,
        "cost_usd": 0.0,
        "cost_source": "local",
        "duration_ms": 1234.5,
        "ttft_ms": 40.0,
    }
    return Row(**facts | changes)


def fill(path: str | Path, *rows: Row, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    with closing(ledger.connect(str(path), busy_s=1.0)) as db:
        ledger.migrate(db, migrations)
        for one in rows:
            ledger.insert(db, one)
