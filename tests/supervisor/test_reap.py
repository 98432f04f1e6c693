"""After a stop: who is ended, and who is left alone."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.systemd import Systemctl

from modelproxy.supervisor import kernel, paths, reap, state
from modelproxy.worker.contract import WorkerSpec

UNIT = "modelproxy.service"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="where systemd is")


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Systemctl:
    for variable, folder in (("RUNTIME_DIR", "run"), ("STATE_HOME", "state"), ("CONFIG_HOME", "config")):
        monkeypatch.setenv(f"XDG_{variable}", str(tmp_path / folder))
    monkeypatch.setenv("SERVICE_RESULT", "timeout")
    made = Systemctl(tmp_path)
    monkeypatch.setenv("PATH", made.path)
    return made


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def put_on_record(worker: subprocess.Popen[bytes], *, started: int = 0) -> None:
    """As its supervisor has left it; `started` falsifies its identity."""
    spec = WorkerSpec("echo/demo", "echo/demo", "echo", "echo", "demo", 3457)
    begun = (kernel.start_time(worker.pid) or 0) + started
    one = state.WorkerRecord(1, worker.pid, begun, kernel.boot_id(), "token")
    proxy = state.ProxyRecord("echo/demo", True, "ready", 3457, spec, 1, 0, False, [one])
    found = paths.find()
    paths.prepare(found)
    state.save(found.state_file, state.Saved(state.DaemonRecord(1, 1.0), [proxy]))


def test_after_a_stop_what_is_left_is_ended(
    systemctl: Systemctl, worker: subprocess.Popen[bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    """Also one that stands still."""
    put_on_record(worker)
    worker.send_signal(signal.SIGSTOP)
    systemctl.answers("list-jobs", f"1 {UNIT} stop running\n")

    assert reap.main(["--unit", UNIT]) == 0
    assert worker.wait(10) is not None
    assert capfd.readouterr().err == "workers that the supervisor had left behind, ended: 1\n"


def test_one_that_does_not_heed_sigterm_is_killed(
    systemctl: Systemctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reap, "_GRACE_S", 0.05)
    deaf = (
        "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-S", "-c", deaf], stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        put_on_record(worker)
        systemctl.answers("list-jobs", f"1 {UNIT} stop running\n")
        reap.main(["--unit", UNIT])

        assert worker.wait(10) == -signal.SIGKILL


@pytest.mark.parametrize("job", ["restart", "start", ""])
def test_without_a_stop_workers_serve_on(
    systemctl: Systemctl, worker: subprocess.Popen[bytes], job: str
) -> None:
    """After a crash, and at a restart."""
    put_on_record(worker)
    systemctl.answers("list-jobs", f"1 {UNIT} {job} running\n" if job else "")

    assert reap.main(["--unit", UNIT]) == 0
    assert worker.poll() is None


@pytest.mark.parametrize("hook", ["exit 1", "exec sleep 60"])
def test_a_manager_that_does_not_answer_means_no_stop(
    systemctl: Systemctl, worker: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, hook: str
) -> None:
    """Better a worker too many than a stream cut for nothing."""
    monkeypatch.setattr(reap, "_ANSWER_LIMIT_S", 0.2)
    put_on_record(worker)
    systemctl.answers("list-jobs", f"1 {UNIT} stop running\n", hook=hook)

    assert reap.main(["--unit", UNIT]) == 0
    assert worker.poll() is None


def test_without_a_stop_nothing_is_imported_that_takes_time(systemctl: Systemctl) -> None:
    """After a crash the next supervisor waits for it to end."""
    begin = "import sys; from modelproxy.supervisor import reap"
    line = f"{begin}; reap.main(['--unit', 'x']); print('trio' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", line], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"


def test_a_stranger_with_the_same_number_is_left_alone(
    systemctl: Systemctl, worker: subprocess.Popen[bytes]
) -> None:
    put_on_record(worker, started=1)
    systemctl.answers("list-jobs", f"1 {UNIT} stop running\n")

    assert reap.main(["--unit", UNIT]) == 0
    assert worker.poll() is None


def test_after_an_orderly_end_nobody_is_asked(systemctl: Systemctl, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would cost every stop and restart the time that systemctl takes."""
    monkeypatch.setenv("SERVICE_RESULT", "success")

    assert reap.main(["--unit", UNIT]) == 0
    assert systemctl.asked == []


def test_with_nothing_on_record_there_is_nothing_to_do(systemctl: Systemctl) -> None:
    systemctl.answers("list-jobs", f"1 {UNIT} stop running\n")

    assert reap.main(["--unit", UNIT]) == 0
