"""What supervisor and worker say to each other, and nothing of how.

Theory of operation
-------------------
A worker *dials* the supervisor's private Unix socket and says `Hello`, with its listening sockets
attached to that first message. The same channel then carries readiness, heartbeat, drain, log
reopening and goodbye. When the supervisor dies, the worker serves on and dials again until the next
one answers: `Hello` therefore holds all that a supervisor without any memory needs to adopt it, its
full spec included (its secrets too: the channel is private to the user, the state file never holds one).

A message is one line of JSON with a `type`. An unknown type or a value of the wrong type is a
`ContractError`; an unknown *field* is ignored, because during an upgrade one end is newer than the
other, and refusing it would cost the very connection that the upgrade is meant to keep. This module is
pure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args

import attrs
import cattrs
from cattrs.gen import make_dict_structure_fn
from cattrs.strategies import configure_tagged_union

from . import __version__

PROTOCOL = 3
"""Raised when an older peer could not understand; the supervisor then rolls the worker."""

ADJUSTS = 2
"""From this protocol on a worker understands `Adjust`."""

MAX_LINE = 1024 * 1024
"""Longest message that either side accepts."""

# Exit codes of a worker. Anything else is a death.
EXIT_OK = 0
EXIT_USAGE = 2
EXIT_CONFIG = 78  # sysexits.h EX_CONFIG: starting again with the same spec cannot help

WITHHELD = "(withheld)\n"
"""Stands for the value of a header where a spec is without its secrets. None can be this: it has a line break."""


class ContractError(Exception):
    """The peer broke the contract; the text says how, without quoting values (they may be keys)."""


@attrs.frozen
class Limits:
    """How much a worker takes from one client."""

    max_body: int = 32 * 1024 * 1024
    max_connections: int = 1024
    head_timeout_s: float = 30.0
    """From the first byte of a request's head to its last."""
    body_idle_timeout_s: float = 60.0
    """How long a client may send nothing in the middle of its body."""
    keep_alive_s: float = 300.0
    """How long a connection may rest between two requests."""
    write_stall_timeout_s: float = 300.0
    """How long a client may take nothing while bytes wait for it."""


@attrs.frozen
class Timeouts:
    """How long the far side may take. None: no limit."""

    connect_s: float | None = None
    """None: 5 s on this machine, 10 s elsewhere."""
    first_byte_s: float = 300.0
    """To the first meaningful item of an answer; a local model may have to be loaded first."""
    idle_s: float | None = None
    """Between two items. None: 300 s on this machine, 120 s elsewhere."""
    total_s: float | None = None


def _names(headers: dict[str, str]) -> str:
    return repr(sorted(headers))


@attrs.frozen
class Options:
    """What is configured of a provider and its model. None: it is found out, or the dialect's own way."""

    headers: dict[str, str] = attrs.field(factory=dict, repr=_names)
    """Sent along with every request. Their values are secrets, their names are not."""
    tool_stream: str | None = None
    """`live`: a call's arguments are passed on while they come, and never repaired. None: calls come whole."""
    tools_unsupported: str | None = None
    """What becomes of tools that the model cannot be given: `strip` or `prompt`. None: they are refused."""
    tool_schemas: str | None = None
    """`strict`: without the keywords that small gateways refuse. None: as the server is known to take them."""
    num_ctx: int | None = None
    keep_alive: str | int | None = None
    think: bool | str | None = None
    """For Ollama: this value for this model, whatever the client says."""
    tool_images: str | None = None
    """For Ollama, `inline`: pictures of a tool's result stay in its message. None: they are lifted out of it."""
    context_window: int | None = None
    max_output_tokens: int | None = None
    capabilities: list[str] | None = None
    """`tools`, `vision`, `thinking`, …: where the provider cannot be asked."""
    api: str | None = None
    """`anthropic`: the server speaks the Messages API itself; its bytes are passed through."""
    server: str | None = None
    """What speaks chat completions there (`vllm`, `groq`, …), where neither its name nor its address tells."""
    fetch_images: bool = False
    """Pictures of which a request has only the address are fetched here and sent along."""
    pdf_to_text: str | None = None
    """A shell command: a PDF on its standard input, the text on its standard output."""
    web_search: bool = False
    """The provider's own web search may stand in for Anthropic's, where it has one (OpenRouter)."""
    picker_alias: str | None = None
    """The id under which Claude Code's picker shows the model. None: one is made of its name."""
    retries: int = 0
    hold_s: float = 10.0
    """How long a 200 may be held back: until then a failure can still be a status that clients repeat."""
    ping_s: float = 10.0
    """Silence on an open stream after which the client gets a `ping`."""

    def without_secrets(self) -> Options:
        """An empty value is none: it says that a header of the dialect's is not to be sent."""
        if not self.headers:
            return self
        return attrs.evolve(self, headers={name: value and WITHHELD for name, value in self.headers.items()})

    @property
    def lacks_secrets(self) -> bool:
        return WITHHELD in self.headers.values()


@attrs.frozen
class AccessToken:
    """A caller that is known by a secret of its own, and how much is taken on for it."""

    name: str
    sha256: str = attrs.field(repr=False)
    """Of the secret, in hexadecimal: enough to know it again, and of no use to anybody else."""
    rpm: int | None = None
    max_concurrent: int | None = None


@attrs.frozen
class Access:
    """Who may ask a proxy."""

    required: bool = False
    """Nobody without a token."""
    tokens: list[AccessToken] = attrs.Factory(list)
    """Those that are good here; the proxy knows no others."""


@attrs.frozen(kw_only=True)
class Bounds:
    """How much a proxy takes on. None: no limit, or of a wish: as it is, and there 0 is no limit."""

    max_concurrent: int | None = None
    """Requests that are with a provider at the same time; others wait in line."""
    rpm: int | None = None
    """Requests per minute; as many may come at once after a minute of rest."""
    queue_size: int | None = None
    """Requests that may wait in line."""
    queue_timeout_s: float | None = None
    """How long each of them may wait."""
    max_body: int | None = None
    """Bytes of a request's body. None: `Limits.max_body`."""
    max_context: int | None = None
    """Tokens of a prompt, by our estimate."""
    request_timeout_s: float | None = None
    """From a request's head to the end of its answer, waiting included."""

    def limits(self) -> dict[str, float]:
        """Those that are said, by their names."""
        values = {field.name: getattr(self, field.name) for field in attrs.fields(Bounds)}
        return {name: value for name, value in values.items() if value is not None}


@attrs.frozen
class Quota(Bounds):
    """How much a proxy takes on, and from whom; may be changed while it serves."""

    access: Access = attrs.Factory(Access)


@attrs.frozen
class Target:
    """One place where a request may go. The fields are those of `WorkerSpec` that say so."""

    provider: str
    model_id: str
    """As the user wrote it; `anthropic` alone: the caller's own request, to Anthropic."""
    kind: str
    model: str
    """Empty: whatever the caller names."""
    base_url: str | None = None
    api_key: str | None = attrs.field(default=None, repr=False)
    timeouts: Timeouts = Timeouts()
    options: Options = Options()

    def without_secrets(self) -> Target:
        return attrs.evolve(self, api_key=None, options=self.options.without_secrets())


@attrs.frozen
class FrontRule:
    """Where a request goes that fulfils all that is said here; see `front`."""

    to: str
    """The name of a `Place`, or `anthropic`: the caller's own request, to Anthropic."""
    agent: str | None = None
    model: str | None = None
    request: str | None = None
    marker: str | None = None
    session: str | None = None


@attrs.frozen
class Place:
    """Another proxy, as a front reaches it."""

    name: str
    model_id: str
    url: str | None
    """None: it is not up."""
    trouble: str = ""
    """Why it is not, where that is known, and what helps."""


@attrs.frozen
class Front:
    """What a worker of the kind `front` goes by: the first rule that fits decides."""

    rules: list[FrontRule] = attrs.Factory(list)
    places: list[Place] = attrs.Factory(list)
    otherwise: str = "anthropic"


@attrs.frozen
class WorkerSpec:
    """The full resolved order a worker is born with."""

    name: str
    """The proxy's name, as `ps` lists it."""
    model_id: str
    """As the user wrote it: `ollama/qwen2.5-coder:7b`."""
    provider: str
    kind: str
    """Which dialect the provider speaks."""
    model: str
    """The provider's own name for the model."""
    port: int
    base_url: str | None = None
    api_key: str | None = attrs.field(default=None, repr=False)
    grace_s: float = 30.0
    """How long streams may go on after SIGTERM or `down` before they are ended in-band."""
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    options: Options = Options()
    fallback: list[Target] = attrs.Factory(list)
    """Where a request goes, in this order, when the one above fails before it has said anything."""
    quota: Quota = Quota()
    front: Front | None = None
    """Of the kind `front` only."""

    @property
    def said(self) -> str:
        """What its user calls it, and a front its place: not with the `@port` of a second one."""
        return self.model_id if "/" in self.name else self.name.partition("@")[0]

    @property
    def places(self) -> list[WorkerSpec | Target]:
        """Itself and its targets: each has a key and headers of its own."""
        return [self, *self.fallback]

    def without_secrets(self) -> WorkerSpec:
        """Same spec as it may be written to disk or shown: without keys, and without the values of headers."""
        return attrs.evolve(
            self,
            api_key=None,
            options=self.options.without_secrets(),
            fallback=[one.without_secrets() for one in self.fallback],
        )

    @property
    def keys(self) -> list[str | None]:
        return [place.api_key for place in self.places]

    @property
    def has_key(self) -> bool:
        return any(key is not None for key in self.keys)

    @property
    def lacks_headers(self) -> bool:
        """It is as it was written to disk. Of a key nothing stands there: whoever writes has to say that it had one."""
        return any(place.options.lacks_secrets for place in self.places)

    def towards(self, target: Target) -> WorkerSpec:
        """The spec of a worker for this target alone, in the same place and under the same name."""
        fields = {field.name: getattr(target, field.name) for field in attrs.fields(Target)}
        return attrs.evolve(self, fallback=[], **fields)


# --- worker to supervisor -------------------------------------------------------------------------


@attrs.frozen
class Beat:
    """Said by a task of the worker's event loop, so that it proves the loop is alive."""

    lag_s: float
    """How much later than planned the loop woke."""
    requests: int
    in_flight: int
    failures: int = 0
    """Requests that ended in an error."""
    log_drops: int = 0
    last_error: str | None = None
    ledger_drops: int = 0
    """Rows that were lost because their file was in trouble for too long."""
    oldest_s: float | None = None
    """For how long the oldest request in flight has been running."""
    cost_usd: float = 0.0
    """What is known of the costs of all requests."""
    unpriced: int = 0
    """Answers whose cost nobody knows."""
    fallbacks: int = 0
    """Requests that went elsewhere than they should."""
    accepted: int | None = None
    """Connections taken so far; None: a worker that does not say."""
    waiting: int = 0
    """Of those in flight, how many wait in line for a place."""
    resting: list[str] = attrs.Factory(list)
    """Targets that failed and are left alone for now, each with its cause."""
    starved: str | None = None
    """What is missing to take the next one (descriptors, memory), in the system's words, while it is."""


@attrs.frozen
class Hello:
    """First message of a worker; its listening sockets travel with it."""

    name: str
    generation: int
    pid: int
    token: str = attrs.field(repr=False)
    spec: WorkerSpec | None = None
    """None: a newborn that asks for its spec."""
    serving: bool = False
    """True: it said `ready` to an earlier supervisor."""
    draining: bool = False
    started_at: float = 0.0
    """Seconds since the epoch."""
    requests: int = 0
    in_flight: int = 0
    fallbacks: int = 0
    beat: Beat | None = None
    """All that it has counted, once it serves; an older worker says the three above only."""
    protocol: int = PROTOCOL
    version: str = __version__


@attrs.frozen
class Ready:
    """The listener is in the event loop: connections are being accepted."""


@attrs.frozen
class Health:
    """The worker's view of its provider; never a reason to restart."""

    ok: bool
    detail: str = ""


@attrs.frozen
class Bye:
    """The worker is about to leave on purpose: its exit will be a stop, not a death."""

    reason: str
    code: int = EXIT_OK


# --- supervisor to worker -------------------------------------------------------------------------


@attrs.frozen
class Welcome:
    """Answer to `Hello`. A newborn gets its spec here."""

    spec: WorkerSpec | None = None


@attrs.frozen
class Drain:
    """Accept nothing more, finish what is in flight, end the rest in-band at the deadline, exit 0."""

    grace_s: float
    reason: str = "stopping"


@attrs.frozen
class Reopen:
    """The log file was renamed: open it anew."""


@attrs.frozen
class Adjust:
    """From now on these limits hold, and a front leads so; what is in flight is left alone."""

    quota: Quota
    front: Front | None = None


FromWorker = Hello | Ready | Beat | Health | Bye
FromSupervisor = Welcome | Drain | Reopen | Adjust

_T = TypeVar("_T")


def strict_converter(*, forbid_extra_keys: bool = True) -> cattrs.Converter:
    """A converter without silent conversions (cattrs alone turns 5 into '5')."""
    converter = cattrs.Converter(forbid_extra_keys=forbid_extra_keys, detailed_validation=True)

    def exactly(kind: type[_T]) -> Callable[[Any, Any], _T]:
        def check(value: Any, _: Any) -> _T:
            if type(value) is not kind:
                raise TypeError(f"expected {kind.__name__}")
            return value

        return check

    for kind in (str, int, bool):
        converter.register_structure_hook(kind, exactly(kind))

    def a_float(value: Any, _: Any) -> float:
        if type(value) not in (int, float):
            raise TypeError("expected float")
        return float(value)

    converter.register_structure_hook(float, a_float)

    def an_object(cls: type[Any]) -> Callable[[Any, Any], Any]:
        structure = make_dict_structure_fn(cls, converter, _cattrs_forbid_extra_keys=forbid_extra_keys)

        def check(value: Any, kind: Any) -> Any:
            if type(value) is not dict:  # cattrs alone takes any text for a class without required fields
                raise TypeError("expected an object")
            return structure(value, kind)

        return check

    converter.register_structure_hook_factory(attrs.has, an_object)

    def one_of(union: Any) -> Callable[[Any, Any], Any]:
        names = " or ".join(kind.__name__ for kind in get_args(union) if kind is not NoneType)

        def check(value: Any, _: Any) -> Any:
            if type(value) not in get_args(union):
                raise TypeError(f"expected {names}")
            return value

        return check

    converter.register_structure_hook_factory(_is_choice_of_scalars, one_of)
    return converter


def _is_choice_of_scalars(kind: Any) -> bool:
    """`str | int | None` and the like, which cattrs leaves to us."""
    return isinstance(kind, UnionType) and set(get_args(kind)) <= {str, int, bool, NoneType}


def _channel_converter() -> cattrs.Converter:
    converter = strict_converter(forbid_extra_keys=False)
    for union in (FromWorker, FromSupervisor):
        configure_tagged_union(
            union, converter, tag_name="type", tag_generator=lambda cls: str(cls.__name__).lower()
        )
    return converter


_converter = _channel_converter()


def encode(message: FromWorker | FromSupervisor, family: Any) -> bytes:
    """One line for the channel. `family` is FromWorker or FromSupervisor."""
    document = _converter.unstructure(message, unstructure_as=family)
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def decode_worker(line: bytes) -> FromWorker:
    """Read what a worker said."""
    return _decode(line, FromWorker)  # type: ignore[no-any-return]  # cattrs takes unions, mypy's type[] does not


def decode_supervisor(line: bytes) -> FromSupervisor:
    """Read what the supervisor said."""
    return _decode(line, FromSupervisor)  # type: ignore[no-any-return]  # as above


def _decode(line: bytes, family: Any) -> Any:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        raise ContractError("not JSON") from None
    known = {cls.__name__.lower() for cls in family.__args__}
    kind = document.get("type") if isinstance(document, dict) else None
    if not isinstance(kind, str) or kind not in known:
        # Checked here because cattrs words an unknown tag as "required field missing".
        raise ContractError(f"unknown message, expected one of {', '.join(sorted(known))}")
    try:
        return _converter.structure(document, family)
    except Exception as error:  # cattrs raises groups of many types; only paths may leave, never values
        raise ContractError("; ".join(problems(error))) from None


def warm() -> None:
    """Have cattrs write now what it writes when a class is first met: it takes longer than all else at a birth."""
    spec = WorkerSpec(name="-", model_id="-", provider="-", kind="echo", model="-", port=0)
    beat = Beat(0.0, 0, 0)
    words = (Ready(), beat, Health(ok=True), Bye("-"))
    for spoken in (Hello("-", 1, 1, "-"), Hello("-", 1, 1, "-", spec, beat=beat), *words):
        decode_worker(encode(spoken, FromWorker))
    for told in (Welcome(spec), Welcome(), Drain(0.0), Reopen()):
        decode_supervisor(encode(told, FromSupervisor))


def problems(error: BaseException) -> list[str]:
    """Every problem in a cattrs error, with its path and without the offending value."""
    return [str(text) for text in cattrs.transform_error(error)]


class Lines:
    """Splits the channel's bytes into lines, however they were cut."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield each line that `data` completes."""
        self._buffer += data
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            yield line
        if len(self._buffer) > MAX_LINE:
            raise ContractError("message too long")


__all__ = [
    "ADJUSTS",
    "EXIT_CONFIG",
    "EXIT_OK",
    "EXIT_USAGE",
    "MAX_LINE",
    "PROTOCOL",
    "WITHHELD",
    "Access",
    "AccessToken",
    "Adjust",
    "Beat",
    "Bounds",
    "Bye",
    "ContractError",
    "Drain",
    "FromSupervisor",
    "FromWorker",
    "Front",
    "FrontRule",
    "Health",
    "Hello",
    "Limits",
    "Lines",
    "Options",
    "Place",
    "Quota",
    "Ready",
    "Reopen",
    "Target",
    "Timeouts",
    "Welcome",
    "WorkerSpec",
    "decode_supervisor",
    "decode_worker",
    "encode",
    "problems",
    "strict_converter",
    "warm",
]
