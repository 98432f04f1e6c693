"""`proxyctl usage`: the same rows from the supervisor and from the file."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import pytest
from fakes.control import Control, fault
from fakes.rows import fill, row
from fakes.terminal import Run

from modelproxy.supervisor.paths import Paths
from modelproxy.worker import ledger
from modelproxy.worker.ledger import Row


def documents(*rows: Row) -> list[dict[str, Any]]:
    return [ledger.to_document(one) for one in rows]


@pytest.mark.parametrize("alive", [True, False])
def test_the_rows_as_json(run: Run, paths: Paths, alive: bool) -> None:
    """One list, every field in every row, whoever is asked."""
    rows = [row(), row(request_id="req_2", cost_usd=None, cost_source="unknown", status=529)]
    if alive:
        with Control(paths) as control:
            control.replies["GET /v1/usage"] = 200, documents(*rows)
            ran = run("usage", "--json")
    else:
        fill(paths.ledger, *rows)
        ran = run("usage", "--json")

    assert ran.code == 0
    assert documents(*rows) == ran.json
    assert ran.err == ("" if alive else "the supervisor is not running; reading the ledger itself\n")


def test_what_is_asked_of_the_supervisor(run: Run, control: Control) -> None:
    """A name is one segment; a duration becomes a time."""
    control.replies["GET /v1/usage"] = 200, []
    run("usage", "ollama/qwen3:8b", "--since", "2h", "--limit", "7")
    [(_, path, _)] = control.asked
    head, _, rest = path.partition("since=")
    since, _, tail = rest.partition("&")

    assert head == "/v1/usage?"
    assert tail == "limit=7&proxy=ollama%2Fqwen3%3A8b"
    assert time.time() - float(since) == pytest.approx(7200, abs=60)


def test_s106_the_table(run: Run, paths: Paths) -> None:
    """A cost that nobody knows is a dash, an estimate has a tilde, what the cache held counts as read."""
    fill(
        paths.ledger,
        row(),
        row(
            ts=time.time() - 50,
            proxy="openrouter/x",
            cost_usd=0.0123,
            tokens_estimated=True,
            ttft_ms=None,
            duration_ms=12,
        ),
        row(
            ts=time.time() - 40,
            proxy="work/x",
            cost_usd=None,
            status=529,
            stop_reason=None,
            error_type="overloaded_error",
            requested_model=None,
            input_tokens=None,
            output_tokens=None,
            cache_read_tokens=None,
            cache_write_tokens=None,
        ),
    )
    ran = run("usage")
    header, *lines = [
        line.split()[0 if number == 0 else 2 :] for number, line in enumerate(ran.out.splitlines())
    ]

    assert header == ["TIME", "PROXY", "ASKED", "FOR", "STATUS", "STOP", "IN", "OUT", "COST", "FIRST", "TOOK"]
    assert lines == [
        ["ollama/qwen3:8b", "claude-sonnet-4-5", "200", "end_turn", "1234", "20", "$0.00", "0.04s", "1.2s"],
        ["openrouter/x", "claude-sonnet-4-5", "200", "end_turn", "~1234", "~20", "$0.0123", "-", "0.01s"],
        ["work/x", "-", "529", "overloaded_error", "-", "-", "-", "0.04s", "1.2s"],
    ]


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ((), ["gone", "old", "new", "other"]),
        (("--limit", "2"), ["new", "other"]),
        (("--since", "1h"), ["new", "other"]),
        (("--since", "8d"), ["old", "new", "other"]),
        (("echo/demo",), ["other"]),
        (("3457",), ["old", "new"]),
        (("other/old-model",), ["gone"]),
        (("other/old-model", "--since", "1h"), []),
        (("echo/demo", "--limit", "0"), []),
    ],
)
def test_which_rows(run: Run, paths: Paths, argv: tuple[str, ...], expected: list[str]) -> None:
    """The newest, the younger ones, those of one proxy."""
    now = time.time()
    fill(
        paths.ledger,
        row(request_id="old", ts=now - 7 * 86400),
        row(request_id="new", ts=now - 60),
        row(request_id="other", ts=now - 50, proxy="echo/demo", route="echo/demo", port=1),
        row(request_id="gone", ts=now - 90 * 86400, proxy="other/old-model", route="x", port=2),
    )

    assert expected == [one["request_id"] for one in run("usage", "--json", *argv).json]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("qwen3", "did you mean ollama/qwen3:8b? "),
        ("codr", "did you mean coder? "),
        ("zzz", ""),
        ("9999", ""),
    ],
)
def test_a_name_that_nobody_has_and_nobody_had_gets_the_nearest(
    run: Run, paths: Paths, typed: str, meant: str
) -> None:
    """An empty table would say that it was not used."""
    paths.config.mkdir(parents=True)
    paths.config_file.write_text('proxies.coder.model = "echo/x"')
    fill(paths.ledger, row())
    ran = run("usage", typed)

    assert (ran.code, ran.out) == (1, "")
    assert (
        f'error: There is no proxy "{typed}", and the ledger knows none\nhint: {meant}proxyctl ps -a'
        in ran.err
    )
    assert run("usage", typed, "--json").json["error"]["code"] == "unknown_proxy"


def test_a_proxy_that_nobody_has_used_yet_has_no_rows(run: Run, paths: Paths) -> None:
    """Whether it is configured or was brought up."""
    paths.config.mkdir(parents=True)
    paths.config_file.write_text('proxies.coder.model = "echo/x"')
    spec = {"model_id": "echo/demo", "provider": "echo", "port": 3999}
    paths.state_file.write_text(
        json.dumps({"proxies": [{"name": "echo/demo", "wanted": True, "spec": spec}]})
    )

    for name in ("coder", "echo/demo", "3999"):
        assert run("usage", name, "--json").json == []


either = pytest.mark.parametrize("command", ["usage", "costs"])
"""What is behind them both: `costs` asks as `usage` does."""


@either
def test_nothing_was_ever_asked(run: Run, command: str) -> None:
    """No file, no supervisor: an empty list, not an error."""
    assert run(command, "--json").json == []
    assert len(run(command).out.splitlines()) == 1


@either
@pytest.mark.parametrize("alive", [True, False])
def test_a_file_that_is_no_ledger(run: Run, paths: Paths, command: str, alive: bool) -> None:
    """One sentence, exit code 1."""
    if alive:
        with Control(paths) as control:
            answer = fault(500, "ledger_unreadable", "cannot read the ledger")
            control.replies[f"GET /v1/{command}"] = answer
            ran = run(command, "--json")
    else:
        paths.ledger.write_text("what is this? " * 100)
        ran = run(command, "--json")

    assert ran.code == 1
    assert ran.json["error"]["code"] == "ledger_unreadable"


@either
def test_a_supervisor_of_an_older_version_is_not_needed(run: Run, control: Control, command: str) -> None:
    """After an upgrade it may not know the question yet."""
    fill(control.paths.ledger, row())
    control.replies[f"GET /v1/{command}"] = fault(404, "unknown_route", f"there is nothing at /v1/{command}")

    ran = run(command, "--json")

    assert (ran.code, len(ran.json)) == (0, 1)


@pytest.mark.parametrize("argv", [("--since", "5w"), ("--limit", "-1"), ("--limit", "x"), ("a", "b")])
def test_bad_usage(run: Run, argv: tuple[str, ...]) -> None:
    """Exit code 2 before anybody is asked."""
    ran = run("usage", "--json", *argv)

    assert (ran.code, json.loads(ran.out)["error"]["code"]) == (2, "usage")


@pytest.mark.slow
@pytest.mark.parametrize("words", [["usage"], ["costs", "--by", "route"]], ids=["usage", "costs"])
def test_no_event_loop_is_imported(paths: Paths, words: list[str]) -> None:
    """Also not for reading the file."""
    fill(paths.ledger, row())
    script = (
        f"import sys; sys.argv[1:] = {[*words, '--json']!r}\n"
        "from modelproxy.ctl.__main__ import main\n"
        "code = main()\n"
        "assert not {'trio', 'cattrs', 'httptools', 'msgspec'} & set(sys.modules), sorted(sys.modules)\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == 1


def test_an_alias_is_its_model(run: Run, paths: Paths) -> None:
    paths.config.mkdir(parents=True)
    paths.config_file.write_text('aliases = { local = "ollama/qwen3:8b" }')
    other = row(request_id="req_2", proxy="echo/x", provider="echo", model="x", route="echo/x", port=3458)
    fill(paths.ledger, row(), other)

    assert [one["request_id"] for one in run("usage", "local", "--json").json] == ["req_1"]
