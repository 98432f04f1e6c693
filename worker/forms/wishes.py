"""What both of OpenAI's APIs let a client wish for, in the fields of the Messages API."""

from __future__ import annotations

import re
from typing import Any

from modelproxy.worker.wire import codec

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
    version = _CLAUDE.search(model)
    if version is None:
        return False
    family, major, minor = version["family"], int(version["major"]), int(version["minor"] or 0)
    return major >= 5 or (family == "opus" and (major, minor) >= (4, 7))


_CLAUDE = re.compile(
    r"\bclaude-(?P<family>[a-z]+)-(?P<major>\d{1,2})(?:[-.](?P<minor>\d{1,2}))?(?!\d)", re.ASCII
)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def user(said: Block) -> Block:
    """Whom the request is for."""
    name = said.get("safety_identifier") or said.get("user")
    return {"metadata": {"user_id": name}} if isinstance(name, str) and name else {}
