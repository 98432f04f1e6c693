"""Chat-completions servers: golden cases, cuts of the bytes, real requests, and what a chunk may look like."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from fakes import census, golden, grammar
from fakes.census import Census
from fakes.golden import Case
from hypothesis import given, settings
from hypothesis import strategies as st

from modelproxy.worker.contract import Options
from modelproxy.worker.dialects import quirks, thinking
from modelproxy.worker.dialects.openai import MARGIN, OpenAI, Wish, again, clamped
from modelproxy.worker.dialects.seam import Terms
from modelproxy.worker.failures import Failure, Refused
from modelproxy.worker.wire import asks, openai
from modelproxy.worker.wire.items import ToolCall, Usage
from modelproxy.worker.wire.openai import Fragment

SERVERS = ("openai", "openrouter", "deepseek", "mistral", "gemini", "groq", "vllm")


def cases_of(kind: str) -> list[Case]:
    return [Case.read(path, kind) for path in golden.paths(kind)]


def name_of(case: Case) -> str:
    return f"{case.terms.provider}/{case.path.stem}"


def dialect_of(case: Case) -> OpenAI:
    kind = case.terms.provider
    return OpenAI.of(kind, kind, None, server=case.written.get("terms", {}).get("server"))


CASES = cases_of("openai") + cases_of("openrouter")
STREAMED = [case for case in CASES if case.upstream and "status" not in case.written]


def streamed(case: Case, body: bytes, cuts: list[int]) -> tuple[bytes, Failure | None]:
    """What the client reads when the provider's bytes come in these pieces."""
    return golden.stream(case.ask, golden.items(dialect_of(case), case.ask, case.terms, body, cuts))


# --- golden cases ------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_a_golden_case_gives_what_its_file_says(case: Case) -> None:
    played = case.play(dialect_of(case))
    keys = ("sent", "refused", "events", "failure")

    assert {key: case.written[key] for key in keys if key in case.written} == played
    # P23: the order of keys counts, which is nothing to dicts.
    assert json.dumps(case.written.get("sent")) == json.dumps(played.get("sent"))


@pytest.mark.parametrize("case", STREAMED, ids=name_of)
def test_every_byte_alone_gives_the_same_stream(case: Case) -> None:
    """P48."""
    body = case.upstream

    assert streamed(case, body, list(range(len(body)))) == streamed(case, body, [])


@settings(deadline=None)
@given(st.sampled_from(STREAMED), st.data())
def test_any_cut_of_the_bytes_gives_the_same_stream(case: Case, data: st.DataObject) -> None:
    """P48."""
    body = case.upstream
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=12))

    assert streamed(case, body, cuts) == streamed(case, body, [])


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(
        # A word for the end that comes too early, nobody can tell from the right one.
        [case for case in STREAMED if "failure" not in case.written and case.path.stem != "P53-finish-twice"]
    ),
    st.data(),
)
def test_a_stream_that_ends_anywhere_is_never_a_false_end(case: Case, data: st.DataObject) -> None:
    """P46: before the server's word for its end there is an error, and no call has reached the client."""
    end = data.draw(st.integers(0, len(case.upstream)))
    raw, failure = streamed(case, case.upstream[:end], [])
    said = grammar.check(raw)

    assert said.complete == (failure is None)
    if said.complete:
        assert said.text == grammar.check(streamed(case, case.upstream, [])[0]).text
    else:
        assert said.message is not None
        assert not [block for block in said.message["content"] if block["type"] == "tool_use"]


# --- what no golden case says -------------------------------------------------------------------------


def ask(**fields: Any) -> asks.Ask:
    body = {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]} | fields
    return asks.ask(json.dumps(body).encode())


def terms(provider: str = "openrouter", **fields: Any) -> Terms:
    return Terms(provider, fields.pop("model", "vendor/model"), fields.pop("options", Options()), **fields)


def sent(request: asks.Ask, known: Terms, kind: str = "openrouter") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(OpenAI.of(kind, kind, None).call(request, known).body)
    return found


def headers_of(options: Options, *, key: str | None = "k" * 10) -> dict[bytes, bytes]:
    call = OpenAI.of("openrouter", "openrouter", None).call(
        ask(stream=True), terms(options=options, api_key=key)
    )
    return dict(call.headers)


def test_headers_of_openrouter() -> None:
    """S73, P10: our own key and app values, nothing of the client's."""
    assert headers_of(Options()) == {
        b"content-type": b"application/json",
        b"accept": b"text/event-stream",
        b"authorization": b"Bearer kkkkkkkkkk",
        b"http-referer": b"http://localhost/modelproxy",
        b"x-title": b"modelproxy",
        b"x-openrouter-title": b"modelproxy",
    }


def test_headers_may_be_changed_and_switched_off() -> None:
    """S73."""
    mine = {"http-referer": "", "X-TITLE": "mine", "X-OpenRouter-Title": "", "x-more": "é"}
    found = headers_of(Options(headers=mine), key=None)

    assert found == {
        b"content-type": b"application/json",
        b"accept": b"text/event-stream",
        b"x-title": b"mine",
        b"x-more": "é".encode(),
    }


def test_the_path_and_the_stream_flag() -> None:
    """S72."""
    dialect = OpenAI.of("openrouter", "openrouter", None)

    assert dialect.call(ask(), terms()).path == "/chat/completions"
    assert sent(ask(), terms())["stream"] is False
    assert sent(ask(stream=True), terms("x"), "openai")["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("thinking_field", "effort", "facts", "expected"),
    [
        (None, None, {}, {"effort": "none"}),
        (None, None, {"mandatory": True}, None),
        ({"type": "disabled"}, "high", {}, {"effort": "none"}),
        ({"type": "adaptive"}, None, {}, {"enabled": True}),
        ({"type": "adaptive"}, "max", {}, {"effort": "xhigh"}),
        ({"type": "adaptive"}, "odd", {}, {"enabled": True}),
        ({"type": "adaptive"}, "xhigh", {"supported_efforts": ["low", "high"]}, {"effort": "high"}),
        ({"type": "adaptive"}, "low", {"supported_efforts": ["high"]}, {"effort": "high"}),
        ({"type": "adaptive"}, "low", {"supported_efforts": ["none"]}, {"enabled": True}),
        (
            {"type": "enabled", "budget_tokens": 2000},
            None,
            {"supports_max_tokens": True},
            {"max_tokens": 2000},
        ),
        (
            {"type": "enabled", "budget_tokens": 9900},
            None,
            {"supports_max_tokens": True},
            {"max_tokens": 9900},
        ),
        ({"type": "enabled", "budget_tokens": 2000}, None, {}, {"effort": "low"}),
        ({"type": "enabled", "budget_tokens": 5000}, None, {}, {"effort": "medium"}),
        ({"type": "enabled", "budget_tokens": 9000}, "low", {}, {"effort": "high"}),
    ],
)
def test_reasoning_of_openrouter(
    thinking_field: Any, effort: str | None, facts: dict[str, Any], expected: dict[str, Any] | None
) -> None:
    """P08."""
    request = ask(max_tokens=10000, thinking=thinking_field, output_config={"effort": effort})
    known = terms(capabilities=frozenset(["thinking"]), facts={"reasoning": facts})

    assert expected == sent(request, known).get("reasoning")


@pytest.mark.parametrize(
    ("budget", "facts", "expected"),
    [
        (3000, {"supports_max_tokens": True}, {"max_tokens": 3000}),
        (8000, {"supports_max_tokens": True}, {"max_tokens": 4000}),
        (8000, {}, {"effort": "medium"}),
    ],
)
def test_a_budget_of_more_than_the_model_may_say(budget: int, facts: Any, expected: Any) -> None:
    """Where the limit had to be lowered the answer still has to fit; its share is what the client meant."""
    request = ask(max_tokens=32000, thinking={"type": "enabled", "budget_tokens": budget})
    known = terms(capabilities=frozenset(["thinking"]), facts={"reasoning": facts}, max_output=8000)

    assert sent(request, known)["reasoning"] == expected


@pytest.mark.parametrize(
    ("limit", "budget", "expected"),
    [(4000, 500, {"max_tokens": 1024}), (1025, 4000, {"max_tokens": 1024}), (1024, 900, {"effort": "high"})],
)
def test_a_budget_is_no_less_than_providers_take_and_leaves_an_answer(
    limit: int, budget: int, expected: Any
) -> None:
    request = ask(max_tokens=limit, thinking={"type": "enabled", "budget_tokens": budget})
    facts = {"reasoning": {"supports_max_tokens": True}}
    known = terms(capabilities=frozenset(["thinking"]), facts=facts)

    assert sent(request, known)["reasoning"] == expected


@pytest.mark.parametrize(
    ("server", "model", "wanted", "expected"),
    [
        ("vllm", "m", True, {"chat_template_kwargs": {"enable_thinking": True}}),
        ("vllm", "m", False, {"chat_template_kwargs": {"enable_thinking": False}}),
        ("deepseek", "m", False, {"thinking": {"type": "disabled"}}),
        ("mistral", "m", True, {}),
        ("openai", "gpt-5.2", True, {"reasoning_effort": "xhigh"}),
        ("openai", "gpt-5.2", False, {"reasoning_effort": "none"}),
        ("openai", "o3", True, {"reasoning_effort": "high"}),
        ("openai", "o3", False, {}),
    ],
)
def test_reasoning_of_others(server: str, model: str, wanted: bool, expected: dict[str, Any]) -> None:
    """P08."""
    request = ask(thinking={"type": "adaptive" if wanted else "disabled"}, output_config={"effort": "max"})
    known = terms("p", model=model, capabilities=frozenset(["thinking"]))
    body = json.loads(OpenAI.of("openai", "p", None, server=server).call(request, known).body)
    keys = ("chat_template_kwargs", "thinking", "reasoning_effort", "reasoning")

    assert expected == {key: body[key] for key in keys if key in body}


def test_an_unknown_effort_says_nothing() -> None:
    known = terms("p", capabilities=frozenset(["thinking"]))

    assert "reasoning_effort" not in sent(ask(thinking={"type": "adaptive"}), known, "openai")
    assert clamped("high", ()) is None
    assert Wish(wanted=True, effort=None, budget=None, asked=1, limit=1).budget is None


@pytest.mark.parametrize(
    ("room", "expected"),
    [(20_000, 20_000 - 1000), (2000, 1000), (1000, 500), (300, 256), (0, 256), (-64, 256)],
)
def test_p25_near_the_end_of_the_window_there_is_still_an_answer(room: int, expected: int) -> None:
    """One of a word or none is asked for again and again; a server that has no room says so, and a client compacts."""
    request = ask(messages=[{"role": "user", "content": "word " * 22_320}], max_tokens=128_000)
    size = request.input_tokens
    window = size + MARGIN + room

    assert size // 20 == 1000
    assert sent(request, terms(window=window))["max_tokens"] == expected


@pytest.mark.parametrize("limit", [1, 2])
def test_p26_of_a_single_token_reasoning_would_leave_nothing(limit: int) -> None:
    request = ask(max_tokens=limit, thinking={"type": "adaptive"})
    body = sent(request, terms("vllm", capabilities=frozenset(["thinking"])), "vllm")

    assert body["chat_template_kwargs"] == {"enable_thinking": limit > 1}


def test_openai_models_that_reason() -> None:
    request = ask(system="s", max_tokens=5, temperature=1, stop_sequences=["x"])
    body = sent(request, terms("openai", model="gpt-5"), "openai")

    assert body["messages"][0]["role"] == "developer"
    assert body["max_completion_tokens"] == 16
    assert not {"max_tokens", "temperature", "stop"} & body.keys()


def test_parameters_that_a_model_lacks_are_not_required_of_it() -> None:
    """Otherwise nobody would be found who answers."""
    request = ask(
        temperature=1,
        top_k=3,
        stop_sequences=["x"],
        tools=[{"name": "a", "input_schema": {}}],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
    )
    poor, rich = ["tools", "temperature"], ["tools", "temperature", "top_k", "stop", "parallel_tool_calls"]
    keys = {"temperature", "top_k", "stop", "parallel_tool_calls"}

    assert keys & sent(request, terms(facts={"supported_parameters": poor})).keys() == {"temperature"}
    assert keys & sent(request, terms(facts={"supported_parameters": rich})).keys() == keys
    assert sent(request, terms())["tool_choice"] == "required"


FORMAT = {
    "format": {"type": "json_schema", "schema": {"type": "object", "properties": {"a": {"type": "string"}}}}
}


@pytest.mark.parametrize(
    ("supported", "kind"),
    [(["structured_outputs"], "json_schema"), (["response_format"], "json_object"), (["tools"], None)],
)
def test_structured_output_as_far_as_it_is_known(supported: list[str], kind: str | None) -> None:
    body = sent(ask(output_config=FORMAT), terms(facts={"supported_parameters": supported}))

    assert body.get("response_format", {}).get("type") == kind
    assert ("follows this schema" in body["messages"][0]["content"]) == (kind != "json_schema")
    assert "strict" not in body.get("response_format", {}).get("json_schema", {})


def test_a_strict_schema_is_said_to_be_one() -> None:
    inner = {"type": "object", "properties": {}, "additionalProperties": False}
    schema = {**inner, "properties": {"a": {"anyOf": [inner, {"type": "null"}]}}, "required": ["a"]}
    body = sent(ask(output_config={"format": {"type": "json_schema", "schema": schema}}), terms())

    assert body["response_format"]["json_schema"]["strict"] is True


def test_p21_a_small_gateway_gets_fewer_keywords_where_that_is_configured() -> None:
    counts = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}}
    request = ask(tools=[{"name": "a", "input_schema": counts}])

    def properties(options: Options) -> Any:
        body = sent(request, terms(options=options), "openai")
        return body["tools"][0]["function"]["parameters"]["properties"]

    assert properties(Options()) == counts["properties"]
    assert properties(Options(tool_schemas="strict")) == {
        "n": {"type": "integer", "description": "(minimum: 1)"}
    }


@pytest.mark.parametrize(
    ("price", "marked"),
    [
        ("0.0000003", True),
        (0.1, True),
        ("0", False),
        ("0.00", False),
        (0, False),
        (None, False),
        ("?", False),
    ],
)
def test_p24_a_cache_without_a_price_is_none(price: Any, marked: bool) -> None:
    """OpenRouter's list says "0" of models that have no such cache, and a mark would leave nobody to answer."""
    facts: dict[str, object] = {"pricing": {"input_cache_write": price}}
    system = [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}]
    body = sent(ask(system=system), terms(facts=facts))

    assert ("cache_control" in json.dumps(body)) is marked


def test_p24_where_the_marks_stand_changes_nothing_else() -> None:
    """They move on from turn to turn: were texts joined where there are none, the cache would never be met."""

    def messages(marked: int) -> Any:
        turns = [["a", "b"], ["c"], ["d", "e"]]
        history = [
            {
                "role": "assistant" if number % 2 else "user",
                "content": [
                    {"type": "text", "text": text}
                    | ({"cache_control": {"type": "ephemeral"}} if number == marked and text in "be" else {})
                    for text in texts
                ],
            }
            for number, texts in enumerate(turns)
        ]
        system = [{"type": "text", "text": "s"}, {"type": "text", "text": "t"}]
        return sent(ask(system=system, messages=history), terms(model="anthropic/m"))["messages"]

    unmarked = messages(-1)
    for marked in (0, 2):
        found = messages(marked)
        assert found[1 + marked]["content"][-1].pop("cache_control") == {"type": "ephemeral"}
        assert found == unmarked


def test_p20_a_long_name_is_the_same_in_the_history() -> None:
    """Also where the tool is not on offer any more."""
    one, two = (f"mcp__{'a' * 60}__{end}" for end in ("one", "two"))
    calls = [
        {"type": "tool_use", "id": f"toolu_{name[-3:]}", "name": name, "input": {}} for name in (one, two)
    ]
    results = [{"type": "tool_result", "tool_use_id": call["id"], "content": "r"} for call in calls]
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": calls},
        {"role": "user", "content": results},
    ]
    body = sent(ask(messages=messages, tools=[{"name": one, "input_schema": {}}]), terms())
    offered = [tool["function"]["name"] for tool in body["tools"]]
    called = [call["function"]["name"] for call in body["messages"][1]["tool_calls"]]

    assert offered == called[:1]
    assert len({*called}) == 2
    assert max(map(len, called)) == 64


def test_p15_what_is_only_named_is_noted() -> None:
    """For the log: a model that is told less than it was sent is no secret."""
    source = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
    content = [{"type": "document", "source": source}, {"type": "new", "x": 1}, {"type": "text", "text": "a"}]
    request = ask(messages=[{"role": "user", "content": content}])

    assert OpenAI().call(request, terms()).notes == ("blocks only named: 2",)
    assert OpenAI().call(ask(), terms()).notes == ()


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("vllm", {"continue_final_message": True, "add_generation_prompt": False}),
        ("llama.cpp", {}),
        ("groq", None),
    ],
)
def test_prefill_is_continued_where_that_can_be_said(server: str, expected: dict[str, Any] | None) -> None:
    """Without thinking, also of a model of which nobody knows whether it would: llama.cpp refuses the two together."""
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "{ "}]
    request = ask(messages=messages, thinking={"type": "adaptive"})
    dialect = OpenAI.of("openai", "p", None, server=server)
    body = json.loads(dialect.call(request, terms("p")).body)
    keys = ("continue_final_message", "add_generation_prompt", "chat_template_kwargs")
    switch = {"chat_template_kwargs": {"enable_thinking": False}}

    assert body["messages"][-1] == {"role": "assistant", "content": "{"}
    assert {key: body[key] for key in keys if key in body} == ({} if expected is None else expected | switch)


def test_ids_of_mistral() -> None:
    use = {"type": "tool_use", "id": "toolu_abc", "name": "a", "input": {}}
    history = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_abc", "content": "x"}]},
    ]
    body = sent(ask(messages=history), terms("mistral"), "mistral")
    call_id = body["messages"][1]["tool_calls"][0]["id"]

    assert len(call_id) == 9
    assert body["messages"][2]["tool_call_id"] == call_id


def test_the_same_history_gives_the_same_bytes() -> None:
    """P23: and a longer one begins like the shorter."""
    dialect = OpenAI.of("openrouter", "openrouter", None)
    short = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    longer = [*short, {"role": "assistant", "content": "d"}, {"role": "user", "content": "e"}]
    one, other = sent(ask(messages=short), terms()), sent(ask(messages=longer), terms())

    assert dialect.call(ask(messages=short), terms()) == dialect.call(ask(messages=short), terms())
    assert other["messages"][: len(one["messages"])] == one["messages"]


def test_reasoning_goes_round() -> None:
    """P56: what the stream gave comes back unchanged and in order."""
    case = next(case for case in CASES if case.path.stem == "P56-reasoning-details")
    said = grammar.check(streamed(case, case.upstream, [])[0])
    assert said.message is not None
    history = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": said.message["content"]},
        {"role": "user", "content": "b"},
    ]
    again = sent(ask(messages=history), case.terms)["messages"][1]

    assert again["reasoning_details"] == [
        {
            "type": "reasoning.text",
            "text": "AB",
            "index": 0,
            "format": "anthropic-claude-v1",
            "signature": "sig",
        },
        {"type": "reasoning.encrypted", "data": "xyz", "id": "r1", "index": 1},
    ]
    assert again["content"] == "c"
    assert "reasoning_details" not in sent(ask(messages=history), terms(model="other/one"))["messages"][1]


def test_a_turn_of_nothing_but_a_thought() -> None:
    """It stays where reasoning is taken back, also when nothing can be read of it any more, and else is none."""
    signature = thinking.sign("openrouter", "vendor/model")
    shown = {"type": "thinking", "thinking": "hm", "signature": signature}

    def turns(block: dict[str, Any], server: str = "openrouter") -> Any:
        said = [("user", "a"), ("assistant", [block]), ("user", "b")]
        history = [{"role": role, "content": content} for role, content in said]
        return sent(ask(messages=history), terms("openrouter"), server)["messages"]

    assert turns(shown)[1] == {"role": "assistant", "content": "", "reasoning": "hm"}
    assert turns({"type": "redacted_thinking", "data": signature})[1]["content"] == "(no content)"
    assert turns(shown, "mistral") == [{"role": "user", "content": "a\n\nb"}]


def test_a_refusal_without_a_call_names_the_model() -> None:
    with pytest.raises(Refused, match="vendor/model does not support tools"):
        sent(ask(tools=[{"name": "a", "input_schema": {}}]), terms(capabilities=frozenset()))


def test_a_failure_takes_our_estimate_when_no_number_was_said() -> None:
    body = b'{"error":{"code":"context_length_exceeded","message":"no"}}'
    found = OpenAI(quirks.PLAIN).failure(ask(), terms(window=3), 400, [], body)

    assert found.message == f"prompt is too long: {ask().input_tokens} tokens > 3 maximum"


def refusal(message: str, **fields: Any) -> bytes:
    return json.dumps({"error": {"message": message, **fields}}).encode()


def test_a_parameter_that_is_refused_is_left_out_from_then_on() -> None:
    """P31: thinking that a model does not support is no reason to fail."""
    request = ask(thinking={"type": "adaptive"}, output_config={"effort": "high"}, stop_sequences=["x"])
    known = terms("p", capabilities=frozenset(["thinking"]))
    found = again(
        request, known, 400, refusal("Unsupported parameter: 'reasoning_effort'", param="reasoning_effort")
    )
    assert found is not None
    body = sent(request, found, "openai")
    assert "reasoning_effort" not in body
    assert body["stop"] == ["x"]

    words = refusal("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
    more = again(request, found, 400, words)
    assert more is not None
    last = again(request, more, 400, refusal("unknown field stop"))
    assert last is not None
    body = sent(request, last, "openai")
    assert body["max_completion_tokens"] == 100
    assert not {"reasoning_effort", "max_tokens", "stop"} & body.keys()
    assert again(request, last, 400, words) is None


@pytest.mark.parametrize(
    "error",
    [
        {"message": "This model does not support response format `json_schema`.", "param": "response_format"},
        {"message": "'response_format' of type json_schema is not supported by this engine"},
    ],
)
def test_a_schema_that_a_server_does_not_take_is_put_into_words(error: dict[str, Any]) -> None:
    """Claude Code's title has a schema, wherever the model runs. A server without schemas may know JSON."""
    schema = {"type": "object", "properties": {"title": {"type": "string"}}}
    request = ask(system="s", output_config={"format": {"type": "json_schema", "schema": schema}})
    known = terms("work")
    for left in ({"type": "json_object"}, None):
        more = again(request, known, 400, json.dumps({"error": error}).encode())
        assert more is not None
        known = more
        body = sent(request, known, "openai")
        assert body.get("response_format") == left
        assert json.dumps(schema, separators=(",", ":")) in body["messages"][0]["content"]

    assert again(request, known, 400, json.dumps({"error": error}).encode()) is None


def test_a_schema_that_is_wrong_is_the_clients_affair() -> None:
    words = "Invalid schema for response_format 'output': 'oneOf' is not permitted"

    assert again(ask(), terms("openai"), 400, refusal(words)) is None


PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBO"}}


@pytest.mark.parametrize(
    ("words", "about"),
    [
        ("image input is not supported - hint: you may need to provide the mmproj", True),
        ("Model does not support images. Please use a model that does.", True),
        ("work/m is not a multimodal model", True),
        ("At most 0 image(s) may be provided in one prompt.", True),
        ('Failed to parse messages: Unsupported content part type: "image_url"', True),
        ("messages[0]: unknown variant `image_url`, expected `text`", True),
        ("Invalid content type. image_url is only supported by certain models.", True),
        ("No endpoints found that support image input", True),
        ("The model does not support images larger than 20 MB", False),
        ("image exceeds 5 MB maximum", False),
    ],
)
def test_p14_p31_pictures_that_a_model_cannot_see_are_named_from_then_on(words: str, about: bool) -> None:
    """One in a history would be refused in every later turn."""
    result = {"type": "tool_result", "tool_use_id": "1", "content": [PNG]}
    use = {"type": "tool_use", "id": "1", "name": "Read", "input": {}}
    history = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result]},
    ]
    seen, known = ask(messages=history), terms("work")
    found = again(seen, known, 500, refusal(words))

    assert (found is not None) is about
    if found is not None:
        assert "image_url" in json.dumps(sent(seen, known, "openai"))
        assert "[image omitted: model has no vision]" in json.dumps(sent(seen, found, "openai"))
        assert again(seen, found, 500, refusal(words)) is None
    assert again(ask(), known, 500, refusal(words)) is None
    assert again(seen, terms("work", capabilities=frozenset(["tools"])), 500, refusal(words)) is None


ALTERNATE = "After the optional system message, conversation roles must alternate user and assistant roles"
NINE = "Tool call IDs should be alphanumeric strings with length 9!"


def test_p14_the_ways_of_a_template_are_learned_from_its_refusals() -> None:
    """Mistral's models have theirs on any server, and what follows a result would end the session."""
    use = {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {}}
    behind = [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": "x"},
        {"type": "text", "text": "b"},
    ]
    history = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": behind},
    ]
    request, known = ask(messages=history), terms("work")
    found = again(request, known, 500, refusal(f"Jinja Exception: {ALTERNATE}"))
    assert found is not None
    more = again(request, found, 400, refusal(NINE))
    assert more is not None

    roles = [[one["role"] for one in sent(request, it, "openai")["messages"]] for it in (known, found, more)]
    assert roles[0] == ["user", "assistant", "tool", "user"]
    assert roles[1] == roles[2] == ["user", "assistant", "tool", "assistant", "user"]
    ids = [sent(request, it, "openai")["messages"][2]["tool_call_id"] for it in (found, more)]
    assert [len(one) for one in ids] == [len("toolu_1"), 9]
    assert again(request, more, 400, refusal(ALTERNATE)) is None
    assert again(request, more, 400, refusal(NINE)) is None


def test_a_call_that_the_model_wrote_badly_is_asked_for_again() -> None:
    """P44 at Groq."""
    assert again(ask(), terms(), 400, refusal("Failed", code="tool_use_failed")) == terms()
    assert again(ask(), terms(), 400, refusal("no")) is None


# --- real requests ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sees", [True, False], ids=["sees", "blind"])
@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("path", census.SAMPLES, ids=lambda path: path.stem)
def test_every_block_of_a_real_request_is_accounted_for(path: Path, server: str, sees: bool) -> None:
    """Each piece is sent once and in its place, or it is known why not and what stands there instead."""
    real = Census.of(path)
    known = terms("p", api_key="k", capabilities=frozenset(["tools", *(["vision"] if sees else [])]))
    call = OpenAI.of("openai", "p", None, server=server).call(real.ask, known)
    body = json.loads(call.body)
    calls = [one for message in body["messages"] for one in message.get("tool_calls", ())]
    pictures = 0 if sees else real.count("image")

    assert real.missing(body) == real.of_kinds(*census.FOR_ANTHROPIC, *([] if sees else ["image"]))
    assert real.moved(body["messages"]) == []
    assert [one["function"]["name"] for one in calls] == [name for _, name in real.calls]
    assert call.body.count(b"[image omitted: model has no vision]") == pictures
    assert call.notes == real.notes(only_named=pictures)
    assert b"cache_control" not in call.body
    assert [message["role"] for message in body["messages"]].count("system") <= 1
    assert_pairs(body["messages"])


def assert_pairs(messages: list[dict[str, Any]]) -> None:
    """Every call is followed by its result, every result preceded by its call."""
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            assert waiting.pop(0) == message["tool_call_id"]
            continue
        assert not waiting
        waiting = [call["id"] for call in message.get("tool_calls", ())]
    assert not waiting


# --- reading ------------------------------------------------------------------------------------------


def chunk(**delta: Any) -> openai.Chunk:
    return openai.chunk({"choices": [{"delta": delta}]})


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"choices": None},
        {"choices": []},
        {"choices": [None]},
        {"choices": [{}]},
        {"choices": [{"delta": None}]},
        {"choices": [{"delta": {}, "finish_reason": None}], "usage": None},
        {"choices": [{"delta": {"content": None, "tool_calls": None, "reasoning": None}}]},
        {"choices": [{"delta": {"content": 7, "tool_calls": 7, "reasoning_details": 7, "refusal": []}}]},
        {"choices": [{"delta": {"content": [None, {"type": "text"}], "tool_calls": [None]}}]},
        {"usage": {}},
    ],
)
def test_a_chunk_that_says_nothing(document: dict[str, Any]) -> None:
    assert openai.chunk(document) == openai.Chunk()
    assert openai.error(document) is None


def test_a_chunk_that_says_something() -> None:
    assert chunk(reasoning="a", reasoning_content="a").reasoning == "a"
    assert chunk(reasoning="", reasoning_content="b").reasoning == "b"
    assert chunk(content=[{"type": "thinking", "thinking": "c"}]).reasoning == "c"
    assert chunk(function_call={"name": "f", "arguments": "{}"}).fragments == [Fragment(0, "", "f", "{}")]
    assert chunk(tool_calls=[{"index": True, "function": {"name": " f "}}]).fragments == [Fragment(name="f")]
    assert chunk(tool_calls=[{"id": 7, "function": None}]).fragments == [Fragment()]
    whole = {"name": "f", "arguments": {"a": True}}
    assert chunk(tool_calls=[{"function": whole}]).fragments == [Fragment(name="f", arguments='{"a":true}')]
    assert chunk(images=[{"type": "image_url"}]).images == 1
    parts = [{"type": "text", "text": "look: "}, {"type": "image_url", "image_url": {"url": "data:x"}}]
    assert (chunk(content=parts).text, chunk(content=parts).images) == ("look: ", 1)


@pytest.mark.parametrize(
    ("document", "found"),
    [
        ({"error": "x"}, "x"),
        ({"error": {"code": 1}}, {"code": 1}),
        ({"choices": [{"error": {"code": 1}}]}, {"code": 1}),
        ({"object": "error", "message": "x"}, {"object": "error", "message": "x"}),
        ({"type": "error"}, {"type": "error"}),
        ({"error": None, "object": "chat.completion.chunk"}, None),
    ],
)
def test_errors_in_a_200(document: dict[str, Any], found: Any) -> None:
    """P47."""
    assert found == openai.error(document)


@pytest.mark.parametrize(
    ("said", "usage"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 2}, Usage(10, 2)),
        ({"prompt_tokens": 10.0, "completion_tokens": 2}, Usage(10, 2)),
        ({"input_tokens": 10, "output_tokens": 2}, Usage(10, 2)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, Usage()),
        ({"prompt_tokens": 0, "completion_tokens": 5}, Usage(None, 5)),
        ({"prompt_tokens": True, "completion_tokens": "5"}, Usage()),
        ({"prompt_tokens": 10, "completion_tokens": -1}, Usage(10)),
        ({"prompt_tokens": 10, "prompt_cache_hit_tokens": 8}, Usage(2, None, 0, 8)),
        ({"prompt_tokens": 10, "cached_tokens": 8}, Usage(2, None, 0, 8)),
        ({"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 80}}, Usage(0, None, 0, 80)),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 2,
                "total_tokens": 17,
                "completion_tokens_details": {"reasoning_tokens": 5},
            },
            Usage(10, 7),
        ),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 7,
                "total_tokens": 17,
                "completion_tokens_details": {"reasoning_tokens": 5},
            },
            Usage(10, 7),
        ),
    ],
)
def test_counts(said: dict[str, Any], usage: Usage) -> None:
    """P51."""
    assert usage == openai.usage(said)


def test_gemini_counts_its_reasoning_only_in_the_sum() -> None:
    """It is billed as output."""
    said = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 300}
    chunk = {"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}], "usage": said}
    upstream = f"data: {json.dumps(chunk)}\n\n".encode()
    found = [
        [
            item
            for item in golden.items(OpenAI(quirks.SERVERS[row]), ask(), terms(), upstream)
            if isinstance(item, Usage)
        ]
        for row in ("gemini", "openai")
    ]

    assert found == [[Usage(10, 290)], [Usage(10, 2)]]
    for total in (12, 11, None):
        assert openai.usage(said | {"total_tokens": total}, by_sum=True) == Usage(10, 2)


@pytest.mark.parametrize(
    ("said", "cost"),
    [
        ({"cost": 0.0123}, 0.0123),
        ({"cost": 0}, 0.0),
        ({}, None),
        ({"cost": None}, None),
        ({"cost": "0.1"}, None),
        ({"cost": True}, None),
        ({"cost": 0.1, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.5}}, 0.6),
        ({"cost": 0.1, "is_byok": False, "cost_details": {"upstream_inference_cost": 0.5}}, 0.1),
    ],
)
def test_what_was_charged(said: dict[str, Any], cost: float | None) -> None:
    """S106: unknown is null, never 0."""
    assert cost == openai.usage(said, cost="cost").cost_usd
    assert openai.usage(said).cost_usd is None


@pytest.mark.parametrize("place", ["usage", "x_groq", "choice"])
def test_counts_in_places_of_their_own(place: str) -> None:
    said = {"prompt_tokens": 1}
    documents: dict[str, dict[str, Any]] = {
        "usage": {"usage": said},
        "x_groq": {"x_groq": {"usage": said}},
        "choice": {"choices": [{"usage": said}]},
    }

    assert openai.chunk(documents[place]).usage == said


def test_json_that_is_nearly_json() -> None:
    assert openai.loads(b'{"a":"x\ny\xff","b":NaN}') == {"a": "x\ny\ufffd", "b": None}
    with pytest.raises(ValueError, match="nested too deeply"):
        openai.loads(b'{"a":' * 100_000)
    with pytest.raises(ValueError):
        openai.loads(b"{")


# --- any fragments of the same answer ------------------------------------------------------------------

_arguments = st.dictionaries(
    st.text(max_size=5), st.text(max_size=12) | st.integers() | st.none(), max_size=3
)


@settings(deadline=None)
@given(st.lists(_arguments, min_size=1, max_size=4), st.data())
def test_calls_arrive_whole_however_they_were_broken(
    calls: list[dict[str, Any]], data: st.DataObject
) -> None:
    """P39 to P43: with an index, pieces may even take turns."""
    queues = [pieces(json.dumps(one), data.draw(st.lists(st.integers(0, 40), max_size=5))) for one in calls]
    chunks: list[Any] = []
    started: set[int] = set()
    while any(queues):
        index = data.draw(st.sampled_from([place for place, queue in enumerate(queues) if queue]))
        head: dict[str, Any] = {} if index in started else {"id": f"c{index}"}
        named = {} if index in started else {"name": "Bash"}
        started.add(index)
        function: dict[str, Any] = {**named, "arguments": queues[index].pop(0)}
        chunks.append(
            {"choices": [{"delta": {"tool_calls": [{"index": index, **head, "function": function}]}}]}
        )
    chunks.append({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]})
    upstream = "".join(f"data: {json.dumps(one)}\n\n" for one in chunks).encode()
    items = golden.items(OpenAI(), ask(), terms(), upstream)
    found = [json.loads(item.arguments) for item in items if isinstance(item, ToolCall)]

    assert sorted(map(json.dumps, calls)) == sorted(map(json.dumps, found))
    assert not [item for item in items if isinstance(item, Failure)]


def pieces(text: str, cuts: list[int]) -> list[str]:
    places = [0, *sorted(place for place in set(cuts) if 0 < place < len(text)), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(places)]
