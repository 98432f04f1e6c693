"""Tools for a model that has none: described in words, called in words, and the words read back.

Theory of operation
-------------------
A call is written `<tool_call>{"name": …, "arguments": {…}}</tool_call>`. What was called and returned before stands
in the history in the same form, so that the model sees what it is to write. The words never change: a prompt
begins with them, and providers keep the work they did for its beginning.

`Blocks` finds such blocks in a text, however it was cut. Text in front of one passes at once; only what may be the
beginning of a tag waits, and blanks, which belong to no text when a call follows. Where a block ends, its JSON
tells, not the tag: an argument may hold the tag. Whatever is no call is text again, to the letter.

A model without tools that has called one likes to go on and write the result itself. From there on everything is
invented, so a result behind a call ends the answer.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import attrs

from modelproxy.worker.wire import codec
from modelproxy.worker.wire.items import Finish, Item, Text, ToolCall

from . import arguments, names
from .fragments import Extent
from .offers import Choice, Tool
from .schemas import Profile, sanitise
from .seam import Decoder, NewId

CALL, CALL_END = "<tool_call>", "</tool_call>"
RESULT = "<tool_result"

_WORDS = """\
# Tools

You can call the tools that are listed below. To call one, write a block of exactly this form:

<tool_call>
{"name": "NAME OF THE TOOL", "arguments": {"NAME": "VALUE"}}
</tool_call>

"arguments" is one JSON object that follows the parameters of the tool. Several blocks are several calls. Behind \
the last block your reply ends: the results come with the next message, each as <tool_result name="NAME OF THE \
TOOL">…</tool_result>. Never write a result yourself, and call nothing that is not listed.

<tools>
"""


def described(tools: Iterable[Tool], choice: Choice) -> str:
    """What the system text says of the tools on offer."""
    lines = [_described(tool) for tool in tools]
    duty = {
        "any": "\n\nYour next reply must call one of the tools.",
        "tool": f"\n\nYour next reply must call the tool {choice.name}.",
    }.get(choice.type, "")
    return _WORDS + "\n".join(lines) + "\n</tools>" + duty


def _described(tool: Tool) -> str:
    said = {
        "name": tool.name,
        "description": tool.description,
        "parameters": sanitise(tool.schema, Profile.DEFAULT),
    }
    return codec.dumps(said).decode("utf-8")


def called(name: str, given: Any) -> str:
    """An earlier call, as the model would have written it."""
    said = codec.dumps({"name": name, "arguments": given}).decode("utf-8")
    return f"{CALL}\n{said}\n{CALL_END}"


def returned(name: str, text: str) -> str:
    """What an earlier call brought."""
    return f'{RESULT} name="{name}">\n{text}\n</tool_result>'


# --- blocks in a text -----------------------------------------------------------------------------


@attrs.frozen
class Block:
    """Something that was written as a call."""

    raw: str
    """To the letter."""
    body: str
    """What stands between the tags."""
    whole: bool = True
    """False: the text ended before it did."""


class Invented:
    """Behind a call the model has begun to write what that returned."""


_MOST_BLANKS = 4096
"""More of them in a row are shown at once; nobody writes so many before a call."""

_MOST_ROUNDS = 32
"""So many blocks without an end are told apart by their tags. Each is read anew to the end of the text, and a model
that repeats a broken call to its limit must not cost minutes."""

_BEFORE = re.compile(r"\s{0,64}(?:```\w{0,16}\s{0,64})?(?=\{)")
_MAY_BE_BEFORE = re.compile(r"\s{0,64}(?:`{0,3}|```\w{0,16}\s{0,64})")
# One bracket too many is a frequent slip.
_AFTER = re.compile(r"[\s}\]`]{0,64}" + re.escape(CALL_END))
_MAY_BE_AFTER = re.compile(
    r"[\s}\]`]{0,64}(?:" + "|".join(re.escape(CALL_END[:size]) for size in range(len(CALL_END))) + ")"
)


class Blocks:
    """Text in; text, blocks and perhaps `Invented` out. Feed it nothing after that."""

    def __init__(self) -> None:
        self.called = False
        """One of the blocks was a call."""
        self._held = ""
        self._state = self._outside
        self._opening = ""
        """The tag, and the blanks before it."""
        self._raw: list[str] = []
        """Of the block that is open."""
        self._body: list[str] = []
        self._extent = Extent()

    def feed(self, text: str) -> Iterator[str | Block | Invented]:
        self._held += text
        while self._held:
            before = self._state
            found = self._state()
            yield from found
            if self._state == before:  # it waits for more
                return

    def end(self) -> Iterator[str | Block | Invented]:
        """The text is over: what was held back."""
        rounds = 0
        while self._state == self._inside:
            body, tag, rest = "".join(self._body).partition(CALL_END)
            if not tag:
                yield self._block(whole=False)
                return
            # Its JSON is so wrong that it has no end; then the tag is one.
            self._raw, self._body = [*self._raw[:1], body, tag], [body]
            yield self._block(whole=True)
            rounds += 1
            if rounds == _MOST_ROUNDS:
                yield rest
                return
            yield from self.feed(rest)
        held, self._held = self._held, ""
        if self._state == self._behind:
            self._raw.append(held)
            yield self._block(whole=True)
            return
        if self._state == self._before:
            held = self._opening + held
        if held.strip() or (held and not self.called):
            yield held

    # --- states: each takes from what is held, says what it found, and perhaps changes the state ---

    def _outside(self) -> list[str | Block | Invented]:
        tags = (CALL, RESULT) if self.called else (CALL,)
        places = {at: tag for tag in tags if (at := self._held.find(tag)) >= 0}
        if not places:
            return self._text_so_far(tags)
        at = min(places)
        shown = self._held[:at].rstrip()
        found: list[str | Block | Invented] = [shown] if shown else []
        if places[at] == RESULT:
            self._held = ""
            return [*found, Invented()]
        behind = at + len(CALL)
        self._opening, self._held = self._held[len(shown) : behind], self._held[behind:]
        self._state = self._before
        return found

    def _text_so_far(self, tags: tuple[str, ...]) -> list[str | Block | Invented]:
        text = self._held
        text = text[: len(text) - max(_overlap(text, tag) for tag in tags)]
        shown = text.rstrip()
        if len(text) - len(shown) > _MOST_BLANKS:
            shown = text
        self._held = self._held[len(shown) :]
        return [shown] if shown else []

    def _before(self) -> list[str | Block | Invented]:
        """Behind the tag, in front of the object."""
        found = _BEFORE.match(self._held)
        if found is not None:
            self._raw, self._body, self._extent = [self._opening + found.group()], [], Extent()
            self._held = self._held[found.end() :]
            self._state = self._inside
            return []
        if _MAY_BE_BEFORE.fullmatch(self._held):
            return []
        self._state = self._outside
        return [self._opening]  # somebody writes about it

    def _inside(self) -> list[str | Block | Invented]:
        text, self._held = self._held, ""
        end = self._extent.feed(text)
        piece = text if end is None else text[:end]
        self._raw.append(piece)
        self._body.append(piece)
        if end is not None:
            self._held = text[end:]
            self._state = self._behind
        return []

    def _behind(self) -> list[str | Block | Invented]:
        """Behind the object, in front of the end tag, which some leave out."""
        found = _AFTER.match(self._held)
        if found is None and _MAY_BE_AFTER.fullmatch(self._held):
            return []
        if found is not None:
            self._raw.append(found.group())
            self._held = self._held[found.end() :]
        return [self._block(whole=True)]

    def _block(self, *, whole: bool) -> Block:
        self._state = self._outside
        return Block("".join(self._raw), "".join(self._body), whole)


def _overlap(text: str, tag: str) -> int:
    """Length of the longest end of `text` that begins `tag`."""
    return next((size for size in range(len(tag) - 1, 0, -1) if text.endswith(tag[:size])), 0)


# --- blocks as calls ------------------------------------------------------------------------------

_NAMED = re.compile(r'"name"\s*:\s*"([^"\\]{1,128})"')


_BARE = {"name", "id", "type", "arguments", "parameters", "input"}
"""A call without arguments holds nothing else."""


def call_of(block: Block, schemas: Mapping[str, Any], *, truncated: bool) -> tuple[str, bytes] | None:
    """Name and arguments; None: it is no call. `truncated`: the answer hit its limit inside this block."""
    said = codec.loads(arguments.repair(block.body, truncated=truncated))
    if arguments.RAW in said:
        named = _NAMED.search(block.body)
        return None if named is None else (names.closest(named[1], schemas), codec.dumps(said))
    if isinstance(said.get("function"), dict):
        said = said["function"]
    name = said.get("name")
    if not isinstance(name, str) or not name:
        return None
    name = names.closest(name, schemas)
    given = next((said[key] for key in ("arguments", "parameters", "input") if key in said), None)
    if given is None and not said.keys() <= _BARE:
        return name, codec.dumps({arguments.RAW: block.body})
    whole = codec.loads(arguments.repair(given))
    return name, codec.dumps(arguments.coerced(whole, schemas.get(name)))


class Reader:
    """A decoder whose texts are read for calls. See `seam.Decoder`.

    The calls come when the answer has ended, last, as every dialect has it.
    """

    def __init__(
        self, inner: Decoder, tools: Collection[Mapping[str, Any]], *, one_only: bool, new_id: NewId
    ) -> None:
        self._inner = inner
        self._schemas = {tool["name"]: tool.get("input_schema") for tool in tools if tool.get("name")}
        self._one_only = one_only
        self._new_id = new_id
        self._blocks = Blocks()
        self._calls: list[ToolCall] = []
        self._over = False

    @property
    def is_ending(self) -> bool:
        return self._over or self._inner.is_ending

    @property
    def is_over(self) -> bool:
        return self._over or self._inner.is_over

    def feed(self, data: bytes) -> list[Item]:
        return [] if self._over else self._some(self._inner.feed(data))

    def rest(self) -> list[Item]:
        return [] if self._over else self._some(self._inner.rest())

    def end(self) -> list[Item]:
        return [] if self._over else self._some(self._inner.end())

    def _some(self, items: list[Item]) -> list[Item]:
        """The first of them that say anything: the inner decoder must have been asked for all."""
        while items:
            found = [said for item in items for said in self._read(item)]
            if found or self._over:
                return found
            items = self._inner.rest()
        return []

    def _read(self, item: Item) -> Iterator[Item]:
        if self._over:
            return
        if isinstance(item, Text):
            yield from self._said(self._blocks.feed(item.text), truncated=False)
        elif isinstance(item, ToolCall):
            self._calls.append(item)  # its server has read the text itself
        elif isinstance(item, Finish):
            truncated = item.stop_reason not in ("end_turn", "tool_use")
            yield from self._said(self._blocks.end(), truncated=truncated)
            if not self._over:
                yield from self._all_calls()
                yield item
        else:
            yield item

    def _said(self, found: Iterable[str | Block | Invented], *, truncated: bool) -> Iterator[Item]:
        for one in found:
            if isinstance(one, Invented):
                self._over = True
                yield from self._all_calls()
                yield Finish("tool_use")
                return
            call = None
            if isinstance(one, Block):
                call = call_of(one, self._schemas, truncated=truncated and not one.whole)
            if call is not None:
                self._calls.append(ToolCall(self._new_id("toolu_"), *call))
                self._blocks.called = True
            else:
                yield Text(one.raw if isinstance(one, Block) else one)

    def _all_calls(self) -> list[ToolCall]:
        calls, self._calls = self._calls, []
        return calls[:1] if self._one_only else calls
