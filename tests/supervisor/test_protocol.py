"""The control API's shapes: strict on the way in, steady on the way out."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelproxy.supervisor import protocol
from modelproxy.supervisor.protocol import (
    DaemonRequest,
    DownRequest,
    Event,
    Fault,
    ProxyView,
    RestartRequest,
    Stopped,
    UpRequest,
    Version,
    parse,
    to_json,
)

REQUESTS = [UpRequest, DownRequest, RestartRequest, DaemonRequest]


def refused(document: object, cls: type[object]) -> str:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    with pytest.raises(Fault) as caught:
        parse(body, cls)
    assert caught.value.code == "bad_request"
    return caught.value.message


def test_what_is_left_out_has_its_default() -> None:
    assert parse(b'{"model":"echo/demo"}', UpRequest) == UpRequest("echo/demo")
    assert parse(b"", DownRequest) == DownRequest()
    assert parse(b"{}", RestartRequest) == RestartRequest()
    assert parse(b'{"grace_s":2}', DaemonRequest) == DaemonRequest(2.0)


@pytest.mark.parametrize("cls", REQUESTS)
def test_unknown_fields_are_refused(cls: type[object]) -> None:
    """A misspelt option must not be ignored."""
    needed = {"model": "echo/demo"} if cls is UpRequest else {}

    assert refused(needed | {"graze_s": 1}, cls) == "extra fields found (graze_s) @ $"


def test_every_problem_is_named_at_once_and_no_value() -> None:
    """A key in the wrong place must not come back in an error, nor get into a log."""
    message = refused(
        {"model": 5, "port": "sk-secret", "api_key": ["sk-secret"], "wait": "sk-secret", "x": "sk-secret"},
        UpRequest,
    )

    for path in ("$.model", "$.port", "$.api_key", "$.wait", "extra fields found (x)"):
        assert path in message
    assert "sk-secret" not in message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("port", "80"),
        ("port", 80.0),
        ("port", True),
        ("wait", 1),
        ("wait_s", "1"),
        ("wait_s", True),
        ("api_key", 1),
    ],
)
def test_nothing_is_converted_silently(field: str, value: object) -> None:
    assert f"$.{field}" in refused({"model": "echo/demo", field: value}, UpRequest)


def test_an_integer_is_a_float() -> None:
    assert parse(b'{"model":"echo/demo","wait_s":3}', UpRequest).wait_s == 3.0


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000])
def test_what_is_not_json(body: bytes) -> None:
    assert refused(body, UpRequest) == "the body is not JSON"


@pytest.mark.parametrize("body", [b"[]", b"5", b"null", b'"x"'])
def test_what_is_not_an_object(body: bytes) -> None:
    assert refused(body, UpRequest) == "the body must be a JSON object"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no fault
@given(st.sampled_from(REQUESTS), st.dictionaries(st.sampled_from(["model", "port", "grace_s", "x"]), _JSON))
def test_any_document_is_taken_or_refused(cls: type[object], document: dict[str, Any]) -> None:
    """Nothing else ever comes out of `parse`."""
    try:
        outcome: object = parse(json.dumps(document).encode(), cls)
    except Fault as fault:
        outcome = fault.code

    assert outcome == "bad_request" or isinstance(outcome, cls)


def test_secrets_are_not_in_reprs() -> None:
    assert "sk-1" not in repr(UpRequest("echo/demo", api_key="sk-1"))


def test_a_fault_as_json() -> None:
    fault = Fault("port_in_use", "Port 1 is taken", "choose another")

    assert json.loads(to_json(fault)) == {
        "error": {"code": "port_in_use", "message": "Port 1 is taken", "hint": "choose another"}
    }
    assert (fault.status, str(fault)) == (409, "Port 1 is taken")


def test_every_code_has_an_error_status() -> None:
    assert {status for status in protocol.STATUS.values() if not 400 <= status < 600} == set()


def test_absent_marks_are_left_out() -> None:
    assert json.loads(to_json([Stopped("c", 3, also=["a"])])) == [
        {"name": "c", "port": 3, "state": "stopped", "also": ["a"]}
    ]
    assert json.loads(to_json([Stopped("a", 1), Stopped("b", 2, already="stopped")])) == [
        {"name": "a", "port": 1, "state": "stopped"},
        {"name": "b", "port": 2, "state": "stopped", "already": "stopped"},
    ]


@pytest.mark.parametrize(
    ("cls", "keys"),
    [
        (
            ProxyView,
            "name model provider port pid url state reused health uptime_s requests in_flight restarts fallbacks "
            "last_error base_url started_at generation wanted detail draining deaths queue rss lazy "
            "idle_stop_s max_rss fallback limits log notes",
        ),
        (Version, "pid version started_at socket state_dir api warnings"),
        (Event, "seq at kind proxy text"),
        (Stopped, "name port state already also"),
    ],
)
def test_keys_that_scripts_rely_on(cls: type[attrs.AttrsInstance], keys: str) -> None:
    """May grow, must not lose any."""
    assert set(keys.split()) <= {field.name for field in attrs.fields(cls)}
