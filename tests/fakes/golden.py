"""Golden cases of a dialect: what a client asks, what the provider is sent and answers, what the client gets.

A case is one JSON file: `about`, `ask`, and of these what matters to it:

- `terms`: what is known of the provider (`model`, `window`, `max_output`, `capabilities`, `facts`, `options`);
- `sent`: the body that the provider gets;
- `refused`: kind and message of the refusal, when the provider gets nothing;
- `upstream`: the answer's body, a list of texts whose borders mean nothing; with `status` other than 200 it is
  an error's, with `headers`;
- `events`: what the client's stream says behind `message_start`, as pairs of name and data;
- `failure`: kind and message of what ended it, and how long the provider asks to wait.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import attrs
from fakes import grammar

from modelproxy.worker.contract import Options
from modelproxy.worker.dialects.seam import Decoder, Dialect, NewId, Terms
from modelproxy.worker.failures import Failure, Kind, Refused
from modelproxy.worker.wire import asks, codec
from modelproxy.worker.wire.anthropic import Head, Stream
from modelproxy.worker.wire.asks import Ask
from modelproxy.worker.wire.items import Item

CASES = Path(__file__).parents[1] / "cases"


def paths(dialect: str) -> list[Path]:
    """The cases of one dialect."""
    return sorted((CASES / dialect).glob("*.json"))


def answers() -> list[tuple[str, Any]]:
    """All cases of which it is written down what their client reads, by name."""
    found = []
    for dialect in ("ollama", "openai", "openrouter"):
        for path in paths(dialect):
            written = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(written, dict) and "events" in written:
                found.append((f"{dialect}/{path.stem}", written))
    return found


def terms(provider: str, known: dict[str, Any]) -> Terms:
    """Terms as a case writes them down."""
    capabilities = known.get("capabilities")
    return Terms(
        provider=provider,
        model=known.get("model", "qwen3"),
        options=Options(**known.get("options", {})),
        api_key=known.get("api_key"),
        window=known.get("window"),
        max_output=known.get("max_output"),
        capabilities=None if capabilities is None else frozenset(capabilities),
        facts=known.get("facts", {}),
    )


def ids() -> NewId:
    """`toolu_1`, `toolu_2`, …"""
    count = itertools.count(1)
    return lambda prefix: f"{prefix}{next(count)}"


@attrs.frozen
class Case:
    """One file."""

    path: Path
    written: dict[str, Any]
    ask: Ask
    terms: Terms

    @classmethod
    def read(cls, path: Path, provider: str) -> Case:
        """Load a case."""
        written = json.loads(path.read_text(encoding="utf-8"))
        ask = asks.ask(json.dumps(written["ask"]).encode())
        return cls(path, written, ask, terms(provider, written.get("terms", {})))

    @property
    def upstream(self) -> bytes:
        """The body of the provider's answer."""
        return "".join(self.written.get("upstream", [])).encode("utf-8", "surrogateescape")

    def play(self, dialect: Dialect) -> dict[str, Any]:
        """What really happens, in the words of a case."""
        found: dict[str, Any] = {}
        try:
            found["sent"] = codec.loads(dialect.call(self.ask, self.terms).body)
        except Refused as refused:
            return {"refused": _told(refused.failure)}
        if self.written.get("status", 200) != 200:
            headers = [(name.encode(), value.encode()) for name, value in self.written.get("headers", [])]
            failure = dialect.failure(self.ask, self.terms, self.written["status"], headers, self.upstream)
            return {**found, "failure": _told(failure)}
        if "upstream" in self.written:
            found.update(self.streamed(items(dialect, self.ask, self.terms, self.upstream)))
        return found

    def streamed(self, said: list[Item]) -> dict[str, Any]:
        """What a client's stream makes of items; its grammar is checked."""
        data, failure = stream(self.ask, said)
        events = grammar.check(data).events[1:]
        return {
            "events": [list(event) for event in events],
            **({"failure": _told(failure)} if failure else {}),
        }


def items(dialect: Dialect, ask: Ask, known: Terms, body: bytes, cuts: list[int] | None = None) -> list[Item]:
    """The items of an answer whose body came in pieces."""
    decoder = dialect.decoder(ask, known, new_id=ids())
    edges = [0, *sorted(cuts or []), len(body)]
    found: list[Item] = []
    for start, end in itertools.pairwise(edges):
        found += _all(decoder, decoder.feed(body[start:end]))
    return found + _all(decoder, decoder.end())


def _all(decoder: Decoder, found: list[Item]) -> list[Item]:
    while more := decoder.rest():
        found += more
    return found


def stream(ask: Ask, said: list[Item]) -> tuple[bytes, Failure | None]:
    """The bytes of the client's stream, and what ended it early."""
    writer = Stream(Head.of(ask, message_id="msg_1", request_id="req_1"))
    data = writer.start() + writer.feed(said) + writer.end()
    if writer.failure is not None:
        data += writer.fail(writer.failure)
    return data, writer.failure


def _told(failure: Failure) -> dict[str, Any]:
    wait = {} if failure.retry_after_s is None else {"wait_s": failure.retry_after_s}
    return {"kind": Kind(failure.kind).value, "message": failure.message, **wait}
