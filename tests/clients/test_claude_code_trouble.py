"""The real Claude Code when something goes wrong: providers, workers, supervisors and people who have waited enough."""

from __future__ import annotations

import signal
import threading

import attrs
import pytest
from e2e.providers import held
from fakes.upstream import Reply

from .conftest import MODEL, ROUTED, Desk, document, through
from .dialogue import Far, call, obedient, send, streamed

pytestmark = [pytest.mark.slow, pytest.mark.clients]

NDJSON = (("content-type", "application/x-ndjson"),)


@pytest.mark.parametrize(
    "trouble",
    [
        Reply(503, b'{"error":"server busy"}'),
        Reply(500, b'{"error":"boom"}'),
        Reply(body=b'{"message":{"role":"assistant","content":"half an"},"done":false}\n', headers=NDJSON),
    ],
    ids=["busy", "broken", "cut"],
)
def test_a_provider_that_fails_once_is_asked_again(desk: Desk, claude: str, trouble: Reply) -> None:
    far = desk.estate.fo
    far.instead(trouble, streamed(far, "hello"))
    done = desk.run(*through(MODEL, "--", claude, "-p", "hello"))

    assert (done.returncode, done.stdout.strip()) == (0, "fo said: hello"), done
    assert len(far.asked) == 2


@pytest.mark.parametrize("target", [MODEL, ROUTED, "front"])
def test_an_answer_that_never_ends_is_none(desk: Desk, claude: str, target: str) -> None:
    """Each time the connection ends behind a whole call, before the answer says that it is over.

    Then nothing is called and nothing is shown as an answer; Claude Code asks again, and in the end says why.
    """
    fars: dict[str, Far] = {MODEL: desk.estate.fo, ROUTED: desk.estate.fr, "front": desk.estate.fa}
    far = fars[target]
    order = "go" + call("Bash", command="touch made.txt", description="x")
    whole = streamed(far, order)
    assert isinstance(whole.body, tuple)
    begun = whole.body[: {MODEL: -1, ROUTED: -3, "front": -3}[target]]
    far.instead(attrs.evolve(whole, cut_after=held(begun)))
    words = ("--", claude, "--allowedTools", "Bash", "--output-format", "json", "-p", order)
    proxies = () if target == "front" else (target,)
    done = desk.run(*through(*proxies, *words), CLAUDE_CODE_MAX_RETRIES="1")
    said = document(done.stdout)

    assert (done.returncode, said["is_error"]) == (1, True), done
    assert "API Error: " in said["result"]
    assert " said: " not in said["result"]
    assert not (desk.folder / "made.txt").exists()
    assert len(far.asked) > 1
    assert {row["status"] for row in desk.estate.usage()[-len(far.asked) :]} == {500}


def test_a_conversation_that_is_too_long_is_compacted_and_goes_on(desk: Desk, claude: str) -> None:
    """By the words of our error: Claude Code knows them."""
    far = desk.estate.fo
    more = through(MODEL, "--", claude, "-c", "--output-format", "stream-json", "--verbose", "-p")
    desk.run(*through(MODEL, "--", claude, "-p", "first"))
    desk.run(*more, "second")
    far.instead(
        Reply(400, b'{"error":"the input length exceeds the context length"}'), streamed(far, "third")
    )
    done = desk.run(*more, "third")

    assert '"subtype":"compact_boundary"' in done.stdout, done
    assert document(done.stdout.splitlines()[-1])["result"].startswith("fo said: third")


def test_a_window_that_is_nearly_full_is_compacted_before_it_is_too_small(desk: Desk, claude: str) -> None:
    """By the window that it was told, and by the tokens that each answer counts at its end."""
    if desk.run(claude, "--version").stdout.startswith("2.1.197"):
        pytest.skip("this one waits for the error")
    usual = obedient("fo")
    desk.estate.fo.script = lambda asked: attrs.evolve(usual(asked), usage={"prompt_eval_count": 64_000})
    desk.run(*through(MODEL, "--", claude, "-p", "first"))
    desk.estate.fo.script = usual
    words = ("-c", "--output-format", "stream-json", "--verbose", "-p", "second")
    done = desk.run(*through(MODEL, "--", claude, *words))

    assert '"subtype":"compact_boundary"' in done.stdout, done
    assert document(done.stdout.splitlines()[-1])["result"].endswith("second")


@pytest.mark.parametrize("end", ["kill", "restart", "daemon restart", "kill the supervisor"])
def test_a_worker_that_goes_in_mid_stream(desk: Desk, claude: str, end: str) -> None:
    """One that is killed: Claude Code asks again. One that is replaced finishes what it has begun."""
    house, far, gate = desk.estate.house, desk.estate.fo, threading.Semaphore(0)
    far.instead(attrs.evolve(streamed(far, "hello"), gate=gate), streamed(far, "hello"))
    with desk.running(*through(MODEL, "--", claude, "-p", "hello")) as process:
        far.wait_for_requests(1, limit=60, path=far.chat)
        gate.release()
        house.wait_tally(lambda row: row["in_flight"] == 1, MODEL)
        if end == "kill":
            house.kill_worker(house.row(MODEL)["pid"])
        elif end == "kill the supervisor":
            house.kill_supervisor()
        else:
            assert house.command(*end.split(), *([MODEL] if end == "restart" else [])).returncode == 0
        for _ in range(9):
            gate.release()
        out, err = process.communicate(timeout=90)
    if end == "kill the supervisor":
        house.start()

    assert (process.returncode, out.strip()) == (0, "fo said: hello"), err
    assert len(far.asked) == (2 if end == "kill" else 1)


def test_a_sub_agents_worker_that_is_killed(desk: Desk, claude: str) -> None:
    """It asks again, and the front still knows whose request it is; the session notices nothing."""
    house, far, gate = desk.estate.house, desk.estate.fo, threading.Semaphore(0)
    desk.employ("code-reviewer")
    far.instead(attrs.evolve(streamed(far, "as it"), gate=gate), streamed(far, "as it"))
    order = f"go{send('code-reviewer', 'as it')}"
    with desk.running(*through("--", claude, "--allowedTools", "Agent", "-p", order)) as process:
        far.wait_for_requests(1, limit=60, path=far.chat)
        gate.release()
        house.wait_tally(lambda row: row["in_flight"] == 1, MODEL)
        house.kill_worker(house.row(MODEL)["pid"])
        out, err = process.communicate(timeout=90)

    assert process.returncode == 0, err
    assert "fo said: as it" in out
    assert len(far.asked) == 2
    assert ("front>ollama/codellama", "code-reviewer") in desk.routes(2)


def test_sub_agents_at_once_wait_for_a_model_that_takes_one_at_a_time(desk: Desk, claude: str) -> None:
    """Nobody is refused, nobody gives up, and the model is asked by one after the other."""
    house, far, gate = desk.estate.house, desk.estate.fo, threading.Semaphore(0)
    desk.employ("code-reviewer")
    far.instead(attrs.evolve(streamed(far, "part 0"), gate=gate))
    order = "go" + "".join(send("code-reviewer", f"part {number}") for number in (1, 2, 3))
    assert house.command("config", "set", f'proxies."{MODEL}".max_concurrent', "1").returncode == 0
    try:
        with desk.running(*through("--", claude, "--allowedTools", "Agent", "-p", order)) as process:
            far.wait_for_requests(1, limit=60, path=far.chat)
            house.wait_tally(lambda row: row["waiting"] == 2, MODEL)
            first = len(far.asked)
            far.instead()
            for _ in range(9):
                gate.release()
            out, err = process.communicate(timeout=90)
    finally:
        house.command("config", "unset", f'proxies."{MODEL}"')

    assert process.returncode == 0, err
    assert out.count("fo said: part ") == 3, out
    assert (first, len(far.asked)) == (1, 3)


def test_whoever_interrupts_it_frees_the_provider(desk: Desk, claude: str) -> None:
    """The answer is not wanted any more: its stream ends at the provider, and the proxy goes with its user."""
    house, far = desk.estate.house, desk.estate.fo
    far.instead(attrs.evolve(streamed(far, "hello"), hang_after=1))
    with desk.running(*through(MODEL, "--", claude, "-p", "hello")) as process:
        far.wait_for_requests(1, limit=60, path=far.chat)
        process.send_signal(signal.SIGINT)
        far.wait_for_close(far.asked[0].connection, limit=30)
        out, err = process.communicate(timeout=60)

    assert "said" not in out, err
    assert desk.estate.usage()[-1]["status"] == 499
    assert MODEL not in [row["name"] for row in house.ps()]
