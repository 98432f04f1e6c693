"""Contents and histories of other APIs, as blocks and turns."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from modelproxy.worker.failures import Refused
from modelproxy.worker.forms.parts import History, blocks

PNG = "iVBORw0KGgo="


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def source(kind: str, **said: Any) -> dict[str, Any]:
    return {"type": kind, "source": said}


IMAGE = source("image", type="base64", media_type="image/png", data=PNG)
PDF = source("document", type="base64", media_type="application/pdf", data="JVBE")
NOTE = base64.b64encode("é".encode()).decode()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (None, []),
        ("hi", [text("hi")]),
        (" \n", []),
        ([], []),
        (["hi", text(""), text("you")], [text("hi"), text("you")]),
        ([{"type": "input_text", "text": "a"}, {"type": "output_text", "text": "b"}], [text("a"), text("b")]),
        ([{"type": "refusal", "refusal": "no"}, {"type": "refusal"}], [text("no")]),
        (
            [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "high"}}],
            [IMAGE],
        ),
        ([{"type": "input_image", "image_url": f"data:image/png;charset=x;base64,{PNG}"}], [IMAGE]),
        ([{"type": "image_url", "image_url": {"url": f"data:;base64,{PNG}"}}], [IMAGE]),
        (
            [{"type": "image_url", "image_url": {"url": "https://a.b/c.png"}}],
            [source("image", type="url", url="https://a.b/c.png")],
        ),
        (
            [{"type": "input_image", "file_id": "file-1"}],
            [text("[image omitted: file-1 is a file of another service]")],
        ),
        (
            [
                {
                    "type": "file",
                    "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBE"},
                }
            ],
            [{**PDF, "title": "a.pdf"}],
        ),
        ([{"type": "input_file", "file_data": "JVBE"}], [PDF]),
        (
            [{"type": "input_file", "file_url": "https://a.b/c.pdf"}],
            [source("document", type="url", url="https://a.b/c.pdf")],
        ),
        (
            [{"type": "file", "file": {"file_id": "f"}}],
            [text("[file omitted: f is a file of another service]")],
        ),
        (
            [{"type": "file", "file": {"file_data": f"data:text/csv;base64,{NOTE}"}}],
            [source("document", type="text", media_type="text/plain", data="é")],
        ),
        ([{"type": "file", "file": {"file_data": f"data:image/png;base64,{PNG}"}}], [IMAGE]),
        ([{"type": "hologram"}, {}], [text("[hologram omitted]"), text("[None omitted]")]),
        (
            [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}],
            [{**text("x"), "cache_control": {"type": "ephemeral"}}],
        ),
    ],
)
def test_contents(content: Any, found: list[dict[str, Any]]) -> None:
    assert blocks(content, "messages[0].content") == found


@pytest.mark.parametrize(
    ("content", "param"),
    [
        (3, "c"),
        ([3], "c[0]"),
        ([{"type": "text"}], "c[0].text"),
        ([{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}], "c[0].image_url"),
        ([{"type": "image_url"}], "c[0].image_url"),
        ([{"type": "file", "file": {}}], "c[0]"),
        ([{"type": "file", "file": {"file_data": "data:text/plain;base64,/w=="}}], "c[0].file_data"),
        ([{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}], "c[0]"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_place(content: Any, param: str) -> None:
    with pytest.raises(Refused) as raised:
        blocks(content, "c")
    details = raised.value.failure.details or {}

    assert raised.value.failure.message.startswith("c")
    assert details["param"].startswith("c")
    assert param in raised.value.failure.message


def test_instructions_lead_and_later_ones_go_with_the_users_turn() -> None:
    history = History()
    history.instruct([text("be brief")])
    history.instruct([text("be kind")])
    history.user([text("hi")])
    history.instruct([text("now in French")])

    assert history.done() == (
        [text("be brief"), text("be kind")],
        [
            {
                "role": "user",
                "content": [text("hi"), text("<system-reminder>\nnow in French\n</system-reminder>")],
            }
        ],
    )


def test_results_are_one_turn_and_stand_first() -> None:
    history = History()
    history.user([text("go")])
    history.assistant([{"type": "tool_use", "id": "a", "name": "f", "input": {}}])
    history.user([text("meanwhile")])
    history.result("a", [text("1")])
    history.result("b", [])
    history.user([text("and now?")])
    turn = history.done()[1][-1]

    assert [block.get("tool_use_id") or block["text"] for block in turn["content"]] == [
        "a",
        "b",
        "meanwhile",
        "and now?",
    ]


def test_what_was_said_in_a_row_is_one_turn() -> None:
    history = History()
    history.user([text("a")])
    history.user([text("b")])
    history.assistant([text("c")])
    history.assistant([text("d")])

    assert [(one["role"], len(one["content"])) for one in history.done()[1]] == [
        ("user", 2),
        ("assistant", 2),
    ]


def test_there_is_always_something_to_answer() -> None:
    """Clients of OpenAI may send nothing but a system message, and even that may be empty."""
    only = History()
    only.instruct([text("be brief")])
    only.instruct([text("say hi")])
    nothing = History()
    nothing.user([])

    assert only.done() == ([text("be brief")], [{"role": "user", "content": [text("say hi")]}])
    assert nothing.done() == ([], [{"role": "user", "content": [text("(no content)")]}])


def test_a_user_who_says_nothing_at_the_end_still_wants_an_answer() -> None:
    """Else the model would go on with its own words."""
    history = History()
    history.user([text("hi")])
    history.assistant([])
    history.assistant([text("yes?")])
    history.user([])

    assert [one["content"] for one in history.done()[1]] == [
        [text("hi")],
        [text("yes?")],
        [text("(no content)")],
    ]
