"""Content blocks for servers that know only text, pictures and perhaps files.

Everything that a client may put into a history becomes a part here, and whatever cannot be shown becomes
a short text that says so: a model that is told "image omitted" asks, one that is told nothing invents.
The same block always gives the same part, so that a history renders the same in every request.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import attrs

from modelproxy.worker import tokens
from modelproxy.worker.wire import codec
from modelproxy.worker.wire.asks import Ask

from . import thinking

Block = dict[str, Any]

EMPTY_RESULT = "(empty result)"


@attrs.frozen
class Image:
    """A picture in base64."""

    media_type: str
    data: str = attrs.field(repr=False)

    @property
    def url(self) -> str:
        return f"data:{self.media_type};base64,{self.data}"


@attrs.frozen
class ImageUrl:
    """A picture that the server would have to fetch."""

    url: str


@attrs.frozen
class Document:
    """A file in base64, of a type that is not text."""

    name: str
    media_type: str
    data: str = attrs.field(repr=False)

    @property
    def url(self) -> str:
        return f"data:{self.media_type};base64,{self.data}"


Media = Image | ImageUrl | Document
Part = str | Media


@attrs.frozen
class Sight:
    """Which kinds of part a model can be shown."""

    images: bool = True
    image_urls: bool = True
    documents: bool = False
    in_results: bool = False
    """A tool's message takes pictures itself."""

    def omission(self, media: Media) -> str | None:
        """What stands in the place of something that cannot be shown; None: it can."""
        if isinstance(media, Document):
            return None if self.documents else _omitted_document(media)
        if not self.images:
            return "[image omitted: model has no vision]"
        if isinstance(media, ImageUrl) and not self.image_urls:
            return f"[image omitted: the model's server takes no image addresses: {media.url[:200]}]"
        return None


def _omitted_document(document: Document) -> str:
    kind = "PDF" if document.media_type == "application/pdf" else "document"
    return f"[{kind} omitted: {document.name}, {_decoded_size(document.data)} bytes]"


def _decoded_size(data: str) -> int:
    return max(len(data) * 3 // 4 - data[-2:].count("="), 0)


# --- one block ------------------------------------------------------------------------------------


def image_of(block: Block) -> Image | ImageUrl | None:
    """The picture in an `image` block; None for other blocks and for pictures that are not here."""
    source = block.get("source")
    if block.get("type") != "image" or not isinstance(source, dict):
        return None
    data, url = source.get("data"), source.get("url")
    if source.get("type") == "base64" and isinstance(data, str) and data:
        return Image(codec.as_text(source.get("media_type")) or "image/png", data)
    if source.get("type") != "url" or not isinstance(url, str) or not url:
        return None
    inline = _DATA_URL.fullmatch(url)
    return Image(inline["media_type"], inline["data"]) if inline else ImageUrl(url)


_DATA_URL = re.compile(r"data:(?P<media_type>[\w.+-]+/[\w.+-]+);base64,(?P<data>.+)", re.ASCII | re.DOTALL)
"""An address that is the picture itself."""


def document_of(block: Block) -> Document | None:
    """The file in a `document` block, if it is one that is not text."""
    source = block.get("source")
    if block.get("type") != "document" or not isinstance(source, dict) or source.get("type") != "base64":
        return None
    data, media_type = source.get("data"), codec.as_text(source.get("media_type")) or "application/pdf"
    if not isinstance(data, str) or not data:
        return None
    return Document(codec.as_text(block.get("title")) or _file_name(media_type), media_type, data)


def _file_name(media_type: str) -> str:
    return "document.pdf" if media_type == "application/pdf" else "document"


def media_of(block: Block) -> Media | None:
    """What a block holds that is not text."""
    return image_of(block) or document_of(block)


def part_of(block: Block, sight: Sight) -> Part:
    """A block as a model with this sight is shown it; empty text for what is no part of a prompt."""
    media = media_of(block)
    if media is None:
        return text_of(block)
    return sight.omission(media) or media


def as_shown(block: Block, sight: Sight) -> Block:
    """A block with words in the place of what a model with this sight is only told of; for estimates."""
    if block["type"] == "tool_result":
        return {**block, "content": [_as_shown(one, sight) for one in inner(block.get("content"))]}
    return _as_shown(block, sight)


def _as_shown(block: Block, sight: Sight) -> Block:
    if block["type"] in ("text", "tool_use") or thinking.is_thinking(block):
        return block
    part = part_of(block, sight)
    return {"type": "text", "text": part} if isinstance(part, str) else block


def prompt_tokens(ask: Ask, sight: Sight) -> int:
    """The estimate of a request's prompt as a model with this sight would be shown it."""
    messages = [
        message | {"content": [as_shown(block, sight) for block in message["content"]]}
        if isinstance(message["content"], list)
        else message
        for message in ask.messages
    ]
    return tokens.of_prompt(ask.body | {"messages": messages})


def text_of(block: Block) -> str:
    """A block in words. Pictures and files become their placeholders, reasoning becomes nothing."""
    if thinking.is_thinking(block):
        return ""
    media = media_of(block)
    if media is not None:
        return Sight(images=False).omission(media) or ""
    say = _SAY.get(block["type"])
    if say is not None:
        return say(block)
    if block["type"].endswith("_tool_result"):
        return _server_result(block)
    return f"[{block['type']} omitted]"


def _json(value: Any) -> str:
    return codec.dumps(value).decode("utf-8")


def _lines(*lines: Any) -> str:
    return "\n".join(line for line in lines if isinstance(line, str) and line)


def inner(content: Any) -> Iterable[Block]:
    """The blocks of a content that nobody has checked yet."""
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if isinstance(content, list):
        yield from (one for one in content if isinstance(one, dict) and isinstance(one.get("type"), str))


def _say_text(block: Block) -> str:
    return codec.as_text(block.get("text"))


def _say_image(block: Block) -> str:
    return f"[image omitted: {_whereabouts(block.get('source'))}]"


def _say_document(block: Block) -> str:
    source = block.get("source")
    source = source if isinstance(source, dict) else {}
    head = _lines(block.get("title"), block.get("context"))
    if source.get("type") == "text":
        return _lines(head, source.get("data"))
    if source.get("type") == "content":
        return _lines(head, *_shallow(source.get("content")))
    return _lines(head, f"[document omitted: {_whereabouts(source)}]")


def _whereabouts(source: Any) -> str:
    """Where something is that is not in the request."""
    source = source if isinstance(source, dict) else {}
    for key, words in (("file_id", "file "), ("url", "")):
        if place := codec.as_text(source.get(key)):
            return words + place[:200]
    return "it could not be read"


def _shallow(content: Any) -> Iterable[str]:
    """Texts of nested blocks, one level deep: what is nested deeper was never checked for circles of depth."""
    for block in inner(content):
        yield _say_text(block) if block["type"] == "text" else f"[{block['type']} omitted]"


def _say_search_result(block: Block) -> str:
    return _lines(block.get("title"), block.get("source"), *_shallow(block.get("content")))


def _say_call(block: Block) -> str:
    """A call that cannot be replayed as one."""
    return f"[called {codec.as_text(block.get('name')) or 'a tool'} {_json(block.get('input') or {})}]"


def _say_server_call(block: Block) -> str:
    given = block.get("input")
    given = given if isinstance(given, dict) else {}
    query = given.get("query") or given.get("url")
    return f"[{codec.as_text(block.get('name')) or 'server tool'} {_json(query if isinstance(query, str) else given)}]"


def _server_result(block: Block) -> str:
    """What a tool of Anthropic's own brought: titles and addresses, output of programs."""
    content = block.get("content")
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        return codec.as_text(content) or f"[{block['type']} omitted]"
    said = [_say_found(one) for one in content if isinstance(one, dict)]
    return _lines(*said) or f"[{block['type']}: nothing]"


def _say_found(found: Block) -> str:
    if isinstance(found.get("error_code"), str):
        return f"[failed: {found['error_code']}]"
    if isinstance(found.get("url"), str):
        page = found.get("content")  # of one that was fetched
        page = page if isinstance(page, dict) and page.get("type") == "document" else {}
        title = codec.as_text(found.get("title")) or codec.as_text(page.get("title")) or "untitled"
        return _lines(f"- {title}: {found['url']}", text_of({**page, "title": None}) if page else "")
    if isinstance(found.get("tool_references"), list):
        return _lines(*(_say_reference(one) for one in found["tool_references"] if isinstance(one, dict)))
    text = _lines(found.get("text"), found.get("stdout"), found.get("stderr"), found.get("content"))
    return text or f"[{codec.as_text(found.get('type')) or 'something'} omitted]"


def _say_reference(block: Block) -> str:
    return f"Loaded tool: {codec.as_text(block.get('tool_name')) or codec.as_text(block.get('name'))}"


def _say_compaction(block: Block) -> str:
    content = block.get("content")
    return content if isinstance(content, str) else _lines(*_shallow(content))


def _say_upload(block: Block) -> str:
    return f"[file omitted: {codec.as_text(block.get('file_id')) or 'unknown'}]"


def _say_result(block: Block) -> str:
    """A result whose call is gone."""
    said = result_text(block, _lines(*_shallow(block.get("content"))))
    return f"[result of an earlier tool call]\n{said}"


_SAY: dict[str, Callable[[Block], str]] = {
    "text": _say_text,
    "image": _say_image,
    "document": _say_document,
    "search_result": _say_search_result,
    "tool_use": _say_call,
    "tool_result": _say_result,
    "server_tool_use": _say_server_call,
    "mcp_tool_use": _say_server_call,
    "tool_reference": _say_reference,
    "compaction": _say_compaction,
    "container_upload": _say_upload,
}


# --- one turn of the user -------------------------------------------------------------------------


@attrs.frozen
class Result:
    """What a tool returned, in words."""

    id: str
    name: str
    text: str
    images: list[Image] = attrs.Factory(list)
    """Its pictures, where a tool's message takes them; else they are lifted."""


@attrs.frozen
class UserTurn:
    """A user's turn for servers whose tool messages hold only text, or text and pictures."""

    results: list[Result]
    parts: list[Part]
    """What follows them: pictures and files lifted out of the results, each under its label, then the rest."""
    marks: list[Any] = attrs.Factory(list)
    """The `cache_control` of each part's block, where it has one."""
    omitted: int = 0
    """How many pictures, files and unknown blocks are only named, for the log."""


def result_text(block: Block, text: str) -> str:
    """The text of a tool message: never empty, and a failure can be told from output."""
    text = text or EMPTY_RESULT
    failed = block.get("is_error") is True and not text.startswith(("Error", "<tool_use_error>"))
    return f"Error: {text}" if failed else text


def user_turn(blocks: Iterable[Block], names: dict[str, str], sight: Sight) -> UserTurn:
    """Splits a user's turn. `names`: the tool behind each call's id, as the server is to see it.

    Nothing may stand between two tool messages, so what they cannot hold goes behind the last.
    """
    results: list[Result] = []
    lifted: list[Part] = []
    others: list[tuple[Part, Any]] = []
    counts: Counter[str] = Counter()
    for block in blocks:
        if block["type"] != "tool_result":
            others.append((_seen(block, sight, counts), block.get("cache_control")))
            continue
        call = codec.as_text(block.get("tool_use_id"))
        result, media = _flattened(block, call, names.get(call, ""), sight, counts)
        results.append(result)
        lifted += media
    said = [(part, mark) for part, mark in [*((one, None) for one in lifted), *others] if part]
    return UserTurn(results, [part for part, _ in said], [mark for _, mark in said], counts[_OMITTED])


_OMITTED = "omitted"


def _seen(block: Block, sight: Sight, counts: Counter[str]) -> Part:
    part = part_of(block, sight)
    counts[_OMITTED] += isinstance(part, str) and _is_only_named(block)
    return part


def _is_only_named(block: Block) -> bool:
    """True when the words for a block are all that is left of it."""
    kind = block["type"]
    if kind == "document":
        source = block.get("source")
        return not isinstance(source, dict) or source.get("type") not in ("text", "content")
    if kind in ("image", "container_upload"):
        return True
    return kind not in _SAY and not kind.endswith("_tool_result") and not thinking.is_thinking(block)


def _flattened(
    block: Block, call: str, name: str, sight: Sight, counts: Counter[str]
) -> tuple[Result, list[Part]]:
    lines: list[str] = []
    kept: list[Image] = []
    lifted: list[Part] = []
    for one in inner(block.get("content")):
        part = _seen(one, sight, counts)
        if isinstance(part, str):
            lines.append(part)
            continue
        kind = "document" if isinstance(part, Document) else "image"
        counts[kind] += 1
        label = f"{kind} {counts[kind]}"
        if sight.in_results and isinstance(part, Image):
            lines.append(f"[{label} attached]")
            kept.append(part)
            continue
        lines.append(f"[{label} attached below]")
        lifted += [f"[{label} from tool {name}]" if name else f"[{label}]", part]
    text = result_text(block, "\n".join(line for line in lines if line))
    return Result(call, name, text, kept), lifted
