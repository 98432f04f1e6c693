"""What models are shown of a session of the real Claude Code, and what comes back of it."""

from __future__ import annotations

import base64
import json
import re
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import attrs
import pytest
from e2e.providers import Said
from fakes.upstream import Reply

from . import odd_tools
from .conftest import MODEL, ROUTED, Desk, through
from .dialogue import Far, call, obedient

pytestmark = [pytest.mark.slow, pytest.mark.clients]

BLIND = {"capabilities": ["completion", "tools"], "model_info": {"llama.context_length": 131072}}
PDF = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
)


def picture() -> bytes:
    """A PNG of one red dot."""
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0),
        b"IDAT": zlib.compress(b"\0\xff\0\0"),
        b"IEND": b"",
    }
    written = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def far_of(desk: Desk, model: str) -> Far:
    return desk.estate.fo if model == MODEL else desk.estate.fr


@pytest.mark.parametrize("provider", ["seeing", "blind", "router"])
def test_two_files_read_at_once(desk: Desk, claude: str, provider: str) -> None:
    """An image and a PDF come back as results of tools, each under its own call, and nothing is lost silently."""
    model = ROUTED if provider == "router" else MODEL
    far = far_of(desk, model)
    (desk.folder / "a.png").write_bytes(picture())
    (desk.folder / "b.pdf").write_bytes(PDF)
    if provider == "blind":
        far.on("/api/show", Reply(body=json.dumps(BLIND).encode()))
    order = "".join(call("Read", file_path=str(desk.folder / name)) for name in ("a.png", "b.pdf"))
    try:
        done = desk.run(*through(model, "--", claude, "--allowedTools", "Read", "-p", f"look{order}"))
    finally:
        far.on("/api/show")
    image = "[image omitted: model has no vision]" if provider == "blind" else "[image 1 attached below]"
    first, second = (one["content"] for one in far.sent["messages"] if one["role"] == "tool")
    shown = attached(far.sent)

    assert first == image
    assert second.startswith("PDF file read: ")
    assert done.stdout.startswith(f"{'fr' if provider == 'router' else 'fo'} got: {image}"), done
    media = {"seeing": ["image/png"], "blind": [], "router": ["image/png", "application/pdf"]}[provider]
    assert [part.removeprefix("data:").partition(";")[0] for part in shown] == media
    if provider == "router":
        assert base64.b64decode(shown[1].partition(",")[2]) == PDF
    else:  # in which of the messages depends on the client's version
        assert f"[PDF omitted: document.pdf, {len(PDF)} bytes]" in json.dumps(far.sent["messages"])


def attached(sent: Any) -> list[str]:
    """What is attached to the user's messages, as data URLs."""
    found: list[str] = []
    for message in sent["messages"]:
        found += [f"data:image/png;base64,{image}" for image in message.get("images", ())]
        for part in message["content"] if isinstance(message["content"], list) else ():
            found += [part["image_url"]["url"]] if part["type"] == "image_url" else []
            found += [part["file"]["file_data"]] if part["type"] == "file" else []
    return found


@pytest.mark.parametrize("model", [MODEL, ROUTED])
def test_tools_of_an_mcp_server(desk: Desk, claude: str, model: str) -> None:
    """They are offered in a form that the provider takes, once they were searched for, and are called."""
    far = far_of(desk, model)
    spoken, long = "mcp__odd__look_up_it", f"mcp__odd__{odd_tools.LONG}"
    usual = obedient("model")

    def calling(document: Any) -> Said:
        """It calls by the names that it is shown, once."""
        if " was given " in json.dumps(document["messages"]):
            return usual(document)
        shown = {name[:40]: name for name in names_in(document)}
        if spoken not in shown and "ToolSearch" in shown:
            return Said(calls=(("ToolSearch", {"query": f"select:{spoken},{long}"}),))
        return Said(calls=((spoken, {"where": {"page": 7}}), (shown.get(long[:40], long), {"sum": 1})))

    far.script = calling
    servers = {"odd": {"command": sys.executable, "args": [str(Path(odd_tools.__file__))]}}
    words = ("--mcp-config", json.dumps({"mcpServers": servers}), "--allowedTools", "mcp__odd", "ToolSearch")
    done = desk.run(*through(model, "--", claude, *words, "-p", "go"))
    [schema] = [
        tool["function"]["parameters"] for tool in far.sent["tools"] if tool["function"]["name"] == spoken
    ]
    first = names_in(far.asked[0].json())

    assert f'{odd_tools.SPOKEN} was given {{"where": {{"page": 7}}}}' in done.stdout, done
    assert f'{odd_tools.LONG} was given {{"sum": 1}}' in done.stdout
    assert ("ToolSearch" in first) != (spoken in first)
    if model == MODEL:  # it decodes neither of these
        assert "$ref" not in json.dumps(schema)
        assert schema["properties"]["where"]["properties"]["line"] == {}
    else:
        assert [name for name in names_in(far.sent) if not re.fullmatch(r"[\w-]{1,64}", name)] == []


def names_in(document: Any) -> list[str]:
    return [tool["function"]["name"] for tool in document.get("tools", ())]


def test_a_session_that_changes_its_model_twice(desk: Desk, claude: str) -> None:
    """Calls and results go along everywhere, what others thought goes to nobody."""
    home = desk.estate
    for far, name in ((home.fo, "fo"), (home.fr, "fr")):
        far.script = thinking(name)
    on = ("-c", "--allowedTools", "Bash", "-p")
    first, second, third = (
        f"go{call('Bash', command=f'echo {n * 111}', description='x')}" for n in (1, 2, 3)
    )
    desk.run(*through(MODEL, "--", claude, *on[1:], first))
    desk.run(*through(ROUTED, "--", claude, *on, second))
    desk.run(*through("--", claude, "--model", "claude-sonnet-4-5", *on, third))
    last = desk.run(*through(MODEL, "--", claude, *on, "and now?"))
    routed, anthropics, finally_ = (json.dumps(far.sent["messages"]) for far in (home.fr, home.fa, home.fo))
    results = [one["content"] for one in home.fo.sent["messages"] if one["role"] == "tool"]

    assert last.stdout.strip() == "fo said: and now?", last
    assert [result.split()[0] for result in results] == ["111", "222", "333"]
    assert all(f"{name} got: " in finally_ for name in ("fo", "fr", "fa"))
    assert "fo thinks" not in routed
    assert "fr thinks" in routed  # its own, of the turn that it is at
    assert '"type": "thinking"' not in anthropics
    assert "fr thinks" not in finally_


def thinking(name: str) -> Any:
    usual = obedient(name)
    return lambda document: attrs.evolve(usual(document), thinking=f"{name} thinks so.")
