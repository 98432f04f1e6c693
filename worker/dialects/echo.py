"""The built-in provider `echo`: says what it was told, and does what a prompt's `echo:` lines order.

Deterministic: the same request gives the same items (ids aside), so demos, tests and benches need no
model and no network. `docs/echo.md` is the description for people; a test holds the two together.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import attrs

from modelproxy.worker import failures, tokens
from modelproxy.worker.failures import Failure, Kind, Refused
from modelproxy.worker.wire import codec
from modelproxy.worker.wire.asks import Ask
from modelproxy.worker.wire.items import Finish, Item, Text, Thinking, ToolCall, Usage

from .samples import sample
from .stops import Stops


@attrs.frozen
class Pause:
    """Time that passes before the next item; infinite for a provider that hangs."""

    seconds: float


Script = Iterator[Item | Pause]

LONGEST_PAUSE_S = 3600.0
MOST_BYTES = 1_000_000_000
SHORT = 4096
"""Up to so many characters a piece is one word; beyond it a kilobyte, or 10 MB would be two million events."""
LONG_PIECE = 1024

WORDS = ("bytes", "cut", "delay", "empty", "fail", "hang", "slow", "stop", "think", "tool")
"""What may follow `echo:`."""

_STOPS = ("end_turn", "max_tokens", "refusal", "model_context_window_exceeded")
_FAILURES = {
    "overflow": failures.overflow(200_000, 100_000),
    "refused": Failure(Kind.UNREACHABLE, "echo: nothing listens at the provider's address"),
    "timeout": Failure(Kind.TIMEOUT, "echo: the provider did not answer in time"),
    "reset": Failure(Kind.OVERLOADED, "echo: the provider reset the connection"),
    "garbage": Failure(Kind.PROVIDER, "echo: the provider answered something that is not JSON"),
}


@attrs.define
class _Orders:
    """What the last user message told us to do."""

    delay_s: float = 0.0
    slow_s: float = 0.0
    size: int | None = None
    thinking: list[str] = attrs.Factory(list)
    calls: list[tuple[str | None, bytes | None]] = attrs.Factory(list)
    """Name and arguments; None: the first tool on offer, arguments from its schema."""
    breaks_after: int | None = None
    """The answer breaks off after so many pieces; None: after all of them."""
    breaks_with: Failure | Pause | None = None
    cuts: bool = False
    """It breaks off without a word."""
    stop: str = "end_turn"
    empty: bool = False

    @property
    def breaks(self) -> bool:
        return self.cuts or self.breaks_with is not None


def answer(ask: Ask, model: str, new_id: Callable[[str], str]) -> Script:
    """The answer to a request. Orders that make no sense are refused here, before the script begins."""
    orders, said = _read(_last_user(ask.messages))
    calls = _calls(ask, orders, said, new_id)
    return _Performance(ask, orders, model, calls).script(_text(ask, orders, said, calls))


# --- reading --------------------------------------------------------------------------------------


def _last_user(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks of the last message that a user sent; clients put system messages behind it."""
    for message in reversed(messages):
        if message["role"] == "user":
            content = message["content"]
            return [{"type": "text", "text": content}] if isinstance(content, str) else content
    return []


@attrs.frozen
class _Said:
    """The last user message without its orders."""

    parts: list[str | dict[str, Any]]
    """Texts, and blocks of other kinds, in their order."""

    @property
    def results(self) -> bool:
        return any(isinstance(part, dict) and part["type"] == "tool_result" for part in self.parts)


def _read(blocks: list[dict[str, Any]]) -> tuple[_Orders, _Said]:
    orders = _Orders()
    parts: list[str | dict[str, Any]] = []
    for block in blocks:
        if block["type"] != "text":
            parts.append(block)
            continue
        if _REMINDER.fullmatch(block["text"]):
            continue
        rest = _ORDER.sub(lambda found: _obey(orders, found["word"], found["rest"].strip()), block["text"])
        if rest.strip():
            parts.append(rest.strip("\n") if rest != block["text"] else rest)
    return orders, _Said(parts)


_REMINDER = re.compile(r"\s*<system-reminder>.*</system-reminder>\s*", re.DOTALL)
"""Agents put such blocks beside what their user says, who would not know his own words again."""
_ORDER = re.compile(r"^echo:(?P<word>[a-z]+)(?P<rest>(?:[ \t][^\n]*)?)(?:\n|\Z)", re.MULTILINE)


def _obey(orders: _Orders, word: str, rest: str) -> str:
    obey = _OBEY.get(word)
    if obey is None:
        raise _wrong(word, f"unknown; known are {', '.join(WORDS)}")
    obey(orders, rest)
    return ""


def _wrong(word: str, why: str) -> Refused:
    return Refused(Failure(Kind.INVALID, f"echo:{word}: {why}"))


def _seconds(word: str, text: str) -> float:
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)\s*(ms|s|m)?", text, re.ASCII)
    if found is None:
        raise _wrong(word, f"needs a time such as 100ms or 5s, not {text[:50]!r}")
    seconds = float(found[1]) * {"ms": 0.001, "s": 1.0, "m": 60.0, None: 1.0}[found[2]]
    if seconds > LONGEST_PAUSE_S:
        raise _wrong(word, f"at most {LONGEST_PAUSE_S:g} s")
    return seconds


def _number(word: str, text: str, most: int) -> int:
    if not re.fullmatch(r"\d{1,12}", text, re.ASCII) or int(text) > most:
        raise _wrong(word, f"needs a number up to {most}, not {text[:50]!r}")
    return int(text)


def _bytes(orders: _Orders, rest: str) -> None:
    orders.size = _number("bytes", rest, MOST_BYTES)


def _delay(orders: _Orders, rest: str) -> None:
    orders.delay_s = _seconds("delay", rest)


def _slow(orders: _Orders, rest: str) -> None:
    orders.slow_s = _seconds("slow", rest)


def _empty(orders: _Orders, rest: str) -> None:
    if rest:
        raise _wrong("empty", "stands alone")
    orders.empty = True


def _think(orders: _Orders, rest: str) -> None:
    if not rest:
        raise _wrong("think", "needs the text to think")
    orders.thinking.append(rest)


def _tool(orders: _Orders, rest: str) -> None:
    name, _, arguments = rest.partition(" ")
    orders.calls.append((name or None, _arguments(arguments.strip())))


def _arguments(text: str) -> bytes | None:
    if not text:
        return None
    try:
        value = codec.loads(text.encode("utf-8", "surrogatepass"))
    except ValueError as error:
        raise _wrong("tool", f"the arguments are not JSON: {error}") from None
    if not isinstance(value, dict):
        raise _wrong("tool", "the arguments must be a JSON object")
    return codec.dumps(value)


def _stop(orders: _Orders, rest: str) -> None:
    if rest not in _STOPS:
        raise _wrong("stop", f"must be one of {', '.join(_STOPS)}")
    orders.stop = rest


def _fail(orders: _Orders, rest: str) -> None:
    found = _FAIL.fullmatch(rest)
    if found is None:
        known = ", ".join(_FAILURES)
        raise _wrong(
            "fail", f"needs a status from 400 to 599 or one of {known}; then: after N, retry TIME, text"
        )
    what, after, retry, text = found.groups()
    orders.breaks_after = None if after is None else _number("fail", after, MOST_BYTES)
    orders.breaks_with = _failure(what, None if retry is None else _seconds("fail", retry), text)
    if orders.breaks_after is None:
        orders.breaks_after = 0


_FAIL = re.compile(
    r"(?P<what>[45]\d\d|" + "|".join(_FAILURES) + r")"
    r"(?:[ ]+after[ ]+(?P<after>\d+))?(?:[ ]+retry[ ]+(?P<retry>[\d.]+(?:ms|s|m)?))?(?:[ ]+(?P<text>.+))?",
    re.ASCII,
)


def _failure(what: str, retry_after_s: float | None, text: str | None) -> Failure:
    if what in _FAILURES:
        known = _FAILURES[what]
        return Failure(known.kind, text or known.message, retry_after_s=retry_after_s)
    return failures.from_status(int(what), text or f"echo: the provider answered {what}", retry_after_s)


def _cut(orders: _Orders, rest: str) -> None:
    orders.cuts = True
    orders.breaks_after = _after("cut", rest)


def _hang(orders: _Orders, rest: str) -> None:
    orders.breaks_with = Pause(math.inf)
    orders.breaks_after = _after("hang", rest)


def _after(word: str, rest: str) -> int | None:
    if not rest:
        return None
    found = re.fullmatch(r"after\s+(\d+)", rest, re.ASCII)
    if found is None:
        raise _wrong(word, "takes nothing, or: after N")
    return _number(word, found[1], MOST_BYTES)


_OBEY: dict[str, Callable[[_Orders, str], None]] = {
    "bytes": _bytes,
    "cut": _cut,
    "delay": _delay,
    "empty": _empty,
    "fail": _fail,
    "hang": _hang,
    "slow": _slow,
    "stop": _stop,
    "think": _think,
    "tool": _tool,
}


# --- deciding -------------------------------------------------------------------------------------


def _calls(ask: Ask, orders: _Orders, said: _Said, new_id: Callable[[str], str]) -> list[ToolCall]:
    """The calls to make, as far as the request allows any."""
    choice = ask.tool_choice
    offered = {tool["name"]: tool for tool in ask.tools if isinstance(tool.get("name"), str)}
    if choice["type"] == "none" or not offered:
        return []
    wanted = [order for order in orders.calls if order[0] is None or order[0] in offered]
    if choice["type"] == "tool":
        if choice["name"] not in offered:
            raise Refused(
                Failure(Kind.INVALID, f"tool_choice.name: no tool {choice['name'][:100]!r} is offered")
            )
        wanted = [order for order in wanted if order[0] in (None, choice["name"])] or [(None, None)]
        wanted = [(choice["name"], arguments) for _, arguments in wanted]
    elif choice["type"] == "any" and not wanted:
        wanted = [(None, None)]
    if choice.get("disable_parallel_tool_use") is True:
        wanted = wanted[:1]
    return [_call(offered, name, arguments, new_id) for name, arguments in wanted]


def _call(
    offered: dict[str, dict[str, Any]],
    name: str | None,
    arguments: bytes | None,
    new_id: Callable[[str], str],
) -> ToolCall:
    name = next(iter(offered)) if name is None else name
    if arguments is None:
        made = sample(offered[name].get("input_schema"))
        arguments = codec.dumps(made if isinstance(made, dict) else {})
    return ToolCall(new_id("toolu_"), name, arguments)


def _text(ask: Ask, orders: _Orders, said: _Said, calls: list[ToolCall]) -> Iterable[str]:
    """The pieces of visible text."""
    if orders.empty:
        return ()
    if orders.size is not None:
        return _filler(orders.size)
    names = _tool_names(ask.messages) if said.results else {}
    parts = [part if isinstance(part, str) else _told(part, names) for part in said.parts]
    parts += [f"[no tool {name} is offered]" for name in _missing(ask, orders)]
    text = "\n".join(parts)
    if not text.strip() and not calls:
        text = "(nothing to echo)"
    return _pieces(text)


def _missing(ask: Ask, orders: _Orders) -> list[str]:
    offered = {tool.get("name") for tool in ask.tools}
    return [name or "at all" for name, _ in orders.calls if (name not in offered if name else not offered)]


def _tool_names(messages: list[dict[str, Any]]) -> dict[str, str]:
    blocks = (
        block for message in messages if isinstance(message["content"], list) for block in message["content"]
    )
    return {str(block.get("id")): str(block.get("name")) for block in blocks if block["type"] == "tool_use"}


def _told(block: dict[str, Any], names: dict[str, str]) -> str:
    """One line for a block that is not text."""
    if block["type"] != "tool_result":
        return f"[{block['type']}]"
    name = names.get(str(block.get("tool_use_id")), "the tool")
    verb = "failed" if block.get("is_error") is True else "returned"
    content = block.get("content") or ""
    if isinstance(content, list):
        content = "\n".join(
            part["text"] if part["type"] == "text" else _told(part, names) for part in content
        )
    return f"{name} {verb}: {content}"


def _pieces(text: str) -> Iterator[str]:
    if len(text) <= SHORT:
        return (found.group() for found in _PIECE.finditer(text))
    return (text[start : start + LONG_PIECE] for start in range(0, len(text), LONG_PIECE))


# A word with the blanks behind it; what has no blanks is cut, as a model's tokens would be.
_PIECE = re.compile(r"\S{1,20}\s{0,20}|\s{1,20}")

_FILLER = "".join(f"line {number:06d} of the answer\n" for number in range(32))[:LONG_PIECE]


def _filler(size: int) -> Iterator[str]:
    for _ in range(size // len(_FILLER)):
        yield _FILLER
    if size % len(_FILLER):
        yield _FILLER[: size % len(_FILLER)]


# --- performing -----------------------------------------------------------------------------------


class _Performance:
    """Turns what is to be said into items, and stops where something ends it early."""

    def __init__(self, ask: Ask, orders: _Orders, model: str, calls: list[ToolCall]) -> None:
        self._ask = ask
        self._orders = orders
        self._model = model
        self._calls = calls
        # An ordered size is meant; elsewhere the client's limit holds.
        self._budget = math.inf if orders.size is not None else ask.max_tokens
        self._spent = 0
        self._exhausted = False
        self._stops = Stops(ask.stop_sequences)

    def script(self, text: Iterable[str]) -> Script:
        if self._orders.delay_s:
            yield Pause(self._orders.delay_s)
        yield from self._paced(self._said(text))
        if self._orders.breaks_with is not None:
            yield self._orders.breaks_with
        if not self._orders.breaks:
            yield Usage(self._ask.input_tokens, self._spent)
            yield self._finish()

    def _paced(self, items: Iterable[Item]) -> Script:
        """The items with the pauses between them, up to the piece after which something breaks."""
        last = self._orders.breaks_after if self._orders.breaks else None
        for number, item in enumerate(items):
            if number == last:
                return
            if number and self._orders.slow_s:
                yield Pause(self._orders.slow_s)
            yield item

    def _said(self, text: Iterable[str]) -> Iterator[Item]:
        yield from self._thoughts()
        yield from self._texts(text)
        for call in self._calls:
            if self._over or not self._afford(tokens.of_bytes(len(call.arguments))):
                return
            yield call

    def _thoughts(self) -> Iterator[Item]:
        for thought in self._orders.thinking:
            pieces = list(_pieces(thought))
            for number, piece in enumerate(pieces, start=1):
                if not self._afford(1):
                    return
                yield Thinking(piece, _signature(self._model) if number == len(pieces) else "")

    def _texts(self, text: Iterable[str]) -> Iterator[Item]:
        for piece in text:
            if shown := self._stops.feed(self._affordable(piece)):
                yield Text(shown)
            if self._over:
                break
        if held := self._stops.end():
            yield Text(held)

    @property
    def _over(self) -> bool:
        return self._exhausted or self._stops.matched is not None

    def _afford(self, cost: int) -> bool:
        """Spend tokens on something that is worth nothing unless it is whole."""
        self._exhausted = self._exhausted or self._spent + cost > self._budget
        if not self._exhausted:
            self._spent += cost
        return not self._exhausted

    def _affordable(self, piece: str) -> str:
        """As many words of it as there are tokens left."""
        if self._budget == math.inf:
            self._spent += tokens.of_text(piece)
            return piece
        words = _PIECE.findall(piece)
        room = int(self._budget) - self._spent
        self._exhausted = len(words) > room
        self._spent += min(len(words), room)
        return "".join(words[:room]) if self._exhausted else piece

    def _finish(self) -> Finish:
        if self._stops.matched is not None:
            return Finish("stop_sequence", self._stops.matched)
        return Finish("max_tokens" if self._exhausted else self._orders.stop)


def _signature(model: str) -> str:
    """Marks the block as ours, so that no other provider is ever shown it as its own."""
    mark = codec.dumps({"u": "echo", "m": model})
    return "px1." + base64.urlsafe_b64encode(mark).decode("ascii").rstrip("=")
