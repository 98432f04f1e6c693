"""A request of OpenAI's Chat Completions, as one of the Messages API.

What is checked is what anything here depends on; unknown fields pass in silence, and known ones that the Messages
API has nothing for (seed, penalties, `logit_bias`, `store`, `metadata`, `prediction`, `verbosity`, …) are left out.
Refused is what would make the answer another one than its client believes it to be.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from modelproxy.worker.dialects.arguments import of_history
from modelproxy.worker.wire import codec

from . import parts, thoughts, tooling, wishes
from .asking import Asked, Terms, refused, unsupported
from .chat_said import ChatAnswer, Wanted
from .parts import History

Block = dict[str, Any]

USUAL_OUTPUT = 8192
"""Tokens of an answer for which nobody says how long it may be."""
_LIMITS = ("max_completion_tokens", "max_tokens")


class Chat:
    """The form of `/v1/chat/completions`."""

    def asked(self, body: bytes, terms: Terms) -> Asked:
        """Translate a request's body. Raises Refused."""
        said = _document(body)
        _refuse(said)
        history = _history(said)
        form = codec.as_dict(said.get("response_format"))
        if form.get("type") == "json_object":
            history.system.append(wishes.JSON_ONLY)
        system, messages = history.done()
        tools = _tools(said)
        choice = _choice(said, tools)
        asks: Block = {
            "model": said["model"],
            "max_tokens": wishes.most(said, _LIMITS) or terms.most_output or USUAL_OUTPUT,
        }
        asks |= {"stream": True} if said.get("stream") else {}
        asks |= {"system": system} if system else {}
        asks["messages"] = wishes.ended(messages, said["model"], terms)
        asks |= {"tools": [tool for tool, _ in tools]} if tools else {}
        asks |= {"tool_choice": choice} if choice is not None else {}
        asks |= {"stop_sequences": stops} if (stops := _stops(said)) else {}
        thought = wishes.thinking(said.get("reasoning_effort"), asks, terms)
        asks |= wishes.sampling(said, terms, is_thinking=wishes.is_thinking(thought))
        asks |= wishes.with_schema(thought, form, codec.as_dict(form.get("json_schema")).get("schema"))
        asks |= wishes.user(said, terms)
        answer = ChatAnswer(_wanted(said, tools), terms)
        return Asked(codec.dumps(asks), answer)


# --- what is checked ----------------------------------------------------------------------------------


def _document(body: bytes) -> Block:
    said = wishes.document(body)
    if not isinstance(said.get("messages"), list) or not said["messages"]:
        raise refused("messages: must be a list with at least one message", "messages")
    return said


def _refuse(said: Block) -> None:
    if said.get("n") not in (None, 1):
        raise unsupported("n", "one answer at a time is given, so n must be 1")
    for field in ("logprobs", "top_logprobs"):
        if said.get(field):
            raise unsupported(field, "probabilities of tokens are not known here")
    modalities = said.get("modalities")
    if modalities is not None and modalities != ["text"]:
        raise unsupported("modalities", "answers are text only")
    if said.get("audio"):
        raise unsupported("audio", "answers are text only")


def _stops(said: Block) -> list[str]:
    """Anthropic refuses blanks alone."""
    stop = said.get("stop")
    given = [stop] if isinstance(stop, str) else [] if stop is None else stop
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise refused("stop: must be a string or a list of strings", "stop")
    return [one for one in given if one.strip()]


# --- history ------------------------------------------------------------------------------------------


def _history(said: Block) -> History:
    history, old = History(), Counter[str]()
    for number, message in enumerate(said["messages"]):
        where = f"messages[{number}]"
        if not isinstance(message, dict):
            raise refused(f"{where}: must be an object", where)
        role = message.get("role")
        if role in ("system", "developer"):
            history.instruct(_content(message, where))
        elif role == "user":
            history.user(_content(message, where))
        elif role == "assistant":
            history.assistant(_spoken(message, where, old))
        elif role in ("tool", "function"):
            history.result(_answered(message, where, old), _content(message, where))
        else:
            roles = "system, developer, user, assistant, tool"
            raise refused(f"{where}.role: must be one of {roles}", f"{where}.role")
    return history


def _content(message: Block, where: str) -> list[Block]:
    return parts.blocks(message.get("content"), f"{where}.content")


def _spoken(message: Block, where: str, old: Counter[str]) -> list[Block]:
    """`old`: how often each function has been called in the format before there were several."""
    refusal = message.get("refusal")
    said = _content(message, where) + parts.blocks(refusal if isinstance(refusal, str) else None, where)
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise refused(f"{where}.tool_calls: must be a list", f"{where}.tool_calls")
    called = [_call(call, f"{where}.tool_calls[{number}]") for number, call in enumerate(calls)]
    single = message.get("function_call")
    if isinstance(single, dict):
        name = str(single.get("name") or "")
        called.append(_used(_old_id(name, old[name]), name, single.get("arguments")))
        old[name] += 1
    return thoughts.blocks(message) + said + called


def _old_id(name: str, before: int) -> str:
    """A call of the old format has no id, its result names the function; and Anthropic takes no id twice."""
    return f"call_{name}_{before}" if before else f"call_{name}"


def _call(call: Any, where: str) -> Block:
    call = call if isinstance(call, dict) else {}
    call_id = call.get("id")
    if not isinstance(call_id, str) or not call_id:
        raise refused(f"{where}.id: must be a non-empty string", f"{where}.id")
    custom = call.get("custom")
    if isinstance(custom, dict):
        return _used(call_id, custom.get("name"), {tooling.CUSTOM: str(custom.get("input") or "")})
    function = call["function"] if isinstance(call.get("function"), dict) else {}
    return _used(call_id, function.get("name"), function.get("arguments"))


def _used(call_id: str, name: Any, arguments: Any) -> Block:
    said = name if isinstance(name, str) and name else "unknown"
    return {"type": "tool_use", "id": call_id, "name": said, "input": of_history(arguments)}


def _answered(message: Block, where: str, old: Counter[str]) -> str:
    if message["role"] == "function":
        name = str(message.get("name") or "")
        return _old_id(name, old[name] - 1 if old[name] else 0)
    call_id = message.get("tool_call_id")
    if not isinstance(call_id, str) or not call_id:
        raise refused(f"{where}.tool_call_id: must be a non-empty string", f"{where}.tool_call_id")
    return call_id


# --- tools --------------------------------------------------------------------------------------------

_Tool = tuple[Block, bool]
"""A tool, and whether it takes a text instead of arguments."""


def _tools(said: Block) -> list[_Tool]:
    given = said.get("tools")
    if given is not None and not isinstance(given, list):
        raise refused("tools: must be a list", "tools")
    found = [_tool(tool, f"tools[{number}]") for number, tool in enumerate(given or [])]
    old = said.get("functions")
    found += [(_function(one, "functions"), False) for one in (old if isinstance(old, list) else [])]
    allowed = _allowed(said.get("tool_choice"))
    return found if allowed is None else [one for one in found if one[0]["name"] in allowed]


def _tool(tool: Any, where: str) -> _Tool:
    kind = tool.get("type") if isinstance(tool, dict) else None
    if kind == "function":
        return _function(tool.get("function"), where), False
    if kind == "custom":
        custom = tool.get("custom")
        if not isinstance(custom, dict) or not isinstance(custom.get("name"), str) or not custom["name"]:
            raise refused(f"{where}.custom.name: must be a non-empty string", f"{where}.custom.name")
        return tooling.custom(custom["name"], custom.get("description"), custom.get("format")), True
    raise unsupported(f"{where}.type", "must be function or custom")


def _function(function: Any, where: str) -> Block:
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name:
        raise refused(f"{where}.function.name: must be a non-empty string", f"{where}.function.name")
    return tooling.function(name, function.get("description"), function.get("parameters"))


def _allowed(choice: Any) -> list[str] | None:
    """The names of `allowed_tools`; None: all."""
    if not isinstance(choice, dict) or choice.get("type") != "allowed_tools":
        return None
    listed = codec.as_dict(choice.get("allowed_tools")).get("tools")
    return [name for one in listed or [] if (name := _named(one)) is not None]


def _named(one: Any) -> str | None:
    """The tool that an entry of `tool_choice` means."""
    inside = codec.as_dict(one).get("function") or codec.as_dict(one).get("custom") or one
    name = codec.as_dict(inside).get("name")
    return name if isinstance(name, str) and name else None


def _choice(said: Block, tools: list[_Tool]) -> Block | None:
    """Without tools there is nothing to choose."""
    if not tools:
        return None
    parallel = said.get("parallel_tool_calls") is not False
    wish = said.get("tool_choice", said.get("function_call"))
    if codec.as_dict(wish).get("type") == "allowed_tools":
        wish = codec.as_dict(codec.as_dict(wish).get("allowed_tools")).get("mode", "auto")
    elif isinstance(wish, dict):
        name = _named(wish)
        if name not in [tool["name"] for tool, _ in tools]:
            raise refused(f"tool_choice: {name!r} is not among the tools", "tool_choice")
        return tooling.chosen("tool", name, parallel=parallel)
    return tooling.chosen(wishes.choice(wish), parallel=parallel)


# --- the rest -----------------------------------------------------------------------------------------


def _wanted(said: Block, tools: list[_Tool]) -> Wanted:
    return Wanted(
        model=said["model"],
        usage=codec.as_dict(said.get("stream_options")).get("include_usage") is True,
        custom=frozenset(tool["name"] for tool, is_custom in tools if is_custom),
    )
