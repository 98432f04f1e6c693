"""What people read: tables and lines. Pure; JSON needs no rendering."""

from __future__ import annotations

from modelproxy.supervisor.words import ago, count, lasting, span, uptime

from .faults import printable

TYPE_CHECKING = False  # see faults
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

COLUMNS = (
    "NAME",
    "MODEL",
    "PORT",
    "PID",
    "STATE",
    "HEALTH",
    "UPTIME",
    "REQS",
    "IN-FLIGHT",
    "COST",
    "RESTARTS",
)
WIDEST = 60
"""Causes can be long; `ps -v` has them whole."""
_SHORTEST_NAME = 12
_SHORT_NAME = 16
"""A table goes without a column before its names are shorter than this."""
_CALM = frozenset({"ready", "degraded", "rolling", "draining", "stopped", "idle"})
"""States in which the end of the log explains nothing, as long as nothing has died."""


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, one, widths)).rstrip() for one in rows]


def _cells(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[dict[str, str]]:
    return [dict(zip(columns, one, strict=True)) for one in rows]


def _lines(columns: Sequence[str], cells: Sequence[dict[str, str]]) -> list[str]:
    """Of each row these columns."""
    return aligned([columns, *([one[name] for name in columns] for one in cells)])


def _excess(columns: Sequence[str], cells: Sequence[dict[str, str]], width: int) -> int:
    """By what the table is too wide."""
    return max(map(len, _lines(columns, cells))) - width


def _fitted(
    columns: Sequence[str],
    cells: Sequence[dict[str, str]],
    width: int | None,
    *,
    named: Sequence[str],
    spare: Sequence[str],
) -> list[str]:
    """A table for a terminal of `width` columns: of the `spare` ones first those go that say nothing, then those that
    say least, the last first, until what is `named` need not be short to be recognised.
    """
    left = list(columns)
    if width is not None and _excess(left, cells, width) > 0:
        left = [name for name in left if name not in spare or any(one[name] not in "0-" for one in cells)]
        short = [
            {name: text[:_SHORT_NAME] if name in named else text for name, text in one.items()}
            for one in cells
        ]
        for name in reversed(spare):
            if name in left and _excess(left, short, width) > 0:
                left.remove(name)
        if (excess := _excess(left, cells, width)) > 0:
            _fit_names(cells, [name for name in named if name in left], excess)
    return _lines(left, cells)


def ps(
    views: Sequence[dict[str, Any]], *, verbose: bool = False, width: int | None = None, now: float = 0.0
) -> str:
    """The table of `proxyctl ps`, for a terminal of `width` columns; with `verbose` what is behind each row."""
    lines = aligned([COLUMNS, *(row(view) for view in views)])
    if width is not None and max(map(len, lines)) > width:
        lines = _narrow(views, width)
    if verbose:
        lines += [line for view in views for line in _details(view, now)]
    return "\n".join(lines)


def _narrow(views: Sequence[dict[str, Any]], width: int) -> list[str]:
    """First without the columns that say nothing new; then one word per state, and the sentence below it; then
    without what `ps -v` has as well.
    """
    cells = _cells(COLUMNS, map(row, views))
    spare = {
        "MODEL": all(one["MODEL"] == one["NAME"] for one in cells),
        "RESTARTS": all(one["RESTARTS"] == "0" for one in cells),
    }
    columns = [name for name in COLUMNS if not spare.get(name)]
    lines = _lines(columns, cells)
    if max(map(len, lines)) <= width:
        return lines
    for view, one in zip(views, cells, strict=True):
        one |= {"STATE": cell(view.get("state")), "HEALTH": _one_word(one["HEALTH"])}
    heading, *lines = _fitted(columns, cells, width, named=("NAME", "MODEL"), spare=("UPTIME", "PID"))
    below = [_wrapped(_sentences(view), width) for view in views]
    return [heading, *(text for line, more in zip(lines, below, strict=True) for text in (line, *more))]


def _fit_names(cells: Sequence[dict[str, str]], named: Sequence[str], excess: int) -> None:
    """Shorten the names by what the table is too wide, the longest first."""
    widths = [max(len(one[column]) for one in cells) for column in named]
    limit = max(widths)
    while limit > _SHORTEST_NAME and sum(max(0, width - limit) for width in widths) < excess:
        limit -= 1
    for one in cells:
        for column in named:
            one[column] = _shortened(one[column], limit)


def _shortened(name: str, limit: int) -> str:
    """The end of a name tells more than its middle."""
    if len(name) <= limit:
        return name
    return f"{name[: limit // 3]}…{name[-(limit - limit // 3 - 1) :]}"


def _one_word(health: str) -> str:
    word = health.partition(";")[0]
    return word if " " not in word else "ill"


def _sentences(view: dict[str, Any]) -> str:
    """What did not fit into the row."""
    said, word, health = state(view), cell(view.get("state")), _health(view)
    known = {"", word, _one_word(health)}
    parts = [part for part in (said, health.removeprefix("ok; ")) if part not in known]
    return "; ".join(parts)


def _wrapped(text: str, width: int) -> list[str]:
    """`text` in lines of at most `width`, a little to the right; a word that is longer is not broken."""
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(f"  {word}")
    return lines


def row(view: dict[str, Any]) -> list[str]:
    """One proxy as the table's cells."""
    return [
        cell(view.get("name")),
        cell(view.get("model")),
        cell(view.get("port")),
        cell(view.get("pid")),
        clipped(state(view)),
        clipped(_health(view)),
        "-" if view.get("uptime_s") is None else uptime(view["uptime_s"]),
        cell(view.get("requests")),
        cell(view.get("in_flight")),
        _costs(view),
        cell(view.get("restarts")),
    ]


def _health(view: dict[str, Any]) -> str:
    """How the provider is; one word when the state says the rest already."""
    words = cell(view.get("health"))
    if view.get("state") == "hung":
        return "-"  # who hangs cannot tell
    return "ill" if view.get("state") == "degraded" and words in state(view) else words


def _costs(view: dict[str, Any]) -> str:
    """A `+` stands for answers whose cost nobody knows."""
    known = cost(view.get("cost_usd"))
    return f"{known}+" if view.get("unpriced_requests") and known != "-" else known


def limits(view: dict[str, Any]) -> str:
    """What `set` says: a proxy and the limits that it has now."""
    return f"{cell(view.get('name'))}  {_limits(view) or 'no limits'}"


def _limits(view: dict[str, Any]) -> str:
    found = view.get("limits") or {}
    return ", ".join(f"{name.removesuffix('_s')}={_limit(name, value)}" for name, value in found.items())


def _tokens(view: dict[str, Any]) -> str:
    known = ", ".join(map(cell, view.get("tokens") or ())) or "none is known"
    return f"{'demanded' if view.get('token_required') else 'not demanded'}; {known}"


def _limit(name: str, value: float) -> str:
    return f"{value:g}s" if name.endswith("_s") else f"{value:.0f}"


def cell(value: object) -> str:
    """A value on one line; a dash for what is not known."""
    return "-" if value is None or value == "" else " ".join(printable(str(value)).split())


def clipped(text: str) -> str:
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"


def state(view: dict[str, Any]) -> str:
    """The state with its cause, if there is anything to add to the one word."""
    word, detail = cell(view.get("state")), view.get("detail")
    if not detail:
        return word
    detail = cell(detail)
    return detail if detail.startswith(word) else f"{word}; {detail}"


def took(seconds: float) -> str:
    """How long the user waited: `0.02s`, `0.2s`, `12.5s`, `1m04s`."""
    if seconds >= 60:
        return uptime(seconds)
    return f"{seconds:.2f}s" if seconds < 0.1 else f"{seconds:.1f}s"


def up(view: dict[str, Any], seconds: float) -> str:
    """What `up` and `restart` print of one proxy; its cause too when it is not ready."""
    said = "ready" if view.get("state") == "ready" else state(view)
    return (
        f"{cell(view.get('name'))}  {said}  {cell(view.get('url'))}"
        f"  pid {cell(view.get('pid'))}  {took(seconds)}"
    )


def export(view: dict[str, Any]) -> str:
    """The line that makes an agent use the proxy."""
    return f"export ANTHROPIC_BASE_URL={cell(view.get('url'))}"


def stopped(document: dict[str, Any]) -> str:
    """What `down` prints of one proxy."""
    name = cell(document.get("name"))
    also = ", ".join(map(cell, document.get("also") or ()))
    said = "already stopped" if document.get("already") else "stopped"
    return f"{name}  {said}" + (f", and with it {also}" if also else "")


def unwell(view: dict[str, Any]) -> str | None:
    """A warning when the provider does not answer as it should: the proxy is up all the same."""
    health = view.get("health")
    if health in (None, "", "-", "unknown") or str(health).partition(";")[0] == "ok":
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
        f"{count(view['in_flight'], 'request')} of {cell(view.get('name'))}" for view in busy
    )


def daemon(version: dict[str, Any], proxies: int | None, now: float) -> str:
    """What `daemon status` says."""
    age = uptime(now - float(version.get("started_at") or now))
    many = "" if proxies is None else "  " + count(proxies, "proxy", "proxies")
    unit = f"  by systemd: {cell(version['unit'])}" if version.get("unit") else ""
    spawn = f"  workers by {cell(version['spawn'])}" if version.get("spawn") else ""
    return (
        f"running  pid {cell(version.get('pid'))}  version {cell(version.get('version'))}"
        f"  up {age}{many}{spawn}  {cell(version.get('socket'))}{unit}"
    )


def serving(workers: int) -> str:
    """The sentence of a `ps` without a supervisor."""
    return f"supervisor not running; {count(workers, 'worker')} serving"


USAGE_COLUMNS = (
    "TIME",
    "PROXY",
    "ASKED FOR",
    "ANSWERED BY",
    "STATUS",
    "STOP",
    "IN",
    "OUT",
    "COST",
    "FIRST",
    "TOOK",
)


def usage(rows: Sequence[tuple[str, dict[str, Any]]], width: int | None = None) -> str:
    """The table of `proxyctl usage`; each row with its local time, which only the caller can know.

    Who answered is a column where that does not go without saying.
    """
    cells = _cells(USAGE_COLUMNS, (_request(clock, row) for clock, row in rows))
    is_plain = all(_answerer(row) in ("-", cell(row.get("route")).rpartition(">")[2]) for _, row in rows)
    columns = [name for name in USAGE_COLUMNS if not (is_plain and name == "ANSWERED BY")]
    named, spare = ("PROXY", "ASKED FOR", "ANSWERED BY"), ("TOOK", "ASKED FOR", "STOP", "FIRST")
    return "\n".join(_fitted(columns, cells, width, named=named, spare=spare))


_SUMS = (
    "REQUESTS",
    "FAILED",
    "FALLBACK",
    "IN",
    "FROM CACHE",
    "TO CACHE",
    "OUT",
    "COST",
    "UNPRICED",
    "SOURCE",
)
_HEADINGS: dict[tuple[str, ...], tuple[str, ...]] = {("route", "model"): ("ROUTE", "ANSWERED BY")}


def costs(
    keys: Sequence[str], groups: Sequence[dict[str, Any]], total: dict[str, Any], width: int | None = None
) -> str:
    """The table of `proxyctl costs`, known by `keys`; the total where there is more than one group."""
    heading = _HEADINGS.get(tuple(keys)) or [key.upper() for key in keys]
    lines = [[*(clipped(cell(group[key])) for key in keys), *_sums(group)] for group in groups]
    if len(groups) > 1:
        lines.append(["total", *("" for _ in keys[1:]), *_sums(total)])
    spare = ("FAILED", "UNPRICED", "FALLBACK", "SOURCE", "FROM CACHE", "TO CACHE")
    columns = [*heading, *_SUMS]
    return "\n".join(_fitted(columns, _cells(columns, lines), width, named=heading, spare=spare))


def _sums(group: dict[str, Any]) -> list[str]:
    about = "~" if group["tokens_estimated"] else ""
    read = [group[name] for name in ("input_tokens", "cache_read_tokens", "cache_write_tokens")]
    known = [number for number in read if number is not None]
    tokens = [sum(known) if known else None, *read[1:], group["output_tokens"]]
    return [
        str(group["requests"]),
        str(group["failed"]),
        str(group["fallbacks"]),
        *("-" if number is None else f"{about if number else ''}{number}" for number in tokens),
        cost(group["cost_usd"]),
        str(group["unpriced_requests"]),
        cell(group["cost_source"]),
    ]


def _request(clock: str, row: dict[str, Any]) -> list[str]:
    about = "~" if row.get("tokens_estimated") else ""
    read = [row.get(name) for name in ("input_tokens", "cache_read_tokens", "cache_write_tokens")]
    known = [number for number in read if number is not None]
    return [
        clock,
        clipped(_way(row)),
        clipped(cell(row.get("requested_model"))),
        clipped(_answerer(row)),
        cell(row.get("status")) + (", fallback" if row.get("fallback") else ""),
        cell(row.get("stop_reason") or row.get("error_type")),
        about + str(sum(known)) if known else "-",
        "-" if row.get("output_tokens") is None else f"{about}{row['output_tokens']}",
        cost(row.get("cost_usd")),
        _milliseconds(row.get("ttft_ms")),
        _milliseconds(row.get("duration_ms")),
    ]


def _way(row: dict[str, Any]) -> str:
    """The proxy, and the front that a request came through."""
    route = cell(row.get("route"))
    return route if ">" in route else cell(row.get("proxy"))


def _answerer(row: dict[str, Any]) -> str:
    """The model id of who answered, or was to."""
    return cell("/".join(filter(None, (row.get("provider"), row.get("model")))))


def cost(dollars: float | None) -> str:
    """`$0.00`, `$0.0123`; a dash for what nobody knows."""
    if dollars is None:
        return "-"
    return f"${dollars:.2f}" if dollars == 0 or dollars >= 1 else f"${dollars:.6f}".rstrip("0").ljust(5, "0")


def _milliseconds(number: float | None) -> str:
    return "-" if number is None else took(number / 1000)


def _details(view: dict[str, Any], now: float) -> Iterator[str]:
    """What `ps -v` adds; a fact that is not there takes no line."""
    yield ""
    yield f"{cell(view.get('name'))}  {state(view)}"
    for label, text in facts(view, now):
        yield f"  {label}: {text}"
    for death in view.get("deaths") or ():
        yield f"  death: {dead(death, now)}"
    if view.get("state") not in _CALM or view.get("deaths"):
        for line in view.get("last_lines") or ():
            yield f"  | {printable(line)}"


def facts(view: dict[str, Any], now: float) -> Iterator[tuple[str, str]]:
    """All that is known of a proxy, by name; what is not there or is nothing new is left out."""
    if view.get("since"):
        yield "since", ago(now - view["since"])
    for label, key in (("next", "next"), ("run", "command"), ("url", "url"), ("provider at", "base_url")):
        if view.get(key):
            yield label, cell(view[key])
    if view.get("targets"):
        places = [f"{one['name']} ({one['state']})" for one in view["targets"]]
        yield "leads to", ", ".join(map(cell, places))
    if view.get("state") != "stopped":  # what holds next time the next `up` says, and the configuration then
        yield from _terms(view)
    users = [cell(name) for name in view.get("fronts") or ()]
    users += [count(view["leases"], "command")] if view.get("leases") else []
    if users or (view.get("wanted") and view.get("kept") is False):
        goes = "" if view.get("kept", True) else "; it goes with the last"
        yield (
            "used by",
            ", ".join(users) + goes if users else f"nobody; proxyctl down {cell(view.get('name'))}",
        )
    if view.get("health") not in (None, "", "-", "unknown"):
        yield "health", cell(view["health"])
    if view.get("port_holder"):
        yield "port", f"{cell(view.get('port'))} is held by {cell(view['port_holder'])}"
    for worker in view.get("workers") or ():
        yield "worker", _worker(worker, now)
    if view.get("rss"):
        limit = f" of at most {_bytes(view['max_rss'])}" if view.get("max_rss") else ""
        yield "memory", f"{_bytes(view['rss'])}{limit}"
    yield from _numbers(view)
    if view.get("last_error"):
        yield "last error", cell(view["last_error"])
    if view.get("log"):
        yield "log", cell(view["log"])


def _terms(view: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """On which terms it serves."""
    if view.get("fallback"):
        yield "falls back to", ", ".join(map(cell, view["fallback"]))
    if view.get("resting"):
        yield "left alone", ", ".join(map(cell, view["resting"]))
    if view.get("limits"):
        yield "limits", _limits(view)
    if view.get("tokens") or view.get("token_required"):
        yield "tokens", _tokens(view)


def _numbers(view: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if view.get("requests") is not None:
        counts = [count(view["requests"], "request")]
        counts += [f"{view[key]} {name}" for key, name in _COUNTED if view.get(key)]
        yield "served", f"{', '.join(counts)}; cost {_costs(view)}"
    yield "restarts", cell(view.get("restarts"))
    if view.get("queue"):
        yield "waiting to be accepted", count(view["queue"], "connection")
    lost = [count(view[key], one, many) for key, one, many in _LOST if view.get(key)]
    if lost:
        yield "lost", ", ".join(lost)


def _bytes(number: float) -> str:
    return f"{number / 2**20:.0f} MiB"


_COUNTED = (
    ("failures", "failed"),
    ("fallbacks", "by a fallback"),
    ("in_flight", "in flight"),
    ("waiting", "of them in line"),
)
_LOST = (
    ("log_drops", "log line", "log lines"),
    ("ledger_drops", "row of the ledger", "rows of the ledger"),
)


def _worker(worker: dict[str, Any], now: float) -> str:
    """`g3, pid 4121, ready for 2h05m, 2 in flight (oldest 4m10s)`"""
    words = [
        f"g{cell(worker.get('generation'))}",
        f"pid {cell(worker.get('pid'))}",
        lasting(f"{cell(worker.get('phase'))} for", now - (worker.get("since") or now)),
    ]
    if worker.get("in_flight"):
        oldest = worker.get("oldest_s")
        words.append(f"{worker['in_flight']} in flight" + (f" (oldest {span(oldest)})" if oldest else ""))
    if worker.get("kill_in_s") is not None:
        words.append(f"kill in {span(worker['kill_in_s'])}")
    return ", ".join(words)


def dead(death: dict[str, Any], now: float) -> str:
    """`SIGKILL 4s ago (g3, pid 4100, had been ready for 2h05m)`"""
    who = [f"g{cell(death.get('generation'))}"]
    if death.get("pid"):
        who.append(f"pid {death['pid']}")
    if death.get("lived_s") is not None:
        lived = span(death["lived_s"])
        ready = f"had been ready for {lived}" if death.get("was_ready") else f"never ready in {lived}"
        who.append(f"had been leaving for {lived}" if death.get("was_leaving") else ready)
    return f"{cell(death.get('cause'))} {ago(now - (death.get('at') or now))} ({', '.join(who)})"
