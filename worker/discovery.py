"""What the far side is like: is it there, does it take our key, has it the model, how large is the window.

Theory of operation
-------------------
Nothing is asked before somebody wants to know: a worker is ready while its provider is down. One look serves
everybody who asks while it lasts, and for `CACHE_S` after it; whoever comes first does the asking, and when
that one is cancelled the next takes over. A look that takes longer than `PROBE_S` is an answer too.

Facts (the window, what a model can) are kept beyond that, until the model changes under its name or a request
fails in a way that makes them doubtful. Which questions are asked, and what answers mean, is one `Survey` per
kind; what a dialect alone understands stays in that dialect's module, whose functions are pure.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import attrs
import trio

from .contract import WorkerSpec
from .dial import Base, Unreachable, basic
from .dialects.anthropic import is_anthropics
from .dialects.memory import Memory
from .dialects.seam import Condition, Sizes, Terms
from .failures import Failure, Kind
from .pool import Cut, Headers, Pool, PoolError, Reset
from .wire import codec

if TYPE_CHECKING:  # httpx is loaded when the first question is asked, not when a worker starts
    import httpx

PROBE_S = 2.5
"""How long a look may take: `/health` answers within three seconds whatever the provider does."""
CACHE_S = 2.0
UNWELL_CACHE_S = 0.25
"""Whoever has just started a server wants to see that it is well now, not that it was not."""
QUICK_MS = 500.0
"""A look that took no longer is worth a request's while."""

_DOUBTFUL = frozenset(
    # Failures after which the provider may be in another condition than it was.
    [
        Kind.UNREACHABLE,
        Kind.TIMEOUT,
        Kind.OVERLOADED,
        Kind.KEY_REJECTED,
        Kind.NO_CREDIT,
        Kind.NOT_FOUND,
        Kind.CUT,
    ]
)


@attrs.frozen
class Facts:
    """What was found out about the model. Defaults: nothing."""

    window: int | None = None
    max_output: int | None = None
    capabilities: frozenset[str] | None = None
    more: Mapping[str, object] = attrs.Factory(dict)
    """For the dialect that knows the words: `Terms.facts`."""


@attrs.frozen
class Seen:
    """The outcome of one look. `facts` None: nothing was learned, what was known stays."""

    ok: bool
    detail: str = ""
    warning: str = ""
    facts: Facts | None = None


@attrs.frozen
class Reply:
    """An answer to a question; `json` is None when the body was something else."""

    status: int
    json: Any = None

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


Ask = Callable[..., Awaitable[Reply]]
"""`await ask("GET", "/api/tags")`, `await ask("POST", "/api/show", {"model": m})`. Raises Unanswered."""


class Unanswered(Exception):
    """There was no answer; the text says why, for a person."""


class Survey(Protocol):
    """The questions of one kind of provider."""

    async def __call__(self, ask: Ask) -> Seen: ...


@attrs.frozen
class Place:
    """Where a provider is, and how people call it."""

    spec: WorkerSpec
    base: Base
    title: str
    hint: str = ""
    """What helps when nobody answers there."""

    def unreachable(self, why: str) -> str:
        """The sentence for somebody who wonders why nothing works."""
        return f"{self.title} is not reachable at {self.base.url}: {why}{self.hint}"

    def failure(self, error: Unreachable | PoolError) -> Failure:
        """What it means for a request that there was no connection, or that it broke.

        The one place where these exceptions end, whether the answer is translated or passed through.
        """
        if isinstance(error, Unreachable):
            return Failure(Kind.UNREACHABLE, self.unreachable(str(error)))
        if isinstance(error, Reset):
            return Failure(Kind.OVERLOADED, f"{self.title} ended the connection before it answered: {error}")
        if isinstance(error, Cut):
            return Failure(Kind.CUT, f"{self.title} broke off in the middle of its answer: {error}")
        return Failure(Kind.PROVIDER, f"{self.title} at {self.base.url} does not speak HTTP: {error}")


class Discovery:
    """One worker's knowledge of its provider."""

    def __init__(
        self,
        place: Place,
        survey: Survey,
        pool: Pool,
        *,
        probe_s: float = PROBE_S,
        cache_s: float = CACHE_S,
        wall_clock: Callable[[], float] = time.time,  # noqa: TID251  # for people only
    ) -> None:
        self._place = place
        self._survey = survey
        self._pool = pool
        self._probe_s = probe_s
        self._cache_s = cache_s
        self._wall_clock = wall_clock
        self._looking = trio.Lock()
        self._condition: Condition | None = None
        self._looked_at = -float("inf")
        self._facts: Facts | None = None
        self._learned: dict[str, object] = {}
        self._learned_of: Facts | None = None
        self._memory = Memory()
        self._doubted = trio.Event()

    async def condition(self) -> Condition:
        """How the provider is now, or was a moment ago."""
        async with self._looking:
            known = self._condition
            if known is None or trio.current_time() >= self._looked_at + self._good_for(known):
                before, known = known, await self._look()
                self._condition, self._looked_at = known, trio.current_time()
                if before is None or (before.ok, before.detail) != (known.ok, known.detail):
                    self._doubted.set()  # whoever watches the condition may not be the one who looked
            return known

    def _good_for(self, known: Condition) -> float:
        return self._cache_s if known.ok else min(self._cache_s, UNWELL_CACHE_S)

    async def terms(self, patience_s: float) -> Terms:
        """What is known for a request. While nothing is, somebody has to ask, which may take up to `patience_s`.

        A server may have been started, or a model pulled, since the last look; one that was silent then is
        not waited for again.
        """
        last = self._condition
        if self._facts is None and (last is None or (last.latency_ms or 0.0) < QUICK_MS):
            with trio.move_on_after(patience_s):
                await self.condition()
        return self.known()

    def known(self) -> Terms:
        """What is known by now; nobody is asked."""
        spec, facts = self._place.spec, self._facts or Facts()
        options = spec.options
        named = options.capabilities
        return Terms(
            provider=spec.provider,
            model=spec.model,
            options=options,
            api_key=spec.api_key,
            window=options.context_window or facts.window,
            max_output=options.max_output_tokens or facts.max_output,
            capabilities=facts.capabilities if named is None else frozenset(named),
            facts={**facts.more, **self._learned},
            memory=self._memory,
        )

    def sizes(self) -> Sizes:
        """What is known; nobody is asked."""
        terms = self.known()
        return Sizes(terms.options.num_ctx or terms.window, terms.max_output)

    def learn(self, facts: Mapping[str, object]) -> None:
        """What a request has shown; it is part of every later `Terms.facts`."""
        self._learned.update(facts)

    # --- doubts ---

    def heard(self, failure: Failure | None) -> None:
        """How a request ended: it may contradict what we think of the provider."""
        if failure is None:
            contradicts = self._condition is not None and not self._condition.ok
        else:
            contradicts = failure.kind in _DOUBTFUL
            if failure.kind is Kind.NOT_FOUND:
                self._facts = None
        if contradicts:
            self._looked_at = -float("inf")
            self._doubted.set()

    async def doubted(self) -> None:
        """Wait until another look may show something else than the last."""
        await self._doubted.wait()
        self._doubted = trio.Event()

    # --- looking ---

    async def _look(self) -> Condition:
        # In a thread: 75 ms is longer than a stream that is being served should stand still.
        facade = await trio.to_thread.run_sync(_load_facade)
        began = trio.current_time()
        seen: Seen | None = None
        with trio.move_on_after(self._probe_s):
            try:
                seen = await self._survey_over_http(facade)
            except Unanswered as error:
                seen = Seen(ok=False, detail=str(error))
        if seen is None:
            within = f"no answer within {self._probe_s:g}s"
            seen = Seen(ok=False, detail=self._place.unreachable(within))
        if seen.facts is not None:
            self._facts = seen.facts
            if self._learned_of != seen.facts:  # another model under the same name
                self._learned_of = seen.facts
                self._learned.clear()
        return Condition(
            ok=seen.ok,
            detail=seen.detail,
            latency_ms=round((trio.current_time() - began) * 1000, 1),
            checked_at=self._wall_clock(),
            warning=seen.warning,
        )

    async def _survey_over_http(self, facade: Any) -> Seen:
        place = self._place
        async with facade.client(
            self._pool, base_url=place.base.url, headers=headers(place), timeout=self._probe_s
        ) as http:
            return await self._survey(_Asking(http, place).ask)


def _load_facade() -> Any:
    from . import facade

    return facade


@attrs.frozen
class _Asking:
    """Questions over httpx; its exceptions end here."""

    http: httpx.AsyncClient
    place: Place

    async def ask(self, method: str, path: str, document: Any = None) -> Reply:
        import httpx

        body = None if document is None else codec.dumps(document)
        kind = {} if body is None else {"content-type": "application/json"}
        try:
            answer = await self.http.request(method, path, content=body, headers=kind)
        except httpx.TimeoutException:
            raise Unanswered(self.place.unreachable("no answer in time")) from None
        except httpx.HTTPError as error:
            raise Unanswered(self.place.unreachable(str(error))) from None
        return Reply(answer.status_code, _json(answer.content))


def _json(body: bytes) -> Any:
    try:
        return codec.loads(body)
    except ValueError:
        return None


def headers(place: Place) -> Headers:
    """What goes along with every question: the key, and the user's own headers, which win."""
    spec = place.spec
    found: dict[bytes, bytes] = {}
    if spec.api_key and spec.kind == "anthropic":
        found[b"x-api-key"] = spec.api_key.encode("utf-8")
    elif spec.api_key:
        found[b"authorization"] = b"Bearer " + spec.api_key.encode("utf-8")
    elif place.base.credentials:
        found[b"authorization"] = basic(place.base.credentials)
    if spec.kind == "anthropic":
        found[b"anthropic-version"] = b"2023-06-01"
    found.update((name.lower().encode(), value.encode()) for name, value in spec.options.headers.items())
    return list(found.items())


# --- what the answers mean ------------------------------------------------------------------------


@attrs.define
class OllamaSurvey:
    """Tags say whether the model is there and whether it changed; `show` and `ps` say what it is like.

    Those two are asked once per digest: facts that moved with whatever is loaded just now would change
    `num_ctx`, and that makes Ollama load the model anew.
    """

    place: Place
    interpret: Callable[[Any, Any], Facts]
    """The answers of `/api/show` and `/api/ps` into facts."""
    hopeless: Callable[[int | None], str | None]
    """Why the window is too small for an agent."""
    _known: tuple[str, Facts] | None = None
    """Under the digest of the model."""

    async def __call__(self, ask: Ask) -> Seen:
        tags = await ask("GET", "/api/tags")
        if not tags.ok:
            return _unwell(self.place, tags)
        models = tags.json.get("models") if isinstance(tags.json, dict) else None
        if not isinstance(models, list):
            return Seen(ok=False, detail=f"what answers at {self.place.base.url} is not Ollama")
        model = self.place.spec.model
        entry = next((one for one in models if _is_called(one, model)), None)
        if entry is None:
            missing = f"{self.place.title} has no model {model}; get it with `ollama pull {model}`"
            return Seen(ok=False, detail=missing)
        facts = await self._facts(ask, str(entry.get("digest") or ""))
        options = self.place.spec.options
        window = options.num_ctx or options.context_window or (facts.window if facts else None)
        warning = self.hopeless(window) or ""
        return Seen(ok=True, detail=warning, warning=warning, facts=facts)

    async def _facts(self, ask: Ask, digest: str) -> Facts | None:
        if self._known is None or self._known[0] != digest:
            show = await ask("POST", "/api/show", {"model": self.place.spec.model})
            if not isinstance(show.json, dict) or not show.ok:
                return None
            loaded = await ask("GET", "/api/ps")
            ps = loaded.json if loaded.ok and isinstance(loaded.json, dict) else None
            self._known = (digest, self.interpret(show.json, ps))
        return self._known[1]


def _is_called(entry: Any, model: str) -> bool:
    """Ollama leaves `:latest` out where it can."""
    if not isinstance(entry, dict):
        return False
    return _full(model) in {_full(str(entry.get(key) or "")) for key in ("name", "model")}


def _full(name: str) -> str:
    name = name.lower()
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


@attrs.frozen
class ListSurvey:
    """Servers with a list of models. `key_path` is asked first where the list is open to everybody."""

    place: Place
    key_path: str | None = None

    async def __call__(self, ask: Ask) -> Seen:
        if self.key_path is not None:
            key = await ask("GET", self.key_path)
            if key.status != 404 and not key.ok:
                return _unwell(self.place, key)
        listed = await ask("GET", "/models")
        if listed.status in (404, 405, 501):  # no list is no illness
            return Seen(ok=True, facts=Facts())
        if not listed.ok:
            return _unwell(self.place, listed)
        return Seen(ok=True, facts=self._facts(listed.json))

    def _facts(self, document: Any) -> Facts:
        entries = document.get("data") if isinstance(document, dict) else document
        named = {
            entry.get("id"): entry
            for entry in (entries if isinstance(entries, list) else ())
            if isinstance(entry, dict) and isinstance(entry.get("id"), str)
        }
        model = self.place.spec.model
        # OpenRouter's `:nitro` and the like choose among providers of the model that is listed without them.
        entry = named.get(model) or named.get(model.rpartition(":")[0])
        return _of_server(list(named.values())) if entry is None else facts_of_entry(entry)


def _of_server(entries: list[dict[str, Any]]) -> Facts:
    """Of a model that is not listed; llama.cpp serves its one under any name, and is llama.cpp all the same."""
    makers = [entry.get("owned_by") for entry in entries]
    is_told = bool(makers) and isinstance(makers[0], str) and makers.count(makers[0]) == len(makers)
    return Facts(more={"owned_by": makers[0]}) if is_told else Facts()


def facts_of_entry(entry: dict[str, Any]) -> Facts:
    """One model of a list, in the words of OpenRouter, vLLM, LM Studio and llama.cpp."""
    top, meta = codec.as_dict(entry.get("top_provider")), codec.as_dict(entry.get("meta"))
    sizes = (
        *(top.get("context_length"), entry.get("context_length"), entry.get("max_model_len")),
        *(entry.get("max_context_length"), meta.get("n_ctx")),
    )
    return Facts(
        window=next((size for size in sizes if type(size) is int and size > 0), None),
        max_output=codec.as_count(top.get("max_completion_tokens")),
        capabilities=_capabilities(entry),
        more=entry,
    )


def _capabilities(entry: dict[str, Any]) -> frozenset[str] | None:
    """Known only where the list says what a model's parameters and inputs are (OpenRouter)."""
    parameters = entry.get("supported_parameters")
    if not isinstance(parameters, list):
        return None
    found = {"completion"}
    for word, capability in (("tools", "tools"), ("reasoning", "thinking"), ("structured_outputs", "schema")):
        if word in parameters:
            found.add(capability)
    inputs = codec.as_dict(entry.get("architecture")).get("input_modalities")
    for word, capability in (("image", "vision"), ("file", "documents"), ("audio", "audio")):
        if isinstance(inputs, list) and word in inputs:
            found.add(capability)
    return frozenset(found)


@attrs.frozen
class AnthropicSurvey:
    """Without a key of our own every answer of Anthropic's is a sign of life: the callers bring theirs."""

    place: Place
    path: str = "/v1/models?limit=1"
    """What only a good key may read, and costs nothing."""

    async def __call__(self, ask: Ask) -> Seen:
        answer = await ask("GET", self.path)
        if answer.status in (401, 403) and self.place.spec.api_key is None and is_anthropics(self.place.spec):
            return Seen(ok=True)
        return Seen(ok=True) if answer.ok or answer.status == 404 else _unwell(self.place, answer)


@attrs.frozen
class RemoteSurvey:
    """Another modelproxy: a front, which answers for more than it lists, or the proxy of one model.

    Its health is that of what stands behind it. Where only `/v1` is let through, nothing is known of it.
    """

    place: Place

    async def __call__(self, ask: Ask) -> Seen:
        answer = await ask("GET", "/v1/models?limit=1000")
        if not answer.ok:
            return self._refused(answer)
        listed = answer.json.get("data") if isinstance(answer.json, dict) else None
        if not isinstance(listed, list):
            return Seen(ok=False, detail=f"what answers at {self.place.base.url} is no modelproxy")
        health = codec.as_dict((await ask("GET", "/health")).json)
        if health.get("healthy") is False:
            why = str(codec.as_dict(health.get("upstream")).get("detail") or "it is not healthy")
            return Seen(ok=False, detail=f"{self.place.title} says: {why[:300]}")
        entries = (one for one in listed if isinstance(one, dict))
        return self._of({one["id"]: one for one in entries if isinstance(one.get("id"), str)}, health)

    def _refused(self, answer: Reply) -> Seen:
        said = codec.as_dict(codec.as_dict(answer.json).get("error")).get("message")
        if not isinstance(said, str) or not said:
            return _unwell(self.place, answer)
        hint = f" - set one with: proxyctl keys set {self.place.spec.provider}"
        words = f"{self.place.title} says: {said[:300]}{hint if answer.status == 401 else ''}"
        return Seen(ok=False, detail=words)

    def _of(self, entries: Mapping[str, Mapping[str, Any]], health: Mapping[str, Any]) -> Seen:
        model, only = self.place.spec.model, health.get("model_id")
        entry = entries.get(model, {})
        window, output = (
            codec.as_count(entry.get("max_input_tokens")),
            codec.as_count(entry.get("max_tokens")),
        )
        warning = ""
        if not entry and isinstance(only, str) and health.get("provider") != "front":
            warning = (
                f"{self.place.title} serves {only[:200]}, whatever it is asked for; {model} is not there"
            )
        return Seen(ok=True, detail=warning, warning=warning, facts=Facts(window, output))


def _unwell(place: Place, answer: Reply) -> Seen:
    title, provider = place.title, place.spec.provider
    if answer.status in (401, 403):
        key = "rejects the API key" if place.spec.api_key else "asks for an API key"
        return Seen(ok=False, detail=f"{title} {key} - set one with: proxyctl keys set {provider}")
    if answer.status == 402:
        return Seen(ok=False, detail=f"{title}: out of credit")
    if answer.status == 429:  # it is there and knows us
        return Seen(ok=True, detail=f"{title} limits our rate at the moment")
    return Seen(ok=False, detail=f"{title} answers with status {answer.status} at {place.base.url}")


__all__ = [
    "CACHE_S",
    "PROBE_S",
    "AnthropicSurvey",
    "Discovery",
    "Facts",
    "ListSurvey",
    "OllamaSurvey",
    "Place",
    "RemoteSurvey",
    "Reply",
    "Seen",
    "Survey",
    "Unanswered",
    "facts_of_entry",
    "headers",
]
