"""A chat-completions answer into items, however it is cut and whatever it is.

Theory of operation
-------------------
Three forms arrive with a status of 200: a stream of events, one JSON document (some servers stream to
nobody), and pages of gateways. The first bytes tell which.

Text and reasoning pass at once. Calls are kept until the server has said how it finished, and then come whole,
last and repaired; without that word they never come, because half a call is not for executing. The word itself
waits for the stream's own end: some servers say it in front of the last fragments, or in every chunk. What breaks
behind it takes no answer away that was whole. An error anywhere before is a `Failure`.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import attrs

from modelproxy.worker import tokens
from modelproxy.worker.failures import Failure, Kind
from modelproxy.worker.wire import longs, openai, sse
from modelproxy.worker.wire.asks import Ask
from modelproxy.worker.wire.items import CallStart, Finish, Item, Text, Thinking, ToolCall, Usage
from modelproxy.worker.wire.openai import Chunk

from . import arguments, errors
from .batches import Batches
from .fences import Fences
from .fragments import Call, Calls
from .live import Live
from .names import Names
from .quirks import Quirks
from .reasoning import Reasoning
from .seam import NewId, Terms
from .searches import Held
from .stops import Stops
from .thinking import Inline

LONGEST = 32 * 1024 * 1024
"""Bytes of one answer that is no stream."""

# What each word for an end means to the client; an unknown one counts as a plain end if anything was said.
FINISHES = {
    "stop": "end_turn",
    "end_turn": "end_turn",
    "eos": "end_turn",
    "stop_sequence": "end_turn",
    "tool_calls": "tool_use",
    "tool_use": "tool_use",
    "tool_call": "tool_use",
    "function_call": "tool_use",
    "length": "max_tokens",
    "max_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "model_length": "model_context_window_exceeded",
    "content_filter": "refusal",
    "content-filter": "refusal",
    "refusal": "refusal",
    "safety": "refusal",
    "recitation": "refusal",
    "prohibited_content": "refusal",
    "sensitive": "refusal",
}
BREAKS = {
    "error": Kind.PROVIDER,
    "abort": Kind.PROVIDER,
    "malformed_function_call": Kind.PROVIDER,
    "function_call_filter: malformed_function_call": Kind.PROVIDER,
    "insufficient_system_resource": Kind.OVERLOADED,
}
"""Words for an end that is none."""

_WHOLE_ENDS = ("end_turn", "tool_use")


@attrs.frozen
class Frame:
    """What of the request its answer has to obey."""

    names: Names
    offered: tuple[str, ...] = ()
    stops: tuple[str, ...] = ()
    """Those that the server was not told."""
    told_stops: tuple[str, ...] = ()
    parallel: bool = True
    """False: the client takes one call; some servers cannot be told, others do not listen."""
    json_only: bool = False
    live: bool = False
    """Arguments are passed on while they come."""
    most_tokens: int | None = None
    """Where more had to be asked for than the client wants."""
    search: str = ""
    """The server's own name for the web search that was on offer."""


class Decoder:
    """See `seam.Decoder`."""

    def __init__(self, ask: Ask, terms: Terms, quirks: Quirks, frame: Frame, *, new_id: NewId) -> None:
        self._terms = terms
        self._estimate = ask.input_tokens
        self._quirks = quirks
        self._body: _Body | None = None
        self._head = b""
        self._over = False
        self._odd: dict[str, Any] | None = None
        """Something in the stream that is no chunk: when nothing else comes, it may say why."""
        self._batches = Batches()
        self._held = Held(frame.search, new_id) if frame.search else None
        self._answer = _Answer(ask, terms, quirks, frame, new_id, self._held)

    def feed(self, data: bytes) -> list[Item]:
        if self._over:
            return []
        if self._body is not None:
            return self._batches.take(self._ordered(self._items(self._body.feed(data))))
        self._head += data
        form = _form(self._head)
        if form is None:
            return []
        self._body, head, self._head = form(), self._head, b""
        return self._batches.take(self._ordered(self._items(self._body.feed(head))))

    def rest(self) -> list[Item]:
        return self._batches.rest()

    @property
    def is_ending(self) -> bool:
        return self._over or (
            self._answer.is_ending and not self._answer.is_early and not self._answer.is_torn
        )

    @property
    def is_over(self) -> bool:
        return self._over

    def end(self) -> list[Item]:
        if self._over:
            return self._batches.take(self._held.release()) if self._held else []
        if self._body is None:
            self._body, head, self._head = _Garbage(), self._head, b""
            self._body.feed(head)
        return self._batches.take(self._to_the_end(self._body.end()))

    def _to_the_end(self, found: Iterable[_Found]) -> Iterator[Item]:
        yield from self._ordered(self._ending(found))
        yield from self._held.release() if self._held else ()

    def _ordered(self, items: Iterator[Item]) -> Iterator[Item]:
        """What a search found goes before the text that speaks of it."""
        if self._held is None:
            return items
        return (one for item in items for one in self._held.take(item))

    def _ending(self, found: Iterable[_Found]) -> Iterator[Item]:
        yield from self._items(found)
        if not self._over:
            yield from self._answer.ended() or self._explained()
        self._over = True

    def _explained(self) -> list[Item]:
        """For an answer that ends without a word: what stands in the place of one."""
        if self._odd is None or self._answer.said_something or self._answer.is_ending:
            return []
        return self._error(self._odd)

    def _items(self, found: Iterable[_Found]) -> Iterator[Item]:
        for one in found:
            yield from self._item(one)
            if self._over:
                break

    def _item(self, found: _Found) -> list[Item]:
        if isinstance(found, _Done):
            self._over = True
            return self._answer.done() or self._explained()
        if isinstance(found, _Bad):
            return self._failed(Failure(Kind.PROVIDER, f"{self._name}: {self._clean(found.words)}"))
        error = found.document if found.is_error else openai.error(found.document)
        if error is not None:
            return [*self._answer.count(openai.counts(found.document)), *self._error(error)]
        if found.is_whole and not openai.is_answer(found.document):
            return self._no_answer(found.document)
        if "choices" not in found.document and errors.said_of(found.document).message:
            self._odd = self._odd or found.document
        items = self._answer.add(
            openai.chunk(found.document, self._quirks.reasoning), is_whole=found.is_whole
        )
        self._over = any(isinstance(item, Failure) for item in items)
        return items

    @property
    def _name(self) -> str:
        return self._quirks.title or self._terms.provider

    def _clean(self, words: str) -> str:
        return errors.scrub(words, self._terms)

    def _no_answer(self, document: dict[str, Any]) -> list[Item]:
        if errors.said_of(document).message:
            return self._error(document)
        return self._failed(Failure(Kind.PROVIDER, f"{self._name} answered something that is no message"))

    def _error(self, error: Any) -> list[Item]:
        reason = None if self._lacks_only_its_bill else errors.stop_reason(error)
        if reason is not None and (self._answer.said_something or reason == "max_tokens"):
            self._over = True
            return self._answer.finish(Finish(reason))
        return self._failed(
            errors.in_stream(error, self._terms, title=self._quirks.title, prompt_tokens=self._estimate)
        )

    @property
    def _lacks_only_its_bill(self) -> bool:
        return self._answer.is_ending and not self._answer.is_early and self._answer.is_whole

    def _failed(self, failure: Failure) -> list[Item]:
        self._over = True
        return self._answer.ended() if self._lacks_only_its_bill else [failure]


# --- the three forms ---------------------------------------------------------------------------------


@attrs.frozen
class _Document:
    document: dict[str, Any]
    is_whole: bool = False
    is_error: bool = False


@attrs.frozen
class _Done:
    """The stream's own end."""


@attrs.frozen
class _Bad:
    """What cannot be read."""

    words: str


_Found = _Document | _Done | _Bad
_Body = Any  # one of the three classes below


_BOM = b"\xef\xbb\xbf"
_FIELDS = (b"data", b"event", b"id", b"retry", b"error:")


def _form(head: bytes) -> Callable[[], _Body] | None:
    """Which form an answer has that begins so; None: that cannot be told yet."""
    if _BOM.startswith(head[:3]) and len(head) < 3:
        return None
    text = head.removeprefix(_BOM).lstrip()
    if not text:
        return None
    if text[:1] in (b"{", b"["):
        return _Json
    if text[:1] == b":" or text.startswith(_FIELDS):
        return _Events
    return None if any(field.startswith(text) for field in _FIELDS) else _Garbage


class _Events:
    """A stream of events."""

    def __init__(self) -> None:
        self._decoder = sse.Decoder(strays=True)

    def feed(self, data: bytes) -> Iterable[_Found]:
        try:
            for event in self._decoder.feed(data):
                yield from _of_event(event)
        except sse.EventTooLong:
            yield _Bad("sent an event without end")

    def end(self) -> Iterable[_Found]:
        # Some servers leave out the empty line behind the last event. If it is broken, it was cut.
        return [found for found in self.feed(b"\n\n") if not isinstance(found, _Bad)]


def _of_event(event: sse.Event) -> Iterator[_Found]:
    data = event.data.strip()
    long = openai.parted(data) if event.name != "error" else None
    if long is not None:
        yield from map(_Document, long)
    else:
        for piece in _parts(data):
            found = _of_short(event.name, piece)
            if found is not None:
                yield found


def _parts(data: bytes) -> list[bytes]:
    """Some servers leave out the empty line between events; a document over several lines stays one."""
    lines = data.split(b"\n") if b"\n" in data else []
    return lines if lines and all(map(_WHOLE_LINE.fullmatch, lines)) else [data]


_WHOLE_LINE = re.compile(rb"\s*(\{.*\}|\[DONE\])\s*")


def _of_short(name: str, data: bytes) -> _Found | None:
    if data == b"[DONE]":
        return _Done()
    try:
        document = openai.loads(data)
    except ValueError:
        document = None
    words = "" if isinstance(document, dict) or data == b"null" else data.decode("utf-8", "replace")
    if name == "error":
        document = document if isinstance(document, dict) else {"message": words}
        error = document.get("error")
        return _Document(error if isinstance(error, dict) else document, is_error=True)
    if isinstance(document, dict):
        # A stray one is a server's answer to its own failure, in the middle of a stream.
        return _Document(document, is_error=name == sse.STRAY and "choices" not in document)
    # Under a name of its own it is a sign of life.
    return _Bad(f"sent a chunk that is no JSON object: {words[:80]}") if words and name == "message" else None


class _Json:
    """One document, also where a stream was asked for."""

    def __init__(self) -> None:
        self._data = io.BytesIO()

    def feed(self, data: bytes) -> Iterable[_Found]:
        self._data.write(data)
        if self._data.tell() > LONGEST:
            self._data = io.BytesIO()
            return [_Bad(f"sent an answer of more than {LONGEST} bytes")]
        return []

    def end(self) -> Iterable[_Found]:
        data = self._data.getvalue().removeprefix(_BOM)
        long = openai.parted(data)
        if long is None:
            return self._short(data)
        self._data = io.BytesIO()
        return _with_last(long)

    def _short(self, data: bytes) -> list[_Found]:
        try:
            document = openai.loads(data)
        except ValueError:
            return [_Bad(f"the answer is not valid JSON, or was cut: {errors.plain(data)[:80]}")]
        if isinstance(document, list) and document:
            document = document[0]  # Google wraps its errors in one
        if not isinstance(document, dict):
            return [_Bad("answered something that is no message")]
        return [_Document(document, is_whole=True)]


def _with_last(long: Iterator[dict[str, Any]]) -> Iterator[_Found]:
    """The last one is the whole answer, without the text that came before it."""
    last = next(long)
    for document in long:
        yield _Document(last)
        last = document
    yield _Document(last, is_whole=True)


class _Garbage:
    """A page or a text: of some gateway, or of something that is no chat server."""

    def __init__(self) -> None:
        self._head = b""

    def feed(self, data: bytes) -> Iterable[_Found]:
        if len(self._head) < LONGEST_HEAD:
            self._head += data
        return []

    def end(self) -> Iterable[_Found]:
        words = errors.plain(self._head)
        return [_Bad(f"answered something that is no chat completion: {words}")] if words else []


LONGEST_HEAD = 64 * 1024


# --- one answer ----------------------------------------------------------------------------------------


class _Answer:
    """Chunks in, items out."""

    def __init__(
        self, ask: Ask, terms: Terms, quirks: Quirks, frame: Frame, new_id: NewId, held: Held | None
    ) -> None:
        self._terms = terms
        self._quirks = quirks
        self._frame = frame
        self._held = held
        self._new_id = new_id
        self._name = quirks.title or terms.provider
        self._reasoning = Reasoning(terms.provider, terms.model, display=ask.thinking, memory=terms.memory)
        self._calls = Calls(frame.names.seen)
        who = f"{self._name}, model {terms.model}"
        self._live = Live(self._calls, self._begun, who) if frame.live else None
        self._inline = Inline() if quirks.think_tags else None
        self._fences = Fences() if frame.json_only else None
        self._half = ""
        """The first half of a character, whose second may come in the next chunk."""
        self._stops = Stops(list(frame.stops))
        self._room = (
            None if frame.most_tokens is None else math.ceil(frame.most_tokens * tokens.BYTES_PER_TOKEN)
        )
        self._usage: Usage | None = None
        self._has_text = False
        self._has_thought = False
        self._has_calls = False
        self._refused = False
        self._end_said: Finish | None = None
        """How the server has ended its answer, of which more may come: some say so in every chunk."""
        self.is_early = False
        """More came behind that word: it is no sign that the end is near, and a later one counts."""
        self._always_ends = False
        """It says the word beside what it is not the end of, so only the end of the stream is one."""
        self._finished = False
        self.said_something = False
        self._spoke = False
        """Text came, not only reasoning or calls."""

    def add(self, chunk: Chunk, *, is_whole: bool) -> list[Item]:
        """The items of one chunk, in the order in which they make sense."""
        items: list[Item] = []
        if self._held is not None:
            self._held.note(chunk.annotations, chunk.details)
        if not self._finished:
            items += self._say(chunk)
        items += self.count(chunk.usage)
        if chunk.finish or is_whole:
            items += self._end(chunk, is_whole=is_whole)
        return items

    @property
    def is_ending(self) -> bool:
        """The server has said how it finished."""
        return self._finished or self._end_said is not None

    @property
    def is_torn(self) -> bool:
        """A call breaks off: its rest is worth more than a moment, because what is there could be executed."""
        return any(call.has_arguments and not call.is_complete for call in self._calls.all())

    @property
    def is_whole(self) -> bool:
        """Nothing is plainly missing."""
        return all(call.is_complete for call in self._calls.all())

    def ended(self) -> list[Item]:
        """The stream is at its end: what waited for it."""
        return [] if self._end_said is None else self.finish(self._end_said)

    def done(self) -> list[Item]:
        """`[DONE]`: the stream is over. Gateways say it as well of one that broke off behind them, so it is no end."""
        if self._end_said is not None:
            return self.ended()
        if self._finished or not self.said_something:
            return []
        words = f"{self._name}, model {self._terms.model}: the stream ended without a finish_reason"
        return [Failure(Kind.CUT, words)]

    def finish(self, finish: Finish) -> list[Item]:
        """All that was held back, then the end."""
        if self._finished:
            return []
        self._end_said = None
        if (trouble := self._trouble()) is not None:
            return [trouble]
        items = self._flushed()
        if any(isinstance(item, Finish) for item in items):  # a stop sequence was in what had been held back
            return items
        calls = self._tool_calls(truncated=finish.stop_reason not in _WHOLE_ENDS)
        passed = [] if self._live is None else [*self._live.passed.values()]
        if not (calls or passed) and finish.stop_reason == "tool_use" and not self._spoke:
            words = f"{self._name}, model {self._terms.model}: said that it calls a tool, but no call came"
            calls = Failure(Kind.PROVIDER, words)
        if isinstance(calls, Failure):
            return [*items, calls]
        if self._refused and finish.stop_reason == "end_turn" and not (calls or passed):
            finish = Finish("refusal")
        self._finished = True
        items += self._reasoning.close(final=True)
        ids = [*passed, *(call.id for call in calls if isinstance(call, ToolCall))]
        if ids:
            self._reasoning.keep(ids[0])
        return [*items, *calls, finish]

    # --- pieces ---

    def _say(self, chunk: Chunk) -> list[Item]:
        chunk = self._news(chunk)
        if self._end_said is not None and (chunk.text or chunk.refusal or chunk.reasoning or chunk.fragments):
            self.is_early = True
            self._always_ends = self._always_ends or bool(chunk.finish)
        items = self._reasoning.add(chunk.reasoning, chunk.details)
        text = chunk.text + "[image omitted: only text can be passed on]" * chunk.images
        if text:
            items += self._visible(text)
        if chunk.refusal:
            self._refused = True
            items += self._text(chunk.refusal)
        if self._live is not None:
            items = self._live.between(items)
        items += self._add_calls(chunk)
        self.said_something = self.said_something or bool(items) or bool(self._calls)
        return items

    def _add_calls(self, chunk: Chunk) -> list[Item]:
        for fragment in chunk.fragments:
            self._calls.add(fragment)
        return self._live.step() if self._live is not None and chunk.fragments else []

    def _begun(self, call: Call) -> list[Item]:
        """A call that is passed on live."""
        name = self._name_of(call)
        if name is None or self._finished or not (self._frame.parallel or call is self._calls.begun[0]):
            return []
        return [*self._reasoning.close(), CallStart(self._new_id("toolu_"), name)]

    def _trouble(self) -> Failure | None:
        return None if self._live is None else self._live.trouble()

    def _news(self, chunk: Chunk) -> Chunk:
        """What of a whole message no piece has said: some servers end a stream with all of it."""
        if not chunk.is_message:
            self._has_text = self._has_text or bool(chunk.text or chunk.refusal)
            self._has_thought = self._has_thought or bool(chunk.reasoning or chunk.details)
            self._has_calls = self._has_calls or bool(chunk.fragments)
            return chunk
        if self._has_text:
            chunk = attrs.evolve(chunk, text="", refusal="", images=0)
        if self._has_thought:
            chunk = attrs.evolve(chunk, reasoning="", details=[])
        return attrs.evolve(chunk, fragments=[]) if self._has_calls else chunk

    def _visible(self, text: str) -> list[Item]:
        """Content, which may hold reasoning at its beginning."""
        if self._half:
            text, self._half = longs.paired(self._half + text), ""
        if "\ud800" <= text[-1:] <= "\udbff":
            text, self._half = text[:-1], text[-1:]
            if not text:
                return []
        return self._parted(text)

    def _parted(self, text: str) -> list[Item]:
        if self._inline is None:
            return self._text(text)
        return self._sorted(self._inline.feed(text))

    def _sorted(self, found: Iterable[Item]) -> list[Item]:
        items: list[Item] = []
        for one in found:
            if isinstance(one, Thinking):
                items += self._reasoning.add(one.text, [])
            elif isinstance(one, Text):
                items += self._text(one.text)
        return items

    def _text(self, text: str) -> list[Item]:
        if self._finished:
            return []
        self.said_something = self._spoke = True
        return self._shown(self._fences.feed(text) if self._fences else text)

    def _shown(self, text: str) -> list[Item]:
        """Text up to the end that the client asked for."""
        shown = self._stops.feed(text)
        end = None if self._stops.matched is None else Finish("stop_sequence", self._stops.matched)
        shown, is_full = self._within_room(shown)
        items: list[Item] = [*self._reasoning.close(), Text(shown)] if shown else []
        if is_full:
            end = Finish("max_tokens")
        if end is not None:
            # What was called before the text was cut has been called; the room that is full has none for it.
            calls = [] if is_full else self._tool_calls(truncated=True)
            items += [
                *self._reasoning.close(final=True),
                *([calls] if isinstance(calls, Failure) else calls),
                end,
            ]
            self._finished = True
        return items

    def _within_room(self, text: str) -> tuple[str, bool]:
        if self._room is None:
            return text, False
        size = tokens.utf8_length(text)
        if size <= self._room:
            self._room -= size
            return text, False
        return text.encode("utf-8", "surrogatepass")[: self._room].decode("utf-8", "ignore"), True

    def _flushed(self) -> list[Item]:
        half, self._half = self._half, ""
        items = self._parted(half) if half else []
        items += self._sorted(self._inline.end()) if self._inline else []
        if self._fences and not self._finished:
            items += self._shown(self._fences.end())
        held = "" if self._finished else self._stops.end()
        held, is_full = self._within_room(held)
        if held:
            items += [*self._reasoning.close(), Text(held)]
        if is_full:
            items.append(Finish("max_tokens"))
            self._finished = True
        return items

    def count(self, said: dict[str, Any] | None) -> list[Item]:
        """Some servers repeat the counts in every chunk."""
        ways = self._quirks
        usage = self._usage
        if said is not None:
            by_sum, searches = ways.counts_by_sum, self._held is not None
            usage = openai.usage(said, cost=ways.cost, by_sum=by_sum, searches=searches)
        if usage is None or usage == self._usage:
            return []
        self._usage = usage
        return [usage]

    # --- the end ---

    def _end(self, chunk: Chunk, *, is_whole: bool) -> list[Item]:
        if self._finished or (self._end_said is not None and not self.is_early):
            return []
        who, word = f"{self._name}, model {self._terms.model}", chunk.finish or "stop"
        if not (chunk.finish or self.said_something):
            return [Failure(Kind.PROVIDER, f"{who}: answered nothing, and no finish_reason")]
        if word in BREAKS:
            return [Failure(BREAKS[word], f"{who}: ended with {word!r}")]
        if word not in FINISHES and not self.said_something:
            return [Failure(Kind.PROVIDER, f"{who}: ended with {word[:80]!r}")]
        end = self._meant(FINISHES.get(word, "end_turn"), word, chunk)
        if is_whole:
            return self.finish(end)
        self._end_said, self.is_early = end, self._always_ends
        return []

    def _meant(self, reason: str, word: str, chunk: Chunk) -> Finish:
        if reason == "max_tokens" and self._fills_window():
            return Finish("model_context_window_exceeded")
        told = self._frame.told_stops
        if reason == "end_turn" and chunk.stopped_by in told:
            return Finish("stop_sequence", chunk.stopped_by)
        # Which of several it was, nobody says; with one there is no doubt.
        if "stop_sequence" in (word, chunk.native_finish) and reason == "end_turn" and len(told) == 1:
            return Finish("stop_sequence", told[0])
        return Finish(reason)

    def _fills_window(self) -> bool:
        usage, window = self._usage, self._terms.window
        if usage is None or window is None or usage.input_tokens is None or usage.output_tokens is None:
            return False
        if usage.web_searches:
            return False  # the counts are sums over several prompts
        prompt = usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens
        return prompt + usage.output_tokens >= window

    def _tool_calls(self, *, truncated: bool) -> list[Item] | Failure:
        if (trouble := self._trouble()) is not None:
            return trouble
        found: list[Item] = []
        # The server's own search is nobody else's to run.
        calls = [call for call in self._calls.all() if not call.name or call.name != self._frame.search]
        passed = {} if self._live is None else self._live.passed
        for call in calls if self._frame.parallel else calls[:1]:
            if call in passed:
                self._keep_extra(call, passed[call])
                continue
            name = self._name_of(call)
            if name is None:
                return Failure(
                    Kind.PROVIDER, f"{self._name}, model {self._terms.model}: called a tool without naming it"
                )
            # Cut by the limit, brackets that balance still make a whole call; anything less is not executed.
            repaired = arguments.repair(call.arguments, truncated=truncated and not call.is_complete)
            call_id = self._new_id("toolu_")
            self._keep_extra(call, call_id)
            found.append(ToolCall(call_id, name, repaired))
        return found

    def _keep_extra(self, call: Call, call_id: str) -> None:
        if call.extra and self._quirks.signed_calls:
            self._terms.memory.keep(call.extra, call_id)  # the client's block has no room for it

    def _name_of(self, call: Call) -> str | None:
        if call.name:
            return self._frame.names.back(call.name)
        return self._frame.offered[0] if len(self._frame.offered) == 1 else None
