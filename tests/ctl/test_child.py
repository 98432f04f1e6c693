"""A command that must not notice us: its signals, its terminal, its end."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from modelproxy.ctl import child

US = "import os, sys; from modelproxy.ctl import child; sys.exit(child.run(sys.argv[1:], os.environ))"
LIMIT_S = 20.0


def ours(*command: str) -> list[str]:
    """`child.run` in a process of its own."""
    return [sys.executable, "-P", "-c", US, *command]


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137), ("kill -INT $$", 130)],
)
def test_the_exit_code_is_the_commands(script: str, code: int) -> None:
    assert child.run(["sh", "-c", script], os.environ) == code


def test_arguments_environment_and_descriptors_arrive(tmp_path: Path) -> None:
    """Also a descriptor that was left open for it."""
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    script = f'printf "%s|" "$X" "$@" >&{writer}'
    arguments = ["bash", "-c", script, "sh", "a b", "", "--json", "-- é"]
    assert child.run(arguments, {**os.environ, "X": "1 2"}) == 0
    os.close(writer)
    with os.fdopen(reader) as file:
        assert file.read() == "1 2|a b||--json|-- é|"


def test_a_command_that_cannot_run_is_told_like_a_shell_does(tmp_path: Path) -> None:
    """Before and when it is started."""
    plain = tmp_path / "plain"
    plain.write_text("x")
    empty = tmp_path / "empty"
    empty.write_text("")
    empty.chmod(0o755)
    for program, code in (
        ("no-such-thing", 127),
        (str(plain), 126),
        (str(tmp_path / "no"), 127),
        (str(tmp_path), 126),
    ):
        with pytest.raises(child.NotRunnableError) as refused:
            child.check([program])
        assert refused.value.code == code
    assert str(refused.value).endswith("it is a folder")
    child.check(["sh"])
    handlers = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    for program in (str(empty), "x\0y"):
        with pytest.raises(child.NotRunnableError) as refused:
            child.run([program], os.environ)
        assert refused.value.code == 126
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_that_was_sent_to_us_reaches_it(signum: signal.Signals) -> None:
    """Without a terminal nobody else would tell it. It decides what that means."""
    name = signum.name.removeprefix("SIG")
    script = f"trap 'echo got; exit 5' {name}; echo on; while :; do sleep 0.02; done"
    with subprocess.Popen(
        ours("sh", "-c", script), stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "on\n"
        process.send_signal(signum)
        try:
            said, _ = process.communicate(timeout=LIMIT_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the command too, which would run for ever

    assert (said, process.returncode) == ("got\n", 5)


def test_what_was_ignored_stays_ignored() -> None:
    """As under nohup."""
    line = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *ours("sh", "-c", "kill -HUP $$; echo alive")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=LIMIT_S, check=False)

    assert (done.stdout, done.returncode) == ("alive\n", 0)


# --- at a terminal --------------------------------------------------------------------------------------


@attrs.define
class Terminal:
    """A shell with job control at a terminal of its own."""

    pid: int
    fd: int
    seen: str = ""

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def until(self, word: str) -> str:
        """What has come up to and with `word`; later calls go on behind it."""
        end = time.monotonic() + LIMIT_S
        while word not in self.seen:
            ready, _, _ = select.select([self.fd], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"no {word!r} in {self.seen!r}"
            try:
                self.seen += os.read(self.fd, 4096).decode(errors="replace")
            except OSError:
                raise AssertionError(f"it ended before {word!r}: {self.seen!r}") from None
        before, _, self.seen = self.seen.partition(word)
        return before + word


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    pid, fd = pty.fork()
    if pid == 0:
        os.environ["PS1"] = ""
        os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
    shell = Terminal(pid, fd)
    try:
        shell.type("stty -echo; echo rea''dy\n")
        shell.until("ready")
        yield shell
    finally:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
        os.close(fd)
        os.waitpid(pid, 0)


SCRIPT = """
import signal, sys, os
hits = []
signal.signal(signal.SIGINT, lambda *_: (hits.append(1), print("hits", len(hits), flush=True)))
signal.signal(signal.SIGCONT, lambda *_: print("goes on", flush=True))
print("owner", os.tcgetpgrp(0) == os.getpgrp(), sys.stdin.isatty(), flush=True)
while True:
    try:
        line = sys.stdin.readline()
    except OSError:
        continue
    if line == "quit\\n":
        sys.exit(9)
    print("said", line.strip(), flush=True)
"""


@pytest.mark.slow
def test_the_terminal_is_the_commands(terminal: Terminal, tmp_path: Path) -> None:
    """Ctrl-C arrives once, Ctrl-Z stops the job for the shell, fg goes on, and the shell sees its exit code."""
    (tmp_path / "us.py").write_text(US)
    (tmp_path / "it.py").write_text(SCRIPT)
    terminal.type(
        f"{sys.executable} -P {tmp_path}/us.py {sys.executable} -u {tmp_path}/it.py; echo code $?\n"
    )
    terminal.until("owner True True")

    terminal.type("\x03")
    terminal.until("hits 1")
    terminal.type("hello\n")
    assert "hits 2" not in terminal.until("said hello")

    terminal.type("\x1a")
    terminal.until("Stopped")
    terminal.until("code 1")  # 148: of a job that was stopped
    terminal.type("jobs; echo li''st\n")
    assert "Stopped" in terminal.until("list")

    terminal.type("fg; echo code $?\n")
    terminal.until("goes on")  # what is typed before may be the shell's
    terminal.type("again\n")
    terminal.until("said again")
    terminal.type("quit\n")
    terminal.until("code 9")


@pytest.mark.slow
def test_a_command_that_stops_itself_stops_the_job(terminal: Terminal, tmp_path: Path) -> None:
    """As an agent in raw mode does at Ctrl-Z: it alone is stopped by its own doing."""
    (tmp_path / "us.py").write_text(US)
    script = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP); print('back', flush=True)"
    (tmp_path / "it.py").write_text(script)
    terminal.type(f"{sys.executable} -P {tmp_path}/us.py {sys.executable} -u {tmp_path}/it.py\n")
    terminal.until("Stopped")
    terminal.type("fg; echo code $?\n")
    terminal.until("back")
    terminal.until("code 0")


@pytest.mark.slow
def test_who_continues_us_continues_the_command(terminal: Terminal, tmp_path: Path) -> None:
    """Also one who knows of us alone, not of the group."""
    (tmp_path / "us.py").write_text(US)
    script = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP); print('ba' + 'ck', flush=True)"
    (tmp_path / "it.py").write_text(script)
    wait = "until jobs | grep -q Stopped; do sleep 0.05; done; kill -CONT $!"
    terminal.type(f"{sys.executable} -P {tmp_path}/us.py {sys.executable} -u {tmp_path}/it.py & {wait}\n")
    terminal.until("back")


@pytest.mark.slow
def test_a_shell_may_run_inside(terminal: Terminal, tmp_path: Path) -> None:
    """It takes the terminal for groups of its own, and gives it back."""
    (tmp_path / "us.py").write_text(US)
    terminal.type(
        f"PS1='in> ' {sys.executable} -P {tmp_path}/us.py bash --norc --noprofile -i; echo code $?\n"
    )
    terminal.until("in> ")
    terminal.type("sh -c 'echo sl''eeps; exec sleep 60'\n")
    terminal.until("sleeps")
    terminal.type("\x03")
    terminal.until("in> ")
    terminal.type("echo inner $?\n")
    terminal.until("inner 130")
    terminal.type("exit 6\n")
    terminal.until("code 6")
