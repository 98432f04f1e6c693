"""Every key of config.toml: what it may be, what it means, who may say it. Pure.

One table for everything that must agree: validation, the JSON schema for editors, the documented example,
`config get` and `set`, and what a project's file is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from modelproxy.worker.model_ids import REMOTE

from .toml_lines import Path
from .values import (
    HEADER_NAME,
    Amount,
    Choice,
    Field,
    Flag,
    Header,
    KeyFile,
    ListOf,
    Name,
    Named,
    OneOf,
    Report,
    Seconds,
    Section,
    Size,
    TableOf,
    Text,
    TokenHash,
    Url,
    Value,
    Variable,
    Whole,
)

DEFAULT_PORT = 3456
MAX_IDLE_STOP_S = 7 * 86400.0
KINDS = ("echo", "ollama", "openrouter", "openai", "anthropic")
"""Each is the name of a built-in provider as well."""
SERVERS = (
    "openai", "openrouter", "vllm", "llama.cpp", "lmstudio", "groq", "deepseek", "moonshot", "mistral", "gemini",
    "xai", "together", "fireworks", "cerebras",
)  # fmt: skip
"""As in the worker's table of servers; a test compares the two, because the packages share no code."""
_LOADS = ("ollama",)
_COMPLETIONS = ("openrouter", "openai")
_TRANSLATED = (*_LOADS, *_COMPLETIONS)
NATIVE = ("claude", "default", "anthropic")
"""What an agent's model is called when it is the agent's own: no proxy."""

RESERVED = dict.fromkeys(NATIVE, "an agent's own model") | {
    "front": "the front door",
    "all": "every proxy",
    "none": "no other target",
}
"""Words of ours, and what they mean where a model or a proxy is wanted: nothing else can be called so."""

_CAPABILITIES = ("tools", "vision", "thinking", "documents", "schema")
_GRACE = Seconds(0.0, 86400.0, "from 0 to a day")
_PING = Seconds()
_WINDOW = Whole(512, 100_000_000)
_OUTPUT = Whole(1, 10_000_000)
_ABILITIES = ListOf("a list of texts", Choice(*_CAPABILITIES))


def _key_fields(what: str, default_variable: str) -> dict[str, Field]:
    return {
        "api_key": Field(
            Text(),
            f"{what}'s key itself; then keep this file private. At most one of the four api_key… may be said",
            example='"sk-…"',
            secret=True,
            project="trusted",
        ),
        "api_key_env": Field(
            Variable(),
            "the key is in this variable, in the supervisor's environment or else in that of the shell that says "
            "`up`; it goes before every other key but a flag's",
            example='"WORK_API_KEY"',
            default=default_variable,
            project="trusted",
        ),
        "api_key_file": Field(
            KeyFile(), "a file with the key on its one line", example='"~/.keys/work"', project="trusted"
        ),
        "api_key_command": Field(
            Text(),
            "a shell command that prints the key on one line, within 20 s",
            example='"pass show work"',
            project="trusted",
        ),
    }


KEY_FIELDS = tuple(_key_fields("", ""))
"""Where a key may come from; one of them."""

PROVIDER = Section(
    {
        "kind": Field(
            Choice(*KINDS),
            "what speaks there; a table named like a kind has that kind and changes what it says of it",
            example='"openai"',
            default="[NAME, if it is one]",
        ),
        "base_url": Field(
            Url(),
            "where; http or https. Required when an openai server has a name of its own",
            example='"https://llm.example.net/v1"',
            default="[the kind's own]",
        ),
        **_key_fields(
            "the provider",
            "[OPENROUTER_API_KEY, OPENAI_API_KEY for these two; then what `proxyctl keys set` keeps]",
        ),
        "connect_timeout": Field(
            Seconds(),
            "how long a connection may take",
            example='"10s"',
            default="[5 s on this machine, 10 s elsewhere]",
        ),
        "first_byte_timeout": Field(
            Seconds(),
            "until something meaningful comes; a local model may have to be loaded first",
            example='"5m"',
            default='"5m"',
        ),
        "idle_timeout": Field(
            Seconds(),
            "between two pieces of an answer",
            example='"2m"',
            default="[5 min on this machine, 2 min elsewhere]",
        ),
        "total_timeout": Field(Seconds(), "over everything", example='"1h"', default="[no limit]"),
        "hold": Field(
            Seconds(),
            "how long the 200 waits for the answer to begin, so that a failure before is a real status; "
            "then the stream begins",
            example='"10s"',
            default='"10s"',
        ),
        "ping": Field(
            _PING,
            "silence on an open stream after which the client gets a `ping`",
            example='"10s"',
            default='"10s"',
        ),
        "context_window": Field(
            _WINDOW, "tokens of prompt and answer", example="131072", default="[what it says itself]"
        ),
        "max_output_tokens": Field(
            _OUTPUT,
            "when more is asked for, this is asked for",
            example="32000",
            default="[what it says itself]",
        ),
        "capabilities": Field(
            _ABILITIES,
            "what the model can; the list is complete",
            example='["tools", "vision"]',
            default="[what it says itself; where it says nothing, nothing is withheld]",
        ),
        "num_ctx": Field(
            OneOf('"auto" or a whole number from 512 to 100000000', Choice("auto"), _WINDOW),
            'Ollama: the window to load the model with. "auto": the num_ctx of its Modelfile, else its own '
            "window up to 65536 (more if it is loaded so)",
            example='"auto"',
            default='"auto"',
            kinds=_LOADS,
        ),
        "keep_alive": Field(
            OneOf(
                'a text like "10m" or "1h30m", or a number of seconds',
                Text("a span", r"([-+]?(\d+(\.\d*)?(ns|us|ms|s|m|h))+|0)"),  # as Ollama takes it
                Whole(-(2**31), 2**31),
            ),
            "Ollama: how long the model stays loaded; -1: for ever",
            example='"10m"',
            default="[Ollama's own, 5 min]",
            kinds=_LOADS,
        ),
        "think": Field(
            TableOf(
                'a table of model = true, false or "low", "medium", "high"',
                OneOf('true, false or "low", "medium", "high"', Flag(), Choice("low", "medium", "high")),
            ),
            "Ollama: per model, whether it thinks",
            example='{ "qwen3:8b" = false, "gpt-oss" = "low" }',
            default="[what the client asks]",
            kinds=_LOADS,
        ),
        "tool_images": Field(
            Choice("lift", "inline"),
            "Ollama: where pictures of a tool's result go: behind the results (lift), or with the result itself "
            "(inline), which not every version and template reads",
            example='"inline"',
            default='"lift"',
            kinds=_LOADS,
        ),
        "pdf_to_text": Field(
            Text(),
            "a shell command that reads a PDF from its standard input and writes its text to its standard "
            "output, within 20 s and 4 GiB of memory: what a model is shown of a PDF whose server takes no files",
            example='"pdftotext -layout - -"',
            default="[a PDF is only named]",
            project="trusted",
            kinds=_TRANSLATED,
        ),
        "fetch_images": Field(
            Flag(),
            "pictures of which a request has only the address are fetched by the proxy and sent along, for "
            "servers that take no addresses; never from this machine or its network",
            example="true",
            default="false",
            project="trusted",
            kinds=_TRANSLATED,
        ),
        "tool_stream": Field(
            Choice("buffered", "live"),
            "chat completions: when a streamed call reaches the client: whole and repaired when the answer has "
            "ended (buffered), or while it is being written (live), and then one that is broken is an error",
            example='"live"',
            default='"buffered"',
            kinds=_COMPLETIONS,
        ),
        "tools_unsupported": Field(
            Choice("error", "strip", "prompt"),
            "what becomes of tools, for a model that can call none: the request is refused (error), they are left "
            "out (strip), or the prompt describes them and calls are read out of the text (prompt)",
            example='"prompt"',
            default='"error"',
            kinds=_TRANSLATED,
        ),
        "tool_schemas": Field(
            Choice("strict"),
            "chat completions, for small gateways that refuse much of JSON Schema: limits, patterns, formats, "
            "defaults and the like are said in descriptions instead",
            example='"strict"',
            default="[as the server is known to take them, mostly as they are]",
            kinds=_COMPLETIONS,
        ),
        "headers": Field(
            TableOf("a table of texts", Header(), HEADER_NAME, "is not the name of a header"),
            "sent along with every request; they win over ours",
            example='{ "x-team" = "blue" }',
            secret=True,
        ),
        "server": Field(
            Choice(*SERVERS),
            'which server an "openai" one is',
            example='"vllm"',
            default="[by its name, its address or what its list says]",
            kinds=_COMPLETIONS,
        ),
        "web_search": Field(
            Flag(),
            "OpenRouter: a client's web search is run by OpenRouter's own, which costs extra. false: a request for "
            "nothing else is refused, beside other tools it is left out",
            example="true",
            default="false",
            kinds=("openrouter",),
        ),
        "picker_alias": Field(
            TableOf(
                'a table of model = "claude-…" or "anthropic-…"',
                Text('"claude-…" or "anthropic-…"', r"(claude|anthropic)[\w.:/-]*"),
            ),
            "per model: its id in Claude Code's picker, claude… or anthropic…",
            example='{ "qwen3:8b" = "claude-qwen" }',
            default="[made of its name]",
        ),
        "api": Field(
            Choice("anthropic"),
            "the server speaks /v1/messages itself: its bytes are passed through",
            example='"anthropic"',
            default="[translated, as `kind` says]",
        ),
        "retries": Field(
            Whole(0, 10),
            "how often a request is repeated before its first item, when the provider was not reached or asks "
            "for little patience. More than 2 are 2",
            example="0",
            default="0",
        ),
    }
)

PROXY = Section(
    {
        "model": Field(
            Name(),
            "provider/model-name, or an alias. A table that is named like a model id needs none",
            example='"ollama/qwen3-coder:30b"',
        ),
        "port": Field(Whole(1, 65535), "its port", example="3457", default="[default_port or the next free]"),
        "autostart": Field(
            Flag(),
            "bring it up when the supervisor starts, unless it was taken down by hand",
            example="true",
            default="false",
            project="never",
        ),
        "lazy": Field(
            Flag(),
            "open the port at `up`, start the worker at the first connection",
            example="true",
            default="false",
        ),
        "idle_stop": Field(
            Seconds(1.0, MAX_IDLE_STOP_S, "from 1 s to 168 h, or 0 for never", or_none=True),
            "end the worker after so long without a request; the next connection brings it back",
            example='"15m"',
            default="[never]",
        ),
        "max_rss": Field(
            Size("16M", "1024G"),
            "replace a worker that holds more memory, without a failed request",
            example='"500M"',
            default="[no limit]",
        ),
        "grace": Field(
            _GRACE,
            "how long requests in flight may go on when it is taken down",
            example='"30s"',
            default='"30s"',
        ),
        "fallback": Field(
            ListOf('a list of model ids, aliases, names of proxies or "anthropic"', Name()),
            "who answers when the model's provider cannot, in this order. A proxy's name: its model, with what "
            "its table says of that. anthropic: with the caller's own request and credential",
            example='["openrouter/qwen/qwen3-coder", "anthropic"]',
            default="[nobody]",
            project="trusted",
        ),
        "max_concurrent": Field(
            Whole(1, 10_000),
            "requests that are with a provider at the same time; others wait in line",
            example="2",
            default="[no limit]",
        ),
        "rpm": Field(Whole(1, 1_000_000), "requests per minute", example="60", default="[no limit]"),
        "queue_size": Field(
            Whole(1, 100_000), "requests that may wait in line", example="100", default="[no limit]"
        ),
        "queue_timeout": Field(
            Seconds(0.1), "how long each of them may wait", example='"2m"', default="[no limit]"
        ),
        "max_body": Field(Size("1K", "1G"), "how large a request may be", example='"8M"', default='"32M"'),
        "max_context": Field(
            Whole(100, 100_000_000),
            "tokens that a prompt may have, by our estimate",
            example="100000",
            default="[no limit]",
        ),
        "require_token": Field(
            Flag(),
            "only requests with an access token are taken",
            example="true",
            default="[as above]",
            project="never",
        ),
        "request_timeout": Field(
            Seconds(0.1),
            "from a request's head to the end of its answer, waiting included",
            example='"1h"',
            default="[no limit]",
        ),
        "context_window": Field(
            _WINDOW, "told to clients, and enforced before anything is sent", example="65536"
        ),
        "max_output_tokens": Field(_OUTPUT, "as of a provider, for this proxy", example="8192"),
        "capabilities": Field(_ABILITIES, "as of a provider, for this proxy", example='["tools", "vision"]'),
        "retries": Field(Whole(0, 10), "as of a provider, for this proxy", example="2"),
        "hold": Field(Seconds(), "as of a provider, for this proxy", example='"10s"'),
        "ping": Field(_PING, "as of a provider, for this proxy", example='"10s"'),
    }
)

MODELS = Section(
    {
        "default": Field(
            Name(),
            "what an agent without an entry of its own uses: a model id, an alias, a named proxy, or "
            '"claude" (its own model, without a proxy)',
            example='"claude"',
            default='"claude"',
            env="MODELPROXY_MODEL",
        ),
        "fallback": Field(
            Flag(),
            "start an agent with its own model when its proxy cannot be brought up",
            example="true",
            default="true",
            env="MODELPROXY_FALLBACK",
        ),
        "agents": Field(
            TableOf("a table of agent = model", Name()),
            "the same per agent, by name or by a glob with * and ?; an exact name goes before the longest glob",
            example='{ code-reviewer = "ollama/codellama" }',
        ),
    }
)

TOKEN = Section(
    {
        "sha256": Field(
            TokenHash(),
            "the token's hash, by which it is known again; `proxyctl tokens add NAME` makes both",
            example='"' + "0123456789abcdef" * 4 + '"',
        ),
        "rpm": Field(
            Whole(1, 1_000_000), "requests per minute, in each proxy", example="60", default="[no limit]"
        ),
        "max_concurrent": Field(
            Whole(1, 10_000),
            "requests that are with a provider at the same time, in each proxy; others wait in line",
            example="2",
            default="[no limit]",
        ),
        "proxies": Field(
            ListOf("a list of globs", Name()),
            "names of proxies or model ids at which it is good; globs. At a front: also at all that it leads to",
            example='["coder", "ollama/*"]',
            default='["*"]',
        ),
    }
)

FRONT_RULE = Section(
    {
        "agent": Field(
            Name(), "the agent's name, or the id that Claude Code gives it; a glob", example='"code-*"'
        ),
        "model": Field(Name(), "the model that the request asks for; a glob", example='"claude-haiku-*"'),
        "request": Field(
            Choice("main", "subagent", "background", "web_search", "count_tokens", "other"),
            "the class of the request",
            example='"background"',
        ),
        "marker": Field(Text(), "words in the system prompt", example='"<review>"'),
        "session": Field(Name(), "the id of Claude Code's session; a glob", example='"4f0c*"'),
        "to": Field(
            Name(), "a named proxy, a model id, an alias, or anthropic", example='"ollama/codellama"'
        ),
    }
)
GLOBS = ("agent", "model", "session")
"""Of a rule's."""
FRONT = Section(
    {
        "rules": Field(
            ListOf('a list of tables like { agent = "code-*", to = "ollama/codellama" }', FRONT_RULE),
            "the first that fits decides; all that a rule says must hold",
            example='[{ agent = "code-*", to = "ollama/codellama" }, { model = "claude-haiku-*", to = "local" }]',
        ),
        "otherwise": Field(
            Name(), "where everything else goes", example='"anthropic"', default='"anthropic"'
        ),
        "port": Field(Whole(1, 65535), "its port", example="3456", default="[default_port or the next free]"),
        "autostart": Field(
            Flag(),
            "bring it up when the supervisor starts, unless it was taken down by hand",
            example="true",
            default="false",
        ),
        "require_token": Field(
            Flag(),
            "only requests with an access token are taken at this door",
            example="true",
            default="[as above]",
        ),
    }
)

PRICE = Section(
    {
        "input": Field(Amount(), "USD per million tokens", example="0.5"),
        "output": Field(Amount(), "the same for the answer", example="1.5"),
        "cache_read": Field(Amount(), "the same for what was read from the cache", example="0.05"),
        "cache_write": Field(Amount(), "the same for what was written to it", example="0.6"),
    }
)

OTHER = Section(
    {
        "url": Field(
            Url("its token is kept by proxyctl keys set remote/NAME"),
            "where a proxy or a front of the other modelproxy is reached; plain http only through a tunnel or in "
            "a network that you trust",
            example='"https://box.example.net:8443"',
        ),
        **_key_fields("the other modelproxy", "[what `proxyctl keys set remote/NAME` keeps]"),
        "timeout_seconds": Field(
            Whole(1, 300), "how long a connection may take, in seconds", example="30", default="30"
        ),
        "retry_attempts": Field(
            Whole(0, 10),
            "how often a request is repeated before its first item, when it was not reached or asks for little "
            "patience. More than 2 are 2",
            example="2",
            default="2",
        ),
        "ca_file": Field(
            Text(),
            "the certificate that signs the server's",
            example='"~/.keys/office-ca.pem"',
            default="[the system's]",
            wired=False,
        ),
        "insecure": Field(
            Flag(),
            "plain http to another machine is meant, and `config validate` does not warn of it",
            example="true",
            default="false",
        ),
    }
)

ROOT = Section(
    {
        "default_port": Field(
            Whole(1, 65535),
            "the port of a proxy for which none is said; the next free one when a proxy of ours has it",
            example=str(DEFAULT_PORT),
            default=str(DEFAULT_PORT),
            env="MODELPROXY_DEFAULT_PORT",
        ),
        "spawn": Field(
            Choice("fork", "exec"),
            "how workers are started: each a new interpreter (exec), or copies of a process that has everything "
            "loaded (fork, Linux only). Read when the supervisor starts",
            example='"exec"',
            default="[fork where there is one]",
            project="never",
        ),
        "providers": Field(
            Named(PROVIDER), "`proxyctl up NAME/some-model` works", project="trusted", example="work"
        ),
        "aliases": Field(
            TableOf("a table of name = model id", Name()),
            "other names of models: exact ones, or globs with * and ?; the longest glob that fits wins. "
            "What stands for is a model id. front, all, none, claude, default and anthropic have a meaning already",
            example='{ local = "ollama/qwen3-coder:30b", "claude-haiku-*" = "ollama/qwen3:8b" }',
        ),
        "proxies": Field(
            Named(PROXY, model_ids=True),
            "`proxyctl up NAME` works. NAME may be a model id: then this holds for `up` of that model",
            example="coder",
        ),
        "models": Field(MODELS, "which model an agent uses"),
        "front": Field(
            Named(FRONT),
            "one port for a whole agent session",
            project="never",
            example="default",
        ),
        "require_token": Field(
            Flag(),
            "proxies take only requests with an access token; [proxies.NAME] and [front.NAME] may say otherwise",
            example="true",
            default="false",
            project="never",
        ),
        "tokens": Field(
            Named(TOKEN),
            "access tokens and their limits. A client sends one as x-proxy-token, as authorization: Bearer or as "
            "x-api-key",
            project="never",
            example="ci",
        ),
        "prices": Field(
            TableOf("a table of tables", PRICE),
            "by model id or glob, where the provider tells no price",
            project="never",
            example='"work/*"',
            wired=False,
        ),
        "remotes": Field(
            Named(OTHER),
            "other modelproxies: `proxyctl up remote/NAME/some-model` works, where some-model is what NAME calls it",
            project="never",
            example="office",
        ),
    }
)


def read(document: dict[str, Any], report: Report) -> dict[str, Any]:
    """The document's values as the program wants them; everything wrong goes to `report`."""
    found: dict[str, Any] = ROOT.read(document, (), report)
    return found


def json_schema() -> dict[str, Any]:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "modelproxy's config.toml",
        **ROOT.schema(),
    }


def at(path: Path) -> Field | Value | None:
    """The key at `path`, or the kind of what an author names himself (`aliases.local`); None: there is none."""
    here: Field | Value = ROOT
    for part in path:
        value = here.value if isinstance(here, Field) else here
        if isinstance(value, Section):
            field = value.fields.get(str(part))
            if field is None:
                return None
            here = field
        elif isinstance(value, TableOf) or (isinstance(value, ListOf) and isinstance(part, int)):
            here = value.kind
        else:
            return None
    return here


def value_at(path: Path) -> Value | None:
    found = at(path)
    return found.value if isinstance(found, Field) else found


def fields_on(path: Path) -> Iterator[Field]:
    """The fields from the root down to `path`: a mark on one of them holds for all below."""
    for length in range(1, len(path) + 1):
        found = at(path[:length])
        if isinstance(found, Field):
            yield found


def is_secret(path: Path) -> bool:
    return any(field.secret for field in fields_on(path))


def provider_path(name: str) -> Path:
    """The table that says of a provider what it is: `remotes.office` of `remote/office`."""
    kind, slash, remote = name.partition("/")
    return ("remotes", remote) if slash and kind == REMOTE else ("providers", name)


def dotted(path: Path) -> str:
    """`aliases."claude-haiku-*"`; as one would type it."""
    return ".".join(_part(part) for part in path)


def _part(part: str | int) -> str:
    if isinstance(part, int) or (
        part and all(char.isalnum() or char in "_-" for char in part) and part.isascii()
    ):
        return str(part)
    return json.dumps(part, ensure_ascii=False)
