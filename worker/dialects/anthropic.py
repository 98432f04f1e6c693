"""Passing a provider's own Messages API through: what of a request and its answer is touched, and what is seen.

Theory of operation
-------------------
Nothing is translated. Of a request's body only the model's name is replaced, at its place among the bytes;
of its headers what belongs to the connection stays behind, and the caller's credential when a key is
configured or the provider is not Anthropic. The answer's bytes are the provider's own.

A `Sniffer` sees a copy of them. It learns what the ledger wants to know and the two facts on which honesty
hangs: whether the stream has said that it is over, and whether something may be added to it. Whatever it
does not understand it ignores, so it can never be the reason why an answer fails.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
import msgspec

from modelproxy.worker import failures, tokens
from modelproxy.worker.access import carries_token
from modelproxy.worker.contract import WorkerSpec
from modelproxy.worker.failures import Failure, Kind, Refused
from modelproxy.worker.model_ids import REMOTE
from modelproxy.worker.wire import asks, codec, hops, longs, sse
from modelproxy.worker.wire.items import Usage

from . import errors, names, quirks, searches, thinking, turns
from .seam import Headers, Terms

KIND = "anthropic"
API = "anthropic"
"""The value of `Options.api` for others who speak it."""


@attrs.frozen
class Manner:
    """What is left to one that speaks the protocol, because it does so better than we could for it."""

    has_all: bool = False
    """Every path of the API."""
    counts: bool = False
    """A prompt's tokens."""
    words: bool = False
    """What it refuses, and why, in words that clients understand."""
    heals: bool = False
    """Histories that others have written: what of them it cannot take, it leaves out itself."""
    takes_stamp: bool = False
    """Claude Code's billing stamp, which to any other is a text that differs and costs it its prompt cache."""
    names_itself: bool = False
    """`x-proxy-model` of its answers says what has really answered."""
    says_why: bool = False
    """A 401 of it need not be about our key: it may be handed on from behind."""


_PLAIN = Manner()
MANNERS = {
    KIND: Manner(has_all=True, counts=True, words=True, takes_stamp=True),
    REMOTE: Manner(counts=True, words=True, heals=True, takes_stamp=True, names_itself=True, says_why=True),
}
"""By kind."""


def manner(spec: WorkerSpec) -> Manner:
    """Of others who pass through (`api = "anthropic"`) nothing is known."""
    return MANNERS.get(spec.kind, _PLAIN)


def passes_through(spec: WorkerSpec) -> bool:
    """Whether the provider gets the client's bytes."""
    return spec.kind in MANNERS or spec.options.api == API


def is_anthropics(spec: WorkerSpec) -> bool:
    """Whether the caller's own credential may go there: to what is called `anthropic`, not to all who speak like it."""
    return spec.kind == KIND and spec.provider == KIND


# --- the request's body -------------------------------------------------------------------------------


@attrs.frozen
class Asked:
    """The little of a request that must be known."""

    model: str
    stream: bool
    has_thread: bool = False
    has_safeguards: bool = False
    features: tuple[str, ...] = ()
    """Of `asks.FEATURES` those that it uses."""


class _Peek(msgspec.Struct):
    model: Any = None
    stream: Any = None
    thread: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    safeguards: Any = None
    mcp_servers: Any = None
    container: Any = None


_peek = msgspec.json.Decoder(_Peek)


def peek(body: bytes) -> Asked:
    """Read no more than needed: what else is wrong, the provider says in its own words. Raises Refused."""
    try:
        found = _peek.decode(body)
    except (ValueError, RecursionError):
        found = _peek_slowly(body)
    model = found.model
    if not isinstance(model, str) or not model:
        raise Refused(Failure(Kind.INVALID, "model: must be a non-empty string"))
    features = tuple(name for name in asks.FEATURES if getattr(found, name))
    has_thread, has_safeguards = found.thread is not msgspec.UNSET, found.safeguards is not None
    return Asked(model, found.stream is True, has_thread, has_safeguards, features)


def _peek_slowly(body: bytes) -> _Peek:
    try:
        found = codec.loads(body)
    except ValueError as error:
        raise Refused(Failure(Kind.INVALID, f"the body is not valid JSON: {error}")) from None
    if not isinstance(found, dict):
        raise Refused(Failure(Kind.INVALID, "the body must be a JSON object"))
    thread = msgspec.Raw() if "thread" in found else msgspec.UNSET
    others = (found.get(name) for name in ("safeguards", *asks.FEATURES))
    return _Peek(found.get("model"), found.get("stream"), thread, *others)


def refuse_features(spec: WorkerSpec, asked: Asked) -> None:
    """What others who speak the protocol would leave out in silence. Raises Refused."""
    if manner(spec).words:
        return  # it has them, or says itself that it has not
    if asked.has_thread:
        raise asks.no_thread()
    if asked.has_safeguards:
        raise asks.no_safeguards(spec.provider)
    if asked.features:
        raise asks.no_feature(asked.features[0], spec.provider)


def prepared(body: bytes, model: str, manner: Manner) -> bytes:
    """The body as the provider gets it. Without a model of ours the caller's own stays."""
    found = with_model(body, model) if model else body
    if not manner.heals:
        found = with_fit_ids(without_foreign_thinking(found))
    return found if manner.takes_stamp else without_stamp(found)


def with_model(body: bytes, model: str) -> bytes:
    """The same bytes but for the value of `model`. `body` is a JSON object."""
    spans = list(_model_spans(body))
    if not spans:  # cannot be, as `peek` has seen it; but nothing may leave under another name
        raise Refused(Failure(Kind.INVALID, "model: cannot be found in the body"))
    if all(codec.loads(body[start:end]) == model for start, end in spans):
        return body
    value, parts, done = codec.dumps(model), [], 0
    for start, end in spans:
        parts += [body[done:start], value]
        done = end
    return b"".join([*parts, body[done:]])


def _model_spans(body: bytes) -> Iterator[tuple[int, int]]:
    """Where the values of the top level's `model` stand; of several, JSON's readers take one or the other."""
    depth = 0
    for token in _TOKEN.finditer(body):
        first = token[0][:1]
        if first in b"{[":
            depth += 1
        elif first in b"}]":
            depth -= 1
        elif depth == 1 and _is_model(token[0]):
            value = _VALUE.match(body, token.end())
            if value is not None:
                yield value.span(1)


def _is_model(token: bytes) -> bool:
    return token == b'"model"' or (b"\\" in token and codec.loads(token) == "model")


def without_foreign_thinking(body: bytes) -> bytes:
    """The same without what Anthropic would refuse: reasoning of ours or that nobody has signed, searches that it has
    not run, and texts without a character.

    A session that began at another provider brings such blocks, and each would fail every later turn.
    """
    return _without(body, _is_foreign) if _MAY_BE_FOREIGN.search(body) else body


def _is_foreign(block: dict[str, Any]) -> bool:
    nothing = block.get("type") == "text" and block.get("text") == ""  # of a model that had nothing to say
    return nothing or thinking.is_foreign_to_anthropic(block) or searches.is_ours(block)


def _without(body: bytes, goes: Callable[[dict[str, Any]], bool]) -> bytes:
    try:
        document = codec.loads(body)
    except ValueError:
        return body  # `peek` reads no more than it must; the provider says what is wrong with the rest
    messages = document.get("messages") if isinstance(document, dict) else None
    if not isinstance(messages, list):
        return body
    kept = [one for one in (_cleaned(message, goes) for message in messages) if one is not None]
    if kept == messages:
        return body
    document["messages"] = kept
    if lacks_its_thinking(kept) and _type_in(document.get("thinking")) == "enabled":
        document["thinking"] = {"type": "disabled"}
    return codec.dumps(document)


def _cleaned(message: Any, goes: Callable[[dict[str, Any]], bool]) -> Any | None:
    """None: nothing is left of it; the turns on both sides then count as one."""
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list) or message.get("role") != "assistant":
        return message
    kept = [block for block in content if not (isinstance(block, dict) and goes(block))]
    if len(kept) == len(content):
        return message
    return {**message, "content": kept} if kept else None


_STAMP = turns.BILLING.encode("ascii")


def without_stamp(body: bytes) -> bytes:
    """The same without the billing stamp at the beginning of a system text."""
    if _STAMP not in body:
        return body
    try:
        document = codec.loads(body)
    except ValueError:
        return body
    system = codec.as_dict(document).get("system")
    said = [{"type": "text", "text": system}] if isinstance(system, str) else system
    said = said if isinstance(said, list) else []
    kept = [block for block in map(_unstamped, said) if block is not None]
    if kept == said:
        return body
    document["system"] = kept
    return codec.dumps(document)


def _unstamped(block: Any) -> Any | None:
    """None: nothing is left of it."""
    text = block.get("text") if isinstance(block, dict) else None
    if not isinstance(text, str) or not text.startswith(turns.BILLING):
        return block
    rest = turns.without_billing(text)
    return {**block, "text": rest} if rest else None


def with_fit_ids(body: bytes) -> bytes:
    """The same with such ids of calls as Anthropic takes: it refuses the `functions.Bash:0` of others, every turn."""
    if not _MAY_BE_UNFIT.search(body):
        return body
    try:
        document = codec.loads(body)
    except ValueError:
        return body
    contents = [one.get("content") for one in codec.as_dicts(codec.as_dict(document).get("messages"))]
    unfit = [
        (block, key)
        for content in contents
        for block in codec.as_dicts(content)
        if (key := _CALL_IDS.get(str(_type_in(block)))) is not None
        and isinstance(block.get(key), str)
        and not names.is_fit_for_anthropic(block[key])
    ]
    for block, key in unfit:
        block[key] = names.upstream_id(block[key])
    return codec.dumps(document) if unfit else body


_CALL_IDS = {"tool_use": "id", "tool_result": "tool_use_id"}
_MAY_BE_UNFIT = re.compile(rb'"(?:tool_use_)?id"\s*:\s*"(?![\w-]+")')


def lacks_its_thinking(messages: list[Any]) -> bool:
    """Whether the last turn of calls begins without the reasoning that `enabled` demands of it."""
    said = [one for one in messages if isinstance(one, dict) and one.get("role") == "assistant"]
    content = said[-1].get("content") if said else None
    kinds = [_type_in(block) for block in content] if isinstance(content, list) else []
    return "tool_use" in kinds and kinds[0] not in ("thinking", "redacted_thinking")


def _type_in(block: Any) -> Any:
    return block.get("type") if isinstance(block, dict) else None


_MAY_BE_FOREIGN = re.compile(rb'"px1\.|"signature"\s*:\s*(?:""|null)|"srvtoolu_px_|"text"\s*:\s*""')
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]]', re.DOTALL)
_VALUE = re.compile(rb'\s*:\s*("[^"\\]*(?:\\.[^"\\]*)*"|[^\s,}\]\[{"]+)', re.DOTALL)


# --- headers ------------------------------------------------------------------------------------------

HOPS_HEADER = b"x-proxy-hops"
"""Between two modelproxies: how many a request has come through."""
MOST_HOPS = 8
"""Nobody has so many in a row on purpose: they lead to each other."""
_CREDENTIALS = frozenset({b"authorization", b"x-api-key"})
_STAY_BEHIND = hops.OF_REQUEST | {
    # What tells of this machine rather than of the request.
    b"cookie",
    b"forwarded",
    b"via",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
    b"x-proxy-agent",
    HOPS_HEADER,
    b"x-proxy-via",
    b"x-real-ip",
}
_NOT_FOR_CLIENTS = hops.OF_CONNECTION | {
    # What a browser would take for a promise of localhost.
    b"alt-svc",
    b"proxy-authenticate",
    b"set-cookie",
    b"strict-transport-security",
}
_LIMITS = b"anthropic-ratelimit-"
_OAUTH = "sk-ant-oat"


def headers_up(headers: Headers, spec: WorkerSpec) -> Headers:
    """What the provider gets to see of a client's headers; names are in lower case. Raises Refused."""
    dropped = (
        _STAY_BEHIND
        | _named_by_connection(headers)
        | {name.lower().encode() for name in spec.options.headers}
    )
    if spec.api_key is not None or not is_anthropics(spec):
        dropped |= _CREDENTIALS
    kept = [
        (name, value) for name, value in headers if name not in dropped and not carries_token(name, value)
    ]
    ours = _credential(spec) + _attribution(spec) + _hop(headers, spec)
    return kept + ours + _configured(spec.options.headers)


def _named_by_connection(headers: Headers) -> set[bytes]:
    values = [value for name, value in headers if name == b"connection"]
    return {one.strip().lower() for value in values for one in value.split(b",")}


def _credential(spec: WorkerSpec) -> Headers:
    if spec.api_key is None:
        return []
    if spec.kind == KIND and not spec.api_key.startswith(_OAUTH):
        return [(b"x-api-key", spec.api_key.encode())]
    return [(b"authorization", b"Bearer " + spec.api_key.encode())]


def _hop(headers: Headers, spec: WorkerSpec) -> Headers:
    if not manner(spec).names_itself:
        return []
    said = dict(headers).get(HOPS_HEADER, b"0")
    hops = 1 + (int(said) if re.fullmatch(rb"[0-9]{1,4}", said) else 0)
    if hops > MOST_HOPS:
        words = (
            f"{spec.provider}: the request has come through {MOST_HOPS} modelproxies; they lead to each other"
        )
        raise Refused(Failure(Kind.INVALID, words))
    return [(HOPS_HEADER, b"%d" % hops)]


def _attribution(spec: WorkerSpec) -> Headers:
    """How a router knows the app; a name that the user configures is left to them."""
    row = quirks.SERVERS.get(spec.kind, quirks.PLAIN)
    ours = {name.lower() for name in spec.options.headers}
    return _configured({name: value for name, value in row.headers.items() if name.lower() not in ours})


def _configured(headers: Mapping[str, str]) -> Headers:
    """An empty one only removes what would be there."""
    return [(name.lower().encode(), value.encode()) for name, value in headers.items() if value]


def headers_down(headers: Headers, *, shared: bool = False) -> Headers:
    """What the client gets to see of a provider's headers; the request's id is the caller's to add.

    `shared`: others use the same key, whose limits are not the caller's.
    """
    dropped = _NOT_FOR_CLIENTS | _named_by_connection(headers) | {b"request-id"}
    kept = [(name, value) for name, value in headers if name not in dropped]
    return [one for one in kept if not one[0].startswith(_LIMITS)] if shared else kept


def is_subscription(headers: Headers, spec: WorkerSpec) -> bool:
    """Whether a plan pays for the request instead of a price per token."""
    if spec.kind != KIND:
        return False
    if spec.api_key is not None:
        return spec.api_key.startswith(_OAUTH)
    if not is_anthropics(spec):
        return False
    values = [value.split() for name, value in headers if name == b"authorization"]
    return any(parts[-1:] and parts[-1].startswith(_OAUTH.encode()) for parts in values)


# --- refusals -----------------------------------------------------------------------------------------


def without_refused_thinking(status: int, answer: bytes, asked: bytes) -> bytes | None:
    """The request to try instead when reasoning of its history was refused; None: that was not the reason."""
    if status != 400 or not _SIGNATURE.search(errors.read(answer).message):
        return None
    stripped = _without(asked, thinking.is_thinking)
    return None if stripped == asked else stripped


def refusal(
    spec: WorkerSpec,
    status: int,
    headers: Headers,
    body: bytes,
    *,
    title: str,
    prompt_tokens: int = 0,
    own_words: bool = True,
) -> Failure | None:
    """What the client is told in place of an error; None: the provider's own words are as they should be.

    Anthropic's are, but for pages of whatever stands before it and a 413, at which clients would shrink and
    repeat without end. Others that speak its protocol have statuses and words of their own. `own_words`
    False: they cannot be said any more.
    """
    ours = spec.api_key is not None or not is_anthropics(spec)
    if status == 401 and manner(spec).says_why:
        said = errors.read(body).message[:300] or "status 401"
        hint = f"what is sent as its access token is set with: proxyctl keys set {spec.provider}"
        return Failure(Kind.KEY_REJECTED, f"{title} says: {said} - {hint}")
    if status == 401 and ours:
        words = f"{title} does not accept the API key that is configured for {spec.provider}"
        return Failure(Kind.KEY_REJECTED, f"{words} - set another with: proxyctl keys set {spec.provider}")
    if own_words and manner(spec).words and status != 413 and _is_envelope(body):
        return None
    terms = Terms(spec.provider, spec.model, spec.options, spec.api_key, spec.options.context_window)
    return errors.from_answer(status, headers, body, terms, title=title, prompt_tokens=prompt_tokens)


def false_success(spec: WorkerSpec, body: bytes, *, title: str, prompt_tokens: int = 0) -> Failure | None:
    """What is wrong with a body that came under a 200; None: nothing that can be seen."""
    top = longs.fields(body) or {}
    if _says(top) and "error" not in top and bytes(memoryview(top.get("type", _NO))) != b'"error"':
        return None  # so far without having decoded megabytes of text
    try:
        said = codec.as_dict(codec.loads(body))
    except ValueError:
        said = {}
    if said.get("type") == "error" or said.get("error"):
        return in_place(spec, said.get("error") or said, title=title, prompt_tokens=prompt_tokens)
    if _says(said):
        return None
    return Failure(Kind.PROVIDER, f"{title} answered something that is no message: {errors.plain(body)[:80]}")


def in_place(spec: WorkerSpec, error: Any, *, title: str, prompt_tokens: int = 0) -> Failure:
    """What an error in the place of an answer means, inside a 200."""
    terms = Terms(spec.provider, spec.model, spec.options, spec.api_key, spec.options.context_window)
    return errors.in_stream(error, terms, title=title, prompt_tokens=prompt_tokens)


def _says(document: Mapping[str, Any]) -> bool:
    """True of a message and of a count."""
    return "content" in document or "input_tokens" in document


_NO = msgspec.Raw(b"null")


def _is_envelope(body: bytes) -> bool:
    found = _understood(body)
    return found is not None and found.type == "error" and found.error is not None


_SIGNATURE = re.compile(r"\bsignature\b", re.IGNORECASE)


# --- the answer ---------------------------------------------------------------------------------------


class _Bill(msgspec.Struct):
    upstream_inference_cost: float | None = None


class _Counts(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cost: float | None = None
    """A router's charge."""
    is_byok: bool | None = None
    """The provider behind it sends its own bill, to the user."""
    cost_details: _Bill | None = None


class _Delta(msgspec.Struct):
    stop_reason: str | None = None
    text: str = ""
    thinking: str = ""
    partial_json: str = ""


class _Error(msgspec.Struct):
    type: str = ""
    message: str = ""


class _Message(msgspec.Struct):
    usage: _Counts | None = None


class _Said(msgspec.Struct):
    """Any event, and a whole answer as well."""

    type: str = ""
    message: _Message | None = None
    usage: _Counts | None = None
    delta: _Delta | None = None
    error: _Error | None = None
    stop_reason: str | None = None


_said = msgspec.json.Decoder(_Said)

# Two line ends in a row, where CR LF is one; only the last bytes are looked at.
_BLANK_LINE = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)\Z")


class Sniffer:
    """What an answer says of itself. Sees the bytes, changes none; see `accounts.Told`."""

    def __init__(self) -> None:
        self.said = Usage()
        self.stop_reason: str | None = None
        self.spoke = False
        """An event has come; pings and comments are sent by whoever is alive."""
        self.refused = False
        """That event was an error."""
        self.begun = False
        """Something of the answer itself has come."""
        self.over = False
        """It has said that it is complete, or why it is not."""
        self.error: tuple[str, str] | None = None
        """Type and message of the provider's own error."""
        self._decoder: sse.Decoder | None = sse.Decoder()
        self._tail = b""
        self._output_bytes = 0
        self._first_output = 0

    @property
    def at_boundary(self) -> bool:
        """No event is half said: another one may follow."""
        return not self._tail or _BLANK_LINE.search(self._tail) is not None

    def feed(self, data: bytes) -> None:
        """Some bytes of an event stream, however they were cut."""
        self._tail = (self._tail + data[-4:])[-4:]
        if self._decoder is None:
            return
        try:
            for event in self._decoder.feed(data):
                self._event(event)
        except sse.EventTooLong:
            self._decoder, self.spoke = None, True

    def whole(self, body: bytes) -> None:
        """The body of an answer that is no stream."""
        self.begun = self.over = True
        found = _understood(body)
        if found is not None:
            self._count(found.usage)
            self.stop_reason = found.stop_reason
            self._fail(found.error if found.type == "error" else None)

    def usage(self) -> dict[str, int]:
        """The provider's numbers; what has come since counts by our estimate. Empty: it said none."""
        said = self.said
        if said.input_tokens is None and said.output_tokens is None and not self._output_bytes:
            return {}
        usage = {
            "cache_creation_input_tokens": said.cache_creation_input_tokens,
            "cache_read_input_tokens": said.cache_read_input_tokens,
            "output_tokens": said.output_tokens
            if said.output_tokens is not None
            else max(self._first_output, tokens.of_bytes(self._output_bytes)),
        }
        return usage if said.input_tokens is None else {"input_tokens": said.input_tokens, **usage}

    def _event(self, event: sse.Event) -> None:
        found = _understood(event.data)
        kind = found.type if found is not None and found.type else event.name
        self.refused = self.refused or (kind == "error" and not self.spoke)
        self.spoke = self.spoke or kind != "ping"
        self.begun = self.begun or kind.startswith("content_block")
        if kind in ("message_stop", "error"):
            self.over = True
        if kind == "error":
            self.error = "api_error", ""  # unless it says more than that
        if found is None:
            return
        if kind == "message_start" and found.message is not None:
            self._start(found.message)
        elif kind == "message_delta":
            self._count(found.usage)
        elif kind == "error":
            self._fail(found.error)
        if found.delta is not None:
            self._add(found.delta)

    def _start(self, message: _Message) -> None:
        """Its output is what was written by then: a number of no use unless nothing better comes."""
        self._count(message.usage)
        self._first_output = self.said.output_tokens or 0
        self.said = attrs.evolve(self.said, output_tokens=None)

    def _add(self, delta: _Delta) -> None:
        self.stop_reason = delta.stop_reason or self.stop_reason
        for text in (delta.text, delta.thinking, delta.partial_json):
            self._output_bytes += tokens.utf8_length(text)

    def _count(self, counts: _Counts | None) -> None:
        """Later numbers replace earlier ones; what is not repeated stays."""
        if counts is None:
            return
        names = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
        news = {name: value for name in names if (value := getattr(counts, name)) is not None}
        self.said = attrs.evolve(self.said, **news)
        if counts.cost is not None:
            other = (
                counts.cost_details.upstream_inference_cost
                if counts.is_byok and counts.cost_details
                else None
            )
            self.said = attrs.evolve(self.said, cost_usd=counts.cost + (other or 0.0))

    def _fail(self, error: _Error | None) -> None:
        if error is not None:
            self.error = error.type, error.message


def _understood(data: bytes) -> _Said | None:
    try:
        return _said.decode(data)
    except (ValueError, RecursionError):
        return None  # not ours to mind


STATUS = {rule.type: rule.status for rule in reversed(failures.RULES.values())} | {"request_too_large": 413}
"""The status that an error of a type would have had, for one that came after the head."""
