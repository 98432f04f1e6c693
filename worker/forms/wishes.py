"""What both of OpenAI's APIs let a client wish for, in the fields of the Messages API."""

from __future__ import annotations

import re
from typing import Any

from modelproxy.worker.dialects.anthropic import lacks_its_thinking
from modelproxy.worker.dialects.thinking import LEAST_BUDGET
from modelproxy.worker.dialects.turns import CONTINUED
from modelproxy.worker.wire import codec

from . import tooling
from .asking import Terms, refused

Block = dict[str, Any]

JSON_ONLY: Block = {
    "type": "text",
    "text": "Answer with one JSON object and nothing else: no prose around it, no code fence.",
}
"""No model of Anthropic's takes JSON without a schema for an order; it has to be told."""


def document(body: bytes) -> Block:
    """A request's body, with a model. Raises Refused."""
    try:
        said = codec.loads(body)
    except ValueError as error:
        raise refused(f"the body is not valid JSON: {error}") from None
    if not isinstance(said, dict):
        raise refused("the body must be a JSON object")
    if not isinstance(said.get("model"), str) or not said["model"]:
        raise refused("model: must be a non-empty string", "model")
    if said.get("stream") is not None and type(said["stream"]) is not bool:
        raise refused("stream: must be true or false", "stream")
    return said


def most(said: Block, fields: tuple[str, ...]) -> int | None:
    """How long the answer may be, by the first of these fields; None: nothing is said."""
    for field in fields:
        value = said.get(field)
        if value is None:
            continue
        if type(value) is not int or value < 1:
            raise refused(f"{field}: must be a positive integer", field)
        return value
    return None


def choice(wish: Any) -> str:
    """A `tool_choice` in one word."""
    kind = _CHOICES.get("auto" if wish is None else str(wish))
    if kind is None:
        raise refused("tool_choice: must be none, auto, required, or name a tool", "tool_choice")
    return kind


_CHOICES = {"auto": "auto", "none": "none", "required": "any"}


def with_schema(thought: Block, form: Block, schema: Any) -> Block:
    """`thought` and the schema of the answer, if its form is to have one: both go into one field."""
    if form.get("type") != "json_schema" or not isinstance(schema, dict):
        return thought
    config = {**thought.get("output_config", {}), "format": {"type": "json_schema", "schema": schema}}
    return {**thought, "output_config": config}


def sampling(said: Block, terms: Terms, *, is_thinking: bool) -> Block:
    """OpenAI's scale goes to 2, Anthropic's to 1; while it thinks it takes none, and its newer models never do."""
    found = {field: said[field] for field in ("temperature", "top_p") if _is_number(said.get(field))}
    if not (terms.literal and found):
        return found
    if is_thinking or any(_refuses_sampling(model or said["model"]) for model in terms.literal):
        return {}
    return {"temperature": min(found["temperature"], 1)} if "temperature" in found else found  # never both


def _refuses_sampling(model: str) -> bool:
    family, version = _claude(model)
    return version >= (5, 0) or (family == "opus" and version >= (4, 7))


def thinking(effort: Any, asks: Block, terms: Terms) -> Block:
    """How much is to be thought before `asks` is answered, in fields that all take who take them to the letter.

    Anthropic's models up to 4.5 know no effort, only a share of the answer's tokens. What would be wrong for
    one of several is left out, for each of them answers without it.
    """
    fields = tooling.efforts(effort, forced=tooling.is_forced(asks.get("tool_choice")))
    takers = [model or asks["model"] for model in terms.literal]
    with_budget = [model for model in takers if _thinks_by_budget(model)]
    if not is_thinking(fields) or not (with_budget or any(map(_never_thinks, takers))):
        return fields
    budget = max(int(asks["max_tokens"] * _SHARES.get(effort, _MOST)), LEAST_BUDGET)
    if with_budget != takers or budget >= asks["max_tokens"] or lacks_its_thinking(asks["messages"]):
        return {}
    return {"thinking": {"type": "enabled", "budget_tokens": budget}}


def ended(messages: list[Block], model: str, terms: Terms) -> list[Block]:
    """The conversation with something to answer: newer models of Anthropic's refuse to go on with their own words."""
    refuse = any(_claude(taker or model)[1] >= _ADAPTIVE_SINCE for taker in terms.literal)
    if not refuse or messages[-1]["role"] != "assistant":
        return messages
    return [*messages, {"role": "user", "content": [{"type": "text", "text": CONTINUED}]}]


def is_thinking(fields: Block) -> bool:
    """Whether these ask for reasoning."""
    return codec.as_dict(fields.get("thinking")).get("type") in ("adaptive", "enabled")


_SHARES = {"minimal": 0.1, "low": 0.2, "medium": 0.5}
"""What `dialects.openai` takes for the same efforts, where one that translates is asked instead."""
_MOST = 0.8
_ADAPTIVE_SINCE = (4, 6)
"""The first models that think as they see fit, and that do not go on with what they are said to have begun."""


def _thinks_by_budget(model: str) -> bool:
    return (0, 0) < _claude(model)[1] < _ADAPTIVE_SINCE


def _never_thinks(model: str) -> bool:
    return _OLDEST.search(model) is not None


def _claude(model: str) -> tuple[str, tuple[int, int]]:
    """The family of a model of Anthropic's, and its version; nothing and 0.0: it is none, or was named otherwise."""
    found = _CLAUDE.search(model)
    if found is None:
        return "", (0, 0)
    return found["family"], (int(found["major"]), int(found["minor"] or 0))


_CLAUDE = re.compile(
    r"\bclaude-(?P<family>[a-z]+)-(?P<major>\d{1,2})(?:[-.](?P<minor>\d{1,2}))?(?!\d)", re.ASCII
)
_OLDEST = re.compile(r"\bclaude-(?:instant\b|[123]\b)", re.ASCII)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def user(said: Block, terms: Terms) -> Block:
    """Whom the request is for. Anthropic refuses what shows who that is: an address, a telephone number."""
    name = said.get("safety_identifier") or said.get("user")
    if not isinstance(name, str) or not name:
        return {}
    if terms.literal and (_SHOWS_WHO.search(name) or len(name) > _LONGEST_USER):
        return {}
    return {"metadata": {"user_id": name}}


_SHOWS_WHO = re.compile(r"@|^[+(]?[\d\s()-]{7,}$", re.ASCII)
_LONGEST_USER = 256
