"""What can be told when no supervisor answers: from its state file, and from which processes still live.

The supervisor writes the file before it acts, so a row may be a moment ahead of the facts; the processes
are looked at, never trusted to the file. A file that cannot be read is worth one sentence, not an error:
this is what people look at when things are already wrong.
"""

from __future__ import annotations

import json
import time

from .processes import is_same

TYPE_CHECKING = False  # see faults
if TYPE_CHECKING:
    from typing import Any

    from modelproxy.supervisor.paths import Paths


def views(paths: Paths, *, everything: bool = False) -> tuple[list[dict[str, Any]], str | None]:
    """The rows of `ps` in the shape of the control API, and what is wrong with the file, if anything.

    Without `everything`: what was to run or still does.
    """
    records, problem = _records(paths)
    rows = [_view(record, paths) for record in records]
    return [row for row in rows if everything or row["wanted"] or row["pid"] is not None], problem


def serving(rows: list[dict[str, Any]]) -> int:
    """How many workers still serve."""
    return sum(row["pid"] is not None for row in rows)


def names(paths: Paths) -> list[str]:
    """The names in the file, for completion and for finding a log."""
    return [str(record["name"]) for record in _records(paths)[0]]


def name_of(paths: Paths, target: str) -> str | None:
    """The name of the proxy that `target` (a name, a model id, a port or a pid) means."""
    rows, _ = views(paths, everything=True)
    for key in ("name", "model", "port", "pid"):
        for row in rows:
            if str(row[key]) == target:
                return str(row["name"])
    return None


def places(paths: Paths) -> dict[str, dict[str, str]]:
    """Where each front leads: the names of the places, and their models."""
    return {
        record["name"]: {
            str(place["name"]): str(place.get("model_id"))
            for place in map(_dict, _list(_dict(_dict(record.get("spec")).get("front")).get("places")))
            if "name" in place
        }
        for record in _records(paths)[0]
        if _dict(record.get("spec")).get("front") is not None
    }


def _records(paths: Paths) -> tuple[list[dict[str, Any]], str | None]:
    try:
        document = json.loads(paths.state_file.read_bytes())
    except FileNotFoundError:
        return [], None  # never had a proxy: nothing is wrong
    except OSError as error:
        return [], f"cannot read {paths.state_file}: {error.strerror}"
    except (ValueError, RecursionError):
        return [], f"{paths.state_file} is not JSON"
    records = document.get("proxies") if isinstance(document, dict) else None
    if not isinstance(records, list):
        return [], f"{paths.state_file} holds no list of proxies"
    good = [record for record in records if isinstance(record, dict) and isinstance(record.get("name"), str)]
    return good, None if len(good) == len(records) else f"{paths.state_file} is partly garbled"


def _view(record: dict[str, Any], paths: Paths) -> dict[str, Any]:
    spec = _dict(record.get("spec"))
    worker = _living(record)
    started = _number(worker.get("started_at"))
    quota = _dict(spec.get("quota"))
    access = _dict(quota.get("access"))
    name, port, wanted = record["name"], record.get("port", spec.get("port")), bool(record.get("wanted"))
    return {
        "name": name,
        "model": spec.get("model_id"),
        "provider": spec.get("provider"),
        "port": port,
        "pid": worker.get("pid"),
        "url": f"http://127.0.0.1:{port}",
        "state": str(record.get("state") or "unknown") if worker else "stopped",
        "reused": False,
        "health": "unknown",
        "uptime_s": None if started is None else max(0.0, time.time() - started),
        "requests": None,
        "in_flight": None,
        "restarts": record.get("restarts", 0),
        "fallbacks": 0,
        "last_error": None,
        "base_url": spec.get("base_url"),
        "fallback": [str(_dict(one).get("model_id")) for one in _list(spec.get("fallback"))],
        "limits": {
            key: value for key, value in quota.items() if value is not None and not isinstance(value, dict)
        },
        "tokens": [str(_dict(one).get("name")) for one in _list(access.get("tokens"))],
        "token_required": access.get("required") is True,
        "started_at": started,
        "generation": worker.get("generation", record.get("generation", 0)),
        "deaths": [one for one in map(_dict, _list(record.get("deaths"))) if _is_death(one)],
        "wanted": wanted,
        "detail": "" if worker or not wanted else "no worker, and no supervisor to start one",
        "next": _next(serves=bool(worker), wanted=wanted),
        "command": "proxyctl daemon start" if wanted else "",
        "log": str(paths.log_file(name)),
    }


def _is_death(record: dict[str, Any]) -> bool:
    lived = record.get("lived_s")
    return _number(record.get("at")) is not None and (lived is None or _number(lived) is not None)


def _next(*, serves: bool, wanted: bool) -> str:
    if serves:
        return (
            "it serves on; the next supervisor adopts it" if wanted else "it finishes its requests and leaves"
        )
    return "the next supervisor starts it" if wanted else "nothing: it is not wanted"


def _living(record: dict[str, Any]) -> dict[str, Any]:
    """The newest worker that still runs; an empty one when none does."""
    workers = record.get("workers")
    alive = [worker for worker in workers if _runs(worker)] if isinstance(workers, list) else []
    return max(alive, key=lambda worker: _number(worker.get("generation")) or 0, default={})


def _runs(worker: object) -> bool:
    known = _dict(worker)
    pid, started, boot = known.get("pid"), known.get("start_time"), known.get("boot_id")
    if not isinstance(pid, int) or not isinstance(started, int | None):
        return False
    return is_same(pid, started, boot if isinstance(boot, str) and boot else None)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
