"""A dialect as small as one can be: a line of JSON is an item, errors are plain text."""

from __future__ import annotations

from typing import Any

import attrs

from modelproxy.worker import failures
from modelproxy.worker.dialects.blocks import Sight
from modelproxy.worker.dialects.seam import Call, Headers, NewId, Terms
from modelproxy.worker.failures import Failure, Kind, Refused
from modelproxy.worker.wire import codec
from modelproxy.worker.wire.asks import Ask
from modelproxy.worker.wire.items import Finish, Item, Text, Usage

PATH = "/chat"


class Tiny:
    """Remembers the terms under which it was asked."""

    def __init__(self) -> None:
        self.terms: list[Terms] = []

    def call(self, ask: Ask, terms: Terms) -> Call:
        self.terms.append(terms)
        if ask.model == "refused":
            raise Refused(Failure(Kind.INVALID, "not with me"))
        if ask.model == "deep":
            raise RecursionError
        notes = ("dropped a hat",) if ask.model == "noted" else ()
        return Call(PATH, codec.dumps({"model": terms.model}), [(b"x-tiny", b"1")], notes=notes)

    def sight(self, terms: Terms) -> Sight:
        return Sight()

    def decoder(self, ask: Ask, terms: Terms, *, new_id: NewId) -> Decoder:
        return Decoder()

    def failure(self, ask: Ask, terms: Terms, status: int, headers: Headers, body: bytes) -> Failure:
        wait = dict(headers).get(b"retry-after")
        return failures.from_status(status, body.decode(), float(wait) if wait else None)


class Decoder:
    """`"text"`, `{"counts":3}`, `{"finish":"end_turn"}` or `{"error":"words"}`, one per line.

    `{"ending":"end_turn"}` is a finish that waits for the end, `{"over":"end_turn"}` one behind which nothing comes;
    with `{"more":1}` the one was none.
    """

    def __init__(self) -> None:
        self._buffer = b""
        self._held: list[Item] = []
        self.is_ending = self.is_over = False

    def feed(self, data: bytes) -> list[Item]:
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        documents = (codec.loads(line) for line in lines if line and not line.startswith(b":"))
        return [item for document in documents for item in self._found(document)]

    def _found(self, document: Any) -> list[Item]:
        if "counts" in document:
            return [Usage(document["counts"])]
        if "ending" in document:
            self.is_ending, self._held = True, [Finish(document["ending"])]
            return []
        if "more" in document:
            self.is_ending, self._held = False, []
            return []
        if "over" in document:
            self.is_ending = self.is_over = True
            return [Finish(document["over"])]
        return [_item(document)]

    def rest(self) -> list[Item]:
        return []

    def end(self) -> list[Item]:
        held, self._held = self._held, []
        return held


def _item(document: Any) -> Item:
    if isinstance(document, str):
        return Text(document)
    if "error" in document:
        return Failure(Kind.PROVIDER, document["error"])
    return Finish(document["finish"])


def again(ask: Ask, terms: Terms, status: int, body: bytes) -> Terms | None:
    """Repeats what is `unlucky`; leaves out one thing more for each `too clever`."""
    if b"unlucky" in body:
        return terms
    if b"too clever" in body:
        left = terms.facts.get("left", 0)
        assert isinstance(left, int)
        return attrs.evolve(terms, facts={"left": left + 1})
    return None
