"""Which endpoint, and who may come in."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from fakes.exchange import request

from modelproxy.worker import app
from modelproxy.worker.app import Endpoint, Route
from modelproxy.worker.contract import Front, Options, WorkerSpec
from modelproxy.worker.dialects.seam import Sizes
from modelproxy.worker.failures import Failure, Kind

HOST = (b"host", b"127.0.0.1:3457")
JSON = (b"content-type", b"application/json")
SPEC = WorkerSpec(
    name="coder",
    model_id="ollama/qwen2.5-coder:7b",
    provider="ollama",
    kind="ollama",
    model="qwen2.5-coder:7b",
    port=3457,
)


def routed(method: str, target: str, *headers: tuple[bytes, bytes]) -> Route | Failure:
    return app.route(request(method, target, headers or (HOST, JSON)))


def kind(found: Route | Failure) -> Kind | None:
    return found.kind if isinstance(found, Failure) else None


@pytest.mark.parametrize(
    ("method", "target", "endpoint"),
    [
        ("POST", "/v1/messages", Endpoint.MESSAGES),
        ("POST", "/v1/messages?beta=true", Endpoint.MESSAGES),
        ("POST", "/v1/messages/count_tokens?beta=true", Endpoint.COUNT_TOKENS),
        ("GET", "/v1/models?limit=1000", Endpoint.MODELS),
        ("GET", "/health", Endpoint.HEALTH),
        ("HEAD", "/health", Endpoint.HEALTH),
        ("GET", "/livez", Endpoint.ALIVE),
        ("HEAD", "/livez", Endpoint.ALIVE),
        ("GET", "/", Endpoint.ROOT),
        ("HEAD", "/", Endpoint.ROOT),
        ("HEAD", "/api/hello", Endpoint.HELLO),
    ],
)
def test_routes(method: str, target: str, endpoint: Endpoint) -> None:
    assert routed(method, target) == Route(endpoint)


@pytest.mark.parametrize("path", app.OTHERS)
@pytest.mark.parametrize(
    "found",
    [
        lambda head: app.route(head),
        lambda head: app.route(head, forwards=True),
        lambda head: app.cross(head, []),
    ],
)
def test_another_api_is_ours_also_where_all_else_is_passed_on(path: str, found: Any) -> None:
    """Each POST of it is turned into messages before; the rest is not for Anthropic, which would say other things."""
    assert kind(found(request("GET", path, (HOST,)))) is Kind.METHOD
    wrong = found(request("POST", path.removeprefix("/v1"), (HOST, JSON)))

    assert kind(wrong) is Kind.NOT_FOUND
    assert wrong.message.endswith("must end in /v1")


@pytest.mark.parametrize("forwards", [False, True])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_a_response_of_before_is_nowhere(method: str, forwards: bool) -> None:
    head = request(method, "/v1/responses/resp_1", (HOST, JSON))
    for found in (app.route(head, forwards=forwards), app.cross(head, [])):
        assert isinstance(found, Failure)
        assert (found.kind, found.message) == (
            Kind.NOT_FOUND,
            "no such endpoint: /v1/responses/resp_1; responses are not stored here",
        )


@pytest.mark.parametrize(
    ("path", "headers", "models", "of_another"),
    [
        ("/v1/messages", (), False, False),
        ("/v1/chat/completions", (), False, True),
        ("/chat/completions", (), False, True),
        ("/models", (), False, True),
        ("/v1/responses/resp_1", (), False, True),
        ("/v1/models", (), True, False),
        ("/v1/models/x", (), True, False),
        ("/v1/modelship", (), False, False),
        ("/v1/models", ((b"x-api-key", b"k"),), False, False),
        ("/v1/models/x", ((b"anthropic-version", b"2023-06-01"),), False, False),
    ],
)
def test_which_client_it_is_is_told_by_path_or_header(
    path: str, headers: tuple[tuple[bytes, bytes], ...], models: bool, of_another: bool
) -> None:
    found = app.wants_models(request("GET", path, (HOST, *headers)), path)

    assert (found, app.is_of_another(path)) == (models, of_another)


@pytest.mark.parametrize("path", ["ollama/qwen2.5-coder:7b", "ollama%2Fqwen2.5-coder%3A7b"])
def test_a_models_id_may_be_encoded(path: str) -> None:
    assert routed("GET", f"/v1/models/{path}") == Route(Endpoint.MODEL, "ollama/qwen2.5-coder:7b")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/messages", "POST"),
        ("HEAD", "/v1/messages", "POST"),
        ("OPTIONS", "/v1/messages", "POST"),
        ("DELETE", "/v1/messages/count_tokens", "POST"),
        ("POST", "/health", "GET, HEAD"),
        ("OPTIONS", "/health", "GET, HEAD"),
        ("POST", "/v1/models/x", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(method: str, path: str, allow: str) -> None:
    found = routed(method, path)

    assert isinstance(found, Failure)
    assert (found.kind, found.allow) == (Kind.METHOD, allow)


@pytest.mark.parametrize(
    "path",
    [
        "/nope",
        "/v1/messages/",
        "/v1/messages/batches",
        "/v1/models/",
        "//v1/messages",
        "/V1/messages",
        "/v1/files",
    ],
)
def test_unknown_paths(path: str) -> None:
    assert kind(routed("POST", path)) is Kind.NOT_FOUND


def test_a_base_url_with_v1_is_explained() -> None:
    found = routed("POST", "/v1/v1/messages")

    assert isinstance(found, Failure)
    assert "must not end in /v1" in found.message


# --- the door -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        b"localhost",
        b"localhost:3457",
        b"LOCALHOST.",
        b"a.b.localhost:1",
        b"127.0.0.1",
        b"127.255.0.9:99",
        b"[::1]",
        b"[::1]:3457",
    ],
)
def test_loopback_hosts_come_in(host: bytes) -> None:
    assert kind(routed("GET", "/health", (b"host", host))) is None


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"evil.example",
        b"evil.example:3457",
        b"localhost.evil.example",
        b"127.0.0.1.evil.example",
        b"evillocalhost",
        b"127.0.0.1@evil.example",
        b"128.0.0.1",
        b"127.0.0.256",
        b"127.1",
        b"0.0.0.0",
        b"10.0.0.1:3457",
        b"[::]",
        b"::1",
        b"[::1]x",
        b"localhost:",
        b"localhost:3457:1",
        b"localhost:x",
        b"localhost evil",
    ],
)
def test_foreign_hosts_do_not(host: bytes) -> None:
    assert kind(routed("GET", "/health", (b"host", host))) is Kind.FORBIDDEN


def test_exactly_one_host_is_needed() -> None:
    assert kind(routed("GET", "/health", JSON)) is Kind.FORBIDDEN
    assert kind(routed("GET", "/health", HOST, (b"host", b"evil.example"))) is Kind.FORBIDDEN


@pytest.mark.parametrize("path", ["/v1/messages", "/health", "/nope"])
@pytest.mark.parametrize("method", ["POST", "GET", "OPTIONS"])
@pytest.mark.parametrize(
    "header",
    [
        (b"origin", b"https://evil.example"),
        (b"origin", b"null"),
        (b"origin", b""),
        (b"origin", b"http://localhost:3000"),
        (b"origin", b"http://127.0.0.1:3457"),
        (b"sec-fetch-site", b"cross-site"),
        (b"sec-fetch-site", b"same-site"),
        (b"sec-fetch-mode", b"no-cors"),
    ],
)
def test_pages_do_not_come_in(path: str, method: str, header: tuple[bytes, bytes]) -> None:
    assert kind(routed(method, path, HOST, JSON, header)) is Kind.FORBIDDEN


@pytest.mark.parametrize(
    "header",
    [
        (b"sec-fetch-mode", b"cors"),  # Node's fetch
        (b"sec-fetch-site", b"none"),  # an address that a person typed
        (b"anthropic-dangerous-direct-browser-access", b"true"),
        (b"authorization", b"Bearer x"),
    ],
)
def test_what_real_clients_send_is_fine(header: tuple[bytes, bytes]) -> None:
    assert routed("POST", "/v1/messages", HOST, JSON, header) == Route(Endpoint.MESSAGES)


@pytest.mark.parametrize(
    ("said", "fine"),
    [
        (b"application/json", True),
        (b"Application/JSON; charset=utf-8", True),
        (b"text/plain", False),
        (b"text/plain; application/json", False),
        (b"application/x-www-form-urlencoded", False),
        (b"multipart/form-data", False),
        (b"", False),
        (None, False),
    ],
)
def test_a_post_must_say_json(said: bytes | None, fine: bool) -> None:
    headers = (HOST,) if said is None else (HOST, (b"content-type", said))
    found = routed("POST", "/v1/messages", *headers)

    assert isinstance(found, Route) == fine
    if isinstance(found, Failure):
        assert found.message.startswith("content-type: ")


@pytest.mark.parametrize(
    ("said", "fine"), [(b"identity", True), (b" ", True), (b"gzip", False), (b"zstd, br", False)]
)
def test_a_compressed_body_is_told_so(said: bytes, fine: bool) -> None:
    found = routed("POST", "/v1/messages", HOST, JSON, (b"content-encoding", said))

    assert isinstance(found, Route) == fine
    if isinstance(found, Failure):
        told = f"content-encoding: {said.decode()} is not supported; send the body uncompressed"
        assert found == Failure(Kind.INVALID, told)


# --- small answers --------------------------------------------------------------------------------


def test_health_has_exactly_these_fields() -> None:
    vital = app.Vital(
        pid=1, uptime_s=2.0, in_flight=3, draining=False, latency_ms=1.0, checked_at=5.0, detail="d"
    )

    assert app.health(SPEC, vital) == {
        "healthy": True,
        "status": "ok",
        "provider": "ollama",
        "model": "qwen2.5-coder:7b",
        "model_id": "ollama/qwen2.5-coder:7b",
        "upstream": {"ok": True, "latency_ms": 1.0, "checked_at": 5.0, "detail": "d"},
        "pid": 1,
        "port": 3457,
        "version": "0.1.0",
        "uptime_s": 2.0,
        "in_flight": 3,
    }


@pytest.mark.parametrize(
    ("draining", "ok", "status"),
    [(False, True, "ok"), (False, False, "degraded"), (True, True, "draining"), (True, False, "draining")],
)
def test_health_status(draining: bool, ok: bool, status: str) -> None:
    body = app.health(
        SPEC, app.Vital(pid=1, uptime_s=0, in_flight=0, draining=draining, upstream_ok=ok, generation=7)
    )

    assert (body["status"], body["healthy"], body["generation"]) == (status, ok, 7)


def ids(query: str) -> tuple[list[str], bool]:
    body = app.models(SPEC, query)
    assert isinstance(body, dict)
    return [entry["id"] for entry in body["data"]], body["has_more"]


REAL, ALIAS = "ollama/qwen2.5-coder:7b", "claude-ollama-qwen2.5-coder-7b"


@pytest.mark.parametrize(
    ("query", "page"),
    [
        ("", ([REAL, ALIAS], False)),
        ("limit=1000", ([REAL, ALIAS], False)),
        ("limit=1", ([REAL], True)),
        ("limit=1&after_id=ollama%2Fqwen2.5-coder%3A7b", ([ALIAS], False)),
        (f"before_id={ALIAS}", ([REAL], False)),
        ("after_id=gone", ([], False)),
        ("before_id=gone", ([], False)),
        ("beta=true", ([REAL, ALIAS], False)),
    ],
)
def test_pages_of_models(query: str, page: tuple[list[str], bool]) -> None:
    assert ids(query) == page


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "x", "1e2", "99999999999", "٣"])
def test_a_limit_out_of_range_is_refused(limit: str) -> None:
    found = app.models(SPEC, f"limit={limit}")

    assert isinstance(found, Failure)
    assert found.message.startswith("limit: ")


def test_the_shape_of_the_list() -> None:
    anthropic: Any = app.models(SPEC, "")

    assert anthropic["data"][0] == {
        "type": "model",
        "id": REAL,
        "display_name": REAL,
        "created_at": "1970-01-01T00:00:00Z",
        "max_input_tokens": None,
        "max_tokens": None,
        "lifecycle": "active",
        "capabilities": None,
    }
    assert (anthropic["first_id"], anthropic["last_id"]) == (REAL, ALIAS)


def test_the_list_tells_the_sizes_that_are_known() -> None:
    found: Any = app.models(SPEC, "", Sizes(65_536, 8192))

    assert (found["data"][0]["max_input_tokens"], found["data"][0]["max_tokens"]) == (65_536, 8192)


@pytest.mark.parametrize("name", [REAL, ALIAS, "qwen2.5-coder:7b"])
def test_one_model_by_each_of_its_names(name: str) -> None:
    entry = app.model(SPEC, name)

    assert isinstance(entry, dict)
    assert entry["id"] == name


def test_an_unknown_model_is_told_the_known_ones() -> None:
    found = app.model(SPEC, "gpt")

    assert isinstance(found, Failure)
    assert (found.kind, REAL in found.message) == (Kind.NOT_FOUND, True)


def test_s143_an_alias_of_the_users_own_is_listed_and_taken() -> None:
    spec = attrs.evolve(SPEC, options=Options(picker_alias="claude-mine"))
    body = app.models(spec, "limit=1000")

    assert isinstance(body, dict)
    assert [one["id"] for one in body["data"]] == [REAL, "claude-mine"]
    assert isinstance(app.model(spec, "claude-mine"), dict)


def test_a_claude_needs_no_alias() -> None:
    spec = WorkerSpec(
        name="c",
        model_id="anthropic/claude-x",
        provider="anthropic",
        kind="anthropic",
        model="claude-x",
        port=1,
    )

    assert app.alias(spec) == "claude-x"


# --- who asks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/messages", (None, "/v1/messages")),
        ("/a/code-reviewer/v1/messages", ("code-reviewer", "/v1/messages")),
        ("/a/code%20reviewer%2F1/v1/models", ("code reviewer/1", "/v1/models")),
        ("/a/x", ("x", "/")),
        ("/a/x/", ("x", "/")),
        ("/a/", (None, "/a/")),
        ("/a//v1/messages", (None, "/a//v1/messages")),
        ("/a/%0a/v1/messages", (None, "/a/%0a/v1/messages")),
        ("/a/%C3%A9/v1/messages", (None, "/a/%C3%A9/v1/messages")),
        ("/about", (None, "/about")),
    ],
)
def test_a_path_may_begin_with_who_asks(path: str, expected: tuple[str | None, str]) -> None:
    assert app.addressed(path) == expected


def test_what_is_addressed_is_the_same_request_without_that() -> None:
    head = request("POST", "/a/x/v1/messages?beta=true", (HOST, JSON))
    found = app.Addressed(head, "/v1/messages")

    assert (found.path, found.method, found.query) == ("/v1/messages", "POST", "beta=true")
    assert (found.headers, found.header(b"host"), found.header_all(b"host")) == (
        head.headers,
        HOST[1],
        [HOST[1]],
    )


# --- a front ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "target", "endpoint"),
    [
        ("POST", "/v1/messages", Endpoint.MESSAGES),
        ("POST", "/v1/messages/count_tokens", Endpoint.COUNT_TOKENS),
        ("GET", "/v1/models?limit=1000", Endpoint.MODELS),
        ("HEAD", "/health", Endpoint.HEALTH),
        ("GET", "/livez", Endpoint.ALIVE),
        ("GET", "/", Endpoint.ROOT),
        ("HEAD", "/api/hello", Endpoint.HELLO),
        ("GET", "/v1/models/other", Endpoint.FORWARD),
        ("POST", "/v1/models", Endpoint.FORWARD),
        ("GET", "/v1/messages", Endpoint.FORWARD),
        ("DELETE", "/v1/files/x", Endpoint.FORWARD),
        ("GET", "/api/oauth/usage", Endpoint.FORWARD),
    ],
)
def test_a_front_answers_only_for_itself(method: str, target: str, endpoint: Endpoint) -> None:
    found = app.cross(request(method, target, (HOST, JSON)), ["mine"])

    assert found == Route(endpoint)


def test_a_front_answers_for_the_models_that_it_leads_to() -> None:
    assert app.cross(request("GET", "/v1/models/mine", (HOST,)), ["mine"]) == Route(Endpoint.MODEL, "mine")


def test_a_front_is_as_closed_as_any_worker() -> None:
    page = (b"origin", b"https://evil.example")
    assert kind(app.cross(request("GET", "/api/x", (HOST, page)), [])) is Kind.FORBIDDEN
    assert kind(app.cross(request("GET", "/api/x", ((b"host", b"evil.example"),)), [])) is Kind.FORBIDDEN
    assert kind(app.cross(request("POST", "/v1/messages", (HOST,)), [])) is Kind.INVALID


def test_the_list_and_the_entries_of_a_front() -> None:
    spec = attrs.evolve(SPEC, front=Front())
    listed = app.models(spec, "", named=["a", "claude-a"])
    one = app.model(spec, "claude-a", named=["a", "claude-a"])

    assert isinstance(listed, dict)
    assert [(entry["id"], entry["display_name"]) for entry in listed["data"]] == [
        ("a", "a"),
        ("claude-a", "claude-a"),
    ]
    assert isinstance(one, dict)
    assert one["id"] == "claude-a"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({b"x-session-id": b"ses_1"}, b"ses_1"),
        ({b"x-claude-code-session-id": b"4f0c", b"x-session-id": b"ses_1"}, b"4f0c"),
    ],
)
def test_a_session_is_what_the_client_says(headers: dict[bytes, bytes], expected: bytes | None) -> None:
    assert app.session(headers.get) == expected
