"""The client's side: an answer in Anthropic's format, streamed or whole.

Theory of operation
-------------------
`Turn` is the one state machine. It takes items in any order and tells a sink what happens, always in
the grammar `start, (open, delta*, close)*, end` with blocks numbered from 0 and never interleaved, or
up to any point of it followed by `fail`. Two sinks exist: `_Events` writes the events of a stream,
`_Body` the body of a plain answer; so both always say the same.

Nothing is written for an item that shows nothing, so the caller can hold the status line back until the
first bytes appear. A source that ends without `Finish` becomes a failure, never an `end_turn`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import attrs

from modelproxy.worker import tokens
from modelproxy.worker.failures import Failure, Kind, envelope

from . import codec, sse
from .asks import Ask
from .items import (
    Block,
    CallPart,
    CallStart,
    CallStop,
    Finish,
    Item,
    ServerCall,
    Text,
    Thinking,
    ToolCall,
    Usage,
)


@attrs.frozen
class Head:
    """What is known of an answer before the provider says anything."""

    id: str
    request_id: str
    model: str
    input_tokens: int
    thinking: str = "none"
    """See `Ask.thinking`."""
    may_be_empty: bool = False
    """True for a request that wanted no output at all."""

    @classmethod
    def of(cls, ask: Ask, *, message_id: str, request_id: str) -> Head:
        """The head of the answer to `ask`."""
        return cls(
            id=message_id,
            request_id=request_id,
            model=ask.model,
            input_tokens=ask.input_tokens,
            thinking=ask.thinking,
            may_be_empty=ask.max_tokens == 0,
        )


class _Sink(Protocol):
    def open(self, shell: dict[str, Any]) -> None: ...
    def text(self, text: str) -> None: ...
    def thinking(self, text: str) -> None: ...
    def signature(self, signature: str) -> None: ...
    def arguments(self, arguments: bytes) -> None: ...
    def part(self, text: str) -> None: ...
    def close(self) -> None: ...
    def end(self, finish: Finish, usage: dict[str, Any]) -> None: ...


class Turn:
    """Items in, grammar out."""

    def __init__(self, head: Head, sink: _Sink) -> None:
        self._head = head
        self._sink = sink
        self.expected = head.input_tokens
        """The estimate of the prompt; to be made better once it is known what is sent."""
        self._open: type[Text | Thinking | CallStart] | None = None
        self.blocks = 0
        """So many have begun."""
        self._calls = 0
        self._output_bytes = 0
        self._usage = Usage()
        self._finish: Finish | None = None
        self._ended = False
        self.failure: Failure | None = None
        """Set once: nothing but the failure is said after it."""

    def add(self, item: Item) -> None:
        """Take the next item. After a failure or the end there is nothing to add."""
        if self.failure is not None or self._ended:
            return
        if isinstance(item, Usage):
            self._usage = item
        elif isinstance(item, Failure):
            # With the whole answer here, only its bill is missing: that is no reason to lose it.
            self.failure = item if self._finish is None else None
        elif self._open is CallStart and type(item) not in (CallPart, CallStop):
            # Whatever came next would end the call's block as if it were whole.
            self.failure = Failure(Kind.CUT, "upstream did not finish a tool call")
        elif self._finish is None:
            self._ADD[type(item)](self, item)

    def end(self) -> None:
        """The source has nothing more."""
        if self.failure is not None or self._ended:
            return
        if self._finish is None or self._open is CallStart:
            self.failure = Failure(Kind.CUT, "upstream closed the stream early")
            return
        self._ended = True
        if not self.blocks and not self._head.may_be_empty:
            self._switch(Text, {"type": "text", "text": ""})
        self._close()
        self._sink.end(self._true_finish(self._finish), self._shown_usage())

    @property
    def said(self) -> Usage:
        """The provider's own numbers."""
        return self._usage

    @property
    def stop_reason(self) -> str | None:
        """Why the answer ended; None while it has not, and when it failed."""
        return self._true_finish(self._finish).stop_reason if self._ended and self._finish else None

    def usage(self) -> dict[str, int]:
        """The provider's own numbers, estimates where it said nothing."""
        said = self._usage
        output = tokens.of_bytes(self._output_bytes) if said.output_tokens is None else said.output_tokens
        return {
            "input_tokens": self.expected if said.input_tokens is None else said.input_tokens,
            "output_tokens": output,
            "cache_creation_input_tokens": said.cache_creation_input_tokens,
            "cache_read_input_tokens": said.cache_read_input_tokens,
        }

    def _shown_usage(self) -> dict[str, Any]:
        """What the client is told besides: searches are paid for, too."""
        searches = self._usage.web_searches
        return self.usage() | ({"server_tool_use": {"web_search_requests": searches}} if searches else {})

    def _true_finish(self, finish: Finish) -> Finish:
        """Providers say `stop` beside calls, and call a turn a tool turn that has no call."""
        if self._calls and finish.stop_reason in ("end_turn", "stop_sequence"):
            return Finish("tool_use")
        if not self._calls and finish.stop_reason == "tool_use":
            return Finish("end_turn")
        return finish

    def _text(self, item: Text) -> None:
        if not item.text:
            return
        if self._open is not Text:
            self._switch(Text, {"type": "text", "text": ""})
        self._output_bytes += tokens.utf8_length(item.text)
        self._sink.text(item.text)

    def _thinking(self, item: Thinking) -> None:
        self._output_bytes += tokens.utf8_length(item.text)
        if self._head.thinking == "none" or not (item.text or item.signature):
            return
        if self._open is not Thinking:
            self._switch(Thinking, {"type": "thinking", "thinking": "", "signature": ""})
        if item.text and self._head.thinking == "shown":
            self._sink.thinking(item.text)
        if item.signature:
            self._sink.signature(item.signature)
            self._close()

    def _call(self, item: ToolCall) -> None:
        self._switch(None, {"type": "tool_use", "id": item.id, "name": item.name, "input": {}})
        self._calls += 1
        self._output_bytes += len(item.name) + len(item.arguments)
        self._sink.arguments(item.arguments)
        self._sink.close()

    def _server_call(self, item: ServerCall) -> None:
        """Nobody has to answer it, so it does not make a turn of calls."""
        self._switch(None, {"type": "server_tool_use", "id": item.id, "name": item.name, "input": {}})
        self._sink.arguments(item.arguments)
        self._sink.close()

    def _call_start(self, item: CallStart) -> None:
        self._switch(CallStart, {"type": "tool_use", "id": item.id, "name": item.name, "input": {}})
        self._calls += 1
        self._output_bytes += len(item.name)

    def _call_part(self, item: CallPart) -> None:
        self._output_bytes += tokens.utf8_length(item.text)
        self._sink.part(item.text)

    def _call_stop(self, item: CallStop) -> None:
        self._close()

    def _block(self, item: Block) -> None:
        self._switch(None, item.content)
        self._sink.close()

    def _finished(self, item: Finish) -> None:
        self._finish = item

    # A table, because a chain of isinstance would be walked for every word of every answer.
    _ADD: dict[type, Callable[[Turn, Any], None]] = {  # noqa: RUF012  # never changed
        Text: _text,
        Thinking: _thinking,
        ToolCall: _call,
        ServerCall: _server_call,
        CallStart: _call_start,
        CallPart: _call_part,
        CallStop: _call_stop,
        Block: _block,
        Finish: _finished,
    }

    def _switch(self, kind: type[Text | Thinking | CallStart] | None, shell: dict[str, Any]) -> None:
        self._close()
        self._open = kind
        self.blocks += 1
        self._sink.open(shell)

    def _close(self) -> None:
        if self._open is not None:
            self._open = None
            self._sink.close()


class Stream:
    """The events of one answer. Each method returns the bytes to send, empty when there are none."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self._sink = _Events()
        self.turn = Turn(head, self._sink)

    @property
    def failure(self) -> Failure | None:
        """What ended the answer early; the caller says it, as a status or by `fail`."""
        return self.turn.failure

    def usage(self) -> dict[str, int]:
        """Token counts as far as they are known."""
        return self.turn.usage()

    def start(self) -> bytes:
        """The first event. To be sent before any other bytes, once."""
        usage = {
            "input_tokens": self.turn.expected,
            "output_tokens": 0,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
        }
        message: dict[str, Any] = {
            "id": self._head.id,
            "type": "message",
            "role": "assistant",
            "model": self._head.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }
        return sse.event(b"message_start", codec.dumps({"type": "message_start", "message": message}))

    def feed(self, items: Iterable[Item]) -> bytes:
        """All that a batch of items shows."""
        for item in items:
            self.turn.add(item)
        return self._sink.take()

    def end(self) -> bytes:
        """The source ended: the last events, or `failure` is set."""
        self.turn.end()
        return self._sink.take()

    def fail(self, failure: Failure) -> bytes:
        """The last event of an answer that failed after it began."""
        return sse.event(b"error", envelope(failure, self._head.request_id))


class Whole:
    """The body of a plain answer."""

    def __init__(self, head: Head) -> None:
        self._sink = _Body(head)
        self.turn = Turn(head, self._sink)

    @property
    def failure(self) -> Failure | None:
        """What ended the answer early."""
        return self.turn.failure

    def usage(self) -> dict[str, int]:
        """Token counts as far as they are known."""
        return self.turn.usage()

    def feed(self, items: Iterable[Item]) -> None:
        """Take a batch of items."""
        for item in items:
            self.turn.add(item)

    def end(self) -> bytes | None:
        """The source ended: the body, or None and `failure` is set."""
        self.turn.end()
        if self.turn.failure is not None:
            return None
        return self._sink.take()


_BLOCK_START = (
    b'event: content_block_start\ndata: {"type":"content_block_start","index":%d,"content_block":%b}\n\n'
)
_BLOCK_DELTA = (
    b"event: content_block_delta\n"
    b'data: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":%b}}\n\n'
)
_BLOCK_STOP = b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n'
_END = (
    b"event: message_delta\n"
    b'data: {"type":"message_delta","delta":{"stop_reason":%b,"stop_sequence":%b},"usage":%b}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
)

LONGEST_ARGUMENTS = 8192
"""Longer tool arguments travel in several deltas, so that no client meets a line of megabytes."""


class _Events:
    """Fixed bytes around one encoded string: a third of what encoding whole events would cost."""

    def __init__(self) -> None:
        self._index = -1
        self._out: list[bytes] = []

    def take(self) -> bytes:
        data = b"".join(self._out)
        self._out.clear()
        return data

    def open(self, shell: dict[str, Any]) -> None:
        self._index += 1
        self._out.append(_BLOCK_START % (self._index, codec.dumps(shell)))

    def _delta(self, kind: bytes, field: bytes, value: str) -> None:
        self._out.append(_BLOCK_DELTA % (self._index, kind, field, codec.dumps(value)))

    def text(self, text: str) -> None:
        self._delta(b"text_delta", b"text", text)

    def thinking(self, text: str) -> None:
        self._delta(b"thinking_delta", b"thinking", text)

    def signature(self, signature: str) -> None:
        self._delta(b"signature_delta", b"signature", signature)

    def arguments(self, arguments: bytes) -> None:
        self.part(arguments.decode("utf-8"))

    def part(self, text: str) -> None:
        for start in range(0, len(text), LONGEST_ARGUMENTS):
            self._delta(b"input_json_delta", b"partial_json", text[start : start + LONGEST_ARGUMENTS])

    def close(self) -> None:
        self._out.append(_BLOCK_STOP % self._index)

    def end(self, finish: Finish, usage: dict[str, Any]) -> None:
        reason, sequence = codec.dumps(finish.stop_reason), codec.dumps(finish.stop_sequence)
        self._out.append(_END % (reason, sequence, codec.dumps(usage)))


class _Body:
    """The body of a plain answer, encoded as it comes.

    Nothing is kept as text: one emoji makes a `str` of four bytes per character, and a list of words costs ten
    times the words. The buffer becomes the body without a copy.
    """

    def __init__(self, head: Head) -> None:
        self._out = io.BytesIO()
        message = {"id": head.id, "type": "message", "role": "assistant", "model": head.model}
        self._out.write(codec.dumps(message)[:-1] + b',"content":[')
        self._separator = b""
        self._tail = b""
        """What closes the open block."""

    def open(self, shell: dict[str, Any]) -> None:
        data = codec.dumps(shell)
        begun, self._tail = _TAILS.get(shell["type"], (len(data), b""))
        self._out.write(self._separator + data[:begun])
        self._separator = b","

    def text(self, text: str) -> None:
        self._out.write(codec.dumps(text)[1:-1])

    thinking = text

    def signature(self, signature: str) -> None:
        self._tail = b'","signature":%b}' % codec.dumps(signature)

    def arguments(self, arguments: bytes) -> None:
        self._out.write(arguments)
        self._tail = b"}"

    def part(self, text: str) -> None:
        self._out.write(text.encode("utf-8", "surrogatepass"))
        self._tail = b"}"

    def close(self) -> None:
        self._out.write(self._tail)

    def end(self, finish: Finish, usage: dict[str, Any]) -> None:
        ending = {"stop_reason": finish.stop_reason, "stop_sequence": finish.stop_sequence, "usage": usage}
        self._out.write(b"]," + codec.dumps(ending)[1:])

    def take(self) -> bytes:
        return self._out.getvalue()


_TAILS = {
    "text": (-len('"}'), b'"}'),
    "thinking": (-len('","signature":""}'), b'","signature":""}'),
    "tool_use": (-len("{}}"), b"{}}"),
    "server_tool_use": (-len("{}}"), b"{}}"),
}
"""How much of a shell comes behind its contents, and that."""
