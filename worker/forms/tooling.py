"""Tools of other APIs, as the Messages API describes them."""

from __future__ import annotations

from typing import Any

from modelproxy.worker.wire import codec

Block = dict[str, Any]

CUSTOM = "input"
"""The one argument of a tool that takes a text instead of arguments."""


def function(name: str, description: Any, parameters: Any) -> Block:
    """A tool that is called with arguments."""
    schema = (
        parameters if isinstance(parameters, dict) and parameters else {"type": "object", "properties": {}}
    )
    said = {"description": description} if isinstance(description, str) and description else {}
    return {"name": name, **said, "input_schema": schema}


def custom(name: str, description: Any, form: Any) -> Block:
    """A tool that is called with a text; its grammar can only be told."""
    words = description if isinstance(description, str) else ""
    grammar = form.get("grammar", form) if isinstance(form, dict) else {}
    if isinstance(grammar, dict) and isinstance(grammar.get("definition"), str):
        syntax = str(grammar.get("syntax") or "a")
        words += f"\n\nThe input follows this {syntax} grammar:\n{grammar['definition']}"
    schema = {"type": "object", "properties": {CUSTOM: {"type": "string"}}, "required": [CUSTOM]}
    return function(name, words.strip(), schema)


def custom_input(arguments: str) -> str:
    """The text that a custom tool was called with; what is no such object is passed on as it is."""
    try:
        said = codec.loads(arguments.encode("utf-8", "surrogatepass"))
    except ValueError:
        return arguments
    text = said.get(CUSTOM) if isinstance(said, dict) else None
    return text if isinstance(text, str) else arguments


def chosen(kind: str, name: str | None = None, *, parallel: bool = True) -> Block | None:
    """`tool_choice`; None: nothing need be said. `kind`: auto, any, tool or none."""
    choice: Block = {"type": kind} if name is None else {"type": kind, "name": name}
    if not parallel and kind != "none":
        choice["disable_parallel_tool_use"] = True
    return None if choice == {"type": "auto"} else choice


def is_forced(choice: Block | None) -> bool:
    """Whether a call must follow. Anthropic takes that only without reasoning."""
    return choice is not None and choice["type"] in ("any", "tool")


def efforts(effort: Any, *, forced: bool) -> dict[str, Any]:
    """The fields that say how much is to be thought. Effort that nobody here knows is passed on."""
    if not isinstance(effort, str):
        return {}
    if effort == "none" or forced:
        return {"thinking": {"type": "disabled"}}
    known = _EFFORTS.get(effort, effort)
    return {"thinking": {"type": "adaptive"}, "output_config": {"effort": known}}


_EFFORTS = {"minimal": "low"}
