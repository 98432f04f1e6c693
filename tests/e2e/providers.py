"""Fake providers that speak as the real ones do, and a home with proxies before them.

`FO`, `FR` and `FA` of the behaviours are `Ollama`, `Router` and `Anthropic` here. What the model says next
is one `Said`, whatever the protocol and the mode; `instead` gives anything else.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import attrs
from fakes import grammar
from fakes.house import House, ask
from fakes.upstream import Reply, Seen, Upstream

PROVIDERS = """
[providers.anthropic]
base_url = "{fa}"
[providers.ollama]
base_url = "{fo}"
[providers.openrouter]
base_url = "{fr}"
api_key = "sk-or-v1-configured"
"""
"""For `estate`: all three, as they are mostly configured."""
KEY = "sk-or-v1-the-key-of-the-house-0123456789"
SDK_LIMIT_S = 20.0
Call = tuple[str, Any]
"""A tool's name and its arguments."""


@attrs.frozen
class Said:
    """What the model says."""

    pieces: tuple[str, ...] = ("Hel", "lo")
    calls: tuple[Call, ...] = ()
    thinking: str = ""
    finish: str | None = None
    """None: what fits; an empty text: the answer does not say why it ends."""
    usage: dict[str, Any] = attrs.Factory(dict)
    pause: float = 0.0
    sources: tuple[tuple[str, str], ...] = ()
    """Title and address of what a router's search found; said behind the text."""
    id: str = "msg_far"
    """What Anthropic calls it; Claude Code takes two of the same id for one."""


def lines(*documents: dict[str, Any]) -> tuple[bytes, ...]:
    """NDJSON, each line a piece of its own."""
    return tuple(json.dumps(one).encode() + b"\n" for one in documents)


def data(*documents: dict[str, Any] | str) -> tuple[bytes, ...]:
    """Events of a stream without names, each a piece of its own."""
    texts = (one if isinstance(one, str) else json.dumps(one) for one in documents)
    return tuple(f"data: {text}\n\n".encode() for text in texts)


def held(pieces: tuple[bytes, ...]) -> int:
    """How many bytes these are as chunks."""
    return sum(len(b"%x\r\n%b\r\n" % (len(piece), piece)) for piece in pieces)


class _Far(Upstream):
    """A provider; `chat` is the path that its model is asked at."""

    chat = ""

    def __init__(self, *, port: int = 0) -> None:
        super().__init__(self._script_of, port=port)
        self.said = Said()
        self.script: Callable[[Any], Said] | None = None
        """What is said to a request's document, where it is not `said`."""
        self.models = ["codellama"]

    @property
    def base(self) -> str:
        """For `--base-url`."""
        return self.url

    @property
    def asked(self) -> list[Seen]:
        """The requests to the model."""
        return self.to(self.chat)

    @property
    def sent(self) -> Any:
        """What the model was asked last."""
        return self.asked[-1].json()

    def say(self, *pieces: str, **more: Any) -> None:
        self.said = Said(pieces or ("Hel", "lo"), **more)

    def instead(self, *replies: Reply) -> None:
        """Answer the model's path so; without any: as usual."""
        self.on(self.chat, *replies)

    def hold(self) -> threading.Semaphore:
        """Each piece of an answer behind the first one waits for a release, until `reset`."""
        gate = threading.Semaphore(0)
        usual = self.answer(Seen("POST", self.chat, {}, b'{"stream":true}', 0))
        self.instead(attrs.evolve(usual, gate=gate))
        return gate

    def saying(self, seen: Seen) -> Said:
        """What the model says to this request."""
        return self.said if self.script is None else self.script(seen.json())

    def reset(self) -> None:
        self.said = Said()
        self.script = None
        self.instead()
        self.requests.clear()

    def _script_of(self, seen: Seen) -> Reply:
        if seen.path == self.chat:
            return self.answer(seen)
        return self.other(seen)

    def answer(self, seen: Seen) -> Reply:
        raise NotImplementedError

    def other(self, seen: Seen) -> Reply:
        return Reply(404, b'{"error":"not found"}')


class Ollama(_Far):
    """FO."""

    chat = "/api/chat"

    def answer(self, seen: Seen) -> Reply:
        said = self.saying(seen)
        return Reply(
            body=self.spoken(said),
            headers=(("content-type", "application/x-ndjson"),),
            framing="chunked",
            pause=said.pause,
        )

    def spoken(self, said: Said) -> tuple[bytes, ...]:
        """The lines of one answer; Ollama is always asked for a stream."""
        found: list[dict[str, Any]] = []
        if said.thinking:
            found.append({"message": {"role": "assistant", "content": "", "thinking": said.thinking}})
        found += [{"message": {"role": "assistant", "content": piece}} for piece in said.pieces]
        if said.calls:
            calls = [{"function": {"name": name, "arguments": given}} for name, given in said.calls]
            found.append({"message": {"role": "assistant", "content": "", "tool_calls": calls}})
        last = {
            "message": {"role": "assistant", "content": ""},
            "done": True,
            "done_reason": "stop" if said.finish is None else said.finish,
            **({"prompt_eval_count": 21, "eval_count": 7} | said.usage),
        }
        stamp = {"model": "codellama", "created_at": "2025-01-01T00:00:00Z", "done": False}
        return lines(*(stamp | one for one in (*found, last)))

    def other(self, seen: Seen) -> Reply:
        if seen.path == "/api/tags":
            named = [{"name": f"{name}:latest", "model": name, "digest": name} for name in self.models]
            return Reply(body=json.dumps({"models": named}).encode())
        if seen.path == "/api/show":
            show = {
                "capabilities": ["completion", "tools", "vision", "thinking"],
                "model_info": {"general.architecture": "llama", "llama.context_length": 131072},
                "details": {"family": "llama"},
            }
            return Reply(body=json.dumps(show).encode())
        if seen.path == "/api/ps":
            return Reply(body=b'{"models":[]}')
        return super().other(seen)


class Router(_Far):
    """FR, and any other server that speaks chat completions."""

    chat = "/api/v1/chat/completions"

    @property
    def base(self) -> str:
        return f"{self.url}/api/v1"

    def answer(self, seen: Seen) -> Reply:
        said = self.saying(seen)
        if seen.json().get("stream"):
            return Reply(
                body=self.streamed(said),
                headers=(("content-type", "text/event-stream"),),
                framing="chunked",
                pause=said.pause,
            )
        return Reply(body=json.dumps(self.whole(said)).encode())

    def whole(self, said: Said) -> dict[str, Any]:
        """The answer to a request that wants no stream."""
        message: dict[str, Any] = {"role": "assistant", "content": "".join(said.pieces)}
        if said.calls:
            message["tool_calls"] = self._calls(said)
        if said.thinking:
            message["reasoning"] = said.thinking
        if said.sources:
            message["annotations"] = self._annotations(said)
        choice = {"index": 0, "message": message, **self._finish(said)}
        return {"id": "gen-1", "object": "chat.completion", "choices": [choice], "usage": self._usage(said)}

    def streamed(self, said: Said) -> tuple[bytes, ...]:
        """The same as events."""
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        if said.thinking:
            deltas.append({"reasoning": said.thinking})
        deltas += [{"content": piece} for piece in said.pieces]
        if said.sources:
            deltas.append({"annotations": self._annotations(said)})
        for number, call in enumerate(self._calls(said)):
            function, arguments = call["function"], call["function"]["arguments"]
            half = len(arguments) // 2
            first = {**call, "index": number, "function": {**function, "arguments": arguments[:half]}}
            deltas.append({"tool_calls": [first]})
            deltas.append({"tool_calls": [{"index": number, "function": {"arguments": arguments[half:]}}]})
        stamp = {"id": "gen-1", "object": "chat.completion.chunk"}
        choices: list[dict[str, Any]] = [{"delta": one, "finish_reason": None} for one in deltas]
        choices.append({"delta": {}, **self._finish(said)})
        found = [stamp | {"choices": [{"index": 0, **choice}]} for choice in choices]
        bill = stamp | {"choices": [], "usage": self._usage(said)}
        return (b": OPENROUTER PROCESSING\n\n", *data(*found, bill, "[DONE]"))

    def _calls(self, said: Said) -> list[dict[str, Any]]:
        return [
            {
                "id": f"call_{number}",
                "type": "function",
                "function": {
                    "name": name,
                    "arguments": given if isinstance(given, str) else json.dumps(given),
                },
            }
            for number, (name, given) in enumerate(said.calls)
        ]

    def _annotations(self, said: Said) -> list[dict[str, Any]]:
        return [
            {"type": "url_citation", "url_citation": {"title": title, "url": url, "content": "an excerpt"}}
            for title, url in said.sources
        ]

    def _finish(self, said: Said) -> dict[str, Any]:
        usual = "tool_calls" if said.calls else "stop"
        return {"finish_reason": usual if said.finish is None else said.finish or None}

    def _usage(self, said: Said) -> dict[str, Any]:
        return {"prompt_tokens": 21, "completion_tokens": 7, "total_tokens": 28} | said.usage

    def other(self, seen: Seen) -> Reply:
        if seen.path == "/api/v1/models":
            return Reply(body=json.dumps({"data": [{"id": name} for name in self.models]}).encode())
        if seen.path == "/api/v1/key":
            return Reply(body=b'{"data":{"label":"x"}}')
        return super().other(seen)


class Anthropic(_Far):
    """FA."""

    chat = "/v1/messages"

    def answer(self, seen: Seen) -> Reply:
        said = self.saying(seen)
        if seen.json().get("stream"):
            return Reply(
                body=self.streamed(said),
                headers=(
                    ("content-type", "text/event-stream"),
                    ("request-id", "req_far_away"),
                    ("anthropic-ratelimit-requests-remaining", "7"),
                ),
                framing="chunked",
                pause=said.pause,
            )
        headers = (("content-type", "application/json"), ("request-id", "req_far_away"))
        return Reply(body=self.whole(said), headers=headers)

    def whole(self, said: Said | None = None) -> bytes:
        """With spaces and a field that nobody knows, so that a copy that was parsed is seen."""
        said = said or self.said
        message = {
            "id": said.id,
            "type": "message",
            "role": "assistant",
            "model": "claude-sonnet-4-5-20250929",
            "content": [{"type": "text", "text": "".join(said.pieces)}, *self._calls(said)],
            "stop_reason": "tool_use" if said.calls else "end_turn",
            "stop_sequence": None,
            "a_new_field": {"é": 1.0},
            "usage": {"input_tokens": 21, "output_tokens": 7},
        }
        return json.dumps(message, indent=2).encode()

    def _calls(self, said: Said) -> list[dict[str, Any]]:
        return [
            {"type": "tool_use", "id": f"toolu_{number}", "name": name, "input": given}
            for number, (name, given) in enumerate(said.calls)
        ]

    def streamed(self, said: Said | None = None) -> tuple[bytes, ...]:
        """The same as events."""
        said = said or self.said
        start = json.loads(self.whole(said)) | {"content": [], "stop_reason": None}
        block = {"type": "text", "text": ""}
        events: list[dict[str, Any]] = [
            {"type": "message_start", "message": start},
            {"type": "content_block_start", "index": 0, "content_block": block},
            {"type": "ping"},
        ]
        for piece in said.pieces:
            delta = {"type": "text_delta", "text": piece}
            events.append({"type": "content_block_delta", "index": 0, "delta": delta})
        events.append({"type": "content_block_stop", "index": 0})
        for index, call in enumerate(self._calls(said), 1):
            delta = {"type": "input_json_delta", "partial_json": json.dumps(call["input"])}
            events += [
                {"type": "content_block_start", "index": index, "content_block": call | {"input": {}}},
                {"type": "content_block_delta", "index": index, "delta": delta},
                {"type": "content_block_stop", "index": index},
            ]
        end = {"stop_reason": "tool_use" if said.calls else "end_turn", "stop_sequence": None}
        usage = {"input_tokens": 21, "output_tokens": 7}
        events += [{"type": "message_delta", "delta": end, "usage": usage}, {"type": "message_stop"}]
        return tuple(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode() for one in events)

    def other(self, seen: Seen) -> Reply:
        if seen.path == "/v1/models":
            return Reply(401, b'{"type":"error","error":{"type":"authentication_error","message":"no"}}')
        return super().other(seen)


# --- the home ---------------------------------------------------------------------------------------


@attrs.frozen
class Estate:
    """A home with its fakes and the ports of its proxies."""

    house: House
    fo: Ollama
    fr: Router
    fa: Anthropic
    ports: dict[str, int] = attrs.Factory(dict)

    def up(self, model: str, *words: str) -> int:
        """Bring a proxy up with the real command, once; its port."""
        if model not in self.ports:
            view = self.house.tell("up", model, "--port", "0", "--json", *words)
            self.ports[model] = view["port"]
        return self.ports[model]

    @property
    def ollama(self) -> int:
        return self.up("ollama/codellama", "--base-url", self.fo.base)

    @property
    def router(self) -> int:
        return self.up(ROUTED, "--base-url", self.fr.base, "--api-key", KEY)

    @property
    def anthropic(self) -> int:
        return self.up("anthropic/claude-sonnet-4-5", "--base-url", self.fa.base)

    def port(self, kind: str) -> int:
        port: int = getattr(self, kind)
        return port

    def far(self, kind: str) -> Ollama | Router:
        return self.fo if kind == "ollama" else self.fr

    def reset(self) -> None:
        for far in (self.fo, self.fr, self.fa):
            far.reset()

    def usage(self, *words: str) -> list[dict[str, Any]]:
        """The ledger's rows, the oldest first."""
        rows: list[dict[str, Any]] = self.house.tell("usage", "--json", *words)
        return rows


ROUTED = "openrouter/anthropic/claude-3-haiku"


@contextmanager
def estate(config: str = "", *, bad_workers: bool = False, arguments: Sequence[str] = ()) -> Iterator[Estate]:
    """`config` is a template: {fo}, {fr} and {fa} are the fakes' base URLs."""
    with ExitStack() as stack:
        fo, fr = stack.enter_context(Ollama()), stack.enter_context(Router())
        fa = stack.enter_context(Anthropic())
        house = stack.enter_context(House())
        folder = house.home / "config" / "modelproxy"
        folder.mkdir(parents=True)
        text = config.replace("{fo}", fo.base).replace("{fr}", fr.base).replace("{fa}", fa.base)
        (folder / "config.toml").write_text(text)
        (folder / "config.toml").chmod(0o600)
        house.start(bad_workers=bad_workers, arguments=arguments)
        yield Estate(house, fo, fr, fa)


# --- clients ----------------------------------------------------------------------------------------


def msg(content: Any = "Hello", **more: Any) -> dict[str, Any]:
    """MSG."""
    return {
        "model": "claude-sonnet-4-5",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": content}],
        **more,
    }


HEADERS = {"content-type": "application/json", "anthropic-version": "2023-06-01", "x-api-key": "dummy"}


def post(port: int, body: Any, path: str = "/v1/messages", **headers: str) -> Any:
    """One plain request as a client of the API sends it."""
    return ask(port, "POST", path, body, HEADERS | headers)


def stream(port: int, body: dict[str, Any]) -> grammar.Streamed:
    """A streamed answer, checked against the grammar."""
    answer = post(port, body | {"stream": True})
    assert answer.status == 200, answer
    assert answer.headers["content-type"].partition(";")[0] == "text/event-stream"
    return grammar.check(answer.body)


def message_of(port: int, body: dict[str, Any], *, streamed: bool) -> dict[str, Any]:
    """The answer as a message, however it came."""
    if streamed:
        said = stream(port, body)
        assert said.complete, said.error
        assert said.message is not None
        return said.message
    answer = post(port, body)
    assert answer.status == 200, answer
    found: dict[str, Any] = answer.json
    return found


def error_of(port: int, body: dict[str, Any], *, streamed: bool) -> dict[str, Any]:
    """The failure that ends an answer: a real status while nothing was sent, else an `error` event."""
    answer = post(port, body | {"stream": streamed})
    if answer.status == 200:
        assert streamed, f"a failure was told as an answer: {answer}"
        said = grammar.check(answer.body)
        assert not said.complete
        assert said.error is not None
        return said.error | {"status": None}
    document: dict[str, Any] = answer.json
    return document | {"status": answer.status}
