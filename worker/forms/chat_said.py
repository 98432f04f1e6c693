"""An answer in OpenAI's Chat Completions: chunks of a stream, or one body.

Theory of operation
-------------------
`Reader` tells what happens, one of two tellers writes it: `_Chunks` the chunks, `_Body` the whole; what they have in
common, the numbering of calls and of pieces of reasoning, is in `_Parts`. A chunk is fixed bytes around one encoded
value. The end of a stream comes out in one piece (finish, usage, `[DONE]`), because until the last event an error
may take its place; behind an error there is no `[DONE]`.
"""

from __future__ import annotations

from typing import Any

import attrs

from modelproxy.worker.wire import codec, sse

from . import refusals, thoughts, tooling
from .asking import Terms
from .counts import Counts
from .reading import Reader

Block = dict[str, Any]

_DONE = b"data: [DONE]\n\n"

_FINISHES = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
"""Whatever else ends an answer is `stop`."""


@attrs.frozen
class Wanted:
    """What the answer must know of its request."""

    model: str
    usage: bool = False
    """The stream is to say how much was used."""
    custom: frozenset[str] = frozenset()
    """Tools that take a text instead of arguments."""


class ChatAnswer:
    """One answer; see `asking.Answer`."""

    def __init__(self, wanted: Wanted, terms: Terms) -> None:
        self._wanted = wanted
        self._shell: Block = {
            "id": f"chatcmpl-{terms.id}",
            "object": "chat.completion.chunk",
            "created": terms.created,
            "model": wanted.model,
        }
        self._chunks = _Chunks(wanted, self._shell)
        self._reader = Reader(self._chunks)

    def feed(self, data: bytes) -> bytes:
        """Some bytes of an event stream."""
        self._reader.feed(data)
        return self._chunks.take()

    def ping(self) -> bytes:
        """A comment."""
        return sse.KEEP_ALIVE

    def end(self) -> bytes:
        """The stream is over."""
        self._reader.end()
        return self._chunks.take()

    def whole(self, body: bytes) -> bytes:
        """The body of a plain answer. Raises Refused."""
        teller = _Body(self._wanted)
        Reader(teller).whole(body)
        return codec.dumps({**self._shell, "object": "chat.completion", **teller.said})


class _Parts:
    """What chunks and bodies have in common: which call it is, and which piece of reasoning."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._open: Block = {}
        self._calls = 0
        self._thoughts = 0
        self._input: list[str] = []
        """Of the open call what has come of its arguments; of most calls only whether anything has."""

    @property
    def _is_call(self) -> bool:
        return self._open.get("type") == "tool_use"

    @property
    def _is_custom(self) -> bool:
        return self._is_call and self._open.get("name") in self._wanted.custom

    def _begin(self, block: Block) -> None:
        self._open, self._input = block, []

    def _finish(self) -> None:
        kind, self._open = self._open.get("type"), {}
        self._calls += kind == "tool_use"
        self._thoughts += kind in ("thinking", "redacted_thinking")


class _Chunks(_Parts):
    """Writes a stream."""

    def __init__(self, wanted: Wanted, shell: Block) -> None:
        super().__init__(wanted)
        self._out: list[bytes] = []
        shell_bytes = b"data: " + codec.dumps(shell)[:-1]
        self._head = shell_bytes + b',"choices":[{"index":0,"delta":'
        self._tail = b"}]" + (b',"usage":null' if wanted.usage else b"") + b"}\n\n"
        self._last = shell_bytes + b',"choices":[],"usage":'

    def take(self) -> bytes:
        data = b"".join(self._out)
        self._out.clear()
        return data

    def _delta(self, delta: bytes, finish: bytes = b"null") -> None:
        self._out.append(
            b'%b%b,"logprobs":null,"finish_reason":%b%b' % (self._head, delta, finish, self._tail)
        )

    def start(self, message: Block) -> None:
        self._delta(b'{"role":"assistant","content":""}')

    def ping(self) -> None:
        self._out.append(sse.KEEP_ALIVE)

    def open(self, block: Block) -> None:
        self._begin(block)
        if self._is_call:
            custom = self._is_custom
            kind, empty = ("custom", "input") if custom else ("function", "arguments")
            call = {"index": self._calls, "id": block.get("id"), "type": kind}
            self._call({**call, kind: {"name": block.get("name"), empty: ""}})
        elif isinstance(block.get("data"), str) and block.get("type") == "redacted_thinking":
            self._details(thoughts.redacted(block["data"], self._thoughts))

    def text(self, text: str) -> None:
        self._delta(b'{"content":%b}' % codec.dumps(text))

    def thinking(self, text: str) -> None:
        said, entry = codec.dumps(text), codec.dumps([thoughts.text(text, self._thoughts)])
        self._delta(b'{"reasoning_content":%b,"reasoning":%b,"reasoning_details":%b}' % (said, said, entry))

    def signature(self, signature: str) -> None:
        self._details(thoughts.signature(signature, self._thoughts))

    def arguments(self, text: str) -> None:
        if self._is_custom:
            self._input.append(text)
        elif self._is_call:
            self._input = [""]
            self._call({"index": self._calls, "function": {"arguments": text}})

    def close(self) -> None:
        if self._is_custom:
            text = tooling.custom_input("".join(self._input))
            self._call({"index": self._calls, "custom": {"input": text}})
        elif self._is_call and not self._input:
            self._call({"index": self._calls, "function": {"arguments": "{}"}})
        self._finish()

    def end(self, stop_reason: str, usage: Block) -> None:
        self._delta(b"{}", codec.dumps(_FINISHES.get(stop_reason, "stop")))
        if self._wanted.usage:
            self._out.append(self._last + codec.dumps(_usage(usage)) + b"}\n\n")
        self._out.append(_DONE)

    def fail(self, data: bytes) -> None:
        self._out.append(b"data: " + refusals.body(data) + b"\n\n")

    def _call(self, call: Block) -> None:
        self._delta(b'{"tool_calls":[%b]}' % codec.dumps(call))

    def _details(self, entry: Block) -> None:
        self._delta(b'{"reasoning_details":[%b]}' % codec.dumps(entry))


class _Body(_Parts):
    """Collects a whole answer."""

    def __init__(self, wanted: Wanted) -> None:
        super().__init__(wanted)
        self.said: Block = {}
        self._texts: list[str] = []
        self._reasoning: list[str] = []
        self._entries: list[Block] = []
        self._called: list[Block] = []

    def start(self, message: Block) -> None:
        """Nothing of it is repeated."""

    def ping(self) -> None:
        """A whole answer has none."""

    def open(self, block: Block) -> None:
        self._begin(block)
        if block.get("type") == "redacted_thinking" and isinstance(block.get("data"), str):
            self._entries.append(thoughts.redacted(block["data"], self._thoughts))

    def text(self, text: str) -> None:
        self._texts.append(text)

    def thinking(self, text: str) -> None:
        self._reasoning.append(text)
        self._entries.append(thoughts.text(text, self._thoughts))

    def signature(self, signature: str) -> None:
        self._entries.append(thoughts.signature(signature, self._thoughts))

    def arguments(self, text: str) -> None:
        self._input.append(text)

    def close(self) -> None:
        said = "".join(self._input)
        call = {"id": self._open.get("id"), "type": "custom" if self._is_custom else "function"}
        name = self._open.get("name")
        if self._is_custom:
            self._called.append({**call, "custom": {"name": name, "input": tooling.custom_input(said)}})
        elif self._is_call:
            self._called.append({**call, "function": {"name": name, "arguments": said or "{}"}})
        self._finish()

    def end(self, stop_reason: str, usage: Block) -> None:
        text = "".join(self._texts)
        message: Block = {"role": "assistant", "content": text if text or not self._called else None}
        message["refusal"] = None
        if self._reasoning:
            message["reasoning_content"] = message["reasoning"] = "\n\n".join(self._reasoning)
        if self._entries:
            message["reasoning_details"] = thoughts.merged(self._entries)
        if self._called:
            message["tool_calls"] = self._called
        finish = _FINISHES.get(stop_reason, "stop")
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        self.said = {"choices": [choice], "usage": _usage(usage)}

    def fail(self, data: bytes) -> None:
        """A whole answer says that by its status."""


def _usage(said: Block) -> Block:
    counts = Counts.of(said)
    return {
        "prompt_tokens": counts.prompt,
        "completion_tokens": counts.output,
        "total_tokens": counts.prompt + counts.output,
        "prompt_tokens_details": {
            "cached_tokens": counts.cached,
            "cache_write_tokens": counts.written,
        },
        "completion_tokens_details": {"reasoning_tokens": counts.reasoned},
    }
