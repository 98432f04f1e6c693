"""Which sub-agent asks, learned from the answers that send them out. Pure.

Theory of operation
-------------------
Claude Code gives every sub-agent an id and says it with each request, but of one that its user has defined it
never says the name. The name stands in the answer that sends it out, a call of the tool `Agent` with a
`subagent_type` and a `prompt`, and that prompt is a text of the first message that the new one sends. So a front
listens to what the sessions are answered, and when an id comes up for the first time, looks which prompt it
brings. An answer is heard before its client has it: no sub-agent can be faster.

Only hashes are kept of prompts, and no more than MOST of anything. Two that are sent out with the same prompt at
the same time cannot be told apart, and then neither has a name; nor has one that a worker before this one has
sent out. Who must be known says so itself (`front`).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import msgspec

from .wire import sse

MOST = 4096
"""Of each: sub-agents that are awaited, and that are known."""
_TOOLS = ("Agent", "Task")
_LONGEST_NAME = 200
_LONGEST_EVENT = 4 * 1024 * 1024
_Key = tuple[str, str]
"""A session, and what is known in it."""


class Lineage:
    """Who was sent out in which session, and by what ids they ask."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._awaited: OrderedDict[_Key, list[str]] = OrderedDict()
        """By the hash of a prompt: names that were sent out with it and have not asked yet."""
        self._known: OrderedDict[_Key, str | None] = OrderedDict()
        """By id."""

    def listener(self, session: str) -> Listener:
        """For one answer of this session."""
        return Listener(self, session)

    def sent_out(self, session: str, name: str, prompt: str) -> None:
        """One of this name will ask with this prompt."""
        key = session, _hash(prompt)
        self._awaited[key] = [*self._awaited.pop(key, []), name]
        self._forget(self._awaited)

    def name(self, session: str, agent_id: str, body: bytes) -> str | None:
        """Of the sub-agent with this id, which sends `body`; None: nobody knows it."""
        key = session, agent_id
        if key not in self._known:
            self._known[key] = self._recognized(session, body)
            self._forget(self._known)
        self._known.move_to_end(key)
        return self._known[key]

    def _recognized(self, session: str, body: bytes) -> str | None:
        for text in _first_texts(body):
            key = session, _hash(text)
            names = self._awaited.get(key)
            if names is None:
                continue
            if len(set(names)) > 1:
                return None
            name = names.pop()
            if not names:
                del self._awaited[key]
            return name
        return None

    def _forget(self, kept: OrderedDict[_Key, Any]) -> None:
        while len(kept) > self._most:
            kept.popitem(last=False)


class Listener:
    """Hears one answer, as a stream or whole, and changes nothing of it."""

    def __init__(self, lineage: Lineage, session: str) -> None:
        self._lineage = lineage
        self._session = session
        self._decoder: sse.Decoder | None = sse.Decoder(_LONGEST_EVENT)
        self._calls: dict[int, list[str]] = {}
        """Of the blocks that send somebody out: what has come of their arguments."""

    def feed(self, data: bytes) -> None:
        """Some bytes of an event stream, however they were cut."""
        if self._decoder is None:
            return
        try:
            for event in self._decoder.feed(data):
                self._event(event.data)
        except sse.EventTooLong:
            self._decoder = None

    def whole(self, body: bytes) -> None:
        """The body of an answer that is no stream."""
        for block in _decoded(_message, body, _Message()).content:
            if block.type == "tool_use" and block.name in _TOOLS:
                self._sent_out(block.input)

    def _event(self, data: bytes) -> None:
        if not self._calls and b'"tool_use"' not in data:
            return  # nearly all of them
        said = _decoded(_event, data, _Event())
        if said.type == "content_block_start" and said.content_block.name in _TOOLS:
            self._calls[said.index] = []
        elif said.type == "content_block_delta" and said.index in self._calls:
            self._calls[said.index].append(said.delta.partial_json)
        elif said.type == "content_block_stop" and said.index in self._calls:
            self._sent_out("".join(self._calls.pop(said.index)).encode("utf-8", "replace"))

    def _sent_out(self, arguments: bytes | msgspec.Raw) -> None:
        call = _decoded(_call, arguments, _Call())
        if call.subagent_type and call.prompt:
            self._lineage.sent_out(self._session, call.subagent_type[:_LONGEST_NAME], call.prompt)


# --- what is read of an answer and of a request -------------------------------------------------------


class _Block(msgspec.Struct):
    type: str = ""
    name: str = ""
    text: str = ""
    input: msgspec.Raw = msgspec.Raw(b"null")


class _Delta(msgspec.Struct):
    partial_json: str = ""


class _Event(msgspec.Struct):
    type: str = ""
    index: int = -1
    content_block: _Block = msgspec.field(default_factory=_Block)
    delta: _Delta = msgspec.field(default_factory=_Delta)


class _Message(msgspec.Struct):
    content: list[_Block] = msgspec.field(default_factory=list)


class _Call(msgspec.Struct):
    subagent_type: str = ""
    prompt: str = ""


class _Turn(msgspec.Struct):
    role: str = ""
    content: str | list[_Block] = ""


class _Request(msgspec.Struct):
    messages: list[msgspec.Raw] = msgspec.field(default_factory=list)


_event = msgspec.json.Decoder(_Event)
_message = msgspec.json.Decoder(_Message)
_call = msgspec.json.Decoder(_Call)
_turn = msgspec.json.Decoder(_Turn)
_request = msgspec.json.Decoder(_Request)


def _decoded(decoder: Any, data: bytes | msgspec.Raw, otherwise: Any) -> Any:
    """What is not understood is nothing that sends anybody out."""
    try:
        return decoder.decode(data)
    except (ValueError, RecursionError):
        return otherwise


def _first_texts(body: bytes) -> Iterator[str]:
    """The texts of the first message that is the user's: reminders, and what it was sent out with."""
    for raw in _decoded(_request, body, _Request()).messages:
        turn = _decoded(_turn, raw, _Turn())
        if turn.role == "user":
            if isinstance(turn.content, str):
                yield turn.content
            else:
                yield from (block.text for block in turn.content if block.type == "text")
            return


def _hash(text: str) -> str:
    return hashlib.sha256(text.strip().encode("utf-8", "replace")).hexdigest()


__all__ = ["Lineage", "Listener"]
