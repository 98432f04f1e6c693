"""Content blocks as parts that other servers take."""

from __future__ import annotations

from typing import Any

import pytest

from modelproxy.worker.dialects.blocks import (
    Document,
    Image,
    ImageUrl,
    Sight,
    document_of,
    image_of,
    part_of,
    prompt_tokens,
    result_text,
    text_of,
    user_turn,
)
from modelproxy.worker.wire import asks, codec

PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0K"}}
LINK = {"type": "image", "source": {"type": "url", "url": "https://x.example/a.png"}}
PDF_DATA = "JVBERi0xLjQ="
PDF = {
    "type": "document",
    "title": "doc.pdf",
    "source": {"type": "base64", "media_type": "application/pdf", "data": PDF_DATA},
}


@pytest.mark.parametrize(
    ("block", "text"),
    [
        ({"type": "text", "text": "hi"}, "hi"),
        ({"type": "thinking", "thinking": "secret", "signature": "x"}, ""),
        ({"type": "redacted_thinking", "data": "x"}, ""),
        (PNG, "[image omitted: model has no vision]"),
        ({"type": "image", "source": {"type": "file", "file_id": "file_1"}}, "[image omitted: file file_1]"),
        ({"type": "image", "source": None}, "[image omitted: it could not be read]"),
        ({"type": "image", "source": {"type": "base64"}}, "[image omitted: it could not be read]"),
        (PDF, "[PDF omitted: doc.pdf, 8 bytes]"),
        (
            {"type": "document", "source": {"type": "base64", "media_type": "a/b", "data": "AAAA"}},
            "[document omitted: document, 3 bytes]",
        ),
        (
            {"type": "document", "title": "T", "context": "C", "source": {"type": "text", "data": "words"}},
            "T\nC\nwords",
        ),
        (
            {
                "type": "document",
                "source": {"type": "content", "content": [{"type": "text", "text": "a"}, PNG]},
            },
            "a\n[image omitted]",
        ),
        ({"type": "document", "source": {"type": "content", "content": "words"}}, "words"),
        ({"type": "document", "source": {"type": "file", "file_id": "f"}}, "[document omitted: file f]"),
        ({"type": "document", "source": {"type": "url", "url": "http://x"}}, "[document omitted: http://x]"),
        ({"type": "document", "source": {"type": "base64"}}, "[document omitted: it could not be read]"),
        ({"type": "document"}, "[document omitted: it could not be read]"),
        (
            {
                "type": "search_result",
                "title": "T",
                "source": "s",
                "content": [{"type": "text", "text": "c"}],
            },
            "T\ns\nc",
        ),
        ({"type": "tool_reference", "tool_name": "WebFetch"}, "Loaded tool: WebFetch"),
        ({"type": "tool_use", "name": "Bash", "input": {"a": 1}}, '[called Bash {"a":1}]'),
        (
            {"type": "tool_result", "tool_use_id": "t", "content": "boom", "is_error": True},
            "[result of an earlier tool call]\nError: boom",
        ),
        ({"type": "server_tool_use", "name": "web_search", "input": {"query": "q"}}, '[web_search "q"]'),
        ({"type": "mcp_tool_use", "name": "x", "input": {"a": 1}}, '[x {"a":1}]'),
        (
            {
                "type": "web_search_tool_result",
                "content": [{"type": "web_search_result", "title": "T", "url": "u"}, {"url": "v"}],
            },
            "- T: u\n- untitled: v",
        ),
        (
            {"type": "web_search_tool_result", "content": {"type": "e", "error_code": "unavailable"}},
            "[failed: unavailable]",
        ),
        (
            {"type": "bash_code_execution_tool_result", "content": {"stdout": "out", "stderr": "err"}},
            "out\nerr",
        ),
        (
            {"type": "text_editor_code_execution_tool_result", "content": {"content": "of a file"}},
            "of a file",
        ),
        (
            {
                "type": "web_fetch_tool_result",
                "content": {
                    "type": "web_fetch_result",
                    "url": "https://x.example/",
                    "content": {
                        "type": "document",
                        "title": "T",
                        "source": {"type": "text", "data": "the page"},
                    },
                },
            },
            "- T: https://x.example/\nthe page",
        ),
        ({"type": "mcp_tool_result", "content": [{"type": "text", "text": "a"}]}, "a"),
        ({"type": "mcp_tool_result", "content": "a"}, "a"),
        ({"type": "mcp_tool_result", "content": [{"type": "odd"}]}, "[odd omitted]"),
        ({"type": "mcp_tool_result", "content": []}, "[mcp_tool_result: nothing]"),
        ({"type": "mcp_tool_result"}, "[mcp_tool_result omitted]"),
        (
            {"type": "tool_search_tool_result", "content": {"tool_references": [{"tool_name": "A"}]}},
            "Loaded tool: A",
        ),
        ({"type": "compaction", "content": "so far", "encrypted_content": "x"}, "so far"),
        ({"type": "compaction", "content": [{"type": "text", "text": "so far"}]}, "so far"),
        ({"type": "container_upload", "file_id": "f"}, "[file omitted: f]"),
        ({"type": "browser_state", "x": 1}, "[browser_state omitted]"),
    ],
)
def test_every_block_has_words(block: dict[str, Any], text: str) -> None:
    assert text_of(block) == text
    assert part_of(block, Sight(images=False)) == text


def test_pictures_and_files_are_found() -> None:
    assert image_of(PNG) == Image("image/png", "iVBORw0K")
    assert image_of(LINK) == ImageUrl("https://x.example/a.png")
    inline = {"type": "image", "source": {"type": "url", "url": "data:image/png;base64,iVBO"}}
    assert image_of(inline) == Image("image/png", "iVBO")
    assert image_of(PDF) is None
    assert document_of(PDF) == Document("doc.pdf", "application/pdf", PDF_DATA)
    assert document_of(PNG) is None
    assert Image("image/png", "AA").url == "data:image/png;base64,AA"
    assert Document("d", "application/pdf", "AA").url == "data:application/pdf;base64,AA"


def test_p15_what_a_model_cannot_see_is_named() -> None:
    assert part_of(PNG, Sight()) == Image("image/png", "iVBORw0K")
    assert part_of(LINK, Sight()) == ImageUrl("https://x.example/a.png")
    said = part_of(LINK, Sight(image_urls=False))
    assert said == "[image omitted: the model's server takes no image addresses: https://x.example/a.png]"
    assert part_of(PDF, Sight()) == "[PDF omitted: doc.pdf, 8 bytes]"
    assert part_of(PDF, Sight(documents=True)) == Document("doc.pdf", "application/pdf", PDF_DATA)


@pytest.mark.parametrize(
    ("text", "is_error", "said"),
    [
        ("fine", False, "fine"),
        ("", False, "(empty result)"),
        ("boom", True, "Error: boom"),
        ("Error: boom", True, "Error: boom"),
        ("<tool_use_error>x</tool_use_error>", True, "<tool_use_error>x</tool_use_error>"),
        ("", True, "Error: (empty result)"),
        ("boom", None, "boom"),
    ],
)
def test_p16_a_failure_can_be_told_from_output(text: str, is_error: Any, said: str) -> None:
    assert result_text({"is_error": is_error}, text) == said


def result(id_: str, content: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id_, "content": content, **fields}


def test_p14_pictures_in_results_come_behind_the_last_result() -> None:
    said = user_turn(
        [
            result("1", [PNG]),
            result("2", [{"type": "text", "text": "two"}, PNG, PDF]),
            {"type": "text", "text": "see"},
            PNG,
        ],
        {"1": "Read", "2": "Shot"},
        Sight(documents=True),
    )

    assert [(one.id, one.name) for one in said.results] == [("1", "Read"), ("2", "Shot")]
    assert said.results[0].text == "[image 1 attached below]"
    assert said.results[1].text == "two\n[image 2 attached below]\n[document 1 attached below]"
    picture = Image("image/png", "iVBORw0K")
    assert said.parts == [
        "[image 1 from tool Read]",
        picture,
        "[image 2 from tool Shot]",
        picture,
        "[document 1 from tool Shot]",
        Document("doc.pdf", "application/pdf", PDF_DATA),
        "see",
        picture,
    ]


def test_without_vision_a_result_says_what_is_missing() -> None:
    said = user_turn([result("1", [PNG])], {"1": "Read"}, Sight(images=False))

    assert said.results[0].text == "[image omitted: model has no vision]"
    assert said.parts == []


@pytest.mark.parametrize("content", [None, "", [], [{"type": "text", "text": ""}], {}, [5, {"no": "type"}]])
def test_a_result_is_never_empty(content: Any) -> None:
    assert user_turn([result("1", content)], {}, Sight()).results[0].text == "(empty result)"


def test_a_result_that_holds_a_result_is_not_lost() -> None:
    said = user_turn([result("1", [result("2", "inner")])], {}, Sight())

    assert said.results[0].text == "[result of an earlier tool call]\ninner"


def test_pictures_stay_with_their_result_where_its_message_takes_them() -> None:
    said = user_turn(
        [result("1", [PNG, PDF]), result("2", [PNG, LINK])],
        {"1": "Read"},
        Sight(image_urls=False, documents=True, in_results=True),
    )

    assert [one.text for one in said.results] == [
        "[image 1 attached]\n[document 1 attached below]",
        "[image 2 attached]\n[image omitted: the model's server takes no image addresses: "
        "https://x.example/a.png]",
    ]
    assert [len(one.images) for one in said.results] == [1, 1]
    assert said.parts[0] == "[document 1 from tool Read]"
    assert len(said.parts) == 2


def test_a_prompt_weighs_what_the_model_is_shown() -> None:
    contents: list[Any] = ["Hello", [PNG, PDF], [result("1", [PNG, PDF])]]
    messages = [{"role": "user", "content": content} for content in contents]
    ask = asks.ask(codec.dumps({"model": "m", "max_tokens": 1, "messages": messages}))
    all_of_it = Sight(documents=True)

    assert prompt_tokens(ask, all_of_it) == ask.input_tokens > 7000
    assert 3000 < prompt_tokens(ask, Sight()) < 3100
    assert 20 < prompt_tokens(ask, Sight(images=False)) < 100


def test_lifted_pictures_of_an_unknown_tool_have_a_label() -> None:
    assert user_turn([result("1", [PNG])], {}, Sight()).parts[0] == "[image 1]"
