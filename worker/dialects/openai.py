"""The dialect of every server with an OpenAI-compatible `/chat/completions`, OpenRouter's included.

What is particular about a server stands in `quirks`; here is what they have in common. The request is
rendered from the history alone, in a fixed order of keys, so that the same history always gives the same
bytes and the provider's prompt cache holds.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import attrs

from modelproxy.worker import failures
from modelproxy.worker.failures import Failure, Kind, Refused
from modelproxy.worker.wire import codec
from modelproxy.worker.wire.asks import Ask

from . import blocks, errors, names, offers, quirks, reasoning, schemas, seam, searches, toolless
from .blocks import Image, ImageUrl, Part, Sight
from .chunks import Decoder, Frame
from .names import Names
from .quirks import Quirks
from .seam import Call, Headers, NewId, Terms
from .thinking import LEAST_BUDGET
from .turns import SHORTEST_ANSWER, Prepared, Turn, format_of, is_call, prepare

Message = dict[str, Any]

PATH = "/chat/completions"

NO_REASONING = "(no reasoning recorded)"
CONTINUING = "(continuing)"
UNSIGNED = {"google": {"thought_signature": "skip_thought_signature_validator"}}
"""For a call of which nobody knows the signature any more."""


@attrs.frozen
class OpenAI:
    """See `seam.Dialect`."""

    server: Quirks = quirks.PLAIN

    @classmethod
    def of(cls, kind: str, provider: str, base_url: str | None, *, server: str | None = None) -> OpenAI:
        """The dialect for a provider, its row found by what is known of it."""
        return cls(quirks.of(kind, provider, base_url, server=server))

    def call(self, ask: Ask, terms: Terms) -> Call:
        ways = self.server.with_model(terms.model, terms.facts)
        wanted = prepare(ask, terms, searches_web=_searches_web(terms, ways), replays=ways.replay != "none")
        prepared = toolless.settled(wanted, terms, _sight(terms, ways))
        if prepared.tools and not terms.can("tools"):
            # Without them an agent only talks, and nobody sees why.
            words = f"model {terms.model} does not support tools; choose a tool-capable model"
            raise Refused(Failure(Kind.INVALID, words))
        size = prepared.input_tokens(_sight(terms, ways))
        if terms.window is not None and size > terms.window:
            raise Refused(failures.overflow(size, terms.window))
        request = _Request(ask, terms, ways, prepared, size)
        body = codec.dumps(request.body())
        notes = (
            (*prepared.notes, f"blocks only named: {request.omitted}") if request.omitted else prepared.notes
        )
        remarks = toolless.remarks(wanted, terms)
        return Call(PATH, body, headers(ask, terms, ways), notes=notes, remarks=remarks, prompt_tokens=size)

    def sight(self, terms: Terms) -> Sight:
        return _sight(terms, self.server.with_model(terms.model, terms.facts))

    def decoder(self, ask: Ask, terms: Terms, *, new_id: NewId) -> seam.Decoder:
        ways = self.server.with_model(terms.model, terms.facts)
        inner = Decoder(ask, terms, ways, _frame(ask, terms, ways), new_id=new_id)
        return toolless.reader(inner, ask, terms, new_id)

    def failure(self, ask: Ask, terms: Terms, status: int, headers: Headers, body: bytes) -> Failure:
        return errors.from_answer(
            status, headers, body, terms, title=self.server.title, prompt_tokens=ask.input_tokens
        )


def again(ask: Ask, terms: Terms, status: int, body: bytes) -> Terms | None:
    """The terms under which a refused request may succeed, None when there are none.

    A model that wrote a bad call may write a good one; a parameter that nobody needs can be left out, and so can
    tools where that was chosen; pictures that the model cannot see are named instead.
    """
    said = errors.read(body)
    if "tool_use_failed" in said.words:
        return terms
    if (without := toolless.again(ask, terms, said.message)) is not None:
        return without
    if _shows_pictures(ask, terms) and _NO_PICTURES.search(said.message):
        return attrs.evolve(terms, facts={**terms.facts, VISION: "never"})
    if (habits := _habits(terms, said.message)) is not None:
        return attrs.evolve(terms, facts={**terms.facts, quirks.HABITS: habits})
    refused = terms.facts.get(quirks.REFUSED)
    known = refused if isinstance(refused, tuple) else ()
    name = errors.unsupported(status, body, [one for one in quirks.DISPENSABLE if one not in known])
    if name is None or _BAD_SCHEMA.search(said.message):
        return None
    return attrs.evolve(terms, facts={**terms.facts, quirks.REFUSED: (*known, name)})


_BAD_SCHEMA = re.compile(r"invalid (json )?schema", re.IGNORECASE)
"""The schema is the client's own mistake; that others are taken need not be forgotten for it."""


def _habits(terms: Terms, words: str) -> dict[str, Any] | None:
    """All that is known with what these words add; None: they add nothing."""
    found, known = quirks.habit(words), terms.facts.get(quirks.HABITS)
    known = known if isinstance(known, dict) else {}
    return None if found is None or found.items() <= known.items() else known | found


VISION = "vision"
"""Key in `Terms.facts`: `never`, once the server has refused pictures for this model."""
_NO_PICTURES = re.compile(
    r"does(?:n't| not) support (?:images?|image inputs?|vision)\b(?! (?:larger|bigger|over|of|in|with|from))"
    r"|image input is not supported|is not a multimodal model|support image input|at most 0 images?\b"
    r"|unsupported content (?:part )?type\W{0,4}image|unknown variant \W?image_url|image_url is only supported by",
    re.IGNORECASE,
)
"""Most servers do not say before what their model can. One picture in a history must not end the session."""


def _sees(terms: Terms) -> bool:
    return terms.can("vision") and terms.facts.get(VISION) != "never"


def _shows_pictures(ask: Ask, terms: Terms) -> bool:
    found = (block for message in ask.messages for block in blocks.inner(message["content"]))
    kinds = (one["type"] for block in found for one in (block, *blocks.inner(block.get("content"))))
    return _sees(terms) and "image" in kinds


def headers(ask: Ask, terms: Terms, ways: Quirks) -> Headers:
    """Ours, then the row's, then the user's: a later one of the same name wins, an empty one removes it."""
    found = {
        "content-type": "application/json",
        "accept": "text/event-stream" if ask.stream else "application/json",
    }
    if terms.api_key:
        found["authorization"] = f"Bearer {terms.api_key}"
    for name, value in [*ways.headers.items(), *terms.options.headers.items()]:
        found[name.lower()] = value
    return [(name.encode("ascii"), value.encode("utf-8")) for name, value in found.items() if value]


def _searches_web(terms: Terms, ways: Quirks) -> bool:
    """A model whose tools are left out or put into words has no use for this one either."""
    return terms.options.web_search and bool(ways.search) and toolless.way(terms) is None


def _is_live(ask: Ask, terms: Terms) -> bool:
    """Nothing is gained where nobody reads along, and a call that is read out of a text is never half."""
    return ask.stream and terms.options.tool_stream == "live" and toolless.way(terms) is None


def _frame(ask: Ask, terms: Terms, ways: Quirks) -> Frame:
    search = offers.search_in(ask) if _searches_web(terms, ways) else None
    callables = [tool for tool in ask.tools if search is None or not offers.is_search(tool)]
    offered = tuple(tool["name"] for tool in callables if isinstance(tool.get("name"), str))
    told, kept = _stops(ask.stop_sequences, ways)
    return Frame(
        names=_names(ask),
        offered=offered,
        stops=tuple(kept),
        told_stops=tuple(told),
        parallel=ask.tool_choice.get("disable_parallel_tool_use") is not True,
        json_only=format_of(ask.body) is not None and not ask.tools,
        live=_is_live(ask, terms) and search is None,
        most_tokens=ask.max_tokens if 0 < ask.max_tokens < ways.min_output else None,
        search="" if search is None else ways.search,
    )


def _names(ask: Ask) -> Names:
    """The same for a request and for its answer, without remembering anything between them."""
    offered = [tool.get("name") for tool in ask.tools]
    used = [
        block.get("name")
        for message in ask.messages
        if isinstance(message["content"], list)
        for block in message["content"]
        if block["type"] == "tool_use"
    ]
    return Names(name for name in [*offered, *used] if isinstance(name, str) and name)


def _stops(sequences: list[str], ways: Quirks) -> tuple[list[str], list[str]]:
    """Those that the server is told and those that are kept on our side."""
    return sequences[: ways.stops], sequences[ways.stops :]


# --- one request -------------------------------------------------------------------------------------


class _Request:
    """A prepared request in the server's words."""

    def __init__(self, ask: Ask, terms: Terms, ways: Quirks, prepared: Prepared, size: int) -> None:
        self._ask = ask
        self._terms = terms
        self._ways = ways
        self._prepared = prepared
        self._names = _names(ask)
        self._limit = _limit(ask, terms, ways, size)
        self._sight = _sight(terms, ways)
        self._caches = _caches(terms, ways)
        self._automatic = self._mark(ask.body.get("cache_control"))
        self.omitted = 0
        """Blocks that are only named; known once there is a body."""
        self._marks = MOST_BREAKPOINTS if self._automatic is None else MOST_BREAKPOINTS - 1

    def body(self) -> dict[str, Any]:
        """Everything, what changes least at the front."""
        found: dict[str, Any] = {"model": self._terms.model}
        for part in (
            self._tools(),
            {"messages": self._messages()},
            self._format(),
            {self._ways.max_tokens: self._limit},
            self._sampling(),
            self._control(),
            self._stream(),
            self._ways.body,
            self._session(),
            self._tier(),
            {} if self._automatic is None else {"cache_control": self._automatic},
        ):
            found |= part
        if "tools" in found or self._prepared.format is not None:
            found |= self._ways.body_with_tools
        if self._prepared.prefill:
            found |= self._ways.body_with_prefill
        return {key: value for key, value in found.items() if key not in self._ways.refused}

    # --- messages ---

    def _messages(self) -> list[Message]:
        found = [*self._system()]
        for turn in self._prepared.turns:
            found += self._user(turn) if turn.role == "user" else self._assistant(turn)
        return _with_breakpoints(found, self._marks) if self._caches else found

    def _system(self) -> Iterator[Message]:
        text = self._prepared.system
        if self._prepared.format is not None and self._ways.json != "json_schema":
            schema = codec.dumps(self._schema(self._prepared.format)).decode("utf-8")
            text = "\n\n".join(filter(None, (text, f"Answer with JSON that follows this schema:\n{schema}")))
        if not text:
            return
        role = self._ways.system_role
        if text != self._prepared.system:
            yield {"role": role, "content": text}
            return
        said = self._prepared.system_blocks
        marks = [block.get("cache_control") for block in said]
        yield {"role": role, "content": self._content([block["text"] for block in said], marks)}

    def _content(self, parts: list[Part], marks: list[Any]) -> str | list[Message]:
        """A text where there is only text: not every server reads lists.

        Where marks count the texts stay apart, marked or not: the marks move on, and what they left behind must be
        what was cached.
        """
        kept = [self._mark(mark) for mark in marks]
        apart = len(parts) > 1 and self._caches
        if not (apart or any(kept)) and all(isinstance(part, str) for part in parts):
            return "\n\n".join(part for part in parts if isinstance(part, str))
        return _marked([_part(part) for part in parts], kept)

    def _mark(self, found: Any) -> Message | None:
        """Where the client wants the prompt cached up to; only some models take it, and fewer the time."""
        if not self._caches or not isinstance(found, dict):
            return None
        return found if self._ways.cache_ttl else {key: value for key, value in found.items() if key != "ttl"}

    def _user(self, turn: Turn) -> Iterator[Message]:
        names = {call: self._names.out(name) for call, name in turn.names.items()}
        found = blocks.user_turn(turn.blocks, names, self._sight)
        self.omitted += found.omitted
        marks = {
            block.get("tool_use_id"): block.get("cache_control")
            for block in turn.blocks
            if block["type"] == "tool_result"
        }
        for result in found.results:
            content = self._content([result.text], [marks.get(result.id)])
            yield {"role": "tool", "tool_call_id": self._id(result.id), "content": content}
        if not found.parts:
            return
        if found.results and not self._ways.user_after_tool:
            yield {"role": "assistant", "content": CONTINUING}
        yield {"role": "user", "content": self._content(found.parts, found.marks)}

    def _assistant(self, turn: Turn) -> Iterator[Message]:
        text = "\n\n".join(
            filter(None, (blocks.text_of(block) for block in turn.blocks if not is_call(block)))
        )
        calls = [self._call(block) for block in turn.blocks if is_call(block)]
        if calls and self._ways.signed_calls:
            # A turn whose first call comes back unsigned is refused; these words are Google's own way around it.
            calls[0].setdefault("extra_content", UNSIGNED)
        message: Message = {"role": "assistant", "content": text or (None if calls else "")}
        thought = self._thought(turn, calls=bool(calls))
        if not text and not calls and not thought:
            # Nothing is left of it, but the turns around it must not become one.
            message["content"] = "(no content)"
        if calls:
            message["tool_calls"] = calls
        yield message | thought

    def _call(self, block: Message) -> Message:
        arguments = codec.dumps(block.get("input") or {}).decode("utf-8")
        function = {"name": self._names.out(block["name"]), "arguments": arguments}
        call = {"id": self._id(block["id"]), "type": "function", "function": function}
        extra = self._terms.memory.recall(block["id"]) if self._ways.signed_calls else None
        return {**call, "extra_content": extra} if extra else call

    def _id(self, client_id: str) -> str:
        return _IDS[self._ways.tool_ids](client_id)

    def _thought(self, turn: Turn, *, calls: bool) -> Message:
        """The turn's reasoning, in the field in which its maker wants it back."""
        field = self._ways.replay
        if field == "none":
            return {}
        text, details = reasoning.replayed(
            turn.blocks, self._terms.provider, self._terms.model, self._terms.memory
        )
        if field == "details":
            details = details or reasoning.remembered(turn.blocks, self._terms.model, self._terms.memory)
            return {"reasoning_details": details} if details else {"reasoning": text} if text else {}
        if not text and calls and self._ways.replay_needed and self._ask.thinking != "none":
            text = NO_REASONING
        return {field: text} if text else {}

    # --- tools and schemas ---

    def _schema(self, schema: Any) -> schemas.Schema:
        strict = self._terms.options.tool_schemas == "strict"
        return schemas.sanitise(schema, schemas.Profile.STRICT if strict else self._ways.schema)

    def _tools(self) -> dict[str, Any]:
        prepared = self._prepared
        described = [_tool(self._names, tool, self._schema) for tool in prepared.tools]
        if prepared.search is not None:
            described.append(_search(prepared.search, self._ways))
        if not described:
            return {}
        found: dict[str, Any] = {"tools": described}
        choice = prepared.choice
        if choice.type == "tool" and choice.name is not None:
            found |= self._chosen(choice.name)
        elif choice.type != "auto":
            found["tool_choice"] = self._ways.any_tool if choice.type == "any" else choice.type
        if prepared.tools and not prepared.parallel and self._ways.parallel_switch:
            found["parallel_tool_calls"] = False
        return found

    def _chosen(self, name: str) -> dict[str, Any]:
        if any(tool.name == name for tool in self._prepared.tools):
            return {"tool_choice": {"type": "function", "function": {"name": self._names.out(name)}}}
        # Claude Code always chooses its search; a model that has only that finds it unforced as well.
        supported = self._terms.facts.get("supported_parameters")
        if isinstance(supported, list) and supported and "tool_choice" not in supported:
            return {}
        return {"tool_choice": {"type": self._ways.search}}

    def _format(self) -> dict[str, Any]:
        if self._prepared.format is None:
            return {}
        if self._ways.json != "json_schema":
            return {"response_format": {"type": "json_object"}} if self._ways.json == "json_object" else {}
        schema = self._schema(self._prepared.format)
        described: dict[str, Any] = {"name": "output", "schema": schema}
        if _is_strict(schema):
            described["strict"] = True
        return {"response_format": {"type": "json_schema", "json_schema": described}}

    # --- the rest ---

    def _sampling(self) -> dict[str, Any]:
        body, found = self._ask.body, {}
        told, _ = _stops(self._prepared.stop, self._ways)
        if told:
            found["stop"] = told
        for key in self._ways.sampling:
            if isinstance(body.get(key), int | float) and not isinstance(body[key], bool):
                found[key] = body[key]
        return found

    def _stream(self) -> dict[str, Any]:
        if not self._ask.stream:
            return {"stream": False}
        counts = {"stream_options": {"include_usage": True}} if self._ways.usage_on_request else {}
        return {"stream": True} | counts

    def _control(self) -> dict[str, Any]:
        return CONTROLS[self._ways.control](self._wish(), self._terms, self._ways)

    def _wish(self) -> Wish:
        asked = self._ask.body.get("thinking")
        asked = asked if isinstance(asked, dict) else {}
        budget = asked.get("budget_tokens")
        wanted = self._ask.thinking != "none" and not self._prepared.prefill
        if self._ask.max_tokens < max(self._ways.min_output, 2):
            wanted = False  # a probe; reasoning would eat all that it may say
        return Wish(
            wanted=wanted,
            effort=self._prepared.effort,
            budget=budget if type(budget) is int and asked.get("type") == "enabled" else None,
            asked=self._ask.max_tokens,
            limit=self._limit,
        )

    def _session(self) -> dict[str, Any]:
        """Lets a router keep a session at the provider that has its cache; hashed, because it names a user."""
        metadata = self._ask.body.get("metadata")
        user = metadata.get("user_id") if isinstance(metadata, dict) else None
        if not self._ways.session or not isinstance(user, str) or not user:
            return {}
        return {"session_id": hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()[:32]}

    def _tier(self) -> dict[str, Any]:
        speed = self._ask.body.get("speed")
        tier = self._ways.tiers.get(speed) if isinstance(speed, str) else None
        return {} if tier is None else {"service_tier": tier}


_IDS: dict[str, Callable[[str], str]] = {"any": names.upstream_id, "mistral": names.mistral_id}


def _sight(terms: Terms, ways: Quirks) -> Sight:
    return Sight(images=_sees(terms), image_urls=True, documents=ways.files)


def _limit(ask: Ask, terms: Terms, ways: Quirks, size: int) -> int:
    """Clients ask for 32000 or 128000 tokens whatever the model is."""
    limits = [ask.max_tokens]
    if terms.max_output is not None:
        limits.append(terms.max_output)
    if terms.window is not None:
        room = terms.window - size - MARGIN
        limits.append(max(room - min(size // 20, room // 2), SHORTEST_ANSWER))
    return max(min(limits), ways.min_output)


MARGIN = 64
"""Tokens that templates add around a prompt, beside the twentieth by which an estimate may be wrong (of what is left,
no more than half: an answer of a word or none is asked for again and again, where a refusal lets a client compact)."""


def _tool(names: Names, tool: Any, schema: Callable[[Any], schemas.Schema]) -> dict[str, Any]:
    function = {
        "name": names.out(tool.name),
        "description": tool.description,
        "parameters": schema(tool.schema),
    }
    return {"type": "function", "function": function}


def _search(described: Message, ways: Quirks) -> dict[str, Any]:
    found: dict[str, Any] = {"type": ways.search}
    limits = searches.parameters(described)
    return found | {"parameters": limits} if limits else found


def _is_strict(schema: Any) -> bool:
    """OpenAI refuses `strict` unless every object is closed and all its keys are required."""
    if isinstance(schema, list):
        return all(_is_strict(one) for one in schema)
    if not isinstance(schema, dict):
        return True
    properties = schema.get("properties")
    if schema.get("type") == "object" or isinstance(properties, dict):
        keys = list(properties) if isinstance(properties, dict) else []
        if schema.get("additionalProperties") is not False or sorted(schema.get("required") or []) != sorted(
            keys
        ):
            return False
    return all(_is_strict(value) for value in schema.values())


# --- parts ---------------------------------------------------------------------------------------------


def _marked(parts: list[Message], marks: list[Message | None]) -> list[Message]:
    """Only a text takes a mark; that of a picture or a file goes to the text before it."""
    text: Message | None = None
    for part, mark in zip(parts, marks, strict=True):
        text = part if part["type"] == "text" else text
        if mark is not None and text is not None:
            text["cache_control"] = mark
    return parts


def _part(part: Part) -> Message:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if isinstance(part, Image | ImageUrl):
        return {"type": "image_url", "image_url": {"url": part.url}}
    return {"type": "file", "file": {"filename": part.name, "file_data": part.url}}


# --- prompt caching --------------------------------------------------------------------------------------

MOST_BREAKPOINTS = 4


def _caches(terms: Terms, ways: Quirks) -> bool:
    """Where a model has no such cache, the mark alone makes OpenRouter find no provider."""
    pricing = terms.facts.get("pricing")
    if isinstance(pricing, dict) and ways.replay == "details":
        return _is_price(pricing.get("input_cache_write"))
    return ways.cache_control


def _is_price(value: Any) -> bool:
    """A list says `"0"` as well of what a model does not have."""
    try:
        return float(value) > 0
    except (TypeError, ValueError):
        return False


def _with_breakpoints(messages: list[Message], most: int) -> list[Message]:
    """The last marks: one too many is refused, and a mark of the whole request counts as one."""
    marked = [
        part
        for message in messages
        if isinstance(message.get("content"), list)
        for part in message["content"]
        if "cache_control" in part
    ]
    for part in marked[:-most]:
        del part["cache_control"]
    return messages


# --- how reasoning is asked for --------------------------------------------------------------------------


@attrs.frozen
class Wish:
    """What the client wants of reasoning."""

    wanted: bool
    effort: str | None
    budget: int | None
    asked: int
    """Tokens for reasoning and answer together, as the client wants it."""
    limit: int
    """The same as it is sent."""


_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


def _effort(wish: Wish) -> str | None:
    """The wish in words; a budget is a share of what may be said."""
    if wish.budget is None:
        return wish.effort if wish.effort in _EFFORTS else None
    share = wish.budget / max(wish.asked, 1)
    return "low" if share <= 0.2 else "medium" if share <= 0.5 else "high"


def clamped(effort: str, known: tuple[str, ...]) -> str | None:
    """The nearest effort that is known, rather less than more."""
    ranked = sorted((one for one in known if one in _EFFORTS and one != "none"), key=_EFFORTS.index)
    below = [one for one in ranked if _EFFORTS.index(one) <= _EFFORTS.index(effort)]
    return next(iter([*reversed(below), *ranked]), None)


def _reasons(terms: Terms, ways: Quirks) -> bool:
    """Only models that are known to: others refuse the parameter."""
    return ways.reasons or (terms.capabilities is not None and "thinking" in terms.capabilities)


def _by_effort(wish: Wish, terms: Terms, ways: Quirks) -> dict[str, Any]:
    if not _reasons(terms, ways):
        return {}
    if not wish.wanted:
        return {"reasoning_effort": "none"} if "none" in ways.efforts else {}
    effort = _effort(wish)
    found = None if effort is None else clamped(effort, ways.efforts)
    return {} if found is None else {"reasoning_effort": found}


def _by_template(wish: Wish, terms: Terms, ways: Quirks) -> dict[str, Any]:
    return {"chat_template_kwargs": {"enable_thinking": wish.wanted}} if _reasons(terms, ways) else {}


def _by_switch(wish: Wish, terms: Terms, ways: Quirks) -> dict[str, Any]:
    return {"thinking": {"type": "enabled" if wish.wanted else "disabled"}} if _reasons(terms, ways) else {}


def _by_router(wish: Wish, terms: Terms, ways: Quirks) -> dict[str, Any]:
    facts = terms.facts.get("reasoning")
    facts = facts if isinstance(facts, dict) else {}
    if not (facts or _reasons(terms, ways)):
        return {}
    if not wish.wanted:
        return {} if facts.get("mandatory") is True else {"reasoning": {"effort": "none"}}
    if wish.budget is not None and facts.get("supports_max_tokens") is True and wish.limit > LEAST_BUDGET:
        # Of less than the client counted on, the answer still needs a part.
        most = wish.limit - 1 if wish.limit >= wish.asked else wish.limit // 2
        return {"reasoning": {"max_tokens": max(min(wish.budget, most), LEAST_BUDGET)}}
    effort = _effort(wish)
    if effort is None:
        return {"reasoning": {"enabled": True}}
    known = facts.get("supported_efforts")
    found = clamped(effort, tuple(known) if isinstance(known, list) and known else ways.efforts)
    return {"reasoning": {"enabled": True} if found is None else {"effort": found}}


def _omitted(wish: Wish, terms: Terms, ways: Quirks) -> dict[str, Any]:
    return {}


CONTROLS: dict[str, Callable[[Wish, Terms, Quirks], dict[str, Any]]] = {
    "effort": _by_effort,
    "template": _by_template,
    "switch": _by_switch,
    "openrouter": _by_router,
    "omit": _omitted,
}
