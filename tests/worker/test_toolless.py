"""Tools for a model that can call none (wire-formats 15.5)."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import attrs
import pytest
from fakes import golden, grammar
from hypothesis import given
from hypothesis import strategies as st

from modelproxy.worker.dialects import ollama, openai, toolless
from modelproxy.worker.dialects.seam import Call, Dialect, Terms
from modelproxy.worker.failures import Refused
from modelproxy.worker.wire import asks
from modelproxy.worker.wire.asks import Ask

PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0K"}}
BASH = {"name": "Bash", "input_schema": {"type": "object"}}
HISTORY: list[Any] = [
    {"role": "user", "content": "look"},
    {"role": "assistant", "content": [
        {"type": "text", "text": "I do."},
        {"type": "tool_use", "id": "a", "name": "Bash", "input": {"command": "ls"}},
        {"type": "tool_use", "id": "b", "name": "Read", "input": {}},
    ]},
    {"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": "a", "content": "no", "is_error": True},
        {"type": "tool_result", "tool_use_id": "b", "content": [{"type": "text", "text": "see"}, PNG]},
        {"type": "text", "text": "And now?"},
    ]},
]  # fmt: skip
DIALECTS: dict[str, Dialect] = {"ollama": ollama.Ollama(), "openai": openai.OpenAI()}
AGAIN = {"ollama": ollama.again, "openai": openai.again}
both = pytest.mark.parametrize("kind", DIALECTS)


def ask(**fields: Any) -> Ask:
    body = {"model": "m", "max_tokens": 100, "messages": HISTORY, "tools": [BASH], "stream": True}
    return asks.ask(json.dumps(body | fields).encode())


def terms(way: str | None, *capabilities: str) -> Terms:
    return golden.terms("p", {"capabilities": capabilities, "options": {"tools_unsupported": way}})


def sent(call: Call) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(call.body)
    return found


def said(call: Call) -> list[tuple[str, str]]:
    """The messages as role and words."""
    found = []
    for message in sent(call)["messages"]:
        content = message["content"]
        if isinstance(content, list):
            content = "\n\n".join(part.get("text", "(image)") for part in content)
        found.append((message["role"], content))
    return found


@both
@pytest.mark.parametrize("way", [None, "error"])
def test_by_default_they_are_refused(kind: str, way: str | None) -> None:
    with pytest.raises(Refused, match="does not support tools; choose a tool-capable model"):
        DIALECTS[kind].call(ask(), terms(way))
    assert AGAIN[kind](ask(), terms(way), 400, b'{"error":"m does not support tools"}') is None


@both
@pytest.mark.parametrize("way", ["strip", "prompt", None])
def test_a_model_with_tools_is_sent_them(kind: str, way: str | None) -> None:
    plain = DIALECTS[kind].call(ask(), terms(None, "tools"))

    assert DIALECTS[kind].call(ask(), terms(way, "tools")) == plain
    assert "tools" in sent(plain)


@both
def test_left_out_they_are_missed_in_log_and_header_and_the_history_is_words(kind: str) -> None:
    call = DIALECTS[kind].call(ask(system="Be brief."), terms("strip"))

    assert not {"tools", "tool_choice"} & sent(call).keys()
    assert call.remarks == [(b"x-proxy-tools", b"strip")]
    assert call.notes == ("tools left out: 1, the model has none (tools_unsupported = strip)",)
    assert said(call) == [
        ("system", "Be brief."),
        ("user", "look"),
        ("assistant", 'I do.\n\n[called Bash {"command":"ls"}]\n\n[called Read {}]'),
        (
            "user",
            "[result of Bash]\nError: no\n\n[result of Read]\nsee\n[image omitted: model has no vision]\n\nAnd now?",
        ),
    ]


@both
def test_described_they_are_in_the_system_text_and_the_history_is_in_their_form(kind: str) -> None:
    call = DIALECTS[kind].call(ask(system="Be brief."), terms("prompt", "vision"))
    [(_, system), *turns] = said(call)

    assert not {"tools", "tool_choice"} & sent(call).keys()
    assert call.remarks == [(b"x-proxy-tools", b"prompt")]
    assert call.notes[0].startswith("tools described in the system text: 1, the model has none")
    assert system.startswith("Be brief.\n\n# Tools\n\nYou can call")
    assert '{"name":"Bash","description":"","parameters":{"type":"object"' in system
    assert turns[:2] == [
        ("user", "look"),
        (
            "assistant",
            'I do.\n\n<tool_call>\n{"name":"Bash","arguments":{"command":"ls"}}\n</tool_call>\n\n'
            '<tool_call>\n{"name":"Read","arguments":{}}\n</tool_call>',
        ),
    ]
    assert turns[2][1].startswith(
        '<tool_result name="Bash">\nError: no\n</tool_result>\n\n'
        '<tool_result name="Read">\nsee\n[image 1 attached below]\n</tool_result>\n\n[image 1 from tool Read]\n\n'
    )
    assert turns[2][1].endswith("And now?")
    assert "iVBORw0K" in call.body.decode()


@both
@pytest.mark.parametrize("way", ["strip", "prompt"])
def test_p09_the_same_history_gives_the_same_words_and_a_longer_one_begins_with_them(
    kind: str, way: str
) -> None:
    known = terms(way)
    whole = said(DIALECTS[kind].call(ask(), known))
    shorter = said(DIALECTS[kind].call(ask(messages=HISTORY[:1]), known))

    assert whole == said(DIALECTS[kind].call(ask(temperature=1.0), known))
    assert whole[: len(shorter)] == shorter


@both
def test_without_tools_on_offer_nothing_is_missed_but_the_history_is_words_all_the_same(kind: str) -> None:
    cases: list[dict[str, Any]] = [{"tools": []}, {"tool_choice": {"type": "none"}}]
    for fields in cases:
        call = DIALECTS[kind].call(ask(**fields), terms("prompt"))

        assert (call.remarks, call.notes) == ([], ())
        assert [role for role, _ in said(call)] == ["user", "assistant", "user"]
        assert "<tool_call>" in said(call)[1][1]


@both
def test_a_choice_is_said_in_words(kind: str) -> None:
    tools = [BASH, {"name": "Read", "input_schema": {}}]
    call = DIALECTS[kind].call(
        ask(tools=tools, tool_choice={"type": "tool", "name": "Bash"}), terms("prompt")
    )

    assert said(call)[0][1].endswith("</tools>\n\nYour next reply must call the tool Bash.")
    assert '{"name":"Read"' not in said(call)[0][1]


def test_the_place_in_the_prompts_cache_is_kept() -> None:
    mark = {"type": "ephemeral"}
    first = {"type": "tool_result", "tool_use_id": "a", "content": "x"}
    last = {"type": "tool_result", "tool_use_id": "b", "content": "x", "cache_control": mark}
    known = attrs.evolve(terms("prompt"), provider="openrouter", model="anthropic/claude-3-haiku")
    messages = [HISTORY[0], HISTORY[1], {"role": "user", "content": [first, last]}]
    call = openai.OpenAI.of("openrouter", "openrouter", None).call(ask(messages=messages), known)

    assert sent(call)["messages"][-1]["content"][-1]["cache_control"] == mark


def test_a_request_without_what_is_left_out_of_it() -> None:
    """For an estimate: a catalogue of tools is most of an agent's first request."""
    asked = ask()

    assert toolless.shown(asked, terms("strip")).tools == []
    for known in (terms("prompt"), terms("strip", "tools"), terms(None)):
        assert toolless.shown(asked, known) is asked


# --- a server that says so ------------------------------------------------------------------------


@both
@pytest.mark.parametrize("way", ["strip", "prompt"])
@pytest.mark.parametrize(
    "words",
    [
        "registry.ollama.ai/library/m does not support tools",
        '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
        "tools param requires --jinja flag",
        "No endpoints found that support tool use. To learn more about provider routing, visit",
        "`tool calling` is not supported with this model",
        "Function calling is not enabled for models/gemma-3-12b-it",
        "tools is not supported in this model. For a list of supported models, refer to",
        "<400> InternalError.Algo.InvalidParameter: The tool call is not supported.",
        "model features function calling not support",
        "Functions are not supported for this API version or this model version.",
        "Unsupported param: tools",
    ],
)
def test_what_a_server_refuses_is_given_up_and_remembered(kind: str, way: str, words: str) -> None:
    known = golden.terms("p", {"options": {"tools_unsupported": way}})
    assert "tools" in sent(DIALECTS[kind].call(ask(), known))
    without = AGAIN[kind](ask(), known, 400, json.dumps({"error": {"message": words}}).encode())

    assert without is not None
    assert without.facts == {toolless.TOOLS: "never"}
    assert DIALECTS[kind].call(ask(), without).remarks == [(b"x-proxy-tools", way.encode())]
    assert AGAIN[kind](ask(), without, 400, json.dumps({"error": {"message": words}}).encode()) is None
    assert AGAIN[kind](ask(), known, 400, b'{"error":{"message":"something else"}}') is None
    assert AGAIN[kind](ask(tools=[]), known, 400, json.dumps({"error": {"message": words}}).encode()) is None


@both
@pytest.mark.parametrize(
    "words",
    [
        "parallel tool calls are not supported",
        "Parallel tool calling is not supported",
        "this model does not support tool_choice",
        "tool_choice 'required' is not supported",
        "Invalid schema for function 'Bash': 'format' is not supported",
        "tools.0.function.strict is not supported",
    ],
)
def test_who_refuses_something_about_tools_does_not_refuse_tools(kind: str, words: str) -> None:
    known = golden.terms("p", {"options": {"tools_unsupported": "strip"}})
    said = AGAIN[kind](ask(), known, 400, json.dumps({"error": {"message": words}}).encode())

    assert said is None or toolless.TOOLS not in said.facts


# --- the answer -----------------------------------------------------------------------------------

SPOKEN = 'Now.\n\n<tool_call>\n{"name": "Bash", "arguments": {"command": "ls -l"}}\n</tool_call>'


def answer(kind: str, text: str, size: int) -> bytes:
    """An answer whose text comes in pieces of this size."""
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    if kind == "ollama":
        lines: list[Any] = [{"message": {"content": piece}} for piece in pieces]
        return b"".join(
            json.dumps(one).encode() + b"\n" for one in [*lines, {"done": True, "done_reason": "stop"}]
        )
    events: list[Any] = [{"choices": [{"delta": {"content": piece}}]} for piece in pieces]
    events.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    return b"".join(b"data: %b\n\n" % json.dumps(one).encode() for one in events) + b"data: [DONE]\n\n"


def message(
    kind: str, known: Terms, body: bytes, asked: Ask, cuts: list[int] | None = None
) -> dict[str, Any]:
    data, failure = golden.stream(asked, golden.items(DIALECTS[kind], asked, known, body, cuts))
    streamed = grammar.check(data)
    assert streamed.complete is (failure is None)
    return streamed.message if streamed.complete and streamed.message else {"failure": failure}


@both
@given(st.integers(1, 20), st.lists(st.integers(0, 4000), max_size=5))
def test_any_cut_of_the_bytes_gives_the_same_call(kind: str, size: int, cuts: list[int]) -> None:
    body = answer(kind, SPOKEN, size)
    found = message(kind, terms("prompt"), body, ask(), [min(cut, len(body)) for cut in cuts])

    assert found["content"] == [
        {"type": "text", "text": "Now."},
        {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "ls -l"}},
    ]
    assert found["stop_reason"] == "tool_use"


@both
def test_every_beginning_of_an_answer_is_an_error(kind: str) -> None:
    """Never a false end, and no call."""
    body = answer(kind, SPOKEN, 7)
    for size in range(body.rindex(b'"stop"')):
        assert "failure" in message(kind, terms("prompt"), body[:size], ask())


@both
def test_only_who_was_told_to_write_calls_is_read_for_them(kind: str) -> None:
    body = answer(kind, SPOKEN, 9)
    tagged = [{"type": "text", "text": SPOKEN}]
    cases = itertools.product([terms("strip"), terms("prompt", "tools"), terms(None, "tools")], [ask()])
    for known, asked in [
        *cases,
        (terms("prompt"), ask(tools=[])),
        (terms("prompt"), ask(tool_choice={"type": "none"})),
    ]:
        assert message(kind, known, body, asked)["content"] == tagged


# --- together with everything else ----------------------------------------------------------------

SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
ANSWERS = {
    kind: [
        case
        for path in golden.paths(kind)
        if "upstream" in (case := json.loads(path.read_text(encoding="utf-8"))) and "status" not in case
    ]
    for kind in ("ollama", "openai", "openrouter")
}


TOGETHER = (
    {"tools_unsupported": "prompt", "tool_stream": "live"},
    {"tools_unsupported": "strip", "web_search": True},
    {"tools_unsupported": "prompt", "web_search": True},
    {"tool_stream": "live", "web_search": True},
)


@pytest.mark.parametrize("chosen", TOGETHER, ids=" ".join)
@pytest.mark.parametrize("kind", ["ollama", "openai", "openrouter"])
def test_whatever_is_chosen_together_an_answer_cut_anywhere_is_grammatical(
    kind: str, chosen: dict[str, Any]
) -> None:
    """Every golden answer: the same stream for any pieces, and a cut is never an end."""
    dialect = DIALECTS[kind] if kind == "ollama" else openai.OpenAI.of(kind, kind, None)
    dice = random.Random(0)
    for case in ANSWERS[kind]:
        known = case.get("terms", {})
        capabilities = ["vision", "thinking", *(() if "tools_unsupported" in chosen else ("tools",))]
        options = {**known.get("options", {}), **chosen}
        met = golden.terms(kind, {**known, "capabilities": capabilities, "options": options})
        tools = [*(case["ask"].get("tools") or [BASH]), *([SEARCH] if "web_search" in chosen else [])]
        asked = asks.ask(json.dumps(case["ask"] | {"stream": True, "tools": tools}).encode())
        whole = "".join(case["upstream"]).encode("utf-8", "surrogateescape")
        for end in (len(whole), dice.randint(0, len(whole))):
            body = whole[:end]
            once = golden.stream(asked, golden.items(dialect, asked, met, body))
            by_bytes = golden.stream(asked, golden.items(dialect, asked, met, body, [*range(end)]))

            assert grammar.check(once[0]).complete is (once[1] is None)
            assert by_bytes == once
