"""A request of OpenAI's Responses API, as one of the Messages API.

A conversation is a flat list of items there. Each is blocks of one side, and what stands together of one side is
one turn. Items and tools that only OpenAI itself has (`web_search` and its like) are left out: nobody here could
answer for them. Nothing is stored here, so what refers to something stored is refused, in words that say what to
send instead. Tools of a namespace are offered by one name each (`namespace__tool`); `Wanted.tools` knows the way back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modelproxy.worker.dialects.arguments import of_history
from modelproxy.worker.wire import codec

from . import parts, seals, tooling, wishes
from .asking import Asked, Terms, refused, unsupported
from .parts import History
from .responses_said import ResponsesAnswer, Tool, Wanted

Block = dict[str, Any]

USUAL_OUTPUT = 32_000
"""Tokens of an answer for which nobody says how long it may be. Agents write whole files, and do not say it."""
_NOT_STORED = {
    "previous_response_id": "responses are not stored here; send the whole conversation as input",
    "conversation": "conversations are not stored here; send the whole conversation as input",
    "prompt": "prompts are not stored here; send the text as instructions",
    "background": "nothing is answered later here; ask without it, and with stream: true if it takes long",
}
_REPEATED = (
    "instructions",
    "max_output_tokens",
    "metadata",
    "parallel_tool_calls",
    "reasoning",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_p",
)
"""What a response says of its request."""


class Responses:
    """The form of `/v1/responses`."""

    def asked(self, body: bytes, terms: Terms) -> Asked:
        """Translate a request's body. Raises Refused."""
        said = wishes.document(body)
        for field, why in _NOT_STORED.items():
            if said.get(field):
                raise unsupported(field, why)
        offer = _Offer(said.get("tools"))
        history = _history(said, offer)
        form = codec.as_dict(codec.as_dict(said.get("text")).get("format"))
        if form.get("type") == "json_object":
            history.system.append(wishes.JSON_ONLY)
        system, messages = history.done()
        choice = offer.choice(said)
        asks: Block = {
            "model": said["model"],
            "max_tokens": wishes.most(said, ("max_output_tokens",)) or terms.most_output or USUAL_OUTPUT,
        }
        asks |= {"stream": True} if said.get("stream") else {}
        asks |= {"system": system} if system else {}
        asks["messages"] = wishes.ended(messages, said["model"], terms)
        asks |= {"tools": offer.shown} if offer.shown else {}
        asks |= {"tool_choice": choice} if choice is not None else {}
        thought = wishes.thinking(codec.as_dict(said.get("reasoning")).get("effort"), asks, terms)
        asks |= wishes.sampling(said, terms, is_thinking=wishes.is_thinking(thought))
        asks |= wishes.with_schema(thought, form, form.get("schema"))
        asks |= wishes.user(said, terms)
        include = said.get("include")
        wanted = Wanted(
            model=said["model"],
            tools=offer.tools,
            seals=isinstance(include, list) and "reasoning.encrypted_content" in include,
            repeated={field: said[field] for field in _REPEATED if said.get(field) is not None},
        )
        return Asked(codec.dumps(asks), ResponsesAnswer(wanted, terms))


# --- tools ----------------------------------------------------------------------------------------------


class _Offer:
    """The tools, each under one name."""

    def __init__(self, tools: Any) -> None:
        self.shown: list[Block] = []
        self.tools: dict[str, Tool] = {}
        if tools is not None and not isinstance(tools, list):
            raise refused("tools: must be a list", "tools")
        for number, tool in enumerate(tools or []):
            self._take(tool, f"tools[{number}]", None)

    def _take(self, tool: Any, where: str, namespace: str | None) -> None:
        if not isinstance(tool, dict):
            raise refused(f"{where}: must be an object", where)
        kind = tool.get("type")
        if kind not in ("function", "custom", "namespace"):
            return  # OpenAI's own
        name = tool.get("name")
        if not isinstance(name, str) or not name:
            raise refused(f"{where}.name: must be a non-empty string", f"{where}.name")
        if kind == "namespace":
            for number, one in enumerate(_list(tool.get("tools"))):
                self._take(one, f"{where}.tools[{number}]", name)
            return
        shown = _flat(namespace, name)
        while shown in self.tools:
            shown += "_"
        self.tools[shown] = Tool(name, namespace, is_custom=kind == "custom")
        description = tool.get("description")
        if kind == "custom":
            self.shown.append(tooling.custom(shown, description, tool.get("format")))
        else:
            self.shown.append(tooling.function(shown, description, tool.get("parameters")))

    def name(self, namespace: Any, name: str) -> str:
        """Under which a tool is shown, also one that is not on offer any more."""
        known = (
            shown for shown, tool in self.tools.items() if (tool.namespace, tool.name) == (namespace, name)
        )
        return next(known, None) or _flat(namespace if isinstance(namespace, str) else None, name)

    def choice(self, said: Block) -> Block | None:
        """`tool_choice`. Without tools there is nothing to choose."""
        wish, parallel = said.get("tool_choice"), said.get("parallel_tool_calls") is not False
        named = codec.as_dict(wish)
        if named.get("type") == "allowed_tools":
            allowed = [self._named(one) for one in _list(named.get("tools"))]
            self.shown = [tool for tool in self.shown if tool["name"] in allowed]
            wish, named = named.get("mode", "auto"), {}
        if not self.shown:
            return None
        if not named:
            return tooling.chosen(wishes.choice(wish), parallel=parallel)
        if named.get("type") not in ("function", "custom"):
            return tooling.chosen("auto", parallel=parallel)  # a tool of OpenAI's own
        name = self._named(named)
        if name not in self.tools:
            raise refused(f"tool_choice: {named.get('name')!r} is not among the tools", "tool_choice")
        return tooling.chosen("tool", name, parallel=parallel)

    def _named(self, one: Any) -> str:
        said = codec.as_dict(one)
        return self.name(said.get("namespace"), str(said.get("name") or ""))


def _flat(namespace: str | None, name: str) -> str:
    return f"{namespace.rstrip('_')}__{name}" if namespace else name


# --- the conversation -----------------------------------------------------------------------------------


def _history(said: Block, offer: _Offer) -> History:
    history = History()
    history.instruct(parts.blocks(said.get("instructions"), "instructions"))
    given = said.get("input")
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list):
        raise refused("input: must be a string or a list of items", "input")
    for number, item in enumerate(given):
        where = f"input[{number}]"
        if not isinstance(item, dict):
            raise refused(f"{where}: must be an object", where)
        take = _ITEMS.get(str(item.get("type", "message")))
        if take is not None:
            take(history, item, where, offer)
    return history


def _message(history: History, item: Block, where: str, _: _Offer) -> None:
    content = parts.blocks(item.get("content"), f"{where}.content")
    role = item.get("role")
    if role in ("system", "developer"):
        history.instruct(content)
    elif role == "user":
        history.user(content)
    elif role == "assistant":
        history.assistant(content)
    else:
        raise refused(f"{where}.role: must be one of system, developer, user, assistant", f"{where}.role")


def _call(history: History, item: Block, where: str, offer: _Offer) -> None:
    name = item.get("name")
    if not isinstance(name, str) or not name:
        raise refused(f"{where}.name: must be a non-empty string", f"{where}.name")
    if item["type"] == "custom_tool_call":
        given: Block = {tooling.CUSTOM: str(item.get("input") or "")}
    else:
        given = of_history(item.get("arguments"))
    shown = offer.name(item.get("namespace"), name)
    call = {"type": "tool_use", "id": _call_id(item, where), "name": shown, "input": given}
    history.assistant([call])


def _result(history: History, item: Block, where: str, _: _Offer) -> None:
    history.result(_call_id(item, where), parts.blocks(item.get("output"), f"{where}.output"))


def _call_id(item: Block, where: str) -> str:
    found = item.get("call_id")
    if not isinstance(found, str) or not found:
        raise refused(f"{where}.call_id: must be a non-empty string", f"{where}.call_id")
    return found


def _reasoning(history: History, item: Block, _: str, __: _Offer) -> None:
    block = seals.opened(item.get("encrypted_content"))
    if block is not None:
        history.assistant([block])


def _reference(_: History, __: Block, where: str, ___: _Offer) -> None:
    raise unsupported(where, "items are not stored here; send the item itself in place of its id")


_ITEMS: dict[str, Callable[[History, Block, str, _Offer], None]] = {
    "message": _message,
    "function_call": _call,
    "custom_tool_call": _call,
    "function_call_output": _result,
    "custom_tool_call_output": _result,
    "reasoning": _reasoning,
    "item_reference": _reference,
}
"""Any other is left out."""


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
