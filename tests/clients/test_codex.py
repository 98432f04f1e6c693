"""The real codex, which speaks OpenAI's Responses API and is told where by its command line or a file."""

from __future__ import annotations

import json
import threading

import attrs
import pytest
from fakes.upstream import Reply

from .conftest import MODEL, REAL_KEY, ROUTED, Desk, through
from .dialogue import call, obedient, streamed

pytestmark = [pytest.mark.slow, pytest.mark.clients]

ONCE = ("exec", "--skip-git-repo-check", "--sandbox", "danger-full-access")
NDJSON = (("content-type", "application/x-ndjson"),)


@pytest.mark.parametrize("target", [MODEL, ROUTED])
def test_it_uses_its_shell_on_a_model(desk: Desk, codex: str, target: str) -> None:
    """Nothing of the user's own goes along, and its whole session is one in the ledger."""
    order = "do" + call("exec_command", cmd="echo from-the-tool > made.txt; cat made.txt")
    done = desk.run(*through(target, "--", codex, *ONCE, order), OPENAI_API_KEY="sk-real")
    rows = desk.estate.usage()[-2:]

    assert done.returncode == 0, done
    assert "got: " in done.stdout
    assert done.stdout.rstrip().endswith("from-the-tool")
    assert (desk.folder / "made.txt").read_text() == "from-the-tool\n"
    assert len({row["session_id"] for row in rows} - {None}) == 1
    assert not any(
        secret in str((seen.headers, seen.body))
        for far in (desk.estate.fo, desk.estate.fr)
        for seen in far.asked
        for secret in (REAL_KEY, "sk-real")
    )


def test_tools_of_a_namespace_are_its_tools(desk: Desk, codex: str) -> None:
    order = "go" + call("multi_agent_v1__spawn_agent", message="hello sub")
    done = desk.run(*through(MODEL, "--", codex, *ONCE, order))

    assert '"agent_id"' in done.stdout, done


@pytest.mark.parametrize(
    "trouble",
    [
        Reply(503, b'{"error":"server busy"}'),
        Reply(500, b'{"error":"boom"}'),
        Reply(429, b'{"error":"slow down"}'),
        Reply(body=b'{"message":{"role":"assistant","content":"half an"},"done":false}\n', headers=NDJSON),
    ],
    ids=["busy", "broken", "too many", "cut"],
)
def test_a_provider_that_fails_once_is_asked_again(desk: Desk, codex: str, trouble: Reply) -> None:
    far = desk.estate.fo
    far.instead(trouble, streamed(far, "hello"))
    done = desk.run(*through(MODEL, "--", codex, *ONCE, "hello"))

    assert (done.returncode, done.stdout.strip()) == (0, "fo said: hello"), done
    assert len(far.asked) == 2


@pytest.mark.parametrize("end", ["kill", "restart"])
def test_a_worker_that_goes_in_mid_stream(desk: Desk, codex: str, end: str) -> None:
    """One that is killed: codex asks again. One that is replaced finishes what it has begun."""
    house, far, gate = desk.estate.house, desk.estate.fo, threading.Semaphore(0)
    far.instead(attrs.evolve(streamed(far, "hello"), gate=gate), streamed(far, "hello"))
    with desk.running(*through(MODEL, "--", codex, *ONCE, "hello")) as process:
        far.wait_for_requests(1, limit=60, path=far.chat)
        gate.release()
        house.wait_tally(lambda row: row["in_flight"] == 1, MODEL)
        if end == "kill":
            house.kill_worker(house.row(MODEL)["pid"])
        else:
            assert house.command("restart", MODEL).returncode == 0
        for _ in range(9):
            gate.release()
        out, err = process.communicate(timeout=90)

    assert (process.returncode, out.strip()) == (0, "fo said: hello"), err
    assert len(far.asked) == (2 if end == "kill" else 1)


def test_a_conversation_that_is_too_long_is_told_and_goes_on(desk: Desk, codex: str) -> None:
    """By the code of our error: its next turn compacts first."""
    far = desk.estate.fo
    far.instead(Reply(400, b'{"error":"the input length exceeds the context length"}'))
    done = desk.run(*through(MODEL, "--", codex, *ONCE, "first"))
    far.instead()

    assert done.returncode == 1, done
    assert "ran out of room" in done.stderr
    goes_on_after_compacting(desk, codex)


def test_a_window_that_is_nearly_full_is_compacted_before_it_is_too_small(desk: Desk, codex: str) -> None:
    """By the window that it was told, and by the tokens that each answer counts at its end."""
    usual = obedient("fo")
    desk.estate.fo.script = lambda asked: attrs.evolve(usual(asked), usage={"prompt_eval_count": 64_000})
    desk.run(*through(MODEL, "--", codex, *ONCE, "first"))
    desk.estate.fo.script = usual

    goes_on_after_compacting(desk, codex)


def goes_on_after_compacting(desk: Desk, codex: str) -> None:
    asked = len(desk.estate.fo.asked)
    done = desk.run(*through(MODEL, "--", codex, *ONCE, "resume", "--last", "second"))
    compacting, going_on = [seen.body.decode() for seen in desk.estate.fo.asked[asked:]]

    assert done.returncode == 0, done
    assert done.stdout.rstrip().endswith("second")
    assert "CONTEXT CHECKPOINT COMPACTION" in compacting
    assert "second" in going_on


def test_through_the_front_to_a_model_and_to_anthropic(desk: Desk, codex: str) -> None:
    """The caller's credential goes to Anthropic, in its own place, and nowhere else."""
    here = desk.run(*through("--", codex, *ONCE, "-m", MODEL, "hello"))
    there = desk.run(*through("--", codex, *ONCE, "-m", "claude-sonnet-4-5", "hello"))
    [asked] = desk.estate.fa.asked

    assert "fo said" in here.stdout, here
    assert "fa said" in there.stdout, there
    assert asked.headers["x-api-key"] == REAL_KEY
    assert "authorization" not in asked.headers
    assert json.loads(asked.body)["model"] == "claude-sonnet-4-5"
    assert REAL_KEY not in str([(seen.headers, seen.body) for seen in desk.estate.fo.asked])
    assert [row["route"] for row in desk.estate.usage()[-2:]] == [f"front>{MODEL}", "front>anthropic"]


def test_by_a_profile_and_an_access_token(desk: Desk, codex: str) -> None:
    """The file names the variable of the token; whoever has it is served, and nobody else."""
    house = desk.estate.house
    token = house.tell("tokens", "add", "me", "--json")["token"]
    assert house.command("config", "set", "require_token", "true").returncode == 0
    home = desk.folder / "codex"
    home.mkdir()
    try:
        printed = desk.run("proxyctl", "env", MODEL, "--port", "0", "--for", "codex")
        (home / "local.config.toml").write_text(printed.stdout)
        words = (codex, "--profile", "local", *ONCE, "hello")
        done = desk.run(*words, MODELPROXY_TOKEN=token, CODEX_HOME=str(home))
        refused = desk.run(*words, MODELPROXY_TOKEN="mp-wrong", CODEX_HOME=str(home))
    finally:
        house.command("config", "unset", "require_token")

    assert token not in printed.stdout
    assert "fo said" in done.stdout, done
    assert refused.returncode == 1, refused
    assert "proxyctl tokens" in refused.stderr
