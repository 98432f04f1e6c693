"""Passing bytes through: what of a request changes, and what is learnt from an answer without touching it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelproxy.worker.contract import Options, WorkerSpec
from modelproxy.worker.dialects import anthropic, thinking
from modelproxy.worker.dialects.anthropic import (
    Sniffer,
    headers_down,
    headers_up,
    is_subscription,
    with_model,
)
from modelproxy.worker.failures import Kind, Refused
from modelproxy.worker.wire import codec

CASES = sorted((Path(__file__).parent.parent / "cases" / "anthropic").glob("*.json"))
MODEL = "claude-sonnet-4-5"

STREAM = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","usage":{"input_tokens":25,'
    b'"cache_creation_input_tokens":3,"cache_read_input_tokens":7,"output_tokens":1}}}\n\n'
    b'event: ping\ndata: {"type": "ping"}\n\n'
    b": a comment\n\n"
    b'event: zzz_future\ndata: {"type":"zzz_future","delta":[1]}\n\n'
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,'
    b'"content_block":{"type":"text","text":""}}\n\n'
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"text_delta","text":"H\xc3\xa9llo"}}\n\n'
    b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n'
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},'
    b'"usage":{"output_tokens":15}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
)
USAGE = {
    "input_tokens": 25,
    "output_tokens": 15,
    "cache_creation_input_tokens": 3,
    "cache_read_input_tokens": 7,
}


def spec(
    kind: str = "anthropic", api_key: str | None = None, options: dict[str, Any] | None = None
) -> WorkerSpec:
    return WorkerSpec(
        name="a",
        model_id=f"{kind}/{MODEL}",
        provider=kind,
        kind=kind,
        model=MODEL,
        port=1,
        api_key=api_key,
        options=Options(**options or {}),
    )


def encoded(headers: list[list[str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers]


# --- golden cases -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_case(path: Path) -> None:
    """What is sent of a request, byte by byte."""
    case = json.loads(path.read_text())
    provider = spec(**case["provider"])
    body = case["body"].encode()
    anthropic.peek(body)
    headers = encoded(case["headers"])

    assert case["sent_body"].encode() == anthropic.prepared(body, MODEL, anthropic.manner(provider))
    assert encoded(case["sent_headers"]) == headers_up(headers, provider)
    assert case["subscription"] is is_subscription(headers, provider)


def test_the_callers_credential_goes_to_anthropic_and_to_nobody_who_speaks_like_it() -> None:
    """A service with an address of its own may be of this kind too; no plan of Anthropic's pays for it."""
    headers = encoded(
        [["authorization", "Bearer sk-ant-oat01-mine"], ["x-api-key", "sk-ant-mine"], ["x-app", "cli"]]
    )
    other = attrs.evolve(spec(), provider="gateway")

    assert headers_up(headers, spec()) == headers
    assert headers_up(headers, other) == encoded([["x-app", "cli"]])
    assert (is_subscription(headers, spec()), is_subscription(headers, other)) == (True, False)


@pytest.mark.parametrize("api_key", [None, "sk-ant-ours"])
def test_a_token_of_ours_stays_behind(api_key: str | None) -> None:
    """Wherever the client has put it; the credential beside it goes on, unless a key of ours takes its place."""
    own = (b"x-api-key", b"sk-ant-own")
    headers = [(b"x-proxy-token", b"mp-secret"), (b"authorization", b"Bearer mp-secret"), own]
    expected = own if api_key is None else (b"x-api-key", api_key.encode())

    assert headers_up(headers, spec(api_key=api_key)) == [expected]


SAMPLES = sorted((CASES[0].parents[1] / "samples").glob("*.json"))


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_every_block_of_a_real_request_is_passed_on(path: Path) -> None:
    """Every byte of it, but for the model's name and thinking that Anthropic would refuse."""
    body = path.read_bytes()
    asked = json.loads(body)
    sent = json.loads(anthropic.prepared(body, MODEL, anthropic.manner(spec())))

    assert sent.pop("model") == MODEL
    del asked["model"]
    for message in asked["messages"]:
        if isinstance(message["content"], list):
            message["content"] = [
                block for block in message["content"] if not thinking.is_foreign_to_anthropic(block)
            ]
    assert sent == asked


# --- the body -----------------------------------------------------------------------------------------

TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just('"model":"x"') | st.just("\\"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["model", "a", '"', "{"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(
    st.lists(st.tuples(st.sampled_from(["a", "messages", "mod", 'model"', "{"]), TREES), max_size=5), TREES
)
def test_only_the_model_changes_in_any_body(pairs: list[tuple[str, Any]], other: Any) -> None:
    """Read as JSON, everything else is what it was; with the same name, every byte is."""
    document = {**dict(pairs[:2]), "model": "old", **dict(pairs[2:])}
    for text in (json.dumps(document), json.dumps(document, indent=1, ensure_ascii=False)):
        body = text.encode("utf-8", "surrogatepass")
        changed = with_model(body, 'new "é"')

        assert {**document, "model": 'new "é"'} == json.loads(changed.decode("utf-8", "surrogatepass"))
        assert body == with_model(body, "old")
        assert body == with_model(changed, "old").replace(b'"model": "old"', b'"model": "old"')


def test_a_model_of_the_same_name_leaves_every_byte() -> None:
    """Also its own spelling."""
    body = b'{ "model" : "claude-sonnet\\u002d4-5" }'

    assert body == with_model(body, MODEL)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"{", "JSON"),
        (b"\xff", "JSON"),
        (b"[]", "object"),
        (b'"model"', "object"),
        (b"{}", "model"),
        (b'{"model":1}', "model"),
        (b'{"model":""}', "model"),
        (b'{"model":{"model":"x"}}', "model"),
        (b'{"model":"a"} x', "JSON"),
        (b"[" * 100_000, "JSON"),
    ],
)
def test_a_body_without_a_model_is_refused(body: bytes, word: str) -> None:
    """All else is for the provider to judge."""
    with pytest.raises(Refused, match=word):
        anthropic.peek(body)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model":"m"}', ("m", False)),
        (b'{"model":"m","stream":true,"max_tokens":"nonsense","messages":7}', ("m", True)),
        (b'{"model":"m","stream":null,"x":"\\ud83d"}', ("m", False)),
        (b'{"model":"m","thread":{"id":"t"}}', ("m", False)),
    ],
)
def test_little_is_looked_at(body: bytes, expected: tuple[str, bool]) -> None:
    """Message threads, lone surrogates and mistakes reach the provider."""
    asked = anthropic.peek(body)

    assert expected == (asked.model, asked.stream)
    assert body == anthropic.prepared(body, "m", anthropic.manner(spec()))


def test_bodies_of_megabytes_are_no_work() -> None:
    """A picture is one long string."""
    body = b'{"messages":[{"content":"%b"}],"model":"x"}' % (b"A" * 20_000_000)

    assert with_model(body, MODEL).endswith(b'"model":"claude-sonnet-4-5"}')


# --- headers of the answer ----------------------------------------------------------------------------


def test_headers_that_the_client_gets() -> None:
    """Limits, waits and orders to retry are kept; the hop's own and cookies are not."""
    kept = [
        (b"content-type", b"application/json"),
        (b"retry-after", b"7"),
        (b"x-should-retry", b"false"),
        (b"anthropic-ratelimit-requests-remaining", b"3"),
        (b"anthropic-organization-id", b"o"),
    ]
    dropped = [
        (b"connection", b"close, x-hop"),
        (b"x-hop", b"1"),
        (b"transfer-encoding", b"chunked"),
        (b"content-length", b"7"),
        (b"set-cookie", b"a=b"),
        (b"strict-transport-security", b"max-age=1"),
        (b"request-id", b"req_1"),
    ]

    assert kept == headers_down([*dropped[:3], *kept, *dropped[3:]])


# --- the sniffer --------------------------------------------------------------------------------------


def sniffed(*pieces: bytes) -> Sniffer:
    sniffer = Sniffer()
    for piece in pieces:
        sniffer.feed(piece)
    return sniffer


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(at), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(st.lists(st.integers(0, len(STREAM)), max_size=20), st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_any_cut_says_the_same(at: list[int], line_end: bytes) -> None:
    """However the bytes come, and whatever ends their lines."""
    data = STREAM.replace(b"\n", line_end)
    sniffer = sniffed(*cut(data, [place * len(data) // len(STREAM) for place in at]))

    assert sniffer.usage() == USAGE
    assert (sniffer.stop_reason, sniffer.over, sniffer.begun, sniffer.error) == ("end_turn", True, True, None)
    assert sniffer.at_boundary


@given(st.integers(0, len(STREAM) - 1))
def test_before_the_end_it_is_not_over_and_only_between_events_one_may_follow(at: int) -> None:
    """The two facts on which honesty hangs."""
    seen = STREAM[:at]
    sniffer = sniffed(seen)

    assert not sniffer.over
    assert sniffer.at_boundary is (not seen or seen.endswith(b"\n\n"))


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        (b"", True),
        (b"x", False),
        (b"x\n", False),
        (b"x\r\n", False),
        (b"x\r", False),
        (b"x\n\n", True),
        (b"x\r\n\r\n", True),
        (b"x\r\r", True),
        (b"x\n\r\n", True),
        (b"x\r\n\r", True),
        (b"x\r\n\n", True),
    ],
)
def test_boundaries(tail: bytes, expected: bool) -> None:
    """CR LF is one line end, two of any kind end an event; also when they come byte by byte."""
    assert sniffed(tail).at_boundary is expected
    assert sniffed(*(tail[at : at + 1] for at in range(len(tail)))).at_boundary is expected


def test_an_error_event_ends_a_stream() -> None:
    """With its type and words."""
    sniffer = sniffed(
        STREAM[:300],
        b'\n\nevent: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Busy"}}\n\n',
    )

    assert sniffer.over
    assert sniffer.error == ("overloaded_error", "Busy")
    assert anthropic.STATUS["overloaded_error"] == 529


@pytest.mark.parametrize("data", [b'{"error":"words"}', b"not JSON", b"[]", b'{"type":"error"}'])
def test_an_error_that_nobody_understands_is_one_all_the_same(data: bytes) -> None:
    """The event's name says it."""
    sniffer = sniffed(b"event: error\ndata: " + data + b"\n\n")

    assert (sniffer.over, sniffer.error) == (True, ("api_error", ""))


@given(st.binary(max_size=300))
def test_garbage_is_no_reason_to_fail(data: bytes) -> None:
    """The stream goes on, whatever the sniffer thinks of it."""
    sniffer = sniffed(data, b'\n\nevent: message_stop\ndata: {"type":7}\n\n', data)
    sniffer.usage()


def test_an_event_without_end_is_no_reason_to_fail() -> None:
    sniffer = sniffed(b"data: " + bytes(33 * 1024 * 1024), b"\n\n")

    assert (sniffer.spoke, sniffer.over) == (True, False)


def test_p54_reasoning_of_both_kinds_goes_with_a_refused_signature() -> None:
    refused = b'{"type":"error","error":{"type":"invalid_request_error","message":"Invalid `signature`"}}'
    thoughts = [
        {"type": "thinking", "thinking": "t", "signature": "s"},
        {"type": "redacted_thinking", "data": "d"},
    ]
    said = {"role": "assistant", "content": [*thoughts, {"type": "text", "text": "b"}]}
    again = anthropic.without_refused_thinking(400, refused, json.dumps({"messages": [said]}).encode())

    assert again is not None
    assert json.loads(again)["messages"][0]["content"] == said["content"][2:]


def test_a_cancelled_stream_has_an_estimate() -> None:
    """`message_start` knows what was read; what was written is counted."""
    sniffer = sniffed(STREAM[: STREAM.index(b"event: message_delta")])

    assert sniffer.said.output_tokens is None
    assert sniffer.usage() == USAGE | {"output_tokens": 2}


def test_nothing_said_is_nothing_known() -> None:
    """Not zero."""
    assert sniffed(b"event: ping\ndata: {}\n\n").usage() == {}


def test_a_whole_answer() -> None:
    """OpenRouter says in it what it charged."""
    sniffer = Sniffer()
    sniffer.whole(
        b'{"type":"message","stop_reason":"tool_use","usage":{"input_tokens":1,"output_tokens":2,"cost":0.5}}'
    )

    assert sniffer.stop_reason == "tool_use"
    assert sniffer.usage()["output_tokens"] == 2
    assert sniffer.said.cost_usd == 0.5


@pytest.mark.parametrize(
    ("said", "cost"),
    [
        ({"cost": 0.5, "is_byok": True, "cost_details": {"upstream_inference_cost": 2.0}}, 2.5),
        ({"cost": 0.5, "is_byok": True, "cost_details": None}, 0.5),
        ({"cost": 0.5, "is_byok": False, "cost_details": {"upstream_inference_cost": 2.0}}, 0.5),
        ({"cost": 0.5, "is_byok": None, "cost_details": {"upstream_inference_cost": None}}, 0.5),
        ({"is_byok": True, "cost_details": {"upstream_inference_cost": 2.0}}, None),
    ],
)
def test_s106_the_bill_of_the_users_own_key_behind_a_router_comes_on_top(
    said: dict[str, Any], cost: float | None
) -> None:
    """As where its answers are translated."""
    sniffer = Sniffer()
    sniffer.whole(json.dumps({"type": "message", "usage": {"output_tokens": 2, **said}}).encode())

    assert sniffer.said.cost_usd == cost
    assert sniffer.said.output_tokens == 2


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"usage":7}'])
def test_a_whole_answer_that_says_nothing(body: bytes) -> None:
    """No numbers, no harm."""
    sniffer = Sniffer()
    sniffer.whole(body)

    assert sniffer.usage() == {}


# --- another modelproxy -------------------------------------------------------------------------------


def test_another_modelproxy_gets_our_token_and_never_the_callers_credential() -> None:
    own = [["authorization", "Bearer sk-ant-oat01-mine"], ["x-api-key", "sk-ant-mine"], ["x-app", "cli"]]
    headers = encoded([*own, ["x-proxy-token", "mp-of-here"]])

    assert headers_up(headers, spec("remote")) == encoded([["x-app", "cli"], ["x-proxy-hops", "1"]])
    assert headers_up(headers, spec("remote", "mp-of-there")) == encoded(
        [["x-app", "cli"], ["authorization", "Bearer mp-of-there"], ["x-proxy-hops", "1"]]
    )
    assert not is_subscription(headers, spec("remote"))


STAMP = "x-anthropic-billing-header: cc_version=2"


@pytest.mark.parametrize(
    ("system", "kept"),
    [
        (f"{STAMP}\nYou help.", [{"type": "text", "text": "You help."}]),
        (STAMP, []),
        ([{"type": "text", "text": "You help."}], [{"type": "text", "text": "You help."}]),
        ([STAMP, {"text": 5}], [STAMP, {"text": 5}]),
        (7, 7),
    ],
)
def test_p09_the_stamp_goes_and_nothing_else(system: Any, kept: Any) -> None:
    """Also where it is only spoken of, and where there is no system text at all."""
    messages = [{"role": "user", "content": STAMP}]
    body = codec.dumps({"model": "m", "system": system, "messages": messages})
    bare = codec.dumps({"model": "m", "messages": messages})

    assert codec.loads(anthropic.without_stamp(body)) == {"model": "m", "system": kept, "messages": messages}
    assert anthropic.without_stamp(bare) == bare
    assert anthropic.without_stamp(body[:-1]) == body[:-1]


def test_another_modelproxy_heals_histories_itself() -> None:
    """What it has signed must come back to it."""
    block = {"type": "thinking", "thinking": "so", "signature": "px1.of-there"}
    body = json.dumps({"model": "x", "messages": [{"role": "assistant", "content": [block]}]}).encode()

    assert anthropic.prepared(body, "m", anthropic.manner(spec("remote"))) == body.replace(b'"x"', b'"m"')
    assert b"px1." not in anthropic.prepared(body, "m", anthropic.manner(spec()))


def test_another_modelproxy_refuses_in_its_own_words() -> None:
    body = b'{"type":"error","error":{"type":"authentication_error","message":"its words"}}'
    anthropic.refuse_features(spec("remote"), anthropic.Asked("m", stream=False, features=("mcp_servers",)))
    told = anthropic.refusal(spec("remote"), 401, [], body, title="remote/office")

    assert anthropic.refusal(spec("remote"), 403, [], body, title="remote/office") is None
    assert told is not None
    assert told.kind is Kind.KEY_REJECTED
    assert told.message.startswith("remote/office says: its words - ")
    assert told.message.endswith("proxyctl keys set remote")


def test_those_that_lead_to_each_other_are_found_out() -> None:
    """Without an end, each would keep its connection and ask again when the next one fails."""
    headers = encoded([["x-proxy-hops", "7"]])
    sent = headers_up(headers, spec("remote"))

    assert sent == encoded([["x-proxy-hops", "8"]])
    with pytest.raises(Refused, match="lead to each other"):
        headers_up(sent, spec("remote"))
    assert headers_up(headers, spec()) == []
    assert headers_up(encoded([["x-proxy-hops", "-1"]]), spec("remote")) == encoded([["x-proxy-hops", "1"]])
