"""Calls that a model without tools writes into its text (wire-formats 15.5)."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from fakes import golden, grammar
from hypothesis import given
from hypothesis import strategies as st

from modelproxy.worker.dialects.offers import Choice, Tool
from modelproxy.worker.dialects.spoken import Block, Blocks, Invented, Reader, called, described, returned
from modelproxy.worker.failures import Failure, Kind
from modelproxy.worker.wire import asks
from modelproxy.worker.wire.items import Finish, Item, Text, Thinking, ToolCall, Usage

BASH = {"name": "Bash", "input_schema": {"type": "object", "properties": {"n": {"type": "integer"}}}}
LS = '<tool_call>\n{"name": "Bash", "arguments": {"command": "ls"}}\n</tool_call>'
LS_CALL = ToolCall("toolu_1", "Bash", b'{"command":"ls"}')
ASK = asks.ask(b'{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"x"}]}')


class Spoken:
    """A decoder of one batch per `feed`: its items are given, and its bytes mean nothing."""

    def __init__(self, *batches: list[Item]) -> None:
        self._batches = list(batches)
        self.is_ending = self.is_over = False

    def feed(self, data: bytes) -> list[Item]:
        return self.rest()

    def rest(self) -> list[Item]:
        return self._batches.pop(0) if self._batches else []

    def end(self) -> list[Item]:
        return self.rest()


def read(*items: Item, one_only: bool = False) -> list[Item]:
    """What a reader makes of them, each in a batch of its own."""
    reader = Reader(Spoken(*([item] for item in items)), [BASH], one_only=one_only, new_id=golden.ids())
    found = reader.feed(b"")
    while more := reader.rest():
        found += more
    return joined(found)


def joined(items: list[Item]) -> list[Item]:
    """Texts that follow each other as one."""
    found: list[Item] = []
    for item in items:
        if found and isinstance(item, Text) and isinstance(last := found[-1], Text):
            found[-1] = Text(last.text + item.text)
        else:
            found.append(item)
    return found


def blocks(*pieces: str) -> list[str | Block | Invented]:
    reader = Blocks()
    found = [one for piece in pieces for one in reader.feed(piece)]
    return [*found, *reader.end()]


# --- the words ------------------------------------------------------------------------------------


def test_the_words_are_fixed() -> None:
    """They stand at the beginning of every prompt: a change of them costs every cache."""
    tool = Tool("Bash", "Run it.", {"type": "object", "properties": {"command": {"type": "string"}}})
    text = described([tool], Choice())
    head, _, listed = text.partition("<tools>\n")

    assert head == (
        "# Tools\n\nYou can call the tools that are listed below. To call one, write a block of exactly this "
        'form:\n\n<tool_call>\n{"name": "NAME OF THE TOOL", "arguments": {"NAME": "VALUE"}}\n</tool_call>\n\n'
        '"arguments" is one JSON object that follows the parameters of the tool. Several blocks are several '
        "calls. Behind the last block your reply ends: the results come with the next message, each as "
        '<tool_result name="NAME OF THE TOOL">…</tool_result>. Never write a result yourself, and call nothing '
        "that is not listed.\n\n"
    )
    assert listed == (
        '{"name":"Bash","description":"Run it.","parameters":{"type":"object","properties":'
        '{"command":{"type":"string"}}}}\n</tools>'
    )
    assert described([tool], Choice("any")) == text + "\n\nYour next reply must call one of the tools."
    assert described([tool], Choice("tool", "Bash")) == text + "\n\nYour next reply must call the tool Bash."


def test_what_we_write_of_a_call_reads_as_that_call() -> None:
    given = {"command": f"echo '{LS}' \" \\ é"}

    assert read(Text(called("Bash", given)), Finish()) == [
        ToolCall("toolu_1", "Bash", json.dumps(given, ensure_ascii=False, separators=(",", ":")).encode()),
        Finish(),
    ]
    assert returned("Bash", "a") == '<tool_result name="Bash">\na\n</tool_result>'


# --- calls ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (LS, [LS_CALL]),
        (f"Let me look.\n\n{LS}\n", [Text("Let me look."), LS_CALL]),
        # Text behind a call comes before it: calls are last.
        (f"One.\n{LS}\nTwo.", [Text("One.\nTwo."), LS_CALL]),
        (
            f'{LS}{LS.replace("ls", "pwd")}',
            [LS_CALL, ToolCall("toolu_2", "Bash", b'{"command":"pwd"}')],
        ),
        # A fence, no end tag, a bracket too many, another name for the arguments, arguments as a text.
        (LS.replace("\n{", "```json\n{").replace("}\n<", "}\n```\n<"), [LS_CALL]),
        (LS.partition("\n</")[0], [LS_CALL]),
        (LS.replace("}\n<", "}}\n<"), [LS_CALL]),
        (LS.replace("arguments", "parameters"), [LS_CALL]),
        ('<tool_call>{"function":{"name":"Bash","arguments":"{\\"command\\":\\"ls\\"}"}}</tool_call>', [LS_CALL]),
        # As section 14 repairs them.
        ("<tool_call>{'name': 'bash', 'arguments': {'command': 'ls',}}</tool_call>", [LS_CALL]),
        ('<tool_call>{"name":"Bash","arguments":{"command":"ls"}', [LS_CALL]),
        ('<tool_call>{"name":"Bash","arguments":{"n":"5"}}', [ToolCall("toolu_1", "Bash", b'{"n":5}')]),
        ('<tool_call>{"name":"Bash"}</tool_call>', [ToolCall("toolu_1", "Bash", b"{}")]),
        ('<tool_call>{"id":"1","type":"function","name":"Bash"}', [ToolCall("toolu_1", "Bash", b"{}")]),
        # Arguments that stand beside the name are not lost in silence.
        (
            '<tool_call>{"name":"Bash","command":"ls"}</tool_call>',
            [ToolCall("toolu_1", "Bash", b'{"_raw_arguments":"{\\"name\\":\\"Bash\\",\\"command\\":\\"ls\\"}"}')],
        ),
        # What cannot be read in one way only is nothing that a client would run.
        (
            '<tool_call>{"name":"Bash","arguments":{"command":"rm -rf ./bui',
            [ToolCall("toolu_1", "Bash", b'{"_raw_arguments":"{\\"name\\":\\"Bash\\",\\"arguments\\":'
             b'{\\"command\\":\\"rm -rf ./bui"}')],
        ),
        # A quote too many hides the end of the object, but not that of the block.
        (
            f'<tool_call>{{"name":"Bash","arguments":{{"command":"a"b"}}}}</tool_call> and {LS}',
            [
                Text(" and"),
                ToolCall("toolu_1", "Bash", b'{"_raw_arguments":"{\\"name\\":\\"Bash\\",\\"arguments\\":'
                 b'{\\"command\\":\\"a\\"b\\"}}"}'),
                ToolCall("toolu_2", "Bash", b'{"command":"ls"}'),
            ],
        ),
    ],
)  # fmt: skip
def test_a_call_in_a_text(text: str, expected: list[Item]) -> None:
    for pieces in ([text], list(text)):
        assert read(*map(Text, pieces), Finish()) == [*expected, Finish()]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  \n",
        "plain <b>text</b> < and <tool_",
        "Use the\n<tool_call> tag.",
        "<tool_call>",
        "a\n<tool_call>\n```js",
        '<tool_call>{"a": 1}</tool_call> is no call',
        '<tool_call>{"a": "never closed',
        '<tool_result name="Bash">written about, not invented</tool_result>',
        '<tool_call>{"a":1}</tool_call><tool_result name="Bash">x',
    ],
)
def test_what_is_no_call_is_text_to_the_letter(text: str) -> None:
    for pieces in ([text], list(text)):
        assert read(*map(Text, pieces), Finish()) == ([Text(text)] if text else []) + [Finish()]


def test_text_in_front_of_a_call_is_not_held_back() -> None:
    reader = Blocks()

    assert list(reader.feed("Let me look.\n<tool")) == ["Let me look."]
    assert list(reader.feed("box is")) == ["\n<toolbox is"]
    assert list(reader.feed(" here. <tool_call>")) == [" here."]
    assert list(reader.feed('{"name":"a"}</tool_call')) == []
    assert [one.raw for one in reader.feed("> ") if isinstance(one, Block)] == [
        ' <tool_call>{"name":"a"}</tool_call>'
    ]
    assert list(reader.feed(" " * 5000)) == [" " * 5001]


def test_the_limit_inside_a_call_makes_it_one_that_nobody_runs() -> None:
    whole, cut = LS, '<tool_call>{"name":"Bash","arguments":{"command":"ls"}'
    found = read(Text(whole + cut), Finish("max_tokens"))

    assert found == [
        LS_CALL,
        ToolCall("toolu_2", "Bash", json.dumps({"_raw_arguments": cut[11:]}, separators=(",", ":")).encode()),
        Finish("max_tokens"),
    ]
    assert read(Text('<tool_call>{"nam'), Finish("max_tokens")) == [
        Text('<tool_call>{"nam'),
        Finish("max_tokens"),
    ]


def test_a_model_that_repeats_a_broken_call_to_its_limit_does_not_cost_minutes() -> None:
    """Each is open to the end of the text; were it read anew for each of them, it would take hours."""
    broken = '<tool_call>{"name":{"Bash"</tool_call>'

    assert read(Text(broken * 20_000), Finish()) == [Text(broken * 20_000), Finish()]


def test_a_result_that_the_model_invents_ends_the_answer() -> None:
    found = read(
        Text(f"Now.{LS}\n<tool_result name="), Text('"Bash">a.txt</tool_result>'), Text(LS), Finish()
    )

    assert found == [Text("Now."), LS_CALL, Finish("tool_use")]


def test_one_call_where_one_is_wanted() -> None:
    """A server may also have read the text itself."""
    own = ToolCall("toolu_own", "Bash", b"{}")

    assert read(Text(LS + LS), own, Finish(), one_only=True) == [LS_CALL, Finish()]
    assert read(own, Text(LS), Finish()) == [own, LS_CALL, Finish()]


def test_everything_else_passes_and_a_cut_answer_calls_nothing() -> None:
    failure = Failure(Kind.CUT, "cut")

    assert read(Thinking("hm"), Text("a"), Usage(1, 2), failure) == [
        Thinking("hm"),
        Text("a"),
        Usage(1, 2),
        failure,
    ]
    assert read(Text(LS), failure) == [failure]
    assert read(Text(LS)) == []


def test_a_batch_that_says_nothing_is_not_the_last() -> None:
    reader = Reader(
        Spoken([Text("<tool_call>")], [Text("{")], [Text("} a")]), [BASH], one_only=False, new_id=golden.ids()
    )

    assert reader.feed(b"") == [Text("<tool_call>{}"), Text(" a")]
    assert reader.rest() == []


# --- any cut says the same ------------------------------------------------------------------------

_BITS = st.sampled_from(
    ["<tool_call>", "</tool_call>", "<tool_result", LS, '{"name":"Bash","arguments":{', '"a":"', '"}}', "}", "{",
     "```json\n", "```", "\n", " ", "<", "<tool", "text", "\\", '"', "é😀"]
)  # fmt: skip


@given(st.lists(_BITS, max_size=12), st.sampled_from(["end_turn", "max_tokens", "tool_use"]), st.data())
def test_any_cut_of_a_text_gives_the_same_grammatical_stream(bits: list[str], reason: str, data: Any) -> None:
    text = "".join(bits)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [Text(text[start:end]) for start, end in itertools.pairwise([0, *cuts, len(text)])]
    whole = read(Text(text), Finish(reason))

    assert read(*pieces, Finish(reason)) == whole
    streamed = grammar.check(golden.stream(ASK, whole)[0])
    assert streamed.complete
    if "<tool_call>" not in text:
        assert streamed.text == text


@given(st.lists(_BITS, max_size=12))
def test_every_letter_is_in_a_text_or_in_a_block(bits: list[str]) -> None:
    text = "".join(bits)
    found = [
        one.raw if isinstance(one, Block) else one for one in blocks(text) if not isinstance(one, Invented)
    ]

    assert "".join(found) == text
