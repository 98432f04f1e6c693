"""What a fake model says to a coding agent: it does what the user's text orders, and then repeats what came of it.

A line `CALL Read {"file_path": "/x"}` of the last user message is a call; in the arguments of a call it is for
the sub-agent that gets them. After results the answer is `got: …`, otherwise `said: …`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from e2e.providers import Said

_CALL = re.compile(r"^CALL (\w+) (\{.*\})$", re.MULTILINE)
_REMINDER = re.compile(r"<system-reminder>.*?</system-reminder>\s*", re.DOTALL)


def call(tool: str, **given: Any) -> str:
    """The order to call this tool."""
    return f"\nCALL {tool} {json.dumps(given)}"


def send(agent: str, prompt: str) -> str:
    """The order to send out a sub-agent of Claude Code's."""
    return call("Agent", description="d", subagent_type=agent, prompt=prompt, run_in_background=False)


def obedient(name: str) -> Callable[[Any], Said]:
    """The script of a model with this name (`Upstream.script`), whatever its protocol."""

    def script(document: Any) -> Said:
        results, texts = _last_turn(document["messages"])
        if results:
            return Said((f"{name} got: ", *results))
        text = "\n".join(texts)
        calls = tuple((tool, json.loads(given)) for tool, given in _CALL.findall(text))
        return Said((f"{name} said: ", " ".join(text.split())[-200:]), calls)

    return script


def _last_turn(messages: list[Any]) -> tuple[list[str], list[str]]:
    """Results of tools and the user's texts, behind the last answer."""
    results: list[str] = []
    texts: list[str] = []
    for message in messages:
        if message["role"] == "assistant":
            results, texts = [], []
        elif message["role"] == "tool":
            results.append(_flat(message["content"]))
        elif message["role"] == "user":
            results += [_flat(block.get("content")) for block in _blocks(message) if _is_result(block)]
            texts += [
                _REMINDER.sub("", block["text"]) for block in _blocks(message) if block["type"] == "text"
            ]
    return results, texts


def _blocks(message: Any) -> list[Any]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _is_result(block: Any) -> bool:
    return bool(block["type"] == "tool_result")


def _flat(content: Any) -> str:
    return content if isinstance(content, str) else " ".join(_texts(content or []))


def _texts(blocks: list[Any]) -> Iterator[str]:
    return (block["text"] for block in blocks if block["type"] == "text")
