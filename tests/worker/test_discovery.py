"""What is found out about a provider, against a real server; and who is told what when it is ill."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio
from fakes.upstream import Reply, Upstream

from modelproxy.worker import discovery
from modelproxy.worker.contract import Options, WorkerSpec
from modelproxy.worker.dial import parse_base
from modelproxy.worker.discovery import (
    AnthropicSurvey,
    Discovery,
    Facts,
    ListSurvey,
    OllamaSurvey,
    Place,
    RemoteSurvey,
    Survey,
    facts_of_entry,
)
from modelproxy.worker.failures import Failure, Kind
from modelproxy.worker.pool import Pool
from modelproxy.worker.wire import codec

SPEC = WorkerSpec(
    name="demo", model_id="ollama/coder", provider="ollama", kind="ollama", model="coder", port=3457
)


def told(document: Any, status: int = 200) -> Reply:
    return Reply(status, codec.dumps(document))


def tags(*names: str, digest: str = "d1") -> Reply:
    return told({"models": [{"name": name, "model": name, "digest": digest} for name in names]})


def place(far: Upstream, **changes: Any) -> Place:
    return Place(
        attrs.evolve(SPEC, **changes), parse_base(far.url), "Ollama", "; start it with `ollama serve`"
    )


def interpret(show: Any, ps: Any) -> Facts:
    return Facts(window=show["window"], capabilities=frozenset(["tools"]), more={"ps": ps})


def small(window: int | None) -> str | None:
    return f"{window} is too small" if window is not None and window < 100 else None


def looking(
    here: Place, survey: Survey | None = None, *, cache_s: float = 60.0, probe_s: float = 2.5
) -> Discovery:
    ours = survey or OllamaSurvey(here, interpret, small)
    return Discovery(here, ours, Pool(), cache_s=cache_s, probe_s=probe_s, wall_clock=lambda: 1234.5)


def ollama_with(far: Upstream, window: int = 1000) -> Upstream:
    return far.on("/api/tags", tags("coder:latest")).on("/api/show", told({"window": window}))


# --- Ollama ---------------------------------------------------------------------------------------


async def test_a_model_that_is_there(far: Upstream) -> None:
    """S45."""
    ollama_with(far).on("/api/ps", told({"models": []}))
    seen = await looking(place(far)).condition()

    assert (seen.ok, seen.detail, seen.warning, seen.checked_at) == (True, "", "", 1234.5)
    assert seen.latency_ms is not None
    assert [one.path for one in far.requests] == ["/api/tags", "/api/show", "/api/ps"]
    assert far.requests[1].json() == {"model": "coder"}
    assert far.connections == 1


@pytest.mark.parametrize(
    ("model", "listed", "ok"),
    [
        ("coder", "coder:latest", True),
        ("coder:latest", "coder", True),
        ("Coder:7b", "coder:7b", True),
        ("hub/me/coder", "hub/me/coder:latest", True),
        ("coder", "coder:7b", False),
        ("coder:7b", "coder:latest", False),
    ],
)
async def test_a_model_has_more_than_one_name(far: Upstream, model: str, listed: str, ok: bool) -> None:
    far.on("/api/tags", tags("other", listed)).on("/api/show", told({"window": 1}))

    assert (await looking(place(far, model=model)).condition()).ok is ok


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (tags("other"), "Ollama has no model coder; get it with `ollama pull coder`"),
        (told({"models": None}), "what answers at {url} is not Ollama"),
        (Reply(body=b"<html>"), "what answers at {url} is not Ollama"),
        (Reply(500, b"boom"), "Ollama answers with status 500 at {url}"),
        (Reply(401, b"no"), "Ollama asks for an API key - set one with: proxyctl keys set ollama"),
        (
            Reply(raw=b"hm\r\n\r\n"),
            "Ollama is not reachable at {url}: its answer is malformed HTTP; start it .*",
        ),
    ],
)
async def test_what_is_wrong_is_said(far: Upstream, reply: Reply, words: str) -> None:
    """S47a."""
    far.on("/api/tags", reply)
    seen = await looking(place(far)).condition()
    expected = words.format(url=far.url).removesuffix(".*")

    assert (seen.ok, seen.detail[: len(expected)]) == (False, expected)


async def test_a_server_that_is_not_running_and_then_is(far: Upstream) -> None:
    """S47a, S47b: nothing needs to be restarted."""
    ollama_with(far)
    one = looking(place(far), cache_s=0)
    assert (await one.condition()).ok
    far.stop()
    seen = await one.condition()

    assert not seen.ok
    assert seen.detail == (
        f"Ollama is not reachable at {far.url}: connection refused; start it with `ollama serve`"
    )
    far.start()
    assert (await one.condition()).ok


async def test_a_server_that_says_nothing_is_not_waited_for(far: Upstream) -> None:
    """S47b."""
    far.on("*", Reply(hang=True))
    seen = await looking(place(far), probe_s=0.2).condition()

    assert not seen.ok
    assert "not reachable" in seen.detail
    assert "`ollama serve`" in seen.detail
    await trio.to_thread.run_sync(far.wait_for_close)


@pytest.mark.parametrize(
    ("window", "options", "warning"),
    [
        (50, Options(), "50 is too small"),
        (50, Options(num_ctx=1000), ""),
        (1000, Options(context_window=60), "60 is too small"),
        (1000, Options(), ""),
    ],
)
async def test_a_hopeless_window_is_no_illness_but_said(
    far: Upstream, window: int, options: Options, warning: str
) -> None:
    seen = await looking(place(ollama_with(far, window), options=options)).condition()

    assert (seen.ok, seen.warning, seen.detail) == (True, warning, warning)


async def test_facts_are_asked_for_once_per_digest(far: Upstream) -> None:
    ollama_with(far)
    one = looking(place(far), cache_s=0)
    for _ in range(3):
        await one.condition()
    assert len(far.to("/api/show")) == 1

    far.on("/api/tags", tags("coder", digest="d2")).on("/api/show", told({"window": 7}))
    await one.condition()
    assert len(far.to("/api/show")) == 2
    assert (await one.terms(1)).window == 7


async def test_a_server_that_cannot_show_is_well_all_the_same(far: Upstream) -> None:
    far.on("/api/tags", tags("coder"))
    one = looking(place(far))

    assert (await one.condition()).ok
    assert (await one.terms(1)).capabilities is None


# --- what requests learn --------------------------------------------------------------------------


async def test_the_first_request_waits_for_the_facts(far: Upstream) -> None:
    one = looking(place(ollama_with(far), api_key="k"))
    terms = await one.terms(2)

    assert (terms.provider, terms.model, terms.api_key) == ("ollama", "coder", "k")
    assert (terms.window, terms.capabilities) == (1000, frozenset(["tools"]))
    await one.terms(2)
    assert len(far.requests) == 3


async def test_a_request_behind_a_missing_model_waits_for_the_facts_again(far: Upstream) -> None:
    """Without them Ollama would give the model that was just pulled a window of its own choice."""
    one = looking(place(ollama_with(far)))
    await one.terms(2)
    one.heard(Failure(Kind.NOT_FOUND, "model not found"))

    assert (await one.terms(2)).window == 1000


async def test_a_request_to_a_server_that_was_down_waits_for_the_facts(far: Upstream) -> None:
    one = looking(place(far), cache_s=0)
    assert not (await one.condition()).ok
    ollama_with(far)

    assert (await one.terms(2)).window == 1000


async def test_requests_do_not_wait_for_a_server_that_hears_no_questions(
    far: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "QUICK_MS", 50.0)
    far.on("*", Reply(hang=True))
    one = looking(place(far), cache_s=0, probe_s=0.1)
    await one.condition()
    await one.terms(2)

    assert len(far.requests) == 1


async def test_a_server_without_a_list_is_not_asked_for_it_by_every_request(far: Upstream) -> None:
    here = place(far)
    one = looking(here, ListSurvey(here), cache_s=0)
    await one.terms(2)
    await one.terms(2)

    assert len(far.requests) == 1


async def test_what_is_configured_is_stronger(far: Upstream) -> None:
    options = Options(context_window=5, max_output_tokens=6, capabilities=["vision"])
    terms = await looking(place(ollama_with(far), options=options)).terms(2)

    assert (terms.window, terms.max_output, terms.capabilities) == (5, 6, frozenset(["vision"]))


async def test_a_request_does_not_wait_for_ever(far: Upstream) -> None:
    far.on("*", Reply(hang=True))
    terms = await looking(place(far)).terms(0.1)

    assert terms.window is None


async def test_what_requests_have_shown_is_kept(far: Upstream) -> None:
    one = looking(place(ollama_with(far)))
    await one.terms(2)
    one.learn({"think": "never"})

    assert (await one.terms(2)).facts == {"ps": None, "think": "never"}


async def test_what_requests_have_shown_of_another_model_under_the_same_name_is_forgotten(
    far: Upstream,
) -> None:
    one = looking(place(ollama_with(far)), cache_s=0)
    await one.terms(2)
    one.learn({"think": "never"})
    await one.condition()
    same = (await one.terms(2)).facts
    far.on("/api/tags", tags("coder", digest="d2")).on("/api/show", told({"window": 7}))
    await one.condition()

    assert same == {"ps": None, "think": "never"}
    assert (await one.terms(2)).facts == {"ps": None}


# --- sharing and doubting -------------------------------------------------------------------------


async def test_one_look_serves_all_who_ask(far: Upstream) -> None:
    far.on("/api/tags", Reply(body=tags("coder").body, delay=0.1)).on("/api/show", told({"window": 1}))
    one = looking(place(far))
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(one.condition)

    assert len(far.to("/api/tags")) == 1


async def test_when_the_one_who_asks_leaves_the_next_one_asks(far: Upstream) -> None:
    far.on("/api/tags", Reply(hang=True), tags("coder")).on("/api/show", told({"window": 1}))
    one = looking(place(far))
    async with trio.open_nursery() as nursery:

        async def impatient() -> None:
            with trio.move_on_after(0.1):
                await one.condition()

        nursery.start_soon(impatient)
        await trio.sleep(0.05)
        assert (await one.condition()).ok


async def test_a_look_is_good_for_a_while(far: Upstream) -> None:
    assert discovery.CACHE_S <= 5
    one = looking(place(ollama_with(far)), cache_s=0.2)
    await one.condition()
    await one.condition()
    assert len(far.to("/api/tags")) == 1
    await trio.sleep(0.25)
    await one.condition()
    assert len(far.to("/api/tags")) == 2


async def test_bad_news_grow_old_sooner(far: Upstream) -> None:
    one = looking(place(far))
    assert not (await one.condition()).ok
    await one.condition()
    assert len(far.to("/api/tags")) == 1
    ollama_with(far)
    await trio.sleep(discovery.UNWELL_CACHE_S)
    assert (await one.condition()).ok


@pytest.mark.parametrize(
    ("kind", "doubtful"),
    [(Kind.UNREACHABLE, True), (Kind.TIMEOUT, True), (Kind.NOT_FOUND, True), (Kind.INVALID, False)],
)
async def test_a_failure_may_be_a_reason_to_look_again(far: Upstream, kind: Kind, doubtful: bool) -> None:
    one = looking(place(ollama_with(far)))
    await one.condition()
    await one.doubted()  # the first look is news itself
    one.heard(Failure(kind, "boom"))
    with trio.move_on_after(0.05) as scope:
        await one.doubted()
    assert scope.cancelled_caught is not doubtful
    await one.condition()
    assert len(far.to("/api/tags")) == 1 + doubtful


async def test_success_is_a_reason_only_when_it_surprises(far: Upstream) -> None:
    one = looking(place(far))
    one.heard(None)
    await one.condition()  # 404 for everything
    await one.doubted()  # the first look is news itself
    with trio.move_on_after(0.05) as scope:
        await one.doubted()
    assert scope.cancelled_caught
    one.heard(None)
    await one.doubted()


async def test_news_reach_those_who_did_not_ask(far: Upstream) -> None:
    one = looking(place(far), cache_s=0)
    await one.condition()
    await one.doubted()  # the first look
    await one.condition()
    with trio.move_on_after(0.05) as scope:
        await one.doubted()
    assert scope.cancelled_caught
    ollama_with(far)
    assert (await one.condition()).ok
    await one.doubted()


# --- servers with a list --------------------------------------------------------------------------

MODEL = {
    "id": "v/m",
    "context_length": 9000,
    "top_provider": {"context_length": 8000, "max_completion_tokens": 700},
    "supported_parameters": ["tools", "reasoning"],
    "architecture": {"input_modalities": ["text", "image"]},
    "pricing": {"input_cache_write": "0.1"},
}


async def test_a_router_is_asked_for_its_key_and_its_model(far: Upstream) -> None:
    """S47b: connectivity and key."""
    far.on("/key", told({"data": {}})).on("/models", told({"data": [MODEL]}))
    here = place(
        far, kind="openrouter", model="v/m:nitro", api_key="k", options=Options(headers={"X-A": "b"})
    )
    one = looking(here, ListSurvey(here, "/key"))
    terms = await one.terms(2)

    assert {seen.headers["authorization"] for seen in far.requests} == {"Bearer k"}
    assert far.requests[0].headers["x-a"] == "b"
    assert (terms.window, terms.max_output) == (8000, 700)
    assert terms.capabilities == frozenset(["completion", "tools", "thinking", "vision"])
    assert terms.facts["pricing"] == {"input_cache_write": "0.1"}


@pytest.mark.parametrize(
    ("makers", "known"),
    [
        (["llamacpp"], {"owned_by": "llamacpp"}),
        (["vllm", "vllm"], {"owned_by": "vllm"}),
        (["somebody", "else"], {}),
        ([["odd"]], {}),
        ([None], {}),
        ([], {}),
    ],
)
async def test_a_list_without_the_model_tells_who_made_the_server(
    far: Upstream, makers: list[Any], known: dict[str, str]
) -> None:
    """llama.cpp lists its one model by the name of its file, and serves it under any."""
    entries = [{"id": f"/models/{number}.gguf", "owned_by": maker} for number, maker in enumerate(makers)]
    far.on("/models", told({"data": entries}))
    here = place(far, kind="openai", model="qwen")
    terms = await looking(here, ListSurvey(here)).terms(2)

    assert (terms.facts, terms.window) == (known, None)


@pytest.mark.parametrize(
    ("key", "models", "ok", "words"),
    [
        (401, 200, False, "Ollama rejects the API key - set one with: proxyctl keys set ollama"),
        (402, 200, False, "Ollama: out of credit"),
        (404, 200, True, ""),
        (404, 401, False, "Ollama rejects the API key"),
        (200, 404, True, ""),
        (200, 503, False, "Ollama answers with status 503"),
        (200, 429, True, "Ollama limits our rate"),
    ],
)
async def test_what_the_status_of_a_list_means(
    far: Upstream, key: int, models: int, ok: bool, words: str
) -> None:
    far.on("/key", told({}, key)).on("/models", told({}, models))
    here = place(far, api_key="k")
    seen = await looking(here, ListSurvey(here, "/key")).condition()

    assert (seen.ok, seen.detail[: len(words)]) == (ok, words)


@pytest.mark.parametrize(
    ("entry", "window"),
    [
        ({}, None),
        ({"max_model_len": 5}, 5),
        ({"max_context_length": 6}, 6),
        ({"meta": {"n_ctx": 7}}, 7),
        ({"context_length": "8", "meta": None, "top_provider": []}, None),
    ],
)
def test_windows_have_many_names(entry: dict[str, Any], window: int | None) -> None:
    assert facts_of_entry(entry).window == window


# --- Anthropic ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "status", "ok"),
    [
        *(("k", 200, True), ("k", 401, False), ("k", 404, True), ("k", 500, False)),
        *((None, 401, True), (None, 200, True), (None, 500, False)),
    ],
)
async def test_without_a_key_of_ours_any_word_is_a_sign_of_life(
    far: Upstream, key: str | None, status: int, ok: bool
) -> None:
    far.on("/v1/models", told({}, status))
    here = place(far, kind="anthropic", provider="anthropic", api_key=key)

    assert (await looking(here, AnthropicSurvey(here)).condition()).ok is ok
    assert far.requests[0].headers.get("x-api-key") == key
    assert far.requests[0].headers["anthropic-version"] == "2023-06-01"


async def test_callers_bring_no_key_to_others_who_speak_like_anthropic(far: Upstream) -> None:
    far.on("/v1/models", told({}, 401))
    here = place(far, kind="anthropic", provider="gateway")
    found = await looking(here, AnthropicSurvey(here)).condition()

    assert not found.ok
    assert "proxyctl keys set gateway" in found.detail


def test_credentials_of_the_base_url_serve_where_there_is_no_key() -> None:
    here = Place(SPEC, parse_base("http://me:secret@h"), "Ollama")

    assert discovery.headers(here) == [(b"authorization", b"Basic bWU6c2VjcmV0")]


# --- another modelproxy -----------------------------------------------------------------------------


def remote(far: Upstream, key: str | None = None) -> Discovery:
    spec = attrs.evolve(SPEC, kind="remote", provider="remote/office", model="echo/demo", api_key=key)
    here = Place(spec, parse_base(far.url), "remote/office")
    return looking(here, RemoteSurvey(here))


LISTED = {
    "data": [{"id": "echo/demo", "max_input_tokens": 1000, "max_tokens": 100}, {"id": "claude-echo-demo"}]
}


async def test_another_modelproxy_lists_what_it_has(far: Upstream) -> None:
    far.on("/v1/models", told(LISTED)).on("/health", told({"healthy": True}))
    found = remote(far, "mp-token")
    seen = await found.condition()

    assert (seen.ok, seen.detail, seen.warning) == (True, "", "")
    assert (found.sizes().window, found.sizes().output) == (1000, 100)
    assert {one.headers["authorization"] for one in far.requests} == {"Bearer mp-token"}


@pytest.mark.parametrize(
    ("listed", "health", "ok", "words"),
    [
        (
            told({"data": [{"id": "a/b"}]}),
            told({"model_id": "a/b", "provider": "a"}),
            True,
            "remote/office serves a/b, whatever it is asked for; echo/demo is not there",
        ),
        (
            told(LISTED),
            told({"healthy": False, "upstream": {"detail": "no Ollama"}}, 503),
            False,
            "remote/office says: no Ollama",
        ),
        (
            told({"error": {"message": "a token is wanted"}}, 401),
            told({}),
            False,
            "remote/office says: a token is wanted - set one with: proxyctl keys set remote/office",
        ),
        (
            told({"error": {"message": "host: only localhost"}}, 403),
            told({}),
            False,
            "remote/office says: host: only localhost",
        ),
        (told({"models": []}), told({}), False, "is no modelproxy"),
        (told({}, 502), told({}), False, "remote/office answers with status 502"),
    ],
)
async def test_what_another_modelproxy_lacks(
    far: Upstream, listed: Reply, health: Reply, *, ok: bool, words: str
) -> None:
    far.on("/v1/models", listed).on("/health", health)
    seen = await remote(far).condition()

    assert seen.ok is ok
    assert words in seen.detail


@pytest.mark.parametrize(
    "health", [told({"model_id": "front", "provider": "front"}), told({}, 404)], ids=["front", "only /v1"]
)
async def test_what_a_front_does_not_list_may_still_be_a_name_there(far: Upstream, health: Reply) -> None:
    far.on("/v1/models", told({"data": [{"id": "a/b"}]})).on("/health", health)
    seen = await remote(far).condition()

    assert (seen.ok, seen.detail, seen.warning) == (True, "", "")
