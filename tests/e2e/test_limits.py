"""Limits as clients and the user see them: real commands, a real worker, a provider that counts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fakes import grammar
from fakes.house import Stream, ask, attempts, get
from fakes.upstream import Reply, Seen

from .providers import HEADERS, Anthropic, Estate, Ollama, msg, post

pytestmark = pytest.mark.slow

CONFIG = """
[providers.ollama]
base_url = "{fo}"
hold = "200ms"
ping = "200ms"
[providers.anthropic]
base_url = "{fa}"
hold = "200ms"
ping = "200ms"
"""


@pytest.fixture
def home(whole: Estate) -> Iterator[Estate]:
    """For one test: nobody was asked yet, nobody is held back."""
    whole.reset()
    answers = [(far, far.answer) for far in (whole.fo, whole.fa)]
    yield whole
    for far, answer in answers:
        far.answer = answer  # type: ignore[method-assign]  # see Turnstile
    whole.house.command("down", "all", "--grace", "0")
    whole.ports.clear()


PING = b'event: ping\ndata: {"type":"ping"}\n\n'
"""Ours; the providers' own have a space in it."""


class Turnstile:
    """Holds a provider's answers back one by one, and counts how many it works at."""

    def __init__(self, far: Ollama | Anthropic) -> None:
        self.asked: list[str] = []
        """The last words of each prompt, in the order in which they came."""
        self.at_work = self.most = 0
        self._changed = threading.Condition()
        self._go = 0
        self._answer = far.answer
        far.answer = self.answer  # type: ignore[method-assign]  # the provider stays what it is otherwise

    def answer(self, seen: Seen) -> Reply:
        with self._changed:
            self.at_work += 1
            self.most = max(self.most, self.at_work)
            self.asked.append(seen.json()["messages"][-1]["content"])
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._go > 0, 30)
            self._go -= 1
            # Before the answer: the next request can only come after it.
            self.at_work -= 1
        return self._answer(seen)

    def let(self, count: int) -> None:
        with self._changed:
            self._go += count
            self._changed.notify_all()

    def wait(self, count: int) -> None:
        """Until so many have come."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.asked) >= count, 30), self.asked


@contextmanager
def client(
    port: int, said: str, session: str, found: dict[str, Any], token: str | None = None
) -> Iterator[None]:
    """A streamed request in a thread of its own; its answer ends up in `found`."""

    def run() -> None:
        headers = HEADERS | {"x-claude-code-session-id": session}
        if token is not None:
            headers["x-proxy-token"] = token
        found[said] = ask(port, "POST", "/v1/messages", msg(said, stream=True), headers)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield
    thread.join(30)
    assert not thread.is_alive(), f"{said} was never answered"


def wait_for_line(port: int, waiting: int) -> dict[str, Any]:
    for _ in attempts():
        queue: dict[str, Any] = get(port, "/health").json["queue"]
        if queue["waiting"] == waiting:
            return queue
    raise AssertionError(f"{waiting} never waited: {queue}")


def test_a_swarm_on_a_local_model_is_served_in_order_and_never_in_silence(home: Estate) -> None:
    """20 sub-agents of two sessions, two places: in turn, pinged while they wait, and nobody is refused."""
    port = home.up("ollama/codellama", "--max-concurrent", "2")
    turnstile, found = Turnstile(home.fo), dict[str, Any]()
    swarm = [f"a{number}" for number in range(16)]
    single = [f"b{number}" for number in range(4)]
    clients = []
    for number, said in enumerate([*swarm, *single]):
        clients.append(client(port, said, said[0], found))
        clients[-1].__enter__()
        if number < 2:
            turnstile.wait(number + 1)
        else:
            queue = wait_for_line(port, number - 1)
    line = [one["session_id"] for one in queue["line"]]
    assert line == ["a", "b"] * 4 + ["a"] * 10
    assert [one["position"] for one in queue["line"]] == list(range(1, 19))
    pinged = Stream(port, "patient")
    pinged.read_until(b"event: ping")  # while nobody is let go on
    wait_for_line(port, 19)
    for number in range(21):
        turnstile.let(1)
        turnstile.wait(min(number + 3, 21))
    for one in clients:
        with pytest.raises(StopIteration):
            next(one.gen)

    assert turnstile.most == 2
    assert grammar.check(pinged.rest()).text == "Hello"
    assert {answer.status for answer in found.values()} == {200}
    assert {grammar.check(answer.body).text for answer in found.values()} == {"Hello"}
    served = [said for said in turnstile.asked if said != "patient"]
    assert [said for said in served if said[0] == "a"] == swarm
    assert [said for said in served if said[0] == "b"] == single
    assert served.index("b3") <= 10, "four turns of the other session had to wait for the whole swarm"
    assert len([row for row in home.usage() if row["session_id"] in ("a", "b", None)]) == 21


def test_limits_change_while_requests_wait(home: Estate) -> None:
    """`set`: at once, without another worker; kept by the supervisor, and by the next worker."""
    port = home.up("ollama/codellama", "--max-concurrent", "1")
    turnstile, found = Turnstile(home.fo), dict[str, Any]()
    before = home.house.tell("ps", "--json")[0]
    with client(port, "one", "a", found), client(port, "two", "a", found):
        wait_for_line(port, 1)
        row = home.house.wait_tally(lambda row: row["waiting"] == 1, "ollama/codellama")
        assert (row["in_flight"], row["detail"]) == (2, "1 in line")
        view = home.house.tell("set", "ollama/codellama", "max_concurrent=2", "rpm=60", "--json")
        turnstile.wait(2)
        turnstile.let(2)

    assert view["limits"] == {"max_concurrent": 2, "rpm": 60}
    assert {answer.status for answer in found.values()} == {200}
    home.house.tell("restart", "ollama/codellama", "--json")
    home.house.kill_supervisor()
    home.house.start()
    for _ in attempts():
        [after] = home.house.tell("ps", "--json")
        if after["state"] == "ready":
            break
    assert after["limits"] == {"max_concurrent": 2, "rpm": 60}
    assert after["generation"] == before["generation"] + 1, "adoption is no reason for a new worker"
    assert get(port, "/health").json["queue"]["max_concurrent"] == 2
    said = home.house.command("set", "ollama/codellama", "rpm=none", "max_concurrent=none")
    assert (said.returncode, said.stdout) == (0, "ollama/codellama  no limits\n")


def test_what_is_over_a_limit_is_told_which(home: Estate) -> None:
    """The error table: status, type, words and `x-limit-type`."""
    port = home.up(
        "ollama/codellama", "--max-concurrent", "1", "--queue-timeout", "300ms", "--request-timeout", "1h"
    )
    turnstile, found = Turnstile(home.fo), dict[str, Any]()
    with client(port, "one", "a", found):
        turnstile.wait(1)
        late = post(port, msg("two"))
        home.house.tell("set", "ollama/codellama", "queue_size=1", "queue_timeout=none", "--json")
        with client(port, "three", "a", found):
            wait_for_line(port, 1)
            full = post(port, msg("four"))
            assert post(port, msg(), "/v1/messages/count_tokens").status == 200  # never held back
            assert get(port, "/v1/models").status == 200
            turnstile.let(2)
    assert (late.status, late.json["error"]["type"]) == (429, "rate_limit_error")
    assert "(queue_timeout)" in late.json["error"]["message"]
    assert (full.status, full.json["error"]["type"]) == (529, "overloaded_error")
    for answer in (late, full):
        assert answer.headers["x-limit-type"] == "concurrency"
        assert int(answer.headers["retry-after"]) > 0
    assert sorted(turnstile.asked) == ["one", "three"]

    settings = ("max_context=100", "max_body=2000", "request_timeout=200ms", "rpm=3")
    home.house.tell("set", "ollama/codellama", *settings, "--json")
    long = post(port, msg("word " * 300))
    large = post(port, msg("x" * 3000))
    slow = post(port, msg("nobody answers"))
    for _ in range(3):
        many = post(port, msg("one more"))
        if many.status == 429:
            break
    assert (long.status, long.json["error"]["message"][:18]) == (400, "prompt is too long")
    assert (large.status, large.json["error"]["message"]) == (
        400,
        f"request body is too large: {large_of(3000)} bytes, the limit is 2000 bytes",
    )
    assert (slow.status, slow.json["error"]["type"]) == (504, "timeout_error")
    assert slow.json["error"]["message"] == "the request took longer than 0.2s (request_timeout)"
    assert (many.status, many.headers["x-limit-type"]) == (429, "rpm")
    assert 0 < int(many.headers["retry-after"]) <= 20
    rows = home.usage()
    assert [row["status"] for row in rows if row["error_type"] == "timeout_error"]
    turnstile.let(10)


def large_of(size: int) -> int:
    import json

    return len(json.dumps(msg("x" * size)))


def test_bytes_that_are_passed_through_wait_in_line_as_well(home: Estate) -> None:
    """Pings first, and then every byte of the provider's; an error that comes late is an event."""
    port = home.up("anthropic/claude-sonnet-4-5", "--max-concurrent", "1")
    turnstile, found = Turnstile(home.fa), dict[str, Any]()
    with client(port, "one", "a", found):
        turnstile.wait(1)
        second = Stream(port, "two")
        second.read_until(b"event: ping")
        third = Stream(port, "three")
        third.read_until(b"event: ping")
        wait_for_line(port, 2)
        turnstile.let(1)
        turnstile.wait(2)
        # For the one behind it.
        home.fa.instead(Reply(500, b'{"type":"error","error":{"type":"api_error","message":"boom"}}'))
        turnstile.let(1)
        whole = second.rest()
        third.rest()

    every_byte = b"".join(home.fa.streamed())
    assert found["one"].body.replace(PING, b"") == whole.replace(PING, b"") == every_byte
    assert third.seen.replace(PING, b"").startswith(b"event: error\n")
    assert third.seen.count(b"boom") == 1
    assert turnstile.asked == ["one", "two"]


def test_who_hangs_up_in_line_is_never_asked_for(home: Estate) -> None:
    """It leaves at once, and its row says that it left."""
    port = home.up("ollama/codellama", "--max-concurrent", "1")
    turnstile, found, before = Turnstile(home.fo), dict[str, Any](), len(home.usage())
    with client(port, "one", "a", found):
        turnstile.wait(1)
        gone = Stream(port, "impatient")
        wait_for_line(port, 1)
        gone.close()
        wait_for_line(port, 0)
        turnstile.let(1)
    for _ in attempts():
        rows = home.usage()[before:]
        if len(rows) == 2:
            break

    assert turnstile.asked == ["one"]
    assert sorted((row["status"], row["error_type"]) for row in rows) == [(200, None), (499, "cancelled")]


def test_what_is_no_limit_is_refused_in_one_sentence(home: Estate) -> None:
    """By the command; by the supervisor, should another program ask; and for proxies that are not there."""
    home.up("ollama/codellama")
    typed = home.house.command("set", "ollama/codellama", "speed=9")
    asked = home.house.api("POST", "/v1/proxies/ollama%2Fcodellama/set", {"rpm": -1})
    absent = home.house.command("set", "ollama/nothing", "rpm=1")

    assert (typed.returncode, typed.stdout) == (2, "")
    assert 'There is no limit "speed"' in typed.stderr
    assert (asked.status, asked.json["error"]["code"]) == (400, "bad_request")
    assert asked.json["error"]["message"] == "rpm must be from 1 to 1000000, or 0 for no limit"
    assert (absent.returncode, "there is no proxy" in absent.stderr) == (1, True)
