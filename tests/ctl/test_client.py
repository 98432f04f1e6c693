"""The client against a server that behaves and one that does not."""

from __future__ import annotations

import os
import socket
import threading
import time
from urllib.parse import quote as reference_quote

import pytest
from fakes.control import Control, fault, view

from modelproxy.ctl import client as client_module
from modelproxy.ctl.client import Client, quote
from modelproxy.ctl.faults import Fault
from modelproxy.supervisor.paths import Paths, SocketAddress

DEAD_PID = 2**22 + 1


@pytest.fixture
def client(control: Control) -> Client:
    return Client(control.paths, answer_s=0.2)


@pytest.mark.parametrize("text", ["echo/demo", "a b%/é\x00", "ollama/hf.co/u/m:Q4", "~-._"])
def test_names_are_quoted_like_everywhere(text: str) -> None:
    assert quote(text) == reference_quote(text, safe="")


def test_a_question_and_its_answer(control: Control, client: Client) -> None:
    control.proxies["echo/demo"] = view()

    assert client.get("/v1/proxies/echo%2Fdemo") == view()
    assert client.ask("DELETE", "/v1/proxies/3457", {"grace_s": 1}) == [
        {"name": "echo/demo", "port": 3457, "state": "stopped"}
    ]
    assert control.asked[-1] == ("DELETE", "/v1/proxies/3457", {"grace_s": 1})


def test_a_refusal_keeps_code_message_and_hint(control: Control, client: Client) -> None:
    control.replies["GET"] = fault(409, "port_in_use", "taken", "take another")

    with pytest.raises(Fault) as refused:
        client.get("/v1/proxies")

    assert (refused.value.code, refused.value.message, refused.value.hint) == (
        "port_in_use",
        "taken",
        "take another",
    )


@pytest.mark.parametrize(
    "raw",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n{..}",
        b"HTTP/1.1 500 Oh\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000,
    ],
)
def test_a_strange_answer_is_one_sentence(control: Control, client: Client, raw: bytes) -> None:
    control.raw = raw

    with pytest.raises(Fault) as refused:
        client.get("/v1/version")

    assert refused.value.code == "bad_answer"


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n[1]",
        b"HTTP/1.1 200 OK\r\n\r\n[1]",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n[\r\n2;x=y\r\n1]\r\n0\r\nt: x\r\n\r\n",
    ],
)
def test_every_way_to_end_a_body(control: Control, client: Client, raw: bytes) -> None:
    control.raw = raw

    assert client.get("/v1/proxies") == [1]


def test_half_an_answer_is_no_answer(control: Control, client: Client) -> None:
    control.raw = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n[1]"

    with pytest.raises(Fault) as refused:
        client.get("/v1/proxies")

    assert refused.value.code == "daemon_gone"


def test_a_supervisor_that_left_in_the_middle_is_asked_again(control: Control, client: Client) -> None:
    control.drop = 1

    assert client.get("/v1/version") == control.version()
    assert control.paths_asked == ["GET /v1/version"] * 2


def test_a_stuck_supervisor_is_named(control: Control, client: Client) -> None:
    control.hang.add("GET")

    with pytest.raises(Fault) as refused:
        client.get("/v1/version")

    assert refused.value.code == "daemon_timeout"
    assert str(control.pid) in refused.value.message


def test_a_long_answer_is_awaited_while_the_supervisor_lives(
    control: Control, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer comes only after the client has asked whether anybody is there."""
    monkeypatch.setattr(client_module, "ANSWER_S", 0.0)
    control.hold["DELETE"] = threading.Event()
    heard: list[float] = []

    def waiting(seconds: float) -> None:
        heard.append(seconds)
        control.hold["DELETE"].set()

    assert client.ask("DELETE", "/v1/proxies/all", waiting=waiting) == []
    assert len(heard) == 1
    assert "GET /v1/version" in control.paths_asked


@pytest.mark.slow
def test_a_long_answer_is_not_awaited_from_a_stuck_supervisor(
    control: Control, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "ANSWER_S", 0.0)
    control.hang.update(("DELETE", "GET"))

    with pytest.raises(Fault) as refused:
        client.ask("DELETE", "/v1/proxies/all")

    assert refused.value.code == "daemon_timeout"


@pytest.mark.slow
def test_a_limit_ends_the_waiting(control: Control, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "ANSWER_S", 0.0)
    control.hang.add("PUT")

    with pytest.raises(Fault) as refused:
        client.ask("PUT", "/v1/proxies/a%2Fb", {}, limit_s=0.1)

    assert refused.value.code == "daemon_timeout"


def test_nobody_there(paths: Paths) -> None:
    with pytest.raises(Fault) as refused:
        Client(paths).get("/v1/version")

    assert refused.value.code == "daemon_not_running"


def test_the_socket_of_a_dead_supervisor(paths: Paths) -> None:
    """Refused at once: its pid in the lock file is nobody's."""
    left_behind = socket.socket(socket.AF_UNIX)
    with SocketAddress(paths.control_socket) as address:
        left_behind.bind(address)
    left_behind.close()
    paths.lock.write_text(f"{DEAD_PID}\n")
    began = time.monotonic()

    with pytest.raises(Fault) as refused:
        Client(paths).get("/v1/version")

    assert refused.value.code == "daemon_not_running"
    assert time.monotonic() - began < client_module.RESTART_S / 2


@pytest.mark.slow
def test_a_supervisor_that_replaces_itself_is_waited_for(paths: Paths) -> None:
    """The lock file names a living process, and nobody listens yet."""
    paths.lock.write_text(f"{os.getpid()}\n")
    answers: list[object] = []
    asking = threading.Thread(target=lambda: answers.append(Client(paths).get("/v1/version")))
    asking.start()

    with Control(paths) as control:
        asking.join(5)

        assert answers == [control.version()]


@pytest.mark.slow
def test_a_supervisor_that_does_not_come_back_is_given_up(paths: Paths) -> None:
    paths.lock.write_text(f"{os.getpid()}\n")
    began = time.monotonic()

    with pytest.raises(Fault) as refused:
        Client(paths).get("/v1/version")

    assert refused.value.code == "daemon_not_running"
    assert time.monotonic() - began >= client_module.RESTART_S


def test_a_stream_is_whole_lines_however_it_is_cut(control: Control, client: Client) -> None:
    control.events = [{"seq": number, "text": "é" * number} for number in range(1, 20)]

    for size in (1, 2, 3, 50, 10_000):
        control.chunk_size = size
        assert list(client.stream("/v1/events?since=3")) == control.events[3:]


def test_a_stream_ends_when_the_supervisor_goes(control: Control, client: Client) -> None:
    control.raw = b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n10\r\n{"seq": 1}\n{"se'

    assert list(client.stream("/v1/events")) == [{"seq": 1}]


def test_a_refused_stream_says_why(control: Control, client: Client) -> None:
    with pytest.raises(Fault) as refused:
        list(client.stream("/v1/nothing"))

    assert refused.value.code == "unknown_route"
