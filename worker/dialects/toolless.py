"""What becomes of tools that a model cannot be given: `tools_unsupported` of the configuration.

By default the request is refused, because an agent without its tools only talks and looks broken. Whoever wants it
otherwise has the tools left out (`strip`) or described in words (`prompt`, see `spoken`). Then the history's calls
and results are words as well, whether tools are on offer or not: what such a model is shown of them would otherwise
depend on its template, which mostly leaves them out in silence.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import attrs

from modelproxy.worker.wire import codec
from modelproxy.worker.wire.asks import Ask

from . import blocks, spoken
from .blocks import Sight
from .offers import Choice
from .seam import Decoder, Headers, NewId, Terms
from .turns import Block, Prepared, Turn, is_call

TOOLS = "tools"
"""Key in `Terms.facts`: `never`, once the server has refused tools for this model."""

_REFUSED = re.compile(
    r"does(?:n't| not) support (?:tools?|functions?)\b|support tool use|enable-auto-tool-choice"
    r"|tools param requires --jinja|unsupported param\w*:? [`'\"]?tools\b"
    r"|(?<!parallel )tool calling.{0,40}not supported"
    r"|(?<!parallel )\b(?:tools?|functions?)(?: call(?:s|ing)?| use)?[`'\"]? (?:is |are )?not (?:support|enabled)",
    re.IGNORECASE,
)


def way(terms: Terms) -> str | None:
    """`strip` or `prompt`; None: tools are sent as they are, or refused."""
    if terms.can("tools") and terms.facts.get(TOOLS) != "never":
        return None
    chosen = terms.options.tools_unsupported
    return chosen if chosen in ("strip", "prompt") else None


def again(ask: Ask, terms: Terms, words: str) -> Terms | None:
    """The terms after a server's refusal in these words; None: it is not about tools, or is to be told."""
    if terms.options.tools_unsupported not in ("strip", "prompt") or terms.facts.get(TOOLS) == "never":
        return None
    if not (ask.tools and _REFUSED.search(words)):
        return None
    return attrs.evolve(terms, facts={**terms.facts, TOOLS: "never"})


def settled(prepared: Prepared, terms: Terms, sight: Sight) -> Prepared:
    """The request as this model can be sent it; itself where nothing was chosen or nothing is missing."""
    chosen = way(terms)
    if chosen is None:
        return prepared
    system = list(prepared.system_blocks)
    notes = prepared.notes
    if _is_missed(prepared):
        if chosen == "prompt":
            system.append({"type": "text", "text": spoken.described(_callable(prepared), prepared.choice)})
        done = "described in the system text" if chosen == "prompt" else "left out"
        count = len(prepared.tools)
        notes = (*notes, f"tools {done}: {count}, the model has none (tools_unsupported = {chosen})")
    return attrs.evolve(
        prepared,
        system="\n\n".join(block["text"] for block in system),
        system_blocks=system,
        turns=[_in_words(turn, _WORDS[chosen], sight) for turn in prepared.turns],
        tools=[],
        choice=Choice(),
        notes=notes,
    )


def remarks(prepared: Prepared, terms: Terms) -> Headers:
    """What the answer's head says of it. `prepared`: before it was settled."""
    chosen = way(terms)
    return [(b"x-proxy-tools", chosen.encode())] if chosen is not None and _is_missed(prepared) else []


def shown(ask: Ask, terms: Terms) -> Ask:
    """The request without the tools that are left out, for an estimate of what is sent."""
    if way(terms) != "strip":
        return ask
    return attrs.evolve(ask, body=ask.body | {"tools": [], "tool_choice": None})


def reader(inner: Decoder, ask: Ask, terms: Terms, new_id: NewId) -> Decoder:
    """The answer's decoder, which reads calls out of its text where the model was told to write them there."""
    if way(terms) != "prompt" or not ask.tools or ask.tool_choice["type"] == "none":
        return inner
    one_only = ask.tool_choice.get("disable_parallel_tool_use") is True
    return spoken.Reader(inner, ask.tools, one_only=one_only, new_id=new_id)


def _is_missed(prepared: Prepared) -> bool:
    return bool(prepared.tools) and prepared.choice.type != "none"


def _callable(prepared: Prepared) -> list[Any]:
    return [tool for tool in prepared.tools if prepared.choice.name in (None, tool.name)]


# --- the history in words -------------------------------------------------------------------------


@attrs.frozen
class _Words:
    called: Callable[[str, Any], str]
    returned: Callable[[str, str], str]


def _bare_call(name: str, given: Any) -> str:
    """Not in the form of a call: this model is not to write any."""
    return f"[called {name} {codec.dumps(given).decode('utf-8')}]"


def _bare_result(name: str, text: str) -> str:
    return f"[result of {name}]\n{text}"


_WORDS = {"prompt": _Words(spoken.called, spoken.returned), "strip": _Words(_bare_call, _bare_result)}


def _in_words(turn: Turn, words: _Words, sight: Sight) -> Turn:
    """Keeps `names`, by which the turns of a tool loop are told from what a person says."""
    counts: Counter[str] = Counter()
    found: list[Block] = []
    for block in turn.blocks:
        if is_call(block):
            found.append(_text(words.called(block["name"], block["input"]), block))
        elif block["type"] == "tool_result":
            name = turn.names.get(block.get("tool_use_id", ""), "tool")
            found += _result(block, name, words, sight, counts)
        else:
            found.append(block)
    return attrs.evolve(turn, blocks=found)


def _result(block: Block, name: str, words: _Words, sight: Sight, counts: Counter[str]) -> Iterator[Block]:
    """The words of a result, then what of it is not words, under a label."""
    lines: list[str] = []
    media: list[Block] = []
    for inner in blocks.inner(block.get("content")):
        found = blocks.part_of(inner, sight)
        if isinstance(found, str):
            lines.append(found)
            continue
        kind = "document" if isinstance(found, blocks.Document) else "image"
        counts[kind] += 1
        lines.append(f"[{kind} {counts[kind]} attached below]")
        media += [_text(f"[{kind} {counts[kind]} from tool {name}]"), inner]
    text = blocks.result_text(block, "\n".join(line for line in lines if line))
    yield _text(words.returned(name, text), block)
    yield from media


def _text(text: str, marked: Block | None = None) -> Block:
    """A text, with the place in the prompt's cache that another block had."""
    mark = (
        {} if marked is None or "cache_control" not in marked else {"cache_control": marked["cache_control"]}
    )
    return {"type": "text", "text": text, **mark}
