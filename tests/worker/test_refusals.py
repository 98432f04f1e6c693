"""Errors, in OpenAI's words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from modelproxy.worker import failures
from modelproxy.worker.failures import Failure, Kind
from modelproxy.worker.forms import refusals


def said(failure: Failure) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(refusals.body(failures.envelope(failure, "req_1")))["error"]
    return error


@pytest.mark.parametrize(
    ("kind", "message", "type_", "code"),
    [
        (Kind.INVALID, "x", "invalid_request_error", None),
        (
            Kind.OVERFLOW,
            "prompt is too long: 9 tokens > 8 maximum",
            "invalid_request_error",
            "context_length_exceeded",
        ),
        (Kind.TOO_LARGE, "x", "invalid_request_error", None),
        (Kind.UNAUTHENTICATED, "x", "authentication_error", "invalid_api_key"),
        (Kind.KEY_REJECTED, "OpenAI does not accept the API key", "permission_error", "invalid_api_key"),
        (Kind.FORBIDDEN, "host: this proxy answers only to", "permission_error", None),
        (Kind.NO_CREDIT, "x", "insufficient_quota", "insufficient_quota"),
        (Kind.NOT_FOUND, "Ollama has no model x", "not_found_error", "model_not_found"),
        (Kind.NOT_FOUND, "no such endpoint: /x", "not_found_error", None),
        (Kind.NOT_FOUND, "agent: 'x' has no rule here", "not_found_error", None),
        (Kind.METHOD, "x", "invalid_request_error", None),
        (Kind.RATE_LIMITED, "x", "rate_limit_error", "rate_limit_exceeded"),
        (Kind.PROVIDER, "x", "server_error", None),
        (Kind.CUT, "x", "server_error", None),
        (Kind.BUG, "x", "server_error", None),
        (Kind.UNREACHABLE, "x", "server_error", None),
        (Kind.TIMEOUT, "x", "server_error", None),
        (Kind.OVERLOADED, "x", "server_error", "overloaded"),
    ],
)
def test_every_kind_of_failure(kind: Kind, message: str, type_: str, code: str | None) -> None:
    """The sentence stays: people read it, and programs too."""
    assert said(Failure(kind, message)) == {"message": message, "type": type_, "param": None, "code": code}


def test_no_kind_is_forgotten() -> None:
    marks = test_every_kind_of_failure.pytestmark  # type: ignore[attr-defined]  # pytest puts it there
    assert {row[0] for row in marks[0].args[1]} == set(Kind)


def test_what_a_form_says_of_a_field_is_said() -> None:
    failure = Failure(Kind.INVALID, "n: must be 1", details={"param": "n", "code": "unsupported_value"})

    assert (said(failure)["param"], said(failure)["code"]) == ("n", "unsupported_value")


@pytest.mark.parametrize("body", [b"<html>gateway</html>", b"", b"[1]", b'{"error":3}', b'{"type":"error"}'])
def test_what_is_no_envelope_is_an_error_of_the_server(body: bytes) -> None:
    error = refusals.error(body)

    assert error["type"] == "server_error"
    assert error["message"]


def test_the_status_that_openai_does_not_know() -> None:
    assert [refusals.status(code) for code in (400, 429, 500, 529)] == [400, 429, 500, 503]


def test_the_requests_id_has_both_names() -> None:
    kept = [(b"retry-after", b"7"), (b"request-id", b"req_1")]

    assert refusals.headers(kept) == [*kept, (b"x-request-id", b"req_1")]


def test_who_has_not_said_which_client_it_is_gets_both_shapes() -> None:
    failure = Failure(Kind.NOT_FOUND, "model: 'x' is not served here")
    found = json.loads(refusals.both(failures.envelope(failure, "req_1")))

    assert (found["type"], found["request_id"]) == ("error", "req_1")
    assert found["error"] == said(failure)
    assert json.loads(refusals.both(b"<html>"))["error"]["message"] == "<html>"
