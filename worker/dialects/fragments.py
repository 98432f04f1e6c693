"""Tool calls out of the fragments in which servers send them.

Theory of operation
-------------------
The format says: a fragment names its call by `index`; id and name come first, arguments after. Servers
say the index always 0 or never, the id late, never or on every fragment (another each time, too), the name
again and again or in pieces, the arguments at once, and two calls run together. So a fragment belongs to the
call at its index (without one, to the call with its id, else to the last), unless it shows that another call
begins: by a new id, by another name behind a finished call, or by a second `{` where the arguments were
complete. What can begin none, because it has no name or its arguments are the middle of something, goes on
with what is there; a name that is none by itself is a piece of one that is on offer.

Calls stay here until the answer ends: blocks must not interleave on the client's side, and before its end
nobody knows that a call is whole. `live` passes them on earlier, where that was chosen.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

from modelproxy.worker.wire.openai import Fragment


class Call:
    """One call, growing."""

    def __init__(self, name: str = "", *, is_split: bool = False) -> None:
        self.name = name
        self.id = ""
        self.extra: dict[str, Any] = {}
        """What its maker wants back with it."""
        self.is_split = is_split
        """It shows itself only by a second object behind the arguments of another call."""
        self.head = ""
        """The first characters of the arguments."""
        self.is_muddled = False
        """Behind the arguments there is something that could be meant instead."""
        self._pieces: list[str] = []
        self._behind: list[str] = []
        """What came after their brackets were balanced."""
        self._news: list[str] | None = None
        """What has come since somebody asked; None: nobody did."""
        self._extent = Extent()

    @property
    def arguments(self) -> str:
        """All that was sent of them."""
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return "".join((*self._pieces, *self._behind))

    def news(self) -> str:
        """What has come of the arguments since this was asked last, nothing behind their end included."""
        found = self._pieces if self._news is None else self._news
        self._news = []
        return "".join(found)

    @property
    def has_arguments(self) -> bool:
        """Some were sent. Asked for every fragment, so nothing is joined for it."""
        return any(self._pieces)

    @property
    def is_complete(self) -> bool:
        """True when the brackets are balanced; it need not parse."""
        return self._extent.over

    @property
    def is_in_string(self) -> bool:
        """The last of them broke off inside a text."""
        return self._extent.in_string

    def add(self, text: str) -> str:
        """Take what belongs to this call; return the beginning of another one's arguments."""
        if not text:
            return ""
        rest = text
        if not self._extent.over:
            end = self._extent.feed(text)
            self._take(text[:end])
            if end is None:
                return ""
            rest = text[end:]
        if rest.lstrip().startswith("{"):
            return rest.lstrip()
        self._behind.append(rest)
        self.is_muddled = self.is_muddled or "{" in rest or "[" in rest
        return ""

    def _take(self, piece: str) -> None:
        self._pieces.append(piece)
        if self._news is not None:
            self._news.append(piece)
        if len(self.head) < _HEAD:
            self.head += piece[:_HEAD]

    def says_again(self, others: list[Call]) -> bool:
        """True when one of the others says the same: to run it twice would be worse than once."""
        return any(
            (other.name, other.arguments.strip()) == (self.name, self.arguments.strip()) for other in others
        )

    def clear(self) -> None:
        """Forget the arguments: they were only a shell."""
        self._pieces.clear()
        self._behind.clear()
        self.head, self.is_muddled = "", False
        self._extent = Extent()


_HEAD = 64


class Calls:
    """The calls of one answer, in the order in which they began."""

    def __init__(self, offered: Collection[str] = ()) -> None:
        """`offered`: the tools, under the names that the server knows."""
        self._offered = offered
        self._calls: list[Call] = []
        self._at: dict[int, Call] = {}

    def __bool__(self) -> bool:
        return bool(self._calls)

    @property
    def begun(self) -> Sequence[Call]:
        """All, also those that say nothing yet."""
        return self._calls

    def all(self) -> list[Call]:
        """Those that said anything, each once; some servers send empty shells or say a call again whole."""
        return [
            call
            for place, call in enumerate(self._calls)
            if (call.name or call.arguments) and not (call.is_split and call.says_again(self._calls[:place]))
        ]

    def add(self, fragment: Fragment) -> None:
        """Take the next fragment."""
        call = self._of(fragment)
        if fragment.index is not None:
            self._at[fragment.index] = call
        call.name = self._grown(call, fragment) or call.name or fragment.name
        call.id = call.id or fragment.id
        call.extra = call.extra or fragment.extra
        rest = call.add(fragment.arguments)
        while rest:
            call = self._after(call, fragment)
            rest = call.add(rest)

    def _after(self, call: Call, fragment: Fragment) -> Call:
        """The call that a second object belongs to."""
        if call.arguments.strip() == "{}":
            call.clear()  # some relays open every call with an empty object
            return call
        found = self._new(Call(fragment.name or call.name, is_split=True), fragment.index)
        found.id = fragment.id  # so that later fragments under the same id find it first
        return found

    def _new(self, call: Call, index: int | None) -> Call:
        self._calls.append(call)
        if index is not None:
            self._at[index] = call
        return call

    def _of(self, fragment: Fragment) -> Call:
        known = self._known(fragment)
        return self._new(Call(), fragment.index) if known is None else known

    def _known(self, fragment: Fragment) -> Call | None:
        """The call that a fragment goes on with; None: it begins another."""
        current, named = self._current(fragment), self._named(fragment)
        if current is None and fragment.index is not None and named is not None:
            # The same id under a new index: a call that drifts, unless it plainly begins anew.
            anew = named.is_complete and _may_begin(fragment)
            return None if anew or self._is_of_another_name(named, fragment) else named
        if current is not None and fragment.id and current.id == fragment.id:
            named = current  # ids may be the same for all, then the index tells them apart
        if named is None and fragment.id and current is not None and current.id:
            return current if _can_only_go_on(current, fragment) else None
        found = named or current
        if found is None or self._grown(found, fragment):
            return found
        return None if _is_another(found, fragment) else found

    def _grown(self, call: Call, fragment: Fragment) -> str:
        """The call's name with this piece of it, or all of it so far; empty: the fragment brings no piece."""
        known, piece = call.name, fragment.name
        if not known or not piece or call.has_arguments or {known, piece} <= set(self._offered):
            return ""
        longer = (known + piece, piece if piece.startswith(known) else "")
        return next((one for one in longer if one != known and self._begins_one(one)), "")

    def _is_of_another_name(self, call: Call, fragment: Fragment) -> bool:
        return bool(call.name and fragment.name) and not (
            call.name == fragment.name or self._grown(call, fragment)
        )

    def _begins_one(self, name: str) -> bool:
        return bool(name) and any(offered.startswith(name) for offered in self._offered)

    def _current(self, fragment: Fragment) -> Call | None:
        last = self._calls[-1] if self._calls else None
        if fragment.index is None:
            return last
        found = self._at.get(fragment.index)
        if found is None and not fragment.name and last not in self._at.values():
            return last  # its index comes late
        return found

    def _named(self, fragment: Fragment) -> Call | None:
        found = (call for call in reversed(self._calls) if fragment.id and call.id == fragment.id)
        return next(found, None)


def _can_only_go_on(current: Call, fragment: Fragment) -> bool:
    """True under a new id as well: some servers give each fragment one."""
    if current.is_complete:
        return False
    if not fragment.name:
        return True
    if not fragment.arguments:
        return False
    begins = fragment.arguments.lstrip().startswith("{") and not current.is_in_string
    return current.has_arguments and not begins and fragment.name == current.name


def _may_begin(fragment: Fragment) -> bool:
    """True where it need not be the rest of something; the name may still come."""
    return bool(fragment.name) or not fragment.arguments or fragment.arguments.lstrip().startswith("{")


def _is_another(current: Call, fragment: Fragment) -> bool:
    """Another name begins another call, unless arguments are still being written."""
    if not fragment.name or not current.name or fragment.name == current.name:
        return False
    return current.is_complete or not current.has_arguments


class Extent:
    """Finds where the first bracketed value of a text ends, piece by piece and without parsing it."""

    def __init__(self) -> None:
        self.over = False
        self._depth = 0
        self.in_string = False
        self._escaped = False

    def feed(self, text: str) -> int | None:
        """Where in `text` the value ends, or None."""
        at = 1 if self._escaped and text else 0
        self._escaped = self._escaped and not text
        while at < len(text):
            found = (_IN_STRING if self.in_string else _OUTSIDE).search(text, at)
            if found is None:
                return None
            at = found.end()
            mark = found.group()
            if mark == "\\":
                self._escaped = at == len(text)
                at += 1
            elif mark == '"':
                self.in_string = not self.in_string
            else:
                self._depth += 1 if mark in "{[" else -1
                if self._depth <= 0:
                    self.over = True
                    return at
        return None


_OUTSIDE = re.compile(r'["{}\[\]]')
_IN_STRING = re.compile(r'["\\]')
