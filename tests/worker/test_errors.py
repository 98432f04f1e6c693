"""What providers' refusals become."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelproxy.worker import failures
from modelproxy.worker.contract import Options
from modelproxy.worker.dialects import errors
from modelproxy.worker.dialects.seam import Terms
from modelproxy.worker.failures import Failure, Kind

KEY = "sk-or-v1-0123456789abcdef"
TERMS = Terms("openrouter", "vendor/model", Options(), api_key=KEY)


def answered(status: int, body: Any, *headers: tuple[bytes, bytes], estimate: int = 0) -> Failure:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return errors.from_answer(
        status, list(headers), data, TERMS, title="OpenRouter", prompt_tokens=estimate, now=1_000_000.0
    )


def error(message: str = "words", **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, **fields}}


def router(error_type: str, message: str = "words") -> dict[str, Any]:
    return error(message, code=400, metadata={"error_type": error_type})


# --- kinds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Kind.INVALID),
        (401, Kind.KEY_REJECTED),
        (402, Kind.NO_CREDIT),
        (403, Kind.KEY_REJECTED),
        (404, Kind.NOT_FOUND),
        (408, Kind.TIMEOUT),
        (413, Kind.TOO_LARGE),
        (422, Kind.INVALID),
        (429, Kind.RATE_LIMITED),
        (500, Kind.PROVIDER),
        (502, Kind.OVERLOADED),
        (503, Kind.OVERLOADED),
        (504, Kind.OVERLOADED),
        (524, Kind.TIMEOUT),
        (529, Kind.OVERLOADED),
    ],
)
@pytest.mark.parametrize("body", [error(), {}, b"", error(type="invalid_request_error", code="odd")])
def test_without_telling_words_the_status_decides(status: int, kind: Kind, body: Any) -> None:
    """P58."""
    assert answered(status, body).kind is kind


@pytest.mark.parametrize(
    ("error_type", "kind"),
    [
        ("context_length_exceeded", Kind.OVERFLOW),
        ("token_limit_exceeded", Kind.OVERFLOW),
        ("string_too_long", Kind.OVERFLOW),
        ("authentication", Kind.KEY_REJECTED),
        ("payment_required", Kind.NO_CREDIT),
        ("permission_denied", Kind.KEY_REJECTED),
        ("content_policy_violation", Kind.INVALID),
        ("not_found", Kind.INVALID),  # by the status, here 400
        ("payload_too_large", Kind.TOO_LARGE),
        ("rate_limit_exceeded", Kind.RATE_LIMITED),
        ("provider_overloaded", Kind.OVERLOADED),
        ("provider_unavailable", Kind.OVERLOADED),
        ("timeout", Kind.TIMEOUT),
        ("server", Kind.PROVIDER),
    ],
)
def test_the_structured_field_is_believed_before_the_status(error_type: str, kind: Kind) -> None:
    assert answered(400, router(error_type)).kind is kind


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("authentication_error", Kind.KEY_REJECTED),
        ("invalid_api_key", Kind.KEY_REJECTED),
        ("moderation", Kind.FORBIDDEN),
        ("guardrail", Kind.FORBIDDEN),
        ("insufficient_quota", Kind.NO_CREDIT),
        ("insufficient_balance", Kind.NO_CREDIT),
        ("billing_error", Kind.NO_CREDIT),
        ("content_policy_violation", Kind.INVALID),
        ("content_filter", Kind.INVALID),
        ("refusal", Kind.INVALID),
        ("max_tokens_exceeded", Kind.INVALID),
        ("invalid_image", Kind.INVALID),
        ("image_too_large", Kind.INVALID),
        ("invalid_image_format", Kind.INVALID),
        ("invalid_request_error", Kind.INVALID),
        ("model_not_found", Kind.NOT_FOUND),
        ("model_decommissioned", Kind.NOT_FOUND),
        ("not_found_error", Kind.NOT_FOUND),
        ("request_too_large", Kind.TOO_LARGE),
        ("rate_limit_exceeded", Kind.RATE_LIMITED),
        ("rate_limit_error", Kind.RATE_LIMITED),
        ("rate_limit_reached_error", Kind.RATE_LIMITED),
        ("timeout_error", Kind.TIMEOUT),
        ("overloaded_error", Kind.OVERLOADED),
        ("engine_overloaded_error", Kind.OVERLOADED),
        ("unavailable_error", Kind.OVERLOADED),
        ("service_unavailable", Kind.OVERLOADED),
        ("context_length_exceeded", Kind.OVERFLOW),
        ("string_above_max_length", Kind.OVERFLOW),
        ("exceed_context_size_error", Kind.OVERFLOW),
        ("model_context_window_exceeded", Kind.OVERFLOW),
        ("server_error", Kind.PROVIDER),
    ],
)
@pytest.mark.parametrize("field", ["type", "code"])
def test_inside_a_200_the_word_is_all_there_is(field: str, word: str, kind: Kind) -> None:
    assert errors.in_stream({"message": "words", field: word}, TERMS).kind is kind


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (429, error("You exceeded your current quota", code="insufficient_quota"), Kind.NO_CREDIT),
        (413, error("Request too large on tokens per minute", code="rate_limit_exceeded"), Kind.RATE_LIMITED),
        (429, error("Rate limit reached: too many tokens per minute"), Kind.RATE_LIMITED),
        (400, error("Failed to call a function", code="tool_use_failed"), Kind.PROVIDER),
        (503, error("Loading model", type="unavailable_error"), Kind.OVERLOADED),
        (400, error("vendor/x is not a valid model ID"), Kind.NOT_FOUND),
        (404, error("No endpoints found for vendor/x."), Kind.NOT_FOUND),
        (404, error("No endpoints found that support tool use"), Kind.INVALID),
        (404, error("No endpoints found that support cache control"), Kind.INVALID),
        (404, error("No endpoints found that can handle the requested parameters."), Kind.INVALID),
        (404, error("No endpoints found matching your data policy"), Kind.INVALID),
        (500, error("m does not support tools"), Kind.INVALID),
        (403, error("Input was flagged by moderation"), Kind.FORBIDDEN),
        (403, error("Not here", code="unsupported_country_region_territory"), Kind.FORBIDDEN),
        (403, b"<html><title>Blocked</title><body>Access denied</body></html>", Kind.FORBIDDEN),
        (400, error("This request requires more credits"), Kind.NO_CREDIT),
        (
            400,
            {"code": "Client specified an invalid argument", "error": "Incorrect API key provided: na***ys."},
            Kind.KEY_REJECTED,
        ),
        (
            400,
            [{"error": {"code": 400, "message": "API key not valid. Please pass a valid API key."}}],
            Kind.KEY_REJECTED,
        ),
        (400, error("API key expired. Please renew the API key."), Kind.KEY_REJECTED),
        (400, [{"error": {"code": 429, "message": "x", "status": "RESOURCE_EXHAUSTED"}}], Kind.RATE_LIMITED),
        (404, {"object": "error", "message": "The model `x` does not exist.", "code": 404}, Kind.NOT_FOUND),
    ],
)
def test_words_that_mean_more_than_the_status(status: int, body: Any, kind: Kind) -> None:
    """P58 and capability refusals."""
    assert answered(status, body).kind is kind


def test_every_kind_named_in_the_tables_is_one_that_a_client_can_be_told() -> None:
    assert set(errors._KINDS.values()) <= failures.RULES.keys()


# --- overflow ------------------------------------------------------------------------------------------

OVERFLOWS = [
    (
        "This model's maximum context length is 32768 tokens. However, you requested 46000 tokens "
        "(40000 in the messages, 6000 in the completion). Please reduce the length of the messages.",
        "prompt is too long: 40000 tokens > 32768 maximum",
    ),
    (
        "This model's maximum context length is 32768 tokens. However, your messages resulted in 40000 tokens.",
        "prompt is too long: 40000 tokens > 32768 maximum",
    ),
    (
        "This endpoint's maximum context length is 131072 tokens. However, you requested about 203000 tokens "
        "(180000 of text input, 3000 of tool input, 20000 in the output).",
        "prompt is too long: 183000 tokens > 131072 maximum",
    ),
    (
        "This model's maximum context length is 32768 tokens. However, you requested 40000 tokens "
        "(8000 in the messages, 32000 in the completion).",
        "input length and `max_tokens` exceed context limit: 8000 + 32000 > 32768, "
        "decrease input length or `max_tokens` and try again",
    ),
    (
        "'max_tokens' or 'max_completion_tokens' is too large: 32000. This model's maximum context length is "
        "32768 tokens and your request has 5000 input tokens (32000 > 32768 - 5000).",
        "input length and `max_tokens` exceed context limit: 5000 + 32000 > 32768, "
        "decrease input length or `max_tokens` and try again",
    ),
    (
        "Requested token count exceeds the model's maximum context length of 32768 tokens. You requested a total "
        "of 44000 tokens: 40000 tokens from the input messages and 4000 tokens for the completion.",
        "prompt is too long: 40000 tokens > 32768 maximum",
    ),
    (
        "The input (40000 tokens) is longer than the model's context length (32768 tokens).",
        "prompt is too long: 40000 tokens > 32768 maximum",
    ),
    (
        "request (40000 tokens) exceeds the available context size (32768 tokens), try increasing it",
        "prompt is too long: 40000 tokens > 32768 maximum",
    ),
    (
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
        "prompt is too long: 1200000 tokens > 1048576 maximum",
    ),
    (
        "This model's maximum prompt length is 131072 but the request contains 200,000 tokens.",
        "prompt is too long: 200000 tokens > 131072 maximum",
    ),
    (
        "The prompt is too long: 200000, model maximum context length: 131071",
        "prompt is too long: 200000 tokens > 131071 maximum",
    ),
    (
        "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
        "prompt is too long: 40000 tokens > 32768 maximum",
    ),
    (
        "prompt is too long: 210000 tokens > 200000 maximum",
        "prompt is too long: 210000 tokens > 200000 maximum",
    ),
    (
        "Please reduce the length of the messages or completion. Current length is 9000 while limit is 8192",
        "prompt is too long: 9000 tokens > 8192 maximum",
    ),
    (
        "`inputs` tokens + `max_new_tokens` must be <= 8193. Given: 7000 `inputs` tokens and 2000 `max_new_tokens`",
        "input length and `max_tokens` exceed context limit: 7000 + 2000 > 8193, "
        "decrease input length or `max_tokens` and try again",
    ),
    (
        "Trying to keep the first 5000 tokens when context the overflows. However, the model is loaded with "
        "context length of only 4096 tokens",
        "prompt is too long: 5000 tokens > 4096 maximum",
    ),
    (
        "Your request exceeded model token limit: 131072",
        "prompt is too long: 131073 tokens > 131072 maximum",
    ),
    ("Input is too long for requested model.", "prompt is too long: 777 tokens > 776 maximum"),
]


@pytest.mark.parametrize(("said", "told"), OVERFLOWS)
@pytest.mark.parametrize("status", [400, 413, 500])
def test_an_overflow_is_told_in_the_words_on_which_clients_compact(status: int, said: str, told: str) -> None:
    """P28, whatever the status is."""
    found = answered(status, error(said, type="BadRequestError", code=status), estimate=777)

    assert Failure(Kind.OVERFLOW, told) == found


PER_MINUTE = (
    "Request too large for model `m` in organization `o` on tokens per minute (TPM): Limit {}, Requested {}"
)


@pytest.mark.parametrize(
    ("limit", "asked", "estimate", "told"),
    [
        (12000, 40000, 35000, "prompt is too long: 35000 tokens > 12000 maximum (tokens per minute)"),
        (12000, 40000, 0, "prompt is too long: 40000 tokens > 12000 maximum (tokens per minute)"),
        (
            30000,
            52000,
            20000,
            "input length and `max_tokens` exceed context limit: 20000 + 32000 > 30000, "
            "decrease input length or `max_tokens` and try again (tokens per minute)",
        ),
        (30000, 20000, 20000, None),
    ],
)
@pytest.mark.parametrize("status", [413, 429])
def test_p28_what_no_minute_has_room_for_is_an_overflow_unless_somebody_else_takes_it(
    status: int, limit: int, asked: int, estimate: int, told: str | None
) -> None:
    """Asked again it would be refused again; the client has to compact, or to ask for less."""
    body = error(PER_MINUTE.format(limit, asked) + ", please reduce", code="rate_limit_exceeded")
    found = answered(status, body, estimate=estimate)

    assert found.kind is Kind.RATE_LIMITED
    assert found.instead == (None if told is None else Failure(Kind.OVERFLOW, told))


def test_an_overflow_named_by_code_with_numbers_in_fields() -> None:
    body = error("too big", type="exceed_context_size_error", code=400, n_prompt_tokens=40000, n_ctx=32768)

    assert failures.overflow(40000, 32768) == answered(400, body)


def test_an_overflow_without_numbers_takes_what_is_known() -> None:
    known = Terms("work", "m", Options(), window=1000)

    found = errors.in_stream({"code": "context_length_exceeded", "message": "no"}, known, prompt_tokens=1500)

    assert failures.overflow(1500, 1000) == found


def test_an_overflow_hidden_below_a_router_is_found() -> None:
    raw = json.dumps(error("This model's maximum context length is 100 tokens, yours is longer"))
    body = error("Provider returned error", code=400, metadata={"raw": raw, "provider_name": "Acme"})

    assert answered(400, body, estimate=150) == failures.overflow(150, 100)


# --- words ---------------------------------------------------------------------------------------------


def test_a_rejected_key_names_the_provider_and_the_fix_and_never_the_key() -> None:
    """S74."""
    found = answered(401, error(f"Incorrect API key provided: {KEY}. See https://x.y/keys?key=abc"))

    assert (
        found.message
        == "OpenRouter rejects the API key: Incorrect API key provided: [secret]. See https://x.y/keys"
        " - set another with: proxyctl keys set openrouter"
    )


@pytest.mark.parametrize(("status", "told"), [(404, "Anthropic: nope"), (500, "Anthropic: nope")])
def test_where_no_model_is_known_none_is_named(status: int, told: str) -> None:
    """A front passes what no rule takes to Anthropic, whatever model it is for."""
    found = errors.from_answer(status, [], b"nope", Terms("anthropic", "", Options()), title="Anthropic")

    assert found.message == told


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("key sk-proj-abc***wxyz is bad", "key [key] is bad"),
        ("gsk_abcdefghijkl", "[key]"),
        ("AIzaSyA-123456789", "[key]"),
        ("Authorization: Bearer abcdefgh12345", "Authorization: Bearer [key]"),
        ("at https://user:pass@host/x", "at https://host/x"),
        ("GET https://host/x?api_key=1 failed", "GET https://host/x failed"),
        ('File "/usr/lib/python3/x.py", line 3', 'File "[path]", line 3'),
        ("secret-header-value", "[secret]"),
        ("the skeleton of a task-list", "the skeleton of a task-list"),
        ("POST /v1/chat/completions with vendor/home/x", "POST /v1/chat/completions with vendor/home/x"),
    ],
)
def test_secrets_are_cut_out(text: str, clean: str) -> None:
    terms = Terms("p", "m", Options(headers={"x-secret": "secret-header-value", "x-title": "a"}), api_key=KEY)

    assert clean == errors.scrub(text, terms)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "OpenRouter: busy (status 502)"),
        (b"bad gateway", "OpenRouter: bad gateway"),
        (
            b"<!DOCTYPE html><html><head><title>x</title><style>p{}</style></head>"
            b"<body><h1>504</h1>\n<p>Gateway&nbsp;Time-out</p><script>x()</script></body></html>",
            "OpenRouter: 504 Gateway&nbsp;Time-out",
        ),
        (b"\xff\xfe", "OpenRouter: \ufffd\ufffd"),
        (b"x" * 5000, "OpenRouter: " + "x" * 300),
        ({"error": "words", "code": 502}, "OpenRouter: words"),
        ({"message": "words"}, "OpenRouter: words"),
        ({"detail": [{"loc": ["body"], "msg": "one"}, {"msg": "two"}]}, "OpenRouter: body: one; two"),
        ({"detail": {"message": "inner"}}, "OpenRouter: inner"),
        (
            {"object": "error", "message": {"detail": [{"loc": ["body", "x"], "msg": "one"}]}},
            "OpenRouter: body.x: one",
        ),
        ({"message": [[[[["too deep"]]]]]}, "OpenRouter: busy (status 502)"),
        ("words", "OpenRouter: words"),
        ([], "OpenRouter: busy (status 502)"),
        (None, "OpenRouter: busy (status 502)"),
        (error("{braces} {0}"), "OpenRouter: {braces} {0}"),
        (
            error("Provider returned error", metadata={"provider_name": "Acme", "raw": '{"error":"deep"}'}),
            "OpenRouter (Acme): deep",
        ),
        (error("Provider returned error", metadata={"raw": {"message": "deep"}}), "OpenRouter: deep"),
        (error("Provider returned error", metadata={"raw": ""}), "OpenRouter: Provider returned error"),
    ],
)
def test_the_providers_own_words_are_kept(body: Any, message: str) -> None:
    """P58: pages of HTML too."""
    assert message == answered(502, body).message


@pytest.mark.parametrize(
    ("status", "said", "hint"),
    [
        (404, "No endpoints found that support tool use.", "model vendor/model does not support tools"),
        (400, '"auto" tool choice requires --enable-auto-tool-choice', "start vLLM with"),
        (500, "tools param requires --jinja flag", "start llama-server with --jinja"),
        (400, "vendor/model does not support tools", "choose a tool-capable model"),
        (404, "No endpoints found matching your data policy", "privacy settings"),
    ],
)
def test_a_missing_capability_says_what_to_do(status: int, said: str, hint: str) -> None:
    """P31: a clear 400, no silent stripping."""
    found = answered(status, error(said))

    assert found.kind is Kind.INVALID
    assert said in found.message
    assert hint in found.message


@pytest.mark.parametrize(
    ("error_type", "reason"),
    [
        ("max_tokens_exceeded", "max_tokens"),
        ("content_policy_violation", "refusal"),
        ("refusal", "refusal"),
        ("server", None),
    ],
)
def test_errors_that_are_ends(error_type: str, reason: str | None) -> None:
    assert reason == errors.stop_reason(router(error_type))


def test_a_status_inside_a_200_may_be_a_string() -> None:
    """P47: old shapes."""
    assert errors.in_stream({"code": "429", "message": "slow"}, TERMS).kind is Kind.RATE_LIMITED
    assert errors.in_stream("words", TERMS).kind is Kind.PROVIDER
    assert errors.in_stream({"type": "server_error", "code": None}, TERMS).kind is Kind.PROVIDER
    # A 500 would have the client repeat what will never be taken.
    assert errors.in_stream({"type": "invalid_request_error", "code": None}, TERMS).kind is Kind.INVALID
    assert errors.in_stream({"type": "not_found_error"}, TERMS).kind is Kind.NOT_FOUND
    routed = {"code": "server_error", "message": "gone", "metadata": {"error_type": "not_found"}}
    assert errors.in_stream(routed, TERMS).kind is Kind.NOT_FOUND
    assert errors.in_stream({"code": "2001", "message": "x"}, TERMS).kind is Kind.PROVIDER


def test_the_wait_is_passed_on() -> None:
    """S75, P58."""
    assert answered(429, error(), (b"Retry-After", b"7")).retry_after_s == 7
    assert answered(429, error(retry_after=9)).retry_after_s == 9


def test_a_key_that_nobody_gave_is_not_rejected() -> None:
    terms = attrs.evolve(TERMS, api_key=None)
    found = errors.from_answer(401, [], json.dumps(error("no token")).encode(), terms, title="OpenRouter")

    said = "OpenRouter asks for an API key: no token - set one with: proxyctl keys set openrouter"
    assert found == Failure(Kind.KEY_REJECTED, said)


def test_a_limit_that_resets_itself_is_a_wait_only_where_it_is_used_up() -> None:
    """OpenAI and Groq say it in every answer: a 503 is not to be waited for six minutes."""
    reset = (b"x-ratelimit-reset-tokens", b"6m0s")

    assert answered(503, error(), reset).retry_after_s is None
    assert answered(429, error(), reset).retry_after_s == 360
    assert answered(429, error("Please try again in 2s."), reset).retry_after_s == 2


@pytest.mark.parametrize(
    ("status", "body", "name"),
    [
        (400, error("Unsupported parameter: 'b' is not supported with this model", param="b"), "b"),
        (400, error("Unsupported value", param="a", code="unsupported_value"), "a"),
        (422, {"detail": [{"loc": ["body", "b"], "msg": "Extra inputs are not permitted"}]}, "b"),
        (
            422,
            {"message": {"detail": [{"loc": ["body", "b"], "msg": "Extra inputs are not permitted"}]}},
            "b",
        ),
        (400, error("Unrecognized request argument supplied: b"), "b"),
        (400, error("'b' is too large"), None),
        (400, error("Unknown tool b-c"), None),
        (500, error("Unsupported parameter: 'b'"), None),
        (400, b"unknown field b", "b"),
    ],
)
def test_a_refused_parameter_is_found(status: int, body: Any, name: str | None) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    assert name == errors.unsupported(status, data, ["a", "b"])


_json: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "message", "code", "type", "metadata", "raw", "details", "headers"])
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.integers(400, 599), _json | st.binary())
def test_no_body_breaks_it_and_there_is_always_a_message(status: int, body: Any) -> None:
    found = answered(status, body)

    assert found.message
    assert failures.envelope(found, "req_1")
