"""What supervisor and worker say to each other."""

from __future__ import annotations

import json
from itertools import pairwise

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelproxy.worker.contract import (
    MAX_LINE,
    WITHHELD,
    Adjust,
    Beat,
    Bye,
    ContractError,
    Drain,
    FromSupervisor,
    FromWorker,
    Health,
    Hello,
    Limits,
    Lines,
    Options,
    Quota,
    Ready,
    Reopen,
    Target,
    Timeouts,
    Welcome,
    WorkerSpec,
    decode_supervisor,
    decode_worker,
    encode,
)

SPEC = WorkerSpec(
    "echo/demo", "echo/demo", "echo", "echo", "demo", 3457, api_key="sk-secret", limits=Limits(max_body=7)
)
HELLO = Hello("echo/demo", 3, 4711, "token", spec=SPEC, serving=True, started_at=1.5, requests=2, in_flight=1)
SAID: list[FromWorker] = [
    HELLO,
    attrs.evolve(
        HELLO, spec=None, beat=Beat(0.1, 2, 1, last_error="it said no", resting=["echo/demo: refused"])
    ),
    Ready(),
    Beat(
        *(0.1, 2, 1, 3, 4, "it said no", 5),
        oldest_s=6.5,
        cost_usd=0.7,
        unpriced=8,
        fallbacks=9,
        accepted=9,
        starved="Too many open files",
        waiting=10,
        resting=["echo/demo: refused"],
    ),
    Health(False, "down"),
    Bye("SIGTERM", 0),
]
ORDERED: list[FromSupervisor] = [
    Welcome(),
    Welcome(SPEC),
    Drain(5.0, "stopping"),
    Reopen(),
    Adjust(Quota(rpm=60)),
]


@pytest.mark.parametrize("message", SAID, ids=repr)
def test_what_a_worker_says_arrives(message: FromWorker) -> None:
    line = encode(message, FromWorker)

    assert line.count(b"\n") == 1
    assert decode_worker(line) == message


@pytest.mark.parametrize("message", ORDERED, ids=repr)
def test_what_the_supervisor_says_arrives(message: FromSupervisor) -> None:
    assert decode_supervisor(encode(message, FromSupervisor)) == message


def test_the_tags_are_the_protocol() -> None:
    """An older peer knows these words."""
    tags = [json.loads(encode(message, FromWorker))["type"] for message in SAID[1:]]

    assert tags == ["hello", "ready", "beat", "health", "bye"]
    assert json.loads(encode(Drain(1.0), FromSupervisor)) == {
        "type": "drain",
        "grace_s": 1.0,
        "reason": "stopping",
    }


def test_unknown_fields_are_ignored() -> None:
    """During an upgrade one end is newer than the other, also inside the spec."""
    document = json.loads(encode(HELLO, FromWorker))
    document["mood"] = "good"
    document["spec"]["colour"] = "blue"
    document["spec"]["limits"]["speed"] = 9

    assert decode_worker(json.dumps(document).encode()) == HELLO


def test_a_choice_of_scalars_is_one_of_them() -> None:
    """`keep_alive` is Ollama's own: a number or a text."""
    for value in ("5m", 300, None):
        spec = attrs.evolve(SPEC, options=Options(keep_alive=value))
        assert decode_supervisor(encode(Welcome(spec), FromSupervisor)) == Welcome(spec)
    document = json.loads(encode(Welcome(SPEC), FromSupervisor))
    document["spec"]["options"]["keep_alive"] = [5]
    with pytest.raises(ContractError, match=r"options\.keep_alive"):
        decode_supervisor(json.dumps(document).encode())


def test_missing_optional_fields_have_their_defaults() -> None:
    """An older worker knows fewer."""
    line = b'{"type":"hello","name":"a","generation":1,"pid":2,"token":"t"}'

    assert decode_worker(line) == Hello("a", 1, 2, "t")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"5",
        b"{}",
        b'{"type":"drain","grace_s":1}',  # the other side's word
        b'{"type":"Hello"}',
        b'{"type":5}',
        b'{"type":null}',
        b'{"type":[]}',
        b'{"type":{}}',
        b"[" * 200_000,
        b'{"type":' * 200_000,
        b'{"type":"beat","lag_s":' + b"9" * 5000 + b"}",
    ],
    ids=lambda line: repr(line[:30]),
)
def test_garbage_is_a_broken_contract_and_nothing_else(line: bytes) -> None:
    """Any other exception would end more than one connection."""
    with pytest.raises(ContractError):
        decode_worker(line)


def test_every_problem_is_named_and_no_value() -> None:
    """Values may be keys."""
    document = json.loads(encode(HELLO, FromWorker))
    document |= {"generation": "sk-secret", "serving": 1, "requests": True}
    document["spec"] |= {"api_key": ["sk-secret"], "port": "sk-secret", "limits": "sk-secret"}
    with pytest.raises(ContractError) as caught:
        decode_worker(json.dumps(document).encode())

    for path in ("$.generation", "$.serving", "$.requests", "$.spec.api_key", "$.spec.port", "$.spec.limits"):
        assert path in str(caught.value)
    assert "sk-secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_secrets_are_neither_in_reprs_nor_in_what_is_shown() -> None:
    assert "sk-secret" not in repr(HELLO)
    assert "token'" not in repr(HELLO)
    assert SPEC.without_secrets() == attrs.evolve(SPEC, api_key=None)


_LINES = st.lists(st.binary(max_size=20).map(lambda data: data.replace(b"\n", b"")), max_size=8)


@given(_LINES, st.lists(st.integers(0, 200), max_size=10))
def test_any_cut_gives_the_same_lines(lines: list[bytes], cuts: list[int]) -> None:
    """Sockets cut where they like."""
    data = b"".join(line + b"\n" for line in lines) + b"rest"
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    splitter = Lines()
    found = [line for start, end in pairwise(places) for line in splitter.feed(data[start:end])]

    assert found == lines
    assert list(splitter.feed(b"\n")) == [b"rest"]


def test_a_line_without_end_is_refused() -> None:
    """Before it has eaten the memory."""
    splitter = Lines()
    assert list(splitter.feed(b"x" * MAX_LINE)) == []
    with pytest.raises(ContractError, match="too long"):
        list(splitter.feed(b"x"))


def test_many_short_lines_are_not_one_long_one() -> None:
    splitter = Lines()
    chunk = b"x" * 1023 + b"\n"

    assert sum(len(list(splitter.feed(chunk))) for _ in range(MAX_LINE // 1024 + 1)) == MAX_LINE // 1024 + 1


# --- targets --------------------------------------------------------------------------------------

FAR = Target(
    "far", "far/big", "openai", "big", "http://far", "sk-far", Timeouts(connect_s=1.0), Options(retries=2)
)


def test_a_spec_without_secrets_has_none_in_its_targets() -> None:
    """Each target has a key of its own."""
    spec = attrs.evolve(SPEC, fallback=[FAR])

    assert spec.has_key
    assert attrs.evolve(spec, api_key=None).has_key
    assert not spec.without_secrets().has_key
    assert "sk-" not in repr(spec)
    assert "sk-" not in encode(Welcome(spec.without_secrets()), FromSupervisor).decode()


def test_of_headers_the_names_are_shown_and_the_values_withheld() -> None:
    """Its own and those of its targets. One without a value has nothing to withhold, and none is mistaken for one."""
    headed = Options(headers={"authorization": "Basic sk-x", "X-Title": ""})
    spec = attrs.evolve(SPEC, options=headed, fallback=[attrs.evolve(FAR, options=headed)])
    bare = spec.without_secrets()

    for place in bare.places:
        assert place.options.headers == {"authorization": WITHHELD, "X-Title": ""}
    assert (spec.lacks_headers, bare.lacks_headers, SPEC.without_secrets().lacks_headers) == (
        False,
        True,
        False,
    )
    assert attrs.evolve(bare, options=headed).lacks_headers  # its target's
    assert bare.without_secrets() == bare
    assert "sk-" not in repr(spec)
    assert "authorization" in repr(spec)
    assert "\n" in WITHHELD  # which no header can have


def test_a_spec_towards_a_target_is_the_same_proxy_elsewhere() -> None:
    """Every field of a target replaces the one of the same name; the key of the primary does not go along."""
    there = attrs.evolve(SPEC, fallback=[FAR]).towards(FAR)

    assert (there.name, there.port, there.limits, there.fallback) == (SPEC.name, SPEC.port, SPEC.limits, [])
    for field in attrs.fields(Target):
        assert getattr(there, field.name) == getattr(FAR, field.name)
    assert SPEC.towards(attrs.evolve(FAR, api_key=None)).api_key is None


def test_a_spec_of_before_targets_and_limits_is_read() -> None:
    """A worker of an older version brings one."""
    document = json.loads(encode(HELLO, FromWorker))
    del document["spec"]["fallback"], document["spec"]["quota"], document["fallbacks"]

    assert decode_worker(json.dumps(document).encode()) == HELLO


@pytest.mark.parametrize(
    ("name", "said"), [("echo/demo@3458", "echo/demo"), ("coder@3458", "coder"), ("coder", "coder")]
)
def test_a_second_one_is_called_as_the_first(name: str, said: str) -> None:
    assert attrs.evolve(SPEC, name=name, model_id="echo/demo").said == said
