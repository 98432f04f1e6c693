"""A client's history, made into what any chat server takes: the pass before every translation.

Theory of operation
-------------------
Clients send what Anthropic forgives: system messages in the middle, turns of the same role in a row, empty
texts, calls without results and results without calls. Other servers refuse each of these, and an agent
whose history is refused once is refused for the rest of its session. So the history is put right here,
once for all dialects: what comes out begins with the user, alternates, and every call is followed by its
result.

The same history always comes out the same, whatever is asked beside it, and a longer one begins with what
the shorter one gave: providers keep the work they did for a prompt by its exact beginning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import attrs

from modelproxy.worker import tokens
from modelproxy.worker.wire.asks import FEATURES, Ask, no_feature, no_safeguards

from . import thinking
from .arguments import of_history
from .blocks import Sight, as_shown, media_of, text_of
from .offers import Choice, Offer, Tool, offer
from .seam import Terms

Block = dict[str, Any]

BILLING = "x-anthropic-billing-header:"
"""Begins a block that differs between requests of one session and says nothing to a model."""

SHORTEST_ANSWER = 256
"""With less room the answer would be cut at once, and a client would ask again and again for the rest."""

NO_CONTENT = "(no content)"
CONTINUED = "(conversation continues)"
INTERRUPTED = "[no result: interrupted]"
ORPHANED = "[result of an earlier tool call]"


@attrs.frozen
class Turn:
    """One turn: `user` or `assistant`, never empty, never of the role of the turn before."""

    role: str
    blocks: list[Block] = attrs.field(repr=False)
    """Of a user: results first, in the order of the calls. Of an assistant: as it said them."""
    names: dict[str, str] = attrs.Factory(dict)
    """Of a user with results: the tool that each call's id belongs to."""


@attrs.frozen
class Prepared:
    """A request, ready to be put into another server's words."""

    system: str = attrs.field(repr=False)
    system_blocks: list[Block] = attrs.field(repr=False)
    """The same in blocks, for servers that take `cache_control`."""
    turns: list[Turn]
    tools: list[Tool]
    choice: Choice
    parallel: bool
    """False: at most one call may reach the client."""
    stop: list[str]
    effort: str | None
    format: dict[str, Any] | None
    """The schema that the answer has to follow."""
    prefill: bool
    """The last turn is the beginning of the answer; it must not be repeated."""
    notes: tuple[str, ...] = ()
    """What was left out, for the log."""
    search: Block | None = None
    """The web search that the provider is to run, as the client described it."""

    def input_tokens(self, sight: Sight, replays_from: int = 0) -> int:
        """An estimate of what is really sent: the client's own request also holds what a model is only told of.

        `replays_from`: the first turn whose reasoning goes with it.
        """
        return tokens.of_prompt(
            {
                "system": self.system,
                "messages": [
                    {
                        "content": [
                            as_shown(block, sight)
                            for block in turn.blocks
                            if number >= replays_from or not thinking.is_thinking(block)
                        ]
                    }
                    for number, turn in enumerate(self.turns)
                ],
                "tools": [
                    {"name": tool.name, "description": tool.description, "input_schema": tool.schema}
                    for tool in self.tools
                ],
            }
        )


def prepare(ask: Ask, terms: Terms, *, searches_web: bool = False, replays: bool = True) -> Prepared:
    """Put a request in order. Raises `Refused` for what cannot be served honestly.

    `searches_web`: the provider has a search of its own, and may use it. `replays`: it takes its own reasoning back.
    """
    _refuse_features(ask.body, terms)
    offered = offer(ask, terms.provider, searches_web=searches_web)
    history = _History(terms, replays=replays)
    turns = history.turns(ask.messages)
    system = _system_blocks(ask.body.get("system"))
    return Prepared(
        system="\n\n".join(block["text"] for block in system),
        system_blocks=system,
        turns=turns,
        tools=offered.tools,
        choice=offered.choice,
        parallel=offered.parallel,
        stop=ask.stop_sequences,
        effort=_effort(ask.body),
        format=format_of(ask.body),
        prefill=turns[-1].role == "assistant",
        notes=_notes(ask, offered, history),
        search=offered.search,
    )


# --- the request's other fields -------------------------------------------------------------------


def _refuse_features(body: dict[str, Any], terms: Terms) -> None:
    """Where leaving something out would be a lie about safety or about what the model can do."""
    if body.get("safeguards") is not None:
        raise no_safeguards(terms.provider)
    for field in FEATURES:
        if body.get(field):
            raise no_feature(field, terms.provider)


def _output_config(body: dict[str, Any]) -> dict[str, Any]:
    found = body.get("output_config")
    return found if isinstance(found, dict) else {}


def _effort(body: dict[str, Any]) -> str | None:
    effort = _output_config(body).get("effort")
    return effort if isinstance(effort, str) else None


def format_of(body: dict[str, Any]) -> dict[str, Any] | None:
    """The schema that the answer has to follow."""
    wanted = _output_config(body).get("format") or body.get("output_format")
    schema = wanted.get("schema") if isinstance(wanted, dict) else None
    return schema if isinstance(schema, dict) else None


_KNOWN = {
    "model", "max_tokens", "system", "messages", "tools", "tool_choice", "stop_sequences", "temperature",
    "top_p", "top_k", "stream", "thinking", "output_config", "output_format", "metadata", "service_tier",
    "speed", "cache_control", "context_management", "container", "mcp_servers", "compaction", "fallbacks",
    "fallback_credit_token", "billing_policy", "diagnostics", "inference_geo", "user_profile_id", "tags",
    "safeguards", "thread", "betas",
}  # fmt: skip


def _notes(ask: Ask, offered: Offer, history: _History) -> tuple[str, ...]:
    unknown = [field[:40] for field in ask.body if field not in _KNOWN]
    fields = (f"dropped unknown fields: {', '.join(unknown)}",) if unknown else ()
    counted = tuple(f"{what}: {count}" for what, count in history.counts.items())
    return (*fields, *offered.notes, *counted)


# --- system ---------------------------------------------------------------------------------------


_OF_TOOLS = ("tool_addition", "tool_removal")
"""Blocks that `offers` obeys; nobody reads them."""


def _blocks_of(content: Any) -> list[Block]:
    if isinstance(content, str):
        return [_text(content)]
    return content if isinstance(content, list) else []


def _system_blocks(system: Any) -> list[Block]:
    """The top level's text blocks without the billing stamp, which would spoil every prompt cache."""
    found = []
    for block in _blocks_of(system):
        text = without_billing(text_of(block))
        if text.strip():
            found.append(block if text == block.get("text") else _text(text))
    return found


def without_billing(text: str) -> str:
    """A system text without the stamp at its beginning."""
    return text.partition("\n")[2].lstrip("\n") if text.startswith(BILLING) else text


def reminder(content: Any) -> Block | None:
    """A system message of the middle, as Claude Code itself sends it to servers without that role."""
    blocks = [block for block in _blocks_of(content) if block["type"] not in _OF_TOOLS]
    text = "\n\n".join(filter(str.strip, map(text_of, blocks)))
    if not text:
        return None
    # Claude Code's own mark for the prompt's cache often stands here.
    marks = [block["cache_control"] for block in blocks if "cache_control" in block]
    mark = {"cache_control": marks[-1]} if marks else {}
    return _text(f"<system-reminder>\n{text}\n</system-reminder>") | mark


# --- history --------------------------------------------------------------------------------------


class _History:
    """One history on its way into order."""

    def __init__(self, terms: Terms, *, replays: bool) -> None:
        self._terms = terms
        self._replays = replays and terms.can("thinking")
        self.counts: Counter[str] = Counter()
        """What was changed, for the log."""

    def turns(self, messages: list[Block]) -> list[Turn]:
        turns = _merged(self._raw(messages))
        turns = self._paired(turns)
        return _ended(_begun(turns), messages[-1]["role"])

    def _raw(self, messages: list[Block]) -> Iterator[Turn]:
        for message in messages:
            if message["role"] == "system":
                found = reminder(message["content"])
                yield Turn("user", [found] if found else [])
            else:
                role, blocks = message["role"], _blocks_of(message["content"])
                yield Turn(role, [block for block in blocks if self._stays(block, role)])

    def _stays(self, block: Block, role: str) -> bool:
        if block["type"] in _OF_TOOLS:
            return False
        if not thinking.is_thinking(block):
            return _says_something(block)
        own = thinking.replay(block, self._terms.provider, self._terms.model) is not None
        if own and role == "assistant" and self._replays:
            return True
        self.counts["thinking blocks left out"] += 1
        return False

    def _paired(self, turns: list[Turn]) -> list[Turn]:
        """Every call followed by its result, every result preceded by its call."""
        found: list[Turn] = []
        calls: list[Block] = []
        for turn in turns:
            if turn.role == "assistant":
                turn = Turn("assistant", [self._spoken(block) for block in turn.blocks])
                calls = _with_unique_ids(turn.blocks)
                found.append(attrs.evolve(turn, blocks=_renamed(turn.blocks, calls)))
            else:
                found.append(self._answered(calls, turn.blocks))
                calls = []
        if calls:
            found.append(self._answered(calls, []))
        return found

    def _spoken(self, block: Block) -> Block:
        """An assistant's block with what servers insist on: a call has a name and an object."""
        if block["type"] != "tool_use" or not isinstance(block.get("name"), str) or not block["name"]:
            return block
        given = block.get("input")
        if isinstance(given, dict) and isinstance(block.get("id"), str):
            return block
        self.counts["calls repaired"] += 1
        known = block["id"] if isinstance(block.get("id"), str) else "toolu_unknown"
        return {**block, "id": known, "input": of_history(given)}

    def _answered(self, calls: list[Block], blocks: list[Block]) -> Turn:
        """The user's turn behind these calls."""
        waiting = [block for block in blocks if block["type"] == "tool_result"]
        results = [self._result(call, waiting) for call in calls]
        others: list[Block] = []
        for block in blocks:
            if block["type"] != "tool_result":
                others.append(block)
            elif any(block is orphan for orphan in waiting):
                self.counts["results without a call"] += 1
                others += _demoted(block)
        return Turn("user", [*results, *others], {call["id"]: call["name"] for call in calls})

    def _result(self, call: Block, waiting: list[Block]) -> Block:
        """Takes the call's result out of those that wait."""
        said_as = call.get(_SAID_AS, call["id"])
        for number, block in enumerate(waiting):
            if block.get("tool_use_id") == said_as:
                del waiting[number]
                return block if said_as == call["id"] else {**block, "tool_use_id": call["id"]}
        self.counts["calls without a result"] += 1
        return {"type": "tool_result", "tool_use_id": call["id"], "content": INTERRUPTED}


def _says_something(block: Block) -> bool:
    """A turn must not consist of blocks of which nothing is left in another server's words."""
    if block["type"] in ("tool_use", "tool_result"):
        return True
    return media_of(block) is not None or bool(text_of(block).strip())


_SAID_AS = "_said_as"
"""On our own copy of a call whose id had to change: the id that its result still has."""


def is_call(block: Block) -> bool:
    """True for a call that can be replayed as one."""
    return block["type"] == "tool_use" and isinstance(block.get("name"), str) and bool(block["name"])


def _with_unique_ids(blocks: list[Block]) -> list[Block]:
    """The turn's calls; of two with the same id the later gets another."""
    calls: list[Block] = []
    seen: Counter[str] = Counter()
    for block in blocks:
        if is_call(block):
            seen[block["id"]] += 1
            times = seen[block["id"]]
            again = {**block, "id": f"{block['id']}-{times}", _SAID_AS: block["id"]}
            calls.append(block if times == 1 else again)
    return calls


def _renamed(blocks: list[Block], calls: list[Block]) -> list[Block]:
    """The blocks with the calls in their places, without our own mark."""
    waiting = iter(calls)
    return [
        {key: value for key, value in next(waiting).items() if key != _SAID_AS} if is_call(block) else block
        for block in blocks
    ]


def _text(text: str) -> Block:
    return {"type": "text", "text": text}


def _demoted(block: Block) -> list[Block]:
    """A result that answers no call, as something that the user says."""
    failed = " (it failed)" if block.get("is_error") is True else ""
    inner = [
        _text(text_of(one)) if one["type"] == "tool_result" else one
        for one in _blocks_of(block.get("content"))
    ]
    return [_text(ORPHANED + failed), *filter(_says_something, inner)]


def _merged(turns: Iterator[Turn]) -> list[Turn]:
    """Neighbours of one role as one, and none empty."""
    found: list[Turn] = []
    for turn in turns:
        if not turn.blocks:
            continue
        if found and found[-1].role == turn.role:
            found[-1] = Turn(turn.role, [*found[-1].blocks, *turn.blocks])
        else:
            found.append(turn)
    return found


def _said(text: str) -> Turn:
    return Turn("user", [_text(text)])


def _begun(turns: list[Turn]) -> list[Turn]:
    """Many templates want the user to begin."""
    return [_said(CONTINUED), *turns] if turns and turns[0].role == "assistant" else turns


def _ended(turns: list[Turn], last_role: str) -> list[Turn]:
    """A user who said nothing at the end still wants an answer; otherwise the model would go on for itself."""
    if not turns or (turns[-1].role == "assistant" and last_role != "assistant"):
        return [*turns, _said(NO_CONTENT)]
    if turns[-1].role == "assistant":
        return [*turns[:-1], _right_stripped(turns[-1])]
    return turns


def _right_stripped(turn: Turn) -> Turn:
    """The beginning of an answer; blanks at its end make models stumble, and Anthropic refuse."""
    last = turn.blocks[-1]
    if last["type"] != "text":
        return turn
    return Turn("assistant", [*turn.blocks[:-1], {**last, "text": last["text"].rstrip()}])
