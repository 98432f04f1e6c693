"""Which tools a model is offered, and which of them it has to call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from modelproxy.worker.failures import Failure, Kind, Refused
from modelproxy.worker.wire import codec
from modelproxy.worker.wire.asks import Ask

from . import searches

Block = dict[str, Any]

PLACEHOLDER = "DeferredToolPlaceholder"
"""Claude Code's stand-in for the tools that it holds back; a model that is shown it calls it."""


@attrs.frozen
class Tool:
    """A function as the client described it; the schema still has to be made fit for the server."""

    name: str
    description: str
    schema: Any
    strict: bool = False


@attrs.frozen
class Choice:
    """`auto`, `any`, `tool` or `none`. Without tools on offer it is always `auto`."""

    type: str = "auto"
    name: str | None = None


@attrs.frozen
class Offer:
    """What is left of a request's tools."""

    tools: list[Tool]
    choice: Choice
    parallel: bool
    notes: tuple[str, ...] = ()
    search: Block | None = None
    """The web search as the client described it, where the provider runs one."""


def offer(ask: Ask, provider: str, *, searches_web: bool = False) -> Offer:
    """Select the tools. Raises `Refused` where leaving one out would make the model invent its results."""
    notes: list[str] = []
    tools: dict[str, Tool] = {}
    missing: list[str] = []
    wanted = _Wanted(ask)
    search = search_in(ask) if searches_web else None
    for described in ask.tools:
        if search is not None and is_search(described):
            continue
        kind, name = codec.as_text(described.get("type")), codec.as_text(described.get("name"))
        if _is_for_anthropic_only(described):
            missing.append(name or kind)
        elif name and name != PLACEHOLDER and name not in tools and wanted.is_wanted(described):
            tools[name] = _tool(described)
    if missing:
        _refuse_if_alone(ask, provider, missing, search)
        notes.append(f"left out server tools: {', '.join(missing)}")
    choice = _choice(ask, tools, missing, search)
    parallel = ask.tool_choice.get("disable_parallel_tool_use") is not True
    return Offer(list(tools.values()), choice, parallel, tuple(notes), search)


def search_in(ask: Ask) -> Block | None:
    """The web search among a request's tools."""
    return next((described for described in ask.tools if is_search(described)), None)


def is_search(described: Block) -> bool:
    """Whether this is Anthropic's web search, of whatever date."""
    return codec.as_text(described.get("type")).startswith(searches.PREFIX)


# --- what others run ------------------------------------------------------------------------------

_SERVER_TOOLS = (
    "web_search_",
    "web_fetch_",
    "code_execution_",
    "tool_search_tool_",
    "advisor_",
    "mcp_toolset",
)
_SEARCHES_TOOLS = "tool_search_tool_"
_SCREEN_TOOLS = ("computer_", "browser_toolset_")


def _is_for_anthropic_only(described: Block) -> bool:
    """True for a tool that no client runs, so that nobody would answer the model's call."""
    kind = codec.as_text(described.get("type"))
    if kind in ("", "custom"):
        return False
    if kind.startswith(_SERVER_TOOLS):
        return True
    # A dated type nobody here has heard of: with a schema the client can be called, without one it cannot.
    return _own_schema(kind) is None and not isinstance(described.get("input_schema"), dict)


def _refuse_if_alone(ask: Ask, provider: str, missing: list[str], search: Block | None) -> None:
    """A request for nothing but server tools is a question that only they can answer."""
    for described in ask.tools:
        if codec.as_text(described.get("type")).startswith(_SCREEN_TOOLS):
            raise _refused(f"tool {_name_of(described)} needs Anthropic; {provider} cannot run it")
    if search is not None or _only_searches_tools(ask.tools):
        return
    rest = [one for one in ask.tools if not _is_for_anthropic_only(one)]
    if not any(one.get("name") != PLACEHOLDER for one in rest):
        raise _refused(f"{provider} cannot run the server tool {', '.join(missing)}")


def _only_searches_tools(described: list[Block]) -> bool:
    return all(
        codec.as_text(one.get("type")).startswith(_SEARCHES_TOOLS) or one.get("name") == PLACEHOLDER
        for one in described
    )


def _name_of(described: Block) -> str:
    return codec.as_text(described.get("name")) or codec.as_text(described.get("type"))


def _refused(message: str) -> Refused:
    return Refused(Failure(Kind.INVALID, message))


# --- what the client runs -------------------------------------------------------------------------


def _tool(described: Block) -> Tool:
    """Name, description and schema: servers refuse keys that they do not know."""
    schema = described.get("input_schema")
    own = _own_schema(codec.as_text(described.get("type")))
    description = codec.as_text(described.get("description"))
    if own is not None and not isinstance(schema, dict):
        description, schema = description or own[0], own[1]
    return Tool(described["name"], description, schema, described.get("strict") is True)


def _own_schema(kind: str) -> tuple[str, Block] | None:
    """Description and schema of a tool that Anthropic defines and the client runs."""
    return next((own for prefix, own in _ANTHROPIC_DEFINED.items() if kind.startswith(prefix)), None)


def _object(required: list[str], **properties: Any) -> Block:
    return {"type": "object", "properties": properties, "required": required}


_STRING = {"type": "string"}
_LINE_RANGE = {"type": "array", "items": {"type": "integer"}}

_ANTHROPIC_DEFINED: dict[str, tuple[str, Block]] = {
    "bash_": (
        "Run a command in a bash shell that stays open between calls.",
        _object([], command=_STRING, restart={"type": "boolean"}),
    ),
    "text_editor_": (
        "View, create and edit files.",
        _object(
            ["command", "path"],
            command={"type": "string", "enum": ["view", "create", "str_replace", "insert"]},
            path=_STRING,
            file_text=_STRING,
            old_str=_STRING,
            new_str=_STRING,
            insert_line={"type": "integer"},
            insert_text=_STRING,
            view_range=_LINE_RANGE,
        ),
    ),
    "memory_": (
        "Keep notes in files below /memories.",
        _object(
            ["command"],
            command={
                "type": "string",
                "enum": ["view", "create", "str_replace", "insert", "delete", "rename"],
            },
            path=_STRING,
            file_text=_STRING,
            old_str=_STRING,
            new_str=_STRING,
            insert_line={"type": "integer"},
            insert_text=_STRING,
            old_path=_STRING,
            new_path=_STRING,
            view_range=_LINE_RANGE,
        ),
    ),
}


class _Wanted:
    """Deferred tools are on offer once something in the history loaded or called them."""

    def __init__(self, ask: Ask) -> None:
        self._loaded: set[str] = set()
        self._removed: set[str] = set()
        self._all = any(codec.as_text(tool.get("type")).startswith(_SEARCHES_TOOLS) for tool in ask.tools)
        if ask.tool_choice["type"] == "tool":
            self._loaded.add(ask.tool_choice["name"])
        for block in _blocks(ask.messages):
            self._read(block)

    def _read(self, block: Block) -> None:
        kind = block["type"]
        if kind == "tool_use":
            self._loaded.add(codec.as_text(block.get("name")))
        elif kind == "tool_addition":
            self._loaded |= _named(block)
            self._removed -= _named(block)
        elif kind == "tool_removal":
            self._removed |= _named(block)
        elif kind.endswith("tool_result"):
            self._loaded |= set(_references(block.get("content")))

    def is_wanted(self, described: Block) -> bool:
        if described["name"] in self._removed:
            return False
        deferred = described.get("defer_loading") is True
        return self._all or not deferred or described["name"] in self._loaded


def _blocks(messages: list[Block]) -> Iterator[Block]:
    for message in messages:
        if isinstance(message["content"], list):
            yield from message["content"]


def _references(content: Any) -> Iterator[str]:
    if isinstance(content, dict):  # of a server's own search
        content = content.get("tool_references")
    for inner in content if isinstance(content, list) else []:
        if isinstance(inner, dict) and inner.get("type") == "tool_reference":
            yield codec.as_text(inner.get("tool_name")) or codec.as_text(inner.get("name"))


def _named(block: Block) -> set[str]:
    """Tools that an addition or a removal speaks of, in any of the forms they have had."""
    found: set[str] = set()
    for key in ("tool_name", "name", "tool_names", "tools", "tool"):
        found |= set(_names_in(block.get(key)))
    return found


def _names_in(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, dict):
            yield codec.as_text(one.get("name")) or codec.as_text(one.get("tool_name"))
        elif isinstance(one, str):
            yield one


def _choice(ask: Ask, tools: dict[str, Tool], missing: list[str], search: Block | None) -> Choice:
    """A choice must not outlive the tools that it chooses from: servers refuse that."""
    kind = ask.tool_choice["type"]
    if kind != "tool":
        return Choice(kind) if tools or search else Choice()
    name = ask.tool_choice["name"]
    if name in tools or (search is not None and name == search.get("name")):
        return Choice("tool", name)
    if name in missing:
        return Choice()
    raise _refused(f"tool_choice.name: no tool {name[:100]!r} is offered")
