"""What a provider's refusal means to the client: its words in, one `Failure` out.

Theory of operation
-------------------
Providers say the same few things in many ways, and clients act on the kind: they wait, compact, repeat,
fall back or give up. So the kind is looked for where it is said most plainly: first the structured fields
(OpenRouter's `error_type`, then `code` and `type`), then sentences that mean something whatever the
status is (the prompt does not fit, the model has no tools), and the status last. All of it is tables.

The provider's own sentence is kept, behind a name that the user knows; keys, credentials in addresses
and paths of somebody's machine are cut out of it first. An overflow is the exception: it is told in
exactly the words on which clients compact.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from modelproxy.worker import failures
from modelproxy.worker.failures import Failure, Kind
from modelproxy.worker.wire import codec

from . import waits
from .seam import Headers, Terms

LONGEST_PLAIN = 300
"""Characters of a body that is no JSON: pages of HTML say little in many words."""
LONGEST_SAID = 2000


@attrs.frozen
class Said:
    """One error as the provider words it."""

    message: str = ""
    words: tuple[str, ...] = ()
    """Machine-readable names of it, the most telling first, in lower case."""
    status: int | None = None
    """The status that the body itself claims; inside a 200 it is the only one."""
    prompt: int | None = None
    window: int | None = None
    wait_s: float | None = None
    provider: str = ""
    """Who said it behind a router."""
    param: str = ""
    """The part of the request that it is about."""
    plain: bool = False
    """The body was no JSON: a gateway speaks, not the provider."""


# --- the two ways in --------------------------------------------------------------------------------


def from_answer(
    status: int,
    headers: Headers,
    body: bytes,
    terms: Terms,
    *,
    title: str = "",
    prompt_tokens: int = 0,
    now: float | None = None,
) -> Failure:
    """What an answer with an error status means.

    `title` is the provider's name for people; `prompt_tokens` our estimate, for overflows without numbers;
    `now` the wall clock, for a `retry-after` that is a date (without it the answer's own `date` counts).
    """
    said = read(body)
    asked = waits.in_headers(headers, now)
    wait_s = said.wait_s if asked is None else asked
    if wait_s is None and status == 429:
        wait_s = waits.until_reset(headers, now)
    said = attrs.evolve(said, wait_s=wait_s)
    return failure(status, said, terms, title=title, prompt_tokens=prompt_tokens)


def in_stream(error: Any, terms: Terms, *, title: str = "", prompt_tokens: int = 0) -> Failure:
    """What an error inside a 200 means."""
    said = said_of(error)
    typed = next((_STATUS_OF_TYPE[word] for word in said.words if word in _STATUS_OF_TYPE), 500)
    return failure(said.status or typed, said, terms, title=title, prompt_tokens=prompt_tokens)


_STATUS_OF_TYPE = {
    "invalid_request_error": 400,
    "permission_error": 403,
    "not_found": 404,
    "not_found_error": 404,
    "request_too_large": 413,
}
"""Beside a status these say nothing more; inside a 200 they are all there is."""


def stop_reason(error: Any) -> str | None:
    """Some errors are ends: the stop reason that one means once the answer has begun, else None."""
    return next((_STOPS[word] for word in said_of(error).words if word in _STOPS), None)


_STOPS = {
    "max_tokens_exceeded": "max_tokens",
    "content_policy_violation": "refusal",
    "refusal": "refusal",
}


_UNSUPPORTED = re.compile(
    r"unsupported|unrecogni[sz]ed|unknown|unexpected|not (supported|permitted|allowed|recognized)"
    r"|does(n't| not) support|extra (inputs|fields)|extra_forbidden",
    re.IGNORECASE,
)


def unsupported(status: int, body: bytes, parameters: Iterable[str]) -> str | None:
    """Which of these parameters the server refuses as such; None: it is about something else."""
    said = read(body)
    text = f"{said.param} {said.message}"
    if status not in (400, 422) or not _UNSUPPORTED.search(f"{' '.join(said.words)} {text}"):
        return None
    return next((one for one in parameters if re.search(rf"(?<![\w-]){one}(?![\w-])", text)), None)


# --- reading -----------------------------------------------------------------------------------------


def read(body: bytes) -> Said:
    """The error in a body, whatever the body is."""
    try:
        document = codec.loads(body)
    except ValueError:
        return Said(message=plain(body), plain=bool(body.strip()))
    return said_of(document)


def plain(body: bytes) -> str:
    """The first words of a page or a text, without its markup."""
    text = body[: 64 * LONGEST_PLAIN].decode("utf-8", "replace")
    text = _TAGS.sub(" ", _UNSEEN.sub(" ", text))
    return " ".join(text.split())[:LONGEST_PLAIN]


_UNSEEN = re.compile(r"<(script|style|head)\b.*?</\1\s*>|<!--.*?-->", re.DOTALL | re.IGNORECASE)
_TAGS = re.compile(r"<[^>]*>")


def said_of(document: Any) -> Said:
    """The error in a JSON value: an envelope, the bare object, a list of them, or a mere text."""
    if isinstance(document, list):  # Google wraps its errors in one
        document = document[0] if document else None
    if isinstance(document, str):
        return Said(message=document)
    if not isinstance(document, dict):
        return Said()
    error = document.get("error")
    if isinstance(error, str):  # `{"error": "words", "code": …}`
        return attrs.evolve(_said(document), message=error)
    return _said(error if isinstance(error, dict) else document)


def _said(error: dict[str, Any]) -> Said:
    metadata = codec.as_dict(error.get("metadata"))
    words = (metadata.get("error_type"), error.get("error_type"), error.get("code"), error.get("type"))
    inner = _raw(metadata)
    return Said(
        message=_message(error, inner.message),
        words=tuple(word.lower() for word in (*words, error.get("status")) if isinstance(word, str) and word),
        status=_status(error),
        prompt=codec.as_count(error.get("n_prompt_tokens")) or inner.prompt,
        window=codec.as_count(error.get("n_ctx")) or inner.window,
        wait_s=waits.in_body(error),
        provider=_text(metadata.get("provider_name")),
        param=_text(error.get("param")),
    )


def _raw(metadata: dict[str, Any]) -> Said:
    """What the provider behind a router said, often JSON in a string."""
    raw = metadata.get("raw")
    if isinstance(raw, str):
        said = read(raw.encode("utf-8", "replace"))
        return Said() if not said.message else said
    return said_of(raw)


_GENERIC = re.compile(
    r"^(provider returned( an)? error|upstream error|error|bad request)?\W*$", re.IGNORECASE
)


def _message(error: dict[str, Any], inner: str) -> str:
    """The most telling sentence: routers say `Provider returned error` and hide the reason below it."""
    said = next((text for key in _SENTENCES if (text := _sentence(error.get(key)))), "")
    return inner if inner and _GENERIC.match(said) else said


_SENTENCES = ("message", "msg", "detail", "error_description", "title")


def _sentence(value: Any, depth: int = 3) -> str:
    """The words in a value; FastAPI hides them in `{"detail": [{"loc": …, "msg": …}]}`, Mistral that in a message."""
    if depth == 0 or not isinstance(value, list | dict):
        return _text(value)
    if isinstance(value, list):
        return "; ".join(filter(None, (_sentence(one, depth - 1) for one in value[:3])))
    said = next((text for key in _SENTENCES if (text := _sentence(value.get(key), depth - 1))), "")
    where = value.get("loc")
    return f"{'.'.join(map(str, where))}: {said}" if said and isinstance(where, list) and where else said


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""


def _status(error: dict[str, Any]) -> int | None:
    """Old shapes have the number in a string."""
    for key in ("code", "status", "status_code"):
        value = error.get(key)
        if isinstance(value, str) and value.isdecimal() and len(value) == 3:
            value = int(value)
        if type(value) is int and 400 <= value <= 599:
            return value
    return None


# --- deciding ----------------------------------------------------------------------------------------


def failure(status: int, said: Said, terms: Terms, *, title: str = "", prompt_tokens: int = 0) -> Failure:
    """The failure that `said` means, with its words."""
    size = _size(status, said, terms, prompt_tokens)
    if size is not None:
        return size
    kind = _kind(status, said)
    instead = _too_much(said, prompt_tokens) if kind is Kind.RATE_LIMITED else None
    return Failure(kind, _words(kind, status, said, terms, title), retry_after_s=said.wait_s, instead=instead)


def _kind(status: int, said: Said) -> Kind:
    named = next((_KINDS[word] for word in said.words if word in _KINDS), None)
    if named is not None:
        return named
    for pattern, kind in _TELLING:
        if pattern.search(said.message):
            return kind
    if status == 403 and (said.plain or _MODERATED.search(said.message)):
        return Kind.FORBIDDEN  # a firewall's page or a guard's verdict: a new key would not help
    if status == 413:
        return Kind.TOO_LARGE
    return failures.from_status(status, "").kind


# Only words that mean one thing: `invalid_request_error` or `BadRequestError` say no more than a 400 does.
_KINDS = {
    "authentication": Kind.KEY_REJECTED,
    "authentication_error": Kind.KEY_REJECTED,
    "invalid_api_key": Kind.KEY_REJECTED,
    "permission_denied": Kind.KEY_REJECTED,
    "moderation": Kind.FORBIDDEN,
    "guardrail": Kind.FORBIDDEN,
    "unsupported_country_region_territory": Kind.FORBIDDEN,
    "payment_required": Kind.NO_CREDIT,
    "insufficient_quota": Kind.NO_CREDIT,  # OpenAI's comes as a 429, and waiting would never help
    "insufficient_balance": Kind.NO_CREDIT,
    "billing_error": Kind.NO_CREDIT,
    "content_policy_violation": Kind.INVALID,
    "content_filter": Kind.INVALID,
    "refusal": Kind.INVALID,
    "max_tokens_exceeded": Kind.INVALID,
    "invalid_image": Kind.INVALID,
    "image_too_large": Kind.INVALID,
    "invalid_image_format": Kind.INVALID,
    "model_not_found": Kind.NOT_FOUND,
    "model_decommissioned": Kind.NOT_FOUND,
    "payload_too_large": Kind.TOO_LARGE,
    "rate_limit_exceeded": Kind.RATE_LIMITED,
    "rate_limit_error": Kind.RATE_LIMITED,
    "rate_limit_reached_error": Kind.RATE_LIMITED,
    "resource_exhausted": Kind.RATE_LIMITED,
    "timeout": Kind.TIMEOUT,
    "timeout_error": Kind.TIMEOUT,
    "provider_overloaded": Kind.OVERLOADED,
    "overloaded_error": Kind.OVERLOADED,
    "engine_overloaded_error": Kind.OVERLOADED,
    "unavailable_error": Kind.OVERLOADED,  # llama.cpp while it loads a model
    "provider_unavailable": Kind.OVERLOADED,
    "service_unavailable": Kind.OVERLOADED,
    "tool_use_failed": Kind.PROVIDER,  # Groq says 400, but it was its model that wrote the bad call
    "server": Kind.PROVIDER,
}

_TELLING = [
    (re.compile(pattern, re.IGNORECASE), kind)
    for pattern, kind in (
        # A 404 would make Claude Code say that the model does not exist.
        (r"no endpoints found (that|matching|which)|no allowed providers|requested parameters", Kind.INVALID),
        (
            r"no endpoints found for|is not a valid model|model\b.{0,80}\b(does not exist|not found)",
            Kind.NOT_FOUND,
        ),
        # xAI and Google say 400 to a wrong key.
        (r"\bapi key (is )?(not valid|invalid|expired)|\b(incorrect|invalid) api key", Kind.KEY_REJECTED),
        (r"requires? --jinja|--enable-auto-tool-choice", Kind.INVALID),
        (r"does(n't| not) support (tools|tool|function)", Kind.INVALID),
        (r"insufficient (credits?|balance|funds)|requires more credits", Kind.NO_CREDIT),
    )
]


_MODERATED = re.compile(r"flagged|moderation|guardrail|not available in your (region|country)", re.IGNORECASE)


# --- overflow ------------------------------------------------------------------------------------------

_TOO_LONG = frozenset(
    (
        "context_length_exceeded",
        "token_limit_exceeded",
        "string_too_long",
        "string_above_max_length",
        "exceed_context_size_error",
        "model_context_window_exceeded",
    )
)

_N = r"(?P<prompt>\d[\d,]*)"
_M = r"(?P<window>\d[\d,]*)"
_A = r"(?P<answer>\d[\d,]*)"
_SUM = r"(?P<sum>\d[\d,]*)"

# Each says by its groups which numbers it knows; the first that fits wins.
_OVERFLOWS = [
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (
        rf"maximum context length is {_M} tokens.{{0,80}}?requested (about )?{_SUM} tokens "
        rf"\({_N} (in the messages|of text input|in the prompt|of input)(?P<more>.{{0,120}}?)"
        rf"[,;] {_A} in the (completion|output)\)",
        rf"maximum context length of {_M} tokens.{{0,80}}?total of {_SUM} tokens: {_N} tokens from.{{0,40}}? "
        rf"and {_A} tokens for",
        rf"is too large: {_A}\..{{0,30}}?maximum context length is {_M} tokens and your request has {_N} input",
        rf"input length and .?max_tokens.? exceed context limit: {_N} \+ {_A} > {_M}",
        rf"must be <= {_M}\. Given: {_N} .?inputs.? tokens and {_A}",
        rf"maximum context length is {_M} tokens.{{0,120}}?(resulted in|contains at least|has) {_N} (input )?tokens",
        rf"maximum context length is {_M} tokens.{{0,80}}?requested (about )?{_N} tokens",
        rf"maximum prompt length is {_M} but the request contains {_N}",
        rf"input token count \(?{_N}\)? exceeds the maximum number of tokens allowed \(?{_M}",
        rf"prompt (contains|has) {_N} tokens.{{0,80}}?{_M} maximum context",
        rf"prompt is too long: {_N}( tokens)?( >|,.{{0,30}}?:) {_M}",
        rf"\(?{_N} tokens\)? is longer than the (model's )?context length \(?{_M}",
        rf"request \(?{_N} tokens\)? exceeds the available context size \(?{_M}",
        rf"current length is {_N} while limit is {_M}",
        rf"keep the first {_N} tokens when context.{{0,80}}?context length of only {_M}",
        rf"exceeded model token limit:? {_M}",
        rf"(maximum|max) context (length|size|window)( is| of|:)? {_M}",
        r"(maximum|max) context length|context (length|window|size).{0,20}exceed|exceed\w*.{0,30}context"
        r"|prompt is too long|input is too long|prompt too long|longer than the.{0,20}context"
        r"|reduce the length of (the|your) (messages|prompt|input)|too many (input )?tokens",
    )
]


def _size(status: int, said: Said, terms: Terms, estimate: int) -> Failure | None:
    """The overflow that was said, or None."""
    if any(word in _KINDS and word not in _SHAPES for word in said.words):
        return None  # `rate_limit_exceeded` speaks of too many tokens as well
    found = next((match for one in _OVERFLOWS if (match := one.search(said.message))), None)
    named = any(word in _TOO_LONG for word in said.words)
    if not named and (found is None or status == 429):
        return None
    numbers = {} if found is None else _numbers(found)
    window = said.window or numbers.get("window") or terms.window
    prompt = said.prompt or numbers.get("prompt") or estimate
    answer = numbers.get("answer")
    if window is not None and answer and prompt <= window:
        return _both(prompt, answer, window)
    if window is None:
        window = max(prompt - 1, 1)  # nobody knows it; what counts is that the prompt is over it
    return failures.overflow(prompt, window)


# Words that say only how the error is shaped do not keep it from being an overflow.
_SHAPES = frozenset(("payload_too_large",))


def _numbers(found: re.Match[str]) -> dict[str, int]:
    groups = {key: value for key, value in found.groupdict().items() if value and key != "more"}
    numbers = {key: int(value.replace(",", "")) for key, value in groups.items()}
    if {"sum", "answer"} <= numbers.keys():
        # The rest may be split further (text, tools): only the difference is the whole prompt.
        numbers["prompt"] = max(numbers["sum"] - numbers["answer"], numbers.get("prompt", 0))
    return numbers


def _both(prompt: int, answer: int, window: int) -> Failure:
    """The prompt alone fits. Claude Code asks again with a smaller `max_tokens` on exactly these words."""
    return Failure(
        Kind.OVERFLOW,
        f"input length and `max_tokens` exceed context limit: {prompt} + {answer} > {window}, "
        "decrease input length or `max_tokens` and try again",
    )


_TOO_MUCH = re.compile(
    rf"request too large.{{0,300}}?limit:? {_M},? requested:? {_SUM}", re.IGNORECASE | re.DOTALL
)


def _too_much(said: Said, estimate: int) -> Failure | None:
    """What is over the limit of a whole minute passes in none: only a shorter prompt or answer helps."""
    found = _TOO_MUCH.search(said.message)
    numbers = {} if found is None else _numbers(found)
    if not numbers or numbers["sum"] <= numbers["window"]:
        return None
    most, asked = numbers["window"], numbers["sum"]
    prompt = min(estimate, asked) or asked
    told = failures.overflow(prompt, most) if prompt > most else _both(prompt, asked - prompt, most)
    return attrs.evolve(told, message=f"{told.message} (tokens per minute)")


# --- words ---------------------------------------------------------------------------------------------


def _words(kind: Kind, status: int, said: Said, terms: Terms, title: str) -> str:
    name = title or terms.provider
    sentence = (
        scrub(said.message, terms)[:LONGEST_SAID]
        or f"{_SILENT.get(kind, 'no reason given')} (status {status})"
    )
    by = f" ({said.provider})" if said.provider and said.provider not in sentence else ""
    lead = _LEADS.get(kind, _LEAD)
    if not terms.model and "{model}" in lead:
        lead = _LEAD  # a front's way to Anthropic, which is to no model of ours
    tail = _hint(said.message) or _TAILS.get(kind, "")
    if kind is Kind.KEY_REJECTED and not terms.api_key:
        lead, tail = _NO_KEY
    text = (lead + tail).format(
        name=name, by=by, sentence=sentence, provider=terms.provider, model=terms.model, status=status
    )
    return text


_LEAD = "{name}{by}: {sentence}"
_LEADS = {
    Kind.KEY_REJECTED: "{name}{by} rejects the API key: {sentence}",
    Kind.NO_CREDIT: "{name}{by}: out of credit: {sentence}",
    Kind.NOT_FOUND: "{name}{by}: {model}: {sentence}",
    Kind.PROVIDER: "{name}{by}, model {model}: {sentence}",
}
_TAILS = {Kind.KEY_REJECTED: " - set another with: proxyctl keys set {provider}"}
_NO_KEY = ("{name}{by} asks for an API key: {sentence}", " - set one with: proxyctl keys set {provider}")
_SILENT = {
    Kind.NOT_FOUND: "not found",
    Kind.RATE_LIMITED: "too many requests",
    Kind.OVERLOADED: "busy",
    Kind.TIMEOUT: "did not answer in time",
}


def _hint(message: str) -> str:
    return next((hint for pattern, hint in _HINTS if pattern.search(message)), "")


_HINTS = [
    (re.compile(pattern, re.IGNORECASE), f" - {hint}")
    for pattern, hint in (
        (
            r"no endpoints found that support tool",
            "model {model} does not support tools; choose a tool-capable model",
        ),
        (r"does(n't| not) support (tools|tool|function)", "choose a tool-capable model"),
        (r"--enable-auto-tool-choice", "start vLLM with --enable-auto-tool-choice and --tool-call-parser"),
        (r"--jinja", "start llama-server with --jinja"),
        (r"data policy", "allow its providers in the account's privacy settings"),
    )
]


def scrub(text: str, terms: Terms) -> str:
    """`text` without keys, without credentials in addresses, and without paths of a machine."""
    for secret in _secrets(terms):
        text = text.replace(secret, "[secret]")
    for pattern, instead in _SCRUBS:
        text = pattern.sub(instead, text)
    return text.strip()


def _secrets(terms: Terms) -> Iterator[str]:
    for value in (terms.api_key, *terms.options.headers.values()):
        # A short value is a word, not a secret: cutting it out would only garble the sentence.
        if value and len(value) >= 8:
            yield value


_SCRUBS = [
    (re.compile(pattern), instead)
    for pattern, instead in (
        (r"\b(?i:sk|pk|gsk|xai|csk|nvapi|hf|r8|key|ak)[-_][\w*.\-]{6,}", "[key]"),
        (r"\bAIza[\w\-*]{6,}", "[key]"),
        (r"(?i)\b(bearer|basic) +[\w.+/=~*\-]{8,}", r"\1 [key]"),
        (r"(https?://)[^\s/@]+@", r"\1"),
        (r"(https?://[^\s?\"'<>]+)\?[^\s\"'<>)]*", r"\1"),
        (
            r"(?<![\w/.:])/(?:home|Users|root|usr|var|opt|srv|tmp|etc|app|mnt|data|workspace)/[^\s\"',:;)]*",
            "[path]",
        ),
    )
]
