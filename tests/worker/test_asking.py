"""The head of a request of another API, as the handler is shown it."""

from __future__ import annotations

import pytest
from fakes.exchange import request

from modelproxy.worker.failures import Kind
from modelproxy.worker.forms.asking import known, refused, shown, unsupported

HEADERS = (
    (b"host", b"127.0.0.1:3457"),
    (b"user-agent", b"OpenAI/Python 2.0"),
    (b"x-stainless-lang", b"python"),
    (b"openai-organization", b"org"),
    (b"accept-encoding", b"gzip"),
    (b"content-length", b"2"),
    (b"origin", b"http://evil"),
    (b"sec-fetch-mode", b"no-cors"),
    (b"content-type", b"application/json"),
    (b"authorization", b"Bearer sk-proj-1"),
    (b"x-proxy-token", b"mp-1"),
    (b"x-proxy-agent", b"reviewer"),
    (b"x-session-id", b"s1"),
    (b"x-claude-code-session-id", b"s2"),
)


def test_what_counts_stays_and_what_tells_of_the_other_api_does_not() -> None:
    found = shown(request(target="/a/me/v1/chat/completions?x=1", headers=HEADERS), "/v1/chat/completions")

    assert (found.method, found.path, found.query) == ("POST", "/a/me/v1/messages", "")
    assert {name for name, _ in found.headers} == {
        *(name for name, _ in HEADERS),
        b"anthropic-version",
    } - {b"x-stainless-lang", b"openai-organization", b"accept-encoding", b"content-length"}
    assert found.header(b"user-agent") != b"OpenAI/Python 2.0"
    assert found.header(b"anthropic-version") == b"2023-06-01"
    assert found.header_all(b"host") == [b"127.0.0.1:3457"]


def test_codex_calls_its_session_otherwise() -> None:
    found = shown(request(headers=((b"session-id", b"s1"), (b"thread-id", b"t1"))), "/v1/messages")

    assert (found.header(b"x-session-id"), found.header(b"session-id")) == (b"s1", None)


def test_the_list_of_models_has_no_pages_for_who_does_not_ask_for_them() -> None:
    found = known(request("GET", "/a/me/v1/models", HEADERS))

    assert (found.path, found.query) == ("/a/me/v1/models", "limit=1000")
    assert found.header(b"anthropic-version") == b"2023-06-01"
    assert known(request("GET", "/v1/models?limit=2", HEADERS)).query == "limit=2"
    assert known(request("GET", "/v1/models/claude-x", HEADERS)).query == ""


@pytest.mark.parametrize(
    ("said", "goes"),
    [
        (b"Bearer sk-ant-api03-x", (b"x-api-key", b"sk-ant-api03-x")),
        (b"bearer  sk-ant-api03-x ", (b"x-api-key", b"sk-ant-api03-x")),
        (b"Bearer sk-ant-oat01-x", (b"authorization", b"Bearer sk-ant-oat01-x")),
        (b"Bearer mp-1", (b"authorization", b"Bearer mp-1")),
        (b"Basic eA==", (b"authorization", b"Basic eA==")),
    ],
)
def test_a_key_of_anthropics_goes_where_anthropic_looks_for_it(
    said: bytes, goes: tuple[bytes, bytes]
) -> None:
    """A login's token stays a bearer."""
    assert goes in shown(request(headers=((b"authorization", said),)), "/v1/messages").headers


def test_refusals_say_which_field_and_what_kind() -> None:
    assert refused("words").failure.details == {}
    failure = unsupported("n", "must be 1").failure

    assert (failure.kind, failure.message) == (Kind.INVALID, "n: must be 1")
    assert failure.details == {"param": "n", "code": "unsupported_value"}
