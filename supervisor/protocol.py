"""The control API: what may be asked of the supervisor, and in which shape it answers.

HTTP/1.1 over the Unix socket, JSON bodies, one JSON object per line for streams. Requests are strict: an
unknown field or a value of the wrong type is refused, and every problem is named at once with its path.
The shapes of the answers are relied on by scripts: keys may be added, never renamed or removed.

| route | body | answer |
|---|---|---|
| GET /v1/version | | Version |
| GET /v1/proxies?all=1 | | list of ProxyView (`all`: stopped ones too) |
| GET /v1/proxies/{name} | | ProxyView |
| PUT /v1/proxies/{model or name}?shell=1&lacks=NAMES | UpRequest | ProxyView, once ready (or at once with wait=false) |
| DELETE /v1/proxies/{target} | DownRequest (may be absent) | list of Stopped |
| POST /v1/proxies/{target}/restart | RestartRequest (may be absent) | list of ProxyView |
| POST /v1/proxies/{target}/set | SetRequest | list of ProxyView |
| POST /v1/proxies/{model or name}/lease?again=1&shell=1&lacks=NAMES | UpRequest | NDJSON: one Leased, then silence |
| DELETE /v1/leases/{lease} | | list of Stopped |
| GET /v1/proxies/{name}/logs?lines=N&follow=1 | | NDJSON of {"line"} |
| GET /v1/events?since=SEQ&follow=1 | | NDJSON of Event |
| GET /v1/usage?since=T&limit=N&proxy=P | | list of the ledger's rows (`worker.ledger.Row`), the newest last |
| GET /v1/costs?since=T&by=B | | list of what they add up to by model, agent, day, session or route (`worker.costs`) |
| GET /v1/metrics | | Prometheus text |
| GET /v1/variables?names=NAMES | | {"A": true, "B": false}: which of A,B are set where the supervisor runs |
| POST /v1/daemon/reload?soon=1 | | Reloaded |
| POST /v1/daemon/stop, /v1/daemon/restart, /v1/daemon/leave | DaemonRequest (may be absent) | Version |

`target` is a name, a model id, a port, a pid, or `all`; a name is percent-encoded in the path
(`/v1/proxies/echo%2Fdemo`). An error is `{"error":{"code","message","hint"}}` with a fitting status.
This module is pure.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

import attrs

from modelproxy.worker.contract import Bounds, problems, strict_converter

from . import policy

DEFAULT_PORT = 3456
DEFAULT_GRACE_S = 30.0
DEFAULT_WAIT_S = 15.0
MAX_GRACE_S = 24 * 3600.0
MAX_IDLE_STOP_S = 7 * 24 * 3600.0
MIN_MAX_RSS = 16 * 1024**2
"""A worker at rest needs more; under such a limit it would be replaced for nothing, again and again."""

# Exit codes of the commands; a contract with scripts.
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NO_DAEMON = 3

# code -> HTTP status. The code is what scripts key on; exit codes follow from it (ctl/faults).
STATUS = {
    "bad_request": 400,
    "bad_model_id": 400,
    "ambiguous_name": 400,
    "unsupported_provider": 400,
    "bad_port": 400,
    "bad_config": 409,
    "missing_api_key": 409,
    "forbidden": 403,
    "unknown_proxy": 404,
    "unknown_lease": 404,
    "unknown_route": 404,
    "method_not_allowed": 405,
    "port_in_use": 409,
    "options_differ": 409,
    "superseded": 409,
    "upgrade_refused": 409,
    "start_failed": 500,
    "ledger_unreadable": 500,
    "internal": 500,
    "stopping": 503,
    "no_resources": 503,
    "not_ready_in_time": 504,
    "disk_full": 507,
}


@attrs.frozen
class Fault(Exception):
    """A refusal: what, why, and what to do next."""

    code: str
    message: str
    hint: str = ""
    env: str | None = None
    """The variable that would have helped: the caller may have it where the supervisor has not."""
    provider: str | None = None
    """Whose key is missing."""

    @property
    def status(self) -> int:
        return STATUS[self.code]

    def __str__(self) -> str:
        return self.message


@attrs.frozen
class UpRequest(Bounds):
    """Bring a proxy up; idempotent. What is said of its limits: see `Bounds`."""

    model: str
    """`provider/model-name`, an alias, or the name of a proxy in the configuration."""
    port: int | None = None
    """None: the one it has, else the configured one, else the next free one. 0: the one it has, else any."""
    base_url: str | None = None
    api_key: str | None = attrs.field(default=None, repr=False)
    grace_s: float | None = None
    replace: bool = False
    """Roll a running proxy whose options differ, instead of refusing."""
    wait: bool = True
    wait_s: float = DEFAULT_WAIT_S
    pid_file: str | None = None
    """One more place for the pid, besides the runtime directory."""
    lazy: bool | None = None
    """Started by the first connection. None, here and below: as it is, which is no for a new proxy."""
    idle_stop_s: float | None = None
    """Without a request for so long its process goes, until the next connection. 0: it stays."""
    max_rss: int | None = None
    """Bytes of memory beyond which its worker is replaced. 0: no limit."""
    fallback: list[str] | None = None
    """Model ids to fall back to, in this order; `anthropic`: the caller's own request. Empty: none any more."""
    fallback_keys: dict[str, str] = attrs.field(factory=dict, repr=False)
    """Keys by the name of their provider, which a `missing_api_key` has asked for: what the caller's shell has."""
    overlay: dict[str, Any] = attrs.field(factory=dict, repr=False)
    """What the caller's project and environment say over the user's file: the keys of config.toml."""
    lease: str | None = None
    """Who holds it meanwhile. Said by the supervisor itself, for POST …/lease."""
    lacks: list[str] | None = None
    """The variables that the caller was asked for and has not; None: it cannot be asked. From the query."""


@attrs.frozen
class DownRequest:
    grace_s: float | None = None
    """None: the proxy's own."""


@attrs.frozen
class RestartRequest:
    grace_s: float = policy.ROLL_GRACE_S
    wait_s: float = DEFAULT_WAIT_S


@attrs.frozen
class SetRequest(Bounds):
    """Other limits for a proxy that goes on serving."""


@attrs.frozen
class DaemonRequest:
    grace_s: float | None = None


@attrs.frozen
class Reloaded:
    changed: list[str]
    """The proxies that another configuration concerns."""
    warnings: list[str]


@attrs.frozen
class Version:
    pid: int
    version: str
    started_at: float
    socket: str
    state_dir: str
    spawn: str
    """How a worker that is wanted now is made: `fork` or `exec`."""

    api: int = 1
    unit: str | None = None
    """The systemd unit that runs it."""
    warnings: list[str] = []  # noqa: RUF008  # frozen, and only ever replaced


@attrs.frozen
class ProxyView:
    """One row of `ps`."""

    name: str
    model: str
    provider: str
    port: int
    pid: int | None
    url: str
    state: str
    reused: bool
    health: str
    """`ok`, `unknown`, or the worker's own words about its provider."""
    uptime_s: float | None
    requests: int
    in_flight: int
    restarts: int
    fallbacks: int
    last_error: str | None
    base_url: str | None
    started_at: float | None
    """Seconds since the epoch when the present worker became ready."""
    generation: int
    wanted: bool
    detail: str
    """The state in words with its cause: `backoff 3, next in 1.8s; last: SIGKILL 4s ago`."""
    draining: list[dict[str, Any]]
    """Older generations that still finish their streams: generation, pid, in_flight."""
    deaths: list[dict[str, Any]]
    """The last unasked exits, newest last: at, cause, generation, pid, was_ready, lived_s, was_leaving."""
    queue: int | None
    """Connections that wait to be accepted, where the kernel tells."""
    rss: int | None
    """Bytes of memory that its worker has, where the kernel tells."""
    lazy: bool
    idle_stop_s: float | None
    max_rss: int | None
    """What was said of it by `up`."""
    fallback: list[str]
    """Where its requests go when its own provider fails."""
    limits: dict[str, float]
    """Those that are set, by the names of `SetRequest`."""
    tokens: list[str]
    """The names of the access tokens that are good for it."""
    token_required: bool
    log: str
    notes: list[str]
    """What the user should know of this `up`: another port than the usual one, and the like."""
    since: float | None = None
    """Seconds since the epoch when the state became what it is."""
    next: str = ""
    """What happens next if nobody does anything."""
    command: str = ""
    """What to run to have it otherwise."""
    failures: int = 0
    """Requests that ended in an error."""
    cost_usd: float | None = 0.0
    """What is known of the costs of all requests since the supervisor knows it; None: nothing is."""
    unpriced_requests: int = 0
    """Answers whose cost nobody knows."""
    waiting: int = 0
    """Of those in flight, how many wait in line for a place."""
    resting: list[str] = attrs.Factory(list)
    """Which of its own model and its fallbacks failed and are left alone for now, each with its cause."""
    log_drops: int = 0
    """Log lines that could not be written."""
    ledger_drops: int = 0
    """Rows of the ledger that were lost."""
    workers: list[dict[str, Any]] = attrs.Factory(list)
    """Every process of it, oldest first: generation, pid, phase, since, in_flight, oldest_s, silent_s, …"""
    targets: list[dict[str, Any]] = attrs.Factory(list)
    """Of a front: the proxies that it leads to, and how they are: name, model, port, state."""
    otherwise: str | None = None
    """Of a front of which nothing can go to Anthropic: the name of the proxy that gets what no rule takes."""
    leases: int = 0
    """How many use it just now and have said so: `proxyctl run`, `proxyctl ask`."""
    fronts: list[str] = attrs.Factory(list)
    """The fronts that are up and lead to it."""
    kept: bool = True
    """False: it goes with the last of both."""
    port_holder: str | None = None
    """Which other program has the port, as far as one can see: in the answer about one proxy only."""


@attrs.frozen
class Leased:
    """Somebody uses a proxy for as long as the connection on which this came stays open.

    What came up for that goes with the last who uses it, unless somebody has said `up` in the meantime.
    """

    lease: str
    proxy: ProxyView


@attrs.frozen
class Stopped:
    name: str
    port: int
    state: str = "stopped"
    already: str | None = None
    """`stopped` when there was nothing left to do."""
    also: list[str] = attrs.Factory(list)
    """Of a front: what went with it, for it was up for nobody else."""


@attrs.frozen
class Event:
    """Something that happened; `seq` grows by one. A reader that was too slow gets a `gap`."""

    seq: int
    at: float
    kind: str
    proxy: str | None
    text: str


_converter = strict_converter()
_T = TypeVar("_T")


def parse(body: bytes, cls: type[_T]) -> _T:
    """A request's body as `cls`; `Fault` names every problem. An empty body is an empty object."""
    try:
        document = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise Fault("bad_request", "the body is not JSON") from None
    if not isinstance(document, dict):
        raise Fault("bad_request", "the body must be a JSON object")
    try:
        return _converter.structure(document, cls)
    except Exception as error:  # cattrs raises groups of many types; all of them mean a bad body
        raise Fault("bad_request", "; ".join(problems(error))) from None


def to_json(value: Any) -> bytes:
    """An answer (one object or a list of them) as JSON; absent optional marks are left out."""
    return json.dumps(_plain(value), separators=(",", ":")).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, Fault):
        error = {"code": value.code, "message": value.message, "hint": value.hint}
        extra = {"env": value.env, "provider": value.provider}
        return {"error": error | {key: text for key, text in extra.items() if text is not None}}
    document = _converter.unstructure(value)
    if isinstance(value, Stopped):
        document = {key: said for key, said in document.items() if said not in (None, [])}
    return document
