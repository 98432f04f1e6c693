"""config.toml with every key in it, explained and commented out: generated from `schema`. Pure.

`proxyctl config init` writes it; `docs/config.example.toml` is the same below a few lines that are in force.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from . import schema
from .toml_lines import Path
from .values import Field, ListOf, Section, TableOf, Text, Value

HEAD = """\
# modelproxy's configuration. It lies at ~/.config/modelproxy/config.toml (below $XDG_CONFIG_HOME if that is set).
# A change is applied within 2 s (or by `proxyctl reload`) to the proxies that it concerns, by a roll, so that no
# request fails. A file with mistakes is not used: the last good one holds, and `proxyctl ps` says so.
#
# `proxyctl config set KEY VALUE` changes a line and keeps the rest, `proxyctl config validate` checks all of it,
# `proxyctl config show --origin` tells what holds and who said it: a flag goes before the environment, that before
# the project's file (.modelproxy.toml in the folder where you are), that before this file, that before what is
# built in. A project's file may say aliases, proxies and models; where keys and prompts go (providers, fallback)
# only after `proxyctl config trust`.
#
# Five providers are built in and need no table:
#
#   ollama       http://127.0.0.1:11434
#   openrouter   https://openrouter.ai/api/v1, key from OPENROUTER_API_KEY
#   openai       https://api.openai.com/v1, key from OPENAI_API_KEY
#   anthropic    https://api.anthropic.com; without a key the caller's own credential is passed on
#   echo         built in, needs nothing
#
# Another modelproxy is a provider once [remotes.NAME] says where it is: `proxyctl up remote/NAME/ollama/codellama`.
#
# Durations are seconds or texts like "500ms", "10s", "5m", "1h"; sizes are texts like "500M", "2G".
"""

IN_FORCE = """
default_port = 3456

[providers.work]                        # any server with an OpenAI-compatible /chat/completions
kind = "openai"
base_url = "https://llm.example.net/v1"
api_key_env = "WORK_API_KEY"

[aliases]
local = "ollama/qwen3-coder:30b"        # `proxyctl up local`
"claude-haiku-*" = "ollama/qwen3:8b"

[proxies.coder]                         # `proxyctl up coder`
model = "local"
port = 3457
max_output_tokens = 8192

[models]
default = "claude"                      # its own model, without a proxy
agents = { code-reviewer = "coder" }
"""

_WIDTH = 110


def text(*, in_force: bool = False) -> str:
    """The whole file; with `in_force`, below an example that holds as it stands."""
    lines = "".join(f"{line}\n" for line in _section(schema.ROOT, ""))
    return HEAD + (IN_FORCE if in_force else "") + "\n# --- Every key there is. " + "-" * 86 + "\n" + lines


def about(path: Path) -> str:
    """The part of it that is about one key or table. KeyError: there is none."""
    found = schema.at(path)
    if found is None:
        raise KeyError(schema.dotted(path))
    value = found.value if isinstance(found, Field) else found
    inner = _tables_of(value)
    if inner is not None:
        header = schema.dotted(path) + ("" if isinstance(value, Section) else ".NAME")
        words = _comment(found.sentence()) if isinstance(found, Field) else ()
        lines = [*words, f"#[{header}]", *_section(inner, f"{header}.")]
    elif isinstance(found, Field):
        lines = list(_key(str(path[-1]), found))
    else:  # one of a table of names: what is said of the table
        return about(path[:-1])
    return "".join(f"{line}\n" for line in lines).lstrip("\n")


def _section(section: Section, path: str) -> Iterator[str]:
    """Plain keys first: in TOML, what follows a table's header belongs to the table."""
    below = {name: field for name, field in section.fields.items() if _tables_of(field.value) is not None}
    for name, field in section.fields.items():
        if name not in below:
            yield from _key(name, field)
    for name, field in below.items():
        inner = _tables_of(field.value)
        assert inner is not None
        header = f"{path}{name}" if isinstance(field.value, Section) else f"{path}{name}.NAME"
        yield ""
        yield from _comment(field.sentence())
        yield f"#[{header}]"
        yield from _section(inner, f"{header}.")


def _tables_of(value: Value) -> Section | None:
    """The section that stands below the key, if one does."""
    if isinstance(value, Section):
        return value
    return value.kind if isinstance(value, TableOf) and isinstance(value.kind, Section) else None


def _key(name: str, field: Field) -> Iterator[str]:
    yield ""
    before = f"The variable {field.env} goes before it." if field.env else ""
    yield from _comment(" ".join(filter(None, (field.sentence(), _range(field.value), before))))
    yield f"#{name} = {field.example}"


def _range(value: Value) -> str:
    """What it must be, unless that says no more than the example."""
    words = value.kind.words if isinstance(value, ListOf) else value.words
    return "" if type(value) is Text or words[:6] == "a text" else f"({words})"


def _comment(words: str) -> Iterator[str]:
    for line in textwrap.wrap(words, _WIDTH - 2, break_long_words=False, break_on_hyphens=False):
        yield f"# {line}"
