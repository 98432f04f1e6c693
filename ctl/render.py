"""What people read: tables and lines. Pure; JSON needs no rendering."""

from __future__ import annotations

from .faults import printable

TYPE_CHECKING = False  # see faults
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

COLUMNS = ("NAME", "MODEL", "PORT", "PID", "STATE", "HEALTH", "UPTIME", "REQS", "IN-FLIGHT", "RESTARTS")
WIDEST = 60
"""Causes can be long; `ps -v` has them whole."""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns two spaces apart; nothing but the header when there are no rows."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def ps(views: Sequence[dict[str, Any]], *, verbose: bool = False) -> str:
    """The table of `proxyctl ps`; with `verbose` what is behind each row, below it."""
    text = table(COLUMNS, [row(view) for view in views])
    if not verbose:
        return text
    return "\n".join([text, *(line for view in views for line in _details(view))])


def row(view: dict[str, Any]) -> list[str]:
    """One proxy as the table's cells."""
    return [
        cell(view.get("name")),
        cell(view.get("model")),
        cell(view.get("port")),
        cell(view.get("pid")),
        clipped(state(view)),
        clipped(cell(view.get("health"))),
        uptime(view.get("uptime_s")),
        cell(view.get("requests")),
        cell(view.get("in_flight")),
        cell(view.get("restarts")),
    ]


def cell(value: object) -> str:
    """A value on one line; a dash for what is not known."""
    return "-" if value is None or value == "" else " ".join(printable(str(value)).split())


def clipped(text: str) -> str:
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"


def state(view: dict[str, Any]) -> str:
    """The state; with its cause, unless it is the one state that needs none."""
    word, detail = cell(view.get("state")), view.get("detail")
    if word == "ready" or not detail:
        return word
    detail = cell(detail)
    return detail if detail.startswith(word) else f"{word}: {detail}"


def uptime(seconds: float | None) -> str:
    """Two units are enough: `42s`, `3m04s`, `2h05m`, `3d04h`."""
    if seconds is None:
        return "-"
    whole = max(0, int(seconds))
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // part:02d}{smaller}"
    return f"{whole}s"


def took(seconds: float) -> str:
    """How long the user waited: `0.02s`, `0.2s`, `12.5s`."""
    return f"{seconds:.2f}s" if seconds < 0.1 else f"{seconds:.1f}s"


def up(view: dict[str, Any], seconds: float) -> str:
    """What `up` and `restart` print of one proxy; its cause too when it is not ready."""
    return (
        f"{cell(view.get('name'))}  {state(view)}  {cell(view.get('url'))}"
        f"  pid {cell(view.get('pid'))}  {took(seconds)}"
    )


def export(view: dict[str, Any]) -> str:
    """The line that makes an agent use the proxy."""
    return f"export ANTHROPIC_BASE_URL={cell(view.get('url'))}"


def stopped(document: dict[str, Any]) -> str:
    """What `down` prints of one proxy."""
    name = cell(document.get("name"))
    return f"{name}  already stopped" if document.get("already") else f"{name}  stopped"


def unwell(view: dict[str, Any]) -> str | None:
    """A warning when the provider does not answer as it should: the proxy is up all the same."""
    health = view.get("health")
    if not health or health == "unknown" or str(health).partition(";")[0] == "ok":
        return None
    return f"warning: {cell(view.get('name'))} is up, but its provider is not well: {cell(health)}"


def event(document: dict[str, Any], clock: str) -> str:
    """One event; `clock` is its local time, which only the caller can know."""
    about = f"{cell(document['proxy'])}  " if document.get("proxy") else ""
    return f"{clock}  {about}{cell(document.get('kind'))}  {cell(document.get('text'))}"


def waiting(views: Sequence[dict[str, Any]]) -> str:
    """Whom a `down` waits for."""
    busy = [view for view in views if view.get("in_flight")]
    if not busy:
        return "waiting for the worker to leave"
    return "waiting for " + ", ".join(
        f"{_count(view['in_flight'], 'request')} of {cell(view.get('name'))}" for view in busy
    )


def daemon(version: dict[str, Any], proxies: int | None, now: float) -> str:
    """What `daemon status` says."""
    age = uptime(now - float(version.get("started_at") or now))
    many = "" if proxies is None else "  " + _count(proxies, "proxy", "proxies")
    return (
        f"running  pid {cell(version.get('pid'))}  version {cell(version.get('version'))}"
        f"  up {age}{many}  {cell(version.get('socket'))}"
    )


def serving(count: int) -> str:
    """The sentence of a `ps` without a supervisor."""
    return f"supervisor not running; {_count(count, 'worker')} serving"


USAGE_COLUMNS = ("TIME", "PROXY", "ASKED FOR", "STATUS", "STOP", "IN", "OUT", "COST", "FIRST", "TOOK")


def usage(rows: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """The table of `proxyctl usage`; each row with its local time, which only the caller can know."""
    return table(USAGE_COLUMNS, [_request(clock, row) for clock, row in rows])


def _request(clock: str, row: dict[str, Any]) -> list[str]:
    about = "~" if row.get("tokens_estimated") else ""
    read = [row.get(name) for name in ("input_tokens", "cache_read_tokens", "cache_write_tokens")]
    known = [number for number in read if number is not None]
    return [
        clock,
        clipped(cell(row.get("proxy"))),
        clipped(cell(row.get("requested_model"))),
        cell(row.get("status")),
        cell(row.get("stop_reason") or row.get("error_type")),
        about + str(sum(known)) if known else "-",
        "-" if row.get("output_tokens") is None else f"{about}{row['output_tokens']}",
        cost(row.get("cost_usd")),
        _milliseconds(row.get("ttft_ms")),
        _milliseconds(row.get("duration_ms")),
    ]


def cost(dollars: float | None) -> str:
    """`$0.00`, `$0.0123`; a dash for what nobody knows."""
    if dollars is None:
        return "-"
    return f"${dollars:.2f}" if dollars == 0 or dollars >= 1 else f"${dollars:.6f}".rstrip("0").ljust(5, "0")


def _milliseconds(number: float | None) -> str:
    return "-" if number is None else took(number / 1000)


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _details(view: dict[str, Any]) -> Iterator[str]:
    """What `ps -v` adds; a fact that is not there takes no line."""
    yield ""
    yield f"{cell(view.get('name'))}  {state(view)}"
    for label in ("url", "base_url", "detail", "last_error", "log"):
        if view.get(label):
            yield f"  {label.replace('_', ' ')}: {cell(view[label])}"
    if view.get("queue"):
        yield f"  waiting to be accepted: {_count(view['queue'], 'connection')}"
    for old in view.get("draining") or ():
        yield (
            f"  draining: generation {cell(old.get('generation'))}, pid {cell(old.get('pid'))}, "
            f"{cell(old.get('in_flight'))} in flight"
        )
    for death in view.get("deaths") or ():
        yield f"  death: {cell(death.get('cause'))} (generation {cell(death.get('generation'))})"
    for line in view.get("last_lines") or ():
        yield f"  | {printable(line)}"
