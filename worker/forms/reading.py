"""An answer of the Messages API, told event by event to whoever writes it in another form.

A stream and a whole answer are told alike, so that what a form makes of both is the same. Bytes may be cut
anywhere. What is not understood is left out: every release of the API brings new events.
"""

from __future__ import annotations

from typing import Any, Protocol

from modelproxy.worker.failures import Failure, Kind, Refused
from modelproxy.worker.wire import codec, sse


class Teller(Protocol):
    """Who is told. Each method is for one event; blocks come one after the other."""

    def start(self, message: dict[str, Any]) -> None:
        """The answer begins: its id, its first counts."""

    def ping(self) -> None:
        """Nothing is said for now."""

    def open(self, block: dict[str, Any]) -> None:
        """A block begins; of most kinds it is still empty."""

    def text(self, text: str) -> None: ...
    def thinking(self, text: str) -> None: ...
    def signature(self, signature: str) -> None: ...
    def arguments(self, text: str) -> None:
        """A piece of the JSON that is the input of the open call."""

    def close(self) -> None:
        """The open block ends."""

    def end(self, stop_reason: str, usage: dict[str, Any]) -> None:
        """The answer is complete."""

    def fail(self, data: bytes) -> None:
        """It ends with an error, whose envelope this is."""


CUT = codec.dumps(
    {"type": "error", "error": {"type": "api_error", "message": "the answer ended before it was complete"}}
)
TOO_LONG = codec.dumps(
    {"type": "error", "error": {"type": "api_error", "message": "the provider sent an event without end"}}
)


class Reader:
    """Bytes in, a teller told."""

    def __init__(self, teller: Teller) -> None:
        self._teller = teller
        self._decoder = sse.Decoder()
        self._usage: dict[str, Any] = {}
        self._stop_reason: str | None = None
        self._is_open = False
        self._input: Any = None
        """Of the open call, where its shell says it: a whole answer's does, and that of some servers."""
        self.over = False
        """It has been said how the answer ends."""

    def feed(self, data: bytes) -> None:
        """Some bytes of an event stream."""
        if self.over:
            return
        try:
            for event in self._decoder.feed(data):
                self._event(event)
        except sse.EventTooLong:
            self._fail(TOO_LONG)

    def end(self) -> None:
        """No more bytes will come."""
        if self.over:
            return
        if self._stop_reason is None:
            self._fail(CUT)
        else:  # all that was missing is the last word
            self._end()

    def whole(self, body: bytes) -> None:
        """An answer that is no stream. Raises Refused for what is none."""
        try:
            message = codec.loads(body)
        except ValueError:
            message = None
        if not isinstance(message, dict) or not isinstance(message.get("content"), list):
            raise Refused(Failure(Kind.PROVIDER, "the provider answered something that is no message"))
        self._start(message)
        for block in message["content"]:
            if isinstance(block, dict):
                self._block(block)
        self._delta(message)
        self._end()

    def _event(self, event: sse.Event) -> None:
        try:
            said = codec.loads(event.data)
        except ValueError:
            said = {}
        said = said if isinstance(said, dict) else {}
        kind = said.get("type", event.name)
        if self.over:
            return
        if kind == "content_block_delta":
            self._piece(codec.as_dict(said.get("delta")))
        elif kind == "content_block_start":
            self._open(codec.as_dict(said.get("content_block")))
        elif kind == "content_block_stop":
            self._close()
        elif kind == "ping":
            self._teller.ping()
        elif kind == "message_start":
            self._start(codec.as_dict(said.get("message")))
        elif kind == "message_delta":
            self._delta({**codec.as_dict(said.get("delta")), "usage": said.get("usage")})
        elif kind == "message_stop":
            self._end()
        elif kind == "error":
            self._fail(event.data)

    def _start(self, message: dict[str, Any]) -> None:
        self._count(message)
        self._teller.start(message)

    def _open(self, block: dict[str, Any]) -> None:
        self._close()
        self._is_open = True
        self._input = block.get("input") if block.get("type") == "tool_use" else None
        self._teller.open(block)
        # Some servers say the beginning of a block in its shell.
        self._said(block.get("text"), self._teller.text)
        self._said(block.get("thinking"), self._teller.thinking)

    def _piece(self, delta: dict[str, Any]) -> None:
        if not self._is_open:
            return
        kind = delta.get("type")
        if kind == "text_delta":
            self._said(delta.get("text"), self._teller.text)
        elif kind == "input_json_delta":
            self._input = None if delta.get("partial_json") else self._input  # pieces are all of it
            self._said(delta.get("partial_json"), self._teller.arguments)
        elif kind == "thinking_delta":
            self._said(delta.get("thinking"), self._teller.thinking)
        elif kind == "signature_delta":
            self._said(delta.get("signature"), self._teller.signature)

    def _block(self, block: dict[str, Any]) -> None:
        """One of a whole answer."""
        self._open(block)
        self._said(block.get("signature"), self._teller.signature)
        self._close()

    @staticmethod
    def _said(text: Any, tell: Any) -> None:
        if isinstance(text, str) and text:
            tell(text)

    def _close(self) -> None:
        if self._is_open:
            self._is_open = False
            if self._input:
                self._teller.arguments(codec.dumps(self._input).decode("utf-8"))
            self._teller.close()

    def _delta(self, said: dict[str, Any]) -> None:
        self._count(said)
        if isinstance(said.get("stop_reason"), str):
            self._stop_reason = said["stop_reason"]

    def _count(self, said: dict[str, Any]) -> None:
        """Later numbers replace earlier ones; what is not repeated stays."""
        news = codec.as_dict(said.get("usage"))
        self._usage.update({key: value for key, value in news.items() if value is not None})

    def _end(self) -> None:
        self._close()
        self.over = True
        self._teller.end(self._stop_reason or "end_turn", self._usage)

    def _fail(self, data: bytes) -> None:
        self.over = True
        self._teller.fail(data)
