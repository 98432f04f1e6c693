"""What a client of the Messages API asks, checked as far as anything here depends on it.

Unknown fields, blocks and types pass: every client release brings new ones. What is checked is named in
the refusal, because people read it. The body stays the client's own dictionary, in its own key order.
"""

from __future__ import annotations

from typing import Any

import attrs

from modelproxy.worker import tokens
from modelproxy.worker.failures import Failure, Kind, Refused

from . import codec

_ROLES = ("user", "assistant", "system")
_CHOICES = ("auto", "any", "tool", "none")


@attrs.frozen
class Ask:
    """One request for an answer."""

    body: dict[str, Any] = attrs.field(repr=False)
    model: str
    """The name that the client used; the answer repeats it."""
    max_tokens: int
    stream: bool
    input_tokens: int
    """Our estimate of the prompt."""

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The history; roles and the shape of contents are checked."""
        return self.body["messages"]  # type: ignore[no-any-return]  # checked by _check_messages

    @property
    def tools(self) -> list[dict[str, Any]]:
        """The tools on offer, as the client described them."""
        return self.body.get("tools") or []

    @property
    def tool_choice(self) -> dict[str, Any]:
        """`type` is one of auto, any, tool, none."""
        return self.body.get("tool_choice") or {"type": "auto"}

    @property
    def stop_sequences(self) -> list[str]:
        """Texts that end the answer, none of them empty."""
        return [text for text in self.body.get("stop_sequences") or [] if text]

    @property
    def thinking(self) -> str:
        """How reasoning may be shown: `none`, `omitted` (the block without its text) or `shown`."""
        wish = self.body.get("thinking")
        if not isinstance(wish, dict) or wish.get("type") in (None, "disabled"):
            return "none"
        return "omitted" if wish.get("display") == "omitted" else "shown"


def ask(data: bytes) -> Ask:
    """Read the body of `POST /v1/messages`. Raises Refused."""
    body = _checked(data)
    max_tokens = body.get("max_tokens")
    if "max_tokens" not in body:
        raise _invalid("max_tokens: field required")
    if type(max_tokens) is not int:  # a bool is an int to isinstance
        raise _invalid("max_tokens: must be an integer")
    if max_tokens < 0:
        raise _invalid("max_tokens: must not be negative")
    stream = body.get("stream")
    if stream is not None and type(stream) is not bool:
        raise _invalid("stream: must be true or false")
    return Ask(
        body=body,
        model=body["model"],
        max_tokens=max_tokens,
        stream=bool(stream),
        input_tokens=_estimate(body),
    )


def count(data: bytes) -> Ask:
    """Read the body of `POST /v1/messages/count_tokens`: a request for no answer. Raises Refused."""
    body = _checked(data)
    return Ask(body=body, model=body["model"], max_tokens=0, stream=False, input_tokens=_estimate(body))


def _estimate(body: dict[str, Any]) -> int:
    try:
        return tokens.of_prompt(body)
    except RecursionError:
        raise _invalid("the body is JSON nested too deeply") from None


def _invalid(message: str, details: dict[str, Any] | None = None) -> Refused:
    return Refused(Failure(Kind.INVALID, message, details=details))


def no_thread() -> Refused:
    """Ignored, the next turn would arrive without its history; refused in these words, SDKs send it whole."""
    return _invalid(
        "thread: message threads are not supported",
        {"error_code": "thread_unsupported_request", "unsupported": ["thread"]},
    )


def no_safeguards(provider: str) -> Refused:
    """Ignored, a client would take unchecked calls for checked ones; refused by name, it checks them itself."""
    return _invalid(f"safeguards: {provider} cannot check tool use; send the request without it")


FEATURES = ("mcp_servers", "container")
"""Tools of a request that only Anthropic runs."""


def no_feature(field: str, provider: str) -> Refused:
    """Ignored, the model would be without what its client believes it to have."""
    return _invalid(f"{field}: not supported by {provider}")


def _checked(data: bytes) -> dict[str, Any]:
    try:
        body = codec.loads(data)
    except ValueError as error:
        raise _invalid(f"the body is not valid JSON: {error}") from None
    if not isinstance(body, dict):
        raise _invalid("the body must be a JSON object")
    if "thread" in body:
        raise no_thread()
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise _invalid("model: must be a non-empty string" if "model" in body else "model: field required")
    _check_messages(body)
    _check_system(body.get("system"))
    _check_tools(body)
    _check_stops(body.get("stop_sequences"))
    return body


def _check_messages(body: dict[str, Any]) -> None:
    if "messages" not in body:
        raise _invalid("messages: field required")
    messages = body["messages"]
    if not isinstance(messages, list):
        raise _invalid("messages: must be a list")
    if not messages:
        raise _invalid("messages: at least one message is required")
    for number, message in enumerate(messages):
        where = f"messages.{number}"
        if not isinstance(message, dict):
            raise _invalid(f"{where}: must be an object")
        if message.get("role") not in _ROLES:
            raise _invalid(f"{where}.role: must be one of {', '.join(_ROLES)}")
        _check_content(message.get("content"), f"{where}.content")


def _check_content(content: Any, where: str, *, inside: bool = False) -> None:
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise _invalid(f"{where}: must be a string or a list of blocks")
    for number, block in enumerate(content):
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise _invalid(f"{where}.{number}: must be an object with a type")
        if block["type"] == "text" and not isinstance(block.get("text"), str):
            raise _invalid(f"{where}.{number}.text: must be a string")
        # A result inside a result is nothing that anybody reads, and checking it could go on without end.
        if block["type"] == "tool_result" and not inside:
            _check_result(block, f"{where}.{number}")


def _check_result(block: dict[str, Any], where: str) -> None:
    if not isinstance(block.get("tool_use_id", ""), str):
        raise _invalid(f"{where}.tool_use_id: must be a string")
    if block.get("content") is not None:
        _check_content(block["content"], f"{where}.content", inside=True)


def _check_system(system: Any) -> None:
    if system is not None:
        _check_content(system, "system")


def _check_tools(body: dict[str, Any]) -> None:
    tools = body.get("tools")
    if tools is not None and not isinstance(tools, list):
        raise _invalid("tools: must be a list")
    for number, tool in enumerate(tools or []):
        if not isinstance(tool, dict):
            raise _invalid(f"tools.{number}: must be an object")
        if not _is_named(tool):
            raise _invalid(f"tools.{number}.name: must be a non-empty string")
    choice = body.get("tool_choice")
    if choice is None:
        return
    if not isinstance(choice, dict):
        raise _invalid("tool_choice: must be an object")
    if choice.get("type") not in _CHOICES:
        raise _invalid(f"tool_choice.type: must be one of {', '.join(_CHOICES)}")
    if choice["type"] == "tool" and not isinstance(choice.get("name"), str):
        raise _invalid("tool_choice.name: must be a string")


def _is_named(tool: dict[str, Any]) -> bool:
    """Only what Anthropic itself runs may do without a name, such as a toolset of MCP."""
    name, kind = tool.get("name"), tool.get("type")
    if name is None:
        return isinstance(kind, str) and kind not in ("", "custom")
    return isinstance(name, str) and bool(name)


def _check_stops(stops: Any) -> None:
    if stops is None:
        return
    if not isinstance(stops, list) or not all(isinstance(text, str) for text in stops):
        raise _invalid("stop_sequences: must be a list of strings")
