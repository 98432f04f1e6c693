"""What a fake model says to a coding agent: it does what the user's text orders, and then repeats what came of it.

A line `CALL Read {"file_path": "/x"}` of the last user message is a call; in the arguments of a call it is for
the sub-agent that gets them. Calls behind a line `THEN` wait for the results of those before it.
After the last results the answer is `got: …`, otherwise `said: …`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from e2e.providers import Anthropic, Call, Ollama, Router, Said
from fakes.upstream import Reply, Seen

Far = Ollama | Router | Anthropic

_CALL = re.compile(r"^CALL (\w+) (\{.*\})$", re.MULTILINE)
_THEN = re.compile(r"^THEN$", re.MULTILINE)
_REMINDER = re.compile(r"<system-reminder>.*?</system-reminder>\s*", re.DOTALL)


def call(tool: str, **given: Any) -> str:
    """The order to call this tool."""
    return f"\nCALL {tool} {json.dumps(given)}"


def then(*calls: str) -> str:
    """The order to make these calls when the results of those before are there."""
    return "".join(("\nTHEN", *calls))


def send(agent: str, prompt: str) -> str:
    """The order to send out a sub-agent of Claude Code's."""
    return call("Agent", description="d", subagent_type=agent, prompt=prompt, run_in_background=False)


def obedient(name: str) -> Callable[[Any], Said]:
    """The script of a model with this name (`Upstream.script`), whatever its protocol."""

    def script(document: Any) -> Said:
        messages = document["messages"]
        results, texts = _last_turn(messages)
        words = (" ".join("\n".join(texts).split())[-200:],)
        pieces = (f"{name} got: ", *results) if results else (f"{name} said: ", *words)
        return Said(pieces, _due(messages), id=f"msg_{len(messages)}")

    return script


def streamed(far: Far, text: str) -> Reply:
    """What it answers to this text of the user's."""
    body = {"stream": True, "messages": [{"role": "user", "content": text}]}
    return far.answer(Seen("POST", far.chat, {}, json.dumps(body).encode(), 0))


def _due(messages: list[Any]) -> tuple[Call, ...]:
    """What the user's last order has for this turn."""
    turns = 0
    for message in reversed(messages):
        turns += message["role"] == "assistant"
        text = "\n".join(_said(message)) if message["role"] == "user" else ""
        if _CALL.search(text):
            rounds = _THEN.split(text)
            due = _CALL.findall(rounds[turns]) if turns < len(rounds) else []
            return tuple((tool, json.loads(given)) for tool, given in due)
    return ()


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
            texts += _said(message)
    return results, texts


def _said(message: Any) -> list[str]:
    return [_REMINDER.sub("", text) for text in _texts(_blocks(message))]


def _blocks(message: Any) -> list[Any]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _is_result(block: Any) -> bool:
    return bool(block["type"] == "tool_result")


def _flat(content: Any) -> str:
    return content if isinstance(content, str) else " ".join(_texts(content or []))


def _texts(blocks: list[Any]) -> Iterator[str]:
    return (block["text"] for block in blocks if block["type"] == "text")
