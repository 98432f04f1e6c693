"""An answer of a chat-completions server, read as it comes: every server has its own idea of the format.

What is absent, null, empty, of an unknown type or in a list of parts is taken for what it means or for
nothing. Nothing is interpreted here: two fragments of a call stay two fragments.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import attrs

from . import codec, longs
from .items import Usage

REASONING_FIELDS = ("reasoning", "reasoning_content", "reasoning_text")
"""vLLM says the same in two of them at once, so only the first that holds anything counts."""


@attrs.frozen
class Fragment:
    """A piece of a tool call."""

    index: int | None = None
    id: str = ""
    name: str = ""
    arguments: str = ""
    extra: dict[str, Any] = attrs.Factory(dict)
    """`extra_content`: Google's signature of the call."""


@attrs.frozen
class Chunk:
    """One piece of an answer, or the whole of it."""

    is_message: bool = False
    """It says all of the answer: behind pieces of it, only what they did not say is new."""
    text: str = ""
    refusal: str = ""
    reasoning: str = ""
    details: list[dict[str, Any]] = attrs.Factory(list)
    """OpenRouter's `reasoning_details`."""
    fragments: list[Fragment] = attrs.Factory(list)
    images: int = 0
    annotations: list[dict[str, Any]] = attrs.Factory(list)
    """What a text refers to: sources of a search."""
    finish: str = ""
    """In lower case; empty while the answer goes on."""
    native_finish: str = ""
    """How the provider behind a router calls it, in lower case."""
    stopped_by: str = ""
    """The stop sequence that matched, where the server says it."""
    usage: dict[str, Any] | None = None


def parted(data: bytes | bytearray) -> Iterator[dict[str, Any]] | None:
    """A document with a long text as the stream that it might have been; None: it is read whole.

    The last one is the document without that text.
    """
    for said in ("message", "delta"):
        long = longs.parted(data, ("choices", 0, said, "content"))
        if long is not None and isinstance(long[0], dict) and error(long[0]) is None:
            return _spread(*long, said)
    return None


def _spread(document: dict[str, Any], texts: Iterator[str], said: str) -> Iterator[dict[str, Any]]:
    message = _choice(document)[said]
    thought = {key: message.pop(key) for key in (*REASONING_FIELDS, "reasoning_details") if key in message}
    if thought:
        yield {"choices": [{"delta": thought}]}
    for text in texts:
        yield {"choices": [{"delta": {"content": text}}]}
    yield document


def loads(data: bytes) -> Any:
    """One chunk's JSON. Raises ValueError. Control characters, NaN and bytes that are no UTF-8 harm nobody here."""
    try:
        return codec.loads(data)
    except ValueError:
        try:
            text = data.decode("utf-8", "replace")
            return json.loads(text, strict=False, parse_constant=lambda name: None)
        except RecursionError:
            raise ValueError("nested too deeply") from None


def error(document: dict[str, Any]) -> Any:
    """The error that a chunk or an answer carries, or None."""
    inside = (choice.get("error") for choice in codec.as_dicts(document.get("choices")))
    found = document.get("error") or next((one for one in inside if one), None)
    if found:
        return found
    if document.get("object") == "error" or document.get("type") == "error":
        return document
    return None


def counts(document: dict[str, Any]) -> dict[str, Any] | None:
    """The token counts that a chunk or an answer carries, in the server's own words."""
    return _usage(document, _choice(document))


def is_answer(document: dict[str, Any]) -> bool:
    """True for what has a message in it, so that something else in JSON is not taken for an empty answer."""
    return isinstance(_choice(document).get("message", _choice(document).get("delta")), dict)


def chunk(document: dict[str, Any], reasoning: tuple[str, ...] = REASONING_FIELDS) -> Chunk:
    """A chunk of a stream, or a whole answer: `delta` and `message` are read alike.

    Nobody asks for several answers, so what stands in a second choice is a part of the one (GitHub puts the text
    into one and the calls into the next); but what is said twice is another answer, and left out.
    """
    choices = codec.as_dicts(document.get("choices")) or [{}]
    found = _of_choice(choices[0], reasoning, _usage(document, choices[0]))
    for other in choices[1:]:
        more = _of_choice(other, reasoning, None)
        found = attrs.evolve(found, **{key: getattr(more, key) for key in _SAID if not getattr(found, key)})
    return found


_SAID = tuple(field.name for field in attrs.fields(Chunk))


def _of_choice(choice: dict[str, Any], reasoning: tuple[str, ...], usage: dict[str, Any] | None) -> Chunk:
    delta, message = codec.as_dict(choice.get("delta")), codec.as_dict(choice.get("message"))
    said = delta or message
    text, thought = _content(said.get("content"))
    fields = (value for key in reasoning if isinstance(value := said.get(key), str) and value)
    return Chunk(
        is_message=bool(message) and not delta,
        text=text,
        refusal=codec.as_text(said.get("refusal")),
        reasoning=next(fields, thought),
        details=codec.as_dicts(said.get("reasoning_details")),
        fragments=list(_fragments(said)),
        images=len(codec.as_dicts(said.get("images"))) + _pictures(said.get("content")),
        annotations=codec.as_dicts(said.get("annotations")),
        finish=_word(choice.get("finish_reason")),
        native_finish=_word(choice.get("native_finish_reason")),
        stopped_by=codec.as_text(choice.get("stop_reason")),
        usage=usage,
    )


def _choice(document: dict[str, Any]) -> dict[str, Any]:
    return next(iter(codec.as_dicts(document.get("choices"))), {})


def _word(value: Any) -> str:
    word = codec.as_text(value).strip().lower()
    return "" if word in ("null", "none") else word


def _content(content: Any) -> tuple[str, str]:
    """Text and reasoning; Mistral sends both as parts."""
    if not isinstance(content, list):
        return codec.as_text(content), ""
    parts = codec.as_dicts(content)
    text = "".join(codec.as_text(part.get("text")) for part in parts if part.get("type") != "thinking")
    return text, "".join(_thought(part.get("thinking")) for part in parts if part.get("type") == "thinking")


def _pictures(content: Any) -> int:
    """How many stand between the texts."""
    return sum(part.get("type") in ("image_url", "image") for part in codec.as_dicts(content))


def _thought(value: Any) -> str:
    return value if isinstance(value, str) else _content(value)[0]


def _fragments(said: dict[str, Any]) -> Iterator[Fragment]:
    calls = codec.as_dicts(said.get("tool_calls"))
    for call in calls:
        index = call.get("index")
        found = _fragment(call.get("function"), call.get("id"), index if type(index) is int else None)
        extra = codec.as_dict(call.get("extra_content"))
        yield attrs.evolve(found, extra=extra) if extra else found
    if not calls and isinstance(said.get("function_call"), dict):  # the format before there were several
        yield _fragment(said["function_call"], None, 0)


def _fragment(function: Any, call_id: Any, index: int | None) -> Fragment:
    function = function if isinstance(function, dict) else {}
    arguments = function.get("arguments")
    if arguments is not None and not isinstance(arguments, str):
        arguments = codec.dumps(arguments).decode("utf-8")
    return Fragment(
        index, codec.as_text(call_id), codec.as_text(function.get("name")).strip(), arguments or ""
    )


# --- token counts --------------------------------------------------------------------------------------


def _usage(document: dict[str, Any], choice: dict[str, Any]) -> dict[str, Any] | None:
    """Groq and Moonshot keep it in places of their own."""
    side = document.get("x_groq")
    places = (
        document.get("usage"),
        side.get("usage") if isinstance(side, dict) else None,
        choice.get("usage"),
    )
    return next((place for place in places if isinstance(place, dict) and place), None)


def usage(
    said: dict[str, Any], *, cost: str | None = None, by_sum: bool = False, searches: bool = False
) -> Usage:
    """Counts as Anthropic counts: what came from the cache or went into it is no input.

    `cost` names the field that holds what was charged, where the server charges. `by_sum`: what is output shows
    only in the sum. `searches`: the server may have searched the web, and counts how often.
    """
    prompt_details = codec.as_dict(said.get("prompt_tokens_details"))
    prompt = _first(said, "prompt_tokens", "input_tokens")
    read = (
        _first(prompt_details, "cached_tokens")
        or _first(said, "prompt_cache_hit_tokens", "cached_tokens")
        or 0
    )
    written = _first(prompt_details, "cache_write_tokens") or 0
    return Usage(
        # Servers that do not count say 0, and a prompt without tokens does not exist.
        input_tokens=max(prompt - read - written, 0) if prompt else None,
        output_tokens=_output(said, by_sum) if prompt else _output(said, by_sum) or None,
        cache_creation_input_tokens=written,
        cache_read_input_tokens=read,
        cost_usd=None if cost is None else _cost(said, cost),
        web_searches=_first(codec.as_dict(said.get("server_tool_use")), "web_search_requests")
        if searches
        else None,
    )


def _output(said: dict[str, Any], by_sum: bool) -> int | None:
    output = _first(said, "completion_tokens", "output_tokens")
    thought = _first(codec.as_dict(said.get("completion_tokens_details")), "reasoning_tokens") or 0
    total = _first(said, "total_tokens")
    prompt = _first(said, "prompt_tokens", "input_tokens")
    # xAI leaves reasoning out of the completion; only the sum tells.
    if output is not None and thought and total == (prompt or 0) + output + thought:
        return output + thought
    if by_sum and output is not None and total is not None and prompt is not None:
        return max(total - prompt, output)
    return output


def _cost(said: dict[str, Any], field: str) -> float | None:
    """With the user's own key at the provider behind a router, that one's bill comes on top."""
    cost = _money(said.get(field))
    if cost is not None and said.get("is_byok") is True:
        cost += _money(codec.as_dict(said.get("cost_details")).get("upstream_inference_cost")) or 0.0
    return cost


def _money(value: Any) -> float | None:
    return (
        float(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
        else None
    )


def _first(said: dict[str, Any], *keys: str) -> int | None:
    for key in keys:
        value = said.get(key)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is int and value >= 0:
            return value
    return None
