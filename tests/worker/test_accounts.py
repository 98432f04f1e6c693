"""What a row says, from what is known of a request."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from modelproxy.worker.accounts import Account, name_in
from modelproxy.worker.contract import WorkerSpec
from modelproxy.worker.failures import Failure, Kind
from modelproxy.worker.ledger import Row
from modelproxy.worker.wire.items import Usage

TOLD = Usage(input_tokens=10, output_tokens=5, cache_creation_input_tokens=2, cache_read_input_tokens=3)
UNREACHABLE = Failure(Kind.UNREACHABLE, "nobody there")


@attrs.frozen
class Answer:
    """What an answer has told."""

    said: Usage = TOLD
    stop_reason: str | None = "end_turn"
    written: int = 50
    """By our estimate, shown or not."""

    def usage(self) -> dict[str, int]:
        return {
            "input_tokens": 100 if self.said.input_tokens is None else self.said.input_tokens,
            "output_tokens": self.written if self.said.output_tokens is None else self.said.output_tokens,
            "cache_creation_input_tokens": self.said.cache_creation_input_tokens,
            "cache_read_input_tokens": self.said.cache_read_input_tokens,
        }


def row(kind: str = "work", *, failure: Failure | None = None, gone: bool = False, **facts: Any) -> Row:
    spec = WorkerSpec("coder", f"{kind}/m", kind, kind, "m", 3457)
    account = Account(ts=1.0, request_id="req_1", **{"told": Answer(), "ttft_s": 0.1, **facts})
    return account.row(spec, duration_s=1.23456, failure=failure, gone=gone)


def counts(found: Row) -> tuple[int | None, ...]:
    return found.input_tokens, found.output_tokens, found.cache_read_tokens, found.cache_write_tokens


def test_an_answer_that_arrived() -> None:
    """The provider's own numbers, kinds of cache apart."""
    found = row(model="claude-x", stream=True, session_id="s", agent_id="a", retries=2)

    assert (found.status, found.error_type, found.stop_reason) == (200, None, "end_turn")
    assert counts(found) == (10, 5, 3, 2)
    assert not found.tokens_estimated
    assert (found.proxy, found.port, found.provider, found.model) == ("coder", 3457, "work", "m")
    assert (found.route, found.requested_model, found.stream) == ("work/m", "claude-x", True)
    assert (found.session_id, found.agent_id, found.retry_count) == ("s", "a", 2)
    assert (found.duration_ms, found.ttft_ms) == (1234.6, 100.0)


def test_who_asks_and_by_which_route() -> None:
    assert (row().agent, row().route) == (None, "work/m")
    found = row(agent="code-reviewer", route="front>work/m")
    assert (found.agent, found.route) == ("code-reviewer", "front>work/m")


@pytest.mark.parametrize(
    ("facts", "status", "error_type"),
    [
        ({"failure": UNREACHABLE}, 503, "api_error"),
        ({"failure": UNREACHABLE, "gone": True}, 503, "api_error"),
        ({"gone": True}, 499, "cancelled"),
        ({"refusal": (429, "rate_limit_error")}, 429, "rate_limit_error"),
        ({"refusal": (429, "rate_limit_error"), "gone": True}, 429, "rate_limit_error"),
    ],
)
def test_what_did_not_end_well_has_no_stop_reason(
    facts: dict[str, Any], status: int, error_type: str
) -> None:
    """Whatever the provider had said by then."""
    found = row(**facts)

    assert (found.status, found.error_type, found.stop_reason) == (status, error_type, None)


@pytest.mark.parametrize("said", [Usage(), Usage(input_tokens=1), Usage(output_tokens=1)])
def test_what_the_provider_did_not_say_is_estimated_and_flagged(said: Usage) -> None:
    """One number that is ours is enough for the flag."""
    found = row(told=Answer(said))

    assert found.tokens_estimated
    assert found.input_tokens == (100 if said.input_tokens is None else 1)


@pytest.mark.parametrize(
    "facts",
    [
        {"told": None, "ttft_s": None, "failure": Failure(Kind.INVALID, "no")},
        {"told": Answer(Usage(), written=0), "ttft_s": None, "failure": UNREACHABLE},
        {"told": Answer(Usage(), written=0), "ttft_s": None, "refusal": (529, "overloaded_error")},
        {"told": None, "ttft_s": None, "gone": True},
    ],
)
def test_what_no_model_has_read_has_no_tokens(facts: dict[str, Any]) -> None:
    """Null: an estimate would be added to what was paid for."""
    found = row(**facts)

    assert counts(found) == (None, None, None, None)
    assert not found.tokens_estimated


def test_what_a_model_thought_before_it_was_cut_counts_though_nobody_was_shown_it() -> None:
    found = row(told=Answer(Usage()), ttft_s=None, failure=Failure(Kind.CUT, "cut"))

    assert (found.input_tokens, found.output_tokens, found.tokens_estimated) == (100, 50, True)


def test_a_client_that_left_early_may_have_cost_something() -> None:
    """The prompt was on its way: an estimate, flagged."""
    found = row(told=Answer(Usage(), None), ttft_s=None, gone=True)

    assert found.input_tokens == 100
    assert found.tokens_estimated


@pytest.mark.parametrize(
    ("kind", "facts", "cost", "source"),
    [
        ("echo", {}, 0.0, "local"),
        ("ollama", {}, 0.0, "local"),
        ("ollama", {"failure": UNREACHABLE}, 0.0, "local"),
        ("openrouter", {"told": Answer(Usage(1, 1, cost_usd=0.0123))}, 0.0123, "provider"),
        ("openrouter", {"told": Answer(Usage(1, 1, cost_usd=0.0))}, 0.0, "provider"),
        ("openrouter", {}, None, "unknown"),
        ("openai", {"told": None}, None, "unknown"),
        ("anthropic", {}, None, "unknown"),
        ("anthropic", {"subscription": True}, None, "subscription"),
    ],
)
def test_s106_what_it_cost(kind: str, facts: dict[str, Any], cost: float | None, source: str) -> None:
    """Zero is zero, unknown is null."""
    found = row(kind, **facts)

    assert (found.cost_usd, found.cost_source) == (cost, source)


@pytest.mark.parametrize(
    ("value", "name"),
    [(None, None), (b"", None), (b"abc-1", "abc-1"), (b"a\x00\xff\x1b", "a???"), (b"x" * 999, "x" * 200)],
)
def test_names_from_clients_are_kept_harmless(value: bytes | None, name: str | None) -> None:
    """They are printed one day."""
    assert name == name_in(value)


def test_a_last_will_says_that_it_was_cut_and_what_it_had_cost() -> None:
    """As if the process ended now; the numbers are those so far, and ours where the provider says them last."""
    spec = WorkerSpec("coder", "work/m", "work", "work", "m", 3457)
    told = Answer(Usage(input_tokens=10))
    found = Account(ts=1000.0, request_id="req_1", told=told, ttft_s=0.1, stream=True).last_will(
        spec, pid=77, now=1002.5
    )

    assert (found.status, found.error_type, found.stop_reason, found.pid) == (500, "cut", None, 77)
    assert (found.duration_ms, found.ttft_ms) == (2500.0, 100.0)
    assert (found.input_tokens, found.output_tokens, found.tokens_estimated) == (10, 50, True)
    assert (found.cost_usd, found.cost_source) == (None, "unknown")


def test_a_last_will_counts_nothing_that_no_model_has_shown() -> None:
    """A request in the line, or with a provider that is silent; and the clock may have been set back."""
    spec = WorkerSpec("coder", "ollama/m", "ollama", "ollama", "m", 3457)
    for told in (None, Answer(Usage(), written=0)):
        found = Account(ts=1000.0, request_id="req_1", told=told).last_will(spec, pid=77, now=900.0)

        assert counts(found)[:2] == (None, None)
        assert (found.duration_ms, found.cost_usd, found.tokens_estimated) == (0.0, 0.0, False)
