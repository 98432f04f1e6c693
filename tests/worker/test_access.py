"""Access tokens in the heads of requests."""

from __future__ import annotations

import hashlib

import pytest
from fakes.exchange import request

from modelproxy.worker.access import caller, carries_token, presented
from modelproxy.worker.contract import Access, AccessToken
from modelproxy.worker.failures import RULES, Refused

TOKEN, OTHER = b"mp-the-token-of-ci", b"mp-the-token-of-somebody"
CI = AccessToken("ci", hashlib.sha256(TOKEN).hexdigest())
ME = AccessToken("me", hashlib.sha256(OTHER).hexdigest())

PLACES = [
    [(b"x-proxy-token", TOKEN)],
    [(b"authorization", b"Bearer " + TOKEN)],
    [(b"authorization", b"bearer  " + TOKEN)],
    [(b"authorization", TOKEN)],
    [(b"x-api-key", TOKEN)],
    [(b"authorization", b"Bearer sk-ant-own"), (b"x-api-key", TOKEN)],
    [(b"x-api-key", b"sk-ant-own"), (b"authorization", b"Bearer " + TOKEN)],
    [(b"x-api-key", OTHER), (b"authorization", b"Bearer " + OTHER), (b"x-proxy-token", TOKEN)],
    [(b"x-api-key", OTHER), (b"authorization", b"Bearer " + TOKEN)],
]
NOWHERE = [
    [],
    [(b"authorization", b"Bearer sk-ant-own")],
    [(b"authorization", b"Basic mp-")],
    [(b"x-api-key", b"dummy")],
    [(b"cookie", TOKEN)],
]
Headers = list[tuple[bytes, bytes]]


@pytest.mark.parametrize("headers", PLACES)
def test_a_token_is_found_wherever_a_client_can_put_it(headers: Headers) -> None:
    """Its own header first, then the bearer, then the key; a provider's credential is none."""
    head = request("POST", "/v1/messages", headers)

    assert presented(head) == TOKEN
    assert caller(Access(tokens=[ME, CI]), head) == "ci"


@pytest.mark.parametrize("headers", NOWHERE)
def test_without_a_token_it_depends_on_whether_one_is_demanded(headers: Headers) -> None:
    head = request("POST", "/v1/messages", headers)
    assert caller(Access(tokens=[CI]), head) is None
    with pytest.raises(Refused, match=r"demands an access token: .* proxyctl tokens add NAME") as refused:
        caller(Access(required=True, tokens=[CI]), head)

    rule = RULES[refused.value.failure.kind]
    assert (rule.status, rule.type, rule.retry) == (401, "authentication_error", False)


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("headers", [*PLACES[:6], [(b"x-proxy-token", b"sk-ant")], [(b"x-proxy-token", b"")]])
def test_an_unknown_token_is_never_let_in(headers: Headers, required: bool) -> None:
    """Nor quoted. What comes in our own header is meant as one, whatever it looks like."""
    with pytest.raises(Refused, match="not known to this proxy") as refused:
        caller(Access(required=required, tokens=[ME]), request("POST", "/v1/messages", headers))

    assert "the-token" not in refused.value.failure.message
    assert RULES[refused.value.failure.kind].status == 401


def test_a_hash_is_no_token() -> None:
    """Who has read the configuration has nothing."""
    head = request("POST", "/v1/messages", [(b"x-proxy-token", CI.sha256.encode())])
    with pytest.raises(Refused):
        caller(Access(tokens=[CI]), head)


@pytest.mark.parametrize("headers", PLACES)
def test_headers_with_a_token_are_known(headers: Headers) -> None:
    kept = [value for name, value in headers if not carries_token(name, value)]

    assert kept in ([], [b"Bearer sk-ant-own"], [b"sk-ant-own"])


@pytest.mark.parametrize("headers", NOWHERE)
def test_other_headers_are_left_alone(headers: Headers) -> None:
    assert not any(carries_token(name, value) for name, value in headers)
