"""Where a request goes that comes to the front door: what is seen of it, and the rules. Pure.

Theory of operation
-------------------
An agent reads its base URL once and its sub-agents inherit it, so one port has to tell apart who asks. What is
looked at never changes a byte of what is sent on. Who asks is said, the surest first, by the path (`/a/NAME/…`),
a header (`x-proxy-agent`), a comment in the system prompt (`<!-- agent: NAME -->`), a header of Claude Code's for
its built-in sub-agents, what `lineage` has learned of the others, or by the name of the model.
The first rule that fits decides; all that a rule says must hold. What no rule takes goes `otherwise`.

The class of a request is told by Claude Code itself when it is asked to (CLAUDE_CODE_GATEWAY_HINT_HEADERS), and
else by what it is seen to send: a header and a mark in its billing block say that a sub-agent asks, its web search
brings a server tool and nothing else, and what it does beside the conversation has no tools, and a schema for its
answer (titles), a small model, or no stream (the check of an action in auto mode).
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Callable
from typing import Any, Protocol

import attrs
import msgspec

from .app import AGENT_HEADER, session
from .contract import Front, FrontRule, Place

OWN = "anthropic"
"""The caller's own request, with the caller's own credential."""
_HINTS = {
    "main": "main",
    "compaction": "main",
    "side_reply": "main",
    "subagent": "subagent",
    "workflow": "subagent",
    "auxiliary": "background",
}
"""What Claude Code calls the classes of its requests."""
_NAMELESS = ("custom", "teammate")
"""What it says instead of the name of an agent that its user has defined."""
CLASSES = ("main", "subagent", "background", "web_search", "count_tokens", "other")
MOST_NEAREST = 10


class Head(Protocol):
    """The part of a request's head that is read here."""

    @property
    def path(self) -> str: ...
    def header(self, name: bytes) -> bytes | None: ...


# --- what is seen of a request ------------------------------------------------------------------------


class _Peek(msgspec.Struct):
    model: Any = None
    stream: Any = None
    system: Any = None
    tools: msgspec.Raw = msgspec.Raw(b"null")
    output_config: msgspec.Raw = msgspec.Raw(b"null")


_peek = msgspec.json.Decoder(_Peek)


class _Tool(msgspec.Struct):
    type: Any = None


_tools = msgspec.json.Decoder(list[_Tool] | None)


class _Format(msgspec.Struct):
    format: Any = None


_format = msgspec.json.Decoder(_Format | None)


@attrs.frozen
class Asked:
    """A request, as far as rules can ask for it."""

    model: str = ""
    stream: bool = False
    agent: str | None = None
    agent_id: str | None = None
    session_id: str | None = None
    system: str = attrs.field(default="", repr=False)
    request: str = "other"
    """One of CLASSES."""


def read(head: Head, body: bytes | None, agent: str | None = None) -> Asked:
    """What is seen of it. `body`: of a model request; None: it is none. `agent`: as the path says.

    What is not understood is not there: whoever gets the request says what is wrong with it.
    """
    said = agent or _text(head.header(AGENT_HEADER))
    agent_id = _text(head.header(b"x-claude-code-agent-id"))
    session_id = _text(session(head.header))
    if body is None:
        return Asked(agent=said, agent_id=agent_id, session_id=session_id)
    try:
        found = _peek.decode(body)
    except (ValueError, RecursionError):
        found = _Peek()
    blocks = _blocks(found.system)
    system = "\n".join(blocks)
    model = found.model if isinstance(found.model, str) else ""
    if said is None and (marked := _MARK.search(system)) is not None:
        said = marked[1]
    return Asked(
        model=model,
        stream=found.stream is True,
        agent=said or _built_in(head),
        agent_id=agent_id,
        session_id=session_id,
        system=system,
        request=_class(head, found, model, _Mark.of(head, blocks)),
    )


def _built_in(head: Head) -> str | None:
    """The sub-agent's name, where it is one of Claude Code's own."""
    kind = _text(head.header(b"x-claude-code-agent-type"))
    return None if kind in _NAMELESS else kind


_MARK = re.compile(r"<!--\s*agent:\s*(\S+)\s*-->")
_BILLING = "x-anthropic-billing-header:"


def _blocks(system: Any) -> list[str]:
    if isinstance(system, str):
        return [system]
    if not isinstance(system, list):
        return []
    texts = [block.get("text") for block in system if isinstance(block, dict)]
    return [text for text in texts if isinstance(text, str)]


@attrs.frozen
class _Mark:
    """What Claude Code says of a request beside its content."""

    is_its: bool
    is_subagent: bool
    hint: str | None

    @classmethod
    def of(cls, head: Head, blocks: list[str]) -> _Mark:
        billing = blocks[0] if blocks and blocks[0].startswith(_BILLING) else ""
        hint = _HINTS.get(_text(head.header(b"x-claude-code-request-class")) or "")
        is_marked = head.header(b"x-claude-code-agent-id") is not None or "cc_is_subagent=true" in billing
        return cls(bool(billing), is_marked or hint == "subagent", hint)


def _class(head: Head, found: _Peek, model: str, mark: _Mark) -> str:
    if head.path.endswith("/count_tokens"):
        return "count_tokens"
    if mark.is_subagent:
        return "subagent"
    tools = _decoded(_tools, found.tools)
    if tools and all(isinstance(tool.type, str) and tool.type.startswith("web_search") for tool in tools):
        return "web_search"
    if mark.hint is not None:
        return mark.hint
    return "main" if tools or not _is_aside(found, model, mark) else "background"


def _is_aside(found: _Peek, model: str, mark: _Mark) -> bool:
    """Of a request without tools: whether it is no part of the conversation."""
    config = _decoded(_format, found.output_config)
    structured = config is not None and config.format is not None
    return structured or "haiku" in model or (mark.is_its and found.stream is not True)


def _decoded(decoder: Any, raw: msgspec.Raw) -> Any:
    try:
        return decoder.decode(raw)
    except (ValueError, RecursionError):
        return None


def _text(value: bytes | None) -> str | None:
    return value.decode("latin-1")[:200] if value else None


# --- rules --------------------------------------------------------------------------------------------


@attrs.frozen
class Way:
    """Where a request goes."""

    to: str
    """OWN, or the name of a place."""
    agent: str | None = None
    """Who asks, as far as it is known."""


class Plan:
    """A front's rules, made ready."""

    def __init__(self, front: Front) -> None:
        self.front = front
        self.places = {place.name: place for place in front.places}
        self.agents = [rule.agent for rule in front.rules if rule.agent is not None]
        self._named = {name for name in self.agents if not is_glob(name)}
        self._tests = [(_test(rule), rule.to) for rule in front.rules]
        self._picked = {picker(name): name for name in self.names()}
        self.ids = list(dict.fromkeys(one for name in self.names() for one in (name, picker(name))))
        """What can be asked for, with names that Claude Code's picker shows."""

    def decide(self, asked: Asked) -> Way:
        """The first rule that fits."""
        model = self._picked.get(asked.model, asked.model)
        agent = asked.agent or (model if model in self._named else None)
        asked = attrs.evolve(asked, model=model, agent=agent)
        for fits, to in self._tests:
            if fits(asked):
                return Way(to, agent)
        return Way(self.front.otherwise, agent)

    def knows(self, agent: str) -> bool:
        """Whether any rule is for this agent."""
        return any(_pattern(name).fullmatch(agent) for name in self.agents)

    def unknown(self, agent: str) -> str:
        """The sentence for an agent that no rule is for."""
        names = sorted(self._named)
        close = difflib.get_close_matches(agent, names, n=3, cutoff=0.4)
        listed = [*close, *(name for name in names if name not in close)][:MOST_NEAREST]
        there = f"Agents: {', '.join(listed) or 'none'}; proxyctl agents set NAME MODEL adds one"
        return f"agent: {agent!r} has no rule here. {there}"

    def names(self) -> list[str]:
        """What can be asked for as a model, each once."""
        rules = self.front.rules
        models = [rule.model for rule in rules if rule.model is not None and not is_glob(rule.model)]
        # To Anthropic the request goes as it is, and no model there has an agent's name.
        agents = [rule.agent for rule in rules if rule.agent is not None and rule.to != OWN]
        return list(dict.fromkeys([*models, *(name for name in agents if not is_glob(name))]))

    @property
    def leads_home(self) -> bool:
        """Whether any request may go to Anthropic."""
        return OWN in (self.front.otherwise, *(rule.to for rule in self.front.rules))


def picker(name: str) -> str:
    """Claude Code's picker keeps only ids that begin so."""
    if name.startswith(("claude", "anthropic")):
        return name
    return "claude-" + re.sub(r"[^A-Za-z0-9._-]+", "-", name)


def is_glob(text: str) -> bool:
    return "*" in text or "?" in text


def _test(rule: FrontRule) -> Callable[[Asked], bool]:
    tests: list[Callable[[Asked], bool]] = []
    if rule.agent is not None:
        agent = _pattern(rule.agent)
        tests.append(lambda asked: _fits(agent, asked.agent) or _fits(agent, asked.agent_id))
    if rule.model is not None:
        model = _pattern(rule.model)
        tests.append(lambda asked: bool(asked.model) and _fits(model, asked.model))
    if rule.session is not None:
        session_name = _pattern(rule.session)
        tests.append(lambda asked: _fits(session_name, asked.session_id))
    if rule.request is not None:
        tests.append(lambda asked: asked.request == rule.request)
    if rule.marker is not None:
        marker = rule.marker
        tests.append(lambda asked: marker in asked.system)
    return lambda asked: bool(tests) and all(test(asked) for test in tests)


def _fits(pattern: re.Pattern[str], text: str | None) -> bool:
    return text is not None and pattern.fullmatch(text) is not None


@functools.lru_cache(maxsize=1024)
def _pattern(glob: str) -> re.Pattern[str]:
    """`*` is any text, `?` any one character; nothing else is special."""
    pattern = "".join(".*" if char == "*" else "." if char == "?" else re.escape(char) for char in glob)
    return re.compile(pattern, re.DOTALL)


def down(place: Place) -> str:
    """The sentence for a place that is not up."""
    return f"{place.name} is not up: {place.trouble or f'it was taken down - proxyctl up {place.name}'}"


__all__ = [
    "CLASSES",
    "OWN",
    "Asked",
    "Plan",
    "Way",
    "down",
    "picker",
    "read",
]
