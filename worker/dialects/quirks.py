"""What is particular about each chat-completions server, as a table.

A provider is given a row by the name of its kind, its own name or its address; whatever is in no row speaks
the format as most do. Some models have ways of their own on any server: they change single fields.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import attrs

from modelproxy.worker.wire.openai import REASONING_FIELDS

from .schemas import Profile

REFUSED = "refused_parameters"
"""Among the facts: what the server was found to refuse."""

DISPENSABLE = (
    "reasoning_effort", "chat_template_kwargs", "stream_options", "parallel_tool_calls", "session_id", "plugins",
    "top_k", "top_p", "temperature", "stop", "reasoning", "thinking", "max_tokens",
    "reasoning_format", "service_tier", "json_schema", "response_format",
)  # fmt: skip
"""What a request can do without, or say in another way; a refusal that names one of them may be about it."""


HABITS = "learned_habits"
"""Among the facts: fields of `Quirks` that the words of a refusal have told."""
_HABITS: list[tuple[re.Pattern[str], dict[str, Any]]] = [
    (re.compile(pattern, re.IGNORECASE), fields)
    for pattern, fields in (
        # Templates of Mistral's models, whoever serves them; Claude Code has something to say behind most results.
        (r"roles must alternate|role .user. after role .tool", {"user_after_tool": False}),
        (r"tool call ids? .{0,120}length (of )?9\b", {"tool_ids": "mistral"}),
    )
]


def habit(words: str) -> dict[str, Any] | None:
    """What a refusal in these words tells of a server's ways."""
    return next((fields for pattern, fields in _HABITS if pattern.search(words)), None)


_CONTROLS = frozenset(("reasoning_effort", "chat_template_kwargs", "reasoning", "thinking"))


@attrs.frozen
class Quirks:
    """One server's ways. The defaults are those of most."""

    title: str = ""
    """How people call it; empty: the user's own name for it."""
    hosts: tuple[str, ...] = ()
    """Its addresses end so."""
    headers: dict[str, str] = attrs.Factory(dict)

    # What a request looks like.
    max_tokens: str = "max_tokens"
    min_output: int = 1
    """Less is refused; it is asked for anyway and the answer cut."""
    sampling: tuple[str, ...] = ("temperature", "top_p")
    stops: int = 4
    """So many stop sequences; more are kept on our side."""
    system_role: str = "system"
    schema: Profile = Profile.DEFAULT
    json: str = "json_schema"
    """`json_object` or `prompt`: it knows no more, so the schema goes into the system text."""
    usage_on_request: bool = True
    """Counts tokens of a stream only when it is told to."""
    any_tool: str = "required"
    parallel_switch: bool = True
    tool_ids: str = "any"
    """`mistral`: nine letters and digits."""
    user_after_tool: bool = True
    cache_control: bool = False
    cache_ttl: bool = False
    files: bool = False
    session: bool = False
    """Takes a `session_id` and keeps a session at one provider."""
    search: str = ""
    """The type of its own tool that searches the web; offered only where the user wants that."""
    tiers: dict[str, str] = attrs.Factory(dict)
    """What a client's `speed` is as a `service_tier`."""
    body: dict[str, Any] = attrs.Factory(dict)
    """Added to every request."""
    body_with_tools: dict[str, Any] = attrs.Factory(dict)
    """Added when tools or a schema are sent."""
    body_with_prefill: dict[str, Any] = attrs.Factory(dict)
    """Makes it go on with the last turn instead of beginning another."""

    # How reasoning is asked for and given back.
    control: str = "effort"
    """Which way of `openai.CONTROLS`."""
    reasons: bool = False
    """Every model of it reasons; otherwise only those that are known to."""
    efforts: tuple[str, ...] = ("low", "medium", "high")
    replay: str = "none"
    """`details`: OpenRouter's entries; else the field that takes the text."""
    replay_needed: bool = False
    """A turn with calls is refused without it."""
    signed_calls: bool = False
    """Its calls carry `extra_content`, which it wants back."""

    # What an answer looks like.
    reasoning: tuple[str, ...] = REASONING_FIELDS
    think_tags: bool = False
    cost: str | None = None
    """The field of `usage` that says what was charged."""
    counts_by_sum: bool = False
    """Its count of output leaves reasoning out; only the sum of all tells."""

    refused: tuple[str, ...] = ()
    """Parameters that it was found to refuse."""
    models: tuple[tuple[str, dict[str, Any]], ...] = ()
    """Pattern of a model's name, and what is different for it."""

    def with_model(self, model: str, facts: Mapping[str, object]) -> Quirks:
        """The same server's ways with one of its models, of which `facts` is what its list says."""
        found = self
        if self == PLAIN and isinstance(facts.get("owned_by"), str):
            found = SERVERS.get(_row_name(str(facts["owned_by"])), self)
        for pattern, changes in found.models:
            if re.search(pattern, model, re.IGNORECASE):
                found = attrs.evolve(found, **changes)
        habits = facts.get(HABITS)
        if isinstance(habits, dict):
            found = attrs.evolve(found, **habits)
        refused = facts.get(REFUSED)
        if isinstance(refused, tuple):
            found = found._after_refusing(refused)
        supported = facts.get("supported_parameters")
        return found._without(supported) if isinstance(supported, list) and supported else found

    def _after_refusing(self, refused: tuple[str, ...]) -> Quirks:
        return attrs.evolve(
            self,
            max_tokens="max_completion_tokens" if "max_tokens" in refused else self.max_tokens,
            stops=0 if "stop" in refused else self.stops,
            json=_known_json(self.json, refused),
            control="omit" if _CONTROLS.intersection(refused) else self.control,
            refused=tuple(one for one in refused if one != "max_tokens"),
        )

    def _without(self, supported: list[object]) -> Quirks:
        """Where parameters are required, one that the model lacks would leave nobody to answer."""
        if "structured_outputs" in supported:
            json = self.json
        else:
            json = "json_object" if "response_format" in supported else "prompt"
        return attrs.evolve(
            self,
            sampling=tuple(one for one in self.sampling if one in supported),
            stops=self.stops if "stop" in supported else 0,
            parallel_switch=self.parallel_switch and "parallel_tool_calls" in supported,
            json=json,
        )


def _known_json(known: str, refused: tuple[str, ...]) -> str:
    """A server that takes no schema may know JSON; one that takes no format at all is asked in words."""
    if "response_format" in refused:
        return "prompt"
    return "json_object" if known == "json_schema" and "json_schema" in refused else known


_WITH_TOP_K = ("temperature", "top_p", "top_k")
_ALL_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")

_REASONING_MODELS_OF_OPENAI = {
    "max_tokens": "max_completion_tokens",
    "min_output": 16,
    "sampling": (),
    "stops": 0,
    "system_role": "developer",
    "reasons": True,
}
_DEEPSEEK: dict[str, Any] = {
    "control": "switch",
    "reasons": True,
    "replay": "reasoning_content",
    "replay_needed": True,
}

_NO_THINKING: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": False}}
"""Also where nobody knows whether the model could: a template without such a switch does not mind it."""

SERVERS: dict[str, Quirks] = {
    "openai": Quirks(
        title="OpenAI",
        hosts=("api.openai.com",),
        models=(
            (r"^(o\d|gpt-5|gpt-oss)", _REASONING_MODELS_OF_OPENAI),
            (r"^gpt-5\.", {"efforts": _ALL_EFFORTS}),
        ),
    ),
    "openrouter": Quirks(
        title="OpenRouter",
        hosts=("openrouter.ai",),
        # Without a referer the app is not counted, without a title a local one has no name. The referer is what is
        # true of every installation: an address of ours that nobody serves would be somebody else's one day.
        headers={
            "HTTP-Referer": "http://localhost/modelproxy",
            "X-Title": "modelproxy",
            "X-OpenRouter-Title": "modelproxy",
        },
        min_output=16,
        sampling=_WITH_TOP_K,
        usage_on_request=False,
        files=True,
        session=True,
        search="openrouter:web_search",
        tiers={"fast": "priority"},
        # Providers that lack a parameter ignore it in silence unless they are told not to.
        body_with_tools={"provider": {"require_parameters": True}},
        # It would shorten a prompt from the middle without a word; an error lets the client compact.
        body={"plugins": [{"id": "context-compression", "enabled": False}]},
        control="openrouter",
        efforts=_ALL_EFFORTS,
        replay="details",
        cost="cost",
        models=((r"^~?anthropic/", {"cache_control": True, "cache_ttl": True}),),
    ),
    "vllm": Quirks(
        title="vLLM",
        sampling=_WITH_TOP_K,
        control="template",
        replay="reasoning",
        body_with_prefill={"add_generation_prompt": False, "continue_final_message": True, **_NO_THINKING},
    ),
    "llama.cpp": Quirks(
        title="llama.cpp",
        sampling=_WITH_TOP_K,
        control="template",
        replay="reasoning_content",
        body_with_prefill=_NO_THINKING,  # it refuses to go on with an answer of a model that would think
    ),
    "lmstudio": Quirks(title="LM Studio", sampling=_WITH_TOP_K, control="omit"),
    "groq": Quirks(
        title="Groq",
        hosts=("api.groq.com",),
        schema=Profile.STRICT,
        # Left alone these put their reasoning into the text.
        models=((r"qwen-?3|qwq|deepseek-r1", {"body": {"reasoning_format": "parsed"}, "think_tags": True}),),
    ),
    "deepseek": Quirks(title="DeepSeek", hosts=("api.deepseek.com",), json="json_object", **_DEEPSEEK),
    "moonshot": Quirks(
        title="Moonshot",
        hosts=("api.moonshot.ai", "api.moonshot.cn"),
        schema=Profile.INLINED,  # it refuses references, and schemas without a type
        **_DEEPSEEK,
    ),
    "mistral": Quirks(
        title="Mistral",
        hosts=("api.mistral.ai",),
        any_tool="any",
        tool_ids="mistral",
        user_after_tool=False,
        usage_on_request=False,
        control="omit",
    ),
    "gemini": Quirks(
        title="Gemini",
        hosts=("generativelanguage.googleapis.com",),
        schema=Profile.GEMINI,
        parallel_switch=False,
        signed_calls=True,
        counts_by_sum=True,
    ),
    "xai": Quirks(title="xAI", hosts=("api.x.ai",)),
    "together": Quirks(title="Together", hosts=("api.together.xyz", "api.together.ai"), sampling=_WITH_TOP_K),
    "fireworks": Quirks(title="Fireworks", hosts=("api.fireworks.ai",), sampling=_WITH_TOP_K),
    "cerebras": Quirks(title="Cerebras", hosts=("api.cerebras.ai",), schema=Profile.STRICT),
}
PLAIN = Quirks()

_ALSO_CALLED = {
    "llamacpp": "llama.cpp",
    "llama-cpp": "llama.cpp",
    "llama-server": "llama.cpp",
    "lm-studio": "lmstudio",
    "kimi": "moonshot",
    "google": "gemini",
    "x.ai": "xai",
    "grok": "xai",
}


def of(kind: str, provider: str = "", base_url: str | None = None, *, server: str | None = None) -> Quirks:
    """The row for a provider. `server` is the user's own word and beats every guess.

    The kind `openai` says only which format is spoken; any other kind names its server.
    """
    for name in (server, kind if kind != "openai" else None):
        if name is not None and _row_name(name) in SERVERS:
            return SERVERS[_row_name(name)]
    found = SERVERS.get(_row_name(provider))
    # A provider that somebody called `openai` may be anything with another address.
    if found is not None and (not base_url or not found.hosts or _is_at(found, base_url)):
        return found
    return next((row for row in SERVERS.values() if _is_at(row, base_url or "")), PLAIN)


def _row_name(name: str) -> str:
    return _ALSO_CALLED.get(name.lower(), name.lower())


def _is_at(row: Quirks, base_url: str) -> bool:
    host = (urlsplit(base_url).hostname or "") if "//" in base_url else ""
    return any(host == one or host.endswith(f".{one}") for one in row.hosts)
