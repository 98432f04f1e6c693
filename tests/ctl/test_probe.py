"""What a proxy says of its model, or does not."""

from __future__ import annotations

import json

import pytest
from fakes.control import view
from fakes.house import free_port
from fakes.upstream import Reply, Upstream

from modelproxy.ctl import probe


@pytest.mark.parametrize(
    ("answer", "sizes"),
    [
        ({"max_input_tokens": 65536, "max_tokens": 8192}, (65536, 8192)),
        ({"max_input_tokens": None, "max_tokens": "x"}, (None, None)),
        ([], (None, None)),
    ],
)
def test_the_sizes_are_asked_for_as_clients_do(
    answer: object, sizes: tuple[int | None, int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Health first: it has the provider asked."""
    monkeypatch.setenv("MODELPROXY_TOKEN", "mp-secret")
    with Upstream(lambda seen: Reply(body=json.dumps(answer).encode())) as upstream:
        row = view("ollama/a:1", port=int(upstream.url.rpartition(":")[2]))

        assert probe.sizes(row) == sizes
        assert [seen.path for seen in upstream.requests] == ["/health", "/v1/models/ollama%2Fa%3A1"]
        assert upstream.requests[1].headers["x-proxy-token"] == "mp-secret"


def test_nobody_there_is_nothing_known() -> None:
    assert probe.sizes(view(port=free_port())) == (None, None)


@pytest.mark.parametrize(("status", "refused"), [(401, True), (200, False), (404, False)])
def test_whether_the_token_is_known_is_asked_of_who_knows(
    status: int, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELPROXY_TOKEN", "mp-secret")
    with Upstream(lambda seen: Reply(status, b"{}")) as upstream:
        assert probe.refuses(view(port=upstream.port)) is refused
        assert upstream.requests[0].headers["x-proxy-token"] == "mp-secret"
    assert not probe.refuses(view(port=upstream.port))
