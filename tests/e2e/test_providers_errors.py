"""Every way in which a provider fails, and what its client is told (behaviours, section 2)."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from typing import Any

import pytest
from fakes import grammar
from fakes.house import Answer, Stream, assert_error, attempts, free_port, get
from fakes.upstream import Reply

from .providers import (
    KEY,
    ROUTED,
    Estate,
    Ollama,
    Said,
    data,
    error_of,
    held,
    lines,
    msg,
    post,
)

pytestmark = pytest.mark.slow

BOTH = pytest.mark.parametrize("kind", ["ollama", "router"])
MODES = pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
HTML = (("content-type", "text/html"),)

CONFIG = """
[providers.hasty]
kind = "ollama"
base_url = "{fo}"
first_byte_timeout = "500ms"

[providers.bored]
kind = "ollama"
base_url = "{fo}"
idle_timeout = "500ms"

[providers.brief]
kind = "ollama"
base_url = "{fo}"
total_timeout = "800ms"

[providers.stern]
kind = "openrouter"
base_url = "{fr}"
api_key = "sk-or-some-other-key"
first_byte_timeout = "500ms"

[providers.patient]
kind = "openrouter"
base_url = "{fr}"
api_key = "sk-or-some-other-key"
retries = 2

[providers.held]
kind = "ollama"
base_url = "{fo}"
hold = "300ms"
ping = "300ms"

[providers.heldhasty]
kind = "ollama"
base_url = "{fo}"
hold = "200ms"
ping = "200ms"
first_byte_timeout = "1500ms"

[providers.heldrouter]
kind = "openrouter"
base_url = "{fr}"
api_key = "sk-or-some-other-key"
hold = "300ms"
ping = "300ms"
"""


def no(status: int, body: Any, *headers: tuple[str, str]) -> Reply:
    return Reply(status, json.dumps(body).encode(), headers=(("content-type", "application/json"), *headers))


def router_says(code: int, message: str, *headers: tuple[str, str]) -> Reply:
    return no(code, {"error": {"code": code, "message": message}}, *headers)


# --- refusals with a status -----------------------------------------------------------------------

OVER = (
    "This endpoint's maximum context length is 8192 tokens. However, you requested about 9000 tokens "
    "(8900 of text input, 100 in the output). Please reduce the length of either one."
)
TOLD = [
    # reply, status, type, words, retry-after
    ("router", router_says(400, "odd parameter"), 400, "invalid_request_error", ["odd parameter"], None),
    (
        "router",
        router_says(400, OVER),
        400,
        "invalid_request_error",
        ["prompt is too long: 8900 tokens > 8192 maximum"],
        None,
    ),
    ("router", router_says(402, "Insufficient credits"), 402, "billing_error", ["OpenRouter"], None),
    ("router", router_says(404, "No endpoints found for x"), 404, "not_found_error", ["OpenRouter"], None),
    ("router", router_says(429, "slow down"), 429, "rate_limit_error", ["slow down"], "any"),
    ("router", router_says(429, "slow", ("Retry-After", "7")), 429, "rate_limit_error", [], "7"),
    ("router", router_says(429, "slow", ("Retry-After", "600")), 429, "rate_limit_error", ["600"], "60"),
    ("router", router_says(500, "boom"), 500, "api_error", ["boom"], None),
    ("router", router_says(502, "bad gateway"), 529, "overloaded_error", ["OpenRouter"], "any"),
    ("router", router_says(503, "no instance"), 529, "overloaded_error", ["OpenRouter"], "any"),
    ("router", router_says(504, "late"), 529, "overloaded_error", ["OpenRouter"], "any"),
    ("router", router_says(529, "overloaded"), 529, "overloaded_error", ["OpenRouter"], "any"),
    (
        "router",
        Reply(502, b"<html><b>Bad</b> gateway</html>", headers=HTML),
        529,
        "overloaded_error",
        [],
        "any",
    ),
    ("ollama", no(400, {"error": "odd option"}), 400, "invalid_request_error", ["odd option"], None),
    (
        "ollama",
        no(400, {"error": "the prompt is longer than the context length currently available to the model"}),
        400,
        "invalid_request_error",
        ["prompt is too long: "],
        None,
    ),
    (
        "ollama",
        no(400, {"error": "registry.ollama.ai/library/codellama does not support tools"}),
        400,
        "invalid_request_error",
        ["does not support tools", "codellama"],
        None,
    ),
    ("ollama", no(429, {"error": "slow down"}), 429, "rate_limit_error", ["slow down"], "any"),
    ("ollama", no(500, {"error": "boom"}), 500, "api_error", ["boom", "Ollama"], None),
    (
        "ollama",
        no(503, {"error": "server busy, please try again.  maximum pending requests exceeded"}),
        529,
        "overloaded_error",
        ["server busy"],
        "any",
    ),
    ("ollama", no(502, {"error": "bad gateway"}), 529, "overloaded_error", ["Ollama"], "any"),
    ("ollama", Reply(500, b"<html>oh</html>", headers=HTML), 500, "api_error", ["Ollama"], None),
]


@MODES
@pytest.mark.parametrize(
    ("kind", "reply", "status", "error", "words", "wait"),
    TOLD,
    ids=[f"{kind}-{reply.status}-{number}" for number, (kind, reply, *_) in enumerate(TOLD)],
)
def test_s43_s75_section2_refusals(
    here: Estate,
    streamed: bool,
    kind: str,
    reply: Reply,
    status: int,
    error: str,
    words: list[str],
    wait: str | None,
) -> None:
    here.far(kind).instead(reply)
    answer = post(here.port(kind), msg(stream=streamed))

    assert_error(answer, status, error, *words)
    if "prompt is too long: " in "".join(words):
        said = answer.json["error"]["message"]
        found = re.fullmatch(r"prompt is too long: (\d+) tokens > (\d+) maximum", said)
        assert found is not None, said
        assert int(found[1]) > int(found[2])
    if wait is None:
        assert "retry-after" not in answer.headers
    else:
        seconds, millis = int(answer.headers["retry-after"]), int(answer.headers["retry-after-ms"])
        assert 0 < seconds <= 60
        assert 0 < millis <= 60_000
        assert wait == "any" or (seconds, millis) == (int(wait), int(wait) * 1000)
    assert len(here.far(kind).asked) == 1


@MODES
@pytest.mark.parametrize("status", [401, 403])
def test_s74_our_key_is_refused(here: Estate, streamed: bool, status: int) -> None:
    """Also when the provider quotes it."""
    here.fr.instead(router_says(status, f"Incorrect API key provided: {KEY}"))
    answer = post(here.router, msg(stream=streamed))

    assert_error(answer, 403, "permission_error", "OpenRouter", "proxyctl keys set openrouter")
    assert answer.headers["x-should-retry"] == "false"
    assert KEY.encode() not in answer.body
    assert KEY not in here.house.command("logs", ROUTED, "-n", "1000").stdout


def test_section2_ollama_refuses_the_key(here: Estate) -> None:
    here.fo.instead(no(401, {"error": "unauthorized"}))
    answer = post(here.ollama, msg())

    assert_error(answer, 403, "permission_error", "Ollama")
    assert answer.headers["x-should-retry"] == "false"


@MODES
def test_s71_a_model_that_is_not_pulled(here: Estate, streamed: bool) -> None:
    here.fo.instead(no(404, {"error": "model 'codellama' not found"}))
    answer = post(here.ollama, msg(stream=streamed))

    assert_error(answer, 404, "not_found_error", "ollama pull codellama")


def test_section2_threads_are_refused(here: Estate) -> None:
    answer = post(here.ollama, msg(thread={"id": "x"}))

    assert_error(answer, 400, "invalid_request_error", "thread")
    assert answer.json["error"]["details"] == {
        "error_code": "thread_unsupported_request",
        "unsupported": ["thread"],
    }


# --- errors inside a 200, cuts --------------------------------------------------------------------

SSE = (("content-type", "text/event-stream"),)
NDJSON = (("content-type", "application/x-ndjson"),)
HEL = {"choices": [{"index": 0, "delta": {"content": "Hel"}, "finish_reason": None}]}


def broken(kind: str, how: str, *, streamed: bool) -> Reply:
    """A 200 that goes wrong; `late` ones behind the first piece of text."""
    if kind == "ollama":
        first = lines({"message": {"role": "assistant", "content": "Hel"}, "done": False})
        error = lines({"error": "boom"})
        garbage: tuple[bytes, ...] = (b"\x00\xff not json\n",)
        headers = NDJSON
    elif streamed:
        first = data(HEL)
        error = data({"error": {"code": 500, "message": "boom"}, "choices": []})
        garbage = (b"data: {\x00\xff not json\n\n",)
        headers = SSE
    else:
        first = (b'{"choices":[{"message":{"role":"assistant","content":"Hel',)
        error = (json.dumps({"error": {"code": 500, "message": "boom"}}).encode(),)
        garbage = (b"\x00\xff not json",)
        headers = (("content-type", "application/json"),)
    late = first if streamed or kind == "ollama" else ()
    bodies = {
        "error": error,
        "late error": late + error,
        "garbage": garbage,
        "late garbage": late + garbage,
        "empty": (),
        "no end": first,
    }
    if how == "cut":
        return Reply(
            body=(*first, b"x" * 100), headers=headers, framing="chunked", cut_after=held(first) + 10
        )
    if how == "reset":
        return Reply(
            body=(*first, b"x" * 100),
            headers=headers,
            framing="chunked",
            cut_after=held(first) + 10,
            reset=True,
        )
    return Reply(body=bodies[how], headers=headers, framing="chunked")


HOWS = ["error", "late error", "garbage", "late garbage", "empty", "no end", "cut", "reset"]


@BOTH
@MODES
@pytest.mark.parametrize("how", HOWS)
def test_s76_section2_never_a_false_end(here: Estate, kind: str, streamed: bool, how: str) -> None:
    """A real status while nothing was sent, an `error` event after it; a row that says so."""
    far, port = here.far(kind), here.port(kind)
    far.instead(broken(kind, how, streamed=streamed))
    found = error_of(port, msg(), streamed=streamed)
    row = here.usage("--limit", "1")[-1]

    assert found["error"]["type"] in ("api_error", "overloaded_error")
    if not streamed or how in ("error", "garbage", "empty"):
        assert found["status"] >= 500
    elif how in ("no end", "cut"):
        assert found["status"] is None
    # Else it depends on whether text and trouble arrive together: then nothing was sent yet.
    if "error" in how:
        assert "boom" in found["error"]["message"]
    assert row["status"] >= 500
    assert row["error_type"] == found["error"]["type"]
    assert row["stop_reason"] is None
    assert row["request_id"] == found["request_id"]


@BOTH
def test_s137_what_was_said_before_a_cut_stays(here: Estate, kind: str) -> None:
    """Text, then an error; no other attempt, no switch."""
    far = here.far(kind)
    far.instead(broken(kind, "no end", streamed=True))
    answer = post(here.port(kind), msg(stream=True))
    said = grammar.check(answer.body)

    assert said.text == "Hel"
    assert "message_stop" not in said.names
    assert "message_delta" not in said.names
    assert len(far.asked) == 1


@BOTH
@MODES
def test_section2_a_connection_that_is_reset(here: Estate, kind: str, streamed: bool) -> None:
    here.far(kind).instead(Reply(raw=b"", reset=True))
    answer = post(here.port(kind), msg(stream=streamed))

    assert_error(answer, 529, "overloaded_error", "Ollama" if kind == "ollama" else "OpenRouter")
    assert int(answer.headers["retry-after"]) > 0


def test_s76_a_plain_answer_with_an_error_in_its_choice(here: Estate) -> None:
    choice = {
        "finish_reason": "error",
        "message": {"role": "assistant", "content": "Hal"},
        "error": {"code": 502, "message": "the far provider died"},
    }
    here.fr.instead(no(200, {"choices": [choice]}))
    answer = post(here.router, msg())

    assert_error(answer, answer.status, answer.json["error"]["type"], "the far provider died")
    assert answer.status >= 500


# --- not there ------------------------------------------------------------------------------------


def test_s70_s47a_s47b_ollama_is_not_running_and_comes_back(here: Estate) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    proxy = here.up("ollama/absent", "--base-url", url)
    pid = here.house.row("ollama/absent")["pid"]
    for streamed in (False, True):
        answer = post(proxy, msg(stream=streamed))
        assert_error(answer, 503, "api_error", "Ollama", "ollama serve", url)
        assert answer.headers["x-should-retry"] == "false"
        assert here.usage("ollama/absent")[-1]["retry_count"] == 0  # `bench/rows.py` measures the 1 s
    ill = get(proxy, "/health")
    assert (ill.status, ill.json["healthy"]) == (503, False)
    assert "ollama serve" in ill.json["upstream"]["detail"]
    assert get(proxy, "/livez").status == 200

    with Ollama(port=port) as far:
        far.models = ["absent"]
        assert post(proxy, msg()).status == 200
        well = until_health(proxy, 200)
        assert well.json["healthy"] is True
        far.models = ["another"]
        missing = until_health(proxy, 503)
        assert missing.json["healthy"] is False
        assert "ollama pull absent" in missing.json["upstream"]["detail"]
        far.models = ["absent"]
        until_health(proxy, 200)
    gone = until_health(proxy, 503)

    assert gone.json["healthy"] is False
    assert "ollama serve" in gone.json["upstream"]["detail"]
    assert here.house.row("ollama/absent")["pid"] == pid


def until_health(port: int, status: int) -> Answer:
    """Looked at again until the documented age of an answer (5 s at most) is surely over."""
    for _ in attempts(10.0, 0.05):
        if (answer := get(port, "/health")).status == status:
            return answer
    raise AssertionError(answer)


def test_s47b_a_silent_provider_is_unhealthy_within_three_seconds(here: Estate) -> None:
    with Ollama() as far:
        far.on("*", Reply(hang=True)).on("/api/tags", Reply(hang=True))
        port = here.up("ollama/silent", "--base-url", far.base, "--no-wait")
        here.house.wait_row(lambda row: row["state"] == "ready", "ollama/silent")
        answer = get(port, "/health")

        assert answer.status == 503  # `bench/rows.py` measures the three seconds
        assert "within 2.5s" in answer.json["upstream"]["detail"]


def test_s47b_openrouters_key_is_looked_at(here: Estate) -> None:
    port = here.up("stern/model")
    here.fr.on("/api/v1/key", router_says(401, "no such key"))
    ill = until_health(port, 503)
    here.fr.on("/api/v1/key")
    well = until_health(port, 200)

    assert "API key" in ill.json["upstream"]["detail"]
    assert well.json["healthy"] is True


def test_s70_nobody_listens_at_openrouter(here: Estate) -> None:
    url = f"http://127.0.0.1:{free_port()}/api/v1"
    port = here.up("openrouter/gone", "--base-url", url, "--api-key", KEY)
    answer = post(port, msg())

    assert_error(answer, 503, "api_error", "OpenRouter", url)
    assert answer.headers["x-should-retry"] == "false"
    ill = get(port, "/health")  # S47b
    assert (ill.status, ill.json["healthy"]) == (503, False)
    assert url.rpartition(":")[2].partition("/")[0] in ill.json["upstream"]["detail"]


# --- time -----------------------------------------------------------------------------------------


@MODES
@pytest.mark.parametrize(("model", "title"), [("hasty/x", "Ollama"), ("stern/x", "OpenRouter")])
def test_s69_nothing_comes(here: Estate, streamed: bool, model: str, title: str) -> None:
    """The fake sees its connection closed, so that generation stops."""
    far = here.fo if model == "hasty/x" else here.fr
    port = here.up(model)
    far.instead(Reply(hang=True))
    began = time.monotonic()
    answer = post(port, msg(stream=streamed))
    took = time.monotonic() - began
    far.wait_for_close(far.asked[-1].connection)

    assert_error(answer, 504, "timeout_error", "within 0.5s", "first_byte_timeout")
    assert title in answer.json["error"]["message"] or "stern" in answer.json["error"]["message"]
    assert 0.4 < took < 5


def test_s69_s128_nothing_comes_after_the_hold(here: Estate) -> None:
    """Headers, `message_start` and `ping`s meanwhile; the limit's end is an event then."""
    here.fo.instead(Reply(hang=True))
    answer = post(here.up("heldhasty/x"), msg(stream=True))
    here.fo.wait_for_close(here.fo.asked[-1].connection)
    found = grammar.check(answer.body)

    assert answer.status == 200
    assert found.names[:2] == ["message_start", "ping"]
    assert set(found.names[1:-1]) == {"ping"}
    assert found.error is not None
    assert found.error["error"]["type"] == "timeout_error"
    assert "Ollama (heldhasty) sent nothing within 1.5s" in found.error["error"]["message"]
    assert here.usage("heldhasty/x")[-1]["status"] == 504


@MODES
def test_s69_nothing_more_comes(here: Estate, streamed: bool) -> None:
    port = here.up("bored/x")
    first = lines({"message": {"role": "assistant", "content": "Hel"}, "done": False})
    here.fo.instead(Reply(body=(*first, b"x"), framing="chunked", hang_after=held(first)))
    found = error_of(port, msg(), streamed=streamed)
    here.fo.wait_for_close(here.fo.asked[-1].connection)

    assert found["error"]["type"] == "timeout_error"
    assert found["status"] == (None if streamed else 504)
    assert "within 0.5s (idle_timeout)" in found["error"]["message"]


@MODES
def test_s69_it_takes_too_long(here: Estate, streamed: bool) -> None:
    port = here.up("brief/x")
    here.fo.say(*["word "] * 1000, pause=0.05)
    found = error_of(port, msg(), streamed=streamed)
    here.fo.wait_for_close(here.fo.asked[-1].connection)

    assert found["error"]["type"] == "timeout_error"
    assert "within 0.8s (total_timeout)" in found["error"]["message"]


def test_s69_no_connection_is_accepted(here: Estate) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        queue = [socket.socket() for _ in range(4)]  # fill what the kernel accepts by itself
        for one in queue:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        config = here.house.home / "config" / "modelproxy" / "config.toml"
        more = f'\n[providers.full]\nkind = "ollama"\nbase_url = "{url}"\nconnect_timeout = "500ms"\n'
        config.write_text(config.read_text() + more)
        try:
            port = here.up("full/x", "--no-wait")
            first = post(port, msg())  # looks at the provider as well
            began = time.monotonic()
            second = post(port, msg())
            took = time.monotonic() - began
        finally:
            for one in queue:
                one.close()

    for answer in (first, second):
        assert_error(answer, 504, "timeout_error", "within 0.5s", "connect_timeout", url)
    assert 0.4 < took < 5


@MODES
def test_s75_retries_are_counted(here: Estate, streamed: bool) -> None:
    port = here.up("patient/x")
    wait = ("Retry-After", "0")
    here.fr.instead(router_says(429, "slow", wait), router_says(503, "busy", wait), said(here, streamed))
    answer = post(port, msg(stream=streamed))
    row = here.usage("patient/x")[-1]

    assert answer.status == 200
    assert len(here.fr.asked) == 3
    assert row["retry_count"] == 2
    assert row["status"] == 200


def said(here: Estate, streamed: bool) -> Reply:
    if streamed:
        return Reply(body=here.fr.streamed(Said()), headers=SSE, framing="chunked")
    return Reply(body=json.dumps(here.fr.whole(Said())).encode())


def test_s75_no_retry_after_the_first_byte(here: Estate) -> None:
    """Though the same failure would be repeated before it."""
    port = here.up("patient/x")
    busy = {"error": {"code": 503, "message": "busy", "metadata": {"retry_after": 0}}, "choices": []}
    here.fr.instead(Reply(body=data(HEL, busy), headers=SSE, framing="chunked", pause=0.5))
    found = error_of(port, msg(), streamed=True)

    assert (found["status"], found["error"]["type"]) == (None, "overloaded_error")
    assert len(here.fr.asked) == 1


def test_s128_s137_before_the_hold_ends_a_failure_is_a_status(here: Estate) -> None:
    """The default hold is 10 s; FO fails after a while of silence."""
    reply = no(500, {"error": "boom"})
    here.fo.instead(Reply(500, reply.body, headers=reply.headers, delay=1.0))
    answer = post(here.ollama, msg(stream=True))

    assert_error(answer, 500, "api_error", "boom")


def test_s128_pings_while_the_model_thinks(here: Estate) -> None:
    """`message_start` and a `ping` at the hold's end, and on and on, in place of a silence."""
    here.fo.instead(Reply(hang=True))
    reading = Stream(here.up("held/x"), "Hello")
    read_pings(reading, 4)
    reading.close()
    here.fo.wait_for_close(here.fo.asked[-1].connection)

    names = grammar.check(reading.seen, may_be_unfinished=True).names
    assert names == ["message_start", *["ping"] * 4]


def test_s128_pings_while_a_call_is_being_buffered(here: Estate) -> None:
    """FR stops in the middle of the arguments until the client has seen three pings."""
    gate = threading.Semaphore(0)
    said = Said((), calls=(("get_weather", {"city": "Paris"}),))
    pieces = here.fr.streamed(said)
    begun = b"".join(pieces[:3])
    here.fr.instead(Reply(body=(begun, *pieces[3:]), headers=SSE, framing="chunked", gate=gate))
    reading = Stream(here.up("heldrouter/x"), "Hello")
    read_pings(reading, 3)
    assert b"tool_use" not in reading.seen
    gate.release(len(pieces))
    found = grammar.check(reading.rest())

    assert b"get_weather" in begun
    assert found.names[:4] == ["message_start", "ping", "ping", "ping"]
    assert found.message is not None
    [call] = found.message["content"]
    assert (call["name"], call["input"]) == ("get_weather", {"city": "Paris"})


def read_pings(reading: Stream, count: int) -> None:
    """Until the end of the event that is the last of so many."""
    while reading.seen.count(b"event: ping") < count or not reading.seen.endswith(b"\n\n"):
        line = reading.response.readline()
        assert line, reading.seen
        reading.seen += line


def test_s69_s128_after_the_hold_a_failure_is_an_event(here: Estate) -> None:
    reply = no(500, {"error": "boom"})
    here.fo.instead(Reply(500, reply.body, headers=reply.headers, delay=1.5))
    answer = post(here.up("held/x"), msg(stream=True))
    found = grammar.check(answer.body)

    assert answer.status == 200
    assert found.pings >= 1
    assert found.error is not None
    assert found.error["error"]["type"] == "api_error"
    assert "boom" in found.error["error"]["message"]


# --- clients that leave ---------------------------------------------------------------------------


@BOTH
@MODES
def test_s69_a_client_that_leaves_frees_the_provider(here: Estate, kind: str, streamed: bool) -> None:
    far, port = here.far(kind), here.port(kind)
    far.instead(Reply(hang=True))
    body = json.dumps(msg(stream=streamed)).encode()
    with socket.create_connection(("127.0.0.1", port)) as client:
        head = "POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        for _ in attempts():
            if far.asked:
                break
    far.wait_for_close(far.asked[-1].connection, 3.0)
    for _ in attempts():
        row = here.usage("--limit", "1")[-1]
        if row["status"] == 499:
            break

    assert (row["status"], row["error_type"], row["stream"]) == (499, "cancelled", streamed)


@BOTH
def test_s69_a_client_that_leaves_in_the_middle(here: Estate, kind: str) -> None:
    far = here.far(kind)
    far.say(*["word "] * 1000, pause=0.05)
    reading = Stream(here.port(kind), "Hello")
    reading.read_until(b"content_block_delta")
    reading.close()

    far.wait_for_close(far.asked[-1].connection, 3.0)


# --- the ledger -----------------------------------------------------------------------------------


@BOTH
def test_s81_s106_s107_a_row_for_every_ending(here: Estate, kind: str) -> None:
    model = "ollama/books" if kind == "ollama" else "openrouter/books"
    far = here.far(kind)
    port = here.up(model, "--base-url", far.base, *(() if kind == "ollama" else ("--api-key", KEY)))
    post(port, msg())
    post(port, msg(stream=True))
    far.instead(no(429, {"error": "slow"}))
    post(port, msg())
    far.instead(no(500, {"error": "boom"}))
    post(port, msg(stream=True))
    far.instead(broken(kind, "no end", streamed=True))
    post(port, msg(stream=True))
    post(port, msg(max_tokens="many"))
    far.instead()
    post(port, msg(), "/v1/messages/count_tokens")
    rows = here.usage(model)

    assert [(row["stream"], row["status"], row["error_type"], row["stop_reason"]) for row in rows] == [
        (False, 200, None, "end_turn"),
        (True, 200, None, "end_turn"),
        (False, 429, "rate_limit_error", None),
        (True, 500, "api_error", None),
        (True, 500, "api_error", None),
        (False, 400, "invalid_request_error", None),
    ]
    for row in rows:
        assert row["provider"] == model.partition("/")[0]
        assert (row["model"], row["proxy"], row["port"]) == ("books", model, port)
        assert row["fallback"] is False
        assert "cost_usd" in row
    assert [(row["input_tokens"], row["output_tokens"]) for row in rows[:2]] == [(21, 7)] * 2
    assert [row["tokens_estimated"] for row in rows[:2]] == [False, False]
    assert {row["requested_model"] for row in rows[:5]} == {"claude-sonnet-4-5"}
    assert len({row["request_id"] for row in rows}) == 6
