"""The real Claude Code, through real processes, before fake providers."""

from __future__ import annotations

from typing import Any

import pytest
from e2e.providers import Said

from .conftest import MODEL, REAL_KEY, ROUTED, Desk, document, through
from .dialogue import call, obedient, send

pytestmark = [pytest.mark.slow, pytest.mark.clients]

TOOLS = ("--allowedTools", "Read", "Bash", "Agent")


def test_echo_as_the_readme_has_it(desk: Desk, claude: str) -> None:
    """No model, no key, no configuration; a tool is really executed, and its result comes back."""
    view = desk.estate.house.up("echo/demo")
    point = {"ANTHROPIC_BASE_URL": view["url"], "ANTHROPIC_API_KEY": "unused"}
    order = 'echo:tool Bash {"command": "echo from-the-tool > made.txt; cat made.txt", "description": "x"}'
    plain = desk.run(claude, "--model", "echo/demo", "-p", "hello there", **point)
    tool = desk.run(claude, "--model", "echo/demo", *TOOLS, "-p", order, **point)

    assert (plain.returncode, plain.stdout) == (0, "hello there\n"), plain
    assert "Bash returned: from-the-tool" in tool.stdout, tool
    assert (desk.folder / "made.txt").read_text() == "from-the-tool\n"


@pytest.mark.parametrize("model", [MODEL, ROUTED])
def test_a_model_uses_tools_and_keeps_to_its_window(desk: Desk, claude: str, model: str) -> None:
    """Without --model: its default is of the largest tier and would be taken for a million tokens wide."""
    (desk.folder / "note.txt").write_text("the note\n")
    order = (
        "do" + call("Read", file_path=str(desk.folder / "note.txt")) + call("Bash", command="echo $((40+2))")
    )
    done = desk.run(*through(model, "--", claude, "--output-format", "json", *TOOLS, "-p", order))
    said = document(done.stdout)
    [(used, facts)] = said["modelUsage"].items()

    assert "got: " in said["result"]
    assert "the note" in said["result"]
    assert "42" in said["result"]
    assert used.removesuffix("[1m]") == model
    if model == MODEL:  # the other's window is not known
        assert (used, facts["contextWindow"]) == (MODEL, 65536)
    assert REAL_KEY not in str([seen.headers for seen in desk.estate.fo.requests])
    assert desk.routes(2) == [(model, None)] * 2


def test_a_web_search(desk: Desk, claude: str) -> None:
    """Without OpenRouter's the agent is told that there is none; with it, what was found."""
    order = "look it up" + call("WebSearch", query="trio python")
    usage = {"server_tool_use": {"web_search_requests": 1}}
    found = Said(("Trio is a library.",), sources=(("Trio", "https://trio.example/"),), usage=usage)
    usual = obedient("fr")

    def searching(document: Any) -> Said:
        tools = [tool["type"] for tool in document.get("tools", ())]
        return found if "openrouter:web_search" in tools else usual(document)

    desk.estate.fr.script = searching
    words = (claude, "--allowedTools", "WebSearch", "-p", order)
    without, within = (
        desk.run(*through(f"{name}/x/y", "--", *words)) for name in ("openrouter", "searching")
    )

    assert "cannot run the server tool web_search" in without.stdout, without
    assert "https://trio.example/" in within.stdout, within
    assert "Trio is a library." in within.stdout


def test_an_agent_of_its_own(desk: Desk, claude: str) -> None:
    """S9: one command, the agent's model, its name in the ledger."""
    done = desk.run(*through("--agent", "code-reviewer", "--", claude, "-p", "hello"))

    assert done.stdout.strip() == "fo said: hello"
    assert desk.routes(1) == [(MODEL, "code-reviewer")]


def test_sub_agents_have_their_models_and_the_rest_is_anthropics(desk: Desk, claude: str) -> None:
    """S136: by their names in .claude/agents; nothing in their prompts says who they are."""
    desk.employ("code-reviewer", "writer")
    (desk.folder / "note.txt").write_text("the note\n")
    read = call("Read", file_path=str(desk.folder / "note.txt"))
    order = "go" + "".join(send(name, f"as {name}{read}") for name in ("code-reviewer", "writer", "Explore"))
    done = desk.run(*through("--", claude, *TOOLS, "-p", order))
    asked = sorted((route, agent or "") for route, agent in desk.routes(8))

    assert done.returncode == 0, done
    assert asked == [
        *[("front>anthropic", "")] * 2,
        *[("front>anthropic", "writer")] * 2,
        *[("front>ollama/codellama", "code-reviewer")] * 2,
        *[("front>openrouter/x/y", "Explore")] * 2,
    ]
    home, others = desk.estate.fa.asked, desk.estate.fo.requests + desk.estate.fr.requests
    assert all(seen.headers["x-api-key"] == REAL_KEY for seen in home)
    assert REAL_KEY not in str([seen.headers for seen in others])
    assert "the note" in str(desk.estate.fo.sent)
    assert all(word in home[-1].body.decode() for word in ("fo got: ", "fr got: ", "fa got: "))
