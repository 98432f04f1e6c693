"""Which endpoint a request is for, and whether it may come in at all.

Theory of operation
-------------------
A port on localhost is open to every web page that the user's browser shows, and a worker holds keys.
Three facts keep pages out: a page that was rebound by DNS sends its own name as Host; every cross-origin
request that can change anything, and every CORS request, carries Origin; and what a page may send
without asking (a "simple" request) cannot have the content type of JSON. None of the agents that a
proxy is for runs inside a page, so every Origin is refused, loopback ones too: another local port may
belong to anybody's development server.
"""

from __future__ import annotations

import enum
import functools
import re
import urllib.parse
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

import attrs

from . import __version__
from .contract import WorkerSpec
from .dialects.seam import Sizes
from .failures import Failure, Kind


class Head(Protocol):
    """The part of a request that is read here."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    def header(self, name: bytes) -> bytes | None: ...
    def header_all(self, name: bytes) -> list[bytes]: ...


class Endpoint(enum.Enum):
    """What a worker can be asked."""

    MESSAGES = "messages"
    COUNT_TOKENS = "count_tokens"
    MODELS = "models"
    MODEL = "model"
    HEALTH = "health"
    ALIVE = "alive"
    ROOT = "root"
    HELLO = "hello"
    FORWARD = "forward"
    """Of the API, but the provider's own affair."""


@attrs.frozen
class Route:
    """A request that may come in."""

    endpoint: Endpoint
    model: str = ""
    """For MODEL: the id that was asked for."""


AGENT_HEADER = b"x-proxy-agent"
"""Which agent asks; the path says it as well, see `addressed`."""
VIA_HEADER = b"x-proxy-via"
"""Which front a request came through. Like the agent's name it says no more than clients may say of themselves."""
RECORDED_HEADER = b"x-proxy-recorded"
"""In an answer to a front: the ledger's row of this request is mine."""
ROUTE_HEADER = b"x-proxy-route"
"""In a front's answer: where the request went."""

SESSION_HEADERS = (b"x-claude-code-session-id", b"x-session-id")
"""Which conversation a request belongs to, as Claude Code and opencode say it."""

_AGENTS = "/a/"


def session(header: Callable[[bytes], bytes | None]) -> bytes | None:
    """The conversation's name, where the client says one."""
    return next((value for name in SESSION_HEADERS if (value := header(name))), None)


class Request(Head, Protocol):
    """All of a request's head."""

    @property
    def query(self) -> str: ...
    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]: ...


@attrs.frozen
class Addressed:
    """A request whose path began with who asks, without that."""

    head: Request
    path: str

    @property
    def method(self) -> str:
        return self.head.method

    @property
    def query(self) -> str:
        return self.head.query

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        return self.head.headers

    def header(self, name: bytes) -> bytes | None:
        return self.head.header(name)

    def header_all(self, name: bytes) -> list[bytes]:
        return self.head.header_all(name)


def addressed(path: str) -> tuple[str | None, str]:
    """`/a/code-reviewer/v1/messages` → `code-reviewer`, `/v1/messages`; None: the path names no agent."""
    if not path.startswith(_AGENTS):
        return None, path
    name, slash, rest = path[len(_AGENTS) :].partition("/")
    agent = urllib.parse.unquote(name)[:200]
    if not agent or not agent.isascii() or not agent.isprintable():
        return None, path
    return agent, slash + rest if rest else "/"


_READ = "GET, HEAD"
OTHERS = ("/v1/chat/completions", "/v1/responses")
"""Paths of other APIs. `forms.table` turns each POST of them into one of messages, so here the others are seen."""
_PATHS = {
    **dict.fromkeys(OTHERS, (Endpoint.MESSAGES, "POST")),
    "/v1/messages": (Endpoint.MESSAGES, "POST"),
    "/v1/messages/count_tokens": (Endpoint.COUNT_TOKENS, "POST"),
    "/v1/models": (Endpoint.MODELS, _READ),
    "/health": (Endpoint.HEALTH, _READ),
    "/livez": (Endpoint.ALIVE, _READ),
    "/": (Endpoint.ROOT, _READ),
    "/api/hello": (Endpoint.HELLO, _READ),
}
_MODEL = "/v1/models/"
_API = "/v1/"
_WITH_A_MODEL = ("/v1/messages", "/v1/messages/count_tokens")
_RESPONSES = "/v1/responses/"
_WITHOUT_V1 = frozenset(path.removeprefix("/v1") for path in (*OTHERS, "/v1/models"))
"""What a client of theirs asks for whose base URL lacks its end."""


def route(head: Head, *, forwards: bool = False) -> Route | Failure:
    """Where a request goes, or why it goes nowhere. `forwards`: the provider answers for all of its API."""
    return _guard(head) or (_forward(head) if forwards else None) or _find(head) or _not_found(head)


def cross(head: Head, models: Collection[str]) -> Route | Failure:
    """The same for a front, which answers only for itself and for the `models` that it leads to."""
    return _guard(head) or _of_a_front(head, models)


def _of_a_front(head: Head, models: Collection[str]) -> Route | Failure:
    found = _find(head)
    if is_of_another(head.path):
        return found or _not_found(head)
    if found is None or (isinstance(found, Failure) and found.kind is Kind.METHOD):
        return Route(Endpoint.FORWARD)
    if isinstance(found, Route) and found.endpoint is Endpoint.MODEL and found.model not in models:
        return Route(Endpoint.FORWARD)
    return found


def _forward(head: Head) -> Route | None:
    if not head.path.startswith(_API) or is_of_another(head.path):
        return None
    ours = head.method == "POST" and head.path in _WITH_A_MODEL
    return None if ours else Route(Endpoint.FORWARD)


def _find(head: Head) -> Route | Failure | None:
    if head.path.startswith(_MODEL) and len(head.path) > len(_MODEL):
        endpoint, allowed = Endpoint.MODEL, _READ
    elif head.path in _PATHS:
        endpoint, allowed = _PATHS[head.path]
    else:
        return None
    if head.method not in allowed.split(", "):
        return Failure(
            Kind.METHOD, f"{head.path} does not take {head.method}; allowed: {allowed}", allow=allowed
        )
    if head.method == "POST" and not _says_json(head):
        return Failure(Kind.INVALID, "content-type: must be application/json, and the body JSON")
    if head.method == "POST" and (coding := _coding(head)):
        return Failure(
            Kind.INVALID, f"content-encoding: {coding} is not supported; send the body uncompressed"
        )
    model = urllib.parse.unquote(head.path.removeprefix(_MODEL)) if endpoint is Endpoint.MODEL else ""
    return Route(endpoint, model)


def _not_found(head: Head) -> Failure:
    path = head.path[:200]
    if path in _WITHOUT_V1:
        return Failure(
            Kind.NOT_FOUND,
            f"no such endpoint: {path}; the base URL of a client of OpenAI's API must end in /v1",
        )
    if path.startswith(_RESPONSES):
        return Failure(Kind.NOT_FOUND, f"no such endpoint: {path}; responses are not stored here")
    if path.startswith("/v1/v1/"):
        return Failure(Kind.NOT_FOUND, f"no such endpoint: {path}; the base URL must not end in /v1")
    return Failure(Kind.NOT_FOUND, f"no such endpoint: {path}")


# --- who may come in ------------------------------------------------------------------------------


def _guard(head: Head) -> Failure | None:
    hosts = head.header_all(b"host")
    if len(hosts) != 1 or not is_loopback(hosts[0]):
        return Failure(
            Kind.FORBIDDEN,
            "host: this proxy answers only to localhost, 127.0.0.1 and [::1]; use one of these in the base URL",
        )
    if head.header(b"origin") is not None:
        return Failure(Kind.FORBIDDEN, "origin: requests from web pages are refused")
    if head.header(b"sec-fetch-site") in (b"cross-site", b"same-site"):
        return Failure(Kind.FORBIDDEN, "sec-fetch-site: requests from web pages are refused")
    # Only this mode: the fetch of Node.js says `cors` of itself.
    if head.header(b"sec-fetch-mode") == b"no-cors":
        return Failure(Kind.FORBIDDEN, "sec-fetch-mode: requests from web pages are refused")
    return None


_HOST = re.compile(
    rb"(?: (?: [a-z0-9-]+\. )* localhost \.? | 127 (?: \. (?: 25[0-5] | 2[0-4]\d | 1\d\d | [1-9]?\d ) ){3} | \[::1\] )"
    rb"(?: : \d{1,5} )?",
    re.VERBOSE | re.IGNORECASE,
)


@functools.lru_cache(maxsize=64)
def is_loopback(host: bytes) -> bool:
    """Does a Host header name this very machine? Any port is fine: proxies are reached by forwards too."""
    return _HOST.fullmatch(host.strip()) is not None


def _says_json(head: Head) -> bool:
    said = head.header(b"content-type") or b""
    return said.partition(b";")[0].strip().lower() == b"application/json"


def _coding(head: Head) -> str:
    """How the body is compressed; empty: it is not."""
    said = (head.header(b"content-encoding") or b"").strip().lower()
    return "" if said == b"identity" else header_safe(said.decode("latin-1")[:40]).decode("ascii")


# --- what an answer says of itself ----------------------------------------------------------------


def truth(model_id: str) -> tuple[bytes, bytes]:
    """The header that names what really answers."""
    return b"x-proxy-model", header_safe(model_id)


def header_safe(text: str) -> bytes:
    return "".join(char if " " <= char <= "~" else "?" for char in text).encode("ascii")


# --- small answers --------------------------------------------------------------------------------


@attrs.frozen
class Vital:
    """What `/health` shows of the running process."""

    pid: int
    uptime_s: float
    in_flight: int
    draining: bool
    upstream_ok: bool = True
    latency_ms: float | None = None
    checked_at: float | None = None
    detail: str = ""
    works: bool | None = None
    """Whether a request would be answered, by whichever target. None: as `upstream_ok` says."""
    instead: str | None = None
    """Who serves in place of the first target."""
    warnings: list[str] = attrs.Factory(list)
    """What its user should know although it works."""
    generation: int | None = None
    targets: list[dict[str, Any]] | None = None
    """Where requests may go; None when there is but one place."""
    queue: dict[str, Any] | None = None
    """Who is with the provider and who waits; None when nobody ever has to."""


def health(spec: WorkerSpec, vital: Vital) -> dict[str, Any]:
    """The body of `/health`. Where no provider works it is unhealthy; the worker still answers."""
    works = vital.upstream_ok if vital.works is None else vital.works
    is_well = works and vital.upstream_ok and vital.instead is None
    body: dict[str, Any] = {
        "healthy": works,
        "status": "draining" if vital.draining else "ok" if is_well else "degraded",
        "provider": spec.provider,
        "model": spec.model,
        "model_id": spec.model_id,
        "upstream": {
            "ok": vital.upstream_ok,
            "latency_ms": vital.latency_ms,
            "checked_at": vital.checked_at,
            "detail": vital.detail,
        },
        "pid": vital.pid,
        "port": spec.port,
        "version": __version__,
        "uptime_s": round(vital.uptime_s, 3),
        "in_flight": vital.in_flight,
    }
    if vital.warnings:
        body["warnings"] = vital.warnings
    if vital.instead is not None:
        body["served_by"] = vital.instead
    if vital.generation is not None:
        body["generation"] = vital.generation
    if vital.targets is not None:
        body["targets"] = vital.targets
    if vital.queue is not None:
        body["queue"] = vital.queue
    return body


def root(spec: WorkerSpec) -> dict[str, Any]:
    """What a person sees who opens the base URL."""
    return {
        "name": "modelproxy",
        "version": __version__,
        "model_id": spec.model_id,
        "endpoint": "/v1/messages",
    }


# --- the models list ------------------------------------------------------------------------------

MOST_MODELS = 1000
UNKNOWN = Sizes()


def alias(spec: WorkerSpec) -> str:
    """A name for the same model that Claude Code's picker shows: it keeps only ids that begin `claude`."""
    if spec.options.picker_alias:
        return spec.options.picker_alias
    if spec.model.startswith(("claude", "anthropic")):
        return spec.model
    return "claude-" + re.sub(r"[^A-Za-z0-9._-]+", "-", spec.model_id)


def wants_models(head: Head, path: str) -> bool:
    """Whether it asks for models without saying that it is Anthropic's client. `path`: without who asks."""
    return (path == "/v1/models" or path.startswith(_MODEL)) and not _is_anthropic(head)


def is_of_another(path: str) -> bool:
    """Whether only clients of OpenAI's APIs ask for this. `path`: without who asks."""
    return path in OTHERS or path in _WITHOUT_V1 or path.startswith(_RESPONSES)


def models(
    spec: WorkerSpec, query: str, sizes: Sizes = UNKNOWN, named: Sequence[str] | None = None
) -> dict[str, Any] | Failure:
    """The body of `GET /v1/models`. `named`: what a front leads to."""
    page = _page([spec.model_id, alias(spec)] if named is None else list(named), query)
    if isinstance(page, Failure):
        return page
    ids, more = page
    return {
        "data": [_entry(spec, one, sizes) for one in ids],
        "has_more": more,
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
    }


def model(
    spec: WorkerSpec,
    wanted: str,
    sizes: Sizes = UNKNOWN,
    named: Sequence[str] | None = None,
) -> dict[str, Any] | Failure:
    """The body of `GET /v1/models/{id}`."""
    if named is not None and wanted in named:
        return _entry(spec, wanted, sizes)
    if wanted not in (spec.model_id, alias(spec), spec.model):
        names = f"{spec.model_id}, {alias(spec)}"
        return Failure(Kind.NOT_FOUND, f"model: {wanted[:200]!r} is not served here; this proxy has {names}")
    return _entry(spec, wanted, sizes)


def _is_anthropic(head: Head) -> bool:
    return head.header(b"anthropic-version") is not None or head.header(b"x-api-key") is not None


def _entry(spec: WorkerSpec, model_id: str, sizes: Sizes) -> dict[str, Any]:
    return {
        "type": "model",
        "id": model_id,
        "display_name": spec.model_id if spec.front is None else model_id,
        "created_at": "1970-01-01T00:00:00Z",  # the documented way to say that it is unknown
        "max_input_tokens": sizes.window,
        "max_tokens": sizes.output,
        "lifecycle": "active",
        "capabilities": None,
    }


def _page(ids: list[str], query: str) -> tuple[list[str], bool] | Failure:
    asked = dict(urllib.parse.parse_qsl(query))
    limit = asked.get("limit", "20")
    if not re.fullmatch(r"\d{1,4}", limit, re.ASCII) or not 1 <= int(limit) <= MOST_MODELS:
        return Failure(Kind.INVALID, f"limit: must be a number from 1 to {MOST_MODELS}")
    # dict.fromkeys: a model may be its own alias.
    ids = list(dict.fromkeys(ids))
    after, before = asked.get("after_id"), asked.get("before_id")
    if after is not None:
        ids = ids[ids.index(after) + 1 :] if after in ids else []
    if before is not None:
        ids = ids[: ids.index(before)] if before in ids else []
        return ids[-int(limit) :], len(ids) > int(limit)
    return ids[: int(limit)], len(ids) > int(limit)
