"""An MCP server on stdin and stdout, whose tools have names and schemas that not every provider takes."""

from __future__ import annotations

import json
import sys
from typing import Any

SPOKEN = "look.up/it"
"""Claude Code replaces what Anthropic would not take in a name."""
LONG = "a_tool_whose_name_is_much_longer_than_the_sixty_four_letters_that_openai_takes"
_SCHEMA = {
    "type": "object",
    "properties": {
        "where": {"$ref": "#/$defs/Place"},
        "perhaps": {"type": ["string", "null"]},
        "one_or_many": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
    },
    "required": ["where"],
    "$defs": {"Place": {"type": "object", "properties": {"page": {"type": "integer"}, "line": True}}},
}
_TOOLS = [
    {"name": SPOKEN, "description": "Looks it up", "inputSchema": _SCHEMA},
    {"name": LONG, "inputSchema": {"type": "object"}},
]


def _result(method: str, given: dict[str, Any]) -> dict[str, Any]:
    if method == "initialize":
        about = {"name": "odd", "version": "1"}
        return {
            "protocolVersion": given["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": about,
        }
    if method == "tools/list":
        return {"tools": _TOOLS}
    if method == "tools/call":
        text = f"{given['name']} was given {json.dumps(given.get('arguments'))}"
        return {"content": [{"type": "text", "text": text}]}
    return {}


def main() -> None:
    """One JSON document per line, until there are no more."""
    for line in sys.stdin:
        asked = json.loads(line)
        if "id" in asked:
            result = _result(asked["method"], asked.get("params", {}))
            sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
