"""`proxyctl ask`: one message to a model, and its answer as text.

The same road as every client's: the proxy's port, and as `run` has it the credential of whoever asks where it may
be passed on. A failure is one line, in the provider's words where there are any.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
from collections.abc import Iterator
from typing import Any

from modelproxy.supervisor.paths import Paths

from . import doors, settings
from .environment import to_set
from .faults import Fault, say_json, say_part
from .leases import leased
from .names import FRONT
from .probe import headers
from .up import request

MAX_TOKENS = 8192
SILENCE_S = 600.0
"""A proxy says `ping` long before; without a stream a local model may have to be loaded first."""


def ask(
    paths: Paths,
    model: str,
    text: str,
    *,
    named: str | None = None,
    system: str | None = None,
    max_tokens: int = MAX_TOKENS,
    stream: bool = False,
    as_json: bool = False,
) -> None:
    """Print the answer. A proxy that is not up is brought up for it, and goes again.

    `named`: the model that the request names, which only a front goes by.
    """
    if named is not None or model.partition("/")[0] == FRONT:
        named = doors.model_for(settings.read(paths), model, named)
    body: dict[str, Any] = {
        "model": named,
        "max_tokens": max_tokens,
        "stream": stream,
        "messages": [{"role": "user", "content": text}],
    }
    if system is not None:
        body["system"] = system
    # Any port will do for one message: the usual one may be somebody else's.
    with leased(paths, request(model=model, port=0)) as view:
        body["model"] = named or view["model"]
        connection = http.client.HTTPConnection("127.0.0.1", int(view["port"]), timeout=SILENCE_S)
        try:
            with _its_trouble(view):
                response = _sent(connection, view, body)
            if stream:
                _print_stream(_events(response, view), as_json=as_json)
                return
            with _its_trouble(view):
                message = json.loads(response.read())
            _print_whole(message, as_json=as_json)
        finally:
            connection.close()


@contextlib.contextmanager
def _its_trouble(view: dict[str, Any]) -> Iterator[None]:
    """Around what the proxy says, and nothing else: a reader of ours who has read enough is no trouble of its."""
    try:
        yield
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise Fault("ask_failed", f"{view['name']} did not answer: {_words(error)}") from None


def _sent(
    connection: http.client.HTTPConnection, view: dict[str, Any], body: dict[str, Any]
) -> http.client.HTTPResponse:
    connection.request("POST", "/v1/messages", json.dumps(body), headers(view))
    response = connection.getresponse()
    if response.status != 200:
        fault = _failure(response.read(), f"status {response.status}")
        fault.hint = to_set(view, response.status, fault.message, os.environ)
        raise fault
    return response


def _print_whole(message: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        say_json(message)
        return
    text = "".join(block.get("text", "") for block in message["content"] if block.get("type") == "text")
    _end(text, text, message.get("stop_reason"))


def _print_stream(events: Iterator[dict[str, Any]], *, as_json: bool) -> None:
    written, stop_reason, over = "", None, False
    for event in events:
        if event.get("type") == "error":
            if written and not as_json:
                say_part("\n")
            raise _failure(json.dumps(event).encode(), "the answer broke off")
        if as_json:
            say_json(event)
        delta = event.get("delta") or {}
        if delta.get("type") == "text_delta":
            written += delta["text"]
            if not as_json:
                say_part(delta["text"])
        stop_reason = delta.get("stop_reason") or stop_reason
        over = event.get("type") == "message_stop"
    if not over:
        raise Fault("ask_failed", "the answer broke off before its end")
    if not as_json:
        _end("", written, stop_reason)


def _end(rest: str, whole: str, stop_reason: object) -> None:
    if not whole:
        raise Fault("ask_failed", f"the model answered without any text (stop_reason {stop_reason})")
    say_part(rest + ("" if whole.endswith("\n") else "\n"))


def _events(response: http.client.HTTPResponse, view: dict[str, Any]) -> Iterator[dict[str, Any]]:
    with _its_trouble(view):
        for line in response:
            if line.startswith(b"data:"):
                document = json.loads(line[5:])
                if isinstance(document, dict):
                    yield document


def _failure(body: bytes, otherwise: str) -> Fault:
    try:
        error = json.loads(body)["error"]
        return Fault(str(error["type"]), " ".join(str(error["message"]).split()))
    except (ValueError, KeyError, TypeError):
        return Fault("ask_failed", otherwise)


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing came for {SILENCE_S:g} s"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"what came is no answer ({type(error).__name__})"
