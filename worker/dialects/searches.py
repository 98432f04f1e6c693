"""Web searches that OpenRouter runs for a model: how one is offered, and what the client is shown of it. Pure.

Theory of operation
-------------------
A client that offers Anthropic's `web_search` expects, before the text, a `server_tool_use` and its
`web_search_tool_result`, whose content stands whole in the block's first event. OpenRouter says in pieces what
was found: sources are `url_citation` annotations beside the text or behind it, the number of searches is in the
bill, and a record of a search (its query, whether it failed) may stand among the reasoning.

So where a search is on offer, the answer is held from its first word until the provider has said its end; the
stream lives on pings meanwhile. Reasoning in front of that word passes. Then one pair of blocks says what is
known, and the text follows. It is one pair however many searches there were, because nobody says which source
came of which search; how many there were is in the usage. An answer for which nothing was searched has no such
blocks, and one that fails shows what it had said and then fails, without them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import attrs

from modelproxy.worker.failures import Failure, Kind, Refused
from modelproxy.worker.wire import codec
from modelproxy.worker.wire.items import Block, Finish, Item, ServerCall, Text, ToolCall, Usage

from .seam import NewId

PREFIX = "web_search_"
"""Begins the type of Anthropic's tool; its date follows."""
NAME = "web_search"
OURS = "srvtoolu_px_"
"""Begins the id of a search that Anthropic has not run and would not know again."""

Described = dict[str, Any]


# --- the request -----------------------------------------------------------------------------------


def parameters(tool: Described) -> Described:
    """The client's own limits in OpenRouter's words. Raises Refused: a limit that is lost is none."""
    found: Described = {}
    most = tool.get("max_uses")
    if most is not None:
        if type(most) is not int or most < 1:
            raise _refused("max_uses: must be a whole number above 0")
        found["max_uses"] = most
    for theirs, ours in (("allowed_domains", "allowed_domains"), ("excluded_domains", "blocked_domains")):
        if domains := _domains(tool, ours):
            found[theirs] = domains
    if place := _place(tool.get("user_location")):
        found["user_location"] = place
    return found


def _domains(tool: Described, key: str) -> list[str]:
    value = tool.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise _refused(f"{key}: must be a list of domains")
    return value


def _place(value: Any) -> Described:
    """A wrong place makes a search worse, not wrong: what cannot be read is left out."""
    value = value if isinstance(value, dict) else {}
    known = {key: value.get(key) for key in ("city", "region", "country", "timezone")}
    said = {key: text for key, text in known.items() if isinstance(text, str) and text}
    return {"type": "approximate", **said} if said else {}


def _refused(words: str) -> Refused:
    return Refused(Failure(Kind.INVALID, f"tools: {NAME}: {words}"))


def is_ours(block: Described) -> bool:
    """Whether Anthropic would refuse this block of a history: what it found itself carries its own seal."""
    ids = (block.get("id"), block.get("tool_use_id"))
    return any(isinstance(one, str) and one.startswith(OURS) for one in ids)


# --- the answer ------------------------------------------------------------------------------------

PIECE = 4096
"""Held text is put together in pieces of about so many characters: ten thousand words cost ten times their text."""


@attrs.define
class _Record:
    """One search, as OpenRouter writes it down."""

    query: str
    error: str | None
    """The code of what went wrong."""


class Held:
    """An answer in which something may have been searched."""

    def __init__(self, tool: str, new_id: NewId) -> None:
        """`tool`: what OpenRouter calls it."""
        self._tool = tool
        self._new_id = new_id
        self._sources: dict[str, str] = {}
        """Title by address, in the order in which they were named."""
        self._records: dict[str, _Record] = {}
        self._usage = Usage()
        self._least: int | None = None
        """So many searches have been shown, where the bill counts none."""
        self._items: list[Item] = []
        self._pieces: list[str] = []
        """The text that goes behind these."""
        self._size = 0

    def note(self, annotations: list[Described], details: list[Described]) -> None:
        """What one chunk says of searches."""
        for one in annotations:
            self._cite(one)
        for one in details:
            if one.get("type") == "reasoning.server_tool_call" and one.get("tool_name") == self._tool:
                key = f"{one.get('tool_call_id')} {one.get('arguments')}"
                self._records.setdefault(
                    key, _Record(_query(one.get("arguments")), _error(one.get("result")))
                )

    def _cite(self, annotation: Described) -> None:
        said = annotation.get("url_citation")
        if annotation.get("type") != "url_citation" or not isinstance(said, dict):
            return
        url, title = said.get("url"), said.get("title")
        if isinstance(url, str) and url:
            title = title if isinstance(title, str) else ""
            self._sources[url] = self._sources.get(url) or title

    def take(self, item: Item) -> Iterator[Item]:
        """The items that can be said now."""
        if isinstance(item, Usage):
            self._usage = item
            yield item if item.web_searches else attrs.evolve(item, web_searches=self._least)
        elif isinstance(item, Finish):
            yield from self._searched()
            yield from self.release()
            yield item
        elif isinstance(item, Failure):
            yield from self.release()
            yield item
        elif isinstance(item, Text):
            self._hold(item.text)
        elif isinstance(item, ToolCall) or self._items or self._pieces:
            self._join()
            self._items.append(item)
        else:
            yield item

    def _hold(self, text: str) -> None:
        self._pieces.append(text)
        self._size += len(text)
        if self._size >= PIECE:
            self._join()

    def _join(self) -> None:
        if self._pieces:
            self._items.append(Text("".join(self._pieces)))
            self._pieces, self._size = [], 0

    def release(self) -> list[Item]:
        """What was held, when nothing more is coming."""
        self._join()
        items, self._items = self._items, []
        return items

    def _searched(self) -> Iterator[Item]:
        """The pair of blocks, if there was a search."""
        if not (self._sources or self._records or self._usage.web_searches):
            return
        call = self._new_id(OURS)
        queries = [record.query for record in self._records.values() if record.query]
        given = {"query": queries[0]} if len(queries) == 1 else {"queries": queries} if queries else {}
        content = self._content()
        yield ServerCall(call, NAME, codec.dumps(given))
        yield Block({"type": "web_search_tool_result", "tool_use_id": call, "content": content})
        if not self._usage.web_searches and isinstance(content, list):
            self._least = max(1, len(self._records))
            yield attrs.evolve(self._usage, web_searches=self._least)

    def _content(self) -> Described | list[Described]:
        errors = [record.error for record in self._records.values() if record.error is not None]
        if errors and len(errors) == len(self._records) and not self._sources:
            return {"type": "web_search_tool_result_error", "error_code": errors[0]}
        return [
            {
                "type": "web_search_result",
                "url": url,
                "title": title or url,
                "encrypted_content": "",
                "page_age": None,
            }
            for url, title in self._sources.items()
        ]


def _query(arguments: Any) -> str:
    query = _object(arguments).get("query")
    return query if isinstance(query, str) else ""


def _error(result: Any) -> str | None:
    said = _object(result)
    if not said.get("error") and said.get("status") not in ("error", "failed"):
        return None
    words = json.dumps(said).lower()
    return next((code for word, code in _ERRORS.items() if word in words), "unavailable")


_ERRORS = {
    "max_uses": "max_uses_exceeded",
    "rate limit": "too_many_requests",
    "429": "too_many_requests",
    "limit": "max_uses_exceeded",
}
"""Words in OpenRouter's record of a search, and what Anthropic calls that; the first that occurs counts."""


def _object(text: Any) -> Described:
    try:
        found = json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
