"""An answer in OpenAI's Responses API: events of a stream, or one body.

Theory of operation
-------------------
`Reader` tells what happens. Each block becomes one item, and an item is said twice: in pieces, and whole when it is
done. How the events of each type of item are called is a table (`_Form`); what is in an item is said once (`_item`),
for a stream and for a body, because a body is what the last event of its stream would hold.

Whatever comes first begins the response, a silence too. It is filled with `response.in_progress`: comments do not move
codex's idle timer, and this event says nothing new to anybody. A stream ends with `completed`, `incomplete` or
`failed`. Reasoning of which nothing may be shown is no item. A custom tool's input stands inside JSON, so it is said
in one piece when all of it is there.
"""

from __future__ import annotations

from typing import Any

import attrs

from modelproxy.worker.wire import codec, sse

from . import refusals, seals, tooling
from .asking import Terms
from .counts import Counts
from .reading import Reader

Block = dict[str, Any]


@attrs.frozen
class Tool:
    """What its client calls a tool that was shown by another name."""

    name: str
    namespace: str | None = None
    is_custom: bool = False


@attrs.frozen
class Wanted:
    """What the answer must know of its request."""

    model: str
    tools: dict[str, Tool] = attrs.field(factory=dict, repr=False)
    """By the names under which they were shown."""
    seals: bool = False
    """The client keeps what brings the reasoning back."""
    repeated: Block = attrs.field(factory=dict, repr=False)
    """What a response says of its request."""


class ResponsesAnswer:
    """One answer; see `asking.Answer`."""

    def __init__(self, wanted: Wanted, terms: Terms) -> None:
        self._teller = _Teller(wanted, terms)
        self._reader = Reader(self._teller)

    def feed(self, data: bytes) -> bytes:
        """Some bytes of an event stream."""
        self._reader.feed(data)
        return self._teller.take()

    def ping(self) -> bytes:
        """An event that says nothing new; behind the last one none may follow."""
        if not self._reader.over:
            self._teller.ping()
        return self._teller.take()

    def end(self) -> bytes:
        """The stream is over."""
        self._reader.end()
        return self._teller.take()

    def whole(self, body: bytes) -> bytes:
        """The body of a plain answer. Raises Refused."""
        self._reader.whole(body)
        return codec.dumps(self._teller.response)


@attrs.frozen
class _Form:
    """How the events of one type of item are called."""

    prefix: str
    """Of its id."""
    piece: str
    field: str
    """What holds all of its pieces when they are done."""
    part: str | None = None
    """What the pieces are of, where that is not the item itself."""
    index: str = ""


_TEXT = _Form("msg", "output_text", "text", "content_part", "content_index")
_REASONING = _Form("rs", "reasoning_summary_text", "text", "reasoning_summary_part", "summary_index")
_FUNCTION = _Form("fc", "function_call_arguments", "arguments")
_CUSTOM = _Form("ctc", "custom_tool_call_input", "input")

_INCOMPLETE = {
    "max_tokens": "max_output_tokens",
    "model_context_window_exceeded": "max_output_tokens",
    "refusal": "content_filter",
}
"""Whatever else ends an answer completes it."""
_KNOWN_CODES = ("context_length_exceeded", "insufficient_quota", "rate_limit_exceeded")


class _Teller:
    """Writes the stream, and keeps the response."""

    def __init__(self, wanted: Wanted, terms: Terms) -> None:
        self._wanted = wanted
        self._id = terms.id
        self.response: Block = {
            "id": f"resp_{terms.id}",
            "object": "response",
            "created_at": terms.created,
            "model": wanted.model,
            "instructions": None,
            "metadata": {},
            "parallel_tool_calls": True,
            "temperature": None,
            "tool_choice": "auto",
            "tools": [],
            "top_p": None,
            **wanted.repeated,
            "store": False,
            "status": "in_progress",
            "output": [],
            "usage": None,
            "error": None,
            "incomplete_details": None,
        }
        """As far as it is known."""
        self._out: list[bytes] = []
        self._number = 0
        self._has_begun = False
        self._block: Block = {}
        self._pieces: list[str] = []
        self._is_shown = False
        """The open block has an item."""

    def take(self) -> bytes:
        data = b"".join(self._out)
        self._out.clear()
        return data

    # --- what is told ---

    def start(self, message: Block) -> None:
        self._begin()

    def ping(self) -> None:
        self._begin()
        self._say("response.in_progress", response=self.response)

    def open(self, block: Block) -> None:
        self._begin()
        known = block.get("type") in ("text", "tool_use", "thinking", "redacted_thinking")
        self._block, self._pieces, self._is_shown = dict(block) if known else {}, [], False
        if block.get("type") in ("text", "tool_use"):
            self._show()

    def text(self, text: str) -> None:
        self._add(text)

    def thinking(self, text: str) -> None:
        self._add(text)

    def arguments(self, text: str) -> None:
        self._add(text)

    def signature(self, signature: str) -> None:
        self._block["signature"] = signature

    def close(self) -> None:
        text = self._whole_text()
        if text is None:
            return
        self._show()
        form = self._form
        said = "" if form is _CUSTOM else "".join(self._pieces)
        if text != said:
            self._say_of_item(f"{form.piece}.delta", delta=text)
        self._say_of_item(f"{form.piece}.done", **{form.field: text})
        if form.part is not None:
            self._say_of_item(f"{form.part}.done", part=_part(form, text))
        item = self._item(text)
        self._say("response.output_item.done", output_index=self._at, item=item)
        self.response["output"].append(item)

    def end(self, stop_reason: str, usage: Block) -> None:
        self._begin()
        reason = _INCOMPLETE.get(stop_reason)
        self.response["status"] = status = "completed" if reason is None else "incomplete"
        self.response["incomplete_details"] = None if reason is None else {"reason": reason}
        self.response["usage"] = _usage(usage)
        self._say(f"response.{status}", response=self.response)

    def fail(self, data: bytes) -> None:
        self._begin()
        error = refusals.error(data)
        usual = "invalid_prompt" if error["type"] == "invalid_request_error" else "server_error"
        code = error["code"] if error["code"] in _KNOWN_CODES else usual
        self.response |= {"status": "failed", "error": {"code": code, "message": error["message"]}}
        self._say("response.failed", response=self.response)

    # --- how it is said ---

    def _say(self, name: str, **fields: Any) -> None:
        data = codec.dumps({"type": name, "sequence_number": self._number, **fields})
        self._number += 1
        self._out.append(sse.event(name.encode("ascii"), data))

    def _say_of_item(self, name: str, **fields: Any) -> None:
        form = self._form
        index = {} if form.part is None else {form.index: 0}
        self._say(f"response.{name}", item_id=self._item_id, output_index=self._at, **index, **fields)

    def _begin(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            self._say("response.created", response=self.response)

    def _show(self) -> None:
        """The open block's item, of which nothing is known yet."""
        if self._is_shown:
            return
        self._is_shown = True
        self._say("response.output_item.added", output_index=self._at, item=self._item(None))
        if self._form.part is not None:
            self._say_of_item(f"{self._form.part}.added", part=_part(self._form, ""))

    def _add(self, text: str) -> None:
        if not self._block:
            return
        self._show()
        self._pieces.append(text)
        if self._form is not _CUSTOM:
            self._say_of_item(f"{self._form.piece}.delta", delta=text)

    # --- items ---

    @property
    def _at(self) -> int:
        return len(self.response["output"])

    @property
    def _item_id(self) -> str:
        return f"{self._form.prefix}_{self._id}{self._at}"

    @property
    def _tool(self) -> Tool:
        shown = str(self._block.get("name") or "")
        return self._wanted.tools.get(shown) or Tool(shown)

    @property
    def _form(self) -> _Form:
        kind = self._block.get("type")
        if kind == "tool_use":
            return _CUSTOM if self._tool.is_custom else _FUNCTION
        return _TEXT if kind == "text" else _REASONING

    def _whole_text(self) -> str | None:
        """All that the open block's item holds; None: it is no item."""
        text, form = "".join(self._pieces), self._form
        if not self._block:
            return None
        if form is _CUSTOM:
            return tooling.custom_input(text or "{}")
        if form is _FUNCTION:
            return text or "{}"
        return text if form is _TEXT or text or self._seal() else None

    def _seal(self) -> str | None:
        if not self._wanted.seals:
            return None
        block = self._block
        if block.get("type") == "thinking":
            block = {**block, "thinking": "".join(self._pieces)}
        return seals.sealed(block)

    def _item(self, text: str | None) -> Block:
        """The open block's. `text`: what it holds; None: nothing yet."""
        form = self._form
        if form is _REASONING:
            seal = None if text is None else self._seal()
            summary = [_part(form, text)] if text else []
            return {"id": self._item_id, "type": "reasoning", "summary": summary, "encrypted_content": seal}
        item: Block = {"id": self._item_id, "status": "in_progress" if text is None else "completed"}
        if form is _TEXT:
            content = [] if text is None else [_part(form, text)]
            return {**item, "type": "message", "role": "assistant", "content": content}
        tool = self._tool
        item["type"] = "custom_tool_call" if tool.is_custom else "function_call"
        item |= {"call_id": self._block.get("id"), "name": tool.name, form.field: text or ""}
        return item if tool.namespace is None else {**item, "namespace": tool.namespace}


def _part(form: _Form, text: str) -> Block:
    if form is _REASONING:
        return {"type": "summary_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(said: Block) -> Block:
    counts = Counts.of(said)
    return {
        "input_tokens": counts.prompt,
        "input_tokens_details": {"cached_tokens": counts.cached, "cache_write_tokens": counts.written},
        "output_tokens": counts.output,
        "output_tokens_details": {"reasoning_tokens": counts.reasoned},
        "total_tokens": counts.prompt + counts.output,
    }
