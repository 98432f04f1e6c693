"""Ollama's own protocol, `POST /api/chat`: requests, answers, refusals, and what discovery tells.

Theory of operation
-------------------
The native endpoint, because only it takes a context size. Left alone, Ollama gives a model a few thousand
tokens and drops the oldest messages in silence: the agent forgets its task and its tools. So `num_ctx` is
always said when it is known, `truncate` and `shift` are off, and a prompt that does not fit is an error
in the words on which clients compact.

Always streamed, also for a client that wants one body: a stream is how we learn early that something is
wrong, and how generation stops when the client leaves. Calls are kept until the end of the answer, so that
one which the token limit may have cut is never handed out as if it were whole.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import attrs

from modelproxy.worker import failures
from modelproxy.worker.failures import Failure, Kind, Refused
from modelproxy.worker.wire import codec, ndjson
from modelproxy.worker.wire import ollama as wire
from modelproxy.worker.wire.asks import Ask
from modelproxy.worker.wire.items import Finish, Item, Text, Thinking, ToolCall, Usage

from . import arguments, errors, names, seam, thinking, toolless
from .batches import Batches
from .blocks import Image, Sight, UserTurn, text_of, user_turn
from .fences import Fences
from .schemas import Profile, sanitise
from .seam import Call, Headers, NewId, Terms
from .turns import SHORTEST_ANSWER, Block, Prepared, Turn, format_of, is_call, prepare

MARGIN = 64
"""Tokens of a window that templates and our estimate may need beyond the prompt."""


class Ollama:
    """The dialect."""

    def call(self, ask: Ask, terms: Terms) -> Call:
        wanted = prepare(ask, terms)
        prepared = toolless.settled(wanted, terms, _sight(terms))
        _refuse_tools(prepared, terms)
        size = prepared.input_tokens(_sight(terms), _tool_loop(prepared.turns))
        window = window_of(terms)
        if window is not None and size > window:
            raise Refused(failures.overflow(size, window))
        messages, omitted = _messages(prepared, terms)
        body = {
            "model": terms.model,
            "messages": messages,
            "tools": _tools(prepared),
            "format": prepared.format,
            "options": _options(ask, prepared, terms, size),
            "stream": True,
            "think": _think(ask, prepared, terms),
            "keep_alive": _keep_alive(terms),
            "truncate": False,
            "shift": False,
        }
        said = {key: value for key, value in body.items() if value is not None}
        notes = (*prepared.notes, f"blocks only named: {omitted}") if omitted else prepared.notes
        remarks = toolless.remarks(wanted, terms)
        return Call(
            "/api/chat", codec.dumps(said), _headers(terms), notes=notes, remarks=remarks, prompt_tokens=size
        )

    def sight(self, terms: Terms) -> Sight:
        return _sight(terms)

    def decoder(self, ask: Ask, terms: Terms, *, new_id: NewId) -> seam.Decoder:
        return toolless.reader(Decoder(ask, terms, new_id), ask, terms, new_id)

    def failure(self, ask: Ask, terms: Terms, status: int, headers: Headers, body: bytes) -> Failure:
        said = errors.read(body)
        known = _known(status, said.message, terms)
        if known is not None:
            return known
        failure = errors.from_answer(
            status, headers, body, terms, title=title(terms), prompt_tokens=ask.input_tokens
        )
        return _with_hint(failure, said.message, terms)


def title(terms: Terms) -> str:
    """The provider's name for people."""
    return "Ollama" if terms.provider == "ollama" else f"Ollama ({terms.provider})"


def window_of(terms: Terms) -> int | None:
    """Tokens that prompt and answer may have together, and what we ask for: what is configured wins."""
    return terms.options.num_ctx or terms.options.context_window or terms.window


def _headers(terms: Terms) -> Headers:
    found: Headers = [(b"content-type", b"application/json"), (b"accept", b"application/x-ndjson")]
    if terms.api_key is not None:
        found.append((b"authorization", b"Bearer " + terms.api_key.encode("utf-8")))
    found += [
        (name.lower().encode("latin-1"), value.encode("utf-8"))
        for name, value in terms.options.headers.items()
    ]
    return found


# --- the request ----------------------------------------------------------------------------------


def _refuse_tools(prepared: Prepared, terms: Terms) -> None:
    """An agent without its tools only talks; leaving them out in silence would look like a bad model."""
    if prepared.tools and prepared.choice.type != "none" and not terms.can("tools"):
        raise Refused(_no_tools(terms))


def _no_tools(terms: Terms) -> Failure:
    return Failure(
        Kind.INVALID,
        f"model {terms.model} does not support tools; choose a tool-capable model (ollama show {terms.model})",
    )


def _messages(prepared: Prepared, terms: Terms) -> tuple[list[dict[str, Any]], int]:
    """System first, once; then the turns. And how many blocks the model cannot be shown."""
    system = "\n\n".join(text for text in (prepared.system, _duty(prepared)) if text)
    found: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    sight = _sight(terms)
    loop = _tool_loop(prepared.turns)
    omitted = 0
    for number, turn in enumerate(prepared.turns):
        if turn.role == "user":
            said = user_turn(turn.blocks, turn.names, sight)
            found += _user(said)
            omitted += said.omitted
        else:
            found.append(_assistant(turn, terms, replays=number >= loop))
    return found, omitted


def _sight(terms: Terms) -> Sight:
    in_results = terms.options.tool_images == "inline"
    return Sight(images=terms.can("vision"), image_urls=False, in_results=in_results)


def _duty(prepared: Prepared) -> str:
    """Ollama cannot force a call; it can only be asked for."""
    if not prepared.tools or prepared.choice.type in ("auto", "none"):
        return ""
    if prepared.choice.type == "tool":
        return f"Your next reply must be a call of the tool {prepared.choice.name}."
    return "Your next reply must be a call of one of the available tools."


def _tool_loop(turns: list[Turn]) -> int:
    """Where the last thing that a person said stands: reasoning before it is over, templates drop it."""
    spoken = (number for number, turn in enumerate(turns) if turn.role == "user" and not turn.names)
    return max(spoken, default=0)


def _user(said: UserTurn) -> Iterator[dict[str, Any]]:
    for result in said.results:
        # Both, because old versions match by name and new ones by id.
        pictures = {"images": [image.data for image in result.images]} if result.images else {}
        yield {
            "role": "tool",
            "content": result.text,
            **pictures,
            "tool_name": result.name,
            "tool_call_id": names.upstream_id(result.id),
        }
    texts = [part for part in said.parts if isinstance(part, str)]
    images = [part.data for part in said.parts if isinstance(part, Image)]
    if images:
        yield {"role": "user", "content": "\n\n".join(texts), "images": images}
    elif texts:
        yield {"role": "user", "content": "\n\n".join(texts)}


def _assistant(turn: Turn, terms: Terms, *, replays: bool) -> dict[str, Any]:
    texts = [text_of(block) for block in turn.blocks if not is_call(block)]
    calls = [_past_call(block) for block in turn.blocks if is_call(block)]
    message: dict[str, Any] = {"role": "assistant", "content": "\n\n".join(text for text in texts if text)}
    thought = "\n\n".join(_thoughts(turn, terms))
    # A message must hold something, so one that holds nothing else keeps its reasoning.
    if thought and (replays or not (calls or message["content"])):
        message["thinking"] = thought
    if calls:
        message["tool_calls"] = calls
    return message


def _past_call(block: Block) -> dict[str, Any]:
    """Arguments as an object: a text would be refused, from then on in every turn."""
    return {
        "id": names.upstream_id(block["id"]),
        "function": {"name": block["name"], "arguments": block["input"]},
    }


def _thoughts(turn: Turn, terms: Terms) -> Iterator[str]:
    for block in turn.blocks:
        if thinking.is_thinking(block):
            back = thinking.replay(block, terms.provider, terms.model, terms.memory)
            text = "" if back is None else back.text or _hidden(back.details)
            if text:
                yield text


def _hidden(details: Any) -> str:
    text = details.get("text") if isinstance(details, dict) else None
    return text if isinstance(text, str) else ""


def _tools(prepared: Prepared) -> list[dict[str, Any]] | None:
    if prepared.choice.type == "none":
        return None
    offered = [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": sanitise(tool.schema, Profile.OLLAMA),
            },
        }
        for tool in prepared.tools
        if prepared.choice.name in (None, tool.name)
    ]
    return offered or None


def _options(ask: Ask, prepared: Prepared, terms: Terms, size: int) -> dict[str, Any]:
    """Only what was said: a null would be refused, a default of ours would not be the model's."""
    found: dict[str, Any] = {}
    window = window_of(terms)
    if window is not None:
        found["num_ctx"] = window
    found["num_predict"] = _longest_answer(ask, terms, size)
    for key in ("temperature", "top_p", "top_k"):
        value = ask.body.get(key)
        if type(value) in (int, float):
            found[key] = value
    if prepared.stop:
        found["stop"] = prepared.stop
    return found


def _longest_answer(ask: Ask, terms: Terms, size: int) -> int:
    """The client's limit, lowered to what fits: clients ask for 32000 or 128000 whatever the model is."""
    asked = max(ask.max_tokens, 1)  # 0 and below mean "without end" to Ollama
    limits = [asked]
    limits += [most for most in (terms.options.max_output_tokens, terms.max_output) if most]
    window = window_of(terms)
    if window is not None:
        limits.append(max(window - size - MARGIN, SHORTEST_ANSWER))
    return min(limits)


def _keep_alive(terms: Terms) -> str | int | None:
    """Ollama reads a number of seconds only as a number."""
    value = terms.options.keep_alive
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,9}", value):
        return int(value)
    return value


# --- reasoning ------------------------------------------------------------------------------------

Think = bool | str | None

_LEVELS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "max"}

THINK = "think"
"""Key in `Terms.facts`: what this model was found to take, `plain` (no levels) or `never`."""


def _think(ask: Ask, prepared: Prepared, terms: Terms) -> Think:
    """The configured value, else what the client asks for; a client that says nothing sends no key."""
    if terms.options.think is not None:
        return _configured(terms.options.think)
    if not terms.can("thinking") or terms.facts.get(THINK) == "never":
        return None
    wish = ask.body.get("thinking")
    # A schema makes a thinking model answer in two passes, though its caller waits for a title or a verdict; a
    # sentence that was begun is to be gone on with; and of a single token nothing would be left.
    in_the_way = prepared.format is not None or prepared.prefill or ask.max_tokens <= 1
    if not isinstance(wish, dict) or not isinstance(wish.get("type"), str):
        return _off(terms) if in_the_way and terms.capabilities is not None else None
    if wish["type"] == "disabled" or in_the_way:
        return _off(terms)
    level = _LEVELS.get(prepared.effort or "")
    if _needs_level(terms):
        return "high" if level == "max" else level or "medium"
    return True if level is None or terms.facts.get(THINK) == "plain" else level


def _configured(value: bool | str) -> bool | str:
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


def _off(terms: Terms) -> bool | str:
    return "low" if _needs_level(terms) else False


def _needs_level(terms: Terms) -> bool:
    """gpt-oss cannot stop thinking and ignores a switch."""
    return "gpt-oss" in terms.model.lower() or terms.facts.get("family") == "gptoss"


def again(ask: Ask, terms: Terms, status: int, body: bytes) -> Terms | None:
    """The terms under which the same request is worth sending once more; None: it is not.

    Levels of thinking and then thinking itself are given up, and tools where that was chosen, which is worth
    remembering; a call that the
    model wrote badly may come out well the next time, under the terms as they are.
    """
    words = errors.read(body).message
    if status == 500 and _BAD_CALL.search(words):
        return terms
    if (without := toolless.again(ask, terms, words)) is not None:
        return without
    if status != 400 or not _ABOUT_THINKING.search(words):
        return None
    sent = _think(ask, prepare(ask, terms), terms)
    if sent is None or terms.options.think is not None:
        return None  # nothing to give up, or the user wants it so
    plain = isinstance(sent, str) and not _needs_level(terms) and not _NO_THINKING.search(words)
    return attrs.evolve(terms, facts={**terms.facts, THINK: "plain" if plain else "never"})


_BAD_CALL = re.compile(r"error parsing tool call", re.IGNORECASE)
_ABOUT_THINKING = re.compile(r"\bthink", re.IGNORECASE)
_NO_THINKING = re.compile(r"does not support thinking", re.IGNORECASE)


# --- the answer -----------------------------------------------------------------------------------


class Decoder:
    """The lines of one answer into items."""

    def __init__(self, ask: Ask, terms: Terms, new_id: NewId) -> None:
        self._ask = ask
        self._terms = terms
        self._new_id = new_id
        self._lines = ndjson.Lines()
        self._calls: list[wire.Call] = []
        self._thinks = False
        """A block of reasoning is open."""
        self._hidden: list[str] = []
        """Its pieces, for a client that is not shown them but carries them."""
        self._inline = thinking.Inline() if _thinks_inline(terms) else None
        # Models in the cloud need not keep to `format`.
        self._fences = Fences() if format_of(ask.body) is not None and not ask.tools else None
        self._said_something = False
        self._over = False
        self._batches = Batches()

    def feed(self, data: bytes) -> list[Item]:
        return self._batches.take(self._items(data))

    def rest(self) -> list[Item]:
        return self._batches.rest()

    @property
    def is_ending(self) -> bool:
        return self._over

    @property
    def is_over(self) -> bool:
        return self._over

    def _items(self, data: bytes) -> Iterator[Item]:
        try:
            for line in self._lines.feed(data):
                yield from self._line(line)
        except ndjson.LineTooLong:
            yield self._fail(Failure(Kind.PROVIDER, f"{title(self._terms)} sent a line without end"))

    def end(self) -> list[Item]:
        """A last line without its line end is as good as any; half a line is a cut, a page of HTML is not."""
        line = self._lines.end()
        try:
            codec.loads(line)
        except ValueError:
            if line.startswith(b"{") or not line:
                return []
        return self._batches.take(self._line(line))

    def _line(self, line: bytes | bytearray) -> Iterator[Item]:
        if self._over:
            return
        try:
            for chunk in wire.read(line):
                if chunk.error is not None:
                    yield self._fail(stream_failure(self._ask, self._terms, chunk.error))
                else:
                    yield from self._chunk(chunk)
        except ValueError as error:
            yield self._fail(self._unreadable(line, str(error)))

    def _unreadable(self, line: bytes | bytearray, why: str) -> Failure:
        if not line.startswith(b"{"):  # a gateway's page tells more than its first character
            why = errors.scrub(errors.plain(bytes(line)), self._terms)[:80] or why
        return Failure(
            Kind.PROVIDER, f"{title(self._terms)} answered something that is not its protocol: {why}"
        )

    def _fail(self, failure: Failure) -> Failure:
        self._over = True
        return failure

    def _chunk(self, chunk: wire.Chunk) -> Iterator[Item]:
        if chunk.thinking:
            yield self._thought(chunk.thinking)
        if chunk.content:
            for item in [Text(chunk.content)] if self._inline is None else self._inline.feed(chunk.content):
                yield from self._shown(item)
        self._calls += chunk.calls
        if chunk.done:
            yield from self._done(chunk)

    def _shown(self, item: Item) -> Iterator[Item]:
        if isinstance(item, Thinking):
            yield self._thought(item.text)
        elif isinstance(item, Text):
            yield from self._text(item.text if self._fences is None else self._fences.feed(item.text))

    def _text(self, text: str) -> Iterator[Item]:
        if text:
            yield from self._signature()
            self._said_something = True
            yield Text(text)

    def _thought(self, text: str) -> Thinking:
        self._said_something = self._thinks = True
        if self._ask.thinking == "omitted":
            self._hidden.append(text)
        return Thinking(text)

    def _signature(self) -> Iterator[Item]:
        """Ends an open block of reasoning."""
        if not self._thinks:
            return
        details = {"text": "".join(self._hidden)} if self._hidden else None
        self._thinks, self._hidden = False, []
        yield Thinking(
            "", thinking.sign(self._terms.provider, self._terms.model, details, self._terms.memory)
        )

    def _done(self, chunk: wire.Chunk) -> Iterator[Item]:
        self._over = True
        for item in [] if self._inline is None else self._inline.end():
            yield from self._shown(item)
        if self._fences is not None:
            yield from self._text(self._fences.end())
        yield from self._signature()
        usage = Usage(chunk.prompt_tokens, chunk.output_tokens)
        if (failure := self._no_end(chunk)) is not None:
            yield from (usage, failure)
            return
        yield from self._whole_calls(truncated=chunk.reason == "length")
        yield from (usage, Finish(self._reason(chunk)))

    def _no_end(self, chunk: wire.Chunk) -> Failure | None:
        """What an end means that is none, or before which nothing was said; None: all is as the model wanted it."""
        name = f"{title(self._terms)}, model {self._terms.model}"
        if chunk.reason in _BREAKS:
            return Failure(Kind.CUT, f"{name}: ended early: {chunk.reason}")
        if self._said_something or self._calls or chunk.reason in ("stop", "length"):
            return None
        if chunk.reason in _MOVED:
            return Failure(Kind.OVERLOADED, f"{name}: {_MOVED[chunk.reason]}")
        if chunk.reason:
            return Failure(Kind.PROVIDER, f"{name}: ended with {chunk.reason[:80]!r}")
        # Old servers give no reason, but they count what they generated.
        return None if chunk.output_tokens else Failure(Kind.CUT, f"{name}: ended before it said anything")

    def _whole_calls(self, *, truncated: bool) -> Iterator[ToolCall]:
        one_only = self._ask.tool_choice.get("disable_parallel_tool_use") is True
        calls = self._calls[:1] if one_only else self._calls
        schemas = {tool["name"]: tool.get("input_schema") for tool in self._ask.tools if tool.get("name")}
        for number, call in enumerate(calls, start=1):
            # Only the last can have been cut.
            cut = truncated and number == len(self._calls)
            name = names.closest(call.name, schemas) or _only(schemas)
            whole = arguments.repair(call.arguments, truncated=cut)
            typed = arguments.coerced(codec.loads(whole), schemas.get(name))
            yield ToolCall(self._new_id("toolu_"), name, codec.dumps(typed))

    def _reason(self, chunk: wire.Chunk) -> str:
        if chunk.reason != "length":
            return "end_turn"
        window = window_of(self._terms)
        spent = (chunk.prompt_tokens or self._ask.input_tokens) + (chunk.output_tokens or 0)
        return "max_tokens" if window is None or spent < window else "model_context_window_exceeded"


def _only(offered: Collection[str]) -> str:
    """What a call without a name means: the one tool there is, or nothing that a client would run."""
    return next(iter(offered)) if len(offered) == 1 else "unknown_tool"


_BREAKS = ("connection closed", "error")
_MOVED = {"load": "the model was loaded but said nothing", "unload": "the model was unloaded"}


def _thinks_inline(terms: Terms) -> bool:
    """A model imported without a template that knows reasoning leaves it in the text, and every old server does."""
    return terms.capabilities is None or "thinking" not in terms.capabilities


# --- refusals -------------------------------------------------------------------------------------


def stream_failure(ask: Ask, terms: Terms, error: Any) -> Failure:
    """What an `error` line inside a 200 means."""
    said = errors.said_of(error)
    known = _known(said.status or 500, said.message, terms)
    if known is not None:
        return known
    failure = errors.in_stream(error, terms, title=title(terms), prompt_tokens=ask.input_tokens)
    return _with_hint(failure, said.message, terms)


def _known(status: int, words: str, terms: Terms) -> Failure | None:
    """What only Ollama says."""
    if _NO_TOOLS.search(words):
        return _no_tools(terms)
    sentence = errors.scrub(words, terms)[: errors.LONGEST_PLAIN]
    if _BAD_CALL.search(words):
        return Failure(
            Kind.PROVIDER,
            f"{title(terms)}: the model {terms.model} wrote a tool call that cannot be read: {sentence}",
        )
    if status == 403 and _PLAN.search(words):
        return Failure(Kind.FORBIDDEN, f"{title(terms)}: {sentence}")
    if _BUSY.search(words):
        return Failure(Kind.OVERLOADED, f"{title(terms)}: {sentence}")
    if status == 499:
        return Failure(Kind.CUT, f"{title(terms)} ended the answer early: {sentence or 'no reason given'}")
    if status == 404 and not _NO_MODEL.search(words):
        return Failure(
            Kind.NOT_FOUND,
            f"{title(terms)} has no /api/chat: is base_url of provider {terms.provider} an Ollama server? "
            f"({sentence or 'not found'})",
        )
    return None


_NO_TOOLS = re.compile(r"does not support tools", re.IGNORECASE)
_PLAN = re.compile(r"subscription|upgrade for access", re.IGNORECASE)
"""The key is good, its plan is too small."""
_BUSY = re.compile(r"server busy|maximum pending requests|loading model", re.IGNORECASE)
_NO_MODEL = re.compile(r"model\b.{0,200}not found|try pulling|manifest", re.IGNORECASE)
_NO_MEMORY = re.compile(r"more system memory|out of memory|cudaMalloc", re.IGNORECASE)


def _with_hint(failure: Failure, words: str, terms: Terms) -> Failure:
    hint = ""
    if failure.kind is Kind.NOT_FOUND:
        hint = pull_hint(terms.model)
    elif failure.kind is Kind.KEY_REJECTED:
        hint = "sign in with `ollama signin`"
    elif _NO_MEMORY.search(words):
        hint = "a smaller num_ctx needs less memory"
    return attrs.evolve(failure, message=f"{failure.message} - {hint}") if hint else failure


# --- discovery ------------------------------------------------------------------------------------

NEEDED_WINDOW = 64_000
"""Claude Code opens with 20 to 36 thousand tokens and keeps 33 thousand for compaction."""
USUAL_WINDOW = 65_536
"""What a local model gets when nobody says more: its largest window may be more than the memory holds."""

SERVE_HINT = "is it running? start it with `ollama serve`"


def pull_hint(model: str) -> str:
    return f"get it with `ollama pull {model}`"


class Facts(NamedTuple):
    """What a server says about one model."""

    capabilities: frozenset[str] | None
    window: int | None
    """What to ask for as `num_ctx` when nothing is configured."""
    details: dict[str, object]
    """For `Terms.facts`: `family`, `parameter_size`, `quantization_level`, `context_length`, `loaded`, `remote`."""


def facts_from(show: dict[str, Any], ps: dict[str, Any] | None = None, model: str = "") -> Facts:
    """Read the answers of `/api/show` and `/api/ps`. Nothing is taken for granted: versions differ.

    `model` finds this model among those that are loaded; without a name none of them counts.
    """
    named = show.get("capabilities")
    capabilities = (
        frozenset(one for one in named if isinstance(one, str)) if isinstance(named, list) else None
    )
    largest = _largest_window(show.get("model_info"))
    loaded = _loaded_window(ps, model)
    remote = bool(show.get("remote_model") or show.get("remote_host"))
    details: dict[str, object] = {
        key: value for key, value in codec.as_dict(show.get("details")).items() if key in _TOLD and value
    }
    known = (("context_length", largest), ("loaded", loaded), ("remote", remote))
    details.update({key: value for key, value in known if value})
    window = _set_window(show.get("parameters")) or _fitting(largest, loaded, remote=remote)
    return Facts(capabilities, window, details)


_TOLD = ("family", "parameter_size", "quantization_level")


def _largest_window(info: Any) -> int | None:
    """`<architecture>.context_length`, whatever the architecture is called."""
    found = [value for key, value in codec.as_dict(info).items() if key.endswith(".context_length")]
    return next((value for value in found if type(value) is int and value > 0), None)


def _set_window(parameters: Any) -> int | None:
    """`num_ctx` from the model's own file: somebody chose it for this model."""
    found = (
        re.search(r"^\s*num_ctx\s+(\d{1,9})\s*$", parameters, re.MULTILINE)
        if isinstance(parameters, str)
        else None
    )
    return int(found[1]) or None if found else None


def _fitting(largest: int | None, loaded: int | None, *, remote: bool) -> int | None:
    """The model's own window up to what memory usually holds, or what it already runs with."""
    if largest is None or remote:
        return largest or loaded
    return min(largest, max(loaded or 0, USUAL_WINDOW))


def _loaded_window(ps: dict[str, Any] | None, model: str) -> int | None:
    models = codec.as_dict(ps).get("models")
    for one in models if isinstance(models, list) else []:
        one = codec.as_dict(one)
        length = one.get("context_length")
        alike = _full(model) in (_full(one.get("name")), _full(one.get("model")))
        if alike and type(length) is int and length > 0:
            return length
    return None


def _full(name: Any) -> str:
    """`qwen3-coder` means `qwen3-coder:latest`."""
    text = name.lower() if isinstance(name, str) else ""
    return text if ":" in text.rpartition("/")[2] else f"{text}:latest"


def hopeless(window: int | None) -> str | None:
    """A warning for `up` and `ps` when an agent cannot work in this window."""
    if window is None or window >= NEEDED_WINDOW:
        return None
    return (
        f"the context window of {window} tokens is too small for an agent such as Claude Code, which needs "
        f"{NEEDED_WINDOW} or more: set num_ctx, or choose another model"
    )
