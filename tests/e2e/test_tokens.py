"""Access tokens as clients and the user see them: real commands and workers, providers that note all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fakes.house import Stream, ask, assert_error, attempts, free_port, get

from .providers import Estate, estate, msg, post
from .test_limits import CONFIG, Turnstile, client
from .test_secrets import command_lines, environments, files

pytestmark = pytest.mark.slow

MODEL = "ollama/codellama"
FRONT = f"""
[front.default]
rules = [{{ model = "small", to = "{MODEL}" }}]
[front.door]
rules = [{{ model = "small", to = "{MODEL}" }}]
"""
OPEN = ("/health", "/livez", "/")


@pytest.fixture(scope="module")
def the_home() -> Iterator[Estate]:
    with estate(CONFIG + FRONT) as found:
        yield found


@pytest.fixture
def home(the_home: Estate) -> Iterator[Estate]:
    """For one test: nobody was asked yet, and there is no token."""
    the_home.reset()
    answer = the_home.fo.answer
    yield the_home
    the_home.fo.answer = answer  # type: ignore[method-assign]  # see Turnstile
    house = the_home.house
    house.command("config", "unset", "require_token")
    for row in house.tell("tokens", "list", "--json"):
        house.tell("tokens", "remove", row["name"], "--json")
    house.command("down", "all", "--grace", "0")
    the_home.ports.clear()


def make(home: Estate, name: str, *words: str) -> str:
    token: str = home.house.tell("tokens", "add", name, "--json", *words)["token"]
    return token


def models(port: int, token: str | None) -> Any:
    headers = {"x-api-key": "dummy"} | ({} if token is None else {"x-proxy-token": token})
    return ask(port, "GET", "/v1/models", headers=headers)


def wait_for(port: int, token: str | None, status: int) -> None:
    """Until the worker has heard of a change; the list of models counts for no limit."""
    for _ in attempts():
        answer = models(port, token)
        if answer.status == status:
            return
    raise AssertionError(answer)


def assert_nowhere(home: Estate, *tokens: str) -> None:
    """On no disk, in no log, no argument and no environment, and with no provider."""
    held = files(home.house)
    assert MODEL in held, "the files were not read"
    sent = [value for far in (home.fo, home.fa) for seen in far.requests for value in seen.headers.values()]
    bodies = [seen.body.decode() for far in (home.fo, home.fa) for seen in far.requests]
    shown = [out + err for _, out, err in home.house.at_once(*SHOWING)]
    for token in tokens:
        for text in (held, command_lines(), environments(home.house), *sent, *bodies, *shown):
            assert token not in text


SHOWING = [
    ["ps", "-a", "-v"],
    ["ps", "--json"],
    ["events", "--json"],
    ["logs", MODEL],
    ["usage", "--json"],
    ["tokens", "list"],
    ["config", "show"],
]


def test_each_token_has_a_rate_of_its_own(home: Estate) -> None:
    """Made while the proxy serves, by the worker that it has; the ledger says whose each request was."""
    port = home.up(MODEL)
    [before] = home.house.tell("ps", "--json")
    ci, me = make(home, "ci", "--rpm", "2"), make(home, "me")
    wait_for(port, me, 200)
    answers = [post(port, msg(), authorization=f"Bearer {ci}") for _ in range(3)]
    others = [post(port, msg(), **{"x-api-key": me}), post(port, msg())]

    assert [answer.status for answer in (*answers, *others)] == [200, 200, 429, 200, 200]
    assert_error(answers[2], 429, "rate_limit_error", "takes 2 requests per minute (rpm of the token ci)")
    assert answers[2].headers["x-limit-type"] == "token"
    assert 0 < int(answers[2].headers["retry-after"]) <= 60
    assert [row["token"] for row in home.usage()[-5:]] == ["ci", "ci", "ci", "me", None]
    [after] = home.house.tell("ps", "--json")
    assert (after["pid"], after["tokens"], after["token_required"]) == (before["pid"], ["ci", "me"], False)
    assert_nowhere(home, ci, me)


def test_a_token_that_has_used_up_its_places_is_not_in_the_way_of_others(home: Estate) -> None:
    """Its next request waits, pinged, while those of others go on; too long is told with whose limit it was."""
    port = home.up(MODEL)
    turnstile, found = Turnstile(home.fo), dict[str, Any]()
    me, ci = make(home, "me", "--max-concurrent", "1"), make(home, "ci", "--max-concurrent", "1")
    wait_for(port, ci, 200)
    with client(port, "one", "a", found, me):
        turnstile.wait(1)
        patient = Stream(port, "two", {"x-proxy-token": me})
        patient.read_until(b"event: ping")
        with client(port, "three", "a", found, ci):
            turnstile.wait(2)
            assert turnstile.asked == ["one", "three"]
            own = get(port, "/health").json["queue"]["tokens"]
            assert {name: (one["inside"], one["waiting"]) for name, one in own.items()} == {
                "me": (1, 1),
                "ci": (1, 0),
            }
            home.house.tell("set", MODEL, "queue_timeout=200ms", "--json")
            for _ in attempts():
                late = post(port, msg("late"), authorization=f"Bearer {me}")
                if "(queue_timeout)" in late.json["error"]["message"]:
                    break
            turnstile.let(3)
    turnstile.wait(3)

    assert b"message_stop" in patient.rest()
    assert turnstile.asked == ["one", "three", "two"]
    assert {answer.status for answer in found.values()} == {200}
    assert_error(
        late, 429, "rate_limit_error", f"{MODEL}, which takes 1 at a time (max_concurrent of the token me)"
    )
    assert (late.headers["x-limit-type"], int(late.headers["retry-after"]) > 0) == ("token", True)


def test_where_a_token_is_demanded_nobody_comes_in_without(home: Estate) -> None:
    """Health is open to all; an unknown token is refused also where none is demanded."""
    port = home.up(MODEL)
    for token in ("mp-made-up", "anything"):
        assert_error(models(port, token), 401, "authentication_error", "not known to this proxy")
    ci = make(home, "ci")
    elsewhere = make(home, "elsewhere", "--proxies", "openrouter/*")
    home.house.command("config", "set", "require_token", "true")
    home.house.tell("reload", "--json")
    wait_for(port, None, 401)
    calls = ("/v1/messages", "/v1/messages/count_tokens")
    refused = [models(port, None), *(post(port, msg(), path) for path in calls), models(port, elsewhere)]

    for answer in refused:
        assert_error(answer, 401, "authentication_error")
        assert answer.headers["x-should-retry"] == "false"
    assert "proxyctl tokens add NAME" in refused[0].json["error"]["message"]
    assert [get(port, path).status for path in OPEN] == [200] * 3
    assert [post(port, msg(), path, authorization=f"Bearer {ci}").status for path in calls] == [200, 200]
    assert home.house.tell("ask", MODEL, "Hello", "--json", code=1)["error"]["code"] == "authentication_error"
    home.house.env["MODELPROXY_TOKEN"] = ci
    said = home.house.command("ask", MODEL, "Hello")
    del home.house.env["MODELPROXY_TOKEN"]
    assert (said.returncode, said.stdout, len(home.fo.asked)) == (0, "Hello\n", 2)
    assert "tokens: demanded; ci\n" in home.house.command("ps", "-v").stdout
    assert home.house.tell("config", "get", "require_token", "--json")["value"] is True
    home.house.tell("tokens", "remove", "ci", "--json")
    wait_for(port, ci, 401)
    assert_nowhere(home, ci, elsewhere)


def test_a_token_is_never_passed_on_and_the_callers_own_credential_is(home: Estate) -> None:
    ci = make(home, "ci")
    port = home.anthropic
    own = "Bearer sk-ant-oat-of-the-caller"
    beside = post(port, msg(), **{"x-proxy-token": ci, "authorization": own})
    instead = post(port, msg(), **{"x-api-key": ci})
    [first, second] = home.fa.asked

    assert (beside.status, instead.status) == (200, 200)
    assert (first.headers["authorization"], first.headers["x-api-key"]) == (own, "dummy")
    assert {"x-proxy-token", "x-api-key", "authorization"} & set(second.headers) == set()
    assert "x-proxy-token" not in first.headers
    assert ci not in files(home.house)


def test_behind_a_front_the_proxy_knows_who_asks_and_providers_do_not(home: Estate) -> None:
    """Both demand a token, and the ledger's row is the proxy's."""
    home.house.command("config", "set", "require_token", "true")
    ci = make(home, "ci")
    front = home.up("front")
    home.house.tell("up", MODEL, "--port", "0", "--json")
    own = "Bearer sk-ant-oat-of-the-caller"
    refused = post(front, msg(model="small"))
    small = post(front, msg(model="small"), **{"x-proxy-token": ci, "authorization": own})
    large = post(front, msg(), **{"x-proxy-token": ci, "authorization": own})
    instead = post(front, msg(model="small"), authorization=f"Bearer {ci}")
    rows = [(row["proxy"], row["token"], row["status"]) for row in home.usage()[-4:]]

    assert [answer.status for answer in (refused, small, large, instead)] == [401, 200, 200, 200]
    assert rows == [("front", None, 401), (MODEL, "ci", 200), ("front", "ci", 200), (MODEL, "ci", 200)]
    assert home.fa.asked[0].headers["authorization"] == own
    assert_nowhere(home, ci)


def test_a_door_of_its_own_with_a_token_for_it_alone(home: Estate) -> None:
    """It comes with the supervisor and demands a token, of which no provider hears."""
    house, port = home.house, free_port()
    guest = make(home, "guest", "--proxies", "front/door")
    house.command("daemon", "stop")
    said = {"port": str(port), "autostart": "true", "require_token": "true"}
    for key, value in said.items():
        house.command("config", "set", f"front.door.{key}", value)
    house.start()
    assert next(
        event for event in house.events() if (event["proxy"], event["kind"]) == ("front/door", "ready")
    )
    own = "Bearer sk-ant-oat-of-the-caller"
    refused = post(port, msg(), authorization=own)
    small = post(port, msg(model="small"), **{"x-proxy-token": guest, "authorization": own})
    large = post(port, msg(), **{"x-proxy-token": guest, "authorization": own})
    rows = [(row["proxy"], row["token"], row["status"]) for row in home.usage()[-3:]]

    assert_error(refused, 401, "authentication_error", "demands an access token")
    assert (small.status, large.status) == (200, 200)
    assert rows == [("front/door", None, 401), (MODEL, "guest", 200), ("front/door", "guest", 200)]
    assert home.fa.asked[0].headers["authorization"] == own
    assert_nowhere(home, guest)
    for key in said:
        house.command("config", "unset", f"front.door.{key}")


def test_a_token_is_still_good_when_another_supervisor_has_come(home: Estate) -> None:
    """And one that was taken out meanwhile is not."""
    port = home.up(MODEL)
    ci, gone = make(home, "ci"), make(home, "gone")
    wait_for(port, gone, 200)
    home.house.kill_supervisor()
    home.house.tell("tokens", "remove", "gone", "--json")
    assert models(port, ci).status == 200, "a worker alone knows it as well"
    home.house.start()
    wait_for(port, gone, 401)

    assert models(port, ci).status == 200
    assert_nowhere(home, ci, gone)
