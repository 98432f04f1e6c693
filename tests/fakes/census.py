"""Real requests in which every piece has a number, so that one that is lost, doubled or moved is noticed.

A recorded request's texts are filler that repeats itself: to look for them in what a dialect sends proves little.
So each text, result, picture, argument and description gets a mark that occurs nowhere else, and what is sent is
searched for the marks.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import attrs

from modelproxy.worker.dialects.offers import PLACEHOLDER
from modelproxy.worker.wire import asks
from modelproxy.worker.wire.asks import Ask

Block = dict[str, Any]

SAMPLES = sorted((Path(__file__).parents[1] / "cases" / "samples").glob("*.json"))
_MARK = re.compile(r"mark\d{4}")
"""As long as a group of base64, which a picture may hold as well."""

FOR_ANTHROPIC = ("billing", "thinking", PLACEHOLDER)
"""What no other provider is to see of the samples: Anthropic's stamp, its reasoning, Claude Code's stand-in."""


@attrs.frozen
class Census:
    """One request, and of which kind each marked piece of it is."""

    ask: Ask
    kinds: dict[str, str]
    """In the order of the request: of a tool the name, of anything else the block's type."""
    calls: list[tuple[str, str]]
    """Id and name, in their order."""
    references: Counter[str]
    """How often each tool is referred to; such a block has no room for a mark."""

    @classmethod
    def of(cls, path: Path) -> Census:
        """A sample with its marks."""
        body = json.loads(path.read_text(encoding="utf-8"))
        marker = _Marker()
        marker.request(body)
        ask = asks.ask(json.dumps(body).encode())
        return cls(ask, marker.kinds, marker.calls, marker.references)

    def count(self, kind: str) -> int:
        """How many pieces of a kind there are."""
        return self.of_kinds(kind)[kind]

    def of_kinds(self, *kinds: str) -> Counter[str]:
        """All pieces of these kinds."""
        return Counter(kind for kind in self.kinds.values() if kind in kinds)

    def notes(self, *, only_named: int) -> tuple[str, ...]:
        """What the log has to say of the translation."""
        thoughts = self.count("thinking")
        left_out = (f"thinking blocks left out: {thoughts}",) if thoughts else ()
        return (*left_out, f"blocks only named: {only_named}") if only_named else left_out

    def missing(self, sent: Any) -> Counter[str]:
        """How many pieces of which kind are not in what is sent. None may be there twice."""
        found = Counter(_MARK.findall(json.dumps(sent)))
        assert set(found) <= set(self.kinds)
        assert [mark for mark, times in found.items() if times > 1] == []
        for name, times in self.references.items():
            assert json.dumps(sent).count(f"Loaded tool: {name}") == times
        return Counter(kind for mark, kind in self.kinds.items() if mark not in found)

    def moved(self, messages: Any) -> list[str]:
        """Of which kinds the pieces are that stand in front of one that came earlier in the history."""
        place = {mark: number for number, mark in enumerate(self.kinds)}
        found = _MARK.findall(json.dumps(messages))
        return [self.kinds[one] for one, two in itertools.pairwise(found) if place[one] > place[two]]


class _Marker:
    """Writes the marks into a body."""

    def __init__(self) -> None:
        self.kinds: dict[str, str] = {}
        self.calls: list[tuple[str, str]] = []
        self.references: Counter[str] = Counter()

    def request(self, body: dict[str, Any]) -> None:
        for tool in body["tools"]:
            tool["description"] += self._mark(tool["name"])
        for holder, key in [(body, "system"), *((message, "content") for message in body["messages"])]:
            self._content(holder, key, "system" if key == "system" else "text")

    def _mark(self, kind: str) -> str:
        mark = f"mark{len(self.kinds):04}"
        self.kinds[mark] = kind
        return mark

    def _content(self, holder: Block, key: str, kind: str) -> None:
        if isinstance(holder[key], str):
            holder[key] += self._mark(kind)
            return
        for block in holder[key]:
            self._block(block, kind)

    def _block(self, block: Block, kind: str) -> None:
        if block["type"] == "tool_result":
            self._content(block, "content", "tool_result")
        elif block["type"] == "text":
            billing = block["text"].startswith("x-anthropic-billing-header:")
            block["text"] += self._mark("billing" if billing else kind)
        elif block["type"] == "thinking":
            block["thinking"] += self._mark("thinking")
        elif block["type"] == "tool_use":
            block["input"]["marked"] = self._mark("tool_use")
            self.calls.append((block["id"], block["name"]))
        elif block["type"] == "image":
            data = block["source"]["data"]
            block["source"]["data"] = data[:64] + self._mark("image") + data[64:]
        elif block["type"] == "tool_reference":
            self.references[block["tool_name"]] += 1
        else:
            raise AssertionError(f"a sample has a block of a kind that nobody counts: {block['type']}")
